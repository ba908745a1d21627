/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit rebalance: mpirun looks, decides, and moves ranks, once. */
#include <argp.h>
#include <stdlib.h>

#include "runtime/control/control.h"

struct rebalance {
	struct control c;
	const char *strategy, *snapshot;
	bool is_dry;
	int result;
	struct gw_error refusal;
};

enum { OPT_DRY = 0x100, OPT_SNAPSHOT };

static const struct argp_option options[] = {
	{ "strategy", 's', "HOW", 0, "refine (as few moves as are worth it), greedy (all anew), comm (those who talk much come together), consolidate "
	  "(as few clusters as carry the load); default: that of mpirun -balance, or refine", 0 },
	{ "dry-run", OPT_DRY, NULL, 0, "Only say what would be moved, and what it would gain", 0 },
	{ "snapshot", OPT_SNAPSHOT, "FILE", 0, "Write what was measured there, as JSON: what the decision was made from", 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct rebalance *r = state->input;

	if (key == 's')
		r->strategy = arg;
	else if (key == OPT_DRY)
		r->is_dry = true;
	else if (key == OPT_SNAPSHOT)
		r->snapshot = arg;
	else if (key == ARGP_KEY_ARG)
		argp_error(state, "'%s' is too much: ranks are chosen by what they use", arg);
	else
		return control_option(&r->c, key, arg);
	return 0;
}

static void print(struct rebalance *r, const json_t *msg)
{
	const json_t *moves = json_object_get(msg, "moves"), *m;
	size_t i;

	printf("%s\n", json_string_value(json_object_get(msg, "words")));
	json_array_foreach((json_t *)(uintptr_t)moves, i, m) {
		long long rank = (long long)json_integer_value(json_object_get(m, "rank"));
		long long from = (long long)json_integer_value(json_object_get(m, "from"));
		long long to = (long long)json_integer_value(json_object_get(m, "to"));

		if (r->is_dry)
			printf("rank %lld: from cluster %lld to cluster %lld\n", rank, from, to);
		else if (json_integer_value(json_object_get(m, "status")) == 0)
			printf("rank %lld: moved from cluster %lld to cluster %lld\n", rank, from, to);
		else
			fprintf(stderr, "godwit: rank %lld stays on cluster %lld: %s\n", rank, from,
			        json_string_value(json_object_get(m, "text")));
	}
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	const json_t *m;
	struct rebalance *r = ctx;
	int status = (int)json_integer_value(json_object_get(msg, "status"));
	size_t i;

	if (op && (strcmp(op, "refused") == 0 || (strcmp(op, "rebalanced") == 0 && status < 0)))
		return gw_fail(&r->refusal, status, "%s", json_string_value(json_object_get(msg, "text"))), 1;
	if (!op || strcmp(op, "rebalanced") != 0)
		return 0;
	if (r->snapshot && json_dump_file(json_object_get(msg, "snapshot"), r->snapshot, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0) {
		fprintf(stderr, "godwit: cannot write the snapshot to '%s': %s\n", r->snapshot, strerror(errno));
		r->result = CONTROL_FAILED;
	}
	json_object_del(msg, "snapshot");
	json_array_foreach(json_object_get(msg, "moves"), i, m)
		if (json_integer_value(json_object_get(m, "status")) < 0)
			r->result = CONTROL_FAILED;
	if (r->c.is_json)
		control_print(msg);
	else
		print(r, msg);
	return 1;
}

int control_rebalance(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, NULL, "Look for a second or two what the ranks of a job compute and to whom they talk, and "
		"move those whose moves gain more than they cost. When it is interrupted, no further move is begun.", NULL, NULL, NULL };
	struct rebalance r = { .result = CONTROL_DONE };
	struct gw_error why = { 0 };
	char name[] = "godwit rebalance";
	json_t *request;
	int code;

	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &r);
	request = json_pack("{s:s, s:b, s:b}", "op", "rebalance", "dry_run", (int)r.is_dry, "snapshot", r.snapshot != NULL);
	if (r.strategy)
		json_object_set_new(request, "strategy", json_string(r.strategy));
	code = control_talk(&r.c, request, on_answer, &r, &why);
	if (code < 0 || r.refusal.code)
		return code < 0 ? control_fail_object(&r.c, &why) : control_refuse(&r.c, &r.refusal);
	return r.result;
}
