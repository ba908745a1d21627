#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Jobs that rest: suspended and resumed, over memory and over the network, and all that may come meanwhile."""
from godwit import *

tap = Tap(280)
work = work_dir("cold")
JACOBI = os.path.join(BUILD, "examples/jacobi")
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
GODWIT = os.path.join(BUILD, "godwit")
LIMIT_S = 12


def request(head, op):
	head.send({"op": op})
	return head.receive()


def pids(head):
	return [r["pid"] for r in head.status()["ranks"]]


def spent(pids):
	"""Processor time of processes, in ticks; None when one is not stopped."""
	ticks = 0
	for pid in pids:
		with open("/proc/%d/stat" % pid) as f:
			fields = f.read().rsplit(")", 1)[1].split()
		if fields[0] != "T":
			return None
		ticks += int(fields[11]) + int(fields[12])
	return ticks


def start(*words, program=None, ready=r"^ready", count=4, **more):
	"""A job that has said that it runs; its head; the file that ends conduct."""
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-n", 4] + list(words) + (program or [CONDUCT, "carry", 1, stop]), **more)
	if not job.wait_line(ready, 40, "out", count):
		tap.bail("the job does not start")
	return job, job.head(), stop


# ---- a limit of time stands still: this job rests until the end of the test ---------------------------------------------

began = time.monotonic()
limited, limited_head, limited_stop = start("-clusters", 2, "-timeout", LIMIT_S)
m = request(limited_head, "suspend")
tap.ok(m["op"] == "suspended" and m["status"] == 0 and m["ranks"] == 4, "a job with a limit of time is suspended", m)

# ---- the answer is the same -----------------------------------------------------------------------------------------------

plate = [JACOBI, "--size", 300, "--iterations", 3000, "--report", 50]
job = Job(tap, ["-n", 4, "-clusters", 2] + plate)
job.end(60)
expected = job.out()[-1]
for what, words in (("over memory", ["-clusters", 2]), ("over the network", ["-launcher", "fork", "-hosts", "a:2,b:2"])):
	job, head, _ = start(*words, program=plate, ready=r"\d", count=1)
	still, refused = [], []
	for turn in range(4):
		lines = len(job.out())
		m = request(head, "suspend")
		if m.get("status") != 0:
			refused.append(m)
			break
		before = spent(pids(head))
		if turn == 0:
			time.sleep(0.3)  # what is seen is that nothing happens
		still.append(before is not None and spent(pids(head)) == before)
		m = request(head, "resume")
		if not job.wait_line(r"\d", 30, "out", lines + 2):
			break
	tap.ok(not refused and len(still) == 4 and all(still), "a job is suspended again and again, and uses no processor: " + what, still,
	       refused, *job.tail())
	status = job.end(60)
	tap.ok(status == 0 and job.out()[-1].split("checksum")[-1].split()[:2] == expected.split("checksum")[-1].split()[:2] and
	       "checksum" in expected, "and its answer is the same to the last bit", status, expected, *job.tail())
job = Job(tap, ["-n", 4, "-clusters", 2, CONDUCT, "threads", 2000])
job.wait_line("^ready", 40)
head = job.head()
answers = []
for turn in range(4):
	answers += [request(head, "suspend"), request(head, "resume")]
tap.ok([a["op"] for a in answers] == ["suspended", "resumed"] * 4 and job.end(100) == 0, "ranks with many threads in MPI, too", answers,
       *job.tail())

# ---- what is asked for meanwhile ------------------------------------------------------------------------------------------

job, head, stop = start("-clusters", 2)
id = job.head_name().split("/")[2]


def godwit(*words):
	p = subprocess.run([GODWIT] + list(words), capture_output=True, text=True, timeout=60)
	return p.returncode, p.stdout, p.stderr


code, out, err = godwit("suspend", id)
tap.ok(code == 0 and "4 ranks stopped" in out and not err, "godwit suspend", code, out, err)
code, out, err = godwit("status", "--job", id)
tap.ok(code == 0 and ", suspended " in out and out.count("  suspended  ") == 4, "status says so of the job and of each rank", out, err)
code, out, err = godwit("status", "--movable", "--json", "--job", id)
movable = [r["movable"] for r in json.loads(out)["ranks"]]
tap.ok(all(m["state"] == "no" and ["suspended" in r["text"] for r in m["reasons"]] == [True] for m in movable), "and what that means for moves", *movable)
m = head.migrate([0], 1)[0]
tap.ok(m["status"] < 0 and "suspended" in m["text"] and id in m["text"], "a move is refused", m)
m = head.add("localhost")
tap.ok(m["status"] < 0 and "suspended" in m["text"], "a host, too", m)
m = head.drain(1)
tap.ok(m["status"] < 0 and len(m["stuck"]) == 2 and "suspended" in m["stuck"][0]["text"], "a drain names ranks that stay", m)
head.undrain(1)
code, out, err = godwit("suspend", id)
tap.ok(code == 0 and "suspended already" in out, "it is not suspended twice", code, out, err)
os.kill(job.proc.pid, signal.SIGTSTP)
tap.ok(wait_for(lambda: proc_stat(job.proc.pid)[0] == "T"), "Ctrl-Z stops mpirun")
code, out, err = godwit("resume", id)
tap.ok(code != 0 and "is stopped" in err, "which then says so to whoever asks", code, out, err)
os.kill(job.proc.pid, signal.SIGCONT)
wait_for(lambda: proc_stat(job.proc.pid)[0] != "T")
tap.ok(head.status()["job"]["state"] == "suspended" and spent(pids(head)) is not None, "when mpirun goes on, its ranks rest")
code, out, err = godwit("resume", id)
tap.ok(code == 0 and "4 ranks" in out, "godwit resume", code, out, err)
code, out, err = godwit("resume", id)
tap.ok(code == 0 and "not suspended" in out, "and once more", code, out, err)
tap.ok(godwit("suspend", "ffffffff")[0] == 3, "a job that is not there")
m = head.migrate([0], 1) + head.migrate([3], 0)
tap.ok(all(a["status"] == 0 for a in m), "ranks move again", m)

# ---- ranks that others stop, and storms --------------------------------------------------------------------------------------

stopped = pids(head)[2]
os.kill(stopped, signal.SIGSTOP)
wait_for(lambda: proc_stat(stopped)[0] == "T")
answers = [request(head, "suspend"), request(head, "resume")]
tap.ok(answers[0]["status"] == 0 and wait_for(lambda: all(proc_stat(p)[0] != "T" for p in pids(head) if p != stopped)) and
       proc_stat(stopped)[0] == "T", "a rank that somebody has stopped before stays so", answers)
os.kill(stopped, signal.SIGCONT)
mover = Mover(job, 4, 2, 5, pace_ms=5)
answers = []
for turn in range(8):
	wanted = len(mover.moves) + 2
	wait_for(lambda: len(mover.moves) >= wanted)
	answers += [request(head, "suspend"), request(head, "resume")]
mover.finish()
tap.ok(all(a.get("status", 0) == 0 and a["op"] != "refused" for a in answers) and len(mover.moves) >= 16 and not mover.error and
       all("suspended" in m["text"] for m in mover.refused), "suspended eight times while ranks move", answers, mover.error,
       *mover.refused[:5])
second, answers = job.head(), []
thread = threading.Thread(target=lambda: answers.append(request(head, "suspend")))
thread.start()
wait_for(lambda: second.status()["job"]["state"] != "running" or answers)
m = request(second, "resume")
thread.join()
tap.ok(answers[0]["status"] in (0, -125) and m["op"] == "resumed" and not m["again"] and
       second.status()["job"]["state"] == "running", "resumed as soon as it has begun to be suspended", answers, m)
end_carry(job, stop, "the job ends well")

# ---- ends -------------------------------------------------------------------------------------------------------------------

for what, act, expected in (
	("SIGTERM to mpirun: the ranks hear it", lambda job, head: os.kill(job.proc.pid, signal.SIGTERM), 143),
	("a rank is killed", lambda job, head: os.kill(pids(head)[1], signal.SIGKILL), 137),
	("a daemon is killed", lambda job, head: os.kill(head.clusters()[1]["pid"], signal.SIGKILL), 137),
	("mpirun is killed", lambda job, head: os.kill(job.proc.pid, signal.SIGKILL), -9)):
	job, head, stop = start("-clusters", 2)
	m = request(head, "suspend")
	act(job, head)
	status = job.end(30)
	tap.ok(m["status"] == 0 and status == expected and not job.gone(), "meanwhile " + what, m, status, job.gone(), *job.tail())
job = Job(tap, ["-n", 2, "-clusters", 2, "sh", "-c", "trap 'echo heard; exit 0' USR1; echo up; while :; do sleep 0.05; done"])
job.wait_line("^up", 40, "out", 2)
head = job.head()
request(head, "suspend")
os.kill(job.proc.pid, signal.SIGUSR1)
quiet = not job.wait_line("heard", 0.3)
request(head, "resume")
tap.ok(quiet and job.end(30) == 0 and job.out().count("heard") == 2, "programs without MPI: a signal waits until they are resumed", quiet,
       *job.tail())

# ---- the limit of time ------------------------------------------------------------------------------------------------------

left = began + LIMIT_S + 1 - time.monotonic()
over = limited.wait(max(0.1, left))
m = request(limited_head, "resume") if over is None else None
tap.ok(over is None and m["op"] == "resumed", "the job with a limit has rested for longer", over, m, *limited.tail())
status = limited.end(LIMIT_S + 30)
tap.ok(status == 124 and "its limit" in limited.out("err")[-1] and not limited.gone(), "and ends when it has run for so long", status,
       *limited.tail())
sys.exit(tap.done())
