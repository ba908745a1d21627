/* SPDX-License-Identifier: BSD-2-Clause */
/* A program that is always inside of something: restartable sequences, pthread_create, malloc, the vdso. */
#include "container/victim.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#define HAS_RSEQ (__rseq_size > 0)
#define RSEQ_CS  ((uint64_t *)(void *)((char *)__builtin_thread_pointer() + __rseq_offset + 8)) /* of the kernel's struct rseq */
#else
#define HAS_RSEQ 0
#define RSEQ_CS  ((uint64_t *)NULL)
#endif

enum { SEQUENCES, THREADS, ALLOCATIONS, CLOCKS, KINDS };
static const char *const names[] = { "restartable sequences", "threads", "allocations", "clocks" };
static _Atomic uint64_t done[KINDS];

/* One sequence, of some tens of microseconds, that ends with *count + 1, or, at its abort handler, without. */
static __attribute__((noinline)) bool sequence(volatile uint64_t *count, uint64_t *cs)
{
	__asm__ __volatile__ goto(".pushsection godwit_rseq, \"aw\"\n\t"
	                          ".balign 32\n"
	                          "3:\n\t"
	                          ".long 0, 0\n\t"
	                          ".quad 1f, 2f - 1f, 4f\n\t"
	                          ".popsection\n\t"
	                          "leaq 3b(%%rip), %%rax\n\t"
	                          "movq %%rax, (%[cs])\n"
	                          "1:\n\t"
	                          "movl $30000, %%ecx\n"
	                          "5:\n\t"
	                          "decl %%ecx\n\t"
	                          "jnz 5b\n\t"
	                          "incq (%[count])\n"
	                          "2:\n\t"
	                          ".pushsection godwit_rseq_aborts, \"ax\"\n\t"
	                          ".byte 0x0f, 0xb9, 0x3d\n\t" /* the signature, as libraries register it, in an instruction that traps */
	                          ".long 0x53053053\n"
	                          "4:\n\t"
	                          "jmp %l[aborted]\n\t"
	                          ".popsection"
	                          : : [cs] "r"(cs), [count] "r"(count) : "memory", "cc", "rax", "rcx" : aborted);
	return true;
aborted:
	return false;
}

static void *sequences(void *arg)
{
	volatile uint64_t count = 0;
	uint64_t want = 0;

	while (HAS_RSEQ) {
		want += sequence(&count, RSEQ_CS);
		if (count != want)
			say("bad sequence: %llu of %llu", (unsigned long long)count, (unsigned long long)want);
		want = count;
		done[SEQUENCES]++; /* also those that were aborted: on a full machine most may be */
	}
	return arg;
}

static __thread uint64_t mine = 17;

static void *short_lived(void *arg)
{
	if (mine != 17)
		say("bad thread-local value: %llu", (unsigned long long)mine);
	mine = (uint64_t)(uintptr_t)arg;
	return arg;
}

static void *threads(void *arg)
{
	for (uintptr_t n = 1;; n++) {
		pthread_t t;
		void *got = NULL;

		if (pthread_create(&t, NULL, short_lived, (void *)n) != 0 || pthread_join(t, &got) != 0 || got != (void *)n)
			say("bad thread %llu", (unsigned long long)n);
		done[THREADS]++;
	}
	return arg;
}

static void *allocations(void *arg)
{
	static struct { unsigned char *at; size_t len; } held[64];
	uint64_t seed = 1;

	for (;; done[ALLOCATIONS]++) {
		size_t i = (seed = seed * 6364136223846793005ull + 1) >> 58, len = 1 + (seed >> 20) % (seed & 1024 ? 300000 : 500);

		if (held[i].at && (held[i].at[0] != (unsigned char)i || held[i].at[held[i].len - 1] != (unsigned char)i))
			say("bad allocation %zu", i);
		free(held[i].at);
		held[i].at = malloc(len);
		held[i].len = len;
		memset(held[i].at, (int)i, len);
	}
	return arg;
}

static void *clocks(void *arg)
{
	for (uint64_t last = 0, now;; last = now, done[CLOCKS]++) {
		now = now_ns(CLOCK_MONOTONIC);
		if (now < last)
			say("bad clock: it went back by %llu ns", (unsigned long long)(last - now));
	}
	return arg;
}

int sections(void)
{
	static void *(*const bodies[])(void *) = { sequences, threads, allocations, clocks };
	char line[64];

	for (int i = 0; i < KINDS; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, bodies[i], NULL) != 0)
			return 2;
	}
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		uint64_t before[KINDS], until = now_ns(CLOCK_MONOTONIC) + 20000000000u;

		for (int i = 0; i < KINDS; i++)
			before[i] = done[i];
		for (int i = HAS_RSEQ ? 0 : 1; i < KINDS; i++) {
			while (done[i] < before[i] + 2 && now_ns(CLOCK_MONOTONIC) < until)
				sched_yield();
			if (done[i] < before[i] + 2)
				say("bad: %s do not go on", names[i]);
		}
		say("ok %s", line);
	}
	say("done");
	_exit(7);
}
