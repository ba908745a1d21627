/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher/errand: a process of mpirun's own for what may wait: for a file system, above all.
 *
 * A call that touches a file on a server that hangs does not return, and a process that waits in one cannot even end. So mpirun, which has
 * a job to look after, makes none of those that it can leave to a child: an errand does one thing, says how it went, and is over. What keeps a
 * file for as long as a job runs is a scribe (scribe.h).
 */
#ifndef RT_ERRAND_H
#define RT_ERRAND_H

#include "runtime/base/loop.h"

#define ERRAND_SAYS (1u << 20) /* bytes that it may say, the 0 behind them included */

struct errand;

/** errand_work - in the child. @said: what it has to say, a string; "" at first. 0 or negative errno */
typedef int errand_work(void *ctx, char *said, size_t cap);
/** errand_done - in mpirun, from the loop or from errand_wait(): what work() returned and said; -EPIPE: it was killed; -ENOMEM: there was
 *  no memory for what it said */
typedef void errand_done(void *ctx, int code, char *said);
/** errand_text - of a code of errand_done, or of -ETIMEDOUT for one that goes on: why it came to nothing, for a sentence */
const char *errand_text(int code);

/** errand_begin - *@out is NULL again when @done is called, and stays where it is until then. 0, or negative errno with @why */
int errand_begin(struct errand **out, struct gw_loop *loop, errand_work *work, errand_done *done, void *ctx, struct gw_error *why);
/** errand_wait - block until it is over, and `done` was called: 0. -ETIMEDOUT: @end_ns (gw_now_ns) has come, and it goes on */
int errand_wait(struct errand **e, uint64_t end_ns);
/** errand_age_ms - for how long it has been at it; 0: there is none */
uint64_t errand_age_ms(const struct errand *e);
/** errand_drop - kill it; `done` is not called. What the kernel does not let go of goes without us. *@e NULL ok */
void errand_drop(struct errand **e);

/* ---- for whoever needs such a process for longer ---- */

/**
 * errand_fork - a child, to be seen as @name, that runs @work with @fd as its descriptor 3, and then ends
 *
 * Of mpirun's descriptors and its session nothing is left, and it dies with mpirun, also by SIGKILL. No other signal ends it: a batch
 * system that takes a host back sends SIGTERM to all that run there, and the job goes on elsewhere.
 * Return: its process number, or negative errno
 */
pid_t errand_fork(const char *name, int fd, void (*work)(void *ctx, int fd), void *ctx);
/** errand_bury - until it has ended. -ETIMEDOUT: it was killed at @end_ns, and is not waited for */
int errand_bury(pid_t pid, uint64_t end_ns);

#endif
