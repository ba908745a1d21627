/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench_balance --bounds [SNAPSHOT...]: how near to lower bounds each strategy comes, as a table in Markdown: of snapshots that are made, 60 of
 * each shape, and of recorded ones ('godwit rebalance --snapshot'). No placement has a lower peak than the bound, whatever it costs.
 *
 * bench_balance [RANKS CLUSTERS]: how long deciding takes, and how good it is, on snapshots that are made (made.h). One line for each
 * shape and strategy: milliseconds of a processor, moves, peak before and after, lower bound, bytes between hosts before and after.
 */
#include <stdio.h>
#include <time.h>

#include "runtime/balance/made.h"

static const enum bal_strategy all[] = { BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };

struct row { double before, after, worst, far_before, far_after; uint32_t plans, moves, ranks, used, least; };

/* The fewest domains that can carry the load, were it a liquid, when none is fuller than consolidate makes them */
static uint32_t least_used(const struct bal_snapshot *s)
{
	double load = 0, room = 0, most = 0;

	for (uint32_t r = 0; r < s->nranks; r++)
		load += s->ranks[r].load;
	for (uint32_t c = 0; c < s->nclusters; c++)
		most = fmax(most, s->domains[s->clusters[c].domain].cores * s->domains[s->clusters[c].domain].speed);
	room = most * bal_defaults.fill;
	return room > 0 && load > 0 ? (uint32_t)ceil(load / room - 1e-9) : 1;
}

static int add(struct row *row, const struct bal_snapshot *s, enum bal_strategy strategy)
{
	struct bal_options o = bal_defaults;
	struct bal_plan p;
	int rc;

	o.strategy = strategy;
	rc = bal_plan_make(&p, s, &o, NULL);
	if (rc < 0)
		return rc;
	row->plans++;
	row->before += p.before.peak / p.bound;
	row->after += p.after.peak / p.bound;
	row->worst = fmax(row->worst, p.after.peak / p.bound);
	row->far_before += p.before.far_bytes_s;
	row->far_after += p.after.far_bytes_s;
	row->moves += p.nmoves;
	row->ranks += s->nranks;
	row->used += p.after.used;
	row->least += least_used(s);
	bal_plan_fini(&p);
	return 0;
}

static void print(const char *what, enum bal_strategy strategy, const struct row *row)
{
	double n = row->plans ? row->plans : 1;

	printf("| %s | %s | %.2f | %.3f | %.3f | %.0f | ", what, bal_strategy_name(strategy), row->before / n, row->after / n, row->worst,
	       row->ranks ? 100.0 * row->moves / row->ranks : 0);
	printf("%.3g, %.3g | ", row->far_before / n / 1e6, row->far_after / n / 1e6);
	printf("%.1f of %.1f |\n", row->used / n, row->least / n);
}

static int bounds(char **paths)
{
	static const uint32_t sizes[][2] = { { 8, 2 }, { 40, 4 }, { 64, 7 }, { 300, 16 }, { 1000, 10 } };

	printf("| snapshots | strategy | peak before, of the bound | after: mean | worst | ranks moved, %% | far MB/s before, after | "
	       "clusters used, of the least |\n|---|---|---|---|---|---|---|---|\n");
	for (int shape = 0; shape < MADE_SHAPES; shape++)
		for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
			struct row row = { 0 };

			for (size_t z = 0; z < GW_ARRAY_LEN(sizes); z++)
				for (uint64_t seed = 1; seed <= 12; seed++) {
					struct bal_snapshot *s = made_snapshot(sizes[z][0], sizes[z][1], seed % 2 ? 1 : 4, shape, seed);

					add(&row, s, all[k]);
					bal_snapshot_destroy(s);
				}
			print(made_names[shape], all[k], &row);
		}
	for (; *paths; paths++) {
		const char *name = strrchr(*paths, '/') ? strrchr(*paths, '/') + 1 : *paths;
		struct bal_snapshot *s = NULL;
		struct gw_error why = { 0 };
		json_t *j = json_load_file(*paths, 0, NULL);

		if (!j || bal_snapshot_from_json(&s, j, &why) < 0) {
			fprintf(stderr, "bench_balance: '%s' is no snapshot: %s\n", *paths, j ? why.text : "it cannot be read, or is not JSON");
			json_decref(j);
			return 1;
		}
		for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
			struct row row = { 0 };

			add(&row, s, all[k]);
			print(name, all[k], &row);
		}
		bal_snapshot_destroy(s);
		json_decref(j);
	}
	return 0;
}

/* One thread decides: what it takes of a processor is how long it takes where nobody else wants that one. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	uint32_t nranks = argc > 2 ? (uint32_t)atoi(argv[1]) : 100000, nclusters = argc > 2 ? (uint32_t)atoi(argv[2]) : 1000;

	if (argc > 1 && strcmp(argv[1], "--bounds") == 0)
		return bounds(argv + 2);
	if (nranks < 4 || nclusters < 1) {
		fprintf(stderr, "usage: bench_balance [RANKS CLUSTERS]; bench_balance --bounds [SNAPSHOT...]\n");
		return 2;
	}
	printf("%u ranks, %u clusters of 64 cores, seed 1\n", nranks, nclusters);
	printf("%-22s %-12s %9s %8s %7s %7s %7s %12s %12s\n", "shape", "strategy", "ms", "moves", "before", "after", "bound", "far MB/s",
	       "then");
	for (int shape = 0; shape < MADE_SHAPES; shape++) {
		struct bal_snapshot *s = made_snapshot(nranks, nclusters, 64, shape, 1);

		for (size_t i = 0; i < GW_ARRAY_LEN(all); i++) {
			struct bal_options o = bal_defaults;
			struct bal_plan plan;
			struct gw_error why = { 0 };
			uint64_t start = cpu_ns(), took;
			int rc;

			o.strategy = all[i];
			o.horizon_s = 3600;
			rc = bal_plan_make(&plan, s, &o, &why);
			took = cpu_ns() - start;
			if (rc < 0) {
				printf("%-22s %-12s %s\n", made_names[shape], bal_strategy_name(o.strategy), why.text);
				continue;
			}
			printf("%-22s %-12s %9.1f %8u %7.3f %7.3f %7.3f %12.1f %12.1f\n", made_names[shape], bal_strategy_name(o.strategy),
			       (double)took / 1e6, plan.nmoves, plan.before.peak, plan.after.peak, plan.bound,
			       plan.before.far_bytes_s / 1e6, plan.after.far_bytes_s / 1e6);
			bal_plan_fini(&plan);
		}
		bal_snapshot_destroy(s);
	}
	return 0;
}
