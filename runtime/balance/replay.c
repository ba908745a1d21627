/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * replay_balance [OPTION=VALUE...] TRACE: what balancing would have made of a program whose load was recorded, and what an oracle would.
 *
 * TRACE is JSON, a list of how much each rank had to do in a stretch of the program's steps (examples/drift --loads says so). Clusters have
 * equal shares; a step takes as long as the fullest computes; a move holds up everybody for some time. Looks, what is believed of loads
 * and plans are those of mpirun -balance. Time is in seconds of a program that takes `alone` when nobody moves.
 *
 * Beside it an oracle, as of tests/bench: before each stretch it knows the stretch's loads, and places ranks by as few moves as
 * bring the fullest cluster within 3 % of the best; and what no moves can do better, were they free.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/balance/balance.h"
#include "runtime/balance/made.h"
#include "runtime/balance/trend.h"

#define CLUSTERS_MAX 64

struct trace { uint32_t ranks, rows; double *loads; /* [rows][ranks] */ };

struct setting {
	double clusters, steps; /* of how many; steps of a stretch */
	double alone;           /* seconds that the program takes when nobody moves */
	double move;            /* seconds for which a move holds it up */
	double believed;        /* what is believed of that; negative: the same */
	double every, horizon, gain, sure, rest; /* of -balance-every, bal_options */
	double last;            /* part of how long loads last, for which a plan is good; 0: no matter */
	double noise;           /* of what is measured, its standard deviation */
	double ahead;           /* intervals: for when loads are foreseen, after the look */
};

static const struct { const char *name; size_t at; } options[] = {
#define OPTION(name) { #name, offsetof(struct setting, name) }
	OPTION(clusters), OPTION(steps), OPTION(alone), OPTION(move), OPTION(believed), OPTION(every), OPTION(horizon), OPTION(gain), OPTION(sure),
	OPTION(rest), OPTION(noise), OPTION(ahead), OPTION(last),
};

struct run { double seconds; uint32_t moves, plans; };

static double *loads_of(const struct trace *t, uint32_t row)
{
	return t->loads + (size_t)row * t->ranks;
}

static double fullest(const double *loads, const uint32_t *at, uint32_t ranks, uint32_t clusters)
{
	double bins[CLUSTERS_MAX] = { 0 }, most = 0;

	for (uint32_t r = 0; r < ranks; r++)
		bins[at[r]] += loads[r];
	for (uint32_t c = 0; c < clusters; c++)
		most = fmax(most, bins[c]);
	return most;
}

/* ---- the oracle ----------------------------------------------------------------------------------------------------------- */

/* Moves and exchanges, each the one that helps most, while the fullest is fuller than @enough */
static void improve(const double *loads, uint32_t *at, uint32_t ranks, uint32_t clusters, double enough)
{
	double bins[CLUSTERS_MAX] = { 0 };

	for (uint32_t r = 0; r < ranks; r++)
		bins[at[r]] += loads[r];
	for (;;) {
		uint32_t x = 0, mine = BAL_NONE, other = BAL_NONE, to = 0;
		double best, delta = 0;

		for (uint32_t c = 0; c < clusters; c++)
			x = bins[c] > bins[x] ? c : x;
		if (bins[x] <= enough)
			return;
		best = bins[x] * (1 - 1e-9);
		for (uint32_t r = 0; r < ranks; r++) {
			if (at[r] != x)
				continue;
			for (uint32_t q = 0; q < ranks + clusters; q++) { /* with a rank, or to a cluster */
				uint32_t y = q < ranks ? at[q] : q - ranks;
				double d = loads[r] - (q < ranks ? loads[q] : 0), high = fmax(bins[x] - d, bins[y] + d);

				if (y == x || high >= best)
					continue;
				best = high;
				mine = r;
				other = q < ranks ? q : BAL_NONE;
				to = y;
				delta = d;
			}
		}
		if (mine == BAL_NONE)
			return;
		at[mine] = to;
		if (other != BAL_NONE)
			at[other] = x;
		bins[x] -= delta;
		bins[to] += delta;
	}
}

/* The heaviest first, each to the least full; then improved */
static double best_of(const double *loads, uint32_t ranks, uint32_t clusters)
{
	uint32_t *at = calloc(ranks, sizeof(*at));
	bool *is_dealt = calloc(ranks, sizeof(*is_dealt));
	double bins[CLUSTERS_MAX] = { 0 }, best;

	for (uint32_t i = 0; i < ranks; i++) {
		uint32_t r = BAL_NONE, c = 0;

		for (uint32_t q = 0; q < ranks; q++)
			if (!is_dealt[q] && (r == BAL_NONE || loads[q] > loads[r]))
				r = q;
		for (uint32_t d = 1; d < clusters; d++)
			c = bins[d] < bins[c] ? d : c;
		at[r] = c;
		bins[c] += loads[r];
		is_dealt[r] = true;
	}
	improve(loads, at, ranks, clusters, 0);
	best = fullest(loads, at, ranks, clusters);
	free(is_dealt);
	free(at);
	return best;
}

static struct run oracle(const struct trace *t, const struct setting *o, double second)
{
	uint32_t clusters = (uint32_t)o->clusters, *at = calloc(t->ranks, sizeof(*at)), *before = calloc(t->ranks, sizeof(*at));
	struct run run = { 0 };

	for (uint32_t r = 0; r < t->ranks; r++)
		at[r] = r * clusters / t->ranks;
	for (uint32_t k = 0; k < t->rows; k++) {
		const double *l = loads_of(t, k);

		memcpy(before, at, t->ranks * sizeof(*at));
		improve(l, at, t->ranks, clusters, 1.03 * best_of(l, t->ranks, clusters));
		for (uint32_t r = 0; r < t->ranks; r++)
			run.moves += at[r] != before[r];
		run.seconds += second * fullest(l, at, t->ranks, clusters);
	}
	run.plans = t->rows;
	run.seconds += run.moves * o->move;
	free(at);
	free(before);
	return run;
}

/* ---- balancing ------------------------------------------------------------------------------------------------------------ */

static double normal(struct made_dice *d)
{
	return sqrt(-2 * log(1 - made_random(d))) * cos(2 * 3.14159265358979 * made_random(d));
}

static struct run balanced(const struct trace *t, const struct setting *o, double second)
{
	uint32_t clusters = (uint32_t)o->clusters, steps = (uint32_t)o->steps, n = t->ranks;
	struct bal_snapshot *s = bal_snapshot_create(n, clusters, clusters, 0);
	struct bal_trend *trend = calloc(n, sizeof(*trend));
	double *used = calloc(n, sizeof(*used)), *fresh = calloc(n, sizeof(*fresh)), *moved = calloc(n, sizeof(*moved));
	double now = 0, looked = 0;
	struct made_dice dice = { 42 };
	struct bal_options how = bal_defaults;
	struct run run = { 0 };
	struct gw_error why = { 0 };

	how.strategy = BAL_REFINE;
	how.horizon_s = o->horizon;
	how.min_gain = o->gain;
	how.sure_gain = o->sure;
	how.rest_s = o->rest;
	for (uint32_t c = 0; c < clusters; c++) {
		s->clusters[c] = (struct bal_cluster){ .number = c, .host = c, .domain = c, .memory_bytes = INFINITY };
		s->domains[c] = (struct bal_domain){ .cores = 1, .speed = 1 };
	}
	for (uint32_t r = 0; r < n; r++) {
		s->ranks[r] = (struct bal_rank){ .proc = r, .cluster = r * clusters / n, .width = 1,
			.move_s = o->believed < 0 ? o->move : o->believed };
		moved[r] = -INFINITY;
	}
	for (uint32_t k = 0; k < t->rows * steps; k++) {
		const double *a = loads_of(t, k / steps), *b = loads_of(t, k / steps + 1 < t->rows ? k / steps + 1 : k / steps);
		double bins[CLUSTERS_MAX] = { 0 }, most = 0, part = (double)(k % steps) / steps, each = second / steps, interval;
		struct bal_plan plan;

		for (uint32_t r = 0; r < n; r++) {
			double load = ((1 - part) * a[r] + part * b[r]) * each;

			used[r] += load;
			bins[s->ranks[r].cluster] += load;
		}
		for (uint32_t c = 0; c < clusters; c++)
			most = fmax(most, bins[c]);
		now += most;
		interval = now - looked;
		if (o->every <= 0 || interval < o->every)
			continue;
		looked = now;
		for (uint32_t r = 0; r < n; r++) {
			fresh[r] = moved[r] > now - interval ? -1 : fmax(0, used[r] / interval * (1 + o->noise * normal(&dice)));
			used[r] = 0;
		}
		bal_trend_look(trend, n, fresh, now, interval);
		if (o->last > 0)
			how.horizon_s = fmax(fmin(o->horizon, o->last * bal_trend_lasts(trend, n)), 2 * interval);
		for (uint32_t r = 0; r < n; r++) {
			s->ranks[r].load = bal_trend_ahead(&trend[r], now + o->ahead * interval);
			s->ranks[r].rested_s = now - moved[r];
		}
		if (bal_snapshot_check(s, &why) < 0 || bal_plan_make(&plan, s, &how, &why) < 0) {
			fprintf(stderr, "replay_balance: %s\n", why.text);
			exit(1);
		}
		how.wanted = plan.wanted;
		for (uint32_t i = 0; i < plan.nmoves; i++) {
			s->ranks[plan.moves[i].rank].cluster = plan.moves[i].to;
			now += o->move;
			moved[plan.moves[i].rank] = now;
		}
		run.moves += plan.nmoves;
		run.plans += plan.nmoves > 0;
		bal_plan_fini(&plan);
	}
	run.seconds = now;
	bal_snapshot_destroy(s);
	free(trend);
	free(used);
	free(fresh);
	free(moved);
	return run;
}

/* ---- the program ---------------------------------------------------------------------------------------------------------- */

static int trace_read(struct trace *t, const char *path)
{
	json_t *j = json_load_file(path, 0, NULL), *row;
	size_t k;

	*t = (struct trace){ .rows = (uint32_t)json_array_size(j), .ranks = (uint32_t)json_array_size(json_array_get(j, 0)) };
	t->loads = calloc((size_t)t->rows * t->ranks + 1, sizeof(*t->loads));
	json_array_foreach(j, k, row) {
		if (json_array_size(row) != t->ranks)
			t->rows = 0;
		for (uint32_t r = 0; r < t->ranks && t->rows; r++)
			t->loads[k * t->ranks + r] = json_number_value(json_array_get(row, r));
	}
	json_decref(j);
	return t->loads && t->rows && t->ranks ? 0 : -EINVAL;
}

static int set(struct setting *o, const char *word)
{
	const char *is = strchr(word, '=');
	double value;
	char *end;

	if (!is)
		return -EINVAL;
	value = strtod(is + 1, &end);
	if (end == is + 1 || *end || !isfinite(value))
		return -EINVAL;
	for (size_t i = 0; i < GW_ARRAY_LEN(options); i++)
		if (strlen(options[i].name) == (size_t)(is - word) && strncmp(options[i].name, word, (size_t)(is - word)) == 0) {
			*(double *)(void *)((char *)o + options[i].at) = value;
			return 0;
		}
	return -EINVAL;
}

int main(int argc, char **argv)
{
	struct setting o = { .clusters = 4, .steps = 2, .alone = 50, .move = 0.05, .believed = -1, .every = 1, .horizon = 10, .gain = 0.03, .sure = 0.08,
		.rest = 2, .noise = 0.02, .ahead = 0.5, .last = 0.2 };
	double alone = 0, best = 0, second;
	uint32_t *at;
	struct trace t;
	struct run is, could;

	for (int i = 1; i + 1 < argc; i++)
		if (set(&o, argv[i]) < 0) {
			fprintf(stderr, "replay_balance: '%s' is no option with a number; see struct setting in runtime/balance/replay.c\n", argv[i]);
			return 2;
		}
	if (argc < 2 || o.clusters < 1 || o.clusters > CLUSTERS_MAX || o.steps < 1) {
		fprintf(stderr, "usage: replay_balance [OPTION=VALUE...] TRACE, for 1 to %d clusters\n", CLUSTERS_MAX);
		return 2;
	}
	if (trace_read(&t, argv[argc - 1]) < 0) {
		fprintf(stderr, "replay_balance: '%s' is no list of lists of the same number of loads\n", argv[argc - 1]);
		return 1;
	}
	at = calloc(t.ranks, sizeof(*at));
	for (uint32_t r = 0; r < t.ranks; r++)
		at[r] = r * (uint32_t)o.clusters / t.ranks;
	for (uint32_t k = 0; k < t.rows; k++) {
		alone += fullest(loads_of(&t, k), at, t.ranks, (uint32_t)o.clusters);
		best += best_of(loads_of(&t, k), t.ranks, (uint32_t)o.clusters);
	}
	second = o.alone / alone;
	is = balanced(&t, &o, second);
	could = oracle(&t, &o, second);
	printf("alone %.1f s, free %.1f s; balanced %.1f s by %u moves in %u plans; oracle %.1f s by %u moves; %.0f %% of its gain\n", o.alone,
	       best * second, is.seconds, is.moves, is.plans, could.seconds, could.moves, 100 * (o.alone - is.seconds) / (o.alone - could.seconds));
	free(at);
	free(t.loads);
	return 0;
}
