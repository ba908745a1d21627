/* SPDX-License-Identifier: BSD-2-Clause */
/* bench/base.h: what the benchmark programs share: the median of samples, and binding to a core in one way whatever the MPI. */
#ifndef BENCH_BASE_H
#define BENCH_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_setaffinity; other MPIs compile these programs by hand */
#endif
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* They are sorted then. */
static inline double median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Rank r to the r-th of the cores that it may use, modulo their number; where there is one only the launcher has bound it. */
static inline void pin(int rank)
{
	cpu_set_t allowed, mine;
	int cores, seen = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) || (cores = CPU_COUNT(&allowed)) < 2)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && seen++ == rank % cores) {
			CPU_ZERO(&mine);
			CPU_SET(cpu, &mine);
			sched_setaffinity(0, sizeof(mine), &mine);
			return;
		}
}

#endif
