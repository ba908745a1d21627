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

enum { RT_NEAR_PACKAGE, RT_NEAR_NUMA, RT_NEAR_CACHE, RT_NEAR }; /* what clusters may share, the largest first */

struct rt_cluster_cores {
	cpu_set_t cpus;     /* logical processors, as the kernel numbers them */
	uint32_t cores;     /* how many of them: what can run at once */
	uint32_t domain;
	uint32_t near[RT_NEAR]; /* where its first core is: numbers of its package, NUMA node and largest cache; 0 where there is none */
	cpu_set_t *binds;   /* for ranks that are bound: one set each, in this order; heap */
	uint32_t n_binds;   /* 0: a rank may use all of the cluster's */
};

struct rt_share { /* of a host, that a cluster gets */
	uint32_t cores;     /* in proportion to those of the others; at least one, where there are as many cores as clusters */
	bool is_service;    /* where cores are shared it gets none that ranks of others could have */
};

/**
 * rt_topology_cut - into @clusters clusters, out of the processors that this process may use
 * @shares: of each; NULL: all the same
 * @machine: an hwloc synthetic description such as "pack:2 core:4 pu:2" instead, for tests; NULL: this machine
 * Return: number of core domains; *out is @clusters entries on the heap, the caller frees.
 */
int rt_topology_cut(struct rt_cluster_cores **out, uint32_t clusters, const struct rt_share *shares, const char *machine,
                    struct gw_error *why);

/**
 * rt_topology_bind - sets of processors for the ranks of each cluster, in the order in which they are to be used
 * @bind: none; hwthread, core, l1cache .. l5cache, numa, socket, machine, each with :N for N of them; rr (processors in the
 *        kernel's order); user:0+2,1,4-5 (the cluster's processors counted from 0)
 * @map:  the same words: successive sets come from successive ones of these; NULL: in order
 * An object that lies partly in a cluster counts with that part.
 */
int rt_topology_bind(struct rt_cluster_cores *cores, uint32_t clusters, const char *bind, const char *map,
                     const char *machine, struct gw_error *why);

void rt_topology_free(struct rt_cluster_cores *cores, uint32_t clusters); /* NULL ok */

#endif
