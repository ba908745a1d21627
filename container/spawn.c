/* SPDX-License-Identifier: BSD-2-Clause */
/* A container's processes: namespaces, init, the program or the empty shell, and their end. */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TIMEOUT_MS 10000
#define PIDFD_TO_GROUP   4u /* PIDFD_SIGNAL_PROCESS_GROUP */

/* What the new processes say on the start socket. Their sender's pid comes with it, as the kernel knows it here. */
struct start_msg {
	int what;       /* START_* */
	int code;       /* negative errno of START_FAILED */
	bool has_timens;
	char text[600];
};
enum { START_HERE = 1, START_FAILED = 2 };

struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* ---- in the child: nothing here may allocate or take a lock that another thread of the daemon could hold -------- */

static void say(int fd, const struct start_msg *m)
{
	if (send(fd, m, sizeof(*m), MSG_NOSIGNAL) < 0) { /* the daemon is gone, and we are about to be */ }
}

__attribute__((noreturn)) GW_PRINTF(3, 4) static void give_up(int fd, int code, const char *fmt, ...)
{
	struct start_msg m = { .what = START_FAILED, .code = code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m.text, sizeof(m.text), fmt, ap);
	va_end(ap);
	say(fd, &m);
	_exit(127);
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
			syscall(SYS_close_range, from, (unsigned)keep[i] - 1, 0);
		if ((unsigned)keep[i] >= from)
			from = (unsigned)keep[i] + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
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
		give_up(fd, rc, "cannot map user %u into a user namespace: %s", uid, strerror(-rc));
}

/* The children will live in a time namespace of their own. Without one (an older kernel) an offset is an error. */
static bool enter_timens(int fd, int64_t monotonic_ns, int64_t boottime_ns)
{
	char text[160];
	int64_t ms, bs;
	int rc;

	if (unshare(CLONE_NEWTIME) < 0) {
		if (monotonic_ns == 0 && boottime_ns == 0)
			return false;
		give_up(fd, -errno, "cannot make a time namespace: %s; the rank's monotonic clock would jump",
		        strerror(errno));
	}
	if (monotonic_ns == 0 && boottime_ns == 0)
		return true;
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

__attribute__((noreturn)) static void program_main(const struct ct_start *s, int fd)
{
	const struct ct_spawn *spec = s->spec;
	struct start_msg here = { .what = START_HERE };
	int keep[CT_PLUMB_MAX + 4], high[CT_PLUMB_MAX], n_keep = 0;
	extern char **environ;

	if (spec->cpus && sched_setaffinity(0, sizeof(*spec->cpus), spec->cpus) < 0)
		give_up(fd, -errno, "cannot bind it to its processors: %s", strerror(errno));
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		high[i] = -1;
		if (i == 0 || spec->plumbing.rank_fd[i] < 0)
			continue;
		high[i] = fcntl(spec->plumbing.rank_fd[i], F_DUPFD_CLOEXEC, 200);
		if (high[i] < 0)
			give_up(fd, -errno, "cannot keep descriptor %d: %s", spec->plumbing.rank_fd[i], strerror(errno));
	}
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 200);
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

			if (number < 0 || number >= 200 || dup2(high[i], number) < 0)
				give_up(fd, -EBADF, "cannot make descriptor %d", number);
			keep[n_keep++] = number;
		}
	keep[n_keep++] = fd;
	close_others(keep, (size_t)n_keep);
	if (spec->cwd && chdir(spec->cwd) < 0)
		give_up(fd, -errno, "cannot change to directory '%s': %s", spec->cwd, strerror(errno));
	if (spec->files && setrlimit(RLIMIT_NOFILE, spec->files) < 0)
		give_up(fd, -errno, "cannot set its limit of open files: %s", strerror(errno));
	say(fd, &here);
	environ = (char **)spec->envp;
	execvp(spec->argv[0], spec->argv);
	give_up(fd, -errno, "cannot run '%s': %s", spec->argv[0], strerror(errno));
}

/* The empty shell never execs, so that it keeps the privileges that restoring needs. It waits to be seized, and exits
 * when the daemon goes before that (rule 17). */
__attribute__((noreturn)) static void shell_main(const struct ct_start *s, int fd)
{
	struct start_msg here = { .what = START_HERE };
	int keep[CT_PLUMB_MAX + 1], n_keep = 0;
	char byte;

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

__attribute__((noreturn)) static void init_main(const struct ct_start *s, int fd, int status_fd, bool is_user, uid_t uid,
                                                gid_t gid)
{
	struct start_msg m = { .what = START_HERE };
	struct pollfd alive = { .fd = fd, .events = 0 };
	struct clone3_args args = { .exit_signal = SIGCHLD, .flags = CLONE_CLEAR_SIGHAND };
	int keep[CT_PLUMB_MAX + 2], n_keep = 0;
	pid_t tid = s->ns_pid;
	long pid;

	default_signals();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "godwit-init");
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (s->plumbing->rank_fd[i] >= 0)
			keep[n_keep++] = s->plumbing->rank_fd[i];
	keep[n_keep++] = fd;
	keep[n_keep++] = status_fd;
	close_others(keep, (size_t)n_keep);
	if (poll(&alive, 1, 0) < 0 || (alive.revents & (POLLHUP | POLLERR)))
		_exit(0); /* the daemon went before its death could signal us (rule 18) */
	if (is_user)
		map_self(fd, uid, gid);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		give_up(fd, -errno, "cannot make its mounts private: %s", strerror(errno));
	/* a host that hides parts of /proc forbids this in a user namespace; the program then sees the host's */
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != EPERM)
		give_up(fd, -errno, "cannot mount its /proc: %s", strerror(errno));
	m.has_timens = enter_timens(fd, s->monotonic_offset_ns, s->boottime_offset_ns);
	if (s->ns_pid > 1) {
		args.set_tid = (uint64_t)(uintptr_t)&tid;
		args.set_tid_size = 1;
	}
	m.what = 0;
	say(fd, &m);
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		give_up(fd, -errno, "cannot make a process with pid %d: %s; the number must be free and below kernel.pid_max",
		        (int)s->ns_pid, strerror(errno));
	if (pid == 0) {
		setsid();
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

/* ---- in the daemon --------------------------------------------------------------------------------------------- */

struct ct_rank *ct_rank_new(void)
{
	struct ct_rank *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->init_pidfd = r->pidfd = r->status_fd = r->mem_fd = r->pagemap_fd = r->start_fd = -1;
	ct_snapshot_init(&r->snap);
	ct_snapshot_init(&r->hint);
	ct_vec_init(&r->threads, sizeof(struct ct_thread));
	ct_vec_init(&r->samples, sizeof(struct ct_thread));
	ct_vec_init(&r->extents, sizeof(struct ct_extent));
	ct_vec_init(&r->meta, 1);
	ct_vec_init(&r->regions, 24);
	ct_vec_init(&r->writes_local, 16);
	ct_vec_init(&r->writes_remote, 16);
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		ct_vec_init(&r->rest[i], 1);
		r->daemon_fd[i] = r->plumb_fd[i] = -1;
	}
	return r;
}

void ct_rank_free(struct ct_rank *r)
{
	int *fds[] = { &r->init_pidfd, &r->pidfd, &r->status_fd, &r->mem_fd, &r->pagemap_fd, &r->start_fd };

	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++)
		if (*fds[i] >= 0)
			close(*fds[i]);
	ct_snapshot_fini(&r->snap);
	ct_snapshot_fini(&r->hint);
	ct_reader_fini(&r->reader);
	ct_maps_fini(&r->look);
	ct_maps_fini(&r->maps);
	ct_remote_fini(&r->remote);
	ct_vec_fini(&r->threads);
	ct_vec_fini(&r->samples);
	ct_vec_fini(&r->extents);
	ct_vec_fini(&r->meta);
	ct_vec_fini(&r->regions);
	ct_vec_fini(&r->writes_local);
	ct_vec_fini(&r->writes_remote);
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		ct_vec_fini(&r->rest[i]);
	free(r);
}

/* @is_end: nobody holds the other end any more */
static int receive(int fd, struct start_msg *m, pid_t *pid, bool *is_end, struct gw_error *why)
{
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { m, sizeof(*m) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t until = gw_now_ns() + START_TIMEOUT_MS * 1000000ull;
	ssize_t n;
	int rc;

	do {
		uint64_t now = gw_now_ns();

		rc = now >= until ? 0 : poll(&p, 1, (int)((until - now) / 1000000) + 1);
	} while (rc < 0 && errno == EINTR);
	if (rc <= 0)
		return gw_fail(why, -ETIMEDOUT, "the new container did not start within %d s", START_TIMEOUT_MS / 1000);
	n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	*is_end = n == 0 || (n < 0 && errno == ECONNRESET);
	if (*is_end)
		return 0;
	if (n != (ssize_t)sizeof(*m))
		return gw_fail(why, n < 0 ? -errno : -EPROTO, "the new container's start socket broke");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cred;

			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			*pid = cred.pid;
		}
	return 0;
}

static long clone_init(bool is_user, int *pidfd)
{
	struct clone3_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD | (is_user ? CLONE_NEWUSER : 0),
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD };

	return syscall(SYS_clone3, &args, sizeof(args));
}

static void remember_ends(struct ct_rank *r, const struct ct_plumbing *p)
{
	for (int i = 1; i < CT_PLUMB_MAX; i++) {
		struct stat st;

		r->ends[i] = (struct ct_end){ 0 };
		if (p->rank_fd[i] >= 0 && fstat(p->rank_fd[i], &st) == 0)
			r->ends[i] = (struct ct_end){ .dev = st.st_dev, .ino = st.st_ino, .mode = st.st_mode };
	}
}

int ct_container_start(struct ct_rank *r, const struct ct_start *s, struct gw_error *why)
{
	int sv[2], status[2], one = 1, rc;
	struct start_msg m;
	sigset_t all, old;
	bool is_end = false, is_here = false;
	pid_t pid = 0;
	long init = -1;

	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (s->plumbing->rank_fd[i] >= 0 && fcntl(s->plumbing->rank_fd[i], F_GETFD) < 0)
			return gw_fail(why, -EBADF, "plumbing %d: descriptor %d is not open", i, s->plumbing->rank_fd[i]);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "cannot make a socket pair: %s", strerror(errno));
	if (pipe2(status, O_CLOEXEC) < 0) {
		rc = -errno;
		close(sv[0]);
		close(sv[1]);
		return gw_fail(why, rc, "cannot make a pipe: %s", strerror(-rc));
	}
	setsockopt(sv[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	r->uid = geteuid();
	r->gid = getegid();
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old); /* no handler of the daemon may run in the child */
	for (int try = r->uid == 0 ? 0 : 1; try < 2; try++) {
		r->has_userns = try == 1;
		init = clone_init(r->has_userns, &r->init_pidfd);
		if (init == 0) {
			close(sv[0]);
			init_main(s, sv[1], status[1], r->has_userns, r->uid, r->gid);
		}
		if (init > 0 || errno != EPERM)
			break;
	}
	rc = -errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(sv[1]);
	close(status[1]);
	r->start_fd = sv[0];
	r->status_fd = status[0];
	fcntl(r->status_fd, F_SETFL, O_NONBLOCK);
	if (init < 0)
		return gw_fail(why, rc, "cannot make the namespaces of a container: %s; %s", strerror(-rc),
		               rc == -EPERM || rc == -ENOSPC
		                       ? "user namespaces seem to be forbidden here (user.max_user_namespaces, "
		                         "kernel.unprivileged_userns_clone); allow them or run as root"
		                       : "see 'godwit doctor'");
	r->init_pid = (pid_t)init;
	r->monotonic_offset_ns = s->monotonic_offset_ns;
	r->boottime_offset_ns = s->boottime_offset_ns;
	remember_ends(r, s->plumbing);
	for (;;) {
		rc = receive(r->start_fd, &m, &pid, &is_end, why);
		if (rc < 0)
			goto fail;
		if (is_end)
			break;
		if (m.what == START_FAILED) {
			rc = gw_fail(why, m.code < 0 ? m.code : -EIO, "%.*s", (int)sizeof(m.text), m.text);
			goto fail;
		}
		if (m.what == START_HERE) {
			r->pid = pid;
			is_here = true;
			if (!s->spec)
				break;
		} else {
			r->has_timens = m.has_timens;
		}
	}
	if (!is_here) {
		rc = gw_fail(why, -ECHILD, "the new container ended while it started");
		goto fail;
	}
	r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	r->ns_pid = s->ns_pid;
	if (s->spec) {
		close(r->start_fd);
		r->start_fd = -1;
	}
	return 0;
fail:
	ct_container_kill(r);
	return rc;
}

bool ct_container_is_gone(struct ct_rank *r, int *init_status)
{
	int status = 0;
	pid_t pid;

	if (!r->init_pid)
		return true;
	do
		pid = waitpid(r->init_pid, &status, WNOHANG);
	while (pid < 0 && errno == EINTR);
	if (pid == 0)
		return false;
	if (init_status)
		*init_status = status;
	r->init_pid = 0;
	return true;
}

void ct_container_kill(struct ct_rank *r)
{
	int status;

	if (!r->init_pid)
		return;
	kill(r->init_pid, SIGKILL);
	/* a namespace does not end before the tracer, us, has reaped the threads that it traces */
	for (size_t i = r->threads.n; i-- > 0;) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

		while (t->is_seized && waitpid(t->tid, &status, __WALL) == t->tid && WIFSTOPPED(status))
			;
		t->is_seized = false;
	}
	while (waitpid(r->init_pid, &status, 0) < 0 && errno == EINTR)
		;
	r->init_pid = 0;
}

int ct_rank_spawn(struct ct_rank **out, const struct ct_spawn *spec, struct gw_error *why)
{
	struct ct_start s = { .spec = spec, .plumbing = &spec->plumbing, .ns_pid = spec->ns_pid };
	struct ct_rank *r = ct_rank_new();
	int rc;

	if (!r)
		return gw_fail(why, -ENOMEM, "no memory for a rank");
	rc = ct_container_start(r, &s, why);
	if (rc == 0 && !r->ns_pid) {
		char text[4096];
		int len = ct_proc_read(r->pid, "status", text, sizeof(text));
		const char *field = len > 0 ? ct_proc_field(text, "NSpid:") : NULL;

		for (; field && *field && *field != '\n'; field += strspn(field, "0123456789"), field += strspn(field, "\t "))
			r->ns_pid = atoi(field);
	}
	if (rc < 0) {
		ct_rank_free(r);
		return rc;
	}
	r->state = CT_RUNNING;
	*out = r;
	return 0;
}

pid_t ct_rank_pid(const struct ct_rank *r)
{
	return r->pid;
}

pid_t ct_rank_init_pid(const struct ct_rank *r)
{
	return r->init_pid;
}

int ct_rank_status_fd(const struct ct_rank *r)
{
	return r->init_pidfd;
}

int ct_rank_reap(struct ct_rank *r, int *wait_status)
{
	int init_status = 0, status;

	for (size_t i = 0; i < r->threads.n; i++) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

		/* a frozen rank that was killed: init cannot end before we reap what we trace */
		while (t->is_seized && waitpid(t->tid, &status, __WALL | WNOHANG) == t->tid)
			t->is_seized = WIFSTOPPED(status);
	}
	if (!ct_container_is_gone(r, &init_status))
		return -EAGAIN;
	if (read(r->status_fd, &status, sizeof(status)) == (ssize_t)sizeof(status))
		init_status = status;
	*wait_status = init_status;
	r->state = CT_BROKEN;
	return 0;
}

int ct_rank_signal(struct ct_rank *r, int sig)
{
	if (r->state != CT_RUNNING)
		return -EAGAIN; /* it would be lost: send it where the rank runs next */
	if (r->pidfd < 0)
		return kill(r->pid, sig) < 0 ? -errno : 0;
	if (syscall(SYS_pidfd_send_signal, r->pidfd, sig, NULL, PIDFD_TO_GROUP) == 0)
		return 0;
	/* before Linux 6.9; where it leads no group any more, the program alone */
	if (errno == EINVAL && getpgid(r->pid) == r->pid && kill(-r->pid, sig) == 0)
		return 0;
	return syscall(SYS_pidfd_send_signal, r->pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

void ct_rank_kill(struct ct_rank *r)
{
	if (!r)
		return;
	ct_container_kill(r);
	ct_rank_free(r);
}
