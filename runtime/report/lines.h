/* SPDX-License-Identifier: BSD-2-Clause */
/* A file of lines that anybody may have written, read twice, and never more of it in memory than a line may have. */
#ifndef RT_REPORT_LINES_H
#define RT_REPORT_LINES_H

#include <stdio.h>

#include "runtime/base/base.h"

#define LINE_MAX_BYTES (16u << 20) /* the longest that mpirun writes: where a million ranks are, each elsewhere than its neighbours */

struct lines {
	const char *path;   /* the caller's, as long as this is open */
	FILE *f;
	char *text;         /* the line, and a NUL */
	size_t n, cap;
	bool is_too_long;   /* it has more than LINE_MAX_BYTES: @text is its beginning */
};

int lines_open(struct lines *l, const char *path, struct gw_error *why); /* an ordinary file only: it is read twice */
int lines_next(struct lines *l, struct gw_error *why);                   /* 1; 0 at the end; or -errno */
int lines_rewind(struct lines *l, struct gw_error *why);
void lines_close(struct lines *l);

#endif
