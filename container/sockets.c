/* SPDX-License-Identifier: BSD-2-Clause */
/* The sockets of a rank that are not plumbing: what each is, and which can be put back at the other side. */
#include "container/rank.h"

#include <arpa/inet.h>
#include <fnmatch.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void address_text(const struct sockaddr_storage *a, socklen_t len, char *text, size_t cap)
{
	char host[INET6_ADDRSTRLEN] = "?";

	text[0] = '\0';
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)a;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, cap, "%s:%u", host, ntohs(in->sin_port));
	} else if (a->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)a;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
		snprintf(text, cap, "[%s]:%u", host, ntohs(in->sin6_port));
	} else if (a->ss_family == AF_UNIX && len > offsetof(struct sockaddr_un, sun_path)) {
		const char *path = ((const struct sockaddr_un *)a)->sun_path;
		int n = (int)(len - offsetof(struct sockaddr_un, sun_path));

		if (path[0])
			snprintf(text, cap, "%.*s", n, path);
		else
			snprintf(text, cap, "@%.*s", n - 1, path + 1);
	}
}

static const char *socket_kind(int domain, int type, int protocol)
{
	switch (domain) {
	case AF_UNIX:
		return "UNIX";
	case AF_NETLINK:
		return "netlink";
	case AF_PACKET:
		return "packet";
	case AF_ALG:
		return "cryptography (AF_ALG)";
	case AF_VSOCK:
		return "virtual machine (AF_VSOCK)";
	case AF_INET:
	case AF_INET6:
		return protocol == IPPROTO_SCTP ? "SCTP" : type == SOCK_STREAM ? "TCP" : type == SOCK_DGRAM ? "UDP" : "raw";
	default:
		return "network";
	}
}

/* "a connected TCP socket (10.0.0.4:443)", "a connected UNIX socket (/run/pipe, of pid 812: sssd_nss)" */
static void describe(const struct ct_rank *r, int fd, char *text, size_t cap)
{
	int domain = 0, type = 0, protocol = 0, is_listening = 0;
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof(int), n_type = n, n_protocol = n, n_listening = n, len = sizeof(a);
	struct ucred cred = { 0 };
	char where[160], owner[64] = "", comm[32];
	const char *kind;

	snprintf(text, cap, "a socket");
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n_type) < 0)
		return;
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n_protocol);
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n_listening);
	kind = socket_kind(domain, type, protocol);
	if (domain != AF_NETLINK && getpeername(fd, (struct sockaddr *)&a, &len) == 0) {
		address_text(&a, len, where, sizeof(where));
		n = sizeof(cred);
		if (domain == AF_UNIX && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0 && cred.pid == r->pid) {
			snprintf(text, cap, "one of a pair of connected UNIX sockets");
			return;
		}
		if (cred.pid > 0) {
			int got = ct_proc_read(cred.pid, "comm", comm, sizeof(comm));

			comm[got > 0 ? strcspn(comm, "\n") : 0] = '\0';
			snprintf(owner, sizeof(owner), "%spid %d%s%s", where[0] ? ", of " : "of ", (int)cred.pid, got > 0 ? ": " : "",
			         comm);
		}
		if (where[0] || owner[0])
			snprintf(text, cap, "a connected %s socket (%s%s)", kind, where, owner);
		else
			snprintf(text, cap, "a connected %s socket to something outside the rank", kind);
		return;
	}
	len = sizeof(a);
	if (domain == AF_NETLINK || getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		len = 0;
	address_text(&a, len, where, sizeof(where));
	if (is_listening && where[0])
		snprintf(text, cap, "a %s socket that listens at %s", kind, where);
	else if (where[0] && strcmp(where, "0.0.0.0:0") != 0 && strcmp(where, "[::]:0") != 0)
		snprintf(text, cap, "a %s socket bound to %s", kind, where);
	else
		snprintf(text, cap, "a %s%s socket", is_listening ? "listening " : "", kind);
}

/* ---- sockets of libraries that reconnect --------------------------------------------------------------------------- */

/* What every process at a site may have without its program knowing; each of these opens a new one when the peer is gone. */
static const char *const known[] = {
	"/var/lib/sss/pipes/*",                                  /* sssd's NSS and PAM modules */
	"/run/nscd/socket", "/run/nslcd/socket",                 /* name service caches */
	"/run/samba/winbindd/pipe", "/var/lib/samba/winbindd_privileged/pipe", "/run/winbindd/pipe",
	"/dev/log", "/run/systemd/journal/*",                    /* syslog(3), journal */
	"/run/systemd/userdb/*", "/run/systemd/resolve/*",       /* nss-systemd, nss-resolve */
};
/* Of this process, which is a daemon: a site's and a user's, added before any rank is looked at. */
static char **added;
static size_t n_added;

/* /var/run is /run everywhere today, and servers bind to either */
static const char *canonical(const char *path)
{
	return strncmp(path, "/var/run/", 9) == 0 ? path + 4 : path;
}

int ct_reconnecting_add(const char *patterns)
{
	while (*patterns) {
		size_t len = strcspn(patterns, ":\n");

		if (len) {
			char **bigger = realloc(added, (n_added + 1) * sizeof(*added));
			char *one = strndup(patterns, len);

			if (bigger)
				added = bigger;
			if (!bigger || !one) {
				free(one);
				return -ENOMEM;
			}
			added[n_added++] = one;
		}
		patterns += len + (patterns[len] != '\0');
	}
	return 0;
}

static bool is_reconnecting(const char *path)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(known); i++)
		if (fnmatch(known[i], canonical(path), FNM_PATHNAME) == 0)
			return true;
	for (size_t i = 0; i < n_added; i++)
		if (fnmatch(canonical(added[i]), canonical(path), FNM_PATHNAME) == 0)
			return true;
	return false;
}

/* ---- the network of the job ---------------------------------------------------------------------------------------- */

void ct_rank_network(struct ct_rank *r, const struct ct_network *n)
{
	r->network = *n;
}

/*
 * A connection that is being made, or that the other side has refused or reset, has no peer's name. That it has sent something
 * tells it from a socket that was only bound. One of the program's own passes too: the look after detach, when the network
 * has closed what is its, finds that.
 */
static bool is_without_peer(int fd)
{
	enum { STATE_SYN_SENT = 2, STATE_CLOSE = 7 }; /* <netinet/tcp.h> has them, but an older struct */
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
	       (info.tcpi_state == STATE_SYN_SENT || (info.tcpi_state == STATE_CLOSE && info.tcpi_segs_out > 0));
}

bool ct_socket_is_network(const struct ct_rank *r, int number)
{
	struct sockaddr_storage a = { 0 };
	gw_autoclose int fd = -1;
	socklen_t len = sizeof(a);

	for (size_t i = 0; i < GW_ARRAY_LEN(r->network.fds) && r->network.fds[i]; i++)
		if (r->network.fds[i] == number)
			return true;
	if (!r->network.port)
		return false;
	fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	if (fd < 0 || getsockname(fd, (struct sockaddr *)&a, &len) < 0 ||
	    (a.ss_family != AF_INET && a.ss_family != AF_INET6))
		return false;
	if (((const struct sockaddr_in *)&a)->sin_port == r->network.port)
		return true;
	len = sizeof(a);
	if (getpeername(fd, (struct sockaddr *)&a, &len) == 0)
		return r->network.is_peer(r->network.ctx, &a, len);
	return errno == ENOTCONN && is_without_peer(fd);
}

bool ct_socket_is_unsettled(const struct ct_rank *r, int number)
{
	int domain = 0, type = 0, is_listening = 0;
	struct sockaddr_storage a = { 0 };
	gw_autoclose int fd = -1;
	socklen_t n = sizeof(int), n_type = n, n_listening = n, len = sizeof(a);

	if (!r->network.port)
		return false;
	fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0 && (domain == AF_INET || domain == AF_INET6) &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n_type) == 0 && type == SOCK_STREAM &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n_listening) == 0 && !is_listening &&
	       getpeername(fd, (struct sockaddr *)&a, &len) < 0;
}

/* ---- which can be put back ----------------------------------------------------------------------------------------- */

/* five hexadecimal digits: the kernel's own choice (SO_PASSCRED, bind without a name) */
static bool is_autobound(const char *name)
{
	return strlen(name) == 6 && strspn(name + 1, "0123456789abcdef") == 5;
}

/*
 * A UNIX socket without an address and without a peer is a new one at the other side. One whose peer has gone, or will
 * be said to have gone, is one of a pair whose other end is closed: reading gives the end, writing EPIPE (of datagrams:
 * ECONNREFUSED). Such a pair's lost end is bound to a name of ours (restore_fds.c), by which the next move knows it.
 */
bool ct_socket_look(const struct ct_rank *r, int number, struct ct_socket *out)
{
	gw_autoclose int fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	int is_listening = 0;
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof(int), n_listening = n, n_type = n, len = sizeof(a);
	char where[160];

	*out = (struct ct_socket){ .text = "a socket" };
	if (fd < 0)
		return false;
	describe(r, fd, out->text, sizeof(out->text));
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &out->domain, &n) < 0 || out->domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &out->type, &n_type) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n_listening) < 0 || is_listening)
		return false;
	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return false;
	address_text(&a, len, where, sizeof(where));
	if (where[0] && where[0] != '@')
		return false; /* others reach it by that path; a name that the kernel gave it ("@00a3f") nobody knows */
	if (where[0] == '@' && !is_autobound(where))
		return false;
	len = sizeof(a);
	if (getpeername(fd, (struct sockaddr *)&a, &len) < 0)
		return errno == ENOTCONN && !where[0];
	address_text(&a, len, where, sizeof(where));
	out->is_hung_up = is_reconnecting(where) || strncmp(where, "@" CT_CLOSED_NAME, 1 + strlen(CT_CLOSED_NAME)) == 0;
	return out->is_hung_up;
}
