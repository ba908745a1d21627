/* SPDX-License-Identifier: BSD-2-Clause */
/* What this host lets this user do, found out by doing it; and this process's own vdso. */
#include "container/probe.h"

#include "container/rank.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

int ct_vdso_own(uint64_t *start, uint64_t *end, uint64_t *hash)
{
	static uint64_t lo, hi, sum; /* a process has one vdso */

	if (!lo) {
		struct ct_maps m = { 0 };
		int rc = ct_maps_read(&m, getpid(), false);

		for CT_EACH(const struct ct_map, e, &m.list) {
			if (rc == 0 && strncmp(e->name, "[v", 2) == 0 && strcmp(e->name, "[vsyscall]") != 0) {
				lo = lo ? lo : e->start;
				hi = e->end;
				if (strcmp(e->name, "[vdso]") == 0)
					sum = ct_fnv((const void *)(uintptr_t)e->start, e->end - e->start);
			}
		}
		ct_maps_fini(&m);
		if (!lo)
			return rc < 0 ? rc : -ENOENT;
	}
	*start = lo;
	*end = hi;
	*hash = sum;
	return 0;
}

/* ---- trials: 0, or the negative errno of what was denied ----------------------------------------------------------------- */

static int wait_end(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

enum { HAS_PIDNS = 1, HAS_TIMENS = 2, HAS_SET_TID = 4, HAS_MOUNT = 8 };

/* In a new user and PID namespace (or only the latter, as root): what else works? A mask; or -errno */
static int try_namespaces(bool is_user)
{
	struct ct_clone3_args args = { .flags = CLONE_NEWPID | CLONE_NEWNS | (is_user ? CLONE_NEWUSER : 0), .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0) {
		struct ct_clone3_args child = { .exit_signal = SIGCHLD };
		pid_t tid = 12345;
		int mask = HAS_PIDNS;
		long got;

		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 || errno == EINVAL) /* a chroot */
			mask |= HAS_MOUNT;
		if (unshare(CLONE_NEWTIME) == 0)
			mask |= HAS_TIMENS;
		child.set_tid = (uint64_t)(uintptr_t)&tid;
		child.set_tid_size = 1;
		got = syscall(SYS_clone3, &child, sizeof(child));
		if (got == 0)
			_exit(0);
		if (got == tid)
			mask |= HAS_SET_TID;
		_exit(mask);
	}
	return pid < 0 ? -errno : wait_end((pid_t)pid);
}

static int try_clone3(void)
{
	return syscall(SYS_clone3, NULL, 0) < 0 && errno != EINVAL ? -errno : 0;
}

static int try_scan(void)
{
	struct { uint64_t size, flags, start, end, walk_end, vec, vec_len, max, inverted, mask, anyof, ret; } arg = { .size = 96 };
	static uint64_t page[1024] __attribute__((aligned(4096)));
	uint64_t region[3] = { 0 };
	gw_autoclose int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int n;

	if (fd < 0)
		return -errno;
	*(volatile uint64_t *)page = 1;
	arg.start = (uint64_t)(uintptr_t)page;
	arg.end = arg.start + sizeof(page);
	arg.vec = (uint64_t)(uintptr_t)region;
	arg.vec_len = 1;
	arg.anyof = arg.ret = 8; /* present */
	n = (int)syscall(SYS_ioctl, fd, 0xc0606610ul, &arg);
	return n < 0 ? -errno : n == 1 && region[0] == arg.start ? 0 : -EIO;
}

/* @features of the userfaultfd's API must be there; @flags: of the system call */
static int try_userfault(int flags, uint64_t features)
{
	struct { uint64_t api, features, ioctls; } api = { .api = 0xaa, .features = features };
	gw_autoclose int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);

	if (fd < 0)
		return -errno;
	if (syscall(SYS_ioctl, fd, 0xc018aa3ful, &api) < 0)
		return -errno;
	return (api.features & features) == features ? 0 : -ENOTSUP;
}

#define UFFD_USER_ONLY 1
#define UFFD_WP_ASYNC  (1u << 15)
#define UFFD_EVENTS    (1u << 1 | 1u << 2 | 1u << 3 | 1u << 6) /* fork, mremap, madvise, munmap */

/* Writing to clear_refs succeeds where nothing is tracked: only its effect tells. In a child, whose pages it protects */
static int try_soft_dirty(void)
{
	static volatile uint64_t page[512] __attribute__((aligned(4096)));
	pid_t pid = fork();
	int code;

	if (pid == 0) {
		off_t at = (off_t)((uintptr_t)page / 4096 * 8);
		int clear = open("/proc/self/clear_refs", O_WRONLY), map = open("/proc/self/pagemap", O_RDONLY);
		uint64_t before = 0, after = 0;

		page[0] = 1;
		if (clear < 0 || map < 0 || write(clear, "4", 1) != 1 || pread(map, &before, 8, at) != 8)
			_exit(1);
		page[0] = 2;
		if (pread(map, &after, 8, at) != 8)
			_exit(1);
		_exit(!(before >> 55 & 1) && (after >> 55 & 1) ? 0 : 1);
	}
	if (pid < 0)
		return -errno;
	code = wait_end(pid);
	return code == 0 ? 0 : -ENOTSUP;
}

static uint64_t seen_by_child = 42;

static int try_ptrace(pid_t pid)
{
	uint64_t regs[64];
	struct iovec v = { regs, sizeof(regs) };
	int status, rc = 0;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
		return -errno;
	if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
		rc = -errno; /* it is ours, and goes with its pipe */
	else if (ct_wait_stop(pid, &status) < 0 || ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &v) < 0)
		rc = -EIO;
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return rc;
}

static int try_memory(pid_t pid, bool is_file)
{
	uint64_t value = 0, other = 43;
	struct iovec here = { &value, 8 }, there = { &seen_by_child, 8 }, from = { &other, 8 };
	char path[64];

	if (!is_file)
		return process_vm_readv(pid, &here, 1, &there, 1, 0) == 8 && process_vm_writev(pid, &from, 1, &there, 1, 0) == 8 ? 0 :
		       errno ? -errno : -EIO;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	gw_autoclose int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 || pread(fd, &value, 8, (off_t)(uintptr_t)&seen_by_child) != 8 ? -errno : 0;
}

static int try_pidfd(pid_t pid, int number)
{
	gw_autoclose int fd = (int)syscall(SYS_pidfd_open, pid, 0), copy = -1;

	if (fd < 0)
		return -errno;
	copy = (int)syscall(SYS_pidfd_getfd, fd, number, 0);
	return copy < 0 ? -errno : 0;
}

static int try_kcmp(pid_t pid, int number)
{
	return syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, number, number) < 0 ? -errno : 0;
}

static int try_membarrier(void)
{
	long can = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

	return can < 0 ? -errno : can & MEMBARRIER_CMD_PRIVATE_EXPEDITED ? 0 : -ENOTSUP;
}

static int try_memfd(void)
{
	gw_autoclose int fd = memfd_create("godwit-trial", MFD_CLOEXEC);

	return fd < 0 ? -errno : 0;
}

static int try_rseq(void)
{
	return syscall(SYS_rseq, NULL, 0, 0, 0) < 0 && errno != EINVAL && errno != EBUSY && errno != EFAULT ? -errno : 0;
}

static int try_timers(void)
{
	return access("/proc/self/timers", R_OK) < 0 ? -errno : 0;
}

static int try_mm_map(void)
{
	unsigned size = 0;

	return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) < 0 ? -errno : 0;
}

/* Another process of ours, which waits: it can be looked at. Ends with @pipe's writing end */
static void try_on_child(struct ct_trials *t)
{
	int ends[2], rc = pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0;
	pid_t pid = rc < 0 ? -1 : fork();
	char byte;

	if (pid == 0) {
		close(ends[1]);
		prctl(PR_SET_DUMPABLE, 1);
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	if (pid < 0) {
		rc = rc < 0 ? rc : -errno;
		t->ptrace = t->vm = t->mem_file = t->pidfd = t->kcmp = rc;
		return;
	}
	t->ptrace = try_ptrace(pid);
	t->vm = try_memory(pid, false);
	t->mem_file = try_memory(pid, true);
	t->pidfd = try_pidfd(pid, ends[0]);
	t->kcmp = try_kcmp(pid, ends[0]);
	close(ends[1]);
	wait_end(pid);
	close(ends[0]);
}

const struct ct_trials *ct_host_try(void)
{
	static struct ct_trials t; /* of the host and the user, which do not change while we run */
	static bool is_known;
	int as_user, best;

	if (is_known)
		return &t;
	as_user = try_namespaces(true);
	best = geteuid() == 0 ? try_namespaces(false) : as_user;
	if (best < 0)
		best = as_user;
	t.userns = as_user < 0 ? as_user : 0;
	t.namespaces = best < 0 ? best : best & HAS_MOUNT ? 0 : -EPERM;
	t.timens = best > 0 && (best & HAS_TIMENS) ? 0 : -EPERM;
	t.set_tid = best > 0 && (best & HAS_SET_TID) ? 0 : -EPERM; /* as PR_SET_MM_MAP: CAP_CHECKPOINT_RESTORE */
	t.clone3 = try_clone3();
	try_on_child(&t);
	t.pagemap_scan = try_scan();
	t.wp_async = try_userfault(UFFD_USER_ONLY, UFFD_WP_ASYNC);
	t.userfault = try_userfault(UFFD_USER_ONLY, 0);
	t.userfault_full = try_userfault(0, 0);
	t.userfault_events = try_userfault(UFFD_USER_ONLY, UFFD_EVENTS);
	if (t.userfault_full < 0 && access("/dev/userfaultfd", R_OK | W_OK) == 0)
		t.userfault_full = 0;
	t.soft_dirty = try_soft_dirty();
	t.membarrier = try_membarrier();
	t.memfd = try_memfd();
	t.rseq = try_rseq();
	t.timers = try_timers();
	t.mm_map = try_mm_map();
	is_known = true;
	return &t;
}

/* ---- what it means ----------------------------------------------------------------------------------------------------- */

static void line(struct ct_host_caps *c, bool has, const char *what)
{
	size_t len = strlen(c->text);

	if (!has)
		snprintf(c->text + len, sizeof(c->text) - len, "%s\n", what);
}

int ct_host_probe(struct ct_host_caps *out)
{
	const struct ct_trials *t = ct_host_try();

	*out = (struct ct_host_caps){
		.has_userns = t->userns == 0, .has_pidns = t->namespaces == 0, .has_timens = t->timens == 0,
		.has_set_tid = t->set_tid == 0, .has_exe_map = t->set_tid == 0 && t->mm_map == 0,
		.has_pagemap_scan = t->pagemap_scan == 0, .has_wp_async = t->wp_async == 0 && t->pagemap_scan == 0 && t->pidfd == 0,
		.can_move = ct_trials_can_move(t),
		.can_fetch = ct_trials_can_move(t) && t->userfault_full == 0 && t->userfault_events == 0,
	};
	line(out, out->has_pidns, "no PID and mount namespaces: ranks run without containers and cannot move");
	line(out, out->has_set_tid, "thread ids cannot be chosen: no rank can arrive here");
	line(out, t->ptrace == 0, "ptrace is denied: ranks cannot be stopped, and cannot move");
	line(out, t->pidfd == 0, "descriptors cannot be fetched (pidfd_getfd): ranks cannot move");
	line(out, out->has_timens, "no time namespaces: a rank's monotonic clock would jump between hosts");
	return 0;
}
