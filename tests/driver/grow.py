#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Clusters and hosts come to a running job, are emptied, and leave it: on this machine, which also plays several hosts.

Hosts that are reached by a launcher and come back by TCP are played too: 127.0.0.2 and its like are not this machine's name,
and the launcher is a shell. So every process of a real host is there: launcher, daemon, listeners.
"""
from godwit import *

tap = Tap(280)
work = work_dir("grow")
JACOBI = os.path.join(BUILD, "examples/jacobi")
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
SHELL = "sh -c %c %h"


def start(*words, ranks=4, **more):
	"""A job whose ranks have said that they run; its head; the file that ends them."""
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-n", ranks] + list(words) + [CONDUCT, "carry", 1, stop], **more)
	if not job.wait_line("^ready", 40, "out", ranks):
		tap.bail("the job does not start")
	return job, job.head(), stop


def states(head):
	return [c["state"] for c in head.status()["clusters"]]


def places(head):
	return [r["cluster"] for r in sorted(head.status()["ranks"], key=lambda r: r["rank"])]


def daemons(job):
	return list(job.processes().values()).count("godwitd")


# ---- clusters of this host --------------------------------------------------------------------------------------------

job, head, stop = start("-clusters", 2)
m = head.add("localhost", 2)
tap.ok(m["status"] == 0 and m["clusters"] == [2, 3], "two clusters come to a host that has two", m, *job.tail())
tap.ok(states(head) == ["up"] * 4 and all(c["host"] == 0 for c in head.status()["clusters"]), "and are up", head.status()["clusters"])
answers = head.migrate([0, 1], 2) + head.migrate([2], 3)
tap.ok(all(m["status"] == 0 for m in answers) and places(head) == [2, 2, 3, 1], "ranks move there", answers)
m = head.drain(2)
tap.ok(m["status"] == 0 and m["moved"] == 2 and 2 not in places(head), "one of them is drained", m, places(head))
tap.ok(places(head) == [0, 0, 3, 1] or len(head.clusters()[0]["cores"]) == 0, "its ranks go where the fewest share the processors",
       head.status())
m = head.migrate([3], 2)[0]
tap.ok(m["status"] < 0 and "cluster 2 is drained" in m["text"], "a move there is refused", m)
m = head.undrain(2)
tap.ok(m["op"] == "undrained" and head.migrate([3], 2)[0]["status"] == 0, "until it is undrained", m)
pids = {c: x["pid"] for c, x in head.clusters().items()}
m = head.remove(0, 2)
tap.ok(m["status"] == 0 and states(head) == ["left", "up", "left", "up"], "the first and another one leave", m, states(head))
tap.ok(proc_stat(pids[0]) is None and proc_stat(pids[2]) is None, "their daemons are gone")
m = head.migrate([0], 0)[0]
tap.ok(m["status"] < 0 and "cluster 0 is not up" in m["text"], "no rank moves there", m)
m = head.remove(0)
tap.ok(m["status"] < 0 and "cluster 0 has left the job" in m["text"], "they do not leave twice", m)
m = head.remove("localhost")
tap.ok(m["status"] < 0 and "no other cluster" in m["text"], "all that are left cannot leave", m)
m = head.remove(1)
tap.ok(m["status"] == 0 and set(places(head)) == {3}, "all ranks on one cluster", m)
m = head.remove(3)
tap.ok(m["status"] < 0 and "no other cluster" in m["text"], "which is the last and stays", m)
m = head.add("localhost")
tap.ok(m["status"] == 0 and m["clusters"] == [4] and head.remove(3)["status"] == 0 and set(places(head)) == {4},
       "a number is not used again; all have moved off every cluster of the start", m, places(head))
tap.ok(not [l for l in job.out("err")], "and nobody had to say anything", *job.out("err"))
end_carry(job, stop, "the job ends well")

# ---- a second host, which this machine plays: the job gets a network ------------------------------------------------------

for launcher, name in (("fork", "two"), (SHELL, "127.0.0.2")):
	job, head, stop = start("-clusters", 2)
	m = head.add(name, 2, launcher)
	tap.ok(m["status"] == 0 and states(head) == ["up"] * 4 and [c["host"] for c in head.status()["clusters"]] == [0, 0, 1, 1],
	       "a host comes to a job of one host (%s)" % launcher, m, *job.tail())
	answers = head.migrate([0], 2) + head.migrate([2], 3) + head.migrate([3], 2)
	tap.ok(all(m["status"] == 0 for m in answers), "ranks move there", *answers)
	m = head.add(name, 1, launcher)
	tap.ok(m["status"] == 0 and head.clusters()[4]["host"] == 1, "it gets one cluster more", m, head.status()["clusters"], *job.tail())
	answers = head.migrate([1], 4) + head.migrate([0], 4)
	tap.ok(all(m["status"] == 0 for m in answers), "where ranks can live, too", *answers)
	m = head.remove(0, 1)
	tap.ok(m["status"] == 0, "the host where mpirun runs leaves", m, *job.tail())
	m = head.remove(2)
	tap.ok(m["status"] == 0, "the first cluster of the other one, too", m, *job.tail())
	pids = head.clusters()
	m = head.add("localhost", launcher="ssh")
	tap.ok(m["status"] == 0 and head.clusters()[5]["host"] == 2, "the first host comes again, as another one", m, *job.tail())
	m = head.remove(name)
	tap.ok(m["status"] == 0 and set(places(head)) == {5}, "and has them all again", m, places(head), *job.tail())
	names = sorted(job.processes().values())
	tap.ok(names.count("godwitd") == 1 and "sh" not in names, "with one daemon, and nothing else of the runtime", names)
	end_carry(job, stop, "the job ends well")

# ---- hosts of which somebody says that they go away -------------------------------------------------------------------------

away = os.path.join(work, "away")
os.mkfifo(away)
for file, text in ((away, "is no ordinary file"), ("", "needs the name of a file")):
	p = subprocess.run([os.path.join(BUILD, "mpirun"), "-drain-file", file, "-n", "1", "true"], capture_output=True, text=True, timeout=60)
	tap.ok(p.returncode != 0 and text in p.stderr, "a drain file that mpirun would wait in, or that has no name, is refused: it %s" % text, p.returncode, p.stderr)
os.unlink(away)
job, head, stop = start("-launcher", "fork", "-hosts", "a:2,b:2", "-drain-file", away)


def name_hosts(text):
	with open(away + ".new", "w") as f:
		f.write(text)
	os.rename(away + ".new", away)


name_hosts("elsewhere\nb 20s # a spot instance\n")
tap.ok(job.wait_line("^mpirun: host b: empty, 2 ranks moved away$", 20, "err") and set(places(head)) == {0} and head.clusters()[1]["drained"],
       "a host that the drain file names is emptied", places(head), *job.tail())
os.unlink(away)
tap.ok(job.wait_line("^mpirun: host b: the drain file names it no more", 20, "err") and not head.clusters()[1]["drained"],
       "one that it names no more is undrained", *job.tail())
os.kill(head.clusters()[0]["pid"], signal.SIGPWR)
tap.ok(job.wait_line("^mpirun: host a: empty, 4 ranks moved away$", 20, "err") and set(places(head)) == {1},
       "so is a host whose daemon gets SIGPWR", places(head), *job.tail())
name_hosts("a\nb\n")
tap.ok(job.wait_line("^mpirun: host b: the drain file names it, but cannot be emptied: no other cluster", 20, "err") and set(places(head)) == {1} and
       not head.clusters()[1]["drained"], "that nobody else has room is said, and nothing moves", places(head), *job.tail())
m = head.add("c", 1, "fork")
tap.ok(m["status"] == 0 and job.wait_line("^mpirun: host b: empty, 4 ranks moved away$", 20, "err") and set(places(head)) == {2},
       "until somebody has", m, places(head), *job.tail())
end_carry(job, stop, "the job ends well")

# ---- what holds ranks ---------------------------------------------------------------------------------------------------

job, head, stop = start("-clusters", 2, "-pin", "0")
m = head.drain(0)
tap.ok(m["status"] < 0 and [s["rank"] for s in m["stuck"]] == [0] and "pinned" in m["stuck"][0]["text"] and places(head) == [0, 1, 1, 1],
       "a pinned rank is named and stays; the others go", m, places(head))
m = head.remove(0)
tap.ok(m["status"] < 0 and states(head) == ["up", "up"] and head.clusters()[0]["drained"], "its cluster does not leave, but is drained",
       m, head.status()["clusters"])
tap.ok("no other cluster" in head.drain(1)["text"], "so the other one cannot be drained")
head.send({"op": "pin", "ranks": [0], "pinned": False})
head.receive()
other = job.head()
both = []
threads = [threading.Thread(target=lambda h=h: both.append(h.remove(0))) for h in (head, other)]
[t.start() for t in threads]
[t.join() for t in threads]
tap.ok([b["status"] for b in both] == [0, 0] and states(head) == ["left", "up"], "two remove it at once, when it is let go", both)
tap.ok(head.add("localhost")["status"] == 0, "another one comes")
both = []
threads = [threading.Thread(target=lambda h=h, c=c: both.append(h.remove(c))) for h, c in ((head, 1), (other, 2))]
[t.start() for t in threads]
[t.join() for t in threads]
tap.ok(sorted(b["status"] for b in both) == [-1, 0] and states(head).count("up") == 1, "of two that are removed at once one stays", both)
end_carry(job, stop, "the job ends well")

# ---- faults -----------------------------------------------------------------------------------------------------------

job, head, stop = start("-clusters", 2, env={"GODWIT_FAULT": "rt.network.listen=fail"})
m = head.add("127.0.0.2", launcher=SHELL)
tap.ok(m["status"] < 0 and "cannot take up a network" in m["text"] and states(head) == ["up", "up", "lost"],
       "a daemon cannot listen: no second host", m, states(head))
tap.ok(wait_for(lambda: daemons(job) == 2), "what was started there has ended", job.processes())
m = head.add("127.0.0.2", launcher=SHELL)
tap.ok(m["status"] == 0 and m["clusters"] == [3] and head.migrate([0], 3)[0]["status"] == 0, "another time it can", m, *job.tail())
end_carry(job, stop, "the job ends well")
job, head, stop = start("-clusters", 2)
for n, (what, launcher, says) in enumerate((
	("a daemon that dies before it says that it is up", "env GODWIT_FAULT=rt.join.start=kill " + SHELL, "has ended while it joined"),
	("a launcher that fails", "false %h", "could not be started: 'false %h' exited with status 1"),
	("a launcher that is not there", "/nonexistent/launcher %h", "No such file"),
	("a launcher without a place for the host", "ssh -x", "is no launcher"),
	("a name that is none", None, "is not the name of a host"))):
	m = head.add("127.0.0.%d" % (n + 10) if launcher else "-x", launcher=launcher)
	tap.ok(m["status"] < 0 and says in m["text"] and "up" in states(head), what + ": " + m["text"], m, states(head))
home = head.add("127.0.0.3", launcher=SHELL)["clusters"][0]
m = head.add("127.0.0.4", 2, "env GODWIT_FAULT=mig.dst.prepared=kill " + SHELL)
lost = m["clusters"][0]
m = head.drain(0, 1)
tap.ok(m["status"] == 0 and "lost" in states(head)[lost:] and set(places(head)) == {home},
       "destinations that die: the ranks go elsewhere", m, states(head), places(head))
m = head.add("127.0.0.5", 1, "env GODWIT_FAULT=rt.leave.idle=kill " + SHELL)
last = m["clusters"][0]
m = head.remove(last)
tap.ok(m["status"] == 0 and states(head)[last] == "lost" and job.wait_line("no rank lived there, the job goes on", 5, "err"),
       "a daemon that dies when it leaves is lost, and no loss", m, states(head))
tap.ok(wait_for(lambda: daemons(job) == 3), "nothing is left of all these", job.processes())
end_carry(job, stop, "the job ends well")

# ---- two at once, one of which does not come ----------------------------------------------------------------------------

gate, fifo = os.path.join(work, "gate"), os.path.join(work, "fifo")
os.mkfifo(fifo)
with open(gate, "w") as f:
	f.write('#!/bin/sh\nread x < %s\nexec sh -c "$1"\n' % fifo)
os.chmod(gate, 0o755)
job, head, stop = start("-clusters", 1, ranks=2)
other, came = job.head(), []
thread = threading.Thread(target=lambda: came.append(other.add("127.0.0.2", launcher=gate + " %c %h")))
thread.start()
wait_for(lambda: len(states(head)) == 2)
m = head.add("127.0.0.3", launcher="false %h")
with open(fifo, "w") as f:
	f.write("\n")
thread.join()
tap.ok(m["status"] < 0 and came[0]["status"] == 0 and [c["host"] for c in head.status()["clusters"]] == [0, 1, 2],
       "two hosts at once, one of which does not come", m, came)
tap.ok(all(a["status"] == 0 for a in head.migrate([0], 1) + head.migrate([1], 1) + head.migrate([0], 0)), "ranks move to the other",
       places(head))
end_carry(job, stop, "the job ends well", ranks=2)

# ---- moves into what leaves -------------------------------------------------------------------------------------------

job, head, stop = start("-clusters", 4, ranks=2)
mover, answers = job.head(), []


def move_there():
	while states(mover)[2] == "up":
		answers.extend(mover.migrate([1], 2) + mover.migrate([1], 3))


thread = threading.Thread(target=move_there)
thread.start()
wait_for(lambda: [m for m in answers if m["status"] == 0 and m["to"] == 2])
m = head.remove(2)
thread.join()
known = ("is drained", "is being drained", "is not up", "already", "does not live")
wrong = [x["text"] for x in answers if x["status"] < 0 and not any(k in x["text"] for k in known)]
tap.ok(m["status"] == 0 and not wrong and 2 not in places(head), "moves to a cluster that is removed meanwhile end or are refused", m,
       wrong, places(head))
end_carry(job, stop, "the job ends well", ranks=2)

# ---- streams ------------------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 2, "-clusters", 2, "-l", "sh", "-c", "echo up; exec cat"], stdin=True)
job.wait_line("up", 30, "out", 2)
head = job.head()
m = [head.add("two", launcher="fork"), head.remove("localhost")]
job.proc.stdin.write(b"a line\n")
job.proc.stdin.flush()
tap.ok([x["status"] for x in m] == [0, 0] and job.wait_line(r"^\[0\] a line$", 20, "out"), "streams go on where their rank has gone; one that has ended does not matter", m,
       *job.tail())
job.proc.stdin.close()
tap.ok(job.end() == 0 and not job.gone(), "to their end")

# ---- ends while a host comes ----------------------------------------------------------------------------------------------

slow = os.path.join(work, "slow")
with open(slow, "w") as f:
	f.write("#!/bin/sh\necho $$ > %s.pid\nexec sleep 600\n" % slow)
os.chmod(slow, 0o755)
for what in ("ends", "is killed"):
	job, head, stop = start("-clusters", 2, ranks=2)
	head.send({"op": "add", "hosts": [{"name": "127.0.0.2", "clusters": 1}], "launcher": slow + " %h"})
	wait_for(lambda: os.path.exists(slow + ".pid"))
	os.unlink(slow + ".pid")
	if what == "ends":
		end_carry(job, stop, "a job that ends while a host is on its way leaves nothing behind", ranks=2)
	else:
		job.proc.kill()
		job.wait(20)
		tap.ok(not job.gone(), "nor does one whose mpirun is killed", job.processes())

sys.exit(tap.done())
