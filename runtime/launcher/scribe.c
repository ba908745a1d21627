/* SPDX-License-Identifier: BSD-2-Clause */
/* mpirun's side of a scribe: its birth, a queue with an end, its death. */
#include "runtime/launcher/scribe.h"

#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "runtime/launcher/errand.h"

struct scribe {
	const struct scribe_ops *ops;
	void *ctx;
	pid_t pid;
	int fd;                  /* -1: it has ended */
	struct gw_watch *watch;
	bool is_open, is_full;   /* is_full: it takes nothing now */
	char *text;              /* [done, len): waits */
	size_t done, len, cap;
	uint64_t lost, heeded_ns;
	struct scribe_said said;
	size_t heard;            /* bytes of @said */
};

/* ---- its end --------------------------------------------------------------------------------------------------------- */

static void hang_up(struct scribe *s)
{
	gw_watch_close(&s->watch, &s->fd);
	s->done = s->len = 0;
}

static void end(struct scribe *s, const char *why)
{
	if (s->fd < 0)
		return;
	hang_up(s);
	s->ops->ended(s->ctx, s->said.path, why);
}

/* ---- does it take what it is sent? ----------------------------------------------------------------------------------- */

static void note_heed(struct scribe *s)
{
	int unread;

	if (s->is_open && !s->is_full && ioctl(s->fd, SIOCOUTQ, &unread) == 0 && unread == 0)
		s->heeded_ns = gw_now_ns();
}

uint64_t scribe_heeded_ns(struct scribe *s)
{
	note_heed(s);
	return s->heeded_ns;
}

static void note_opened(struct scribe *s)
{
	s->is_open = true;
	s->heeded_ns = gw_now_ns();
	s->ops->opened(s->ctx, s->said.path, s->said.size);
}

/* ---- what it says ---------------------------------------------------------------------------------------------------- */

/* Return 1 when it has said something, 0 when there is nothing yet, -EPIPE at its end */
static int hear(struct scribe *s)
{
	ssize_t n = recv(s->fd, (char *)&s->said + s->heard, sizeof(s->said) - s->heard, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -EPIPE;
	s->heard += (size_t)n;
	if (s->heard < sizeof(s->said))
		return 0;
	s->heard = 0;
	return 1;
}

static void on_ready(void *ctx, uint32_t events)
{
	struct scribe *s = ctx;
	int got = events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? hear(s) : 0;

	if (got > 0 && s->said.code == 0) {
		note_opened(s);
	} else if (got != 0) {
		end(s, got > 0 ? s->said.why : "the process that writes it has ended");
		return;
	}
	if (s->fd >= 0 && (events & EPOLLOUT))
		scribe_flush(s);
}

int scribe_await(struct scribe *s, uint64_t end_ns, struct gw_error *why)
{
	while (s->fd >= 0 && !s->is_open) {
		int code = gw_wait_readable(s->fd, end_ns), got = code < 0 ? code : hear(s);

		if (code < 0)
			return gw_fail(why, code, "its file system does not answer");
		if (got == 0)
			continue;
		if (got > 0 && s->said.code == 0) {
			note_opened(s);
			return 0;
		}
		hang_up(s);
		return gw_fail(why, got > 0 ? s->said.code : got, "%s", got > 0 ? s->said.why : "the process that writes it has ended");
	}
	return 0;
}

/* ---- lines ----------------------------------------------------------------------------------------------------------- */

static bool make_room(struct scribe *s, size_t len)
{
	size_t cap = 2 * (s->len - s->done + len);
	char *more;

	if (s->len + len <= s->cap)
		return true;
	if (s->done)
		memmove(s->text, s->text + s->done, s->len - s->done);
	s->len -= s->done;
	s->done = 0;
	if (s->len + len <= s->cap)
		return true;
	more = realloc(s->text, cap);
	if (!more)
		return false;
	s->text = more;
	s->cap = cap;
	return true;
}

bool scribe_put(struct scribe *s, const char *line, size_t len, bool is_last_word)
{
	size_t waiting = s->len - s->done;

	if (s->fd < 0)
		return false;
	if ((waiting && waiting + len > SCRIBE_BYTES && !is_last_word) || (s->lost && !is_last_word) || !make_room(s, len)) {
		s->lost++; /* and what follows, until there is room for much */
		return false;
	}
	memcpy(s->text + s->len, line, len);
	s->len += len;
	return true;
}

static void wait_for_room(struct scribe *s, bool is_full)
{
	if (s->is_full != is_full && s->watch)
		gw_watch_set(s->watch, EPOLLIN | (is_full ? EPOLLOUT : 0));
	s->is_full = is_full;
}

void scribe_flush(struct scribe *s)
{
	uint64_t lost;

	note_heed(s);
	while (s->fd >= 0 && s->done < s->len) {
		ssize_t n = send(s->fd, s->text + s->done, s->len - s->done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			s->done += (size_t)n;
			s->heeded_ns = s->is_full ? gw_now_ns() : s->heeded_ns; /* there was no room: it has made some */
		} else if (errno == EAGAIN) {
			wait_for_room(s, true);
			return;
		} else if (errno != EINTR) {
			return; /* it has gone, and on_ready() hears why */
		}
	}
	s->done = s->len = 0;
	wait_for_room(s, false);
	lost = s->lost;
	s->lost = 0;
	if (lost && s->fd >= 0)
		s->ops->drained(s->ctx, lost);
}

size_t scribe_waiting(const struct scribe *s)
{
	return s->len - s->done;
}

uint64_t scribe_lost(const struct scribe *s)
{
	return s->lost;
}

bool scribe_is_over(const struct scribe *s)
{
	return s->fd < 0;
}

pid_t scribe_pid(const struct scribe *s)
{
	return s->pid;
}

int scribe_end(struct scribe *s, uint64_t end_ns, struct gw_error *why)
{
	int code;

	if (!s)
		return 0;
	gw_watch_remove(s->watch);
	s->watch = NULL;
	while (s->fd >= 0 && s->done < s->len) {
		uint64_t now = gw_now_ns();
		struct pollfd p = { .fd = s->fd, .events = POLLOUT };
		ssize_t n = send(s->fd, s->text + s->done, s->len - s->done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			s->done += (size_t)n;
		else if ((errno != EAGAIN && errno != EINTR) || now >= end_ns)
			break;
		else
			poll(&p, 1, (int)((end_ns - now) / 1000000) + 1);
	}
	if (s->fd >= 0)
		shutdown(s->fd, SHUT_WR);
	code = errand_bury(s->pid, end_ns);
	if (code < 0)
		gw_fail(why, code, "its file system does not answer");
	while (s->fd >= 0 && code == 0 && hear(s) > 0) /* that it is open, or its last words */
		if (s->said.code < 0)
			code = gw_fail(why, s->said.code, "%s", s->said.why);
	hang_up(s);
	free(s->text);
	free(s);
	return code;
}

/* ---- its birth ------------------------------------------------------------------------------------------------------- */

struct birth { const char *where; uint32_t job; void (*in_child)(void *ctx); void *ctx; };

static void become_scribe(void *ctx, int fd)
{
	const struct birth *b = ctx;

	if (b->in_child)
		b->in_child(b->ctx);
	scribe_file(fd, b->where, b->job);
}

int scribe_start(struct scribe **out, struct gw_loop *loop, const char *where, uint32_t job, void (*in_child)(void *ctx),
                 const struct scribe_ops *ops, void *ctx, struct gw_error *why)
{
	struct scribe *s = calloc(1, sizeof(*s));
	int pair[2], code = 0;
	struct birth birth = { where, job, in_child, ctx };

	if (!s)
		return gw_fail(why, -ENOMEM, "out of memory");
	*s = (struct scribe){ .ops = ops, .ctx = ctx, .heeded_ns = gw_now_ns() };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(s);
		return gw_fail(why, -errno, "no channel: %s", strerror(errno));
	}
	s->pid = errand_fork("godwit-scribe", pair[1], become_scribe, &birth);
	code = s->pid < 0 ? (int)s->pid : 0;
	s->fd = pair[0];
	close(pair[1]);
	if (code == 0)
		code = gw_loop_watch(loop, &s->watch, s->fd, EPOLLIN, on_ready, s);
	if (code < 0) {
		if (s->pid > 0)
			scribe_end(s, 0, NULL);
		else
			close(s->fd), free(s);
		return gw_fail(why, code, "no process that writes: %s%s", strerror(-code), gw_advice(code));
	}
	*out = s;
	return 0;
}
