/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit down, leave, pools; and in-pool, which stands where ssh does for jobs in pools. */
#include "runtime/control/pool.h"

#include <argp.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/base/tcp.h"

#define LOOK_MS 200  /* between two looks whether a host has left */

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

/* ---- one question to a keeper ---------------------------------------------------------------------------------------- */

struct question {
	struct gw_loop *loop;
	struct gw_error *why;
	json_t *answer;
	bool is_end_awaited;     /* the end of the connection is the answer */
};

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	struct question *q = ctx;

	(void)l; (void)fds; (void)n_fds;
	if (strcmp(text_of(msg, "op"), "refused") == 0) {
		gw_loop_stop(q->loop, gw_fail(q->why, -EBUSY, "%s", text_of(msg, "text")));
		return;
	}
	q->answer = json_incref(msg);
	gw_loop_stop(q->loop, 1);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct question *q = ctx;

	(void)l; (void)error;
	gw_loop_stop(q->loop, q->is_end_awaited ? 1 : gw_fail(q->why, -EPIPE, "the pool has ended"));
}

static const struct gw_link_ops link_ops = { .json = on_json, .closed = on_closed };

int control_ask_keeper(const char *pool, json_t *request, bool is_end_awaited, json_t **answer, struct gw_error *why)
{
	struct question q = { .why = why, .is_end_awaited = is_end_awaited };
	struct pool_place place;
	struct gw_link *l;
	int fd = pool_connect(pool, &place, why), code;

	if (fd < 0) {
		json_decref(request);
		return fd;
	}
	code = gw_loop_create(&q.loop);
	if (code == 0)
		code = gw_link_create(&l, q.loop, fd, &link_ops, &q);
	else
		close(fd);
	if (code < 0) {
		json_decref(request);
		return gw_fail(why, code, "cannot talk to the pool's keeper: %s", strerror(-code));
	}
	gw_link_send_json(l, request);
	code = gw_loop_run(q.loop);
	gw_link_destroy(l);
	gw_loop_destroy(q.loop);
	*answer = q.answer;
	return code < 0 ? code : 0;
}

/* ---- down, leave ----------------------------------------------------------------------------------------------------- */

struct words { const char *first, *second; int max; long timeout_s; bool is_json, is_waiting; };

enum { KEY_JSON = 256, KEY_POOL, KEY_WAIT, KEY_TIMEOUT };

static error_t parse_words(int key, char *arg, struct argp_state *state)
{
	struct words *w = state->input;

	if (key == KEY_JSON) {
		w->is_json = true;
		return 0;
	}
	if (key == KEY_POOL) {
		w->second = arg;
		return 0;
	}
	if (key == KEY_WAIT) {
		w->is_waiting = true;
		return 0;
	}
	if (key == KEY_TIMEOUT) {
		w->is_waiting = true;
		w->timeout_s = control_number(state, arg, "a number of seconds");
		return 0;
	}
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	if ((int)state->arg_num >= w->max)
		argp_error(state, "'%s' is one word too many", arg);
	w->first = arg;
	return 0;
}

int control_down(int argc, char **argv)
{
	static const struct argp argp = { NULL, parse_words, "[POOL]", "End a pool of this host, and the jobs that run in it.", NULL, NULL,
		NULL };
	struct words w = { .first = "any", .max = 1 };
	struct gw_error why = { 0 };
	json_t *answer = NULL;

	argv[0] = (char[]){ "godwit down" };
	argp_parse(&argp, argc, argv, 0, NULL, &w);
	if (control_ask_keeper(w.first, json_pack("{s:s}", "op", "down"), true, &answer, &why) < 0)
		return control_fail(&why);
	json_decref(answer);
	return CONTROL_DONE;
}

static const json_t *member_called(const json_t *status, const char *host)
{
	const json_t *members = json_object_get(status, "members");

	for (size_t i = 0; i < json_array_size(members); i++)
		if (strcmp(text_of(json_array_get(members, i), "host"), host) == 0)
			return json_array_get(members, i);
	return NULL;
}

/* What holds it there: of the first job that has a word on that, and is there; "" is nothing yet */
static void holder_of(const json_t *status, const json_t *member, char *buf, size_t cap)
{
	const json_t *jobs = json_object_get(status, "jobs");
	json_int_t id = json_integer_value(json_object_get(member, "id"));

	buf[0] = '\0';
	for (size_t i = 0; i < json_array_size(jobs) && !buf[0]; i++) {
		const json_t *j = json_array_get(jobs, i), *parts = json_object_get(j, "parts");
		bool is_there = json_integer_value(json_object_get(j, "head")) == id;

		for (size_t k = 0; k < json_array_size(parts); k++)
			is_there |= json_integer_value(json_object_get(json_array_get(parts, k), "member")) == id;
		if (is_there && *text_of(j, "note"))
			snprintf(buf, cap, "job %08llx: %s", (long long)json_integer_value(json_object_get(j, "job")), text_of(j, "note"));
	}
}

static int remove_host(const char *pool, const char *host, struct gw_error *why)
{
	json_t *answer = NULL;
	int code = control_ask_keeper(pool, json_pack("{s:s, s:s}", "op", "remove", "host", host), false, &answer, why);

	json_decref(answer);
	return code;
}

/* Looks until the pool has the host no more. The keeper that is asked may be its own, and end; who leads may change. */
static int wait_for_leave(const struct words *w, struct gw_error *why)
{
	uint64_t end = gw_now_ns() + (uint64_t)w->timeout_s * 1000000000u;
	char last[400] = "", now[400];
	bool is_own = false;

	for (;; poll(NULL, 0, LOOK_MS)) {
		json_t *status = NULL;
		const json_t *member;
		int code = control_ask_keeper(w->second, json_pack("{s:s}", "op", "status"), false, &status, why);

		if (code < 0 && code != -EPIPE) /* that one: it was just about to end, and is asked again */
			return is_own ? 0 : code;
		member = member_called(status, w->first);
		if (status && json_array_size(json_object_get(status, "members")) && !member) {
			json_decref(status);
			return 0;
		}
		if (member) {
			is_own = strcmp(text_of(status, "host"), w->first) == 0;
			holder_of(status, member, now, sizeof(now));
			if (*now && strcmp(now, last) != 0)
				fprintf(stderr, "godwit: waiting; %s\n", now);
			snprintf(last, sizeof(last), "%s", now);
			if (!json_is_true(json_object_get(member, "leaving")) && /* told to a leader that has died */
			    (code = remove_host(w->second, w->first, why)) < 0 && code != -EPIPE && code != -EAGAIN) {
				json_decref(status);
				return code;
			}
		}
		json_decref(status);
		if (w->timeout_s && gw_now_ns() > end)
			return gw_fail(why, -ETIMEDOUT, "host %s is still in the pool after %ld s%s%s; it leaves when it can", w->first, w->timeout_s,
			               *last ? "; " : "", last);
	}
}

int control_leave(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "pool", KEY_POOL, "NAME", 0, "The pool, when this host is in several", 0 },
		{ "wait", KEY_WAIT, NULL, 0, "Return when the host has left, and say meanwhile what holds it", 0 },
		{ "timeout", KEY_TIMEOUT, "SECONDS", 0, "Wait, but not longer than that", 0 },
		{ 0 } };
	static const struct argp argp = { options, parse_words, "HOST", "Take a host out of a pool: it gets no new jobs, the ranks that "
		"jobs have there are moved to free slots of other hosts, and its keeper ends when none is left and no job has its mpirun "
		"there. 'godwit pools' says what is still waited for. When it leads the pool, another one does first.", NULL, NULL,
		NULL };
	struct words w = { .second = "any", .max = 1 };
	struct gw_error why = { 0 };
	int code;

	argv[0] = (char[]){ "godwit leave" };
	argp_parse(&argp, argc, argv, 0, NULL, &w);
	if (!w.first) {
		fprintf(stderr, "godwit: which host shall leave the pool? 'godwit pools' lists them\n");
		return CONTROL_WRONG;
	}
	code = remove_host(w.second, w.first, &why);
	if (code == 0 && w.is_waiting)
		code = wait_for_leave(&w, &why);
	return code < 0 ? control_fail(&why) : CONTROL_DONE;
}

/* ---- pools ----------------------------------------------------------------------------------------------------------- */

static const json_t *member_of(const json_t *members, json_int_t id)
{
	for (size_t i = 0; i < json_array_size(members); i++)
		if (json_integer_value(json_object_get(json_array_get(members, i), "id")) == id)
			return json_array_get(members, i);
	return NULL;
}

static json_int_t taken(const json_t *jobs, json_int_t id)
{
	json_int_t n = 0;

	for (size_t i = 0; i < json_array_size(jobs); i++) {
		const json_t *parts = json_object_get(json_array_get(jobs, i), "parts");

		for (size_t k = 0; k < json_array_size(parts); k++) {
			const json_t *part = json_array_get(parts, k);

			if (json_integer_value(json_object_get(part, "member")) == id)
				n += json_integer_value(json_object_get(part, "slots"));
		}
	}
	return n;
}

/* How many @what ("clusters", "ranks") jobs have on @host, as their mpiruns say */
static json_int_t placed(const json_t *jobs, const char *host, const char *what)
{
	json_int_t n = 0;

	for (size_t i = 0; i < json_array_size(jobs); i++) {
		const json_t *places = json_object_get(json_array_get(jobs, i), "places");

		for (size_t k = 0; k < json_array_size(places); k++)
			if (strcmp(text_of(json_array_get(places, k), "host"), host) == 0)
				n += json_integer_value(json_object_get(json_array_get(places, k), what));
	}
	return n;
}

static void print_job(const json_t *j, const json_t *members)
{
	const json_t *head = member_of(members, json_integer_value(json_object_get(j, "head"))), *places = json_object_get(j, "places");
	const char *separator = "          ranks on ";

	printf("%08llx  %-8s  %5lld  %-12s  %s\n", (long long)json_integer_value(json_object_get(j, "job")), text_of(j, "state"),
	       (long long)json_integer_value(json_object_get(j, "ranks")), head ? text_of(head, "host") : "?", text_of(j, "text"));
	for (size_t i = 0; i < json_array_size(places); i++) {
		const json_t *p = json_array_get(places, i);
		long long ranks = json_integer_value(json_object_get(p, "ranks")), clusters = json_integer_value(json_object_get(p, "clusters"));

		printf("%s%s: %lld", separator, text_of(p, "host"), ranks);
		if (clusters > 1)
			printf(" (%lld clusters)", clusters);
		separator = ", ";
	}
	if (json_array_size(places))
		putchar('\n');
	if (*text_of(j, "note"))
		printf("          on a host that is to leave: %s\n", text_of(j, "note"));
}

static void print_pool(const json_t *s)
{
	const json_t *members = json_object_get(s, "members"), *jobs = json_object_get(s, "jobs");
	json_int_t leader = json_integer_value(json_object_get(s, "leader"));

	printf("pool '%s'  here: %s, %s\n\n", text_of(s, "name"), text_of(s, "host"), text_of(s, "state"));
	printf("%-20s  %-21s  %5s  %5s  %8s  %5s\n", "HOST", "ADDRESS", "SLOTS", "TAKEN", "CLUSTERS", "RANKS");
	for (size_t i = 0; i < json_array_size(members); i++) {
		const json_t *m = json_array_get(members, i);
		json_int_t id = json_integer_value(json_object_get(m, "id"));
		char address[GW_TCP_NAME];

		gw_tcp_join(address, text_of(m, "address"), (uint16_t)json_integer_value(json_object_get(m, "port")));
		printf("%-20s  %-21s  %5lld  %5lld  %8lld  %5lld%s%s\n", text_of(m, "host"), address,
		       (long long)json_integer_value(json_object_get(m, "slots")), (long long)taken(jobs, id),
		       (long long)placed(jobs, text_of(m, "host"), "clusters"), (long long)placed(jobs, text_of(m, "host"), "ranks"),
		       id == leader ? "  leader" : "", json_is_true(json_object_get(m, "leaving")) ? "  leaving" : "");
	}
	if (json_array_size(jobs))
		printf("\n%-8s  %-8s  %5s  %-12s  %s\n", "JOB", "STATE", "RANKS", "MPIRUN", "PROGRAM");
	for (size_t i = 0; i < json_array_size(jobs); i++)
		print_job(json_array_get(jobs, i), members);
}

int control_show_pools(const char *name, bool is_json)
{
	struct pool_place places[64];
	struct gw_error why = { 0 };
	json_t *all = json_array();
	int n = pool_find(places, GW_ARRAY_LEN(places), &why);

	for (int i = 0; i < n; i++) {
		char what[POOL_NAME_MAX + POOL_HOST_MAX];
		json_t *answer = NULL;
		bool is_known = false;

		for (int k = 0; k < i; k++) /* several keepers of one pool on this machine: '-launcher fork' */
			is_known |= strcmp(places[k].name, places[i].name) == 0;
		snprintf(what, sizeof(what), "%s@%s", places[i].name, places[i].host);
		if ((is_known && !(name && strchr(name, '@'))) || (name && strcmp(name, places[i].name) != 0 && strcmp(name, what) != 0))
			continue;
		if (control_ask_keeper(what, json_pack("{s:s}", "op", "status"), false, &answer, &why) == 0) {
			json_object_del(answer, "op");
			json_array_append_new(all, answer);
		}
	}
	if (n < 0 || (json_array_size(all) == 0 && !is_json)) {
		json_decref(all);
		if (n >= 0)
			gw_fail(&why, -ENOENT, name ? "no pool '%s' has this host" : "no pool has this host; 'godwit up' makes one", name);
		return control_fail(&why);
	}
	if (is_json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	for (size_t i = 0; !is_json && i < json_array_size(all); i++) {
		if (i)
			putchar('\n');
		print_pool(json_array_get(all, i));
	}
	json_decref(all);
	return CONTROL_DONE;
}

int control_pools(int argc, char **argv)
{
	static const struct argp_option options[] = { { "json", KEY_JSON, NULL, 0, "Print JSON, an array of pools", 0 }, { 0 } };
	static const struct argp argp = { options, parse_words, "[POOL]", "Show the pools that this host is in: their hosts, slots and jobs, "
		"and where the clusters and ranks of those are. 'godwit status --pool' is the same.", NULL, NULL, NULL };
	struct words w = { .max = 1 };

	argv[0] = (char[]){ "godwit pools" };
	argp_parse(&argp, argc, argv, 0, NULL, &w);
	return control_show_pools(w.first, w.is_json);
}

/* ---- in-pool --------------------------------------------------------------------------------------------------------- */

struct helper { struct gw_loop *loop; struct gw_link *link; };

static void on_helped(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = text_of(msg, "op"), *text = text_of(msg, "text");
	struct helper *h = ctx;

	(void)l; (void)fds; (void)n_fds;
	if (*text)
		fprintf(stderr, "%s\n", text);
	if (strcmp(op, "said") != 0)
		gw_loop_stop(h->loop, *text ? 1 : 0);
}

/* mpirun has a connection to the same keeper: it has seen its end, says why, and ends this process. */
static void on_keeper_gone(struct gw_link *l, void *ctx, int error)
{
	(void)ctx; (void)error;
	gw_link_destroy(l);
}

static const struct gw_link_ops helper_ops = { .json = on_helped, .closed = on_keeper_gone };

static void on_input(void *ctx, uint32_t events)
{
	struct helper *h = ctx;
	char ignored[256]; /* the secret: the keepers have it */
	ssize_t n = read(STDIN_FILENO, ignored, sizeof(ignored));

	(void)events;
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		gw_loop_stop(h->loop, 0);
}

/* godwit in-pool NAME@HOST JOB HOST LINE: for mpirun, which starts it where it would start ssh */
int control_in_pool(int argc, char **argv)
{
	struct helper h = { 0 };
	struct gw_error why = { 0 };
	struct pool_place place;
	struct gw_watch *input;
	int fd;

	if (argc != 5) {
		fprintf(stderr, "godwit: in-pool is for mpirun, not for people\n");
		return CONTROL_WRONG;
	}
	fd = pool_connect(argv[1], &place, &why);
	if (fd < 0 || gw_loop_create(&h.loop) < 0 || gw_link_create(&h.link, h.loop, fd, &helper_ops, &h) < 0 ||
	    gw_loop_watch(h.loop, &input, STDIN_FILENO, EPOLLIN, on_input, &h) < 0) {
		fprintf(stderr, "%s\n", why.text);
		return 1;
	}
	gw_link_send_json(h.link, json_pack("{s:s, s:I, s:s, s:s}", "op", "start", "job", (json_int_t)strtoul(argv[2], NULL, 16), "host",
	                                    argv[3], "line", argv[4]));
	return gw_loop_run(h.loop);
}
