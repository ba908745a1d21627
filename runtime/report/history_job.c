/* SPDX-License-Identifier: BSD-2-Clause */
/* What happens to the job as a whole, to its clusters and hosts. */
#include "runtime/report/history.h"

#include <stdlib.h>

void history_do_failed(struct reader *d, const json_t *e)
{
	if (!d->r->failure && *history_text(e, "text"))
		d->r->failure = strdup(history_text(e, "text"));
}

void history_do_ready(struct reader *d, const json_t *e)
{
	uint32_t c = history_cluster(d, e, "cluster");
	struct report_cluster *cl;

	if (c == REPORT_NOWHERE)
		return;
	cl = &d->r->clusters[c];
	free(cl->name);
	*cl = (struct report_cluster){ .name = strdup(history_text(e, "name")), .host = history_count(e, "place"), .cores = history_count(e, "cores"),
		.domain = history_count(e, "domain"), .since_s = d->now_s, .until_s = -1 };
}

static void cluster_gone(struct reader *d, const json_t *e, enum report_kind kind, const char *what)
{
	uint32_t c = history_cluster(d, e, "cluster");

	if (c == REPORT_NOWHERE)
		return;
	d->r->clusters[c].until_s = d->now_s;
	history_note(d, kind, "cluster %u (%s) %s", c, d->r->clusters[c].name ? d->r->clusters[c].name : "?", what);
}

void history_do_left(struct reader *d, const json_t *e) { cluster_gone(d, e, NOTE_HOST, "left the job"); }
void history_do_lost(struct reader *d, const json_t *e) { cluster_gone(d, e, NOTE_FAILURE, "was lost"); }

void history_do_joined(struct reader *d, const json_t *e)
{
	uint32_t c = history_cluster(d, e, "cluster");

	if (c != REPORT_NOWHERE)
		history_note(d, NOTE_HOST, "cluster %u joined, on %s", c, d->r->clusters[c].name ? d->r->clusters[c].name : "?");
}

void history_do_host_failed(struct reader *d, const json_t *e)
{
	history_note(d, NOTE_FAILURE, "%s did not come", history_text(e, "name"));
}

void history_do_drained(struct reader *d, const json_t *e)
{
	uint32_t c = history_cluster(d, e, "cluster");

	if (c != REPORT_NOWHERE)
		history_note(d, NOTE_DRAIN, !json_is_true(json_object_get(e, "on")) ? "cluster %u takes ranks again" :
		     json_is_true(json_object_get(e, "leaves")) ? "cluster %u is drained, and leaves" : "cluster %u is drained", c);
}

void history_do_drain_over(struct reader *d, const json_t *e)
{
	history_note(d, NOTE_DRAIN, history_status(e, "status") < 0 ? "draining ended after %u ranks, and left some where they were" :
	     "draining is over: %u ranks were moved", history_count(e, "moved"));
}

void history_do_suspended(struct reader *d, const json_t *e) { history_note(d, NOTE_JOB, "all %u ranks were stopped", history_count(e, "ranks")); }
void history_do_resumed(struct reader *d, const json_t *e) { (void)e; history_note(d, NOTE_JOB, "all ranks went on"); }

void history_do_gap(struct reader *d, const json_t *e)
{
	history_note(d, NOTE_FAILURE, "what happened before is missing here: %u lines that could not be written in time", history_count(e, "lines"));
	history_take_places(d, json_object_get(e, "places"), 0);
}

void history_do_checkpoint(struct reader *d, const json_t *e)
{
	struct report_checkpoint *c = MORE(&d->r->checkpoints);

	if (!c)
		return;
	*c = (struct report_checkpoint){ .t_s = d->now_s, .ms = history_real_or(e, "ms", 0), .bytes = history_real_or(e, "size", 0),
		.status = history_status(e, "status"), .dir = strdup(history_text(e, "dir")) };
	if (c->status < 0)
		history_note(d, NOTE_FAILURE, "a checkpoint was given up: %s", strerror(-c->status));
	else
		history_note(d, NOTE_CHECKPOINT, "a checkpoint was written in %.1f s", c->ms / 1000);
}
