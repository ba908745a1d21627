#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""godwit top on a real job: its pages, and in a terminal (a pty and an emulator) what keys and signals do, and what is left of it."""
from godwit import *
import fcntl, pty, select, termios

tap = Tap(120)
work = work_dir("top")
UNEVEN = os.path.join(BUILD, "tests/programs/uneven")
GODWIT = os.path.join(BUILD, "godwit")
stop = os.path.join(work, "stop")


class Terminal:
	"""godwit top in a terminal of its own, as a shell starts it."""

	def __init__(self, words, rows=30, columns=100, **env):
		self.screen = pyte.Screen(columns, rows)
		self.stream = pyte.ByteStream(self.screen)
		self.raw = b""
		self.pid, self.fd = pty.fork()
		if self.pid == 0:
			self.resize_of(0, rows, columns)
			os.environ.update(dict({"TERM": "linux", "LC_ALL": "C.UTF-8"}, **env))
			os.execv(GODWIT, [GODWIT, "top"] + words)
		self.modes = termios.tcgetattr(self.fd)
		self.status = None

	@staticmethod
	def resize_of(fd, rows, columns):
		fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

	def resize(self, rows, columns):
		self.screen.resize(rows, columns)
		self.resize_of(self.fd, rows, columns)

	def read(self, timeout):
		if not select.select([self.fd], [], [], timeout)[0]:
			return True
		try:
			data = os.read(self.fd, 65536)
		except OSError:
			return False
		self.raw += data
		self.stream.feed(data)
		return bool(data)

	def text(self):
		return "\n".join(l.rstrip() for l in self.screen.display)

	def shows(self, pattern, timeout=20):
		"""Wait until it is on the screen."""
		end = time.monotonic() + timeout
		while time.monotonic() < end:
			if re.search(pattern, self.text(), re.M):
				return True
			if not self.read(0.1):
				break
		return bool(re.search(pattern, self.text(), re.M))

	def keys(self, text):
		os.write(self.fd, text.encode())

	def stopped(self, timeout=20):
		"""Wait until it is stopped, as by Ctrl-Z."""
		return wait_for(lambda: self.read(0) and os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)[0] == self.pid, timeout, 0.02)

	def ended(self, timeout=20):
		end = time.monotonic() + timeout
		while self.status is None and time.monotonic() < end:
			self.read(0.05)
			pid, status = os.waitpid(self.pid, os.WNOHANG)
			if pid:
				self.status = status
		while self.read(0) and select.select([self.fd], [], [], 0)[0]:
			pass
		return self.status

	def is_clean(self):
		"""The alternate modes that it has asked for are taken back, and the line is edited and echoed again. What it has written before it
		stopped or ended may come after the news of that."""
		def now():
			self.read(0)
			modes = termios.tcgetattr(self.fd)
			return modes[3] & termios.ICANON and modes[3] & termios.ECHO and self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
		return wait_for(now)


def godwit(*words, **env):
	p = subprocess.run([GODWIT] + [str(w) for w in words], capture_output=True, text=True, timeout=60, env=dict(os.environ, **env))
	return p.returncode, p.stdout, p.stderr


def samples(text):
	"""Prometheus's text format, strictly: {(name, labels): value}; a ValueError says what is wrong."""
	kinds, found, last, done = {}, {}, None, set()
	if not text.endswith("\n"):
		raise ValueError("the last line has no end")
	for line in text.split("\n")[:-1]:
		m = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)", line)
		if m and m.group(1) == "TYPE":
			if m.group(2) in kinds or m.group(3) not in ("counter", "gauge", "histogram"):
				raise ValueError("twice, or of no kind: " + line)
			kinds[m.group(2)] = m.group(3)
		if m:
			continue
		m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)', line)
		if not m:
			raise ValueError("not a sample: " + line)
		name = m.group(1)
		family = name if name in kinds else re.sub("_(bucket|sum|count)$", "", name)
		if family not in kinds or (family != name and kinds[family] != "histogram"):
			raise ValueError("without a type: " + line)
		if (kinds[family] == "counter") != name.endswith("_total") and family == name:
			raise ValueError("a counter ends in _total, and nothing else does: " + line)
		if family != last and family in done:
			raise ValueError("lines of a name do not stand together: " + line)
		last = family
		done.add(family)
		labels = tuple(sorted(re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"', m.group(2) or "")))
		if (name, labels) in found:
			raise ValueError("twice: " + line)
		found[(name, labels)] = float(m.group(3))
	return found


def sample(found, name, **labels):
	got = [v for (n, l), v in found.items() if n == name and all(dict(l).get(k) == str(w) for k, w in labels.items())]
	return got[0] if len(got) == 1 else None


prom = os.path.join(work, "godwit-%j.prom")
job = Job(tap, ["-n", 4, "-clusters", 2, "-metrics", prom, "-metrics-every", "1s", UNEVEN, stop, 5, 3])
if not job.wait_line(r"^steps", 60, "out"):
	tap.bail("the job does not compute")
head = job.head()
name = job.head_name().split("/")[-2]

# ---- printed
code, out, err = godwit("top", name, "-b", "-n", 2, "-d", "0.2", LC_ALL="C.UTF-8")
tap.ok(code == 0 and out.count("godwit top") == 2 and re.search(r"^ +3 +1 +MPI .* \d+%", out, re.M), "top -b prints pages with a line for each rank", code,
       out, err)
code, out, err = godwit("top", name, "-b", "-n", 1, "-d", "0.2", LC_ALL="C")
tap.ok(code == 0 and out.isascii() and "RANK^" in out, "without UTF-8 in ASCII", code, out, err)
code, out, err = godwit("top", name, "-b", "-n", 1, "-d", "0.2", "--json")
tap.ok(code == 0 and len(json.loads(out)["ranks"]) == 4, "or what status --json says", code, err)
code, out, err = godwit("top", name)
tap.ok(code == 2 and "no terminal" in err and "-b" in err, "what is no terminal is not drawn on", code, out, err)
code, out, err = godwit("top", name, "-s", "height")
tap.ok(code == 2 and "'height'" in err, "a column that there is not is refused", code, err)

with open("/dev/full", "w") as full:
	for words in (["top", "-b", "-n", "1", "-d", "0.2"], ["metrics"]):
		p = subprocess.run([GODWIT] + words + [name], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
		tap.ok(p.returncode == 1 and "cannot write to standard output" in p.stderr, "where nothing can be written %s does not end well" % words[0], p.stderr)

p = subprocess.Popen([GODWIT, "top", "-b", "-d", "0.2", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
p.stdout.readline()
os.kill(job.proc.pid, signal.SIGSTOP)
out, err = p.communicate(timeout=60)
os.kill(job.proc.pid, signal.SIGCONT)
tap.ok(p.returncode == 1 and "is stopped" in err, "when mpirun is stopped top -b says so, and ends", p.returncode, err)


def has_loop(pid):
	"""Has it come to waiting? Its descriptors come and go meanwhile."""
	fds = "/proc/%d/fd" % pid
	try:
		return any("eventpoll" in os.readlink(os.path.join(fds, fd)) for fd in os.listdir(fds))
	except OSError:
		return False


def ask_and_stop():
	"""A command that has connected when mpirun is stopped; it may have been answered just before."""
	p = subprocess.Popen([GODWIT, "rebalance", "--dry-run", "--job", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
	wait_for(lambda: p.poll() is not None or has_loop(p.pid), 60)
	os.kill(job.proc.pid, signal.SIGSTOP)
	out, err = p.communicate(timeout=60)
	os.kill(job.proc.pid, signal.SIGCONT)
	return p.returncode, out, err


answers = [ask_and_stop()]
while answers[-1][0] == 0 and len(answers) < 10:
	answers.append(ask_and_stop())
tap.ok(answers[-1][0] == 1 and "is stopped" in answers[-1][2] and "may be done then" in answers[-1][2], "so does a command that waits for an answer", answers[-1])

# ---- counters go on
first = head.ranks()[1]
can = can_move()
if can:
	for to in (1 - first["cluster"], first["cluster"]):
		head.migrate([1], to)
	then = head.ranks()[1]
	tap.ok(then["cpu_ns"] >= first["cpu_ns"] > 0 and then["waited_ns"] >= first["waited_ns"] and then["sent_bytes"] >= first["sent_bytes"] > 0 and
	       then["moves"] == 2, "what a rank has used and sent goes on where it moves", first, then)
	moves = head.status()["moves"]
	tap.ok(moves["moved"] == 2 and moves["downtime"]["count"] == 2 and moves["downtime"]["at_most"][-1] == 2 and
	       all(m["downtime_ns"] > 0 and m["predicted_ns"] > 0 for m in moves["last"]), "status tells moves, and what was expected of them", moves)
else:
	tap.skip("what a rank has used goes on where it moves, status tells moves", "ranks cannot move here")

# ---- for Prometheus
code, out, err = godwit("metrics", name)
try:
	found = samples(out)
except ValueError as e:
	found = {}
	tap.diag(e)
tap.ok(code == 0 and sample(found, "godwit_rank_cpu_seconds_total", rank=3, job_id=name) > 0 and sample(found, "godwit_job_ranks") == 4 and
       sample(found, "godwit_cluster_up", cluster=1) == 1, "godwit metrics says what the job does, in Prometheus's format", code, out, err)
if can:
	tap.ok(sum(v for (n, l), v in found.items() if n == "godwit_moves_total") == 2 and sample(found, "godwit_rank_moves_total", rank=1) == 2 and
	       sample(found, "godwit_move_downtime_seconds_bucket", le="+Inf") == sample(found, "godwit_move_downtime_seconds_count") == 2,
	       "moves and how long ranks stood too", out)
if shutil.which("promtool"):
	p = subprocess.run(["promtool", "check", "metrics"], input=out, capture_output=True, text=True, timeout=60)
	tap.ok(p.returncode == 0 and not p.stdout + p.stderr, "promtool finds nothing wrong with it", p.stdout, p.stderr)
else:
	tap.skip("promtool finds nothing wrong with it", "there is no promtool (Debian: prometheus)")
written = prom.replace("%j", name)
tap.ok(wait_for(lambda: os.path.exists(written), 30) and samples(open(written).read()) and os.listdir(work).count(os.path.basename(written)) == 1,
       "-metrics writes it to a file", os.listdir(work))
code, out, err = godwit("metrics", "ffffffff")
tap.ok(code == 3 and "no job" in err, "a job that there is not is a sentence", code, err)
pipe = os.path.join(work, "pipe")
os.mkfifo(pipe)
for words, text in ((["-metrics", "/nowhere/x.prom"], "cannot be written"), (["-metrics", work], "is a directory"), (["-metrics", pipe], "no ordinary file"), (["-metrics-every", "5s"], "needs -metrics"),
                    (["-metrics", prom, "-metrics-every", "500ms"], "the shortest time is 1s")):
	p = subprocess.run([os.path.join(BUILD, "mpirun")] + words + ["-n", "1", "true"], capture_output=True, text=True, timeout=60)
	tap.ok(p.returncode != 0 and text in p.stderr, "mpirun %s is refused: %s" % (" ".join(words[:1]), text), p.returncode, p.stderr)

# ---- in a terminal
try:
	import pyte
except ImportError:
	tap.skip("top in a terminal", "there is no python3-pyte, which emulates one")
	pyte = None
t = Terminal([name, "-d", "0.2"]) if pyte else None
if t and not t.shows("godwit top", 20) and "without ncurses" in t.raw.decode(errors="replace"):
	tap.skip("top in a terminal", "this build is without ncurses")
elif t:
	tap.ok(t.shows(r"job %s.*uneven.*running" % name) and t.shows(r"^ +3 +1 +MPI .* \d+%") and t.shows("q quit"), "top draws ranks and keys", t.text())
	t.keys("L")
	tap.ok(t.shows("LOAD▾") and t.shows(r"LOAD▾[^\n]*\n +[01]\*? "), "L sorts by load: a rank with three times the work is first", t.text())
	t.keys("h")
	tap.ok(t.shows("quit; the job goes on"), "h explains the keys", t.text())
	t.keys("x")
	t.keys("Nf")
	tap.ok(t.shows("filter:"), "f asks for a filter", t.text())
	t.keys("cluster 1\r")
	tap.ok(t.shows(r"RANK▴[^\n]*\n +2 ") and not re.search(r"^ +\d\*? +0 +MPI", t.text(), re.M), "and shows what passes", t.text())
	t.keys("f\x1b")
	tap.ok(t.shows(r"^ +0 +\d +MPI"), "Escape takes it back", t.text())
	t.keys("\x1b[Bp")
	tap.ok(t.shows(r"^ +0\*") and wait_for(lambda: head.ranks()[0]["pinned"], 20), "p pins the rank that is chosen", t.text())
	t.keys("p")
	tap.ok(wait_for(lambda: not head.ranks()[0]["pinned"], 20), "and lets it go again", t.text())
	if can:
		to = 1 - head.ranks()[0]["cluster"]
		t.keys("m")
		t.shows(r"move rank 0 to")
		t.keys("%d\r" % to)
		tap.ok(t.shows(r"rank 0 is on cluster %d; it stood" % to, 30) and head.ranks()[0]["cluster"] == to, "m moves it", t.text())
		t.keys(" m9\r")
		tap.ok(t.shows("there is no cluster 9"), "what is refused is said", t.text())
		t.keys(" ")
	t.resize(10, 40)
	tap.ok(t.shows(r"^ +3 .*\d+%") and max(len(l) for l in t.text().split("\n")) <= 40, "a terminal that becomes small is filled", t.text())
	t.resize(24, 80)
	tap.ok(t.shows("space pause|b balance"), "and when it grows again", t.text())
	os.kill(t.pid, signal.SIGTSTP)
	tap.ok(t.stopped() and t.is_clean(), "stopped by Ctrl-Z it leaves the terminal as it was", t.raw[-200:])
	t.screen.reset()
	os.kill(t.pid, signal.SIGCONT)
	tap.ok(t.shows("godwit top"), "and goes on", t.text())
	t.keys("q")
	tap.ok(t.ended() == 0 and t.is_clean(), "q ends it, and the terminal is as it was", t.status, t.raw[-200:])
	for sig, want in ((signal.SIGINT, 0), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGHUP)):
		t = Terminal([name], NO_COLOR="1")
		t.shows("q quit")
		os.kill(t.pid, sig)
		status = t.ended()
		tap.ok(status == want and t.is_clean(), "so does signal %d" % sig, status, t.raw[-200:])
	tap.ok(not re.search(rb"\x1b\[[0-9;]*[34][0-7]m", t.raw), "NO_COLOR is heard: no colours", t.raw[:300])
	t = Terminal([name], TERM="nonsense")
	tap.ok(t.ended() == 1 << 8 and b"'nonsense'" in t.raw, "a terminal that nobody knows is a sentence", t.status, t.raw)
	t = Terminal([name, "-d", "0.2"])
	t.shows("q quit")
	open(stop, "w").close()
	tap.ok(t.ended(30) == 0 and t.is_clean() and ("job %s has ended" % name).encode() in t.raw, "when the job ends it says so", t.status, t.raw[-200:])
open(stop, "w").close()
tap.ok(job.wait(60) == 0 and not job.gone(), "the job has not noticed", *job.tail())
tap.ok(not os.path.exists(written), "and the file for Prometheus goes with it", os.listdir(work))
sys.exit(tap.done())
