/* SPDX-License-Identifier: BSD-2-Clause */
/* Moves that the head has asked the owners of ranks for, until they answer. Who asked the head hears of the end. */
#include <stdlib.h>

#include "runtime/launcher/head.h"

int moves_allow_to(const struct head *h, json_int_t to, struct gw_error *why)
{
	static const char *const states[] = { "is starting", "is starting", "", "is leaving", "has left the job", "was lost", "has ended" };

	if (to < 0 || to >= (json_int_t)h->n_clusters)
		return gw_fail(why, -ENOENT, "there is no cluster %lld: the job has clusters 0 to %u", (long long)to, h->n_clusters - 1);
	if (h->clusters[to].state != CLUSTER_UP)
		return gw_fail(why, -EHOSTDOWN, "cluster %lld is not up: it %s", (long long)to, states[h->clusters[to].state]);
	if (h->clusters[to].is_drained)
		return gw_fail(why, -EBUSY, "cluster %lld is drained: no rank moves there until 'godwit undrain %lld'", (long long)to,
		               (long long)to);
	return 0;
}

bool moves_suits(const struct head *h, uint32_t to)
{
	return moves_allow_to(h, to, NULL) == 0 && !layout_is_service(h, to);
}

static bool is_of_host(const struct head *h, const struct cluster *c, const char *host)
{
	return clusters_is_host(&h->hosts[c->host], host);
}

int moves_allow_host(const struct head *h, const char *host, struct gw_error *why)
{
	char list[CLUSTERS_HOSTS_MAX];

	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (is_of_host(h, &h->clusters[c], host))
			return 0;
	clusters_hosts(h, list, sizeof(list));
	return gw_fail(why, -ENOENT, "there is no host '%.200s' in this job, which runs on %s", host, list);
}

int moves_choose(const struct head *h, json_int_t rank, const char *host, json_int_t *to, struct gw_error *why)
{
	uint32_t fewest = UINT32_MAX;
	bool is_drained = false, is_service = false;

	*to = 0;
	if (is_of_host(h, &h->clusters[h->ranks[rank].cluster], host))
		return gw_fail(why, -EALREADY, "rank %lld is on host %s already", (long long)rank, host);
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		uint32_t n = 0;

		if (h->clusters[c].state != CLUSTER_UP || !is_of_host(h, &h->clusters[c], host))
			continue;
		if (h->clusters[c].is_drained) {
			is_drained = true;
			continue;
		}
		if (layout_is_service(h, c)) {
			is_service = true;
			continue;
		}
		for (uint32_t r = 0; r < h->size; r++)
			n += h->ranks[r].cluster == c && h->ranks[r].state != RANK_ENDED;
		gw_list_for(e, &h->moves)
			n += gw_list_entry(e, struct move, node)->to == c;
		if (n < fewest) {
			fewest = n;
			*to = c;
		}
	}
	if (fewest < UINT32_MAX)
		return 0;
	if (is_service && !is_drained)
		return gw_fail(why, -EBUSY, "host %s has clusters for services only; name one of them by its number if it has to be there", host);
	return is_drained ? gw_fail(why, -EBUSY, "host %s is drained: no rank moves there until 'godwit undrain %s'", host, host) :
	       gw_fail(why, -EHOSTDOWN, "no cluster of host %s is up", host);
}

/* All of them, before any is moved: the request is wrong, as one to a cluster that there is not. */
int moves_allow_ranks(const struct head *h, const json_t *ranks, struct gw_error *why)
{
	const json_t *rank;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)ranks, i, rank)
		if (!json_is_integer(rank) || json_integer_value(rank) < 0 || json_integer_value(rank) >= (json_int_t)h->size)
			return gw_fail(why, -ENOENT, "there is no rank %lld: the job has ranks 0 to %u", (long long)json_integer_value(rank),
			               h->size - 1);
	return 0;
}

int moves_begin(struct head *h, json_int_t rank, uint32_t to, json_int_t timeout_ms, const json_t *how, const char *by, moves_done_fn *done,
                void *ctx, struct gw_error *why)
{
	static const char *const passed_on[] = { "technique", "max_downtime_us", "bandwidth", "max_slowdown", "plain", "moment_ms" };
	struct rank *r;
	struct move *m;
	json_t *msg;
	char name[CLUSTER_NAME_MAX];

	r = &h->ranks[rank];
	if (r->state == RANK_ENDED)
		return gw_fail(why, -ESRCH, "rank %lld has ended", (long long)rank);
	if (r->state == RANK_WAITING)
		return gw_fail(why, -EAGAIN, "rank %lld has not been started yet", (long long)rank);
	if (r->cluster == to)
		return gw_fail(why, -EALREADY, "rank %lld is on %s already", (long long)rank, clusters_name(h, to, name));
	if (suspend_refuse(h, why) < 0 || pins_refuse(h, (uint32_t)rank, why) < 0)
		return why->code;
	m = calloc(1, sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "out of memory");
	m->id = ++h->next_id;
	m->by = by;
	m->done = done;
	m->ctx = ctx;
	m->rank = (uint32_t)rank;
	m->from = r->cluster;
	m->to = to;
	msg = json_pack("{s:s, s:I, s:I, s:i, s:I, s:b}", "op", "migrate", "id", (json_int_t)m->id, "rank", rank, "to", (int)to,
	                "timeout_ms", timeout_ms, "carry", json_is_true(json_object_get(how, "carry")) || h->spec->is_carrying);
	for (size_t i = 0; i < GW_ARRAY_LEN(passed_on); i++)
		if (json_object_get(how, passed_on[i]))
			json_object_set(msg, passed_on[i], json_object_get(how, passed_on[i]));
	if (!job_cluster_send(h, r->cluster, msg)) {
		free(m);
		return gw_fail(why, -EPIPE, "rank %lld: the daemon of %s does not answer", (long long)rank,
		               clusters_name(h, r->cluster, name));
	}
	ledger_begun(h, m, how);
	gw_list_append(&h->moves, &m->node);
	return 0;
}

static void cancel(struct head *h, const struct move *m)
{
	job_cluster_send(h, m->from, json_pack("{s:s, s:I}", "op", "cancel", "id", (json_int_t)m->id));
}

void moves_forget(struct head *h, const void *ctx)
{
	gw_list_for(e, &h->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->ctx != ctx)
			continue;
		m->done = NULL; /* what has begun goes on */
		m->ctx = NULL;
		cancel(h, m);
	}
}

void moves_take_back(struct head *h, uint32_t to)
{
	gw_list_for(e, &h->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->to == to) {
			m->is_taken_back = true;
			cancel(h, m);
		}
	}
}

void moves_take_back_rank(struct head *h, uint32_t rank)
{
	struct move *m = moves_of(h, rank);

	if (m) {
		m->is_taken_back = true;
		cancel(h, m);
	}
}

struct move *moves_of(const struct head *h, uint32_t rank)
{
	gw_list_for(e, &h->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->rank == rank)
			return m;
	}
	return NULL;
}

static void move_done(struct head *h, struct move *m, int status, const char *text, json_t *measures)
{
	gw_list_remove(&m->node); /* first: whoever hears of it may look at those that are left, and begin another */
	ledger_over(h, m, status, text, measures);
	if (m->done)
		m->done(m->ctx, m, status, text, measures);
	free(m);
}

void moves_answered(struct head *h, json_t *msg)
{
	uint64_t id = (uint64_t)json_integer_value(json_object_get(msg, "id"));
	const char *text = json_string_value(json_object_get(msg, "text"));

	gw_list_for(e, &h->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		int status = (int)json_integer_value(json_object_get(msg, "status"));
		char drained[100];

		if (m->id != id)
			continue;
		if (m->is_taken_back && status == -ECANCELED) {
			if (h->clusters[m->to].is_drained)
				snprintf(drained, sizeof(drained), "cluster %u is being drained, and the move had not begun", m->to);
			else if (h->ranks[m->rank].wish.is_due && h->ranks[m->rank].wish.is_pin)
				snprintf(drained, sizeof(drained), "its program has pinned it, and the move had not begun");
			else
				snprintf(drained, sizeof(drained), "the job was being suspended, and the move had not begun");
			text = drained;
		}
		move_done(h, m, status, text ? text : "", json_object_get(msg, "measures"));
		return;
	}
}

/* Of those that ask @cluster one that is left */
static struct move *move_from(const struct head *h, uint32_t cluster)
{
	gw_list_for(e, &h->moves) {
		struct move *m = gw_list_entry(e, struct move, node);

		if (m->from == cluster)
			return m;
	}
	return NULL;
}

void moves_cluster_lost(struct head *h, uint32_t cluster)
{
	struct move *m;

	while ((m = move_from(h, cluster))) {
		char name[CLUSTER_NAME_MAX], text[CLUSTER_NAME_MAX + 100];

		if (h->ranks[m->rank].cluster == m->to && h->ranks[m->rank].state == RANK_RUNNING) {
			move_done(h, m, 0, "moved; its measures died with the daemon that it left", NULL);
			continue;
		}
		snprintf(text, sizeof(text), "rank %u: the daemon of %s, where it lived, died", m->rank,
		         clusters_name(h, cluster, name));
		move_done(h, m, -EPIPE, text, NULL);
	}
}

void moves_fini(struct head *h)
{
	gw_list_for_safe(e, &h->moves)
		free(gw_list_entry(e, struct move, node));
}
