/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes in flight at a move: what the rank has not read yet, and what it was in the middle of writing. */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SEQPACKET_MAX 262144

static int unread_add(struct ct_snapshot *s, uint32_t plumb, uint32_t pipe, const void *p, size_t len)
{
	struct ct_unread u = { .head = { .plumb = plumb, .pipe = pipe, .length = len }, .at = s->bytes.n };
	int rc = ct_vec_append(&s->bytes, p, len);

	return rc < 0 ? rc : ct_vec_append(&s->unread, &u, 1);
}

/* tee copies what is in a pipe without taking it out, into a pipe of ours that is as large */
static int pipe_peek(struct ct_snapshot *s, int fd, uint32_t plumb, uint32_t pipe)
{
	int n = 0, ours[2], rc = 0, size;
	gw_autofree char *buf = NULL;
	size_t len = 0;
	ssize_t got;

	if (ioctl(fd, FIONREAD, &n) < 0)
		return -errno;
	if (n <= 0)
		return 0;
	buf = malloc((size_t)n);
	if (!buf)
		return -ENOMEM;
	if (pipe2(ours, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	size = fcntl(fd, F_GETPIPE_SZ);
	if (size > 65536 && fcntl(ours[1], F_SETPIPE_SZ, size) < 0)
		rc = -errno;
	if (rc == 0 && tee(fd, ours[1], (size_t)n, SPLICE_F_NONBLOCK) < 0)
		rc = -errno;
	while (rc == 0 && len < (size_t)n) {
		got = read(ours[0], buf + len, (size_t)n - len);
		if (got <= 0)
			rc = got < 0 ? -errno : -EIO;
		else
			len += (size_t)got;
	}
	close(ours[0]);
	close(ours[1]);
	return rc < 0 ? rc : unread_add(s, plumb, pipe, buf, len);
}

static int stream_peek(struct ct_snapshot *s, int fd, uint32_t plumb)
{
	gw_autofree char *buf = NULL;
	ssize_t got;
	int n = 0;

	if (ioctl(fd, SIOCINQ, &n) < 0)
		return -errno;
	if (n <= 0)
		return 0;
	buf = malloc((size_t)n);
	if (!buf)
		return -ENOMEM;
	got = recv(fd, buf, (size_t)n, MSG_PEEK | MSG_DONTWAIT);
	if (got != n)
		return got < 0 ? -errno : -EIO;
	return unread_add(s, plumb, 0, buf, (size_t)n);
}

/* with a peek offset each MSG_PEEK shows the next packet */
static int packets_peek(struct ct_snapshot *s, int fd, uint32_t plumb, uint32_t pipe)
{
	static char buf[SEQPACKET_MAX]; /* the daemon has one thread that captures; to map as much takes time that the rank stands */
	int off = 0, none = -1, rc = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)) < 0)
		return -errno;
	for (;;) {
		char control[256];
		struct iovec iov = { buf, SEQPACKET_MAX };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			.msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		bool has_fds = false;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			rc = n == 0 || errno == EAGAIN ? 0 : -errno;
			break;
		}
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
			if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
				for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
					int copy;

					memcpy(&copy, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
					close(copy);
					has_fds = true;
				}
		if (has_fds || (msg.msg_flags & MSG_TRUNC)) {
			rc = has_fds ? -EAGAIN : -EMSGSIZE;
			break;
		}
		rc = unread_add(s, plumb, pipe, buf, (size_t)n);
		if (rc < 0)
			break;
	}
	setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &none, sizeof(none));
	return rc;
}

int ct_unread_take(struct ct_rank *r, struct gw_error *why)
{
	struct ct_snapshot *s = &r->snap;
	uint32_t done_plumbs = 0, i = 0;

	s->unread.n = s->bytes.n = 0;
	for CT_EACH(const struct ct_img_fd, fd, &s->fds) {
		bool is_mine = fd->same_as == i++ && (fd->status_flags & O_ACCMODE) != O_WRONLY;
		gw_autoclose int copy = -1;
		int type = 0, rc;
		socklen_t len = sizeof(type);

		if (!is_mine || (fd->kind != CT_FD_PLUMB && fd->kind != CT_FD_PIPE && fd->kind != CT_FD_PAIR))
			continue;
		if (fd->kind == CT_FD_PLUMB && (done_plumbs & 1u << fd->plumb))
			continue;
		copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd->number, 0);
		if (copy < 0)
			return gw_fail(why, -errno, "cannot look into fd %u: %s (pidfd_getfd, Linux 5.6; 'godwit doctor' says more)", fd->number, strerror(errno));
		if (fd->kind == CT_FD_PIPE) {
			/* a second reading end must not bring the bytes twice */
			for CT_EACH(const struct ct_unread, u, &s->unread)
				if (u->head.pipe == fd->plumb)
					is_mine = false;
			rc = is_mine ? pipe_peek(s, copy, 0, fd->plumb) : 0;
		} else if (fd->kind == CT_FD_PAIR) {
			rc = packets_peek(s, copy, 0, fd->plumb | CT_UNREAD_PAIR | (fd->end ? CT_UNREAD_END : 0));
		} else {
			done_plumbs |= 1u << fd->plumb;
			if (getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
				rc = pipe_peek(s, copy, fd->plumb, 0);
			else
				rc = type == SOCK_SEQPACKET ? packets_peek(s, copy, fd->plumb, 0) : stream_peek(s, copy, fd->plumb);
		}
		if (rc == -EAGAIN)
			return gw_fail(why, rc, "a message with a descriptor waits on fd %u; try again", fd->number);
		if (rc < 0)
			return gw_fail(why, rc, "cannot copy the unread bytes of fd %u: %s", fd->number, strerror(-rc));
	}
	return 0;
}

/* ---- giving them back ------------------------------------------------------------------------------------------ */

/* a writing end of the pipe behind descriptor @number of the shell */
static int pipe_writer(struct ct_rank *r, uint32_t number, size_t want)
{
	gw_autoclose int copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	char path[64];
	int fd;

	if (copy < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", copy);
	fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (want > 65536)
		fcntl(fd, F_SETPIPE_SZ, (int)want);
	return fd;
}

int ct_unread_give(struct ct_rank *r, const struct ct_snapshot *s, struct gw_error *why)
{
	for CT_EACH(const struct ct_unread, u, &s->unread) {
		const unsigned char *p = (const unsigned char *)s->bytes.at + u->at;
		const struct ct_img_fd *to = NULL;
		gw_autoclose int writer = -1, copy = -1;
		ssize_t n;
		int fd;

		for CT_EACH(const struct ct_img_fd, fd2, &s->fds)
			if (u->head.pipe & CT_UNREAD_PAIR) { /* it was sent at the other end */
				if (fd2->kind == CT_FD_PAIR && fd2->plumb == (u->head.pipe & CT_UNREAD_MASK) &&
				    fd2->end == !(u->head.pipe & CT_UNREAD_END))
					to = fd2;
			} else if (!to && fd2->plumb == (u->head.plumb ? u->head.plumb : u->head.pipe) &&
			    fd2->kind == (u->head.plumb ? (uint32_t)CT_FD_PLUMB : (uint32_t)CT_FD_PIPE))
				to = fd2;
		if (!to)
			return gw_fail(why, -EBADMSG, "the image is damaged: unread bytes of a descriptor that is not listed");
		if (u->head.plumb && r->daemon_fd[u->head.plumb] >= 0) {
			fd = r->daemon_fd[u->head.plumb];
		} else if (to->kind == CT_FD_PAIR) {
			fd = copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, to->number, 0);
			if (fd < 0)
				return gw_fail(why, -errno, "cannot reach fd %u of the shell: %s", to->number, strerror(errno));
		} else {
			fd = writer = pipe_writer(r, to->number, u->head.length);
			if (fd < 0)
				return gw_fail(why, fd, "%llu unread bytes of fd %u have no way in: the caller gave no daemon_fd (%s)",
				               (unsigned long long)u->head.length, to->number, strerror(-fd));
		}
		if (writer >= 0)
			n = write(fd, p, u->head.length);
		else
			n = send(fd, p, u->head.length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == ENOTSOCK)
			n = write(fd, p, u->head.length);
		if (n != (ssize_t)u->head.length)
			return gw_fail(why, n < 0 ? -errno : -EIO, "cannot put %llu unread bytes back into fd %u: %s",
			               (unsigned long long)u->head.length, to->number, n < 0 ? strerror(errno) : "no room");
	}
	return 0;
}

/* ---- writes that were cut short -------------------------------------------------------------------------------- */

static int rest_of_vector(struct ct_rank *r, struct ct_thread *t, struct ct_vec *rest)
{
	const struct user_regs_struct *g = &t->regs;
	uint64_t done = g->rax, total = 0;
	struct iovec iov[1024];

	if (g->rdx > GW_ARRAY_LEN(iov) || ct_mem_read(r->pid, g->rsi, iov, g->rdx * sizeof(iov[0])) < 0)
		return 0;
	for (size_t i = 0; i < g->rdx; i++) {
		size_t skip = done < iov[i].iov_len ? (size_t)done : iov[i].iov_len, n = iov[i].iov_len - skip;
		unsigned char *to;

		total += iov[i].iov_len;
		done -= skip;
		if (!n)
			continue;
		to = ct_vec_add(rest, n);
		if (!to)
			return -ENOMEM;
		if (ct_mem_read(r->pid, (uint64_t)(uintptr_t)iov[i].iov_base + skip, to, n) < 0)
			return -EFAULT;
	}
	if (total > g->rax)
		t->full_result = total;
	return 0;
}

int ct_rest_take(struct ct_rank *r, struct gw_error *why)
{
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		r->rest[i].n = 0;
	for CT_EACH(struct ct_thread, t, &r->threads) {
		const struct user_regs_struct *g = &t->regs;
		const struct ct_img_fd *to = NULL;
		int rc = 0;

		t->full_result = 0;
		if ((g->orig_rax != SYS_write && g->orig_rax != SYS_writev) || (long long)g->rax <= 0)
			continue;
		for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds)
			if (fd->number == (uint32_t)g->rdi)
				to = fd;
		if (!to || to->kind != CT_FD_PLUMB || (to->plumb != CT_PLUMB_STDOUT && to->plumb != CT_PLUMB_STDERR) ||
		    (to->status_flags & O_NONBLOCK))
			continue;
		if (g->orig_rax == SYS_writev) {
			rc = rest_of_vector(r, t, &r->rest[to->plumb]);
		} else if (g->rax < g->rdx) {
			unsigned char *p = ct_vec_add(&r->rest[to->plumb], g->rdx - g->rax);

			rc = p ? ct_mem_read(r->pid, g->rsi + g->rax, p, g->rdx - g->rax) : -ENOMEM;
			t->full_result = g->rdx;
		}
		if (rc < 0)
			return gw_fail(why, rc, "cannot read what fd %u was about to be given: %s", to->number, strerror(-rc));
	}
	return 0;
}

ssize_t ct_rank_stream_rest(struct ct_rank *r, enum ct_plumb plumb, const void **bytes)
{
	if ((r->state != CT_FROZEN && !r->is_still) || (int)plumb <= 0 || plumb >= CT_PLUMB_MAX)
		return -EINVAL;
	*bytes = r->rest[plumb].at;
	return (ssize_t)r->rest[plumb].n;
}
