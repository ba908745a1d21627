/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/shim.h: the libfabric provider "godwit", inside.
 *
 * The module libgodwit-fi.so is loaded by libfabric (FI_PROVIDER_PATH) into an MPI process and offers one fabric, one
 * domain, one reliable-datagram endpoint, whose address is the process's logical name. It matches tags and hands
 * everything else to noc/channel.h. doc/provider.md says what MPICH asks and what is answered.
 *
 *   prov.c    fi_prov_ini, getinfo, fabric       cq.c      completion queue, counters, waiting
 *   domain.c  domain, event queue, operations    tagged.c  tagged messages
 *             that are refused                   msg.c     untagged messages, multi-receive buffers
 *   av.c      address vector                     match.c   who takes what
 *   ep.c      endpoint, options, cancel          rma.h     one-sided operations: mr.c, rma.c, atomic.c,
 *                                                          atomic_ops.c, hold.c, patience.c
 *
 * In the module, too, but no part of the provider: interface.c, by which the calls of godwit.h reach the agent. In this folder and
 * not in the module: mpix.c and mpix_f.c, those calls, in a library that programs link; pmi.c, the PMI that clusterd speaks.
 *
 * Every entry point that touches state is between ct_gate_enter() and ct_gate_leave(), and never waits in there for
 * anybody. The handlers of the two ports run inside noc_poll(), by the program's thread or by the agent's: they
 * allocate from the user area only and leave their results in the completion queue.
 *
 * All state is in the user area or in the data of this library, and none of it is physical: it moves byte for byte.
 */
#ifndef SHIM_H
#define SHIM_H

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <rdma/fi_tagged.h>

#include "container/agent.h"
#include "mpi-shim/match.h"
#include "noc/channel.h"

#define SHIM_NAME        "godwit"
#define SHIM_INJECT_SIZE 16384                  /* one inject is one eager message */
#define SHIM_IOV_LIMIT   32
#define SHIM_MAX_MSG     ((size_t)INT64_MAX)    /* MPICH then never leaves the plain path */
_Static_assert(SHIM_INJECT_SIZE <= NOC_EAGER_MAX, "an inject must be eager");

#define SHIM_RMA_WAYS (FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE)
#define SHIM_CAPS (FI_MSG | FI_TAGGED | FI_RMA | FI_ATOMIC | SHIM_RMA_WAYS | FI_SEND | FI_RECV | FI_MULTI_RECV | FI_DIRECTED_RECV | FI_SOURCE | \
                   FI_LOCAL_COMM | FI_REMOTE_COMM)
#define SHIM_MODE FI_CONTEXT2
#define SHIM_TX_FLAGS (FI_COMPLETION | FI_INJECT | FI_INJECT_COMPLETE | FI_TRANSMIT_COMPLETE | FI_DELIVERY_COMPLETE)
#define SHIM_RX_FLAGS (FI_COMPLETION | FI_MULTI_RECV)

/* One-sided operations of one process on another are done in the order of its calls, of any length: its channel has one. */
#define SHIM_ORDER (FI_ORDER_SAS | FI_ORDER_ATOMIC_RAR | FI_ORDER_ATOMIC_RAW | FI_ORDER_ATOMIC_WAR | FI_ORDER_ATOMIC_WAW)

/* Bit 0 of MPICH's context id says that a message belongs to a collective; context ids begin at bit 31 of the tag. */
#define SHIM_TAG_COLLECTIVE (1ull << 31)

/* The bytes of an address, as they travel through PMI and port strings. */
struct shim_addr {
	uint32_t magic;
	uint32_t version;
	uint64_t name; /* noc_name */
};
#define SHIM_ADDR_MAGIC   0x77646f67u /* "godw" */
#define SHIM_ADDR_VERSION 1
_Static_assert(sizeof(struct shim_addr) == 16 && sizeof(struct shim_addr) <= FI_NAME_MAX, "wire format");

/* One completion. User area. */
struct shim_comp {
	struct fi_cq_tagged_entry e;
	uint64_t olen; /* bytes that were cut off */
	uint32_t err;  /* FI_E...; 0 for a success */
	uint32_t src;  /* process number; SHIM_ANY for a send */
};
_Static_assert(sizeof(struct shim_comp) == 64, "one cache line");

struct shim_cq {
	struct fid_cq fid;
	struct shim_comp *ring; /* doubles when it is full */
	uint32_t mask, head, tail;
	uint32_t entry_size;    /* of the format that was asked for: a prefix of the tagged one */
	uint32_t empties;       /* polls in vain in what looks like one tight loop */
	uint64_t empty_ticks;   /* when the last one ended; a value from another host only starts the count again */
	bool is_told;           /* a direct receive is done: no read sleeps before its caller has looked */
	struct shim_domain *domain;
	uint32_t users;
};

struct shim_cntr {
	struct fid_cntr fid;
	struct shim_domain *domain;
	uint64_t value, errors;
	uint32_t users;
};

struct shim_domain {
	struct fid_domain fid;
	uint32_t users;
	uint32_t job;
};

struct shim_av {
	struct fid_av fid;
	struct shim_domain *domain;
	uint32_t users;
};

/* A posted buffer for untagged messages, in the 64 bytes of the request. Its state is where shim_recv has it. */
struct shim_msg_recv {
	struct shim_msg_recv *next, *prev;
	char *buf;         /* or an array of iovs struct iovec, in the user area */
	size_t len;
	uint32_t src;      /* SHIM_ANY: from anybody */
	uint16_t iovs;
	uint8_t is_multi;
	uint8_t state;     /* SHIM_MSG and others */
	size_t used;
	uint32_t pending;  /* bulk transfers under way into a multi-receive buffer */
	uint32_t is_closed;
};
_Static_assert(sizeof(struct shim_msg_recv) <= 64, "fits fi_context2");
_Static_assert(offsetof(struct shim_msg_recv, state) == offsetof(struct shim_recv, link.state), "told apart by it");

struct shim_ep {
	struct fid_ep fid;
	struct shim_cq *tx_cq, *rx_cq;
	struct shim_cntr *tx_cntr, *rx_cntr, *rma_cntr;
	uint64_t tx_flags, rx_flags;
	uint32_t job;
	uint32_t source_job;             /* the same; SHIM_ANY, which no name has: sources do not count */
	enum ct_doing waiting_for;       /* what the next poll is said to be doing */
	bool is_enabled;
	bool tx_completes, rx_completes; /* calls without flags of their own write a completion */
	bool tx_selective, rx_selective;
	size_t min_multi_recv;
	struct shim_recv *expected;      /* the direct receive of the call that polls, not posted; NULL outside of it */
	struct shim_match match;
	struct shim_msg_recv *msg_first, *msg_last;    /* posted, in order */
	struct shim_unexp *msg_unexp, *msg_unexp_last; /* untagged messages that found no buffer */
	struct rma_reply *replies, *replies_last;      /* answers of rma.c that wait for room */
	struct atomic_op *atomics, *atomics_last;      /* operations of atomic.c that are not sent whole */
	struct held *held, *held_last;                 /* requests of hold.c that wait for the program */
	bool is_mixed;                                 /* MPICH does accumulates itself, too: hold.c */
	uint32_t names;                                /* entries of: */
	uint32_t *unanswered;                          /* requests of rma.h, by process */
	uint64_t unanswered_all;
	uint64_t asked_ticks;                          /* polls are in vain since; 0: not yet. patience.c */
	uint32_t patience;                             /* how long they may be */
	struct shim_domain *domain;
	struct shim_av *av;
};

/* The endpoint of this process: a name has one inbox, so there is one. NULL when none is open. */
extern struct shim_ep *shim_the_ep;

/* ---- objects --------------------------------------------------------------------------------------------------- */

int shim_fabric_open(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
int shim_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags, const struct fi_info *hints,
                 struct fi_info **info);
int shim_domain_open(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **dom, void *context);
int shim_eq_open(struct fid_fabric *fabric, struct fi_eq_attr *attr, struct fid_eq **eq, void *context);
int shim_av_open(struct fid_domain *dom, struct fi_av_attr *attr, struct fid_av **av, void *context);
int shim_cq_open(struct fid_domain *dom, struct fi_cq_attr *attr, struct fid_cq **cq, void *context);
int shim_cntr_open(struct fid_domain *dom, struct fi_cntr_attr *attr, struct fid_cntr **cntr, void *context);
int shim_ep_open(struct fid_domain *dom, struct fi_info *info, struct fid_ep **ep, void *context);
extern struct fi_ops_tagged shim_tagged_ops;
extern struct fi_ops_msg shim_msg_ops;
extern struct fi_ops_rma shim_rma_ops;
extern struct fi_ops_mr shim_mr_ops;
extern struct fi_ops_atomic shim_atomic_ops;
int shim_direct_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context);
extern const struct noc_port_ops shim_tagged_port, shim_msg_port, shim_rma_port;

/* Entries of dispatch tables that refuse. */
int shim_no_bind(struct fid *fid, struct fid *bfid, uint64_t flags);
int shim_no_control(struct fid *fid, int command, void *arg);
int shim_no_ops_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context);

/* ---- used by tagged.c and msg.c, inside the gate --------------------------------------------------------------- */

/** shim_die - the user area is full, or something else that no caller could survive; says so and aborts */
_Noreturn void shim_die(const char *fmt, ...) GW_PRINTF(1, 2);

void shim_cq_grow(struct shim_cq *cq);

/* A slot at the end of the queue: the caller fills all of it. */
static inline struct shim_comp *shim_cq_push(struct shim_cq *cq)
{
	if (GW_UNLIKELY(cq->tail - cq->head > cq->mask))
		shim_cq_grow(cq);
	return &cq->ring[cq->tail++ & cq->mask];
}

/* Nothing was found by the caller's poll: wait a little when this has the look of a tight loop. */
void shim_cq_idle(struct shim_cq *cq, uint64_t since); /* @since: when the poll that was in vain began */
static inline uint64_t shim_ticks(void)
{
	return __builtin_ia32_rdtsc();
}

static inline void shim_complete_send(struct shim_ep *ep, void *context, uint64_t flags, int status)
{
	struct shim_comp *c;

	if (GW_UNLIKELY(ep->tx_cntr != NULL)) {
		ep->tx_cntr->value += status == 0;
		ep->tx_cntr->errors += status != 0;
	}
	if (!context)
		return;
	c = shim_cq_push(ep->tx_cq);
	c->e = (struct fi_cq_tagged_entry){ .op_context = context, .flags = FI_SEND | flags };
	c->olen = 0;
	c->err = (uint32_t)-status;
	c->src = SHIM_ANY;
}

/** shim_send - the common way out; @context NULL: no completion is wanted */
static inline ssize_t shim_send(struct shim_ep *ep, enum noc_port port, fi_addr_t dst, const struct iovec *iov,
                                size_t iovs, uint64_t tag, uint64_t data, uint32_t noc_flags, void *context,
                                uint64_t comp_flags)
{
	bool is_done = false;
	int rc;

	ep->tx_cq->empties = 0;
	if (GW_UNLIKELY(dst >> 32 != ep->job))
		return -FI_EHOSTUNREACH;
	rc = noc_send((uint32_t)dst, port, tag, data, iov, iovs, noc_flags, context, &is_done);
	/* A rank may finalize while others still send to it: MPICH 4.0.2 waits for nobody there. Such a message is lost, as
	 * one is that lies in the inbox of a rank that leaves; whoever asked for a completion is told. */
	if (GW_UNLIKELY(rc == -EHOSTUNREACH) && !context)
		rc = 0;
	if (rc == 0 && (is_done || !context))
		shim_complete_send(ep, context, comp_flags, 0);
	return rc;
}

/** shim_unexp_make - a copy of a message in the user area, or its offer */
struct shim_unexp *shim_unexp_make(const struct noc_msg *msg);
void shim_unexp_free(struct shim_unexp *u);

/** shim_drop_offer - take a bulk transfer without keeping anything of it */
void shim_drop_offer(struct noc_bulk *offer);

/** shim_iov_scatter - copy @len bytes into an iovec array; the caller has checked that they fit */
void shim_iov_scatter(const struct iovec *iov, size_t iovs, const void *from, size_t len);
size_t shim_iov_len(const struct iovec *iov, size_t iovs);

/* Process number for a source or SHIM_ANY; false for a name of another job. Who has not asked for FI_DIRECTED_RECV may say
 * anything there, and means anybody. */
static inline bool shim_source(const struct shim_ep *ep, fi_addr_t addr, uint32_t *src)
{
	*src = (uint32_t)addr; /* FI_ADDR_UNSPEC is all ones, and so is SHIM_ANY */
	if (GW_LIKELY(addr >> 32 == ep->source_job) || addr == FI_ADDR_UNSPEC)
		return true;
	*src = SHIM_ANY;
	return ep->source_job == SHIM_ANY;
}

bool shim_msg_cancel(struct shim_ep *ep, void *context);
void shim_msg_close(struct shim_ep *ep);
void shim_tagged_close(struct shim_ep *ep);

/** shim_hold_look - an untagged message has come: is it one by which MPICH accumulates? hold.c */
void shim_hold_look(struct shim_ep *ep, const struct noc_msg *msg);
void shim_hold_close(struct shim_ep *ep);

/** shim_rma_flush - in each poll: send answers, and pieces of long operations, that had no room before; serve what was held */
void shim_rma_flush(struct shim_ep *ep);
static inline bool shim_rma_waits(const struct shim_ep *ep) { return ep->replies || ep->atomics || ep->held; }

/** shim_rma_impatient - a poll was in vain while answers are due: see patience.c. @now: ticks */
void shim_rma_impatient(struct shim_ep *ep, uint64_t now, bool will_sleep);

#endif
