/* SPDX-License-Identifier: BSD-2-Clause */
/* Text, numbers, tables and the frame of charts over time. */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

const char *const html_measures[M_ALL] = {
	[M_TOTAL] = "Total time", [M_DOWNTIME] = "Downtime", [M_PAGES] = "Pages", [M_DIRTY] = "Dirty rate", [M_PREPARATION] = "Preparation",
	[M_RESUME] = "Resume", [M_SLOWDOWN] = "Slowdown", [M_LINK] = "Link rate",
};

/* Bytes of the UTF-8 character at @p that turn text around or hide it (bidirectional controls, zero width); 0: it is none of them */
static size_t unseen(const unsigned char *p)
{
	if (p[0] == 0xe2 && p[1] == 0x80 && ((p[2] >= 0x8b && p[2] <= 0x8f) || (p[2] >= 0xa8 && p[2] <= 0xae)))
		return 3; /* U+200B..200F, U+2028..202E */
	if (p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xa0 && p[2] <= 0xaf)
		return 3; /* U+2060..206F */
	if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f)
		return 2; /* C1 controls */
	return p[0] < 0x20 || p[0] == 0x7f;
}

void report_text(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p;) {
		size_t n = unseen(p);

		putc(n ? '?' : *p, out);
		p += n ? n : 1;
	}
}

void html_text(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p;) {
		size_t n = unseen(p);

		if (n) {
			fputs("·", out);
			p += n;
			continue;
		}
		switch (*p) {
		case '&': fputs("&amp;", out); break;
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		case '"': fputs("&quot;", out); break;
		case '\'': fputs("&#39;", out); break;
		default: putc(*p, out);
		}
		p++;
	}
}

const char *html_duration(char buf[32], double s)
{
	static const struct { double unit; const char *name, *part; double parts; } long_ones[] = {
		{ 86400, "d", "h", 24 }, { 3600, "h", "min", 60 }, { 60, "min", "s", 60 },
	};

	if (!isfinite(s)) {
		snprintf(buf, 32, "–");
		return buf;
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(long_ones); i++)
		if (s >= long_ones[i].unit) {
			double parts = round(s / (long_ones[i].unit / long_ones[i].parts)), whole = floor(parts / long_ones[i].parts);

			parts -= whole * long_ones[i].parts;
			if (parts > 0)
				snprintf(buf, 32, "%.0f %s %.0f %s", whole, long_ones[i].name, parts, long_ones[i].part);
			else
				snprintf(buf, 32, "%.0f %s", whole, long_ones[i].name);
			return buf;
		}
	if (s == 0)
		snprintf(buf, 32, "0 s");
	else if (fabs(s) >= 1)
		snprintf(buf, 32, "%.3g s", s);
	else if (fabs(s) >= 1e-3)
		snprintf(buf, 32, "%.3g ms", s * 1e3);
	else
		snprintf(buf, 32, "%.3g µs", s * 1e6);
	return buf;
}

const char *html_bytes(char buf[32], double v)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	size_t i = 0;

	if (!isfinite(v)) {
		snprintf(buf, 32, "–");
		return buf;
	}
	for (; fabs(v) >= 1000 && i + 1 < GW_ARRAY_LEN(units); i++)
		v /= 1024;
	snprintf(buf, 32, "%.*f %s", i == 0 || fabs(v) >= 100 ? 0 : fabs(v) >= 10 ? 1 : 2, v, units[i]);
	return buf;
}

const char *html_number(char buf[32], double v)
{
	if (!isfinite(v))
		snprintf(buf, 32, "–");
	else if (fabs(v) >= 1000 || v == round(v))
		snprintf(buf, 32, "%.0f", v);
	else
		snprintf(buf, 32, "%.3g", v);
	return buf;
}

const char *html_measure(char buf[32], int which, double v)
{
	char number[32];

	switch (which) {
	case M_PAGES:
		return html_number(buf, v);
	case M_DIRTY:
		html_number(number, v);
		snprintf(buf, 32, isfinite(v) ? "%.20s/s" : "%.20s", number);
		return buf;
	case M_SLOWDOWN:
		snprintf(buf, 32, isfinite(v) ? "%.0f %%" : "–", 100 * v);
		return buf;
	case M_LINK:
		html_bytes(number, v);
		snprintf(buf, 32, isfinite(v) ? "%.20s/s" : "%.20s", number);
		return buf;
	default:
		return html_duration(buf, v);
	}
}

void html_cluster(FILE *out, const struct report *r, uint32_t cluster)
{
	if (cluster >= r->n_clusters) {
		fputs("no cluster", out);
		return;
	}
	fprintf(out, "cluster %u", cluster);
	if (r->clusters[cluster].name && *r->clusters[cluster].name) {
		fputs(" on ", out);
		html_text(out, r->clusters[cluster].name);
	}
}

const char *html_colour(char buf[8], const struct report *r, uint32_t cluster)
{
	if (cluster == REPORT_NOWHERE)
		snprintf(buf, 8, "no");
	else if (r->n_clusters <= PAGE_KINDS)
		snprintf(buf, 8, "k%u", cluster % PAGE_KINDS);
	else
		snprintf(buf, 8, "s%u", cluster * PAGE_SHADES / r->n_clusters % PAGE_SHADES);
	return buf;
}

void html_cell(FILE *out, double key, const char *text)
{
	if (isfinite(key))
		fprintf(out, "<td class=\"r\" data-k=\"%.9g\">", key);
	else
		fputs("<td class=\"r\">", out);
	html_text(out, text);
	fputs("</td>", out);
}

/* ---- tables ---------------------------------------------------------------------------------------------------------------- */

void html_table_begin(FILE *out, const char *summary, const char *head, bool is_open)
{
	if (!is_open) {
		fputs("<details><summary>", out);
		html_text(out, summary);
		fputs("</summary>", out);
	}
	fputs("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"", out);
	html_text(out, summary);
	fputs("\"><table><thead><tr>", out);
	while (*head) {
		size_t n = strcspn(head, "|");

		fprintf(out, "<th scope=\"col\">%.*s</th>", (int)n, head);
		head += n + (head[n] == '|');
	}
	fputs("</tr></thead><tbody>\n", out);
}

void html_table_end(FILE *out, bool is_open)
{
	fprintf(out, "</tbody></table></div>%s\n", is_open ? "" : "</details>");
}

/* ---- charts over time -------------------------------------------------------------------------------------------------------- */

long html_x(const struct report *r, double t_s)
{
	double x = t_s / r->length_s;

	return lround(PAGE_WIDTH * (x < 0 ? 0 : x > 1 ? 1 : x));
}

void html_stretches(FILE *out, const uint32_t *v, bool *is_drawn, uint32_t b, uint32_t bins, double y, double height)
{
	double width = (double)PAGE_WIDTH / bins;

	for (uint32_t i = b, end; i < bins; i = end + 1) {
		for (end = i; end < bins && v[end] == v[b]; end++)
			is_drawn[end] = true;
		if (end > i)
			fprintf(out, "M%.0f %.1fH%.0fv%.1fH%.0fz", i * width, y, end * width, height, i * width);
	}
}

double html_axis(double most)
{
	double ten = most > 0 && isfinite(most) ? pow(10, floor(log10(most))) : 1;

	return most <= ten * 1.0001 ? ten : most <= 2 * ten ? 2 * ten : most <= 5 * ten ? 5 * ten : 10 * ten;
}

/* Steps that people count in. page.js has the same list, for stretches that are looked at closer. */
static double time_step(double length)
{
	static const double steps[] = { 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200,
		10800, 21600, 43200, 86400, 172800, 432000, 864000, 2592000, 8640000 };

	for (size_t i = 0; i < GW_ARRAY_LEN(steps); i++)
		if (length / steps[i] <= PAGE_TICKS)
			return steps[i];
	return length / PAGE_TICKS;
}

void html_chart_begin(FILE *out, const struct report *r, const char *title, double height, const struct html_label *labels, size_t n)
{
	double step = time_step(r->length_s);

	fputs("<div class=\"plot\"><div class=\"y\" aria-hidden=\"true\">", out);
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "<span style=\"top:%.1fpx\">", labels[i].y);
		html_text(out, labels[i].text);
		fputs("</span>", out);
	}
	fprintf(out, "</div><div class=\"area\"><svg class=\"time\" viewBox=\"0 0 %d %.0f\" preserveAspectRatio=\"none\" style=\"height:%.0fpx\" "
	        "role=\"img\" aria-label=\"", PAGE_WIDTH, height, height);
	html_text(out, title);
	fputs("\"><path class=\"grid\" d=\"", out);
	for (double t = 0; t <= r->length_s; t += step)
		fprintf(out, "M%ld 0v%.0f", html_x(r, t), height);
	fputs("\"/>\n", out);
}

void html_chart_end(FILE *out, const struct report *r)
{
	double step = time_step(r->length_s);
	char text[32];

	fputs("</svg><div class=\"x\" aria-hidden=\"true\">", out);
	for (double t = 0; t <= r->length_s; t += step)
		fprintf(out, "<span style=\"left:%.3f%%\">%s</span>", 100 * t / r->length_s, t == 0 ? "0" : html_duration(text, t));
	fputs("</div></div></div>\n", out);
}
