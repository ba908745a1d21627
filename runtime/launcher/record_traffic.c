/* SPDX-License-Identifier: BSD-2-Clause */
/* Who talks to whom, for the record: asked now and then, counted by groups of ranks, told when it has changed. */
#include "runtime/launcher/record.h"

#include <stdlib.h>

#define TRAFFIC_MAX_MS 60000

bool record_wants_traffic(struct head *h)
{
	struct record *r = h->record;
	uint64_t now = gw_now_ns();

	if (!record_is_kept(r))
		return false;
	if (r->is_asked_again) {
		r->is_asked_again = false;
		return true;
	}
	if (now < r->ask_next_ns)
		return false;
	r->is_asked_again = true;
	r->ask_next_ns = now + r->ask_ms * 1000000;
	r->ask_ms = 2 * r->ask_ms < TRAFFIC_MAX_MS ? 2 * r->ask_ms : TRAFFIC_MAX_MS;
	return true;
}

static json_int_t field(const json_t *row, size_t i)
{
	return json_integer_value(json_array_get(row, i));
}

static void count_traffic(struct record *r, uint32_t rank, const json_t *rows, const json_t *before)
{
	const struct head *h = r->head;
	uint32_t home = h->ranks[rank].cluster;
	const json_t *row;
	size_t i, k = 0;

	json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
		const json_t *old = json_array_get(before, k);
		json_int_t peer = field(row, 0), bytes = field(row, 1), messages = field(row, 2);
		uint32_t a = rank / r->per, b, there;

		if (old && field(old, 0) == peer) { /* both in the order of peers, and none goes away */
			k++;
			bytes -= field(old, 1);
			messages -= field(old, 2);
		}
		if (peer < 0 || peer >= (json_int_t)h->size || messages <= 0)
			continue;
		b = (uint32_t)peer / r->per;
		there = h->ranks[peer].cluster;
		a = a < RECORD_BLOCKS ? a : RECORD_BLOCKS - 1; /* those that were spawned are all in the last */
		b = b < RECORD_BLOCKS ? b : RECORD_BLOCKS - 1;
		r->bytes[a][b] += (double)bytes;
		r->messages[a][b] += (double)messages;
		r->near[there == home ? 0 : h->clusters[there].host == h->clusters[home].host ? 1 : 2] += (double)bytes;
		r->is_traffic_new = true;
	}
	if (r->is_traffic_new)
		record_arm(r);
}

void record_seen(struct head *h, uint32_t rank, const json_t *one)
{
	json_int_t epoch = json_integer_value(json_object_get(one, "epoch"));
	json_t *rows = json_object_get(one, "traffic");
	struct record *r = h->record;
	struct said *s = r ? &r->said[rank] : NULL;

	if (!r || !json_is_array(rows))
		return;
	if (epoch < s->epoch)
		return; /* a late word of where it was */
	count_traffic(r, rank, rows, s->rows); /* the counters travel with the rank */
	json_decref(s->rows);
	s->rows = json_incref(rows);
	s->epoch = epoch;
}

void record_traffic_tell(struct record *r, bool is_last)
{
	json_t *rows, *row;
	size_t i, size = 0;

	if (!r->is_traffic_new || !(is_last || gw_now_ns() >= r->traffics.next_ns))
		return;
	rows = json_array();
	for (uint32_t a = 0; a < RECORD_BLOCKS; a++)
		for (uint32_t b = 0; b < RECORD_BLOCKS; b++)
			if (r->messages[a][b] > 0)
				json_array_append_new(rows, json_pack("[i, i, I, I]", (int)a, (int)b, (json_int_t)r->bytes[a][b],
				                                      (json_int_t)r->messages[a][b]));
	json_array_foreach(rows, i, row)
		size += 30;
	if (record_is_due(&r->traffics, size) || is_last)
		gw_event("traffic.seen", "{s:i, s:[I, I, I], s:O}", "per", (int)r->per, "near", (json_int_t)r->near[0], (json_int_t)r->near[1],
		         (json_int_t)r->near[2], "rows", rows);
	r->is_traffic_new = false;
	json_decref(rows);
}

int record_traffic_init(struct record *r)
{
	r->per = (r->head->size + RECORD_BLOCKS - 1) / RECORD_BLOCKS;
	r->ask_ms = 1000;
	record_cadence_init(&r->traffics, 1000);
	r->bytes = calloc(RECORD_BLOCKS, sizeof(*r->bytes));
	r->messages = calloc(RECORD_BLOCKS, sizeof(*r->messages));
	r->said = calloc(r->head->room + 1, sizeof(*r->said));
	return r->bytes && r->messages && r->said ? 0 : -ENOMEM;
}

void record_traffic_fini(struct record *r)
{
	for (uint32_t i = 0; r->said && i < r->head->size; i++)
		json_decref(r->said[i].rows);
	free(r->said);
	free(r->bytes);
	free(r->messages);
}
