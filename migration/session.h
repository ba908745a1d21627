/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * migration/session.h: what the parts of a session share. Inside migration/ only.
 *
 * table.c    which event leads to which state       session.c  mig_step, timers, the list of sessions, the public calls
 * precopy.c  the rounds before the rank is stopped    postcopy.c  pages that come after it
 * source.c   actions of the source             destination.c  actions of the destination
 * peer.c     connections and frames            pack.c         memory on its way over a slow link
 * measures.c the measures of a move            cost.c         what of them is compared with before
 * hurry.c    the processor that this daemon has for its moves
 *
 * Everything here is on the cluster side and never moves.
 */
#ifndef MIG_SESSION_H
#define MIG_SESSION_H

#include "container/files.h"
#include "migration/migration.h"
#include "migration/wire.h"
#include "runtime/base/link.h"

enum mig_state {
	MIG_IDLE,
	/* source */
	MIG_PREPARE,  /* PREPARE was sent; the rank runs */
	MIG_PROVE,    /* the destination can take it; its files are compared */
	MIG_PRECOPY,  /* its memory goes in rounds, while it runs; the destination's word is awaited after each */
	MIG_QUIESCE,  /* the agent was asked; the program computes */
	MIG_SEND,     /* frozen; the image goes out, READY is awaited */
	MIG_GIVEN,    /* the destination owns it; TAKEN or NEVER is awaited */
	MIG_SERVE,    /* it runs there; pages are served from the frozen copy until FETCHED */
	MIG_TAKEN,    /* the copy here is ended, soon; ATTACHED is awaited, for the measures */
	/* destination */
	MIG_LOOK,     /* PREPARE came; are the files the same here? */
	MIG_FILL,     /* the shell stands; the image comes in */
	MIG_READY,    /* complete; GIVEN is awaited */
	MIG_FETCH,    /* thawed: it lives here, and pages are missing */
	MIG_ARRIVED,  /* thawed: it lives here; DONE is awaited, TAKEN repeated */
	MIG_SETTLED,  /* DONE came; ATTACHED is awaited */
	MIG_ENDED,
	MIG_STATES
};

enum mig_event {
	MIG_EV_PREPARED,  /* source */
	MIG_EV_PROVED,    /* the files are the same, or of equal contents */
	MIG_EV_FLUSHED,   /* what the rank wrote has reached the shared file systems */
	MIG_EV_ROUND,     /* the destination has all of a round */
	MIG_EV_ENOUGH,    /* no further round */
	MIG_EV_CALM,      /* what was done beforehand has left the ranks their cores for a moment */
	MIG_EV_QUIET,     /* the agent is detached, or there is none */
	MIG_EV_MORE,      /* the link has room, or a new turn of the loop has come */
	MIG_EV_READY,
	MIG_EV_TAKEN,
	MIG_EV_LIVES,     /* TAKEN, or, at the destination, the thaw, of a rank that lacks pages */
	MIG_EV_WANT,
	MIG_EV_NEVER,     /* NEVER or REFUSED, from the right incarnation */
	MIG_EV_ASK,
	MIG_EV_ATTACHED,
	MIG_EV_FETCHED,   /* no page is missing any more; at both ends */
	MIG_EV_OFFER,     /* destination: PREPARE */
	MIG_EV_MADE,      /* the shell has made some of its pages */
	MIG_EV_STATE,
	MIG_EV_DATA,
	MIG_EV_END,
	MIG_EV_COMPLETE,  /* the shell is ready; or nothing more is to be said */
	MIG_EV_GIVEN,
	MIG_EV_THAWED,
	MIG_EV_PAGES,
	MIG_EV_FAULT,     /* a page is waited for, or memory has changed */
	MIG_EV_DONE,
	MIG_EV_ABORT,     /* the source will never give it */
	MIG_EV_FAILED,    /* an action of ours failed, or the agent is busy; s->why says how */
	MIG_EV_CANCEL,    /* the requester, a shutdown, or a newer session of the same rank */
	MIG_EV_EXITED,    /* the rank, or the shell, ended */
	MIG_EV_TIMEOUT,   /* of the state */
	MIG_EV_PEER_LOST, /* the connection */
	MIG_EV_PEER_DEAD, /* the head's verdict */
	MIG_EVENTS
};

struct mig_rule {
	enum mig_state state;
	enum mig_event event;
	enum mig_state next;
	void (*action)(struct mig_session *s); /* runs in @next; never changes the state, posts an event when it fails */
};
extern const struct mig_rule mig_rules[];
extern const size_t mig_rules_count;
const char *mig_state_name(enum mig_state s);
const char *mig_event_name(enum mig_event e);

/* When, on this host's monotonic clock; 0: not reached. And what the destination measured. */
struct mig_times {
	uint64_t start, proved, prepared, quiet, frozen, sent, ready, given, taken, attached, open; /* open: its gate, of one that lacks pages */
	uint64_t release_ns;      /* what ending the copy here took */
	uint64_t agent_close_ns, agent_detach_ns, attach_ns;
	uint64_t check_ns;
	struct ct_freeze_stats freeze;
	struct mig_wire_prepared there_prepared;
	struct mig_wire_ready there_ready;
	struct mig_wire_taken there_taken;
	uint64_t bytes, round_bytes;          /* sent; of these, before it was stopped */
	uint32_t doing;
};

enum mig_hurry { MIG_AS_OTHERS, MIG_BEFORE_OTHERS, MIG_AT_ONCE };

/* What the rank and the link did before, and while memory went over it: cost.c. At the source. */
struct mig_cost {
	struct mig_pace then, start;       /* undisturbed, up to the request */
	struct mig_pace begun, over;       /* of rounds */
	struct mig_line line_then, line_start, line_over;
	struct mig_pace fetch;             /* destination: when it ran there */
};

/* Rounds that leave the rank its core: gentle.c. At the source. */
struct mig_gentle {
	bool is_off;               /* as fast as they go */
	bool is_bounded;           /* this round was not, or not all of it */
	double limit, usual;       /* share of its time that the rank may lose; that it usually has a processor when it wants one */
	uint64_t rate, full;       /* bytes a second that they may take, 0: all; that they took when they might */
	uint64_t at_ns, bytes;     /* of the last look: when, and what had been sent */
	struct mig_turns turns;
	uint64_t rested_ns;
};

struct mig_rounds {
	uint32_t n;               /* begun */
	bool is_sent;             /* this one: its end is awaited */
	bool is_leaving;          /* this one has no pages: what was sent of those that come after the rank is to be given back, */
	bool is_forgetting;       /* or all that was sent, and the rank is followed no more */
	uint64_t all;             /* bytes of the first */
	struct ct_round last;     /* this one */
	uint64_t begun_ns;
	uint64_t rate, dirty_rate; /* bytes a second */
	char chose[200];          /* why this technique; empty: it was asked for */
};

/* Pages that come after the rank: postcopy.c. */
struct mig_post {
	struct ct_fetch *fetch;    /* destination, while pages are missing */
	struct gw_watch *watch;    /* of it */
	bool is_link_new;          /* destination: what was on its way is lost */
	bool is_fetched;           /* destination */
	uint64_t cursor;           /* destination: up to where it has what comes in order; source: as the destination said */
	uint64_t begun_ns;         /* when the rank ran there */
	uint64_t asked_ns;         /* source: when a page was asked for last */
	uint64_t left, sent, asked; /* source: bytes that were not in the image; bytes sent after it; pages asked for */
	struct mig_wire_fetched fetched;
};

/* Memory that goes packed: pack.c. At the source. */
struct mig_pack {
	bool is_far;               /* to another host */
	uint64_t wire, saved;      /* bytes of DATA, PAGES and PACKED that were sent; what they would have been more */
	uint64_t round_wire, rounds_wire, serve_wire; /* of the first, before this round; after all; before the rest comes after the rank */
	uint64_t rate;             /* bytes a second that the link takes while it holds us up; 0: it does not, or not known */
	uint64_t since_ns, gone, shut_us, told_at; /* of the measurement: when it began; by then, what the link had taken, for how long there was no
	                                            * room there, what was sent */
	uint64_t tried, took_ns, core_ns; /* bytes that were tried, how long that took, and of a core */
	unsigned rest, resting;    /* frames that are not tried after one that did not shrink; of these, left */
};

/* A connection; the context of its link. */
struct mig_peer {
	struct gw_list node;      /* mig.strangers while @s is NULL */
	struct mig *m;
	struct mig_session *s;
	struct gw_link *link;
	void *connecting;       /* of migration.h, far: held until then; NULL: it is open */
};

struct mig_session {
	struct gw_list node;      /* mig.sessions */
	struct mig *m;
	enum mig_state state;
	struct mig_head id;       /* the head of every frame of this session */
	bool is_source;
	void *owner;              /* the daemon's handle */
	struct ct_rank *rank;     /* source: the rank; destination: the shell until it is thawed */
	struct ct_rank *left;     /* source, after TAKEN: the copy that is still to be ended */
	struct gw_watch *shell_watch; /* destination: the shell's status */

	struct mig_peer *peer;    /* the connection; NULL while there is none */
	struct gw_timer *timer;
	uint32_t retries;

	struct ct_files *files;   /* the proof of its files */
	struct gw_watch *files_watch; /* while a helper of theirs is at work */
	void *prepare;            /* source: the PREPARE, while the connection is being made */
	size_t prepare_len;
	uint64_t heard_monotonic_ns, heard_boottime_ns; /* destination: when it came */
	void *offer;              /* destination: the PREPARE; a copy */
	size_t offer_len;

	bool is_end_waiting;      /* source: the image is out, its files are not flushed yet */
	struct mig_how how;       /* source */
	struct mig_rounds rounds;
	struct mig_gentle gentle;
	struct mig_cost cost;
	struct mig_pack pack;
	struct gw_timer *pace;    /* what goes on by itself after a while: mig_session_later() */
	bool is_following;        /* source: in rounds */
	uint32_t rounds_said;     /* destination */
	bool is_leaving;          /* source: pages come after the rank */
	struct mig_post post;
	bool is_making;           /* destination: pages, before PREPARED */
	bool is_quiet;            /* source: the agent has detached */
	bool is_frozen;           /* source */
	bool has_exited;          /* source */
	bool is_image_sent;
	bool wants_turn;          /* source: MORE on the next turn of the loop */
	bool has_state;           /* destination: STATE came */
	bool has_agent;           /* destination: ATTACHED will come; it has come when is_attached */
	bool is_attached;

	struct gw_error why;      /* the first thing that went wrong */
	struct mig_times t;
	struct mig_wire_attached attached;

	/* the frame that is being handled, for the action; NULL otherwise */
	const void *frame;
	size_t frame_len;

	bool is_stepping;
	enum mig_event pending[8];
	unsigned pendings;
};

struct mig {
	struct gw_loop *loop;
	struct mig_config c;
	struct gw_list sessions;
	struct gw_list strangers;           /* accepted connections that have not named a session */
	uint64_t *dead;                     /* incarnations that the head has given up, for good, though they may still speak */
	size_t dead_n;
	struct mig_counters n;
	uint32_t next_session;
	bool is_shutting_down, is_turn_due, is_destroyed;
	enum mig_hurry hurry;               /* of this thread; @unhurried is how it was */
	struct gw_sched unhurried;
	bool is_roaming;                    /* it may run anywhere for a while; @home is where it else may */
	cpu_set_t home;
	char *buf;                          /* MIG_CHUNK bytes, faulted in */
	char *packed;                       /* as many, once something goes or comes packed; NULL: never yet */
	int child_fd;                       /* SIGCHLD: perhaps a shell */
	struct gw_watch *child_watch;
};

#define MIG_CHUNK     CT_IMAGE_CHUNK_MIN
#define MIG_TURN      (8u << 20)  /* send at most this much in one turn when nothing pushes back */

/* ---- session.c ---- */
void mig_step(struct mig_session *s, enum mig_event ev);
int mig_session_new(struct mig *m, struct mig_session **out);
struct mig_session *mig_session_find(struct mig *m, uint64_t from_incarnation, uint32_t session);
bool mig_is_dead(const struct mig *m, uint64_t incarnation);   /* the head's verdict on it was told here */
void mig_session_rearm(struct mig_session *s); /* progress: the state's time begins anew */
/* @cb comes once in @ms, in place of what was to come before; it sets s->pace to NULL first. Not after the session's end */
int mig_session_later(struct mig_session *s, unsigned ms, void (*cb)(void *session));
void mig_turn_later(struct mig_session *s);
int mig_files_watch(struct mig_session *s); /* go on when the helper of its files has something to say: PROVED, FLUSHED, FAILED */
void mig_files_drop(struct mig_session *s);
GW_PRINTF(4, 5) void mig_post(struct mig_session *s, enum mig_event ev, int code, const char *fmt, ...);
/* a named fault at an edge: true when the step must stop because an event was posted */
bool mig_edge(struct mig_session *s, const char *name);
bool mig_word_is_lost(struct mig_session *s, const char *name); /* a word that is to go out now: has a test taken it, or the link? */

/* ---- hurry.c ---- */
void mig_give_way(void); /* what waits for this processor goes first, for a moment */
void mig_adjust_priority(struct mig *m); /* after what may change it: the states of its sessions */
void mig_adjust_place(struct mig *m);    /* likewise */
/* what the rank stands for comes soon: where nobody else is kept from the processor, it is not slept until then */
void mig_expect(struct mig_session *s, uint64_t ns);

/* ---- peer.c ---- */
int mig_send(struct mig_session *s, uint16_t type, const void *body, size_t len); /* -EPIPE without a connection */
int mig_send_raw(struct mig_session *s, uint16_t type, const void *payload, size_t len); /* no head is put before it */
int mig_send_text(struct mig_session *s, uint16_t type);          /* s->why */
size_t mig_queued(const struct mig_session *s);
int mig_connect(struct mig_session *s, struct gw_error *why);     /* to the other daemon */
void mig_disconnect(struct mig_session *s);
bool mig_is_far(const struct mig_session *s);  /* right after mig_connect: is the other daemon on another host? */
bool mig_link_is_up(const struct mig_session *s);                 /* looks for a hang-up that has not been read yet */
void mig_strangers_drop(struct mig *m);

/* ---- pack.c ---- */
int mig_send_memory(struct mig_session *s, uint16_t type, const void *bytes, size_t len); /* DATA or PAGES, packed where that is better */
int mig_take_memory(struct mig_session *s, const void *payload, size_t len, uint16_t *type, struct gw_error *why);

/* ---- source.c, destination.c: actions ---- */
void mig_src_ready_came(struct mig_session *s);  /* not an action: the last look before the commit point */
void mig_src_prove(struct mig_session *s);
int mig_src_ask(struct mig_session *s);          /* not an action: PREPARE, once there is a connection */
/* Not an action: the next pieces of a round, or of the image, as many as the link takes. @what: it in a sentence.
 * Return: the last one has gone. If not: it goes on by itself later, or an event says why not */
bool mig_src_send(struct mig_session *s, const char *edge, const char *what);
void mig_src_quiesce(struct mig_session *s);
void mig_src_ask_agent(struct mig_session *s);
void mig_src_freeze(struct mig_session *s);
void mig_src_pump(struct mig_session *s);
void mig_src_flushed(struct mig_session *s);
void mig_src_abort(struct mig_session *s);
void mig_src_give(struct mig_session *s);
void mig_src_repeat(struct mig_session *s);
void mig_src_reconnect(struct mig_session *s);
void mig_src_release(struct mig_session *s);
void mig_src_let_go(struct mig_session *s);      /* not an action: end the copy that was left here */
void mig_src_keep(struct mig_session *s);
void mig_src_lost(struct mig_session *s);
void mig_src_note_exit(struct mig_session *s);
void mig_src_say_done(struct mig_session *s);
void mig_src_finish(struct mig_session *s);

void mig_dst_look_at_shells(struct mig *m);
void mig_dst_look(struct mig_session *s);
void mig_dst_prepare(struct mig_session *s);
void mig_dst_prepared(struct mig_session *s);
void mig_dst_import(struct mig_session *s);
void mig_dst_feed(struct mig_session *s);
void mig_dst_complete(struct mig_session *s);
void mig_dst_say_ready(struct mig_session *s);
void mig_dst_thaw(struct mig_session *s);
void mig_dst_say_taken(struct mig_session *s);
void mig_dst_repeat(struct mig_session *s);      /* TAKEN again, over a new connection if need be */
void mig_dst_ask(struct mig_session *s);
void mig_dst_discard(struct mig_session *s);     /* and tell the source NEVER, or REFUSED */
void mig_dst_drop_link(struct mig_session *s);
void mig_dst_say_attached(struct mig_session *s);
void mig_dst_settle(struct mig_session *s);

/* ---- precopy.c ---- */
uint64_t mig_follow_from(struct mig_session *s, const struct mig_how *how); /* for ct_rank_follow_from */
void mig_follow_choose(struct mig_session *s, uint64_t from, uint64_t bytes);
const char *mig_technique_now(const struct mig_session *s);  /* as it goes so far */
void mig_follow_json(const struct mig_session *s, json_t *m);
bool mig_round_is_ahead(struct mig_session *s); /* of the bandwidth that a round may take? It goes on by itself */
void mig_src_precopy(struct mig_session *s);
void mig_src_round(struct mig_session *s);
void mig_src_round_over(struct mig_session *s);

/* ---- gentle.c ---- */
/* What a rank loses that ran for @ran_ns and waited for a processor for @waited_ns, and usually has one for the share
 * @usual of the time that it wants one. Return: share, 0 to 1. Pure */
double mig_gentle_lost(uint64_t ran_ns, uint64_t waited_ns, double usual);
/* Bytes a second that rounds may take, which took @seen so far, when the rank lost @lost and may lose @limit; unbounded they
 * take @full; they may take @longer times as long, and the rank writes @dirty_rate. Return: 0: as they can. Pure */
uint64_t mig_gentle_rate(uint64_t seen, uint64_t full, double lost, double limit, unsigned longer, uint64_t dirty_rate);
void mig_gentle_begin(struct mig_session *s);    /* the first round is known, */
void mig_gentle_round(struct mig_session *s);    /* a round is begun */
void mig_gentle_off(struct mig_session *s);
uint64_t mig_gentle_due(struct mig_session *s);  /* when the next piece may go; 0: now */
void mig_gentle_json(const struct mig_session *s, json_t *m);

/* ---- postcopy.c ---- */
void mig_src_serve(struct mig_session *s);
void mig_src_serve_asked(struct mig_session *s);
void mig_src_push(struct mig_session *s);
void mig_src_answer(struct mig_session *s);
void mig_src_note_attached(struct mig_session *s);
void mig_src_drop_link(struct mig_session *s);
void mig_src_gone(struct mig_session *s);
void mig_dst_fetch(struct mig_session *s);
void mig_dst_wanted(struct mig_session *s);
void mig_dst_fill(struct mig_session *s);
void mig_dst_refetch(struct mig_session *s);
void mig_dst_refetch_given(struct mig_session *s);
void mig_dst_fetch_drop_link(struct mig_session *s);
void mig_dst_fetched(struct mig_session *s);
void mig_dst_say_fetched(struct mig_session *s);
void mig_dst_starve(struct mig_session *s);
void mig_dst_give_up(struct mig_session *s);
void mig_fetch_drop(struct mig_session *s);      /* not an action: the rank lacks nothing, or is dead */
void mig_post_json(const struct mig_session *s, json_t *m);

/* ---- measures.c ---- */
/* ---- cost.c ---- */
void mig_cost_start(struct mig_session *s);                    /* the request is here, */
void mig_cost_link(struct mig_session *s);                     /* the destination can take it: its memory will go now, */
void mig_cost_rounds(struct mig_session *s, bool is_over);     /* in rounds, if they are begun, */
void mig_cost_over(struct mig_session *s);                     /* and all of it has gone */
void mig_cost_fetch(struct mig_session *s);                    /* destination: it runs, and pages are missing; */
uint64_t mig_cost_fetched(struct mig_session *s);              /* no more. Return: its time in user mode meanwhile */
void mig_cost_json(const struct mig_session *s, json_t *m);

/* ---- measures.c ---- */
json_t *mig_measures_json(const struct mig_session *s, int status);

#endif
