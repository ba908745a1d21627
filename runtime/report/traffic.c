/* SPDX-License-Identifier: BSD-2-Clause */
/* Who talked to whom: a square of ranks, or of groups of them, and how much of it stayed near. */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

#define SIDE   600   /* of the square, in its own units */
#define TITLED 24    /* rows and columns whose cells have titles; of more, the shades are drawn together */
#define PAIRS  40    /* rows of the table */

static const char *group(char buf[32], const struct report *r, uint32_t i)
{
	uint32_t last = (i + 1) * r->per < r->size && i + 1 < REPORT_BLOCKS ? (i + 1) * r->per - 1 : r->size - 1;

	if (last > i * r->per)
		snprintf(buf, 32, "%u–%u", i * r->per, last);
	else
		snprintf(buf, 32, "%u", i * r->per);
	return buf;
}

static uint32_t shade_of(double bytes, double least, double most)
{
	if (bytes <= 0)
		return REPORT_NOWHERE;
	if (most <= least)
		return PAGE_SHADES - 1;
	return (uint32_t)fmin(PAGE_SHADES - 1, PAGE_SHADES * log(bytes / least) / log(most / least));
}

static void draw(const struct report *r, uint32_t n, double least, double most, FILE *out)
{
	double cell = (double)SIDE / n;
	char from[32], to[32], bytes[32], messages[32];

	fprintf(out, "<svg class=\"square\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Traffic between ranks: senders from above, receivers from the "
	        "left\">\n<rect class=\"empty\" width=\"%d\" height=\"%d\"/>\n", SIDE, SIDE, SIDE, SIDE);
	for (uint32_t s = 0; s < PAGE_SHADES; s++) {
		bool is_open = false;

		for (uint32_t a = 0; a < n; a++)
			for (uint32_t b = 0; b < n; b++) {
				if (shade_of(r->bytes[a][b], least, most) != s)
					continue;
				if (n <= TITLED) {
					fprintf(out, "<rect class=\"h%u\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%s to %s: %s in %s messages</title>"
					        "</rect>\n", s, b * cell, a * cell, cell - 1, cell - 1, group(from, r, a), group(to, r, b),
					        html_bytes(bytes, r->bytes[a][b]), html_number(messages, r->messages[a][b]));
					continue;
				}
				if (!is_open)
					fprintf(out, "<path class=\"h%u\" d=\"", s);
				is_open = true;
				fprintf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", b * cell, a * cell, cell, cell, cell);
			}
		fputs(is_open ? "\"/>\n" : "", out);
	}
	fputs("</svg>\n", out);
}

struct pair { uint32_t a, b; double bytes; };

static int by_bytes(const void *x, const void *y)
{
	double a = ((const struct pair *)x)->bytes, b = ((const struct pair *)y)->bytes;

	return (a < b) - (a > b);
}

static void table(const struct report *r, uint32_t n, FILE *out)
{
	struct pair *all = calloc((size_t)n * n + 1, sizeof(*all));
	size_t many = 0;
	char text[32];

	for (uint32_t a = 0; all && a < n; a++)
		for (uint32_t b = 0; b < n; b++)
			if (r->messages[a][b] > 0)
				all[many++] = (struct pair){ .a = a, .b = b, .bytes = r->bytes[a][b] };
	if (many)
		qsort(all, many, sizeof(*all), by_bytes);
	html_table_begin(out, "The same as a table: those that said most", "From|To|Bytes|Messages|Bytes a message", false);
	for (size_t i = 0; i < many && i < PAIRS; i++) {
		double messages = r->messages[all[i].a][all[i].b];

		fputs("<tr>", out);
		html_cell(out, all[i].a, group(text, r, all[i].a));
		html_cell(out, all[i].b, group(text, r, all[i].b));
		html_cell(out, all[i].bytes, html_bytes(text, all[i].bytes));
		html_cell(out, messages, html_number(text, messages));
		html_cell(out, all[i].bytes / messages, html_bytes(text, all[i].bytes / messages));
		fputs("</tr>\n", out);
	}
	html_table_end(out, false);
	if (many > PAIRS)
		fprintf(out, "<p class=\"hint\">The table tells of %d of %zu pairs.</p>\n", PAIRS, many);
	free(all);
}

/* A bar of three parts */
static void draw_near(const struct report *r, FILE *out)
{
	static const char *const names[3] = { "within clusters", "between clusters of a host", "between hosts" };
	double sum = r->near[0] + r->near[1] + r->near[2];
	char text[32];

	if (sum <= 0)
		return;
	fputs("<h3>How far it went</h3><div class=\"bar\" aria-hidden=\"true\">", out);
	for (int i = 0; i < 3; i++)
		if (r->near[i] > 0)
			fprintf(out, "<i class=\"k%d\" style=\"width:%.2f%%\"></i>", i, 100 * r->near[i] / sum);
	fputs("</div><ul class=\"legend\">", out);
	for (int i = 0; i < 3; i++)
		fprintf(out, "<li><i class=\"k%d\"></i>%s: %s, %.0f %%</li>", i, names[i], html_bytes(text, r->near[i]), 100 * r->near[i] / sum);
	fputs("</ul>\n", out);
}

void page_traffic(const struct report *r, FILE *out)
{
	double least = INFINITY, most = 0;
	uint32_t n = r->per ? (r->size + r->per - 1) / r->per : 0;
	char a[32], b[32];

	n = n < REPORT_BLOCKS ? n : REPORT_BLOCKS;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < n; k++)
			if (r->bytes[i][k] > 0) {
				least = fmin(least, r->bytes[i][k]);
				most = fmax(most, r->bytes[i][k]);
			}
	fputs("<section id=\"traffic\"><h2>Who talked to whom</h2>\n", out);
	if (most <= 0) {
		fputs("<p>No traffic was seen: ranks are asked after one second, two, four, and then every minute.</p></section>\n", out);
		return;
	}
	fprintf(out, "<p>A row for each %s that sends, a column for each that receives; the darker the more bytes, by powers.</p>\n",
	        r->per > 1 ? "group of ranks" : "rank");
	draw(r, n, least, most, out);
	fprintf(out, "<p class=\"scale\"><span>%s</span>", html_bytes(a, least));
	for (int i = 0; i < PAGE_SHADES; i++)
		fprintf(out, "<i class=\"h%d\"></i>", i);
	fprintf(out, "<span>%s</span></p>\n", html_bytes(b, most));
	draw_near(r, out);
	table(r, n, out);
	fputs("</section>\n", out);
}
