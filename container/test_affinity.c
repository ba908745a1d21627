/* SPDX-License-Identifier: BSD-2-Clause */
/* Processors that a thread has chosen: what is told of them at one place, and what that is at another. */
#include "container/rank.h"
#include "tests/tap.h"

static cpu_set_t set_of(uint64_t bits)
{
	cpu_set_t s;

	CPU_ZERO(&s);
	for (int i = 0; i < 64; i++)
		if (bits >> i & 1)
			CPU_SET(i, &s);
	return s;
}

int main(void)
{
	static const struct { const char *what; uint64_t may, from, to, want; } rows[] = {
		{ "everywhere is everywhere", 0xf, 0xf, 0xf0, 0xf0 },
		{ "more than everywhere is everywhere", 0xff, 0xf, 0x30, 0x30 },
		{ "everywhere of one is everywhere of four", 0x1, 0x1, 0xf0, 0xf0 },
		{ "the first is the first", 0x1, 0xf, 0xf0, 0x10 },
		{ "the last is the last", 0x8, 0xf, 0xf0, 0x80 },
		{ "two are two", 0x6, 0xf, 0xf0, 0x60 },
		{ "at the same place as it was", 0xa, 0xf, 0xf, 0xa },
		{ "places with gaps", 0x11, 0x55, 0xaa, 0x22 },
		{ "used again where there are fewer", 0x8, 0xf, 0x30, 0x20 },
		{ "three of four onto two are both", 0x7, 0xf, 0x30, 0x30 },
		{ "one onto a place of one", 0x4, 0xf, 0x80, 0x80 },
		{ "partly outside: what is inside counts", 0xf1, 0xf, 0xf00, 0x100 },
		{ "nowhere in its place: everywhere in the new one", 0xf0, 0xf, 0xf00, 0xf00 },
	};
	uint64_t positions[CT_IMG_CPUS / 64];
	cpu_set_t all, one, got;

	tap_begin(GW_ARRAY_LEN(rows) + 1);
	for (size_t i = 0; i < GW_ARRAY_LEN(rows); i++) {
		cpu_set_t may = set_of(rows[i].may), from = set_of(rows[i].from), to = set_of(rows[i].to), want = set_of(rows[i].want);

		ct_affinity_narrow(&may, &from, positions);
		ct_affinity_widen(positions, &to, &got);
		ok(CPU_EQUAL(&got, &want), "%s", rows[i].what);
	}
	memset(&all, 0xff, sizeof(all));
	CPU_ZERO(&one);
	CPU_SET(CPU_SETSIZE - 1, &one);
	ct_affinity_narrow(&one, &all, positions);
	ct_affinity_widen(positions, &all, &got);
	ok(CPU_EQUAL(&got, &one), "the last of %d", CPU_SETSIZE);
	return tap_done();
}
