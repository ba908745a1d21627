/* SPDX-License-Identifier: BSD-2-Clause */
/* The gate keeps its two sides apart; the user area hands out blocks that do not overlap. */
#include "container/agent.h"

#include <pthread.h>
#include <stdlib.h>

#include "tests/tap.h"

static volatile int owner;         /* plain on purpose: only the gate protects it */
static _Atomic int clashes, stop;
static _Atomic long entries;

static void *program(void *arg)
{
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		ct_gate_enter(CT_DOING_WAIT);
		owner = 1;
		for (int i = 0; i < 20; i++)
			if (owner != 1)
				clashes++;
		ct_gate_leave();
		atomic_fetch_add_explicit(&entries, 1, memory_order_relaxed);
	}
	return arg;
}

static void test_gate(void)
{
	pthread_t t;
	int closed = 0;

	pthread_create(&t, NULL, program, NULL);
	for (int i = 0; i < 5000; i++) {
		long before = atomic_load(&entries);

		if (ct_gate_close(10000))
			continue;
		closed++;
		owner = 2;
		for (int k = 0; k < 20; k++)
			if (owner != 2)
				clashes++;
		ct_gate_open();
		while (i % 8 == 0 && atomic_load(&entries) == before)
			sched_yield();
	}
	stop = 1;
	pthread_join(t, NULL);
	is_int(closed, 5000, "the gate closed each time while a thread went in and out");
	is_int(clashes, 0, "never both inside (%ld entries)", atomic_load(&entries));
}

static void *stuck(void *arg)
{
	ct_gate_enter(CT_DOING_SEND);
	atomic_store(&stop, 2);
	while (atomic_load(&stop) == 2)
		sched_yield();
	ct_gate_leave();
	return arg;
}

static void test_deadline(void)
{
	pthread_t t;

	stop = 0;
	pthread_create(&t, NULL, stuck, NULL);
	while (atomic_load(&stop) != 2)
		sched_yield();
	is_int(ct_gate_close(20), -ETIMEDOUT, "a thread that stays inside makes closing fail after its deadline");
	is_int(ct_the_gate.shut, 0, "and the gate is open then");
	stop = 1;
	pthread_join(t, NULL);
	is_int(ct_gate_close(1000), 0, "it closes once the thread has left");
	ct_gate_open();
}

#define BLOCKS 4000
static void test_area(void)
{
	struct { unsigned char *p; size_t size; unsigned char fill; } b[BLOCKS] = { 0 };
	int bad = 0;
	size_t used;

	srand(7);
	for (int round = 0; round < 20; round++)
		for (int i = 0; i < BLOCKS; i++) {
			if (b[i].p && rand() % 2) {
				for (size_t k = 0; k < b[i].size; k += 1 + k / 8)
					bad += b[i].p[k] != b[i].fill;
				ct_area_free(b[i].p, b[i].size);
				b[i].p = NULL;
			} else if (!b[i].p) {
				b[i].size = rand() % 50 ? (size_t)(rand() % 600) + 1 : (size_t)(rand() % 200000) + 1;
				b[i].fill = (unsigned char)rand();
				b[i].p = ct_area_alloc(b[i].size);
				bad += !b[i].p || (uintptr_t)b[i].p % 16;
				memset(b[i].p, b[i].fill, b[i].size);
			}
		}
	for (int i = 0; i < BLOCKS; i++)
		ct_area_free(b[i].p, b[i].size);
	is_int(bad, 0, "blocks of the user area keep their contents and are aligned");
	is_int(ct_area_used(), 0, "all given back");
	used = ct_area_used();
	ok(ct_area_alloc((size_t)1 << 40) == NULL && ct_area_used() == used, "a block larger than the area is refused");
}

int main(void)
{
	tap_begin(60);
	test_gate();
	test_deadline();
	test_area();
	return tap_done();
}
