/* SPDX-License-Identifier: BSD-2-Clause */
/* The reader of images: a whole one cut anywhere, and thousands of damaged ones, none of which may do harm; what /proc says. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/rank.h"
#include "tests/tap.h"

struct seen { uint64_t pages, sum; bool is_head, is_meta, is_outside; const struct ct_snapshot *s; };

static int on_head(void *ctx, struct gw_error *why)
{
	struct seen *s = ctx;

	(void)why;
	s->is_head = !s->is_meta && s->s->threads.n == 2 && s->s->unread.n == 1;
	return 0;
}

static int on_meta(void *ctx, struct gw_error *why)
{
	(void)why;
	((struct seen *)ctx)->is_meta = true;
	return 0;
}

static int on_pages(void *ctx, uint64_t vaddr, const unsigned char *bytes, size_t len, struct gw_error *why)
{
	struct seen *s = ctx;
	bool is_inside = false;

	(void)why;
	for CT_EACH(const struct ct_img_vma, v, &s->s->vmas)
		is_inside |= vaddr >= v->start && vaddr + len <= v->end;
	s->is_outside |= !is_inside || !s->is_meta || len % CT_PAGE;
	s->pages += len / CT_PAGE;
	for (size_t i = 0; i < len; i++)
		s->sum += bytes[i] * (vaddr + i);
	return 0;
}

static int on_flush(void *ctx, struct gw_error *why)
{
	(void)ctx;
	(void)why;
	return 0;
}

static const struct ct_reader_ops ops = { .head = on_head, .meta = on_meta, .pages = on_pages, .flush = on_flush };

static int read_all(const unsigned char *p, size_t len, size_t step, struct seen *seen, bool *is_complete)
{
	struct ct_snapshot s;
	struct ct_reader d;
	struct gw_error why = { 0 };
	int rc = 0;

	*seen = (struct seen){ .s = &s };
	ct_snapshot_init(&s);
	ct_reader_init(&d, &ops, seen, &s);
	for (size_t at = 0; rc == 0 && at < len; at += step)
		rc = ct_reader_feed(&d, p + at, len - at < step ? len - at : step, &why);
	*is_complete = d.is_complete;
	ct_reader_fini(&d);
	ct_snapshot_fini(&s);
	return rc;
}

enum order { HEAD_LAST, HEAD_FIRST, HEAD_TOO_LATE, LATER_AFTER_HEAD, UNREAD_AFTER_HEAD };

/* Its sections before the pages, in one order or another. */
static void write_sections(struct ct_snapshot *s, enum order order, struct ct_vec *out)
{
	ct_snapshot_write_head(s, out);
	if (order == HEAD_TOO_LATE)
		ct_snapshot_write_tail(s, out);
	if (order != HEAD_LAST)
		ct_section_write(out, CT_SECTION_HEAD, 0, NULL, 0);
	if (order == UNREAD_AFTER_HEAD)
		ct_section_write(out, CT_SECTION_UNREAD, 1, &(struct ct_img_unread){ .plumb = 1 }, sizeof(struct ct_img_unread));
	if (order == LATER_AFTER_HEAD)
		ct_vec_append(&s->later, &(struct ct_img_extent){ 0x403000, 0x404000 }, 1);
	if (order != HEAD_TOO_LATE)
		ct_snapshot_write_tail(s, out);
}

static void make_image(struct ct_vec *out, enum order order)
{
	struct ct_snapshot s;
	struct ct_img_vma *v;
	struct ct_img_fd *fd;
	struct ct_img_thread *t;
	struct ct_img_file *f;
	unsigned char page[3 * CT_PAGE];
	struct ct_img_pages run = { .vaddr = 0x400000, .pages = 3 };
	struct ct_img_end end = { .pages_sent = 5 };
	uint32_t path;

	ct_snapshot_init(&s);
	path = ct_snapshot_string(&s, "/usr/bin/true");
	f = ct_vec_add(&s.files, 1);
	*f = (struct ct_img_file){ .path = path, .flags = CT_IMG_FILE_MAPPED, .size = 4096 };
	s.process = (struct ct_img_process){ .ns_pid = 77, .threads = 2, .vdso_start = 0x7fff00000000, .vdso_end = 0x7fff00006000,
		.cwd = path, .xstate_size = 832 };
	v = ct_vec_add(&s.vmas, 2);
	v[0] = (struct ct_img_vma){ .start = 0x400000, .end = 0x402000, .prot = PROT_READ, .kind = CT_VMA_FILE };
	v[1] = (struct ct_img_vma){ .start = 0x402000, .end = 0x410000, .prot = PROT_READ | PROT_WRITE, .kind = CT_VMA_ANON };
	fd = ct_vec_add(&s.fds, 2);
	fd[0] = (struct ct_img_fd){ .number = 0, .kind = CT_FD_PLUMB, .plumb = 1 };
	fd[1] = (struct ct_img_fd){ .number = 3, .kind = CT_FD_FILE, .same_as = 1 };
	t = ct_vec_add(&s.threads, 2);
	for (uint32_t i = 0; i < 2; i++) {
		t[i].ns_tid = 77 + i;
		t[i].regs[17] = 0x33;
		t[i].regs[20] = 0x2b;
	}
	memset(ct_vec_add(&s.xstate, 2 * 832), 0, 2 * 832);
	ct_vec_append(&s.auxv, (uint64_t[]){ 6, 4096, 0, 0 }, 4);
	ct_vec_append(&s.bytes, "unread", 6);
	ct_vec_append(&s.unread, &(struct ct_unread){ .head = { .plumb = 1, .length = 6 } }, 1);
	out->n = 0;
	write_sections(&s, order, out);
	for (size_t i = 0; i < sizeof(page); i++)
		page[i] = (unsigned char)(i * 7);
	ct_section_write(out, CT_SECTION_PAGES, 3, NULL, sizeof(run) + sizeof(page));
	memcpy((unsigned char *)out->at + out->n - sizeof(page) - sizeof(run), &run, sizeof(run));
	memcpy((unsigned char *)out->at + out->n - sizeof(page), page, sizeof(page));
	run = (struct ct_img_pages){ .vaddr = 0x40e000, .pages = 2 };
	ct_section_write(out, CT_SECTION_PAGES, 2, NULL, sizeof(run) + 2 * CT_PAGE);
	memcpy((unsigned char *)out->at + out->n - 2 * CT_PAGE - sizeof(run), &run, sizeof(run));
	ct_section_write(out, CT_SECTION_END, 1, &end, sizeof(end));
	ct_snapshot_fini(&s);
}

/* What fails because a process ends is blamed on that; what fails otherwise is not. */
static void blame(void)
{
	struct gw_error why = { 0 };
	siginfo_t info;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	gw_fail(&why, -EIO, "cannot read its map");
	ok(ct_proc_blame_end(pid, -EIO, &why) == -EIO && strcmp(why.text, "cannot read its map") == 0,
	   "what fails with a process that lives is not blamed on its end");
	kill(pid, SIGKILL);
	waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
	ok(ct_proc_blame_end(pid, -EIO, &why) == -ESRCH && strstr(why.text, "has ended"),
	   "what fails with one that has ended, and has not been reaped, is");
	waitpid(pid, NULL, 0);
	ok(ct_proc_blame_end(pid, -EIO, &why) == -ESRCH, "or has been");
}

/* Who traces is told of stops where he asks for ends. */
static void stop_and_end(void)
{
	siginfo_t info;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0) {
		tap_skip(2, "cannot trace here");
	} else {
		waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT | __WALL);
		ok(!ct_thread_has_ended(pid), "a thread in a stop that nobody has waited for has not ended");
		kill(pid, SIGKILL);
		/* the stop is over at once, its end a moment later; only that can be waited for now */
		while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT | __WALL) == 0 && info.si_code == CLD_TRAPPED)
			;
		ok(ct_thread_has_ended(pid), "one that was killed in it has");
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void heads(void)
{
	static const enum order wrong[] = { HEAD_TOO_LATE, LATER_AFTER_HEAD, UNREAD_AFTER_HEAD };
	struct ct_vec image;
	struct seen seen;
	bool is_complete;

	ct_vec_init(&image, 1);
	make_image(&image, HEAD_LAST);
	ok(read_all(image.at, image.n, 4096, &seen, &is_complete) == 0 && !seen.is_head, "where no head comes first, there is none");
	make_image(&image, HEAD_FIRST);
	ok(read_all(image.at, image.n, 23, &seen, &is_complete) == 0 && is_complete && seen.is_head && seen.is_meta && seen.pages == 5,
	   "a head that comes before the rest is told of when it is there");
	for (size_t i = 0; i < GW_ARRAY_LEN(wrong); i++) {
		make_image(&image, wrong[i]);
		ok(read_all(image.at, image.n, 4096, &seen, &is_complete) == -EBADMSG, "refused: %s", i == 0 ? "a head behind what must come after it" :
		   i == 1 ? "pages that come later, of a rank that has been begun" : "a section that should have been before the head");
	}
	ct_vec_fini(&image);
}

/* A map that is read once more tells what has changed, whichever way it was read. */
static void maps_again(void)
{
	struct ct_maps m = { 0 };
	unsigned char *at;
	struct ct_vec all, some;
	bool is_there = false;
	size_t n;

	ok(ct_maps_read(&m, getpid(), false) == 0 && ct_maps_read_again(&m, getpid()) == 0 && ct_maps_read_again(&m, getpid()) == 0,
	   "a map is read once more");
	at = mmap(NULL, 3 * CT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ok(ct_maps_read_again(&m, getpid()) == 0 && ct_maps_find(&m, (uintptr_t)at) && ct_maps_find(&m, (uintptr_t)at)->is_shared,
	   "and has what was mapped meanwhile");
	n = m.list.n;
	mprotect(at + CT_PAGE, CT_PAGE, PROT_NONE);
	ok(ct_maps_read_again(&m, getpid()) == 0 && m.list.n == n + 2 && ct_maps_find(&m, (uintptr_t)at + CT_PAGE)->prot == PROT_NONE,
	   "what was protected");
	munmap(at, 3 * CT_PAGE);
	ok(ct_maps_read_again(&m, getpid()) == 0 && !ct_maps_find(&m, (uintptr_t)at), "and not what was unmapped");
	ct_maps_fini(&m);

	ct_vec_init(&all, sizeof(int));
	ct_vec_init(&some, sizeof(int));
	ok(ct_proc_ids(getpid(), "root/proc", &all) == 0 && ct_proc_pids(getpid(), "root/proc", &some) == 0 && some.n, "the processes of a /proc are listed");
	for CT_EACH(const int, id, &some)
		is_there |= *id == getpid();
	ok(is_there && *CT_AT(int, &some, 0) == *CT_AT(int, &all, 0), "this one and the first are among them");
	ct_vec_fini(&all);
	ct_vec_fini(&some);
}

int main(void)
{
	static const size_t steps[] = { 1, 7, 23, 4095, 4096, 4097, 1 << 20 };
	struct seen first, seen;
	bool is_complete, is_same = true, is_safe = true;
	unsigned seed = 12345, refused = 0;
	struct ct_vec image;
	unsigned char *copy;

	tap_begin(120);
	blame();
	stop_and_end();
	heads();
	maps_again();
	ct_vec_init(&image, 1);
	make_image(&image, HEAD_LAST);
	ok(read_all(image.at, image.n, image.n, &first, &is_complete) == 0 && is_complete && first.is_meta && first.pages == 5,
	   "a whole image is read");
	for (size_t i = 0; i < GW_ARRAY_LEN(steps); i++)
		is_same &= read_all(image.at, image.n, steps[i], &seen, &is_complete) == 0 && is_complete && seen.sum == first.sum &&
		           !seen.is_outside;
	ok(is_same, "and the same however it is cut");
	is_same = true;
	for (size_t len = 0; len < image.n; len += 1 + len / 40) {
		read_all(image.at, len, 4096, &seen, &is_complete);
		is_same &= !is_complete;
	}
	ok(is_same, "one that is cut short is never complete");
	copy = malloc(image.n);
	for (int round = 0; round < 40000; round++) {
		int rc;

		memcpy(copy, image.at, image.n);
		for (unsigned k = 0, n = 1 + (unsigned)round % 4; k < n; k++) {
			/* mostly in the sections before the pages */
			size_t at = (size_t)rand_r(&seed) % (round % 5 ? 3300 : image.n);

			copy[at] = round % 3 ? (unsigned char)rand_r(&seed) : (unsigned char)(copy[at] ^ 1u << rand_r(&seed) % 8);
		}
		rc = read_all(copy, image.n, round % 2 ? 4096 : 100000, &seen, &is_complete);
		refused += rc < 0;
		is_safe &= !seen.is_outside;
	}
	free(copy);
	ok(is_safe, "no damaged image brings a page to where no mapping is");
	ok(refused > 1000, "and many are refused (%u of 40000; the rest differ in values that any process may have)", refused);
	ct_vec_fini(&image);
	return tap_done();
}
