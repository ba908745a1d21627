/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matching against a model so naive that it cannot be wrong: two lists, searched from the front. Random operations
 * from a printed seed (GODWIT_TEST_SEED repeats one). With the argument "bench" it measures instead.
 */
#include "mpi-shim/match.h"

#include "container/agent.h"
#include "tests/tap.h"

#define MAX_LIVE 4096

/* ---- the model ------------------------------------------------------------------------------------------------- */

struct model_recv {
	struct shim_recv r; /* what the engine holds */
	uint32_t src;
	uint64_t tag, ignore;
	bool is_posted;
};

struct model_msg {
	struct shim_unexp u;
	bool is_kept;
};

static struct model_recv *recvs[MAX_LIVE]; /* in order of posting */
static struct model_msg *msgs[MAX_LIVE];   /* in order of arrival */
static size_t recv_count, msg_count;

static bool agrees(uint32_t want_src, uint64_t want, uint64_t ignore, uint32_t src, uint64_t tag)
{
	return (want_src == SHIM_ANY || want_src == src) && ((want ^ tag) & ~ignore) == 0;
}

static struct model_recv *model_arrive(uint32_t src, uint64_t tag)
{
	for (size_t i = 0; i < recv_count; i++)
		if (agrees(recvs[i]->src, recvs[i]->tag, recvs[i]->ignore, src, tag))
			return recvs[i];
	return NULL;
}

static struct model_msg *model_find(uint32_t src, uint64_t tag, uint64_t ignore)
{
	for (size_t i = 0; i < msg_count; i++)
		if (agrees(src, tag, ignore, msgs[i]->u.src, msgs[i]->u.tag))
			return msgs[i];
	return NULL;
}

static void forget_recv(struct model_recv *m)
{
	size_t i = 0;

	while (recvs[i] != m)
		i++;
	memmove(&recvs[i], &recvs[i + 1], (--recv_count - i) * sizeof(*recvs));
	free(m);
}

static void forget_msg(struct model_msg *m)
{
	size_t i = 0;

	while (msgs[i] != m)
		i++;
	memmove(&msgs[i], &msgs[i + 1], (--msg_count - i) * sizeof(*msgs));
	free(m);
}

/* ---- random operations ----------------------------------------------------------------------------------------- */

static uint64_t state;

static uint64_t rnd(uint64_t n) /* splitmix64: Steele, Lea, Flood, OOPSLA 2014 */
{
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % n;
}

struct shape {
	const char *name;
	uint32_t sources, tags, masks; /* how many different ones */
};

/* The first three are MPICH's; all of them push the engine into its overflow list. */
static const uint64_t ignores[] = {
	0x00e0000000000000, 0x00e000007fffffff, 0, 0x7fffffff, UINT64_MAX, 0xff, 0xff00, 0xf0f0f0f0, 0x1, 0x2, 0x3, 0x4,
};

static uint64_t random_tag(const struct shape *s)
{
	return (rnd(3) << 31) | rnd(s->tags) | (rnd(8) == 0 ? 1ull << 53 : 0);
}

/* @posts: of 90 operations, how many are receives and not messages: tides of both fill the queues. */
static bool one_step(struct shim_match *m, const struct shape *s, uint64_t posts)
{
	uint64_t what = rnd(100), tag = random_tag(s), ignore = ignores[rnd(s->masks)];
	uint32_t src = (uint32_t)rnd(s->sources), from = rnd(3) == 0 ? SHIM_ANY : src;

	if (what < posts && recv_count < MAX_LIVE) { /* post a receive */
		struct model_msg *expect = model_find(from, tag, ignore);
		struct model_recv *r = calloc(1, sizeof(*r));
		struct shim_unexp *got = shim_match_post(m, &r->r, from, tag, ignore);

		if (got != (expect ? &expect->u : NULL))
			return false;
		if (expect) {
			forget_msg(expect);
			free(r);
			return true;
		}
		r->src = from;
		r->tag = tag;
		r->ignore = ignore;
		recvs[recv_count++] = r;
		return r->r.link.state & SHIM_POSTED;
	}
	if (what < 90 && msg_count < MAX_LIVE) { /* a message arrives */
		struct model_recv *expect = model_arrive(src, tag);
		struct shim_recv *got = shim_match_arrive(m, src, tag);
		struct model_msg *u;

		if (got != (expect ? &expect->r : NULL))
			return false;
		if (expect) {
			bool is_posted = got->link.state & SHIM_POSTED;

			forget_recv(expect);
			return !is_posted;
		}
		u = calloc(1, sizeof(*u));
		u->u.src = src;
		u->u.tag = tag;
		msgs[msg_count++] = u;
		shim_match_keep(m, &u->u);
		return true;
	}
	if (what < 95 && recv_count) { /* cancel */
		struct model_recv *r = recvs[rnd(recv_count)];
		bool did = shim_match_cancel(m, &r->r), twice = shim_match_cancel(m, &r->r);

		forget_recv(r);
		return did && !twice;
	}
	{ /* peek, and sometimes claim */
		struct model_msg *expect = model_find(from, tag, ignore);
		struct shim_unexp *got = shim_match_peek(m, from, tag, ignore);

		if (got != (expect ? &expect->u : NULL))
			return false;
		if (got && rnd(2)) {
			shim_match_remove(m, got);
			forget_msg(expect);
		}
		return true;
	}
}

static void run(const struct shape *s, uint64_t seed, int steps)
{
	struct shim_match m;
	size_t before = ct_area_used();
	int i = 0;

	state = seed;
	shim_match_init(&m);
	while (i < steps && one_step(&m, s, i / 3000 % 2 ? 65 : 25))
		i++;
	if (!ok(i == steps, "%s: %d random operations agree with the model", s->name, steps))
		diag("operation %d of seed %llu differs", i, (unsigned long long)seed);
	ok(m.posted == recv_count && m.unexpected == msg_count, "%s: the counts agree (%zu posted, %zu unexpected)", s->name,
	   recv_count, msg_count);
	/* what is left comes out in order of arrival for a receive that takes anything */
	if (i == steps) {
		bool in_order = true;

		while (msg_count) {
			struct shim_unexp *u = shim_match_peek(&m, SHIM_ANY, 0, UINT64_MAX);

			in_order = in_order && u == &msgs[0]->u;
			if (!u)
				break;
			shim_match_remove(&m, u);
			forget_msg(msgs[0]);
		}
		ok(in_order && !m.unexpected, "%s: what is left is in order of arrival", s->name);
		while (recv_count) {
			shim_match_cancel(&m, &recvs[recv_count - 1]->r);
			forget_recv(recvs[recv_count - 1]);
		}
		ok(!m.posted && !m.posted_mask, "%s: all receives could be cancelled", s->name);
	}
	shim_match_fini(&m);
	is_int((long long)ct_area_used(), (long long)before, "%s: the user area got everything back", s->name);
}

/* ---- cost ------------------------------------------------------------------------------------------------------ */

static double ns_each(uint64_t start, int n)
{
	return (double)(gw_now_ns() - start) / n;
}

/* @n receives posted, each with a tag of its own (or all the same), then matched, the last one first where tags differ:
 * the worst order for a list. */
static void bench(int n, bool same)
{
	struct shim_recv *r = calloc((size_t)n, sizeof(*r));
	struct shim_unexp *u = calloc((size_t)n, sizeof(*u));
	double post = 1e9, match = 1e9, keep = 1e9, find = 1e9;

	for (int round = 0; round < 5; round++) {
		struct shim_match m;
		uint64_t t;
		double d;

		shim_match_init(&m);
		memset(r, 0, (size_t)n * sizeof(*r));
		t = gw_now_ns();
		for (int i = 0; i < n; i++)
			shim_match_post(&m, &r[i], 1, same ? 7 : (uint64_t)i, 0x00e0000000000000);
		d = ns_each(t, n);
		post = d < post ? d : post;
		t = gw_now_ns();
		for (int i = n - 1; i >= 0; i--)
			if (!shim_match_arrive(&m, 1, same ? 7 : (uint64_t)i))
				abort();
		d = ns_each(t, n);
		match = d < match ? d : match;
		for (int i = 0; i < n; i++)
			u[i] = (struct shim_unexp){ .src = 1, .tag = same ? 7 : (uint64_t)i };
		t = gw_now_ns();
		for (int i = 0; i < n; i++)
			shim_match_keep(&m, &u[i]);
		d = ns_each(t, n);
		keep = d < keep ? d : keep;
		t = gw_now_ns();
		for (int i = n - 1; i >= 0; i--)
			if (!shim_match_post(&m, &r[0], 1, same ? 7 : (uint64_t)i, 0x00e0000000000000))
				abort();
		d = ns_each(t, n);
		find = d < find ? d : find;
		shim_match_fini(&m);
	}
	printf("%7d %s: post %.1f ns, match %.1f ns, keep unexpected %.1f ns, take unexpected %.1f ns\n", n,
	       same ? "equal tags  " : "distinct tags", post, match, keep, find);
	free(r);
	free(u);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {
		{ "MPICH's classes", 8, 50, 3 },
		{ "few tags", 3, 2, 3 },
		{ "many tags", 64, 100000, 2 },
		{ "more classes than there is room for", 4, 6, 12 },
		{ "one sender, one tag", 1, 1, 2 },
	};
	const char *given = getenv("GODWIT_TEST_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)gw_realtime_ns();

	if (argc > 1 && !strcmp(argv[1], "bench")) {
		for (int n = 1; n <= 100000; n *= 10) {
			bench(n, false);
			bench(n, true);
		}
		return 0;
	}
	tap_begin(120);
	diag("seed %llu", (unsigned long long)seed);
	for (size_t i = 0; i < GW_ARRAY_LEN(shapes); i++)
		run(&shapes[i], seed + i, 200000);
	return tap_done();
}
