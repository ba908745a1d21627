/* SPDX-License-Identifier: BSD-2-Clause */
/* How a job's clusters lie over its hosts, and where its ranks begin: evenly, or as a machine file says (-machine). */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

/* ---- the file ------------------------------------------------------------------------------------------------------------- */

/* Where machine files are: in the build tree beside this program, or installed. */
static const char *directory(size_t i, char *buf, size_t cap)
{
	static const char *const beside[] = { "machines", "../share/godwit/machines" };

	if (i < GW_ARRAY_LEN(beside))
		return own_path(buf, cap, beside[i]) == 0 ? buf : "";
	return i == GW_ARRAY_LEN(beside) ? GODWIT_PKGDATADIR "/machines" : NULL;
}

/* "mesh3x4, mppa256": what there is to choose from */
static void list_known(char *buf, size_t cap)
{
	char path[4096];
	const char *dir;
	size_t at = 0;

	snprintf(buf, cap, "none is installed");
	for (size_t i = 0; at == 0 && (dir = directory(i, path, sizeof(path))); i++) {
		struct dirent **found;
		int n = scandir(dir, &found, NULL, alphasort);

		for (int k = 0; k < n; k++) {
			if (found[k]->d_name[0] != '.' && at + strlen(found[k]->d_name) + 3 < cap)
				at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", found[k]->d_name);
			free(found[k]);
		}
		if (n >= 0)
			free(found);
	}
}

/* A name without '/' is one of ours, else a file where mpirun was started. */
static int find(const char *name, char *path, size_t cap, struct gw_error *why)
{
	char known[256], place[4096];
	const char *dir;

	for (size_t i = 0; !strchr(name, '/') && (dir = directory(i, place, sizeof(place))); i++) {
		snprintf(path, cap, "%s/%s", dir, name);
		if (access(path, F_OK) == 0)
			return 0;
	}
	snprintf(path, cap, "%s", name);
	if (strchr(name, '/') || access(path, F_OK) == 0)
		return 0;
	list_known(known, sizeof(known));
	return gw_fail(why, -ENOENT, "there is no machine '%.100s' (%s), nor a file of that name; hosts are named with -hosts", name, known);
}

int layout_read(struct job_spec *spec, struct gw_error *why)
{
	char path[4200];

	if (!spec->machine_name) {
		spec->clusters += spec->clusters == 0;
		return 0;
	}
	if (spec->clusters)
		return gw_fail(why, -EINVAL, "-machine and -clusters exclude each other: the machine file says which clusters there are");
	if (find(spec->machine_name, path, sizeof(path), why) < 0)
		return why->code;
	if (bal_machine_read(&spec->machine, path, why) < 0)
		return why->code;
	spec->clusters = bal_machine_clusters(spec->machine);
	return 0;
}

int layout_check(struct job_spec *spec, struct gw_error *why)
{
	uint32_t n = spec->machine ? bal_machine_clusters(spec->machine) : spec->n_hosts;

	if (n < spec->n_hosts)
		return gw_fail(why, -EINVAL, "machine '%.100s' has %u cluster%s, too few for %u hosts", spec->machine_name, n, n == 1 ? "" : "s",
		               spec->n_hosts);
	if (spec->machine)
		spec->clusters = (n + spec->n_hosts - 1) / spec->n_hosts;
	return 0;
}

/* ---- over hosts ----------------------------------------------------------------------------------------------------------- */

uint32_t layout_first(const struct job_spec *spec, uint32_t host)
{
	if (spec->machine)
		return (uint32_t)((uint64_t)host * bal_machine_clusters(spec->machine) / spec->n_hosts);
	return host * spec->clusters;
}

struct rt_share *layout_shares(const struct job_spec *spec, uint32_t first, uint32_t n)
{
	bool is_known = spec->machine && first + n <= bal_machine_clusters(spec->machine); /* hosts that come later are not in the file */
	struct rt_share *shares = is_known ? calloc((size_t)n + 1, sizeof(*shares)) : NULL;

	for (uint32_t i = 0; shares && i < n; i++)
		shares[i] = (struct rt_share){ .cores = bal_machine_cores(spec->machine, first + i),
		                               .is_service = bal_machine_is_service(spec->machine, first + i) };
	return shares;
}

bool layout_is_service(const struct head *h, uint32_t cluster)
{
	return h->spec->machine && bal_machine_is_service(h->spec->machine, cluster);
}

void layout_describe(const struct head *h, uint32_t cluster, json_t *one)
{
	uint32_t service;

	if (!h->spec->machine)
		return;
	service = bal_machine_service(h->spec->machine, cluster);
	json_object_set_new(one, "kind", json_string(layout_is_service(h, cluster) ? "service" : "compute"));
	json_object_set_new(one, "service", service == BAL_NONE ? json_null() : json_integer((json_int_t)service));
}

/* ---- where ranks begin ---------------------------------------------------------------------------------------------------- */

int layout_init(struct layout *l, const struct job_spec *spec)
{
	uint32_t all = layout_first(spec, spec->n_hosts);

	*l = (struct layout){ .clusters = malloc(((size_t)all + 1) * sizeof(*l->clusters)),
		.first = calloc((size_t)spec->n_hosts + 2, sizeof(*l->first)), .host = calloc((size_t)spec->n_hosts + 1, sizeof(*l->host)) };
	if (!l->clusters || !l->first || !l->host) {
		layout_fini(l);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		uint32_t before = l->n_clusters;

		for (uint32_t c = layout_first(spec, i); c < layout_first(spec, i + 1); c++)
			if (!spec->machine || !bal_machine_is_service(spec->machine, c))
				l->clusters[l->n_clusters++] = c;
		if (l->n_clusters == before)
			continue; /* services only */
		l->host[l->n_hosts++] = i;
		l->first[l->n_hosts] = l->n_clusters;
	}
	return 0;
}

void layout_fini(struct layout *l)
{
	free(l->clusters);
	free(l->first);
	free(l->host);
	*l = (struct layout){ 0 };
}

/* The @rank-th of @n ranks of a host, evenly over its clusters */
static uint32_t on_host(const struct layout *l, uint32_t i, uint32_t rank, uint32_t n)
{
	uint32_t count = l->first[i + 1] - l->first[i];

	return l->clusters[l->first[i] + (uint32_t)((uint64_t)rank * count / n)];
}

uint32_t layout_place(const struct layout *l, const struct job_spec *spec, uint32_t rank)
{
	uint32_t ppn = spec->ppn, all = 0;

	if (ppn && (spec->n_hosts == 1 || spec->is_ppn_of_clusters))
		return l->clusters[rank / ppn % l->n_clusters];
	if (ppn) /* of a host, whatever slots it has, as with MPICH */
		return on_host(l, rank / ppn % l->n_hosts, rank % ppn, ppn);
	if (!spec->has_slots || spec->n_hosts == 1)
		return l->clusters[(uint32_t)((uint64_t)rank * l->n_clusters / spec->size)];
	for (uint32_t i = 0; i < l->n_hosts; i++)
		all += spec->hosts[l->host[i]].slots;
	rank %= all;
	for (uint32_t i = 0; i < l->n_hosts; i++) {
		uint32_t slots = spec->hosts[l->host[i]].slots;

		if (rank < slots)
			return on_host(l, i, rank, slots);
		rank -= slots;
	}
	return l->clusters[0];
}

/* ---- services ------------------------------------------------------------------------------------------------------------- */

/* mpirun is what a job has of services: it joins output, reads and writes files and keeps names. It computes where the service
 * clusters of its host do, if no rank computes there. */
void layout_bind(struct head *h)
{
	cpu_set_t services, ranks;

	CPU_ZERO(&services);
	CPU_ZERO(&ranks);
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		const struct cluster *cl = &h->clusters[c];

		if (h->hosts[cl->host].is_remote)
			continue;
		if (layout_is_service(h, c))
			CPU_OR(&services, &services, &cl->cores.cpus);
		else
			CPU_OR(&ranks, &ranks, &cl->cores.cpus);
	}
	CPU_AND(&ranks, &ranks, &services);
	if (CPU_COUNT(&services) == 0 || CPU_COUNT(&ranks) > 0 || sched_getaffinity(0, sizeof(h->own_cpus), &h->own_cpus) < 0)
		return;
	h->is_bound = sched_setaffinity(0, sizeof(services), &services) == 0;
}

void layout_unbind(struct head *h)
{
	if (h->is_bound)
		sched_setaffinity(0, sizeof(h->own_cpus), &h->own_cpus);
	h->is_bound = false;
}
