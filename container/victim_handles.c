/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs with locks, and with descriptors of which no other would be the same. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- locks ---------------------------------------------------------------------------------------------------------- */

static bool lock_file(int fd, int cmd, short type, off_t from, off_t len)
{
	struct flock l = { .l_type = type, .l_start = from, .l_len = len };

	return fcntl(fd, cmd, &l) == 0;
}

/* Asked of another open file, a lock that is in force is in the way. That is not closed: this would give up F_SETLK's. */
static bool is_locked(int probe, bool is_flock, off_t from, off_t len, short type)
{
	bool got = is_flock ? flock(probe, LOCK_EX | LOCK_NB) == 0 : lock_file(probe, F_OFD_SETLK, type, from, len);
	int err = errno;

	if (got) {
		if (is_flock)
			flock(probe, LOCK_UN);
		else
			lock_file(probe, F_OFD_SETLK, F_UNLCK, from, len);
	}
	return !got && (err == EAGAIN || err == EACCES);
}

/* @is_shared: only such as can be taken elsewhere while they are held here */
int locks(const char *dir, bool is_shared)
{
	char path[3][160], line[64];
	int fd[3], probe[3], twin;

	for (int i = 0; i < 3; i++) {
		snprintf(path[i], sizeof(path[i]), "%s/lock%d", dir, i);
		fd[i] = open(path[i], O_RDWR | O_CREAT, 0600);
		probe[i] = open(path[i], O_RDWR);
		if (fd[i] < 0 || probe[i] < 0)
			say("bad open: %s", strerror(errno));
	}
	twin = dup(fd[0]);
	if (flock(fd[0], is_shared ? LOCK_SH : LOCK_EX) < 0 || !lock_file(fd[1], F_SETLK, F_RDLCK, 100, 50) ||
	    !lock_file(fd[1], F_SETLK, F_RDLCK, 1000, 0) || !lock_file(fd[2], F_OFD_SETLK, is_shared ? F_RDLCK : F_WRLCK, 10, 10))
		say("bad lock: %s", strerror(errno));
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		if (!is_locked(probe[0], true, 0, 0, 0))
			say("bad: flock is lost");
		if (!is_locked(probe[1], false, 149, 1, F_WRLCK) || is_locked(probe[1], false, 150, 50, F_WRLCK) ||
		    !is_locked(probe[1], false, 5000, 1, F_WRLCK) || is_locked(probe[1], false, 0, 100, F_WRLCK) ||
		    is_locked(probe[1], false, 100, 50, F_RDLCK))
			say("bad: F_SETLK is lost, or another one");
		if (!is_locked(probe[2], false, 10, 1, F_WRLCK) || is_locked(probe[2], false, 20, 0, F_WRLCK) ||
		    is_locked(probe[2], false, 10, 1, F_RDLCK) == is_shared)
			say("bad: F_OFD_SETLK is lost, or another one");
		/* the owners are the same: to do it again changes nothing */
		if (flock(twin, (is_shared ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0 || !lock_file(fd[1], F_SETLK, F_RDLCK, 100, 50) ||
		    !lock_file(fd[2], F_OFD_SETLK, is_shared ? F_RDLCK : F_WRLCK, 10, 10))
			say("bad: a lock has another owner: %s", strerror(errno));
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- what is handed over ---------------------------------------------------------------------------------------------- */

static bool is_event(int in, int wd, uint32_t mask, const char *name)
{
	union { struct inotify_event e; char bytes[512]; } b;
	ssize_t n = read(in, &b, sizeof(b));

	return n >= (ssize_t)sizeof(b.e) && b.e.wd == wd && (b.e.mask & mask) && strcmp(b.e.name, name) == 0;
}

static int unix_named(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.107s", path);
	return bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 4) < 0 ? -1 : fd;
}

static int unix_connect(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.107s", path);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : fd;
}

int handles(const char *dir)
{
	int in = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), wd = inotify_add_watch(in, dir, IN_CREATE), fifo = -1, gone, same, half[2];
	int listener, client, server, pair[2];
	struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 64 };
	char path[160], name[64], line[64], buf[128] = { 0 };
	unsigned n = 0;
	mqd_t mq;

	snprintf(name, sizeof(name), "/ct-victim-%d-%d", (int)getuid(), (int)getpid());
	mq_unlink(name);
	mq = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	mq_unlink(name);
	snprintf(path, sizeof(path), "%s/fifo", dir);
	unlink(path);
	if (in < 0 || wd < 0 || mq < 0 || mkfifo(path, 0600) < 0 || (fifo = open(path, O_RDWR)) < 0)
		say("bad open: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/gone", dir);
	gone = open(path, O_RDWR | O_CREAT, 0600);
	same = dup2(gone, 300);
	unlink(path);
	if (!is_event(in, wd, IN_CREATE, "fifo"))
		say("bad first event");
	snprintf(path, sizeof(path), "%s/sock", dir);
	unlink(path);
	listener = unix_named(path);
	client = unix_connect(path);
	server = accept(listener, NULL, NULL);
	if (gone < 0 || same != 300 || pipe(half) < 0 || listener < 0 || client < 0 || server < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		say("bad open: %s", strerror(errno));
	close(half[1]); /* what has lost its other end keeps saying so */
	while (read(in, buf, sizeof(buf)) > 0)
		;
	if (send(pair[0], "first", 5, 0) != 5 || send(server, "hello", 5, 0) != 5)
		say("bad send");
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		struct stat st;
		int fd;

		if (n) { /* what happened before the move, and waits */
			snprintf(path, sizeof(path), "made%u", n - 1);
			if (!is_event(in, wd, IN_CREATE, path))
				say("bad: no event of %s", path);
		}
		snprintf(path, sizeof(path), "%s/made%u", dir, n);
		fd = open(path, O_CREAT | O_WRONLY, 0600);
		close(fd);
		unlink(path);
		if (n && (mq_receive(mq, buf, sizeof(buf), NULL) != 3 || memcmp(buf, "msg", 3) != 0))
			say("bad message queue: %s", strerror(errno));
		if (mq_send(mq, "msg", 3, 1) < 0)
			say("bad message queue: %s", strerror(errno));
		if (n && (read(fifo, buf, sizeof(buf)) != 4 || memcmp(buf, "fifo", 4) != 0))
			say("bad fifo");
		if (write(fifo, "fifo", 4) != 4)
			say("bad fifo");
		if (fstat(gone, &st) < 0 || st.st_nlink || st.st_size != (off_t)(4 * n) || lseek(gone, 0, SEEK_CUR) != (off_t)(4 * n) ||
		    write(n % 2 ? gone : same, "gone", 4) != 4)
			say("bad deleted file: %ld bytes", (long)st.st_size);
		if (read(half[0], buf, 1) != 0)
			say("bad pipe without another end");
		if (recv(pair[1], buf, sizeof(buf), MSG_DONTWAIT) != 5 || memcmp(buf, "first", 5) != 0 || send(pair[0], "first", 5, 0) != 5)
			say("bad pair");
		if (recv(client, buf, sizeof(buf), MSG_DONTWAIT) != 5 || send(server, "hello", 5, 0) != 5)
			say("bad connection");
		snprintf(path, sizeof(path), "%s/sock", dir);
		fd = unix_connect(path);
		close(fd < 0 ? -1 : accept(listener, NULL, NULL));
		close(fd);
		if (fd < 0)
			say("bad listener: %s", strerror(errno));
		n++;
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- pairs of sockets ------------------------------------------------------------------------------------------------ */

/* what waits in both directions, packets as packets, is what was sent before */
static bool is_there(int fd, const char *const *want, bool is_stream)
{
	char buf[64];

	for (int i = 0; i < 3; i++) {
		ssize_t n = recv(fd, buf, is_stream ? strlen(want[i]) : sizeof(buf) - 1, MSG_DONTWAIT);

		if (n != (ssize_t)strlen(want[i]) || memcmp(buf, want[i], (size_t)n) != 0)
			return false;
	}
	return recv(fd, buf, sizeof(buf), MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool put(int fd, const char *const *words)
{
	for (int i = 0; i < 3; i++)
		if (send(fd, words[i], strlen(words[i]), MSG_DONTWAIT) != (ssize_t)strlen(words[i]))
			return false;
	return true;
}

int pairs(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	static const char *const to[] = { "one", "second", "3" }, *const fro[] = { "x", "yy", "zzz" };
	int fd[3][2], high[3], size = 300000, want = 0;
	char line[64];

	for (int i = 0; i < 3; i++) {
		if (socketpair(AF_UNIX, types[i], 0, fd[i]) < 0 || (high[i] = dup2(fd[i][1], 400 - i)) < 0 ||
		    setsockopt(fd[i][0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0 || !put(fd[i][0], to) || !put(high[i], fro))
			say("bad pair: %s", strerror(errno));
		fcntl(fd[i][0], F_SETFL, O_NONBLOCK);
	}
	getsockopt(fd[0][0], SOL_SOCKET, SO_SNDBUF, &want, &(socklen_t){ sizeof(want) });
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (int i = 0; i < 3; i++) {
			struct { pid_t pid; uid_t uid; gid_t gid; } cred = { 0 };
			int got = 0;

			getsockopt(fd[i][0], SOL_SOCKET, SO_SNDBUF, &got, &(socklen_t){ sizeof(got) });
			getsockopt(fd[i][0], SOL_SOCKET, SO_PEERCRED, &cred, &(socklen_t){ sizeof(cred) });
			if (!is_there(fd[i][1], to, i == 0) || !is_there(fd[i][0], fro, i == 0))
				say("bad: what waited in pair %d is not there", i);
			if (!put(fd[i][0], to) || !put(high[i], fro))
				say("bad: pair %d: %s", i, strerror(errno));
			if (got != want || cred.pid != getpid() || !(fcntl(fd[i][0], F_GETFL) & O_NONBLOCK) || (fcntl(high[i], F_GETFL) & O_NONBLOCK))
				say("bad flags of pair %d: %d %d, %d", i, got, want, (int)cred.pid);
		}
		say("ok %s", line);
	}
	say("done");
	return 7;
}
