/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The programs that the tests move. They know nothing of it: each checks its own state all the time, obeys lines on
 * its standard input, and says on its standard output what it found; "bad ..." is a failure.
 */
#include "container/victim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void say(const char *fmt, ...)
{
	char line[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	line[n++] = '\n';
	for (int at = 0; at < n;) {
		ssize_t w = write(STDOUT_FILENO, line + at, (size_t)(n - at));

		if (w < 0 && errno != EINTR)
			_exit(3);
		at += w > 0 ? (int)w : 0;
	}
}

/* one line from standard input, byte by byte: nothing is read ahead */
bool hear(char *line, size_t cap)
{
	size_t n = 0;

	while (n < cap - 1) {
		ssize_t got = read(STDIN_FILENO, line + n, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = '\0';
	return true;
}

/* ---- compute: threads with integers, floating point and vectors, each redundantly -------------------------------- */

static atomic_bool is_ending;
static __thread uint64_t tls_mark;

struct worker {
	pthread_t thread;
	unsigned seed;
	_Atomic uint64_t rounds;
	double x;
	const char *bad;
};

__attribute__((target("avx"))) static void vector_step(double *v)
{
	__m256d a = _mm256_loadu_pd(v), b = _mm256_set_pd(1.5, 0.25, 3.0, 0.125);

	for (int i = 0; i < 500; i++)
		a = _mm256_add_pd(_mm256_mul_pd(a, _mm256_set1_pd(0.9999)), b);
	_mm256_storeu_pd(v, a);
}

static void scalar_step(double *v)
{
	static const double b[4] = { 0.125, 3.0, 0.25, 1.5 };

	for (int i = 0; i < 500; i++)
		for (int k = 0; k < 4; k++) {
			volatile double p = v[k] * 0.9999; /* no fused multiply-add */

			v[k] = p + b[k];
		}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	double v[4] = { w->seed, 2, 3, 4 }, s[4] = { w->seed, 2, 3, 4 };
	uint64_t a = w->seed, b = w->seed;
	pid_t tid = (pid_t)syscall(SYS_gettid);
	bool has_avx = __builtin_cpu_supports("avx");

	tls_mark = 0x1234567800000000ull + w->seed;
	while (!atomic_load(&is_ending)) {
		long double x87 = 1.0L + w->seed;

		for (int i = 0; i < 200; i++) {
			a = a * 6364136223846793005ull + 1442695040888963407ull;
			x87 = x87 / 3.0L * 3.0L;
		}
		for (int i = 0; i < 200; i++)
			b = b * 6364136223846793005ull + 1442695040888963407ull;
		if (has_avx) {
			vector_step(v);
			scalar_step(s);
			if (memcmp(v, s, sizeof(v)) != 0)
				w->bad = "vectors differ";
		}
		if (a != b)
			w->bad = "integers differ";
		if (x87 - (1.0L + w->seed) > 1e-12L || x87 - (1.0L + w->seed) < -1e-12L)
			w->bad = "x87 differs";
		if (tls_mark != 0x1234567800000000ull + w->seed)
			w->bad = "thread local data differs";
		if ((pid_t)syscall(SYS_gettid) != tid)
			w->bad = "thread id differs";
		w->rounds++;
		w->x = v[0];
	}
	return NULL;
}

static int compute(int threads)
{
	struct worker w[64] = { { 0 } };
	char line[64];

	for (int i = 0; i < threads; i++) {
		w[i].seed = (unsigned)i + 1;
		pthread_create(&w[i].thread, NULL, worker_main, &w[i]);
	}
	for (int i = 0; i < threads; i++)
		while (!w[i].rounds)
			sched_yield();
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (int i = 0; i < threads; i++)
			if (w[i].bad)
				say("bad thread %d: %s", i, w[i].bad);
		say("ok %s", line);
	}
	atomic_store(&is_ending, true);
	for (int i = 0; i < threads; i++) {
		pthread_join(w[i].thread, NULL);
		if (w[i].bad)
			say("bad thread %d: %s", i, w[i].bad);
	}
	say("done");
	return 7;
}

/* ---- idle: @threads wait in the kernel, the heap holds a pattern ------------------------------------------------ */

static void *idle_main(void *arg)
{
	static _Atomic uint32_t never;

	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return arg;
}

static uint64_t pattern(uint64_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ull;
}

static int heap(size_t mib, int threads, bool is_huge)
{
	size_t n = mib << 20;
	uint64_t *p = NULL, sum = 0;
	pthread_t t;
	char line[64];

	if (n) {
		p = is_huge ? aligned_alloc(2u << 20, n) : malloc(n);
		if (is_huge)
			madvise(p, n, MADV_HUGEPAGE);
		for (size_t i = 0; i < n / 8; i++)
			p[i] = i / 512 % 7 == 3 ? 0 : pattern(i); /* every seventh page stays zero, explicitly */
	}
	for (int i = 1; i < threads; i++)
		pthread_create(&t, NULL, idle_main, NULL);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (size_t i = 0; i < n / 8; i++) {
			uint64_t want = i / 512 % 7 == 3 ? 0 : pattern(i) + sum * (i % 4096 == 5);

			if (p[i] != want) {
				say("bad heap at %zu: %llx", i, (unsigned long long)p[i]);
				break;
			}
		}
		sum++;
		for (size_t i = 5; i < n / 8; i += 4096)
			if (i / 512 % 7 != 3)
				p[i] = pattern(i) + sum;
		free(malloc(100000));
		say("ok %s", line);
	}
	say("done");
	_exit(7);
}

/* ---- full: no room is left in its address space; what anybody unmaps is seen -------------------------------------- */

static int full(void)
{
	char line[64];

	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		if (strcmp(line, "fill") == 0) {
			for (size_t size = (size_t)1 << 46; size >= 4096; size /= 2)
				while (mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED)
					;
		} else if (strcmp(line, "stay") == 0) { /* where no signal and no tracer reaches it, until the next line */
			if (vfork() == 0) {
				hear(line, sizeof(line));
				_exit(0);
			}
		} else if (mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED) {
			say("bad room");
			continue;
		}
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- identity: says what can be seen of the move --------------------------------------------------------------- */

static int count_dir(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	for (struct dirent *e; d && (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static int count_maps(void)
{
	int fd = open("/proc/self/maps", O_RDONLY), n = 0;
	char buf[4096];
	ssize_t got;

	while ((got = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < got; i++)
			n += buf[i] == '\n';
	close(fd);
	return n;
}

static void on_usr1(int sig)
{
	(void)sig;
}

static int identity(void)
{
	char line[64], cwd[512], exe[512], comm[32];
	stack_t ss = { .ss_sp = malloc(SIGSTKSZ), .ss_size = (size_t)SIGSTKSZ }, got;
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_ONSTACK | SA_RESTART }, old;
	struct rlimit lim = { 1234, 1234 };
	sigset_t mask;
	ssize_t n;

	umask(027);
	prctl(PR_SET_NAME, "restless");
	sigaltstack(&ss, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	raise(SIGUSR2); /* stays pending */
	setrlimit(RLIMIT_CORE, &lim);
	setpriority(PRIO_PROCESS, 0, 5);
	sbrk(123);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		mode_t um = umask(0);

		umask(um);
		sigaltstack(NULL, &got);
		sigaction(SIGUSR1, NULL, &old);
		sigpending(&mask);
		getrlimit(RLIMIT_CORE, &lim);
		n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
		exe[n > 0 ? n : 0] = '\0';
		prctl(PR_GET_NAME, comm);
		if (!getcwd(cwd, sizeof(cwd)))
			strcpy(cwd, "?");
		say("ok pid %d sid %d pgid %d tid %d umask %o comm %s cwd %s exe %s fds %d maps %d alt %d handler %d/%x pending %d "
		    "core %lu nice %d brk %p dump %d uid %d", (int)getpid(), (int)getsid(0), (int)getpgrp(),
		    (int)syscall(SYS_gettid), um, comm, cwd, exe, count_dir("/proc/self/fd"), count_maps(),
		    got.ss_sp == ss.ss_sp && got.ss_size == ss.ss_size, old.sa_handler == on_usr1, old.sa_flags,
		    sigismember(&mask, SIGUSR2), (unsigned long)lim.rlim_cur, getpriority(PRIO_PROCESS, 0), sbrk(0),
		    prctl(PR_GET_DUMPABLE), (int)getuid());
	}
	say("done");
	return 7;
}

/* ---- waits: one call that takes @ms, measured by two clocks ------------------------------------------------------ */

static int waits(const char *kind, int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 }, rem, until;
	uint64_t start, mono, real = now_ns(CLOCK_REALTIME);
	_Atomic uint32_t word = 0;
	long rc = -2;
	sigset_t set;
	int err;

	say("ready");
	start = now_ns(CLOCK_MONOTONIC);
	errno = 0;
	if (!strcmp(kind, "nanosleep"))
		rc = nanosleep(&ts, &rem);
	else if (!strcmp(kind, "usleep"))
		rc = nanosleep(&ts, NULL);
	else if (!strcmp(kind, "abssleep")) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += (until.tv_nsec + ts.tv_nsec) / 1000000000 + ts.tv_sec;
		until.tv_nsec = (until.tv_nsec + ts.tv_nsec) % 1000000000;
		rc = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	} else if (!strcmp(kind, "poll"))
		rc = poll(NULL, 0, ms);
	else if (!strcmp(kind, "ppoll"))
		rc = ppoll(NULL, 0, &ts, NULL);
	else if (!strcmp(kind, "select"))
		rc = select(0, NULL, NULL, NULL, &(struct timeval){ ms / 1000, ms % 1000 * 1000 });
	else if (!strcmp(kind, "futex")) {
		rc = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);
		rc = rc < 0 && errno == ETIMEDOUT ? 0 : rc;
	} else if (!strcmp(kind, "epoll")) {
		rc = epoll_wait(epoll_create1(0), &(struct epoll_event){ 0 }, 1, ms);
	} else if (!strcmp(kind, "sigtimedwait")) {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		sigprocmask(SIG_BLOCK, &set, NULL);
		rc = sigtimedwait(&set, NULL, &ts);
		rc = rc < 0 && errno == EAGAIN ? 0 : rc;
	}
	err = errno;
	mono = now_ns(CLOCK_MONOTONIC) - start;
	real = now_ns(CLOCK_REALTIME) - real;
	say("waited %ld %d mono_ms %.3f real_ms %.3f", rc, rc < 0 ? err : 0, (double)mono / 1e6, (double)real / 1e6);
	return 7;
}

/* ---- storm: a signal every 60 microseconds, the handler computes, and sleeps now and then ------------------------ */

static volatile uint64_t handled, depth;
static volatile double handler_x = 1;

static void on_alarm(int sig)
{
	(void)sig;
	depth++;
	for (int i = 0; i < 300; i++)
		handler_x = handler_x * 1.0000001 + 1e-9;
	if (++handled % 64 == 0)
		usleep(200);
	depth--;
}

static int storm(void)
{
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	stack_t ss = { .ss_sp = malloc(65536), .ss_size = 65536 };
	struct itimerval it = { { 0, 60 }, { 0, 60 } };
	uint64_t a = 1, b = 1, before;
	char line[64];
	size_t n = 0;

	sigaltstack(&ss, NULL);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
	fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
	say("ready");
	before = handled;
	for (;;) {
		ssize_t got;

		for (int i = 0; i < 1000; i++) {
			a = a * 6364136223846793005ull + 1;
			b = b * 6364136223846793005ull + 1;
		}
		free(malloc(n % 5000));
		if (a != b)
			say("bad integers differ");
		got = read(STDIN_FILENO, line + n, 1);
		if (got == 0)
			break;
		if (got < 0 || line[n++] != '\n')
			continue;
		line[n - 1] = '\0';
		n = 0;
		if (strcmp(line, "end") == 0)
			break;
		while (handled == before)
			;
		before = handled;
		say("ok %s", line);
	}
	memset(&it, 0, sizeof(it));
	setitimer(ITIMER_REAL, &it, NULL);
	say("done");
	return 7;
}

/* ---- files: two descriptors of one open file, one of its own, an appending one, pipe, eventfd -------------------- */

static int files(const char *path)
{
	int a = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), b, c, d, p[2], e, null, dir, out;
	char line[64], buf[64];
	uint64_t n = 0;
	uint64_t count;

	b = dup(a);
	c = open(path, O_RDONLY);
	d = open(path, O_WRONLY | O_APPEND);
	null = open("/dev/null", O_RDWR);
	dir = open("/tmp", O_RDONLY | O_DIRECTORY);
	e = eventfd(5, EFD_NONBLOCK);
	out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 40); /* an end of the daemon's */
	if (a < 0 || b < 0 || c < 0 || d < 0 || e < 0 || null < 0 || dir < 0 || out < 0 || pipe(p) < 0 || dup2(p[1], 77) != 77)
		say("bad open: %s", strerror(errno));
	if (write(77, "unread", 6) != 6)
		say("bad pipe");
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		off_t at = lseek(a, 0, SEEK_CUR);

		if (at != (off_t)(n * 8) || lseek(b, 0, SEEK_CUR) != at)
			say("bad offset %ld", (long)at);
		snprintf(buf, sizeof(buf), "%07llu\n", (unsigned long long)n);
		if (write(n % 2 ? a : b, buf, 8) != 8 || lseek(a, 0, SEEK_CUR) != at + 8 || lseek(b, 0, SEEK_CUR) != at + 8)
			say("bad write: descriptors no longer share a position");
		if (read(c, buf, 8) != 8 || strtoull(buf, NULL, 10) != n)
			say("bad read %.7s", buf);
		if (!(fcntl(a, F_GETFD) & FD_CLOEXEC) || (fcntl(b, F_GETFD) & FD_CLOEXEC) || !(fcntl(d, F_GETFL) & O_APPEND) ||
		    !(fcntl(out, F_GETFD) & FD_CLOEXEC) || (fcntl(STDOUT_FILENO, F_GETFD) & FD_CLOEXEC))
			say("bad flags");
		if (write(null, buf, 8) != 8)
			say("bad null");
		if (read(p[0], buf, 64) != 6 || memcmp(buf, "unread", 6) != 0 || write(77, "unread", 6) != 6)
			say("bad pipe contents");
		if (read(e, &count, 8) != 8 || count != 5 || write(e, &count, 8) != 8)
			say("bad eventfd");
		if (read(e, &count, 8) != 8 || write(e, &count, 8) != 8 || fcntl(dir, F_GETFL) < 0)
			say("bad eventfd");
		n++;
		say("ok %s", line);
	}
	close(p[0]);
	say("done");
	return 7;
}

/* ---- writer: large writes, each of which must be complete ------------------------------------------------------- */

static int writer(void)
{
	static unsigned char buf[300000];
	uint64_t at = 0;

	for (int round = 0; round < 40; round++) {
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (unsigned char)((at + i) % 251);
		n = write(STDOUT_FILENO, buf, sizeof(buf));
		if (n != (ssize_t)sizeof(buf))
			return 5; /* a short write: the program would see the move */
		at += sizeof(buf);
	}
	return 7;
}

/* ---- sockets: echo what comes on the PMI stream and on the control socket, when told ---------------------------- */

static int sockets(void)
{
	char line[64], buf[4096];

	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		ssize_t n = recv(line[0] == 'p' ? 10 : 11, buf, sizeof(buf) - 1, MSG_DONTWAIT);

		buf[n > 0 ? n : 0] = '\0';
		say("got %zd %s", n, buf);
	}
	say("done");
	return 7;
}

/* ---- things that hold a rank ----------------------------------------------------------------------------------- */

static int held(const char *kind)
{
	char line[64];
	pid_t child = 0;
	int set = -1;

	if (!strcmp(kind, "socket")) {
		if (socket(AF_INET, SOCK_STREAM, 0) < 0)
			return 9;
	} else if (!strcmp(kind, "child")) {
		child = fork();
		if (child == 0)
			for (;;)
				pause();
	} else if (!strcmp(kind, "epoll")) { /* watches what is open under another number only */
		int ep = epoll_create1(0), e = eventfd(0, 0);

		if (epoll_ctl(ep, EPOLL_CTL_ADD, e, &(struct epoll_event){ .events = EPOLLIN }) < 0 || dup(e) < 0)
			return 9;
		close(e);
	} else if (!strcmp(kind, "unreadable")) {
		char path[32];
		int fd = memfd_create("unreadable", 0);

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (fd < 0 || fchmod(fd, 0) < 0 || open(path, O_RDONLY) >= 0) /* as root may */
			return 9;
	} else if (!strcmp(kind, "inotify")) {
		if (inotify_init1(0) < 0)
			return 9;
	} else if (!strcmp(kind, "device")) {
		if (open("/dev/ptmx", O_RDWR | O_NOCTTY) < 0 && open("/dev/tty0", O_RDWR) < 0 && open("/dev/kmsg", O_RDONLY) < 0)
			return 9;
	} else if (!strcmp(kind, "deleted")) {
		char path[] = "/tmp/ct-victim-XXXXXX";
		int fd = mkstemp(path);

		unlink(path);
		if (fd < 0)
			return 9;
	} else if (!strcmp(kind, "system-v")) {
		int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);

		if (id < 0 || shmat(id, NULL, 0) == (void *)-1)
			return 9;
		shmctl(id, IPC_RMID, NULL);
	} else if (!strcmp(kind, "semaphore")) { /* what it has used last */
		struct sembuf op = { 0, 1, 0 };
		int id = semget(IPC_PRIVATE, 1, 0600);

		if (id < 0 || semop(id, &op, 1) < 0)
			return 9;
		set = id;
	} else if (!strcmp(kind, "io_uring")) {
		static char params[120];

		if (syscall(SYS_io_uring_setup, 4, params) < 0)
			return 9;
	} else if (!strcmp(kind, "timer")) {
		struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
		timer_t t;

		timer_create(CLOCK_THREAD_CPUTIME_ID, &se, &t);
	} else if (!strcmp(kind, "lock")) {
		int fd = open("/proc/self/exe", O_RDONLY);

		flock(fd, LOCK_EX);
	}
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0)
		say("ok %s", line);
	if (child)
		kill(child, SIGKILL);
	if (set >= 0)
		semctl(set, 0, IPC_RMID);
	return 7;
}

/* ---- clock: how long did this program not run, seen by itself --------------------------------------------------- */

static int clocks(void)
{
	uint64_t m = now_ns(CLOCK_MONOTONIC), r = now_ns(CLOCK_REALTIME), worst_m = 0, worst_r = 0;
	char line[64];
	size_t n = 0;

	fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
	say("ready");
	m = now_ns(CLOCK_MONOTONIC);
	r = now_ns(CLOCK_REALTIME);
	for (;;) {
		uint64_t m2 = now_ns(CLOCK_MONOTONIC), r2 = now_ns(CLOCK_REALTIME);
		ssize_t got;

		if (m2 < m)
			say("bad clock went back by %llu ns", (unsigned long long)(m - m2));
		if (m2 - m > worst_m) {
			worst_m = m2 - m;
			worst_r = r2 - r;
		}
		m = m2;
		r = r2;
		got = read(STDIN_FILENO, line + n, 1);
		if (got == 0)
			break;
		if (got < 0 || line[n++] != '\n')
			continue;
		line[n - 1] = '\0';
		n = 0;
		if (strcmp(line, "end") == 0)
			break;
		say("gap_us %.1f %.1f", (double)worst_m / 1e3, (double)worst_r / 1e3);
		worst_m = worst_r = 0;
		m = now_ns(CLOCK_MONOTONIC);
		r = now_ns(CLOCK_REALTIME);
	}
	return 7;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 0;

	if (!strcmp(mode, "compute"))
		return compute(n);
	if (!strcmp(mode, "heap"))
		return heap((size_t)n, argc > 3 ? atoi(argv[3]) : 1, argc > 4);
	if (!strcmp(mode, "full"))
		return full();
	if (!strcmp(mode, "identity"))
		return identity();
	if (!strcmp(mode, "waits"))
		return waits(argv[2], atoi(argv[3]));
	if (!strcmp(mode, "sysv"))
		return sysv(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	if (!strcmp(mode, "sections"))
		return sections();
	if (!strcmp(mode, "waiting"))
		return waits_all();
	if (!strcmp(mode, "storm"))
		return storm();
	if (!strcmp(mode, "files"))
		return files(argv[2]);
	if (!strcmp(mode, "timers"))
		return timers();
	if (!strcmp(mode, "dirty"))
		return dirty((unsigned)n);
	if (!strcmp(mode, "fetched"))
		return fetched((unsigned)n, argc > 3 ? argv[3] : NULL);
	if (!strcmp(mode, "memories"))
		return memories();
	if (!strcmp(mode, "nameless"))
		return nameless(argv[2]);
	if (!strcmp(mode, "gone"))
		return gone(argv[2]);
	if (!strcmp(mode, "reserved"))
		return reserved();
	if (!strcmp(mode, "mappings"))
		return mappings();
	if (!strcmp(mode, "extents"))
		return extents();
	if (!strcmp(mode, "locked"))
		return locked();
	if (!strcmp(mode, "locks"))
		return locks(argv[2], argc > 3);
	if (!strcmp(mode, "pairs"))
		return pairs();
	if (!strcmp(mode, "traits"))
		return traits();
	if (!strcmp(mode, "chosen"))
		return chosen();
	if (!strcmp(mode, "moments"))
		return moments();
	if (!strcmp(mode, "mutexes"))
		return mutexes();
	if (!strcmp(mode, "handles"))
		return handles(argv[2]);
	if (!strcmp(mode, "polls"))
		return polls();
	if (!strcmp(mode, "writer"))
		return writer();
	if (!strcmp(mode, "sockets"))
		return sockets();
	if (!strcmp(mode, "held"))
		return held(argv[2]);
	if (!strcmp(mode, "clocks"))
		return clocks();
	if (!strcmp(mode, "abort"))
		abort();
	if (!strcmp(mode, "orphan")) { /* leaves a child behind */
		if (fork() == 0)
			for (;;)
				pause();
		return 7;
	}
	if (!strcmp(mode, "exit"))
		return n;
	return 2;
}
