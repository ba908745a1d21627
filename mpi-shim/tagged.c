/* SPDX-License-Identifier: BSD-2-Clause */
/* Tagged messages: sending, receiving, probing, and what the channel's handlers do with them. */
#include "mpi-shim/direct.h"
#include "mpi-shim/shim.h"
#include "noc/copy.h"

#define PEEK_BUDGET 32 /* messages that a probe in vain may take from the inbox */
#define UNEXP_INLINE (512 - sizeof(struct shim_unexp)) /* payload that shares the block with its header */

static inline struct shim_ep *ep_of(struct fid_ep *fid)
{
	return gw_container_of(fid, struct shim_ep, fid);
}

static inline enum ct_doing doing(uint64_t tag, enum ct_doing plain)
{
	return tag & SHIM_TAG_COLLECTIVE ? CT_DOING_COLLECTIVE : plain;
}

/* What the polls after this operation are waiting for, until something completes. Of the program's threads only, so it may
 * be said before the gate. */
static inline enum ct_doing note(struct shim_ep *ep, uint64_t tag, enum ct_doing plain)
{
	enum ct_doing d = doing(tag, plain);

	ep->waiting_for = d;
	return d;
}

/* ---- helpers shared with msg.c --------------------------------------------------------------------------------- */

size_t shim_iov_len(const struct iovec *iov, size_t iovs)
{
	size_t len = 0;

	for (size_t i = 0; i < iovs; i++)
		len += iov[i].iov_len;
	return len;
}

void shim_iov_scatter(const struct iovec *iov, size_t iovs, const void *from, size_t len)
{
	const char *p = from;

	for (size_t i = 0; i < iovs && len; i++) {
		size_t n = len < iov[i].iov_len ? len : iov[i].iov_len;

		noc_copy_in(iov[i].iov_base, p, n);
		p += n;
		len -= n;
	}
}

struct shim_unexp *shim_unexp_make(const struct noc_msg *msg)
{
	uint32_t inline_bytes = !msg->offer && msg->len <= UNEXP_INLINE ? (uint32_t)msg->len : 0;
	struct shim_unexp *u = ct_area_alloc(sizeof(*u) + inline_bytes);

	if (!u)
		goto full;
	u->tag = msg->tag;
	u->data = msg->data;
	u->len = msg->len;
	u->src = msg->src;
	u->offer = msg->offer;
	u->inline_bytes = inline_bytes;
	u->payload = NULL;
	if (msg->offer || !msg->len)
		return u;
	u->payload = inline_bytes ? (void *)(u + 1) : ct_area_alloc(msg->len);
	if (!u->payload)
		goto full;
	memcpy(u->payload, msg->payload, msg->len);
	return u;
full:
	shim_die("the user area is full (%zu bytes): no room for messages that nobody has asked for", ct_area_used());
}

void shim_unexp_free(struct shim_unexp *u)
{
	if (u->payload && !u->inline_bytes)
		ct_area_free(u->payload, u->len);
	ct_area_free(u, sizeof(*u) + u->inline_bytes);
}

void shim_drop_offer(struct noc_bulk *offer)
{
	noc_bulk_accept(offer, NULL, 0, NULL);
}

/* ---- a message meets its receive ------------------------------------------------------------------------------- */

static struct iovec *iov_copy(const struct iovec *iov, size_t iovs)
{
	struct iovec *copy = ct_area_alloc(iovs * sizeof(*iov));

	if (copy)
		memcpy(copy, iov, iovs * sizeof(*iov));
	return copy;
}

/* The last word of it makes it the caller's again. */
static inline void finish_direct(struct shim_ep *ep, struct shim_recv *r, uint64_t tag, uint64_t data, uint64_t len,
                                 int status)
{
	struct godwit_direct *d = (struct godwit_direct *)r;

	d->tag = tag;
	d->data = data;
	d->len = len < r->len ? len : r->len;
	d->error = status ? -status : len > r->len ? FI_ETRUNC : 0;
	ep->rx_cq->is_told = true;
	__atomic_store_n(&d->is_done, 1, __ATOMIC_RELEASE);
}

/* The receive is over: @len of the message, of which the buffer took what it could. */
static inline void finish(struct shim_ep *ep, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t data,
                          uint64_t len, int status)
{
	uint8_t how = r->link.state;
	size_t room = r->len;
	struct shim_comp *c;

	if (GW_UNLIKELY(r->link.iovs)) {
		ct_area_free(r->buf, r->link.iovs * sizeof(struct iovec));
		r->buf = NULL;
	}
	r->link.state = 0; /* fi_cancel() will not find it */
	if (GW_UNLIKELY(ep->rx_cntr != NULL)) {
		ep->rx_cntr->value += status == 0 && len <= room;
		ep->rx_cntr->errors += status != 0 || len > room;
	}
	if (how & SHIM_DIRECT) {
		finish_direct(ep, r, tag, data, len, status);
		return;
	}
	if (how & SHIM_QUIET && !status && len <= room)
		return;
	c = shim_cq_push(ep->rx_cq);
	c->e.op_context = r;
	c->e.flags = FI_RECV | FI_TAGGED | FI_REMOTE_CQ_DATA;
	c->e.len = len;
	c->e.buf = r->buf;
	c->e.data = data;
	c->e.tag = tag;
	c->olen = 0;
	c->err = (uint32_t)-status;
	c->src = src;
	if (GW_UNLIKELY(len > room)) {
		c->e.len = room;
		c->olen = len - room;
		if (!status)
			c->err = FI_ETRUNC;
	}
}

static inline void copy_small(void *to, const void *from, size_t n)
{
	if (n == 8) /* by far the most frequent, and not worth a call */
		memcpy(to, from, 8);
	else
		noc_copy_in(to, from, n);
}

static inline void deliver(struct shim_ep *ep, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t data,
                           const void *payload, uint64_t len)
{
	size_t n = len < r->len ? len : r->len;

	if (GW_UNLIKELY(r->link.iovs))
		shim_iov_scatter((struct iovec *)r->buf, r->link.iovs, payload, n);
	else if (n)
		copy_small(r->buf, payload, n);
	finish(ep, r, src, tag, data, len, 0);
}

/* The request keeps what its completion will say: tag and source in their places, the data word for the number. */
static void accept_offer(struct shim_ep *ep, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t data,
                         uint64_t len, struct noc_bulk *offer)
{
	struct iovec one = { r->buf, r->len };
	int rc;

	r->link.state |= SHIM_BULK;
	r->link.tag = tag;
	r->link.src = src;
	r->seq = data;
	rc = r->link.iovs ? noc_bulk_accept(offer, r->buf, r->link.iovs, r) : noc_bulk_accept(offer, &one, 1, r);
	if (rc < 0)
		finish(ep, r, src, tag, data, len, rc);
}

static void take_unexpected(struct shim_ep *ep, struct shim_recv *r, struct shim_unexp *u)
{
	if (u->offer)
		accept_offer(ep, r, u->src, u->tag, u->data, u->len, u->offer);
	else
		deliver(ep, r, u->src, u->tag, u->data, u->payload, u->len);
	shim_unexp_free(u);
}

static void message(const struct noc_msg *msg)
{
	struct shim_ep *ep = shim_the_ep;
	struct shim_recv *r;

	if (GW_UNLIKELY(!ep)) { /* closed: nobody will ask for it any more */
		if (msg->offer)
			shim_drop_offer(msg->offer);
		return;
	}
	r = ep->expected;
	if (r && r->link.src == msg->src && ((r->link.tag ^ msg->tag) & ~r->link.ignore) == 0)
		ep->expected = NULL;
	else
		r = shim_match_arrive(&ep->match, msg->src, msg->tag);
	if (GW_UNLIKELY(!r))
		shim_match_keep(&ep->match, shim_unexp_make(msg));
	else if (msg->offer)
		accept_offer(ep, r, msg->src, msg->tag, msg->data, msg->len, msg->offer);
	else
		deliver(ep, r, msg->src, msg->tag, msg->data, msg->payload, msg->len);
}

static void sent(void *context, int status)
{
	if (shim_the_ep)
		shim_complete_send(shim_the_ep, context, FI_TAGGED, status);
}

static void received(void *context, uint64_t len, int status)
{
	struct shim_recv *r = context;

	if (r && shim_the_ep) /* no context: it was discarded */
		finish(shim_the_ep, r, r->link.src, r->link.tag, r->seq, len, status);
}

const struct noc_port_ops shim_tagged_port = { .message = message, .sent = sent, .received = received };

/* Unexpected messages die with the endpoint; their senders are not kept waiting. */
void shim_tagged_close(struct shim_ep *ep)
{
	for (struct shim_unexp *u; (u = ep->match.first); ) {
		shim_match_remove(&ep->match, u);
		if (u->offer)
			shim_drop_offer(u->offer);
		shim_unexp_free(u);
	}
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* @r has its buffer; the caller owns the gate */
static inline void post(struct shim_ep *ep, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t ignore)
{
	struct shim_unexp *u = shim_match_post(&ep->match, r, src, tag, ignore);

	ep->rx_cq->empties = 0;
	if (u)
		take_unexpected(ep, r, u);
}

static ssize_t trecv(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t from, uint64_t tag,
                     uint64_t ignore, void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct shim_recv *r = context;
	uint32_t src;

	if (GW_UNLIKELY(!r || !shim_source(ep, from, &src)))
		return -FI_EINVAL;
	r->buf = buf; /* the request is the caller's until it is posted, and what need not be kept over the gate costs less */
	r->len = len;
	r->link.iovs = 0;
	r->link.state = ep->rx_completes ? 0 : SHIM_QUIET;
	ct_gate_enter(note(ep, tag, CT_DOING_RECV));
	post(ep, r, src, tag, ignore);
	ct_gate_leave();
	return 0;
}

#define DIRECT_BUDGET 32 /* messages that a direct receive may take from the inbox until its own has come */

/* While nobody else may want its message, it need not be posted until it has been looked for in vain. */
static void expect(struct shim_ep *ep, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t ignore)
{
	r->link.src = src;
	r->link.tag = tag;
	r->link.ignore = ignore;
	ep->rx_cq->empties = 0;
	ep->expected = r;
	for (int n = 0; n < DIRECT_BUDGET && ep->expected && noc_poll_soon(1); n++)
		if (GW_UNLIKELY(shim_rma_waits(ep)))
			shim_rma_flush(ep);
	if (ep->expected) {
		ep->expected = NULL;
		shim_match_post(&ep->match, r, src, tag, ignore); /* what was kept meanwhile is for others */
	}
}

static int direct_recv(struct fid_ep *fid, void *buf, size_t len, fi_addr_t from, uint64_t tag, uint64_t ignore,
                       struct godwit_direct *d, int *has_events)
{
	struct shim_ep *ep = ep_of(fid);
	struct shim_recv *r = (struct shim_recv *)d->scratch;
	uint32_t src;

	if (GW_UNLIKELY(!shim_source(ep, from, &src)))
		return -FI_EINVAL;
	r->buf = buf;
	r->len = len;
	r->link.iovs = 0;
	r->link.state = SHIM_DIRECT;
	d->is_done = 0;
	ct_gate_enter(note(ep, tag, CT_DOING_RECV));
	if (GW_LIKELY(!ep->match.posted && !ep->match.unexpected && src != SHIM_ANY)) {
		expect(ep, r, src, tag, ignore);
	} else {
		post(ep, r, src, tag, ignore);
		for (int n = 0; n < DIRECT_BUDGET && !d->is_done && noc_poll_soon(1); n++)
			if (GW_UNLIKELY(shim_rma_waits(ep)))
				shim_rma_flush(ep);
	}
	*has_events = ep->rx_cq->head != ep->rx_cq->tail;
	ct_gate_leave();
	return 0;
}

int shim_direct_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context)
{
	static struct godwit_direct_ops direct_ops = { .size = sizeof(direct_ops), .recv = direct_recv };

	_Static_assert(sizeof(struct shim_recv) <= sizeof(((struct godwit_direct *)0)->scratch), "room for a receive");
	if (strcmp(name, GODWIT_DIRECT))
		return -FI_ENOSYS;
	*ops = &direct_ops;
	return 0;
}

/* Give a receive its buffers: one is noted, more are copied, so that the caller's array is free again. */
static int set_buffers(struct shim_recv *r, const struct iovec *iov, size_t iovs)
{
	r->link.iovs = 0;
	r->buf = iovs ? iov[0].iov_base : NULL;
	r->len = shim_iov_len(iov, iovs);
	if (iovs <= 1)
		return 0;
	r->buf = iov_copy(iov, iovs);
	if (!r->buf)
		return -FI_ENOMEM;
	r->link.iovs = (uint16_t)iovs;
	return 0;
}

/* Probe: report the message that a receive would take. A miss is told at once, not through the queue. */
static ssize_t peek(struct shim_ep *ep, const struct fi_msg_tagged *msg, uint32_t src, uint64_t flags)
{
	struct shim_unexp *u = shim_match_peek(&ep->match, src, msg->tag, msg->ignore);
	struct shim_recv *r = msg->context;
	struct shim_comp *c;
	uint64_t since = 0;
	int moved = 0;

	note(ep, msg->tag, CT_DOING_PROBE);
	if (!u) {
		since = shim_ticks();
		moved = noc_poll(PEEK_BUDGET);
		u = shim_match_peek(&ep->match, src, msg->tag, msg->ignore);
	}
	if (!u) {
		if (!moved && ep->rx_cq->head == ep->rx_cq->tail)
			shim_cq_idle(ep->rx_cq, since);
		return -FI_ENOMSG;
	}
	ep->rx_cq->empties = 0;
	c = shim_cq_push(ep->rx_cq);
	c->e = (struct fi_cq_tagged_entry){
		.op_context = msg->context,
		.flags = FI_RECV | FI_TAGGED | FI_REMOTE_CQ_DATA | (flags & FI_CLAIM),
		.len = u->len,
		.data = u->data,
		.tag = u->tag,
	};
	c->olen = 0;
	c->err = 0;
	c->src = u->src;
	if (flags & FI_CLAIM) { /* out of everybody's reach, until a receive with this context */
		shim_match_remove(&ep->match, u);
		r->link.state = SHIM_CLAIMED;
		r->buf = u;
	} else if (flags & FI_DISCARD) {
		shim_match_remove(&ep->match, u);
		if (u->offer)
			shim_drop_offer(u->offer);
		shim_unexp_free(u);
	}
	return 0;
}

static ssize_t receive_claimed(struct shim_ep *ep, const struct fi_msg_tagged *msg, uint64_t flags)
{
	struct shim_recv *r = msg->context;
	struct shim_unexp *u = r->buf;
	int rc;

	if (!(r->link.state & SHIM_CLAIMED))
		return -FI_EINVAL;
	if (flags & FI_DISCARD) {
		r->link.state = 0;
		r->link.iovs = 0;
		r->buf = NULL;
		r->len = u->len; /* nothing is cut off: nothing was asked for */
		if (u->offer)
			shim_drop_offer(u->offer);
		finish(ep, r, u->src, u->tag, u->data, u->len, 0);
		shim_unexp_free(u);
		return 0;
	}
	rc = set_buffers(r, msg->msg_iov, msg->iov_count);
	if (rc) {
		r->buf = u;
		return rc;
	}
	r->link.state = ep->rx_selective && !(flags & FI_COMPLETION) ? SHIM_QUIET : 0;
	take_unexpected(ep, r, u);
	return 0;
}

static ssize_t trecvmsg(struct fid_ep *fid, const struct fi_msg_tagged *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);
	struct shim_recv *r = msg->context;
	uint32_t src;
	ssize_t rc;

	if (!r || msg->iov_count > SHIM_IOV_LIMIT || !shim_source(ep, msg->addr, &src))
		return -FI_EINVAL;
	ct_gate_enter(flags & FI_PEEK ? CT_DOING_PROBE : doing(msg->tag, CT_DOING_RECV));
	if (flags & FI_PEEK) {
		rc = peek(ep, msg, src, flags);
	} else if (flags & FI_CLAIM) {
		rc = receive_claimed(ep, msg, flags);
	} else {
		rc = set_buffers(r, msg->msg_iov, msg->iov_count);
		if (!rc) {
			r->link.state = ep->rx_selective && !(flags & FI_COMPLETION) ? SHIM_QUIET : 0;
			note(ep, msg->tag, CT_DOING_RECV);
			post(ep, r, src, msg->tag, msg->ignore);
		}
	}
	ct_gate_leave();
	return rc;
}

static ssize_t trecvv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t from,
                      uint64_t tag, uint64_t ignore, void *context)
{
	struct fi_msg_tagged msg = {
		.msg_iov = iov, .iov_count = count, .addr = from, .tag = tag, .ignore = ignore, .context = context,
	};

	return trecvmsg(fid, &msg, ep_of(fid)->rx_flags);
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static ssize_t tinjectdata(struct fid_ep *fid, const void *buf, size_t len, uint64_t data, fi_addr_t to, uint64_t tag)
{
	struct shim_ep *ep = ep_of(fid);
	struct iovec iov = { (void *)buf, len };
	ssize_t rc;

	if (GW_UNLIKELY(len > SHIM_INJECT_SIZE))
		return -FI_EMSGSIZE;
	ct_gate_enter(note(ep, tag, CT_DOING_SEND));
	rc = shim_send(ep, NOC_PORT_TAGGED, to, &iov, 1, tag, data, NOC_F_COPY, NULL, FI_TAGGED);
	ct_gate_leave();
	return rc;
}

static ssize_t tinject(struct fid_ep *fid, const void *buf, size_t len, fi_addr_t to, uint64_t tag)
{
	return tinjectdata(fid, buf, len, 0, to, tag);
}

static ssize_t tsend_iov(struct shim_ep *ep, const struct iovec *iov, size_t iovs, uint64_t data, fi_addr_t to,
                         uint64_t tag, void *context, bool completes, uint64_t flags)
{
	static const struct iovec nothing;
	size_t len = shim_iov_len(iov, iovs);
	uint32_t noc_flags = 0;
	ssize_t rc;

	if (GW_UNLIKELY((completes && !context) || iovs > SHIM_IOV_LIMIT))
		return -FI_EINVAL;
	if (flags & FI_INJECT) {
		if (len > SHIM_INJECT_SIZE)
			return -FI_EMSGSIZE;
		noc_flags |= NOC_F_COPY;
	}
	if (!len) {
		noc_flags |= NOC_F_COPY | NOC_F_RESERVE;
		iov = &nothing;
		iovs = 1;
	}
	ct_gate_enter(note(ep, tag, CT_DOING_SEND));
	rc = shim_send(ep, NOC_PORT_TAGGED, to, iov, iovs, tag, data, noc_flags, completes ? context : NULL, FI_TAGGED);
	ct_gate_leave();
	return rc;
}

static ssize_t tsenddata(struct fid_ep *fid, const void *buf, size_t len, void *desc, uint64_t data, fi_addr_t to,
                         uint64_t tag, void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct iovec iov = { (void *)buf, len };

	return tsend_iov(ep, &iov, 1, data, to, tag, context, ep->tx_completes, ep->tx_flags);
}

static ssize_t tsend(struct fid_ep *fid, const void *buf, size_t len, void *desc, fi_addr_t to, uint64_t tag,
                     void *context)
{
	return tsenddata(fid, buf, len, desc, 0, to, tag, context);
}

static ssize_t tsendv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t to,
                      uint64_t tag, void *context)
{
	struct shim_ep *ep = ep_of(fid);

	return tsend_iov(ep, iov, count, 0, to, tag, context, ep->tx_completes, ep->tx_flags);
}

static ssize_t tsendmsg(struct fid_ep *fid, const struct fi_msg_tagged *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);

	return tsend_iov(ep, msg->msg_iov, msg->iov_count, flags & FI_REMOTE_CQ_DATA ? msg->data : 0, msg->addr,
	                 msg->tag, msg->context, !ep->tx_selective || (flags & FI_COMPLETION), flags);
}

struct fi_ops_tagged shim_tagged_ops = {
	.size = sizeof(struct fi_ops_tagged),
	.recv = trecv,
	.recvv = trecvv,
	.recvmsg = trecvmsg,
	.send = tsend,
	.sendv = tsendv,
	.sendmsg = tsendmsg,
	.inject = tinject,
	.senddata = tsenddata,
	.injectdata = tinjectdata,
};
