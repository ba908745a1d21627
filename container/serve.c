/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages that come after the rank (post-copy), at its source: which may, and handing them out from the frozen copy.
 *
 *   image      all memory but what may come later; LATER says where that is; of it, what is touched at once goes too
 *   served     each page that was handed out, until the destination says from where to begin again
 *   absent     of mappings that come later as a whole, what was never touched: told before anything else
 *
 * What may come later is private anonymous memory, of mappings that have much of it: only there the kernel can wait for a page
 * (userfaultfd). Not memory that is locked, which the kernel wants to have when it locks it again; not stacks that grow; nor
 * what a fork wipes, since the missing pages of a child are filled like its parent's.
 */
#include "container/places.h"
#include "container/spans.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define LATER_MIN   (256u << 10) /* bytes of a mapping; with less, asking is not worth it */
#define TOUCHED_MAX 65536u       /* bytes above a stack pointer, and below a thread's own area, that go with the image */

void ct_rank_leave_pages(struct ct_rank *r, bool may)
{
	r->may_leave = may;
}

uint64_t ct_rank_left_bytes(const struct ct_rank *r)
{
	return r->serve.total * CT_PAGE;
}

static bool may_come_later(const struct ct_img_vma *v)
{
	return v->kind == CT_VMA_ANON && (v->prot & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE) &&
	       !(v->advice & (CT_VMA_LOCKED | CT_VMA_GROWSDOWN | CT_VMA_WIPEONFORK | CT_VMA_HUGETLB));
}

static int by_start(const void *a, const void *b)
{
	const struct ct_img_extent *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int touch(struct ct_vec *v, uint64_t start, uint64_t end)
{
	struct ct_img_extent e = { start & ~(uint64_t)(CT_PAGE - 1), (end + CT_PAGE - 1) & ~(uint64_t)(CT_PAGE - 1) };

	return start && e.start < e.end ? ct_vec_append(v, &e, 1) : 0;
}

/* What threads and the kernel use before they could well wait: stacks where they are, areas of threads, what is registered. */
static int touched(const struct ct_snapshot *s, struct ct_vec *out)
{
	struct ct_vec all;
	int rc = 0;

	ct_vec_init(&all, sizeof(struct ct_img_extent));
	for CT_EACH(const struct ct_img_thread, t, &s->threads) {
		uint64_t rip = t->regs[16], rsp = t->regs[19], tls = t->regs[21];

		rc |= touch(&all, rip, rip + 16);
		rc |= touch(&all, rsp > CT_PAGE ? rsp - CT_PAGE : 0, rsp + TOUCHED_MAX);
		rc |= touch(&all, tls > TOUCHED_MAX ? tls - TOUCHED_MAX : 0, tls + CT_PAGE);
		rc |= touch(&all, t->altstack, t->altstack + (t->altstack_size < TOUCHED_MAX ? t->altstack_size : TOUCHED_MAX));
		rc |= touch(&all, t->robust_list, t->robust_list + 24);
		rc |= touch(&all, t->rseq, t->rseq + t->rseq_len);
		rc |= touch(&all, t->clear_tid, t->clear_tid + 4);
	}
	if (all.n)
		qsort(all.at, all.n, all.size, by_start);
	out->n = 0;
	for CT_EACH(const struct ct_img_extent, e, &all) {
		uint64_t last = out->n ? CT_AT(struct ct_img_extent, out, out->n - 1)->end : 0;

		if (rc == 0 && e->end > last)
			rc = ct_spans_add(out, e->start > last ? e->start : last, e->end);
	}
	ct_vec_fini(&all);
	return rc < 0 ? -ENOMEM : 0;
}

int ct_serve_find_later(const struct ct_snapshot *s, const struct ct_vec *extents, struct ct_vec *later)
{
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n;
	const struct ct_extent *e = extents->at, *e_end = e + extents->n;
	int rc = 0;

	for (; rc == 0 && v < end; v++) {
		const struct ct_extent *first;
		uint64_t bytes = 0;

		while (e < e_end && e->end <= v->start)
			e++;
		for (first = e; e < e_end && e->start < v->end; e++)
			bytes += e->end - e->start;
		if (bytes < LATER_MIN || !may_come_later(v))
			continue;
		for (; rc == 0 && first < e; first++)
			rc = ct_spans_add(later, first->start, first->end);
	}
	return rc;
}

#define WHOLE_MAX (64ull << 30) /* of a mapping: its pages are kept as bits */

/* Without rounds, mappings that had much when they were looked at last come later as a whole, so that what pages they have need
 * not be looked for while the rank stands, however many there are. */
int ct_serve_choose(struct ct_rank *r, struct gw_error *why)
{
	const struct ct_extent *e = r->extents.at, *e_end = e + r->extents.n;
	uint64_t total = 0;
	int rc = 0;

	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas) {
		uint64_t bytes = 0;

		while (e < e_end && e->end <= v->start)
			e++;
		for (const struct ct_extent *x = e; x < e_end && x->start < v->end; x++)
			bytes += x->end - x->start;
		if (rc < 0 || bytes < LATER_MIN || v->end - v->start > WHOLE_MAX || !may_come_later(v))
			continue;
		total += bytes;
		rc = ct_spans_add(&r->snap.later, v->start, v->end);
	}
	r->serve.total = total / CT_PAGE;
	r->serve.is_whole = r->serve.is_skipping = r->snap.later.n > 0;
	return rc < 0 ? gw_fail(why, rc, "no memory for a list of pages") : 0;
}

/* @extents, which are in no mapping that comes later, and @now, which are: both ascending */
static int merge(struct ct_vec *out, const struct ct_vec *extents, const struct ct_vec *now)
{
	const struct ct_img_extent *n = now->at, *n_end = n + now->n;
	int rc = 0;

	for CT_EACH(const struct ct_extent, e, extents) {
		for (; rc == 0 && n < n_end && n->start < e->start; n++)
			rc = ct_vec_append(out, &(struct ct_extent){ .start = n->start, .end = n->end }, 1);
		if (rc == 0)
			rc = ct_vec_append(out, e, 1);
	}
	for (; rc == 0 && n < n_end; n++)
		rc = ct_vec_append(out, &(struct ct_extent){ .start = n->start, .end = n->end }, 1);
	return rc;
}

static uint64_t index_of(const struct ct_rank *r, uint64_t addr)
{
	return ct_pages_index(&r->snap.later, &r->serve.first, addr);
}

int ct_serve_plan(struct ct_rank *r, struct gw_error *why)
{
	struct ct_serve *s = &r->serve;
	struct ct_vec soon, now;
	int rc;

	ct_vec_init(&soon, sizeof(struct ct_img_extent));
	ct_vec_init(&now, sizeof(struct ct_img_extent));
	s->is_looked = s->is_skipping = false;
	s->absent.n = s->absent_at = 0;
	s->absent.size = sizeof(struct ct_img_extent);
	rc = s->is_whole ? 0 : ct_serve_find_later(&r->snap, &r->extents, &r->snap.later);
	if (rc == 0 && r->snap.later.n) {
		struct ct_vec rest;

		ct_vec_init(&rest, sizeof(struct ct_extent));
		rc = touched(&r->snap, &soon);
		if (rc == 0)
			rc = ct_spans_common(&now, &r->snap.later, &soon);
		soon.n = 0;
		if (rc == 0)
			rc = ct_spans_cut(&soon, &r->snap.later, &now);
		if (rc == 0)
			rc = ct_extents_cut(&rest, &r->extents, s->is_whole ? &r->snap.later : &soon);
		if (rc == 0 && s->is_whole) {
			struct ct_vec both;

			ct_vec_init(&both, sizeof(struct ct_extent));
			rc = merge(&both, &rest, &now);
			ct_vec_fini(&rest);
			rest = both;
		}
		if (rc == 0)
			rc = ct_pages_count(&r->snap.later, &s->first, &s->pages);
		if (rc == 0) {
			free(s->served);
			s->served = calloc(s->pages / 8 + 1, 1);
			rc = s->served ? 0 : -ENOMEM;
		}
		if (rc == 0) {
			struct ct_vec t = r->extents;

			r->extents = rest;
			rest = t;
			s->at = 0;
			if (!s->is_whole)
				s->total = ct_spans_bytes(&soon) / CT_PAGE;
			for CT_EACH(const struct ct_img_extent, e, &now)
				for (uint64_t a = e->start; a < e->end; a += CT_PAGE)
					ct_bit_set(s->served, index_of(r, a));
		}
		ct_vec_fini(&rest);
	}
	ct_vec_fini(&soon);
	ct_vec_fini(&now);
	return rc < 0 ? gw_fail(why, rc, "no memory for a list of pages") : 0;
}

void ct_serve_fini(struct ct_serve *s)
{
	free(s->served);
	s->served = NULL;
	ct_vec_fini(&s->absent);
	ct_vec_fini(&s->first);
}

/* ---- handing out ---------------------------------------------------------------------------------------------------- */

static void put_head(unsigned char *to, uint64_t vaddr, size_t pages, uint32_t flags)
{
	struct ct_img_pages h = { .vaddr = vaddr, .pages = (uint32_t)pages, .flags = flags };

	memcpy(to, &h, sizeof(h));
}

/* Pages that stand one head behind @to, as runs of pages and of zeroes: each left out makes room for the heads of the cut. */
static unsigned char *pack(unsigned char *to, uint64_t vaddr, size_t pages)
{
	const unsigned char *from = to + sizeof(struct ct_img_pages);
	size_t i = 0, n;

	while (i < pages) {
		bool is_zero = ct_is_zero_page(from + i * CT_PAGE);

		for (n = 1; i + n < pages && ct_is_zero_page(from + (i + n) * CT_PAGE) == is_zero; n++)
			;
		if (!is_zero)
			memmove(to + sizeof(struct ct_img_pages), from + i * CT_PAGE, n * CT_PAGE);
		put_head(to, vaddr + i * CT_PAGE, n, is_zero ? CT_IMG_PAGES_ZERO : 0);
		to += sizeof(struct ct_img_pages) + (is_zero ? 0 : n * CT_PAGE);
		i += n;
	}
	return to;
}

static void mark_absent(struct ct_rank *r)
{
	for CT_EACH(const struct ct_img_extent, e, &r->serve.absent)
		for (uint64_t a = e->start, at = index_of(r, a); a < e->end; a += CT_PAGE, at++)
			ct_bit_set(r->serve.served, at);
}

/* Of mappings that come as a whole: which pages do they have? The rank runs elsewhere by now. */
static int look(struct ct_rank *r, struct gw_error *why)
{
	struct ct_serve *s = &r->serve;
	struct ct_vec present, spans;
	int rc;

	if (!s->is_whole || s->is_looked)
		return 0;
	ct_vec_init(&present, sizeof(struct ct_extent));
	ct_vec_init(&spans, sizeof(struct ct_img_extent));
	rc = ct_extents_scan(r, &r->snap, &present, why);
	for CT_EACH(const struct ct_extent, e, &present)
		if (rc == 0 && ct_spans_add(&spans, e->start, e->end) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of pages");
	if (rc == 0 && ct_spans_cut(&s->absent, &r->snap.later, &spans) < 0)
		rc = gw_fail(why, -ENOMEM, "no memory for a list of pages");
	ct_vec_fini(&present);
	ct_vec_fini(&spans);
	if (rc < 0)
		return rc;
	s->is_looked = true;
	mark_absent(r);
	return 0;
}

/* Heads of what was never there, as many as fit. */
static unsigned char *tell_absent(struct ct_rank *r, unsigned char *to, const unsigned char *end)
{
	struct ct_serve *s = &r->serve;

	for (; s->absent_at < s->absent.n && to + sizeof(struct ct_img_pages) <= end; s->absent_at++) {
		const struct ct_img_extent *e = CT_AT(struct ct_img_extent, &s->absent, s->absent_at);

		put_head(to, e->start, (e->end - e->start) / CT_PAGE, CT_IMG_PAGES_ZERO | CT_IMG_PAGES_ABSENT);
		to += sizeof(struct ct_img_pages);
	}
	return to;
}

static bool is_absent(const struct ct_serve *s, uint64_t addr)
{
	size_t lo = 0, hi = s->absent.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct ct_img_extent *e = CT_AT(const struct ct_img_extent, &s->absent, mid);

		if (addr >= e->start && addr < e->end)
			return true;
		if (addr < e->start)
			hi = mid;
		else
			lo = mid + 1;
	}
	return false;
}

/* Up to @pages from index @at that were not served yet and stand together, to @to. Return: bytes; *next: the index behind */
static ssize_t take(struct ct_rank *r, uint64_t at, size_t pages, unsigned char *to, uint64_t *next, struct gw_error *why)
{
	struct ct_serve *s = &r->serve;
	uint64_t vaddr, end;
	size_t n = 0;
	int rc;

	vaddr = ct_pages_address(&r->snap.later, &s->first, at, &end);
	while (n < pages && vaddr + n * CT_PAGE < end && !ct_bit_is_set(s->served, at + n))
		n++;
	*next = at + n;
	if (!n)
		return 0;
	rc = ct_mem_read(r->pid, vaddr, to + sizeof(struct ct_img_pages), n * CT_PAGE);
	if (rc < 0)
		return gw_fail(why, rc, "the frozen copy of pid %d cannot be read any more: %s", (int)r->pid, strerror(-rc));
	for (size_t i = 0; i < n; i++)
		ct_bit_set(s->served, at + i);
	return pack(to, vaddr, n) - to;
}

ssize_t ct_serve_next(struct ct_rank *r, void *buf, size_t cap, uint64_t *cursor, struct gw_error *why)
{
	struct ct_serve *s = &r->serve;
	unsigned char *to = buf;
	int rc = look(r, why);

	if (rc < 0)
		return rc;
	to = tell_absent(r, to, to + cap);
	while (s->at < s->pages && (size_t)(to - (unsigned char *)buf) + sizeof(struct ct_img_pages) + CT_PAGE <= cap) {
		size_t room = (cap - (size_t)(to - (unsigned char *)buf) - sizeof(struct ct_img_pages)) / CT_PAGE;
		ssize_t n;

		if (ct_bit_is_set(s->served, s->at)) {
			s->at++;
			continue;
		}
		n = take(r, s->at, room, to, &s->at, why);
		if (n < 0)
			return n;
		to += n;
	}
	*cursor = s->at;
	return to - (unsigned char *)buf;
}

ssize_t ct_serve_page(struct ct_rank *r, uint64_t addr, void *buf, size_t cap, struct gw_error *why)
{
	struct ct_serve *s = &r->serve;
	uint64_t at = s->served ? index_of(r, addr) : UINT64_MAX, next;
	int rc = look(r, why);

	if (at == UINT64_MAX || cap < sizeof(struct ct_img_pages) + CT_PAGE)
		return gw_fail(why, -EPROTO, "a page at %#llx was asked for, which was never left behind", (unsigned long long)addr);
	if (rc < 0)
		return rc;
	if (is_absent(s, addr)) {
		put_head(buf, addr, 1, CT_IMG_PAGES_ZERO | CT_IMG_PAGES_ABSENT);
		return sizeof(struct ct_img_pages);
	}
	ct_bit_clear(s->served, at); /* asked for again: what was sent has not come */
	return take(r, at, (cap - sizeof(struct ct_img_pages)) / CT_PAGE, buf, &next, why);
}

void ct_serve_rewind(struct ct_rank *r, uint64_t cursor)
{
	struct ct_serve *s = &r->serve;

	s->at = cursor < s->pages ? cursor : s->pages;
	if (s->served)
		memset(s->served, 0, s->pages / 8 + 1);
	s->absent_at = 0;
	if (s->served && s->is_looked)
		mark_absent(r);
}

bool ct_serve_is_out(const struct ct_rank *r)
{
	return r->serve.at >= r->serve.pages && r->serve.absent_at == r->serve.absent.n && (r->serve.is_looked || !r->serve.is_whole);
}

uint64_t ct_serve_ahead(const struct ct_rank *r, uint64_t cursor)
{
	return r->serve.at > cursor ? (r->serve.at - cursor) * CT_PAGE : 0;
}
