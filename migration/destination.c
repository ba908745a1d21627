/* SPDX-License-Identifier: BSD-2-Clause */
/* What the destination of a move does in each of its states. */
#include "migration/session.h"

#include <stdlib.h>
#include <unistd.h>

#define EXPECT_NS 500000 /* from READY to GIVEN and back, and from STATE to the image of a small rank, and from the head of that to the rest */

static const struct mig_ops *ops(const struct mig_session *s)
{
	return s->m->c.ops;
}

static void shell_ended(struct mig_session *s)
{
	gw_watch_remove(s->shell_watch);
	s->shell_watch = NULL;
	mig_post(s, MIG_EV_EXITED, -ESRCH, "its shell on cluster %u ended", s->id.to);
}

static void on_shell_ended(void *ctx, uint32_t events)
{
	(void)events;
	shell_ended(ctx);
}

void mig_dst_look_at_shells(struct mig *m)
{
	gw_list_for_safe(e, &m->sessions) {
		struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		if (s->shell_watch && s->rank && !ct_shell_is_alive(s->rank)) /* only while it has not been given */
			shell_ended(s);
		else if (s->is_making)
			mig_step(s, MIG_EV_MADE);
	}
}

/* Are the files of the rank the same here? Before anything is made for it. */
void mig_dst_look(struct mig_session *s)
{
	struct mig_prepare prepare;
	struct gw_error why = { 0 };
	int code;

	ct_needs_heard(&prepare.needs);
	s->heard_monotonic_ns = prepare.needs.heard_monotonic_ns;
	s->heard_boottime_ns = prepare.needs.heard_boottime_ns;
	if (s->m->is_shutting_down) {
		mig_post(s, MIG_EV_FAILED, -ESHUTDOWN, "cluster %u is shutting down", s->id.to);
		return;
	}
	if (mig_edge(s, "mig.dst.looking"))
		return;
	s->offer = malloc(s->frame_len);
	if (!s->offer) {
		mig_post(s, MIG_EV_FAILED, -ENOMEM, "cluster %u has no memory for it", s->id.to);
		return;
	}
	memcpy(s->offer, s->frame, s->frame_len);
	s->offer_len = s->frame_len;
	code = mig_prepare_parse(s->offer, s->offer_len, &prepare, &why);
	if (code == 0)
		code = ct_files_look(&s->files, &prepare.needs, prepare.question, prepare.question_len, &why);
	if (code > 0 && (code = mig_files_watch(s)) < 0)
		gw_fail(&why, code, "the helper that reads its files cannot be watched: %s", strerror(-code));
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot take it: %s", s->id.to, why.text);
	else if (!s->files_watch)
		mig_step(s, MIG_EV_PROVED);
}

/* The rank may be stopped when its pages are there: none has to be made while it stands still. But it is not kept waiting for
 * them: of a large one the rest is made as they come. */
void mig_dst_prepared(struct mig_session *s)
{
	uint64_t limit_ms = (s->m->c.prepare_ms ? s->m->c.prepare_ms : 10000) / 4;
	struct mig_wire_prepared *body;
	gw_autofree char *frame = NULL;
	struct ct_host_caps caps;
	struct gw_error why = { 0 };
	const void *answer;
	size_t answer_len;
	int code = 0;

	if (gw_now_ns() - s->t.start < limit_ms * 1000000)
		code = ct_shell_make_pages(s->rank, &why);
	s->is_making = code > 0;
	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot take it: %s", s->id.to, why.text);
	if (code != 0)
		return;
	s->t.prepared = gw_now_ns();
	answer = ct_files_bytes(s->files, &answer_len);
	frame = malloc(sizeof(*body) + answer_len);
	if (!frame) {
		mig_post(s, MIG_EV_FAILED, -ENOMEM, "cluster %u has no memory for an answer", s->id.to);
		return;
	}
	body = (struct mig_wire_prepared *)(void *)frame;
	ct_host_probe(&caps);
	*body = (struct mig_wire_prepared){ .prepare_ns = s->t.prepared - s->t.start, .can_fetch = caps.can_fetch,
	                                     .knows = MIG_KNOWS_PACKED | MIG_KNOWS_HEAD };
	memcpy(body + 1, answer, answer_len);
	mig_send(s, MIG_F_PREPARED, frame, sizeof(*body) + answer_len);
}

void mig_dst_prepare(struct mig_session *s)
{
	struct ct_plumbing plumbing;
	struct mig_prepare prepare;
	struct mig_offer o;
	struct gw_error why = { 0 };
	json_t *hints;
	cpu_set_t cpus;
	int code;

	code = mig_prepare_parse(s->offer, s->offer_len, &prepare, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	prepare.needs.are_files_proved = true;
	prepare.needs.heard_monotonic_ns = s->heard_monotonic_ns;
	prepare.needs.heard_boottime_ns = s->heard_boottime_ns;
	hints = json_loadb(prepare.hints, prepare.hints_len, 0, NULL);
	if (!hints) {
		mig_post(s, MIG_EV_FAILED, -EPROTO, "the hints of a PREPARE are not JSON");
		return;
	}
	CPU_ZERO(&cpus);
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		plumbing.rank_fd[i] = plumbing.number_in_rank[i] = plumbing.daemon_fd[i] = -1;
	o = (struct mig_offer){ .proc = s->id.proc, .session = s->id.session, .from_cluster = s->id.from,
	                        .epoch = s->id.epoch, .needs = &prepare.needs, .hints = hints };
	code = ops(s)->prepare(s->m->c.ctx, &o, &plumbing, &cpus, &s->owner, &why);
	json_decref(hints);
	if (code < 0) {
		s->owner = NULL;
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	code = ct_shell_create(&s->rank, &prepare.needs, &plumbing, &cpus, &why);
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		if (plumbing.rank_fd[i] >= 0)
			close(plumbing.rank_fd[i]);
	if (code < 0) {
		s->rank = NULL;
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot take it: %s", s->id.to, why.text);
		return;
	}
	code = ct_files_expect(s->files, s->rank, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot take it: %s", s->id.to, why.text);
		return;
	}
	code = gw_loop_watch(s->m->loop, &s->shell_watch, ct_rank_status_fd(s->rank), EPOLLIN, on_shell_ended, s);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot watch the shell: %s", s->id.to, strerror(-code));
		return;
	}
	if (mig_edge(s, "mig.dst.prepared"))
		return;
	s->m->n.accepted++;
	free(s->offer);
	s->offer = NULL;
	mig_dst_prepared(s);
}

void mig_dst_import(struct mig_session *s)
{
	const char *text = (const char *)s->frame + sizeof(struct mig_head);
	json_t *state = json_loadb(text, s->frame_len - sizeof(struct mig_head), 0, NULL);
	struct gw_error why = { 0 };
	int code;

	if (!json_is_object(state)) {
		json_decref(state);
		mig_post(s, MIG_EV_FAILED, -EPROTO, "the state of the rank is not JSON");
		return;
	}
	code = ops(s)->import_state(s->m->c.ctx, s->owner, state, &why);
	json_decref(state);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	s->has_state = true;
	s->t.round_bytes = s->t.bytes;
	mig_adjust_priority(s->m);
	mig_expect(s, EXPECT_NS);
}

void mig_dst_feed(struct mig_session *s)
{
	struct gw_error why = { 0 };
	bool is_first;
	int code;

	if (mig_edge(s, "mig.dst.filling"))
		return;
	is_first = s->has_state && !s->t.frozen;
	if (is_first)
		s->t.frozen = gw_now_ns(); /* here: when the first bytes came */
	code = ct_shell_feed(s->rank, s->frame, s->frame_len, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot build it: %s", s->id.to, why.text);
		return;
	}
	s->t.bytes += s->frame_len;
	mig_session_rearm(s);
	if (is_first)
		mig_expect(s, EXPECT_NS);
	if (ct_shell_rounds(s->rank) > s->rounds_said) {
		s->rounds_said = ct_shell_rounds(s->rank);
		mig_send(s, MIG_F_ROUND, NULL, 0);
	}
}

void mig_dst_complete(struct mig_session *s)
{
	struct mig_wire_end end;
	struct gw_error why = { 0 };
	int code;

	if (s->frame_len != sizeof(struct mig_head) + sizeof(end)) {
		mig_post(s, MIG_EV_FAILED, -EPROTO, "the end of the image is malformed");
		return;
	}
	memcpy(&end, (const char *)s->frame + sizeof(struct mig_head), sizeof(end));
	if (end.bytes != s->t.bytes || !s->has_state) {
		mig_post(s, MIG_EV_FAILED, -EPROTO, "the image is incomplete: %llu of %llu bytes, %s state",
		         (unsigned long long)s->t.bytes, (unsigned long long)end.bytes, s->has_state ? "with" : "without");
		return;
	}
	s->t.sent = gw_now_ns(); /* here: when the last bytes had come */
	code = ct_shell_ready(s->rank, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot build it: %s", s->id.to, why.text);
		return;
	}
	if (mig_edge(s, "mig.dst.ready"))
		return;
	mig_step(s, MIG_EV_COMPLETE);
}

void mig_dst_say_ready(struct mig_session *s)
{
	struct mig_wire_ready body = { .bytes = s->t.bytes };

	if (!ct_shell_is_alive(s->rank)) { /* killed meanwhile: then the source need not give it away and take it back */
		shell_ended(s);
		return;
	}
	s->t.ready = gw_now_ns();
	body.fill_ns = s->t.frozen ? s->t.sent - s->t.frozen : 0;
	body.ready_ns = s->t.ready - s->t.sent;
	mig_send(s, MIG_F_READY, &body, sizeof(body));
	mig_expect(s, EXPECT_NS);
	mig_edge(s, "mig.dst.sent");
}

/* GIVEN of this session: the one event that lets the rank run here. */
void mig_dst_thaw(struct mig_session *s)
{
	struct ct_thaw_stats stats = { 0 };
	struct gw_error why = { 0 };
	struct ct_rank *ct = s->rank;
	int code;

	gw_loop_expect(s->m->loop, 0);
	if (mig_edge(s, "mig.dst.given"))
		return;
	code = ops(s)->arriving(s->m->c.ctx, s->owner, s->id.session, s->id.epoch + 1, &s->has_agent, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	gw_watch_remove(s->shell_watch);
	s->shell_watch = NULL;
	code = ct_rank_settle_files(ct, &why);
	if (code == 0)
		code = ct_rank_thaw(ct, &stats, &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "cluster %u cannot let it run: %s", s->id.to, why.text);
		return;
	}
	s->t.there_taken = (struct mig_wire_taken){ .thawed_at_ns = stats.thawed_at_ns, .thaw_ns = stats.thaw_ns,
	                                            .pages_filled = stats.pages_filled, .has_agent = s->has_agent };
	s->post.fetch = ct_rank_take_fetch(ct);
	if (!s->post.fetch) /* else it waits for us: for its pages */
		mig_give_way();
	ct_rank_tidy(ct);
	s->rank = NULL; /* the daemon's now */
	s->m->n.taken++;
	if (s->post.fetch && !ct_fetch_left(s->post.fetch))
		mig_fetch_drop(s);
	mig_step(s, s->post.fetch ? MIG_EV_LIVES : MIG_EV_THAWED); /* after this action: TAKEN */
	ops(s)->taken(s->m->c.ctx, s->owner, ct, s->id.epoch + 1);
}

static void send_taken(struct mig_session *s)
{
	if (s->post.is_fetched) {
		mig_dst_say_fetched(s);
		return;
	}
	mig_send(s, MIG_F_TAKEN, &s->t.there_taken, sizeof(s->t.there_taken));
	if (s->is_attached)
		mig_send(s, MIG_F_ATTACHED, &s->attached, sizeof(s->attached));
}

void mig_dst_say_taken(struct mig_session *s)
{
	if (!mig_word_is_lost(s, "mig.dst.taken"))
		send_taken(s);
}

static bool reconnect(struct mig_session *s)
{
	struct gw_error why = { 0 };

	if (s->peer || mig_connect(s, &why) == 0)
		return true;
	gw_log(GW_DEBUG, "mig %u: %s", s->id.session, why.text);
	return false;
}

void mig_dst_repeat(struct mig_session *s)
{
	if (reconnect(s))
		send_taken(s);
}

void mig_dst_ask(struct mig_session *s)
{
	if (reconnect(s))
		mig_send(s, MIG_F_ASK, NULL, 0);
}

void mig_dst_drop_link(struct mig_session *s)
{
	mig_disconnect(s);
	mig_session_rearm(s);
}

void mig_dst_say_attached(struct mig_session *s)
{
	s->is_attached = true;
	mig_send(s, MIG_F_ATTACHED, &s->attached, sizeof(s->attached));
}

void mig_dst_settle(struct mig_session *s)
{
	if (!s->has_agent || s->is_attached)
		mig_step(s, MIG_EV_COMPLETE);
}

/* It was not given, so nothing has run: the shell goes, and this daemon will never thaw this session. */
void mig_dst_discard(struct mig_session *s)
{
	gw_watch_remove(s->shell_watch);
	s->shell_watch = NULL;
	if (s->rank || s->owner)
		s->m->n.discarded++;
	else
		s->m->n.refused++;
	ct_rank_kill(s->rank);
	s->rank = NULL;
	if (s->owner)
		ops(s)->discard(s->m->c.ctx, s->owner);
	s->owner = NULL;
	mig_send_text(s, s->t.prepared ? MIG_F_NEVER : MIG_F_REFUSED);
}
