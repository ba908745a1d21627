/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames over a stream socket: a receive buffer that is cut into frames, a queue of what the socket would not take. */
#include "runtime/base/link.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define FRAME_MAGIC   0x6b6e6c67u /* "glnk" */
#define FRAME_FDS_MAX 8
#define FRAME_ALIGN   16          /* frames are padded to it on the wire, so that every payload is aligned in the buffer */
#define RECV_MIN      (64u << 10)
#define LOW_MARK      (64u << 10)
#define FLUSH_MS      5000
#define CONNECT_S     3

struct frame_head { /* little endian; version 1 is its magic */
	uint32_t magic;
	uint16_t type, flags;
	uint32_t length, n_fds;
};
_Static_assert(sizeof(struct frame_head) == 16, "wire format");

struct out_frame {
	struct gw_list node;
	size_t size, sent;
	int fds[FRAME_FDS_MAX];
	size_t n_fds;           /* not sent yet; they go with the first byte */
	char bytes[];
};

struct gw_link {
	struct gw_loop *loop;
	struct gw_watch *watch;
	const struct gw_link_ops *ops;
	void *ctx;
	int fd;
	int depth;              /* callbacks that are running: the struct must outlive them */
	bool is_destroyed, is_closed, cannot_send, wants_drained;
	int send_error;           /* of the network, as sending was told it: reading then finds a mere end */

	char *in;               /* 16-byte aligned; frames start at multiples of FRAME_ALIGN */
	size_t in_cap, in_len;
	int in_fds[2 * FRAME_FDS_MAX];
	size_t n_in_fds;

	struct gw_list out;
	size_t queued;
};

static size_t padded(size_t n)
{
	return (n + FRAME_ALIGN - 1) & ~(size_t)(FRAME_ALIGN - 1);
}

static void close_fds(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void out_drop_all(struct gw_link *l)
{
	gw_list_for_safe(e, &l->out) {
		struct out_frame *f = gw_list_entry(e, struct out_frame, node);

		close_fds(f->fds, f->n_fds);
		free(f);
	}
	gw_list_init(&l->out);
	l->queued = 0;
}

static void link_free(struct gw_link *l)
{
	out_drop_all(l);
	close_fds(l->in_fds, l->n_in_fds);
	free(l->in);
	free(l);
}

static bool leave(struct gw_link *l)
{
	assert(l->depth > 0);
	if (--l->depth == 0 && l->is_destroyed) {
		link_free(l);
		return false;
	}
	return !l->is_destroyed && !l->is_closed;
}

static void link_closed(struct gw_link *l, int error)
{
	if (l->is_closed || l->is_destroyed)
		return;
	l->is_closed = true;
	gw_watch_remove(l->watch);
	l->watch = NULL;
	out_drop_all(l);
	if (l->ops->closed)
		l->ops->closed(l, l->ctx, error);
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

static void deliver(struct gw_link *l, const struct frame_head *h, const char *payload, int *fds, size_t n_fds)
{
	if (h->type == GW_FRAME_JSON && l->ops->json) {
		json_error_t e;
		json_t *msg = json_loadb(payload, h->length, 0, &e);

		if (!json_is_object(msg)) {
			gw_log(GW_ERROR, "link: a frame of %u bytes is not a JSON object: %s", h->length, e.text);
			json_decref(msg);
			close_fds(fds, n_fds);
			link_closed(l, -EPROTO);
			return;
		}
		l->ops->json(l, l->ctx, msg, fds, n_fds);
		json_decref(msg);
	} else if (l->ops->frame) {
		l->ops->frame(l, l->ctx, h->type, payload, h->length, fds, n_fds);
	} else {
		gw_log(GW_WARN, "link: a frame of type %u that nobody expects", h->type);
	}
	close_fds(fds, n_fds);
}

/* Cut the buffer into frames. Return false when the link is closed or destroyed meanwhile. */
static bool parse(struct gw_link *l)
{
	size_t at = 0;

	while (l->in_len - at >= sizeof(struct frame_head)) {
		struct frame_head h;
		size_t size;
		int fds[FRAME_FDS_MAX];

		memcpy(&h, l->in + at, sizeof(h));
		if (h.magic != FRAME_MAGIC || h.length > GW_FRAME_MAX || h.n_fds > FRAME_FDS_MAX) {
			gw_log(GW_ERROR, "link: malformed frame (magic %08x, %u bytes, %u descriptors)", h.magic, h.length,
			       h.n_fds);
			link_closed(l, -EPROTO);
			return false;
		}
		size = sizeof(h) + padded(h.length);
		if (l->in_len - at < size) {
			if (size > l->in_cap) {
				char *bigger = NULL;

				if (posix_memalign((void **)&bigger, FRAME_ALIGN, size)) {
					link_closed(l, -ENOMEM);
					return false;
				}
				memcpy(bigger, l->in + at, l->in_len - at);
				free(l->in);
				l->in = bigger;
				l->in_cap = size;
				l->in_len -= at;
				at = 0;
			}
			break;
		}
		if (h.n_fds > l->n_in_fds) {
			gw_log(GW_ERROR, "link: a frame announces %u descriptors, %zu came", h.n_fds, l->n_in_fds);
			link_closed(l, -EPROTO);
			return false;
		}
		memcpy(fds, l->in_fds, h.n_fds * sizeof(int));
		l->n_in_fds -= h.n_fds;
		memmove(l->in_fds, l->in_fds + h.n_fds, l->n_in_fds * sizeof(int));
		deliver(l, &h, l->in + at + sizeof(h), fds, h.n_fds);
		if (l->is_closed || l->is_destroyed)
			return false;
		at += size;
	}
	if (at) {
		memmove(l->in, l->in + at, l->in_len - at);
		l->in_len -= at;
	}
	return true;
}

static ssize_t receive(struct gw_link *l)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(FRAME_FDS_MAX * sizeof(int))]; } control;
	struct iovec iov = { l->in + l->in_len, l->in_cap - l->in_len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
	                    .msg_controllen = sizeof(control.bytes) };
	ssize_t n;

	do
		n = recvmsg(l->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fds[FRAME_FDS_MAX];

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || count > FRAME_FDS_MAX)
			continue;
		memcpy(fds, CMSG_DATA(c), count * sizeof(int));
		if (l->n_in_fds + count > GW_ARRAY_LEN(l->in_fds)) {
			close_fds(fds, count);
			return -EPROTO;
		}
		memcpy(l->in_fds + l->n_in_fds, fds, count * sizeof(int));
		l->n_in_fds += count;
	}
	if (m.msg_flags & MSG_CTRUNC) /* more descriptors than we allow, or our own table is full */
		return -EMFILE;
	l->in_len += (size_t)n;
	return n;
}

static void on_readable(struct gw_link *l)
{
	bool was_reset = false;
	ssize_t n;

	for (;;) {
		n = receive(l);
		/* a Unix socket reports the reset before the data that the peer had sent: read on to its end */
		if (n == -ECONNRESET && !was_reset)
			was_reset = true;
		else
			break;
	}
	if (n == -EAGAIN)
		return;
	if (n == 0 && l->send_error)
		n = l->send_error;
	if (n <= 0) {
		link_closed(l, n == 0 && l->in_len == 0 ? 0 : n == 0 ? -EPIPE : (int)n);
		return;
	}
	parse(l);
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static ssize_t transmit(int fd, struct iovec *iov, size_t iovs, const int *fds, size_t n_fds)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(FRAME_FDS_MAX * sizeof(int))]; } control;
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = iovs };
	ssize_t n;

	if (n_fds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	do
		n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void note_send_error(struct gw_link *l, int error)
{
	if (error != -EPIPE && error != -ECONNRESET)
		l->send_error = error;
}

/* Write what the socket takes. Return 0, or the error that ended sending for good. */
static int push(struct gw_link *l)
{
	while (l->fd >= 0 && !gw_list_is_empty(&l->out)) {
		struct out_frame *f = gw_list_entry(l->out.next, struct out_frame, node);
		struct iovec iov = { f->bytes + f->sent, f->size - f->sent };
		ssize_t n = transmit(l->fd, &iov, 1, f->fds, f->n_fds);

		if (n == -EAGAIN)
			return 0;
		if (n < 0) {
			note_send_error(l, (int)n);
			l->cannot_send = true; /* reading goes on: the peer's last words may be there; then its end is reported */
			out_drop_all(l);
			return (int)n;
		}
		close_fds(f->fds, f->n_fds);
		f->n_fds = 0;
		f->sent += (size_t)n;
		l->queued -= (size_t)n;
		if (f->sent == f->size) {
			gw_list_remove(&f->node);
			free(f);
		}
	}
	return 0;
}

static void update_watch(struct gw_link *l)
{
	if (l->watch)
		gw_watch_set(l->watch, EPOLLIN | (gw_list_is_empty(&l->out) ? 0 : EPOLLOUT));
}

static void on_event(void *ctx, uint32_t events)
{
	struct gw_link *l = ctx;

	l->depth++;
	if (events & EPOLLOUT) {
		push(l);
		update_watch(l);
		if (l->wants_drained && l->queued < LOW_MARK) {
			l->wants_drained = false;
			if (l->ops->drained)
				l->ops->drained(l, l->ctx);
		}
	}
	if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !l->is_closed && !l->is_destroyed)
		on_readable(l);
	leave(l);
}

int gw_link_send(struct gw_link *l, uint16_t type, const void *payload, size_t len, const int *fds, size_t n_fds)
{
	static const char zeroes[FRAME_ALIGN];
	struct frame_head h = { FRAME_MAGIC, type, 0, (uint32_t)len, (uint32_t)n_fds };
	size_t size = sizeof(h) + padded(len), sent = 0;
	struct iovec iov[3] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, len },
	                        { (void *)(uintptr_t)zeroes, padded(len) - len } };
	struct out_frame *f;
	char *at;

	if (len > GW_FRAME_MAX || n_fds > FRAME_FDS_MAX)
		return -EMSGSIZE;
	if (l->is_closed || l->is_destroyed || l->cannot_send)
		return -EPIPE;
	if (l->fd >= 0 && gw_list_is_empty(&l->out)) {
		ssize_t n = transmit(l->fd, iov, 3, fds, n_fds);

		if (n < 0 && n != -EAGAIN) {
			note_send_error(l, (int)n);
			l->cannot_send = true;
			return n == -ECONNRESET ? -EPIPE : (int)n;
		}
		sent = n < 0 ? 0 : (size_t)n;
		if (sent == size)
			return 0;
	}
	f = malloc(sizeof(*f) + size - sent);
	if (!f) {
		if (sent)
			l->cannot_send = true; /* half a frame is out: nothing sensible can follow it */
		return -ENOMEM;
	}
	f->size = size - sent;
	f->sent = 0;
	f->n_fds = 0;
	for (size_t i = 0; sent == 0 && i < n_fds; i++) {
		int copy = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

		if (copy < 0) {
			int code = -errno;

			close_fds(f->fds, f->n_fds);
			free(f);
			return code;
		}
		f->fds[f->n_fds++] = copy;
	}
	at = f->bytes;
	for (size_t i = 0, skip = sent; i < GW_ARRAY_LEN(iov); i++) { /* what the socket has not taken */
		size_t n = iov[i].iov_len > skip ? iov[i].iov_len - skip : 0;

		if (n)
			memcpy(at, (const char *)iov[i].iov_base + (iov[i].iov_len - n), n);
		at += n;
		skip -= iov[i].iov_len - n;
	}
	gw_list_append(&l->out, &f->node);
	l->queued += f->size;
	l->wants_drained = true;
	update_watch(l);
	return 0;
}

int gw_link_send_json_fds(struct gw_link *l, json_t *msg, const int *fds, size_t n_fds)
{
	char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;
	int code = text ? gw_link_send(l, GW_FRAME_JSON, text, strlen(text), fds, n_fds) : -ENOMEM;

	if (!text) /* json_pack() has given nothing: who waits for it waits in vain, and it shall be known why */
		gw_log(GW_ERROR, "a message could not be made, and is not sent: out of memory, or something in it is not text (UTF-8)");
	free(text);
	json_decref(msg);
	return code;
}

int gw_link_send_json(struct gw_link *l, json_t *msg)
{
	return gw_link_send_json_fds(l, msg, NULL, 0);
}

size_t gw_link_queued(const struct gw_link *l)
{
	return l->queued;
}

int gw_link_flush(struct gw_link *l)
{
	uint64_t end = gw_now_ns() + FLUSH_MS * 1000000ull;

	while (l->fd >= 0 && !gw_list_is_empty(&l->out)) {
		struct pollfd p = { l->fd, POLLOUT, 0 };
		uint64_t now = gw_now_ns();
		int code;

		if (now >= end)
			return -ETIMEDOUT;
		if (poll(&p, 1, (int)((end - now) / 1000000) + 1) < 0 && errno != EINTR)
			return -errno;
		code = push(l);
		if (code < 0)
			return code;
	}
	update_watch(l);
	return l->cannot_send ? -EPIPE : 0;
}

int gw_link_fd(const struct gw_link *l)
{
	return l->fd;
}

int gw_link_create_held(struct gw_link **out, struct gw_loop *loop, const struct gw_link_ops *ops, void *ctx)
{
	struct gw_link *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	gw_list_init(&l->out);
	l->loop = loop;
	l->fd = -1;
	l->ops = ops;
	l->ctx = ctx;
	l->in_cap = RECV_MIN;
	if (posix_memalign((void **)&l->in, FRAME_ALIGN, l->in_cap)) {
		free(l);
		return -ENOMEM;
	}
	*out = l;
	return 0;
}

int gw_link_open(struct gw_link *l, int fd)
{
	int flags = fcntl(fd, F_GETFL), code = 0;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		code = -errno;
	if (code == 0)
		code = gw_loop_watch(l->loop, &l->watch, fd, EPOLLIN, on_event, l);
	if (code < 0) {
		close(fd);
		return code;
	}
	l->fd = fd;
	push(l); /* an error of it is heard by reading */
	update_watch(l);
	return 0;
}

int gw_link_create(struct gw_link **out, struct gw_loop *loop, int fd, const struct gw_link_ops *ops, void *ctx)
{
	struct gw_link *l;
	int code = gw_link_create_held(&l, loop, ops, ctx);

	if (code < 0) {
		close(fd);
		return code;
	}
	code = gw_link_open(l, fd);
	if (code < 0)
		link_free(l);
	else
		*out = l;
	return code;
}

void gw_link_destroy(struct gw_link *l)
{
	if (!l || l->is_destroyed)
		return;
	l->is_destroyed = true;
	gw_watch_close(&l->watch, &l->fd);
	if (l->depth == 0)
		link_free(l);
}

/* ---- abstract Unix sockets ------------------------------------------------------------------------------------- */

static int unix_address(struct sockaddr_un *a, socklen_t *len, const char *name, struct gw_error *why)
{
	size_t n = strlen(name);

	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	if (n == 0 || n > sizeof(a->sun_path) - 1)
		return gw_fail(why, -ENAMETOOLONG, "socket name '%s' has %zu bytes; between 1 and %zu are possible", name, n,
		               sizeof(a->sun_path) - 1);
	memcpy(a->sun_path + 1, name, n);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
	return 0;
}

/* Anybody on the machine can take or reach an abstract name: both ends look who the other is. */
static int check_peer(int fd, const char *name, struct gw_error *why)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return gw_fail(why, -errno, "cannot tell who is at socket '%s': %s", name, strerror(errno));
	if (cred.uid != geteuid() && cred.uid != 0)
		return gw_fail(why, -EACCES, "socket '%s': process %d belongs to user %u, not to user %u", name, (int)cred.pid,
		               (unsigned)cred.uid, (unsigned)geteuid());
	return 0;
}

/* Somebody else has the name: who? */
static int name_taken(const struct sockaddr_un *a, socklen_t len, const char *name, struct gw_error *why)
{
	gw_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred cred = { 0 };
	socklen_t size = sizeof(cred);

	if (fd < 0 || connect(fd, (const struct sockaddr *)a, len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return gw_fail(why, -EADDRINUSE, "cannot listen at socket '%s': the name is taken", name);
	return gw_fail(why, -EADDRINUSE, "cannot listen at socket '%s': process %d of user %u has taken that name", name,
	               (int)cred.pid, (unsigned)cred.uid);
}

int gw_listen_unix(const char *name, struct gw_error *why)
{
	struct sockaddr_un a;
	socklen_t len;
	gw_autoclose int fd = -1;
	int code = unix_address(&a, &len, name, why), out;

	if (code < 0)
		return code;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 128) < 0)
		return fd >= 0 && errno == EADDRINUSE ? name_taken(&a, len, name, why) :
		       gw_fail(why, -errno, "cannot listen at socket '%s': %s%s", name, strerror(errno), gw_advice(errno));
	out = fd;
	fd = -1;
	return out;
}

int gw_connect_unix(const char *name, struct gw_error *why)
{
	struct sockaddr_un a;
	socklen_t len;
	struct timeval limit = { .tv_sec = CONNECT_S };
	gw_autoclose int fd = -1;
	int code = unix_address(&a, &len, name, why), out;

	if (code < 0)
		return code;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) /* who does not accept must not hold us up for ever; connect() waits as sending does */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, len) < 0)
		return gw_fail(why, -errno, "cannot connect to socket '%s': %s", name,
		               errno == EAGAIN ? "whoever listens there does not accept" : strerror(errno));
	code = check_peer(fd, name, why);
	if (code < 0)
		return code;
	out = fd;
	fd = -1;
	return out;
}

int gw_probe_unix(const char *name)
{
	struct sockaddr_un a;
	socklen_t len;
	gw_autoclose int fd = -1;
	int code = unix_address(&a, &len, name, NULL);

	if (code < 0)
		return code;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, len) < 0)
		return -errno;
	return check_peer(fd, name, NULL);
}

int gw_accept_unix(int listener, struct gw_error *why)
{
	gw_autoclose int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	int code, out;

	if (fd < 0)
		return gw_fail(why, -errno, "cannot accept a connection: %s", strerror(errno));
	code = check_peer(fd, "(accepted)", why);
	if (code < 0)
		return code;
	out = fd;
	fd = -1;
	return out;
}
