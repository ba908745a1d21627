/* SPDX-License-Identifier: BSD-2-Clause */
/* Channels: sending, the queue of a peer that cannot take messages now, and the poll that moves everything on. */
#include "noc/channel.h"

#include <stdlib.h>

#include "noc/copy.h"
#include "noc/local.h"

struct noc_member *noc_me;

struct noc_backlog { /* what came for a port before anybody was bound to it */
	struct gw_list link;
	struct noc_msg msg;
	size_t alloc_size;
	unsigned char payload[];
};
static struct gw_list backlog = { &backlog, &backlog }; /* process-wide: one member per process; user-area data */

struct noc_peer *noc_peer_get(uint32_t proc)
{
	struct noc_member *m = noc_me;
	struct noc_guest guest;
	struct noc_peer *p;
	bool is_guest;

	if (GW_UNLIKELY(proc >= m->names_max))
		return NULL;
	p = m->peers[proc];
	if (GW_LIKELY(p != NULL))
		return p;
	is_guest = m->is_attached && noc_guests_look(&m->seg, proc, &guest);
	if (m->is_attached && (is_guest ? noc_guests_open(&m->seg, proc) : noc_segment_reach(&m->seg, proc)) < 0)
		return NULL;
	p = ct_area_zalloc(sizeof(*p));
	if (!p)
		return NULL;
	if (!is_guest && proc > m->reach)
		m->reach = proc;
	p->proc = proc;
	p->job = is_guest ? guest.with.job : m->job;
	p->there = is_guest ? guest.proc : proc;
	p->is_slow = true;
	gw_list_init(&p->pending);
	gw_list_init(&p->link);
	gw_list_init(&p->retained);
	gw_list_init(&p->ack_link);
	m->peers[proc] = p;
	return p;
}

static inline void fill_head(struct noc_slot *s, uint8_t kind, uint8_t port, int cell, uint64_t seq, uint64_t tag,
                             uint64_t data, uint64_t len)
{
	s->src = noc_me->proc;
	s->kind = kind;
	s->port = port;
	s->has_cell = cell >= 0;
	s->cell = (uint8_t)cell;
	s->seq = seq;
	s->tag = tag;
	s->data = data;
	s->len = len;
}

static void fill_cell(unsigned char *cell, const struct iovec *iov, size_t iovs)
{
	for (size_t i = 0; i < iovs; i++) {
		noc_copy_out(cell, iov[i].iov_base, iov[i].iov_len);
		cell += iov[i].iov_len;
	}
}

/* Write one message into the inbox of @p. -EAGAIN: not now (closed, or no room). */
static int post_memory(struct noc_peer *p, const struct noc_pending *m, const struct iovec *iov, size_t iovs)
{
	struct noc_inbox *in = noc_inbox_at(&noc_me->seg, p->proc);
	struct noc_slot *s;
	int cell = -1, rc;

	if (m->kind == NOC_KIND_EAGER && m->len > NOC_INLINE_MAX) {
		cell = noc_inbox_claim_cell(in, noc_me->proc, NOC_CELLS);
		if (cell < 0) {
			atomic_store_explicit(&in->want_space, noc_me->proc + 1, memory_order_relaxed);
			return -EAGAIN;
		}
		fill_cell(in->cells[cell], iov, iovs);
	}
	rc = noc_inbox_claim(in, noc_me->proc, &s);
	if (GW_UNLIKELY(rc)) {
		if (cell >= 0)
			noc_inbox_free_cell(in, (unsigned)cell);
		if (rc == -EAGAIN)
			atomic_store_explicit(&in->want_space, noc_me->proc + 1, memory_order_relaxed);
		return -EAGAIN;
	}
	fill_head(s, m->kind, m->port, cell, m->seq, m->tag, m->data, m->len);
	if (m->kind != NOC_KIND_EAGER) {
		s->bulk.id = m->id;
		s->bulk.peer_id = m->peer_id;
		s->bulk.offset = m->offset;
	} else if (cell < 0) {
		noc_iov_copy_out(s->payload, iov, iovs);
	}
	noc_inbox_publish(in, noc_me->proc, s);
	return 0;
}

/* One message by @path, which noc_path_of() has just said. 0; 1: the queued @m itself is kept for its acknowledgement;
 * -EAGAIN: not now. */
static int post(struct noc_peer *p, int path, struct noc_pending *m, const struct iovec *iov, size_t iovs, bool is_queued)
{
	if (GW_LIKELY(path == NOC_PATH_MEMORY))
		return post_memory(p, m, iov, iovs);
	return path == NOC_PATH_NET ? noc_path_send(p, m, iov, iovs, is_queued) : path;
}

/* The fast path: one piece that travels at once, to a peer with an open inbox and nothing queued before it. */
static inline int post_one(struct noc_peer *p, enum noc_port port, uint64_t tag, uint64_t data, const void *buf, size_t len)
{
	struct noc_inbox *in = noc_inbox_at(&noc_me->seg, p->proc);
	struct noc_slot *s;
	int cell = -1;

	if (GW_UNLIKELY(atomic_load_explicit(&in->open, memory_order_relaxed) != NOC_INBOX_OPEN))
		return -EAGAIN; /* the slow path finds out why; likewise below */
	if (len > NOC_INLINE_MAX) {
		cell = noc_inbox_claim_cell(in, noc_me->proc, NOC_CELLS);
		if (GW_UNLIKELY(cell < 0))
			return -EAGAIN;
		noc_copy_claim(in->cells[cell], len);
		noc_copy_out(in->cells[cell], buf, len);
	}
	if (GW_UNLIKELY(noc_inbox_claim(in, noc_me->proc, &s))) {
		if (cell >= 0)
			noc_inbox_free_cell(in, (unsigned)cell);
		return -EAGAIN;
	}
	fill_head(s, NOC_KIND_EAGER, (uint8_t)port, cell, p->next_out, tag, data, len);
	if (len == 8) /* by far the most frequent */
		memcpy(s->payload, buf, 8);
	else if (len && cell < 0)
		memcpy(s->payload, buf, len);
	noc_inbox_publish(in, noc_me->proc, s);
	return 0;
}

static void *pending_tail(struct noc_pending *m)
{
	return m + 1;
}

/* Put a message at the end of the peer's queue. The bytes are copied when @is_copy, otherwise the iov is. */
static int queue(struct noc_peer *p, const struct noc_pending *m, const struct iovec *iov, size_t iovs, bool is_copy,
                 bool may_use_reserve)
{
	size_t extra = is_copy ? (m->kind == NOC_KIND_EAGER ? m->len : 0) : iovs * sizeof(*iov);
	size_t size = sizeof(*m) + extra, bound = NOC_QUEUED_MAX + (may_use_reserve ? NOC_QUEUED_RESERVE : 0);
	struct noc_pending *copy;
	uint64_t now;

	if (noc_me->queued_bytes + size > bound)
		return -EAGAIN;
	copy = ct_area_alloc(size);
	if (!copy)
		return -EAGAIN;
	*copy = *m;
	copy->alloc_size = size;
	copy->is_copy = is_copy;
	copy->iovs = is_copy ? 0 : (uint32_t)iovs;
	if (!is_copy)
		memcpy(pending_tail(copy), iov, iovs * sizeof(*iov));
	else if (m->kind == NOC_KIND_EAGER)
		noc_iov_copy_out(pending_tail(copy), iov, iovs);
	gw_list_append(&p->pending, &copy->link);
	noc_peer_wait(p);
	noc_me->queued_bytes += size;
	noc_me->queued++;
	noc_me->counters.queued++;
	/* The program may go and compute now: its agent pushes the message when there is room. Not more often than every
	 * few milliseconds, since it costs two small packets and a thread's wake-up. */
	now = gw_now_ns();
	if (now - noc_me->last_nudge_ns > 4000000) {
		noc_me->last_nudge_ns = now;
		ct_agent_nudge();
	}
	return 0;
}

void noc_peer_wait(struct noc_peer *p)
{
	bool is_waiting = !gw_list_is_empty(&p->pending);

	p->is_slow = p->path != NOC_PATH_MEMORY || is_waiting;
	if (is_waiting && gw_list_is_empty(&p->link))
		gw_list_append(&noc_me->waiting, &p->link);
	else if (!is_waiting)
		gw_list_remove(&p->link);
}

/* @is_kept: it lives on among the retained. */
static void pending_done(struct noc_peer *p, struct noc_pending *m, int status, bool is_kept)
{
	void *context = m->is_copy ? NULL : m->context;
	uint8_t port = m->port;

	noc_me->queued_bytes -= m->alloc_size;
	noc_me->queued--;
	if (!is_kept) {
		gw_list_remove(&m->link);
		ct_area_free(m, m->alloc_size);
	}
	noc_peer_wait(p);
	if (context)
		noc_me->ports[port]->sent(context, status);
}

int noc_pending_flush(void)
{
	int n = 0;

	gw_list_for_safe(l, &noc_me->waiting) {
		struct noc_peer *p = gw_list_entry(l, struct noc_peer, link);
		int path = noc_path_of(p); /* may put older messages back before the others, so it comes first */

		/* asked anew each time: a callback may have sent, and so taken another path */
		for (; path != -EAGAIN && !gw_list_is_empty(&p->pending); path = noc_path_of(p)) {
			struct noc_pending *m = gw_list_entry(p->pending.next, struct noc_pending, link);
			struct iovec own = { .iov_base = pending_tail(m), .iov_len = m->len };
			int rc = m->is_copy ? post(p, path, m, &own, 1, true) : post(p, path, m, pending_tail(m), m->iovs, true);

			if (rc == -EAGAIN)
				break;
			pending_done(p, m, rc > 0 ? 0 : rc, rc == 1);
			n++;
		}
	}
	return n;
}

int noc_peer_post(struct noc_peer *p, struct noc_pending *m)
{
	int path = noc_path_of(p), rc = -EAGAIN;

	if (path == -EHOSTUNREACH)
		return path;
	m->seq = p->next_out;
	if (path != -EAGAIN && gw_list_is_empty(&p->pending))
		rc = post(p, path, m, NULL, 0, false);
	if (rc == -EAGAIN)
		rc = queue(p, m, NULL, 0, true, true);
	if (rc == 0)
		p->next_out++;
	return rc;
}

static inline void note_sent(struct noc_peer *p, size_t len)
{
	p->next_out++;
	p->sent_bytes += len;
	noc_me->counters.sent++;
	noc_me->counters.bytes.sent_bytes += len;
}

static int send_slow(struct noc_peer *p, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov,
                     size_t iovs, uint32_t flags, void *context, bool *is_done)
{
	struct noc_pending m = { .kind = NOC_KIND_EAGER, .port = (uint8_t)port, .tag = tag, .data = data, .context = context };
	bool is_copy;
	int rc, path;

	for (size_t i = 0; i < iovs; i++)
		m.len += iov[i].iov_len;
	if (!m.len)
		iovs = 0; /* the address of nothing may be NULL */
	if (m.len > NOC_EAGER_MAX) {
		if (is_done)
			*is_done = false;
		return noc_bulk_offer(p, port, tag, data, iov, iovs, m.len, context);
	}
	path = noc_path_of(p); /* first: another path may cost numbers */
	m.seq = p->next_out;
	if (path == -EHOSTUNREACH)
		return path;
	if (GW_LIKELY(gw_list_is_empty(&p->pending)) && path != -EAGAIN) {
		rc = post(p, path, &m, iov, iovs, false);
		if (GW_LIKELY(rc == 0)) {
			note_sent(p, m.len);
			goto done;
		}
	}
	is_copy = (flags & NOC_F_COPY) || m.len == 0 || !context;
	rc = queue(p, &m, iov, iovs, is_copy, flags & NOC_F_RESERVE || m.len == 0);
	if (rc)
		return rc;
	note_sent(p, m.len);
	if (!is_copy) {
		if (is_done)
			*is_done = false;
		return 0;
	}
done:
	if (is_done)
		*is_done = true;
	else if (context)
		noc_me->ports[port]->sent(context, 0);
	return 0;
}

int noc_send(uint32_t dst, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov, size_t iovs,
             uint32_t flags, void *context, bool *is_done)
{
	struct noc_member *m = noc_me;
	struct noc_peer *p = GW_LIKELY(dst < m->names_max) ? m->peers[dst] : NULL;

	if (GW_LIKELY(p && iovs == 1 && iov->iov_len <= NOC_EAGER_MAX && is_done && !p->is_slow) &&
	    GW_LIKELY(post_one(p, port, tag, data, iov->iov_base, iov->iov_len) == 0)) {
		note_sent(p, iov->iov_len);
		*is_done = true;
		return 0;
	}
	p = noc_peer_get(dst);
	if (GW_UNLIKELY(!p))
		return dst >= m->names_max ? -EINVAL : -EAGAIN;
	return send_slow(p, port, tag, data, iov, iovs, flags, context, is_done);
}

/* ---- arriving ------------------------------------------------------------------------------------------------- */

void noc_deliver(const struct noc_msg *msg)
{
	const struct noc_port_ops *ops = noc_me->ports[msg->port];
	struct noc_backlog *b;
	size_t size = sizeof(*b) + (msg->offer ? 0 : msg->len);

	if (GW_LIKELY(ops != NULL)) {
		ops->message(msg);
		return;
	}
	b = ct_area_alloc(size);
	if (!b) {
		gw_log(GW_ERROR, "noc: out of user area for a message of %llu bytes from process %u to port %u",
		       (unsigned long long)msg->len, msg->src, msg->port);
		abort(); /* losing it silently would be worse */
	}
	b->msg = *msg;
	b->alloc_size = size;
	if (!msg->offer) {
		memcpy(b->payload, msg->payload, msg->len);
		b->msg.payload = b->payload;
	}
	gw_list_append(&backlog, &b->link);
}

void noc_port_bind(enum noc_port port, const struct noc_port_ops *ops)
{
	noc_me->ports[port] = ops;
	gw_list_for_safe(l, &backlog) {
		struct noc_backlog *b = gw_list_entry(l, struct noc_backlog, link);

		if (b->msg.port == (uint32_t)port) {
			gw_list_remove(&b->link);
			ops->message(&b->msg);
			ct_area_free(b, b->alloc_size);
		}
	}
}

/* Is this the next message of its channel? Duplicates are dropped by number alone (rule 1). A gap cannot happen: reading
 * is the acknowledgement in memory, and whoever takes another path begins with what was not acknowledged. It would be our
 * own mistake. */
bool noc_in_sequence(struct noc_peer *p, uint64_t seq)
{
	if (GW_LIKELY(seq == p->next_in)) {
		p->next_in++;
		return true;
	}
	if (seq > p->next_in) {
		gw_log(GW_ERROR, "noc: process %u expected message %llu of process %u and got %llu", noc_me->proc,
		       (unsigned long long)p->next_in, p->proc, (unsigned long long)seq);
		abort();
	}
	return false;
}

/*
 * Cells are freed several at a time: each time the word that says which are free goes from the writer's cache to ours and
 * back, while the writer waits for it. Writers never wait for these few: there are others, and whoever finds none says so.
 */
#define CELLS_KEPT 8

void noc_cells_free(void)
{
	if (noc_me->cells_read)
		noc_inbox_free_cells(noc_me->inbox, noc_me->cells_read);
	noc_me->cells_read = 0;
}

static inline void cell_is_read(unsigned cell)
{
	noc_me->cells_read |= 1ull << cell % NOC_CELLS;
	if (__builtin_popcountll(noc_me->cells_read) >= CELLS_KEPT)
		noc_cells_free();
}

static void arrived(struct noc_slot *s)
{
	struct noc_member *m = noc_me;
	struct noc_peer *p = GW_LIKELY(s->src < m->names_max) ? m->peers[s->src] : NULL;
	struct noc_bulk_word w;

	if (GW_UNLIKELY(!p))
		p = noc_peer_get(s->src);
	if (GW_UNLIKELY(!p || s->port >= NOC_PORT_COUNT)) {
		gw_log(GW_ERROR, "noc: process %u got a message of process %u for port %u: not in this job", m->proc, s->src,
		       s->port);
		abort();
	}
	m->counters.received++;
	if (s->has_cell)
		noc_copy_expect(m->inbox->cells[s->cell], s->len);
	else if (s->kind == NOC_KIND_EAGER && s->len > NOC_SLOT_FIRST)
		noc_copy_expect(s->payload + NOC_SLOT_FIRST, s->len - NOC_SLOT_FIRST);
	if (GW_LIKELY(s->kind == NOC_KIND_EAGER)) {
		if (GW_LIKELY(noc_in_sequence(p, s->seq))) {
			struct noc_msg msg = { .src = s->src, .port = s->port, .tag = s->tag, .data = s->data, .len = s->len,
			                       .payload = s->has_cell ? m->inbox->cells[s->cell] : s->payload };
			const struct noc_port_ops *ops = m->ports[s->port];

			m->counters.bytes.received_bytes += s->len;
			if (GW_LIKELY(ops != NULL))
				ops->message(&msg);
			else
				noc_deliver(&msg);
		}
		if (s->has_cell)
			cell_is_read(s->cell);
		return;
	}
	w = (struct noc_bulk_word){ .peer = p, .kind = s->kind, .port = s->port, .id = s->bulk.id, .peer_id = s->bulk.peer_id,
		.transfer = s->kind == NOC_KIND_OFFER ? s->seq : s->tag, .len = s->len, .offset = s->bulk.offset,
		.bytes = s->has_cell ? m->inbox->cells[s->cell] : NULL };
	if (s->kind != NOC_KIND_CHUNK && !noc_in_sequence(p, s->seq))
		return;
	if (s->kind == NOC_KIND_OFFER) {
		struct noc_msg msg = { .src = s->src, .port = s->port, .tag = s->tag, .data = s->data, .len = s->len };

		msg.offer = noc_bulk_offered(&w);
		noc_deliver(&msg);
	} else {
		noc_bulk_arrived(&w, NOC_PATH_MEMORY);
	}
	if (s->has_cell)
		cell_is_read(s->cell);
}

int noc_take(int budget)
{
	struct noc_member *m = noc_me;
	struct noc_inbox *in = m->inbox;
	struct noc_slot *s;
	uint64_t word;
	int n = 0;

	while (n < budget && (s = noc_inbox_peek(in, m->head, &word))) {
		if (GW_LIKELY(noc_word_state(word) == NOC_SLOT_READY))
			arrived(s);
		else
			m->counters.voided++;
		noc_inbox_consume(s, m->head);
		m->head++;
		n++;
	}
	if (GW_UNLIKELY(n && atomic_load_explicit(&in->want_space, memory_order_relaxed))) {
		uint32_t who = atomic_exchange_explicit(&in->want_space, 0, memory_order_relaxed);

		noc_cells_free();
		if (who && who - 1 < m->names_max && noc_segment_reach(&m->seg, who - 1) == 0) {
			struct noc_inbox *waiter = noc_inbox_at(&m->seg, who - 1);

			if (atomic_exchange_explicit(&waiter->asleep, 0, memory_order_acq_rel))
				noc_inbox_ring(waiter);
		}
	}
	return n;
}

/*
 * How often the network is looked at: a look is a system call, several times what a message by memory costs. What came last
 * says where the next one will come from: after something from the network every poll in vain looks there for a while, and
 * each message by memory halves what is left of that.
 */
#define NET_SELDOM   32u   /* without credit, every so many polls */
#define NET_THOROUGH 16u   /* of the looks, for new connections: one more call */

static int poll_net(int n)
{
	struct noc_member *m = noc_me;
	bool is_thorough, is_idle = m->has_slept;
	int from_net = 0;

	m->idle_polls++;
	if (n)
		m->net_credit /= 2;
	if ((n == 0 && m->net_credit) || m->idle_polls % NET_SELDOM == 0 || m->has_slept) {
		/* who connects must be heard in the thickest traffic, too: nobody else answers for a rank that is in MPI */
		is_thorough = m->has_slept || ++m->looks % NET_THOROUGH == 0;
		from_net = noc_net->poll(is_thorough);
		m->net_credit -= m->net_credit > 0;
	}
	m->has_slept = false;
	if (from_net) {
		m->idle_polls = 0;
		m->net_credit = NOC_NET_CREDIT;
	}
	is_idle |= m->idle_polls % NET_SELDOM == NET_SELDOM / 2;
	if (n + from_net == 0) {
		if (m->acker)
			noc_path_settle();
		if (is_idle && !gw_list_is_empty(&m->acks_due))
			noc_path_acks();
	}
	return from_net;
}

int noc_poll(int budget)
{
	int n = noc_take(budget);

	if (GW_UNLIKELY(noc_me->is_networked))
		n += poll_net(n);
	if (GW_UNLIKELY(!gw_list_is_empty(&noc_me->waiting)))
		n += noc_pending_flush();
	if (GW_UNLIKELY(!gw_list_is_empty(&noc_me->streaming)))
		n += noc_bulk_push();
	return n;
}

#define SOON_LOOKS 384 /* less than half a microsecond */

int noc_poll_soon(int budget)
{
	struct noc_member *m = noc_me;
	uint64_t word;

	if (!noc_inbox_peek(m->inbox, m->head, &word)) {
		unsigned looks = noc_cluster_is_crowded() ? 0 : SOON_LOOKS;

		do
			if (looks-- == 0)
				return 0;
		while (!noc_inbox_peek(m->inbox, m->head, &word));
	}
	return noc_poll(budget);
}

bool noc_something_waits(void)
{
	return noc_me->queued || noc_me->outs_alive;
}

uint32_t noc_self(void) { return noc_me->proc; }
uint32_t noc_job(void) { return noc_me->job; }
uint32_t noc_names_max(void) { return noc_me->names_max; }
const struct noc_counters *noc_counters(void) { return &noc_me->counters; }
