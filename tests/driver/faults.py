#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Every named fault of a move: either daemon is killed, or the step fails, or the connection is cut, at that edge.

Two ranks live on clusters 0 and 1 of three; rank 1 is moved to the empty cluster 2 while it exchanges messages with
rank 0, by one technique or, with --every, by each that reaches the edge. Whatever happens, within the deadline there is one running copy of it or none: none only when the job has ended,
with a message and a status that is not zero. Before GIVEN only the death of its own daemon can end it. Where the job
goes on and there is a cluster to go to, rank 1 is moved once more, to show that nothing is stuck.
"""
import argparse, glob

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--only", default="", help="names that contain this")
p.add_argument("--actions", default="kill,cut,fail")
p.add_argument("--technique", help="only this one")
p.add_argument("--every", action="store_true", help="each edge by every technique, not by one of them")
p.add_argument("--hosts", action="store_true", help="each cluster is a host of its own, played by this machine")
p.add_argument("--deadline", type=int, default=560)
a = p.parse_args()

SRC = os.environ.get("top_srcdir", os.getcwd())
names = set()
for path in glob.glob(SRC + "/migration/*.c") + glob.glob(SRC + "/container/*.c") + glob.glob(SRC + "/runtime/clusterd/*.c"):
	if os.path.basename(path).startswith("test_"):
		continue
	with open(path) as f:
		names.update(re.findall(r'"((?:mig|ct|rt)\.[a-z_]+\.[a-z_]+)"', f.read()))
names = sorted(n for n in names if a.only in n)
tap = Tap(a.deadline)
techniques = [t for t in can_move() if t == (a.technique or t)]
work = work_dir("faults")
conduct = os.path.join(BUILD, "tests/programs/conduct")
documented = ""
if os.path.exists(SRC + "/doc/faults.md"):
	with open(SRC + "/doc/faults.md") as f:
		documented = f.read()
tap.ok(names and all(n in documented for n in names), "all %d named faults of a move are in doc/faults.md" % len(names),
       "missing: %s" % [n for n in names if n not in documented])


def copies(job):
	"""Running copies of rank 1: marked processes whose process number is 1 and that nobody holds stopped."""
	found = []
	for pid, name in job.processes().items():
		try:
			with open("/proc/%d/environ" % pid, "rb") as f:
				is_one = b"GODWIT_PROC=1" in f.read().split(b"\0")
		except OSError:
			continue
		stat = proc_stat(pid)
		if is_one and name == "conduct" and stat and stat[0] not in "tTZX":
			found.append(pid)
	return found


def one(name, action, technique):
	stop, events = os.path.join(work, "stop"), os.path.join(work, "events")
	for path in (stop, events):
		if os.path.exists(path):
			os.unlink(path)
	fault = "%s=%s" % (name, action)
	what = "%s, %s" % (fault, technique)
	places = ["-hosts", "a,b,c", "-launcher", "fork"] if a.hosts else ["-clusters", 3]
	job = Job(tap, ["-n", 2] + places + [conduct, "carry", 2, stop], env={"GODWIT_FAULT": fault}, events=events)
	if not job.wait_line(r"^ready", 30, "out", 2):
		tap.ok(False, "%s: the job starts" % what, *job.tail())
		job.kill()
		return
	head = job.head(40)
	head.wait_up()
	before = head.status()
	home = {r["rank"]: r for r in before["ranks"]}[1]
	daemons = {c["cluster"]: c["pid"] for c in before["clusters"]}
	try:
		m = head.migrate([1], 2, technique=technique, **WITH.get(name, {}))[0]
	except (EOFError, OSError) as e:
		m = {"status": None, "text": "no answer: %r" % e}
	said = []
	if os.path.exists(events):
		with open(events) as f:
			said = [json.loads(l)["event"] for l in f if l.endswith("\n")]
	given = "mig.given" in said
	# the job's head decides within its own deadlines whether the job can go on
	# it has moved, and ends the job then: it does not attach, or what it lacks will not come
	is_end = (name.startswith("ct.agent.") and action != "fail") or (name in LATE and name != "mig.dst.fetched" and action != "cut")
	if m["status"] is None or (m["status"] < 0 and action == "kill") or is_end:
		job.wait(30 if is_end else 3)
	reached = job.wait_line("fault %s$" % re.escape(fault.split(",")[0]), 5, "err")
	details = ["reached: %s" % bool(reached), "answer: %s %s" % (m["status"], m["text"]), "events: %s" % said] + job.tail(8)
	if not job.is_running():
		status = job.wait(1)
		details.append("status %s" % status)
		left = job.gone()
		message = [l for l in job.out("err") if l.startswith("mpirun")]
		own = action == "kill" and proc_stat(daemons[home["cluster"]]) is None
		tap.ok(reached and status not in (0, None) and message and "rank 1" in message[0] and not left and (given or (action == "kill" and own)),
		       "%s: the job ends with status %s: %s" % (what, status, message[0] if message else "(no message)"),
		       "left: %s" % left, "given: %s" % given, *details)
		return
	try:
		head.close()
		head = job.head(40)
		after = head.ranks()[1]
		# what a killed daemon held stopped is killed with it, and counts as running until it has got that far
		wait_for(lambda: len(copies(job)) == 1, 10)
		alive = copies(job)
		# "moving" is allowed only as long as the deadline of a session: awaited by asking for another move
		again = 0 if after["cluster"] != 0 else 1
		# where a destination dies of it, each destination would: then it is enough that the rank goes on
		second = head.migrate([1], again)[0] if (proc_stat(daemons[2]) or "Z")[0] not in "TZ" else {"status": 0}
		end = time.monotonic() + 20
		while second["status"] != 0 and time.monotonic() < end and job.is_running():  # the first one may still settle
			threading.Event().wait(0.2)
			second = head.migrate([1], again)[0]
	except (EOFError, OSError, KeyError, RuntimeError) as e:
		after, alive, second = {}, copies(job), {"status": None, "text": repr(e)}
	open(stop, "w").close()
	status = job.wait(40)
	if status is None:
		details += ["it hangs"] + ["%s %s" % (pid, n) for pid, n in job.processes().items()]
		job.kill()
	left = job.gone()
	where = "went on at its source" if after.get("cluster") == home["cluster"] else "arrived"
	tap.ok(reached and status == 0 and len(alive) == 1 and second["status"] == 0 and not left and
	       len([l for l in job.out() if l.startswith("carried")]) == 2,
	       "%s: rank 1 %s%s%s, and ends well" % (what, where, "" if m["status"] == 0 else " (%s)" % m["text"],
	       ", moves again" if "measures" in second else ""),
	       "status %s, copies %s, after %s, second %s, left %s" % (status, alive, after, second, left), *details)


turn = 0
for name in (n for n in names if not n.startswith("rt.")):  # those are grow.py's and checkpoint.py's
	ways = [t for t in techniques if t in ONLY.get(name, techniques)]
	if not ways:
		tap.skip(name, "nothing here moves by %s" % " or ".join(ONLY.get(name, [a.technique or "any technique"])))
	for action in a.actions.split(",") if ways else []:
		if action == "kill" or not name.startswith("ct."):  # ct. edges cannot fail by themselves
			for technique in ways if a.every else [ways[turn % len(ways)]]:
				one(name, action, technique)
			turn += 1
if a.only in "ct.agent.attach":
	one("ct.agent.attach", "fail", techniques[0])
	one("ct.agent.attach", ",".join(["fail"] + ["ct.agent.attach=fail"] * 7), techniques[0])
sys.exit(tap.done())
