/* SPDX-License-Identifier: BSD-2-Clause */
/* Much becomes little: quantiles, and stretches of time. */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;

	return (a > b) - (a < b);
}

struct digest digest_make(double *v, size_t all)
{
	struct digest d = { .least = NAN, .median = NAN, .p95 = NAN, .most = NAN };

	for (size_t i = 0; i < all; i++)
		if (isfinite(v[i]))
			v[d.n++] = v[i];
	if (d.n == 0)
		return d;
	qsort(v, d.n, sizeof(*v), by_value);
	d.least = v[0];
	d.median = d.n % 2 ? v[d.n / 2] : (v[d.n / 2 - 1] + v[d.n / 2]) / 2;
	d.p95 = v[(size_t)ceil(0.95 * (double)d.n) - 1];
	d.most = v[d.n - 1];
	return d;
}

/* ---- where ranks were ------------------------------------------------------------------------------------------------------ */

struct stay_index { size_t *first; struct report_stay *stays; }; /* those of rank i are first[i] to first[i + 1] - 1 */

struct stay_index *digest_index(const struct report *r)
{
	struct stay_index *x = calloc(1, sizeof(*x));
	size_t *next = calloc((size_t)r->size + 1, sizeof(*next));

	if (x) {
		x->first = calloc((size_t)r->size + 1, sizeof(*x->first));
		x->stays = calloc(r->stays.n + 1, sizeof(*x->stays));
	}
	if (!x || !next || !x->first || !x->stays) {
		digest_index_free(x);
		free(next);
		return NULL;
	}
	for (size_t i = 0; i < r->stays.n; i++)
		x->first[r->stays.list[i].rank + 1]++;
	for (uint32_t i = 0; i < r->size; i++)
		x->first[i + 1] += x->first[i];
	memcpy(next, x->first, r->size * sizeof(*next));
	for (size_t i = 0; i < r->stays.n; i++)
		x->stays[next[r->stays.list[i].rank]++] = r->stays.list[i];
	free(next);
	return x;
}

void digest_index_free(struct stay_index *x)
{
	if (!x)
		return;
	free(x->first);
	free(x->stays);
	free(x);
}

const struct report_stay *digest_stay(const struct stay_index *x, uint32_t rank, size_t *n)
{
	*n = x->first[rank + 1] - x->first[rank];
	return x->stays + x->first[rank];
}

int digest_stays(const struct report *r, const struct stay_index *x, uint32_t first, uint32_t n, uint32_t *out, uint32_t bins)
{
	uint32_t *count = calloc((size_t)bins * (r->n_clusters + 1), sizeof(*count)); /* of the clusters in each stretch */

	if (!count)
		return -ENOMEM;
	for (uint32_t rank = first; rank < first + n && rank < r->size; rank++) {
		size_t many, k = 0;
		const struct report_stay *s = digest_stay(x, rank, &many);
		uint32_t where = REPORT_NOWHERE;

		for (uint32_t b = 0; b < bins; b++) {
			double middle = (b + 0.5) * r->length_s / bins;

			while (k < many && s[k].t_s <= middle)
				where = s[k++].cluster;
			if (where < r->n_clusters)
				count[(size_t)b * r->n_clusters + where]++;
		}
	}
	for (uint32_t b = 0; b < bins; b++) {
		uint32_t most = 0;

		out[b] = REPORT_NOWHERE;
		for (uint32_t c = 0; c < r->n_clusters; c++)
			if (count[(size_t)b * r->n_clusters + c] > most) {
				most = count[(size_t)b * r->n_clusters + c];
				out[b] = c;
			}
	}
	free(count);
	return 0;
}

/* ---- loads ------------------------------------------------------------------------------------------------------------------- */

void digest_loads(const struct report *r, uint32_t first, uint32_t n, bool is_share, double *out, uint32_t bins)
{
	size_t i = 0;

	for (uint32_t b = 0; b < bins; b++) {
		double sum = 0, end = (b + 1) * r->length_s / bins;
		uint32_t values = 0;
		bool is_sampled = false;

		for (; i < r->loads.n && (r->loads.list[i].t_s < end || b + 1 == bins); i++) {
			const struct report_load *l = &r->loads.list[i];

			is_sampled = true;
			for (uint32_t c = first; c < first + n && c < l->n; c++)
				if (!isnan(l->load[c])) {
					sum += is_share && r->clusters[c].cores ? l->load[c] / r->clusters[c].cores : l->load[c];
					values++;
				}
		}
		out[b] = values ? sum / values : is_sampled || b == 0 ? NAN : out[b - 1];
	}
}
