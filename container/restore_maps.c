/* SPDX-License-Identifier: BSD-2-Clause */
/* The address space of a shell: mappings ahead, as the image has them, and what of them keeps its pages. */
#include "container/spans.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

static void advise(struct ct_rank *r, const struct ct_img_vma *v)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(advices); i++)
		if (v->advice & advices[i].advice)
			CT_CALL(&r->remote, "advise", 0, SYS_madvise, v->start, v->end - v->start, advices[i].madvice);
}

/*
 * Huge pages where they are free, reserved, so that none is missing later; otherwise ordinary memory at the same place, which the
 * second call makes only when the first has made nothing. The third tells whether there is memory now.
 */
static void map_huge(struct ct_rank *r, const struct ct_img_vma *v, uint64_t flags)
{
	uint64_t len = v->end - v->start, prot = v->prot | (is_closed_late(v) ? PROT_WRITE : 0);
	uint64_t size = (uint64_t)__builtin_ctzll(v->offset) << MAP_HUGE_SHIFT;

	flags |= MAP_ANONYMOUS;
	CT_CALL(&r->remote, "map huge pages", 0, SYS_mmap, v->start, len, prot, flags | MAP_HUGETLB | size, -1, 0);
	CT_CALL(&r->remote, "map memory for huge pages", 0, SYS_mmap, v->start, len, prot,
	        flags | (v->advice & CT_VMA_NORESERVE ? MAP_NORESERVE : 0), -1, 0);
	CT_CALL(&r->remote, "map memory for huge pages", CT_CALL_OK, SYS_mprotect, v->start, len, prot);
	CT_CALL(&r->remote, "advise", 0, SYS_madvise, v->start, len, MADV_HUGEPAGE);
	advise(r, v);
}

static void map_one(struct ct_rank *r, const struct ct_img_vma *v, int fd)
{
	bool is_shared = v->kind == CT_VMA_SHARED_FILE || v->kind == CT_VMA_SHARED_ANON || v->kind == CT_VMA_SHARED_MEMORY;
	uint64_t flags = MAP_FIXED_NOREPLACE | (is_shared ?
	                                        MAP_SHARED : MAP_PRIVATE);

	bool was_writable = (v->advice & CT_VMA_ACCOUNT) && !(v->prot & PROT_WRITE) && !is_shared;

	if (v->advice & CT_VMA_HUGETLB) {
		map_huge(r, v, flags);
		return;
	}
	if (v->kind == CT_VMA_SYSV) {
		CT_CALL(&r->remote, "attach System V shared memory", CT_CALL_EQUAL, SYS_shmat, v->file, v->start,
		        (v->prot & PROT_WRITE ? 0 : SHM_RDONLY) | (v->prot & PROT_EXEC ? SHM_EXEC : 0))->expect = v->start;
		advise(r, v);
		return;
	}
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
	advise(r, v);
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
		CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, path),
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
			CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, path), O_RDONLY | O_CLOEXEC)->expect = 0;
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

#define MAKE_AT_ONCE (64u << 20) /* bytes of pages: some tens of milliseconds */

/* Let the shell make the next pages of those that are wanted. They are made for speed only: a call that fails is no error. */
static int make_pages(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	uint64_t bytes = 0;
	int rc;

	ct_remote_reset(m);
	while (r->made < r->wanted.n && bytes < MAKE_AT_ONCE && ct_remote_has_room(m, 1, 0)) {
		struct ct_img_extent *e = CT_AT(struct ct_img_extent, &r->wanted, r->made);
		uint64_t len = e->end - e->start < MAKE_AT_ONCE - bytes ? e->end - e->start : MAKE_AT_ONCE - bytes;

		CT_CALL(m, "make pages", 0, SYS_madvise, e->start, len, MADV_POPULATE_WRITE_);
		bytes += len;
		e->start += len;
		if (e->start == e->end)
			r->made++;
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

/* Reserved huge pages that are ordinary memory now: the rank goes on all the same, and its user should know. */
static void tell_huge(const struct ct_rank *r)
{
	struct ct_maps maps = { 0 };
	uint64_t missing = 0, page = 0;

	for CT_EACH(const struct ct_img_vma, v, &r->hint.vmas)
		if (v->advice & CT_VMA_HUGETLB) {
			missing += v->end - v->start;
			page = v->offset;
		}
	if (!missing || ct_maps_read(&maps, r->pid, false) < 0)
		return;
	for CT_EACH(const struct ct_map, m, &maps.list)
		if (strcmp(m->name, CT_HUGE_NAME) == 0)
			missing -= m->end - m->start < missing ? m->end - m->start : missing;
	ct_maps_fini(&maps);
	if (missing)
		gw_log(GW_WARN, "pid %d: %llu MiB of its reserved huge pages are ordinary memory here: so many are not free on this host "
		       "(vm.nr_hugepages, pages of %llu KiB)", (int)r->pid, (unsigned long long)(missing >> 20), (unsigned long long)(page >> 10));
}

/* Map what the rank had when it was looked at, and begin to make its pages: see ct_shell_make_pages. */
int ct_restore_hints(struct ct_rank *r, const struct ct_vec *extents, struct gw_error *why)
{
	const struct ct_img_vma *v = r->hint.vmas.at, *end = v + r->hint.vmas.n;
	int rc;

	ct_remote_reset(&r->remote);
	rc = map_all(r, &r->hint, NULL, why);
	if (rc == 0)
		tell_huge(r);
	for CT_EACH(const struct ct_img_extent, e, extents) {
		while (v < end && v->end <= e->start)
			v++;
		if (rc == 0 && v < end && v->start <= e->start && e->end <= v->end && (v->prot & PROT_WRITE) &&
		    ct_vec_append(&r->wanted, e, 1) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of pages");
	}
	return rc == 0 ? make_pages(r, why) : rc;
}

int ct_shell_make_pages(struct ct_rank *r, struct gw_error *why)
{
	siginfo_t si = { 0 };
	int rc = 0;

	if (r->running && waitid(P_PID, (id_t)r->pid, &si, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) == 0 && si.si_pid == 0)
		return 1;
	if (r->running) {
		rc = ct_restore_collect(r, why);
		if (rc == 0)
			rc = make_pages(r, why);
	}
	if (rc < 0 || r->running)
		return rc < 0 ? rc : 1;
	ct_proc_keep(r->pid, "task");
	ct_pages_own(); /* the shell was forked from us */
	return 0;
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
	return rc;
}

int ct_restore_forget(struct ct_rank *r, struct gw_error *why)
{
	const struct ct_snapshot *want = &r->snap;
	struct ct_remote *m = &r->remote;
	int rc = 0;

	for CT_EACH(const struct ct_img_extent, e, &want->dropped) {
		if (rc == 0)
			rc = ct_restore_room(r, 1, 0, why);
		if (rc == 0)
			CT_CALL(m, "forget pages", CT_CALL_OK, SYS_madvise, e->start, e->end - e->start, MADV_DONTNEED);
	}
	/* a page can be waited for only where there is none; rounds have brought older ones, in huge pages too, or some were made */
	for CT_EACH(const struct ct_img_extent, e, &want->later) {
		if (rc == 0 && (r->rounds || r->wanted.n))
			rc = ct_restore_room(r, 1, 0, why);
		if (rc == 0 && (r->rounds || r->wanted.n))
			CT_CALL(m, "forget pages", CT_CALL_OK, SYS_madvise, e->start, e->end - e->start, MADV_DONTNEED);
	}
	return rc == 0 && m->calls ? ct_restore_run(r, why) : rc;
}
