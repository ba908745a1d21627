/* SPDX-License-Identifier: BSD-2-Clause */
/* The socket of the job's head: godwit status asks all daemons, migrate the owners of ranks (moves.c), pin the head alone. */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define STATUS_MS 3000 /* a daemon that has not answered by then is left out */

struct tool {            /* one connection */
	struct gw_list node;
	struct head *head;
	struct gw_link *link;
	uint32_t due, failed; /* answers of the request that is being served */
	/* a status question that is being answered */
	uint64_t status_id;
	uint32_t answers_due;
	bool is_movable_asked;
	json_t *ranks, *sessions;
	struct gw_timer *deadline;
};

static void tool_destroy(struct tool *t)
{
	moves_forget(t->head, t);
	grow_forget(t->head, t);
	pool_forget(t->head, t);
	drain_forget(t->head, t);
	suspend_forget(t->head, t);
	balance_forget(t->head, t);
	gw_timer_cancel(t->deadline);
	json_decref(t->ranks);
	json_decref(t->sessions);
	gw_list_remove(&t->node);
	gw_link_destroy(t->link);
	free(t);
}

static void refuse_for(struct tool *t, const struct gw_error *why)
{
	gw_link_send_json(t->link, json_pack("{s:s, s:i, s:s}", "op", "refused", "status", why->code, "text", why->text));
}

static void refuse(struct tool *t, const char *text)
{
	struct gw_error why = { 0 };

	gw_fail(&why, -EINVAL, "%s", text);
	refuse_for(t, &why);
}

/* ---- migrate ------------------------------------------------------------------------------------------------------- */

static void report(struct tool *t, uint32_t rank, uint32_t to, int status, const char *text, json_t *measures)
{
	if (status < 0)
		t->failed++;
	gw_link_send_json(t->link, json_pack("{s:s, s:i, s:i, s:i, s:s, s:O?}", "op", "migrated", "rank", (int)rank, "to",
	                                     (int)to, "status", status, "text", text, "measures", measures));
}

static void check_done(struct tool *t)
{
	if (t->due == 0)
		gw_link_send_json(t->link, json_pack("{s:s, s:i}", "op", "done", "failed", (int)t->failed));
}

static void on_moved(void *tool, const struct move *m, int status, const char *text, json_t *measures)
{
	struct tool *t = tool;

	report(t, m->rank, m->to, status, text, measures);
	t->due--;
	check_done(t);
}

static void do_migrate(struct tool *t, json_t *msg)
{
	struct head *h = t->head;
	json_t *ranks = json_object_get(msg, "ranks");
	json_int_t to = json_integer_value(json_object_get(msg, "to"));
	json_int_t timeout_ms = json_integer_value(json_object_get(msg, "timeout_ms"));
	struct gw_error why = { 0 };
	const char *host = json_string_value(json_object_get(msg, "to"));

	if (!json_is_array(ranks) || json_array_size(ranks) == 0 || !(host || json_is_integer(json_object_get(msg, "to")))) {
		refuse(t, "the request is malformed");
		return;
	}
	if ((host ? moves_allow_host(h, host, &why) : moves_allow_to(h, to, &why)) < 0 || moves_allow_ranks(h, ranks, &why) < 0) {
		refuse(t, why.text);
		return;
	}
	t->failed = 0;
	for (size_t i = 0; i < json_array_size(ranks); i++) {
		json_int_t rank = json_integer_value(json_array_get(ranks, i));
		int code = host ? moves_choose(h, rank, host, &to, &why) : 0;

		if (code == 0)
			code = moves_begin(h, rank, (uint32_t)to, timeout_ms, msg, on_moved, t, &why);
		if (code < 0)
			report(t, (uint32_t)rank, (uint32_t)to, code, why.text, NULL);
		else
			t->due++;
	}
	check_done(t);
}

/* ---- status -------------------------------------------------------------------------------------------------------- */

static json_t *clusters_json(const struct head *h)
{
	static const char *const states[] = { "starting", "joining", "up", "leaving", "left", "lost", "ended" };
	json_t *all = json_array();

	for (uint32_t c = 0; c < h->n_clusters; c++) {
		const struct cluster *cl = &h->clusters[c];
		int ranks = 0;

		for (uint32_t r = 0; r < h->size; r++)
			ranks += h->ranks[r].cluster == c && h->ranks[r].state == RANK_RUNNING;
		json_array_append_new(all, json_pack("{s:i, s:i, s:s, s:s, s:i, s:o, s:i, s:i, s:b}", "cluster", (int)c, "host",
		                                     (int)cl->host, "hostname", h->hosts[cl->host].name, "state", states[cl->state], "pid",
		                                     (int)(cl->daemon ? cl->daemon : cl->pid), "cores",
		                                     rt_cpus_json(&cl->cores.cpus), "domain", (int)cl->cores.domain, "ranks",
		                                     ranks, "drained", (int)cl->is_drained));
		layout_describe(h, c, json_array_get(all, c));
	}
	return all;
}

static json_t *unmovable_json(const struct rank *r)
{
	const char *text = r->state == RANK_ENDED ? "it has ended" : r->state == RANK_WAITING ? "it has not been started yet" :
	                   "it is on its way, or its daemon does not answer";

	return json_pack("{s:s, s:[{s:s, s:i, s:s}]}", "state", r->state == RANK_RUNNING ? "moving" : "no", "reasons", "kind",
	                 "state", "number", 0, "text", text);
}

/* What the owner said of a rank; or what the head knows when no owner spoke of it: it has ended, or is on its way. */
static json_t *rank_json(struct tool *t, uint32_t rank)
{
	const struct rank *r = &t->head->ranks[rank];

	for (size_t i = 0; i < json_array_size(t->ranks); i++) {
		json_t *one = json_array_get(t->ranks, i);

		if (json_integer_value(json_object_get(one, "rank")) == (json_int_t)rank)
			return json_incref(one);
	}
	return json_pack("{s:i, s:i, s:i, s:I, s:s, s:i, s:i, s:o*}", "rank", (int)rank, "cluster", (int)r->cluster, "pid",
	                 (int)r->pid, "epoch", (json_int_t)r->epoch, "state", r->state == RANK_ENDED ? "ended"
	                 : r->state == RANK_WAITING ? "starting" : "moving", "threads", 0, "private_kib", 0,
	                 "movable", t->is_movable_asked ? unmovable_json(r) : NULL);
}

static void status_done(struct tool *t)
{
	struct head *h = t->head;
	json_t *ranks = json_array();

	gw_timer_cancel(t->deadline);
	t->deadline = NULL;
	t->answers_due = 0;
	for (uint32_t r = 0; r < h->size; r++) {
		json_t *one = rank_json(t, r);

		pins_describe(h, r, one);
		spawn_describe(h, r, one);
		json_object_set_new(one, "hostname", json_string(h->hosts[h->clusters[h->ranks[r].cluster].host].name));
		json_array_append_new(ranks, one);
	}
	gw_link_send_json(t->link, json_pack("{s:s, s:{s:s, s:s, s:i, s:s, s:i, s:I, s:O}, s:o, s:o, s:O, s:o}", "op", "status", "job", "id",
	                  h->kvsname + strlen("godwit-"), "state", suspend_text(h), "pid", (int)getpid(), "program", h->spec->apps[0].argv.list[0], "ranks",
	                  (int)h->size, "age_ms", (json_int_t)((gw_now_ns() - h->started_ns) / 1000000), "checkpoints", h->checkpoints, "clusters",
	                  clusters_json(h), "ranks", ranks, "sessions", t->sessions, "balance", balance_json(h)));
}

static void on_status_deadline(void *ctx)
{
	struct tool *t = ctx;

	t->deadline = NULL;
	status_done(t);
}

static void do_status(struct tool *t, json_t *msg)
{
	struct head *h = t->head;

	if (t->answers_due)
		return; /* one at a time on a connection */
	t->is_movable_asked = json_is_true(json_object_get(msg, "movable"));
	json_decref(t->ranks);
	json_decref(t->sessions);
	t->ranks = json_array();
	t->sessions = json_array();
	t->status_id = ++h->next_id;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].state == CLUSTER_UP &&
		    job_cluster_send(h, c, json_pack("{s:s, s:I, s:b}", "op", "status", "id", (json_int_t)t->status_id, "movable",
		                                     (int)t->is_movable_asked)))
			t->answers_due++;
	if (t->answers_due)
		gw_loop_timer(h->loop, &t->deadline, STATUS_MS, 0, on_status_deadline, t);
	else
		status_done(t);
}

void tools_status_answer(struct head *h, json_t *msg)
{
	uint64_t id = (uint64_t)json_integer_value(json_object_get(msg, "id"));

	gw_list_for(e, &h->tools) {
		struct tool *t = gw_list_entry(e, struct tool, node);

		if (t->status_id != id || t->answers_due == 0)
			continue;
		json_array_extend(t->ranks, json_object_get(msg, "ranks"));
		json_array_extend(t->sessions, json_object_get(msg, "sessions"));
		if (--t->answers_due == 0)
			status_done(t);
		return;
	}
}

/* ---- pin --------------------------------------------------------------------------------------------------------------- */

static void do_pin(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };
	json_t *answer = pins_request(t->head, msg, &why);

	if (answer)
		gw_link_send_json(t->link, answer);
	else
		refuse(t, why.text);
}

/* ---- suspend, resume, checkpoint ---------------------------------------------------------------------------------------- */

static void on_answered(void *tool, json_t *answer)
{
	struct tool *t = tool;

	gw_link_send_json(t->link, answer);
}

static void do_suspend(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };

	(void)msg;
	if (suspend_begin(t->head, on_answered, t, &why) < 0)
		refuse_for(t, &why);
}

static void do_checkpoint(struct tool *t, json_t *msg)
{
	const char *dir = json_string_value(json_object_get(msg, "dir"));
	struct gw_error why = { 0 };

	if (suspend_checkpoint(t->head, dir ? dir : "", json_is_true(json_object_get(msg, "stop")), on_answered, t, &why) < 0)
		refuse_for(t, &why);
}

static void do_resume(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };
	json_t *answer = suspend_resume_request(t->head, &why);

	(void)msg;
	if (answer)
		gw_link_send_json(t->link, answer);
	else
		refuse_for(t, &why);
}

/* ---- connections --------------------------------------------------------------------------------------------------- */

/* ---- rebalance --------------------------------------------------------------------------------------------------------- */

static void do_rebalance(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };

	if (balance_request(t->head, json_string_value(json_object_get(msg, "strategy")), json_is_true(json_object_get(msg, "dry_run")),
	                    json_is_true(json_object_get(msg, "snapshot")), on_answered, t, &why) < 0)
		refuse_for(t, &why);
}

/* ---- add, drain, remove ------------------------------------------------------------------------------------------------ */

static void on_changed(void *tool, json_t *answer)
{
	struct tool *t = tool;

	if (json_integer_value(json_object_get(answer, "status")) < 0)
		t->failed++;
	gw_link_send_json(t->link, answer);
	t->due--;
	check_done(t);
}

/* Names and numbers are looked at before anything begins; then each host comes, or does not, for itself. */
static void do_add(struct tool *t, json_t *msg)
{
	json_t *hosts = json_object_get(msg, "hosts");
	const char *launcher = json_string_value(json_object_get(msg, "launcher"));

	for (size_t i = 0; i < json_array_size(hosts); i++) {
		const json_t *one = json_array_get(hosts, i);
		json_int_t count = json_integer_value(json_object_get(one, "clusters"));

		if (!json_is_string(json_object_get(one, "name")) || count < 1 || count > RT_CLUSTERS_MAX) {
			refuse(t, "the request is malformed");
			return;
		}
	}
	if (json_array_size(hosts) == 0 || t->due) {
		refuse(t, t->due ? "one request at a time" : "the request is malformed");
		return;
	}
	t->failed = 0;
	t->due = (uint32_t)json_array_size(hosts);
	for (size_t i = 0; i < json_array_size(hosts); i++) {
		const json_t *one = json_array_get(hosts, i);
		const char *name = json_string_value(json_object_get(one, "name"));
		struct gw_error why = { 0 };
		uint32_t count = (uint32_t)json_integer_value(json_object_get(one, "clusters"));
		int code = t->head->spec->pool && !launcher ? pool_add(t->head, name, count, on_changed, t, &why) :
		           grow_begin(t->head, name, count, launcher, on_changed, t, &why);

		if (code < 0)
			on_changed(t, json_pack("{s:s, s:s, s:[], s:i, s:s}", "op", "added", "host", name, "clusters", "status", code, "text",
			                        why.text));
	}
}

static void begin_drain(struct tool *t, json_t *msg, bool is_remove)
{
	struct gw_error why = { 0 };
	int code = t->due ? gw_fail(&why, -EBUSY, "one request at a time") :
	           drain_begin(t->head, json_object_get(msg, "targets"), is_remove,
	                       (uint64_t)json_integer_value(json_object_get(msg, "timeout_ms")), on_changed, t, &why);

	if (code < 0) {
		refuse(t, why.text);
		return;
	}
	t->failed = 0;
	t->due++;
}

static void do_drain(struct tool *t, json_t *msg)
{
	begin_drain(t, msg, false);
}

static void do_remove(struct tool *t, json_t *msg)
{
	begin_drain(t, msg, true);
}

static void do_undrain(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };
	json_t *answer = drain_undo(t->head, json_object_get(msg, "targets"), &why);

	if (answer)
		gw_link_send_json(t->link, answer);
	else
		refuse(t, why.text);
}

static const struct tool_op {
	const char *name;
	void (*handle)(struct tool *t, json_t *msg);
} tool_ops[] = {
	{ "status", do_status },
	{ "migrate", do_migrate },
	{ "pin", do_pin },
	{ "add", do_add },
	{ "drain", do_drain },
	{ "undrain", do_undrain },
	{ "remove", do_remove },
	{ "suspend", do_suspend },
	{ "resume", do_resume },
	{ "checkpoint", do_checkpoint },
	{ "rebalance", do_rebalance },
};

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct tool *t = ctx;

	(void)l; (void)fds; (void)n_fds;
	for (size_t i = 0; op && i < GW_ARRAY_LEN(tool_ops); i++)
		if (strcmp(op, tool_ops[i].name) == 0) {
			tool_ops[i].handle(t, msg);
			return;
		}
	refuse(t, "this is not a request that mpirun knows");
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	(void)l; (void)error;
	tool_destroy(ctx);
}

static const struct gw_link_ops tool_link_ops = { .json = on_json, .closed = on_closed };

static void on_connection(void *ctx, uint32_t events)
{
	struct head *h = ctx;
	struct gw_error why = { 0 };
	struct tool *t;
	int fd = gw_accept_unix(h->listener, &why);

	(void)events;
	if (fd < 0) {
		if (fd != -EAGAIN)
			gw_log(GW_WARN, "%s", why.text);
		return;
	}
	t = calloc(1, sizeof(*t));
	if (!t) {
		close(fd);
		return;
	}
	t->head = h;
	if (gw_link_create(&t->link, h->loop, fd, &tool_link_ops, t) < 0) {
		free(t);
		return;
	}
	gw_list_append(&h->tools, &t->node);
}

int tools_init(struct head *h, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];
	int code;

	rt_socket_name(name, h->job, -1);
	h->listener = gw_listen_unix(name, why);
	if (h->listener < 0)
		return h->listener;
	code = gw_loop_watch(h->loop, &h->listener_watch, h->listener, EPOLLIN, on_connection, h);
	return code < 0 ? gw_fail(why, code, "cannot watch '%s': %s", name, strerror(-code)) : 0;
}

void tools_fini(struct head *h)
{
	gw_watch_remove(h->listener_watch);
	if (h->listener >= 0)
		close(h->listener);
	if (!h->tools.next)
		return; /* never begun */
	gw_list_for_safe(e, &h->tools) {
		struct tool *t = gw_list_entry(e, struct tool, node);

		gw_link_flush(t->link);
		tool_destroy(t);
	}
}
