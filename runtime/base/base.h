/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/base: what every other folder uses, and that uses nothing.
 *
 * Errors that carry their text, logging, events, named faults, intrusive lists and scope cleanup.
 * The event loop is in loop.h and framed connections in link.h; both are for daemons and tools, never for code
 * that runs inside a rank. What is in this header is safe inside a rank: it allocates nothing and starts nothing.
 *
 * Convention: a call that can fail returns 0 (or a count) or a negative errno. Outputs are written on success only.
 */
#ifndef GW_BASE_H
#define GW_BASE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#define GW_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define GW_LIKELY(x)   __builtin_expect(!!(x), 1)
#define GW_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define GW_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define gw_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* ---- errors ---------------------------------------------------------------------------------------------------- */

/* An error that a person will read: what failed, on what, why, and what to do. */
struct gw_error {
	int code;       /* negative errno; 0 while nothing failed */
	char text[768]; /* one sentence in UTF-8, no newline */
};

/**
 * gw_fail - fill an error and return its code, so that 'return gw_fail(...)' is one statement
 * @why:  may be NULL when the caller does not want the text
 * @code: negative errno
 */
int gw_fail(struct gw_error *why, int code, const char *fmt, ...) GW_PRINTF(3, 4);

/** gw_advice - "; raise 'ulimit -n'" for an errno that says which limit was met, or "" */
const char *gw_advice(int error);

/** gw_fail_more - put a prefix in front of an error that a callee filled ("rank 3: "); returns why->code */
int gw_fail_more(struct gw_error *why, const char *fmt, ...) GW_PRINTF(2, 3);

/* ---- log ------------------------------------------------------------------------------------------------------- */

enum gw_level { GW_ERROR, GW_WARN, GW_INFO, GW_DEBUG };

/**
 * gw_log_init - name this process in its log lines
 * @who:   a static string such as "godwitd 2"; copied
 * The level comes from GODWIT_LOG (error, warn, info, debug); default warn. Output goes to standard error, or to the
 * file that GODWIT_LOG_FILE names (appended, one write per line).
 */
void gw_log_init(const char *who);
bool gw_log_on(enum gw_level level);
void gw_log(enum gw_level level, const char *fmt, ...) GW_PRINTF(2, 3);

/* ---- named faults ---------------------------------------------------------------------------------------------- */

/*
 * GODWIT_FAULT names the edges at which a test breaks something: a comma separated list of NAME or NAME=ACTION or
 * NAME@K=ACTION (the K-th time, counted from 1; default 1). Names are in doc/faults.md. Actions: kill (SIGKILL to this
 * process, the default), stop (SIGSTOP), fail (gw_fault returns true and the caller behaves as if the step failed),
 * cut (as fail; the caller drops the connection that it holds). An environment without GODWIT_FAULT costs one load.
 */
enum gw_fault_action { GW_FAULT_NONE = 0, GW_FAULT_FAIL, GW_FAULT_CUT };
enum gw_fault_action gw_fault(const char *name);

/* ---- intrusive doubly linked list ------------------------------------------------------------------------------ */

struct gw_list { struct gw_list *next, *prev; };

/* A head and its elements are initialised, and an element is in one list at most. Removing one that is in none does nothing.
 * gw_list_for_safe: the element that is looked at may be removed, no other one. No locks: the caller's affair */
static inline void gw_list_init(struct gw_list *l) { l->next = l->prev = l; }
static inline bool gw_list_is_empty(const struct gw_list *l) { return l->next == l; }
static inline void gw_list_append(struct gw_list *head, struct gw_list *e)
{
	e->prev = head->prev;
	e->next = head;
	head->prev->next = e;
	head->prev = e;
}
static inline void gw_list_remove(struct gw_list *e)
{
	e->prev->next = e->next;
	e->next->prev = e->prev;
	e->next = e->prev = e;
}
#define gw_list_for(pos, head) for (struct gw_list *pos = (head)->next; pos != (head); pos = pos->next)
#define gw_list_for_safe(pos, head) \
	for (struct gw_list *pos = (head)->next, *pos##_next = pos->next; pos != (head); pos = pos##_next, pos##_next = pos->next)
#define gw_list_entry(ptr, type, member) gw_container_of(ptr, type, member)

/* ---- scope cleanup --------------------------------------------------------------------------------------------- */

/* What the two attributes below call at the end of a scope: a negative descriptor, and NULL, are left alone */
void gw_autoclose_do(int *fd);
void gw_autofree_do(void *p);
#define gw_autoclose __attribute__((cleanup(gw_autoclose_do))) /* int fd = -1 */
#define gw_autofree  __attribute__((cleanup(gw_autofree_do)))  /* char *s = NULL; heap */

/* ---- scheduling ------------------------------------------------------------------------------------------------ */

/**
 * gw_prompt_set - let a thread (0: the calling one) run soon after it wakes, or take that back
 * By a short time slice, which Linux 6.12 and later honour with an early turn and which needs no privilege; without
 * effect elsewhere. Total time is as fair as before. What the thread forks does not inherit it. Nice stays as it is.
 */
void gw_prompt_set(pid_t tid, bool is_prompt);

/* How a thread (0: the calling one) is scheduled. Slices are of SCHED_OTHER, since Linux 6.12. */
struct gw_sched {
	int policy;
	int nice;          /* of SCHED_OTHER and SCHED_BATCH; gw_sched_set leaves that of the others alone */
	int priority;      /* of SCHED_FIFO and SCHED_RR */
	bool is_prompt;    /* gw_prompt_set */
	bool is_reset_on_fork;
};

/** gw_sched_get, gw_sched_set - 0 or a negative errno; who may not take off is_reset_on_fork keeps it, which is no error */
int gw_sched_get(pid_t tid, struct gw_sched *out);
int gw_sched_set(pid_t tid, const struct gw_sched *s);

/**
 * gw_hurry_begin - let a thread go before all others, for some milliseconds: SCHED_FIFO, or as near to it as is allowed
 * A thread but the calling one only by root: who hurries has no timer slack, which the caller must put back, and nobody else may.
 * What has that policy already keeps it. @before: how it was, for gw_hurry_end; what it forks does not hurry.
 */
void gw_hurry_begin(pid_t tid, struct gw_sched *before);
void gw_hurry_end(pid_t tid, const struct gw_sched *before);

/* ---- clocks ---------------------------------------------------------------------------------------------------- */

uint64_t gw_now_ns(void);      /* CLOCK_MONOTONIC; for durations inside one process */
uint64_t gw_realtime_ns(void); /* CLOCK_REALTIME; for stamps compared between processes */

#endif
