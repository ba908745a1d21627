/* SPDX-License-Identifier: BSD-2-Clause */
/* Provider registration, the answer to fi_getinfo, and the fabric object. */
#include "mpi-shim/shim.h"

#include <stdlib.h>

#include <rdma/providers/fi_prov.h>

__attribute__((visibility("default"))) struct fi_provider *fi_prov_ini(void);

/* A program asks with the version of the libfabric it found, and is not shown providers that are older. The structs we
 * fill have not changed between these. */
#define SHIM_FI_VERSION FI_VERSION(1, 17)
#define SHIM_VERSION    FI_VERSION(0, 1)

/* ---- getinfo --------------------------------------------------------------------------------------------------- */

/* What fi_freeinfo() does, for one that is not complete. */
static void info_free(struct fi_info *info)
{
	if (info->domain_attr)
		free(info->domain_attr->name);
	if (info->fabric_attr)
		free(info->fabric_attr->name);
	free(info->tx_attr);
	free(info->rx_attr);
	free(info->ep_attr);
	free(info->domain_attr);
	free(info->fabric_attr);
	free(info);
}

static struct fi_info *info_alloc(void)
{
	struct fi_info *info = calloc(1, sizeof(*info)); /* fi_freeinfo() frees each part */

	if (!info)
		return NULL;
	info->tx_attr = calloc(1, sizeof(*info->tx_attr));
	info->rx_attr = calloc(1, sizeof(*info->rx_attr));
	info->ep_attr = calloc(1, sizeof(*info->ep_attr));
	info->domain_attr = calloc(1, sizeof(*info->domain_attr));
	info->fabric_attr = calloc(1, sizeof(*info->fabric_attr));
	if (info->domain_attr)
		info->domain_attr->name = strdup(SHIM_NAME);
	if (info->fabric_attr)
		info->fabric_attr->name = strdup(SHIM_NAME); /* prov_name is libfabric's to fill */
	if (info->tx_attr && info->rx_attr && info->ep_attr && info->domain_attr && info->domain_attr->name &&
	    info->fabric_attr && info->fabric_attr->name)
		return info;
	info_free(info);
	return NULL;
}

static bool fits_tx(const struct fi_tx_attr *a)
{
	return !(a->caps & ~SHIM_CAPS) && !(a->op_flags & ~SHIM_TX_FLAGS) && !(a->msg_order & ~SHIM_ORDER) &&
	       !(a->comp_order & ~FI_ORDER_STRICT) && a->inject_size <= SHIM_INJECT_SIZE &&
	       a->iov_limit <= SHIM_IOV_LIMIT && a->rma_iov_limit <= 1;
}

static bool fits_rx(const struct fi_rx_attr *a)
{
	return !(a->caps & ~SHIM_CAPS) && !(a->op_flags & ~SHIM_RX_FLAGS) && !(a->msg_order & ~SHIM_ORDER) &&
	       a->iov_limit <= SHIM_IOV_LIMIT;
}

static bool fits_ep(const struct fi_ep_attr *a)
{
	return (a->type == FI_EP_UNSPEC || a->type == FI_EP_RDM) && a->protocol == FI_PROTO_UNSPEC &&
	       a->max_msg_size <= SHIM_MAX_MSG && a->tx_ctx_cnt <= 1 && a->rx_ctx_cnt <= 1 && !a->auth_key_size;
}

/* The av_type and mr_mode that a program would like are not conditions: it reads what it got. */
static bool fits_domain(const struct fi_domain_attr *a)
{
	return (a->threading == FI_THREAD_UNSPEC || a->threading == FI_THREAD_DOMAIN) &&
	       a->control_progress != FI_PROGRESS_AUTO && a->data_progress != FI_PROGRESS_AUTO &&
	       a->cq_data_size <= sizeof(uint64_t) && (!a->name || !strcmp(a->name, SHIM_NAME)) && !a->auth_key_size;
}

/* A peer that is named ahead (fi_pingpong does) is one of ours: it is told back, and means nothing more. */
static bool fits_dest(const struct fi_info *hints)
{
	const struct shim_addr *to = hints->dest_addr;

	return !to || (hints->dest_addrlen == sizeof(*to) && to->magic == SHIM_ADDR_MAGIC && to->version == SHIM_ADDR_VERSION);
}

static bool fits(const struct fi_info *hints)
{
	if (hints->caps & ~SHIM_CAPS)
		return false;
	if ((hints->mode & SHIM_MODE) != SHIM_MODE)
		return false;
	if (hints->addr_format != FI_FORMAT_UNSPEC || hints->src_addr || !fits_dest(hints))
		return false;
	return (!hints->tx_attr || fits_tx(hints->tx_attr)) && (!hints->rx_attr || fits_rx(hints->rx_attr)) &&
	       (!hints->ep_attr || fits_ep(hints->ep_attr)) &&
	       (!hints->domain_attr || fits_domain(hints->domain_attr)) &&
	       (!hints->fabric_attr || !hints->fabric_attr->name || !strcmp(hints->fabric_attr->name, SHIM_NAME));
}

int shim_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags, const struct fi_info *hints,
                 struct fi_info **out)
{
	struct fi_info *info;
	uint64_t caps = SHIM_CAPS;

	if (node || service) /* a name in the network means nothing here: peers are told apart by logical names */
		return -FI_ENODATA;
	if (hints && !fits(hints))
		return -FI_ENODATA;
	info = info_alloc();
	if (!info)
		return -FI_ENOMEM;
	if (hints && hints->caps) {
		caps = hints->caps | FI_LOCAL_COMM | FI_REMOTE_COMM;
		if (!(caps & (FI_SEND | FI_RECV)))
			caps |= FI_SEND | FI_RECV;
		if ((caps & (FI_RMA | FI_ATOMIC)) && !(caps & SHIM_RMA_WAYS))
			caps |= SHIM_RMA_WAYS;
	}
	if (hints && hints->dest_addr) {
		info->dest_addr = malloc(hints->dest_addrlen); /* fi_freeinfo() frees it */
		if (!info->dest_addr) {
			info_free(info);
			return -FI_ENOMEM;
		}
		memcpy(info->dest_addr, hints->dest_addr, hints->dest_addrlen);
		info->dest_addrlen = hints->dest_addrlen;
	}
	info->caps = caps;
	info->mode = SHIM_MODE;
	info->addr_format = FI_FORMAT_UNSPEC;

	info->tx_attr->caps = caps & (FI_MSG | FI_TAGGED | FI_SEND | FI_RMA | FI_ATOMIC | FI_READ | FI_WRITE);
	info->tx_attr->mode = SHIM_MODE;
	/* MPICH asks for FI_DELIVERY_COMPLETE because of one-sided operations, which are always so. A message's completion
	 * says that its buffer is free, and MPI asks no more. */
	info->tx_attr->op_flags = hints && hints->tx_attr ? hints->tx_attr->op_flags & ~FI_DELIVERY_COMPLETE : 0;
	info->tx_attr->msg_order = SHIM_ORDER;
	info->tx_attr->comp_order = FI_ORDER_NONE;
	info->tx_attr->inject_size = SHIM_INJECT_SIZE;
	info->tx_attr->size = 65536; /* a hint: what bounds sends is the channel's queue */
	info->tx_attr->iov_limit = SHIM_IOV_LIMIT;
	info->tx_attr->rma_iov_limit = 1;

	info->rx_attr->caps = caps & (FI_MSG | FI_TAGGED | FI_RECV | FI_MULTI_RECV | FI_DIRECTED_RECV | FI_SOURCE | FI_RMA | FI_ATOMIC |
	                              FI_REMOTE_READ | FI_REMOTE_WRITE);
	info->rx_attr->mode = SHIM_MODE;
	info->rx_attr->op_flags = hints && hints->rx_attr ? hints->rx_attr->op_flags : 0;
	info->rx_attr->msg_order = SHIM_ORDER;
	info->rx_attr->comp_order = FI_ORDER_NONE;
	info->rx_attr->size = 65536;
	info->rx_attr->iov_limit = SHIM_IOV_LIMIT;

	info->ep_attr->type = FI_EP_RDM;
	info->ep_attr->protocol = FI_PROTO_UNSPEC;
	info->ep_attr->protocol_version = 1;
	info->ep_attr->max_msg_size = SHIM_MAX_MSG;
	info->ep_attr->mem_tag_format = UINT64_MAX;
	info->ep_attr->max_order_raw_size = SIZE_MAX;
	info->ep_attr->max_order_war_size = SIZE_MAX;
	info->ep_attr->max_order_waw_size = SIZE_MAX;
	info->ep_attr->tx_ctx_cnt = 1;
	info->ep_attr->rx_ctx_cnt = 1;

	info->domain_attr->threading = FI_THREAD_DOMAIN;
	info->domain_attr->control_progress = FI_PROGRESS_MANUAL;
	info->domain_attr->data_progress = FI_PROGRESS_MANUAL;
	info->domain_attr->resource_mgmt = FI_RM_ENABLED;
	info->domain_attr->av_type = FI_AV_MAP; /* fi_addr_t is the logical name itself */
	info->domain_attr->mr_mode = 0;
	info->domain_attr->mr_key_size = sizeof(uint64_t);
	info->domain_attr->cq_data_size = sizeof(uint64_t);
	info->domain_attr->cq_cnt = 16;
	info->domain_attr->cntr_cnt = 16;
	info->domain_attr->ep_cnt = 1;
	info->domain_attr->tx_ctx_cnt = 1;
	info->domain_attr->rx_ctx_cnt = 1;
	info->domain_attr->max_ep_tx_ctx = 1; /* more would make MPICH look for scalable endpoints */
	info->domain_attr->max_ep_rx_ctx = 1;
	info->domain_attr->mr_iov_limit = 1;
	info->domain_attr->caps = FI_LOCAL_COMM | FI_REMOTE_COMM;

	info->fabric_attr->prov_version = SHIM_VERSION;
	info->fabric_attr->api_version = version;
	*out = info;
	return 0;
}

/* ---- fabric ---------------------------------------------------------------------------------------------------- */

/* It holds nothing, so one constant-like object serves everyone who opens it. */
static int fabric_close(struct fid *fid)
{
	return 0;
}

static int fabric_no_passive_ep(struct fid_fabric *fabric, struct fi_info *info, struct fid_pep **pep, void *context)
{
	return -FI_ENOSYS;
}

static int fabric_no_wait_open(struct fid_fabric *fabric, struct fi_wait_attr *attr, struct fid_wait **waitset)
{
	return -FI_ENOSYS;
}

static int fabric_no_trywait(struct fid_fabric *fabric, struct fid **fids, int count)
{
	return -FI_ENOSYS;
}

static struct fi_ops fabric_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = fabric_close,
	.bind = shim_no_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_fabric fabric_ops = {
	.size = sizeof(struct fi_ops_fabric),
	.domain = shim_domain_open,
	.passive_ep = fabric_no_passive_ep,
	.eq_open = shim_eq_open,
	.wait_open = fabric_no_wait_open,
	.trywait = fabric_no_trywait,
};

static struct fid_fabric the_fabric = { /* process-wide: see fabric_close() */
	.fid = { .fclass = FI_CLASS_FABRIC, .ops = &fabric_fid_ops },
	.ops = &fabric_ops,
};

int shim_fabric_open(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context)
{
	if (attr->name && strcmp(attr->name, SHIM_NAME))
		return -FI_EINVAL;
	the_fabric.fid.context = context;
	the_fabric.api_version = attr->api_version;
	*fabric = &the_fabric;
	return 0;
}

/* ---- registration ---------------------------------------------------------------------------------------------- */

static void cleanup(void)
{
}

static struct fi_provider provider = {
	.version = SHIM_VERSION,
	.fi_version = SHIM_FI_VERSION,
	.name = SHIM_NAME,
	.getinfo = shim_getinfo,
	.fabric = shim_fabric_open,
	.cleanup = cleanup,
};

struct fi_provider *fi_prov_ini(void)
{
	return &provider;
}
