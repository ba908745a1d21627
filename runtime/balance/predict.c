/* SPDX-License-Identifier: BSD-2-Clause */
/* How long a move is expected to stop a rank. Source of the rounds' end: Clark et al., Live Migration of Virtual Machines, NSDI 2005. */
#include "runtime/balance/predict.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define ASSUMED_RATE 1e9
#define ALLOWED_S    0.005
#define SMALL_BYTES  (256.0 * 1024)
#define ROUNDS_MAX   12
#define FREE_S       0.005 /* what a quiet move takes besides */

static const char *const names[BAL_TECHNIQUES] = { "auto", "stop-and-copy", "pre-copy", "post-copy", "hybrid" };

const char *bal_technique_name(enum bal_technique t)
{
	return names[t];
}

int bal_technique_parse(const char *name, enum bal_technique *out)
{
	for (unsigned i = 0; i < BAL_TECHNIQUES; i++)
		if (!name || strcmp(name, names[i]) == 0) {
			*out = (enum bal_technique)i;
			return 0;
		}
	return -EINVAL;
}

/* What is left to go when the rounds are over; @rounds_s: how long they take. A rank writes at most all that it has. */
static double left_after_rounds(const struct bal_way *w, double rate, double allowed, double *rounds_s)
{
	double last = w->memory_bytes, now;

	*rounds_s = 0;
	for (int n = 1; ; n++) {
		*rounds_s += last / rate;
		now = fmin(w->memory_bytes, w->dirty_bytes_s * (last / rate));
		if (last <= SMALL_BYTES || last / rate <= allowed / 2) /* not even looked at */
			return now;
		if (now <= SMALL_BYTES || now / rate <= allowed / 2 || n == ROUNDS_MAX || now >= 0.75 * last)
			return now;
		last = now;
	}
}

void bal_predict(struct bal_forecast *out, const struct bal_way *w)
{
	double rate = w->link_bytes_s > 0 ? w->link_bytes_s : ASSUMED_RATE, allowed = w->allowed_s > 0 ? w->allowed_s : ALLOWED_S;
	double all_s = w->memory_bytes / rate, rounds_s = all_s, left = NAN, stopped = w->stopped_bytes_s > 0 ? w->stopped_bytes_s : rate;

	if (w->dirty_bytes_s >= 0)
		left = left_after_rounds(w, rate, allowed, &rounds_s);
	out->down_s[BAL_STOP_AND_COPY] = w->fixed_s + w->memory_bytes / stopped;
	out->total_s[BAL_STOP_AND_COPY] = FREE_S + w->fixed_s + w->memory_bytes / stopped;
	out->down_s[BAL_PRE_COPY] = w->fixed_s + left / stopped;
	out->total_s[BAL_PRE_COPY] = FREE_S + w->fixed_s + rounds_s + left / stopped;
	out->down_s[BAL_POST_COPY] = w->fixed_post_s;
	out->down_s[BAL_HYBRID] = w->fixed_after_s;
	out->total_s[BAL_POST_COPY] = FREE_S + w->fixed_post_s + all_s;
	out->total_s[BAL_HYBRID] = FREE_S + w->fixed_after_s + all_s +
	                           (w->dirty_bytes_s >= 0 ? fmin(w->memory_bytes, w->dirty_bytes_s * all_s) / rate : NAN);
	if (w->memory_bytes <= allowed * ASSUMED_RATE)
		out->takes = BAL_STOP_AND_COPY;
	else if (isnan(left) || left / rate <= allowed)
		out->takes = BAL_PRE_COPY;
	else
		out->takes = BAL_HYBRID;
	/* nobody knows what it writes: what is left may take as long as is allowed, and comes after it when it would take longer */
	out->down_s[BAL_AUTO] = out->takes == BAL_PRE_COPY && isnan(left) ? w->fixed_s + allowed : out->down_s[out->takes];
	out->total_s[BAL_AUTO] = isnan(out->total_s[out->takes]) ? out->total_s[BAL_POST_COPY] : out->total_s[out->takes];
}
