/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/pool/core: what a keeper decides. No sockets, no clock, no processes: words, lost connections and ticks go in,
 * words and orders come out, so that a test can put many of them into a simulated network (test_core.c), and the model
 * (tests/model/pool.pml) describes the same thing. doc/pool.md draws it.
 *
 *   SEEK ──list──► FOLLOW      a member: has one connection, to the leader
 *    ▲ │             │
 *    │ └──oneself──► GATHER ──all here, or time──► LEAD
 *    └──────────── leader lost, resigned, or fenced ──────┘
 *
 * Who owns what: a *claim* (slots of this host for a job) belongs to the keeper of that host, which alone looks whether they
 * are free; a *grant* (a job whose mpirun is on this host has its slots) to the keeper that mpirun talks to. The leader's
 * directory is made of what the members say when they join, and each claim that no grant stands for is ended. So a leader can
 * be replaced at any time by asking every survivor what it owns, and no leader, however old, can give a slot away twice.
 *
 * A term is {round, id of the keeper that made it}: unique. An id is of one life of a keeper, never used again; who has been
 * declared dead may come again under another one, without what it shared with others.
 */
#ifndef POOL_CORE_H
#define POOL_CORE_H

#include <jansson.h>

#include "runtime/base/base.h"

#define POOL_NONCE_HEX  33   /* 16 bytes */
#define POOL_GATHER_S   10   /* a successor waits so long for the others: longer than they need to see the leader's death */
#define POOL_ORPHAN_S   12   /* a claim without a grant is ended then, if not before by a verdict */
#define POOL_SILENCE_S  30   /* of a keeper whose host answers: it is stopped, or hangs */
#define POOL_LOST_S     60   /* nobody answers as a leader: begin anew */
#define POOL_REST_S     5    /* a job whose ranks could not all be moved off a host is told again then */
#define POOL_PROBE_S    5    /* between two looks for those that were lost */

enum pool_state { POOL_SEEK, POOL_FOLLOW, POOL_GATHER, POOL_LEAD, POOL_OVER, POOL_STATES };

enum pool_event { POOL_EV_LOST, POOL_EV_CHOSEN, POOL_EV_LIST, POOL_EV_FENCED, POOL_EV_RESIGNED, POOL_EV_ALL_HERE, POOL_EV_TIME,
                  POOL_EV_DOWN, POOL_EVENTS };

struct pool_member {
	struct gw_list node;
	uint32_t id;
	char host[256], address[64];
	uint16_t port;
	uint32_t slots;
	bool is_gone;        /* lost: not to turn to */
	bool is_resigned;    /* as a leader, or passed over by one: not to turn to, but to wait for */
	bool is_here;        /* of a leader: it has joined */
	bool is_leaving;     /* gets no new jobs; leaves when it has none */
	unsigned silent_s;   /* of a leader: ticks since it was heard */
};

struct pool_claim {      /* slots of this host */
	struct gw_list node;
	uint32_t job, slots;
	uint32_t head;       /* the keeper of its mpirun, as it is called now */
	char nonce[POOL_NONCE_HEX];
	bool is_started, is_stopping;
};

enum pool_grant_state { POOL_ASKED, POOL_HELD };

struct pool_grant {      /* a job whose mpirun is on this host */
	struct gw_list node;
	uint32_t job, ranks;
	uint32_t number;     /* by which people know the job: one that is continued keeps it, and has a new @job here */
	enum pool_grant_state state;
	char nonce[POOL_NONCE_HEX], text[128];
	json_t *start;       /* what its hosts were told to start; told again to a new leader */
	json_t *places;      /* what its mpirun has said of them: [host clusters ranks]; NULL: nothing yet */
};

struct pool_job;         /* of the directory; inner.h */

struct pool_ops {
	/* All of a member's words come in order, or pool_lost() is called. Steals @msg; never calls back from inside */
	void (*send)(void *ctx, const struct pool_member *to, json_t *msg);
	void (*close)(void *ctx, uint32_t id);
	/* the daemon of a claim; its end, and a start that fails, is told with pool_daemon_ended(), never from inside */
	void (*start)(void *ctx, const struct pool_claim *c, const json_t *how);
	void (*stop)(void *ctx, uint32_t job);
	void (*tell)(void *ctx, uint32_t job, json_t *msg);  /* the mpirun of a grant; steals */
	void (*over)(void *ctx, const char *why);            /* this keeper ends */
	uint32_t (*random)(void *ctx);
};

struct pool {
	const struct pool_ops *ops;
	void *ctx;
	enum pool_state state;
	struct pool_member me;
	uint64_t term;
	uint32_t leader;         /* followed, or sought, or oneself */
	uint64_t version;        /* of the list, in the term */
	struct gw_list members;  /* all, oneself too */
	struct gw_list gone;     /* struct pool_member: were lost, and are looked for */
	struct gw_list claims, grants, jobs;
	json_t *list;            /* the last that was heard, or said */
	unsigned age_s;          /* of the state */
	unsigned ticks;
	bool is_fresh;           /* joins under an id that nobody knows */
	bool is_down;            /* being taken down */
	unsigned long refused;   /* words that did not fit the state */
};

/** pool_init - @me is copied. Nothing happens before pool_found() or pool_join() */
void pool_init(struct pool *p, const struct pool_member *me, const struct pool_ops *ops, void *ctx);
void pool_fini(struct pool *p);
int pool_found(struct pool *p, const json_t *members);                /* of a new pool, oneself among them */
int pool_join(struct pool *p, const json_t *members, uint32_t leader); /* a pool that is there */
void pool_message(struct pool *p, const struct pool_member *from, json_t *msg); /* @from: of whom it may know nothing but the id */
void pool_lost(struct pool *p, uint32_t id);                          /* a connection has ended, or could not be made */
void pool_tick(struct pool *p);                                       /* each second */

/** pool_ask - slots for @job, a number that nobody had before; answered with tell: granted, refused; then vacate */
int pool_ask(struct pool *p, uint32_t job, uint32_t number, uint32_t ranks, const char *text);
void pool_placed(struct pool *p, uint32_t job, json_t *places);       /* where its clusters and ranks are */
void pool_start(struct pool *p, uint32_t job, json_t *how);           /* on a host of a grant: {member, line}; steals */
void pool_job_over(struct pool *p, uint32_t job);                     /* its mpirun is gone */
void pool_more(struct pool *p, uint32_t job, const char *host);        /* a slot there; answered with tell: added */
void pool_vacated(struct pool *p, uint32_t job, const char *said);    /* its ranks have been moved as told; @said: why not all, or "" */
void pool_daemon_said(struct pool *p, uint32_t job, const char *line);
void pool_daemon_ended(struct pool *p, uint32_t job, const char *how); /* all that was started for the claim */
void pool_down(struct pool *p, const char *why);                      /* the whole pool */
int pool_leave(struct pool *p, const char *host, struct gw_error *why); /* a host leaves it, this one or another */

const struct pool_claim *pool_claim_of(const struct pool *p, uint32_t job);
struct pool_grant *pool_grant_of(const struct pool *p, uint32_t job);
struct pool_member *pool_member_of(const struct pool *p, uint32_t id);
uint32_t pool_claimed(const struct pool *p);                          /* slots of this host that are taken */
json_t *pool_status(const struct pool *p);                            /* state, term, leader, members, jobs */
const char *pool_state_name(enum pool_state s);
/** pool_next - what the table says: the state after @ev in @s, or -1 when it is refused */
int pool_next(enum pool_state s, enum pool_event ev);

#endif
