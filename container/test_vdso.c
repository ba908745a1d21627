/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads that are caught in the vdso leave it, and what they were doing there comes out right. */
#include "container/rank.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/tap.h"

#define CAUGHT 50

/* Reads clocks until it is told to end; 0 when none of them ever went back, and nothing else was damaged. */
static int victim(volatile int *end)
{
	static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW };
	uint64_t last[4] = { 0 }, canary[2] = { 0x1234567890abcdef, 42 };
	struct timeval v;
	struct timespec t;
	unsigned cpu;

	while (!*end) {
		for (int i = 0; i < 4; i++) {
			uint64_t now;

			if (clock_gettime(clocks[i], &t) < 0)
				return 1;
			now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
			if (i != 1 && now < last[i]) /* the wall clock may be set */
				return 2;
			last[i] = now;
		}
		if (gettimeofday(&v, NULL) < 0 || v.tv_usec >= 1000000 || getcpu(&cpu, NULL) < 0 || cpu > 65536)
			return 3;
		if (canary[0] != 0x1234567890abcdef || canary[1] != 42)
			return 4;
	}
	return 0;
}

struct outcome { int caught, by_frame, bad; };

static bool stop(pid_t pid, struct ct_thread *t)
{
	int status;

	*t = (struct ct_thread){ .tid = pid };
	return ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) == 0 && ct_wait_stop(pid, &status) == 0 &&
	       ptrace(PTRACE_GETREGS, pid, NULL, &t->regs) == 0;
}

static void catch(pid_t pid, bool may_run, struct outcome *o)
{
	uint64_t start, end, hash, tries = 0;
	struct gw_error why = { 0 };
	struct ct_thread t;

	if (ct_vdso_own(&start, &end, &hash) < 0)
		return;
	while (o->caught < CAUGHT && tries++ < 200000 && stop(pid, &t)) {
		if (t.regs.rip >= start && t.regs.rip < end) {
			uint64_t slot, before = 0, after = 1;

			o->caught++;
			slot = ct_vdso_return_slot(&t.regs, end - 8192);
			o->by_frame += slot != 0;
			ct_mem_read(pid, slot, &before, 8);
			if (ct_vdso_leave(pid, &t, start, end, may_run, &why) < 0 || (t.regs.rip >= start && t.regs.rip < end)) {
				diag("%s", why.text);
				o->bad++;
			}
			/* what was there is there again, and whoever called it, or called that, is where it goes on */
			if (slot && (ct_mem_read(pid, slot, &after, 8) < 0 || after != before))
				o->bad++;
			ptrace(PTRACE_SETREGS, pid, NULL, &t.regs);
			ptrace(PTRACE_SETSIGMASK, pid, (void *)8, &t.sigmask);
		}
		ptrace(PTRACE_CONT, pid, NULL, NULL);
	}
}

int main(void)
{
	int *end = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), status = -1;
	struct outcome by_run = { 0 }, by_step = { 0 };
	pid_t pid;

	tap_begin(60);
	pid = fork();
	if (pid == 0)
		_exit(victim(end));
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)PTRACE_O_EXITKILL) < 0) {
		tap_skip(3, "ptrace is denied here");
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return tap_done();
	}
	catch(pid, true, &by_run);
	catch(pid, false, &by_step);
	*end = 1;
	waitpid(pid, &status, __WALL);
	if (by_run.caught < CAUGHT || by_step.caught < CAUGHT)
		tap_skip(2, "clocks are not read in the vdso here (caught %d)", by_run.caught);
	else {
		ok(!by_run.bad && !by_step.bad, "a thread that is caught in the vdso leaves it: %d wrong by a trap, %d step by step, of %d", by_run.bad,
		   by_step.bad, CAUGHT);
		ok(by_run.by_frame == CAUGHT, "where it returns to is found: %d of %d", by_run.by_frame, CAUGHT);
	}
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "and what it read there is right (%#x)", (unsigned)status);
	return tap_done();
}
