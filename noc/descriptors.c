/* SPDX-License-Identifier: BSD-2-Clause */
/* The descriptors that libfabric opens in a rank, and those that it leaves behind. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "noc/fabric.h"

void noc_strays_close(uint16_t port)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d))) {
		int fd = atoi(e->d_name), type = 0;
		struct sockaddr_in6 a = { 0 };
		socklen_t len = sizeof(a), type_len = sizeof(type);

		if (e->d_name[0] != '.' && fd != dirfd(d) &&
		    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) == 0 && type == SOCK_STREAM &&
		    getsockname(fd, (struct sockaddr *)&a, &len) == 0 && (a.sin6_family == AF_INET || a.sin6_family == AF_INET6) &&
		    a.sin6_port == port)
			close(fd);
	}
	closedir(d);
}

void noc_fds_now(struct noc_fds *out)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;

	memset(out, 0, sizeof(*out));
	while (d && (e = readdir(d))) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] != '.' && fd != dirfd(d) && (unsigned)fd < NOC_FDS_SEEN)
			out->bits[fd / 8] |= (uint8_t)(1u << fd % 8);
	}
	if (d)
		closedir(d);
}

void noc_fds_new(int16_t out[NOC_NET_FDS], const struct noc_fds *before, const struct noc_fds *after)
{
	size_t n = 0;

	memset(out, 0, NOC_NET_FDS * sizeof(*out));
	for (size_t fd = 3; fd < NOC_FDS_SEEN && n < NOC_NET_FDS; fd++)
		if ((after->bits[fd / 8] & ~before->bits[fd / 8]) >> fd % 8 & 1) {
			fcntl((int)fd, F_SETFD, FD_CLOEXEC); /* another's libfabric may leave that out (rule 13) */
			out[n++] = (int16_t)fd;
		}
}
