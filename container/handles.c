/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors that go on only as what they are: a locked file, an inotify instance, a message queue, a file without a name, an
 * end of a pipe or socket whose other end others have. No new one at the destination would be the same.
 *
 * Between two clusters of one host the open file itself is handed over: the destination's daemon fetches it from the frozen rank
 * (pidfd_getfd) and passes it into the shell (SCM_RIGHTS). It is never closed on the way, so nobody else can take a lock
 * meanwhile, nothing that is queued is lost, and if the move fails the source has it still.
 */
#include "container/rank.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- source ------------------------------------------------------------------------------------------------------ */

void ct_rank_way(struct ct_rank *r, enum ct_way way)
{
	r->way = way;
}

/* field 22 of /proc/PID/stat: a pid may be used again, but not with this */
static uint64_t start_time(pid_t pid)
{
	unsigned long long when = 0;
	char text[1024], *p;

	if (ct_proc_read(pid, "stat", text, sizeof(text)) <= 0 || !(p = strrchr(text, ')')))
		return 0;
	for (int i = 2; i < 22 && p; i++)
		p = strchr(p + 1, ' ');
	return p && sscanf(p, " %llu", &when) == 1 ? when : 0;
}

/**
 * ct_handle_add - the open file of descriptor @n is to be handed over
 * Return: 0; -ENOTSUP where this move cannot: it holds the rank, or something else must be done; -ENOMEM.
 */
int ct_handle_add(struct ct_rank *r, struct ct_snapshot *s, uint32_t n, const struct stat *st, const char *what)
{
	struct ct_img_handle *h;

	if (r->way != CT_WAY_NEAR)
		return -ENOTSUP;
	h = ct_vec_add(&s->handles, 1);
	if (!h)
		return -ENOMEM;
	*h = (struct ct_img_handle){ .fd = n, .pid = (uint32_t)r->pid, .pid_start = start_time(r->pid), .dev = st->st_dev,
		.ino = st->st_ino, .what = ct_snapshot_string(s, what) };
	return h->what || !what[0] ? 0 : -ENOMEM;
}

/* ---- destination ------------------------------------------------------------------------------------------------- */

static int fetch(const struct ct_img_handle *h)
{
	gw_autoclose int pidfd = (int)syscall(SYS_pidfd_open, h->pid, 0);
	struct stat st;
	int fd, rc;

	if (pidfd < 0)
		return -errno;
	if (start_time((pid_t)h->pid) != h->pid_start)
		return -ESRCH;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, h->fd, 0);
	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) < 0 ? -errno : st.st_ino != h->ino || st.st_dev != h->dev ? -ESTALE : 0;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int ct_fit_handles(const struct ct_fit *f, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_handle, h, &f->hint->handles) {
		int fd = fetch(h);

		if (fd == -EBADF || fd == -ESTALE) /* closed since, or another one by now: what the image says will count */
			continue;
		if (fd < 0)
			return gw_fail(why, fd, "fd %u of the rank is %s, which must be handed over, and this daemon cannot fetch it: %s (process "
			               "%u, pidfd_getfd); close it, or keep the rank with 'godwit pin'", h->fd, ct_snapshot_text(f->hint, h->what),
			               strerror(-fd), h->pid);
		close(fd);
	}
	return 0;
}

const struct ct_img_handle *ct_handle_of(const struct ct_snapshot *s, uint32_t n)
{
	for CT_EACH(const struct ct_img_handle, h, &s->handles)
		if (h->fd == n)
			return h;
	return NULL;
}

/* where it is parked in the shell: above the memory files */
uint32_t ct_handle_number(const struct ct_rank *r, const struct ct_img_handle *h)
{
	return ct_memory_number(r, 2 * (uint32_t)r->snap.memories.n) + (uint32_t)(h - (const struct ct_img_handle *)r->snap.handles.at);
}

static int pass(int sock, int fd)
{
	union { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { "h", 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -errno;
}

/* one more that the shell takes from its end, number 0, and parks */
static void take(struct ct_rank *r, uint32_t to)
{
	struct ct_remote *m = &r->remote;
	struct iovec iov = { (void *)ct_remote_data(m, NULL, 1), 1 };
	size_t room = CMSG_SPACE(sizeof(int));
	struct msghdr msg = { .msg_iovlen = 1, .msg_control = (void *)ct_remote_data(m, NULL, room), .msg_controllen = room };

	msg.msg_iov = (void *)ct_remote_data(m, &iov, sizeof(iov));
	CT_CALL(m, "take a descriptor that is handed over", CT_CALL_EQUAL, SYS_recvmsg, 0, ct_remote_data(m, &msg, sizeof(msg)),
	        MSG_CMSG_CLOEXEC | MSG_DONTWAIT)->expect = 1;
	CT_CALL(m, "park a descriptor that is handed over", CT_CALL_EQUAL, SYS_dup3, 2, to, O_CLOEXEC)->expect = to;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, 2);
}

/* The shell has no descriptor yet but those that are parked. */
int ct_handles_take(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	gw_autoclose int sock = -1;
	int rc;

	if (!r->snap.handles.n)
		return 0;
	rc = ct_restore_room(r, 1, 64, why);
	if (rc < 0)
		return rc;
	CT_CALL(m, "make a pair of sockets", CT_CALL_OK, SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
	        ct_remote_data(m, NULL, 8));
	rc = ct_restore_run(r, why);
	if (rc < 0)
		return rc;
	sock = (int)syscall(SYS_pidfd_getfd, r->pidfd, 1, 0);
	if (sock < 0)
		return gw_fail(why, -errno, "cannot reach a socket of the shell: %s", strerror(errno));
	for CT_EACH(const struct ct_img_handle, h, &r->snap.handles) {
		int fd = fetch(h);

		rc = fd < 0 ? fd : pass(sock, fd);
		if (fd >= 0)
			close(fd); /* it is in the socket, or the move ends: the source has it in any case */
		if (rc < 0)
			return gw_fail(why, rc, "fd %u of the rank, %s, could not be handed over: %s", h->fd, ct_snapshot_text(&r->snap, h->what),
			               strerror(-rc));
		rc = ct_restore_room(r, 3, 256, why);
		if (rc < 0)
			return rc;
		take(r, ct_handle_number(r, h));
		rc = ct_restore_run(r, why); /* one by one: only few may wait in a socket */
		if (rc < 0)
			return rc;
	}
	rc = ct_restore_room(r, 2, 0, why);
	if (rc < 0)
		return rc;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, 0);
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, 1);
	return ct_restore_run(r, why);
}
