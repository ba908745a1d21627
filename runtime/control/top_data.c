/* SPDX-License-Identifier: BSD-2-Clause */
/* From two answers of mpirun (doc/monitoring.md) to figures. Counters only grow, wherever a rank is: rates are their differences. */
#include "runtime/control/top.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPAN_S 0.05 /* between two answers; less says nothing */

static double number(const json_t *o, const char *key, double otherwise)
{
	const json_t *v = json_object_get(o, key);

	return json_is_number(v) ? json_number_value(v) : otherwise;
}

static void word(char *out, size_t cap, const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	snprintf(out, cap, "%s", text ? text : "");
}

/* The element of a list whose @key is @value; they are mostly in that order */
static const json_t *find(const json_t *list, const char *key, double value)
{
	const json_t *one = value >= 0 ? json_array_get(list, (size_t)value) : NULL;
	size_t i;

	if (one && number(one, key, -1) == value)
		return one;
	json_array_foreach((json_t *)(uintptr_t)list, i, one)
		if (number(one, key, -1) == value)
			return one;
	return NULL;
}

/* Seconds between what the daemon of a cluster said then, and what it, or another of its host, says now; 0: unknown */
static double span(const json_t *before, double cluster_before, const json_t *now, double cluster)
{
	const json_t *a = find(json_object_get(before, "clusters"), "cluster", cluster_before);
	const json_t *b = find(json_object_get(now, "clusters"), "cluster", cluster);
	double from = number(a, "now_ns", 0), to = number(b, "now_ns", 0);

	if (number(a, "host", -1) != number(b, "host", -2) || from <= 0 || (to - from) / 1e9 < SPAN_S)
		return 0;
	return (to - from) / 1e9;
}

static double growth(const json_t *before, const json_t *now, const char *key, double seconds)
{
	double from = number(before, key, -1), to = number(now, key, -1);

	return seconds > 0 && from >= 0 && to >= from ? (to - from) / seconds : TOP_UNKNOWN;
}

/* To whom it has sent most since then */
static void find_peer(struct top_rank *r, const json_t *before, const json_t *now)
{
	const json_t *rows = json_object_get(now, "traffic"), *old = json_object_get(before, "traffic"), *row;
	double seconds = (number(now, "traffic_ns", 0) - number(before, "traffic_ns", 0)) / 1e9;
	size_t i, k = 0;

	r->peer_s = TOP_UNKNOWN;
	if (!rows || !old || seconds < SPAN_S || number(now, "epoch", 0) != number(before, "epoch", 1))
		return;
	r->peer_s = 0;
	json_array_foreach((json_t *)(uintptr_t)rows, i, row) { /* both in the order of peers, and none goes away */
		double peer = json_number_value(json_array_get(row, 0)), bytes = json_number_value(json_array_get(row, 1));

		while (k < json_array_size(old) && json_number_value(json_array_get(json_array_get(old, k), 0)) < peer)
			k++;
		if (json_number_value(json_array_get(json_array_get(old, k), 0)) == peer && k < json_array_size(old))
			bytes -= json_number_value(json_array_get(json_array_get(old, k), 1));
		if (bytes / seconds > r->peer_s && peer != r->rank) {
			r->peer = (uint32_t)peer;
			r->peer_s = bytes / seconds;
		}
	}
	if (r->peer_s <= 0)
		r->peer_s = TOP_UNKNOWN;
}

static void read_rank(struct top_rank *r, const json_t *before, const json_t *now, const json_t *one)
{
	const json_t *then, *done = json_object_get(json_object_get(now, "moves"), "last");
	double seconds, cluster = number(one, "cluster", 0), used, waited;

	r->rank = (uint32_t)number(one, "rank", 0);
	r->cluster = (uint32_t)cluster;
	r->moves = (uint32_t)number(one, "moves", 0);
	word(r->host, sizeof(r->host), one, "hostname");
	word(r->state, sizeof(r->state), one, "state");
	r->is_pinned = json_is_true(json_object_get(one, "pinned"));
	r->has_ended = strcmp(r->state, "ended") == 0;
	r->is_moving = strcmp(r->state, "moving") == 0;
	r->memory = number(one, "memory", TOP_UNKNOWN);
	then = find(json_object_get(before, "ranks"), "rank", r->rank);
	seconds = then ? span(before, number(then, "cluster", -1), now, cluster) : 0;
	used = growth(then, one, "cpu_ns", seconds);
	waited = growth(then, one, "waited_ns", seconds);
	if (used >= 0 && waited >= 0) {
		r->waits = fmin(waited, used) / 1e9;
		r->load = used / 1e9 - r->waits;
	} else {
		r->load = number(one, "load", TOP_UNKNOWN);
		r->waits = number(one, "waits", TOP_UNKNOWN);
	}
	r->out_s = growth(then, one, "sent_bytes", seconds);
	r->in_s = growth(then, one, "received_bytes", seconds);
	find_peer(r, then, one);
	r->down_s = TOP_UNKNOWN;
	for (size_t i = json_array_size(done); i-- > 0;) {
		const json_t *m = json_array_get(done, i);

		if (number(m, "rank", -1) == r->rank && number(m, "status", -1) == 0) {
			r->down_s = number(m, "downtime_ns", -1e9) / 1e9;
			break;
		}
	}
}

static void read_cluster(struct top_cluster *c, const struct top_data *d, const json_t *before, const json_t *now, const json_t *one)
{
	double busy = growth(find(json_object_get(before, "clusters"), "cluster", number(one, "cluster", 0)), one, "busy_ns",
	                     span(before, number(one, "cluster", 0), now, number(one, "cluster", 0)));
	double domain = number(one, "domain", 0), used = 0;

	c->cluster = (uint32_t)number(one, "cluster", 0);
	c->host = (uint32_t)number(one, "host", 0);
	word(c->hostname, sizeof(c->hostname), one, "hostname");
	word(c->state, sizeof(c->state), one, "state");
	c->is_up = strcmp(c->state, "up") == 0;
	if (c->is_up && json_is_true(json_object_get(one, "drained")))
		snprintf(c->state, sizeof(c->state), "drained");
	c->cores = (double)json_array_size(json_object_get(one, "cores"));
	c->ranks = (uint32_t)number(one, "ranks", 0);
	c->room = number(one, "room", TOP_UNKNOWN);
	c->load = c->waits = 0;
	for (uint32_t r = 0; r < d->n_ranks; r++) {
		const struct top_rank *rank = &d->ranks[r];
		const json_t *at = find(json_object_get(now, "clusters"), "cluster", rank->cluster);

		if (rank->load < 0 || rank->has_ended)
			continue;
		if (rank->cluster == c->cluster) {
			c->load += rank->load;
			c->waits += rank->waits;
		}
		if (number(at, "domain", -1) == domain)
			used += rank->load + rank->waits;
	}
	busy = busy >= 0 ? busy / 1e9 : number(one, "busy", TOP_UNKNOWN);
	c->others = busy >= 0 ? fmax(0, busy - used) : TOP_UNKNOWN;
}

/* What a session does, in words of people */
static void doing(char *out, size_t cap, const json_t *session)
{
	static const struct { const char *state, *words; } table[] = {
		{ "prepare", "is prepared" }, { "prove", "files are compared" }, { "quiesce", "leaves MPI" }, { "send", "stands, is sent" },
		{ "given", "is handed over" }, { "serve", "runs, pages follow" }, { "taken", "has arrived" },
	};
	const char *state = json_string_value(json_object_get(session, "state"));

	if (state && strcmp(state, "precopy") == 0) {
		snprintf(out, cap, "runs, round %.0f", number(session, "round", 1));
		return;
	}
	snprintf(out, cap, "%s", state ? state : "waits");
	for (size_t i = 0; state && i < sizeof(table) / sizeof(table[0]); i++)
		if (strcmp(state, table[i].state) == 0)
			snprintf(out, cap, "%s", table[i].words);
}

static void read_move(struct top_move *m, const json_t *now, const json_t *one)
{
	const json_t *session;
	size_t i;

	m->rank = (uint32_t)number(one, "rank", 0);
	m->from = (uint32_t)number(one, "from", 0);
	m->to = (uint32_t)number(one, "to", 0);
	m->age_s = number(one, "age_ms", 0) / 1e3;
	m->predicted_s = number(one, "predicted_ms", -1e3) / 1e3;
	m->bytes = TOP_UNKNOWN;
	snprintf(m->doing, sizeof(m->doing), "waits for its turn");
	json_array_foreach(json_object_get((json_t *)(uintptr_t)now, "sessions"), i, session) {
		const char *side = json_string_value(json_object_get(session, "side"));

		if (number(session, "rank", -1) != m->rank || !side || strcmp(side, "source") != 0)
			continue;
		doing(m->doing, sizeof(m->doing), session);
		word(m->technique, sizeof(m->technique), session, "technique");
		m->bytes = number(session, "bytes", TOP_UNKNOWN);
	}
}

static void read_done(struct top_done *m, const json_t *one)
{
	m->time = number(one, "time", 0);
	m->rank = (uint32_t)number(one, "rank", 0);
	m->from = (uint32_t)number(one, "from", 0);
	m->to = (uint32_t)number(one, "to", 0);
	m->is_failed = number(one, "status", 0) < 0;
	m->down_s = number(one, "downtime_ns", -1e9) / 1e9;
	m->predicted_s = number(one, "predicted_ns", -1e9) / 1e9;
	m->total_s = number(one, "total_ns", -1e9) / 1e9;
	m->bytes = number(one, "bytes", TOP_UNKNOWN);
	word(m->technique, sizeof(m->technique), one, "technique");
	word(m->text, sizeof(m->text), one, "text");
}

static void read_balance(struct top_data *d, const json_t *b)
{
	if (!json_is_object(b))
		return;
	d->is_balancing = true;
	word(d->strategy, sizeof(d->strategy), b, "strategy");
	word(d->words, sizeof(d->words), b, "words");
	d->every_s = number(b, "every_ms", 0) / 1e3;
	d->peak = number(b, "peak", 0);
	d->planned = number(b, "peak_planned", 0);
}

int top_data_make(struct top_data *d, const json_t *before, const json_t *now)
{
	const json_t *job = json_object_get(now, "job"), *ranks = json_object_get(now, "ranks"), *clusters = json_object_get(now, "clusters");
	const json_t *moves = json_object_get(now, "moves"), *under_way = json_object_get(moves, "under_way"), *last = json_object_get(moves, "last");
	const json_t *down = json_object_get(moves, "downtime"), *one;
	size_t i;

	memset(d, 0, sizeof(*d));
	if (!json_is_object(job) || !json_is_array(ranks) || !json_is_array(clusters))
		return -EPROTO;
	d->ranks = calloc(json_array_size(ranks) + 1, sizeof(*d->ranks));
	d->clusters = calloc(json_array_size(clusters) + 1, sizeof(*d->clusters));
	d->moves = calloc(json_array_size(under_way) + 1, sizeof(*d->moves));
	d->done = calloc(json_array_size(last) + 1, sizeof(*d->done));
	if (!d->ranks || !d->clusters || !d->moves || !d->done) {
		top_data_fini(d);
		return -ENOMEM;
	}
	word(d->job, sizeof(d->job), job, "id");
	word(d->program, sizeof(d->program), job, "program");
	word(d->state, sizeof(d->state), job, "state");
	d->age_s = number(job, "age_ms", 0) / 1e3;
	json_array_foreach((json_t *)(uintptr_t)ranks, i, one)
		read_rank(&d->ranks[d->n_ranks++], before, now, one);
	json_array_foreach((json_t *)(uintptr_t)clusters, i, one) {
		uint32_t host = (uint32_t)number(one, "host", 0);

		read_cluster(&d->clusters[d->n_clusters++], d, before, now, one);
		d->n_hosts = host + 1 > d->n_hosts ? host + 1 : d->n_hosts;
	}
	json_array_foreach((json_t *)(uintptr_t)under_way, i, one)
		read_move(&d->moves[d->n_moves++], now, one);
	for (i = json_array_size(last); i-- > 0;)
		read_done(&d->done[d->n_done++], json_array_get(last, i));
	d->moved = number(moves, "moved", 0);
	d->failed = number(moves, "failed", 0);
	d->down_mean_s = number(down, "count", 0) > 0 ? number(down, "sum_s", 0) / number(down, "count", 1) : TOP_UNKNOWN;
	read_balance(d, json_object_get(now, "balance"));
	return 0;
}

void top_data_fini(struct top_data *d)
{
	free(d->ranks);
	free(d->clusters);
	free(d->moves);
	free(d->done);
	memset(d, 0, sizeof(*d));
}
