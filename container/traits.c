/* SPDX-License-Identifier: BSD-2-Clause */
/* What a process and its threads are besides memory and descriptors, as far as it can be read and set from outside. */
#include "container/rank.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IOPRIO_WHO_PROCESS 1 /* <linux/ioprio.h> */

uint32_t ct_ioprio(pid_t tid)
{
	long n = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);

	return n > 0 ? (uint32_t)n : 0;
}

/* Each where it is allowed here too. */
void ct_traits_set_thread(pid_t tid, const struct ct_img_thread *from)
{
	struct sched_param param = { .sched_priority = (int)from->rt_priority };
	int policy = (int)from->policy & ~SCHED_RESET_ON_FORK;

	/* users cannot take off the flag that gw_prompt_set has put on, and a policy that comes with it needs no right */
	if ((policy == SCHED_FIFO || policy == SCHED_RR || policy == SCHED_BATCH || policy == SCHED_IDLE) &&
	    sched_setscheduler(tid, policy, &param) < 0)
		sched_setscheduler(tid, policy | SCHED_RESET_ON_FORK, &param);
	gw_prompt_set(tid, false);
	if (from->nice != getpriority(PRIO_PROCESS, (id_t)tid))
		setpriority(PRIO_PROCESS, (id_t)tid, from->nice);
	if (from->ioprio != ct_ioprio(tid))
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, from->ioprio);
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

void ct_traits_set(const struct ct_rank *r)
{
	const struct ct_img_process *p = &r->snap.process;

	if (p->oom_score_adj)
		write_value(r, "oom_score_adj", "%d", p->oom_score_adj);
	if (p->coredump_filter)
		write_value(r, "coredump_filter", "%#x", (int)p->coredump_filter);
}
