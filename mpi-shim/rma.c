/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory regions and reading them from afar.
 *
 * FI_RMA is not advertised: MPICH then runs one-sided communication over active messages, which need nothing of the
 * target but that it polls. Reads exist all the same, because a user who sets MPIR_CVAR_CH4_OFI_EAGER_MAX_MSG_SIZE
 * sends MPICH down a path that registers the sender's buffer and reads it, advertised or not.
 *
 *   reader                              owner of the region
 *     | READ {key, offset, length} ----> |   handler: checks, then sends from the region
 *     | <------ DATA (eager or bulk) --- |   or ERROR
 */
#include "mpi-shim/shim.h"

enum rma_op { RMA_READ = 1, RMA_DATA = 2, RMA_ERROR = 3 }; /* the tag word of a message; written numbers */

struct rma_request { /* payload of RMA_READ; version 1; little endian */
	uint64_t key, offset, len;
};
_Static_assert(sizeof(struct rma_request) == 24, "wire format");

struct shim_mr { /* a registered region. User area */
	struct fid_mr fid;
	struct shim_mr *next;
	struct shim_domain *domain;
	char *base;
	size_t len;
	uint64_t access;
};

struct rma_read { /* a read under way, of the reader; its address is the data word of the messages. User area */
	void *context; /* NULL: no completion is wanted */
	uint64_t len;
	uint32_t iovs;
	struct iovec iov[];
};

struct rma_reply { /* an answer that found the channel's bound exhausted. User area */
	struct rma_reply *next;
	uint64_t read, len;
	char *from;
	uint32_t to;
};

static struct shim_mr *regions; /* of this process; few: one for each huge message under way */

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

/* ---- the owner of the region answers --------------------------------------------------------------------------- */

/* From a handler, so it may not be refused: what the channel cannot take now waits here for the next poll. */
static void reply(struct shim_ep *ep, uint32_t to, uint64_t read, char *from, uint64_t len)
{
	struct iovec iov = { from, len };
	struct rma_reply *r;

	if (!ep->replies && noc_send(to, NOC_PORT_RMA, RMA_DATA, read, &iov, 1, 0, NULL, NULL) != -FI_EAGAIN)
		return; /* sent; or the reader is gone and needs no answer */
	r = ct_area_alloc(sizeof(*r));
	if (!r)
		shim_die("the user area is full (%zu bytes): no room to answer a remote read", ct_area_used());
	*r = (struct rma_reply){ .read = read, .len = len, .from = from, .to = to };
	if (ep->replies)
		ep->replies_last->next = r;
	else
		ep->replies = r;
	ep->replies_last = r;
}

void shim_rma_flush(struct shim_ep *ep)
{
	for (struct rma_reply *r; (r = ep->replies); ) {
		struct iovec iov = { r->from, r->len };

		if (noc_send(r->to, NOC_PORT_RMA, RMA_DATA, r->read, &iov, 1, 0, NULL, NULL) == -FI_EAGAIN)
			return;
		ep->replies = r->next;
		ct_area_free(r, sizeof(*r));
	}
}

static void answer(struct shim_ep *ep, const struct noc_msg *msg)
{
	struct rma_request q;
	struct shim_mr *mr;

	if (msg->offer || msg->len != sizeof(q))
		return;
	memcpy(&q, msg->payload, sizeof(q));
	mr = mr_find(q.key);
	if (mr && (mr->access & FI_REMOTE_READ) && q.offset <= mr->len && q.len <= mr->len - q.offset)
		reply(ep, msg->src, msg->data, mr->base + q.offset, q.len);
	else
		noc_send(msg->src, NOC_PORT_RMA, RMA_ERROR, msg->data, NULL, 0, NOC_F_COPY | NOC_F_RESERVE, NULL, NULL);
}

/* ---- the reader ------------------------------------------------------------------------------------------------ */

static void read_done(struct rma_read *r, int status)
{
	struct shim_ep *ep = shim_the_ep;

	if (ep && r->context) {
		struct shim_comp *c = shim_cq_push(ep->tx_cq);

		c->e = (struct fi_cq_tagged_entry){ .op_context = r->context, .flags = FI_RMA | FI_READ, .len = r->len };
		c->olen = 0;
		c->err = (uint32_t)-status;
		c->src = SHIM_ANY;
	}
	if (ep && ep->rma_cntr) {
		ep->rma_cntr->value += status == 0;
		ep->rma_cntr->errors += status != 0;
	}
	ct_area_free(r, sizeof(*r) + r->iovs * sizeof(struct iovec));
}

static void message(const struct noc_msg *msg)
{
	struct rma_read *r = (struct rma_read *)(uintptr_t)msg->data;
	int rc;

	if (!shim_the_ep) {
		if (msg->offer)
			shim_drop_offer(msg->offer);
		return;
	}
	switch (msg->tag) {
	case RMA_READ:
		answer(shim_the_ep, msg);
		break;
	case RMA_DATA:
		if (!msg->offer) {
			shim_iov_scatter(r->iov, r->iovs, msg->payload, msg->len);
			read_done(r, 0);
		} else {
			rc = noc_bulk_accept(msg->offer, r->iov, r->iovs, r);
			if (rc < 0)
				read_done(r, rc);
		}
		break;
	case RMA_ERROR:
		read_done(r, -FI_EACCES);
		break;
	}
}

static void sent(void *context, int status)
{
}

static void received(void *context, uint64_t len, int status)
{
	if (context)
		read_done(context, status);
}

const struct noc_port_ops shim_rma_port = { .message = message, .sent = sent, .received = received };

static ssize_t read_iov(struct shim_ep *ep, const struct iovec *iov, size_t iovs, fi_addr_t from, uint64_t addr,
                        uint64_t key, void *context, bool completes)
{
	struct rma_request q = { .key = key, .offset = addr, .len = shim_iov_len(iov, iovs) };
	struct iovec out = { &q, sizeof(q) };
	struct rma_read *r;
	ssize_t rc = -FI_EAGAIN;

	if ((completes && !context) || iovs > SHIM_IOV_LIMIT)
		return -FI_EINVAL;
	ct_gate_enter(CT_DOING_RECV);
	r = ct_area_alloc(sizeof(*r) + iovs * sizeof(*iov));
	if (r) {
		r->context = completes ? context : NULL;
		r->len = q.len;
		r->iovs = (uint32_t)iovs;
		memcpy(r->iov, iov, iovs * sizeof(*iov));
		rc = shim_send(ep, NOC_PORT_RMA, from, &out, 1, RMA_READ, (uintptr_t)r, NOC_F_COPY, NULL, 0);
		if (rc)
			ct_area_free(r, sizeof(*r) + iovs * sizeof(*iov));
	}
	ct_gate_leave();
	return rc;
}

static ssize_t rma_read(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t from, uint64_t addr,
                        uint64_t key, void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct iovec iov = { buf, len };

	return read_iov(ep, &iov, 1, from, addr, key, context, ep->tx_completes);
}

static ssize_t rma_readv(struct fid_ep *fid, const struct iovec *iov, void **desc, size_t count, fi_addr_t from,
                         uint64_t addr, uint64_t key, void *context)
{
	struct shim_ep *ep = ep_of(fid);

	return read_iov(ep, iov, count, from, addr, key, context, ep->tx_completes);
}

static ssize_t rma_readmsg(struct fid_ep *fid, const struct fi_msg_rma *msg, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);

	if (msg->rma_iov_count != 1)
		return -FI_EINVAL;
	return read_iov(ep, msg->msg_iov, msg->iov_count, msg->addr, msg->rma_iov[0].addr, msg->rma_iov[0].key,
	                msg->context, !ep->tx_selective || (flags & FI_COMPLETION));
}

/* ---- writing is refused ---------------------------------------------------------------------------------------- */

static ssize_t no_writemsg(struct fid_ep *ep, const struct fi_msg_rma *msg, uint64_t flags)
{
	return -FI_ENOSYS;
}

static ssize_t no_writev(struct fid_ep *ep, const struct iovec *iov, void **desc, size_t count, fi_addr_t to,
                         uint64_t addr, uint64_t key, void *context)
{
	return -FI_ENOSYS;
}

static ssize_t no_write(struct fid_ep *ep, const void *buf, size_t len, void *desc, fi_addr_t to, uint64_t addr,
                        uint64_t key, void *context)
{
	return -FI_ENOSYS;
}

static ssize_t no_inject(struct fid_ep *ep, const void *buf, size_t len, fi_addr_t to, uint64_t addr, uint64_t key)
{
	return -FI_ENOSYS;
}

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
	.write = no_write,
	.writev = no_writev,
	.writemsg = no_writemsg,
	.inject = no_inject,
	.writedata = no_writedata,
	.injectdata = no_injectdata,
};
