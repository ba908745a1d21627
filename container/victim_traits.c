/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs with what a process is besides its memory and its files, and that are moved in odd moments of their own. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- traits --------------------------------------------------------------------------------------------------------- */

static unsigned read_hex(const char *path)
{
	unsigned v = 0;
	FILE *f = fopen(path, "re");

	if (f && fscanf(f, "%x", &v) != 1)
		v = ~0u;
	if (f)
		fclose(f);
	return v;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		say("bad %s: %s", path, strerror(errno));
	close(fd);
}

/* all that can be asked for, as one line */
static void traits_print(char *line, size_t cap)
{
	int subreaper = -1, death = -1;
	struct rlimit stack, files;
	mode_t mask = umask(0);
	unsigned long nodes[16] = { 0 };
	int mode = -1;

	umask(mask);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	prctl(PR_GET_PDEATHSIG, &death);
	getrlimit(RLIMIT_STACK, &stack);
	getrlimit(RLIMIT_NOFILE, &files);
	syscall(SYS_get_mempolicy, &mode, nodes, sizeof(nodes) * 8, NULL, 0);
	snprintf(line, cap, "personality %x slack %d privs %d reaper %d death %d thp %d keepcaps %d mce %d tsc %d timing %d io %ld policy %d "
	         "nice %d filter %x umask %o stack %llu files %llu oom %d dump %d memory %d %lx",
	         (unsigned)personality(0xffffffff), prctl(PR_GET_TIMERSLACK), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), subreaper, death,
	         prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_GET_KEEPCAPS), prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), prctl(PR_GET_TSC, &mask),
	         (int)mask, syscall(SYS_ioprio_get, 1, 0), sched_getscheduler(0) & ~SCHED_RESET_ON_FORK, getpriority(PRIO_PROCESS, 0),
	         read_hex("/proc/self/coredump_filter"), umask(0), (unsigned long long)stack.rlim_cur,
	         (unsigned long long)files.rlim_cur, (int)read_hex("/proc/self/oom_score_adj"), prctl(PR_GET_DUMPABLE), mode, nodes[0]);
	umask(027);
}

int traits(void)
{
	struct rlimit stack = { 4u << 20, RLIM_INFINITY }, files = { 900, 1000 };
	char first[512], now[512], line[64];
	unsigned long node = 1;

	getrlimit(RLIMIT_STACK, &stack);
	stack.rlim_cur = 4u << 20;
	umask(027);
	personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE);
	prctl(PR_SET_TIMERSLACK, 70000);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGUSR2);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	prctl(PR_SET_KEEPCAPS, 1);
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6); /* best effort, 6 */
	sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 });
	setpriority(PRIO_PROCESS, 0, 3);
	setrlimit(RLIMIT_STACK, &stack);
	setrlimit(RLIMIT_NOFILE, &files);
	syscall(SYS_set_mempolicy, 2 | 1 << 15, &node, 65); /* MPOL_BIND, MPOL_F_STATIC_NODES; where there are such */
	write_text("/proc/self/coredump_filter", "0x7f");
	write_text("/proc/self/oom_score_adj", "9");
	traits_print(first, sizeof(first));
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		traits_print(now, sizeof(now));
		if (strcmp(now, first) != 0)
			say("bad: %s -- not: %s", now, first);
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- processors that threads have chosen: one its first, one its last, one none ---------------------------------------- */

static cpu_set_t all_cpus;
static pthread_barrier_t asked, answered; /* of the choosers and who asks them */
static atomic_bool is_over;

struct chooser { pthread_t id; cpu_set_t mine; };

static void *chooses(void *arg)
{
	const struct chooser *c = arg;
	cpu_set_t now;

	sched_setaffinity(0, sizeof(c->mine), &c->mine);
	for (;;) {
		pthread_barrier_wait(&answered);
		pthread_barrier_wait(&asked);
		if (is_over)
			return arg;
		CPU_ZERO(&now);
		sched_getaffinity(0, sizeof(now), &now);
		if (!CPU_EQUAL(&now, &c->mine))
			say("bad: a thread on %d processors that had chosen %d, or on others", CPU_COUNT(&now), CPU_COUNT(&c->mine));
	}
}

int chosen(void)
{
	struct chooser choosers[3];
	int first = CPU_SETSIZE, last = -1;
	cpu_set_t now;
	char line[64];

	sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
	if (CPU_COUNT(&all_cpus) < 2)
		return 2;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all_cpus)) {
			first = i < first ? i : first;
			last = i;
		}
	CPU_ZERO(&choosers[0].mine);
	CPU_SET(first, &choosers[0].mine);
	CPU_ZERO(&choosers[1].mine);
	CPU_SET(last, &choosers[1].mine);
	choosers[2].mine = all_cpus;
	pthread_barrier_init(&asked, NULL, 4);
	pthread_barrier_init(&answered, NULL, 4);
	for (int i = 0; i < 3; i++)
		pthread_create(&choosers[i].id, NULL, chooses, &choosers[i]);
	pthread_barrier_wait(&answered);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		pthread_barrier_wait(&asked);
		pthread_barrier_wait(&answered);
		sched_getaffinity(0, sizeof(now), &now);
		if (!CPU_EQUAL(&now, &all_cpus))
			say("bad: the main thread, which has chosen none, is on %d processors", CPU_COUNT(&now));
		say("ok %s", line);
	}
	is_over = true;
	pthread_barrier_wait(&asked);
	for (int i = 0; i < 3; i++)
		pthread_join(choosers[i].id, NULL);
	say("done");
	return 7;
}

/* ---- moments: it obeys from inside a handler on its alternate stack, that another handler has interrupted ------------ */

static sigjmp_buf back;
static volatile int depth_now;
static volatile unsigned inner;

static void on_inner(int sig)
{
	(void)sig;
	inner++;
}

static void on_outer(int sig, siginfo_t *info, void *context)
{
	volatile unsigned mark = 0xabcd0000u + (unsigned)info->si_value.sival_int;
	volatile double x = 1.25;
	char line[64];
	stack_t ss;

	(void)context;
	depth_now++;
	if (info->si_value.sival_int < 3) { /* nested: the same signal again, on the same stack */
		sigqueue(getpid(), sig, (union sigval){ .sival_int = info->si_value.sival_int + 1 });
		if (mark != 0xabcd0000u + (unsigned)info->si_value.sival_int)
			say("bad stack");
		depth_now--;
		return;
	}
	sigaltstack(NULL, &ss);
	if (!(ss.ss_flags & SS_ONSTACK) || (char *)&mark < (char *)ss.ss_sp || (char *)&mark >= (char *)ss.ss_sp + ss.ss_size)
		say("bad: not on the alternate stack");
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		unsigned before = inner;
		sigjmp_buf local;

		x = x * 1.5 - 0.5;
		raise(SIGUSR1);
		sigaltstack(NULL, &ss);
		if (inner != before + 1 || mark != 0xabcd0003u || depth_now != 4 || !(ss.ss_flags & SS_ONSTACK))
			say("bad handler: %u %x %d", inner - before, mark, depth_now);
		if (sigsetjmp(local, 1) == 0)
			siglongjmp(local, 1);
		say("ok %s", line);
	}
	siglongjmp(back, x > 0 ? 5 : 6);
}

int moments(void)
{
	struct sigaction sa = { .sa_sigaction = on_outer, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t ss = { .ss_sp = malloc(262144), .ss_size = 262144 };
	sigset_t set;

	sigaltstack(&ss, NULL);
	sigaction(SIGRTMIN + 4, &sa, NULL);
	signal(SIGUSR1, on_inner);
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (sigsetjmp(back, 1) == 0) {
		sigqueue(getpid(), SIGRTMIN + 4, (union sigval){ .sival_int = 0 });
		say("bad: no handler has run");
	}
	sigprocmask(SIG_BLOCK, NULL, &set);
	sigaltstack(NULL, &ss);
	if (!sigismember(&set, SIGHUP) || sigismember(&set, SIGRTMIN + 4) || (ss.ss_flags & SS_ONSTACK))
		say("bad: not as it was before the handler");
	say("done");
	return 7;
}

/* ---- threads: mutexes whose owners die, keys, cancellation, barriers ------------------------------------------------- */

static pthread_mutex_t robust, errcheck;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t key;
static atomic_int destroyed, unwound, waiting;
static volatile int turn;

static void on_destroy(void *p)
{
	if (p == (void *)0x55aa)
		destroyed++;
}

static void on_unwind(void *p)
{
	(void)p;
	unwound++;
}

/* dies with the mutex in its hand */
static void *dies(void *arg)
{
	pthread_setspecific(key, (void *)0x55aa);
	pthread_mutex_lock(&robust);
	waiting++;
	while (!turn)
		sched_yield();
	return arg;
}

static void *is_cancelled(void *arg)
{
	pthread_setspecific(key, (void *)0x55aa);
	pthread_cleanup_push(on_unwind, NULL);
	pthread_mutex_lock(&plain);
	waiting++;
	for (;;)
		pthread_cond_wait(&cond, &plain);
	pthread_cleanup_pop(0);
	return arg;
}

int mutexes(void)
{
	pthread_mutexattr_t attr;
	unsigned n = 0;
	char line[64];

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&errcheck, &attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&robust, &attr);
	pthread_key_create(&key, on_destroy);
	pthread_mutex_lock(&errcheck);
	say("ready");
	for (;;) {
		pthread_t a, b;
		int rc;

		turn = 0;
		waiting = 0;
		pthread_create(&a, NULL, dies, NULL);
		pthread_create(&b, NULL, is_cancelled, NULL);
		while (waiting < 2)
			sched_yield();
		if (!hear(line, sizeof(line)))
			return 2; /* it is moved here */
		if (pthread_mutex_trylock(&robust) != EBUSY || pthread_mutex_lock(&errcheck) != EDEADLK)
			say("bad: a mutex is not held any more");
		turn = 1;
		rc = pthread_mutex_lock(&robust);
		if (rc != EOWNERDEAD || pthread_mutex_consistent(&robust) || pthread_mutex_unlock(&robust))
			say("bad robust mutex: %s", strerror(rc));
		pthread_join(a, NULL);
		pthread_cancel(b);
		pthread_join(b, NULL);
		pthread_mutex_unlock(&plain); /* cancelled with it: on_unwind did not */
		n++;
		if (destroyed != (int)(2 * n) || unwound != (int)n)
			say("bad: %d destructors, %d unwound of %u", destroyed, unwound, n);
		if (strcmp(line, "end") == 0)
			break;
		say("ok %s", line);
	}
	say("done");
	return 7;
}
