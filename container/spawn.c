/* SPDX-License-Identifier: BSD-2-Clause */
/* A container's processes as the daemon starts, counts and ends them; what they do themselves is in init.c. */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIDFD_TO_GROUP   4u /* PIDFD_SIGNAL_PROCESS_GROUP */

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
	ct_vec_init(&r->files_seen, sizeof(struct ct_file_seen));
	ct_vec_init(&r->extents, sizeof(struct ct_extent));
	ct_vec_init(&r->meta, 1);
	ct_vec_init(&r->carried, sizeof(struct ct_carried));
	r->carry_fd = r->memory_fd = -1;
	ct_vec_init(&r->regions, 24);
	ct_vec_init(&r->unreadable, sizeof(struct ct_img_extent));
	ct_vec_init(&r->wanted, sizeof(struct ct_img_extent));
	ct_vec_init(&r->sysv_used, sizeof(struct ct_img_sysv));
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
	ct_proc_keep_none();
	ct_room_settle(r);
	ct_carried_fini(r);
	ct_carry_forget(r);
	ct_snapshot_fini(&r->snap);
	ct_snapshot_fini(&r->hint);
	ct_reader_fini(&r->reader);
	ct_maps_fini(&r->look);
	ct_maps_fini(&r->maps);
	ct_remote_fini(&r->remote);
	ct_vec_fini(&r->threads);
	ct_vec_fini(&r->samples);
	ct_vec_fini(&r->files_seen);
	ct_vec_fini(&r->extents);
	ct_vec_fini(&r->meta);
	ct_vec_fini(&r->regions);
	ct_vec_fini(&r->unreadable);
	ct_follow_end(r);
	ct_vec_fini(&r->wanted);
	ct_vec_fini(&r->sysv_used);
	ct_serve_fini(&r->serve);
	ct_vec_fini(&r->writes_local);
	ct_vec_fini(&r->writes_remote);
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		ct_vec_fini(&r->rest[i]);
		if (r->daemon_fd[i] >= 0) /* of a shell that was never thawed */
			close(r->daemon_fd[i]);
	}
	free(r);
}

/* @is_end: nobody holds the other end any more. Return -EINPROGRESS when nothing has come, and waiting is not allowed. */
static int receive(const struct ct_rank *r, bool may_wait, struct ct_start_msg *m, pid_t *pid, bool *is_end, struct gw_error *why)
{
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { m, sizeof(*m) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = r->start_fd, .events = POLLIN };
	bool is_late;
	ssize_t n;
	int rc;

	do {
		uint64_t now = gw_now_ns();

		is_late = now >= r->start_until_ns;
		rc = poll(&p, 1, is_late || !may_wait ? 0 : (int)((r->start_until_ns - now) / 1000000) + 1);
	} while (rc < 0 && errno == EINTR);
	if (rc == 0 && !may_wait && !is_late)
		return -EINPROGRESS;
	if (rc <= 0)
		return gw_fail(why, -ETIMEDOUT, "the new container did not start within %d s", CT_START_TIMEOUT_MS / 1000);
	n = recvmsg(r->start_fd, &msg, MSG_CMSG_CLOEXEC);
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

static long clone_init(enum ct_walls walls, int *pidfd)
{
	struct ct_clone3_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD | (walls == CT_WALLS_USER ? CLONE_NEWUSER : 0),
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD };
	long pid;

	if (walls != CT_WALLS_NONE)
		return syscall(SYS_clone3, &args, sizeof(args));
	pid = fork();
	*pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1; /* without one its status pipe tells, see below */
	return pid;
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

/* not the kind of failure that passes, or that an ordinary process would meet too */
static bool is_forbidden(int code)
{
	return code == -EPERM || code == -EACCES || code == -ENOSPC || code == -EUSERS || code == -ENOSYS || code == -EINVAL;
}

/* Its init, within @s->walls. *no_walls: these are forbidden here, and @why tells why; nothing is left then. */
static int begin_within(struct ct_rank *r, struct ct_start *s, bool *no_walls, struct gw_error *why)
{
	int sv[2], status[2], one = 1, rc;
	sigset_t all, old;
	long init;

	*no_walls = false;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "cannot make a socket pair: %s%s", strerror(errno), gw_advice(errno));
	if (pipe2(status, O_CLOEXEC) < 0) {
		rc = -errno;
		close(sv[0]);
		close(sv[1]);
		return gw_fail(why, rc, "cannot make a pipe: %s%s", strerror(-rc), gw_advice(-rc));
	}
	setsockopt(sv[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	s->daemon_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old); /* no handler of the daemon may run in the child */
	init = clone_init(s->walls, &r->init_pidfd);
	if (init == 0) {
		close(sv[0]);
		ct_init_main(s, sv[1], status[1], r->uid, r->gid);
	}
	rc = -errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(sv[1]);
	close(status[1]);
	if (s->daemon_pidfd >= 0)
		close(s->daemon_pidfd);
	r->start_fd = sv[0];
	r->status_fd = status[0];
	fcntl(r->status_fd, F_SETFL, O_NONBLOCK);
	if (init < 0) {
		*no_walls = s->walls != CT_WALLS_NONE && is_forbidden(rc);
		return gw_fail(why, rc, "%s cannot be made: %s%s", *no_walls ? "user namespaces" : "a process", strerror(-rc),
		               gw_advice(-rc));
	}
	r->init_pid = (pid_t)init;
	r->walls = s->walls;
	r->start_until_ns = gw_now_ns() + CT_START_TIMEOUT_MS * 1000000ull;
	remember_ends(r, s->plumbing);
	return 0;
}

/* Until the program has been executed, or the shell stands. *no_walls as above; on any failure but -EINPROGRESS it is killed. */
static int wait_within(struct ct_rank *r, const struct ct_start *s, bool may_wait, bool *no_walls, struct gw_error *why)
{
	struct ct_start_msg m;
	bool is_end = false;
	pid_t pid = 0;
	int rc;

	*no_walls = false;
	for (;;) {
		rc = receive(r, may_wait, &m, &pid, &is_end, why);
		if (rc == -EINPROGRESS)
			return rc;
		if (rc < 0)
			goto fail;
		if (is_end)
			break;
		if (m.what == CT_START_FAILED || m.what == CT_START_NO_WALLS) {
			*no_walls = m.what == CT_START_NO_WALLS;
			rc = gw_fail(why, m.code < 0 ? m.code : -EIO, "%.*s", (int)sizeof(m.text), m.text);
			goto fail;
		}
		if (m.what == CT_START_HERE) {
			r->pid = pid;
			if (!s->spec)
				break;
		} else {
			r->has_timens = m.has_timens;
		}
	}
	if (r->pid)
		return 0;
	rc = gw_fail(why, -ECHILD, "the new container ended while it started");
fail:
	ct_container_kill(r);
	return rc;
}

static void forget(struct ct_rank *r)
{
	int *fds[] = { &r->init_pidfd, &r->start_fd, &r->status_fd };

	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	r->pid = 0;
}

/* @s->walls are forbidden here: the next ones, and the next, until one can be begun */
static int begin_other_walls(struct ct_rank *r, struct ct_start *s, int rc, struct gw_error *why)
{
	bool no_walls = true;

	while (no_walls) {
		snprintf(r->no_walls, sizeof(r->no_walls), "%.*s", (int)sizeof(r->no_walls) - 1, why->text);
		forget(r);
		if (++s->walls == CT_WALLS_NONE && !s->spec)
			return gw_fail(why, rc, "no rank can arrive here: %s; allow user namespaces (user.max_user_namespaces, "
			               "kernel.unprivileged_userns_clone) or run as root", r->no_walls);
		rc = begin_within(r, s, &no_walls, why);
	}
	return rc;
}

int ct_container_begin(struct ct_rank *r, const struct ct_start *start, struct gw_error *why)
{
	struct ct_start s = *start;
	bool no_walls;
	int rc;

	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (s.plumbing->rank_fd[i] >= 0 && fcntl(s.plumbing->rank_fd[i], F_GETFD) < 0)
			return gw_fail(why, -EBADF, "plumbing %d: descriptor %d is not open", i, s.plumbing->rank_fd[i]);
	r->uid = geteuid();
	r->gid = getegid();
	s.walls = r->uid == 0 ? CT_WALLS_ROOT : CT_WALLS_USER;
	rc = begin_within(r, &s, &no_walls, why);
	return no_walls ? begin_other_walls(r, &s, rc, why) : rc;
}

int ct_container_wait(struct ct_rank *r, const struct ct_start *start, bool may_wait, struct gw_error *why)
{
	struct ct_start s = *start;
	bool no_walls;
	int rc;

	s.walls = r->walls;
	for (;;) {
		rc = wait_within(r, &s, may_wait, &no_walls, why);
		if (no_walls)
			rc = begin_other_walls(r, &s, rc, why);
		if (!no_walls || rc < 0)
			break;
	}
	if (rc < 0)
		return rc;
	r->monotonic_offset_ns = s.monotonic_offset_ns;
	r->boottime_offset_ns = s.boottime_offset_ns;
	r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	r->ns_pid = s.walls == CT_WALLS_NONE ? r->pid : s.ns_pid;
	if (s.spec) {
		close(r->start_fd);
		r->start_fd = -1;
	}
	return 0;
}

int ct_container_start(struct ct_rank *r, const struct ct_start *start, struct gw_error *why)
{
	int rc = ct_container_begin(r, start, why);

	return rc < 0 ? rc : ct_container_wait(r, start, true, why);
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

bool ct_shell_is_alive(const struct ct_rank *r)
{
	for (size_t i = 0; i < r->threads.n; i++) {
		const struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

		if (t->is_seized && ct_thread_has_ended(t->tid))
			return false;
	}
	return true;
}

void ct_container_kill(struct ct_rank *r)
{
	int status;

	if (!r->init_pid)
		return;
	/* without a namespace init has to end what is below it, and is never held by a tracer */
	kill(r->init_pid, r->walls == CT_WALLS_NONE ? SIGTERM : SIGKILL);
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

static struct ct_start start_of(const struct ct_spawn *spec)
{
	return (struct ct_start){ .spec = spec, .plumbing = &spec->plumbing, .ns_pid = spec->ns_pid };
}

int ct_rank_spawn_begin(struct ct_rank **out, const struct ct_spawn *spec, struct gw_error *why)
{
	struct ct_start s = start_of(spec);
	struct ct_rank *r = ct_rank_new();
	int rc;

	if (!r)
		return gw_fail(why, -ENOMEM, "no memory for a rank");
	r->is_baseline = spec->baseline;
	if (spec->cpus) {
		r->cpus = *spec->cpus;
		r->has_cpus = true;
	}
	if (!spec->baseline) {
		ct_cpu_host(&r->cpu);
	} else if (ct_cpu_parse(&r->cpu, spec->baseline) < 0) {
		ct_rank_free(r);
		return gw_fail(why, -EINVAL, "'%s' names a processor feature that is not known here", spec->baseline);
	}
	rc = ct_container_begin(r, &s, why);
	if (rc < 0) {
		ct_rank_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

int ct_rank_spawn_end(struct ct_rank *r, const struct ct_spawn *spec, bool may_wait, struct gw_error *why)
{
	struct ct_start s = start_of(spec);
	int rc = ct_container_wait(r, &s, may_wait, why);

	if (rc < 0)
		return rc;
	if (!r->ns_pid)
		r->ns_pid = (pid_t)ct_proc_ns_id(r->pid);
	ct_affinity_mark(r);
	r->state = CT_RUNNING;
	return 0;
}

int ct_rank_spawn(struct ct_rank **out, const struct ct_spawn *spec, struct gw_error *why)
{
	int rc = ct_rank_spawn_begin(out, spec, why);

	if (rc == 0) {
		rc = ct_rank_spawn_end(*out, spec, true, why);
		if (rc < 0)
			ct_rank_kill(*out);
	}
	return rc;
}

int ct_rank_start_fd(const struct ct_rank *r)
{
	return r->start_fd;
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
	return r->init_pidfd >= 0 ? r->init_pidfd : r->status_fd;
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

void ct_rank_end(struct ct_rank *r)
{
	siginfo_t si;

	if (!r->init_pid)
		return;
	kill(r->init_pid, r->walls == CT_WALLS_NONE ? SIGTERM : SIGKILL);
	while (waitid(P_PID, (id_t)r->init_pid, &si, WEXITED | WNOWAIT) < 0 && errno == EINTR)
		;
}

void ct_rank_kill(struct ct_rank *r)
{
	if (!r)
		return;
	ct_container_kill(r);
	ct_fetch_end(r->fetch); /* not before: who waits for a page would find zeroes */
	ct_rank_free(r);
}
