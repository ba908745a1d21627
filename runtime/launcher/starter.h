/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher/starter: one process of a launcher (ssh, srun, or what the user says), which runs something elsewhere.
 *
 * mpirun starts the daemons of other hosts so, and pools their keepers. The secret goes over its standard input, which stays
 * open for as long as what it started shall run. What that writes, on standard output or error, comes back line by line;
 * until starter_release() the last line is held, because a process that ends before says best there what went wrong.
 */
#ifndef RT_STARTER_H
#define RT_STARTER_H

#include <sys/resource.h>

#include "runtime/base/loop.h"
#include "runtime/launcher/options.h"

#define STARTER_HERE "" /* as a launcher: this machine itself */

struct starter;

struct starter_ops {
	void (*said)(void *ctx, const char *line);
	void (*ended)(void *ctx);                    /* once */
	bool (*heard)(void *ctx, const char *line);  /* before it is held: true when it is dealt with; may be NULL */
	void (*in_child)(void *ctx);                 /* before the exec; may be NULL */
};

/**
 * starter_start - @host: as it is called in sentences. @input: a line for its standard input, no longer than a pipe takes at
 * once. @files: its limit of open files where ours was raised; NULL, or rlim_max 0: as it is. All are needed during the call only.
 */
int starter_start(struct starter **out, struct gw_loop *loop, const char *host, char **argv, const char *input,
                  const struct rlimit *files, const struct starter_ops *ops, void *ctx, struct gw_error *why);
void starter_release(struct starter *s);           /* what it was to start is there: nothing is held any more */
bool starter_is_over(const struct starter *s);
int starter_status(const struct starter *s);       /* as of waitpid, when it is over */
const char *starter_held(const struct starter *s); /* "" when nothing is */
void starter_hold(struct starter *s, const char *line); /* instead; "" forgets it */
int starter_write(struct starter *s, const char *text); /* more for its standard input, as much as a pipe takes at once */
void starter_kill(struct starter *s);
void starter_close(struct starter *s);             /* the end of its standard input; NULL ok */
/** starter_destroy - wait for its end until @end_ns (gw_now_ns), kill it then; what it has said is said. NULL ok */
void starter_destroy(struct starter *s, uint64_t end_ns);

/* ---- ssh, and the user's words ---- */
char *starter_quote(const char *word);             /* as one word of a shell; on the heap */
/** starter_words - add what runs @line (words of a shell) on @host. @launcher: words with %h and %c, where %c is @line and
 *  comes last when it is not there; NULL: ssh; STARTER_HERE */
void starter_words(struct strings *argv, const char *launcher, const char *host, const char *line);
/** starter_explain - it has ended with @status, and @last was its last line, before what it starts was there. Return @why's code */
int starter_explain(const char *launcher, const char *host, int status, const char *last, struct gw_error *why);

#endif
