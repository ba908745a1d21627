/* SPDX-License-Identifier: BSD-2-Clause */
/* What the ranks of each cluster computed, over time: a line for each of few, shades for many, and always the highest beside the mean. */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

#define LINES  8     /* clusters that have a line of their own; more are told by shades */
#define BINS   240
#define ROWS   48
#define HEIGHT 200
#define PLACE  ((double)PAGE_WIDTH / BINS)

/* Its title follows, and draw_line_end() */
static void draw_line(const double *v, double most, const char *class, FILE *out)
{
	bool is_begun = false;

	fprintf(out, "<path class=\"line %s\" d=\"", class);
	for (uint32_t b = 0; b < BINS; b++) {
		if (!isfinite(v[b])) {
			is_begun = false;
			continue;
		}
		fprintf(out, "%s%.0f %.1f", is_begun ? "L" : "M", (b + 0.5) * PLACE, HEIGHT - HEIGHT * fmin(v[b] / most, 1));
		is_begun = true;
	}
	fputs("\"><title>", out);
}

static void draw_line_end(FILE *out)
{
	fputs("</title></path>\n", out);
}

static double most_of(const double *v, size_t n)
{
	double most = 0;

	for (size_t i = 0; i < n; i++)
		most = isfinite(v[i]) && v[i] > most ? v[i] : most;
	return most;
}

static void axis(struct html_label labels[3], char texts[3][32], double most)
{
	for (int i = 0; i < 3; i++) {
		html_number(texts[i], most * (2 - i) / 2);
		labels[i] = (struct html_label){ .y = HEIGHT * i / 2.0, .text = texts[i] };
	}
}

static void draw_lines(const struct report *r, const double *v, FILE *out)
{
	double most = html_axis(most_of(v, (size_t)r->n_clusters * BINS));
	struct html_label labels[3];
	char texts[3][32], class[16], colour[8];

	axis(labels, texts, most);
	html_chart_begin(out, r, "Processors that the ranks of each cluster kept busy, by time", HEIGHT, labels, 3);
	fprintf(out, "<path class=\"grid\" d=\"M0 0H%dM0 %dH%d\"/>", PAGE_WIDTH, HEIGHT / 2, PAGE_WIDTH);
	for (uint32_t c = 0; c < r->n_clusters; c++) {
		snprintf(class, sizeof(class), "%s", html_colour(colour, r, c));
		draw_line(v + (size_t)c * BINS, most, class, out);
		html_cluster(out, r, c);
		draw_line_end(out);
	}
	page_marks(r, HEIGHT, out);
	html_chart_end(out, r);
}

/* @v: rows of shares. The highest and the mean of each stretch */
static void draw_band(const struct report *r, const double *v, FILE *out)
{
	double high[BINS], mean[BINS], most;
	struct html_label labels[3];
	char texts[3][32];

	for (uint32_t b = 0; b < BINS; b++) {
		double sum = 0;
		uint32_t n = 0;

		high[b] = NAN;
		for (uint32_t c = 0; c < r->n_clusters; c++) {
			double x = v[(size_t)c * BINS + b];

			if (!isfinite(x))
				continue;
			high[b] = n == 0 || x > high[b] ? x : high[b];
			sum += x;
			n++;
		}
		mean[b] = n ? sum / n : NAN;
	}
	most = html_axis(most_of(high, BINS));
	axis(labels, texts, most);
	fputs("<h3>The fullest cluster, and the mean</h3><p>A job is as fast as its fullest cluster: what lies between the two lines is what balancing can "
	      "gain.</p><ul class=\"legend\"><li><i class=\"k1\"></i>the fullest</li><li><i class=\"k0\"></i>the mean</li></ul>\n", out);
	html_chart_begin(out, r, "Load of the fullest cluster and mean load, by time", HEIGHT, labels, 3);
	fprintf(out, "<path class=\"grid\" d=\"M0 0H%dM0 %dH%d\"/>", PAGE_WIDTH, HEIGHT / 2, PAGE_WIDTH);
	draw_line(mean, most, "k0", out);
	fputs("the mean of all clusters", out);
	draw_line_end(out);
	draw_line(high, most, "k1", out);
	fputs("the fullest cluster", out);
	draw_line_end(out);
	page_marks(r, HEIGHT, out);
	html_chart_end(out, r);
}

static void draw_shades(const struct report *r, FILE *out)
{
	uint32_t per = (r->n_clusters + ROWS - 1) / ROWS, rows = (r->n_clusters + per - 1) / per;
	double row[BINS], height = rows <= 16 ? 18 : 10;
	struct html_label labels[ROWS] = { { 0 } };
	char texts[ROWS][32];
	size_t n = 0;

	for (uint32_t i = 0; i < rows; i += height < 14 ? 2 : 1) {
		uint32_t last = (i + 1) * per < r->n_clusters ? (i + 1) * per - 1 : r->n_clusters - 1;

		snprintf(texts[n], sizeof(texts[n]), per == 1 ? "%u" : "%u–%u", i * per, last);
		labels[n] = (struct html_label){ .y = (i + 0.5) * height, .text = texts[n] };
		n++;
	}
	html_chart_begin(out, r, "Load of clusters as shades, by time", rows * height, labels, n);
	for (uint32_t i = 0; i < rows; i++) {
		uint32_t last = (i + 1) * per < r->n_clusters ? (i + 1) * per - 1 : r->n_clusters - 1, shade[BINS];
		bool is_drawn[BINS] = { false };

		digest_loads(r, i * per, per, true, row, BINS);
		for (uint32_t b = 0; b < BINS; b++)
			shade[b] = isfinite(row[b]) ? (uint32_t)fmin(PAGE_SHADES - 1, fmax(0, row[b]) * PAGE_SHADES) : REPORT_NOWHERE;
		for (uint32_t b = 0; b < BINS; b++) {
			if (is_drawn[b] || shade[b] == REPORT_NOWHERE)
				continue;
			fprintf(out, "<path class=\"h%u\" d=\"", shade[b]);
			html_stretches(out, shade, is_drawn, b, BINS, i * height, height - 1);
			fprintf(out, "\"><title>clusters %u–%u: %u to %u %% of their cores</title></path>\n", i * per, last, shade[b] * 100 / PAGE_SHADES,
			        (shade[b] + 1) * 100 / PAGE_SHADES);
		}
	}
	page_marks(r, rows * height, out);
	html_chart_end(out, r);
	fputs("<p class=\"scale\"><span>0</span>", out);
	for (int i = 0; i < PAGE_SHADES; i++)
		fprintf(out, "<i class=\"h%d\"></i>", i);
	fputs("<span>all cores of the cluster compute</span></p>\n", out);
}

static void table(const struct report *r, const double *v, FILE *out)
{
	enum { COLUMNS = 8, SHOWN = 100 };
	uint32_t shown = r->n_clusters < SHOWN ? r->n_clusters : SHOWN;
	char head[300], text[32];
	size_t at = (size_t)snprintf(head, sizeof(head), "Cluster|Cores");

	for (int i = 0; i < COLUMNS; i++)
		at += (size_t)snprintf(head + at, sizeof(head) - at, "|%s", html_duration(text, (i + 0.5) * r->length_s / COLUMNS));
	html_table_begin(out, "The same as a table: processors computing, at some times", head, false);
	for (uint32_t c = 0; c < shown; c++) {
		fputs("<tr><td>", out);
		html_cluster(out, r, c);
		fputs("</td>", out);
		snprintf(text, sizeof(text), "%u", r->clusters[c].cores);
		html_cell(out, r->clusters[c].cores, r->clusters[c].name ? text : "–");
		for (int i = 0; i < COLUMNS; i++) {
			double x = v[(size_t)c * BINS + (size_t)((i + 0.5) * BINS / COLUMNS)];

			snprintf(text, sizeof(text), isfinite(x) ? "%.2f" : "–", x);
			html_cell(out, x, text);
		}
		fputs("</tr>\n", out);
	}
	html_table_end(out, false);
	if (shown < r->n_clusters)
		fprintf(out, "<p class=\"hint\">The table tells of the first %u of %u clusters.</p>\n", shown, r->n_clusters);
}

void page_loads(const struct report *r, FILE *out)
{
	double *v = calloc((size_t)r->n_clusters * BINS + 1, sizeof(*v));

	fputs("<section id=\"loads\"><h2>Load of clusters</h2>\n", out);
	if (!v || r->loads.n == 0) {
		fputs("<p>Nobody has measured loads: the job was too short, or ran without a record.</p></section>\n", out);
		free(v);
		return;
	}
	for (uint32_t c = 0; c < r->n_clusters; c++)
		digest_loads(r, c, 1, false, v + (size_t)c * BINS, BINS);
	fputs("<p>Processors that ranks kept computing; waiting for messages does not count.</p>\n", out);
	if (r->n_clusters <= LINES)
		draw_lines(r, v, out);
	else
		draw_shades(r, out);
	if (r->n_clusters > 1)
		draw_band(r, v, out);
	table(r, v, out);
	fputs("</section>\n", out);
	free(v);
}
