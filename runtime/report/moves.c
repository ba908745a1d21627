/* SPDX-License-Identifier: BSD-2-Clause */
/* The moves with their eight measures: each of few, quantiles of many. */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

#define HEIGHT 200
#define DOTS   1200   /* more moves are drawn as ranges */
#define BINS   160
#define ROWS   200    /* of the table */
#define TECHNIQUES 12

struct techniques { char names[TECHNIQUES][16]; uint32_t n; };

static uint32_t technique_of(struct techniques *t, const char *name)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (strcmp(t->names[i], name) == 0)
			return i;
	if (t->n == TECHNIQUES)
		return TECHNIQUES - 1;
	snprintf(t->names[t->n], sizeof(t->names[0]), "%s", name);
	return t->n++;
}

static bool is_told(const struct report_move *m)
{
	return m->status >= 0 && isfinite(m->m[M_DOWNTIME]) && m->m[M_DOWNTIME] >= 1e-9; /* clocks tell no less */
}

/* ---- pauses over time ---------------------------------------------------------------------------------------------------- */

struct axis { double least, most; }; /* logarithmic, whole powers of ten */

static double y_of(const struct axis *a, double v)
{
	return HEIGHT - HEIGHT * log(v / a->least) / log(a->most / a->least);
}

static void draw_dots(const struct report *r, struct techniques *t, const struct axis *a, FILE *out)
{
	char pause[32], when[32];

	fputs(r->moves.n > 200 ? "<g class=\"small\">" : "<g>", out);
	for (size_t i = 0; i < r->moves.n; i++) {
		const struct report_move *m = &r->moves.list[i];

		if (!is_told(m))
			continue;
		fprintf(out, "<path class=\"dot k%u\" d=\"M%ld %.1fh0\"><title>rank %u, %u → %u, ", technique_of(t, m->technique) % PAGE_KINDS, html_x(r, m->t_s),
		        y_of(a, m->m[M_DOWNTIME]), m->rank, m->from, m->to);
		html_text(out, m->technique);
		fprintf(out, ": %s, after %s</title></path>\n", html_duration(pause, m->m[M_DOWNTIME]), html_duration(when, m->t_s));
	}
	fputs("</g>\n", out);
}

/* For each stretch the middle nine tenths, and the median in it */
static void draw_ranges(const struct report *r, const struct axis *a, FILE *out)
{
	double *v = calloc(r->moves.n, sizeof(*v));
	size_t at = 0;

	for (uint32_t b = 0; v && b < BINS; b++) {
		double x = (b + 0.5) * PAGE_WIDTH / BINS;
		char median[32], most[32];
		size_t n = 0;
		struct digest d;

		for (; at < r->moves.n && (r->moves.list[at].t_s < (b + 1) * r->length_s / BINS || b + 1 == BINS); at++)
			if (is_told(&r->moves.list[at]))
				v[n++] = r->moves.list[at].m[M_DOWNTIME];
		d = digest_make(v, n);
		if (d.n == 0)
			continue;
		fprintf(out, "<g><title>%zu moves: median %s, longest %s</title><path class=\"range\" d=\"M%.0f %.1fV%.1f\"/><path class=\"dot k0\" "
		        "d=\"M%.0f %.1fh0\"/></g>\n", d.n, html_duration(median, d.median), html_duration(most, d.most), x, y_of(a, d.least), y_of(a, d.most), x,
		        y_of(a, d.median));
	}
	free(v);
}

static void draw(const struct report *r, struct techniques *t, FILE *out)
{
	struct axis a = { INFINITY, 0 };
	struct html_label labels[12] = { { 0 } };
	char texts[12][32];
	size_t n = 0, told = 0;

	for (size_t i = 0; i < r->moves.n; i++)
		if (is_told(&r->moves.list[i])) {
			a.least = fmin(a.least, r->moves.list[i].m[M_DOWNTIME]);
			a.most = fmax(a.most, r->moves.list[i].m[M_DOWNTIME]);
			told++;
		}
	if (told == 0)
		return;
	a.least = pow(10, floor(log10(a.least)));
	a.most = fmax(pow(10, ceil(log10(a.most))), 10 * a.least);
	for (double v = a.most; v > a.least * 0.9 && n < GW_ARRAY_LEN(labels); v /= 10) {
		html_duration(texts[n], v);
		labels[n] = (struct html_label){ .y = y_of(&a, v), .text = texts[n] };
		n++;
	}
	fputs("<h3>How long ranks stood still</h3>\n", out);
	if (told <= DOTS) {
		fputs("<ul class=\"legend\">", out);
		for (uint32_t i = 0; i < t->n; i++) {
			fprintf(out, "<li><i class=\"k%u\"></i>", i % PAGE_KINDS);
			html_text(out, t->names[i]);
			fputs("</li>", out);
		}
		fputs("</ul>\n", out);
	} else {
		fputs("<p>Each bar: the shortest to the longest pause in a stretch of time; the dot is the median.</p>\n", out);
	}
	html_chart_begin(out, r, "Downtime of moves, by time", HEIGHT, labels, n);
	fputs("<path class=\"grid\" d=\"", out);
	for (size_t i = 0; i < n; i++)
		fprintf(out, "M0 %.1fH%d", labels[i].y, PAGE_WIDTH);
	fputs("\"/>\n", out);
	page_marks(r, HEIGHT, out);
	if (told <= DOTS)
		draw_dots(r, t, &a, out);
	else
		draw_ranges(r, &a, out);
	html_chart_end(out, r);
}

/* ---- tables --------------------------------------------------------------------------------------------------------------- */

static void by_technique(const struct report *r, struct techniques *t, FILE *out)
{
	double *v = calloc(r->moves.n + 1, sizeof(*v));
	char text[32];

	fputs("<h3>The eight measures, by technique</h3>\n", out);
	html_table_begin(out, "The eight measures, by technique", "Technique|Measure|Moves that tell|Least|Median|95 % below|Most", true);
	for (uint32_t k = 0; v && k < t->n; k++)
		for (int i = 0; i < M_ALL; i++) {
			struct digest d;
			size_t n = 0;

			for (size_t at = 0; at < r->moves.n; at++)
				if (r->moves.list[at].status >= 0 && technique_of(t, r->moves.list[at].technique) == k)
					v[n++] = r->moves.list[at].m[i];
			d = digest_make(v, n);
			fputs(i == 0 ? "<tr class=\"first\"><td>" : "<tr><td class=\"again\">", out);
			html_text(out, t->names[k]);
			fprintf(out, "</td><td>%s</td>", html_measures[i]);
			snprintf(text, sizeof(text), "%zu", d.n);
			html_cell(out, (double)d.n, text);
			html_cell(out, d.least, html_measure(text, i, d.least));
			html_cell(out, d.median, html_measure(text, i, d.median));
			html_cell(out, d.p95, html_measure(text, i, d.p95));
			html_cell(out, d.most, html_measure(text, i, d.most));
			fputs("</tr>\n", out);
		}
	html_table_end(out, true);
	free(v);
}

/* The longest pauses first */
static int by_pause(const void *x, const void *y)
{
	const struct report_move *a = *(const struct report_move *const *)x, *b = *(const struct report_move *const *)y;
	double p = is_told(a) ? a->m[M_DOWNTIME] : -1, q = is_told(b) ? b->m[M_DOWNTIME] : -1;

	return p != q ? (p < q ? 1 : -1) : (a->t_s > b->t_s) - (a->t_s < b->t_s);
}

static int by_time(const void *x, const void *y)
{
	const struct report_move *a = *(const struct report_move *const *)x, *b = *(const struct report_move *const *)y;

	return (a > b) - (a < b); /* both of one list, which is by time */
}

static void row(const struct report_move *m, FILE *out)
{
	char text[32];

	fputs("<tr>", out);
	html_cell(out, m->t_s, html_duration(text, m->t_s));
	snprintf(text, sizeof(text), "%u", m->rank);
	html_cell(out, m->rank, text);
	snprintf(text, sizeof(text), "%d → %d", (int)m->from, (int)m->to);
	fprintf(out, "<td class=\"r\" data-k=\"%d\">%s</td><td>", (int)m->from * REPORT_CLUSTERS_MAX + (int)m->to, text);
	html_text(out, m->by);
	fputs("</td><td>", out);
	html_text(out, m->technique);
	fputs("</td>", out);
	html_cell(out, m->predicted_s, html_duration(text, m->predicted_s));
	for (int i = 0; i < M_ALL; i++)
		html_cell(out, m->m[i], html_measure(text, i, m->m[i]));
	fputs("</tr>\n", out);
}

static void each(const struct report *r, FILE *out)
{
	const struct report_move **all = calloc(r->moves.n + 1, sizeof(*all));
	size_t n = 0, shown;
	char head[300] = "At|Rank|From → to|By|Technique|Expected downtime";
	size_t at = strlen(head);

	for (size_t i = 0; all && i < r->moves.n; i++)
		if (r->moves.list[i].status >= 0)
			all[n++] = &r->moves.list[i];
	shown = n < ROWS ? n : ROWS;
	if (n)
		qsort(all, n, sizeof(*all), by_pause);
	if (n)
		qsort(all, shown, sizeof(*all), by_time);
	for (int i = 0; i < M_ALL; i++)
		at += (size_t)snprintf(head + at, sizeof(head) - at, "|%s", html_measures[i]);
	if (shown < n)
		fprintf(out, "<h3>The %zu moves with the longest pauses, of %zu</h3>\n", shown, n);
	else
		fputs("<h3>Each move</h3>\n", out);
	html_table_begin(out, "Moves with their eight measures", head, true);
	for (size_t i = 0; i < shown; i++)
		row(all[i], out);
	html_table_end(out, true);
	free(all);
}

static void failures(const struct report *r, FILE *out)
{
	size_t failed = 0, shown = 0;
	char text[32];

	for (size_t i = 0; i < r->moves.n; i++)
		failed += r->moves.list[i].status < 0;
	if (failed == 0)
		return;
	fprintf(out, "<h3>%zu move%s did not happen</h3><p>Each of these ranks ran on where it was.</p>\n", failed, failed == 1 ? "" : "s");
	html_table_begin(out, "Moves that did not happen", "At|Rank|From → to|By|Why", true);
	for (size_t i = 0; i < r->moves.n && shown < ROWS / 2; i++) {
		const struct report_move *m = &r->moves.list[i];

		if (m->status >= 0)
			continue;
		shown++;
		fputs("<tr>", out);
		html_cell(out, m->t_s, html_duration(text, m->t_s));
		snprintf(text, sizeof(text), "%u", m->rank);
		html_cell(out, m->rank, text);
		fprintf(out, "<td>%d → %d</td><td>", (int)m->from, (int)m->to);
		html_text(out, m->by);
		fputs("</td><td class=\"text\">", out);
		html_text(out, m->text ? m->text : strerror(-m->status));
		fputs("</td></tr>\n", out);
	}
	html_table_end(out, true);
	if (shown < failed)
		fprintf(out, "<p class=\"hint\">The first %zu of %zu.</p>\n", shown, failed);
}

void page_moves(const struct report *r, FILE *out)
{
	struct techniques t = { .n = 0 };
	uint32_t unseen = 0;

	for (size_t i = 0; i < r->moves.n; i++)
		if (r->moves.list[i].status >= 0)
			technique_of(&t, r->moves.list[i].technique);
	for (size_t i = 0; i < r->sums.n; i++)
		unseen += r->sums.list[i].moved;
	fputs("<section id=\"moves\"><h2>Moves</h2>\n", out);
	if (r->moves.n == 0)
		fputs("<p>No rank was moved.</p>\n", out);
	if (t.n) {
		draw(r, &t, out);
		by_technique(r, &t, out);
		each(r, out);
	}
	failures(r, out);
	if (unseen)
		fprintf(out, "<p class=\"hint\">%u later moves were recorded as sums only, for the record had reached its limit: the first of them after the "
		        "time where the moves above end.</p>\n", unseen);
	fputs("</section>\n", out);
}
