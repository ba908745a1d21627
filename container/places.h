/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/places.h: pages that come after the rank, by number, and where they belong now. Pure; inside container/ only.
 *
 *   spans   | 0 1 2 |   | 3 |   | 4 5 6 7 |      @first of each: 0, 3, 4
 *
 * Pages are named by their address at the source. Memory that has moved since (mremap) is at another place here.
 */
#ifndef CT_PLACES_H
#define CT_PLACES_H

#include "container/rank.h"

#define CT_NO_PAGE UINT64_MAX

/* ---- by number ---- */
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

/* ---- places: all that is not listed is where it was at the source ---- */
struct ct_place { uint64_t start, end, to; }; /* of the source; where its begin is here */
struct ct_places { struct ct_vec moves; };    /* struct ct_place, disjoint at either side */

void ct_places_init(struct ct_places *p);
void ct_places_fini(struct ct_places *p);
int ct_places_copy(struct ct_places *to, const struct ct_places *from); /* @to: as after init. -ENOMEM */
/* where the page at @source belongs, and up to where what follows it follows it there too, at most *end */
uint64_t ct_places_of(const struct ct_places *p, uint64_t source, uint64_t *end);
/* the page of the source that belongs at @place, as a stretch up to *end, at most what it was. CT_NO_PAGE: none can */
uint64_t ct_places_source(const struct ct_places *p, uint64_t place, uint64_t *end);
/* what belonged in [from, from + len) belongs at @to now; what belonged there is gone. -ENOMEM: nothing has changed */
int ct_places_move(struct ct_places *p, uint64_t from, uint64_t to, uint64_t len);

#endif
