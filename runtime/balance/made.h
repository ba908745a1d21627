/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots that are made, for tests and the benchmark: of a size, from a seed, in some shapes that programs have.
 */
#ifndef RT_BALANCE_MADE_H
#define RT_BALANCE_MADE_H

#include <math.h>
#include <stdlib.h>

#include "runtime/balance/balance.h"

struct made_dice { uint64_t x; };

static inline double made_random(struct made_dice *d) /* xorshift64*: 0 to 1, the same everywhere */
{
	d->x ^= d->x >> 12;
	d->x ^= d->x << 25;
	d->x ^= d->x >> 27;
	return (double)((d->x * 0x2545f4914f6cdd1dull) >> 11) / 9007199254740992.0;
}

enum made_shape { MADE_EVEN, MADE_RANDOM, MADE_SKEWED, MADE_HEAVY_TAIL, MADE_SHUFFLED_RING, MADE_SHAPES };

__attribute__((unused)) static const char *const made_names[] = { "even", "random", "a quarter four times", "heavy tail",
	"shuffled 2-D halo" };

/*
 * made_snapshot - ranks dealt in blocks over clusters of @cores cores, eight clusters on a host. Loads add up to 90 % of what the
 * busiest cluster can do, as they do when that one sets the pace.
 */
__attribute__((unused)) static struct bal_snapshot *made_snapshot(uint32_t nranks, uint32_t nclusters, double cores,
                                                                   enum made_shape shape, uint64_t seed)
{
	struct made_dice dice = { seed * 2654435761u + 88172645463325252ull };
	uint32_t side = (uint32_t)sqrt((double)nranks), nedges = shape == MADE_SHUFFLED_RING ? 2 * nranks : nranks - 1, k = 0;
	struct bal_snapshot *s = bal_snapshot_create(nranks, nclusters, nclusters, nedges);
	uint32_t *place = malloc((nranks + 1) * sizeof(*place));
	double *height = calloc(nclusters + 1, sizeof(*height)), most = 0;
	struct gw_error why;

	if (!s || !place || !height)
		abort();
	for (uint32_t c = 0; c < nclusters; c++) {
		s->clusters[c] = (struct bal_cluster){ .number = c, .host = c / 8, .domain = c, .memory_bytes = INFINITY };
		s->domains[c] = (struct bal_domain){ .cores = cores, .speed = 1 };
	}
	for (uint32_t r = 0; r < nranks; r++)
		place[r] = r;
	for (uint32_t r = nranks; shape == MADE_SHUFFLED_RING && r-- > 1; ) {
		uint32_t other = (uint32_t)(made_random(&dice) * (r + 1)), x = place[r];

		place[r] = place[other];
		place[other] = x;
	}
	for (uint32_t r = 0; r < nranks; r++) {
		double u = made_random(&dice), load = 1;

		if (shape == MADE_RANDOM)
			load = 0.5 + u;
		else if (shape == MADE_SKEWED)
			load = r < nranks / 4 ? 4 : 1;
		else if (shape == MADE_HEAVY_TAIL)
			load = pow(1 - u, -1 / 1.5);
		s->ranks[r] = (struct bal_rank){ .proc = r, .cluster = (uint32_t)((uint64_t)place[r] * nclusters / nranks), .load = load,
			.width = 1, .move_s = 0.005, .memory_bytes = 1e8, .rested_s = INFINITY };
		height[s->ranks[r].cluster] += load / cores;
	}
	for (uint32_t c = 0; c < nclusters; c++)
		most = fmax(most, height[c]);
	for (uint32_t r = 0; r < nranks; r++) {
		s->ranks[r].load *= 0.9 / most;
		if (s->ranks[r].load > 0.9)
			s->ranks[r].load = 0.9; /* nobody has more than a core */
	}
	for (uint32_t r = 0; r < nranks; r++) {
		if (shape == MADE_SHUFFLED_RING) { /* neighbours in a torus of side by side; what is over is a line */
			uint32_t right = r / side * side + (r + 1) % side, below = (r + side) % (side * side);

			if (r >= side * side)
				right = below = r - 1;
			if (right != r && k < nedges)
				s->edges[k++] = (struct bal_edge){ r < right ? r : right, r < right ? right : r, 2e6, 100 };
			if (below != r && below != right && k < nedges)
				s->edges[k++] = (struct bal_edge){ r < below ? r : below, r < below ? below : r, 2e6, 100 };
		} else if (r > 0)
			s->edges[k++] = (struct bal_edge){ r - 1, r, 1e4, 10 };
	}
	s->nedges = k;
	free(place);
	free(height);
	if (bal_snapshot_check(s, &why) < 0)
		abort();
	return s;
}

#endif
