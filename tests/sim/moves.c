/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is around sessions: the tables of daemons (as in runtime/clusterd/moves.c), the agents of ranks, and the head with
 * its directory and verdicts (as in runtime/launcher/reports.c and clusters.c). What must hold is checked where it happens.
 */
#include <jansson.h>
#include <stdlib.h>

#include "tests/sim/moves.h"

enum word_kind { WORD_MOVED, WORD_GIVEN, WORD_EXITED, WORD_ACK };
struct word { struct gw_list node; enum word_kind kind; uint32_t proc; uint64_t epoch; struct sim_daemon *of; };
struct verdict { struct gw_list node; struct sim_daemon *of; };   /* on its way to a daemon */
struct due { struct gw_list node; struct sim_daemon *of, *by; };  /* the head waits for its answer */

struct gw_list sim_daemons = { &sim_daemons, &sim_daemons };
struct sim_daemon *sim_at[SIM_CLUSTERS];
struct sim_moves_profile sim_moves;
struct sim_moves_counts sim_moved;
struct sim_held *sim_preparing;

#define TAKERS 64
static struct sim_daemon *hearing;       /* of whose end a daemon is just told; NULL: of nobody's */
static struct gw_list dues = { &dues, &dues };
static struct rank {
	bool has_agent, is_excused;          /* excused: it was killed, or its daemon died: it may be gone */
	bool has_ended, is_given_up;         /* as the head knows */
	uint64_t epoch;                      /* the highest that it has run at */
	struct sim_daemon *at;               /* as the head believes, at that epoch */
	uint64_t at_epoch, given_epoch;      /* somebody gave it away at this epoch, to given_to */
	struct sim_daemon *given_to;
	struct sim_daemon *takers[TAKERS];   /* by epoch */
} ranks[SIM_RANKS];

/* ---- the daemon's part ------------------------------------------------------------------------------------------- */

static void say(struct sim_daemon *d, enum word_kind kind, uint32_t proc, uint64_t epoch, struct sim_daemon *of)
{
	struct word *w;

	if (d->is_condemned)
		return; /* nobody hears it */
	w = calloc(1, sizeof(*w));
	*w = (struct word){ .kind = kind, .proc = proc, .epoch = epoch, .of = of };
	gw_list_append(&d->to_head, &w->node);
}

static void held_free(struct sim_held *r)
{
	gw_list_remove(&r->node);
	free(r);
}

static int on_quiesce(void *ctx, void *rank, uint32_t session, uint64_t deadline_ms, struct gw_error *why)
{
	struct sim_held *r = rank;

	(void)ctx, (void)deadline_ms;
	if (r->agent == AGENT_NONE)
		return 1;
	if (r->agent != AGENT_ATTACHED)
		return gw_fail(why, -EAGAIN, "its agent is not attached");
	r->agent = AGENT_QUIESCING;
	r->agent_session = session;
	return 0;
}

static json_t *on_export(void *ctx, void *rank, struct gw_error *why)
{
	const struct sim_held *r = rank;

	(void)ctx;
	if (sim_one_in(sim_moves.p_fault)) {
		gw_fail(why, -ENOMEM, "no memory for its state");
		return NULL;
	}
	return json_pack("{s:i}", "agent", (int)r->agent);
}

static void on_given(void *ctx, void *rank, uint64_t epoch)
{
	struct sim_held *r = rank;

	(void)ctx;
	sim_event("cluster %d gives rank %d away, epoch %llu", (int)r->d->cluster, (int)r->proc, epoch, 0);
	r->state = HELD_GIVEN;
	sim_moved.given++;
	sim_strike(r->d);
}

static void on_stay(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool is_quiet)
{
	struct sim_held *r = rank;
	bool was_given = r->state == HELD_GIVEN;

	(void)ctx, (void)session;
	sim_event("rank %d stays on cluster %d, epoch %llu", (int)r->proc, (int)r->d->cluster, epoch, 0);
	if (was_given ? epoch <= ranks[r->proc].epoch : epoch != ranks[r->proc].epoch)
		sim_fail("a rank stays at an epoch that is not the highest");
	ranks[r->proc].epoch = epoch;
	r->state = HELD_HERE;
	r->epoch = epoch;
	if (is_quiet)
		r->agent = AGENT_STARTING;
	say(r->d, WORD_MOVED, r->proc, epoch, NULL);
	sim_moved.stayed++;
	sim_strike(r->d);
}

/* The head's numbers of clusters are never used again; here they are, so a daemon stands for its number. */
static void say_given(struct sim_held *r, struct sim_daemon *to)
{
	say(r->d, WORD_GIVEN, r->proc, r->epoch + 1, to);
}

static void on_left(void *ctx, void *rank, uint32_t to_cluster, uint64_t epoch)
{
	struct sim_held *r = rank;

	(void)ctx;
	sim_event("rank %d has left cluster %d, epoch %llu, to %llu", (int)r->proc, (int)r->d->cluster, epoch, to_cluster);
	say_given(r, ranks[r->proc].takers[epoch % TAKERS]);
	held_free(r);
	sim_moved.moved++;
}

static void on_lost(void *ctx, void *rank, uint32_t to_cluster, const struct gw_error *why)
{
	struct sim_held *r = rank;

	(void)ctx, (void)why;
	sim_event("rank %d, given by cluster %d to %llu, is lost", (int)r->proc, (int)r->d->cluster, to_cluster, 0);
	ranks[r->proc].is_excused = true;
	say_given(r, hearing ? hearing : ranks[r->proc].takers[(r->epoch + 1) % TAKERS]); /* without a verdict it was taken there */
	held_free(r);
	sim_moved.lost++;
}

static void on_finished(void *ctx, void *rank, uint32_t session, int status, const struct gw_error *why, const json_t *measures)
{
	(void)ctx, (void)rank, (void)session, (void)status, (void)why, (void)measures;
}

static int on_prepare(void *ctx, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, void **rank,
                      struct gw_error *why)
{
	struct sim_daemon *d = ctx;
	struct sim_held *r;

	(void)plumbing, (void)cpus;
	gw_list_for(e, &d->held)
		if (gw_list_entry(e, struct sim_held, node)->proc == offer->proc &&
		    gw_list_entry(e, struct sim_held, node)->state != HELD_GIVEN)
			return gw_fail(why, -EEXIST, "it is here already, or arriving");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ENOMEM, "no room");
	r = calloc(1, sizeof(*r));
	*r = (struct sim_held){ .d = d, .proc = offer->proc, .epoch = offer->epoch + 1, .state = HELD_ARRIVING };
	gw_list_append(&d->held, &r->node);
	*rank = sim_preparing = r;
	return 0;
}

static int on_import(void *ctx, void *rank, const json_t *state, struct gw_error *why)
{
	struct sim_held *r = rank;

	(void)ctx, (void)why;
	r->agent = (enum sim_agent)json_integer_value(json_object_get(state, "agent"));
	return 0;
}

static void on_discard(void *ctx, void *rank)
{
	(void)ctx;
	held_free(rank);
}

static int on_arriving(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why)
{
	struct sim_held *r = rank;

	(void)ctx;
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -EIO, "no word for its agent");
	r->epoch = epoch;
	*has_agent = r->agent == AGENT_QUIET;
	if (*has_agent)
		r->agent = AGENT_STARTING;
	r->agent_session = session;
	return 0;
}

static void on_taken(void *ctx, void *rank, struct ct_rank *ct, uint64_t epoch)
{
	struct sim_held *r = rank;

	(void)ctx;
	sim_event("rank %d runs on cluster %d, epoch %llu", (int)r->proc, (int)r->d->cluster, epoch, 0);
	if (epoch <= ranks[r->proc].epoch)
		sim_fail("a rank is taken at an epoch that is not the highest");
	ranks[r->proc].epoch = epoch;
	ranks[r->proc].takers[epoch % TAKERS] = r->d;
	r->state = HELD_HERE;
	r->ct = ct;
	r->epoch = epoch;
	say(r->d, WORD_MOVED, r->proc, epoch, NULL);
	sim_strike(r->d);
}

static void on_starved(void *ctx, void *rank, uint32_t from_cluster, const struct gw_error *why)
{
	struct sim_held *r = rank;

	(void)ctx, (void)why;
	sim_event("rank %d ends on cluster %d: its pages were at %llu", (int)r->proc, (int)r->d->cluster, from_cluster, 0);
	ranks[r->proc].is_excused = true;
	sim_moved.starved++;
	ct_rank_end(r->ct);
}

static void on_whole(void *ctx, uint32_t proc)
{
	(void)ctx, (void)proc;
	sim_moved.whole++;
}

static int address(void *ctx, uint32_t cluster, char *buf, size_t cap)
{
	const struct sim_daemon *d = ctx;

	snprintf(buf, cap, "%u of %u", cluster, d->cluster);
	return 0;
}

static const struct mig_ops ops = {
	.quiesce = on_quiesce, .export_state = on_export, .given = on_given, .stay = on_stay, .left = on_left, .lost = on_lost,
	.finished = on_finished, .prepare = on_prepare, .import_state = on_import, .discard = on_discard,
	.arriving = on_arriving, .taken = on_taken, .starved = on_starved, .whole = on_whole,
};

struct sim_daemon *sim_daemon_start(uint32_t cluster, uint32_t host)
{
	struct sim_daemon *d = calloc(1, sizeof(*d));
	struct mig_config c = { .job = 1, .cluster = cluster, .incarnation = sim_rnd(UINT64_MAX) | 1, .ops = &ops, .ctx = d,
	                        .address = address, .far = sim_far, .far_cancel = sim_far_cancel };
	struct gw_error why;

	d->cluster = cluster;
	d->host = host;
	d->born_step = sim_step;
	d->incarnation = c.incarnation;
	gw_list_init(&d->held);
	gw_list_init(&d->to_head);
	gw_list_init(&d->from_head);
	d->loop = sim_loop_create(d);
	if (mig_create(&d->mig, d->loop, &c, &why))
		sim_fail(why.text);
	gw_list_append(&sim_daemons, &d->node);
	sim_at[cluster] = d;
	return d;
}

static bool is_given_away(uint32_t proc)
{
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);

		gw_list_for(h, &d->held)
			if (gw_list_entry(h, struct sim_held, node)->proc == proc &&
			    gw_list_entry(h, struct sim_held, node)->state == HELD_GIVEN)
				return true;
	}
	return false;
}

/* Ranks die with their daemon; one that was given to it as well, before or after it had begun to run there. */
void sim_daemon_end(struct sim_daemon *d)
{
	const struct mig_counters *n = mig_counters(d->mig);

	sim_event("the daemon of cluster %d dies", (int)d->cluster, 0, 0, 0);
	sim_moved.refused_events += n->bad_events;
	sim_moved.refused_frames += n->bad_frames;
	sim_moved.reconnects += n->reconnects;
	sim_moved.never += n->never;
	gw_list_for(e, &d->held) {
		const struct sim_held *r = gw_list_entry(e, struct sim_held, node);

		if (r->state != HELD_ARRIVING || is_given_away(r->proc))
			ranks[r->proc].is_excused = true;
	}
	d->is_dead = true;
	if (sim_at[d->cluster] == d)
		sim_at[d->cluster] = NULL;
	mig_destroy(d->mig);
	sim_bodies_die(d);
	sim_loop_end(d->loop);
	d->mig = NULL;
	d->loop = NULL;
	while (!gw_list_is_empty(&d->held))
		held_free(gw_list_entry(d->held.next, struct sim_held, node));
	while (!gw_list_is_empty(&d->from_head)) {
		struct verdict *v = gw_list_entry(d->from_head.next, struct verdict, node);

		gw_list_remove(&v->node);
		free(v);
	}
}

/* ---- requests, agents -------------------------------------------------------------------------------------------- */

void sim_request(void)
{
	struct sim_daemon *d = sim_at[sim_rnd(sim_moves.clusters)];
	struct gw_error why;

	if (!d)
		return;
	gw_list_for(e, &d->held) {
		struct sim_held *r = gw_list_entry(e, struct sim_held, node);
		struct mig_request req = { .proc = r->proc, .rank = r->ct, .owner = r, .epoch = r->epoch,
		                           .to_cluster = (uint32_t)sim_rnd(sim_moves.clusters),
		                           .has_exited = r->ct && sim_body_has_ended(r->ct),
		                           .how.technique = (enum mig_technique)sim_rnd(5) };

		if (!sim_one_in(2))
			continue;
		if (sim_one_in(sim_moves.p_cancel)) {
			if (mig_session_cancel(d->mig, r->proc, &why) == 0)
				sim_moved.cancels++;
			return;
		}
		/* as godwitd, which keeps a request until the rank is ready for it */
		if (r->state != HELD_HERE || (r->agent != AGENT_ATTACHED && r->agent != AGENT_NONE) ||
		    mig_rank_is_busy(d->mig, r->proc))
			continue;
		if (mig_session_start(d->mig, &req, NULL, &why) == 0) {
			sim_event("cluster %d: rank %d shall go to %llu", (int)d->cluster, (int)r->proc, req.to_cluster, 0);
			sim_moved.requests++;
		}
		return;
	}
}

/* Agents are threads of their ranks: they answer only while those run. And the daemon reaps who has ended. */
bool sim_agent_turn(struct sim_daemon *d)
{
	gw_list_for(e, &d->held) {
		struct sim_held *r = gw_list_entry(e, struct sim_held, node);
		int status = 0;

		if (r->state != HELD_HERE || !sim_one_in(2))
			continue;
		if (sim_body_has_ended(r->ct)) {
			if (!mig_rank_exited(d->mig, r->proc))
				continue;
			sim_event("rank %d has ended on cluster %d", (int)r->proc, (int)d->cluster, 0, 0);
			say(d, WORD_EXITED, r->proc, r->epoch, NULL);
			ranks[r->proc].is_excused = true;
			ct_rank_kill(r->ct);
			held_free(r);
			return true;
		}
		if (!sim_body_runs(r->ct))
			continue;
		if (r->agent == AGENT_QUIESCING) {
			status = sim_one_in(sim_moves.p_busy) ? -EBUSY : 0;
			r->agent = status ? AGENT_ATTACHED : AGENT_QUIET;
			if (!mig_session_quiet(d->mig, r->proc, r->agent_session, status, "busy", 1, 1, 0) && !status)
				r->agent = AGENT_STARTING;
			return true;
		}
		if (r->agent == AGENT_STARTING) {
			r->agent = AGENT_ATTACHED;
			mig_rank_attached(d->mig, r->proc, r->agent_session, 0, 1);
			return true;
		}
		sim_body_run(r->ct);
	}
	return false;
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

/* All that could still say that it has taken a rank have answered: what is still thought to be there is gone. */
static void decide_lost(struct sim_daemon *of)
{
	for (uint32_t i = 0; i < sim_moves.ranks; i++) {
		struct rank *r = &ranks[i];
		bool is_gone = (r->given_epoch > r->at_epoch ? r->given_to : r->at) == of;
		const struct sim_daemon *home = sim_body_home(i);

		if (!is_gone || r->has_ended || r->is_given_up)
			continue;
		sim_event("the head gives up rank %d", (int)i, 0, 0, 0);
		if (home && !home->is_condemned)
			sim_fail("the head gives up a rank that lives");
		r->is_given_up = true;
	}
}

static void acknowledged(struct sim_daemon *of, struct sim_daemon *by)
{
	bool is_left = false;

	gw_list_for_safe(e, &dues) {
		struct due *u = gw_list_entry(e, struct due, node);

		if (u->of != of)
			continue;
		if (u->by == by) {
			gw_list_remove(&u->node);
			free(u);
		} else {
			is_left = true;
		}
	}
	if (!is_left)
		decide_lost(of);
}

/* The head has seen the end of @d's link: its verdict, which is final. */
static void cluster_lost(struct sim_daemon *d)
{
	bool is_asked = false;

	d->is_heard_dead = true;
	sim_moved.verdicts++;
	sim_event("the head: the daemon of cluster %d is dead", (int)d->cluster, 0, 0, 0);
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *o = gw_list_entry(e, struct sim_daemon, node);
		struct verdict *v;
		struct due *u;

		if (o == d || o->is_heard_dead)
			continue;
		u = calloc(1, sizeof(*u));
		*u = (struct due){ .of = d, .by = o };
		gw_list_append(&dues, &u->node);
		is_asked = true;
		if (o->is_dead || o->is_condemned)
			continue; /* it will not hear it, and its end is answer enough */
		v = calloc(1, sizeof(*v));
		v->of = d;
		gw_list_append(&o->from_head, &v->node);
	}
	gw_list_for(e, &sim_daemons) { /* it will not answer for the ones that were lost before it */
		struct sim_daemon *o = gw_list_entry(e, struct sim_daemon, node);
		bool is_due = false;

		gw_list_for(k, &dues)
			is_due |= gw_list_entry(k, struct due, node)->of == o && gw_list_entry(k, struct due, node)->by == d;
		if (is_due)
			acknowledged(o, d);
	}
	if (!is_asked)
		decide_lost(d);
}

static void hear(struct sim_daemon *d, const struct word *w)
{
	struct rank *r = &ranks[w->proc];

	switch (w->kind) {
	case WORD_MOVED:
		if (w->epoch < r->at_epoch)
			break;
		r->at = d;
		r->at_epoch = w->epoch;
		break;
	case WORD_GIVEN:
		if (w->epoch > r->given_epoch) {
			r->given_epoch = w->epoch;
			r->given_to = w->of;
		}
		break;
	case WORD_EXITED:
		r->has_ended = true;
		break;
	case WORD_ACK:
		acknowledged(w->of, d);
		break;
	}
}

bool sim_head_turn(void)
{
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);
		struct word *w;

		if (!sim_one_in(2))
			continue;
		if (!gw_list_is_empty(&d->to_head)) {
			w = gw_list_entry(d->to_head.next, struct word, node);
			gw_list_remove(&w->node);
			if (!d->is_heard_dead)
				hear(d, w);
			free(w);
			return true;
		}
		if ((d->is_dead || d->is_condemned) && !d->is_heard_dead) {
			cluster_lost(d);
			return true;
		}
	}
	return false;
}

bool sim_hears_head(struct sim_daemon *d)
{
	struct verdict *v;

	if (gw_list_is_empty(&d->from_head))
		return false;
	v = gw_list_entry(d->from_head.next, struct verdict, node);
	gw_list_remove(&v->node);
	hearing = v->of;
	mig_peer_dead(d->mig, v->of->cluster, v->of->incarnation);
	hearing = NULL;
	say(d, WORD_ACK, 0, 0, v->of);
	free(v);
	return true;
}

/* It lives, and the head will never hear of it again. What it says from now on is lost. */
void sim_condemn(struct sim_daemon *d)
{
	sim_event("the head loses cluster %d, which lives", (int)d->cluster, 0, 0, 0);
	d->is_condemned = true;
	d->condemned_step = sim_step;
	sim_moved.false_verdicts++;
}

void sim_rank_is_dead(uint32_t proc) { (void)proc; }

/* ---- an episode's begin and end ---------------------------------------------------------------------------------- */

void sim_begin(void)
{
	for (uint32_t c = 0; c < sim_moves.clusters; c++)
		sim_daemon_start(c, c < sim_moves.hosts ? c : (uint32_t)sim_rnd(sim_moves.hosts));
	memset(ranks, 0, sizeof(ranks));
	for (uint32_t i = 0; i < sim_moves.ranks; i++) {
		struct sim_daemon *d = sim_at[sim_rnd(sim_moves.clusters)];
		struct sim_held *r = calloc(1, sizeof(*r));

		ranks[i] = (struct rank){ .has_agent = !sim_one_in(5), .epoch = 1, .at = d, .at_epoch = 1 };
		*r = (struct sim_held){ .d = d, .proc = i, .epoch = 1, .state = HELD_HERE, .ct = sim_body_new(d, i, 1),
		                        .agent = ranks[i].has_agent ? AGENT_ATTACHED : AGENT_NONE };
		gw_list_append(&d->held, &r->node);
	}
}

bool sim_is_settled(void)
{
	if (!gw_list_is_empty(&dues))
		return false;
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);
		json_t *all;
		size_t n;

		if (!gw_list_is_empty(&d->to_head) || !gw_list_is_empty(&d->from_head) || (d->is_condemned && !d->is_dead) ||
		    (d->is_dead && !d->is_heard_dead))
			return false;
		if (d->is_dead)
			continue;
		gw_list_for(h, &d->held) {
			const struct sim_held *r = gw_list_entry(h, struct sim_held, node);

			if (r->state != HELD_HERE || !sim_body_runs(r->ct) ||
			    (r->agent != AGENT_ATTACHED && r->agent != AGENT_NONE))
				return false;
		}
		all = mig_sessions_json(d->mig);
		n = json_array_size(all);
		json_decref(all);
		if (n)
			return false;
	}
	return true;
}

void sim_end(void)
{
	for (uint32_t i = 0; i < sim_moves.ranks; i++) {
		struct rank *r = &ranks[i];
		int n = sim_bodies_running(i);

		if (n == 0 && !r->has_ended && !r->is_excused)
			sim_fail("a rank is gone though nobody died");
		if (n == 0 && !r->has_ended && !r->is_given_up)
			sim_fail("a rank is gone and the head does not know");
		if (n && r->is_given_up)
			sim_fail("a rank that was given up lives");
		if (n && r->at != sim_body_home(i))
			sim_fail("the head believes a rank elsewhere");
		if (n && r->at_epoch != r->epoch)
			sim_fail("the head believes another epoch than the highest");
	}
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);

		gw_list_for(h, &d->held) {
			const struct sim_held *r = gw_list_entry(h, struct sim_held, node);

			if (r->epoch != ranks[r->proc].epoch)
				sim_fail("the owner's epoch is not the highest");
		}
	}
	gw_list_for_safe(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);

		if (!d->is_dead)
			sim_daemon_end(d);
		gw_list_remove(&d->node);
		while (!gw_list_is_empty(&d->to_head)) {
			struct gw_list *w = d->to_head.next;

			gw_list_remove(w);
			free(gw_list_entry(w, struct word, node));
		}
		free(d);
	}
	sim_sockets_end();
	sim_proofs_end();
	sim_bodies_end();
}

void sim_dump(void)
{
	gw_list_for(e, &sim_daemons) {
		const struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);
		char *text = NULL;

		if (!d->is_dead) {
			json_t *all = mig_sessions_json(d->mig);

			text = json_dumps(all, JSON_COMPACT);
			json_decref(all);
		}
		sim_say("cluster %u on host %u%s%s: %s", d->cluster, d->host, d->is_dead ? ", dead" : "",
		        d->is_condemned ? ", condemned" : "", text ? text : "");
		free(text);
		gw_list_for(h, &d->held) {
			const struct sim_held *r = gw_list_entry(h, struct sim_held, node);

			sim_say("  rank %u: state %d, agent %d, epoch %llu", r->proc, (int)r->state, (int)r->agent,
			        (unsigned long long)r->epoch);
		}
	}
	for (uint32_t i = 0; i < sim_moves.ranks; i++)
		sim_say("rank %u: %d run; the head: cluster %u, epoch %llu of %llu%s%s%s", i, sim_bodies_running(i),
		        ranks[i].at->cluster, (unsigned long long)ranks[i].at_epoch, (unsigned long long)ranks[i].epoch,
		        ranks[i].has_ended ? ", ended" : "", ranks[i].is_given_up ? ", given up" : "",
		        ranks[i].is_excused ? ", excused" : "");
}
