/* SPDX-License-Identifier: BSD-2-Clause */
/* Copies between a program's memory and cells, a line at a time. SSE2, which every x86-64 has: wider ones are no faster
 * where the other core's cache is what is waited for. */
#include "noc/copy.h"

#include <emmintrin.h>
#include <stdint.h>

#define LINE 64u

/* From here on past the caches: fewer bytes are there sooner when they go through them, as long as the two cores share one. */
#define STREAM_MIN 8192u

void noc_copy_in_large(void *to, const void *cell, size_t n)
{
	const char *s = cell;
	char *d = to;

	for (; n >= LINE; n -= LINE, d += LINE, s += LINE) {
		const __m128i *v = (const void *)s;
		__m128i *out = (void *)d;
		__m128i a = _mm_loadu_si128(v), b = _mm_loadu_si128(v + 1), c = _mm_loadu_si128(v + 2), e = _mm_loadu_si128(v + 3);

		_mm_storeu_si128(out, a);
		_mm_storeu_si128(out + 1, b);
		_mm_storeu_si128(out + 2, c);
		_mm_storeu_si128(out + 3, e);
	}
	memcpy(d, s, n);
}

void noc_copy_out_large(void *cell, const void *from, size_t n)
{
	size_t head = -(uintptr_t)cell % LINE;
	const char *s = from;
	char *d = cell;

	if (n < STREAM_MIN) {
		noc_copy_in_large(cell, from, n);
		return;
	}
	memcpy(d, s, head);
	d += head;
	s += head;
	for (n -= head; n >= LINE; n -= LINE, d += LINE, s += LINE) {
		const __m128i *v = (const void *)s;
		__m128i *to = (void *)d;
		__m128i a = _mm_loadu_si128(v), b = _mm_loadu_si128(v + 1), c = _mm_loadu_si128(v + 2), e = _mm_loadu_si128(v + 3);

		_mm_stream_si128(to, a);
		_mm_stream_si128(to + 1, b);
		_mm_stream_si128(to + 2, c);
		_mm_stream_si128(to + 3, e);
	}
	memcpy(d, s, n);
	_mm_sfence();
}
