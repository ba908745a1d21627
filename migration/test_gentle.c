/* SPDX-License-Identifier: BSD-2-Clause */
/* The rule by which rounds leave the rank its core, on hosts that are a formula. */
#include "migration/session.h"
#include "tests/tap.h"

#define FULL  1000000000ull
#define LIMIT 0.1

/* Rounds that would cost the rank @most of its time at full speed; @sharper: it loses more by the first bytes than by the
 * last. Return: the rate after some looks, FULL where there is no bound; what is lost then to @lost */
static uint64_t settle(double most, double sharper, unsigned longer, uint64_t dirty_rate, int looks, double *lost)
{
	uint64_t rate = 0, seen = FULL;

	for (int i = 0; i <= looks; i++) {
		double part = (double)seen / FULL;

		*lost = most * (part + sharper * part * (1 - part));
		if (i < looks)
			rate = mig_gentle_rate(seen, FULL, *lost, LIMIT, longer, dirty_rate);
		seen = rate ? rate : FULL;
	}
	return seen;
}

static void test_lost(void)
{
	ok(mig_gentle_lost(0, 0, 1) == 0 && mig_gentle_lost(50, 0, 1) == 0, "who does not wait for a processor loses nothing");
	ok(mig_gentle_lost(40, 10, 1) > 0.199 && mig_gentle_lost(40, 10, 1) < 0.201, "who waits for a fifth of the time loses a fifth");
	ok(mig_gentle_lost(0, 50, 1) == 1, "who gets none loses all");
	ok(mig_gentle_lost(25, 25, 0.5) == 0, "where two share a core always, that is no loss");
	ok(mig_gentle_lost(20, 30, 0.5) > 0.199 && mig_gentle_lost(20, 30, 0.5) < 0.201, "but what is lost beside it is");
	ok(mig_gentle_lost(50, 0, 0.5) == 0, "and who has more than usual loses nothing");
}

static void test_rate(void)
{
	static const double most[] = { 0.05, 0.099, 0.15, 0.25, 0.299 }, beyond[] = { 0.35, 0.63, 0.95 };
	bool keeps = true, is_full = true, is_used = true, is_bounded = true, is_quick = true;
	double lost;

	for (size_t i = 0; i < GW_ARRAY_LEN(most); i++)
		for (double sharper = 0; sharper <= 0.5; sharper += 0.25) {
			uint64_t rate = settle(most[i], sharper, 10, 0, 12, &lost);

			keeps &= lost <= LIMIT * 1.05;
			is_full &= most[i] > LIMIT || rate == FULL;
			is_used &= rate == FULL || lost > LIMIT * 0.9;
			settle(most[i], sharper, 10, 0, 3, &lost);
			is_quick &= lost <= LIMIT * 1.2;
		}
	ok(keeps, "the rank loses no more than it may");
	ok(is_full, "rounds that cost it less than that go as fast as they can");
	ok(is_used, "and the others no slower than they must");
	ok(is_quick, "three looks are enough for nearly all of it");
	for (size_t i = 0; i < GW_ARRAY_LEN(beyond); i++)
		is_bounded &= settle(beyond[i], 0, 3, 0, 12, &lost) >= FULL / 3;
	ok(is_bounded, "but they never take more than three times as long");
	ok(settle(0.63, 0, 3, 200000000, 12, &lost) == 400000000, "and bring twice of what the rank writes meanwhile");
	ok(settle(0.63, 0, 3, 600000000, 12, &lost) == FULL, "as fast as they can, where it writes faster than half of that");
	ok(mig_gentle_rate(FULL / 3, FULL, 0, LIMIT, 3, 0) > FULL / 3 &&
	   mig_gentle_rate(FULL / 2, FULL, 0, LIMIT, 3, 0) == 0,
	   "when the rank has its core for itself again they go faster, and then as fast as they can");
	ok(mig_gentle_rate(0, FULL, 0.5, LIMIT, 3, 0) == FULL / 3, "a look at which nothing was sent does not stop them");
}

int main(void)
{
	test_lost();
	test_rate();
	return tap_done();
}
