#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What it costs that ranks are measured while they run: processor time of mpirun, daemons and ranks for one look.

	top_builddir=build python3 tests/bench/measure.py [RANKS...]

Windows with looks and windows without take turns (ABBA), as long as each other; what the processes have used in them is told by
their clocks, to the nanosecond, so a busy machine changes little. Ranks do nothing else: they sleep outside MPI after an all-to-all.
The share is of one core, for a rank and its part of daemon and mpirun, at the pace at which mpirun looks by itself (5 s).
"""
import os, statistics, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "driver"))
from godwit import *
from base import spread

EVERY_S, LOOKS, PAIRS = 5, 10, 11
SOURCE = """#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
	int n, *a;
	MPI_Init(NULL, NULL);
	MPI_Comm_size(MPI_COMM_WORLD, &n);
	a = calloc(2 * n, sizeof(*a));
	MPI_Alltoall(a, 1, MPI_INT, a + n, 1, MPI_INT, MPI_COMM_WORLD);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
"""


def used(pids):
	"""Processor time of each process, ns: its clock, as clock_getcpuclockid(3) makes it."""
	return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)


def window(head, groups, ask, seconds):
	"""What each group uses while it is looked LOOKS times (@ask), or for @seconds."""
	before, began = [used(g) for g in groups], time.monotonic()
	for _ in range(LOOKS if ask else 0):
		head.send(ask)
		head.receive()
	if not ask:
		time.sleep(seconds)
	return [used(g) - b for g, b in zip(groups, before)], time.monotonic() - began


def measure(tap, program, n):
	job = Job(tap, ["-n", n, "-clusters", 2, program])
	if not wait_for(lambda: job.out().count("ready") == n, 120, 0.05):
		tap.bail("the ranks did not come")
	head = job.head()
	status = head.status()
	groups = [[job.proc.pid], [c["pid"] for c in status["clusters"]], [r["pid"] for r in status["ranks"]]]
	for name, ask in (("counters", {"op": "status", "use": True}), ("and whom each talks to", {"op": "status", "traffic": True})):
		window(head, groups, ask, 0)
		costs = []
		for i in range(PAIRS):
			if i % 2:
				idle, seconds = window(head, groups, None, seconds)
				busy, seconds = window(head, groups, ask, 0)
			else:
				busy, seconds = window(head, groups, ask, 0)
				idle, seconds = window(head, groups, None, seconds)
			costs.append([(b - a) / LOOKS / 1e3 for a, b in zip(idle, busy)])
		mpirun, daemons, ranks = zip(*costs)
		share = [100 * sum(c) / n / 1e6 / EVERY_S for c in costs]
		print(f"{n:4} ranks, {name}: mpirun {spread(mpirun)} us a look, a daemon {spread([v / 2 for v in daemons])}, "
		      f"a rank {spread([v / n for v in ranks])}; for a rank {spread(share)} % of a core", flush=True)
	job.kill()


tap = Tap(900)
work = work_dir("measure")
program = os.path.join(work, "sleepers")
with open(program + ".c", "w") as f:
	f.write(SOURCE)
subprocess.run([os.path.join(BUILD, "mpicc"), "-o", program, program + ".c"], check=True, timeout=120)
for count in [int(w) for w in sys.argv[1:]] or [2, 8, 32]:
	measure(tap, program, count)
tap.timer.cancel()
