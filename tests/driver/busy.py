#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Moves in hard places: computing for long, in MPI_Init and MPI_Finalize, with threads, all ranks at once, and a rank
that ends after it has moved."""
from godwit import *

tap = Tap(280)
work = work_dir("busy")
conduct = os.path.join(BUILD, "tests/programs/conduct")
shm_before = shm_entries()


# ---- ranks that compute ----------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "compute", 12])
job.wait_line(r"^ready", 30, count=3)
head = job.head()
took, bad = [], []
for turn in range(4):
	for rank in range(3):
		began = time.monotonic()
		m = head.migrate([rank], (rank + turn + 1) % 3)[0]
		took.append((time.monotonic() - began) * 1000)
		if m["status"]:
			bad.append(m["text"])
tap.ok(not bad and "computed" not in job.out(), "12 moves of ranks that compute for 12 s are done before one enters MPI again",
       *(bad + job.tail()))
tap.diag("ms from request to answer: median %.1f, most %.1f" % (median(took), max(took)))
status = job.end()
tap.ok(status == 0 and "computed" in job.out(), "and their sum is right", "status %s" % status, *job.tail())

# ---- the beginning and the end ---------------------------------------------------------------------------------------

wrong, moves, refused, reasons = [], 0, 0, collections.Counter()
for turn in range(12):
	job = Job(tap, ["-n", 4, "-clusters", 3, conduct, "hello"])
	mover = Mover(job, 4, 3, seed=turn, pace_ms=1) if job.wait_head() else None
	status = job.end()
	if mover:
		mover.finish()
		moves, refused = moves + len(mover.moves), refused + len(mover.refused)
		wrong += [mover.error] if mover.error else []
		reasons.update(re.sub(r"\d+", "N", m["text"]) for m in mover.refused)
	if status != 0 or len([l for l in job.out() if l.startswith("hello")]) != 4 or job.gone():
		wrong.append("turn %d: status %s: %s" % (turn, status, job.tail()))
tap.ok(not wrong, "ranks that start and end are asked to move, 12 times: %d moves, %d refusals" % (moves, refused), *wrong[:3])

for text, n in reasons.most_common(8):
	tap.diag("%d times: %s" % (n, text))

# ---- threads ---------------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "threads", 20000])
job.wait_line(r"^ready", 30)
mover = Mover(job, 3, 3, seed=3, pace_ms=60)
status = job.end(120)
mover.finish()
tap.ok(status == 0 and len(mover.moves) > 2 and not mover.error,
       "ranks whose three threads talk at once are moved (%d times)" % len(mover.moves),
       "status %s" % status, mover.error, *([r["text"] for r in mover.refused[:3]] + job.tail()))

# ---- all at once -----------------------------------------------------------------------------------------------------

stop = os.path.join(work, "stop")
job = Job(tap, ["-n", 6, "-clusters", 3, conduct, "carry", 1, stop])
job.wait_line(r"^ready", 30, count=6)
head = job.head()
bad = []
for turn in range(6):
	to = turn % 3
	where = head.ranks()
	bad += [m["text"] for m in head.migrate([r for r in range(6) if where[r]["cluster"] != to], to) if m["status"]]
	if {r["cluster"] for r in head.ranks().values()} != {to}:
		bad.append("after turn %d the clusters are %s" % (turn, [r["cluster"] for r in head.ranks().values()]))
tap.ok(not bad, "six ranks go to one cluster by one request, and on to the next, six times", *bad[:5])
open(stop, "w").close()
status = job.end()
tap.ok(status == 0 and len([l for l in job.out() if l.startswith("carried")]) == 6, "they carried what they had",
       "status %s" % status, *job.tail())
os.unlink(stop)

# ---- the end of a rank that has moved --------------------------------------------------------------------------------

job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "carry", 1, stop])
job.wait_line(r"^ready", 30, count=3)
head = job.head()
head.migrate([1], 2)
os.kill(head.ranks()[1]["pid"], 9)
status = job.end(30)
tap.ok(status == 137 and any("rank 1" in l for l in job.out("err")) and not job.gone(),
       "a rank that is killed after it moved ends the job with 137 and its name", "status %s" % status, *job.tail())

job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "carry", 1, stop])
job.wait_line(r"^ready", 30, count=3)
job.head().migrate([1], 2)
job.proc.terminate()
status = job.end(30)
tap.ok(status not in (0, None) and not job.gone(), "mpirun that gets SIGTERM after a move ends all (status %s)" % status,
       *job.tail())

job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "carry", 1, stop])
job.wait_line(r"^ready", 30, count=3)
job.head().migrate([1], 2)
job.proc.kill()
job.wait(10)
tap.ok(not job.gone(), "mpirun is killed with -9 after a move: nothing is left", str(job.gone()))

# ---- two jobs --------------------------------------------------------------------------------------------------------

jobs = [Job(tap, ["-n", 2, "-clusters", 2, conduct, "carry", 1, stop]) for _ in range(2)]
for job in jobs:
	job.wait_line(r"^ready", 30, count=2)
movers = [Mover(job, 2, 2, seed=i, pace_ms=30, limit=8) for i, job in enumerate(jobs)]
for m in movers:
	m.join(60)
open(stop, "w").close()
status = [job.end() for job in jobs]
tap.ok(status == [0, 0] and all(len(m.moves) == 8 for m in movers), "two jobs at once move their own ranks, 8 times each",
       "status %s, moves %s" % (status, [len(m.moves) for m in movers]), *[r["text"] for m in movers for r in m.refused[:3]])
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
