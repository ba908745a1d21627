/* SPDX-License-Identifier: BSD-2-Clause */
/* Making a stopped thread's registers fit to run on elsewhere: interrupted system calls, restartable sequences. */
#include "container/rank.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What the kernel leaves in rax of a call that was interrupted; it acts on it when the thread goes on. A signal handler
 * that runs first turns NOHAND into EINTR, which is why these go into the image as they are and the destination's
 * kernel decides: linux/errno.h keeps them for itself. */
#define ERESTARTSYS_           512
#define ERESTARTNOINTR_        513
#define ERESTARTNOHAND_        514
#define ERESTART_RESTARTBLOCK_ 516

static bool is_call(const struct user_regs_struct *g, long nr)
{
	return g->orig_rax == (unsigned long long)nr;
}

static bool in_call(const struct user_regs_struct *g)
{
	return (long long)g->orig_rax >= 0;
}

/* A wait without a limit that only our interrupt ended: the program must not see an EINTR without a signal. */
void ct_regs_settle(struct ct_thread *t)
{
	struct user_regs_struct *g = &t->regs;

	if (!in_call(g) || (long long)g->rax != -EINTR)
		return;
	if (((is_call(g, SYS_epoll_wait) || is_call(g, SYS_epoll_pwait)) && (int)g->r10 == -1) ||
	    (is_call(g, SYS_epoll_pwait2) && g->r10 == 0) || (is_call(g, SYS_rt_sigtimedwait) && g->rdx == 0) ||
	    is_call(g, SYS_semop) || (is_call(g, SYS_semtimedop) && g->r10 == 0))
		g->rax = (unsigned long long)-ERESTARTNOHAND_;
}

/* ---- since when does a thread sleep? --------------------------------------------------------------------------- */

static uint64_t sched_value(const char *text, const char *key)
{
	const char *p = strstr(text, key);
	uint64_t ms, frac = 0;
	char *end;

	p = p ? strchr(p, ':') : NULL;
	if (!p)
		return 0;
	ms = strtoull(p + 1, &end, 10);
	if (*end != '.')
		return ms;
	frac = strtoull(end + 1, NULL, 10); /* six digits */
	return ms * 1000000 + frac;
}

#define CLOCK_OLD_NS 5000000u /* a sleep counts as shorter by as much */
#define CPUS_ASKED   16

/* The clock in which the scheduler of processor @cpu keeps exec_start; each processor has its own, and they part by what the machine
 * takes from each (a tenth of a second was seen). A reading of a moment ago will do when it shows more than @at_least. 0: not known.
 * May move us to another processor */
static uint64_t sched_clock_of(int cpu, uint64_t at_least)
{
	static struct { uint64_t clock, at; } known[CPU_SETSIZE]; /* of this host; the daemon has one thread that freezes */
	char text[4096], name[64];
	uint64_t now = gw_now_ns();
	cpu_set_t one;

	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return 0;
	if (known[cpu].clock > at_least && now - known[cpu].at < CLOCK_OLD_NS)
		return known[cpu].clock;
	if (sched_getcpu() != cpu) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one) < 0)
			return 0;
	}
	sched_yield(); /* brings our own exec_start to now */
	known[cpu].at = gw_now_ns();
	snprintf(name, sizeof(name), "task/%d/sched", (int)syscall(SYS_gettid));
	known[cpu].clock = ct_proc_read(getpid(), name, text, sizeof(text)) <= 0 ? 0 : sched_value(text, "se.exec_start");
	return known[cpu].clock;
}

static bool timespec_at(pid_t pid, uint64_t addr, uint64_t *ns)
{
	struct timespec ts;

	if (!addr || ct_mem_read(pid, addr, &ts, sizeof(ts)) < 0 || ts.tv_sec < 0 || ts.tv_nsec < 0 ||
	    ts.tv_nsec > 999999999 || ts.tv_sec > 1000000000)
		return false;
	*ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	return true;
}

/* The limit of the call that /proc/PID/task/TID/syscall tells of, when it is one that counts from the call; 0: none such */
static uint64_t limit_of(pid_t pid, const char *text)
{
	uint64_t a[5] = { 0 }, ns = 0;
	char *end;
	long nr = strtol(text, &end, 10);

	if (end == text)
		return 0; /* "running" */
	for (int i = 1; i < 5; i++)
		a[i] = strtoull(end, &end, 16);
	switch (nr) {
	case SYS_nanosleep:
		return a[2] == 0 && timespec_at(pid, a[1], &ns) ? ns : 0;
	case SYS_clock_nanosleep:
		return a[4] == 0 && a[2] == 0 && timespec_at(pid, a[3], &ns) ? ns : 0;
	case SYS_poll:
		return (int)a[3] > 0 ? (uint64_t)a[3] * 1000000 : 0;
	case SYS_futex:
		return (a[2] & FUTEX_CMD_MASK) == FUTEX_WAIT && timespec_at(pid, a[4], &ns) ? ns : 0;
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
		return (int)a[4] > 0 ? (uint64_t)a[4] * 1000000 : 0;
	case SYS_rt_sigtimedwait:
		return timespec_at(pid, a[3], &ns) ? ns : 0;
	case SYS_epoll_pwait2:
	case SYS_semtimedop:
		return timespec_at(pid, a[4], &ns) ? ns : 0;
	}
	return 0;
}

/*
 * How long ago the scheduler took a sleeping thread's processor away, by that processor's clock. The thread may count as another
 * one's since: a sleeper is moved with the others of its queue when it went to sleep a moment before (Linux 6.12). So each that it
 * may have been on is asked, where these are few: it has slept for less than its limit, and where two would do, for the shorter.
 * Its own must be among those that would do, so none is ruled out by a reading from before it fell asleep: then another one, that
 * is ahead, would be taken for its own, and the sleep would end early.
 */
static uint64_t asleep_since(pid_t tid, int cpu, uint64_t exec_start, uint64_t limit)
{
	uint64_t best = 0;
	cpu_set_t may;

	if (sched_getaffinity(tid, sizeof(may), &may) < 0 || CPU_COUNT(&may) > CPUS_ASKED)
		CPU_ZERO(&may);
	CPU_SET(cpu, &may);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		uint64_t now = CPU_ISSET(i, &may) ? sched_clock_of(i, exec_start) : 0;

		if (now > exec_start && now - exec_start < limit && (!best || now - exec_start < best))
			best = now - exec_start;
	}
	return best;
}

/* The kernel cannot hand over the rest of a relative timeout, but the scheduler tells when the thread went to sleep.
 * May move us to another processor: the caller puts that right. */
void ct_sleep_sample(struct ct_thread *t, pid_t pid)
{
	char name[64], text[4096], *at;
	uint64_t fell_asleep, limit, ago;
	int cpu = -1;

	t->sleep_ns = 0;
	snprintf(name, sizeof(name), "task/%d/syscall", (int)t->tid);
	if (ct_proc_read(pid, name, text, sizeof(text)) <= 0 || !(limit = limit_of(pid, text)))
		return;
	snprintf(name, sizeof(name), "task/%d/stat", (int)t->tid);
	if (ct_proc_read(pid, name, text, sizeof(text)) <= 0 || !(at = strrchr(text, ')')))
		return;
	for (int i = 2; i < 39 && at; i++)
		at = strchr(at + 1, ' ');
	cpu = at ? atoi(at) : -1;
	snprintf(name, sizeof(name), "task/%d/sched", (int)t->tid);
	if (cpu < 0 || cpu >= CPU_SETSIZE || ct_proc_read(pid, name, text, sizeof(text)) <= 0)
		return;
	fell_asleep = sched_value(text, "se.exec_start");
	t->sleep_switches = sched_value(text, "nr_voluntary_switches");
	ago = fell_asleep ? asleep_since(t->tid, cpu, fell_asleep, limit) : 0;
	/* if it ran meanwhile, the number of switches will tell; time that the machine was away is counted as awake */
	if (ago)
		t->sleep_ns = gw_now_ns() - ago;
}

/* Right after the stop: how long had it slept? 0 when that is not certain. Never more than it was. */
void ct_sleep_measure(struct ct_thread *t, pid_t pid)
{
	char name[64], text[4096];

	t->slept_ns = 0;
	if (!t->sleep_ns || !in_call(&t->regs) ||
	    ((long long)t->regs.rax != -ERESTART_RESTARTBLOCK_ && (long long)t->regs.rax != -EINTR))
		return;
	snprintf(name, sizeof(name), "task/%d/sched", (int)t->tid);
	/* our stop is the one time that it left the processor since; any other means another sleep */
	if (ct_proc_read(pid, name, text, sizeof(text)) > 0 &&
	    sched_value(text, "nr_voluntary_switches") == t->sleep_switches + 1)
		t->slept_ns = gw_now_ns() - t->sleep_ns;
}

/* a timespec that only the call being made again reads: below the red zone of the stack */
static uint64_t scratch_timespec(struct ct_rank *r, const struct user_regs_struct *g, uint64_t left_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(left_ns / 1000000000), .tv_nsec = (long)(left_ns % 1000000000) };
	uint64_t at = (g->rsp - 128 - sizeof(ts)) & ~15ull;

	return ct_mem_write(r->pid, at, &ts, sizeof(ts)) < 0 ? 0 : at;
}

static uint64_t less(uint64_t ns, uint64_t slept)
{
	return ns > slept ? ns - slept : 1000;
}

/* When the rank's own monotonic clock shows this, a wait of @ns that began @slept ago is over. */
static uint64_t until(const struct ct_rank *r, uint64_t ns, uint64_t slept)
{
	return gw_now_ns() + (uint64_t)r->monotonic_offset_ns + less(ns, slept);
}

/* With a limit that is the socket's (SO_RCVTIMEO, SO_SNDTIMEO), and that nobody can make shorter for once: nothing was transferred. */
static bool is_transfer(const struct user_regs_struct *g)
{
	static const long calls[] = { SYS_read, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_accept, SYS_accept4,
		SYS_write, SYS_writev, SYS_sendto, SYS_sendmsg };

	for (size_t i = 0; i < GW_ARRAY_LEN(calls); i++)
		if (is_call(g, calls[i]))
			return true;
	return false;
}

/* Waits with a limit that the kernel ends with EINTR: made again with what is left, or with all when that is not known. */
static bool wait_again(struct ct_rank *r, struct ct_thread *t, struct user_regs_struct *g)
{
	uint64_t slept = t->slept_ns, ns, at;
	bool is_epoll = (is_call(g, SYS_epoll_wait) || is_call(g, SYS_epoll_pwait)) && (int)g->r10 > 0;

	bool is_timespec = is_call(g, SYS_epoll_pwait2) || is_call(g, SYS_semtimedop);

	if (!is_epoll && !is_timespec && !is_call(g, SYS_rt_sigtimedwait) && !is_transfer(g))
		return false;
	if (slept && is_epoll)
		g->r10 = (less((uint64_t)(int)g->r10 * 1000000, slept) + 999999) / 1000000;
	else if (slept && is_call(g, SYS_rt_sigtimedwait) && timespec_at(r->pid, g->rdx, &ns) &&
	         (at = scratch_timespec(r, g, less(ns, slept))))
		g->rdx = at;
	else if (slept && is_timespec && timespec_at(r->pid, g->r10, &ns) && (at = scratch_timespec(r, g, less(ns, slept))))
		g->r10 = at;
	g->rax = (unsigned long long)-ERESTARTNOHAND_;
	return true;
}

/**
 * ct_regs_for_image - the registers as the destination shall have them
 * A relative timeout goes on with what is left of it where that can be known, as a point of the rank's monotonic clock
 * where the call has such a form; else all of it begins again: later, never earlier.
 */
void ct_regs_for_image(struct ct_rank *r, struct ct_thread *t, struct user_regs_struct *out)
{
	uint64_t slept, ns, at;

	*out = t->regs;
	if (t->full_result)
		out->rax = t->full_result;
	if (!in_call(out))
		return;
	if ((long long)out->rax == -EINTR && wait_again(r, t, out))
		t->regs = *out; /* at home too: there was no signal */
	if ((long long)out->rax != -ERESTART_RESTARTBLOCK_)
		return;
	out->rax = (unsigned long long)-ERESTARTNOHAND_;
	slept = t->slept_ns;
	if (is_call(out, SYS_nanosleep) || is_call(out, SYS_clock_nanosleep)) {
		bool is_short = is_call(out, SYS_nanosleep);
		unsigned long long *req = is_short ? &out->rdi : &out->rdx, *rem = is_short ? &out->rsi : &out->r10;

		if (timespec_at(r->pid, *rem, &ns)) {
			*req = *rem; /* the kernel has written there what is left */
		} else if (slept && timespec_at(r->pid, *req, &ns) && !*rem &&
		           (is_short || out->rdi == CLOCK_MONOTONIC || out->rdi == CLOCK_REALTIME) &&
		           (at = scratch_timespec(r, out, until(r, ns, slept)))) {
			out->orig_rax = SYS_clock_nanosleep;
			out->rdi = CLOCK_MONOTONIC; /* a relative wait is on this clock whichever was named */
			out->rsi = TIMER_ABSTIME;
			out->rdx = at;
			out->r10 = 0;
		}
	} else if (is_call(out, SYS_poll) && slept && (int)out->rdx > 0) {
		out->rdx = (less((uint64_t)(int)out->rdx * 1000000, slept) + 999999) / 1000000;
	} else if (is_call(out, SYS_futex) && (out->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT && slept &&
	           timespec_at(r->pid, out->r10, &ns) && (at = scratch_timespec(r, out, until(r, ns, slept)))) {
		out->rsi = (out->rsi & ~(unsigned long long)FUTEX_CMD_MASK & ~(unsigned long long)FUTEX_CLOCK_REALTIME) |
		           FUTEX_WAIT_BITSET;
		out->r10 = at;
		out->r9 = FUTEX_BITSET_MATCH_ANY;
	}
}

/* ---- restartable sequences ------------------------------------------------------------------------ */

/* As the kernel does when a thread is preempted inside one: it goes on at the abort handler. Done before anything else
 * runs in the thread, because the kernel forgets the sequence as soon as the thread is elsewhere. */
void ct_regs_abort_rseq(pid_t pid, struct ct_thread *t, uint64_t rseq)
{
	struct { uint32_t version, flags; uint64_t start_ip, post_commit_offset, abort_ip; } cs;
	uint64_t at;

	if (ct_mem_read(pid, rseq + 8, &at, sizeof(at)) < 0 || !at || ct_mem_read(pid, at, &cs, sizeof(cs)) < 0)
		return;
	if (t->regs.rip - cs.start_ip < cs.post_commit_offset)
		t->regs.rip = cs.abort_ip;
}

int ct_sigmask_block(struct ct_thread *t, struct gw_error *why)
{
	uint64_t ours = ~(1ull << (SIGTRAP - 1)); /* the kernel would reset a blocked SIGTRAP's handler when we step */

	if (t->has_sigmask)
		return 0;
	if (ptrace(PTRACE_GETSIGMASK, t->tid, (void *)8, &t->sigmask) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, t->tid, (void *)8, &ours) < 0)
		return gw_fail(why, -errno, "thread %d: cannot change its signal mask: %s", (int)t->tid, strerror(errno));
	t->has_sigmask = true;
	return 0;
}
