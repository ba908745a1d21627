/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * migration/test_world.h: three daemons (test_daemon.h) and who controls them: it plays the head, it asks, hears, and says
 * who is dead. And what is looked at in the end: how many copies of a program live, and what they wrote.
 */
#ifndef MIG_TEST_WORLD_H
#define MIG_TEST_WORLD_H

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "migration/test_daemon.h"
#include "tests/sweep.h"
#include "tests/tap.h"

#define WAIT_MS 60000

struct world {
	pid_t pid[DAEMONS];
	int ctl[DAEMONS];
	uint64_t incarnation[DAEMONS];
	uint64_t epoch[RANKS];
	uint32_t at[RANKS];
	struct packet said[64]; /* read, and not yet heard */
	unsigned n_said;
	char dir[64];
};

static void say(struct world *w, unsigned to, enum word word, uint32_t proc, uint32_t cluster, int status)
{
	struct packet p = { .word = word, .proc = proc, .cluster = cluster, .status = status,
	                    .incarnation = cluster < DAEMONS ? w->incarnation[cluster] : 0 };

	if (w->pid[to])
		send(w->ctl[to], &p, sizeof(p), MSG_NOSIGNAL);
}

/* What the head does when a daemon dies: everybody else hears of it. */
static void bury(struct world *w, unsigned i)
{
	waitpid(w->pid[i], NULL, 0);
	close(w->ctl[i]);
	w->pid[i] = 0;
	w->ctl[i] = -1;
	for (unsigned j = 0; j < DAEMONS; j++)
		if (w->pid[j])
			say(w, j, DEAD, 0, i, 0);
}

/* Read all that has been said, until a whole round brings nothing. The directory is kept at once (the highest epoch wins):
 * an arrival is said before the end of its session, but by another daemon, and must not be heard after it. */
static void listen_to_all(struct world *w)
{
	unsigned before;

	do {
		before = w->n_said;
		for (unsigned i = 0; i < DAEMONS; i++)
			while (w->pid[i] && w->n_said < GW_ARRAY_LEN(w->said)) {
				struct packet *p = &w->said[w->n_said];
				ssize_t n = recv(w->ctl[i], p, sizeof(*p), MSG_DONTWAIT);

				if (n < 0 && (errno == EAGAIN || errno == EINTR))
					break;
				if (n != (ssize_t)sizeof(*p)) {
					bury(w, i);
					*p = (struct packet){ .word = DIED, .cluster = i };
				} else if ((p->word == ARRIVED || p->word == STAYED || p->word == SPAWNED) &&
				           p->epoch >= w->epoch[p->proc]) {
					w->epoch[p->proc] = p->epoch;
					w->at[p->proc] = p->cluster;
				}
				w->n_said++;
			}
	} while (w->n_said != before);
}

/* The next word of any daemon */
static bool hear(struct world *w, struct packet *p, int timeout_ms)
{
	uint64_t end = gw_now_ns() + (uint64_t)timeout_ms * 1000000;

	for (;;) {
		struct pollfd f[DAEMONS];
		uint64_t now = gw_now_ns();

		listen_to_all(w);
		if (w->n_said) {
			*p = w->said[0];
			w->n_said--;
			memmove(w->said, w->said + 1, w->n_said * sizeof(w->said[0]));
			return true;
		}
		for (unsigned i = 0; i < DAEMONS; i++)
			f[i] = (struct pollfd){ w->ctl[i], POLLIN, 0 };
		if (now >= end || poll(f, DAEMONS, (int)((end - now) / 1000000) + 1) <= 0)
			return false;
	}
}

static bool hear_word(struct world *w, enum word word, uint32_t proc, struct packet *p)
{
	while (hear(w, p, WAIT_MS))
		if (p->word == word && p->proc == proc)
			return true;
	return false;
}

static void world_start(struct world *w, const char *fault0, const char *fault1, const char *fault2)
{
	const char *faults[DAEMONS] = { fault0, fault1, fault2 };
	struct packet p;

	memset(w, 0, sizeof(*w));
	snprintf(w->dir, sizeof(w->dir), "/tmp/mig-test-XXXXXX");
	if (sweep_dir(w->dir) < 0)
		tap_bail("no directory: %s", strerror(errno));
	fflush(stdout);
	for (unsigned i = 0; i < DAEMONS; i++) {
		int sv[2];

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0 ||
		    getrandom(&w->incarnation[i], sizeof(w->incarnation[i]), 0) < 0)
			tap_bail("no socket: %s", strerror(errno));
		w->incarnation[i] |= 1;
		w->pid[i] = fork();
		if (w->pid[i] == 0) {
			for (unsigned j = 0; j < i; j++)
				close(w->ctl[j]);
			close(sv[0]);
			daemon_main(sv[1], i, w->incarnation[i], w->dir, faults[i]);
		}
		close(sv[1]);
		w->ctl[i] = sv[0];
	}
	for (unsigned i = 0; i < DAEMONS; i++)
		if (!hear(w, &p, WAIT_MS) || p.word != LOOKED)
			tap_bail("a daemon did not start");
}

static void file_of(const struct world *w, uint32_t proc, char *path, size_t cap)
{
	snprintf(path, cap, "%s/%u", w->dir, proc);
}

static off_t size_of(const struct world *w, uint32_t proc)
{
	struct stat st;
	char path[128];

	file_of(w, proc, path, sizeof(path));
	return stat(path, &st) == 0 ? st.st_size : -1;
}

/* The file must grow by itself: wait for it, with a deadline. */
static bool grows(const struct world *w, uint32_t proc)
{
	uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull;
	off_t before = size_of(w, proc);

	while (gw_now_ns() < end) {
		struct timespec t = { 0, 2000000 };

		if (size_of(w, proc) >= before + 64)
			return true;
		nanosleep(&t, NULL);
	}
	return false;
}

/* How many processes run the program with this file? Those under an end that is on its way count until they are gone. */
static int copies(const struct world *w, uint32_t proc)
{
	char file[128], path[300], line[1024];
	DIR *dir = opendir("/proc");
	struct dirent *e;
	int n = 0;

	file_of(w, proc, file, sizeof(file));
	while (dir && (e = readdir(dir))) {
		ssize_t len;
		int fd;

		snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		if (e->d_name[0] < '0' || e->d_name[0] > '9' || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
			continue;
		len = read(fd, line, sizeof(line) - 1);
		close(fd);
		for (ssize_t i = 0; i + (ssize_t)strlen(file) < len; i++)
			if (!memcmp(line + i, file, strlen(file) + 1)) {
				n++;
				break;
			}
	}
	if (dir)
		closedir(dir);
	return n;
}

static int settled_copies(const struct world *w, uint32_t proc, int want)
{
	uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull;
	int n = copies(w, proc);

	while (n != want && gw_now_ns() < end) {
		struct timespec t = { 0, 2000000 };

		nanosleep(&t, NULL);
		n = copies(w, proc);
	}
	return n;
}

static void world_stop(struct world *w)
{
	char path[128];

	for (unsigned i = 0; i < DAEMONS; i++)
		if (w->pid[i]) {
			kill(w->pid[i], SIGKILL);
			waitpid(w->pid[i], NULL, 0);
			close(w->ctl[i]);
		}
	for (uint32_t i = 0; i < RANKS; i++) {
		settled_copies(w, i, 0); /* they end with their daemons, a moment later */
		file_of(w, i, path, sizeof(path));
		unlink(path);
	}
	rmdir(w->dir);
}

/* 0, 1, 2, ... and nothing else */
static bool in_order(const struct world *w, uint32_t proc)
{
	char path[128];
	uint64_t n, want = 0;
	FILE *f;
	bool good = true;

	file_of(w, proc, path, sizeof(path));
	f = fopen(path, "rb");
	while (f && good && fread(&n, sizeof(n), 1, f) == 1) {
		good = n == want;
		if (!good)
			diag("rank %u: number %llu where %llu should be", proc, (unsigned long long)n, (unsigned long long)want);
		want++;
	}
	if (f)
		fclose(f);
	return good && want > 0;
}

static bool spawn_at(struct world *w, unsigned cluster, uint32_t proc, int mib)
{
	struct packet p;

	say(w, cluster, SPAWN, proc, cluster, mib);
	if (!hear_word(w, SPAWNED, proc, &p) || p.status < 0) {
		diag("rank %u was not started: %s", proc, p.text);
		return false;
	}
	return grows(w, proc);
}

static void one_lives(struct world *w, uint32_t proc, const char *what)
{
	bool good = settled_copies(w, proc, 1) == 1 && grows(w, proc) && in_order(w, proc) && copies(w, proc) == 1;

	if (!good)
		diag("%d copies, file of %lld bytes", copies(w, proc), (long long)size_of(w, proc));
	ok(good, "%s: exactly one copy, and it goes on from where it was", what);
}

static void none_lives(struct world *w, uint32_t proc, const char *what)
{
	ok(settled_copies(w, proc, 0) == 0 && in_order(w, proc), "%s: no copy is left, none was set back", what);
}

#endif
