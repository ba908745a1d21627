/* SPDX-License-Identifier: BSD-2-Clause */
/* Making a rank out of an empty shell: its address space first; when the pages are there, all the rest. */
#include "container/spans.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

int ct_restore_run(struct ct_rank *r, struct gw_error *why)
{
	int rc = ct_remote_run(&r->remote, r->pid, &r->shell_regs, why);

	ct_remote_reset(&r->remote);
	return rc;
}

/* room for @calls more, and @bytes of data; what is queued runs when there is none */
int ct_restore_room(struct ct_rank *r, size_t calls, size_t bytes, struct gw_error *why)
{
	if (ct_remote_has_room(&r->remote, calls, bytes))
		return 0;
	return ct_restore_run(r, why);
}

static uint64_t text(struct ct_rank *r, const char *s)
{
	return ct_remote_data(&r->remote, s, strlen(s) + 1);
}

/* ---- address space --------------------------------------------------------------------------------------------- */

static const struct { uint32_t advice; int madvice; } advices[] = {
	{ CT_VMA_HUGE, MADV_HUGEPAGE },         { CT_VMA_NOHUGE, MADV_NOHUGEPAGE },
	{ CT_VMA_DONTFORK, MADV_DONTFORK },     { CT_VMA_DONTDUMP, MADV_DONTDUMP },
	{ CT_VMA_WIPEONFORK, MADV_WIPEONFORK }, { CT_VMA_MERGEABLE, MADV_MERGEABLE },
	{ CT_VMA_RANDOM, MADV_RANDOM },         { CT_VMA_SEQUENTIAL, MADV_SEQUENTIAL },
};

/* Nobody, no tracer either, can write memory that is shared and closed to writing: it is closed when it has been filled. */
static bool is_closed_late(const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_SHARED_ANON && !(v->prot & PROT_WRITE);
}

static void map_one(struct ct_rank *r, const struct ct_img_vma *v, int fd)
{
	bool is_shared = v->kind == CT_VMA_SHARED_FILE || v->kind == CT_VMA_SHARED_ANON || v->kind == CT_VMA_SHARED_MEMORY;
	uint64_t flags = MAP_FIXED_NOREPLACE | (is_shared ?
	                                        MAP_SHARED : MAP_PRIVATE);

	bool was_writable = (v->advice & CT_VMA_ACCOUNT) && !(v->prot & PROT_WRITE) && !is_shared;

	if (fd < 0)
		flags |= MAP_ANONYMOUS;
	if (v->advice & CT_VMA_GROWSDOWN)
		flags |= MAP_GROWSDOWN | MAP_STACK;
	if (v->advice & CT_VMA_NORESERVE)
		flags |= MAP_NORESERVE;
	CT_CALL(&r->remote, "map memory", CT_CALL_EQUAL, SYS_mmap, v->start, v->end - v->start,
	        v->prot | (was_writable || is_closed_late(v) ? PROT_WRITE : 0), flags, (int64_t)fd, fd < 0 ? 0 : v->offset)->expect = v->start;
	if (was_writable)
		CT_CALL(&r->remote, "protect memory", CT_CALL_OK, SYS_mprotect, v->start, v->end - v->start, v->prot);
	for (size_t i = 0; i < GW_ARRAY_LEN(advices); i++)
		if (v->advice & advices[i].advice)
			CT_CALL(&r->remote, "advise", 0, SYS_madvise, v->start, v->end - v->start, advices[i].madvice);
}

static const char *file_of(const struct ct_snapshot *s, const struct ct_img_vma *v)
{
	bool is_file = v->kind == CT_VMA_FILE || v->kind == CT_VMA_SHARED_FILE;

	return is_file ? ct_snapshot_text(s, CT_AT(struct ct_img_file, &s->files, v->file)->path) : "";
}

/* What the rank writes elsewhere must be in the file when it is mapped: these come last, when the source has flushed it. */
static bool is_late(const struct ct_snapshot *s, const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_SHARED_FILE && (CT_AT(struct ct_img_file, &s->files, v->file)->flags & CT_IMG_FILE_WRITES);
}

int ct_restore_shared(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	int rc = 0;

	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas) {
		const char *path = file_of(&r->snap, v);

		if (rc == 0 && is_closed_late(v)) {
			rc = ct_restore_room(r, 1, 0, why);
			if (rc == 0)
				CT_CALL(m, "protect memory", CT_CALL_OK, SYS_mprotect, v->start, v->end - v->start, v->prot);
		}
		if (rc < 0 || !is_late(&r->snap, v))
			continue;
		rc = ct_restore_room(r, 16, 4200, why);
		if (rc < 0)
			break;
		CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, text(r, path),
		        (v->prot & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC)->expect = 0;
		map_one(r, v, 0);
		CT_CALL(m, "close", CT_CALL_OK, SYS_close, 0);
	}
	return rc;
}

/* queue and run the mappings of @s that are not in @skip (by index; may be NULL) */
static int map_all(struct ct_rank *r, const struct ct_snapshot *s, const unsigned char *skip, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	const char *open_file = "";

	for (size_t i = 0; i < s->vmas.n; i++) {
		const struct ct_img_vma *v = CT_AT(struct ct_img_vma, &s->vmas, i);
		const char *path = file_of(s, v);
		int rc;

		if (v->start < m->base + CT_HOLE_SIZE && v->end > m->base)
			return gw_fail(why, -EAGAIN, "the rank has mapped memory at %#llx since it was looked at, where the shell "
			               "works; try again", (unsigned long long)v->start);
		if ((skip && skip[i]) || is_late(s, v))
			continue;
		rc = ct_restore_room(r, 16, 4200, why);
		if (rc < 0)
			return rc;
		if (path[0] && strcmp(path, open_file) != 0) {
			if (open_file[0])
				CT_CALL(m, "close", CT_CALL_OK, SYS_close, 0);
			/* the shell has no descriptor but the parked ones, so the lowest is 0 */
			CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, text(r, path), O_RDONLY | O_CLOEXEC)->expect = 0;
			open_file = path;
		}
		if (v->kind == CT_VMA_MEMORY || v->kind == CT_VMA_SHARED_MEMORY)
			map_one(r, v, (int)ct_memory_source(r, v));
		else
			map_one(r, v, path[0] ? 0 : -1);
	}
	if (open_file[0])
		CT_CALL(m, "close", CT_CALL_OK, SYS_close, 0);
	return ct_restore_run(r, why);
}

#define MADV_POPULATE_WRITE_ 23

/**
 * ct_restore_hints - map what the rank had when it was looked at, and have pages there before it is frozen
 * The pages are made while the daemon does other things; nothing depends on their being there.
 */
int ct_restore_hints(struct ct_rank *r, const struct ct_vec *extents, struct gw_error *why)
{
	const struct ct_img_vma *v = r->hint.vmas.at, *end = v + r->hint.vmas.n;
	struct ct_remote *m = &r->remote;
	int rc;

	ct_remote_reset(m);
	rc = map_all(r, &r->hint, NULL, why);
	if (rc < 0)
		return rc;
	for CT_EACH(const struct ct_img_extent, e, extents) {
		while (v < end && v->end <= e->start)
			v++;
		if (!ct_remote_has_room(m, 1, 0) || v >= end)
			break;
		if (v->start <= e->start && e->end <= v->end && (v->prot & PROT_WRITE))
			CT_CALL(m, "make pages", 0, SYS_madvise, e->start, e->end - e->start, MADV_POPULATE_WRITE_);
	}
	if (!m->calls)
		return 0;
	rc = ct_remote_push(m, why);
	if (rc == 0)
		rc = ct_remote_start(m, r->pid, &r->shell_regs, 0, m->calls, why);
	if (rc == 0)
		r->running = m->calls;
	return rc;
}

int ct_restore_collect(struct ct_rank *r, struct gw_error *why)
{
	size_t n = r->running;

	r->running = 0;
	return n ? ct_remote_wait(&r->remote, r->pid, n, why) : 0;
}

static bool is_same_map(const struct ct_snapshot *s, const struct ct_img_vma *v, const struct ct_snapshot *t,
                        const struct ct_img_vma *w)
{
	return is_late(s, v) == is_late(t, w) && v->start == w->start && v->prot == w->prot && v->kind == w->kind && v->advice == w->advice &&
	       v->offset == w->offset && strcmp(file_of(s, v), file_of(t, w)) == 0;
}

const struct ct_img_vma *ct_map_kept(const struct ct_snapshot *have, const struct ct_img_vma *w, const struct ct_snapshot *want,
                                     size_t *at)
{
	const struct ct_img_vma *v = want->vmas.at;

	while (*at < want->vmas.n && v[*at].start < w->start)
		(*at)++;
	v += *at;
	if (*at >= want->vmas.n || !is_same_map(want, v, have, w))
		return NULL;
	return v->end == w->end || (v->kind == CT_VMA_ANON && !(v->advice & CT_VMA_GROWSDOWN)) ? v : NULL;
}

int ct_maps_kept(const struct ct_snapshot *have, const struct ct_snapshot *want, struct ct_vec *spans)
{
	size_t at = 0;
	int rc = 0;

	spans->n = 0;
	for CT_EACH(const struct ct_img_vma, w, &have->vmas) {
		const struct ct_img_vma *v = ct_map_kept(have, w, want, &at);

		if (v && rc == 0)
			rc = ct_spans_add(spans, w->start, v->end < w->end ? v->end : w->end);
	}
	return rc;
}

/**
 * ct_restore_maps - the address space as the image has it
 * What was made by the hints and is still right stays; anonymous memory that grew or shrank at its end is mended.
 */
int ct_restore_maps(struct ct_rank *r, struct gw_error *why)
{
	const struct ct_snapshot *have = &r->hint, *want = &r->snap;
	const struct ct_img_vma *kept;
	struct ct_remote *m = &r->remote;
	gw_autofree unsigned char *skip = calloc(want->vmas.n + 1, 1);
	struct ct_snapshot tails;
	size_t i = 0;
	int rc = 0;

	if (!skip)
		return gw_fail(why, -ENOMEM, "no memory for a list of mappings");
	ct_remote_reset(m);
	ct_snapshot_init(&tails);
	for CT_EACH(const struct ct_img_vma, w, &have->vmas) {
		uint64_t from = w->start;

		kept = ct_map_kept(have, w, want, &i);
		if (kept) {
			struct ct_img_vma tail = *kept;

			skip[i] = 1;
			from = kept->end;
			tail.start = w->end;
			if (kept->end > w->end && ct_vec_append(&tails.vmas, &tail, 1) < 0)
				rc = gw_fail(why, -ENOMEM, "no memory for a list of mappings");
		}
		if (rc == 0)
			rc = ct_restore_room(r, 1, 0, why);
		if (rc == 0 && from < w->end)
			CT_CALL(m, "unmap what has changed", CT_CALL_OK, SYS_munmap, from, w->end - from);
	}
	/* all that must go is queued before anything new, so that new mappings find their place */
	if (rc == 0)
		rc = map_all(r, &tails, NULL, why);
	if (rc == 0)
		rc = ct_memory_make(r, why);
	if (rc == 0)
		rc = map_all(r, want, skip, why);
	ct_snapshot_fini(&tails);
	for CT_EACH(const struct ct_img_extent, e, &want->dropped) {
		if (rc == 0)
			rc = ct_restore_room(r, 1, 0, why);
		if (rc == 0)
			CT_CALL(m, "forget pages", CT_CALL_OK, SYS_madvise, e->start, e->end - e->start, MADV_DONTNEED);
	}
	return rc == 0 && m->calls ? ct_restore_run(r, why) : rc;
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

/* Descriptors are made in ascending order, so the lowest free number is always known, and an open that gives another
 * is an error at once. Ends that serve several numbers wait at high numbers: the plumbing and the rank's own pipes. */
struct fds {
	struct ct_rank *r;
	unsigned char *is_used; /* by number; up to the parked ones */
	uint32_t lowest, high;  /* lowest free; first of the parked */
	uint32_t pipes;         /* made so far; the k-th is at high + 16 + 2k and the next */
};

static uint32_t lowest(struct fds *f)
{
	while (f->lowest < f->high && f->is_used[f->lowest])
		f->lowest++;
	return f->lowest;
}

/* what a call gets that makes two at once; false when there are not that many */
static bool lowest_two(struct fds *f, uint32_t *a, uint32_t *b)
{
	*a = lowest(f);
	*b = *a + 1;
	while (*b < f->high && f->is_used[*b])
		(*b)++;
	return *b < f->high;
}

/* what the last call opened at the lowest number shall be @fd->number */
static void settle(struct fds *f, const struct ct_img_fd *fd, uint32_t at)
{
	if (at != fd->number) {
		CT_CALL(&f->r->remote, "place a descriptor", CT_CALL_EQUAL, SYS_dup3, at, fd->number,
		        fd->is_cloexec ? O_CLOEXEC : 0)->expect = fd->number;
		CT_CALL(&f->r->remote, "close", CT_CALL_OK, SYS_close, at);
	} else if (fd->is_cloexec) {
		CT_CALL(&f->r->remote, "mark a descriptor", CT_CALL_OK, SYS_fcntl, at, F_SETFD, FD_CLOEXEC);
	}
}

static void dup_to(struct fds *f, uint32_t from, const struct ct_img_fd *fd)
{
	CT_CALL(&f->r->remote, "place a descriptor", CT_CALL_EQUAL, SYS_dup3, from, fd->number,
	        fd->is_cloexec ? O_CLOEXEC : 0)->expect = fd->number;
}

static int make_pipe(struct fds *f, const struct ct_img_fd *fd)
{
	struct ct_remote *m = &f->r->remote;
	uint32_t a, b, to = f->high + 16 + 2 * fd->plumb;

	if (!lowest_two(f, &a, &b))
		return -EMFILE;
	CT_CALL(m, "make a pipe", CT_CALL_OK, SYS_pipe2, ct_remote_data(m, NULL, 8), O_CLOEXEC);
	CT_CALL(m, "park a pipe", CT_CALL_EQUAL, SYS_dup3, a, to, O_CLOEXEC)->expect = to;
	CT_CALL(m, "park a pipe", CT_CALL_EQUAL, SYS_dup3, b, to + 1, O_CLOEXEC)->expect = to + 1;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, a);
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, b);
	if (fd->offset)
		CT_CALL(m, "size a pipe", 0, SYS_fcntl, to, F_SETPIPE_SZ, fd->offset);
	return 0;
}

/* A UNIX socket that never had a peer, or one of a pair whose other end is closed at once. */
static int make_socket(struct fds *f, const struct ct_img_fd *fd)
{
	static uint64_t closed; /* of this process; with its clock no other has the same name while both are open */
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct ct_remote *m = &f->r->remote;
	uint32_t a = lowest(f), b;
	socklen_t len;

	if (!fd->is_hung_up) {
		CT_CALL(m, "make a socket", CT_CALL_EQUAL, SYS_socket, AF_UNIX, fd->socket_type, 0)->expect = a;
		settle(f, fd, a);
		return 0;
	}
	if (!lowest_two(f, &a, &b))
		return -EMFILE;
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
	      (size_t)snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, CT_CLOSED_NAME "%llx-%llu",
	                       (unsigned long long)gw_now_ns(), (unsigned long long)closed++));
	CT_CALL(m, "make a pair of sockets", CT_CALL_OK, SYS_socketpair, AF_UNIX, fd->socket_type, 0,
	        ct_remote_data(m, NULL, 8));
	CT_CALL(m, "name a socket", CT_CALL_OK, SYS_bind, b, ct_remote_data(m, &name, sizeof(name)), len);
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, b);
	settle(f, fd, a);
	return 0;
}

static int make_fd(struct fds *f, const struct ct_img_fd *fd, struct gw_error *why)
{
	struct ct_rank *r = f->r;
	struct ct_remote *m = &r->remote;
	const struct ct_img_fd *first = CT_AT(struct ct_img_fd, &r->snap.fds, fd->same_as);
	uint64_t keep = fd->status_flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC);
	const struct ct_img_file *file;
	const char *path;
	uint32_t at;
	int rc = ct_restore_room(r, 12, 4300, why);

	if (rc < 0)
		return rc;
	if (first->number != fd->number) {
		dup_to(f, first->number, fd);
		f->is_used[fd->number] = 1;
		return 0;
	}
	at = lowest(f);
	switch (fd->kind) {
	case CT_FD_FILE:
		file = CT_AT(struct ct_img_file, &r->snap.files, fd->file);
		path = ct_snapshot_text(&r->snap, file->path);
		if (file->flags & CT_IMG_FILE_CARRIED) {
			const struct ct_carried *c = ct_carried_find(r, file);

			if (!c)
				return gw_fail(why, -EBADMSG, "the image is damaged: '%s' travels and was not asked for", path);
			path = c->temp;
		}
		CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, text(r, path), keep | O_NOCTTY)->expect = at;
		settle(f, fd, at);
		if (fd->offset && (S_ISREG(file->mode) || S_ISDIR(file->mode)) && !(keep & O_PATH))
			CT_CALL(m, "set a file's position", CT_CALL_EQUAL, SYS_lseek, fd->number, fd->offset, SEEK_SET)->expect =
				fd->offset;
		break;
	case CT_FD_MEMORY: { /* opened anew, since each open file has a position of its own; O_NOFOLLOW would be of the link */
		char link[32];

		snprintf(link, sizeof(link), "/proc/self/fd/%u", ct_memory_number(r, fd->file));
		CT_CALL(m, "open a memory file", CT_CALL_EQUAL, SYS_openat, AT_FDCWD, text(r, link),
		        keep & ~(uint64_t)O_NOFOLLOW)->expect = at;
		settle(f, fd, at);
		if (fd->offset)
			CT_CALL(m, "set a file's position", CT_CALL_EQUAL, SYS_lseek, fd->number, fd->offset, SEEK_SET)->expect = fd->offset;
		break;
	}
	case CT_FD_PLUMB:
		if (r->plumb_fd[fd->plumb] < 0)
			return gw_fail(why, -EINVAL, "the rank's fd %u is plumbing %u, and the caller gave no end for it", fd->number,
			               fd->plumb);
		dup_to(f, (uint32_t)r->plumb_fd[fd->plumb], fd);
		CT_CALL(m, "set a stream's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & (O_APPEND | O_NONBLOCK));
		break;
	case CT_FD_EVENTFD:
		CT_CALL(m, "make an eventfd", CT_CALL_EQUAL, SYS_eventfd2, 0, fd->semaphore ? 1 : 0)->expect = at;
		settle(f, fd, at);
		if (fd->offset)
			CT_CALL(m, "fill an eventfd", CT_CALL_OK, SYS_write, fd->number,
			        ct_remote_data(m, &fd->offset, sizeof(fd->offset)), 8);
		CT_CALL(m, "set an eventfd's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & O_NONBLOCK);
		break;
	case CT_FD_SOCKET:
		rc = make_socket(f, fd);
		if (rc < 0)
			return gw_fail(why, rc, "no numbers are free for a socket");
		CT_CALL(m, "set a socket's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & O_NONBLOCK);
		break;
	case CT_FD_TIMER: /* set when the rank is thawed */
		CT_CALL(m, "make a timer descriptor", CT_CALL_EQUAL, SYS_timerfd_create, fd->clock, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_SIGNAL:
		CT_CALL(m, "make a signal descriptor", CT_CALL_EQUAL, SYS_signalfd4, -1, ct_remote_data(m, &fd->offset,
		        sizeof(fd->offset)), 8, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_PID:
		CT_CALL(m, "open a process", CT_CALL_EQUAL, SYS_pidfd_open, fd->offset, keep & O_NONBLOCK)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_EPOLL: /* filled when all others are there */
		CT_CALL(m, "make an epoll instance", CT_CALL_EQUAL, SYS_epoll_create1, 0)->expect = at;
		settle(f, fd, at);
		break;
	case CT_FD_PIPE:
		if (fd->plumb > f->pipes) {
			if (fd->plumb != f->pipes + 1)
				return gw_fail(why, -EBADMSG, "the image is damaged: pipes out of order");
			rc = make_pipe(f, fd);
			if (rc < 0)
				return gw_fail(why, rc, "no numbers are free for a pipe");
			f->pipes++;
		}
		dup_to(f, f->high + 16 + 2 * fd->plumb + ((fd->status_flags & O_ACCMODE) == O_WRONLY), fd);
		CT_CALL(m, "set a pipe's flags", 0, SYS_fcntl, fd->number, F_SETFL, keep & (O_APPEND | O_NONBLOCK));
		break;
	}
	f->is_used[fd->number] = 1;
	return 0;
}

static int make_fds(struct ct_rank *r, struct gw_error *why)
{
	struct fds f = { .r = r, .high = (uint32_t)r->plumb_fd[0] };
	int rc = 0;

	f.is_used = calloc(f.high + 1, 1);
	if (!f.is_used)
		return gw_fail(why, -ENOMEM, "no memory for descriptors");
	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds) {
		if (rc == 0 && fd->number >= f.high)
			rc = gw_fail(why, -EAGAIN, "the rank opened many descriptors since it was looked at; try again");
		if (rc == 0)
			rc = make_fd(&f, fd, why);
	}
	if (rc == 0)
		rc = ct_memory_seal(r, why);
	if (rc == 0)
		rc = ct_restore_room(r, 1, 0, why);
	if (rc == 0) {
		CT_CALL(&r->remote, "close what was parked", CT_CALL_OK, SYS_close_range, f.high, ~0u, 0);
		rc = ct_restore_run(r, why);
	}
	free(f.is_used);
	return rc;
}

/* ---- process --------------------------------------------------------------------------------------------------- */

static void set_mm(struct ct_rank *r)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;
	const char *exe = ct_snapshot_text(&r->snap, CT_AT(struct ct_img_file, &r->snap.files, p->exe_file)->path);
	struct prctl_mm_map mm = { .start_code = p->start_code, .end_code = p->end_code, .start_data = p->start_data,
		.end_data = p->end_data, .start_brk = p->start_brk, .brk = p->brk, .start_stack = p->start_stack,
		.arg_start = p->arg_start, .arg_end = p->arg_end, .env_start = p->env_start, .env_end = p->env_end,
		.auxv_size = (uint32_t)(r->snap.auxv.n * sizeof(uint64_t)) };
	uint64_t fd = 0;

	/* one of 0 .. the last number is free: which one only the kernel knows now, so the number is made certain */
	fd = (uint64_t)r->plumb_fd[0];
	mm.exe_fd = (uint32_t)fd;
	mm.auxv = (void *)ct_remote_data(m, r->snap.auxv.at, r->snap.auxv.n * sizeof(uint64_t));
	CT_CALL(m, exe, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, text(r, exe), O_RDONLY | O_CLOEXEC)->expect = r->cursor;
	CT_CALL(m, "keep the program's file", CT_CALL_EQUAL, SYS_dup3, r->cursor, fd, O_CLOEXEC)->expect = fd;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, r->cursor);
	CT_CALL(m, "set the memory descriptor", CT_CALL_OK, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
	        ct_remote_data(m, &mm, sizeof(mm)), sizeof(mm));
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, fd);
}

static int set_process(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;
	const char *cwd = ct_snapshot_text(&r->snap, p->cwd);
	int rc = ct_restore_room(r, 200, 32768, why);

	if (rc < 0)
		return rc;
	CT_CALL(m, cwd, CT_CALL_OK, SYS_chdir, text(r, cwd));
	CT_CALL(m, "umask", 0, SYS_umask, p->umask);
	set_mm(r);
	for CT_EACH(const struct ct_img_action, a, &r->snap.actions) {
		uint64_t k[4] = { a->handler, a->flags, a->restorer, a->mask };

		if (a->sig != SIGKILL && a->sig != SIGSTOP)
			CT_CALL(m, "set a signal handler", CT_CALL_OK, SYS_rt_sigaction, a->sig, ct_remote_data(m, k, sizeof(k)), 0, 8);
	}
	CT_CALL(m, "personality", CT_CALL_OK, SYS_personality, p->personality);
	if (p->thp_disable)
		CT_CALL(m, "huge pages", 0, SYS_prctl, PR_SET_THP_DISABLE, 1);
	if (p->subreaper)
		CT_CALL(m, "subreaper", CT_CALL_OK, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	if (p->pdeathsig)
		CT_CALL(m, "death signal", CT_CALL_OK, SYS_prctl, PR_SET_PDEATHSIG, p->pdeathsig);
	for (unsigned i = 0; i < 32; i++)
		if (p->membarrier & 1u << i)
			CT_CALL(m, "register for membarrier", CT_CALL_OK, SYS_membarrier, 1u << i, 0, 0);
	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas)
		if ((v->advice & CT_VMA_LOCKED) && (rc = ct_restore_room(r, 1, 0, why)) == 0)
			CT_CALL(m, "lock memory", 0, SYS_mlock2, v->start, v->end - v->start, v->advice & CT_VMA_LAZY ? MLOCK_ONFAULT : 0);
	return rc;
}

/* of the thread that makes the calls: rights are each thread's own. Always the same number of calls */
#define RIGHTS_CALLS 2

static void rights_calls(struct ct_rank *r)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = {
		{ (uint32_t)p->cap_effective, (uint32_t)p->cap_permitted, (uint32_t)p->cap_inheritable },
		{ (uint32_t)(p->cap_effective >> 32), (uint32_t)(p->cap_permitted >> 32), (uint32_t)(p->cap_inheritable >> 32) } };

	CT_CALL(m, "set its capabilities", CT_CALL_OK, SYS_capset, ct_remote_data(m, &head, sizeof(head)),
	        ct_remote_data(m, caps, sizeof(caps)));
	if (p->no_new_privs)
		CT_CALL(m, "no_new_privs", CT_CALL_OK, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
	else
		CT_CALL(m, "no_new_privs", 0, SYS_getpid);
}

/* what must be last, since it takes rights away */
static void drop_rights(struct ct_rank *r)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;

	if (p->locks_future)
		CT_CALL(m, "lock what will be mapped", 0, SYS_mlockall, p->locks_future);
	for (unsigned i = 0; i < CT_IMG_LIMITS; i++) {
		struct ct_img_limit l = p->limits[i]; /* what is in force was proved to be granted; more may not be */

		l.max = ct_limit_grant((int)i, l.max);
		l.cur = l.cur < l.max ? l.cur : l.max;
		CT_CALL(m, "set a limit", 0, SYS_prlimit64, 0, i, ct_remote_data(m, &l, sizeof(l)));
	}
	rights_calls(r);
	if (p->dumpable < 2)
		CT_CALL(m, "dumpable", CT_CALL_OK, SYS_prctl, PR_SET_DUMPABLE, p->dumpable);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

#define THREAD_CALLS (5 + RIGHTS_CALLS)

static void thread_calls(struct ct_rank *r, const struct ct_img_thread *t)
{
	struct ct_remote *m = &r->remote;
	struct { uint64_t sp; uint32_t flags, pad; uint64_t size; } ss = { t->altstack, t->altstack_flags & ~(uint32_t)SS_ONSTACK,
		0, t->altstack_size };

	/* always the same number of calls */
	CT_CALL(m, "robust list", 0, SYS_set_robust_list, t->robust_list, t->robust_len ? t->robust_len : 24);
	CT_CALL(m, "alternate stack", CT_CALL_OK, SYS_sigaltstack, ct_remote_data(m, &ss, sizeof(ss)), 0);
	if (t->rseq)
		CT_CALL(m, "rseq", CT_CALL_OK, SYS_rseq, t->rseq, t->rseq_len, 0, t->rseq_signature);
	else
		CT_CALL(m, "rseq", 0, SYS_getpid);
	CT_CALL(m, "name", 0, SYS_prctl, PR_SET_NAME, ct_remote_data(m, t->comm, sizeof(t->comm)));
	CT_CALL(m, "timer slack", 0, SYS_prctl, PR_SET_TIMERSLACK, t->timerslack);
}

struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static void clone_call(struct ct_rank *r, const struct ct_img_thread *t)
{
	struct ct_remote *m = &r->remote;
	struct clone3_args a = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE |
		         (t->clear_tid ? CLONE_CHILD_CLEARTID : 0),
		.child_tid = t->clear_tid,
		.set_tid = ct_remote_data(m, &t->ns_tid, sizeof(t->ns_tid)),
		.set_tid_size = 1 };
	struct ct_call *c;

	c = CT_CALL(m, "make a thread", CT_CALL_EQUAL | CT_CALL_CLONE, SYS_clone3, ct_remote_data(m, &a, sizeof(a)), sizeof(a));
	c->expect = t->ns_tid;
}

/* bring the new threads to the end of their parts of the table, and find out which is which */
static int threads_collect(struct ct_rank *r, size_t first_call, size_t first, size_t n, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	struct ct_vec tids;
	int rc, status;

	ct_vec_init(&tids, sizeof(int));
	rc = ct_proc_ids(r->pid, "task", &tids);
	if (rc < 0)
		gw_fail(why, rc, "cannot list the threads of the shell: %s", strerror(-rc));
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; rc == 0 && i < tids.n; i++) {
			pid_t tid = *CT_AT(int, &tids, i);
			struct user_regs_struct now;
			size_t at, which;
			bool is_known = false;

			for CT_EACH(const struct ct_thread, t, &r->threads)
				is_known |= t->tid == tid && t->is_stopped;
			if (is_known)
				continue;
			rc = ct_wait_stop(tid, &status);
			if (rc < 0) {
				gw_fail(why, rc, "a new thread ended at once");
			} else if (pass == 0) { /* its first stop, before it has done anything */
				if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
					rc = gw_fail(why, -errno, "cannot start a new thread: %s", strerror(errno));
			} else if (ptrace(PTRACE_GETREGS, tid, NULL, &now) < 0 || status >> 8 != SIGTRAP) {
				rc = gw_fail(why, -EIO, "a new thread stopped with %#x", status);
			} else {
				at = (now.r12 - m->base - CT_PAGE) / sizeof(struct ct_call);
				which = at < first_call ? n : (at - first_call) / THREAD_CALLS - 1;
				if (at < first_call + THREAD_CALLS || (at - first_call) % THREAD_CALLS || which >= n ||
				    now.r12 != now.r13) {
					rc = gw_fail(why, -EIO, "%s: failed in a new thread (call %zu)",
					             at < GW_ARRAY_LEN(m->what) && m->what[at] ? m->what[at] : "?", at);
				} else {
					struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, first + which);

					t->tid = tid;
					t->is_seized = t->is_stopped = t->has_sigmask = true;
				}
			}
		}
	ct_vec_fini(&tids);
	for (size_t i = first; rc == 0 && i < first + n; i++)
		if (!CT_AT(struct ct_thread, &r->threads, i)->is_seized)
			rc = gw_fail(why, -EIO, "a new thread is missing");
	return rc;
}

#define THREADS_AT_ONCE 256

static int make_threads(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_thread *all = r->snap.threads.at;
	size_t total = r->snap.threads.n;
	int rc = 0;

	for (size_t first = 1; rc == 0 && first < total; first += THREADS_AT_ONCE) {
		size_t n = total - first < THREADS_AT_ONCE ? total - first : THREADS_AT_ONCE, part;
		struct ct_call *calls;

		rc = ct_restore_room(r, n * (THREAD_CALLS + 1), n * 400, why);
		if (rc < 0)
			break;
		for (size_t i = first; i < first + n; i++)
			clone_call(r, &all[i]);
		part = m->calls;
		calls = (struct ct_call *)(void *)(m->local + CT_PAGE) + part;
		for (size_t i = first; i < first + n; i++) {
			thread_calls(r, &all[i]);
			rights_calls(r);
		}
		for (size_t i = 0; i < n; i++) {
			struct ct_call *clone = calls - n + i;

			clone->child_start = ct_remote_call_addr(m, calls + i * THREAD_CALLS);
			clone->child_end = ct_remote_call_addr(m, calls + (i + 1) * THREAD_CALLS);
		}
		if (!ct_vec_add(&r->threads, n))
			return gw_fail(why, -ENOMEM, "no memory for threads");
		rc = ct_remote_push(m, why);
		if (rc == 0)
			rc = ct_remote_start(m, r->pid, &r->shell_regs, 0, part, why);
		if (rc == 0)
			rc = ct_remote_wait(m, r->pid, part, why);
		if (rc == 0)
			rc = threads_collect(r, part, first, n, why);
		ct_remote_reset(m);
	}
	return rc;
}

/* pending signals can only be sent from inside; every thread has them blocked for now */
static int queue_signals(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	uint32_t pid = r->snap.process.ns_pid;
	int rc = 0;

	for CT_EACH(const struct ct_img_siginfo, s, &r->snap.infos) {
		int32_t sig;
		uint64_t info;

		rc = ct_restore_room(r, 1, 256, why);
		if (rc < 0)
			return rc;
		memcpy(&sig, s->info, sizeof(sig));
		info = ct_remote_data(m, s->info, sizeof(s->info));
		if (s->ns_tid)
			CT_CALL(m, "queue a signal", CT_CALL_OK, SYS_rt_tgsigqueueinfo, pid, s->ns_tid, sig, info);
		else
			CT_CALL(m, "queue a signal", CT_CALL_OK, SYS_rt_sigqueueinfo, pid, sig, info);
	}
	return 0;
}

/* As this processor keeps it; where both are alike, as it is. */
static int set_xstate(struct ct_rank *r, size_t i, struct ct_thread *t, struct gw_error *why)
{
	const struct ct_img_process *p = &r->snap.process;
	unsigned char *state = (unsigned char *)r->snap.xstate.at + i * p->xstate_size;
	struct iovec iov = { state, p->xstate_size };
	gw_autofree unsigned char *own = NULL;
	struct ct_img_layout here;
	int rc;

	ct_xstate_layout(&here);
	if (memcmp(&here, &p->layout, sizeof(here)) != 0) {
		own = malloc(65536);
		if (!own)
			return gw_fail(why, -ENOMEM, "no memory for extended state");
		iov = (struct iovec){ own, 65536 };
		if (ptrace(PTRACE_GETREGSET, t->tid, (void *)NT_X86_XSTATE, &iov) < 0)
			return gw_fail(why, -errno, "cannot read the extended state of the shell: %s", strerror(errno));
		rc = ct_xstate_convert(own, iov.iov_len, &here, state, p->xstate_size, &p->layout, why);
		if (rc < 0)
			return rc;
	}
	return ptrace(PTRACE_SETREGSET, t->tid, (void *)NT_X86_XSTATE, &iov) < 0
	               ? gw_fail(why, -errno, "cannot set its extended state: %s", strerror(errno)) : 0;
}

static int set_thread(struct ct_rank *r, size_t i, struct gw_error *why)
{
	const struct ct_img_thread *from = CT_AT(struct ct_img_thread, &r->snap.threads, i);
	struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);
	struct user_regs_struct regs;
	int rc = set_xstate(r, i, t, why);

	if (rc < 0)
		return gw_fail_more(why, "thread %u: ", from->ns_tid);
	memcpy(&regs, from->regs, sizeof(regs));
	/* the main thread's come after the last call that runs in it */
	if (i && (ptrace(PTRACE_SETREGS, t->tid, NULL, &regs) < 0 ||
	          ptrace(PTRACE_SETSIGMASK, t->tid, (void *)8, &from->sigmask) < 0))
		return gw_fail(why, -errno, "thread %u: cannot set its registers: %s", from->ns_tid, strerror(errno));
	if (from->policy == SCHED_FIFO || from->policy == SCHED_RR || from->policy == SCHED_BATCH ||
	    from->policy == SCHED_IDLE) {
		struct sched_param param = { .sched_priority = (int)from->rt_priority };

		sched_setscheduler(t->tid, (int)from->policy, &param); /* where it is allowed here too */
	}
	gw_prompt_set(t->tid, false);
	if (from->nice != getpriority(PRIO_PROCESS, (id_t)t->tid))
		setpriority(PRIO_PROCESS, (id_t)t->tid, from->nice);
	return 0;
}

static void set_oom(struct ct_rank *r)
{
	char path[64], value[16];
	int fd, len;

	if (!r->snap.process.oom_score_adj)
		return;
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)r->pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	len = snprintf(value, sizeof(value), "%d", r->snap.process.oom_score_adj);
	if (fd >= 0 && write(fd, value, (size_t)len) < 0)
		gw_log(GW_DEBUG, "cannot set %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static uint32_t first_free(const struct ct_rank *r)
{
	uint32_t n = 0;

	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds) {
		if (fd->number != n)
			break;
		n++;
	}
	return n;
}

int ct_restore_rest(struct ct_rank *r, struct gw_error *why)
{
	const struct ct_img_thread *leader = r->snap.threads.at;
	int rc;

	ct_remote_reset(&r->remote);
	rc = ct_restore_shared(r, why);
	if (rc == 0)
		rc = make_fds(r, why);
	if (rc == 0)
		rc = ct_epoll_fill(r, why);
	if (rc == 0)
		rc = ct_unread_give(r, &r->snap, why);
	r->cursor = first_free(r);
	if (rc == 0)
		rc = set_process(r, why);
	if (rc == 0)
		rc = ct_restore_run(r, why);
	if (rc == 0)
		rc = make_threads(r, why);
	if (rc == 0)
		rc = ct_timers_make(r, why);
	if (rc == 0)
		rc = queue_signals(r, why);
	if (rc == 0)
		rc = ct_restore_room(r, 64, 4096, why);
	if (rc == 0) {
		CT_CALL(&r->remote, "tid address", 0, SYS_set_tid_address, leader->clear_tid);
		thread_calls(r, leader);
		drop_rights(r);
		rc = ct_restore_run(r, why);
	}
	for (size_t i = 0; rc == 0 && i < r->threads.n; i++)
		rc = set_thread(r, i, why);
	if (rc == 0)
		set_oom(r);
	return rc;
}
