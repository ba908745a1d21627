/* SPDX-License-Identifier: BSD-2-Clause */
/* A program whose threads all wait, each in another call with a limit, and know by the clock what each must answer and when. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LIMIT_NS 900000000ull
#define WAKE     (SIGRTMIN + 5) /* of those that only a signal ends */

static struct timespec const limit = { 0, LIMIT_NS };
static atomic_uint begun;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static int sem_id, msg_id;
static mqd_t queue;

static struct timespec point(clockid_t clock)
{
	uint64_t at = now_ns(clock) + LIMIT_NS;

	return (struct timespec){ (time_t)(at / 1000000000), (long)(at % 1000000000) };
}

static long or_errno(long rc)
{
	return rc < 0 ? -errno : rc;
}

/* WAKE comes to this thread when the limit is over */
static __thread timer_t waker;
static __thread bool has_waker;

static void wake_later(bool is_blocked)
{
	struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WAKE, ._sigev_un._tid = (pid_t)syscall(SYS_gettid) };
	struct itimerspec spec = { .it_value = limit };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, WAKE);
	pthread_sigmask(is_blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
	if (timer_create(CLOCK_MONOTONIC, &e, &waker) < 0 || timer_settime(waker, 0, &spec, NULL) < 0)
		say("bad timer: %s", strerror(errno));
	has_waker = true;
}

static long sleep_to_the_rest(void) { struct timespec rest; return or_errno(nanosleep(&limit, &rest)); }
static long sleep_short(void) { return or_errno(nanosleep(&limit, NULL)); }
static long sleep_of(clockid_t clock) { return -clock_nanosleep(clock, 0, &limit, NULL); }
static long sleep_mono(void) { return sleep_of(CLOCK_MONOTONIC); }
static long sleep_real(void) { return sleep_of(CLOCK_REALTIME); }
static long sleep_boot(void) { return sleep_of(CLOCK_BOOTTIME); }
static long sleep_until(clockid_t clock) { struct timespec t = point(clock); return -clock_nanosleep(clock, TIMER_ABSTIME, &t, NULL); }
static long until_mono(void) { return sleep_until(CLOCK_MONOTONIC); }
static long until_real(void) { return sleep_until(CLOCK_REALTIME); }
static long until_boot(void) { return sleep_until(CLOCK_BOOTTIME); }
static long by_poll(void) { return or_errno(poll(NULL, 0, LIMIT_NS / 1000000)); }
static long by_ppoll(void) { return or_errno(ppoll(NULL, 0, &limit, NULL)); }
static long by_pselect(void) { return or_errno(pselect(0, NULL, NULL, NULL, &limit, NULL)); }

static long by_select(void)
{
	struct timeval t = { 0, LIMIT_NS / 1000 };

	return or_errno(select(0, NULL, NULL, NULL, &t));
}

static long by_epoll(void)
{
	struct epoll_event e;

	return or_errno(epoll_wait(epoll_create1(0), &e, 1, LIMIT_NS / 1000000));
}

static long by_epoll2(void)
{
	struct epoll_event e;

	return or_errno(syscall(SYS_epoll_pwait2, epoll_create1(0), &e, 1, &limit, NULL, 0));
}

static long by_futex(void)
{
	_Atomic uint32_t word = 0;

	return or_errno(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0));
}

static long by_cond(clockid_t clock)
{
	struct timespec t = point(clock);
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_condattr_t attr;
	pthread_cond_t cond;
	int rc;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, clock);
	pthread_cond_init(&cond, &attr);
	pthread_mutex_lock(&mutex);
	do
		rc = pthread_cond_timedwait(&cond, &mutex, &t);
	while (rc == 0); /* it may wake for nothing */
	return -rc;
}

static long cond_mono(void) { return by_cond(CLOCK_MONOTONIC); }
static long cond_real(void) { return by_cond(CLOCK_REALTIME); }
static long by_mutex(void) { struct timespec t = point(CLOCK_REALTIME); return -pthread_mutex_timedlock(&held, &t); }

static long by_semaphore(void)
{
	struct timespec t = point(CLOCK_REALTIME);
	sem_t sem;

	sem_init(&sem, 0, 0);
	return or_errno(sem_timedwait(&sem, &t));
}

static long by_sigtimedwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return or_errno(sigtimedwait(&set, NULL, &limit));
}

static long by_semtimedop(void)
{
	struct sembuf op = { 0, -1, 0 };

	return or_errno(semtimedop(sem_id, &op, 1, &limit));
}

static long by_mq(void)
{
	struct timespec t = point(CLOCK_REALTIME);
	char buf[64];

	return or_errno(mq_timedreceive(queue, buf, sizeof(buf), NULL, &t));
}

static int pair_with_limit(void)
{
	struct timeval t = { 0, LIMIT_NS / 1000 };
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0 || setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) < 0)
		say("bad pair: %s", strerror(errno));
	return fd[0];
}

static long by_recv(void) { char c; return or_errno(recv(pair_with_limit(), &c, 1, 0)); }
static long by_read(void) { char c; return or_errno(read(pair_with_limit(), &c, 1)); }

static long by_timerfd(void)
{
	struct itimerspec spec = { .it_value = limit };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t count;

	timerfd_settime(fd, 0, &spec, NULL);
	return or_errno(read(fd, &count, sizeof(count)));
}

static long by_pause(void) { wake_later(false); return or_errno(pause()); }
static long by_semop(void) { struct sembuf op = { 0, -1, 0 }; wake_later(false); return or_errno(semop(sem_id, &op, 1)); }

static long by_msgrcv(void)
{
	struct { long type; char text[8]; } m;

	wake_later(false);
	return or_errno(msgrcv(msg_id, &m, sizeof(m.text), 0, 0));
}

static long by_sigsuspend(void)
{
	sigset_t none;

	wake_later(true); /* and it is open in the call only */
	sigemptyset(&none);
	return or_errno(sigsuspend(&none));
}

static long by_sigwaitinfo(void)
{
	sigset_t set;
	int sig;

	wake_later(true);
	sigemptyset(&set);
	sigaddset(&set, WAKE);
	do
		sig = sigwaitinfo(&set, NULL);
	while (sig < 0 && errno == EINTR);
	return sig == WAKE ? 0 : -EINVAL;
}

static struct wait {
	const char *name;
	long (*call)(void);
	long want, got;
	uint64_t took_ns;
	pthread_t thread;
} waits_of[] = {
	{ "nanosleep, rest wanted", sleep_to_the_rest, 0, 0, 0, 0 }, { "nanosleep", sleep_short, 0, 0, 0, 0 },
	{ "clock_nanosleep", sleep_mono, 0, 0, 0, 0 }, { "clock_nanosleep of the wall clock", sleep_real, 0, 0, 0, 0 },
	{ "clock_nanosleep of boot time", sleep_boot, 0, 0, 0, 0 }, { "clock_nanosleep until", until_mono, 0, 0, 0, 0 },
	{ "clock_nanosleep until, wall clock", until_real, 0, 0, 0, 0 }, { "clock_nanosleep until, boot time", until_boot, 0, 0, 0, 0 },
	{ "poll", by_poll, 0, 0, 0, 0 }, { "ppoll", by_ppoll, 0, 0, 0, 0 }, { "select", by_select, 0, 0, 0, 0 },
	{ "pselect", by_pselect, 0, 0, 0, 0 }, { "epoll_wait", by_epoll, 0, 0, 0, 0 }, { "epoll_pwait2", by_epoll2, 0, 0, 0, 0 },
	{ "futex", by_futex, -ETIMEDOUT, 0, 0, 0 }, { "pthread_cond_timedwait", cond_mono, -ETIMEDOUT, 0, 0, 0 },
	{ "pthread_cond_timedwait, wall clock", cond_real, -ETIMEDOUT, 0, 0, 0 },
	{ "pthread_mutex_timedlock", by_mutex, -ETIMEDOUT, 0, 0, 0 }, { "sem_timedwait", by_semaphore, -ETIMEDOUT, 0, 0, 0 },
	{ "sigtimedwait", by_sigtimedwait, -EAGAIN, 0, 0, 0 }, { "semtimedop", by_semtimedop, -EAGAIN, 0, 0, 0 },
	{ "mq_timedreceive", by_mq, -ETIMEDOUT, 0, 0, 0 }, { "recv", by_recv, -EAGAIN, 0, 0, 0 }, { "read of a socket", by_read, -EAGAIN, 0, 0, 0 },
	{ "read of a timer", by_timerfd, 8, 0, 0, 0 }, { "pause", by_pause, -EINTR, 0, 0, 0 }, { "semop", by_semop, -EINTR, 0, 0, 0 },
	{ "msgrcv", by_msgrcv, -EINTR, 0, 0, 0 }, { "sigsuspend", by_sigsuspend, -EINTR, 0, 0, 0 },
	{ "sigwaitinfo", by_sigwaitinfo, 0, 0, 0, 0 },
};
#define N (sizeof(waits_of) / sizeof(waits_of[0]))

static void *wait_main(void *arg)
{
	struct wait *w = arg;
	uint64_t from = now_ns(CLOCK_MONOTONIC);

	atomic_fetch_add(&begun, 1);
	w->got = w->call();
	w->took_ns = now_ns(CLOCK_MONOTONIC) - from;
	if (has_waker) /* nobody would get its signal any more: that holds a rank */
		timer_delete(waker);
	return NULL;
}

static void on_wake(int sig)
{
	(void)sig;
}

int waits_all(void)
{
	struct mq_attr attr = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	struct sigaction sa = { .sa_handler = on_wake };
	double worst = 0;
	char name[64], line[64];

	snprintf(name, sizeof(name), "/ct-waits-%d-%d", (int)getuid(), (int)getpid());
	queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	mq_unlink(name);
	sem_id = semget(IPC_PRIVATE, 1, 0600);
	msg_id = msgget(IPC_PRIVATE, 0600);
	if (queue < 0 || sem_id < 0 || msg_id < 0)
		say("bad open: %s", strerror(errno));
	sigaction(WAKE, &sa, NULL);
	pthread_mutex_lock(&held);
	for (size_t i = 0; i < N; i++)
		pthread_create(&waits_of[i].thread, NULL, wait_main, &waits_of[i]);
	while (begun < N)
		usleep(1000);
	usleep(20000); /* most of them are in their calls by then; those that are not are moved on their way */
	say("ready");
	if (!hear(line, sizeof(line)))
		return 2;
	for (size_t i = 0; i < N; i++) {
		struct wait *w = &waits_of[i];

		pthread_join(w->thread, NULL);
		if (w->got != w->want)
			say("bad %s: %ld, not %ld", w->name, w->got, w->want);
		else if (w->took_ns + 1000000 < LIMIT_NS) /* poll and epoll count milliseconds */
			say("bad %s: it ended %llu us early", w->name, (unsigned long long)(LIMIT_NS - w->took_ns) / 1000);
		if ((double)w->took_ns / 1e6 > worst)
			worst = (double)w->took_ns / 1e6;
	}
	semctl(sem_id, 0, IPC_RMID);
	msgctl(msg_id, IPC_RMID, NULL);
	say("waited %.1f", worst);
	return 7;
}
