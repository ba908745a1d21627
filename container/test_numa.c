/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory nodes: which node is which at another cluster, what the kernel says of policies, and where pages are made. */
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/rank.h"
#include "tests/tap.h"

static void test_translate(void)
{
	static const struct { const char *what; uint64_t nodes, from, to, want; } rows[] = {
		{ "the same cluster keeps what it has", 0x5, 0x3, 0x3, 0x5 },
		{ "the first is the first", 0x1, 0x3, 0xc, 0x4 },
		{ "the second is the second", 0x2, 0x3, 0xc, 0x8 },
		{ "all are all", 0x3, 0x3, 0xc, 0xc },
		{ "of two onto one", 0x3, 0x3, 0x4, 0x4 },
		{ "of one onto two", 0x4, 0x4, 0x3, 0x1 },
		{ "of four onto two, used again", 0xf0, 0xf0, 0x3, 0x3 },
		{ "the third of four onto two", 0x40, 0xf0, 0x3, 0x1 },
		{ "one that is none of the cluster's, by its number", 0x8, 0x3, 0x30, 0x20 },
		{ "no nodes are none", 0, 0x3, 0xc, 0 },
		{ "where nothing is known, as it was", 0x2, 0x3, 0, 0x2 },
		{ "the last of 64", 1ull << 63, ~0ull, 1ull << 63, 1ull << 63 },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(rows); i++) {
		uint64_t got = ct_numa_translate(rows[i].nodes, rows[i].from, rows[i].to);

		ok(got == rows[i].want, "%s: %#llx of %#llx are %#llx of %#llx", rows[i].what, (unsigned long long)rows[i].nodes,
		   (unsigned long long)rows[i].from, (unsigned long long)got, (unsigned long long)rows[i].to);
	}
	ok(ct_numa_parse("0-3,8\n") == 0x10f && ct_numa_parse("") == 0 && ct_numa_parse("63,64-99") == 1ull << 63 && ct_numa_parse("2") == 4,
	   "lists of nodes are read");
}

static void test_lines(void)
{
	static const struct { const char *line; bool is_one; uint32_t mode; uint64_t nodes; } rows[] = {
		{ "7f1000 default anon=3 dirty=3 N0=3 kernelpagesize_kB=4\n", false, 0, 0 },
		{ "7f1000 bind:0-1 anon=3\n", true, MPOL_BIND, 3 },
		{ "7f1000 bind=static:1 anon=3\n", true, MPOL_BIND | MPOL_F_STATIC_NODES, 2 },
		{ "7f1000 prefer=relative:2 heap\n", true, MPOL_PREFERRED | MPOL_F_RELATIVE_NODES, 4 },
		{ "7f1000 prefer (many):0,2 heap\n", true, 5, 5 },
		{ "7f1000 interleave:0-3 file=/x\n", true, MPOL_INTERLEAVE, 15 },
		{ "7f1000 weighted interleave:0-1\n", true, 6, 3 },
		{ "7f1000 local\n", true, MPOL_LOCAL, 0 },
		{ "bindings\n", false, 0, 0 },
	};
	struct ct_img_policy p;
	bool is_right = true;

	for (size_t i = 0; i < GW_ARRAY_LEN(rows); i++) {
		bool is_one = ct_numa_line(rows[i].line, &p);

		if (is_one != rows[i].is_one || (is_one && (p.start != 0x7f1000 || p.mode != rows[i].mode || p.nodes != rows[i].nodes))) {
			diag("%s: %d mode %#x nodes %#llx", rows[i].line, is_one, p.mode, (unsigned long long)p.nodes);
			is_right = false;
		}
	}
	ok(is_right, "what numa_maps says of mappings is read");
}

/* what this kernel says of a mapping with a policy is what was said to it */
static void test_kernel(void)
{
	uint64_t node = 1;
	void *at = mmap(NULL, CT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	gw_autofree char *text = NULL;
	struct ct_img_policy p = { 0 };
	char start[32], *line;

	if (syscall(SYS_mbind, at, CT_PAGE, MPOL_BIND | MPOL_F_STATIC_NODES, &node, 65, 0) < 0 ||
	    ct_proc_text(getpid(), "numa_maps", &text) < 0) {
		tap_skip(1, "no memory policies here");
		return;
	}
	snprintf(start, sizeof(start), "\n%llx ", (unsigned long long)(uintptr_t)at);
	line = strstr(text, start);
	ok(line && ct_numa_line(line + 1, &p) && p.start == (uintptr_t)at && p.mode == (MPOL_BIND | MPOL_F_STATIC_NODES) && p.nodes == 1,
	   "and so is what this kernel says");
}

static void test_pages(void)
{
	cpu_set_t cpus;
	struct ct_numa_saved old = { 0 };
	uint64_t nodes, mask[16] = { 0 };
	int mode = -1, status = -1;
	unsigned char *page;

	sched_getaffinity(0, sizeof(cpus), &cpus);
	nodes = ct_numa_of(&cpus);
	ok(nodes != 0, "the processors of this process are of nodes %#llx", (unsigned long long)nodes);
	ct_numa_enter(nodes, &old);
	if (!old.is_set) {
		tap_skip(2, "they are of several, or there are no memory policies here");
		return;
	}
	syscall(SYS_get_mempolicy, &mode, mask, sizeof(mask) * 8, NULL, 0);
	page = mmap(NULL, CT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page[0] = 1;
	syscall(SYS_move_pages, 0, 1ul, (void *[]){ page }, NULL, &status, 0);
	ok(mode == MPOL_PREFERRED && mask[0] == nodes && status >= 0 && (nodes >> status & 1), "pages are made on their node (%d)", status);
	ct_numa_leave(&old);
	syscall(SYS_get_mempolicy, &mode, mask, sizeof(mask) * 8, NULL, 0);
	ok(mode == old.mode && mask[0] == old.nodes[0], "and then as before");
}

int main(void)
{
	tap_begin(60);
	test_translate();
	test_lines();
	test_kernel();
	test_pages();
	return tap_done();
}
