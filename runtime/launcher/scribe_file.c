/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a scribe does: it opens a file, and writes what it is told. Its own process (scribe.h): it may wait here as long as a file system likes.
 *
 * The directory of all histories is bounded: the last KEEP_FILES stay, and not more than KEEP_BYTES of them. Those of jobs that run are
 * locked, by their scribes.
 */
#include "runtime/launcher/scribe.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/state.h"

#define KEEP_FILES 32
#define KEEP_BYTES (256ull << 20)

struct old { char name[32]; struct timespec at; uint64_t size; };

static int by_age(const void *x, const void *y)
{
	const struct old *a = x, *b = y; /* the newest first */

	return a->at.tv_sec != b->at.tv_sec ? (a->at.tv_sec < b->at.tv_sec ? 1 : -1) :
	       (a->at.tv_nsec < b->at.tv_nsec) - (a->at.tv_nsec > b->at.tv_nsec);
}

static void remove_old(int dir, const struct old *o)
{
	gw_autoclose int fd = openat(dir, o->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) /* else its job runs */
		unlinkat(dir, o->name, 0);
}

/* The last ones stay. Best effort: what cannot be looked at or removed is left to the next job. */
static void prune(int dir)
{
	struct old *all = NULL;
	size_t n = 0, cap = 0;
	uint64_t sum = 0;
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;

	if (!d && copy >= 0)
		close(copy);
	for (const struct dirent *e; d && (e = readdir(d));) {
		struct stat st;

		if (strlen(e->d_name) != strlen("01234567.jsonl") || strspn(e->d_name, "0123456789abcdef") != 8 ||
		    strcmp(e->d_name + 8, ".jsonl") != 0 || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (n == cap) {
			struct old *more = realloc(all, (cap = 2 * cap + 64) * sizeof(*all));

			if (!more)
				break;
			all = more;
		}
		all[n] = (struct old){ .at = st.st_mtim, .size = (uint64_t)st.st_size };
		memcpy(all[n++].name, e->d_name, strlen("01234567.jsonl") + 1);
	}
	if (d)
		closedir(d);
	if (n)
		qsort(all, n, sizeof(*all), by_age);
	for (size_t i = 0; i < n; i++) {
		sum += all[i].size;
		if (i >= KEEP_FILES || sum > KEEP_BYTES)
			remove_old(dir, &all[i]);
	}
	free(all);
}

/* A descriptor, or -errno; @path: of the file */
static int open_file(const char *where, uint32_t job, char *path, size_t cap, struct gw_error *why)
{
	gw_autoclose int own_dir = -1; /* of the user's histories; one that was named is not tidied */
	gw_autoclose int fd = -1;
	struct stat st;
	char letter;
	int code;

	if (where && (stat(where, &st) < 0 || !S_ISDIR(st.st_mode)) && where[strlen(where) - 1] != '/') {
		snprintf(path, cap, "%s", where);
	} else {
		char dir[3900];
		int at;

		code = where ? 0 : rt_state_dir(dir, sizeof(dir), true, why);
		if (code < 0)
			return code;
		if (where)
			snprintf(dir, sizeof(dir), "%s", where);
		at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return gw_fail(why, -errno, "cannot open '%s', where the job's history was to be kept: %s; name a directory that is there "
			               "with -record, or 'none'", dir, strerror(errno));
		if (where)
			close(at);
		else
			own_dir = at;
		snprintf(path, cap, "%s/%08x.jsonl", dir, job);
	}
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (fd < 0)
		return gw_fail(why, -errno, "cannot keep the job's history in '%s': %s; name another file with -record, or 'none'", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return gw_fail(why, -EINVAL, "'%s' is no regular file, as a history is one; name another with -record, or 'none'", path);
	if (pread(fd, &letter, 1, 0) == 1 && letter != '{')
		return gw_fail(why, -EEXIST, "'%s' is there and holds no history; name another file with -record", path);
	flock(fd, LOCK_SH | LOCK_NB); /* who has locked it otherwise does not hold us up */
	/* a job that is continued goes on with its history, on a line of its own */
	if (st.st_size && pread(fd, &letter, 1, st.st_size - 1) == 1 && letter != '\n' && write(fd, "\n", 1) < 0)
		return gw_fail(why, -errno, "'%s' cannot be written: %s", path, strerror(errno));
	if (own_dir >= 0)
		prune(own_dir); /* not ours, which is locked now */
	code = fd;
	fd = -1;
	return code;
}

static void say(int fd, struct scribe_said *said)
{
	size_t done = 0;

	while (done < sizeof(*said)) {
		ssize_t n = write(fd, (const char *)said + done, sizeof(*said) - done);

		if (n < 0 && errno != EINTR)
			_exit(1); /* mpirun has gone */
		done += n > 0 ? (size_t)n : 0;
	}
}

static int write_all(int fd, const char *text, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

_Noreturn void scribe_file(int fd, const char *where, uint32_t job)
{
	static struct scribe_said said;
	static char text[256 << 10];
	struct gw_error why = { 0 };
	struct stat st;
	int file = open_file(where, job, said.path, sizeof(said.path), &why);
	ssize_t n;

	if (file < 0) {
		said.code = file;
		snprintf(said.why, sizeof(said.why), "%s", why.text);
		say(fd, &said);
		_exit(1);
	}
	if (chdir("/") < 0) /* no directory is kept from being unmounted */
		gw_log(GW_INFO, "no way to /: %s", strerror(errno));
	said.size = fstat(file, &st) == 0 ? (uint64_t)st.st_size : 0; /* a job that is continued goes on with its history */
	say(fd, &said);
	while ((n = read(fd, text, sizeof(text))) > 0 || (n < 0 && errno == EINTR)) {
		said.code = n > 0 ? write_all(file, text, (size_t)n) : 0;
		if (said.code < 0) {
			snprintf(said.why, sizeof(said.why), "%s", strerror(-said.code));
			say(fd, &said);
			_exit(1);
		}
	}
	_exit(0);
}
