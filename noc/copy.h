/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/copy.h: copies into memory that another core will read, and out of memory that another core has written.
 *
 * A copy into a cell that leaves it in this core's cache costs twice: the line is fetched from the reader's cache, and the
 * reader fetches it back, one at a time. Stores that pass by the caches do neither. And the C library's memcpy() moves
 * more than 2 KiB by `rep movsb`, which some processors do at a tenth of its speed when both ends lie at nearly the same
 * place of their pages; cells begin pages, and large buffers of programs nearly do.
 */
#ifndef NOC_COPY_H
#define NOC_COPY_H

#include <stddef.h>
#include <string.h>

/* Not to be called: noc_copy_out() and noc_copy_in(), from NOC_COPY_SMALL bytes on */
void noc_copy_out_large(void *cell, const void *from, size_t n);
void noc_copy_in_large(void *to, const void *cell, size_t n);

#define NOC_COPY_SMALL 256  /* below, memcpy() is good */
#define NOC_COPY_CLAIM 1024 /* below, fetching a cell for writing gains nothing */
#define NOC_COPY_PAST  8192 /* from here on past the caches: fewer bytes are there sooner when they go through them, as long as the
                             * two cores share one */
#define NOC_COPY_LINE  64
#define NOC_COPY_FIRST 1024 /* so many bytes are asked for at once */

/** noc_copy_expect - the lines of @cell will be read in a moment: they come here while the caller does other things */
static inline void noc_copy_expect(const void *cell, size_t n)
{
	for (size_t i = 0; i < n && i < NOC_COPY_FIRST; i += NOC_COPY_LINE)
		__builtin_prefetch((const char *)cell + i);
}

/** noc_copy_claim - likewise, noc_copy_out() will write them: they are in the reader's cache */
static inline void noc_copy_claim(void *cell, size_t n)
{
	if (n < NOC_COPY_CLAIM || n >= NOC_COPY_PAST)
		return;
	for (size_t i = 0; i < NOC_COPY_FIRST; i += NOC_COPY_LINE) /* compilers use it only for processors that they are told of */
		__asm__ volatile("prefetchw %0" : : "m"(((char *)cell)[i]));
}

/** noc_copy_out - into a cell; the caller publishes with a locked instruction or a fence, which orders these stores too */
static inline void noc_copy_out(void *cell, const void *from, size_t n)
{
	if (n < NOC_COPY_SMALL)
		memcpy(cell, from, n);
	else
		noc_copy_out_large(cell, from, n);
}

/** noc_copy_in - out of a cell */
static inline void noc_copy_in(void *to, const void *cell, size_t n)
{
	if (n < NOC_COPY_SMALL)
		memcpy(to, cell, n);
	else
		noc_copy_in_large(to, cell, n);
}

#endif
