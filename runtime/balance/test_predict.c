/* SPDX-License-Identifier: BSD-2-Clause */
/* bal_predict on made ranks, and loads that drift. */
#include "runtime/balance/predict.h"
#include "runtime/balance/trend.h"

#include <math.h>
#include <string.h>

#include "tests/tap.h"

static bool is_near(double a, double b)
{
	return fabs(a - b) <= 1e-9 + 1e-6 * fabs(b);
}

/* Loads from look to look, a second each: one goes up, one down, one that has as much as both stays. */
static void test_trend(void)
{
	struct bal_trend t[3] = { 0 };
	double fresh[3], slope, lasts;

	ok(bal_trend_lasts(t, 3) == INFINITY, "nothing is known of how loads drift before they have");
	for (int k = 0; k < 20; k++) {
		fresh[0] = 0.1 + 0.01 * k;
		fresh[1] = 0.4 - 0.01 * k;
		fresh[2] = 0.5;
		bal_trend_look(t, 3, fresh, k + 1, 1);
	}
	ok(fabs(bal_trend_ahead(&t[0], 20.5) - 0.3) < 0.02 && fabs(bal_trend_ahead(&t[1], 20.5) - 0.2) < 0.02 &&
	   fabs(bal_trend_ahead(&t[2], 20.5) - 0.5) < 0.01, "what goes up or down is foreseen to go on: %.3f, %.3f, %.3f",
	   bal_trend_ahead(&t[0], 20.5), bal_trend_ahead(&t[1], 20.5), bal_trend_ahead(&t[2], 20.5));
	ok(bal_trend_ahead(&t[0], 1000) < 0.45 && bal_trend_ahead(&t[1], 1000) >= 0, "but not for ever, and not below nothing");
	lasts = bal_trend_lasts(t, 3);
	ok(lasts > 50 && lasts < 200, "were it to go on so, all were elsewhere after 100 s: %.0f", lasts);
	slope = t[0].slope;
	for (int r = 0; r < 3; r++) /* all twice as fast */
		fresh[r] = 2 * bal_trend_ahead(&t[r], 20.5);
	bal_trend_look(t, 3, fresh, 21, 1);
	ok(fabs(t[2].slope) < 0.02 && fabs(t[0].slope - 2 * slope) < 0.01, "a pace at which all go is no drift: %.4f, %.4f", t[2].slope, t[0].slope);
	fresh[0] = bal_trend_ahead(&t[0], 21.5) / 2;
	fresh[1] = -1;
	fresh[2] = bal_trend_ahead(&t[2], 21.5) / 2;
	slope = bal_trend_ahead(&t[1], 21.5);
	bal_trend_look(t, 3, fresh, 22, 1);
	ok(fabs(bal_trend_ahead(&t[1], 21.5) - slope / 2) < 0.02, "of whom the interval says nothing, what was known goes on at the pace of the others");
}

int main(void)
{
	struct bal_way w = { .memory_bytes = 2e6, .dirty_bytes_s = -1, .link_bytes_s = 1e9, .fixed_s = 0.002, .fixed_after_s = 0.003, .fixed_post_s = 0.003 };
	enum bal_technique t;
	struct bal_forecast f;

	bal_predict(&f, &w);
	ok(f.takes == BAL_STOP_AND_COPY && is_near(f.down_s[BAL_AUTO], 0.004), "a rank of 2 MB is stopped and copied: 2 ms and the fixed part");
	ok(isnan(f.down_s[BAL_PRE_COPY]) && is_near(f.down_s[BAL_POST_COPY], 0.003), "what it writes is not known, so pre-copy is not");
	w.memory_bytes = 1e9;
	bal_predict(&f, &w);
	ok(f.takes == BAL_PRE_COPY && is_near(f.down_s[BAL_AUTO], 0.007) && is_near(f.down_s[BAL_STOP_AND_COPY], 1.002),
	       "one of 1 GB stands at most as long as is allowed, and the fixed part");
	w.dirty_bytes_s = 0;
	bal_predict(&f, &w);
	ok(is_near(f.down_s[BAL_PRE_COPY], 0.002) && is_near(f.down_s[BAL_AUTO], 0.002), "one that writes nothing: the fixed part");
	w.dirty_bytes_s = 1e8;
	bal_predict(&f, &w);
	/* rounds of 1e9, 1e8, 1e7 bytes; 1e6 are left */
	ok(is_near(f.down_s[BAL_PRE_COPY], 0.003) && f.takes == BAL_PRE_COPY, "one that writes a tenth of what the link takes: three rounds, 1 ms");
	ok(is_near(f.total_s[BAL_PRE_COPY], 0.005 + 0.002 + 1.11 + 0.001), "which take 1.11 s");
	w.dirty_bytes_s = 5e9;
	bal_predict(&f, &w);
	ok(is_near(f.down_s[BAL_PRE_COPY], 1.002), "one that writes faster than the link stands for all of its memory by pre-copy");
	ok(f.takes == BAL_HYBRID && is_near(f.down_s[BAL_AUTO], 0.003), "and by auto its pages come after it");
	w.allowed_s = 2;
	bal_predict(&f, &w);
	ok(f.takes == BAL_STOP_AND_COPY && is_near(f.down_s[BAL_AUTO], 1.002), "unless 2 s are allowed");
	w.link_bytes_s = 0;
	bal_predict(&f, &w);
	ok(is_near(f.down_s[BAL_STOP_AND_COPY], 1.002), "an unknown link is taken for one of 1 GB/s");
	ok(bal_technique_parse("hybrid", &t) == 0 && t == BAL_HYBRID && bal_technique_parse(NULL, &t) == 0 && t == BAL_AUTO &&
	       bal_technique_parse("quick", &t) < 0, "techniques have names");
	w.stopped_bytes_s = 2e9;
	bal_predict(&f, &w);
	ok(is_near(f.down_s[BAL_STOP_AND_COPY], 0.502) && is_near(f.total_s[BAL_POST_COPY], 1.008), "what goes while it stands may go faster");
	test_trend();
	return tap_done();
}
