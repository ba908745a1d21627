/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Greedy: everybody is dealt out anew, the heaviest first, each to the bin that is the least full.
 * Source: Graham, Bounds on multiprocessing timing anomalies (LPT), SIAM J. Appl. Math. 1969: at most 4/3 - 1/(3m) of the best.
 *
 * Which of several equal bins a heap of ranks gets is free. It gets the one where most of it is already, so that fewer move.
 */
#include "runtime/balance/inner.h"

#include <stdlib.h>

struct overlap { uint32_t from, to, ranks; }; /* how many ranks of domain @from were dealt to @to */

static int by_ranks(const void *x, const void *y)
{
	const struct overlap *a = x, *b = y;

	if (a->ranks != b->ranks)
		return a->ranks > b->ranks ? -1 : 1;
	return a->from != b->from ? (a->from < b->from ? -1 : 1) : a->to < b->to ? -1 : a->to > b->to;
}

static int by_pair(const void *x, const void *y)
{
	const struct overlap *a = x, *b = y;

	return a->from != b->from ? (a->from < b->from ? -1 : 1) : a->to < b->to ? -1 : a->to > b->to;
}

static bool are_alike(const struct work *w, uint32_t x, uint32_t y)
{
	return w->bins[x].room == w->bins[y].room && w->bins[x].speed == w->bins[y].speed && w->bins[x].open && w->bins[y].open;
}

/* Gives each heap of ranks, by the bin to which it was dealt, the bin where it shall be: is[to] */
static int rename_bins(const struct work *w, const uint32_t *dealt, const bool *is_bound, uint32_t *is)
{
	const struct bal_snapshot *s = w->s;
	struct overlap *o = malloc((s->nranks + 1) * sizeof(*o));
	bool *is_taken = calloc(s->ndomains + 1, sizeof(*is_taken));
	uint32_t n = 0;

	if (!o || !is_taken) {
		free(o);
		free(is_taken);
		return -ENOMEM;
	}
	for (uint32_t r = 0; r < s->nranks; r++)
		o[r] = (struct overlap){ s->clusters[s->ranks[r].cluster].domain, dealt[r], 1 };
	qsort(o, s->nranks, sizeof(*o), by_pair);
	for (uint32_t r = 0; r < s->nranks; r++)
		if (n > 0 && o[n - 1].from == o[r].from && o[n - 1].to == o[r].to)
			o[n - 1].ranks++;
		else
			o[n++] = o[r];
	qsort(o, n, sizeof(*o), by_ranks);
	for (uint32_t d = 0; d < s->ndomains; d++) {
		is[d] = is_bound[d] ? d : BAL_NONE; /* ranks that stay there bind the heap to its bin */
		is_taken[d] = is_bound[d];
	}
	for (uint32_t i = 0; i < n; i++)
		if (is[o[i].to] == BAL_NONE && !is_taken[o[i].from] && are_alike(w, o[i].from, o[i].to)) {
			is[o[i].to] = o[i].from;
			is_taken[o[i].from] = true;
		}
	for (uint32_t d = 0; d < s->ndomains; d++) /* what is left: to itself, or to any that is alike and free */
		if (is[d] == BAL_NONE && !is_taken[d]) {
			is[d] = d;
			is_taken[d] = true;
		}
	for (uint32_t d = 0, e = 0; d < s->ndomains; d++) {
		if (is[d] != BAL_NONE)
			continue;
		for (e = 0; e < s->ndomains && (is_taken[e] || !are_alike(w, d, e)); e++)
			;
		if (e == s->ndomains) /* a chain of exchanges left none: as dealt */
			for (e = 0; e < s->ndomains; e++)
				is[e] = e;
		else {
			is[d] = e;
			is_taken[e] = true;
		}
	}
	free(o);
	free(is_taken);
	return 0;
}

int bal_greedy(struct work *w)
{
	const struct bal_snapshot *s = w->s;
	uint32_t *dealt = malloc((s->nranks + 1) * sizeof(*dealt)), *is = malloc((s->ndomains + 1) * sizeof(*is));
	bool *is_bound = calloc(s->ndomains + 1, sizeof(*is_bound));
	struct heap h = { 0 };
	int rc = -ENOMEM;

	if (!dealt || !is || !is_bound)
		goto out;
	for (uint32_t r = 0; r < s->nranks; r++) {
		dealt[r] = domain_of(w, r);
		if (w->is_fixed[r] || w->bins[dealt[r]].open == 0)
			is_bound[dealt[r]] = true;
		else
			w->bins[dealt[r]].load -= load_of(w, r);
	}
	rc = heap_init(&h, w);
	if (rc < 0)
		goto out;
	for (uint32_t i = 0; i < s->nranks && h.count > 0; i++) {
		uint32_t r = w->order[i];

		if (w->is_fixed[r] || w->bins[domain_of(w, r)].open == 0)
			continue;
		dealt[r] = h.bins[0];
		w->bins[dealt[r]].load += load_of(w, r);
		heap_update(&h, dealt[r]);
	}
	rc = rename_bins(w, dealt, is_bound, is);
	if (rc < 0)
		goto out;
	/* What was dealt becomes moves; who finds no memory there stays. Leavers first would need less room, but none is made up here. */
	for (uint32_t r = 0; r < s->nranks; r++)
		dealt[r] = is[dealt[r]];
	for (uint32_t d = 0; d < s->ndomains; d++)
		w->bins[d].load = 0;
	for (uint32_t r = 0; r < s->nranks; r++)
		w->bins[domain_of(w, r)].load += load_of(w, r);
	for (uint32_t i = 0; i < s->nranks; i++) {
		uint32_t r = w->order[i], to;

		if (w->is_fixed[r] || dealt[r] == domain_of(w, r))
			continue;
		to = work_place(w, r, dealt[r]);
		if (to != BAL_NONE)
			work_move(w, r, to);
	}
	work_improve(w);
	rc = 0;
out:
	heap_fini(&h);
	free(dealt);
	free(is);
	free(is_bound);
	return rc;
}
