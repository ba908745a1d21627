/* SPDX-License-Identifier: BSD-2-Clause */
/* The ranks on a page of godwit top: sorted, filtered, in as many columns as there is room for. */
#include "runtime/control/top_pen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAR_LEAST 8
#define BAR_MOST  24

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
		int n = pen_letters(d->ranks[r].host), state = pen_letters(d->ranks[r].state);

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
			pen_say(p, "  ");
		is_first = false;
		p->style = style;
		snprintf(text, sizeof(text), "%s%s", columns[c].title, style == TOP_SORTED ? (is_down ? "\u25be" : "\u25b4") : "");
		if (c == TOP_LOAD && t->bar)
			pen_say_in(p, t->bar + 1 + t->width[c], false, text);
		else
			pen_say_in(p, t->width[c], columns[c].is_right, text);
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
			pen_bar(p, t->bar, r->has_ended ? 0 : r->load, r->has_ended ? 0 : r->waits, 0);
			pen_say(p, " ");
		}
		pen_percent(p, w, r->has_ended ? TOP_UNKNOWN : r->load);
		return;
	case TOP_WAITS:
		pen_percent(p, w, r->has_ended ? TOP_UNKNOWN : r->waits);
		return;
	case TOP_OUT: pen_amount(r->out_s, text, sizeof(text)); break;
	case TOP_IN: pen_amount(r->in_s, text, sizeof(text)); break;
	case TOP_PEER:
		if (r->peer_s < 0)
			snprintf(text, sizeof(text), "\u2013");
		else
			snprintf(text, sizeof(text), "%u (%s)", r->peer, pen_amount(r->peer_s, a, sizeof(a)));
		break;
	case TOP_MEMORY: pen_memory(r->memory, text, sizeof(text)); break;
	case TOP_MOVES: snprintf(text, sizeof(text), "%u", r->moves); break;
	case TOP_PAUSE: pen_duration(r->down_s, text, sizeof(text)); break;
	default: return;
	}
	pen_say_in(p, w, columns[c].is_right, text);
}

static void draw_rank(struct pen *p, const struct table *t, const struct top_rank *r, const struct top_view *v)
{
	enum top_style base = r->has_ended ? TOP_DIM : TOP_NORMAL;
	bool is_first = true;

	p->is_selected = !v->is_batch && v->has_selected && v->selected == r->rank;
	if (p->is_selected) { /* the whole line is */
		p->style = base;
		while (p->x < p->page->width)
			pen_put(p, ' ');
		p->x = 0;
	}
	for (int c = 0; c < TOP_COLUMNS; c++) {
		if (!t->is_on[c])
			continue;
		p->style = base;
		if (!is_first)
			pen_say(p, "  ");
		is_first = false;
		draw_field(p, t, r, (enum top_column)c);
	}
}

void top_draw_ranks(struct top_page *page, const struct top_data *d, struct top_view *v, int y, int n_rows)
{
	uint32_t *order = calloc(d->n_ranks + 1, sizeof(*order)), n;
	struct table t = fit(d, page->width);
	struct pen p = pen_line(page, v, y, TOP_HEAD);
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
		p = pen_line(page, v, y + 1 + i, TOP_NORMAL);
		draw_rank(&p, &t, &d->ranks[order[v->first + i]], v);
	}
	if (n == 0 && rows > 0) {
		p = pen_line(page, v, y + 1, TOP_DIM);
		pen_sayf(&p, "  no rank matches '%s'", v->filter);
	}
	free(order);
}
