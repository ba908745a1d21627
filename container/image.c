/* SPDX-License-Identifier: BSD-2-Clause */
/* The image as bytes: a snapshot written as sections, and a reader that takes them cut anywhere and trusts nothing. */
#include "container/rank.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define USER_END 0x7ffffffff000ull
#define META_MAX (256u << 20) /* of one section: far above what a process can have */

void ct_snapshot_init(struct ct_snapshot *s)
{
	memset(&s->process, 0, sizeof(s->process));
	ct_vec_init(&s->strings, 1);
	ct_vec_init(&s->files, sizeof(struct ct_img_file));
	ct_vec_init(&s->auxv, sizeof(uint64_t));
	ct_vec_init(&s->vmas, sizeof(struct ct_img_vma));
	ct_vec_init(&s->fds, sizeof(struct ct_img_fd));
	ct_vec_init(&s->timers, sizeof(struct ct_img_timer));
	ct_vec_init(&s->timerfds, sizeof(struct ct_img_timerfd));
	ct_vec_init(&s->watches, sizeof(struct ct_img_watch));
	ct_vec_init(&s->handles, sizeof(struct ct_img_handle));
	ct_vec_init(&s->locks, sizeof(struct ct_img_lock));
	ct_vec_init(&s->sysv, sizeof(struct ct_img_sysv));
	ct_vec_init(&s->policies, sizeof(struct ct_img_policy));
	ct_vec_init(&s->dropped, sizeof(struct ct_img_extent));
	ct_vec_init(&s->later, sizeof(struct ct_img_extent));
	ct_vec_init(&s->memories, sizeof(struct ct_img_memory));
	ct_vec_init(&s->threads, sizeof(struct ct_img_thread));
	ct_vec_init(&s->xstate, 1);
	ct_vec_init(&s->actions, sizeof(struct ct_img_action));
	ct_vec_init(&s->infos, sizeof(struct ct_img_siginfo));
	ct_vec_init(&s->unread, sizeof(struct ct_unread));
	ct_vec_init(&s->bytes, 1);
}

void ct_snapshot_fini(struct ct_snapshot *s)
{
	struct ct_vec *all[] = { &s->strings, &s->files, &s->auxv, &s->vmas, &s->fds, &s->threads, &s->xstate, &s->actions,
	                         &s->infos, &s->timers, &s->timerfds, &s->watches, &s->dropped, &s->later, &s->memories,
	                         &s->handles, &s->locks, &s->policies, &s->sysv, &s->unread, &s->bytes };

	for (size_t i = 0; i < GW_ARRAY_LEN(all); i++)
		ct_vec_fini(all[i]);
}

uint32_t ct_snapshot_string(struct ct_snapshot *s, const char *text)
{
	uint32_t at;

	if (!text[0])
		return 0;
	if (s->strings.n == 0 && !ct_vec_add(&s->strings, 1))
		return 0;
	for CT_EACH(const struct ct_img_file, f, &s->files)
		if (f->path && strcmp(ct_snapshot_text(s, f->path), text) == 0)
			return f->path;
	at = (uint32_t)s->strings.n;
	return ct_vec_append(&s->strings, text, strlen(text) + 1) < 0 ? 0 : at;
}

const char *ct_snapshot_text(const struct ct_snapshot *s, uint32_t offset)
{
	return offset < s->strings.n ? (const char *)s->strings.at + offset : "";
}

int ct_section_write(struct ct_vec *out, enum ct_section type, uint32_t count, const void *p, size_t len)
{
	struct ct_img_section h = { .magic = CT_IMAGE_MAGIC, .type = (uint16_t)type, .version = CT_IMAGE_VERSION,
		.count = count, .length = len };
	int rc = ct_vec_append(out, &h, sizeof(h));

	return rc < 0 ? rc : ct_vec_append(out, p, len);
}

int ct_snapshot_write_head(const struct ct_snapshot *s, struct ct_vec *out)
{
	const struct { enum ct_section type; const struct ct_vec *v; } parts[] = {
		{ CT_SECTION_STRINGS, &s->strings }, { CT_SECTION_FILES, &s->files },     { CT_SECTION_AUXV, &s->auxv },
		{ CT_SECTION_VMAS, &s->vmas },       { CT_SECTION_FDS, &s->fds },         { CT_SECTION_THREADS, &s->threads },
		{ CT_SECTION_XSTATE, &s->xstate },   { CT_SECTION_ACTIONS, &s->actions }, { CT_SECTION_SIGINFOS, &s->infos },
		{ CT_SECTION_TIMERS, &s->timers },   { CT_SECTION_TIMERFDS, &s->timerfds }, { CT_SECTION_WATCHES, &s->watches },
		{ CT_SECTION_MEMORIES, &s->memories }, { CT_SECTION_HANDLES, &s->handles }, { CT_SECTION_LOCKS, &s->locks },
		{ CT_SECTION_POLICIES, &s->policies }, { CT_SECTION_SYSV, &s->sysv },
	};
	int rc;

	out->n = 0;
	rc = ct_section_write(out, CT_SECTION_PROCESS, 1, &s->process, sizeof(s->process));
	for (size_t i = 0; rc == 0 && i < GW_ARRAY_LEN(parts); i++) {
		uint32_t count = (uint32_t)(parts[i].type == CT_SECTION_XSTATE ? s->threads.n : parts[i].v->n);

		rc = ct_section_write(out, parts[i].type, count, parts[i].v->at, parts[i].v->n * parts[i].v->size);
	}
	for (size_t i = 0; rc == 0 && i < s->unread.n; i++) {
		const struct ct_unread *u = CT_AT(struct ct_unread, &s->unread, i);

		rc = ct_section_write(out, CT_SECTION_UNREAD, 1, NULL, sizeof(u->head) + u->head.length);
		if (rc == 0) {
			unsigned char *p = (unsigned char *)out->at + out->n - sizeof(u->head) - u->head.length;

			memcpy(p, &u->head, sizeof(u->head));
			memcpy(p + sizeof(u->head), (unsigned char *)s->bytes.at + u->at, u->head.length);
		}
	}
	return rc;
}

int ct_snapshot_write_tail(const struct ct_snapshot *s, struct ct_vec *out)
{
	int rc = ct_section_write(out, CT_SECTION_DROPPED, (uint32_t)s->dropped.n, s->dropped.at, s->dropped.n * s->dropped.size);

	return rc < 0 ? rc : ct_section_write(out, CT_SECTION_LATER, (uint32_t)s->later.n, s->later.at, s->later.n * s->later.size);
}

/* ---- reader ---------------------------------------------------------------------------------------------------- */

void ct_reader_init(struct ct_reader *d, const struct ct_reader_ops *ops, void *ctx, struct ct_snapshot *snap)
{
	memset(d, 0, sizeof(*d));
	d->ops = ops;
	d->ctx = ctx;
	d->snap = snap;
	ct_vec_init(&d->part, 1);
	ct_vec_init(&d->extents, sizeof(struct ct_img_extent));
}

void ct_reader_fini(struct ct_reader *d)
{
	ct_vec_fini(&d->part);
	ct_vec_fini(&d->extents);
}

static int bad(struct gw_error *why, const char *what)
{
	return gw_fail(why, -EBADMSG, "the image is damaged: %s", what);
}

static int take_array(struct ct_vec *v, const struct ct_img_section *h, const void *p, struct gw_error *why)
{
	if (h->length != (uint64_t)h->count * v->size)
		return bad(why, "a section's length does not fit its count");
	v->n = 0;
	return ct_vec_append(v, p, h->count) < 0 ? gw_fail(why, -ENOMEM, "no memory for the image") : 0;
}

static int take_unread(struct ct_snapshot *s, const struct ct_img_section *h, const void *p, struct gw_error *why)
{
	struct ct_unread u = { .at = s->bytes.n };

	if (h->length < sizeof(u.head))
		return bad(why, "unread bytes without a head");
	memcpy(&u.head, p, sizeof(u.head));
	if (u.head.length != h->length - sizeof(u.head) || u.head.plumb >= CT_PLUMB_MAX || !u.head.plumb == !u.head.pipe)
		return bad(why, "unread bytes of nothing");
	if (ct_vec_append(&s->bytes, (const unsigned char *)p + sizeof(u.head), u.head.length) < 0 ||
	    ct_vec_append(&s->unread, &u, 1) < 0)
		return gw_fail(why, -ENOMEM, "no memory for the image");
	return 0;
}

static int take_bytes(struct ct_reader *d, const struct ct_img_section *h, const void *p, struct gw_error *why)
{
	struct ct_img_bytes b;

	if (h->length < sizeof(b))
		return bad(why, "bytes of a file without a head");
	memcpy(&b, p, sizeof(b));
	if (b.is_memory > 1 || b.file >= (b.is_memory ? d->snap->memories.n : d->snap->files.n))
		return bad(why, "bytes of a file that is not listed");
	if (!d->ops || !d->ops->bytes)
		return 0;
	return d->ops->bytes(d->ctx, &b, (const unsigned char *)p + sizeof(b), h->length - sizeof(b), why);
}

static int round_done(struct ct_reader *d, struct gw_error *why)
{
	int rc = d->ops && d->ops->round ? d->ops->round(d->ctx, why) : 0;

	d->seen = d->first_vma = 0;
	d->pages_seen = d->next_vaddr = 0;
	d->is_meta_done = d->is_round = false;
	return rc;
}

static int head_taken(struct ct_reader *d, struct gw_error *why);

static int take_section(struct ct_reader *d, const void *p, struct gw_error *why)
{
	struct ct_snapshot *s = d->snap;
	const struct ct_img_section *h = &d->head;
	uint32_t bit = 1u << h->type;
	struct ct_img_round round;
	struct ct_img_end end;

	if (!d->seen && h->type != CT_SECTION_PROCESS && h->type != CT_SECTION_NEEDS && h->type != CT_SECTION_ROUND)
		return bad(why, "it does not begin with a process");
	if ((d->seen & bit) && h->type != CT_SECTION_UNREAD && h->type != CT_SECTION_BYTES)
		return bad(why, "a section comes twice");
	if (d->is_head_done && h->type != CT_SECTION_DROPPED && h->type != CT_SECTION_LATER && h->type != CT_SECTION_BYTES && h->type != CT_SECTION_END)
		return bad(why, "a section comes after the head");
	if (d->is_meta_done && h->type != (d->is_round ? CT_SECTION_ROUND_END : CT_SECTION_END) &&
	    (d->is_round || h->type != CT_SECTION_BYTES))
		return bad(why, "a section comes after the pages");
	d->seen |= bit;
	switch (h->type) {
	case CT_SECTION_PROCESS:
		if (h->length != sizeof(s->process))
			return bad(why, "a process of another size");
		memcpy(&s->process, p, sizeof(s->process));
		return 0;
	case CT_SECTION_NEEDS:
		if (h->length != sizeof(d->needs))
			return bad(why, "needs of another size");
		memcpy(&d->needs, p, sizeof(d->needs));
		d->is_needs = true;
		return 0;
	case CT_SECTION_ROUND:
		if (h->length != sizeof(round))
			return bad(why, "a round of another size");
		memcpy(&round, p, sizeof(round));
		s->process.vdso_start = round.vdso_start;
		s->process.vdso_end = round.vdso_end;
		d->is_round = true;
		return 0;
	case CT_SECTION_STRINGS:
		if (h->length && (((const char *)p)[0] || ((const char *)p)[h->length - 1]))
			return bad(why, "strings without an end");
		return take_array(&s->strings, h, p, why);
	case CT_SECTION_FILES:    return take_array(&s->files, h, p, why);
	case CT_SECTION_AUXV:     return take_array(&s->auxv, h, p, why);
	case CT_SECTION_VMAS:     return take_array(&s->vmas, h, p, why);
	case CT_SECTION_FDS:      return take_array(&s->fds, h, p, why);
	case CT_SECTION_THREADS:  return take_array(&s->threads, h, p, why);
	case CT_SECTION_ACTIONS:  return take_array(&s->actions, h, p, why);
	case CT_SECTION_SIGINFOS: return take_array(&s->infos, h, p, why);
	case CT_SECTION_TIMERS:   return take_array(&s->timers, h, p, why);
	case CT_SECTION_TIMERFDS: return take_array(&s->timerfds, h, p, why);
	case CT_SECTION_WATCHES:  return take_array(&s->watches, h, p, why);
	case CT_SECTION_DROPPED:  return take_array(&s->dropped, h, p, why);
	case CT_SECTION_HANDLES:  return take_array(&s->handles, h, p, why);
	case CT_SECTION_LOCKS:    return take_array(&s->locks, h, p, why);
	case CT_SECTION_POLICIES: return take_array(&s->policies, h, p, why);
	case CT_SECTION_SYSV:     return take_array(&s->sysv, h, p, why);
	case CT_SECTION_MEMORIES: return take_array(&s->memories, h, p, why);
	case CT_SECTION_LATER:    return take_array(&s->later, h, p, why);
	case CT_SECTION_EXTENTS:  return take_array(&d->extents, h, p, why);
	case CT_SECTION_UNREAD:   return take_unread(s, h, p, why);
	case CT_SECTION_HEAD:     return head_taken(d, why);
	case CT_SECTION_BYTES:    return take_bytes(d, h, p, why);
	case CT_SECTION_XSTATE:
		s->xstate.n = 0;
		return ct_vec_append(&s->xstate, p, h->length) < 0 ? gw_fail(why, -ENOMEM, "no memory for the image") : 0;
	case CT_SECTION_END:
	case CT_SECTION_ROUND_END:
		if (h->length != sizeof(end) || !d->is_meta_done)
			return bad(why, "an end of another size, or too early");
		memcpy(&end, p, sizeof(end));
		if (end.pages_sent != d->pages_seen)
			return bad(why, "pages are missing");
		if (h->type == CT_SECTION_ROUND_END)
			return round_done(d, why);
		d->pages_zero = end.pages_zero;
		d->is_complete = true;
		return 0;
	}
	return gw_fail(why, -EPROTO, "the image has a section of type %u, which this version does not know", h->type);
}

static bool is_range(uint64_t start, uint64_t end)
{
	return start < end && end <= USER_END && !(start % CT_PAGE) && !(end % CT_PAGE);
}

/* Everything that later code takes for granted about a snapshot from outside is proved here. */
static int check_files(const struct ct_snapshot *s, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_file, f, &s->files)
		if (!f->path || ct_snapshot_text(s, f->path)[0] != '/')
			return bad(why, "a file without a path");
		else if ((f->flags & CT_IMG_FILE_CARRIED) && ((f->flags & CT_IMG_FILE_MAPPED) || (f->mode & S_IFMT) != S_IFREG || f->size > INT64_MAX))
			return bad(why, "a file travels that cannot");
	return 0;
}

static int check_memories(const struct ct_snapshot *s, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_memory, m, &s->memories)
		if (m->size > INT64_MAX || strlen(ct_snapshot_text(s, m->name)) > 249 || (m->mode & ~07777u))
			return bad(why, "an impossible memory file");
	return 0;
}

static int check_vmas(const struct ct_snapshot *s, struct gw_error *why)
{
	uint64_t last = 0;

	for CT_EACH(const struct ct_img_vma, v, &s->vmas) {
		if (!is_range(v->start, v->end) || v->start < last || v->start < 65536)
			return bad(why, "mappings that overlap or are out of order");
		if (v->start < s->process.vdso_end && v->end > s->process.vdso_start)
			return bad(why, "a mapping over the vdso");
		if (v->kind < CT_VMA_ANON || v->kind > CT_VMA_SYSV || (v->prot & ~7u) || v->offset % CT_PAGE)
			return bad(why, "a mapping of an unknown kind");
		if ((v->advice & CT_VMA_HUGETLB) && (v->offset < CT_PAGE || (v->offset & (v->offset - 1)) || v->start % v->offset || v->end % v->offset ||
		                                     (v->kind != CT_VMA_ANON && v->kind != CT_VMA_SHARED_ANON)))
			return bad(why, "impossible huge pages");
		if ((v->kind == CT_VMA_FILE || v->kind == CT_VMA_SHARED_FILE) && v->file >= s->files.n)
			return bad(why, "a mapping of a file that is not listed");
		if ((v->kind == CT_VMA_MEMORY || v->kind == CT_VMA_SHARED_MEMORY) && v->file >= s->memories.n)
			return bad(why, "a mapping of a memory file that is not listed");
		last = v->end;
	}
	return 0;
}

static int check_dropped(const struct ct_snapshot *s, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_extent, e, &s->dropped)
		if (!is_range(e->start, e->end))
			return bad(why, "impossible pages to be forgotten");
	return 0;
}

static int check_later(const struct ct_snapshot *s, struct gw_error *why)
{
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n;
	uint64_t last = 0;

	for CT_EACH(const struct ct_img_extent, e, &s->later) {
		uint64_t at = e->start;

		if (!is_range(e->start, e->end) || e->start < last)
			return bad(why, "impossible pages that come later");
		last = e->end;
		while (v < end && v->end <= at)
			v++;
		for (const struct ct_img_vma *w = v; at < e->end; at = w++->end)
			if (w >= end || w->start > at || w->kind != CT_VMA_ANON || (w->advice & CT_VMA_HUGETLB))
				return bad(why, "pages come later that are in no memory of its own");
	}
	return 0;
}

static int check_fds(const struct ct_snapshot *s, struct gw_error *why)
{
	uint32_t last = 0, i = 0;

	for CT_EACH(const struct ct_img_fd, fd, &s->fds) {
		if ((i && fd->number <= last) || fd->number > (1u << 20))
			return bad(why, "descriptors out of order");
		if (fd->kind < CT_FD_FILE || fd->kind > CT_FD_PAIR || fd->same_as > i ||
		    CT_AT(struct ct_img_fd, &s->fds, fd->same_as)->kind != fd->kind)
			return bad(why, "a descriptor of an unknown kind");
		if (fd->kind == CT_FD_FILE && fd->file >= s->files.n)
			return bad(why, "a descriptor of a file that is not listed");
		if (fd->kind == CT_FD_MEMORY && fd->file >= s->memories.n)
			return bad(why, "a descriptor of a memory file that is not listed");
		if (fd->kind == CT_FD_PLUMB && (fd->plumb == 0 || fd->plumb >= CT_PLUMB_MAX))
			return bad(why, "an unknown plumbing");
		if ((fd->kind == CT_FD_PIPE || fd->kind == CT_FD_PAIR) && (fd->plumb == 0 || fd->plumb > s->fds.n))
			return bad(why, "a pipe without a number");
		if (fd->kind == CT_FD_PAIR && (fd->end > 1 || fd->socket_type == 0 || fd->socket_type > SOCK_SEQPACKET))
			return bad(why, "a pair of sockets of an unknown type");
		if (fd->kind == CT_FD_SOCKET && (fd->socket_type == 0 || fd->socket_type > SOCK_SEQPACKET))
			return bad(why, "a socket of an unknown type");
		if (fd->kind == CT_FD_HANDED && fd->same_as == i && !ct_handle_of(s, fd->number))
			return bad(why, "a descriptor that is handed over, and not listed so");
		last = fd->number;
		i++;
	}
	return 0;
}

static int check_handles(const struct ct_snapshot *s, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_handle, h, &s->handles)
		if (h->fd > (1u << 20) || !h->pid || h->pid > (1u << 22) || s->handles.n > 4096)
			return bad(why, "an impossible descriptor to be handed over");
	for CT_EACH(const struct ct_img_lock, l, &s->locks)
		if (l->fd > (1u << 20) || l->kind < CT_LOCK_FLOCK || l->kind > CT_LOCK_FILE || l->is_exclusive > 1 ||
		    l->start > INT64_MAX || l->length > INT64_MAX - l->start)
			return bad(why, "an impossible lock");
	for CT_EACH(const struct ct_img_sysv, u, &s->sysv)
		if (u->kind < CT_SYSV_SET || u->kind > CT_SYSV_NAMESPACE || u->id < 0 || (u->kind == CT_SYSV_ADJUST && u->num > UINT16_MAX) ||
		    u->adjust > INT16_MAX || u->adjust < -INT16_MAX)
			return bad(why, "an impossible semaphore");
	return 0;
}

static int check_threads(const struct ct_snapshot *s, struct gw_error *why)
{
	if (!s->threads.n || s->threads.n != s->process.threads || s->threads.n > 65536)
		return bad(why, "no threads, or not those that the process has");
	if (CT_AT(struct ct_img_thread, &s->threads, 0)->ns_tid != s->process.ns_pid)
		return bad(why, "the first thread is not the main one");
	if (s->process.xstate_size < 576 || s->process.xstate_size > 65536 ||
	    s->xstate.n != (uint64_t)s->threads.n * s->process.xstate_size)
		return bad(why, "extended state of another size");
	for CT_EACH(const struct ct_img_thread, t, &s->threads) {
		if (t->ns_tid < 2 || t->ns_tid > (1u << 22) || !memchr(t->comm, 0, sizeof(t->comm)))
			return bad(why, "a thread with an impossible number or name");
		if (t->regs[17] != 0x33 || t->regs[20] != 0x2b || t->regs[16] >= USER_END)
			return bad(why, "a thread that is not a 64-bit one"); /* cs, ss, rip */
		if (t->rseq_len > 4096)
			return bad(why, "an impossible rseq area");
	}
	for CT_EACH(const struct ct_img_action, a, &s->actions)
		if (a->sig < 1 || a->sig > 64)
			return bad(why, "an impossible signal");
	for CT_EACH(const struct ct_img_siginfo, i, &s->infos) {
		int32_t sig;

		memcpy(&sig, i->info, sizeof(sig));
		if (sig < 1 || sig > 64)
			return bad(why, "an impossible signal");
	}
	return 0;
}

static bool is_fd_of_kind(const struct ct_snapshot *s, uint32_t index, uint32_t kind)
{
	return index < s->fds.n && CT_AT(struct ct_img_fd, &s->fds, index)->kind == kind;
}

static int check_timers(const struct ct_snapshot *s, struct gw_error *why)
{
	int64_t last = -1;

	for CT_EACH(const struct ct_img_timer, t, &s->timers) {
		if (t->id <= last || t->id > INT32_MAX || t->signal > 64 || t->expiry_ns < 0 || t->interval_ns < 0)
			return bad(why, "an impossible timer");
		last = t->id;
	}
	for CT_EACH(const struct ct_img_timerfd, t, &s->timerfds)
		if (!is_fd_of_kind(s, t->fd, CT_FD_TIMER) || t->expiry_ns < 0 || t->interval_ns < 0)
			return bad(why, "an impossible timer descriptor");
	for CT_EACH(const struct ct_img_watch, w, &s->watches)
		if (!is_fd_of_kind(s, w->fd, CT_FD_EPOLL))
			return bad(why, "an epoll watch without an instance");
	return 0;
}

/* All of the image's that comes before DROPPED and LATER. */
static int check_head(const struct ct_reader *d, struct gw_error *why)
{
	const struct ct_snapshot *s = d->snap;
	const struct ct_img_process *p = &s->process;
	const uint32_t all = 1u << CT_SECTION_PROCESS | 1u << CT_SECTION_STRINGS | 1u << CT_SECTION_FILES |
		1u << CT_SECTION_AUXV | 1u << CT_SECTION_VMAS | 1u << CT_SECTION_FDS | 1u << CT_SECTION_THREADS |
		1u << CT_SECTION_XSTATE | 1u << CT_SECTION_ACTIONS | 1u << CT_SECTION_SIGINFOS | 1u << CT_SECTION_TIMERS |
		1u << CT_SECTION_TIMERFDS | 1u << CT_SECTION_WATCHES | 1u << CT_SECTION_MEMORIES |
		1u << CT_SECTION_HANDLES | 1u << CT_SECTION_LOCKS | 1u << CT_SECTION_POLICIES;
	int rc;

	if ((d->seen & all) != all)
		return bad(why, "a section is missing");
	if (!is_range(p->vdso_start, p->vdso_end) || p->vdso_end - p->vdso_start > (1u << 20) ||
	    (p->exe_file & CT_IMG_EXE_MEMORY ? (p->exe_file ^ CT_IMG_EXE_MEMORY) >= s->memories.n : p->exe_file >= s->files.n) || ct_snapshot_text(s, p->cwd)[0] != '/' || s->auxv.n > 512)
		return bad(why, "a process with impossible values");
	rc = check_files(s, why);
	if (rc == 0)
		rc = check_memories(s, why);
	if (rc == 0)
		rc = check_vmas(s, why);
	if (rc == 0)
		rc = check_fds(s, why);
	if (rc == 0)
		rc = check_handles(s, why);
	if (rc == 0)
		rc = check_threads(s, why);
	return rc == 0 ? check_timers(s, why) : rc;
}

/* HEAD. What may come later is not known yet, and then nothing does. */
static int head_taken(struct ct_reader *d, struct gw_error *why)
{
	int rc;

	if (d->is_round || d->is_needs || d->head.length || (d->seen & (1u << CT_SECTION_DROPPED | 1u << CT_SECTION_LATER)))
		return bad(why, "a head where none should be");
	rc = check_head(d, why);
	if (rc < 0)
		return rc;
	d->is_head_done = true;
	return d->ops && d->ops->head ? d->ops->head(d->ctx, why) : 0;
}

static int meta_done(struct ct_reader *d, struct gw_error *why)
{
	const struct ct_snapshot *s = d->snap;
	const struct ct_img_process *p = &s->process;
	const uint32_t tail = 1u << CT_SECTION_DROPPED | 1u << CT_SECTION_LATER;
	const uint32_t of_round = 1u << CT_SECTION_ROUND | 1u << CT_SECTION_STRINGS | 1u << CT_SECTION_FILES |
		1u << CT_SECTION_VMAS | 1u << CT_SECTION_DROPPED;
	int rc;

	d->is_meta_done = true;
	if (d->is_needs) {
		rc = check_files(s, why);
		if (rc == 0)
			rc = check_handles(s, why);
		for CT_EACH(const struct ct_img_extent, e, &d->extents)
			if (rc == 0 && !is_range(e->start, e->end))
				rc = bad(why, "an impossible extent");
		for CT_EACH(const struct ct_img_thread, t, &s->threads)
			if (rc == 0 && (t->ns_tid < 2 || t->ns_tid > (1u << 22)))
				rc = bad(why, "a thread with an impossible number");
		return rc == 0 ? check_vmas(s, why) : rc;
	}
	rc = check_dropped(s, why);
	if (rc < 0)
		return rc;
	if (d->is_round) {
		if ((d->seen & of_round) != of_round || !is_range(p->vdso_start, p->vdso_end))
			return bad(why, "a round without its mappings");
		rc = check_files(s, why);
		if (rc == 0)
			rc = check_vmas(s, why);
		return rc == 0 && d->ops ? d->ops->meta(d->ctx, why) : rc;
	}
	if ((d->seen & tail) != tail)
		return bad(why, "a section is missing");
	if (d->is_head_done && s->later.n)
		return bad(why, "pages come later of a rank whose head came before");
	rc = d->is_head_done ? 0 : check_head(d, why);
	if (rc == 0)
		rc = check_later(s, why);
	return rc == 0 && d->ops ? d->ops->meta(d->ctx, why) : rc;
}

static int head_done(struct ct_reader *d, struct gw_error *why)
{
	const struct ct_img_section *h = &d->head;

	if (h->magic != CT_IMAGE_MAGIC)
		return bad(why, "no section where one should be");
	if (h->version != CT_IMAGE_VERSION || h->type < CT_SECTION_PROCESS || h->type > CT_SECTION_LAST)
		return gw_fail(why, -EPROTO, "the image has a section of type %u, version %u, which this version does not know",
		               h->type, h->version);
	if (d->is_complete)
		return bad(why, "it goes on after its end");
	if (h->type != CT_SECTION_PAGES && h->length > META_MAX)
		return bad(why, "a section is too long");
	if (h->type == CT_SECTION_PAGES) {
		if (!d->seen || d->is_needs)
			return bad(why, "pages without a process");
		if (h->length < sizeof(struct ct_img_pages) ||
		    h->length - sizeof(struct ct_img_pages) != (uint64_t)h->count * CT_PAGE || !h->count)
			return bad(why, "a run of pages of another length");
	}
	if (h->type == CT_SECTION_BYTES && (!d->seen || d->is_needs || h->length > META_MAX / 16))
		return bad(why, "bytes of a file without a process, or too many");
	if ((h->type == CT_SECTION_PAGES || h->type == CT_SECTION_BYTES || h->type == CT_SECTION_END ||
	     h->type == CT_SECTION_ROUND_END) && !d->is_meta_done)
		return meta_done(d, why);
	return 0;
}

static int run_done(struct ct_reader *d, struct gw_error *why)
{
	uint64_t len = (uint64_t)d->run.pages * CT_PAGE;

	if (d->run.pages != d->head.count || !is_range(d->run.vaddr, d->run.vaddr + len) || d->run.vaddr < d->next_vaddr)
		return bad(why, "pages out of order");
	d->next_vaddr = d->run.vaddr + len;
	d->run_left = len;
	d->pages_seen += d->run.pages;
	return 0;
}

/* hand @len bytes at the run's position on, cut at the borders of VMAs */
static int pages_pass(struct ct_reader *d, const unsigned char *p, size_t len, struct gw_error *why)
{
	uint64_t at = d->run.vaddr + (uint64_t)d->run.pages * CT_PAGE - d->run_left;

	while (len) {
		const struct ct_img_vma *v;
		size_t n = len;
		int rc;

		while (d->first_vma < d->snap->vmas.n && CT_AT(struct ct_img_vma, &d->snap->vmas, d->first_vma)->end <= at)
			d->first_vma++;
		v = CT_AT(struct ct_img_vma, &d->snap->vmas, d->first_vma);
		if (d->first_vma >= d->snap->vmas.n || v->start > at || v->kind == CT_VMA_SHARED_FILE ||
		    v->kind == CT_VMA_SHARED_MEMORY || v->kind == CT_VMA_SYSV)
			return bad(why, "a page that is in no mapping");
		if (n > v->end - at)
			n = (size_t)(v->end - at);
		rc = d->ops ? d->ops->pages(d->ctx, at, p, n, why) : 0;
		if (rc < 0)
			return rc;
		at += n;
		p += n;
		len -= n;
		d->run_left -= n;
	}
	return 0;
}

/* collect up to @want bytes in d->part; true when they are there */
static int collect(struct ct_reader *d, size_t want, const unsigned char **p, size_t *len)
{
	size_t n = want - d->part.n < *len ? want - d->part.n : *len;

	if (ct_vec_append(&d->part, *p, n) < 0)
		return -ENOMEM;
	*p += n;
	*len -= n;
	return d->part.n == want;
}

int ct_reader_feed(struct ct_reader *d, const void *buf, size_t len, struct gw_error *why)
{
	const unsigned char *p = buf;
	int rc = 0;

	while (rc >= 0 && len) {
		if (!d->has_head) {
			rc = collect(d, sizeof(d->head), &p, &len);
			if (rc <= 0)
				continue;
			memcpy(&d->head, d->part.at, sizeof(d->head));
			d->part.n = 0;
			d->has_head = true;
			d->has_run = false;
			rc = head_done(d, why);
			if (rc == 0 && d->head.length == 0) {
				rc = take_section(d, "", why);
				d->has_head = false;
			}
		} else if (d->head.type != CT_SECTION_PAGES) {
			if (d->part.n == 0 && len >= d->head.length) { /* all of it is here: no copy */
				rc = take_section(d, p, why);
				p += d->head.length;
				len -= d->head.length;
				d->has_head = false;
				continue;
			}
			rc = collect(d, d->head.length, &p, &len);
			if (rc > 0) {
				rc = take_section(d, d->part.at, why);
				d->part.n = 0;
				d->has_head = false;
			}
		} else if (!d->has_run) {
			rc = collect(d, sizeof(d->run), &p, &len);
			if (rc > 0) {
				memcpy(&d->run, d->part.at, sizeof(d->run));
				d->part.n = 0;
				d->has_run = true;
				rc = run_done(d, why);
			}
		} else if (d->part.n || len < CT_PAGE) { /* a page that was cut */
			rc = collect(d, CT_PAGE, &p, &len);
			if (rc > 0) {
				rc = pages_pass(d, d->part.at, CT_PAGE, why);
				if (rc == 0 && d->ops)
					rc = d->ops->flush(d->ctx, why);
				d->part.n = 0;
				d->has_head = d->run_left > 0;
			}
		} else {
			size_t n = len < d->run_left ? len & ~(size_t)(CT_PAGE - 1) : (size_t)d->run_left;

			rc = pages_pass(d, p, n, why);
			p += n;
			len -= n;
			d->has_head = d->run_left > 0;
		}
	}
	if (rc == -ENOMEM && why && !why->code)
		gw_fail(why, rc, "no memory for the image");
	if (rc >= 0 && d->ops && d->is_meta_done)
		rc = d->ops->flush(d->ctx, why);
	return rc < 0 ? rc : 0;
}
