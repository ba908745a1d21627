/* SPDX-License-Identifier: BSD-2-Clause */
/* Who asks a keeper on its host: mpirun for slots, its helpers for daemons elsewhere, godwit for what there is. */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/pool/keeper.h"

struct client {
	struct gw_list node;
	struct keeper *k;
	struct gw_link *link;
	uint32_t job;            /* 0: it has none */
	uint32_t member;         /* of a helper: where its daemon is; 0: it is mpirun itself */
	bool is_dead;
};

static void answer(struct client *c, json_t *msg)
{
	if (c->link)
		gw_link_send_json(c->link, msg);
	else
		json_decref(msg);
}

static void refuse(struct client *c, const char *text)
{
	answer(c, json_pack("{s:s, s:s}", "op", "refused", "text", text));
}

static void free_client(struct client *c)
{
	gw_list_remove(&c->node);
	gw_link_destroy(c->link);
	free(c);
}

/* ---- from the core --------------------------------------------------------------------------------------------------- */

static void add_secret(struct keeper *k, uint32_t job, json_t *msg)
{
	const struct pool_grant *g = pool_grant_of(&k->pool, job);
	uint8_t bytes[GW_TRUST_SECRET];
	char text[64], hex[GW_TRUST_SECRET_HEX];

	snprintf(text, sizeof(text), "job %08x %s", job, g ? g->nonce : "");
	gw_trust_secret_derive(bytes, k->secret, text);
	gw_trust_secret_print(hex, bytes);
	json_object_set_new(msg, "secret", json_string(hex));
	json_object_set_new(msg, "address", json_string(k->pool.me.address));
	explicit_bzero(hex, sizeof(hex));
	explicit_bzero(bytes, sizeof(bytes));
}

void clients_tell(struct keeper *k, uint32_t job, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	uint32_t member = (uint32_t)json_integer_value(json_object_get(msg, "member"));
	bool is_of_daemon = strcmp(op, "said") == 0 || strcmp(op, "ended") == 0;

	if (strcmp(op, "granted") == 0)
		add_secret(k, job, msg);
	gw_list_for(e, &k->clients) {
		struct client *c = gw_list_entry(e, struct client, node);

		if (c->job == job && (is_of_daemon ? c->member == member : !c->member))
			answer(c, json_incref(msg));
	}
	json_decref(msg);
}

/* ---- requests -------------------------------------------------------------------------------------------------------- */

static void do_status(struct client *c, json_t *msg)
{
	json_t *status = pool_status(&c->k->pool);

	(void)msg;
	json_object_set_new(status, "op", json_string("status"));
	json_object_set_new(status, "name", json_string(c->k->args->name));
	json_object_set_new(status, "host", json_string(c->k->args->host));
	json_object_set_new(status, "pid", json_integer(getpid()));
	answer(c, status);
}

static void do_ask(struct client *c, json_t *msg)
{
	uint32_t job = (uint32_t)json_integer_value(json_object_get(msg, "job"));
	const json_t *number = json_object_get(msg, "number");
	json_int_t ranks = json_integer_value(json_object_get(msg, "ranks"));
	const char *text = json_string_value(json_object_get(msg, "text"));

	if (c->job || !job || ranks <= 0 || ranks > UINT32_MAX) {
		refuse(c, "the request is malformed");
		return;
	}
	if (pool_ask(&c->k->pool, job, number ? (uint32_t)json_integer_value(number) : job, (uint32_t)ranks, text ? text : "") < 0) {
		refuse(c, "the pool cannot take the job");
		return;
	}
	c->job = job;
}

static void do_start(struct client *c, json_t *msg)
{
	uint32_t job = (uint32_t)json_integer_value(json_object_get(msg, "job"));
	const char *host = json_string_value(json_object_get(msg, "host"));
	struct pool *p = &c->k->pool;
	uint32_t member = 0;

	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (host && strcmp(m->host, host) == 0)
			member = m->id;
	}
	if (!member || !pool_grant_of(p, job)) {
		refuse(c, member ? "the pool has no such job" : "the host is not one of the pool");
		return;
	}
	c->job = job;
	c->member = member;
	pool_start(p, job, json_pack("{s:I, s:O}", "member", (json_int_t)member, "line", json_object_get(msg, "line")));
}

static void do_more(struct client *c, json_t *msg)
{
	const char *host = json_string_value(json_object_get(msg, "host"));

	if (c->job && !c->member && host)
		pool_more(&c->k->pool, c->job, host);
}

static void do_placed(struct client *c, json_t *msg)
{
	json_t *places = json_object_get(msg, "places");

	if (c->job && !c->member && json_is_array(places))
		pool_placed(&c->k->pool, c->job, places);
}

static void do_vacated(struct client *c, json_t *msg)
{
	const char *text = json_string_value(json_object_get(msg, "text"));

	if (c->job && !c->member)
		pool_vacated(&c->k->pool, c->job, text ? text : "");
}

static void do_down(struct client *c, json_t *msg)
{
	(void)msg;
	if (c->k->pool.state != POOL_FOLLOW && c->k->pool.state != POOL_LEAD)
		refuse(c, "the pool has no leader just now; try again in some seconds");
	else
		pool_down(&c->k->pool, "the pool has been taken down");
}

static void do_remove(struct client *c, json_t *msg)
{
	const char *host = json_string_value(json_object_get(msg, "host"));
	struct gw_error why = { 0 };

	if (pool_leave(&c->k->pool, host ? host : "", &why) < 0)
		refuse(c, why.text);
	else
		answer(c, json_pack("{s:s}", "op", "done"));
}

/* The secret of the pool is not for ranks: they live in process namespaces of their own, with our user's number. */
static bool is_rank(struct gw_link *l)
{
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	struct stat own, other;
	char path[64];

	if (getsockopt(gw_link_fd(l), SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)cred.pid);
	return stat("/proc/self/ns/pid", &own) < 0 || stat(path, &other) < 0 || own.st_ino != other.st_ino;
}

static void do_introduce(struct client *c, json_t *msg)
{
	struct keeper *k = c->k;
	char hex[GW_TRUST_SECRET_HEX];

	(void)msg;
	if (is_rank(c->link)) {
		refuse(c, "ranks are not told");
		return;
	}
	if (k->pool.state != POOL_FOLLOW && k->pool.state != POOL_LEAD) {
		refuse(c, "the pool has no leader just now; try again in some seconds");
		return;
	}
	gw_trust_secret_print(hex, k->secret);
	answer(c, json_pack("{s:s, s:I, s:s, s:I, s:O}", "op", "introduced", "number", (json_int_t)k->args->number, "secret", hex, "leader",
	                    (json_int_t)k->pool.leader, "members", json_object_get(k->pool.list, "members")));
	explicit_bzero(hex, sizeof(hex));
}

static const struct { const char *op; void (*handle)(struct client *c, json_t *msg); } requests[] = {
	{ "status", do_status }, { "ask", do_ask }, { "start", do_start }, { "down", do_down }, { "remove", do_remove },
	{ "introduce", do_introduce }, { "vacated", do_vacated }, { "more", do_more }, { "placed", do_placed },
};

/* ---- connections ----------------------------------------------------------------------------------------------------- */

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));

	(void)l; (void)fds; (void)n_fds;
	for (size_t i = 0; op && i < GW_ARRAY_LEN(requests); i++)
		if (strcmp(op, requests[i].op) == 0) {
			requests[i].handle(ctx, msg);
			return;
		}
	refuse(ctx, "this is not a request that a keeper knows");
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct client *c = ctx;
	struct keeper *k = c->k;
	uint32_t job = c->member ? 0 : c->job;

	(void)l; (void)error;
	free_client(c);
	if (job)
		pool_job_over(&k->pool, job);
}

static const struct gw_link_ops link_ops = { .json = on_json, .closed = on_closed };

static void on_connection(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;
	struct gw_error why = { 0 };
	struct client *c;
	int fd = gw_accept_unix(k->unix_listener, &why);

	(void)events;
	if (fd < 0) {
		if (fd != -EAGAIN)
			gw_log(GW_WARN, "%s", why.text);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return;
	}
	c->k = k;
	gw_list_append(&k->clients, &c->node);
	if (gw_link_create(&c->link, k->loop, fd, &link_ops, c) < 0)
		free_client(c);
}

int clients_listen(struct keeper *k, struct gw_error *why)
{
	int code;

	k->unix_listener = gw_listen_unix(k->socket, why);
	if (k->unix_listener == -EADDRINUSE)
		return gw_fail(why, -EADDRINUSE, "host %s is in a pool that is called '%s' already; 'godwit down %s' ends it", k->args->host,
		               k->args->name, k->args->name);
	if (k->unix_listener < 0)
		return k->unix_listener;
	code = gw_loop_watch(k->loop, &k->unix_watch, k->unix_listener, EPOLLIN, on_connection, k);
	return code < 0 ? gw_fail(why, code, "cannot watch '%s': %s", k->socket, strerror(-code)) : 0;
}

void clients_fini(struct keeper *k)
{
	gw_watch_remove(k->unix_watch);
	close(k->unix_listener);
	gw_list_for_safe(e, &k->clients) {
		struct client *c = gw_list_entry(e, struct client, node);

		gw_link_flush(c->link);
		free_client(c);
	}
}
