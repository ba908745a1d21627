/* SPDX-License-Identifier: BSD-2-Clause */
/* The one function that changes the state of a session, its timers, and the calls of the daemon. */
#include "migration/session.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define RETRY_FIRST_MS 10
#define RETRY_ASK_MS   150 /* the destination is slower than the source, so that they do not cross for ever */

/* ---- the step ---------------------------------------------------------------------------------------------------- */

static uint64_t or_default(uint64_t ms, uint64_t otherwise)
{
	return ms ? ms : otherwise;
}

/* How long a session may stay in its state without progress; 0: for ever. doc/migration.md lists them. */
static uint64_t state_ms(const struct mig_session *s)
{
	const struct mig_config *c = &s->m->c;
	uint64_t retry = or_default(c->retry_ms, 500), backoff = RETRY_FIRST_MS << (s->retries < 6 ? s->retries : 6);

	switch (s->state) {
	case MIG_PREPARE:
	case MIG_PROVE:
	case MIG_LOOK:    return or_default(c->prepare_ms, 10000);
	case MIG_QUIESCE: return or_default(c->quiesce_ms, 5000) + 1000; /* the agent has the deadline, this is the net */
	case MIG_PRECOPY:
	case MIG_SEND:    return or_default(c->transfer_ms, 10000);
	case MIG_GIVEN:   return s->peer ? retry : backoff < retry ? backoff : retry;
	case MIG_TAKEN:
	case MIG_SETTLED: return 5000;
	case MIG_FILL:    return or_default(c->transfer_ms, 10000) + or_default(c->quiesce_ms, 5000) + 1000;
	case MIG_READY:
	case MIG_FETCH:
	case MIG_ARRIVED: return s->peer ? 2 * retry : RETRY_ASK_MS < retry ? RETRY_ASK_MS : retry;
	default:          return 0;
	}
}

static void on_timer(void *ctx)
{
	struct mig_session *s = ctx;

	s->timer = NULL; /* a timer without a period is removed after its call */
	s->retries++;
	if (!s->why.code && s->is_end_waiting)
		gw_fail(&s->why, -ETIMEDOUT, "what it wrote was not brought to its file systems within %llu ms",
		        (unsigned long long)state_ms(s));
	if (!s->why.code && s->state != MIG_GIVEN && s->state != MIG_READY && s->state != MIG_FETCH && s->state != MIG_ARRIVED)
		gw_fail(&s->why, -ETIMEDOUT, "nothing happened in state '%s' for %llu ms", mig_state_name(s->state),
		        (unsigned long long)state_ms(s));
	mig_step(s, MIG_EV_TIMEOUT);
}

void mig_session_rearm(struct mig_session *s)
{
	uint64_t ms = state_ms(s);

	gw_timer_cancel(s->timer);
	s->timer = NULL;
	if (ms && gw_loop_timer(s->m->loop, &s->timer, ms, 0, on_timer, s) < 0)
		gw_log(GW_ERROR, "mig %u rank %u: no timer; state '%s' has no limit", s->id.session, s->id.proc,
		       mig_state_name(s->state));
}

int mig_session_later(struct mig_session *s, unsigned ms, void (*cb)(void *session))
{
	gw_timer_cancel(s->pace);
	s->pace = NULL;
	return gw_loop_timer(s->m->loop, &s->pace, ms, 0, cb, s);
}

static void session_free(struct mig_session *s)
{
	struct mig *m = s->m;

	gw_list_remove(&s->node);
	mig_adjust_priority(m);
	mig_adjust_place(m);
	gw_timer_cancel(s->timer);
	gw_timer_cancel(s->pace);
	mig_src_let_go(s);
	gw_watch_remove(s->shell_watch);
	mig_fetch_drop(s);
	mig_files_drop(s);
	mig_disconnect(s);
	free(s->offer);
	free(s->prepare);
	free(s);
}

static const struct mig_rule *rule_for(enum mig_state state, enum mig_event ev)
{
	for (size_t i = 0; i < mig_rules_count; i++)
		if (mig_rules[i].state == state && mig_rules[i].event == ev)
			return &mig_rules[i];
	return NULL;
}

/* The only place that changes a state. The session may be gone on return. */
void mig_step(struct mig_session *s, enum mig_event ev)
{
	if (s->is_stepping) {
		assert(s->pendings < GW_ARRAY_LEN(s->pending));
		s->pending[s->pendings++] = ev;
		return;
	}
	s->is_stepping = true;
	for (;;) {
		const struct mig_rule *r = rule_for(s->state, ev);

		if (!r) {
			s->m->n.bad_events++;
			gw_log(GW_WARN, "mig %u rank %u %u->%u: '%s' is refused in state '%s'", s->id.session, s->id.proc, s->id.from,
			       s->id.to, mig_event_name(ev), mig_state_name(s->state));
		} else {
			if (r->next != s->state) {
				gw_log(GW_INFO, "mig %u rank %u %u->%u: %s (%s)%s%s", s->id.session, s->id.proc, s->id.from, s->id.to,
				       mig_state_name(r->next), mig_event_name(ev), s->why.code ? ": " : "", s->why.text);
				s->state = r->next;
				s->retries = 0;
				mig_adjust_priority(s->m);
				mig_adjust_place(s->m);
				mig_session_rearm(s);
			} else if (ev == MIG_EV_TIMEOUT) {
				mig_session_rearm(s);
			}
			if (r->action)
				r->action(s);
			mig_adjust_priority(s->m); /* it may know more now */
		}
		if (s->state == MIG_ENDED || !s->pendings)
			break;
		ev = s->pending[0];
		s->pendings--;
		memmove(s->pending, s->pending + 1, s->pendings * sizeof(s->pending[0]));
	}
	s->is_stepping = false;
	if (s->state == MIG_ENDED)
		session_free(s);
}

void mig_post(struct mig_session *s, enum mig_event ev, int code, const char *fmt, ...)
{
	if (!s->why.code) {
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(s->why.text, sizeof(s->why.text), fmt, ap);
		va_end(ap);
		s->why.code = code;
	}
	mig_step(s, ev);
}

bool mig_edge(struct mig_session *s, const char *name)
{
	switch (gw_fault(name)) {
	case GW_FAULT_FAIL:
		mig_post(s, MIG_EV_FAILED, -EIO, "a test made '%s' fail", name);
		return true;
	case GW_FAULT_CUT:
		mig_disconnect(s);
		mig_post(s, MIG_EV_PEER_LOST, -ECONNRESET, "a test cut the connection at '%s'", name);
		return true;
	default:
		return false;
	}
}

bool mig_word_is_lost(struct mig_session *s, const char *name)
{
	switch (gw_fault(name)) {
	case GW_FAULT_FAIL: /* as if the frame got lost */
		return true;
	case GW_FAULT_CUT:
		mig_disconnect(s);
		mig_step(s, MIG_EV_PEER_LOST);
		return true;
	default:
		return false;
	}
}

/* ---- files: what a helper of theirs has to say ------------------------------------------------------------------- */

void mig_files_drop(struct mig_session *s)
{
	gw_watch_remove(s->files_watch);
	s->files_watch = NULL;
	ct_files_free(s->files);
	s->files = NULL;
}

static void on_files(void *ctx, uint32_t events)
{
	struct mig_session *s = ctx;
	struct gw_error why = { 0 };
	int code = ct_files_go_on(s->files, &why);

	(void)events;
	if (code > 0)
		return;
	gw_watch_remove(s->files_watch);
	s->files_watch = NULL;
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
	else
		mig_step(s, s->state == MIG_SEND ? MIG_EV_FLUSHED : MIG_EV_PROVED);
}

int mig_files_watch(struct mig_session *s)
{
	return gw_loop_watch(s->m->loop, &s->files_watch, ct_files_fd(s->files), EPOLLIN, on_files, s);
}

/* ---- turns: a long image leaves the loop to others --------------------------------------------------------------- */

static void mig_free(struct mig *m)
{
	gw_watch_remove(m->child_watch);
	if (m->child_fd >= 0)
		close(m->child_fd);
	free(m->dead);
	free(m->packed);
	free(m->buf);
	free(m);
}

static void on_turn(void *ctx)
{
	struct mig *m = ctx;

	m->is_turn_due = false;
	if (m->is_destroyed) {
		mig_free(m);
		return;
	}
	gw_list_for_safe(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (s->wants_turn) {
			s->wants_turn = false;
			mig_step(s, MIG_EV_MORE);
		}
	}
}

void mig_turn_later(struct mig_session *s)
{
	struct mig *m = s->m;

	s->wants_turn = true;
	if (!m->is_turn_due && gw_loop_defer(m->loop, on_turn, m) == 0)
		m->is_turn_due = true;
}

/* ---- the daemon's calls ------------------------------------------------------------------------------------------ */

static void on_child(void *ctx, uint32_t events)
{
	struct signalfd_siginfo si;
	struct mig *m = ctx;

	(void)events;
	while (read(m->child_fd, &si, sizeof(si)) == sizeof(si))
		; /* one stands for many: all shells are looked at */
	ct_files_reap();
	mig_dst_look_at_shells(m);
}

/* A tracer hears SIGCHLD when one of its tracees dies, and when one stops. The latter is needed too (no SA_NOCLDSTOP): the
 * freeze sleeps until it comes, and would sleep 10 ms for each stop (container/freeze.c); a look too many costs nothing. */
static int watch_children(struct mig *m)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	m->child_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return m->child_fd < 0 ? -errno : gw_loop_watch(m->loop, &m->child_watch, m->child_fd, EPOLLIN, on_child, m);
}

int mig_create(struct mig **out, struct gw_loop *loop, const struct mig_config *config, struct gw_error *why)
{
	struct mig *m = calloc(1, sizeof(*m));
	int code;

	assert(config->incarnation && config->ops && config->address);
	if (m)
		m->buf = malloc(MIG_CHUNK);
	if (!m || !m->buf) {
		free(m);
		return gw_fail(why, -ENOMEM, "no memory for sessions");
	}
	memset(m->buf, 0, MIG_CHUNK); /* page faults belong here, not into a rank's pause */
	m->loop = loop;
	m->c = *config;
	/* numbers that differ between daemons read better in logs; what identifies is the incarnation with the number */
	m->next_session = (config->cluster + 1) << 20;
	gw_list_init(&m->sessions);
	gw_list_init(&m->strangers);
	code = watch_children(m);
	if (code < 0) {
		mig_free(m);
		return gw_fail(why, code, "cannot watch for the end of shells: %s%s", strerror(-code), gw_advice(code));
	}
	*out = m;
	return 0;
}

void mig_destroy(struct mig *m)
{
	if (!m)
		return;
	gw_list_for_safe(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (!s->is_source && (s->state == MIG_FILL || s->state == MIG_READY)) {
			gw_watch_remove(s->shell_watch);
			s->shell_watch = NULL;
			ct_rank_kill(s->rank);
		}
		session_free(s);
	}
	mig_strangers_drop(m);
	if (m->is_turn_due)
		m->is_destroyed = true; /* the deferred call frees it, unless the loop is never run again */
	else
		mig_free(m);
}

int mig_session_new(struct mig *m, struct mig_session **out)
{
	struct mig_session *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->m = m;
	s->state = MIG_IDLE;
	gw_list_append(&m->sessions, &s->node);
	*out = s;
	return 0;
}

struct mig_session *mig_session_find(struct mig *m, uint64_t from_incarnation, uint32_t session)
{
	gw_list_for(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (s->id.from_incarnation == from_incarnation && s->id.session == session)
			return s;
	}
	return NULL;
}

/* The session that holds rank @proc here: its source before TAKEN, or its destination before all of it is there. */
static struct mig_session *holder_of(const struct mig *m, uint32_t proc)
{
	gw_list_for(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (s->id.proc == proc && ((s->state >= MIG_PREPARE && s->state <= MIG_SERVE) || s->state == MIG_LOOK ||
		                           s->state == MIG_FILL || s->state == MIG_READY || s->state == MIG_FETCH))
			return s;
	}
	return NULL;
}

int mig_session_start(struct mig *m, const struct mig_request *req, uint32_t *session, struct gw_error *why)
{
	const struct mig_session *other = holder_of(m, req->proc);
	struct mig_session *s = NULL;
	struct ct_needs needs = { 0 };
	gw_autofree char *hints_text = NULL;
	json_t *hints = NULL;
	const void *question;
	size_t question_len;
	void *packed = NULL;
	uint64_t follow_from;
	ssize_t len;
	int code;

	if (m->is_shutting_down)
		return gw_fail(why, -ESHUTDOWN, "rank %u: cluster %u is shutting down", req->proc, m->c.cluster);
	if (req->has_exited)
		return gw_fail(why, -ESRCH, "rank %u has exited", req->proc);
	if (req->to_cluster == m->c.cluster)
		return gw_fail(why, -EINVAL, "rank %u is on cluster %u already", req->proc, req->to_cluster);
	if (other && other->is_source)
		return gw_fail(why, -EBUSY, "rank %u is already moving to cluster %u", req->proc, other->id.to);
	if (other && other->state == MIG_FETCH)
		return gw_fail(why, -EBUSY, "rank %u has come from cluster %u just now, and parts of its memory are still coming; try again",
		               req->proc, other->id.from);
	if (other)
		return gw_fail(why, -EBUSY, "rank %u is just arriving from cluster %u", req->proc, other->id.from);
	code = mig_session_new(m, &s);
	if (code < 0)
		return gw_fail(why, code, "rank %u: no memory for a session", req->proc);
	s->is_source = true;
	s->owner = req->owner;
	s->rank = req->rank;
	s->id = (struct mig_head){ .magic = MIG_MAGIC, .version = MIG_VERSION, .job = m->c.job, .session = ++m->next_session,
	                           .proc = req->proc, .from = m->c.cluster, .to = req->to_cluster,
	                           .from_incarnation = m->c.incarnation, .epoch = req->epoch };
	s->t.start = gw_now_ns();
	mig_cost_start(s);
	if (gw_fault("mig.src.prepare") != GW_FAULT_NONE) {
		code = gw_fail(why, -EIO, "a test made 'mig.src.prepare' fail");
		goto fail;
	}
	ct_rank_may_carry(req->rank, req->may_carry);
	follow_from = mig_follow_from(s, &req->how);
	ct_rank_follow_from(req->rank, follow_from);
	code = mig_connect(s, why);
	if (code < 0)
		goto fail;
	s->pack.is_far = mig_is_far(s);
	ct_rank_way(req->rank, mig_is_far(s) ? CT_WAY_FAR : CT_WAY_NEAR);
	code = ct_rank_check(req->rank, &needs, why);
	if (code < 0) {
		gw_fail_more(why, "rank %u cannot move: ", req->proc);
		goto fail;
	}
	s->t.check_ns = gw_now_ns() - s->t.start;
	mig_follow_choose(s, follow_from, needs.private_bytes);
	hints = m->c.ops->hints ? m->c.ops->hints(m->c.ctx, req->owner) : NULL;
	hints_text = hints ? json_dumps(hints, JSON_COMPACT) : NULL;
	json_decref(hints);
	code = ct_files_ask(&s->files, &needs, ct_rank_pid(req->rank), mig_is_far(s), req->may_carry, why);
	if (code < 0) {
		gw_fail_more(why, "rank %u cannot move: ", req->proc);
		goto fail;
	}
	if (gw_fault("mig.src.marked") != GW_FAULT_NONE) {
		code = gw_fail(why, -EIO, "a test made 'mig.src.marked' fail");
		goto fail;
	}
	question = ct_files_bytes(s->files, &question_len);
	len = mig_prepare_pack(&s->id, &needs, hints_text ? hints_text : "{}", question, question_len, &packed);
	if (len < 0) {
		code = gw_fail(why, (int)len, "rank %u: no memory to describe it", req->proc);
		goto fail;
	}
	ct_needs_fini(&needs);
	s->prepare = packed;
	s->prepare_len = (size_t)len;
	code = mig_is_far(s) ? 0 : mig_src_ask(s);
	if (code < 0) {
		gw_fail(why, code, "rank %u: cluster %u does not take the request: %s", req->proc, req->to_cluster,
		        strerror(-code));
		goto fail;
	}
	s->state = MIG_PREPARE;
	mig_session_rearm(s);
	m->n.started++;
	gw_log(GW_INFO, "mig %u rank %u %u->%u: prepare", s->id.session, s->id.proc, s->id.from, s->id.to);
	if (session)
		*session = s->id.session;
	return 0;
fail:
	ct_needs_fini(&needs);
	m->n.refused++;
	session_free(s);
	return code;
}

int mig_session_cancel(struct mig *m, uint32_t proc, struct gw_error *why)
{
	struct mig_session *s = holder_of(m, proc);

	if (!s || !s->is_source)
		return gw_fail(why, -ENOENT, "rank %u is not moving", proc);
	if (s->state == MIG_GIVEN || s->state == MIG_SERVE)
		return gw_fail(why, -EALREADY, "rank %u has been given to cluster %u already", proc, s->id.to);
	mig_post(s, MIG_EV_CANCEL, -ECANCELED, "the request was taken back");
	return 0;
}

bool mig_session_quiet(struct mig *m, uint32_t proc, uint32_t session, int status, const char *text, uint64_t close_ns,
                       uint64_t detach_ns, uint32_t doing)
{
	struct mig_session *s = mig_session_find(m, m->c.incarnation, session);

	if (!s || !s->is_source || s->id.proc != proc || s->state != MIG_QUIESCE || s->is_quiet)
		return false;
	if (status < 0) {
		mig_post(s, MIG_EV_FAILED, status, "its agent could not detach: %s", text && *text ? text : strerror(-status));
		return true;
	}
	s->is_quiet = true;
	s->t.agent_close_ns = close_ns;
	s->t.agent_detach_ns = detach_ns;
	s->t.doing = doing;
	mig_step(s, MIG_EV_QUIET);
	return true;
}

void mig_rank_attached(struct mig *m, uint32_t proc, uint32_t session, int status, uint64_t attach_ns)
{
	gw_list_for(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (!s->is_source && s->id.proc == proc && s->id.session == session &&
		    (s->state == MIG_FETCH || s->state == MIG_ARRIVED || s->state == MIG_SETTLED)) {
			s->attached = (struct mig_wire_attached){ .attach_ns = attach_ns, .status = status };
			mig_step(s, MIG_EV_ATTACHED);
			return;
		}
	}
}

bool mig_rank_exited(struct mig *m, uint32_t proc)
{
	struct mig_session *s = holder_of(m, proc);

	if (s && s->state == MIG_FETCH) {
		mig_step(s, MIG_EV_EXITED);
		return true;
	}
	if (!s || !s->is_source)
		return true;
	if (s->state == MIG_GIVEN || s->state == MIG_SERVE) {
		mig_step(s, MIG_EV_EXITED);
		return false;
	}
	s->has_exited = true;
	mig_post(s, MIG_EV_EXITED, -ESRCH, "it has exited meanwhile");
	return true;
}

bool mig_rank_is_busy(const struct mig *m, uint32_t proc)
{
	return holder_of(m, proc) != NULL;
}

bool mig_rank_lacks_pages(const struct mig *m, uint32_t proc)
{
	const struct mig_session *s = holder_of(m, proc);

	return s && s->state == MIG_FETCH;
}

bool mig_is_dead(const struct mig *m, uint64_t incarnation)
{
	for (size_t i = 0; i < m->dead_n; i++)
		if (m->dead[i] == incarnation)
			return true;
	return false;
}

static void remember_dead(struct mig *m, uint64_t incarnation)
{
	uint64_t *more;

	if (!incarnation || mig_is_dead(m, incarnation))
		return;
	more = realloc(m->dead, (m->dead_n + 1) * sizeof(*more));
	if (!more) { /* without it two copies could run */
		gw_log(GW_ERROR, "mig: no memory to remember that a daemon is dead");
		abort();
	}
	m->dead = more;
	m->dead[m->dead_n++] = incarnation;
}

void mig_peer_dead(struct mig *m, uint32_t cluster, uint64_t incarnation)
{
	bool again = true;

	remember_dead(m, incarnation);
	/* callbacks may start and end sessions: begin anew after each step */
	while (again) {
		again = false;
		gw_list_for(e, &m->sessions) {
			struct mig_session *s = gw_list_entry(e, struct mig_session, node);
			uint32_t peer = s->is_source ? s->id.to : s->id.from;
			uint64_t known = s->is_source ? s->id.to_incarnation : s->id.from_incarnation;

			if (s->is_stepping || peer != cluster || (incarnation && known && known != incarnation))
				continue;
			mig_disconnect(s);
			mig_post(s, MIG_EV_PEER_DEAD, -EHOSTDOWN, "the daemon of cluster %u is dead", cluster);
			again = true;
			break;
		}
	}
}

int mig_shutdown(struct mig *m)
{
	int left = 0;
	bool again = true;

	m->is_shutting_down = true;
	while (again) {
		again = false;
		gw_list_for(e, &m->sessions) {
			struct mig_session *s = gw_list_entry(e, struct mig_session, node);

			if (s->is_stepping || s->state == MIG_GIVEN || s->state == MIG_SERVE || s->state == MIG_FETCH || s->state == MIG_ARRIVED)
				continue;
			mig_post(s, MIG_EV_CANCEL, -ESHUTDOWN, "cluster %u is shutting down", m->c.cluster);
			again = true;
			break;
		}
	}
	gw_list_for(e, &m->sessions)
		left++;
	return left;
}

bool mig_is_idle(const struct mig *m)
{
	return gw_list_is_empty(&m->sessions);
}

json_t *mig_sessions_json(const struct mig *m)
{
	json_t *all = json_array(), *one;

	gw_list_for(e, &m->sessions) {
		const struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		one = json_pack("{s:I, s:I, s:I, s:I, s:s, s:s, s:I, s:I}", "session",
			(json_int_t)s->id.session, "rank", (json_int_t)s->id.proc, "from", (json_int_t)s->id.from, "to",
			(json_int_t)s->id.to, "side", s->is_source ? "source" : "destination", "state", mig_state_name(s->state),
			"bytes", (json_int_t)s->t.bytes, "age_ms", (json_int_t)((gw_now_ns() - s->t.start) / 1000000));
		if (s->is_source) {
			json_object_set_new(one, "technique", json_string(mig_technique_now(s)));
			json_object_set_new(one, "round", json_integer(s->rounds.n));
		}
		json_array_append_new(all, one);
	}
	return all;
}

const struct mig_counters *mig_counters(const struct mig *m)
{
	return &m->n;
}
