/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of sockets, and how running jobs are found by them. */
#include "runtime/wire.h"

#include <stdlib.h>
#include <unistd.h>

void rt_socket_name(char buf[RT_SOCKET_NAME_MAX], uint32_t job, int cluster)
{
	if (cluster < 0)
		snprintf(buf, RT_SOCKET_NAME_MAX, "godwit/%u/%08x/head", (unsigned)geteuid(), job);
	else
		snprintf(buf, RT_SOCKET_NAME_MAX, "godwit/%u/%08x/%d", (unsigned)geteuid(), job, cluster);
}

/*
 * A line of /proc/net/unix: "Num RefCount Protocol Flags Type St Inode Path"; abstract names begin with '@'. A
 * listener has flag 0x10000 (__SO_ACCEPTCON); accepted connections carry the same name and do not count.
 */
/* Any user of this host can listen at a name that looks like one of ours. */
static bool is_ours(uint32_t job)
{
	char name[RT_SOCKET_NAME_MAX];

	rt_socket_name(name, job, -1);
	return gw_probe_unix(name) == 0;
}

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
