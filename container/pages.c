/* SPDX-License-Identifier: BSD-2-Clause */
/* The pages of a rank: which are there, and which were written since the last look. */
#include "container/places.h"
#include "container/spans.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_shared(const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_SHARED_FILE || v->kind == CT_VMA_SHARED_ANON || v->kind == CT_VMA_SHARED_MEMORY ||
	       v->kind == CT_VMA_SYSV;
}

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct page_region { uint64_t start, end, categories; };
#define PM_WRITTEN (1u << 1)
#define PM_FILE    (1u << 2)
#define PM_PRESENT (1u << 3)
#define PM_SWAPPED (1u << 4)
#define PM_PFNZERO (1u << 5)
#define PAGEMAP_SCAN_ 0xc0606610ul /* _IOWR('f', 16, struct pm_scan_arg), which this libc may not know */
#define PM_SCAN_WP_MATCHING   1u
#define PM_SCAN_CHECK_WPASYNC 2u
#define REGIONS 16384
#define PAGEMAP_HERE (3ull << 62) /* of /proc/PID/pagemap: present or swapped */
#define PAGEMAP_FILE (1ull << 61)

void ct_memory_forget(struct ct_rank *r)
{
	int *fds[] = { &r->mem_fd, &r->pagemap_fd };

	for (size_t i = 0; i < GW_ARRAY_LEN(fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

/* The file, and room for what it tells: touched before anything is frozen. */
static int scan_open(struct ct_rank *r, struct gw_error *why)
{
	char path[64];

	if (r->regions.cap < REGIONS) {
		r->regions.n = 0;
		if (!ct_vec_add(&r->regions, REGIONS)) /* zeroes it */
			return gw_fail(why, -ENOMEM, "no memory for a list of pages");
	}
	if (r->pagemap_fd >= 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)r->pid);
	r->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->pagemap_fd < 0 ? gw_fail(why, -errno, "cannot open %s: %s", path, strerror(errno)) : 0;
}

int ct_written_scan(struct ct_rank *r, uint64_t start, uint64_t end, struct ct_vec *spans)
{
	/* only what is there: a place without a page counts as written too, and protecting it makes an entry for it, which for a
	 * range that is only reserved would be many */
	struct pm_scan_arg arg = { .size = sizeof(arg), .start = start, .end = end, .vec_len = REGIONS,
		.category_anyof_mask = PM_PRESENT | PM_SWAPPED,
		.flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, .category_mask = PM_WRITTEN,
		.return_mask = PM_WRITTEN };
	int rc = scan_open(r, NULL), n;

	arg.vec = (uint64_t)(uintptr_t)r->regions.at;
	while (rc == 0 && arg.start < end) {
		n = (int)syscall(SYS_ioctl, r->pagemap_fd, PAGEMAP_SCAN_, &arg);
		if (n < 0)
			return -errno;
		for (int i = 0; rc == 0 && i < n; i++) {
			const struct page_region *p = CT_AT(struct page_region, &r->regions, i);

			rc = ct_spans_add(spans, p->start, p->end);
		}
		arg.start = arg.walk_end;
	}
	return rc;
}

/*
 * Before Linux 6.7, or where PAGEMAP_SCAN is denied: which mappings have pages at all says smaps, which pages a file of 64 bits
 * for each. Pages of zeroes that were only read cannot be told from others there; they are found by their contents later.
 */
static int find_used(struct ct_rank *r, struct ct_vec *spans)
{
	gw_autofree char *text = NULL;
	unsigned long long start = 0, end = 0, kib;
	int rc = ct_proc_text(r->pid, "smaps", &text);
	char *save = NULL, dash;

	for (char *l = rc < 0 ? NULL : strtok_r(text, "\n", &save); l && rc >= 0; l = strtok_r(NULL, "\n", &save)) {
		if (sscanf(l, "%llx%c%llx", &start, &dash, &end) == 3 && dash == '-')
			continue;
		/* a page of zeroes is not counted, and need not be found */
		if ((sscanf(l, "Rss: %llu", &kib) == 1 || sscanf(l, "Swap: %llu", &kib) == 1 || sscanf(l, "Private_Hugetlb: %llu", &kib) == 1 ||
		     sscanf(l, "Shared_Hugetlb: %llu", &kib) == 1) && kib && end) {
			rc = ct_spans_add(spans, start, end);
			end = 0;
		}
	}
	return rc < 0 ? rc : 0;
}

/* Regions of present private pages within @spans. Return: how many, *arg->walk_end as PAGEMAP_SCAN says it; -1 with errno */
static int walk_pagemap(struct ct_rank *r, const struct ct_vec *spans, struct pm_scan_arg *arg)
{
	static uint64_t entries[8192]; /* the daemon has one thread that scans */
	int n = 0;

	arg->walk_end = arg->start;
	for (size_t k = 0; k < spans->n; k++) {
		const struct ct_img_extent *span = CT_AT(struct ct_img_extent, spans, k);
		uint64_t at = span->start > arg->walk_end ? span->start : arg->walk_end;

		while (at < span->end && span->end <= arg->end) {
			uint64_t pages = (span->end - at) / CT_PAGE;
			ssize_t got;

			pages = pages < GW_ARRAY_LEN(entries) ? pages : GW_ARRAY_LEN(entries);
			got = pread(r->pagemap_fd, entries, pages * 8, (off_t)(at / CT_PAGE * 8));
			if (got < 8) {
				errno = got < 0 ? errno : ESRCH;
				return -1;
			}
			for (ssize_t i = 0; i < got / 8; i++, at += CT_PAGE) {
				struct page_region *last = n ? CT_AT(struct page_region, &r->regions, n - 1) : NULL;

				arg->walk_end = at;
				if (!(entries[i] & PAGEMAP_HERE) || (entries[i] & PAGEMAP_FILE))
					continue;
				if (last && last->end == at)
					last->end += CT_PAGE;
				else if (n == REGIONS)
					return n;
				else
					*CT_AT(struct page_region, &r->regions, n++) = (struct page_region){ at, at + CT_PAGE, PM_PRESENT };
			}
		}
	}
	arg->walk_end = arg->end;
	return n;
}

/* @n regions that a scan has found, cut at the borders of mappings; @v: the first mapping that can be meant */
static int take_regions(struct ct_rank *r, int n, const struct ct_img_vma **v, const struct ct_img_vma *end, struct ct_vec *extents)
{
	for (int i = 0; i < n; i++) {
		struct page_region *p = CT_AT(struct page_region, &r->regions, i);

		while (*v < end && (*v)->end <= p->start)
			(*v)++;
		for (const struct ct_img_vma *w = *v; w < end && w->start < p->end; w++) {
			struct ct_extent e = { .start = p->start > w->start ? p->start : w->start,
				.end = p->end < w->end ? p->end : w->end, .is_forced = !(w->prot & PROT_READ) };
			struct ct_extent *last = extents->n ? CT_AT(struct ct_extent, extents, extents->n - 1) : NULL;

			if (is_shared(w))
				continue;
			if (last && last->end == e.start && last->is_forced == e.is_forced && e.start != w->start)
				last->end = e.end;
			else if (ct_vec_append(extents, &e, 1) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

/* pages of anonymous shared memory are the kernel's file pages, mapped or not: all of it goes */
static int add_shared(const struct ct_snapshot *s, struct ct_vec *extents)
{
	for CT_EACH(const struct ct_img_vma, w, &s->vmas)
		if (w->kind == CT_VMA_SHARED_ANON) {
			size_t at = 0;

			while (at < extents->n && CT_AT(struct ct_extent, extents, at)->start < w->start)
				at++;
			if (!ct_vec_add(extents, 1))
				return -ENOMEM;
			memmove(CT_AT(struct ct_extent, extents, at + 1), CT_AT(struct ct_extent, extents, at),
			        (extents->n - 1 - at) * sizeof(struct ct_extent));
			*CT_AT(struct ct_extent, extents, at) = (struct ct_extent){ .start = w->start, .end = w->end,
				.is_forced = !(w->prot & PROT_READ) };
		}
	return 0;
}

static int scan_failed(const struct ct_rank *r, struct gw_error *why)
{
	if (errno == ESRCH) /* the memory that we look at has gone */
		return gw_fail(why, -EAGAIN, "pid %d has executed another program just now, or has ended; try again", (int)r->pid);
	return gw_fail(why, -errno, "cannot find the pages in use (/proc/%d/pagemap): %s", (int)r->pid, strerror(errno));
}

static int walk_extents(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct ct_vec *used,
                        struct gw_error *why)
{
	struct pm_scan_arg arg = { .end = 0x7ffffffff000ull };
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n;
	int n, rc = find_used(r, used);

	if (rc < 0)
		return gw_fail(why, rc, "cannot read /proc/%d/smaps: %s", (int)r->pid, strerror(-rc));
	do {
		n = walk_pagemap(r, used, &arg);
		if (n < 0)
			return scan_failed(r, why);
		if (take_regions(r, n, &v, end, extents) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of pages");
		arg.start = arg.walk_end;
	} while (n == REGIONS && arg.start < arg.end);
	return 0;
}

bool ct_vma_is_followable(const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_ANON || v->kind == CT_VMA_FILE;
}

#define SCAN_ALONE (4u << 20) /* bytes of a mapping for which a call of its own is worth it */

/* Neighbours for which one call will do. Whether a page is a file's is written in its description, and to look at that is ten
 * times as much as all the rest: of large anonymous memory it is not asked. */
static bool is_large(const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_ANON && v->end - v->start >= SCAN_ALONE;
}

/* LEFT: it goes whole, or nothing is followed. NEW: nobody has looked at it before; to ask the kernel of it would fail. */
enum followed { LEFT, NEW, FOLLOWED };

static enum followed how_followed(const struct ct_rank *r, const struct ct_img_vma *v, bool is_asked, size_t *seen)
{
	if (!is_asked || !ct_vma_is_followable(v))
		return LEFT;
	return ct_follow_has(r, v, seen) ? FOLLOWED : NEW;
}

/* The kernel refuses to tell what was written of a stretch with a mapping in it that is not followed, as the vdso, or the page that we
 * work in. @at: cursor, 0 at first. */
static bool is_gap(const struct ct_rank *r, uint64_t start, uint64_t end, size_t *at)
{
	const struct ct_map *m = r->maps.list.at;

	while (*at < r->maps.list.n && m[*at].end <= start)
		(*at)++;
	return start == end || ((*at == r->maps.list.n || m[*at].start >= end) && (r->remote.base < start || r->remote.base >= end));
}

/*
 * What scan_extents() does, of one large mapping. Most of its pages are there and were not written, as a rule, and to be told of a page costs three times
 * as much as to look at it: so what is asked for is the rest, pages that are missing, of zeroes, or written.
 */
static int scan_large(struct ct_rank *r, const struct ct_img_vma *v, bool is_followed, struct ct_vec *extents, struct ct_vec *written,
                      struct gw_error *why)
{
	struct pm_scan_arg arg = { .size = sizeof(arg), .vec_len = REGIONS, .vec = (uint64_t)(uintptr_t)r->regions.at, .start = v->start,
		.end = v->end, .flags = is_followed ? PM_SCAN_CHECK_WPASYNC : 0, .category_inverted = PM_PRESENT,
		.category_anyof_mask = PM_PRESENT | PM_PFNZERO | (is_followed ? PM_WRITTEN : 0),
		.return_mask = PM_PRESENT | PM_SWAPPED | PM_PFNZERO | (is_followed ? PM_WRITTEN : 0) };
	struct ct_extent e = { .start = v->start, .is_forced = !(v->prot & PROT_READ) };
	int n, rc = 0;

	while (rc == 0 && arg.start < v->end) {
		n = (int)syscall(SYS_ioctl, r->pagemap_fd, PAGEMAP_SCAN_, &arg);
		if (n < 0 && errno == EPERM && is_followed) { /* not followed after all: all of what is left counts as written */
			is_followed = false;
			arg.flags = 0;
			arg.category_anyof_mask = PM_PRESENT | PM_PFNZERO;
			rc = ct_spans_add(written, arg.start, v->end);
			continue;
		}
		if (n < 0)
			return errno == ESRCH ? scan_failed(r, why) : -errno;
		for (int i = 0; rc == 0 && i < n; i++) {
			const struct page_region *p = CT_AT(struct page_region, &r->regions, i);
			bool is_there = (p->categories & (PM_PRESENT | PM_SWAPPED)) && !(p->categories & PM_PFNZERO);

			if (is_there && is_followed && (p->categories & PM_WRITTEN))
				rc = ct_spans_add(written, p->start, p->end);
			if (is_there)
				continue;
			e.end = p->start;
			if (rc == 0 && e.start < e.end)
				rc = ct_vec_append(extents, &e, 1);
			e.start = p->end;
		}
		arg.start = arg.walk_end;
	}
	e.end = v->end;
	return rc == 0 && e.start < e.end ? ct_vec_append(extents, &e, 1) : rc;
}

/*
 * The pages that are there, and, of a rank that stands still and is followed, in the same walk what it has written since the last
 * look (@written, or NULL). When a mapping is not followed after all, the kernel says so for all that it was asked of: then they
 * are asked for one by one, and all of it counts as written.
 */
static int scan_extents(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct ct_vec *written,
                        struct gw_error *why)
{
	struct pm_scan_arg arg = { .size = sizeof(arg), .vec_len = REGIONS, .vec = (uint64_t)(uintptr_t)r->regions.at,
		.category_inverted = PM_PFNZERO | PM_FILE, .category_mask = PM_PFNZERO | PM_FILE,
		.category_anyof_mask = PM_PRESENT | PM_SWAPPED, .return_mask = PM_PRESENT | (written ? PM_WRITTEN : 0) };
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n, *to, *cursor = v, *alone = v;
	size_t seen = 0, gap = 0;
	int n, rc = 0;

	for (; rc == 0 && v < end; v = to) {
		enum followed how = how_followed(r, v, written != NULL, &seen);
		bool is_followed = how == FOLLOWED;

		to = v + 1;
		if (is_shared(v) || (r->serve.is_skipping && is_large(v) && ct_pages_index(&s->later, NULL, v->start) != CT_NO_PAGE))
			continue;
		while (v >= alone && !is_large(v) && to < end && !is_large(to) && !is_shared(to) &&
		       how_followed(r, to, written != NULL, &seen) == how && (!is_followed || is_gap(r, to[-1].end, to->start, &gap)))
			to++;
		for (const struct ct_img_vma *w = v; rc == 0 && how == NEW && w < to; w++)
			rc = ct_spans_add(written, w->start, w->end);
		if (is_large(v)) {
			rc = rc == 0 ? scan_large(r, v, is_followed, extents, written, why) : rc;
			continue;
		}
		arg.start = v->start;
		while (rc == 0 && arg.start < to[-1].end) {
			arg.end = to[-1].end;
			arg.flags = is_followed ? PM_SCAN_CHECK_WPASYNC : 0;
			n = (int)syscall(SYS_ioctl, r->pagemap_fd, PAGEMAP_SCAN_, &arg);
			if (n < 0 && errno == EPERM && is_followed && to - v > 1) {
				alone = to;
				seen = gap = 0;
				while (v->end <= arg.start)
					v++;
				to = v + 1;
				continue;
			}
			if (n < 0 && errno == EPERM && is_followed) {
				is_followed = false;
				rc = ct_spans_add(written, arg.start, v->end);
				continue;
			}
			if (n < 0 && errno != ESRCH)
				return -errno;
			if (n < 0)
				return scan_failed(r, why);
			rc = take_regions(r, n, &cursor, end, extents);
			for (int i = 0; rc == 0 && is_followed && i < n; i++) {
				const struct page_region *p = CT_AT(struct page_region, &r->regions, i);

				if (p->categories & PM_WRITTEN)
					rc = ct_spans_add(written, p->start, p->end);
			}
			arg.start = arg.walk_end;
		}
	}
	return rc;
}

int ct_extents_scan_written(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct ct_vec *written,
                            struct gw_error *why)
{
	struct gw_error own = { 0 };
	int rc = scan_open(r, &own);

	extents->n = 0;
	if (written)
		written->n = 0;
	if (rc == 0)
		rc = scan_extents(r, s, extents, written, &own);
	if (rc < 0 && !own.code && !written && rc != -ENOMEM) { /* before Linux 6.7, or denied */
		struct ct_vec used;

		extents->n = 0;
		ct_vec_init(&used, sizeof(struct ct_img_extent));
		rc = walk_extents(r, s, extents, &used, &own);
		ct_vec_fini(&used);
	}
	if (rc == 0)
		rc = add_shared(s, extents);
	if (rc < 0 && own.code)
		return gw_fail(why, own.code, "%s", own.text);
	return rc < 0 ? gw_fail(why, rc, "cannot find the pages in use (/proc/%d/pagemap): %s", (int)r->pid, strerror(-rc)) : 0;
}

int ct_extents_scan(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct gw_error *why)
{
	return ct_extents_scan_written(r, s, extents, NULL, why);
}
