/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the kernel has put the core file of a rank. */
#ifndef RT_CORE_H
#define RT_CORE_H

#include <stddef.h>
#include <sys/types.h>

struct core_facts {      /* of the process that dumped core */
	pid_t pid, host_pid; /* as it sees itself, and as this host does */
	uid_t uid;
	gid_t gid;
	int signal;
	const char *host;
	const char *cwd;     /* for a pattern that is not an absolute path */
};

/**
 * core_glob - the pattern of core(5) as a glob: what is known filled in, a * for what is not
 * Return: 0; -ENOTSUP when a program takes the core ('|'); -ENAMETOOLONG.
 */
int core_glob(const char *pattern, int uses_pid, const struct core_facts *facts, char *buf, size_t cap);

#endif
