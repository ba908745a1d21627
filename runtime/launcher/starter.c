/* SPDX-License-Identifier: BSD-2-Clause */
/* One process of ssh or the like: its words, its start, what it says, its end. */
#include "runtime/launcher/starter.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "runtime/wire.h"

#define LINE_MAX_BYTES 2048

struct starter {
	const struct starter_ops *ops;
	void *ctx;
	pid_t pid;
	int status;
	int input, errors, pidfd;
	struct gw_watch *errors_watch, *pid_watch;
	bool is_over, is_released;
	char line[LINE_MAX_BYTES]; /* begun */
	size_t len;
	char last[LINE_MAX_BYTES];
};

/* ---- what comes back ------------------------------------------------------------------------------------------------- */

static void say_held(struct starter *s)
{
	if (s->last[0])
		s->ops->said(s->ctx, s->last);
	s->last[0] = '\0';
}

static void end_line(struct starter *s)
{
	while (s->len && (s->line[s->len - 1] == '\r' || s->line[s->len - 1] == ' '))
		s->len--;
	s->line[s->len] = '\0';
	if (s->len && !(s->ops->heard && s->ops->heard(s->ctx, s->line))) {
		say_held(s);
		memcpy(s->last, s->line, s->len + 1);
		if (s->is_released)
			say_held(s);
	}
	s->len = 0;
}

static bool read_errors(struct starter *s)
{
	char buf[4096];
	ssize_t n = read(s->errors, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return false;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || s->len == sizeof(s->line) - 1)
			end_line(s);
		if (buf[i] != '\n')
			s->line[s->len++] = buf[i];
	}
	if (n > 0)
		return true;
	end_line(s);
	gw_watch_close(&s->errors_watch, &s->errors);
	return false;
}

static void on_errors(void *ctx, uint32_t events)
{
	(void)events;
	read_errors(ctx);
}

const char *starter_held(const struct starter *s)
{
	return s->last;
}

void starter_hold(struct starter *s, const char *line)
{
	snprintf(s->last, sizeof(s->last), "%s", line);
}

void starter_release(struct starter *s)
{
	s->is_released = true;
	say_held(s);
}

/* ---- its end --------------------------------------------------------------------------------------------------------- */

bool starter_is_over(const struct starter *s)
{
	return s->is_over;
}

int starter_status(const struct starter *s)
{
	return s->status;
}

int starter_explain(const char *launcher, const char *host, int status, const char *last, struct gw_error *why)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	char end[128];

	if (code == 127 && (!launcher || !*launcher))
		return gw_fail(why, -ENOENT, "host %s: there is no godwitd at the place where it is here; Godwit is needed at the same path "
		               "on all hosts (%s)", host, last[0] ? last : "status 127");
	if (code == 255 && !launcher)
		return gw_fail(why, -EHOSTUNREACH, "host %s cannot be reached with ssh: %s", host,
		               last[0] ? last : "it says nothing about it");
	if (last[0])
		return gw_fail(why, -EIO, "host %s: its daemon could not be started: %s", host, last);
	return gw_fail(why, -EIO, "host %s: its daemon could not be started: '%s' %s", host, !launcher ? "ssh" : *launcher ? launcher :
	               "sh", rt_end_describe(status, true, end, sizeof(end)));
}

static void on_end(void *ctx, uint32_t events)
{
	struct starter *s = ctx;

	(void)events;
	if (waitpid(s->pid, &s->status, WNOHANG) != s->pid)
		return;
	gw_watch_close(&s->pid_watch, &s->pidfd);
	s->is_over = true;
	while (s->errors_watch && read_errors(s))
		;
	s->ops->ended(s->ctx);
}

int starter_write(struct starter *s, const char *text)
{
	size_t len = strlen(text);

	return s->input >= 0 && write(s->input, text, len) == (ssize_t)len ? 0 : -EPIPE;
}

void starter_kill(struct starter *s)
{
	if (!s->is_over)
		kill(s->pid, SIGKILL);
}

void starter_close(struct starter *s)
{
	if (s && s->input >= 0) {
		close(s->input);
		s->input = -1;
	}
}

void starter_destroy(struct starter *s, uint64_t end_ns)
{
	if (!s)
		return;
	starter_close(s);
	if (s->pid > 0 && !s->is_over) {
		/* who fills the pipe of errors while it ends is ended with it */
		if (s->pidfd < 0 || gw_wait_readable(s->pidfd, end_ns) < 0)
			kill(s->pid, SIGKILL);
		waitpid(s->pid, &s->status, 0);
	}
	while (s->errors_watch && read_errors(s))
		;
	say_held(s);
	gw_watch_remove(s->errors_watch);
	gw_watch_remove(s->pid_watch);
	if (s->errors >= 0)
		close(s->errors);
	if (s->pidfd >= 0)
		close(s->pidfd);
	free(s);
}

/* ---- started --------------------------------------------------------------------------------------------------------- */

char *starter_quote(const char *word)
{
	char *q = malloc(4 * strlen(word) + 3), *p = q;

	if (!q)
		abort(); /* a launcher without memory for its own command line */
	*p++ = '\'';
	for (; *word; word++)
		if (*word == '\'')
			p = stpcpy(p, "'\\''");
		else
			*p++ = *word;
	*p++ = '\'';
	*p = '\0';
	return q;
}

static void add(struct strings *argv, const char *word)
{
	if (strings_add(argv, word) < 0)
		abort();
}

void starter_words(struct strings *argv, const char *launcher, const char *host, const char *line)
{
	static const char *const ssh[] = { "ssh", "-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o",
	                                   "ServerAliveInterval=5" };
	bool has_line = false;

	for (size_t i = 0; !launcher && i < GW_ARRAY_LEN(ssh); i++)
		add(argv, ssh[i]);
	if (!launcher)
		add(argv, host);
	if (launcher && !*launcher) {
		add(argv, "/bin/sh");
		add(argv, "-c");
	}
	for (const char *at = launcher; at && *at; at += strspn(at, " \t")) {
		size_t n = strcspn(at, " \t");
		gw_autofree char *word = strndup(at, n);

		if (!word)
			abort();
		if (n == 2 && strncmp(at, "%c", 2) == 0)
			has_line = true;
		add(argv, n == 2 && strncmp(at, "%h", 2) == 0 ? host : n == 2 && strncmp(at, "%c", 2) == 0 ? line : word);
		at += n;
	}
	if (!has_line)
		add(argv, line);
}

static void exec_launcher(const struct starter *s, char **argv, int input, int errors, const struct rlimit *files)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid(); /* what the terminal sends is for us to decide */
	dup2(input, STDIN_FILENO);
	dup2(errors, STDOUT_FILENO);
	dup2(errors, STDERR_FILENO);
	if (files && files->rlim_max)
		setrlimit(RLIMIT_NOFILE, files);
	if (s->ops->in_child)
		s->ops->in_child(s->ctx);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(126);
}

static void close_pair(const int fds[2])
{
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int start(struct starter *s, char **argv, const struct rlimit *files)
{
	int in[2] = { -1, -1 }, err[2] = { -1, -1 }, code = 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		code = -errno;
	else if ((s->pid = fork()) < 0)
		code = -errno;
	if (code < 0) {
		close_pair(in);
		close_pair(err);
		return code;
	}
	if (s->pid == 0)
		exec_launcher(s, argv, in[0], err[1], files);
	close(in[0]);
	close(err[1]);
	s->input = in[1];
	s->errors = err[0];
	return 0;
}

int starter_start(struct starter **out, struct gw_loop *loop, const char *host, char **argv, const char *input,
                  const struct rlimit *files, const struct starter_ops *ops, void *ctx, struct gw_error *why)
{
	struct starter *s = calloc(1, sizeof(*s));
	size_t len = strlen(input);
	int code;

	if (!s)
		return gw_fail(why, -ENOMEM, "out of memory");
	*s = (struct starter){ .ops = ops, .ctx = ctx, .input = -1, .errors = -1, .pidfd = -1 };
	code = start(s, argv, files);
	if (code < 0) {
		free(s);
		return gw_fail(why, code, "host %s: its daemon cannot be started: %s%s", host, strerror(-code), gw_advice(code));
	}
	if (write(s->input, input, len) != (ssize_t)len) /* a fresh pipe takes it; who is gone already is heard of */
		gw_log(GW_INFO, "host %s: its launcher does not take the secret", host);
	fcntl(s->errors, F_SETFL, O_NONBLOCK);
	s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	code = s->pidfd < 0 ? -errno : gw_loop_watch(loop, &s->pid_watch, s->pidfd, EPOLLIN, on_end, s);
	if (code == 0)
		code = gw_loop_watch(loop, &s->errors_watch, s->errors, EPOLLIN, on_errors, s);
	if (code < 0) {
		starter_destroy(s, 0);
		return gw_fail(why, code, "host %s: %s", host, strerror(-code));
	}
	*out = s;
	return 0;
}
