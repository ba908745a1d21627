/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory files: memfd, files of /dev/shm that have no name any more, and files of any file system that have no name and are mapped.
 * Nothing but the rank's own descriptors and mappings leads to one, so it moves by contents: what is in it comes behind the pages,
 * without its holes. Those of reserved huge pages, and of another file system, are of ordinary memory from then on.
 *
 * The shell makes each as a memfd when the image's head is there, and parks it above the numbers that the rank uses; mappings
 * and descriptors are made of it, and seals come last, since they forbid what is done to it before.
 */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MEMFD "/memfd:"
#define SHM   "/dev/shm/"
#define GONE  " (deleted)"
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC        0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#define NAME_MAX_ 249 /* of memfd_create(2) */

/* ---- source ------------------------------------------------------------------------------------------------------ */

bool ct_is_deleted(const char *link)
{
	size_t len = strlen(link), gone = strlen(GONE);

	return len > gone && strcmp(link + len - gone, GONE) == 0;
}

bool ct_memory_is(const char *link)
{
	if (!ct_is_deleted(link) || ct_is_segment(link))
		return false;
	return strncmp(link, MEMFD, strlen(MEMFD)) == 0 || strncmp(link, SHM, strlen(SHM)) == 0;
}

static void bare_name(const char *link, char bare[NAME_MAX_ + 1])
{
	size_t prefix = strncmp(link, MEMFD, strlen(MEMFD)) == 0 ? strlen(MEMFD) : strncmp(link, SHM, strlen(SHM)) == 0 ? strlen(SHM) : 0;

	snprintf(bare, NAME_MAX_ + 1, "%.*s", (int)(strlen(link) - prefix - strlen(GONE)), link + prefix);
}

/* Some file systems say another device of a mapping than of a descriptor: then the names must be the same too. */
static bool memory_find(const struct ct_snapshot *s, uint64_t dev, uint64_t ino, const char *bare, uint32_t *index)
{
	for (uint32_t i = 0; i < s->memories.n; i++) {
		const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &s->memories, i);

		if (m->ino == ino && (m->dev == dev || strcmp(ct_snapshot_text(s, m->name), bare) == 0)) {
			*index = i;
			return true;
		}
	}
	return false;
}

bool ct_memory_has(const struct ct_snapshot *s, const char *link, const struct stat *st)
{
	char bare[NAME_MAX_ + 1];
	uint32_t index;

	if (!ct_is_deleted(link))
		return false;
	bare_name(link, bare);
	return memory_find(s, st->st_dev, st->st_ino, bare, &index);
}

static int memory_add(struct ct_snapshot *s, uint64_t dev, uint64_t ino, const char *link, uint32_t *index)
{
	struct ct_img_memory *m;
	char bare[NAME_MAX_ + 1];

	bare_name(link, bare);
	if (memory_find(s, dev, ino, bare, index))
		return 0;
	*index = (uint32_t)s->memories.n;
	m = ct_vec_add(&s->memories, 1);
	if (!m)
		return -ENOMEM;
	*m = (struct ct_img_memory){ .dev = dev, .ino = ino, .mode = 0777, .name = ct_snapshot_string(s, bare) };
	return !bare[0] || m->name ? 0 : -ENOMEM;
}

static void size_set(struct ct_img_memory *m, const struct stat *st)
{
	m->size = (uint64_t)st->st_size;
	m->bytes = (uint64_t)st->st_blocks * 512;
	m->mode = st->st_mode & 07777;
	m->is_seen = 1;
}

/* A mapping whose descriptor is closed: only some may look at the file behind it. Others know what is mapped; the rest of it
 * can be reached by enlarging the mapping only, and would be empty then. */
int ct_memory_map(struct ct_rank *r, struct ct_snapshot *s, const struct ct_map *map, struct ct_img_vma *v)
{
	struct ct_img_memory *m;
	char path[96];
	struct stat st;
	int rc = memory_add(s, makedev(map->dev_major, map->dev_minor), map->ino, map->name, &v->file);

	if (rc < 0)
		return rc;
	v->kind = map->is_shared ? CT_VMA_SHARED_MEMORY : CT_VMA_MEMORY;
	v->offset = map->offset;
	m = CT_AT(struct ct_img_memory, &s->memories, v->file);
	m->is_shared |= map->is_shared;
	if (m->is_seen)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", (int)r->pid, (unsigned long long)map->start,
	         (unsigned long long)map->end);
	if (stat(path, &st) == 0) {
		size_set(m, &st);
	} else if (m->size < map->offset + (map->end - map->start)) {
		m->size = map->offset + (map->end - map->start);
		m->bytes = m->size;
	}
	return 0;
}

int ct_memory_fd(struct ct_rank *r, struct ct_snapshot *s, struct ct_img_fd *fd, const char *link, const struct stat *st)
{
	gw_autoclose int copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd->number, 0);
	int rc = copy < 0 ? -errno : memory_add(s, st->st_dev, st->st_ino, link, &fd->file), seals;
	struct ct_img_memory *m;
	struct statfs fs;

	if (rc < 0)
		return rc;
	if (fstatfs(copy, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		fd->status_flags &= ~(uint32_t)O_DIRECT; /* which a memory file may not know */
	if ((fd->status_flags & O_TMPFILE) == O_TMPFILE)
		fd->status_flags &= ~(uint32_t)O_TMPFILE; /* it was made so */
	m = CT_AT(struct ct_img_memory, &s->memories, fd->file);
	size_set(m, st);
	seals = fcntl(copy, F_GET_SEALS);
	m->seals = seals > 0 ? (uint32_t)seals : 0;
	fd->kind = CT_FD_MEMORY;
	return 0;
}

/* Of a file that the rank has mapped privately only, and not open, a copy is as good: as of a library that was replaced. */
static bool is_written(const struct ct_snapshot *s, uint32_t i)
{
	for CT_EACH(const struct ct_img_fd, fd, &s->fds)
		if (fd->kind == CT_FD_MEMORY && fd->file == i)
			return true;
	return CT_AT(struct ct_img_memory, &s->memories, i)->is_shared;
}

/* Return -ENOENT: it is mapped only, and we may not look at it but through the mappings. Of one that is open more may be written
 * than is mapped, so that it can be read is a condition. */
static int file_open(const struct ct_rank *r, const struct ct_snapshot *s, uint32_t i)
{
	char path[96];
	int fd;

	for CT_EACH(const struct ct_img_fd, f, &s->fds)
		if (f->kind == CT_FD_MEMORY && f->file == i) {
			snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)r->pid, f->number);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			return fd < 0 ? -errno : fd;
		}
	for CT_EACH(const struct ct_img_vma, v, &s->vmas)
		if ((v->kind == CT_VMA_MEMORY || v->kind == CT_VMA_SHARED_MEMORY) && v->file == i) {
			snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", (int)r->pid, (unsigned long long)v->start,
			         (unsigned long long)v->end);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd >= 0 || (errno != EPERM && errno != EACCES && errno != ENOENT))
				return fd < 0 ? -errno : fd;
		}
	return -ENOENT;
}

/* What a memory file is called by: some file systems, as overlayfs and btrfs, say another device of a descriptor than of a mapping. */
struct identity {
	uint64_t fd_dev, fd_ino;   /* 0: we may not look at it but through the mappings */
	uint64_t map_dev, map_ino; /* 0: it cannot be mapped */
};

/* It is mapped here for a moment: what is said of that can be compared with what is said of mappings elsewhere. Where that fails it is
 * taken to be called there as it is of a descriptor: on most file systems it is, and that somebody has it must not go unseen. */
static void identity_read(int fd, struct identity *id)
{
	struct ct_maps own = { 0 };
	const struct ct_map *map;
	struct statfs fs;
	struct stat st;
	void *at;

	*id = (struct identity){ 0 };
	if (fstat(fd, &st) == 0) {
		id->fd_dev = id->map_dev = st.st_dev;
		id->fd_ino = id->map_ino = st.st_ino;
	}
	if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		return; /* says the same of both, and a page of it is large, and may be the last */
	at = mmap(NULL, CT_PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED) {
		if (errno == ENODEV)
			id->map_dev = id->map_ino = 0;
		return;
	}
	ct_vec_init(&own.list, sizeof(struct ct_map));
	map = ct_maps_read(&own, getpid(), false) == 0 ? ct_maps_find(&own, (uint64_t)(uintptr_t)at) : NULL;
	if (map) {
		id->map_dev = makedev(map->dev_major, map->dev_minor);
		id->map_ino = map->ino;
	}
	ct_maps_fini(&own);
	munmap(at, CT_PAGE);
}

static bool is_open_as(pid_t pid, int number, const struct identity *id)
{
	gw_autoclose int fd = -1;
	struct identity its;
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, number);
	if (id->fd_ino)
		return stat(path, &st) == 0 && st.st_ino == id->fd_ino && st.st_dev == id->fd_dev;
	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return false;
	identity_read(fd, &its);
	return its.map_ino == id->map_ino && its.map_dev == id->map_dev;
}

/* Two processes that share it would have two of them. Of one that we may not look at nothing is known. */
static bool has_it(pid_t pid, const struct identity *id)
{
	struct ct_maps maps = { 0 };
	bool is_there = false;
	struct ct_vec fds;

	ct_vec_init(&maps.list, sizeof(struct ct_map));
	ct_vec_init(&fds, sizeof(int));
	if (id->map_ino && ct_maps_read(&maps, pid, false) == 0)
		for CT_EACH(const struct ct_map, map, &maps.list)
			is_there |= map->ino == id->map_ino && makedev(map->dev_major, map->dev_minor) == id->map_dev;
	if (!is_there && ct_proc_ids(pid, "fd", &fds) == 0)
		for CT_EACH(const int, n, &fds) {
			char path[64], link[4096];

			snprintf(path, sizeof(path), "fd/%d", *n);
			is_there |= ct_proc_link(pid, path, link, sizeof(link)) >= 0 && ct_is_deleted(link) && is_open_as(pid, *n, id);
		}
	ct_maps_fini(&maps);
	ct_vec_fini(&fds);
	return is_there;
}

static int check_one(struct ct_rank *r, const struct ct_snapshot *s, uint32_t i, const struct ct_vec *pids, struct gw_error *why)
{
	const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &s->memories, i);
	const char *name = ct_snapshot_text(s, m->name);
	struct identity id = { .map_dev = m->dev, .map_ino = m->ino };
	int fd = file_open(r, s, i), rc = 0;

	if (fd < 0 && fd != -ENOENT)
		return ct_hold(r, why, CT_HOLD_STATE, 0, "its memory file '%s' cannot be read: %s; what it holds would be lost", name, strerror(-fd));
	if (fd >= 0) {
		identity_read(fd, &id);
		close(fd);
	}
	for CT_EACH(const int, pid, pids)
		if (rc == 0 && *pid != r->pid && is_written(s, i) && has_it(*pid, &id))
			rc = ct_hold(r, why, CT_HOLD_STATE, 0, "process %d has its memory file '%s' too: after a move each would have one of its own; "
			             "end that process, or keep the rank with 'godwit pin'", *pid, name);
	return rc;
}

int ct_memory_check(struct ct_rank *r, const struct ct_snapshot *s, struct gw_error *why)
{
	struct ct_vec pids;
	int rc = 0;

	if (!s->memories.n)
		return 0;
	ct_vec_init(&pids, sizeof(int));
	ct_proc_ids(getpid(), "../", &pids);
	for (uint32_t i = 0; rc == 0 && i < s->memories.n; i++)
		rc = check_one(r, s, i, &pids, why);
	ct_vec_fini(&pids);
	return rc;
}

/* Where the rank has mapped what is at @offset of file @i, or what comes next; a private mapping may have changed it. */
static const struct ct_img_vma *mapped_at(const struct ct_rank *r, uint32_t i, uint64_t *offset)
{
	const struct ct_img_vma *best = NULL;
	uint64_t at = UINT64_MAX;

	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas) {
		uint64_t from = v->offset > *offset ? v->offset : *offset;

		if ((v->kind != CT_VMA_MEMORY && v->kind != CT_VMA_SHARED_MEMORY) || v->file != i ||
		    v->offset + (v->end - v->start) <= *offset)
			continue;
		if (from < at || (from == at && v->kind == CT_VMA_SHARED_MEMORY)) {
			at = from;
			best = v;
		}
	}
	*offset = at;
	return best;
}

/* Through the rank's own mappings, page by page: one that is beyond the file's end cannot be read, and one of zeroes is a hole. */
static ssize_t mapped_read(const struct ct_rank *r, uint32_t i, uint64_t *offset, unsigned char *buf, size_t cap)
{
	const struct ct_img_vma *v;
	uint64_t at = *offset;
	size_t n = 0;

	while (n == 0 && (v = mapped_at(r, i, &at)) != NULL) {
		*offset = at;
		for (; n + CT_PAGE <= cap && at < v->offset + (v->end - v->start); at += CT_PAGE) {
			unsigned char *to = buf + n;

			if (pread(r->mem_fd, to, CT_PAGE, (off_t)(v->start + (at - v->offset))) == (ssize_t)CT_PAGE && !ct_is_zero_page(to))
				n += CT_PAGE;
			else if (n)
				break;
			else
				*offset = at + CT_PAGE;
		}
	}
	return (ssize_t)n;
}

/**
 * ct_memory_next - the next bytes of the memory files of a frozen rank, as one section
 * Return: bytes written to @buf, 0 when all are out.
 */
ssize_t ct_memory_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why)
{
	for (; r->memory_at < r->snap.memories.n; r->memory_at++, r->memory_offset = 0) {
		const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &r->snap.memories, r->memory_at);
		struct ct_img_bytes b = { .file = r->memory_at, .is_memory = 1 };
		struct ct_bytes from = { .fd = -1, .size = m->size, .offset = r->memory_offset, .name = ct_snapshot_text(&r->snap, m->name) };
		ssize_t n;

		if (r->memory_fd < 0)
			r->memory_fd = file_open(r, &r->snap, r->memory_at);
		if (r->memory_fd < 0 && r->memory_fd != -ENOENT)
			return gw_fail(why, r->memory_fd, "cannot read the memory file '%s' of pid %d: %s", from.name, (int)r->pid,
			               strerror(-r->memory_fd));
		from.fd = r->memory_fd;
		if (from.fd >= 0) {
			n = ct_bytes_next(&from, &b, buf, cap, why);
		} else {
			n = mapped_read(r, r->memory_at, &from.offset, (unsigned char *)buf + CT_BYTES_HEAD, cap - CT_BYTES_HEAD);
			b.offset = from.offset;
			from.offset += (uint64_t)n;
			n = n ? ct_bytes_head(&b, buf, (size_t)n) : 0;
		}
		r->memory_offset = from.offset;
		if (n != 0)
			return n;
		if (r->memory_fd >= 0)
			close(r->memory_fd);
		r->memory_fd = -1;
	}
	return 0;
}

void ct_memory_rewind(struct ct_rank *r)
{
	if (r->memory_fd >= 0)
		close(r->memory_fd);
	r->memory_fd = -1;
	r->memory_at = 0;
	r->memory_offset = 0;
}

/* ---- destination ------------------------------------------------------------------------------------------------- */

uint32_t ct_memory_number(const struct ct_rank *r, uint32_t i)
{
	uint32_t pipes = 0;

	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds)
		if ((fd->kind == CT_FD_PIPE || fd->kind == CT_FD_PAIR) && fd->plumb > pipes)
			pipes = fd->plumb;
	return (uint32_t)r->plumb_fd[0] + 16 + 2 * (pipes + 1) + i;
}

uint32_t ct_memory_source(const struct ct_rank *r, const struct ct_img_vma *v)
{
	const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &r->snap.memories, v->file);
	bool is_read_only = v->kind == CT_VMA_SHARED_MEMORY && (m->seals & F_SEAL_WRITE);

	return ct_memory_number(r, v->file) + (is_read_only ? (uint32_t)r->snap.memories.n : 0);
}

int ct_memory_make(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *c = &r->remote;

	for (uint32_t i = 0; i < r->snap.memories.n; i++) {
		const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &r->snap.memories, i);
		const char *name = ct_snapshot_text(&r->snap, m->name);
		uint32_t to = ct_memory_number(r, i);
		int rc = ct_restore_room(r, 8, NAME_MAX_ + 128, why);
		char link[32];

		if (rc < 0)
			return rc;
		/* the shell has no descriptor but the parked ones, so the lowest is 0 */
		CT_CALL(c, "make a memory file", CT_CALL_EQUAL, SYS_memfd_create, ct_remote_data(c, name, strlen(name) + 1),
		        MFD_CLOEXEC | MFD_ALLOW_SEALING | (m->seals & F_SEAL_EXEC ? MFD_NOEXEC_SEAL : MFD_EXEC))->expect = 0;
		CT_CALL(c, "park a memory file", CT_CALL_EQUAL, SYS_dup3, 0, to, O_CLOEXEC)->expect = to;
		CT_CALL(c, "close", CT_CALL_OK, SYS_close, 0);
		CT_CALL(c, "size a memory file", CT_CALL_OK, SYS_ftruncate, to, m->size);
		if (!(m->seals & F_SEAL_WRITE))
			continue;
		/* it cannot be sealed while a mapping might become writable: those are made through one that is not */
		snprintf(link, sizeof(link), "/proc/self/fd/%u", to);
		to += (uint32_t)r->snap.memories.n;
		CT_CALL(c, "open a memory file", CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_remote_data(c, link, sizeof(link)),
		        O_RDONLY | O_CLOEXEC)->expect = 0;
		CT_CALL(c, "park a memory file", CT_CALL_EQUAL, SYS_dup3, 0, to, O_CLOEXEC)->expect = to;
		CT_CALL(c, "close", CT_CALL_OK, SYS_close, 0);
	}
	return 0;
}

int ct_memory_write(struct ct_rank *r, const struct ct_img_bytes *b, const void *bytes, size_t len, struct gw_error *why)
{
	ssize_t n;

	if (r->memory_fd < 0 || r->memory_at != b->file) {
		ct_memory_rewind(r);
		r->memory_at = b->file;
		r->memory_fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, ct_memory_number(r, b->file), 0);
		if (r->memory_fd < 0)
			return gw_fail(why, -errno, "cannot reach a memory file of the shell: %s", strerror(errno));
	}
	n = pwrite(r->memory_fd, bytes, len, (off_t)b->offset);
	if (n != (ssize_t)len)
		return gw_fail(why, n < 0 ? -errno : -ENOSPC, "cannot fill the memory file '%s': %s",
		               ct_snapshot_text(&r->snap, CT_AT(struct ct_img_memory, &r->snap.memories, b->file)->name),
		               strerror(n < 0 ? errno : ENOSPC));
	return 0;
}

/* All mappings and descriptors are there: what is forbidden from now on. */
int ct_memory_seal(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *c = &r->remote;

	ct_memory_rewind(r);
	for (uint32_t i = 0; i < r->snap.memories.n; i++) {
		const struct ct_img_memory *m = CT_AT(struct ct_img_memory, &r->snap.memories, i);
		int rc = ct_restore_room(r, 2, 0, why);

		if (rc < 0)
			return rc;
		CT_CALL(c, "set a memory file's mode", CT_CALL_OK, SYS_fchmod, ct_memory_number(r, i), m->mode);
		if (m->seals)
			CT_CALL(c, "seal a memory file", CT_CALL_OK, SYS_fcntl, ct_memory_number(r, i), F_ADD_SEALS, m->seals);
	}
	return 0;
}
