/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Seats: on which core each rank of a crowded cluster waits, so that no core has more of them than another.
 *
 * Ranks that yield to each other have a turn every few microseconds. The kernel takes whatever ran within the last half
 * millisecond for a task whose caches are warm, and leaves it where it is: ranks that start, or wake up, on one core stay there
 * for some hundred milliseconds while a single one spins on the other. So a rank that waits says where, looks now and then how
 * many are where, and goes over to the emptier core itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <unistd.h>

#include "noc/local.h"

#define REST_FIRST (1u << 21) /* ticks: a millisecond or so */
#define REST_LAST  (1u << 30) /* half a second: something else wants that core, and the kernel takes us back again and again */

/* The core that is to be preferred to @cpu; -1: none is. Of the ranks on a core those of the lowest numbers go, and no more than make
 * both even. */
static int better_than(int cpu, const cpu_set_t *may)
{
	const struct noc_segment *seg = &noc_me->seg;
	uint16_t on[CPU_SETSIZE] = { 0 };
	unsigned before = 0;
	int best = cpu;

	for (uint32_t i = 0; i < seg->reach; i++) {
		unsigned seat = atomic_load_explicit(&seg->seats[i], memory_order_relaxed);

		if (seat == 0 || seat > CPU_SETSIZE)
			continue;
		on[seat - 1]++;
		before += (int)seat - 1 == cpu && i < noc_me->proc;
	}
	for (int k = 1; k < CPU_SETSIZE; k++) { /* from here on, so that ranks of several cores do not all go to one */
		int c = (cpu + k) % CPU_SETSIZE;

		if (CPU_ISSET(c, may) && on[c] < on[best])
			best = c;
	}
	return before < (on[cpu] - on[best]) / 2u ? best : -1;
}

/*
 * Has @cpu more ranks than there are for each core? If not, and another one is emptier, a third one has too many, and they go
 * themselves. That is so as a rule, and learnt without a system call.
 */
static bool is_full(int cpu)
{
	const struct noc_segment *seg = &noc_me->seg;
	uint32_t d = atomic_load_explicit(&seg->clusters[noc_me->cluster].domain, memory_order_relaxed);
	const struct noc_domain_entry *domain = &seg->domains[d < seg->head->domains ? d : 0];
	unsigned ranks = atomic_load_explicit(&domain->ranks, memory_order_relaxed), here = 0, all = 0;

	for (uint32_t i = 0; i < seg->reach; i++) {
		unsigned seat = atomic_load_explicit(&seg->seats[i], memory_order_relaxed);

		all += seat != 0;
		here += (int)seat == cpu + 1;
	}
	return here * atomic_load_explicit(&domain->cores, memory_order_relaxed) > (all < ranks ? all : ranks);
}

static void seat_say(int cpu)
{
	noc_me->seat = (uint16_t)(cpu + 1);
	atomic_store_explicit(&noc_me->seg.seats[noc_me->proc], noc_me->seat, memory_order_relaxed);
}

/* The kernel keeps the mask that we set, and only tells of what is left of it: while a control group takes cores away (cpuset), the
 * mask that is read has not got those, and set again it would keep us from them when they come back. Our parent, the rank's
 * init as a rule, was given as many (container/affinity.c): who is wherever that may be now may be wherever it might be at first. */
void noc_seat_back(uint64_t *may, const uint64_t *now, const uint64_t *place)
{
	for (int i = 0; i < NOC_SEAT_WORDS; i++)
		if (now[i] & ~may[i])
			return;
	for (int i = 0; i < NOC_SEAT_WORDS; i++)
		may[i] |= place[i];
}

union mask {
	cpu_set_t set;
	uint64_t words[NOC_SEAT_WORDS];
};
_Static_assert(sizeof(cpu_set_t) == NOC_SEAT_WORDS * sizeof(uint64_t), "all of a set");

void noc_seat_look(uint64_t now)
{
	struct noc_member *m = noc_me;
	union mask may, parent;
	cpu_set_t one;
	int cpu, to;

	if (now - m->seat_since < m->seat_rest)
		return;
	cpu = sched_getcpu();
	if (!m->is_attached || cpu < 0 || cpu >= CPU_SETSIZE) /* who yielded may have been detached meanwhile */
		return;
	if (m->seat == 0 && sched_getaffinity(getppid(), sizeof(parent), &parent.set) == 0)
		memcpy(m->seat_place, parent.words, sizeof(m->seat_place));
	if (m->seat != cpu + 1)
		seat_say(cpu);
	m->seat_since = now;
	/* One core only: we are bound to it, or a daemon stops us there (container/freeze.c) and gives back what we may be on
	 * when it lets us go. To set that one core then would nail us to it */
	to = is_full(cpu) && sched_getaffinity(0, sizeof(may), &may.set) == 0 && CPU_COUNT(&may.set) > 1 ?
	             better_than(cpu, &may.set) : -1;
	if (to < 0) {
		m->seat_rest = m->seat_rest / 2 > REST_FIRST ? m->seat_rest / 2 : REST_FIRST;
		return;
	}
	CPU_ZERO(&one);
	CPU_SET(to, &one);
	/* Only to go there, not to stay. A daemon that stops us in between leaves a mask of one core as it is (container/freeze.c), and no
	 * image is taken then: we are inside the gate */
	if (sched_setaffinity(0, sizeof(one), &one) < 0)
		return;
	if (sched_getaffinity(getppid(), sizeof(parent), &parent.set) == 0)
		noc_seat_back(may.words, parent.words, m->seat_place);
	sched_setaffinity(0, sizeof(may), &may.set);
	seat_say(to);
	m->seat_rest = m->seat_rest < REST_FIRST ? REST_FIRST : 4 * m->seat_rest < REST_LAST ? 4 * m->seat_rest : REST_LAST;
}

void noc_seat_leave(void)
{
	struct noc_member *m = noc_me;

	if (m->seat)
		atomic_store_explicit(&m->seg.seats[m->proc], 0, memory_order_relaxed);
	m->seat = 0;
	m->seat_since = m->seat_rest = 0;
	memset(m->seat_place, 0, sizeof(m->seat_place));
}
