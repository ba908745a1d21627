/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit metrics: what a job does, for Prometheus. */
#include <argp.h>
#include <stdlib.h>

#include "runtime/control/control.h"
#include "runtime/metrics.h"

static const struct argp_option options[] = {
	{ "job", 'j', "ID", 0, "The job, when several run: its id or the beginning of it", 10 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct control *c = state->input;

	if (key != ARGP_KEY_ARG)
		return control_option(c, key, arg);
	if (c->job)
		argp_error(state, "'%s' is too much: one job is told of", arg);
	c->job = arg;
	return 0;
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	gw_autofree char *text = NULL;

	if (!op || strcmp(op, "status") != 0)
		return 0;
	text = rt_metrics_text(msg);
	if (!text)
		return gw_fail(ctx, -ENOMEM, "out of memory");
	fputs(text, stdout);
	return 1;
}

int control_metrics(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB]", "Print what clusters and ranks of a job do, and its moves, in Prometheus's text "
		"format. 'mpirun -metrics FILE' writes the same to a file by itself, as node_exporter's textfile collector wants it.", NULL, NULL,
		NULL };
	struct gw_error why = { 0 };
	struct control c = { 0 };
	char name[] = "godwit metrics";

	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &c);
	return control_talk(&c, json_pack("{s:s, s:b}", "op", "status", "use", 1), on_answer, &why, &why) < 0 ? control_fail(&why) : CONTROL_DONE;
}
