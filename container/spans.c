/* SPDX-License-Identifier: BSD-2-Clause */
/* Sets of addresses as ascending stretches: pure. */
#include "container/spans.h"

int ct_spans_add(struct ct_vec *v, uint64_t start, uint64_t end)
{
	struct ct_img_extent *last = v->n ? CT_AT(struct ct_img_extent, v, v->n - 1) : NULL;
	struct ct_img_extent e = { start, end };

	if (start >= end)
		return 0;
	if (last && last->end == start) {
		last->end = end;
		return 0;
	}
	return ct_vec_append(v, &e, 1);
}

uint64_t ct_spans_bytes(const struct ct_vec *v)
{
	uint64_t n = 0;

	for CT_EACH(const struct ct_img_extent, e, v)
		n += e->end - e->start;
	return n;
}

int ct_spans_common(struct ct_vec *out, const struct ct_vec *a, const struct ct_vec *b)
{
	const struct ct_img_extent *x = a->at, *x_end = x + a->n, *y = b->at, *y_end = y + b->n;
	int rc = 0;

	out->n = 0;
	while (rc == 0 && x < x_end && y < y_end) {
		uint64_t from = x->start > y->start ? x->start : y->start, to = x->end < y->end ? x->end : y->end;

		rc = ct_spans_add(out, from, to);
		if (x->end < y->end)
			x++;
		else
			y++;
	}
	return rc;
}

int ct_spans_cut(struct ct_vec *out, const struct ct_vec *a, const struct ct_vec *b)
{
	const struct ct_img_extent *y = b->at, *y_end = y + b->n;
	int rc = 0;

	out->n = 0;
	for CT_EACH(const struct ct_img_extent, x, a) {
		uint64_t from = x->start;

		while (y < y_end && y->end <= from)
			y++;
		for (const struct ct_img_extent *z = y; rc == 0 && z < y_end && z->start < x->end; z++) {
			rc = ct_spans_add(out, from, z->start);
			from = z->end > from ? z->end : from;
		}
		if (rc == 0)
			rc = ct_spans_add(out, from, x->end);
	}
	return rc;
}

int ct_extents_cut(struct ct_vec *out, const struct ct_vec *extents, const struct ct_vec *b)
{
	const struct ct_img_extent *y = b->at, *y_end = y + b->n;
	int rc = 0;

	out->n = 0;
	for CT_EACH(const struct ct_extent, x, extents) {
		struct ct_extent piece = *x;

		while (y < y_end && y->end <= x->start)
			y++;
		for (const struct ct_img_extent *z = y; rc == 0 && z < y_end && z->start < x->end; z++) {
			piece.end = z->start;
			if (piece.start < piece.end)
				rc = ct_vec_append(out, &piece, 1);
			piece.start = z->end > piece.start ? z->end : piece.start;
		}
		piece.end = x->end;
		if (rc == 0 && piece.start < piece.end)
			rc = ct_vec_append(out, &piece, 1);
	}
	return rc;
}
