/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit status: the clusters of a job, its ranks and where each lives. */
#include <argp.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/balance/predict.h"
#include "runtime/control/pool.h"

static const struct argp_option options[] = {
	{ "pool", 'p', "NAME", OPTION_ARG_OPTIONAL, "Show a pool of this host, or all, instead of a job: hosts, clusters, ranks, jobs, "
	  "and who leads", 0 },
	{ "movable", 'm', NULL, 0, "Say of each rank whether it can move now, and all that holds it", 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

struct status {
	struct control c;
	const char *pool;        /* with is_pool_asked; NULL: all of this host */
	bool is_movable_asked, is_pool_asked;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct status *s = state->input;

	switch (key) {
	case 'm':
		s->is_movable_asked = true;
		return 0;
	case 'p':
		s->is_pool_asked = true;
		s->pool = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (s->is_pool_asked && !s->pool) { /* --pool NAME, as with other commands */
			s->pool = arg;
			return 0;
		}
		argp_error(state, "'%s' is too much: status takes options only; --job says which job", arg);
		return EINVAL;
	default:
		return control_option(&s->c, key, arg);
	}
}

static json_int_t number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "-";
}

/* 0,1,2,3,6 -> "0-3,6" */
static void cores_text(const json_t *cores, char *buf, size_t cap)
{
	size_t n = json_array_size(cores), at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < n && at < cap - 32; i++) {
		json_int_t first = json_integer_value(json_array_get(cores, i)), last = first;

		while (i + 1 < n && json_integer_value(json_array_get(cores, i + 1)) == last + 1) {
			last++;
			i++;
		}
		at += (size_t)snprintf(buf + at, cap - at, "%s%lld", at ? "," : "", (long long)first);
		if (last > first)
			at += (size_t)snprintf(buf + at, cap - at, "-%lld", (long long)last);
	}
}

/* "rank 17: fd 9 is ...", one line for each reason, then how many ranks can move */
static void print_reasons(const json_t *ranks)
{
	size_t movable = 0;

	for (size_t i = 0; i < json_array_size(ranks); i++) {
		const json_t *r = json_array_get(ranks, i), *m = json_object_get(r, "movable");
		const json_t *reasons = json_object_get(m, "reasons");

		movable += strcmp(text_of(m, "state"), "yes") == 0;
		for (size_t k = 0; k < json_array_size(reasons); k++)
			printf("rank %lld: %s\n", (long long)number_of(r, "rank"), text_of(json_array_get(reasons, k), "text"));
	}
	printf("%zu of %zu ranks can move now\n", movable, json_array_size(ranks));
}

/* Where each would go, and how long it would stand by each technique */
static void print_predictions(const json_t *ranks)
{
	printf("%7s  %5s  %10s  %13s  %10s  %10s  %10s\n", "RANK", "TO", "AUTO", "STOP-AND-COPY", "PRE-COPY", "POST-COPY", "HYBRID");
	for (size_t i = 0; i < json_array_size(ranks); i++) {
		const json_t *r = json_array_get(ranks, i), *m = json_object_get(r, "movable"), *predicted = json_object_get(m, "predicted");

		if (!predicted)
			continue;
		printf("%7lld  %5lld", (long long)number_of(r, "rank"), (long long)number_of(m, "destination"));
		for (size_t k = 0; k < BAL_TECHNIQUES; k++) {
			const json_t *ms = json_object_get(json_object_get(predicted, bal_technique_name((enum bal_technique)k)), "downtime_ms");
			char text[32] = "-";

			if (json_is_number(ms))
				snprintf(text, sizeof(text), "%.1f ms", json_number_value(ms));
			printf("  %*s", k == 1 ? 13 : 10, text);
		}
		putchar('\n');
	}
	puts("how long each would be stopped; -: nobody knows what it writes before it was moved by pre-copy\n");
}

/* At least as wide as its heading; every host has a row */
static int host_width(const json_t *clusters)
{
	size_t width = strlen("HOST");

	for (size_t i = 0; i < json_array_size(clusters); i++) {
		size_t n = strlen(text_of(json_array_get(clusters, i), "hostname"));

		width = n > width ? n : width;
	}
	return width < 64 ? (int)width : 64;
}

static const char *state_text(const json_t *c)
{
	bool is_up = strcmp(text_of(c, "state"), "up") == 0;

	return is_up && json_is_true(json_object_get(c, "drained")) ? "drained" :
	       is_up && strcmp(text_of(c, "kind"), "service") == 0 ? "services" : text_of(c, "state");
}

/* "2026-11-22 12:01:33" */
static const char *time_text(const json_t *o, char *buf, size_t cap)
{
	time_t t = (time_t)number_of(o, "time");
	struct tm tm;

	return localtime_r(&t, &tm) && strftime(buf, cap, "%F %T", &tm) ? buf : "?";
}

static void print_checkpoints(const json_t *checkpoints)
{
	const json_t *last = json_object_get(checkpoints, "last"), *failed = json_object_get(checkpoints, "failed");
	char when[64];

	if (last)
		printf("checkpoint %lld of %s in %s: %.1f MiB on disk, %.1f ms\n", (long long)number_of(last, "checkpoint"),
		       time_text(last, when, sizeof(when)), text_of(last, "dir"), (double)number_of(last, "size") / (1 << 20),
		       json_real_value(json_object_get(last, "ms")));
	if (failed)
		printf("no checkpoint at %s: %s\n", time_text(failed, when, sizeof(when)), text_of(failed, "text"));
	if (last || failed)
		putchar('\n');
}

static void print_tables(const json_t *msg, bool is_movable_asked)
{
	const json_t *job = json_object_get(msg, "job"), *list = json_object_get(msg, "clusters");
	int width = host_width(list);
	const char *state = text_of(job, "state");
	char cores[256], memory[32];

	printf("job %s: %s, %lld rank%s on %zu cluster%s, process %lld, %s %.1f s%s\n\n", text_of(job, "id"),
	       text_of(job, "program"), (long long)number_of(job, "ranks"), number_of(job, "ranks") == 1 ? "" : "s",
	       json_array_size(list), json_array_size(list) == 1 ? "" : "s", (long long)number_of(job, "pid"),
	       strcmp(state, "running") == 0 ? "running for" : state, (double)number_of(job, "age_ms") / 1000,
	       strcmp(state, "running") == 0 ? "" : " after its start");
	print_checkpoints(json_object_get(job, "checkpoints"));
	printf("%7s  %-*s  %-8s  %8s  %5s  %s\n", "CLUSTER", width, "HOST", "STATE", "DAEMON", "RANKS", "CORES");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *c = json_array_get(list, i);

		cores_text(json_object_get(c, "cores"), cores, sizeof(cores));
		printf("%7lld  %-*.*s  %-8s  %8lld  %5lld  %s\n", (long long)number_of(c, "cluster"),
		       width, width, text_of(c, "hostname"), state_text(c), (long long)number_of(c, "pid"), (long long)number_of(c, "ranks"), cores);
	}
	list = json_object_get(msg, "ranks");
	printf("\n%7s  %7s  %-*s  %8s  %-15s  %5s  %7s  %s%s\n", "RANK", "CLUSTER", width, "HOST", "PID", "STATE", "MOVES", "THREADS", "MEMORY",
	       is_movable_asked ? "       MOVABLE" : "");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *r = json_array_get(list, i);

		snprintf(memory, sizeof(memory), "%.1f MiB", (double)number_of(r, "private_kib") / 1024);
		printf("%7lld  %7lld  %-*.*s  %8lld  %-15s  %5lld  %7lld  %s%*s%s%s\n", (long long)number_of(r, "rank"),
		       (long long)number_of(r, "cluster"), width, width, text_of(r, "hostname"), (long long)number_of(r, "pid"), text_of(r, "state"),
		       (long long)number_of(r, "epoch"), (long long)number_of(r, "threads"),
		       memory, is_movable_asked ? (int)(13 - strlen(memory)) : 0, "",
		       is_movable_asked ? text_of(json_object_get(r, "movable"), "state") : "",
		       json_is_true(json_object_get(r, "pinned")) ? "  pinned" : "");
	}
	if (is_movable_asked) {
		putchar('\n');
		print_predictions(list);
		print_reasons(list);
	}
}

static int on_answer(void *ctx, json_t *msg)
{
	const struct status *s = ctx;

	if (strcmp(text_of(msg, "op"), "status") != 0)
		return 0;
	if (s->c.is_json) {
		json_object_del(msg, "op");
		json_dumpf(msg, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_tables(msg, s->is_movable_asked);
	}
	return 1;
}

int control_status(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "", "Show the clusters of a running job, its ranks and where each "
		"lives. MOVES is how often a rank has moved; MEMORY is private and present. With --movable the ranks are looked at "
		"without being stopped; it is told where each would go if its cluster were drained, and how long it would be stopped by each technique; and "
		"every reason that keeps one where it is is a line of its own.", NULL, NULL, NULL };
	struct status s = { 0 };
	struct gw_error why = { 0 };
	char name[] = "godwit status";
	json_t *request;

	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &s);
	if (s.is_pool_asked)
		return control_show_pools(s.pool, s.c.is_json);
	request = json_pack("{s:s, s:b}", "op", "status", "movable", (int)s.is_movable_asked);
	return control_talk(&s.c, request, on_answer, &s, &why) < 0 ? control_fail(&why) : CONTROL_DONE;
}
