/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container: the unit that moves. This header is the daemon's side.
 *
 * A rank is a process tree of two: a tiny init, pid 1 of the rank's own PID namespace (with a mount namespace for its
 * /proc, and a time namespace; inside a user namespace when the caller is not root), and under it the program. struct
 * ct_rank is one such container on this cluster, from spawn or restore until it is reaped or released.
 *
 * Moving is: check (nothing stops) -> freeze -> capture -> read pages ... | shell -> fill ... -> ready -> thaw.
 * The image is one versioned stream of sections, the same on the wire and on disk; its format is in image.h. The
 * caller moves the bytes: nothing here knows of sockets, sessions or ranks' names.
 *
 * Everything must be called by one thread, the one that spawned or restored the ranks, which must outlive them: ptrace
 * and parent-death signals are bound to threads (rule 18). No call waits for a peer; freeze waits at most its deadline.
 *
 *      source                                            destination
 *   running --ct_rank_check--> running                 ct_shell_create -> SHELL
 *   running --ct_rank_freeze-> FROZEN                  SHELL --ct_shell_feed*--> SHELL
 *   FROZEN  --ct_image_next*-> FROZEN                  SHELL --ct_shell_ready--> READY (nothing has run yet)
 *   FROZEN  --ct_rank_unfreeze-> running (abort)       READY --ct_rank_thaw---> running
 *   FROZEN  --ct_rank_release--> gone                  any   --ct_rank_kill---> gone
 */
#ifndef CT_CONTAINER_H
#define CT_CONTAINER_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "runtime/base/base.h"

struct ct_rank;

/* Descriptors that the daemon gives to a rank and re-makes at a move. Written numbers: they are in the image. */
enum ct_plumb {
	CT_PLUMB_STDIN  = 1, /* pipe or /dev/null; the rank reads */
	CT_PLUMB_STDOUT = 2, /* pipe; the rank writes */
	CT_PLUMB_STDERR = 3, /* pipe; the rank writes */
	CT_PLUMB_PMI    = 4, /* AF_UNIX SOCK_STREAM */
	CT_PLUMB_CTL    = 5, /* AF_UNIX SOCK_SEQPACKET, container/ctl.h */
	CT_PLUMB_MAX    = 8
};

struct ct_plumbing {
	int rank_fd[CT_PLUMB_MAX];   /* the rank's end of each, or -1; borrowed for the call, the caller closes them */
	int number_in_rank[CT_PLUMB_MAX]; /* at spawn: the number the rank shall see (0, 1, 2, ...) */
	/* at ct_shell_create: the caller's end of PMI and CTL, borrowed for the call (a copy is kept until the thaw): bytes
	 * that the rank had not read are written there, before ct_shell_ready returns and so before anything that the caller
	 * writes after it. 0 or -1: none; needed only when there are such bytes. Not needed for pipes. */
	int daemon_fd[CT_PLUMB_MAX];
};

struct ct_spawn {
	char *const *argv;       /* argv[0] is looked up in PATH of @envp */
	char *const *envp;
	const char *cwd;
	struct ct_plumbing plumbing;
	const cpu_set_t *cpus;   /* where it may run; NULL: as the daemon */
	const struct rlimit *limits; /* RLIM_NLIMITS of them, where the daemon has raised its own; NULL: as the daemon */
	const char *baseline;    /* names of container/cpu.h that its environment tells it to keep to; NULL: what is here */
	pid_t ns_pid;            /* the pid that the program sees, unique in the pool (rule 22); 0: any */
};

/**
 * ct_rank_spawn - start a program in a container
 * Fails with a sentence when the binary is missing or namespaces are denied; nothing is left behind then.
 * A failing exec is reported here, synchronously, not as an exit status.
 */
int ct_rank_spawn(struct ct_rank **out, const struct ct_spawn *spec, struct gw_error *why);

/**
 * ct_rank_spawn_begin - the same in two steps, so that several can start at once
 * @spec and all that it points to, the plumbing's descriptors too, stay until the end.
 *
 * ct_rank_spawn_end - has the program been executed?
 * Return: 0; -EINPROGRESS: not yet, when it may not wait: ct_rank_start_fd(), which each call may change, becomes readable; or
 * another negative errno, as of ct_rank_spawn: no process is left then, and ct_rank_kill() frees it. That also ends one
 * that has not got so far. What takes longer than CT_START_TIMEOUT_MS has failed.
 */
int ct_rank_spawn_begin(struct ct_rank **out, const struct ct_spawn *spec, struct gw_error *why);
int ct_rank_spawn_end(struct ct_rank *r, const struct ct_spawn *spec, bool may_wait, struct gw_error *why);
int ct_rank_start_fd(const struct ct_rank *r);
#define CT_START_TIMEOUT_MS 10000

pid_t ct_rank_pid(const struct ct_rank *r);       /* host pid of the program */
pid_t ct_rank_init_pid(const struct ct_rank *r);  /* host pid of its init, a child of the daemon */

/**
 * ct_rank_status_fd - becomes readable when the program has ended (or init has died)
 * Then ct_rank_reap() gives the program's wait status (as waitpid) and every process of the container is gone; free
 * the rank with ct_rank_kill(). Return 0, or -EAGAIN when it still runs. The daemon must not call waitpid(-1): it would
 * take away what ptrace and reap wait for.
 */
int ct_rank_status_fd(const struct ct_rank *r);
int ct_rank_reap(struct ct_rank *r, int *wait_status);

int ct_rank_signal(struct ct_rank *r, int sig);   /* to the program and its process group, as a terminal does; -EAGAIN
                                                   * while frozen or not yet thawed: send later */
void ct_rank_kill(struct ct_rank *r);             /* SIGKILL to init, the whole namespace with it, reap, free. NULL ok */

/**
 * ct_shell_is_alive - has no thread of a stopped shell been killed?
 * Its status descriptor cannot tell: init learns of its end only when the tracer, the caller, has reaped it. The kernel
 * says SIGCHLD when there is a reason to ask.
 */
bool ct_shell_is_alive(const struct ct_rank *r);

/* What a destination must know before anything stops; flat, versioned, printable. */
struct ct_needs {
	uint32_t version;                 /* CT_NEEDS_VERSION */
	uint32_t uid, gid;                /* the rank's, outside its namespaces */
	uint32_t threads;
	uint32_t ns_pid;
	uint64_t vmas, private_bytes;     /* private, present and dirty: what would be sent now */
	uint64_t vdso_hash;               /* of the [vdso] bytes */
	uint64_t xfeatures;               /* extended state components in use */
	uint32_t files;                   /* open regular files and file mappings that follow as path, size, mtime, build-id */
	uint64_t monotonic_ns, boottime_ns; /* the rank's clocks when this was said: ct_rank_clocks */
	uint64_t heard_monotonic_ns, heard_boottime_ns; /* of the destination's daemon when it heard it; 0: just now */
	uint64_t blob_len;                /* length of @blob */
	unsigned char *blob;              /* heap; ct_needs_fini */
	bool are_files_proved;            /* at the destination, never on the wire: ct_files_look was content */
	bool is_cold;                     /* likewise: it was written down; its clocks have stood still since @monotonic_ns */
};
#define CT_NEEDS_VERSION 3
void ct_needs_fini(struct ct_needs *n);

/* The rank's own clocks, and this process's. What passes between saying the one and hearing it is lost to the rank's clocks, and
 * lengthens its downtime: stamp a request when it leaves, and when it comes. */
void ct_rank_clocks(const struct ct_rank *r, uint64_t *monotonic_ns, uint64_t *boottime_ns);
void ct_needs_heard(struct ct_needs *n);

/* Something that keeps a rank where it is, until it goes away. */
enum ct_hold_kind {
	CT_HOLD_DESCRIPTOR, /* number: of the descriptor */
	CT_HOLD_MAPPING,    /* its address */
	CT_HOLD_PROCESS,    /* another process in the container: its pid here, or in the container where that is not known */
	CT_HOLD_DEBUGGER,   /* its pid */
	CT_HOLD_THREAD,     /* its id */
	CT_HOLD_STATE,      /* of the whole process; 0 */
};
struct ct_hold {
	enum ct_hold_kind kind;
	bool is_passing;    /* it may well be gone in a moment: a process, a pipe to one, a connection being made */
	long long number;
	char *text;         /* a sentence: object, cause, next step */
};
struct ct_holds {
	struct ct_hold *list;
	size_t n;
};
const char *ct_hold_kind_name(enum ct_hold_kind kind);
void ct_holds_fini(struct ct_holds *h);

/**
 * ct_rank_holds - all that keeps this rank here, not only the first. Stops nothing and disturbs nothing.
 * @out: ct_holds_fini; empty when it could move now
 * Return: 0, or an errno when looking failed, as when it has just ended.
 */
int ct_rank_holds(struct ct_rank *r, struct ct_holds *out, struct gw_error *why);

/*
 * The network of a rank whose agent is attached: descriptors that are closed before it is frozen, so that they do not
 * hold it now. When all stands and one of them is still there, the move is refused then. All zeroes: it has none, as at
 * first, at a new place until its agent has attached there, and when the agent is gone.
 */
struct ct_network {
	int16_t fds[16];           /* 0: none. The agent's bell is among them, with a network or without */
	uint16_t port;             /* TCP, network order: it listens there; 0: there is no network */
	/* is @address (struct sockaddr) where another rank of the job listens, or has listened not long ago? */
	bool (*is_peer)(void *ctx, const void *address, size_t len);
	void *ctx;
};
void ct_rank_network(struct ct_rank *r, const struct ct_network *n); /* copied */

/**
 * ct_rank_check - can this rank move now? Stops nothing.
 * @why names the rank-side object that holds it: a descriptor with its number and kind, a child, a debugger, a mapping.
 * Return: 0 with *out filled; -EBUSY with @why when something holds it; -ECHILD when only what may be gone in a
 * moment holds it: other processes, pipes to them, connections that are being made; another errno when looking failed.
 */
int ct_rank_check(struct ct_rank *r, struct ct_needs *out, struct gw_error *why);

/**
 * ct_rank_way - where to may the next move be? Before ct_rank_check, ct_rank_holds and ct_rank_freeze.
 * On its own host (NEAR) open files can be handed over that hold it on the way to another one (FAR, the default); into an image
 * on disk (COLD) go locks that nobody may get while a rank moves, but that can be taken when it is continued.
 */
enum ct_way { CT_WAY_FAR = 0, CT_WAY_NEAR = 1, CT_WAY_COLD = 2 };
void ct_rank_way(struct ct_rank *r, enum ct_way way);

/**
 * ct_rank_may_carry - may the next move take files along that its destination does not see? Before ct_rank_check.
 * Then files without a name do not hold it, and container/files.h finds out which must travel.
 */
void ct_rank_may_carry(struct ct_rank *r, bool may);

/** ct_rank_settle_files - at the destination, before ct_rank_thaw: files that travelled get their names. Return: 0, or an
 * error when one is in their way: then it must not be thawed, and ct_rank_kill takes them away */
int ct_rank_settle_files(struct ct_rank *r, struct gw_error *why);

/**
 * ct_reconnecting_add - name UNIX sockets whose libraries connect again when their peer is gone
 * @patterns: paths as their servers bind them, with *, ? and [], separated by ':' or newlines; '@' begins an abstract name
 * They do not hold a rank: after a move the peer appears to have closed. For this whole process, before ranks are looked
 * at. Those of sssd, nscd, nslcd, winbind, syslog and systemd are known without. Return: 0 or -ENOMEM.
 */
int ct_reconnecting_add(const char *patterns);

/*
 * A rank that runs can be followed: most of its memory goes to the destination in rounds before it is stopped, and only what
 * it has written since then, afterwards.
 *
 *   check -> ct_follow_begin -> (ct_follow_round -> ct_image_next* -> the destination has it -> ct_follow_sent)* ->
 *   [a last ct_follow_round whose pages are left for the freeze, or by ct_follow_leave -> ct_image_next* -> the destination has
 *   it -> ct_follow_sent for afterwards] -> ct_rank_freeze -> ct_image_next* -> ...
 *
 * ct_rank_follow_from - before ct_rank_check: a rank with as many @bytes as this will be followed, so that the destination
 *   proves room for its pages, but need not make them ahead (0, the default: never)
 * ct_follow_begin - after a check. Its main thread stands for some tens of microseconds. -ENOTSUP with the reason: this
 *   kernel, or what is around the rank, does not allow it; it moves by stop-and-copy
 * ct_follow_round - look what must be sent now; ct_image_next hands it out, while the rank runs
 * ct_follow_sent - all of the round is at the destination
 * ct_follow_leave - right after ct_follow_round: what can come after the rank (below) is not sent. This round has no pages; it lets the
 *   destination give back the older ones, which takes it as long as the rest of the pause: nothing may be where a page is waited for
 * ct_follow_forget - a round without pages: the destination forgets what it has. When it is there, ct_follow_end: the rank is then one
 *   that was never followed
 * ct_follow_end - it is not followed any more; NULL-safe in every state, and done by the release and the end of a rank
 */
struct ct_round {
	uint32_t number;      /* from 0 */
	uint64_t bytes;       /* to send */
	uint64_t dirty_bytes; /* of these, sent before and written since */
	uint64_t since_ns;    /* the look before; 0: there was none */
};
void ct_rank_follow_from(struct ct_rank *r, uint64_t bytes);
int ct_follow_begin(struct ct_rank *r, struct gw_error *why);
int ct_follow_round(struct ct_rank *r, struct ct_round *out, struct gw_error *why);
void ct_follow_sent(struct ct_rank *r);
int ct_follow_leave(struct ct_rank *r, struct gw_error *why);
int ct_follow_forget(struct ct_rank *r, struct gw_error *why);
void ct_follow_end(struct ct_rank *r);

/*
 * Post-copy: a rank can run at the destination before all of its memory is there. The frozen copy stays where it was, and
 * never runs again; pages are read from it, first those that somebody waits for. A rank that is followed can leave what it has
 * written since the last round (hybrid).
 *
 *   source                                              destination
 *   ct_rank_leave_pages, ct_rank_freeze, image -------> ct_shell_feed .. ct_rank_thaw, ct_rank_take_fetch
 *                        <---- addresses -------------- ct_fetch_fd readable: ct_fetch_turn, ct_fetch_wants
 *   ct_serve_page, ct_serve_next ---- pages ----------> ct_fetch_fill, until ct_fetch_left is 0: ct_fetch_end
 *   ct_rank_release
 *
 * ct_rank_leave_pages - before ct_rank_freeze, and for this one only: may pages come after the rank? The host of the destination must be able to
 *   (ct_host_caps.can_fetch). ct_rank_left_bytes: after it, how much does; 0: all is in the image
 * ct_serve_next - the next pages that were not handed out; *cursor: up to where, for ct_serve_rewind when what was sent has
 *   got lost, and for ct_serve_ahead. Return: bytes, 0 when all are out or all of this turn were served before; negative errno
 * ct_serve_page - the page at @addr, and those behind it as far as @cap goes. A page that was asked for is handed out again
 * ct_fetch_*: of the destination. Until ct_fetch_end nobody may read or write the memory of the rank but by it: who touches a
 *   missing page waits for it, and this thread would wait for itself. It ends after the rank when pages will not come: who
 *   waits is let go by it, and finds zeroes
 * ct_fetch_turn - threads wait for pages, or memory was moved, given back, copied by a fork: hear of it
 * ct_fetch_wants - pages to ask for, each told once; ct_fetch_again: all those that have not come, once more
 */
struct ct_fetch;
struct ct_fetch_stats {
	uint64_t faults, forks;            /* pages that were waited for; address spaces that were copied */
	uint64_t bytes, zero_pages;        /* that came after the thaw */
	uint64_t measured, fault_median_us, fault_max_us; /* from when we heard of a wait to when the page was there */
};
void ct_rank_leave_pages(struct ct_rank *r, bool may);
uint64_t ct_rank_left_bytes(const struct ct_rank *r);
ssize_t ct_serve_next(struct ct_rank *r, void *buf, size_t cap, uint64_t *cursor, struct gw_error *why);
ssize_t ct_serve_page(struct ct_rank *r, uint64_t addr, void *buf, size_t cap, struct gw_error *why);
void ct_serve_rewind(struct ct_rank *r, uint64_t cursor);
uint64_t ct_serve_ahead(const struct ct_rank *r, uint64_t cursor); /* bytes handed out after @cursor */
bool ct_serve_is_out(const struct ct_rank *r);
struct ct_fetch *ct_rank_take_fetch(struct ct_rank *r); /* after the thaw; the caller ends it. NULL: nothing is missing */
int ct_fetch_fd(const struct ct_fetch *f);
int ct_fetch_turn(struct ct_fetch *f, struct gw_error *why);
size_t ct_fetch_wants(struct ct_fetch *f, uint64_t *addresses, size_t cap);
void ct_fetch_again(struct ct_fetch *f);
int ct_fetch_fill(struct ct_fetch *f, const void *buf, size_t len, struct gw_error *why);
uint64_t ct_fetch_left(const struct ct_fetch *f);       /* pages */
void ct_fetch_measure(struct ct_fetch *f, struct ct_fetch_stats *out);
void ct_fetch_end(struct ct_fetch *f);                  /* NULL ok */

struct ct_freeze_stats {
	uint64_t stop_ns;         /* from the call to the last thread stopped */
	uint64_t frozen_at_ns;    /* CLOCK_REALTIME when the last thread stopped */
	uint32_t threads, vmas;
	uint64_t private_bytes;   /* that ct_image_next will send */
	uint64_t zero_pages;      /* found and not sent */
	uint64_t capture_ns;      /* metadata */
	uint64_t dirty_bytes;     /* of a rank that is followed: written again since the last look, */
	uint64_t since_ns;        /* which was so long ago; 0: it is not followed */
};

/**
 * ct_rank_freeze_prepare - what can be looked up and touched before: about as long as a small rank then stands still
 * For the next ct_rank_freeze, which does it itself otherwise. The rank goes on as before, whatever happens.
 */
int ct_rank_freeze_prepare(struct ct_rank *r, struct gw_error *why);

/** ct_rank_freeze_forget - no ct_rank_freeze comes after what ct_rank_freeze_prepare looked up, or none soon */
void ct_rank_freeze_forget(struct ct_rank *r);

/**
 * ct_rank_freeze - seize and stop every thread (PTRACE_O_EXITKILL in the seize, rule 17), and capture the metadata
 * On failure (deadline, something immovable appeared) every thread runs on as before.
 */
int ct_rank_freeze(struct ct_rank *r, uint64_t deadline_ms, struct ct_freeze_stats *stats, struct gw_error *why);

/**
 * ct_rank_when_still - during the next ct_rank_freeze @say is called once, when every thread stands and ct_rank_stream_rest can tell
 * What others know of the rank can be sent then, while the rest of it is looked at. When @say fails, so does the freeze.
 */
void ct_rank_when_still(struct ct_rank *r, int (*say)(void *ctx, struct gw_error *why), void *ctx);

/**
 * ct_rank_when_known - during the next ct_rank_freeze @hand is called at most once, with the first bytes of the image
 * They are all that depends on no page: the destination, which must know such images (HEAD of image.h), can begin while it is looked
 * which pages have to go. ct_image_next goes on behind them. Not called, and all of it left to that, where pages come after the
 * rank, or for more than CT_IMAGE_CHUNK_MIN bytes. When @hand fails, so does the freeze.
 */
void ct_rank_when_known(struct ct_rank *r, int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why), void *ctx);

/**
 * ct_image_next - the next bytes of the image of a frozen rank, or of a round of one that is followed: metadata sections, then page runs, then the end section
 * @buf, @cap: at least CT_IMAGE_CHUNK_MIN bytes. Return: bytes written, 0 after the end, negative errno.
 * Deterministic work of at most @cap bytes: the caller interleaves it with others (the daemon is never blocked).
 */
#define CT_IMAGE_CHUNK_MIN (256 * 1024)
ssize_t ct_image_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why);

/**
 * ct_rank_stream_rest - bytes that the frozen rank was in the middle of writing to one of its plumbed pipes
 * A write that the freeze cut short is completed by the daemon: these bytes belong to the stream of @plumb, after
 * everything that is in the pipe, and the image already shows the full count (rule 19). Call after freeze; they count
 * only if the move is given; on unfreeze the program finishes the write itself.
 * Return: length, 0 for none; *bytes is owned by the rank.
 */
ssize_t ct_rank_stream_rest(struct ct_rank *r, enum ct_plumb plumb, const void **bytes);

/** ct_rank_end - kill it, and return when no process of it is left; its status is still to be reaped */
void ct_rank_end(struct ct_rank *r);

/** ct_rank_was_killed - did somebody kill the frozen rank? Its status fd cannot tell before it is let go. Costs a call. */
bool ct_rank_was_killed(const struct ct_rank *r);

/** ct_rank_unfreeze - the frozen rank runs on where it is, as if nothing had been. -EINVAL: it is not frozen */
int ct_rank_unfreeze(struct ct_rank *r, struct gw_error *why);
bool ct_rank_shares(const struct ct_rank *r); /* has what its other copy uses, too: locks, open files that were handed over, System V */
void ct_rank_release(struct ct_rank *r);  /* after TAKEN: the frozen source copy is killed without running, and freed */

/**
 * ct_shell_create - at the destination: check @needs against this host, make namespaces, init and an empty shell
 * Refuses with a sentence when the CPU, kernel, vdso, a file or the pid does not fit: nothing has stopped yet.
 * @plumbing: the rank's new ends; their numbers come from the image. @cpus: of the new cluster.
 */
int ct_shell_create(struct ct_rank **out, const struct ct_needs *needs, const struct ct_plumbing *plumbing,
                    const cpu_set_t *cpus, struct gw_error *why);

/**
 * ct_shell_make_pages - is there a page for everything that the rank had when it was looked at?
 * The shell makes them itself, a part at a time, while the caller does other things, so that none has to be made while the rank
 * stands still. Nothing depends on it: the caller may stop asking at any time.
 * Return: 1 not yet, ask again after the next SIGCHLD; 0; negative errno: the shell has ended
 */
int ct_shell_make_pages(struct ct_rank *r, struct gw_error *why);

/** ct_shell_rounds - how many rounds have come whole */
uint32_t ct_shell_rounds(const struct ct_rank *r);

/** ct_shell_feed - the next bytes of the image, cut anywhere; bounds-checked: a bad image is an error, never a crash */
int ct_shell_feed(struct ct_rank *r, const void *buf, size_t len, struct gw_error *why);

/** ct_shell_ready - the image is complete: threads exist, registers are set, only the thaw is missing */
int ct_shell_ready(struct ct_rank *r, struct gw_error *why);

struct ct_thaw_stats {
	uint64_t thawed_at_ns;    /* CLOCK_REALTIME when the last thread was let go */
	uint64_t thaw_ns;
	uint64_t pages_filled;
};
int ct_rank_thaw(struct ct_rank *r, struct ct_thaw_stats *stats, struct gw_error *why);

/** ct_rank_tidy - after ct_rank_thaw, once: what was only for building it goes. It runs already, and may have its turn first */
void ct_rank_tidy(struct ct_rank *r);

/* What this host and user can do, for tests; container/probe.h has it all. */
struct ct_host_caps {
	bool has_userns, has_pidns, has_timens, has_set_tid, has_pagemap_scan, has_wp_async, has_exe_map;
	bool can_move; /* from here and to here */
	bool can_fetch; /* a rank may run here before its pages are there: the kernel too waits for them, and tells of forks */
	char text[512]; /* one line each, what is missing and what follows from it */
};
int ct_host_probe(struct ct_host_caps *out);

#endif
