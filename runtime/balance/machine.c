/* SPDX-License-Identifier: BSD-2-Clause */
/* Machine files: how clusters are joined, and so how many hops lie between them. The format is in doc/balance.md. */
#include "runtime/balance/machine.h"

#include <stdlib.h>

#define NODES_MAX 16384 /* clusters and switches of a file */

static int add_edge(struct bal_machine *m, uint32_t a, uint32_t b)
{
	if (m->nedges == m->room) {
		uint32_t room = m->room ? 2 * m->room : 64;
		uint32_t (*more)[2] = realloc(m->edges, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		m->edges = more;
		m->room = room;
	}
	m->edges[m->nedges][0] = a;
	m->edges[m->nedges++][1] = b;
	return 0;
}

/* The numbers of a list such as "torus": [4, 4]; 0: it is not there */
static int numbers(const json_t *j, const char *key, uint32_t v[BAL_DIMS_MAX], struct gw_error *why)
{
	const json_t *list = json_object_get(j, key);
	uint64_t product = 1;
	size_t n = json_array_size(list);

	if (!list)
		return 0;
	if (!json_is_array(list) || n == 0 || n > BAL_DIMS_MAX)
		return gw_fail(why, -EINVAL, "\"%s\" is not a list of 1 to %d numbers", key, BAL_DIMS_MAX);
	for (size_t i = 0; i < n; i++) {
		json_int_t x = json_integer_value(json_array_get(list, i));

		if (x < 1 || x > BAL_CLUSTERS_MAX || (product *= (uint64_t)x) > BAL_CLUSTERS_MAX)
			return gw_fail(why, -EINVAL, "\"%s\" has a number that is not one, or is more than %d clusters in all", key,
			               BAL_CLUSTERS_MAX);
		v[i] = (uint32_t)x;
	}
	return (int)n;
}

/* Clusters 0 to the product less one stand in a grid, the last dimension the fastest; each is joined to the next of each. */
static int lay_grid(struct bal_machine *m, const uint32_t *dims, int ndims, bool is_torus)
{
	uint32_t all = 1, step = 1;

	for (int i = 0; i < ndims; i++)
		all *= dims[i];
	for (int i = ndims - 1; i >= 0; step *= dims[i--])
		for (uint32_t c = 0; c < all; c++) {
			uint32_t x = c / step % dims[i], to = x + 1 < dims[i] ? c + step : c - x * step;

			if (to < c && (!is_torus || dims[i] <= 2)) /* the way around: two that stand alone are neighbours already */
				continue;
			if (to != c && add_edge(m, c, to) < 0)
				return -ENOMEM;
		}
	m->nclusters = all;
	m->nnodes = all;
	return 0;
}

/* "tree": [2, 4]: a root with 2 switches with 4 clusters each. Switches are numbered after all clusters. */
static int lay_tree(struct bal_machine *m, const uint32_t *arity, int levels, uint32_t nclusters)
{
	uint32_t width = 1, above = nclusters, next = nclusters + 1; /* the root */

	for (int i = 0; i < levels; i++) {
		for (uint32_t v = 0; v < width * arity[i]; v++) {
			uint32_t parent = above + v / arity[i], child = i + 1 < levels ? next + v : v;

			if (add_edge(m, child, parent) < 0)
				return -ENOMEM;
		}
		above = next;
		width *= arity[i];
		if (i + 1 < levels)
			next += width;
	}
	m->nnodes = next;
	return 0;
}

/* All distances between clusters, breadth first from each. */
static int measure(struct bal_machine *m, struct gw_error *why)
{
	uint32_t n = m->nnodes, *first = calloc(n + 2, sizeof(*first)), *next = NULL, *queue = malloc((n + 1) * sizeof(*queue));
	uint16_t *far = malloc((n + 1) * sizeof(*far));
	int rc = -ENOMEM;

	m->hops = malloc((size_t)m->nclusters * m->nclusters * sizeof(*m->hops) + 1);
	next = malloc((2 * (size_t)m->nedges + 1) * sizeof(*next));
	if (!first || !queue || !far || !m->hops || !next)
		goto out;
	for (uint32_t e = 0; e < m->nedges; e++) {
		first[m->edges[e][0] + 1]++;
		first[m->edges[e][1] + 1]++;
	}
	for (uint32_t v = 0; v < n; v++)
		first[v + 1] += first[v];
	for (uint32_t e = m->nedges; e-- > 0; ) {
		next[--first[m->edges[e][0] + 1]] = m->edges[e][1];
		next[--first[m->edges[e][1] + 1]] = m->edges[e][0];
	}
	for (uint32_t v = 0; v < n; v++)
		first[v] = first[v + 1];
	first[n] = 2 * m->nedges;
	for (uint32_t c = 0; c < m->nclusters; c++) {
		uint32_t head = 0, tail = 0;

		memset(far, 0xff, n * sizeof(*far));
		far[c] = 0;
		queue[tail++] = c;
		while (head < tail) {
			uint32_t v = queue[head++];

			for (uint32_t i = first[v]; i < first[v + 1]; i++)
				if (far[next[i]] == UINT16_MAX) {
					far[next[i]] = (uint16_t)(far[v] + 1);
					queue[tail++] = next[i];
				}
		}
		for (uint32_t d = 0; d < m->nclusters; d++) {
			if (far[d] == UINT16_MAX) {
				rc = gw_fail(why, -EINVAL, "no way leads from cluster %u to cluster %u; add \"links\"", c, d);
				goto out;
			}
			m->hops[(size_t)c * m->nclusters + d] = far[d];
		}
	}
	rc = 0;
out:
	free(first);
	free(next);
	free(queue);
	free(far);
	return rc;
}

static int parse(struct bal_machine *m, const json_t *j, struct gw_error *why)
{
	uint32_t grid[BAL_DIMS_MAX], torus[BAL_DIMS_MAX], tree[BAL_DIMS_MAX];
	int ngrid = numbers(j, "grid", grid, why), ntorus, ntree, rc = 0;
	const json_t *links = json_object_get(j, "links"), *services = json_object_get(j, "services"), *link;
	json_int_t more = json_integer_value(json_object_get(j, "more"));
	size_t i;

	if (ngrid < 0 || (ntorus = numbers(j, "torus", torus, why)) < 0 || (ntree = numbers(j, "tree", tree, why)) < 0)
		return why->code;
	if ((ngrid > 0) + (ntorus > 0) + (ntree > 0) > 1)
		return gw_fail(why, -EINVAL, "more than one of \"grid\", \"torus\" and \"tree\" is there; join one of them to others "
		               "with \"more\" and \"links\"");
	if (more < 0 || more > BAL_CLUSTERS_MAX)
		return gw_fail(why, -EINVAL, "\"more\" is not a number of clusters");
	if (ntree > 0) {
		uint64_t switches = 1, width = 1;

		for (int k = 0; k < ntree; k++) {
			width *= tree[k];
			switches += k + 1 < ntree ? width : 0;
		}
		if (width + (uint64_t)more + switches > NODES_MAX)
			return gw_fail(why, -EINVAL, "the tree has more than %d clusters and switches", NODES_MAX);
		m->nclusters = (uint32_t)(width + (uint64_t)more);
		m->nlaid = (uint32_t)width;
		rc = lay_tree(m, tree, ntree, m->nclusters);
	} else if (ngrid > 0 || ntorus > 0) {
		rc = ngrid > 0 ? lay_grid(m, grid, ngrid, false) : lay_grid(m, torus, ntorus, true);
		m->nlaid = m->nclusters;
		m->nclusters += (uint32_t)more;
		m->nnodes = m->nclusters;
	} else
		m->nclusters = m->nnodes = (uint32_t)more;
	if (rc < 0)
		return gw_fail(why, rc, "no memory for a machine");
	if (m->nclusters == 0 || m->nclusters > BAL_CLUSTERS_MAX)
		return gw_fail(why, -EINVAL, "it has %u clusters, not 1 to %d; say \"grid\", \"torus\", \"tree\" or \"more\"", m->nclusters,
		               BAL_CLUSTERS_MAX);
	if (links && !json_is_array(links))
		return gw_fail(why, -EINVAL, "\"links\" is not a list of pairs");
	json_array_foreach((json_t *)links, i, link) {
		json_int_t a = json_integer_value(json_array_get(link, 0)), b = json_integer_value(json_array_get(link, 1));

		if (json_array_size(link) != 2 || !json_is_integer(json_array_get(link, 0)) || !json_is_integer(json_array_get(link, 1)) ||
		    a < 0 || b < 0 || a >= m->nclusters || b >= m->nclusters || a == b)
			return gw_fail(why, -EINVAL, "entry %zu of \"links\" is not a pair of two of the clusters 0 to %u", i,
			               m->nclusters - 1);
		if (add_edge(m, (uint32_t)a, (uint32_t)b) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a machine");
	}
	m->is_service = calloc(m->nclusters, sizeof(bool));
	if (!m->is_service)
		return gw_fail(why, -ENOMEM, "no memory for a machine");
	json_array_foreach((json_t *)services, i, link) {
		json_int_t c = json_integer_value(link);

		if (!json_is_integer(link) || c < 0 || c >= m->nclusters)
			return gw_fail(why, -EINVAL, "entry %zu of \"services\" is not one of the clusters 0 to %u", i, m->nclusters - 1);
		m->is_service[c] = true;
	}
	return measure(m, why);
}

int bal_machine_read(struct bal_machine **out, const char *path, struct gw_error *why)
{
	struct bal_machine *m = calloc(1, sizeof(*m));
	struct gw_error inner = { 0 };
	json_error_t bad;
	json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &bad);
	int rc;

	if (!m) {
		json_decref(j);
		return gw_fail(why, -ENOMEM, "no memory for a machine");
	}
	if (!json_is_object(j)) {
		bal_machine_destroy(m);
		if (j)
			json_decref(j);
		else if (bad.line > 0)
			return gw_fail(why, -EINVAL, "machine file '%s', line %d: %s", path, bad.line, bad.text);
		return gw_fail(why, -EINVAL, "machine file '%s' is not JSON of the form that doc/balance.md shows%s%s", path,
		               j ? "" : ": ", j ? "" : bad.text);
	}
	rc = parse(m, j, why ? why : &inner);
	json_decref(j);
	if (rc < 0) {
		bal_machine_destroy(m);
		return gw_fail_more(why ? why : &inner, "machine file '%s': ", path);
	}
	*out = m;
	return 0;
}

void bal_machine_destroy(struct bal_machine *m)
{
	if (!m)
		return;
	free(m->edges);
	free(m->hops);
	free(m->is_service);
	free(m);
}

uint32_t bal_machine_clusters(const struct bal_machine *m)
{
	return m->nclusters;
}

bool bal_machine_is_service(const struct bal_machine *m, uint32_t cluster)
{
	return m->is_service[cluster];
}

uint32_t bal_hops(const struct bal_snapshot *s, uint32_t from, uint32_t to)
{
	const struct bal_machine *m = s->machine;

	if (from == to)
		return 0;
	if (m && s->clusters[from].number < m->nclusters && s->clusters[to].number < m->nclusters)
		return m->hops[(size_t)s->clusters[from].number * m->nclusters + s->clusters[to].number];
	return s->clusters[from].host == s->clusters[to].host ? 1 : 4;
}
