/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * In the place of the event loop and of links: each daemon has a loop whose turns the scheduler takes, connections deliver
 * frames when it says so, break, lose what they had not delivered, and tell their two ends of it at different times.
 *
 *   gw_link_send ──► out (no room in the socket) ──► in of the other end ──turn──► frame()
 *
 * A descriptor is FD_FIRST + 2 * connection + side.
 */
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "runtime/base/link.h"
#include "tests/sim/moves.h"

#define FD_FIRST 1000000
#define ROOM     6u         /* frames that a socket holds */
#define CONNS    4096
#define LOW      2u         /* frames: drained() below it */

struct gw_loop {
	struct sim_daemon *d;
	struct gw_list timers, watches, defers, links, accepts, attempts;
};
struct gw_timer { struct gw_list node; uint64_t due; void (*cb)(void *); void *ctx; };
struct gw_watch { struct gw_list node; int fd; bool is_ready; void (*cb)(void *, uint32_t); void *ctx; };
struct defer { struct gw_list node; void (*cb)(void *); void *ctx; };
struct frame { struct gw_list node; uint16_t type; size_t len; char *payload; };

struct end { struct gw_list in; unsigned in_n; struct gw_link *link; bool is_open, is_cut; uint64_t hears_ns; uint32_t host; };
static struct conn { struct end end[2]; } conns[CONNS];
static unsigned conns_n;

struct gw_link {
	struct gw_list node;
	struct gw_loop *loop;
	const struct gw_link_ops *ops;
	void *ctx;
	int fd, depth;
	bool is_destroyed, is_closed, cannot_send, wants_drained;
	struct gw_list out;
	size_t queued;
	unsigned out_n;
};
struct waiting { struct gw_list node; int fd; };
struct attempt { struct gw_list node; void (*done)(void *, int, const char *); void *peer; uint32_t cluster; uint64_t due; };

static uint64_t parted_until[SIM_CLUSTERS][SIM_CLUSTERS]; /* of hosts */
static unsigned links_n;

/* ---- connections ------------------------------------------------------------------------------------------------- */

static struct end *end_of(int fd) { return &conns[(fd - FD_FIRST) / 2].end[(fd - FD_FIRST) % 2]; }
static struct end *other(struct end *e)
{
	struct conn *c = &conns[(size_t)((char *)e - (char *)conns) / sizeof(struct conn)];

	return e == &c->end[0] ? &c->end[1] : &c->end[0];
}

static bool is_parted(uint32_t a, uint32_t b) { return a != b && parted_until[a][b] > sim_now_ns; }

static void frame_free(struct frame *f)
{
	gw_list_remove(&f->node);
	free(f->payload);
	free(f);
}

static void lose_tail(struct end *e, unsigned keep)
{
	while (e->in_n > keep) {
		frame_free(gw_list_entry(e->in.prev, struct frame, node));
		e->in_n--;
		sim_moved.losses++;
	}
}

/* @e will read no more than it has, and then see the end; it may take a while until it hears of that. */
static void hang_up(struct end *e, bool may_lose, uint64_t later_ns)
{
	if (e->is_cut || !e->is_open)
		return;
	if (may_lose && sim_one_in(2))
		lose_tail(e, (unsigned)sim_rnd(e->in_n + 1));
	e->is_cut = true;
	e->hears_ns = sim_now_ns + later_ns;
}

static void end_close(struct end *e)
{
	struct end *o = other(e);

	/* unread bytes make the close a reset, which may overtake what was sent; between hosts the news takes its time */
	hang_up(o, e->in_n && e->host != o->host, e->host == o->host ? 0 : sim_rnd(3) * sim_rnd(300000000));
	e->is_open = false;
	e->link = NULL;
	lose_tail(e, 0);
}

static int conn_new(uint32_t from_host, uint32_t to_host)
{
	struct conn *c = &conns[conns_n];

	if (conns_n == CONNS)
		sim_fail("too many connections: they are made over and over");
	memset(c, 0, sizeof(*c));
	for (int i = 0; i < 2; i++) {
		gw_list_init(&c->end[i].in);
		c->end[i].is_open = true;
	}
	c->end[0].host = from_host;
	c->end[1].host = to_host;
	return FD_FIRST + 2 * (int)conns_n++;
}

static bool cut(struct conn *c)
{
	if (!c->end[0].is_open || !c->end[1].is_open || c->end[0].is_cut || c->end[1].is_cut)
		return false;
	sim_event("connection %d breaks", (int)(c - conns), 0, 0, 0);
	for (int i = 0; i < 2; i++)
		hang_up(&c->end[i], true, sim_one_in(2) ? 0 : sim_rnd(20000000000ull));
	sim_moved.cuts++;
	return true;
}

void sim_cut(void)
{
	for (unsigned tries = 0; conns_n && tries < 8; tries++)
		if (cut(&conns[sim_rnd(conns_n)]))
			return;
}

void sim_cut_all(struct sim_daemon *d)
{
	gw_list_for(e, &d->loop->links) {
		const struct gw_link *l = gw_list_entry(e, struct gw_link, node);

		if (l->fd >= 0)
			cut(&conns[(l->fd - FD_FIRST) / 2]);
	}
}

void sim_part(uint32_t a, uint32_t b, uint64_t until_ns)
{
	sim_event("hosts %d and %d hear nothing of each other", (int)a, (int)b, 0, 0);
	parted_until[a][b] = parted_until[b][a] = until_ns;
	sim_moved.parts++;
	for (unsigned i = 0; i < conns_n; i++) /* those that it lasts too long for break; others go on afterwards */
		if ((conns[i].end[0].host == a && conns[i].end[1].host == b) ||
		    (conns[i].end[0].host == b && conns[i].end[1].host == a))
			for (int k = 0; k < 2; k++)
				if (sim_one_in(2))
					hang_up(&conns[i].end[k], true, sim_rnd(10000000000ull));
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

struct gw_loop *sim_loop_create(struct sim_daemon *d)
{
	struct gw_loop *l = calloc(1, sizeof(*l));

	l->d = d;
	gw_list_init(&l->timers);
	gw_list_init(&l->watches);
	gw_list_init(&l->defers);
	gw_list_init(&l->links);
	gw_list_init(&l->accepts);
	gw_list_init(&l->attempts);
	return l;
}

int gw_loop_watch(struct gw_loop *l, struct gw_watch **out, int fd, uint32_t events, void (*cb)(void *, uint32_t), void *ctx)
{
	struct gw_watch *w = calloc(1, sizeof(*w));

	(void)events;
	*w = (struct gw_watch){ .fd = fd, .cb = cb, .ctx = ctx };
	gw_list_append(&l->watches, &w->node);
	*out = w;
	return 0;
}

void gw_watch_remove(struct gw_watch *w)
{
	if (!w)
		return;
	gw_list_remove(&w->node);
	free(w);
}

void sim_fd_ready(struct gw_loop *l, int fd)
{
	gw_list_for(e, &l->watches)
		if (gw_list_entry(e, struct gw_watch, node)->fd == fd)
			gw_list_entry(e, struct gw_watch, node)->is_ready = true;
}

int gw_loop_timer(struct gw_loop *l, struct gw_timer **out, uint64_t delay_ms, uint64_t period_ms, void (*cb)(void *), void *ctx)
{
	struct gw_timer *t = calloc(1, sizeof(*t));

	(void)period_ms;
	*t = (struct gw_timer){ .due = sim_now_ns + delay_ms * 1000000u, .cb = cb, .ctx = ctx };
	gw_list_append(&l->timers, &t->node);
	*out = t;
	return 0;
}

void gw_timer_cancel(struct gw_timer *t)
{
	if (!t)
		return;
	gw_list_remove(&t->node);
	free(t);
}

void gw_loop_expect(struct gw_loop *l, uint64_t ns)
{
	(void)l, (void)ns;
}

int gw_loop_defer(struct gw_loop *l, void (*cb)(void *), void *ctx)
{
	struct defer *d = calloc(1, sizeof(*d));

	d->cb = cb;
	d->ctx = ctx;
	gw_list_append(&l->defers, &d->node);
	return 0;
}

static void sooner(uint64_t *next, uint64_t due)
{
	if (due > sim_now_ns && due < *next)
		*next = due;
}

uint64_t sim_loop_next(const struct gw_loop *l)
{
	uint64_t next = UINT64_MAX;

	gw_list_for(e, &l->timers)
		sooner(&next, gw_list_entry(e, struct gw_timer, node)->due);
	gw_list_for(e, &l->attempts)
		sooner(&next, gw_list_entry(e, struct attempt, node)->due);
	gw_list_for(e, &l->links) {
		const struct gw_link *k = gw_list_entry(e, struct gw_link, node);
		struct end *n = k->fd >= 0 ? end_of(k->fd) : NULL;

		if (n && n->is_cut)
			sooner(&next, n->hears_ns);
		if (n)
			sooner(&next, parted_until[n->host][other(n)->host]);
	}
	return next;
}

/* ---- links ------------------------------------------------------------------------------------------------------- */

static void link_free(struct gw_link *l)
{
	while (!gw_list_is_empty(&l->out))
		frame_free(gw_list_entry(l->out.next, struct frame, node));
	gw_list_remove(&l->node);
	links_n--;
	free(l);
}

static void leave(struct gw_link *l)
{
	if (--l->depth == 0 && l->is_destroyed)
		link_free(l);
}

/* What the socket takes now. */
static void push(struct gw_link *l)
{
	struct end *e, *o;

	if (l->fd < 0 || l->cannot_send)
		return;
	e = end_of(l->fd);
	o = other(e);
	while (!gw_list_is_empty(&l->out)) {
		struct frame *f = gw_list_entry(l->out.next, struct frame, node);

		if (e->is_cut && e->hears_ns <= sim_now_ns) {
			l->cannot_send = true;
			return;
		}
		if (!o->is_open || o->is_cut) { /* into a connection that is broken, which nobody knows */
			l->out_n--;
			l->queued -= f->len;
			frame_free(f);
			continue;
		}
		if (o->in_n >= ROOM)
			return;
		l->out_n--;
		l->queued -= f->len;
		gw_list_remove(&f->node);
		gw_list_append(&o->in, &f->node);
		o->in_n++;
	}
}

int gw_link_send(struct gw_link *l, uint16_t type, const void *payload, size_t len, const int *fds, size_t n_fds)
{
	struct frame *f;

	(void)fds;
	if (n_fds)
		sim_fail("a session sends descriptors");
	if (l->is_closed || l->is_destroyed || l->cannot_send)
		return -EPIPE;
	f = calloc(1, sizeof(*f));
	f->type = type;
	f->len = len;
	f->payload = malloc(len + 1);
	memcpy(f->payload, payload, len);
	gw_list_append(&l->out, &f->node);
	l->out_n++;
	l->queued += len;
	if (!sim_one_in(8)) /* the socket is full now and then */
		push(l);
	if (l->cannot_send)
		return -EPIPE;
	l->wants_drained |= l->out_n > 0;
	return 0;
}

size_t gw_link_queued(const struct gw_link *l) { return l->queued; }
int gw_link_fd(const struct gw_link *l) { return l->fd; }

int gw_link_create_held(struct gw_link **out, struct gw_loop *loop, const struct gw_link_ops *ops, void *ctx)
{
	struct gw_link *l = calloc(1, sizeof(*l));

	*l = (struct gw_link){ .loop = loop, .ops = ops, .ctx = ctx, .fd = -1 };
	gw_list_init(&l->out);
	gw_list_append(&loop->links, &l->node);
	links_n++;
	*out = l;
	return 0;
}

int gw_link_open(struct gw_link *l, int fd)
{
	l->fd = fd;
	end_of(fd)->link = l;
	push(l);
	return 0;
}

void gw_link_destroy(struct gw_link *l)
{
	if (!l || l->is_destroyed)
		return;
	l->is_destroyed = true;
	if (l->fd >= 0)
		end_close(end_of(l->fd));
	l->fd = -1;
	if (l->depth == 0)
		link_free(l);
}

/* One frame, room, or the end of a link; false: nothing of it is due. */
static bool link_turn(struct gw_link *l)
{
	struct end *e;
	struct frame *f;

	if (l->fd < 0 || l->is_closed)
		return false;
	e = end_of(l->fd);
	if (l->out_n && sim_one_in(2)) {
		unsigned before = l->out_n;

		push(l);
		if (l->wants_drained && l->out_n < LOW) {
			l->wants_drained = false;
			l->depth++;
			l->ops->drained(l, l->ctx);
			leave(l);
			return true;
		}
		if (l->out_n != before)
			return true;
	}
	if (is_parted(e->host, other(e)->host))
		return false;
	if (e->in_n) {
		f = gw_list_entry(e->in.next, struct frame, node);
		gw_list_remove(&f->node);
		e->in_n--;
		sim_moved.frames++;
		l->depth++;
		l->ops->frame(l, l->ctx, f->type, f->payload, f->len, NULL, 0);
		leave(l);
		free(f->payload);
		free(f);
		return true;
	}
	if (e->is_cut && e->hears_ns <= sim_now_ns) {
		l->is_closed = true;
		l->depth++;
		l->ops->closed(l, l->ctx, sim_one_in(2) ? 0 : -ECONNRESET);
		leave(l);
		return true;
	}
	return false;
}

/* ---- connecting -------------------------------------------------------------------------------------------------- */

/* Daemons know of each other by the head: not of those that came after it had given them up, nor the other way round. */
static bool knows(const struct sim_daemon *a, const struct sim_daemon *b)
{
	return !(a->is_condemned && b->born_step > a->condemned_step) && !(b->is_condemned && a->born_step > b->condemned_step);
}

static int connect_now(struct gw_loop *l, uint32_t cluster)
{
	struct sim_daemon *to = cluster < SIM_CLUSTERS ? sim_at[cluster] : NULL;
	struct waiting *w;
	int fd;

	if (!to || !knows(l->d, to))
		return -ECONNREFUSED;
	fd = conn_new(l->d->host, to->host);
	w = calloc(1, sizeof(*w));
	w->fd = fd + 1;
	gw_list_append(&to->loop->accepts, &w->node);
	return fd;
}

int sim_far(void *ctx, uint32_t cluster, void **handle, void (*done)(void *peer, int fd, const char *why), void *peer,
            struct gw_error *why)
{
	struct sim_daemon *d = ctx;
	struct attempt *a;

	(void)why;
	if (sim_at[cluster] && sim_at[cluster]->host == d->host)
		return 1;
	a = calloc(1, sizeof(*a));
	*a = (struct attempt){ .done = done, .peer = peer, .cluster = cluster,
	                       .due = sim_now_ns + (sim_one_in(10) ? 3000000000u : sim_rnd(5000000)) };
	gw_list_append(&d->loop->attempts, &a->node);
	*handle = a;
	return 0;
}

void sim_far_cancel(void *ctx, void *handle)
{
	struct attempt *a = handle;

	(void)ctx;
	gw_list_remove(&a->node);
	free(a);
}

int gw_connect_unix(const char *name, struct gw_error *why)
{
	unsigned cluster, from;
	int fd;

	if (sscanf(name, "%u of %u", &cluster, &from) != 2)
		sim_fail("no such socket");
	fd = sim_at[from] ? connect_now(sim_at[from]->loop, cluster) : -ECONNREFUSED;
	return fd < 0 ? gw_fail(why, fd, "nobody listens") : fd;
}

static bool attempt_turn(struct gw_loop *l, struct attempt *a)
{
	struct sim_daemon *to = sim_at[a->cluster];
	struct attempt now = *a;
	int fd = -EHOSTUNREACH;

	if (a->due > sim_now_ns)
		return false;
	gw_list_remove(&a->node);
	free(a);
	if (to && !is_parted(l->d->host, to->host) && (sim_is_quiet || !sim_one_in(20)))
		fd = connect_now(l, now.cluster);
	now.done(now.peer, fd, "nobody answers");
	return true;
}

/* ---- a turn ------------------------------------------------------------------------------------------------------ */

static bool defers_turn(struct gw_loop *l)
{
	bool any = !gw_list_is_empty(&l->defers);

	while (!gw_list_is_empty(&l->defers)) {
		struct defer *d = gw_list_entry(l->defers.next, struct defer, node), now = *d;

		gw_list_remove(&d->node);
		free(d);
		now.cb(now.ctx);
	}
	return any;
}

static bool timers_turn(struct gw_loop *l)
{
	gw_list_for(e, &l->timers) {
		struct gw_timer *t = gw_list_entry(e, struct gw_timer, node), now = *t;

		if (t->due > sim_now_ns)
			continue;
		gw_list_remove(&t->node);
		free(t);
		now.cb(now.ctx);
		return true;
	}
	gw_list_for(e, &l->attempts)
		if (attempt_turn(l, gw_list_entry(e, struct attempt, node)))
			return true;
	return false;
}

static bool watches_turn(struct gw_loop *l)
{
	gw_list_for(e, &l->watches) {
		struct gw_watch *w = gw_list_entry(e, struct gw_watch, node);

		if (!w->is_ready)
			continue;
		w->is_ready = false;
		w->cb(w->ctx, EPOLLIN);
		return true;
	}
	if (!gw_list_is_empty(&l->accepts)) {
		struct waiting *w = gw_list_entry(l->accepts.next, struct waiting, node);
		int fd = w->fd;

		gw_list_remove(&w->node);
		free(w);
		mig_accept(l->d->mig, fd);
		return true;
	}
	return false;
}

static bool links_turn(struct gw_loop *l)
{
	unsigned n = 0, from;

	gw_list_for(e, &l->links)
		n++;
	from = n ? (unsigned)sim_rnd(n) : 0;
	for (unsigned k = 0; k < n; k++) {
		struct gw_list *e = l->links.next;

		for (unsigned i = (from + k) % n; i; i--)
			e = e->next;
		if (link_turn(gw_list_entry(e, struct gw_link, node)))
			return true;
	}
	return false;
}

bool sim_loop_turn(struct gw_loop *l)
{
	static bool (*const turns[])(struct gw_loop *) = { defers_turn, timers_turn, watches_turn, links_turn };
	size_t from = (size_t)sim_rnd(4);

	for (size_t i = 0; i < 4; i++)
		if (turns[(from + i) % 4](l))
			return true;
	return false;
}

void sim_loop_end(struct gw_loop *l)
{
	while (!gw_list_is_empty(&l->links)) {
		struct gw_link *k = gw_list_entry(l->links.next, struct gw_link, node);

		k->depth = 0;
		k->is_destroyed = false;
		gw_link_destroy(k);
	}
	while (!gw_list_is_empty(&l->accepts)) {
		struct waiting *w = gw_list_entry(l->accepts.next, struct waiting, node);

		end_close(end_of(w->fd));
		gw_list_remove(&w->node);
		free(w);
	}
	while (!gw_list_is_empty(&l->attempts))
		sim_far_cancel(NULL, gw_list_entry(l->attempts.next, struct attempt, node));
	while (!gw_list_is_empty(&l->timers))
		gw_timer_cancel(gw_list_entry(l->timers.next, struct gw_timer, node));
	while (!gw_list_is_empty(&l->watches))
		gw_watch_remove(gw_list_entry(l->watches.next, struct gw_watch, node));
	while (!gw_list_is_empty(&l->defers)) {
		struct defer *d = gw_list_entry(l->defers.next, struct defer, node);

		gw_list_remove(&d->node);
		free(d);
	}
	free(l);
}

void sim_sockets_end(void)
{
	for (unsigned i = 0; i < conns_n; i++)
		for (int k = 0; k < 2; k++) {
			if (conns[i].end[k].is_open)
				sim_fail("a connection is left open");
			lose_tail(&conns[i].end[k], 0);
		}
	if (links_n)
		sim_fail("a link is left");
	conns_n = 0;
	memset(parted_until, 0, sizeof(parted_until));
}

/* ---- what migration/ asks of the system: linked with --wrap ------------------------------------------------------- */

int __wrap_poll(struct pollfd *p, nfds_t n, int timeout_ms);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_setpriority(__priority_which_t which, id_t who, int value);
int __wrap_signalfd(int fd, const sigset_t *set, int flags);
ssize_t __wrap_read(int fd, void *buf, size_t size);
int __wrap_close(int fd);

/* The look for a hang-up before the commit point. */
int __wrap_poll(struct pollfd *p, nfds_t n, int timeout_ms)
{
	(void)n, (void)timeout_ms;
	return p->fd >= FD_FIRST && end_of(p->fd)->is_cut && end_of(p->fd)->hears_ns <= sim_now_ns;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	(void)fd, (void)level, (void)name, (void)value, (void)len;
	return 0;
}

int __wrap_setpriority(__priority_which_t which, id_t who, int value)
{
	(void)which, (void)who, (void)value;
	return 0;
}

int __wrap_signalfd(int fd, const sigset_t *set, int flags)
{
	(void)fd, (void)set, (void)flags;
	return SIM_CHILD_FD;
}

ssize_t __wrap_read(int fd, void *buf, size_t size)
{
	(void)fd, (void)buf, (void)size;
	return -1;
}

int __wrap_close(int fd)
{
	(void)fd;
	return 0;
}
