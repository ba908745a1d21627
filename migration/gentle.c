/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rounds that leave the rank its core, where that was asked for (--max-slowdown): how fast they go where daemons and rank
 * want the same processors.
 *
 * What the daemons take of them grows with what they send. So for a moment rounds go as fast as they can, and it is looked
 * how long the rank's threads wait for a processor meanwhile; when that costs the rank more than it may, the rate is
 * bounded in proportion, and corrected every FOR_NS. It is the wait that is told, as the kernel counts it, not what the
 * rank gets done: one that rests, or waits for messages, loses nothing.
 *
 * Nobody gains by it in all: the same copies take the same time of the same cores, more of it in bursts, and what is
 * written meanwhile is sent, too. It is for a rank that must go on evenly.
 *
 *    sent   |      /|   /|  /      at first as it goes; then bursts, with rests of REST_NS or more between them
 *           |    /  | /  |/
 *           |  / ___/ ___/
 *           |/__________________ time
 *            FOR_NS
 *
 * The bound never makes rounds take more than LONGER times as long, nor so long that they bring nothing: they go at twice
 * the rate at which the rank writes at least, and a round that has not brought less to do than the one before is followed
 * by one at full speed.
 */
#include "migration/session.h"

#define FOR_NS        50000000ull  /* of one look; in less, time that the kernel adds up at ticks of 4 ms tells little */
#define WANTED_NS     20000000ull  /* of it, or the rank has nothing to lose */
#define BEFORE_NS     200000000ull /* as long as it must have run here to know what is usual */
#define LEAST_BYTES   (64u << 20)  /* less goes in a tenth of a second */
#define REST_NS       4000000ull   /* at least: fewer switches cost less, and a tick is as long */
#define LONGER        10u          /* rounds take no more than that many times as long */

double mig_gentle_lost(uint64_t ran_ns, uint64_t waited_ns, double usual)
{
	double had = ran_ns ? (double)ran_ns / (double)(ran_ns + waited_ns) : waited_ns ? 0 : 1;

	return usual > had ? 1 - had / usual : 0;
}

uint64_t mig_gentle_rate(uint64_t seen, uint64_t full, double lost, double limit, unsigned longer, uint64_t dirty_rate)
{
	double rate = lost > limit / 2 ? (double)seen * limit / lost : 2 * (double)seen; /* little is told no better than that */
	double least = (double)(full / longer > 2 * dirty_rate ? full / longer : 2 * dirty_rate);

	rate = rate > least ? rate : least;
	return rate >= (double)full ? 0 : (uint64_t)rate;
}

static bool turns(struct mig_session *s, struct mig_turns *now)
{
	*now = (struct mig_turns){ 0 };
	if (s->m->c.ops->turns && s->owner)
		s->m->c.ops->turns(s->m->c.ctx, s->owner, now);
	return now->ran_ns;
}

void mig_gentle_begin(struct mig_session *s)
{
	const struct mig_pace *then = &s->cost.then, *start = &s->cost.start;
	struct mig_gentle *g = &s->gentle;

	g->limit = s->how.max_slowdown / 1000.;
	g->is_off = !s->how.max_slowdown || s->rounds.all < LEAST_BYTES;
	g->usual = 1;
	if (then->at_ns && start->at_ns - then->at_ns >= BEFORE_NS && start->turns.ran_ns > then->turns.ran_ns + WANTED_NS &&
	    start->turns.waited_ns >= then->turns.waited_ns)
		g->usual = 1 - mig_gentle_lost(start->turns.ran_ns - then->turns.ran_ns,
		                               start->turns.waited_ns - then->turns.waited_ns, 1);
}

void mig_gentle_round(struct mig_session *s)
{
	struct mig_gentle *g = &s->gentle;

	g->is_bounded = g->rate != 0;
	if (g->is_off)
		return;
	g->at_ns = gw_now_ns();
	g->bytes = s->t.bytes;
	g->is_off = !turns(s, &g->turns);
}

void mig_gentle_off(struct mig_session *s)
{
	s->gentle.is_off = true;
	s->gentle.rate = 0;
}

/* How much was sent since the last look, at which loss? */
static void look(struct mig_session *s, uint64_t now_ns)
{
	struct mig_gentle *g = &s->gentle;
	uint64_t seen = (uint64_t)((double)(s->t.bytes - g->bytes) * 1e9 / (double)(now_ns - g->at_ns));
	struct mig_turns now;
	double lost = 0;

	if (!turns(s, &now)) {
		mig_gentle_off(s);
		return;
	}
	/* less than before: some of its threads have ended */
	if (now.ran_ns >= g->turns.ran_ns && now.waited_ns >= g->turns.waited_ns &&
	    now.ran_ns - g->turns.ran_ns + now.waited_ns - g->turns.waited_ns > WANTED_NS)
		lost = mig_gentle_lost(now.ran_ns - g->turns.ran_ns, now.waited_ns - g->turns.waited_ns, g->usual);
	if (!g->rate && seen > g->full)
		g->full = seen;
	g->rate = mig_gentle_rate(seen, g->full, lost, g->limit, LONGER, s->rounds.dirty_rate);
	g->is_bounded |= g->rate != 0;
	g->at_ns = now_ns;
	g->bytes = s->t.bytes;
	g->turns = now;
}

uint64_t mig_gentle_due(struct mig_session *s)
{
	struct mig_gentle *g = &s->gentle;
	uint64_t now = gw_now_ns(), due;

	if (g->is_off)
		return 0;
	if (now - g->at_ns >= FOR_NS)
		look(s, now);
	if (!g->rate)
		return 0;
	due = g->at_ns + (uint64_t)((double)(s->t.bytes - g->bytes) * 1e9 / (double)g->rate);
	if (due < now + REST_NS)
		return 0;
	g->rested_ns += due - now;
	return due;
}

void mig_gentle_json(const struct mig_session *s, json_t *m)
{
	const struct mig_turns *a = &s->cost.begun.turns, *b = &s->cost.over.turns;
	bool is_told = a->ran_ns && b->ran_ns > a->ran_ns && b->waited_ns >= a->waited_ns;

	json_object_set_new(m, "rested_ns", json_integer((json_int_t)s->gentle.rested_ns));
	json_object_set_new(m, "waited", !is_told ? json_null() :
	                    json_real(mig_gentle_lost(b->ran_ns - a->ran_ns, b->waited_ns - a->waited_ns, s->gentle.usual)));
}
