/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests to move a rank, which wait until it can.
 *
 * A request waits while the rank's PMI session is open and its agent has not attached (MPI_Init), and from CLOSING until
 * it has finalized (MPI_Finalize): rule 12. A rank that never spoke PMI moves without QUIESCE. While another process is
 * in its container, such as the command of a system() or popen(), it is tried again for a moment. A request that would
 * rather have it at a moment that its program calls good (godwit.h) waits so long as it says for one.
 */
#include <stdlib.h>

#include "runtime/clusterd/clusterd.h"

#define MOVE_TIMEOUT_MS 60000
#define PASSING_MS      1000 /* how long other processes are waited for */
#define RETRY_MS        20

struct move {                /* asked for, not ended */
	struct gw_list node; /* clusterd.moves */
	struct clusterd *d;
	struct rank *rank;   /* NULL: it has left */
	uint64_t id;         /* of the head's request */
	uint32_t proc, to, session; /* session 0: it waits */
	bool may_carry;
	struct mig_how how;
	uint64_t until_ns, passing_ns; /* passing_ns: until when other processes are waited for; 0: none seen */
	struct gw_timer *deadline, *retry;
	struct gw_timer *moment;       /* until when a good moment of its program is waited for; NULL: it is not */
	struct gw_error held;          /* what held it when it was last tried */
};

static void move_done(struct move *m, int status, const char *text, const json_t *measures)
{
	gw_link_send_json(m->d->head, json_pack("{s:s, s:I, s:i, s:i, s:s, s:O?}", "op", "migrate-done", "id",
	                                        (json_int_t)m->id, "rank", (int)m->proc, "status", status, "text", text,
	                                        "measures", measures));
	gw_timer_cancel(m->deadline);
	gw_timer_cancel(m->retry);
	gw_timer_cancel(m->moment);
	gw_list_remove(&m->node);
	if (m->rank)
		wishes_moment_over(m->rank);
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
int moves_readiness(const struct rank *r, struct gw_error *why)
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
	struct gw_error why = m->held;

	m->deadline = NULL; /* gone with its call */
	if (m->session || !m->rank)
		return; /* begun: the session has deadlines of its own */
	moves_readiness(m->rank, &why);
	gw_fail_more(&why, "it was not moved in time: ");
	move_done(m, -ETIMEDOUT, why.text, NULL);
}

static void on_retry(void *ctx)
{
	struct move *m = ctx;

	m->retry = NULL;
	if (m->rank)
		moves_try(m->rank);
}

/* What holds it may be gone in a moment: a command that it has started, mostly, and waits for. Return false when that lasts. */
static bool may_pass(struct move *m, const char *text)
{
	uint64_t now = gw_now_ns();

	if (!m->passing_ns)
		m->passing_ns = now + PASSING_MS * 1000000ull;
	gw_fail(&m->held, -EBUSY, "%s", text);
	if (now >= m->passing_ns)
		return false;
	if (!m->retry)
		gw_loop_timer(m->d->loop, &m->retry, RETRY_MS, 0, on_retry, m);
	return m->retry != NULL;
}

static void begin(struct move *m)
{
	struct rank *r = m->rank;
	struct mig_request req = { .proc = r->proc, .rank = r->ct, .owner = r, .epoch = r->epoch, .to_cluster = m->to,
	                           .may_carry = m->may_carry, .how = m->how };
	struct gw_error why = { 0 };
	int code;

	/* its agent would not answer, and a move must not set it going; without one it moves, and stays stopped */
	if (rank_is_stopped(r) && (moves_readiness(r, NULL) == 0 || suspend_is_on(r->d))) {
		gw_fail(&why, -EBUSY, "rank %u is stopped by a signal (SIGSTOP, Ctrl-Z); continue it first: 'fg', or SIGCONT to mpirun",
		        r->proc);
		move_done(m, -EBUSY, why.text, NULL);
		return;
	}
	code = mig_session_start(r->d->mig, &req, &m->session, &why);
	if (code < 0) {
		m->session = 0;
		if (code != -ECHILD || !may_pass(m, why.text))
			move_done(m, code == -ECHILD ? -EBUSY : code, why.text, NULL);
		return;
	}
	gw_event("mig.started", "{s:i, s:i, s:i, s:i}", "rank", (int)r->proc, "session", (int)m->session, "from",
	         (int)r->d->cluster, "to", (int)m->to);
}

void moves_try(struct rank *r)
{
	struct move *m = r->state == RANK_HERE ? move_of(r->d, r) : NULL;

	if (m && m->session == 0 && !m->retry && (!m->moment || r->moment) && !r->is_frozen && !mig_rank_is_busy(r->d->mig, r->proc) && moves_readiness(r, NULL) >= 0)
		begin(m);
}

bool moves_wait_for_moment(const struct rank *r)
{
	const struct move *m = move_of(r->d, r);

	return m && m->session == 0;
}

/* None has come: a good moment is a preference, no condition. */
static void on_moment(void *ctx)
{
	struct move *m = ctx;

	m->moment = NULL;
	if (m->rank)
		moves_try(m->rank);
}

static void refuse(struct clusterd *d, uint64_t id, uint32_t proc, int status, const char *text)
{
	gw_link_send_json(d->head, json_pack("{s:s, s:I, s:i, s:i, s:s}", "op", "migrate-done", "id", (json_int_t)id, "rank",
	                                     (int)proc, "status", status, "text", text));
}

/* Names that nobody knows mean what is best: the tools refuse them. */
static struct mig_how read_how(const json_t *msg)
{
	const char *technique = json_string_value(json_object_get(msg, "technique"));
	struct mig_how how = { .max_downtime_ns = (uint64_t)json_integer_value(json_object_get(msg, "max_downtime_us")) * 1000,
	                       .bandwidth = (uint64_t)json_integer_value(json_object_get(msg, "bandwidth")),
	                       .max_slowdown = (unsigned)json_integer_value(json_object_get(msg, "max_slowdown")),
	                       .is_plain = json_is_true(json_object_get(msg, "plain")) };

	if (technique && strcmp(technique, "stop-and-copy") == 0)
		how.technique = MIG_STOP_AND_COPY;
	else if (technique && strcmp(technique, "pre-copy") == 0)
		how.technique = MIG_PRE_COPY;
	else if (technique && strcmp(technique, "post-copy") == 0)
		how.technique = MIG_POST_COPY;
	else if (technique && strcmp(technique, "hybrid") == 0)
		how.technique = MIG_HYBRID;
	return how;
}

void moves_request(struct clusterd *d, uint64_t id, uint32_t proc, uint32_t to, uint64_t timeout_ms, const json_t *how)
{
	struct rank *r = rank_find(d, proc);
	struct move *m = r ? move_of(d, r) : NULL;
	json_int_t moment_ms = json_integer_value(json_object_get(how, "moment_ms"));
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
	m->may_carry = json_is_true(json_object_get(how, "carry"));
	m->how = read_how(how);
	m->until_ns = gw_now_ns() + timeout_ms * 1000000;
	gw_list_append(&d->moves, &m->node);
	gw_loop_timer(d->loop, &m->deadline, timeout_ms, 0, on_deadline, m);
	if (moment_ms > 0 && wishes_want_moment(r))
		gw_loop_timer(d->loop, &m->moment, (uint64_t)moment_ms, 0, on_moment, m);
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

json_t *moves_requested_json(const struct rank *r)
{
	const struct move *m = move_of(r->d, r);

	return m ? json_integer((json_int_t)m->to) : NULL;
}

void moves_rank_left(struct rank *r)
{
	struct move *m = move_of(r->d, r);

	if (m)
		m->rank = NULL;
}

void moves_cancel(struct clusterd *d, uint64_t id)
{
	gw_list_for(e, &d->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->id != id)
			continue;
		if (m->session == 0)
			move_done(m, -ECANCELED, "the request was taken back before the move had begun", NULL);
		return;
	}
}

void moves_session_ended(struct clusterd *d, uint32_t session, struct rank *r, int status, const char *text,
                         const json_t *measures)
{
	struct move *m = move_of_session(d, session);

	if (gw_event_on()) {
		json_t *fields = json_pack("{s:i, s:i, s:s, s:O?}", "session", (int)session, "status", status, "text", text,
		                           "measures", measures);

		if (m)
			json_object_set_new(fields, "rank", json_integer(m->proc));
		gw_event_object("mig.finished", fields);
	}
	if (!m)
		return;
	m->session = 0;
	if (status == -EAGAIN && r && m->deadline && gw_now_ns() < m->until_ns)
		return; /* MPI_Init or MPI_Finalize began meanwhile: it waits again */
	if (status == -ECHILD && r && may_pass(m, text))
		return; /* it started another process meanwhile */
	move_done(m, status == -ECHILD ? -EBUSY : status, text, measures);
}

void moves_forget(struct clusterd *d)
{
	gw_list_for_safe(e, &d->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		gw_timer_cancel(m->deadline);
		gw_timer_cancel(m->retry);
		gw_timer_cancel(m->moment);
		free(m);
	}
	gw_list_init(&d->moves);
}
