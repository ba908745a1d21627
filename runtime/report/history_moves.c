/* SPDX-License-Identifier: BSD-2-Clause */
/* Moves, and the plans that they were made for. */
#include "runtime/report/history.h"

#include <math.h>

/* The last plan that had moves; NULL: none had */
static struct report_plan *mover(const struct reader *d)
{
	return d->mover ? &d->r->plans.list[d->mover - 1] : NULL;
}

void history_do_move_done(struct reader *d, const json_t *e)
{
	static const struct { const char *key; double unit; } keys[M_ALL] = {
		[M_TOTAL] = { "total_ns", 1e-9 }, [M_DOWNTIME] = { "downtime_ns", 1e-9 }, [M_PAGES] = { "pages", 1 }, [M_DIRTY] = { "dirty_pages_s", 1 },
		[M_PREPARATION] = { "preparation_ns", 1e-9 }, [M_RESUME] = { "resume_ns", 1e-9 }, [M_SLOWDOWN] = { "slowdown", 1 },
		[M_LINK] = { "link_bytes_s", 1 },
	};
	uint32_t rank = history_rank(d, e);
	struct report_move *v = rank == REPORT_NOWHERE ? NULL : MORE(&d->r->moves);

	if (!v)
		return;
	*v = (struct report_move){ .t_s = d->now_s, .rank = rank, .from = history_cluster(d, e, "from"),
		.to = history_cluster(d, e, "to"), .status = history_status(e, "status"), .bytes = history_real(e, "bytes"),
		.predicted_s = history_real(e, "predicted_ns") / 1e9 };
	history_copy(v->by, sizeof(v->by), e, "by");
	history_copy(v->technique, sizeof(v->technique), e, "technique");
	if (v->status < 0 && *history_text(e, "text"))
		v->text = strdup(history_text(e, "text"));
	for (int i = 0; i < M_ALL; i++)
		v->m[i] = history_real(e, keys[i].key) * keys[i].unit;
	if (mover(d) && strcmp(v->by, "balance") == 0 && isfinite(v->m[M_DOWNTIME]))
		mover(d)->paused_s += v->m[M_DOWNTIME];
}

void history_do_move_sum(struct reader *d, const json_t *e)
{
	struct report_sum *s = MORE(&d->r->sums);

	if (s)
		*s = (struct report_sum){ .t_s = d->now_s, .downtime_s = history_real_or(e, "downtime_ns", 0) / 1e9,
			.longest_s = history_real_or(e, "longest_ns", 0) / 1e9, .moved = history_count(e, "moved"), .failed = history_count(e, "failed") };
	history_take_places(d, json_object_get(e, "places"), 0);
}

void history_do_plan(struct reader *d, const json_t *e)
{
	struct report_plan *p = mover(d);

	if (p && p->done_s >= 0 && !isfinite(p->outcome)) { /* what has become of it */
		p->outcome = history_real(e, "peak");
		p->outcome_s = d->now_s;
	}
	p = MORE(&d->r->plans);
	if (!p)
		return;
	*p = (struct report_plan){ .t_s = d->now_s, .done_s = -1, .words = strdup(history_text(e, "words")), .moves = history_count(e, "moves"),
		.peak = history_real(e, "peak"), .planned = history_real(e, "planned"), .gain_s = history_real(e, "gain_s"), .cost_s = history_real(e, "cost_s"),
		.outcome = NAN };
	history_copy(p->strategy, sizeof(p->strategy), e, "strategy");
	d->mover = p->moves ? d->r->plans.n : d->mover;
}

void history_do_plan_done(struct reader *d, const json_t *e)
{
	uint32_t moved = history_count(e, "moved"), failed = history_count(e, "failed");
	struct report_plan *p = mover(d);

	if (!p)
		return;
	p->done_s = d->now_s;
	p->moved = moved > d->plan_moved ? moved - d->plan_moved : 0;
	p->failed = failed > d->plan_failed ? failed - d->plan_failed : 0;
	d->plan_moved = moved;
	d->plan_failed = failed;
}
