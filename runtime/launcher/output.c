/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Output of the ranks: streams joined by offset, whole lines, and sinks that never block the head.
 *
 * A sink is standard output or error of mpirun. It is written when poll says so, at most PIPE_BUF bytes at a time, which
 * a ready pipe takes without blocking; its flags are left alone, for it may be shared with others (a terminal). While it
 * holds more than SINK_HIGH bytes nothing is acknowledged, so the daemons stop reading, and the ranks wait.
 */
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define SINK_HIGH (1u << 20)
#define LINE_MAX_KEPT (256u << 10) /* a longer line is cut */
#define PROMPT_MS     50           /* on a terminal: so long is waited for the end of a line before it is shown */

struct sink {
	struct head *head;
	int fd;
	bool is_file;            /* cannot be watched and never blocks */
	bool is_terminal;
	bool is_broken;
	struct gw_watch *watch;
	char *buf;
	size_t start, len, cap;
};

/* ---- sinks --------------------------------------------------------------------------------------------------------- */

static void acknowledge(struct head *h, uint32_t rank, int i, size_t slack)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (h->sinks[i]->len > SINK_HIGH || j->next - j->acked <= slack || h->ranks[rank].state == RANK_ENDED)
		return;
	j->acked = j->next;
	job_cluster_send(h, h->ranks[rank].cluster, json_pack("{s:s, s:i, s:i, s:I}", "op", "output-ack", "rank", (int)rank,
	                                                      "stream", RT_STDOUT + i, "offset", (json_int_t)j->acked));
}

static void sink_broken(struct sink *s, int error)
{
	s->is_broken = true;
	s->len = 0;
	gw_watch_remove(s->watch);
	s->watch = NULL;
	if (error == EPIPE) /* whoever read our output has gone: as a program that writes itself would end */
		job_fail(s->head, 128 + SIGPIPE, "%s", "");
	else
		job_fail(s->head, 1, "standard %s cannot be written: %s", s->fd == STDOUT_FILENO ? "output" : "error",
		         strerror(error));
}

/* Return false when it would block. */
static bool sink_write_some(struct sink *s)
{
	size_t n = s->is_file || s->len < PIPE_BUF ? s->len : PIPE_BUF;
	ssize_t k = write(s->fd, s->buf + s->start, n);

	if (k < 0) {
		if (errno == EINTR)
			return true;
		if (errno != EAGAIN)
			sink_broken(s, errno);
		return false;
	}
	s->start += (size_t)k;
	s->len -= (size_t)k;
	if (s->len == 0)
		s->start = 0;
	return true;
}

static bool sink_is_ready(const struct sink *s)
{
	struct pollfd p = { s->fd, POLLOUT, 0 };

	return s->is_file || poll(&p, 1, 0) > 0;
}

static void sink_push(struct sink *s)
{
	size_t before = s->len;

	while (s->len && !s->is_broken && sink_is_ready(s))
		if (!sink_write_some(s))
			break;
	if (s->watch)
		gw_watch_set(s->watch, s->len ? EPOLLOUT : 0);
	if (before > SINK_HIGH && s->len <= SINK_HIGH)
		for (uint32_t r = 0; r < s->head->size; r++)
			acknowledge(s->head, r, s->fd == STDOUT_FILENO ? 0 : 1, 0);
}

static void on_writable(void *ctx, uint32_t events)
{
	(void)events;
	sink_push(ctx);
}

static void sink_put(struct sink *s, const char *bytes, size_t len)
{
	if (s->is_broken || len == 0)
		return;
	if (s->start + s->len + len > s->cap) {
		if (s->len)
			memmove(s->buf, s->buf + s->start, s->len);
		s->start = 0;
		if (s->len + len > s->cap) {
			size_t cap = 2 * (s->len + len);
			char *bigger = realloc(s->buf, cap);

			if (!bigger) {
				sink_broken(s, ENOMEM);
				return;
			}
			s->buf = bigger;
			s->cap = cap;
		}
	}
	memcpy(s->buf + s->start + s->len, bytes, len);
	s->len += len;
}

static int sink_create(struct sink **out, struct head *h, int fd)
{
	struct sink *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return -ENOMEM;
	s->head = h;
	s->fd = fd;
	s->is_terminal = isatty(fd);
	code = gw_loop_watch(h->loop, &s->watch, fd, 0, on_writable, s);
	if (code == 0) { /* a watch for nothing always succeeds: ask whether it can be watched at all */
		code = gw_watch_set(s->watch, EPOLLOUT);
		s->is_file = code == -EPERM;
		if (s->is_file || code < 0) {
			gw_watch_remove(s->watch);
			s->watch = NULL;
		}
	}
	s->is_broken = code == -EBADF; /* started with it closed: output goes nowhere */
	*out = s;
	return code == -EPERM || code == -EBADF ? 0 : code;
}

/* ---- lines --------------------------------------------------------------------------------------------------------- */

static void put_line(struct head *h, uint32_t rank, int i, const char *line, size_t len)
{
	char label[16];

	if (!h->spec->is_labelled) {
		sink_put(h->sinks[i], line, len);
		return;
	}
	sink_put(h->sinks[i], label, (size_t)snprintf(label, sizeof(label), "[%u] ", rank));
	sink_put(h->sinks[i], line, len);
	if (len == 0 || line[len - 1] != '\n')
		sink_put(h->sinks[i], "\n", 1);
}

static void end_line(struct head *h, uint32_t rank, int i)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (j->line_len)
		put_line(h, rank, i, j->line, j->line_len);
	j->line_len = 0;
}

/* A line without an end is a prompt, perhaps, when nothing follows it for a while: it must be seen. */
static void on_line_timer(void *ctx)
{
	struct head *h = ctx;

	h->line_timer = NULL;
	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++)
			end_line(h, r, i);
	for (int i = 0; i < 2; i++)
		sink_push(h->sinks[i]);
}

static void keep(struct head *h, uint32_t rank, int i, const char *bytes, size_t len)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (j->line_len + len > j->line_cap) {
		size_t cap = 2 * (j->line_len + len);
		char *bigger = realloc(j->line, cap);

		if (!bigger) {
			job_fail(h, 1, "no memory for a line of rank %u", rank);
			return;
		}
		j->line = bigger;
		j->line_cap = cap;
	}
	memcpy(j->line + j->line_len, bytes, len);
	j->line_len += len;
	if (j->line_len > LINE_MAX_KEPT)
		end_line(h, rank, i);
	else if (h->sinks[i]->is_terminal && !h->spec->is_labelled && !h->line_timer)
		gw_loop_timer(h->loop, &h->line_timer, PROMPT_MS, 0, on_line_timer, h);
}

static void emit(struct head *h, uint32_t rank, int i, const char *bytes, size_t len)
{
	struct joined *j = &h->ranks[rank].out[i];

	j->next += len;
	if (h->size == 1 && !h->spec->is_labelled) {
		sink_put(h->sinks[i], bytes, len);
		return;
	}
	while (len) {
		/* without labels whole lines go out together */
		const char *nl = h->spec->is_labelled || j->line_len ? memchr(bytes, '\n', len) : memrchr(bytes, '\n', len);
		size_t n = nl ? (size_t)(nl - bytes) + 1 : len;

		if (nl && j->line_len == 0) {
			put_line(h, rank, i, bytes, n);
		} else {
			keep(h, rank, i, bytes, n);
			if (nl)
				end_line(h, rank, i);
		}
		bytes += n;
		len -= n;
	}
}

/* ---- joining ------------------------------------------------------------------------------------------------------- */

static void hold(struct head *h, struct joined *j, uint64_t offset, const char *bytes, size_t len)
{
	struct segment *s = malloc(sizeof(*s) + len), **at = &j->ahead;

	if (!s) {
		job_fail(h, 1, "no memory for output that came early");
		return;
	}
	s->offset = offset;
	s->len = len;
	memcpy(s->bytes, bytes, len);
	while (*at && (*at)->offset <= offset)
		at = &(*at)->next;
	s->next = *at;
	*at = s;
}

static void take_held(struct head *h, uint32_t rank, int i, bool skip_gaps)
{
	struct joined *j = &h->ranks[rank].out[i];

	while (j->ahead && (skip_gaps || j->ahead->offset <= j->next)) {
		struct segment *s = j->ahead;

		j->ahead = s->next;
		if (s->offset > j->next)
			j->next = s->offset;
		if (s->offset + s->len > j->next) {
			size_t old = (size_t)(j->next - s->offset);

			emit(h, rank, i, s->bytes + old, s->len - old);
		}
		free(s);
	}
}

void output_piece(struct head *h, uint32_t rank, uint32_t stream, uint64_t offset, const char *bytes, size_t len)
{
	int i = (int)stream - RT_STDOUT;
	struct joined *j;

	if (rank >= h->size || i < 0 || i > 1)
		return;
	j = &h->ranks[rank].out[i];
	if (offset > j->next) {
		hold(h, j, offset, bytes, len);
		return;
	}
	if (offset + len > j->next) {
		size_t old = (size_t)(j->next - offset);

		emit(h, rank, i, bytes + old, len - old);
		take_held(h, rank, i, false);
	}
	sink_push(h->sinks[i]);
	acknowledge(h, rank, i, RT_OUTPUT_WINDOW / 4);
}

void output_skip_gaps(struct head *h, uint32_t rank)
{
	for (int i = 0; i < 2; i++) {
		take_held(h, rank, i, true);
		sink_push(h->sinks[i]);
	}
}

void output_end_lines(struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++) {
			take_held(h, r, i, true);
			end_line(h, r, i);
		}
}

void output_flush(struct head *h)
{
	for (int i = 0; i < 2; i++) {
		struct sink *s = h->sinks[i];

		while (s && s->len && !s->is_broken) {
			struct pollfd p = { s->fd, POLLOUT, 0 };

			if (!s->is_file && poll(&p, 1, -1) < 0 && errno != EINTR)
				break;
			sink_write_some(s);
		}
	}
}

int output_init(struct head *h)
{
	int code = sink_create(&h->sinks[0], h, STDOUT_FILENO);

	return code < 0 ? code : sink_create(&h->sinks[1], h, STDERR_FILENO);
}

void output_fini(struct head *h)
{
	for (int i = 0; i < 2; i++)
		if (h->sinks[i]) {
			gw_watch_remove(h->sinks[i]->watch);
			free(h->sinks[i]->buf);
			free(h->sinks[i]);
		}
	for (uint32_t r = 0; h->ranks && r < h->size; r++)
		for (int i = 0; i < 2; i++) {
			free(h->ranks[r].out[i].line);
			while (h->ranks[r].out[i].ahead) {
				struct segment *s = h->ranks[r].out[i].ahead;

				h->ranks[r].out[i].ahead = s->next;
				free(s);
			}
		}
}

void job_say(struct head *h, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text) - 1, fmt, ap);
	va_end(ap);
	n = n < (int)sizeof(text) - 1 ? n : (int)sizeof(text) - 2;
	text[n++] = '\n';
	if (!h->sinks[1]) {
		if (write(STDERR_FILENO, text, (size_t)n) < 0)
			return; /* nobody to tell */
		return;
	}
	for (uint32_t r = 0; r < h->size; r++) /* our sentence must not stand in the middle of a line either */
		end_line(h, r, 1);
	sink_put(h->sinks[1], text, (size_t)n);
	sink_push(h->sinks[1]);
}
