#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Room is proved before anything stops: a destination that has too little of something, or another processor, refuses with a
sentence that names it, and the rank runs on; once there is room the same move succeeds, and what the rank has is counted there."""
import fcntl, resource
import rig, rig_mpi
from godwit import *

tap = Tap(200)
CONDUCT = os.path.join(BUILD, "tests/programs/conduct")
work = work_dir("room")
HOSTS = ["-launcher", "fork", "-hosts", "a:1,b:1"]
V1 = "/sys/fs/cgroup/"
numbers = iter(range(1000))


class Carry:
	"""Two ranks on two hosts that hold @mib each and talk."""

	def __init__(self, mib, *options, n=2, hosts=HOSTS, env=None):
		self.stop = os.path.join(work, "stop%d" % next(numbers))
		self.job = Job(tap, hosts + list(options) + ["-n", n, CONDUCT, "carry", mib, self.stop], env=env)
		if not self.job.wait_line("^ready", 60, count=n):
			tap.bail("the job did not start")
		self.head, self.n = self.job.head(), n

	def daemon(self, cluster):
		return next(c["pid"] for c in self.head.status()["clusters"] if c["cluster"] == cluster)

	def move(self, rank, to):
		m = self.head.migrate([rank], to)[0]
		return m["status"], m["text"]

	def end(self, sentence):
		end_carry(self.job, self.stop, sentence, self.n)


class Group:
	"""A control group, which this test makes and takes away. @controller: of version 1; or where version 2 is mounted."""

	made = []

	def __init__(self, controller, path):
		base = os.path.join(V1, controller)
		for part in ["godwit-room-%d" % os.getpid()] + path.split("/"):
			base = os.path.join(base, part)
			if not os.path.isdir(base):
				os.mkdir(base)
				Group.made.append(base)
		self.dir = base

	def write(self, name, value):
		with open(os.path.join(self.dir, name), "w") as f:
			f.write("%s\n" % value)

	def read(self, name):
		with open(os.path.join(self.dir, name)) as f:
			return f.read()

	@classmethod
	def remove(cls):
		for d in reversed(cls.made):
			wait_for(lambda: try_remove(d))  # processes that have ended are in it for a moment


def try_remove(d):
	try:
		os.rmdir(d)
	except OSError:
		return False
	return True


def no_groups(controller):
	if os.getuid() != 0:
		return "control groups are made by root"
	if not os.access(os.path.join(V1, controller, "tasks"), os.W_OK):
		return "no '%s' control groups of version 1 are mounted that can be written" % controller
	return None


def refused(sentence, got, *says):
	status, text = got
	tap.ok(status != 0 and "host %s" % os.uname().nodename in text and all(s in text for s in says), sentence, status, text)


# ---- limits ----
def limits():
	for which, name, option, less in ((resource.RLIMIT_NOFILE, "open files", "n", 256), (resource.RLIMIT_STACK, "the stack", "s", 1 << 20)):
		c = Carry(1)
		daemon, own = c.daemon(1), resource.prlimit(c.head.ranks()[0]["pid"], which)
		enough = own[0] if own[0] >= 0 else own[1]
		resource.prlimit(daemon, which, (enough, enough))  # the daemon may not have more than the rank is using
		got, there = c.move(0, 1), resource.prlimit(c.head.ranks()[0]["pid"], which)
		tap.ok(got[0] == 0 and there[0] == own[0], "a limit of %s that is granted there is as it was" % name, got, own, there)
		got = c.move(0, 0)
		tap.ok(got[0] == 0, "and the rank comes back", *got)
		resource.prlimit(daemon, which, (less, less))
		got = c.move(0, 1)
		if got[0] == 0:
			tap.skip("one that is not granted", "this user may raise limits")
		else:
			refused("one that is not granted", got, "limit of %s is %s" % (name, own[0] if own[0] >= 0 else "unlimited"),
			        "%d are granted" % less, "ulimit -H%s" % option)
		c.end("the rank ran on")


# ---- control groups ----
def memory():
	why = no_groups("memory")
	if why:
		tap.skip("memory of the destination's control group", why)
		return
	step, job = Group("memory", "job/step"), Group("memory", "job")
	c = Carry(64)
	step.write("cgroup.procs", c.daemon(1))
	step.write("memory.limit_in_bytes", 48 << 20)
	refused("a rank of 64 MiB and a group of 48", c.move(0, 1), "MiB of memory", "control group", "job/step", "may have 48 MiB")
	step.write("memory.limit_in_bytes", -1)
	job.write("memory.limit_in_bytes", 56 << 20)
	refused("the limit of the level above", c.move(0, 1), "/job'", "may have 56 MiB")
	tap.ok(int(step.read("memory.max_usage_in_bytes")) < 32 << 20, "nothing of the rank had come by then",
	       step.read("memory.max_usage_in_bytes"))
	job.write("memory.limit_in_bytes", 256 << 20)
	got = c.move(0, 1)
	tap.ok(got[0] == 0, "with more room it moves", *got)
	pid = c.head.ranks()[0]["pid"]
	used = int(step.read("memory.usage_in_bytes"))
	tap.ok(str(pid) in step.read("cgroup.procs").split() and used >= 64 << 20, "it lives in the group of its new daemon, which is "
	       "charged for its memory", used, pid)
	got = c.move(0, 0)
	tap.ok(got[0] == 0 and str(c.head.ranks()[0]["pid"]) not in step.read("cgroup.procs").split() and
	       wait_for(lambda: int(step.read("memory.usage_in_bytes")) < 32 << 20), "and leaves it when it moves on", *got)
	c.end("the job ends well")

	c = Carry(64, n=3, hosts=["-launcher", "fork", "-hosts", "a:2,b:1"])
	step.write("cgroup.procs", c.daemon(1))
	job.write("memory.limit_in_bytes", 120 << 20)
	answers = c.head.migrate([0, 1], 1)
	tap.ok(sorted(a["status"] == 0 for a in answers) == [False, True] and "memory" in "".join(a["text"] for a in answers),
	       "two at once, and room for one: one comes, the other stays", *answers)
	failed = next(a["rank"] for a in answers if a["status"])
	job.write("memory.limit_in_bytes", 320 << 20)
	got = c.move(failed, 1)
	tap.ok(got[0] == 0, "what was promised is free again: the other one comes later", *got)
	c.end("and the job ends well")


HUGE = """import mmap, os, sys, time
m = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)  # MAP_HUGETLB
for at in range(0, len(m), 4096):
	m[at:at + 8] = at.to_bytes(8, "little")
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
	time.sleep(0.01)
print("well" if all(m[at:at + 8] == at.to_bytes(8, "little") for at in range(0, len(m), 4096)) else "ill")
"""


class Pages:
	"""Reserved huge pages of the whole host: who changes how many there are holds a lock, which container/test_state takes too."""

	def __init__(self):
		self.lock = open("/proc/sys/vm/nr_overcommit_hugepages", "r+")
		fcntl.flock(self.lock, fcntl.LOCK_EX)
		self.before = self.total()
		# a process of its own puts it right, however the test ends; it has the lock, too
		self.sweeper = subprocess.Popen(["sh", "-c", "read end; echo %d > /proc/sys/vm/nr_hugepages" % self.before], stdin=subprocess.PIPE,
		                                pass_fds=[self.lock.fileno()], start_new_session=True)

	def total(self):
		with open("/proc/sys/vm/nr_hugepages") as f:
			return int(f.read())

	def more(self, n):
		"""So many more than there were. Return whether the kernel has made them"""
		with open("/proc/sys/vm/nr_hugepages", "w") as f:
			f.write("%d\n" % (self.before + n))
		return self.total() >= self.before + n

	def close(self):
		self.lock.close()
		self.sweeper.communicate()


def huge():
	sentence = "huge pages that are free at the destination need no other memory there"
	why = no_groups("memory")
	if not why and not os.access("/proc/sys/vm/nr_hugepages", os.W_OK):
		why = "how many huge pages there are is not ours to say"
	if why:
		tap.skip(sentence, why)
		return
	step, pages = Group("memory", "huge"), Pages()
	try:
		if not pages.more(64):
			tap.skip(sentence, "128 MiB of them are not to be had here now")
			return
		stop = os.path.join(work, "stop-huge")
		job = Job(tap, HOSTS + ["-n", 1, sys.executable, "-c", HUGE, stop])
		if not job.wait_line("^ready", 60):
			tap.bail("the job did not start")
		head = job.head()
		step.write("cgroup.procs", next(c["pid"] for c in head.status()["clusters"] if c["cluster"] == 1))
		step.write("memory.limit_in_bytes", 56 << 20)
		moves = [head.migrate([0], to)[0] for to in (1, 0)]
		tap.ok(all(m["status"] == 0 for m in moves), sentence, *moves)
		pages.more(32)  # those that it has are not given back
		m = head.migrate([0], 1)[0]
		refused("and where none are they do", (m["status"], m["text"]), "MiB of memory", "64 of them since too few huge pages of 2048 KiB are free",
		        "may have 56 MiB")
		open(stop, "w").close()
		tap.ok(job.end(60) == 0 and "well" in job.out(), "the rank ran on", *job.tail())
	finally:
		pages.close()


def processes():
	why = no_groups("pids")
	if why:
		tap.skip("processes of the destination's control group", why)
		return
	step = Group("pids", "step")
	c = Carry(1)
	step.write("cgroup.procs", c.daemon(1))
	now = int(step.read("pids.current"))
	step.write("pids.max", now + 2)
	refused("a rank of two threads and a group with room for two processes", c.move(0, 1), "needs 3 processes", "leaves 2", "pids.max")
	step.write("pids.max", now + 3)
	got = c.move(0, 1)
	tap.ok(got[0] == 0, "with one more it moves", *got)
	c.end("the job ends well")


def unified():
	"""Version 2, which may have no controllers here: a rank is where its daemon is, with all its threads."""
	sentence = "a rank lives in the version 2 group of the daemon that it comes to, with all its threads"
	with open("/proc/mounts") as f:
		at = [l.split()[1] for l in f if l.split()[2] == "cgroup2"]
	if os.getuid() != 0 or not at or not os.access(os.path.join(at[0], "cgroup.procs"), os.W_OK):
		tap.skip(sentence, "no control groups of version 2 are mounted that this user can write")
		return
	steps = [Group(at[0], "first/step_0"), Group(at[0], "second/step_0")]

	def group_of(c):
		tasks = "/proc/%d/task" % c.head.ranks()[0]["pid"]
		return sorted({l for tid in os.listdir(tasks) for l in open(os.path.join(tasks, tid, "cgroup")) if l.startswith("0::")})

	c = Carry(1)
	for cluster, step in enumerate(steps):
		step.write("cgroup.procs", c.daemon(cluster))
	for to in 1, 0, 1:
		got, pid = c.move(0, to), str(c.head.ranks()[0]["pid"])
		where = group_of(c)
		tap.ok(got[0] == 0 and where == ["0::%s\n" % steps[to].dir[len(at[0]):]] and [pid in s.read("cgroup.procs").split() for s in steps] ==
		       [to == 0, to == 1], sentence if to == 1 else "and of the one that it goes back to", *got, where)
	c.end("the job ends well")


# ---- processors ----
LEVELS = "/lib64/ld-linux-x86-64.so.2 --help | grep -c 'x86-64-v3 (supported, searched)'"


def features():
	with open("/proc/cpuinfo") as f:
		flags = re.search(r"^flags\s*: (.*)", f.read(), re.M).group(1).split()
	if "avx2" not in flags:
		tap.skip("processors that differ", "this one has no AVX2 that could be hidden")
		return
	lesser = {"GODWIT_CPU_HIDE": "avx2@1,fma@1,avx512f@1"}
	c = Carry(1, "-cpu-baseline", "host", env=lesser)
	refused("a processor that lacks something", c.move(0, 1), "lacks fma,avx2", "-cpu-baseline auto")
	got = c.move(1, 0)
	tap.ok(got[0] == 0, "a rank of the lesser one may go to the better one", *got)
	refused("and stays there, since it may have met new things", c.move(1, 1), "lacks fma,avx2")
	c.end("the job ends well")
	c = Carry(1, env=lesser)
	moves = [c.move(rank, to) for rank, to in ((0, 1), (1, 0), (0, 0), (1, 1))]
	tap.ok(all(m[0] == 0 for m in moves), "a job of hosts that differ keeps to what both have: its ranks go everywhere", *moves)
	c.end("the job ends well")

	show = "test $PMI_RANK = 1 || { echo level=$(%s); env; }" % LEVELS
	native = subprocess.run(LEVELS, shell=True, capture_output=True, text=True).stdout.strip()
	user = dict(lesser, GLIBC_TUNABLES="glibc.malloc.arena_max=3:glibc.cpu.hwcaps=-ERMS", OPENBLAS_CORETYPE="Prescott")
	job = Job(tap, HOSTS + ["-n", "2", "sh", "-c", show], env=user)
	status, out = job.end(60), dict(l.split("=", 1) for l in job.out() if "=" in l)
	if native == "1":
		tap.ok(status == 0 and out.get("level") == "0", "the dynamic linker takes no libraries that need more", status, out.get("level"))
	else:
		tap.skip("the dynamic linker takes no libraries that need more", "it does not say what it takes, or this processor has no x86-64-v3")
	tunables = out.get("GLIBC_TUNABLES", "").split(":")
	tap.ok(tunables[0] == "glibc.malloc.arena_max=3" and tunables[1].startswith("glibc.cpu.hwcaps=-ERMS,") and
	       {"-AVX2", "-AVX2_Usable", "-AVX_Fast_Unaligned_Load"} < set(tunables[1].split(",")),
	       "what the user tells glibc stays, beside it", tunables)
	tap.ok(out.get("OPENBLAS_CORETYPE") == "Prescott" and out.get("MKL_ENABLE_INSTRUCTIONS") == "AVX", "and the user's own choice of a kernel",
	       out.get("OPENBLAS_CORETYPE"), out.get("MKL_ENABLE_INSTRUCTIONS"))
	names = out.get("GODWIT_CPU_BASELINE", "").split(",")
	tap.ok("sse4_2" in names and "avx2" not in names, "the baseline can be read in a variable", names)
	job = Job(tap, HOSTS + ["-n", "2", "sh", "-c", show], env=dict(lesser, GODWIT_CPU_HIDE=""))
	status, out = job.end(60), dict(l.split("=", 1) for l in job.out() if "=" in l)
	tap.ok(status == 0 and "GODWIT_CPU_BASELINE" not in out and out.get("level") == native, "where hosts do not differ nothing changes",
	       status, out.get("level"))
	job = Job(tap, ["-cpu-baseline", "some", "-n", "1", "true"])
	tap.ok(job.end(30) == 1 and "-cpu-baseline some" in "".join(job.out("err")), "another word is refused", job.out("err"))


# ---- clocks ----
MIGRATE = """
import subprocess, sys
godwit, moves, failed = sys.argv[1], int(sys.argv[2]), 0
for i in range(moves):  # round the hosts, the second rank the other way
	for rank, to in ((0, (i + 1) % 3), (1, (1 - i - 1) % 3)):
		p = subprocess.run([godwit, "migrate", str(rank), "--to", str(to)], capture_output=True, text=True, timeout=60)
		failed += p.returncode != 0
		if p.returncode: print(p.stderr, end="")
print("failed", failed)
"""


def clocks():
	"""Ten moves between hosts whose clocks differ by 5000 s, both ways and back."""
	try:
		with rig_mpi.hosts(3, clocks=[0, 5000, 0]) as r:
			login = rig_mpi.login(r)
			for kernels, sentence in ((1, "hosts that say they are one kernel"), (3, "hosts of different kernels")):
				for h in r.hosts if kernels > 1 else []:
					own = os.path.join(r.shared, "boot-id-%s" % h.name)
					with open(own, "w") as f:
						f.write("%s\n" % uuid.uuid4())
					h.run(["mount", "--bind", own, "/proc/sys/kernel/random/boot_id"], check=True)
				stop = os.path.join(r.shared, "stop%d" % kernels)
				p = r[1].popen([os.path.join(BUILD, "mpirun"), "-hosts", "rig1,rig2,rig3", "-n", "2",
				                os.path.join(BUILD, "tests/programs/clocks"), stop], user=login, stdout=subprocess.PIPE,
				               stderr=subprocess.PIPE, text=True)
				lines = [p.stdout.readline(), p.stdout.readline()]
				moved = r[1].run([sys.executable, "-c", MIGRATE, os.path.join(BUILD, "godwit"), "10"], timeout=120, user=login)
				open(stop, "w").close()
				out, err = rig.finish(p, 60)
				found = [fields(l) for l in out.split("\n") if l.startswith("clocks ")]
				tap.ok(p.returncode == 0 and len(found) == 2 and moved.stdout.strip() == "failed 0", "twenty moves between " + sentence +
				       ", whose clocks differ by 5000 s", p.returncode, *lines, out, err, moved.stdout, moved.stderr)
				if len(found) != 2:
					continue
				tap.diag(found)
				tap.ok(all(f["back"] == "0" for f in found), "no clock goes back", *found)
				# a clock of another host would be wrong by thousands of seconds; loaded machines by less than a minute
				tap.ok(all(int(f["ahead_ms"]) < 60000 and int(f["behind_ms"]) < 60000 for f in found), "or jumps", *found)
				tap.ok(all(f["early"] == "0" and int(f["late_ms"]) < 60000 and min(map(int, f["sleeps"].split(","))) > 0 for f in found),
				       "sleeps of seven kinds are as long as they should be", *found)
	except rig.RigUnavailable as e:
		tap.skip("clocks that differ", str(e))


try:
	limits()
	memory()
	huge()
	processes()
	unified()
	features()
	clocks()
finally:
	Group.remove()
sys.exit(tap.done())
