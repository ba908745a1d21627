/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/rma.h: what the sources of one-sided operations share: mr.c (regions), rma.c (read and write), atomic.c and
 * atomic_ops.c and hold.c (atomic operations), patience.c (what is done when an answer is long in coming).
 *
 * They speak through one port. An operation is a message to the owner of the memory, whose handler does it and answers.
 * The channel delivers each message once and in order, whichever side moves, so an operation is done once: what a move
 * delays is sent again by the channel, an answer as it was.
 */
#ifndef SHIM_RMA_H
#define SHIM_RMA_H

#include "mpi-shim/shim.h"

#include <rdma/fi_atomic.h>

/* Written numbers. The data word of a message is the asker's record of the operation, for an answer to come back with; the
 * owner does not look into it. */
enum rma_tag { RMA_READ = 1, RMA_DATA = 2, RMA_ERROR = 3, RMA_WRITE = 4, RMA_ACK = 5, RMA_WRITE_LONG = 6, RMA_PULL = 7,
               RMA_ATOMIC = 8, RMA_VALUE = 9, RMA_REFUSED = 10 };

/** shim_mr_place - where in our memory a request means, or NULL: no such region, not all of @access, outside of it */
char *shim_mr_place(uint64_t key, uint64_t offset, uint64_t len, uint64_t access);

/**
 * shim_rma_answer - answer from a handler, which may not be refused: what the channel cannot take now waits for a poll
 * @is_copied: the bytes are read now; otherwise when they are sent, and they stay where they are (a region)
 */
void shim_rma_answer(struct shim_ep *ep, uint32_t to, enum rma_tag tag, uint64_t data, const struct iovec *iov, size_t iovs,
                     bool is_copied);

/** shim_rma_complete - an operation has ended: count it, and report it if it has a @context or failed */
void shim_rma_complete(struct shim_ep *ep, void *context, uint64_t flags, uint64_t len, int status);

/* ---- atomic.c */
void shim_atomic_serve(struct shim_ep *ep, const struct noc_msg *msg); /* a request has come */
void shim_atomic_do(struct shim_ep *ep, const struct noc_msg *msg);    /* and its time, too */
void shim_atomic_answered(struct shim_ep *ep, const struct noc_msg *msg);
void shim_atomic_push(struct shim_ep *ep); /* pieces of long operations that found no room */

/* ---- hold.c */
/** shim_hold_keep - while ep->is_mixed, before a request is served: keep it for the program? */
bool shim_hold_keep(struct shim_ep *ep, const struct noc_msg *msg);
void shim_hold_serve(struct shim_ep *ep); /* in a poll of the program */

/* ---- atomic_ops.c */
enum shim_atomic_kind { SHIM_ATOMIC_PLAIN = 1, SHIM_ATOMIC_FETCH = 2, SHIM_ATOMIC_COMPARE = 3 }; /* written numbers */

/** shim_atomic_size - bytes of one element; 0: there is no such datatype */
size_t shim_atomic_size(enum fi_datatype type);
/** shim_atomic_is_valid - can this be done? Pure */
bool shim_atomic_is_valid(enum fi_datatype type, enum fi_op op, enum shim_atomic_kind kind);
/**
 * shim_atomic_apply - do a valid operation on @n elements at @dst
 * @src: operands; unused by FI_ATOMIC_READ. @compare: of SHIM_ATOMIC_COMPARE. @old: NULL, or where the values before go
 * Nothing need be aligned. An element that is aligned is read and written by one instruction, as the program may look.
 */
void shim_atomic_apply(enum fi_datatype type, enum fi_op op, void *dst, const void *src, const void *compare, void *old,
                       size_t n);

/* ---- patience.c */
static inline void shim_rma_asked(struct shim_ep *ep, uint32_t peer)
{
	ep->unanswered[peer]++;
	ep->unanswered_all++;
	ep->asked_ticks = 0;
}

static inline void shim_rma_heard(struct shim_ep *ep, uint32_t peer)
{
	ep->unanswered[peer]--;
	ep->unanswered_all--;
	ep->asked_ticks = 0;
	/* Polls before it were not in vain, though it may have come to the agent, or to whoever reads the counter: MPICH looks into the
	 * queue once more when the counter says that all is done, which must not be taken for waiting on. */
	ep->tx_cq->empties = 0;
}

#endif
