#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The moving storm: tests/storm runs while random ranks are moved to random clusters; then it runs again unmoved.

The moved run decides how many steps there are; the unmoved one makes as many, so checksums and times compare.
A run is replayed by its seed, which is printed: it gives the messages and the choice of moves (their timing is the
machine's).
"""
import argparse, random

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--moves", type=int, default=60)
p.add_argument("--ranks", type=int, default=6)
p.add_argument("--clusters", type=int, default=4)
p.add_argument("--hosts", type=int, default=1, help="hosts that this machine plays; --clusters is for all of them together")
p.add_argument("--seed", type=int, default=int(os.environ.get("STORM_SEED", time.time_ns() // 1000 % 10**9)))
p.add_argument("--at-once", type=int, default=2, help="moves in flight")
p.add_argument("--pace-ms", type=float, default=600, help="mean pause of each mover between two moves")
p.add_argument("--seconds", type=int, default=240, help="give up after this long")
p.add_argument("--compute-ms", type=int, default=1000)
p.add_argument("--counts", action="store_true", help="go on, up to four times the moves, until every count is above zero")
p.add_argument("--json", help="write every move's answer into this file, one per line")
a = p.parse_args()

tap = Tap(a.seconds * 4 + 120)
work = work_dir("storm")
stop, gaps = os.path.join(work, "stop"), os.path.join(work, "gaps")
storm = os.path.join(BUILD, "tests/storm/storm")
tap.diag("seed %d: %d ranks on %d clusters, at least %d moves, %d at once" % (a.seed, a.ranks, a.clusters, a.moves, a.at_once))
shm_before = shm_entries()


def run(*more):
	hosts = ["-hosts", ",".join("h%d" % h for h in range(a.hosts)), "-launcher", "fork"] if a.hosts > 1 else []
	return Job(tap, ["-n", a.ranks, "-clusters", a.clusters // a.hosts] + hosts + [storm, "--seed", a.seed, "--compute-ms", a.compute_ms] + list(more))


job = run("--stop-file", stop, "--gaps", gaps)
if not tap.ok(job.wait_line(r"^STORM START", 60), "the storm starts", *job.tail()):
	job.kill()
	sys.exit(tap.done())

# ---- moving ----------------------------------------------------------------------------------------------------------

lock = threading.Lock()
rng = random.Random(a.seed)
moves, refused, wrong, busy = [], [], [], set()
doing = collections.Counter()
began = time.monotonic()
first_home = {r: (x["cluster"], x["pid"]) for r, x in job.head().ranks().items()}


def enough():
	counted = not a.counts or all(doing[d] for d in DOING)
	return len(moves) >= a.moves and (counted or len(moves) >= 4 * a.moves) or time.monotonic() - began > a.seconds


def mover():
	head = job.head()
	try:
		while not enough() and job.is_running():
			with lock:
				rank = rng.choice([r for r in range(a.ranks) if r not in busy])
				busy.add(rank)
				to, pause = rng.randrange(a.clusters - 1), rng.expovariate(1000 / a.pace_ms)
			before = head.ranks()[rank]
			to += to >= before["cluster"]
			asked = time.monotonic()
			m = head.migrate([rank], to)[0]
			m["asked_ms"] = (time.monotonic() - asked) * 1000
			after = head.ranks()[rank]
			m["from_pid"], m["to_pid"] = before["pid"], after["pid"]
			with lock:
				busy.discard(rank)
				if m["status"] == 0:
					moves.append(m)
					doing[DOING[m["measures"]["doing"]]] += 1
					doing["asleep meanwhile"] += m["measures"]["asleep"]
					if after["cluster"] != to or after["pid"] == before["pid"]:
						wrong.append("rank %d: from cluster %d pid %d, to cluster %d: is at %d, pid %d" % (rank,
						             before["cluster"], before["pid"], to, after["cluster"], after["pid"]))
				else:
					refused.append(m)
			threading.Event().wait(pause)  # random pacing, nothing waits for it
	except (OSError, EOFError, KeyError, ValueError) as e:
		with lock:
			wrong.append("a mover ended: %r" % e)
	finally:
		head.close()


movers = [threading.Thread(target=mover, daemon=True) for _ in range(a.at_once)]
for t in movers:
	t.start()
for t in movers:
	t.join()
moving_s = time.monotonic() - began
open(stop, "w").close()
status = job.wait(120)
if status is None:
	tap.diag("the storm hangs; where its ranks are:")
	for pid in [x for x, name in job.processes().items() if name == "storm"]:
		os.kill(pid, 12)
	job.wait_line(r"STORM WHERE", 5, "err", a.ranks)
	for line in job.tail(40):
		tap.diag(line)
	job.kill()
tap.ok(status == 0, "mpirun ends with status 0", "status %s" % status, *job.tail())
last = [l for l in job.out() if l.startswith("STORM OK")]
tap.ok(last, "every message was right, in order, once", *job.tail())
tap.ok(len(moves) >= a.moves, "at least %d moves were made (%d in %.1f s)" % (a.moves, len(moves), moving_s),
       *["%s" % r for r in refused[:5]])
tap.ok(not wrong, "after each move the rank has another cluster and another host pid", *wrong[:5])
tap.ok(len(refused) * 20 <= len(moves), "at most one request in 20 was refused (%d)" % len(refused),
       *["rank %d to %d: %s" % (r["rank"], r["to"], r["text"]) for r in refused[:10]])
moved = {m["rank"] for m in moves}
tap.ok(len(moved) == a.ranks, "every rank was moved", "moved: %s" % sorted(moved))
left = job.gone()
tap.ok(not left, "no process of the job is left", str(left))
tap.ok(shm_entries() <= shm_before, "nothing of the job is left in /dev/shm", str(shm_entries() - shm_before))

# ---- what they were doing --------------------------------------------------------------------------------------------

frozen = collections.defaultdict(list)
for r in range(a.ranks):
	try:
		with open("%s.%d" % (gaps, r)) as f:
			frozen[r] = [(w, int(x), int(y)) for w, x, y in map(str.split, f)]
	except OSError:
		pass
for m in moves:
	at, to = m["measures"].get("frozen_at_ns", 0), m["measures"].get("thawed_at_ns", 0)
	for what, x, y in frozen[m["rank"]]:
		if x <= at and to <= y:
			doing["malloc" if what == "malloc" else "computing, seen from inside"] += 1
tap.diag("caught: " + ", ".join("%s %d" % (d, doing[d]) for d in DOING + ["asleep meanwhile", "malloc", "computing, seen from inside"]))
if a.counts:
	for d in ["compute", "send", "recv", "wait", "probe", "collective", "malloc"]:
		tap.ok(doing[d], "some rank was caught in: %s (%d)" % (d, doing[d]))
if moves:
	down = [m["measures"].get("downtime_ns", 0) / 1e6 for m in moves]
	total = [m["asked_ms"] for m in moves]
	tap.diag("downtime ms: median %.2f, least %.2f, most %.2f; from request to answer: median %.2f, most %.2f" % (
	         median(down), min(down), max(down), median(total), max(total)))
if a.json:
	with open(a.json, "w") as f:
		for m in moves + refused:
			print(json.dumps(m), file=f)

# ---- the same without moves ------------------------------------------------------------------------------------------

if last:
	is_ = fields(last[0])
	again = run("--steps", is_["steps"])
	status = again.wait(a.seconds + 60)
	if status is None:
		again.kill()
	tap.ok(status == 0, "the unmoved run ends with status 0", *again.tail())
	want = [fields(l) for l in again.out() if l.startswith("STORM OK")]
	if tap.ok(want, "the unmoved run is right", *again.tail()):
		tap.ok(is_["checksum"] == want[0]["checksum"], "checksums are equal: %s" % is_["checksum"],
		       "unmoved: %s" % want[0]["checksum"])
		def rates(j):
			return [fields(l) for l in j.out() if l.startswith("STORM RATE")]

		with_moves, without = rates(job), rates(again)
		if any(float(w["rate"]) <= 0.5 * float(o["rate"]) for w, o in zip(with_moves, without)):
			# others use this machine too, and the two runs were not at the same time: once more, the slower one counts
			tap.diag("the unmoved run made %s steps/s; once more" % without[0]["rate"])
			third = run("--steps", is_["steps"])
			if third.wait(a.seconds + 60) == 0:
				without = min(without, rates(third), key=lambda r: float(r[0]["rate"]))
			else:
				third.kill()
		for w, o in zip(with_moves, without):
			w["ratio"] = float(w["rate"]) / float(o["rate"]) if float(o["rate"]) else 0
			tap.diag("rank %s: %s steps at %s/s moved, %s/s unmoved: %.2f; largest gap %s ms, unmoved %s ms" % (w["rank"], w["steps"],
			         w["rate"], o["rate"], w["ratio"], w["largest_gap_ms"], o["largest_gap_ms"]))
		# between hosts a move costs its channels new connections as well: there the rate is told, and not judged
		tap.ok(with_moves and all(w["ratio"] > (0.5 if a.hosts == 1 else 0) for w in with_moves),
		       "each rank keeps more than half of its rate" if a.hosts == 1 else "each rank goes on")
sys.exit(tap.done())
