/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where mpirun listens for daemons of other hosts: at those addresses of its own by which these are reached, and at no others.
 * A host with several addresses, or in another network than the next, is told of several, and its daemon takes what works.
 *
 * All hosts of a job are reached by addresses of one family, IPv4 where that does for all: ranks of two families could not
 * talk to each other.
 */
#include <netinet/in.h>
#include <stdlib.h>

#include "runtime/base/tcp.h"
#include "runtime/launcher/head.h"

#define PROVE_MS    10000
#define SOURCES_MAX 4     /* more ways to one host are not tried */

struct door {
	struct gw_list node; /* head.doors */
	struct gw_trust_listener *listener;
	char address[GW_TCP_NAME];
	uint16_t port;
};

/* A pool's keepers have an address here that they are all reached by; names of its hosts may mean nothing to others. */
static const char *way_to(const struct head *h, const char *host)
{
	return h->spec->pool ? h->spec->pool_address : host;
}

/* The first host that cannot be reached by an address of @family; NULL: there is none */
static const char *find_without(const struct head *h, const char *more, int family, struct gw_error *why)
{
	char sources[1][GW_TCP_NAME];

	for (uint32_t i = 0; i < h->n_hosts; i++)
		if (h->hosts[i].is_remote && gw_tcp_sources(way_to(h, h->hosts[i].name), family, sources, 1, why) < 0)
			return h->hosts[i].name;
	return more && gw_tcp_sources(way_to(h, more), family, sources, 1, why) < 0 ? more : NULL;
}

int doors_choose(struct head *h, const char *more, struct gw_error *why)
{
	struct gw_error why6 = { 0 };
	const char *without4 = find_without(h, more, AF_INET, why);
	const char *without6 = without4 ? find_without(h, more, AF_INET6, &why6) : NULL;

	h->family = without4 && !without6 ? AF_INET6 : AF_INET;
	if (!without4 || !without6)
		return 0;
	if (without4 == without6)
		return why->code;
	return gw_fail(why, -EAFNOSUPPORT, "host '%s' has no address of IPv4 and host '%s' none of IPv6; all hosts of a job are reached by "
	               "the same kind", without4, without6);
}

static struct door *find(struct head *h, const char *address)
{
	gw_list_for(e, &h->doors) {
		struct door *d = gw_list_entry(e, struct door, node);

		if (strcmp(d->address, address) == 0)
			return d;
	}
	return NULL;
}

static int open_door(struct head *h, const char *address, doors_joined_fn *joined, struct gw_error *why)
{
	struct gw_trust_who me = { GW_TRUST_JOIN, h->job, UINT32_MAX };
	struct door *d = calloc(1, sizeof(*d));
	int fd, code;

	if (!d)
		return gw_fail(why, -ENOMEM, "out of memory");
	snprintf(d->address, sizeof(d->address), "%.63s", address);
	fd = gw_tcp_listen(address, &d->port, why);
	if (fd < 0) {
		free(d);
		return fd;
	}
	code = gw_trust_listen(&d->listener, h->loop, fd, h->secret, &me, PROVE_MS, joined, h);
	if (code < 0) {
		free(d);
		return gw_fail(why, code, "cannot listen for daemons: %s", strerror(-code));
	}
	gw_list_append(&h->doors, &d->node);
	return 0;
}

int doors_open(struct head *h, const char *host, doors_joined_fn *joined, char to[DOORS_TEXT_MAX], struct gw_error *why)
{
	char sources[SOURCES_MAX][GW_TCP_NAME], text[GW_TCP_NAME];
	int n = gw_tcp_sources(way_to(h, host), h->family, sources, SOURCES_MAX, why);
	size_t at = strlen(to);

	for (int i = 0; i < n; i++) {
		struct door *d = find(h, sources[i]);
		int code = d ? 0 : open_door(h, sources[i], joined, why);

		if (code < 0)
			return code;
		d = find(h, sources[i]);
		gw_tcp_join(text, d->address, d->port);
		/* several hosts may share one command line (srun), and most of them their ways */
		if (!strstr(to, text) && at + strlen(text) + 2 <= DOORS_TEXT_MAX)
			at += (size_t)snprintf(to + at, DOORS_TEXT_MAX - at, "%s%s", at ? "," : "", text);
	}
	return n < 0 ? n : 0;
}

const char *doors_address(const struct head *h)
{
	return gw_list_is_empty(&h->doors) ? NULL : gw_list_entry(h->doors.next, struct door, node)->address;
}

void doors_fini(struct head *h)
{
	gw_list_for_safe(e, &h->doors) {
		struct door *d = gw_list_entry(e, struct door, node);

		gw_trust_listener_destroy(d->listener);
		free(d);
	}
	gw_list_init(&h->doors);
}
