#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What godwitd adds to a move: when it waits, and what meets it on the way: start, end, signals, deaths of every process."""
import random, signal

__import__("sys").path.insert(0, __import__("os").path.join(__import__("os").environ.get("top_srcdir", "."), "tests/driver"))
from godwit import *

tap = Tap(400)
work = work_dir("moves")
conduct = os.path.join(BUILD, "tests/programs/conduct")
turns = int(os.environ.get("TURNS", 6))
seed = int(os.environ.get("SEED", time.time_ns() // 1000 % 10**9))
rng = random.Random(seed)
tap.diag("seed %d, %d turns" % (seed, turns))


class Storm(threading.Thread):
	"""Requests moves of random ranks as fast as they are answered, from before the ranks exist until the job ends."""

	def __init__(self, job, ranks, clusters):
		super().__init__(daemon=True)
		self.job, self.ranks, self.clusters, self.rng = job, ranks, clusters, random.Random(rng.random())
		self.moved, self.refused = 0, collections.Counter()
		self.over, self.has_moved = threading.Event(), threading.Event()
		self.start()

	def run(self):
		try:
			head = Head(self.job.wait_head() or "")
			while not self.over.is_set():
				ranks = self.rng.sample(range(self.ranks), self.rng.randint(1, self.ranks))
				for m in head.migrate(ranks, self.rng.randrange(self.clusters)):
					if m["status"] == 0:
						self.moved += 1
						self.has_moved.set()
					else:
						self.refused[re.sub(r"\d+", "N", m["text"])] += 1
		except (OSError, EOFError, TypeError):
			pass  # the job has ended

	def amid(self):
		"""Return at a random moment of the moves: not before the first one."""
		self.has_moved.wait(20)
		time.sleep(rng.random() * 0.5)

	def finish(self):
		self.over.set()
		self.join(60)
		return self


def end(job, timeout=40):
	status = job.end(timeout)
	left = job.gone()
	return "leaves %s" % left if left else status


def summary(storms):
	refused = collections.Counter()
	for s in storms:
		refused.update(s.refused)
	for text, n in refused.most_common(8):
		tap.diag("refused %d times: %s" % (n, text))
	return sum(s.moved for s in storms)


# ---- without MPI -----------------------------------------------------------------------------------------------------

stop = os.path.join(work, "stop")
job = Job(tap, ["-n", 2, "-clusters", 3, "sh", "-c", "i=0; echo up; while [ ! -e %s ]; do i=$((i+1)); done; echo end $PMI_RANK" % stop])
job.wait_line("^up", 20, count=2)
head = job.head()
homes, texts = [0], []
for i in range(8):
	m = head.migrate([0], (homes[-1] + 1) % 3)[0]
	texts.append(m["text"])
	homes.append(head.ranks()[0]["cluster"])
st = head.ranks()
open(stop, "w").close()
status = end(job)
tap.ok(status == 0 and sorted(job.out()) == ["end 0", "end 1", "up", "up"] and homes == [i % 3 for i in range(9)] and
       st[0]["epoch"] == 8 and st[1]["epoch"] == 0, "a rank that never speaks MPI moves eight times and ends well",
       status, homes, texts, *job.tail())

# ---- many at once ----------------------------------------------------------------------------------------------------

N = 24
job = Job(tap, ["-n", N, "-clusters", 3, "sh", "-c", "read x; echo end $PMI_RANK; exec sleep 1000"], stdin=True)
job.wait_head()
head = job.head()
wait_for(lambda: all(r["state"] != "starting" for r in head.status()["ranks"]))
texts = []
for to in (2, 0, 1):
	ranks = [r for r, x in head.ranks().items() if x["cluster"] != to]
	texts += [m["text"] for m in head.migrate(ranks, to) if m["status"] != 0]
	texts += ["rank %d is on cluster %d" % (r, x["cluster"]) for r, x in head.ranks().items() if x["cluster"] != to]
tap.ok(not texts, "%d ranks move at once, three times" % N, *texts[:5])
job.proc.terminate()
tap.ok(end(job) == 143, "and the job ends as it should")

# ---- start and end ---------------------------------------------------------------------------------------------------

storms, bad = [], []
for i in range(2 * turns):
	job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "hello"])
	s = Storm(job, 3, 3)
	status = end(job)
	storms.append(s.finish())
	if status != 0 or len([l for l in job.out() if l.startswith("hello")]) != 3:
		bad.append("turn %d: status %s, %s" % (i, status, job.tail()))
moved = summary(storms)
tap.ok(not bad, "%d moves meet MPI_Init and MPI_Finalize in %d runs of hello" % (moved, 2 * turns), *bad[:5])

# ---- signals ---------------------------------------------------------------------------------------------------------

storms, bad = [], []
for i in range(turns):
	job = Job(tap, ["-n", 3, "-clusters", 3, "sh", "-c", "trap 'echo got; exit 0' TERM; echo up; while :; do :; done"])
	job.wait_line("^up", 20, count=3)
	s = Storm(job, 3, 3)
	time.sleep(rng.random() * 0.3)  # also before the first move
	job.proc.send_signal(signal.SIGTERM)
	status = end(job)
	storms.append(s.finish())
	if status != 0 or job.out().count("got") != 3:
		bad.append("turn %d: status %s, %s" % (i, status, job.tail()))
moved = summary(storms)
tap.ok(not bad, "SIGTERM reaches every rank, also one on its way (%d moves in %d turns)" % (moved, turns), *bad[:5])

# ---- deaths ----------------------------------------------------------------------------------------------------------

storms, bad = [], []
for i in range(turns):
	job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "compute", 20])
	s = Storm(job, 3, 3)
	s.amid()
	victim, over = rng.randrange(3), time.monotonic() + 20
	while job.is_running() and time.monotonic() < over:  # a signal to the copy that is left behind kills nobody
		try:
			os.kill(job.head().ranks()[victim]["pid"], signal.SIGSEGV)
		except (OSError, RuntimeError, EOFError):
			pass
	status = end(job)
	storms.append(s.finish())
	if status not in (139, 137):  # killed between freeze and GIVEN it may be a signal 9 of its container
		bad.append("turn %d: status %s, %s" % (i, status, job.tail()))
moved = summary(storms)
tap.ok(not bad, "a rank that crashes among moves ends the job (%d moves in %d turns)" % (moved, turns), *bad[:5])

storms, bad, lived = [], [], 0
for i in range(turns):
	job = Job(tap, ["-n", 3, "-clusters", 4, conduct, "compute", 3])
	s = Storm(job, 3, 4)
	s.amid()
	try:
		daemons = {c["cluster"]: c["pid"] for c in job.head().status()["clusters"]}
		victim = rng.choice(list(daemons))
		os.kill(daemons[victim], 9)
	except (OSError, RuntimeError, EOFError) as e:
		bad.append("turn %d: no daemon to kill: %r" % (i, e))
		job.kill()
		continue
	status = end(job)
	storms.append(s.finish())
	lived += status == 0
	if status not in (0, 137) or (status == 137 and not any("daemon of cluster" in l or "died in a move" in l for l in job.out("err"))):
		bad.append("turn %d: status %s, %s" % (i, status, job.tail()))
moved = summary(storms)
tap.ok(not bad, "a daemon killed among moves: the job lives (%d) or ends with its message (%d), %d moves" % (
       lived, turns - lived, moved), *bad[:5])

storms, bad = [], []
for i in range(turns):
	job = Job(tap, ["-n", 3, "-clusters", 3, conduct, "compute", 20])
	s = Storm(job, 3, 3)
	s.amid()
	os.kill(job.proc.pid, 9)
	status = end(job)
	storms.append(s.finish())
	if status != -9:
		bad.append("turn %d: %s" % (i, status))
moved = summary(storms)
tap.ok(not bad, "kill -9 of mpirun among moves leaves no process (%d moves in %d turns)" % (moved, turns), *bad[:5])

sys.exit(tap.done())
