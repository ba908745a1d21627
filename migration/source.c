/* SPDX-License-Identifier: BSD-2-Clause */
/* What the source of a move does in each of its states. */
#include "migration/session.h"

#include <stdlib.h>

#define EXPECT_NS 1000000 /* a small rank is built in half of that */
#define LEFT_MS   20      /* the longest that a copy is kept which has run on elsewhere; and the largest: */
#define LEFT_BYTES (16u << 20)
#define CALM_MS   1       /* enough for both sides to have had their cores, and to have said what they had to say */

static const struct mig_ops *ops(const struct mig_session *s)
{
	return s->m->c.ops;
}

int mig_src_ask(struct mig_session *s)
{
	uint64_t monotonic_ns, boottime_ns;
	int code;

	ct_rank_clocks(s->rank, &monotonic_ns, &boottime_ns);
	mig_prepare_stamp(s->prepare, monotonic_ns, boottime_ns);
	code = mig_send_raw(s, MIG_F_PREPARE, s->prepare, s->prepare_len);
	free(s->prepare);
	s->prepare = NULL;
	return code;
}

/* The destination has looked at the files; what it could not tell by looking is told by their contents. */
void mig_src_prove(struct mig_session *s)
{
	struct gw_error why = { 0 };
	int code;

	mig_cost_link(s);
	code = ct_files_check(s->files, s->frame, s->frame_len, &why);

	if (code > 0 && (code = mig_files_watch(s)) < 0)
		gw_fail(&why, code, "the helper that reads its files cannot be watched: %s", strerror(-code));
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
	else if (!s->files_watch)
		mig_step(s, MIG_EV_PROVED);
}

static void on_calm(void *ctx)
{
	struct mig_session *s = ctx;

	s->pace = NULL;
	mig_step(s, MIG_EV_CALM);
}

/*
 * While MPI still goes: from the closed gate on, peers wait. And then we rest: where ranks have no core that the daemons and the
 * shell could use, these have just taken theirs for some milliseconds, and the silence would begin before it is asked for. A rank that
 * is followed writes meanwhile what must then go: a tenth of a MiB at 100 MiB/s, far less than what the look beforehand would cost it.
 */
void mig_src_quiesce(struct mig_session *s)
{
	struct gw_error why = { 0 };
	int code;

	mig_cost_rounds(s, true);
	code = ct_rank_freeze_prepare(s->rank, &why);
	if (mig_edge(s, "mig.src.prepared"))
		return;
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "it could not be stopped: %s", why.text);
	else if (mig_session_later(s, CALM_MS, on_calm) < 0)
		mig_step(s, MIG_EV_CALM);
}

void mig_src_ask_agent(struct mig_session *s)
{
	uint64_t deadline_ms = s->m->c.quiesce_ms ? s->m->c.quiesce_ms : 5000;
	struct gw_error why = { 0 };
	int code;

	s->t.prepared = gw_now_ns();
	mig_adjust_priority(s->m); /* now: whoever has our turn after the word to the agent has it in the silence */
	code = ops(s)->quiesce(s->m->c.ctx, s->owner, s->id.session, deadline_ms, &why);
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
	else if (code > 0)
		mig_step(s, MIG_EV_QUIET); /* no agent */
}

struct still { struct mig_session *s; bool has_failed; };

/* STATE: while the rest of the rank is looked at the destination makes of it what it needs, and is awake when the image comes. */
static int say_state(void *ctx, struct gw_error *why)
{
	struct still *still = ctx;
	struct mig_session *s = still->s;
	json_t *state = ops(s)->export_state(s->m->c.ctx, s->owner, why);
	gw_autofree char *text = state ? json_dumps(state, JSON_COMPACT) : NULL;
	int code;

	json_decref(state);
	still->has_failed = true;
	if (!text)
		return why->code ? why->code : gw_fail(why, -ENOMEM, "its daemon's state could not be written down");
	code = mig_send(s, MIG_F_STATE, text, strlen(text));
	if (code < 0 && code != -EPIPE) /* EPIPE: the end of the link is about to be reported */
		return gw_fail(why, code, "its daemon's state could not be sent: %s", strerror(-code));
	still->has_failed = false;
	return 0;
}

/* The head of the image: the destination makes threads and descriptors of it while we look which pages have to go. */
static int send_head(void *ctx, const void *bytes, size_t len, struct gw_error *why)
{
	struct still *still = ctx;
	struct mig_session *s = still->s;
	int code;

	still->has_failed = true;
	switch (gw_fault("mig.src.head")) {
	case GW_FAULT_FAIL:
		return gw_fail(why, -EIO, "a test made 'mig.src.head' fail");
	case GW_FAULT_CUT:
		mig_disconnect(s);
		return gw_fail(why, -ECONNRESET, "a test cut the connection at 'mig.src.head'");
	default:
		break;
	}
	s->t.bytes += len;
	code = mig_send_memory(s, MIG_F_DATA, bytes, len);
	if (code < 0 && code != -EPIPE)
		return gw_fail(why, code, "the head of its image could not be sent: %s", strerror(-code));
	still->has_failed = false;
	return 0;
}

void mig_src_freeze(struct mig_session *s)
{
	struct still still = { .s = s };
	struct gw_error why = { 0 };
	int code;

	s->t.quiet = gw_now_ns();
	if (mig_edge(s, "mig.src.quiet"))
		return;
	code = ct_files_carry(s->files, s->rank);
	if (code < 0) {
		gw_fail(&why, code, "no memory for a list of files");
	} else {
		ct_rank_leave_pages(s->rank, s->is_leaving);
		ct_rank_when_still(s->rank, say_state, &still);
		if (s->t.there_prepared.knows & MIG_KNOWS_HEAD)
			ct_rank_when_known(s->rank, send_head, &still);
		code = ct_rank_freeze(s->rank, s->m->c.freeze_ms ? s->m->c.freeze_ms : 2000, &s->t.freeze, &why);
	}
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s%s", still.has_failed ? "" : "it could not be stopped: ", why.text);
		return;
	}
	s->is_frozen = true;
	s->t.frozen = gw_now_ns();
	s->post.left = ct_rank_left_bytes(s->rank);
	if (s->t.freeze.since_ns)
		s->rounds.dirty_rate = (uint64_t)((double)s->t.freeze.dirty_bytes * 1e9 / (double)s->t.freeze.since_ns);
	if (mig_edge(s, "mig.src.frozen"))
		return;
	code = ct_files_still(s->files, s->rank, &why);
	if (code == 0)
		code = ct_files_flush(s->files, &why);
	if (code > 0 && (code = mig_files_watch(s)) < 0)
		gw_fail(&why, code, "the helper of its files cannot be watched: %s", strerror(-code));
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	mig_src_pump(s);
}

bool mig_src_send(struct mig_session *s, const char *edge, const char *what)
{
	struct gw_error why = { 0 };
	size_t in_turn = 0;
	ssize_t n;
	int code;

	mig_session_rearm(s);
	while (!mig_queued(s)) { /* what the socket does not take is copied: no more of that than the rest of one frame */
		if (mig_round_is_ahead(s))
			return false;
		if (in_turn >= MIG_TURN) {
			mig_turn_later(s);
			return false;
		}
		if (mig_edge(s, edge))
			return false;
		n = ct_image_next(s->rank, s->m->buf, MIG_CHUNK, &why);
		if (n == 0)
			return true;
		if (n < 0) {
			mig_post(s, MIG_EV_FAILED, (int)n, "%s could not be read: %s", what, why.text);
			return false;
		}
		s->t.bytes += (uint64_t)n;
		in_turn += (size_t)n;
		code = mig_send_memory(s, MIG_F_DATA, s->m->buf, (size_t)n);
		if (code < 0 && code != -EPIPE) /* EPIPE: the end of the link is about to be reported */
			mig_post(s, MIG_EV_FAILED, code, "%s could not be sent: %s", what, strerror(-code));
		if (code < 0)
			return false;
	}
	return false;
}

/* The image, as much of it as the link takes: a small rank's in one go. */
void mig_src_pump(struct mig_session *s)
{
	struct mig_wire_end end;
	int code;

	if (s->is_image_sent || !mig_src_send(s, "mig.src.sending", "its image"))
		return;
	/* the destination opens the files when END has come, and must then find in them what was written here */
	s->is_end_waiting = s->files_watch != NULL;
	if (s->is_end_waiting)
		return;
	end.bytes = s->t.bytes;
	s->is_image_sent = true;
	s->t.sent = gw_now_ns();
	code = mig_send(s, MIG_F_END, &end, sizeof(end));
	mig_expect(s, EXPECT_NS);
	if (code < 0 && code != -EPIPE)
		mig_post(s, MIG_EV_FAILED, code, "its image could not be sent: %s", strerror(-code));
}

void mig_src_flushed(struct mig_session *s)
{
	if (s->is_end_waiting)
		mig_src_pump(s);
}

/* Everything that failed before GIVEN: the rank goes on here. */
void mig_src_abort(struct mig_session *s)
{
	struct gw_error why = { 0 };
	json_t *measures;

	ct_follow_end(s->rank);
	ct_rank_freeze_forget(s->rank);
	if (s->peer) {
		mig_send_text(s, MIG_F_ABORT);
		mig_disconnect(s);
	}
	if (!s->has_exited)
		ops(s)->stay(s->m->c.ctx, s->owner, s->id.session, s->id.epoch, s->is_quiet);
	if (s->is_frozen && ct_rank_unfreeze(s->rank, &why) < 0 && !s->has_exited)
		gw_log(GW_ERROR, "mig %u rank %u: cannot let it run on: %s", s->id.session, s->id.proc, why.text);
	s->m->n.aborted++;
	gw_fail_more(&s->why, "rank %u stays on cluster %u: ", s->id.proc, s->id.from);
	measures = mig_measures_json(s, s->why.code);
	ops(s)->finished(s->m->c.ctx, s->owner, s->id.session, s->why.code, &s->why, measures);
	json_decref(measures);
}

/* READY came. The daemon that sent it may be dead by now: giving the rank to it would end the rank. */
void mig_src_ready_came(struct mig_session *s)
{
	if (s->state == MIG_SEND) {
		if (mig_edge(s, "mig.src.ready"))
			return;
		if (!s->is_image_sent) {
			mig_post(s, MIG_EV_FAILED, -EPROTO, "cluster %u is ready before the image has ended", s->id.to);
			return;
		}
		if (ct_rank_was_killed(s->rank)) { /* it must not live on elsewhere */
			s->has_exited = true;
			mig_post(s, MIG_EV_EXITED, -ESRCH, "it was killed meanwhile");
			return;
		}
		if (!mig_link_is_up(s)) {
			mig_disconnect(s);
			mig_post(s, MIG_EV_PEER_LOST, -ECONNRESET, "the connection to cluster %u was lost", s->id.to);
			return;
		}
	}
	gw_loop_expect(s->m->loop, 0);
	s->t.ready = gw_now_ns();
	mig_step(s, MIG_EV_READY);
}

/* The state says GIVEN already: from here on only the destination's word counts. */
void mig_src_give(struct mig_session *s)
{
	s->t.given = gw_now_ns();
	if (ops(s)->given)
		ops(s)->given(s->m->c.ctx, s->owner, s->id.epoch + 1);
	if (!mig_word_is_lost(s, "mig.src.given"))
		mig_send(s, MIG_F_GIVEN, NULL, 0);
}

void mig_src_repeat(struct mig_session *s)
{
	struct gw_error why = { 0 };

	if (!s->peer && mig_connect(s, &why) < 0) {
		gw_log(GW_DEBUG, "mig %u: %s", s->id.session, why.text);
		return;
	}
	if (s->peer && mig_send(s, MIG_F_GIVEN, NULL, 0) == -EPIPE)
		mig_disconnect(s); /* the timer brings us back */
}

void mig_src_reconnect(struct mig_session *s)
{
	mig_disconnect(s);
	if (s->retries++ == 0)
		mig_src_repeat(s);
	mig_session_rearm(s);
}

void mig_src_let_go(struct mig_session *s)
{
	uint64_t begun = gw_now_ns();

	if (!s->left)
		return;
	ct_rank_release(s->left);
	s->left = NULL;
	s->t.release_ns = gw_now_ns() - begun;
}

static void on_left_long(void *ctx)
{
	struct mig_session *s = ctx;

	s->pace = NULL;
	mig_src_let_go(s);
}

/* The copy here never runs again. A small one that holds nothing which the rank may want is not ended at once, which would take a
 * core for a millisecond: the rank's peers still wait for its agent, and may be on this host. */
void mig_src_release(struct mig_session *s)
{
	s->t.taken = s->t.taken ? s->t.taken : gw_now_ns();
	gw_fault("mig.src.taken");
	mig_cost_over(s);
	mig_send(s, MIG_F_DONE, NULL, 0);
	ct_files_left(s->files);
	s->left = s->rank;
	s->rank = NULL;
	s->m->n.moved++;
	ops(s)->left(s->m->c.ctx, s->owner, s->id.to, s->id.epoch + 1);
	s->owner = NULL;
	if (!s->t.there_taken.has_agent || s->is_attached)
		mig_step(s, MIG_EV_ATTACHED);
	else if (ct_rank_shares(s->left) || s->t.freeze.private_bytes > LEFT_BYTES || mig_session_later(s, LEFT_MS, on_left_long) < 0)
		mig_src_let_go(s);
}

void mig_src_say_done(struct mig_session *s)
{
	mig_send(s, MIG_F_DONE, NULL, 0);
}

void mig_src_finish(struct mig_session *s)
{
	json_t *measures;

	s->t.attached = gw_now_ns();
	mig_src_let_go(s);
	s->why = (struct gw_error){ 0 };
	measures = mig_measures_json(s, 0);
	ops(s)->finished(s->m->c.ctx, NULL, s->id.session, 0, &s->why, measures);
	json_decref(measures);
}

/* NEVER after GIVEN: only now may the copy here run again, two epochs on, so that nothing said of the move is current. */
void mig_src_keep(struct mig_session *s)
{
	struct gw_error why = { 0 };
	json_t *measures;

	ct_follow_end(s->rank);
	mig_disconnect(s);
	s->m->n.never++;
	ops(s)->stay(s->m->c.ctx, s->owner, s->id.session, s->id.epoch + 2, s->is_quiet);
	if (ct_rank_unfreeze(s->rank, &why) < 0 && !s->has_exited)
		gw_log(GW_ERROR, "mig %u rank %u: cannot let it run on: %s", s->id.session, s->id.proc, why.text);
	gw_fail_more(&s->why, "rank %u stays on cluster %u: ", s->id.proc, s->id.from);
	measures = mig_measures_json(s, s->why.code);
	ops(s)->finished(s->m->c.ctx, s->owner, s->id.session, s->why.code, &s->why, measures);
	json_decref(measures);
}

void mig_src_lost(struct mig_session *s)
{
	json_t *measures;

	ct_rank_release(s->rank);
	s->rank = NULL;
	s->m->n.lost++;
	s->why.code = 0;
	gw_fail(&s->why, -EHOSTDOWN, "rank %u was given to cluster %u, whose daemon died before it %s: the rank is gone", s->id.proc,
	        s->id.to, s->post.begun_ns ? "had all of its memory" : "confirmed");
	ops(s)->lost(s->m->c.ctx, s->owner, s->id.to, &s->why);
	s->owner = NULL;
	measures = mig_measures_json(s, s->why.code);
	ops(s)->finished(s->m->c.ctx, NULL, s->id.session, s->why.code, &s->why, measures);
	json_decref(measures);
}

void mig_src_note_exit(struct mig_session *s)
{
	s->has_exited = true;
}
