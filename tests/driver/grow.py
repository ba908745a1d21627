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


def start(*words, ranks=4, lines=r"^ready", count=None, **more):
	"""A job whose ranks have said that they run; its head; the file that ends them."""
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-n", ranks] + list(words) + [CONDUCT, "carry", 1, stop], **more)
	if not job.wait_line(lines, 40, "out", ranks):
		tap.bail("the job does not start")
	return job, job.head(), stop


def finish(job, stop, sentence, ranks=4):
	open(stop, "w").close()
	status = job.end(60)
	tap.ok(status == 0 and len([l for l in job.out() if l.startswith("carried")]) == ranks and not job.gone(), sentence,
	       "status %s" % status, job.gone(), *job.tail())


def states(head):
	return [c["state"] for c in head.status()["clusters"]]


def places(head):
	return [r["cluster"] for r in sorted(head.status()["ranks"], key=lambda r: r["rank"])]


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
finish(job, stop, "the job ends well")

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
	finish(job, stop, "the job ends well")

sys.exit(tap.done())
