/* SPDX-License-Identifier: BSD-2-Clause */
/* The user area: one reserved range of private memory with size-class free lists; see agent.h. */
#include "container/agent.h"

#include <sys/mman.h>

/*
 * A block's class is found from its size alone, so a block carries no header. Classes grow by halves: 32, 48, 64, 96,
 * 128, ... which wastes a quarter at most on average and keeps every block 16-byte aligned.
 *
 *   base                committed            limit
 *   | blocks ... | brk  |  (readable)  | PROT_NONE reserve ... |
 */
#define AREA_RESERVE ((size_t)64 << 30)
#define AREA_STEP    ((size_t)4 << 20)
#define AREA_CLASSES 64

struct area_free { struct area_free *next; };

static struct {
	char *base, *brk, *committed, *limit;
	size_t used;
	struct area_free *free[AREA_CLASSES];
} area; /* process-wide: the user area is one per process; owned by whoever owns the gate */

static unsigned area_class(size_t size)
{
	unsigned log2;

	if (size <= 32)
		return 0;
	log2 = 63 - (unsigned)__builtin_clzl(size - 1); /* 2^log2 < size <= 2^(log2+1) */
	return (log2 - 5) * 2 + (size > ((size_t)3 << (log2 - 1)) ? 2 : 1);
}

static size_t area_class_size(unsigned class)
{
	size_t pow2 = (size_t)32 << (class / 2);

	return class % 2 ? pow2 + pow2 / 2 : pow2;
}

static bool area_reserve(void)
{
	for (size_t size = AREA_RESERVE; size >= AREA_STEP; size /= 2) {
		char *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (p != MAP_FAILED) {
			area.base = area.brk = area.committed = p;
			area.limit = p + size;
			return true;
		}
	}
	return false;
}

static void *area_grow(size_t size)
{
	char *p;

	if (!area.base && !area_reserve())
		return NULL;
	if (size > (size_t)(area.limit - area.brk))
		return NULL;
	if (area.brk + size > area.committed) {
		size_t need = (size_t)(area.brk + size - area.committed), room = (size_t)(area.limit - area.committed);
		size_t step = (need + AREA_STEP - 1) / AREA_STEP * AREA_STEP;

		if (step > room)
			step = room;
		if (mprotect(area.committed, step, PROT_READ | PROT_WRITE))
			return NULL;
		area.committed += step;
	}
	p = area.brk;
	area.brk += size;
	return p;
}

void *ct_area_alloc(size_t size)
{
	unsigned class = area_class(size);
	struct area_free *f;
	void *p;

	if (size > AREA_RESERVE)
		return NULL;
	f = area.free[class];
	if (GW_LIKELY(f != NULL)) {
		area.free[class] = f->next;
		p = f;
	} else {
		p = area_grow(area_class_size(class));
	}
	if (p)
		area.used += area_class_size(class);
	return p;
}

void *ct_area_zalloc(size_t size)
{
	void *p = ct_area_alloc(size);

	if (p)
		memset(p, 0, size);
	return p;
}

void ct_area_free(void *p, size_t size)
{
	unsigned class = area_class(size);
	struct area_free *f = p;

	if (!p)
		return;
	f->next = area.free[class];
	area.free[class] = f;
	area.used -= area_class_size(class);
}

size_t ct_area_used(void)
{
	return area.used;
}
