#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Programs that do not move: they run, with more ranks than cores, and end in every way without a hang."""
import random

from godwit import *

tap = Tap(300)
conduct = os.path.join(BUILD, "tests/programs/conduct")
storm = os.path.join(BUILD, "tests/storm/storm")
types = os.path.join(BUILD, "tests/programs/types")
shm_before = shm_entries()


def run(ranks, clusters, *words, timeout=60, program=conduct):
	job = Job(tap, ["-n", ranks, "-clusters", clusters, program] + list(words))
	status = job.end(timeout)
	left = job.gone()
	if left:
		tap.ok(False, "%s leaves no process behind" % words[0], str(left))
	return status, job


def ends(sentence, passed, status, job):
	return tap.ok(passed, sentence, "status %s" % status, *job.tail())


for n, c in ((1, 1), (2, 1), (4, 2), (16, 3)):
	status, job = run(n, c, "hello")
	hello = sorted(l for l in job.out() if l.startswith("hello"))
	ends("%d ranks on %d clusters say hello, each once" % (n, c), status == 0 and
	     sorted(l.split(",")[0] for l in hello) == sorted("hello from rank %d of %d" % (r, n) for r in range(n)), status, job)
pids = [l.split()[-1] for l in job.out() if l.startswith("hello")]
tap.ok(len(set(pids)) == 16, "16 ranks see 16 different pids")

status, job = run(3, 3, "threads", 3000)
ends("three threads of three ranks talk at once", status == 0 and any("threads:" in l for l in job.out()), status, job)
for way in ("unexpected", "posted"):
	status, job = run(3, 2, way, 10000)
	said = [l for l in job.out() if l.startswith(way)]
	if ends("10,000 %s messages from each of two ranks are matched" % way, status == 0 and said, status, job):
		tap.diag(said[0])
job = Job(tap, ["-n", 4, "-clusters", 2, "-l", conduct, "output", 2000])
status = job.wait(60)
ends("8,000 labelled lines of output of four ranks come whole", status == 0 and len(job.out()) == 8000 and
     all(re.fullmatch(r"\[(\d)\] line \1 \d+ x*\.", l) for l in job.out()), status, job)

status, job = run(3, 2, "exit", 5)
ends("a rank that leaves with 5 without MPI_Finalize ends the job with 5", status == 5, status, job)
status, job = run(3, 2, "early-exit", 3)
ends("a rank that exits with 3 before MPI_Init ends the job with 3", status == 3, status, job)
status, job = run(3, 2, "abort", 6)
ends("MPI_Abort with 6 ends the job with 6", status == 6, status, job)
status, job = run(3, 2, "crash")
ends("a rank that crashes ends the job with 139 (128 + SIGSEGV) and a message that names it", status == 139 and
     any("2" in l and ("egmentation" in l or "SIGSEGV" in l or "signal 11" in l) for l in job.out("err")), status, job)
with tempfile.TemporaryDirectory(prefix="godwit-programs-") as where:
	os.mkfifo(where + "/fifo")
	status, job = run(3, 2, "late", where + "/fifo")
ends("a message to a rank that has finalized is no error", status == 0, status, job)
status, job = run(2, 2, "no-finalize")
ends("ranks that return from main without MPI_Finalize end", status is not None, status, job)
status, job = run(2, 1, "hello", program="/nonexistent/program")
ends("a program that is not there is an error with its name", status not in (0, None) and
     any("/nonexistent/program" in l for l in job.out("err")), status, job)

for clusters, seed in ((1, 3), (2, random.randrange(1 << 30))):
	status, job = run(2, clusters, seed, 100, program=types)
	ends("200 random datatypes are packed, sent and put as they should be, on %d clusters (seed %d)" % (clusters, seed),
	     status == 0 and any(l.startswith("all right") for l in job.out()), status, job)

sums = set()
for clusters in (1, 3):
	status, job = run(5, clusters, "--seed", 5, "--steps", 150, "--compute-ms", 100, program=storm, timeout=90)
	last = [fields(l)["checksum"] for l in job.out() if l.startswith("STORM OK")]
	ends("a storm of five ranks passes on %d clusters" % clusters, status == 0 and last, status, job)
	sums.update(last)
tap.ok(len(sums) == 1, "with the same checksum", str(sums))
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
