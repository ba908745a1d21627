/* SPDX-License-Identifier: BSD-2-Clause */
/* The descriptors of a rank, made in its shell. */
#include "container/rank.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* Descriptors are made in ascending order, so the lowest free number is always known, and an open that gives another
 * is an error at once. Ends that serve several numbers wait at high numbers: the plumbing and the rank's own pipes. */
struct fds {
	struct ct_rank *r;
	unsigned char *is_used; /* by number; up to the parked ones */
	uint32_t lowest, high;  /* lowest free; first of the parked */
	uint32_t pipes;         /* made so far; the k-th is at high + 16 + 2k and the next */
};

static uint32_t lowest(struct fds *f)
{
	while (f->lowest < f->high && f->is_used[f->lowest])
		f->lowest++;
	return f->lowest;
}

/* what a call gets that makes two at once; false when there are not that many */
static bool lowest_two(struct fds *f, uint32_t *a, uint32_t *b)
{
	*a = lowest(f);
	*b = *a + 1;
	while (*b < f->high && f->is_used[*b])
		(*b)++;
	return *b < f->high;
}

/* what the last call opened at the lowest number shall be @fd->number */
static void settle(struct fds *f, const struct ct_img_fd *fd, uint32_t at)
{
	if (at != fd->number) {
		CT_CALL(&f->r->remote, "place a descriptor", CT_CALL_EQUAL, SYS_dup3, at, fd->number,
		        fd->is_cloexec ? O_CLOEXEC : 0)->expect = fd->number;
		CT_CALL(&f->r->remote, "close", CT_CALL_OK, SYS_close, at);
	} else if (fd->is_cloexec) {
		CT_CALL(&f->r->remote, "mark a descriptor", CT_CALL_OK, SYS_fcntl, at, F_SETFD, FD_CLOEXEC);
	}
}

static void dup_to(struct fds *f, uint32_t from, const struct ct_img_fd *fd)
{
	CT_CALL(&f->r->remote, "place a descriptor", CT_CALL_EQUAL, SYS_dup3, from, fd->number,
	        fd->is_cloexec ? O_CLOEXEC : 0)->expect = fd->number;
}

static int make_pipe(struct fds *f, const struct ct_img_fd *fd)
{
	struct ct_remote *m = &f->r->remote;
	uint32_t a, b, to = f->high + 16 + 2 * fd->plumb;

	if (!lowest_two(f, &a, &b))
		return -EMFILE;
	if (fd->kind == CT_FD_PAIR)
		CT_CALL(m, "make a pair of sockets", CT_CALL_OK, SYS_socketpair, AF_UNIX, fd->socket_type | SOCK_CLOEXEC, 0,
		        ct_remote_data(m, NULL, 8));
	else
		CT_CALL(m, "make a pipe", CT_CALL_OK, SYS_pipe2, ct_remote_data(m, NULL, 8), O_CLOEXEC);
	CT_CALL(m, "park a pipe", CT_CALL_EQUAL, SYS_dup3, a, to, O_CLOEXEC)->expect = to;
	CT_CALL(m, "park a pipe", CT_CALL_EQUAL, SYS_dup3, b, to + 1, O_CLOEXEC)->expect = to + 1;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, a);
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, b);
	if (fd->kind == CT_FD_PIPE && fd->offset)
		CT_CALL(m, "size a pipe", 0, SYS_fcntl, to, F_SETPIPE_SZ, fd->offset);
	return 0;
}

/* A UNIX socket that never had a peer, or one of a pair whose other end is closed at once. */
static int make_socket(struct fds *f, const struct ct_img_fd *fd)
{
	static uint64_t closed; /* of this process; with its clock no other has the same name while both are open */
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct ct_remote *m = &f->r->remote;
	uint32_t a = lowest(f), b;
	socklen_t len;

	if (!fd->is_hung_up) {
		CT_CALL(m, "make a socket", CT_CALL_EQUAL, SYS_socket, AF_UNIX, fd->socket_type, 0)->expect = a;
		settle(f, fd, a);
		return 0;
	}
	if (!lowest_two(f, &a, &b))
		return -EMFILE;
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
	      (size_t)snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, CT_CLOSED_NAME "%llx-%llu",
	                       (unsigned long long)gw_now_ns(), (unsigned long long)closed++));
	CT_CALL(m, "make a pair of sockets", CT_CALL_OK, SYS_socketpair, AF_UNIX, fd->socket_type, 0,
	        ct_remote_data(m, NULL, 8));
	CT_CALL(m, "name a socket", CT_CALL_OK, SYS_bind, b, ct_remote_data(m, &name, sizeof(name)), len);
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, b);
	settle(f, fd, a);
	return 0;
}

static int make_fd(struct fds *f, const struct ct_img_fd *fd, struct gw_error *why)
{
	struct ct_rank *r = f->r;
	struct ct_remote *m = &r->remote;
	const struct ct_img_fd *first = CT_AT(struct ct_img_fd, &r->snap.fds, fd->same_as);
	uint64_t keep = fd->status_flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC);
	const struct ct_img_file *file;
	const char *path;
	uint32_t at, is_second;
	const struct ct_img_handle *handle = ct_handle_of(&r->snap, fd->number);
	int rc = ct_restore_room(r, 12, 4300, why);

	if (rc < 0)
		return rc;
	if (first->number != fd->number) {
		dup_to(f, first->number, fd);
		f->is_used[fd->number] = 1;
		return 0;
	}
	if (handle) {
		dup_to(f, ct_handle_number(r, handle), fd);
		f->is_used[fd->number] = 1;
		return 0;
	}
	at = lowest(f);
	switch (fd->kind) {
	case CT_FD_FILE:
		file = CT_AT(struct ct_img_file, &r->snap.files, fd->file);
		path = ct_snapshot_text(&r->snap, file->path);
		if (file->flags & CT_IMG_FILE_CARRIED) {
			const struct ct_carried *c = ct_carried_find(r, file);

			if (!c)
				return gw_fail(why, -EBADMSG, "the image is damaged: '%s' travels and was not asked for", path);
			path = c->temp;
		}
		CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, path), keep | O_NOCTTY)->expect = at;
		settle(f, fd, at);
		if (fd->offset && (S_ISREG(file->mode) || S_ISDIR(file->mode)) && !(keep & O_PATH))
			CT_CALL(m, "set a file's position", CT_CALL_EQUAL, SYS_lseek, fd->number, fd->offset, SEEK_SET)->expect =
				fd->offset;
		break;
	case CT_FD_MEMORY: { /* opened anew, since each open file has a position of its own; O_NOFOLLOW would be of the link */
		char link[32];

		snprintf(link, sizeof(link), "/proc/self/fd/%u", ct_memory_number(r, fd->file));
		CT_CALL(m, "open a memory file", CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, link),
		        keep & ~(uint64_t)O_NOFOLLOW)->expect = at;
		settle(f, fd, at);
		if (fd->offset)
			CT_CALL(m, "set a file's position", CT_CALL_EQUAL, SYS_lseek, fd->number, fd->offset, SEEK_SET)->expect = fd->offset;
		break;
	}
	case CT_FD_PLUMB:
		if (r->plumb_fd[fd->plumb] < 0)
			return gw_fail(why, -EINVAL, "the rank's fd %u is plumbing %u, and the caller gave no end for it", fd->number,
			               fd->plumb);
		dup_to(f, (uint32_t)r->plumb_fd[fd->plumb], fd);
		CT_CALL(m, "set a stream's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & (O_APPEND | O_NONBLOCK));
		break;
	case CT_FD_EVENTFD:
		CT_CALL(m, "make an eventfd", CT_CALL_EQUAL, SYS_eventfd2, 0, fd->semaphore ? 1 : 0)->expect = at;
		settle(f, fd, at);
		if (fd->offset)
			CT_CALL(m, "fill an eventfd", CT_CALL_OK, SYS_write, fd->number,
			        ct_remote_data(m, &fd->offset, sizeof(fd->offset)), 8);
		CT_CALL(m, "set an eventfd's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & O_NONBLOCK);
		break;
	case CT_FD_SOCKET:
		rc = make_socket(f, fd);
		if (rc < 0)
			return gw_fail(why, rc, "no numbers are free for a socket");
		CT_CALL(m, "set a socket's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & O_NONBLOCK);
		break;
	case CT_FD_TIMER: /* set when the rank is thawed */
		CT_CALL(m, "make a timer descriptor", CT_CALL_EQUAL, SYS_timerfd_create, fd->clock, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_SIGNAL:
		CT_CALL(m, "make a signal descriptor", CT_CALL_EQUAL, SYS_signalfd4, -1, ct_remote_data(m, &fd->offset,
		        sizeof(fd->offset)), 8, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_PID:
		CT_CALL(m, "open a process", CT_CALL_EQUAL, SYS_pidfd_open, fd->offset, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_EPOLL: /* filled when all others are there */
		CT_CALL(m, "make an epoll instance", CT_CALL_EQUAL, SYS_epoll_create1, 0)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_PIPE:
	case CT_FD_PAIR:
		if (fd->plumb > f->pipes) {
			if (fd->plumb != f->pipes + 1)
				return gw_fail(why, -EBADMSG, "the image is damaged: pipes out of order");
			rc = make_pipe(f, fd);
			if (rc < 0)
				return gw_fail(why, rc, "no numbers are free for a pipe");
			f->pipes++;
		}
		is_second = fd->kind == CT_FD_PAIR ? fd->end : (fd->status_flags & O_ACCMODE) == O_WRONLY;
		dup_to(f, f->high + 16 + 2 * fd->plumb + is_second, fd);
		CT_CALL(m, "set a pipe's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & (O_APPEND | O_NONBLOCK));
		if (fd->kind == CT_FD_PAIR) {
			uint32_t sizes[2] = { (uint32_t)fd->offset / 2, (uint32_t)(fd->offset >> 32) / 2 }; /* the kernel doubles them */
			uint64_t data = ct_remote_data(m, sizes, sizeof(sizes));

			CT_CALL(m, "size a socket", 0, SYS_setsockopt, fd->number, SOL_SOCKET, SO_SNDBUF, data, 4);
			CT_CALL(m, "size a socket", 0, SYS_setsockopt, fd->number, SOL_SOCKET, SO_RCVBUF, data + 4, 4);
		}
		break;
	}
	f->is_used[fd->number] = 1;
	return 0;
}

int ct_restore_fds(struct ct_rank *r, struct gw_error *why)
{
	struct fds f = { .r = r, .high = (uint32_t)r->plumb_fd[0] };
	uint32_t exe = r->snap.process.exe_file;
	int rc = 0;

	f.is_used = calloc(f.high + 1, 1);
	if (!f.is_used)
		return gw_fail(why, -ENOMEM, "no memory for descriptors");
	rc = ct_handles_take(r, why);
	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds) {
		if (rc == 0 && fd->number >= f.high)
			rc = gw_fail(why, -EAGAIN, "the rank opened many descriptors since it was looked at; try again");
		if (rc == 0)
			rc = make_fd(&f, fd, why);
	}
	if (rc == 0)
		rc = ct_memory_seal(r, why);
	if (rc == 0)
		rc = ct_restore_room(r, 4, 64, why);
	if (rc == 0 && (exe & CT_IMG_EXE_MEMORY)) { /* nobody may have it open for writing when it becomes the program's file */
		char link[32];

		snprintf(link, sizeof(link), "/proc/self/fd/%u", ct_memory_number(r, exe ^ CT_IMG_EXE_MEMORY));
		ct_restore_open(r, link, lowest(&f), f.high++);
	}
	if (rc == 0)
		CT_CALL(&r->remote, "close what was parked", CT_CALL_OK, SYS_close_range, f.high, ~0u, 0);
	free(f.is_used);
	return rc;
}
