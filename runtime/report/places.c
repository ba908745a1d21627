/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where each rank lived. Few ranks have a line each, with every stay as it was; of many, groups share a line, and a stretch of time has
 * the colour of the cluster where most of them were.
 */
#include "runtime/report/html.h"

#include <stdlib.h>

#define ROWS  64
#define STAYS 3000  /* more are not drawn one by one */
#define BINS  320
#define NAMED 60    /* rows of the table of stays for each rank would be too many: the last moves stand for them */

static double row_height(uint32_t rows)
{
	return rows <= 8 ? 26 : rows <= 16 ? 20 : rows <= 32 ? 14 : 10;
}

static void draw_stays(const struct report *r, const struct stay_index *x, uint32_t rank, double y, double height, FILE *out)
{
	char colour[8], from[32], length[32];
	size_t n;
	const struct report_stay *s = digest_stay(x, rank, &n);

	for (size_t i = 0; i < n; i++) {
		double end = i + 1 < n ? s[i + 1].t_s : r->length_s;
		long left = html_x(r, s[i].t_s), width = html_x(r, end) - left;

		if (s[i].cluster == REPORT_NOWHERE)
			continue;
		fprintf(out, "<rect class=\"%s\" x=\"%ld\" y=\"%.1f\" width=\"%ld\" height=\"%.1f\"><title>rank %u: ", html_colour(colour, r, s[i].cluster),
		        left, y, width > 0 ? width : 1, height, rank);
		html_cluster(out, r, s[i].cluster);
		fprintf(out, ", from %s, for %s</title></rect>\n", html_duration(from, s[i].t_s), html_duration(length, end - s[i].t_s));
	}
}

/* One path for each cluster that the group was mostly on, so that each can have a title */
static void draw_group(const struct report *r, const uint32_t *where, uint32_t first, uint32_t last, double y, double height, FILE *out)
{
	bool is_drawn[BINS] = { false };
	char colour[8];

	for (uint32_t b = 0; b < BINS; b++) {
		if (is_drawn[b] || where[b] == REPORT_NOWHERE)
			continue;
		fprintf(out, "<path class=\"%s\" d=\"", html_colour(colour, r, where[b]));
		html_stretches(out, where, is_drawn, b, BINS, y, height);
		fprintf(out, "\"><title>ranks %u–%u: mostly ", first, last);
		html_cluster(out, r, where[b]);
		fputs("</title></path>\n", out);
	}
}

static void draw(const struct report *r, const struct stay_index *x, FILE *out)
{
	uint32_t per = (r->size + ROWS - 1) / ROWS, rows = (r->size + per - 1) / per;
	bool is_each = per == 1 && r->stays.n <= STAYS;
	double height = row_height(rows), gap = height > 12 ? 3 : 1;
	uint32_t every = height >= 14 ? 1 : 2;
	struct html_label labels[ROWS] = { { 0 } };
	char texts[ROWS][32];
	uint32_t where[BINS];
	size_t n = 0;

	for (uint32_t i = 0; i < rows; i += every) {
		uint32_t last = (i + 1) * per < r->size ? (i + 1) * per - 1 : r->size - 1;

		if (per == 1)
			snprintf(texts[n], sizeof(texts[n]), "%u", i);
		else
			snprintf(texts[n], sizeof(texts[n]), "%u–%u", i * per, last);
		labels[n] = (struct html_label){ .y = (i + 0.5) * height, .text = texts[n] };
		n++;
	}
	html_chart_begin(out, r, "Where each rank lived, by time", rows * height, labels, n);
	for (uint32_t i = 0; i < rows; i++) {
		uint32_t last = (i + 1) * per < r->size ? (i + 1) * per - 1 : r->size - 1;

		if (is_each)
			draw_stays(r, x, i, i * height + gap / 2, height - gap, out);
		else if (digest_stays(r, x, i * per, per, where, BINS) == 0)
			draw_group(r, where, i * per, last, i * height + gap / 2, height - gap, out);
	}
	page_marks(r, rows * height, out);
	html_chart_end(out, r);
}

/* What the colours mean */
static void legend(const struct report *r, FILE *out)
{
	char colour[8];

	fputs("<ul class=\"legend\">", out);
	if (r->n_clusters <= PAGE_KINDS)
		for (uint32_t c = 0; c < r->n_clusters; c++) {
			fprintf(out, "<li><i class=\"%s\"></i>", html_colour(colour, r, c));
			html_cluster(out, r, c);
			fputs("</li>", out);
		}
	else
		for (uint32_t s = 0; s < PAGE_SHADES; s++) {
			uint32_t first = (s * r->n_clusters + PAGE_SHADES - 1) / PAGE_SHADES, next = ((s + 1) * r->n_clusters + PAGE_SHADES - 1) / PAGE_SHADES;

			if (next > first)
				fprintf(out, next - first > 1 ? "<li><i class=\"%s\"></i>%u–%u</li>" : "<li><i class=\"%s\"></i>%u</li>",
				        html_colour(colour, r, first), first, next - 1);
		}
	fputs("</ul>\n", out);
}

static void table(const struct report *r, const struct stay_index *x, FILE *out)
{
	uint32_t shown = r->size < NAMED ? r->size : NAMED;

	html_table_begin(out, "The same as a table: each rank's stays", "Rank|Stays|Began|Was last|All stays", false);
	for (uint32_t rank = 0; rank < shown; rank++) {
		size_t n, real = 0;
		const struct report_stay *s = digest_stay(x, rank, &n);
		char text[32];
		uint32_t last = REPORT_NOWHERE;

		for (size_t i = 0; i < n; i++)
			if (s[i].cluster != REPORT_NOWHERE) {
				real++;
				last = s[i].cluster;
			}
		snprintf(text, sizeof(text), "%u", rank);
		fputs("<tr>", out);
		html_cell(out, rank, text);
		snprintf(text, sizeof(text), "%zu", real);
		html_cell(out, (double)real, text);
		html_cell(out, n ? s[0].t_s : 0, html_duration(text, n ? s[0].t_s : 0));
		fputs("<td>", out);
		html_cluster(out, r, last);
		fputs("</td><td>", out);
		for (size_t i = 0; i < n && i < 24; i++) {
			if (s[i].cluster != REPORT_NOWHERE)
				fprintf(out, "%s%u from %s", i ? ", " : "", s[i].cluster, html_duration(text, s[i].t_s));
			else
				fprintf(out, ", ended at %s", html_duration(text, s[i].t_s));
		}
		if (n > 24)
			fprintf(out, ", and %zu more", n - 24);
		fputs("</td></tr>\n", out);
	}
	html_table_end(out, false);
	if (shown < r->size)
		fprintf(out, "<p class=\"hint\">The table tells of the first %u of %u ranks.</p>\n", shown, r->size);
}

void page_places(const struct report *r, FILE *out)
{
	struct stay_index *x = digest_index(r);

	fputs("<section id=\"places\"><h2>Where ranks lived</h2>\n", out);
	if (!x || r->size == 0) {
		fputs("<p>Nothing is known of ranks.</p></section>\n", out);
		digest_index_free(x);
		return;
	}
	if (r->size > ROWS)
		fprintf(out, "<p>Each line is a group of %u ranks, in the colour of the cluster where most of them were.</p>\n", (r->size + ROWS - 1) / ROWS);
	else
		fputs("<p>Each line is a rank, in the colour of the cluster where it was; where the colour changes it has moved.</p>\n", out);
	legend(r, out);
	draw(r, x, out);
	page_marks_legend(r, out);
	table(r, x, out);
	fputs("</section>\n", out);
	digest_index_free(x);
}
