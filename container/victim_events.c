/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs with timers of every kind, and with descriptors that wait for events. */
#include "container/victim.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MS 1000000ull

/* ---- timers --------------------------------------------------------------------------------------------------------- */

#define TICK_MS 5

static _Atomic uint64_t by_signal, by_thread, by_work;
static atomic_bool is_over;

static void on_timer(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code != SI_TIMER || info->si_value.sival_int != sig * 1000 + 7)
		say("bad signal: code %d, value %d", info->si_code, info->si_value.sival_int);
	atomic_fetch_add(sig == SIGRTMIN ? &by_signal : &by_work, 1);
}

static void *own_thread(void *arg)
{
	struct timespec limit = { 0, 50 * MS };
	sigset_t set;
	siginfo_t info;

	*(_Atomic pid_t *)arg = (pid_t)syscall(SYS_gettid);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	while (!is_over)
		if (sigtimedwait(&set, &info, &limit) == SIGRTMIN + 1)
			by_thread += 1 + (uint64_t)info.si_overrun;
	return NULL;
}

static timer_t timer_new(clockid_t clock, int how, int sig, pid_t tid, unsigned ms, unsigned every_ms)
{
	struct sigevent e = { .sigev_notify = how, .sigev_signo = sig, .sigev_value.sival_int = sig * 1000 + 7 };
	struct itimerspec spec = { { 0, (long)(every_ms % 1000 * MS) }, { ms / 1000, (long)(ms % 1000 * MS) } };
	timer_t t;

	if (tid)
		e._sigev_un._tid = tid;
	if (timer_create(clock, &e, &t) < 0 || timer_settime(t, 0, &spec, NULL) < 0)
		say("bad timer: %s", strerror(errno));
	return t;
}

static int timerfd_new(clockid_t clock, int flags, uint64_t first_ns, uint64_t every_ns)
{
	struct itimerspec spec = { { (time_t)(every_ns / 1000000000), (long)(every_ns % 1000000000) },
	                           { (time_t)(first_ns / 1000000000), (long)(first_ns % 1000000000) } };
	int fd = timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC);

	if (fd < 0 || timerfd_settime(fd, flags, &spec, NULL) < 0)
		say("bad timer descriptor: %s", strerror(errno));
	return fd;
}

/* it runs out between @from and @to, as far as the clock tells that was looked at before and after */
static bool is_left(timer_t t, uint64_t from, uint64_t to)
{
	uint64_t before = now_ns(CLOCK_MONOTONIC), left;
	struct itimerspec s;

	if (timer_gettime(t, &s) < 0)
		return false;
	left = (uint64_t)s.it_value.tv_sec * 1000000000u + (uint64_t)s.it_value.tv_nsec;
	if (before + left <= to && now_ns(CLOCK_MONOTONIC) + left >= from)
		return true;
	say("bad time left: it runs out %lld us later than it should", (long long)(before + left - from) / 1000);
	return false;
}

int timers(void)
{
	struct sigaction sa = { .sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART };
	_Atomic pid_t tid = 0;
	timer_t long_one, dropped[7], last;
	int periodic, expired, wall, unset;
	uint64_t begin, ticks = 0, count, long_from, long_to, want, before;
	pthread_t thread;
	sigset_t set;
	char line[64];

	sigaction(SIGRTMIN, &sa, NULL);
	sigaction(SIGRTMIN + 2, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pthread_create(&thread, NULL, own_thread, &tid);
	while (!tid)
		sched_yield();
	for (int i = 0; i < 7; i++) /* so that the numbers have gaps */
		dropped[i] = timer_new(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, 0);
	timer_new(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 0, TICK_MS, TICK_MS);
	timer_delete(dropped[2]);
	timer_delete(dropped[5]);
	timer_new(CLOCK_REALTIME, SIGEV_THREAD_ID, SIGRTMIN + 1, tid, TICK_MS, TICK_MS);
	long_from = now_ns(CLOCK_MONOTONIC) + 3600000 * MS;
	long_one = timer_new(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN, 0, 3600000, 0);
	long_to = now_ns(CLOCK_MONOTONIC) + 3600000 * MS;
	long_from -= 100 * MS; /* timers are read one after the other: each move may be wrong by what that takes */
	long_to += 100 * MS;
	timer_new(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 2, 0, 1, 1);
	expired = timerfd_new(CLOCK_MONOTONIC, 0, 1, 0);
	wall = timerfd_new(CLOCK_REALTIME, TFD_TIMER_ABSTIME, now_ns(CLOCK_REALTIME) + 3600000 * MS, 0);
	unset = timerfd_create(CLOCK_BOOTTIME, 0);
	while (poll(&(struct pollfd){ .fd = expired, .events = POLLIN }, 1, -1) < 0) /* run out and not read */
		;
	begin = now_ns(CLOCK_MONOTONIC);
	periodic = timerfd_new(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, begin + TICK_MS * MS, TICK_MS * MS);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		struct itimerspec s;
		uint64_t a = by_signal, b = by_thread, c = by_work;

		if (!is_left(long_one, long_from, long_to))
			say("bad long timer");
		if (timer_gettime(dropped[2], &s) == 0 || timer_gettime(dropped[3], &s) < 0)
			say("bad numbers of timers");
		while (by_signal == a || by_thread == b || by_work == c) /* all of them go on */
			;
		before = now_ns(CLOCK_MONOTONIC);
		if (read(periodic, &count, 8) == 8)
			ticks += count;
		want = (before - begin) / (TICK_MS * MS);
		/* one may come between the look at the clock and the read, and many on a machine that is late: none is missing */
		if (ticks < want || (ticks - want) * TICK_MS * MS > now_ns(CLOCK_MONOTONIC) - before + TICK_MS * MS)
			say("bad ticks: %llu, not %llu", (unsigned long long)ticks, (unsigned long long)want);
		if (read(expired, &count, 8) != 8 || count != 1)
			say("bad timer that had run out");
		if (timerfd_settime(expired, 0, &(struct itimerspec){ { 0, 0 }, { 0, 1 } }, NULL) < 0 ||
		    poll(&(struct pollfd){ .fd = expired, .events = POLLIN }, 1, 10000) != 1)
			say("bad timer: it does not run out");
		if (timerfd_gettime(wall, &s) < 0 || s.it_value.tv_sec < 1 || s.it_value.tv_sec > 3600)
			say("bad time left by the wall clock");
		if (timerfd_gettime(unset, &s) < 0 || s.it_value.tv_sec || s.it_value.tv_nsec)
			say("bad timer: it was never set");
		say("ok %s", line);
	}
	is_over = true;
	pthread_join(thread, NULL);
	timer_new(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, 0); /* a new one finds a number of its own */
	last = timer_new(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, 0);
	if (last == long_one)
		say("bad: a number was given twice");
	say("done");
	return 7;
}

/* ---- descriptors that wait ------------------------------------------------------------------------------------------ */

static void watch(int ep, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.u64 = 0xabcd00000000ull + (unsigned)fd };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) < 0)
		say("bad epoll_ctl: %s", strerror(errno));
}

/* exactly these are ready, and say who they are; -1 ends the list */
static bool are_ready(int ep, const int *fds)
{
	struct epoll_event e[8];
	int n = epoll_wait(ep, e, 8, 0), want = 0;

	for (; fds[want] >= 0; want++) {
		bool is_there = false;

		for (int i = 0; i < n; i++)
			is_there |= e[i].data.u64 == 0xabcd00000000ull + (unsigned)fds[want] && (e[i].events & EPOLLIN);
		if (!is_there)
			return false;
	}
	return n == want;
}

int polls(void)
{
	int outer = epoll_create1(EPOLL_CLOEXEC), inner = epoll_create1(0), twin, p[2], e, s, high = 700;
	struct signalfd_siginfo got;
	uint64_t one = 1, count;
	int me = (int)syscall(SYS_pidfd_open, getpid(), 0), init = (int)syscall(SYS_pidfd_open, 1, 0);
	sigset_t set;
	char line[64], c;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, NULL);
	e = eventfd(0, EFD_NONBLOCK);
	s = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	twin = dup2(outer, high);
	if (me < 0 || init < 0 || outer < 0 || inner < 0 || e < 0 || s < 0 || twin != high || pipe(p) < 0)
		say("bad open: %s", strerror(errno));
	watch(inner, p[0], EPOLLIN);
	watch(outer, inner, EPOLLIN);
	watch(outer, e, EPOLLIN);
	watch(twin, s, EPOLLIN | EPOLLET);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		if (!are_ready(outer, (int[]){ -1 }))
			say("bad: something is ready that should not be");
		if (write(e, &one, 8) != 8 || !are_ready(twin, (int[]){ e, -1 }) || read(e, &count, 8) != 8)
			say("bad eventfd");
		if (write(p[1], "x", 1) != 1 || !are_ready(outer, (int[]){ inner, -1 }) || !are_ready(inner, (int[]){ p[0], -1 }) ||
		    read(p[0], &c, 1) != 1)
			say("bad epoll in epoll");
		kill(getpid(), SIGRTMIN + 3);
		if (syscall(SYS_pidfd_send_signal, me, SIGUSR2, NULL, 0) < 0 || syscall(SYS_pidfd_send_signal, init, 0, NULL, 0) < 0)
			say("bad handle of a process: %s", strerror(errno));
		if (!are_ready(outer, (int[]){ s, -1 }) || read(s, &got, sizeof(got)) != sizeof(got) || got.ssi_signo != SIGUSR2 ||
		    read(s, &got, sizeof(got)) != sizeof(got) || got.ssi_signo != (uint32_t)SIGRTMIN + 3 ||
		    read(s, &got, sizeof(got)) >= 0)
			say("bad signal descriptor");
		say("ok %s", line);
	}
	say("done");
	return 7;
}
