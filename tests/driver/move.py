#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A move is a move: another process, another parent, another cluster; all of its memory, its clocks, its streams."""
from godwit import *

tap = Tap(240)
work = work_dir("move")
conduct = os.path.join(BUILD, "tests/programs/conduct")
shm_before = shm_entries()
MIB = 24

# ---- memory, parents, and the death of the source's daemon -----------------------------------------------------------

stop = os.path.join(work, "stop")
job = Job(tap, ["-n", 2, "-clusters", 3, conduct, "carry", MIB, stop])
if not tap.ok(job.wait_line(r"^ready", 30, count=2), "two ranks start on three clusters", *job.tail()):
	job.kill()
	sys.exit(tap.done())
head = job.head()
before = head.ranks()
daemons = {c["cluster"]: c["pid"] for c in head.status()["clusters"]}
source = before[1]["cluster"]
to = next(c for c in range(3) if c not in (before[0]["cluster"], source))
old, old_init = before[1]["pid"], proc_stat(before[1]["pid"])[1]
dirty = private_dirty(old)
tap.ok(proc_stat(old_init)[1] == daemons[source], "the rank's init is a child of its cluster's daemon",
       "init %s of daemon %s, not %s" % (old_init, proc_stat(old_init)[1], daemons[source]))
m = head.migrate([1], to)[0]
tap.ok(m["status"] == 0, "rank 1 moves from cluster %d to %d" % (source, to), m["text"])
after = head.ranks()[1]
new = after["pid"]
tap.ok(after["cluster"] == to, "its cluster has changed", str(after))
tap.ok(new != old and proc_stat(new), "its host pid has changed: %d, then %d" % (old, new))
tap.ok(proc_stat(old) is None and proc_stat(old_init) is None, "the old process and its init are gone",
       "%s, %s" % (proc_stat(old), proc_stat(old_init)))
tap.ok(proc_stat(proc_stat(new)[1])[1] == daemons[to], "the new one's init is a child of the new cluster's daemon")
tap.ok(m["measures"].get("bytes", 0) >= dirty * 0.98, "the bytes sent cover its private dirty memory (%d of %d)" % (
       m["measures"].get("bytes", 0), dirty))
os.kill(daemons[source], 9)
tap.ok(job.wait(1) is None, "the source's daemon is killed; the job goes on", *job.tail())
tap.ok(proc_stat(new) is not None, "and so does the rank")
open(stop, "w").close()
status = job.wait(30)
tap.ok(status == 0 and len([l for l in job.out() if l.startswith("carried")]) == 2,
       "both end well, with their memory as it was", "status %s" % status, *job.tail())
if status is None:
	job.kill()
tap.ok(not job.gone(), "nothing is left of it", str(job.gone()))

# ---- another program in the same rank --------------------------------------------------------------------------------

job = Job(tap, ["-n", 1, "-clusters", 2, "sh", "-c", "echo ready; read x; exec sh -c 'echo again; read x; echo end $x'"], stdin=True,
          env={"GODWIT_FAULT": "mig.src.frozen=fail"})
job.wait_line(r"^ready", 30)
head = job.head()
while any(c["state"] != "up" for c in head.status()["clusters"]):
	pass  # the rank may speak before the other daemon does
first = head.migrate([0], 1)[0]
job.proc.stdin.write(b"go\n")
job.proc.stdin.flush()
job.wait_line(r"^again", 30)
second = head.migrate([0], 1)[0]
job.proc.stdin.write(b"well\n")
job.proc.stdin.close()
status = job.wait(30)
tap.ok(first["status"] < 0 and second["status"] == 0 and status == 0 and "end well" in job.out(),
       "a rank whose move failed, and that then executed another program, moves", first["text"], second["text"], status, *job.tail())
if status is None:
	job.kill()

# ---- signals while pages come ------------------------------------------------------------------------------------------

if "post-copy" in can_move():
	stop = os.path.join(work, "stop-late")
	job = Job(tap, ["-n", 2, "-clusters", 2, conduct, "carry", 12, stop])
	job.wait_line(r"^ready", 30, count=2)
	head, answers = job.head(), []
	to = 1 - head.ranks()[0]["cluster"]
	late = threading.Thread(target=lambda: answers.extend(job.head().migrate([0], to, technique="post-copy", bandwidth=1 << 20)))
	late.start()
	there = wait_for(lambda: head.ranks()[0]["cluster"] == to)
	job.proc.send_signal(signal.SIGUSR1)
	heard = job.wait_line(r"^heard rank=0", 30)
	state = head.ranks()[0]["state"]
	tap.ok(there and heard and state == "moving" and not answers, "a signal reaches a rank whose pages still come", there, heard, state,
	       *job.tail())
	end_carry(job, stop, "and the job, whose end needs all of them, ends well", 2)
	late.join()
else:
	tap.skip("a signal reaches a rank whose pages still come", "no post-copy here")

# ---- clocks ----------------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 2, "-clusters", 2, conduct, "gaps", "3"])
job.wait_line(r"^ready rank=1", 30)
head = job.head()
m = head.migrate([1], 1 - head.ranks()[1]["cluster"])[0]
status = job.wait(30)
gap = fields(([l for l in job.out() if l.startswith("gap rank=1")] or [""])[0])
down = m["measures"].get("downtime_ns", 0)
if tap.ok(m["status"] == 0 and status == 0 and gap, "a rank that watches the clock is moved", m["text"], *job.tail()):
	real, mono = int(gap["realtime_ns"]), int(gap["monotonic_ns"])
	tap.ok(abs(real - mono) < 200000, "both clocks advanced by the same over the gap (%.3f and %.3f ms)" % (real / 1e6, mono / 1e6))
	# Its thread may run before the daemon, which lets go one after the other, takes its second stamp.
	from_ns, frozen, thaw = int(gap["from_ns"]), m["measures"]["frozen_at_ns"], m["measures"]["phases"]["thaw_ns"]
	holds = from_ns <= frozen and from_ns + real >= frozen + down - thaw
	tap.ok(holds or real >= down, "the gap that the rank saw holds the downtime reported (%.3f, %.3f ms)" % (real / 1e6, down / 1e6),
	       gap, frozen, down, thaw)

# ---- streams ---------------------------------------------------------------------------------------------------------

LINES = 30000
job = Job(tap, ["-n", 3, "-clusters", 3, "-l", conduct, "output", LINES])
job.wait_line(r"line", 30)
mover = Mover(job, 3, 3, seed=7)
status = job.wait(60)
mover.finish()
lines, bad = collections.Counter(), []
for l in job.out():
	w = re.fullmatch(r"\[(\d)\] line \1 (\d+) (x*\.)", l)
	if not w or int(w[2]) != lines[w[1]] or len(w[3]) != int(w[2]) * 7 % 190 + 1:
		bad.append(l)
	if w:
		lines[w[1]] += 1
tap.ok(status == 0 and not bad and all(lines[r] == LINES for r in "012") and mover.moves,
       "3 times %d lines of output come whole, once and in order over %d moves" % (LINES, len(mover.moves)),
       "status %s, lines %s" % (status, dict(lines)), *bad[:3])

data = os.urandom(1 << 16) * 64
sum_ = 14695981039346656037
for b in data:
	sum_ = (sum_ ^ b) * 1099511628211 & 0xffffffffffffffff
job = Job(tap, ["-n", 2, "-clusters", 3, conduct, "input"], stdin=True)
job.wait_line(r"^ready rank=0", 30)
mover = Mover(job, 1, 3, seed=8)
try:
	for i in range(0, len(data), 1 << 16):
		job.proc.stdin.write(data[i:i + (1 << 16)])
		job.proc.stdin.flush()
	while len(mover.moves) < 10 and not mover.refused and not mover.error and job.is_running():
		mover.over.wait(0.05)
	job.proc.stdin.close()
except BrokenPipeError:
	pass
mover.over.set()
status = job.wait(60)
mover.finish()
said = [l for l in job.out() if l.startswith("input:")]
tap.ok(status == 0 and said == ["input: %d bytes, sum %016x" % (len(data), sum_)] and mover.moves,
       "%d bytes of standard input reach rank 0 over %d moves of it" % (len(data), len(mover.moves)),
       "status %s" % status, *job.tail())

tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
