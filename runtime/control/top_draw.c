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
#include "runtime/control/top_pen.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAR_LEAST 8
#define ROWS_MOST 100000 /* of a page without a height */

/* ---- the other parts ---------------------------------------------------------------------------------------------------- */

static void draw_title(struct top_page *page, const struct top_data *d, const struct top_view *v)
{
	struct pen p = pen_line(page, v, 0, TOP_TITLE);
	const char *program = strrchr(d->program, '/') ? strrchr(d->program, '/') + 1 : d->program;
	char age[32], now[32], right[128];
	int width;

	snprintf(right, sizeof(right), "%s %s%s%s ", v->is_paused ? "PAUSED" : d->state, pen_clock(d->age_s, age, sizeof(age)),
	         page->width >= 60 ? "  \u00b7  " : "", page->width >= 60 ? pen_time(d->at, now, sizeof(now)) : "");
	width = page->width - pen_letters(right);
	pen_say(&p, page->width >= 60 ? " godwit top  \u00b7  job " : " job ");
	pen_say(&p, d->job);
	pen_say(&p, page->width >= 60 ? "  \u00b7  " : " ");
	if (p.x < width)
		pen_say_in(&p, width - p.x - 1, false, program);
	if (p.x > width)
		return;
	p.x = width;
	pen_say(&p, right);
}

/* "Load 1.9 of 4 cores   waiting 0.3 ..." as far as there is room */
static void draw_sums(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	double load = 0, waits = 0, cores = 0, out = 0, mem = 0;
	struct pen p = pen_line(page, v, y, TOP_NORMAL);
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
	snprintf(text[n++], 64, "traffic %sB/s", pen_amount(out, a, sizeof(a)));
	snprintf(text[n++], 64, "memory %s", pen_memory(mem, a, sizeof(a)));
	for (int i = 0; i < n; i++) {
		int need = pen_letters(text[i]) + (i ? 3 : 1);

		if (p.x + need > page->width)
			continue;
		pen_say(&p, i ? "   " : " ");
		pen_say(&p, text[i]);
	}
}

static void draw_counts(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	struct pen p = pen_line(page, v, y, TOP_NORMAL);
	char a[32];

	pen_sayf(&p, " %.0f move%s", d->moved, d->moved == 1 ? "" : "s");
	if (d->failed > 0)
		pen_say_as(&p, TOP_WARN, ", %.0f not made", d->failed);
	if (d->n_moves)
		pen_say_as(&p, TOP_WARN, ", %u under way", d->n_moves);
	if (d->down_mean_s > 0)
		pen_sayf(&p, "   mean pause %s", pen_duration(d->down_mean_s, a, sizeof(a)));
}

static void draw_balance(struct top_page *page, const struct top_data *d, const struct top_view *v, int y)
{
	struct pen p = pen_line(page, v, y, TOP_NORMAL);
	const char *words = d->words;
	size_t n = strlen(d->strategy);

	if (n && strncmp(words, d->strategy, n) == 0 && words[n] == ':')
		words += n + 2;
	pen_sayf(&p, " balance %s", d->strategy[0] ? d->strategy : "off");
	if (d->every_s > 0)
		pen_sayf(&p, " every %.0f s", d->every_s);
	if (words[0] && p.x + 10 < page->width) {
		pen_say(&p, ": ");
		pen_say_in(&p, page->width - p.x, false, words);
	}
}

static int draw_clusters(struct top_page *page, const struct top_data *d, const struct top_view *v, int y, int rows)
{
	int host = d->n_hosts > 1 || page->width >= 80 ? 8 : 0, barred, n = (int)d->n_clusters, shown = n <= rows - 1 ? n : rows - 2;
	struct pen p = pen_line(page, v, y, TOP_HEAD);
	char a[32];

	for (int c = 0; c < n && host; c++) {
		int len = pen_letters(d->clusters[c].hostname);

		host = len > host ? len : host;
	}
	host = host > 20 ? 20 : host;
	barred = page->width - (7 + 2 + (host ? host + 2 : 0) + 8 + 2 + 5 + 2 + 6 + 2 + 6 + 2 + 5 + 2 + 8);
	barred = barred > 32 ? 32 : barred < BAR_LEAST ? 0 : barred;
	pen_say(&p, "CLUSTER  ");
	if (host) {
		pen_say_in(&p, host, false, "HOST");
		pen_say(&p, "  ");
	}
	pen_say(&p, "STATE     CORES  ");
	pen_say_in(&p, barred ? barred + 6 : 5, !barred, "LOAD");
	pen_say(&p, "  OTHERS  RANKS");
	if (p.x + 10 <= page->width)
		pen_say(&p, "      FREE");
	for (int i = 0; i < shown; i++) {
		const struct top_cluster *c = &d->clusters[i];
		double cores = c->cores > 0 ? c->cores : 1;
		bool is_gone = !c->is_up;

		p = pen_line(page, v, y + 1 + i, is_gone ? TOP_DIM : TOP_NORMAL);
		pen_sayf(&p, "%7u  ", c->cluster);
		if (host) {
			pen_say_in(&p, host, false, c->hostname);
			pen_say(&p, "  ");
		}
		p.style = strcmp(c->state, "up") == 0 ? TOP_GOOD : strcmp(c->state, "lost") == 0 ? TOP_BAD : c->is_up ? TOP_WARN : TOP_DIM;
		pen_say_in(&p, 8, false, c->state);
		p.style = is_gone ? TOP_DIM : TOP_NORMAL;
		pen_sayf(&p, "  %5.0f  ", c->cores);
		if (barred) {
			pen_bar(&p, barred, c->load / cores, c->waits / cores, c->others / cores);
			pen_say(&p, " ");
		}
		pen_percent(&p, 5, is_gone ? TOP_UNKNOWN : c->load / cores);
		pen_say(&p, "  ");
		pen_percent(&p, 6, is_gone || c->others < 0 ? TOP_UNKNOWN : c->others / cores);
		pen_sayf(&p, "  %5u", c->ranks);
		if (p.x + 10 <= page->width) {
			pen_say(&p, "  ");
			pen_say_in(&p, 8, true, pen_memory(is_gone ? TOP_UNKNOWN : c->room, a, sizeof(a)));
		}
	}
	if (shown < n) {
		double load = 0, cores = 0;

		for (int i = shown; i < n; i++) {
			load += d->clusters[i].load;
			cores += d->clusters[i].is_up ? d->clusters[i].cores : 0;
		}
		p = pen_line(page, v, y + 1 + shown, TOP_DIM);
		pen_sayf(&p, "    ... and %d more: load %.2f of %.0f cores", n - shown, load, cores);
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
	pen_say_in(p, fields[i].width, fields[i].is_right, text);
}

static struct pen move_line(struct top_page *page, const struct top_view *v, int y, enum top_style style, const char *when, uint32_t rank,
                            uint32_t from, uint32_t to)
{
	struct pen p = pen_line(page, v, y, style);
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
	struct pen p = pen_line(page, v, y, TOP_HEAD);
	int at = y + 1;
	char text[64];

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		field(&p, i, TOP_HEAD, fields[i].title);
	for (uint32_t i = 0; i < d->n_moves && at < y + rows; i++) {
		const struct top_move *m = &d->moves[i];

		p = move_line(page, v, at++, TOP_WARN, "now", m->rank, m->from, m->to);
		field(&p, IN_TECHNIQUE, TOP_WARN, m->technique[0] ? m->technique : "");
		p.x = fields[IN_PAUSE].x;
		pen_say_in(&p, 18, false, m->doing);
		field(&p, IN_TOTAL, TOP_WARN, pen_duration(m->age_s, text, sizeof(text)));
		field(&p, IN_SENT, TOP_WARN, pen_memory(m->bytes, text, sizeof(text)));
	}
	for (uint32_t i = 0; i < d->n_done && at < y + rows; i++) {
		const struct top_done *m = &d->done[i];

		pen_time(m->time, text, sizeof(text));
		p = move_line(page, v, at++, m->is_failed ? TOP_BAD : TOP_NORMAL, text, m->rank, m->from, m->to);
		if (m->is_failed) {
			p.x = fields[IN_TECHNIQUE].x;
			pen_say_in(&p, page->width - p.x, false, m->text);
			continue;
		}
		field(&p, IN_TECHNIQUE, TOP_NORMAL, m->technique);
		field(&p, IN_PAUSE, TOP_BOLD, pen_duration(m->down_s, text, sizeof(text)));
		field(&p, IN_EXPECTED, TOP_DIM, pen_duration(m->predicted_s, text, sizeof(text)));
		field(&p, IN_TOTAL, TOP_NORMAL, pen_duration(m->total_s, text, sizeof(text)));
		field(&p, IN_SENT, TOP_NORMAL, pen_memory(m->bytes, text, sizeof(text)));
	}
}

static void draw_keys(struct top_page *page, struct top_view *v, int y)
{
	static const struct { const char *key, *words; } keys[] = {
		{ "q", "quit" }, { "h", "help" }, { "< >", "sort" }, { "r", "reverse" }, { "f", "filter" }, { "m", "move" }, { "p", "pin" },
		{ "b", "balance" }, { "d", "delay" }, { "space", "pause" },
	};
	struct pen p = pen_line(page, v, y, TOP_NORMAL);

	page->cursor = -1;
	if (v->prompt[0]) {
		pen_say_as(&p, TOP_BOLD, " %s ", v->prompt);
		pen_say(&p, v->typed);
		page->cursor = p.x < page->width ? p.x : page->width - 1;
		return;
	}
	if (v->message[0]) {
		p.style = v->is_message_bad ? TOP_BAD : TOP_BOLD;
		pen_say(&p, " ");
		pen_say_in(&p, page->width - 1, false, v->message);
		return;
	}
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (p.x + 3 + pen_letters(keys[i].key) + pen_letters(keys[i].words) > page->width)
			break;
		pen_say(&p, " ");
		pen_say_as(&p, TOP_KEY, "%s", keys[i].key);
		pen_sayf(&p, " %s ", keys[i].words);
	}
	if (v->filter[0] && p.x + pen_letters(v->filter) + 12 < page->width) {
		p.x = page->width - pen_letters(v->filter) - 10;
		pen_say_as(&p, TOP_WARN, "filter: %s", v->filter);
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
		p = pen_line(page, v, 2 + (int)i, TOP_NORMAL);
		if (words[i][0] == '*') {
			pen_say_as(&p, TOP_BOLD, " %s", words[i] + 1);
			continue;
		}
		if (words[i][0])
			pen_sayf(&p, "   %s", words[i] + 1);
		if (words[i][0] == '#' && p.x + 10 < page->width) {
			pen_say(&p, "   ");
			pen_bar(&p, 6, 0.5, 0.5, 0);
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
		pen_line(out, v, i, TOP_NORMAL);
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
	top_draw_ranks(out, d, v, y, rows < 2 ? 2 : rows);
	y += (rows < 2 ? 2 : rows) + 1;
	if (moves) /* few ranks: more of the moves */
		draw_moves(out, d, v, y, end - y);
	if (!v->is_batch)
		draw_keys(out, v, height - 1);
	return 0;
}
