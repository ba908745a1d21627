/* SPDX-License-Identifier: BSD-2-Clause */
/* Can a rank move, and what must its destination have? */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

uint64_t ct_fnv(const void *p, size_t len)
{
	const unsigned char *at = p;
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ at[i]) * 0x100000001b3ull;
	return h;
}

void ct_boot_id(char out[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, 36) : 0;

	memset(out + (n > 0 ? n : 0), 0, (size_t)(40 - (n > 0 ? n : 0)));
	if (fd >= 0)
		close(fd);
}

/* below the first mapping, where programs practically never map anything; a shell works there */
static int hole_find(const struct ct_maps *m, uint64_t *hole)
{
	uint64_t from = 0x100000;

	for CT_EACH(const struct ct_map, map, &m->list) {
		if (map->start >= from + 3 * CT_HOLE_SIZE)
			break;
		if (map->end > from)
			from = map->end + CT_HOLE_SIZE;
	}
	*hole = from + CT_HOLE_SIZE;
	return *hole + CT_HOLE_SIZE < 0x7ff000000000ull ? 0 : -ENOMEM;
}

void ct_needs_fini(struct ct_needs *n)
{
	free(n->blob);
	n->blob = NULL;
	n->blob_len = 0;
}

/* It must be there, or the move would fail when the rank stands already. */
static int cwd_add(struct ct_rank *r, struct ct_snapshot *s, struct gw_error *why)
{
	char path[4096];
	struct stat st;
	uint32_t index;
	int rc = ct_proc_link(r->pid, "cwd", path, sizeof(path));

	if (rc < 0 || path[0] != '/' || stat(path, &st) < 0)
		return gw_fail(why, -EBUSY, "its working directory '%s' cannot be found any more", rc < 0 ? "?" : path);
	return ct_file_add(s, path, &st, CT_IMG_FILE_CWD, &index) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of files") : 0;
}

/* All that can be seen without stopping it; what holds it goes to @holds. */
static int look_around(struct ct_rank *r, struct ct_snapshot *s, struct ct_holds *holds, struct gw_error *why)
{
	int rc;

	r->holds = holds;
	rc = ct_look(r, why);
	if (rc == 0)
		rc = ct_vmas_scan(r, &r->look, s, why);
	if (rc == 0)
		rc = ct_fds_scan(r, s, false, why);
	if (rc == 0)
		rc = ct_memory_check(r, s, why);
	if (rc == 0)
		rc = ct_sysv_check(r, why);
	r->holds = NULL;
	return rc;
}

int ct_rank_holds(struct ct_rank *r, struct ct_holds *out, struct gw_error *why)
{
	struct ct_holds holds = { 0 };
	struct ct_snapshot s;
	int rc;

	if (r->state != CT_RUNNING)
		return gw_fail(why, -EBUSY, "it is being moved");
	ct_snapshot_init(&s);
	rc = look_around(r, &s, &holds, why);
	ct_snapshot_fini(&s);
	if (rc < 0)
		ct_holds_fini(&holds);
	else
		*out = holds;
	return rc;
}

/* Its first reason; and how many more there are. */
static int holds_refuse(struct ct_holds *h, struct gw_error *why)
{
	bool is_passing = true;
	int rc;

	if (h->n == 0)
		return 0;
	for (size_t i = 0; i < h->n; i++)
		is_passing &= h->list[i].is_passing;
	rc = is_passing ? -ECHILD : -EBUSY;
	if (h->n == 1)
		gw_fail(why, rc, "%s", h->list[0].text);
	else
		gw_fail(why, rc, "%s (%zu more hold%s it: see 'godwit status --movable')", h->list[0].text, h->n - 1,
		        h->n == 2 ? "s" : "");
	ct_holds_fini(h);
	return rc;
}

/* how large it is, in what a host may have too little of; and of which numbers its threads are, but for the main one */
static void look_at_size(const struct ct_rank *r, struct ct_snapshot *s, const struct ct_vec *tasks,
                         struct ct_img_needs *needs)
{
	struct ct_img_thread t = { 0 };

	for CT_EACH(const struct ct_img_vma, v, &s->vmas) {
		needs->highest_address = v->end;
		if ((v->prot & PROT_WRITE) && v->kind != CT_VMA_SHARED_FILE)
			needs->commit_bytes += v->end - v->start;
	}
	for CT_EACH(const struct ct_img_memory, m, &s->memories)
		needs->memory_bytes += m->bytes;
	needs->open_files = (uint32_t)s->fds.n;
	needs->highest_tid = (uint32_t)r->ns_pid;
	for CT_EACH(const int, tid, tasks) {
		uint32_t ns_tid = ct_proc_ns_id(*tid);

		needs->highest_tid = ns_tid > needs->highest_tid ? ns_tid : needs->highest_tid;
		t.ns_tid = ns_tid;
		if (ns_tid && *tid != r->pid && tasks->n <= CT_THREADS_AHEAD)
			ct_vec_append(&s->threads, &t, 1); /* one that is missing is made later */
	}
	/* what its agent has asked for (gate.c), or was found when it stood last */
	s->process.membarrier = r->snap.process.membarrier | (r->segment.end ? MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED : 0);
	for (int i = 0; i < CT_IMG_LIMITS; i++) {
		struct rlimit l;

		if (prlimit(r->pid, (__rlimit_resource_t)i, NULL, &l) == 0)
			needs->limits[i] = (struct ct_img_limit){ l.rlim_cur, l.rlim_max };
	}
}

/* What it may have chosen its code by: what was there when it began, and, unless it was told to keep to a baseline, what it has
 * met since: a library that it loads late asks the processor of that moment. */
static const struct ct_cpu *rank_cpu(struct ct_rank *r)
{
	struct ct_cpu here;

	if (!r->is_baseline) {
		ct_cpu_host(&here);
		r->cpu = ct_cpu_either(r->cpu, here);
	}
	return &r->cpu;
}

int ct_rank_check(struct ct_rank *r, struct ct_needs *out, struct gw_error *why)
{
	struct ct_img_needs needs = { 0 };
	struct ct_needs n = { .version = CT_NEEDS_VERSION };
	struct ct_vec blob, extents, hints, tasks, vmas;
	struct ct_holds holds = { 0 };
	struct ct_snapshot s;
	unsigned char vdso[65536];
	char features[CT_CPU_TEXT];
	uint64_t len, own_start, own_end, own_hash;
	int rc;

	if (r->state != CT_RUNNING)
		return gw_fail(why, -EBUSY, "it is being moved already");
	ct_snapshot_init(&s);
	ct_vec_init(&blob, 1);
	ct_vec_init(&extents, sizeof(struct ct_extent));
	ct_vec_init(&hints, sizeof(struct ct_img_extent));
	ct_vec_init(&tasks, sizeof(int));
	ct_vec_init(&vmas, sizeof(struct ct_img_vma));
	ct_memory_forget(r);
	rc = look_around(r, &s, &holds, why);
	if (rc == 0)
		rc = holds_refuse(&holds, why);
	if (rc == 0)
		rc = cwd_add(r, &s, why);
	if (rc == 0)
		rc = ct_extents_scan(r, &s, &extents, why);
	if (rc == 0 && (ct_proc_ids(r->pid, "task", &tasks) < 0 || hole_find(&r->look, &needs.hole) < 0))
		rc = gw_fail(why, -ESRCH, "cannot look at pid %d: it has ended, or its address space is full", (int)r->pid);
	len = s.process.vdso_end - s.process.vdso_start;
	for CT_EACH(const struct ct_map, m, &r->look.list)
		if (rc == 0 && strcmp(m->name, "[vdso]") == 0) {
			len = m->end - m->start;
			if (len > sizeof(vdso) || ct_mem_read(r->pid, m->start, vdso, len) < 0)
				rc = gw_fail(why, -EIO, "cannot read the vdso of pid %d", (int)r->pid);
			else
				needs.vdso_hash = ct_fnv(vdso, len);
			r->vdso_end = m->end;
		}
	r->is_vdso_own = rc == 0 && r->vdso_end == s.process.vdso_end && ct_vdso_own(&own_start, &own_end, &own_hash) == 0 && own_hash == needs.vdso_hash;
	if (rc == 0) {
		for CT_EACH(const struct ct_extent, e, &extents) {
			struct ct_img_extent hint = { e->start, e->end };

			n.private_bytes += e->end - e->start;
			ct_vec_append(&hints, &hint, 1); /* one that is missing costs a little time later */
		}
		needs.is_followed = r->follow_from && n.private_bytes >= r->follow_from;
		n.uid = needs.uid = r->uid;
		n.gid = needs.gid = r->gid;
		n.ns_pid = needs.ns_pid = (uint32_t)r->ns_pid;
		n.threads = needs.threads = (uint32_t)tasks.n;
		n.vmas = s.vmas.n;
		n.vdso_hash = needs.vdso_hash;
		n.xfeatures = needs.xfeatures = ct_cpu_xcr0();
		n.files = (uint32_t)s.files.n;
		needs.vdso_start = s.process.vdso_start;
		needs.vdso_end = s.process.vdso_end;
		needs.highest_fd = s.fds.n ? CT_AT(struct ct_img_fd, &s.fds, s.fds.n - 1)->number : 0;
		ct_clock_offsets(&needs.monotonic_offset_ns, &needs.boottime_offset_ns);
		needs.monotonic_offset_ns += r->monotonic_offset_ns;
		needs.boottime_offset_ns += r->boottime_offset_ns;
		ct_rank_clocks(r, &n.monotonic_ns, &n.boottime_ns);
		ct_boot_id((char *)needs.boot_id);
		look_at_size(r, &s, &tasks, &needs);
		needs.is_baseline = r->is_baseline;
		needs.features = ct_snapshot_string(&s, ct_cpu_print(rank_cpu(r), features));
		if (ct_vmas_ahead(r, &s, &vmas) < 0 || ct_section_write(&blob, CT_SECTION_NEEDS, 1, &needs, sizeof(needs)) < 0 ||
		    ct_section_write(&blob, CT_SECTION_STRINGS, (uint32_t)s.strings.n, s.strings.at, s.strings.n) < 0 ||
		    ct_section_write(&blob, CT_SECTION_FILES, (uint32_t)s.files.n, s.files.at, s.files.n * s.files.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_HANDLES, (uint32_t)s.handles.n, s.handles.at, s.handles.n * s.handles.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_PROCESS, 1, &s.process, sizeof(s.process)) < 0 ||
		    ct_section_write(&blob, CT_SECTION_THREADS, (uint32_t)s.threads.n, s.threads.at, s.threads.n * s.threads.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_VMAS, (uint32_t)vmas.n, vmas.at, vmas.n * vmas.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_EXTENTS, (uint32_t)hints.n, hints.at, hints.n * hints.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_END, 1, &(struct ct_img_end){ 0 }, sizeof(struct ct_img_end)) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for what the destination must know");
	}
	if (rc == 0) {
		n.blob = blob.at;
		n.blob_len = blob.n;
		ct_vec_init(&blob, 1);
		*out = n;
	}
	ct_holds_fini(&holds);
	ct_snapshot_fini(&s);
	ct_vec_fini(&blob);
	ct_vec_fini(&extents);
	ct_vec_fini(&hints);
	ct_vec_fini(&tasks);
	ct_vec_fini(&vmas);
	return rc < 0 ? ct_proc_blame_end(r->pid, rc, why) : rc;
}
