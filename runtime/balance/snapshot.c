/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots: made, checked, written down and read again. */
#include "runtime/balance/balance.h"

#include <math.h>
#include <stdlib.h>

struct bal_snapshot *bal_snapshot_create(uint32_t nranks, uint32_t nclusters, uint32_t ndomains, uint32_t nedges)
{
	struct bal_snapshot *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->ranks = calloc((size_t)nranks + 1, sizeof(*s->ranks));
	s->clusters = calloc((size_t)nclusters + 1, sizeof(*s->clusters));
	s->domains = calloc((size_t)ndomains + 1, sizeof(*s->domains));
	s->edges = calloc((size_t)nedges + 1, sizeof(*s->edges));
	if (!s->ranks || !s->clusters || !s->domains || !s->edges) {
		bal_snapshot_destroy(s);
		return NULL;
	}
	s->nranks = nranks;
	s->nclusters = nclusters;
	s->ndomains = ndomains;
	s->nedges = nedges;
	return s;
}

void bal_snapshot_destroy(struct bal_snapshot *s)
{
	if (!s)
		return;
	free(s->ranks);
	free(s->clusters);
	free(s->domains);
	free(s->edges);
	free(s);
}

static bool is_amount(double x) /* finite and not negative */
{
	return isfinite(x) && x >= 0;
}

int bal_snapshot_check(struct bal_snapshot *s, struct gw_error *why)
{
	s->nhosts = 0;
	for (uint32_t d = 0; d < s->ndomains; d++) {
		const struct bal_domain *dom = &s->domains[d];

		if (!is_amount(dom->cores) || dom->cores <= 0 || !is_amount(dom->speed) || dom->speed <= 0 || !is_amount(dom->other))
			return gw_fail(why, -EINVAL, "domain %u: cores and speed have to be above 0, and other not below", d);
	}
	for (uint32_t c = 0; c < s->nclusters; c++) {
		const struct bal_cluster *cl = &s->clusters[c];

		if (cl->domain >= s->ndomains)
			return gw_fail(why, -EINVAL, "cluster %u: there is no domain %u", cl->number, cl->domain);
		if (cl->host >= s->nclusters)
			return gw_fail(why, -EINVAL, "cluster %u: host %u is more than there are clusters", cl->number, cl->host);
		if (isnan(cl->memory_bytes) || cl->memory_bytes < 0)
			return gw_fail(why, -EINVAL, "cluster %u: its memory is not an amount", cl->number);
		if (cl->host >= s->nhosts)
			s->nhosts = cl->host + 1;
	}
	for (uint32_t r = 0; r < s->nranks; r++) {
		const struct bal_rank *rank = &s->ranks[r];

		if (rank->cluster >= s->nclusters)
			return gw_fail(why, -EINVAL, "rank %u: there is no cluster with index %u", rank->proc, rank->cluster);
		if (!is_amount(rank->load) || !is_amount(rank->width) || !is_amount(rank->move_s) || !is_amount(rank->memory_bytes) ||
		    isnan(rank->rested_s))
			return gw_fail(why, -EINVAL, "rank %u: load, width, move_s or memory is not an amount", rank->proc);
	}
	for (uint32_t e = 0; e < s->nedges; e++) {
		const struct bal_edge *edge = &s->edges[e];

		if (edge->a >= edge->b || edge->b >= s->nranks || !is_amount(edge->bytes_s) || !is_amount(edge->messages_s))
			return gw_fail(why, -EINVAL, "edge %u is not between two ranks, the lower index first, or has no amounts", e);
	}
	if (!is_amount(s->link_bytes_s) || !is_amount(s->link_message_s))
		return gw_fail(why, -EINVAL, "what a link carries is not an amount");
	return 0;
}

/* JSON has no infinity: what is not known, or has no limit, is left out. */
static void put(json_t *j, const char *key, double x)
{
	if (isfinite(x))
		json_object_set_new(j, key, json_real(x));
}

json_t *bal_snapshot_to_json(const struct bal_snapshot *s)
{
	json_t *ranks = json_array(), *clusters = json_array(), *domains = json_array(), *edges = json_array(), *j;

	for (uint32_t r = 0; r < s->nranks; r++) {
		const struct bal_rank *rank = &s->ranks[r];

		j = json_pack("{s:I, s:I, s:f, s:f, s:f, s:f}", "rank", (json_int_t)rank->proc, "cluster", (json_int_t)rank->cluster,
		              "load", rank->load, "width", rank->width, "move_s", rank->move_s, "memory", rank->memory_bytes);
		if (j)
			put(j, "rested_s", rank->rested_s);
		if (j && rank->is_fixed)
			json_object_set_new(j, "fixed", json_true());
		json_array_append_new(ranks, j);
	}
	for (uint32_t c = 0; c < s->nclusters; c++) {
		const struct bal_cluster *cl = &s->clusters[c];

		j = json_pack("{s:I, s:I, s:I}", "cluster", (json_int_t)cl->number, "host", (json_int_t)cl->host, "domain",
		              (json_int_t)cl->domain);
		if (j)
			put(j, "memory", cl->memory_bytes);
		if (j && cl->is_closed)
			json_object_set_new(j, "closed", json_true());
		json_array_append_new(clusters, j);
	}
	for (uint32_t d = 0; d < s->ndomains; d++)
		json_array_append_new(domains, json_pack("{s:f, s:f, s:f}", "cores", s->domains[d].cores, "speed", s->domains[d].speed,
		                                         "other", s->domains[d].other));
	for (uint32_t e = 0; e < s->nedges; e++)
		json_array_append_new(edges, json_pack("[I, I, f, f]", (json_int_t)s->edges[e].a, (json_int_t)s->edges[e].b,
		                                       s->edges[e].bytes_s, s->edges[e].messages_s));
	return json_pack("{s:o, s:o, s:o, s:o, s:f, s:f}", "ranks", ranks, "clusters", clusters, "domains", domains, "edges", edges,
	                 "link_bytes_s", s->link_bytes_s, "link_message_s", s->link_message_s);
}

static double amount(const json_t *j, const char *key, double otherwise)
{
	const json_t *x = json_object_get(j, key);

	return json_is_number(x) ? json_number_value(x) : otherwise;
}

static uint32_t number(const json_t *j, const char *key) /* what is none is BAL_NONE, which the check then refuses */
{
	const json_t *x = json_object_get(j, key);
	json_int_t v = json_integer_value(x);

	return json_is_integer(x) && v >= 0 && v < BAL_NONE ? (uint32_t)v : BAL_NONE;
}

int bal_snapshot_from_json(struct bal_snapshot **out, const json_t *j, struct gw_error *why)
{
	const json_t *ranks = json_object_get(j, "ranks"), *clusters = json_object_get(j, "clusters");
	const json_t *domains = json_object_get(j, "domains"), *edges = json_object_get(j, "edges"), *x;
	struct bal_snapshot *s;
	size_t i;
	int rc;

	if (!json_is_array(ranks) || !json_is_array(clusters) || !json_is_array(domains))
		return gw_fail(why, -EINVAL, "a snapshot has the lists \"ranks\", \"clusters\" and \"domains\"; one of them is missing");
	s = bal_snapshot_create((uint32_t)json_array_size(ranks), (uint32_t)json_array_size(clusters),
	                        (uint32_t)json_array_size(domains), (uint32_t)json_array_size(edges));
	if (!s)
		return gw_fail(why, -ENOMEM, "no memory for a snapshot");
	json_array_foreach((json_t *)ranks, i, x)
		s->ranks[i] = (struct bal_rank){ .proc = number(x, "rank"), .cluster = number(x, "cluster"), .load = amount(x, "load", -1),
			.width = amount(x, "width", 1), .move_s = amount(x, "move_s", 0), .memory_bytes = amount(x, "memory", 0),
			.rested_s = amount(x, "rested_s", INFINITY), .is_fixed = json_is_true(json_object_get(x, "fixed")) };
	json_array_foreach((json_t *)clusters, i, x)
		s->clusters[i] = (struct bal_cluster){ .number = number(x, "cluster"), .host = number(x, "host"),
			.domain = number(x, "domain"), .memory_bytes = amount(x, "memory", INFINITY),
			.is_closed = json_is_true(json_object_get(x, "closed")) };
	json_array_foreach((json_t *)domains, i, x)
		s->domains[i] = (struct bal_domain){ .cores = amount(x, "cores", 0), .speed = amount(x, "speed", 1),
			.other = amount(x, "other", 0) };
	json_array_foreach((json_t *)edges, i, x) {
		json_int_t a = json_integer_value(json_array_get(x, 0)), b = json_integer_value(json_array_get(x, 1));

		s->edges[i] = (struct bal_edge){ a >= 0 && a < s->nranks ? (uint32_t)a : BAL_NONE,
			b >= 0 && b < s->nranks ? (uint32_t)b : BAL_NONE, json_number_value(json_array_get(x, 2)),
			json_number_value(json_array_get(x, 3)) };
	}
	s->link_bytes_s = amount(j, "link_bytes_s", 0);
	s->link_message_s = amount(j, "link_message_s", 0);
	rc = bal_snapshot_check(s, why);
	if (rc < 0) {
		bal_snapshot_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}
