/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/channel.h: channels and bulk transfers, for the layers that are built on them (mailbox, portal, sync, mpi-shim).
 *
 * A channel is an ordered, exactly-once stream of messages from one name to another; there is nothing to open. A
 * message has a port (who it is for at the receiver), two words that the layer above defines, and a payload. Up to
 * NOC_EAGER_MAX bytes travel at once; more is a bulk transfer: the receiver's port is told of the offer and accepts
 * it into memory, then it streams through the receiver's cells as a pipelined double copy. A peer on another host is
 * reached over the network (net.h); which path a message takes, and that it survives the path, is the channel's affair.
 *
 * All calls are made by the owner of the gate (container/agent.h). None waits. Handlers run inside noc_poll(), by the
 * same owner, which may be the agent: they must not call MPICH or malloc (ct_area_alloc is theirs).
 */
#ifndef NOC_CHANNEL_H
#define NOC_CHANNEL_H

#include <sys/uio.h>

#include "container/agent.h"
#include "noc/segment.h"

#define NOC_CELL_SIZE  32768           /* one cell of an inbox's staging pool */
#define NOC_EAGER_MAX  NOC_CELL_SIZE
#define NOC_INLINE_MAX 208             /* fits in the slot itself */

enum noc_port { NOC_PORT_TAGGED = 0, NOC_PORT_MSG = 1, NOC_PORT_MAILBOX = 2, NOC_PORT_PORTAL = 3, NOC_PORT_SYNC = 4,
                NOC_PORT_RMA = 5, NOC_PORT_COUNT = 8 };

struct noc_bulk;

/* A message as it arrives. Valid during the handler only, @payload included (it may be in shared memory). */
struct noc_msg {
	uint32_t src;             /* process number in the job */
	uint32_t port;
	uint64_t tag, data;       /* the layer's two words */
	uint64_t len;             /* of the whole message */
	const void *payload;      /* eager: len bytes. NULL for an offer of a bulk transfer */
	struct noc_bulk *offer;   /* bulk: keep it, then noc_bulk_accept() it once, at any time later. NULL for eager */
};

struct noc_port_ops {
	void (*message)(const struct noc_msg *msg);
	void (*sent)(void *context, int status);                      /* a send with a context is complete: buffer free */
	void (*received)(void *context, uint64_t len, int status);    /* an accepted transfer has been written */
	bool (*turn)(void);    /* NULL, or in each turn of the agent: push what waits. true: something still does */
};
void noc_port_bind(enum noc_port port, const struct noc_port_ops *ops);

#define NOC_F_COPY     1u  /* the caller's buffer is free on return, whatever happens (inject); len <= NOC_EAGER_MAX */
#define NOC_F_RESERVE  2u  /* may use the reserve beyond the bound (zero-byte acknowledgements) */

/**
 * noc_send - append a message to the channel to @dst
 * @context: non-NULL: ops->sent(context) is called once when the buffer is free again, from a later noc_poll() or
 *           before this call returns when *@is_done is non-NULL: then *is_done = true and sent() is not called.
 * Up to inject size (NOC_F_COPY) it is accepted also while @dst moves: it waits in the channel's queue. Other sends
 * are accepted by reference and keep their place in the order. Nothing to send is one empty piece, of whatever address, or none;
 * the first is faster.
 * Return: 0; -FI_EAGAIN (-EAGAIN) when a bound is exhausted and nothing happened; -EINVAL; -EHOSTUNREACH when the name
 * is gone.
 */
int noc_send(uint32_t dst, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov, size_t iovs,
             uint32_t flags, void *context, bool *is_done);

/**
 * noc_bulk_accept - receive an offer
 * @iov: where to; a total shorter than the offer truncates: only that much is transferred. The array is copied.
 * ops->received(context, length of the offer, status) follows when all is written.
 * Return: 0; -EAGAIN when there is no memory, -EHOSTUNREACH when the sender is gone: then the offer is as it was.
 */
int noc_bulk_accept(struct noc_bulk *offer, const struct iovec *iov, size_t iovs, void *context);

/** noc_poll - take what has arrived (at most @budget messages), push what waits; returns how much was done */
int noc_poll(int budget);

/**
 * noc_poll_soon - as noc_poll(), when there is a message of this host, or comes within less than half a microsecond
 * Where ranks share cores it waits for none. Return: 0, and nothing is done, when there is none.
 */
int noc_poll_soon(int budget);

/**
 * noc_wait - the caller has polled in vain and means to poll again: spin on, yield or sleep, as the cluster's load says
 * Leaves the gate while it sleeps and has entered it again on return. @empty_polls: consecutive empty polls so far in
 * what looks like one tight loop. Bounded by some tens of microseconds when several program threads exist (rule 10).
 */
void noc_wait(uint32_t empty_polls);

/** noc_waited - the caller has spent @ticks of the processor's counter on nothing but looking in vain; inside the gate */
void noc_waited(uint64_t ticks);

/** noc_will_sleep - would noc_wait() let the caller sleep now, or others run first? */
bool noc_will_sleep(uint32_t empty_polls);

/**
 * noc_bell_ring - wake the agent of @proc, if that is on this host: its program may be computing, and messages wait there
 * One system call. It may be in vain; who waits for an answer rings again.
 */
void noc_bell_ring(uint32_t proc);

uint32_t noc_self(void);      /* own process number */
uint32_t noc_job(void);
uint32_t noc_names_max(void);
/** noc_guest_number - the number that a process of another job has here; UINT32_MAX: it is not known on this host (yet) */
uint32_t noc_guest_number(noc_name name);
/** noc_true_name - of @number, which may be a guest's: as its own job has it */
noc_name noc_true_name(uint32_t number);

/**
 * noc_start - become a member: agent, segment, own inbox (program thread; once, reference counted)
 * With a clusterd (GODWIT_CTL_FD, GODWIT_PROC, GODWIT_JOB in the environment) or alone, as the only name 0 of a private
 * segment. noc_stop() lingers until everything queued has been taken by its receivers, or they are gone.
 * On return from noc_start the gate is open.
 */
int noc_start(struct gw_error *why);
void noc_stop(void);

/** noc_start_test - for unit tests: attach to @segment_fd as @proc without clusterd and agent */
struct noc_host; /* NULL: one host */
int noc_start_test(int segment_fd, uint32_t proc, const struct noc_host *here, struct gw_error *why);
int noc_detach_test(uint64_t deadline_ms, struct gw_error *why);                      /* what the agent does around a move */
int noc_attach_test(int segment_fd, uint32_t cluster, const struct noc_host *here, struct gw_error *why);

struct noc_counters {
	struct ct_traffic bytes; /* of what was sent and received */
	uint64_t sent, received, queued, sleeps, rings, voided, drained, shed;
};
const struct noc_counters *noc_counters(void);

#endif
