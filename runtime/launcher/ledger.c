/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves that are over: how many, how long ranks stood, the last of them; and what they teach of the next ones.
 *
 *   memory, what it writes, how long it stood      of a rank
 *   bytes a second, a pause without any memory     of a way: between two hosts, or within one
 *      └──► runtime/balance/predict.c: how long it would stand, by each technique ──► status --movable, balancing, `mig.done`
 *
 * An unmoved rank is not followed to learn what it writes. The ranks of a job are much alike: what is not known of one is taken from
 * the others, and what of a way from other ways like it.
 */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define LAST        32                 /* moves that are told of */
#define NEW_PART    0.3                /* of what is known is what was seen last */
#define TOLD_BYTES  (4.0 * 1024 * 1024) /* fewer say nothing of a link, */
#define SENT_BYTES  (1024.0 * 1024)    /* and fewer nothing of how fast memory goes while a rank stands */
#define FIXED_NEAR_S 0.003
#define FIXED_FAR_S  0.006
#define FIXED_AFTER_S 0.003            /* and more, when pages come after it */
#define AROUND_S    0.004              /* before and after it stands nobody hears from it, either: while it leaves the network, and joins it */
#define WORK_S      0.015              /* of processors that a move takes the daemons, memory apart */
#define WORK_PART   0.3                /* of that, what the last moves say */
#define SENDING     0.2                /* of the time in which its memory goes a processor is busy with it, at the source or there */

static const double limits_s[LEDGER_LIMITS] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5 };

struct way { uint32_t a, b; double bytes_s, stopped_bytes_s, fixed_s, fixed_after_s, fixed_post_s, around_s; }; /* hosts; 0: not known */

struct ledger {
	uint64_t moved[BAL_TECHNIQUES], bytes[BAL_TECHNIQUES], failed;
	uint64_t stood[LEDGER_LIMITS + 1];     /* how many no longer than that limit, and longer than the one before */
	double stood_s;
	double work_s;                         /* see ledger_worked() */
	double spent_s, sent_s, rest;          /* of daemons since moves were counted last; for memory that went; their part when nobody moves */
	uint64_t over;                         /* moves since then */
	struct taught { double memory, dirty, pause_s; bool has_dirty; uint32_t moves; } *ranks; /* [head.room] */
	struct way *ways;
	uint32_t n_ways;
	json_t *last;
};

static double number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* ---- ways --------------------------------------------------------------------------------------------------------------- */

static struct way *way_of(struct ledger *l, uint32_t a, uint32_t b)
{
	uint32_t low = a < b ? a : b, high = a < b ? b : a;
	struct way *more;

	for (uint32_t i = 0; i < l->n_ways; i++)
		if (l->ways[i].a == low && l->ways[i].b == high)
			return &l->ways[i];
	more = realloc(l->ways, (l->n_ways + 1) * sizeof(*more));
	if (!more)
		return NULL;
	l->ways = more;
	more[l->n_ways] = (struct way){ .a = low, .b = high };
	return &more[l->n_ways++];
}

/* The mean of a field (of logarithms, as in mix()) over the ways that are like it: within a host, or between hosts. 0: none is known */
static double alike(const struct ledger *l, bool is_far, size_t field)
{
	double sum = 0;
	int n = 0;

	for (uint32_t i = 0; i < l->n_ways; i++) {
		double v = *(const double *)(const void *)((const char *)&l->ways[i] + field);

		if ((l->ways[i].a != l->ways[i].b) == is_far && v > 0) {
			sum += log(v);
			n++;
		}
	}
	return n ? exp(sum / n) : 0;
}

static double known(const struct ledger *l, const struct way *w, bool is_far, size_t field, double otherwise)
{
	double v = w ? *(const double *)(const void *)((const char *)w + field) : 0;

	if (v <= 0)
		v = alike(l, is_far, field);
	return v > 0 ? v : otherwise;
}

double ledger_link_bytes_s(const struct head *h)
{
	return alike(h->ledger, true, offsetof(struct way, bytes_s));
}

/* ---- predictions -------------------------------------------------------------------------------------------------------- */

/* Bytes a second that it writes: its own, or what ranks of the job do that were followed; -1: nobody was */
static double dirty_of(const struct head *h, uint32_t rank)
{
	const struct ledger *l = h->ledger;
	double sum = 0;
	int n = 0;

	if (l->ranks[rank].has_dirty)
		return l->ranks[rank].dirty;
	for (uint32_t r = 0; r < h->size; r++)
		if (l->ranks[r].has_dirty) {
			sum += l->ranks[r].dirty;
			n++;
		}
	return n ? sum / n : -1;
}

static struct bal_way way_for(const struct head *h, uint32_t rank, uint32_t to, double allowed_s)
{
	struct ledger *l = h->ledger;
	uint32_t a = h->clusters[h->ranks[rank].cluster].host, b = h->clusters[to].host;
	const struct way *w = way_of(l, a, b);
	bool is_far = a != b;
	double fixed = known(l, w, is_far, offsetof(struct way, fixed_s), is_far ? FIXED_FAR_S : FIXED_NEAR_S);
	double seen = survey_private_bytes(h, rank);

	return (struct bal_way){ .memory_bytes = seen > 0 ? seen : l->ranks[rank].memory, .dirty_bytes_s = dirty_of(h, rank),
		.link_bytes_s = known(l, w, is_far, offsetof(struct way, bytes_s), 0),
		.stopped_bytes_s = known(l, w, is_far, offsetof(struct way, stopped_bytes_s), 0), .fixed_s = fixed, .allowed_s = allowed_s,
		.fixed_after_s = known(l, w, is_far, offsetof(struct way, fixed_after_s), fixed + FIXED_AFTER_S),
		.fixed_post_s = known(l, w, is_far, offsetof(struct way, fixed_post_s), fixed + FIXED_AFTER_S) };
}

/* Seconds of a processor that go into its memory when it moves */
static double sending_s(const struct bal_way *w)
{
	return SENDING * w->memory_bytes / (w->link_bytes_s > 0 ? w->link_bytes_s : 1e9);
}

double ledger_cost_s(const struct head *h, uint32_t rank, double *work_s)
{
	struct ledger *l = h->ledger;
	uint32_t host = h->clusters[h->ranks[rank].cluster].host, other = host;
	const struct way *way;
	struct bal_forecast f;
	struct bal_way w;

	for (uint32_t c = 0; c < h->n_clusters && other == host; c++) /* where there are other hosts, it goes to one of them */
		if (h->clusters[c].state == CLUSTER_UP && h->clusters[c].host != host)
			other = h->clusters[c].host;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].state == CLUSTER_UP && h->clusters[c].host == other) {
			w = way_for(h, rank, c, 0);
			way = way_of(l, host, other);
			bal_predict(&f, &w);
			*work_s = (l->work_s > 0 ? l->work_s : WORK_S) + sending_s(&w);
			return f.down_s[BAL_AUTO] + known(l, way, host != other, offsetof(struct way, around_s), AROUND_S);
		}
	*work_s = WORK_S;
	return AROUND_S;
}

void ledger_worked(struct head *h, double daemons_s, double seconds)
{
	struct ledger *l = h->ledger;
	double rest = l->rest * seconds, seen;

	l->spent_s += fmax(0, daemons_s - rest);
	if (!gw_list_is_empty(&h->moves)) /* what they take is known when they are over */
		return;
	if (l->over == 0) {
		l->rest = l->rest > 0 ? (1 - WORK_PART) * l->rest + WORK_PART * daemons_s / seconds : daemons_s / seconds;
		l->spent_s = 0;
		return;
	}
	seen = fmax(0, l->spent_s - l->sent_s) / (double)l->over;
	l->work_s = l->work_s > 0 ? (1 - WORK_PART) * l->work_s + WORK_PART * seen : seen;
	l->spent_s = l->sent_s = 0;
	l->over = 0;
}

static json_t *ms_json(double s)
{
	return isnan(s) ? json_null() : json_real(s * 1e3);
}

static json_t *forecast_json(const struct bal_forecast *f)
{
	json_t *all = json_object();

	for (int t = 0; t < BAL_TECHNIQUES; t++)
		json_object_set_new(all, bal_technique_name((enum bal_technique)t),
		                    json_pack("{s:o, s:o}", "downtime_ms", ms_json(f->down_s[t]), "total_ms", ms_json(f->total_s[t])));
	return all;
}

void ledger_describe(const struct head *h, uint32_t rank, json_t *status, bool is_movable_asked)
{
	const struct taught *t = &h->ledger->ranks[rank];
	json_t *movable = json_object_get(status, "movable");
	struct bal_forecast f;
	struct bal_way w;
	uint32_t to;

	json_object_set_new(status, "moves", json_integer(t->moves));
	if (!is_movable_asked || !movable || h->ranks[rank].state != RANK_RUNNING)
		return;
	if (!drain_where(h, rank, &to)) {
		json_object_set_new(movable, "destination", json_null());
		return;
	}
	w = way_for(h, rank, to, 0);
	bal_predict(&f, &w);
	json_object_set_new(movable, "destination", json_integer(to));
	json_object_set_new(movable, "predicted", forecast_json(&f));
	json_object_set_new(movable, "takes", json_string(bal_technique_name(f.takes)));
	json_object_set_new(movable, "from", json_pack("{s:f, s:o, s:s?, s:o, s:o}", "memory_bytes", w.memory_bytes, "dirty_bytes_s",
	                    w.dirty_bytes_s < 0 ? json_null() : json_real(w.dirty_bytes_s), "dirty_of",
	                    w.dirty_bytes_s < 0 ? NULL : t->has_dirty ? "rank" : "others", "link_bytes_s",
	                    w.link_bytes_s > 0 ? json_real(w.link_bytes_s) : json_null(), "last_downtime_ms",
	                    t->pause_s > 0 ? json_real(t->pause_s * 1e3) : json_null()));
}

/* ---- moves -------------------------------------------------------------------------------------------------------------- */

void ledger_begun(const struct head *h, struct move *m, const json_t *how)
{
	struct bal_way w = way_for(h, m->rank, m->to, number(how, "max_downtime_us") / 1e6);
	struct bal_forecast f;

	bal_predict(&f, &w);
	if (bal_technique_parse(json_string_value(json_object_get(how, "technique")), &m->asked) < 0)
		m->asked = BAL_AUTO;
	m->is_bounded = number(how, "bandwidth") > 0;
	m->predicted_s = f.down_s[m->asked];
	m->begun_ns = gw_now_ns();
}

/* Some moves take many times what others do, on a busy host; none takes nothing. So the mean is that of logarithms: one that took long
 * would else be foreseen of the next ones. */
static void mix(double *known, double seen)
{
	if (seen > 0)
		*known = *known > 0 ? exp((1 - NEW_PART) * log(*known) + NEW_PART * log(seen)) : seen;
}

/* Bytes that went while it ran or while it stood, by their times; where they were enough to say something. */
static double rate_seen(const json_t *measures)
{
	const json_t *phases = json_object_get(measures, "phases");
	double rounds = number(measures, "round_bytes"), rounds_ns = number(phases, "rounds_ns");
	double stopped = number(measures, "bytes") - rounds - number(json_object_get(measures, "fetch"), "sent_bytes");

	if (rounds >= TOLD_BYTES && rounds_ns > 0)
		return rounds * 1e9 / rounds_ns;
	return stopped >= TOLD_BYTES ? number(measures, "link_bytes_s") : 0;
}

/* Of a pause: what is not for sending, and how fast the rest of it was sent. A prediction adds up the same two */
static void learn_pause(struct way *w, double down, double sent, double rate, enum bal_technique did)
{
	if (did == BAL_POST_COPY || did == BAL_HYBRID) { /* what goes before the others is much the same always */
		mix(did == BAL_POST_COPY ? &w->fixed_post_s : &w->fixed_after_s, down);
	} else if (sent < SENT_BYTES) {
		/* it went before all others, and not as slowly as rounds do: at least half is not for sending */
		mix(&w->fixed_s, fmax(down / 2, down - sent / (w->bytes_s > 0 ? w->bytes_s : 1e9)));
	} else if (did == BAL_STOP_AND_COPY) {
		/* in one pause nobody can tell the two apart: those in which little was sent know better */
		if (w->fixed_s <= 0)
			mix(&w->fixed_s, down / 2);
		mix(&w->stopped_bytes_s, sent / (down - fmin(w->fixed_s, 0.75 * down)));
	} else if (sent >= TOLD_BYTES) {
		mix(&w->stopped_bytes_s, rate);
	}
}

static void learn(struct head *h, const struct move *m, const json_t *measures, enum bal_technique did)
{
	struct ledger *l = h->ledger;
	struct taught *t = &l->ranks[m->rank];
	struct way *w = way_of(l, h->clusters[m->from].host, h->clusters[m->to].host);
	double stopped = number(measures, "bytes") - number(measures, "round_bytes") - number(json_object_get(measures, "fetch"), "sent_bytes");
	double down = number(measures, "downtime_ns") / 1e9, seen = m->is_bounded ? 0 : rate_seen(measures);

	t->memory = number(measures, "private_bytes");
	if (json_is_number(json_object_get(measures, "dirty_pages_s"))) {
		t->dirty = number(measures, "dirty_pages_s") * (double)sysconf(_SC_PAGESIZE);
		t->has_dirty = true;
	}
	if (down > 0)
		t->pause_s = down;
	if (!w)
		return;
	if (seen > 0)
		mix(&w->bytes_s, seen);
	if (down > 0 && number(measures, "gate_closed_ns") > 0)
		mix(&w->around_s, number(measures, "gate_closed_ns") / 1e9 - down);
	if (down > 0 && (!m->is_bounded || stopped < SENT_BYTES))
		learn_pause(w, down, stopped, number(measures, "link_bytes_s"), did);
}

static void note(struct head *h, const struct move *m, int status, const char *text, json_t *measures, const char *did)
{
	static const char *const told[] = { "downtime_ns", "total_ns", "bytes", "pages", "dirty_pages_s", "rounds", "preparation_ns", "resume_ns",
		"degradation", "slowdown", "link_bytes_s" };
	json_t *one = json_pack("{s:i, s:i, s:i, s:s, s:i, s:s, s:s?, s:s, s:o}", "rank", (int)m->rank, "from", (int)m->from, "to", (int)m->to, "by", m->by,
	                        "status", status, "text", text, "technique", status < 0 ? NULL : did, "asked", bal_technique_name(m->asked),
	                        "predicted_ns", isnan(m->predicted_s) ? json_null() : json_integer((json_int_t)(m->predicted_s * 1e9)));

	for (size_t i = 0; i < GW_ARRAY_LEN(told); i++)
		json_object_set_new(one, told[i], measures ? json_incref(json_object_get(measures, told[i])) : json_null());
	gw_event_object("mig.done", json_copy(one));
	json_object_set_new(one, "time", json_real((double)gw_realtime_ns() / 1e9));
	while (json_array_size(h->ledger->last) >= LAST)
		json_array_remove(h->ledger->last, 0);
	json_array_append_new(h->ledger->last, one);
}

void ledger_over(struct head *h, const struct move *m, int status, const char *text, json_t *measures)
{
	const char *did = json_string_value(json_object_get(measures, "technique"));
	struct ledger *l = h->ledger;
	double down = number(measures, "downtime_ns") / 1e9;
	enum bal_technique t = BAL_AUTO;
	struct bal_way w;
	size_t i = 0;

	note(h, m, status, text, measures, did);
	if (status < 0) {
		l->failed++;
		return;
	}
	l->ranks[m->rank].moves++;
	w = way_for(h, m->rank, m->from, 0); /* it is there now, so this is the way that it came */
	l->sent_s += sending_s(&w);
	l->over++;
	if (!did || bal_technique_parse(did, &t) < 0) /* its measures died with the daemon that it left */
		t = BAL_AUTO;
	l->moved[t]++;
	l->bytes[t] += (uint64_t)number(measures, "bytes");
	if (down > 0) {
		while (i < LEDGER_LIMITS && down > limits_s[i])
			i++;
		l->stood[i]++;
		l->stood_s += down;
	}
	if (measures)
		learn(h, m, measures, t);
}

json_t *ledger_json(const struct head *h)
{
	const struct ledger *l = h->ledger;
	json_t *by = json_object(), *limits = json_array(), *stood = json_array(), *pending = json_array(), *links = json_array();
	uint64_t moved = 0, sum = 0;

	for (int t = 0; t < BAL_TECHNIQUES; t++) {
		moved += l->moved[t];
		if (t != BAL_AUTO || l->moved[t]) /* of which nobody knows */
			json_object_set_new(by, t == BAL_AUTO ? "unknown" : bal_technique_name((enum bal_technique)t),
			                    json_pack("{s:I, s:I}", "moved", (json_int_t)l->moved[t], "bytes", (json_int_t)l->bytes[t]));
	}
	for (size_t i = 0; i <= LEDGER_LIMITS; i++) {
		sum += l->stood[i];
		json_array_append_new(stood, json_integer((json_int_t)sum));
		if (i < LEDGER_LIMITS)
			json_array_append_new(limits, json_real(limits_s[i]));
	}
	gw_list_for(e, &h->moves) {
		const struct move *m = gw_list_entry(e, struct move, node);

		json_array_append_new(pending, json_pack("{s:i, s:i, s:i, s:s, s:I, s:o}", "rank", (int)m->rank, "from", (int)m->from, "to",
			(int)m->to, "asked", bal_technique_name(m->asked), "age_ms", (json_int_t)((gw_now_ns() - m->begun_ns) / 1000000),
			"predicted_ms", ms_json(m->predicted_s)));
	}
	for (uint32_t i = 0; i < l->n_ways; i++)
		if (l->ways[i].bytes_s > 0)
			json_array_append_new(links, json_pack("{s:s, s:s, s:f}", "a", h->hosts[l->ways[i].a].name, "b", h->hosts[l->ways[i].b].name,
			                                       "bytes_s", l->ways[i].bytes_s));
	return json_pack("{s:I, s:I, s:o, s:{s:o, s:o, s:f, s:I}, s:o, s:o, s:O}", "moved", (json_int_t)moved, "failed", (json_int_t)l->failed,
	                 "techniques", by, "downtime", "limits_s", limits, "at_most", stood, "sum_s", l->stood_s, "count", (json_int_t)sum,
	                 "under_way", pending, "links", links, "last", l->last);
}

int ledger_init(struct head *h, struct gw_error *why)
{
	struct ledger *l = h->ledger = calloc(1, sizeof(*l));

	if (l) {
		l->ranks = calloc(h->room + 1, sizeof(*l->ranks));
		l->last = json_array();
	}
	return l && l->ranks && l->last ? 0 : gw_fail(why, -ENOMEM, "out of memory");
}

void ledger_fini(struct head *h)
{
	if (!h->ledger)
		return;
	json_decref(h->ledger->last);
	free(h->ledger->ranks);
	free(h->ledger->ways);
	free(h->ledger);
	h->ledger = NULL;
}
