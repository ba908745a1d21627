/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the new processes of a container do: init, and under it the program or the empty shell.
 *
 * Init is pid 1 of the rank's namespaces, and what ends it ends all. Where namespaces are forbidden (CT_WALLS_NONE) it
 * does by hand what it can: it adopts the orphans of the program, ends all of them with the program or when the daemon
 * dies or says SIGTERM, and the program dies with it. Such a rank runs as any other; it cannot move.
 *
 * Nothing here may allocate or take a lock that another thread of the daemon could hold.
 */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(int fd, const struct ct_start_msg *m)
{
	if (send(fd, m, sizeof(*m), MSG_NOSIGNAL) < 0) { /* the daemon is gone, and we are about to be */ }
}

__attribute__((noreturn)) static void give_up_as(int what, int fd, int code, const char *fmt, va_list ap)
{
	struct ct_start_msg m = { .what = what, .code = code };

	vsnprintf(m.text, sizeof(m.text), fmt, ap);
	say(fd, &m);
	_exit(127);
}

__attribute__((noreturn)) GW_PRINTF(3, 4) static void give_up(int fd, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	give_up_as(CT_START_FAILED, fd, code, fmt, ap);
}

/* The namespaces are there and of no use: the daemon tries another way. */
__attribute__((noreturn)) GW_PRINTF(3, 4) static void no_walls(int fd, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	give_up_as(CT_START_NO_WALLS, fd, code, fmt, ap);
}

static void close_span(unsigned from, unsigned to)
{
	struct rlimit l;

	if (syscall(SYS_close_range, from, to, 0) == 0 || getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	/* an older kernel, or one that denies it: as many as there can be */
	for (unsigned fd = from; fd <= to && fd < l.rlim_cur && fd < 1u << 20; fd++)
		close((int)fd);
}

/* everything but @keep[] is closed; sorts @keep */
static void close_others(int *keep, size_t n)
{
	unsigned from = 0;

	for (size_t i = 1; i < n; i++)
		for (size_t j = i; j && keep[j - 1] > keep[j]; j--) {
			int swap = keep[j];

			keep[j] = keep[j - 1];
			keep[j - 1] = swap;
		}
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < 0)
			continue;
		if ((unsigned)keep[i] > from)
			close_span(from, (unsigned)keep[i] - 1);
		if ((unsigned)keep[i] >= from)
			from = (unsigned)keep[i] + 1;
	}
	close_span(from, ~0u);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static void map_self(int fd, uid_t uid, gid_t gid)
{
	char text[64];
	int rc;

	rc = write_file("/proc/self/setgroups", "deny");
	if (rc == 0 || rc == -ENOENT) {
		snprintf(text, sizeof(text), "%u %u 1", gid, gid);
		rc = write_file("/proc/self/gid_map", text);
	}
	if (rc == 0) {
		snprintf(text, sizeof(text), "%u %u 1", uid, uid);
		rc = write_file("/proc/self/uid_map", text);
	}
	if (rc < 0)
		no_walls(fd, rc, "user %u cannot be mapped into a user namespace: %s", uid, strerror(-rc));
}

/* The children will live in a time namespace of their own, whose clocks are ahead of ours by so much. Without one (an older kernel)
 * an offset is an error. */
static bool enter_timens(int fd, int64_t monotonic_ns, int64_t boottime_ns)
{
	int64_t own_monotonic_ns, own_boottime_ns, ms, bs;
	char text[160];
	int rc;

	if (unshare(CLONE_NEWTIME) < 0) {
		if (monotonic_ns == 0 && boottime_ns == 0)
			return false;
		give_up(fd, -errno, "cannot make a time namespace: %s; the rank's monotonic clock would jump",
		        strerror(errno));
	}
	if (monotonic_ns == 0 && boottime_ns == 0)
		return true;
	ct_clock_offsets(&own_monotonic_ns, &own_boottime_ns); /* the kernel counts from its own clocks */
	monotonic_ns += own_monotonic_ns;
	boottime_ns += own_boottime_ns;
	/* seconds rounded down, so that nanoseconds are not negative */
	ms = monotonic_ns / 1000000000 - (monotonic_ns % 1000000000 < 0);
	bs = boottime_ns / 1000000000 - (boottime_ns % 1000000000 < 0);
	snprintf(text, sizeof(text), "monotonic %lld %lld\nboottime %lld %lld\n", (long long)ms,
	         (long long)(monotonic_ns - ms * 1000000000), (long long)bs, (long long)(boottime_ns - bs * 1000000000));
	rc = write_file("/proc/self/timens_offsets", text);
	if (rc < 0)
		give_up(fd, rc, "cannot set the clocks of the time namespace: %s", strerror(-rc));
	return true;
}

static void default_signals(void)
{
	struct sigaction sa = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int sig = 1; sig <= SIGRTMAX; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			sigaction(sig, &sa, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* pid 1: waits, reaps orphans, says how the program ended. It must not read the daemon's memory more than it must. */
__attribute__((noreturn)) static void init_loop(pid_t program, int status_fd)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL);

		if (pid < 0 && errno != EINTR)
			_exit(126);
		if (pid == program) {
			if (write(status_fd, &status, sizeof(status)) < 0)
				_exit(125);
			_exit(0); /* whatever the program left behind goes with the namespace */
		}
	}
}

/* EINVAL: the limit does not reach so far. EMFILE: it does, and is used up. */
__attribute__((noreturn)) static void no_numbers(int fd, int above)
{
	struct rlimit l = { 0 };

	getrlimit(RLIMIT_NOFILE, &l);
	give_up(fd, -EMFILE, "a rank needs descriptors up to %d and the limit of open files is %llu; raise 'ulimit -n' to %d or "
	        "more", above + CT_PLUMB_MAX, (unsigned long long)l.rlim_cur, above + 64);
}

/*
 * Where a filter denies clone3 with EPERM, as older container engines do, glibc makes no thread: it falls back to clone
 * only for ENOSYS. Of several filters that return an error the one installed last says which.
 */
static void answer_clone3(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = GW_ARRAY_LEN(filter), .filter = filter };

	if (syscall(SYS_clone3, NULL, 0) == 0 || errno != EPERM) /* without arguments it is EINVAL, or not there */
		return;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

__attribute__((noreturn)) static void program_main(const struct ct_start *s, int fd)
{
	const struct ct_spawn *spec = s->spec;
	struct ct_start_msg here = { .what = CT_START_HERE };
	int keep[CT_PLUMB_MAX + 4], high[CT_PLUMB_MAX], n_keep = 0, above = 3, say_at;
	extern char **environ;

	if (s->walls == CT_WALLS_NONE) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != s->init_pid)
			_exit(127);
	}
	if (spec->cpus)
		sched_setaffinity(0, sizeof(*spec->cpus), spec->cpus); /* where that is denied it runs where it may; the daemon warns */
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		high[i] = -1;
		if (i == 0 || spec->plumbing.rank_fd[i] < 0)
			continue;
		if (spec->plumbing.number_in_rank[i] >= above)
			above = spec->plumbing.number_in_rank[i] + 1;
	}
	for (int i = 1; i < CT_PLUMB_MAX; i++) {
		if (spec->plumbing.rank_fd[i] < 0)
			continue;
		high[i] = fcntl(spec->plumbing.rank_fd[i], F_DUPFD_CLOEXEC, above);
		if (high[i] < 0)
			no_numbers(fd, above);
	}
	say_at = fcntl(fd, F_DUPFD_CLOEXEC, above);
	if (say_at < 0)
		no_numbers(fd, above);
	fd = say_at;
	for (int n = 0; n < 3; n++) { /* libraries must not get the numbers of the standard streams */
		int null = open("/dev/null", O_RDWR);

		if (null >= 0 && null != n) {
			dup2(null, n);
			close(null);
		}
		keep[n_keep++] = n;
	}
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (high[i] >= 0) {
			int number = spec->plumbing.number_in_rank[i];

			if (number < 0 || dup2(high[i], number) < 0)
				give_up(fd, -EBADF, "cannot make descriptor %d", number);
			keep[n_keep++] = number;
		}
	keep[n_keep++] = fd;
	close_others(keep, (size_t)n_keep);
	if (spec->cwd && chdir(spec->cwd) < 0)
		give_up(fd, -errno, "cannot change to directory '%s': %s", spec->cwd, strerror(errno));
	for (int i = 0; spec->limits && i < (int)RLIM_NLIMITS; i++)
		if (setrlimit((__rlimit_resource_t)i, &spec->limits[i]) < 0)
			give_up(fd, -errno, "cannot set its limit %d: %s", i, strerror(errno));
	answer_clone3();
	say(fd, &here);
	environ = (char **)spec->envp;
	execvp(spec->argv[0], spec->argv);
	give_up(fd, -errno, "cannot run '%s': %s", spec->argv[0], strerror(errno));
}

/* The empty shell never execs, so that it keeps the privileges that restoring needs. It waits to be seized, and exits
 * when the daemon goes before that (rule 17). */
__attribute__((noreturn)) static void shell_main(const struct ct_start *s, int fd)
{
	struct ct_start_msg here = { .what = CT_START_HERE };
	int keep[CT_PLUMB_MAX + 1], n_keep = 0;
	char byte;

	for (int i = 0; i < (int)RLIM_NLIMITS; i++) { /* as the rank has more than the daemon; its own limits come last */
		struct rlimit l;

		if (i != RLIMIT_CORE && getrlimit((__rlimit_resource_t)i, &l) == 0 && l.rlim_cur != l.rlim_max) {
			l.rlim_cur = l.rlim_max;
			setrlimit((__rlimit_resource_t)i, &l);
		}
	}
	/* in a daemon with many descriptors it may lie where the others are about to be parked */
	fd = fcntl(fd, F_DUPFD_CLOEXEC, s->park_from + CT_PLUMB_MAX);
	if (fd < 0)
		_exit(127);
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (s->plumbing->rank_fd[i] >= 0) {
			int to = s->park_from + i;

			if (dup3(s->plumbing->rank_fd[i], to, O_CLOEXEC) < 0)
				give_up(fd, -errno, "cannot park descriptor %d: %s", to, strerror(errno));
			keep[n_keep++] = to;
		}
	if (dup3(fd, s->park_from, O_CLOEXEC) < 0)
		give_up(fd, -errno, "cannot park descriptor %d: %s", s->park_from, strerror(errno));
	fd = s->park_from;
	keep[n_keep++] = fd;
	close_others(keep, (size_t)n_keep);
	if (mprotect(s->area, CT_HOLE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		give_up(fd, -errno, "cannot make memory executable: %s", strerror(errno));
#ifdef RSEQ_SIG
	if (__rseq_size) /* the kernel writes there; the page is about to go */
		syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 1, RSEQ_SIG);
#endif
	prctl(PR_SET_DUMPABLE, 1);
	say(fd, &here);
	for (;;)
		if (read(fd, &byte, 1) >= 0 || errno != EINTR)
			_exit(0);
}

/* ---- init without namespaces ------------------------------------------------------------------------------------- */

/* SIGKILL to all children of this process; false when there is no way to list them */
static bool kill_children(void)
{
	char path[64], text[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	for (char *p = text, *end; (n = strtol(p, &end, 10)) > 0 && end != p; p = end)
		if (*end == ' ') /* not one that the buffer has cut */
			kill((pid_t)n, SIGKILL);
	return true;
}

/* Whoever is below: those that lose their parent become ours, until nobody is left. */
static void end_all(pid_t program)
{
	kill(-program, SIGKILL); /* its session's first group, should there be no other way */
	kill(program, SIGKILL);
	while (waitpid(-1, NULL, __WALL | WNOHANG) >= 0) {
		if (!kill_children())
			return;
		waitpid(-1, NULL, __WALL);
	}
}

static void init_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGCHLD);
}

__attribute__((noreturn)) static void init_loop_bare(pid_t program, int status_fd)
{
	sigset_t set;

	init_signals(&set);
	for (;;) {
		int sig = sigwaitinfo(&set, NULL), status;
		pid_t pid;

		while (sig == SIGCHLD && (pid = waitpid(-1, &status, __WALL | WNOHANG)) > 0)
			if (pid == program) {
				end_all(program);
				_exit(write(status_fd, &status, sizeof(status)) < 0 ? 125 : 0);
			}
		if (sig == SIGTERM) {
			end_all(program);
			_exit(0);
		}
	}
}

__attribute__((noreturn)) static void init_bare(struct ct_start *s, int fd, int status_fd)
{
	struct ct_start_msg m = { 0 };
	sigset_t set, none;
	pid_t program;

	init_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	s->init_pid = getpid();
	say(fd, &m);
	program = fork();
	if (program < 0)
		give_up(fd, -errno, "cannot make a process: %s; raise 'ulimit -u'", strerror(errno));
	if (program == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		close(status_fd);
		program_main(s, fd);
	}
	close_others(&status_fd, 1);
	init_loop_bare(program, status_fd);
}

/* ---- init ---------------------------------------------------------------------------------------------------------- */

/* The daemon may have gone before its death could signal us (rule 18). Its end of the start socket does not tell: what it has
 * forked after us holds that, too, for a while. */
static void end_with_daemon(int fd, int daemon_pidfd)
{
	struct pollfd p[] = { { .fd = fd }, { .fd = daemon_pidfd, .events = POLLIN } };

	if (poll(p, GW_ARRAY_LEN(p), 0) != 0) /* nothing is ever said on @fd: it can only be hung up */
		_exit(0);
	if (daemon_pidfd >= 0)
		close(daemon_pidfd);
}

__attribute__((noreturn)) void ct_init_main(struct ct_start *s, int fd, int status_fd, uid_t uid, gid_t gid)
{
	struct ct_start_msg m = { .what = CT_START_HERE };
	struct ct_clone3_args args = { .exit_signal = SIGCHLD, .flags = CLONE_CLEAR_SIGHAND };
	int keep[CT_PLUMB_MAX + 2], n_keep = 0;
	pid_t tid = s->ns_pid;
	long pid;

	default_signals();
	prctl(PR_SET_PDEATHSIG, s->walls == CT_WALLS_NONE ? SIGTERM : SIGKILL);
	prctl(PR_SET_NAME, "godwit-init");
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (s->plumbing->rank_fd[i] >= 0)
			keep[n_keep++] = s->plumbing->rank_fd[i];
	keep[n_keep++] = fd;
	keep[n_keep++] = status_fd;
	keep[n_keep++] = s->daemon_pidfd;
	close_others(keep, (size_t)n_keep);
	end_with_daemon(fd, s->daemon_pidfd);
	if (s->walls == CT_WALLS_NONE)
		init_bare(s, fd, status_fd);
	if (s->walls == CT_WALLS_USER)
		map_self(fd, uid, gid);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 && errno != EINVAL) /* EINVAL: a chroot, / is no mount */
		no_walls(fd, -errno, "mounts cannot be made private: %s", strerror(errno));
	/* a host that hides parts of /proc forbids this in a user namespace, and a chroot may have none; the program then sees
	 * what is there */
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != EPERM && errno != ENOENT)
		give_up(fd, -errno, "cannot mount its /proc: %s", strerror(errno));
	m.has_timens = enter_timens(fd, s->monotonic_offset_ns, s->boottime_offset_ns);
	if (s->ns_pid > 1) {
		args.set_tid = (uint64_t)(uintptr_t)&tid;
		args.set_tid_size = 1;
	}
	m.what = 0;
	say(fd, &m);
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0 && errno == EAGAIN)
		give_up(fd, -EAGAIN, "cannot make a process: %s; raise 'ulimit -u', or the limit of the control group",
		        strerror(EAGAIN));
	if (pid < 0 && (errno == ENOSYS || errno == EPERM))
		no_walls(fd, -errno, "a process with a chosen pid cannot be made: %s", strerror(errno));
	if (pid < 0)
		give_up(fd, -errno, "cannot make a process with pid %d: %s; the number must be free and below kernel.pid_max",
		        (int)s->ns_pid, strerror(errno));
	if (pid == 0) {
		/* A group, but no session of its own: the kernel's autogroups share out a core by sessions, and a rank that yields
		 * yields within its session only. So all ranks of a daemon are in the daemon's. */
		setpgid(0, 0);
		close(status_fd);
		if (s->spec)
			program_main(s, fd);
		shell_main(s, fd);
	}
	keep[0] = status_fd;
	close_others(keep, 1);
	if (s->area)
		munmap(s->area, CT_HOLE_SIZE);
	init_loop((pid_t)pid, status_fd);
}

