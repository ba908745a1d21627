/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages of this process that are made its own, and there, before a rank waits for what is written to them. */
#include "container/rank.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define MADV_POPULATE_WRITE_ 23 /* Linux 5.14, which this libc may not know */
#define RANGES_MAX 32
#define BYTES_MAX  (2u << 20)   /* of a range: a daemon that has more pays for what it touches */
#define STACK_BYTES (96u << 10) /* below here: the calls to come have buffers of some 16 KiB */

static struct { uintptr_t start, end; } data[RANGES_MAX]; /* of the program and its libraries: they stay where they are */
static size_t n_data;
static uintptr_t heap; /* where it begins */

static void find_data(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end, inode;
	bool was_data = false;
	char line[4352];

	while (f && fgets(line, sizeof(line), f)) {
		bool is_data;
		char prot[5];
		int at = 0;

		if (sscanf(line, "%lx-%lx %4s %*x %*s %lu %n", &start, &end, prot, &inode, &at) != 4 || !at)
			continue;
		if (strncmp(line + at, "[heap]", 6) == 0 && !heap)
			heap = start;
		is_data = strcmp(prot, "rw-p") == 0 && (inode || (was_data && !line[at]));
		if (is_data && n_data < RANGES_MAX && end - start <= BYTES_MAX) {
			data[n_data].start = start;
			data[n_data++].end = end;
		}
		was_data = is_data && inode; /* what follows it without a name belongs to it */
	}
	if (f)
		fclose(f);
}

/* By writing there, which also makes it grow: what is asked of the kernel ends where it has not grown to yet. From above, as calls do. */
static __attribute__((noinline)) void stack_own(void)
{
	volatile char below[STACK_BYTES];

	for (size_t i = sizeof(below); i >= CT_PAGE; i -= CT_PAGE)
		below[i - 1] = 0;
}

/*
 * A daemon that has forked, as for a shell or a helper, shares its pages with whom it has forked, and copies each when it writes
 * there next: 5 us, which a rank that stands still waits for a dozen times. They are few, so all are copied before.
 */
void ct_pages_own(void)
{
	uintptr_t end = (uintptr_t)sbrk(0);

	if (!n_data)
		find_data();
	for (size_t i = 0; i < n_data; i++)
		madvise((void *)data[i].start, data[i].end - data[i].start, MADV_POPULATE_WRITE_);
	if (heap && end > heap && end - heap <= BYTES_MAX)
		madvise((void *)heap, end - heap, MADV_POPULATE_WRITE_);
	stack_own();
}
