/* SPDX-License-Identifier: BSD-2-Clause */
/* A program that changes its memory all the time, in every way it can, and knows what each page must hold. */
#include "container/victim.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE    4096u
#define WORDS   (PAGE / sizeof(uint64_t))
#define PAGES   1024u /* of a region, at most */
#define REGIONS 8u

/* A page holds @version in a pattern; version 0: it was never written, or was given back, and reads as zeroes. */
struct region {
	uint64_t *at;
	unsigned pages, prot;
	uint32_t version[PAGES];
};

static struct region regions[REGIONS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t seed, changes;
static uint32_t versions;
static int pipe_fd[2];

static unsigned pick(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % n;
}

static uint64_t word_of(const struct region *r, unsigned page, unsigned i)
{
	uint32_t v = r->version[page];

	return v ? ((uint64_t)(r - regions) << 56 | (uint64_t)page << 40 | v) ^ (uint64_t)i * 0x9e3779b97f4a7c15ull : 0;
}

static void fill(struct region *r, unsigned page, uint64_t *to)
{
	r->version[page] = ++versions;
	for (unsigned i = 0; i < WORDS; i++)
		to[i] = word_of(r, page, i);
}

static bool is_right(struct region *r)
{
	for (unsigned p = 0; p < r->pages; p++)
		for (unsigned i = 0; i < WORDS; i++)
			if (r->at[p * WORDS + i] != word_of(r, p, i)) {
				say("bad page %u of region %u (version %u): word %u is %llx, not %llx", p, (unsigned)(r - regions), r->version[p],
				    i, (unsigned long long)r->at[p * WORDS + i], (unsigned long long)word_of(r, p, i));
				return false;
			}
	return true;
}

static void *map(void *at, unsigned pages, bool is_huge)
{
	void *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	if (p == MAP_FAILED) {
		say("bad mmap: %s", strerror(errno));
		_exit(3);
	}
	if (is_huge)
		madvise(p, pages * PAGE, MADV_HUGEPAGE);
	return p;
}

/* zeroes, a pattern the kernel writes, memory given back, mapped anew, moved, grown, shrunk, closed to writing and opened */
static void change(struct region *r)
{
	static uint64_t page[WORDS];
	unsigned p = pick(r->pages), n = 1 + pick(r->pages - p), to;
	void *moved;

	switch (pick(r->prot & PROT_WRITE ? 24 : 2)) {
	case 0:
		mprotect(r->at, r->pages * PAGE, r->prot ^= PROT_WRITE);
		break;
	case 1:
		break;
	case 2:
		madvise(&r->at[p * WORDS], n * PAGE, MADV_DONTNEED);
		memset(&r->version[p], 0, n * sizeof(r->version[0]));
		break;
	case 3:
		if (pick(8))
			break;
		munmap(r->at, r->pages * PAGE);
		map(r->at, r->pages, pick(2));
		memset(r->version, 0, sizeof(r->version));
		break;
	case 4:
		to = 1 + pick(PAGES);
		moved = mremap(r->at, r->pages * PAGE, to * PAGE, MREMAP_MAYMOVE);
		if (moved == MAP_FAILED)
			break;
		r->at = moved;
		for (unsigned i = r->pages; i < to; i++)
			r->version[i] = 0;
		r->pages = to;
		break;
	case 5:
		n = n < 8 ? n : 8;
		memset(&r->at[p * WORDS], 0, n * PAGE); /* zeroes that are written: like memory that never was */
		memset(&r->version[p], 0, n * sizeof(r->version[0]));
		break;
	case 6: /* written by the kernel */
		fill(r, p, page);
		if (write(pipe_fd[1], page, PAGE) != (ssize_t)PAGE || read(pipe_fd[0], &r->at[p * WORDS], PAGE) != (ssize_t)PAGE)
			say("bad pipe");
		break;
	default:
		n = n < 16 ? n : 16;
		for (unsigned i = p; i < p + n; i++)
			fill(r, i, &r->at[i * WORDS]);
	}
	changes++;
}

static void *changer(void *arg)
{
	for (;;) {
		pthread_mutex_lock(&mutex);
		change(&regions[pick(REGIONS)]);
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

int dirty(unsigned from)
{
	pthread_t thread;
	char line[64];
	uint64_t before;

	seed = from;
	if (pipe(pipe_fd) < 0)
		return 3;
	for (unsigned i = 0; i < REGIONS; i++) {
		regions[i].pages = PAGES / 2;
		regions[i].prot = PROT_READ | PROT_WRITE;
		regions[i].at = map(NULL, regions[i].pages, i % 4 == 3);
	}
	pthread_create(&thread, NULL, changer, NULL);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		bool is_good = true;

		pthread_mutex_lock(&mutex);
		for (unsigned i = 0; i < REGIONS && is_good; i++)
			is_good = is_right(&regions[i]);
		before = changes;
		pthread_mutex_unlock(&mutex);
		for (bool is_same = true; is_same;) {
			pthread_mutex_lock(&mutex);
			is_same = changes < before + 50;
			pthread_mutex_unlock(&mutex);
		}
		if (is_good)
			say("ok %s", line);
	}
	say("done");
	_exit(7);
}
