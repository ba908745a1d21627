/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One-sided operations: reading and writing the memory of others; what arrives about one-sided operations of all kinds.
 *
 *   reader                            owner          writer                            owner
 *     | READ {key, offset, len} -----> |               | WRITE {key, offset} + bytes ---> |   handler writes
 *     | <----- DATA (eager or bulk) -- |               | <-------------------------- ACK |
 *                                                      |                                 |
 *                                                      | WRITE_LONG {key, offset, len} -> |
 *                                                      | <------------------------- PULL |   names where it wants it
 *                                                      | DATA (bulk) ------------------> |
 *                                                      | <-------------------------- ACK |
 *
 * The owner's handlers do the work, in its polls or in its agent's; its program need not take part. An operation is
 * complete when its bytes are in place (FI_DELIVERY_COMPLETE), which is what counters and completions say.
 */
#include "mpi-shim/rma.h"

struct rma_request { /* payload of READ, WRITE_LONG, and before the bytes of WRITE; little endian */
	uint64_t key, offset, len;
};
_Static_assert(sizeof(struct rma_request) == 24, "wire format");
#define RMA_EAGER (NOC_EAGER_MAX - sizeof(struct rma_request)) /* bytes that a WRITE carries */

/* An operation under way, on the side where the bytes are not yet, or no longer, in place. Its address is the data word
 * of the messages about it, and is not looked into by the other side. User area. */
struct rma_op {
	void *context;      /* of the completion; NULL: none is wanted */
	uint64_t len;
	uint64_t peer_op;   /* an owner's pull: the writer's operation */
	uint32_t peer;      /* the other side */
	bool is_read, is_pull;
	uint32_t iovs;
	struct iovec iov[];
};

/* An answer that found the channel's bound exhausted. User area. */
struct rma_reply {
	struct rma_reply *next;
	uint64_t tag, data;
	uint32_t to, iovs;
	size_t size;        /* of this record */
	struct iovec iov[]; /* and, copied, the bytes behind it */
};

static inline struct shim_ep *ep_of(struct fid_ep *fid)
{
	return gw_container_of(fid, struct shim_ep, fid);
}

/* ---- operations ------------------------------------------------------------------------------------------------ */

static struct rma_op *op_new(const struct iovec *iov, size_t iovs)
{
	struct rma_op *op = ct_area_alloc(sizeof(*op) + iovs * sizeof(*iov));

	if (!op)
		return NULL;
	*op = (struct rma_op){ .iovs = (uint32_t)iovs, .len = shim_iov_len(iov, iovs) };
	memcpy(op->iov, iov, iovs * sizeof(*iov));
	return op;
}

static void op_free(struct rma_op *op)
{
	ct_area_free(op, sizeof(*op) + op->iovs * sizeof(struct iovec));
}

void shim_rma_complete(struct shim_ep *ep, void *context, uint64_t flags, uint64_t len, int status)
{
	if (ep->rma_cntr) {
		ep->rma_cntr->value += status == 0;
		ep->rma_cntr->errors += status != 0;
	}
	if (context || status) {
		struct shim_comp *c = shim_cq_push(ep->tx_cq);

		c->e = (struct fi_cq_tagged_entry){ .op_context = context, .flags = flags, .len = len };
		c->olen = 0;
		c->err = (uint32_t)-status;
		c->src = SHIM_ANY;
	}
}

/* The bytes are in place, or will not be. @op is NULL for a short write of which no completion is wanted. */
static void op_done(struct shim_ep *ep, uint32_t peer, struct rma_op *op, int status)
{
	shim_rma_heard(ep, peer);
	if (!op) {
		shim_rma_complete(ep, NULL, FI_RMA | FI_WRITE, 0, status);
		return;
	}
	shim_rma_complete(ep, op->context, FI_RMA | (op->is_read ? FI_READ : FI_WRITE), op->len, status);
	op_free(op);
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

static int answer_try(uint32_t to, uint64_t tag, uint64_t data, const struct iovec *iov, size_t iovs)
{
	static const struct iovec nothing;
	size_t len = shim_iov_len(iov, iovs);
	bool is_done; /* nobody asks, but the short way out wants it */

	return noc_send(to, NOC_PORT_RMA, tag, data, len ? iov : &nothing, len ? iovs : 1,
	                len <= NOC_EAGER_MAX ? NOC_F_COPY | (len ? 0 : NOC_F_RESERVE) : 0, NULL, &is_done);
}

void shim_rma_answer(struct shim_ep *ep, uint32_t to, enum rma_tag tag, uint64_t data, const struct iovec *iov, size_t iovs,
                     bool is_copied)
{
	size_t len = is_copied ? shim_iov_len(iov, iovs) : 0, size = sizeof(struct rma_reply) + (is_copied ? 1 : iovs) * sizeof(*iov) + len;
	struct rma_reply *r;

	if (!ep->replies && answer_try(to, tag, data, iov, iovs) != -FI_EAGAIN)
		return; /* sent; or the asker is gone and needs no answer */
	r = ct_area_alloc(size);
	if (!r)
		shim_die("the user area is full (%zu bytes): no room to answer a one-sided operation", ct_area_used());
	*r = (struct rma_reply){ .tag = tag, .data = data, .to = to, .iovs = (uint32_t)(is_copied ? 1 : iovs), .size = size };
	if (is_copied) {
		char *bytes = (char *)&r->iov[1];

		r->iov[0] = (struct iovec){ bytes, len };
		for (size_t i = 0; i < iovs; bytes += iov[i++].iov_len)
			memcpy(bytes, iov[i].iov_base, iov[i].iov_len);
	} else if (iovs) {
		memcpy(r->iov, iov, iovs * sizeof(*iov));
	}
	if (ep->replies)
		ep->replies_last->next = r;
	else
		ep->replies = r;
	ep->replies_last = r;
}

void shim_rma_flush(struct shim_ep *ep)
{
	for (struct rma_reply *r; (r = ep->replies); ) {
		if (answer_try(r->to, r->tag, r->data, r->iov, r->iovs) == -FI_EAGAIN)
			return;
		ep->replies = r->next;
		ct_area_free(r, r->size);
	}
	if (ep->atomics)
		shim_atomic_push(ep);
	if (ep->held && !ct_agent_is_me())
		shim_hold_serve(ep);
}

/* ---- what arrives ---------------------------------------------------------------------------------------------- */

static void serve(struct shim_ep *ep, const struct noc_msg *msg)
{
	const char *bytes = msg->payload;
	struct rma_request q;
	struct rma_op *pull;
	struct iovec iov;

	if (msg->offer || msg->len < sizeof(q))
		return;
	memcpy(&q, bytes, sizeof(q));
	if (msg->tag == RMA_WRITE && q.len != msg->len - sizeof(q))
		return;
	iov.iov_base = shim_mr_place(q.key, q.offset, q.len, msg->tag == RMA_READ ? FI_REMOTE_READ : FI_REMOTE_WRITE);
	iov.iov_len = q.len;
	if (!iov.iov_base && q.len) {
		shim_rma_answer(ep, msg->src, RMA_ERROR, msg->data, NULL, 0, false);
		return;
	}
	switch (msg->tag) {
	case RMA_READ:
		shim_rma_answer(ep, msg->src, RMA_DATA, msg->data, &iov, 1, false);
		break;
	case RMA_WRITE:
		if (q.len == 8)
			memcpy(iov.iov_base, bytes + sizeof(q), 8); /* at once: the program may be looking */
		else if (q.len)
			memcpy(iov.iov_base, bytes + sizeof(q), q.len);
		shim_rma_answer(ep, msg->src, RMA_ACK, msg->data, NULL, 0, false);
		break;
	case RMA_WRITE_LONG:
		pull = op_new(&iov, 1);
		if (!pull)
			shim_die("the user area is full (%zu bytes): no room for a one-sided write", ct_area_used());
		pull->is_pull = true;
		pull->peer = msg->src;
		pull->peer_op = msg->data;
		shim_rma_answer(ep, msg->src, RMA_PULL, msg->data, &(struct iovec){ &pull, sizeof(pull) }, 1, true);
		break;
	}
}

/* The bytes of a read, or of a long write that we pull, are all here. */
static void data_done(struct shim_ep *ep, struct rma_op *op, int status)
{
	if (!op->is_pull) {
		op_done(ep, op->peer, op, status);
		return;
	}
	shim_rma_answer(ep, op->peer, status ? RMA_ERROR : RMA_ACK, op->peer_op, NULL, 0, false);
	op_free(op);
}

static void message(const struct noc_msg *msg)
{
	struct rma_op *op = (struct rma_op *)(uintptr_t)msg->data;
	struct shim_ep *ep = shim_the_ep;
	uint64_t word;
	int rc;

	if (!ep) {
		if (msg->offer)
			shim_drop_offer(msg->offer);
		return;
	}
	switch (msg->tag) {
	case RMA_READ:
	case RMA_WRITE:
	case RMA_WRITE_LONG:
		serve(ep, msg);
		break;
	case RMA_DATA:
		if (msg->offer) {
			rc = noc_bulk_accept(msg->offer, op->iov, op->iovs, op);
			if (rc < 0)
				data_done(ep, op, rc);
		} else {
			shim_iov_scatter(op->iov, op->iovs, msg->payload, msg->len);
			data_done(ep, op, 0);
		}
		break;
	case RMA_PULL:
		if (msg->len != sizeof(word))
			break;
		memcpy(&word, msg->payload, sizeof(word));
		shim_rma_answer(ep, msg->src, RMA_DATA, word, op->iov, op->iovs, false);
		break;
	case RMA_ACK:
		op_done(ep, msg->src, op, 0);
		break;
	case RMA_ERROR:
		op_done(ep, msg->src, op, -FI_EACCES);
		break;
	case RMA_ATOMIC:
		shim_atomic_serve(ep, msg);
		break;
	case RMA_VALUE:
	case RMA_REFUSED:
		shim_atomic_answered(ep, msg);
		break;
	}
}

static void sent(void *context, int status)
{
}

static void received(void *context, uint64_t len, int status)
{
	if (context && shim_the_ep)
		data_done(shim_the_ep, context, status);
}

static bool turn(void)
{
	if (!shim_the_ep || !shim_rma_waits(shim_the_ep))
		return false;
	shim_rma_flush(shim_the_ep);
	return shim_the_ep->replies || shim_the_ep->atomics; /* what is held is the program's affair */
}

const struct noc_port_ops shim_rma_port = { .message = message, .sent = sent, .received = received, .turn = turn };

/* ---- calls ----------------------------------------------------------------------------------------------------- */

/* A request with what it carries, in as few pieces as may be: one that fits in a slot goes the short way. */
static int request(uint32_t peer, enum rma_tag tag, struct rma_op *op, const struct rma_request *q, const struct iovec *iov,
                   size_t iovs)
{
	struct { struct rma_request q; char bytes[NOC_INLINE_MAX - sizeof(*q)]; } slot; /* neither is cleared: it would show */
	struct iovec out[SHIM_IOV_LIMIT + 1];
	bool is_done; /* it is copied: nobody asks, but the short way out wants it */

	out[0] = (struct iovec){ (void *)(uintptr_t)q, sizeof(*q) };
	if (tag != RMA_WRITE) {
		iovs = 0;
	} else if (iovs == 1 && iov->iov_len <= sizeof(slot.bytes)) {
		slot.q = *q;
		if (iov->iov_len == 8) /* by far the most frequent */
			memcpy(slot.bytes, iov->iov_base, 8);
		else
			memcpy(slot.bytes, iov->iov_base, iov->iov_len);
		out[0] = (struct iovec){ &slot, sizeof(*q) + iov->iov_len };
		iovs = 0;
	} else {
		memcpy(&out[1], iov, iovs * sizeof(*iov));
	}
	return noc_send(peer, NOC_PORT_RMA, tag, (uintptr_t)op, out, 1 + iovs, NOC_F_COPY, NULL, &is_done);
}

static ssize_t start(struct shim_ep *ep, bool is_read, const struct iovec *iov, size_t iovs, fi_addr_t peer,
                     uint64_t addr, uint64_t key, void *context)
{
	struct rma_request q = { .key = key, .offset = addr, .len = shim_iov_len(iov, iovs) };
	bool is_eager = !is_read && q.len <= RMA_EAGER;
	enum rma_tag tag = is_read ? RMA_READ : is_eager ? RMA_WRITE : RMA_WRITE_LONG;
	struct rma_op *op = NULL;
	ssize_t rc = -FI_EAGAIN;

	if (iovs > SHIM_IOV_LIMIT)
		return -FI_EINVAL;
	if (peer >> 32 != ep->job || (uint32_t)peer >= ep->names)
		return -FI_EHOSTUNREACH;
	ct_gate_enter(is_read ? CT_DOING_RECV : CT_DOING_SEND);
	ep->tx_cq->empties = 0;
	if (context || !is_eager) { /* otherwise it is sent, and nothing has to be kept but the number of those under way */
		op = op_new(iov, iovs);
		if (!op)
			goto out;
		op->context = context;
		op->is_read = is_read;
		op->peer = (uint32_t)peer;
	}
	rc = request((uint32_t)peer, tag, op, &q, iov, iovs);
	if (rc == 0)
		shim_rma_asked(ep, (uint32_t)peer);
	else if (op)
		op_free(op);
out:
	ct_gate_leave();
	return rc;
}

static ssize_t start_full(struct fid_ep *fid, bool is_read, const struct iovec *iov, size_t iovs, fi_addr_t peer,
                          uint64_t addr, uint64_t key, void *context, bool completes)
{
	if (completes && !context)
		return -FI_EINVAL;
	return start(ep_of(fid), is_read, iov, iovs, peer, addr, key, completes ? context : NULL);
}

static ssize_t rma_read(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t from, uint64_t addr,
                        uint64_t key, void *context)
{
	struct iovec iov = { buf, len };

	return start_full(fid, true, &iov, 1, from, addr, key, context, ep_of(fid)->tx_completes);
}

static ssize_t rma_readv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t from,
                         uint64_t addr, uint64_t key, void *context)
{
	return start_full(fid, true, iov, count, from, addr, key, context, ep_of(fid)->tx_completes);
}

static ssize_t rma_write(struct fid_ep *fid, const void *buf, size_t len, void *desc, fi_addr_t to, uint64_t addr,
                         uint64_t key, void *context)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };

	return start_full(fid, false, &iov, 1, to, addr, key, context, ep_of(fid)->tx_completes);
}

static ssize_t rma_writev(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t to,
                          uint64_t addr, uint64_t key, void *context)
{
	return start_full(fid, false, iov, count, to, addr, key, context, ep_of(fid)->tx_completes);
}

static ssize_t msg_start(struct fid_ep *fid, bool is_read, const struct fi_msg_rma *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);
	bool completes = !ep->tx_selective || (flags & FI_COMPLETION);

	if (msg->rma_iov_count != 1 || (flags & FI_REMOTE_CQ_DATA))
		return -FI_EINVAL;
	if ((flags & FI_INJECT) && shim_iov_len(msg->msg_iov, msg->iov_count) > SHIM_INJECT_SIZE)
		return -FI_EMSGSIZE;
	return start_full(fid, is_read, msg->msg_iov, msg->iov_count, msg->addr, msg->rma_iov[0].addr, msg->rma_iov[0].key,
	                  msg->context, completes);
}

static ssize_t rma_readmsg(struct fid_ep *fid, const struct fi_msg_rma *msg, uint64_t flags)
{
	return msg_start(fid, true, msg, flags);
}

static ssize_t rma_writemsg(struct fid_ep *fid, const struct fi_msg_rma *msg, uint64_t flags)
{
	return msg_start(fid, false, msg, flags);
}

static ssize_t rma_inject(struct fid_ep *fid, const void *buf, size_t len, fi_addr_t to, uint64_t addr, uint64_t key)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };

	if (len > SHIM_INJECT_SIZE)
		return -FI_EMSGSIZE;
	return start(ep_of(fid), false, &iov, 1, to, addr, key, NULL);
}

/* A write that also reports at its target is not offered: FI_RMA_EVENT and completion data of writes. */
static ssize_t no_writedata(struct fid_ep *ep, const void *buf, size_t len, void *desc, uint64_t data, fi_addr_t to,
                            uint64_t addr, uint64_t key, void *context)
{
	return -FI_ENOSYS;
}

static ssize_t no_injectdata(struct fid_ep *ep, const void *buf, size_t len, uint64_t data, fi_addr_t to, uint64_t addr,
                             uint64_t key)
{
	return -FI_ENOSYS;
}

struct fi_ops_rma shim_rma_ops = {
	.size = sizeof(struct fi_ops_rma),
	.read = rma_read,
	.readv = rma_readv,
	.readmsg = rma_readmsg,
	.write = rma_write,
	.writev = rma_writev,
	.writemsg = rma_writemsg,
	.inject = rma_inject,
	.writedata = no_writedata,
	.injectdata = no_injectdata,
};
