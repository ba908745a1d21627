/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pairs of connected UNIX sockets (socketpair) of which the rank has both ends, as event loops do: made anew where they cannot be
 * handed over, with what waits in them. Which two belong together only the kernel's socket tables tell (sock_diag).
 */
#include "container/rank.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* its peer's inode, 0 when that has closed; and which sides it has shut down */
static int peer_of(uint64_t ino, uint64_t *peer, unsigned *shut)
{
	struct { struct nlmsghdr h; struct unix_diag_req r; } ask = { .h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		.nlmsg_flags = NLM_F_REQUEST }, .r = { .sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_ino = (uint32_t)ino,
		.udiag_show = UDIAG_SHOW_PEER, .udiag_cookie = { ~0u, ~0u } } };
	gw_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	union { struct nlmsghdr h; char bytes[4096]; } got;
	struct timeval limit = { .tv_sec = 1 };
	ssize_t n;
	int left;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    send(fd, &ask, sizeof(ask), 0) != (ssize_t)sizeof(ask) || (n = recv(fd, &got, sizeof(got), 0)) < 0)
		return -errno;
	if (!NLMSG_OK(&got.h, (size_t)n) || got.h.nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return -ENOENT; /* an error of the kernel's, which may have no such tables */
	*peer = *shut = 0;
	left = (int)(got.h.nlmsg_len - NLMSG_LENGTH(sizeof(struct unix_diag_msg)));
	for (struct rtattr *a = (struct rtattr *)((char *)NLMSG_DATA(&got.h) + NLMSG_ALIGN(sizeof(struct unix_diag_msg))); RTA_OK(a, left);
	     a = RTA_NEXT(a, left)) {
		if (a->rta_type == UNIX_DIAG_PEER)
			*peer = *(uint32_t *)RTA_DATA(a);
		else if (a->rta_type == UNIX_DIAG_SHUTDOWN)
			*shut = *(uint8_t *)RTA_DATA(a);
	}
	return 0;
}

static int option(int fd, int name)
{
	socklen_t len = sizeof(int);
	int value = 0;

	return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -1 : value;
}

static bool has_limit(int fd, int name)
{
	struct timeval t = { 0 };
	socklen_t len = sizeof(t);

	return getsockopt(fd, SOL_SOCKET, name, &t, &len) < 0 || t.tv_sec || t.tv_usec;
}

/** ct_pair_look - may descriptor @fd of the rank be an end of such a pair, of a kind that can be made again? Fills it then */
bool ct_pair_look(const struct ct_rank *r, struct ct_img_fd *fd)
{
	gw_autoclose int copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd->number, 0);
	socklen_t n_own = sizeof(struct sockaddr_un), n_peer = n_own;
	struct sockaddr_un own, peer;

	if (copy < 0 || option(copy, SO_DOMAIN) != AF_UNIX || getsockname(copy, (struct sockaddr *)&own, &n_own) < 0 ||
	    getpeername(copy, (struct sockaddr *)&peer, &n_peer) < 0 || n_own > offsetof(struct sockaddr_un, sun_path) ||
	    n_peer > offsetof(struct sockaddr_un, sun_path))
		return false;
	if (option(copy, SO_PASSCRED) != 0 || option(copy, SO_PEEK_OFF) != -1 || has_limit(copy, SO_RCVTIMEO) || has_limit(copy, SO_SNDTIMEO))
		return false;
	fd->kind = CT_FD_PAIR;
	fd->socket_type = (uint32_t)option(copy, SO_TYPE);
	fd->offset = (uint32_t)option(copy, SO_SNDBUF) | (uint64_t)(uint32_t)option(copy, SO_RCVBUF) << 32;
	return true;
}

/* All that are of one socket, or of its peer, get the pair's number; @inodes: struct ct_end, of each descriptor. Return: 1 numbered;
 * 0 its other end is not in the rank, or one is shut down; negative errno */
int ct_pair_number(struct ct_snapshot *s, const struct ct_vec *inodes, size_t i, uint32_t number)
{
	uint64_t own = CT_AT(struct ct_end, inodes, i)->ino, peer = 0, back = 0;
	unsigned shut = 0, shut_there = 0;
	bool is_there = false;
	int rc = peer_of(own, &peer, &shut);

	if (rc == 0 && peer)
		rc = peer_of(peer, &back, &shut_there);
	if (rc < 0)
		return rc;
	for (size_t k = 0; k < s->fds.n; k++)
		is_there |= CT_AT(struct ct_img_fd, &s->fds, k)->kind == CT_FD_PAIR && CT_AT(struct ct_end, inodes, k)->ino == peer;
	if (!peer || peer == own || back != own || !is_there || shut || shut_there)
		return 0;
	for (size_t k = 0; k < s->fds.n; k++) {
		struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, k);
		uint64_t ino = CT_AT(struct ct_end, inodes, k)->ino;

		if (fd->kind != CT_FD_PAIR || (ino != own && ino != peer))
			continue;
		fd->plumb = number;
		fd->end = ino == peer;
	}
	return 1;
}
