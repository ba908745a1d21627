/* SPDX-License-Identifier: BSD-2-Clause */
/* What is around a rank: other processes, debuggers, rights, timers. */
#include "container/rank.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int ct_others_check(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec ids;
	struct stat here, there;
	char path[64];
	int rc;

	snprintf(path, sizeof(path), "/proc/%d/root/proc", (int)r->init_pid);
	if (stat("/proc", &here) < 0 || stat(path, &there) < 0 || here.st_dev == there.st_dev)
		return 0; /* it has no /proc of its own, see init_main; its children cannot be told */
	ct_vec_init(&ids, sizeof(int));
	rc = ct_proc_ids(r->init_pid, "root/proc", &ids);
	if (rc < 0)
		gw_fail(why, rc, "cannot list the processes of the container: %s", strerror(-rc));
	for (size_t i = 0; rc == 0 && i < ids.n; i++) {
		int id = *CT_AT(int, &ids, i), len;
		char name[64], comm[64] = "?";

		if (id == 1 || id == r->ns_pid)
			continue;
		snprintf(name, sizeof(name), "root/proc/%d/comm", id);
		len = ct_proc_read(r->init_pid, name, comm, sizeof(comm));
		if (len <= 0)
			continue; /* ended meanwhile */
		comm[strcspn(comm, "\n")] = '\0';
		rc = gw_fail(why, -EBUSY, "it has another process in its container: pid %d (%s); let it end, or keep the "
		             "rank with 'godwit pin'", id, comm);
	}
	ct_vec_fini(&ids);
	return rc;
}

static int status_check(struct ct_rank *r, struct gw_error *why)
{
	char text[8192], comm[64];
	const char *f;
	int rc = ct_proc_read(r->pid, "status", text, sizeof(text)), tracer;

	if (rc < 0)
		return gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	f = ct_proc_field(text, "State:");
	if (f && (*f == 'Z' || *f == 'X'))
		return gw_fail(why, -EBUSY, "its main thread has ended; a rank whose other threads go on alone cannot move");
	if (f && *f == 'T')
		return gw_fail(why, -EBUSY, "it is stopped by a signal; continue it first (kill -CONT %d)", (int)r->pid);
	f = ct_proc_field(text, "TracerPid:");
	tracer = f ? atoi(f) : 0;
	if (tracer && r->state == CT_RUNNING) {
		if (ct_proc_read(tracer, "comm", comm, sizeof(comm)) < 0)
			strcpy(comm, "?");
		comm[strcspn(comm, "\n")] = '\0';
		return gw_fail(why, -EBUSY, "it is being traced by pid %d (%s); detach that debugger first", tracer, comm);
	}
	f = ct_proc_field(text, "Seccomp:");
	if (f && *f != '0')
		return gw_fail(why, -EBUSY, "it has a seccomp filter, which cannot move");
	f = ct_proc_field(text, "Uid:");
	if (f) {
		unsigned u[4] = { 0 };

		if (sscanf(f, "%u %u %u %u", &u[0], &u[1], &u[2], &u[3]) == 4 &&
		    (u[0] != r->uid || u[1] != r->uid || u[2] != r->uid || u[3] != r->uid))
			return gw_fail(why, -EBUSY, "it changed its user id (%u, %u, %u)", u[0], u[1], u[2]);
	}
	f = ct_proc_field(text, "SigIgn:");
	if (f && (strtoull(f, NULL, 16) & 1ull << (5 - 1)))
		return gw_fail(why, -EBUSY, "it ignores SIGTRAP, which a move needs");
	f = ct_proc_field(text, "x86_Thread_features:");
	if (f && strncmp(f, "shstk", 5) == 0)
		return gw_fail(why, -EBUSY, "it uses a hardware shadow stack, which cannot move yet");
	rc = ct_proc_link(r->pid, "root", text, sizeof(text));
	if (rc > 0 && strcmp(text, "/") != 0)
		return gw_fail(why, -EBUSY, "it changed its root directory to '%s'", text);
	rc = ct_proc_read(r->pid, "timers", text, sizeof(text));
	if (rc > 0)
		return gw_fail(why, -EBUSY, "it has a POSIX timer (timer_create), which cannot move yet; delete it, or keep the "
		               "rank with 'godwit pin'");
	return 0;
}

int ct_look(struct ct_rank *r, struct gw_error *why)
{
	int rc = status_check(r, why);

	if (rc == 0)
		rc = ct_others_check(r, why);
	if (rc < 0)
		return rc;
	rc = ct_maps_read(&r->look, r->pid, true);
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the memory map of pid %d: %s", (int)r->pid, strerror(-rc));
	r->has_look = true;
	return 0;
}
