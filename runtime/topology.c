/* SPDX-License-Identifier: BSD-2-Clause */
/* Clusters out of hwloc's cores, in hwloc's order, which keeps neighbours together. */
#include "runtime/topology.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdlib.h>

/* Cores in hwloc's logical order: a contiguous run shares as much cache and memory as can be. */
static int collect_cores(hwloc_topology_t topo, cpu_set_t **out)
{
	int depth = hwloc_get_type_or_below_depth(topo, HWLOC_OBJ_CORE);
	int n = (int)hwloc_get_nbobjs_by_depth(topo, depth), kept = 0;
	cpu_set_t *cores = calloc((size_t)(n > 0 ? n : 1), sizeof(*cores));

	if (!cores)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		hwloc_obj_t o = hwloc_get_obj_by_depth(topo, depth, (unsigned)i);

		if (hwloc_bitmap_iszero(o->cpuset))
			continue;
		if (hwloc_cpuset_to_glibc_sched_affinity(topo, o->cpuset, &cores[kept], sizeof(cpu_set_t)) == 0)
			kept++;
	}
	*out = cores;
	return kept;
}

/* Processors that this process may not use (a container's or a batch system's limit) are not ours to give. */
static void restrict_to_own(hwloc_topology_t topo)
{
	hwloc_bitmap_t own = hwloc_bitmap_alloc();

	if (own && hwloc_get_cpubind(topo, own, HWLOC_CPUBIND_PROCESS) == 0 && !hwloc_bitmap_iszero(own))
		hwloc_topology_restrict(topo, own, 0);
	hwloc_bitmap_free(own);
}

int rt_topology_cut(struct rt_cluster_cores **out, uint32_t clusters, const char *machine, struct gw_error *why)
{
	hwloc_topology_t topo;
	struct rt_cluster_cores *cut = NULL;
	cpu_set_t *cores = NULL;
	int n, code = 0;

	if (clusters == 0)
		return gw_fail(why, -EINVAL, "a machine cannot be cut into 0 clusters; ask for 1 or more");
	if (hwloc_topology_init(&topo) < 0)
		return gw_fail(why, -ENOMEM, "hwloc does not start: %s", strerror(errno));
	if (machine && hwloc_topology_set_synthetic(topo, machine) < 0) {
		code = gw_fail(why, -errno, "'%s' describes no machine: %s", machine, strerror(errno));
		goto out;
	}
	if (hwloc_topology_load(topo) < 0) {
		code = gw_fail(why, -EIO, "hwloc cannot read this machine: %s", strerror(errno));
		goto out;
	}
	if (!machine)
		restrict_to_own(topo);
	n = collect_cores(topo, &cores);
	if (n <= 0) {
		code = gw_fail(why, n < 0 ? n : -ENODEV, "hwloc finds no core that this process may use");
		goto out;
	}
	cut = calloc(clusters, sizeof(*cut));
	if (!cut) {
		code = gw_fail(why, -ENOMEM, "no memory for %u clusters", clusters);
		goto out;
	}
	for (uint32_t c = 0; c < clusters; c++) {
		/* fewer clusters than cores: a run of cores each; more: a run of clusters on each core */
		uint32_t from = (uint32_t)((uint64_t)c * (uint32_t)n / clusters);
		uint32_t to = clusters <= (uint32_t)n ? (uint32_t)((uint64_t)(c + 1) * (uint32_t)n / clusters) : from + 1;

		CPU_ZERO(&cut[c].cpus);
		for (uint32_t i = from; i < to; i++)
			CPU_OR(&cut[c].cpus, &cut[c].cpus, &cores[i]);
		cut[c].cores = (uint32_t)CPU_COUNT(&cut[c].cpus);
		cut[c].domain = clusters <= (uint32_t)n ? c : from;
	}
	code = (int)(cut[clusters - 1].domain + 1);
	*out = cut;
out:
	free(cores);
	hwloc_topology_destroy(topo);
	return code;
}
