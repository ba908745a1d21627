# SPDX-License-Identifier: BSD-2-Clause
"""A pool over three hosts of a rig, by a real sshd: jobs from all of them at once; the leader's host loses its power, comes
again, is cut off; down. Nothing is left on any host. --long: cuts of each host in turn, and the power of each."""
import argparse, json, os, select, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

MPIRUN, GODWIT, KMEANS, JACOBI = (os.path.join(godwit.BUILD, name) for name in ("mpirun", "godwit", "examples/kmeans",
                                                                               "examples/jacobi"))
HOSTS = ["rig1", "rig2", "rig3"]


def run(host, *words, timeout=60):
	p = r[host].run([str(w) for w in words], timeout=timeout, user=login)
	return p.returncode, p.stdout, p.stderr


def status(host):
	code, out, err = run(host, GODWIT, "pools", "--json")
	pools = json.loads(out or "[]")
	return pools[0] if pools else {"members": [], "jobs": [], "leader": 0, "state": "none"}


def settled(hosts, timeout=40):
	"""Waits until all of @hosts list just each other, under one leader, which is one of them; returns its name."""
	seen = {}

	def are():
		for h in hosts:
			s = seen[h] = status(h)
			names = {m["id"]: m["host"] for m in s.get("members", [])}
			if sorted(names.values()) != sorted(hosts) or s["state"] not in ("leading", "following"):
				return None
		leaders = {names.get(s["leader"]) for s in seen.values()}
		return leaders.pop() if len(leaders) == 1 else None
	leader = godwit.wait_for(are, timeout, 0.1)
	if not leader:
		for h, s in seen.items():
			tap.diag("%s: %s" % (h, s))
	return leader


def no_jobs(host):
	return godwit.wait_for(lambda: not status(host)["jobs"], 30, 0.1)


def nothing_left(sentence):
	found = rig_mpi.left(r.hosts, "godwitd|mpirun|godwit|ssh|sleep|conduct")
	tap.ok(not found, sentence, *found)


class Job:
	"""mpirun on a host; its ranks say that they run, and sleep."""

	def __init__(self, host, n):
		self.p = r[host].popen([MPIRUN, "-pool", "any", "-n", str(n), "sh", "-c", "echo up; exec sleep 1000"], user=login,
		                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
		if rig.hear(self.p, b"up\n", n, 40).count(b"up\n") < n:
			rig.kill_tree(self.p)
			tap.bail("a job in the pool did not start: " + self.p.stderr.read())

	def is_running(self):
		return self.p.poll() is None

	def end(self, timeout=40):
		out, err = rig.finish(self.p, timeout)
		return self.p.returncode, err

	def kill(self):
		rig.kill_tree(self.p)
		self.p.communicate()


def up():
	hostfile = os.path.join(r.shared, "hosts")
	with open(hostfile, "w") as f:
		f.write("rig1:2\nrig2:2\nrig3:2\n")
	code, out, err = run("rig1", GODWIT, "up", "-f", hostfile)
	tap.ok(code == 0 and "(6 slots)" in out and not err, "a pool of three hosts comes up by ssh", code, out, err)
	tap.ok(settled(HOSTS) == "rig1", "and its first host leads it")
	tap.ok(not r["rig1"].run(["pgrep", "-x", "ssh"]).stdout, "without a connection of ssh")


def at_once():
	alone = subprocess.run([MPIRUN, "-n", "2", KMEANS], capture_output=True, text=True, timeout=60).stdout
	jobs = [r[h].popen([MPIRUN, "-pool", "any", "-n", "2", KMEANS], user=login, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
	                   text=True) for h in HOSTS]
	ends = [j.communicate(timeout=90) + (j.returncode,) for j in jobs]
	tap.ok(godwit.checksum(alone) and [(godwit.checksum(o), e, c) for o, e, c in ends] == [(godwit.checksum(alone), "", 0)] * 3,
	       "three MPI programs at once, begun on three hosts, have the results that they have alone", *ends)
	no_jobs("rig2")
	code, out, err = run("rig2", MPIRUN, "-pool", "any", "-n", "6", "-l", "hostname")
	tap.ok(code == 0 and sorted(out.split()[1::2]) == sorted(HOSTS * 2), "one job on all hosts, which its host does not lead", code, out, err)
	no_jobs("rig2")


def leave():
	"""The host that began everything, leads, and has all ranks of a job leaves."""
	words = [JACOBI, "-s", "128", "-i", "40000", "-r", "1000"] # long enough to be there when its host leaves
	p = r["rig3"].popen([MPIRUN, "-pool", "any", "-n", "2"] + words, user=login, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
	first = p.stdout.readline() if select.select([p.stdout], [], [], 40)[0] else ""
	s = status("rig3")
	where = {m["id"]: m["host"] for m in s["members"]}
	tap.ok("iteration" in first and [[where[part["member"]] for part in j["parts"]] for j in s["jobs"]] == [["rig1"]],
	       "a job runs on the first host", first, s)
	other = Job("rig3", 2)  # on rig2
	code, out, err = run("rig1", GODWIT, "leave", "rig1")
	tap.ok(code == 0 and settled(["rig2", "rig3"]), "the first host, which began everything and leads, is told to leave: it does", code, out, err)
	gone = godwit.wait_for(lambda: not r["rig1"].run(["pgrep", "-xl", "godwitd|jacobi"]).stdout, 20, 0.1)
	tap.ok(gone, "nothing of the pool or the job is left there", r["rig1"].run(["pgrep", "-al", "."]).stdout)
	s = status("rig2")
	where = {m["id"]: m["host"] for m in s["members"]}
	parts = [sorted((where.get(part["member"]), part["slots"]) for part in j["parts"]) for j in s["jobs"]]
	tap.ok(p.poll() is None and sorted(parts) == [[("rig2", 2)], [("rig3", 2)]], "the job goes on where its slots are taken now", s, p.poll())
	code, out, err = run("rig2", MPIRUN, "-pool", "any", "-n", "1", "true")
	tap.ok(code == 1 and "of the pool's 4 only 0 are free" in err, "and not given to others", code, err)
	other.kill()
	alone = subprocess.run([MPIRUN, "-n", "2"] + words, capture_output=True, text=True, timeout=300).stdout
	out, err = rig.finish(p, 90)
	tap.ok(p.returncode == 0 and godwit.checksum(out) and godwit.checksum(out) == godwit.checksum(alone), "it ends with the result that it has on one host",
	       p.returncode, out, err, alone)
	no_jobs("rig2")
	run("rig3", GODWIT, "down")
	nothing_left("nothing is left on any host when the pool is taken down")


def power():
	"""The leader's host loses its power, and comes again."""
	there = Job("rig3", 2)    # on rig1
	spared = Job("rig3", 2)   # on rig2
	begun = Job("rig1", 2)    # on rig3
	cut_s = time.monotonic()
	r["rig1"].power_off()
	code, err = there.end()
	took_s = time.monotonic() - cut_s
	tap.ok(code == 1 and "rig1" in err, "the leader's host loses its power: a job with ranks there ends with a sentence (%.1f s)" % took_s,
	       code, err)
	begun.kill()
	tap.ok(not rig_mpi.left([r["rig3"]], "sleep"), "of one whose mpirun was there nothing is left elsewhere")
	tap.ok(settled(["rig2", "rig3"]) == "rig2", "the next host leads")
	tap.ok(spared.is_running() and [j["parts"] for j in status("rig3")["jobs"]], "the job with nothing there goes on, and the pool knows it",
	       status("rig3"))
	code, out, err = run("rig3", MPIRUN, "-pool", "any", "-n", "2", "-l", "hostname")
	tap.ok(code == 0 and out.split()[1::2] == ["rig3", "rig3"], "new jobs are begun", code, out, err)
	r["rig1"].power_on()
	r.start_sshd([r["rig1"]])
	code, out, err = run("rig3", GODWIT, "up", "--add", "--hosts", "rig1:2")
	tap.ok(code == 0 and settled(HOSTS), "the host comes back when it is added", code, out, err)
	tap.ok(spared.is_running(), "the spared job did not notice")
	spared.kill()
	no_jobs("rig3")


def cut(name):
	"""A host is cut off and heals: jobs on either side go on, what spans the cut ends."""
	away = Job(name, 6)
	away.kill()
	no_jobs(name)
	others = [h for h in HOSTS if h != name]
	spanning = Job(others[0], 6)
	cut_s = time.monotonic()
	r[name].cut()
	code, err = spanning.end()
	took_s = time.monotonic() - cut_s
	tap.ok(code == 1 and name in err, "%s is cut off: a job that spans the cut ends with a sentence (%.1f s)" % (name, took_s), code,
	       err)
	tap.ok(settled(others) and settled([name]), "each side has a leader")
	own, theirs = Job(name, 2), Job(others[1], 2)
	r[name].restore()
	tap.ok(settled(HOSTS), "they find each other again when the cut is over")
	tap.ok(own.is_running() and theirs.is_running(), "and what was begun on either side goes on")
	s = godwit.wait_for(lambda: (lambda s: len(s["jobs"]) == 2 and s)(status(name)), 20, 0.1)
	tap.ok(s and sum(p["slots"] for j in s["jobs"] for p in j["parts"]) == 4, "with its slots", s or status(name))
	own.kill()
	theirs.kill()
	no_jobs(name)


def down():
	job = Job("rig2", 6)
	code, out, err = run("rig3", GODWIT, "down")
	tap.ok(code == 0 and not err, "down, from any host", code, err)
	code, err = job.end()
	tap.ok(code == 1 and "taken down; ending the job" in err, "ends the job in it with a sentence", code, err)
	nothing_left("nothing is left on any host")


options = argparse.ArgumentParser()
options.add_argument("--long", action="store_true")
options = options.parse_args()
tap = godwit.Tap(900 if options.long else 500) # much of it is the computing of that one job, on a loaded machine
with rig_mpi.hosts_or_skip(3) as r:
	login = rig_mpi.login(r)
	up()
	at_once()
	leave()
	up()
	power()
	for host in HOSTS if options.long else []:
		cut(host)
	down()
sys.exit(tap.done())
