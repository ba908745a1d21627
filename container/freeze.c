/* SPDX-License-Identifier: BSD-2-Clause */
/* Stopping all threads of a rank, letting them go again, and ending a frozen copy. */
#include "container/rank.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

static struct ct_thread *thread_find(struct ct_rank *r, pid_t tid)
{
	for CT_EACH(struct ct_thread, t, &r->threads)
		if (t->tid == tid)
			return t;
	return NULL;
}

/* Wait for a change of @tid until @until; SIGCHLD is blocked, and comes with every stop of a tracee. */
static int wait_until(pid_t tid, int *status, uint64_t until)
{
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	for (;;) {
		pid_t p = waitpid(tid, status, __WALL | WNOHANG);
		uint64_t now = gw_now_ns(), left;
		struct timespec ts;

		if (p == tid)
			return 0;
		if (p < 0 && errno != EINTR)
			return -errno;
		if (now >= until)
			return -ETIMEDOUT;
		/* in slices: another thread of the daemon that does not block SIGCHLD may have got ours */
		left = until - now < 10000000 ? until - now : 10000000;
		ts = (struct timespec){ .tv_nsec = (long)left };
		sigtimedwait(&chld, NULL, &ts);
	}
}

/* until its event stop; signals that come first are delivered, which only prepares their handlers. 1: it ended */
static int thread_wait(struct ct_thread *t, uint64_t until)
{
	int status, rc;

	while (!t->is_stopped) {
		rc = wait_until(t->tid, &status, until);
		if (rc < 0)
			return rc;
		if (!WIFSTOPPED(status)) {
			t->is_seized = false;
			return 1;
		}
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->is_stopped = true;
			t->is_job_stopped = WSTOPSIG(status) != SIGTRAP; /* a stop of the whole process, which goes on */
		} else if (ptrace(PTRACE_CONT, t->tid, NULL, status >> 16 ? 0 : WSTOPSIG(status)) < 0 && errno != ESRCH) {
			return -errno;
		}
	}
	return 0;
}

static int thread_seize(struct ct_rank *r, pid_t tid, const cpu_set_t *here)
{
	struct ct_thread *t = ct_vec_add(&r->threads, 1);

	if (!t)
		return -ENOMEM;
	for CT_EACH(const struct ct_thread, seen, &r->samples)
		if (seen->tid == tid)
			*t = *seen;
	t->tid = tid;
	/* One core only: it may be about to go there, and to be everywhere again a moment later (noc/seats.c). Giving that back to it
	 * afterwards would nail it down */
	if (here && sched_getaffinity(tid, sizeof(t->cpus), &t->cpus) == 0 && CPU_COUNT(&t->cpus) > 1)
		t->is_moved_cpu = sched_setaffinity(tid, sizeof(*here), here) == 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD)) < 0 ||
	    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0) {
		int rc = -errno;

		if (rc == -ESRCH) {
			r->threads.n--;
			return 0;
		}
		if (t->is_moved_cpu)
			ct_affinity_give_back(r, t);
		r->threads.n--;
		return rc;
	}
	gw_hurry_begin(tid, &t->sched); /* it must run to stop; not earlier, or it would run before us, and on */
	t->is_seized = true;
	return 0;
}

/* Seize and stop whatever the task list shows, until it shows nothing new: what is stopped makes no threads. */
static int stop_all(struct ct_rank *r, uint64_t until, const cpu_set_t *here, struct gw_error *why)
{
	bool is_new = true, is_first = r->samples.n > 0; /* the list of a moment ago will do for that */
	struct ct_vec tids;
	int rc = 0;

	ct_vec_init(&tids, sizeof(int));
	for CT_EACH(const struct ct_thread, seen, &r->samples)
		if (rc == 0 && ct_vec_append(&tids, &seen->tid, 1) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of threads");
	for (; rc == 0 && is_new; is_first = false) {
		is_new = is_first;
		if (!is_first)
			rc = ct_proc_ids(r->pid, "task", &tids);
		if (rc < 0)
			gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
		for (size_t i = 0; rc == 0 && i < tids.n; i++) {
			int tid = *CT_AT(int, &tids, i);

			if (thread_find(r, tid))
				continue;
			is_new = true;
			rc = thread_seize(r, tid, here);
			if (rc < 0)
				gw_fail(why, rc == -EPERM ? -EBUSY : rc, "cannot stop thread %d: %s%s", tid, strerror(-rc),
				        rc == -EPERM ? "; is a debugger attached, or has it ended?" : "");
		}
		for (size_t i = 0; rc == 0 && i < r->threads.n; i++) {
			struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

			rc = thread_wait(t, until);
			if (rc == 1) {
				if (t->tid == r->pid) {
					rc = gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
					break;
				}
				memmove(t, t + 1, (r->threads.n - i - 1) * sizeof(*t));
				r->threads.n--;
				i--;
				rc = 0;
			} else if (rc == -ETIMEDOUT) {
				gw_fail(why, rc, "thread %d did not stop within its time; is it waiting for a disk or a file server?",
				        (int)t->tid);
			} else if (rc < 0) {
				gw_fail(why, rc, "cannot stop thread %d: %s", (int)t->tid, strerror(-rc));
			}
		}
	}
	ct_vec_fini(&tids);
	return rc;
}

size_t ct_threads_let_go(struct ct_rank *r)
{
	size_t running = 0;
	int status;

	/* A thread that was killed while it stood still cannot be let go, only reaped: until then init cannot end, and the
	 * end of the rank would never be seen. The leader, which is first, is the last one that can be reaped. */
	for (size_t i = r->threads.n; i-- > 0;) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

		if (!t->is_seized)
			continue;
		if (ptrace(PTRACE_DETACH, t->tid, NULL, NULL) == 0)
			running++;
		else
			while (wait_until(t->tid, &status, gw_now_ns() + 1000000000) == 0 && WIFSTOPPED(status))
				;
	}
	r->threads.n = 0;
	return running;
}

/*
 * Only a stopped thread can be let go, and one that we have interrupted will stop, or end. All are looked at in turn: when
 * the rank is killed, a leader that has ended is told of only after every other thread has been reaped, by us, those that
 * stood still before included.
 */
static void settle(struct ct_rank *r)
{
	uint64_t warn_at = gw_now_ns() + 1000000000;
	bool is_settled = false;
	int status;

	while (!is_settled) {
		is_settled = true;
		for CT_EACH(struct ct_thread, t, &r->threads)
			if (t->is_seized && t->is_stopped && waitpid(t->tid, &status, __WALL | WNOHANG) == t->tid &&
			    !WIFSTOPPED(status))
				t->is_seized = false;
		for CT_EACH(struct ct_thread, t, &r->threads) {
			if (!t->is_seized || t->is_stopped)
				continue;
			thread_wait(t, gw_now_ns() + 5000000);
			if (!t->is_seized || t->is_stopped)
				continue;
			is_settled = false;
			if (gw_now_ns() > warn_at) {
				gw_log(GW_WARN, "thread %d: waiting for it to stop, to let it go", (int)t->tid);
				warn_at = gw_now_ns() + 1000000000;
			}
		}
	}
}

void ct_threads_detach(struct ct_rank *r, bool is_restoring)
{
	settle(r);
	if (is_restoring)
		ct_capture_undo(r);
	for CT_EACH(struct ct_thread, t, &r->threads) {
		if (!t->is_seized)
			continue;
		if (is_restoring && t->has_sigmask) {
			ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs);
			ptrace(PTRACE_SETSIGMASK, t->tid, (void *)8, &t->sigmask);
		}
		if (t->is_moved_cpu)
			ct_affinity_give_back(r, t);
		gw_hurry_end(t->tid, &t->sched);
		ct_slack_set(t->tid, t->slack_ns);
	}
	ct_threads_let_go(r);
}

static int leader_first(struct ct_rank *r)
{
	struct ct_thread *first = r->threads.at, *t = thread_find(r, r->pid), swap;

	if (!t)
		return -ESRCH;
	swap = *first;
	*first = *t;
	*t = swap;
	return 0;
}

static int read_threads(struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(struct ct_thread, t, &r->threads) {
		struct { uint64_t at; uint32_t len, signature, flags, pad; } rseq = { 0 };

		if (ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0)
			return gw_fail(why, -errno, "thread %d: cannot read its registers: %s", (int)t->tid, strerror(errno));
		ct_sleep_measure(t, r->pid);
		ct_regs_settle(t);
		if (ptrace(0x420f, t->tid, (void *)sizeof(rseq), &rseq) > 0 && rseq.at) {
			t->rseq = rseq.at;
			t->rseq_len = rseq.len;
			t->rseq_signature = rseq.signature;
			ct_regs_abort_rseq(r->pid, t, rseq.at);
		}
	}
	return 0;
}

static int sample_threads(struct ct_rank *r)
{
	struct ct_vec tids;
	cpu_set_t ours, now;
	bool has_ours = sched_getaffinity(0, sizeof(ours), &ours) == 0;
	int rc;

	ct_vec_init(&tids, sizeof(int));
	r->samples.n = 0;
	rc = ct_proc_ids(r->pid, "task", &tids);
	for (size_t i = 0; rc == 0 && i < tids.n; i++) {
		struct ct_thread *t = ct_vec_add(&r->samples, 1);

		if (!t) {
			rc = -ENOMEM;
			break;
		}
		t->tid = *CT_AT(int, &tids, i);
		t->slack_ns = ct_slack(t->tid);
		if (has_ours)
			ct_sleep_sample(t, r->pid);
	}
	if (has_ours && (sched_getaffinity(0, sizeof(now), &now) < 0 || !CPU_EQUAL(&now, &ours)))
		sched_setaffinity(0, sizeof(ours), &ours);
	ct_vec_fini(&tids);
	return rc;
}

int ct_leader_stop(struct ct_rank *r, uint64_t deadline_ms, struct gw_error *why)
{
	struct user_regs_struct ignored;
	struct ct_thread *sample;
	sigset_t chld, old;
	cpu_set_t ours;
	int rc;

	r->samples.n = 0;
	sample = ct_vec_add(&r->samples, 1);
	if (!sample)
		return gw_fail(why, -ENOMEM, "no memory for a thread");
	sample->tid = r->pid;
	sample->slack_ns = ct_slack(r->pid);
	if (sched_getaffinity(0, sizeof(ours), &ours) == 0) {
		ct_sleep_sample(sample, r->pid);
		sched_setaffinity(0, sizeof(ours), &ours);
	}

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	r->threads.n = 0;
	rc = thread_seize(r, r->pid, NULL);
	if (rc == 0 && r->threads.n == 0)
		rc = -ESRCH;
	if (rc == 0)
		rc = thread_wait(r->threads.at, gw_now_ns() + deadline_ms * 1000000);
	if (rc < 0)
		gw_fail(why, rc, "its main thread cannot be stopped: %s", strerror(-rc));
	else if (rc == 1)
		rc = gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	if (rc == 0)
		rc = read_threads(r, why);
	if (rc == 0)
		ct_regs_for_image(r, r->threads.at, &ignored); /* a wait that only we have ended is made again, here too */
	if (rc < 0)
		ct_threads_detach(r, true);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (sigismember(&old, SIGCHLD))
		kill(getpid(), SIGCHLD); /* as in ct_rank_freeze */
	return rc;
}

void ct_leader_go(struct ct_rank *r)
{
	ct_threads_detach(r, true);
}

#define KEEP_THREADS 16 /* of so many */

/* What will be read of it in /proc between the word to its agent and the thaw. */
static void keep_open(struct ct_rank *r)
{
	static const char *const names[] = { "task", "fd", "timers" };
	struct ct_vec tids;
	char name[40];

	ct_proc_keep_none();
	for (size_t i = 0; i < GW_ARRAY_LEN(names); i++)
		ct_proc_keep(r->pid, names[i]);
	ct_proc_keep(r->init_pid, "root/proc");
	ct_vec_init(&tids, sizeof(int));
	if (ct_proc_ids(r->pid, "task", &tids) == 0)
		for (size_t i = 0; i < tids.n && i < KEEP_THREADS; i++) {
			int tid = *CT_AT(int, &tids, i);

			ct_proc_keep(tid, "timerslack_ns");
			snprintf(name, sizeof(name), "task/%d/syscall", tid);
			ct_proc_keep(r->pid, name);
		}
	ct_vec_fini(&tids);
}

/* everything that will be touched while the rank stands still is opened and touched before */
static int prepare(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec tids;
	char path[64];
	size_t room;
	int rc = 0;

	ct_memory_forget(r);
	if (!r->has_look)
		rc = ct_look(r, why);
	r->files_seen.n = 0;
	r->is_preparing = true;
	if (rc == 0)
		rc = ct_vmas_scan(r, &r->look, &r->snap, why);
	r->is_preparing = false;
	if (rc == 0)
		rc = ct_extents_scan(r, &r->snap, &r->extents, why); /* for the sizes of the lists */
	if (rc == 0 && ct_maps_read(&r->maps, r->pid, false) < 0)
		rc = gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	if (rc < 0)
		return rc;
	ct_maps_expect_gap(&r->maps, r->segment.start, r->segment.end); /* the agent will have left it (agent.h) */
	if (r->mem_fd < 0) {
		snprintf(path, sizeof(path), "/proc/%d/mem", (int)r->pid);
		r->mem_fd = open(path, O_RDWR | O_CLOEXEC);
		if (r->mem_fd < 0)
			return gw_fail(why, -errno, "cannot open %s: %s", path, strerror(errno));
	}
	ct_vec_init(&tids, sizeof(int));
	ct_proc_ids(r->pid, "task", &tids);
	room = ct_capture_room(r, tids.n);
	ct_vec_fini(&tids);
	if (ct_remote_init(&r->remote, r->pid, 0, room, NULL) < 0 || !ct_vec_add(&r->meta, 262144))
		return gw_fail(why, -ENOMEM, "no memory for an image");
	memset(r->remote.local + CT_PAGE, 0, room < 65536 ? room - CT_PAGE : 65536);
	if (room > 65536)
		memset(r->remote.local + room - 65536, 0, 65536);
	return ct_capture_prepare(r, why);
}

int ct_rank_freeze_prepare(struct ct_rank *r, struct gw_error *why)
{
	int rc = r->state == CT_RUNNING ? prepare(r, why) : 0;

	if (rc == 0 && r->state == CT_RUNNING) {
		keep_open(r);
		ct_pages_own();
	}
	r->is_prepared = r->state == CT_RUNNING && rc == 0;
	return rc < 0 ? ct_proc_blame_end(r->pid, rc, why) : 0;
}

void ct_rank_freeze_forget(struct ct_rank *r)
{
	r->is_prepared = false;
	r->files_seen.n = 0;
	ct_proc_keep_none();
}

void ct_rank_when_still(struct ct_rank *r, int (*say)(void *ctx, struct gw_error *why), void *ctx)
{
	r->say_still = say;
	r->say_still_ctx = ctx;
}

void ct_rank_when_known(struct ct_rank *r, int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why), void *ctx)
{
	r->hand_head = hand;
	r->hand_head_ctx = ctx;
}

/* What was said of one freeze, also of one that came to nothing: a later image, as of a checkpoint, is whole. */
static void said_is_over(struct ct_rank *r)
{
	r->may_leave = r->serve.is_skipping = false;
	r->say_still = NULL;
	r->hand_head = NULL;
	r->files_seen.n = 0;
}

int ct_rank_freeze(struct ct_rank *r, uint64_t deadline_ms, struct ct_freeze_stats *stats, struct gw_error *why)
{
	uint64_t start, stopped, until;
	struct ct_freeze_stats st = { 0 };
	sigset_t chld, old;
	struct ct_pin pin;
	cpu_set_t here;
	bool has_blocked_chld;
	int rc;

	if (r->state != CT_RUNNING) {
		said_is_over(r);
		return gw_fail(why, -EBUSY, "pid %d cannot be frozen: it is not running here", (int)r->pid);
	}
	rc = r->is_prepared ? 0 : prepare(r, why);
	r->is_prepared = false; /* for one freeze */
	if (rc == 0 && sample_threads(r) < 0)
		rc = gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	if (rc < 0) {
		ct_proc_keep_none();
		said_is_over(r);
		return ct_proc_blame_end(r->pid, rc, why);
	}
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	has_blocked_chld = sigismember(&old, SIGCHLD);
	ct_pin_begin(&pin);
	CPU_ZERO(&here);
	CPU_SET(pin.cpu, &here);
	start = gw_now_ns();
	until = start + deadline_ms * 1000000;
	r->threads.n = 0;
	rc = stop_all(r, until, pin.is_pinned ? &here : NULL, why);
	if (rc == 0)
		rc = leader_first(r);
	if (rc == 0)
		rc = read_threads(r, why);
	for CT_EACH(struct ct_thread, t, &r->threads)
		if (rc == 0)
			rc = ct_vdso_leave(r->pid, t, r->snap.process.vdso_start, r->snap.process.vdso_end, r->is_vdso_own, why);
	stopped = gw_now_ns();
	st.frozen_at_ns = gw_realtime_ns();
	if (rc == 0)
		gw_fault("ct.freeze.stopped");
	if (rc == 0) {
		r->snap.process.is_stopped = 0;
		for CT_EACH(const struct ct_thread, t, &r->threads)
			r->snap.process.is_stopped |= t->is_job_stopped;
		r->snap.process.realtime_ns = st.frozen_at_ns;
		r->snap.process.monotonic_ns = stopped + (uint64_t)r->monotonic_offset_ns;
		rc = ct_capture(r, &st, why);
	}
	if (rc < 0)
		ct_proc_keep_none(); /* else when it is let go: here it stands */
	said_is_over(r);
	if (rc < 0)
		ct_threads_detach(r, true);
	ct_pin_end(&pin);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (has_blocked_chld)
		kill(getpid(), SIGCHLD); /* we may have eaten one that the daemon waits for */
	if (rc < 0)
		return ct_proc_blame_end(r->pid, rc, why);
	r->state = CT_FROZEN;
	ct_carry_forget(r);
	ct_image_begin(r, false, !r->follow && !r->snap.later.n);
	st.stop_ns = stopped - start;
	st.capture_ns = gw_now_ns() - stopped;
	st.threads = (uint32_t)r->threads.n;
	st.vmas = (uint32_t)r->snap.vmas.n;
	for CT_EACH(const struct ct_extent, e, &r->extents)
		st.private_bytes += e->end - e->start;
	*stats = st;
	return 0;
}

bool ct_rank_was_killed(const struct ct_rank *r)
{
	/* the last thread: the leader can be waited for only when it is the only one left */
	return r->state == CT_FROZEN && r->threads.n &&
	       ct_thread_has_ended(CT_AT(const struct ct_thread, &r->threads, r->threads.n - 1)->tid);
}

int ct_rank_unfreeze(struct ct_rank *r, struct gw_error *why)
{
	if (r->state != CT_FROZEN)
		return gw_fail(why, -EINVAL, "pid %d is not frozen", (int)r->pid);
	ct_threads_detach(r, true);
	ct_proc_keep_none();
	r->state = CT_RUNNING;
	r->has_look = false;
	return 0;
}

bool ct_rank_shares(const struct ct_rank *r)
{
	return r->snap.handles.n || r->snap.locks.n || r->snap.sysv.n;
}

void ct_rank_release(struct ct_rank *r)
{
	ct_sysv_give_up(r);
	ct_rank_kill(r); /* a thread that is stopped by its tracer dies where it stands */
}
