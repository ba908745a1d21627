#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What holds a rank: told by godwit status --movable and by the refusal of a move, while the rank runs on undisturbed.

Each program is really in its state; all of them are ranks of one job, which ends right afterwards. Then what passes by
itself, sockets of libraries that reconnect, pins, odd moments, and the manners of the command."""
import ctypes, fcntl, signal
from godwit import *

tap = Tap(200)
held = os.path.join(BUILD, "tests/programs/held")
godwit = os.path.join(BUILD, "godwit")
work = work_dir("movable")
shm_before = shm_entries()
is_root = os.getuid() == 0


def path(name):
	return os.path.join(work, name)


def touch(name):
	open(path(name), "w").close()


def tool(job, *words, timeout=60):
	p = subprocess.run([godwit] + [str(w) for w in words] + ["-j", job.head_name().split("/")[2]], capture_output=True,
	                   text=True, timeout=timeout)
	return p.returncode, p.stdout, p.stderr.strip()


def movable(job):
	"""rank -> its status, with 'movable'."""
	head = job.head()
	head.send({"op": "status", "movable": True})
	answer = head.receive()
	head.close()
	return {r["rank"]: r for r in answer["ranks"]}


def texts(rank):
	return [r["text"] for r in rank["movable"]["reasons"]]


def ends(job, sentence, want=0, timeout=60):
	status = job.wait(timeout)
	left = job.gone()
	if status is None:
		job.kill()
	return tap.ok(status == want and not left, sentence, "status %s, left %s" % (status, left), *job.tail())


class Listener(threading.Thread):
	"""A UNIX server that keeps its connections and remembers what came."""

	def __init__(self, name, kind):
		super().__init__(daemon=True)
		self.sock = socket.socket(socket.AF_UNIX, kind)
		self.sock.bind(name)
		self.got, self.kept, self.cond, self.is_stream = b"", [], threading.Condition(), kind == socket.SOCK_STREAM
		if self.is_stream:
			self.sock.listen(8)
		self.start()

	def run(self):
		if not self.is_stream:
			return self.read(self.sock)
		while True:
			c = self.sock.accept()[0]
			self.kept.append(c)
			threading.Thread(target=self.read, args=(c,), daemon=True).start()

	def read(self, c):
		while True:
			data = c.recv(4096)
			if not data and self.is_stream:
				return
			with self.cond:
				self.got += data
				self.cond.notify_all()

	def wait_for(self, words, timeout=20):
		end = time.monotonic() + timeout
		with self.cond:
			while words not in self.got and time.monotonic() < end:
				self.cond.wait(end - time.monotonic())
			return words in self.got


# ---- each state --------------------------------------------------------------------------------------------------

server = path("server")
Listener(server, socket.SOCK_STREAM)
me = "pid %d" % os.getpid()
# state, what must be said (all of it, in reasons of the kind given)
ALL_STATES = [
	("tcp", "descriptor", [r"fd \d+ is a connected TCP socket \(127\.0\.0\.1:\d+\)", r"TCP socket that listens at 127\.0\.0\.1:\d+"]),
	("udp", "descriptor", [r"a connected UDP socket \(127\.0\.0\.1:9\)"]),
	("udp-bound", "descriptor", [r"a UDP socket bound to 127\.0\.0\.1:\d+"]),
	("unix=" + server, "descriptor", [r"a connected UNIX socket \(%s, of %s: python3\)" % (re.escape(server), me)]),
	("netlink", "descriptor", [r"a netlink socket"]),
	("child", "process", [r"another process in its container \(pid \d+: .*held "]),
	("zombie", "process", [r"\(pid \d+: held, ended and not waited for\)"]),
	("vfork", "process", [r"another process in its container \(pid \d+: .*held "]),
	("thread-files", "thread", [r"thread \d+ has descriptors of its own"]),
	("thread-fs", "thread", [r"thread \d+ has a working directory of its own"]),
	("namespace", "state", [r"a uts namespace of its own"]),
	("seccomp", "state", [r"a seccomp filter"]),
	("sigtrap", "state", [r"ignores SIGTRAP"]),
	("posix-timer", "state", [r"a POSIX timer .* by the processor time of one thread"]),
	("system-v", "mapping", [r"System V shared memory"]),
	("memfd", "state", [r"process %d has its memory file 'held' too" % os.getpid()]),
	("deleted", "descriptor", [r"a file that was deleted \(/tmp/godwit-held-"]),
	("aio", "mapping", [r"an asynchronous I/O context"]),
	("io-uring", "descriptor", [r"an io_uring"]),
	("perf", "descriptor", [r"a performance counter"]),
	("bpf", "descriptor", [r"a BPF object"]),
	("inotify", "descriptor", [r"an inotify watch"]),
	("fanotify", "descriptor", [r"a fanotify watch"]),
	("userfaultfd", "descriptor", [r"a userfaultfd"]),
	("pidfd", "descriptor", [r"a handle of another process"]),
	("epoll", "descriptor", [r"an epoll instance that watches a file which is open, but not as fd \d+ any more"]),
	("terminal", "descriptor", [r"a terminal \(/dev/"]),
	("device", "descriptor", [r"a device \(/dev/"]),
	("queue", "descriptor", [r"a file that (was deleted|cannot be found by its path any more) \(/godwit-held-"]),
	("half-pipe", "descriptor", [r"one end of a pipe whose other end is not in the rank"]),
	("named-pipe=" + path("fifo"), "descriptor", [r"a named pipe \(%s\)" % re.escape(path("fifo"))]),
	("proc-file", "descriptor", [r"fd \d+ is of /proc, which is another one at the other side \(/proc/cpuinfo\); close it"]),
	("proc-directory", "descriptor", [r"is of /proc, .*\(/proc/\d+/task\)"]),
	("flock=" + path("l1"), "descriptor", [r"a locked file \(flock\) \(%s\)" % re.escape(path("l1"))]),
	("fcntl=" + path("l2"), "descriptor", [r"a locked file \(fcntl, F_SETLK\) \(%s\)" % re.escape(path("l2"))]),
	("ofd=" + path("l3"), "descriptor", [r"a locked file \(fcntl, F_OFD_SETLK\) \(%s\)" % re.escape(path("l3"))]),
]
# what can be handed over: between hosts it holds, on one it does not
HANDED = ("unix", "system-v", "deleted", "bpf", "inotify", "fanotify", "pidfd", "terminal", "queue", "half-pipe", "named-pipe",
          "flock", "ofd")
STATES = [s for s in ALL_STATES if s[0].split("=")[0] not in HANDED]
FAR_STATES = [s for s in ALL_STATES if s[0].split("=")[0] in HANDED]


def check_named(ranks, words, states, skipped):
	for word, kind, wanted in states:
		rank = words.index(word)
		if rank in skipped:
			tap.skip("status --movable names what holds it: %s" % word.split("=")[0], skipped[rank])
			continue
		said = [r["text"] for r in ranks[rank]["movable"]["reasons"] if r["kind"] == kind]
		tap.ok(ranks[rank]["movable"]["state"] == "no" and all(any(re.search(w, t) for t in said) for w in wanted),
		       "status --movable names what holds it: %s: %s" % (word.split("=")[0], "; ".join(said)), ranks[rank]["movable"])


words = list(dict.fromkeys(s[0] for s in STATES)) + ["nothing", "nothing", "nothing"]
n = len(words)
free, stopped, traced = n - 3, n - 2, n - 1
job = Job(tap, ["-n", n, "-clusters", 2, held, path("stop")] + words)
seen = job.wait_line(r"^(ready|skip) (\d+) (\S+)(.*)$", 90, count=n) or []
tap.ok(len(seen) == n, "%d ranks get into their states" % n, *job.tail(40))
skipped = {int(m.group(2)): m.group(4).strip() for m in seen if m.group(1) == "skip"}

libc = ctypes.CDLL(None, use_errno=True)
ranks = movable(job)
fds = "/proc/%d/fd/" % ranks[words.index("memfd")]["pid"]
shared = [open(fds + f, "rb") for f in os.listdir(fds) if os.readlink(fds + f).startswith("/memfd:held")]
os.kill(ranks[stopped]["pid"], signal.SIGSTOP)
is_traced = libc.ptrace(0x4206, ranks[traced]["pid"], None, None) == 0  # PTRACE_SEIZE
deadline = time.monotonic() + 20
ranks = movable(job)
while not any("stopped by a signal" in t for t in texts(ranks[stopped])) and time.monotonic() < deadline:
	ranks = movable(job)
check_named(ranks, words, STATES, skipped)
can = ranks[free]["movable"]
tap.ok(can["state"] == "yes" and can["reasons"] == [], "a rank that nothing holds can move", can)
tap.ok(can["destination"] != ranks[free]["cluster"] and 0 < can["predicted"]["auto"]["downtime_ms"] < 1000 and
       can["predicted"]["pre-copy"]["downtime_ms"] is None and can["from"]["memory_bytes"] > 1e5,
       "it is told where it would go and how long it would stand, as far as that is known", can)
tap.ok(ranks[stopped]["movable"]["state"] == "no", "one that is stopped by a signal cannot: %s" % texts(ranks[stopped]))
if is_traced:
	tap.ok([r["kind"] for r in ranks[traced]["movable"]["reasons"]] == ["debugger"] and me in texts(ranks[traced])[0],
	       "one that is traced names its debugger: %s" % texts(ranks[traced]))
else:
	tap.skip("one that is traced names its debugger", "cannot trace here")
code, out, err = tool(job, "status", "--movable")
tap.ok(code == 0 and re.search(r"^rank 0: fd \d+ is a connected TCP socket", out, re.M) and
       re.search(r"^\d+ of %d ranks can move now$" % n, out, re.M), "the command prints a line for each reason", code, err)

# all are asked to move at once; nobody may stop meanwhile
head = job.head()
there = [r for r in range(n) if ranks[r]["cluster"] == 0]
asked = {}
for to, who in ((1, there), (0, [r for r in range(n) if r not in there])):
	for answer in head.migrate(who, to):
		asked[answer["rank"]] = answer
head.close()
kept = {r: asked[r] for r in range(n) if r not in skipped and r != free and (r != traced or is_traced)}
bad = {words[r]: a for r, a in kept.items() if a["status"] != -16}
tap.ok(len(kept) > 15 and not bad, "none of the %d ranks that are held moves" % len(kept), bad)
wrong = []
for word, kind, wanted in STATES:
	a = kept.get(words.index(word))
	if a and not any(re.search(w, a["text"]) for w in wanted) and "more hold" not in a["text"]:
		wrong.append((word, a["text"]))
tap.ok(not wrong, "each refusal names what holds the rank", *wrong)
tap.ok(asked[free]["status"] == 0, "the one that nothing holds moves", asked[free])
if is_traced:
	libc.ptrace(0x4207, ranks[traced]["pid"], None, None)  # PTRACE_INTERRUPT; then detach from the stop
	os.waitpid(ranks[traced]["pid"], 0x40000000)
	libc.ptrace(17, ranks[traced]["pid"], None, None)
os.kill(ranks[stopped]["pid"], signal.SIGCONT)
for r in (stopped, traced):
	head = job.head()
	deadline = time.monotonic() + 20
	while True:
		a = head.migrate([r], 1 - ranks[r]["cluster"])[0]
		if a["status"] == 0 or time.monotonic() > deadline:
			break
	head.close()
	tap.ok(a["status"] == 0, "and when it is let go, it moves (%s)" % ("stopped" if r == stopped else "traced"), a)
touch("stop")
ends(job, "all run on, find what they had and end right")
tap.ok(len([l for l in job.out() if l.startswith("held ")]) == n, "each of them", *[l for l in job.out() if not l.startswith("held")])

# ---- what is handed over on one host, and holds between two -------------------------------------------------------

for hosts in (["-clusters", 2], ["-hosts", "a,b", "-launcher", "fork"]):
	for name in ("stop", "l1", "l3", "fifo"):
		if os.path.exists(path(name)):
			os.unlink(path(name))
	is_far = hosts[0] == "-hosts"
	words = [s[0] for s in FAR_STATES] + ["unix-pair"] # which is made anew anywhere
	job = Job(tap, ["-n", len(words)] + hosts + [held, path("stop")] + words)
	seen = job.wait_line(r"^(ready|skip) (\d+) (\S+)(.*)$", 90, count=len(words)) or []
	skipped = {int(m.group(2)): m.group(4).strip() for m in seen if m.group(1) == "skip"}
	ranks = movable(job)
	if is_far:
		check_named(ranks, words, FAR_STATES, skipped)
	else:
		bad = {words[r]: x["movable"] for r, x in ranks.items() if x["movable"]["state"] != "yes"}
		tap.ok(not bad and len(seen) == len(words), "status --movable: on one host these hold no rank: %s" % ", ".join(HANDED), bad)
	asked = {}
	head = job.head()
	for hop in range(1 if is_far else 3):
		for to in (0, 1):
			for answer in head.migrate([r for r, x in ranks.items() if x["cluster"] != to], to):
				asked[answer["rank"]] = answer
		ranks = movable(job)
	head.close()
	wrong = {words[r]: a for r, a in asked.items() if a["status"] != (-16 if is_far and r not in skipped and words[r] != "unix-pair" else 0)}
	tap.ok(not wrong, "between two hosts each is refused" if is_far else "they move three times", wrong)
	touch("stop")
	ends(job, "and go on with what they have")

# ---- locks in an image on disk --------------------------------------------------------------------------------------


def has_lock(name):
	"""Does somebody? To try it would be in the way of who wants to have it."""
	inode = ":%d " % os.stat(path(name)).st_ino
	with open("/proc/locks") as f:
		return any("FLOCK" in line and inode in line for line in f)


os.unlink(path("stop"))
job = Job(tap, ["-n", 2, "-clusters", 2, held, path("stop"), "flock=" + path("l1"), "ofd=" + path("l3")])
job.wait_line(r"^ready", 30, count=2)
code, out, err = tool(job, "checkpoint", "--stop", path("image"))
tap.ok(code == 0 and job.wait(60) == 75 and not has_lock("l1"), "ranks with exclusive locks are written down, and end", err, *job.tail())
with open(path("l1")) as rival:
	fcntl.flock(rival, fcntl.LOCK_EX)
	again = Job(tap, [path("image"), "-clusters", 1], launcher=[godwit, "restart"])
	tap.ok(again.wait(60) not in (0, None) and path("l1") in "\n".join(again.tail()), "somebody else has one by now: they are not continued",
	       *again.tail())
again = Job(tap, [path("image"), "-clusters", 1], launcher=[godwit, "restart"])
tap.ok(wait_for(lambda: has_lock("l1"), 30), "when he has let it go they are, with their locks", *again.tail())
touch("stop")
ends(again, "and end right")

# ---- MPI-IO: locks that are held for a moment, all the time --------------------------------------------------------

for hosts in (["-clusters", 2], ["-hosts", "a,b", "-launcher", "fork"]):
	os.unlink(path("stop"))
	job = Job(tap, ["-n", 4] + hosts + [os.path.join(BUILD, "tests/programs/mpiio"), path("io" + hosts[0]), path("stop")])
	job.wait_line(r"^ready", 60)
	head, bad = job.head(), []
	for hop in range(10):
		rank = hop % 4
		for _ in range(20): # a lock of the file system holds the rank while it has it: who asks again finds it without
			a = head.migrate([rank], 1 - head.ranks()[rank]["cluster"])[0]
			if a["status"] == 0 or "locked file" not in a["text"]:
				break
		if a["status"] != 0:
			bad.append(a)
	head.close()
	tap.ok(not bad, "ranks that write a file with MPI-IO move ten times (%s)" % hosts[0], *bad)
	touch("stop")
	ends(job, "and end right", timeout=120)
	tap.ok(len([l for l in job.out() if l.startswith("file ok")]) == 4, "all that they wrote is there", *job.tail())

# ---- what passes, and what is put back ---------------------------------------------------------------------------

os.unlink(path("stop"))
stream, datagram = Listener(path("pipe-nss"), socket.SOCK_STREAM), Listener(path("log"), socket.SOCK_DGRAM)
job = Job(tap, ["-n", 4, "-clusters", 2, "-reconnecting", "/nowhere:" + path("pipe-*") + ":" + path("log"), "-pin", "1-2", held,
                path("stop"), "popen", "peer-stream=" + path("pipe-nss"), "peer-datagram=" + path("log"), "fresh"])
tap.ok(job.wait_line(r"^ready 0 popen", 30), "a command runs")
head = job.head()
a = head.migrate([0], 1)[0]
tap.ok(a["status"] == 0, "a rank with a short command moves when that has ended", a)
job.wait_line(r"^ready", 30, count=4)
ranks = movable(job)
tap.ok([ranks[r]["pinned"] for r in range(4)] == [False, True, True, False] and ranks[1]["movable"]["state"] == "no" and
       [r["kind"] for r in ranks[1]["movable"]["reasons"]] == ["pin"], "ranks of -pin are pinned, and nothing else holds them",
       ranks[1], ranks[2])
a = head.migrate([1], 1 - ranks[1]["cluster"])[0]
tap.ok(a["status"] < 0 and "godwit unpin 1" in a["text"], "a move of a pinned rank is refused: %s" % a["text"])
code, out, err = tool(job, "unpin", 1, 2, "--json")
tap.ok(code == 0 and json.loads(out) == {"ranks": [1, 2], "pinned": False, "changed": [1, 2]}, "unpin", out, err)
for hop in range(3):
	for rank in (1, 2, 3):
		to = 1 - movable(job)[rank]["cluster"]
		a = head.migrate([rank], to)[0]
		if a["status"] < 0:
			tap.diag(a)
			break
tap.ok(a["status"] == 0, "sockets of libraries that reconnect, and new ones, do not hold a rank: three moves each", a)
code, out, err = tool(job, "pin", 3, 3)
tap.ok(code == 0 and movable(job)[3]["pinned"] and out.count("rank 3") == 1, "pin", code, out, err)
a = head.migrate([3], 1 - movable(job)[3]["cluster"])[0]
tap.ok(a["status"] < 0 and movable(job)[3]["epoch"] == 3, "a rank that has moved is pinned as well", a)
code, out, err = tool(job, "pin", 9)
tap.ok(code == 2 and "there is no rank 9" in err, "pin of a rank that is not there: %s" % err)
head.close()
touch("stop")
ends(job, "their peers have closed, and they connect again")
tap.ok(stream.wait_for(b"again") and datagram.wait_for(b"again"), "both servers hear of them")

# syslog(3) as it is: its path is fixed, so /dev is another one here
os.unlink(path("stop"))
script = """d=$1; shift; mount -t tmpfs -o mode=755 none "$d" || exit 77
for f in null zero full random urandom tty; do touch "$d/$f" && mount --bind /dev/$f "$d/$f" || exit 77; done
mkdir "$d/shm" "$d/pts" && mount --bind /dev/shm "$d/shm" && ln -s "$LOG" "$d/log" && mount --move "$d" /dev || exit 77
exec "$@" """
os.mkdir(path("dev"))
private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", path("dev")]
if is_root and subprocess.run(private + ["true"], env=dict(os.environ, LOG=path("log")), capture_output=True).returncode == 0:
	job = Job(tap, ["-n", 1, "-clusters", 2, held, path("stop"), "syslog"], launcher=private + [os.path.join(BUILD, "mpirun")],
	          env={"LOG": path("log"), "GODWIT_RECONNECTING": path("lo?")})
	job.wait_line(r"^ready 0", 30)
	tap.ok(datagram.wait_for(b"before"), "a rank writes to the log")
	head = job.head()
	a = head.migrate([0], 1)[0] if head else {"status": -1}
	head.close()
	tap.ok(a["status"] == 0, "it moves with its log open", a)
	touch("stop")
	ends(job, "it ends right")
	tap.ok(datagram.wait_for(b"after"), "and what it logs afterwards arrives: syslog(3) has connected again")
else:
	tap.skip("a rank that logs moves", "no mount namespace of its own here")

# ---- odd moments -------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 2, "-clusters", 2, held, "moments", path("go"), path("end")])
job.wait_line(r"^ready \d before", 30, count=2)
head = job.head()
a = head.migrate([1], 0)[0]
tap.ok(a["status"] == 0, "a rank moves before MPI_Init", a)
deadline = time.monotonic() + 30
while head.ranks()[0]["agent"] != "attached" and time.monotonic() < deadline:
	pass
a = head.migrate([0], 1)[0]
tap.ok(a["status"] == 0, "one that waits for another in MPI_Init moves", a)
touch("go")
job.wait_line(r"^ready \d after", 30, count=2)
tap.ok([head.migrate([r], 1 - head.ranks()[r]["cluster"])[0]["status"] for r in (0, 1)] == [0, 0], "ranks move after MPI_Finalize")
to = 1 - head.ranks()[0]["cluster"]
move = subprocess.Popen([godwit, "migrate", "0", "--to", str(to), "-j", job.head_name().split("/")[2]], stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, text=True)
while movable(job) and move.poll() is None and all(x["movable"]["state"] != "moving" for x in movable(job).values()):
	pass
move.send_signal(signal.SIGINT)
move.communicate(timeout=30)
deadline = time.monotonic() + 20
while any(x["movable"]["state"] == "moving" for x in movable(job).values()) and time.monotonic() < deadline:
	pass
tap.ok(move.returncode in (0, 1, 130) and all(x["movable"]["state"] == "yes" for x in movable(job).values()),
       "godwit migrate interrupted in the middle: every rank is in one place", move.returncode, movable(job))
head.close()
touch("end")
ends(job, "and the job ends right")

os.unlink(path("go"))
job = Job(tap, ["-n", 2, "-hosts", "a,b", "-launcher", "fork", held, path("go"), "late"])
late = job.wait_line(r"^ready \d late (\d+)", 30, count=2)
found = [len([t for t in texts(r) if "TCP socket that listens" in t]) for r in movable(job).values()]
tap.ok(late and found == [int(m.group(1)) for m in late], "after MPI_Finalize sockets of the program's own hold a rank, whose "
       "numbers the job's network had", found)
touch("go")
ends(job, "and it ends right")

os.unlink(path("go"))
job = Job(tap, ["-n", 1, "-clusters", 2, held, path("go"), "init"])
job.wait_line(r"^ready 0 init", 30)
m = movable(job)[0]["movable"]
tap.ok(m["state"] == "waits" and [r["kind"] for r in m["reasons"]] == ["agent"] and "in MPI_Init" in m["reasons"][0]["text"],
       "of a rank that begins MPI_Init, status says that a request waits: %s" % m["reasons"])
head = job.head()
head.wait_up()
p = subprocess.Popen([godwit, "migrate", "0", "--to", "1", "-j", job.head_name().split("/")[2]], stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE, text=True)
deadline = time.monotonic() + 30
while "requested" not in head.ranks()[0] and time.monotonic() < deadline:
	pass
p.send_signal(signal.SIGINT)
out, err = p.communicate(timeout=30)
tap.ok(p.returncode == 130 and "interrupted" in err, "godwit migrate is interrupted while its request waits: %s" % err.strip())
deadline = time.monotonic() + 30
while "requested" in head.ranks()[0] and time.monotonic() < deadline:
	pass
a = head.migrate([0], 1, 1)[0]
tap.ok(a["status"] == -110 and "MPI_Init" in a["text"], "its request is taken back, a new one is heard: %s" % a["text"])
head.send({"op": "migrate", "ranks": [0], "to": 1, "timeout_ms": 60000})
touch("go")
m = head.receive()
tap.ok(m["status"] in (0, -3), "a request that waits is done, or the rank has ended, when it is through: %s" % m["text"])
head.close()
ends(job, "and it ends right")

os.unlink(path("go"))
for sentence, argv, want in (
	("a shell that waits for the program is held by it", ["sh", "-c", held + " moments $0 $1; exit 7", path("go"), path("go")], 7),
	("a shell that becomes the program moves", ["sh", "-c", "exec " + held + " moments $0 $1", path("go"), path("go")], 0)):
	job = Job(tap, ["-n", 1, "-clusters", 2] + argv)
	job.wait_line(r"^ready 0 after", 30)
	head = job.head()
	a = head.migrate([0], 1)[0]
	head.close()
	tap.ok(a["status"] == 0 if want == 0 else a["status"] < 0 and re.search(r"\(pid \d+: \S*held moments", a["text"]),
	       "%s: %s" % (sentence, a["text"]), a)
	touch("go")
	ends(job, "and ends with its status", want)
	os.unlink(path("go"))
job = Job(tap, ["-n", 1, "-clusters", 2, held, path("go"), "main-exits"])
job.wait_line(r"^ready 0", 30)
head = job.head()
deadline = time.monotonic() + 20
while "main thread" not in str((a := movable(job)[0]["movable"])["reasons"]) and time.monotonic() < deadline:
	pass
head.wait_up()
m = head.migrate([0], 1)[0]
head.close()
tap.ok("main thread has ended" in str(a["reasons"]) and "main thread has ended" in m["text"], "a rank without a main thread: %s" % m["text"])
touch("go")
ends(job, "goes on to its end")

# ---- the command -------------------------------------------------------------------------------------------------

for words, want, said in ((["help"], 0, "migrate RANK"), (["help", "pin"], 0, "godwit pin"), (["unpin", "--help"], 0, "godwit unpin"),
                          (["migrat", "0"], 2, "did you mean 'godwit migrate'"), (["help", "xyzzy"], 2, "'godwit help' lists"),
                          (["foo"], 2, "'godwit help' lists"), ([], 2, "name a command"),
                          (["add", ""], 2, "'': a host needs a name"), (["pin"], 2, "name at least one rank"),
                          (["pin", "x"], 2, "not the number of a rank")):
	p = subprocess.run([godwit] + words, capture_output=True, text=True, timeout=30)
	tap.ok(p.returncode == want and said in p.stdout + p.stderr, "godwit %s" % " ".join(words), p.returncode, p.stdout, p.stderr)
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
