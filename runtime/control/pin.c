/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit pin, godwit unpin: keep ranks where they are, and let them go again. */
#include <argp.h>
#include <stdlib.h>

#include "runtime/control/control.h"

struct pin {
	struct control c;
	json_t *ranks;
	bool is_pinned, is_refused;
};

static const struct argp_option options[] = {
	CONTROL_OPTIONS,
	{ 0 }
};

/* Once, however often it is named */
static void add_rank(json_t *ranks, json_int_t rank)
{
	for (size_t i = 0; i < json_array_size(ranks); i++)
		if (json_integer_value(json_array_get(ranks, i)) == rank)
			return;
	json_array_append_new(ranks, json_integer(rank));
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct pin *p = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		add_rank(p->ranks, control_number(state, arg, "the number of a rank"));
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "name at least one rank");
		return EINVAL;
	default:
		return control_option(&p->c, key, arg);
	}
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	const json_t *ranks = json_object_get(msg, "ranks");
	struct pin *p = ctx;

	if (op && strcmp(op, "refused") == 0) {
		fprintf(stderr, "godwit: %s\n", json_string_value(json_object_get(msg, "text")));
		p->is_refused = true;
		return 1;
	}
	if (!op || strcmp(op, "pinned") != 0)
		return 0;
	if (p->c.is_json) {
		json_object_del(msg, "op");
		json_dumpf(msg, stdout, JSON_INDENT(2));
		putchar('\n');
		return 1;
	}
	for (size_t i = 0; i < json_array_size(ranks); i++)
		printf("rank %lld %s\n", (long long)json_integer_value(json_array_get(ranks, i)),
		       p->is_pinned ? "is pinned: it stays where it is" : "is not pinned");
	return 1;
}

static int run(int argc, char **argv, const struct argp *argp, bool is_pinned)
{
	struct pin p = { .is_pinned = is_pinned };
	struct gw_error why = { 0 };
	int code;

	p.ranks = json_array();
	argp_parse(argp, argc, argv, 0, NULL, &p);
	code = control_talk(&p.c, json_pack("{s:s, s:o, s:b}", "op", "pin", "ranks", p.ranks, "pinned", (int)is_pinned),
	                    on_answer, &p, &why);
	return code < 0 ? control_fail(&why) : p.is_refused ? CONTROL_WRONG : CONTROL_DONE;
}

int control_pin(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "RANK...", "Keep ranks where they are: moves of a pinned rank are "
		"refused until it is unpinned. A move that has begun goes on.", NULL, NULL, NULL };
	char name[] = "godwit pin";

	argv[0] = name;
	return run(argc, argv, &argp, true);
}

int control_unpin(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "RANK...", "Let pinned ranks move again.", NULL, NULL, NULL };
	char name[] = "godwit unpin";

	argv[0] = name;
	return run(argc, argv, &argp, false);
}
