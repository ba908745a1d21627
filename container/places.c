/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages that come after the rank: their numbers, and the places to which memory has moved meanwhile. */
#include "container/places.h"

/* ---- by number ------------------------------------------------------------------------------------------------------ */

int ct_pages_count(const struct ct_vec *spans, struct ct_vec *first, uint64_t *pages)
{
	uint64_t n = 0;

	ct_vec_fini(first);
	ct_vec_init(first, sizeof(uint64_t));
	for CT_EACH(const struct ct_img_extent, e, spans) {
		if (ct_vec_append(first, &n, 1) < 0)
			return -ENOMEM;
		n += (e->end - e->start) / CT_PAGE;
	}
	*pages = n;
	return 0;
}

uint64_t ct_pages_index(const struct ct_vec *spans, const struct ct_vec *first, uint64_t addr)
{
	size_t lo = 0, hi = spans->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct ct_img_extent *e = CT_AT(const struct ct_img_extent, spans, mid);

		if (addr < e->start)
			hi = mid;
		else if (addr >= e->end)
			lo = mid + 1;
		else
			return !first ? 0 : *CT_AT(uint64_t, first, mid) + (addr - e->start) / CT_PAGE;
	}
	return CT_NO_PAGE;
}

uint64_t ct_pages_address(const struct ct_vec *spans, const struct ct_vec *first, uint64_t index, uint64_t *end)
{
	size_t lo = 0, hi = spans->n;
	const struct ct_img_extent *e;

	while (hi - lo > 1) {
		size_t mid = (lo + hi) / 2;

		if (*CT_AT(uint64_t, first, mid) <= index)
			lo = mid;
		else
			hi = mid;
	}
	e = CT_AT(const struct ct_img_extent, spans, lo);
	*end = e->end;
	return e->start + (index - *CT_AT(uint64_t, first, lo)) * CT_PAGE;
}

/* ---- places --------------------------------------------------------------------------------------------------------- */

void ct_places_init(struct ct_places *p)
{
	ct_vec_init(&p->moves, sizeof(struct ct_place));
}

void ct_places_fini(struct ct_places *p)
{
	ct_vec_fini(&p->moves);
}

int ct_places_copy(struct ct_places *to, const struct ct_places *from)
{
	return ct_vec_append(&to->moves, from->moves.at, from->moves.n);
}

uint64_t ct_places_of(const struct ct_places *p, uint64_t source, uint64_t *end)
{
	uint64_t until = *end;

	for CT_EACH(const struct ct_place, v, &p->moves) {
		if (source >= v->start && source < v->end) {
			*end = v->end < until ? v->end : until;
			return v->to + (source - v->start);
		}
		if (v->start > source && v->start < until)
			until = v->start;
	}
	*end = until;
	return source;
}

uint64_t ct_places_source(const struct ct_places *p, uint64_t place, uint64_t *end)
{
	uint64_t until = *end;
	bool is_moved_away = false;

	for CT_EACH(const struct ct_place, v, &p->moves) {
		uint64_t there = v->to + (v->end - v->start);

		if (place >= v->to && place < there) {
			*end = there < until ? there : until;
			return v->start + (place - v->to);
		}
		if (v->to > place && v->to < until)
			until = v->to;
	}
	/* not a place that something was moved to: is its own page still there? */
	for CT_EACH(const struct ct_place, v, &p->moves) {
		if (place >= v->start && place < v->end) {
			is_moved_away = true;
			until = v->end < until ? v->end : until;
		} else if (v->start > place && v->start < until) {
			until = v->start;
		}
	}
	*end = until;
	return is_moved_away ? CT_NO_PAGE : place;
}

static int add(struct ct_vec *moves, uint64_t start, uint64_t end, uint64_t to)
{
	struct ct_place v = { start, end, to };

	return start < end ? ct_vec_append(moves, &v, 1) : 0;
}

/* Of @all what belongs neither in [from, from + len), nor at its new place: each in up to three pieces. */
static int keep_others(struct ct_vec *out, const struct ct_vec *all, uint64_t from, uint64_t to, uint64_t len)
{
	const uint64_t begin[] = { from < to ? from : to, from < to ? to : from };
	int rc = 0;

	for CT_EACH(const struct ct_place, v, all) {
		uint64_t there = v->to + (v->end - v->start), at = v->to;

		for (int i = 0; i < 2; i++) {
			uint64_t a = begin[i] > at ? begin[i] : at, b = begin[i] + len;

			if (a > there)
				a = there;
			rc |= add(out, v->start + (at - v->to), v->start + (a - v->to), at);
			at = b > at ? (b < there ? b : there) : at;
		}
		rc |= add(out, v->start + (at - v->to), v->end, at);
	}
	return rc;
}

int ct_places_move(struct ct_places *p, uint64_t from, uint64_t to, uint64_t len)
{
	struct ct_vec moves;
	int rc;

	if (from == to)
		return 0;
	ct_vec_init(&moves, sizeof(struct ct_place));
	rc = keep_others(&moves, &p->moves, from, to, len);
	for (uint64_t at = from, end; at < from + len; at = end) {
		uint64_t source;

		end = from + len;
		source = ct_places_source(p, at, &end);
		if (source != CT_NO_PAGE)
			rc |= add(&moves, source, source + (end - at), to + (at - from));
	}
	if (rc < 0) {
		ct_vec_fini(&moves);
		return -ENOMEM;
	}
	ct_vec_fini(&p->moves);
	p->moves = moves;
	return 0;
}
