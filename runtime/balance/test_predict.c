/* SPDX-License-Identifier: BSD-2-Clause */
/* bal_predict on made ranks. */
#include "runtime/balance/predict.h"

#include <math.h>
#include <string.h>

#include "tests/tap.h"

static bool is_near(double a, double b)
{
	return fabs(a - b) <= 1e-9 + 1e-6 * fabs(b);
}

int main(void)
{
	struct bal_way w = { .memory_bytes = 2e6, .dirty_bytes_s = -1, .link_bytes_s = 1e9, .fixed_s = 0.002, .fixed_after_s = 0.003 };
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
	return tap_done();
}
