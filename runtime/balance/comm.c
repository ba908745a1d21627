/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Comm: ranks that talk much come close to each other, and no domain becomes too full. The graph of who talks to whom is mapped by
 * Scotch onto the graph of the machine, beginning with where ranks are: moving has its price in the same currency, seconds.
 * Source: Pellegrini and Roman, Scotch, HPCN 1996; Fourestier and Pellegrini, Adaptation au repartitionnement de graphes d'une
 * methode d'optimisation globale par diffusion, 2011 (remapping).
 */
#include "runtime/balance/inner.h"
#include "runtime/balance/machine.h"
#include "runtime/balance/neighbours.h"

#include <math.h>
#include <scotch.h>
#include <stdlib.h>

#define FEW   5000 /* ranks: several placements are made of them, and the best is taken */
#define UNITS 1e5 /* the largest weight of an edge; sums stay far below SCOTCH_Num's 2^31 for what 100,000 ranks say */

/*
 * Where ranks are mapped to: nodes. With a machine file a node is a cluster, and the architecture is the file's graph with its
 * distances; else it is a host, all equally far, and clusters within one are levelled afterwards; in a job of one host again a cluster.
 * (One graph of all clusters with their hosts' switches was tried: for 1,000 clusters Scotch took minutes to prepare it.)
 */
struct nodes {
	SCOTCH_Graph graph;         /* of a machine file */
	SCOTCH_Arch arch;
	SCOTCH_Num *first, *next, *room, *list;
	uint32_t *of;               /* node of each cluster; BAL_NONE: no rank may go there, nor does one stay */
	uint32_t count;
	bool has_graph, has_arch;
};

static void nodes_fini(struct nodes *a)
{
	if (a->has_arch)
		SCOTCH_archExit(&a->arch);
	if (a->has_graph)
		SCOTCH_graphExit(&a->graph);
	free(a->first);
	free(a->next);
	free(a->room);
	free(a->list);
	free(a->of);
}

/* Which clusters are which node, and what each can carry: 1 to 1000 */
static int number_nodes(struct nodes *a, const struct work *w)
{
	const struct bal_snapshot *s = w->s;
	bool is_by_host = !s->machine && s->nhosts > 1;
	gw_autofree uint32_t *node_of_host = malloc((s->nhosts + 1) * sizeof(*node_of_host));
	gw_autofree double *room = malloc((s->nclusters + 1) * sizeof(*room));
	double most = 0;

	if (!node_of_host || !room)
		return -ENOMEM;
	memset(node_of_host, 0xff, (s->nhosts + 1) * sizeof(*node_of_host));
	memset(a->of, 0xff, s->nclusters * sizeof(*a->of));
	for (uint32_t c = 0; c < s->nclusters; c++) {
		const struct bal_cluster *cl = &s->clusters[c];
		uint32_t *node = is_by_host ? &node_of_host[cl->host] : &a->of[c];

		if ((cl->is_closed && w->cluster_ranks[c] == 0) || (s->machine && cl->number >= s->machine->nclusters))
			continue; /* a cluster that the file does not know keeps its ranks */
		if (*node == BAL_NONE)
			*node = a->count++;
		a->of[c] = *node;
	}
	memset(room, 0, (s->nclusters + 1) * sizeof(*room));
	for (uint32_t c = 0; c < s->nclusters; c++)
		if (a->of[c] != BAL_NONE && !s->clusters[c].is_closed)
			room[a->of[c]] += w->bins[s->clusters[c].domain].room / w->bins[s->clusters[c].domain].open;
	for (uint32_t n = 0; n < a->count; n++)
		most = fmax(most, room[n]);
	for (uint32_t n = 0; n < a->count; n++)
		a->room[n] = (SCOTCH_Num)lround(fmax(1, 1000 * room[n] / (most > 0 ? most : 1)));
	return 0;
}

static SCOTCH_Num *scotch_numbers(const uint32_t *v, size_t n)
{
	SCOTCH_Num *out = malloc((n + 1) * sizeof(*out));

	for (size_t i = 0; out && i < n; i++)
		out[i] = (SCOTCH_Num)v[i];
	return out;
}

static int build_machine(struct nodes *a, const struct bal_snapshot *s)
{
	const struct bal_network *net = &s->machine->data;
	SCOTCH_Num *room = malloc(((size_t)net->nnodes + 1) * sizeof(*room));
	struct neighbours beside = { 0 };

	a->list = malloc(((size_t)a->count + 1) * sizeof(*a->list));
	if (!room || !a->list || neighbours_init(&beside, net->nnodes, net->nedges, net->edges ? net->edges[0] : NULL, sizeof(*net->edges)) < 0) {
		free(room);
		return -ENOMEM;
	}
	for (uint32_t v = 0; v < net->nnodes; v++)
		room[v] = 1;
	for (uint32_t c = 0; c < s->nclusters; c++)
		if (a->of[c] != BAL_NONE) {
			a->list[a->of[c]] = (SCOTCH_Num)s->clusters[c].number;
			room[s->clusters[c].number] = a->room[a->of[c]];
		}
	free(a->room);
	a->room = room;
	a->first = scotch_numbers(beside.first, (size_t)net->nnodes + 1);
	a->next = scotch_numbers(beside.next, 2 * (size_t)net->nedges);
	neighbours_fini(&beside);
	if (!a->first || !a->next)
		return -ENOMEM;
	if (SCOTCH_graphInit(&a->graph) != 0)
		return -EIO;
	a->has_graph = true;
	if (SCOTCH_graphBuild(&a->graph, 0, (SCOTCH_Num)net->nnodes, a->first, NULL, a->room, NULL, 2 * (SCOTCH_Num)net->nedges, a->next,
	                      NULL) != 0 || SCOTCH_archBuild2(&a->arch, &a->graph, (SCOTCH_Num)a->count, a->list) != 0)
		return -EIO;
	return 0;
}

static int nodes_init(struct nodes *a, const struct work *w)
{
	*a = (struct nodes){ 0 };
	a->of = malloc(((size_t)w->s->nclusters + 1) * sizeof(*a->of));
	a->room = calloc((size_t)w->s->nclusters + 1, sizeof(*a->room));
	if (!a->of || !a->room)
		return -ENOMEM;
	if (number_nodes(a, w) < 0)
		return -ENOMEM;
	if (a->count < 2)
		return 0;
	if (SCOTCH_archInit(&a->arch) != 0)
		return -EIO;
	a->has_arch = true;
	if (w->s->machine)
		return build_machine(a, w->s);
	return SCOTCH_archCmpltw(&a->arch, (SCOTCH_Num)a->count, a->room) == 0 ? 0 : -EIO;
}

/* Who talks to whom, in what a link's time for it would be over the horizon; and what a move costs, in the same. */
struct talk {
	SCOTCH_Graph graph;
	SCOTCH_Num *first, *next, *weight, *load, *price, *old, *part, *fixed; /* fixed: where a rank stays, or -1 */
	bool has_graph;
};

static void talk_fini(struct talk *t)
{
	if (t->has_graph)
		SCOTCH_graphExit(&t->graph);
	free(t->first);
	free(t->next);
	free(t->weight);
	free(t->load);
	free(t->price);
	free(t->old);
	free(t->part);
	free(t->fixed);
}

static int talk_init(struct talk *t, const struct work *w, const uint32_t *node)
{
	const struct bal_snapshot *s = w->s;
	double rate = link_bytes_s(s), message = link_message_s(s);
	double most = 0, heaviest = 0, scale;
	size_t n = s->nranks, m = 2 * (size_t)s->nedges;
	struct neighbours beside;

	*t = (struct talk){ 0 };
	if (neighbours_init(&beside, s->nranks, s->nedges, s->edges ? &s->edges[0].a : NULL, sizeof(*s->edges)) < 0)
		return -ENOMEM;
	t->first = scotch_numbers(beside.first, n + 1);
	t->next = scotch_numbers(beside.next, m);
	t->weight = malloc((m + 1) * sizeof(*t->weight));
	t->load = malloc((n + 1) * sizeof(*t->load));
	t->price = malloc((n + 1) * sizeof(*t->price));
	t->old = malloc((n + 1) * sizeof(*t->old));
	t->part = malloc((n + 1) * sizeof(*t->part));
	t->fixed = malloc((n + 1) * sizeof(*t->fixed));
	if (!t->first || !t->next || !t->weight || !t->load || !t->price || !t->old || !t->part || !t->fixed)
		goto nomem;
	for (uint32_t e = 0; e < s->nedges; e++)
		most = fmax(most, s->edges[e].bytes_s / rate + s->edges[e].messages_s * message);
	for (uint32_t r = 0; r < n; r++)
		heaviest = fmax(heaviest, load_of(w, r));
	scale = most > 0 ? UNITS / most : 1;
	for (size_t i = 0; i < m; i++) {
		const struct bal_edge *edge = &s->edges[beside.edge[i]];

		t->weight[i] = (SCOTCH_Num)lround(fmax(1, scale * (edge->bytes_s / rate + edge->messages_s * message)));
	}
	for (uint32_t r = 0; r < n; r++) {
		double price = scale * s->ranks[r].move_s / w->o->horizon_s;

		t->load[r] = (SCOTCH_Num)lround(fmax(1, heaviest > 0 ? 1000 * load_of(w, r) / heaviest : 1));
		t->price[r] = (SCOTCH_Num)lround(fmin(fmax(1, price), UNITS));
		t->old[r] = node[w->at[r]] == BAL_NONE ? -1 : (SCOTCH_Num)node[w->at[r]];
		t->fixed[r] = w->is_fixed[r] ? t->old[r] : -1;
	}
	if (SCOTCH_graphInit(&t->graph) != 0)
		goto nomem;
	t->has_graph = true;
	if (SCOTCH_graphBuild(&t->graph, 0, (SCOTCH_Num)n, t->first, NULL, t->load, NULL, (SCOTCH_Num)m, t->next, t->weight) != 0)
		goto nomem;
	neighbours_fini(&beside);
	return 0;
nomem:
	neighbours_fini(&beside);
	talk_fini(t);
	return -ENOMEM;
}

/* What a placement is worth over the horizon, its cost taken off, in seconds. What the busiest link or rank gains counts as in
 * plans; all other bytes that travel less far count a little, so that of two such placements the better is taken. */
static double value_of(const struct work *w)
{
	struct bal_measures m;
	double rate = link_bytes_s(w->s);

	bal_measure(&m, w->s, w->at);
	return -w->o->horizon_s * (m.peak + m.link + 1e-3 * m.hop_bytes_s / rate) - w->cost;
}

static void keep_better(struct work *w, uint32_t *best, double *best_value)
{
	double value = value_of(w);

	if (value <= *best_value)
		return;
	*best_value = value;
	memcpy(best, w->at, w->s->nranks * sizeof(*best));
}

/* @slack: by how much nodes may differ. With one thread: on a machine that is full of ranks, Scotch's threads would wait for each
 * other. */
static int map(struct talk *t, struct nodes *a, uint32_t nranks, double slack)
{
	SCOTCH_Context context;
	SCOTCH_Graph bound;
	SCOTCH_Strat strat;
	int rc = -EIO;

	memcpy(t->part, t->fixed, nranks * sizeof(*t->part));
	if (SCOTCH_contextInit(&context) != 0)
		return -EIO;
	SCOTCH_graphInit(&bound);
	SCOTCH_stratInit(&strat);
	SCOTCH_contextRandomReset(&context); /* the same snapshot gives the same plan */
	SCOTCH_stratGraphMapBuild(&strat, SCOTCH_STRATBALANCE, (SCOTCH_Num)a->count, slack);
	if (SCOTCH_contextThreadSpawn(&context, 1, NULL) == 0 && SCOTCH_contextBindGraph(&context, &t->graph, &bound) == 0 &&
	    SCOTCH_graphRemapFixed(&bound, &a->arch, t->old, 1.0, t->price, &strat, t->part) == 0)
		rc = 0;
	SCOTCH_graphExit(&bound);
	SCOTCH_stratExit(&strat);
	SCOTCH_contextExit(&context);
	return rc;
}

/* The least full domain of a node that has a place for a rank. */
static uint32_t place_in(const struct work *w, const struct nodes *a, uint32_t node, uint32_t rank)
{
	uint32_t best = BAL_NONE;

	for (uint32_t c = 0; c < w->s->nclusters; c++) {
		uint32_t d = w->s->clusters[c].domain;

		if (a->of[c] != node || w->s->clusters[c].is_closed || w->cluster_room[c] < w->s->ranks[rank].memory_bytes)
			continue;
		if (best == BAL_NONE || bin_height(&w->bins[d]) < bin_height(&w->bins[w->s->clusters[best].domain]))
			best = c;
	}
	return best;
}

/* Into the nodes that Scotch says. Who finds no memory there stays. */
static void take_over(struct work *w, const struct nodes *a, SCOTCH_Num *part)
{
	for (uint32_t r = 0; r < w->s->nranks; r++) {
		if (w->is_fixed[r] || (uint32_t)part[r] == a->of[w->at[r]])
			part[r] = -1;
		if (part[r] >= 0) /* whoever leaves weighs nothing when others look for a place */
			w->bins[domain_of(w, r)].load -= load_of(w, r);
	}
	for (uint32_t i = 0; i < w->s->nranks; i++) {
		uint32_t r = w->order[i], to;

		if (part[r] < 0)
			continue;
		to = place_in(w, a, (uint32_t)part[r], r);
		w->bins[domain_of(w, r)].load += load_of(w, r);
		if (to != BAL_NONE)
			work_move(w, r, to);
	}
}

/* The part of the placement that is on one host, as a snapshot of its own; whoever comes there pays for the move whichever cluster it takes.
 * @rank_of, @cluster_of: of the whole. NULL: no memory */
static struct bal_snapshot *part_on(const struct work *w, uint32_t host, uint32_t *rank_of, uint32_t *cluster_of)
{
	const struct bal_snapshot *s = w->s;
	gw_autofree uint32_t *index = malloc(((size_t)s->nranks + 1) * sizeof(*index));
	gw_autofree uint32_t *place = malloc(((size_t)s->nclusters + 1) * sizeof(*place));
	uint32_t n = 0, nc = 0, edges = 0;
	struct bal_snapshot *part;

	if (!index || !place)
		return NULL;
	for (uint32_t c = 0; c < s->nclusters; c++)
		if (s->clusters[c].host == host) {
			place[c] = nc;
			cluster_of[nc++] = c;
		}
	for (uint32_t r = 0; r < s->nranks; r++) {
		index[r] = s->clusters[w->at[r]].host == host ? n : BAL_NONE;
		if (index[r] != BAL_NONE)
			rank_of[n++] = r;
	}
	for (uint32_t e = 0; e < s->nedges; e++)
		edges += index[s->edges[e].a] != BAL_NONE && index[s->edges[e].b] != BAL_NONE;
	part = bal_snapshot_create(n, nc, s->ndomains, edges);
	if (!part)
		return NULL;
	memcpy(part->domains, s->domains, s->ndomains * sizeof(*s->domains));
	for (uint32_t i = 0; i < nc; i++) {
		part->clusters[i] = s->clusters[cluster_of[i]];
		part->clusters[i].number = part->clusters[i].inside;
		part->clusters[i].host = 0;
		part->clusters[i].memory_bytes = fmax(0, w->cluster_room[cluster_of[i]]);
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t r = rank_of[i];

		part->ranks[i] = s->ranks[r];
		part->ranks[i].cluster = place[w->at[r]];
		part->ranks[i].is_fixed = w->is_fixed[r];
		part->ranks[i].rested_s = INFINITY;
		if (w->at[r] != s->ranks[r].cluster)
			part->ranks[i].move_s = 0;
	}
	for (uint32_t e = 0, k = 0; e < s->nedges; e++)
		if (index[s->edges[e].a] != BAL_NONE && index[s->edges[e].b] != BAL_NONE) {
			part->edges[k] = s->edges[e];
			part->edges[k].a = index[s->edges[e].a];
			part->edges[k++].b = index[s->edges[e].b];
		}
	part->nhosts = 1;
	part->machine = s->inside[host];
	part->link_bytes_s = bal_machine_link(part->machine, &part->link_message_s);
	return part;
}

/* Where distances within hosts are known, ranks of each come close to each other there, too. */
static int place_inside(struct work *w, struct gw_error *why)
{
	const struct bal_snapshot *s = w->s;
	gw_autofree uint32_t *rank_of = malloc(((size_t)s->nranks + 1) * sizeof(*rank_of));
	gw_autofree uint32_t *cluster_of = malloc(((size_t)s->nclusters + 1) * sizeof(*cluster_of));
	int rc = 0;

	if (!s->inside || s->machine)
		return 0;
	if (!rank_of || !cluster_of)
		return -ENOMEM;
	for (uint32_t host = 0; host < s->nhosts && rc == 0; host++) {
		struct bal_snapshot *part;
		struct work inner;

		if (!s->inside[host])
			continue;
		part = part_on(w, host, rank_of, cluster_of);
		rc = part ? work_init(&inner, part, w->o) : -ENOMEM;
		if (rc == 0) {
			rc = bal_comm(&inner, why);
			for (uint32_t i = 0; rc == 0 && i < part->nranks; i++)
				work_move(w, rank_of[i], cluster_of[inner.at[i]]);
			work_fini(&inner);
		}
		bal_snapshot_destroy(part);
	}
	return rc;
}

int bal_comm(struct work *w, struct gw_error *why)
{
	/* Of some ranks each is a good part of the load: where nodes have to be level, neighbours are torn apart. */
	static const double slacks[] = { 0.05, 0.2, 0.5 };
	const struct bal_snapshot *s = w->s;
	uint32_t *best = malloc(((size_t)s->nranks + 1) * sizeof(*best)), *from = malloc(((size_t)s->nranks + 1) * sizeof(*from));
	double best_value;
	struct nodes nodes = { 0 };
	struct talk talk = { 0 };
	int rc = -ENOMEM;

	if (!best || !from)
		goto out;
	memcpy(best, w->at, s->nranks * sizeof(*best));
	memcpy(from, w->at, s->nranks * sizeof(*from));
	best_value = value_of(w);
	rc = nodes_init(&nodes, w);
	if (rc == 0 && nodes.count > 1 && s->nedges > 0) {
		rc = talk_init(&talk, w, nodes.of);
		for (uint32_t i = 0; rc == 0 && i < (s->nranks <= FEW ? GW_ARRAY_LEN(slacks) : 1); i++) {
			rc = map(&talk, &nodes, s->nranks, slacks[i]);
			if (rc < 0)
				break;
			take_over(w, &nodes, talk.part);
			keep_better(w, best, &best_value);
			rc = bal_refine(w); /* Scotch's loads are within that slack of level */
			if (rc == 0)
				keep_better(w, best, &best_value);
			if (rc == 0)
				rc = place_inside(w, why);
			if (rc == 0)
				keep_better(w, best, &best_value);
			work_reset(w, from);
		}
		if (rc == 0)
			rc = place_inside(w, why); /* of hosts where all is well */
		if (rc == 0)
			keep_better(w, best, &best_value);
		work_reset(w, from);
		if (rc < 0)
			goto out;
	}
	if (rc == 0)
		rc = bal_refine(w); /* and where nobody talks, this is the better one */
	if (rc < 0)
		goto out;
	keep_better(w, best, &best_value);
	work_reset(w, best);
out:
	if (rc == -EIO)
		gw_fail(why, rc, "the partitioner failed on %u ranks and %u clusters; choose another strategy than comm", s->nranks,
		        s->nclusters);
	talk_fini(&talk);
	nodes_fini(&nodes);
	free(best);
	free(from);
	return rc;
}
