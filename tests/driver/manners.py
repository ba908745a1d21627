#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A good citizen: where a job can run it runs; where not, one sentence says what to do; nothing is ever left behind.

As root the places are made by unshare, prlimit, setpriv and a seccomp filter; what the one who runs this may not make is
skipped with the reason. Two ordinary users are needed for some: any two ids will do, nobody must know them.
"""
import shutil, signal

from godwit import *

SENTENCE_MAX = 2  # lines of ours on standard error, besides those of MPICH and of the loader
USER, OTHER = 54021, 54022
is_root = os.geteuid() == 0
tap = Tap(280)
place = work_dir("manners")
SRC = os.environ.get("top_srcdir", os.getcwd())
build = os.path.join(place, "build")
libs = os.path.join(place, "lib")
tmp = os.path.join(place, "tmp")


def copy_build():
	"""What a job needs, where everybody may look: the build tree and MPICH may lie in root's home."""
	for d in ("build/.libs", "build/tests/programs", "lib", "tmp"):
		os.makedirs(os.path.join(place, d))
	for name in ("mpirun", "godwitd", "godwit", "tests/programs/conduct", "tests/programs/deny"):
		shutil.copy(os.path.join(BUILD, name), os.path.join(build, name))
	provider = os.path.join(BUILD, ".libs/libgodwit-fi.so")
	shutil.copy(os.path.realpath(provider), os.path.join(build, ".libs/libgodwit-fi.so"))
	abi = os.path.join(BUILD, ".libs/abi")
	if os.path.isdir(abi):
		shutil.copytree(abi, os.path.join(build, ".libs/abi"), symlinks=True)
	prefix = mpich_prefix()
	for name in os.listdir(os.path.join(prefix, "lib")) if prefix else []:
		if ".so" in name:
			shutil.copy(os.path.join(prefix, "lib", name), os.path.join(libs, name), follow_symlinks=False)
	for root, dirs, files in os.walk(place):
		for name in dirs + files:
			path = os.path.join(root, name)
			if not os.path.islink(path):
				os.chmod(path, os.stat(path).st_mode | (0o755 if os.path.isdir(path) else 0o444))
	os.chmod(place, 0o755)
	os.chmod(tmp, 0o1777)


copy_build()
mpirun, godwit = os.path.join(build, "mpirun"), os.path.join(build, "godwit")
conduct, deny = (os.path.join(build, "tests/programs", n) for n in ("conduct", "deny"))
os.environ["GODWIT_MPICH"] = place
os.environ["TMPDIR"] = tmp


def as_user(uid=USER):
	return ["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid, "--clear-groups", "--"] if is_root else []


def can(*command):
	try:
		return subprocess.run(list(command), capture_output=True, timeout=20).returncode == 0
	except (OSError, subprocess.TimeoutExpired):
		return False


class Run:
	"""One job under some words before mpirun; waits for its end unless it is told not to."""

	def __init__(self, before, args, cwd=None, env=None, wait=True, stdout=subprocess.PIPE, timeout=40):
		self.mark = uuid.uuid4().hex
		full = dict(os.environ if env is None else env, GODWIT_TEST_MARK=self.mark)
		self.proc = subprocess.Popen([str(w) for w in list(before) + list(args)], env=full, cwd=cwd or tmp, stdin=subprocess.DEVNULL,
		                             stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace")
		self.status, self.out, self.err = None, "", ""
		if wait:
			self.end(timeout)

	def end(self, timeout=40):
		try:
			self.out, self.err = self.proc.communicate(timeout=timeout)
			self.out = self.out or ""
			self.status = self.proc.returncode
		except subprocess.TimeoutExpired:
			self.proc.kill()
			self.out, self.err = self.proc.communicate()
			self.status = None
		self.left = self.gone()
		return self

	def processes(self):
		job = Job.__new__(Job)
		job.mark = "GODWIT_TEST_MARK=" + self.mark
		return job.processes()

	def gone(self):
		job = Job.__new__(Job)
		job.mark = "GODWIT_TEST_MARK=" + self.mark
		left = job.gone(15)
		for pid in left:
			os.kill(pid, signal.SIGKILL)
		return left

	def told(self):
		return [l for l in self.err.split("\n") if l and not l.startswith(("ready", "Abort(", "internal_", "MPI", "create_"))]

	def details(self):
		return ["status %s, left %s" % (self.status, self.left), "out: " + self.out[-600:], "err: " + self.err[-1500:]]


def runs(sentence, before, cwd=None, env=None, args=None):
	r = Run(before, args or [mpirun, "-n", 2, conduct, "hello"], cwd=cwd, env=env)
	return tap.ok(r.status == 0 and r.out.count("hello from rank") == 2 and not r.left, sentence, *r.details())


def refuses(sentence, before, words, status=None, args=None, cwd=None, stdout=subprocess.PIPE, env=None):
	"""It ends with a failure and says why: one sentence that has all these words."""
	r = Run(before, args or [mpirun, "-n", 2, conduct, "hello"], cwd=cwd, stdout=stdout, env=env)
	mine = [l for l in r.told() if "mpirun:" in l]
	tap.ok((r.status == status if status is not None else r.status not in (0, None)) and len(mine) == 1 and
	       len(r.told()) <= SENTENCE_MAX and all(w in r.err for w in words) and not r.left,
	       "%s: %s" % (sentence, mine[0][:150] if mine else "(no sentence)"), *r.details())


def moving_job(before, seconds=1.5, clusters=2):
	"""A job of two ranks that compute, once both are ready: for requests to move them."""
	r = Run(before, [mpirun, "-n", 2, "-clusters", clusters, conduct, "compute", seconds], wait=False)
	for _ in range(2):
		if not r.proc.stdout.readline().startswith("ready"):
			break
	return r


def job_of(r):
	"""The number of this job, by the process that listens at its name."""
	with open("/proc/net/unix") as f:
		names = set(re.findall(r"@(godwit/\d+/([0-9a-f]{8})/head)$", f.read(), re.M))
	inodes = set()
	for pid in r.processes():
		try:
			for fd in os.listdir("/proc/%d/fd" % pid):
				inodes.add(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
		except OSError:
			pass
	with open("/proc/net/unix") as f:
		for line in f:
			m = re.search(r"(\d+) @godwit/\d+/([0-9a-f]{8})/head$", line.rstrip())
			if m and "socket:[%s]" % m.group(1) in inodes:
				return m.group(2)
	return "0"


def tool(before, *args):
	p = subprocess.run([str(w) for w in list(before) + [godwit] + list(args)], capture_output=True, text=True, timeout=60, cwd=tmp)
	return p.returncode, p.stdout, p.stderr.strip()


# one that other users can run too
python = sys.executable if can(*as_user(OTHER), sys.executable, "-c", "") else "/usr/bin/python3"
before_shm = shm_entries()
cannot = None if is_root else "only root can become two users"

# ---- limits ----------------------------------------------------------------------------------------------------------

runs("a job runs with 100 open files as the most", ["prlimit", "--nofile=100", "--"])
runs("with 30 open files now and many allowed", ["prlimit", "--nofile=30:4096", "--"])
refuses("12 open files are too few", ["prlimit", "--nofile=12", "--"], ["open files", "ulimit -Hn"], 1)
refuses("so are 60 for the descriptors of a rank", ["prlimit", "--nofile=60", "--"], ["open files", "ulimit -Hn"], 1)
if is_root:
	for n in (1, 3, 5):
		refuses("a user with room for %d processes" % n, as_user() + ["prlimit", "--nproc=%d" % n, "--"], ["ulimit -u"])
else:
	tap.skip("a user with room for few processes", "the user of this test has others")
runs("no memory may be locked", ["prlimit", "--memlock=0", "--"])
runs("64 KiB of stack", ["prlimit", "--stack=65536", "--"])
runs("no core, no priority, 19 of niceness", ["prlimit", "--core=0", "--", "nice", "-n", "19"])
runs("files of a rank may have no more than 1 KiB", ["prlimit", "--fsize=1024:unlimited", "--"])
refuses("no file may have any size", ["prlimit", "--fsize=0", "--"], ["File too large", "ulimit -f"])
runs("100 MB of addresses", ["prlimit", "--as=100000000", "--"])
for kb in range(5000, 20000, 250): # what the loader of programs needs depends on how large mpirun is; with a bit more mpirun says it itself
	least = Run(["prlimit", "--as=%d" % (kb * 1000), "--"], [mpirun, "-n", 2, conduct, "hello"])
	if least.status != 127:
		break
for more in (0, 250, 500):
	refuses("few addresses, %d KB more than mpirun is loaded with" % more, ["prlimit", "--as=%d" % ((kb + more) * 1000), "--"], ["ulimit -v"])

# ---- disks and directories -------------------------------------------------------------------------------------------

with open("/dev/full", "w") as full:
	refuses("standard output is a full disk", [], ["standard output cannot be written", "No space left"], 1, stdout=full)
runs("a TMPDIR that is not there", [], env=dict(os.environ, TMPDIR="/nonexistent"))
bare = {"GODWIT_MPICH": place}
runs("an empty environment, no HOME, no PATH", [], env=bare)
gone = os.path.join(tmp, "gone")
os.mkdir(gone)
runs("a working directory that was removed", ["sh", "-c", "rmdir '%s'; exec \"$@\"" % gone, "sh"], cwd=gone)
sealed = os.path.join(tmp, "sealed")
os.mkdir(sealed, 0o555)
runs("a working directory that cannot be written", as_user(), cwd=sealed)
refuses("a program that is not there", [], ["/nonexistent/program"], 127, [mpirun, "-n", 2, "/nonexistent/program"])
refuses("a program that is a directory", [], [tmp], 126, [mpirun, "-n", 2, tmp])
lonely = os.path.join(tmp, "lonely")
os.mkdir(lonely)
shutil.copy(mpirun, lonely)
refuses("an mpirun without its godwitd", [], ["godwitd", "install"], 1, [os.path.join(lonely, "mpirun"), "-n", 1, "true"])

own_mounts = ["unshare", "--mount", "--propagation", "private", "--"]
if is_root and can(*own_mounts, "true"):
	runs("a full /dev/shm", own_mounts + ["sh", "-c", "mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 9999 /dev/zero "
	     "> /dev/shm/x 2> /dev/null; exec \"$@\"", "sh"])
	runs("no /dev/shm and no /dev/pts", own_mounts + ["sh", "-c", "mount -t tmpfs -o mode=0 tmpfs /dev/pts; mount -t tmpfs -o "
	     "mode=0 tmpfs /dev/shm; exec \"$@\"", "sh"])
	runs("a read-only root", own_mounts + ["sh", "-c", "mount -o remount,bind,ro / 2> /dev/null; exec \"$@\"", "sh"])
	runs("a /proc that hides the processes of others", own_mounts + ["sh", "-c", "mount -t proc -o hidepid=2 proc /proc; "
	     "exec \"$@\"", "sh"] + as_user())
	runs("no /proc", own_mounts + ["sh", "-c", "mount -t tmpfs tmpfs /proc; exec \"$@\"", "sh"])
	runs("a bare chroot", own_mounts + ["sh", "-c", """
		r=%s/root; mkdir -p $r/dev $r/tmp; for d in usr lib lib64 bin etc; do [ -e /$d ] || continue; mkdir -p $r/$d
		mount --rbind /$d $r/$d; done; mkdir -p $r%s; mount --bind %s $r%s; touch $r/dev/null; mount --bind /dev/null $r/dev/null
		exec chroot $r "$@" """ % (tmp, place, place, place), "sh"])
else:
	tap.skip("a full /dev/shm, a hidden /proc, none, a chroot", "no mount namespace here")

# ---- what may be forbidden -------------------------------------------------------------------------------------------

no_userns = as_user() + ["unshare", "--user", "--map-current-user", "--keep-caps", "--", "sh", "-c",
                         "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all -- \"$@\"",
                         "sh"]
if can(*no_userns, "true"):
	runs("no user namespaces for an ordinary user", no_userns)
	r = Run(no_userns, [mpirun, "-n", 2, "-clusters", 2, conduct, "compute", 1.5, ":", "-n", 1, "sh", "-c",
	                    "sleep 1000 & setsid sleep 1000 & exec %s compute 1.5" % conduct], wait=False)
	for _ in range(3):
		r.proc.stdout.readline()
	code, out, err = tool(as_user(), "migrate", 0, "--to", 1, "--job", job_of(r))
	tap.ok(code and len(err.split("\n")) == 1 and "cannot move" in err and "user namespaces" in err,
	       "and such a rank says why it cannot move: %s" % err[:160], code, out, err)
	r.end()
	tap.ok(r.status == 0 and not r.left, "and runs on; children that it leaves end with it, in a session of their own too",
	       *r.details())
	r = Run(no_userns, [mpirun, "-n", 2, "sh", "-c", "sleep 1000 & setsid sleep 1000 & echo ready; wait"], wait=False)
	for _ in range(2):
		r.proc.stdout.readline()
	os.kill(r.proc.pid, signal.SIGKILL)
	r.end()
	tap.ok(r.status == -9 and not r.left, "and nothing is left when mpirun is killed with -9", *r.details())
else:
	tap.skip("no user namespaces", "user namespaces cannot be made, or not be limited, here")

if can(deny, "EPERM", "kcmp", "true"):
	for error, calls, words in (
		("EPERM", "ptrace", ["rank 1"]), ("ENOSYS", "clone3", ["cannot move", "namespaces"]),
		("EPERM", "process_vm_writev,process_vm_readv,memfd_create", None), ("EPERM", "clone3", ["cannot move", "namespaces"]), ("ENOSYS", "pidfd_open,pidfd_getfd,pidfd_send_signal", ["rank 1"]),
		("EPERM", "mount", ["cannot move"]), ("EPERM", "membarrier,userfaultfd,kcmp,unshare", None),
		("EPERM", "sched_setaffinity", None)):
		r = moving_job(as_user() + [deny, error, calls])
		code, out, err = tool(as_user(), "migrate", 1, "--to", 0, "--job", job_of(r))
		r.end()
		ran = r.status == 0 and "computed" in r.out and not r.left
		if words:
			tap.ok(ran and code == 1 and len(err.split("\n")) == 1 and all(w in err for w in words),
			       "%s denied: the job runs, and a move is refused: %s" % (calls, err[:120]), code, out, err, *r.details())
		else:
			tap.ok(ran and code == 0, "%s denied: the job runs, and moves" % calls, code, out, err, *r.details())
else:
	tap.skip("system calls are denied", "no seccomp filters here")

# ---- others on the same machine --------------------------------------------------------------------------------------

jobs = [moving_job(as_user(), 2) for _ in range(2)]
ids = [job_of(r) for r in jobs]
code, out, err = tool(as_user(), "status")
tap.ok(code and all(i in err for i in ids) and "--job" in err, "with two jobs of one user 'godwit' asks which: %s" % err, out)
moved = [tool(as_user(), "migrate", 1, "--to", 0, "--job", i) for i in ids]
where = [json.loads(tool(as_user(), "status", "--json", "--job", i)[1] or "{}") for i in ids]
tap.ok(all(m[0] == 0 for m in moved) and all([r["cluster"] for r in w.get("ranks", [])] == [0, 0] for w in where),
       "both are moved, each by its number", moved, where)
for r in jobs:
	r.end()
	tap.ok(r.status == 0 and not r.left, "and job %s ends well" % ids[jobs.index(r)], *r.details())

if is_root:
	r = moving_job(as_user(), 2)
	job = job_of(r)
	code, out, err = tool(as_user(OTHER), "status")
	tap.ok(code and "no job of user %d" % OTHER in err, "another user's job is not seen: %s" % err, out)
	code, out, err = tool(as_user(OTHER), "status", "--job", job)
	tap.ok(code and "no job" in err, "nor found by its number: %s" % err, out)
	# by hand, past the tool: whoever is not the owner hears nothing
	p = subprocess.run(as_user(OTHER) + [python, "-c", """
import json, socket, struct
for name in ("head", "0", "1"):
	s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
	s.settimeout(20)
	s.connect("\\0godwit/%d/%s/" + name)
	body = json.dumps({"op": "status"}).encode()
	try:
		s.sendall(struct.pack("<IHHII", 0x6b6e6c67, 1, 0, len(body), 0) + body + b"\\0" * (-len(body) %% 16))
		heard = s.recv(1000)
	except (BrokenPipeError, ConnectionResetError):
		heard = b""
	assert heard == b"", heard
print("deaf")
""" % (USER, job)], capture_output=True, text=True, timeout=60)
	tap.ok(p.stdout == "deaf\n", "whoever speaks to its sockets is not heard", p.stdout, p.stderr)
	code, out, err = tool(as_user(), "migrate", 1, "--to", 0)
	tap.ok(code == 0, "and the job goes on and moves", out, err)
	# another user listens at names that look like ours, and does not accept
	squatter = subprocess.Popen(as_user(OTHER) + [python, "-c", """
import socket, sys
held = []
for job, room in (("00000001", 5), ("fffffffe", 0)):
	s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
	s.bind("\\0godwit/%d/" + job + "/head")
	s.listen(room)
	held.append(s)
held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
held[-1].connect(held[1].getsockname())  # now nobody else gets in there, nor is told whose it is
print("squatting", flush=True)
sys.stdin.read()
""" % USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
	squatter.stdout.readline()
	code, out, err = tool(as_user(), "status")
	tap.ok(code == 0 and job in out, "names that another user has taken to look like ours are passed over", out, err)
	code, out, err = tool(as_user(), "status", "--job", "00000001")
	tap.ok(code and ("no job 00000001" in err or "belongs to user %d" % OTHER in err),
	       "and one that is asked for by its number is told from ours: %s" % err[:80], out, err)
	squatter.stdin.close()
	squatter.wait(20)
	r.end()
	tap.ok(r.status == 0 and not r.left, "the job ends well", *r.details())
else:
	for what in ("another user's job is not seen", "whoever speaks to its sockets is not heard", "squatted names are passed over"):
		tap.skip(what, cannot)

tap.ok(shm_entries() <= before_shm, "nothing is left in /dev/shm")
left = sorted(set(os.listdir(tmp)) - {"sealed", "lonely", "root"})
tap.ok(not left, "nothing is left in TMPDIR", left)
sys.exit(tap.done())
