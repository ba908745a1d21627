# SPDX-License-Identifier: BSD-2-Clause
"""What the system tests share: TAP, a job under mpirun, its head's control socket, and what a job leaves behind.

Nothing here sleeps to synchronise: every wait is for a line, a reply or an end, with a deadline. The binaries come from
the build tree that $top_builddir names.
"""
import atexit, collections, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, uuid

BUILD = os.environ.get("top_builddir", os.getcwd())
DOING = ["compute", "send", "recv", "wait", "probe", "collective"]  # enum ct_doing


def work_dir(name, is_fast=False, is_swept=True):
	"""A directory for the test's files. It goes when the test ends, however: a process of its own sees to it after SIGKILL.

	@is_swept: not for a test that counts the processes below it.
	@is_fast: in memory, where a test writes checkpoint after checkpoint, and that a disk takes its time is not what it is about.
	"""
	where = "/dev/shm" if is_fast and os.access("/dev/shm", os.W_OK) else None
	path = tempfile.mkdtemp(prefix="gw-%s-" % name if where else "godwit-%s-" % name, dir=where)  # shm_entries() are Godwit's own
	made.append(path)
	if not is_swept:
		return path
	sweepers.append(subprocess.Popen(["sh", "-c", "read end; exec rm -rf -- \"$0\"", path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
	                                 stderr=subprocess.DEVNULL, start_new_session=True))
	return path


made, sweepers = [], []


@atexit.register
def work_dirs_remove():
	for path in made:
		shutil.rmtree(path, ignore_errors=True)


class Tap:
	"""Test Anything Protocol: one sentence per check."""

	def __init__(self, deadline_s):
		self.run = self.failed = 0
		self.jobs = []
		if threading.current_thread() is threading.main_thread():
			for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
				# in a thread: the main one may be in the middle of a print
				signal.signal(sig, lambda sig, frame: threading.Thread(target=self.bail, args=["signal %d" % sig]).start())
			signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's '&' ignores it, and what we start would go on so
		self.timer = threading.Timer(deadline_s, self.bail, ["the test passed its deadline of %d s" % deadline_s])
		self.timer.daemon = True
		self.timer.start()

	def ok(self, passed, sentence, *details):
		self.run += 1
		self.failed += not passed
		print("%s %d - %s" % ("ok" if passed else "not ok", self.run, sentence.replace("#", "")), flush=True)
		if not passed:
			for d in details:
				self.diag(d)
		return bool(passed)

	def skip(self, sentence, why):
		self.run += 1
		print("ok %d - %s # SKIP %s" % (self.run, sentence, why), flush=True)

	def diag(self, text):
		for line in str(text).rstrip("\n").split("\n"):
			print("# " + line, flush=True)

	def bail(self, why):
		for job in list(self.jobs):
			for line in job.tail():
				self.diag(line)
			job.kill()
		print("Bail out! " + why, flush=True)
		work_dirs_remove()
		os._exit(1)

	def done(self):
		self.timer.cancel()
		print("1..%d" % self.run, flush=True)
		return 1 if self.failed else 0


class Head:
	"""The head's control socket: the same JSON that the godwit command speaks. One request at a time."""

	MAGIC, JSON = 0x6b6e6c67, 1

	def __init__(self, name, timeout=60):
		self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		self.sock.settimeout(timeout)
		self.sock.connect("\0" + name)
		self.buf = b""

	def close(self):
		self.sock.close()

	def send(self, message):
		body = json.dumps(message).encode()
		self.sock.sendall(struct.pack("<IHHII", self.MAGIC, self.JSON, 0, len(body), 0) + body + b"\0" * (-len(body) % 16))

	def _take(self, n):
		while len(self.buf) < n:
			more = self.sock.recv(1 << 16)
			if not more:
				raise EOFError("the head has closed the connection")
			self.buf += more
		out, self.buf = self.buf[:n], self.buf[n:]
		return out

	def receive(self):
		magic, kind, _, length, _ = struct.unpack("<IHHII", self._take(16))
		if magic != self.MAGIC or kind != self.JSON:
			raise ValueError("not a JSON frame: magic %#x, type %d" % (magic, kind))
		return json.loads(self._take(length + -length % 16)[:length])

	def status(self):
		self.send({"op": "status"})
		return self.receive()

	def ranks(self):
		return {r["rank"]: r for r in self.status()["ranks"]}

	def wait_up(self, timeout=30):
		"""Until no cluster is about to start: a program without MPI runs before all the others are there."""
		return wait_for(lambda: not any(c["state"] in ("starting", "joining") for c in self.status()["clusters"]), timeout)

	def migrate(self, ranks, to, timeout_ms=30000, **how):
		"""One answer for each rank: rank, to, status, text, measures. @how: technique, max_downtime_us, bandwidth, carry."""
		self.send({"op": "migrate", "ranks": list(ranks), "to": to, "timeout_ms": timeout_ms, **how})
		answers = []
		while True:
			m = self.receive()
			if m["op"] == "migrated":
				m["measures"] = m.get("measures") or {}
				answers.append(m)
			elif m["op"] == "refused":
				return [{"rank": r, "to": to, "status": -1, "text": m.get("text", ""), "measures": {}} for r in ranks]
			elif m["op"] == "done":
				return answers


	def clusters(self):
		return {c["cluster"]: c for c in self.status()["clusters"]}

	def change(self, op, **fields):
		"""add, drain or remove: one answer for each of what was named; a refusal is one answer with a status of -1."""
		self.send(dict(fields, op=op))
		answers = []
		while True:
			m = self.receive()
			if m["op"] == "done":
				return answers
			if m["op"] == "refused":
				return [{"op": op, "status": -1, "text": m["text"], "clusters": [], "stuck": []}]
			answers.append(m)

	def add(self, name, clusters=1, launcher=None):
		return self.change("add", hosts=[{"name": name, "clusters": clusters}], **({"launcher": launcher} if launcher else {}))[0]

	def drain(self, *targets, timeout_ms=60000):
		return self.change("drain", targets=list(targets), timeout_ms=timeout_ms)[0]

	def remove(self, *targets, timeout_ms=60000):
		return self.change("remove", targets=list(targets), timeout_ms=timeout_ms)[0]

	def undrain(self, *targets):
		self.send({"op": "undrain", "targets": list(targets)})
		return self.receive()


class Job:
	"""mpirun with a program; its output is read as it comes."""

	def __init__(self, tap, args, env=None, stdin=None, events=None, cwd=None, launcher=None):
		self.mark = "GODWIT_TEST_MARK=" + uuid.uuid4().hex
		full = dict({"GODWIT_RECORD": "none"} if "XDG_STATE_HOME" not in os.environ else {}, **os.environ)  # by hand: not among the user's own
		full.update(env or {})
		full[self.mark.split("=")[0]] = self.mark.split("=")[1]
		if events:
			full["GODWIT_EVENTS"] = events
		self.args = (launcher or [os.path.join(BUILD, "mpirun")]) + [str(a) for a in args]
		self.lines, self.cond, self.tap = [], threading.Condition(), tap
		self.proc = subprocess.Popen(self.args, env=full, cwd=cwd, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
		                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
		self.threads = [threading.Thread(target=self._read, args=(f, name), daemon=True)
		                for f, name in ((self.proc.stdout, "out"), (self.proc.stderr, "err"))]
		for t in self.threads:
			t.start()
		tap.jobs.append(self)

	def _read(self, f, name):
		for line in f:
			with self.cond:
				self.lines.append((name, line.decode(errors="replace").rstrip("\n")))
				self.cond.notify_all()
		with self.cond:
			self.cond.notify_all()

	def out(self, name="out"):
		with self.cond:
			return [l for n, l in self.lines if n == name]

	def tail(self, n=15):
		with self.cond:
			return ["%s: %s" % l for l in self.lines[-n:]]

	def wait_line(self, pattern, timeout, name=None, count=1):
		"""The first @count lines that match; None when the job ends or the time passes before."""
		end = time.monotonic() + timeout
		with self.cond:
			while True:
				found = [m for m in (re.search(pattern, l) for n, l in self.lines if not name or n == name) if m]
				if len(found) >= count:
					return found[0] if count == 1 else found
				left = end - time.monotonic()
				if left <= 0 or not any(t.is_alive() for t in self.threads):
					return None
				self.cond.wait(left)

	def wait(self, timeout):
		"""Exit status; negative signal number; None when it is still running."""
		try:
			status = self.proc.wait(timeout)
		except subprocess.TimeoutExpired:
			return None
		for t in self.threads:
			t.join(5)
		if self in self.tap.jobs:
			self.tap.jobs.remove(self)
		return status

	def end(self, timeout=60):
		"""As wait(), for a job that has to end: one that hangs is told of, with what is left of it, and killed."""
		status = self.wait(timeout)
		if status is None:
			self.tap.diag("it hangs: %s" % " ".join(self.args))
			for line in self.tail():
				self.tap.diag(line)
			for pid, name in self.processes().items():
				self.tap.diag("left: %d %s" % (pid, name))
			self.kill()
		return status

	def is_running(self):
		return self.proc.poll() is None

	def wait_head(self, timeout=30):
		"""The name of the head, as soon as it has one; None when the job ends or the time passes before."""
		return wait_for(lambda: not self.is_running() or self.head_name(), timeout, 0.002) and self.head_name()

	def head_name(self):
		"""The abstract socket of this job's head: the one whose listener is our mpirun."""
		with open("/proc/net/unix") as f:
			names = set(re.findall(r"@(godwit/%d/[0-9a-f]{8}/head)$" % os.getuid(), f.read(), re.M))
		for name in names:
			try:
				h = Head(name, 5)
			except OSError:
				continue
			pid = struct.unpack("iII", h.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
			h.close()
			if pid == self.proc.pid:
				return name
		return None

	def head(self, timeout=60):
		name = self.head_name()
		if not name:
			raise RuntimeError("no control socket of mpirun %d" % self.proc.pid)
		return Head(name, timeout)

	def processes(self):
		"""Every process that has this job's mark in its environment: pid -> command name."""
		found = {}
		for pid in filter(str.isdigit, os.listdir("/proc")):
			try:
				with open("/proc/%s/environ" % pid, "rb") as f:
					marked = self.mark.encode() in f.read().split(b"\0")
				with open("/proc/%s/stat" % pid) as f:
					stat = f.read()
			except OSError:
				continue
			if marked and stat.rsplit(")", 1)[1].split()[0] != "Z":
				found[int(pid)] = stat[stat.index("(") + 1:stat.rindex(")")]
		return found

	def gone(self, timeout=10):
		"""What is left of the job when it has ended: must be empty. A killed process needs a moment to vanish; each is
		awaited by its pidfd."""
		end = time.monotonic() + timeout
		left = self.processes()
		for pid in left:
			try:
				fd = os.pidfd_open(pid)
			except OSError:
				continue
			import select
			select.select([fd], [], [], max(0, end - time.monotonic()))
			os.close(fd)
		return self.processes()

	def kill(self):
		for pid in list(self.processes()) + [self.proc.pid]:
			try:
				os.kill(pid, 9)
			except OSError:
				pass
		try:
			self.proc.wait(10)
		except subprocess.TimeoutExpired:
			pass
		if self in self.tap.jobs:
			self.tap.jobs.remove(self)


def wait_for(what, timeout=20, pace_s=0.01):
	"""For what no event tells, as a state in /proc: what() as soon as it is true, or what it is when the time has passed."""
	end = time.monotonic() + timeout
	while True:
		found = what()
		if found or time.monotonic() > end:
			return found
		time.sleep(pace_s)


def step_bytes(job, clusters, cost, heavy=40000):
	"""What a step of 'neighbours' sends, with its ranks on these clusters, each byte times @cost(from, to)."""
	rows = [[int(r) for r in row.split()] for row in job.wait_line(r"^places (.*)", 10, "out").group(1).split("/")]
	total = 0
	for y, row in enumerate(rows):
		for x, rank in enumerate(row):
			total += 2 * heavy * cost(clusters[rank], clusters[row[(x + 1) % len(row)]])
			total += heavy // 8 * cost(clusters[rank], clusters[rows[(y + 1) % len(rows)][x]])
	return total


def end_carry(job, stop, sentence, ranks=4):
	"""A job of 'conduct carry' that waits for the file @stop ends now, well, and leaves nothing."""
	open(stop, "w").close()
	status = job.end(60)
	job.tap.ok(status == 0 and len([l for l in job.out() if l.startswith("carried")]) == ranks and not job.gone(), sentence,
	           "status %s" % status, job.gone(), *job.tail())


def mpich_prefix():
	"""Where the MPI library is that ranks load: as make says, or, by hand, as the build tree was configured."""
	lines = lines_of(os.path.join(BUILD, "Makefile"))
	return os.environ.get("MPICH_PREFIX") or next((l.split("=", 1)[1].strip() for l in lines if l.startswith("MPICH_PREFIX =")), "")


def lines_of(path):
	try:
		with open(path) as f:
			return f.read().split("\n")
	except OSError:
		return []


def slabs():
	"""Namespaces that the whole machine has, as its kernel counts them; {} where that is not told."""
	counts = {}
	for line in lines_of("/proc/slabinfo"):
		words = line.split()
		if words and words[0] in ("pid_namespace", "mnt_namespace", "user_namespace", "time_namespace"):
			counts[words[0]] = int(words[1])
	return counts


def flip(path):
	"""Change one bit in the middle of a file."""
	with open(path, "r+b") as f:
		f.seek(os.path.getsize(path) // 2)
		byte = f.read(1)[0]
		f.seek(-1, 1)
		f.write(bytes([byte ^ 1]))


def shm_entries():
	return {e for e in os.listdir("/dev/shm") if "godwit" in e}


def proc_stat(pid):
	"""state, parent of a process; None when there is none."""
	try:
		with open("/proc/%d/stat" % pid) as f:
			fields = f.read().rsplit(")", 1)[1].split()
	except OSError:
		return None
	return fields[0], int(fields[1])


def private_dirty(pid):
	"""Bytes of private memory that a process has written."""
	with open("/proc/%d/smaps_rollup" % pid) as f:
		return int(re.search(r"^Private_Dirty:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


def checksum(text):
	"""Of a run of examples: one for each that it has printed."""
	return re.findall(r"checksum=(\w+)", text)


def fields(line):
	"""name=value pairs of a line."""
	return dict(re.findall(r"(\w+)=(\S+)", line))


def median(values):
	v = sorted(values)
	return v[len(v) // 2] if len(v) % 2 else (v[len(v) // 2 - 1] + v[len(v) // 2]) / 2


# How a move may go, whatever the kernel can: a pause of 1 us is in reach of no rank, so that auto takes pre-copy.
TECHNIQUES = ({"technique": "stop-and-copy"}, {"technique": "auto", "max_downtime_us": 1}, {})


# Named faults (doc/faults.md) at edges that not every technique has
ONLY = {"mig.src.follow": ["pre-copy", "hybrid"], "mig.src.round": ["pre-copy", "hybrid"], "mig.src.packed": ["pre-copy", "hybrid"],
        "mig.src.head": ["stop-and-copy", "pre-copy"], "ct.shell.begun": ["stop-and-copy", "pre-copy"]}
# and what a move needs to reach them: memory is packed where little of the link may be taken
WITH = {"mig.src.packed": {"bandwidth": 50000000}}
# and those of a rank that runs at its new place and lacks pages
LATE = ("mig.src.serving", "mig.src.asked", "mig.src.pushing", "mig.dst.fetching", "mig.dst.fault", "mig.dst.pages", "mig.dst.fetched")
ONLY.update({name: ["post-copy"] for name in LATE})


def can_move():
	"""The techniques by which ranks move here, as godwit doctor says."""
	said = json.loads(subprocess.run([os.path.join(BUILD, "godwit"), "doctor", "--json"], capture_output=True, text=True, timeout=60).stdout)
	found = {f["name"]: f["text"] for f in said["hosts"][-1]["findings"]}
	return [t for t in found.get("moves", "").split(", ") if t in ("stop-and-copy", "pre-copy", "post-copy", "hybrid")]


def all_ways():
	"""TECHNIQUES, and those that not every host and user has."""
	return TECHNIQUES + tuple({"technique": t} for t in can_move() if t in ("post-copy", "hybrid"))


class Mover(threading.Thread):
	"""Moves random ranks of a job to random other clusters until told to stop or the job ends."""

	def __init__(self, job, ranks, clusters, seed, pace_ms=20, limit=1000):
		super().__init__(daemon=True)
		import random
		self.job, self.ranks, self.clusters, self.rng = job, ranks, clusters, random.Random(seed)
		self.pace_ms, self.limit, self.over = pace_ms, limit, threading.Event()
		self.moves, self.refused, self.error = [], [], None
		self.start()

	def run(self):
		try:
			head = self.job.head()
			where = {r: x["cluster"] for r, x in head.ranks().items()}
			ways = all_ways()
			while not self.over.wait(self.rng.expovariate(1000 / self.pace_ms)) and len(self.moves) < self.limit:
				rank, to = self.rng.randrange(self.ranks), self.rng.randrange(self.clusters - 1)
				to += to >= where[rank]
				m = head.migrate([rank], to, **self.rng.choice(ways))[0]
				if m["status"] == 0:
					where[rank] = to
					self.moves.append(m)
				else:
					self.refused.append(m)
		except (OSError, EOFError, RuntimeError) as e:
			try:
				self.job.proc.wait(10)  # the job has ended, and its head with it
			except subprocess.TimeoutExpired:
				self.error = repr(e)

	def finish(self):
		self.over.set()
		self.join(60)
		return self
