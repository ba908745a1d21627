/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processors of this cluster, and the sets of them that its ranks are bound to: what the head says, which knows its own
 * machine; on another one, what this daemon finds out itself when the head says how to cut it (`cut` of start).
 */
#include <stdlib.h>

#include "runtime/clusterd/clusterd.h"
#include "runtime/topology.h"

static int take(struct clusterd *d, const cpu_set_t *cpus, const cpu_set_t *binds, uint32_t n_binds)
{
	d->cpus = *cpus;
	d->binds = calloc(n_binds + 1, sizeof(*d->binds));
	d->bind_users = calloc(n_binds + 1, sizeof(*d->bind_users));
	if (!d->binds || !d->bind_users)
		return -ENOMEM;
	if (n_binds)
		memcpy(d->binds, binds, n_binds * sizeof(*binds));
	d->n_binds = n_binds;
	d->cores = (uint32_t)CPU_COUNT(&d->cpus);
	return 0;
}

static int take_told(struct clusterd *d, const json_t *cores, const json_t *binds)
{
	uint32_t n = (uint32_t)json_array_size(binds);
	gw_autofree cpu_set_t *sets = calloc(n + 1, sizeof(*sets));
	cpu_set_t cpus;

	if (!sets)
		return -ENOMEM;
	rt_cpus_read(cores, &cpus);
	for (uint32_t i = 0; i < n; i++)
		rt_cpus_read(json_array_get(binds, i), &sets[i]);
	return take(d, &cpus, sets, n);
}

/* As the head does with its own machine: this host is cut into @count, of which this is the one with @index. */
static int cut_here(struct clusterd *d, const json_t *cut, struct gw_error *why)
{
	struct rt_cluster_cores *all = NULL;
	const json_t *list = json_object_get(cut, "shares");
	gw_autofree struct rt_share *shares = NULL;
	const char *bind = json_string_value(json_object_get(cut, "bind")), *map = json_string_value(json_object_get(cut, "map"));
	json_int_t count = json_integer_value(json_object_get(cut, "count")), index = json_integer_value(json_object_get(cut, "index"));
	int code;

	if (count <= 0 || count > RT_CLUSTERS_MAX || index < 0 || index >= count)
		return gw_fail(why, -EPROTO, "the head's 'start' is malformed: how to cut this host");
	if (json_array_size(list) == (size_t)count)
		shares = calloc((size_t)count, sizeof(*shares));
	for (json_int_t i = 0; shares && i < count; i++) {
		const json_t *one = json_array_get(list, (size_t)i);
		json_int_t cores = json_integer_value(json_array_get(one, 0));

		shares[i] = (struct rt_share){ .cores = cores > 0 && cores <= UINT16_MAX + 1 ? (uint32_t)cores : 1,
		                               .is_service = json_is_true(json_array_get(one, 1)) };
	}
	code = rt_topology_cut(&all, (uint32_t)count, shares, NULL, why);
	if (code >= 0 && bind)
		code = rt_topology_bind(all, (uint32_t)count, bind, map, NULL, why);
	d->cut_domains = code < 0 ? NULL : json_array();
	for (json_int_t i = 0; i < count && d->cut_domains; i++)
		json_array_append_new(d->cut_domains, json_integer((json_int_t)(d->domain + all[i].domain)));
	if (code >= 0) {
		d->domain += all[index].domain;
		memcpy(d->near, all[index].near, sizeof(d->near));
		code = take(d, &all[index].cpus, all[index].binds, all[index].n_binds);
	}
	rt_topology_free(all, (uint32_t)count);
	return code;
}

int place_take(struct clusterd *d, const json_t *start, struct gw_error *why)
{
	const json_t *cut = json_object_get(start, "cut");

	return cut ? cut_here(d, cut, why) : take_told(d, json_object_get(start, "cores"), json_object_get(start, "binds"));
}

json_t *place_json(const struct clusterd *d)
{
	json_t *binds = json_array();

	for (uint32_t i = 0; i < d->n_binds; i++)
		json_array_append_new(binds, rt_cpus_json(&d->binds[i]));
	return json_pack("{s:o, s:o, s:[i, i, i], s:O?}", "cores", rt_cpus_json(&d->cpus), "binds", binds, "near", (int)d->near[0],
	                 (int)d->near[1], (int)d->near[2], "domains", d->cut_domains);
}
