/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What migration/ asks of the owner of a rank, at both ends of a move; requests.c holds who asked for it.
 */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

#define LINGER_MS 5000 /* of daemons of a job that is continued */

/* ---- as the source --------------------------------------------------------------------------------------------------- */

static json_t *on_hints(void *ctx, void *rank)
{
	const struct rank *r = rank;

	(void)ctx;
	return json_pack("{s:b, s:i}", "has_stdin", (int)r->in.is_wanted, "slot", r->slot);
}

static int on_quiesce(void *ctx, void *rank, uint32_t session, uint64_t deadline_ms, struct gw_error *why)
{
	struct rank *r = rank;
	int code = moves_readiness(r, why);

	(void)ctx;
	if (code != 0)
		return code;
	code = agent_send(r, CT_CTL_QUIESCE, session, deadline_ms);
	if (code < 0)
		return gw_fail(why, code, "rank %u: its agent does not read its socket: %s", r->proc, strerror(-code));
	r->agent = AGENT_QUIESCING;
	agent_publish(r, NOC_NAME_MOVING);
	return 0;
}

static json_t *on_export(void *ctx, void *rank, struct gw_error *why)
{
	json_t *streams = NULL, *pmi = NULL, *all = NULL;
	struct rank *r = rank;

	(void)ctx;
	agent_drain(r);
	pmi = pmi_port_export(r, why);
	/* MPI_Init may have begun between the last look and the freeze: then this move must wait */
	if (pmi && r->agent != AGENT_QUIET && moves_readiness(r, why) != 1)
		goto out;
	if (pmi)
		streams = streams_export(r, why);
	if (!streams)
		goto out;
	all = json_pack("{s:O, s:O, s:i, s:I, s:o}", "streams", streams, "pmi", pmi, "agent", (int)r->agent, "incarnation",
	                (json_int_t)r->incarnation, "used", measure_export(r));
	if (!all)
		gw_fail(why, -ENOMEM, "rank %u: no memory for its state", r->proc);
	r->is_exported = all != NULL;
out:
	json_decref(streams);
	json_decref(pmi);
	return all;
}

static void on_given(void *ctx, void *rank, uint64_t epoch)
{
	struct rank *r = rank;

	(void)ctx;
	r->state = RANK_GIVEN;
	/* its status is the session's affair now, and its descriptor will be closed with the copy */
	rank_unwatch_status(r);
	gw_event("mig.given", "{s:i, s:i, s:I}", "rank", (int)r->proc, "cluster", (int)r->d->cluster, "epoch", (json_int_t)epoch);
}

static void say_moved(struct rank *r)
{
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:I, s:i, s:I}", "op", "moved", "rank", (int)r->proc, "epoch",
	                                        (json_int_t)r->epoch, "pid", (int)r->pid, "stdin", (json_int_t)r->in.written));
}

static void on_stay(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool is_quiet)
{
	struct rank *r = rank;
	bool was_exported = r->is_exported;

	(void)ctx;
	r->state = RANK_HERE;
	r->epoch = epoch;
	r->is_exported = false;
	pmi_port_let_go(r);
	if (is_quiet)
		agent_reattach(r, session);
	gw_event("mig.stayed", "{s:i, s:i, s:I}", "rank", (int)r->proc, "cluster", (int)r->d->cluster, "epoch",
	         (json_int_t)epoch);
	if (!was_exported)
		return;
	/* what came for it meanwhile was dropped: the head repeats its input, and it asks again what it waits for */
	say_moved(r);
	pmi_session_repeat(r->pmi);
}

/* Who takes a rank says so itself, but may die, and that word with it: then the head knows from here what has died there. */
static void say_given(const struct rank *r, uint32_t to_cluster)
{
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i, s:I}", "op", "given", "rank", (int)r->proc, "to",
	                                        (int)to_cluster, "epoch", (json_int_t)r->epoch + 1));
}

/* Those that came when it stood still, or had been given already, are for the cluster that it runs on now. */
static void hand_on_signals(struct rank *r)
{
	for (uint8_t i = 0; i < r->undelivered.n; i++)
		gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i}", "op", "undelivered", "rank", (int)r->proc, "signal",
		                                        (int)r->undelivered.list[i]));
	r->undelivered.n = 0;
}

/* It runs there; its pages are still here. */
static void on_serving(void *ctx, void *rank)
{
	(void)ctx;
	hand_on_signals(rank);
}

static void on_left(void *ctx, void *rank, uint32_t to_cluster, uint64_t epoch)
{
	struct rank *r = rank;

	(void)ctx;
	gw_event("mig.left", "{s:i, s:i, s:i, s:I}", "rank", (int)r->proc, "from", (int)r->d->cluster, "to", (int)to_cluster,
	         "epoch", (json_int_t)epoch);
	say_given(r, to_cluster);
	hand_on_signals(r);
	moves_rank_left(r);
	r->ct = NULL;
	rank_destroy(r);
}

/* The verdict on whom it was given to: whether the rank is gone, or has moved on from there, is for the head to say. */
static void on_lost(void *ctx, void *rank, uint32_t to_cluster, const struct gw_error *why)
{
	struct rank *r = rank;

	(void)ctx, (void)why;
	gw_event("mig.lost", "{s:i, s:i, s:i}", "rank", (int)r->proc, "from", (int)r->d->cluster, "to", (int)to_cluster);
	say_given(r, to_cluster);
	moves_rank_left(r);
	r->ct = NULL;
	rank_destroy(r);
}

/* A turn after a session has ended, when nothing of it stands in the way: signals that waited, an end that was not seen,
 * requests that came too early. */
static void after_sessions(void *ctx)
{
	struct clusterd *d = ctx;

	gw_list_for_safe(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);
		struct rt_sigqueue waiting = r->undelivered;
		bool is_busy = moves_is_busy(r);

		if (r->state != RANK_HERE || (is_busy && !moves_has_arrived(r)))
			continue;
		r->undelivered.n = 0;
		for (uint8_t i = 0; i < waiting.n; i++)
			rank_signal(r, waiting.list[i]);
		if (is_busy)
			continue;
		if (rank_watch_status(r) < 0)
			clusterd_fatal(d, "rank %u cannot be watched any more", r->proc);
		moves_try(r);
	}
	if (mig_is_idle(d->mig))
		pace_line_rests(d);
}

static void on_finished(void *ctx, void *rank, uint32_t session, int status, const struct gw_error *why,
                        const json_t *measures)
{
	struct clusterd *d = ctx;

	gw_loop_defer(d->loop, after_sessions, d);
	moves_session_ended(d, session, rank, status, status < 0 && why ? why->text : "", measures);
}

/* ---- as the destination ---------------------------------------------------------------------------------------------- */

static int on_prepare(void *ctx, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, void **rank,
                      struct gw_error *why)
{
	struct clusterd *d = ctx;
	struct rank *r;
	int code;

	if (d->is_ending || d->is_leaving)
		return gw_fail(why, -ESHUTDOWN, "cluster %u is about to %s", d->cluster, d->is_ending ? "end" : "leave the job");
	if (d->checkpoint) /* which has begun without it */
		return gw_fail(why, -EBUSY, "a checkpoint is just being written on cluster %u", d->cluster);
	if (offer->proc >= d->size) /* of one that was spawned just now the head's word may still be on its way */
		return gw_fail(why, -EAGAIN, "cluster %u has not heard of rank %u yet; try again", d->cluster, offer->proc);
	gw_list_for(e, &d->ranks) {
		const struct rank *other = gw_list_entry(e, struct rank, node);

		if (other->proc == offer->proc && other->state != RANK_GIVEN)
			return gw_fail(why, -EEXIST, "rank %u is on cluster %u already, or arriving", offer->proc, d->cluster);
	}
	plumbing_init(plumbing);
	code = rank_create(&r, d, offer->proc, 0, json_is_true(json_object_get(offer->hints, "has_stdin")), plumbing, why);
	if (code < 0) {
		plumbing_close(plumbing);
		return code;
	}
	r->epoch = offer->epoch + 1;
	rank_count(r); /* now: who waits here for messages must not spin on the core that the move needs, rounds included */
	*cpus = *rank_bind(r, (int)json_integer_value(json_object_get(offer->hints, "slot")));
	*rank = r;
	return 0;
}

static int on_import(void *ctx, void *rank, const json_t *state, struct gw_error *why)
{
	struct rank *r = rank;
	json_int_t incarnation;
	int agent, code;

	(void)ctx;
	if (json_unpack((json_t *)(uintptr_t)state, "{s:i, s:I}", "agent", &agent, "incarnation", &incarnation) < 0 ||
	    agent < AGENT_NONE || agent > AGENT_CLOSED)
		return gw_fail(why, -EPROTO, "rank %u: its state is malformed", r->proc);
	r->agent = (enum agent_state)agent;
	r->incarnation = (uint64_t)incarnation;
	measure_import(r, json_object_get(state, "used"));
	code = streams_import(r, json_object_get(state, "streams"), why);
	return code < 0 ? code : pmi_port_import(r, json_object_get(state, "pmi"), why);
}

static void on_discard(void *ctx, void *rank)
{
	(void)ctx;
	rank_destroy(rank);
}

static int on_arriving(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why)
{
	struct rank *r = rank;
	int code;

	(void)ctx;
	r->epoch = epoch;
	*has_agent = r->agent == AGENT_QUIET;
	if (!*has_agent)
		return 0;
	code = agent_send(r, CT_CTL_ATTACH, session, 0);
	if (code < 0)
		return gw_fail(why, code, "rank %u: no word for its agent: %s", r->proc, strerror(-code));
	r->agent = AGENT_STARTING;
	return 0;
}

static void on_taken(void *ctx, void *rank, struct ct_rank *ct, uint64_t epoch)
{
	struct clusterd *d = ctx;
	struct rank *r = rank;

	r->epoch = epoch;
	if (rank_adopt(r, ct) < 0) {
		clusterd_fatal(d, "rank %u has arrived at cluster %u, but cannot be watched", r->proc, d->cluster);
		return;
	}
	gw_event("mig.taken", "{s:i, s:i, s:I, s:i}", "rank", (int)r->proc, "cluster", (int)d->cluster, "epoch",
	         (json_int_t)epoch, "rank_pid", (int)r->pid);
	streams_taken(r);
	pmi_port_let_go(r);
	say_moved(r);
	pmi_session_repeat(r->pmi);
	gw_loop_defer(d->loop, after_sessions, d); /* its pages may come for long */
}

/* The head ends the job, and says why. */
static void on_starved(void *ctx, void *rank, uint32_t from_cluster, const struct gw_error *why)
{
	struct rank *r = rank;

	(void)ctx;
	gw_event("mig.starved", "{s:i, s:i, s:i}", "rank", (int)r->proc, "cluster", (int)r->d->cluster, "from", (int)from_cluster);
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i, s:s}", "op", "starved", "rank", (int)r->proc, "from",
	                                          (int)from_cluster, "text", why->text));
	ct_rank_end(r->ct);
}

static void on_whole(void *ctx, uint32_t proc)
{
	struct clusterd *d = ctx;
	struct rank *r = rank_find(d, proc);

	if (r)
		pace_begin(r);
	gw_loop_defer(d->loop, after_sessions, d);
}

static const struct mig_ops ops = {
	.hints = on_hints, .quiesce = on_quiesce, .export_state = on_export, .given = on_given, .stay = on_stay,
	.serving = on_serving, .left = on_left, .lost = on_lost, .finished = on_finished, .prepare = on_prepare, .import_state = on_import,
	.discard = on_discard, .arriving = on_arriving, .taken = on_taken, .starved = on_starved, .whole = on_whole,
	.pace = pace_look, .turns = pace_turns, .line = pace_line,
};

/* ---- for a checkpoint: a move to nowhere ------------------------------------------------------------------------------- */

json_t *moves_hints(struct rank *r)
{
	return on_hints(r->d, r);
}

json_t *moves_export(struct rank *r, struct gw_error *why)
{
	return on_export(r->d, r, why);
}

void moves_stay(struct rank *r, uint32_t session)
{
	on_stay(r->d, r, session, r->epoch, r->agent == AGENT_QUIET);
}

/* ---- and from there ---------------------------------------------------------------------------------------------------- */

int moves_prepare(struct clusterd *d, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, struct rank **r,
                  struct gw_error *why)
{
	void *made;
	int code = on_prepare(d, offer, plumbing, cpus, &made, why);

	if (code == 0)
		*r = made;
	return code;
}

int moves_import(struct rank *r, const json_t *state, struct gw_error *why)
{
	return on_import(r->d, r, state, why);
}

int moves_arriving(struct rank *r, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why)
{
	return on_arriving(r->d, r, session, epoch, has_agent, why);
}

void moves_taken(struct rank *r, struct ct_rank *ct, uint64_t epoch)
{
	on_taken(r->d, r, ct, epoch);
}

void moves_after(struct clusterd *d)
{
	gw_loop_defer(d->loop, after_sessions, d);
}

/* ---- the rest of the daemon ------------------------------------------------------------------------------------------ */

bool moves_allow_reap(struct rank *r)
{
	return mig_rank_exited(r->d->mig, r->proc);
}

bool moves_is_busy(const struct rank *r)
{
	return mig_rank_is_busy(r->d->mig, r->proc);
}

bool moves_has_arrived(const struct rank *r)
{
	return r->state == RANK_HERE && mig_rank_lacks_pages(r->d->mig, r->proc);
}

bool moves_quiet(struct rank *r, const struct ct_ctl_msg *m)
{
	char text[sizeof(m->text)];

	snprintf(text, sizeof(text), "%.*s", (int)sizeof(m->text) - 1, m->text);
	return mig_session_quiet(r->d->mig, r->proc, m->session, m->op == CT_CTL_QUIET ? 0 : m->status, text, m->close_ns,
	                         m->detach_ns, m->doing);
}

void moves_attached(struct rank *r, const struct ct_ctl_msg *m)
{
	mig_rank_attached(r->d->mig, r->proc, m->session, m->status, m->detach_ns);
}

void moves_peer_dead(struct clusterd *d, uint32_t cluster, uint64_t incarnation)
{
	mig_peer_dead(d->mig, cluster, incarnation);
}

void moves_shutdown(struct clusterd *d)
{
	if (d->mig)
		mig_shutdown(d->mig);
}

json_t *moves_sessions_json(struct clusterd *d)
{
	return mig_sessions_json(d->mig);
}

static int address_of(void *ctx, uint32_t cluster, char *buf, size_t cap)
{
	const struct clusterd *d = ctx;
	char name[RT_SOCKET_NAME_MAX];

	if (cluster >= RT_CLUSTERS_MAX)
		return -ENOENT;
	rt_socket_name(name, d->job, (int)cluster);
	return (size_t)snprintf(buf, cap, "%s", name) < cap ? 0 : -ENAMETOOLONG;
}

static void on_connection(void *ctx, uint32_t events)
{
	struct clusterd *d = ctx;
	struct gw_error why = { 0 };
	int fd = gw_accept_unix(d->listener, &why);

	(void)events;
	if (fd >= 0)
		mig_accept(d->mig, fd);
	else if (fd != -EAGAIN)
		gw_log(GW_WARN, "%s", why.text);
}

int moves_init(struct clusterd *d, struct gw_error *why)
{
	struct mig_config config = { .job = d->job, .cluster = d->cluster, .incarnation = d->incarnation, .ops = &ops, .ctx = d,
	                             .address = address_of, .far = far_connect, .far_cancel = far_cancel, .may_hurry = true };
	char name[RT_SOCKET_NAME_MAX];
	int code;

	if (sched_getaffinity(0, sizeof(config.anywhere), &config.anywhere) < 0) /* not bound to the cluster's yet */
		CPU_ZERO(&config.anywhere);
	code = mig_create(&d->mig, d->loop, &config, why);
	if (code < 0)
		return code;
	rt_socket_name(name, d->job, (int)d->cluster);
	d->listener = gw_listen_unix(name, why);
	/* a daemon of the same job, whose mpirun has just died, may still be on its way out */
	for (int i = 0; d->listener == -EADDRINUSE && d->is_restarting && i < LINGER_MS / 20; i++) {
		poll(NULL, 0, 20);
		*why = (struct gw_error){ 0 };
		d->listener = gw_listen_unix(name, why);
	}
	if (d->listener == -EADDRINUSE && d->is_restarting)
		return gw_fail(why, -EBUSY, "job %08x has a daemon on this host already, and must not run twice", d->job);
	if (d->listener < 0)
		return d->listener;
	code = gw_loop_watch(d->loop, &d->listener_watch, d->listener, EPOLLIN, on_connection, d);
	return code < 0 ? gw_fail(why, code, "cannot watch '%s': %s", name, strerror(-code)) : 0;
}

void moves_fini(struct clusterd *d)
{
	gw_timer_cancel(d->network);
	gw_timer_cancel(d->leaving);
	gw_timer_cancel(d->suspend.timer);
	checkpoint_drop(d);
	restart_drop(d);
	gw_watch_remove(d->listener_watch);
	if (d->listener >= 0)
		close(d->listener);
	mig_destroy(d->mig);
	far_fini(d);
	d->mig = NULL;
	moves_forget(d);
}
