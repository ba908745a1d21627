/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the whole job does now: all daemons are asked at once, and their answers put together. For godwit status, top and metrics, for
 * -metrics, and every so often for ourselves, so that there are loads to tell.
 *
 *   survey_begin ──status or measure──► every daemon ──status-answer, measured──► all have answered, or 3 s are over ──► done
 *
 * Counters go on where a rank moves (runtime/clusterd/measure.c). Loads are what they grew by since the last look of our own.
 */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define PATIENCE_MS 3000  /* a daemon that has not answered by then is left out */
#define FIRST_MS    1000
#define EVERY_MS    5000  /* between looks of our own: less than a millisecond of each daemon */
#define SPAN_S      0.2   /* less says nothing of a load */

struct survey {
	struct gw_list node;  /* head.surveys */
	struct head *head;
	uint64_t id;
	uint32_t due;
	bool is_movable_asked;
	json_t *ranks, *sessions;
	json_t **clusters;    /* [head.n_clusters when it was begun]: what each said; NULL: nothing */
	uint32_t n_clusters;
	struct gw_timer *deadline;
	survey_done_fn *done;
	void *ctx;
};

struct reading { uint64_t at_ns, cpu_ns, waited_ns; uint32_t host; }; /* at_ns: by the clock of its host */

struct looks {
	struct gw_timer *timer;
	struct used { struct reading then; double load, waits, private_bytes; bool is_known; } *ranks; /* [head.room] */
	struct busy { uint64_t at_ns, busy_ns; double busy; bool is_known; } *clusters; /* [RT_CLUSTERS_MAX] */
};

/* ---- rates -------------------------------------------------------------------------------------------------------------- */

static uint64_t count_of(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* By how much a second a counter grew; -1: it cannot be said */
static double growth(uint64_t from, uint64_t to, uint64_t from_ns, uint64_t to_ns)
{
	return from_ns && to >= from && (double)to_ns - (double)from_ns >= SPAN_S * 1e9 ? (double)(to - from) / (double)(to_ns - from_ns) : -1;
}

/* Loads of a rank since the last look; @is_ours: this is one. Two host clocks have nothing to do with each other. */
static void rate_rank(const struct head *h, const struct survey *s, json_t *one, bool is_ours)
{
	uint64_t rank = count_of(one, "rank"), cluster = count_of(one, "cluster");
	const json_t *said = cluster < s->n_clusters ? s->clusters[cluster] : NULL;
	struct reading now = { count_of(said, "now_ns"), count_of(one, "cpu_ns"), count_of(one, "waited_ns"), 0 };
	struct used *u = &h->looks->ranks[rank];
	double used, waited;

	if (rank >= h->size || !said)
		return;
	now.host = h->clusters[cluster].host;
	used = growth(u->then.cpu_ns, now.cpu_ns, u->then.at_ns, now.at_ns);
	waited = growth(u->then.waited_ns, now.waited_ns, u->then.at_ns, now.at_ns);
	if (now.host == u->then.host && used >= 0 && waited >= 0) {
		u->waits = fmin(waited, used);
		u->load = used - u->waits;
		u->is_known = true;
	}
	u->private_bytes = (double)count_of(one, "private_bytes");
	if (is_ours)
		u->then = now;
	if (json_object_get(one, "load"))
		json_object_set(one, "told_load", json_object_get(one, "load"));
	json_object_set_new(one, "load", u->is_known ? json_real(u->load) : json_null());
	json_object_set_new(one, "waits", u->is_known ? json_real(u->waits) : json_null());
}

static void rate_cluster(const struct head *h, const json_t *said, uint32_t cluster, bool is_ours)
{
	struct busy *b = &h->looks->clusters[cluster];
	uint64_t at = count_of(said, "now_ns"), busy = count_of(said, "busy_ns");
	double rate = growth(b->busy_ns, busy, b->at_ns, at);

	if (rate >= 0) {
		b->busy = rate;
		b->is_known = true;
	}
	if (is_ours) {
		b->at_ns = at;
		b->busy_ns = busy;
	}
}

double survey_private_bytes(const struct head *h, uint32_t rank)
{
	return h->looks && rank < h->size ? h->looks->ranks[rank].private_bytes : 0;
}

/* ---- what is told ------------------------------------------------------------------------------------------------------- */

static json_t *cluster_json(const struct survey *s, uint32_t c, double load)
{
	static const char *const states[] = { "starting", "joining", "up", "leaving", "left", "lost", "ended" };
	const struct head *h = s->head;
	const struct cluster *cl = &h->clusters[c];
	const json_t *said = c < s->n_clusters ? s->clusters[c] : NULL;
	const struct busy *b = &h->looks->clusters[c];
	int ranks = 0;
	json_t *one;

	for (uint32_t r = 0; r < h->size; r++)
		ranks += h->ranks[r].cluster == c && h->ranks[r].state == RANK_RUNNING;
	one = json_pack("{s:i, s:i, s:s, s:s, s:i, s:o, s:i, s:i, s:b, s:f}", "cluster", (int)c, "host", (int)cl->host, "hostname",
	                h->hosts[cl->host].name, "state", states[cl->state], "pid", (int)(cl->daemon ? cl->daemon : cl->pid), "cores",
	                rt_cpus_json(&cl->cores.cpus), "domain", (int)cl->cores.domain, "ranks", ranks, "drained", (int)cl->is_drained, "load",
	                load);
	layout_describe(h, c, one);
	json_object_set_new(one, "busy", said && b->is_known ? json_real(b->busy) : json_null());
	for (const char *const *key = (const char *const[]){ "busy_ns", "now_ns", "room", NULL }; *key; key++)
		json_object_set_new(one, *key, said ? json_integer((json_int_t)count_of(said, *key)) : json_null());
	return one;
}

static json_t *unmovable_json(const struct rank *r)
{
	const char *text = r->state == RANK_ENDED ? "it has ended" : r->state == RANK_WAITING ? "it has not been started yet" :
	                   "it is on its way, or its daemon does not answer";

	return json_pack("{s:s, s:[{s:s, s:i, s:s}]}", "state", r->state == RANK_RUNNING ? "moving" : "no", "reasons", "kind",
	                 "state", "number", 0, "text", text);
}

/* What the owner said of a rank; or what the head knows when no owner spoke of it: it has ended, or is on its way. */
static json_t *rank_json(const struct survey *s, uint32_t rank, json_t *said)
{
	const struct rank *r = &s->head->ranks[rank];

	if (said)
		return json_incref(said);
	return json_pack("{s:i, s:i, s:i, s:I, s:s, s:i, s:i, s:n, s:n, s:o*}", "rank", (int)rank, "cluster", (int)r->cluster, "pid",
	                 (int)r->pid, "epoch", (json_int_t)r->epoch, "state", r->state == RANK_ENDED ? "ended"
	                 : r->state == RANK_WAITING ? "starting" : "moving", "threads", 0, "private_kib", 0, "load", "waits",
	                 "movable", s->is_movable_asked ? unmovable_json(r) : NULL);
}

/* What the ranks of each cluster compute, and what its processors do, in thousandths of a processor. */
static void tell_loads(const struct survey *s, const double *loads)
{
	const struct head *h = s->head;
	int *n = gw_event_on() ? calloc(h->n_clusters + 1, sizeof(*n)) : NULL;
	json_t *load, *busy, *ranks;
	bool is_known = false;

	for (uint32_t r = 0; n && r < h->size; r++)
		if (h->ranks[r].state == RANK_RUNNING) {
			n[h->ranks[r].cluster]++;
			is_known |= h->looks->ranks[r].is_known;
		}
	if (!is_known) {
		free(n);
		return;
	}
	load = json_array();
	busy = json_array();
	ranks = json_array();
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		bool is_said = c < s->n_clusters && s->clusters[c];

		json_array_append_new(load, is_said ? json_integer(lround(1000 * loads[c])) : json_null());
		json_array_append_new(busy, is_said && h->looks->clusters[c].is_known ? json_integer(lround(1000 * h->looks->clusters[c].busy)) : json_null());
		json_array_append_new(ranks, json_integer(n[c]));
	}
	gw_event("load.seen", "{s:o, s:o, s:o}", "load", load, "busy", busy, "ranks", ranks);
	free(n);
}

static json_t *all_json(struct survey *s, bool is_ours)
{
	struct head *h = s->head;
	json_t *ranks = json_array(), *clusters = json_array(), *one;
	json_t **said = calloc(h->size + 1, sizeof(*said));
	double *loads = calloc(h->n_clusters + 1, sizeof(*loads));
	size_t i;

	if (!said || !loads) {
		free(said);
		free(loads);
		json_decref(ranks);
		json_decref(clusters);
		return NULL;
	}
	json_array_foreach(s->ranks, i, one)
		if (count_of(one, "rank") < h->size) {
			said[count_of(one, "rank")] = one;
			rate_rank(h, s, one, is_ours);
			if (is_ours)
				record_seen(h, (uint32_t)count_of(one, "rank"), one);
		}
	for (uint32_t r = 0; r < h->size; r++) {
		one = rank_json(s, r, said[r]);
		pins_describe(h, r, one);
		spawn_describe(h, r, one);
		ledger_describe(h, r, one, s->is_movable_asked);
		json_object_set_new(one, "hostname", json_string(h->hosts[h->clusters[h->ranks[r].cluster].host].name));
		loads[h->ranks[r].cluster] += json_number_value(json_object_get(one, "load"));
		json_array_append_new(ranks, one);
	}
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		if (c < s->n_clusters && s->clusters[c])
			rate_cluster(h, s->clusters[c], c, is_ours);
		json_array_append_new(clusters, cluster_json(s, c, loads[c]));
	}
	if (is_ours)
		tell_loads(s, loads);
	free(said);
	free(loads);
	return json_pack("{s:{s:s, s:s, s:i, s:o, s:i, s:I, s:O}, s:o, s:o, s:O, s:o, s:o}", "job", "id", h->kvsname + strlen("godwit-"), "state",
	                 suspend_text(h), "pid", (int)getpid(), "program", gw_event_text(h->spec->apps[0].argv.list[0]), "ranks", (int)h->size, "age_ms",
	                 (json_int_t)((gw_now_ns() - h->started_ns) / 1000000), "checkpoints", h->checkpoints, "clusters", clusters, "ranks",
	                 ranks, "sessions", s->sessions, "moves", ledger_json(h), "balance", balance_json(h));
}

/* ---- asking ------------------------------------------------------------------------------------------------------------- */

static void survey_free(struct survey *s)
{
	gw_list_remove(&s->node);
	gw_timer_cancel(s->deadline);
	for (uint32_t c = 0; c < s->n_clusters; c++)
		json_decref(s->clusters[c]);
	free(s->clusters);
	json_decref(s->ranks);
	json_decref(s->sessions);
	free(s);
}

static void over(struct survey *s)
{
	survey_done_fn *done = s->done;
	void *ctx = s->ctx;
	json_t *all = all_json(s, done == NULL);

	survey_free(s);
	if (done)
		done(ctx, all);
	else
		json_decref(all);
}

static void on_deadline(void *ctx)
{
	struct survey *s = ctx;

	s->deadline = NULL;
	over(s);
}

int survey_begin(struct head *h, enum survey_kind kind, survey_done_fn *done, void *ctx)
{
	struct survey *s = calloc(1, sizeof(*s));
	bool is_use = kind == SURVEY_USE || kind == SURVEY_TRAFFIC;

	if (!s)
		return -ENOMEM;
	s->clusters = calloc(h->n_clusters + 1, sizeof(*s->clusters));
	if (!s->clusters) {
		free(s);
		return -ENOMEM;
	}
	s->head = h;
	s->id = ++h->next_id;
	s->is_movable_asked = kind == SURVEY_MOVABLE;
	s->ranks = json_array();
	s->sessions = json_array();
	s->n_clusters = h->n_clusters;
	s->done = done;
	s->ctx = ctx;
	gw_list_append(&h->surveys, &s->node);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		s->due += h->clusters[c].state == CLUSTER_UP &&
			job_cluster_send(h, c, json_pack("{s:s, s:I, s:b, s:b}", "op", is_use ? "measure" : "status", "id", (json_int_t)s->id, "movable",
			                                 (int)s->is_movable_asked, "traffic", (int)(kind == SURVEY_TRAFFIC)));
	if (s->due == 0 || gw_loop_timer(h->loop, &s->deadline, PATIENCE_MS, 0, on_deadline, s) < 0)
		over(s);
	return 0;
}

void survey_heard(struct cluster *c, json_t *msg)
{
	uint64_t id = count_of(msg, "id");

	gw_list_for(e, &c->head->surveys) {
		struct survey *s = gw_list_entry(e, struct survey, node);

		if (s->id != id || c->index >= s->n_clusters || s->clusters[c->index])
			continue;
		json_array_extend(s->ranks, json_object_get(msg, "ranks"));
		json_array_extend(s->sessions, json_object_get(msg, "sessions"));
		s->clusters[c->index] = json_incref(msg);
		if (--s->due == 0)
			over(s);
		return;
	}
}

void survey_forget(struct head *h, const void *ctx)
{
	gw_list_for_safe(e, &h->surveys) {
		struct survey *s = gw_list_entry(e, struct survey, node);

		if (s->ctx == ctx)
			survey_free(s);
	}
}

/* ---- of our own --------------------------------------------------------------------------------------------------------- */

static void on_timer(void *head)
{
	struct head *h = head;

	h->looks->timer = NULL;
	survey_begin(h, record_wants_traffic(h) ? SURVEY_TRAFFIC : SURVEY_USE, NULL, h->looks);
	gw_loop_timer(h->loop, &h->looks->timer, record_look_ms(h, EVERY_MS), 0, on_timer, h); /* without memory there are no further loads */
}

int survey_init(struct head *h, struct gw_error *why)
{
	struct looks *l = h->looks = calloc(1, sizeof(*l));

	gw_list_init(&h->surveys);
	if (l) {
		l->ranks = calloc(h->room + 1, sizeof(*l->ranks)); /* ranks that are spawned later included */
		l->clusters = calloc(RT_CLUSTERS_MAX, sizeof(*l->clusters));
	}
	if (!l || !l->ranks || !l->clusters || gw_loop_timer(h->loop, &l->timer, FIRST_MS, 0, on_timer, h) < 0)
		return gw_fail(why, -ENOMEM, "out of memory");
	return 0;
}

void survey_fini(struct head *h)
{
	if (!h->looks)
		return;
	gw_list_for_safe(e, &h->surveys)
		survey_free(gw_list_entry(e, struct survey, node));
	gw_timer_cancel(h->looks->timer);
	free(h->looks->ranks);
	free(h->looks->clusters);
	free(h->looks);
	h->looks = NULL;
}
