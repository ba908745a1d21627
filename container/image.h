/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/image.h: the image of a rank: what leaves the process when a rank moves, on the wire and on disk alike.
 *
 * A stream of sections, each a header and a payload of fixed-width little-endian fields; x86-64 only.
 *
 *   +--------+---------+-------+---------+------+-----+---------+----- - - --+-------+- - -+-------+- - -+-----+
 *   |PROCESS | STRINGS | FILES | AUXV    | VMAS | FDS | THREADS |  XSTATE .. | PAGES |     | BYTES |     | END |
 *   +--------+---------+-------+---------+------+-----+---------+----- - - --+-------+- - -+-------+- - -+-----+
 *    one      names     what is           the address  what runs              runs of       of files      totals
 *    struct   by offset open or mapped    space                               pages         that travel
 *
 * PROCESS is first, everything but PAGES and BYTES stands before PAGES, BYTES come after them, END is last. Where the
 * destination can begin with it, all that does not depend on pages comes first, and HEAD behind it; then DROPPED and
 * an empty LATER, PAGES, BYTES, END. Numbers are never reused; a reader refuses a section of a type or a version that
 * it does not know. Strings are NUL terminated and named by their offset in STRINGS, whose first byte is NUL (offset
 * 0: no string). The same format carries the blob of struct ct_needs: NEEDS, STRINGS, FILES, HANDLES, PROCESS,
 * THREADS, VMAS, EXTENTS, END; its threads (numbers only), mappings and extents are hints, with which a shell
 * prepares itself, and of PROCESS it is the registrations for memory barriers.
 *
 * Before the image of a rank that is followed while it runs come rounds, each ROUND, STRINGS, FILES, VMAS, DROPPED, PAGES,
 * ROUND_END: its mappings then, pages that are to be forgotten, and pages as they were. A page that comes again replaces
 * the one that came before; the image itself has the last word.
 */
#ifndef CT_IMAGE_H
#define CT_IMAGE_H

#include <stdint.h>

#define CT_IMAGE_MAGIC   0x67697767u /* "gwig" */
#define CT_IMAGE_VERSION 1
#define CT_PAGE          4096u

enum ct_section { /* written numbers */
	CT_SECTION_PROCESS  = 1,
	CT_SECTION_STRINGS  = 2,
	CT_SECTION_FILES    = 3,
	CT_SECTION_AUXV     = 4,
	CT_SECTION_VMAS     = 5,
	CT_SECTION_FDS      = 6,
	CT_SECTION_THREADS  = 7,
	CT_SECTION_XSTATE   = 8,  /* count x process.xstate_size bytes, in the order of THREADS */
	CT_SECTION_ACTIONS  = 9,
	CT_SECTION_SIGINFOS = 10,
	CT_SECTION_UNREAD   = 11, /* struct ct_img_unread and bytes; one packet or stretch of bytes each */
	CT_SECTION_PAGES    = 12, /* struct ct_img_pages and pages */
	CT_SECTION_END      = 13,
	CT_SECTION_NEEDS    = 14, /* first section of a needs blob */
	/* 15 was CPUID */
	CT_SECTION_EXTENTS  = 16, /* of needs: pages that will probably come */
	CT_SECTION_TIMERS   = 17, /* POSIX timers, ascending */
	CT_SECTION_TIMERFDS = 18,
	CT_SECTION_WATCHES  = 19, /* what epoll instances watch */
	CT_SECTION_BYTES    = 20, /* after PAGES: struct ct_img_bytes and bytes, of a file that travels */
	CT_SECTION_ROUND    = 21, /* first section of a round: see below */
	CT_SECTION_ROUND_END = 22,
	CT_SECTION_DROPPED  = 23, /* struct ct_img_extent: pages that came in a round and are no more */
	CT_SECTION_MEMORIES = 24, /* memory files: memfd and the like */
	CT_SECTION_LATER    = 25, /* struct ct_img_extent: pages of which those that are not in PAGES come after the rank */
	CT_SECTION_HANDLES  = 26, /* open files that are handed over; of needs too */
	CT_SECTION_LOCKS    = 27, /* that are taken again */
	CT_SECTION_POLICIES = 28, /* struct ct_img_policy: memory policies of mappings */
	CT_SECTION_SYSV     = 29, /* struct ct_img_sysv: what it uses of System V */
	CT_SECTION_HEAD     = 30, /* no payload: all has come but DROPPED and LATER, and what stands behind these */
	CT_SECTION_LAST     = CT_SECTION_HEAD
};

struct ct_img_section {
	uint32_t magic; /* CT_IMAGE_MAGIC */
	uint16_t type, version;
	uint32_t count; /* elements; of PAGES: pages */
	uint32_t reserved;
	uint64_t length; /* of the payload that follows */
};
_Static_assert(sizeof(struct ct_img_section) == 24, "wire format");

struct ct_img_limit { uint64_t cur, max; };
struct ct_img_itimer { int64_t interval_s, interval_us, value_s, value_us; };

#define CT_IMG_LIMITS 16

#define CT_IMG_EXE_MEMORY 0x80000000u

#define CT_IMG_COMPONENTS 20
struct ct_img_component { uint32_t offset, size; }; /* in XSTATE; 0: this processor has none */
struct ct_img_layout {
	uint64_t xcr0;
	struct ct_img_component components[CT_IMG_COMPONENTS];
};

struct ct_img_process {
	uint32_t ns_pid, threads, uid, gid;
	uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
	uint64_t arg_start, arg_end, env_start, env_end;
	uint64_t vdso_start, vdso_end;         /* [vvar] .. [vdso], one contiguous stretch */
	uint32_t exe_file;                     /* index in FILES, or CT_IMG_EXE_MEMORY and one in MEMORIES */
	uint32_t cwd;                          /* string */
	uint32_t umask, dumpable, no_new_privs, personality, thp_disable, subreaper;
	uint32_t pdeathsig, xstate_size;
	int32_t oom_score_adj;
	uint32_t membarrier;                   /* commands registered, a mask */
	uint64_t cap_inheritable, cap_permitted, cap_effective;
	struct ct_img_limit limits[CT_IMG_LIMITS];
	struct ct_img_itimer itimers[3];       /* REAL, VIRTUAL, PROF; what was left */
	uint64_t monotonic_ns, boottime_ns;    /* the rank's own clocks when its last thread stopped */
	uint64_t realtime_ns;                  /* CLOCK_REALTIME then */
	struct ct_img_layout layout;           /* of XSTATE */
	uint32_t locks_future, is_stopped;     /* mlockall(2): MCL_FUTURE, MCL_ONFAULT; by a signal, until SIGCONT comes */
	uint64_t numa_nodes;                   /* of the processors that it might run on */
	uint32_t coredump_filter, keep_caps, mce_kill, pad; /* of prctl(2): PR_SET_KEEPCAPS, PR_MCE_KILL_* of the main thread */
};
_Static_assert(sizeof(struct ct_img_process) == 16 + 8 * 13 + 4 * 12 + 24 + 256 + 96 + 24 + 168 + 8 + 24, "wire format");

#define CT_IMG_FILE_MAPPED 1u
#define CT_IMG_FILE_OPEN   2u
#define CT_IMG_FILE_WRITES 4u /* open for writing: size and time of change may differ at the other side */
#define CT_IMG_FILE_CWD    8u /* its working directory: of the needs only */
#define CT_IMG_FILE_DELETED 16u /* it has no name any more; @path is where it was */
#define CT_IMG_FILE_SHARED 64u  /* written through memory that is shared with whoever maps it too */
#define CT_IMG_FILE_CARRIED 32u /* it travels with the rank, as BYTES: of the image only */

struct ct_img_file {
	uint64_t dev, ino, size;     /* size: of a device its number */
	int64_t mtime_s;
	uint32_t mtime_ns, path, flags, mode, uid, gid;
};
_Static_assert(sizeof(struct ct_img_file) == 56, "wire format");

enum ct_vma_kind { CT_VMA_ANON = 1, CT_VMA_FILE = 2, CT_VMA_SHARED_FILE = 3, CT_VMA_SHARED_ANON = 4,
                   CT_VMA_MEMORY = 5, CT_VMA_SHARED_MEMORY = 6, CT_VMA_SYSV = 7 /* file: its id */ };

#define CT_VMA_GROWSDOWN 0x0001u
#define CT_VMA_NORESERVE 0x0002u
#define CT_VMA_HUGE      0x0004u
#define CT_VMA_NOHUGE    0x0008u
#define CT_VMA_DONTFORK  0x0010u
#define CT_VMA_DONTDUMP  0x0020u
#define CT_VMA_WIPEONFORK 0x0040u
#define CT_VMA_MERGEABLE 0x0080u
#define CT_VMA_RANDOM    0x0100u
#define CT_VMA_SEQUENTIAL 0x0200u
#define CT_VMA_LOCKED    0x0400u
#define CT_VMA_LAZY      0x1000u /* with LOCKED: MLOCK_ONFAULT */
#define CT_VMA_ACCOUNT   0x0800u /* was writable once: keeps it apart from its neighbours */
#define CT_VMA_HUGETLB   0x2000u /* reserved huge pages, of anonymous memory; offset: bytes of a page */

struct ct_img_vma {
	uint64_t start, end, offset;
	uint32_t prot, kind, advice, file; /* PROT_*, enum ct_vma_kind, CT_VMA_*, index in FILES or MEMORIES */
};
_Static_assert(sizeof(struct ct_img_vma) == 40, "wire format");

enum ct_fd_kind { CT_FD_FILE = 1, CT_FD_PLUMB = 2, CT_FD_PIPE = 3, CT_FD_EVENTFD = 4, CT_FD_SOCKET = 5, CT_FD_TIMER = 6,
                  CT_FD_SIGNAL = 7, CT_FD_EPOLL = 8, CT_FD_MEMORY = 9, CT_FD_PID = 10, CT_FD_HANDED = 11, CT_FD_PAIR = 12 };

struct ct_img_fd {
	uint32_t number, kind, status_flags, is_cloexec;
	union {
		uint32_t file;        /* FILE: index in FILES; MEMORY: in MEMORIES */
		uint32_t socket_type; /* SOCKET, PAIR: SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET; AF_UNIX */
		uint32_t clock;       /* TIMER: CLOCK_* */
	};
	uint32_t plumb;     /* PLUMB: enum ct_plumb; PIPE, PAIR: number of the pipe or pair, from 1 */
	uint32_t same_as;   /* index in FDS of the first descriptor of the same open file description; itself when first */
	union {
		uint32_t semaphore;  /* EVENTFD */
		uint32_t is_hung_up; /* SOCKET: its peer has closed; else it never had one */
		uint32_t end;        /* PAIR: 0 or 1 */
	};
	uint64_t offset;    /* FILE, MEMORY: position; EVENTFD: count; PIPE: capacity; SIGNAL: mask; PID: of the process;
	                     * PAIR: SO_SNDBUF, and above it SO_RCVBUF */
};
_Static_assert(sizeof(struct ct_img_fd) == 40, "wire format");

struct ct_img_memory {   /* memfd_create(2), or a file without a name, see memfile.c */
	uint64_t dev, ino, size, bytes; /* bytes: without holes */
	uint32_t name, mode, seals;     /* string, without what /proc adds; F_SEAL_* */
	uint16_t is_seen;               /* else its descriptors are closed, and what is mapped of it is all that is known */
	uint16_t is_shared;             /* it is mapped so */
};
_Static_assert(sizeof(struct ct_img_memory) == 48, "wire format");

struct ct_img_handle {   /* an open file that the destination fetches from the frozen rank; a descriptor of any kind may have one */
	uint32_t fd, what;       /* its number; string: what it is */
	uint32_t pid, pad;       /* of the rank at its source */
	uint64_t pid_start;      /* and its start time: that pid may mean another process by then */
	uint64_t dev, ino;
};
_Static_assert(sizeof(struct ct_img_handle) == 40, "wire format");

enum ct_lock_kind { CT_LOCK_FLOCK = 1, CT_LOCK_PROCESS = 2, CT_LOCK_FILE = 3 }; /* flock; fcntl: F_SETLK, F_OFD_SETLK */

struct ct_img_lock {
	uint32_t fd, kind, is_exclusive, pad; /* number of a descriptor of its file */
	uint64_t start, length;  /* 0: to the end; not of flock */
};
_Static_assert(sizeof(struct ct_img_lock) == 32, "wire format");

struct ct_img_policy {   /* mbind(2), of the mapping that begins there */
	uint64_t start, nodes;   /* of the source's host */
	uint32_t mode, pad;      /* MPOL_* */
};
_Static_assert(sizeof(struct ct_img_policy) == 24, "wire format");

enum ct_sysv_kind { CT_SYSV_SET = 1, CT_SYSV_QUEUE = 2, CT_SYSV_MEMORY = 3, /* used, by id */
                    CT_SYSV_ADJUST = 4, CT_SYSV_NAMESPACE = 5 };            /* SEM_UNDO; num: of the IPC namespace */

struct ct_img_sysv {
	uint32_t kind, num;      /* num: of the semaphore */
	int32_t id, adjust;
};
_Static_assert(sizeof(struct ct_img_sysv) == 16, "wire format");

struct ct_img_timer {    /* timer_create(2) */
	uint32_t id, signal, notify, ns_tid; /* notify: SIGEV_*; ns_tid: of SIGEV_THREAD_ID */
	uint64_t value;          /* sigev_value */
	int32_t clock;
	uint32_t is_armed;
	int64_t expiry_ns;       /* by the rank's CLOCK_MONOTONIC; of a clock of processor time: what is left */
	int64_t interval_ns;
};
_Static_assert(sizeof(struct ct_img_timer) == 48, "wire format");

struct ct_img_timerfd {
	uint32_t fd;             /* index in FDS */
	int32_t clock;
	uint32_t flags, is_armed; /* flags: of timerfd_settime(2) */
	uint64_t ticks;          /* run out and not read yet */
	int64_t expiry_ns;       /* by the rank's CLOCK_MONOTONIC; by CLOCK_REALTIME when set so (TFD_TIMER_ABSTIME) */
	int64_t interval_ns;
};
_Static_assert(sizeof(struct ct_img_timerfd) == 40, "wire format");

struct ct_img_watch {    /* epoll_ctl(2) */
	uint32_t fd, target;     /* index in FDS of the epoll instance; number of what it watches */
	uint32_t events, pad;
	uint64_t data;
};
_Static_assert(sizeof(struct ct_img_watch) == 24, "wire format");

#define CT_IMG_CPUS 1024 /* as many as a cpu_set_t has */
struct ct_img_thread {
	uint32_t ns_tid, policy;
	int32_t nice;
	uint32_t rt_priority;
	uint64_t regs[27];  /* struct user_regs_struct; ready to run: interrupted calls are set to be made again */
	uint64_t sigmask;
	uint64_t altstack, altstack_size;
	uint32_t altstack_flags, rseq_len, rseq_signature, ioprio; /* ioprio_set(2) */
	uint64_t robust_list, robust_len, clear_tid, rseq, timerslack;
	uint64_t numa_nodes; /* set_mempolicy(2); of the source's host */
	uint32_t numa_mode, pad;
	uint64_t cpus[CT_IMG_CPUS / 64]; /* where it may be, by position in its place (affinity.c); none: everywhere there */
	char comm[16];
};
_Static_assert(sizeof(struct ct_img_thread) == 16 + 216 + 8 + 16 + 16 + 40 + 16 + CT_IMG_CPUS / 8 + 16, "wire format");

struct ct_img_action { uint64_t sig, handler, flags, restorer, mask; };
struct ct_img_siginfo {
	uint32_t ns_tid; /* 0: pending for the whole process */
	uint32_t pad;
	uint8_t info[128];
};
_Static_assert(sizeof(struct ct_img_siginfo) == 136, "wire format");

struct ct_img_unread {
	uint32_t plumb;  /* enum ct_plumb, or 0 */
	uint32_t pipe;   /* number of a pipe of its own, or of a pair and CT_UNREAD_*; or 0 */
	uint64_t length; /* bytes that follow */
};

#define CT_UNREAD_PAIR 0x80000000u
#define CT_UNREAD_END  0x40000000u /* it waits at end 1 */
#define CT_UNREAD_MASK 0x3fffffffu

struct ct_img_pages {
	uint64_t vaddr; /* page aligned */
	uint32_t pages, flags;
};
_Static_assert(sizeof(struct ct_img_pages) == 16, "wire format");
#define CT_IMG_PAGES_ABSENT 2u /* nor here: they were never there */
#define CT_IMG_PAGES_ZERO 1u /* of pages that come after the rank, which have no section around them: no bytes follow */

struct ct_img_bytes {
	uint32_t file, is_memory; /* index in FILES; 1: in MEMORIES */
	uint64_t offset;    /* what is in no section is a hole */
};
_Static_assert(sizeof(struct ct_img_bytes) == 16, "wire format");

struct ct_img_end { uint64_t pages_sent, pages_zero; }; /* of ROUND_END too */

struct ct_img_round {
	uint32_t number, pad; /* from 0 */
	uint64_t vdso_start, vdso_end;
};
_Static_assert(sizeof(struct ct_img_round) == 24, "wire format");

struct ct_img_needs {
	uint32_t ns_pid, threads, uid, gid;
	uint64_t vdso_start, vdso_end, vdso_hash;
	uint64_t xfeatures;
	uint32_t xstate_size, highest_fd;
	uint64_t hole;               /* address of CT_HOLE_SIZE bytes that the rank does not use */
	int64_t monotonic_offset_ns, boottime_offset_ns; /* of its time namespace, from the kernel's own clocks */
	uint8_t boot_id[40];         /* text; the same kernel has the same clocks */
	uint64_t highest_address, commit_bytes;  /* of its mappings; of those that may be written and are its own */
	uint32_t highest_tid, open_files;
	uint32_t features, is_baseline; /* string: names of container/cpu.h; 1: it was told to keep to these */
	struct ct_img_limit limits[CT_IMG_LIMITS];
	uint64_t memory_bytes; /* of its memory files */
	uint64_t is_followed;  /* 1: its pages come in rounds, and need not be made ahead */
};
_Static_assert(sizeof(struct ct_img_needs) == 16 + 32 + 8 + 24 + 40 + 32 + 256 + 16, "wire format");
#define CT_HOLE_SIZE (1u << 20)

struct ct_img_extent { uint64_t start, end; };

/*
 * Not of the image: what two daemons say of files in PREPARE (container/files.h), beside the needs, whose FILES they mean.
 *
 *   question   | struct ct_img_question | marks x struct ct_img_mark | files x uint32_t: its mark, from 1; 0: none |
 *   answer     | struct ct_img_answer   | claims x struct ct_img_claim |
 */
#define CT_IMG_FILES_VERSION 1

struct ct_img_question {
	uint32_t version, flags, marks, files; /* CT_IMG_ASK_* */
	char host[64];       /* where the rank is; NUL terminated */
};
#define CT_IMG_ASK_FAR   1u /* the destination is another host */
#define CT_IMG_ASK_CARRY 2u /* what is not there may travel */
struct ct_img_mark {
	uint32_t file, prefix; /* it lies in the directory that is the first @prefix bytes of that file's path */
	uint64_t ino;
	uint8_t nonce[16];     /* its name: CT_MARK_NAME and these in hex */
};
struct ct_img_answer {
	uint32_t version, claims;
	char host[64];
};
struct ct_img_claim {      /* this file is not seen to be the same */
	uint32_t file;
	uint32_t is_carried; /* it shall travel; else @hash are its contents here */
	uint64_t hash[2];    /* XXH3, 128 bits, low half first */
};
_Static_assert(sizeof(struct ct_img_question) == 80 && sizeof(struct ct_img_mark) == 32 &&
               sizeof(struct ct_img_answer) == 72 && sizeof(struct ct_img_claim) == 24, "wire format");
#define CT_MARK_NAME ".godwit-"

#endif
