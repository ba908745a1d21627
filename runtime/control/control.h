/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/control: godwit, the tool that looks at running jobs and moves their ranks. One file per command. */
#ifndef RT_CONTROL_H
#define RT_CONTROL_H

#include "runtime/wire.h"

struct control {
	const char *job;   /* of --job: an id or its beginning; NULL: the only one that runs */
	bool is_json;
};

/* Exit statuses, the same for all commands; doc/godwit.1 explains them. */
enum { CONTROL_DONE = 0, CONTROL_FAILED = 1, CONTROL_WRONG = 2, CONTROL_NO_JOB = 3 };

/* The options that every command takes, in its table; and what its parser does with keys that it does not know. */
#define CONTROL_OPTIONS \
	{ "job", 'j', "ID", 0, "The job, when several run: its id or the beginning of it", 10 }, \
	{ "json", 'J', NULL, 0, "Print JSON", 10 }
int control_option(struct control *c, int key, char *arg); /* 0, or ARGP_ERR_UNKNOWN */

/** control_number - read @what ("the number of a rank"); ends the program with a sentence when it is none */
struct argp_state;
long control_number(struct argp_state *state, const char *text, const char *what);

/** control_connect - to the head of the job that was named, or of the only one. Return a descriptor or -errno */
int control_connect(const struct control *c, struct gw_error *why);

/** control_check_awake - a head that is stopped (Ctrl-Z) accepts connections, but answers nobody: -EBUSY with @why, to be said instead of
 *  waiting for it. @fd: of control_connect() */
int control_check_awake(int fd, struct gw_error *why);

/** control_say_interrupted - what becomes of the request when a signal ends this command: @sentence, static, "godwit: ...\n" */
void control_say_interrupted(const char *sentence);

/**
 * control_talk - send @request (stolen) and hand each answer to @on_answer until it returns something but 0
 * Return: that, or negative errno with @why: the connection ends before; mpirun is stopped, and was not asked (-EBUSY); or it was, and is
 * stopped for some seconds, after which it may do it (-EINPROGRESS).
 */
int control_talk(const struct control *c, json_t *request, int (*on_answer)(void *ctx, json_t *msg), void *ctx,
                 struct gw_error *why);

/* Each takes its own arguments, argv[0] being its name, and returns the exit status. */
int control_status(int argc, char **argv);
int control_migrate(int argc, char **argv);
int control_pin(int argc, char **argv);
int control_unpin(int argc, char **argv);
int control_rebalance(int argc, char **argv);
int control_top(int argc, char **argv);
int control_metrics(int argc, char **argv);
int control_report(int argc, char **argv);
int control_suspend(int argc, char **argv);
int control_resume(int argc, char **argv);
int control_checkpoint(int argc, char **argv);
int control_restart(int argc, char **argv);
int control_up(int argc, char **argv);
int control_down(int argc, char **argv);
int control_leave(int argc, char **argv);
int control_pools(int argc, char **argv);
int control_in_pool(int argc, char **argv);
int control_add(int argc, char **argv);
int control_drain(int argc, char **argv);
int control_undrain(int argc, char **argv);
int control_remove(int argc, char **argv);
int control_doctor(int argc, char **argv);
int control_fail(const struct gw_error *why); /* says it; returns the exit status that fits */
/* For commands whose answer is one object: with --json an error is an object, too, with status and text. */
int control_fail_object(const struct control *c, const struct gw_error *why); /* as control_fail */
int control_refuse(const struct control *c, const struct gw_error *why);      /* the request was wrong, whatever its code */
/** control_print - @msg as --json shows it */
void control_print(json_t *msg);

#endif
