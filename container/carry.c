/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files that travel with a rank: those that it has open and that the destination does not see, where that is wanted.
 *
 * The source sends what is in them behind the pages, while the rank stands; holes are not sent. The destination writes it
 * into files of random names beside their places, which its guard has made and removes unless they have got their names;
 * that is done right before the thaw. The source keeps its own: others may use them there.
 */
#include "container/proof.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- source ------------------------------------------------------------------------------------------------------ */

void ct_rank_may_carry(struct ct_rank *r, bool may)
{
	r->may_carry = may;
	ct_carried_fini(r);
}

/* any descriptor of it that can be read through; the program's own may be for writing only */
static int open_there(const struct ct_rank *r, uint32_t file)
{
	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds)
		if (fd->kind == CT_FD_FILE && fd->file == file) {
			char path[64];
			int n;

			snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)r->pid, fd->number);
			n = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
			return n < 0 ? -errno : n;
		}
	return -ENOENT;
}

ssize_t ct_bytes_head(const struct ct_img_bytes *b, void *buf, size_t n)
{
	struct ct_img_section h = { .magic = CT_IMAGE_MAGIC, .type = CT_SECTION_BYTES, .version = CT_IMAGE_VERSION, .count = 1,
		.length = sizeof(*b) + n };

	memcpy(buf, &h, sizeof(h));
	memcpy((char *)buf + sizeof(h), b, sizeof(*b));
	return (ssize_t)(CT_BYTES_HEAD + n);
}

ssize_t ct_bytes_next(struct ct_bytes *s, struct ct_img_bytes *b, void *buf, size_t cap, struct gw_error *why)
{
	off_t from = s->offset < s->size ? lseek(s->fd, (off_t)s->offset, SEEK_DATA) : -1, hole;
	size_t room = cap - CT_BYTES_HEAD;
	ssize_t n;

	if (from < 0 || (uint64_t)from >= s->size)
		return 0;
	hole = lseek(s->fd, from, SEEK_HOLE);
	if (hole > from && (uint64_t)(hole - from) < room)
		room = (size_t)(hole - from);
	if (s->size - (uint64_t)from < room)
		room = (size_t)(s->size - (uint64_t)from);
	n = pread(s->fd, (char *)buf + CT_BYTES_HEAD, room, from);
	if (n <= 0)
		return gw_fail(why, n < 0 ? -errno : -EIO, "cannot read '%s', which is to travel with the rank: %s", s->name,
		               n < 0 ? strerror(errno) : "it became shorter");
	b->offset = (uint64_t)from;
	s->offset = (uint64_t)from + (uint64_t)n;
	return ct_bytes_head(b, buf, (size_t)n);
}

/**
 * ct_carry_next - the next bytes of the files of a frozen rank that are carried, as one section
 * Return: bytes written to @buf, 0 when all are out.
 */
ssize_t ct_carry_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why)
{
	for (; r->carry_at < r->snap.files.n; r->carry_at++, r->carry_offset = 0) {
		const struct ct_img_file *file = CT_AT(struct ct_img_file, &r->snap.files, r->carry_at);
		struct ct_bytes from = { .size = file->size, .offset = r->carry_offset, .name = ct_snapshot_text(&r->snap, file->path) };
		struct ct_img_bytes b = { .file = r->carry_at };
		ssize_t n;

		if (!(file->flags & CT_IMG_FILE_CARRIED))
			continue;
		if (r->carry_fd < 0)
			r->carry_fd = open_there(r, r->carry_at);
		if (r->carry_fd < 0)
			return gw_fail(why, r->carry_fd, "cannot read '%s', which is to travel with the rank: %s", from.name, strerror(-r->carry_fd));
		from.fd = r->carry_fd;
		n = ct_bytes_next(&from, &b, buf, cap, why);
		r->carry_offset = from.offset;
		if (n != 0)
			return n;
		close(r->carry_fd);
		r->carry_fd = -1;
	}
	return 0;
}

void ct_carry_forget(struct ct_rank *r)
{
	if (r->carry_fd >= 0)
		close(r->carry_fd);
	r->carry_fd = -1;
	r->carry_at = 0;
	r->carry_offset = 0;
	ct_memory_rewind(r);
}

/* ---- destination ------------------------------------------------------------------------------------------------- */

struct ct_carried *ct_carried_find(const struct ct_rank *r, const struct ct_img_file *file)
{
	for CT_EACH(struct ct_carried, c, &r->carried)
		if (c->dev == file->dev && c->ino == file->ino)
			return c;
	return NULL;
}

void ct_carried_fini(struct ct_rank *r)
{
	for CT_EACH(struct ct_carried, c, &r->carried) {
		if (c->is_placed)
			unlink(c->path);
		if (c->fd >= 0)
			close(c->fd);
		free(c->path);
		free(c->temp);
	}
	ct_vec_fini(&r->carried);
	ct_vec_init(&r->carried, sizeof(struct ct_carried));
}

void ct_carried_keep(struct ct_rank *r)
{
	for CT_EACH(struct ct_carried, c, &r->carried)
		c->is_placed = false;
	ct_carried_fini(r);
}

int ct_carried_write(struct ct_rank *r, const struct ct_img_bytes *b, const void *bytes, size_t len, struct gw_error *why)
{
	const struct ct_img_file *file = CT_AT(struct ct_img_file, &r->snap.files, b->file);
	struct ct_carried *c = ct_carried_find(r, file);
	ssize_t n;

	if (!c || b->offset > file->size || len > file->size - b->offset)
		return gw_fail(why, -EBADMSG, "the image is damaged: bytes of a file that does not travel, or beyond its end");
	n = pwrite(c->fd, bytes, len, (off_t)b->offset);
	if (n != (ssize_t)len)
		return gw_fail(why, n < 0 ? -errno : -ENOSPC, "cannot write '%s', which travels with the rank: %s", c->path,
		               strerror(n < 0 ? errno : ENOSPC));
	return 0;
}

/* All bytes are there, and the rank has it open: size, mode, owner and times as they were. */
int ct_carried_finish(struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_file, file, &r->snap.files) {
		struct ct_carried *c = file->flags & CT_IMG_FILE_CARRIED ? ct_carried_find(r, file) : NULL;
		struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = file->mtime_s, .tv_nsec = file->mtime_ns } };

		if (!(file->flags & CT_IMG_FILE_CARRIED))
			continue;
		if (!c)
			return gw_fail(why, -EBADMSG, "the image is damaged: a file travels that was not asked for");
		c->is_used = true;
		if (ftruncate(c->fd, (off_t)file->size) < 0 ||
		    ((file->uid != geteuid() || file->gid != getegid()) && fchown(c->fd, file->uid, file->gid) < 0) ||
		    fchmod(c->fd, file->mode & 07777) < 0 || futimens(c->fd, t) < 0)
			return gw_fail(why, -errno, "cannot finish '%s', which travels with the rank: %s", c->path, strerror(errno));
	}
	return 0;
}

/* ---- what was left behind here ----------------------------------------------------------------------------------- */

/* Files that were carried away from here, as they were then: of this whole process, whichever rank it was. One that has not
 * changed since is the job's own older copy, and may give way when the file comes back. */
static struct ct_vec behind;
struct left { char *path; struct ct_contents key; };

static void key_of(struct ct_contents *c, const struct stat *st)
{
	ct_contents_key(c, st);
	c->ctime_s = c->ctime_ns = 0; /* changes with a name, too */
}

static struct left *left_find(const char *path)
{
	behind.size = sizeof(struct left);
	for CT_EACH(struct left, l, &behind)
		if (strcmp(l->path, path) == 0)
			return l;
	return NULL;
}

bool ct_carried_may_replace(const char *path, const struct stat *st)
{
	const struct left *l = left_find(path);
	struct ct_contents key;
	int fd, code;

	key_of(&key, st);
	if (!l || memcmp(&l->key, &key, sizeof(key)) != 0)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return false;
	code = fcntl(fd, F_SETLEASE, F_WRLCK) < 0 ? errno : 0; /* granted when nobody else has it open; some have no leases */
	close(fd);
	return code != EAGAIN;
}

void ct_carried_left(const char *path)
{
	struct left *l = left_find(path), fresh = { 0 };
	struct stat st;

	if (stat(path, &st) < 0)
		return;
	if (!l) {
		fresh.path = strdup(path);
		if (!fresh.path || ct_vec_append(&behind, &fresh, 1) < 0) {
			free(fresh.path); /* then it will be in its own way: a refusal that names it */
			return;
		}
		l = CT_AT(struct left, &behind, behind.n - 1);
	}
	key_of(&l->key, &st);
}

/**
 * ct_rank_settle_files - GIVEN came: what was carried gets its names, before the rank runs
 * Never over a file that is not the job's own older copy. A rank that is not thawed then takes them away with it.
 */
int ct_rank_settle_files(struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(struct ct_carried, c, &r->carried) {
		struct stat st;
		unsigned flags = RENAME_NOREPLACE;

		if (!c->is_used || c->is_deleted) { /* it has no name any more, or was not needed */
			unlink(c->temp);
			continue;
		}
		if (stat(c->path, &st) == 0 && ct_carried_may_replace(c->path, &st))
			flags = 0;
		if (renameat2(AT_FDCWD, c->temp, AT_FDCWD, c->path, flags) < 0)
			return gw_fail(why, -errno, "'%s', which travels with the rank, cannot be put in its place: %s", c->path,
			               strerror(errno));
		c->is_placed = flags != 0;
	}
	return 0;
}
