/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves: requests that wait until their rank can move, and what migration/ asks of the owner of a rank.
 *
 * A request waits while the rank's PMI session is open and its agent has not attached (MPI_Init), and from CLOSING until
 * it has finalized (MPI_Finalize): rule 12. A rank that never spoke PMI moves without QUIESCE.
 */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

#define MOVE_TIMEOUT_MS 60000

struct move {                /* asked for, not ended */
	struct gw_list node; /* clusterd.moves */
	struct clusterd *d;
	struct rank *rank;   /* NULL: it has left */
	uint64_t id;         /* of the head's request */
	uint32_t proc, to, session; /* session 0: it waits */
	uint64_t until_ns;
	struct gw_timer *deadline;
};

static void move_done(struct move *m, int status, const char *text, const json_t *measures)
{
	gw_link_send_json(m->d->head, json_pack("{s:s, s:I, s:i, s:i, s:s, s:O?}", "op", "migrate-done", "id",
	                                        (json_int_t)m->id, "rank", (int)m->proc, "status", status, "text", text,
	                                        "measures", measures));
	gw_timer_cancel(m->deadline);
	gw_list_remove(&m->node);
	free(m);
}

static struct move *move_of(struct clusterd *d, const struct rank *r)
{
	gw_list_for(e, &d->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->rank == r)
			return m;
	}
	return NULL;
}

static struct move *move_of_session(struct clusterd *d, uint32_t session)
{
	gw_list_for(e, &d->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->session == session)
			return m;
	}
	return NULL;
}

/* ---- can it move now? -------------------------------------------------------------------------------------------- */

/* Return: 0 with its agent, 1 without, -EAGAIN with @why: later. */
static int readiness(const struct rank *r, struct gw_error *why)
{
	enum pmi_phase phase = pmi_session_phase(r->pmi);

	switch (r->agent) {
	case AGENT_ATTACHED:
		return 0;
	case AGENT_NONE:
		return phase == PMI_OPEN ? gw_fail(why, -EAGAIN, "rank %u is in MPI_Init", r->proc) : 1;
	case AGENT_CLOSED:
		return phase == PMI_OPEN ? gw_fail(why, -EAGAIN, "rank %u is in MPI_Finalize", r->proc) : 1;
	case AGENT_STARTING:
		return gw_fail(why, -EAGAIN, "the agent of rank %u is attaching", r->proc);
	case AGENT_CLOSING:
		return gw_fail(why, -EAGAIN, "rank %u is in MPI_Finalize", r->proc);
	default:
		return gw_fail(why, -EAGAIN, "the agent of rank %u has not come back from another move yet", r->proc);
	}
}

static void on_deadline(void *ctx)
{
	struct move *m = ctx;
	struct gw_error why = { 0 };

	m->deadline = NULL; /* gone with its call */
	if (m->session || !m->rank)
		return; /* begun: the session has deadlines of its own */
	readiness(m->rank, &why);
	gw_fail_more(&why, "it was not moved in time: ");
	move_done(m, -ETIMEDOUT, why.text, NULL);
}

static void begin(struct move *m)
{
	struct rank *r = m->rank;
	struct mig_request req = { .proc = r->proc, .rank = r->ct, .owner = r, .epoch = r->epoch, .to_cluster = m->to };
	struct gw_error why = { 0 };
	int code;

	if (rank_is_stopped(r)) { /* its agent would not answer, and a move must not set it going */
		gw_fail(&why, -EBUSY, "rank %u is stopped by a signal (SIGSTOP, Ctrl-Z); continue it first: 'fg', or SIGCONT to mpirun",
		        r->proc);
		move_done(m, -EBUSY, why.text, NULL);
		return;
	}
	code = mig_session_start(r->d->mig, &req, &m->session, &why);

	if (code < 0) {
		m->session = 0;
		move_done(m, code, why.text, NULL);
		return;
	}
	gw_event("mig.started", "{s:i, s:i, s:i, s:i}", "rank", (int)r->proc, "session", (int)m->session, "from",
	         (int)r->d->cluster, "to", (int)m->to);
}

void moves_try(struct rank *r)
{
	struct move *m = r->state == RANK_HERE ? move_of(r->d, r) : NULL;

	if (m && m->session == 0 && !mig_rank_is_busy(r->d->mig, r->proc) && readiness(r, NULL) >= 0)
		begin(m);
}

static void refuse(struct clusterd *d, uint64_t id, uint32_t proc, int status, const char *text)
{
	gw_link_send_json(d->head, json_pack("{s:s, s:I, s:i, s:i, s:s}", "op", "migrate-done", "id", (json_int_t)id, "rank",
	                                     (int)proc, "status", status, "text", text));
}

void moves_request(struct clusterd *d, uint64_t id, uint32_t proc, uint32_t to, uint64_t timeout_ms)
{
	struct rank *r = rank_find(d, proc);
	struct move *m = r ? move_of(d, r) : NULL;
	char text[128];

	if (!timeout_ms)
		timeout_ms = MOVE_TIMEOUT_MS;
	if (!r) {
		snprintf(text, sizeof(text), "rank %u does not live on cluster %u any more", proc, d->cluster);
		refuse(d, id, proc, -ESRCH, text);
		return;
	}
	if (m) {
		snprintf(text, sizeof(text), "rank %u is on its way to cluster %u already", proc, m->to);
		refuse(d, id, proc, -EBUSY, text);
		return;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		refuse(d, id, proc, -ENOMEM, "out of memory");
		return;
	}
	m->d = d;
	m->rank = r;
	m->id = id;
	m->proc = proc;
	m->to = to;
	m->until_ns = gw_now_ns() + timeout_ms * 1000000;
	gw_list_append(&d->moves, &m->node);
	gw_loop_timer(d->loop, &m->deadline, timeout_ms, 0, on_deadline, m);
	moves_try(r);
}

void moves_rank_ended(struct rank *r)
{
	struct move *m = move_of(r->d, r);

	if (!m)
		return;
	m->rank = NULL;
	if (m->session == 0)
		move_done(m, -ESRCH, "it has ended", NULL);
}

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
	int code = readiness(r, why);

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
	if (pmi && r->agent != AGENT_QUIET && readiness(r, why) != 1)
		goto out;
	if (pmi)
		streams = streams_export(r, why);
	if (!streams)
		goto out;
	all = json_pack("{s:O, s:O, s:i, s:I}", "streams", streams, "pmi", pmi, "agent", (int)r->agent, "incarnation",
	                (json_int_t)r->incarnation);
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
	gw_watch_remove(r->status_watch);
	r->status_watch = NULL;
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

static void on_left(void *ctx, void *rank, uint32_t to_cluster, uint64_t epoch)
{
	struct rank *r = rank;
	struct move *m = move_of(r->d, r);

	(void)ctx;
	gw_event("mig.left", "{s:i, s:i, s:i, s:I}", "rank", (int)r->proc, "from", (int)r->d->cluster, "to", (int)to_cluster,
	         "epoch", (json_int_t)epoch);
	for (uint8_t i = 0; i < r->undelivered.n; i++)
		gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i}", "op", "undelivered", "rank", (int)r->proc, "signal",
		                                        (int)r->undelivered.list[i]));
	if (m)
		m->rank = NULL;
	r->ct = NULL;
	rank_destroy(r);
}

static void on_lost(void *ctx, void *rank, uint32_t to_cluster, const struct gw_error *why)
{
	struct rank *r = rank;
	struct move *m = move_of(r->d, r);

	(void)ctx;
	gw_event("mig.lost", "{s:i, s:i, s:i}", "rank", (int)r->proc, "from", (int)r->d->cluster, "to", (int)to_cluster);
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:s}", "op", "lost", "rank", (int)r->proc, "text", why->text));
	if (m)
		m->rank = NULL;
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

		if (r->state != RANK_HERE || mig_rank_is_busy(d->mig, r->proc))
			continue;
		r->undelivered.n = 0;
		for (uint8_t i = 0; i < waiting.n; i++)
			rank_signal(r, waiting.list[i]);
		if (rank_watch_status(r) < 0)
			clusterd_fatal(d, "rank %u cannot be watched any more", r->proc);
		moves_try(r);
	}
}

static void on_finished(void *ctx, void *rank, uint32_t session, int status, const struct gw_error *why,
                        const json_t *measures)
{
	struct clusterd *d = ctx;
	struct rank *r = rank;
	struct move *m = move_of_session(d, session);

	gw_loop_defer(d->loop, after_sessions, d);
	if (gw_event_on()) {
		json_t *fields = json_pack("{s:i, s:i, s:s, s:O?}", "session", (int)session, "status", status, "text",
		                           status < 0 && why ? why->text : "", "measures", measures);

		if (m)
			json_object_set_new(fields, "rank", json_integer(m->proc));
		gw_event_object("mig.finished", fields);
	}
	if (!m)
		return;
	m->session = 0;
	if (status == -EAGAIN && r && m->deadline && gw_now_ns() < m->until_ns)
		return; /* MPI_Init or MPI_Finalize began meanwhile: it waits again */
	move_done(m, status, status < 0 && why ? why->text : "", measures);
}

/* ---- as the destination ---------------------------------------------------------------------------------------------- */

static int on_prepare(void *ctx, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, void **rank,
                      struct gw_error *why)
{
	struct clusterd *d = ctx;
	struct rank *r;
	int code;

	if (d->is_ending)
		return gw_fail(why, -ESHUTDOWN, "cluster %u is about to end", d->cluster);
	if (offer->proc >= d->size)
		return gw_fail(why, -EINVAL, "there is no rank %u", offer->proc);
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
}

static const struct mig_ops ops = {
	.hints = on_hints, .quiesce = on_quiesce, .export_state = on_export, .given = on_given, .stay = on_stay,
	.left = on_left, .lost = on_lost, .finished = on_finished, .prepare = on_prepare, .import_state = on_import,
	.discard = on_discard, .arriving = on_arriving, .taken = on_taken,
};

/* ---- the rest of the daemon ------------------------------------------------------------------------------------------ */

bool moves_allow_reap(struct rank *r)
{
	return mig_rank_exited(r->d->mig, r->proc);
}

bool moves_is_busy(const struct rank *r)
{
	return mig_rank_is_busy(r->d->mig, r->proc);
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

	if (cluster >= d->clusters)
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
	                             .address = address_of };
	char name[RT_SOCKET_NAME_MAX];
	int code = mig_create(&d->mig, d->loop, &config, why);

	if (code < 0)
		return code;
	rt_socket_name(name, d->job, (int)d->cluster);
	d->listener = gw_listen_unix(name, why);
	if (d->listener < 0)
		return d->listener;
	code = gw_loop_watch(d->loop, &d->listener_watch, d->listener, EPOLLIN, on_connection, d);
	return code < 0 ? gw_fail(why, code, "cannot watch '%s': %s", name, strerror(-code)) : 0;
}

void moves_fini(struct clusterd *d)
{
	gw_watch_remove(d->listener_watch);
	if (d->listener >= 0)
		close(d->listener);
	mig_destroy(d->mig);
	d->mig = NULL;
	gw_list_for_safe(e, &d->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		gw_timer_cancel(m->deadline);
		free(m);
	}
	gw_list_init(&d->moves);
}
