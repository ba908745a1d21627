/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job's history: mpirun's own events, for `godwit report` when the job has ended (doc/report.md).
 *
 * The head knows all that a history is made of, whatever host it happened on, so this is a listener of its events that keeps
 * them in a file of the user's: $XDG_STATE_HOME/godwit/jobs/<job>.jsonl, or where -record says. Lines are gathered, and handed once a
 * second to the process that writes them (scribe.h): mpirun touches no file of them. What that cannot take is left out, and where that
 * was is told in the history. A job that cannot keep one runs without, unless it was asked for.
 *
 * The file is bounded, however long the job runs:
 *   - what comes again and again (loads, traffic, looks of the balancer that moved nobody) is taken every second at first,
 *     and half as often whenever STAGE_BYTES of it have been written: the logarithm of time;
 *   - from FULL_BYTES on moves are not told one by one, but as sums, with where all ranks are, in the same way;
 *   - from LIMIT_BYTES on nothing is, but the end.
 */
#include "runtime/launcher/record.h"

#include <stdlib.h>

#define STAGE_BYTES   (256u << 10)
#define FULL_BYTES    (24ull << 20)
#define LIMIT_BYTES   (32ull << 20)
#define WRITE_MS      1000
#define WRITE_BYTES   (64u << 10) /* gathered: they are handed over at once */
#define LOOK_RANKS    128         /* a second between looks for each so many ranks: they cost the daemons something */
#define OPEN_MS       10000       /* for a file that -record names to be open */
#define END_MS        2000        /* for the last lines to be written, */
#define STUCK_MS      5000        /* unless nothing has been taken for so long */

void record_cadence_init(struct cadence *c, uint64_t every_ms)
{
	*c = (struct cadence){ .every_ms = every_ms, .left = STAGE_BYTES };
}

bool record_is_due(struct cadence *c, size_t bytes)
{
	uint64_t now = gw_now_ns();

	if (now < c->next_ns)
		return false;
	if (c->left < bytes) {
		c->every_ms *= 2;
		c->left = STAGE_BYTES;
	}
	c->left -= bytes < c->left ? bytes : c->left;
	c->next_ns = now + c->every_ms * 1000000 * 9 / 10; /* looks do not come to the millisecond */
	return true;
}

bool record_is_kept(const struct record *r)
{
	return r && r->scribe && !scribe_is_over(r->scribe);
}

/* ---- writing -------------------------------------------------------------------------------------------------------------- */

static GW_PRINTF(2, 3) void say(const struct record *r, const char *fmt, ...)
{
	char text[5000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (r->is_asked)
		job_say(r->head, "mpirun: %s", text);
	else
		gw_log(GW_INFO, "%s", text);
}

static void on_opened(void *ctx, const char *path, uint64_t size)
{
	struct record *r = ctx;

	snprintf(r->path, sizeof(r->path), "%s", path);
	r->size += size;
}

static void on_ended(void *ctx, const char *path, const char *why)
{
	struct record *r = ctx;

	if (*r->path)
		say(r, "the record of this job in '%s' ends here: %s", path, why);
	else
		say(r, "no record of this job is kept: %s", why);
}

static void tell_gap(struct record *r, uint64_t lost)
{
	gw_event("record.gap", "{s:I, s:o}", "lines", (json_int_t)lost, "places", record_places(r->head, 0, r->head->size));
}

static void on_drained(void *ctx, uint64_t lost)
{
	tell_gap(ctx, lost);
}

static const struct scribe_ops scribe_ops = { .opened = on_opened, .drained = on_drained, .ended = on_ended };

static void tell_gathered(struct record *r);

static void on_timer(void *ctx)
{
	struct record *r = ctx;

	r->timer = NULL;
	tell_gathered(r);
	scribe_flush(r->scribe);
}

void record_arm(struct record *r)
{
	if (!r->timer && r->head->loop && gw_loop_timer(r->head->loop, &r->timer, WRITE_MS, 0, on_timer, r) < 0)
		r->timer = NULL; /* then with the next line */
}

static void append(struct record *r, const char *line, size_t len, bool is_last_word)
{
	if (!record_is_kept(r))
		return;
	if (!scribe_put(r->scribe, line, len, is_last_word)) {
		if (!r->is_gap_said)
			say(r, "the record of this job has gaps: what it is written to takes nothing for now");
		r->is_gap_said = true;
		return;
	}
	r->size += len;
	if (scribe_waiting(r->scribe) >= WRITE_BYTES)
		scribe_flush(r->scribe);
	else
		record_arm(r);
}

/* ---- what is kept of what happens ----------------------------------------------------------------------------------------- */

static bool is_thinned(struct record *r, const char *name, const json_t *event, size_t len)
{
	if (strcmp(name, "load.seen") == 0)
		return !record_is_due(&r->loads, len);
	if (strcmp(name, "bal.done") == 0)
		r->is_outcome_due = true;
	if (strcmp(name, "bal.plan") == 0) {
		bool is_wanted = r->is_outcome_due || json_integer_value(json_object_get(event, "moves")) > 0;

		r->is_outcome_due = false;
		return !is_wanted && !record_is_due(&r->plans, len);
	}
	if (r->size < FULL_BYTES)
		return false;
	if (strcmp(name, "mig.done") == 0) {
		double pause = json_number_value(json_object_get(event, "downtime_ns"));

		if (json_integer_value(json_object_get(event, "status")) == 0)
			r->moved++;
		else
			r->failed++;
		r->downtime_ns += pause;
		r->longest_ns = pause > r->longest_ns ? pause : r->longest_ns;
		record_arm(r);
		return true;
	}
	return strcmp(name, "rank.moved") == 0;
}

static void on_event(void *ctx, const char *name, const json_t *event, const char *line, size_t len)
{
	bool is_last_word = strcmp(name, "job.ended") == 0 || strcmp(name, "job.failed") == 0 || strcmp(name, "record.gap") == 0;
	struct record *r = ctx;

	if (r->size + len > LIMIT_BYTES && !is_last_word)
		return;
	if (!is_thinned(r, name, event, len))
		append(r, line, len, is_last_word);
}

/* -1: it runs no more */
static json_int_t place_of(const struct head *h, uint32_t rank)
{
	return h->ranks[rank].state == RANK_ENDED ? -1 : (json_int_t)h->ranks[rank].cluster;
}

json_t *record_places(const struct head *h, uint32_t first, uint32_t size)
{
	json_t *all = json_array();

	for (uint32_t r = first, n; r < first + size; r += n) {
		for (n = 1; r + n < first + size && place_of(h, r + n) == place_of(h, r); n++)
			;
		json_array_append_new(all, json_pack("[i, o]", (int)n, place_of(h, r) < 0 ? json_null() : json_integer(place_of(h, r))));
	}
	return all;
}

static void tell_ended(struct record *r)
{
	json_t *all;

	if (!r->is_end_due)
		return;
	r->is_end_due = false;
	all = json_array();
	for (uint32_t i = 0, n; i < r->head->size; i += n) {
		for (n = 1; i + n < r->head->size && r->has_ended[i + n] == r->has_ended[i]; n++)
			;
		if (r->has_ended[i])
			json_array_append_new(all, json_pack("[i, i]", (int)i, (int)n));
	}
	memset(r->has_ended, 0, r->head->room * sizeof(*r->has_ended));
	gw_event("rank.ended", "{s:o}", "ranks", all);
}

static void tell_sums(struct record *r)
{
	json_t *places;

	if (!r->moved && !r->failed)
		return;
	places = record_places(r->head, 0, r->head->size);
	if (!record_is_due(&r->sums, 200 + 10 * json_array_size(places))) {
		json_decref(places);
		record_arm(r);
		return;
	}
	gw_event("mig.sum", "{s:i, s:i, s:f, s:f, s:o}", "moved", (int)r->moved, "failed", (int)r->failed, "downtime_ns", r->downtime_ns,
	         "longest_ns", r->longest_ns, "places", places);
	r->moved = r->failed = 0;
	r->downtime_ns = r->longest_ns = 0;
}

/* What was gathered since the last writing */
static void tell_gathered(struct record *r)
{
	tell_ended(r);
	tell_sums(r);
	record_traffic_tell(r, false);
}

void record_ended(struct head *h, uint32_t rank)
{
	struct record *r = h->record;

	if (!r)
		return;
	r->has_ended[rank] = r->is_end_due = true;
	record_arm(r);
}

/* ---- what is asked of daemons for its sake --------------------------------------------------------------------------------- */

uint64_t record_look_ms(const struct head *h, uint64_t at_most)
{
	uint64_t least = 1000 * (1 + (uint64_t)h->size / LOOK_RANKS);

	if (!record_is_kept(h->record))
		return at_most;
	if (least < h->record->loads.every_ms)
		least = h->record->loads.every_ms;
	return least < at_most ? least : at_most;
}

static json_t *programs_json(const struct head *h)
{
	json_t *all = json_array();

	for (uint32_t a = 0; a < h->spec->n_apps; a++) {
		const struct app *app = &h->spec->apps[a];
		char words[1000] = "";
		size_t at = 0;

		for (size_t i = 0; i < app->argv.n && at < sizeof(words) - 8; i++)
			at += (size_t)snprintf(words + at, sizeof(words) - at, "%s%s", i ? " " : "", app->argv.list[i]);
		if (at >= sizeof(words) - 8)
			memcpy(words + sizeof(words) - 8, "...", 4);
		json_array_append_new(all, json_pack("{s:o, s:i}", "words", gw_event_text(words), "ranks", (int)app->n));
	}
	return all;
}

void record_begin(struct head *h)
{
	gw_event("job.started", "{s:s, s:i, s:i, s:i, s:s, s:s, s:o, s:o}", "job", h->kvsname + strlen("godwit-"), "ranks", (int)h->size,
	         "clusters", (int)h->n_clusters, "record", 1, "version", PACKAGE_VERSION, "balance", bal_strategy_name(h->spec->balance),
	         "programs", programs_json(h), "places", record_places(h, 0, h->size));
}

/* The secret is nobody's who writes files */
static void in_scribe(void *ctx)
{
	const struct record *r = ctx;

	explicit_bzero(r->head->secret, sizeof(r->head->secret));
}

int record_init(struct head *h, struct gw_error *why)
{
	const char *where = h->spec->record;
	struct record *r;
	struct gw_error own = { 0 };
	int code;

	if (where && strcmp(where, "none") == 0)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return gw_fail(why, -ENOMEM, "out of memory");
	h->record = r;
	r->head = h;
	r->is_asked = where;
	record_cadence_init(&r->loads, 1000);
	record_cadence_init(&r->plans, 1000);
	record_cadence_init(&r->sums, 10000);
	r->has_ended = calloc(h->room + 1, sizeof(*r->has_ended));
	if (!r->has_ended || record_traffic_init(r) < 0)
		return gw_fail(why, -ENOMEM, "out of memory");
	code = scribe_start(&r->scribe, h->loop, where, h->job, in_scribe, &scribe_ops, r, &own);
	if (code == 0 && where)
		code = scribe_await(r->scribe, gw_now_ns() + OPEN_MS * 1000000ull, &own);
	if (code == -ETIMEDOUT) {
		scribe_end(r->scribe, 0, NULL);
		r->scribe = NULL;
		return gw_fail(why, code, "-record: '%s' cannot be opened within %d s: %s; name another file, or 'none'", where, OPEN_MS / 1000, own.text);
	}
	if (code < 0 && where)
		return gw_fail(why, code, "%s", own.text);
	if (code < 0) {
		say(r, "no record of this job is kept: %s", own.text);
		record_fini(h);
		return 0;
	}
	gw_event_listen(on_event, r);
	return 0;
}

void record_end(struct head *h)
{
	struct record *r = h->record;

	if (r) {
		tell_ended(r);
		r->sums.next_ns = 0;
		tell_sums(r);
		record_traffic_tell(r, true);
		if (record_is_kept(r) && scribe_lost(r->scribe))
			tell_gap(r, scribe_lost(r->scribe));
	}
	gw_event("job.ended", "{s:i}", "code", h->exit_code);
}

void record_fini(struct head *h)
{
	struct record *r = h->record;
	struct gw_error why = { 0 };
	bool is_kept = record_is_kept(r);
	uint64_t end = gw_now_ns();

	h->record = NULL;
	if (!r)
		return;
	if (!is_kept || end < scribe_heeded_ns(r->scribe) + STUCK_MS * 1000000ull)
		end += END_MS * 1000000ull;
	gw_event_listen(NULL, NULL);
	gw_timer_cancel(r->timer);
	if (scribe_end(r->scribe, end, &why) < 0 && is_kept)
		say(r, "the record of this job%s%s%s is not whole: %s", *r->path ? " in '" : "", r->path, *r->path ? "'" : "", why.text);
	record_traffic_fini(r);
	free(r->has_ended);
	free(r);
}
