/* SPDX-License-Identifier: BSD-2-Clause */
/* The endpoint: what it is bound to, its options, its name, and cancelling. */
#include "mpi-shim/shim.h"

struct shim_ep *shim_the_ep; /* process-wide: a name has one inbox, hence one endpoint */

static struct shim_ep *ep_of(struct fid *fid)
{
	return gw_container_of(fid, struct shim_ep, fid.fid);
}

/* ---- binding --------------------------------------------------------------------------------------------------- */

static int bind_cq(struct shim_ep *ep, struct shim_cq *cq, uint64_t flags)
{
	bool is_selective = flags & FI_SELECTIVE_COMPLETION;

	if (!(flags & (FI_SEND | FI_RECV)))
		return -FI_EINVAL;
	if (((flags & FI_SEND) && ep->tx_cq) || ((flags & FI_RECV) && ep->rx_cq))
		return -FI_EBUSY;
	if (flags & FI_SEND) {
		ep->tx_cq = cq;
		ep->tx_selective = is_selective;
		cq->users++;
	}
	if (flags & FI_RECV) {
		ep->rx_cq = cq;
		ep->rx_selective = is_selective;
		cq->users++;
	}
	return 0;
}

static int bind_cntr(struct shim_ep *ep, struct shim_cntr *cntr, uint64_t flags)
{
	struct shim_cntr **places[3];
	size_t n = 0;

	if (flags & FI_SEND)
		places[n++] = &ep->tx_cntr;
	if (flags & FI_RECV)
		places[n++] = &ep->rx_cntr;
	if (flags & (FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE))
		places[n++] = &ep->rma_cntr;
	for (size_t i = 0; i < n; i++)
		if (*places[i])
			return -FI_EBUSY;
	for (size_t i = 0; i < n; i++) {
		*places[i] = cntr;
		cntr->users++;
	}
	return n ? 0 : -FI_EINVAL;
}

static int ep_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	struct shim_ep *ep = ep_of(fid);
	int rc = 0;

	if (ep->is_enabled)
		return -FI_EOPBADSTATE;
	ct_gate_enter(CT_DOING_COMPUTE);
	switch (bfid->fclass) {
	case FI_CLASS_AV:
		if (ep->av) {
			rc = -FI_EBUSY;
			break;
		}
		ep->av = gw_container_of(bfid, struct shim_av, fid.fid);
		ep->av->users++;
		break;
	case FI_CLASS_CQ:
		rc = bind_cq(ep, gw_container_of(bfid, struct shim_cq, fid.fid), flags);
		break;
	case FI_CLASS_CNTR:
		rc = bind_cntr(ep, gw_container_of(bfid, struct shim_cntr, fid.fid), flags);
		break;
	case FI_CLASS_EQ: /* it stays empty */
		break;
	default:
		rc = -FI_EINVAL;
	}
	ct_gate_leave();
	return rc;
}

static int ep_enable(struct shim_ep *ep)
{
	if (ep->is_enabled)
		return -FI_EOPBADSTATE;
	if (!ep->av)
		return -FI_ENOAV;
	if (!ep->tx_cq || !ep->rx_cq)
		return -FI_ENOCQ;
	ct_gate_enter(CT_DOING_COMPUTE);
	ep->tx_completes = !ep->tx_selective || (ep->tx_flags & FI_COMPLETION);
	ep->rx_completes = !ep->rx_selective || (ep->rx_flags & FI_COMPLETION);
	noc_port_bind(NOC_PORT_TAGGED, &shim_tagged_port);
	noc_port_bind(NOC_PORT_MSG, &shim_msg_port);
	noc_port_bind(NOC_PORT_RMA, &shim_rma_port);
	ep->is_enabled = true;
	ct_gate_leave();
	return 0;
}

static int ep_control(struct fid *fid, int command, void *arg)
{
	struct shim_ep *ep = ep_of(fid);
	uint64_t *flags = arg;

	switch (command) {
	case FI_ENABLE:
		return ep_enable(ep);
	case FI_GETOPSFLAG:
		if ((*flags & FI_SEND) && (*flags & FI_RECV))
			return -FI_EINVAL;
		*flags = *flags & FI_SEND ? ep->tx_flags : ep->rx_flags;
		return 0;
	case FI_SETOPSFLAG:
		if ((*flags & FI_SEND) && (*flags & FI_RECV))
			return -FI_EINVAL;
		if (*flags & FI_SEND) {
			ep->tx_flags = *flags & SHIM_TX_FLAGS;
			ep->tx_completes = !ep->tx_selective || (ep->tx_flags & FI_COMPLETION);
		} else {
			ep->rx_flags = *flags & SHIM_RX_FLAGS;
			ep->rx_completes = !ep->rx_selective || (ep->rx_flags & FI_COMPLETION);
		}
		return 0;
	default:
		return -FI_ENOSYS;
	}
}

static int ep_close(struct fid *fid)
{
	struct shim_ep *ep = ep_of(fid);

	ct_gate_enter(CT_DOING_COMPUTE);
	shim_tagged_close(ep);
	shim_msg_close(ep);
	shim_match_fini(&ep->match);
	if (ep->tx_cq)
		ep->tx_cq->users--;
	if (ep->rx_cq)
		ep->rx_cq->users--;
	if (ep->tx_cntr)
		ep->tx_cntr->users--;
	if (ep->rx_cntr)
		ep->rx_cntr->users--;
	if (ep->rma_cntr)
		ep->rma_cntr->users--;
	if (ep->av)
		ep->av->users--;
	ep->domain->users--;
	shim_hold_close(ep);
	ct_area_free(ep->unanswered, ep->names * sizeof(*ep->unanswered));
	ct_area_free(ep, sizeof(*ep));
	shim_the_ep = NULL; /* the ports stay bound: what comes now is dropped by their handlers */
	ct_gate_leave();
	return 0;
}

/* ---- options, name --------------------------------------------------------------------------------------------- */

static ssize_t ep_cancel(fid_t fid, void *context)
{
	struct shim_ep *ep = ep_of(fid);
	struct shim_recv *r = context;
	struct shim_comp *c;
	bool is_msg, did;

	if (!context) /* FI_CONTEXT: every operation has one */
		return -FI_ENOENT;
	ct_gate_enter(CT_DOING_RECV);
	is_msg = r->link.state & SHIM_MSG;
	if (is_msg) {
		did = shim_msg_cancel(ep, context);
	} else {
		did = shim_match_cancel(&ep->match, r);
		if (did && r->link.iovs)
			ct_area_free(r->buf, r->link.iovs * sizeof(struct iovec));
		r->link.state &= (uint8_t)~SHIM_QUIET;
	}
	if (did && (is_msg || !(r->link.state & SHIM_DIRECT))) {
		c = shim_cq_push(ep->rx_cq);
		memset(c, 0, sizeof(*c));
		c->e.op_context = context;
		c->e.flags = FI_RECV | (is_msg ? FI_MSG : FI_TAGGED);
		c->err = FI_ECANCELED;
		c->src = SHIM_ANY;
	}
	ct_gate_leave();
	return did ? 0 : -FI_ENOENT;
}

static int ep_getopt(fid_t fid, int level, int name, void *value, size_t *len)
{
	if (level != FI_OPT_ENDPOINT || name != FI_OPT_MIN_MULTI_RECV)
		return -FI_ENOPROTOOPT;
	if (*len < sizeof(size_t))
		return -FI_ETOOSMALL;
	*(size_t *)value = ep_of(fid)->min_multi_recv;
	*len = sizeof(size_t);
	return 0;
}

static int ep_setopt(fid_t fid, int level, int name, const void *value, size_t len)
{
	if (level != FI_OPT_ENDPOINT || name != FI_OPT_MIN_MULTI_RECV)
		return -FI_ENOPROTOOPT;
	if (len != sizeof(size_t))
		return -FI_EINVAL;
	ep_of(fid)->min_multi_recv = *(const size_t *)value;
	return 0;
}

static int ep_no_tx_ctx(struct fid_ep *sep, int index, struct fi_tx_attr *attr, struct fid_ep **tx, void *context)
{
	return -FI_ENOSYS;
}

static int ep_no_rx_ctx(struct fid_ep *sep, int index, struct fi_rx_attr *attr, struct fid_ep **rx, void *context)
{
	return -FI_ENOSYS;
}

static ssize_t ep_no_size_left(struct fid_ep *ep)
{
	return -FI_ENOSYS;
}

static int cm_no_setname(fid_t fid, void *addr, size_t len)
{
	return -FI_ENOSYS;
}

static int cm_getname(fid_t fid, void *addr, size_t *len)
{
	struct shim_addr a = { SHIM_ADDR_MAGIC, SHIM_ADDR_VERSION, noc_name_make(ep_of(fid)->job, noc_self()) };
	size_t room = *len;

	*len = sizeof(a);
	if (addr)
		memcpy(addr, &a, room < sizeof(a) ? room : sizeof(a));
	return room < sizeof(a) ? -FI_ETOOSMALL : 0;
}

static int cm_no_getpeer(struct fid_ep *ep, void *addr, size_t *len)
{
	return -FI_ENOSYS;
}

static int cm_no_connect(struct fid_ep *ep, const void *addr, const void *param, size_t len)
{
	return -FI_ENOSYS;
}

static int cm_no_listen(struct fid_pep *pep)
{
	return -FI_ENOSYS;
}

static int cm_no_accept(struct fid_ep *ep, const void *param, size_t len)
{
	return -FI_ENOSYS;
}

static int cm_no_reject(struct fid_pep *pep, fid_t handle, const void *param, size_t len)
{
	return -FI_ENOSYS;
}

static int cm_no_shutdown(struct fid_ep *ep, uint64_t flags)
{
	return -FI_ENOSYS;
}

static int cm_no_join(struct fid_ep *ep, const void *addr, uint64_t flags, struct fid_mc **mc, void *context)
{
	return -FI_ENOSYS;
}

static struct fi_ops ep_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = ep_close,
	.bind = ep_bind,
	.control = ep_control,
	.ops_open = shim_direct_open,
};

static struct fi_ops_ep ep_ops = {
	.size = sizeof(struct fi_ops_ep),
	.cancel = ep_cancel,
	.getopt = ep_getopt,
	.setopt = ep_setopt,
	.tx_ctx = ep_no_tx_ctx,
	.rx_ctx = ep_no_rx_ctx,
	.rx_size_left = ep_no_size_left,
	.tx_size_left = ep_no_size_left,
};

static struct fi_ops_cm cm_ops = {
	.size = sizeof(struct fi_ops_cm),
	.setname = cm_no_setname,
	.getname = cm_getname,
	.getpeer = cm_no_getpeer,
	.connect = cm_no_connect,
	.listen = cm_no_listen,
	.accept = cm_no_accept,
	.reject = cm_no_reject,
	.shutdown = cm_no_shutdown,
	.join = cm_no_join,
};

int shim_ep_open(struct fid_domain *dom, struct fi_info *info, struct fid_ep **out, void *context)
{
	struct shim_domain *domain = gw_container_of(dom, struct shim_domain, fid);
	struct shim_ep *ep;

	if (info->ep_attr && info->ep_attr->type != FI_EP_UNSPEC && info->ep_attr->type != FI_EP_RDM)
		return -FI_EINVAL;
	if (shim_the_ep)
		return -FI_EBUSY;
	ct_gate_enter(CT_DOING_COMPUTE);
	ep = ct_area_zalloc(sizeof(*ep));
	if (ep) {
		ep->names = noc_names_max();
		ep->unanswered = ct_area_zalloc(ep->names * sizeof(*ep->unanswered));
	}
	if (ep && !ep->unanswered) {
		ct_area_free(ep, sizeof(*ep));
		ep = NULL;
	}
	if (ep) {
		ep->fid.fid = (struct fid){ .fclass = FI_CLASS_EP, .context = context, .ops = &ep_fid_ops };
		ep->fid.ops = &ep_ops;
		ep->fid.cm = &cm_ops;
		ep->fid.msg = &shim_msg_ops;
		ep->fid.rma = &shim_rma_ops;
		ep->fid.tagged = &shim_tagged_ops;
		ep->fid.atomic = &shim_atomic_ops;
		ep->domain = domain;
		ep->job = domain->job;
		ep->source_job = info->caps & FI_DIRECTED_RECV ? ep->job : SHIM_ANY;
		ep->waiting_for = CT_DOING_WAIT;
		ep->tx_flags = info->tx_attr ? info->tx_attr->op_flags & ~FI_DELIVERY_COMPLETE : 0;
		ep->rx_flags = info->rx_attr ? info->rx_attr->op_flags : 0;
		ep->min_multi_recv = 64;
		shim_match_init(&ep->match);
		domain->users++;
		shim_the_ep = ep;
	}
	ct_gate_leave();
	if (!ep)
		return -FI_ENOMEM;
	*out = &ep->fid;
	return 0;
}
