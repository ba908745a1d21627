/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A job in a pool: the keeper of this host is asked for slots, and starts the daemons, through `godwit in-pool`, which stands
 * where ssh does. The job's secret is the keepers' too: they derive it from the pool's. The connection to the keeper stays
 * open for as long as the job runs: its end gives the slots back, wherever it comes from.
 */
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/launcher/head.h"
#include "runtime/pool/pool.h"

struct asking { struct gw_loop *loop; struct job_spec *spec; struct gw_error *why; };

static int take_grant(struct job_spec *spec, const json_t *msg, struct gw_error *why)
{
	const json_t *hosts = json_object_get(msg, "hosts");
	const char *secret = json_string_value(json_object_get(msg, "secret"));
	const char *address = json_string_value(json_object_get(msg, "address"));
	int code = 0;

	if (!secret || !address || gw_trust_secret_parse(spec->pool_secret, secret) < 0)
		return gw_fail(why, -EPROTO, "the keeper's answer is not understood");
	snprintf(spec->pool_address, sizeof(spec->pool_address), "%s", address);
	hosts_forget(spec);
	for (size_t i = 0; i < json_array_size(hosts) && code == 0; i++) {
		const json_t *h = json_array_get(hosts, i);

		code = hosts_add(spec, json_string_value(json_object_get(h, "host")),
		                 (uint32_t)json_integer_value(json_object_get(h, "slots")), why);
	}
	return code;
}

static void on_answer(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op")), *text = json_string_value(json_object_get(msg, "text"));
	struct asking *a = ctx;
	int code;

	(void)l; (void)fds; (void)n_fds;
	if (op && strcmp(op, "granted") == 0)
		code = take_grant(a->spec, msg, a->why);
	else
		code = gw_fail(a->why, -EBUSY, "%s", text ? text : "the keeper's answer is not understood");
	gw_loop_stop(a->loop, code < 0 ? code : 1);
}

static void on_gone(struct gw_link *l, void *ctx, int error)
{
	struct asking *a = ctx;

	(void)l; (void)error;
	gw_loop_stop(a->loop, gw_fail(a->why, -EPIPE, "the pool has ended"));
}

static const struct gw_link_ops asking_ops = { .json = on_answer, .closed = on_gone };

/* Waits for the answer; a job that needs no waiting is answered at once. */
static int ask(struct job_spec *spec, int fd, struct gw_error *why)
{
	struct asking a = { .spec = spec, .why = why };
	struct gw_link *l;
	int code = gw_loop_create(&a.loop), keep = dup(fd); /* the link closes its own */

	if (code == 0)
		code = gw_link_create(&l, a.loop, fd, &asking_ops, &a);
	else
		close(fd);
	if (code < 0 || keep < 0)
		return gw_fail(why, code < 0 ? code : -errno, "cannot talk to the pool's keeper: %s", strerror(errno));
	gw_link_send_json(l, json_pack("{s:s, s:I, s:I, s:i, s:s}", "op", "ask", "job", (json_int_t)spec->pool_job, "number",
	                               (json_int_t)(spec->restart ? restart_job(spec) : spec->pool_job), "ranks", (int)spec->size, "text",
	                               spec->apps[0].argv.list[0]));
	code = gw_loop_run(a.loop);
	gw_link_destroy(l);
	gw_loop_destroy(a.loop);
	if (code < 0) {
		close(keep);
		return code;
	}
	spec->pool_fd = keep;
	return 0;
}

int pool_take(struct job_spec *spec, struct gw_error *why)
{
	struct pool_place place = { 0 };
	char path[4096];
	int fd, code;

	do
		if (getrandom(&spec->pool_job, sizeof(spec->pool_job), 0) != sizeof(spec->pool_job))
			return gw_fail(why, -errno, "no random numbers: %s", strerror(errno));
	while (spec->pool_job == 0);
	fd = pool_connect(spec->pool, &place, why);
	if (fd < 0)
		return fd;
	code = ask(spec, fd, why);
	if (code < 0)
		return gw_fail_more(why, "pool '%s': ", place.name);
	code = own_path(path, sizeof(path), "godwit");
	if (code < 0 || strchr(path, ' '))
		return gw_fail(why, -EINVAL, "godwit at '%s' cannot be used as a launcher", path);
	if (asprintf(&spec->pool_launcher, "%s in-pool %s@%s %08x %%h %%c", path, place.name, place.host, spec->pool_job) < 0) {
		spec->pool_launcher = NULL;
		return gw_fail(why, -ENOMEM, "out of memory");
	}
	spec->launcher = spec->pool_launcher;
	spec->is_remote = true;
	return 0;
}

/* ---- a host of the job is to leave ----------------------------------------------------------------------------------- */

/*
 * The pool has slots for the ranks on other hosts, and says where. Daemons are started where the job has none, the host is
 * drained and left; what could not be done the keeper is told, and it asks again.
 */
struct vacating {
	struct head *head;
	char host[256];
	uint32_t due;            /* hosts that are coming */
	struct gw_error why;     /* what went wrong */
};

static void vacated(struct vacating *v)
{
	struct head *h = v->head;

	h->vacating = NULL;
	if (h->keeper)
		gw_link_send_json(h->keeper, json_pack("{s:s, s:s}", "op", "vacated", "text", v->why.text));
	free(v);
}

static void on_removed(void *ctx, json_t *answer)
{
	const json_t *stuck = json_object_get(answer, "stuck"), *first = json_array_get(stuck, 0);
	struct vacating *v = ctx;

	if (first)
		gw_fail(&v->why, -EBUSY, "%zu rank%s cannot be moved; rank %lld: %s", json_array_size(stuck), json_array_size(stuck) == 1 ? "" : "s",
		        (long long)json_integer_value(json_object_get(first, "rank")), json_string_value(json_object_get(first, "text")));
	json_decref(answer);
	vacated(v);
}

static bool has_host(const struct head *h, const char *name)
{
	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (h->clusters[i].state < CLUSTER_LEFT && clusters_is_host(&h->hosts[h->clusters[i].host], name))
			return true;
	return false;
}

static void empty_host(struct vacating *v)
{
	json_t *targets = json_pack("[s]", v->host);
	bool is_begun = !v->why.code && has_host(v->head, v->host) &&
	                drain_begin(v->head, targets, true, 0, on_removed, v, &v->why) == 0;

	json_decref(targets);
	if (!is_begun)
		vacated(v);
}

static void on_added(void *ctx, json_t *answer)
{
	struct vacating *v = ctx;

	if (json_integer_value(json_object_get(answer, "status")) < 0)
		gw_fail(&v->why, -EIO, "%s", json_string_value(json_object_get(answer, "text")));
	json_decref(answer);
	if (--v->due == 0)
		empty_host(v);
}

static void set_slots(struct head *h, const char *name, uint32_t slots)
{
	for (uint32_t i = 0; i < h->n_hosts; i++)
		if (strcmp(h->hosts[i].name, name) == 0)
			h->hosts[i].slots = slots; /* one that has left, too: it does not matter */
}

static void vacate(struct head *h, const json_t *msg)
{
	const char *host = json_string_value(json_object_get(msg, "host"));
	const json_t *hosts = json_object_get(msg, "hosts");
	struct vacating *v;

	if (h->vacating || h->is_ending || !host) /* the answer to the first is one to this, too */
		return;
	v = calloc(1, sizeof(*v));
	if (!v)
		return;
	v->head = h;
	v->due = 1;
	snprintf(v->host, sizeof(v->host), "%s", host);
	h->vacating = v;
	for (size_t i = 0; i < json_array_size(hosts); i++) {
		const char *name = json_string_value(json_object_get(json_array_get(hosts, i), "host"));

		if (!name)
			continue;
		if (!has_host(h, name)) {
			struct gw_error why = { 0 }; /* of a host that is still starting, too: it is asked again */

			if (grow_begin(h, name, h->spec->clusters, NULL, on_added, v, &why) < 0)
				v->why = why;
			else
				v->due++;
		}
		set_slots(h, name, (uint32_t)json_integer_value(json_object_get(json_array_get(hosts, i), "slots")));
	}
	if (--v->due == 0)
		empty_host(v);
}

/* ---- a host of the pool that the job gets ---------------------------------------------------------------------------- */

#define ADD_MS 15000 /* until the pool has answered: longer than it is without a leader */

struct addition {
	struct gw_list node;     /* head.additions */
	struct head *head;
	char host[256];
	uint32_t count;
	struct gw_timer *deadline;
	grow_done_fn *done;      /* NULL: who asked has gone */
	void *ctx;
};

static void addition_free(struct addition *a)
{
	gw_timer_cancel(a->deadline);
	gw_list_remove(&a->node);
	free(a);
}

static void added(struct addition *a, const char *text)
{
	struct gw_error why = { 0 };
	int code = 0;

	if (*text)
		code = gw_fail(&why, -EBUSY, "host %s: %s", a->host, text);
	else if (a->done)
		code = grow_begin(a->head, a->host, a->count, NULL, a->done, a->ctx, &why);
	if (code == 0 && !*text)
		set_slots(a->head, a->host, 1);
	if (code < 0 && a->done)
		a->done(a->ctx, json_pack("{s:s, s:s, s:[], s:i, s:s}", "op", "added", "host", a->host, "clusters", "status", code, "text",
		                          why.text));
	addition_free(a);
}

static void on_silence(void *ctx)
{
	struct addition *a = ctx;

	a->deadline = NULL;
	added(a, "the pool does not answer; try again");
}

static void on_slot(struct head *h, const json_t *msg)
{
	const char *host = json_string_value(json_object_get(msg, "host")), *text = json_string_value(json_object_get(msg, "text"));

	gw_list_for(e, &h->additions) {
		struct addition *a = gw_list_entry(e, struct addition, node);

		if (!host || strcmp(a->host, host) != 0)
			continue;
		added(a, text ? text : "");
		return;
	}
}

int pool_add(struct head *h, const char *name, uint32_t count, grow_done_fn *done, void *ctx, struct gw_error *why)
{
	struct addition *a;

	if (!name || strlen(name) >= sizeof(a->host))
		return gw_fail(why, -EINVAL, "this is not the name of a host");
	if (has_host(h, name))
		return gw_fail(why, -EEXIST, "the job has host %s of its pool already, and more clusters cannot be added there", name);
	gw_list_for(e, &h->additions)
		if (strcmp(gw_list_entry(e, struct addition, node)->host, name) == 0)
			return gw_fail(why, -EALREADY, "host %s is being added to the job already", name);
	if (!h->keeper || h->is_ending)
		return gw_fail(why, -ESHUTDOWN, "the job is about to end");
	a = calloc(1, sizeof(*a));
	if (!a || gw_loop_timer(h->loop, &a->deadline, ADD_MS, 0, on_silence, a) < 0) {
		free(a);
		return gw_fail(why, -ENOMEM, "out of memory");
	}
	a->head = h;
	a->count = count;
	a->done = done;
	a->ctx = ctx;
	snprintf(a->host, sizeof(a->host), "%s", name);
	gw_list_append(&h->additions, &a->node);
	gw_link_send_json(h->keeper, json_pack("{s:s, s:s}", "op", "more", "host", name));
	return 0;
}

void pool_forget(struct head *h, const void *ctx)
{
	for (struct gw_list *e = h->additions.next; e && e != &h->additions; e = e->next) /* none before the job is set up */
		if (gw_list_entry(e, struct addition, node)->ctx == ctx)
			gw_list_entry(e, struct addition, node)->done = NULL;
}

/* ---- what the pool is told -------------------------------------------------------------------------------------------- */

#define TELL_MS 300 /* between a change and the word of it: a storm of moves is not a storm in the pool */

static void tell_places(void *ctx)
{
	struct head *h = ctx;
	json_t *places = json_array();

	h->telling = NULL;
	for (uint32_t i = 0; i < h->n_hosts; i++) {
		uint32_t clusters = 0, ranks = 0;

		for (uint32_t c = 0; c < h->n_clusters; c++)
			clusters += h->clusters[c].host == i && h->clusters[c].state < CLUSTER_LEFT;
		for (uint32_t r = 0; r < h->size; r++)
			ranks += h->clusters[h->ranks[r].cluster].host == i && h->ranks[r].state != RANK_ENDED;
		if (clusters)
			json_array_append_new(places, json_pack("{s:s, s:i, s:i}", "host", h->hosts[i].name, "clusters", (int)clusters, "ranks",
			                                        (int)ranks));
	}
	if (h->keeper)
		gw_link_send_json(h->keeper, json_pack("{s:s, s:o}", "op", "placed", "places", places));
	else
		json_decref(places);
}

void pool_placed(struct head *h)
{
	if (h->keeper && !h->telling && !h->is_ending)
		gw_loop_timer(h->loop, &h->telling, TELL_MS, 0, tell_places, h);
}

/* ---- while it runs --------------------------------------------------------------------------------------------------- */

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op")), *text = json_string_value(json_object_get(msg, "text"));

	(void)l; (void)fds; (void)n_fds;
	if (op && strcmp(op, "vacate") == 0)
		vacate(ctx, msg);
	if (op && strcmp(op, "added") == 0)
		on_slot(ctx, msg);
	if (op && strcmp(op, "down") == 0)
		job_fail(ctx, 1, "%s; ending the job", text ? text : "the pool has been taken down");
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct head *h = ctx;

	(void)error;
	gw_link_destroy(l);
	h->keeper = NULL;
	if (!h->is_ending)
		job_fail(h, 1, "the pool's keeper on this host has gone; ending the job");
}

static const struct gw_link_ops keeper_ops = { .json = on_json, .closed = on_closed };

int pool_watch(struct head *h, struct gw_error *why)
{
	int fd = h->spec->pool_fd, code;

	h->spec->pool_fd = -1;
	gw_list_init(&h->additions);
	code = gw_link_create(&h->keeper, h->loop, fd, &keeper_ops, h);
	return code < 0 ? gw_fail(why, code, "no link to the pool's keeper: %s", strerror(-code)) : 0;
}

void pool_fini(struct head *h)
{
	gw_timer_cancel(h->telling);
	gw_link_destroy(h->keeper);
	free(h->vacating);
	while (h->additions.next && !gw_list_is_empty(&h->additions))
		addition_free(gw_list_entry(h->additions.next, struct addition, node));
}
