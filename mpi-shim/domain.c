/* SPDX-License-Identifier: BSD-2-Clause */
/* The domain, which makes the process a member of its job; the event queue, which stays empty; what is refused. */
#include "mpi-shim/shim.h"

#include <stdlib.h>

_Noreturn void shim_die(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	gw_log(GW_ERROR, "%s", text);
	abort();
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

int shim_no_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	return -FI_ENOSYS;
}

int shim_no_control(struct fid *fid, int command, void *arg)
{
	return -FI_ENOSYS;
}

int shim_no_ops_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context)
{
	return -FI_ENOSYS;
}

/* ---- event queue: connections and asynchronous insertions do not exist here, so nothing is ever reported -------- */

static int eq_close(struct fid *fid)
{
	free(fid);
	return 0;
}

static ssize_t eq_read(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, uint64_t flags)
{
	return -FI_EAGAIN;
}

static ssize_t eq_readerr(struct fid_eq *eq, struct fi_eq_err_entry *buf, uint64_t flags)
{
	return -FI_EAGAIN;
}

static ssize_t eq_no_write(struct fid_eq *eq, uint32_t event, const void *buf, size_t len, uint64_t flags)
{
	return -FI_ENOSYS;
}

static ssize_t eq_no_sread(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, int timeout, uint64_t flags)
{
	return -FI_ENOSYS;
}

static const char *eq_strerror(struct fid_eq *eq, int prov_errno, const void *err_data, char *buf, size_t len)
{
	return strerror(prov_errno);
}

static struct fi_ops eq_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = eq_close,
	.bind = shim_no_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_eq eq_ops = {
	.size = sizeof(struct fi_ops_eq),
	.read = eq_read,
	.readerr = eq_readerr,
	.write = eq_no_write,
	.sread = eq_no_sread,
	.strerror = eq_strerror,
};

int shim_eq_open(struct fid_fabric *fabric, struct fi_eq_attr *attr, struct fid_eq **out, void *context)
{
	struct fid_eq *eq;

	if (attr && attr->wait_obj != FI_WAIT_NONE && attr->wait_obj != FI_WAIT_UNSPEC)
		return -FI_ENOSYS;
	eq = calloc(1, sizeof(*eq)); /* belongs to no domain: the user area may not exist yet */
	if (!eq)
		return -FI_ENOMEM;
	eq->fid = (struct fid){ .fclass = FI_CLASS_EQ, .context = context, .ops = &eq_fid_ops };
	eq->ops = &eq_ops;
	*out = eq;
	return 0;
}

/* ---- domain ---------------------------------------------------------------------------------------------------- */

static int domain_close(struct fid *fid)
{
	struct shim_domain *domain = gw_container_of(fid, struct shim_domain, fid.fid);

	if (domain->users)
		return -FI_EBUSY;
	ct_gate_enter(CT_DOING_COMPUTE);
	ct_area_free(domain, sizeof(*domain));
	ct_gate_leave();
	noc_stop(); /* lingers until what was sent has been taken */
	return 0;
}

static int domain_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	return bfid->fclass == FI_CLASS_EQ ? 0 : -FI_EINVAL; /* it will stay empty */
}

static int domain_no_scalable_ep(struct fid_domain *dom, struct fi_info *info, struct fid_ep **sep, void *context)
{
	return -FI_ENOSYS;
}

static int domain_no_poll_open(struct fid_domain *dom, struct fi_poll_attr *attr, struct fid_poll **pollset)
{
	return -FI_ENOSYS;
}

static int domain_no_stx(struct fid_domain *dom, struct fi_tx_attr *attr, struct fid_stx **stx, void *context)
{
	return -FI_ENOSYS;
}

static int domain_no_srx(struct fid_domain *dom, struct fi_rx_attr *attr, struct fid_ep **rx, void *context)
{
	return -FI_ENOSYS;
}

static int domain_no_atomic(struct fid_domain *dom, enum fi_datatype datatype, enum fi_op op,
                            struct fi_atomic_attr *attr, uint64_t flags)
{
	return -FI_EOPNOTSUPP;
}

static int domain_no_collective(struct fid_domain *dom, enum fi_collective_op coll, struct fi_collective_attr *attr,
                                uint64_t flags)
{
	return -FI_EOPNOTSUPP;
}

static struct fi_ops domain_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = domain_close,
	.bind = domain_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_domain domain_ops = {
	.size = sizeof(struct fi_ops_domain),
	.av_open = shim_av_open,
	.cq_open = shim_cq_open,
	.endpoint = shim_ep_open,
	.scalable_ep = domain_no_scalable_ep,
	.cntr_open = shim_cntr_open,
	.poll_open = domain_no_poll_open,
	.stx_ctx = domain_no_stx,
	.srx_ctx = domain_no_srx,
	.query_atomic = domain_no_atomic,
	.query_collective = domain_no_collective,
};

int shim_domain_open(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **out, void *context)
{
	struct gw_error why = { 0 };
	struct shim_domain *domain;
	int rc;

	if (info->domain_attr && info->domain_attr->name && strcmp(info->domain_attr->name, SHIM_NAME))
		return -FI_EINVAL;
	rc = noc_start(&why);
	if (rc < 0) { /* libfabric takes a number only: this is where the sentence stops travelling */
		gw_log(GW_ERROR, "cannot join the job: %s", why.text);
		return rc;
	}
	ct_gate_enter(CT_DOING_COMPUTE);
	domain = ct_area_zalloc(sizeof(*domain));
	ct_gate_leave();
	if (!domain) {
		noc_stop();
		return -FI_ENOMEM;
	}
	domain->fid.fid = (struct fid){ .fclass = FI_CLASS_DOMAIN, .context = context, .ops = &domain_fid_ops };
	domain->fid.ops = &domain_ops;
	domain->fid.mr = &shim_mr_ops;
	domain->job = noc_job();
	*out = &domain->fid;
	return 0;
}
