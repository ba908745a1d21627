/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/control: godwit, the tool that looks at running jobs and moves their ranks. One file per subcommand. */
#ifndef RT_CONTROL_H
#define RT_CONTROL_H

#include "runtime/wire.h"

struct control {
	const char *job;   /* of --job, or NULL: the only one that runs */
	bool is_json;
};

/** control_connect - to the head of the job that was named, or of the only one. Return a descriptor or -errno */
int control_connect(const struct control *c, struct gw_error *why);

/**
 * control_talk - send @request (stolen) and hand each answer to @on_answer until it returns something but 0
 * Return: that, or negative errno with @why when the connection ends before.
 */
int control_talk(const struct control *c, json_t *request, int (*on_answer)(void *ctx, json_t *msg), void *ctx,
                 struct gw_error *why);

/* Each takes its own arguments, argv[0] being its name, and returns the exit status. */
int control_status(int argc, char **argv);
int control_migrate(int argc, char **argv);
int control_fail(const struct gw_error *why);

#endif
