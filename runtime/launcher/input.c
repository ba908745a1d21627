/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Standard input, to one rank. What the rank's daemon has not written to its pipe is kept here; the new daemon of a rank
 * that has moved says how far it has come, and gets the rest again.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

static void pump(struct head *h);

static void send_rest(struct head *h)
{
	struct input *in = &h->input;
	struct cluster *c = &h->clusters[h->ranks[in->rank].cluster];

	while (c->link && in->sent < in->acked + in->len) {
		size_t at = (size_t)(in->sent - in->acked), n = in->len - at;
		char frame[sizeof(struct rt_piece) + 16384];
		struct rt_piece p = { in->rank, RT_STDIN, in->sent };

		n = n < 16384 ? n : 16384;
		memcpy(frame, &p, sizeof(p));
		memcpy(frame + sizeof(p), in->buf + at, n);
		if (gw_link_send(c->link, RT_FRAME_INPUT, frame, sizeof(p) + n, NULL, 0) < 0)
			return;
		in->sent += n;
	}
	if (in->eof_at != UINT64_MAX && !in->is_eof_sent && in->sent == in->eof_at)
		in->is_eof_sent = job_cluster_send(h, c->index, json_pack("{s:s, s:i, s:I}", "op", "stdin-eof", "rank",
		                                                          (int)in->rank, "offset", (json_int_t)in->eof_at));
}

static void stop_reading(struct input *in)
{
	gw_watch_remove(in->watch);
	in->watch = NULL;
	in->is_open = false;
}

static void read_some(struct head *h)
{
	struct input *in = &h->input;
	ssize_t n;

	if (!in->is_open || in->len == RT_INPUT_WINDOW)
		return;
	n = read(STDIN_FILENO, in->buf + in->len, RT_INPUT_WINDOW - in->len);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) { /* its end, or a terminal that is not ours to read */
		in->eof_at = in->acked + in->len;
		stop_reading(in);
	} else {
		in->len += (size_t)n;
	}
	send_rest(h);
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
		gw_watch_set(in->watch, has_room ? EPOLLIN : 0);
	} else if (in->is_always_ready && has_room && !in->is_deferred) {
		in->is_deferred = true;
		gw_loop_defer(h->loop, on_turn, h);
	}
}

int input_init(struct head *h)
{
	struct input *in = &h->input;

	in->eof_at = UINT64_MAX;
	in->buf = malloc(RT_INPUT_WINDOW);
	signal(SIGTTIN, SIG_IGN); /* in the background of a terminal: read fails instead of stopping the whole job */
	return in->buf ? 0 : -ENOMEM;
}

void input_start(struct head *h)
{
	struct input *in = &h->input;
	int code;

	in->is_open = true;
	code = gw_loop_watch(h->loop, &in->watch, STDIN_FILENO, EPOLLIN, on_readable, h);
	if (code < 0) { /* a regular file or /dev/null is always ready; a closed one is at its end */
		in->watch = NULL;
		in->is_always_ready = true;
		pump(h);
	}
}

void input_acked(struct head *h, uint32_t rank, uint64_t offset)
{
	struct input *in = &h->input;
	size_t n;

	if (rank != in->rank || offset <= in->acked || offset > in->acked + in->len)
		return;
	n = (size_t)(offset - in->acked);
	memmove(in->buf, in->buf + n, in->len - n);
	in->len -= n;
	in->acked = offset;
	pump(h);
}

void input_moved(struct head *h, uint32_t rank, uint64_t written)
{
	struct input *in = &h->input;

	if (rank != in->rank || h->ranks[rank].state != RANK_RUNNING)
		return;
	input_acked(h, rank, written);
	in->sent = in->acked;
	in->is_eof_sent = false;
	send_rest(h);
}

void input_stop(struct head *h)
{
	stop_reading(&h->input);
}

void input_fini(struct head *h)
{
	stop_reading(&h->input);
	free(h->input.buf);
	h->input.buf = NULL;
}
