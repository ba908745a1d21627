/* SPDX-License-Identifier: BSD-2-Clause */
/* Connections between daemons and the frames on them: which session a frame belongs to and which event it is. */
#include "migration/session.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEND_BUFFER (4 << 20) /* a small rank's whole image should fit: then nothing waits for a turn of the loop */

static void peer_free(struct mig_peer *p)
{
	gw_list_remove(&p->node);
	if (p->s)
		p->s->peer = NULL;
	if (p->connecting)
		p->m->c.far_cancel(p->m->c.ctx, p->connecting);
	gw_link_destroy(p->link);
	free(p);
}

void mig_disconnect(struct mig_session *s)
{
	if (s->peer)
		peer_free(s->peer);
}

void mig_strangers_drop(struct mig *m)
{
	gw_list_for_safe(e, &m->strangers)
		peer_free(gw_list_entry(e, struct mig_peer, node));
}

bool mig_link_is_up(const struct mig_session *s)
{
	struct pollfd p = { s->peer ? gw_link_fd(s->peer->link) : -1, POLLRDHUP, 0 };

	return s->peer && poll(&p, 1, 0) == 0;
}

size_t mig_queued(const struct mig_session *s)
{
	return s->peer ? gw_link_queued(s->peer->link) : 0;
}

int mig_send_raw(struct mig_session *s, uint16_t type, const void *payload, size_t len)
{
	return s->peer ? gw_link_send(s->peer->link, type, payload, len, NULL, 0) : -EPIPE;
}

int mig_send(struct mig_session *s, uint16_t type, const void *body, size_t len)
{
	char small[sizeof(s->id) + sizeof(s->why.text)];
	gw_autofree char *large = NULL;
	char *p = small;

	if (sizeof(s->id) + len > sizeof(small))
		p = large = malloc(sizeof(s->id) + len);
	if (!p)
		return -ENOMEM;
	memcpy(p, &s->id, sizeof(s->id));
	if (len)
		memcpy(p + sizeof(s->id), body, len);
	return mig_send_raw(s, type, p, sizeof(s->id) + len);
}

int mig_send_text(struct mig_session *s, uint16_t type)
{
	int code;

	s->id.status = s->why.code;
	code = mig_send(s, type, s->why.text, strlen(s->why.text));
	s->id.status = 0;
	return code;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

static void refuse_frame(struct mig_peer *p, uint16_t type, const char *text)
{
	struct mig_session *s = p->s;

	p->m->n.bad_frames++;
	gw_log(GW_ERROR, "mig: frame %s (%u) is refused: %s", mig_frame_name(type), type, text);
	peer_free(p);
	if (s)
		mig_post(s, MIG_EV_PEER_LOST, -EPROTO, "the other daemon broke the protocol: %s", text);
}

static void bind_peer(struct mig_peer *p, struct mig_session *s)
{
	mig_disconnect(s);
	gw_list_remove(&p->node);
	p->s = s;
	s->peer = p;
}

/* The body behind a head, checked for its exact size. */
static bool get_body(const void *payload, size_t len, void *body, size_t size)
{
	if (len != sizeof(struct mig_head) + size)
		return false;
	memcpy(body, (const char *)payload + sizeof(struct mig_head), size);
	return true;
}

static void take_text(struct mig_session *s, const struct mig_head *h, const void *payload, size_t len)
{
	size_t n = len - sizeof(*h), max = sizeof(s->why.text) - 1;

	if (s->why.code)
		return;
	if (n > max)
		n = max;
	memcpy(s->why.text, (const char *)payload + sizeof(*h), n);
	s->why.text[n] = 0;
	s->why.code = h->status < 0 ? h->status : -ECONNABORTED;
}

/* A session nobody here knows (any more): the rules of the model say what that means. */
static void answer_unknown(struct mig_peer *p, uint16_t type, const struct mig_head *h)
{
	struct mig_session s = { .m = p->m, .id = *h, .peer = p };

	switch (type) {
	case MIG_F_GIVEN: /* dropped here, or this is a later incarnation: the head tells the source which */
		s.id.to_incarnation = p->m->c.incarnation;
		gw_fail(&s.why, -ECONNABORTED, "cluster %u has dropped the arriving rank", p->m->c.cluster);
		mig_send_text(&s, MIG_F_NEVER);
		break;
	case MIG_F_ASK: /* what was given is never forgotten before TAKEN: so it was not given */
		gw_fail(&s.why, -ECONNABORTED, "cluster %u did not give the rank away", p->m->c.cluster);
		mig_send_text(&s, MIG_F_ABORT);
		break;
	case MIG_F_TAKEN:
	case MIG_F_FETCHED:
		mig_send(&s, MIG_F_DONE, NULL, 0);
		break;
	case MIG_F_WANT:
		if (h->from_incarnation != p->m->c.incarnation)
			break; /* the verdict on the daemon that had them tells */
		gw_fail(&s.why, -ENODATA, "cluster %u does not have its pages any more", p->m->c.cluster);
		mig_send_text(&s, MIG_F_ABORT);
		break;
	default:
		gw_log(GW_INFO, "mig %u rank %u: %s for a session that has ended", h->session, h->proc, mig_frame_name(type));
		break;
	}
	peer_free(p);
}

/* PREPARE: a new session. What it makes void goes first. */
static void offer(struct mig_peer *p, const struct mig_head *h, const void *payload, size_t len)
{
	struct mig *m = p->m;
	struct mig_session *s;
	bool again = true;

	while (again) {
		again = false;
		gw_list_for(e, &m->sessions) {
			struct mig_session *o = gw_list_entry(e, struct mig_session, node);

			if (o->id.proc != h->proc || o->is_stepping)
				continue;
			if ((o->state == MIG_GIVEN || o->state == MIG_SERVE) && h->epoch > o->id.epoch) {
				/* it comes back before TAKEN, or FETCHED, was heard: that is as good */
				o->t.there_taken = (struct mig_wire_taken){ 0 };
				mig_step(o, o->is_leaving ? MIG_EV_FETCHED : MIG_EV_TAKEN);
				again = true;
				break;
			}
			if ((o->state == MIG_LOOK || o->state == MIG_FILL || o->state == MIG_READY) &&
			    (o->id.epoch < h->epoch ||
			     (o->id.from_incarnation == h->from_incarnation && o->id.session < h->session))) {
				mig_post(o, MIG_EV_CANCEL, -ECANCELED, "session %u has taken its place", h->session);
				again = true;
				break;
			}
		}
	}
	if (mig_session_find(m, h->from_incarnation, h->session)) {
		refuse_frame(p, MIG_F_PREPARE, "the session exists already");
		return;
	}
	if (mig_session_new(m, &s) < 0) {
		refuse_frame(p, MIG_F_PREPARE, "out of memory");
		return;
	}
	s->id = *h;
	s->id.to_incarnation = m->c.incarnation;
	s->t.start = gw_now_ns();
	bind_peer(p, s);
	s->frame = payload;
	s->frame_len = len;
	mig_step(s, MIG_EV_OFFER); /* s may be gone */
}

/* A frame of a destination, at the source. */
static void source_frame(struct mig_session *s, const struct mig_head *h, uint16_t type, const void *payload, size_t len)
{
	struct mig_peer *p = s->peer;
	bool is_same = s->id.to_incarnation == 0 || s->id.to_incarnation == h->to_incarnation;

	if (!is_same) {
		/* a new daemon in the place of the old one: its NEVER says nothing about what the old one did */
		p->m->n.bad_frames++;
		gw_log(GW_WARN, "mig %u rank %u: %s from another incarnation of cluster %u is ignored", s->id.session,
		       s->id.proc, mig_frame_name(type), s->id.to);
		return;
	}
	switch (type) {
	case MIG_F_PREPARED:
		if (len < sizeof(*h) + sizeof(s->t.there_prepared) || !h->to_incarnation)
			break;
		memcpy(&s->t.there_prepared, (const char *)payload + sizeof(*h), sizeof(s->t.there_prepared));
		s->frame = (const char *)payload + sizeof(*h) + sizeof(s->t.there_prepared);
		s->frame_len = len - sizeof(*h) - sizeof(s->t.there_prepared);
		s->id.to_incarnation = h->to_incarnation;
		mig_step(s, MIG_EV_PREPARED);
		return;
	case MIG_F_ROUND:
		mig_step(s, MIG_EV_ROUND);
		return;
	case MIG_F_READY:
		if (!get_body(payload, len, &s->t.there_ready, sizeof(s->t.there_ready)))
			break;
		mig_src_ready_came(s);
		return;
	case MIG_F_TAKEN:
		if (!get_body(payload, len, &s->t.there_taken, sizeof(s->t.there_taken)))
			break;
		mig_step(s, s->post.left && s->state <= MIG_SERVE ? MIG_EV_LIVES : MIG_EV_TAKEN);
		return;
	case MIG_F_WANT: {
		struct mig_wire_want want;

		if (len < sizeof(*h) + sizeof(want))
			break;
		memcpy(&want, (const char *)payload + sizeof(*h), sizeof(want));
		if (len != sizeof(*h) + sizeof(want) + (uint64_t)want.n * sizeof(uint64_t))
			break;
		s->frame = (const char *)payload + sizeof(*h);
		s->frame_len = len - sizeof(*h);
		mig_step(s, MIG_EV_WANT);
		return;
	}
	case MIG_F_FETCHED:
		if (!get_body(payload, len, &s->post.fetched, sizeof(s->post.fetched)))
			break;
		mig_step(s, MIG_EV_FETCHED);
		return;
	case MIG_F_REFUSED:
	case MIG_F_NEVER:
		take_text(s, h, payload, len);
		mig_step(s, MIG_EV_NEVER);
		return;
	case MIG_F_ASK:
		mig_step(s, MIG_EV_ASK);
		return;
	case MIG_F_ATTACHED:
		if (!get_body(payload, len, &s->attached, sizeof(s->attached)))
			break;
		s->is_attached = true;
		mig_step(s, MIG_EV_ATTACHED);
		return;
	default:
		break;
	}
	refuse_frame(p, type, "its size or its place is wrong");
}

/* A frame of a source, at the destination. */
static void destination_frame(struct mig_session *s, const struct mig_head *h, uint16_t type, const void *payload,
                              size_t len)
{
	s->frame = payload;
	s->frame_len = len;
	switch (type) {
	case MIG_F_STATE:
		mig_step(s, MIG_EV_STATE);
		return;
	case MIG_F_END:
		mig_step(s, MIG_EV_END);
		return;
	case MIG_F_GIVEN:
		mig_step(s, MIG_EV_GIVEN);
		return;
	case MIG_F_DONE:
		mig_step(s, MIG_EV_DONE);
		return;
	case MIG_F_ABORT:
		take_text(s, h, payload, len);
		mig_step(s, MIG_EV_ABORT);
		return;
	default:
		refuse_frame(s->peer, type, "its place is wrong");
	}
}

/*
 * A daemon that was given up and does not know it yet, as when only the head does not reach it. What it and we were about
 * has been decided without it: an answer could undo that. (NEVER, for a session that the verdict made us forget, would let
 * it run its copy of a rank that runs here.) And nothing new is begun with it, which no verdict would end.
 */
static void ignore_dead(struct mig_peer *p, uint16_t type, const struct mig_head *h)
{
	struct mig_session *s = p->s;
	uint32_t cluster = type < MIG_F_PREPARED ? h->from : h->to;

	gw_log(GW_WARN, "mig %u rank %u: %s of cluster %u is ignored: its daemon was given up", h->session, h->proc,
	       mig_frame_name(type), cluster);
	peer_free(p);
	if (s)
		mig_post(s, MIG_EV_PEER_DEAD, -EHOSTDOWN, "the daemon of cluster %u is dead", cluster);
}

/* Packed memory that is not what was packed, or that there is no memory for. A rank that has not been given stays where it is; one that
 * runs here asks again. */
static void damaged(struct mig_peer *p, int code, const struct gw_error *why)
{
	struct mig_session *s = p->s;
	bool is_ours = code == -ENOMEM;

	p->m->n.bad_frames += !is_ours && s->state == MIG_FILL;
	if (s->state == MIG_FILL) {
		mig_post(s, MIG_EV_FAILED, code, is_ours ? "cluster %u: %s" : "what came to cluster %u is not what was sent: %s", s->id.to, why->text);
	} else if (is_ours) {
		peer_free(p);
		mig_post(s, MIG_EV_PEER_LOST, code, "cluster %u: %s", s->id.to, why->text);
	} else {
		refuse_frame(p, MIG_F_PACKED, why->text);
	}
}

static void on_frame(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds, size_t n_fds)
{
	struct mig_peer *p = ctx;
	struct mig_session *s = p->s;
	struct gw_error why = { 0 };
	struct mig_head h;
	bool is_from_source = type < MIG_F_PREPARED;

	(void)l, (void)fds, (void)n_fds;
	if (type == MIG_F_DATA || type == MIG_F_PAGES || type == MIG_F_PACKED) {
		if (!s || s->is_source) {
			refuse_frame(p, type, "no session expects it");
			return;
		}
		if (type == MIG_F_PACKED) {
			int n = mig_take_memory(s, payload, len, &type, &why);

			if (n < 0) {
				damaged(p, n, &why);
				return;
			}
			payload = p->m->packed;
			len = (size_t)n;
		}
		s->frame = payload;
		s->frame_len = len;
		mig_step(s, type == MIG_F_DATA ? MIG_EV_DATA : MIG_EV_PAGES);
		return;
	}
	if (mig_head_parse(payload, len, &h, &why) < 0) {
		refuse_frame(p, type, why.text);
		return;
	}
	if (h.job != p->m->c.job || (is_from_source ? h.to : h.from) != p->m->c.cluster) {
		refuse_frame(p, type, "it is for another daemon");
		return;
	}
	if (mig_is_dead(p->m, is_from_source ? h.from_incarnation : h.to_incarnation)) {
		ignore_dead(p, type, &h);
		return;
	}
	if (!s) {
		if (type == MIG_F_PREPARE) {
			offer(p, &h, payload, len);
			return;
		}
		s = mig_session_find(p->m, h.from_incarnation, h.session);
		if (!s || s->is_source == is_from_source) {
			answer_unknown(p, type, &h);
			return;
		}
		bind_peer(p, s);
		p->m->n.reconnects++;
	}
	if (h.session != s->id.session || h.from_incarnation != s->id.from_incarnation || h.proc != s->id.proc ||
	    s->is_source == is_from_source) {
		refuse_frame(p, type, "it names another session");
		return;
	}
	if (s->is_source)
		source_frame(s, &h, type, payload, len);
	else
		destination_frame(s, &h, type, payload, len);
}

static void on_drained(struct gw_link *l, void *ctx)
{
	struct mig_peer *p = ctx;

	(void)l;
	if (p->s && p->s->is_source && (p->s->state == MIG_SEND || p->s->state == MIG_PRECOPY || p->s->state == MIG_SERVE))
		mig_step(p->s, MIG_EV_MORE);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct mig_peer *p = ctx;
	struct mig_session *s = p->s;

	(void)l;
	peer_free(p);
	if (!s)
		return;
	/* after GIVEN this is no failure of the move: nothing to remember */
	if (s->state == MIG_GIVEN || s->state == MIG_SERVE || s->state == MIG_READY || s->state == MIG_FETCH || s->state == MIG_ARRIVED)
		mig_step(s, MIG_EV_PEER_LOST);
	else
		mig_post(s, MIG_EV_PEER_LOST, error ? error : -ECONNRESET, "the connection to cluster %u was lost",
		         s->is_source ? s->id.to : s->id.from);
}

static const struct gw_link_ops peer_ops = { .frame = on_frame, .drained = on_drained, .closed = on_closed };

static int peer_create_held(struct mig_peer **out, struct mig *m)
{
	struct mig_peer *p = calloc(1, sizeof(*p));
	int code = p ? gw_link_create_held(&p->link, m->loop, &peer_ops, p) : -ENOMEM;

	if (code < 0) {
		free(p);
		return code;
	}
	p->m = m;
	gw_list_append(&m->strangers, &p->node);
	*out = p;
	return 0;
}

static int peer_open(struct mig_peer *p, int fd)
{
	int size = SEND_BUFFER;

	/* as much as we are allowed: the forced one needs a privilege, the other is cut to the system's limit */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return gw_link_open(p->link, fd);
}

static int peer_create(struct mig_peer **out, struct mig *m, int fd)
{
	int code = peer_create_held(out, m);

	if (code < 0) {
		close(fd);
		return code;
	}
	code = peer_open(*out, fd);
	if (code < 0)
		peer_free(*out);
	return code;
}

/* What mig_connect() began has come to its end. */
static void on_far(void *peer, int fd, const char *text)
{
	struct mig_peer *p = peer;
	int code = fd < 0 ? fd : peer_open(p, fd);

	p->connecting = NULL;
	if (code == 0 && p->s && p->s->prepare)
		code = mig_src_ask(p->s);
	if (code == 0)
		return;
	if (p->s && p->s->is_source && p->s->state != MIG_GIVEN)
		gw_fail(&p->s->why, code, "rank %u: cluster %u cannot be reached: %s", p->s->id.proc, p->s->id.to,
		        fd < 0 ? text : strerror(-code));
	on_closed(p->link, p, code);
}

int mig_connect(struct mig_session *s, struct gw_error *why)
{
	uint32_t cluster = s->is_source ? s->id.to : s->id.from;
	struct mig *m = s->m;
	struct mig_peer *p;
	char name[128];
	int fd, code;

	code = m->c.far ? peer_create_held(&p, m) : 0;
	if (code < 0)
		return gw_fail(why, code, "rank %u: no connection to cluster %u: %s", s->id.proc, cluster, strerror(-code));
	if (m->c.far) {
		code = m->c.far(m->c.ctx, cluster, &p->connecting, on_far, p, why);
		if (code == 0) {
			bind_peer(p, s);
			return 0;
		}
		peer_free(p);
		if (code < 0)
			return gw_fail_more(why, "rank %u: cluster %u cannot be reached: ", s->id.proc, cluster);
	}
	code = m->c.address(m->c.ctx, cluster, name, sizeof(name));

	if (code < 0)
		return gw_fail(why, code, "rank %u: there is no cluster %u", s->id.proc, cluster);
	fd = gw_connect_unix(name, why);
	if (fd < 0) {
		gw_fail_more(why, "rank %u: cluster %u cannot be reached: ", s->id.proc, cluster);
		return fd;
	}
	code = peer_create(&p, m, fd);
	if (code < 0)
		return gw_fail(why, code, "rank %u: no connection to cluster %u: %s", s->id.proc, cluster, strerror(-code));
	bind_peer(p, s);
	return 0;
}

bool mig_is_far(const struct mig_session *s)
{
	return s->peer && s->peer->connecting;
}

int mig_accept(struct mig *m, int fd)
{
	struct mig_peer *p;

	return peer_create(&p, m, fd);
}
