/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a move costs others: how much slower the rank goes while its memory is sent, or comes after it, and what of the link the
 * move takes. Both are told against what was before: doc/migration.md says what each number is, and what it is not.
 */
#include "migration/session.h"

#define TOLD_NS 200000000ull /* in less, time in user mode, which the kernel counts in ticks of 10 ms, tells nothing */
#define LEAST   0.05         /* of a core: a rank that used less before, as one that sleeps, has nothing to lose */

static const struct mig_ops *ops(const struct mig_session *s)
{
	return s->m->c.ops;
}

static void look(struct mig_session *s, struct mig_pace *now, struct mig_pace *then)
{
	if (ops(s)->pace && s->owner)
		ops(s)->pace(s->m->c.ctx, s->owner, now, then);
}

void mig_cost_start(struct mig_session *s)
{
	look(s, &s->cost.start, &s->cost.then);
}

void mig_cost_link(struct mig_session *s)
{
	if (ops(s)->line && s->peer)
		ops(s)->line(s->m->c.ctx, gw_link_fd(s->peer->link), &s->cost.line_start, &s->cost.line_then);
}

void mig_cost_rounds(struct mig_session *s, bool is_over)
{
	struct mig_pace nobody_asks;

	if (is_over)
		s->pack.rounds_wire = s->pack.wire;
	if (is_over) /* also without rounds: the owner looks at it for itself */
		look(s, s->cost.begun.at_ns ? &s->cost.over : &nobody_asks, NULL);
	else if (s->is_following)
		look(s, &s->cost.begun, NULL);
}

void mig_cost_over(struct mig_session *s)
{
	struct mig_cost *c = &s->cost;

	if (!c->line_start.at_ns)
		return;
	c->line_over = c->line_start;
	ops(s)->line(s->m->c.ctx, -1, &c->line_over, NULL);
}

void mig_cost_fetch(struct mig_session *s)
{
	look(s, &s->cost.fetch, NULL);
}

uint64_t mig_cost_fetched(struct mig_session *s)
{
	struct mig_pace now = { 0 };

	look(s, &now, NULL);
	return now.user_ns > s->cost.fetch.user_ns ? now.user_ns - s->cost.fetch.user_ns : 0; /* 0, too: it has ended */
}

/* ---- what became of it ---------------------------------------------------------------------------------------------- */

static json_t *rate(uint64_t amount, uint64_t ns, uint64_t least_ns)
{
	return ns && ns >= least_ns ? json_real((double)amount / (double)ns) : json_null();
}

/* Between two looks; 0: one was not taken */
static uint64_t ns_of(const struct mig_pace *a, const struct mig_pace *b)
{
	return a->at_ns && b->at_ns > a->at_ns ? b->at_ns - a->at_ns : 0;
}

static uint64_t user_of(const struct mig_pace *a, const struct mig_pace *b)
{
	return ns_of(a, b) && b->user_ns > a->user_ns ? b->user_ns - a->user_ns : 0;
}

static uint64_t mpi_of(const struct mig_pace *a, const struct mig_pace *b)
{
	return ns_of(a, b) && a->has_mpi && b->has_mpi && b->mpi_bytes > a->mpi_bytes ? b->mpi_bytes - a->mpi_bytes : 0;
}

static void slowdown_json(const struct mig_session *s, json_t *m)
{
	const struct mig_cost *c = &s->cost;
	uint64_t before_ns = ns_of(&c->then, &c->start), fetch_ns = s->is_leaving ? s->post.fetched.fetch_ns : 0;
	uint64_t ns = ns_of(&c->begun, &c->over) + fetch_ns;
	uint64_t user = user_of(&c->begun, &c->over) + (fetch_ns ? s->post.fetched.user_ns : 0);
	double before = before_ns ? (double)user_of(&c->then, &c->start) / (double)before_ns : 0;
	bool is_told = before_ns >= TOLD_NS && ns >= TOLD_NS && before >= LEAST;

	json_object_set_new(m, "slowdown", is_told ? json_real(1 - (double)user / (double)ns / before) : json_null());
	json_object_set_new(m, "cores_before", rate(user_of(&c->then, &c->start), before_ns, TOLD_NS));
	json_object_set_new(m, "cores_meanwhile", rate(user, ns, TOLD_NS));
}

/* Over the network what the interface has sent counts; over memory, where nobody counts that, what the rank itself sends and gets,
 * while there are rounds: it stands when the rest goes. */
static void link_json(const struct mig_session *s, json_t *m)
{
	const struct mig_cost *c = &s->cost;
	const struct mig_line *then = &c->line_then, *start = &c->line_start, *over = &c->line_over;
	bool is_network = start->name[0], is_told = is_network ? over->at_ns > start->at_ns : ns_of(&c->begun, &c->over) && c->over.has_mpi;
	uint64_t ns = is_network ? over->at_ns - start->at_ns : ns_of(&c->begun, &c->over);
	uint64_t before_ns = is_network ? (then->at_ns ? start->at_ns - then->at_ns : 0) : ns_of(&c->then, &c->start);
	uint64_t before = is_network ? start->sent_bytes - then->sent_bytes : mpi_of(&c->then, &c->start);
	uint64_t own = is_network ? s->pack.wire : s->pack.rounds_wire;
	uint64_t all = is_network ? over->sent_bytes - start->sent_bytes : own + mpi_of(&c->begun, &c->over);
	json_t *l;

	if (!is_told) {
		json_object_set_new(m, "link", json_null());
		return;
	}
	all = all > own ? all : own; /* what is queued yet has not been sent */
	l = json_pack("{s:s, s:f, s:f, s:f}", "name", is_network ? start->name : "memory", "share", all ? (double)own / (double)all : 0,
	              "bytes_s", (double)own * 1e9 / (double)ns, "others_bytes_s", (double)(all - own) * 1e9 / (double)ns);
	json_object_set_new(l, "others_bytes_s_before", before_ns ? json_real((double)before * 1e9 / (double)before_ns) : json_null());
	json_object_set_new(m, "link", l);
}

void mig_cost_json(const struct mig_session *s, json_t *m)
{
	slowdown_json(s, m);
	link_json(s, m);
}
