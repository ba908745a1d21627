/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The threads of a shell: those that the rank has when it is looked at are made beforehand, and stand still until it is known
 * what they shall be; what has come or gone since is mended.
 *
 *   PREPARE    numbers of threads -> each is made, and stops after a call that does nothing
 *   the image  numbers -> others end, missing ones are made; then all make the calls that are a thread's own; registers
 */
#include "container/rank.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS_AT_ONCE 256

/* ---- calls that are a thread's own ------------------------------------------------------------------------------ */

#define RIGHTS_CALLS 2
#define THREAD_CALLS (10 + RIGHTS_CALLS)

/* of the thread that makes the calls: rights are each thread's own. Always the same number of calls */
void ct_restore_rights_calls(struct ct_rank *r)
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

/* Always the same number of calls. A thread that was made beforehand has inherited none of this from the main one. */
void ct_restore_thread_calls(struct ct_rank *r, const struct ct_img_thread *t)
{
	struct ct_remote *m = &r->remote;
	const struct ct_img_process *p = &r->snap.process;
	struct { uint64_t sp; uint32_t flags, pad; uint64_t size; } ss = { t->altstack, t->altstack_flags & ~(uint32_t)SS_ONSTACK,
		0, t->altstack_size };

	CT_CALL(m, "tid address", 0, SYS_set_tid_address, t->clear_tid);
	CT_CALL(m, "robust list", 0, SYS_set_robust_list, t->robust_list, t->robust_len ? t->robust_len : 24);
	CT_CALL(m, "alternate stack", CT_CALL_OK, SYS_sigaltstack, ct_remote_data(m, &ss, sizeof(ss)), 0);
	if (t->rseq)
		CT_CALL(m, "rseq", CT_CALL_OK, SYS_rseq, t->rseq, t->rseq_len, 0, t->rseq_signature);
	else
		CT_CALL(m, "rseq", 0, SYS_getpid);
	CT_CALL(m, "name", 0, SYS_prctl, PR_SET_NAME, ct_remote_data(m, t->comm, sizeof(t->comm)));
	CT_CALL(m, "timer slack", 0, SYS_prctl, PR_SET_TIMERSLACK, t->timerslack);
	CT_CALL(m, "personality", CT_CALL_OK, SYS_personality, p->personality);
	if (p->keep_caps)
		CT_CALL(m, "keep_caps", 0, SYS_prctl, PR_SET_KEEPCAPS, 1);
	else
		CT_CALL(m, "keep_caps", 0, SYS_getpid);
	CT_CALL(m, "memory failures", 0, SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, p->mce_kill);
	ct_numa_set(r, t);
}

/* ---- making them ------------------------------------------------------------------------------------------------- */

static void clone_call(struct ct_rank *r, uint32_t ns_tid)
{
	struct ct_remote *m = &r->remote;
	struct ct_clone3_args a = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE,
		.set_tid = ct_remote_data(m, &ns_tid, sizeof(ns_tid)),
		.set_tid_size = 1 };
	struct ct_call *c;

	c = CT_CALL(m, "make a thread", CT_CALL_EQUAL | CT_CALL_CLONE, SYS_clone3, ct_remote_data(m, &a, sizeof(a)), sizeof(a));
	c->expect = ns_tid;
}

/* The calls of the table in which new threads begin: those of thread first + i are [call + i * each, and @each of them). */
struct parts { size_t call, each, first, n; };

/* bring the new threads to the end of their parts of the table, and find out which is which */
static int threads_collect(struct ct_rank *r, const struct parts *p, struct gw_error *why)
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
				which = at < p->call ? p->n : (at - p->call) / p->each - 1;
				if (at < p->call + p->each || (at - p->call) % p->each || which >= p->n || now.r12 != now.r13) {
					rc = gw_fail(why, -EIO, "%s: failed in a new thread (call %zu)",
					             at < GW_ARRAY_LEN(m->what) && m->what[at] ? m->what[at] : "?", at);
				} else {
					struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, p->first + which);

					t->tid = tid;
					t->is_seized = t->is_stopped = t->has_sigmask = true;
				}
			}
		}
	ct_vec_fini(&tids);
	for (size_t i = p->first; rc == 0 && i < p->first + p->n; i++)
		if (!CT_AT(struct ct_thread, &r->threads, i)->is_seized)
			rc = gw_fail(why, -EIO, "a new thread is missing");
	return rc;
}

/* ---- beforehand -------------------------------------------------------------------------------------------------- */

#define FDS_AHEAD 256 /* numbers above the parked descriptors for which there is room beforehand */

/*
 * Two things wait for all processors of the host when a process has several threads, for milliseconds, and for none when it has
 * one: to say for the first time that memory barriers are wanted, and to make room for descriptors. So they are done before.
 */
int ct_restore_threads_ahead(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	struct ct_snapshot *hint = &r->hint;
	const struct ct_img_thread *all = hint->threads.at;
	struct parts p = { .each = 1, .first = 1, .n = hint->threads.n };
	struct ct_call *calls;
	size_t clones;
	int rc, fd = -1;

	if (!p.n || p.n > CT_THREADS_AHEAD)
		return 0;
	ct_remote_reset(m);
	r->barriers_ahead = hint->process.membarrier;
	for (unsigned i = 0; i < 32; i++)
		if (r->barriers_ahead & 1u << i)
			CT_CALL(m, "register for membarrier", 0, SYS_membarrier, 1u << i, 0, 0);
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		fd = r->plumb_fd[i] >= 0 ? r->plumb_fd[i] : fd;
	CT_CALL(m, "make room for descriptors", 0, SYS_dup3, fd, r->plumb_fd[0] + FDS_AHEAD, O_CLOEXEC);
	CT_CALL(m, "close", 0, SYS_close, r->plumb_fd[0] + FDS_AHEAD);
	clones = m->calls;
	for (size_t i = 0; i < p.n; i++)
		clone_call(r, all[i].ns_tid);
	p.call = m->calls;
	for (size_t i = 0; i < p.n; i++)
		CT_CALL(m, "make a thread", CT_CALL_EQUAL, SYS_gettid)->expect = all[i].ns_tid;
	calls = (struct ct_call *)(void *)(m->local + CT_PAGE);
	for (size_t i = 0; i < p.n; i++) {
		calls[clones + i].child_start = ct_remote_call_addr(m, &calls[p.call + i]);
		calls[clones + i].child_end = ct_remote_call_addr(m, &calls[p.call + i + 1]);
	}
	if (!ct_vec_add(&r->threads, p.n))
		return gw_fail(why, -ENOMEM, "no memory for threads");
	rc = ct_remote_push(m, why);
	if (rc == 0)
		rc = ct_remote_start(m, r->pid, &r->shell_regs, 0, p.call, why);
	if (rc == 0)
		rc = ct_remote_wait(m, r->pid, p.call, why);
	if (rc == 0)
		rc = threads_collect(r, &p, why);
	for (size_t i = 0; rc == 0 && i < p.n; i++)
		CT_AT(struct ct_thread, &r->threads, p.first + i)->ns_tid = all[i].ns_tid;
	ct_remote_reset(m);
	return rc;
}

/* One that the rank has no more. The table is empty. */
static int thread_end(struct ct_rank *r, struct ct_thread *t, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	int status = 0, rc;

	CT_CALL(m, "end a thread", 0, SYS_exit, 0);
	rc = ct_remote_push(m, why);
	if (rc == 0)
		rc = ct_remote_start(m, t->tid, &r->shell_regs, 0, 1, why);
	if (rc == 0 && ct_wait_stop(t->tid, &status) != -ESRCH)
		rc = gw_fail(why, -EIO, "thread %d: stopped with %#x and should have ended", (int)t->tid, status);
	t->is_seized = false;
	ct_remote_reset(m);
	return rc;
}

int ct_restore_threads_known(struct ct_rank *r, struct gw_error *why)
{
	const struct ct_img_thread *all = r->snap.threads.at;
	/* a barrier that nobody knew of would be waited for, see above, as long as there are several */
	bool is_late = r->snap.process.membarrier & ~r->barriers_ahead;
	size_t total = r->snap.threads.n, left;
	struct ct_vec sorted;
	int rc = 0;

	if (r->threads.n == 1)
		return ct_vec_add(&r->threads, total - 1) || total == 1 ? 0 : gw_fail(why, -ENOMEM, "no memory for threads");
	left = r->threads.n - 1;
	ct_vec_init(&sorted, sizeof(struct ct_thread));
	if (!ct_vec_add(&sorted, total + left))
		return gw_fail(why, -ENOMEM, "no memory for threads");
	sorted.n = total;
	*CT_AT(struct ct_thread, &sorted, 0) = *CT_AT(struct ct_thread, &r->threads, 0);
	for (size_t i = 1; i < r->threads.n; i++) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);
		size_t k = is_late ? total : 1;

		while (k < total && all[k].ns_tid != t->ns_tid)
			k++;
		if (k < total && !CT_AT(struct ct_thread, &sorted, k)->is_seized)
			*CT_AT(struct ct_thread, &sorted, k) = *t;
		else /* behind the others, so that it is ended with them if this comes to nothing */
			*CT_AT(struct ct_thread, &sorted, sorted.n++) = *t;
	}
	ct_vec_fini(&r->threads);
	r->threads = sorted;
	for (size_t i = total; rc == 0 && i < r->threads.n; i++)
		rc = thread_end(r, CT_AT(struct ct_thread, &r->threads, i), why);
	if (rc == 0)
		r->threads.n = total;
	return rc;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

/* Timers and signals are for threads that are there. Without them the main thread need not wake once more for its own calls. */
static bool is_leader_next(const struct ct_rank *r, size_t first, size_t n)
{
	return first + n == r->snap.threads.n && !r->snap.timers.n && !r->snap.infos.n &&
	       ct_remote_has_room(&r->remote, n * (THREAD_CALLS + 1) + CT_LEADER_CALLS, n * 400 + CT_LEADER_BYTES);
}

static int some_threads(struct ct_rank *r, size_t first, size_t n, bool *is_done, struct gw_error *why)
{
	const struct ct_img_thread *all = r->snap.threads.at;
	struct parts p = { .each = THREAD_CALLS, .first = first, .n = n };
	struct ct_remote *m = &r->remote;
	struct ct_call *calls;
	size_t clones, made = 0, started = 0;
	int rc;

	rc = ct_restore_room(r, n * (THREAD_CALLS + 1), n * 400, why);
	if (rc < 0)
		return rc;
	if (is_done)
		*is_done = is_leader_next(r, first, n);
	clones = m->calls;
	for (size_t i = first; i < first + n; i++)
		if (!CT_AT(struct ct_thread, &r->threads, i)->is_seized)
			clone_call(r, all[i].ns_tid);
	if (is_done && *is_done)
		ct_restore_leader_calls(r);
	p.call = m->calls;
	for (size_t i = first; i < first + n; i++) {
		ct_restore_thread_calls(r, &all[i]);
		ct_restore_rights_calls(r);
	}
	calls = (struct ct_call *)(void *)(m->local + CT_PAGE);
	for (size_t i = 0; i < n; i++) {
		struct ct_call *clone = &calls[clones + made];

		if (CT_AT(struct ct_thread, &r->threads, first + i)->is_seized)
			continue;
		clone->child_start = ct_remote_call_addr(m, &calls[p.call + i * THREAD_CALLS]);
		clone->child_end = ct_remote_call_addr(m, &calls[p.call + (i + 1) * THREAD_CALLS]);
		made++;
	}
	rc = ct_remote_push(m, why);
	for (; rc == 0 && started < n; started++) {
		const struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, first + started);
		size_t from = p.call + started * THREAD_CALLS;

		if (t->is_seized)
			rc = ct_remote_start(m, t->tid, &r->shell_regs, from, from + THREAD_CALLS, why);
	}
	if (rc == 0 && p.call)
		rc = ct_remote_start(m, r->pid, &r->shell_regs, 0, p.call, why);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, first + i);

		if (t->is_seized)
			rc = ct_remote_wait(m, t->tid, p.call + (i + 1) * THREAD_CALLS, why);
	}
	if (rc == 0 && p.call)
		rc = ct_remote_wait(m, r->pid, p.call, why);
	if (rc == 0 && made)
		rc = threads_collect(r, &p, why);
	ct_remote_reset(m);
	return rc;
}

int ct_restore_threads(struct ct_rank *r, bool *is_done, struct gw_error *why)
{
	size_t total = r->snap.threads.n;
	int rc = 0;

	for (size_t first = 1; rc == 0 && first < total; first += THREADS_AT_ONCE)
		rc = some_threads(r, first, total - first < THREADS_AT_ONCE ? total - first : THREADS_AT_ONCE, is_done, why);
	return rc;
}

/* ---- from outside ------------------------------------------------------------------------------------------------ */

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

int ct_restore_thread_set(struct ct_rank *r, size_t i, struct gw_error *why)
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
