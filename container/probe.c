/* SPDX-License-Identifier: BSD-2-Clause */
/* What this host lets this user do, found out by doing it; and this process's own vdso. */
#include "container/rank.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
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

struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

enum { HAS_PIDNS = 1, HAS_TIMENS = 2, HAS_SET_TID = 4, HAS_NOTHING = 64 };

/* in a new user and PID namespace (or only the latter, as root): what else works? Ends with a mask as its exit code */
static int try_namespaces(bool is_user)
{
	struct clone3_args args = { .flags = CLONE_NEWPID | CLONE_NEWNS | (is_user ? CLONE_NEWUSER : 0), .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	int status;

	if (pid == 0) {
		struct clone3_args child = { .exit_signal = SIGCHLD };
		pid_t tid = 12345;
		int mask = HAS_PIDNS;
		long got;

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
	if (pid < 0)
		return HAS_NOTHING;
	while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : HAS_NOTHING;
}

static bool try_scan(void)
{
	struct { uint64_t size, flags, start, end, walk_end, vec, vec_len, max, inverted, mask, anyof, ret; } arg = { .size = 96 };
	static uint64_t page[1024] __attribute__((aligned(4096)));
	uint64_t region[3] = { 0 };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), n;

	if (fd < 0)
		return false;
	*(volatile uint64_t *)page = 1;
	arg.start = (uint64_t)(uintptr_t)page;
	arg.end = arg.start + sizeof(page);
	arg.vec = (uint64_t)(uintptr_t)region;
	arg.vec_len = 1;
	arg.anyof = arg.ret = 8; /* present */
	n = (int)syscall(SYS_ioctl, fd, 0xc0606610ul, &arg);
	close(fd);
	return n == 1 && region[0] == arg.start;
}

static bool try_wp_async(void)
{
	struct { uint64_t api, features, ioctls; } api = { .api = 0xaa, .features = 1u << 15 }; /* WP_ASYNC */
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
	bool is_there;

	if (fd < 0)
		return false;
	is_there = syscall(SYS_ioctl, fd, 0xc018aa3ful, &api) == 0 && (api.features & 1u << 15);
	close(fd);
	return is_there;
}

static void line(struct ct_host_caps *c, bool has, const char *what)
{
	size_t len = strlen(c->text);

	if (!has)
		snprintf(c->text + len, sizeof(c->text) - len, "%s\n", what);
}

int ct_host_probe(struct ct_host_caps *out)
{
	static struct ct_host_caps known; /* of the host and the user, which do not change while we run */
	static bool is_known;

	if (!is_known) {
		int as_root = geteuid() == 0 ? try_namespaces(false) : HAS_NOTHING, as_user = try_namespaces(true);
		int best = as_root & HAS_PIDNS ? as_root : as_user;

		known.has_userns = (as_user & HAS_PIDNS) != 0;
		known.has_pidns = (best & HAS_PIDNS) != 0;
		known.has_timens = (best & HAS_TIMENS) != 0;
		known.has_set_tid = known.has_exe_map = (best & HAS_SET_TID) != 0; /* both are CAP_CHECKPOINT_RESTORE */
		known.has_pagemap_scan = try_scan();
		known.has_wp_async = try_wp_async();
		line(&known, known.has_pidns, "no PID namespaces: ranks cannot start in containers here");
		line(&known, known.has_userns || geteuid() == 0, "no user namespaces: only root can run ranks here");
		line(&known, known.has_timens, "no time namespaces: a rank's monotonic clock would jump between hosts");
		line(&known, known.has_set_tid, "thread ids cannot be chosen: ranks cannot be restored here");
		line(&known, known.has_pagemap_scan, "no PAGEMAP_SCAN (Linux 6.7): pages in use are found more slowly, and no pre-copy");
		line(&known, known.has_wp_async, "no asynchronous write protection: no pre-copy, only stop-and-copy");
		is_known = true;
	}
	*out = known;
	return 0;
}
