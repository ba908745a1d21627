/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bulk transfers: offered, accepted, streamed in chunks through the receiver's cells.
 *
 *   sender                         receiver
 *     | OFFER (in sequence) ---------> |   message() of the port; kept until somebody wants it
 *     | <------- ACCEPT (wanted <= len)|   noc_bulk_accept()
 *     | CHUNK, CHUNK, ... -----------> |   both sides copy at the same time: a pipelined double copy
 *
 * Records of both sides are in the user area; a move of either finds them again, and what had been published in the
 * receiver's inbox has been read before it left.
 */
#include <stdlib.h>

#include "noc/local.h"

#define CHUNKS_PER_TURN 8 /* then leave the gate, so that the agent never waits long (rule 9) */

uint32_t noc_table_add(struct noc_table *t, void *p)
{
	uint32_t id;

	if (!t->free) { /* entries of the free list hold (index + 1) << 1 | 1 of the next one */
		uint32_t size = t->size ? t->size * 2 : 16;
		void **slots = ct_area_alloc(size * sizeof(*slots));

		if (!slots)
			return UINT32_MAX;
		if (t->size)
			memcpy(slots, t->slots, t->size * sizeof(*slots));
		for (uint32_t i = t->size; i < size; i++)
			slots[i] = (void *)((uintptr_t)(i + 1 < size ? i + 2 : 0) << 1 | 1);
		ct_area_free(t->slots, t->size * sizeof(*slots));
		t->slots = slots;
		t->free = t->size + 1;
		t->size = size;
	}
	id = t->free - 1;
	t->free = (uint32_t)((uintptr_t)t->slots[id] >> 1);
	t->slots[id] = p;
	return id;
}

void *noc_table_get(const struct noc_table *t, uint32_t id)
{
	return id < t->size && !((uintptr_t)t->slots[id] & 1) ? t->slots[id] : NULL;
}

void noc_table_remove(struct noc_table *t, uint32_t id)
{
	t->slots[id] = (void *)((uintptr_t)t->free << 1 | 1);
	t->free = id + 1;
}

/* Copy @len bytes between @buf and the iov from @offset on. */
static void iov_copy(const struct iovec *iov, uint32_t iovs, uint64_t offset, unsigned char *buf, size_t len, bool is_in)
{
	for (uint32_t i = 0; i < iovs && len; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = iov[i].iov_len - offset;
		if (n > len)
			n = len;
		if (is_in)
			memcpy((char *)iov[i].iov_base + offset, buf, n);
		else
			memcpy(buf, (char *)iov[i].iov_base + offset, n);
		buf += n;
		len -= n;
		offset = 0;
	}
}

static struct iovec *iov_dup(const struct iovec *iov, size_t iovs)
{
	struct iovec *copy = ct_area_alloc(iovs * sizeof(*iov));

	if (copy)
		memcpy(copy, iov, iovs * sizeof(*iov));
	return copy;
}

static void out_free(struct noc_bulk_out *o)
{
	noc_table_remove(&noc_me->outs, o->id);
	ct_area_free(o->iov, o->iovs * sizeof(*o->iov));
	ct_area_free(o, sizeof(*o));
	noc_me->outs_alive--;
}

int noc_bulk_offer(struct noc_peer *p, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov,
                   size_t iovs, uint64_t len, void *context)
{
	struct noc_bulk_out *o = ct_area_zalloc(sizeof(*o));
	struct noc_pending m = { .kind = NOC_KIND_OFFER, .port = (uint8_t)port, .seq = p->next_out, .tag = tag, .data = data,
	                         .len = len };
	int rc;

	if (!o)
		return -EAGAIN;
	o->iov = iov_dup(iov, iovs);
	o->id = o->iov ? noc_table_add(&noc_me->outs, o) : UINT32_MAX;
	if (o->id == UINT32_MAX) {
		ct_area_free(o->iov, iovs * sizeof(*iov));
		ct_area_free(o, sizeof(*o));
		return -EAGAIN;
	}
	o->iovs = (uint32_t)iovs;
	o->peer = p;
	o->port = (uint8_t)port;
	o->len = len;
	o->context = context;
	gw_list_init(&o->link);
	m.id = o->id;
	noc_me->outs_alive++;
	rc = noc_peer_post(p, &m);
	if (rc) {
		out_free(o);
		return rc;
	}
	p->next_out++;
	noc_me->counters.sent++;
	noc_me->counters.sent_bytes += len;
	return 0;
}

static void in_done(struct noc_bulk *b)
{
	const struct noc_port_ops *ops = noc_me->ports[b->port];
	void *context = b->context;
	uint64_t len = b->len;

	noc_table_remove(&noc_me->ins, b->id);
	ct_area_free(b->iov, b->iovs * sizeof(*b->iov));
	ct_area_free(b, sizeof(*b));
	ops->received(context, len, 0);
}

int noc_bulk_accept(struct noc_bulk *b, const struct iovec *iov, size_t iovs, void *context)
{
	struct noc_pending m = { .kind = NOC_KIND_ACCEPT, .port = b->port };
	uint64_t room = 0;
	int rc;

	for (size_t i = 0; i < iovs; i++)
		room += iov[i].iov_len;
	b->iov = iovs ? iov_dup(iov, iovs) : NULL;
	if (iovs && !b->iov)
		return -EAGAIN;
	b->iovs = (uint32_t)iovs;
	b->context = context;
	b->wanted = room < b->len ? room : b->len;
	b->is_accepted = true;
	m.id = b->peer_id;
	m.peer_id = b->id;
	m.len = b->wanted;
	rc = noc_peer_post(b->peer, &m);
	if (rc)
		return rc;
	if (b->wanted == 0)
		in_done(b);
	return 0;
}

struct noc_bulk *noc_bulk_offered(struct noc_peer *p, const struct noc_slot *s)
{
	struct noc_bulk *b = ct_area_zalloc(sizeof(*b));

	if (b)
		b->id = noc_table_add(&noc_me->ins, b);
	if (!b || b->id == UINT32_MAX) {
		gw_log(GW_ERROR, "noc: out of user area for an offer of %llu bytes from process %u", (unsigned long long)s->len,
		       s->src);
		abort();
	}
	b->peer = p;
	b->peer_id = s->bulk.id;
	b->port = s->port;
	b->len = s->len;
	return b;
}

static void chunk_arrived(const struct noc_slot *s)
{
	struct noc_bulk *b = noc_table_get(&noc_me->ins, s->bulk.id);
	struct noc_inbox *in = noc_me->inbox;

	if (b && b->is_accepted && b->peer->proc == s->src && s->bulk.offset == b->done && s->len <= b->wanted - b->done) {
		iov_copy(b->iov, b->iovs, b->done, in->cells[s->cell], s->len, true);
		b->done += s->len;
	} else {
		gw_log(GW_ERROR, "noc: a chunk of process %u belongs to no transfer", s->src);
		b = NULL;
	}
	noc_inbox_free_cell(in, s->cell);
	noc_me->counters.received_bytes += s->len;
	if (b && b->done == b->wanted)
		in_done(b);
}

void noc_bulk_arrived(const struct noc_slot *s)
{
	struct noc_bulk_out *o;

	if (s->kind == NOC_KIND_CHUNK) {
		chunk_arrived(s);
		return;
	}
	o = s->kind == NOC_KIND_ACCEPT ? noc_table_get(&noc_me->outs, s->bulk.id) : NULL;
	if (!o || o->peer->proc != s->src || s->len > o->len) {
		gw_log(GW_ERROR, "noc: a message of kind %u from process %u belongs to no transfer", s->kind, s->src);
		return;
	}
	o->peer_id = s->bulk.peer_id;
	o->wanted = s->len;
	if (o->wanted) {
		gw_list_append(&noc_me->streaming, &o->link);
	} else {
		void *context = o->context;
		uint8_t port = o->port;

		out_free(o);
		if (context)
			noc_me->ports[port]->sent(context, 0);
	}
}

/* One chunk of @o into the receiver's inbox; -EAGAIN: no room now. */
static int push_chunk(struct noc_bulk_out *o)
{
	struct noc_inbox *in = noc_inbox_at(&noc_me->seg, o->peer->proc);
	uint32_t open = atomic_load_explicit(&in->open, memory_order_relaxed);
	uint64_t len = o->wanted - o->done;
	struct noc_slot *s;
	int cell;

	if (open != NOC_INBOX_OPEN)
		return open == NOC_INBOX_SHUT ? -EHOSTUNREACH : -EAGAIN;
	cell = noc_inbox_claim_cell(in, noc_me->proc, NOC_CELLS_BULK);
	if (cell < 0) {
		atomic_store_explicit(&in->want_space, noc_me->proc + 1, memory_order_relaxed);
		return -EAGAIN;
	}
	if (len > NOC_CELL_SIZE)
		len = NOC_CELL_SIZE;
	iov_copy(o->iov, o->iovs, o->done, in->cells[cell], len, false);
	if (noc_inbox_claim(in, noc_me->proc, &s)) {
		noc_inbox_free_cell(in, (unsigned)cell);
		return -EAGAIN;
	}
	s->src = noc_me->proc;
	s->kind = NOC_KIND_CHUNK;
	s->port = o->port;
	s->has_cell = 1;
	s->cell = (uint8_t)cell;
	s->len = len;
	s->bulk.id = o->peer_id;
	s->bulk.offset = o->done;
	noc_inbox_publish(in, noc_me->proc, s);
	o->done += len;
	return 0;
}

int noc_bulk_push(void)
{
	int n = 0;

	gw_list_for_safe(l, &noc_me->streaming) {
		struct noc_bulk_out *o = gw_list_entry(l, struct noc_bulk_out, link);
		int rc = 0;

		while (n < CHUNKS_PER_TURN && o->done < o->wanted && (rc = push_chunk(o)) == 0)
			n++;
		if (o->done == o->wanted || rc == -EHOSTUNREACH) {
			void *context = o->context;
			uint8_t port = o->port;

			gw_list_remove(&o->link);
			out_free(o);
			if (context)
				noc_me->ports[port]->sent(context, rc == -EHOSTUNREACH ? rc : 0);
		}
		if (n >= CHUNKS_PER_TURN)
			break;
	}
	return n;
}
