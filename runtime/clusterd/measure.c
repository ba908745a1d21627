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

#include <dirent.h>
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

/* Bytes that are present; of them, those that no file and no shared memory stands behind */
static uint64_t resident(pid_t pid, uint64_t *own)
{
	unsigned long long size, pages = 0, shared = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	f = fopen(path, "re");
	*own = 0;
	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu %llu", &size, &pages, &shared) != 3)
		pages = 0;
	fclose(f);
	if (pages > shared)
		*own = (pages - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
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

/* ---- what is said ------------------------------------------------------------------------------------------------------- */

/* A counter that begins anew in each process, and with each attach, goes on. One that is made of ticks may go back by a little: what a tick
 * takes is known the better the longer the daemon runs. */
static uint64_t goes_on(uint64_t *before, uint64_t *last, uint64_t now)
{
	if (now < *last && now > *last - *last / 16)
		now = *last;
	if (now < *last)
		*before += *last;
	*last = now;
	return *before + now;
}

static uint64_t cpu_of(struct rank *r)
{
	uint64_t now = cpu_ns_of(r->pid);

	return goes_on(&r->cpu.before, &r->cpu.last, now ? now : r->cpu.last); /* 0: it could not be read now */
}

/* Nanoseconds of a thread on a processor; 0: there is no such thread */
static uint64_t thread_ns(pid_t pid, pid_t tid)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", (int)pid, (int)tid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &ns) != 1)
		ns = 0;
	if (f)
		fclose(f);
	return ns;
}

static bool is_agent(pid_t pid, pid_t tid)
{
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", (int)pid, (int)tid);
	f = fopen(path, "re");
	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	return strcmp(name, "godwit-agent\n") == 0;
}

/* What the agent of a rank has used. It is no work of the program, and with many ranks that wait it adds up. */
static uint64_t agent_ns(struct rank *r)
{
	struct dirent *e;
	char path[64];
	DIR *dir;

	if (r->agent_of.pid == r->pid) {
		uint64_t now = thread_ns(r->pid, r->agent_of.tid);

		r->agent_of.ns = now ? now : r->agent_of.ns; /* 0: it could not be read now, or it has ended */
		return r->agent_of.ns;
	}
	snprintf(path, sizeof(path), "/proc/%d/task", (int)r->pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (is_agent(r->pid, atoi(e->d_name))) {
			r->agent_of.pid = r->pid;
			r->agent_of.tid = atoi(e->d_name);
			r->agent_of.ns = thread_ns(r->pid, r->agent_of.tid);
			break;
		}
	if (dir)
		closedir(dir);
	return r->agent_of.pid == r->pid ? r->agent_of.ns : 0;
}

/* While its agent is not attached here, the inbox may still say what was when it last was. */
static uint64_t waited_of(struct rank *r)
{
	bool is_here = r->agent == AGENT_ATTACHED && r->incarnation;

	return goes_on(&r->waited.before, &r->waited.last, is_here ? noc_waited_of(&r->d->segment, r->proc, tick_ns()) +
	               agent_ns(r) : r->waited.last);
}

void measure_note(struct rank *r)
{
	waited_of(r);
}

json_t *measure_export(struct rank *r)
{
	return json_pack("[I, I]", (json_int_t)cpu_of(r), (json_int_t)waited_of(r));
}

void measure_import(struct rank *r, const json_t *used)
{
	r->cpu.before = (uint64_t)json_integer_value(json_array_get(used, 0));
	r->waited.before = (uint64_t)json_integer_value(json_array_get(used, 1));
	r->cpu.last = r->waited.last = 0;
}

json_t *measure_rank_json(struct rank *r)
{
	struct ct_traffic t = { 0 };
	uint64_t own, memory = resident(r->pid, &own);

	if (!pace_traffic(r, &t))
		t = (struct ct_traffic){ 0 };
	return json_pack("{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "rank", (int)r->proc, "cluster", (int)r->d->cluster, "pid",
	                 (int)r->pid, "epoch", (json_int_t)r->epoch, "cpu_ns", (json_int_t)cpu_of(r), "waited_ns", (json_int_t)waited_of(r),
	                 "memory", (json_int_t)memory, "private_bytes", (json_int_t)own, "sent_bytes", (json_int_t)t.sent_bytes, "received_bytes",
	                 (json_int_t)t.received_bytes);
}

json_t *measure_cluster_json(const struct clusterd *d)
{
	double quota = quota_cores("/proc/self");

	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:o*}", "cluster", (int)d->cluster, "busy_ns", (json_int_t)busy_ns(d), "daemon_ns",
	                 (json_int_t)cpu_ns_of(getpid()), "now_ns",
	                 (json_int_t)gw_now_ns(), "room", (json_int_t)free_memory(), "quota", isinf(quota) ? NULL : json_real(quota));
}

void measure_answer(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	bool is_traffic_wanted = json_is_true(json_object_get(msg, "traffic"));
	json_t *ranks = json_array(), *answer = measure_cluster_json(d);

	(void)fds; (void)n_fds;
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);
		struct ct_told told;
		json_t *one;

		if (r->state != RANK_HERE)
			continue;
		one = measure_rank_json(r);
		json_object_set_new(one, "state", json_string(rank_state_text(r)));
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
	json_object_update_new(answer, json_pack("{s:s, s:O, s:o, s:o}", "op", "measured", "id", json_object_get(msg, "id"), "ranks", ranks,
	                                         "sessions", moves_sessions_json(d)));
	gw_link_send_json(d->head, answer);
}
