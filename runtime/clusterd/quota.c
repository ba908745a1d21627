/* SPDX-License-Identifier: BSD-2-Clause */
/* The processor time that control groups allow: found where they are mounted, from the process's own up to the root. */
#include "runtime/clusterd/quota.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Is @word one of the words in @list, which commas part? */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += len)
		if ((at == list || at[-1] == ',') && (at[len] == ',' || !at[len]))
			return true;
	return false;
}

struct mount { char root[512], at[512]; };

/* Where the hierarchy with the processors of version @version is mounted, and which of its groups is seen there as the root */
static bool find_mount(struct mount *m, const char *proc, int version)
{
	char path[PATH_MAX], line[4096], type[64], options[512];
	bool is_found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/mountinfo", proc);
	f = fopen(path, "re");
	while (f && !is_found && fgets(line, sizeof(line), f)) {
		const char *rest = strstr(line, " - ");

		if (!rest || sscanf(line, "%*s %*s %*s %511s %511s", m->root, m->at) != 2 ||
		    sscanf(rest + 3, "%63s %*s %511s", type, options) != 2)
			continue;
		is_found = version == 2 ? strcmp(type, "cgroup2") == 0 : strcmp(type, "cgroup") == 0 && has_word(options, "cpu");
	}
	if (f)
		fclose(f);
	return is_found;
}

/* The process's group in that hierarchy */
static bool find_group(char *group, size_t cap, const char *proc, int version)
{
	char path[PATH_MAX], line[4096];
	bool is_found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup", proc);
	f = fopen(path, "re");
	while (f && !is_found && fgets(line, sizeof(line), f)) { /* 4:cpu,cpuacct:/a/b, or 0::/a/b */
		char *list = strchr(line, ':'), *name = list ? strchr(++list, ':') : NULL;

		if (!name)
			continue;
		*name++ = '\0';
		name[strcspn(name, "\n")] = '\0';
		is_found = version == 2 ? !*list : has_word(list, "cpu");
		if (is_found)
			snprintf(group, cap, "%s", name);
	}
	if (f)
		fclose(f);
	return is_found;
}

static double number_in(const char *dir, const char *name)
{
	char path[PATH_MAX];
	double value = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%lf", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

static double limit_of(const char *dir, int version)
{
	double quota = -1, period = -1;
	char path[PATH_MAX];
	FILE *f;

	if (version == 1) {
		quota = number_in(dir, "cpu.cfs_quota_us");
		period = number_in(dir, "cpu.cfs_period_us");
	} else {
		snprintf(path, sizeof(path), "%s/cpu.max", dir);
		f = fopen(path, "re");
		if (f && fscanf(f, "%lf %lf", &quota, &period) != 2) /* "max 100000" is no limit */
			quota = -1;
		if (f)
			fclose(f);
	}
	return quota > 0 && period > 0 ? quota / period : INFINITY;
}

static double cores_of(const char *proc, int version)
{
	char group[1024], dir[2048];
	double least = INFINITY;
	struct mount m;
	size_t skip;

	if (!find_mount(&m, proc, version) || !find_group(group, sizeof(group), proc, version))
		return INFINITY;
	skip = strcmp(m.root, "/") == 0 ? 0 : strlen(m.root);
	if (strncmp(group, m.root, skip) != 0)
		return INFINITY; /* it is not below what is mounted here */
	snprintf(dir, sizeof(dir), "%s%s", m.at, group + skip);
	for (;;) {
		char *last;

		least = fmin(least, limit_of(dir, version));
		last = strrchr(dir, '/');
		if (!last || last < dir + strlen(m.at))
			return least;
		*last = '\0';
	}
}

double quota_cores(const char *proc)
{
	return fmin(cores_of(proc, 1), cores_of(proc, 2));
}
