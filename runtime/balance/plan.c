/* SPDX-License-Identifier: BSD-2-Clause */
/* From a placement to a plan: what it is worth, which of its moves are, and in which order. */
#include "runtime/balance/inner.h"

#include <math.h>
#include <stdlib.h>

const struct bal_options bal_defaults = { .strategy = BAL_REFINE, .horizon_s = 60, .min_gain = 0.03, .rest_s = 10, .fill = 0.9,
                                         .wanted = BAL_NONE };

static const char *const names[] = { [BAL_OFF] = "off", [BAL_GREEDY] = "greedy", [BAL_REFINE] = "refine", [BAL_COMM] = "comm",
                                     [BAL_CONSOLIDATE] = "consolidate" };

const char *bal_strategy_name(enum bal_strategy s)
{
	return names[s];
}

int bal_strategy_parse(const char *name, enum bal_strategy *out)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(names); i++)
		if (strcmp(name, names[i]) == 0) {
			*out = (enum bal_strategy)i;
			return 0;
		}
	return -EINVAL;
}

/* ---- what a placement is like ------------------------------------------------------------------------------------------- */

/* A rank alone: the part of the time for which it computes on the cores of @d */
static double alone(const struct bal_rank *r, const struct bal_domain *d)
{
	return r->load / (d->speed * fmax(1, fmin(r->width, d->cores)));
}

void bal_measure(struct bal_measures *out, const struct bal_snapshot *s, const uint32_t *at)
{
	double *load = calloc((size_t)s->ndomains + 1, sizeof(*load)), *node = calloc((size_t)s->nclusters + 1, sizeof(*node));
	double *wait = calloc((size_t)s->nranks + 1, sizeof(*wait)), *wait_inside = calloc((size_t)s->nranks + 1, sizeof(*wait));
	double *inside = calloc((size_t)s->nclusters + 1, sizeof(*inside)), busiest = 0;
	bool *is_used = calloc((size_t)s->nclusters + 1, sizeof(*is_used));
	double rate = link_bytes_s(s), message = link_message_s(s);

	*out = (struct bal_measures){ 0 };
	if (!load || !node || !wait || !wait_inside || !inside || !is_used)
		goto out; /* nothing known is nothing gained: no move is made of it */
	for (uint32_t r = 0; r < s->nranks; r++) {
		uint32_t c = at ? at[r] : s->ranks[r].cluster, d = s->clusters[c].domain;

		load[d] += s->ranks[r].load;
		out->peak = fmax(out->peak, alone(&s->ranks[r], &s->domains[d]));
		out->used += !is_used[c];
		is_used[c] = true;
	}
	for (uint32_t d = 0; d < s->ndomains; d++)
		out->peak = fmax(out->peak, load[d] / room_of(&s->domains[d]));
	for (uint32_t e = 0; e < s->nedges; e++) {
		const struct bal_edge *edge = &s->edges[e];
		uint32_t x = at ? at[edge->a] : s->ranks[edge->a].cluster, y = at ? at[edge->b] : s->ranks[edge->b].cluster;
		uint32_t hops = bal_hops(s, x, y), links;
		const struct bal_machine *m = bal_inside(s, x, y);

		out->hop_bytes_s += edge->bytes_s * hops;
		if (m && x != y) { /* in parts of the time: its host's machine tells its own rates */
			double message_s, rate_inside = bal_machine_link(m, &message_s);

			inside[x] += edge->bytes_s * hops / rate_inside;
			inside[y] += edge->bytes_s * hops / rate_inside;
			wait_inside[edge->a] += edge->messages_s / 2 * message_s * hops;
			wait_inside[edge->b] += edge->messages_s / 2 * message_s * hops;
		}
		if (x == y || (!s->machine && s->clusters[x].host == s->clusters[y].host))
			continue;
		out->far_bytes_s += edge->bytes_s;
		links = s->machine ? hops : 1;
		node[s->machine ? x : s->clusters[x].host] += edge->bytes_s * links;
		node[s->machine ? y : s->clusters[y].host] += edge->bytes_s * links;
		wait[edge->a] += edge->messages_s / 2 * message * links; /* of those both ways, one side waits for half */
		wait[edge->b] += edge->messages_s / 2 * message * links;
	}
	for (uint32_t c = 0; c < s->nclusters; c++)
		out->link = fmax(out->link, node[c] / rate);
	for (uint32_t r = 0; r < s->nranks; r++)
		out->link = fmax(out->link, fmin(wait[r], 1));
	for (uint32_t c = 0; c < s->nclusters; c++)
		busiest = fmax(busiest, inside[c]);
	for (uint32_t r = 0; r < s->nranks; r++)
		busiest = fmax(busiest, fmin(wait_inside[r], 1));
	out->link += busiest;
out:
	free(load);
	free(node);
	free(wait);
	free(wait_inside);
	free(inside);
	free(is_used);
}

double bal_bound(const struct bal_snapshot *s)
{
	double load = 0, room = 0, bound = 0, *stays = calloc((size_t)s->ndomains + 1, sizeof(*stays));
	bool *is_open = calloc((size_t)s->ndomains + 1, sizeof(*is_open));

	if (!stays || !is_open)
		goto out;
	for (uint32_t c = 0; c < s->nclusters; c++)
		is_open[s->clusters[c].domain] |= !s->clusters[c].is_closed;
	for (uint32_t r = 0; r < s->nranks; r++) {
		const struct bal_rank *rank = &s->ranks[r];
		uint32_t home = s->clusters[rank->cluster].domain;
		double least = rank->is_fixed ? alone(rank, &s->domains[home]) : INFINITY;

		load += rank->load;
		if (rank->is_fixed) {
			stays[home] += rank->load;
		} else if (rank->load > bound) { /* only one of the heaviest can be the bound: the loop below is rare */
			for (uint32_t d = 0; d < s->ndomains; d++)
				if (is_open[d])
					least = fmin(least, alone(rank, &s->domains[d]));
		}
		if (least < INFINITY)
			bound = fmax(bound, least);
	}
	for (uint32_t d = 0; d < s->ndomains; d++) {
		bound = fmax(bound, stays[d] / room_of(&s->domains[d]));
		if (is_open[d])
			room += room_of(&s->domains[d]);
		else
			load -= stays[d];
	}
	if (room > 0)
		bound = fmax(bound, load / room);
out:
	free(stays);
	free(is_open);
	return bound;
}

/* ---- which moves are worth it ------------------------------------------------------------------------------------------- */

/* Takes moves back whose absence would cost the job less than they do. Not those out of closed clusters. */
static void prune(struct work *w)
{
	const struct bal_snapshot *s = w->s;
	double peak = work_peak(w, NULL);

	for (uint32_t i = s->nranks; i-- > 0; ) { /* the lightest first: they matter least */
		uint32_t r = w->order[i], home = s->ranks[r].cluster, to = w->at[r];
		const struct bin *b = &w->bins[s->clusters[home].domain];
		double height;

		if (to == home || s->clusters[home].is_closed)
			continue;
		height = s->clusters[to].domain == s->clusters[home].domain ? 0 : (b->load + load_of(w, r)) / b->room;
		if (w->o->horizon_s * (fmax(height, peak) - peak) > s->ranks[r].move_s)
			continue;
		if (w->cluster_room[home] < s->ranks[r].memory_bytes)
			continue;
		work_move(w, r, home);
		peak = work_peak(w, NULL);
	}
}

struct ranked { struct bal_move move; double height; bool is_forced; };

static int by_use(const void *x, const void *y)
{
	const struct ranked *a = x, *b = y;

	if (a->is_forced != b->is_forced)
		return a->is_forced ? -1 : 1;
	if (a->height != b->height)
		return a->height > b->height ? -1 : 1;
	if (a->move.gain_s != b->move.gain_s)
		return a->move.gain_s > b->move.gain_s ? -1 : 1;
	return a->move.rank < b->move.rank ? -1 : 1;
}

/* The moves of a placement. Those out of the fullest domain come first: a plan that is broken off has done what matters most. */
static int list_moves(struct bal_plan *plan, const struct work *w)
{
	const struct bal_snapshot *s = w->s;
	double *load = calloc((size_t)s->ndomains + 1, sizeof(*load)), peak = work_peak(w, NULL);
	struct ranked *list;
	uint32_t n = 0;

	list = calloc((size_t)w->moves + 1, sizeof(*list));
	plan->moves = calloc((size_t)w->moves + 1, sizeof(*plan->moves));
	if (!load || !list || !plan->moves) {
		free(load);
		free(list);
		return -ENOMEM;
	}
	for (uint32_t r = 0; r < s->nranks; r++)
		load[s->clusters[s->ranks[r].cluster].domain] += load_of(w, r);
	n = 0;
	for (uint32_t r = 0; r < s->nranks; r++) {
		uint32_t from = s->ranks[r].cluster, d = s->clusters[from].domain;
		double without;

		if (w->at[r] == from)
			continue;
		without = d == domain_of(w, r) ? 0 : (w->bins[d].load + load_of(w, r)) / w->bins[d].room;
		list[n++] = (struct ranked){ { r, from, w->at[r], w->o->horizon_s * fmax(0, without - peak) },
			load[d] / w->bins[d].room, s->clusters[from].is_closed };
	}
	qsort(list, n, sizeof(*list), by_use);
	for (uint32_t i = 0; i < n; i++) {
		plan->moves[i] = list[i].move;
		plan->is_forced |= list[i].is_forced;
	}
	plan->nmoves = n;
	if (w->o->max_moves > 0 && n > w->o->max_moves)
		plan->nmoves = w->o->max_moves;
	free(load);
	free(list);
	return 0;
}

/* ---- the plan ----------------------------------------------------------------------------------------------------------- */

static void say(struct bal_plan *plan, const struct bal_snapshot *s, const struct bal_options *o, const char *not)
{
	const struct bal_measures *b = &plan->before, *a = &plan->after;

	if (not)
		snprintf(plan->words, sizeof(plan->words), "%s: no move: %s", bal_strategy_name(o->strategy), not);
	else if (o->strategy == BAL_CONSOLIDATE)
		snprintf(plan->words, sizeof(plan->words), "consolidate: %u move%s, %u of %u clusters in use instead of %u, the busiest "
		         "domain %.0f %% instead of %.0f %%", plan->nmoves, plan->nmoves == 1 ? "" : "s", a->used, s->nclusters, b->used,
		         100 * a->peak, 100 * b->peak);
	else
		snprintf(plan->words, sizeof(plan->words), "%s: %u move%s, the busiest domain %.0f %% instead of %.0f %% (not below %.0f), far "
		         "%.3g MB/s instead of %.3g; gain %.3g s for %.2g s over %.0f s", bal_strategy_name(o->strategy), plan->nmoves,
		         plan->nmoves == 1 ? "" : "s", 100 * a->peak, 100 * b->peak, 100 * plan->bound, a->far_bytes_s / 1e6,
		         b->far_bytes_s / 1e6, plan->gain_s, plan->cost_s, o->horizon_s);
}

/*
 * Is the placement what the strategy is for, and worth its cost? NULL: yes; else why not. A small gain may be what one interval happened to
 * be like, which the next one is not: there the domain that ranks would leave has to be the one of the look before. Small is of all the
 * time: in an interval in which the job hardly computed, as while it begins, much of what it did is little.
 */
static const char *judge(struct bal_plan *plan, const struct bal_snapshot *s, const struct bal_options *o)
{
	double busy = plan->before.peak + plan->before.link;
	bool is_sure;

	if (plan->nmoves == 0)
		return plan->before.peak <= plan->bound * 1.001 ? "nothing would be better" : "nothing better was found";
	if (plan->is_forced)
		return NULL;
	if (o->strategy == BAL_CONSOLIDATE) {
		if (plan->after.used >= plan->before.used)
			return "no cluster would become free";
		if (plan->after.peak > fmax(plan->before.peak, o->fill) * 1.001)
			return "those that stay would be too full";
		is_sure = !isinf(o->sure_gain);
	} else {
		if (plan->gain_s < o->min_gain * o->horizon_s * fmin(1, busy))
			return "the gain would be too small";
		if (plan->gain_s <= plan->cost_s)
			return "it would cost more than it gains";
		is_sure = plan->gain_s >= o->sure_gain * o->horizon_s;
	}
	plan->wanted = s->clusters[plan->moves[0].from].domain;
	return is_sure || plan->wanted == o->wanted ? NULL : "it has to be seen twice";
}

void bal_plan_fini(struct bal_plan *plan)
{
	free(plan->moves);
	*plan = (struct bal_plan){ 0 };
}

int bal_plan_make(struct bal_plan *plan, const struct bal_snapshot *s, const struct bal_options *o, struct gw_error *why)
{
	struct work w;
	const char *not;
	int rc;

	*plan = (struct bal_plan){ .wanted = BAL_NONE };
	bal_measure(&plan->before, s, NULL);
	plan->after = plan->before;
	plan->bound = bal_bound(s);
	rc = work_init(&w, s, o);
	if (rc < 0)
		return gw_fail(why, rc, "no memory to plan for %u ranks", s->nranks);
	rc = work_evacuate(&w, why);
	if (rc == 0) {
		switch (o->strategy) {
		case BAL_OFF: break;
		case BAL_GREEDY: rc = bal_greedy(&w); break;
		case BAL_REFINE: rc = bal_refine(&w); break;
		case BAL_COMM: rc = bal_comm(&w, why); break;
		case BAL_CONSOLIDATE: rc = bal_consolidate(&w); break;
		}
		if (rc == -ENOMEM)
			gw_fail(why, rc, "no memory to plan for %u ranks", s->nranks);
	}
	if (rc == 0 && (o->strategy == BAL_GREEDY || o->strategy == BAL_REFINE))
		prune(&w);
	if (rc == 0) {
		rc = list_moves(plan, &w);
		if (rc < 0)
			gw_fail(why, rc, "no memory to plan for %u ranks", s->nranks);
	}
	if (rc == 0) {
		if (plan->nmoves > 0 && o->max_moves > 0) { /* those that were cut off stay where they are */
			uint32_t *at = w.at;

			for (uint32_t r = 0; r < s->nranks; r++)
				at[r] = s->ranks[r].cluster;
			for (uint32_t i = 0; i < plan->nmoves; i++)
				at[plan->moves[i].rank] = plan->moves[i].to;
		}
		bal_measure(&plan->after, s, w.at);
		for (uint32_t i = 0; i < plan->nmoves; i++)
			plan->cost_s += s->ranks[plan->moves[i].rank].move_s;
		plan->gain_s = o->horizon_s * (plan->before.peak - plan->after.peak + plan->before.link - plan->after.link);
		not = judge(plan, s, o);
		if (not) {
			free(plan->moves);
			plan->moves = NULL;
			plan->nmoves = 0;
			plan->after = plan->before;
			plan->gain_s = plan->cost_s = 0;
		}
		say(plan, s, o, not);
	} else
		bal_plan_fini(plan);
	work_fini(&w);
	return rc;
}
