/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What ranks ask for themselves (godwit.h): to be moved, to be pinned. A wish has a number; one that is repeated after a move gets the
 * same answer again, when there is one.
 */
#include <ctype.h>
#include <stdlib.h>

#include "runtime/launcher/head.h"

static void give_answer(struct head *h, uint32_t rank)
{
	const struct rank_wish *w = &h->ranks[rank].wish;

	job_cluster_send(h, h->ranks[rank].cluster, json_pack("{s:s, s:i, s:I, s:i, s:o}", "op", "wished", "rank", (int)rank, "id",
	                                                      (json_int_t)w->id, "status", w->status, "text", gw_event_text(w->text)));
}

void wishes_answer(struct head *h, uint32_t rank, int status, const char *text)
{
	struct rank_wish *w = &h->ranks[rank].wish;

	w->is_due = false;
	w->status = status;
	snprintf(w->text, sizeof(w->text), "%.199s", text);
	give_answer(h, rank);
}

/* ---- to be moved -------------------------------------------------------------------------------------------------- */

/* Who uses the processors of @cluster: ranks that are there, and that are on their way there. */
static uint32_t crowd(const struct head *h, uint32_t cluster)
{
	uint32_t domain = h->clusters[cluster].cores.domain, n = 0;

	for (uint32_t r = 0; r < h->size; r++)
		n += h->ranks[r].state == RANK_RUNNING && h->clusters[h->ranks[r].cluster].cores.domain == domain;
	gw_list_for(e, &h->moves)
		n += h->clusters[gw_list_entry(e, struct move, node)->to].cores.domain == domain;
	return n;
}

static double cores(const struct head *h, uint32_t cluster)
{
	return h->clusters[cluster].cores.cores ? h->clusters[cluster].cores.cores : 1;
}

/* Where the fewest ranks would share a processor with it; its own cluster when that is nowhere better. */
static uint32_t anywhere(const struct head *h, uint32_t rank)
{
	uint32_t best = h->ranks[rank].cluster;
	double least = crowd(h, best) / cores(h, best);

	for (uint32_t c = 0; c < h->n_clusters; c++) {
		double n;

		if (!moves_suits(h, c) || h->clusters[c].cores.domain == h->clusters[h->ranks[rank].cluster].cores.domain)
			continue;
		n = (crowd(h, c) + 1) / cores(h, c);
		if (n < least) {
			least = n;
			best = c;
		}
	}
	return best;
}

static void on_moved(void *ctx, const struct move *m, int status, const char *text, json_t *measures)
{
	(void)measures;
	wishes_answer(ctx, m->rank, status, text);
}

static void move(struct head *h, uint32_t rank, const char *where, json_int_t timeout_ms)
{
	struct gw_error why = { 0 };
	json_int_t to = h->ranks[rank].cluster;
	char *end = NULL;
	int code;

	if (where[0] == '\0') {
		to = anywhere(h, rank);
		code = to == (json_int_t)h->ranks[rank].cluster ? gw_fail(&why, -EALREADY, "nowhere are processors shared by fewer ranks") : 0;
	} else if (isdigit((unsigned char)where[0]) && (to = strtoll(where, &end, 10)) >= 0 && *end == '\0') {
		code = moves_allow_to(h, to, &why);
	} else {
		code = moves_allow_host(h, where, &why);
		if (code == 0)
			code = moves_choose(h, rank, where, &to, &why);
	}
	if (code == 0)
		code = moves_begin(h, rank, (uint32_t)to, timeout_ms, NULL, "rank", on_moved, h, &why);
	if (code < 0)
		wishes_answer(h, rank, code, why.text);
}

/* ---- all of them ---------------------------------------------------------------------------------------------------- */

void wishes_heard(struct head *h, uint32_t rank, json_t *msg)
{
	const char *what = json_string_value(json_object_get(msg, "what")), *where = json_string_value(json_object_get(msg, "where"));
	json_int_t id = json_integer_value(json_object_get(msg, "id"));
	struct rank *r = &h->ranks[rank];

	if ((uint64_t)id == r->wish.id) {
		if (!r->wish.is_due)
			give_answer(h, rank);
		return;
	}
	r->wish.id = (uint64_t)id;
	r->wish.is_due = true;
	r->wish.is_pin = what && strcmp(what, "pin") == 0;
	if (r->wish.is_pin) {
		r->is_pinned = true;
		if (moves_of(h, rank))
			moves_take_back_rank(h, rank);
		wishes_check(h);
	} else if (what && strcmp(what, "unpin") == 0) {
		r->is_pinned = false;
		wishes_answer(h, rank, 0, "");
	} else if (what && strcmp(what, "meet") == 0) {
		guests_meet(h, rank, where ? where : "");
	} else {
		move(h, rank, where ? where : "", json_integer_value(json_object_get(msg, "timeout_ms")));
	}
}

/* Who asks to be pinned is told when no move of it is under way any more: then it can rely on it. */
void wishes_check(struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].wish.is_due && h->ranks[r].wish.is_pin && !moves_of(h, r))
			wishes_answer(h, r, 0, "");
}
