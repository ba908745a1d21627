/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit suspend, godwit resume: a job makes room for somebody else, and goes on later. */
#include <argp.h>
#include <stdlib.h>

#include "runtime/control/control.h"

struct suspend {
	struct control c;
	bool is_suspending, has_failed;
	struct gw_error refusal;
};

static const struct argp_option options[] = {
	CONTROL_OPTIONS,
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct suspend *s = state->input;

	if (key != ARGP_KEY_ARG)
		return control_option(&s->c, key, arg);
	if (s->c.job)
		argp_error(state, "'%s' is too much: name one job", arg);
	s->c.job = arg;
	return 0;
}

static void print_line(const struct suspend *s, const json_t *msg)
{
	long long ranks = (long long)json_integer_value(json_object_get(msg, "ranks"));
	const char *plural = ranks == 1 ? "" : "s";

	if (json_is_true(json_object_get(msg, "again")))
		printf(s->is_suspending ? "it was suspended already\n" : "it was not suspended\n");
	else if (s->is_suspending)
		printf("suspended: %lld rank%s stopped in %.1f ms; 'godwit resume' lets %s go on\n", ranks, plural,
		       json_real_value(json_object_get(msg, "ms")), ranks == 1 ? "it" : "them");
	else
		printf("resumed: %lld rank%s\n", ranks, plural);
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct suspend *s = ctx;

	if (op && strcmp(op, "refused") == 0) {
		return gw_fail(&s->refusal, (int)json_integer_value(json_object_get(msg, "status")), "%s",
		               json_string_value(json_object_get(msg, "text"))), 1;
	}
	if (!op || strcmp(op, s->is_suspending ? "suspended" : "resumed") != 0)
		return 0;
	s->has_failed = json_integer_value(json_object_get(msg, "status")) < 0;
	if (s->c.is_json) {
		control_print(msg);
	} else if (s->has_failed) {
		fprintf(stderr, "godwit: the job is not suspended: %s\n", json_string_value(json_object_get(msg, "text")));
	} else {
		print_line(s, msg);
	}
	return 1;
}

static int run(int argc, char **argv, const struct argp *argp, bool is_suspending)
{
	struct suspend s = { .is_suspending = is_suspending };
	struct gw_error why = { 0 };
	int code;

	argp_parse(argp, argc, argv, 0, NULL, &s);
	if (is_suspending)
		control_say_interrupted("godwit: interrupted; the job is suspended nevertheless; 'godwit resume' lets it go on\n");
	code = control_talk(&s.c, json_pack("{s:s}", "op", is_suspending ? "suspend" : "resume"), on_answer, &s, &why);
	if (code < 0 || s.refusal.code)
		return code < 0 ? control_fail_object(&s.c, &why) : control_refuse(&s.c, &s.refusal);
	return s.has_failed ? CONTROL_FAILED : CONTROL_DONE;
}

int control_suspend(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB]", "Stop all ranks of a job, so that others can have the "
		"processors. mpirun and its daemons stay and use next to none; memory stays where it is. No rank moves meanwhile. When it is "
		"interrupted, the job is suspended nevertheless.", NULL, NULL, NULL };
	char name[] = "godwit suspend";

	argv[0] = name;
	return run(argc, argv, &argp, true);
}

int control_resume(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB]", "Let a suspended job go on.", NULL, NULL, NULL };
	char name[] = "godwit resume";

	argv[0] = name;
	return run(argc, argv, &argp, false);
}
