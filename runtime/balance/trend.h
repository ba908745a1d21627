/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is known of the ranks' loads, from look to look. All ranks of a parallel program go faster when its pace does, as after moves that
 * were worth it: so what is kept is each rank's part of the work, and the pace apart from it. Pure, as all of runtime/balance.
 */
#ifndef RT_BALANCE_TREND_H
#define RT_BALANCE_TREND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bal_trend {             /* of a rank; all zero: nothing is known */
	double load;           /* as of the middle of the interval that was seen last */
	double slope;          /* of it, a second */
	double seen_s;         /* when that was, by the clock of bal_trend_look() */
	double miss;           /* by how much loads were not as expected, in the mean */
	bool has_load, has_slope, is_sure; /* is_sure: the slope is more than that, so no noise */
};

/**
 * bal_trend_look - an interval is over
 * @fresh: of each rank, useful processor seconds a second of it; negative: it says nothing of that rank
 * @now_s, @interval_s: when it ended, by any clock that goes on, and how long it was
 */
void bal_trend_look(struct bal_trend *t, uint32_t n, const double *fresh, double now_s, double interval_s);

/** bal_trend_ahead - the load that a rank is expected to have at @then_s; never negative */
double bal_trend_ahead(const struct bal_trend *t, double then_s);

/** bal_trend_lasts - how long loads stay about as they are: in so many seconds, were it to go on, all of the load would be elsewhere. INFINITY:
 * they do not change, as far as is known */
double bal_trend_lasts(const struct bal_trend *t, uint32_t n);

#endif
