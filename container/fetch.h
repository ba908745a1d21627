/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/fetch.h: what serve.c and fetch.c share: pages of a list of spans by number. Inside container/ only.
 *
 *   spans   | 0 1 2 |   | 3 |   | 4 5 6 7 |      @first of each: 0, 3, 4
 */
#ifndef CT_FETCH_H
#define CT_FETCH_H

#include "container/rank.h"

#define CT_NO_PAGE UINT64_MAX

int ct_pages_count(const struct ct_vec *spans, struct ct_vec *first, uint64_t *pages);
uint64_t ct_pages_index(const struct ct_vec *spans, const struct ct_vec *first, uint64_t addr); /* CT_NO_PAGE: in none. @first
                                                                            * NULL: only that is asked */
/* the address of page @index, and where the span that it is in ends */
uint64_t ct_pages_address(const struct ct_vec *spans, const struct ct_vec *first, uint64_t index, uint64_t *end);

static inline bool ct_bit_is_set(const unsigned char *bits, uint64_t i)
{
	return bits[i / 8] >> i % 8 & 1;
}

static inline void ct_bit_set(unsigned char *bits, uint64_t i)
{
	bits[i / 8] |= (unsigned char)(1u << i % 8);
}

static inline void ct_bit_clear(unsigned char *bits, uint64_t i)
{
	bits[i / 8] &= (unsigned char)~(1u << i % 8);
}

#endif
