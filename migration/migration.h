/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * migration: sessions that move a rank from this cluster to another, and that receive ranks from others.
 *
 * A struct mig is one daemon's part: it holds every session of that daemon, as source and as destination. A session is
 * a table of states (table.c) and moves one rank once. Everything runs on the daemon's loop, on the thread that
 * spawned the ranks; nothing waits: bulk bytes go chunk by chunk as the link takes them, so many sessions run at once
 * and a cluster sends and receives at the same time.
 *
 * Called by godwitd, the owner of the ranks. What godwitd knows of a rank and this folder does not (its agent, its
 * pipes, its PMI state, the name page, the head) is reached through struct mig_ops. It does not choose what to move.
 *
 *    source                                                   destination
 *    mig_session_start
 *      PREPARE    ct_rank_check   --------- PREPARE ------->  LOOK: its files; ops.prepare, ct_shell_create
 *                                 <-------- PREPARED -------  FILL (or REFUSED with a sentence: nothing has stopped)
 *      PROVE      ct_files_check: contents of files
 *      PRECOPY    rounds, perhaps --------- DATA* --------->  ct_shell_feed
 *                                 <-------- ROUND ----------
 *      QUIESCE    ct_rank_freeze_prepare, a rest, ops.quiesce ... mig_session_quiet
 *      SEND       ct_rank_freeze, ops.export_state, image
 *                                 --- STATE, DATA*, END --->  ct_shell_feed, ops.import_state, ct_shell_ready
 *                                 <-------- READY ----------  READY
 *      GIVEN      (recorded; ops.given) --- GIVEN --------->  ops.arriving (ATTACH into the control socket), thaw
 *                                 <-------- TAKEN ----------  ops.taken: own it, tell the head
 *      TAKEN      ops.left        --- DONE --------------->  (the record of the session may be forgotten)
 *                                 <-------- ATTACHED -------  mig_rank_attached, from godwitd
 *      ct_rank_release, ops.finished with the measures
 *
 * By post-copy it runs there before all of its memory is there: after TAKEN the source serves pages from the frozen copy
 * (SERVE), the destination fetches them (FETCH), and only when it says FETCHED the copy goes. See postcopy.c.
 *
 * The commit point is READY -> GIVEN at the source. Before it every failure of either side or of the network ends with
 * the rank running here, ops.stay has been called and ops.finished says why. After it this side never runs its copy:
 * it repeats GIVEN over new connections until TAKEN, or NEVER from the same incarnation of the destination (then the
 * rank runs on here, at epoch + 2), or mig_peer_dead() (then the rank is gone: ops.lost).
 */
#ifndef MIG_MIGRATION_H
#define MIG_MIGRATION_H

#include <jansson.h>

#include "container/container.h"
#include "runtime/base/loop.h"

struct mig;
struct mig_session;

/* What the destination's daemon is told before anything stops. Valid during the call. */
struct mig_offer {
	uint32_t proc;             /* process number */
	uint32_t session;          /* for CT_CTL_ATTACH */
	uint32_t from_cluster;
	uint64_t epoch;            /* of the name now; the arrival will be epoch + 1 */
	const struct ct_needs *needs;
	const json_t *hints;       /* what the source's ops.hints said; never NULL (an empty object) */
};

/* Of all threads of a rank, as the kernel counts it; 0: not known */
struct mig_turns {
	uint64_t ran_ns, waited_ns; /* waited: for a processor */
};

/* What a move costs others is told by comparing these, before and during it. */
struct mig_pace {
	uint64_t at_ns;            /* gw_now_ns(); 0: nobody has looked */
	struct mig_turns turns;
	uint64_t user_ns;          /* of the rank's threads, in user mode */
	uint64_t mpi_bytes;        /* that it has sent and received */
	bool has_mpi;
};
#define MIG_LINE_NAME 16
struct mig_line {
	char name[MIG_LINE_NAME];  /* of the network's interface; empty: memory */
	uint64_t at_ns;            /* 0: it cannot be told */
	uint64_t sent_bytes;       /* by whomever */
};

/* What a move is called by the daemon that owns the rank, on both sides: the @rank of the callbacks is its own handle:
 * at the source mig_request.owner, at the destination what ops.prepare put into *rank. */
struct mig_ops {
	/* ---- source ---- */

	/* optional: things the destination's prepare should know (plumbing, environment); a new object, or NULL */
	json_t *(*hints)(void *ctx, void *rank);

	/**
	 * quiesce - let the agent close the gate and detach (CT_CTL_QUIESCE with @session and @deadline_ms)
	 * Return: 0 asked: mig_session_quiet() follows; 1 no domain open: move now; negative errno with @why: not now
	 * (the domain is opening or closing).
	 */
	int (*quiesce)(void *ctx, void *rank, uint32_t session, uint64_t deadline_ms, struct gw_error *why);

	/**
	 * export_state - the rank is frozen: everything the daemon holds for it, one JSON object (a new reference)
	 * PMI state, stream offsets, unread bytes of its stdin and PMI (copied, not consumed: rule 19), the rest of a
	 * write that was cut short (ct_rank_stream_rest). Nothing may be consumed before ops.left. NULL with @why: abort.
	 */
	json_t *(*export_state)(void *ctx, void *rank, struct gw_error *why);

	/* optional: GIVEN is recorded: this cluster does not own the rank from now on, unless stay() follows */
	void (*given)(void *ctx, void *rank, uint64_t epoch);

	/**
	 * stay - the move failed and the rank goes on here at @epoch (as before, or + 2 after NEVER)
	 * Called before the threads run again (when they were stopped at all): put ATTACH into the control socket here if
	 * @is_quiet, so that no wake-up is lost. When not @is_quiet the agent was never asked or has not answered: a late
	 * QUIET is answered with ATTACH at once, a late BUSY needs nothing.
	 */
	void (*stay)(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool is_quiet);

	/* optional, at both ends: how far it has come; and @then (NULL: unwanted), when it began to run here undisturbed */
	void (*pace)(void *ctx, void *rank, struct mig_pace *now, struct mig_pace *then);

	/* optional: the same of its turns on processors alone, which takes less */
	void (*turns)(void *ctx, void *rank, struct mig_turns *now);

	/* optional: what has gone over the interface of the connection @fd (-1: that of @now->name); and @then (NULL: unwanted),
	 * when the last move had left it */
	void (*line)(void *ctx, int fd, struct mig_line *now, struct mig_line *then);

	/* optional: it runs at its destination, and its pages are still here; left() will follow */
	void (*serving)(void *ctx, void *rank);

	/* TAKEN: the rank lives at @to_cluster; the copy here never runs again and is ended in a moment (its ct_rank is ours) */
	void (*left)(void *ctx, void *rank, uint32_t to_cluster, uint64_t epoch);

	/* the rank was given to a daemon that died: it is gone, its copy here is released, the job ends by that rule */
	void (*lost)(void *ctx, void *rank, uint32_t to_cluster, const struct gw_error *why);

	/**
	 * finished - the last word of a session at its source; it is freed on return
	 * @status: 0 moved; else negative errno and @why is one sentence. @rank is NULL when left() or lost() came before.
	 * @measures: borrowed JSON object, doc/migration.md.
	 */
	void (*finished)(void *ctx, void *rank, uint32_t session, int status, const struct gw_error *why,
	                 const json_t *measures);

	/* ---- destination ---- */

	/**
	 * prepare - make room: pipes, sockets, a place in the tables. Refuse here when shutting down or full, or when the
	 * rank lives here already.
	 * @plumbing: all are -1; fill rank_fd, closed by this folder after the shell has taken them, and daemon_fd, which
	 * stay the daemon's. On failure nothing of it is closed here.
	 * @cpus: fill, it is empty. *rank: the daemon's handle.
	 */
	int (*prepare)(void *ctx, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus,
	               void **rank, struct gw_error *why);

	/* import_state - what export_state said (borrowed). Fill the new pipes. Nothing may be visible outside yet. */
	int (*import_state)(void *ctx, void *rank, const json_t *state, struct gw_error *why);

	/* the session ends without a thaw: free what prepare made. Its ct_rank is gone already. */
	void (*discard)(void *ctx, void *rank);

	/**
	 * arriving - GIVEN came, the thaw follows at once: put ATTACH with @session and the segment into the control
	 * socket if the state says that the rank has an agent. *has_agent: mig_rank_attached() will follow.
	 * Failing here makes the answer NEVER.
	 */
	int (*arriving)(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why);

	/* taken - it runs: @ct is the daemon's now (watch its status fd), the head must be told with @epoch. `here` is
	 * published when the agent says ATTACHED (rule 21), or at once without an agent. */
	void (*taken)(void *ctx, void *rank, struct ct_rank *ct, uint64_t epoch);

	/* starved - after taken(), by post-copy: pages of it will never come, since the daemon that has them is dead or cannot
	 * read them. End it, with ct_rank_end, before this returns: it must not run on without them. The job ends by that rule. */
	void (*starved)(void *ctx, void *rank, uint32_t from_cluster, const struct gw_error *why);

	/* optional: process @proc, which ran here already, has got the last of its pages: it can move, or be stopped */
	void (*whole)(void *ctx, uint32_t proc);
};

struct mig_config {
	uint32_t job, cluster;
	uint64_t incarnation;    /* of this daemon: random, not 0 */
	const struct mig_ops *ops;
	void *ctx;
	/* how to reach a cluster's daemon; a new abstract socket name into @buf; negative errno when there is none */
	int (*address)(void *ctx, uint32_t cluster, char *buf, size_t cap);
	/*
	 * A cluster on another machine: begin to connect, and call @done once with a proved descriptor, or a negative errno
	 * and the reason; never from inside. *@handle is for far_cancel, until then. 1: it is on this one, see address; a
	 * negative errno with @why. NULL: all are
	 */
	int (*far)(void *ctx, uint32_t cluster, void **handle, void (*done)(void *peer, int fd, const char *why), void *peer,
	           struct gw_error *why);
	void (*far_cancel)(void *ctx, void *handle);
	cpu_set_t anywhere;      /* where the calling thread may run while it sends rounds, so that they cost the rank no core; none: as it does */
	bool may_hurry;          /* the calling thread may go before all others while a rank stands; it does nothing else then */
	uint64_t prepare_ms, quiesce_ms, freeze_ms, transfer_ms, retry_ms; /* 0: the defaults of doc/migration.md */
};

/* It takes SIGCHLD for itself: blocked, read from a descriptor. Children begin with an empty mask. */
int mig_create(struct mig **out, struct gw_loop *loop, const struct mig_config *config, struct gw_error *why);
void mig_destroy(struct mig *m); /* NULL ok; shells are killed; sessions end without callbacks */

enum mig_technique { MIG_AUTO, MIG_STOP_AND_COPY, MIG_PRE_COPY, MIG_POST_COPY, MIG_HYBRID };

struct mig_how {                 /* all zero: as is best */
	enum mig_technique technique;
	uint64_t max_downtime_ns;    /* what a move shall not exceed; 0: 5 ms. A wish: no move fails of it */
	uint64_t bandwidth;          /* bytes a second while the rank runs; 0: as fast as the link takes it */
	unsigned max_slowdown;       /* thousandths of its processor time that rounds may cost the rank; 0: no matter */
	bool is_plain;               /* memory is not packed, whatever the link */
};

struct mig_request {
	struct mig_how how;
	uint32_t proc;
	struct ct_rank *rank;    /* running; it stays the daemon's, but is ours to stop until finished(), left() or lost() */
	void *owner;             /* the daemon's handle, the @rank of callbacks */
	uint64_t epoch;          /* of the name now */
	uint32_t to_cluster;
	bool may_carry;          /* files that the other host does not see travel with it */
	bool has_exited;         /* the daemon knows already that it has ended */
};

/**
 * mig_session_start - begin to move a rank. Never blocks; ops.finished tells the end (never from inside this call).
 * Refused with a sentence: the rank is already moving or just arriving, it is here already, it has exited, the target
 * cannot be reached, this daemon shuts down.
 */
int mig_session_start(struct mig *m, const struct mig_request *req, uint32_t *session, struct gw_error *why);

/** mig_session_cancel - the requester changed its mind; works before GIVEN only (-EALREADY after); ends in finished() */
int mig_session_cancel(struct mig *m, uint32_t proc, struct gw_error *why);

/**
 * mig_session_quiet - the agent's answer to QUIESCE (CT_CTL_QUIET: @status 0; CT_CTL_BUSY: negative errno, @text)
 * Return: true: it belongs to a session. false: no session waits for it; answer a QUIET with ATTACH.
 */
bool mig_session_quiet(struct mig *m, uint32_t proc, uint32_t session, int status, const char *text, uint64_t close_ns,
                       uint64_t detach_ns, uint32_t doing);

/** mig_rank_attached - at the destination: the agent said ATTACHED (or failed: @status) in @attach_ns */
void mig_rank_attached(struct mig *m, uint32_t proc, uint32_t session, int status, uint64_t attach_ns);

/**
 * mig_rank_exited - the status fd of a rank that has a session is readable
 * Return: true: no session stands in the way (any more): reap it now; a session that was there has been aborted and its
 * finished() called. false: the copy here was given away: leave it alone, left(), lost() or stay() tell; after stay()
 * the daemon looks at the status fd again.
 */
bool mig_rank_exited(struct mig *m, uint32_t proc);

/** mig_rank_lacks_pages - it runs here by post-copy, and pages are missing: end it before mig_destroy */
bool mig_rank_lacks_pages(const struct mig *m, uint32_t proc);

/** mig_rank_is_busy - has this rank a session in which it may be stopped, or that has given it? */
bool mig_rank_is_busy(const struct mig *m, uint32_t proc);

/** mig_accept - another daemon has connected for a session; takes @fd over (closed on failure too) */
int mig_accept(struct mig *m, int fd);

/**
 * mig_peer_dead - the head's verdict: that incarnation (0: whatever is known) of a cluster's daemon is dead, for good
 * Sessions to it before GIVEN abort here; ranks given to it are lost; shells that wait for its word are discarded.
 */
void mig_peer_dead(struct mig *m, uint32_t cluster, uint64_t incarnation);

/** mig_shutdown - refuse everything new, abort what has not been given. Return: sessions that must still finish */
int mig_shutdown(struct mig *m);

/** mig_is_idle - it has no session: nobody waits for a word of this daemon */
bool mig_is_idle(const struct mig *m);

/** mig_sessions_json - a new array, one object per session: session, rank, from, to, side, state, bytes, age_ms; at the source technique, round */
json_t *mig_sessions_json(const struct mig *m);

/* Counters for tests and 'godwit status'. */
struct mig_counters {
	uint64_t started, accepted, moved, aborted, refused, taken, never, lost, discarded, bad_events, bad_frames, reconnects;
};
const struct mig_counters *mig_counters(const struct mig *m);

#endif
