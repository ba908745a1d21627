#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The moving storm: tests/storm runs while random ranks are moved to random clusters; then it runs again unmoved.

The moved run decides how many steps there are; the unmoved one makes as many, so checksums and times compare.
A run is replayed by its seed, which is printed: it gives the messages and the choice of moves (their timing is the
machine's).
"""
import argparse, contextlib, ctypes, random

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--moves", type=int, default=60)
p.add_argument("--ranks", type=int, default=6)
p.add_argument("--clusters", type=int, default=4)
p.add_argument("--hosts", type=int, default=1, help="hosts that this machine plays; --clusters is for all of them together")
p.add_argument("--technique", action="append", help="only this; more than once: one of these, by chance")
p.add_argument("--seed", type=int, default=int(os.environ.get("STORM_SEED", time.time_ns() // 1000 % 10**9)))
p.add_argument("--at-once", type=int, default=2, help="moves in flight")
p.add_argument("--pace-ms", type=float, default=600, help="mean pause of each mover between two moves")
p.add_argument("--seconds", type=int, default=240, help="give up after this long")
p.add_argument("--compute-ms", type=int, default=1000)
p.add_argument("--counts", action="store_true", help="go on, up to four times the moves, until every count is above zero")
p.add_argument("--on", help="real hosts, by ssh, instead of --hosts: names between commas; this test runs on the first")
p.add_argument("--huge", type=int, default=0, help="MiB of the longest of the messages that take longer than a move")
p.add_argument("--huge-moves", type=int, default=0, help="so many moves of each side must be in the middle of one")
p.add_argument("--pairs", action="store_true", help="often two ranks at once; often a rank again as soon as it has moved")
p.add_argument("--cut-ms", type=float, default=0, help="break a connection between ranks, or daemons, every so often")
p.add_argument("--phase", help="only this one of the program's phases, again and again: one-sided, ...")
p.add_argument("--json", help="write every move's answer into this file, one per line")
a = p.parse_args()
ways = [{"technique": t} for t in a.technique or []] or all_ways()

tap = Tap(a.seconds * 4 + 120)
work = work_dir("storm")
stop, gaps = os.path.join(work, "stop"), os.path.join(work, "gaps")
storm = os.path.join(BUILD, "tests/storm/storm")
tap.diag("seed %d: %d ranks on %d clusters, at least %d moves, %d at once" % (a.seed, a.ranks, a.clusters, a.moves, a.at_once))
shm_before = shm_entries()


if a.on:
	a.hosts = len(a.on.split(","))


def run(*more):
	hosts = []
	if a.on:
		hosts = ["-hosts", a.on]
	elif a.hosts > 1:
		hosts = ["-hosts", ",".join("h%d" % h for h in range(a.hosts)), "-launcher", "fork"]
	if a.phase:
		more += ("--phase", a.phase)
	if a.huge:
		more += ("--huge", a.huge << 20)
	return Job(tap, ["-n", a.ranks, "-clusters", a.clusters // a.hosts] + hosts + [storm, "--seed", a.seed, "--compute-ms", a.compute_ms] + list(more))


job = run("--stop-file", stop, "--gaps", gaps)
if not tap.ok(job.wait_line(r"^STORM START", 60), "the storm starts", *job.tail()):
	job.kill()
	sys.exit(tap.done())

# ---- moving ----------------------------------------------------------------------------------------------------------

lock = threading.Lock()
rng = random.Random(a.seed)
moves, refused, wrong, busy = [], [], [], set()
doing, unnoticed = collections.Counter(), collections.Counter()
began = time.monotonic()
first_home = {r: (x["cluster"], x["pid"]) for r, x in job.head().ranks().items()}


def span(m):
	"""When the rank stood still."""
	return (m["measures"].get("frozen_at_ns") or 0, m["measures"].get("thawed_at_ns") or 0)


def stood_together():
	"""How often two ranks did at the same instant."""
	known = sorted((span(m) for m in list(moves) if span(m)[0]))
	return sum(y[0] < x[1] for x, y in zip(known, known[1:]))


def enough():
	counted = not a.counts or all(doing[d] for d in DOING)
	chosen = len({m["rank"] for m in moves}) == a.ranks  # chance may leave one out for long
	# and lets short moves miss each other
	return len(moves) >= a.moves and (counted and chosen and (not a.pairs or stood_together()) or len(moves) >= 4 * a.moves) or time.monotonic() - began > a.seconds


def moved(m, to, asked, before, after):
	"""One answer, told with where the rank was before and is now."""
	rank = m["rank"]
	m["asked_ms"] = (time.monotonic() - asked) * 1000
	m["from_pid"], m["to_pid"] = before["pid"], after["pid"]
	with lock:
		if m["status"]:
			refused.append(m)
			return
		moves.append(m)
		doing[DOING[m["measures"]["doing"]]] += 1
		doing["asleep meanwhile"] += m["measures"]["asleep"]
		# hosts that have processes of their own may give it the same number
		if after["cluster"] != to or (after["pid"] == before["pid"] and not a.on):
			wrong.append("rank %d: from cluster %d pid %d, to cluster %d: is at %d, pid %d" % (rank, before["cluster"],
			             before["pid"], to, after["cluster"], after["pid"]))


def move(head, chosen):
	"""All of @chosen to one cluster; they begin in one turn of the head. True: all have moved."""
	before = head.ranks()
	with lock:
		to = rng.choice([c for c in range(a.clusters) if c not in [before[r]["cluster"] for r in chosen]])
		how = rng.choice(ways)
	asked = time.monotonic()
	answers = head.migrate(chosen, to, **how)
	after = head.ranks()
	for m in answers:
		moved(m, to, asked, before[m["rank"]], after[m["rank"]])
	return all(m["status"] == 0 for m in answers)


def mover():
	head = job.head()
	try:
		while not enough() and job.is_running():
			with lock:
				free = [r for r in range(a.ranks) if r not in busy]
				if not free:
					continue  # those that stand for another mover
				chosen = rng.sample(free, 2 if a.pairs and len(free) > 1 and rng.random() < 0.4 else 1)
				again = rng.choice((0, 1, 3)) if a.pairs else 0
				busy.update(chosen)
				pause, stop_a_peer = rng.expovariate(1000 / a.pace_ms), again and not a.on and rng.random() < 0.2
			if stop_a_peer:
				with lock:
					free = [r for r in range(a.ranks) if r not in busy]
					peer = rng.choice(free) if free else None
					busy.update([peer] if free else [])
				if peer is not None:
					with standing(head.ranks()[peer]["pid"]) as stands:
						n = sum(stands() and move(head, chosen) and stands() for _ in range(1 + again))
					unnoticed["moves"] += n
					unnoticed["again"] += n > 1
					with lock:
						busy.discard(peer)
			else:
				for _ in range(1 + again):
					move(head, chosen)
			with lock:
				busy.difference_update(chosen)
			threading.Event().wait(pause)  # random pacing, nothing waits for it
	except (OSError, EOFError, KeyError, ValueError) as e:
		with lock:
			wrong.append("a mover ended: %r" % e)
	finally:
		head.close()


@contextlib.contextmanager
def standing(pid):
	"""A process that is stopped, with all its threads, from here to there; yields whether it is known to be so."""
	try:
		fd = os.pidfd_open(pid)
		signal.pidfd_send_signal(fd, signal.SIGSTOP)
	except OSError:
		yield lambda: False  # it has moved away meanwhile
		return
	try:
		yield lambda: (proc_stat(pid) or "?")[0] in ("T", "t")
	finally:
		try:
			signal.pidfd_send_signal(fd, signal.SIGCONT)
		except OSError:
			pass
		os.close(fd)


PIDFD_GETFD = 438
cuts = collections.Counter()


def cut_one(pid, name):
	"""Break a TCP connection of a process as a bad network does. True: there was one."""
	libc = ctypes.CDLL(None, use_errno=True)
	try:
		holder = os.pidfd_open(pid)
	except OSError:
		return False
	try:
		fds = [int(f) for f in os.listdir("/proc/%d/fd" % pid) if os.readlink("/proc/%d/fd/%s" % (pid, f)).startswith("socket:")]
		random.shuffle(fds)
		for fd in fds:
			copy = libc.syscall(PIDFD_GETFD, holder, fd, 0)
			if copy < 0:
				continue
			with socket.socket(fileno=copy) as sock:
				try:
					if sock.family == socket.AF_INET and sock.getpeername():
						sock.shutdown(socket.SHUT_RDWR)
						cuts[name] += 1
						return True
				except OSError:
					pass
		return False
	except OSError:
		return False  # it has moved away meanwhile
	finally:
		os.close(holder)


def cutter():
	mine = random.Random(a.seed + 1)
	while not enough() and job.is_running():
		there = [x for x in job.processes().items() if x[1] in ("storm", "godwitd")]
		if there:
			# sessions are short: most of what a daemon is asked for is not there
			daemons = [x for x in there if x[1] == "godwitd"]
			cut_one(*mine.choice(daemons if daemons and mine.random() < 0.5 else there))
		threading.Event().wait(mine.expovariate(1000 / a.cut_ms))


movers = [threading.Thread(target=mover, daemon=True) for _ in range(a.at_once)]
if a.cut_ms:
	movers.append(threading.Thread(target=cutter, daemon=True))
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
allowed = sum(cuts.values()) + len(moves) // 20 if a.cut_ms else len(moves) // 20
tap.ok(len(refused) <= allowed, "at most one request in 20%s was refused (%d)" % (", and one for each cut," if a.cut_ms else "", len(refused)),
       *["rank %d to %d: %s" % (r["rank"], r["to"], r["text"]) for r in refused[:10]])
who = {m["rank"] for m in moves}
tap.ok(len(who) == a.ranks, "every rank was moved", "moved: %s" % sorted(who))
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

# ---- at the same time, in the middle, again at once ------------------------------------------------------------------

huge = [(int(w[4:]), r, x, y) for r in frozen for w, x, y in frozen[r] if w.startswith("huge")]
if a.huge:
	middle = collections.Counter()
	for m in moves:
		at, to = span(m)
		for src, dst, x, y in huge:  # a part, and not all, was there before the freeze and after the thaw
			if at and x <= at and to <= y and m["rank"] in (src, dst):
				middle["sender" if m["rank"] == src else "receiver"] += 1
	for side in ("sender", "receiver"):
		tap.ok(middle[side] >= a.huge_moves, "the %s of up to %d MiB was moved in the middle of it %d times" % (side, a.huge, middle[side]),
		       "%d huge messages were seen in parts" % len(huge))
if a.pairs:
	together = stood_together()
	tap.ok(together, "ranks stood still at the same instant %d times" % together)
	tap.ok(unnoticed["again"] or a.moves < 500 or a.on, "a rank was moved again, %d times, while a peer that was stopped could not have noticed (%d moves "
	       "at all then)" % (unnoticed["again"], unnoticed["moves"]))
if a.cut_ms:
	tap.ok(cuts["storm"] > 0, "connections of ranks were cut (%d), and of daemons (%d)" % (cuts["storm"], cuts["godwitd"]))
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
