/* SPDX-License-Identifier: BSD-2-Clause */
/* Making a rank out of a shell whose pages are there: descriptors, process, threads, pending signals. */
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
	CT_CALL(m, "personality", CT_CALL_OK, SYS_personality, p->personality);
	if (p->thp_disable)
		CT_CALL(m, "huge pages", 0, SYS_prctl, PR_SET_THP_DISABLE, 1);
	if (p->keep_caps)
		CT_CALL(m, "keep_caps", 0, SYS_prctl, PR_SET_KEEPCAPS, 1);
	CT_CALL(m, "memory failures", 0, SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, p->mce_kill);
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

#define THREAD_CALLS (6 + RIGHTS_CALLS)

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
	ct_numa_set(r, t);
}

static void clone_call(struct ct_rank *r, const struct ct_img_thread *t)
{
	struct ct_remote *m = &r->remote;
	struct ct_clone3_args a = {
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

/* What the main thread does at the very end. */
static void leader_calls(struct ct_rank *r)
{
	const struct ct_img_thread *leader = r->snap.threads.at;

	CT_CALL(&r->remote, "tid address", 0, SYS_set_tid_address, leader->clear_tid);
	thread_calls(r, leader);
	drop_rights(r);
}

#define LEADER_CALLS 64
#define LEADER_BYTES 4096

/* Timers and signals are for threads that are there. Without them the main thread need not wake once more for its own calls. */
static bool is_leader_next(const struct ct_rank *r, size_t first, size_t n)
{
	return first + n == r->snap.threads.n && !r->snap.timers.n && !r->snap.infos.n &&
	       ct_remote_has_room(&r->remote, n * (THREAD_CALLS + 1) + LEADER_CALLS, n * 400 + LEADER_BYTES);
}

/* *is_done: the calls of the main thread were made as well. What was queued before runs, where there are other threads. */
static int make_threads(struct ct_rank *r, bool *is_done, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_thread *all = r->snap.threads.at;
	size_t total = r->snap.threads.n;
	int rc = 0;

	for (size_t first = 1; rc == 0 && first < total; first += THREADS_AT_ONCE) {
		size_t n = total - first < THREADS_AT_ONCE ? total - first : THREADS_AT_ONCE, clones, part;
		struct ct_call *calls;

		rc = ct_restore_room(r, n * (THREAD_CALLS + 1), n * 400, why);
		if (rc < 0)
			break;
		*is_done = is_leader_next(r, first, n);
		clones = m->calls;
		for (size_t i = first; i < first + n; i++)
			clone_call(r, &all[i]);
		if (*is_done)
			leader_calls(r);
		part = m->calls;
		calls = (struct ct_call *)(void *)(m->local + CT_PAGE) + part;
		for (size_t i = first; i < first + n; i++) {
			thread_calls(r, &all[i]);
			rights_calls(r);
		}
		for (size_t i = 0; i < n; i++) {
			struct ct_call *clone = (struct ct_call *)(void *)(m->local + CT_PAGE) + clones + i;

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
	ct_traits_set_thread(t->tid, from, i == 0);
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

int ct_restore_rest(struct ct_rank *r, struct gw_error *why)
{
	bool is_done = false;
	int rc;

	ct_remote_reset(&r->remote);
	rc = ct_restore_shared(r, why);
	if (rc == 0)
		rc = ct_restore_fds(r, why);
	if (rc == 0)
		rc = ct_epoll_fill(r, why);
	if (rc == 0 && r->snap.unread.n) /* it goes into descriptors that must be there */
		rc = ct_restore_run(r, why);
	if (rc == 0)
		rc = ct_unread_give(r, &r->snap, why);
	r->cursor = first_free(r);
	if (rc == 0)
		rc = set_process(r, why);
	if (rc == 0)
		rc = make_threads(r, &is_done, why);
	if (rc == 0 && r->snap.timers.n)
		rc = ct_restore_run(r, why);
	if (rc == 0)
		rc = ct_timers_make(r, why);
	if (rc == 0)
		rc = queue_signals(r, why);
	if (rc == 0 && !is_done)
		rc = ct_restore_room(r, LEADER_CALLS, LEADER_BYTES, why);
	if (rc == 0 && !is_done) {
		leader_calls(r);
		rc = ct_restore_run(r, why);
	}
	if (rc == 0)
		rc = ct_locks_take(r, why);
	for (size_t i = 0; rc == 0 && i < r->threads.n; i++)
		rc = set_thread(r, i, why);
	if (rc == 0)
		ct_traits_set(r);
	return rc;
}
