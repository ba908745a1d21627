/* SPDX-License-Identifier: BSD-2-Clause */
/* Untagged messages, which MPICH uses for its active messages: few large buffers that take many messages each. */
#include "mpi-shim/shim.h"

#define MSG_ALIGN 16 /* of each message in a multi-receive buffer: headers are read where they lie */

static inline struct shim_ep *ep_of(struct fid_ep *fid)
{
	return gw_container_of(fid, struct shim_ep, fid);
}

/* A bulk transfer under way into a buffer. User area. */
struct msg_bulk {
	struct shim_msg_recv *recv;
	char *at;
	size_t room;
	uint64_t data;
	uint32_t src;
};

/* ---- posted buffers, in order of posting ----------------------------------------------------------------------- */

static void list_append(struct shim_ep *ep, struct shim_msg_recv *r)
{
	r->next = NULL;
	r->prev = ep->msg_last;
	if (ep->msg_last)
		ep->msg_last->next = r;
	else
		ep->msg_first = r;
	ep->msg_last = r;
}

static void list_remove(struct shim_ep *ep, struct shim_msg_recv *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		ep->msg_first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		ep->msg_last = r->prev;
}

static void complete(struct shim_ep *ep, struct shim_msg_recv *r, uint64_t flags, void *at, size_t room, uint64_t len,
                     uint64_t data, uint32_t src, int status)
{
	struct shim_comp *c;

	if (ep->rx_cntr && (flags & FI_RECV)) {
		ep->rx_cntr->value += status == 0 && len <= room;
		ep->rx_cntr->errors += status != 0 || len > room;
	}
	if ((r->state & SHIM_QUIET) && !status && len <= room && !(flags & FI_MULTI_RECV))
		return;
	c = shim_cq_push(ep->rx_cq);
	c->e = (struct fi_cq_tagged_entry){
		.op_context = r, .flags = flags, .len = len < room ? len : room, .buf = at, .data = data,
	};
	c->olen = len > room ? len - room : 0;
	c->err = status ? (uint32_t)-status : len > room ? FI_ETRUNC : 0;
	c->src = src;
}

/* No message will be put into it any more; it is the program's again when the last transfer has ended. */
static void close_buffer(struct shim_ep *ep, struct shim_msg_recv *r)
{
	list_remove(ep, r);
	r->is_closed = true;
	if (!r->pending)
		r->state &= (uint8_t)~SHIM_MSG;
}

/*
 * The buffer for a message from @src: the first posted one that takes its source. A multi-receive buffer with no room
 * for it is given back, empty-handed, and the next one is asked.
 */
static struct shim_msg_recv *find_buffer(struct shim_ep *ep, uint32_t src, uint64_t len)
{
	for (struct shim_msg_recv *r = ep->msg_first, *next; r; r = next) {
		next = r->next;
		if (r->src != SHIM_ANY && r->src != src)
			continue;
		if (!r->is_multi || len <= r->len - r->used || !r->used)
			return r;
		close_buffer(ep, r);
		if (!r->pending)
			complete(ep, r, FI_MULTI_RECV | FI_MSG, NULL, 0, 0, 0, SHIM_ANY, 0);
	}
	return NULL;
}

/* Set aside the room for a message; closes the buffer when it has too little left for another. */
static char *reserve(struct shim_ep *ep, struct shim_msg_recv *r, uint64_t len, size_t *room)
{
	char *at = r->buf + r->used;

	*room = r->len - r->used;
	if (!r->is_multi) {
		close_buffer(ep, r);
		return r->buf;
	}
	if (len > *room)
		len = *room;
	r->used += (len + MSG_ALIGN - 1) & ~(size_t)(MSG_ALIGN - 1);
	if (r->used > r->len)
		r->used = r->len;
	if (r->len - r->used < ep->min_multi_recv || r->len == r->used)
		close_buffer(ep, r);
	return at;
}

static inline uint64_t last_flag(const struct shim_msg_recv *r)
{
	return r->is_multi && r->is_closed && !r->pending ? FI_MULTI_RECV : 0;
}

static void free_iov(struct shim_msg_recv *r)
{
	if (r->iovs)
		ct_area_free(r->buf, r->iovs * sizeof(struct iovec));
	r->iovs = 0;
}

static void deliver(struct shim_ep *ep, struct shim_msg_recv *r, const struct noc_msg *msg)
{
	size_t room, n;
	char *at = reserve(ep, r, msg->len, &room);

	n = msg->len < room ? msg->len : room;
	if (r->iovs) {
		shim_iov_scatter((struct iovec *)(void *)r->buf, r->iovs, msg->payload, n);
		free_iov(r);
		at = NULL;
	} else if (n) {
		memcpy(at, msg->payload, n);
	}
	complete(ep, r, FI_RECV | FI_MSG | FI_REMOTE_CQ_DATA | last_flag(r), at, room, msg->len, msg->data, msg->src, 0);
}

static void accept_offer(struct shim_ep *ep, struct shim_msg_recv *r, const struct noc_msg *msg)
{
	struct msg_bulk *b = ct_area_alloc(sizeof(*b));
	struct iovec one;
	int rc;

	if (!b)
		shim_die("the user area is full (%zu bytes): no room to receive a message", ct_area_used());
	r->pending++;
	*b = (struct msg_bulk){ .recv = r, .data = msg->data, .src = msg->src };
	b->at = reserve(ep, r, msg->len, &b->room);
	one = (struct iovec){ b->at, msg->len < b->room ? msg->len : b->room };
	rc = r->iovs ? noc_bulk_accept(msg->offer, (struct iovec *)(void *)r->buf, r->iovs, b)
	             : noc_bulk_accept(msg->offer, &one, 1, b);
	if (rc < 0)
		shim_msg_port.received(b, msg->len, rc);
}

/* ---- handlers -------------------------------------------------------------------------------------------------- */

static void take(struct shim_ep *ep, struct shim_msg_recv *r, const struct noc_msg *msg)
{
	if (msg->offer)
		accept_offer(ep, r, msg);
	else
		deliver(ep, r, msg);
}

static void message(const struct noc_msg *msg)
{
	struct shim_ep *ep = shim_the_ep;
	struct shim_msg_recv *r;
	struct shim_unexp *u;

	if (!ep) {
		if (msg->offer)
			shim_drop_offer(msg->offer);
		return;
	}
	if (!ep->is_mixed)
		shim_hold_look(ep, msg);
	r = find_buffer(ep, msg->src, msg->len);
	if (r) {
		take(ep, r, msg);
		return;
	}
	u = shim_unexp_make(msg);
	u->next = NULL;
	u->prev = ep->msg_unexp_last;
	if (ep->msg_unexp_last)
		ep->msg_unexp_last->next = u;
	else
		ep->msg_unexp = u;
	ep->msg_unexp_last = u;
}

static void sent(void *context, int status)
{
	if (shim_the_ep)
		shim_complete_send(shim_the_ep, context, FI_MSG, status);
}

static void received(void *context, uint64_t len, int status)
{
	struct msg_bulk *b = context;
	struct shim_ep *ep = shim_the_ep;

	if (!b)
		return;
	if (ep) {
		struct shim_msg_recv *r = b->recv;

		r->pending--;
		if (r->is_closed && !r->pending)
			r->state &= (uint8_t)~SHIM_MSG;
		free_iov(r);
		complete(ep, r, FI_RECV | FI_MSG | FI_REMOTE_CQ_DATA | last_flag(r), b->at, b->room, len, b->data, b->src,
		         status);
	}
	ct_area_free(b, sizeof(*b));
}

const struct noc_port_ops shim_msg_port = { .message = message, .sent = sent, .received = received };

static void unexp_unlink(struct shim_ep *ep, struct shim_unexp *u)
{
	if (u->prev)
		u->prev->next = u->next;
	else
		ep->msg_unexp = u->next;
	if (u->next)
		u->next->prev = u->prev;
	else
		ep->msg_unexp_last = u->prev;
}

void shim_msg_close(struct shim_ep *ep)
{
	for (struct shim_unexp *u; (u = ep->msg_unexp); ) {
		unexp_unlink(ep, u);
		if (u->offer)
			shim_drop_offer(u->offer);
		shim_unexp_free(u);
	}
	for (struct shim_msg_recv *r; (r = ep->msg_first); ) {
		list_remove(ep, r);
		r->state = 0;
	}
}

bool shim_msg_cancel(struct shim_ep *ep, void *context)
{
	struct shim_msg_recv *r = context;

	if (r->is_closed || r->pending)
		return false;
	list_remove(ep, r);
	r->state = 0;
	free_iov(r);
	return true;
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Messages that came too early go into the new buffer, in order of arrival, as long as it takes them. */
static void feed(struct shim_ep *ep, struct shim_msg_recv *r)
{
	for (struct shim_unexp *u = ep->msg_unexp, *next; u && !r->is_closed; u = next) {
		struct noc_msg msg = { u->src, NOC_PORT_MSG, u->tag, u->data, u->len, u->payload, u->offer };

		next = u->next;
		if (r->src != SHIM_ANY && r->src != u->src)
			continue;
		if (find_buffer(ep, u->src, u->len) != r)
			continue;
		unexp_unlink(ep, u);
		take(ep, r, &msg);
		shim_unexp_free(u);
	}
}

static ssize_t recvmsg_iov(struct shim_ep *ep, const struct iovec *iov, size_t iovs, fi_addr_t from, void *context,
                           bool completes, uint64_t flags)
{
	struct shim_msg_recv *r = context;
	ssize_t rc = 0;
	uint32_t src;

	if (!r || iovs > SHIM_IOV_LIMIT || !shim_source(ep, from, &src) || ((flags & FI_MULTI_RECV) && iovs != 1))
		return -FI_EINVAL;
	ct_gate_enter(CT_DOING_RECV);
	*r = (struct shim_msg_recv){
		.buf = iovs ? iov[0].iov_base : NULL,
		.len = shim_iov_len(iov, iovs),
		.src = src,
		.is_multi = !!(flags & FI_MULTI_RECV),
		.state = completes ? SHIM_MSG : SHIM_MSG | SHIM_QUIET,
	};
	if (iovs > 1) {
		struct iovec *copy = ct_area_alloc(iovs * sizeof(*iov));

		if (copy) {
			memcpy(copy, iov, iovs * sizeof(*iov));
			r->buf = (char *)copy;
			r->iovs = (uint16_t)iovs;
		} else {
			rc = -FI_ENOMEM;
			r->state = 0;
		}
	}
	ep->rx_cq->empties = 0;
	if (!rc) {
		list_append(ep, r);
		feed(ep, r);
	}
	ct_gate_leave();
	return rc;
}

static ssize_t msg_recv(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t from, void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct iovec iov = { buf, len };

	return recvmsg_iov(ep, &iov, 1, from, context, ep->rx_completes, ep->rx_flags);
}

static ssize_t msg_recvv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t from,
                         void *context)
{
	struct shim_ep *ep = ep_of(fid);

	return recvmsg_iov(ep, iov, count, from, context, ep->rx_completes, ep->rx_flags);
}

static ssize_t msg_recvmsg(struct fid_ep *fid, const struct fi_msg *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);

	return recvmsg_iov(ep, msg->msg_iov, msg->iov_count, msg->addr, msg->context,
	                   !ep->rx_selective || (flags & FI_COMPLETION), flags);
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static ssize_t send_iov(struct shim_ep *ep, const struct iovec *iov, size_t iovs, uint64_t data, fi_addr_t to,
                        void *context, bool completes, uint64_t flags)
{
	size_t len = shim_iov_len(iov, iovs);
	uint32_t noc_flags = 0;
	ssize_t rc;

	if ((completes && !context) || iovs > SHIM_IOV_LIMIT)
		return -FI_EINVAL;
	if (flags & FI_INJECT) {
		if (len > SHIM_INJECT_SIZE)
			return -FI_EMSGSIZE;
		noc_flags |= NOC_F_COPY;
	}
	if (!len) {
		noc_flags |= NOC_F_COPY | NOC_F_RESERVE;
		iovs = 0; /* the address of nothing may be NULL */
	}
	ct_gate_enter(CT_DOING_SEND);
	rc = shim_send(ep, NOC_PORT_MSG, to, iov, iovs, 0, data, noc_flags, completes ? context : NULL, FI_MSG);
	ct_gate_leave();
	return rc;
}

static ssize_t msg_injectdata(struct fid_ep *fid, const void *buf, size_t len, uint64_t data, fi_addr_t to)
{
	struct iovec iov = { (void *)buf, len };

	return send_iov(ep_of(fid), &iov, 1, data, to, NULL, false, FI_INJECT);
}

static ssize_t msg_inject(struct fid_ep *fid, const void *buf, size_t len, fi_addr_t to)
{
	return msg_injectdata(fid, buf, len, 0, to);
}

static ssize_t msg_senddata(struct fid_ep *fid, const void *buf, size_t len, void *desc, uint64_t data, fi_addr_t to,
                            void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct iovec iov = { (void *)buf, len };

	return send_iov(ep, &iov, 1, data, to, context, ep->tx_completes, ep->tx_flags);
}

static ssize_t msg_send(struct fid_ep *fid, const void *buf, size_t len, void *desc, fi_addr_t to, void *context)
{
	return msg_senddata(fid, buf, len, desc, 0, to, context);
}

static ssize_t msg_sendv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t to,
                         void *context)
{
	struct shim_ep *ep = ep_of(fid);

	return send_iov(ep, iov, count, 0, to, context, ep->tx_completes, ep->tx_flags);
}

static ssize_t msg_sendmsg(struct fid_ep *fid, const struct fi_msg *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);

	return send_iov(ep, msg->msg_iov, msg->iov_count, flags & FI_REMOTE_CQ_DATA ? msg->data : 0, msg->addr,
	                msg->context, !ep->tx_selective || (flags & FI_COMPLETION), flags);
}

struct fi_ops_msg shim_msg_ops = {
	.size = sizeof(struct fi_ops_msg),
	.recv = msg_recv,
	.recvv = msg_recvv,
	.recvmsg = msg_recvmsg,
	.send = msg_send,
	.sendv = msg_sendv,
	.sendmsg = msg_sendmsg,
	.inject = msg_inject,
	.senddata = msg_senddata,
	.injectdata = msg_injectdata,
};
