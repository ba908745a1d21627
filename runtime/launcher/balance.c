/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Balancing: look what ranks and processors do, decide (runtime/balance), move.
 *
 *   look ──measure──► every daemon ──measured──► rates since the last look ──► a plan ──► its moves, some at a time
 *    ▲                                                                                     │
 *    └──── -balance-every, or a second after `godwit rebalance` has asked ◄────────────────┘
 *
 * A look costs each daemon some tenths of a millisecond. Nothing is decided while moves of the last plan are under way, clusters are
 * drained, or the job rests. A plan is broken off when the job is suspended; what has been moved stays, since moves that matter most
 * come first. A rank that could not be moved is left alone for a while, as one that was.
 */
#include <math.h>
#include <stdlib.h>

#include "runtime/balance/balance.h"
#include "runtime/balance/trend.h"
#include "runtime/launcher/head.h"

#define EVERY_MS    10000
#define SOON_MS     1000  /* between the two looks that a request needs */
#define PATIENCE_MS 3000  /* with daemons that do not answer */
#define AT_ONCE     4     /* moves under way */
#define MOVE_MS     20000 /* for each, until it has to begin */
#define MOMENT_MS   3000  /* a program that names good moments (godwit.h) is waited for so long */
#define LOOK_MIN_S  0.2   /* a shorter interval says nothing */
#define HORIZON     10    /* intervals: who looks often has loads that do not stay so for long */
#define LASTING     0.2   /* of the time in which loads that drift are all elsewhere, a plan is good for */
#define HORIZON_MIN 2     /* intervals, however they drift: one of them passes until the next look */
#define SURE_GAIN   0.08  /* of the time: a plan that gains less has to be wanted twice, one time after the other; the first always */
#define QUIET_PART  0.03  /* of a domain's cores: others that use less are the noise of daemons and clocks */

struct seen {                 /* a rank */
	uint64_t at_ns, epoch, cpu_ns, waited_ns;
	double memory;
	double told;          /* load as its program says (MPIX_Load), which counts instead; negative: it does not */
	double used_s;        /* processor seconds since the last look, waiting included */
	uint64_t moved_ns;    /* when it was moved, or could not be; 0: never */
	json_t *traffic, *traffic_before;
	uint64_t traffic_ns, traffic_before_ns;
};

struct seen_cluster { uint64_t at_ns, busy_ns, daemon_ns; double busy, room, quota, other; bool is_known; };

struct step { uint32_t rank, to; double gain_s; int status; char text[160]; };

struct balance {
	struct head *head;
	enum bal_strategy strategy; /* of -balance */
	uint64_t every_ms;          /* 0: only when asked */
	struct gw_timer *timer, *deadline;
	struct seen *ranks;
	struct bal_trend *trend;    /* of each rank */
	double *fresh;              /* load of each in the interval that has just ended; negative: it says nothing */
	uint64_t looked_ns;         /* when the last look was over */
	double worked_s;            /* processor seconds of the daemons since the look before */
	struct seen_cluster *clusters;
	uint64_t id;                /* of the look under way */
	uint32_t due;
	bool is_stirred;            /* ranks have moved since the look before: whose a processor's time was cannot be told */
	struct step *steps;         /* of the plan that is carried out */
	uint32_t n_steps, next, under_way;
	uint32_t wanted;            /* bal_plan.wanted of when it was decided last */
	uint64_t looks, plans, moved, failed;
	double peak, predicted;     /* as seen last; as the last plan had it */
	char words[256];
	struct bal_machine *host;   /* of a job on one host: what its clusters share; NULL: all the same */
	struct bal_machine **hosts; /* of a job on several: the same of each, [n_hosts]; entries NULL */
	const struct bal_machine **inside; /* of them, those of the snapshot's hosts */
	uint32_t n_hosts;
	uint32_t host_clusters;     /* of which all these were made */
	/* a tool's */
	balance_done_fn *done;      /* NULL: none asks */
	void *ctx;
	enum bal_strategy asked;
	bool is_dry, is_recorded;   /* is_recorded: the snapshot is wanted with the answer */
	uint32_t looks_due;         /* before it is decided: two say what is used, and one more who talks to whom */
	uint32_t patience;          /* looks that it waits then for something to be known */
	json_t *answer;             /* while its plan is carried out */
};

static void look(struct balance *b);

/* ---- carrying out --------------------------------------------------------------------------------------------------------- */

static void push(struct balance *b);

static void finish(struct balance *b)
{
	json_t *moves;

	for (uint32_t i = 0; i < b->n_steps; i++) {
		const struct step *s = &b->steps[i];

		if (s->status == 0)
			b->moved++;
		else
			b->failed++;
	}
	gw_event("bal.done", "{s:i, s:I, s:I}", "steps", (int)b->n_steps, "moved", (json_int_t)b->moved, "failed", (json_int_t)b->failed);
	if (b->answer) {
		moves = json_object_get(b->answer, "moves");
		for (uint32_t i = 0; i < b->n_steps; i++) {
			json_t *one = json_array_get(moves, i);

			json_object_set_new(one, "status", json_integer(b->steps[i].status));
			json_object_set_new(one, "text", json_string(b->steps[i].text));
		}
		if (b->done)
			b->done(b->ctx, json_incref(b->answer));
		b->done = NULL;
		json_decref(b->answer);
		b->answer = NULL;
	}
	free(b->steps);
	b->steps = NULL;
	b->n_steps = b->next = 0;
}

static void on_moved(void *ctx, const struct move *m, int status, const char *text, json_t *measures)
{
	struct balance *b = ctx;

	(void)measures;
	for (uint32_t i = 0; i < b->n_steps; i++)
		if (b->steps[i].rank == m->rank) {
			b->steps[i].status = status;
			snprintf(b->steps[i].text, sizeof(b->steps[i].text), "%s", text);
		}
	b->ranks[m->rank].moved_ns = gw_now_ns();
	b->under_way--;
	push(b);
}

static void push(struct balance *b)
{
	struct head *h = b->head;
	struct gw_error why = { 0 };
	json_t *how = json_pack("{s:i}", "moment_ms", MOMENT_MS);

	while (b->next < b->n_steps && b->under_way < AT_ONCE) {
		struct step *s = &b->steps[b->next++];
		int code = -EBUSY;

		if (moves_of(h, s->rank))
			gw_fail(&why, -EBUSY, "somebody else moves it");
		else if ((code = moves_allow_to(h, s->to, &why)) == 0)
			code = moves_begin(h, s->rank, s->to, MOVE_MS, how, "balance", on_moved, b, &why);
		if (code < 0) {
			s->status = code;
			snprintf(s->text, sizeof(s->text), "%.150s", why.text);
			b->ranks[s->rank].moved_ns = gw_now_ns();
		} else {
			b->under_way++;
		}
	}
	json_decref(how);
	if (b->under_way == 0 && b->n_steps > 0)
		finish(b);
}

/* ---- deciding ------------------------------------------------------------------------------------------------------------- */

static json_int_t field(const json_t *row, size_t i)
{
	return json_integer_value(json_array_get(row, i));
}

static int by_pair(const void *x, const void *y)
{
	const struct bal_edge *a = x, *b = y;

	return a->a != b->a ? (a->a < b->a ? -1 : 1) : a->b < b->b ? -1 : a->b > b->b;
}

/* What ranks have sent between the last two answers of their agents; what two send to each other is one edge. */
static uint32_t add_edges(const struct balance *b, const uint32_t *index, struct bal_edge *out, uint32_t room)
{
	uint32_t n = 0, all = 0;

	for (uint32_t r = 0; r < b->head->size; r++) {
		const struct seen *s = &b->ranks[r];
		double seconds = (double)(s->traffic_ns - s->traffic_before_ns) / 1e9;
		const json_t *row;
		size_t i, k = 0;

		if (index[r] == BAL_NONE || !s->traffic || !s->traffic_before || seconds < LOOK_MIN_S)
			continue;
		json_array_foreach(s->traffic, i, row) {
			const json_t *old = json_array_get(s->traffic_before, k);
			json_int_t peer = field(row, 0), bytes = field(row, 1), messages = field(row, 2);

			if (old && field(old, 0) == peer) { /* both in the order of peers, and none goes away */
				bytes -= field(old, 1);
				messages -= field(old, 2);
				k++;
			}
			if (peer < 0 || peer >= (json_int_t)b->head->size || index[peer] == BAL_NONE || peer == (json_int_t)r || bytes < 0 ||
			    messages <= 0 || n == room)
				continue;
			out[n++] = (struct bal_edge){ .a = index[r] < index[peer] ? index[r] : index[peer],
				.b = index[r] < index[peer] ? index[peer] : index[r], .bytes_s = (double)bytes / seconds,
				.messages_s = (double)messages / seconds };
		}
	}
	qsort(out, n, sizeof(*out), by_pair);
	for (uint32_t i = 0; i < n; i++)
		if (all > 0 && out[all - 1].a == out[i].a && out[all - 1].b == out[i].b) {
			out[all - 1].bytes_s += out[i].bytes_s;
			out[all - 1].messages_s += out[i].messages_s;
		} else {
			out[all++] = out[i];
		}
	return all;
}

static bool has_load(const struct balance *b, uint32_t rank)
{
	return b->trend[rank].has_load || b->ranks[rank].told >= 0;
}

/*
 * Have all loads been seen in one interval only? That one has the beginning of the program in it, and is believed only if the next says so, too: until
 * then intervals are half as long, so that the first plan is not later for it.
 */
static bool is_settled(const struct balance *b)
{
	bool is_known = false;

	for (uint32_t r = 0; r < b->head->size; r++) {
		if (b->trend[r].has_slope)
			return true;
		is_known |= b->trend[r].has_load && b->ranks[r].told < 0;
	}
	return !is_known; /* what programs tell is so at once */
}

/* Its load in the middle of the interval that begins, which is what a plan is made for. A program knows better, and at once. */
static double load_of(const struct balance *b, uint32_t rank)
{
	double ahead_s = b->every_ms ? (double)b->every_ms / 2e3 : 0;

	return b->ranks[rank].told >= 0 ? b->ranks[rank].told : bal_trend_ahead(&b->trend[rank], (double)gw_now_ns() / 1e9 + ahead_s);
}

/*
 * What a move costs the job: nobody hears from the rank for a while; and daemons work, half of it where it leaves, on processors that
 * ranks could use. Where there are many that is soon done.
 */
static void add_costs(const struct balance *b, struct bal_snapshot *s, const uint32_t *rank_of)
{
	double room = INFINITY;

	for (uint32_t c = 0; c < s->nclusters; c++) {
		const struct bal_domain *d = &s->domains[s->clusters[c].domain];

		room = fmin(room, fmax(d->cores - d->other, d->cores / 2));
	}
	for (uint32_t i = 0; i < s->nranks; i++) {
		double work_s, silent_s = ledger_cost_s(b->head, rank_of[i], &work_s);

		s->ranks[i].move_s = silent_s + work_s / 2 / room;
	}
}

/* NULL: no memory, or nothing is known yet. @rank_of: of an entry of the snapshot; @cluster_of likewise. Heap */
static struct bal_snapshot *snapshot(struct balance *b, uint32_t **rank_of, uint32_t **cluster_of)
{
	struct head *h = b->head;
	uint32_t n = 0, nc = 0, edges = 0, *index = calloc(h->size + 1, sizeof(*index)), *cluster_index = calloc(h->n_clusters + 1,
	                                                                                                        sizeof(*cluster_index));
	double *used = calloc(h->n_domains + 1, sizeof(*used));
	struct bal_snapshot *s = NULL;
	uint64_t now = gw_now_ns();
	struct gw_error why = { 0 };

	*rank_of = calloc(h->size + 1, sizeof(**rank_of));
	*cluster_of = calloc(h->n_clusters + 1, sizeof(**cluster_of));
	if (!index || !cluster_index || !used || !*rank_of || !*cluster_of)
		goto out;
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		cluster_index[c] = BAL_NONE;
		if (h->clusters[c].state == CLUSTER_UP) {
			(*cluster_of)[nc] = c;
			cluster_index[c] = nc++;
		}
	}
	for (uint32_t r = 0; r < h->size; r++) {
		index[r] = BAL_NONE;
		if (h->ranks[r].state != RANK_RUNNING || cluster_index[h->ranks[r].cluster] == BAL_NONE || !has_load(b, r))
			continue;
		edges += (uint32_t)json_array_size(b->ranks[r].traffic);
		(*rank_of)[n] = r;
		index[r] = n++;
	}
	s = bal_snapshot_create(n, nc, h->n_domains, edges);
	if (!s || n == 0) {
		bal_snapshot_destroy(s);
		s = NULL;
		goto out;
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct rank *rank = &h->ranks[(*rank_of)[i]];
		const struct seen *seen = &b->ranks[(*rank_of)[i]];
		double rested = seen->moved_ns ? (double)(now - seen->moved_ns) / 1e9 : INFINITY, load = load_of(b, (*rank_of)[i]);

		s->ranks[i] = (struct bal_rank){ .proc = (*rank_of)[i], .cluster = cluster_index[rank->cluster], .load = load,
			.width = fmax(1, ceil(load - 0.05)), .memory_bytes = seen->memory, .rested_s = rested,
			.is_fixed = rank->is_pinned || h->clusters[rank->cluster].is_drained || layout_is_service(h, rank->cluster) || moves_of(h, (*rank_of)[i]) };
		used[h->clusters[rank->cluster].cores.domain] += seen->used_s;
	}
	for (uint32_t d = 0; d < h->n_domains; d++)
		s->domains[d] = (struct bal_domain){ .cores = 1, .speed = 1 }; /* of clusters that have gone */
	for (uint32_t i = 0; i < nc; i++) {
		const struct cluster *c = &h->clusters[(*cluster_of)[i]];
		struct seen_cluster *seen = &b->clusters[(*cluster_of)[i]];
		struct bal_domain *d = &s->domains[c->cores.domain];

		if (seen->is_known && !b->is_stirred)
			seen->other = seen->busy - used[c->cores.domain];
		d->cores = c->cores.cores ? c->cores.cores : 1;
		d->other = seen->other > QUIET_PART * d->cores ? seen->other : 0;
		if (seen->quota > 0 && seen->quota < d->cores) { /* others take what the quota would have left unused, first */
			double left = fmax(d->cores - d->other, d->cores / 2);

			d->cores = seen->quota;
			d->other = fmax(0, seen->quota - left);
		}
		s->clusters[i] = (struct bal_cluster){ .number = c->index, .host = c->host, .domain = c->cores.domain,
			.memory_bytes = seen->room > 0 ? seen->room : INFINITY, .is_closed = c->is_drained || layout_is_service(h, c->index) };
	}
	add_costs(b, s, *rank_of);
	for (uint32_t i = 0; i < nc; i++) { /* numbers of hosts without gaps: those of hosts that have left are not used again */
		uint32_t host = s->clusters[i].host, k;

		for (k = 0; k < i && h->clusters[(*cluster_of)[k]].host != host; k++)
			;
		if (k == i && b->inside && host < b->n_hosts)
			b->inside[s->nhosts] = b->hosts[host];
		for (uint32_t c = 0; c < (*cluster_of)[i]; c++)
			s->clusters[i].inside += h->clusters[c].host == host;
		s->clusters[i].host = k < i ? s->clusters[k].host : s->nhosts++;
	}
	s->link_bytes_s = ledger_link_bytes_s(h);
	s->nedges = add_edges(b, index, s->edges, edges);
	if (s->nhosts > 1 && !h->spec->machine)
		s->inside = b->inside;
	s->machine = h->spec->machine ? h->spec->machine : s->nhosts == 1 ? b->host : NULL;
	if (s->machine && bal_machine_link(s->machine, &s->link_message_s) > 0) /* else what was seen of links counts */
		s->link_bytes_s = bal_machine_link(s->machine, &s->link_message_s);
	if (bal_snapshot_check(s, &why) < 0) {
		gw_log(GW_WARN, "what was measured is no snapshot: %s", why.text);
		bal_snapshot_destroy(s);
		s = NULL;
	}
out:
	free(index);
	free(cluster_index);
	free(used);
	return s;
}

static json_t *plan_json(const struct balance *b, const struct bal_plan *p, const struct bal_options *o, const uint32_t *rank_of,
                         const uint32_t *cluster_of)
{
	json_t *moves = json_array();

	for (uint32_t i = 0; i < p->nmoves; i++)
		json_array_append_new(moves, json_pack("{s:i, s:i, s:i, s:f}", "rank", (int)rank_of[p->moves[i].rank], "from",
		                                       (int)cluster_of[p->moves[i].from], "to", (int)cluster_of[p->moves[i].to],
		                                       "gain_s", p->moves[i].gain_s));
	return json_pack("{s:s, s:i, s:s, s:s, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "op", "rebalanced", "status", 0, "strategy",
	                 bal_strategy_name(o->strategy), "words", p->words, "dry_run", (int)b->is_dry, "peak", p->before.peak,
	                 "peak_planned", p->after.peak, "peak_bound", p->bound, "far_bytes_s", p->before.far_bytes_s,
	                 "far_bytes_s_planned", p->after.far_bytes_s, "hop_bytes_s", p->before.hop_bytes_s, "hop_bytes_s_planned",
	                 p->after.hop_bytes_s, "gain_s", p->gain_s, "cost_s", p->cost_s, "horizon_s", o->horizon_s,
	                 "moves", moves);
}

static void forget_hosts(struct balance *b)
{
	for (uint32_t i = 0; i < b->n_hosts; i++)
		bal_machine_destroy(b->hosts[i]);
	free(b->hosts);
	free(b->inside);
	bal_machine_destroy(b->host);
	b->hosts = NULL;
	b->inside = NULL;
	b->host = NULL;
	b->n_hosts = 0;
}

/* Which clusters share caches, memory and packages. Without a machine file that is what distances are, in each host. */
static void look_at_host(struct balance *b)
{
	struct head *h = b->head;
	uint32_t *near;
	bool is_whole;

	if (h->spec->machine || h->n_clusters == b->host_clusters)
		return;
	near = calloc(h->n_clusters, sizeof(h->clusters->cores.near));
	forget_hosts(b);
	for (uint32_t c = 0; near && c < h->n_clusters; c++)
		memcpy(near + (size_t)c * RT_NEAR, h->clusters[c].cores.near, sizeof(h->clusters[c].cores.near));
	is_whole = near && bal_machine_of_host(&b->host, near, RT_NEAR, h->n_clusters) == 0;
	b->hosts = calloc(h->n_hosts + 1, sizeof(*b->hosts));
	b->inside = calloc(h->n_hosts + 1, sizeof(*b->inside));
	if (b->hosts && b->inside)
		b->n_hosts = h->n_hosts;
	for (uint32_t host = 0; near && host < b->n_hosts && is_whole; host++) {
		uint32_t n = 0;

		for (uint32_t c = 0; c < h->n_clusters; c++)
			if (h->clusters[c].host == host)
				memcpy(near + (size_t)n++ * RT_NEAR, h->clusters[c].cores.near, sizeof(h->clusters[c].cores.near));
		is_whole = bal_machine_of_host(&b->hosts[host], near, RT_NEAR, n) == 0;
	}
	if (is_whole && b->n_hosts)
		b->host_clusters = h->n_clusters;
	free(near);
}

static void refuse(struct balance *b, int code, const char *text)
{
	balance_done_fn *done = b->done;

	b->done = NULL;
	if (done)
		done(b->ctx, json_pack("{s:s, s:i, s:s}", "op", "rebalanced", "status", code, "text", text));
}

static void decide(struct balance *b)
{
	struct bal_options o = bal_defaults;
	struct bal_plan plan = { 0 };
	struct gw_error why = { 0 };
	uint32_t *rank_of, *cluster_of;
	struct bal_snapshot *s;
	json_t *answer;
	int code = 0;

	o.strategy = b->done ? b->asked : b->strategy;
	if (b->every_ms) {
		o.rest_s = 2 * (double)b->every_ms / 1000;
		o.horizon_s = fmin(o.horizon_s, HORIZON * (double)b->every_ms / 1000);
		o.horizon_s = fmin(o.horizon_s, fmax(LASTING * bal_trend_lasts(b->trend, b->head->size),
		                                     HORIZON_MIN * (double)b->every_ms / 1000));
	}
	if (b->done) {
		o.rest_s = 0; /* somebody who asks wants it now */
	} else {
		o.sure_gain = is_settled(b) ? SURE_GAIN : INFINITY;
		o.wanted = b->wanted;
	}
	b->wanted = BAL_NONE;
	look_at_host(b);
	s = snapshot(b, &rank_of, &cluster_of);
	if (s)
		code = bal_plan_make(&plan, s, &o, &why);
	if (!s || code < 0) {
		if (b->done)
			refuse(b, s ? code : -EAGAIN, s ? why.text : "no rank has computed yet; try again");
		else if (s)
			gw_log(GW_WARN, "no plan: %s", why.text);
		goto out;
	}
	b->peak = plan.before.peak;
	b->wanted = plan.wanted;
	snprintf(b->words, sizeof(b->words), "%s", plan.words);
	gw_event("bal.plan", "{s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "strategy", bal_strategy_name(o.strategy), "moves", (int)plan.nmoves,
	         "peak", plan.before.peak, "planned", plan.after.peak, "predicted", b->predicted, "gain_s", plan.gain_s, "cost_s",
	         plan.cost_s, "horizon_s", o.horizon_s, "words", plan.words);
	answer = b->done ? plan_json(b, &plan, &o, rank_of, cluster_of) : NULL;
	if (answer && b->is_recorded)
		json_object_set_new(answer, "snapshot", bal_snapshot_to_json(s));
	if ((b->done && b->is_dry) || plan.nmoves == 0) {
		if (b->done)
			b->done(b->ctx, json_incref(answer));
		b->done = NULL;
		json_decref(answer);
		goto out;
	}
	b->steps = calloc(plan.nmoves, sizeof(*b->steps));
	if (!b->steps) {
		json_decref(answer);
		refuse(b, -ENOMEM, "out of memory");
		goto out;
	}
	b->plans++;
	b->predicted = plan.after.peak;
	b->answer = answer;
	b->n_steps = plan.nmoves;
	for (uint32_t i = 0; i < plan.nmoves; i++)
		b->steps[i] = (struct step){ .rank = rank_of[plan.moves[i].rank], .to = cluster_of[plan.moves[i].to],
		                             .gain_s = plan.moves[i].gain_s };
	push(b);
out:
	bal_plan_fini(&plan);
	bal_snapshot_destroy(s);
	free(rank_of);
	free(cluster_of);
}

/* ---- looking -------------------------------------------------------------------------------------------------------------- */

static void on_timer(void *ctx)
{
	struct balance *b = ctx;

	b->timer = NULL;
	look(b);
}

static void again(struct balance *b)
{
	uint64_t ms = b->done && b->n_steps == 0 ? SOON_MS : is_settled(b) ? b->every_ms : b->every_ms / 2;

	gw_timer_cancel(b->timer);
	b->timer = NULL;
	if (ms && gw_loop_timer(b->head->loop, &b->timer, ms, 0, on_timer, b) < 0) {
		refuse(b, -ENOMEM, "no memory for a timer");
		gw_log(GW_WARN, "no memory for a timer: ranks are not balanced any more");
	}
}

/* What the interval that has just ended teaches */
static void learn(struct balance *b)
{
	uint64_t now = gw_now_ns();
	double seconds = (double)(now - b->looked_ns) / 1e9;

	for (uint32_t r = 0; r < b->head->size; r++)
		if (b->ranks[r].told >= 0)
			b->fresh[r] = -1;
	if (b->looked_ns) {
		bal_trend_look(b->trend, b->head->size, b->fresh, (double)now / 1e9, seconds);
		ledger_worked(b->head, b->worked_s, seconds);
	}
	b->looked_ns = now;
}

static void looked(struct balance *b)
{
	struct head *h = b->head;
	struct gw_error why = { 0 };
	bool is_known = false;

	gw_timer_cancel(b->deadline);
	b->deadline = NULL;
	b->due = 0;
	b->looks++;
	learn(b);
	for (uint32_t r = 0; r < h->size; r++)
		is_known |= has_load(b, r) && h->ranks[r].state == RANK_RUNNING;
	if (b->done && b->n_steps == 0 && b->looks_due > 0 && --b->looks_due > 0) {
		again(b);
		return;
	}
	if (b->n_steps == 0 && is_known && suspend_refuse(h, &why) == 0 && gw_list_is_empty(&h->drains) && (b->done || b->strategy))
		decide(b);
	else if (b->done && b->n_steps == 0 && b->patience-- == 0)
		refuse(b, -EAGAIN, "no rank has computed yet; try again");
	else if (b->done && b->n_steps == 0 && (why.code < 0 || !gw_list_is_empty(&h->drains)))
		refuse(b, -EBUSY, why.code < 0 ? why.text : "clusters are being drained; try again afterwards");
	again(b);
}

static void on_deadline(void *ctx)
{
	struct balance *b = ctx;

	b->deadline = NULL;
	looked(b);
}

static void look(struct balance *b)
{
	bool is_traffic_wanted = (b->done ? b->asked : b->strategy) == BAL_COMM;
	struct head *h = b->head;

	if (b->due)
		return;
	b->id = ++h->next_id;
	b->is_stirred = false;
	for (uint32_t r = 0; r < h->size; r++)
		b->fresh[r] = -1;
	b->worked_s = 0;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		b->due += h->clusters[c].state == CLUSTER_UP &&
			job_cluster_send(h, c, json_pack("{s:s, s:I, s:b}", "op", "measure", "id", (json_int_t)b->id, "traffic",
			                                 (int)is_traffic_wanted));
	if (b->due == 0 || gw_loop_timer(h->loop, &b->deadline, PATIENCE_MS, 0, on_deadline, b) < 0)
		looked(b);
}

static void heard_rank(struct balance *b, const json_t *one, uint64_t now)
{
	json_int_t rank = json_integer_value(json_object_get(one, "rank"));
	uint64_t epoch = (uint64_t)json_integer_value(json_object_get(one, "epoch"));
	uint64_t cpu = (uint64_t)json_integer_value(json_object_get(one, "cpu_ns"));
	uint64_t waited = (uint64_t)json_integer_value(json_object_get(one, "waited_ns"));
	json_t *traffic = json_object_get(one, "traffic"), *told = json_object_get(one, "load");
	uint64_t traffic_ns = (uint64_t)json_integer_value(json_object_get(one, "traffic_ns"));
	struct seen *s;

	if (rank < 0 || rank >= (json_int_t)b->head->size)
		return;
	s = &b->ranks[rank];
	s->memory = json_number_value(json_object_get(one, "memory"));
	s->told = told ? json_number_value(told) : -1;
	/* Counters of a process begin anew where it comes to, and an agent's when it attaches: such an interval says nothing. */
	if (s->at_ns && s->epoch == epoch && cpu >= s->cpu_ns && waited >= s->waited_ns) {
		double seconds = (double)(now - s->at_ns) / 1e9, used = (double)(cpu - s->cpu_ns) / 1e9;

		if (seconds < LOOK_MIN_S)
			return;
		s->used_s = used / seconds;
		b->fresh[rank] = fmax(0, used - (double)(waited - s->waited_ns) / 1e9) / seconds;
	}
	b->is_stirred |= s->at_ns && s->epoch != epoch;
	if (s->epoch != epoch) { /* another daemon says it now, by another clock */
		json_decref(s->traffic);
		s->traffic = NULL;
		s->traffic_ns = 0;
	}
	s->at_ns = now;
	s->epoch = epoch;
	s->cpu_ns = cpu;
	s->waited_ns = waited;
	if (traffic && traffic_ns != s->traffic_ns) {
		json_decref(s->traffic_before);
		s->traffic_before = s->traffic;
		s->traffic_before_ns = s->traffic_ns;
		s->traffic = json_incref(traffic);
		s->traffic_ns = traffic_ns;
	}
}

void balance_heard(struct cluster *c, json_t *msg)
{
	struct balance *b = c->head->balance;
	uint64_t now = (uint64_t)json_integer_value(json_object_get(msg, "now_ns"));
	uint64_t busy = (uint64_t)json_integer_value(json_object_get(msg, "busy_ns"));
	uint64_t daemon = (uint64_t)json_integer_value(json_object_get(msg, "daemon_ns"));
	struct seen_cluster *s;
	const json_t *one;
	size_t i;

	if (!b || b->id != (uint64_t)json_integer_value(json_object_get(msg, "id")) || b->due == 0)
		return;
	json_array_foreach(json_object_get(msg, "ranks"), i, one)
		heard_rank(b, one, now);
	s = &b->clusters[c->index];
	if (s->at_ns && busy >= s->busy_ns && daemon >= s->daemon_ns && (double)(now - s->at_ns) / 1e9 >= LOOK_MIN_S) {
		s->busy = (double)(busy - s->busy_ns) / (double)(now - s->at_ns);
		s->is_known = true;
		b->worked_s += (double)(daemon - s->daemon_ns) / 1e9;
	}
	s->at_ns = now;
	s->busy_ns = busy;
	s->daemon_ns = daemon;
	s->room = json_number_value(json_object_get(msg, "room"));
	s->quota = json_number_value(json_object_get(msg, "quota"));
	if (--b->due == 0)
		looked(b);
}

/* ---- from outside --------------------------------------------------------------------------------------------------------- */

static struct balance *get(struct head *h)
{
	struct balance *b = h->balance;

	if (b)
		return b;
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->head = h;
	b->wanted = BAL_NONE;
	b->ranks = calloc(h->room + 1, sizeof(*b->ranks)); /* ranks that are spawned later included */
	b->trend = calloc(h->room + 1, sizeof(*b->trend));
	b->fresh = calloc(h->room + 1, sizeof(*b->fresh));
	b->clusters = calloc(RT_CLUSTERS_MAX, sizeof(*b->clusters));
	h->balance = b;
	if (!b->ranks || !b->trend || !b->fresh || !b->clusters) {
		balance_fini(h);
		return NULL;
	}
	for (uint32_t r = 0; r <= h->room; r++)
		b->ranks[r].told = -1;
	return b;
}

int balance_init(struct head *h, struct gw_error *why)
{
	struct balance *b;

	if (h->spec->balance == BAL_OFF)
		return 0;
	b = get(h);
	if (!b)
		return gw_fail(why, -ENOMEM, "out of memory");
	b->strategy = h->spec->balance;
	b->every_ms = h->spec->balance_every_ms ? h->spec->balance_every_ms : EVERY_MS;
	if (gw_loop_timer(h->loop, &b->timer, SOON_MS, 0, on_timer, b) < 0) /* what the next look is compared with */
		return gw_fail(why, -ENOMEM, "out of memory");
	return 0;
}

void balance_fini(struct head *h)
{
	struct balance *b = h->balance;

	h->balance = NULL;
	if (!b)
		return;
	gw_timer_cancel(b->timer);
	gw_timer_cancel(b->deadline);
	for (uint32_t r = 0; b->ranks && r < h->size; r++) {
		json_decref(b->ranks[r].traffic);
		json_decref(b->ranks[r].traffic_before);
	}
	json_decref(b->answer);
	forget_hosts(b);
	free(b->ranks);
	free(b->trend);
	free(b->fresh);
	free(b->clusters);
	free(b->steps);
	free(b);
}

int balance_request(struct head *h, const char *strategy, bool is_dry, bool is_recorded, balance_done_fn *done, void *ctx,
                    struct gw_error *why)
{
	enum bal_strategy asked = h->spec->balance != BAL_OFF ? h->spec->balance : BAL_REFINE;
	struct balance *b;

	if (strategy && (bal_strategy_parse(strategy, &asked) < 0 || asked == BAL_OFF))
		return gw_fail(why, -EINVAL, "there is no strategy '%s': greedy, refine, comm and consolidate are", strategy);
	if (suspend_refuse(h, why) < 0)
		return why->code;
	b = get(h);
	if (!b)
		return gw_fail(why, -ENOMEM, "out of memory");
	if (b->done || b->n_steps)
		return gw_fail(why, -EBUSY, "ranks are being balanced just now; try again when that is over");
	b->done = done;
	b->ctx = ctx;
	b->asked = asked;
	b->is_dry = is_dry;
	b->is_recorded = is_recorded;
	b->patience = 5;
	b->looks_due = asked == BAL_COMM ? 3 : 2;
	for (uint32_t r = 0; r < h->size; r++) { /* an interval of its own: what was long ago, or when another asked, does not count */
		b->ranks[r].at_ns = 0;
		b->ranks[r].told = -1;
		b->trend[r] = (struct bal_trend){ 0 };
	}
	for (uint32_t c = 0; c < h->n_clusters; c++)
		b->clusters[c].at_ns = 0;
	b->looked_ns = 0;
	look(b);
	return 0;
}

void balance_forget(struct head *h, const void *ctx)
{
	struct balance *b = h->balance;

	if (!b || !b->done || b->ctx != ctx)
		return;
	b->done = NULL;
	for (uint32_t i = b->next; i < b->n_steps; i++) {
		b->steps[i].status = -ECANCELED;
		snprintf(b->steps[i].text, sizeof(b->steps[i].text), "whoever asked has gone");
	}
	b->next = b->n_steps;
	if (b->under_way == 0 && b->n_steps > 0)
		finish(b);
}

json_t *balance_json(const struct head *h)
{
	const struct balance *b = h->balance;
	json_t *loads;

	if (!b)
		return json_null();
	loads = json_array();
	for (uint32_t r = 0; r < h->size; r++)
		json_array_append_new(loads, has_load(b, r) ? json_real(load_of(b, r)) : json_null());
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:o}", "strategy", bal_strategy_name(b->strategy), "every_ms",
	                 (json_int_t)b->every_ms, "looks", (json_int_t)b->looks, "plans", (json_int_t)b->plans, "moved", (json_int_t)b->moved,
	                 "failed", (json_int_t)b->failed, "peak", b->peak, "peak_planned", b->predicted, "words", b->words, "loads", loads);
}
