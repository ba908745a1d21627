/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Following what a running rank writes, so that most of its memory is at the destination before it is stopped.
 *
 * A userfaultfd that only marks (asynchronous write protection, Linux 6.7) is made inside the rank and fetched at once; the
 * rank stands still for two system calls of its main thread. From then on PAGEMAP_SCAN tells and clears what was written.
 *
 *   there   what the destination may have pages of          present  what the rank has pages of now
 *   valid   what it has as the rank had it when last looked  written  since then; all of a mapping that is not followed
 *
 *   a look:       kept := what survives the new mappings at the destination     valid := valid * kept - written
 *                 dropped := there * kept - present                             send := present - valid
 *   it was sent:  there := valid := present     (what could not be read is not valid)
 *   it is left:   there := there - send                 what comes after the rank (serve.c) is given back there. That is done for
 *                                                       speed: huge pages bring neighbours along, and the destination gives
 *                                                       back all of LATER once more
 *
 * First the pages are protected, then those that are present are listed, then they are read: what is written meanwhile is
 * found written in the next round.
 */
#include "container/spans.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/userfaultfd.h, which may be older than the kernel */
struct uffd_api { uint64_t api, features, ioctls; };
struct uffd_register { uint64_t start, len, mode, ioctls; };
#define UFFD_API_           0xaa
#define UFFDIO_API_         0xc018aa3ful
#define UFFDIO_REGISTER_    0xc020aa00ul
#define UFFD_WP_ASYNC       (1ull << 15)
#define UFFD_MODE_WP        2
#define UFFD_USER_MODE_ONLY_ 1

struct ct_follow {
	int uffd;
	struct ct_snapshot seen;            /* mappings as the destination has them; none before the first round */
	struct ct_vec there, valid;         /* struct ct_img_extent, as spans.h has them */
	struct ct_vec kept, written, other; /* of one round */
	struct ct_vec present;              /* struct ct_extent */
	struct ct_snapshot next_seen;       /* the same when the round that was looked for has been sent */
	struct ct_vec next_there;
	bool is_left;                       /* of it, what is not valid yet comes later, or at the freeze */
	uint32_t rounds;
	uint64_t looked_ns;                 /* when it was looked at last */
};

void ct_rank_follow_from(struct ct_rank *r, uint64_t bytes)
{
	r->follow_from = bytes;
}

const struct ct_snapshot *ct_follow_mappings(const struct ct_rank *r)
{
	return &r->follow->next_seen;
}

/* ---- begin and end ------------------------------------------------------------------------------------------------- */

static struct ct_follow *follow_new(void)
{
	struct ct_follow *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->uffd = -1;
	ct_snapshot_init(&f->seen);
	ct_snapshot_init(&f->next_seen);
	ct_vec_init(&f->next_there, sizeof(struct ct_img_extent));
	ct_vec_init(&f->there, sizeof(struct ct_img_extent));
	ct_vec_init(&f->valid, sizeof(struct ct_img_extent));
	ct_vec_init(&f->kept, sizeof(struct ct_img_extent));
	ct_vec_init(&f->written, sizeof(struct ct_img_extent));
	ct_vec_init(&f->other, sizeof(struct ct_img_extent));
	ct_vec_init(&f->present, sizeof(struct ct_extent));
	return f;
}

void ct_follow_end(struct ct_rank *r)
{
	struct ct_follow *f = r->follow;

	if (!f)
		return;
	r->follow = NULL;
	if (f->uffd >= 0)
		close(f->uffd); /* the last one: nothing is protected any more */
	ct_snapshot_fini(&f->seen);
	ct_snapshot_fini(&f->next_seen);
	ct_vec_fini(&f->next_there);
	ct_vec_fini(&f->there);
	ct_vec_fini(&f->valid);
	ct_vec_fini(&f->kept);
	ct_vec_fini(&f->written);
	ct_vec_fini(&f->other);
	ct_vec_fini(&f->present);
	free(f);
}

/* In the rank's main thread, which stands: make one, fetch it, close its number there before the program can see it. */
static int fetch_uffd(struct ct_rank *r, struct gw_error *why)
{
	struct ct_thread *t = r->threads.at;
	uint64_t arg[6] = { O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY_ }, insn = ct_vdso_syscall(r->pid, r->vdso_end, r->is_vdso_own);
	int64_t number = -1, ignored;
	int fd = -1, rc;

	if (!insn)
		return gw_fail(why, -ENOTSUP, "no system call instruction was found in the vdso of pid %d", (int)r->pid);
	rc = ct_sigmask_block(t, why);
	if (rc == 0)
		rc = ct_remote_one(t->tid, &t->regs, insn, SYS_userfaultfd, arg, &number, why);
	if (rc == 0 && number < 0)
		return gw_fail(why, -ENOTSUP, "userfaultfd: %s", strerror((int)-number));
	if (rc < 0)
		return rc;
	fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, (int)number, 0);
	if (fd < 0)
		rc = gw_fail(why, -ENOTSUP, "its userfaultfd cannot be fetched: %s", strerror(errno));
	arg[0] = (uint64_t)number;
	if (ct_remote_one(t->tid, &t->regs, insn, SYS_close, arg, &ignored, rc == 0 ? why : NULL) < 0) {
		if (fd >= 0)
			close(fd);
		return -EIO;
	}
	return rc < 0 ? rc : fd;
}

int ct_follow_begin(struct ct_rank *r, struct gw_error *why)
{
	struct uffd_api api = { .api = UFFD_API_, .features = UFFD_WP_ASYNC };
	struct ct_follow *f;
	int rc;

	if (r->state != CT_RUNNING || r->follow || !r->has_look)
		return gw_fail(why, -EINVAL, "pid %d cannot be followed now", (int)r->pid);
	f = follow_new();
	if (!f)
		return gw_fail(why, -ENOMEM, "no memory to follow a rank");
	r->follow = f;
	rc = ct_leader_stop(r, 500, why);
	if (rc == 0) {
		rc = fetch_uffd(r, why);
		ct_leader_go(r);
	}
	if (rc >= 0) {
		f->uffd = rc;
		rc = ioctl(f->uffd, UFFDIO_API_, &api) < 0 ? gw_fail(why, -ENOTSUP, "userfaultfd: no asynchronous write protection "
		                                                     "(Linux 6.7)") : 0;
	}
	if (rc < 0)
		ct_follow_end(r);
	return rc;
}

/* ---- one look ------------------------------------------------------------------------------------------------------ */

/* What was written since the last look, ascending; a mapping that is not followed counts as written. Protects it again. */
static int look_written(struct ct_rank *r, const struct ct_snapshot *now, struct gw_error *why)
{
	struct ct_follow *f = r->follow;

	f->written.n = 0;
	for CT_EACH(const struct ct_img_vma, v, &now->vmas) {
		struct uffd_register reg = { v->start, v->end - v->start, UFFD_MODE_WP, 0 };
		int rc;

		if (!ct_vma_is_followable(v))
			continue;
		(void)ioctl(f->uffd, UFFDIO_REGISTER_, &reg); /* the scan tells whether it is followed */
		rc = ct_written_scan(r, v->start, v->end, &f->written);
		if (rc == -EPERM)
			rc = ct_spans_add(&f->written, v->start, v->end);
		if (rc < 0)
			return gw_fail(why, rc, "cannot find the pages that pid %d has written: %s", (int)r->pid, strerror(-rc));
	}
	return 0;
}

static void swap(struct ct_vec *a, struct ct_vec *b)
{
	struct ct_vec t = *a;

	*a = *b;
	*b = t;
}

/* The mappings are those of @now, and @present is there: what of it must be sent goes to @send, what the destination has in
 * vain to @dropped. */
static int compare(struct ct_follow *f, const struct ct_snapshot *now, const struct ct_vec *present, struct ct_vec *send,
                   struct ct_vec *dropped)
{
	int rc = ct_maps_kept(&f->seen, now, &f->kept);

	f->next_there.n = 0;
	for CT_EACH(const struct ct_extent, e, present)
		if (rc == 0)
			rc = ct_spans_add(&f->next_there, e->start, e->end);
	if (rc == 0)
		rc = ct_spans_common(&f->other, &f->there, &f->kept);
	if (rc == 0)
		rc = ct_spans_cut(dropped, &f->other, &f->next_there);
	if (rc == 0)
		rc = ct_spans_common(&f->other, &f->valid, &f->kept);
	if (rc == 0)
		rc = ct_spans_cut(&f->valid, &f->other, &f->written);
	return rc < 0 ? rc : ct_extents_cut(send, present, &f->valid);
}

/* ---- rounds -------------------------------------------------------------------------------------------------------- */

static int write_meta(struct ct_rank *r, const struct ct_snapshot *now, const struct ct_vec *dropped)
{
	struct ct_img_round head = { .number = r->follow->rounds, .vdso_start = now->process.vdso_start,
	                             .vdso_end = now->process.vdso_end };
	struct ct_vec vmas = { .size = sizeof(struct ct_img_vma) };
	const struct { enum ct_section type; const struct ct_vec *v; } parts[] = {
		{ CT_SECTION_STRINGS, &now->strings }, { CT_SECTION_FILES, &now->files }, { CT_SECTION_VMAS, &vmas },
		{ CT_SECTION_DROPPED, dropped },
	};
	int rc;

	r->meta.n = 0;
	rc = ct_vmas_ahead(r, now, &vmas);
	if (rc == 0)
		rc = ct_section_write(&r->meta, CT_SECTION_ROUND, 1, &head, sizeof(head));
	for (size_t i = 0; rc == 0 && i < GW_ARRAY_LEN(parts); i++)
		rc = ct_section_write(&r->meta, parts[i].type, (uint32_t)parts[i].v->n, parts[i].v->at, parts[i].v->n * parts[i].v->size);
	ct_vec_fini(&vmas);
	return rc;
}

/* what is shared is sent when all stands: who else writes it cannot be seen */
static void leave_out_shared(const struct ct_snapshot *s, struct ct_vec *extents)
{
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n;
	size_t n = 0;

	for CT_EACH(const struct ct_extent, e, extents) {
		while (v < end && v->end <= e->start)
			v++;
		if (v < end && ct_vma_is_followable(v))
			*CT_AT(struct ct_extent, extents, n++) = *e;
	}
	extents->n = n;
}

/*
 * Its mappings, with their flags. Those are told only together with what each has of pages, for which the kernel goes through all of
 * them: 17 ms for 1 GiB, and where nothing has been mapped that gives no more than a twentieth of the time.
 */
#define FLAGS_SHARE 20

static int look_flags(struct ct_rank *r)
{
	int rc = ct_maps_read(&r->maps, r->pid, false);

	if (rc < 0 || (ct_maps_are_same(&r->maps, &r->look) && gw_now_ns() - r->look.read_at_ns < FLAGS_SHARE * r->look.took_ns))
		return rc;
	r->files_seen.n = 0;
	return ct_maps_read(&r->look, r->pid, true);
}

/* its mappings now, to next_seen */
static int look_mappings(struct ct_rank *r, struct gw_error *why)
{
	struct ct_follow *f = r->follow;
	int rc;

	if (r->state != CT_RUNNING || !f)
		return gw_fail(why, -EINVAL, "pid %d is not followed", (int)r->pid);
	ct_snapshot_fini(&f->next_seen);
	ct_snapshot_init(&f->next_seen);
	rc = look_flags(r);
	return rc < 0 ? gw_fail(why, rc, "cannot read the memory map of pid %d: %s", (int)r->pid, strerror(-rc)) :
	       ct_vmas_scan(r, &r->look, &f->next_seen, why);
}

int ct_follow_round(struct ct_rank *r, struct ct_round *out, struct gw_error *why)
{
	struct ct_follow *f = r->follow;
	struct ct_vec dropped;
	uint64_t before = f ? ct_spans_bytes(&f->valid) : 0, at = gw_now_ns();
	int rc;

	ct_vec_init(&dropped, sizeof(struct ct_img_extent));
	rc = look_mappings(r, why);
	if (rc == 0)
		rc = look_written(r, &f->next_seen, why);
	if (rc == 0)
		rc = ct_extents_scan(r, &f->next_seen, &f->present, why);
	if (rc == 0) {
		leave_out_shared(&f->next_seen, &f->present);
		rc = compare(f, &f->next_seen, &f->present, &r->extents, &dropped);
		if (rc == 0)
			rc = write_meta(r, &f->next_seen, &dropped);
		if (rc < 0)
			gw_fail(why, rc, "no memory to follow a rank");
	}
	ct_vec_fini(&dropped);
	if (rc < 0)
		return rc;
	*out = (struct ct_round){ .number = f->rounds, .dirty_bytes = before - ct_spans_bytes(&f->valid),
	                          .since_ns = f->rounds ? at - f->looked_ns : 0 };
	for CT_EACH(const struct ct_extent, e, &r->extents)
		out->bytes += e->end - e->start;
	f->is_left = false;
	ct_image_begin(r, true, f->rounds == 0);
	f->rounds++;
	f->looked_ns = at;
	return 0;
}

int ct_follow_leave(struct ct_rank *r, struct gw_error *why)
{
	struct ct_follow *f = r->follow;
	struct ct_vec later, dropped;
	int rc;

	ct_vec_init(&later, sizeof(struct ct_img_extent));
	ct_vec_init(&dropped, sizeof(struct ct_img_extent));
	rc = ct_serve_find_later(&f->next_seen, &r->extents, &later);
	if (rc == 0)
		rc = ct_spans_cut(&f->other, &f->next_there, &later);
	if (rc == 0) {
		swap(&f->next_there, &f->other);
		rc = ct_spans_common(&f->other, &f->there, &f->kept);
	}
	if (rc == 0)
		rc = ct_spans_cut(&dropped, &f->other, &f->next_there);
	if (rc == 0)
		rc = write_meta(r, &f->next_seen, &dropped);
	if (rc == 0) /* the rest is not sent now either, and what the destination has of it is not valid */
		rc = ct_spans_common(&f->other, &f->valid, &f->next_there);
	ct_vec_fini(&later);
	ct_vec_fini(&dropped);
	if (rc < 0)
		return gw_fail(why, rc, "no memory to follow a rank");
	swap(&f->valid, &f->other);
	r->extents.n = 0;
	f->is_left = true;
	ct_image_begin(r, true, false);
	f->rounds++;
	return 0;
}

int ct_follow_forget(struct ct_rank *r, struct gw_error *why)
{
	struct ct_follow *f = r->follow;
	struct ct_vec dropped;
	int rc = look_mappings(r, why);

	if (rc < 0)
		return rc;
	ct_vec_init(&dropped, sizeof(struct ct_img_extent));
	rc = ct_maps_kept(&f->seen, &f->next_seen, &f->kept);
	if (rc == 0)
		rc = ct_spans_common(&dropped, &f->there, &f->kept);
	if (rc == 0)
		rc = write_meta(r, &f->next_seen, &dropped);
	ct_vec_fini(&dropped);
	if (rc < 0)
		return gw_fail(why, rc, "no memory to follow a rank");
	r->extents.n = f->next_there.n = f->valid.n = 0;
	ct_image_begin(r, true, false);
	f->rounds++;
	return 0;
}

void ct_follow_sent(struct ct_rank *r)
{
	struct ct_follow *f = r->follow;
	struct ct_snapshot t = f->seen;

	f->seen = f->next_seen;
	f->next_seen = t;
	swap(&f->there, &f->next_there);
	if (!f->is_left && ct_spans_cut(&f->valid, &f->there, &r->unreadable) < 0)
		f->valid.n = 0; /* sent once more */
	f->is_left = false;
}

bool ct_follow_has(const struct ct_rank *r, const struct ct_img_vma *v, size_t *at)
{
	const struct ct_vec *seen = &r->follow->seen.vmas;
	const struct ct_img_vma *w = seen->at;

	while (*at < seen->n && w[*at].end <= v->start)
		(*at)++;
	return *at < seen->n && w[*at].start < v->end;
}

int ct_follow_last(struct ct_rank *r, struct ct_freeze_stats *st, struct gw_error *why)
{
	struct ct_follow *f = r->follow;
	uint64_t before = ct_spans_bytes(&f->valid);
	int rc = ct_extents_scan_written(r, &r->snap, &f->present, &f->written, why);

	if (rc < 0)
		return rc;
	rc = compare(f, &r->snap, &f->present, &r->extents, &r->snap.dropped);
	st->dirty_bytes = before - ct_spans_bytes(&f->valid);
	st->since_ns = f->rounds ? gw_now_ns() - f->looked_ns : 0;
	return rc < 0 ? gw_fail(why, rc, "no memory to follow a rank") : 0;
}
