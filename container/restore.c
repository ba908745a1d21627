/* SPDX-License-Identifier: BSD-2-Clause */
/* Making a rank out of a shell: descriptors, process, pending signals. Its threads: restore_threads.c */
#include "container/rank.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
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

uint64_t ct_restore_text(struct ct_rank *r, const char *s)
{
	return ct_remote_data(&r->remote, s, strlen(s) + 1);
}

/* @path for reading only, under the number @to; @lowest is the lowest that is free */
void ct_restore_open(struct ct_rank *r, const char *path, uint32_t lowest, uint32_t to)
{
	struct ct_remote *m = &r->remote;

	CT_CALL(m, path, CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, path), O_RDONLY | O_CLOEXEC)->expect = lowest;
	CT_CALL(m, "place a descriptor", CT_CALL_EQUAL, SYS_dup3, lowest, to, O_CLOEXEC)->expect = to;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, lowest);
}

/* ---- process --------------------------------------------------------------------------------------------------- */

static void set_mm(struct ct_rank *r)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;
	struct prctl_mm_map mm = { .start_code = p->start_code, .end_code = p->end_code, .start_data = p->start_data,
		.end_data = p->end_data, .start_brk = p->start_brk, .brk = p->brk, .start_stack = p->start_stack,
		.arg_start = p->arg_start, .arg_end = p->arg_end, .env_start = p->env_start, .env_end = p->env_end,
		.auxv_size = (uint32_t)(r->snap.auxv.n * sizeof(uint64_t)) };
	uint64_t fd = 0;

	/* one of 0 .. the last number is free: which one only the kernel knows now, so the number is made certain */
	fd = (uint64_t)r->plumb_fd[0];
	mm.exe_fd = (uint32_t)fd;
	mm.auxv = (void *)ct_remote_data(m, r->snap.auxv.at, r->snap.auxv.n * sizeof(uint64_t));
	if (!(p->exe_file & CT_IMG_EXE_MEMORY)) /* else it is there already: ct_restore_fds */
		ct_restore_open(r, ct_snapshot_text(&r->snap, CT_AT(struct ct_img_file, &r->snap.files, p->exe_file)->path), r->cursor, (uint32_t)fd);
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
	CT_CALL(m, cwd, CT_CALL_OK, SYS_chdir, ct_restore_text(r, cwd));
	CT_CALL(m, "umask", 0, SYS_umask, p->umask);
	set_mm(r);
	for CT_EACH(const struct ct_img_action, a, &r->snap.actions) {
		uint64_t k[4] = { a->handler, a->flags, a->restorer, a->mask };

		if (a->sig != SIGKILL && a->sig != SIGSTOP)
			CT_CALL(m, "set a signal handler", CT_CALL_OK, SYS_rt_sigaction, a->sig, ct_remote_data(m, k, sizeof(k)), 0, 8);
	}
	if (p->thp_disable)
		CT_CALL(m, "huge pages", 0, SYS_prctl, PR_SET_THP_DISABLE, 1);
	if (p->subreaper)
		CT_CALL(m, "subreaper", CT_CALL_OK, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	if (p->pdeathsig)
		CT_CALL(m, "death signal", CT_CALL_OK, SYS_prctl, PR_SET_PDEATHSIG, p->pdeathsig);
	for (unsigned i = 0; i < 32; i++)
		if (p->membarrier & 1u << i)
			CT_CALL(m, "register for membarrier", CT_CALL_OK, SYS_membarrier, 1u << i, 0, 0);
	rc = ct_numa_bind(r, why);
	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas)
		if (rc == 0 && (v->advice & CT_VMA_LOCKED) && (rc = ct_restore_room(r, 1, 0, why)) == 0)
			CT_CALL(m, "lock memory", 0, SYS_mlock2, v->start, v->end - v->start, v->advice & CT_VMA_LAZY ? MLOCK_ONFAULT : 0);
	return rc;
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
		struct rlimit now;

		if (prlimit(r->pid, (__rlimit_resource_t)i, NULL, &now) == 0 && now.rlim_cur == l.cur && now.rlim_max == l.max)
			continue;
		l.max = ct_limit_grant((int)i, l.max);
		l.cur = l.cur < l.max ? l.cur : l.max;
		CT_CALL(m, "set a limit", 0, SYS_prlimit64, 0, i, ct_remote_data(m, &l, sizeof(l)));
	}
	ct_restore_rights_calls(r);
	if (p->dumpable < 2)
		CT_CALL(m, "dumpable", CT_CALL_OK, SYS_prctl, PR_SET_DUMPABLE, p->dumpable);
}

/* What the main thread does at the very end. */
void ct_restore_leader_calls(struct ct_rank *r)
{
	ct_restore_thread_calls(r, r->snap.threads.at);
	drop_rights(r);
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

/*
 * What is opened or taken only when the source has brought it to its file system, what is handed over, and what runs by itself, waits.
 * And rights are given up here: after that we can write a process's memory only where others of its user can. So it is the usual rank
 * that is begun: with pipes, sockets of its daemon, files that it reads.
 */
bool ct_restore_may_begin(const struct ct_rank *r)
{
	const struct ct_snapshot *s = &r->snap;

	for CT_EACH(const struct ct_img_file, f, &s->files)
		if (f->flags & (CT_IMG_FILE_WRITES | CT_IMG_FILE_CARRIED | CT_IMG_FILE_SHARED))
			return false;
	return s->process.dumpable == 1 && !s->memories.n && !s->handles.n && !s->locks.n && !s->timers.n && !s->timerfds.n && !s->infos.n && !ct_sysv_any(s);
}

/* What is in memory of a thread's restartable sequences: which processor it is on, but for the pointer between the two halves. */
#define RSEQ_BYTES 28
#define RSEQ_REST  20 /* offset of the second half */

/* The kernel writes there when a thread registers, and may not again: the page that comes says what was true at the source. */
static void rseq_keep(struct ct_rank *r, bool is_back)
{
	for (size_t i = 0; i < r->threads.n; i++) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);
		uint64_t at = CT_AT(struct ct_img_thread, &r->snap.threads, i)->rseq;
		struct iovec here[2] = { { &t->rseq_here[0], 8 }, { &t->rseq_here[1], 8 } };
		struct iovec there[2] = { { (void *)at, 8 }, { (void *)(at + RSEQ_REST), 8 } };

		if (!at || CT_AT(struct ct_img_thread, &r->snap.threads, i)->rseq_len < RSEQ_BYTES)
			continue;
		if (is_back)
			ct_mem_writev(r->pid, here, there, 2);
		else
			ct_mem_readv(r->pid, here, there, 2);
	}
}

/* Descriptors, process, threads. The table is empty, or holds what comes first. */
static int build(struct ct_rank *r, bool *is_done, struct gw_error *why)
{
	int rc = ct_restore_fds(r, why);

	if (rc == 0)
		rc = ct_epoll_fill(r, why);
	if (rc == 0 && r->snap.unread.n) /* it goes into descriptors that must be there */
		rc = ct_restore_run(r, why);
	if (rc == 0)
		rc = ct_unread_give(r, &r->snap, why);
	r->cursor = first_free(r);
	if (rc == 0)
		rc = set_process(r, why);
	return rc == 0 ? ct_restore_threads(r, is_done, why) : rc;
}

/* Where no other thread took them along. */
static int run_leader_calls(struct ct_rank *r, struct gw_error *why)
{
	int rc = ct_restore_room(r, CT_LEADER_CALLS, CT_LEADER_BYTES, why);

	if (rc < 0)
		return rc;
	ct_restore_leader_calls(r);
	return ct_restore_run(r, why);
}

int ct_restore_begin(struct ct_rank *r, struct gw_error *why)
{
	bool is_done = false;
	int rc;

	ct_remote_reset(&r->remote);
	rc = ct_restore_threads_known(r, why);
	if (rc == 0)
		rc = build(r, &is_done, why);
	if (rc == 0 && !is_done)
		rc = run_leader_calls(r, why);
	for (size_t i = 1; rc == 0 && i < r->threads.n; i++)
		rc = ct_restore_thread_set(r, i, why);
	rseq_keep(r, false);
	r->is_begun = true;
	return rc;
}

int ct_restore_rest(struct ct_rank *r, struct gw_error *why)
{
	bool is_done = false;
	int rc = 0;

	ct_remote_reset(&r->remote);
	if (!r->is_begun)
		rc = ct_restore_threads_known(r, why);
	if (rc == 0)
		rc = ct_restore_shared(r, why);
	if (rc == 0 && !r->is_begun)
		rc = build(r, &is_done, why);
	if (rc == 0 && r->snap.timers.n)
		rc = ct_restore_run(r, why);
	if (rc == 0)
		rc = ct_timers_make(r, why);
	if (rc == 0)
		rc = queue_signals(r, why);
	if (rc == 0 && r->is_begun)
		rc = ct_restore_run(r, why);
	else if (rc == 0 && !is_done)
		rc = run_leader_calls(r, why);
	if (rc == 0)
		rc = ct_locks_take(r, why);
	if (rc == 0 && r->is_begun)
		rseq_keep(r, true);
	for (size_t i = 0; rc == 0 && i < (r->is_begun ? 1 : r->threads.n); i++)
		rc = ct_restore_thread_set(r, i, why);
	if (rc == 0)
		ct_traits_set(r);
	return rc;
}
