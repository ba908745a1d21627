/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Standard streams of a rank: pipes of this cluster, joined by the head by (rank, stream, offset).
 *
 * Output: at most RT_OUTPUT_WINDOW bytes are sent ahead of the head's acknowledgement; then the pipe fills and the
 * program waits, as it would on a slow terminal. Input: the head keeps what has not been acknowledged, so what is queued
 * here may be dropped at a move; what is in the pipe travels in the rank's image.
 */
#include "runtime/clusterd/clusterd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- output ------------------------------------------------------------------------------------------------------ */

static void out_close(struct out_stream *o)
{
	gw_watch_close(&o->watch, &o->fd);
}

static void send_piece(struct out_stream *o, char *frame, size_t len)
{
	struct rt_piece p = { o->rank->proc, o->stream, o->offset };

	memcpy(frame, &p, sizeof(p));
	gw_link_send(o->rank->d->head, RT_FRAME_OUTPUT, frame, sizeof(p) + len, NULL, 0);
	o->offset += len;
}

/* One read; returns its length, 0 at the end of the stream or when nothing is there. */
static size_t pull(struct out_stream *o, size_t max)
{
	static char frame[sizeof(struct rt_piece) + RT_PIECE_MAX]; /* one thread; too large for the stack of a daemon */
	ssize_t n;

	if (o->fd < 0)
		return 0;
	n = read(o->fd, frame + sizeof(struct rt_piece), max < RT_PIECE_MAX ? max : RT_PIECE_MAX);
	if (n > 0) {
		send_piece(o, frame, (size_t)n);
		return (size_t)n;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		out_close(o);
	return 0;
}

static size_t window(const struct out_stream *o)
{
	uint64_t ahead = o->offset - o->acked;

	return ahead >= RT_OUTPUT_WINDOW ? 0 : (size_t)(RT_OUTPUT_WINDOW - ahead);
}

static void on_output(void *ctx, uint32_t events)
{
	struct out_stream *o = ctx;

	(void)events;
	if (window(o))
		pull(o, window(o));
	if (o->watch && !window(o))
		gw_watch_set(o->watch, 0);
}

void streams_acked(struct rank *r, uint32_t stream, uint64_t offset)
{
	struct out_stream *o;

	if (stream != RT_STDOUT && stream != RT_STDERR)
		return;
	o = &r->out[stream - RT_STDOUT];
	if (offset <= o->acked || offset > o->offset)
		return;
	o->acked = offset;
	if (o->watch && !r->is_exported && window(o))
		gw_watch_set(o->watch, EPOLLIN);
}

/* What its pipes hold now, beyond any window: the program has stopped or ended, so there is an end to it. */
void streams_drain(struct rank *r)
{
	for (int i = 0; i < 2; i++)
		while (pull(&r->out[i], RT_PIECE_MAX))
			;
}

/* ---- input ------------------------------------------------------------------------------------------------------- */

static void in_close(struct in_stream *in)
{
	gw_watch_close(&in->watch, &in->fd);
}

static void in_write(struct rank *r)
{
	struct in_stream *in = &r->in;
	size_t done = 0;

	while (in->fd >= 0 && done < in->queued) {
		ssize_t n = write(in->fd, in->queue + done, in->queued - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE) { /* the program has closed it: nobody will read more */
			gw_link_send_json(r->d->head, json_pack("{s:s, s:i}", "op", "stdin-closed", "rank", (int)r->proc));
			in->queued = done = 0;
			in_close(in);
		}
		if (n < 0)
			break; /* full */
		done += (size_t)n;
	}
	if (done) {
		memmove(in->queue, in->queue + done, in->queued - done);
		in->queued -= done;
		in->written += done;
		gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:I}", "op", "stdin-ack", "rank", (int)r->proc, "offset",
		                                        (json_int_t)in->written));
	}
	if (in->written == in->eof_at)
		in_close(in);
	if (in->watch)
		gw_watch_set(in->watch, in->queued ? EPOLLOUT : 0);
}

static void on_writable(void *ctx, uint32_t events)
{
	(void)events;
	in_write(ctx);
}

void streams_input(struct rank *r, uint64_t offset, const char *bytes, size_t len)
{
	struct in_stream *in = &r->in;
	uint64_t expected = in->written + in->queued;

	if (!in->is_wanted || r->is_exported || in->fd < 0)
		return;
	/* after a move the head repeats what was not acknowledged; what was on its way to the old place leaves a gap here,
	 * which the repetition fills */
	if (offset > expected || offset + len <= expected)
		return;
	bytes += expected - offset;
	len -= expected - offset;
	if (len > RT_INPUT_WINDOW - in->queued)
		len = RT_INPUT_WINDOW - in->queued; /* cannot be: the head keeps to the window */
	memcpy(in->queue + in->queued, bytes, len);
	in->queued += len;
	in_write(r);
}

void streams_input_eof(struct rank *r, uint64_t offset)
{
	if (!r->in.is_wanted || r->is_exported || r->in.fd < 0)
		return;
	r->in.eof_at = offset;
	in_write(r);
}

/* ---- made, watched, moved ------------------------------------------------------------------------------------------ */

static int make_pipe(int *ours, int *ranks, bool we_read)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*ours = p[we_read ? 0 : 1];
	*ranks = p[we_read ? 1 : 0];
	return fcntl(*ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0; /* our end only: each has its own flags */
}

int streams_open(struct rank *r, struct ct_plumbing *plumbing, struct gw_error *why)
{
	static const enum ct_plumb plumbs[2] = { CT_PLUMB_STDOUT, CT_PLUMB_STDERR };
	int code = 0;

	r->in.eof_at = UINT64_MAX;
	for (int i = 0; i < 2 && code == 0; i++) {
		r->out[i].rank = r;
		r->out[i].stream = RT_STDOUT + (uint32_t)i;
		code = make_pipe(&r->out[i].fd, &plumbing->rank_fd[plumbs[i]], true);
		plumbing->number_in_rank[plumbs[i]] = STDOUT_FILENO + i;
	}
	plumbing->number_in_rank[CT_PLUMB_STDIN] = STDIN_FILENO;
	if (code == 0 && r->in.is_wanted) {
		r->in.queue = malloc(RT_INPUT_WINDOW);
		code = r->in.queue ? make_pipe(&r->in.fd, &plumbing->rank_fd[CT_PLUMB_STDIN], false) : -ENOMEM;
	} else if (code == 0) {
		plumbing->rank_fd[CT_PLUMB_STDIN] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		code = plumbing->rank_fd[CT_PLUMB_STDIN] < 0 ? -errno : 0;
	}
	return code < 0 ? gw_fail(why, code, "no pipes for its standard streams: %s%s", strerror(-code),
	                          gw_advice(code)) : 0;
}

int streams_watch(struct rank *r)
{
	int code = 0;

	for (int i = 0; i < 2 && code == 0; i++)
		if (r->out[i].fd >= 0 && !r->out[i].watch)
			code = gw_loop_watch(r->d->loop, &r->out[i].watch, r->out[i].fd, EPOLLIN, on_output, &r->out[i]);
	if (code == 0 && r->in.fd >= 0 && !r->in.watch)
		code = gw_loop_watch(r->d->loop, &r->in.watch, r->in.fd, 0, on_writable, r);
	return code;
}

void streams_close(struct rank *r)
{
	out_close(&r->out[0]);
	out_close(&r->out[1]);
	in_close(&r->in);
	for (int i = 0; i < 2; i++) {
		free(r->out[i].rest);
		r->out[i].rest = NULL;
	}
	free(r->in.queue);
	r->in.queue = NULL;
}

/*
 * The rank is frozen: send what its pipes hold, then say where each stream stands. The rest of a write that the freeze
 * cut short goes along, and the new owner sends it: it follows this offset (rule 19).
 */
json_t *streams_export(struct rank *r, struct gw_error *why)
{
	static const enum ct_plumb plumbs[2] = { CT_PLUMB_STDOUT, CT_PLUMB_STDERR };
	json_t *out = json_array(), *all;

	streams_drain(r);
	for (int i = 0; i < 2; i++) {
		const void *rest = NULL;
		ssize_t n = ct_rank_stream_rest(r->ct, plumbs[i], &rest);
		gw_autofree char *hex = bytes_to_hex(rest, n > 0 ? (size_t)n : 0);

		json_array_append_new(out, json_pack("{s:I, s:I, s:s}", "offset", (json_int_t)r->out[i].offset, "acked",
		                                     (json_int_t)r->out[i].acked, "rest", hex));
	}
	all = json_pack("{s:o, s:{s:b, s:I, s:b}}", "out", out, "in", "is_wanted", (int)r->in.is_wanted, "written",
	                (json_int_t)r->in.written, "is_ended", r->in.is_wanted && r->in.fd < 0);
	if (!all)
		gw_fail(why, -ENOMEM, "no memory for the state of its streams");
	else
		r->in.queued = 0; /* the head repeats it */
	return all;
}

int streams_import(struct rank *r, const json_t *state, struct gw_error *why)
{
	json_int_t written;
	int is_wanted, is_ended;

	for (size_t i = 0; i < 2; i++) {
		json_int_t offset, acked;
		const char *hex;

		if (json_unpack(json_array_get(json_object_get(state, "out"), i), "{s:I, s:I, s:s}", "offset", &offset, "acked",
		                &acked, "rest", &hex) < 0 || r->out[i].rest ||
		    bytes_from_hex(hex, &r->out[i].rest, &r->out[i].rest_len) < 0)
			return gw_fail(why, -EPROTO, "the state of its output is malformed");
		r->out[i].offset = (uint64_t)offset;
		r->out[i].acked = (uint64_t)acked;
	}
	if (json_unpack(json_object_get(state, "in"), "{s:b, s:I, s:b}", "is_wanted", &is_wanted, "written", &written,
	                "is_ended", &is_ended) < 0 || is_wanted != (int)r->in.is_wanted)
		return gw_fail(why, -EPROTO, "the state of its standard input is malformed");
	r->in.written = (uint64_t)written;
	if (is_ended)
		in_close(&r->in);
	return 0;
}

/* The rank is ours: what it was in the middle of writing at the other cluster comes first. */
void streams_taken(struct rank *r)
{
	for (int i = 0; i < 2; i++) {
		const char *p = r->out[i].rest;
		size_t left = r->out[i].rest_len;
		char frame[sizeof(struct rt_piece) + 4096];

		while (left) {
			size_t n = left < 4096 ? left : 4096;

			memcpy(frame + sizeof(struct rt_piece), p, n);
			send_piece(&r->out[i], frame, n);
			p += n;
			left -= n;
		}
		free(r->out[i].rest);
		r->out[i].rest = NULL;
	}
}
