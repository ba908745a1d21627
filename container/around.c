/* SPDX-License-Identifier: BSD-2-Clause */
/* What is around a rank: other processes, debuggers, rights, namespaces, timers. */
#include "container/rank.h"

#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- other processes ------------------------------------------------------------------------------------------- */

static void comm_of(pid_t pid, char *comm, size_t cap)
{
	if (ct_proc_read(pid, "comm", comm, cap) < 0)
		snprintf(comm, cap, "?");
	comm[strcspn(comm, "\n")] = '\0';
}

/* The pid on this host of process @id of the container, looked for among the descendants of @parent; 0: not found. */
static pid_t host_pid_of(pid_t parent, int id, int depth)
{
	struct ct_vec tids;
	pid_t found = 0;

	ct_vec_init(&tids, sizeof(int));
	if (ct_proc_ids(parent, "task", &tids) < 0)
		tids.n = 0;
	for (size_t i = 0; !found && i < tids.n; i++) {
		char name[64], text[4096], status[4096];

		snprintf(name, sizeof(name), "task/%d/children", *CT_AT(int, &tids, i));
		if (ct_proc_read(parent, name, text, sizeof(text)) <= 0)
			continue;
		for (char *p = text, *end; !found && *p; p = end) {
			pid_t child = (pid_t)strtol(p, &end, 10);
			const char *ids;
			size_t len;

			if (end == p)
				break;
			ids = ct_proc_read(child, "status", status, sizeof(status)) > 0 ? ct_proc_field(status, "NSpid:") : NULL;
			len = ids ? strcspn(ids, "\n") : 0;
			while (len && ids[len - 1] >= '0' && ids[len - 1] <= '9')
				len--;
			if (ids && atoi(ids + len) == id)
				found = child;
			else if (depth < 8)
				found = host_pid_of(child, id, depth + 1);
		}
	}
	ct_vec_fini(&tids);
	return found;
}

/* "pid 712: sleep 30"; false when it has ended meanwhile */
static bool other_text(struct ct_rank *r, int id, char *text, size_t cap, long long *number)
{
	char name[64], words[128], status[4096];
	pid_t host;
	int len;

	snprintf(name, sizeof(name), "root/proc/%d/status", id);
	if (ct_proc_read(r->init_pid, name, status, sizeof(status)) <= 0)
		return false;
	snprintf(name, sizeof(name), "root/proc/%d/cmdline", id);
	len = ct_proc_read(r->init_pid, name, words, sizeof(words));
	for (int i = 0; i < len; i++)
		if (words[i] == '\0')
			words[i] = i + 1 < len ? ' ' : '\0';
	if (len <= 0) { /* it has ended, and the rank has not waited for it */
		const char *f = ct_proc_field(status, "Name:");

		snprintf(words, sizeof(words), "%.*s, ended and not waited for", f ? (int)strcspn(f, "\n") : 1, f ? f : "?");
	}
	host = host_pid_of(r->init_pid, id, 0);
	*number = host ? host : id;
	snprintf(text, cap, "pid %lld%s: %s", *number, host ? "" : " of the container", words);
	return true;
}

int ct_others_check(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec ids;
	struct stat here, there;
	char path[64];
	int rc;

	if (!r->has_own_proc) {
		snprintf(path, sizeof(path), "/proc/%d/root/proc", (int)r->init_pid);
		if (stat("/proc", &here) < 0 || stat(path, &there) < 0 || here.st_dev == there.st_dev)
			return 0; /* it has no /proc of its own, see ct_init_main; its children cannot be told */
		r->has_own_proc = true;
	}
	ct_vec_init(&ids, sizeof(int));
	rc = ct_proc_pids(r->init_pid, "root/proc", &ids);
	if (rc < 0)
		gw_fail(why, rc, "cannot list the processes of the container: %s", strerror(-rc));
	for (size_t i = 0; rc == 0 && i < ids.n; i++) {
		int id = *CT_AT(int, &ids, i);
		long long number;
		char text[256];

		if (id != 1 && id != r->ns_pid && other_text(r, id, text, sizeof(text), &number))
			rc = ct_hold(r, why, CT_HOLD_PROCESS, number, "it has another process in its container (%s); let it end, or "
			             "keep the rank with 'godwit pin'", text);
	}
	ct_vec_fini(&ids);
	return rc;
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

static int tracer_check(struct ct_rank *r, const char *status, pid_t *seen, struct gw_error *why)
{
	const char *f = ct_proc_field(status, "TracerPid:");
	pid_t tracer = f ? atoi(f) : 0;
	char comm[64];

	if (!tracer || tracer == *seen || r->state != CT_RUNNING)
		return 0;
	*seen = tracer;
	comm_of(tracer, comm, sizeof(comm));
	return ct_hold(r, why, CT_HOLD_DEBUGGER, tracer, "it is being traced by pid %d (%s); detach that debugger first",
	               (int)tracer, comm);
}

static bool is_field_equal(const char *a, const char *b, const char *key)
{
	const char *x = ct_proc_field(a, key), *y = ct_proc_field(b, key);
	size_t len;

	if (!x || !y)
		return x == y;
	len = strcspn(x, "\n");
	return len == strcspn(y, "\n") && memcmp(x, y, len) == 0;
}

/* It ends just now, and has given back what it shared. @name: of its status */
static bool thread_is_ending(const struct ct_rank *r, const char *name)
{
	char text[8192];
	const char *field = ct_proc_read(r->pid, name, text, sizeof(text)) > 0 ? ct_proc_field(text, "FDSize:") : NULL;

	return !field || atoi(field) == 0;
}

/* A thread that shares less with the others than threads do: a move would make it like the others. */
static int thread_check(struct ct_rank *r, const char *leader, pid_t tid, pid_t *tracer, struct gw_error *why)
{
	static const char *const rights[] = { "Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
		"NoNewPrivs:", "Seccomp:" };
	char name[64], text[8192];
	int rc;

	snprintf(name, sizeof(name), "task/%d/status", (int)tid);
	if (ct_proc_read(r->pid, name, text, sizeof(text)) <= 0)
		return 0; /* it has just ended */
	rc = tracer_check(r, text, tracer, why);
	if (rc == 0 && syscall(SYS_kcmp, r->pid, tid, KCMP_FILES, 0, 0) > 0 && !thread_is_ending(r, name))
		rc = ct_hold(r, why, CT_HOLD_THREAD, tid, "thread %d has descriptors of its own (unshare), which cannot move; end "
		             "it, or keep the rank with 'godwit pin'", (int)tid);
	if (rc == 0 && syscall(SYS_kcmp, r->pid, tid, KCMP_FS, 0, 0) > 0 && !thread_is_ending(r, name))
		rc = ct_hold(r, why, CT_HOLD_THREAD, tid, "thread %d has a working directory of its own (unshare), which cannot "
		             "move; end it, or keep the rank with 'godwit pin'", (int)tid);
	for (size_t i = 0; rc == 0 && i < GW_ARRAY_LEN(rights); i++)
		if (!is_field_equal(leader, text, rights[i])) {
			rc = ct_hold(r, why, CT_HOLD_THREAD, tid, "thread %d has other rights than the main thread (%.*s), which cannot "
			             "move; end it, or keep the rank with 'godwit pin'", (int)tid, (int)strlen(rights[i]) - 1, rights[i]);
			break;
		}
	return rc;
}

static int threads_check(struct ct_rank *r, const char *leader, struct gw_error *why)
{
	struct ct_vec tids;
	pid_t tracer = 0;
	int rc;

	ct_vec_init(&tids, sizeof(int));
	rc = tracer_check(r, leader, &tracer, why);
	if (rc == 0 && ct_proc_ids(r->pid, "task", &tids) < 0)
		rc = gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	for (size_t i = 0; rc == 0 && i < tids.n; i++)
		if (*CT_AT(int, &tids, i) != r->pid)
			rc = thread_check(r, leader, *CT_AT(int, &tids, i), &tracer, why);
	ct_vec_fini(&tids);
	return rc;
}

/* ---- the process ----------------------------------------------------------------------------------------------- */

static int namespaces_check(struct ct_rank *r, struct gw_error *why)
{
	/* what the program was started in is that of its init, which never changes; a child's PID and time are not ours to
	 * compare: init is not in the time namespace that it made */
	static const char *const kinds[] = { "user", "mnt", "net", "ipc", "uts", "cgroup" };
	char name[32], mine[64], its[64];

	for (size_t i = 0; i < GW_ARRAY_LEN(kinds); i++) {
		int rc;

		snprintf(name, sizeof(name), "ns/%s", kinds[i]);
		if (ct_proc_link(r->init_pid, name, mine, sizeof(mine)) < 0 || ct_proc_link(r->pid, name, its, sizeof(its)) < 0 ||
		    strcmp(mine, its) == 0)
			continue;
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it has entered a %s namespace of its own (unshare or setns), which cannot "
		             "move; keep the rank with 'godwit pin'", kinds[i]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ") S ppid pgrp session tty_nr ..." */
static int terminal_check(struct ct_rank *r, struct gw_error *why)
{
	char text[1024];
	const char *p;
	int tty = 0;

	if (ct_proc_read(r->pid, "stat", text, sizeof(text)) <= 0 || !(p = strrchr(text, ')')) ||
	    sscanf(p, ") %*c %*d %*d %*d %d", &tty) != 1 || tty == 0)
		return 0;
	return ct_hold(r, why, CT_HOLD_STATE, 0, "it has a controlling terminal (device %d:%d), which cannot move; give it up "
	               "with TIOCNOTTY, or keep the rank with 'godwit pin'", tty >> 8 & 0xfff,
	               (tty & 0xff) | (tty >> 12 & 0xfff00));
}

/* A filter that this daemon has too, as of a container that all of it runs in, is there at the destination as well. They
 * are inherited and never taken off, so the same number is the same filters. */
static bool has_our_filters(const char *status)
{
	char text[8192];
	const char *ours, *its = ct_proc_field(status, "Seccomp_filters:");

	if (!its || ct_proc_read(getpid(), "status", text, sizeof(text)) <= 0)
		return false;
	ours = ct_proc_field(text, "Seccomp_filters:");
	return ours && atoi(ours) == atoi(its);
}

static int rights_check(struct ct_rank *r, const char *status, struct gw_error *why)
{
	const char *f = ct_proc_field(status, "Seccomp:");
	unsigned u[4] = { 0 };
	int rc = 0;

	if (f && *f != '0' && !has_our_filters(status))
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it has a seccomp filter, which cannot move; start it without one, or keep "
		             "the rank with 'godwit pin'");
	f = ct_proc_field(status, "Uid:");
	if (rc == 0 && f && sscanf(f, "%u %u %u %u", &u[0], &u[1], &u[2], &u[3]) == 4 &&
	    (u[0] != r->uid || u[1] != r->uid || u[2] != r->uid || u[3] != r->uid))
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it changed its user id (%u, %u, %u), which cannot move; keep the rank with "
		             "'godwit pin'", u[0], u[1], u[2]);
	f = ct_proc_field(status, "SigIgn:");
	if (rc == 0 && f && (strtoull(f, NULL, 16) & 1ull << (5 - 1)))
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it ignores SIGTRAP, which a move needs; let it have its default action");
	f = ct_proc_field(status, "x86_Thread_features:");
	if (rc == 0 && f && strncmp(f, "shstk", 5) == 0)
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it uses a hardware shadow stack, which cannot move yet; start it with "
		             "GLIBC_TUNABLES=glibc.cpu.x86_shstk=off");
	return rc;
}

static int status_check(struct ct_rank *r, struct gw_error *why)
{
	char text[8192], path[4096];
	struct stat st;
	const char *f;
	int rc = ct_proc_read(r->pid, "status", text, sizeof(text));

	if (rc < 0)
		return gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	rc = 0;
	f = ct_proc_field(text, "State:");
	if (f && (*f == 'Z' || *f == 'X')) /* nothing else can be seen of it */
		return gw_fail(why, -EBUSY, "its main thread has ended; a rank whose other threads go on alone cannot move; keep it "
		               "with 'godwit pin'");
	rc = threads_check(r, text, why);
	if (rc == 0)
		rc = rights_check(r, text, why);
	if (rc == 0)
		rc = namespaces_check(r, why);
	if (rc == 0)
		rc = terminal_check(r, why);
	if (rc == 0 && ct_proc_link(r->pid, "root", path, sizeof(path)) > 0 && strcmp(path, "/") != 0)
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it changed its root directory to '%s', which cannot move; keep the rank with "
		             "'godwit pin'", path);
	if (rc == 0 && (ct_proc_link(r->pid, "cwd", path, sizeof(path)) < 0 || path[0] != '/' || stat(path, &st) < 0) && errno != EACCES)
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "its working directory '%s' cannot be found any more; change to another one, or keep "
		             "the rank with 'godwit pin'", path);
	if (rc == 0)
		rc = ct_timers_check(r, why);
	return rc;
}

int ct_look(struct ct_rank *r, struct gw_error *why)
{
	int rc = 0;

	if (r->walls == CT_WALLS_NONE)
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it has no namespaces of its own, without which it cannot move: %s; allow "
		             "user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone) or run as root, and start "
		             "the job again", r->no_walls);
	if (rc == 0)
		rc = ct_others_check(r, why);
	if (rc == 0)
		rc = status_check(r, why);
	if (rc < 0)
		return rc;
	r->files_seen.n = 0; /* names of the last look */
	rc = ct_maps_read(&r->look, r->pid, true);
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the memory map of pid %d: %s", (int)r->pid, strerror(-rc));
	r->has_look = true;
	r->is_prepared = false; /* that was for a freeze which did not come */
	return 0;
}
