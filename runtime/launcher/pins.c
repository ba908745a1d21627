/* SPDX-License-Identifier: BSD-2-Clause */
/* Ranks that are pinned: they stay where they are until they are let go. The head keeps it, so it survives everything. */
#include <ctype.h>
#include <stdlib.h>

#include "runtime/launcher/head.h"

/* "all", or numbers and stretches: "0,3-5" */
int pins_parse(struct head *h, const char *text, struct gw_error *why)
{
	const char *p = text;

	if (strcmp(text, "all") == 0) {
		for (uint32_t r = 0; r < h->size; r++)
			h->ranks[r].is_pinned = true;
		return 0;
	}
	do {
		unsigned long first, last;
		char *end;

		if (!isdigit((unsigned char)*p))
			return gw_fail(why, -EINVAL, "-pin %s: '%s' is not a rank; name ranks such as 0,3-5, or 'all'", text, p);
		first = last = strtoul(p, &end, 10);
		if (*end == '-' && isdigit((unsigned char)end[1]))
			last = strtoul(end + 1, &end, 10);
		if ((*end && *end != ',') || last < first)
			return gw_fail(why, -EINVAL, "-pin %s: '%s' is not a rank; name ranks such as 0,3-5, or 'all'", text, p);
		if (last >= h->size)
			return gw_fail(why, -EINVAL, "-pin %s: there is no rank %lu: the job has ranks 0 to %u", text, last, h->size - 1);
		for (; first <= last; first++)
			h->ranks[first].is_pinned = true;
		p = end + (*end == ',');
	} while (*p);
	return 0;
}

/* Why a pinned rank does not move. */
int pins_refuse(const struct head *h, uint32_t rank, struct gw_error *why)
{
	if (!h->ranks[rank].is_pinned)
		return 0;
	return gw_fail(why, -EPERM, "it is pinned to cluster %u; let it go with 'godwit unpin %u'",
	               h->ranks[rank].cluster, rank);
}

/* All of the request or nothing. Return the answer; NULL with @why when it is wrong. */
json_t *pins_request(struct head *h, json_t *msg, struct gw_error *why)
{
	json_t *ranks = json_object_get(msg, "ranks"), *pinned = json_object_get(msg, "pinned"), *changed;

	if (!json_is_array(ranks) || !json_is_boolean(pinned)) {
		gw_fail(why, -EPROTO, "the request is malformed");
		return NULL;
	}
	for (size_t i = 0; i < json_array_size(ranks); i++) {
		json_int_t rank = json_integer_value(json_array_get(ranks, i));

		if (!json_is_integer(json_array_get(ranks, i)) || rank < 0 || rank >= (json_int_t)h->size) {
			gw_fail(why, -ENOENT, "there is no rank %lld: the job has ranks 0 to %u", (long long)rank, h->size - 1);
			return NULL;
		}
	}
	changed = json_array();
	for (size_t i = 0; i < json_array_size(ranks); i++) {
		struct rank *r = &h->ranks[json_integer_value(json_array_get(ranks, i))];

		if (r->is_pinned != json_is_true(pinned))
			json_array_append(changed, json_array_get(ranks, i));
		r->is_pinned = json_is_true(pinned);
	}
	return json_pack("{s:s, s:O, s:O, s:o}", "op", "pinned", "ranks", ranks, "pinned", pinned, "changed", changed);
}

/* What status says of it. */
void pins_describe(const struct head *h, uint32_t rank, json_t *status)
{
	json_t *movable = json_object_get(status, "movable");
	struct gw_error why = { 0 };

	json_object_set_new(status, "pinned", json_boolean(h->ranks[rank].is_pinned));
	if (!movable || pins_refuse(h, rank, &why) == 0)
		return;
	json_object_set_new(movable, "state", json_string("no"));
	json_array_append_new(json_object_get(movable, "reasons"), json_pack("{s:s, s:i, s:s}", "kind", "pin", "number",
	                      (int)rank, "text", why.text));
}
