/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of the event loop: order of timers and deferred calls, removal from inside callbacks. */
#include "runtime/base/loop.h"

#include <fcntl.h>
#include <unistd.h>

#include "tests/tap.h"

struct trace {
	struct gw_loop *loop;
	char text[64];
	size_t len;
	struct gw_watch *watch[2];
	struct gw_timer *timer;
	int pipe[2][2];
	int calls;
};

static void note(struct trace *t, char c)
{
	t->text[t->len++] = c;
	t->text[t->len] = '\0';
}

static void on_a(void *ctx) { note(ctx, 'a'); }
static void on_b(void *ctx) { note(ctx, 'b'); }
static void on_c(void *ctx) { note(ctx, 'c'); }
static void on_end(void *ctx)
{
	struct trace *t = ctx;

	note(t, '.');
	gw_loop_stop(t->loop, 7);
}

static void test_timers(void)
{
	struct trace t = { 0 };

	gw_loop_create(&t.loop);
	gw_loop_timer(t.loop, NULL, 30, 0, on_end, &t);
	gw_loop_timer(t.loop, NULL, 10, 0, on_b, &t);
	gw_loop_timer(t.loop, NULL, 5, 0, on_a, &t);
	gw_loop_timer(t.loop, &t.timer, 20, 0, on_c, &t);
	gw_timer_cancel(t.timer);
	is_int(gw_loop_run(t.loop), 7, "run returns the code that stop was given");
	is_str(t.text, "ab.", "timers are called by their time, and a cancelled one is not");
	gw_loop_destroy(t.loop);
}

static void on_period(void *ctx)
{
	struct trace *t = ctx;

	if (++t->calls == 3) {
		gw_timer_cancel(t->timer);
		gw_loop_defer(t->loop, on_end, t);
	}
}

static void test_period(void)
{
	struct trace t = { 0 };

	gw_loop_create(&t.loop);
	gw_loop_timer(t.loop, &t.timer, 1, 1, on_period, &t);
	gw_loop_run(t.loop);
	is_int(t.calls, 3, "a periodic timer goes on until it is cancelled from inside its call");
	gw_loop_destroy(t.loop);
}

static void on_again(void *ctx)
{
	struct trace *t = ctx;

	note(t, 'd');
	if (++t->calls < 3)
		gw_loop_defer(t->loop, on_again, t);
	else
		gw_loop_stop(t->loop, 0);
}

static void test_defer(void)
{
	struct trace t = { 0 };

	gw_loop_create(&t.loop);
	gw_loop_defer(t.loop, on_again, &t);
	gw_loop_defer(t.loop, on_a, &t);
	gw_loop_run(t.loop);
	is_str(t.text, "dadd", "what a deferred call defers waits for the next turn");
	gw_loop_destroy(t.loop);
}

/* Both pipes are readable in the same turn: whoever is called first removes the other. */
static void on_either(void *ctx, uint32_t events)
{
	struct trace *t = ctx;

	(void)events;
	t->calls++;
	gw_watch_remove(t->watch[0]);
	gw_watch_remove(t->watch[1]);
	gw_loop_timer(t->loop, NULL, 1, 0, on_end, t);
}

static void test_remove(void)
{
	struct trace t = { 0 };

	gw_loop_create(&t.loop);
	for (int i = 0; i < 2; i++) {
		if (pipe2(t.pipe[i], O_CLOEXEC) < 0 || write(t.pipe[i][1], "x", 1) != 1)
			tap_bail("no pipe");
		gw_loop_watch(t.loop, &t.watch[i], t.pipe[i][0], EPOLLIN, on_either, &t);
	}
	gw_loop_run(t.loop);
	is_int(t.calls, 1, "a watch that was removed in this turn is not called, though its event was fetched");
	is_int(gw_loop_watch(t.loop, &t.watch[0], -1, EPOLLIN, on_either, &t), -EBADF, "a bad descriptor is refused");
	for (int i = 0; i < 2; i++) {
		close(t.pipe[i][0]);
		close(t.pipe[i][1]);
	}
	gw_loop_destroy(t.loop);
}

static void on_hangup(void *ctx, uint32_t events)
{
	struct trace *t = ctx;

	(void)events;
	t->calls++;
	gw_watch_set(t->watch[0], 0);
	gw_loop_timer(t->loop, NULL, 5, 0, on_end, t);
}

static void test_silence(void)
{
	struct trace t = { 0 };

	gw_loop_create(&t.loop);
	if (pipe2(t.pipe[0], O_CLOEXEC) < 0)
		tap_bail("no pipe");
	close(t.pipe[0][1]);
	gw_loop_watch(t.loop, &t.watch[0], t.pipe[0][0], EPOLLIN, on_hangup, &t);
	gw_loop_run(t.loop);
	is_int(t.calls, 1, "a watch set to no events stays silent, a hang-up included");
	is_int(gw_watch_set(t.watch[0], EPOLLIN), 0, "and can be set again");
	gw_watch_remove(t.watch[0]);
	close(t.pipe[0][0]);
	gw_loop_destroy(t.loop);
}

static void on_event(void *ctx, uint32_t events)
{
	struct trace *t = ctx;

	(void)events;
	if (t->len < 8)
		note(t, 'e');
}

/* A descriptor is closed, then its watch is removed, while somebody (here a duplicate, as a forked child has) has it still. */
static void test_closed_before(void)
{
	struct trace t = { 0 };
	struct gw_watch *watch;
	int duplicate, fds[16];

	gw_loop_create(&t.loop);
	if (pipe2(t.pipe[0], O_CLOEXEC) < 0 || pipe2(t.pipe[1], O_CLOEXEC) < 0)
		tap_bail("no pipe");
	duplicate = dup(t.pipe[0][0]);
	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++) {
		fds[i] = dup(t.pipe[0][0]);
		gw_loop_watch(t.loop, &watch, fds[i], EPOLLIN, on_event, &t);
		close(fds[i]);
		gw_watch_remove(watch);
	}
	gw_loop_timer(t.loop, NULL, 0, 0, on_end, &t);
	gw_loop_run(t.loop);
	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++) { /* where memory that was freed would be had again */
		fds[i] = dup(t.pipe[1][0]);
		gw_loop_watch(t.loop, &watch, fds[i], EPOLLIN, on_event, &t);
	}
	ok(write(t.pipe[0][1], "x", 1) == 1, "somebody writes to descriptors that were closed before their watches were removed");
	gw_loop_timer(t.loop, NULL, 5, 0, on_end, &t);
	gw_loop_run(t.loop);
	is_str(t.text, "..", "nobody is told");
	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++)
		close(fds[i]);
	gw_loop_destroy(t.loop);
	close(duplicate);
	close(t.pipe[0][0]);
	close(t.pipe[0][1]);
	close(t.pipe[1][0]);
	close(t.pipe[1][1]);
}

int main(void)
{
	tap_begin(22);
	test_timers();
	test_period();
	test_defer();
	test_remove();
	test_silence();
	test_closed_before();
	return tap_done();
}
