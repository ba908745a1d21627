/* SPDX-License-Identifier: BSD-2-Clause */
/* A scribe and its files: what it writes, what a file system that takes nothing does to it, and every way in which it ends. */
#include "runtime/launcher/scribe.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "tests/tap.h"

#define SECOND 1000000000ull

static char dir[] = "/tmp/godwit-scribe-XXXXXX", path[64];

struct seen { struct gw_loop *loop; uint64_t size, lost; int opened, ended; char path[4096], why[700]; };

static void on_opened(void *ctx, const char *where, uint64_t size)
{
	struct seen *w = ctx;

	w->opened++;
	w->size = size;
	snprintf(w->path, sizeof(w->path), "%s", where);
	gw_loop_stop(w->loop, 0);
}

static void on_drained(void *ctx, uint64_t lost)
{
	struct seen *w = ctx;

	w->lost = lost;
	gw_loop_stop(w->loop, 0);
}

static void on_ended(void *ctx, const char *where, const char *why)
{
	struct seen *w = ctx;

	(void)where;
	w->ended++;
	snprintf(w->why, sizeof(w->why), "%s", why);
	gw_loop_stop(w->loop, 0);
}

static const struct scribe_ops ops = { .opened = on_opened, .drained = on_drained, .ended = on_ended };

static struct scribe *start_in(struct seen *w, const char *where, void (*in_child)(void *ctx))
{
	struct scribe *s;
	struct gw_error why = { 0 };

	*w = (struct seen){ 0 };
	if (gw_loop_create(&w->loop) < 0 || scribe_start(&s, w->loop, where, 0xbeef, in_child, &ops, w, &why) < 0)
		tap_bail("no scribe: %s", why.text);
	return s;
}

static struct scribe *start(struct seen *w, const char *where)
{
	return start_in(w, where, NULL);
}

/* No file grows: as on a disk that is full */
static void in_little_room(void *ctx)
{
	struct rlimit none = { 0, 0 };

	(void)ctx;
	setrlimit(RLIMIT_FSIZE, &none);
}

static size_t read_all(const char *name, char *buf, size_t cap)
{
	gw_autoclose int fd = open(name, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, cap - 1);

	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static void writes(void)
{
	struct seen w;
	char buf[4096];
	struct scribe *s = start(&w, path);

	gw_loop_run(w.loop);
	ok(w.opened == 1 && strcmp(w.path, path) == 0 && w.size == 0, "a file is made, and said to be open");
	scribe_put(s, "{1}\n", 4, false);
	scribe_flush(s);
	scribe_put(s, "{2}\n", 4, false);
	is_int(scribe_end(s, gw_now_ns() + 20 * SECOND, NULL), 0, "at its end all is written");
	read_all(path, buf, sizeof(buf));
	is_str(buf, "{1}\n{2}\n", "each line, in order, those that were not flushed included");
	gw_loop_destroy(w.loop);
	if (truncate(path, 7) < 0) /* as if it had been killed there */
		tap_bail("no truncation");
	s = start(&w, path);
	is_int(scribe_await(s, gw_now_ns() + 20 * SECOND, NULL), 0, "it goes on with a file that is there");
	is_int((int)w.size, 8, "and says how long that is");
	kill(scribe_pid(s), SIGTERM); /* as a batch system sends it to all processes of a host */
	kill(scribe_pid(s), SIGINT);
	scribe_put(s, "{3}\n", 4, false);
	scribe_end(s, gw_now_ns() + 20 * SECOND, NULL);
	read_all(path, buf, sizeof(buf));
	is_str(buf, "{1}\n{2}\n{3}\n", "in a line of its own, also when the last one was torn; no signal that asks it to end ends it");
	gw_loop_destroy(w.loop);
}

static void refuses(void)
{
	struct gw_error why = { 0 };
	struct seen w;
	struct scribe *s = start(&w, "/proc/nowhere/file");

	ok(scribe_await(s, gw_now_ns() + 20 * SECOND, &why) == -ENOENT && strstr(why.text, "/proc/nowhere/file"), "what cannot be opened is a sentence: %s", why.text);
	ok(scribe_is_over(s) && !scribe_put(s, "x\n", 2, true), "and takes nothing");
	scribe_end(s, gw_now_ns() + 20 * SECOND, NULL);
	gw_loop_destroy(w.loop);
	s = start_in(&w, path, in_little_room);
	scribe_await(s, gw_now_ns() + 20 * SECOND, NULL);
	scribe_put(s, "x\n", 2, false);
	scribe_flush(s);
	gw_loop_run(w.loop);
	ok(w.ended == 1 && strcmp(w.why, strerror(EFBIG)) == 0, "what cannot be written is heard of: %s", w.why);
	scribe_end(s, gw_now_ns() + 20 * SECOND, NULL);
	gw_loop_destroy(w.loop);
	s = start_in(&w, path, in_little_room);
	scribe_await(s, gw_now_ns() + 20 * SECOND, NULL);
	scribe_put(s, "x\n", 2, false);
	is_int(scribe_end(s, gw_now_ns() + 20 * SECOND, &why), -EFBIG, "at the end, too");
	gw_loop_destroy(w.loop);
}

/* As many lines as it takes, and 1 that it does not; their bytes */
static uint64_t fill(struct scribe *s)
{
	static char line[64 << 10];
	uint64_t n = 0;

	memset(line, '{', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\n';
	for (; n < 1000 && scribe_put(s, line, sizeof(line), false); n++)
		scribe_flush(s);
	return n * sizeof(line);
}

static struct scribe *start_stopped(struct seen *w, int *pidfd)
{
	struct scribe *s = start(w, path);

	scribe_await(s, gw_now_ns() + 20 * SECOND, NULL);
	*pidfd = (int)syscall(SYS_pidfd_open, scribe_pid(s), 0);
	kill(scribe_pid(s), SIGSTOP);
	return s;
}

/* One that is stopped takes nothing, as one does that waits for a file server */
static void stalls(void)
{
	struct stat st;
	uint64_t put, begin;
	struct seen w;
	int pidfd;
	struct scribe *s;

	unlink(path);
	s = start_stopped(&w, &pidfd);
	put = fill(s);
	ok(put > SCRIBE_BYTES && put < 2 * SCRIBE_BYTES && scribe_waiting(s) <= SCRIBE_BYTES, "what is not taken is kept within bounds: %llu bytes",
	   (unsigned long long)put);
	ok(!scribe_put(s, "y\n", 2, false) && scribe_lost(s) == 2, "then lines are left out");
	ok(scribe_put(s, "z\n", 2, true), "but for last words");
	kill(scribe_pid(s), SIGCONT);
	gw_loop_run(w.loop);
	is_int(w.lost, 2, "when it takes something again, it is said how many were");
	ok(scribe_put(s, "z\n", 2, false), "and there is room");
	is_int(scribe_end(s, gw_now_ns() + 20 * SECOND, NULL), 0, "it ends well");
	ok(stat(path, &st) == 0 && (uint64_t)st.st_size == put + 4, "and all else is written");
	close(pidfd);
	gw_loop_destroy(w.loop);
	s = start_stopped(&w, &pidfd);
	fill(s);
	begin = gw_now_ns();
	is_int(scribe_end(s, begin + SECOND / 10, NULL), -ETIMEDOUT, "one that is held up is not waited for at the end");
	is_int(gw_wait_readable(pidfd, gw_now_ns() + 20 * SECOND), 0, "and goes");
	close(pidfd);
	gw_loop_destroy(w.loop);
}

/* Does it take what it is sent? What waits in the socket tells, not what send() says */
static void heeds(void)
{
	struct seen w;
	int pidfd;
	struct scribe *s = start_stopped(&w, &pidfd);
	uint64_t sent, then;

	scribe_put(s, "{4}\n", 4, false);
	scribe_flush(s);
	sent = gw_now_ns();
	scribe_put(s, "{5}\n", 4, false);
	scribe_flush(s);
	then = scribe_heeded_ns(s);
	ok(scribe_waiting(s) == 0 && then <= sent, "one that is held up is known to take nothing, also while there is room");
	kill(scribe_pid(s), SIGCONT);
	while (scribe_heeded_ns(s) == then && gw_now_ns() < sent + 20 * SECOND)
		sched_yield();
	ok(scribe_heeded_ns(s) > then, "and to take something again");
	scribe_end(s, gw_now_ns() + 20 * SECOND, NULL);
	close(pidfd);
	gw_loop_destroy(w.loop);
}

/* It lives no longer than who has started it, held up or not */
static void dies(void)
{
	for (int is_stopped = 0; is_stopped < 2; is_stopped++) {
		int news[2], pidfd;
		pid_t parent, pid = 0;

		if (pipe(news) < 0)
			tap_bail("no pipe");
		parent = fork();
		if (parent == 0) {
			struct seen w;
			struct scribe *s = is_stopped ? start_stopped(&w, &pidfd) : start(&w, path);

			pid = scribe_pid(s);
			if (write(news[1], &pid, sizeof(pid)) < 0)
				_exit(1);
			pause();
			_exit(0);
		}
		if (read(news[0], &pid, sizeof(pid)) != sizeof(pid))
			tap_bail("no scribe");
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		kill(parent, SIGKILL);
		waitpid(parent, NULL, 0);
		is_int(gw_wait_readable(pidfd, gw_now_ns() + 20 * SECOND), 0, is_stopped ? "also when it is held up" : "it dies with a parent that is killed");
		close(pidfd);
		close(news[0]);
		close(news[1]);
	}
}

static void is_killed(void)
{
	struct seen w;
	struct scribe *s = start(&w, path);

	scribe_await(s, gw_now_ns() + 20 * SECOND, NULL);
	kill(scribe_pid(s), SIGKILL);
	gw_loop_run(w.loop);
	ok(w.ended == 1 && strstr(w.why, "has ended") && scribe_is_over(s) && !scribe_put(s, "x\n", 2, false), "its death is heard of, and no more: %s", w.why);
	is_int(scribe_end(s, gw_now_ns() + 20 * SECOND, NULL), 0, "and it is buried");
	gw_loop_destroy(w.loop);
}

int main(void)
{
	tap_begin(60);
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(dir))
		tap_bail("no directory");
	snprintf(path, sizeof(path), "%s/file", dir);
	writes();
	refuses();
	stalls();
	heeds();
	dies();
	is_killed();
	unlink(path);
	rmdir(dir);
	return tap_done();
}
