/* SPDX-License-Identifier: BSD-2-Clause */
/* Can this machine carry so many ranks? The limits that a large job would meet half way, looked at before it starts. */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define PROCESSES_OF_A_RANK 2  /* its init and its program; its threads come on top */
#define FILES_OF_A_RANK     15 /* in its daemon */

static uint64_t read_number(const char *path)
{
	unsigned long long v = UINT64_MAX; /* also for "max" */
	FILE *f = fopen(path, "re");

	if (!f)
		return UINT64_MAX;
	if (fscanf(f, "%llu", &v) != 1)
		v = UINT64_MAX;
	fclose(f);
	return v;
}

/* pids.max of the control group that we are in; a container or a batch system sets it */
static uint64_t cgroup_processes(void)
{
	char line[512], path[700];
	uint64_t v = UINT64_MAX;
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "0::", 3) == 0)
			snprintf(path, sizeof(path), "/sys/fs/cgroup%s/pids.max", line + 3);
		else if (strstr(line, ":pids:"))
			snprintf(path, sizeof(path), "/sys/fs/cgroup/pids%s/pids.max", strstr(line, ":pids:") + 6);
		else
			continue;
		v = read_number(path);
	}
	if (f)
		fclose(f);
	return v;
}

int limits_check(const struct head *h, uint32_t clusters, struct gw_error *why)
{
	uint64_t processes = (uint64_t)h->size * PROCESSES_OF_A_RANK + clusters;
	uint64_t files = ((uint64_t)h->size + clusters - 1) / clusters * FILES_OF_A_RANK + 64;
	struct rlimit own_processes, own_files;
	const struct { const char *name; uint64_t value; } limits[] = {
		{ "kernel.pid_max", read_number("/proc/sys/kernel/pid_max") },
		{ "kernel.threads-max", read_number("/proc/sys/kernel/threads-max") },
		{ "pids.max of this control group", cgroup_processes() },
		{ "ulimit -u", getrlimit(RLIMIT_NPROC, &own_processes) == 0 && geteuid() != 0 ? own_processes.rlim_cur
		                                                                               : UINT64_MAX },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(limits); i++)
		if (processes > limits[i].value)
			return gw_fail(why, -EAGAIN, "%u ranks need %llu processes, more than %s allows (%llu); ask for fewer ranks or "
			               "raise it", h->size, (unsigned long long)processes, limits[i].name,
			               (unsigned long long)limits[i].value);
	if (getrlimit(RLIMIT_NOFILE, &own_files) == 0 && files > own_files.rlim_max)
		return gw_fail(why, -EMFILE, "%u ranks need %llu open files in the daemon of a cluster, more than 'ulimit -Hn' allows "
		               "(%llu); ask for fewer ranks, more -clusters, or raise it", h->size, (unsigned long long)files,
		               (unsigned long long)own_files.rlim_max);
	return 0;
}

void limits_raise(struct head *h)
{
	struct rlimit more;

	if (getrlimit(RLIMIT_NOFILE, &h->files) < 0) {
		h->files.rlim_max = 0;
		return;
	}
	more = h->files;
	more.rlim_cur = more.rlim_max;
	if (more.rlim_cur > h->files.rlim_cur)
		setrlimit(RLIMIT_NOFILE, &more); /* one link for each cluster, files by rank */
}
