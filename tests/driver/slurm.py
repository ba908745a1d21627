# SPDX-License-Identifier: BSD-2-Clause
"""mpirun in allocations of a real Slurm: it finds its hosts and slots, its ranks live and move in the steps' control groups,
and however a job ends, nothing of it stays on any host. --cancels N: so many jobs cancelled amid moves; --seed."""
import argparse, glob, json, os, random, re, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi, rig_slurm
from hosts_slurm import read, submit

parser = argparse.ArgumentParser()
parser.add_argument("--cancels", type=int, default=3)
parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
args = parser.parse_args()
tap = godwit.Tap(1200 + 30 * args.cancels)
why = rig_mpi.why_not() or rig_slurm.why_not()
if why:
	rig_mpi.skip(why)
MPIRUN, GODWIT = (os.path.join(godwit.BUILD, p) for p in ("mpirun", "godwit"))
JACOBI = os.path.join(godwit.BUILD, "examples/jacobi")
EXAMPLE = os.path.join(os.path.realpath(os.environ.get("top_srcdir", os.getcwd())), "examples/slurm.sbatch")
NODES = (2, 3, 4)  # mpirun of salloc runs on host 1, which is none
PATIENCE = 240  # seconds, on a machine that does much else
OWN = {"unshare", "bash", "munged", "slurmctld", "slurmscriptd", "slurmd"}  # of the rig
ENDED = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"]
CORES = sorted(os.sched_getaffinity(0))


def lines(text):
	return sorted(text.split("\n")[:-1])


# ---- what a job leaves behind ----

def processes(h):
	"""Everything in the host's network but the rig's own: ranks are in PID namespaces of their own."""
	net, found = os.stat("/proc/%d/ns/net" % h.init).st_ino, []
	for pid in filter(str.isdigit, os.listdir("/proc")):
		try:
			if os.stat("/proc/%s/ns/net" % pid).st_ino != net:
				continue
			name = read("/proc/%s/stat" % pid).split("(", 1)[1].rsplit(")", 1)[0]
		except (OSError, IndexError):
			continue
		if name not in OWN:
			found.append("process %s (%s)" % (pid, name))
	return found


def traces(h):
	of = "/proc/%d/" % h.init
	found = [l for l in read(of + "net/unix").split("\n") if "@godwit/" in l]
	found += ["listens at port " + l.split()[1] for l in read(of + "net/tcp").split("\n")[1:] if l and l.split()[3] == "0A"]
	found += ["/dev/shm/" + f for f in os.listdir(of + "root/dev/shm")] + ["/tmp/" + f for f in os.listdir(of + "root/tmp")]
	if r.cgroup:
		found += glob.glob("/sys/fs/cgroup/*/%s/%s/slurm_*/uid_*/job_*" % (r.cgroup, h.name))
	return found


def left():
	"""What is on the hosts that was not there before the first job."""
	found = []

	def is_none():
		found[:] = ["%s: %s" % (h.name, f) for h in r.hosts if h.init and h.name not in busy
		            for f in processes(h) + [t for t in traces(h) if t not in before[h.name]]]
		return not found
	godwit.wait_for(is_none, PATIENCE, 0.05)
	return found


def nothing_left(sentence="nothing is left on any host"):
	found = left()
	tap.ok(not found, sentence, *found)


# ---- jobs ----

outs = 0


def out_file():
	global outs
	outs += 1
	return os.path.join(r.shared, "out-%d" % outs)


def batch(script, *options):
	"""A batch job to its end: what it wrote, and its record."""
	out = out_file()
	job = submit(r[1], script, "-o", out, *options, user=login)
	record = slurm.wait_state(job, ENDED, PATIENCE)
	return read(out), record


class Live:
	"""A job that goes on: its output, as far as it has come. With salloc mpirun runs on host 1."""

	def __init__(self, command, *options):
		self.out = out_file()
		with open(self.out, "w") as f:
			self.process = r[1].popen(["salloc", "-Q"] + list(options) + command, stdout=f, stderr=subprocess.STDOUT, user=login)

	def wait_for(self, pattern, count=1, timeout=PATIENCE):
		return godwit.wait_for(lambda: len(re.findall(pattern, self.text())) >= count or self.process.poll() is not None, timeout) and \
			len(re.findall(pattern, self.text())) >= count

	def text(self):
		return read(self.out)

	def end(self, timeout=PATIENCE):
		try:
			return self.process.wait(timeout)
		except subprocess.TimeoutExpired:
			tap.diag("it does not end: " + self.text())
			rig.kill_tree(self.process)
			return None


def newest():
	return max(slurm.jobs())


UP = ["sh", "-c", "echo up $PMI_RANK; exec sleep 1000"]


def check_end(sentence, act, status, says, times=1, options=("-N2", "-n2"), command=UP):
	"""A job with two ranks ends by what @act(its number) does. Each of @says is a whole sentence that must come."""
	job = Live([MPIRUN] + command, *options)
	if not job.wait_for("up ", 2):
		tap.ok(False, sentence + ": the job starts", job.text())
	act(newest())
	code = job.end()
	said = [l for l in job.text().split("\n") if "mpirun: " in l or "srun" in l or "slurmstepd" in l]
	tap.ok(code in status and len(said) == times and all(any(s in l for l in said) for s in says), sentence, code, job.text())
	nothing_left()


# ---- the tests ----

def test_start():
	text, record = batch("%s -l hostname" % MPIRUN, "-N2", "-n3", "-w", "rig2,rig3")
	tap.ok(record["ExitCode"] == "0:0" and lines(text) == ["[0] rig2", "[1] rig2", "[2] rig3"],
	       "a batch job: hosts, slots and number of ranks are the allocation's", text, record)
	text, record = batch("%s -l hostname; srun -n1 -N1 -w rig3 %s -ppn 1 -l hostname" % (MPIRUN, MPIRUN), "-N2", "-w", "rig2,rig3")
	tap.ok(lines(text) == ["[0] rig2", "[0] rig2", "[1] rig3", "[1] rig3"], "and in a step of srun, on any of its nodes", text)
	done = r[1].run(["srun", "-n1", "-w", "rig3", MPIRUN, "hostname"], user=login, timeout=PATIENCE)
	tap.ok(done.stdout == "rig3\n" and done.returncode == 0, "an srun that makes its own allocation", done)
	done = r[1].run(["salloc", "-Q", "-N3", MPIRUN, "-hosts", "rig4,rig2", "-n", "2", "-l", "hostname"], user=login, timeout=PATIENCE)
	tap.ok(lines(done.stdout) == ["[0] rig4", "[1] rig2"] and done.stderr == "", "-hosts restricts and orders an allocation of salloc", done)
	done = r[1].run(["salloc", "-Q", "-N2", "-n4", MPIRUN, "-ppn", "1", "-clusters", "2", "-n", "4", "-l", "hostname"], user=login, timeout=PATIENCE)
	tap.ok(lines(done.stdout) == ["[0] rig2", "[1] rig3", "[2] rig2", "[3] rig3"], "-ppn, and hosts cut into clusters", done)
	done = r[1].run(["salloc", "-Q", "-N2", MPIRUN, "-launcher", "fork", "hostname"], user=login, timeout=PATIENCE)
	tap.ok(done.stdout == "rig1\n", "-launcher fork stays where it is", done)
	text, record = batch("%s sh -c 'test $PMI_RANK = 0 || exit 9'; echo $?" % MPIRUN, "-N2", "-n2")
	tap.ok("rank 1 " in text and text.endswith("\n9\n"), "a rank's status comes back", text)
	done = r[1].run(["salloc", "-Q", "-N2", MPIRUN, "cat"], input="a line\n", user=login, timeout=PATIENCE)
	tap.ok(done.stdout == "a line\n", "standard input reaches rank 0", done)
	if len(CORES) < 2:
		tap.skip("ranks have the processors that Slurm gave to the step", "there is one processor")
	else:
		text, record = batch("%s -l grep Cpus_allowed_list /proc/self/status" % MPIRUN, "-N2", "-n2", "-w", "rig2,rig3")
		tap.ok(re.findall(r"list:\s*(\S+)", "".join(sorted(text.splitlines(True)))) == [str(CORES[0]), str(CORES[-1])],
		       "ranks have the processors that Slurm gave to the step", text)
	nothing_left()


def test_example():
	"""examples/slurm.sbatch, and what its comment promises."""
	out = out_file()
	done = r[1].run(["sbatch", "--parsable", "-D", os.path.join(godwit.BUILD, "examples"), "-w", "rig3,rig4", "-o", out, EXAMPLE,
	                 "--size", "300", "--iterations", "100000000"], env={"PATH": godwit.BUILD + ":" + r.env["PATH"]}, user=login, check=True)
	job = int(done.stdout)
	rig.until("the program runs", PATIENCE, lambda: "iteration" in read(out))
	tool = ["srun", "--jobid=%d" % job, "--overlap", "-n1", "-w", "rig3", GODWIT]
	moved = r[1].run(tool + ["migrate", "0", "--to", "1"], user=login, timeout=PATIENCE)
	status = r[1].run(tool + ["status", "--json"], user=login, timeout=PATIENCE)
	where = [x["cluster"] for x in json.loads(status.stdout or "{}").get("ranks", [])]
	tap.ok(moved.returncode == 0 and where == [1, 0, 1, 1], "the example runs, and is seen and moved from outside by srun", moved, status)
	r[1].run(["scancel", str(job)], user=login, check=True, timeout=PATIENCE)
	slurm.wait_state(job, ENDED, PATIENCE)
	nothing_left()


def test_words():
	def check(sentence, says, command):
		done = r[1].run(command, user=login, timeout=PATIENCE)
		tap.ok(done.returncode == 1 and done.stderr.count("\n") == 1 and all(s in done.stderr for s in says), sentence, done)

	check("a host outside the allocation", ["host 'rig4' is not in the Slurm allocation", "rig[2-3]"],
	      ["salloc", "-Q", "-N2", "-w", "rig2,rig3", MPIRUN, "-hosts", "rig2,rig4", "true"])
	check("-launcher slurm outside one", ["here is none", "sbatch"], [MPIRUN, "-launcher", "slurm", "true"])
	check("an allocation that is over", ["the Slurm allocation 99999 is over"],
	      ["env", "SLURM_JOB_ID=99999", "SLURM_JOB_NODELIST=rig2", "SLURM_TASKS_PER_NODE=1", MPIRUN, "true"])
	done = r[1].run(["srun", "-n2", MPIRUN, "true"], user=login, timeout=PATIENCE)
	tap.ok(done.returncode == 1 and "one of 2 mpiruns that srun has started" in done.stderr, "an srun of several mpiruns", done)
	r[3].run(["mount", "-t", "tmpfs", "none", godwit.BUILD], check=True)
	check("a node without Godwit", ["host rig3", "there is no godwitd", "same path"], ["salloc", "-Q", "-N2", "-w", "rig2,rig3", MPIRUN, "true"])
	r[3].run(["umount", godwit.BUILD], check=True)
	nothing_left()


def in_groups(job, node, pid):
	"""The step's control groups in which the process of that host is."""
	path = "/sys/fs/cgroup/%s/slurm_" + node.name + "/uid_*/job_%d/step_[0-9]*/" % job
	done = node.run("grep -lx %d %s" % (pid, " ".join(path % c + "cgroup.procs " + path % c + "*/cgroup.procs"
	                                                 for c in ("freezer", "memory", "cpuacct"))))
	return sorted({p.split("/")[4] for p in done.stdout.split()})


def begin_moving():
	"""A job on three nodes that never ends, its ranks where they begin: number, output, cluster of each rank."""
	out = out_file()
	job = submit(r[1], "exec %s %s -s 300 -i 100000000" % (MPIRUN, JACOBI), "-N3", "-n4", "-o", out, user=login)
	rig.until("the program runs", PATIENCE, lambda: "iteration" in read(out))
	return job, out, [0, 0, 1, 2]


def move_on(count_in):
	"""Moves ranks of the job, one after the other, while its mpirun runs; a word for each into @count_in."""
	with open(count_in, "w") as f:
		return r[2].popen("i=0; while pgrep -x mpirun > /dev/null; do %s migrate $((i %% 4)) --to $(((i + i / 4 + 1) %% 3)) && echo moved; "
		                  "i=$((i + 1)); done" % GODWIT, stdout=f, stderr=subprocess.DEVNULL, user=login)


def test_moves():
	out, moved = out_file(), out_file()
	alone = subprocess.run([MPIRUN, "-n", "1", JACOBI, "-q", "-s", "600", "-i", "1500"], capture_output=True, text=True, timeout=90).stdout
	job = submit(r[1], "%s %s -s 600 -i 1500" % (MPIRUN, JACOBI), "-N3", "-n4", "-o", out, user=login)
	rig.until("the program runs", PATIENCE, lambda: "iteration" in read(out))
	mover = move_on(moved)
	record = slurm.wait_state(job, ENDED, PATIENCE)
	mover.wait(PATIENCE)
	moves = read(moved).count("moved")
	tap.ok(record["ExitCode"] == "0:0" and moves >= 3 and godwit.checksum(read(out)) and godwit.checksum(read(out)) == godwit.checksum(alone),
	       "after %d moves between three nodes the answer is bit for bit that of one rank that never moved" % moves, read(out), alone)
	nothing_left()


def test_groups():
	sentence = "every rank is counted, limited and cancelled with the step of the node where it is now"
	job, out, where = begin_moving()
	done = []
	for turn in range(8):
		where[turn % 4] = (where[turn % 4] + 1) % 3
		done.append(r[2].run([GODWIT, "migrate", str(turn % 4), "--to", str(where[turn % 4])], user=login, timeout=PATIENCE))
	status = json.loads(r[2].run([GODWIT, "status", "--json"], user=login, timeout=PATIENCE).stdout or "{}")
	tap.ok(all(d.returncode == 0 for d in done) and [x["cluster"] for x in status.get("ranks", [])] == where,
	       "eight moves, to the nodes that were named", status, *[d.stderr for d in done])
	if r.cgroup:
		groups = [in_groups(job, r[NODES[where[i]]], x["pid"]) for i, x in enumerate(status["ranks"])]
		tap.ok(groups == [["cpuacct", "freezer", "memory"]] * 4, sentence, groups)
	else:
		tap.skip(sentence, rig.why_no_cgroups())
	r[1].run(["scancel", str(job)], user=login, check=True, timeout=PATIENCE)
	slurm.wait_state(job, ENDED, PATIENCE)
	nothing_left()


def test_grow():
	"""A node that the job did not use comes to it."""
	out = out_file()
	job = submit(r[1], "exec %s -hosts rig2,rig3 -n 2 %s -s 300 -i 100000000" % (MPIRUN, JACOBI), "-N3", "-o", out, user=login)
	rig.until("the program runs", PATIENCE, lambda: "iteration" in read(out))
	outside = r[2].run([GODWIT, "add", "rig1"], user=login, timeout=PATIENCE)
	tap.ok(outside.returncode == 1 and "rig1 was not added" in outside.stderr and "not in the Slurm allocation" in outside.stderr,
	       "a host outside the allocation is not added to a job", outside)
	done = [r[2].run([GODWIT] + words, user=login, timeout=PATIENCE) for words in (["add", "rig4"], ["migrate", "0", "--to", "rig4"], ["status", "--json"])]
	pid = json.loads(done[2].stdout or "{}").get("ranks", [{}])[0].get("pid", 0)
	groups = in_groups(job, r[4], pid) if r.cgroup else ["cpuacct", "freezer", "memory"]
	tap.ok(all(d.returncode == 0 for d in done) and groups == ["cpuacct", "freezer", "memory"],
	       "a node of the allocation is, and a rank moves there" + (" into the step's groups" if r.cgroup else ""), groups, *[d.stderr for d in done])
	r[1].run(["scancel", str(job)], user=login, check=True, timeout=PATIENCE)
	slurm.wait_state(job, ENDED, PATIENCE)
	nothing_left()


def test_ends():
	def cancel(*options):
		return lambda job: r[1].run(["scancel"] + list(options) + [str(job)], user=login, check=True, timeout=PATIENCE)
	check_end("a cancelled job says so once", cancel(), [143], ["Slurm ends this job"])
	check_end("ranks that ignore it end after KillWait", cancel(), [137], ["Slurm ends this job", "Slurm has killed"], times=2,
	          command=["sh", "-c", "trap '' TERM; echo up $PMI_RANK; while :; do sleep 0.1; done"])
	check_end("a cancelled step", lambda job: r[1].run(["scancel", "%d.0" % job], user=login, check=True, timeout=PATIENCE), [1], ["has gone"])
	check_end("mpirun is killed", lambda job: r[1].run("kill -9 $(pgrep -x mpirun)"), [0, 137], [], times=0)  # salloc says either
	check_end("srun is killed", lambda job: r[1].run("kill -9 $(pgrep -ox srun)"), [1], ["has gone"])
	fifo = os.path.join(r.shared, "go")
	os.mkfifo(fifo)
	os.chmod(fifo, 0o666)
	job = Live(["sh", "-c", "%s %s & read go < %s" % (MPIRUN, " ".join(UP[:2] + ["'%s'" % UP[2]]), fifo)], "-N2", "-n2")
	tap.ok(job.wait_for("up ", 2), "a job in the background of salloc", job.text())
	with open(fifo, "w") as f:
		f.write("go\n")
	code = job.end()
	nothing_left("ends with salloc")
	tap.ok(code == 0 and job.text().count("mpirun: ") == 1 and re.search("Slurm (ends|has killed)|has gone", job.text()), "with a sentence",
	       code, job.text())

	job = Live([MPIRUN, "sh", "-c", "trap 'echo got $PMI_RANK' USR1; echo up; while :; do sleep 0.1; done"], "-N2", "-n3")
	job.wait_for("up", 3)
	number = newest()
	r[1].run(["scancel", "-s", "USR1", str(number)], user=login, check=True, timeout=PATIENCE)
	job.wait_for("got", 3)
	r[1].run(["scancel", str(number)], user=login, check=True, timeout=PATIENCE)
	code = job.end()
	got = sorted(re.findall("got .", job.text()))
	if not r.cgroup:  # then Slurm itself has signalled every process that descends from the task, too
		got = sorted(set(got))
	tap.ok(got == ["got 0", "got 1", "got 2"] and code == 143, "scancel --signal reaches each rank, once", code, job.text())
	nothing_left()


def test_cancel(turn):
	"""A job is cancelled while its ranks move."""
	rng = random.Random(args.seed + turn)
	how = rng.choice([[], [], ["--full"], ["-s", "KILL"]])
	job, out, _ = begin_moving()
	moved = out_file()
	mover = move_on(moved)
	wanted = rng.randrange(1, 12)
	enough = godwit.wait_for(lambda: read(moved).count("moved") >= wanted, PATIENCE)
	r[1].run(["scancel"] + how + [str(job)], user=login, check=True, timeout=PATIENCE)
	record = slurm.wait_state(job, ENDED, PATIENCE)
	mover.wait(PATIENCE)
	found = left()
	tap.ok(enough and record["JobState"] == "CANCELLED" and not found, "job %d, seed %d, cancelled (%s) after %d moves leaves nothing" %
	       (turn, args.seed, " ".join(how) or "scancel", read(moved).count("moved")), record["JobState"], read(out), *found)


def test_lost():
	def fail(job):
		r[4].power_off()
	check_end("a node fails: the job ends", fail, [1], ["host rig4", "rank 1"], options=("-N2", "-n2", "-w", "rig3,rig4"))


cores = [None, str(CORES[0]), str(CORES[-1]), None, None]
with rig.Rig(5, cores=cores, keep=[rig_mpi.prefix()], cgroups=not rig.why_no_cgroups()) as r:
	login = rig_mpi.login(r)
	try:
		slurm = rig_slurm.Slurm(r, nodes=[r[n] for n in NODES + (5,)], slots=8, memory_mib=8000)
	except rig.RigUnavailable as e:
		rig_mpi.skip(e)
	before = {h.name: traces(h) for h in r.hosts}
	limited_out = out_file()
	limited = submit(r[1], "exec %s sh -c 'echo begun; exec sleep 1000'" % MPIRUN, "-n2", "-w", "rig5", "-o", limited_out, user=login)
	slurm.wait_state(limited, ["RUNNING"])
	rig.until("the job whose time will be over has begun", PATIENCE, lambda: read(limited_out).count("begun") == 2)
	r[1].run(["scontrol", "update", "JobId=%d" % limited, "EndTime=now+1"], check=True)  # Slurm looks at it twice a minute
	r[1].run(["scontrol", "update", "NodeName=rig5", "State=DRAIN", "Reason=busy"], check=True)  # for the others
	busy = {"rig5"}
	test_start()
	test_example()
	test_words()
	test_moves()
	test_groups()
	test_grow()
	test_ends()
	for turn in range(args.cancels):
		test_cancel(turn)
	record, busy = slurm.wait_state(limited, ENDED, PATIENCE), set()
	tap.ok(record["JobState"] == "TIMEOUT" and read(limited_out).count("mpirun: ") == 1 and "Slurm ends this job" in read(limited_out),
	       "a job whose time is over says so once", record, read(limited_out))
	nothing_left()
	test_lost()

sys.exit(tap.done())
