/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the ranks here use, for whoever balances the job: processor time, of it what went into waiting for messages, memory, and to
 * whom they talk. All of it are counters that grow; the head takes differences.
 *
 * Time in vain is counted by the provider in ticks of the processor (noc_waited), which here become nanoseconds by how many
 * passed since the daemon began. Whom a rank talks to its agent says, when it gets to it: an answer tells what was said before,
 * and asks for the next one.
 */
#include "runtime/clusterd/clusterd.h"

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/clusterd/quota.h"

static uint64_t ticks(void)
{
	return __builtin_ia32_rdtsc();
}

static uint64_t first_ticks, first_ns; /* of this process: when the daemon was started */

void measure_begin(void)
{
	first_ns = gw_now_ns();
	first_ticks = ticks();
}

/* Nanoseconds of a tick: the longer the daemon runs the better it knows. Who asks has heard of `up` before, which takes a while. */
static double tick_ns(void)
{
	uint64_t passed = ticks() - first_ticks;

	return passed ? (double)(gw_now_ns() - first_ns) / (double)passed : 0;
}

/* Processor time of a process, all its threads. Source: the kernel's include/linux/posix-timers.h, as glibc's
 * clock_getcpuclockid() makes it. */
static uint64_t cpu_ns_of(pid_t pid)
{
	struct timespec t;

	if (clock_gettime((clockid_t)(~(unsigned)pid << 3 | 2), &t) < 0)
		return 0;
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How long the processors of this cluster have been busy, for whomever, since the host began */
static uint64_t busy_ns(const struct clusterd *d)
{
	FILE *f = fopen("/proc/stat", "re");
	uint64_t busy = 0, hz = (uint64_t)sysconf(_SC_CLK_TCK);
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		unsigned long long user, nice, system, idle, iowait, irq, soft;
		int cpu;

		if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu", &cpu, &user, &nice, &system, &idle, &iowait, &irq, &soft) == 8 &&
		    cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET((unsigned)cpu, &d->cpus))
			busy += (user + nice + system + irq + soft) * (1000000000u / hz);
	}
	if (f)
		fclose(f);
	return busy;
}

/* What of memory nobody uses here; 0: not known */
static uint64_t free_memory(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

static uint64_t resident(pid_t pid)
{
	unsigned long long size, pages = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &size, &pages) != 2)
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void measure_forget(struct rank *r)
{
	if (r->traffic.fd > 0)
		close(r->traffic.fd);
	json_decref(r->traffic.last);
	memset(&r->traffic, 0, sizeof(r->traffic));
}

static void ask_traffic(struct rank *r)
{
	if (r->agent != AGENT_ATTACHED || r->traffic.is_due)
		return;
	if (r->traffic.fd == 0) {
		int fd = (int)syscall(SYS_memfd_create, "godwit-traffic", MFD_CLOEXEC);

		if (fd < 0)
			return; /* denied here: nobody is told whom it talks to */
		r->traffic.fd = fd;
	}
	r->traffic.is_due = agent_send(r, CT_CTL_TRAFFIC, 0, 0) == 0;
}

void measure_traffic(struct rank *r, const struct ct_ctl_msg *m)
{
	struct ct_ctl_traffic *list = NULL;
	size_t size = m->doing * sizeof(*list);
	json_t *rows;

	if (!r->traffic.is_due)
		return;
	r->traffic.is_due = false;
	if (m->status < 0 || m->doing > r->d->segment.head->names)
		return;
	list = malloc(size + 1);
	rows = json_array();
	if (list && pread(r->traffic.fd, list, size, 0) == (ssize_t)size) {
		for (uint32_t i = 0; i < m->doing; i++)
			json_array_append_new(rows, json_pack("[I, I, I]", (json_int_t)list[i].peer, (json_int_t)list[i].bytes,
			                                      (json_int_t)list[i].messages));
		json_decref(r->traffic.last);
		r->traffic.last = json_incref(rows);
		r->traffic.last_ns = gw_now_ns();
	}
	json_decref(rows);
	free(list);
}

void measure_answer(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	bool is_traffic_wanted = json_is_true(json_object_get(msg, "traffic"));
	double ns = tick_ns(), quota = quota_cores("/proc/self");
	json_t *ranks = json_array();

	(void)fds; (void)n_fds;
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);
		struct ct_told told;
		json_t *one;

		if (r->state != RANK_HERE)
			continue;
		one = json_pack("{s:i, s:I, s:I, s:I, s:I}", "rank", (int)r->proc, "epoch", (json_int_t)r->epoch, "cpu_ns",
		                (json_int_t)cpu_ns_of(r->pid), "waited_ns", r->incarnation ?
		                (json_int_t)((double)noc_waited_of(&d->segment, r->proc) * ns) : (json_int_t)0, "memory",
		                (json_int_t)resident(r->pid));
		if (wishes_told(r, &told) && told.load_micro >= 0)
			json_object_set_new(one, "load", json_real((double)told.load_micro / 1e6));
		if (is_traffic_wanted) {
			if (r->traffic.last) {
				json_object_set(one, "traffic", r->traffic.last);
				json_object_set_new(one, "traffic_ns", json_integer((json_int_t)r->traffic.last_ns));
			}
			ask_traffic(r);
		}
		json_array_append_new(ranks, one);
	}
	gw_link_send_json(d->head, json_pack("{s:s, s:O, s:o, s:I, s:I, s:I, s:o*}", "op", "measured", "id", json_object_get(msg, "id"), "ranks",
	                  ranks, "busy_ns", (json_int_t)busy_ns(d), "now_ns", (json_int_t)gw_now_ns(), "room",
	                  (json_int_t)free_memory(), "quota", isinf(quota) ? NULL : json_real(quota)));
}
