/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Consolidate: the fewest domains that carry the load, none fuller than bal_options.fill, so that the others can sleep.
 * Those with the most load stay in use; the ranks of the rest are put where they fit, the heaviest first, into the fullest.
 * Source: best fit decreasing; Johnson, Near-optimal bin packing algorithms, 1973.
 */
#include "runtime/balance/inner.h"

#include <stdlib.h>

static const struct work *sorting;

static int by_use(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
	const struct bin *p = &sorting->bins[a], *q = &sorting->bins[b];

	return p->load > q->load ? -1 : p->load < q->load ? 1 : p->room > q->room ? -1 : p->room < q->room ? 1 : a < b ? -1 : a > b;
}

/* Who is in none of the first @keep bins of @bins, or in one that is too full, goes to the fullest of them that has room. False: the
 * others cannot be emptied like that. */
static bool pack(struct work *w, const uint32_t *bins, uint32_t keep, const bool *is_kept)
{
	for (uint32_t i = 0; i < w->s->nranks; i++) {
		uint32_t r = w->order[i], best = BAL_NONE;

		if (is_kept[domain_of(w, r)] && (w->is_fixed[r] || bin_height(&w->bins[domain_of(w, r)]) <= w->o->fill))
			continue;
		if (w->is_fixed[r])
			return false;
		for (uint32_t k = 0; k < keep; k++) {
			const struct bin *b = &w->bins[bins[k]];

			if (bins[k] == domain_of(w, r) || b->load + load_of(w, r) > w->o->fill * b->room ||
			    work_place(w, r, bins[k]) == BAL_NONE)
				continue;
			if (best == BAL_NONE || bin_height(b) > bin_height(&w->bins[best]))
				best = bins[k];
		}
		if (best == BAL_NONE && is_kept[domain_of(w, r)])
			continue; /* too full it was before */
		if (best == BAL_NONE)
			return false;
		work_move(w, r, work_place(w, r, best));
	}
	return true;
}

int bal_consolidate(struct work *w)
{
	const struct bal_snapshot *s = w->s;
	uint32_t *bins = malloc((s->ndomains + 1) * sizeof(*bins)), *from = malloc((s->nranks + 1) * sizeof(*from)), n = 0;
	bool *is_kept = calloc(s->ndomains + 1, sizeof(*is_kept));
	double load = 0, room = 0;
	int rc = -ENOMEM;

	if (!bins || !from || !is_kept)
		goto out;
	rc = 0;
	memcpy(from, w->at, s->nranks * sizeof(*from));
	for (uint32_t d = 0; d < s->ndomains; d++) {
		load += w->bins[d].load;
		if (w->bins[d].open)
			bins[n++] = d;
	}
	sorting = w;
	qsort(bins, n, sizeof(*bins), by_use);
	for (uint32_t keep = 1; keep < n; keep++) {
		room += w->bins[bins[keep - 1]].room;
		is_kept[bins[keep - 1]] = true;
		if (load > w->o->fill * room)
			continue;
		if (pack(w, bins, keep, is_kept))
			goto out;
		work_reset(w, from);
	}
out:
	free(bins);
	free(from);
	free(is_kept);
	return rc;
}
