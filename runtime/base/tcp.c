/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP sockets by numeric address, tuned for connections between daemons. */
#include "runtime/base/tcp.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_S    3
#define PROBE_S   1
#define PROBES    4
#define RETRIES   3  /* unanswered; a fourth one comes 3 s after the first loss at least */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

static int parse(const char *text, uint16_t port, union address *a, socklen_t *len, struct gw_error *why)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM }, *found = NULL;
	int code = getaddrinfo(text, NULL, &hints, &found); /* numeric: no service is asked; knows IPv6 scopes */

	if (code != 0 || found->ai_addrlen > sizeof(*a)) {
		if (code == 0)
			freeaddrinfo(found);
		return gw_fail(why, -EINVAL, "'%s' is not a numeric network address", text);
	}
	memset(a, 0, sizeof(*a));
	memcpy(a, found->ai_addr, found->ai_addrlen);
	*len = found->ai_addrlen;
	freeaddrinfo(found);
	if (a->any.sa_family == AF_INET6)
		a->v6.sin6_port = htons(port);
	else
		a->v4.sin_port = htons(port);
	return 0;
}

static bool is_wildcard(const union address *a)
{
	return a->any.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr) : a->v4.sin_addr.s_addr == INADDR_ANY;
}

static uint16_t port_of(const union address *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

void gw_tcp_join(char name[GW_TCP_NAME], const char *address, uint16_t port)
{
	snprintf(name, GW_TCP_NAME, strchr(address, ':') ? "[%.52s]:%u" : "%.52s:%u", address, port);
}

int gw_tcp_split(const char *text, char *address, uint16_t *port, struct gw_error *why)
{
	const char *colon = strrchr(text, ':');
	bool is_bracketed = text[0] == '[' && colon && colon > text + 2 && colon[-1] == ']';
	size_t len = colon ? (size_t)(colon - text) - (is_bracketed ? 2 : 0) : 0;
	char *end = NULL;
	unsigned long n = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 0;

	if (len == 0 || len >= GW_TCP_NAME || !end || *end || n == 0 || n > 65535)
		return gw_fail(why, -EINVAL, "'%s' is not ADDRESS:PORT", text);
	memcpy(address, text + is_bracketed, len);
	address[len] = '\0';
	*port = (uint16_t)n;
	return 0;
}

static int numeric(const struct sockaddr *a, size_t len, char *out, size_t cap)
{
	return getnameinfo(a, (socklen_t)len, out, (socklen_t)cap, NULL, 0, NI_NUMERICHOST) == 0 ? 0 : -EINVAL;
}

void gw_tcp_name(char name[GW_TCP_NAME], const struct sockaddr *address, size_t len)
{
	union address a = { 0 };
	char text[GW_TCP_NAME];

	if (len > sizeof(a))
		len = sizeof(a);
	memcpy(&a, address, len);
	if ((a.any.sa_family == AF_INET || a.any.sa_family == AF_INET6) && numeric(&a.any, len, text, sizeof(text)) == 0)
		gw_tcp_join(name, text, port_of(&a));
	else
		snprintf(name, GW_TCP_NAME, "this host");
}

void gw_tcp_own(int fd, char address[GW_TCP_NAME])
{
	union address a = { 0 };
	socklen_t len = sizeof(a);

	if (getsockname(fd, &a.any, &len) < 0 || numeric(&a.any, len, address, GW_TCP_NAME) < 0)
		address[0] = '\0';
}

int gw_tcp_listen(const char *address, uint16_t *port, struct gw_error *why)
{
	union address a;
	socklen_t len;
	gw_autoclose int fd = -1;
	int code = parse(address, *port, &a, &len, why), out, one = 1;

	if (code < 0)
		return code;
	if (is_wildcard(&a))
		return gw_fail(why, -EINVAL, "'%s' would listen to every network; one address is needed", address);
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, &a.any, len) < 0 || listen(fd, 1024) < 0 || getsockname(fd, &a.any, &len) < 0)
		return gw_fail(why, -errno, "cannot listen at %s: %s%s", address, strerror(errno), gw_advice(errno));
	*port = port_of(&a);
	out = fd;
	fd = -1;
	return out;
}

int gw_tcp_connect(const char *address, uint16_t port, struct gw_error *why)
{
	union address a;
	socklen_t len;
	gw_autoclose int fd = -1;
	int code = parse(address, port, &a, &len, why), out;

	if (code < 0)
		return code;
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || (connect(fd, &a.any, len) < 0 && errno != EINPROGRESS))
		return gw_fail(why, -errno, "%s%s", strerror(errno), gw_advice(errno));
	out = fd;
	fd = -1;
	return out;
}

/* The address by which somebody at @to would see this host: what the routing table says; nothing is sent. */
static int source_of(const struct addrinfo *to, char *address)
{
	gw_autoclose int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	union address a;
	socklen_t len = sizeof(a);

	if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) < 0 || getsockname(fd, &a.any, &len) < 0)
		return -errno;
	if (a.any.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a.v6.sin6_addr))
		return -EADDRNOTAVAIL; /* the name of an interface would be part of it, and each host has names of its own */
	return numeric(&a.any, len, address, GW_TCP_NAME);
}

int gw_tcp_sources(const char *host, int family, char (*addresses)[GW_TCP_NAME], int max, struct gw_error *why)
{
	/* not AI_ADDRCONFIG: without a network but loopback it finds nothing at all, not even 127.0.0.1 */
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_DGRAM }, *found = NULL;
	int code = getaddrinfo(host, "9", &hints, &found), error = -EHOSTUNREACH, n = 0;

	if (code != 0)
		return gw_fail(why, -ENOENT, "host '%s' cannot be found: %s; check how it is spelled, or give its address", host,
		               code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
	for (struct addrinfo *i = found; i && n < max; i = i->ai_next) {
		bool is_known = false;

		code = source_of(i, addresses[n]);
		if (code < 0)
			error = code;
		for (int k = 0; code == 0 && k < n && !is_known; k++)
			is_known = strcmp(addresses[k], addresses[n]) == 0;
		n += code == 0 && !is_known;
	}
	freeaddrinfo(found);
	return n ? n : gw_fail(why, error, "no way to host '%s': %s", host, strerror(-error));
}

int gw_tcp_addresses(char (*addresses)[GW_TCP_NAME], int max, struct gw_error *why)
{
	static const int families[] = { AF_INET, AF_INET6 };
	struct ifaddrs *all;
	int n = 0;

	if (getifaddrs(&all) < 0)
		return gw_fail(why, -errno, "the addresses of this host cannot be found out: %s", strerror(errno));
	for (size_t k = 0; k < GW_ARRAY_LEN(families); k++)
		for (const struct ifaddrs *i = all; i && n < max; i = i->ifa_next) {
			const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)i->ifa_addr;

			if (!v6 || i->ifa_addr->sa_family != families[k] || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK) ||
			    (families[k] == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)))
				continue;
			n += numeric(i->ifa_addr, k ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in), addresses[n], GW_TCP_NAME) == 0;
		}
	freeifaddrs(all);
	return n;
}

int gw_tcp_parse(const char *text, void *address, size_t cap)
{
	union address a;
	socklen_t len;
	int code = parse(text, 0, &a, &len, NULL);

	if (code == 0 && len > cap)
		code = -EINVAL;
	if (code == 0)
		memcpy(address, &a, len);
	return code;
}

void gw_tcp_tune(int fd)
{
	static const struct { int level, name, value; } options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 }, { SOL_SOCKET, SO_KEEPALIVE, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S },
		{ IPPROTO_TCP, TCP_KEEPINTVL, PROBE_S }, { IPPROTO_TCP, TCP_KEEPCNT, PROBES },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(options); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)); /* fails on a socket pair */
}

bool gw_tcp_is_dead(int fd, unsigned limit_ms)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return false;
	return (info.tcpi_retransmits >= RETRIES || info.tcpi_probes >= RETRIES) && info.tcpi_last_ack_recv > limit_ms &&
	       info.tcpi_last_data_recv > limit_ms;
}

uint64_t gw_tcp_silence_ms(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	if (info.tcpi_state != TCP_ESTABLISHED)
		return UINT64_MAX;
	return info.tcpi_last_ack_recv < info.tcpi_last_data_recv ? info.tcpi_last_ack_recv : info.tcpi_last_data_recv;
}

int gw_wait_readable(int fd, uint64_t end_ns)
{
	for (;;) {
		struct pollfd p = { fd, POLLIN, 0 };
		uint64_t now = gw_now_ns();
		int n = now < end_ns ? poll(&p, 1, (int)((end_ns - now) / 1000000) + 1) : 0;

		if (n > 0)
			return 0;
		if (n == 0 && now >= end_ns)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}
