/* SPDX-License-Identifier: BSD-2-Clause */
/* The destination's side: an empty process that waits, takes an image in pieces, and becomes the rank. */
#include "container/rank.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- create ---------------------------------------------------------------------------------------------------- */

/* the shell runs where we run, all of its threads */
static void shell_here(struct ct_rank *r)
{
	cpu_set_t here;
	int cpu = sched_getcpu();

	if (cpu < 0)
		return;
	CPU_ZERO(&here);
	CPU_SET(cpu, &here);
	for CT_EACH(struct ct_thread, t, &r->threads)
		if (t->is_seized && t->here != cpu + 1 && sched_setaffinity(t->tid, sizeof(here), &here) == 0)
			t->here = cpu + 1;
}

static int seize(struct ct_rank *r, struct gw_error *why)
{
	struct ct_thread *t = ct_vec_add(&r->threads, 1);
	int status, rc;

	if (!t)
		return gw_fail(why, -ENOMEM, "no memory for threads");
	t->tid = r->pid;
	if (ptrace(PTRACE_SEIZE, t->tid, NULL, (void *)PTRACE_O_EXITKILL) < 0) {
		rc = -errno;
		r->threads.n--;
		return gw_fail(why, rc, "cannot seize the shell: %s%s", strerror(-rc),
		               rc == -EPERM || rc == -ENOSYS ? " (ptrace is denied here; 'godwit doctor' says more)" : "");
	}
	t->is_seized = true;
	if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
		return gw_fail(why, -errno, "cannot stop the shell: %s", strerror(errno));
	do {
		rc = ct_wait_stop(t->tid, &status);
		if (rc < 0)
			return gw_fail(why, rc, "the shell ended before it was stopped");
		if (status >> 16 == 0)
			ptrace(PTRACE_CONT, t->tid, NULL, NULL);
	} while (status >> 16 == 0);
	t->is_stopped = true;
	gw_hurry_begin(t->tid, &t->sched); /* as ct_pin_begin; the image brings the rank's own */
	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &r->shell_regs) < 0)
		return gw_fail(why, -errno, "cannot read the shell's registers: %s", strerror(errno));
	r->shell_regs.orig_rax = (unsigned long long)-1;
	return ct_sigmask_block(t, why);
}

/* Second mapping of the work area at the hole, from there unmap everything else, and bring the vdso to its place. */
static int empty(struct ct_rank *r, const struct ct_img_needs *needs, void *area, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	uint64_t hole = needs->hole, old_start = 0, old_end = 0, temp = hole + CT_HOLE_SIZE, top = 0x7ffffffff000ull;
	int rc;

	rc = ct_maps_read(&r->maps, r->pid, false);
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the memory map of the shell: %s", strerror(-rc));
	for CT_EACH(const struct ct_map, e, &r->maps.list) {
		bool is_kept = strncmp(e->name, "[v", 2) == 0 && strcmp(e->name, "[vsyscall]") != 0;

		if (is_kept) {
			old_start = old_start ? old_start : e->start;
			old_end = e->end;
		}
		if ((is_kept || e->start == (uint64_t)(uintptr_t)area) && e->start < hole + 2 * CT_HOLE_SIZE && e->end > hole)
			return gw_fail(why, -EAGAIN, "this daemon's memory lies where the shell must work; start it again");
	}
	rc = ct_remote_init(m, r->pid, (uint64_t)(uintptr_t)area, CT_HOLE_SIZE, area);
	if (rc == 0) {
		CT_CALL(m, "map the work area", CT_CALL_EQUAL, SYS_mremap, area, 0, CT_HOLE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		        hole)->expect = hole;
		rc = ct_remote_run(m, r->pid, &r->shell_regs, why);
	}
	if (rc < 0)
		return rc;
	m->base = hole;
	ct_remote_reset(m);
	CT_CALL(m, "empty the shell", CT_CALL_OK, SYS_munmap, 65536, hole - 65536);
	CT_CALL(m, "empty the shell", CT_CALL_OK, SYS_munmap, hole + CT_HOLE_SIZE, old_start - hole - CT_HOLE_SIZE);
	CT_CALL(m, "empty the shell", CT_CALL_OK, SYS_munmap, old_end, top - old_end);
	for (int pass = 0; pass < 2; pass++) /* by way of a temporary place: old and new may overlap */
		for CT_EACH(const struct ct_map, e, &r->maps.list) {
			uint64_t at = e->start - old_start, from = pass ? temp + at : e->start;
			uint64_t to = pass ? needs->vdso_start + at : temp + at;

			if (e->start < old_start || e->end > old_end)
				continue;
			CT_CALL(m, "move the vdso", CT_CALL_EQUAL, SYS_mremap, from, e->end - e->start, e->end - e->start,
			        MREMAP_MAYMOVE | MREMAP_FIXED, to)->expect = to;
		}
	CT_CALL(m, "close the start socket", 0, SYS_close, r->plumb_fd[0]);
	rc = ct_remote_run(m, r->pid, &r->shell_regs, why);
	r->vdso_start = needs->vdso_start;
	r->vdso_end = needs->vdso_end;
	r->shell_regs.rsp = hole;
	return rc;
}

static int reader_head(void *ctx, struct gw_error *why);
static int reader_meta(void *ctx, struct gw_error *why);
static int reader_pages(void *ctx, uint64_t vaddr, const unsigned char *bytes, size_t len, struct gw_error *why);
static int reader_flush(void *ctx, struct gw_error *why);

static int reader_bytes(void *ctx, const struct ct_img_bytes *head, const unsigned char *bytes, size_t len, struct gw_error *why)
{
	return head->is_memory ? ct_memory_write(ctx, head, bytes, len, why) : ct_carried_write(ctx, head, bytes, len, why);
}

static int reader_round(void *ctx, struct gw_error *why);

static const struct ct_reader_ops reader_ops = { .head = reader_head, .meta = reader_meta, .round = reader_round, .pages = reader_pages,
	.flush = reader_flush, .bytes = reader_bytes };

/* The hints are mapped at once. Pages are made in the background, not before others and where the rank will run. */
static int follow_hints(struct ct_rank *r, const struct ct_reader *d, struct gw_error *why)
{
	static const struct ct_vec none;
	int rc = ct_restore_hints(r, d->needs.is_followed ? &none : &d->extents, why);

	if (rc == 0 && r->running) {
		gw_hurry_end(r->pid, &CT_AT(struct ct_thread, &r->threads, 0)->sched);
		if (r->has_cpus)
			sched_setaffinity(r->pid, sizeof(r->cpus), &r->cpus);
		CT_AT(struct ct_thread, &r->threads, 0)->here = 0;
	}
	return rc;
}

static int start_shell(struct ct_rank *r, const struct ct_reader *d, const struct ct_needs *needs,
                       const struct ct_plumbing *plumbing, struct gw_error *why)
{
	struct ct_start s = { .plumbing = plumbing, .ns_pid = (pid_t)d->needs.ns_pid, .park_from = (int)d->needs.highest_fd + CT_PARK_ABOVE };
	struct ct_numa_saved policy;
	struct ct_pin pin;
	char path[64];
	void *area;
	int rc;

	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (plumbing->rank_fd[i] >= s.park_from)
			s.park_from = plumbing->rank_fd[i] + 1;
	ct_clock_choose(needs, &d->needs, &s.monotonic_offset_ns, &s.boottime_offset_ns);
	area = ct_area_take();
	if (!area)
		return gw_fail(why, -errno, "no memory for a shell: %s", strerror(errno));
	s.area = area;
	ct_numa_enter(r->numa_nodes, &policy); /* of the shell too, until the image says of the rank's own */
	rc = ct_container_start(r, &s, why);
	ct_numa_leave(&policy);
	ct_pin_begin(&pin); /* not before: init must not inherit it */
	if (rc == 0 && !r->has_timens && (s.monotonic_offset_ns || s.boottime_offset_ns))
		rc = gw_fail(why, -ENOTSUP, "this kernel has no time namespaces (Linux 5.6) and its clocks differ: the rank's monotonic clock would "
		             "jump; move it to a newer one, or to another cluster of its own host");
	if (rc == 0) {
		r->plumb_fd[0] = s.park_from;
		for (int i = 1; i < CT_PLUMB_MAX; i++) {
			if (plumbing->rank_fd[i] < 0)
				continue;
			r->plumb_fd[i] = s.park_from + i;
			/* the ends of sockets only: a caller may leave the others as they are */
			if ((i == CT_PLUMB_PMI || i == CT_PLUMB_CTL) && plumbing->daemon_fd[i] > 0)
				r->daemon_fd[i] = fcntl(plumbing->daemon_fd[i], F_DUPFD_CLOEXEC, 3);
		}
		rc = seize(r, why);
	}
	if (rc == 0) {
		snprintf(path, sizeof(path), "/proc/%d/mem", (int)r->pid);
		shell_here(r);
		rc = empty(r, &d->needs, area, why);
	}
	if (rc == 0)
		rc = ct_restore_threads_ahead(r, why);
	if (rc == 0)
		rc = follow_hints(r, d, why);
	ct_pin_end(&pin);
	if (r->remote.local != area)
		ct_area_give(area);
	if (rc == 0) {
		r->mem_fd = open(path, O_RDWR | O_CLOEXEC);
		if (r->mem_fd < 0)
			rc = gw_fail(why, -errno, "cannot open %s: %s", path, strerror(errno));
	}
	if (r->start_fd >= 0)
		close(r->start_fd);
	r->start_fd = -1;
	return rc;
}

int ct_shell_create(struct ct_rank **out, const struct ct_needs *needs, const struct ct_plumbing *plumbing,
                    const cpu_set_t *cpus, struct gw_error *why)
{
	struct ct_rank *r = ct_rank_new();
	struct ct_reader d;
	struct ct_fit fit = { .reader = &d, .hint = r ? &r->hint : NULL, .are_files_proved = needs->are_files_proved };
	int rc;

	if (!r)
		return gw_fail(why, -ENOMEM, "no memory for a rank");
	ct_reader_init(&d, NULL, NULL, &r->hint);
	rc = needs->version == CT_NEEDS_VERSION ? 0 : gw_fail(why, -EPROTO, "needs of version %u are not known here",
	                                                      needs->version);
	if (rc == 0)
		rc = ct_reader_feed(&d, needs->blob, needs->blob_len, why);
	if (rc == 0 && (!d.is_complete || !d.is_needs || d.needs.hole % CT_PAGE || d.needs.hole < 0x100000 ||
	                d.needs.hole > 0x7fff00000000ull || d.needs.vdso_start % CT_PAGE || d.needs.vdso_end % CT_PAGE ||
	                d.needs.vdso_end <= d.needs.vdso_start || d.needs.vdso_end > 0x7ffffffff000ull ||
	                d.needs.vdso_end - d.needs.vdso_start > CT_HOLE_SIZE || d.needs.highest_fd > (1u << 20) || !d.needs.threads ||
	                (d.needs.vdso_start < d.needs.hole + 2 * CT_HOLE_SIZE && d.needs.vdso_end > d.needs.hole)))
		rc = gw_fail(why, -EBADMSG, "what the source said about the rank is damaged");
	if (rc == 0)
		rc = ct_fit(&fit, why);
	if (rc == 0) {
		ct_room_promise(r, &fit);
		ct_cpu_parse(&r->cpu, ct_snapshot_text(&r->hint, d.needs.features)); /* it was parsed to be compared */
		r->is_baseline = d.needs.is_baseline;
		if (cpus) {
			r->cpus = *cpus;
			r->has_cpus = true;
			r->numa_nodes = ct_numa_of(cpus);
		}
		rc = start_shell(r, &d, needs, plumbing, why);
	}
	ct_reader_fini(&d);
	if (rc < 0) {
		ct_rank_kill(r);
		return rc;
	}
	ct_reader_init(&r->reader, &reader_ops, r, &r->snap);
	r->state = CT_SHELL;
	*out = r;
	gw_fault("ct.shell.created");
	return 0;
}

/* ---- feed ------------------------------------------------------------------------------------------------------ */

static void pin_both(struct ct_rank *r, struct ct_pin *pin)
{
	ct_pin_begin(pin);
	if (pin->is_pinned)
		shell_here(r);
}

/* The threads that it makes, too; the image brings the rank's own policies. */
static void hurry(pid_t pid)
{
	struct gw_sched s;

	gw_hurry_begin(pid, &s);
	if (gw_sched_get(pid, &s) < 0 || s.policy != SCHED_FIFO)
		return;
	s.is_reset_on_fork = false;
	gw_sched_set(pid, &s);
}

/* Its mappings, on the way of its last image or of a round. */
static int build(struct ct_rank *r, struct gw_error *why)
{
	int rc;

	if (r->snap.process.vdso_start != r->vdso_start || r->snap.process.vdso_end != r->vdso_end)
		return gw_fail(why, -EAGAIN, "the rank's vdso has moved since it was looked at; try again");
	rc = ct_restore_collect(r, why);
	if (rc < 0)
		return rc;
	for CT_EACH(const struct ct_thread, t, &r->threads)
		if (t->is_seized)
			hurry(t->tid);
	rc = ct_sysv_arrive(r, why);
	return rc == 0 ? ct_restore_maps(r, why) : rc;
}

/* While the source still looks which pages have to come. */
static int reader_head(void *ctx, struct gw_error *why)
{
	struct ct_rank *r = ctx;
	struct ct_pin pin;
	int rc;

	pin_both(r, &pin);
	rc = build(r, why);
	if (rc == 0 && ct_restore_may_begin(r)) {
		rc = ct_restore_begin(r, why);
		gw_fault("ct.shell.begun");
	}
	ct_pin_end(&pin);
	return rc;
}

static int reader_meta(void *ctx, struct gw_error *why)
{
	struct ct_rank *r = ctx;
	struct ct_pin pin;
	int rc;

	if (r->reader.is_head_done && !r->snap.dropped.n) /* nothing is left to do */
		return 0;
	pin_both(r, &pin);
	rc = r->reader.is_head_done ? 0 : build(r, why);
	if (rc == 0)
		rc = ct_restore_forget(r, why);
	if (rc == 0 && r->snap.later.n)
		rc = ct_fetch_begin(r, why);
	ct_pin_end(&pin);
	return rc;
}

/* What this round has mapped is what there is; the next says again what there shall be. */
static int reader_round(void *ctx, struct gw_error *why)
{
	struct ct_rank *r = ctx;
	struct ct_snapshot t = r->hint;
	int rc = reader_flush(r, why);

	r->hint = r->snap;
	r->snap = t;
	r->rounds++;
	return rc;
}

static int reader_flush(void *ctx, struct gw_error *why)
{
	struct ct_rank *r = ctx;
	const struct iovec *local = r->writes_local.at, *remote = r->writes_remote.at;
	size_t n = r->writes_local.n;

	for (size_t i = 0; i < n; i += 1024) {
		size_t part = n - i < 1024 ? n - i : 1024, want = 0;
		ssize_t done = ct_mem_writev(r->pid, local + i, remote + i, part);

		for (size_t k = i; k < i + part; k++)
			want += local[k].iov_len;
		if (done < 0 || (size_t)done != want)
			return gw_fail(why, done < 0 ? -errno : -EFAULT, "cannot fill the memory of the shell: %s",
			               done < 0 ? strerror(errno) : "a page cannot be written");
	}
	r->writes_local.n = r->writes_remote.n = 0;
	return 0;
}

static int reader_pages(void *ctx, uint64_t vaddr, const unsigned char *bytes, size_t len, struct gw_error *why)
{
	struct ct_rank *r = ctx;
	const struct ct_img_vma *v = CT_AT(struct ct_img_vma, &r->snap.vmas, r->reader.first_vma);
	struct iovec local = { (void *)(uintptr_t)bytes, len }, remote = { (void *)(uintptr_t)vaddr, len };

	r->pages_filled += len / CT_PAGE;
	if (ct_fetch_is_later(r->fetch, vaddr))
		return ct_fetch_put(r->fetch, vaddr, bytes, len / CT_PAGE, why);
	if (!(v->prot & PROT_WRITE)) { /* only a tracer, by this way, may write where the program may not */
		if (pwrite(r->mem_fd, bytes, len, (off_t)vaddr) != (ssize_t)len)
			return gw_fail(why, -EIO, "cannot fill %#llx of the shell: %s", (unsigned long long)vaddr, strerror(errno));
		return 0;
	}
	if (ct_vec_append(&r->writes_local, &local, 1) < 0 || ct_vec_append(&r->writes_remote, &remote, 1) < 0)
		return gw_fail(why, -ENOMEM, "no memory for a list of pages");
	return 0;
}

uint32_t ct_shell_rounds(const struct ct_rank *r)
{
	return r->rounds;
}

int ct_shell_feed(struct ct_rank *r, const void *buf, size_t len, struct gw_error *why)
{
	struct ct_numa_saved policy;
	int rc;

	if (r->state != CT_SHELL)
		return gw_fail(why, -EINVAL, "pid %d is not a shell that takes an image", (int)r->pid);
	ct_numa_enter(r->numa_nodes, &policy);
	rc = ct_reader_feed(&r->reader, buf, len, why);
	ct_numa_leave(&policy);
	if (rc < 0)
		r->state = CT_BROKEN;
	return rc;
}

/* ---- ready and thaw -------------------------------------------------------------------------------------------- */

/* nothing of ours stays in the rank; its main thread's registers are the last to be set */
static int leave(struct ct_rank *r, struct gw_error *why)
{
	struct user_regs_struct regs;
	uint64_t unmap[6] = { r->remote.base, CT_HOLE_SIZE }, insn = ct_vdso_syscall(r->pid, r->vdso_end, true);
	int64_t result = 0;
	int rc;

	if (!insn)
		return gw_fail(why, -EIO, "no system call instruction was found in the vdso");
	rc = ct_remote_one(r->pid, &r->shell_regs, insn, SYS_munmap, unmap, &result, why);
	if (rc == 0 && result < 0)
		rc = gw_fail(why, (int)result, "cannot unmap the work area: %s", strerror((int)-result));
	if (rc < 0)
		return rc;
	ct_remote_fini(&r->remote);
	memcpy(&regs, CT_AT(struct ct_img_thread, &r->snap.threads, 0)->regs, sizeof(regs));
	if (ptrace(PTRACE_SETREGS, r->pid, NULL, &regs) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, r->pid, (void *)8, &CT_AT(struct ct_img_thread, &r->snap.threads, 0)->sigmask) < 0)
		return gw_fail(why, -errno, "cannot set the main thread's registers: %s", strerror(errno));
	return 0;
}

/* What must not happen twice waits for the thaw, and so does all that leaves the work area. */
static bool has_more_to_start(const struct ct_rank *r)
{
	return ct_timers_any(&r->snap) || ct_sysv_any(&r->snap);
}

int ct_shell_ready(struct ct_rank *r, struct gw_error *why)
{
	struct ct_pin pin;
	int rc;

	if (r->state != CT_SHELL)
		return gw_fail(why, -EINVAL, "pid %d is not a shell that takes an image", (int)r->pid);
	if (!r->reader.is_complete)
		return gw_fail(why, -EBADMSG, "the image ends before its end");
	gw_fault("ct.shell.filled");
	pin_both(r, &pin);
	rc = ct_restore_rest(r, why);
	if (rc == 0)
		rc = ct_carried_finish(r, why);
	if (rc == 0 && !has_more_to_start(r))
		rc = leave(r, why);
	ct_pin_end(&pin);
	if (rc < 0) {
		r->state = CT_BROKEN;
		return rc;
	}
	r->state = CT_READY;
	gw_fault("ct.shell.ready");
	return 0;
}

int ct_rank_thaw(struct ct_rank *r, struct ct_thaw_stats *stats, struct gw_error *why)
{
	uint64_t start = gw_now_ns();
	struct ct_thaw_stats st = { .pages_filled = r->pages_filled };
	int rc = 0;

	if (r->state != CT_READY)
		return gw_fail(why, -EINVAL, "pid %d is not ready to be thawed", (int)r->pid);
	ct_clock_wait(r);
	if (has_more_to_start(r)) {
		struct ct_pin pin;

		pin_both(r, &pin);
		rc = ct_timers_start(r, why);
		if (rc == 0)
			rc = ct_sysv_take_over(r, why);
		if (rc == 0)
			rc = leave(r, why);
		ct_pin_end(&pin);
		if (rc < 0) {
			r->state = CT_BROKEN;
			return rc;
		}
	}
	ct_affinity_mark(r);
	for (size_t i = 0; i < r->threads.n; i++) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);

		if (r->has_cpus)
			ct_affinity_widen(CT_AT(struct ct_img_thread, &r->snap.threads, i)->cpus, &r->cpus, &t->cpus);
		sched_setaffinity(t->tid, sizeof(t->cpus), &t->cpus);
	}
	/* it is pending when the first thread is let go, and none comes to an instruction of the program before it has its effect */
	if (r->snap.process.is_stopped && kill(r->pid, SIGSTOP) < 0)
		gw_log(GW_WARN, "pid %d was stopped by a signal, and goes on: %s", (int)r->pid, strerror(errno));
	/* once a single thread runs the rank lives here, even if it is killed at the same time: an error would make the source
	 * run its copy, and what this one has done meanwhile would be done twice */
	if (ct_threads_let_go(r) == 0)
		rc = gw_fail(why, -ESRCH, "it was killed before it could run");
	st.thawed_at_ns = gw_realtime_ns();
	st.thaw_ns = gw_now_ns() - start;
	gw_prompt_set(r->pid, false); /* it is in the queue: its first turn comes early */
	if (rc < 0) {
		r->state = CT_BROKEN;
		return rc;
	}
	r->ns_pid = (pid_t)r->snap.process.ns_pid;
	r->state = CT_RUNNING;
	*stats = st;
	return 0;
}

void ct_rank_tidy(struct ct_rank *r)
{
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		if (r->daemon_fd[i] >= 0)
			close(r->daemon_fd[i]);
		r->daemon_fd[i] = -1;
	}
	close(r->mem_fd); /* of the memory as it was when the process was a shell; it is the same, but freeze opens its own */
	r->mem_fd = -1;
	ct_reader_fini(&r->reader);
	ct_proc_keep_none();
	ct_carried_keep(r);
	ct_room_settle(r);
}
