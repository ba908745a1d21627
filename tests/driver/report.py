#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Histories of jobs that mpirun keeps, and the page, the trace and the figures that godwit report makes of them.

A real job is moved, drained and written down; a history of two days is made (history.py). Pages are looked at by a parser, by html5lib
where it is installed, and by a real browser where there is one (Debian: chromium, python3-html5lib).
"""
import html.parser, resource, stat
import history
from godwit import *

IS_LONG = "--long" in sys.argv  # as long as histories get; minutes
tap = Tap(600)  # half a minute where nothing else runs
work = work_dir("report")
UNEVEN = os.path.join(BUILD, "tests/programs/uneven")
GODWIT = os.path.join(BUILD, "godwit")
STATE = os.path.join(work, "state")
ENV = {"XDG_STATE_HOME": STATE, "GODWIT_RECORD": ""}
BAD = "<script>alert('argument')</script>&amp;\"\u202e"


def godwit(*words, **more):
	p = subprocess.run([GODWIT] + [str(w) for w in words], capture_output=True, text=True, timeout=600 if IS_LONG else 90, cwd=work,
	                   env=dict(os.environ, **ENV), **more)
	return p.returncode, p.stdout, p.stderr


class Page(html.parser.HTMLParser):
	"""What a page refers to, runs and says."""

	VOID = ("meta", "br", "link", "img", "input")

	def __init__(self, text):
		super().__init__(convert_charrefs=True)
		self.tags, self.refs, self.handlers, self.open, self.errors, self.text = collections.Counter(), [], [], [], [], []
		self.titles, self.rows = [], []
		self.feed(text)
		self.close()
		self.errors += self.open

	def handle_starttag(self, tag, attrs):
		self.tags[tag] += 1
		self.refs += [(tag, k, v) for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset", "poster", "background")]
		self.handlers += [(tag, k) for k, v in attrs if k.startswith("on")]
		if tag not in self.VOID:
			self.open.append(tag)
		if tag == "tr":
			self.rows.append([])
		elif tag in ("td", "th") and self.rows:
			self.rows[-1].append("")

	def handle_startendtag(self, tag, attrs):
		self.handle_starttag(tag, attrs)
		if tag not in self.VOID:
			self.open.pop()

	def handle_endtag(self, tag):
		if self.open and self.open[-1] == tag:
			self.open.pop()
		else:
			self.errors.append("</%s> closes %s" % (tag, self.open[-1:]))

	def handle_data(self, data):
		if "script" in self.open or "style" in self.open:
			if "style" in self.open and re.search(r"url\(|@import", data):
				self.refs.append(("style", "url", data))
			return
		self.text.append(data)
		if self.open and self.open[-1] == "title" and "svg" in self.open:
			self.titles.append(data)
		if self.rows and self.rows[-1] and ("td" in self.open or "th" in self.open):
			self.rows[-1][-1] += data

	def says(self):
		return "".join(self.text)


def read(name):
	with open(os.path.join(work, name), encoding="utf-8") as f:
		return f.read()


def check_page(name, what):
	"""One file, nothing from outside, one script, all closed; the page."""
	text = read(name)
	p = Page(text)
	tap.ok(not p.refs and p.tags["script"] == 1 and not p.handlers and p.tags["img"] == 0,
	       "%s: it refers to nothing outside, and runs its own script only" % what, p.refs[:3], p.handlers[:3], p.tags)
	tap.ok(not p.errors, "and all that is opened is closed", p.errors[:5])
	if len(text) > 300000 and not IS_LONG:
		return p  # as long as html5lib takes for it, it says nothing that it does not say of others
	for python in (sys.executable, "/usr/bin/python3"):
		q = subprocess.run([python, "-c", "import sys, html5lib\np = html5lib.HTMLParser()\np.parse(open(sys.argv[1], encoding='utf-8').read())\nprint(p.errors[:5])",
		                    os.path.join(work, name)], capture_output=True, text=True, timeout=80)
		if q.returncode == 0:
			tap.ok(q.stdout.strip() == "[]", "html5lib finds nothing wrong with it", q.stdout)
			return p
	tap.skip("html5lib finds nothing wrong with it", "python3-html5lib is not installed")
	return p


def check_trace(name, what):
	"""By the rules of the Trace Event Format: which fields each kind of event has, and that arrows have two ends."""
	with open(os.path.join(work, name)) as f:
		trace = json.load(f)
	events, bad, arrows, named = trace["traceEvents"], [], {}, set()
	needs = {"X": ("name", "ts", "dur", "pid", "tid"), "M": ("name", "pid", "args"), "C": ("name", "ts", "pid", "args"), "i": ("name", "ts", "pid", "tid", "s"),
	         "s": ("name", "ts", "pid", "tid", "id", "cat"), "f": ("name", "ts", "pid", "tid", "id", "cat", "bp")}
	for e in events:
		good = e.get("ph") in needs and all(k in e for k in needs[e["ph"]]) and e.get("ts", 0) >= 0 and e.get("dur", 0) >= 0
		if good and e["ph"] == "C":
			good = all(isinstance(v, (int, float)) for v in e["args"].values())
		if good and e["ph"] == "i":
			good = e["s"] in ("g", "p", "t")
		if not good:
			bad.append(e)
		if e.get("ph") in ("s", "f"):
			arrows.setdefault((e["cat"], e["id"]), []).append(e)
		if e.get("ph") == "M":
			named.add((e["name"], e["pid"], e.get("tid") if e["name"] == "thread_name" else None))
	tap.ok(not bad, "%s: each event of the trace has what its kind needs" % what, bad[:3])
	tap.ok(all(sorted(a["ph"] for a in pair) == ["f", "s"] and pair[0]["ts"] <= pair[1]["ts"] for pair in arrows.values()),
	       "each arrow of it has two ends, in their order", [p for p in arrows.values() if len(p) != 2][:2])
	lines = {(e["pid"], e["tid"]) for e in events if e.get("ph") == "X"}
	tap.ok(all(("thread_name", p, t) in named and ("process_name", p, None) in named for p, t in lines), "and each line has a name",
	       [l for l in lines if ("thread_name",) + l not in named][:3])
	return events, arrows


# ---- a real job ---------------------------------------------------------------------------------------------------------

def real_job():
	ways = can_move()
	if not ways:
		tap.skip("a history of a real job", "ranks cannot move here")
		return
	stop = os.path.join(work, "stop")
	os.makedirs(os.path.join(work, "checkpoints/one"))
	job = Job(tap, ["-n", 4, "-launcher", "fork", "-hosts", "one:2,two:2", "-clusters", 2, UNEVEN, stop, 5, 3, 20000, BAD], env=ENV)
	if not job.wait_line(r"^steps", 60, "out"):
		tap.bail("the job does not compute")
	head = job.head()
	ident = job.head_name().split("/")[-2]
	file = os.path.join(STATE, "godwit/jobs", ident + ".jsonl")
	mode = lambda path: stat.S_IMODE(os.stat(path).st_mode)
	tap.ok(wait_for(lambda: os.path.exists(file) and mode(file) == 0o600 and mode(os.path.dirname(file)) == 0o700, 10),
	       "mpirun keeps a history without being asked, for its owner only", os.listdir(STATE) if os.path.isdir(STATE) else "")
	answers = [head.migrate([0], 3 if i % 2 == 0 else 0, technique=way)[0] for i, way in enumerate(ways)]
	moves = [m for m in answers if m["status"] == 0]
	tap.ok(len(moves) == len(ways), "a rank moves by each technique", answers)
	head.send({"op": "checkpoint", "dir": os.path.join(work, "checkpoints/one"), "stop": False})
	written = head.receive()
	drained = head.drain(1)
	joined = head.add("three") if drained["status"] == 0 else drained
	tap.ok(drained["status"] == 0 and joined["status"] == 0, "clusters are emptied, and come", drained, joined)
	code, out, err = godwit("report", ident, "-o", "running.html")
	tap.ok(code == 0 and "it runs, or mpirun was killed" in Page(read("running.html")).says(), "of a job that runs there is a page", code, out, err)
	seen = wait_for(lambda: '"traffic.seen"' in read(file) and read(file).count('"load.seen"') > 1, 30, 0.1)
	tap.ok(seen, "loads and traffic are looked at by themselves", read(file)[-300:])
	open(stop, "w").close()
	tap.ok(job.wait(60) == 0, "the job ends well", job.tail())
	code, out, err = godwit("report")
	name = "godwit-%s.html" % ident
	tap.ok(code == 0 and out.strip() == name and os.path.exists(os.path.join(work, name)), "godwit report writes a page of the last job", code, out, err)
	page = check_page(name, "the page of a real job")
	said = page.says()
	tap.ok("<script>alert('argument')" in said and "\u202e" not in said, "an argument with a script in it is text there", said[:300])
	tap.ok(all("cluster %d on %s" % (i, h) in said for i, h in enumerate(("one", "one", "two", "two"))) and "cluster 4 joined, on three" in said,
	       "it names all clusters and their hosts", [t for t in page.titles if "on " in t][:3])
	table = next((i for i, r in enumerate(page.rows) if r[:5] == ["At", "Rank", "From → to", "By", "Technique"]), len(page.rows))
	told = [r for r in page.rows[table + 1:table + 1 + len(moves)] if r[3] == "migrate"]
	tap.ok([r[4] for r in told] == [m["measures"]["technique"] for m in moves] and all(len(r) == 14 for r in told),
	       "each move is told with its technique and eight measures", told)
	tap.ok([t for t in page.titles if t.startswith("rank 0: cluster 3 on two")] and "The same as a table" in said, "the timeline has its stays",
	       page.titles[:5])
	tap.ok(written.get("status") == 0 and "checkpoints/one" in said and "a checkpoint was written in" in said, "the checkpoint is told", written)
	tap.ok("cluster 1 is drained" in said and "draining is over: %d ranks were moved" % drained["moved"] in said, "and the drain", drained)
	code, out, err = godwit("report", ident[:6], "--json", "--trace", "trace.json")
	figures = json.loads(out) if code == 0 else {}
	tap.ok(code == 0 and figures["job"] == ident and figures["ended"] and figures["code"] == 0 and figures["moved"] >= len(moves) and figures["ranks"] == 4 and
	       figures["clusters"] == 5 and figures["hosts"] == 3, "godwit report --json tells figures, by the beginning of the id", code, figures, err)
	events, arrows = check_trace("trace.json", "a real job")
	tap.ok(len(arrows) == figures["moved"], "there is an arrow for each move", len(arrows), figures)
	code, out, err = godwit("report", "--list", ident[:5])
	tap.ok(code == 0 and out.startswith(ident) and "uneven" in out, "godwit report --list names it", out, err)
	with open(os.path.join(os.path.dirname(file), "ffffffff.jsonl"), "w") as f:
		f.write("torn")
	code, out, err = godwit("report", "--list")
	tap.ok(code == 1 and out.startswith(ident) and "ffffffff.jsonl' holds no history" in err, "and says which one cannot be read", code, out, err)


# ---- a long one -----------------------------------------------------------------------------------------------------------

def long_history():
	path = os.path.join(work, "long.jsonl")
	with open(path, "w", encoding="utf-8") as f:
		moved = history.made(f.write, 4096, 512, 40000) if IS_LONG else history.made(f.write, 1024, 128, 6000, samples=300)
	code, out, err = godwit("report", path, "-o", "long.html", "--json")
	figures = json.loads(out) if code == 0 else {}
	size = os.path.getsize(os.path.join(work, "long.html")) if code == 0 else 0
	tap.ok(code == 0 and figures["moved"] == moved and 100000 < size < 3000000, "of %d moves in two days the page has less than 3 MB" % moved, code, size, figures, err)
	tap.diag("%.1f MB of history, %.2f MB of page" % (os.path.getsize(path) / 1e6, size / 1e6))
	page = check_page("long.html", "the page of a long history")
	said = page.says()
	tap.ok("Each line is a group of %d ranks" % (64 if IS_LONG else 16) in said and "The 200 moves with the longest pauses, of %d" % moved in said,
	       "it says where it tells of groups, and of some moves only")
	tap.ok("<script>alert('1')" in said and "a <b>socket</b> & more" in said, "hosts and reasons with tags in them are text")
	with open(path, "a", encoding="utf-8") as f:
		history.made(f.write, 4, 2, 10, 100, job="11111111", samples=20)
		f.write("no JSON\n[1]\n")
	code, out, err = godwit("report", path, "-o", "short.html", "--trace", "short.json")
	said = check_page("short.html", "the page of a short history").says()
	tap.ok(code == 0 and "Job 11111111" in said and "2 of %d lines of its history could not be read" % sum(1 for _ in open(path, "rb")) in said,
	       "of several jobs in a file the last is taken; lines that say nothing are counted", code, err)
	check_trace("short.json", "a made job")
	code, out, err = godwit("report", path, "--job", "0bad", "--json")
	tap.ok(code == 0 and json.loads(out)["moved"] == moved, "or the one that is named", code, err)


# ---- refusals -----------------------------------------------------------------------------------------------------------------

def refusals():
	code, out, err = godwit("report", "ffffffff")
	tap.ok(code == 3 and "no histor" in err, "a job of which nothing is known is no page", code, err)
	code, out, err = godwit("report", "/etc/passwd")
	tap.ok(code == 3 and "holds no history" in err, "nor is a file that is none", code, err)
	code, out, err = godwit("report", os.path.join(work, "long.jsonl"), "-o", "/nowhere/page.html")
	tap.ok(code == 1 and "/nowhere/page.html" in err, "a page that cannot be written says where", code, err)
	path = made("whole.jsonl", started(job="a/\n\x1b[1m"), line("job.ended", 5, code=0))
	text, out_of = read("whole.jsonl"), "standard output takes one thing"
	os.symlink(path, os.path.join(work, "link"))
	for words, how in (([path, "-o", path], "is the history itself"), ([path, "-t", os.path.join(work, "link")], "is the history itself"),
	                   ([path, "-o", "new", "-t", "new"], "cannot both be"), ([path, "-o", "-", "-J"], out_of), ([path, "-t", "-", "-J"], out_of),
	                   ([path, "-o", "-", "-t", "-"], out_of), (["-l", "-o", "new"], "neither a page nor a trace"), (["-l", path], "takes the id of a job")):
		code, out, err = godwit("report", *words)
		tap.ok(code == 2 and how in err and not out and read("whole.jsonl") == text and not os.path.exists(os.path.join(work, "new")),
		       "refused, and nothing is written: report %s" % " ".join(w.replace(work + "/", "") for w in words), code, out[:200], err)
	code, out, err = godwit("report", path)
	tap.ok(code == 0 and out == "godwit-a___[1m.html\n".replace("[", "_") and os.path.exists(os.path.join(work, out.strip())),
	       "a job's number with a line's end and a terminal's command in it is neither in the name of a file nor on the terminal", code, out, err)
	with open("/dev/full", "w") as full:
		for words in (["report", path, "-J"], ["report", path, "-o", "-"], ["--help"]):
			p = subprocess.run([GODWIT] + words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=90)
			tap.ok(p.returncode == 1 and p.stderr == "godwit: cannot write%s standard output: No space left on device\n" % ("" if "-o" in words else " to"),
			       "where nothing can be written godwit %s does not end well" % " ".join(words).replace(work + "/", ""), p.returncode, p.stderr)
	kept = os.path.join(work, "kept")
	os.makedirs(os.path.join(kept, "godwit/jobs"), mode=0o700)
	for i in range(40):
		with open(os.path.join(kept, "godwit/jobs/%08x.jsonl" % i), "w") as f:
			f.write("{}\n")
		os.utime(f.name, (i, i))
	mpirun = lambda *words, **env: subprocess.run([os.path.join(BUILD, "mpirun")] + list(words) + ["-n", "1", "true"], capture_output=True, text=True, timeout=60,
	                                              env=dict(os.environ, **dict(dict(ENV, XDG_STATE_HOME=kept), **env)))
	p = mpirun()
	names = sorted(os.listdir(os.path.join(kept, "godwit/jobs")))
	tap.ok(p.returncode == 0 and len(names) == 32 and "00000009.jsonl" in names and "00000008.jsonl" not in names, "the last 32 histories stay", names[:3], p.stderr)
	p = mpirun("-record", "none")
	tap.ok(p.returncode == 0 and sorted(os.listdir(os.path.join(kept, "godwit/jobs"))) == names, "-record none keeps none", p.stderr)
	p = mpirun(XDG_STATE_HOME="/proc/nowhere")
	tap.ok(p.returncode == 0 and not p.stderr, "a home that cannot be written to is no matter", p.stderr)
	p = mpirun("-record", "/etc/hostname")
	tap.ok(p.returncode != 0 and "holds no history" in p.stderr, "a file of something else is not written to", p.stderr)
	p = mpirun("-record", "/nowhere/history")
	tap.ok(p.returncode != 0 and "/nowhere/history" in p.stderr, "a place that was named and cannot be had is refused", p.stderr)


def name_of(pid):
	try:
		return open("/proc/%s/comm" % pid).read().strip()
	except OSError:
		return ""  # it has ended


def scribe_of(job):
	"""The process of mpirun's that writes the history. It has its name when it has run for a moment."""
	pid = wait_for(lambda: next((int(p) for p in open("/proc/%d/task/%d/children" % (job.proc.pid, job.proc.pid)).read().split()
	                             if name_of(p) == "godwit-scribe"), 0))
	return pid or tap.bail("mpirun has no process that writes")


def scribes():
	for sig, how in ((signal.SIGSTOP, "is not whole: its file system does not answer"), (signal.SIGKILL, "ends here: the process that writes it has ended")):
		job = Job(tap, ["-record", os.path.join(work, "held-%d.jsonl" % sig), "-n", 2, "sh", "-c", "echo up; read line; echo down"], stdin=True)
		job.wait_line("^up", 60, "out")
		pid = scribe_of(job)
		os.kill(pid, sig)
		job.proc.stdin.write(b"\n")
		job.proc.stdin.close()
		status = job.wait(60)
		tap.ok(status == 0 and job.out().count("down") == 2 and any(how in l for l in job.out("err")), "who writes the history holds nobody up: signal %d" % sig, status,
		       *job.tail())
		tap.ok(wait_for(lambda: not os.path.exists("/proc/%d" % pid), 20) and not job.gone(), "and leaves nothing", *job.tail())
	job = Job(tap, ["-n", 1, "sh", "-c", "echo up; read line"], stdin=True, env=ENV)
	job.wait_line("^up", 60, "out")
	pid = scribe_of(job)
	job.proc.kill()
	tap.ok(wait_for(lambda: not os.path.exists("/proc/%d" % pid), 20), "it goes with an mpirun that is killed")
	job.kill()


# ---- files that somebody else has written ---------------------------------------------------------------------------------------

def line(event, t_s=0, **fields):
	return json.dumps(dict({"t": int(1.7e18) + int(t_s * 1e9), "who": "mpirun", "pid": 7, "event": event}, **fields)) + "\n"


def started(job="0000beef", ranks=2, **fields):
	return line("job.started", job=job, ranks=ranks, **dict({"places": [[ranks, 0]], "programs": [{"words": "made", "ranks": ranks}]}, **fields))


def made(name, *lines):
	path = os.path.join(work, name)
	with open(path, "w", encoding="utf-8") as f:
		f.writelines(lines)
	return path


def strange_files():
	os.mkfifo(os.path.join(work, "pipe"))
	for path, text in ((os.path.join(work, "pipe"), "is a pipe"), (work, "is a directory"), ("/dev/null", "no file with an end")):
		code, out, err = godwit("report", path, "-J")
		tap.ok(code == 2 and text in err and not out, "what is no ordinary file is refused: it %s" % text, code, out[:300], err)
	code, out, err = godwit("report", made("wide.jsonl", started(), '["' + 17 * 1024 * 1024 * "x" + '"]\n', line("job.ended", 5, code=3)), "-o", "wide.html", "-J")
	tap.ok(code == 0 and json.loads(out)["code"] == 3 and "1 of 3 lines" in Page(read("wide.html")).says(), "a line that is too long is passed over, and said to be",
	       code, out, err)
	for text, how in ((started("0123456789abcdef0123"), "more than 15 letters"), (started(t=None), "does not say when"), (started(ranks=-1), "how many ranks")):
		code, out, err = godwit("report", made("damaged.jsonl", text, line("job.ended", 5, code=3)), "-J")
		tap.ok(code == 2 and how in err and not out, "nothing is told of a history without a beginning: %s" % how, code, out[:300], err)
	code, out, err = godwit("report", made("gap.jsonl", started(ranks=4), line("record.gap", 2, lines=7, places=[[2, 1], [2, None]]), line("job.ended", 5, code=0)),
	                        "-o", "gap.html")
	page = Page(read("gap.html"))
	tap.ok(code == 0 and "7 lines that could not be written in time" in page.says() and [r[2:5] for r in page.rows if len(r) == 5 and r[0] in ("1", "3")][-2:] ==
	       [["0 s", "cluster 1", "0 from 0 s, 1 from 2 s, ended at 5 s"], ["0 s", "cluster 0", "0 from 0 s, ended at 2 s"]],
	       "where lines are missing the page says so, and goes on from where ranks are", code, err, [r for r in page.rows if len(r) == 5])
	huge = 1.7e308
	cut = "ää" * 20  # no room, of an even or an odd number of bytes, ends between its letters
	lines = [started(version=cut, balance="a" + cut), line("cluster.ready", 1, cluster=0, name=cut * 20, place=0, cores=4), line("job.ended", 9, code=-1e18),
	         line("traffic.seen", 2, per=1, near=[huge, 1e-300, -5], rows=[[0, 1, huge, huge], [1, 0, 1e-300, 1e-300], [0, 0, 1e18, 5]]),
	         line("traffic.seen", 3, per=1, near=[huge, huge, huge], rows=[[0, 1, huge, huge], [0, 0, 9, 1]]), line("bal.plan", 3, moves=2, peak=huge, planned=-huge),
	         line("load.seen", 3, load=[huge, -huge, 1e300], busy=[1e300], ranks=[-(1 << 62)]), line("mig.sum", 3, downtime_ns=huge, longest_ns=huge, moved=1),
	         line("job.checkpoint", 3, ms=huge, size=huge, status=-1e18), line("job.removed", 3, status=-1e18)]
	lines += [line("mig.done", 4, rank=0, to=0, by=by, technique=cut, status=status, total_ns=huge, downtime_ns=down, pages=huge, slowdown=-huge, bytes=huge,
	               predicted_ns=huge, **{"from": 0}) for by, status, down in (("a" + cut, 0, 1e-300), (cut, -1e18, huge), (cut, huge, 1e18))]
	lines.append(json.dumps({"t": huge, "who": "mpirun", "pid": 7, "event": "job.resumed"}) + "\n")
	code, out, err = godwit("report", made("odd.jsonl", lines[0], *lines[3:], *lines[1:3]), "-o", "odd.html", "-t", "odd.json", "-J")
	figures = json.loads(out) if code == 0 else {}
	tap.ok(code == 0 and figures["length_s"] == 9 and figures["code"] == -(2**31 - 1) and figures["failed"] == 1, "numbers beyond all bounds are none", code, out, err)
	said = check_page("odd.html", "the page of such a history").says()
	tap.ok(not re.search(r"\bnan\b|\binf\b|-9223372036854775808", read("odd.html").split("</style>")[1].split("<script>")[0]) and cut in said, "and neither they nor halves of letters "
	       "are in it", said[:3000])
	events, arrows = check_trace("odd.json", "such a history")
	tap.ok([e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"][1] == "cluster 0 on " + cut * 20, "a long name is whole there", events[:3])
	all_ranks = (1 << 20) - 1
	many = made("many.jsonl", *[started(ranks=all_ranks)] * 12)
	grown = made("grown.jsonl", started(), *[line("job.spawn", rank=0, first=2 + i * 600000, size=600000, places=[]) for i in range(3)])
	for path, what in ((many, "more places where"), (grown, "more ranks than")):
		code, out, err = godwit("report", path, "-J")
		tap.ok(code == 2 and what in err and not out, "a few lines do not fill memory: %s a job has" % what, code, out[:300], err)


def much():
	"""No work that grows with the square of what a history holds: plans without moves, and stays of one rank, in bounded processor time."""
	n = 200000
	path = made("much.jsonl", started(), *[line("bal.plan", 1 + i / n, strategy="refine", moves=0, peak=0.5) + line("rank.moved", 1 + i / n, rank=0, cluster=i % 9 + 1)
	                                       for i in range(n)])
	code, out, err = godwit("report", path, "-t", "much.json", "-J", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (15, 15)))
	tap.ok(code == 0 and json.loads(out)["plans"] == n, "%d plans and as many stays of a rank take seconds" % n, code, out, err)


# ---- a browser ------------------------------------------------------------------------------------------------------------------

def browser():
	chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
	names = ["%s in a browser" % n for n in ("the console says nothing", "the script runs", "it is drawn")]
	if not chromium:
		for n in names:
			tap.skip(n, "chromium is not installed")
		return
	text = read("short.html").replace("</body>", "<script>console.log('let in')</script></body>")
	with open(os.path.join(work, "let-in.html"), "w", encoding="utf-8") as f:
		f.write(text)

	def run(page, *words):
		return subprocess.run([chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
		                       "--user-data-dir=" + os.path.join(work, "chromium"), "--window-size=360,2000"] + list(words) +
		                      ["file://" + os.path.join(work, page)], capture_output=True, timeout=80)

	p = run("short.html", "--dump-dom")
	log, dom = p.stderr.decode(errors="replace"), p.stdout.decode(errors="replace")
	if p.returncode != 0 or "</html>" not in dom:
		for n in names:
			tap.skip(n, "chromium does not run here: %s" % log.strip().split("\n")[-1][:150])
		return
	tap.ok("CONSOLE" not in log, names[0], [l for l in log.split("\n") if "CONSOLE" in l][:3])
	tap.ok("<button type=\"button\">Technique</button>" in dom and "class=\"time drag\"" in dom, names[1])
	shot = os.path.join(work, "shot.png")
	p = run("let-in.html", "--screenshot=" + shot)
	log = p.stderr.decode(errors="replace")
	tap.ok(os.path.exists(shot) and os.path.getsize(shot) > 20000, names[2], p.returncode)
	tap.ok("let in" not in log.replace("console.log('let in')", "") and "Content Security Policy" in log, "a script that was let in does not run there", log[-400:])


real_job()
long_history()
refusals()
scribes()
strange_files()
if IS_LONG:
	much()
browser()
sys.exit(tap.done())
