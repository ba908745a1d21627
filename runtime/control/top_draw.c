/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One page of godwit top: from figures and a size to cells. Pure.
 *
 *   title          which job, what it does
 *   two lines      all of it in figures; balancing
 *   CLUSTERS       as many as there is room for
 *   RANKS          sorted, filtered; the rest of the page
 *   MOVES          under way, then those that are over
 *   keys           or a question, or what came of one
 *
 * A small page leaves out clusters and moves first; a narrow one the columns that matter least.
 */
#include "runtime/control/top.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BAR_LEAST 8
#define BAR_MOST  24
#define ROWS_MOST 100000 /* of a page without a height */

/* ---- cells -------------------------------------------------------------------------------------------------------------- */

struct pen {
	struct top_page *page;
	const struct top_view *v;
	int y, x;
	enum top_style style;
	bool is_selected;
};

static struct top_cell *cell(const struct top_page *p, int y, int x)
{
	return &p->cells[(size_t)y * (size_t)p->width + (size_t)x];
}

static void put(struct pen *p, wchar_t c)
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

static void say(struct pen *p, const char *text)
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
		put(p, c);
	}
}

static void __attribute__((format(printf, 2, 3))) sayf(struct pen *p, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	say(p, text);
}

static void __attribute__((format(printf, 3, 4))) say_as(struct pen *p, enum top_style style, const char *fmt, ...)
{
	enum top_style before = p->style;
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->style = style;
	say(p, text);
	p->style = before;
}

static int letters(const char *text)
{
	int n = 0;

	while (*text) {
		letter(&text);
		n++;
	}
	return n;
}

/* @text in @width cells; what does not fit ends in an ellipsis */
static void say_in(struct pen *p, int width, bool is_right, const char *text)
{
	int n = letters(text), from = p->x;

	if (is_right)
		for (; n < width; n++)
			put(p, ' ');
	if (n <= width) {
		say(p, text);
	} else {
		for (int i = 0; i + 1 < width; i++)
			put(p, letter(&text));
		if (width > 0)
			say(p, "\u2026");
	}
	while (p->x < from + width)
		put(p, ' ');
}

static struct pen line(struct top_page *page, const struct top_view *v, int y, enum top_style style)
{
	struct pen p = { .page = page, .v = v, .y = y, .style = style };

	for (int x = 0; x < page->width && y < page->height; x++)
		put(&p, ' ');
	p.x = 0;
	return p;
}

/* ---- figures ------------------------------------------------------------------------------------------------------------ */

/* At most five letters: "0", "812", "1.2K", "340M", "1.2G" */
static const char *amount(double v, char *buf, size_t cap)
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

static const char *memory(double v, char *buf, size_t cap)
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

static const char *duration(double s, char *buf, size_t cap)
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

static const char *clock_of(double s, char *buf, size_t cap)
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

static const char *time_of(double at, char *buf, size_t cap)
{
	time_t t = (time_t)at;
	struct tm tm;

	if (!localtime_r(&t, &tm) || !strftime(buf, cap, "%H:%M:%S", &tm))
		snprintf(buf, cap, "?");
	return buf;
}

/* A part of something in @width cells: useful, waiting, others'; what is over is cut. Where nothing follows the useful part it ends to
 * an eighth of a cell. */
static void bar(struct pen *p, int width, double good, double wait, double other)
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
			say(p, eighths[eighth - 1]);
		} else {
			say(p, part < 3 ? parts[part].mark : p->v->is_utf8 ? "\u00b7" : " ");
		}
	}
	p->style = before;
}

static void percent(struct pen *p, int width, double part)
{
	char text[16];

	if (part < 0)
		snprintf(text, sizeof(text), "\u2013");
	else
		snprintf(text, sizeof(text), "%.0f%%", part * 100);
	say_in(p, width, true, text);
}

/* ---- order -------------------------------------------------------------------------------------------------------------- */

bool top_sorts_down(enum top_column c)
{
	return c != TOP_RANK && c != TOP_CLUSTER && c != TOP_HOST && c != TOP_STATE;
}

struct by { const struct top_data *d; const struct top_view *v; };

static double key_of(const struct top_rank *r, enum top_column c)
{
	switch (c) {
	case TOP_CLUSTER: return r->cluster;
	case TOP_LOAD: return r->load;
	case TOP_WAITS: return r->waits;
	case TOP_OUT: return r->out_s;
	case TOP_IN: return r->in_s;
	case TOP_PEER: return r->peer_s;
	case TOP_MEMORY: return r->memory;
	case TOP_MOVES: return r->moves;
	case TOP_PAUSE: return r->down_s;
	default: return r->rank;
	}
}

static int compare(const void *x, const void *y, void *ctx)
{
	const struct by *by = ctx;
	const struct top_rank *a = &by->d->ranks[*(const uint32_t *)x], *b = &by->d->ranks[*(const uint32_t *)y];
	enum top_column c = by->v->sort;
	double ka = key_of(a, c), kb = key_of(b, c);
	int order = c == TOP_HOST ? strcmp(a->host, b->host) : c == TOP_STATE ? strcmp(a->state, b->state) : ka < kb ? -1 : ka > kb;

	if (top_sorts_down(c) != by->v->is_reversed)
		order = -order;
	return order ? order : a->rank < b->rank ? -1 : a->rank > b->rank;
}

static bool passes(const struct top_rank *r, const char *filter)
{
	char text[256];

	snprintf(text, sizeof(text), "rank %u cluster %u %s %s%s", r->rank, r->cluster, r->host, r->state, r->is_pinned ? " pinned" : "");
	return !*filter || strcasestr(text, filter);
}

uint32_t top_order(uint32_t *out, const struct top_data *d, const struct top_view *v)
{
	struct by by = { d, v };
	uint32_t n = 0;

	for (uint32_t i = 0; i < d->n_ranks; i++)
		if (passes(&d->ranks[i], v->filter))
			out[n++] = i;
	qsort_r(out, n, sizeof(*out), compare, &by);
	return n;
}

static uint32_t row_of(const uint32_t *order, uint32_t n, const struct top_data *d, const struct top_view *v)
{
	for (uint32_t i = 0; i < n; i++)
		if (d->ranks[order[i]].rank == v->selected)
			return i;
	return n;
}

void top_move_selection(struct top_view *v, const struct top_data *d, int rows)
{
	uint32_t *order = calloc(d->n_ranks + 1, sizeof(*order)), n, at;
	long to;

	n = order ? top_order(order, d, v) : 0;
	if (n > 0) {
		at = v->has_selected ? row_of(order, n, d, v) : n;
		to = at < n ? (long)at + rows : rows > 0 && !v->has_selected ? v->first + rows - 1 : 0;
		to = to < 0 ? 0 : to >= (long)n ? (long)n - 1 : to;
		v->selected = d->ranks[order[to]].rank;
		v->has_selected = true;
	}
	free(order);
}

/* ---- the table of ranks ------------------------------------------------------------------------------------------------- */

static const struct column { const char *title; int width, rank; bool is_right; } columns[TOP_COLUMNS] = {
	/* rank: what is left out first has the highest */
	[TOP_RANK]    = { "RANK", 6, 0, true },
	[TOP_CLUSTER] = { "CLUSTER", 7, 2, true },
	[TOP_HOST]    = { "HOST", 8, 9, false },
	[TOP_STATE]   = { "STATE", 10, 4, false },
	[TOP_LOAD]    = { "LOAD", 5, 1, true },
	[TOP_WAITS]   = { "WAIT", 5, 3, true },
	[TOP_OUT]     = { "OUT/s", 6, 5, true },
	[TOP_IN]      = { "IN/s", 6, 7, true },
	[TOP_PEER]    = { "MOST TO", 12, 10, true },
	[TOP_MEMORY]  = { "MEMORY", 6, 6, true },
	[TOP_MOVES]   = { "MOVES", 5, 8, true },
	[TOP_PAUSE]   = { "PAUSE", 8, 11, true },
};

struct table { bool is_on[TOP_COLUMNS]; int width[TOP_COLUMNS], bar; };

static int width_of(const struct table *t)
{
	int all = t->bar ? t->bar + 1 : 0, n = 0;

	for (int c = 0; c < TOP_COLUMNS; c++)
		if (t->is_on[c]) {
			all += t->width[c];
			n++;
		}
	return all + 2 * (n - 1);
}

/* Which columns there is room for, and how long the bars are */
static struct table fit(const struct top_data *d, int width)
{
	struct table t = { .bar = BAR_LEAST };

	for (int c = 0; c < TOP_COLUMNS; c++) {
		t.is_on[c] = c != TOP_HOST || d->n_hosts > 1;
		t.width[c] = columns[c].width;
	}
	for (uint32_t r = 0; r < d->n_ranks; r++) {
		int n = letters(d->ranks[r].host), state = letters(d->ranks[r].state);

		if (n > t.width[TOP_HOST])
			t.width[TOP_HOST] = n < 20 ? n : 20;
		if (state > t.width[TOP_STATE])
			t.width[TOP_STATE] = state < 15 ? state : 15;
	}
	for (int drop = TOP_COLUMNS; drop > 1 && width_of(&t) > width; drop--)
		for (int c = 0; c < TOP_COLUMNS; c++)
			if (columns[c].rank == drop)
				t.is_on[c] = false;
	if (width_of(&t) > width)
		t.bar = 0;
	while (t.bar && t.bar < BAR_MOST && width_of(&t) < width)
		t.bar++;
	return t;
}

static void draw_head(struct pen *p, const struct table *t, const struct top_view *v)
{
	bool is_down = top_sorts_down(v->sort) != v->is_reversed, is_first = true;

	for (int c = 0; c < TOP_COLUMNS; c++) {
		enum top_style style = (enum top_column)c == v->sort ? TOP_SORTED : TOP_HEAD;
		char text[32];

		if (!t->is_on[c])
			continue;
		if (!is_first)
			say(p, "  ");
		is_first = false;
		p->style = style;
		snprintf(text, sizeof(text), "%s%s", columns[c].title, style == TOP_SORTED ? (is_down ? "\u25be" : "\u25b4") : "");
		if (c == TOP_LOAD && t->bar)
			say_in(p, t->bar + 1 + t->width[c], false, text);
		else
			say_in(p, t->width[c], columns[c].is_right, text);
		p->style = TOP_HEAD;
	}
}

static enum top_style style_of(const struct top_rank *r)
{
	if (r->has_ended)
		return TOP_DIM;
	return r->is_moving ? TOP_WARN : strcmp(r->state, "MPI") == 0 ? TOP_NORMAL : TOP_OTHER;
}

static void draw_field(struct pen *p, const struct table *t, const struct top_rank *r, enum top_column c)
{
	const char *rank_mark = r->is_pinned ? "*" : " ";
	char text[64], a[32];
	int w = t->width[c];

	switch (c) {
	case TOP_RANK:
		snprintf(text, sizeof(text), "%u%s", r->rank, rank_mark);
		p->style = TOP_BOLD;
		break;
	case TOP_CLUSTER: snprintf(text, sizeof(text), "%u", r->cluster); break;
	case TOP_HOST: snprintf(text, sizeof(text), "%s", r->host); break;
	case TOP_STATE:
		snprintf(text, sizeof(text), "%s", r->state);
		p->style = style_of(r);
		break;
	case TOP_LOAD:
		if (t->bar) {
			bar(p, t->bar, r->has_ended ? 0 : r->load, r->has_ended ? 0 : r->waits, 0);
			say(p, " ");
		}
		percent(p, w, r->has_ended ? TOP_UNKNOWN : r->load);
		return;
	case TOP_WAITS:
		percent(p, w, r->has_ended ? TOP_UNKNOWN : r->waits);
		return;
	case TOP_OUT: amount(r->out_s, text, sizeof(text)); break;
	case TOP_IN: amount(r->in_s, text, sizeof(text)); break;
	case TOP_PEER:
		if (r->peer_s < 0)
			snprintf(text, sizeof(text), "\u2013");
		else
			snprintf(text, sizeof(text), "%u (%s)", r->peer, amount(r->peer_s, a, sizeof(a)));
		break;
	case TOP_MEMORY: memory(r->memory, text, sizeof(text)); break;
	case TOP_MOVES: snprintf(text, sizeof(text), "%u", r->moves); break;
	case TOP_PAUSE: duration(r->down_s, text, sizeof(text)); break;
	default: return;
	}
	say_in(p, w, columns[c].is_right, text);
}

static void draw_rank(struct pen *p, const struct table *t, const struct top_rank *r, const struct top_view *v)
{
	enum top_style base = r->has_ended ? TOP_DIM : TOP_NORMAL;
	bool is_first = true;

	p->is_selected = !v->is_batch && v->has_selected && v->selected == r->rank;
	if (p->is_selected) { /* the whole line is */
		p->style = base;
		while (p->x < p->page->width)
			put(p, ' ');
		p->x = 0;
	}
	for (int c = 0; c < TOP_COLUMNS; c++) {
		if (!t->is_on[c])
			continue;
		p->style = base;
		if (!is_first)
			say(p, "  ");
		is_first = false;
		draw_field(p, t, r, (enum top_column)c);
	}
}

/* @n_rows: with the head */
static void draw_ranks(struct top_page *page, const struct top_data *d, struct top_view *v, int y, int n_rows)
{
	uint32_t *order = calloc(d->n_ranks + 1, sizeof(*order)), n;
	struct table t = fit(d, page->width);
	struct pen p = line(page, v, y, TOP_HEAD);
	int rows = n_rows - 1, at;

	if (!order)
		return;
	n = top_order(order, d, v);
	draw_head(&p, &t, v);
	at = (int)row_of(order, n, d, v);
	if (v->has_selected && at == (int)n) /* it is not there any more, or filtered out */
		v->has_selected = false;
	if (v->has_selected && at < v->first)
		v->first = at;
	if (v->has_selected && at >= v->first + rows)
		v->first = at - rows + 1;
	if (v->first > (int)n - rows)
		v->first = (int)n - rows;
	if (v->first < 0)
		v->first = 0;
	v->page = rows;
	for (int i = 0; i < rows && v->first + i < (int)n; i++) {
		p = line(page, v, y + 1 + i, TOP_NORMAL);
		draw_rank(&p, &t, &d->ranks[order[v->first + i]], v);
	}
	if (n == 0 && rows > 0) {
		p = line(page, v, y + 1, TOP_DIM);
		sayf(&p, "  no rank matches '%s'", v->filter);
	}
	free(order);
}

/* ---- the other parts ---------------------------------------------------------------------------------------------------- */

static void draw_title(struct top_page *page, const struct top_data *d, const struct top_view *v)
{
	struct pen p = line(page, v, 0, TOP_TITLE);
	const char *program = strrchr(d->program, '/') ? strrchr(d->program, '/') + 1 : d->program;
	char age[32], now[32], right[128];
	int width;

	snprintf(right, sizeof(right), "%s %s%s%s ", v->is_paused ? "PAUSED" : d->state, clock_of(d->age_s, age, sizeof(age)),
	         page->width >= 60 ? "  \u00b7  " : "", page->width >= 60 ? time_of(d->at, now, sizeof(now)) : "");
	width = page->width - letters(right);
	say(&p, page->width >= 60 ? " godwit top  \u00b7  job " : " job ");
	say(&p, d->job);
	say(&p, page->width >= 60 ? "  \u00b7  " : " ");
	if (p.x < width)
		say_in(&p, width - p.x - 1, false, program);
	if (p.x > width)
		return;
	p.x = width;
	say(&p, right);
}

/* "Load 1.9 of 4 cores   waiting 0.3 ..." as far as there is room */
static void draw_sums(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	double load = 0, waits = 0, cores = 0, out = 0, mem = 0;
	struct pen p = line(page, v, y, TOP_NORMAL);
	uint32_t ended = 0, pinned = 0;
	char text[6][64], a[32];
	int n = 0;

	for (uint32_t r = 0; r < d->n_ranks; r++) {
		const struct top_rank *rank = &d->ranks[r];

		ended += rank->has_ended;
		pinned += rank->is_pinned;
		if (rank->has_ended)
			continue;
		load += fmax(0, rank->load);
		waits += fmax(0, rank->waits);
		out += fmax(0, rank->out_s);
		mem += fmax(0, rank->memory);
	}
	for (uint32_t c = 0; c < d->n_clusters; c++)
		cores += d->clusters[c].is_up ? d->clusters[c].cores : 0;
	snprintf(text[n++], 64, "%u rank%s", d->n_ranks, d->n_ranks == 1 ? "" : "s");
	if (ended)
		snprintf(text[n - 1], 64, "%u ranks, %u ended", d->n_ranks, ended);
	else if (pinned)
		snprintf(text[n - 1], 64, "%u ranks, %u pinned", d->n_ranks, pinned);
	snprintf(text[n++], 64, "load %.2f of %.0f core%s", load, cores, cores == 1 ? "" : "s");
	snprintf(text[n++], 64, "waiting %.2f", waits);
	snprintf(text[n++], 64, "traffic %sB/s", amount(out, a, sizeof(a)));
	snprintf(text[n++], 64, "memory %s", memory(mem, a, sizeof(a)));
	for (int i = 0; i < n; i++) {
		int need = letters(text[i]) + (i ? 3 : 1);

		if (p.x + need > page->width)
			continue;
		say(&p, i ? "   " : " ");
		say(&p, text[i]);
	}
}

static void draw_counts(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	struct pen p = line(page, v, y, TOP_NORMAL);
	char a[32];

	sayf(&p, " %.0f move%s", d->moved, d->moved == 1 ? "" : "s");
	if (d->failed > 0)
		say_as(&p, TOP_WARN, ", %.0f not made", d->failed);
	if (d->n_moves)
		say_as(&p, TOP_WARN, ", %u under way", d->n_moves);
	if (d->down_mean_s > 0)
		sayf(&p, "   mean pause %s", duration(d->down_mean_s, a, sizeof(a)));
}

static void draw_balance(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	struct pen p = line(page, v, y, TOP_NORMAL);
	const char *words = d->words;
	size_t n = strlen(d->strategy);

	if (n && strncmp(words, d->strategy, n) == 0 && words[n] == ':')
		words += n + 2;
	sayf(&p, " balance %s", d->strategy[0] ? d->strategy : "off");
	if (d->every_s > 0)
		sayf(&p, " every %.0f s", d->every_s);
	if (words[0] && p.x + 10 < page->width) {
		say(&p, ": ");
		say_in(&p, page->width - p.x, false, words);
	}
}

static int draw_clusters(struct top_page *page, const struct top_data *d, const struct top_view *v, int y, int rows)
{
	int host = d->n_hosts > 1 || page->width >= 80 ? 8 : 0, barred, n = (int)d->n_clusters, shown = n <= rows - 1 ? n : rows - 2;
	struct pen p = line(page, v, y, TOP_HEAD);
	char a[32];

	for (int c = 0; c < n && host; c++) {
		int len = letters(d->clusters[c].hostname);

		host = len > host ? len : host;
	}
	host = host > 20 ? 20 : host;
	barred = page->width - (7 + 2 + (host ? host + 2 : 0) + 8 + 2 + 5 + 2 + 6 + 2 + 6 + 2 + 5 + 2 + 8);
	barred = barred > 32 ? 32 : barred < BAR_LEAST ? 0 : barred;
	say(&p, "CLUSTER  ");
	if (host) {
		say_in(&p, host, false, "HOST");
		say(&p, "  ");
	}
	say(&p, "STATE     CORES  ");
	say_in(&p, barred ? barred + 6 : 5, !barred, "LOAD");
	say(&p, "  OTHERS  RANKS");
	if (p.x + 10 <= page->width)
		say(&p, "      FREE");
	for (int i = 0; i < shown; i++) {
		const struct top_cluster *c = &d->clusters[i];
		double cores = c->cores > 0 ? c->cores : 1;
		bool is_gone = !c->is_up;

		p = line(page, v, y + 1 + i, is_gone ? TOP_DIM : TOP_NORMAL);
		sayf(&p, "%7u  ", c->cluster);
		if (host) {
			say_in(&p, host, false, c->hostname);
			say(&p, "  ");
		}
		p.style = strcmp(c->state, "up") == 0 ? TOP_GOOD : strcmp(c->state, "lost") == 0 ? TOP_BAD : c->is_up ? TOP_WARN : TOP_DIM;
		say_in(&p, 8, false, c->state);
		p.style = is_gone ? TOP_DIM : TOP_NORMAL;
		sayf(&p, "  %5.0f  ", c->cores);
		if (barred) {
			bar(&p, barred, c->load / cores, c->waits / cores, c->others / cores);
			say(&p, " ");
		}
		percent(&p, 5, is_gone ? TOP_UNKNOWN : c->load / cores);
		say(&p, "  ");
		percent(&p, 6, is_gone || c->others < 0 ? TOP_UNKNOWN : c->others / cores);
		sayf(&p, "  %5u", c->ranks);
		if (p.x + 10 <= page->width) {
			say(&p, "  ");
			say_in(&p, 8, true, memory(is_gone ? TOP_UNKNOWN : c->room, a, sizeof(a)));
		}
	}
	if (shown < n) {
		double load = 0, cores = 0;

		for (int i = shown; i < n; i++) {
			load += d->clusters[i].load;
			cores += d->clusters[i].is_up ? d->clusters[i].cores : 0;
		}
		p = line(page, v, y + 1 + shown, TOP_DIM);
		sayf(&p, "    ... and %d more: load %.2f of %.0f cores", n - shown, load, cores);
	}
	return 1 + (shown < n ? shown + 1 : n);
}

/* Where the columns of moves begin, and how wide they are; what a narrow page has no room for is left out from the right */
static const struct { const char *title; int x, width; bool is_right; } fields[] = {
	{ "TIME", 1, 8, false }, { "RANK", 10, 5, true }, { "FROM \u2192 TO", 17, 9, false }, { "TECHNIQUE", 28, 13, false }, { "PAUSE", 42, 8, true },
	{ "EXPECTED", 52, 8, true }, { "TOTAL", 62, 8, true }, { "SENT", 71, 6, true },
};
enum { IN_TIME, IN_RANK, IN_WAY, IN_TECHNIQUE, IN_PAUSE, IN_EXPECTED, IN_TOTAL, IN_SENT };

static void field(struct pen *p, size_t i, enum top_style style, const char *text)
{
	if (fields[i].x + fields[i].width > p->page->width)
		return;
	p->x = fields[i].x;
	p->style = style;
	say_in(p, fields[i].width, fields[i].is_right, text);
}

static struct pen move_line(struct top_page *page, const struct top_view *v, int y, enum top_style style, const char *when, uint32_t rank,
                            uint32_t from, uint32_t to)
{
	struct pen p = line(page, v, y, style);
	char text[64];

	field(&p, IN_TIME, style, when);
	snprintf(text, sizeof(text), "%u", rank);
	field(&p, IN_RANK, style, text);
	snprintf(text, sizeof(text), "%4u \u2192 %u", from, to);
	field(&p, IN_WAY, style, text);
	return p;
}

static void draw_moves(struct top_page *page, const struct top_data *d, const struct top_view *v, int y, int rows)
{
	struct pen p = line(page, v, y, TOP_HEAD);
	int at = y + 1;
	char text[64];

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		field(&p, i, TOP_HEAD, fields[i].title);
	for (uint32_t i = 0; i < d->n_moves && at < y + rows; i++) {
		const struct top_move *m = &d->moves[i];

		p = move_line(page, v, at++, TOP_WARN, "now", m->rank, m->from, m->to);
		field(&p, IN_TECHNIQUE, TOP_WARN, m->technique[0] ? m->technique : "");
		p.x = fields[IN_PAUSE].x;
		say_in(&p, 18, false, m->doing);
		field(&p, IN_TOTAL, TOP_WARN, duration(m->age_s, text, sizeof(text)));
		field(&p, IN_SENT, TOP_WARN, memory(m->bytes, text, sizeof(text)));
	}
	for (uint32_t i = 0; i < d->n_done && at < y + rows; i++) {
		const struct top_done *m = &d->done[i];

		time_of(m->time, text, sizeof(text));
		p = move_line(page, v, at++, m->is_failed ? TOP_BAD : TOP_NORMAL, text, m->rank, m->from, m->to);
		if (m->is_failed) {
			p.x = fields[IN_TECHNIQUE].x;
			say_in(&p, page->width - p.x, false, m->text);
			continue;
		}
		field(&p, IN_TECHNIQUE, TOP_NORMAL, m->technique);
		field(&p, IN_PAUSE, TOP_BOLD, duration(m->down_s, text, sizeof(text)));
		field(&p, IN_EXPECTED, TOP_DIM, duration(m->predicted_s, text, sizeof(text)));
		field(&p, IN_TOTAL, TOP_NORMAL, duration(m->total_s, text, sizeof(text)));
		field(&p, IN_SENT, TOP_NORMAL, memory(m->bytes, text, sizeof(text)));
	}
}

static void draw_keys(struct top_page *page, struct top_view *v, int y)
{
	static const struct { const char *key, *words; } keys[] = {
		{ "q", "quit" }, { "h", "help" }, { "< >", "sort" }, { "r", "reverse" }, { "f", "filter" }, { "m", "move" }, { "p", "pin" },
		{ "b", "balance" }, { "d", "delay" }, { "space", "pause" },
	};
	struct pen p = line(page, v, y, TOP_NORMAL);

	page->cursor = -1;
	if (v->prompt[0]) {
		say_as(&p, TOP_BOLD, " %s ", v->prompt);
		say(&p, v->typed);
		page->cursor = p.x < page->width ? p.x : page->width - 1;
		return;
	}
	if (v->message[0]) {
		p.style = v->is_message_bad ? TOP_BAD : TOP_BOLD;
		say(&p, " ");
		say_in(&p, page->width - 1, false, v->message);
		return;
	}
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (p.x + 3 + letters(keys[i].key) + letters(keys[i].words) > page->width)
			break;
		say(&p, " ");
		say_as(&p, TOP_KEY, "%s", keys[i].key);
		sayf(&p, " %s ", keys[i].words);
	}
	if (v->filter[0] && p.x + letters(v->filter) + 12 < page->width) {
		p.x = page->width - letters(v->filter) - 10;
		say_as(&p, TOP_WARN, "filter: %s", v->filter);
	}
}

static void draw_help(struct top_page *page, struct top_view *v)
{
	static const char *const words[] = {
		"*Keys",
		" q             quit; the job goes on",
		" up down       choose a rank; page up, page down, home, end",
		" m             move it: the number of a cluster, or a host",
		" p             pin it where it is (*), or unpin it",
		" b             move ranks so that the job gets faster, once",
		" < >           the column by which ranks are sorted; r turns it round",
		" N C L W T M V sort by number, cluster, load, wait, traffic, memory, moves",
		" f             filter: ranks in whose number, cluster, host or state it is",
		" c l           clusters, moves: hide them, show them",
		" d             seconds between two looks;  space: hold the page",
		"",
		"*What is shown",
		"#LOAD     useful processor time; looking for messages in vain is WAIT",
		" OTHERS   what other programs use of a cluster's processors",
		" OUT IN   bytes a second that it sends and receives in MPI",
		" MOST TO  the rank to whom it sends most, and how much a second",
		" PAUSE    how long it stood at its last move; EXPECTED: as predicted",
		"",
		" any key goes back",
	};
	struct pen p;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		p = line(page, v, 2 + (int)i, TOP_NORMAL);
		if (words[i][0] == '*') {
			say_as(&p, TOP_BOLD, " %s", words[i] + 1);
			continue;
		}
		if (words[i][0])
			sayf(&p, "   %s", words[i] + 1);
		if (words[i][0] == '#' && p.x + 10 < page->width) {
			say(&p, "   ");
			bar(&p, 6, 0.5, 0.5, 0);
		}
	}
}

/* ---- the page ----------------------------------------------------------------------------------------------------------- */

static int sum_rows(const struct top_data *d)
{
	int clusters = (int)d->n_clusters, moves = (int)(d->n_moves + d->n_done);

	return 3 + d->is_balancing + 1 + 1 + clusters + 1 + 1 + (int)d->n_ranks + (moves ? moves + 2 : 0);
}

int top_draw(struct top_page *out, const struct top_data *d, struct top_view *v, int height, int width)
{
	int y, clusters = 0, moves = (int)(d->n_moves + d->n_done), end, rows;

	if (v->is_batch)
		height = sum_rows(d) < ROWS_MOST ? sum_rows(d) : ROWS_MOST;
	height = height < 3 ? 3 : height;
	width = width < 20 ? 20 : width;
	*out = (struct top_page){ .height = height, .width = width, .cursor = -1 };
	out->cells = malloc((size_t)height * (size_t)width * sizeof(*out->cells));
	if (!out->cells)
		return -ENOMEM;
	for (int i = 0; i < height; i++)
		line(out, v, i, TOP_NORMAL);
	draw_title(out, d, v);
	if (v->is_helping) {
		draw_help(out, v);
		return 0;
	}
	y = 1;
	draw_sums(out, d, v, y++);
	if (height >= 14)
		draw_counts(out, d, v, y++);
	if (d->is_balancing && height >= 16)
		draw_balance(out, d, v, y++);
	if (v->is_batch) {
		clusters = (int)d->n_clusters + 1;
		moves = moves ? moves + 1 : 0;
	} else {
		clusters = height >= 14 && !v->is_hiding_clusters ? (int)d->n_clusters + 1 : 0;
		if (clusters > height / 3)
			clusters = height / 3;
		moves = moves && height >= 18 && !v->is_hiding_moves ? moves + 1 : 0;
		if (moves > height / 6)
			moves = height / 6;
	}
	if (clusters >= 2) {
		y++;
		y += draw_clusters(out, d, v, y, clusters);
	}
	if (height >= 14)
		y++;
	end = height - (v->is_batch ? 0 : 1);
	rows = (int)d->n_ranks + 1 < end - y - (moves ? moves + 1 : 0) ? (int)d->n_ranks + 1 : end - y - (moves ? moves + 1 : 0);
	draw_ranks(out, d, v, y, rows < 2 ? 2 : rows);
	y += (rows < 2 ? 2 : rows) + 1;
	if (moves) /* few ranks: more of the moves */
		draw_moves(out, d, v, y, end - y);
	if (!v->is_batch)
		draw_keys(out, v, height - 1);
	return 0;
}

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
