/* SPDX-License-Identifier: BSD-2-Clause */
/* What a process and its threads are besides memory and descriptors, as far as it can be read and set from outside. */
#include "container/rank.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IOPRIO_WHO_PROCESS 1 /* <linux/ioprio.h> */

uint32_t ct_ioprio(pid_t tid)
{
	long n = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);

	return n > 0 ? (uint32_t)n : 0;
}

#define SLACK_DEFAULT 50000 /* ns; of all that have not said another, and then not worth a call */

/* A thread that goes before all others, as in a freeze, has no slack, and the default when it is an ordinary one again (Linux 6.13) */
uint64_t ct_slack(pid_t tid)
{
	char text[32];

	return ct_proc_read(tid, "timerslack_ns", text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : 0;
}

void ct_slack_set(pid_t tid, uint64_t ns)
{
	char path[64], text[32];
	gw_autoclose int fd = -1;
	int len;

	if (!ns || ns == SLACK_DEFAULT)
		return;
	snprintf(path, sizeof(path), "/proc/%d/timerslack_ns", (int)tid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	len = snprintf(text, sizeof(text), "%llu", (unsigned long long)ns);
	if (fd < 0 || write(fd, text, (size_t)len) < 0)
		gw_log(GW_DEBUG, "cannot set %s: %s", path, strerror(errno));
}

/* Each where it is allowed here too. Users cannot take off the flag that gw_hurry_begin has put on; with it no right is needed. */
void ct_traits_set_thread(pid_t tid, const struct ct_img_thread *from, bool is_prompt)
{
	struct gw_sched s = { .policy = (int)from->policy & ~SCHED_RESET_ON_FORK, .nice = from->nice,
	                      .priority = (int)from->rt_priority, .is_prompt = is_prompt };

	if (s.policy != SCHED_FIFO && s.policy != SCHED_RR && s.policy != SCHED_BATCH && s.policy != SCHED_IDLE)
		s.policy = SCHED_OTHER;
	for (int i = 0; gw_sched_set(tid, &s) < 0 && i < 2; i++) {
		s.policy = SCHED_OTHER;
		s.nice = i ? 0 : from->nice;
	}
	if ((s.policy == SCHED_FIFO || s.policy == SCHED_RR) && from->nice)
		setpriority(PRIO_PROCESS, (id_t)tid, from->nice); /* for when it is an ordinary one again */
	if (from->ioprio != ct_ioprio(tid))
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, from->ioprio);
	ct_slack_set(tid, from->timerslack);
}

static void write_value(const struct ct_rank *r, const char *name, const char *fmt, int value)
{
	char path[64], text[16];
	int fd, len;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)r->pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	len = snprintf(text, sizeof(text), fmt, value);
	if (fd < 0 || write(fd, text, (size_t)len) < 0)
		gw_log(GW_DEBUG, "cannot set %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* of this process, and so of a shell */
static uint32_t coredump_filter(void)
{
	static uint32_t own;
	char text[32];

	if (!own && ct_proc_read(getpid(), "coredump_filter", text, sizeof(text)) > 0)
		own = (uint32_t)strtoul(text, NULL, 16);
	return own;
}

void ct_traits_set(const struct ct_rank *r)
{
	const struct ct_img_process *p = &r->snap.process;

	if (p->oom_score_adj)
		write_value(r, "oom_score_adj", "%d", p->oom_score_adj);
	if (p->coredump_filter && p->coredump_filter != coredump_filter())
		write_value(r, "coredump_filter", "%#x", (int)p->coredump_filter);
}
