/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/base/event: what happened, one JSON object per line, in the file that GODWIT_EVENTS names.
 *
 * For tests and plots: a test waits for a line instead of sleeping. Names and fields are listed in doc/events.md; each
 * line also has "t" (CLOCK_REALTIME, ns), "who" (the process, as in its log lines) and "pid". Lines are written whole,
 * in append mode, so several daemons share one file. Without GODWIT_EVENTS, and without a listener, an event costs two loads.
 * For daemons and tools only, never inside a rank (the launcher takes GODWIT_EVENTS out of the ranks' environment).
 */
#ifndef GW_EVENT_H
#define GW_EVENT_H

#include <jansson.h>

#include "runtime/base/base.h"

/** gw_event_init - @who as for gw_log_init(); opens the file. Without it there are no events. @host: where it runs, in jobs of
 *  several hosts; else NULL */
void gw_event_init(const char *who, const char *host);
bool gw_event_on(void);

/** gw_event_listen - events of this process are handed to @fn, too, whether there is a file or not; @line ends with a newline. NULL:
 *  not any more. There is one listener: mpirun's record of the job (runtime/launcher/record.c) */
typedef void gw_event_fn(void *ctx, const char *name, const json_t *event, const char *line, size_t len);
void gw_event_listen(gw_event_fn *fn, void *ctx);

/** gw_event - @name with the fields that json_pack(@fmt, ...) makes, such as "{s:i, s:s}" */
void gw_event(const char *name, const char *fmt, ...);

/** gw_event_object - the same with fields that are there already; steals the reference; NULL is no fields */
void gw_event_object(const char *name, json_t *fields);

/** gw_event_text - a string for a field, whatever a user has written: what is no UTF-8 is '?' */
json_t *gw_event_text(const char *text);

#endif
