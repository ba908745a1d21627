/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Processors that a thread has chosen. A rank may be on those of its cluster, or on those that -bind-to gives it: its place. A
 * thread that has been told to be on fewer (sched_setaffinity, taskset, OMP_PROC_BIND) has them by their position in the place, and
 * that is what travels: the first of the old place is the first of the new one, and so on, from the beginning again where it has
 * fewer. Who may be everywhere in the old place may be everywhere in the new one.
 */
#include "container/rank.h"

/* Positions; none: it may be everywhere in its place, or is nowhere in it and cannot be told by position. Pure */
void ct_affinity_narrow(const cpu_set_t *may, const cpu_set_t *place, uint64_t positions[CT_IMG_CPUS / 64])
{
	bool is_narrow = false;
	unsigned n = 0;

	memset(positions, 0, CT_IMG_CPUS / 8);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, place))
			continue;
		if (CPU_ISSET(i, may))
			positions[n / 64] |= 1ull << n % 64;
		else
			is_narrow = true;
		n++;
	}
	if (!is_narrow)
		memset(positions, 0, CT_IMG_CPUS / 8);
}

/* Pure */
void ct_affinity_widen(const uint64_t positions[CT_IMG_CPUS / 64], const cpu_set_t *place, cpu_set_t *may)
{
	int cpus[CPU_SETSIZE], n = 0;

	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, place))
			cpus[n++] = i;
	CPU_ZERO(may);
	for (int k = 0; n && k < CT_IMG_CPUS; k++)
		if (positions[k / 64] >> k % 64 & 1)
			CPU_SET(cpus[k % n], may);
	if (CPU_COUNT(may) == 0)
		*may = *place;
}

/* Init says by its own mask what the place is: the kernel takes away from it what it takes away from the rank. */
void ct_affinity_mark(const struct ct_rank *r)
{
	if (r->has_cpus && sched_setaffinity(r->init_pid, sizeof(r->cpus), &r->cpus) < 0)
		gw_log(GW_DEBUG, "the init of pid %d does not go where its rank is: %s", (int)r->pid, strerror(errno));
}

bool ct_affinity_place(const struct ct_rank *r, cpu_set_t *place)
{
	return sched_getaffinity(r->init_pid, sizeof(*place), place) == 0;
}

/* A stopped thread gets back what it had. Who was everywhere in the place gets all of that, also what a control group keeps from it
 * just now: the mask that was read does not have that, and would keep it from there for ever. */
void ct_affinity_give_back(const struct ct_rank *r, const struct ct_thread *t)
{
	cpu_set_t may = t->cpus, place, left;

	if (r->has_cpus && ct_affinity_place(r, &place)) {
		CPU_AND(&left, &may, &place);
		if (CPU_EQUAL(&left, &place))
			CPU_OR(&may, &may, &r->cpus);
	}
	sched_setaffinity(t->tid, sizeof(may), &may);
}
