/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/topology: cut this machine into clusters.
 *
 * A cluster is a set of cores. With at most as many clusters as cores each core belongs to one cluster, neighbours
 * (same cache, same NUMA node) together. With more clusters than cores, several clusters share a core; clusters on the
 * same cores are one core domain, which is what tells waiting ranks how crowded their cores are (noc/segment.h).
 */
#ifndef RT_TOPOLOGY_H
#define RT_TOPOLOGY_H

#include <sched.h>

#include "runtime/base/base.h"

struct rt_cluster_cores {
	cpu_set_t cpus;     /* logical processors, as the kernel numbers them */
	uint32_t cores;     /* how many of them: what can run at once */
	uint32_t domain;
};

/**
 * rt_topology_cut - into @clusters clusters, out of the processors that this process may use
 * @machine: an hwloc synthetic description such as "pack:2 core:4 pu:2" instead, for tests; NULL: this machine
 * Return: number of core domains; *out is @clusters entries on the heap, the caller frees.
 */
int rt_topology_cut(struct rt_cluster_cores **out, uint32_t clusters, const char *machine, struct gw_error *why);

#endif
