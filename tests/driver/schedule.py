#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Checkpoints that mpirun makes by itself: every so often and at signals, amid all that may happen at the same time."""
from godwit import *

tap = Tap(280)
work = work_dir("schedule", is_fast=True)
JACOBI = os.path.join(BUILD, "examples/jacobi")
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
MPIRUN, GODWIT = os.path.join(BUILD, "mpirun"), os.path.join(BUILD, "godwit")


def godwit(*words):
	p = subprocess.run([GODWIT] + [str(w) for w in words], capture_output=True, text=True, timeout=60)
	return p.returncode, p.stdout, p.stderr


def new_path():
	return os.path.join(work, uuid.uuid4().hex)


def number(path):
	"""Of the checkpoint in a directory, when it is whole."""
	code, out, err = godwit("checkpoint", "--verify", path)
	found = re.search(r"checkpoint (\d+) of job", out)
	return int(found.group(1)) if code == 0 and found else (code, err)


def cuts(path):
	return sorted((e for e in os.listdir(path) if e.startswith("cut-")), key=lambda e: int(e.rsplit("-", 1)[1]))


def leftovers(path):
	return [e for e in os.listdir(path) if e.startswith(".tmp")]


def start(to, *words, program=None, count=4, **more):
	stop = new_path()
	job = Job(tap, ["-n", 4, "-checkpoint-dir", to] + list(words) + (program or [CONDUCT, "carry", 1, stop]), **more)
	if not job.wait_line(r"^ready", 40, "out", count):
		tap.bail("the job does not start")
	return job, job.head(), stop


def last(head):
	return head.status()["job"]["checkpoints"].get("last", {}).get("checkpoint", 0)


def wait_last(head, n, timeout=30):
	return wait_for(lambda: last(head) >= n, timeout, 0.05)


def warnings(job):
	return [l for l in job.out("err") if "checkpoint" in l]


def checkpoint(head, to):
	head.send({"op": "checkpoint", "dir": to})
	return head.receive()


# ---- what is said on the command line -------------------------------------------------------------------------------------

plain = new_path()
open(plain, "w").close()
wrong = []
for words, says in ((["-checkpoint-every", "10m"], "needs -checkpoint-dir"), (["-checkpoint-on", "USR1"], "needs -checkpoint-dir"),
                    (["-checkpoint-dir", work, "-checkpoint-every", "10x"], "'10x' is not a time"),
                    (["-checkpoint-dir", work, "-checkpoint-every", "-1m"], "'-1m' is not a time"),
                    (["-checkpoint-dir", work, "-checkpoint-every", "0"], "from 100ms"),
                    (["-checkpoint-dir", work, "-checkpoint-every", "1e9d"], "from 100ms"),
                    (["-checkpoint-dir", work, "-checkpoint-keep", "0"], "'0' is not a number from 1"),
                    (["-checkpoint-dir", work, "-checkpoint-on", "USR1,KILL"], "'KILL' is not one of USR1"),
                    (["-checkpoint-dir", plain], "'%s' cannot be opened" % plain),
                    (["-checkpoint-dir", os.fsdecode(os.fsencode(work) + b"/\xe9")], "is not text"),
                    (["-checkpoint-dir", os.path.join(work, "no/where")], "cannot be made")):
	p = subprocess.run([MPIRUN] + words + ["true"], capture_output=True, text=True, timeout=30)
	if p.returncode != 1 or says not in p.stderr or len(p.stderr.splitlines()) != 1:
		wrong.append((words, p))
tap.ok(not wrong, "what makes no sense is refused with a sentence", *wrong)

# ---- a rank that somebody has stopped: what cannot be written down; these wait until the end of the test --------------------


def stopped(*words):
	job, head, stop = start(new_path(), "-clusters", 2, *words)
	pid = head.ranks()[2]["pid"]
	os.kill(pid, signal.SIGSTOP)
	wait_for(lambda: proc_stat(pid)[0] == "T")
	return job, head, pid, stop


patient = stopped("-checkpoint-on", "usr1,SIGTERM")
os.kill(patient[0].proc.pid, signal.SIGUSR1)
job, head, pid, stop = stopped("-checkpoint-on", "USR1,TERM")
os.kill(job.proc.pid, signal.SIGTERM)
tried = wait_for(lambda: "failed" in head.status()["job"]["checkpoints"])
os.kill(job.proc.pid, signal.SIGTERM)
status = job.end(30)
tap.ok(tried and status == 143 and "before the job was written down" in job.out("err")[-1] and not job.gone(),
       "a second signal ends the job at once", status, *job.tail())

# ---- every so often ---------------------------------------------------------------------------------------------------------

to = new_path()
job, head, stop = start(to, "-clusters", 2, "-checkpoint-every", "150ms", "-checkpoint-keep", 3)
id = job.head_name().split("/")[2]
reached = wait_last(head, 5)
code, out, err = godwit("status", "--job", id)
tap.ok(reached and re.search(r"^checkpoint \d+ of \d{4}-.* in %s: .* MiB on disk, .* ms$" % to, out, re.M), "a job is written down again "
       "and again, and status says when and how long it took", out, err, *job.tail())
runs = [subprocess.run(words, capture_output=True, text=True, timeout=30) for words in (job.args, [MPIRUN, "-checkpoint-dir", to, "true"])]
tap.ok([r.returncode for r in runs] == [1, 1] and "job %s runs on this host; it must not run twice" % id in runs[0].stderr and
       runs[0].stderr.count("\n") == 1, "the same command does not run twice", runs[0])
tap.ok("another job: %s carry 1 %s (4 ranks, in %s)" % (CONDUCT, stop, os.getcwd()) in runs[1].stderr, "nor another one there", runs[1])
mover = Mover(job, 4, 2, 7, pace_ms=5)
before = last(head)
amid = wait_last(head, before + 4) and wait_for(lambda: len(mover.moves) > 4 or mover.error)
mover.finish()
tap.ok(amid and not mover.error and all("checkpoint" in m["text"] or "suspended" in m["text"] for m in mover.refused),
       "while ranks move", mover.error, len(mover.moves), *mover.refused[:5])
answers, other, before = [], new_path(), last(head)
os.mkdir(other)
while last(head) < before + 3 and len(answers) < 200:
	answers.append(checkpoint(head, [to, other][len(answers) % 2]))
tap.ok(last(head) >= before + 3 and any(a.get("status") == 0 for a in answers) and all(a.get("status") == 0 or "just being" in a["text"]
       for a in answers), "while somebody else wants checkpoints, too", *answers[:6])
suspended = wait_for(lambda: godwit("suspend", id)[0] == 0)  # refused while one is just being written
still = last(head)
time.sleep(0.4)  # what is seen is that nothing happens: twice the time between two
rested = last(head) == still
code, out, err = godwit("resume", id)
tap.ok(suspended and rested and code == 0 and wait_last(head, still + 2), "not while it is suspended, and again when it is resumed", still, last(head), err)
shutil.rmtree(to, ignore_errors=True)
shutil.rmtree(to, ignore_errors=True)  # there may be one that was just being written
said = job.wait_line("was removed, with the checkpoints in it; it is made again", 20, "err")
tap.ok(said and wait_for(lambda: isinstance(number(to), int), 20), "its directory is removed: it is made again", number(to), *job.tail())
wait_last(head, last(head) + 4)
said = [l for l in warnings(job) if "no checkpoint was written" in l and "gone" not in l and "No such file" not in l and "must see" not in l]
end_carry(job, stop, "the job ends well")
kept = cuts(to)
tap.ok(len(kept) == 3 and [number(os.path.join(to, c)) for c in kept] == [number(to) - 2, number(to) - 1, number(to)] and
       not leftovers(to) and not said, "the last three are there and whole, each by its name", kept, number(to), leftovers(to), *said)
tap.ok(lines_of(os.path.join(to, "ENDED"))[0] == id, "and are not needed any more", lines_of(os.path.join(to, "ENDED")))

was, copy = number(to), new_path()
shutil.copytree(os.path.join(to, kept[0]), copy)
older = Job(tap, ["-restart", copy])
status = older.end(40)
tap.ok(status == 0 and len([l for l in older.out() if l.startswith("carried")]) == 4 and number(to) == was and
       [os.path.exists(os.path.join(p, ".lock")) for p in (copy, work)] == [True, False],
       "a job is continued from the copy of an older one, too, which is locked itself, and not what it lies in", status, *older.tail())
said = []
for name, words in (("MANIFEST", ["-restart", to]), (kept[2] + "/rank-1.zst", ["-restart", to]),
                    (kept[2] + "/rank-1.zst", ["-restart", os.path.join(to, kept[2])])):
	flip(os.path.join(to, name))
	damaged = Job(tap, words)
	said.append((damaged.end(40), damaged.out("err")))
	flip(os.path.join(to, name))
tap.ok([(status, len(err)) for status, err in said] == [(1, 1)] * 3 and all("%s/%s'" % (to, cut) in err[0] for cut, (status, err) in
       zip((kept[2], kept[1], kept[1]), said)), "what is damaged is refused where it was named, and one that can be used is named", *said)

# ---- what is damaged, and nobody has named: it is passed over ------------------------------------------------------------------


def continued(what, damage, says, n):
	"""The same command, after mpirun was killed and something was damaged: it goes on from the @n-th, and says why."""
	global job, head
	os.kill(job.proc.pid, signal.SIGKILL)
	job.end(30)
	damage()
	line = "goes on from checkpoint %d of .*; %s" % (n, says)
	job = Job(tap, ["-n", 4, "-checkpoint-dir", to, "-checkpoint-keep", 5, "-clusters", 2, CONDUCT, "carry", 1, stop], stdin=True)
	found = job.wait_line(line, 30, "err") and wait_for(lambda: not job.is_running() or
	                                                    [r["state"] for r in job.head().status()["ranks"]] == ["MPI"] * 4)
	tap.ok(found and job.is_running() and len(job.out("err")) == 1, "passed over: " + what, *job.tail())
	head = job.head()


to = new_path()
job, head, stop = start(to, "-clusters", 2, "-checkpoint-keep", 5)
answers = [checkpoint(head, to) for turn in range(3)]
first, second, third = [os.path.join(to, c) for c in cuts(to)]
continued("an image of the newest, and one of that before", lambda: (flip(third + "/rank-1.zst"), os.remove(second + "/rank-2.zst")),
          "'%s' is passed over: rank-2.zst" % second, 1)
answers.append(checkpoint(head, to))
continued("the manifest", lambda: (os.remove(to + "/MANIFEST"), os.mkfifo(to + "/MANIFEST")), "%s/MANIFEST is damaged: it is not a file" % to, 4)
answers.append(checkpoint(head, to))
tap.ok([a.get("checkpoint") for a in answers] == [1, 2, 3, 4, 5] and number(to) == 5, "checkpoints count on after that", *answers)
flip(to + "/MANIFEST")
end_carry(job, stop, "that job ends well")
p = subprocess.run([MPIRUN, "-checkpoint-dir", to, "true"], capture_output=True, text=True, timeout=60)
tap.ok(p.returncode == 0 and not p.stderr, "and is over, also where the manifest is damaged", p)

# ---- clusters that come and go ------------------------------------------------------------------------------------------------

to = new_path()
job, head, stop = start(to, "-checkpoint-every", "200ms", "-launcher", "fork", "-hosts", "a:2,b:2")
before, failed = last(head), []


def change(what, *args):
	"""Again, while it is refused because a checkpoint is just being written"""
	while True:
		m = what(*args)
		m = m[0] if isinstance(m, list) else m
		texts = [m.get("text", "")] + [s["text"] for s in m.get("stuck", [])]
		if not any("a checkpoint is just being written" in t for t in texts):
			failed.extend([m] if m.get("status", 0) < 0 else [])
			return m


for turn in range(2):
	come = change(head.add, "c%d" % turn)["clusters"]
	change(head.drain, 1)
	change(head.undrain, 1)
	change(head.migrate, [3], 1)
	change(head.remove, *come)
tap.ok(not failed and wait_last(head, before + 3) and not warnings(job), "while hosts come, are drained and leave", *(failed + warnings(job)))
end_carry(job, stop, "that job ends well, too")

# ---- signals -------------------------------------------------------------------------------------------------------------------

to = new_path()
job, head, stop = start(to, "-clusters", 2, "-checkpoint-on", "USR1,TERM")
began = time.monotonic()
os.kill(job.proc.pid, signal.SIGTERM)
status = job.end(30)
tap.diag("from the signal to the end: %.0f ms" % ((time.monotonic() - began) * 1000))
tap.ok(status == 75 and number(to) == 1 and not job.gone() and job.wait_line("SIGTERM: the job is written down", 1, "err") and
       not os.path.exists(os.path.join(to, "ENDED")), "the job is written down, and ends with status 75", status, number(to), *job.tail())
to = new_path()
job, head, stop = start(to, "-clusters", 2, "-checkpoint-on", "INT", "-checkpoint-every", "100ms")
suspended = wait_for(lambda: godwit("suspend", job.head_name().split("/")[2])[0] == 0)
os.kill(job.proc.pid, signal.SIGINT)
status = job.end(30)
tap.ok(suspended and status == 75 and isinstance(number(to), int), "also a suspended job", status, number(to), *job.tail())
to = new_path()
job, head, stop = start(to, "-clusters", 2)
os.kill(job.proc.pid, signal.SIGTERM)
tap.ok(job.end(30) == 143 and not cuts(to), "without -checkpoint-on a signal is the ranks'", *job.tail())

# ---- the same command once more ---------------------------------------------------------------------------------------------------

to = new_path()
plate = [JACOBI, "--size", 300, "--iterations", 1000, "--report", 20]
job = Job(tap, ["-n", 4, "-clusters", 2] + plate)
job.end(60)
expected = job.out()[-1].split("checksum=")[-1]
legs, ends = 0, []
for words in (["-clusters", 2], ["-launcher", "fork", "-hosts", "a,b"], ["-clusters", 3]):
	job = Job(tap, ["-n", 4, "-checkpoint-dir", to, "-checkpoint-on", "USR1"] + words + plate)
	begun = job.wait_line(r"^jacobi: iteration", 40, "out", 4)
	if words != ["-clusters", 3]:
		os.kill(job.proc.pid, signal.SIGUSR1)
	ends.append(job.end(60))
	if len(ends) == 1:  # the same, with a signal before its ranks run: mpirun rests until it is there
		early = Job(tap, ["-n", 4, "-checkpoint-dir", to, "-checkpoint-on", "TERM"] + plate, env={"GODWIT_FAULT": "rt.restart.restored=stop"})
		rests = wait_for(lambda: proc_stat(early.proc.pid)[0] == "T")
		os.kill(early.proc.pid, signal.SIGTERM)
		os.kill(early.proc.pid, signal.SIGCONT)
		early.end(30)
	legs += any("goes on from checkpoint %d of" % n in l for n, l in enumerate(job.out("err")[:1], len(ends) - 1))
tap.ok(ends == [75, 75, 0] and legs == 2 and job.out()[-1].split("checksum=")[-1] == expected and len(expected) == 16,
       "the same command goes on twice, on other clusters and hosts: the same answer to the last bit", ends, legs, expected, *job.tail())
tap.ok(rests and early.proc.returncode == 75 and not early.gone() and "before the job went on" in early.out("err")[-1],
       "a signal before it goes on leaves all as it was", early.proc.returncode, *early.tail())
p = subprocess.run([MPIRUN, "-checkpoint-dir", to, "true"], capture_output=True, text=True, timeout=60)
tap.ok(p.returncode == 0 and not p.stderr, "when it has ended well another job may begin there", p)

# ---- mpirun dies in the middle ----------------------------------------------------------------------------------------------------

for fault in ("rt.checkpoint.commit", "rt.checkpoint.renamed"):
	to = new_path()
	job, head, stop = start(to, "-clusters", 2, "-checkpoint-every", "200ms", env={"GODWIT_FAULT": fault + "@3=kill"})
	status = job.end(30)
	was, left, alive = number(to), leftovers(to), job.gone()
	again = Job(tap, ["-n", 4, "-checkpoint-dir", to, "-clusters", 1, CONDUCT, "carry", 1, stop])
	goes_on = again.wait_line("goes on from checkpoint 2 of", 30, "err") and wait_for(lambda: not leftovers(to) or not again.is_running())
	tap.ok(status == -9 and was == 2 and not alive and len(left) == (1 if "commit" in fault else 0) and goes_on,
	       "mpirun is killed at %s: the same command goes on from the one before, leftovers are removed" % fault, status, was, left, leftovers(to),
	       *(job.tail() + again.tail()))
	end_carry(again, stop, "to the end, on fewer clusters")

# ---- a full disk --------------------------------------------------------------------------------------------------------------------

sentence = "a full disk: a sentence, the job goes on, and the last good one stays"
to = new_path()
os.mkdir(to)
private = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=32m none %s && exec \"$@\"" % to, "sh"]
if os.getuid() or subprocess.run(private + ["true"], capture_output=True).returncode:
	tap.skip(sentence, "this takes root, to mount a small file system")
else:
	job, head, stop = start(to, "-checkpoint-every", "200ms", launcher=private + [MPIRUN])
	inside = "/proc/%d/root%s" % (job.proc.pid, to)
	reached = wait_last(head, 1)
	filler = os.open(os.path.join(inside, "filler"), os.O_WRONLY | os.O_CREAT, 0o600)
	said = None
	while not said and job.is_running():  # what is written just now takes room, too, and gives it back
		try:
			os.write(filler, b"x" * (64 << 10))
		except OSError:
			said = job.wait_line("no checkpoint was written to '%s': .*No space left.*; the job goes on" % to, 0.1, "err")
	os.close(filler)
	was = number(inside)
	code, out, err = godwit("status", "--job", job.head_name().split("/")[2])
	os.unlink(os.path.join(inside, "filler"))
	tap.ok(reached and said and isinstance(was, int) and "no checkpoint at" in out and wait_for(lambda: isinstance(number(inside), int) and number(inside) > was, 20),
	       sentence, was, out, number(inside), *job.tail())
	end_carry(job, stop, "and when there is room again, it is written down again")

# ---- those that waited -----------------------------------------------------------------------------------------------------------

job, head, pid, stop = patient
said = job.wait_line("could not be written down after SIGUSR1: rank 2 is stopped by a signal.*it goes on", 30, "err")
os.kill(pid, signal.SIGCONT)
os.kill(job.proc.pid, signal.SIGUSR1)
status = job.end(30)
tap.ok(said and status == 75, "a job that cannot be written down goes on, and is at the next signal", said, status, *job.tail())

# ---- answers as JSON -----------------------------------------------------------------------------------------------------------------

job, head, stop = start(new_path())
id = job.head_name().split("/")[2]
answers = [godwit("suspend", "--json", id), godwit("checkpoint", "--json", id, work), godwit("resume", "--json", id)]
objects = [json.loads(out or "null") for code, out, err in answers]
tap.ok([c for c, o, e in answers] == [0, 2, 0] and objects[0]["status"] == 0 and objects[1]["status"] < 0 and
       "suspended" in objects[1]["text"] and objects[2]["status"] == 0 and answers[1][2].count("\n") == 1, "refusals are JSON, too", *answers)
code, out, err = godwit("checkpoint", "--json", "ffffffff", work)
tap.ok(code == 3 and json.loads(out)["status"] < 0 and err, "also that there is no such job", code, out, err)
end_carry(job, stop, "a job without checkpoints ends well")

sys.exit(tap.done())
