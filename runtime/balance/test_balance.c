/* SPDX-License-Identifier: BSD-2-Clause */
/* Strategies on snapshots that are made: plans that can be carried out, are worth it, and come near the lower bound. */
#include <glob.h>

#include "runtime/balance/made.h"
#include "runtime/balance/trend.h"
#include "tests/tap.h"

static struct bal_options options(enum bal_strategy strategy)
{
	struct bal_options o = bal_defaults;

	o.strategy = strategy;
	return o;
}

/* Can it be carried out: from where ranks are, to where they may be, nobody twice, none that is fixed? And is what it says true? */
static bool is_sound(const struct bal_plan *p, const struct bal_snapshot *s, const struct bal_options *o)
{
	uint32_t *at = malloc((s->nranks + 1) * sizeof(*at));
	double *room = malloc((s->nclusters + 1) * sizeof(*room));
	struct bal_measures after;
	bool is_good = true;

	for (uint32_t r = 0; r < s->nranks; r++)
		at[r] = s->ranks[r].cluster;
	for (uint32_t c = 0; c < s->nclusters; c++)
		room[c] = s->clusters[c].memory_bytes;
	for (uint32_t i = 0; i < p->nmoves; i++) {
		const struct bal_move *m = &p->moves[i];
		const struct bal_rank *r = &s->ranks[m->rank];

		is_good &= m->rank < s->nranks && m->to < s->nclusters && m->from == at[m->rank] && m->from != m->to && !r->is_fixed;
		is_good &= m->from == r->cluster && !s->clusters[m->to].is_closed;
		is_good &= r->rested_s >= o->rest_s || s->clusters[m->from].is_closed;
		at[m->rank] = m->to;
		room[m->to] -= r->memory_bytes;
		room[m->from] += r->memory_bytes;
	}
	for (uint32_t c = 0; c < s->nclusters; c++)
		is_good &= !(room[c] < 0);
	bal_measure(&after, s, at);
	is_good &= fabs(after.peak - p->after.peak) < 1e-9 && after.peak >= p->bound * (1 - 1e-9);
	free(at);
	free(room);
	return is_good;
}

/* Plans on it, and moves the ranks as planned. Return: moves, or -1 when the plan was not sound */
static int carry_out(struct bal_snapshot *s, const struct bal_options *o, struct bal_plan *p)
{
	struct gw_error why = { 0 };

	if (bal_plan_make(p, s, o, &why) < 0) {
		printf("# %s\n", why.text);
		return -1;
	}
	if (!is_sound(p, s, o)) {
		printf("# not sound: %s\n", p->words);
		bal_plan_fini(p);
		return -1;
	}
	for (uint32_t i = 0; i < p->nmoves; i++)
		s->ranks[p->moves[i].rank].cluster = p->moves[i].to;
	return (int)p->nmoves;
}

/* 8 ranks on two clusters of a core, the first four with three times the work: the snapshot while the first cluster sets the pace */
static struct bal_snapshot *three_to_one(void)
{
	struct bal_snapshot *s = bal_snapshot_create(8, 2, 2, 0);
	struct gw_error why;

	for (uint32_t r = 0; r < 8; r++)
		s->ranks[r] = (struct bal_rank){ .proc = r, .cluster = r / 4, .load = r < 4 ? 0.24 : 0.08, .width = 1, .move_s = 0.01,
			.memory_bytes = 1e7, .rested_s = INFINITY };
	for (uint32_t c = 0; c < 2; c++) {
		s->clusters[c] = (struct bal_cluster){ .number = c, .domain = c, .memory_bytes = INFINITY };
		s->domains[c] = (struct bal_domain){ .cores = 1, .speed = 1 };
	}
	bal_snapshot_check(s, &why);
	return s;
}

static void test_refine(void)
{
	struct bal_snapshot *s = three_to_one();
	struct bal_options o = options(BAL_REFINE);
	struct bal_plan p;

	is_int(carry_out(s, &o, &p), 4, "two of the four heavy ranks leave the full cluster, and two light ones come in exchange");
	ok(p.after.peak < 0.6401 && p.gain_s > 15, "and it is level then: %s", p.words);
	bal_plan_fini(&p);
	is_int(carry_out(s, &o, &p), 0, "a second look finds nothing to do");
	ok(strstr(p.words, "no move") != NULL, "and says so: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);

	s = three_to_one();
	for (uint32_t r = 0; r < 8; r++)
		s->ranks[r].move_s = 40;
	is_int(carry_out(s, &o, &p), 0, "moves that cost more than they gain are not made");
	bal_plan_fini(&p);
	o.horizon_s = 3600;
	ok(carry_out(s, &o, &p) > 0, "unless the job goes on for long enough");
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);

	s = three_to_one();
	o = options(BAL_REFINE);
	for (uint32_t r = 0; r < 4; r++)
		s->ranks[r].is_fixed = true;
	is_int(carry_out(s, &o, &p), 0, "where the heavy ones are pinned, nobody else is moved for nothing");
	bal_plan_fini(&p);
	for (uint32_t r = 0; r < 4; r++) {
		s->ranks[r].is_fixed = false;
		s->ranks[r].rested_s = 1;
	}
	is_int(carry_out(s, &o, &p), 0, "nor one that moved a moment ago");
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);

	s = three_to_one();
	s->clusters[1].memory_bytes = 1.5e7;
	for (uint32_t r = 4; r < 8; r++)
		s->ranks[r].is_fixed = true; /* nor can anybody make room */
	for (uint32_t r = 0; r < 4; r++)
		s->ranks[r].load = 0.1; /* of which two would leave */
	for (uint32_t r = 4; r < 8; r++)
		s->ranks[r].load = 0;
	is_int(carry_out(s, &o, &p), 1, "and no more than there is memory for");
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);

	s = three_to_one();
	for (uint32_t r = 1; r < 8; r++)
		s->ranks[r].load = 0.005;
	s->ranks[0].load = 0.97;
	is_int(carry_out(s, &o, &p), 0, "a rank that computes all the time is the pace, wherever the others are: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);
}

/* Loads that wander by a few percent must not move anybody, and after a real change ranks come to rest. */
static void test_no_swinging(void)
{
	static const enum bal_strategy all[] = { BAL_GREEDY, BAL_REFINE };

	for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
		struct bal_options o = options(all[k]);
		struct made_dice dice = { 4711 };
		struct bal_snapshot *s = three_to_one();
		double base[8];
		int moves = 0, late = 0;

		for (int i = 0; i < 200; i++) {
			struct bal_plan p;
			int n;

			for (uint32_t r = 0; r < 8; r++) {
				base[r] = r < 4 ? 0.24 : 0.08;
				s->ranks[r].load = base[r] * (0.98 + 0.04 * made_random(&dice));
			}
			n = carry_out(s, &o, &p);
			for (int m = 0; m < n; m++)
				s->ranks[p.moves[m].rank].rested_s = 0;
			for (uint32_t r = 0; r < 8; r++)
				s->ranks[r].rested_s += 5;
			bal_plan_fini(&p);
			moves += n;
			late += i >= 3 ? n : 0;
		}
		ok(moves >= 2 && moves <= 8 && late == 0, "%s: loads that differ by 4 %% from look to look move nobody (%d moves, %d of them late)",
		   bal_strategy_name(all[k]), moves, late);
		bal_snapshot_destroy(s);
	}
}

/* Eight ranks with the same work, as looks see it: some percent more or less each time. What moves in so many looks? */
static int moves_of_noise(double sure_gain, double noise, uint64_t seed)
{
	struct bal_options o = options(BAL_REFINE);
	struct bal_snapshot *s = three_to_one();
	struct made_dice dice = { seed };
	struct bal_trend trend[8] = { 0 };
	int moves = 0;

	o.horizon_s = 10;
	o.rest_s = 2;
	o.sure_gain = sure_gain;
	for (int k = 1; k <= 500; k++) {
		double fresh[8];
		struct bal_plan p;

		for (uint32_t r = 0; r < 8; r++)
			fresh[r] = 0.2 * (1 + noise * (2 * made_random(&dice) - 1));
		bal_trend_look(trend, 8, fresh, k, 1);
		for (uint32_t r = 0; r < 8; r++) {
			s->ranks[r].load = bal_trend_ahead(&trend[r], k + 0.5);
			s->ranks[r].rested_s += 1;
		}
		moves += carry_out(s, &o, &p);
		o.wanted = p.wanted;
		for (uint32_t m = 0; m < p.nmoves; m++)
			s->ranks[p.moves[m].rank].rested_s = 0;
		bal_plan_fini(&p);
	}
	bal_snapshot_destroy(s);
	return moves;
}

/* What one look alone says is believed only where it is much. */
static void test_sure(void)
{
	int at_once = 0, sure = 0;
	struct bal_snapshot *s;
	struct bal_options o;
	struct bal_plan p;

	for (uint64_t seed = 1; seed <= 10; seed++) {
		at_once += moves_of_noise(0, 0.08, seed);
		sure += moves_of_noise(0.08, 0.08, seed);
	}
	ok(at_once > 0 && sure >= 0 && sure * 10 <= at_once, "5000 noisy looks at level jobs move a tenth at most of who is moved where small gains are not seen "
	   "twice (%d, %d)", sure, at_once);
	for (double gain = 0.05; gain < 0.2; gain += 0.1) { /* of the time that is not waiting */
		bool is_small = gain < 0.08;
		int first;

		s = three_to_one();
		o = options(BAL_REFINE);
		o.sure_gain = 0.08;
		for (uint32_t r = 0; r < 8; r++)
			s->ranks[r].load = 0.24;
		for (uint32_t r = 0; r < 4; r++) /* two and two heavier ones are level */
			s->ranks[r].load *= 1 + 2 * gain / (1 - gain);
		first = carry_out(s, &o, &p);
		ok(is_small ? first == 0 && p.wanted == 0 : first > 0, "a gain of %.0f %% is %s: %s", 100 * gain, is_small ? "put off" : "taken at once",
		   p.words);
		o.wanted = is_small ? 1 : p.wanted;
		bal_plan_fini(&p);
		if (is_small) {
			is_int(carry_out(s, &o, &p), 0, "also where it was another domain that ranks should leave");
			o.wanted = p.wanted;
			bal_plan_fini(&p);
			ok(carry_out(s, &o, &p) > 0, "until it is seen again: %s", p.words);
			bal_plan_fini(&p);
		}
		bal_snapshot_destroy(s);
	}
	s = three_to_one();
	o = options(BAL_REFINE);
	o.sure_gain = 0.08;
	for (uint32_t r = 0; r < 8; r++)
		s->ranks[r].load /= 10;
	ok(carry_out(s, &o, &p) == 0 && p.wanted == 0, "a third of what a job computed is put off, too, where it computed a tenth of the time: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);
	s = three_to_one();
	o = options(BAL_REFINE);
	o.sure_gain = INFINITY;
	is_int(carry_out(s, &o, &p), 0, "no gain is large enough for a look that nothing is known before");
	o.wanted = p.wanted;
	bal_plan_fini(&p);
	ok(carry_out(s, &o, &p) > 0, "and the next one decides: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);
}

static void test_bounds(void)
{
	static const uint32_t sizes[][2] = { { 8, 2 }, { 40, 4 }, { 64, 7 }, { 300, 16 }, { 1000, 10 } };
	static const enum bal_strategy all[] = { BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };

	for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
		int bad = 0, worse = 0, plans = 0;
		double worst = 1, sum = 0;

		for (size_t z = 0; z < GW_ARRAY_LEN(sizes); z++)
			for (int shape = 0; shape < MADE_SHAPES; shape++)
				for (uint64_t seed = 1; seed <= 6; seed++) {
					struct bal_snapshot *s = made_snapshot(sizes[z][0], sizes[z][1], seed % 2 ? 1 : 4, shape, seed);
					struct bal_options o = options(all[k]);
					struct bal_plan p;

					o.horizon_s = 1e6;
					o.min_gain = 0;
					if (carry_out(s, &o, &p) < 0) {
						bad++;
						bal_snapshot_destroy(s);
						continue;
					}
					plans++;
					sum += p.after.peak / p.bound;
					worst = fmax(worst, p.after.peak / p.bound);
					worse += p.after.peak > p.before.peak * 1.0001;
					bal_plan_fini(&p);
					bal_snapshot_destroy(s);
				}
		is_int(bad, 0, "%s: %d plans, and each can be carried out", bal_strategy_name(all[k]), plans);
		if (all[k] == BAL_GREEDY || all[k] == BAL_REFINE)
			ok(worse == 0 && worst <= 1.34, "%s: no peak above 4/3 of the lower bound, and none higher than before (mean %.3f, "
			   "worst %.3f, %d higher)", bal_strategy_name(all[k]), sum / plans, worst, worse);
	}
}

/* What was recorded of real jobs: tests/snapshots. Whatever a strategy does is no worse than before, and leaves alone who stays. */
static void test_recorded(void)
{
	static const enum bal_strategy all[] = { BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };
	const char *top = getenv("top_srcdir");
	char pattern[512];
	glob_t files;

	snprintf(pattern, sizeof(pattern), "%s/tests/snapshots/*.json", top ? top : ".");
	if (glob(pattern, 0, NULL, &files) != 0)
		tap_bail("there is no %s", pattern);
	for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
		int worse = 0, many = 0, touched = 0, plans = 0;

		for (size_t i = 0; i < files.gl_pathc; i++) {
			json_t *j = json_load_file(files.gl_pathv[i], 0, NULL);
			struct bal_options o = options(all[k]);
			struct bal_snapshot *s = NULL;
			struct gw_error why = { 0 };
			struct bal_plan p;

			if (!j || bal_snapshot_from_json(&s, j, &why) < 0)
				tap_bail("%s: %s", files.gl_pathv[i], why.text);
			for (uint32_t r = 0; r < s->nranks; r += 3)
				s->ranks[r].is_fixed = true;
			if (bal_plan_make(&p, s, &o, &why) == 0) {
				plans++;
				many += p.nmoves > s->nranks - (s->nranks + 2) / 3;
				worse += all[k] != BAL_CONSOLIDATE && p.after.peak + p.after.link > (p.before.peak + p.before.link) * 1.0001;
				worse += all[k] == BAL_CONSOLIDATE && p.after.used > p.before.used;
				worse += p.after.peak < p.bound * 0.9999;
				for (uint32_t m = 0; m < p.nmoves; m++)
					touched += s->ranks[p.moves[m].rank].is_fixed;
				bal_plan_fini(&p);
			}
			bal_snapshot_destroy(s);
			json_decref(j);
		}
		if (plans == 0 && all[k] == BAL_COMM)
			tap_skip(1, "no partitioner in this build");
		else
			ok(plans == (int)files.gl_pathc && worse + many + touched == 0, "%s: of %d snapshots of real jobs none becomes worse, no rank moves "
			   "twice, none that is pinned (%d, %d, %d)", bal_strategy_name(all[k]), plans, worse, many, touched);
	}
	globfree(&files);
}

static void test_comm(void)
{
	struct bal_options o = options(BAL_COMM);
	struct gw_error why = { 0 };
	struct bal_snapshot *s = made_snapshot(64, 16, 4, MADE_SHUFFLED_RING, 3);
	struct bal_plan p;
	int n;

	if (bal_plan_make(&p, s, &o, &why) == -ENOTSUP) {
		ok(strstr(why.text, "libscotch-dev") != NULL, "a build without the partitioner says so: %s", why.text);
		bal_snapshot_destroy(s);
		return;
	}
	bal_plan_fini(&p);
	s->link_bytes_s = 1e7;
	n = carry_out(s, &o, &p);
	ok(n > 0 && p.after.far_bytes_s < 0.3 * p.before.far_bytes_s, "heavy neighbours come to the same host: %s", p.words);
	bal_plan_fini(&p);
	for (uint32_t i = 0; i < 3; i++) {
		n = carry_out(s, &o, &p);
		bal_plan_fini(&p);
	}
	is_int(n, 0, "and then nobody moves any more");
	bal_snapshot_destroy(s);
	s = made_snapshot(64, 16, 4, MADE_SHUFFLED_RING, 3);
	s->link_bytes_s = 1e13;
	s->link_message_s = 1e-12;
	is_int(carry_out(s, &o, &p), 0, "where links carry it easily, nobody moves: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);
}

static void test_drain(void)
{
	static const enum bal_strategy all[] = { BAL_OFF, BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };
	struct gw_error why = { 0 };
	struct bal_snapshot *s;
	struct bal_plan p;
	struct bal_options o;

	for (size_t k = 0; k < GW_ARRAY_LEN(all); k++) {
		int left = 0, n;

		s = made_snapshot(40, 4, 4, MADE_RANDOM, 7);
		o = options(all[k]);
		s->clusters[2].is_closed = true;
		s->ranks[25].is_fixed = true; /* of cluster 2 */
		s->ranks[26].rested_s = 0;
		if (bal_plan_make(&p, s, &o, &why) == -ENOTSUP) {
			tap_skip(1, "no partitioner in this build");
			bal_snapshot_destroy(s);
			continue;
		}
		bal_plan_fini(&p);
		n = carry_out(s, &o, &p);
		for (uint32_t r = 0; r < 40; r++)
			left += s->ranks[r].cluster == 2;
		ok(n >= 9 && left == 1 && p.is_forced, "%s: a closed cluster is emptied but for the rank that is pinned: %s",
		   bal_strategy_name(all[k]), p.words);
		bal_plan_fini(&p);
		bal_snapshot_destroy(s);
	}
	s = made_snapshot(40, 4, 4, MADE_RANDOM, 7);
	o = options(BAL_REFINE);
	s->clusters[2].is_closed = true;
	for (uint32_t c = 0; c < 4; c++)
		s->clusters[c].memory_bytes = 1e6;
	is_int(bal_plan_make(&p, s, &o, &why), -ENOSPC, "with no room elsewhere there is no plan: %s", why.text);
	ok(p.moves == NULL, "and nothing to clear");
	bal_snapshot_destroy(s);
}

static void test_consolidate(void)
{
	struct bal_snapshot *s = made_snapshot(40, 4, 4, MADE_EVEN, 7);
	struct bal_options o = options(BAL_CONSOLIDATE);
	struct bal_plan p;

	for (uint32_t r = 0; r < 40; r++)
		s->ranks[r].load = 0.1; /* a core's worth in each cluster of four */
	carry_out(s, &o, &p);
	ok(p.after.used == 2 && p.after.peak <= 0.9, "four cores' worth of load goes to two clusters of four: %s", p.words);
	bal_plan_fini(&p);
	is_int(carry_out(s, &o, &p), 0, "which are then left alone: %s", p.words);
	bal_plan_fini(&p);
	bal_snapshot_destroy(s);
}

static void test_json(void)
{
	struct bal_snapshot *s = made_snapshot(20, 3, 2, MADE_HEAVY_TAIL, 9), *again = NULL;
	struct gw_error why = { 0 };
	json_t *j, *k;

	s->ranks[3].is_fixed = true;
	s->ranks[4].rested_s = 2;
	s->clusters[1].is_closed = true;
	j = bal_snapshot_to_json(s);
	is_int(bal_snapshot_from_json(&again, j, &why), 0, "a snapshot is read as it was written");
	k = bal_snapshot_to_json(again);
	ok(json_equal(j, k), "and is the same");
	json_object_set_new(json_array_get(json_object_get(j, "ranks"), 5), "cluster", json_integer(17));
	bal_snapshot_destroy(again);
	again = NULL;
	ok(bal_snapshot_from_json(&again, j, &why) == -EINVAL && !again, "a rank in a cluster that is not there is refused: %s", why.text);
	json_object_del(j, "domains");
	ok(bal_snapshot_from_json(&again, j, &why) == -EINVAL && !again, "so is one without domains: %s", why.text);
	json_decref(j);
	json_decref(k);
	bal_snapshot_destroy(s);
}

static int read_text(const char *text, struct bal_machine **m, struct gw_error *why)
{
	return bal_machine_parse(m, text, strlen(text), why);
}

static uint32_t hops(struct bal_machine *m, uint32_t from, uint32_t to)
{
	struct bal_cluster c[2] = { { .number = from }, { .number = to } };
	struct bal_snapshot s = { .clusters = c, .nclusters = 2, .machine = m };

	return from == to ? 0 : bal_hops(&s, 0, 1);
}

static void test_machines(void)
{
	static const struct { const char *text, *said; } wrong[] = {
		{ "{\n\"torus\": [4,\n 0]}", "line 3: \"torus\" has a number" },
		{ "{\"more\": 3, \"links\":\n [[0, 1]]}", "line 2: no way leads from cluster 0 to cluster 2" },
		{ "{\"torus\": [2],\n\"mesh\": [2]}", "line 1: more than one of" },
		{ "[1]", "line 1: it is not of the form" },
		{ "{\"mesh\": [100, 100]}", "more than 4096 clusters" },
		{ "{\"more\": 2,\n\"links\": [[0, 1], [1,0],\n\n[0, 2]]}", "line 4: entry 2 of \"links\" is not a pair" },
		{ "{", "line 1: " },
		{ "{\"tree\": [2,\n\"x\"]}", "line 2: \"tree\" has a number" },
		{ "{}", "it has 0 clusters" },
		{ "{\"comment\": \"\\\"taurus\\\": [\",\n\"taurus\": [4]}", "line 2: \"taurus\" means nothing" },
		{ "{\"more\": 1,\n\"services\": [0]}", "line 2: all clusters are for services" },
		{ "{\"mesh\": [2], \"services\": [1,\n2]}", "line 2: entry 1 of \"services\"" },
		{ "{\"mesh\": [2], \"services\": 1}", "\"services\" is not a list" },
		{ "{\"mesh\": [2], \"cores\": [1,\n2, 3]}", "line 1: \"cores\" is neither" },
		{ "{\"mesh\": [2], \"cores\": [1,\n0]}", "line 2: the cores of a cluster" },
		{ "{\"mesh\": [2],\n\"control\": {\"links\": []}}", "line 2: no way leads from cluster 0 to cluster 1 by this network" },
		{ "{\"mesh\": [2],\n\"control\":\n{\"torus\": [3]}}", "line 3: it joins 3 clusters, and the machine has 2" },
		{ "{\"mesh\": [2], \"control\": {\n\"cores\": 1}}", "line 2: \"cores\" means nothing" },
		{ "{\"mesh\": [2], \"mesh\": [3]}", "duplicate" },
		{ "{\"mesh\": [2],\n\"link_mb_s\": 0}", "line 2: \"link_mb_s\" is not a number above 0" },
	};
	struct gw_error why = { 0 };
	struct bal_machine *m = NULL;

	is_int(read_text("{\"torus\": [4, 4], \"more\": 4, \"links\": [[16,0],[17,3],[18,12],[19,15]], \"services\": [16,17,18,19]}", &m, &why),
	       0, "a torus with four more clusters is read");
	ok(hops(m, 0, 3) == 1 && hops(m, 0, 10) == 4 && hops(m, 5, 6) == 1 && hops(m, 16, 0) == 1 && hops(m, 16, 17) == 3,
	   "and its distances are right, the way around included");
	ok(bal_machine_is_service(m, 17) && !bal_machine_is_service(m, 3) && bal_machine_clusters(m) == 20, "so are its services");
	bal_machine_destroy(m);
	is_int(read_text("{\"mesh\": [3, 5]}", &m, &why), 0, "a mesh is read");
	ok(hops(m, 0, 14) == 6 && hops(m, 0, 4) == 4, "where there is no way around");
	bal_machine_destroy(m);
	is_int(read_text("{\"tree\": [2, 2, 3]}", &m, &why), 0, "a tree is read");
	ok(bal_machine_clusters(m) == 12 && hops(m, 0, 2) == 2 && hops(m, 0, 3) == 4 && hops(m, 0, 11) == 6, "with its switches between");
	bal_machine_destroy(m);
	is_int(read_text("{\"mesh\": [3], \"more\": 2, \"links\": [[3, 0], [4, 2], [2, 4]], \"services\": [3, 4], \"cores\": [2, 2, 2, 1, 1],"
	                 " \"control\": {\"links\": [[0, 4], [1, 4], [2, 3], [3, 4]]}}", &m, &why), 0, "two networks are read: %s", why.text);
	ok(hops(m, 3, 4) == 4 && bal_machine_compute(m) == 3 && bal_machine_cores(m, 2) == 2 && bal_machine_cores(m, 3) == 1,
	   "distances are those of the first, and the cores of each cluster are known");
	ok(bal_machine_service(m, 0) == 4 && bal_machine_service(m, 2) == 3 && bal_machine_service(m, 4) == 4 &&
	   bal_machine_service(m, 5) == BAL_NONE, "the service cluster of each is the nearest by the second");
	bal_machine_destroy(m);
	for (size_t i = 0; i < GW_ARRAY_LEN(wrong); i++) {
		m = NULL;
		ok(read_text(wrong[i].text, &m, &why) == -EINVAL && !m && strstr(why.text, wrong[i].said), "refused: %s", why.text);
	}
	ok(bal_machine_read(&m, "/nonexistent/machine", &why) == -ENOENT && strstr(why.text, "/nonexistent/machine"), "so is a file that is not there: %s",
	   why.text);
}

/* On a machine with distances, comm brings those who talk near each other. */
static void test_comm_machine(void)
{
	struct bal_options o = options(BAL_COMM);
	struct gw_error why = { 0 };
	struct bal_snapshot *s = made_snapshot(64, 16, 4, MADE_SHUFFLED_RING, 5);
	struct bal_machine *m = NULL;
	struct bal_plan p;

	read_text("{\"torus\": [4, 4]}", &m, &why);
	s->machine = m;
	s->link_bytes_s = 1e7;
	if (bal_plan_make(&p, s, &o, &why) == -ENOTSUP) {
		tap_skip(1, "no partitioner in this build");
	} else {
		bal_plan_fini(&p);
		carry_out(s, &o, &p);
		ok(p.nmoves > 0 && p.after.hop_bytes_s < 0.5 * p.before.hop_bytes_s, "in a torus, bytes times hops fall from %.3g to %.3g: %s",
		   p.before.hop_bytes_s, p.after.hop_bytes_s, p.words);
		bal_plan_fini(&p);
	}
	bal_snapshot_destroy(s);
	bal_machine_destroy(m);
}

/* Four clusters in two packages, eight pairs of ranks that were torn apart: they come to the same package at least. */
static void test_host(void)
{
	static const uint32_t near[][3] = { { 0, 0, 0 }, { 0, 0, 1 }, { 1, 1, 2 }, { 1, 1, 3 }, { 1, 1, 3 } }, same[4][3] = { { 0 } };
	struct bal_options o = options(BAL_COMM);
	struct gw_error why = { 0 };
	struct bal_machine *m = NULL;
	struct bal_snapshot *s;
	struct bal_plan p;

	ok(bal_machine_of_host(&m, near[0], 3, 5) == 0 && m && hops(m, 3, 4) == 2 && hops(m, 2, 3) == 4 && hops(m, 0, 1) == 4 &&
	   hops(m, 1, 2) == 6, "of a host, clusters with one cache are nearer than those of a package, and these than others");
	bal_machine_destroy(m);
	ok(bal_machine_of_host(&m, same[0], 3, 4) == 0 && !m, "where all share all there are no distances");
	bal_machine_of_host(&m, near[0], 3, 4);
	s = bal_snapshot_create(16, 4, 4, 8);
	for (uint32_t c = 0; c < 4; c++) {
		s->clusters[c] = (struct bal_cluster){ .number = c, .domain = c, .memory_bytes = INFINITY };
		s->domains[c] = (struct bal_domain){ .cores = 4, .speed = 1 };
	}
	for (uint32_t r = 0; r < 16; r++)
		s->ranks[r] = (struct bal_rank){ .proc = r, .cluster = r / 4, .load = 0.5, .width = 1, .move_s = 0.005, .rested_s = INFINITY };
	for (uint32_t r = 0; r < 8; r++)
		s->edges[r] = (struct bal_edge){ r, r + 8, 1e9, 1000 };
	s->machine = m;
	s->link_bytes_s = bal_machine_link(m, &s->link_message_s);
	if (bal_snapshot_check(s, &why) < 0 || bal_plan_make(&p, s, &o, &why) < 0) {
		tap_skip(1, "no partitioner in this build");
	} else {
		ok(p.nmoves > 0 && p.after.hop_bytes_s < 0.3 * p.before.hop_bytes_s, "and comm counts them: %s", p.words);
		bal_plan_fini(&p);
	}
	bal_snapshot_destroy(s);
	bal_machine_destroy(m);
}

/* Two such hosts; partners are on the right one, but in different packages. Nothing goes between hosts, and all come near. */
static void test_hosts(void)
{
	static const uint32_t near[][3] = { { 0, 0, 0 }, { 0, 0, 1 }, { 1, 1, 2 }, { 1, 1, 3 } };
	struct bal_options o = options(BAL_COMM);
	const struct bal_machine *inside[2];
	struct gw_error why = { 0 };
	struct bal_machine *m = NULL;
	struct bal_snapshot *s = bal_snapshot_create(32, 8, 8, 16);
	struct bal_plan p;
	int rc;

	bal_machine_of_host(&m, near[0], 3, 4);
	inside[0] = inside[1] = m;
	for (uint32_t c = 0; c < 8; c++) {
		s->clusters[c] = (struct bal_cluster){ .number = c, .host = c % 2, .inside = c / 2, .domain = c, .memory_bytes = INFINITY };
		s->domains[c] = (struct bal_domain){ .cores = 4, .speed = 1 };
	}
	for (uint32_t r = 0; r < 32; r++) /* of a host, the first half of its ranks is in one package, the second in the other */
		s->ranks[r] = (struct bal_rank){ .proc = r, .cluster = r / 16 + r % 16 / 4 * 2, .load = 0.5, .width = 1, .move_s = 0.005,
			.rested_s = INFINITY };
	for (uint32_t r = 0; r < 16; r++)
		s->edges[r] = (struct bal_edge){ r / 8 * 16 + r % 8, r / 8 * 16 + r % 8 + 8, 1e9, 1000 };
	s->inside = inside;
	rc = bal_snapshot_check(s, &why);
	ok(rc == 0 && bal_hops(s, 0, 4) == 6 && bal_hops(s, 4, 6) == 4 && bal_hops(s, 0, 1) > 6, "of two hosts, distances in each are its own: %u, %u, "
	   "%u", bal_hops(s, 0, 4), bal_hops(s, 4, 6), bal_hops(s, 0, 1));
	if (rc < 0 || bal_plan_make(&p, s, &o, &why) < 0) {
		tap_skip(1, "no partitioner in this build");
	} else {
		ok(p.nmoves > 0 && p.after.hop_bytes_s < 0.3 * p.before.hop_bytes_s && p.after.far_bytes_s == 0,
		   "and those who talk come near each other in each: %s", p.words);
		bal_plan_fini(&p);
	}
	bal_snapshot_destroy(s);
	bal_machine_destroy(m);
}

int main(void)
{
	tap_begin(120);
	test_refine();
	test_no_swinging();
	test_sure();
	test_bounds();
	test_recorded();
	test_comm();
	test_drain();
	test_consolidate();
	test_json();
	test_machines();
	test_comm_machine();
	test_host();
	test_hosts();
	return tap_done();
}
