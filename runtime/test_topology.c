/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of cutting machines into clusters. */
#include "runtime/topology.h"

#include <stdlib.h>

#include "tests/tap.h"

/* "0-3|4-7": the processors of each cluster, and the domains as a string of digits */
static void describe(const struct rt_cluster_cores *c, uint32_t n, char *cpus, char *domains)
{
	*cpus = *domains = '\0';
	for (uint32_t i = 0; i < n; i++) {
		int first = -1, last = -1;

		for (int k = 0; k < CPU_SETSIZE; k++)
			if (CPU_ISSET((size_t)k, &c[i].cpus)) {
				first = first < 0 ? k : first;
				last = k;
			}
		cpus += sprintf(cpus, "%s%d-%d", i ? "|" : "", first, last);
		domains += sprintf(domains, "%u", c[i].domain);
	}
}

static void check_shared(const char *machine, uint32_t clusters, const struct rt_share *shares, const char *want_cpus,
                         const char *want_domains, uint32_t want_cores)
{
	struct rt_cluster_cores *cut = NULL;
	struct gw_error why = { 0 };
	char cpus[512], domains[128];
	int n = rt_topology_cut(&cut, clusters, shares, machine, &why);

	if (n < 0) {
		ok(false, "%s into %u: %s", machine, clusters, why.text);
		return;
	}
	describe(cut, clusters, cpus, domains);
	is_str(cpus, want_cpus, "%s into %u clusters: processors", machine, clusters);
	is_str(domains, want_domains, "%s into %u clusters: core domains", machine, clusters);
	is_int(cut[0].cores, want_cores, "%s into %u clusters: what cluster 0 can run at once", machine, clusters);
	is_int(n, cut[clusters - 1].domain + 1, "%s into %u clusters: the number of domains", machine, clusters);
	free(cut);
}

static void check(const char *machine, uint32_t clusters, const char *want_cpus, const char *want_domains, uint32_t want_cores)
{
	check_shared(machine, clusters, NULL, want_cpus, want_domains, want_cores);
}

/* Clusters that are not alike */
static void check_shares(void)
{
	static const struct rt_share three[] = { { 6, false }, { 1, false }, { 1, true } }, large[] = { { 100, false }, { 1, true }, { 1, true } };
	static const struct rt_share many[] = { { 16, false }, { 16, false }, { 16, false }, { 16, false }, { 4, true }, { 4, true } };
	static const struct rt_share uneven[] = { { 8, false }, { 1, false }, { 1, false }, { 1, false }, { 1, false } };

	check_shared("pack:1 core:8 pu:1", 3, three, "0-5|6-6|7-7", "012", 6);
	check_shared("pack:1 core:4 pu:1", 3, large, "0-1|2-2|3-3", "012", 2);
	check_shared("pack:1 core:2 pu:1", 6, many, "0-0|0-0|1-1|1-1|1-1|1-1", "001111", 1);
	check_shared("pack:1 core:4 pu:1", 5, uneven, "0-1|2-2|3-3|3-3|3-3", "02333", 2);
}

/* "0.0.0 0.0.1": package, NUMA node and cache of each cluster */
static void check_near(const char *machine, uint32_t clusters, const char *want)
{
	struct rt_cluster_cores *cut = NULL;
	struct gw_error why = { 0 };
	char text[512] = "";

	if (rt_topology_cut(&cut, clusters, NULL, machine, &why) < 0) {
		ok(false, "%s into %u: %s", machine, clusters, why.text);
		return;
	}
	for (uint32_t c = 0; c < clusters; c++)
		sprintf(text + strlen(text), "%s%u.%u.%u", c ? " " : "", cut[c].near[RT_NEAR_PACKAGE], cut[c].near[RT_NEAR_NUMA],
		        cut[c].near[RT_NEAR_CACHE]);
	is_str(text, want, "%s into %u clusters: what they share", machine, clusters);
	rt_topology_free(cut, clusters);
}

/* "0-3 4": the sets of the first cluster, one after the other */
static void check_binds(const char *machine, uint32_t clusters, uint32_t of, const char *bind, const char *map, const char *want)
{
	struct rt_cluster_cores *cut = NULL;
	struct gw_error why = { 0 };
	char text[512] = "", *at = text;

	if (rt_topology_cut(&cut, clusters, NULL, machine, &why) < 0 ||
	    rt_topology_bind(cut, clusters, bind, map, machine, &why) < 0) {
		is_str(why.text, want, "%s, bound to %s: refused", machine, bind);
		rt_topology_free(cut, clusters);
		return;
	}
	for (uint32_t i = 0; i < cut[of].n_binds; i++) {
		bool is_first = true;

		at += sprintf(at, "%s", i ? " " : "");
		for (int k = 0; k < CPU_SETSIZE; k++)
			if (CPU_ISSET((size_t)k, &cut[of].binds[i])) {
				at += sprintf(at, "%s%d", is_first ? "" : "+", k);
				is_first = false;
			}
	}
	is_str(text, want, "%s, cluster %u of %u, bound to %s, mapped by %s", machine, of, clusters, bind, map ? map : "the same");
	rt_topology_free(cut, clusters);
}

int main(void)
{
	struct rt_cluster_cores *cut = NULL;
	struct gw_error why = { 0 };

	tap_begin(35);
	check("pack:2 core:4 pu:1", 2, "0-3|4-7", "01", 4);
	check("pack:2 core:4 pu:2", 2, "0-7|8-15", "01", 8);
	check_shares();
	check_near("pack:2 numa:2 l3:1 core:1 pu:1", 4, "0.0.0 0.1.1 1.2.2 1.3.3");
	check_near("pack:1 l3:2 core:2 pu:1", 4, "0.0.0 0.0.0 0.0.1 0.0.1");
	check_near("pack:2 core:1 pu:1", 4, "0.0.0 0.0.0 1.0.0 1.0.0");
	check("pack:1 core:8 pu:1", 3, "0-1|2-4|5-7", "012", 2);
	check("pack:1 core:2 pu:1", 4, "0-0|0-0|1-1|1-1", "0011", 1);
	check("pack:1 core:2 pu:1", 3, "0-0|0-0|1-1", "001", 1);
	check("pack:1 core:1 pu:2", 2, "0-1|0-1", "00", 2);
	ok(rt_topology_cut(&cut, 1, NULL, NULL, &why) == 1 && cut[0].cores >= 1, "this machine is one cluster");
	free(cut);
	cut = NULL;
	ok(rt_topology_cut(&cut, 0, NULL, NULL, &why) == -EINVAL && !cut, "no clusters: %s", why.text);
	ok(rt_topology_cut(&cut, 2, NULL, "nonsense", &why) < 0 && !cut, "no machine: %s", why.text);
	check_binds("pack:2 core:2 pu:2", 1, 0, "none", NULL, "");
	check_binds("pack:2 core:2 pu:2", 1, 0, "core", NULL, "0+1 2+3 4+5 6+7");
	check_binds("pack:2 core:2 pu:2", 1, 0, "hwthread", NULL, "0 1 2 3 4 5 6 7");
	check_binds("pack:2 core:2 pu:2", 1, 0, "socket", NULL, "0+1+2+3 4+5+6+7");
	check_binds("pack:2 core:2 pu:2", 1, 0, "core:2", NULL, "0+1+2+3 4+5+6+7");
	check_binds("pack:2 core:2 pu:2", 1, 0, "core", "socket", "0+1 4+5 2+3 6+7");
	check_binds("pack:2 core:2 pu:2", 1, 0, "socket", "core", "0+1+2+3 4+5+6+7");
	check_binds("pack:2 core:2 pu:2", 2, 1, "core", NULL, "4+5 6+7");
	check_binds("pack:2 core:2 pu:2", 4, 3, "socket", NULL, "6+7");
	check_binds("numa:2 core:2 pu:1", 1, 0, "numa", NULL, "0+1 2+3");
	check_binds("pack:2 core:2 pu:2", 2, 1, "user:0+2,1,0-3", NULL, "4+6 5 4+5+6+7");
	check_binds("pack:2 core:2 pu:2", 2, 1, "user:4", NULL,
	            "'user:4': cluster 0 has processors 0 to 3, counted in the cluster");
	check_binds("pack:2 core:2 pu:2", 1, 0, "user:0,,1", NULL, "'user:0,,1' is no list of processors such as 0+2,1,4-5");
	check_binds("pack:2 core:2 pu:2", 1, 0, "l3cache", NULL, "hwloc knows no 'l3cache' on this machine");
	check_binds("pack:2 core:2 pu:2", 1, 0, "core:0", NULL, "'core:0': after ':' stands how many of them");
	return tap_done();
}
