/* SPDX-License-Identifier: BSD-2-Clause */
/* Machines: clusters that networks join, and so how many hops lie between them. */
#include "runtime/balance/machine.h"
#include "runtime/balance/inner.h"
#include "runtime/balance/neighbours.h"

#include <stdlib.h>

/* ---- networks ------------------------------------------------------------------------------------------------------------- */

int network_add_edge(struct bal_network *n, uint32_t a, uint32_t b)
{
	if (n->nedges == n->room) {
		uint32_t room = n->room ? 2 * n->room : 64;
		uint32_t (*more)[2] = realloc(n->edges, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		n->edges = more;
		n->room = room;
	}
	n->edges[n->nedges][0] = a;
	n->edges[n->nedges++][1] = b;
	return 0;
}

/* Clusters 0 to the product less one stand in a grid, the last dimension the fastest; each is joined to the next of each. */
int network_lay_mesh(struct bal_network *n, const uint32_t *dims, int ndims, bool is_torus)
{
	uint32_t all = 1, step = 1;

	for (int i = 0; i < ndims; i++)
		all *= dims[i];
	for (int i = ndims - 1; i >= 0; step *= dims[i--])
		for (uint32_t c = 0; c < all; c++) {
			uint32_t x = c / step % dims[i], to = x + 1 < dims[i] ? c + step : c - x * step;

			if (to < c && (!is_torus || dims[i] <= 2)) /* the way around: two that stand alone are neighbours already */
				continue;
			if (to != c && network_add_edge(n, c, to) < 0)
				return -ENOMEM;
		}
	n->nclusters = all;
	n->nnodes = all;
	return 0;
}

/* {2, 4}: a root with 2 switches with 4 clusters each. */
int network_lay_tree(struct bal_network *n, const uint32_t *arity, int levels, uint32_t nclusters)
{
	uint32_t width = 1, above = nclusters, next = nclusters + 1; /* the root */

	for (int i = 0; i < levels; i++) {
		for (uint32_t v = 0; v < width * arity[i]; v++) {
			uint32_t parent = above + v / arity[i], child = i + 1 < levels ? next + v : v;

			if (network_add_edge(n, child, parent) < 0)
				return -ENOMEM;
		}
		above = next;
		width *= arity[i];
		if (i + 1 < levels)
			next += width;
	}
	n->nnodes = next;
	return 0;
}

static int by_ends(const void *x, const void *y)
{
	const uint32_t *a = x, *b = y;

	return a[0] != b[0] ? (a[0] < b[0] ? -1 : 1) : a[1] < b[1] ? -1 : a[1] > b[1];
}

/* A link that is said twice is one: the partitioner wants it so. */
static void unite(struct bal_network *n)
{
	uint32_t kept = 0;

	for (uint32_t e = 0; e < n->nedges; e++)
		if (n->edges[e][0] > n->edges[e][1]) {
			uint32_t lower = n->edges[e][1];

			n->edges[e][1] = n->edges[e][0];
			n->edges[e][0] = lower;
		}
	if (n->nedges)
		qsort(n->edges, n->nedges, sizeof(*n->edges), by_ends);
	for (uint32_t e = 0; e < n->nedges; e++)
		if (kept == 0 || by_ends(n->edges[e], n->edges[kept - 1]) != 0)
			memmove(n->edges[kept++], n->edges[e], sizeof(*n->edges));
	n->nedges = kept;
}

/* Breadth first from each. */
int network_measure(struct bal_network *n, uint32_t apart[2])
{
	gw_autofree uint32_t *queue = malloc(((size_t)n->nnodes + 1) * sizeof(*queue));
	gw_autofree uint16_t *far = malloc(((size_t)n->nnodes + 1) * sizeof(*far));
	struct neighbours beside;
	int rc = 0;

	unite(n);
	n->hops = malloc((size_t)n->nclusters * n->nclusters * sizeof(*n->hops) + 1);
	if (!queue || !far || !n->hops || neighbours_init(&beside, n->nnodes, n->nedges, n->edges ? n->edges[0] : NULL, sizeof(*n->edges)) < 0)
		return -ENOMEM;
	for (uint32_t c = 0; c < n->nclusters && rc == 0; c++) {
		uint32_t head = 0, tail = 0;

		memset(far, 0xff, n->nnodes * sizeof(*far));
		far[c] = 0;
		queue[tail++] = c;
		while (head < tail) {
			uint32_t v = queue[head++];

			for (uint32_t i = beside.first[v]; i < beside.first[v + 1]; i++)
				if (far[beside.next[i]] == UINT16_MAX) {
					far[beside.next[i]] = (uint16_t)(far[v] + 1);
					queue[tail++] = beside.next[i];
				}
		}
		for (uint32_t d = 0; d < n->nclusters; d++) {
			if (far[d] == UINT16_MAX && rc == 0) {
				apart[0] = c;
				apart[1] = d;
				rc = -EINVAL;
			}
			n->hops[(size_t)c * n->nclusters + d] = far[d];
		}
	}
	neighbours_fini(&beside);
	return rc;
}

/* ---- a host --------------------------------------------------------------------------------------------------------------- */

#define HOST_CLUSTERS_MAX 256   /* for more the partitioner takes long to prepare itself */
#define HOST_BYTES_S      1e10  /* what goes from cache to cache, or over memory */
#define HOST_MESSAGE_S    2e-7

static bool is_alike(const uint32_t *near, uint32_t levels, uint32_t a, uint32_t b, uint32_t down_to)
{
	return memcmp(near + (size_t)a * levels, near + (size_t)b * levels, (down_to + 1) * sizeof(*near)) == 0;
}

/* Above each cluster stands a switch for the smallest that it shares, above that one for the next larger, and a root. A level that parts
 * nobody has none. */
static int lay_host(struct bal_network *n, const uint32_t *near, uint32_t levels)
{
	uint32_t root = n->nclusters, groups = 1;
	gw_autofree uint32_t *above = malloc(n->nclusters * sizeof(*above));
	gw_autofree uint32_t *group = malloc(n->nclusters * sizeof(*group));

	if (!above || !group)
		return -ENOMEM;
	n->nnodes = root + 1;
	for (uint32_t c = 0; c < n->nclusters; c++)
		above[c] = root;
	for (uint32_t l = 0; l < levels; l++) {
		uint32_t found = 0;

		for (uint32_t c = 0; c < n->nclusters; c++) {
			uint32_t like = 0;

			while (!is_alike(near, levels, c, like, l))
				like++;
			group[c] = like == c ? n->nnodes + found++ : group[like];
		}
		if (found == groups)
			continue;
		for (uint32_t c = 0; c < n->nclusters; c++) {
			if (group[c] == n->nnodes && network_add_edge(n, n->nnodes++, above[c]) < 0)
				return -ENOMEM;
			above[c] = group[c];
		}
		groups = found;
	}
	for (uint32_t c = 0; c < n->nclusters; c++)
		if (network_add_edge(n, c, above[c]) < 0)
			return -ENOMEM;
	return (int)groups;
}

int bal_machine_of_host(struct bal_machine **out, const uint32_t *near, uint32_t levels, uint32_t clusters)
{
	struct bal_machine *m;
	uint32_t apart[2];
	int rc = 0;

	*out = NULL;
	if (clusters < 2 || clusters > HOST_CLUSTERS_MAX)
		return 0;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	*m = (struct bal_machine){ .nclusters = clusters, .ncompute = clusters, .data.nclusters = clusters, .link_bytes_s = HOST_BYTES_S,
		.message_s = HOST_MESSAGE_S, .is_service = calloc(clusters, sizeof(bool)) };
	rc = m->is_service ? lay_host(&m->data, near, levels) : -ENOMEM;
	if (rc > 1)
		rc = network_measure(&m->data, apart) == 0 ? 2 : -ENOMEM;
	if (rc <= 1) {
		bal_machine_destroy(m);
		return rc < 0 ? rc : 0;
	}
	*out = m;
	return 0;
}

/* ---- machines ------------------------------------------------------------------------------------------------------------- */

static void network_fini(struct bal_network *n)
{
	free(n->edges);
	free(n->hops);
}

void bal_machine_destroy(struct bal_machine *m)
{
	if (!m)
		return;
	network_fini(&m->data);
	network_fini(&m->control);
	free(m->is_service);
	free(m->cores);
	free(m);
}

uint32_t bal_machine_clusters(const struct bal_machine *m)
{
	return m->nclusters;
}

uint32_t bal_machine_compute(const struct bal_machine *m)
{
	return m->ncompute;
}

uint32_t bal_machine_cores(const struct bal_machine *m, uint32_t cluster)
{
	return m->cores && cluster < m->nclusters ? m->cores[cluster] : 1;
}

double bal_machine_link(const struct bal_machine *m, double *message_s)
{
	*message_s = m->message_s;
	return m->link_bytes_s;
}

bool bal_machine_is_service(const struct bal_machine *m, uint32_t cluster)
{
	return cluster < m->nclusters && m->is_service[cluster];
}

uint32_t bal_machine_service(const struct bal_machine *m, uint32_t cluster)
{
	const uint16_t *hops = m->control.hops ? m->control.hops : m->data.hops;
	uint32_t best = BAL_NONE;

	if (cluster >= m->nclusters)
		return BAL_NONE;
	hops += (size_t)cluster * m->nclusters;
	for (uint32_t c = 0; c < m->nclusters; c++)
		if (m->is_service[c] && (best == BAL_NONE || hops[c] < hops[best]))
			best = c;
	return best;
}

#define HOPS_BETWEEN 16 /* hosts: more than any levels of one make */

const struct bal_machine *bal_inside(const struct bal_snapshot *s, uint32_t from, uint32_t to)
{
	const struct bal_machine *m = s->inside && !s->machine ? s->inside[s->clusters[from].host] : NULL;

	return m && s->clusters[from].host == s->clusters[to].host && s->clusters[from].inside < m->nclusters &&
	       s->clusters[to].inside < m->nclusters ? m : NULL;
}

uint32_t bal_hops(const struct bal_snapshot *s, uint32_t from, uint32_t to)
{
	const struct bal_machine *m = s->machine;

	if (from == to)
		return 0;
	if (m && s->clusters[from].number < m->nclusters && s->clusters[to].number < m->nclusters)
		return m->data.hops[(size_t)s->clusters[from].number * m->nclusters + s->clusters[to].number];
	if (s->clusters[from].host != s->clusters[to].host)
		return s->inside ? HOPS_BETWEEN : 4;
	m = bal_inside(s, from, to);
	return m ? m->data.hops[(size_t)s->clusters[from].inside * m->nclusters + s->clusters[to].inside] : 1;
}
