/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a daemon on another host gets with `start`, because it cannot inherit it from mpirun: the environment of daemons
 * (GODWIT_LOG and its kin), limits, umask, nice value and I/O priority. clusterd/inherit.c takes it.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

extern char **environ;

/* Files of ours: a relative name is one of mpirun's directory, where the daemon is not. */
static bool is_path(const char *name)
{
	return strcmp(name, "GODWIT_EVENTS") == 0 || strcmp(name, "GODWIT_LOG_FILE") == 0;
}

static bool is_of_one_rank(const char *name)
{
	return strcmp(name, "GODWIT_JOB") == 0 || strcmp(name, "GODWIT_PROC") == 0 || strcmp(name, "GODWIT_CTL_FD") == 0;
}

static json_t *environment_json(void)
{
	gw_autofree char *here = getcwd(NULL, 0);
	json_t *all = json_object();

	for (char **e = environ; *e; e++) {
		const char *value = strchr(*e, '=');
		char name[64], path[4096];

		if (!value || strncmp(*e, "GODWIT_", 7) != 0 || value - *e >= (ptrdiff_t)sizeof(name))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(value++ - *e), *e);
		if (is_of_one_rank(name)) /* mpirun was started by a rank of another job */
			continue;
		if (is_path(name) && *value && *value != '/' && here) {
			snprintf(path, sizeof(path), "%s/%s", here, value);
			value = path;
		}
		json_object_set_new(all, name, json_string(value)); /* one that is not UTF-8 stays here */
	}
	return all;
}

/* By the kernel's numbers, which all hosts of an architecture share; -1: none */
static json_t *limits_json(const struct head *h)
{
	json_t *all = json_array();

	for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
		struct rlimit l = { RLIM_INFINITY, RLIM_INFINITY };

		if (i == RLIMIT_NOFILE && h->files.rlim_max)
			l = h->files; /* ours is raised */
		else
			getrlimit((__rlimit_resource_t)i, &l);
		json_array_append_new(all, json_integer(l.rlim_cur == RLIM_INFINITY ? -1 : (json_int_t)l.rlim_cur));
	}
	return all;
}

json_t *inherit_json(const struct head *h)
{
	mode_t mask = umask(0);

	umask(mask);
	errno = 0;
	return json_pack("{s:o, s:o, s:i, s:i, s:i}", "environment", environment_json(), "limits", limits_json(h), "umask", (int)mask,
	                 "nice", getpriority(PRIO_PROCESS, 0), "ioprio", (int)syscall(SYS_ioprio_get, 1 /* a process */, 0));
}
