/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory nodes. Pages of an arriving rank are made on the node of its cluster's processors, and what the program has said of nodes
 * (set_mempolicy, mbind) means nodes of the new cluster afterwards: the first of the old one's is the first of the new one's, and
 * so on. All of it is where the kernel may follow; nothing fails for want of a node.
 */
#include "container/rank.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 64 /* of a host; a policy that names others is not carried */
#ifndef MPOL_PREFERRED_MANY
#define MPOL_PREFERRED_MANY 5
#endif
#define MPOL_WEIGHTED_INTERLEAVE_ 6

/* ---- which nodes there are --------------------------------------------------------------------------------------- */

/* "0-3,8" as a set; numbers above what fits are left out. Pure */
uint64_t ct_numa_parse(const char *list)
{
	uint64_t set = 0;

	while (*list >= '0' && *list <= '9') {
		char *end;
		unsigned long from = strtoul(list, &end, 10), to = *end == '-' ? strtoul(end + 1, &end, 10) : from;

		for (unsigned long i = from; i <= to && i < NODES_MAX; i++)
			set |= 1ull << i;
		list = *end == ',' ? end + 1 : end;
	}
	return set;
}

static bool read_line(const char *path, char *line, size_t cap)
{
	FILE *f = fopen(path, "re");
	bool is_read = f && fgets(line, (int)cap, f);

	if (f)
		fclose(f);
	return is_read;
}

static uint64_t nodes_online(void)
{
	static uint64_t nodes;
	char line[256];

	if (!nodes)
		nodes = read_line("/sys/devices/system/node/online", line, sizeof(line)) ? ct_numa_parse(line) : 1;
	return nodes ? nodes : 1;
}

static bool has_processor(int node, const cpu_set_t *cpus)
{
	char path[64], line[4096];
	const char *p = line;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
	if (!read_line(path, line, sizeof(line)))
		return false;
	while (*p >= '0' && *p <= '9') {
		char *end;
		unsigned long from = strtoul(p, &end, 10), to = *end == '-' ? strtoul(end + 1, &end, 10) : from;

		for (unsigned long i = from; i <= to && i < CPU_SETSIZE; i++)
			if (CPU_ISSET(i, cpus))
				return true;
		p = *end == ',' ? end + 1 : end;
	}
	return false;
}

uint64_t ct_numa_of(const cpu_set_t *cpus)
{
	uint64_t nodes = 0, online = nodes_online();

	for (int i = 0; i < NODES_MAX; i++)
		if ((online >> i & 1) && has_processor(i, cpus))
			nodes |= 1ull << i;
	return nodes;
}

/**
 * ct_numa_translate - @nodes of a cluster that has the nodes @from, in one that has @to: by their place among these
 * Pure. A node that is none of @from is taken by its number; what there are fewer of is used again.
 */
uint64_t ct_numa_translate(uint64_t nodes, uint64_t from, uint64_t to)
{
	uint64_t out = 0;
	int n = __builtin_popcountll(to);

	if (from == to || !to)
		return nodes;
	for (int i = 0; i < NODES_MAX; i++) {
		int place = from >> i & 1 ? __builtin_popcountll(from & ((1ull << i) - 1)) : i;
		uint64_t left = to;

		if (!(nodes >> i & 1))
			continue;
		for (int k = place % n; k > 0; k--)
			left &= left - 1;
		out |= left & -left;
	}
	return out;
}

/* ---- pages of an arriving rank ------------------------------------------------------------------------------------- */

/* What this thread makes from now on, in whatever process, is made there; a cluster of several nodes keeps the kernel's choice. */
void ct_numa_enter(uint64_t nodes, struct ct_numa_saved *old)
{
	old->is_set = nodes && !(nodes & (nodes - 1)) &&
	              syscall(SYS_get_mempolicy, &old->mode, old->nodes, sizeof(old->nodes) * 8, NULL, 0) == 0 &&
	              syscall(SYS_set_mempolicy, MPOL_PREFERRED, &nodes, NODES_MAX + 1) == 0;
}

void ct_numa_leave(const struct ct_numa_saved *old)
{
	if (old->is_set && syscall(SYS_set_mempolicy, old->mode, old->nodes, sizeof(old->nodes) * 8) < 0)
		gw_log(GW_DEBUG, "this daemon's memory policy cannot be put back: %s", strerror(errno));
}

/* ---- what the program has said -------------------------------------------------------------------------------------- */

#define MASK_BYTES 128 /* 1,024 nodes, the most that a kernel may have been built for */

_Static_assert(CT_NUMA_ANSWER == 16 + MASK_BYTES, "mode, and mask");

/* one call in each thread; the answer will be at @at */
void ct_numa_ask(struct ct_remote *m, uint64_t at)
{
	CT_CALL(m, "memory policy", 0, SYS_get_mempolicy, at, at + 16, MASK_BYTES * 8, 0, 0);
}

void ct_numa_answer(const unsigned char *p, const struct ct_call *call, struct ct_img_thread *t)
{
	int32_t mode;

	memcpy(&mode, p, sizeof(mode));
	t->numa_mode = MPOL_DEFAULT;
	for (size_t i = NODES_MAX / 8; i < MASK_BYTES; i++)
		if (p[16 + i])
			return;
	if ((int64_t)call->result == 0) {
		t->numa_mode = (uint32_t)mode;
		memcpy(&t->numa_nodes, p + 16, sizeof(t->numa_nodes));
	}
}

/* "7f0000000000 bind=static:0-1 anon=3 ...": what is said of one mapping. False: nothing, or what cannot be said again. Pure */
bool ct_numa_line(const char *line, struct ct_img_policy *p)
{
	static const struct { const char *name; uint32_t mode; } names[] = { { "prefer (many)", MPOL_PREFERRED_MANY },
		{ "prefer", MPOL_PREFERRED }, { "bind", MPOL_BIND }, { "interleave", MPOL_INTERLEAVE }, { "local", MPOL_LOCAL },
		{ "weighted interleave", MPOL_WEIGHTED_INTERLEAVE_ } };
	unsigned long long start;
	int at = 0;

	if (sscanf(line, "%llx %n", &start, &at) != 1 || !at)
		return false;
	*p = (struct ct_img_policy){ .start = start };
	for (size_t i = 0; i < GW_ARRAY_LEN(names); i++) {
		const char *s = line + at + strlen(names[i].name);

		if (strncmp(line + at, names[i].name, strlen(names[i].name)) != 0 || !strchr(":= \n", *s))
			continue;
		p->mode = names[i].mode;
		if (strncmp(s, "=static", 7) == 0)
			p->mode |= MPOL_F_STATIC_NODES, s += 7;
		else if (strncmp(s, "=relative", 9) == 0)
			p->mode |= MPOL_F_RELATIVE_NODES, s += 9;
		if (*s == ':')
			p->nodes = ct_numa_parse(s + 1);
		return true;
	}
	return false;
}

/* Before the freeze, since the kernel counts pages for it; and only where there is a choice. */
int ct_numa_list(struct ct_rank *r)
{
	gw_autofree char *text = NULL;
	const char *line;
	cpu_set_t cpus;

	r->snap.policies.n = 0;
	r->snap.process.numa_nodes = ct_affinity_place(r, &cpus) ? ct_numa_of(&cpus) : 0;
	if (!(nodes_online() & (nodes_online() - 1)) || ct_proc_text(r->pid, "numa_maps", &text) < 0)
		return 0;
	for (line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		struct ct_img_policy p;

		if (ct_numa_line(line, &p) && ct_vec_append(&r->snap.policies, &p, 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* ---- and says again --------------------------------------------------------------------------------------------------- */

/* @nodes in the shell's memory; 0 where the policy names none */
static uint64_t nodes_data(struct ct_rank *r, uint32_t mode, uint64_t nodes)
{
	if (!(mode & MPOL_F_RELATIVE_NODES))
		nodes = ct_numa_translate(nodes, r->snap.process.numa_nodes, r->numa_nodes);
	return nodes ? ct_remote_data(&r->remote, &nodes, sizeof(nodes)) : 0;
}

/* of the thread that makes the calls: always one call */
void ct_numa_set(struct ct_rank *r, const struct ct_img_thread *t)
{
	uint64_t at = nodes_data(r, t->numa_mode, t->numa_nodes);

	CT_CALL(&r->remote, "memory policy", 0, SYS_set_mempolicy, t->numa_mode, at, at ? NODES_MAX + 1 : 0);
}

/* The kernel tells of whose mapping a policy is by where that begins, and may tell the thread's where there is none: then it is
 * said of the mapping too, and means the same. */
int ct_numa_bind(struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_policy, p, &r->snap.policies)
		for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas) {
			int rc = v->start == p->start ? ct_restore_room(r, 1, 32, why) : 0;
			uint64_t at;

			if (rc < 0)
				return rc;
			if (v->start != p->start)
				continue;
			at = nodes_data(r, p->mode, p->nodes);
			CT_CALL(&r->remote, "memory policy of a mapping", 0, SYS_mbind, v->start, v->end - v->start, p->mode, at,
			        at ? NODES_MAX + 1 : 0, 0);
		}
	return 0;
}
