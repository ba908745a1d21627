/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A move whose rank runs at the destination before all of its memory is there (post-copy, hybrid): both ends, after GIVEN.
 *
 *   source, SERVE                               destination, FETCH
 *     | <------------- WANT: addresses, cursor --- |  a thread waits for a page; or pages have come
 *     | PAGES of what was asked for -------------> |
 *     | PAGES, the rest, in order, cursor -------> |  as much as the window allows: a page that is asked for waits behind it
 *     | <---------------------------- FETCHED ---- |  nothing is missing any more, or the rank has ended
 *
 * The cursor says up to where the destination has what was sent in order. Over a new connection it asks again for what it has
 * waited for, and the source goes on from the cursor; a page that comes twice is dropped. The source forgets nothing before
 * FETCHED; that a page cannot be read any more, or that the source is dead, ends the rank.
 */
#include "migration/session.h"

#include <stdlib.h>

#define WINDOW       (1u << 20)   /* bytes on their way to a destination that waits for nothing */
#define WINDOW_ASKED (256u << 10) /* and to one that has asked not long ago */
#define ASKED_NS     20000000ull
#define PUSH         (128u << 10) /* bytes of a frame */
#define ANSWER       (64u << 10)  /* of what was asked for, and what lies behind it: it is often next */
#define WANTS        512

static const struct mig_ops *ops(const struct mig_session *s)
{
	return s->m->c.ops;
}

/* ---- the source ----------------------------------------------------------------------------------------------------- */

/* What stands behind the cursor in the daemon's buffer: @n bytes. */
static bool send_pages(struct mig_session *s, uint64_t cursor, ssize_t n, struct gw_error *why)
{
	struct mig_wire_pages head = { .cursor = cursor };
	int code;

	if (n < 0) {
		mig_post(s, MIG_EV_FAILED, (int)n, "%s", why->text);
		return false;
	}
	if (n == 0)
		return true;
	memcpy(s->m->buf, &head, sizeof(head));
	s->t.bytes += (uint64_t)n;
	s->post.sent += (uint64_t)n;
	code = mig_send_memory(s, MIG_F_PAGES, s->m->buf, sizeof(head) + (size_t)n);
	if (code < 0 && code != -EPIPE) /* EPIPE: the end of the link is about to be reported */
		mig_post(s, MIG_EV_FAILED, code, "pages could not be sent: %s", strerror(-code));
	return code == 0;
}

void mig_src_push(struct mig_session *s)
{
	uint64_t window = gw_now_ns() - s->post.asked_ns < ASKED_NS ? WINDOW_ASKED : WINDOW, cursor;
	struct gw_error why = { 0 };
	size_t in_turn = 0;

	while (s->peer && !mig_queued(s) && !ct_serve_is_out(s->rank) && ct_serve_ahead(s->rank, s->post.cursor) < window) {
		ssize_t n;

		if (mig_round_is_ahead(s) || mig_edge(s, "mig.src.pushing"))
			return;
		if (in_turn >= MIG_TURN) {
			mig_turn_later(s);
			return;
		}
		n = ct_serve_next(s->rank, s->m->buf + sizeof(struct mig_wire_pages), PUSH, &cursor, &why);
		if (!send_pages(s, cursor, n, &why))
			return;
		in_turn += PUSH;
	}
}

/* WANT: what somebody waits for goes first. */
void mig_src_answer(struct mig_session *s)
{
	const char *p = s->frame;
	struct mig_wire_want want;
	struct gw_error why = { 0 };

	if (mig_edge(s, "mig.src.asked"))
		return;
	memcpy(&want, p, sizeof(want));
	if (want.is_again)
		ct_serve_rewind(s->rank, want.cursor);
	s->post.cursor = want.cursor;
	for (uint32_t i = 0; i < want.n; i++) {
		uint64_t address;
		ssize_t n;

		memcpy(&address, p + sizeof(want) + i * sizeof(address), sizeof(address));
		s->post.asked_ns = gw_now_ns();
		s->post.asked++;
		n = ct_serve_page(s->rank, address, s->m->buf + sizeof(struct mig_wire_pages), ANSWER, &why);
		if (!send_pages(s, MIG_NO_CURSOR, n, &why))
			return;
	}
	mig_src_push(s);
}

static void begin_serving(struct mig_session *s)
{
	s->t.taken = s->post.begun_ns = gw_now_ns();
	s->pack.serve_wire = s->pack.wire;
	if (ops(s)->serving)
		ops(s)->serving(s->m->c.ctx, s->owner);
}

/* It runs there. The copy here never runs again, and stays until nothing is missing. */
void mig_src_serve(struct mig_session *s)
{
	begin_serving(s);
	if (mig_edge(s, "mig.src.serving"))
		return;
	mig_src_push(s);
}

/* TAKEN got lost, and this came over a new connection: it is as good. */
void mig_src_serve_asked(struct mig_session *s)
{
	begin_serving(s);
	mig_src_answer(s);
}

void mig_src_note_attached(struct mig_session *s)
{
	s->t.open = gw_now_ns();
}

void mig_src_drop_link(struct mig_session *s)
{
	mig_disconnect(s); /* the other side needs us, and comes back */
}

/* Its pages cannot be read any more: it was killed, or ran out of memory, while it stood still. The other side ends the rank. */
void mig_src_gone(struct mig_session *s)
{
	json_t *measures;

	mig_send_text(s, MIG_F_ABORT);
	ct_rank_release(s->rank);
	s->rank = NULL;
	s->m->n.lost++;
	gw_fail_more(&s->why, "rank %u runs on cluster %u without all of its memory: ", s->id.proc, s->id.to);
	ops(s)->lost(s->m->c.ctx, s->owner, s->id.to, &s->why);
	s->owner = NULL;
	measures = mig_measures_json(s, s->why.code);
	ops(s)->finished(s->m->c.ctx, NULL, s->id.session, s->why.code, &s->why, measures);
	json_decref(measures);
}

/* ---- the destination ------------------------------------------------------------------------------------------------ */

static void send_want(struct mig_session *s)
{
	uint64_t addresses[WANTS];
	gw_autofree char *body = NULL;
	struct mig_wire_want want = { .cursor = s->post.cursor, .is_again = s->post.is_link_new };
	size_t n;

	if (!s->peer)
		return;
	if (s->post.is_link_new)
		ct_fetch_again(s->post.fetch);
	s->post.is_link_new = false;
	do {
		n = ct_fetch_wants(s->post.fetch, addresses, WANTS);
		want.n = (uint32_t)n;
		free(body);
		body = malloc(sizeof(want) + n * sizeof(addresses[0]));
		if (!body)
			return; /* they come by themselves, later */
		memcpy(body, &want, sizeof(want));
		memcpy(body + sizeof(want), addresses, n * sizeof(addresses[0]));
		mig_send(s, MIG_F_WANT, body, sizeof(want) + n * sizeof(addresses[0]));
		want.is_again = 0;
	} while (n == WANTS);
}

static void on_fault(void *ctx, uint32_t events)
{
	(void)events;
	mig_step(ctx, MIG_EV_FAULT);
}

void mig_fetch_drop(struct mig_session *s)
{
	gw_watch_remove(s->post.watch);
	s->post.watch = NULL;
	ct_fetch_end(s->post.fetch);
	s->post.fetch = NULL;
}

/* It runs, the daemon has it, and pages are missing. */
void mig_dst_fetch(struct mig_session *s)
{
	int code;

	s->post.begun_ns = gw_now_ns();
	mig_cost_fetch(s);
	code = gw_loop_watch(s->m->loop, &s->post.watch, ct_fetch_fd(s->post.fetch), EPOLLIN, on_fault, s);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "its missing pages cannot be watched: %s", strerror(-code));
		return;
	}
	mig_dst_say_taken(s);
	if (s->state == MIG_FETCH && !mig_edge(s, "mig.dst.fetching"))
		send_want(s);
}

void mig_dst_wanted(struct mig_session *s)
{
	struct gw_error why = { 0 };
	int code = ct_fetch_turn(s->post.fetch, &why);

	if (code < 0)
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
	else if (!ct_fetch_left(s->post.fetch))
		mig_step(s, MIG_EV_FETCHED);
	else if (!mig_edge(s, "mig.dst.fault"))
		send_want(s);
}

void mig_dst_fill(struct mig_session *s)
{
	struct mig_wire_pages head;
	struct gw_error why = { 0 };
	int code;

	if (mig_edge(s, "mig.dst.pages"))
		return;
	if (s->frame_len < sizeof(head)) {
		mig_post(s, MIG_EV_FAILED, -EPROTO, "pages without a cursor");
		return;
	}
	memcpy(&head, s->frame, sizeof(head));
	code = ct_fetch_fill(s->post.fetch, (const char *)s->frame + sizeof(head), s->frame_len - sizeof(head), &why);
	if (code < 0) {
		mig_post(s, MIG_EV_FAILED, code, "%s", why.text);
		return;
	}
	s->t.bytes += s->frame_len;
	mig_session_rearm(s);
	if (head.cursor != MIG_NO_CURSOR)
		s->post.cursor = head.cursor;
	if (!ct_fetch_left(s->post.fetch))
		mig_step(s, MIG_EV_FETCHED);
	else
		mig_dst_wanted(s); /* what was touched meanwhile, with the word that this has come */
}

/* The link is lost, or new, or nothing has come for a while. */
void mig_dst_refetch(struct mig_session *s)
{
	bool is_new = !s->peer;

	mig_dst_repeat(s);
	if (is_new || s->post.is_link_new)
		s->post.is_link_new = true;
	send_want(s);
}

/* The source has connected anew, to say GIVEN once more: TAKEN had got lost. */
void mig_dst_refetch_given(struct mig_session *s)
{
	s->post.is_link_new = true;
	mig_dst_refetch(s);
}

void mig_dst_fetch_drop_link(struct mig_session *s)
{
	s->post.is_link_new = true;
	mig_dst_drop_link(s);
	if (s->retries++ == 0)
		mig_dst_refetch(s);
}

/* Nothing is missing any more; or nobody is left who would miss it. */
void mig_dst_fetched(struct mig_session *s)
{
	struct ct_fetch_stats st;

	ct_fetch_measure(s->post.fetch, &st);
	s->post.fetched = (struct mig_wire_fetched){ .fetch_ns = gw_now_ns() - s->post.begun_ns, .faults = st.faults,
		.fault_median_us = st.fault_median_us, .fault_max_us = st.fault_max_us, .forks = st.forks,
		.zero_pages = st.zero_pages, .user_ns = mig_cost_fetched(s) };
	s->post.is_fetched = true;
	mig_fetch_drop(s);
	mig_dst_say_fetched(s);
	if (ops(s)->whole)
		ops(s)->whole(s->m->c.ctx, s->id.proc);
}

void mig_dst_say_fetched(struct mig_session *s)
{
	if (!mig_word_is_lost(s, "mig.dst.fetched"))
		mig_send(s, MIG_F_FETCHED, &s->post.fetched, sizeof(s->post.fetched));
}

/* What is missing will never come. It must be dead before the watch over its memory ends: it would go on with zeroes. */
void mig_dst_starve(struct mig_session *s)
{
	if (!s->why.code)
		gw_fail(&s->why, -ENODATA, "its daemon does not have it any more");
	gw_fail_more(&s->why, "rank %u lacks memory that cluster %u had, and has lost: ", s->id.proc, s->id.from);
	gw_log(GW_ERROR, "mig %u %s", s->id.session, s->why.text);
	s->m->n.lost++;
	ops(s)->starved(s->m->c.ctx, s->owner, s->id.from, &s->why);
	mig_fetch_drop(s);
}

/* Pages come, and cannot be put in: the rank ends, and the source, which is well, is to hear that nothing is needed any more. */
void mig_dst_give_up(struct mig_session *s)
{
	mig_dst_starve(s);
	s->post.is_fetched = true;
	mig_dst_say_fetched(s);
}

/* ---- what became of it ---------------------------------------------------------------------------------------------- */

void mig_post_json(const struct mig_session *s, json_t *m)
{
	const struct mig_wire_fetched *f = &s->post.fetched;

	if (!s->is_leaving)
		return;
	json_object_set_new(m, "fetch", json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		"left_bytes", (json_int_t)s->post.left, "sent_bytes", (json_int_t)s->post.sent, "asked_pages", (json_int_t)s->post.asked,
		"fetch_ns", (json_int_t)f->fetch_ns, "faults", (json_int_t)f->faults, "fault_median_us", (json_int_t)f->fault_median_us,
		"fault_max_us", (json_int_t)f->fault_max_us, "forks", (json_int_t)f->forks));
}
