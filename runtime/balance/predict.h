/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How long a rank would stand still if it were moved, by each technique: from what was measured of it and of the way. Pure, as all of
 * runtime/balance. It follows the rules of migration/precopy.c, which decides when it comes to it.
 */
#ifndef RT_BALANCE_PREDICT_H
#define RT_BALANCE_PREDICT_H

#include <stdbool.h>

enum bal_technique { BAL_AUTO = 0, BAL_STOP_AND_COPY, BAL_PRE_COPY, BAL_POST_COPY, BAL_HYBRID, BAL_TECHNIQUES };
const char *bal_technique_name(enum bal_technique t); /* as 'godwit migrate --technique' has it; constant */
int bal_technique_parse(const char *name, enum bal_technique *out); /* -EINVAL; NULL is auto */

struct bal_way {               /* of a rank, to where it would go */
	double memory_bytes;   /* private and present */
	double dirty_bytes_s;  /* that it writes anew; negative: not known */
	double link_bytes_s;   /* of the way; 0: not known, 1e9 is taken, as by migration/ */
	double stopped_bytes_s; /* of the way, while it stands: daemons rest less then; 0: not known, as while it runs */
	double fixed_s;        /* its pause would be that long if it had no memory */
	double fixed_after_s;  /* the same where what it writes meanwhile comes after it (hybrid), */
	double fixed_post_s;   /* and where all of its pages do (post-copy) */
	double allowed_s;      /* --max-downtime; 0: 5 ms */
};

struct bal_forecast {
	double down_s[BAL_TECHNIQUES]; /* NAN: not known */
	double total_s[BAL_TECHNIQUES]; /* from the request to the last page */
	enum bal_technique takes;      /* what auto is expected to take */
};

/** bal_predict - fills all of *out; what cannot be said of @w is NAN. Any thread */
void bal_predict(struct bal_forecast *out, const struct bal_way *w);

#endif
