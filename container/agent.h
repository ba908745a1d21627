/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/agent.h: the rank's side of its container: gate, agent thread and user area.
 *
 * The gate gives the state that MPI keeps below itself one owner at a time: a program thread that is inside, or the
 * agent with the gate closed (rule 9). Entering costs two plain stores and a load; whoever closes pays a membarrier.
 * The agent thread closes the gate when clusterd says QUIESCE, lets the layer above detach from the physical NoC,
 * reports QUIET, and later lets it attach again. The user area is the one region where that layer keeps its state.
 *
 * Used by noc/ and, for the gate, by mpi-shim/. Everything here lives in the user area or in the data of the library
 * and moves with the rank, byte for byte; the control socket's number is the same on every cluster.
 */
#ifndef CT_AGENT_H
#define CT_AGENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "container/ctl.h"
#include "runtime/base/base.h"

/* ---- gate ------------------------------------------------------------------------------------------------------ */

#define CT_GATE_CLOSED 1u /* wait */
#define CT_GATE_FENCE  2u /* for good: no membarrier here (a seccomp filter), so whoever enters pays a fence */

struct ct_gate {
	_Atomic uint32_t is_inside; /* program thread writes; closer reads */
	_Atomic uint32_t shut;      /* CT_GATE_*: closer writes; program thread reads; futex. 0: come in */
	_Atomic uint32_t doing;     /* enum ct_doing, of the last entry; a hint */
	_Atomic uint32_t sleepers;  /* threads asleep on the doorbell: outside the gate, but the segment must stay mapped */
	_Atomic uint32_t entries;           /* program thread counts; the closer compares two readings: is the program in MPI now? */
};
extern struct ct_gate ct_the_gate; /* process-wide: one gate per rank */

void ct_gate_enter_slow(void);

#ifdef CT_NO_GATE /* only to count what the gate costs: mpi-shim/count.c */
static inline void ct_gate_enter(enum ct_doing doing) { (void)doing; }
static inline void ct_gate_leave(void) { }
#else
/**
 * ct_gate_enter - a program thread is about to touch provider state. Waits while the agent owns it.
 * The caller serialises its own threads (FI_THREAD_DOMAIN); not recursive.
 */
static inline void ct_gate_enter(enum ct_doing doing)
{
	struct ct_gate *g = &ct_the_gate;

	atomic_store_explicit(&g->doing, (uint32_t)doing, memory_order_relaxed);
	/* one instruction; not locked: only who holds MPI's lock writes, and the agent reads one value or the other */
	__asm__ volatile("incl %0" : "+m"(g->entries));
	atomic_store_explicit(&g->is_inside, 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst); /* order in program text; the closer's membarrier does the rest */
	if (GW_UNLIKELY(atomic_load_explicit(&g->shut, memory_order_acquire)))
		ct_gate_enter_slow();
}

/** ct_gate_leave - by the thread that has entered */
static inline void ct_gate_leave(void)
{
	atomic_store_explicit(&ct_the_gate.is_inside, 0, memory_order_release);
}
#endif

/**
 * ct_gate_close - own the provider state from the agent's side (or any thread that is not inside)
 * Waits for a thread that is inside to leave, at most @deadline_ms. Return: 0; -ETIMEDOUT, or -EAGAIN on a kernel that has
 * just turned out to lack membarrier, with the gate open.
 * A second closer must not come while one owns the gate: the agent is the only one.
 */
int ct_gate_close(uint64_t deadline_ms);
/** ct_gate_probe - find out whether this kernel has membarrier; before there is a second thread that uses the gate */
void ct_gate_probe(void);
/** ct_gate_open - by whoever has closed it; wakes the threads that wait to enter */
void ct_gate_open(void);

/* ---- agent ----------------------------------------------------------------------------------------------------- */

#define CT_AGENT_FDS 2

/* What the layer above does at the agent's word. All run on the agent thread (attach also on the program's first
 * thread, at start), with the gate closed, and must not call into MPI or wait for a peer. */
struct ct_agent_ops {
	/* map the host segment behind @segment_fd (borrowed), open interfaces, as @order (ATTACH) says; fills incarnation and
	 * net of @answer; may fail, leaving nothing attached */
	int (*attach)(int segment_fd, const struct ct_ctl_msg *order, struct ct_ctl_msg *answer, struct gw_error *why);
	/* close and drain the inbox, unmap; on failure everything is attached as before */
	int (*detach)(uint64_t deadline_ms, struct gw_error *why);
	/* wake program threads that sleep on the doorbell; called with the gate closed, before detach */
	void (*wake_sleepers)(void);
	/* a short turn with the gate closed while the program computes; returns ms until the next turn, -1 for none */
	int (*turn)(void);
	/* with the gate closed, after a turn: descriptors whose readiness asks for another one; their number, or -EAGAIN when
	 * a turn must come first. NULL: there are none */
	int (*fds)(int fds[CT_AGENT_FDS]);
	/* something came for a thread that sleeps on the doorbell; gate open */
	void (*ring)(void);
	/* a descriptor by which others ask for a turn; -1: there is none now. NULL: never */
	int (*bell)(void);
	/* gate open: write struct ct_ctl_traffic of all peers to @fd, from its start; their number, or a negative errno */
	int (*traffic)(int fd);
	/* gate open: it was readable. Is there something to do in a turn? */
	bool (*heard)(void);
};

/**
 * ct_agent_start - say HELLO to clusterd, wait for the segment, attach, start the agent thread
 * Without GODWIT_CTL_FD in the environment there is no clusterd: returns -ENOENT and nothing is started.
 * Called once by a program thread, when the first domain opens. The gate is open on return.
 */
int ct_agent_start(const struct ct_agent_ops *ops, struct gw_error *why);

/** ct_agent_stop - the domain closes: CLOSING, detach, CLOSED; ends the thread. Called by a program thread, gate open. */
void ct_agent_stop(void);

/** ct_agent_nudge - ask for a turn() soon. Any thread; one small packet to clusterd and back. */
void ct_agent_nudge(void);

/** ct_agent_is_me - does the agent make this call, and not the program? Any thread. */
bool ct_agent_is_me(void);

/* ---- user area ------------------------------------------------------------------------------------------------- */

/*
 * One reserved range of private memory with a small allocator of its own: size classes of powers of two with free
 * lists, larger blocks mapped in the range's upper part. Not thread safe: the owner of the gate owns the area. It
 * never gives memory back to the system and never calls malloc, so the agent may use it at any time (rule 11).
 */
void *ct_area_alloc(size_t size);          /* 16-byte aligned, not zeroed; NULL when the area is full */
void *ct_area_zalloc(size_t size);
void ct_area_free(void *p, size_t size);   /* the size that was asked for */
size_t ct_area_used(void);                 /* bytes handed out now */

#endif
