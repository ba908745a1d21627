/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What of a rank runs by a clock: interval timers (setitimer), POSIX timers (timer_create), timer descriptors.
 *
 * They are made while the shell is filled and started when the rank is thawed, so that none runs out in a copy that may
 * never live. Those of wall clocks go on as if nothing had been: the moment when each runs out is kept by the rank's own
 * monotonic clock, and what ran out during the move is late by the move. Those of processor time keep what was left.
 */
#include "container/rank.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77 /* Linux 6.15 */
#endif
#define SIGEV_THREAD_ID_ 4
#define TIMERS_MAX 4096
#define GAP_MAX    65536 /* numbers passed over one by one, where the kernel cannot be told which to take */

static int64_t ns_of(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

/* of processor time: CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, and those of pthread_getcpuclockid(3) */
static bool is_of_work(int32_t clock)
{
	return clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

static bool is_boottime(int32_t clock)
{
	return clock == CLOCK_BOOTTIME || clock == CLOCK_BOOTTIME_ALARM;
}

/* of the thread that made the timer, which nobody can name afterwards; the kernel's codes of clocks: (~tid << 3) | kind */
static bool is_of_its_maker(int32_t clock)
{
	return clock == CLOCK_THREAD_CPUTIME_ID || (clock < 0 && (clock & 4) && ~(clock >> 3) == 0);
}

/* ---- POSIX timers, from outside ------------------------------------------------------------------------------------- */

struct listed { struct ct_img_timer timer; pid_t tid; /* on the host; 0: signals go to the process */ };

/*
 * One of /proc/PID/timers, as
 *   ID: 0 / signal: 60/00007fff86e452a8 / notify: signal/pid.2634 / ClockID: 0
 * in four lines. Return: where the next begins; NULL at the end; @is_bad when it is not that.
 */
static const char *next_listed(const char *text, struct listed *out, bool *is_bad)
{
	unsigned long long value;
	const char *next;
	char how[8], who[4];
	int pid;

	memset(out, 0, sizeof(*out));
	text = strstr(text, "ID:");
	if (!text)
		return NULL;
	if (sscanf(text, "ID: %u signal: %u/%llx notify: %7[a-z]/%3[a-z].%d ClockID: %d", &out->timer.id, &out->timer.signal, &value,
	           how, who, &pid, &out->timer.clock) != 7) {
		*is_bad = true;
		return NULL;
	}
	out->timer.value = value;
	out->timer.notify = strcmp(how, "none") == 0 ? SIGEV_NONE : strcmp(how, "thread") == 0 ? SIGEV_THREAD : SIGEV_SIGNAL;
	if (strcmp(who, "tid") == 0) {
		out->timer.notify |= SIGEV_THREAD_ID_;
		out->tid = pid;
	}
	next = strstr(text, "ClockID:");
	return next + strlen("ClockID:");
}

static int by_id(const void *a, const void *b)
{
	const struct listed *x = a, *y = b;

	return x->timer.id < y->timer.id ? -1 : x->timer.id > y->timer.id;
}

static int list(struct ct_rank *r, struct ct_vec *out, struct gw_error *why)
{
	gw_autofree char *text = NULL;
	bool is_bad = false;
	struct listed one;
	int rc;

	out->n = 0;
	rc = ct_proc_text(r->pid, "timers", &text);
	if (rc == -ENOENT)
		return 0; /* a kernel that was built without timers, or without telling of them (CONFIG_CHECKPOINT_RESTORE) */
	if (rc < 0)
		return gw_fail(why, rc, "cannot list the timers of pid %d: %s", (int)r->pid, strerror(-rc));
	for (const char *at = text; (at = next_listed(at, &one, &is_bad)) != NULL;)
		if (ct_vec_append(out, &one, 1) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of timers");
	if (is_bad)
		return gw_fail(why, -EIO, "cannot understand the list of timers of pid %d", (int)r->pid);
	if (out->n)
		qsort(out->at, out->n, out->size, by_id);
	return 0;
}

int ct_timers_check(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec all;
	int rc;

	ct_vec_init(&all, sizeof(struct listed));
	rc = list(r, &all, why);
	for CT_EACH(const struct listed, l, &all)
		if (rc == 0 && is_of_its_maker(l->timer.clock))
			rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it has a POSIX timer (timer_create) by the processor time of one thread, which "
			             "cannot move; delete it, or keep the rank with 'godwit pin'");
	if (rc == 0 && all.n > TIMERS_MAX)
		rc = ct_hold(r, why, CT_HOLD_STATE, 0, "it has %zu POSIX timers (timer_create), and at most %d can move; delete some, or "
		             "keep the rank with 'godwit pin'", all.n, TIMERS_MAX);
	ct_vec_fini(&all);
	return rc;
}

int ct_timers_list(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec all;
	int rc;

	ct_vec_init(&all, sizeof(struct listed));
	r->snap.timers.n = 0;
	rc = list(r, &all, why);
	for CT_EACH(const struct listed, l, &all) {
		struct ct_img_timer *t = rc == 0 ? ct_vec_add(&r->snap.timers, 1) : NULL;

		if (!t) {
			rc = rc < 0 ? rc : gw_fail(why, -ENOMEM, "no memory for a list of timers");
			break;
		}
		*t = l->timer;
		t->ns_tid = (uint32_t)l->tid; /* on the host, until ct_timers_answers */
	}
	if (rc == 0 && all.n > TIMERS_MAX)
		rc = gw_fail(why, -EBUSY, "it has made more POSIX timers than can move since it was looked at");
	ct_vec_fini(&all);
	return rc;
}

/* ---- POSIX timers, from inside -------------------------------------------------------------------------------------- */

struct answer { struct itimerspec spec; };

void ct_timers_ask(struct ct_rank *r, uint64_t *at)
{
	struct ct_remote *m = &r->remote;
	size_t n = r->snap.timers.n, i = 0;

	*at = ct_remote_data(m, NULL, sizeof(struct timespec) + n * sizeof(struct answer));
	if (!n)
		return;
	CT_CALL(m, "read its clock", CT_CALL_OK, SYS_clock_gettime, CLOCK_MONOTONIC, *at);
	for CT_EACH(const struct ct_img_timer, t, &r->snap.timers)
		CT_CALL(m, "read a POSIX timer", CT_CALL_OK, SYS_timer_gettime, t->id,
		        *at + sizeof(struct timespec) + i++ * sizeof(struct answer));
}

static uint32_t ns_tid_of(const struct ct_rank *r, pid_t tid)
{
	for (size_t i = 0; i < r->threads.n && i < r->snap.threads.n; i++)
		if (CT_AT(struct ct_thread, &r->threads, i)->tid == tid)
			return CT_AT(struct ct_img_thread, &r->snap.threads, i)->ns_tid;
	return 0;
}

int ct_timers_answers(struct ct_rank *r, uint64_t at, struct gw_error *why)
{
	const unsigned char *p = ct_remote_at(&r->remote, at);
	struct timespec now;
	size_t i = 0;

	memcpy(&now, p, sizeof(now));
	for CT_EACH(struct ct_img_timer, t, &r->snap.timers) {
		struct answer a;

		memcpy(&a, p + sizeof(now) + i++ * sizeof(a), sizeof(a));
		t->interval_ns = ns_of(&a.spec.it_interval);
		t->expiry_ns = ns_of(&a.spec.it_value);
		t->is_armed = t->expiry_ns != 0;
		if (t->is_armed && !is_of_work(t->clock))
			t->expiry_ns += ns_of(&now);
		if (t->notify & SIGEV_THREAD_ID_) {
			t->ns_tid = ns_tid_of(r, (pid_t)t->ns_tid);
			if (!t->ns_tid)
				return gw_fail(why, -EBUSY, "its POSIX timer %u (timer_create) signals a thread that has ended; delete it, or keep the "
				               "rank with 'godwit pin'", t->id);
		} else {
			t->ns_tid = 0;
		}
	}
	return 0;
}

/* ---- POSIX timers, made again --------------------------------------------------------------------------------------- */

static uint64_t queue_create(struct ct_remote *m, const struct ct_img_timer *t, uint32_t id)
{
	struct sigevent e = { .sigev_signo = t ? (int)t->signal : 0, .sigev_notify = t ? (int)t->notify : SIGEV_NONE };
	uint64_t at;

	if (t) {
		e.sigev_value.sival_ptr = (void *)(uintptr_t)t->value;
		e._sigev_un._tid = (int)t->ns_tid;
	}
	at = ct_remote_data(m, &id, sizeof(id));
	CT_CALL(m, "make a POSIX timer", CT_CALL_OK, SYS_timer_create, t ? t->clock : CLOCK_MONOTONIC,
	        ct_remote_data(m, &e, sizeof(e)), at);
	return at;
}

/* Numbers are handed out one after the other: those that the rank does not have any more are taken and given back. */
static int pass_over(struct ct_rank *r, uint32_t from, uint32_t to, struct gw_error *why)
{
	if (to - from > GAP_MAX)
		return gw_fail(why, -ENOTSUP, "its POSIX timer has number %u, which this kernel cannot give (Linux 6.15 can)", to);
	for (; from < to; from++) {
		int rc = ct_restore_room(r, 2, 256, why);

		if (rc < 0)
			return rc;
		queue_create(&r->remote, NULL, from);
		CT_CALL(&r->remote, "pass over a timer's number", CT_CALL_OK, SYS_timer_delete, from);
	}
	return 0;
}

int ct_timers_make(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	uint32_t next = 0;
	bool can_choose;
	struct ct_call *c;
	int rc;

	if (!r->snap.timers.n)
		return 0;
	ct_remote_reset(m);
	c = CT_CALL(m, "choose the numbers of timers", 0, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1);
	rc = ct_remote_run(m, r->pid, &r->shell_regs, why);
	can_choose = rc == 0 && c->result == 0;
	ct_remote_reset(m);
	for CT_EACH(const struct ct_img_timer, t, &r->snap.timers) {
		uint64_t at;

		if (rc == 0 && !can_choose)
			rc = pass_over(r, next, t->id, why);
		if (rc == 0)
			rc = ct_restore_room(r, 1, 256, why);
		if (rc < 0)
			return rc;
		at = queue_create(m, t, t->id);
		rc = ct_remote_run(m, r->pid, &r->shell_regs, why);
		if (rc == 0 && *(uint32_t *)ct_remote_at(m, at) != t->id)
			rc = gw_fail(why, -ENOTSUP, "its POSIX timer has number %u, and this kernel gave it %u", t->id,
			             *(uint32_t *)ct_remote_at(m, at));
		ct_remote_reset(m);
		next = t->id + 1;
	}
	if (rc == 0 && can_choose) {
		CT_CALL(m, "choose the numbers of timers", CT_CALL_OK, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0);
		rc = ct_restore_run(r, why);
	}
	return rc;
}

/* ---- timer descriptors ---------------------------------------------------------------------------------------------- */

/* What is shown of one that has run out again and again changes when its time is asked for: then all of it is certain. */
int ct_timerfd_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t index, struct gw_error *why)
{
	const struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, index);
	gw_autoclose int copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd->number, 0);
	struct ct_img_timerfd t = { .fd = index, .clock = (int32_t)fd->clock };
	struct itimerspec first = { 0 }, spec = { 0 };
	char name[32], info[1024];
	const char *ticks, *flags;
	uint64_t mono, boot, real;

	snprintf(name, sizeof(name), "fdinfo/%u", fd->number);
	for (;;) {
		if (copy < 0 || timerfd_gettime(copy, &first) < 0 || ct_proc_read(r->pid, name, info, sizeof(info)) < 0 ||
		    timerfd_gettime(copy, &spec) < 0)
			return gw_fail(why, -errno, "cannot read the timer of fd %u: %s", fd->number, strerror(errno));
		ct_rank_clocks(r, &mono, &boot);
		real = gw_realtime_ns();
		if (ns_of(&spec.it_value) <= ns_of(&first.it_value))
			break; /* it did not run out meanwhile */
	}
	ticks = ct_proc_field(info, "ticks:");
	flags = ct_proc_field(info, "settime flags:");
	t.ticks = ticks ? strtoull(ticks, NULL, 10) : 0;
	t.flags = flags ? (uint32_t)strtoul(flags, NULL, 8) : 0;
	t.interval_ns = ns_of(&spec.it_interval);
	t.is_armed = ns_of(&spec.it_value) != 0;
	t.expiry_ns = ns_of(&spec.it_value) + (int64_t)(t.clock == CLOCK_REALTIME && (t.flags & TFD_TIMER_ABSTIME) ? real : mono);
	return ct_vec_append(&s->timerfds, &t, 1) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of timers") : 0;
}

/* Ticks that nobody has read cannot be written, but a timer that should have run out so often does it at once. */
static void start_timerfd(struct ct_rank *r, const struct ct_img_timerfd *t)
{
	uint64_t number = CT_AT(struct ct_img_fd, &r->snap.fds, t->fd)->number;
	int64_t at = t->expiry_ns;
	uint64_t mono, boot;
	struct itimerspec spec = { .it_interval = timespec_of(t->interval_ns) };
	bool is_by_real = t->clock == CLOCK_REALTIME && (t->flags & TFD_TIMER_ABSTIME);

	if (!t->is_armed && !t->ticks)
		return;
	ct_rank_clocks(r, &mono, &boot);
	if (!is_by_real && t->clock == CLOCK_REALTIME)
		at += (int64_t)(gw_realtime_ns() - mono);
	if (is_boottime(t->clock))
		at += (int64_t)(boot - mono);
	at -= (int64_t)t->ticks * t->interval_ns;
	spec.it_value = timespec_of(at > 0 ? at : 1);
	CT_CALL(&r->remote, "start a timer descriptor", CT_CALL_OK, SYS_timerfd_settime, number, t->flags | TFD_TIMER_ABSTIME,
	        ct_remote_data(&r->remote, &spec, sizeof(spec)), 0);
}

/* ---- started -------------------------------------------------------------------------------------------------------- */

/* An interval without a value: it has just run out, and the kernel starts it again when its signal is taken. */
static bool is_set(const struct ct_img_itimer *t)
{
	return t->value_s || t->value_us || t->interval_s || t->interval_us;
}

bool ct_timers_any(const struct ct_snapshot *s)
{
	for (unsigned i = 0; i < GW_ARRAY_LEN(s->process.itimers); i++)
		if (is_set(&s->process.itimers[i]))
			return true;
	return s->timers.n || s->timerfds.n;
}

static void start_timer(struct ct_rank *r, const struct ct_img_timer *t)
{
	int64_t at = t->expiry_ns;
	uint64_t mono, boot;
	struct itimerspec spec = { .it_interval = timespec_of(t->interval_ns) };
	bool is_absolute = t->clock == CLOCK_MONOTONIC || is_boottime(t->clock);

	if (!t->is_armed)
		return;
	ct_rank_clocks(r, &mono, &boot);
	if (is_boottime(t->clock))
		at += (int64_t)(boot - mono);
	else if (!is_absolute && !is_of_work(t->clock))
		at -= (int64_t)mono;
	spec.it_value = timespec_of(at > 0 ? at : 1);
	CT_CALL(&r->remote, "start a POSIX timer", CT_CALL_OK, SYS_timer_settime, t->id, is_absolute ? TIMER_ABSTIME : 0,
	        ct_remote_data(&r->remote, &spec, sizeof(spec)), 0);
}

int ct_timers_start(struct ct_rank *r, struct gw_error *why)
{
	int rc = 0;

	ct_remote_reset(&r->remote);
	for (unsigned i = 0; i < GW_ARRAY_LEN(r->snap.process.itimers); i++) {
		struct ct_img_itimer t = r->snap.process.itimers[i];

		if (!is_set(&t))
			continue;
		if (!t.value_s && !t.value_us) {
			t.value_s = t.interval_s;
			t.value_us = t.interval_us;
		}
		CT_CALL(&r->remote, "start a timer", CT_CALL_OK, SYS_setitimer, i, ct_remote_data(&r->remote, &t, sizeof(t)));
	}
	for CT_EACH(const struct ct_img_timer, t, &r->snap.timers) {
		if (rc == 0 && (rc = ct_restore_room(r, 1, 64, why)) == 0)
			start_timer(r, t);
	}
	for CT_EACH(const struct ct_img_timerfd, t, &r->snap.timerfds) {
		if (rc == 0 && (rc = ct_restore_room(r, 1, 64, why)) == 0)
			start_timerfd(r, t);
	}
	return rc == 0 ? ct_restore_run(r, why) : rc;
}
