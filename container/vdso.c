/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Out of the vdso with a stopped thread: inside it may be half way through reading a clock whose page is another one elsewhere.
 *
 * What the vdso says of its frames (.eh_frame: DWARF 5, section 6.4) tells where the address is that the thread will return to.
 * In its place is put that of a trap, an int3 that the bytes of the vdso hold somewhere, and the thread let run into it: two
 * switches of the processor instead of two for each instruction. Where the frames are not told, it is stepped.
 *
 *   rip -> vdso function          stack: | .. frame .. | return address | caller's
 *                                                        ^ CFA - 8: now the trap, and the caller's address again afterwards
 */
#include "container/rank.h"

#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

/* ---- the image ------------------------------------------------------------------------------------------------- */

/* Of this kernel, and so of every process here that has one of 64 bits. */
struct image {
	const unsigned char *at;
	size_t len;         /* as it is mapped */
	size_t frames;      /* offset of .eh_frame_hdr; 0: none */
	size_t trap;        /* offset of an int3; 0: none */
	size_t call;        /* of a system call instruction; 0: none */
	bool is_known;      /* it was looked at; len: 0, there is none */
};

static size_t find_call(const unsigned char *code, size_t len)
{
	static const unsigned char call[] = { 0x0f, 0x05 };
	const unsigned char *at = memmem(code, len, call, sizeof(call));

	return at ? (size_t)(at - code) : 0;
}

static const struct image *image_own(void)
{
	static struct image own; /* what a process is given once */
	const unsigned char *at = (const unsigned char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *e = (const void *)at;
	const Elf64_Phdr *p;
	const unsigned char *trap;

	if (own.is_known)
		return &own;
	own.is_known = true;
	if (!at || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || e->e_ident[EI_CLASS] != ELFCLASS64)
		return &own;
	p = (const void *)(at + e->e_phoff);
	for (int i = 0; i < e->e_phnum; i++)
		if (p[i].p_type == PT_LOAD && p[i].p_vaddr + p[i].p_memsz > own.len)
			own.len = (p[i].p_vaddr + p[i].p_memsz + CT_PAGE - 1) & ~(size_t)(CT_PAGE - 1);
		else if (p[i].p_type == PT_GNU_EH_FRAME)
			own.frames = p[i].p_vaddr;
	own.at = at;
	trap = own.len ? memchr(at, 0xcc, own.len) : NULL;
	own.trap = trap ? (size_t)(trap - at) : 0;
	own.call = find_call(at, own.len);
	return &own;
}

uint64_t ct_vdso_syscall(pid_t pid, uint64_t end, bool is_own)
{
	unsigned char vdso[16384];
	const struct image *m = image_own();
	size_t at;

	if (!m->len || m->len > sizeof(vdso))
		return 0;
	if (!is_own && ct_mem_read(pid, end - m->len, vdso, m->len) < 0)
		return 0;
	at = is_own ? m->call : find_call(vdso, m->len);
	return at ? end - m->len + at : 0;
}

/* ---- its frames ------------------------------------------------------------------------------------------------ */

struct bytes { const unsigned char *at, *end; bool is_bad; };

static uint64_t get(struct bytes *b, size_t n)
{
	uint64_t v = 0;

	if ((size_t)(b->end - b->at) < n) {
		b->is_bad = true;
		b->at = b->end;
		return 0;
	}
	memcpy(&v, b->at, n);
	b->at += n;
	return v;
}

static uint64_t get_leb(struct bytes *b)
{
	uint64_t v = 0, byte;
	unsigned shift = 0;

	do {
		byte = get(b, 1);
		if (shift < 64)
			v |= (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	return v;
}

enum { DW_RSP = 7, DW_RIP = 16, MARKS_MAX = 8 };

struct frame { uint64_t reg, offset; bool is_home; }; /* CFA = reg + offset; is_home: the return address is right below it */

/* Instructions of one CIE or FDE, up to the row of the address that is @left behind its begin. false: not understood */
static bool frame_run(struct bytes b, uint64_t left, struct frame *f)
{
	struct frame marks[MARKS_MAX];
	const struct frame first = *f;
	uint64_t passed = 0, reg, n;
	int n_marks = 0;

	while (b.at < b.end && !b.is_bad) {
		uint64_t op = get(&b, 1), low = op & 0x3f;

		switch (op & 0xc0) {
		case 0x40: /* advance_loc */
			passed += low;
			if (passed > left)
				return true;
			continue;
		case 0x80: /* offset */
			n = get_leb(&b);
			if (low == DW_RIP)
				f->is_home = n == 1;
			continue;
		case 0xc0: /* restore */
			if (low == DW_RIP)
				f->is_home = first.is_home;
			continue;
		}
		switch (low) {
		case 0x00: /* nop */
			break;
		case 0x02: case 0x03: case 0x04: /* advance_loc1, 2, 4 */
			passed += get(&b, low == 4 ? 4 : low - 1);
			if (passed > left)
				return true;
			break;
		case 0x05: /* offset_extended */
			reg = get_leb(&b);
			n = get_leb(&b);
			if (reg == DW_RIP)
				f->is_home = n == 1;
			break;
		case 0x06: case 0x07: case 0x08: /* restore_extended, undefined, same_value */
			if (get_leb(&b) == DW_RIP)
				return false;
			break;
		case 0x0a: /* remember_state */
			if (n_marks == MARKS_MAX)
				return false;
			marks[n_marks++] = *f;
			break;
		case 0x0b: /* restore_state */
			if (!n_marks)
				return false;
			*f = marks[--n_marks];
			break;
		case 0x0c: /* def_cfa */
			f->reg = get_leb(&b);
			f->offset = get_leb(&b);
			break;
		case 0x0d: /* def_cfa_register */
			f->reg = get_leb(&b);
			break;
		case 0x0e: /* def_cfa_offset */
			f->offset = get_leb(&b);
			break;
		case 0x10: case 0x16: /* expression, val_expression */
			if (get_leb(&b) == DW_RIP)
				return false;
			n = get_leb(&b);
			if (n > (size_t)(b.end - b.at))
				return false;
			b.at += n;
			break;
		case 0x2e: /* GNU_args_size */
			get_leb(&b);
			break;
		default: /* an expression for the CFA, among others */
			return false;
		}
	}
	return !b.is_bad;
}

/* One record of .eh_frame at @offset: *@b is what it holds behind its length, *@id the offset of that. */
static bool record(const struct image *m, uint64_t offset, struct bytes *b, uint64_t *id)
{
	uint32_t len;

	if (offset > m->len - 8)
		return false;
	memcpy(&len, m->at + offset, 4);
	*id = offset + 4;
	*b = (struct bytes){ m->at + *id, m->at + *id + len, false };
	return len >= 4 && len < m->len && *id + len <= m->len;
}

/* "zR" with addresses of 32 bits from where they stand (DW_EH_PE_pcrel | sdata4), as all that is linked for x86-64 has them. */
static bool cie_run(const struct image *m, uint64_t offset, uint64_t *code_factor, struct frame *f)
{
	struct bytes b;
	uint64_t id;
	char augmentation[3] = "";

	if (!record(m, offset, &b, &id) || get(&b, 4) != 0 || get(&b, 1) != 1)
		return false;
	for (int i = 0; i < 3; i++)
		augmentation[i] = (char)get(&b, 1);
	*code_factor = get_leb(&b);
	if (memcmp(augmentation, "zR", 3) != 0 || *code_factor != 1 || get_leb(&b) != 0x78 /* -8 */ || get(&b, 1) != DW_RIP ||
	    get_leb(&b) != 1 || get(&b, 1) != 0x1b)
		return false;
	*f = (struct frame){ .reg = UINT64_MAX };
	return frame_run(b, UINT64_MAX, f);
}

/* The table of .eh_frame_hdr: where each function begins, and its record, both from the header on. */
static bool frame_find(const struct image *m, uint64_t pc, struct frame *f)
{
	struct bytes hdr = { m->at + m->frames, m->at + m->len, false }, b;
	uint64_t n, id, factor;

	if (!m->frames || m->frames >= m->len || get(&hdr, 4) != 0x3b031b01 /* version 1, and the usual encodings */)
		return false;
	get(&hdr, 4);
	n = get(&hdr, 4);
	while (n-- && !hdr.is_bad) {
		int32_t start = (int32_t)get(&hdr, 4), at = (int32_t)get(&hdr, 4), cie, begin;
		uint64_t from = m->frames + (uint64_t)(int64_t)start, len;

		if (pc < from || !record(m, m->frames + (uint64_t)(int64_t)at, &b, &id))
			continue;
		cie = (int32_t)get(&b, 4);
		begin = (int32_t)get(&b, 4);
		len = get(&b, 4);
		if (b.is_bad || pc >= from + len || id + 4 + (uint64_t)(int64_t)begin != from)
			continue;
		if (!cie_run(m, id - (uint64_t)(int64_t)cie, &factor, f))
			return false;
		n = get_leb(&b);
		if (n > (size_t)(b.end - b.at))
			return false;
		b.at += n;
		return frame_run(b, pc - from, f) && f->is_home;
	}
	return false;
}

static const unsigned long long *dwarf_reg(const struct user_regs_struct *g, uint64_t reg)
{
	const unsigned long long *const regs[] = { &g->rax, &g->rdx, &g->rcx, &g->rbx, &g->rsi, &g->rdi, &g->rbp, &g->rsp,
	                                           &g->r8, &g->r9, &g->r10, &g->r11, &g->r12, &g->r13, &g->r14, &g->r15 };

	return reg < GW_ARRAY_LEN(regs) ? regs[reg] : NULL;
}

/* Does a call end here? A return address that none precedes is not one. */
static bool follows_call(pid_t pid, uint64_t addr)
{
	unsigned char code[7]; /* up to the address */

	if (ct_mem_read(pid, addr - sizeof(code), code, sizeof(code)) < 0)
		return false;
	if (code[2] == 0xe8)
		return true;
	for (int i = 0; i < 6; i++) /* ff /2, of which the lengths that are left fit */
		if (code[i] == 0xff && (code[i + 1] & 0x38) == 0x10)
			return true;
	return false;
}

uint64_t ct_vdso_return_slot(const struct user_regs_struct *g, uint64_t start)
{
	const unsigned long long *reg;
	struct frame f;

	if (!frame_find(image_own(), g->rip - start, &f) || !(reg = dwarf_reg(g, f.reg)))
		return 0;
	return *reg + f.offset - 8;
}

/* ---- leaving --------------------------------------------------------------------------------------------------- */

static int step(struct ct_thread *t, struct gw_error *why)
{
	int status, rc;

	if (ptrace(PTRACE_SINGLESTEP, t->tid, NULL, NULL) < 0)
		return gw_fail(why, -errno, "thread %d: cannot step it: %s", (int)t->tid, strerror(errno));
	rc = ct_wait_stop(t->tid, &status);
	if (rc == 0 && ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0)
		rc = -errno;
	return rc < 0 ? gw_fail(why, rc, "thread %d ended while it was stopped", (int)t->tid) : 0;
}

/* Up to the end of the function that it is in. 1: not so; nothing has changed but that it may have run on in there */
static int run_out(pid_t pid, struct ct_thread *t, uint64_t start, struct gw_error *why)
{
	const struct image *m = image_own();
	uint64_t slot = m->trap ? ct_vdso_return_slot(&t->regs, start) : 0;
	uint64_t back, trap = start + m->trap;
	int status, rc;

	if (!slot || ct_mem_read(pid, slot, &back, sizeof(back)) < 0 || !follows_call(pid, back) ||
	    ct_mem_write(pid, slot, &trap, sizeof(trap)) < 0)
		return 1;
	do { /* where an event stop comes first, it goes on from there */
		if (ptrace(PTRACE_CONT, t->tid, NULL, NULL) < 0) {
			rc = -errno;
			break;
		}
		rc = ct_wait_stop(t->tid, &status);
	} while (rc == 0 && status >> 16);
	if (rc == 0 && (ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0 || ct_mem_write(pid, slot, &back, sizeof(back)) < 0))
		rc = -errno;
	if (rc < 0)
		return gw_fail(why, rc, "thread %d ended while it was stopped", (int)t->tid);
	if (status >> 8 != SIGTRAP || t->regs.rip != trap + 1)
		return 1; /* a signal that cannot be blocked, or a fault: both come again */
	t->regs.rip = back;
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs) < 0) /* it may have to leave the caller as well */
		return gw_fail(why, -errno, "thread %d: cannot set its registers: %s", (int)t->tid, strerror(errno));
	return 0;
}

int ct_vdso_leave(pid_t pid, struct ct_thread *t, uint64_t start, uint64_t end, bool may_run, struct gw_error *why)
{
	uint64_t image = end - image_own()->len;
	int rc;

	if (t->regs.rip < start || t->regs.rip >= end)
		return 0;
	rc = ct_sigmask_block(t, why);
	for (int i = 0; rc == 0 && t->regs.rip >= start && t->regs.rip < end; i++) {
		if (i == 100000)
			return gw_fail(why, -EBUSY, "thread %d does not leave the vdso", (int)t->tid);
		rc = may_run && i < 16 ? run_out(pid, t, image, why) : 1;
		if (rc == 1)
			rc = step(t, why);
		t->regs.orig_rax = (unsigned long long)-1;
	}
	return rc;
}
