/* SPDX-License-Identifier: BSD-2-Clause */
/* Copies between a program's memory and cells, a line at a time. SSE2, which every x86-64 has: wider ones are no faster
 * where the other core's cache is what is waited for. */
#include "noc/copy.h"

#include <emmintrin.h>
#include <stdbool.h>
#include <stdint.h>

/* So far ahead long copies ask for what they will read: the processor's own prefetching stops where a page ends, and what the
 * other core has written past the caches comes from memory. Twice as far is no better. */
#define AHEAD 1024u

/* @is_past: past the caches, where @to must begin a line. @is_long: ask ahead. Constants of each caller, so that no loop asks
 * for them. */
static inline __attribute__((always_inline)) void copy_lines(char *to, const char *from, size_t n, bool is_past, bool is_long)
{
	for (; n >= NOC_COPY_LINE; n -= NOC_COPY_LINE, to += NOC_COPY_LINE, from += NOC_COPY_LINE) {
		const __m128i *v = (const void *)from;
		__m128i *out = (void *)to;
		__m128i a = _mm_loadu_si128(v), b = _mm_loadu_si128(v + 1), c = _mm_loadu_si128(v + 2), e = _mm_loadu_si128(v + 3);

		if (is_long)
			_mm_prefetch(from + AHEAD, _MM_HINT_T0);
		if (is_past) {
			_mm_stream_si128(out, a);
			_mm_stream_si128(out + 1, b);
			_mm_stream_si128(out + 2, c);
			_mm_stream_si128(out + 3, e);
		} else {
			_mm_storeu_si128(out, a);
			_mm_storeu_si128(out + 1, b);
			_mm_storeu_si128(out + 2, c);
			_mm_storeu_si128(out + 3, e);
		}
	}
	memcpy(to, from, n);
}

void noc_copy_in_large(void *to, const void *cell, size_t n)
{
	if (n < NOC_COPY_PAST)
		copy_lines(to, cell, n, false, false);
	else
		copy_lines(to, cell, n, false, true);
}

void noc_copy_out_large(void *cell, const void *from, size_t n)
{
	size_t head = -(uintptr_t)cell % NOC_COPY_LINE;

	if (n < NOC_COPY_PAST) {
		copy_lines(cell, from, n, false, false);
		return;
	}
	memcpy(cell, from, head);
	copy_lines((char *)cell + head, (const char *)from + head, n - head, true, true);
	_mm_sfence();
}
