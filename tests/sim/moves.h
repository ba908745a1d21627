/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/sim/moves.h: the real sessions of migration/ in several daemons, in one process, in an order that a seed decides.
 *
 *   moves.c      what godwitd and the head do around a session: ranks, agents, the directory, verdicts; the checks
 *   scheduler.c  who does what next: turns of daemons, requests, cuts, deaths, new incarnations; an episode and its end
 *   sockets.c    in the place of runtime/base/loop.c and link.c: loops, timers, links that lose tails and break
 *   bodies.c     in the place of container/: a rank is a number that grows while it runs, and must never shrink
 *   proofs.c     in the place of container/files.h: proofs of files, whose helpers take their time
 *
 * A daemon is what hangs from its struct sim_daemon; there is nothing to exchange, since migration/ has no globals.
 */
#ifndef MOVES_H
#define MOVES_H

#include "container/files.h"
#include "migration/migration.h"
#include "tests/sim/story.h"

#define SIM_CLUSTERS 4
#define SIM_RANKS    3
#define SIM_CHILD_FD 17      /* for a signalfd: something has happened to a child */

enum sim_agent { AGENT_NONE, AGENT_ATTACHED, AGENT_QUIESCING, AGENT_QUIET, AGENT_STARTING };

/* A rank in the tables of a daemon. */
struct sim_held {
	struct gw_list node;
	struct sim_daemon *d;
	struct ct_rank *ct;
	uint32_t proc;
	uint64_t epoch;
	enum { HELD_ARRIVING, HELD_HERE, HELD_GIVEN } state;
	enum sim_agent agent;
	uint32_t agent_session;       /* of the word that the agent has not answered */
	bool has_answer;              /* what agent_session asks was answered with agent_status, unread */
	int agent_status;
};

/* One incarnation of a cluster's daemon. */
struct sim_daemon {
	struct gw_list node;          /* all that ever were, in this episode */
	uint32_t cluster, host;
	uint64_t incarnation;
	bool is_dead, is_condemned;   /* condemned: the head gave it up; it ends when it hears of that */
	bool is_heard_dead;           /* the head has seen its link end */
	uint64_t born_step, condemned_step;
	struct mig *mig;
	struct gw_loop *loop;
	struct gw_list held;
	struct gw_list to_head, from_head;
	uint64_t asleep_until;
};

extern struct gw_list sim_daemons;
extern struct sim_daemon *sim_at[SIM_CLUSTERS];   /* who answers there; NULL: nobody */
extern uint64_t sim_now_ns;
extern bool sim_is_quiet;

/* p_...: one in so many, 0: never */
extern struct sim_moves_profile {
	unsigned clusters, hosts, ranks, p_request, p_cancel, p_cut, p_part, p_kill, p_back, p_false, p_exit, p_fault, p_sleep, p_busy,
	         p_shell, p_strike, chunks;
} sim_moves;

extern struct sim_moves_counts {
	uint64_t steps, requests, moved, stayed, given, never, lost, cuts, losses, parts, kills, restarts, verdicts, false_verdicts,
	         exits, cancels, refused_events, refused_frames, reconnects, faults, frames, whole, starved;
} sim_moved;

/* ---- sockets.c */
struct gw_loop *sim_loop_create(struct sim_daemon *d);
bool sim_loop_turn(struct gw_loop *l);           /* something that is due; false: nothing is */
void sim_loop_end(struct gw_loop *l);            /* its daemon dies: connections close, what it was to do is forgotten */
uint64_t sim_loop_next(const struct gw_loop *l); /* when something of it is due that is not yet; UINT64_MAX: nothing */
void sim_fd_ready(struct gw_loop *l, int fd);    /* a watched descriptor of it is readable */
void sim_cut(void);                              /* some connection breaks */
void sim_cut_all(struct sim_daemon *d);          /* all that it has */
void sim_part(uint32_t host_a, uint32_t host_b, uint64_t until_ns); /* nothing goes between them until then */
int sim_far(void *ctx, uint32_t cluster, void **handle, void (*done)(void *peer, int fd, const char *why), void *peer,
            struct gw_error *why);
void sim_far_cancel(void *ctx, void *handle);
void sim_sockets_end(void);                      /* check that nothing is left, and forget the rest */

/* ---- bodies.c */
struct ct_rank *sim_body_new(struct sim_daemon *d, uint32_t proc, uint64_t age);
bool sim_body_runs(const struct ct_rank *ct);
bool sim_body_has_ended(const struct ct_rank *ct);
void sim_body_run(struct ct_rank *ct);           /* the program goes on a little */
void sim_body_exit(struct ct_rank *ct);          /* it ends, or somebody kills it */
void sim_bodies_die(struct sim_daemon *d);       /* with their daemon */
int sim_bodies_running(uint32_t proc);           /* copies, anywhere */
const struct sim_daemon *sim_body_home(uint32_t proc); /* of the copy that runs; NULL: none does */
struct ct_rank *sim_body_some(struct sim_daemon *d, bool is_shell);
void sim_bodies_end(void);
uint32_t sim_body_proc(const struct ct_rank *ct);
void sim_body_expects(struct ct_rank *ct, const struct ct_files *files);
void sim_body_forgets(const struct ct_files *files); /* they go: no shell may wait for them */
int sim_fd_new(void);                            /* a number that nobody else has */

/* ---- proofs.c */
bool sim_proof_turn(void);                       /* a helper has done something */
bool sim_proof_is_writing(const struct ct_files *there); /* the source of the session whose destination has these */
void sim_proofs_end(void);                       /* check that nothing is left */

/* ---- scheduler.c */
void sim_strike(struct sim_daemon *d);           /* something that matters has happened there: perhaps it is hit now */

/* ---- moves.c */
struct sim_daemon *sim_daemon_start(uint32_t cluster, uint32_t host);
void sim_daemon_end(struct sim_daemon *d);
void sim_request(void);                          /* somebody asks for a move, or takes it back */
bool sim_agent_turn(struct sim_daemon *d);
bool sim_head_turn(void);                        /* the head reads a word, or sees a link end */
bool sim_hears_head(struct sim_daemon *d);
void sim_condemn(struct sim_daemon *d);          /* the head loses it, though it lives */
void sim_begin(void);
void sim_end(void);                              /* all is quiet: everything must be as it should be */
bool sim_is_settled(void);
void sim_dump(void);
void sim_rank_is_dead(uint32_t proc);            /* it may be gone for good: its daemon died */

#endif
