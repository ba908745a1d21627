#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Jobs that are continued from a checkpoint: elsewhere, on another number of clusters, with the answer of a run without an end.

With --storm: fifty checkpoints in a row while random ranks move and all kinds of messages are under way, then on from the last; and
one storm with many lives.
"""
import argparse, ctypes, fcntl, random

import rig, rig_mpi
from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--storm", type=int, default=0, help="so many checkpoints in a row, and nothing else")
p.add_argument("--lives", type=int, default=0, help="with --storm: so often is one storm killed, and continued, where chance wants it")
p.add_argument("--everywhere", action="store_true", help="also to a few more numbers of clusters and hosts")
p.add_argument("--brief", action="store_true", help="one life after the other, streams, and refusals of a second one only")
p.add_argument("--seed", type=int, default=int(os.environ.get("STORM_SEED", time.time_ns() // 1000 % 10**9)))
a = p.parse_args()

tap = Tap(3000 if a.storm else 280)
work = work_dir("restart")
GODWIT = os.path.join(BUILD, "godwit")
JACOBI = os.path.join(BUILD, "examples/jacobi")
STORM = os.path.join(BUILD, "tests/storm/storm")
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
HOSTS = ["-launcher", "fork", "-hosts"]
shm_before = shm_entries()


def new_path():
	return os.path.join(work, uuid.uuid4().hex)


def checkpoint(job, to, **more):
	os.makedirs(to, exist_ok=True)
	if not job.wait_head(5):  # the kernel's list of sockets may miss one while others come and go
		tap.diag("status %s" % job.proc.poll())
		for line in job.tail():
			tap.diag(line)
		tap.bail("the job ends before it is written down")
	head = job.head()
	head.send(dict(more, op="checkpoint", dir=to))
	answer = head.receive()
	head.close()
	return answer


def kill(job):
	"""mpirun and its daemons, by kill -9; if the job is still there."""
	try:
		daemons = [c["pid"] for c in job.head().clusters().values()]
	except (RuntimeError, OSError, EOFError):
		return job.end(30)
	for pid in [job.proc.pid] + daemons:
		try:
			os.kill(pid, signal.SIGKILL)
		except OSError:
			pass
	status = job.end(30)
	if job.gone():
		tap.bail("ranks outlive mpirun and their daemons: %s" % job.gone())
	return status


def restart(path, *words, **more):
	return Job(tap, [path] + list(words), launcher=[GODWIT, "restart"], **more)


def refused(path, *words, **more):
	"""What is said by a restart that must not begin; it leaves nothing."""
	job = restart(path, *words, **more)
	status = job.end(60)
	return status, job.out("err"), not job.out() and not job.gone()


def running(job, ranks=8, state="MPI"):
	"""All ranks have gone on; False when the job ends before."""
	def look():
		try:
			return [x["state"] for x in job.head().status()["ranks"]] == [state] * ranks
		except (RuntimeError, OSError, EOFError):
			return not job.is_running()
	return bool(wait_for(look, 60)) and job.is_running()


def storm(places, *more):
	return Job(tap, ["-n", 8] + places + [STORM, "--seed", a.seed, "--compute-ms", 50] + list(more))


def storm_answer(job):
	return [fields(l).get("checksum") for l in job.out() if l.startswith("STORM OK")]


def many_lives():
	"""A storm that is killed again and again, at any moment after a checkpoint, and goes on wherever."""
	rng, stop, to = random.Random(a.seed), new_path(), new_path()
	places = [["-clusters", n] for n in (1, 2, 3, 4)] + [HOSTS + [h] for h in ("a:4,b:4", "a:1,b:6,c:1", "x:5,y:3")]
	job, wrong, where = storm(places[1], "--stop-file", stop), [], []
	job.wait_line("^STORM START", 60)
	for life in range(a.lives):
		mover = Mover(job, 8, len(job.head().clusters()), a.seed + life, pace_ms=20) if len(job.head().clusters()) > 1 else None
		threading.Event().wait(rng.uniform(0, 0.7))  # any moment will do
		is_stopping = rng.random() < 0.3
		for turn in range(rng.choice((1, 1, 2))):
			m = checkpoint(job, to, stop=is_stopping and turn == 0)
			if is_stopping:
				break
		threading.Event().wait(0 if is_stopping else rng.choice((0, rng.uniform(0, 0.5))))
		status = job.end(30) if is_stopping else kill(job)
		if mover:
			mover.finish()
		words = rng.choice(places)
		where.append(" ".join(map(str, words)))
		job = restart(to, *words)
		if m.get("status") != 0 or status != (75 if is_stopping else -9) or not running(job):
			wrong += ["life %d: %s, then status %s; on %s" % (life, m, status, where[-1])] + job.tail()
			break
	open(stop, "w").close()
	status = job.end(120)
	line = [fields(l) for l in job.out() if l.startswith("STORM OK")]
	tap.ok(not wrong and status == 0 and line and not job.gone(), "a storm of %d lives, each somewhere else: every message was right" % a.lives,
	       status, *wrong, *where, *job.tail())
	if line:
		unmoved = storm(["-clusters", 1], "--steps", line[0]["steps"])
		tap.ok(unmoved.end(1200) == 0 and storm_answer(unmoved) == [line[0]["checksum"]], "and its answer that of one (%s steps)" % line[0]["steps"],
		       line, *unmoved.tail())


# ---- a long storm ---------------------------------------------------------------------------------------------------------

if a.storm:
	for what, places, elsewhere in () if a.storm < 2 else (("memory", ["-clusters", 3], HOSTS + ["x:3,y:5"]), ("the network", HOSTS + ["a:4,b:4"], ["-clusters", 4])):
		tap.diag("seed %d, over %s" % (a.seed, what))
		stop, to, answers = new_path(), new_path(), []
		job = storm(places, "--stop-file", stop)
		job.wait_line("^STORM START", 60)
		mover = Mover(job, 8, len(job.head().clusters()), a.seed, pace_ms=20, limit=100000)
		for turn in range(a.storm):
			wanted = len(mover.moves) + 2
			wait_for(lambda: len(mover.moves) >= wanted or not job.is_running(), 60)
			answers.append(checkpoint(job, to))
		mover.finish()
		wrong = [m for m in answers if m.get("status") != 0]
		tap.ok(not wrong and not mover.error, "%d checkpoints in a row over %s while ranks moved (%d moves)" % (a.storm, what, len(mover.moves)),
		       mover.error, *wrong[:5])
		ms = [m["ms"] for m in answers if m.get("status") == 0]
		tap.diag("the job stood for ms: median %.0f, most %.0f" % (median(ms), max(ms)) if ms else "none was written")
		kill(job)
		again = restart(to, *elsewhere)
		tap.ok(running(again), "it goes on from the last, elsewhere", *again.tail())
		open(stop, "w").close()
		status = again.end(240)
		line = [fields(l) for l in again.out() if l.startswith("STORM OK")]
		tap.ok(status == 0 and line and not again.gone(), "every message was right", status, *again.tail())
		if line:
			unmoved = storm(["-clusters", 1], "--steps", line[0]["steps"])
			status = unmoved.end(1200)
			tap.ok(status == 0 and storm_answer(unmoved) == [line[0]["checksum"]], "and its answer that of a run without any of this (%s steps)" %
			       line[0]["steps"], status, line, *unmoved.tail())
	if a.lives:
		many_lives()
	sys.exit(tap.done())

# ---- on fewer, on more, on other hosts ---------------------------------------------------------------------------------------

if not a.brief:
	def plate(iterations):
		return [JACOBI, "--size", 200, "--iterations", iterations, "--report", 100]

	def seconds(job):
		return float(re.search(r"seconds=(\S+)", job.out()[-1]).group(1))

	job = Job(tap, ["-n", 8, "-clusters", 2] + plate(1500))
	job.end(60)
	plate = plate(1500 if seconds(job) > 2 else round(3000 / seconds(job)))  # it must not end before it is written down
	job = Job(tap, ["-n", 8, "-clusters", 2] + plate)
	job.end(60)
	expected = job.out()[-1].split("checksum=")[-1]
	for what, places, elsewhere in (("two clusters", ["-clusters", 2], [["-clusters", 1], HOSTS + ["x:2,y:4,z:2"]] + a.everywhere * [["-clusters", 4]]),
	                                ("two hosts", HOSTS + ["a:4,b:4"], [["-clusters", 3]] + a.everywhere * [HOSTS + ["x:3,y:5"]])):
		to, job = new_path(), Job(tap, ["-n", 8] + places + plate)
		job.wait_line("iteration", 40)
		m = checkpoint(job, to)
		kill(job)
		for words in elsewhere:
			again = restart(to, *words)
			status = again.end(60)
			tap.ok(m.get("status") == 0 and status == 0 and again.out()[-1].split("checksum=")[-1] == expected and len(expected) == 16 and
			       not again.gone(), "a halo exchange on %s, killed, goes on with %s: the same to the last bit" % (what, " ".join(map(str, words))), m, status,
			       expected, *again.tail())

# ---- everything in flight at the cut ------------------------------------------------------------------------------------------

if not a.brief:
	for what, places, elsewhere in (("two clusters", ["-clusters", 2], HOSTS + ["x:3,y:5"]), ("two hosts", HOSTS + ["a:4,b:4"], ["-clusters", 3])):
		stop, to = new_path(), new_path()
		job = storm(places, "--stop-file", stop, "--progress")
		job.wait_line("^STORM step=", 60)
		m = checkpoint(job, to)
		kill(job)
		again = restart(to, *elsewhere)
		is_running = running(again)
		open(stop, "w").close()
		status = again.end(90)
		line = [fields(l) for l in again.out() if l.startswith("STORM OK")]
		unmoved = storm(["-clusters", 2], "--steps", line[0]["steps"] if line else 1)
		tap.ok(m.get("status") == 0 and is_running and status == 0 and unmoved.end(90) == 0 and storm_answer(again) == storm_answer(unmoved) != [] and
		       not again.gone(), "messages, collectives and windows of a storm on %s: every one is right, and so is the answer (seed %d)" % (what, a.seed),
		       m, status, *again.tail())

# ---- one life after the other --------------------------------------------------------------------------------------------------

stop, to = new_path(), new_path()
job = Job(tap, ["-n", 4, "-clusters", 2, CONDUCT, "carry", 2, stop])
job.wait_line("^ready", 40, "out", 4)
id, answers, moves = job.head_name().split("/")[2], [], []
for words in (["-clusters", 3], HOSTS + ["a:2,b:2"], ["-clusters", 2]):
	answers.append(checkpoint(job, to, stop=len(answers) == 1))
	status = job.end(30) if len(answers) == 2 else kill(job)
	answers[-1]["ended"] = status
	job = restart(to, *words)
	if not running(job, 4):
		break
	head = job.head()
	moves += head.migrate([0], 1) + head.migrate([3], 0)
	head.send({"op": "suspend"})
	moves.append(head.receive())
	head.send({"op": "resume"})
	head.receive()
tap.ok([m.get("checkpoint") for m in answers] == [1, 2, 3] and [m["ended"] for m in answers] == [-9, 75, -9] and job.is_running() and
       job.head_name().split("/")[2] == id and all(m["status"] == 0 for m in moves),
       "written down and continued three times, as the same job, whose ranks move and rest in between", answers, moves, *job.tail())

# ---- its card (mpirun -meet), while somebody sweeps that of the mpirun which was killed ------------------------------------------

to_met, cards, own_stop = new_path(), new_path(), new_path()
job_met = Job(tap, ["-meet", cards, "-n", 1, CONDUCT, "carry", 1, own_stop])
job_met.wait_line("^ready", 40)
there = [os.path.join(cards, f) for f in os.listdir(cards)]
m = checkpoint(job_met, to_met)
for pid in [pid for pid, name in job_met.processes().items() if name == "godwit-card"]:
	os.kill(pid, signal.SIGKILL)  # first: it would remove the card
kill(job_met)
if there:
	with open(there[0], "r+") as card:
		fcntl.flock(card, fcntl.LOCK_EX)
		again = restart(to_met, "-meet", cards)
		threading.Event().wait(1)  # long enough for one that does not wait
		os.unlink(there[0])
	is_there = running(again, 1) and os.path.exists(there[0])
	open(own_stop, "w").close()
	tap.ok(m.get("status") == 0 and is_there and again.end(40) == 0 and os.listdir(cards) == [], "a job that goes on has its card, though somebody "
	       "removes the former one just then", m, is_there, *again.tail())
else:
	tap.skip("a job that goes on has its card, though somebody removes the former one just then", "this machine has no address but those of itself")

# ---- never twice ----------------------------------------------------------------------------------------------------------------

status, said, is_clean = refused(to)
tap.ok(status == 1 and len(said) == 1 and "job " + id in said[0] and "must not run twice" in said[0] and is_clean and job.is_running(),
       "a second restart while the job runs is refused", status, *said)
other = new_path()
shutil.copytree(to, other)
status, said, is_clean = refused(other)
tap.ok(status == 1 and len(said) == 1 and "must not run twice" in said[0] and is_clean, "of a copy, too, where that is known", status, *said)
if job.is_running():
	end_carry(job, stop, "and the job ends well")

# ---- threads, clocks, streams -----------------------------------------------------------------------------------------------------

if not a.brief:
	job, to = Job(tap, ["-n", 4, "-clusters", 2, CONDUCT, "threads", 2000]), new_path()
	job.wait_line("^ready", 40)
	m = checkpoint(job, to)
	kill(job)
	again = restart(to, "-clusters", 3)
	tap.ok(m.get("status") == 0 and again.end(100) == 0 and not again.gone(), "ranks with many threads in MPI", m, *again.tail())
	stop, to = new_path(), new_path()
	job = Job(tap, ["-n", 2, "-clusters", 2, os.path.join(BUILD, "tests/programs/clocks"), stop])
	job.wait_line("^ready", 40, "out", 2)
	m = checkpoint(job, to)
	kill(job)
	again = restart(to)
	running(again, 2)
	open(stop, "w").close()
	status = again.end(40)
	seen = [fields(l) for l in again.out() if l.startswith("clocks")]
	tap.ok(m.get("status") == 0 and status == 0 and len(seen) == 2 and all(s["back"] == "0" and s["early"] == "0" for s in seen),
	       "CLOCK_MONOTONIC and the waits of seven threads: nothing goes back, or is too short", m, status, *seen)
to, log = new_path(), os.path.join(work, "log.%r")
job = Job(tap, ["-n", 2, "-clusters", 2, "-s", "all", "-outfile-pattern", log, "sh", "-c", "printf begun:; read a; echo $a; read b; echo $b"],
          stdin=True)
job.proc.stdin.write(b"one\ntwo")
job.proc.stdin.flush()
logs = lambda: ["".join(open(log.replace("%r", str(r))).readlines()) if os.path.exists(log.replace("%r", str(r))) else "" for r in range(2)]
wait_for(lambda: logs() == ["begun:one\n"] * 2)
m = checkpoint(job, to)
job.proc.stdin.write(b"-lost\n")
job.proc.stdin.flush()
wait_for(lambda: logs() == ["begun:one\ntwo-lost\n"] * 2)
kill(job)
again = restart(to, "-clusters", 1, stdin=True)
again.proc.stdin.write(b" three\n")
again.proc.stdin.close()
tap.ok(m.get("status") == 0 and again.end(30) == 0 and logs() == ["begun:one\ntwo three\n"] * 2, "programs without MPI: what was read and not "
       "taken, and what was written, goes on where it was", m, logs(), *again.tail())

for what, is_stopping, first, second in (("killed", False, [], ["[0] half whole"]), ("stopped", True, ["[0] half"], ["[0]  whole"])):
	to, job = new_path(), Job(tap, ["-l", "-n", 1, "sh", "-c", "printf half; echo up >&2; read a; echo ' whole'"], stdin=True)
	job.wait_line("up", 40)
	m = checkpoint(job, to, stop=is_stopping)
	job.end(30) if is_stopping else kill(job)
	again = restart(to, stdin=True)
	again.proc.stdin.close()
	tap.ok(m.get("status") == 0 and again.end(30) == 0 and job.out() == first and again.out() == second, "a line that has no end yet, of a "
	       "job that is %s, is written once" % what, m, job.out(), *again.tail())
if a.brief:
	sys.exit(tap.done())

# ---- every kind of state, in programs that check themselves ------------------------------------------------------------------------

kinds = [["compute", 8], ["heap", 16, 3], ["timers"], ["polls"], ["memories"], ["mappings"], ["extents"], ["locked"], ["locks", "DIR"],
         ["locks", "DIR", "shared"], ["traits"], ["moments"], ["mutexes"], ["files", "FILE"]]
words, to = ["-l", "-clusters", 2, "-s", "all"], new_path()
for kind in kinds:
	own = new_path()
	if "DIR" in kind:
		os.mkdir(own)
	words += [":"] * (len(words) > 5) + ["-n", 1, os.path.join(BUILD, "container/victim")] + [own if w in ("DIR", "FILE") else w for w in kind]
job = Job(tap, words, stdin=True)


def ask(job, line):
	"""Of all of them whether they are as they should be: kinds that do not say so, and complaints."""
	job.proc.stdin.write(b"%d\n" % line)
	job.proc.stdin.flush()
	job.wait_line("ok %d$" % line, 150, "out", len(kinds))
	return [k[0] for i, k in enumerate(kinds) if "[%d] ok %d" % (i, line) not in job.out()] + [l for l in job.out() if "bad" in l]


wrong = ask(job, 1)
m = checkpoint(job, to)
kill(job)
again = restart(to, "-clusters", 3, stdin=True)
wrong += ask(again, 2) + ask(again, 3)
tap.ok(m.get("status") == 0 and not wrong, "%d programs with threads, timers, memories, locks, pipes and so on find their state as it was" %
       len(kinds), m, *wrong, *again.tail())
again.kill()

# ---- files -----------------------------------------------------------------------------------------------------------------------

SCRIBE = os.path.join(BUILD, "tests/programs/scribe")
stop, to, text, data, mapped = new_path(), new_path(), new_path(), new_path(), new_path()
for path in (data, mapped):
	with open(path, "w") as f:
		f.write("0123456789" * 1000)
job = Job(tap, ["-n", 2, SCRIBE, stop, "-a", text, "-r", data, "-m", mapped, "-d", work])
job.wait_line("^ready", 40, "out", 2)
m = checkpoint(job, to)
then = os.path.getsize(text)
wait_for(lambda: os.path.getsize(text) > then)
kill(job)
for what, path, act, undo, says in (
	("a file that is gone", data, lambda p: os.rename(p, p + "-"), lambda p: os.rename(p + "-", p), "is not here"),
	("one that is shorter", data, lambda p: os.truncate(p, 100), lambda p: open(p, "w").write("0123456789" * 1000), "has 100 bytes and had 10000"),
	("a mapped one that was replaced", mapped, lambda p: open(p, "w").write("x" * 10000), lambda p: open(p, "w").write("0123456789" * 1000),
	 "is not the one of then"),
	("one that it writes, and that is shorter", text, lambda p: (shutil.copy(p, p + "-"), os.truncate(p, 0)), lambda p: os.rename(p + "-", p),
	 "has 0 bytes and had")):
	before = os.path.getsize(text)
	act(path)
	status, said, is_clean = refused(to)
	undo(path)
	tap.ok(status == 1 and len(said) == 1 and says in said[0] and path in said[0] and "nothing of the job runs" in said[0] and is_clean and
	       os.path.getsize(text) == before, "refused, by its path: " + what, status, *said)
again = restart(to, "-clusters", 2)
running(again, 2, "no MPI")
open(stop, "w").close()
status = again.end(40)
wrote = [int(l.split()[1]) for l in again.out() if l.startswith("wrote ")]
with open(text) as f:
	lines = f.read().splitlines()
tap.ok(m.get("status") == 0 and status == 0 and len(wrote) == 2 and sum(wrote) == len(lines) and
       all(lines.count("%08d" % i) == sum(w > i for w in wrote) for i in range(max(wrote))), "a file to which two ranks append was cut to what it "
       "was: every line is there once", m, status, wrote, len(lines), *again.tail())

# ---- refused, with one sentence ----------------------------------------------------------------------------------------------------


def damaged(what, name, act, says):
	copy = new_path()
	shutil.copytree(to, copy)
	cut = [e for e in os.listdir(copy) if e.startswith("cut-")][0]
	path = os.path.join(copy, name) if name in os.listdir(copy) else os.path.join(copy, cut, name)
	act(path)
	status, said, is_clean = refused(copy, "-clusters", 2)
	tap.ok(status == 1 and len(said) == 1 and says in said[0] and is_clean, "refused: " + what, status, *said)


def replace(old, new):
	def change(path):
		with open(path) as f:
			text = f.read()
		with open(path, "w") as f:
			f.write(text.replace(old, new, 1))
	return change


class Hash(ctypes.Structure):
	_fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def forge(key, value):
	"""With the right sum: what it says is looked at all the same."""
	def change(path):
		with open(path) as f:
			m = json.load(f)
		del m["hash"]
		m[key] = value
		text = json.dumps(m, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
		xxh = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
		xxh.restype, xxh.argtypes = Hash, [ctypes.c_char_p, ctypes.c_size_t]
		h = xxh(text, len(text))
		m["hash"] = "%016x%016x" % (h.high, h.low)
		with open(path, "w") as f:
			json.dump(m, f)
	return change


os.remove(stop)
damaged("a bit of an image", "rank-1.zst", flip, "rank-1.zst is damaged")
damaged("an image that was cut", "rank-0.zst", lambda p: os.truncate(p, os.path.getsize(p) - 1), "rank-0.zst")
damaged("an image that is gone", "rank-1.zst", os.remove, "rank-1.zst")
damaged("another rank's image", "rank-0.zst", lambda p: shutil.copy(p.replace("rank-0", "rank-1"), p), "rank-0.zst")
damaged("a manifest that was edited", "MANIFEST", replace('"epoch": ', '"epoch": 1'), "is damaged")
damaged("a manifest with room for more ranks than there can be", "MANIFEST", forge("room", 2**32 - 1), "room for a number of ranks that no job has")
world = {"size": 1, "app": 0, "parent": 7, "asked": 0, "pmi": {}}
damaged("a manifest with a world that has no ranks", "MANIFEST", forge("worlds", [world]), "the manifest is not understood")
damaged("a manifest that is gone", "MANIFEST", os.remove, "no complete checkpoint")
damaged("a manifest that is a named pipe", "MANIFEST", lambda p: (os.remove(p), os.mkfifo(p)), "it is not a file")
for what, words, says in (("no such directory", [new_path()], "cannot be opened"), ("a program", [to, "date"], "leave out date"),
                          ("a number of ranks", [to, "-n", 3], "leave out -n"), ("no directory", ["-clusters", 2], "name a directory")):
	status, said, is_clean = refused(*words)
	tap.ok(status in (1, 2) and len(said) == 1 and says in said[0] and is_clean, "refused: " + what, status, *said)
odd = os.fsdecode(os.fsencode(to) + b"\xe9")
shutil.copytree(to, odd)
status, said, is_clean = refused(odd)
tap.ok(status == 1 and len(said) == 1 and "is not text" in said[0] and is_clean, "refused: a path that is not UTF-8", status, *said)
status, said, is_clean = refused(to, "-clusters", 2, env={"GODWIT_CPU_HIDE": "sse4_2@1"})
tap.ok(status == 1 and len(said) == 1 and "rank 1 cannot be continued on cluster 1" in said[0] and "sse4_2" in said[0] and is_clean,
       "refused: a processor that has less", status, *said)

# ---- deaths in the middle ----------------------------------------------------------------------------------------------------------

stop, to = new_path(), new_path()
job = Job(tap, ["-n", 4, "-clusters", 2, CONDUCT, "carry", 1, stop])
job.wait_line("^ready", 40, "out", 4)
m = checkpoint(job, to)
kill(job)
for what, fault, words in (("a daemon, at an image", "rt.restart.image@2", ["-clusters", 2]), ("a daemon of another host, at one that is ready",
                           "rt.restart.ready@2", HOSTS + ["a:2,b:2"]), ("mpirun, when all are ready", "rt.restart.restored", ["-clusters", 2]),
                           ("a daemon, before it cuts files", "rt.restart.cut", ["-clusters", 2]),
                           ("a daemon, when some run already", "rt.restart.go@2", ["-clusters", 2])):
	again = restart(to, *words, env={"GODWIT_FAULT": fault + "=kill"})
	status = again.end(40)
	tap.ok(status not in (0, None) and not again.gone(), "dies: " + what, status, *again.tail())
again = restart(to, *HOSTS, "a:1,b:3")
tap.ok(m.get("status") == 0 and running(again, 4), "after all that the directory is as it was, and the job goes on", m, *again.tail())
if again.is_running():
	end_carry(again, stop, "and ends well")

# ---- hosts that are reached by ssh, have clocks of their own, and do not see the directory ------------------------------------------


def between_hosts(r):
	login, stop, to = rig_mpi.login(r), os.path.join(r.shared, "stop"), os.path.join(r.shared, "checkpoint")
	own = os.path.join("/tmp", os.path.basename(new_path()))
	how = {"user": login, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
	p = r[1].popen([os.path.join(BUILD, "mpirun"), "-hosts", "rig1:2,rig2:2", "-n", "4", os.path.join(BUILD, "tests/programs/clocks"), stop],
	               **how)
	rig.hear(p, b"ready", 4, 40)
	m = r[1].run([GODWIT, "checkpoint", to], user=login, timeout=60)
	rig.kill_tree(p)
	left = rig_mpi.left(r.hosts, "godwitd|clocks")
	copied = r[3].run(["cp", "-r", to, own], user=login)
	words = ["-hosts", "rig3:1,rig2:3"]
	p = r[3].popen([GODWIT, "restart", own] + words, **how)
	status = lambda: json.loads(r[3].run([GODWIT, "status", "--json"], user=login).stdout or "{}").get("ranks", [])
	on = wait_for(lambda: p.poll() is not None or [x["state"] for x in status()] == ["MPI"] * 4, 60, 0.1) and p.poll() is None
	places = [x.get("hostname") for x in status()]
	open(stop, "w").close()
	out, err = rig.finish(p, 60)
	seen = [fields(l) for l in out.splitlines() if l.startswith("clocks")]
	tap.ok(m.returncode == 0 and not left and copied.returncode == 0 and on and places == ["rig3"] + ["rig2"] * 3,
	       "killed on two hosts, and continued on another two, of which one does not see the directory", m.stderr, left, copied.stderr, places, err)
	tap.ok(p.returncode == 0 and len(seen) == 4 and all(s["back"] == "0" and s["early"] == "0" for s in seen),
	       "whose clocks are an hour apart: none of a rank's goes back, no wait is too short", p.returncode, err, *seen)
	os.remove(stop)
	first = r[1].popen([GODWIT, "restart", to] + words, **how)
	on = wait_for(lambda: len([x for x in json.loads(r[1].run([GODWIT, "status", "--json"], user=login).stdout or "{}").get("ranks", [])
	                           if x["state"] == "MPI"]) == 4, 60, 0.1)
	second = r[2].run([GODWIT, "restart", to], user=login, timeout=60)
	open(stop, "w").close()
	out, err = rig.finish(first, 60)
	tap.ok(on and second.returncode == 1 and "is in use by" in second.stderr and len(second.stderr.splitlines()) == 1 and first.returncode == 0,
	       "a second restart, from another host that shares the directory, is refused", on, second.stderr, err)
	tap.ok(not rig_mpi.left(r.hosts, "godwitd|clocks"), "nothing is left on the hosts", rig_mpi.left(r.hosts, "godwitd|clocks"))


try:
	with rig_mpi.hosts(3, clocks=[0, 3600, 7200]) as r:
		between_hosts(r)
except rig.RigUnavailable as e:
	tap.skip("between hosts of a rig", e)
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm", shm_entries() - shm_before)
sys.exit(tap.done())
