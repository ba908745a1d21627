/* SPDX-License-Identifier: BSD-2-Clause */
/* Where ranks are: from the start to the end, and whenever somebody moves, comes or goes. */
#include "runtime/report/history.h"

#include <stdlib.h>

static void stay(struct reader *d, uint32_t rank, uint32_t cluster, double t_s)
{
	struct report_stay *s;

	if (rank >= d->room || d->at[rank] == cluster || d->too_much)
		return;
	if (d->r->stays.n == REPORT_STAYS_MAX) {
		d->too_much = "places where ranks have been";
		return;
	}
	s = MORE(&d->r->stays);
	if (!s) {
		d->is_memory_short = true;
		return;
	}
	*s = (struct report_stay){ .t_s = t_s, .rank = rank, .cluster = cluster };
	d->at[rank] = cluster;
}

static int grow(struct reader *d, uint32_t size)
{
	uint32_t *bigger;

	if (size <= d->room)
		return 0;
	if (size > REPORT_RANKS_MAX) {
		d->too_much = "ranks";
		return -E2BIG;
	}
	bigger = realloc(d->at, size * sizeof(*bigger));
	if (!bigger) {
		d->is_memory_short = true;
		return -ENOMEM;
	}
	d->at = bigger;
	while (d->room < size)
		d->at[d->room++] = REPORT_NOWHERE;
	d->r->size = d->room;
	return 0;
}

void history_take_places(struct reader *d, const json_t *places, uint32_t first)
{
	const json_t *one;
	uint32_t rank = first;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)places, i, one) {
		uint32_t n = history_number(json_array_get(one, 0), REPORT_RANKS_MAX), c = history_cluster_number(d, json_array_get(one, 1));

		if (n == REPORT_NOWHERE || (c == REPORT_NOWHERE && !json_is_null(json_array_get(one, 1))))
			return;
		while (n-- && rank < d->r->size)
			stay(d, rank++, c, d->now_s);
	}
}

void history_all_end(struct reader *d, double t_s)
{
	for (uint32_t r = 0; r < d->room; r++)
		stay(d, r, REPORT_NOWHERE, t_s);
}

/* ---- events ---------------------------------------------------------------------------------------------------------------- */

void history_do_started(struct reader *d, const json_t *e)
{
	struct report *r = d->r;
	uint32_t size = history_number(json_object_get(e, "ranks"), REPORT_RANKS_MAX);
	const json_t *one;
	size_t i;

	if (r->starts++ == 0) {
		r->began = history_real_or(e, "t", 0) / 1e9;
		d->now_s = 0;
	} else { /* mpirun died without a word, or wrote a checkpoint and ended */
		history_all_end(d, d->last_s);
		memcpy(d->base_near, r->near, sizeof(r->near));
		memcpy(d->base_bytes, r->bytes, REPORT_BLOCKS * sizeof(*r->bytes));
		memcpy(d->base_messages, r->messages, REPORT_BLOCKS * sizeof(*r->messages));
		r->is_ended = false;
		d->plan_moved = d->plan_failed = 0;
		free(r->failure);
		r->failure = NULL;
	}
	for (uint32_t c = 0; c < r->n_clusters; c++) /* of an earlier start */
		if (r->clusters[c].name && r->clusters[c].until_s < 0)
			r->clusters[c].until_s = d->last_s;
	history_copy(r->job, sizeof(r->job), e, "job");
	history_copy(r->version, sizeof(r->version), e, "version");
	history_copy(r->balance, sizeof(r->balance), e, "balance");
	if (size != REPORT_NOWHERE)
		grow(d, size);
	if (r->programs.n == 0)
		json_array_foreach(json_object_get(e, "programs"), i, one) {
			char **p = MORE(&r->programs);

			if (!p || asprintf(p, "%u × %s", history_count(one, "ranks"), history_text(one, "words")) < 0)
				r->programs.n -= p != NULL;
		}
	history_take_places(d, json_object_get(e, "places"), 0);
	history_note(d, NOTE_JOB, r->starts > 1 ? "it was continued, with %u ranks" : "it was started, with %u ranks", r->size);
}

void history_do_ended(struct reader *d, const json_t *e)
{
	d->r->is_ended = true;
	d->r->code = history_status(e, "code");
	history_all_end(d, d->now_s);
	history_note(d, d->r->code ? NOTE_FAILURE : NOTE_JOB, "it ended with status %d", d->r->code);
	d->pid = -1;
}

void history_do_spawn(struct reader *d, const json_t *e)
{
	uint32_t first = history_number(json_object_get(e, "first"), REPORT_RANKS_MAX), n = history_number(json_object_get(e, "size"), REPORT_RANKS_MAX);

	if (first == REPORT_NOWHERE || n == REPORT_NOWHERE || first > d->room || grow(d, first + n) < 0)
		return;
	history_take_places(d, json_object_get(e, "places"), first);
	history_note(d, NOTE_JOB, "rank %u started ranks %u to %u", history_count(e, "rank"), first, first + n - 1);
}

void history_do_moved(struct reader *d, const json_t *e)
{
	uint32_t rank = history_rank(d, e), c = history_cluster(d, e, "cluster");

	if (rank != REPORT_NOWHERE && c != REPORT_NOWHERE)
		stay(d, rank, c, d->now_s);
}

void history_do_rank_ended(struct reader *d, const json_t *e)
{
	const json_t *one;
	size_t i;

	json_array_foreach(json_object_get(e, "ranks"), i, one) {
		uint32_t first = history_number(json_array_get(one, 0), d->r->size), n = history_number(json_array_get(one, 1), REPORT_RANKS_MAX);

		for (uint32_t k = 0; first != REPORT_NOWHERE && n != REPORT_NOWHERE && k < n && first + k < d->room; k++)
			stay(d, first + k, REPORT_NOWHERE, d->now_s);
	}
}
