/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rounds of a move whose rank runs on meanwhile: whether, how many, how fast.
 *
 * After each round it is looked what would have to go now. That is sent in another round as long as a round still shortens
 * the pause: it is done when the rest goes within half the pause that is allowed, or when the rank writes about as fast as
 * the link takes it away. Nothing is decided by guesses: the link's rate is that of the round before, up to the
 * destination's word that it has it.
 */
#include "migration/session.h"

#include <stdlib.h>

#define ROUNDS_MAX      12
#define SMALL_BYTES     (256u << 10)         /* less is not worth a round */
#define MAX_DOWNTIME_NS 5000000ull           /* where nothing was asked for */
#define ASSUMED_RATE    (1000ull * 1000 * 1000) /* bytes a second, before anything was measured */

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static GW_PRINTF(2, 3) void chose(struct mig_session *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->rounds.chose, sizeof(s->rounds.chose), fmt, ap);
	va_end(ap);
}

uint64_t mig_follow_from(struct mig_session *s, const struct mig_how *how)
{
	struct ct_host_caps caps;

	s->how = *how;
	if (!s->how.max_downtime_ns)
		s->how.max_downtime_ns = MAX_DOWNTIME_NS;
	if (how->technique == MIG_STOP_AND_COPY)
		return 0;
	if (how->technique == MIG_PRE_COPY || how->technique == MIG_POST_COPY || how->technique == MIG_HYBRID)
		return 1; /* by post-copy there are no rounds; but no pages are made ahead either */
	ct_host_probe(&caps);
	if (!caps.has_wp_async) {
		chose(s, "this host cannot follow what a rank writes");
		return 0;
	}
	return s->how.max_downtime_ns * (ASSUMED_RATE / 1000000) / 1000;
}

void mig_follow_choose(struct mig_session *s, uint64_t from, uint64_t bytes)
{
	s->is_following = from && bytes >= from && s->how.technique != MIG_POST_COPY;
	if (s->how.technique != MIG_AUTO || s->rounds.chose[0])
		return;
	if (s->is_following)
		chose(s, "it would stand still while %.1f MiB are sent", mib(bytes));
	else
		chose(s, "%.1f MiB are sent within %.1f ms", mib(bytes), ms(s->how.max_downtime_ns));
}

/* ---- one round ------------------------------------------------------------------------------------------------------ */

static void on_pace(void *ctx)
{
	struct mig_session *s = ctx;

	s->pace = NULL;
	mig_step(s, MIG_EV_MORE);
}

/* of memory, sent of the round that is on its way */
static uint64_t round_sent(const struct mig_session *s)
{
	return s->t.bytes - s->t.round_bytes;
}

/* When the next bytes may go on the link, by what was asked for; 0: now */
static uint64_t due_on_link(const struct mig_session *s)
{
	uint64_t wire = s->pack.wire - (s->state == MIG_SERVE ? s->pack.serve_wire : s->pack.round_wire);

	return !s->how.bandwidth ? 0 : (s->state == MIG_SERVE ? s->post.begun_ns : s->rounds.begun_ns) +
	                               (uint64_t)((double)wire * 1e9 / (double)s->how.bandwidth);
}

bool mig_round_is_ahead(struct mig_session *s)
{
	uint64_t due, gentle;

	if (s->state != MIG_PRECOPY && s->state != MIG_SERVE)
		return false;
	if (s->pace) /* it waits for its time, whatever else comes meanwhile, as that the socket is empty */
		return true;
	gentle = s->state == MIG_PRECOPY ? mig_gentle_due(s) : 0;
	due = due_on_link(s);
	due = due > gentle ? due : gentle;
	if (gw_now_ns() >= due)
		return false;
	if (mig_session_later(s, (unsigned)((due - gw_now_ns()) / 1000000 + 1), on_pace) < 0)
		return false;
	return true;
}

void mig_src_round(struct mig_session *s)
{
	if (!s->rounds.is_sent && mig_src_send(s, "mig.src.round", "a round of its memory"))
		s->rounds.is_sent = true;
}

/* Would sending that many bytes be noticed in the pause? */
static bool is_much(const struct mig_session *s, uint64_t bytes)
{
	const struct mig_rounds *r = &s->rounds;
	uint64_t pause = r->rate ? (uint64_t)((double)bytes * 1e9 / (double)r->rate) : 0;

	return bytes > SMALL_BYTES && pause > s->how.max_downtime_ns / 2;
}

static bool has_shrunk(const struct mig_rounds *r, const struct ct_round *now)
{
	return now->bytes < r->last.bytes - r->last.bytes / 4;
}

/* Is what would have to go now @now worth another round? After one that rested it is not known how fast it writes. */
static bool is_worth_it(const struct mig_session *s, const struct ct_round *now)
{
	const struct mig_rounds *r = &s->rounds;

	if (r->n == 0)
		return true;
	if (s->how.technique == MIG_HYBRID)
		return false;
	return is_much(s, now->bytes) && r->n < ROUNDS_MAX && (has_shrunk(r, now) || s->gentle.is_bounded);
}

/* The rounds are over, and @bytes are left: shall they come after the rank? */
static void choose_to_leave(struct mig_session *s, uint64_t bytes)
{
	const struct mig_rounds *r = &s->rounds;
	uint64_t pause = r->rate ? (uint64_t)((double)bytes * 1e9 / (double)r->rate) : 0;

	if (s->how.technique == MIG_HYBRID)
		s->is_leaving = true;
	if (s->how.technique != MIG_AUTO || pause <= s->how.max_downtime_ns)
		return;
	s->is_leaving = s->t.there_prepared.can_fetch;
	chose(s, "it writes about as fast as the link takes it: after %u round%s %.1f MiB are left, %.0f ms%s", r->n, r->n == 1 ? "" : "s",
	      mib(bytes), ms(pause), s->is_leaving ? "" : "; and that host does not let a rank run before its memory is there");
}

/*
 * What comes after the rank must not be at the destination, which would have to throw it away while the rank stands: that is done
 * now, by a round without pages. When it is nearly all, we would have to look for it, too: then no more is followed.
 */
static void leave(struct mig_session *s, uint64_t bytes)
{
	struct mig_rounds *r = &s->rounds;
	struct gw_error why = { 0 };
	int code;

	if (bytes <= SMALL_BYTES) {
		mig_step(s, MIG_EV_ENOUGH);
		return;
	}
	r->is_leaving = true;
	r->is_forgetting = bytes > r->all / 2;
	code = r->is_forgetting ? ct_follow_forget(s->rank, &why) : ct_follow_leave(s->rank, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "its mappings cannot be read any more: %s", why.text);
		return;
	}
	r->is_sent = false;
	r->begun_ns = gw_now_ns();
	s->pack.round_wire = s->pack.wire;
	mig_gentle_off(s);
	mig_src_round(s);
}

static void next_round(struct mig_session *s)
{
	struct mig_rounds *r = &s->rounds;
	struct gw_error why = { 0 };
	struct ct_round now;
	int code = ct_follow_round(s->rank, &now, &why);

	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "what it writes cannot be followed any more: %s", why.text);
		return;
	}
	if (now.since_ns)
		r->dirty_rate = (uint64_t)((double)now.dirty_bytes * 1e9 / (double)now.since_ns);
	if (!is_worth_it(s, &now)) {
		choose_to_leave(s, now.bytes);
		if (s->is_leaving)
			leave(s, now.bytes);
		else
			mig_step(s, MIG_EV_ENOUGH);
		return;
	}
	if (r->n == 0) {
		r->all = now.bytes;
		mig_gentle_begin(s);
	} else if (!has_shrunk(r, &now)) {
		mig_gentle_off(s);
	}
	r->last = now;
	r->n++;
	r->is_sent = false;
	r->begun_ns = gw_now_ns();
	mig_gentle_round(s);
	s->pack.round_wire = s->pack.wire;
	mig_src_round(s);
}

void mig_src_precopy(struct mig_session *s)
{
	struct gw_error why = { 0 };
	int code;

	s->t.proved = gw_now_ns();
	if ((s->how.technique == MIG_POST_COPY || s->how.technique == MIG_HYBRID) && !s->t.there_prepared.can_fetch) {
		mig_post(s, MIG_EV_FAILED, -ENOTSUP, "on cluster %u no rank can run before its memory is there: its user may not wait for "
		         "pages in the kernel (userfaultfd; 'godwit doctor' says more there); use --technique pre-copy", s->id.to);
		return;
	}
	s->is_leaving = s->how.technique == MIG_POST_COPY;
	if (!s->is_following) {
		mig_step(s, MIG_EV_ENOUGH);
		return;
	}
	if (mig_edge(s, "mig.src.follow"))
		return;
	mig_cost_rounds(s, false);
	code = ct_follow_begin(s->rank, &why);
	if (code == 0) {
		next_round(s);
	} else if (s->how.technique != MIG_AUTO) {
		mig_post(s, MIG_EV_FAILED, code, "what it writes cannot be followed: %s; use --technique %s", why.text,
		         s->how.technique == MIG_HYBRID ? "post-copy" : "stop-and-copy");
	} else {
		s->is_following = false;
		chose(s, "what it writes cannot be followed: %s", why.text);
		mig_step(s, MIG_EV_ENOUGH);
	}
}

/* The destination has all of it. */
void mig_src_round_over(struct mig_session *s)
{
	struct mig_rounds *r = &s->rounds;
	uint64_t took = gw_now_ns() - r->begun_ns;
	struct gw_error why = { 0 };

	if (!r->is_sent) /* its last piece has gone, but there was no turn since, as by --bandwidth, to see that it was the last */
		r->is_sent = ct_image_next(s->rank, s->m->buf, MIG_CHUNK, &why) == 0;
	if (!r->is_sent) {
		mig_post(s, MIG_EV_FAILED, -EPROTO, "cluster %u has a round before it was sent", s->id.to);
		return;
	}
	if (r->is_leaving) {
		if (r->is_forgetting)
			ct_follow_end(s->rank);
		else
			ct_follow_sent(s->rank);
		s->t.round_bytes = s->t.bytes;
		mig_step(s, MIG_EV_ENOUGH);
		return;
	}
	ct_follow_sent(s->rank);
	/* what the pause will have: nobody rests in it */
	r->rate = s->gentle.is_bounded ? s->gentle.full : took ? (uint64_t)((double)round_sent(s) * 1e9 / (double)took) : 0;
	s->t.round_bytes = s->t.bytes;
	if (is_much(s, r->last.bytes) || s->how.technique == MIG_HYBRID)
		next_round(s);
	else /* even if all of it has been written again: to look now would only cost the rank time */
		mig_step(s, MIG_EV_ENOUGH);
}

/* ---- what became of it ---------------------------------------------------------------------------------------------- */

static const char *const names[] = { "auto", "stop-and-copy", "pre-copy", "post-copy", "hybrid" };

const char *mig_technique_now(const struct mig_session *s)
{
	return names[s->is_leaving ? (s->rounds.n ? MIG_HYBRID : MIG_POST_COPY) : s->is_following ? MIG_PRE_COPY : MIG_STOP_AND_COPY];
}

void mig_follow_json(const struct mig_session *s, json_t *m)
{
	const struct mig_rounds *r = &s->rounds;

	json_object_set_new(m, "technique", json_string(mig_technique_now(s)));
	json_object_set_new(m, "asked", json_string(names[s->how.technique]));
	json_object_set_new(m, "chosen_for", r->chose[0] ? json_string(r->chose) : json_null());
	json_object_set_new(m, "rounds", json_integer(r->n));
	json_object_set_new(m, "round_bytes", json_integer((json_int_t)s->t.round_bytes));
	json_object_set_new(m, "round_bytes_s", r->rate ? json_integer((json_int_t)r->rate) : json_null());
	mig_gentle_json(s, m);
}
