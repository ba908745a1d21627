#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The storm while clusters and hosts come and go: tests/storm runs while random ones are added, drained, undrained and
removed, and random ranks move among those that are there. Then it runs again, alone: the checksums are equal.

A seed gives the messages and the choices; their timing is the machine's. Hosts are played by this machine: with an odd seed
mpirun starts their daemons (fork), with an even one they come by a launcher and TCP, as real ones do.

--balance: the program is examples/drift, whose load wanders, and instead of at random its ranks move as 'mpirun -balance refine' plans,
looked at every second, while hosts come, go and are emptied amid its plans. It takes about as long as --seconds says.
"""
import argparse, random

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--changes", type=int, default=24, help="adds, drains, undrains and removes; and on until some ranks have moved")
p.add_argument("--ranks", type=int, default=4)
p.add_argument("--most", type=int, default=8, help="clusters at a time")
p.add_argument("--seed", type=int, default=int(os.environ.get("STORM_SEED", time.time_ns() // 1000 % 10**9)))
p.add_argument("--seconds", type=int, default=100, help="make no further change after this long")
p.add_argument("--balance", action="store_true", help="balance examples/drift meanwhile")
a = p.parse_args()

tap = Tap(a.seconds * 5 + 600 if a.balance else a.seconds * 3 + 180)
work = work_dir("grow-storm")
stop = os.path.join(work, "stop")
STORM = os.path.join(BUILD, "tests/storm/storm")
tap.diag("seed %d: %d ranks, %d changes" % (a.seed, a.ranks, a.changes))
shm_before = shm_entries()
DRIFT = [os.path.join(BUILD, "examples/drift"), "--particles", 2000 * a.ranks, "--drift", 20000, "--work", 40, "--report", 5, "--steps"]


def drift_steps():
	"""So many take about as long as --seconds: by the pace of some that nobody disturbs."""
	first = Job(tap, ["-n", a.ranks, "-clusters", 2] + DRIFT + [40])
	first.end(120)
	return max(40, int(40 * a.seconds / float(fields([l for l in first.out() if "seconds=" in l][0])["seconds"])))


steps = drift_steps() if a.balance else 0
if a.balance:
	job = Job(tap, ["-n", a.ranks, "-clusters", 2, "-balance", "refine", "-balance-every", "1s"] + DRIFT + [steps])
else:
	job = Job(tap, ["-n", a.ranks, "-clusters", 2, STORM, "--seed", a.seed, "--stop-file", stop])
if not tap.ok(job.wait_line(r"^drift: step" if a.balance else r"^STORM START", 60), "the storm starts", *job.tail()):
	job.kill()
	sys.exit(tap.done())

over = threading.Event()
done, moves, refused, errors = collections.Counter(), [], [], []
together = []  # clusters that one launcher has started: the first daemon waits for the others' end
# what a change may be told that comes too late, or would leave no place
KNOWN = ("has left the job", "no other cluster", "is not up", "is drained", "is being drained", "just being drained",
         "no cluster on a host", "already", "does not live on", "no other cluster that is up", "is about to leave", "is not up yet",
         "is still starting", "has not come back from another move")


def note(what, answer):
	status, texts = answer.get("status", 0), [answer.get("text", "")] + [s["text"] for s in answer.get("stuck", [])]
	done[what + (" refused" if status < 0 or answer["op"] == "refused" else "")] += 1
	if (status < 0 or answer["op"] == "refused") and not all(any(k in t for k in KNOWN) for t in texts if t):
		refused.append("%s: %s" % (what, texts))


def mover(seed):
	rng, head = random.Random(seed), job.head()
	try:
		while not over.wait(rng.expovariate(30)) and job.is_running():
			there = [c for c, x in head.clusters().items() if x["state"] == "up" and not x["drained"]]
			m = head.migrate([rng.randrange(a.ranks)], rng.choice(there))[0]
			if m["status"] == 0:
				moves.append(m)
			elif not any(k in m["text"] for k in KNOWN):
				refused.append("move: " + m["text"])
	except (OSError, EOFError, RuntimeError) as e:
		errors.append(repr(e))


def change(rng, head):
	there = [c for c, x in head.clusters().items() if x["state"] == "up"]
	drained = [c for c, x in head.clusters().items() if x["state"] == "up" and x["drained"]]
	what = rng.choice(["add", "add", "drain", "undrain", "remove", "remove", "remove host"])
	if what == "add" and len(there) < a.most:
		name, launcher = rng.choice([("localhost", "ssh"), ("h%d" % rng.randrange(3), "fork") if a.seed % 2 else
		                             ("127.0.0.%d" % (2 + rng.randrange(3)), "sh -c %c %h")])
		answer = head.add(name, rng.choice([1, 1, 2]), launcher)
		note("add", answer)
		if "%h" in launcher:
			together.append(answer["clusters"])
	elif what == "drain":
		note(what, head.drain(rng.choice(there)))
	elif what == "undrain":
		note(what, head.undrain(rng.choice(drained or there)))
	elif what == "remove":
		note(what, head.remove(rng.choice(there)))
	elif what == "remove host":
		note(what, head.remove(head.clusters()[rng.choice(there)]["hostname"]))


def changer(seed):
	rng, head = random.Random(seed), job.head()
	end = time.monotonic() + a.seconds
	try:
		while (a.balance or sum(done.values()) < a.changes or len(moves) < 5) and time.monotonic() < end and job.is_running():
			change(rng, head)
			over.wait(rng.expovariate(2) if a.balance else 0) # else nobody would stay for long enough to be balanced
	except (OSError, EOFError, RuntimeError) as e:
		errors.append(repr(e))


def teller():
	"""What balancing has done so far, and how well pauses were foreseen, until the job ends."""
	seen, head = set(), job.head()
	try:
		while not over.wait(0.5) and job.is_running():
			s = head.status()
			balanced.update((k, s["balance"][k]) for k in ("looks", "plans", "moved", "failed"))
			for m in s["moves"]["last"]:
				if m["status"] == 0 and m["downtime_ns"] and m["predicted_ns"] and (m["rank"], m["time"]) not in seen:
					seen.add((m["rank"], m["time"]))
					errors_of.append(m["downtime_ns"] / m["predicted_ns"])
					moves.append(m)
	except (OSError, EOFError, RuntimeError) as e:
		if job.is_running():
			errors.append(repr(e))


balanced, errors_of = {}, []
movers = [threading.Thread(target=teller)] if a.balance else [threading.Thread(target=mover, args=(a.seed + i,)) for i in (1, 2)]
changers = [threading.Thread(target=changer, args=(a.seed + i,)) for i in (3, 4)]
for t in movers + changers:
	t.start()
for t in changers:
	t.join()
over.set()
for t in movers:
	t.join()
if a.balance: # its last changes may have come when it had ended
	tap.diag("balance: %s" % ", ".join("%s %d" % x for x in balanced.items()))
	q = sorted(errors_of)
	tap.diag("pauses, of what was foreseen: median %.2f, quartiles %.2f and %.2f, of %d moves" % (median(q), q[len(q) // 4], q[3 * len(q) // 4], len(q)) if q
	         else "no pause was foreseen")
	tap.ok(balanced.get("plans") and balanced["moved"] > 0, "ranks were balanced meanwhile", balanced)
else:
	tap.ok(not errors and job.is_running(), "the job outlives it all", *errors, *job.tail(30))
tap.ok(not refused, "what was refused was refused for a known reason", *refused[:10])
tap.diag("%d moves; %s" % (len(moves), ", ".join("%s %d" % x for x in sorted(done.items()))))
tap.ok(moves and all(done[w] for w in ("add", "remove")), "clusters came and went, and ranks moved")
if job.is_running():
	status = job.head().status()
	live = [c["cluster"] for c in status["clusters"] if c["state"] == "up"]
	tap.ok(sorted(r["cluster"] for r in status["ranks"] if r["cluster"] not in live) == [], "each rank is on a cluster that is there",
	       status)
	wait = sum(bool(cs) and cs[0] not in live and any(c in live for c in cs) for cs in together)
	tap.ok(wait_for(lambda: list(job.processes().values()).count("godwitd") == len(live) + wait, 20), "and there is a daemon for each of "
	       "these, and no other", live, wait, job.processes())
open(stop, "w").close()
status = job.end(a.seconds + 300 if a.balance else 90)
LAST = r"^drift: particles=" if a.balance else r"^STORM OK"
last = [fields(l) for l in job.out() if re.match(LAST, l)]
tap.ok(status == 0 and last and not job.gone(), "the storm ends well, and nothing is left of it", "status %s" % status, job.gone(), *job.tail())
tap.ok(shm_entries() <= shm_before, "nothing of the job is left in /dev/shm", str(shm_entries() - shm_before))
if last:
	again = Job(tap, ["-n", a.ranks, "-clusters", 2] + (DRIFT + [steps] if a.balance else
	                 [STORM, "--seed", a.seed, "--steps", last[0]["steps"]]))
	status = again.end(2 * a.seconds + 90)
	want = [fields(l) for l in again.out() if re.match(LAST, l)]
	tap.ok(status == 0 and want and want[0]["checksum"] == last[0]["checksum"], "its checksum is that of a run without all this",
	       last, want)
sys.exit(tap.done())
