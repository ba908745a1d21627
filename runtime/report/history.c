/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lines of events become a history. A table says which event means what; others are passed over. Only mpirun's lines count: the
 * head has heard of everything, and a file of GODWIT_EVENTS holds the daemons' own view beside it.
 */
#include "runtime/report/history.h"

#include <math.h>
#include <stdlib.h>

#include "runtime/report/lines.h"

static const struct { const char *name; void (*handle)(struct reader *d, const json_t *e); } events[] = {
	{ "job.started", history_do_started },       { "job.ended", history_do_ended },         { "job.failed", history_do_failed },
	{ "job.suspended", history_do_suspended },   { "job.resumed", history_do_resumed },     { "job.checkpoint", history_do_checkpoint },
	{ "job.drained", history_do_drain_over },    { "job.removed", history_do_drain_over },  { "job.spawn", history_do_spawn },
	{ "cluster.ready", history_do_ready },       { "cluster.joined", history_do_joined },   { "cluster.left", history_do_left },
	{ "cluster.lost", history_do_lost },         { "cluster.drained", history_do_drained }, { "host.failed", history_do_host_failed },
	{ "rank.moved", history_do_moved },          { "rank.ended", history_do_rank_ended },   { "mig.done", history_do_move_done },
	{ "mig.sum", history_do_move_sum },         { "load.seen", history_do_load },          { "traffic.seen", history_do_traffic },
	{ "record.gap", history_do_gap },   { "bal.plan", history_do_plan },             { "bal.done", history_do_plan_done },
};

/* ---- lines ----------------------------------------------------------------------------------------------------------------- */

static void take(struct reader *d, const json_t *e)
{
	const char *name = history_text(e, "event");
	json_int_t pid = json_integer_value(json_object_get(e, "pid"));
	double t = history_real(e, "t");

	if (strcmp(history_text(e, "who"), "mpirun") != 0)
		return;
	if (strcmp(name, "job.started") == 0)
		d->pid = strcmp(history_text(e, "job"), d->job) == 0 ? pid : d->pid == pid ? -1 : d->pid;
	if (pid != d->pid || !(t >= 0))
		return;
	d->now_s = d->r->starts ? t / 1e9 - d->r->began : 0;
	if (d->now_s < d->last_s)
		d->now_s = d->last_s; /* the clock of the machine was set back */
	for (size_t i = 0; i < GW_ARRAY_LEN(events); i++)
		if (strcmp(name, events[i].name) == 0)
			events[i].handle(d, e);
	d->last_s = d->now_s;
}

/* Which job is meant: the last that was started, of those that @begin begins. "": none. 0 or -errno */
static int choose(struct lines *l, const char *begin, char job[16], struct gw_error *why)
{
	bool is_cut = false;
	int code;

	job[0] = '\0';
	while ((code = lines_next(l, why)) > 0) {
		json_t *e;

		if (l->is_too_long || !strstr(l->text, "\"job.started\""))
			continue;
		e = json_loadb(l->text, l->n, 0, NULL);
		if (strcmp(history_text(e, "event"), "job.started") == 0 && strncasecmp(history_text(e, "job"), begin, strlen(begin)) == 0)
			is_cut = snprintf(job, 16, "%s", history_text(e, "job")) >= 16;
		json_decref(e);
	}
	if (code == 0 && is_cut)
		return gw_fail(why, -EINVAL, "'%s' is damaged: the id of its job has more than 15 letters, and those of mpirun have 8", l->path);
	return code < 0 ? code : lines_rewind(l, why);
}

static int read_lines(struct reader *d, struct lines *l, struct gw_error *why)
{
	int code = 0;

	while (!d->is_memory_short && !d->too_much && (code = lines_next(l, why)) > 0) {
		json_t *e = l->is_too_long ? NULL : json_loadb(l->text, l->n, 0, NULL);

		d->r->n_lines++;
		d->r->n_bad += !json_is_object(e);
		if (json_is_object(e))
			take(d, e);
		json_decref(e);
	}
	return code < 0 ? code : 0;
}

int report_read(struct report *r, const char *path, const char *job, struct gw_error *why)
{
	struct reader d = { .r = r, .pid = -1 };
	struct lines l;
	int code;

	memset(r, 0, sizeof(*r));
	code = lines_open(&l, path, why);
	if (code < 0)
		return code;
	code = choose(&l, job ? job : "", d.job, why);
	if (code == 0 && !d.job[0])
		code = gw_fail(why, -ENOENT, "'%s' holds no history of %s%s: lines of 'mpirun -record', or of GODWIT_EVENTS", path, job ? "job " : "a job",
		               job ? job : "");
	if (code < 0) {
		lines_close(&l);
		return code;
	}
	r->clusters = calloc(REPORT_CLUSTERS_MAX, sizeof(*r->clusters));
	r->bytes = calloc(REPORT_BLOCKS, sizeof(*r->bytes));
	r->messages = calloc(REPORT_BLOCKS, sizeof(*r->messages));
	d.base_bytes = calloc(REPORT_BLOCKS, sizeof(*d.base_bytes));
	d.base_messages = calloc(REPORT_BLOCKS, sizeof(*d.base_messages));
	d.is_memory_short = !r->clusters || !r->bytes || !r->messages || !d.base_bytes || !d.base_messages;
	code = read_lines(&d, &l, why);
	lines_close(&l);
	history_all_end(&d, d.last_s);
	r->length_s = d.last_s > 1e-3 ? d.last_s : 1e-3;
	if (d.is_memory_short)
		code = gw_fail(why, -ENOMEM, "no memory for all that '%s' holds", path);
	else if (code == 0 && d.too_much)
		code = gw_fail(why, -EINVAL, "'%s' tells of more %s than a job has (%u ranks, %u places): it is damaged, or no page can be made of it", path,
		               d.too_much, REPORT_RANKS_MAX, REPORT_STAYS_MAX);
	else if (code == 0 && (r->starts == 0 || r->size == 0))
		code = gw_fail(why, -EINVAL, "'%s' is damaged: the line that tells of the job's start does not say when it was, or of how many ranks; nothing "
		               "can be told of it", path);
	free(d.at);
	free(d.base_bytes);
	free(d.base_messages);
	return code;
}

void report_fini(struct report *r)
{
	for (uint32_t c = 0; r->clusters && c < REPORT_CLUSTERS_MAX; c++)
		free(r->clusters[c].name);
	for (size_t i = 0; i < r->programs.n; i++)
		free(r->programs.list[i]);
	for (size_t i = 0; i < r->moves.n; i++)
		free(r->moves.list[i].text);
	for (size_t i = 0; i < r->loads.n; i++)
		free(r->loads.list[i].load);
	for (size_t i = 0; i < r->plans.n; i++)
		free(r->plans.list[i].words);
	for (size_t i = 0; i < r->notes.n; i++)
		free(r->notes.list[i].text);
	for (size_t i = 0; i < r->checkpoints.n; i++)
		free(r->checkpoints.list[i].dir);
	free(r->programs.list);
	free(r->stays.list);
	free(r->moves.list);
	free(r->sums.list);
	free(r->loads.list);
	free(r->plans.list);
	free(r->notes.list);
	free(r->checkpoints.list);
	free(r->clusters);
	free(r->bytes);
	free(r->messages);
	free(r->failure);
	memset(r, 0, sizeof(*r));
}
