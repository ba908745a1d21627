/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Refine: the fullest bins give away as few ranks as it takes to be no fuller than a target. Several targets are tried, and
 * the placement whose gain over the horizon exceeds its cost by most is kept: a lower peak is not worth any number of moves.
 * Source: Kale and Zheng, the RefineLB strategy of Charm++; the search over targets is its threshold.
 */
#include "runtime/balance/inner.h"

#include <math.h>
#include <stdlib.h>

/* The rank that an overfull bin gives to one that has @room left: the lightest that settles it, else the heaviest that fits. */
static uint32_t giveaway(const struct work *w, uint32_t from, uint32_t to, double excess, double room)
{
	const struct ranks *l = &w->lists[from];
	uint32_t low = 0, high = l->n, fits;

	while (low < high) { /* the first that fits */
		uint32_t mid = (low + high) / 2;

		if (load_of(w, l->v[mid]) > room)
			low = mid + 1;
		else
			high = mid;
	}
	fits = low;
	high = l->n;
	while (low < high) { /* behind the last that settles it */
		uint32_t mid = (low + high) / 2;

		if (load_of(w, l->v[mid]) >= excess)
			low = mid + 1;
		else
			high = mid;
	}
	for (uint32_t i = low > fits ? low - 1 : fits; i < l->n; i++) {
		if (load_of(w, l->v[i]) <= 0)
			return BAL_NONE;
		if (work_place(w, l->v[i], to) != BAL_NONE)
			return l->v[i];
	}
	return BAL_NONE;
}

/* Makes every bin no fuller than @target. Return: false, it did not come out; the placement is then half made. */
static bool level(struct work *w, struct heap *h, double target)
{
	for (uint32_t x = 0; x < w->s->ndomains; x++) {
		struct bin *b = &w->bins[x];

		while (bin_height(b) > target * (1 + 1e-9)) {
			uint32_t y = BAL_NONE, rank = BAL_NONE, to;

			for (uint32_t i = 0; i < h->count && i < 8 && rank == BAL_NONE; i++) {
				y = h->bins[i];
				if (y != x)
					rank = giveaway(w, x, y, b->load - target * b->room,
					                target * w->bins[y].room - w->bins[y].load);
			}
			if (rank == BAL_NONE)
				return false;
			to = work_place(w, rank, y);
			work_move(w, rank, to);
			heap_update(h, x);
			heap_update(h, y);
		}
	}
	return true;
}

static double value_of(const struct work *w, double peak_before)
{
	return w->o->horizon_s * (peak_before - work_peak(w, NULL)) - w->cost;
}

#define TARGETS 14 /* a difference of 1/16384 of a peak is nobody's gain */

int bal_refine(struct work *w)
{
	const struct bal_snapshot *s = w->s;
	uint32_t *from = malloc((s->nranks + 1) * sizeof(*from)), *best = malloc((s->nranks + 1) * sizeof(*best));
	double peak = work_peak(w, NULL), low = fmin(bal_bound(s), peak), high = peak, best_value = -w->cost;
	int rc = -ENOMEM;

	if (!from || !best)
		goto out;
	memcpy(from, w->at, s->nranks * sizeof(*from));
	memcpy(best, w->at, s->nranks * sizeof(*best));
	for (int i = 0; i < TARGETS && high - low > 1e-4 * peak; i++) {
		double target = i == 0 ? low : (low + high) / 2, value;
		struct heap h;
		bool is_level;

		work_reset(w, from);
		rc = heap_init(&h, w);
		if (rc < 0)
			goto out;
		is_level = level(w, &h, target);
		heap_fini(&h);
		if (!is_level) { /* too much is wanted; what ranks in exchange could do is tried for once, below */
			low = target;
			continue;
		}
		high = target;
		value = value_of(w, peak);
		if (value > best_value) {
			best_value = value;
			memcpy(best, w->at, s->nranks * sizeof(*best));
		}
		if (i == 0)
			break;
	}
	work_reset(w, best);
	work_improve(w);
	if (value_of(w, peak) > best_value) {
		best_value = value_of(w, peak);
		memcpy(best, w->at, s->nranks * sizeof(*best));
	}
	/* Or step by step from where they are, as far as that is worth it: of few ranks that is often fewer moves. */
	work_reset(w, from);
	work_improve(w);
	if (value_of(w, peak) > best_value) {
		best_value = value_of(w, peak);
		memcpy(best, w->at, s->nranks * sizeof(*best));
	}
	/* Few heavy ranks can be such that giving away none, nor exchanging two, makes it better: dealing anew finds more. */
	work_reset(w, from);
	rc = bal_greedy(w);
	if (rc < 0)
		goto out;
	if (value_of(w, peak) <= best_value)
		work_reset(w, best);
out:
	free(from);
	free(best);
	return rc;
}
