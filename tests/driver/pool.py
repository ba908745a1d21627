# SPDX-License-Identifier: BSD-2-Clause
"""Pools on one machine that plays several hosts: up, jobs at once, a full pool, the leader's death, a leader that leaves, down."""
import json, os, re, signal, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit

tap = godwit.Tap(200)
MPIRUN, GODWIT, GODWITD = (os.path.join(godwit.BUILD, name) for name in ("mpirun", "godwit", "godwitd"))
NAME = "t%d" % os.getpid()
OTHER = NAME + "x"  # another pool of the same user
STRANGER = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect("\\0" + sys.argv[1])
try: print("heard", len(s.recv(1)))
except OSError as e: print(e)
"""


def run(*words, timeout=60):
	p = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
	return p.returncode, p.stdout, p.stderr


def commands():
	"""(pid, words) of every process."""
	for pid in filter(str.isdigit, os.listdir("/proc")):
		try:
			with open("/proc/%s/cmdline" % pid, "rb") as f:
				words = f.read().decode().split("\0")
		except OSError:
			continue
		yield int(pid), words


def keepers(pool=NAME):
	"""pid of each keeper of a pool, by the name of its host."""
	return {[w for w in words if w.startswith("--host=")][0][7:]: pid for pid, words in commands()
	        if "--pool=" + pool in words and os.path.basename(words[0]) == "godwitd"}


def status(where):
	code, out, err = run(GODWIT, "pools", "--json", "%s@%s" % (NAME, where))
	all_ = json.loads(out or "[]")
	return all_[0] if all_ else {"members": [], "jobs": []}


def settled(where, hosts):
	"""Waits until the keeper of @where lists just these hosts, under a leader that is one of them."""
	def is_so():
		s = status(where)
		names = {m["id"]: m["host"] for m in s.get("members", [])}
		return sorted(names.values()) == sorted(hosts) and s["leader"] in names and s["state"] in ("leading", "following") and s
	return godwit.wait_for(is_so, 40, 0.1)


def places(s, number):
	"""{host: (clusters, ranks)} of a job."""
	return {p["host"]: (p["clusters"], p["ranks"]) for j in s["jobs"] if "%08x" % j["job"] == number for p in j.get("places", [])}


def begin(where, n, *words):
	j = godwit.Job(tap, ["-pool", "%s@%s" % (NAME, where), "-n", n, *words, "sh", "-c", "echo up; read line; echo went on"], stdin=True)
	if not j.wait_line("^up$", 40, count=n):
		tap.bail("a job in the pool did not start: %s" % j.tail())
	return j


def leader_of(s):
	return [m["host"] for m in s["members"] if m["id"] == s["leader"]][0]


def isolation(number):
	"""Job @number runs in the pool, with a slot free: who has the secret of another job, another pool, another user."""
	helper = [words for pid, words in commands() if "in-pool" in words and number in words][0]
	where = helper[-2].split("--join=")[1].split()[0]
	keeper = godwit.Head("godwit/%d/pool/%s@c" % (os.getuid(), NAME))
	keeper.send({"op": "ask", "job": 0x1234, "ranks": 1, "text": "another"})  # as mpirun does
	other = keeper.receive()
	for secret, job, says, sentence in ((other["secret"], number, "does not know the secret", "a daemon with the secret of another job is refused"),
	                                    (other["secret"], "1234", "another job", "and one of that job")):
		p = subprocess.run([GODWITD, "--join=" + where, "--job=" + job, "--cluster=0"], input=secret + "\n", capture_output=True, text=True,
		                   timeout=40)
		tap.ok(other["op"] == "granted" and p.returncode == 1 and says in p.stderr and secret not in p.stderr, sentence, other["op"], p)
	keeper.close()

	code, out, err = run(GODWIT, "up", "--launcher", "fork", "--hosts", "a:1,b:1", "--name", OTHER)
	both = json.loads(run(GODWIT, "pools", "--json")[1])
	tap.ok(code == 0 and {NAME, OTHER} <= {p["name"] for p in both}, "another pool of the same user, whose hosts are called so, too", code, err, both)
	code, out, err = run(MPIRUN, "-pool", OTHER, "-n", "2", "echo", "there")
	tap.ok(code == 0 and out == "there\nthere\n", "serves", code, out, err)
	code, out, err = run(GODWIT, "down", OTHER)
	tap.ok(code == 0 and not keepers(OTHER) and len(keepers()) == 3, "and goes alone", code, err, keepers(OTHER), keepers())

	sentence = "another user is not heard"
	if os.geteuid() != 0:
		tap.skip(sentence, "there is another user for root only")
		return
	p = subprocess.run(["setpriv", "--reuid=52053", "--regid=52053", "--clear-groups", "--", "/usr/bin/python3", "-c", STRANGER,
	                    "godwit/0/pool/%s@c" % NAME], capture_output=True, text=True, timeout=60)
	tap.ok(p.stdout == "heard 0\n" or "reset" in p.stdout, sentence, p)


def main():
	code, out, err = run(GODWIT, "up", "--launcher", "fork", "--hosts", "a:2,b:2,c:2", "--name", NAME)
	tap.ok(code == 0 and "a:2, b:2, c:2 (6 slots)" in out and not err, "a pool of three hosts comes up", code, out, err)
	tap.ok(sorted(keepers()) == ["a", "b", "c"], "a keeper for each host stays", keepers())
	code, out, err = run(GODWIT, "up", "--launcher", "fork", "--hosts", "a", "--name", NAME)
	tap.ok(code == 1 and "there is a pool" in err and err.count("\n") == 1, "the name of a pool is taken", code, err)

	jobs = [subprocess.Popen([MPIRUN, "-pool", "%s@%s" % (NAME, h), "-n", "2", "-l", "echo", "of", h], stdout=subprocess.PIPE,
	                         stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) for h in "abc"]
	ends = [j.communicate(timeout=90) + (j.returncode,) for j in jobs]
	tap.ok([(sorted(o.split("\n")[:-1]), e, c) for o, e, c in ends] == [(["[0] of " + h, "[1] of " + h], "", 0) for h in "abc"],
	       "three jobs at once fill it", *ends)
	code, out, err = run(MPIRUN, "-pool", NAME, "-n", "7", "true")
	tap.ok(code == 1 and "needs 7 slots, and the pool has 6" in err and err.count("\n") == 1, "a job that is too large is told so", err)

	godwit.wait_for(lambda: not status("c")["jobs"], 20, 0.1)
	j = begin("c", 4)
	code, out, err = run(MPIRUN, "-pool", NAME, "-n", "3", "true")
	tap.ok(code == 1 and "needs 3 slots, and of the pool's 6 only 2 are free" in err, "so is one when others have the slots", err)
	s = status("c")
	other = [m["host"] for m in s["members"] if m["id"] not in {p["member"] for p in s["jobs"][0]["parts"]}]
	tap.ok(other == ["c"] and s["jobs"][0]["ranks"] == 4, "godwit pools tells where ranks are", s)

	# a job gets a host more of the pool, and gives one back
	number = "%08x" % s["jobs"][0]["job"]
	code, out, err = run(GODWIT, "add", "c", "--job", number)
	s = status("c")
	tap.ok(code == 0 and sorted(p["slots"] for p in s["jobs"][0]["parts"]) == [1, 2, 2], "a job gets one more host, and a slot there",
	       code, out, err, s)
	code, out, err = run(GODWIT, "migrate", "0", "--to", "c", "--job", number)
	tap.ok(code == 0, "where a rank can be moved", code, out, err)
	code, out, err = run(GODWIT, "add", "c", "--job", number)
	tap.ok(code == 1 and "has host c of its pool already" in err and err.count("\n") == 1, "a host that it has already is refused", code, err)
	code, out, err = run(GODWIT, "up", "--add", "--launcher", "fork", "--hosts", "e,b:2", "--name", NAME)
	tap.ok(code == 1 and err == "godwit: host b is in pool '%s' already; nothing was added\n" % NAME and sorted(keepers()) == ["a", "b", "c"],
	       "so is one that comes to the pool a second time", code, err, keepers())
	seen = godwit.wait_for(lambda: (lambda s: places(s, number) == {"a": (1, 0), "b": (1, 0), "c": (1, 1)} and s)(status("c")), 20, 0.1)
	code, out, err = run(GODWIT, "status", "--pool", "%s@c" % NAME)
	tap.ok(seen and code == 0 and "ranks on a: 0, b: 0, c: 1" in out and re.search(r"^a .*\b2 +2 +1 +0  leader$", out, re.M),
	       "godwit status --pool tells of hosts, clusters, ranks and who leads", code, out, err, seen or status("c"))
	code, again, err = run(GODWIT, "status", "--json", "--pool=%s@c" % NAME)
	tap.ok(code == 0 and json.loads(again)[0]["jobs"] == seen["jobs"], "and as JSON", code, again, err)
	code, out, err = run(GODWIT, "add", "z", "--job", number)
	tap.ok(code == 1 and "host z: it is not in the pool" in err, "a host that is not in the pool is refused", code, err)
	code, out, err = run(MPIRUN, "-pool", NAME, "-n", "2", "true")
	tap.ok(code == 1 and "of the pool's 6 only 1 are free" in err, "others do not get the slot", err)
	code, out, err = run(GODWIT, "remove", "c", "--job", number)
	tap.ok(code == 0 and len(status("c")["jobs"][0]["parts"]) == 2, "it comes back when the host is removed from the job", code, out, err,
	       status("c"))

	isolation(number)
	tap.ok(j.is_running(), "the job did not notice", *j.tail())

	# the leader's keeper dies: it has ranks here, the job ends; a job without any there goes on
	j.kill()
	godwit.wait_for(lambda: not status("c")["jobs"], 20, 0.1)
	first = begin("c", 2)   # on a, which leads
	second = begin("c", 2, "-pin", "all")  # on b
	os.kill(keepers()["a"], signal.SIGKILL)
	tap.ok(first.end(40) == 1 and any("host a" in l for l in first.out("err")), "the leader's keeper dies: a job with ranks there ends",
	       *first.tail())
	s = settled("c", ["b", "c"])
	tap.ok(s and leader_of(s) == "b", "the next keeper leads, and knows the rest", s)
	tap.ok(s and [[p["slots"] for p in job["parts"]] for job in s["jobs"]] == [[2]], "and the job that goes on, with its slots", s)
	code, out, err = run(MPIRUN, "-pool", NAME + "@c", "-n", "3", "true")
	tap.ok(code == 1 and "of the pool's 4 only 2 are free" in err, "it does not give them away", err)
	code, out, err = run(MPIRUN, "-pool", NAME + "@b", "-n", "2", "echo", "served")
	tap.ok(code == 0 and out == "served\nserved\n", "it serves", code, out, err)
	tap.ok(second.is_running(), "the other job did not notice")

	# a host comes, and the leader's host leaves
	code, out, err = run(GODWIT, "up", "--add", "--launcher", "fork", "--hosts", "d:3", "--name", NAME)
	tap.ok(code == 0 and settled("c", ["b", "c", "d"]), "a host is added", code, out, err, status("c"))
	code, out, err = run(GODWIT, "leave", "b", "--pool", NAME)
	s = godwit.wait_for(lambda: (lambda s: s["members"] and leader_of(s) != "b" and s)(status("c")), 40, 0.1)
	tap.ok(code == 0 and s and [m["leaving"] for m in s["members"] if m["host"] == "b"] == [True],
	       "a leader that is to leave hands over, and stays while a job has ranks there", code, err, s)
	s = godwit.wait_for(lambda: (lambda s: any("rank 0: it is pinned" in j["note"] for j in s["jobs"]) and s)(status("c")), 40, 0.1)
	tap.ok(s, "one that is pinned; why is told", s or status("c"))
	code, out, err = run(GODWIT, "leave", "b", "--pool", NAME, "--timeout", "1")
	tap.ok(code == 1 and "host b is still in the pool after 1 s" in err and "rank 0: it is pinned" in err, "to who waits, too", code, err)
	waits = subprocess.Popen([GODWIT, "leave", "b", "--wait", "--pool", NAME], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
	tap.ok("rank 0: it is pinned" in waits.stderr.readline() and waits.poll() is None, "godwit leave --wait waits")
	second.proc.stdin.close()
	tap.ok(second.end(40) == 0 and len([l for l in second.out() if l == "went on"]) == 2, "the job ends well", *second.tail())
	s = settled("c", ["c", "d"])
	tap.ok(s and godwit.wait_for(lambda: "b" not in keepers(), 20), "then its keeper ends", s, keepers())
	err = waits.communicate(timeout=40)[1]
	tap.ok(waits.returncode == 0, "and who waits has the answer", waits.returncode, err)

	# a job that was written down goes on in the pool, under its number
	third = begin("c", 4, "-s", "all")
	number = "%08x" % status("c")["jobs"][0]["job"]
	with tempfile.TemporaryDirectory(prefix="godwit-pool-") as cut:
		code, out, err = run(GODWIT, "checkpoint", cut, "--stop", "--job", number)
		tap.ok(code == 0 and third.end(40) == 75, "a job of the pool is written down, and ends", code, out, err, *third.tail())
		third = godwit.Job(tap, ["-pool", "%s@c" % NAME, "-restart", cut], stdin=True)
		s = godwit.wait_for(lambda: (lambda s: places(s, number) == {"c": (1, 2), "d": (1, 2)} and s)(status("c")), 40, 0.1)
		tap.ok(s, "it goes on in the pool, with the number that it had", s or status("c"), *third.tail())
		third.proc.stdin.write(b"on\n")
		third.proc.stdin.close()
		tap.ok(third.end(40) == 0 and len([l for l in third.out() if l == "went on"]) == 4, "from where it was", *third.tail())

	third = begin("c", 4)
	code, out, err = run(GODWIT, "down", NAME)
	tap.ok(code == 0 and not err, "down", code, err)
	tap.ok(third.end(40) == 1 and any("taken down; ending the job" in l for l in third.out("err")), "a job in it ends with a sentence",
	       *third.tail())
	tap.ok(godwit.wait_for(lambda: not keepers(), 20) and not third.gone(), "and nothing is left", keepers(), third.processes())
	code, out, err = run(MPIRUN, "-pool", NAME, "-n", "1", "true")
	tap.ok(code == 1 and "no pool" in err and err.count("\n") == 1, "a pool that is not there", code, err)
	code, out, err = run(GODWIT, "up", "--launcher", "/nonexistent/ssh %h %c", "--hosts", "nohost1,nohost2", "--name", NAME)
	tap.ok(code == 1 and "nohost" in err and "/nonexistent/ssh" in err and not keepers(), "hosts that cannot be reached", code, err)
	return tap.done()


if __name__ == "__main__":
	try:
		code = main()
	finally:
		for pid in list(keepers().values()) + list(keepers(OTHER).values()):
			os.kill(pid, signal.SIGKILL)
	sys.exit(code)
