/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit add, drain, undrain, remove: hosts and clusters come to a running job, are emptied, and leave it. */
#include <argp.h>
#include <stdlib.h>

#include "runtime/control/control.h"

struct grow {
	struct control c;
	json_t *words;             /* hosts to add; clusters and hosts to drain */
	const char *launcher;
	long timeout_s;
	json_t *results;
	int failed;
	bool is_adding, is_refused;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

static json_int_t number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* ---- words of the command line --------------------------------------------------------------------------------------- */

/* HOST or HOST:CLUSTERS */
static void add_host(struct grow *g, const char *arg, struct argp_state *state)
{
	const char *colon = strrchr(arg, ':');
	long clusters = 1;

	if (!*arg || colon == arg)
		argp_error(state, "'%s': a host needs a name", arg);
	if (colon) {
		clusters = control_number(state, colon + 1, "a number of clusters");
		if (clusters < 1 || clusters > RT_CLUSTERS_MAX)
			argp_error(state, "'%s': a host can get 1 to %d clusters", arg, RT_CLUSTERS_MAX);
	}
	json_array_append_new(g->words, json_pack("{s:s%, s:I}", "name", arg, colon ? (size_t)(colon - arg) : strlen(arg), "clusters",
	                                          (json_int_t)clusters));
}

/* 60, 60s, 10m, 1h: seconds */
static long duration(struct argp_state *state, const char *arg)
{
	char *end, unit;
	long n = strtol(arg, &end, 10), of = 1;

	unit = *end;
	if (unit == 'm' || unit == 'h')
		of = unit == 'm' ? 60 : 3600;
	else if (unit && unit != 's')
		of = 0;
	if (end == arg || n < 1 || n > 1000000 || !of || (unit && end[1]))
		argp_error(state, "'%s' is not a time: a number with s (seconds), m (minutes) or h (hours), as 90s or 10m", arg);
	return n * of;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct grow *g = state->input;

	switch (key) {
	case 'l':
		g->launcher = arg;
		return 0;
	case 'T':
		g->timeout_s = duration(state, arg);
		return 0;
	case ARGP_KEY_ARG:
		if (g->is_adding)
			add_host(g, arg, state);
		else if (arg[strspn(arg, "0123456789")])
			json_array_append_new(g->words, json_string(arg));
		else
			json_array_append_new(g->words, json_integer(control_number(state, arg, "the number of a cluster")));
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, g->is_adding ? "name at least one host" : "name at least one cluster or host");
		return EINVAL;
	default:
		return control_option(&g->c, key, arg);
	}
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

/* "cluster 3", "clusters 3, 4" */
static void clusters_text(const json_t *clusters, char *buf, size_t cap)
{
	size_t n = json_array_size(clusters), at = (size_t)snprintf(buf, cap, n == 1 ? "cluster" : "clusters");

	for (size_t i = 0; i < n && at + 16 < cap; i++)
		at += (size_t)snprintf(buf + at, cap - at, "%s %lld", i ? "," : "", (long long)json_integer_value(json_array_get(clusters, i)));
}

static void print_added(const json_t *msg, const char *which)
{
	if (number_of(msg, "status") < 0)
		fprintf(stderr, "godwit: %s was not added: %s\n", text_of(msg, "host"), text_of(msg, "text"));
	else
		printf("%s: %s\n", text_of(msg, "host"), which);
}

static void print_emptied(const json_t *msg, const char *which)
{
	const json_t *stuck = json_object_get(msg, "stuck");
	bool is_remove = strcmp(text_of(msg, "op"), "removed") == 0;
	long long moved = (long long)number_of(msg, "moved");

	for (size_t i = 0; i < json_array_size(stuck); i++) {
		const json_t *one = json_array_get(stuck, i);

		fprintf(stderr, "godwit: rank %lld was not moved: %s\n", (long long)number_of(one, "rank"), text_of(one, "text"));
	}
	if (json_array_size(stuck))
		fprintf(stderr, "godwit: %s: not empty; no rank moves there until 'godwit undrain'\n", which);
	else if (number_of(msg, "status") < 0)
		fprintf(stderr, "godwit: %s: empty, but still leaving\n", which);
	else
		printf("%s: %s, %lld rank%s moved away\n", which, is_remove ? "removed" : "drained", moved, moved == 1 ? "" : "s");
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = text_of(msg, "op");
	struct grow *g = ctx;
	char which[256];

	if (strcmp(op, "refused") == 0) {
		fprintf(stderr, "godwit: %s\n", text_of(msg, "text"));
		g->is_refused = true;
		return 1;
	}
	if (strcmp(op, "done") == 0) {
		g->failed = (int)number_of(msg, "failed");
		return 1;
	}
	clusters_text(json_object_get(msg, "clusters"), which, sizeof(which));
	if (g->c.is_json) {
		json_t *one = json_copy(msg);

		json_object_del(one, "op");
		json_array_append_new(g->results, one);
	} else if (strcmp(op, "added") == 0) {
		print_added(msg, which);
	} else if (strcmp(op, "undrained") == 0) {
		printf("%s: ranks may move there again\n", which);
	} else {
		print_emptied(msg, which);
	}
	fflush(stdout);
	return strcmp(op, "undrained") == 0;
}

static int run(int argc, char **argv, const struct argp *argp, struct grow *g, const char *op)
{
	struct gw_error why = { 0 };
	json_t *request;
	int code;

	g->words = json_array();
	g->results = json_array();
	argp_parse(argp, argc, argv, 0, NULL, g);
	request = json_pack("{s:s, s:o, s:s*, s:I}", "op", op, g->is_adding ? "hosts" : "targets", g->words, "launcher", g->launcher,
	                    "timeout_ms", (json_int_t)g->timeout_s * 1000);
	code = control_talk(&g->c, request, on_answer, g, &why);
	if (g->c.is_json && !g->is_refused && code >= 0) {
		json_dumpf(g->results, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(g->results);
	if (code < 0)
		return control_fail(&why);
	return g->is_refused ? CONTROL_WRONG : g->failed ? CONTROL_FAILED : CONTROL_DONE;
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

static const struct argp_option add_options[] = {
	{ "launcher", 'l', "X", 0, "How the host is reached: ssh, fork (this machine plays it), or a command with the words %h (host) "
	  "and %c (what to run there); default: as mpirun was told", 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

static const struct argp_option empty_options[] = {
	{ "deadline", 'T', "TIME", 0, "No move is begun after it (90s, 10m; default 60s): what is still there is named, and goes on there", 0 },
	{ "timeout", 'T', NULL, OPTION_ALIAS | OPTION_HIDDEN, NULL, 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

static const struct argp_option undrain_options[] = {
	CONTROL_OPTIONS,
	{ 0 }
};

int control_add(int argc, char **argv)
{
	static const struct argp argp = { add_options, parse_option, "HOST[:CLUSTERS]...", "Bring hosts into a running job, or further "
		"clusters on a host that it has. When the command ends, ranks can be moved there. The job goes on, also when a host cannot "
		"be reached.", NULL, NULL, NULL };
	struct grow g = { .is_adding = true };
	char name[] = "godwit add";

	argv[0] = name;
	return run(argc, argv, &argp, &g, "add");
}

int control_drain(int argc, char **argv)
{
	static const struct argp argp = { empty_options, parse_option, "CLUSTER|HOST...", "Move all ranks away from clusters, or from all "
		"clusters of a host, to those that have the fewest. No rank moves there until 'godwit undrain'. A rank that cannot move is "
		"named.", NULL, NULL, NULL };
	struct grow g = { .timeout_s = 60 };
	char name[] = "godwit drain";

	argv[0] = name;
	return run(argc, argv, &argp, &g, "drain");
}

int control_undrain(int argc, char **argv)
{
	static const struct argp argp = { undrain_options, parse_option, "CLUSTER|HOST...", "Let ranks move again to clusters that were "
		"drained.", NULL, NULL, NULL };
	struct grow g = { 0 };
	char name[] = "godwit undrain";

	argv[0] = name;
	return run(argc, argv, &argp, &g, "undrain");
}

int control_remove(int argc, char **argv)
{
	static const struct argp argp = { empty_options, parse_option, "CLUSTER|HOST...", "Move all ranks away as 'godwit drain' does, then "
		"let the daemons there end. The job goes on. mpirun itself stays where it is.", NULL, NULL, NULL };
	struct grow g = { .timeout_s = 60 };
	char name[] = "godwit remove";

	argv[0] = name;
	return run(argc, argv, &argp, &g, "remove");
}
