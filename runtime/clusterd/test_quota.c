/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of clusterd/quota: control groups of both versions, as files that the test writes. */
#include "runtime/clusterd/quota.h"

#include <math.h>
#include <sys/stat.h>

#include "tests/tap.h"

static char dir[64] = "/tmp/godwit-quota-XXXXXX";

static void put(const char *name, const char *fmt, ...)
{
	char path[256];
	va_list ap;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	if (!f)
		tap_bail("cannot write %s", path);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
}

static void make(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (mkdir(path, 0700) < 0)
		tap_bail("cannot make %s", path);
}

int main(void)
{
	char command[128];

	tap_begin(20);
	if (!mkdtemp(dir))
		tap_bail("no directory in /tmp");
	make("one");
	make("one/job");
	make("one/job/step");
	make("two");
	make("two/job");
	put("cgroup", "5:cpuset:/elsewhere\n3:cpuacct,cpu:/job/step\n0::/job\n");
	put("mountinfo", "30 1 0:26 / %s/none rw - cgroup cgroup rw,cpuset,cpuacct\n31 1 0:27 / %s/one rw,relatime - cgroup cgroup rw,cpu,cpuacct\n",
	    dir, dir);
	ok(isinf(quota_cores(dir)), "where no group says anything there is no limit");
	put("one/job/step/cpu.cfs_quota_us", "-1\n");
	put("one/job/step/cpu.cfs_period_us", "100000\n");
	ok(isinf(quota_cores(dir)), "nor where it is said that there is none");
	put("one/job/cpu.cfs_quota_us", "150000\n");
	put("one/job/cpu.cfs_period_us", "100000\n");
	ok(fabs(quota_cores(dir) - 1.5) < 1e-9, "that of a group around the own counts: %g", quota_cores(dir));
	put("one/job/step/cpu.cfs_quota_us", "25000\n");
	ok(fabs(quota_cores(dir) - 0.25) < 1e-9, "and the smallest of all: %g", quota_cores(dir));

	put("mountinfo", "40 1 0:30 /job %s/two rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", dir);
	put("two/cpu.max", "max 100000\n");
	ok(isinf(quota_cores(dir)), "version 2: max is no limit");
	put("two/cpu.max", "50000 100000\n");
	ok(fabs(quota_cores(dir) - 0.5) < 1e-9, "version 2, in a container where the group is the root: %g", quota_cores(dir));
	put("cgroup", "0::/other\n");
	ok(isinf(quota_cores(dir)), "a group that is not below the mount has no limit that can be seen");
	ok(isinf(quota_cores("/nonexistent")), "nor has a process of which nothing is known");
	ok(quota_cores("/proc/self") > 0, "of this very process: %g", quota_cores("/proc/self"));
	snprintf(command, sizeof(command), "rm -r %s", dir);
	if (system(command) != 0)
		tap_bail("cannot remove %s", dir);
	return tap_done();
}
