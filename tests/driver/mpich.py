#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""MPICH's own test suite under mpirun, with its ranks staying or moving; or under another launcher, to compare.

Reads the suite's own lists (name, ranks, key=value ...), builds what they name in the suite's build directory, runs it and
judges the output as the suite does: " No Errors", nothing else, and status 0, unless the list asks for another result.
A test is named by its line in the list: "coll/allred 4 arg=-count=10".

tests/mpich/expected names the tests that must pass, tests/mpich/different those that cannot, each with the reason. What is
in neither must pass too: so a new test or a new list is looked at by somebody.
"""
import argparse, collections, concurrent.futures, contextlib, fcntl, random, shutil, signal
from godwit import *

LISTS = "attr coll comm datatype errhan errors group impls info init io mpi_t part pt2pt rma spawn threads topo".split()
TWINS = ["f77", "f90", "f08", "cxx"]
HERE = os.path.join(os.environ.get("top_srcdir", "."), "tests/mpich")
DEFAULT_LIMIT_S = 180  # of the suite's own runtests
SKIPPED = "skipped"


class Test:
	def __init__(self, where, line):
		words = line.split()
		self.where, self.program = os.path.split(os.path.join(where, words[0]))
		self.ranks = int(words[1]) if len(words) > 1 and words[1].isdigit() else 2
		self.args, self.mpirun, self.env, self.result, self.limit_s = [], [], {}, None, DEFAULT_LIMIT_S
		self.xfail = self.mem = None
		for w in words[2:]:
			key, _, value = w.partition("=")
			if key == "arg":
				self.args.append(value)
			elif key == "mpiexecarg":
				self.mpirun.append(value)
			elif key == "env":
				self.env.update([value.split("=", 1)])
			elif key == "resultTest":
				self.result = value
			elif key == "timeLimit":
				self.limit_s = int(value)
			elif key == "xfail":
				self.xfail = value
			elif key == "mem":
				self.mem = float(value)
		self.name = " ".join(["%s/%s" % (where, words[0]), str(self.ranks)] +
		                     [w for w in words[2:] if re.match("(arg|env|resultTest)=", w)])

	def path(self, suite):
		return os.path.join(suite, self.where, self.program)


def read_list(suite, name):
	"""The lines of one directory's list, or of another list in it (coll/testlist.cvar), and where it is."""
	where, _, file = name.rpartition("/")
	if not file.startswith("testlist."):
		where, file = name, "testlist"
	path = os.path.join(suite, where, file)
	if not os.path.exists(path):  # those that configure does not make are in the source
		path = os.path.join(suite, "../source/mpi", where, file)
	if not os.path.exists(path):
		return where, []
	with open(path) as f:
		lines = [line.split("#")[0].strip() for line in f]
	return where, [l for l in lines if l and not l.startswith("!")]


def is_directory(suite, where, line):
	return any(os.path.isdir(os.path.join(suite, top, where, line.split()[0])) for top in ("", "../source/mpi"))


def expand(suite, name):
	"""This list and those that it names, down to the last."""
	where, lines = read_list(suite, name)
	inner = [os.path.join(where, l.split()[0]) for l in lines if is_directory(suite, where, l)]
	return [name] + [n for i in inner for n in expand(suite, i)]


def read_tests(suite, name):
	"""The tests of one list; a name that occurs twice is numbered."""
	where, lines = read_list(suite, name)
	tests, seen = [], collections.Counter()
	for line in lines:
		if is_directory(suite, where, line):
			continue
		t = Test(where, line)
		seen[t.name] += 1
		if seen[t.name] > 1:
			t.name += " (%d)" % seen[t.name]
		t.list = name
		tests.append(t)
	return tests


def why_not(suite, where):
	"""Why a list cannot be compiled here, or None: configure has commented out the languages that it did not find."""
	language = ([w for w in where.split("/") if w in TWINS] or [None])[0]
	with open(os.path.join(suite, "testlist")) as f:
		if language and language not in f.read().split():
			return "MPICH or this machine has no compiler for %s" % language
	return None


def read_names(path):
	"""name -> reason, of a committed list: a name to a line, indented lines below it are the reason."""
	names, last = {}, None
	with open(path) as f:
		for line in f:
			line = line.rstrip("\n")
			if not line.strip() or line.startswith("#"):
				continue
			if line[0].isspace():
				names[last] = (names[last] + " " + line.strip()).strip()
			else:
				last = line
				names[last] = ""
	return names


def build(suite, tests, jobs):
	"""Make the programs of these tests; what cannot be made fails when it is run."""
	wanted = collections.defaultdict(set)
	for t in tests:
		if not os.access(t.path(suite), os.X_OK):
			wanted[t.where].add(t.program)
	for where in sorted(wanted):
		with open(os.path.join(suite, "build.log"), "a") as log:
			fcntl.flock(log, fcntl.LOCK_EX)  # another run may be at it
			subprocess.run(["make", "-k", "-j%d" % jobs, "-C", os.path.join(suite, where)] + sorted(wanted[where]),
			               stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def judge(test, status, lines):
	"""None when the test has passed, else what was wrong. The rules are those of the suite's runtests."""
	lines = [l for l in lines if "FORTRAN STOP" not in l]
	if test.result in ("TestErrFatal", "TestStatus"):  # must fail, may say anything
		return None if status != 0 else "status 0 where another was asked for"
	wrong = [l for l in lines if not re.fullmatch(r"\s*(No [Ee]rrors|Test [Pp]assed)\s*", l)]
	if wrong:
		return "unexpected output: " + wrong[0][:200]
	if not any(re.fullmatch(r"\s*No [Ee]rrors\s*", l) for l in lines):
		return "no 'No Errors', status %d" % status
	if test.result == "TestStatusNoErrors":
		return None if status != 0 else "status 0 where another was asked for"
	return None if status == 0 else "status %d" % status


def stacks(job, say):
	"""Where every thread of a job that hangs is."""
	if not shutil.which("gdb"):
		return
	for pid, command in sorted(job.processes().items()):
		try:
			out = subprocess.run(["gdb", "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"], timeout=60,
			                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
		except (OSError, subprocess.TimeoutExpired) as e:
			out = repr(e)
		say("---- %d %s" % (pid, command))
		for line in out.splitlines():
			if re.match(r"Thread |#\d", line):
				say(line)


class Restless(threading.Thread):
	"""Moves a random rank of a job to a random other cluster every pace_ms, from the job's first moment to its last."""

	def __init__(self, job, ranks, clusters, seed, pace_ms, is_spawning):
		super().__init__(daemon=True)
		self.is_spawning = is_spawning  # more ranks may come, and are moved too
		self.job, self.ranks, self.clusters, self.rng, self.pace_s = job, ranks, clusters, random.Random(seed), pace_ms / 1000
		self.moves, self.refused, self.why, self.error = 0, 0, collections.Counter(), None
		self.start()

	def run(self):
		# A test that lasts less than a pace would never be moved if the first move did not come at a random moment.
		due = time.monotonic() + self.rng.random() * self.pace_s
		try:
			name = self.job.wait_head()
			if not name:
				return
			head = Head(name, 200)
			where = {}
			while self.job.is_running():
				time.sleep(max(0, due - time.monotonic()))  # the pace, not a wait for something
				due = max(due + self.pace_s, time.monotonic())
				if self.is_spawning:
					alive = [r for r in head.ranks().values() if r["state"] not in ("ended", "starting")]
					if not alive:
						continue
					rank = self.rng.choice(alive)["rank"]
					where = {r["rank"]: r["cluster"] for r in alive}
				else:
					rank = self.rng.randrange(self.ranks)
				at = where.get(rank, rank * self.clusters // self.ranks)
				to = (at + 1 + self.rng.randrange(self.clusters - 1)) % self.clusters
				for m in head.migrate([rank], to, 10000):
					if re.search("is not up|has not been started yet", m["text"]):
						due = time.monotonic() + 0.005  # too early to count
					elif m["status"] == 0:
						self.moves += 1
						where[rank] = to
					else:
						self.refused += 1
						self.why[re.sub(r"\d+", "N", m["text"])] += 1
		except (OSError, EOFError, RuntimeError) as e:
			self.error = repr(e)  # the job has ended, most often


Result = collections.namedtuple("Result", "test wrong seconds moves refused why output")


def run(tap, test, options):
	"""One test, once."""
	if test.xfail and not options.xfail and test.name not in options.expected:
		return Result(test, SKIPPED, 0, 0, 0, {}, [])
	rng = random.Random("%s %s" % (options.seed, test.name))
	clusters = options.clusters or rng.choice((3, 4))
	directory = os.path.join(options.suite, test.where)
	if not os.access(test.path(options.suite), os.X_OK):
		return Result(test, "cannot be built; see %s" % os.path.join(options.suite, "build.log"), 0, 0, 0, {}, [])
	limit_s = int(test.limit_s * options.patience)
	env = dict(test.env)
	if test.result == "TestErrFatal" or options.mpiexec:  # elsewhere it would end the job before we have its stacks
		env["MPIEXEC_TIMEOUT"] = str(limit_s)
	if options.mpiexec:
		launcher, args = options.mpiexec.split(), []
	else:
		launcher, args = None, ["-clusters", clusters] if options.moves else ["-clusters", 2]
	began = time.monotonic()
	job = Job(tap, args + test.mpirun + ["-n", test.ranks, "./" + test.program] + test.args, env=env, cwd=directory, launcher=launcher)
	mover = Restless(job, test.ranks, clusters, rng.random(), options.pace_ms,
	                 "spawn" in test.where.split("/")) if options.moves else None
	status = job.wait(limit_s + 20 * ("MPIEXEC_TIMEOUT" in env))
	seconds = time.monotonic() - began
	output = []
	if status is None:
		wrong = "hangs: still there after %d s" % seconds
		output = ["%s: %s" % l for l in job.lines[-40:]]
		if options.stacks:
			stacks(job, output.append)
		job.kill()
	else:
		wrong = judge(test, status, [l for _, l in job.lines])
		if wrong:
			output = ["%s: %s" % l for l in job.lines[-40:]]
	if mover:
		mover.join(30)
	left = job.gone()
	if left and not wrong:
		wrong = "leaves processes behind: %s" % left
	job.kill()
	return Result(test, wrong, seconds, mover.moves if mover else 0, mover.refused if mover else 0,
	              mover.why if mover else {}, output)


def main():
	p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
	p.add_argument("--suite", required=True, help="the suite's build directory")
	p.add_argument("--lists", default=",".join(LISTS), help="comma separated: coll,f77/coll,..., or 'all'")
	p.add_argument("--names", help="run only the tests that are named in this file")
	p.add_argument("--only", help="run only tests whose name matches")
	p.add_argument("--moves", action="store_true", help="move a random rank every --pace-ms")
	p.add_argument("--pace-ms", type=float, default=100)
	p.add_argument("--clusters", type=int, help="how many; without it 2, or 3 or 4 with moves")
	p.add_argument("--seed", default=os.environ.get("SUITE_SEED") or random.randrange(1 << 31))
	p.add_argument("--jobs", type=int, default=1, help="tests at a time")
	p.add_argument("--repeat", type=int, default=1)
	p.add_argument("--until-moved", type=int, default=1, metavar="N",
	               help="run a test again, up to N times in all, as long as no move came in time")
	p.add_argument("--patience", type=float, default=1, help="multiplies the lists' time limits")
	p.add_argument("--mpiexec", help="another launcher, to compare; ranks do not move")
	p.add_argument("--stacks", action="store_true", help="print where the threads of a test that hangs are")
	p.add_argument("--report", help="append one JSON line for each test to this file")
	p.add_argument("--xfail", action="store_true", help="run also what the suite's authors expect to fail")
	p.add_argument("--deadline", type=int, default=5 * 3600)
	options = p.parse_args()

	lists = options.lists.split(",")
	if lists == ["all"]:
		lists = LISTS + TWINS
	lists = [l for name in lists for l in expand(options.suite, name)]
	without = {l: why_not(options.suite, l) for l in lists}
	tests = [t for l in lists if not without[l] for t in read_tests(options.suite, l)]
	if options.names:
		names = read_names(options.names)
		tests = [t for t in tests if t.name in names]
		missing = set(names) - {t.name for t in tests}
	else:
		missing = set()
	if options.only:
		tests = [t for t in tests if re.search(options.only, t.name)]
	expected = options.expected = read_names(os.path.join(HERE, "expected"))
	different = read_names(os.path.join(HERE, "different"))

	tap = Tap(options.deadline)
	tap.diag("seed %s" % options.seed)
	for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
		signal.signal(s, lambda number, frame: tap.bail("ended by signal %d" % number))
	for l in lists:
		if without[l]:
			tap.skip(l, without[l])
	build(options.suite, tests, 2)
	shm_before = shm_entries()
	counts = collections.defaultdict(collections.Counter)
	lock = threading.Lock()
	alone = collections.defaultdict(threading.Lock)

	def one(test):
		worst, moves, turns = None, 0, 0
		while turns < options.repeat or (turns < options.until_moved and not moves and test.name not in different):
			# the tests of one io directory write files of one name
			with alone[test.where] if os.path.basename(test.where) == "io" else contextlib.nullcontext():
				r = run(tap, test, options)
			turns += 1
			moves += r.moves
			with lock:
				c = counts[test.list]
				c["moves"] += r.moves
				c["refused"] += r.refused
				if options.report:
					with open(options.report, "a") as f:
						json.dump({"test": test.name, "list": test.list, "wrong": r.wrong, "seconds": round(r.seconds, 2),
						           "moves": r.moves, "refused": r.refused, "why": r.why, "seed": str(options.seed)}, f)
						f.write("\n")
			if not worst or (r.wrong and not worst.wrong):
				worst = r
			if r.wrong:
				break
		with lock:
			c["tests"] += worst.wrong is not SKIPPED
			c["passed"] += not worst.wrong
			tell(worst, moves)

	def tell(r, moves):
		if r.wrong is SKIPPED:
			tap.skip(r.test.name, "the suite does not run it either: xfail=%s" % r.test.xfail)
			return
		moved = ", %d moves" % moves if options.moves else ""
		sentence = "%s (%.1f s%s)" % (r.test.name, r.seconds, moved)
		if r.test.name in different:
			tap.run += 1
			print("%s %d - %s # TODO %s" % ("not ok" if r.wrong else "ok", tap.run, sentence, different[r.test.name]), flush=True)
			if not r.wrong and not options.mpiexec:
				tap.diag("passes here: it can go from tests/mpich/different to tests/mpich/expected")
			return
		tap.ok(not r.wrong, sentence, r.wrong, *r.output)
		if r.test.name not in expected:
			tap.diag("is not in tests/mpich/expected yet")
		for why, n in r.why.items():
			tap.diag("%d x %s" % (n, why))

	with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
		for f in [pool.submit(one, t) for t in tests]:
			f.result()
	for name in sorted(missing):
		tap.ok(False, "%s is in the suite's lists" % name)
	tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
	total = collections.Counter()
	for l in lists:
		if counts[l]:
			tap.diag("%-14s %4d tests, %4d passed, %5d moves, %5d refused" % (
				l, *(counts[l][k] for k in ("tests", "passed", "moves", "refused"))))
			total.update(counts[l])
	tap.diag("%-14s %4d tests, %4d passed, %5d moves, %5d refused" % (
		"all", *(total[k] for k in ("tests", "passed", "moves", "refused"))))
	return tap.done()


sys.exit(main())
