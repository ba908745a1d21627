/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/test_shim.h: what the tests of the provider share: two processes on one host segment, each with everything
 * open, as MPICH opens it.
 */
#ifndef TEST_SHIM_H
#define TEST_SHIM_H

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <rdma/providers/fi_prov.h>

#include "mpi-shim/shim.h"
#include "tests/tap.h"

struct fi_provider *fi_prov_ini(void);

enum { ME, PEER };

static struct fid_fabric *fabric;
static struct fid_domain *domain;
static struct fid_av *av;
static struct fid_cq *cq;
static struct fid_cntr *cntr, *rma_cntr;
static struct fid_ep *ep;
static struct fi_info *info;
static fi_addr_t peers[2];

/* The next completion, good or bad. The test's alarm is the deadline. */
__attribute__((unused)) static struct fi_cq_err_entry next_completion(void)
{
	struct fi_cq_err_entry e = { 0 };
	struct fi_cq_tagged_entry c;
	ssize_t n;

	while ((n = fi_cq_read(cq, &c, 1)) == -FI_EAGAIN)
		sched_yield();
	if (n == 1)
		memcpy(&e, &c, sizeof(c));
	else if (fi_cq_readerr(cq, &e, 0) != 1)
		e.err = -1;
	return e;
}

/* Join, open everything, learn both addresses without an exchange: job 0, processes 0 and 1. */
static void open_all(int segment_fd, uint32_t proc, const struct fi_info *hints)
{
	struct fi_provider *p = fi_prov_ini();
	struct fi_cq_attr cq_attr = { .format = FI_CQ_FORMAT_TAGGED };
	struct fi_av_attr av_attr = { .type = FI_AV_MAP };
	struct fi_cntr_attr cntr_attr = { .events = FI_CNTR_EVENTS_COMP, .wait_obj = FI_WAIT_UNSPEC };
	struct gw_error why = { 0 };
	struct shim_addr both[2];

	if (noc_start_test(segment_fd, proc, NULL, &why))
		tap_bail("%s", why.text);
	if (p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, hints, &info) || p->fabric(info->fabric_attr, &fabric, NULL) ||
	    fi_domain(fabric, info, &domain, NULL) || fi_av_open(domain, &av_attr, &av, NULL) ||
	    fi_cntr_open(domain, &cntr_attr, &cntr, NULL) || fi_cntr_open(domain, &cntr_attr, &rma_cntr, NULL) || fi_cq_open(domain, &cq_attr, &cq, NULL) ||
	    fi_endpoint(domain, info, &ep, NULL) || fi_ep_bind(ep, &av->fid, 0) ||
	    fi_ep_bind(ep, &cq->fid, FI_SEND | FI_RECV | FI_SELECTIVE_COMPLETION) ||
	    fi_ep_bind(ep, &cntr->fid, FI_SEND) || fi_ep_bind(ep, &rma_cntr->fid, FI_READ | FI_WRITE) || fi_enable(ep))
		tap_bail("the provider cannot be opened");
	for (uint32_t i = 0; i < 2; i++)
		both[i] = (struct shim_addr){ SHIM_ADDR_MAGIC, SHIM_ADDR_VERSION, noc_name_make(noc_job(), i) };
	if (fi_av_insert(av, both, 2, peers, 0, NULL) != 2)
		tap_bail("addresses cannot be inserted");
}

static struct fi_info *mpich_hints(void)
{
	static struct fi_tx_attr tx = { .op_flags = FI_COMPLETION | FI_DELIVERY_COMPLETE, .msg_order = SHIM_ORDER };
	static struct fi_rx_attr rx = { .op_flags = FI_COMPLETION };
	static struct fi_ep_attr ep_attr = { .type = FI_EP_RDM };
	static struct fi_domain_attr dom = { .threading = FI_THREAD_DOMAIN, .data_progress = FI_PROGRESS_MANUAL,
	                                     .control_progress = FI_PROGRESS_MANUAL, .resource_mgmt = FI_RM_ENABLED,
	                                     .av_type = FI_AV_TABLE, .cq_data_size = 4 };
	static struct fi_fabric_attr fab;
	static struct fi_info hints;

	hints = (struct fi_info){ .caps = FI_MSG | FI_TAGGED | FI_MULTI_RECV | FI_DIRECTED_RECV | FI_RMA | FI_ATOMIC,
	                          .mode = FI_CONTEXT | FI_CONTEXT2 | FI_ASYNC_IOV | FI_RX_CQ_DATA,
	                          .tx_attr = &tx, .rx_attr = &rx, .ep_attr = &ep_attr, .domain_attr = &dom,
	                          .fabric_attr = &fab };
	return &hints;
}

__attribute__((unused)) static void free_info(struct fi_info *i)
{
	free(i->tx_attr);
	free(i->rx_attr);
	free(i->ep_attr);
	free(i->domain_attr->name);
	free(i->domain_attr);
	free(i->fabric_attr->name);
	free(i->fabric_attr);
	free(i);
}

static bool close_all(void)
{
	return !fi_close(&ep->fid) && !fi_close(&cq->fid) && !fi_close(&cntr->fid) && !fi_close(&rma_cntr->fid) &&
	       !fi_close(&av->fid) && !fi_close(&domain->fid) && !fi_close(&fabric->fid);
}

#endif
