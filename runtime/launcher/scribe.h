/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher/scribe: a process that keeps a file of lines, so that nobody waits for the file system but itself.
 *
 *   mpirun ──lines, as many as there is room for──► scribe ──► file
 *          ◄──────opened; cannot be written─────────┘
 *
 * A home on a file server that hangs would stop mpirun's loop, and the job with it, at any call that touches it: even a thread of mpirun
 * that waits in one would keep mpirun from ending. So all such calls, the opening and what is removed before included, are made by a child
 * (errand.h, scribe_file.c). What it does not take is kept up to SCRIBE_BYTES; then lines are dropped, and counted. Its death is an end of the
 * file and of nothing else. It dies with mpirun, also by SIGKILL, and heeds no signal itself: of its session and its descriptors nothing
 * is shared.
 */
#ifndef RT_SCRIBE_H
#define RT_SCRIBE_H

#include "runtime/base/loop.h"

#define SCRIBE_BYTES (4u << 20) /* a longer line is taken when nothing else waits */

struct scribe;

struct scribe_ops {
	void (*opened)(void *ctx, const char *path, uint64_t size); /* of the file, with what was in it before; once, unless it has ended */
	void (*drained)(void *ctx, uint64_t lost);                  /* there is room again, after so many lines that there was none for */
	void (*ended)(void *ctx, const char *path, const char *why); /* nothing is written any more; once, unless scribe_await or scribe_end has
	                                                              * said so. @path: that was opened, or could not be; "": not known */
};

/**
 * scribe_start - @where: a file, or a directory (one that there is, or a name with / at its end) for a file of job @job; NULL: that of
 * all histories (runtime/state.h), where the oldest are removed. @in_child: called there at first; may be NULL.
 */
int scribe_start(struct scribe **out, struct gw_loop *loop, const char *where, uint32_t job, void (*in_child)(void *ctx),
                 const struct scribe_ops *ops, void *ctx, struct gw_error *why);
/** scribe_await - block until the file is open. -errno with @why: it cannot be, or @end_ns has come (gw_now_ns) */
int scribe_await(struct scribe *s, uint64_t end_ns, struct gw_error *why);
/** scribe_put - a line to be written at the next scribe_flush(). false: there was no room, or it has ended. @is_last_word: there is room
 *  in any case */
bool scribe_put(struct scribe *s, const char *line, size_t len, bool is_last_word);
/** scribe_flush - as much as it takes now; the rest when it takes more */
void scribe_flush(struct scribe *s);
size_t scribe_waiting(const struct scribe *s); /* bytes */
uint64_t scribe_lost(const struct scribe *s);  /* lines since the last `drained` */
/** scribe_heeded_ns - when it last was seen to take what it was sent (gw_now_ns): now, when it has taken all; at first its start */
uint64_t scribe_heeded_ns(struct scribe *s);
bool scribe_is_over(const struct scribe *s);
pid_t scribe_pid(const struct scribe *s);
/** scribe_end - all is written: 0. -errno with @why: not all could be, or it was killed at @end_ns. No callback is called. NULL ok */
int scribe_end(struct scribe *s, uint64_t end_ns, struct gw_error *why);

/* ---- between the two ---- */
struct scribe_said {            /* on one machine, by one program, which has forked */
	int32_t code;           /* 0: opened; or negative errno, and it ends */
	uint64_t size;
	char path[4096], why[768];
};

/** scribe_file - the child: open the file, say so, write what comes from @fd until its end */
_Noreturn void scribe_file(int fd, const char *where, uint32_t job);

#endif
