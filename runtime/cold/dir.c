/* SPDX-License-Identifier: BSD-2-Clause */
/* The directory that holds the checkpoints of a job: one mpirun at a time writes there, and removes what is not wanted any more. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cold/cold.h"

void cold_tree_remove(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *e;

	while (d && (e = readdir(d)))
		unlinkat(fd, e->d_name, 0);
	if (d)
		closedir(d);
	else if (fd >= 0)
		close(fd);
	unlinkat(dirfd, name, AT_REMOVEDIR);
}

/* Every name in the directory, to @on_name */
static void walk(int dirfd, void (*on_name)(void *ctx, const char *name), void *ctx)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a position of its own */
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *e;

	if (!d && fd >= 0)
		close(fd);
	while (d && (e = readdir(d)))
		on_name(ctx, e->d_name);
	if (d)
		closedir(d);
}

/* ---- who may write ----------------------------------------------------------------------------------------------------- */

static void remove_leftover(void *dir, const char *name)
{
	const struct cold_dir *d = dir;

	if (strncmp(name, COLD_LEFTOVER, strlen(COLD_LEFTOVER)) == 0 && unlinkat(d->fd, name, 0) < 0)
		cold_tree_remove(d->fd, name);
}

/* Who has the lock has written who it is */
static int in_use(const struct cold_dir *d, const char *path, struct gw_error *why)
{
	char who[200] = "";
	ssize_t n = pread(d->lock, who, sizeof(who) - 1, 0);

	who[n > 0 ? strcspn(who, "\n") : 0] = '\0';
	return gw_fail(why, -EBUSY, "'%s' is in use by another mpirun%s%s; use another directory, or wait until that job has ended", path,
	               who[0] ? ": " : "", who);
}

int cold_dir_open(struct cold_dir *d, const char *path, struct gw_error *why)
{
	char host[128] = "", text[200];
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	bool is_locked;
	int code = 0, n;

	*d = (struct cold_dir){ .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .lock = -1 };
	if (d->fd < 0)
		return gw_fail(why, -errno, "'%s' cannot be opened: %s", path, strerror(errno));
	d->lock = openat(d->fd, COLD_LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	is_locked = d->lock >= 0 && fcntl(d->lock, F_OFD_SETLK, &whole) == 0; /* of hosts, too, where the file system has such */
	if (d->lock < 0)
		code = gw_fail(why, -errno, "nothing can be written to '%s': %s", path, strerror(errno));
	else if (!is_locked && (errno == EAGAIN || errno == EACCES))
		code = in_use(d, path, why);
	if (code < 0)
		cold_dir_close(d);
	if (code < 0 || !is_locked) /* a file system without locks: what is somebody's is not known */
		return code;
	gethostname(host, sizeof(host) - 1);
	n = snprintf(text, sizeof(text), "process %d on %s\n", (int)getpid(), host);
	if (ftruncate(d->lock, 0) == 0 && pwrite(d->lock, text, (size_t)n, 0) < 0)
		gw_log(GW_DEBUG, "%s/" COLD_LOCK ": %s", path, strerror(errno)); /* a full disk: the lock holds, its owner has no name */
	walk(d->fd, remove_leftover, d);
	return 0;
}

void cold_dir_close(struct cold_dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	if (d->lock >= 0)
		close(d->lock);
	d->fd = d->lock = -1;
}

bool cold_dir_is_at(const struct cold_dir *d, const char *path)
{
	struct stat mine, there;

	return d->fd >= 0 && fstat(d->fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_dev == there.st_dev &&
	       mine.st_ino == there.st_ino;
}

/* ---- what is kept ------------------------------------------------------------------------------------------------------ */

struct cuts {
	const char *job;
	uint64_t *numbers;
	size_t n, cap;
};

static void add_cut(void *ctx, const char *name)
{
	struct cuts *c = ctx;
	size_t len = strlen(c->job);
	unsigned long long number;
	char end;

	if (strncmp(name, "cut-", 4) != 0 || strncmp(name + 4, c->job, len) != 0 || sscanf(name + 4 + len, "-%llu%c", &number, &end) != 1)
		return;
	if (c->n == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 16;
		uint64_t *more = realloc(c->numbers, cap * sizeof(*more));

		if (!more)
			return; /* it stays for the next time */
		c->numbers = more;
		c->cap = cap;
	}
	c->numbers[c->n++] = number;
}

static int newest_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

void cold_cut_name(char buf[COLD_NAME_MAX], const char *job, uint64_t number)
{
	snprintf(buf, COLD_NAME_MAX, "cut-%s-%llu", job, (unsigned long long)number);
}

void cold_dir_prune(const struct cold_dir *d, const char *job, uint32_t keep)
{
	struct cuts c = { .job = job };
	char name[COLD_NAME_MAX];

	walk(d->fd, add_cut, &c);
	if (c.n)
		qsort(c.numbers, c.n, sizeof(*c.numbers), newest_first);
	for (size_t i = keep; i < c.n; i++) {
		cold_cut_name(name, job, c.numbers[i]);
		cold_tree_remove(d->fd, name);
	}
	free(c.numbers);
}

struct newest {
	int dirfd;
	const char *job;
	uint64_t before, number;
	char *name;
};

static void look_at_cut(void *ctx, const char *name)
{
	struct newest *n = ctx;
	bool is_cut = strncmp(name, "cut-", 4) == 0 && strlen(name) < COLD_NAME_MAX;
	gw_autoclose int fd = is_cut ? openat(n->dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	const char *job;
	uint64_t number;
	json_t *m;

	if (fd < 0 || cold_manifest_read(fd, name, &m, NULL) < 0)
		return;
	number = (uint64_t)json_integer_value(json_object_get(m, "checkpoint"));
	job = json_string_value(json_object_get(m, "job"));
	if (number < n->before && number > n->number && job && (!n->job || strcmp(job, n->job) == 0)) {
		n->number = number;
		strcpy(n->name, name);
	}
	json_decref(m);
}

uint64_t cold_dir_newest(int dirfd, const char *job, uint64_t before, char name[COLD_NAME_MAX])
{
	struct newest n = { dirfd, job, before, 0, name };

	walk(dirfd, look_at_cut, &n);
	return n.number;
}

int cold_dir_read(int dirfd, const char *dir, json_t **m, char cut[COLD_NAME_MAX], struct gw_error *why)
{
	int code = cold_manifest_read(dirfd, dir, m, why);
	gw_autoclose int fd = code == -EBADMSG && cold_dir_newest(dirfd, NULL, UINT64_MAX, cut) ?
	                      openat(dirfd, cut, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd >= 0 && cold_manifest_read(fd, cut, m, NULL) == 0 ? 1 : code;
}

uint64_t cold_dir_last(int dirfd, const char *job)
{
	struct cuts c = { .job = job };
	uint64_t last = 0;

	walk(dirfd, add_cut, &c);
	for (size_t i = 0; i < c.n; i++)
		last = c.numbers[i] > last ? c.numbers[i] : last;
	free(c.numbers);
	return last;
}

/* ---- a job that has ended well ------------------------------------------------------------------------------------------ */

void cold_dir_begin(int dirfd)
{
	unlinkat(dirfd, COLD_ENDED, 0);
}

void cold_dir_end(const struct cold_dir *d, const char *job)
{
	gw_autoclose int fd = openat(d->fd, COLD_ENDED, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, job, strlen(job)) != (ssize_t)strlen(job)) {
		gw_log(GW_WARN, COLD_ENDED " of job %s cannot be written: %s", job, strerror(errno));
		cold_dir_begin(d->fd);
	}
}

bool cold_dir_has_ended(int dirfd, const char *job)
{
	gw_autoclose int fd = openat(dirfd, COLD_ENDED, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char said[COLD_NAME_MAX] = "";

	return fd >= 0 && read(fd, said, sizeof(said) - 1) > 0 && strcmp(said, job) == 0;
}
