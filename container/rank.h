/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/rank.h: the inside of the daemon's side; only the files of this folder include it.
 *
 * Objects, from the bottom: a growing array (ct_vec); what /proc says of a process (proc.c); a remote, the place in a
 * stopped process where tables of system calls run (inject.c); the snapshot, all that is known of a rank but its pages
 * (image.c writes and reads it as bytes); the rank. All of it is on the cluster side and is rebuilt after a move.
 */
#ifndef CT_RANK_H
#define CT_RANK_H

#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/user.h>

#include "container/container.h"
#include "container/cpu.h"
#include "container/image.h"
#include "runtime/base/base.h"

#ifndef __x86_64__
#error "container/ knows the registers and the system calls of x86-64 only"
#endif

/* ---- a growing array ------------------------------------------------------------------------------------------- */

struct ct_vec {
	void *at;
	size_t n, cap, size; /* elements, elements there is room for, bytes of one element */
};

void ct_vec_init(struct ct_vec *v, size_t size);
void ct_vec_fini(struct ct_vec *v);
void *ct_vec_add(struct ct_vec *v, size_t n);      /* @n elements, zeroed; NULL without memory */
int ct_vec_append(struct ct_vec *v, const void *p, size_t n);
#define CT_AT(type, v, i) (&((type *)(v)->at)[i])
#define CT_EACH(type, e, v) (type *e = (v)->at, *e##_end = e + (v)->n; e < e##_end; e++)

/* ---- what /proc says ------------------------------------------------------------------------------------------- */

struct ct_map {
	uint64_t start, end, offset, ino;
	uint32_t prot, advice;
	uint32_t dev_major, dev_minor;
	bool is_shared;
	bool is_locked_pages;   /* io memory: VmFlags io or pf */
	bool is_hugetlb;        /* VmFlags ht */
	uint64_t page_bytes;    /* 0: not read */
	const char *name;       /* "" for none; points into the text */
};

struct ct_maps {
	struct ct_vec list;     /* struct ct_map, ascending */
	char *text;
	size_t text_cap;
	uint64_t read_at_ns, took_ns; /* when it had been read, and how long that took */
};
int ct_maps_read(struct ct_maps *m, pid_t pid, bool want_flags); /* want_flags: smaps, slow; never in the frozen window */
/* what is mapped from @start to @end will be one reservation that nobody may touch, before it is read again */
void ct_maps_expect_gap(struct ct_maps *m, uint64_t start, uint64_t end);
int ct_maps_read_again(struct ct_maps *m, pid_t pid); /* without flags, of what was read so before: quick where little has changed */
bool ct_maps_are_same(const struct ct_maps *a, const struct ct_maps *b); /* but for the flags */
void ct_maps_fini(struct ct_maps *m);
const struct ct_map *ct_maps_find(const struct ct_maps *m, uint64_t addr);

int ct_proc_read(pid_t pid, const char *name, char *buf, size_t cap); /* whole small file, NUL terminated; length */
void ct_pages_own(void);                                              /* of the caller: before a rank waits for what it writes */
void ct_proc_keep(pid_t pid, const char *name);                       /* opened ahead for the next calls that name it so */
void ct_proc_keep_none(void);                                         /* all that were are closed */
int ct_proc_text(pid_t pid, const char *name, char **out);            /* the same of any size; the caller frees it, also on error */
bool ct_is_segment(const char *name); /* is that, in maps or as a link, the host segment (noc/segment.h)? */
int ct_proc_link(pid_t pid, const char *name, char *buf, size_t cap); /* readlink, NUL terminated; length */
int ct_proc_ids(pid_t pid, const char *dir, struct ct_vec *out);      /* numbers in a directory of /proc/PID; int */
int ct_proc_pids(pid_t pid, const char *dir, struct ct_vec *out);     /* likewise, of one that is the root of a /proc: its processes */
int ct_proc_blame_end(pid_t pid, int rc, struct gw_error *why);       /* what failed is blamed on the end of @pid, if it ends */
uint32_t ct_proc_ns_id(pid_t tid);                                    /* of a process or thread, as its namespace knows it; 0: gone */
const char *ct_proc_field(const char *status, const char *key);       /* "Uid:" of a status text; NULL when missing */

/* ---- running system calls in a stopped process ----------------------------------------------------------------- */

/*
 * A remote is a stretch of memory in the target that holds a small piece of code and below it a table of calls and
 * their data. The code makes the calls of the table one after another, stores the results and stops at an int3. It
 * uses no stack, so that it can run in any thread, and in a process that has nothing but the remote.
 *
 *   base                                                              base + size
 *   | code, one page | call | call | call -->      <-- data | data | data |
 */
struct ct_call {
	uint64_t nr, arg[6];
	uint64_t result;
	uint64_t flags;                  /* CT_CALL_* */
	uint64_t expect;                 /* CT_CALL_EQUAL */
	uint64_t child_start, child_end; /* CT_CALL_CLONE: the table of the new thread */
};
_Static_assert(sizeof(struct ct_call) == 96, "the code in inject.c counts on it");

#define CT_CALL_OK    1u /* stop when it fails */
#define CT_CALL_EQUAL 2u /* stop when the result is not @expect */
#define CT_CALL_CLONE 4u /* the new thread runs child_start..child_end and stops */

struct ct_remote {
	pid_t pid;
	uint64_t base;
	size_t size;
	unsigned char *local;        /* the same bytes here: shared memory, or a copy that is written and read back */
	bool is_shared;
	size_t calls;                /* in the table */
	size_t data;                 /* offset of the lowest data */
	const char *what[8192];      /* for the sentence when a call fails; static or owned by others */
};

int ct_remote_init(struct ct_remote *m, pid_t pid, uint64_t base, size_t size, void *shared);
void ct_remote_fini(struct ct_remote *m);
/* CT_HOLE_SIZE bytes of shared memory, for a shell that is about to be forked; NULL: no memory. ct_remote_fini gives them back */
void *ct_area_take(void);
void ct_area_give(void *area);
void ct_remote_reset(struct ct_remote *m);                       /* an empty table */
bool ct_remote_has_room(const struct ct_remote *m, size_t calls, size_t bytes);
uint64_t ct_remote_data(struct ct_remote *m, const void *p, size_t len); /* its address there; @p NULL: zeroes */
void *ct_remote_at(const struct ct_remote *m, uint64_t addr);    /* our copy of it */
struct ct_call *ct_remote_call(struct ct_remote *m, const char *what, uint64_t flags, long nr, uint64_t a0, uint64_t a1,
                               uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
uint64_t ct_remote_call_addr(const struct ct_remote *m, const struct ct_call *c);
#define CT_CALL_(m, w, f, nr, a, b, c, d, e, g, ...) \
	ct_remote_call(m, w, f, nr, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), (uint64_t)(e), (uint64_t)(g))
#define CT_CALL(m, w, f, ...) CT_CALL_(m, w, f, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* Run calls [first, last) of the table in stopped thread @tid with registers like @regs. start/wait let several threads
 * run at once, each its own part of the table. The caller brings the copy over with push, and back with pull. */
int ct_remote_push(struct ct_remote *m, struct gw_error *why);
int ct_remote_start(struct ct_remote *m, pid_t tid, const struct user_regs_struct *regs, size_t first, size_t last,
                    struct gw_error *why);
int ct_remote_wait(struct ct_remote *m, pid_t tid, size_t last, struct gw_error *why);
int ct_remote_pull(struct ct_remote *m, struct gw_error *why);
/* push, start, wait, pull of the whole table */
int ct_remote_run(struct ct_remote *m, pid_t tid, const struct user_regs_struct *regs, struct gw_error *why);

/* one call with nothing in the target but a syscall instruction at @insn; *result as the kernel gave it */
int ct_remote_one(pid_t tid, const struct user_regs_struct *regs, uint64_t insn, long nr, const uint64_t arg[6],
                  int64_t *result, struct gw_error *why);

/* wait for a stop of @tid; -ESRCH when it ended. Blocks: only for threads that are known to stop at once */
int ct_wait_stop(pid_t tid, int *status);
bool ct_thread_has_ended(pid_t tid); /* one that we trace: looked at, not reaped */

/* memory.c: as process_vm_readv and _writev, also where these are denied; @n stretches, each as long here as there */
struct iovec;
ssize_t ct_mem_readv(pid_t pid, const struct iovec *to, const struct iovec *from, size_t n);
ssize_t ct_mem_writev(pid_t pid, const struct iovec *from, const struct iovec *to, size_t n);
int ct_mem_read(pid_t pid, uint64_t addr, void *buf, size_t len);        /* 0 or -errno */
int ct_mem_write(pid_t pid, uint64_t addr, const void *buf, size_t len);

/* run on one processor with what we stop and start: waking it elsewhere costs more than all the rest; and, where that
 * is allowed, before others: a rank stands still meanwhile */
struct ct_pin { cpu_set_t old; int cpu; bool is_pinned; struct gw_sched before; };
void ct_pin_begin(struct ct_pin *p);
void ct_pin_end(struct ct_pin *p);

/* ---- snapshot -------------------------------------------------------------------------------------------------- */

struct ct_unread {
	struct ct_img_unread head;
	size_t at; /* offset in snapshot.bytes */
};

struct ct_snapshot {
	struct ct_img_process process;
	struct ct_vec strings;  /* char; begins with NUL */
	struct ct_vec files;    /* struct ct_img_file */
	struct ct_vec auxv;     /* uint64_t */
	struct ct_vec vmas;     /* struct ct_img_vma, ascending */
	struct ct_vec fds;      /* struct ct_img_fd, ascending */
	struct ct_vec timers;   /* struct ct_img_timer */
	struct ct_vec timerfds; /* struct ct_img_timerfd */
	struct ct_vec watches;  /* struct ct_img_watch */
	struct ct_vec memories; /* struct ct_img_memory */
	struct ct_vec handles;  /* struct ct_img_handle */
	struct ct_vec locks;    /* struct ct_img_lock */
	struct ct_vec policies; /* struct ct_img_policy */
	struct ct_vec sysv;     /* struct ct_img_sysv */
	struct ct_vec dropped;  /* struct ct_img_extent: pages that came before and are no more */
	struct ct_vec later;    /* struct ct_img_extent: pages that come after the rank, but for those that come with it */
	struct ct_vec threads;  /* struct ct_img_thread, leader first */
	struct ct_vec xstate;   /* unsigned char */
	struct ct_vec actions;  /* struct ct_img_action */
	struct ct_vec infos;    /* struct ct_img_siginfo */
	struct ct_vec unread;   /* struct ct_unread */
	struct ct_vec bytes;    /* unsigned char, of unread */
};

void ct_snapshot_init(struct ct_snapshot *s);
void ct_snapshot_fini(struct ct_snapshot *s);
uint32_t ct_snapshot_string(struct ct_snapshot *s, const char *text);     /* its offset; equal text is stored once */
const char *ct_snapshot_text(const struct ct_snapshot *s, uint32_t offset);
/* All sections before PAGES as bytes: those that depend on no page, in place of what is in @out; and behind them the others. Between
 * the two HEAD, where the destination can begin with it */
int ct_snapshot_write_head(const struct ct_snapshot *s, struct ct_vec *out);
int ct_snapshot_write_tail(const struct ct_snapshot *s, struct ct_vec *out);

int ct_section_write(struct ct_vec *out, enum ct_section type, uint32_t count, const void *p, size_t len);

/* The reader of the stream: pure, knows no process. It fills a snapshot and hands pages on as they come. */
struct ct_reader_ops {
	int (*head)(void *ctx, struct gw_error *why);  /* likewise all before HEAD, where that comes; optional */
	int (*meta)(void *ctx, struct gw_error *why);  /* all before PAGES is there and consistent */
	int (*round)(void *ctx, struct gw_error *why); /* a round is complete: the next begins with an empty snapshot */
	/* @len: whole pages, inside one VMA; the bytes are valid during the call */
	int (*pages)(void *ctx, uint64_t vaddr, const unsigned char *bytes, size_t len, struct gw_error *why);
	int (*flush)(void *ctx, struct gw_error *why); /* the bytes of the earlier pages() are about to go */
	/* of a file that travels; optional */
	int (*bytes)(void *ctx, const struct ct_img_bytes *head, const unsigned char *bytes, size_t len, struct gw_error *why);
};
struct ct_reader {
	const struct ct_reader_ops *ops;
	void *ctx;
	struct ct_snapshot *snap;
	struct ct_vec part;              /* bytes of a section, or of a page, that is not complete yet */
	struct ct_img_section head;
	struct ct_img_pages run;
	uint64_t run_left, next_vaddr, pages_seen, pages_zero;
	uint32_t seen;                   /* sections, a mask */
	uint32_t first_vma;              /* cursor: pages ascend */
	bool has_head, has_run, is_head_done, is_meta_done, is_complete, is_needs, is_round;
	struct ct_img_needs needs;       /* NEEDS */
	struct ct_vec extents;           /* struct ct_img_extent */
};
void ct_reader_init(struct ct_reader *d, const struct ct_reader_ops *ops, void *ctx, struct ct_snapshot *snap);
void ct_reader_fini(struct ct_reader *d);
int ct_reader_feed(struct ct_reader *d, const void *buf, size_t len, struct gw_error *why);

/* ---- the rank -------------------------------------------------------------------------------------------------- */

enum ct_state { CT_RUNNING, CT_FROZEN, CT_SHELL, CT_READY, CT_BROKEN };

struct ct_thread {
	pid_t tid;                     /* on the host */
	uint32_t ns_tid;               /* of a shell's that was made beforehand */
	int here;                      /* of a shell's: the processor that we have put it on, and 1; 0: it is elsewhere, or may be */
	uint64_t rseq_here[2];         /* of a shell's: what its kernel has written there (restore.c) */
	bool is_seized, is_stopped, is_moved_cpu;
	bool is_job_stopped;           /* when it was seized: SIGSTOP and the like */
	struct gw_sched sched;         /* before the freeze */
	cpu_set_t cpus;                /* where it might run before the freeze */
	struct user_regs_struct regs;  /* as it stopped: what unfreeze puts back */
	uint64_t sigmask;
	bool has_sigmask;              /* ours was put in place */
	uint64_t sleep_ns;             /* CLOCK_MONOTONIC when it fell asleep; 0: not known or not asleep */
	uint64_t sleep_switches;       /* how often it had left the processor by itself, then */
	uint64_t slack_ns;             /* ct_slack(), before it was stopped */
	uint64_t slept_ns;             /* before it was stopped; 0: not known */
	uint64_t full_result;          /* of a write that the daemon completes, in the image only; 0: none */
	uint64_t rseq;
	uint32_t rseq_len, rseq_signature;
};

struct ct_extent { uint64_t start, end; bool is_forced; /* not readable by itself: through /proc/PID/mem */ };

struct ct_end { uint64_t dev, ino; uint32_t mode; };  /* of a plumbed descriptor */

/* What keeps a rank apart. Tried in this order, by root from the first, by others from the second. */
enum ct_walls {
	CT_WALLS_ROOT = 0,              /* PID, mount and time namespaces */
	CT_WALLS_USER = 1,              /* the same inside a user namespace */
	CT_WALLS_NONE = 2               /* all are forbidden here: it runs, but cannot move */
};

struct ct_carried { /* a file that travels with the rank; at the source only what it is */
	uint64_t dev, ino;               /* at the source */
	char *path, *temp;               /* its place, and where it is until the thaw */
	int fd;
	bool is_deleted, is_used, is_placed;
};

struct ct_serve { /* serve.c: pages that come after the rank, at its source; they are those of snap.later, by number */
	struct ct_vec first;     /* uint64_t: of each span */
	uint64_t pages, total;   /* in spans; of these, not in the image */
	uint64_t at;             /* the next to be handed out */
	bool is_whole;           /* the spans are mappings: which pages they have is looked for when it runs */
	bool is_looked, is_skipping; /* skipping: while the rest is looked for, the rank standing still */
	struct ct_vec absent;    /* struct ct_img_extent: the pages that they have not */
	size_t absent_at;        /* of these, told */
	unsigned char *served;   /* bits; NULL: none come after it */
};

struct ct_file_seen {
	const char *name;
	uint64_t map_ino;
	struct stat st;
};

#define CT_FDS_ASKED 16

struct ct_rank {
	struct ct_network network;
	enum ct_state state;
	pid_t init_pid, pid;           /* on the host */
	pid_t ns_pid;
	int init_pidfd, pidfd, status_fd, mem_fd, pagemap_fd;
	int start_fd;                  /* where it tells how far it is; a shell exits when this closes before it was seized */
	uint64_t start_until_ns;       /* by then it has started, or failed */
	uid_t uid;
	gid_t gid;
	enum ct_walls walls;
	char no_walls[200];            /* CT_WALLS_NONE: why */
	bool has_timens, has_own_proc; /* the latter: once it was looked for, and is there */
	int64_t monotonic_offset_ns, boottime_offset_ns;
	struct ct_end ends[CT_PLUMB_MAX];

	/* check */
	struct ct_cpu cpu;             /* what it may have chosen its code by */
	bool is_baseline;              /* it was told to keep to that */
	struct ct_maps look;           /* with flags, from the last check */
	bool has_look;
	struct ct_img_extent segment;  /* where the agent had mapped the host segment then */
	struct ct_vec files_seen;      /* struct ct_file_seen: mapped files, while that was done; names are of the look */
	bool is_preparing;
	bool is_prepared;              /* ct_rank_freeze_prepare() was there, and no freeze since */
	struct ct_holds *holds;        /* while all that holds it is being collected; else NULL */

	enum ct_way way;
	bool may_carry;                /* files that the destination does not see may travel: nothing of that kind holds it */
	struct ct_vec carried;         /* struct ct_carried; from PREPARED to the end of the move, at both sides */
	uint32_t carry_at;             /* the file that is being sent */
	uint64_t carry_offset;
	int carry_fd;
	uint32_t memory_at;            /* the memory file that is being sent, or filled */
	uint64_t memory_offset;
	int memory_fd;

	/* frozen */
	struct ct_vec threads;         /* struct ct_thread; leader first */
	struct ct_vec samples;         /* struct ct_thread; what was seen of them before the freeze */
	struct ct_maps maps;
	struct ct_snapshot snap;
	struct ct_vec extents;         /* struct ct_extent */
	struct ct_vec meta;            /* bytes of the image before the pages */
	size_t meta_at, extent_at;
	uint64_t page_at;              /* next address in extents[extent_at] */
	bool is_end_sent;
	struct ct_img_end totals;
	struct ct_vec rest[CT_PLUMB_MAX]; /* bytes of writes that the freeze cut short */
	int (*say_still)(void *ctx, struct gw_error *why); /* ct_rank_when_still; for one freeze */
	void *say_still_ctx;
	bool is_still;                 /* it is being called */
	int (*hand_head)(void *ctx, const void *bytes, size_t len, struct gw_error *why); /* ct_rank_when_known; for one freeze */
	void *hand_head_ctx;
	uint32_t asked[CT_FDS_ASKED], n_asked; /* indices of descriptors that are asked inside whether exec closes them */
	uint64_t plumb_numbers;        /* descriptors below 64 that the last look found to be ends of the daemon's */
	bool has_locked_plumb;
	struct ct_remote remote;       /* also the shell's */
	struct ct_vec regions;         /* room for PAGEMAP_SCAN */
	uint32_t umask_guess;
	struct ct_follow *follow;      /* follow.c; NULL: it is not followed */
	uint64_t follow_from;          /* ct_rank_follow_from; 0: never */
	bool is_round, can_skip_zeroes; /* what ct_image_next hands out */
	bool may_leave;                /* ct_rank_leave_pages */
	struct ct_serve serve;
	struct ct_vec unreadable;      /* struct ct_img_extent: of a round, pages that went away before they were read */
	char exe[4096];

	/* shell */
	struct gw_list promise;        /* room.c */
	uint64_t promised_bytes, promised_tasks;
	struct ct_snapshot hint;       /* files and mappings that it has made already, as the rank had them when asked */
	size_t running;                /* calls that run in it while we do other things; 0: it stands still */
	struct ct_vec wanted;          /* struct ct_img_extent: pages that it makes before the rank is frozen, */
	size_t made;                   /* so many of the stretches are made or being made */
	struct ct_reader reader;
	cpu_set_t cpus;                /* its place, affinity.c */
	bool has_cpus;
	uint64_t numa_nodes;           /* of these; 0: not known */
	int daemon_fd[CT_PLUMB_MAX];
	int plumb_fd[CT_PLUMB_MAX];    /* where the ends are parked in the shell, or -1 */
	uint64_t vdso_start, vdso_end;
	bool is_vdso_own;              /* of a rank that was looked at: its vdso is byte for byte this process's */
	struct user_regs_struct shell_regs;
	struct ct_vec writes_local, writes_remote; /* struct iovec, gathered */
	uint64_t pages_filled;
	uint32_t rounds;               /* that have come whole */
	bool is_begun;                 /* ct_restore_begin */
	uint32_t barriers_ahead;       /* kinds of memory barriers that it has registered for beforehand, a mask */
	struct ct_fetch *fetch;        /* fetch.c: until it is thawed; NULL: nothing comes later */
	uint32_t cursor;               /* VMA of the last pages */
	struct ct_vec sysv_used;       /* struct ct_img_sysv: what it used before it came here */
};

struct ct_start {
	const struct ct_spawn *spec;    /* NULL: a shell */
	const struct ct_plumbing *plumbing;
	pid_t ns_pid;
	int64_t monotonic_offset_ns, boottime_offset_ns;
	int park_from;                  /* shell: lowest number for its plumbing */
	void *area;                     /* shell: shared memory that it keeps */
	enum ct_walls walls;            /* set by ct_container_begin, changed where these are forbidden */
	int daemon_pidfd;               /* set by ct_container_begin, read by init; -1: the kernel has none */
	pid_t init_pid;                 /* in the child, CT_WALLS_NONE */
};

/* What the new processes say on the start socket. Their sender's pid comes with it, as the kernel knows it here. */
struct ct_start_msg {
	int what;                       /* CT_START_* */
	int code;                       /* negative errno of CT_START_FAILED and CT_START_NO_WALLS */
	bool has_timens;
	char text[600];
};
enum { CT_START_WALLS = 0, CT_START_HERE = 1, CT_START_FAILED = 2, CT_START_NO_WALLS = 3 };

struct ct_clone3_args { /* of the kernel, which this libc may not know */
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* init.c */
__attribute__((noreturn)) void ct_init_main(struct ct_start *s, int fd, int status_fd, uid_t uid, gid_t gid);

/* spawn.c */
struct ct_rank *ct_rank_new(void);
void ct_rank_free(struct ct_rank *r);              /* memory and descriptors only */
int ct_container_begin(struct ct_rank *r, const struct ct_start *s, struct gw_error *why);
int ct_container_wait(struct ct_rank *r, const struct ct_start *s, bool may_wait, struct gw_error *why); /* -EINPROGRESS: not yet */
int ct_container_start(struct ct_rank *r, const struct ct_start *s, struct gw_error *why); /* both */
bool ct_container_is_gone(struct ct_rank *r, int *init_status); /* reaps */
void ct_container_kill(struct ct_rank *r);

/* carry.c */
ssize_t ct_carry_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why);
void ct_carry_forget(struct ct_rank *r);
struct ct_carried *ct_carried_find(const struct ct_rank *r, const struct ct_img_file *file);
int ct_carried_write(struct ct_rank *r, const struct ct_img_bytes *b, const void *bytes, size_t len, struct gw_error *why);
int ct_carried_finish(struct ct_rank *r, struct gw_error *why);
void ct_carried_fini(struct ct_rank *r); /* what has got its name, and was not kept, loses it */
void ct_carried_keep(struct ct_rank *r); /* the rank runs: they are its files now */

/* what travels as BYTES, and how far it is */
struct ct_bytes {
	int fd;
	uint64_t size, offset;
	const char *name;
};
#define CT_BYTES_HEAD (sizeof(struct ct_img_section) + sizeof(struct ct_img_bytes))
/* The next that is no hole, as one section into @buf of @cap bytes; fills @b->offset. Return: its length, 0 at the end. */
ssize_t ct_bytes_next(struct ct_bytes *s, struct ct_img_bytes *b, void *buf, size_t cap, struct gw_error *why);
ssize_t ct_bytes_head(const struct ct_img_bytes *b, void *buf, size_t n); /* before @n bytes that stand at CT_BYTES_HEAD of @buf */

/* memfile.c */
bool ct_is_deleted(const char *link);                   /* of a file without a name, by what /proc calls it */
bool ct_memory_is(const char *link);                    /* a memory file, likewise */
/* is the file without a name one that is mapped, and goes on as a memory file? Its mappings are listed */
bool ct_memory_has(const struct ct_snapshot *s, const char *link, const struct stat *st);
int ct_memory_map(struct ct_rank *r, struct ct_snapshot *s, const struct ct_map *map, struct ct_img_vma *v);
int ct_memory_fd(struct ct_rank *r, struct ct_snapshot *s, struct ct_img_fd *fd, const char *link, const struct stat *st);
int ct_memory_check(struct ct_rank *r, const struct ct_snapshot *s, struct gw_error *why); /* nobody else has one of them */
ssize_t ct_memory_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why);
void ct_memory_rewind(struct ct_rank *r);
uint32_t ct_memory_number(const struct ct_rank *r, uint32_t i); /* where it is parked in the shell */
uint32_t ct_memory_source(const struct ct_rank *r, const struct ct_img_vma *v); /* what to map for @v */
int ct_memory_make(struct ct_rank *r, struct gw_error *why);    /* queued: before the mappings */
int ct_memory_write(struct ct_rank *r, const struct ct_img_bytes *b, const void *bytes, size_t len, struct gw_error *why);
int ct_memory_seal(struct ct_rank *r, struct gw_error *why);    /* queued: after the descriptors */

/* sysv.c */
int ct_sysv_check(struct ct_rank *r, struct gw_error *why);  /* the rank runs */
bool ct_sysv_map(const struct ct_rank *r, const struct ct_map *m, struct ct_img_vma *v);
int ct_sysv_read(struct ct_rank *r, const struct user_regs_struct *regs, struct gw_error *why);
uint32_t ct_sysv_namespace(void);
int ct_sysv_arrive(struct ct_rank *r, struct gw_error *why); /* the image's head is there */
bool ct_sysv_any(const struct ct_snapshot *s);
int ct_sysv_take_over(struct ct_rank *r, struct gw_error *why);
void ct_sysv_give_up(struct ct_rank *r);

/* handles.c */
struct ct_fit;
int ct_handle_add(struct ct_rank *r, struct ct_snapshot *s, uint32_t n, const struct stat *st, const char *what);
const struct ct_img_handle *ct_handle_of(const struct ct_snapshot *s, uint32_t n); /* of descriptor @n; NULL: it has none */
uint32_t ct_handle_number(const struct ct_rank *r, const struct ct_img_handle *h); /* where it is parked in the shell */
int ct_handles_take(struct ct_rank *r, struct gw_error *why);   /* in the shell, before the descriptors are made */
int ct_fit_handles(const struct ct_fit *f, struct gw_error *why);

/* locks.c */
int ct_locks_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t n, const char *path, const char *info, bool is_frozen,
                  bool *needs_handle, struct gw_error *why);
int ct_locks_take(struct ct_rank *r, struct gw_error *why);     /* in the shell, when nothing is closed any more */

/* fit.c */
struct ct_fit {
	const struct ct_reader *reader;   /* the whole of what the source has said: needs, extents */
	const struct ct_snapshot *hint;   /* its files and mappings, and their strings */
	bool are_files_proved;
};
int ct_fit(const struct ct_fit *f, struct gw_error *why); /* every check of the destination's table */

/* room.c: checks of that table, and what is promised to a shell until it has it */
#define CT_PARK_ABOVE 64 /* numbers above the rank's highest descriptor, where its plumbing waits in the shell */
int ct_fit_memory(const struct ct_fit *f, struct gw_error *why);
int ct_fit_commit(const struct ct_fit *f, struct gw_error *why);
int ct_fit_processes(const struct ct_fit *f, struct gw_error *why);
int ct_fit_limits(const struct ct_fit *f, struct gw_error *why);
int ct_fit_descriptors(const struct ct_fit *f, struct gw_error *why);
int ct_fit_addresses(const struct ct_fit *f, struct gw_error *why);
void ct_room_promise(struct ct_rank *r, const struct ct_fit *f);
void ct_room_settle(struct ct_rank *r);                       /* it has what it needs, or needs nothing any more; idempotent */
uint64_t ct_limit_grant(int which, uint64_t hard);            /* the highest hard limit up to @hard that this process may set */

/* holds.c */
/**
 * ct_hold - something keeps the rank here
 * Return: 0 when all reasons are being collected: look on; else -EBUSY (-ECHILD for another process) with @why filled.
 */
int ct_hold(struct ct_rank *r, struct gw_error *why, enum ct_hold_kind kind, long long number, const char *fmt, ...)
	GW_PRINTF(5, 6);

/* around.c */
int ct_look(struct ct_rank *r, struct gw_error *why);  /* stops nothing; refuses what cannot move; fills r->look */
int ct_others_check(struct ct_rank *r, struct gw_error *why); /* no other process in its namespace */

/* fds.c */
int ct_fds_scan(struct ct_rank *r, struct ct_snapshot *s, bool is_frozen, struct gw_error *why);
int ct_file_add(struct ct_snapshot *s, const char *path, const struct stat *st, uint32_t flags, uint32_t *index);

/* traits.c: of a process, what can be set from outside */
uint32_t ct_ioprio(pid_t tid);
uint64_t ct_slack(pid_t tid); /* of timers, ns; 0: not known */
void ct_slack_set(pid_t tid, uint64_t ns);
void ct_traits_set_thread(pid_t tid, const struct ct_img_thread *from, bool is_prompt);
void ct_traits_set(const struct ct_rank *r);

/* affinity.c */
void ct_affinity_narrow(const cpu_set_t *may, const cpu_set_t *place, uint64_t positions[CT_IMG_CPUS / 64]);
void ct_affinity_widen(const uint64_t positions[CT_IMG_CPUS / 64], const cpu_set_t *place, cpu_set_t *may);
void ct_affinity_mark(const struct ct_rank *r);                    /* when its place is known and its init is there */
bool ct_affinity_place(const struct ct_rank *r, cpu_set_t *place); /* what the kernel lets it have of it now */
void ct_affinity_give_back(const struct ct_rank *r, const struct ct_thread *t);

/* numa.c */
#define CT_NUMA_ANSWER 144 /* bytes */
struct ct_numa_saved { bool is_set; int mode; uint64_t nodes[16]; };
uint64_t ct_numa_parse(const char *list);
uint64_t ct_numa_of(const cpu_set_t *cpus);                     /* nodes, a set */
uint64_t ct_numa_translate(uint64_t nodes, uint64_t from, uint64_t to);
bool ct_numa_line(const char *line, struct ct_img_policy *p);   /* of numa_maps */
void ct_numa_enter(uint64_t nodes, struct ct_numa_saved *old); /* pages that are made now are of its cluster's node */
void ct_numa_leave(const struct ct_numa_saved *old);
int ct_numa_list(struct ct_rank *r);                            /* before the freeze */
void ct_numa_ask(struct ct_remote *m, uint64_t at);
void ct_numa_answer(const unsigned char *p, const struct ct_call *call, struct ct_img_thread *t);
void ct_numa_set(struct ct_rank *r, const struct ct_img_thread *t);
int ct_numa_bind(struct ct_rank *r, struct gw_error *why);

/* timers.c */
int ct_timers_check(struct ct_rank *r, struct gw_error *why);   /* which it has, and can they move? fills nothing */
int ct_timers_list(struct ct_rank *r, struct gw_error *why);    /* frozen: into the snapshot, without their times */
void ct_timers_ask(struct ct_rank *r, uint64_t *at);            /* calls for the leader's table, and where their answers will be */
int ct_timers_answers(struct ct_rank *r, uint64_t at, struct gw_error *why);
int ct_timerfd_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t index, struct gw_error *why);
bool ct_timers_any(const struct ct_snapshot *s);                /* is there one that runs? */
int ct_timers_make(struct ct_rank *r, struct gw_error *why);    /* in the shell, its threads are there; none runs yet */
int ct_timers_start(struct ct_rank *r, struct gw_error *why);   /* all kinds, right before the first thread is let go */

/* polls.c */
int ct_epoll_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t index, struct gw_error *why); /* all descriptors are listed */
int ct_epoll_fill(struct ct_rank *r, struct gw_error *why);     /* in the shell, all descriptors are there */

/* pairs.c */
bool ct_pair_look(const struct ct_rank *r, struct ct_img_fd *fd);
int ct_pair_number(struct ct_snapshot *s, const struct ct_vec *inodes, size_t i, uint32_t number);

/* sockets.c */
struct ct_socket {
	int domain, type;       /* AF_UNIX ..., SOCK_STREAM ... */
	bool is_hung_up;        /* at the other side its peer will have closed */
	char text[256];         /* "a connected TCP socket (10.0.0.4:443)" */
};
bool ct_socket_look(const struct ct_rank *r, int number, struct ct_socket *out); /* can it be put back? @text in any case */
#define CT_CLOSED_NAME "godwit-closed-" /* how the lost end of such a pair is called, and a number */

/* A TCP socket without a peer, in a rank that has a network: its agent connects it, or is about to close it after its peer has
 * moved; or it is the program's own. Time tells. */
bool ct_socket_is_unsettled(const struct ct_rank *r, int number);
bool ct_socket_is_network(const struct ct_rank *r, int number); /* of the agent's: closed before a freeze */

/* vmas.c */
#define CT_HUGE_NAME "/anon_hugepage (deleted)" /* how /proc calls anonymous memory of reserved huge pages */
int ct_vmas_scan(struct ct_rank *r, const struct ct_maps *maps, struct ct_snapshot *s, struct gw_error *why);
int ct_vmas_ahead(const struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *out); /* 0 or -ENOMEM */

/* pages.c */
void ct_memory_forget(struct ct_rank *r); /* close what shows its memory: after an exec it would show what was before */
int ct_extents_scan(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct gw_error *why);
/* pages of [start, end) that were written since they were protected last, to the end of @spans, and protect them again;
 * -EPERM: it is not followed */
int ct_written_scan(struct ct_rank *r, uint64_t start, uint64_t end, struct ct_vec *spans);
bool ct_vma_is_followable(const struct ct_img_vma *v);
/* both at once, of a rank that stands still; in @written is all of a mapping that is not followed */
int ct_extents_scan_written(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct ct_vec *written,
                            struct gw_error *why);

/* follow.c */
const struct ct_snapshot *ct_follow_mappings(const struct ct_rank *r); /* of the round that is handed out */
/* was any of @v, a mapping of now, there when it was looked at? @at: cursor, 0 at first; they ascend */
bool ct_follow_has(const struct ct_rank *r, const struct ct_img_vma *v, size_t *at);
int ct_follow_last(struct ct_rank *r, struct ct_freeze_stats *st, struct gw_error *why); /* frozen: what has to go, into r->extents */

/* serve.c */
int ct_serve_choose(struct ct_rank *r, struct gw_error *why); /* frozen, r->extents are those of the last look: snap.later */
/* of @extents, all that has to go, what is in mappings of which much may come later */
int ct_serve_find_later(const struct ct_snapshot *s, const struct ct_vec *extents, struct ct_vec *later);
int ct_serve_plan(struct ct_rank *r, struct gw_error *why); /* frozen: of r->extents, take out what may come after the rank */
void ct_serve_fini(struct ct_serve *s);

/* fetch.c */
int ct_fetch_begin(struct ct_rank *r, struct gw_error *why); /* in the shell, its mappings are there: watch snap.later */
bool ct_fetch_is_later(const struct ct_fetch *f, uint64_t vaddr);
int ct_fetch_put(struct ct_fetch *f, uint64_t vaddr, const unsigned char *bytes, uint64_t pages, struct gw_error *why); /* NULL: zeroes */

/* check.c */
uint64_t ct_fnv(const void *p, size_t len);
int ct_vdso_own(uint64_t *start, uint64_t *end, uint64_t *hash); /* [vvar]..[vdso] of this process */
void ct_boot_id(char out[40]);

/* vdso.c */
/* a system call instruction in the vdso of a process, which ends at @end; 0: none. @is_own: it is known to be the one of this process */
uint64_t ct_vdso_syscall(pid_t pid, uint64_t end, bool is_own);
/* out of [@start, @end) with a thread that stands in there. @may_run: not step by step, where that can be */
int ct_vdso_leave(pid_t pid, struct ct_thread *t, uint64_t start, uint64_t end, bool may_run, struct gw_error *why);
/* where on its stack is what it returns to? @start: of the image; 0: not known */
uint64_t ct_vdso_return_slot(const struct user_regs_struct *g, uint64_t start);

/* regs.c */
void ct_regs_settle(struct ct_thread *t);              /* after the stop: what holds for both ways on */
void ct_regs_for_image(struct ct_rank *r, struct ct_thread *t, struct user_regs_struct *out);
void ct_regs_abort_rseq(pid_t pid, struct ct_thread *t, uint64_t rseq);
int ct_sigmask_block(struct ct_thread *t, struct gw_error *why);
void ct_sleep_sample(struct ct_thread *t, pid_t pid);   /* before the freeze: since when does it sleep? */
void ct_sleep_measure(struct ct_thread *t, pid_t pid);  /* right after its stop: how long has it slept? */

/* clocks.c */
uint64_t ct_clock_ns(int id);                                        /* of this process */
int64_t ct_clock_offset(const char *text, const char *name);          /* of /proc/PID/timens_offsets: name, s, ns; 0: none. Pure */
void ct_clock_offsets(int64_t *monotonic_ns, int64_t *boottime_ns);   /* of this process's own time namespace */
/* what to add to this process's clocks so that those of an arriving rank go on */
void ct_clock_choose(const struct ct_needs *n, const struct ct_img_needs *i, int64_t *monotonic_ns, int64_t *boottime_ns);
void ct_clock_wait(const struct ct_rank *r); /* before a thaw: until the rank's clocks show no less than at its freeze (rule 20) */

/* xstate.c */
void ct_xstate_layout(struct ct_img_layout *out); /* of this processor */
/** ct_xstate_convert - @from, laid out as @here, into @to, laid out as @there. -ENOTSUP: it uses what is not there. Pure */
int ct_xstate_convert(unsigned char *to, size_t to_len, const struct ct_img_layout *there, const unsigned char *from,
                      size_t from_len, const struct ct_img_layout *here, struct gw_error *why);

/* capture.c */
bool ct_is_zero_page(const unsigned char *p);
void ct_capture_undo(struct ct_rank *r); /* of a stopped one that is about to go on: nothing of ours stays in it */
size_t ct_capture_room(const struct ct_rank *r, size_t threads); /* bytes of the area that it works in, in the rank */
int ct_capture_prepare(struct ct_rank *r, struct gw_error *why); /* the rank still runs; snap.process has its vdso */
int ct_capture(struct ct_rank *r, struct ct_freeze_stats *st, struct gw_error *why);
void ct_image_begin(struct ct_rank *r, bool is_round, bool can_skip_zeroes); /* extents and meta are what it hands out */

/* plumb.c */
int ct_unread_take(struct ct_rank *r, struct gw_error *why);   /* source, frozen: copies without consuming */
int ct_unread_give(struct ct_rank *r, const struct ct_snapshot *s, struct gw_error *why);  /* destination, before ready */
int ct_rest_take(struct ct_rank *r, struct gw_error *why);

/* restore.c */
int ct_restore_run(struct ct_rank *r, struct gw_error *why);     /* what is in the table */
int ct_restore_room(struct ct_rank *r, size_t calls, size_t bytes, struct gw_error *why); /* in the table; runs it when it is full */
uint64_t ct_restore_text(struct ct_rank *r, const char *s);         /* its address in the shell */
void ct_restore_open(struct ct_rank *r, const char *path, uint32_t lowest, uint32_t to);
bool ct_restore_may_begin(const struct ct_rank *r);              /* the head is there: is nothing of it to wait for the end? */
int ct_restore_begin(struct ct_rank *r, struct gw_error *why);   /* what waits for no page; ct_restore_rest() does what is left */
int ct_restore_rest(struct ct_rank *r, struct gw_error *why);
#define CT_LEADER_CALLS 64
#define CT_LEADER_BYTES 4096
void ct_restore_leader_calls(struct ct_rank *r);                 /* queued: what the main thread does at the very end */

/* restore_threads.c */
#define CT_THREADS_AHEAD 64 /* with more threads than so many none is made beforehand */
int ct_restore_threads_ahead(struct ct_rank *r, struct gw_error *why); /* those of the hint */
int ct_restore_threads_known(struct ct_rank *r, struct gw_error *why); /* the image's head is there: who is missing, who ends. The table is empty */
/* the missing ones are made, and all but the main one do what is their own. @is_done: where not NULL, so has the main one, if that could
 * be. What was queued before runs, where there are other threads */
int ct_restore_threads(struct ct_rank *r, bool *is_done, struct gw_error *why);
void ct_restore_thread_calls(struct ct_rank *r, const struct ct_img_thread *t); /* queued: what is a thread's own */
void ct_restore_rights_calls(struct ct_rank *r);
int ct_restore_thread_set(struct ct_rank *r, size_t i, struct gw_error *why);   /* extended state, policy; but of the main one registers */

/* restore_maps.c */
int ct_restore_hints(struct ct_rank *r, const struct ct_vec *extents, struct gw_error *why);
int ct_restore_collect(struct ct_rank *r, struct gw_error *why); /* wait for what runs in the shell */
int ct_restore_maps(struct ct_rank *r, struct gw_error *why);
int ct_restore_forget(struct ct_rank *r, struct gw_error *why);  /* pages that are no more, or come later */
int ct_restore_shared(struct ct_rank *r, struct gw_error *why); /* mappings of files that the rank writes: after END */
/* what keeps its pages when a shell with mappings as @have is given those of @want, as spans */
int ct_maps_kept(const struct ct_snapshot *have, const struct ct_snapshot *want, struct ct_vec *spans);
/* a mapping @v of @want that a shell's @w of @have can become as it is, perhaps cut or longer at its end; NULL: none.
 * *at: where to begin in @want; ascends with @w */
const struct ct_img_vma *ct_map_kept(const struct ct_snapshot *have, const struct ct_img_vma *w, const struct ct_snapshot *want, size_t *at);

/* restore_fds.c */
int ct_restore_fds(struct ct_rank *r, struct gw_error *why);

/* freeze.c */
int ct_leader_stop(struct ct_rank *r, uint64_t deadline_ms, struct gw_error *why); /* of a running rank, its main thread only */
void ct_leader_go(struct ct_rank *r);
void ct_threads_detach(struct ct_rank *r, bool is_restoring);
size_t ct_threads_let_go(struct ct_rank *r); /* all are stopped; returns how many run, those that were killed are reaped */

#endif
