/* SPDX-License-Identifier: BSD-2-Clause */
/* The mappings of a rank: how each moves, or why it holds the rank. */
#include "container/rank.h"

#include <sys/mman.h>
#include <sys/stat.h>

static int hold_map(struct ct_rank *r, struct gw_error *why, const struct ct_map *m, const char *what)
{
	return ct_hold(r, why, CT_HOLD_MAPPING, (long long)m->start, "the mapping at %#llx (%s) is %s; unmap it, or keep the rank with 'godwit pin'",
	               (unsigned long long)m->start, m->name[0] ? m->name : "no name", what);
}

static bool is_under(const char *path, const char *dir)
{
	return strncmp(path, dir, strlen(dir)) == 0;
}

#define FILES_SEEN 256 /* to search more takes as long as to look */

/* A file that is only read is looked at while the rank runs, right before the freeze; not once more when it stands. */
static int file_stat(struct ct_rank *r, const struct ct_map *m, uint32_t flags, struct stat *st)
{
	bool is_written = flags & CT_IMG_FILE_WRITES;

	for CT_EACH(const struct ct_file_seen, f, &r->files_seen)
		if (!is_written && f->map_ino == m->ino && strcmp(f->name, m->name) == 0) {
			*st = f->st;
			return 0;
		}
	if (stat(m->name, st) < 0)
		return -1;
	if (!is_written && r->is_preparing && r->files_seen.n < FILES_SEEN) {
		struct ct_file_seen f = { .name = m->name, .map_ino = m->ino, .st = *st };

		ct_vec_append(&r->files_seen, &f, 1); /* no memory: it is looked at again */
	}
	return 0;
}

#define HUGE_PAGE (2u << 20) /* bytes of a reserved huge page, where it was not told */

static int map_one(struct ct_rank *r, struct ct_snapshot *s, const struct ct_map *m, struct ct_img_vma *v, struct gw_error *why)
{
	size_t len = strlen(m->name);
	uint32_t flags = CT_IMG_FILE_MAPPED;
	bool is_deleted = len > 10 && strcmp(m->name + len - 10, " (deleted)") == 0;
	struct stat st;
	int rc;

	if (m->is_locked_pages)
		return hold_map(r, why, m, "memory of a device");
	if (strcmp(m->name, CT_HUGE_NAME) == 0) {
		v->kind = m->is_shared ? CT_VMA_SHARED_ANON : CT_VMA_ANON;
		v->advice |= CT_VMA_HUGETLB;
		v->offset = m->page_bytes ? m->page_bytes : HUGE_PAGE;
		return 0;
	}
	if (m->is_hugetlb && !is_deleted)
		return hold_map(r, why, m, "a file of reserved huge pages (hugetlbfs)");
	if (ct_memory_is(m->name))
		return ct_memory_map(r, s, m, v) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of files") : 0;
	if (m->is_shared) {
		if (!m->name[0] || is_under(m->name, "/dev/zero")) {
			v->kind = CT_VMA_SHARED_ANON;
			return 0;
		}
		if (is_under(m->name, "/SYSV"))
			return ct_sysv_map(r, m, v) ? 0 : hold_map(r, why, m, r->way == CT_WAY_NEAR ? "a part of a System V segment" :
			                                           "System V shared memory, which stays on its host");
		if (is_under(m->name, "/[aio]"))
			return hold_map(r, why, m, "an asynchronous I/O context (io_setup)");
		if (is_under(m->name, "anon_inode:[io_uring]"))
			return hold_map(r, why, m, "an io_uring");
		if (is_under(m->name, "anon_inode:[perf_event]"))
			return hold_map(r, why, m, "a performance counter");
		if ((is_under(m->name, "/dev/") && !is_under(m->name, "/dev/shm/")) || is_under(m->name, "/sys/") || is_under(m->name, "/proc/"))
			return hold_map(r, why, m, "a device");
		v->kind = CT_VMA_SHARED_FILE;
		if (m->prot & PROT_WRITE)
			flags |= CT_IMG_FILE_WRITES | CT_IMG_FILE_SHARED;
	} else if (!m->name[0] || is_under(m->name, "[heap]") || is_under(m->name, "[stack") || is_under(m->name, "[anon") ||
	           strcmp(m->name, "/dev/zero") == 0) {
		v->kind = CT_VMA_ANON;
		return 0;
	} else {
		v->kind = CT_VMA_FILE;
	}
	if (m->name[0] != '/')
		return hold_map(r, why, m, "of a kind that cannot move");
	if (is_under(m->name, "/dev/") && !is_under(m->name, "/dev/shm/") && !m->is_hugetlb)
		return hold_map(r, why, m, "a device");
	/* nobody else can open it any more: it goes on as a memory file */
	if (is_deleted)
		return ct_memory_map(r, s, m, v) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of files") : 0;
	/* names repeat: the mappings of a library stand together */
	if (s->files.n) {
		uint32_t last = (uint32_t)s->files.n - 1;
		struct ct_img_file *f = CT_AT(struct ct_img_file, &s->files, last);

		if (f->ino == m->ino && (f->flags & CT_IMG_FILE_MAPPED) && strcmp(ct_snapshot_text(s, f->path), m->name) == 0) {
			v->file = last;
			f->flags |= flags;
			v->offset = m->offset;
			return 0;
		}
	}
	if (file_stat(r, m, flags, &st) < 0)
		return ct_hold(r, why, CT_HOLD_MAPPING, (long long)m->start, "the mapped file '%s' cannot be found any more: %s", m->name, strerror(errno));
	if (st.st_ino != m->ino)
		return ct_hold(r, why, CT_HOLD_MAPPING, (long long)m->start,
		               "the mapped file '%s' was replaced since the rank mapped it; restart the job", m->name);
	rc = ct_file_add(s, m->name, &st, flags, &v->file);
	if (rc < 0)
		return gw_fail(why, rc, "no memory for a list of files");
	v->offset = m->offset;
	return 0;
}

int ct_vmas_scan(struct ct_rank *r, const struct ct_maps *maps, struct ct_snapshot *s, struct gw_error *why)
{
	uint64_t lo = 0, hi = 0;

	if (maps == &r->look)
		r->segment = (struct ct_img_extent){ 0 };
	s->vmas.n = s->memories.n = 0;
	for CT_EACH(const struct ct_map, m, &maps->list) {
		struct ct_img_vma v = { .start = m->start, .end = m->end, .prot = m->prot, .advice = m->advice };
		const struct ct_map *seen;
		struct ct_map map = *m;
		int rc;

		if (m->name[0] == '[' && (is_under(m->name, "[vvar") || is_under(m->name, "[vdso]"))) {
			if (lo && m->start != hi && (rc = hold_map(r, why, m, "apart from the rest of the vdso")) < 0)
				return rc;
			lo = lo ? lo : m->start;
			hi = m->end;
			continue;
		}
		/* the agent's: it will have detached from it before the freeze, where it is refused like any other */
		if (maps == &r->look && m->is_shared && ct_is_segment(m->name)) {
			r->segment.start = r->segment.end == m->start ? r->segment.start : m->start;
			r->segment.end = m->end;
			continue;
		}
		if (is_under(m->name, "[vsyscall]") || (r->remote.base && m->start == r->remote.base))
			continue;
		if (maps != &r->look && (seen = ct_maps_find(&r->look, m->start)) != NULL && seen->is_shared == m->is_shared) {
			v.advice |= seen->advice;
			map.is_hugetlb = seen->is_hugetlb;
			map.page_bytes = seen->page_bytes;
		}
		rc = map_one(r, s, &map, &v, why);
		if (rc < 0)
			return rc;
		/* the shell makes memory files when all is known of them, so they are no hint, and in no round; nor does it attach early */
		if (maps == &r->look && (v.kind == CT_VMA_MEMORY || v.kind == CT_VMA_SHARED_MEMORY || v.kind == CT_VMA_SYSV))
			continue;
		if (ct_vec_append(&s->vmas, &v, 1) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of mappings");
	}
	if (!lo)
		return ct_hold(r, why, CT_HOLD_STATE, 0, "it has no vdso, which a move needs; start the host without vdso=0");
	s->process.vdso_start = lo;
	s->process.vdso_end = hi;
	return 0;
}

/* Mappings of the last look as they will be when the rank stands: where the agent has detached it leaves its place reserved
 * (agent.h), so that the destination, too, can have mapped that before. */
int ct_vmas_ahead(const struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *out)
{
	struct ct_img_vma place = { .start = r->segment.start, .end = r->segment.end, .kind = CT_VMA_ANON };
	const struct ct_img_vma *v = s->vmas.at;
	size_t n = 0;

	out->n = 0;
	while (n < s->vmas.n && v[n].start < place.start)
		n++;
	if (place.start == place.end || (n < s->vmas.n && v[n].start < place.end))
		return ct_vec_append(out, v, s->vmas.n);
	return ct_vec_append(out, v, n) < 0 || ct_vec_append(out, &place, 1) < 0 || ct_vec_append(out, v + n, s->vmas.n - n) < 0 ? -ENOMEM : 0;
}
