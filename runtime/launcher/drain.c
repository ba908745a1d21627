/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clusters that are emptied, and that leave the job.
 *
 *   drain    mark the clusters: no move goes there any more; move the ranks away, some at a time, each to where the fewest
 *            share the processors. A rank that cannot move is named, the others go
 *   remove   drain; when nothing lives there and nothing is on its way there: `leave`; the daemon says `left` and ends
 *
 * All is decided anew after whatever happens (drain_check): ranks that end, that arrive late, destinations that die.
 */
#include <stdlib.h>

#include "runtime/launcher/head.h"

#define AT_ONCE 4          /* moves of one drain that are under way: more would only slow each other down */
#define TRIES   3          /* destinations that are tried for a rank */
#define TIMEOUT_MS 60000

struct attempts {
	uint32_t n, to[TRIES];
	uint32_t ends_at;           /* the cluster, + 1, where its process has ended already: its end will be told */
	bool is_stuck;
};

struct drain {
	struct gw_list node;        /* head.drains */
	struct head *head;
	bool is_remove, is_over;    /* is_over: its time is */
	uint32_t n_clusters, moved;
	struct cluster **clusters;
	struct attempts *ranks;     /* of each rank of the job */
	json_t *stuck;              /* rank text, of each that could not be moved */
	uint64_t until_ns;
	struct gw_timer *deadline;
	drain_done_fn *done;
	void *ctx;
};

static bool is_gone(const struct cluster *c)
{
	return c->state == CLUSTER_LEFT || c->state == CLUSTER_LOST || c->state == CLUSTER_ENDED;
}

static bool is_target(const struct drain *d, uint32_t cluster)
{
	for (uint32_t i = 0; i < d->n_clusters; i++)
		if (d->clusters[i]->index == cluster)
			return true;
	return false;
}

static void drain_free(struct drain *d)
{
	if (d->node.next)
		gw_list_remove(&d->node);
	moves_forget(d->head, d);
	gw_timer_cancel(d->deadline);
	json_decref(d->stuck);
	free(d->clusters);
	free(d->ranks);
	free(d);
}

/* ---- where to -------------------------------------------------------------------------------------------------------- */

struct load {
	bool is_full;         /* its host has no slot of a pool left for the job */
	uint64_t domain, own; /* ranks for each processor of its cores, in thousandths; ranks of its own */
};

/* Those counted that are on their way, and not those that are about to leave the same cores: with @d, or @one alone */
static struct load load_of(const struct head *h, const struct drain *d, uint32_t one, const struct cluster *c)
{
	uint64_t cpus = (uint64_t)CPU_COUNT(&c->cores.cpus);
	uint32_t on_host = 0;
	struct load l = { 0 };

	for (uint32_t r = 0; r < h->size; r++) {
		const struct rank *rank = &h->ranks[r];
		const struct move *m = moves_of(h, r);
		uint32_t at = m ? m->to : rank->cluster;

		if (rank->state == RANK_ENDED || (d ? is_target(d, at) : r == one))
			continue;
		l.domain += h->clusters[at].cores.domain == c->cores.domain;
		l.own += at == c->index;
		on_host += h->clusters[at].host == c->host;
	}
	l.is_full = h->hosts[c->host].slots && on_host >= h->hosts[c->host].slots;
	l.domain = (l.domain + 1) * 1000 / (cpus ? cpus : 1);
	return l;
}

static bool is_better(const struct load *l, const struct load *least)
{
	return l->is_full != least->is_full ? !l->is_full : l->domain != least->domain ? l->domain < least->domain : l->own < least->own;
}

static struct cluster *destination(const struct drain *d, uint32_t rank)
{
	const struct attempts *a = &d->ranks[rank];
	struct head *h = d->head;
	struct cluster *best = NULL;
	struct load least = { true, UINT64_MAX, 0 };

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		bool was_tried = false;
		struct load l;

		for (uint32_t k = 0; k < a->n; k++)
			was_tried |= a->to[k] == i;
		if (was_tried || !moves_suits(h, i))
			continue;
		l = load_of(h, d, rank, &h->clusters[i]);
		if (best && !is_better(&l, &least))
			continue;
		best = &h->clusters[i];
		least = l;
	}
	return best;
}

bool drain_where(const struct head *h, uint32_t rank, uint32_t *to)
{
	struct load least = { 0 };
	bool has_one = false;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct load l;

		if (i == h->ranks[rank].cluster || !moves_suits(h, i))
			continue;
		l = load_of(h, NULL, rank, &h->clusters[i]);
		if (has_one && !is_better(&l, &least))
			continue;
		has_one = true;
		*to = i;
		least = l;
	}
	return has_one;
}

/* ---- ranks ----------------------------------------------------------------------------------------------------------- */

static void stuck(struct drain *d, uint32_t rank, const char *text)
{
	d->ranks[rank].is_stuck = true;
	json_array_append_new(d->stuck, json_pack("{s:i, s:s}", "rank", (int)rank, "text", text));
}

static void on_moved(void *ctx, const struct move *m, int status, const char *text, json_t *measures)
{
	struct drain *d = ctx;
	struct attempts *a = &d->ranks[m->rank];

	(void)measures;
	if (status == 0) {
		d->moved++;
	} else if (d->head->ranks[m->rank].state != RANK_ENDED && is_target(d, d->head->ranks[m->rank].cluster)) {
		if (status == -ESRCH && !d->is_over) {
			a->ends_at = m->from + 1;
			drain_check(d->head);
			return;
		}
		a->to[a->n++] = m->to;
		if (a->n == TRIES || d->is_over || !destination(d, m->rank))
			stuck(d, m->rank, text);
	}
	drain_check(d->head);
}

static void move_away(struct drain *d, uint32_t rank)
{
	uint64_t now = gw_now_ns();
	struct cluster *to = destination(d, rank);
	struct gw_error why = { 0 };

	if (!to)
		stuck(d, rank, "there is no other cluster that is up and not drained");
	else if (d->is_over || now >= d->until_ns)
		stuck(d, rank, "the time was over before its turn came");
	else if (moves_begin(d->head, rank, to->index, (json_int_t)((d->until_ns - now) / 1000000 + 1), NULL, "drain", on_moved, d, &why) < 0 &&
	         why.code != -EPIPE) /* else its daemon has just died: the verdict will come */
		stuck(d, rank, why.text);
}

/* Begin what can begin. Return whether something is still to be waited for. */
static bool empty(struct drain *d)
{
	struct head *h = d->head;
	uint32_t under_way = 0;
	bool waits = false;

	gw_list_for(e, &h->moves) {
		const struct move *m = gw_list_entry(e, struct move, node);

		under_way += m->ctx == d;
		waits |= is_target(d, m->from) || is_target(d, m->to);
	}
	for (uint32_t r = 0; r < h->size; r++) {
		const struct rank *rank = &h->ranks[r];

		if (rank->state == RANK_ENDED || d->ranks[r].is_stuck || !is_target(d, rank->cluster))
			continue;
		if (is_gone(&h->clusters[rank->cluster])) { /* what becomes of it the survivors say */
			waits = true;
		} else if (moves_of(h, r) || (d->ranks[r].ends_at == rank->cluster + 1 && !d->is_over)) {
			waits = true;
		} else if (rank->state == RANK_WAITING && !d->is_over) {
			waits = true;
		} else if (under_way < AT_ONCE || d->is_over) {
			move_away(d, r);
			under_way++;
			waits |= !d->ranks[r].is_stuck;
		} else {
			waits = true;
		}
	}
	return waits;
}

/* ---- the end --------------------------------------------------------------------------------------------------------- */

static void done(struct drain *d, int status)
{
	drain_done_fn *fn = d->done;
	json_t *clusters = json_array(), *answer;
	void *ctx = d->ctx;

	for (uint32_t i = 0; i < d->n_clusters; i++)
		json_array_append_new(clusters, json_integer((json_int_t)d->clusters[i]->index));
	answer = json_pack("{s:s, s:o, s:i, s:i, s:O}", "op", d->is_remove ? "removed" : "drained", "clusters", clusters, "status", status,
	                   "moved", (int)d->moved, "stuck", d->stuck);
	gw_event(d->is_remove ? "job.removed" : "job.drained", "{s:i, s:i}", "status", status, "moved", (int)d->moved);
	drain_free(d);
	fn(ctx, answer);
}

/* Nothing lives there any more. Return whether the daemons, and what had started them, have ended. */
static bool leave(struct drain *d)
{
	bool are_gone = true;

	for (uint32_t i = 0; i < d->n_clusters; i++) {
		struct cluster *c = d->clusters[i];

		if (c->state == CLUSTER_UP) {
			job_cluster_send(d->head, c->index, json_pack("{s:s}", "op", "leave"));
			c->state = CLUSTER_LEAVING;
			gw_event("cluster.leaving", "{s:i}", "cluster", (int)c->index);
		}
		are_gone &= is_gone(c) && remote_is_over(c);
	}
	return are_gone;
}

static bool step(struct drain *d)
{
	bool has_stuck;

	if (empty(d))
		return false;
	has_stuck = json_array_size(d->stuck) > 0;
	if (!has_stuck && d->is_remove && !leave(d)) {
		if (!d->is_over)
			return false;
		done(d, -ETIMEDOUT); /* it leaves when it can */
		return true;
	}
	done(d, has_stuck ? -EBUSY : 0);
	return true;
}

static void check_all(void *ctx)
{
	struct head *h = ctx;
	bool again = true;

	h->is_drain_check_due = false;
	while (again && !h->is_ending) { /* who is told of an end may begin something */
		again = false;
		gw_list_for(e, &h->drains) {
			again = step(gw_list_entry(e, struct drain, node));
			if (again)
				break;
		}
	}
}

void drain_check(struct head *h)
{
	if (h->is_drain_check_due || gw_list_is_empty(&h->drains))
		return;
	h->is_drain_check_due = gw_loop_defer(h->loop, check_all, h) == 0;
}

static void on_deadline(void *ctx)
{
	struct drain *d = ctx;

	d->deadline = NULL;
	d->is_over = true;
	drain_check(d->head);
}

/* ---- asked for ------------------------------------------------------------------------------------------------------- */

static int add_cluster(struct drain *d, struct cluster *c, struct gw_error *why)
{
	struct cluster **more;

	if (is_target(d, c->index))
		return 0;
	if (c->state == CLUSTER_LEFT || c->state == CLUSTER_LOST)
		return gw_fail(why, -ENOENT, "cluster %u %s", c->index, c->state == CLUSTER_LEFT ? "has left the job" : "was lost");
	if (c->state != CLUSTER_UP && c->state != CLUSTER_LEAVING)
		return gw_fail(why, -EAGAIN, "cluster %u is not up yet", c->index);
	more = realloc(d->clusters, (d->n_clusters + 1) * sizeof(struct cluster *));
	if (!more)
		return gw_fail(why, -ENOMEM, "out of memory");
	d->clusters = more;
	d->clusters[d->n_clusters++] = c;
	return 0;
}

/* A number, or the name of a host: all its clusters that are there */
static int add_target(struct drain *d, const json_t *what, struct gw_error *why)
{
	const char *name = json_string_value(what);
	struct head *h = d->head;
	uint32_t before = d->n_clusters;
	char list[CLUSTERS_HOSTS_MAX];

	if (json_is_integer(what)) {
		json_int_t c = json_integer_value(what);

		if (c < 0 || c >= (json_int_t)h->n_clusters)
			return gw_fail(why, -ENOENT, "there is no cluster %lld: the job has clusters 0 to %u", (long long)c, h->n_clusters - 1);
		return add_cluster(d, &h->clusters[c], why);
	}
	if (!name)
		return gw_fail(why, -EPROTO, "the request is malformed");
	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];
		int code = !is_gone(c) && clusters_is_host(&h->hosts[c->host], name) ? add_cluster(d, c, why) : 0;

		if (code < 0)
			return code;
	}
	if (d->n_clusters > before)
		return 0;
	clusters_hosts(h, list, sizeof(list));
	return gw_fail(why, -ENOENT, "the job has no cluster on a host '%.200s'; it runs on %s", name, list);
}

static int check_others(const struct drain *d, struct gw_error *why)
{
	const struct head *h = d->head;

	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (!is_target(d, i) && moves_suits(h, i))
			return 0;
	return gw_fail(why, -EBUSY, "no other cluster of the job is up and not drained: its ranks would have no place; 'godwit add' "
	               "brings one");
}

/* The clusters that @targets (numbers and names of hosts) name, in a new drain */
static int collect(struct drain **out, struct head *h, const json_t *targets, struct gw_error *why)
{
	struct drain *d = calloc(1, sizeof(*d));
	int code = 0;

	if (!d)
		return gw_fail(why, -ENOMEM, "out of memory");
	d->head = h;
	d->stuck = json_array();
	d->ranks = calloc(h->size, sizeof(*d->ranks));
	if (!d->stuck || !d->ranks)
		code = gw_fail(why, -ENOMEM, "out of memory");
	else if (!json_is_array(targets) || json_array_size(targets) == 0)
		code = gw_fail(why, -EPROTO, "the request is malformed");
	for (size_t i = 0; code == 0 && i < json_array_size(targets); i++)
		code = add_target(d, json_array_get(targets, i), why);
	if (code < 0)
		drain_free(d);
	else
		*out = d;
	return code;
}

int drain_begin(struct head *h, const json_t *targets, bool is_remove, uint64_t timeout_ms, drain_done_fn *fn, void *ctx,
                struct gw_error *why)
{
	struct drain *d;
	int code = collect(&d, h, targets, why);

	if (code < 0)
		return code;
	code = check_others(d, why);
	if (!timeout_ms)
		timeout_ms = TIMEOUT_MS;
	if (code == 0 && gw_loop_timer(h->loop, &d->deadline, timeout_ms, 0, on_deadline, d) < 0)
		code = gw_fail(why, -ENOMEM, "out of memory");
	if (code < 0) {
		drain_free(d);
		return code;
	}
	d->is_remove = is_remove;
	d->done = fn;
	d->ctx = ctx;
	d->until_ns = gw_now_ns() + timeout_ms * 1000000;
	gw_list_append(&h->drains, &d->node);
	for (uint32_t i = 0; i < d->n_clusters; i++) {
		d->clusters[i]->is_drained = true;
		gw_event("cluster.drained", "{s:i, s:b, s:b}", "cluster", (int)d->clusters[i]->index, "on", 1, "leaves", (int)is_remove);
		moves_take_back(h, d->clusters[i]->index);
	}
	drain_check(h);
	return 0;
}

json_t *drain_undo(struct head *h, const json_t *targets, struct gw_error *why)
{
	json_t *clusters, *answer = NULL;
	struct drain *d;

	if (collect(&d, h, targets, why) < 0)
		return NULL;
	clusters = json_array();
	for (uint32_t i = 0; i < d->n_clusters; i++) {
		uint32_t c = d->clusters[i]->index;

		json_array_append_new(clusters, json_integer((json_int_t)c));
		gw_list_for(e, &h->drains)
			if (is_target(gw_list_entry(e, struct drain, node), c)) {
				gw_fail(why, -EBUSY, "cluster %u is just being drained or removed", c);
				goto out;
			}
	}
	for (uint32_t i = 0; i < d->n_clusters; i++) {
		d->clusters[i]->is_drained = false;
		gw_event("cluster.drained", "{s:i, s:b}", "cluster", (int)d->clusters[i]->index, "on", 0);
	}
	answer = json_pack("{s:s, s:O}", "op", "undrained", "clusters", clusters);
out:
	json_decref(clusters);
	drain_free(d);
	return answer;
}

void drain_forget(struct head *h, const void *ctx)
{
	gw_list_for_safe(e, &h->drains) {
		struct drain *d = gw_list_entry(e, struct drain, node);

		if (d->ctx == ctx)
			drain_free(d);
	}
}

void drain_fini(struct head *h)
{
	gw_list_for_safe(e, &h->drains)
		drain_free(gw_list_entry(e, struct drain, node));
}
