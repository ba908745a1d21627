/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench_balance [RANKS CLUSTERS]: how long deciding takes, and how good it is, on snapshots that are made (made.h). One line for each
 * shape and strategy: milliseconds, moves, peak before and after, lower bound, bytes between hosts before and after.
 */
#include <stdio.h>

#include "runtime/balance/made.h"

int main(int argc, char **argv)
{
	uint32_t nranks = argc > 2 ? (uint32_t)atoi(argv[1]) : 100000, nclusters = argc > 2 ? (uint32_t)atoi(argv[2]) : 1000;
	static const enum bal_strategy strategies[] = { BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };

	if (nranks < 4 || nclusters < 1) {
		fprintf(stderr, "usage: bench_balance [RANKS CLUSTERS]\n");
		return 2;
	}
	printf("%u ranks, %u clusters of 64 cores, seed 1\n", nranks, nclusters);
	printf("%-22s %-12s %9s %8s %7s %7s %7s %12s %12s\n", "shape", "strategy", "ms", "moves", "before", "after", "bound", "far MB/s",
	       "then");
	for (int shape = 0; shape < MADE_SHAPES; shape++) {
		struct bal_snapshot *s = made_snapshot(nranks, nclusters, 64, shape, 1);

		for (size_t i = 0; i < GW_ARRAY_LEN(strategies); i++) {
			struct bal_options o = bal_defaults;
			struct bal_plan plan;
			struct gw_error why = { 0 };
			uint64_t start = gw_now_ns(), took;
			int rc;

			o.strategy = strategies[i];
			o.horizon_s = 3600;
			rc = bal_plan_make(&plan, s, &o, &why);
			took = gw_now_ns() - start;
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
