/* SPDX-License-Identifier: BSD-2-Clause */
/* What clusters computed, and who talked to whom. */
#include "runtime/report/history.h"

#include <math.h>
#include <stdlib.h>

static float thousandths(const json_t *v)
{
	return (float)(history_amount(v) / 1000);
}

void history_do_load(struct reader *d, const json_t *e)
{
	const json_t *load = json_object_get(e, "load");
	uint32_t n = (uint32_t)json_array_size(load);
	struct report_load *l = n && n <= REPORT_CLUSTERS_MAX ? MORE(&d->r->loads) : NULL;

	if (!l)
		return;
	*l = (struct report_load){ .t_s = d->now_s, .n = n, .load = calloc(n, sizeof(*l->load)) };
	if (!l->load) {
		d->is_memory_short = true;
		l->n = 0;
		return;
	}
	if (n > d->r->n_clusters)
		d->r->n_clusters = n;
	for (uint32_t c = 0; c < n; c++)
		l->load[c] = thousandths(json_array_get(load, c));
}

/* Bytes and messages are counted: from 0 on, in ones */
static double whole(const json_t *v)
{
	double x = history_amount(v);

	return x >= 1 ? floor(x) : 0;
}

void history_do_traffic(struct reader *d, const json_t *e)
{
	struct report *r = d->r;
	const json_t *row, *near = json_object_get(e, "near");
	uint32_t per = history_count(e, "per");
	size_t i;

	if (per == 0 || (r->per && r->per != per))
		return;
	r->per = per;
	for (i = 0; i < 3; i++)
		r->near[i] = d->base_near[i] + whole(json_array_get(near, i));
	memcpy(r->bytes, d->base_bytes, REPORT_BLOCKS * sizeof(*r->bytes));
	memcpy(r->messages, d->base_messages, REPORT_BLOCKS * sizeof(*r->messages));
	json_array_foreach(json_object_get(e, "rows"), i, row) {
		uint32_t a = history_number(json_array_get(row, 0), REPORT_BLOCKS), b = history_number(json_array_get(row, 1), REPORT_BLOCKS);

		if (a == REPORT_NOWHERE || b == REPORT_NOWHERE)
			continue;
		r->bytes[a][b] += whole(json_array_get(row, 2));
		r->messages[a][b] += whole(json_array_get(row, 3));
	}
}
