/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * area_bench: what it is worth that the runtime's state lies together, in the user area (tests/bench/area.py).
 *
 *	mpi-shim/area_bench [ROUNDS]           prints what the provider takes for a round, in thousands of ticks, and pages
 *	mpi-shim/area_heap_bench [ROUNDS]      the same code over malloc: area_heap.c in place of container/area.c
 *
 * One process sends to itself, as in count.c. WAITING messages lie in the provider that nobody has received yet; in a round
 * one of them, any, is received and another one sent. Around each call the program does its own work: it frees a block of its
 * heap, takes another one of another size, and writes it, and it reads a table. So malloc finds room for the runtime's blocks between
 * those of the program, where any program's heap would have it.
 * Both do the same, in the same order; only where the provider's blocks lie differs. Under callgrind --toggle-collect=talk the cache
 * simulation counts for what the provider does. pages: on how many pages the blocks lie that the rounds have asked for; a move that
 * follows the rank while it runs sends them again.
 */
#include "mpi-shim/test_shim.h"

#include <stdlib.h>

#define WAITING 4096
#define BLOCKS  8192          /* of the program */
#define TABLE   (256u << 10)  /* bytes that it reads in a round: a second-level cache forgets much of what was there */

static struct { char *at; size_t size; } blocks[BLOCKS];
static unsigned char *table;
static uint64_t seed = 88172645463325252u;
static volatile unsigned sink;

static uint32_t any(uint32_t below)
{
	seed ^= seed << 13; /* Source: Marsaglia, Xorshift RNGs, 2003 */
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % below;
}

__attribute__((noipa)) static void work(void)
{
	for (int i = 0; i < 4; i++) {
		uint32_t b = any(BLOCKS);

		free(blocks[b].at);
		blocks[b].size = 16 + any(600);
		blocks[b].at = malloc(blocks[b].size);
		if (!blocks[b].at)
			tap_bail("out of memory");
		memset(blocks[b].at, 1, blocks[b].size);
	}
	for (size_t i = 0; i < TABLE / 16; i += 64)
		sink += table[i + (size_t)any(16) * (TABLE / 16)];
}

/* Every block is asked for through this (the linker's --wrap). */
static bool is_counting;
static uintptr_t pages[1 << 16];
static long n_pages;

void *__real_ct_area_alloc(size_t size);
void *__wrap_ct_area_alloc(size_t size);
void *__wrap_ct_area_alloc(size_t size)
{
	void *p = __real_ct_area_alloc(size);
	uintptr_t page = (uintptr_t)p >> 12;
	size_t at = page * 0x9e3779b97f4a7c15u >> 48;

	while (is_counting && pages[at] != page) {
		if (!pages[at]) {
			pages[at] = page;
			n_pages++;
			break;
		}
		at = (at + 1) % (sizeof(pages) / sizeof(*pages));
	}
	return p;
}

/* Receive the message with that tag, which is there; send another one. Return: what went wrong. */
__attribute__((noipa)) static long talk(uint64_t receive, uint64_t send)
{
	static struct fi_context2 context;
	static char in[128], out[64];
	struct fi_cq_tagged_entry c;
	long bad = 0;

	if (receive) {
		bad += fi_trecv(ep, in, sizeof(in), NULL, peers[ME], receive, 0, &context) != 0;
		bad += fi_cq_read(cq, &c, 1) != 1;
	}
	bad += fi_tinjectdata(ep, out, sizeof(out), 0, peers[ME], send) != 0;
	fi_cq_read(cq, &c, 1); /* takes it from the inbox */
	return bad;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100000;
	struct gw_error why = { 0 };
	uint64_t spent = 0, next = 1;
	static uint64_t tags[WAITING];
	long bad = 0;
	int fd;

	tap_begin(170);
	fd = noc_segment_create(0, 2, 1, 1, &why);
	if (fd < 0)
		tap_bail("%s", why.text);
	table = calloc(1, TABLE);
	if (!table)
		tap_bail("out of memory");
	open_all(fd, ME, mpich_hints());
	for (int i = 0; i < BLOCKS; i++)
		work();
	for (int i = 0; i < WAITING; i++) {
		tags[i] = next++;
		bad += talk(0, tags[i]);
		work();
	}
	is_counting = true;
	for (int i = 0; i < rounds; i++) {
		uint32_t k = any(WAITING);
		uint64_t tag = tags[k], start;

		tags[k] = next++;
		work();
		start = __builtin_ia32_rdtsc();
		bad += talk(tag, tags[k]);
		spent += __builtin_ia32_rdtsc() - start;
	}
	if (bad)
		tap_bail("%ld calls failed", bad);
	printf("round_kticks=%.3f pages=%ld\n", (double)spent / rounds / 1000, n_pages);
	ok(close_all(), "everything closes");
	return tap_done();
}
