/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keepers in a simulated network: words are delivered in an order that a seed decides, keepers die, are cut off and come
 * back, hosts leave, jobs come and go. Whatever happens, no slot is in two jobs' hands, and when nothing more happens one
 * keeper leads all that live, every job that asked was answered, and what jobs had that are over is free.
 */
#include <stdlib.h>

#include "runtime/pool/inner.h"
#include "tests/tap.h"

#define KEEPERS 5
#define JOBS    24
#define SLOTS   3
#define STEPS   600
#define CALM_S  200

struct word { struct gw_list node; uint32_t from, to; json_t *msg; };

struct sim_keeper {
	struct pool pool;
	struct sim *s;
	unsigned index;
	bool is_dead, is_cut, is_stopped;
	struct gw_list in;                 /* struct word: in order of each sender */
	struct { uint32_t own, peer; bool is_up; } links[4096]; /* as this end sees them, by the ids that they were made with */
	unsigned n_links;
	uint32_t ended[64];                /* jobs whose daemons end soon */
	unsigned n_ended;
};

struct sim {
	struct sim_keeper k[KEEPERS];
	uint64_t rng;
	struct { unsigned at; enum { J_NONE, J_ASKED, J_HELD, J_REFUSED, J_OVER } state; uint32_t ranks; } jobs[JOBS + 1];
	unsigned long refusals, grants, vacated, added, left;
	char bad[256];
};

static uint32_t roll(struct sim *s, uint32_t n)
{
	s->rng = s->rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(s->rng >> 33) % n;
}

static struct sim_keeper *keeper_of(struct sim *s, uint32_t id)
{
	for (unsigned i = 0; i < KEEPERS; i++)
		if (s->k[i].pool.me.id == id)
			return &s->k[i];
	return NULL;
}

static bool reach(const struct sim_keeper *a, const struct sim_keeper *b)
{
	return !a->is_dead && !b->is_dead && a->is_cut == b->is_cut;
}

static bool *link_of(struct sim_keeper *k, uint32_t peer, bool is_made)
{
	for (unsigned i = 0; i < k->n_links; i++)
		if (k->links[i].peer == peer)
			return &k->links[i].is_up;
	if (!is_made || k->n_links == GW_ARRAY_LEN(k->links))
		return NULL;
	k->links[k->n_links].peer = peer;
	return &k->links[k->n_links++].is_up;
}

static void put(struct sim_keeper *to, uint32_t from, json_t *msg)
{
	struct word *w = calloc(1, sizeof(*w));

	w->from = from;
	w->msg = msg; /* NULL: the connection has ended */
	gw_list_append(&to->in, &w->node);
}

static void drop_from(struct sim_keeper *k, uint32_t from)
{
	gw_list_for_safe(e, &k->in) {
		struct word *w = gw_list_entry(e, struct word, node);

		if (w->from != from)
			continue;
		gw_list_remove(&w->node);
		json_decref(w->msg);
		free(w);
	}
}

/* The connection of two ends: what was on the way is lost, and both hear of it when their turn comes */
static void snap(struct sim_keeper *a, struct sim_keeper *b)
{
	bool *ab = link_of(a, b->pool.me.id, false), *ba = link_of(b, a->pool.me.id, false);
	bool was_a = ab && *ab, was_b = ba && *ba;

	drop_from(a, b->pool.me.id);
	drop_from(b, a->pool.me.id);
	if (ab)
		*ab = false;
	if (ba)
		*ba = false;
	if (was_a)
		put(a, b->pool.me.id, NULL);
	if (was_b)
		put(b, a->pool.me.id, NULL);
}

static void sim_send(void *ctx, const struct pool_member *m, json_t *msg)
{
	struct sim_keeper *k = ctx, *to = m->address[0] ? &k->s->k[m->address[0] - '0'] : keeper_of(k->s, m->id); /* whatever it is called by now */
	uint32_t me = k->pool.me.id;
	bool *up;

	if (m->id == me) {
		put(k, me, msg);
		return;
	}
	up = link_of(k, m->id, true);
	if (up && !*up) { /* dial */
		if (!to || !reach(k, to)) {
			put(k, m->id, NULL);
			json_decref(msg);
			return;
		}
		*up = true;
		*link_of(to, me, true) = true;
	}
	if (to && up && reach(k, to))
		put(to, me, msg);
	else
		json_decref(msg);
}

static void sim_close(void *ctx, uint32_t id)
{
	struct sim_keeper *k = ctx, *to = keeper_of(k->s, id);
	bool *up = link_of(k, id, false), *there = to ? link_of(to, k->pool.me.id, false) : NULL;

	drop_from(k, id);
	if (up)
		*up = false;
	if (there && *there) {
		*there = false; /* what was said before arrives before the end */
		put(to, k->pool.me.id, NULL);
	}
}

static void sim_start(void *ctx, const struct pool_claim *c, const json_t *how) { (void)ctx; (void)c; (void)how; }

static void sim_stop(void *ctx, uint32_t job)
{
	struct sim_keeper *k = ctx;

	if (k->n_ended < GW_ARRAY_LEN(k->ended))
		k->ended[k->n_ended++] = job;
}

static void sim_tell(void *ctx, uint32_t job, json_t *msg)
{
	struct sim_keeper *k = ctx;
	const char *op = json_string_value(json_object_get(msg, "op"));
	json_t *hosts = json_object_get(msg, "hosts");

	if (strcmp(op, "granted") == 0 && k->s->jobs[job].state == J_ASKED) {
		k->s->jobs[job].state = J_HELD;
		k->s->grants++;
		for (size_t i = 0; i < json_array_size(hosts); i++)
			pool_start(&k->pool, job, json_pack("{s:O, s:s}", "member", json_object_get(json_array_get(hosts, i), "member"), "line",
			                                    "true"));
	} else if (strcmp(op, "refused") == 0) {
		k->s->jobs[job].state = J_REFUSED;
		k->s->refusals++;
	} else if (strcmp(op, "vacate") == 0) {
		struct sim_keeper *from = &k->s->k[json_string_value(json_object_get(msg, "host"))[0] - 'a'];
		bool is_stuck = roll(k->s, 3) == 0;

		if (!is_stuck && !from->is_dead && from->n_ended < GW_ARRAY_LEN(from->ended))
			from->ended[from->n_ended++] = job; /* its daemons there end in order */
		k->s->vacated += !is_stuck;
		pool_vacated(&k->pool, job, is_stuck ? "a rank cannot move" : "");
	} else if (strcmp(op, "added") == 0) {
		k->s->added += !*json_string_value(json_object_get(msg, "text"));
	}
	json_decref(msg);
}

static void sim_over(void *ctx, const char *why)
{
	struct sim_keeper *k = ctx;

	(void)why;
	k->s->left++;
	if (!k->s->bad[0] && pool_claimed(&k->pool))
		snprintf(k->s->bad, sizeof(k->s->bad), "keeper %u has left with %u slots of jobs", k->index, pool_claimed(&k->pool));
}
static uint32_t sim_random(void *ctx) { struct sim_keeper *k = ctx; return roll(k->s, 0x7fffffff); }

static const struct pool_ops ops = { .send = sim_send, .close = sim_close, .start = sim_start, .stop = sim_stop, .tell = sim_tell,
	                             .over = sim_over, .random = sim_random };

/* One word, or the end of a connection, or of a daemon, of a keeper that is chosen */
static bool deliver(struct sim *s, unsigned i)
{
	struct sim_keeper *k = &s->k[i];
	struct word *w;
	unsigned n = 0, at;

	if (k->is_dead || k->is_stopped)
		return false;
	if (k->n_ended && (gw_list_is_empty(&k->in) || roll(s, 4) == 0)) {
		pool_daemon_ended(&k->pool, k->ended[--k->n_ended], "");
		return true;
	}
	gw_list_for(e, &k->in)
		n++;
	if (!n)
		return false;
	at = roll(s, n);
	w = gw_list_entry(k->in.next, struct word, node);
	gw_list_for(e, &k->in) /* the first of the sender that was chosen: words of one connection keep their order */
		if (at-- == 0)
			w = gw_list_entry(e, struct word, node);
	gw_list_for(e, &k->in)
		if (gw_list_entry(e, struct word, node)->from == w->from) {
			w = gw_list_entry(e, struct word, node);
			break;
		}
	gw_list_remove(&w->node);
	if (w->msg) {
		struct pool_member from = { .id = w->from };

		snprintf(from.host, sizeof(from.host), "host");
		pool_message(&k->pool, &from, w->msg);
	} else {
		pool_lost(&k->pool, w->from);
	}
	json_decref(w->msg);
	free(w);
	return true;
}

static void check_slots(struct sim *s)
{
	for (unsigned i = 0; i < KEEPERS && !s->bad[0]; i++)
		if (!s->k[i].is_dead && pool_claimed(&s->k[i].pool) > SLOTS)
			snprintf(s->bad, sizeof(s->bad), "keeper %u has given away %u slots of %d", i, pool_claimed(&s->k[i].pool), SLOTS);
	for (unsigned i = 0; i < KEEPERS; i++)
		for (unsigned j = 0; j < i; j++)
			if (!s->bad[0] && s->k[i].pool.state == POOL_LEAD && s->k[j].pool.state == POOL_LEAD && !s->k[i].is_dead &&
			    !s->k[j].is_dead && s->k[i].pool.term == s->k[j].pool.term)
				snprintf(s->bad, sizeof(s->bad), "keepers %u and %u lead in one term", i, j);
}

/* Somebody is told that a host is to leave; it may be that of the leader, which resigns. It stays while it has jobs */
static void leave(struct sim *s)
{
	struct sim_keeper *k = &s->k[roll(s, KEEPERS)], *told = &s->k[roll(s, KEEPERS)];
	struct gw_error why = { 0 };

	if (!told->is_dead && told->pool.state != POOL_OVER)
		pool_leave(&told->pool, k->pool.me.host, &why);
}

static void fault(struct sim *s)
{
	unsigned i = roll(s, KEEPERS), dead = 0;
	struct sim_keeper *k = &s->k[i];

	for (unsigned j = 0; j < KEEPERS; j++)
		dead += s->k[j].is_dead;
	switch (roll(s, 6)) {
	case 0:
		if (dead + 2 >= KEEPERS)
			return;
		for (unsigned j = 0; j < KEEPERS; j++)
			if (j != i)
				snap(k, &s->k[j]);
		k->is_dead = true;
		return;
	case 1:
	case 2:
		for (unsigned j = 0; j < KEEPERS; j++)
			if (j != i && s->k[j].is_cut == k->is_cut)
				snap(k, &s->k[j]);
		k->is_cut = !k->is_cut;
		return;
	case 3:
		k->is_stopped = !k->is_stopped;
		return;
	case 4:
		leave(s);
		return;
	default:
		snap(k, &s->k[roll(s, KEEPERS)]);
	}
}

static void job_event(struct sim *s)
{
	uint32_t job = 1 + roll(s, JOBS);
	struct sim_keeper *k = &s->k[s->jobs[job].at];

	if (k->is_dead || k->pool.state == POOL_OVER)
		return;
	if (s->jobs[job].state == J_NONE) {
		s->jobs[job].state = J_ASKED;
		s->jobs[job].ranks = 1 + roll(s, 2 * SLOTS);
		pool_ask(&k->pool, job, job + 1000, s->jobs[job].ranks, "job");
	} else if (s->jobs[job].state == J_HELD && roll(s, 3)) {
		pool_more(&k->pool, job, s->k[roll(s, KEEPERS)].pool.me.host);
	} else if (s->jobs[job].state == J_HELD) {
		s->jobs[job].state = J_OVER;
		pool_job_over(&k->pool, job);
	}
}

static void settle(struct sim *s)
{
	for (unsigned t = 0; t < CALM_S; t++) {
		unsigned n = 0;

		for (bool is_more = true; is_more && n < 20000; n++) {
			unsigned first = roll(s, KEEPERS);

			is_more = false;
			for (unsigned i = 0; i < KEEPERS; i++)
				is_more |= deliver(s, (first + i) % KEEPERS);
			check_slots(s);
		}
		for (unsigned i = 0; i < KEEPERS; i++)
			if (!s->k[i].is_dead)
				pool_tick(&s->k[i].pool);
	}
}

static void check_calm(struct sim *s)
{
	struct pool *leader = NULL;

	for (unsigned i = 0; i < KEEPERS; i++) {
		struct pool *p = &s->k[i].pool;

		if (s->k[i].is_dead || p->state == POOL_OVER)
			continue;
		if (p->state == POOL_LEAD && leader && !s->bad[0])
			snprintf(s->bad, sizeof(s->bad), "two lead in the end");
		if (p->state == POOL_LEAD)
			leader = p;
	}
	for (unsigned i = 0; i < KEEPERS && !s->bad[0]; i++) {
		struct pool *p = &s->k[i].pool;

		if (s->k[i].is_dead || p->state == POOL_OVER)
			continue;
		if (!leader)
			snprintf(s->bad, sizeof(s->bad), "nobody leads in the end");
		else if (p != leader && (p->state != POOL_FOLLOW || p->leader != leader->me.id || p->term != leader->term))
			snprintf(s->bad, sizeof(s->bad), "keeper %u is %s in the end, of %u (leader %u)", i, pool_state_name(p->state), p->leader,
			         leader->me.id);
		gw_list_for(e, &p->claims) {
			struct pool_claim *c = gw_list_entry(e, struct pool_claim, node);
			struct sim_keeper *head = &s->k[s->jobs[c->job].at];

			if (!s->bad[0] && (head->is_dead || head->pool.state == POOL_OVER || s->jobs[c->job].state != J_HELD))
				snprintf(s->bad, sizeof(s->bad), "keeper %u keeps slots for job %u, which is over (state %d)", i, c->job,
				         s->jobs[c->job].state);
		}
		gw_list_for(e, &p->grants)
			if (!s->bad[0] && gw_list_entry(e, struct pool_grant, node)->state == POOL_ASKED)
				snprintf(s->bad, sizeof(s->bad), "job %u of keeper %u has no answer", gw_list_entry(e, struct pool_grant, node)->job, i);
	}
}

/* Where nobody has died, nor was cut off: jobs have what they were given, and who is to leave and has nothing has left */
static void check_kept(struct sim *s)
{
	for (uint32_t job = 1; job <= JOBS; job++) {
		uint32_t slots = 0;

		for (unsigned i = 0; i < KEEPERS; i++) {
			const struct pool_claim *c = pool_claim_of(&s->k[i].pool, job);

			slots += c ? c->slots : 0;
		}
		if (!s->bad[0] && s->jobs[job].state == J_HELD && slots < s->jobs[job].ranks)
			snprintf(s->bad, sizeof(s->bad), "job %u runs with %u ranks on %u slots", job, s->jobs[job].ranks, slots);
	}
	for (unsigned i = 0; i < KEEPERS && !s->bad[0]; i++) {
		const struct pool *p = &s->k[i].pool;
		bool is_last = true; /* who leads stays when nobody else does */

		for (unsigned j = 0; j < KEEPERS; j++)
			is_last &= s->k[j].pool.state == POOL_OVER || s->k[j].pool.me.is_leaving;
		if (!(is_last && p->state == POOL_LEAD) && p->state != POOL_OVER && p->me.is_leaving && gw_list_is_empty(&p->claims) && gw_list_is_empty(&p->grants))
			snprintf(s->bad, sizeof(s->bad), "keeper %u is to leave, has nothing, and is %s", i, pool_state_name(p->state));
	}
}

static void begin(struct sim *s, uint64_t seed)
{
	json_t *members = json_array();

	memset(s, 0, sizeof(*s));
	s->rng = seed * 2654435761u + 1;
	for (unsigned i = 0; i < KEEPERS; i++)
		json_array_append_new(members, json_pack("{s:i, s:s, s:s, s:i, s:i}", "id", (int)(i + 1) << 16, "host", (char[]){ (char)('a' + i), 0 },
		                                         "address", (char[]){ (char)('0' + i), 0 }, "port", 1, "slots", SLOTS));
	for (unsigned i = 0; i < KEEPERS; i++) {
		struct pool_member me = { .id = (i + 1) << 16, .port = 1, .slots = SLOTS };

		s->k[i].s = s;
		s->k[i].index = i;
		me.host[0] = (char)('a' + i);
		me.address[0] = (char)('0' + i);
		gw_list_init(&s->k[i].in);
		pool_init(&s->k[i].pool, &me, &ops, &s->k[i]);
	}
	for (unsigned i = 0; i < KEEPERS; i++)
		pool_found(&s->k[i].pool, members);
	for (uint32_t j = 1; j <= JOBS; j++)
		s->jobs[j].at = roll(s, KEEPERS);
	json_decref(members);
}

static void fini(struct sim *s)
{
	for (unsigned i = 0; i < KEEPERS; i++) {
		gw_list_for_safe(e, &s->k[i].in) {
			struct word *w = gw_list_entry(e, struct word, node);

			json_decref(w->msg);
			free(w);
		}
		pool_fini(&s->k[i].pool);
	}
}

enum what { CALM, LEAVES, FAULTS };

static void run(struct sim *s, uint64_t seed, enum what may)
{
	unsigned faults = may == FAULTS ? 8 : may == LEAVES ? 3 : 0;

	begin(s, seed);
	for (unsigned n = 0; n < STEPS && !s->bad[0]; n++) {
		unsigned what = roll(s, 100);

		if (what < 87)
			for (uint64_t i = may == FAULTS ? seed % 4 : 0; i < 4; i++) /* where words pile up a keeper may be given up */
				deliver(s, roll(s, KEEPERS));
		else if (what < 94)
			job_event(s);
		else if (what < 97 || !faults)
			for (unsigned i = 0; i < KEEPERS; i++) {
				if (!s->k[i].is_dead && !s->k[i].is_stopped)
					pool_tick(&s->k[i].pool);
			}
		else if (roll(s, 4) == 0)
			faults--, may == LEAVES ? leave(s) : fault(s);
		check_slots(s);
	}
	for (unsigned i = 0; i < KEEPERS; i++)
		s->k[i].is_cut = s->k[i].is_stopped = false;
	if (!s->bad[0])
		settle(s);
	if (!s->bad[0])
		check_calm(s);
	if (!s->bad[0] && may != FAULTS)
		check_kept(s);
	for (unsigned i = 0; i < KEEPERS && s->bad[0] && getenv("POOL_SHOW"); i++)
	{
		gw_list_for(e, &s->k[i].pool.gone) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			diag("   gone %x at %s:%u", m->id, m->address, m->port);
		}
		gw_list_for(e, &s->k[i].pool.members) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			diag("   member %x at %s:%u here %d gone %d", m->id, m->address, m->port, m->is_here, m->is_gone);
		}
		gw_list_for(e, &s->k[i].pool.jobs) {
			const struct pool_job *j = gw_list_entry(e, struct pool_job, node);

			diag("   job %u of %x, %u ranks, granted %d ending %d", j->job, j->head, j->ranks, j->is_granted, j->is_ending);
			for (size_t n = 0; n < j->n_parts; n++)
				diag("      %x: %u slots, %u held, state %d", j->parts[n].member, j->parts[n].slots, j->parts[n].held, j->parts[n].state);
		}
		diag("keeper %u: id %x, %s, term %llx, leader %x, %s, %u links", i, s->k[i].pool.me.id, pool_state_name(s->k[i].pool.state),
		     (unsigned long long)s->k[i].pool.term, s->k[i].pool.leader, s->k[i].is_dead ? "dead" : "lives", s->k[i].n_links);
	}
}

static void test_table(void)
{
	bool has_way_out = true;

	for (int s = 0; s < POOL_OVER; s++)
		has_way_out &= pool_next((enum pool_state)s, POOL_EV_DOWN) == POOL_OVER &&
		               (s == POOL_LEAD || pool_next((enum pool_state)s, s == POOL_GATHER ? POOL_EV_TIME : POOL_EV_LOST) >= 0);
	ok(has_way_out, "every state can be left when others are lost, and ended");
}

/* A job leaves a host and has it again: of what it had started there before, a new leader must not be told. */
static void test_started_again(struct sim *s)
{
	struct pool *p = &s->k[0].pool;
	struct pool_grant *g;

	begin(s, 1);
	pool_ask(p, 1, 1, 2, "job");
	g = pool_grant_of(p, 1);
	g->state = POOL_HELD;
	pool_start(p, 1, json_pack("{s:i, s:s}", "member", 7, "line", "first"));
	pool_start(p, 1, json_pack("{s:i, s:s}", "member", 8, "line", "other"));
	pool_start(p, 1, json_pack("{s:i, s:s}", "member", 7, "line", "second"));
	ok(json_array_size(g->start) == 2 && pool_number(json_array_get(g->start, 0), "member") == 8 &&
	   strcmp(pool_text(json_array_get(g->start, 1), "line"), "second") == 0, "what was started last on a host is what counts");
	fini(s);
}

/* So many runs from a seed on, and what happened in all of them */
static bool runs_are_good(struct sim *all, uint64_t first, unsigned long runs, enum what may)
{
	static struct sim s;

	memset(all, 0, sizeof(*all));
	for (uint64_t seed = first; seed < first + runs; seed++) {
		run(&s, seed, may);
		all->grants += s.grants;
		all->refusals += s.refusals;
		all->vacated += s.vacated;
		all->added += s.added;
		all->left += s.left;
		fini(&s);
		if (s.bad[0]) {
			diag("seed %llu: %s", (unsigned long long)seed, s.bad);
			return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	unsigned long runs = argc > 2 ? strtoul(argv[2], NULL, 10) : 20;
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	static struct sim s;
	bool is_good;

	test_table();
	test_started_again(&s);
	is_good = runs_are_good(&s, first, runs, CALM);
	ok(is_good && s.grants && s.refusals && s.added,
	   "without faults slots are given once, and every job is answered (%lu given, %lu refused, %lu hosts added)", s.grants, s.refusals,
	   s.added);
	is_good = runs_are_good(&s, first, runs, LEAVES);
	ok(is_good && s.vacated && s.left,
	   "hosts leave, the leader's too: jobs keep as many slots as they were given (%lu moved away, %lu hosts left)", s.vacated, s.left);
	is_good = runs_are_good(&s, first, runs, FAULTS);
	ok(is_good && s.grants,
	   "with deaths, cuts and stops, too; and in the end one leads (%lu given, %lu moved away)", s.grants, s.vacated);
	return tap_done();
}
