/* SPDX-License-Identifier: BSD-2-Clause */
/* Letters, figures and bars on a page of godwit top: top_pen.h. */
#include "runtime/control/top_pen.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- cells -------------------------------------------------------------------------------------------------------------- */

static struct top_cell *cell(const struct top_page *p, int y, int x)
{
	return &p->cells[(size_t)y * (size_t)p->width + (size_t)x];
}

void pen_put(struct pen *p, wchar_t c)
{
	if (p->y >= 0 && p->y < p->page->height && p->x >= 0 && p->x < p->page->width)
		*cell(p->page, p->y, p->x) = (struct top_cell){ c, (uint8_t)p->style, p->is_selected };
	p->x++;
}

/* The next letter of UTF-8; what is none, or would not take one cell, is a question mark */
static wchar_t letter(const char **at)
{
	const unsigned char *s = (const unsigned char *)*at;
	int more = *s >= 0xf0 ? 3 : *s >= 0xe0 ? 2 : *s >= 0xc0 ? 1 : 0;
	wchar_t c = more == 3 ? *s & 7 : more == 2 ? *s & 15 : more ? *s & 31 : *s;

	(*at)++;
	for (int i = 1; i <= more; i++, (*at)++) {
		if ((s[i] & 0xc0) != 0x80)
			return '?';
		c = c << 6 | (s[i] & 63);
	}
	if (c < ' ' || c == 0x7f || (*s >= 0x80 && !more) || (c >= 0x80 && c < 0xa0) || (c >= 0x300 && c < 0x370) || (c >= 0x1100 && c < 0x2000) ||
	    (c >= 0x200b && c < 0x2010) || (c >= 0x2028 && c < 0x2030) || c >= 0x2e80)
		return '?';
	return c;
}

static const wchar_t plain[][2] = {
	{ L'\u00b7', '|' }, { L'\u2192', '>' }, { L'\u2013', '-' }, { L'\u25be', 'v' }, { L'\u25b4', '^' }, { L'\u2588', '#' }, { L'\u2591', '.' },
	{ L'\u2592', '%' }, { L'\u2026', '~' }, { L'\u2500', '-' },
};

void pen_say(struct pen *p, const char *text)
{
	while (*text) {
		wchar_t c = letter(&text);

		if (c >= 0x80 && !p->v->is_utf8) {
			wchar_t is = '?';

			for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
				if (plain[i][0] == c)
					is = plain[i][1];
			c = is;
		}
		pen_put(p, c);
	}
}

void pen_sayf(struct pen *p, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pen_say(p, text);
}

void pen_say_as(struct pen *p, enum top_style style, const char *fmt, ...)
{
	enum top_style before = p->style;
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->style = style;
	pen_say(p, text);
	p->style = before;
}

int pen_letters(const char *text)
{
	int n = 0;

	while (*text) {
		letter(&text);
		n++;
	}
	return n;
}

/* @text in @width cells; what does not fit ends in an ellipsis */
void pen_say_in(struct pen *p, int width, bool is_right, const char *text)
{
	int n = pen_letters(text), from = p->x;

	if (is_right)
		for (; n < width; n++)
			pen_put(p, ' ');
	if (n <= width) {
		pen_say(p, text);
	} else {
		for (int i = 0; i + 1 < width; i++)
			pen_put(p, letter(&text));
		if (width > 0)
			pen_say(p, "\u2026");
	}
	while (p->x < from + width)
		pen_put(p, ' ');
}

struct pen pen_line(struct top_page *page, const struct top_view *v, int y, enum top_style style)
{
	struct pen p = { .page = page, .v = v, .y = y, .style = style };

	for (int x = 0; x < page->width && y < page->height; x++)
		pen_put(&p, ' ');
	p.x = 0;
	return p;
}

/* ---- figures ------------------------------------------------------------------------------------------------------------ */

/* At most five letters: "0", "812", "1.2K", "340M", "1.2G" */
const char *pen_amount(double v, char *buf, size_t cap)
{
	static const char units[] = " KMGTPE";
	size_t u = 0;

	if (v < 0) {
		snprintf(buf, cap, "\u2013");
		return buf;
	}
	while (v >= 999.5 && u + 1 < sizeof(units) - 1) {
		v /= 1000;
		u++;
	}
	snprintf(buf, cap, u && v < 9.95 ? "%.1f%.1s" : "%.0f%.1s", v, u ? units + u : "");
	return buf;
}

const char *pen_memory(double v, char *buf, size_t cap)
{
	static const char *const units[] = { "B", "K", "M", "G", "T", "P" };
	size_t u = 0;

	if (v < 0) {
		snprintf(buf, cap, "\u2013");
		return buf;
	}
	while (v >= 1023.5 && u + 1 < sizeof(units) / sizeof(units[0])) {
		v /= 1024;
		u++;
	}
	snprintf(buf, cap, u && v < 9.95 ? "%.1f%s" : "%.0f%s", v, units[u]);
	return buf;
}

const char *pen_duration(double s, char *buf, size_t cap)
{
	if (s < 0)
		snprintf(buf, cap, "\u2013");
	else if (s < 0.00995)
		snprintf(buf, cap, "%.1f ms", s * 1e3);
	else if (s < 0.9995)
		snprintf(buf, cap, "%.0f ms", s * 1e3);
	else if (s < 99.5)
		snprintf(buf, cap, "%.1f s", s);
	else
		snprintf(buf, cap, "%.0f s", s);
	return buf;
}

const char *pen_clock(double s, char *buf, size_t cap)
{
	long t = s > 0 ? (long)s : 0;

	if (t >= 86400)
		snprintf(buf, cap, "%ldd %02ld:%02ld:%02ld", t / 86400, t / 3600 % 24, t / 60 % 60, t % 60);
	else if (t >= 3600)
		snprintf(buf, cap, "%ld:%02ld:%02ld", t / 3600, t / 60 % 60, t % 60);
	else
		snprintf(buf, cap, "%ld:%02ld", t / 60, t % 60);
	return buf;
}

const char *pen_time(double at, char *buf, size_t cap)
{
	time_t t = (time_t)at;
	struct tm tm;

	if (!localtime_r(&t, &tm) || !strftime(buf, cap, "%H:%M:%S", &tm))
		snprintf(buf, cap, "?");
	return buf;
}

/* A part of something in @width cells: useful, waiting, others'; what is over is cut. Where nothing follows the useful part it ends to
 * an eighth of a cell. */
void pen_bar(struct pen *p, int width, double good, double wait, double other)
{
	static const struct { const char *mark; enum top_style style; } parts[] = { { "\u2588", TOP_GOOD }, { "\u2591", TOP_WAIT }, { "\u2592", TOP_OTHER } };
	static const char *const eighths[] = { "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589" };
	double ends[] = { fmax(0, good), fmax(0, good) + fmax(0, wait), fmax(0, good) + fmax(0, wait) + fmax(0, other) };
	enum top_style before = p->style;

	for (int i = 0; i < width; i++) {
		double at = (i + 0.5) / width, rest = ends[0] * width - i;
		int part = at < ends[0] ? 0 : at < ends[1] ? 1 : at < ends[2] ? 2 : 3, eighth = (int)lround(rest * 8);

		p->style = part < 3 ? parts[part].style : TOP_DIM;
		if (p->v->is_fine && eighth > 0 && eighth < 8 && ends[2] * width < i + 1) {
			p->style = TOP_GOOD;
			pen_say(p, eighths[eighth - 1]);
		} else {
			pen_say(p, part < 3 ? parts[part].mark : p->v->is_utf8 ? "\u00b7" : " ");
		}
	}
	p->style = before;
}

void pen_percent(struct pen *p, int width, double part)
{
	char text[16];

	if (part < 0)
		snprintf(text, sizeof(text), "\u2013");
	else
		snprintf(text, sizeof(text), "%.0f%%", part * 100);
	pen_say_in(p, width, true, text);
}

/* ---- a page --------------------------------------------------------------------------------------------------------------- */

void top_page_fini(struct top_page *p)
{
	free(p->cells);
	p->cells = NULL;
}

static size_t encode(char *to, wchar_t c)
{
	if (c < 0x80) {
		*to = (char)c;
		return 1;
	}
	if (c < 0x800) {
		to[0] = (char)(0xc0 | c >> 6);
		to[1] = (char)(0x80 | (c & 63));
		return 2;
	}
	to[0] = (char)(0xe0 | c >> 12);
	to[1] = (char)(0x80 | (c >> 6 & 63));
	to[2] = (char)(0x80 | (c & 63));
	return 3;
}

char *top_page_line(const struct top_page *p, int y)
{
	char *text = malloc((size_t)p->width * 3 + 1);
	size_t n = 0;

	for (int x = 0; text && x < p->width; x++)
		n += encode(text + n, cell(p, y, x)->c);
	while (text && n > 0 && text[n - 1] == ' ')
		n--;
	if (text)
		text[n] = '\0';
	return text;
}
