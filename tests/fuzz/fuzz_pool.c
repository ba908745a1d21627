/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What keepers of a pool say to each other, a line each: a letter for who says it, then JSON. The keeper leads, follows or seeks, by
 * the first letter. They have proved the pool's secret; but what they say may be damaged, or of another release.
 */
#include "runtime/pool/inner.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static uint32_t counter;

static void do_send(void *ctx, const struct pool_member *to, json_t *msg) { (void)ctx; (void)to; json_decref(msg); }
static void do_close(void *ctx, uint32_t id) { (void)ctx; (void)id; }
static void do_start(void *ctx, const struct pool_claim *c, const json_t *how) { (void)ctx; (void)c; (void)how; }
static void do_stop(void *ctx, uint32_t job) { (void)ctx; (void)job; }
static void do_tell(void *ctx, uint32_t job, json_t *msg) { (void)ctx; (void)job; json_decref(msg); }
static void do_over(void *ctx, const char *why) { (void)ctx; (void)why; }
static uint32_t do_random(void *ctx) { (void)ctx; return ++counter; }

static const struct pool_ops ops = { .send = do_send, .close = do_close, .start = do_start, .stop = do_stop, .tell = do_tell,
	                             .over = do_over, .random = do_random };

static void hear(struct pool *p, uint32_t id, const char *text, size_t len)
{
	json_t *msg = json_loadb(text, len, 0, NULL);
	struct pool_member from = { .id = id, .host = "host" };

	if (json_is_object(msg))
		pool_message(p, &from, msg);
	json_decref(msg);
}

static void say(struct pool *p, uint32_t id, const char *text) { hear(p, id, text, strlen(text)); }

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct pool_member me = { .id = 2, .host = "b", .address = "1", .port = 1, .slots = 3 };
	struct pool p;
	json_t *members = json_loads("[{\"id\":1,\"host\":\"a\",\"address\":\"0\",\"port\":1,\"slots\":2},{\"id\":2,\"host\":\"b\",\"address\":\"1\","
	                             "\"port\":1,\"slots\":3},{\"id\":3,\"host\":\"c\",\"address\":\"2\",\"port\":1,\"slots\":2}]", 0, NULL);

	counter = 0;
	pool_init(&p, &me, &ops, NULL);
	pool_found(&p, members);
	if (len && bytes[0] == 'l') { /* it leads */
		pool_lost(&p, 1);
		say(&p, 3, "{\"op\":\"join\",\"member\":{\"id\":3,\"host\":\"c\",\"address\":\"2\",\"port\":1,\"slots\":2},\"claims\":[],\"jobs\":[],"
		    "\"term\":0}");
	} else if (len && bytes[0] == 'f') {
		json_t *list = json_pack("{s:s, s:i, s:O, s:[]}", "op", "list", "term", 9, "members", members, "jobs");
		struct pool_member from = { .id = 1 };

		pool_message(&p, &from, list);
		json_decref(list);
		pool_ask(&p, 77, 77, 2, "x");
	}
	json_decref(members);
	for (size_t at = len ? 1 : 0; at < len;) {
		const uint8_t *end = memchr(bytes + at, '\n', len - at);
		size_t n = end ? (size_t)(end - (bytes + at)) : len - at;

		if (n == 1 && bytes[at] == 't')
			pool_tick(&p);
		else if (n > 1 && bytes[at] >= '0' && bytes[at] <= '9')
			hear(&p, bytes[at] - '0', (const char *)bytes + at + 1, n - 1);
		at += n + 1;
	}
	pool_fini(&p);
	return 0;
}
