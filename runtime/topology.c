/* SPDX-License-Identifier: BSD-2-Clause */
/* Clusters out of hwloc's cores, in hwloc's order, which keeps neighbours together. */
#include "runtime/topology.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdlib.h>

struct core { cpu_set_t cpus; uint32_t near[RT_NEAR]; };

static void describe_core(hwloc_topology_t topo, hwloc_obj_t o, struct core *core)
{
	hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_PACKAGE, o);
	int node = o->nodeset ? hwloc_bitmap_first(o->nodeset) : -1;

	memset(core->near, 0, sizeof(core->near));
	if (package)
		core->near[RT_NEAR_PACKAGE] = package->logical_index;
	if (node >= 0)
		core->near[RT_NEAR_NUMA] = (uint32_t)node;
	for (hwloc_obj_t up = o; up; up = up->parent)
		if (hwloc_obj_type_is_dcache(up->type))
			core->near[RT_NEAR_CACHE] = up->logical_index;
}

/* Cores in hwloc's logical order: a contiguous run shares as much cache and memory as can be. */
static int collect_cores(hwloc_topology_t topo, struct core **out)
{
	int depth = hwloc_get_type_or_below_depth(topo, HWLOC_OBJ_CORE);
	int n = (int)hwloc_get_nbobjs_by_depth(topo, depth), kept = 0;
	struct core *cores = calloc((size_t)(n > 0 ? n : 1), sizeof(*cores));

	if (!cores)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		hwloc_obj_t o = hwloc_get_obj_by_depth(topo, depth, (unsigned)i);

		if (hwloc_bitmap_iszero(o->cpuset))
			continue;
		if (hwloc_cpuset_to_glibc_sched_affinity(topo, o->cpuset, &cores[kept].cpus, sizeof(cpu_set_t)) == 0)
			describe_core(topo, o, &cores[kept++]);
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

/* hwloc's plugins look for graphics and load the libraries that do: a quarter of the time that a start takes, and nothing
 * that is asked for here. The ranks must not inherit the setting, their own hwloc may want them. */
static int init(hwloc_topology_t *topo)
{
	bool is_ours = !getenv("HWLOC_PLUGINS_PATH") && setenv("HWLOC_PLUGINS_PATH", "/nonexistent", 1) == 0;
	int code = hwloc_topology_init(topo);

	if (is_ours)
		unsetenv("HWLOC_PLUGINS_PATH");
	return code;
}

/* The machine, or what @machine describes; the caller destroys it. */
static int load(hwloc_topology_t *out, const char *machine, struct gw_error *why)
{
	hwloc_topology_t topo;
	int code = 0;

	if (init(&topo) < 0)
		return gw_fail(why, -ENOMEM, "hwloc does not start: %s", strerror(errno));
	if (machine && hwloc_topology_set_synthetic(topo, machine) < 0)
		code = gw_fail(why, -errno, "'%s' describes no machine: %s", machine, strerror(errno));
	else if (hwloc_topology_load(topo) < 0)
		code = gw_fail(why, -EIO, "hwloc cannot read this machine: %s", strerror(errno));
	if (code < 0) {
		hwloc_topology_destroy(topo);
		return code;
	}
	if (!machine)
		restrict_to_own(topo);
	*out = topo;
	return 0;
}

/*
 * Which of @n cores each cluster gets: from[c] to to[c] - 1. Fewer clusters than cores: a run of cores each; more: a run of clusters
 * on each core.
 */
static void share_out(uint32_t clusters, const struct rt_share *shares, uint32_t n, uint32_t *from, uint32_t *to)
{
	bool is_shared = clusters > n;
	uint64_t all = 0, before = 0;
	uint32_t at = 0;

	for (uint32_t c = 0; c < clusters; c++)
		all += !shares ? 1 : is_shared && shares[c].is_service ? 0 : shares[c].cores;
	all += all == 0; /* services only */
	for (uint32_t c = 0; c < clusters; c++) {
		uint64_t share = !shares ? 1 : is_shared && shares[c].is_service ? 0 : shares[c].cores;
		uint32_t end = (uint32_t)((before + share) * n / all);

		if (is_shared) {
			from[c] = (uint32_t)(before * n / all);
			from[c] -= from[c] == n;
			to[c] = end > from[c] + 1 ? end : from[c] + 1;
		} else {
			end = end > at ? end : at + 1;
			from[c] = at;
			to[c] = at = end < n - (clusters - c - 1) ? end : n - (clusters - c - 1);
		}
		before += share;
	}
}

int rt_topology_cut(struct rt_cluster_cores **out, uint32_t clusters, const struct rt_share *shares, const char *machine,
                    struct gw_error *why)
{
	hwloc_topology_t topo;
	struct rt_cluster_cores *cut = NULL;
	struct core *cores = NULL;
	uint32_t *from = NULL;
	int n, code = 0;

	if (clusters == 0)
		return gw_fail(why, -EINVAL, "a machine cannot be cut into 0 clusters; ask for 1 or more");
	code = load(&topo, machine, why);
	if (code < 0)
		return code;
	n = collect_cores(topo, &cores);
	if (n <= 0) {
		code = gw_fail(why, n < 0 ? n : -ENODEV, "hwloc finds no core that this process may use");
		goto out;
	}
	cut = calloc(clusters, sizeof(*cut));
	from = calloc(2 * (size_t)clusters, sizeof(*from));
	if (!cut || !from) {
		free(cut);
		code = gw_fail(why, -ENOMEM, "no memory for %u clusters", clusters);
		goto out;
	}
	share_out(clusters, shares, (uint32_t)n, from, from + clusters);
	for (uint32_t c = 0; c < clusters; c++) {
		CPU_ZERO(&cut[c].cpus);
		for (uint32_t i = from[c]; i < from[clusters + c]; i++)
			CPU_OR(&cut[c].cpus, &cut[c].cpus, &cores[i].cpus);
		memcpy(cut[c].near, cores[from[c]].near, sizeof(cut[c].near));
		cut[c].cores = (uint32_t)CPU_COUNT(&cut[c].cpus);
		cut[c].domain = clusters <= (uint32_t)n ? c : from[c];
	}
	code = (int)(cut[clusters - 1].domain + 1);
	*out = cut;
out:
	free(from);
	free(cores);
	hwloc_topology_destroy(topo);
	return code;
}

void rt_topology_free(struct rt_cluster_cores *cores, uint32_t clusters)
{
	for (uint32_t c = 0; cores && c < clusters; c++)
		free(cores[c].binds);
	free(cores);
}

/* ---- binding --------------------------------------------------------------------------------------------------------- */

struct sets { /* growing */
	cpu_set_t *list;
	uint32_t n;
};

static int sets_add(struct sets *s, const cpu_set_t *set)
{
	cpu_set_t *more = realloc(s->list, (s->n + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	s->list = more;
	more[s->n++] = *set;
	return 0;
}

static const struct { const char *name; hwloc_obj_type_t type; } kinds[] = {
	{ "hwthread", HWLOC_OBJ_PU },     { "pu", HWLOC_OBJ_PU },           { "core", HWLOC_OBJ_CORE },
	{ "l1cache", HWLOC_OBJ_L1CACHE }, { "l2cache", HWLOC_OBJ_L2CACHE }, { "l3cache", HWLOC_OBJ_L3CACHE },
	{ "l4cache", HWLOC_OBJ_L4CACHE }, { "l5cache", HWLOC_OBJ_L5CACHE }, { "numa", HWLOC_OBJ_NUMANODE },
	{ "numanode", HWLOC_OBJ_NUMANODE }, { "socket", HWLOC_OBJ_PACKAGE }, { "package", HWLOC_OBJ_PACKAGE },
	{ "machine", HWLOC_OBJ_MACHINE }, { "board", HWLOC_OBJ_MACHINE },   { "rr", HWLOC_OBJ_PU },
};

/* "core:2" */
static int parse_kind(const char *word, hwloc_obj_type_t *type, unsigned *group, struct gw_error *why)
{
	size_t len = strcspn(word, ":");
	char end;

	*group = 1;
	if (word[len] && (sscanf(word + len, ":%u%c", group, &end) != 1 || *group == 0))
		return gw_fail(why, -EINVAL, "'%s': after ':' stands how many of them", word);
	for (size_t i = 0; i < GW_ARRAY_LEN(kinds); i++)
		if (strlen(kinds[i].name) == len && strncmp(kinds[i].name, word, len) == 0) {
			*type = kinds[i].type;
			return 0;
		}
	return gw_fail(why, -EINVAL, "'%s' is nothing that ranks can be bound to or mapped by; say none, hwthread, core, l1cache to "
	               "l5cache, numa, socket, machine, rr or user:LIST", word);
}

/* The objects of a kind that have a part in @cluster, each as that part, @group of them together. */
static int sets_of(hwloc_topology_t topo, const char *word, const cpu_set_t *cluster, struct sets *out, struct gw_error *why)
{
	hwloc_obj_type_t type = HWLOC_OBJ_PU;
	hwloc_obj_t o = NULL;
	unsigned group, in_group = 0;
	int code = parse_kind(word, &type, &group, why);

	while (code == 0 && (o = hwloc_get_next_obj_by_type(topo, type, o))) {
		cpu_set_t set;

		if (hwloc_cpuset_to_glibc_sched_affinity(topo, o->cpuset, &set, sizeof(set)) < 0)
			continue;
		CPU_AND(&set, &set, cluster);
		if (CPU_COUNT(&set) == 0 || (out->n && CPU_EQUAL(&set, &out->list[out->n - 1])))
			continue; /* also two kinds of memory beside the same cores */
		if (in_group && in_group < group) {
			CPU_OR(&out->list[out->n - 1], &out->list[out->n - 1], &set);
			in_group++;
			continue;
		}
		in_group = 1;
		code = sets_add(out, &set);
	}
	if (code == -ENOMEM)
		return gw_fail(why, code, "out of memory");
	return code == 0 && out->n == 0 ? gw_fail(why, -ENOENT, "hwloc knows no '%s' on this machine", word) : code;
}

/* Processors in the kernel's order, one each. */
static int sets_round_robin(const cpu_set_t *cluster, struct sets *out)
{
	int code = 0;

	for (int i = 0; i < CPU_SETSIZE && code == 0; i++)
		if (CPU_ISSET((size_t)i, cluster)) {
			cpu_set_t one;

			CPU_ZERO(&one);
			CPU_SET((size_t)i, &one);
			code = sets_add(out, &one);
		}
	return code;
}

/* "0+2,1,4-5": a list of sets */
static int sets_by_user(const char *list, const cpu_set_t *cluster, uint32_t number, struct sets *out, struct gw_error *why)
{
	struct sets each = { 0 };
	const char *at = list;
	int code = sets_round_robin(cluster, &each);

	while (code == 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		do {
			unsigned from, to;
			int used = 0;

			if (sscanf(at, "%u%n", &from, &used) != 1) {
				code = gw_fail(why, -EINVAL, "'user:%s' is no list of processors such as 0+2,1,4-5", list);
				break;
			}
			at += used;
			to = from;
			if (*at == '-' && sscanf(at, "-%u%n", &to, &used) == 1)
				at += used;
			if (to < from || to >= each.n) {
				code = gw_fail(why, -EINVAL, "'user:%s': cluster %u has processors 0 to %u, counted in the cluster", list, number,
				               each.n - 1);
				break;
			}
			for (unsigned i = from; i <= to; i++)
				CPU_OR(&set, &set, &each.list[i]);
		} while (*at == '+' && *++at);
		if (code == 0)
			code = sets_add(out, &set);
		if (code == 0 && *at && *at != ',')
			code = gw_fail(why, -EINVAL, "'user:%s' is no list of processors such as 0+2,1,4-5", list);
		if (code < 0 || !*at++)
			break;
	}
	free(each.list);
	return code;
}

/* The k-th set comes from the k-th domain, and round again; one that lies in several comes once. */
static int deal(const struct sets *sets, const struct sets *domains, struct sets *out)
{
	bool *is_dealt = calloc(sets->n, sizeof(*is_dealt));
	int code = is_dealt ? 0 : -ENOMEM;

	for (uint32_t left = sets->n; left && code == 0;) {
		uint32_t before = left;

		for (uint32_t d = 0; d < domains->n && code == 0; d++)
			for (uint32_t s = 0; s < sets->n; s++) {
				cpu_set_t both;

				CPU_AND(&both, &sets->list[s], &domains->list[d]);
				if (is_dealt[s] || CPU_COUNT(&both) == 0)
					continue;
				is_dealt[s] = true;
				left--;
				code = sets_add(out, &sets->list[s]);
				break;
			}
		if (left == before)
			break; /* in no domain */
	}
	free(is_dealt);
	return code;
}

static int bind_one(hwloc_topology_t topo, struct rt_cluster_cores *c, uint32_t number, const char *bind, const char *map,
                    struct gw_error *why)
{
	struct sets sets = { 0 }, domains = { 0 }, dealt = { 0 };
	int code;

	if (strncmp(bind, "user:", 5) == 0)
		code = sets_by_user(bind + 5, &c->cpus, number, &sets, why);
	else if (strcmp(bind, "rr") == 0)
		code = sets_round_robin(&c->cpus, &sets);
	else
		code = sets_of(topo, bind, &c->cpus, &sets, why);
	if (code == 0 && map) {
		code = sets_of(topo, map, &c->cpus, &domains, why);
		if (code == 0)
			code = deal(&sets, &domains, &dealt);
		free(sets.list);
		sets = dealt;
	}
	free(domains.list);
	if (code < 0) {
		free(sets.list);
		return code;
	}
	c->binds = sets.list;
	c->n_binds = sets.n;
	return 0;
}

int rt_topology_bind(struct rt_cluster_cores *cores, uint32_t clusters, const char *bind, const char *map,
                     const char *machine, struct gw_error *why)
{
	hwloc_topology_t topo;
	int code;

	if (strcmp(bind, "none") == 0)
		return 0;
	code = load(&topo, machine, why);
	if (code < 0)
		return code;
	for (uint32_t c = 0; c < clusters && code == 0; c++)
		code = bind_one(topo, &cores[c], c, bind, map, why);
	hwloc_topology_destroy(topo);
	return code;
}
