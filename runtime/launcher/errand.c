/* SPDX-License-Identifier: BSD-2-Clause */
/* A process that does one thing for mpirun and may wait: its birth, what it says, its end. */
#include "runtime/launcher/errand.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/tcp.h"

#define END_MS 1000 /* for a process to end that has nothing more to do */

struct errand {
	struct errand **place;
	errand_work *work;
	errand_done *done;
	void *ctx;
	pid_t pid;
	int fd;                  /* its code, and what it says, to the end */
	struct gw_watch *watch;
	uint64_t begun_ns;
	size_t len, cap;
	char *text;
	bool is_short;           /* there was no memory for the rest */
};

/* ---- its birth ------------------------------------------------------------------------------------------------------- */

pid_t errand_fork(const char *name, int fd, void (*work)(void *ctx, int fd), void *ctx)
{
	pid_t parent = getpid(), pid = fork();
	sigset_t all;
	int null;

	if (pid)
		return pid < 0 ? -errno : pid;
	null = open("/dev/null", O_RDWR);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	prctl(PR_SET_NAME, name);
	setsid();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGXFSZ, SIG_IGN);
	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	if (fd != 3)
		dup2(fd, 3);
	syscall(SYS_close_range, 4, ~0u, 0);
	work(ctx, 3);
	_exit(0);
}

static void tell(int fd, const void *bytes, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, (const char *)bytes + at, len - at);

		if (n > 0)
			at += (size_t)n;
		else if (errno != EINTR)
			return;
	}
}

static void run(void *ctx, int fd)
{
	const struct errand *e = ctx;
	char *said = calloc(ERRAND_SAYS, 1); /* not of mpirun's own memory: most never do this */
	int code = said ? e->work(e->ctx, said, ERRAND_SAYS) : -ENOMEM;

	tell(fd, &code, sizeof(code));
	tell(fd, said ? said : "", said ? strnlen(said, ERRAND_SAYS - 1) + 1 : 1);
}

/* ---- its end --------------------------------------------------------------------------------------------------------- */

int errand_bury(pid_t pid, uint64_t end_ns)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), code = pidfd < 0 ? -errno : gw_wait_readable(pidfd, end_ns);

	if (pidfd >= 0)
		close(pidfd);
	if (code < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, WNOHANG);
		return -ETIMEDOUT;
	}
	waitpid(pid, NULL, 0);
	return 0;
}

static void fini(struct errand *e)
{
	*e->place = NULL;
	gw_watch_close(&e->watch, &e->fd);
	free(e->text);
	free(e);
}

void errand_drop(struct errand **e)
{
	if (!*e)
		return;
	errand_bury((*e)->pid, 0);
	fini(*e);
}

/* It has closed its end of the pipe. One that was killed may wait still, in closing its file: nobody waits with it. */
static void over(struct errand *e)
{
	struct errand mine = *e;
	bool is_whole = !e->is_short && e->len > sizeof(int) && e->text[e->len - 1] == '\0';
	int code = e->is_short ? -ENOMEM : -EPIPE;

	e->text = NULL;
	errand_bury(e->pid, is_whole ? gw_now_ns() + END_MS * 1000000ull : 0);
	fini(e);
	if (is_whole)
		memcpy(&code, mine.text, sizeof(code));
	mine.done(mine.ctx, code, is_whole ? mine.text + sizeof(code) : (char[]){ "" });
	free(mine.text);
}

/* ---- what it says ---------------------------------------------------------------------------------------------------- */

/* false: this was the end */
static bool hear(struct errand *e)
{
	for (;;) {
		ssize_t n;

		if (e->len == e->cap) {
			char *more = realloc(e->text, 2 * e->cap + 4096);

			e->is_short = !more;
			if (!more)
				return false;
			e->text = more;
			e->cap = 2 * e->cap + 4096;
		}
		n = read(e->fd, e->text + e->len, e->cap - e->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		e->len += (size_t)n;
	}
}

static void on_ready(void *ctx, uint32_t events)
{
	struct errand *e = ctx;

	(void)events;
	if (!hear(e))
		over(e);
}

int errand_wait(struct errand **e, uint64_t end_ns)
{
	while (*e) {
		if (gw_wait_readable((*e)->fd, end_ns) < 0)
			return -ETIMEDOUT;
		on_ready(*e, EPOLLIN);
	}
	return 0;
}

const char *errand_text(int code)
{
	return code == -EPIPE ? "the process that was to do it has been killed" :
	       code == -ETIMEDOUT ? "its file system does not answer" : strerror(-code);
}

uint64_t errand_age_ms(const struct errand *e)
{
	return e ? (gw_now_ns() - e->begun_ns) / 1000000 : 0;
}

int errand_begin(struct errand **out, struct gw_loop *loop, errand_work *work, errand_done *done, void *ctx, struct gw_error *why)
{
	struct errand *e = calloc(1, sizeof(*e));
	int pair[2], code = 0;

	if (!e)
		return gw_fail(why, -ENOMEM, "out of memory");
	*e = (struct errand){ .place = out, .work = work, .done = done, .ctx = ctx, .begun_ns = gw_now_ns() };
	if (pipe2(pair, O_CLOEXEC) < 0) {
		free(e);
		return gw_fail(why, -errno, "no channel: %s", strerror(errno));
	}
	e->fd = pair[0];
	fcntl(e->fd, F_SETFL, O_NONBLOCK); /* ours; the child waits at its end */
	e->pid = errand_fork("godwit-errand", pair[1], run, e);
	close(pair[1]);
	code = e->pid < 0 ? (int)e->pid : gw_loop_watch(loop, &e->watch, e->fd, EPOLLIN, on_ready, e);
	if (code < 0) {
		if (e->pid > 0)
			errand_bury(e->pid, 0);
		close(e->fd);
		free(e);
		return gw_fail(why, code, "no process that waits for its file system: %s%s", strerror(-code), gw_advice(code));
	}
	*out = e;
	return 0;
}
