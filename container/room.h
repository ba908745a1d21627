/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/room.h: how much of this host a process of this daemon may still take. Inside container/ only.
 *
 * What a kernel says in its files is read below a directory that tests choose; "" is this host. Parsers are pure.
 */
#ifndef CT_ROOM_H
#define CT_ROOM_H

#include "container/rank.h"

#define CT_NO_LIMIT UINT64_MAX

/** ct_host_text - a file of the kernel, NUL terminated, cut at @cap; "" when it cannot be read. Return: @buf */
const char *ct_host_text(const char *root, const char *dir, const char *name, char *buf, size_t cap);

/* ---- cgroup.c: control groups, of version 1, of version 2, and of both at once ------------------------------------- */

struct ct_cgroup {
	char dir[1024];      /* of the group that this process is in */
	size_t mount_len;    /* of @dir: where its hierarchy is mounted; no group lies above */
	bool is_v2;
};

/**
 * ct_cgroup_parse - the group that rules @controller ("memory", "pids")
 * @groups, @mounts: what /proc/self/cgroup and /proc/self/mountinfo say. Pure; any text is safe.
 * Return: 0; -ENOENT: none is in sight, as where the hierarchy is not mounted.
 */
int ct_cgroup_parse(const char *groups, const char *mounts, const char *controller, struct ct_cgroup *out);

/** ct_cgroup_number - of a file like memory.max; CT_NO_LIMIT: "max", the like of version 1, or not a number */
uint64_t ct_cgroup_number(const char *text);

/** ct_cgroup_field - of a file like memory.stat: "KEY number" lines; 0 where it is missing */
uint64_t ct_cgroup_field(const char *text, const char *key);

/* The group that leaves least room: the own one or one above it. */
struct ct_cgroup_room {
	uint64_t left;       /* CT_NO_LIMIT: no group limits it */
	uint64_t limit, used; /* @used without what the kernel would give back, as the cache of files */
	char group[512];     /* as it is called below its mount */
};

/** ct_cgroup_room - @controller is "memory" (bytes) or "pids" (tasks). Reads some files for each level */
void ct_cgroup_room(const char *root, const char *controller, struct ct_cgroup_room *out);

/* ---- room.c -------------------------------------------------------------------------------------------------------- */

/** ct_room_available - MemAvailable of a text of /proc/meminfo, in bytes; CT_NO_LIMIT when it is not said. Pure */
uint64_t ct_room_available(const char *meminfo);

/** ct_room_needed - bytes that a rank will take here: its own, what the kernel keeps for it, and a margin to grow */
uint64_t ct_room_needed(uint64_t private_bytes, uint32_t threads, uint64_t *margin);

/** ct_room_huge - bytes of reserved huge pages of @page bytes that are free and that no mapping has spoken for */
uint64_t ct_room_huge(const char *root, uint64_t page);

/* Bytes of a rank's pages that will come, by the hints. */
struct ct_room_pages {
	uint64_t ordinary;   /* all that take ordinary memory: */
	uint64_t lacking;    /* of these, what was in reserved huge pages, and finds none here */
	uint64_t page;       /* the size of such a page, 0 when none is lacking */
};

/** ct_room_pages - what of @f goes to reserved huge pages takes no other memory */
struct ct_room_pages ct_room_pages(const char *root, const struct ct_fit *f);

#endif
