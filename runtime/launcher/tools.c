/* SPDX-License-Identifier: BSD-2-Clause */
/* The socket of the job's head: godwit status asks all daemons (survey.c), migrate the owners of ranks (moves.c), pin the head alone. */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

struct tool {            /* one connection */
	struct gw_list node;
	struct head *head;
	struct gw_link *link;
	uint32_t due, failed; /* answers of the request that is being served */
	bool is_surveying;    /* a status question is being answered */
	bool is_far;          /* it is the mpirun of another job on another machine, and asks for nothing else */
	bool is_job;          /* it is the mpirun of another job: guests.c */
};

static void tool_destroy(struct tool *t)
{
	moves_forget(t->head, t);
	grow_forget(t->head, t);
	pool_forget(t->head, t);
	drain_forget(t->head, t);
	suspend_forget(t->head, t);
	balance_forget(t->head, t);
	survey_forget(t->head, t);
	if (t->is_job)
		guests_closed(t->head, t->link);
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
			code = moves_begin(h, rank, (uint32_t)to, timeout_ms, msg, "migrate", on_moved, t, &why);
		if (code < 0)
			report(t, (uint32_t)rank, (uint32_t)to, code, why.text, NULL);
		else
			t->due++;
	}
	check_done(t);
}

/* ---- status -------------------------------------------------------------------------------------------------------- */

static void on_surveyed(void *tool, json_t *all)
{
	struct tool *t = tool;

	t->is_surveying = false;
	if (!all) {
		refuse(t, "mpirun is out of memory");
		return;
	}
	json_object_set_new(all, "op", json_string("status"));
	gw_link_send_json(t->link, all);
}

static void do_status(struct tool *t, json_t *msg)
{
	enum survey_kind kind = json_is_true(json_object_get(msg, "movable")) ? SURVEY_MOVABLE : json_is_true(json_object_get(msg, "traffic")) ?
	                        SURVEY_TRAFFIC : json_is_true(json_object_get(msg, "use")) ? SURVEY_USE : SURVEY_STATUS;

	if (t->is_surveying)
		return; /* one at a time on a connection */
	t->is_surveying = true;
	if (survey_begin(t->head, kind, on_surveyed, t) < 0)
		on_surveyed(t, NULL);
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

/* ---- other jobs -------------------------------------------------------------------------------------------------------- */

static void do_meet(struct tool *t, json_t *msg)
{
	struct gw_error why = { 0 };

	t->is_job = guests_called(t->head, t->link, t->is_far, msg, &why);
	if (!t->is_job && why.code)
		refuse_for(t, &why);
}

static void do_lookup(struct tool *t, json_t *msg)
{
	const char *service = json_string_value(json_object_get(msg, "service"));

	gw_link_send_json(t->link, json_pack("{s:s, s:O?}", "op", "found", "port", service ? json_object_get(t->head->services, service) : NULL));
}

/* ---- connections --------------------------------------------------------------------------------------------------- */

static const struct tool_op {
	const char *name;
	void (*handle)(struct tool *t, json_t *msg);
	bool is_for_jobs;
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
	{ "meet", do_meet, true },
	{ "lookup", do_lookup, true },
};

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct tool *t = ctx;

	(void)l; (void)fds; (void)n_fds;
	if (t->is_job) {
		guests_heard(t->head, t->link, msg);
		return;
	}
	for (size_t i = 0; op && i < GW_ARRAY_LEN(tool_ops); i++)
		if (strcmp(op, tool_ops[i].name) == 0 && (!t->is_far || tool_ops[i].is_for_jobs)) {
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

static void on_drained(struct gw_link *l, void *ctx)
{
	const struct tool *t = ctx;

	if (t->is_job)
		guests_drained(t->head, l);
}

static const struct gw_link_ops tool_link_ops = { .json = on_json, .drained = on_drained, .closed = on_closed };

void tools_come(struct head *h, int fd, bool is_far)
{
	struct tool *t = calloc(1, sizeof(*t));

	if (!t) {
		close(fd);
		return;
	}
	t->head = h;
	t->is_far = is_far;
	if (gw_link_create(&t->link, h->loop, fd, &tool_link_ops, t) < 0) {
		free(t);
		return;
	}
	gw_list_append(&h->tools, &t->node);
}

static void on_connection(void *ctx, uint32_t events)
{
	struct head *h = ctx;
	struct gw_error why = { 0 };
	int fd = gw_accept_unix(h->listener, &why);

	(void)events;
	if (fd >= 0)
		tools_come(h, fd, false);
	else if (fd != -EAGAIN)
		gw_log(GW_WARN, "%s", why.text);
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
