/* SPDX-License-Identifier: BSD-2-Clause */
/* A program whose mappings are of every sort, and very many: locked, advised, shared and closed, stacks that grow. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE  4096u
#define HUGE  (2u << 20)
#define MANY  1200 /* mappings */
#define THREADS 64

static char flags[8][256];
static char *watched[8];
static unsigned n_watched;

/* a line of /proc/self/smaps about the mapping that begins at @at, after @key */
static bool smaps_line(const char *at, const char *key, char *out, size_t cap)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	bool is_it = false, is_found = false;
	unsigned long from, to;
	char line[512];

	while (f && !is_found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			is_it = from == (unsigned long)at;
		else if (is_it && strncmp(line, key, strlen(key)) == 0)
			is_found = snprintf(out, cap, "%s", line + strlen(key)) > 0;
	}
	if (f)
		fclose(f);
	return is_found;
}

static char *region(size_t len, int prot, int how, int advice)
{
	char *p = mmap(NULL, len + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	p = (char *)(((uintptr_t)p + HUGE) & ~(uintptr_t)(HUGE - 1));
	p = mmap(p, len, prot, MAP_FIXED | MAP_ANONYMOUS | how, -1, 0);
	if (p == MAP_FAILED || (advice >= 0 && madvise(p, len, advice) < 0))
		say("bad region: %s", strerror(errno));
	watched[n_watched++] = p;
	return p;
}

/* deeper with each call, far below what there is of the stack */
static __attribute__((noinline)) unsigned deep(unsigned n)
{
	volatile unsigned char room[16384];

	for (unsigned i = 0; i < sizeof(room); i += 512)
		room[i] = (unsigned char)(n + i);
	if (n == 0)
		return room[512];
	return deep(n - 1) + room[n * 512 % sizeof(room)];
}

static _Atomic unsigned turn, answered;
static __thread unsigned own = 1;

static void *thread(void *arg)
{
	unsigned id = (unsigned)(uintptr_t)arg, seen = 0;

	own = id * 1000;
	for (;;) {
		unsigned now = turn;

		if (now == seen) {
			usleep(1000);
			continue;
		}
		if (now == UINT32_MAX)
			return NULL;
		own += now - seen;
		seen = now;
		if (own != id * 1000 + seen)
			say("bad thread-local value in thread %u", id);
		answered++;
	}
}

int mappings(void)
{
	const int all = PROT_READ | PROT_WRITE;
	char *locked, *dontfork, *wipe, *dump, *random, *huge, *shared, *lazily, *many, line[64], text[256];
	pthread_t threads[THREADS];
	unsigned round = 0, want;
	bool was_huge;

	locked = region(8 * PAGE, all, MAP_PRIVATE, -1);
	dontfork = region(8 * PAGE, all, MAP_PRIVATE, MADV_DONTFORK);
	wipe = region(8 * PAGE, all, MAP_PRIVATE, MADV_WIPEONFORK);
	dump = region(8 * PAGE, all, MAP_PRIVATE | MAP_NORESERVE, MADV_DONTDUMP);
	random = region(8 * PAGE, all, MAP_PRIVATE, MADV_RANDOM);
	lazily = region(64 * PAGE, all, MAP_PRIVATE, -1);
	shared = region(8 * PAGE, all, MAP_SHARED, -1);
	huge = region(4 * HUGE, all, MAP_PRIVATE, MADV_HUGEPAGE);
	if (mlock(locked, 8 * PAGE) < 0 || mlock2(lazily, 64 * PAGE, MLOCK_ONFAULT) < 0)
		say("bad mlock: %s", strerror(errno));
	lazily[0] = dontfork[0] = wipe[0] = dump[0] = random[0] = 1;
	memset(huge, 5, 4 * HUGE);
	memset(shared, 6, 8 * PAGE);
	mprotect(shared + 2 * PAGE, PAGE, PROT_READ);
	mprotect(shared + 4 * PAGE, PAGE, PROT_NONE);
	many = mmap(NULL, MANY * PAGE, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < MANY; i++) {
		many[i * PAGE] = (char)i;
		if (i % 2)
			mprotect(many + i * PAGE, PAGE, PROT_READ);
	}
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, thread, (void *)i) != 0)
			say("bad thread");
	for (unsigned i = 0; i < n_watched; i++)
		if (!smaps_line(watched[i], "VmFlags:", flags[i], sizeof(flags[i])))
			say("bad smaps");
	was_huge = smaps_line(huge, "AnonHugePages:", text, sizeof(text)) && atol(text) == 8192;
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (unsigned i = 0; i < n_watched; i++)
			if (!smaps_line(watched[i], "VmFlags:", text, sizeof(text)) || strcmp(text, flags[i]) != 0)
				say("bad flags of mapping %u: %.80s, not %.80s", i, text, flags[i]);
		if (was_huge && (!smaps_line(huge, "AnonHugePages:", text, sizeof(text)) || atol(text) == 0))
			say("bad: huge pages have become small");
		if (!smaps_line(lazily, "Rss:", text, sizeof(text)) || atol(text) > 16)
			say("bad: pages are there that were never touched: %s", text);
		if (lazily[0] != 1 || locked[PAGE] || dontfork[0] != 1 || wipe[0] != 1 || dump[0] != 1 || random[0] != 1 ||
		    huge[3 * HUGE + 77] != 5)
			say("bad contents");
		for (unsigned i = 0; i < 8; i++) {
			mprotect(shared + i * PAGE, PAGE, all);
			if (shared[i * PAGE] != (char)(6 + round))
				say("bad shared page %u: %d", i, shared[i * PAGE]);
			shared[i * PAGE]++;
			mprotect(shared + i * PAGE, PAGE, i == 2 ? PROT_READ : i == 4 ? PROT_NONE : all);
		}
		for (unsigned i = 0; i < MANY; i++)
			if (many[i * PAGE] != (char)i)
				say("bad mapping %u of many", i);
		round++;
		want = deep(40 * round);
		if (want != deep(40 * round))
			say("bad stack");
		answered = 0;
		turn = round;
		while (answered < THREADS)
			usleep(500);
		say("ok %s", line);
	}
	turn = UINT32_MAX;
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	say("done");
	return 7;
}

/* ---- very many stretches of pages --------------------------------------------------------------------------------- */

#define EXTENTS 66000u

int extents(void)
{
	size_t len = 2ul * EXTENTS * PAGE;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), line[64];
	uint64_t round = 0;

	if (p == MAP_FAILED || madvise(p, len, MADV_NOHUGEPAGE) < 0)
		say("bad map: %s", strerror(errno));
	for (size_t i = 0; i < EXTENTS; i++)
		*(uint64_t *)(void *)(p + 2 * i * PAGE) = i;
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (size_t i = 0; i < EXTENTS; i++)
			if (*(uint64_t *)(void *)(p + 2 * i * PAGE) != i + (i % 7 ? 0 : round))
				say("bad page %zu", i);
		round++;
		for (size_t i = 0; i < EXTENTS; i += 7)
			++*(uint64_t *)(void *)(p + 2 * i * PAGE);
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- all that will be mapped is locked ----------------------------------------------------------------------------- */

int locked(void)
{
	char line[64], text[256];

	if (mlockall(MCL_FUTURE | MCL_ONFAULT) < 0)
		say("bad mlockall: %s", strerror(errno));
	if (mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		say("bad map: %s", strerror(errno));
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		char *p = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED || !smaps_line(p, "VmFlags:", text, sizeof(text)) || !strstr(text, " lo lf "))
			say("bad: what is mapped is not locked any more: %s", text);
		munmap(p, PAGE);
		say("ok %s", line);
	}
	say("done");
	return 7;
}
