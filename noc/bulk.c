/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bulk transfers: offered, accepted, streamed in chunks through the receiver's cells.
 *
 *   sender                         receiver
 *     | OFFER (in sequence) ---------> |   message() of the port; kept until somebody wants it
 *     | <------- ACCEPT (wanted <= len)|   noc_bulk_accept()
 *     | CHUNK, CHUNK, ... -----------> |   both sides copy at the same time: a pipelined double copy
 *     | <-------------------- FIN      |   over the network only: in memory what is published will be read
 *
 * Records of both sides are in the user area; a move of either finds them again. Words about a transfer are messages of
 * the channel, so they are neither lost nor repeated; chunks are not, and those that were sent over the network may be lost
 * with its path. Then the sender stops and asks:
 *
 *     | RESUME ----------------------> |
 *     | <--- ACCEPT (from this offset) |   or FIN: all of it is here
 *
 * A transfer is known by the number of its OFFER in the channel, which is never used again. Of a chunk counts only what
 * continues what is there, so one that comes late or twice is harmless: it would bring the same bytes.
 */
#include <stdlib.h>

#include "noc/copy.h"
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
			noc_copy_in((char *)iov[i].iov_base + offset, buf, n);
		else
			noc_copy_out(buf, (char *)iov[i].iov_base + offset, n);
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
	gw_list_remove(&o->link);
	noc_table_remove(&noc_me->outs, o->id);
	ct_area_free(o->iov, o->iovs * sizeof(*o->iov));
	ct_area_free(o, sizeof(*o));
	noc_me->outs_alive--;
}

int noc_bulk_offer(struct noc_peer *p, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov,
                   size_t iovs, uint64_t len, void *context)
{
	struct noc_bulk_out *o = ct_area_zalloc(sizeof(*o));
	struct noc_pending m = { .kind = NOC_KIND_OFFER, .port = (uint8_t)port, .tag = tag, .data = data,
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
	o->transfer = m.seq; /* nobody has asked for it yet: answers are read by noc_poll() */
	noc_me->counters.sent++;
	noc_me->counters.bytes.sent_bytes += len;
	p->sent_bytes += len;
	return 0;
}

/* ACCEPT, FIN, RESUME */
static int bulk_post(struct noc_peer *p, enum noc_kind kind, uint8_t port, uint32_t id, uint32_t peer_id, uint64_t transfer,
                     uint64_t len, uint64_t offset)
{
	struct noc_pending m = { .kind = (uint8_t)kind, .port = port, .id = id, .peer_id = peer_id, .tag = transfer, .len = len,
	                         .offset = offset };
	int rc = noc_peer_post(p, &m);

	if (rc == -EAGAIN) { /* not even the reserve: nothing that can be put off, and losing it would hang both */
		gw_log(GW_ERROR, "noc: out of user area for a word about a transfer with process %u", p->proc);
		abort();
	}
	return rc;
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
	rc = bulk_post(b->peer, NOC_KIND_ACCEPT, b->port, b->peer_id, b->id, b->transfer, b->wanted, 0);
	if (rc) {
		ct_area_free(b->iov, b->iovs * sizeof(*b->iov));
		b->iov = NULL;
		b->iovs = 0;
		b->is_accepted = false;
		return rc;
	}
	if (b->wanted == 0)
		in_done(b);
	return 0;
}

struct noc_bulk *noc_bulk_offered(const struct noc_bulk_word *w)
{
	struct noc_bulk *b = ct_area_zalloc(sizeof(*b));

	if (b)
		b->id = noc_table_add(&noc_me->ins, b);
	if (!b || b->id == UINT32_MAX) {
		gw_log(GW_ERROR, "noc: out of user area for an offer of %llu bytes from process %u", (unsigned long long)w->len,
		       w->peer->proc);
		abort();
	}
	b->peer = w->peer;
	b->peer_id = w->id;
	b->port = w->port;
	b->transfer = w->transfer;
	b->len = w->len;
	return b;
}

/* ---- words about a transfer ------------------------------------------------------------------------------------ */

static struct noc_bulk *in_find(const struct noc_bulk_word *w, uint32_t id)
{
	struct noc_bulk *b = noc_table_get(&noc_me->ins, id);

	return b && b->peer == w->peer && b->transfer == w->transfer ? b : NULL;
}

static struct noc_bulk_out *out_find(const struct noc_bulk_word *w)
{
	struct noc_bulk_out *o = noc_table_get(&noc_me->outs, w->id);

	return o && o->peer == w->peer && o->transfer == w->transfer ? o : NULL;
}

static void on_chunk(const struct noc_bulk_word *w, enum noc_path path)
{
	struct noc_bulk *b = in_find(w, w->id);
	uint64_t skip;

	noc_me->counters.bytes.received_bytes += w->len;
	if (!b || !b->is_accepted || w->offset > b->done || w->len > b->wanted - w->offset || w->offset + w->len <= b->done)
		return; /* late, or from before another start: what it brings is here already */
	/*
	 * It may begin before what is here ends. The sender came by, said RESUME in memory, and left before it was read; then
	 * chunks of its old connection were read after RESUME was answered with an earlier offset. The second start cuts other
	 * chunks, so it need not begin one just where the first ended.
	 */
	skip = b->done - w->offset;
	iov_copy(b->iov, b->iovs, b->done, (unsigned char *)(uintptr_t)w->bytes + skip, w->len - skip, true);
	b->done = w->offset + w->len;
	b->is_by_net |= path == NOC_PATH_NET;
	if (b->done < b->wanted)
		return;
	if (b->is_by_net)
		bulk_post(b->peer, NOC_KIND_FIN, b->port, b->peer_id, b->id, b->transfer, 0, 0);
	in_done(b);
}

static void out_done(struct noc_bulk_out *o, int status)
{
	void *context = o->context;
	uint8_t port = o->port;

	out_free(o);
	if (context)
		noc_me->ports[port]->sent(context, status);
}

static void on_accept(const struct noc_bulk_word *w)
{
	struct noc_bulk_out *o = out_find(w);

	if (!o || w->len > o->len || w->offset > w->len) {
		gw_log(GW_ERROR, "noc: process %u wants %llu bytes from %llu on of what was not offered", w->peer->proc,
		       (unsigned long long)w->len, (unsigned long long)w->offset);
		return;
	}
	o->peer_id = w->peer_id;
	o->wanted = w->len;
	o->done = w->offset;
	o->is_by_net = o->is_standing = false;
	gw_list_remove(&o->link);
	if (o->done == o->wanted)
		out_done(o, 0);
	else
		gw_list_append(&noc_me->streaming, &o->link);
}

static void on_resume(const struct noc_bulk_word *w)
{
	struct noc_bulk *b = in_find(w, w->peer_id);

	if (b)
		bulk_post(w->peer, NOC_KIND_ACCEPT, b->port, b->peer_id, b->id, b->transfer, b->wanted, b->done);
	else
		bulk_post(w->peer, NOC_KIND_FIN, w->port, w->id, w->peer_id, w->transfer, 0, 0);
}

void noc_bulk_arrived(const struct noc_bulk_word *w, enum noc_path path)
{
	struct noc_bulk_out *o;

	switch (w->kind) {
	case NOC_KIND_CHUNK:
		on_chunk(w, path);
		break;
	case NOC_KIND_ACCEPT:
		on_accept(w);
		break;
	case NOC_KIND_RESUME:
		on_resume(w);
		break;
	case NOC_KIND_FIN:
		o = out_find(w); /* it may have ended without: after RESUME the rest went by memory */
		if (o)
			out_done(o, 0);
		break;
	default:
		gw_log(GW_ERROR, "noc: process %u sends a word of kind %u, which is unknown here", w->peer->proc, w->kind);
	}
}

void noc_bulk_path_lost(struct noc_peer *p)
{
	for (uint32_t i = 0; i < noc_me->outs.size; i++) {
		struct noc_bulk_out *o = noc_table_get(&noc_me->outs, i);

		if (!o || o->peer != p || !o->is_by_net || o->is_standing)
			continue;
		gw_list_remove(&o->link);
		o->is_standing = true;
		bulk_post(p, NOC_KIND_RESUME, o->port, o->id, o->peer_id, o->transfer, 0, 0);
	}
}

bool noc_bulk_is_busy(const struct noc_peer *p)
{
	for (uint32_t i = 0; i < noc_me->outs.size; i++) {
		const struct noc_bulk_out *o = noc_table_get(&noc_me->outs, i);

		if (o && o->peer == p && (o->is_by_net || o->is_standing || !gw_list_is_empty(&o->link)))
			return true;
	}
	for (uint32_t i = 0; i < noc_me->ins.size; i++) {
		const struct noc_bulk *b = noc_table_get(&noc_me->ins, i);

		if (b && b->peer == p && b->is_accepted)
			return true;
	}
	return false;
}

/* ---- streaming ------------------------------------------------------------------------------------------------- */

static int push_by_memory(struct noc_bulk_out *o)
{
	struct noc_inbox *in = noc_inbox_at(&noc_me->seg, o->peer->proc);
	uint64_t len = o->wanted - o->done;
	struct noc_slot *s;
	int cell;

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
	s->tag = o->transfer;
	s->len = len;
	s->bulk.id = o->peer_id;
	s->bulk.offset = o->done;
	noc_inbox_publish(in, noc_me->proc, s);
	o->done += len;
	return 0;
}

/* The pieces of @o's buffer that hold [done, done + len). Return their number; *len shrinks when @max is too few. */
static size_t iov_slice(const struct noc_bulk_out *o, uint64_t *len, struct iovec *out, size_t max)
{
	uint64_t skip = o->done, left = *len;
	size_t n = 0;

	for (uint32_t i = 0; i < o->iovs && left && n < max; i++) {
		uint64_t part;

		if (skip >= o->iov[i].iov_len) {
			skip -= o->iov[i].iov_len;
			continue;
		}
		part = o->iov[i].iov_len - skip < left ? o->iov[i].iov_len - skip : left;
		out[n++] = (struct iovec){ (char *)o->iov[i].iov_base + skip, part };
		left -= part;
		skip = 0;
	}
	*len -= left;
	return n;
}

static int push_by_net(struct noc_bulk_out *o)
{
	struct noc_bulk_word w = { .peer = o->peer, .kind = NOC_KIND_CHUNK, .port = o->port, .id = o->peer_id, .transfer = o->transfer,
	                           .len = o->wanted - o->done, .offset = o->done };
	struct iovec iov[3];
	size_t n;
	int rc;

	if (w.len > NOC_FRAME_BYTES)
		w.len = NOC_FRAME_BYTES;
	n = iov_slice(o, &w.len, iov, GW_ARRAY_LEN(iov));
	rc = noc_path_chunk(&w, iov, n);
	if (rc)
		return rc;
	o->done += w.len;
	o->is_by_net = true;
	return 0;
}

int noc_bulk_push(void)
{
	int n = 0;

	gw_list_for_safe(l, &noc_me->streaming) {
		struct noc_bulk_out *o = gw_list_entry(l, struct noc_bulk_out, link);
		int path = noc_path_of(o->peer), rc = path < 0 ? path : 0;
		uint64_t word;

		/* Gone for good: but its last words, FIN among them, may lie in our inbox behind what this poll has read. */
		if (GW_UNLIKELY(rc == -EHOSTUNREACH) && noc_inbox_peek(noc_me->inbox, noc_me->head, &word))
			return n + 1;
		if (gw_list_is_empty(&o->link))
			break; /* another path was taken: it stands now, and so may the next in the list */
		while (rc == 0 && n < CHUNKS_PER_TURN && o->done < o->wanted) {
			rc = path == NOC_PATH_NET ? push_by_net(o) : push_by_memory(o);
			n += rc == 0;
		}
		if (rc == -EHOSTUNREACH)
			out_done(o, rc);
		else if (o->done == o->wanted && !o->is_by_net)
			out_done(o, 0);
		else if (o->done == o->wanted)
			gw_list_remove(&o->link); /* until FIN */
		if (n >= CHUNKS_PER_TURN)
			break;
	}
	return n;
}
