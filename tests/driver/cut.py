# SPDX-License-Identifier: BSD-2-Clause
"""Hosts of a rig vanish: the job ends with a sentence that names host and ranks, or goes on when none lived there; what
was there ends by itself; a rank that was moving is on one side. --storm: at every edge of a move, in both directions."""
import argparse, json, os, select, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

MPIRUN, GODWIT = (os.path.join(godwit.BUILD, name) for name in ("mpirun", "godwit"))
CONDUCT = os.path.join(godwit.BUILD, "tests/programs/conduct")


class Job:
	"""mpirun on rig1; events of all hosts in one file of the shared directory."""
	number = 0

	def __init__(self, r, words, env=None):
		Job.number += 1
		self.r, self.path = r, os.path.join(r.shared, "events%d" % Job.number)
		with open(self.path, "w"):
			os.chmod(self.path, 0o666)
		self.p = r[1].popen([MPIRUN] + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, user=login,
		                    env=dict({"GODWIT_EVENTS": self.path}, **(env or {})))
		self.cut_s = None

	def events(self, name=None, **fields):
		found = []
		with open(self.path) as f:
			for line in f.read().split("\n"):
				try:
					e = json.loads(line)
				except ValueError:
					continue  # not whole yet
				if (not name or e["event"] == name) and all(e.get(k) == v for k, v in fields.items()):
					found.append(e)
		return found

	def wait_event(self, name, count=1, timeout=30, **fields):
		godwit.wait_for(lambda: len(self.events(name, **fields)) >= count or self.p.poll() is not None, timeout, 0.02)
		return len(self.events(name, **fields)) >= count

	def wait_lines(self, line, count, timeout=30):
		return rig.hear(self.p, line, count, timeout).count(line) >= count

	def end(self, timeout=60):
		"""Its status and what it said; how long that took from the cut on."""
		out, err = rig.finish(self.p, timeout)
		self.took = "" if self.cut_s is None else " (%.1f s after the cut)" % (time.monotonic() - self.cut_s)
		return self.p.returncode, out, err


def left(r):
	return rig_mpi.left(r.hosts, "godwitd|mpirun|ssh|sleep|conduct")


def sleepers(r, ranks, words):
	"""A job whose ranks do nothing, when all its daemons are up."""
	job = Job(r, words + ["sh", "-c", "echo up; exec sleep 1000"])
	if not job.wait_lines(b"up\n", ranks) or not job.wait_event("cluster.up", job.events("job.started")[0]["clusters"]):
		rig.kill_tree(job.p)
		tap.bail("the job did not start: " + job.p.stderr.read())
	return job


def ended(job, sentence, says, status=(1,)):
	code, out, err = job.end()
	tap.ok(code in status and all(s in err for s in says), sentence + job.took, code, err)


class Move:
	"""A job of two ranks that talk to each other: rank 1 goes from one host to another when one of the daemons stops at an edge
	of the move, and rig3, which is one of the two hosts, vanishes. Rank 0 is on a third host."""

	# where rank 1 is then: it stays where it was and the job goes on, it is gone and the job ends, or it has moved and goes on
	OUTCOMES = {  # edge: (rig3 is where it was going, where it was)
		"mig.src.marked": ("stays", "gone"), "mig.src.follow": ("stays", "gone"), "mig.src.round": ("stays", "gone"),
		"mig.src.packed": ("stays", "gone"), "mig.src.prepared": ("stays", "gone"), "mig.src.quiet": ("stays", "gone"), "mig.src.frozen": ("stays", "gone"),
		"mig.src.head": ("stays", "gone"),
		"mig.src.sending": ("stays", "gone"), "mig.src.ready": ("gone", "gone"), "mig.src.given": ("gone", "gone"),
		"mig.src.taken": ("gone", "moved"), "mig.dst.looking": ("stays", "gone"), "mig.dst.prepared": ("stays", "gone"), "mig.dst.filling": ("stays", "gone"),
		"mig.dst.ready": ("stays", "gone"), "mig.dst.sent": ("gone", "gone moved"), "mig.dst.given": ("gone", "moved"),
		"mig.dst.taken": ("gone", "moved"), "mig.src.pushing": ("gone", "gone"), "mig.src.serving": ("gone", "gone"),
		"mig.src.asked": ("gone", "gone"), "mig.dst.fetching": ("gone", "gone"), "mig.dst.fault": ("gone", "gone"),
		"mig.dst.pages": ("gone", "gone"), "mig.dst.fetched": ("gone", "moved"),
	}

	def __init__(self, r, edge, source, to, technique="stop-and-copy"):
		self.r, self.edge, self.hosts, self.technique = r, edge, (source, to), technique
		self.want = self.OUTCOMES[edge][source == 3]
		if self.want == "moved" and technique in ("post-copy", "hybrid") and edge != "mig.dst.fetched":
			self.want = "gone moved"  # its memory was on rig3, or had come already
		third = {1, 2, 3} - {source, to}
		self.stop = os.path.join(r.shared, "stop%d" % (Job.number + 1))
		self.job = Job(r, ["-hosts", "rig%d:1,rig%d:1,rig%d:1" % (third.pop(), source, to), "-n", "2", CONDUCT, "carry", "2", self.stop],
		               {"GODWIT_FAULT": edge + "=stop"})
		self.title = "%s, %s from rig%d to rig%d, rig3 vanishes" % (edge, technique, source, to)
		self.daemon = None

	def begin(self):
		"""False: it did not come to its edge."""
		job = self.job
		if not job.wait_lines(b"ready", 2) or not job.wait_event("cluster.up", 3):
			return False
		number = job.events("job.started")[0]["job"]
		how = ["--%s=%s" % (name.replace("_", "-"), value) for name, value in godwit.WITH.get(self.edge, {}).items()]
		self.asked = self.r[1].popen([GODWIT, "migrate", "1", "--to", "2", "--technique", self.technique, "--job", number] + how,
		                             user=login, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
		cluster = 1 if ".src." in self.edge else 2
		self.daemon = job.events("cluster.up", cluster=cluster)[0]["pid"], self.hosts[cluster - 1]
		stopped = lambda: self.r[self.daemon[1]].run(["ps", "-o", "stat=", "-p", str(self.daemon[0])]).stdout.startswith("T")
		return godwit.wait_for(stopped, 30, 0.05)

	def go_on(self):
		"""After the cut: the daemon that stopped at the edge, unless it has vanished itself."""
		if self.daemon[1] != 3:
			self.wake()

	def wake(self):
		self.r[self.daemon[1]].run(["kill", "-CONT", str(self.daemon[0])])

	def copies(self):
		found = []
		for pid in filter(str.isdigit, os.listdir("/proc")):
			try:
				with open("/proc/%s/environ" % pid, "rb") as f:
					words = f.read().split(b"\0")
				with open("/proc/%s/comm" % pid) as f:
					name = f.read().strip()
			except OSError:
				continue
			stat = godwit.proc_stat(int(pid))
			if self.job.p.mark in words and b"GODWIT_PROC=1" in words and name == "conduct" and stat and stat[0] not in "tTZX":
				found.append(int(pid))
		return found

	def check(self):
		job = self.job
		job.wait_event("cluster.lost")
		if self.daemon[1] == 3:
			self.wake()  # it has missed its own end, and must not go on with the session
		if "gone" in self.want:
			godwit.wait_for(lambda: job.p.poll() is not None, 20 if self.want == "gone" else 3, 0.05)
		is_over = job.p.poll() is not None
		godwit.wait_for(lambda: len(self.copies()) == (0 if is_over else 1), 20, 0.1)
		copies = len(self.copies())
		if not is_over:
			place = [e["cluster"] for e in job.events() if e["event"] in ("mig.taken", "mig.stayed")]
			with open(self.stop, "w"):
				pass
		status, out, err = job.end()
		if is_over:
			says = "host rig3 does not answer" in err or self.technique in ("post-copy", "hybrid") and "(it came from cluster 1 on rig3)" in err
			outcome, good = "gone", status == 1 and copies == 0 and says and "rank 1" in err
		else:
			outcome = "moved" if place and place[-1] == 2 else "stays"
			good = status == 0 and copies == 1 and out.count("carried") == 2
		rig.kill_tree(self.asked)
		tap.ok(good and outcome in self.want, "%s: it %s%s" % (self.title, {"gone": "is gone, the job ends", "moved": "has moved, the job "
		       "goes on", "stays": "stays, the job goes on"}[outcome], job.took), "status %s, copies %d, wanted: %s" % (status, copies, self.want),
		       out[-500:], err, job.events())


def moves_vanish(r, moves):
	"""Several jobs, one cut."""
	moves = [Move(r, *m) for m in moves]
	for m in [m for m in moves if not m.begin()]:
		rig.kill_tree(m.job.p)
		tap.ok(False, m.title + ": the move did not get there", *m.job.end())
		moves.remove(m)
	return moves


def cut_all(r, jobs, moves, what):
	for job in jobs + [m.job for m in moves]:
		job.cut_s = time.monotonic()
	what()
	for m in moves:
		m.go_on()


def mended(r):
	r.heal()
	found = left(r)
	tap.ok(not found, "nothing is left on any host", found)


SSH = """#!/bin/bash
exec %s "${@:1:$#-1}" "touch %s; until test -e %s; do read -t 0.1 x <> %s; done; ${!#}"
"""


def at_start(r):
	"""A job whose ssh has got through, and waits before it starts the daemon."""
	names = [os.path.join(r.shared, n) for n in ("there", "go", "fifo")]
	os.mkfifo(names[2])
	os.chmod(names[2], 0o666)
	os.mkdir(os.path.join(r.shared, "bin"))
	with open(os.path.join(r.shared, "bin/ssh"), "w") as f:
		f.write(SSH % ((rig.tool("ssh"),) + tuple(names)))
		os.fchmod(f.fileno(), 0o755)
	os.chmod(r.shared, 0o1777)
	job = Job(r, ["-hosts", "rig1,rig3", "-n", "2", "true"], {"PATH": os.path.join(r.shared, "bin") + ":" + os.environ["PATH"]})
	if not godwit.wait_for(lambda: os.path.exists(names[0]), 30, 0.02):
		tap.bail("ssh did not get through")
	job.go = names[1]
	return job


def test_first(r):
	"""rig3 is cut off in the middle of everything."""
	spanning = sleepers(r, 4, ["-hosts", "rig2,rig3", "-n", "4"])
	elsewhere = sleepers(r, 1, ["-hosts", "rig2:2,rig3:2", "-n", "1"])
	fenced = sleepers(r, 2, ["-hosts", "rig2,rig3", "-n", "2"])
	daemon = str(fenced.events("cluster.up", cluster=1)[0]["pid"])
	r[3].run(["kill", "-STOP", daemon], check=True)
	starting = at_start(r)
	moves = moves_vanish(r, [("mig.dst.filling", 2, 3), ("mig.dst.taken", 3, 2)])
	cut_all(r, [spanning, elsewhere, fenced, starting], moves, r[3].cut)
	with open(starting.go, "w"):
		pass
	ended(spanning, "a host vanishes: the job ends, host and ranks are named", ["host rig3 does not answer", "ranks 2, 3"])
	ended(fenced, "and one whose daemon there is stopped", ["host rig3 does not answer", "rank 1"])
	for m in moves:
		m.check()
	lost = elsewhere.wait_event("cluster.lost", cluster=1)
	number = elsewhere.events("job.started")[0]["job"]
	answer = json.loads(r[1].run([GODWIT, "status", "--json", "--job", number], user=login).stdout or "{}")
	tap.ok(lost and [x["state"] for x in answer.get("clusters", [])] == ["up", "lost"] and answer["ranks"][0]["state"] == "no MPI",
	       "a job with no rank there goes on", answer)
	r[1].run(["kill", "-INT", str(elsewhere.events("job.started")[0]["pid"])], check=True)
	ended(elsewhere, "and has said why", ["host rig3 does not answer", "the job goes on"], (130, 2))
	ended(starting, "a job that was being started there ends", ["host rig3"])
	there = r[3].run(["pgrep", "-x", "sleep"]).stdout.split()
	r.heal()
	r[3].run(["kill", "-CONT", daemon], check=True)
	# its mpirun has ended: wait_event() would not wait
	told = godwit.wait_for(lambda: fenced.events("cluster.fenced", cluster=1, host="rig3"), 30, 0.02)
	tap.ok(len(there) == 1 and told,
	       "what was there has ended by itself, but for ranks of the stopped daemon, which it kills when it wakes", there,
	       fenced.events(host="rig3"))
	mended(r)


def test_others(r):
	"""A cable is taken out; the hosts are divided."""
	job = sleepers(r, 2, ["-hosts", "rig1,rig3", "-clusters", "2", "-n", "2"])
	cut_all(r, [job], [], r[3].unplug)
	ended(job, "a host is unplugged: the job ends, host and ranks are named", ["host rig3 does not answer", "rank 1"])
	mended(r)
	job = sleepers(r, 3, ["-hosts", "rig1,rig2,rig3", "-n", "3"])
	cut_all(r, [job], [], lambda: r.partition([1], [2, 3]))
	ended(job, "a partition: the job ends", ["does not answer", "rank"])
	found = godwit.wait_for(lambda: not r[2].run(["pgrep", "-x", "sleep"]).stdout, 20, 0.1)
	tap.ok(found, "on both sides, before they hear of each other again")
	mended(r)


def test_apart(r):
	"""Two hosts lose each other, and mpirun's has both."""
	other = sleepers(r, 2, ["-hosts", "rig2,rig3", "-n", "2"])
	job = Job(r, ["-hosts", "rig2,rig3", "-n", "2", CONDUCT, "carry", "2", os.path.join(r.shared, "never")])
	if not job.wait_lines(b"ready", 2):
		tap.bail("the job did not start: " + job.p.stderr.read())
	change = lambda *words: [r[a].run(["ip", "neigh"] + list(words) + ["dev", "eth0", "to", r[b].address], check=True)
	                         for a, b in ((2, 3), (3, 2))]
	cut_all(r, [job], [], lambda: change("replace", "lladdr", "02:00:00:00:00:99", "nud", "permanent"))
	ended(job, "two hosts that cannot reach each other: the job ends, both are named", ["hosts rig", "rig2", "rig3", "cannot reach each "
	      "other", "ranks 0, 1"])
	said = godwit.wait_for(lambda: select.select([other.p.stderr], [], [], 0)[0] or other.p.poll() is not None, 30)
	change("del")
	tap.ok(said and other.p.poll() is None, "one whose ranks do not talk to each other goes on, and is told")
	r[1].run(["kill", "-INT", str(other.events("job.started")[0]["pid"])], check=True)
	ended(other, "until it is interrupted", ["cannot reach each other"], (130, 2))
	mended(r)


def main():
	with rig_mpi.hosts_or_skip(3) as r:
		global login
		login = rig_mpi.login(r)
		if not args.storm:
			test_first(r)
			test_others(r)
			test_apart(r)
			return tap.done()
		every = []
		for edge in Move.OUTCOMES:
			for t in godwit.can_move():
				if t in godwit.ONLY.get(edge, [t]):  # the other host is mpirun's, or not
					every += [(edge, 2 - len(every) % 4 // 2, 3, t), (edge, 3, 1 + len(every) % 4 // 2, t)]
		for at in range(0, len(every), 4):
			moves = moves_vanish(r, every[at:at + 4])
			cut_all(r, [], moves, r[3].cut)
			for m in moves:
				m.check()
			mended(r)
	return tap.done()


parser = argparse.ArgumentParser()
parser.add_argument("--storm", action="store_true", help="cut at every edge of a move (for 'make check-hosts')")
args = parser.parse_args()
tap = godwit.Tap(1500 if args.storm else 240)
sys.exit(main())
