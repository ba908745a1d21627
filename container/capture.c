/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading all of a stopped rank but its pages into a snapshot, and handing the image out in pieces. */
#include "container/spans.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MEMBARRIER_GET_REGISTRATIONS 512
#define PR_GET_TID_ADDRESS_ 40

static size_t xstate_size; /* of every thread on this host, once one was read; 0: not known yet */

/* ---- from outside ---------------------------------------------------------------------------------------------- */

/* What only an exec changes is read while the rank runs; ct_capture makes sure that none came between. */
int ct_capture_prepare(struct ct_rank *r, struct gw_error *why)
{
	struct ct_img_process *p = &r->snap.process;
	unsigned long long f[53] = { 0 };
	char text[8192], *at;
	const char *field;
	int rc;

	rc = ct_proc_read(r->pid, "stat", text, sizeof(text));
	at = rc > 0 ? strrchr(text, ')') : NULL; /* the name may hold anything */
	if (!at)
		return gw_fail(why, -ESRCH, "cannot read the state of pid %d", (int)r->pid);
	at++;
	for (int i = 3; i < 53 && *at; i++) {
		while (*at == ' ')
			at++;
		f[i] = i == 3 ? 0 : strtoull(at, NULL, 10);
		at += strcspn(at, " ");
	}
	p->start_code = f[26];
	p->end_code = f[27];
	p->start_stack = f[28];
	p->start_data = f[45];
	p->end_data = f[46];
	p->start_brk = f[47];
	p->arg_start = f[48];
	p->arg_end = f[49];
	p->env_start = f[50];
	p->env_end = f[51];
	rc = ct_proc_read(r->pid, "auxv", text, sizeof(text));
	r->snap.auxv.n = 0;
	if (rc <= 0 || ct_vec_append(&r->snap.auxv, text, (size_t)rc / sizeof(uint64_t)) < 0)
		return gw_fail(why, -ESRCH, "cannot read the auxiliary vector of pid %d", (int)r->pid);
	rc = ct_proc_read(r->pid, "oom_score_adj", text, sizeof(text));
	p->oom_score_adj = rc > 0 ? atoi(text) : 0;
	rc = ct_proc_read(r->pid, "coredump_filter", text, sizeof(text));
	p->coredump_filter = rc > 0 ? (uint32_t)strtoul(text, NULL, 16) : 0;
	rc = ct_proc_read(r->pid, "status", text, sizeof(text));
	field = rc > 0 ? ct_proc_field(text, "Umask:") : NULL;
	r->umask_guess = field ? (uint32_t)strtoul(field, NULL, 8) : 022;
	if (ct_numa_list(r) < 0)
		return gw_fail(why, -ENOMEM, "no memory for memory policies");
	rc = ct_proc_link(r->pid, "exe", r->exe, sizeof(r->exe));
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the program's path of pid %d: %s", (int)r->pid, strerror(-rc));
	r->vdso_start = p->vdso_start;
	/* room for the threads that there are, touched now */
	r->snap.xstate.n = 0;
	if (!ct_vec_add(&r->snap.xstate, (r->samples.n + 4) * (xstate_size ? xstate_size : 65536)))
		return gw_fail(why, -ENOMEM, "no memory for extended state");
	return 0;
}

static int read_files(struct ct_rank *r, struct gw_error *why)
{
	struct ct_img_process *p = &r->snap.process;
	char text[4096];
	struct stat st;
	int rc;

	rc = ct_proc_link(r->pid, "cwd", text, sizeof(text));
	if (rc < 0 || text[0] != '/' || stat(text, &st) < 0)
		return gw_fail(why, -EBUSY, "its working directory '%s' cannot be found any more", rc < 0 ? "?" : text);
	p->cwd = ct_snapshot_string(&r->snap, text);
	p->exe_file = UINT32_MAX;
	for (uint32_t i = 0; i < r->snap.files.n; i++)
		if (strcmp(ct_snapshot_text(&r->snap, CT_AT(struct ct_img_file, &r->snap.files, i)->path), r->exe) == 0)
			p->exe_file = i;
	/* deleted or replaced since it began, as by a compiler */
	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas)
		if (p->exe_file == UINT32_MAX && v->kind == CT_VMA_MEMORY && p->start_code >= v->start && p->start_code < v->end)
			p->exe_file = CT_IMG_EXE_MEMORY | v->file;
	if (p->exe_file == UINT32_MAX)
		return gw_fail(why, -EBUSY, "its program '%s' is not mapped, or was replaced", r->exe);
	if (p->vdso_start != r->vdso_start)
		return gw_fail(why, -EAGAIN, "it ran another program (exec) just now; try again");
	return 0;
}

static int read_infos(struct ct_rank *r, pid_t tid, uint32_t ns_tid, struct gw_error *why)
{
	struct __ptrace_peeksiginfo_args arg = { .nr = 16, .flags = ns_tid ? 0 : PTRACE_PEEKSIGINFO_SHARED };
	siginfo_t infos[16];
	long n;

	do {
		n = ptrace(PTRACE_PEEKSIGINFO, tid, &arg, infos);
		if (n < 0)
			return gw_fail(why, -errno, "thread %d: cannot read its pending signals: %s", (int)tid, strerror(errno));
		for (long i = 0; i < n; i++) {
			struct ct_img_siginfo *s = ct_vec_add(&r->snap.infos, 1);

			if (!s)
				return gw_fail(why, -ENOMEM, "no memory for pending signals");
			s->ns_tid = ns_tid;
			memcpy(s->info, &infos[i], sizeof(s->info));
			if (infos[i].si_signo == SIGSTOP) { /* nothing can keep it waiting there: it stops when it is let go */
				r->snap.process.is_stopped = 1;
				r->snap.infos.n--;
			}
		}
		arg.off += (uint64_t)n;
	} while (n == 16);
	return 0;
}

static int read_xstate(struct ct_rank *r, pid_t tid, struct gw_error *why)
{
	size_t size = xstate_size ? xstate_size : 65536;
	unsigned char *to;
	struct iovec iov;

	to = ct_vec_add(&r->snap.xstate, size);
	if (!to)
		return gw_fail(why, -ENOMEM, "no memory for extended state");
	iov = (struct iovec){ to, size };
	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &iov) < 0)
		return gw_fail(why, -errno, "thread %d: cannot read its extended state: %s", (int)tid, strerror(errno));
	r->snap.xstate.n -= size - iov.iov_len;
	xstate_size = iov.iov_len;
	r->snap.process.xstate_size = (uint32_t)iov.iov_len;
	return 0;
}

/* ---- from inside ----------------------------------------------------------------------------------------------- */

struct asked { /* where the answers of the calls will be; addresses in the target */
	struct ct_call *cloexec; /* the first of r->n_asked */
	struct ct_call *brk, *membarrier, *dumpable, *no_new_privs, *thp, *personality, *umask, *keep_caps, *mce_kill;
	uint64_t itimers, actions, limits, subreaper, pdeathsig, caps;
	uint64_t timers;
	size_t leader_end;
};

static void ask_leader(struct ct_rank *r, struct asked *a)
{
	struct ct_remote *m = &r->remote;
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	uint64_t at = ct_remote_data(m, &head, sizeof(head));

	a->itimers = ct_remote_data(m, NULL, 3 * sizeof(struct itimerval));
	a->actions = ct_remote_data(m, NULL, 65 * 32);
	a->limits = ct_remote_data(m, NULL, CT_IMG_LIMITS * sizeof(struct ct_img_limit));
	a->subreaper = ct_remote_data(m, NULL, 8);
	a->pdeathsig = ct_remote_data(m, NULL, 8);
	a->caps = ct_remote_data(m, NULL, 2 * sizeof(struct __user_cap_data_struct));
	/* it can only be read by setting it: to what it most probably is, so that it need not be put back */
	a->umask = CT_CALL(m, "umask", 0, SYS_umask, r->umask_guess);
	a->brk = CT_CALL(m, "brk", 0, SYS_brk, 0);
	a->membarrier = CT_CALL(m, "membarrier", 0, SYS_membarrier, MEMBARRIER_GET_REGISTRATIONS);
	a->dumpable = CT_CALL(m, "dumpable", 0, SYS_prctl, PR_GET_DUMPABLE);
	a->no_new_privs = CT_CALL(m, "no_new_privs", 0, SYS_prctl, PR_GET_NO_NEW_PRIVS);
	a->thp = CT_CALL(m, "thp_disable", 0, SYS_prctl, PR_GET_THP_DISABLE);
	a->keep_caps = CT_CALL(m, "keep_caps", 0, SYS_prctl, PR_GET_KEEPCAPS);
	a->mce_kill = CT_CALL(m, "mce_kill", 0, SYS_prctl, PR_MCE_KILL_GET);
	a->personality = CT_CALL(m, "personality", 0, SYS_personality, 0xffffffffu);
	CT_CALL(m, "subreaper", 0, SYS_prctl, PR_GET_CHILD_SUBREAPER, a->subreaper);
	CT_CALL(m, "pdeathsig", 0, SYS_prctl, PR_GET_PDEATHSIG, a->pdeathsig);
	CT_CALL(m, "read its capabilities", CT_CALL_OK, SYS_capget, at, a->caps);
	for (unsigned i = 0; i < 3; i++)
		CT_CALL(m, "read its timers", CT_CALL_OK, SYS_getitimer, i, a->itimers + i * sizeof(struct itimerval));
	for (unsigned i = 0; i < CT_IMG_LIMITS; i++)
		CT_CALL(m, "read its limits", CT_CALL_OK, SYS_prlimit64, 0, i, 0, a->limits + i * sizeof(struct ct_img_limit));
	for (unsigned sig = 1; sig <= 64; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			CT_CALL(m, "read its signal handlers", CT_CALL_OK, SYS_rt_sigaction, sig, 0, a->actions + sig * 32, 8);
	ct_timers_ask(r, &a->timers);
	a->cloexec = (struct ct_call *)(void *)(m->local + CT_PAGE) + m->calls;
	for (uint32_t i = 0; i < r->n_asked; i++)
		CT_CALL(m, "read the flags of a descriptor", CT_CALL_OK, SYS_fcntl,
		        CT_AT(struct ct_img_fd, &r->snap.fds, r->asked[i])->number, F_GETFD);
	a->leader_end = m->calls;
}

static int answers_leader(struct ct_rank *r, const struct asked *a)
{
	struct ct_remote *m = &r->remote;
	struct ct_img_process *p = &r->snap.process;
	const struct __user_cap_data_struct *caps = ct_remote_at(m, a->caps);
	int64_t n;

	for (uint32_t i = 0; i < r->n_asked; i++)
		CT_AT(struct ct_img_fd, &r->snap.fds, r->asked[i])->is_cloexec = (a->cloexec[i].result & FD_CLOEXEC) != 0;
	p->brk = a->brk->result;
	p->membarrier = (int64_t)a->membarrier->result < 0 ? 0 : (uint32_t)a->membarrier->result;
	p->dumpable = (uint32_t)a->dumpable->result;
	n = (int64_t)a->no_new_privs->result;
	p->no_new_privs = n > 0;
	n = (int64_t)a->thp->result;
	p->thp_disable = n > 0 ? (uint32_t)n : 0;
	p->keep_caps = a->keep_caps->result == 1;
	n = (int64_t)a->mce_kill->result;
	p->mce_kill = n < 0 ? PR_MCE_KILL_DEFAULT : (uint32_t)n;
	p->personality = (uint32_t)a->personality->result;
	p->umask = (uint32_t)a->umask->result;
	p->subreaper = *(uint32_t *)ct_remote_at(m, a->subreaper) != 0;
	p->pdeathsig = *(uint32_t *)ct_remote_at(m, a->pdeathsig);
	p->cap_effective = caps[0].effective | (uint64_t)caps[1].effective << 32;
	p->cap_permitted = caps[0].permitted | (uint64_t)caps[1].permitted << 32;
	p->cap_inheritable = caps[0].inheritable | (uint64_t)caps[1].inheritable << 32;
	memcpy(p->itimers, ct_remote_at(m, a->itimers), sizeof(p->itimers));
	memcpy(p->limits, ct_remote_at(m, a->limits), sizeof(p->limits));
	r->snap.actions.n = 0;
	for (unsigned sig = 1; sig <= 64; sig++) {
		const uint64_t *k = ct_remote_at(m, a->actions + sig * 32); /* handler, flags, restorer, mask */
		struct ct_img_action act = { .sig = sig, .handler = k[0], .flags = k[1], .restorer = k[2], .mask = k[3] };

		if (sig != SIGKILL && sig != SIGSTOP && (k[0] || k[1]) && ct_vec_append(&r->snap.actions, &act, 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

#define THREAD_CALLS 6
#define THREAD_DATA  (64 + CT_NUMA_ANSWER) /* stack_t, tid address, name; memory policy */

static uint64_t ask_thread(struct ct_remote *m)
{
	uint64_t at = ct_remote_data(m, NULL, THREAD_DATA);

	CT_CALL(m, "gettid", CT_CALL_OK, SYS_gettid);
	CT_CALL(m, "read its alternate stack", CT_CALL_OK, SYS_sigaltstack, 0, at);
	CT_CALL(m, "tid address", 0, SYS_prctl, PR_GET_TID_ADDRESS_, at + 24);
	CT_CALL(m, "name", 0, SYS_prctl, PR_GET_NAME, at + 32);
	CT_CALL(m, "timer slack", 0, SYS_prctl, PR_GET_TIMERSLACK);
	ct_numa_ask(m, at + 64);
	return at;
}

/* @place: of the rank; NULL: it is not known */
static int answers_thread(struct ct_rank *r, struct ct_thread *t, const struct ct_call *c, uint64_t at, const cpu_set_t *place,
                          struct gw_error *why)
{
	struct ct_img_thread *out = ct_vec_add(&r->snap.threads, 1);
	const unsigned char *data = ct_remote_at(&r->remote, at);
	struct user_regs_struct regs;
	void *head = NULL;
	size_t len = 0;

	if (!out)
		return gw_fail(why, -ENOMEM, "no memory for threads");
	out->ns_tid = (uint32_t)c[0].result;
	memcpy(&out->altstack, data, 8);
	memcpy(&out->altstack_flags, data + 8, 4);
	memcpy(&out->altstack_size, data + 16, 8);
	memcpy(&out->clear_tid, data + 24, 8);
	memcpy(out->comm, data + 32, 16);
	out->timerslack = t->slack_ns ? t->slack_ns : c[4].result;
	ct_numa_answer(data + 64, &c[5], out);
	ct_regs_for_image(r, t, &regs);
	memcpy(out->regs, &regs, sizeof(out->regs));
	out->sigmask = t->sigmask;
	out->rseq = t->rseq;
	out->rseq_len = t->rseq_len;
	out->rseq_signature = t->rseq_signature;
	out->nice = t->sched.nice;
	out->ioprio = ct_ioprio(t->tid);
	out->policy = t->sched.policy > 0 ? (uint32_t)t->sched.policy : 0;
	out->rt_priority = (uint32_t)t->sched.priority;
	if (place && (t->is_moved_cpu || sched_getaffinity(t->tid, sizeof(t->cpus), &t->cpus) == 0))
		ct_affinity_narrow(&t->cpus, place, out->cpus);
	if (syscall(SYS_get_robust_list, t->tid, &head, &len) < 0)
		return gw_fail(why, -errno, "thread %d: cannot read its robust list: %s", (int)t->tid, strerror(errno));
	out->robust_list = (uint64_t)(uintptr_t)head;
	out->robust_len = len;
	return read_infos(r, t->tid, out->ns_tid, why);
}

/* all calls of all threads, one table; each thread wakes once */
static int ask_all(struct ct_rank *r, const struct user_regs_struct *leader, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	struct asked a;
	uint64_t *at;
	size_t i = 0, n = r->threads.n;
	bool has_place;
	cpu_set_t place;
	int rc, first = 0;

	has_place = ct_affinity_place(r, &place);
	ct_remote_reset(m);
	at = calloc(n, sizeof(*at));
	if (!at)
		return gw_fail(why, -ENOMEM, "no memory for threads");
	ask_leader(r, &a);
	if (!ct_remote_has_room(m, n * THREAD_CALLS, n * (THREAD_DATA + 16))) {
		free(at);
		return gw_fail(why, -E2BIG, "it has %zu threads, more than can move", n);
	}
	/* the leader's own part stands at the end of its table, the others' after it */
	for (i = 0; i < n; i++)
		at[i] = ask_thread(m);
	rc = ct_remote_push(m, why);
	for (i = 0; rc == 0 && i < n; i++) {
		struct ct_thread *t = CT_AT(struct ct_thread, &r->threads, i);
		size_t from = i ? a.leader_end + i * THREAD_CALLS : 0;

		rc = ct_remote_start(m, t->tid, i ? &t->regs : leader, from, a.leader_end + (i + 1) * THREAD_CALLS, why);
		if (rc < 0)
			first = 1;
	}
	n = rc == 0 ? n : i - (size_t)first;
	for (i = 0; i < n; i++) { /* those that run must stop again, whatever happened */
		struct gw_error *mine = rc == 0 ? why : NULL;
		int rc2 = ct_remote_wait(m, CT_AT(struct ct_thread, &r->threads, i)->tid, a.leader_end + (i + 1) * THREAD_CALLS,
		                         mine);

		rc = rc == 0 ? rc2 : rc;
	}
	if (rc == 0)
		rc = ct_remote_pull(m, why);
	if (rc == 0 && answers_leader(r, &a) < 0)
		rc = gw_fail(why, -ENOMEM, "no memory for signal handlers");
	r->snap.threads.n = r->snap.infos.n = 0;
	for (i = 0; rc == 0 && i < n; i++)
		rc = answers_thread(r, CT_AT(struct ct_thread, &r->threads, i),
		                    (struct ct_call *)(void *)(m->local + CT_PAGE) + a.leader_end + i * THREAD_CALLS, at[i],
		                    has_place ? &place : NULL, why);
	if (rc == 0)
		rc = ct_timers_answers(r, a.timers, why);
	free(at);
	if (rc == 0 && r->snap.process.umask != r->umask_guess) {
		ct_remote_reset(m);
		CT_CALL(m, "umask", 0, SYS_umask, r->snap.process.umask);
		rc = ct_remote_run(m, r->pid, leader, why);
	}
	return rc;
}

/* Whether a mapping is locked from its beginning can only be seen of a new one, which ours is. Where nothing is locked, or what
 * memory it has locked is not told, nothing is asked: this costs time that the rank stands. */
static long locked_kib(const struct ct_rank *r)
{
	bool is_any = false;
	char text[8192];
	const char *f;

	for CT_EACH(const struct ct_map, m, &r->look.list)
		is_any |= (m->advice & CT_VMA_LOCKED) != 0;
	if (!is_any || ct_proc_read(r->pid, "status", text, sizeof(text)) <= 0)
		return 0;
	f = ct_proc_field(text, "VmLck:");
	return f ? atol(f) : 0;
}

static uint32_t locks_future(const struct ct_rank *r, long before)
{
	bool is_lazy = false;

	if (locked_kib(r) <= before)
		return 0;
	for CT_EACH(const struct ct_map, m, &r->look.list)
		is_lazy |= (m->advice & CT_VMA_LAZY) != 0;
	return MCL_FUTURE | (is_lazy ? MCL_ONFAULT : 0);
}

#define ROOM_CALLS 160 /* more than ask_leader() makes where there are no timers */
#define ROOM_DATA  4096

/* Where no more than the usual is asked, just as much as that takes: then its pages are made by the call that maps it. */
size_t ct_capture_room(const struct ct_rank *r, size_t threads)
{
	size_t bytes = CT_PAGE + (ROOM_CALLS + threads * THREAD_CALLS) * sizeof(struct ct_call) + ROOM_DATA + threads * (THREAD_DATA + 16);

	return r->snap.timers.n || threads > 32 ? CT_HOLE_SIZE : (bytes + CT_PAGE - 1) / CT_PAGE * CT_PAGE;
}

static int inside(struct ct_rank *r, struct gw_error *why)
{
	long locked = locked_kib(r);
	struct ct_thread *leader = r->threads.at;
	size_t room = ct_capture_room(r, r->threads.n);
	uint64_t map[6] = { 0, room, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | (room < CT_HOLE_SIZE ? MAP_POPULATE : 0),
	                    (uint64_t)-1, 0 };
	uint64_t insn;
	int64_t at = -1;
	int rc = 0;

	insn = ct_vdso_syscall(r->pid, r->snap.process.vdso_end, r->is_vdso_own);
	if (!insn)
		return gw_fail(why, -EBUSY, "no system call instruction was found in the vdso of pid %d", (int)r->pid);
	for CT_EACH(struct ct_thread, t, &r->threads) {
		rc = ct_sigmask_block(t, why);
		if (rc < 0)
			return rc;
	}
	rc = ct_remote_one(leader->tid, &leader->regs, insn, SYS_mmap, map, &at, why);
	if (rc == 0 && at < 0 && at > -4096) { /* it has no room for data (RLIMIT_DATA), or may not run what it wrote: shared memory may be */
		map[3] ^= MAP_PRIVATE | MAP_SHARED;
		rc = ct_remote_one(leader->tid, &leader->regs, insn, SYS_mmap, map, &at, why);
	}
	if (rc < 0)
		return rc;
	if (at < 0 && at > -4096)
		return gw_fail(why, (int)at, "pid %d: cannot map a page to work in: %s", (int)r->pid, strerror((int)-at));
	r->snap.process.locks_future = locks_future(r, locked);
	rc = ct_remote_init(&r->remote, r->pid, (uint64_t)at, room, NULL);
	if (rc == 0)
		rc = ask_all(r, &leader->regs, why);
	if (rc == 0)
		rc = ct_sysv_read(r, &leader->regs, why);
	return rc; /* the page goes when the rank goes on, which is seldom: ct_capture_undo */
}

void ct_capture_undo(struct ct_rank *r)
{
	struct ct_thread *leader = r->threads.at;
	uint64_t unmap[6] = { r->remote.base, r->remote.size }, insn;
	struct gw_error why = { 0 };
	int64_t result;

	if (!r->remote.base || !r->threads.n || !leader->is_seized || !leader->is_stopped || !leader->has_sigmask)
		return; /* has_sigmask: its registers are known, and will be put back */
	insn = ct_vdso_syscall(r->pid, r->snap.process.vdso_end, r->is_vdso_own);
	if (ct_remote_one(leader->tid, &leader->regs, insn, SYS_munmap, unmap, &result, &why) < 0)
		gw_log(GW_DEBUG, "pid %d: the page that we worked in cannot be unmapped: %s", (int)r->pid, why.text);
	r->remote.base = 0;
}

/* What depends on no page goes before they are looked for, where somebody makes use of it; and all of it at once. */
static int hand_head(struct ct_rank *r, bool *is_gone, struct gw_error *why)
{
	int rc;

	if (!r->hand_head || r->may_leave)
		return 0;
	if (ct_snapshot_write_head(&r->snap, &r->meta) < 0 || ct_section_write(&r->meta, CT_SECTION_HEAD, 0, NULL, 0) < 0)
		return gw_fail(why, -ENOMEM, "no memory for the image");
	if (r->meta.n > CT_IMAGE_CHUNK_MIN)
		return 0;
	r->is_still = true;
	rc = r->hand_head(r->hand_head_ctx, r->meta.at, r->meta.n, why);
	r->is_still = false;
	r->meta.n = 0;
	*is_gone = true;
	return rc;
}

int ct_capture(struct ct_rank *r, struct ct_freeze_stats *st, struct gw_error *why)
{
	struct ct_snapshot *s = &r->snap;
	struct ct_img_process *p = &s->process;
	bool is_head_gone = false;
	int rc;

	s->strings.n = s->files.n = s->xstate.n = s->dropped.n = s->later.n = 0;
	r->serve.pages = r->serve.total = 0;
	r->serve.is_whole = false;
	p->boottime_ns = ct_clock_ns(CLOCK_BOOTTIME) + (uint64_t)r->boottime_offset_ns;
	p->ns_pid = (uint32_t)r->ns_pid;
	p->threads = (uint32_t)r->threads.n;
	p->uid = r->uid;
	p->gid = r->gid;
	p->xstate_size = 0;
	ct_xstate_layout(&p->layout);
	rc = ct_maps_read_again(&r->maps, r->pid); /* ct_rank_freeze has read it while the rank ran */
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the memory map of pid %d: %s", (int)r->pid, strerror(-rc));
	rc = ct_vmas_scan(r, &r->maps, s, why);
	if (rc == 0)
		rc = ct_fds_scan(r, s, true, why);
	for CT_EACH(struct ct_img_file, file, &s->files)
		if (ct_carried_find(r, file))
			file->flags |= CT_IMG_FILE_CARRIED;
	if (rc == 0)
		rc = ct_rest_take(r, why);
	if (rc == 0 && r->say_still) {
		r->is_still = true;
		rc = r->say_still(r->say_still_ctx, why);
		r->is_still = false;
	}
	if (rc == 0)
		rc = ct_others_check(r, why);
	if (rc == 0)
		rc = read_files(r, why);
	for CT_EACH(const struct ct_thread, t, &r->threads)
		if (rc == 0)
			rc = read_xstate(r, t->tid, why); /* before anything runs there */
	if (rc == 0)
		rc = ct_timers_list(r, why);
	if (rc == 0)
		rc = inside(r, why);
	if (rc == 0)
		rc = read_infos(r, r->pid, 0, why);
	if (rc == 0)
		rc = ct_unread_take(r, why);
	if (rc == 0)
		rc = hand_head(r, &is_head_gone, why);
	if (rc == 0)
		rc = r->may_leave && !r->follow ? ct_serve_choose(r, why) : 0;
	if (rc == 0)
		rc = r->follow ? ct_follow_last(r, st, why) : ct_extents_scan(r, s, &r->extents, why);
	if (rc == 0 && r->may_leave)
		rc = ct_serve_plan(r, why);
	if (rc == 0 && ((!is_head_gone && ct_snapshot_write_head(s, &r->meta) < 0) || ct_snapshot_write_tail(s, &r->meta) < 0))
		rc = gw_fail(why, -ENOMEM, "no memory for the image");
	return rc;
}

/* ---- the image in pieces --------------------------------------------------------------------------------------- */

#define RUN_HEAD (sizeof(struct ct_img_section) + sizeof(struct ct_img_pages))
#define RUNS_MAX 512

bool ct_is_zero_page(const unsigned char *p)
{
	typedef uint64_t __attribute__((aligned(1), may_alias)) word; /* the buffer may begin anywhere */
	const word *w = (const word *)(const void *)p;

	for (size_t i = 0; i < CT_PAGE / 8; i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7])
			return false;
	return true;
}

static void put_head(unsigned char *at, uint64_t vaddr, size_t pages)
{
	struct ct_img_section h = { .magic = CT_IMAGE_MAGIC, .type = CT_SECTION_PAGES, .version = CT_IMAGE_VERSION,
		.count = (uint32_t)pages, .length = sizeof(struct ct_img_pages) + pages * CT_PAGE };
	struct ct_img_pages run = { .vaddr = vaddr, .pages = (uint32_t)pages };

	memcpy(at, &h, sizeof(h));
	memcpy(at + sizeof(h), &run, sizeof(run));
}

/* Write [vaddr, +pages) that stands at @from as runs to @to <= @from, without pages of zeroes where nothing means zero.
 * Each page left out makes room for the one head more that the cut needs. Return: the new end. */
static unsigned char *pack_run(struct ct_rank *r, unsigned char *to, const unsigned char *from, uint64_t vaddr,
                               size_t pages, bool is_zero_default)
{
	size_t i = 0;

	while (i < pages) {
		size_t n = 0;

		while (is_zero_default && i < pages && ct_is_zero_page(from + i * CT_PAGE)) {
			i++;
			r->totals.pages_zero++;
		}
		while (i + n < pages && !(is_zero_default && ct_is_zero_page(from + (i + n) * CT_PAGE)))
			n++;
		if (!n)
			break;
		if (to + RUN_HEAD != from + i * CT_PAGE)
			memmove(to + RUN_HEAD, from + i * CT_PAGE, n * CT_PAGE);
		put_head(to, vaddr + i * CT_PAGE, n);
		to += RUN_HEAD + n * CT_PAGE;
		r->totals.pages_sent += n;
		i += n;
	}
	return to;
}

static bool is_zero_default(const struct ct_rank *r, uint64_t addr)
{
	const struct ct_snapshot *s = r->is_round ? ct_follow_mappings(r) : &r->snap;
	size_t lo = 0, hi = s->vmas.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct ct_img_vma *v = CT_AT(struct ct_img_vma, &s->vmas, mid);

		if (addr < v->start)
			hi = mid;
		else if (addr >= v->end)
			lo = mid + 1;
		else
			return v->kind == CT_VMA_ANON || v->kind == CT_VMA_SHARED_ANON;
	}
	return false;
}

/* Of a rank that runs: a page that has gone away meanwhile is sent empty, and counts as not sent. */
static int read_one_by_one(struct ct_rank *r, unsigned char *to, uint64_t vaddr, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		uint64_t at = vaddr + i * CT_PAGE;

		if (ct_mem_read(r->pid, at, to + i * CT_PAGE, CT_PAGE) == 0 ||
		    pread(r->mem_fd, to + i * CT_PAGE, CT_PAGE, (off_t)at) == (ssize_t)CT_PAGE)
			continue;
		memset(to + i * CT_PAGE, 0, CT_PAGE);
		if (ct_spans_add(&r->unreadable, at, at + CT_PAGE) < 0)
			return -ENOMEM;
	}
	return 0;
}

void ct_image_begin(struct ct_rank *r, bool is_round, bool can_skip_zeroes)
{
	r->meta_at = r->extent_at = 0;
	r->page_at = r->extents.n ? CT_AT(struct ct_extent, &r->extents, 0)->start : 0;
	r->is_end_sent = false;
	r->totals = (struct ct_img_end){ 0 };
	r->is_round = is_round;
	r->can_skip_zeroes = can_skip_zeroes;
	r->unreadable.n = 0;
}

static ssize_t next_pages(struct ct_rank *r, unsigned char *buf, size_t cap, struct gw_error *why)
{
	struct { uint64_t vaddr; size_t pages; unsigned char *at; bool is_zero; } runs[RUNS_MAX];
	struct iovec to[RUNS_MAX], from[RUNS_MAX];
	unsigned char *at = buf, *out = buf;
	size_t n = 0, n_iov = 0, want = 0;

	while (r->extent_at < r->extents.n && n < RUNS_MAX && (size_t)(buf + cap - at) >= RUN_HEAD + CT_PAGE) {
		const struct ct_extent *e = CT_AT(struct ct_extent, &r->extents, r->extent_at);
		size_t room = ((size_t)(buf + cap - at) - RUN_HEAD) / CT_PAGE;
		size_t pages = (e->end - r->page_at) / CT_PAGE;

		pages = pages < room ? pages : room;
		at += RUN_HEAD;
		runs[n].vaddr = r->page_at;
		runs[n].pages = pages;
		runs[n].at = at;
		runs[n].is_zero = r->can_skip_zeroes && is_zero_default(r, r->page_at);
		n++;
		if (e->is_forced) {
			if (pread(r->mem_fd, at, pages * CT_PAGE, (off_t)r->page_at) == (ssize_t)(pages * CT_PAGE))
				;
			else if (!r->is_round || read_one_by_one(r, at, r->page_at, pages) < 0)
				return gw_fail(why, -EIO, "cannot read %zu pages at %#llx of pid %d: %s", pages,
				               (unsigned long long)r->page_at, (int)r->pid, strerror(errno));
		} else {
			to[n_iov] = (struct iovec){ at, pages * CT_PAGE };
			from[n_iov++] = (struct iovec){ (void *)r->page_at, pages * CT_PAGE };
			want += pages * CT_PAGE;
		}
		at += pages * CT_PAGE;
		r->page_at += pages * CT_PAGE;
		if (r->page_at >= e->end && ++r->extent_at < r->extents.n)
			r->page_at = CT_AT(struct ct_extent, &r->extents, r->extent_at)->start;
	}
	if (n_iov) {
		ssize_t got = ct_mem_readv(r->pid, to, from, n_iov);

		for (size_t i = 0; (got < 0 || (size_t)got != want) && r->is_round && i < n; i++)
			if (read_one_by_one(r, runs[i].at, runs[i].vaddr, runs[i].pages) < 0)
				return gw_fail(why, -ENOMEM, "no memory for a list of pages");
		if ((got < 0 || (size_t)got != want) && !r->is_round)
			return gw_fail(why, got < 0 ? -errno : -EFAULT, "cannot read the memory of pid %d: %s", (int)r->pid,
			               got < 0 ? strerror(errno) : "a page went away");
	}
	for (size_t i = 0; i < n; i++)
		out = pack_run(r, out, runs[i].at, runs[i].vaddr, runs[i].pages, runs[i].is_zero);
	return out - buf;
}

ssize_t ct_image_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why)
{
	size_t used = 0;

	if ((r->state != CT_FROZEN && !(r->state == CT_RUNNING && r->is_round)) || cap < CT_IMAGE_CHUNK_MIN)
		return gw_fail(why, -EINVAL, "pid %d is not frozen, or the buffer is too small", (int)r->pid);
	if (r->meta_at < r->meta.n) {
		used = r->meta.n - r->meta_at < cap ? r->meta.n - r->meta_at : cap;
		memcpy(buf, (unsigned char *)r->meta.at + r->meta_at, used);
		r->meta_at += used;
	}
	/* a chunk may turn out to be zeroes only */
	while (r->meta_at == r->meta.n && r->extent_at < r->extents.n && cap - used >= RUN_HEAD + CT_PAGE) {
		ssize_t n = next_pages(r, (unsigned char *)buf + used, cap - used, why);

		if (n < 0)
			return n;
		used += (size_t)n;
		if (n)
			break;
	}
	if (r->meta_at == r->meta.n && r->extent_at == r->extents.n && !r->is_end_sent && !r->is_round &&
	    (r->carried.n || r->snap.memories.n)) {
		ssize_t n = used ? (ssize_t)used : ct_memory_next(r, buf, cap, why);

		if (n == 0 && r->carried.n)
			n = ct_carry_next(r, buf, cap, why);
		if (n != 0)
			return n;
	}
	if (r->meta_at == r->meta.n && r->extent_at == r->extents.n && !r->is_end_sent &&
	    cap - used >= sizeof(struct ct_img_section) + sizeof(r->totals)) {
		struct ct_img_section h = { .magic = CT_IMAGE_MAGIC, .type = r->is_round ? CT_SECTION_ROUND_END : CT_SECTION_END,
			.version = CT_IMAGE_VERSION,
			.count = 1, .length = sizeof(r->totals) };

		memcpy((unsigned char *)buf + used, &h, sizeof(h));
		memcpy((unsigned char *)buf + used + sizeof(h), &r->totals, sizeof(r->totals));
		used += sizeof(h) + sizeof(r->totals);
		r->is_end_sent = true;
	}
	return (ssize_t)used;
}
