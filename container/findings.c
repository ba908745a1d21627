/* SPDX-License-Identifier: BSD-2-Clause */
/* What the trials of this host mean for running and for moving ranks, and how what is missing is mended. */
#include "container/probe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct list { struct ct_finding *at; size_t n, cap; };

/* One finding: @fine, or, when @code is an error, @lack with its name in front, and @mend */
static void say(struct list *l, const char *name, int code, enum ct_verdict bad, const char *fine, const char *lack, const char *mend)
{
	struct ct_finding *f = &l->at[l->n];

	if (l->n == l->cap)
		return;
	l->n++;
	*f = (struct ct_finding){ .name = name, .verdict = code == 0 ? CT_FINE : bad };
	if (code == 0)
		snprintf(f->what, sizeof(f->what), "%s", fine);
	else
		snprintf(f->what, sizeof(f->what), "%s (%s)", lack, code == -ENOSYS ? "not in this kernel" : strerror(-code));
	snprintf(f->mend, sizeof(f->mend), "%s", code == 0 ? "" : mend);
}

/* A number of a file in /proc/sys; -1 when there is none */
static long setting(const char *name)
{
	char path[128], text[32];
	gw_autoclose int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

#define FILTER "a seccomp filter or an older kernel denies it; in a container engine: --security-opt seccomp=unconfined"

static const char *mend_namespaces(const struct ct_trials *t)
{
	if (t->clone3 == -EPERM)
		return "a seccomp filter denies clone3; renew the container engine, or --security-opt seccomp=unconfined";
	if (t->clone3 == -ENOSYS)
		return "clone3 is needed: Linux 5.5, and no seccomp filter that hides it";
	if (setting("user/max_user_namespaces") == 0)
		return "sysctl -w user.max_user_namespaces=15000";
	if (setting("kernel/unprivileged_userns_clone") == 0)
		return "sysctl -w kernel.unprivileged_userns_clone=1";
	if (setting("kernel/apparmor_restrict_unprivileged_userns") == 1)
		return "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
	if (setting("user/max_pid_namespaces") == 0 || setting("user/max_mnt_namespaces") == 0)
		return "sysctl -w user.max_pid_namespaces=15000 user.max_mnt_namespaces=15000";
	return "in a container engine: --security-opt seccomp=unconfined, and --security-opt apparmor=unconfined where it confines";
}

static const char *mend_ptrace(void)
{
	switch (setting("kernel/yama/ptrace_scope")) {
	case 2:
		return "sysctl -w kernel.yama.ptrace_scope=1";
	case 3:
		return "take kernel.yama.ptrace_scope=3 out of /etc/sysctl.d and start the host again: it cannot be lowered";
	default:
		return "a seccomp filter denies it; in a container engine: --cap-add SYS_PTRACE";
	}
}

size_t ct_host_findings(struct ct_finding *out, size_t cap)
{
	const struct ct_trials *t = ct_host_try();
	struct list l = { out, 0, cap };
	bool can_move = ct_trials_can_move(t);
	bool can_follow = t->wp_async == 0 && t->pagemap_scan == 0, can_fetch = t->userfault_full == 0 && t->userfault_events == 0;

	say(&l, "namespaces", t->namespaces, CT_DEGRADED, geteuid() == 0 ? "PID and mount" : "user, PID and mount",
	    "cannot be made: ranks run without containers, and cannot move", mend_namespaces(t));
	if (t->namespaces == 0) {
		say(&l, "thread ids", t->set_tid, CT_DEGRADED, "can be chosen (clone3 set_tid)",
		    "cannot be chosen: no rank can arrive here", "Linux 5.9 lets ordinary users choose them in their own namespace, 5.5 root");
		say(&l, "time namespaces", t->timens, CT_DEGRADED, "monotonic clocks go on after a move between hosts",
		    "cannot be made: ranks move on this host, and are refused from other hosts", "Linux 5.6 with CONFIG_TIME_NS; sysctl -w "
		    "user.max_time_namespaces=15000");
	}
	if (t->clone3 == -EPERM)
		say(&l, "clone3", t->clone3, CT_DEGRADED, "", "denied: ranks get a filter that hides it, so that threads work; setuid "
		    "programs have no effect in them", "renew the container engine, or --security-opt seccomp=unconfined");
	say(&l, "ptrace", t->ptrace, CT_DEGRADED, "ranks can be stopped", "denied: ranks run, and cannot move", mend_ptrace());
	say(&l, "process_vm_*", t->vm, CT_DEGRADED, "memory of ranks is read and written at full speed",
	    t->mem_file == 0 ? "denied: moves read and write through /proc/PID/mem, slower" : "and /proc/PID/mem denied: ranks cannot move",
	    t->vm == -ENOSYS ? FILTER : mend_ptrace());
	say(&l, "pidfd_getfd", t->pidfd, CT_DEGRADED, "descriptors of ranks can be fetched", "denied: ranks run, and cannot move",
	    FILTER " (Linux 5.6)");
	say(&l, "kcmp", t->kcmp, CT_DEGRADED, "descriptors of ranks can be compared", "denied: descriptors that share a file position "
	    "may lose that when moved", FILTER);
	say(&l, "PAGEMAP_SCAN", t->pagemap_scan, CT_DEGRADED, "pages in use are found at once",
	    "denied: moves read /proc/PID/pagemap, slower; no pre-copy", "Linux 6.7; or a seccomp filter denies this ioctl");
	say(&l, "dirty tracking", t->wp_async, CT_DEGRADED, "userfaultfd, asynchronous write protection",
	    "no asynchronous write protection: no pre-copy", t->userfault == 0 ? "Linux 6.7" : "Linux 6.7, and no seccomp filter that "
	    "denies userfaultfd");
	if (t->wp_async < 0)
		say(&l, "soft-dirty", 0, CT_FINE, t->soft_dirty == 0 ? "works here, and is not used yet" : "has no effect here", "", "");
	say(&l, "demand paging", t->userfault, CT_DEGRADED, can_fetch ? "userfaultfd, of the kernel too, and of what is forked" :
	    t->userfault_full == 0 ? "userfaultfd, but not of what is forked: no rank can run here before its memory is there (post-copy); that needs "
	    "CAP_SYS_PTRACE" : "userfaultfd, of user code only: no rank can run here before its memory is there (post-copy); that needs root, or "
	    "CAP_SYS_PTRACE and a /dev/userfaultfd that may be opened, or vm.unprivileged_userfaultfd=1", "no userfaultfd: no rank can run here before its memory is there (post-copy)", FILTER);
	say(&l, "membarrier", t->membarrier, CT_DEGRADED, "MPI calls pay no fence", "denied: each MPI call pays a fence, some "
	    "nanoseconds", FILTER);
	say(&l, "memfd_create", t->memfd, CT_DEGRADED, "shared memory has no file", "denied: shared memory is a deleted file in "
	    "/dev/shm or TMPDIR, which must have room", FILTER);
	say(&l, "rseq", t->rseq, CT_DEGRADED, "restartable sequences of libraries", "denied: libraries do without; ranks that use them "
	    "cannot arrive", FILTER " (Linux 4.18)");
	say(&l, "checkpoint/restore", t->timers < 0 ? t->timers : t->mm_map, CT_DEGRADED, "timers and the memory descriptor can be carried",
	    "parts are missing: ranks with POSIX timers cannot move", "a kernel with CONFIG_CHECKPOINT_RESTORE=y, as those of "
	    "all distributions");
	if (l.n < l.cap) {
		struct ct_finding *f = &l.at[l.n++];

		*f = (struct ct_finding){ .name = "moves", .verdict = can_move ? CT_FINE : CT_DEGRADED };
		snprintf(f->what, sizeof(f->what), "%s", !can_move ? "none: ranks start here and stay, for the reasons above" :
		         can_follow && can_fetch ? "stop-and-copy, pre-copy, post-copy, hybrid" : can_follow ? "stop-and-copy, pre-copy" :
		         can_fetch ? "stop-and-copy, post-copy" : "stop-and-copy");
	}
	return l.n;
}
