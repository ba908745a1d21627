/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/sim/sim.h: several members of a job in one process, over a simulated libfabric, in an order that a seed decides.
 *
 *   sim.c      the scheduler: when members poll, move and end; the news of their names; an episode and its end
 *   traffic.c  what members send to each other, and whether it came once, in order and whole
 *   wire.c     below noc/fabric.c and its parts, which are compiled in: what is on its way; nics.c: endpoints, queues, memory (wire.h)
 *   story.c    seeds and failures, as of every simulation (story.h)
 *
 * All that a member is hangs from noc_me, and from noc_fabric of noc/conn.h; sim_enter() exchanges both.
 */
#ifndef SIM_H
#define SIM_H

#include "noc/local.h"
#include "tests/sim/story.h"

#define SIM_MEMBERS 4
#define SIM_HOSTS   3
#define SIM_DAEMONS 2               /* of a host: each hears of names by itself, and writes them into the host's page */

enum sim_state { SIM_HERE, SIM_AWAY, SIM_ENDING, SIM_GONE };

struct sim_member {
	struct noc_member *noc;
	enum sim_state state;
	bool is_ending;                        /* HERE means ENDING */
	uint32_t host;
	uint64_t epoch, asleep_until, next_out[SIM_MEMBERS], next_in[SIM_MEMBERS], arrived[SIM_MEMBERS];
	struct gw_list offers, outs, bins;
	struct gw_list news[SIM_HOSTS][SIM_DAEMONS];
	int depth;                             /* of callbacks */
};
extern struct sim_member sim_members[SIM_MEMBERS];

/* p_...: one in so many, 0: never */
extern struct sim_profile {
	unsigned members, hosts, messages, p_move, p_cut, p_sleep, p_call, p_early, bulk, pace;
	bool is_fat;
} sim_profile;

extern bool sim_may_complain;           /* of what the simulation does to a member, by the log */
extern int sim_now_in;                  /* whose state is in place; -1: nobody's */
void sim_enter(int member);

extern struct sim_counts { uint64_t steps, moves, cuts, crossings, refused, lost_requests, frames, lost_frames, messages,
                           bulks, ends; } sim_counts;

/* ---- traffic.c */
extern const struct noc_port_ops sim_ports;
bool sim_send_one(int from, int to);    /* the next message of @from, who is in place, to @to */
void sim_take_one(int member);          /* an offer that it has put off */
void sim_traffic_end(struct sim_member *m);

/* ---- wire.c */
extern unsigned sim_p_lost;             /* one in so many requests to connect is lost without a word; 0: none */
void sim_wire_begin(void);
bool sim_wire_step(void);               /* something on its way goes on; false: nothing is on its way */
void sim_wire_cut(void);                /* some connection breaks */
void sim_wire_end(void);                /* check that nothing is left open */
void sim_net_swap(int from, int to);    /* noc_fabric */

#endif
