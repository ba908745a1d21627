/* SPDX-License-Identifier: BSD-2-Clause */
/* The event loop: one epoll set, a list of timers sorted by time, and a list of deferred calls. */
#include "runtime/base/loop.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_TURN 32

struct gw_watch {
	struct gw_list node;      /* loop->watches, or loop->dead or kept once removed */
	struct gw_loop *loop;
	int fd;
	uint32_t events;          /* 0: not in the epoll set, which would report hang-ups for ever */
	bool is_dead;
	void (*cb)(void *ctx, uint32_t events);
	void *ctx;
};

struct gw_timer {
	struct gw_list node;      /* loop->timers, sorted by when_ns; or loop->dead_timers */
	struct gw_loop *loop;
	uint64_t when_ns, period_ns;
	bool is_dead;
	void (*cb)(void *ctx);
	void *ctx;
};

struct deferred {
	struct gw_list node;
	void (*cb)(void *ctx);
	void *ctx;
};

struct gw_loop {
	int epoll;
	bool is_stopped;
	int code;
	struct gw_list watches, dead, timers, dead_timers, deferred;
	struct gw_list kept; /* dead watches that epoll may still tell of */
	void (*on_wake)(void *ctx, uint64_t slept_ms);
	void *wake_ctx;
	uint64_t expected_ns;                   /* until then it is not slept */
	uint64_t wake_gap_ns, turn_ns, slept_ns; /* of the last turn: when, and how far the clocks were apart */
};

int gw_loop_create(struct gw_loop **out)
{
	struct gw_loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0) {
		int code = -errno;

		free(l);
		return code;
	}
	gw_list_init(&l->watches);
	gw_list_init(&l->dead);
	gw_list_init(&l->kept);
	gw_list_init(&l->timers);
	gw_list_init(&l->dead_timers);
	gw_list_init(&l->deferred);
	*out = l;
	return 0;
}

/* What was removed is freed only between turns: events already fetched may still point to it. */
static void bury(struct gw_loop *l)
{
	gw_list_for_safe(e, &l->dead)
		free(gw_list_entry(e, struct gw_watch, node));
	gw_list_init(&l->dead);
	gw_list_for_safe(e, &l->dead_timers)
		free(gw_list_entry(e, struct gw_timer, node));
	gw_list_init(&l->dead_timers);
}

void gw_loop_destroy(struct gw_loop *l)
{
	if (!l)
		return;
	gw_list_for_safe(e, &l->watches)
		free(gw_list_entry(e, struct gw_watch, node));
	gw_list_for_safe(e, &l->kept)
		free(gw_list_entry(e, struct gw_watch, node));
	gw_list_for_safe(e, &l->timers)
		free(gw_list_entry(e, struct gw_timer, node));
	gw_list_for_safe(e, &l->deferred)
		free(gw_list_entry(e, struct deferred, node));
	bury(l);
	close(l->epoll);
	free(l);
}

void gw_loop_stop(struct gw_loop *l, int code)
{
	if (l->is_stopped)
		return; /* the first reason is the one that counts */
	l->is_stopped = true;
	l->code = code;
}

static void run_deferred(struct gw_loop *l)
{
	struct gw_list batch;

	/* calls deferred from now on belong to the next turn, or one that defers itself would starve the rest */
	gw_list_init(&batch);
	while (!gw_list_is_empty(&l->deferred)) {
		struct gw_list *e = l->deferred.next;

		gw_list_remove(e);
		gw_list_append(&batch, e);
	}
	while (!gw_list_is_empty(&batch)) {
		struct deferred *d = gw_list_entry(batch.next, struct deferred, node);

		gw_list_remove(&d->node);
		d->cb(d->ctx);
		free(d);
	}
}

static void timer_insert(struct gw_loop *l, struct gw_timer *t)
{
	struct gw_list *pos = l->timers.prev; /* most new timers are the latest */

	while (pos != &l->timers && gw_list_entry(pos, struct gw_timer, node)->when_ns > t->when_ns)
		pos = pos->prev;
	t->node.prev = pos;
	t->node.next = pos->next;
	pos->next->prev = &t->node;
	pos->next = &t->node;
}

static void run_timers(struct gw_loop *l)
{
	uint64_t now = gw_now_ns();

	while (!gw_list_is_empty(&l->timers)) {
		struct gw_timer *t = gw_list_entry(l->timers.next, struct gw_timer, node);

		if (t->when_ns > now)
			break;
		gw_list_remove(&t->node);
		if (t->period_ns) {
			t->when_ns = now + t->period_ns;
			timer_insert(l, t);
		} else {
			t->is_dead = true;
			gw_list_append(&l->dead_timers, &t->node);
		}
		t->cb(t->ctx);
	}
}

static int turn_timeout_ms(const struct gw_loop *l)
{
	const struct gw_timer *t;
	uint64_t now;

	if (!gw_list_is_empty(&l->deferred) || l->is_stopped)
		return 0;
	if (l->expected_ns && gw_now_ns() < l->expected_ns)
		return 0;
	if (gw_list_is_empty(&l->timers))
		return -1;
	t = gw_list_entry(l->timers.next, const struct gw_timer, node);
	now = gw_now_ns();
	if (t->when_ns <= now)
		return 0;
	now = (t->when_ns - now + 999999) / 1000000; /* rounded up, or the loop would spin through the last millisecond */
	return now > 3600000 ? 3600000 : (int)now;
}

/* CLOCK_BOOTTIME goes on while the host is suspended, CLOCK_MONOTONIC does not. */
static uint64_t boottime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void gw_loop_on_wake(struct gw_loop *l, uint64_t gap_ms, void (*cb)(void *ctx, uint64_t slept_ms), void *ctx)
{
	l->on_wake = cb;
	l->wake_ctx = ctx;
	l->wake_gap_ns = gap_ms * 1000000u;
	l->turn_ns = boottime_ns();
	l->slept_ns = l->turn_ns - gw_now_ns();
}

static void look_at_clock(struct gw_loop *l)
{
	uint64_t now = boottime_ns(), gap = now - l->turn_ns, slept;

	l->turn_ns = now;
	if (gap < l->wake_gap_ns)
		return;
	slept = now - gw_now_ns();
	gap = slept > l->slept_ns ? slept - l->slept_ns : 0;
	l->slept_ns = slept;
	l->on_wake(l->wake_ctx, gap / 1000000u);
}

void gw_loop_expect(struct gw_loop *l, uint64_t ns)
{
	l->expected_ns = ns ? gw_now_ns() + ns : 0;
}

int gw_loop_run(struct gw_loop *l)
{
	struct epoll_event ev[EVENTS_PER_TURN];

	l->is_stopped = false;
	l->code = 0;
	while (!l->is_stopped) {
		int n = epoll_wait(l->epoll, ev, EVENTS_PER_TURN, turn_timeout_ms(l));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (l->expected_ns && gw_now_ns() >= l->expected_ns)
			l->expected_ns = 0;
		else if (l->expected_ns && n == 0)
			sched_yield();
		if (l->on_wake)
			look_at_clock(l);
		for (int i = 0; i < n && !l->is_stopped; i++) {
			struct gw_watch *w = ev[i].data.ptr;

			if (!w->is_dead)
				w->cb(w->ctx, ev[i].events);
		}
		if (!l->is_stopped)
			run_timers(l);
		if (!l->is_stopped)
			run_deferred(l);
		bury(l);
	}
	return l->code;
}

int gw_watch_set(struct gw_watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };
	int op = !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;

	if (w->is_dead)
		return -EINVAL;
	if (events == w->events)
		return 0;
	if (epoll_ctl(w->loop->epoll, op, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

int gw_loop_watch(struct gw_loop *l, struct gw_watch **out, int fd, uint32_t events,
                  void (*cb)(void *ctx, uint32_t events), void *ctx)
{
	struct gw_watch *w = calloc(1, sizeof(*w));
	int code;

	if (!w)
		return -ENOMEM;
	w->loop = l;
	w->fd = fd;
	w->cb = cb;
	w->ctx = ctx;
	code = gw_watch_set(w, events);
	if (code < 0) {
		free(w);
		return code;
	}
	gw_list_append(&l->watches, &w->node);
	*out = w;
	return 0;
}

void gw_watch_remove(struct gw_watch *w)
{
	int code;

	if (!w || w->is_dead)
		return;
	code = gw_watch_set(w, 0);
	w->is_dead = true;
	gw_list_remove(&w->node);
	/* closed before: whoever was forked meanwhile may have the descriptor still, and while somebody has, epoll tells of it */
	gw_list_append(code < 0 ? &w->loop->kept : &w->loop->dead, &w->node);
}

void gw_watch_close(struct gw_watch **w, int *fd)
{
	gw_watch_remove(*w);
	*w = NULL;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int gw_loop_timer(struct gw_loop *l, struct gw_timer **out, uint64_t delay_ms, uint64_t period_ms,
                  void (*cb)(void *ctx), void *ctx)
{
	struct gw_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = l;
	t->when_ns = gw_now_ns() + delay_ms * 1000000u;
	t->period_ns = period_ms * 1000000u;
	t->cb = cb;
	t->ctx = ctx;
	timer_insert(l, t);
	if (out)
		*out = t;
	return 0;
}

void gw_timer_cancel(struct gw_timer *t)
{
	if (!t || t->is_dead)
		return;
	t->is_dead = true;
	gw_list_remove(&t->node);
	gw_list_append(&t->loop->dead_timers, &t->node);
}

int gw_loop_defer(struct gw_loop *l, void (*cb)(void *ctx), void *ctx)
{
	struct deferred *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->cb = cb;
	d->ctx = ctx;
	gw_list_append(&l->deferred, &d->node);
	return 0;
}
