/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages whose memory moves about and is unmapped, against a table of what is at each place; many at random. */
#include "container/places.h"

#include "tests/tap.h"

#define PLACES 96u
#define PAGES  48u /* of the source: places 8 to 55 */
#define FIRST  8u

static int at[PLACES]; /* the page there; -1: none */
static uint64_t seed = 11;

static unsigned pick(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % n;
}

static void unmap(unsigned from, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		at[from + i] = -1;
}

static bool move(struct ct_places *p, unsigned from, unsigned to, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		at[to + i] = at[from + i];
		at[from + i] = -1;
	}
	return ct_places_move(p, from, to, n) == 0;
}

/* Every page that is somewhere is found there, and it at its place; a stretch goes on as it says; no place has another's page. */
static bool is_right(const struct ct_places *p)
{
	int where[PLACES];

	memset(where, -1, sizeof(where));
	for (unsigned i = 0; i < PLACES; i++)
		if (at[i] >= 0)
			where[at[i]] = (int)i;
	for (unsigned i = 0; i < PLACES; i++) {
		uint64_t end = PLACES, source = ct_places_source(p, i, &end);

		if (end <= i || end > PLACES || (at[i] >= 0 && source != (uint64_t)at[i]))
			return false;
		for (unsigned k = i; source != CT_NO_PAGE && k < end; k++) {
			uint64_t page = source + (k - i);

			if (at[k] >= 0 ? page != (uint64_t)at[k] : page < PLACES && where[page] >= 0)
				return false;
		}
		for (unsigned k = i; source == CT_NO_PAGE && k < end; k++)
			if (at[k] >= 0)
				return false;
		if (at[i] < 0)
			continue;
		end = PLACES;
		if (ct_places_of(p, (uint64_t)at[i], &end) != i)
			return false;
		for (uint64_t page = (uint64_t)at[i]; page < end; page++)
			if (where[page] >= 0 && where[page] != (int)(i + (page - (uint64_t)at[i])))
				return false;
	}
	return true;
}

int main(void)
{
	unsigned bad = 0, moves = 0;
	struct ct_places p, copy;

	tap_begin(60);
	for (unsigned turn = 0; turn < 4000; turn++) {
		ct_places_init(&p);
		memset(at, -1, sizeof(at));
		for (unsigned i = 0; i < PAGES; i++)
			at[FIRST + i] = (int)(FIRST + i); /* a page is called by its place at the source */
		for (unsigned i = 0; i < 12; i++) {
			unsigned n = 1 + pick(20), from = pick(PLACES - n + 1), to = pick(PLACES - n + 1);

			if (pick(3) == 0)
				unmap(from, n);
			else if (from + n <= to || to + n <= from)
				moves++, bad += !move(&p, from, to, n);
			bad += !is_right(&p);
		}
		ct_places_init(&copy);
		bad += ct_places_copy(&copy, &p) < 0 || !is_right(&copy);
		ct_places_fini(&copy);
		ct_places_fini(&p);
	}
	ok(!bad, "%u moves of memory, and what is unmapped in between: each page is where it belongs", moves);
	return tap_done();
}
