/* SPDX-License-Identifier: BSD-2-Clause */
/* Tables of system calls that run inside a stopped process, and reading and writing its memory. */
#include "container/rank.h"

#include <elf.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * The code that runs in the target: position independent, no stack, no data but the table.
 * In: r12 the first call, r13 the end. Offsets are those of struct ct_call. A thread that CT_CALL_CLONE makes goes on
 * with its own part of the table. At the end, or at a call that did not do what it must, int3: r12 tells where.
 */
asm(
"	.pushsection .rodata\n"
"	.balign 16\n"
"	.globl ct_blob_start, ct_blob_end\n"
"	.hidden ct_blob_start, ct_blob_end\n"
"ct_blob_start:\n"
"1:	cmpq	%r13, %r12\n"
"	jae	9f\n"
"	movq	(%r12), %rax\n"
"	movq	8(%r12), %rdi\n"
"	movq	16(%r12), %rsi\n"
"	movq	24(%r12), %rdx\n"
"	movq	32(%r12), %r10\n"
"	movq	40(%r12), %r8\n"
"	movq	48(%r12), %r9\n"
"	syscall\n"
"	movq	64(%r12), %rbx\n"
"	testq	$4, %rbx\n"
"	jz	2f\n"
"	testq	%rax, %rax\n"
"	jnz	2f\n"
"	movq	88(%r12), %r13\n"
"	movq	80(%r12), %r12\n"
"	jmp	1b\n"
"2:	movq	%rax, 56(%r12)\n"
"	testq	$2, %rbx\n"
"	jz	3f\n"
"	cmpq	72(%r12), %rax\n"
"	jne	9f\n"
"3:	testq	$1, %rbx\n"
"	jz	4f\n"
"	cmpq	$-4095, %rax\n"
"	jae	9f\n"
"4:	addq	$96, %r12\n"
"	jmp	1b\n"
"9:	int3\n"
"	hlt\n"
"ct_blob_end:\n"
"	.popsection\n"
);
extern const unsigned char ct_blob_start[], ct_blob_end[];

/* ---- arrays ---------------------------------------------------------------------------------------------------- */

void ct_vec_init(struct ct_vec *v, size_t size)
{
	*v = (struct ct_vec){ .size = size };
}

void ct_vec_fini(struct ct_vec *v)
{
	free(v->at);
	v->at = NULL;
	v->n = v->cap = 0;
}

void *ct_vec_add(struct ct_vec *v, size_t n)
{
	unsigned char *p;

	if (v->n + n > v->cap) {
		size_t cap = v->cap * 2 > v->n + n ? v->cap * 2 : v->n + n;
		void *at;

		if (cap < 16)
			cap = 16;
		at = reallocarray(v->at, cap, v->size);
		if (!at)
			return NULL;
		v->at = at;
		v->cap = cap;
	}
	p = (unsigned char *)v->at + v->n * v->size;
	memset(p, 0, n * v->size);
	v->n += n;
	return p;
}

int ct_vec_append(struct ct_vec *v, const void *p, size_t n)
{
	void *to;

	if (!n)
		return 0;
	to = ct_vec_add(v, n);
	if (!to)
		return -ENOMEM;
	if (p) /* NULL: zeroes */
		memcpy(to, p, n * v->size);
	return 0;
}

/* ---- one processor --------------------------------------------------------------------------------------------- */

void ct_pin_begin(struct ct_pin *p)
{
	cpu_set_t one;

	p->is_pinned = false;
	gw_hurry_begin(0, &p->before);
	p->cpu = sched_getcpu();
	if (p->cpu < 0 || sched_getaffinity(0, sizeof(p->old), &p->old) < 0)
		return;
	CPU_ZERO(&one);
	CPU_SET(p->cpu, &one);
	p->is_pinned = sched_setaffinity(0, sizeof(one), &one) == 0;
}

void ct_pin_end(struct ct_pin *p)
{
	if (p->is_pinned)
		sched_setaffinity(0, sizeof(p->old), &p->old);
	gw_hurry_end(0, &p->before);
	p->is_pinned = false;
}

/* ---- the remote ------------------------------------------------------------------------------------------------ */

int ct_remote_init(struct ct_remote *m, pid_t pid, uint64_t base, size_t size, void *shared)
{
	m->pid = pid;
	m->base = base;
	m->is_shared = shared != NULL;
	if (m->local && (m->is_shared || m->size != size)) {
		free(m->local);
		m->local = NULL;
	}
	m->size = size;
	if (shared)
		m->local = shared;
	else if (!m->local)
		m->local = malloc(size);
	if (!m->local)
		return -ENOMEM;
	memcpy(m->local, ct_blob_start, (size_t)(ct_blob_end - ct_blob_start));
	ct_remote_reset(m);
	return 0;
}

static void *spare; /* the work area of the last shell: a MiB of shared pages costs a third of a millisecond to give back */

void *ct_area_take(void)
{
	void *area = spare;

	spare = NULL;
	if (area)
		return area;
	area = mmap(NULL, CT_HOLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	memset(area, 0, CT_HOLE_SIZE); /* touched before anything is frozen */
	return area;
}

void ct_area_give(void *area)
{
	if (spare)
		munmap(area, CT_HOLE_SIZE);
	else
		spare = area;
}

void ct_remote_fini(struct ct_remote *m)
{
	if (m->is_shared && m->local)
		ct_area_give(m->local);
	else
		free(m->local);
	m->local = NULL;
	m->is_shared = false;
	m->base = 0; /* nothing of ours is in that process any more, and what the program maps there next is its own */
}

void ct_remote_reset(struct ct_remote *m)
{
	m->calls = 0;
	m->data = m->size;
}

bool ct_remote_has_room(const struct ct_remote *m, size_t calls, size_t bytes)
{
	return m->calls + calls <= GW_ARRAY_LEN(m->what) &&
	       CT_PAGE + (m->calls + calls) * sizeof(struct ct_call) + bytes + 64 <= m->data;
}

uint64_t ct_remote_data(struct ct_remote *m, const void *p, size_t len)
{
	if (!ct_remote_has_room(m, 0, len + 16))
		return 0;
	m->data = (m->data - len) & ~(size_t)15;
	if (p)
		memcpy(m->local + m->data, p, len);
	else
		memset(m->local + m->data, 0, len);
	return m->base + m->data;
}

void *ct_remote_at(const struct ct_remote *m, uint64_t addr)
{
	return m->local + (addr - m->base);
}

struct ct_call *ct_remote_call(struct ct_remote *m, const char *what, uint64_t flags, long nr, uint64_t a0, uint64_t a1,
                               uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	static struct ct_call nowhere; /* so that a table that is too long fails at run time and in one place */
	struct ct_call *c = &nowhere;

	if (ct_remote_has_room(m, 1, 0)) {
		c = (struct ct_call *)(void *)(m->local + CT_PAGE) + m->calls;
		m->what[m->calls] = what;
	}
	*c = (struct ct_call){ .nr = (uint64_t)nr, .arg = { a0, a1, a2, a3, a4, a5 }, .flags = flags };
	m->calls++;
	return c;
}

uint64_t ct_remote_call_addr(const struct ct_remote *m, const struct ct_call *c)
{
	return m->base + (uint64_t)((const unsigned char *)c - m->local);
}

int ct_remote_push(struct ct_remote *m, struct gw_error *why)
{
	size_t low = CT_PAGE + m->calls * sizeof(struct ct_call);
	struct iovec from[3] = {
		{ m->local, (size_t)(ct_blob_end - ct_blob_start) },
		{ m->local + CT_PAGE, low - CT_PAGE },
		{ m->local + m->data, m->size - m->data } };
	struct iovec to[3];
	size_t n = m->size > m->data ? 3 : 2;

	if (m->calls > GW_ARRAY_LEN(m->what) || low > m->data)
		return gw_fail(why, -E2BIG, "pid %d: a table of %zu system calls does not fit", (int)m->pid, m->calls);
	if (m->is_shared)
		return 0;
	for (size_t i = 0; i < n; i++)
		to[i] = (struct iovec){ (void *)(m->base + (uint64_t)((unsigned char *)from[i].iov_base - m->local)),
		                        from[i].iov_len };
	if (ct_mem_writev(m->pid, from, to, n) < 0)
		return gw_fail(why, -errno, "pid %d: cannot write to its memory: %s", (int)m->pid, strerror(errno));
	return 0;
}

int ct_remote_pull(struct ct_remote *m, struct gw_error *why)
{
	size_t low = m->calls * sizeof(struct ct_call);
	struct iovec to[2] = { { m->local + CT_PAGE, low }, { m->local + m->data, m->size - m->data } };
	struct iovec from[2] = { { (void *)(m->base + CT_PAGE), low }, { (void *)(m->base + m->data), m->size - m->data } };
	size_t n = m->size > m->data ? 2 : 1;

	if (m->is_shared)
		return 0;
	if (ct_mem_readv(m->pid, to, from, n) < 0)
		return gw_fail(why, -errno, "pid %d: cannot read its memory: %s", (int)m->pid, strerror(errno));
	return 0;
}

int ct_wait_stop(pid_t tid, int *status)
{
	pid_t p;

	do
		p = waitpid(tid, status, __WALL);
	while (p < 0 && errno == EINTR);
	if (p < 0)
		return -errno;
	return WIFSTOPPED(*status) ? 0 : -ESRCH;
}

/* Of a tracee waitid() tells a stop that nobody has waited for as well, though only ends are asked for: a shell that has
 * done what it was left to do (ct_restore_hints) stands in one. */
bool ct_thread_has_ended(pid_t tid)
{
	siginfo_t si = { 0 };

	return waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 && si.si_pid != 0 &&
	       (si.si_code == CLD_EXITED || si.si_code == CLD_KILLED || si.si_code == CLD_DUMPED);
}

int ct_remote_start(struct ct_remote *m, pid_t tid, const struct user_regs_struct *regs, size_t first, size_t last,
                    struct gw_error *why)
{
	struct user_regs_struct go = *regs;

	go.rip = m->base;
	go.r12 = m->base + CT_PAGE + first * sizeof(struct ct_call);
	go.r13 = m->base + CT_PAGE + last * sizeof(struct ct_call);
	go.orig_rax = (unsigned long long)-1; /* no interrupted call to restart */
	go.eflags &= ~0x500ull;               /* no trap flag, no direction flag */
	if (ptrace(PTRACE_SETREGS, tid, NULL, &go) < 0 || ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
		return gw_fail(why, -errno, "thread %d: cannot run calls in it: %s", (int)tid, strerror(errno));
	return 0;
}

int ct_remote_wait(struct ct_remote *m, pid_t tid, size_t last, struct gw_error *why)
{
	struct user_regs_struct now;
	const struct ct_call *c;
	size_t at;
	int status, rc;

	for (;;) {
		rc = ct_wait_stop(tid, &status);
		if (rc < 0)
			return gw_fail(why, rc, "thread %d: ended while calls ran in it", (int)tid);
		if (status >> 8 == SIGTRAP)
			break;
		if (status >> 16 == 0 && WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP)
			return gw_fail(why, -EIO, "thread %d: signal %d while calls ran in it", (int)tid, WSTOPSIG(status));
		if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0) /* an event stop: a pending interrupt, or a new thread's first */
			return gw_fail(why, -errno, "thread %d: cannot run calls in it: %s", (int)tid, strerror(errno));
	}
	if (ptrace(PTRACE_GETREGS, tid, NULL, &now) < 0)
		return gw_fail(why, -errno, "thread %d: cannot read its registers: %s", (int)tid, strerror(errno));
	if (now.rip != m->base + (uint64_t)(ct_blob_end - ct_blob_start) - 1)
		return gw_fail(why, -EIO, "thread %d: stopped at %#llx and not where its calls end", (int)tid, now.rip);
	at = (now.r12 - m->base - CT_PAGE) / sizeof(struct ct_call);
	if (at == last)
		return 0;
	if (at > last)
		return gw_fail(why, -EIO, "thread %d: calls ran past their end", (int)tid);
	if (!m->is_shared && ct_remote_pull(m, why) < 0)
		return -EIO;
	c = (const struct ct_call *)(const void *)(m->local + CT_PAGE) + at;
	rc = (int64_t)c->result < 0 && (int64_t)c->result >= -4095 ? (int)(int64_t)c->result : -EIO;
	return gw_fail(why, rc, "%s: system call %llu gave %lld: %s", m->what[at] ? m->what[at] : "in the container",
	               (unsigned long long)c->nr, (long long)c->result, strerror(-rc));
}

int ct_remote_run(struct ct_remote *m, pid_t tid, const struct user_regs_struct *regs, struct gw_error *why)
{
	int rc;

	if (!m->calls)
		return 0;
	rc = ct_remote_push(m, why);
	if (rc == 0)
		rc = ct_remote_start(m, tid, regs, 0, m->calls, why);
	if (rc == 0)
		rc = ct_remote_wait(m, tid, m->calls, why);
	if (rc == 0)
		rc = ct_remote_pull(m, why);
	return rc;
}

int ct_remote_one(pid_t tid, const struct user_regs_struct *regs, uint64_t insn, long nr, const uint64_t arg[6],
                  int64_t *result, struct gw_error *why)
{
	struct user_regs_struct go = *regs;
	int status, rc;

	go.rip = insn;
	go.rax = (uint64_t)nr;
	go.rdi = arg[0];
	go.rsi = arg[1];
	go.rdx = arg[2];
	go.r10 = arg[3];
	go.r8 = arg[4];
	go.r9 = arg[5];
	go.orig_rax = (unsigned long long)-1;
	if (ptrace(PTRACE_SETREGS, tid, NULL, &go) < 0)
		return gw_fail(why, -errno, "thread %d: cannot set its registers: %s", (int)tid, strerror(errno));
	do {
		if (ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) < 0)
			return gw_fail(why, -errno, "thread %d: cannot step it: %s", (int)tid, strerror(errno));
		rc = ct_wait_stop(tid, &status);
		if (rc < 0)
			return gw_fail(why, rc, "thread %d: ended while a call ran in it", (int)tid);
	} while (status >> 16); /* an event stop stands before the step */
	if (ptrace(PTRACE_GETREGS, tid, NULL, &go) < 0)
		return gw_fail(why, -errno, "thread %d: cannot read its registers: %s", (int)tid, strerror(errno));
	if (status >> 8 != SIGTRAP || go.rip != insn + 2)
		return gw_fail(why, -EIO, "thread %d: stopped with %#x at %#llx instead of after a call", (int)tid, status,
		               go.rip);
	*result = (int64_t)go.rax;
	return 0;
}
