/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Processes of other jobs that ranks of this one talk to: the head says under which numbers (runtime/launcher/guests.c), and this
 * host's segment gets them (noc/guests.c). Where they live comes as the names of any other host's ranks do.
 */
#include "runtime/clusterd/clusterd.h"

#include <sodium.h>

static int read_friend(const struct clusterd *d, const json_t *msg, json_int_t *index, struct noc_friend *with)
{
	const char *secret = NULL, *sealed = NULL;
	json_int_t job, there;
	int code = json_unpack((json_t *)(uintptr_t)msg, "{s:I, s:I, s:I, s?s, s?s}", "index", index, "job", &job, "index_there", &there,
	                       "secret", &secret, "sealed", &sealed);

	if (code < 0 || *index < 0 || there < 0 || there >= NOC_FRIENDS_MAX || !(secret || sealed))
		return -EPROTO;
	code = secret ? gw_trust_secret_parse(with->secret, secret) : gw_trust_secret_unseal(with->secret, sealed, d->join.secret);
	if (code < 0)
		return code;
	with->job = (uint32_t)job;
	with->index_there = (uint16_t)there;
	return 0;
}

void guests_heard(struct clusterd *d, const json_t *msg)
{
	const json_t *guests = json_object_get(msg, "guests");
	struct noc_friend with = { 0 };
	json_int_t index;
	int code = read_friend(d, msg, &index, &with);

	if (code == 0)
		code = noc_guests_befriend(&d->segment, (uint32_t)index, &with);
	sodium_memzero(&with, sizeof(with));
	for (size_t i = 0; i < json_array_size(guests) && code == 0; i++) {
		const json_t *one = json_array_get(guests, i);
		uint32_t number = (uint32_t)json_integer_value(json_array_get(one, 0));

		code = noc_guests_add(&d->segment, number, (uint32_t)index, (uint32_t)json_integer_value(json_array_get(one, 1)));
		if (code == 0 && (!d->guests_from || number < d->guests_from))
			d->guests_from = number;
	}
	if (code < 0)
		gw_log(GW_WARN, "what the head says of processes of another job cannot be written down: %s", strerror(-code));
}
