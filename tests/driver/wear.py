#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""One rank moves very often: rank, daemons and mpirun hold no more of anything than after a tenth of its moves, or 500.

Two ranks exchange messages all the time; rank 1 goes round the clusters but that of rank 0. It is looked at where it has come from
a whole number of times round, at rest between two moves: memory of its own, descriptors, mappings, threads, children,
namespaces. The least of some looks counts: what is there for a moment does not. What leaks does so to the end: memory that is more after
the first half of the moves, and not after the second, is that of buffers which have found their places.
"""
import argparse

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--moves", type=int, default=10000)
p.add_argument("--hosts", action="store_true", help="each cluster is a host of its own, played by this machine")
p.add_argument("--technique", action="append", help="only this; more than once: these in turn")
p.add_argument("--seconds", type=int, default=3000)
p.add_argument("--grow-kb", type=int, default=256, help="so much more memory is not growth")
a = p.parse_args()

LOOKS = 20  # stages
AGAIN = 4   # looks of each stage
tap = Tap(a.seconds + 120)
work = work_dir("wear")
stop = os.path.join(work, "stop")
places = ["-hosts", "a,b,c", "-launcher", "fork"] if a.hosts else ["-clusters", 3]
shm_before, slabs_before = shm_entries(), slabs()
job = Job(tap, ["-n", 2] + places + [os.path.join(BUILD, "tests/programs/conduct"), "carry", 2, stop])
if not tap.ok(job.wait_line("^ready", 60, count=2), "the job starts", *job.tail()):
	job.kill()
	sys.exit(tap.done())
ways = [{"technique": t} for t in a.technique or []] or TECHNIQUES
head = job.head()


def look(pid):
	"""What a process holds."""
	at = "/proc/%d/" % pid
	with open(at + "smaps_rollup") as f:
		text = f.read()
	kb = lambda name: int(re.search(r"^%s:\s+(\d+) kB" % name, text, re.M).group(1))
	with open(at + "maps") as f:
		mappings = len(f.readlines())
	# clean pages of files are private as soon as nobody else has the file mapped
	return {"private kB": kb("Private_Dirty") + kb("Swap"), "Pss kB": kb("Pss"), "descriptors": len(os.listdir(at + "fd")),
	        "mappings": mappings, "threads": len(os.listdir(at + "task"))}


def look_at_all():
	"""By role: the rank, mpirun, each daemon; and what the job has altogether."""
	status = head.status()
	roles = {"mpirun": job.proc.pid, "rank 1": {r["rank"]: r["pid"] for r in status["ranks"]}[1]}
	roles.update(("daemon %d" % c["cluster"], c["pid"]) for c in status["clusters"])
	found = {role: look(pid) for role, pid in roles.items()}
	spaces = set()
	pids = job.processes()
	for pid in pids:
		for kind in ("pid", "mnt", "user", "time", "net", "ipc", "uts", "cgroup"):
			try:
				spaces.add(os.readlink("/proc/%d/ns/%s" % (pid, kind)))
			except OSError:
				pass
	found["the job"] = {"processes": len(pids), "namespaces": len(spaces), "segments": len(shm_entries() - shm_before)}
	return found


def stage():
	"""The least of some looks, with a whole round of moves between two of them."""
	least = {}
	for _ in range(AGAIN):
		for role, values in look_at_all().items():
			kept = least.setdefault(role, dict(values))
			kept.update((k, min(v, kept[k])) for k, v in values.items())
		go(2)
	return least


moves, refused, downtime = 0, [], collections.defaultdict(list)
began = time.monotonic()


def is_over():
	return time.monotonic() - began > a.seconds or len(refused) > 20


def go(count):
	"""So many moves that succeed."""
	global moves
	for _ in range(count):
		if is_over():
			return
		way = ways[moves // 2 % len(ways)]
		m = head.migrate([1], 1 + moves % 2 if first else 2 - moves % 2, **way)[0]
		if m["status"]:
			refused.append(m["text"])
			continue
		moves += 1
		downtime[m["measures"]["technique"]].append(m["measures"]["downtime_ns"] / 1e6)


first = head.ranks()[1]["cluster"] == 2  # it is on 1 or, when on 2, goes to 1 first
per_stage = max(2, (a.moves // LOOKS - 2 * AGAIN) // 2 * 2)
stages = []
while moves < a.moves and not is_over():
	go(per_stage)
	found = stage()
	if not is_over():  # else the rank may be half way round
		stages.append((moves, found))
took = time.monotonic() - began
tap.ok(moves >= a.moves, "rank 1 moved %d times (%.0f ms each)" % (moves, took * 1000 / max(1, moves)), *refused[:5])
tap.ok(len(refused) <= moves // 1000, "and was refused at most once in a thousand (%d)" % len(refused), *refused[:5])
for name, d in sorted(downtime.items()):
	tap.diag("%s: %d moves, downtime ms: median %.2f, most %.2f" % (name, len(d), median(d), max(d)))


def has_grown(before, then, after, room):
	return after > before + room and min(after - then, then - before) >= room // 2


if len(stages) > 3:
	first_of = lambda n: [s for s in stages if s[0] >= n][0]
	early, late = first_of(min(moves // 2, max(moves // 10, 500))), stages[-1]
	middle = first_of((early[0] + late[0]) // 2)
	for role in early[1]:
		# what is shared with a child counts for half, and whole again when that ends
		room = {"private kB": a.grow_kb, "Pss kB": 4 * a.grow_kb}
		grown = {k: (early[1][role][k], middle[1][role][k], v) for k, v in late[1][role].items()
		         if (has_grown(early[1][role][k], middle[1][role][k], v, room[k]) if k in room else v > early[1][role][k])}
		tap.ok(not grown, "%s has no more of anything after %d moves than after %d" % (role, late[0], early[0]), grown,
		       *("%d moves: %s" % (n, s[role]) for n, s in stages))
		tap.diag("%s: %s" % (role, ", ".join("%s %d, then %d" % (k, v, late[1][role][k]) for k, v in early[1][role].items())))
else:
	tap.ok(False, "there are stages to compare", stages)
head.close()
end_carry(job, stop, "the job ends well", 2)
slabs_after = slabs()
grown = {k: slabs_after[k] - v for k, v in slabs_before.items() if k in slabs_after}
if grown and moves >= 1000:
	# of the whole machine, so others are counted too; a leak would be one for each move
	tap.ok(all(v < moves / 4 for v in grown.values()), "the kernel has not kept the namespaces", grown)
tap.ok(shm_entries() <= shm_before, "nothing of it is left in /dev/shm", shm_entries() - shm_before)
sys.exit(tap.done())
