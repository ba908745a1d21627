/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The path of a channel: memory when the peer's inbox on this host is open, the network when its name lives elsewhere,
 * none while it moves. What is exact about a channel over a path that can lose a tail of frames is here.
 *
 *   sent over the network ──► retained ──acknowledged──► forgotten
 *                                │
 *                                └─ path lost, or another path ──► head of the queue, sent again, in order
 *
 * The receiver drops by number what it has. It never sees a gap: whoever begins on a path begins with the first message
 * that was not acknowledged, and what came by memory is read before a new connection is (rule 5). So no message needs to
 * be held back, and it does not matter in which order two paths of one peer are read.
 */
#include <stdlib.h>

#include "noc/local.h"

const struct noc_net_ops *noc_net;

#define ACK_MESSAGES 64u
#define ACK_BYTES    (NOC_WINDOW_BYTES / 4)
#define RETRY_MIN_US 500u
#define RETRY_MAX_US 50000u
#define CALLS_MAX    16u   /* peers that are connected again right after a move */
#define EXPECT_NS    20000000u /* who is under way for longer than that is not waited for in any other way than others */

int noc_frame_parse(const void *buf, size_t size, struct noc_frame *out, const void **payload)
{
	struct noc_frame f;

	if (size < sizeof(f))
		return -EPROTO;
	memcpy(&f, buf, sizeof(f));
	if (f.magic != NOC_FRAME_MAGIC || f.version != NOC_FRAME_VERSION || f.kind < NOC_KIND_EAGER ||
	    f.kind > NOC_KIND_PROOF || f.port >= NOC_PORT_COUNT || f.len_here != size - sizeof(f))
		return -EPROTO;
	if (f.kind == NOC_KIND_EAGER && (f.len != f.len_here || f.len > NOC_EAGER_MAX))
		return -EPROTO;
	if (f.kind == NOC_KIND_CHUNK && (f.len != f.len_here || f.len == 0 || f.len > NOC_FRAME_BYTES))
		return -EPROTO;
	if (f.kind != NOC_KIND_EAGER && f.kind != NOC_KIND_CHUNK && f.kind != NOC_KIND_PROOF && f.len_here)
		return -EPROTO;
	if (f.kind == NOC_KIND_PROOF && f.len_here != NOC_PROOF_BYTES)
		return -EPROTO;
	*out = f;
	*payload = (const char *)buf + sizeof(f);
	return 0;
}

/* ---- retained messages ----------------------------------------------------------------------------------------- */

static void retained_forget(struct noc_peer *p, struct noc_pending *m)
{
	gw_list_remove(&m->link);
	p->retained_bytes -= m->alloc_size;
	noc_me->retained_bytes -= m->alloc_size;
	noc_me->retained--;
	ct_area_free(m, m->alloc_size);
}

static void forget_acknowledged(struct noc_peer *p)
{
	while (!gw_list_is_empty(&p->retained)) {
		struct noc_pending *m = gw_list_entry(p->retained.next, struct noc_pending, link);

		if (m->seq >= p->acked)
			break;
		retained_forget(p, m);
	}
}

void noc_path_settle(void)
{
	struct noc_peer *p = noc_me->acker;

	noc_me->acker = NULL;
	forget_acknowledged(p);
}

/* The message that brings the word comes first: what is retained is forgotten when the next poll finds nothing, when
 * another peer says so, or when somebody asks for the room. */
static void acknowledged(struct noc_peer *p, uint64_t next)
{
	if (next <= p->acked)
		return;
	p->acked = next;
	if (noc_me->acker && noc_me->acker != p)
		noc_path_settle();
	noc_me->acker = p;
}

/* All that was not acknowledged goes back to the head of the queue, oldest first. */
static void retained_requeue(struct noc_peer *p)
{
	struct gw_list *first = p->pending.next;

	while (!gw_list_is_empty(&p->retained)) {
		struct noc_pending *m = gw_list_entry(p->retained.next, struct noc_pending, link);

		gw_list_remove(&m->link);
		gw_list_append(first, &m->link); /* before what was first */
		noc_me->retained_bytes -= m->alloc_size;
		noc_me->retained--;
		noc_me->queued_bytes += m->alloc_size;
		noc_me->queued++;
	}
	p->retained_bytes = 0;
}

/* ---- choosing -------------------------------------------------------------------------------------------------- */

static void ack_is_said(struct noc_peer *p)
{
	p->unacked = p->unacked_bytes = 0;
	gw_list_remove(&p->ack_link);
}

static void path_leave(struct noc_peer *p)
{
	bool was_net = p->path == NOC_PATH_NET;

	if (p->conn)
		noc_net->drop(p->conn);
	p->conn = NULL;
	p->path = NOC_PATH_NONE;
	ack_is_said(p); /* whoever takes a new path says it anew */
	forget_acknowledged(p);
	retained_requeue(p);
	noc_peer_wait(p);
	if (was_net)
		noc_bulk_path_lost(p);
}

static void path_take(struct noc_peer *p, enum noc_path path)
{
	p->path = path;
	p->retry_us = 0;
	noc_peer_wait(p);
}

static int net_path(struct noc_peer *p, const struct noc_place *place)
{
	uint64_t now = gw_now_ns();

	if (p->tried != place->incarnation) { /* news of it: what was in vain before says nothing of this place */
		p->tried = place->incarnation;
		p->retry_us = 0;
		p->retry_ns = 0;
		p->silences = 0;
	}
	if (now < p->retry_ns)
		return -EAGAIN;
	p->retry_us = p->retry_us ? p->retry_us * 2 : RETRY_MIN_US;
	if (p->retry_us > RETRY_MAX_US)
		p->retry_us = RETRY_MAX_US;
	p->retry_ns = now + p->retry_us * 1000u;
	noc_net->connect(p, place);
	return -EAGAIN;
}

int noc_path_of(struct noc_peer *p)
{
	struct noc_inbox *in = noc_inbox_at(&noc_me->seg, p->proc);
	/* acquire: what the owner read before it opened, it has read */
	uint32_t open = atomic_load_explicit(&in->open, memory_order_acquire);
	struct noc_place place;

	if (GW_LIKELY(open == NOC_INBOX_OPEN)) {
		if (GW_UNLIKELY(p->path != NOC_PATH_MEMORY)) {
			path_leave(p);
			path_take(p, NOC_PATH_MEMORY);
		}
		return NOC_PATH_MEMORY;
	}
	if (open == NOC_INBOX_SHUT)
		return -EHOSTUNREACH;
	if (GW_LIKELY(p->conn != NULL)) /* it says more of where the peer is than the page, which may be behind */
		return NOC_PATH_NET;
	if (noc_names_lookup(&noc_me->seg, p->proc, &place) < 0)
		return -EAGAIN;
	if (place.state == NOC_NAME_GONE)
		return -EHOSTUNREACH;
	if (!noc_me->is_networked || place.state != NOC_NAME_HERE || place.host == noc_me->here.host)
		return -EAGAIN;
	return net_path(p, &place);
}

/* ---- sending over the network ---------------------------------------------------------------------------------- */

static struct noc_frame frame_of(struct noc_peer *p, const struct noc_pending *m)
{
	return (struct noc_frame){ .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = m->kind, .port = m->port,
		.src = noc_me->proc, .len_here = m->kind == NOC_KIND_EAGER ? (uint32_t)m->len : 0, .seq = m->seq,
		.ack = p->next_in, .tag = m->tag, .data = m->data, .len = m->len, .offset = m->offset, .id = m->id,
		.peer_id = m->peer_id };
}

static bool has_room(const struct noc_peer *p, size_t size)
{
	for (;;) {
		if (GW_LIKELY(p->retained_bytes + size <= NOC_WINDOW_BYTES && noc_me->retained_bytes + size <= NOC_RETAINED_MAX))
			return true;
		if (!noc_me->acker)
			return false;
		noc_path_settle();
	}
}

int noc_path_send(struct noc_peer *p, struct noc_pending *m, const struct iovec *iov, size_t iovs, bool is_queued)
{
	size_t bytes = m->kind == NOC_KIND_EAGER ? m->len : 0, size = sizeof(*m) + bytes;
	struct noc_pending *kept = m;
	struct iovec own;
	int rc;

	if (m->kind == NOC_KIND_ACK) {
		struct noc_frame f = frame_of(p, m);

		rc = noc_net->send(p->conn, &f, NULL, 0, false);
		if (rc == 0)
			ack_is_said(p);
		return rc ? -EAGAIN : 0;
	}
	if (!has_room(p, size))
		return -EAGAIN;
	if (!is_queued || !m->is_copy) {
		kept = ct_area_alloc(size);
		if (!kept)
			return -EAGAIN;
		memcpy(kept, m, offsetof(struct noc_pending, frame)); /* the frame comes below */
		kept->is_copy = true;
		kept->iovs = 0;
		kept->context = NULL;
		kept->alloc_size = size;
		if (bytes)
			noc_iov_copy_out(kept + 1, iov, iovs);
	}
	kept->frame = frame_of(p, m);
	own = (struct iovec){ kept + 1, bytes };
	rc = noc_net->send(p->conn, &kept->frame, &own, bytes ? 1 : 0, true);
	if (rc) {
		if (kept != m)
			ct_area_free(kept, kept->alloc_size);
		return -EAGAIN; /* a broken connection is heard of by noc_path_down() */
	}
	ack_is_said(p);
	if (kept == m)
		gw_list_remove(&m->link);
	gw_list_append(&p->retained, &kept->link);
	p->retained_bytes += kept->alloc_size;
	noc_me->retained_bytes += kept->alloc_size;
	noc_me->retained++;
	return kept == m ? 1 : 0;
}

int noc_path_chunk(const struct noc_bulk_word *w, const struct iovec *bytes, size_t n)
{
	struct noc_peer *p = w->peer;
	struct noc_frame f = { .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = w->kind, .port = w->port,
		.src = noc_me->proc, .len_here = (uint32_t)w->len, .ack = p->next_in, .tag = w->transfer, .len = w->len,
		.offset = w->offset, .id = w->id };

	if (noc_net->send(p->conn, &f, bytes, n, false))
		return -EAGAIN;
	ack_is_said(p);
	return 0;
}

static int ack_send(struct noc_peer *p)
{
	struct noc_pending m = { .kind = NOC_KIND_ACK };

	return noc_path_send(p, &m, NULL, 0, false);
}

int noc_path_acks(void)
{
	int n = 0;

	gw_list_for_safe(l, &noc_me->acks_due)
		n += ack_send(gw_list_entry(l, struct noc_peer, ack_link)) == 0;
	return n;
}

bool noc_path_lingers(void)
{
	struct noc_member *m = noc_me;

	if (m->acker)
		noc_path_settle();
	if (!m->retained)
		return false;
	for (uint32_t i = 0; i < m->names_max; i++) {
		struct noc_peer *p = m->peers[i];

		if (!p || gw_list_is_empty(&p->retained))
			continue;
		if (noc_path_of(p) != -EHOSTUNREACH)
			return true;
		p->acked = p->next_out; /* nobody will read it */
		forget_acknowledged(p);
	}
	return false;
}

bool noc_path_is_idle(const struct noc_peer *p)
{
	if (noc_me->acker)
		noc_path_settle();
	return gw_list_is_empty(&p->retained) && gw_list_is_empty(&p->pending) && !p->unacked && !noc_bulk_is_busy(p);
}

/* ---- told by the interface ------------------------------------------------------------------------------------- */

bool noc_path_drain(void)
{
	struct noc_member *m = noc_me;
	uint64_t w;

	while (noc_take(INT32_MAX))
		;
	/* Somebody else who was stopped between claiming the next slot and filling it keeps what came behind from being read */
	w = atomic_load_explicit(&m->inbox->slots[m->head % NOC_SLOTS].word, memory_order_acquire);
	return noc_word_lap(w) != m->head / NOC_SLOTS || noc_word_state(w) != NOC_SLOT_CLAIMED;
}

void noc_path_up(struct noc_peer *p, struct noc_conn *c, uint64_t peer_next_in)
{
	path_leave(p);
	if (atomic_load_explicit(&noc_inbox_at(&noc_me->seg, p->proc)->open, memory_order_acquire) == NOC_INBOX_OPEN) {
		noc_net->drop(c); /* it has come to this host meanwhile */
		return;
	}
	p->conn = c;
	/* requeued by path_leave(): forget what the peer has */
	gw_list_for_safe(l, &p->pending) {
		struct noc_pending *m = gw_list_entry(l, struct noc_pending, link);

		if (m->seq >= peer_next_in)
			break;
		gw_list_remove(&m->link);
		noc_me->queued_bytes -= m->alloc_size;
		noc_me->queued--;
		ct_area_free(m, m->alloc_size);
	}
	path_take(p, NOC_PATH_NET);
	noc_me->expects_ns = 0;
}

void noc_path_down(struct noc_peer *p, struct noc_conn *c)
{
	if (p->conn != c)
		return;
	p->conn = NULL; /* the interface has closed it */
	if (!noc_path_is_idle(p)) /* else the peer may have closed it for another's sake */
		noc_me->expects_ns = gw_now_ns() + EXPECT_NS;
	path_leave(p);
}

void noc_path_detach(void)
{
	noc_me->expects_ns = 0;
	for (uint32_t i = 0; i < noc_me->names_max; i++) {
		struct noc_peer *p = noc_me->peers[i];

		if (!p)
			continue;
		/* of every peer: it is a reading of this host's clock, and the next host's may be hours behind */
		p->retry_us = 0;
		p->retry_ns = 0;
		p->held_ns = 0;
		p->silences = 0;
		p->is_missed = p->conn != NULL;
		if (p->path == NOC_PATH_NET) {
			p->conn = NULL;
			path_leave(p);
		}
	}
}

/*
 * Peers that talked to us over the network look for us now. The news of where we are takes its way by the daemons, and each
 * of their tries in vain makes them wait longer; we know where they are, so we call. Only a few: who has many peers would
 * put off the first one's message by the others' handshakes.
 */
void noc_path_attach(void)
{
	uint32_t n = 0;
	bool expects = false;

	for (uint32_t i = 0; i < noc_me->names_max; i++) {
		struct noc_peer *p = noc_me->peers[i];

		if (!p || !p->is_missed)
			continue;
		p->is_missed = false;
		/* not whom we find on this host, or gone */
		expects |= n++ >= CALLS_MAX || noc_path_of(p) == -EAGAIN;
	}
	if (expects)
		noc_me->expects_ns = gw_now_ns() + EXPECT_NS;
}

void noc_path_frame(struct noc_peer *p, struct noc_conn *c, const struct noc_frame *f, const void *payload)
{
	struct noc_member *m = noc_me;
	struct noc_bulk_word w = { .peer = p, .kind = f->kind, .port = f->port, .id = f->id, .peer_id = f->peer_id,
		.transfer = f->kind == NOC_KIND_OFFER ? f->seq : f->tag, .len = f->len, .offset = f->offset, .bytes = payload };
	struct noc_msg msg = { .src = p->proc, .port = f->port, .tag = f->tag, .data = f->data, .len = f->len };

	if (p->conn != c)
		return;
	acknowledged(p, f->ack);
	if (f->kind == NOC_KIND_ACK)
		return;
	m->counters.received++;
	if (f->kind != NOC_KIND_CHUNK) {
		if (gw_list_is_empty(&p->ack_link))
			gw_list_append(&m->acks_due, &p->ack_link);
		p->unacked++;
		p->unacked_bytes += f->len_here;
		if (!noc_in_sequence(p, f->seq))
			return;
	}
	if (f->kind == NOC_KIND_EAGER) {
		m->counters.bytes.received_bytes += f->len;
		msg.payload = payload;
		noc_deliver(&msg);
	} else if (f->kind == NOC_KIND_OFFER) {
		msg.offer = noc_bulk_offered(&w);
		noc_deliver(&msg);
	} else {
		noc_bulk_arrived(&w, NOC_PATH_NET);
	}
	if ((p->unacked >= ACK_MESSAGES || p->unacked_bytes >= ACK_BYTES) && p->conn)
		ack_send(p);
}
