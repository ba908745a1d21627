/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/base/loop: the event loop of daemons and tools. One thread, epoll; descriptors, timers, deferred calls.
 *
 * Callbacks may create and remove any watch or timer, their own included; a removed one is never called again.
 */
#ifndef GW_LOOP_H
#define GW_LOOP_H

#include <sys/epoll.h>

#include "runtime/base/base.h"

struct gw_loop;
struct gw_watch;
struct gw_timer;

/** gw_loop_create - 0, or negative errno. One thread makes it, runs it and calls all of the following */
int gw_loop_create(struct gw_loop **out);
void gw_loop_destroy(struct gw_loop *l); /* NULL ok; with what is watched, and timers. Not while it runs */

/** gw_loop_run - until gw_loop_stop(); returns its code */
int gw_loop_run(struct gw_loop *l);
void gw_loop_stop(struct gw_loop *l, int code);

/** gw_loop_watch - @events: EPOLLIN, EPOLLOUT, EPOLLPRI. The descriptor stays the caller's. 0, or negative errno */
int gw_loop_watch(struct gw_loop *l, struct gw_watch **out, int fd, uint32_t events,
                  void (*cb)(void *ctx, uint32_t events), void *ctx);
int gw_watch_set(struct gw_watch *w, uint32_t events);
void gw_watch_remove(struct gw_watch *w); /* NULL ok; before the descriptor is closed */
/** gw_watch_close - remove, then close: *@w NULL ok, *@fd -1 ok, and so they are afterwards */
void gw_watch_close(struct gw_watch **w, int *fd);

/** gw_loop_timer - once after @delay_ms, then every @period_ms (0: once; it is removed after its call). 0, or -ENOMEM */
int gw_loop_timer(struct gw_loop *l, struct gw_timer **out, uint64_t delay_ms, uint64_t period_ms,
                  void (*cb)(void *ctx), void *ctx);
void gw_timer_cancel(struct gw_timer *t); /* NULL ok */

/** gw_loop_defer - call once on the next turn, before waiting. 0, or -ENOMEM */
int gw_loop_defer(struct gw_loop *l, void (*cb)(void *ctx), void *ctx);

/** gw_loop_expect - something will come within microseconds: for so many nanoseconds it is looked for, not slept. The processor
 *  is yielded to others of the same real-time priority in between, so only for a thread that has one. 0: not any more */
void gw_loop_expect(struct gw_loop *l, uint64_t ns);

/** gw_loop_on_wake - @cb before anything else in a turn that comes @gap_ms or more after the last one: the process was stopped, or
 *  its host. @slept_ms: how long the host was, as its clocks tell. Whoever uses this has a timer that is shorter. */
void gw_loop_on_wake(struct gw_loop *l, uint64_t gap_ms, void (*cb)(void *ctx, uint64_t slept_ms), void *ctx);

#endif
