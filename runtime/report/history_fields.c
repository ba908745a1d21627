/* SPDX-License-Identifier: BSD-2-Clause */
/* What the fields of a line say, whoever wrote it; and notes of what happened. */
#include "runtime/report/history.h"

#include <math.h>
#include <stdlib.h>

#define MOST 1e19 /* nothing that is told is as much: nanoseconds since 1970 are 1.8e18 */

int history_more(void **list, size_t *n, size_t *cap, size_t size)
{
	if (*n == *cap) {
		size_t room = *cap ? 2 * *cap : 16;
		void *bigger = realloc(*list, room * size);

		if (!bigger)
			return -ENOMEM;
		*list = bigger;
		*cap = room;
	}
	memset((char *)*list + *n * size, 0, size);
	++*n;
	return 0;
}

const char *history_text(const json_t *e, const char *key)
{
	const char *text = json_string_value(json_object_get(e, key));

	return text ? text : "";
}

void history_copy(char *to, size_t cap, const json_t *e, const char *key)
{
	const char *from = history_text(e, key);
	size_t n = strlen(from);

	if (n >= cap)
		for (n = cap - 1; n > 0 && ((unsigned char)from[n] & 0xc0) == 0x80; n--) /* a letter is there as a whole, or not at all */
			;
	memcpy(to, from, n);
	to[n] = '\0';
}

double history_amount(const json_t *v)
{
	double x = json_is_number(v) ? json_number_value(v) : NAN;

	return fabs(x) < MOST ? x : NAN;
}

double history_real(const json_t *e, const char *key)
{
	return history_amount(json_object_get(e, key));
}

double history_real_or(const json_t *e, const char *key, double other)
{
	double v = history_real(e, key);

	return isfinite(v) ? v : other;
}

int history_status(const json_t *e, const char *key)
{
	return (int)fmax(-INT32_MAX, fmin(INT32_MAX, history_real_or(e, key, 0)));
}

uint32_t history_number(const json_t *v, uint32_t limit)
{
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;

	return n >= 0 && n < (json_int_t)limit ? (uint32_t)n : REPORT_NOWHERE;
}

uint32_t history_count(const json_t *e, const char *key)
{
	uint32_t n = history_number(json_object_get(e, key), INT32_MAX);

	return n == REPORT_NOWHERE ? 0 : n;
}

/* Number of a cluster, which is one more that there is */
uint32_t history_cluster_number(struct reader *d, const json_t *v)
{
	uint32_t c = history_number(v, REPORT_CLUSTERS_MAX);

	if (c != REPORT_NOWHERE && c >= d->r->n_clusters)
		d->r->n_clusters = c + 1;
	return c;
}

uint32_t history_cluster(struct reader *d, const json_t *e, const char *key)
{
	return history_cluster_number(d, json_object_get(e, key));
}

uint32_t history_rank(const struct reader *d, const json_t *e)
{
	return history_number(json_object_get(e, "rank"), d->r->size);
}

void history_note(struct reader *d, enum report_kind kind, const char *fmt, ...)
{
	struct report_note *n = MORE(&d->r->notes);
	va_list ap;

	if (!n)
		return;
	*n = (struct report_note){ .t_s = d->now_s, .kind = kind };
	va_start(ap, fmt);
	if (vasprintf(&n->text, fmt, ap) < 0)
		n->text = NULL;
	va_end(ap);
	if (!n->text)
		d->r->notes.n--;
}
