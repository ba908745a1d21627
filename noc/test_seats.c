/* SPDX-License-Identifier: BSD-2-Clause */
/* Seats: a rank that waits leaves the core that has more of them, and only as many go as make it even. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>

#include "noc/local.h"
#include "tests/tap.h"

#define RANKS 8
#define ME    1

static int here = -1, there = -1; /* two cores */
static cpu_set_t both;

static void put(uint32_t rank, int cpu)
{
	atomic_store(&noc_me->seg.seats[rank], (uint16_t)(cpu + 1));
}

/* We are on @cpu and may be on both: where are we after a look? The kernel may move us meanwhile. */
static int look_from(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
	sched_setaffinity(0, sizeof(both), &both);
	noc_me->seat_rest = 0;
	noc_seat_look(__builtin_ia32_rdtsc());
	return atomic_load(&noc_me->seg.seats[ME]) - 1;
}

static void test_back(void)
{
	static const struct { const char *what; unsigned may, now, place, want; } rows[] = {
		{ "who may be everywhere still may", 0xf, 0xf, 0xf, 0xf },
		{ "what a control group has taken away comes back", 0x3, 0x3, 0xf, 0xf },
		{ "what the program has chosen stays, whatever was taken away", 0x3, 0x7, 0xf, 0x3 },
		{ "and so does more than its place", 0xff, 0xf, 0xf, 0xff },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(rows); i++) {
		uint64_t may[NOC_SEAT_WORDS] = { 0, rows[i].may }, now[NOC_SEAT_WORDS] = { 0, rows[i].now };
		uint64_t place[NOC_SEAT_WORDS] = { 0, rows[i].place };

		noc_seat_back(may, now, place);
		ok(may[1] == rows[i].want, "%s", rows[i].what);
	}
}

int main(void)
{
	struct noc_segment seg;
	struct gw_error why;
	cpu_set_t may;
	int fd, tries;

	if (sched_getaffinity(0, sizeof(may), &may) < 0 || CPU_COUNT(&may) < 2)
		tap_skip_all("there is one core only");
	CPU_ZERO(&both);
	for (int c = 0; c < CPU_SETSIZE && there < 0; c++)
		if (CPU_ISSET(c, &may)) {
			CPU_SET(c, &both);
			*(here < 0 ? &here : &there) = c;
		}
	tap_begin(13);
	test_back();
	fd = noc_segment_create(1, RANKS, 1, 1, &why);
	ok(fd >= 0 && noc_start_test(fd, ME, NULL, &why) == 0, "a rank joins");
	atomic_store(&noc_me->seg.domains[0].cores, 2);
	atomic_store(&noc_me->seg.domains[0].ranks, RANKS);

	for (uint32_t i = 0; i < RANKS; i++)
		put(i, i == ME ? -1 : here);
	is_int(look_from(here), there, "from a core with all others it goes to the empty one");
	ok(sched_getaffinity(0, sizeof(may), &may) == 0 && CPU_EQUAL(&may, &both), "and may be on both, as before");

	for (uint32_t i = 0; i < RANKS; i++)
		put(i, i == ME ? -1 : i < RANKS - 2 ? here : there);
	is_int(look_from(here), there, "from one that has more than its share it goes, too");

	for (uint32_t i = 0; i < RANKS; i++)
		put(i, i == 0 ? here : -1);
	for (tries = 0; tries < 100 && look_from(here) != here; tries++)
		;
	ok(tries < 100, "one of a lower number is there: that one goes, we stay");
	put(3, there);
	put(0, -1);
	for (tries = 0; tries < 100 && look_from(here) != here; tries++)
		;
	ok(tries < 100, "where it is even we stay");

	ok(noc_segment_map(&seg, fd, NULL, &why) == 0 && seg.seats[ME] != 0, "its seat is there for all to see");
	is_int(noc_detach_test(1000, &why), 0, "it leaves the host");
	is_int(seg.seats[ME], 0, "and has no seat any more");
	return tap_done();
}
