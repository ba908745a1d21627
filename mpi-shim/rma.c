/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One-sided operations: memory regions, reading and writing them from afar.
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
#include "mpi-shim/shim.h"

enum rma_tag { RMA_READ = 1, RMA_DATA = 2, RMA_ERROR = 3, RMA_WRITE = 4, RMA_ACK = 5, RMA_WRITE_LONG = 6, RMA_PULL = 7 };

struct rma_request { /* payload of READ, WRITE_LONG, and before the bytes of WRITE; little endian */
	uint64_t key, offset, len;
};
_Static_assert(sizeof(struct rma_request) == 24, "wire format");
#define RMA_EAGER (NOC_EAGER_MAX - sizeof(struct rma_request)) /* bytes that a WRITE carries */

struct shim_mr { /* a registered region. User area */
	struct fid_mr fid;
	struct shim_mr *next;
	struct shim_domain *domain;
	char *base;
	size_t len;
	uint64_t access;
};

/* An operation under way, on the side where the bytes are not yet, or no longer, in place. Its address is the data word
 * of the messages about it, and is not looked into by the other side. User area. */
struct rma_op {
	void *context;      /* of the completion; NULL: none is wanted */
	uint64_t len;
	uint64_t peer_op;   /* an owner's pull: the writer's operation */
	uint32_t peer;
	bool is_read, is_pull;
	uint32_t iovs;
	struct iovec iov[];
};

/* An answer that found the channel's bound exhausted. User area. */
struct rma_reply {
	struct rma_reply *next;
	uint64_t tag, data;
	uint32_t to, iovs;
	uint64_t word;      /* of a PULL: it has to live until it is sent */
	struct iovec iov[];
};

static struct shim_mr *regions; /* of this process: windows, and long active messages under way */

static inline struct shim_ep *ep_of(struct fid_ep *fid)
{
	return gw_container_of(fid, struct shim_ep, fid);
}

/* ---- regions --------------------------------------------------------------------------------------------------- */

static struct shim_mr *mr_find(uint64_t key)
{
	for (struct shim_mr *mr = regions; mr; mr = mr->next)
		if (mr->fid.key == key)
			return mr;
	return NULL;
}

static int mr_close(struct fid *fid)
{
	struct shim_mr *mr = gw_container_of(fid, struct shim_mr, fid.fid);

	ct_gate_enter(CT_DOING_COMPUTE);
	for (struct shim_mr **at = &regions; *at; at = &(*at)->next) {
		if (*at == mr) {
			*at = mr->next;
			break;
		}
	}
	mr->domain->users--;
	ct_area_free(mr, sizeof(*mr));
	ct_gate_leave();
	return 0;
}

static int mr_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	return bfid->fclass == FI_CLASS_EP ? 0 : -FI_ENOSYS; /* there is one endpoint anyway */
}

static struct fi_ops mr_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = mr_close,
	.bind = mr_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static int mr_reg(struct fid *fid, const void *buf, size_t len, uint64_t access, uint64_t offset, uint64_t key,
                  uint64_t flags, struct fid_mr **out, void *context)
{
	struct shim_domain *domain = gw_container_of(fid, struct shim_domain, fid.fid);
	struct shim_mr *mr = NULL;
	int rc = 0;

	if (offset || flags)
		return -FI_EINVAL;
	ct_gate_enter(CT_DOING_COMPUTE);
	if (mr_find(key))
		rc = -FI_ENOKEY;
	else if (!(mr = ct_area_zalloc(sizeof(*mr))))
		rc = -FI_ENOMEM;
	if (mr) {
		mr->fid.fid = (struct fid){ .fclass = FI_CLASS_MR, .context = context, .ops = &mr_fid_ops };
		mr->fid.key = key;
		mr->domain = domain;
		mr->base = (char *)(uintptr_t)buf;
		mr->len = len;
		mr->access = access;
		mr->next = regions;
		regions = mr;
		domain->users++;
		*out = &mr->fid;
	}
	ct_gate_leave();
	return rc;
}

static int mr_regv(struct fid *fid, const struct iovec *iov, size_t count, uint64_t access, uint64_t offset,
                   uint64_t key, uint64_t flags, struct fid_mr **mr, void *context)
{
	if (count != 1)
		return -FI_EINVAL;
	return mr_reg(fid, iov[0].iov_base, iov[0].iov_len, access, offset, key, flags, mr, context);
}

static int mr_regattr(struct fid *fid, const struct fi_mr_attr *attr, uint64_t flags, struct fid_mr **mr)
{
	return mr_regv(fid, attr->mr_iov, attr->iov_count, attr->access, attr->offset, attr->requested_key, flags, mr,
	               attr->context);
}

struct fi_ops_mr shim_mr_ops = {
	.size = sizeof(struct fi_ops_mr),
	.reg = mr_reg,
	.regv = mr_regv,
	.regattr = mr_regattr,
};

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

/* The bytes are in place. @op is NULL for an injected write: nobody wants more than to count it. */
static void op_done(struct shim_ep *ep, struct rma_op *op, int status)
{
	if (ep->rma_cntr) {
		ep->rma_cntr->value += status == 0;
		ep->rma_cntr->errors += status != 0;
	}
	if (op && (op->context || status)) {
		struct shim_comp *c = shim_cq_push(ep->tx_cq);

		c->e = (struct fi_cq_tagged_entry){
			.op_context = op->context, .flags = FI_RMA | (op->is_read ? FI_READ : FI_WRITE), .len = op->len,
		};
		c->olen = 0;
		c->err = (uint32_t)-status;
		c->src = SHIM_ANY;
	}
	if (op)
		op_free(op);
}

/* ---- answers: sent from handlers, so they may not be refused. What the channel cannot take now waits for a poll. -- */

static int answer_try(uint32_t to, uint64_t tag, uint64_t data, const struct iovec *iov, size_t iovs)
{
	size_t len = shim_iov_len(iov, iovs);

	return noc_send(to, NOC_PORT_RMA, tag, data, iov, len ? iovs : 0, len ? 0 : NOC_F_COPY | NOC_F_RESERVE, NULL, NULL);
}

static void answer(struct shim_ep *ep, uint32_t to, uint64_t tag, uint64_t data, const struct iovec *iov, size_t iovs,
                   uint64_t word)
{
	struct iovec own = { &word, sizeof(word) };
	struct rma_reply *r;

	if (word)
		iov = &own, iovs = 1;
	if (!ep->replies && answer_try(to, tag, data, iov, iovs) != -FI_EAGAIN)
		return; /* sent; or the asker is gone and needs no answer */
	r = ct_area_alloc(sizeof(*r) + iovs * sizeof(*iov));
	if (!r)
		shim_die("the user area is full (%zu bytes): no room to answer a one-sided operation", ct_area_used());
	*r = (struct rma_reply){ .tag = tag, .data = data, .to = to, .iovs = (uint32_t)iovs, .word = word };
	memcpy(r->iov, iov, iovs * sizeof(*iov));
	if (word)
		r->iov[0].iov_base = &r->word;
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
		ct_area_free(r, sizeof(*r) + r->iovs * sizeof(struct iovec));
	}
}

/* ---- what arrives ---------------------------------------------------------------------------------------------- */

/* Where in our memory a request means, or NULL. */
static char *place_of(uint64_t key, uint64_t offset, uint64_t len, uint64_t access)
{
	struct shim_mr *mr = mr_find(key);

	if (!mr || !(mr->access & access) || offset > mr->len || len > mr->len - offset)
		return NULL;
	return mr->base + offset;
}

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
	iov.iov_base = place_of(q.key, q.offset, q.len, msg->tag == RMA_READ ? FI_REMOTE_READ : FI_REMOTE_WRITE);
	iov.iov_len = q.len;
	if (!iov.iov_base && q.len) {
		answer(ep, msg->src, RMA_ERROR, msg->data, NULL, 0, 0);
		return;
	}
	switch (msg->tag) {
	case RMA_READ:
		answer(ep, msg->src, RMA_DATA, msg->data, &iov, 1, 0);
		break;
	case RMA_WRITE:
		if (q.len)
			memcpy(iov.iov_base, bytes + sizeof(q), q.len);
		answer(ep, msg->src, RMA_ACK, msg->data, NULL, 0, 0);
		break;
	case RMA_WRITE_LONG:
		pull = op_new(&iov, 1);
		if (!pull)
			shim_die("the user area is full (%zu bytes): no room for a one-sided write", ct_area_used());
		pull->is_pull = true;
		pull->peer = msg->src;
		pull->peer_op = msg->data;
		answer(ep, msg->src, RMA_PULL, msg->data, NULL, 0, (uintptr_t)pull);
		break;
	}
}

/* The bytes of a read, or of a long write that we pull, are all here. */
static void data_done(struct shim_ep *ep, struct rma_op *op, int status)
{
	if (!op->is_pull) {
		op_done(ep, op, status);
		return;
	}
	answer(ep, op->peer, status ? RMA_ERROR : RMA_ACK, op->peer_op, NULL, 0, 0);
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
		answer(ep, msg->src, RMA_DATA, word, op->iov, op->iovs, 0);
		break;
	case RMA_ACK:
		op_done(ep, op, 0);
		break;
	case RMA_ERROR:
		op_done(ep, op, -FI_EACCES);
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

const struct noc_port_ops shim_rma_port = { .message = message, .sent = sent, .received = received };

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static ssize_t start(struct shim_ep *ep, bool is_read, const struct iovec *iov, size_t iovs, fi_addr_t peer,
                     uint64_t addr, uint64_t key, void *context, bool is_inject)
{
	struct rma_request q = { .key = key, .offset = addr, .len = shim_iov_len(iov, iovs) };
	struct iovec out[SHIM_IOV_LIMIT + 1] = { { &q, sizeof(q) } };
	bool is_eager = !is_read && q.len <= RMA_EAGER;
	uint64_t tag = is_read ? RMA_READ : is_eager ? RMA_WRITE : RMA_WRITE_LONG;
	struct rma_op *op = NULL;
	ssize_t rc = -FI_EAGAIN;

	if (iovs > SHIM_IOV_LIMIT)
		return -FI_EINVAL;
	if (peer >> 32 != ep->job)
		return -FI_EHOSTUNREACH;
	ct_gate_enter(is_read ? CT_DOING_RECV : CT_DOING_SEND);
	ep->tx_cq->empties = 0;
	if (!is_inject) {
		op = op_new(iov, iovs);
		if (!op)
			goto out;
		op->context = context;
		op->is_read = is_read;
	}
	if (is_eager && q.len)
		memcpy(&out[1], iov, iovs * sizeof(*iov));
	rc = noc_send((uint32_t)peer, NOC_PORT_RMA, tag, (uintptr_t)op, out, is_eager && q.len ? iovs + 1 : 1, NOC_F_COPY,
	              NULL, NULL);
	if (rc && op)
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
	return start(ep_of(fid), is_read, iov, iovs, peer, addr, key, completes ? context : NULL, false);
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
	return start(ep_of(fid), false, &iov, 1, to, addr, key, NULL, true);
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
