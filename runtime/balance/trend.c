/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads that drift. Source of the smoothing: Holt, Forecasting seasonals and trends by exponentially weighted averages, 1957. */
#include "runtime/balance/trend.h"

#include <math.h>

#define NEW_LOAD  0.7 /* of a load is what the last interval says, the rest what was expected of it */
#define NEW_SLOPE 0.3 /* of a slope likewise */
#define DAMPED_S  10.0 /* nothing goes on rising for ever: what is foreseen bends to level with this time */

/* How much a slope adds over so many seconds, damped */
static double goes_on(double slope, double seconds)
{
	return seconds > 0 ? slope * DAMPED_S * (1 - exp(-seconds / DAMPED_S)) : 0;
}

double bal_trend_ahead(const struct bal_trend *t, double then_s)
{
	return fmax(0, t->load + (t->is_sure ? goes_on(t->slope, then_s - t->seen_s) : 0));
}

void bal_trend_look(struct bal_trend *t, uint32_t n, const double *fresh, double now_s, double interval_s)
{
	double middle = now_s - interval_s / 2, before = 0, now = 0, pace;

	for (uint32_t r = 0; r < n; r++)
		if (t[r].has_load && fresh[r] >= 0) {
			before += bal_trend_ahead(&t[r], middle);
			now += fresh[r];
		}
	pace = before > 0 && now > 0 ? now / before : 1;
	for (uint32_t r = 0; r < n; r++) {
		double expected = bal_trend_ahead(&t[r], middle) * pace, seconds = middle - t[r].seen_s, load;
		double with_slope = (t[r].load + goes_on(t[r].slope, seconds)) * pace; /* whether it is one is seen by what it would have foreseen */

		t[r].slope *= pace;
		t[r].miss *= pace;
		t[r].load *= pace;
		if (fresh[r] < 0)
			continue;
		if (!t[r].has_load) {
			t[r] = (struct bal_trend){ .load = fresh[r], .seen_s = middle, .has_load = true };
			continue;
		}
		load = NEW_LOAD * fresh[r] + (1 - NEW_LOAD) * expected;
		if (seconds > 0) {
			t[r].slope = (1 - NEW_SLOPE) * t[r].slope + NEW_SLOPE * (load - t[r].load) / seconds;
			t[r].miss = (1 - NEW_SLOPE) * t[r].miss + NEW_SLOPE * fabs(fresh[r] - with_slope);
			t[r].is_sure = fabs(t[r].slope) * seconds > t[r].miss;
			t[r].has_slope = true;
		}
		t[r].load = load;
		t[r].seen_s = middle;
	}
}

double bal_trend_lasts(const struct bal_trend *t, uint32_t n)
{
	double load = 0, change = 0;

	for (uint32_t r = 0; r < n; r++)
		if (t[r].has_slope) {
			load += t[r].load;
			change += fabs(t[r].slope);
		}
	return change > 0 ? 2 * load / change : INFINITY; /* what one loses another gets */
}
