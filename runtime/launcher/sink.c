/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sinks: where output ends, without ever blocking the head. Standard output and error of mpirun, or files by rank.
 *
 * A sink is written when poll says so, at most PIPE_BUF bytes at a time, which a ready pipe takes without blocking; its
 * flags are left alone, for it may be shared with others (a terminal). While it holds more than SINK_HIGH bytes nothing
 * is acknowledged, so the daemons stop reading, and the ranks wait.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define SINK_HIGH (1u << 20)

struct sink {
	struct gw_list node;     /* head.files; unused for standard output and error */
	struct head *head;
	char *path;              /* NULL: standard output or error */
	uint64_t written;        /* bytes put there; of a file that is continued with those that it had */
	int fd;
	uint32_t streams;        /* of ranks, that end here */
	bool is_file;            /* cannot be watched and never blocks */
	bool is_terminal;
	bool is_broken;
	struct gw_watch *watch;
	char *buf;
	size_t start, len, cap;
};

bool sink_is_full(const struct sink *s) { return s->len > SINK_HIGH; }
bool sink_is_terminal(const struct sink *s) { return s->is_terminal; }
bool sink_is_shared(const struct sink *s) { return s->streams > 1; }

static void sink_broken(struct sink *s, int error)
{
	s->is_broken = true;
	s->len = 0;
	gw_watch_remove(s->watch);
	s->watch = NULL;
	if (error == EPIPE) /* whoever read our output has gone: as a program that writes itself would end */
		job_fail_output(s->head, 128 + SIGPIPE, "%s", "");
	else if (s->path)
		job_fail_output(s->head, 1, "the output file '%s' cannot be written: %s", s->path, strerror(error));
	else
		job_fail_output(s->head, 1, "standard %s cannot be written: %s", s->fd == STDOUT_FILENO ? "output" : "error",
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

void sink_push(struct sink *s)
{
	size_t before = s->len;

	while (s->len && !s->is_broken && sink_is_ready(s))
		if (!sink_write_some(s))
			break;
	if (s->watch)
		gw_watch_set(s->watch, s->len ? EPOLLOUT : 0);
	if (before > SINK_HIGH && s->len <= SINK_HIGH)
		output_has_room(s->head, s);
}

static void on_writable(void *ctx, uint32_t events)
{
	(void)events;
	sink_push(ctx);
}

void sink_put(struct sink *s, const char *bytes, size_t len)
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
	s->written += len;
}

static int sink_create(struct sink **out, struct head *h, int fd)
{
	struct sink *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return -ENOMEM;
	s->head = h;
	s->fd = fd;
	gw_list_init(&s->node);
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

int sink_open(struct sink **out, struct head *h, int fd)
{
	return sink_create(out, h, fd);
}

int sink_open_file(struct sink **out, struct head *h, const char *path, struct gw_error *why)
{
	uint64_t length = restart_outfile(h->spec, path);
	struct sink *s;
	int fd, code;

	gw_list_for(e, &h->files_out) {
		s = gw_list_entry(e, struct sink, node);
		if (strcmp(s->path, path) == 0) {
			*out = s;
			return 0;
		}
	}
	fd = open(path, O_WRONLY | O_CREAT | (length ? 0 : O_TRUNC) | O_CLOEXEC | O_NOCTTY, 0666);
	if (fd < 0)
		return gw_fail(why, -errno, "the output file '%s' cannot be made: %s", path, strerror(errno));
	if (length && (lseek(fd, 0, SEEK_END) < (off_t)length || ftruncate(fd, (off_t)length) < 0 || lseek(fd, 0, SEEK_END) < 0)) {
		close(fd);
		return gw_fail(why, -ENODATA, "the output file '%s' is shorter than the %llu bytes that it had; bring it back, or name another one",
		               path, (unsigned long long)length);
	}
	code = sink_create(&s, h, fd);
	if (code == 0) {
		s->path = strdup(path);
		s->written = length;
		gw_list_append(&h->files_out, &s->node);
	}
	if (code < 0 || !s->path) {
		close(fd);
		return gw_fail(why, code < 0 ? code : -ENOMEM, "the output file '%s' cannot be watched", path);
	}
	*out = s;
	return 0;
}

const char *sink_written(const struct sink *s, uint64_t *length)
{
	*length = s->written;
	return s->path;
}

struct sink *sink_of_node(struct gw_list *node)
{
	return gw_list_entry(node, struct sink, node);
}

void sink_add_stream(struct sink *s)
{
	s->streams++;
}

void sink_flush(struct sink *s)
{
	while (s && s->len && !s->is_broken) {
		struct pollfd p = { s->fd, POLLOUT, 0 };

		if (!s->is_file && poll(&p, 1, -1) < 0 && errno != EINTR)
			break;
		sink_write_some(s);
	}
}

void sink_close(struct sink *s)
{
	if (!s)
		return;
	gw_watch_remove(s->watch);
	gw_list_remove(&s->node);
	if (s->path)
		close(s->fd);
	free(s->path);
	free(s->buf);
	free(s);
}
