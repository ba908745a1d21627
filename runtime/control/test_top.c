/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit top, without a terminal and without a job: figures from made answers, pages from made figures. */
#include "runtime/control/top.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tap.h"

#define SECOND 1000000000ll

/* 8 ranks, 4 a cluster; a rank computes (rank + 1) tenths of a core and waits a twentieth; the rest of cluster 1 is another's. @s: seconds
 * since the job began */
static json_t *answer(long long s)
{
	json_t *ranks = json_array(), *clusters = json_array(), *all;

	for (int r = 0; r < 8; r++)
		json_array_append_new(ranks, json_pack("{s:i, s:i, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:[[i, I, i], [i, I, i]]}", "rank", r,
			"cluster", r / 4, "epoch", 0, "hostname", r / 4 ? "there" : "here", "state", r == 5 ? "moving" : "MPI", "cpu_ns",
			(json_int_t)(s * SECOND * (r + 1) / 10 + s * SECOND / 20), "waited_ns", (json_int_t)(s * SECOND / 20), "memory",
			(json_int_t)(r + 1) << 20, "sent_bytes", (json_int_t)(s * 1000000 * r), "received_bytes", (json_int_t)0, "moves", r == 3, "traffic_ns",
			(json_int_t)(s * SECOND), "traffic", r == 1 ? 2 : 1, (json_int_t)(s * 1000), 1, 7, (json_int_t)(s * (r == 3 ? 50000 : 10)), 1));
	for (int c = 0; c < 2; c++)
		json_array_append_new(clusters, json_pack("{s:i, s:i, s:s, s:s, s:[i, i], s:i, s:i, s:b, s:I, s:I, s:I}", "cluster", c, "host", c, "hostname",
			c ? "there" : "here", "state", "up", "cores", 2 * c, 2 * c + 1, "domain", c, "ranks", 4, "drained", c, "busy_ns",
			(json_int_t)(c ? 2 * s * SECOND : 12 * s * SECOND / 10), "now_ns", (json_int_t)((s + 77 * c) * SECOND), "room", (json_int_t)1 << 34));
	all = json_pack("{s:{s:s, s:s, s:s, s:I}, s:o, s:o, s:[{s:i, s:s, s:s, s:s, s:i, s:I}]}", "job", "id", "3fa85f64", "program", "./bin/wave",
		"state", "running", "age_ms", (json_int_t)(s * 1000), "ranks", ranks, "clusters", clusters, "sessions", "rank", 5, "side", "source",
		"state", "precopy", "technique", "pre-copy", "round", 3, "bytes", (json_int_t)410 << 20);
	json_object_set_new(all, "moves", json_pack("{s:i, s:i, s:{s:i, s:f}, s:[{s:i, s:i, s:i, s:i, s:f}], s:[{s:i, s:i, s:i, s:i, s:s, s:s, s:I, s:I, "
		"s:I, s:I, s:f}]}", "moved", 1, "failed", 0, "downtime", "count", 1, "sum_s", 0.0031, "under_way", "rank", 5, "from", 1, "to", 0, "age_ms",
		400, "predicted_ms", 5.0, "last", "rank", 3, "from", 1, "to", 0, "status", 0, "text", "", "technique", "stop-and-copy", "downtime_ns",
		(json_int_t)3100000, "predicted_ns", (json_int_t)3400000, "total_ns", (json_int_t)52000000, "bytes", (json_int_t)1200000, "time", 1.8e9));
	json_object_set_new(all, "balance", json_pack("{s:s, s:i, s:s}", "strategy", "refine", "every_ms", 5000, "words",
		"refine: no move: the gain would be too small"));
	return all;
}

static struct top_data figures(void)
{
	json_t *a = answer(10), *b = answer(12);
	struct top_data d;

	if (top_data_make(&d, a, b) < 0)
		exit(1);
	d.at = 1.8e9;
	json_decref(a);
	json_decref(b);
	return d;
}

/* All of a page, its lines joined. Heap */
static char *drawn(const struct top_data *d, struct top_view *v, int height, int width)
{
	struct top_page page;
	char *all;
	size_t n = 0;

	if (top_draw(&page, d, v, height, width) < 0)
		exit(1);
	all = calloc((size_t)page.height * (size_t)page.width * 3 + (size_t)page.height + 1, 1);
	for (int y = 0; y < page.height; y++) {
		char *line = top_page_line(&page, y);

		n += (size_t)sprintf(all + n, "%s\n", line);
		free(line);
	}
	top_page_fini(&page);
	return all;
}

static bool has(const struct top_data *d, struct top_view *v, int height, int width, const char *first, ...)
{
	char *all = drawn(d, v, height, width);
	bool good = true;
	va_list ap;

	va_start(ap, first);
	for (const char *text = first; text; text = va_arg(ap, const char *))
		if (!strstr(all, text)) {
			diag("'%s' is not on the page:\n%s", text, all);
			good = false;
		}
	va_end(ap);
	free(all);
	return good;
}

static void test_data(void)
{
	struct top_data d = figures();
	json_t *now = answer(12), *nothing = json_object();
	struct top_data first;

	ok(fabs(d.ranks[3].load - 0.4) < 1e-6 && fabs(d.ranks[3].waits - 0.05) < 1e-6, "load is what the counter grew by, waiting not counted");
	ok(fabs(d.ranks[3].out_s - 3e6) < 1 && fabs(d.ranks[3].in_s) < 1, "and so are bytes a second");
	ok(d.ranks[3].peer == 7 && fabs(d.ranks[3].peer_s - 50000) < 1 && d.ranks[1].peer == 2, "the heaviest peer is found");
	ok(fabs(d.clusters[0].load - 1.0) < 1e-6 && fabs(d.clusters[0].others - 0) < 1e-6, "a cluster's load is that of its ranks");
	ok(fabs(d.clusters[1].load - 2.6) < 1e-6 && d.clusters[1].others == 0, "which may be more than its processors were busy");
	ok(d.ranks[3].down_s > 0.003 && d.ranks[0].down_s < 0 && d.ranks[5].is_moving, "its last pause; none of a rank that has not moved");
	is_str(d.moves[0].doing, "runs, round 3", "a move under way is told in words");
	ok(top_data_make(&first, NULL, now) == 0 && first.ranks[2].out_s < 0 && first.ranks[2].load < 0, "one answer gives no rates");
	top_data_fini(&first);
	ok(top_data_make(&first, NULL, nothing) == -EPROTO, "something else is refused");
	json_decref(now);
	json_decref(nothing);
	top_data_fini(&d);
}

static void test_pages(void)
{
	struct top_data d = figures();
	struct top_view v = { .is_utf8 = true };
	char *page;
	int y = 0;
	bool fits = true;

	ok(has(&d, &v, 30, 120, "job 3fa85f64", "wave", "running 0:12", "8 ranks", "load 3.60 of 4 cores", "1 move, 1 under way", "mean pause 3.1 ms",
	       "balance refine every 5 s: no move", "drained", "q quit", NULL), "a page says what the job does");
	ok(has(&d, &v, 30, 120, "RANK\u25b4", "\u2588\u2591", "2 (1.0K)", "7 (50K)", "\n    7 ", NULL), "with a line for each rank");
	ok(has(&d, &v, 30, 120, "5     1 \u2192 0   pre-copy", "runs, round 3", "410M", "3     1 \u2192 0   stop-and-copy", "3.1 ms", "3.4 ms", "52 ms", NULL),
	   "moves under way, and one that is over beside what was expected");
	for (int h = 3; h < 60; h++)
		for (int w = 20; w < 200; w += 7) {
			page = drawn(&d, &v, h, w);
			y = 0;
			for (const char *at = page; *at; at++)
				y += *at == '\n';
			fits &= y == h;
			free(page);
		}
	ok(fits, "pages of 3 to 59 lines and 20 to 199 columns are as large as they should be");
	ok(has(&d, &v, 10, 40, "job 3fa85f64 wave", "running 0:12", "RANK\u25b4", "LOAD", "60%", "q quit", NULL), "40 columns and 10 lines are enough for what matters");
	v.is_utf8 = false;
	page = drawn(&d, &v, 40, 160);
	for (const char *at = page; *at; at++)
		fits &= (unsigned char)*at < 0x80;
	ok(fits && strstr(page, "RANK^") && strstr(page, "1 > 0"), "without UTF-8 all letters are ASCII");
	free(page);
	v.is_batch = true;
	ok(has(&d, &v, 0, 100, "MEMORY", "\n    7 ", "TECHNIQUE", NULL), "a printed page is as long as it needs to be");
	v.is_batch = false;
	v.is_helping = true;
	ok(has(&d, &v, 24, 80, "Keys", "quit; the job goes on", "What is shown", NULL), "keys are explained");
	top_data_fini(&d);
}

static bool is_order(const struct top_data *d, const struct top_view *v, const char *want)
{
	uint32_t order[8], n = top_order(order, d, v);
	char text[64] = "";

	for (uint32_t i = 0; i < n; i++)
		sprintf(text + strlen(text), "%u", d->ranks[order[i]].rank);
	if (strcmp(text, want) != 0)
		diag("%s instead of %s", text, want);
	return strcmp(text, want) == 0;
}

static void test_order(void)
{
	struct top_data d = figures();
	struct top_view v = { .is_utf8 = true };
	char *page;

	ok(is_order(&d, &v, "01234567"), "ranks are in the order of their numbers");
	v.sort = TOP_LOAD;
	ok(is_order(&d, &v, "76543210"), "or the busiest is first");
	v.is_reversed = true;
	ok(is_order(&d, &v, "01234567"), "or last");
	v = (struct top_view){ .is_utf8 = true, .sort = TOP_CLUSTER, .filter = "CLUSTER 1" };
	ok(is_order(&d, &v, "4567"), "a filter passes those of a cluster");
	strcpy(v.filter, "moving");
	ok(is_order(&d, &v, "5"), "or those in a state");
	strcpy(v.filter, "nobody");
	ok(is_order(&d, &v, "") && has(&d, &v, 24, 80, "no rank matches 'nobody'", NULL), "or none, and that is said");
	v.filter[0] = '\0';
	top_move_selection(&v, &d, 1);
	ok(v.has_selected && v.selected == 0, "the first rank is chosen first");
	top_move_selection(&v, &d, 100);
	ok(v.selected == 7, "and there is an end");
	page = drawn(&d, &v, 10, 60);
	ok(v.first == 2 && strstr(page, "\n    7 ") && !strstr(page, "\n    1 "), "a low page goes to the rank that is chosen");
	free(page);
	top_data_fini(&d);
}

int main(void)
{
	test_data();
	test_pages();
	test_order();
	return tap_done();
}
