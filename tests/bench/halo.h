/* SPDX-License-Identifier: BSD-2-Clause */
/* bench/halo.h: what a rank of the halo exchange computes, with an MPI (onehost.c) and without (ring.c). */
#ifndef BENCH_HALO_H
#define BENCH_HALO_H

#include <stdbool.h>
#include <stdlib.h>

#define EDGE       64     /* doubles: 512 bytes */
#define CELLS      1024   /* of a rank */
#define SWEEPS     8

static double *cells, *next;

/* False: there is no memory. */
static inline bool halo_begin(int rank)
{
	cells = calloc(CELLS, sizeof(double));
	next = calloc(CELLS, sizeof(double));
	for (int k = 0; cells && next && k < CELLS; k++)
		cells[k] = rank + k;
	return cells && next;
}

static inline void halo_end(void)
{
	free(cells);
	free(next);
}

static inline void compute(void)
{
	for (int sweep = 0; sweep < SWEEPS; sweep++) {
		double *swap = cells;

		for (int k = 1; k < CELLS - 1; k++)
			next[k] = 0.25 * cells[k - 1] + 0.5 * cells[k] + 0.25 * cells[k + 1];
		next[0] = cells[0];
		next[CELLS - 1] = cells[CELLS - 1];
		cells = next;
		next = swap;
	}
}

#endif
