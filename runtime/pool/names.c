/* SPDX-License-Identifier: BSD-2-Clause */
/* How keepers are found on a host, and the secrets of a pool's jobs. */
#include "runtime/pool/pool.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

int pool_name_check(const char *name, struct gw_error *why)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
			n = 0;
	if (n == 0 || n >= POOL_NAME_MAX || strcmp(name, "any") == 0)
		return gw_fail(why, -EINVAL, "'%s' cannot be the name of a pool: up to %d letters, digits, '-', '_' and '.', not 'any'", name,
		               POOL_NAME_MAX - 1);
	return 0;
}

void pool_socket_name(char buf[POOL_SOCKET_MAX], const char *name, const char *host)
{
	snprintf(buf, POOL_SOCKET_MAX, "godwit/%u/pool/%.*s@%.*s", (unsigned)geteuid(), POOL_NAME_MAX - 1, name, POOL_HOST_MAX - 1, host);
}

/* A line of /proc/net/unix: as rt_jobs_find() reads it. */
int pool_find(struct pool_place *places, int max, struct gw_error *why)
{
	FILE *f = fopen("/proc/net/unix", "re");
	gw_autofree char *line = NULL;
	size_t cap = 0;
	int n = 0;

	if (!f)
		return gw_fail(why, -errno, "cannot look for pools: /proc/net/unix: %s", strerror(errno));
	while (n < max && getline(&line, &cap, f) > 0) {
		struct pool_place place;
		char socket[POOL_SOCKET_MAX];
		unsigned flags, uid;
		int at = 0;

		if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %n", &flags, &at) != 1 || !at || !(flags & 0x10000))
			continue;
		if (sscanf(line + at, "@godwit/%u/pool/%23[^@]@%47[^\n]", &uid, place.name, place.host) != 3 || uid != geteuid())
			continue;
		pool_socket_name(socket, place.name, place.host);
		if (gw_probe_unix(socket) == 0)
			places[n++] = place;
	}
	fclose(f);
	return n;
}

int pool_connect(const char *what, struct pool_place *place, struct gw_error *why)
{
	struct pool_place places[64];
	int n = pool_find(places, GW_ARRAY_LEN(places), why), found = -1;
	const char *at = strchr(what, '@');
	size_t len = at ? (size_t)(at - what) : strlen(what);
	bool is_any = len == 3 && strncmp(what, "any", 3) == 0;
	char socket[POOL_SOCKET_MAX];

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		if ((!is_any && (strlen(places[i].name) != len || strncmp(places[i].name, what, len) != 0)) ||
		    (at && strcmp(places[i].host, at + 1) != 0))
			continue;
		if (found >= 0 && strcmp(places[i].name, places[found].name) != 0)
			return gw_fail(why, -ENOTUNIQ, "there are several pools on this host ('%s', '%s'); name one of them", places[i].name,
			               places[found].name);
		if (found < 0 || strcmp(places[i].host, places[found].host) < 0)
			found = i;
	}
	if (found < 0)
		return gw_fail(why, -ENOENT, is_any ? "no pool of user %u has this host%s; 'godwit up' makes one" :
		               "no pool of user %u that is called '%s' has this host; 'godwit pools' lists those that do", (unsigned)geteuid(),
		               is_any ? "" : what);
	*place = places[found];
	pool_socket_name(socket, place->name, place->host);
	return gw_connect_unix(socket, why);
}
