/* SPDX-License-Identifier: BSD-2-Clause */
/* Sets of addresses against the same sets as bits, many at random. */
#include "container/spans.h"

#include "tests/tap.h"

#define N 200u

static unsigned char bits[4][N];
static uint64_t seed = 7;

static unsigned pick(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % n;
}

static void make(struct ct_vec *v, unsigned char *b)
{
	v->n = 0;
	for (unsigned i = 0; i < N; i++)
		b[i] = i && pick(5) ? b[i - 1] : pick(2) != 0;
	for (unsigned i = 0; i < N; i++)
		if (b[i])
			ct_spans_add(v, i, i + 1);
}

/* ascending, apart, not empty, and what @b says */
static bool is_set(const struct ct_vec *v, const unsigned char *b)
{
	uint64_t at = 0, n = 0;

	for CT_EACH(const struct ct_img_extent, e, v) {
		if (e->start >= e->end || (e != v->at && e->start <= at))
			return false;
		for (uint64_t i = at; i < e->start; i++)
			if (b[i])
				return false;
		for (uint64_t i = e->start; i < e->end; i++, n++)
			if (!b[i])
				return false;
		at = e->end;
	}
	for (uint64_t i = at; i < N; i++)
		if (b[i])
			return false;
	return ct_spans_bytes(v) == n;
}

int main(void)
{
	struct ct_vec a, b, out, extents, pieces, whole;
	unsigned bad[4] = { 0 };

	tap_begin(60);
	ct_vec_init(&a, sizeof(struct ct_img_extent));
	ct_vec_init(&b, sizeof(struct ct_img_extent));
	ct_vec_init(&out, sizeof(struct ct_img_extent));
	ct_vec_init(&whole, sizeof(struct ct_img_extent));
	ct_vec_init(&extents, sizeof(struct ct_extent));
	ct_vec_init(&pieces, sizeof(struct ct_extent));
	for (int i = 0; i < 20000; i++) {
		make(&a, bits[0]);
		make(&b, bits[1]);
		bad[0] += !is_set(&a, bits[0]);
		for (unsigned k = 0; k < N; k++) {
			bits[2][k] = bits[0][k] && bits[1][k];
			bits[3][k] = bits[0][k] && !bits[1][k];
		}
		bad[1] += ct_spans_common(&out, &a, &b) < 0 || !is_set(&out, bits[2]);
		bad[2] += ct_spans_cut(&out, &a, &b) < 0 || !is_set(&out, bits[3]);
		extents.n = whole.n = 0;
		for CT_EACH(const struct ct_img_extent, e, &a) /* in pieces of any length, which touch */
			for (uint64_t at = e->start, n; at < e->end; at += n) {
				struct ct_extent x = { .start = at, .is_forced = at % 2 };

				n = 1 + pick((unsigned)(e->end - at));
				x.end = at + n;
				ct_vec_append(&extents, &x, 1);
			}
		bad[3] += ct_extents_cut(&pieces, &extents, &b) < 0;
		for CT_EACH(const struct ct_extent, e, &pieces)
			bad[3] += ct_spans_add(&whole, e->start, e->end) < 0;
		bad[3] += !is_set(&whole, bits[3]);
	}
	ok(bad[0] == 0, "20000 sets are what was added");
	ok(bad[1] == 0, "what two have in common");
	ok(bad[2] == 0, "what one has and the other has not");
	ok(bad[3] == 0, "the same of pieces that touch");
	ct_vec_fini(&a);
	ct_vec_fini(&b);
	ct_vec_fini(&out);
	ct_vec_fini(&whole);
	ct_vec_fini(&extents);
	ct_vec_fini(&pieces);
	return tap_done();
}
