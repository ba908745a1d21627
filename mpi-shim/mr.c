/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory regions: what of this process's memory others may reach, by key and offset. */
#include "mpi-shim/rma.h"

struct shim_mr { /* a registered region. User area */
	struct fid_mr fid;
	struct shim_mr *next;
	struct shim_domain *domain;
	char *base;
	size_t len;
	uint64_t access;
};

static struct shim_mr *regions; /* of this process: windows, and long active messages under way */

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
	if (!regions && shim_the_ep)
		shim_the_ep->is_mixed = false; /* the windows that MPICH accumulated in are gone */
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

char *shim_mr_place(uint64_t key, uint64_t offset, uint64_t len, uint64_t access)
{
	struct shim_mr *mr = mr_find(key);

	if (!mr || (mr->access & access) != access || offset > mr->len || len > mr->len - offset)
		return NULL;
	return mr->base + offset;
}
