/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Standard input, to one rank, several or none. What a receiver's daemon has not written to its pipe is kept here; the
 * new daemon of a rank that has moved says how far it has come, and gets the rest again. With several receivers the
 * slowest sets the pace.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define FOREGROUND_MS 250 /* in the background of a terminal: so often is looked whether we are in the foreground */

struct receiver {
	uint32_t rank;
	uint64_t acked, sent;
	bool is_eof_sent, is_closed;
};

static void pump(struct head *h);

static struct receiver *receiver_of(struct input *in, uint32_t rank)
{
	for (uint32_t i = 0; i < in->n; i++)
		if (in->receivers[i].rank == rank)
			return &in->receivers[i];
	return NULL;
}

bool input_is_for(const struct head *h, uint32_t rank)
{
	return receiver_of((struct input *)(uintptr_t)&h->input, rank) != NULL;
}

static void send_rest(struct head *h, struct receiver *to)
{
	struct input *in = &h->input;
	struct cluster *c = &h->clusters[h->ranks[to->rank].cluster];

	if (to->is_closed || h->ranks[to->rank].state != RANK_RUNNING)
		return;
	while (c->link && to->sent < in->start + in->len) {
		size_t at = (size_t)(to->sent - in->start), n = in->len - at;
		char frame[sizeof(struct rt_piece) + 16384];
		struct rt_piece p = { to->rank, RT_STDIN, to->sent };

		n = n < 16384 ? n : 16384;
		memcpy(frame, &p, sizeof(p));
		memcpy(frame + sizeof(p), in->buf + at, n);
		if (gw_link_send(c->link, RT_FRAME_INPUT, frame, sizeof(p) + n, NULL, 0) < 0)
			return;
		to->sent += n;
	}
	if (in->eof_at != UINT64_MAX && !to->is_eof_sent && to->sent == in->eof_at)
		to->is_eof_sent = job_cluster_send(h, c->index, json_pack("{s:s, s:i, s:I}", "op", "stdin-eof", "rank",
		                                                          (int)to->rank, "offset", (json_int_t)in->eof_at));
}

static void stop_reading(struct input *in)
{
	gw_watch_remove(in->watch);
	in->watch = NULL;
	gw_timer_cancel(in->timer);
	in->timer = NULL;
	in->is_open = false;
}

/* Reading a terminal from its background would stop us (SIGTTIN), or fail: wait until we are in its foreground. */
static bool is_background(void)
{
	pid_t front = isatty(STDIN_FILENO) ? tcgetpgrp(STDIN_FILENO) : -1;

	return front > 0 && front != getpgrp();
}

static void on_foreground_timer(void *ctx)
{
	struct head *h = ctx;

	h->input.timer = NULL;
	pump(h);
}

static void read_some(struct head *h)
{
	struct input *in = &h->input;
	ssize_t n;

	if (!in->is_open || in->len == RT_INPUT_WINDOW || is_background())
		return;
	n = read(STDIN_FILENO, in->buf + in->len, RT_INPUT_WINDOW - in->len);
	if (n < 0 && (errno == EAGAIN || errno == EINTR || (errno == EIO && is_background())))
		return;
	if (n <= 0) { /* its end, or a terminal that is not ours to read */
		in->eof_at = in->start + in->len;
		stop_reading(in);
	} else {
		in->len += (size_t)n;
	}
	for (uint32_t i = 0; i < in->n; i++)
		send_rest(h, &in->receivers[i]);
}

static void on_readable(void *ctx, uint32_t events)
{
	(void)events;
	read_some(ctx);
	pump(ctx);
}

static void on_turn(void *ctx)
{
	struct head *h = ctx;

	h->input.is_deferred = false;
	read_some(h);
	pump(h);
}

/* Go on reading as long as there is room. */
static void pump(struct head *h)
{
	struct input *in = &h->input;
	bool has_room = in->len < RT_INPUT_WINDOW;

	if (!in->is_open)
		return;
	if (in->watch) {
		bool must_wait = has_room && is_background();

		gw_watch_set(in->watch, has_room && !must_wait ? EPOLLIN : 0);
		if (must_wait && !in->timer)
			gw_loop_timer(h->loop, &in->timer, FOREGROUND_MS, 0, on_foreground_timer, h);
	} else if (in->is_always_ready && has_room && !in->is_deferred) {
		in->is_deferred = true;
		gw_loop_defer(h->loop, on_turn, h);
	}
}

/* ---- receivers ------------------------------------------------------------------------------------------------------- */

/* "0", "all", "none", "0,3-5" */
static int parse_receivers(const struct head *h, const char *spec, bool *wanted, struct gw_error *why)
{
	const char *at = spec;

	if (strcmp(spec, "none") == 0)
		return 0;
	if (strcmp(spec, "all") == 0) {
		memset(wanted, true, h->size);
		return 0;
	}
	do {
		int used = 0;
		unsigned from, to;

		if (sscanf(at, "%u%n", &from, &used) != 1)
			return gw_fail(why, -EINVAL, "'-s %s' names no ranks; say 0, all, none, or a list such as 0,3-5", spec);
		at += used;
		to = from;
		if (*at == '-' && sscanf(at, "-%u%n", &to, &used) == 1)
			at += used;
		if (from > to || to >= h->size || (*at && *at != ','))
			return gw_fail(why, -EINVAL, "'-s %s' names ranks that there are not; the job has ranks 0 to %u", spec, h->size - 1);
		memset(wanted + from, true, to - from + 1);
	} while (*at++ == ',');
	return 0;
}

int input_init(struct head *h, struct gw_error *why)
{
	struct input *in = &h->input;
	gw_autofree bool *wanted = calloc(h->size, sizeof(*wanted));
	int code;

	in->eof_at = UINT64_MAX;
	in->buf = malloc(RT_INPUT_WINDOW);
	in->receivers = calloc(h->size, sizeof(*in->receivers));
	if (!wanted || !in->buf || !in->receivers)
		return gw_fail(why, -ENOMEM, "no memory for standard input");
	code = parse_receivers(h, h->spec->input ? h->spec->input : "0", wanted, why);
	for (uint32_t r = 0; r < h->size - h->spec->n_spawned; r++)
		if (wanted[r])
			in->receivers[in->n++].rank = r;
	signal(SIGTTIN, SIG_IGN); /* if we are put into the background while we read: read fails instead of stopping us */
	return code;
}

void input_start(struct head *h, uint32_t rank)
{
	struct input *in = &h->input;
	struct receiver *to = receiver_of(in, rank);

	if (!to)
		return;
	send_rest(h, to);
	if (in->is_open || in->eof_at != UINT64_MAX)
		return;
	in->is_open = true;
	if (gw_loop_watch(h->loop, &in->watch, STDIN_FILENO, EPOLLIN, on_readable, h) < 0) {
		/* a regular file or /dev/null is always ready; a closed one is at its end */
		in->watch = NULL;
		in->is_always_ready = true;
	}
	pump(h);
}

/* What all have is kept no longer. */
static void advance(struct head *h)
{
	struct input *in = &h->input;
	uint64_t least = UINT64_MAX;
	size_t n;

	for (uint32_t i = 0; i < in->n; i++)
		if (!in->receivers[i].is_closed && in->receivers[i].acked < least)
			least = in->receivers[i].acked;
	if (least == UINT64_MAX) { /* nobody is left to read */
		stop_reading(in);
		return;
	}
	n = (size_t)(least - in->start);
	if (n)
		memmove(in->buf, in->buf + n, in->len - n);
	in->len -= n;
	in->start = least;
	pump(h);
}

void input_acked(struct head *h, uint32_t rank, uint64_t offset)
{
	struct receiver *to = receiver_of(&h->input, rank);

	if (!to || to->is_closed || offset <= to->acked || offset > h->input.start + h->input.len)
		return;
	to->acked = offset;
	advance(h);
}

void input_moved(struct head *h, uint32_t rank, uint64_t written)
{
	struct receiver *to = receiver_of(&h->input, rank);

	if (!to || h->ranks[rank].state != RANK_RUNNING)
		return;
	input_acked(h, rank, written);
	to->sent = to->acked;
	to->is_eof_sent = false;
	send_rest(h, to);
}

void input_closed(struct head *h, uint32_t rank)
{
	struct receiver *to = receiver_of(&h->input, rank);

	if (!to)
		return;
	to->is_closed = true;
	advance(h);
}

bool input_is_closed(const struct head *h, uint32_t rank)
{
	const struct receiver *to = receiver_of((struct input *)(uintptr_t)&h->input, rank);

	return to && to->is_closed;
}

void input_begin(struct head *h, uint64_t start, const char *bytes, size_t len, bool is_ended)
{
	struct input *in = &h->input;

	in->start = start;
	memcpy(in->buf, bytes, len);
	in->len = len;
	in->eof_at = is_ended ? start + len : UINT64_MAX;
	for (uint32_t i = 0; i < in->n; i++)
		in->receivers[i].acked = in->receivers[i].sent = start;
}

void input_stop(struct head *h)
{
	stop_reading(&h->input);
}

void input_fini(struct head *h)
{
	stop_reading(&h->input);
	free(h->input.buf);
	free(h->input.receivers);
	h->input.buf = NULL;
	h->input.receivers = NULL;
}
