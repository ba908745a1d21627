/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/sim/sim.h: several members of a job in one process, over a simulated libfabric, in an order that a seed decides.
 *
 *   sim.c    the members: what they send, when they poll, move and end; the news of their names; the checks
 *   wire.c   below noc/fabric.c, which is the real one: endpoints, queues and what is on its way between them
 *
 * All that a member is hangs from noc_me, and from `net` of fabric.c; sim_enter() exchanges both. Time is counted, not
 * measured. So a seed is a run, and a failure is told with its seed and the last events before it.
 */
#ifndef SIM_H
#define SIM_H

#include "noc/local.h"

#define SIM_MEMBERS 4
#define SIM_HOSTS   3

extern int sim_now_in;                  /* whose state is in place; -1: nobody's */
void sim_enter(int member);

uint64_t sim_rnd(uint64_t n);           /* 0 .. n-1 */
static inline bool sim_one_in(uint64_t n) { return n && sim_rnd(n) == 0; }

/** sim_event - remember it for the story of a failure; @what has a %d, %d, %llu and %llu, or fewer of them */
void sim_event(const char *what, int a, int b, uint64_t c, uint64_t d);
_Noreturn void sim_fail(const char *what);

extern struct sim_counts { uint64_t steps, moves, cuts, crossings, refused, lost_requests, frames, lost_frames, messages,
                           bulks, ends, episodes; } sim_counts;

/* ---- wire.c */
extern unsigned sim_p_lost;             /* one in so many requests to connect is lost without a word; 0: none */
void sim_wire_begin(void);
bool sim_wire_step(void);               /* something on its way goes on; false: nothing is on its way */
void sim_wire_cut(void);                /* some connection breaks */
void sim_wire_end(void);                /* check that nothing is left open */
void sim_net_swap(int from, int to);    /* of fabric.c */

#endif
