/* SPDX-License-Identifier: BSD-2-Clause */
/* Control groups: which one rules this process, and how much each level, up to the root in sight, still lets it take. */
#include "container/room.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* is @word one of the words between commas in @list, which is @len long? */
static bool has_word(const char *list, size_t len, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list, *end = list + len; at < end;) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		size_t part = (size_t)((comma ? comma : end) - at);

		if (part == n && memcmp(at, word, n) == 0)
			return true;
		at += part + 1;
	}
	return false;
}

/* the path of a line "4:memory,cpu:/path", or of version 2's "0::/path"; NULL: not of @controller */
static const char *group_of(const char *line, size_t len, const char *controller, size_t *path_len)
{
	const char *end = line + len, *first = memchr(line, ':', len);
	const char *second = first ? memchr(first + 1, ':', (size_t)(end - first - 1)) : NULL;

	if (!second || second + 1 >= end || second[1] != '/')
		return NULL;
	if (controller ? !has_word(first + 1, (size_t)(second - first - 1), controller) : second != first + 1)
		return NULL;
	*path_len = (size_t)(end - second - 1);
	return second + 1;
}

/* \040 and its like, as mountinfo writes what would end a field */
static bool unescape(char *out, size_t cap, const char *at, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char c = at[i];

		if (c == '\\' && i + 3 < len && at[i + 1] >= '0' && at[i + 1] <= '3' && isdigit((unsigned char)at[i + 2]) &&
		    isdigit((unsigned char)at[i + 3])) {
			c = (char)((at[i + 1] - '0') * 64 + (at[i + 2] - '0') * 8 + (at[i + 3] - '0'));
			i += 3;
		}
		if (n + 1 >= cap)
			return false;
		out[n++] = c;
	}
	out[n] = '\0';
	return true;
}

struct field { const char *at; size_t len; };

/* A line of mountinfo: ID PARENT DEV ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS */
static bool mount_parse(const char *line, size_t len, char *root, char *point, size_t cap, struct field *type,
                        struct field *options)
{
	struct field f[32];
	size_t n = 0, dash = 0;

	for (const char *at = line, *end = line + len; at < end && n < GW_ARRAY_LEN(f);) {
		const char *space = memchr(at, ' ', (size_t)(end - at));

		f[n] = (struct field){ at, (size_t)((space ? space : end) - at) };
		if (!dash && n >= 6 && f[n].len == 1 && *at == '-')
			dash = n;
		at += f[n++].len + 1;
	}
	if (!dash || n < dash + 4)
		return false;
	*type = f[dash + 1];
	*options = f[dash + 3];
	return unescape(root, cap, f[3].at, f[3].len) && unescape(point, cap, f[4].at, f[4].len);
}

/* @path: as the kernel calls the group; @root: the group that is seen at the mount point @point */
static int join(struct ct_cgroup *out, const char *point, const char *root, const char *path, size_t path_len)
{
	size_t cut = strcmp(root, "/") == 0 ? 0 : strlen(root), point_len = strlen(point);

	if (cut > path_len || strncmp(path, root, cut) != 0 || (cut < path_len && path[cut] != '/') ||
	    memmem(path, path_len, "/..", 3)) /* outside of what is mounted, or of our cgroup namespace */
		return -ENOENT;
	path += cut;
	path_len -= cut;
	while (path_len && path[path_len - 1] == '/')
		path_len--;
	if (point_len + path_len + 1 > sizeof(out->dir))
		return -ENAMETOOLONG;
	memcpy(out->dir, point, point_len);
	memcpy(out->dir + point_len, path, path_len);
	out->dir[point_len + path_len] = '\0';
	out->mount_len = point_len;
	return 0;
}

int ct_cgroup_parse(const char *groups, const char *mounts, const char *controller, struct ct_cgroup *out)
{
	char root[sizeof(out->dir)], point[sizeof(out->dir)];
	const char *path[2] = { NULL, NULL }; /* of version 1, of version 2 */
	size_t path_len[2] = { 0, 0 };
	struct field type, options;

	for (const char *at = groups; *at; at += strcspn(at, "\n"), at += *at == '\n')
		for (int v = 0; v < 2; v++)
			if (!path[v])
				path[v] = group_of(at, strcspn(at, "\n"), v ? NULL : controller, &path_len[v]);
	for (int v = 0; v < 2; v++) { /* version 2 has the controllers that version 1 has not taken */
		const char *name = v ? "cgroup2" : "cgroup";

		for (const char *at = mounts; path[v] && *at; at += strcspn(at, "\n"), at += *at == '\n') {
			if (!mount_parse(at, strcspn(at, "\n"), root, point, sizeof(root), &type, &options) ||
			    type.len != strlen(name) || memcmp(type.at, name, type.len) != 0 ||
			    (!v && !has_word(options.at, options.len, controller)))
				continue;
			if (join(out, point, root, path[v], path_len[v]) == 0) {
				out->is_v2 = v;
				return 0;
			}
		}
		if (path[v] && !v)
			return -ENOENT;
	}
	return -ENOENT;
}

uint64_t ct_cgroup_number(const char *text)
{
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return CT_NO_LIMIT;
	errno = 0;
	v = strtoull(text, &end, 10);
	/* version 1 says the largest number of pages in 63 bits for "none" */
	return errno || (*end && *end != '\n') || v >= INT64_MAX - 65536 ? CT_NO_LIMIT : v;
}

uint64_t ct_cgroup_field(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *at = text; *at; at += strcspn(at, "\n"), at += *at == '\n')
		if (strncmp(at, key, len) == 0 && at[len] == ' ') {
			uint64_t v = ct_cgroup_number(at + len + 1);

			return v == CT_NO_LIMIT ? 0 : v;
		}
	return 0;
}

const char *ct_host_text(const char *root, const char *dir, const char *name, char *buf, size_t cap)
{
	char path[2300];
	gw_autoclose int fd = -1;
	ssize_t n = 0;
	size_t len = 0;

	snprintf(path, sizeof(path), "%s%s%s%s", root, dir, *dir ? "/" : "", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && len < cap - 1 && (n = read(fd, buf + len, cap - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
	return buf;
}

static void level(const char *root, const struct ct_cgroup *g, const char *controller, struct ct_cgroup_room *out)
{
	bool is_memory = strcmp(controller, "memory") == 0;
	char text[16384];
	uint64_t limit, high = CT_NO_LIMIT, used, kept = 0;

	if (is_memory && !g->is_v2) {
		limit = ct_cgroup_number(ct_host_text(root, g->dir, "memory.limit_in_bytes", text, sizeof(text)));
		used = ct_cgroup_number(ct_host_text(root, g->dir, "memory.usage_in_bytes", text, sizeof(text)));
	} else if (is_memory) {
		limit = ct_cgroup_number(ct_host_text(root, g->dir, "memory.max", text, sizeof(text)));
		high = ct_cgroup_number(ct_host_text(root, g->dir, "memory.high", text, sizeof(text))); /* above it all crawls */
		used = ct_cgroup_number(ct_host_text(root, g->dir, "memory.current", text, sizeof(text)));
	} else {
		limit = ct_cgroup_number(ct_host_text(root, g->dir, "pids.max", text, sizeof(text)));
		used = ct_cgroup_number(ct_host_text(root, g->dir, "pids.current", text, sizeof(text)));
	}
	limit = high < limit ? high : limit;
	if (limit == CT_NO_LIMIT || used == CT_NO_LIMIT)
		return;
	if (is_memory) {
		ct_host_text(root, g->dir, "memory.stat", text, sizeof(text));
		kept = g->is_v2 ? ct_cgroup_field(text, "inactive_file") + ct_cgroup_field(text, "active_file")
		                : ct_cgroup_field(text, "total_inactive_file") + ct_cgroup_field(text, "total_active_file");
	}
	used -= kept < used ? kept : used;
	if (used > limit)
		used = limit;
	if (limit - used < out->left) {
		*out = (struct ct_cgroup_room){ .left = limit - used, .limit = limit, .used = used };
		snprintf(out->group, sizeof(out->group), "%.500s", g->dir[g->mount_len] ? g->dir + g->mount_len : "/");
	}
}

void ct_cgroup_room(const char *root, const char *controller, struct ct_cgroup_room *out)
{
	gw_autofree char *mounts = malloc(1 << 18);
	char groups[8192], text[32];
	struct ct_cgroup g;
	char *slash;

	*out = (struct ct_cgroup_room){ .left = CT_NO_LIMIT, .limit = CT_NO_LIMIT };
	if (!mounts)
		return;
	ct_host_text(root, "/proc/self", "cgroup", groups, sizeof(groups));
	ct_host_text(root, "/proc/self", "mountinfo", mounts, 1 << 18);
	if (ct_cgroup_parse(groups, mounts, controller, &g) < 0)
		return;
	for (;;) {
		level(root, &g, controller, out);
		slash = strrchr(g.dir, '/');
		if (strlen(g.dir) <= g.mount_len || !slash)
			return;
		*slash = '\0';
		/* before Linux 5.11 a group of version 1 could leave out what is below it */
		if (!g.is_v2 && ct_host_text(root, g.dir, "memory.use_hierarchy", text, sizeof(text))[0] == '0')
			return;
	}
}
