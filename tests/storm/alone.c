/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/alone.c: times without MPI: computing while others talk, and nothing but malloc and free. */
#include "tests/storm/storm.h"

/*
 * Work that proves itself: a generator runs forward and then, by the inverse of its multiplier, back to where it began.
 * A logistic map beside it keeps floating-point registers in use; its last bits go into the checksum.
 */
static void compute(long rounds, uint64_t start)
{
	const uint64_t a = 6364136223846793005ULL, c = 1442695040888963407ULL;
	uint64_t inverse = a, x = start, before = storm_now_ns(), now, bits;
	double z = (double)(start >> 12) * 0x1p-52 * 0.8 + 0.1;

	for (int i = 0; i < 6; i++)
		inverse *= 2 - a * inverse;
	for (long k = 0; k < 2 * rounds; k++) {
		for (int i = 0; i < 10000; i++) {
			x = k < rounds ? x * a + c : (x - c) * inverse;
			z = 3.9 * z * (1.0 - z);
		}
		now = storm_now_ns();
		if (now - before > GAP_NS)
			storm_gap("compute", before, now);
		before = now;
	}
	storm_check(x == start, "computing alone went wrong: %016llx where %016llx is right", (unsigned long long)x,
	            (unsigned long long)start);
	storm_check(z > 0 && z < 1, "computing alone went wrong: %g is outside of (0, 1)", z);
	memcpy(&bits, &z, sizeof(bits));
	storm_add(start, bits);
}

void phase_alone(struct rng *r)
{
	int with[MAX_RANKS], talkers = 0, turns = (int)rng_in(r, 10, 60);
	uint64_t key = rng_next(r);
	/* about 40 us for 10,000 dependent steps */
	long rounds = (long)(mix2(key, (uint64_t)storm.rank) % (uint64_t)(storm.compute_ms * 25 / 2 + 1)) + 1;
	bool computes = false;

	for (int q = 0; q < storm.ranks; q++) {
		if (talkers < 2 && q >= storm.ranks - 2 + talkers) /* two at least must be left to talk */
			with[talkers++] = q;
		else if (rng_in(r, 0, 1))
			with[talkers++] = q;
		else if (q == storm.rank)
			computes = true;
	}
	if (computes) {
		storm_at("computing", -1, -1);
		compute(rounds, mix2(key, 100 + (uint64_t)storm.rank));
	}
	while (turns--) {
		struct rng turn = { rng_next(r) };

		phase_ordered(&turn, with, talkers);
	}
}

/* ---- malloc ---------------------------------------------------------------------------------------------------- */

enum { SLOTS = 256 };

struct slot { unsigned char *at; size_t len; uint64_t key; };

static void slot_fill(struct slot *s)
{
	for (size_t i = 0; i < s->len; i += 512)
		s->at[i] = (unsigned char)(s->key >> i / 512 % 57);
	if (s->len)
		s->at[s->len - 1] = (unsigned char)s->key;
}

static void slot_check(const struct slot *s, size_t len)
{
	for (size_t i = 0; i + 1 < len; i += 512)
		storm_check(s->at[i] == (unsigned char)(s->key >> i / 512 % 57), "memory from malloc has changed at byte %zu of %zu", i,
		            s->len);
	if (len && len == s->len)
		storm_check(s->at[len - 1] == (unsigned char)s->key, "the last byte of memory from malloc has changed");
}

void phase_malloc(struct rng *r)
{
	struct rng mine = { mix2(rng_next(r), (uint64_t)storm.rank) };
	struct slot slots[SLOTS] = { 0 };
	long turns = rng_in(&mine, 2000, 40000);

	storm_at("malloc", -1, -1);
	while (turns--) {
		struct slot *s = &slots[rng_in(&mine, 0, SLOTS - 1)];
		size_t len = (size_t)1 << rng_in(&mine, 3, 13), keep = 0;
		uint64_t before, now;
		unsigned char *p;

		len += (size_t)rng_in(&mine, 0, (long)len);
		if (rng_in(&mine, 0, 199) == 0)
			len += 200000; /* mapped and unmapped on its own */
		if (s->at)
			slot_check(s, s->len);
		before = storm_now_ns();
		if (s->at && rng_in(&mine, 0, 1)) {
			keep = s->len < len ? s->len : len;
			p = realloc(s->at, len);
		} else {
			free(s->at);
			p = malloc(len);
		}
		now = storm_now_ns();
		if (now - before > GAP_NS)
			storm_gap("malloc", before, now);
		storm_check(p, "no memory for %zu bytes", len);
		s->at = p;
		if (keep) /* all but the last byte, which is the mark of the old length */
			slot_check(&(struct slot){ p, SIZE_MAX, s->key }, keep);
		*s = (struct slot){ p, len, rng_next(&mine) };
		slot_fill(s);
	}
	for (int i = 0; i < SLOTS; i++) {
		if (slots[i].at)
			slot_check(&slots[i], slots[i].len);
		free(slots[i].at);
	}
	storm_add(mine.state, 1);
}
