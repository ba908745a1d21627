/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lines of events become a history. A table says which event means what; others are passed over. Only mpirun's lines count: the
 * head has heard of everything, and a file of GODWIT_EVENTS holds the daemons' own view beside it.
 */
#include "runtime/report/lines.h"
#include "runtime/report/report.h"

#include <math.h>
#include <stdlib.h>

/* Room for one more at the end of a list of struct report, all zero; NULL: no memory */
#define MORE(l) (more((void **)&(l)->list, &(l)->n, &(l)->cap, sizeof(*(l)->list)) < 0 ? NULL : &(l)->list[(l)->n - 1])

struct reader {
	struct report *r;
	char job[16];
	json_int_t pid;          /* of the mpirun whose lines count; -1: none now */
	double now_s, last_s;    /* of this line, of the last one that counted; since @r->began */
	uint32_t *at;            /* [size] where each rank is */
	uint32_t room;
	double base_near[3];     /* traffic of earlier starts: the counters of each begin at 0 */
	double (*base_bytes)[REPORT_BLOCKS], (*base_messages)[REPORT_BLOCKS];
	uint32_t plan_moved, plan_failed; /* as of the last bal.done: it counts since mpirun began */
	bool is_memory_short;
	const char *too_much;    /* what there is more of than is kept; NULL: nothing */
};

static int more(void **list, size_t *n, size_t *cap, size_t size)
{
	if (*n == *cap) {
		size_t room = *cap ? 2 * *cap : 16;
		void *bigger = realloc(*list, room * size);

		if (!bigger)
			return -ENOMEM;
		*list = bigger;
		*cap = room;
	}
	memset((char *)*list + *n * size, 0, size);
	++*n;
	return 0;
}

/* ---- fields --------------------------------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *e, const char *key)
{
	const char *text = json_string_value(json_object_get(e, key));

	return text ? text : "";
}

/* NAN when it is not there, or no number */
static double real_of(const json_t *e, const char *key)
{
	const json_t *v = json_object_get(e, key);

	return json_is_number(v) ? json_number_value(v) : NAN;
}

static double real_or(const json_t *e, const char *key, double other)
{
	double v = real_of(e, key);

	return isfinite(v) ? v : other;
}

static uint32_t number_below(const json_t *v, uint32_t limit)
{
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;

	return n >= 0 && n < (json_int_t)limit ? (uint32_t)n : REPORT_NOWHERE;
}

static uint32_t count_of(const json_t *e, const char *key)
{
	uint32_t n = number_below(json_object_get(e, key), INT32_MAX);

	return n == REPORT_NOWHERE ? 0 : n;
}

/* Number of a cluster, which is one more that there is */
static uint32_t cluster_number(struct reader *d, const json_t *v)
{
	uint32_t c = number_below(v, REPORT_CLUSTERS_MAX);

	if (c != REPORT_NOWHERE && c >= d->r->n_clusters)
		d->r->n_clusters = c + 1;
	return c;
}

static uint32_t cluster_of(struct reader *d, const json_t *e, const char *key)
{
	return cluster_number(d, json_object_get(e, key));
}

static uint32_t rank_of(const struct reader *d, const json_t *e)
{
	return number_below(json_object_get(e, "rank"), d->r->size);
}

static void note(struct reader *d, enum report_kind kind, const char *fmt, ...) GW_PRINTF(3, 4);
static void note(struct reader *d, enum report_kind kind, const char *fmt, ...)
{
	struct report_note *n = MORE(&d->r->notes);
	va_list ap;

	if (!n)
		return;
	*n = (struct report_note){ .t_s = d->now_s, .kind = kind };
	va_start(ap, fmt);
	if (vasprintf(&n->text, fmt, ap) < 0)
		n->text = NULL;
	va_end(ap);
	if (!n->text)
		d->r->notes.n--;
}

/* ---- where ranks are ------------------------------------------------------------------------------------------------------- */

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

/* [[3, 0], [2, 1]]: three ranks on cluster 0, then two on cluster 1 */
static void take_places(struct reader *d, const json_t *places, uint32_t first)
{
	const json_t *one;
	uint32_t rank = first;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)places, i, one) {
		uint32_t n = number_below(json_array_get(one, 0), REPORT_RANKS_MAX), c = cluster_number(d, json_array_get(one, 1));

		if (n == REPORT_NOWHERE || c == REPORT_NOWHERE)
			return;
		while (n-- && rank < d->r->size)
			stay(d, rank++, c, d->now_s);
	}
}

static void all_end(struct reader *d, double t_s)
{
	for (uint32_t r = 0; r < d->room; r++)
		stay(d, r, REPORT_NOWHERE, t_s);
}

/* ---- events ---------------------------------------------------------------------------------------------------------------- */

static void do_started(struct reader *d, const json_t *e)
{
	struct report *r = d->r;
	uint32_t size = number_below(json_object_get(e, "ranks"), REPORT_RANKS_MAX);
	const json_t *one;
	size_t i;

	if (r->starts++ == 0) {
		r->began = real_or(e, "t", 0) / 1e9;
		d->now_s = 0;
	} else { /* mpirun died without a word, or wrote a checkpoint and ended */
		all_end(d, d->last_s);
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
	snprintf(r->job, sizeof(r->job), "%s", text_of(e, "job"));
	snprintf(r->version, sizeof(r->version), "%s", text_of(e, "version"));
	snprintf(r->balance, sizeof(r->balance), "%s", text_of(e, "balance"));
	if (size != REPORT_NOWHERE)
		grow(d, size);
	if (r->programs.n == 0)
		json_array_foreach(json_object_get(e, "programs"), i, one) {
			char **p = MORE(&r->programs);

			if (!p || asprintf(p, "%u × %s", count_of(one, "ranks"), text_of(one, "words")) < 0)
				r->programs.n -= p != NULL;
		}
	take_places(d, json_object_get(e, "places"), 0);
	note(d, NOTE_JOB, r->starts > 1 ? "it was continued, with %u ranks" : "it was started, with %u ranks", r->size);
}

static void do_ended(struct reader *d, const json_t *e)
{
	d->r->is_ended = true;
	d->r->code = (int)real_or(e, "code", 0);
	all_end(d, d->now_s);
	note(d, d->r->code ? NOTE_FAILURE : NOTE_JOB, "it ended with status %d", d->r->code);
	d->pid = -1;
}

static void do_failed(struct reader *d, const json_t *e)
{
	if (!d->r->failure && *text_of(e, "text"))
		d->r->failure = strdup(text_of(e, "text"));
}

static void do_ready(struct reader *d, const json_t *e)
{
	uint32_t c = cluster_of(d, e, "cluster");
	struct report_cluster *cl;

	if (c == REPORT_NOWHERE)
		return;
	cl = &d->r->clusters[c];
	free(cl->name);
	*cl = (struct report_cluster){ .name = strdup(text_of(e, "name")), .host = count_of(e, "place"), .cores = count_of(e, "cores"),
		.domain = count_of(e, "domain"), .since_s = d->now_s, .until_s = -1 };
}

static void cluster_gone(struct reader *d, const json_t *e, enum report_kind kind, const char *what)
{
	uint32_t c = cluster_of(d, e, "cluster");

	if (c == REPORT_NOWHERE)
		return;
	d->r->clusters[c].until_s = d->now_s;
	note(d, kind, "cluster %u (%s) %s", c, d->r->clusters[c].name ? d->r->clusters[c].name : "?", what);
}

static void do_left(struct reader *d, const json_t *e) { cluster_gone(d, e, NOTE_HOST, "left the job"); }
static void do_lost(struct reader *d, const json_t *e) { cluster_gone(d, e, NOTE_FAILURE, "was lost"); }

static void do_joined(struct reader *d, const json_t *e)
{
	uint32_t c = cluster_of(d, e, "cluster");

	if (c != REPORT_NOWHERE)
		note(d, NOTE_HOST, "cluster %u joined, on %s", c, d->r->clusters[c].name ? d->r->clusters[c].name : "?");
}

static void do_host_failed(struct reader *d, const json_t *e)
{
	note(d, NOTE_FAILURE, "%s did not come", text_of(e, "name"));
}

static void do_drained(struct reader *d, const json_t *e)
{
	uint32_t c = cluster_of(d, e, "cluster");

	if (c != REPORT_NOWHERE)
		note(d, NOTE_DRAIN, !json_is_true(json_object_get(e, "on")) ? "cluster %u takes ranks again" :
		     json_is_true(json_object_get(e, "leaves")) ? "cluster %u is drained, and leaves" : "cluster %u is drained", c);
}

static void do_drain_over(struct reader *d, const json_t *e)
{
	note(d, NOTE_DRAIN, real_or(e, "status", 0) < 0 ? "draining ended after %u ranks, and left some where they were" :
	     "draining is over: %u ranks were moved", count_of(e, "moved"));
}

static void do_suspended(struct reader *d, const json_t *e) { note(d, NOTE_JOB, "all %u ranks were stopped", count_of(e, "ranks")); }
static void do_resumed(struct reader *d, const json_t *e) { (void)e; note(d, NOTE_JOB, "all ranks went on"); }

static void do_spawn(struct reader *d, const json_t *e)
{
	uint32_t first = number_below(json_object_get(e, "first"), REPORT_RANKS_MAX), n = number_below(json_object_get(e, "size"), REPORT_RANKS_MAX);

	if (first == REPORT_NOWHERE || n == REPORT_NOWHERE || first > d->room || grow(d, first + n) < 0)
		return;
	take_places(d, json_object_get(e, "places"), first);
	note(d, NOTE_JOB, "rank %u started ranks %u to %u", count_of(e, "rank"), first, first + n - 1);
}

static void do_moved(struct reader *d, const json_t *e)
{
	uint32_t rank = rank_of(d, e), c = cluster_of(d, e, "cluster");

	if (rank != REPORT_NOWHERE && c != REPORT_NOWHERE)
		stay(d, rank, c, d->now_s);
}

static void do_rank_ended(struct reader *d, const json_t *e)
{
	const json_t *one;
	size_t i;

	json_array_foreach(json_object_get(e, "ranks"), i, one) {
		uint32_t first = number_below(json_array_get(one, 0), d->r->size), n = number_below(json_array_get(one, 1), REPORT_RANKS_MAX);

		for (uint32_t k = 0; first != REPORT_NOWHERE && n != REPORT_NOWHERE && k < n && first + k < d->room; k++)
			stay(d, first + k, REPORT_NOWHERE, d->now_s);
	}
}

static void do_move_done(struct reader *d, const json_t *e)
{
	static const struct { const char *key; double unit; } keys[M_ALL] = {
		[M_TOTAL] = { "total_ns", 1e-9 }, [M_DOWNTIME] = { "downtime_ns", 1e-9 }, [M_PAGES] = { "pages", 1 }, [M_DIRTY] = { "dirty_pages_s", 1 },
		[M_PREPARATION] = { "preparation_ns", 1e-9 }, [M_RESUME] = { "resume_ns", 1e-9 }, [M_SLOWDOWN] = { "slowdown", 1 },
		[M_LINK] = { "link_bytes_s", 1 },
	};
	uint32_t rank = rank_of(d, e);
	struct report_move *v = rank == REPORT_NOWHERE ? NULL : MORE(&d->r->moves);

	if (!v)
		return;
	*v = (struct report_move){ .t_s = d->now_s, .rank = rank, .from = cluster_of(d, e, "from"),
		.to = cluster_of(d, e, "to"), .status = (int)real_or(e, "status", 0), .bytes = real_of(e, "bytes"),
		.predicted_s = real_of(e, "predicted_ns") / 1e9 };
	snprintf(v->by, sizeof(v->by), "%s", text_of(e, "by"));
	snprintf(v->technique, sizeof(v->technique), "%s", text_of(e, "technique"));
	if (v->status < 0 && *text_of(e, "text"))
		v->text = strdup(text_of(e, "text"));
	for (int i = 0; i < M_ALL; i++)
		v->m[i] = real_of(e, keys[i].key) * keys[i].unit;
	for (size_t i = d->r->plans.n; i-- > 0 && strcmp(v->by, "balance") == 0;)
		if (d->r->plans.list[i].moves) { /* the last one that had any */
			d->r->plans.list[i].paused_s += isfinite(v->m[M_DOWNTIME]) ? v->m[M_DOWNTIME] : 0;
			break;
		}
}

static void do_move_sum(struct reader *d, const json_t *e)
{
	struct report_sum *s = MORE(&d->r->sums);

	if (s)
		*s = (struct report_sum){ .t_s = d->now_s, .downtime_s = real_or(e, "downtime_ns", 0) / 1e9,
			.longest_s = real_or(e, "longest_ns", 0) / 1e9, .moved = count_of(e, "moved"), .failed = count_of(e, "failed") };
	take_places(d, json_object_get(e, "places"), 0);
}

static float thousandths(const json_t *v)
{
	return json_is_number(v) ? (float)(json_number_value(v) / 1000) : NAN;
}

static void do_load(struct reader *d, const json_t *e)
{
	const json_t *load = json_object_get(e, "load"), *busy = json_object_get(e, "busy"), *ranks = json_object_get(e, "ranks");
	uint32_t n = (uint32_t)json_array_size(load);
	struct report_load *l = n && n <= REPORT_CLUSTERS_MAX ? MORE(&d->r->loads) : NULL;

	if (!l)
		return;
	*l = (struct report_load){ .t_s = d->now_s, .n = n, .load = calloc(n, sizeof(*l->load)), .busy = calloc(n, sizeof(*l->busy)),
		.ranks = calloc(n, sizeof(*l->ranks)) };
	if (!l->load || !l->busy || !l->ranks) {
		d->is_memory_short = true;
		l->n = 0;
		return;
	}
	if (n > d->r->n_clusters)
		d->r->n_clusters = n;
	for (uint32_t c = 0; c < n; c++) {
		l->load[c] = thousandths(json_array_get(load, c));
		l->busy[c] = thousandths(json_array_get(busy, c));
		l->ranks[c] = (uint32_t)json_integer_value(json_array_get(ranks, c));
	}
}

static void do_traffic(struct reader *d, const json_t *e)
{
	struct report *r = d->r;
	const json_t *row, *near = json_object_get(e, "near");
	uint32_t per = count_of(e, "per");
	size_t i;

	if (per == 0 || (r->per && r->per != per))
		return;
	r->per = per;
	for (i = 0; i < 3; i++)
		r->near[i] = d->base_near[i] + json_number_value(json_array_get(near, i));
	memcpy(r->bytes, d->base_bytes, REPORT_BLOCKS * sizeof(*r->bytes));
	memcpy(r->messages, d->base_messages, REPORT_BLOCKS * sizeof(*r->messages));
	json_array_foreach(json_object_get(e, "rows"), i, row) {
		uint32_t a = number_below(json_array_get(row, 0), REPORT_BLOCKS), b = number_below(json_array_get(row, 1), REPORT_BLOCKS);

		if (a == REPORT_NOWHERE || b == REPORT_NOWHERE)
			continue;
		r->bytes[a][b] += json_number_value(json_array_get(row, 2));
		r->messages[a][b] += json_number_value(json_array_get(row, 3));
	}
}

static void do_plan(struct reader *d, const json_t *e)
{
	struct report_plan *p;

	for (size_t i = d->r->plans.n; i-- > 0;) { /* what has become of the last one that moved ranks */
		p = &d->r->plans.list[i];
		if (p->moves == 0)
			continue;
		if (p->done_s >= 0 && !isfinite(p->outcome)) {
			p->outcome = real_of(e, "peak");
			p->outcome_s = d->now_s;
		}
		break;
	}
	p = MORE(&d->r->plans);
	if (!p)
		return;
	*p = (struct report_plan){ .t_s = d->now_s, .done_s = -1, .words = strdup(text_of(e, "words")), .moves = count_of(e, "moves"),
		.peak = real_of(e, "peak"), .planned = real_of(e, "planned"), .gain_s = real_of(e, "gain_s"), .cost_s = real_of(e, "cost_s"),
		.outcome = NAN };
	snprintf(p->strategy, sizeof(p->strategy), "%s", text_of(e, "strategy"));
}

static void do_plan_done(struct reader *d, const json_t *e)
{
	uint32_t moved = count_of(e, "moved"), failed = count_of(e, "failed");
	struct report_plan *plans = d->r->plans.list;
	size_t last = d->r->plans.n;

	while (last > 0 && plans[last - 1].moves == 0)
		last--;
	if (last == 0)
		return;
	plans[last - 1].done_s = d->now_s;
	plans[last - 1].moved = moved > d->plan_moved ? moved - d->plan_moved : 0;
	plans[last - 1].failed = failed > d->plan_failed ? failed - d->plan_failed : 0;
	d->plan_moved = moved;
	d->plan_failed = failed;
}

static void do_checkpoint(struct reader *d, const json_t *e)
{
	struct report_checkpoint *c = MORE(&d->r->checkpoints);

	if (!c)
		return;
	*c = (struct report_checkpoint){ .t_s = d->now_s, .ms = real_or(e, "ms", 0), .bytes = real_or(e, "size", 0),
		.status = (int)real_or(e, "status", 0), .dir = strdup(text_of(e, "dir")) };
	if (c->status < 0)
		note(d, NOTE_FAILURE, "a checkpoint was given up: %s", strerror(-c->status));
	else
		note(d, NOTE_CHECKPOINT, "a checkpoint was written in %.1f s", c->ms / 1000);
}

static const struct { const char *name; void (*handle)(struct reader *d, const json_t *e); } events[] = {
	{ "job.started", do_started },       { "job.ended", do_ended },         { "job.failed", do_failed },
	{ "job.suspended", do_suspended },   { "job.resumed", do_resumed },     { "job.checkpoint", do_checkpoint },
	{ "job.drained", do_drain_over },    { "job.removed", do_drain_over },  { "job.spawn", do_spawn },
	{ "cluster.ready", do_ready },       { "cluster.joined", do_joined },   { "cluster.left", do_left },
	{ "cluster.lost", do_lost },         { "cluster.drained", do_drained }, { "host.failed", do_host_failed },
	{ "rank.moved", do_moved },          { "rank.ended", do_rank_ended },   { "mig.done", do_move_done },
	{ "mig.sum", do_move_sum },         { "load.seen", do_load },          { "traffic.seen", do_traffic },
	{ "bal.plan", do_plan },             { "bal.done", do_plan_done },
};

/* ---- lines ----------------------------------------------------------------------------------------------------------------- */

static void take(struct reader *d, const json_t *e)
{
	const char *name = text_of(e, "event");
	json_int_t pid = json_integer_value(json_object_get(e, "pid"));
	double t = real_of(e, "t");

	if (strcmp(text_of(e, "who"), "mpirun") != 0)
		return;
	if (strcmp(name, "job.started") == 0)
		d->pid = strcmp(text_of(e, "job"), d->job) == 0 ? pid : d->pid == pid ? -1 : d->pid;
	if (pid != d->pid || !isfinite(t))
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
		if (strcmp(text_of(e, "event"), "job.started") == 0 && strncasecmp(text_of(e, "job"), begin, strlen(begin)) == 0)
			is_cut = snprintf(job, 16, "%s", text_of(e, "job")) >= 16;
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
	return code;
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
	all_end(&d, d.last_s);
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
	for (size_t i = 0; i < r->loads.n; i++) {
		free(r->loads.list[i].load);
		free(r->loads.list[i].busy);
		free(r->loads.list[i].ranks);
	}
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
