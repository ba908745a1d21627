/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of sockets, how running jobs are found by them, and sets of processors in messages. */
#include "runtime/wire.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

void rt_socket_name(char buf[RT_SOCKET_NAME_MAX], uint32_t job, int cluster)
{
	if (cluster < 0)
		snprintf(buf, RT_SOCKET_NAME_MAX, "godwit/%u/%08x/head", (unsigned)geteuid(), job);
	else
		snprintf(buf, RT_SOCKET_NAME_MAX, "godwit/%u/%08x/%d", (unsigned)geteuid(), job, cluster);
}

json_t *rt_cpus_json(const cpu_set_t *cpus)
{
	json_t *list = json_array();

	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET((size_t)i, cpus))
			json_array_append_new(list, json_integer(i));
	return list;
}

void rt_cpus_read(const json_t *list, cpu_set_t *cpus)
{
	CPU_ZERO(cpus);
	for (size_t i = 0; i < json_array_size(list); i++)
		CPU_SET((size_t)json_integer_value(json_array_get(list, i)), cpus);
}

const char *rt_end_describe(int wait_status, bool is_sentence, char *buf, size_t cap)
{
	if (WIFSIGNALED(wait_status))
		snprintf(buf, cap, "%skilled by signal %d (%s)", is_sentence ? "was " : "", WTERMSIG(wait_status),
		         strsignal(WTERMSIG(wait_status)));
	else
		snprintf(buf, cap, "exited with status %d", WEXITSTATUS(wait_status));
	return buf;
}

/* Any user of this host can listen at a name that looks like one of ours. */
static bool is_ours(uint32_t job)
{
	char name[RT_SOCKET_NAME_MAX];

	rt_socket_name(name, job, -1);
	return gw_probe_unix(name) == 0;
}

/*
 * A line of /proc/net/unix: "Num RefCount Protocol Flags Type St Inode Path"; abstract names begin with '@'. A
 * listener has flag 0x10000 (__SO_ACCEPTCON); accepted connections carry the same name and do not count.
 */
int rt_jobs_find(uint32_t *jobs, int max, struct gw_error *why)
{
	FILE *f = fopen("/proc/net/unix", "re");
	gw_autofree char *line = NULL;
	size_t cap = 0;
	int n = 0;

	if (!f)
		return gw_fail(why, -errno, "cannot look for jobs: /proc/net/unix: %s; --job names one", strerror(errno));
	while (getline(&line, &cap, f) > 0) {
		unsigned flags, uid, job;
		int at = 0, end = 0;

		if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %n", &flags, &at) != 1 || !at || !(flags & 0x10000))
			continue;
		if (sscanf(line + at, "@godwit/%u/%8x/head%n", &uid, &job, &end) != 2 || !end || uid != geteuid())
			continue;
		if (line[at + end] != '\n' && line[at + end] != '\0')
			continue;
		if (!is_ours(job))
			continue;
		if (n < max)
			jobs[n] = job;
		n++;
	}
	fclose(f);
	return n;
}
