#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Jobs that are written down: the run goes on as if nothing had been, what is on disk is complete or absent, damage is named."""
from godwit import *

tap = Tap(280)
work = work_dir("checkpoint")
JACOBI = os.path.join(BUILD, "examples/jacobi")
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
GODWIT = os.path.join(BUILD, "godwit")


def godwit(*words):
	p = subprocess.run([GODWIT] + [str(w) for w in words], capture_output=True, text=True, timeout=60)
	return p.returncode, p.stdout, p.stderr


def new_dir():
	path = os.path.join(work, uuid.uuid4().hex)
	os.mkdir(path)
	return path


def checkpoint(head, to, **more):
	head.send(dict(more, op="checkpoint", dir=to))
	return head.receive()


def number(path):
	"""Of the checkpoint in a directory, when it is whole."""
	code, out, err = godwit("checkpoint", "--verify", path)
	found = re.search(r"checkpoint (\d+) of job", out)
	return int(found.group(1)) if code == 0 and found else (code, err)


def entries(path):
	return sorted(re.sub("-[0-9a-f]{8}-", "-JOB-", e) for e in os.listdir(path) if e != ".lock")


def start(*words, mib=4, **more):
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-n", 4] + list(words) + [CONDUCT, "carry", mib, stop], **more)
	if not job.wait_line(r"^ready", 40, "out", 4):
		tap.bail("the job does not start")
	return job, job.head(), stop


# ---- the answer is the same ---------------------------------------------------------------------------------------------

plate = [JACOBI, "--size", 300, "--iterations", 3000, "--report", 50]
job = Job(tap, ["-n", 4, "-clusters", 2] + plate)
job.end(60)
expected = job.out()[-1].split("checksum=")[-1]
for what, words in (("over memory", ["-clusters", 2]), ("over the network", ["-launcher", "fork", "-hosts", "a:2,b:2"])):
	job, to, answers = Job(tap, ["-n", 4] + words + plate), new_dir(), []
	job.wait_line(r"\d", 40)
	head = job.head()
	for turn in range(5):
		lines = len(job.out())
		answers.append(checkpoint(head, to))
		job.wait_line(r"\d", 30, "out", lines + 2)
	status = job.end(60)
	tap.ok([a.get("status") for a in answers] == [0] * 5 and number(to) == 5, "five checkpoints of a halo exchange " + what, answers)
	tap.ok(status == 0 and job.out()[-1].split("checksum=")[-1] == expected and len(expected) == 16,
	       "whose answer is the same to the last bit", status, expected, *job.tail())
	tap.ok(entries(to) == ["MANIFEST", "cut-JOB-5"], "the last of them is kept", entries(to))
job, to = Job(tap, ["-n", 4, "-clusters", 2, CONDUCT, "threads", 4000]), new_dir()
job.wait_line("^ready", 40)
head = job.head()
answers = [checkpoint(head, to) for turn in range(3)]
tap.ok([a.get("status") for a in answers] == [0] * 3 and job.end(100) == 0 and number(to) == 3, "ranks with many threads in MPI, too",
       answers, *job.tail())

# ---- while ranks move, and what is asked for meanwhile --------------------------------------------------------------------

job, head, stop = start("-clusters", 2, mib=16)
id, to = job.head_name().split("/")[2], new_dir()
mover, answers = Mover(job, 4, 2, 7, pace_ms=5), []
for turn in range(6):
	wanted = len(mover.moves) + 2
	wait_for(lambda: len(mover.moves) >= wanted)
	answers.append(checkpoint(head, to))
mover.finish()
tap.ok([a.get("status") for a in answers] == [0] * 6 and number(to) == 6 and not mover.error and
       all("checkpoint" in m["text"] or "suspended" in m["text"] for m in mover.refused), "six checkpoints while ranks move", answers,
       mover.error, *mover.refused[:5])
second, answers = job.head(), []
thread = threading.Thread(target=lambda: answers.append(checkpoint(head, to)))
thread.start()
wait_for(lambda: second.status()["job"]["state"] != "running" or answers)
second.send({"op": "resume"})
m = second.receive()
thread.join()
tap.ok(answers[0]["status"] in (0, -125) and number(to) == (7 if answers[0]["status"] == 0 else 6) and m["op"] == "resumed",
       "resumed in the middle of one: it is complete, or the one before is there", answers, m, number(to))
pid = head.ranks()[2]["pid"]
os.kill(pid, signal.SIGSTOP)
wait_for(lambda: proc_stat(pid)[0] == "T")
before = number(to)
m = checkpoint(head, to)
tap.ok(m["status"] < 0 and "rank 2 is stopped by a signal" in m["text"] and number(to) == before, "a rank that is stopped is named", m)
os.kill(pid, signal.SIGCONT)
head.send({"op": "suspend"})
head.receive()
m = checkpoint(head, to)
tap.ok(m["op"] == "refused" and "suspended" in m["text"], "a suspended job is not written down", m)
code, out, err = godwit("checkpoint", id, os.path.join(to, "never"))
tap.ok(code == 2 and "suspended" in err and not os.path.exists(os.path.join(to, "never")), "nor is a directory left for it", code, err, entries(to))
head.send({"op": "resume"})
head.receive()
os.kill(job.proc.pid, signal.SIGSTOP)
wait_for(lambda: proc_stat(job.proc.pid)[0] == "T")
code, out, err = godwit("checkpoint", id, os.path.join(to, "never"))
os.kill(job.proc.pid, signal.SIGCONT)
tap.ok(code != 0 and "is stopped" in err and not os.path.exists(os.path.join(to, "never")), "nor where mpirun is stopped, and was not asked", code,
       err, entries(to))
code, out, err = godwit("checkpoint", id, os.path.join(to, "below"))
tap.ok(code == 0 and "checkpoint 1 of 4 ranks" in out and number(os.path.join(to, "below")) == 1, "godwit checkpoint makes the directory",
       code, out, err)
code, out, err = godwit("checkpoint", id, os.path.join(to, "MANIFEST"))
tap.ok(code == 2 and "MANIFEST" in err, "what is no directory is refused", code, out, err)
other, other_head, other_stop = start("-clusters", 1)
m = checkpoint(other_head, to)
tap.ok(m["op"] == "refused" and "another mpirun: process %d on" % job.proc.pid in m["text"] and number(to) == before,
       "another job does not write where this one does", m)
code, out, err = godwit("checkpoint", "--stop", id, to)
status = job.end(30)
tap.ok(code == 0 and status == 75 and not job.gone() and isinstance(number(to), int) and number(to) > before,
       "--stop: the job ends with status 75 when it is written down", code, out, err, status, *job.tail())
before = number(to)
m = checkpoint(other_head, to)
tap.ok(m["op"] == "refused" and "checkpoint of job " + id in m["text"] and number(to) == before, "nor does it replace its checkpoint then", m)
end_carry(other, other_stop, "and goes on")

# ---- damage ---------------------------------------------------------------------------------------------------------------


def damaged(what, name, act, says):
	"""A copy of what was just written, in which one file is not as it was."""
	copy = os.path.join(work, uuid.uuid4().hex)
	shutil.copytree(to, copy)
	path = os.path.join(copy, name) if name == "MANIFEST" else [os.path.join(d, name) for d, _, files in os.walk(copy)
	                                                            if name in files and "cut-" in d and "below" not in d][0]
	act(path)
	code, out, err = godwit("checkpoint", "--verify", copy)
	tap.ok(code == 1 and name in err and says in err and not out and len(err.splitlines()) == 1, "refused: " + what, code, out, err)


def edit(path):
	with open(path) as f:
		text = f.read()
	with open(path, "w") as f:
		f.write(text.replace('"epoch": ', '"epoch": 1', 1))


damaged("a bit of an image", "rank-1.zst", flip, "it has been changed")
damaged("an image that was cut", "rank-2.zst", lambda p: os.truncate(p, os.path.getsize(p) - 1), "bytes instead of")
damaged("an image that is gone", "rank-3.zst", os.remove, "is missing")
damaged("another rank's image", "rank-0.zst", lambda p: shutil.copy(p.replace("rank-0", "rank-1"), p), "is damaged")
damaged("a manifest that was edited", "MANIFEST", edit, "is damaged")
damaged("a manifest that was cut", "MANIFEST", lambda p: os.truncate(p, os.path.getsize(p) // 2), "is damaged")
damaged("a manifest that is gone", "MANIFEST", os.remove, "no complete checkpoint")

# ---- deaths in the middle: the one before stays -----------------------------------------------------------------------------

for what, fault, words in (
	("a daemon, at its first image", "rt.checkpoint.image@3", ["-clusters", 2]),
	("a daemon of another host, before its images are on the disk", "rt.checkpoint.written@2", ["-launcher", "fork", "-hosts", "a:2,b:2"]),
	("mpirun, when all images are written", "rt.checkpoint.commit@2", ["-clusters", 2]),
	("mpirun, before the manifest", "rt.checkpoint.renamed@2", ["-clusters", 2])):
	job, head, stop = start(*words, env={"GODWIT_FAULT": fault + "=kill"})
	to = new_dir()
	m = checkpoint(head, to)
	try:
		second = checkpoint(head, to)
	except (EOFError, OSError):
		second = None
	status = job.end(30)
	tap.ok(m["status"] == 0 and (second is None or second["status"] < 0) and status not in (0, None) and not job.gone() and
	       number(to) == 1, "dies: " + what, m, second, status, number(to), *job.tail())
	if "daemon" in what:
		tap.ok(entries(to) == ["MANIFEST", "cut-JOB-1"], "nothing of the other is left", entries(to))

# ---- a disk that is full; a command that is interrupted ------------------------------------------------------------------------

to, small = new_dir(), ["unshare", "--mount", "--propagation", "private"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
small += ["sh", "-c", 'mount -t tmpfs -o size=6m none "$0" && exec "$@"', to]
if subprocess.run(small + ["true"], capture_output=True).returncode:
	tap.skip("a disk that is full", "no file system can be mounted here")
else:
	job, head, stop = start("-clusters", 2, launcher=small + [os.path.join(BUILD, "mpirun")])
	m = checkpoint(head, to)
	tap.ok(m["status"] < 0 and re.search(r"rank-\d\.zst cannot be written: No space left", m["text"]) and
	       entries("/proc/%d/root%s" % (job.proc.pid, to)) == [], "a disk that is full is named, and nothing stays on it", m)
	end_carry(job, stop, "the job goes on")
job, head, stop = start("-clusters", 2)
to, slow = new_dir(), threading.Thread(target=job.head().migrate, args=[[0], 1 - head.ranks()[0]["cluster"]],
                                       kwargs={"technique": "pre-copy", "bandwidth": 2 << 20, "plain": True})
slow.start()
wait_for(lambda: head.ranks()[0]["state"] == "moving")
p = subprocess.Popen([GODWIT, "checkpoint", job.head_name().split("/")[2], to], stderr=subprocess.PIPE, text=True)
begun = wait_for(lambda: [e for e in os.listdir(to) if e.startswith(".tmp")])  # it waits for the move
again = checkpoint(job.head(), new_dir())
p.send_signal(signal.SIGINT)
err = p.communicate(timeout=20)[1]
slow.join(60)
tap.ok(again["op"] == "refused" and "checkpoint of the job is just being written" in again["text"], "a second one meanwhile is refused", again)
tap.ok(begun and p.returncode == 130 and "written nevertheless" in err and err.count("\n") == 1, "Ctrl-C says what becomes of the checkpoint",
       begun, p.returncode, err)
tap.ok(wait_for(lambda: number(to) == 1, 30, 0.1), "and it is written", number(to))
end_carry(job, stop, "the job goes on then, too")

# ---- programs without MPI; what cannot be written down ------------------------------------------------------------------------

job, to = Job(tap, ["-n", 2, "-clusters", 2, "-s", "all", "cat"], stdin=True), new_dir()
job.proc.stdin.write(b"one\n")
job.proc.stdin.flush()
job.wait_line("^one", 40, "out", 2)
head = job.head()
wait_for(lambda: all(r["state"] != "starting" for r in head.status()["ranks"]))
m = checkpoint(head, to)
job.proc.stdin.write(b"two\n")
job.proc.stdin.close()
tap.ok(m.get("status") == 0 and job.end(30) == 0 and job.out() == ["one", "one", "two", "two"] and number(to) == 1,
       "programs without MPI; input and output go on", m, *job.tail())
job = Job(tap, ["-n", 2, "-clusters", 2, "sh", "-c", "sleep 1000 & echo up; wait"])
job.wait_line("^up", 40, "out", 2)
to = new_dir()
m = checkpoint(job.head(), to)
tap.ok(m["status"] < 0 and m["text"].startswith("rank ") and "process" in m["text"] and entries(to) == [] and job.is_running(),
       "a rank with another process is named, and nothing is written", m, entries(to))
os.kill(job.proc.pid, signal.SIGTERM)
tap.ok(job.end(30) == 143 and not job.gone(), "the job has gone on until its end", *job.tail())
odd = os.fsencode(os.path.join(work, "odd-")) + b"\xe9"
job = Job(tap, ["-n", 1, "sh", "-c", "exec 7>>\"$1\"; echo up; read a", "sh", os.fsdecode(odd)], stdin=True)
job.wait_line("^up", 40)
m = checkpoint(job.head(), new_dir())
code, out, err = godwit("checkpoint", job.head_name().split("/")[2], os.fsdecode(odd + b"-dir"))
tap.ok(code == 2 and "odd-?-dir' is not text" in err and len(err.splitlines()) == 1, "nor is written to such a directory", code, out, err)
job.proc.stdin.close()
tap.ok(m["status"] < 0 and "odd-?', which it writes, is not text" in m["text"] and job.end(30) == 1, "nor one whose file has a name that "
       "is not UTF-8", m, *job.tail())

sys.exit(tap.done())
