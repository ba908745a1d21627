#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""mpirun, godwitd and godwit from outside: how jobs start, speak, end and fail; nothing is ever left behind."""
import hashlib, signal

sys_path = __import__("sys").path
sys_path.insert(0, __import__("os").path.join(__import__("os").environ.get("top_srcdir", "."), "tests/driver"))
from godwit import *

tap = Tap(300)
work = work_dir("launch")
godwit = os.path.join(BUILD, "godwit")


def run(*args, timeout=30, data=None, env=None):
	"""A whole run of mpirun: status, output, errors. No process may be left."""
	job = Job(tap, args, env=env, stdin=data is not None)
	if data is not None:
		try:
			job.proc.stdin.write(data)
			job.proc.stdin.close()
		except BrokenPipeError:
			pass
	status = job.end(timeout)
	left = job.gone()
	if left:
		tap.ok(False, "%s leaves no process" % (args,), str(left))
	return status, job.out(), job.out("err")


def tool(*args):
	p = subprocess.run([godwit] + [str(a) for a in args], capture_output=True, text=True, timeout=60)
	return p.returncode, p.stdout, p.stderr.strip()


class Events:
	"""Waits for lines of GODWIT_EVENTS, with a deadline."""

	def __init__(self):
		self.path = os.path.join(work, uuid.uuid4().hex)
		open(self.path, "w").close()

	def all(self):
		with open(self.path) as f:
			return [json.loads(l) for l in f if l.endswith("\n")]

	def wait(self, name, count=1, timeout=20, **fields):
		if not wait_for(lambda: sum(e["event"] == name and all(e.get(k) == v for k, v in fields.items()) for e in self.all()) >= count,
		                timeout):
			tap.diag("no %d events %s %s in %s" % (count, name, fields, self.all()))


# ---- what a run says and how it ends ---------------------------------------------------------------------------------

status, out, err = run("-n", 5, "-clusters", 2, "sh", "-c", "echo $PMI_RANK $PMI_SIZE $GODWIT_PROC")
tap.ok(status == 0 and sorted(out) == ["%d 5 %d" % (r, r) for r in range(5)] and not err,
       "five ranks know their numbers; nothing else is printed", status, out, err)
status, out, err = run("-n", 4, "-l", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; printf end; printf oops >&2")
want = sorted(["[%d] line %d" % (r, i) for r in range(4) for i in range(1, 10)] + ["[%d] end" % r for r in range(4)])
tap.ok(sorted(out) == want and sorted(err) == ["[%d] oops" % r for r in range(4)],
       "-l labels whole lines, also one without an end", out, err)
order = [[l for l in out if l.startswith("[%d]" % r)] for r in range(4)]
tap.ok(all(o == ["[%d] line %d" % (r, i) for i in range(1, 10)] + ["[%d] end" % r] for r, o in enumerate(order)),
       "in the order of each rank")
status, out, err = run("-n", 2, "-env", "A", "one two", "-genv", "B", "=", "-wdir", work, "sh", "-c", "echo \"$A|$B|$PWD|$(pwd -P)\"")
tap.ok(out == ["one two|=|%s|%s" % (work, os.path.realpath(work))] * 2, "-env, -genv and -wdir", out, err)
status, out, err = run("-n", 2, "-env", "X", "a", "sh", "-c", "echo $X$PMI_RANK", ":", "-n", 1, "sh", "-c", "echo second $X$PMI_RANK")
tap.ok(sorted(out) == ["a0", "a1", "second 2"], "two programs in one job, each with its environment", out, err)
status, out, err = run("-n", 1, "sh", "-c", "env", env={"MPIR_CVAR_NOLOCAL": "0", "MPIR_CVAR_ENABLE_GPU": "1", "FI_PROVIDER": "tcp",
                                                       "PMI_FD": "77", "LD_LIBRARY_PATH": "/nowhere"})
env = dict(l.split("=", 1) for l in out if "=" in l)
tap.ok(env.get("FI_PROVIDER") == "godwit" and env.get("MPIR_CVAR_NOLOCAL") == "1" and env.get("MPIR_CVAR_ENABLE_GPU") == "1" and
       env.get("MPIR_CVAR_CH4_OFI_MAX_NICS") == "1" and env.get("LD_LIBRARY_PATH", "").endswith("/lib:/nowhere") and env.get("PMI_FD") != "77" and
       os.path.exists(os.path.join(env.get("FI_PROVIDER_PATH", ""), "libgodwit-fi.so")),
       "forced settings win over the user's, others do not; their search path comes after ours", env)
status, out, err = run("-n", 3, "-clusters", 3, "sh", "-c", "ls /proc/self/fd | wc -l; exec cat /proc/self/status")
tap.ok(status == 0 and out.count("6") == 3, "a rank has its standard streams, PMI and its control socket, and no other descriptor", out[:4])

data = os.urandom(1 << 20)
status, out, err = run("-n", 3, "-clusters", 2, "sh", "-c", "sha256sum", data=data)
tap.ok(sorted(l.split()[0] for l in out) == sorted([hashlib.sha256(data).hexdigest()] + 2 * [hashlib.sha256(b"").hexdigest()]),
       "1 MiB of standard input reaches rank 0 unchanged; the others have none", out, err)
job = subprocess.run([os.path.join(BUILD, "mpirun"), "-n", "1", "cat"], input=data, capture_output=True, timeout=30)
tap.ok(job.returncode == 0 and job.stdout == data, "and 1 MiB comes back through standard output")
path = os.path.join(work, "data")
with open(path, "wb") as f:
	f.write(data)
with open(path, "rb") as f:
	job = subprocess.run([os.path.join(BUILD, "mpirun"), "-n", "1", "cat"], stdin=f, capture_output=True, timeout=30)
tap.ok(job.stdout == data, "also from a file, which cannot be watched")
status, out, err = run("-n", 2, "sh", "-c", "exec <&-; echo closed", data=data)
tap.ok(status == 0 and out == ["closed"] * 2, "a rank that closes its standard input does not hold up the job", status, err)
status, out, err = run("-n", 4, "-clusters", 2, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo")
tap.ok(status == 0 and sum(len(l) for l in out) == 4 * 3000000, "12 MB of output come through", sum(len(l) for l in out))
p = subprocess.Popen([os.path.join(BUILD, "mpirun"), "-n", "2", "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
p.stdout.readline()
p.stdout.close()
try:
	status = p.wait(20)
except subprocess.TimeoutExpired:
	status = p.kill()
tap.ok(status == 128 + signal.SIGPIPE and p.stderr.read() == b"", "when nobody reads its output any more the job ends as by SIGPIPE", status)

# ---- failures --------------------------------------------------------------------------------------------------------

for args, want, words in (
	(["-n", 3, "-clusters", 2, "sh", "-c", "[ $PMI_RANK != 1 ] || exit 7; exec sleep 1000"], 7, ["rank 1", "cluster 0", "status 7"]),
	(["-n", 3, "-clusters", 3, "sh", "-c", "[ $PMI_RANK != 2 ] || kill -SEGV $$; exec sleep 1000"], 139, ["rank 2", "cluster 2", "signal 11"]),
	(["-n", 2, "sh", "-c", "kill -KILL $$"], 137, ["signal 9"]),
	(["-n", 2, "/nonexistent/program"], 127, ["/nonexistent/program", "No such file"]),
	(["-n", 2, "/etc/passwd"], 126, ["/etc/passwd", "Permission denied"]),
	(["-n", 2, "-wdir", "/nonexistent", "true"], None, ["/nonexistent"]),
	(["-n", 0, "true"], 1, ["number of ranks '0'"]),
	(["-n", "x", "true"], 1, ["number of ranks 'x'"]),
	(["-clusters", 0, "true"], 1, ["number of clusters '0'"]),
	(["-frobnicate", "true"], 1, ["-frobnicate", "-help"]),
	(["-n"], 1, ["-n", "value"]),
	(["-env", "A"], 1, ["value of 'A'"]),
	([], 1, ["no program"]),
	(["true", ":"], 1, ["no program"])):
	status, out, err = run(*args, timeout=20)
	tap.ok((status == want if want is not None else status) and len(err) == 1 and err[0].startswith("mpirun: ") and
	       all(w in err[0] for w in words) and not out,
	       "one sentence and status %s: mpirun %s" % (want, " ".join(str(a) for a in args)[:60]), status, out, *err)
status, out, err = run("-help")
tap.ok(status == 0 and any("-clusters" in l for l in out), "-help explains the options")
status, out, err = run("-version")
tap.ok(status == 0 and out and out[0].startswith("Godwit "), "-version")

conduct = os.path.join(BUILD, "tests/programs/conduct")
status, out, err = run("-n", 2, "-clusters", 2, "sh", "-c", "[ $PMI_RANK = 0 ] || exec %s hello" % conduct)
tap.ok(status == 1 and len(err) == 1 and "rank 0" in err[0] and "waits" in err[0],
       "a rank that ends while others wait for it in MPI_Init ends the job: %s" % err)
status, out, err = run("-n", 2, "-clusters", 2, "sh", "-c", "[ $PMI_RANK = 0 ] && exec %s no-finalize; exec %s compute 100" % (conduct, conduct))
tap.ok(status == 1 and any("without calling MPI_Finalize" in l for l in err), "so does one that ends without MPI_Finalize: %s" % err)
status, out, err = run("-n", 3, "-clusters", 2, conduct, "abort", 6)
tap.ok(status == 6 and any("aborted the job with code 6" in l for l in err), "MPI_Abort with 6: %s" % err[-1:])
status, out, err = run("-n", 2, "-clusters", 2, conduct, "hello", ":", "-n", 1, conduct, "hello")
tap.ok(status == 0 and sorted(l.split(",")[0] for l in out) == ["hello from rank %d of 3" % r for r in range(3)],
       "two MPI programs in one job", out, err)

# ---- signals ---------------------------------------------------------------------------------------------------------

for sig, again, script, want in (
	(signal.SIGTERM, False, "exec sleep 1000", 143), (signal.SIGINT, False, "exec sleep 1000", 130),
	(signal.SIGTERM, False, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done", 0),
	(signal.SIGTERM, True, "trap '' TERM; echo up; while :; do sleep 0.05; done", 143)):
	events = Events()
	job = Job(tap, ["-n", 3, "-clusters", 2, "sh", "-c", script], events=events.path)
	events.wait("rank.started", count=3)
	if "up" in script:
		job.wait_line("^up$", 20, count=3)
	job.proc.send_signal(sig)
	if again:
		job.proc.send_signal(sig)
		wait_for(lambda: not job.is_running() or job.proc.send_signal(sig), 3, 0.02)  # two that come together are one
	status = job.wait(20)
	tap.ok(status == want and not job.gone(), "%s%s to mpirun%s: status %d" % (sig.name, " twice" if again else "",
	       ", ranks that " + ("ignore it" if again else "end well" if want == 0 else "die of it"), want), status, *job.tail())
events = Events()
job = Job(tap, ["-n", 2, "sh", "-c", "trap 'echo got; exit 0' USR1; echo up; while :; do sleep 0.05; done"], events=events.path)
job.wait_line("^up$", 20, count=2)
job.proc.send_signal(signal.SIGUSR1)
tap.ok(job.wait(20) == 0 and job.out().count("got") == 2, "SIGUSR1 is passed on", *job.tail())

# ---- deaths ----------------------------------------------------------------------------------------------------------

events = Events()
job = Job(tap, ["-n", 4, "-clusters", 2, "sh", "-c", "sleep 1000 & exec sleep 1000"], events=events.path)
events.wait("rank.started", count=4)
os.kill(job.proc.pid, 9)
job.wait(20)
tap.ok(not job.gone(), "kill -9 of mpirun leaves no process", str(job.gone()))

for victim, has_rank in ((0, True), (2, False)):
	events = Events()
	# ranks 0 and 1 on clusters 0 and 1 of 3
	job = Job(tap, ["-n", 2, "-clusters", 3, "sh", "-c", "read x; exec sleep 1000"], stdin=True, events=events.path)
	events.wait("rank.started", count=2)
	head = job.head()
	st = head.status()
	where = {r["cluster"] for r in st["ranks"]}
	empty = next(c for c in range(3) if c not in where)
	target = min(where) if has_rank else empty
	os.kill(next(c["pid"] for c in st["clusters"] if c["cluster"] == target), 9)
	if has_rank:
		status = job.wait(20)
		tap.ok(status == 137 and any("daemon of cluster %d" % target in l and "rank" in l for l in job.out("err")) and not job.gone(),
		       "kill -9 of a daemon with a rank ends the job with a message", status, *job.tail())
	else:
		events.wait("cluster.lost", cluster=target)
		job.wait_line("the job goes on", 20)
		st = head.status()
		tap.ok(job.is_running() and [c["state"] for c in st["clusters"] if c["cluster"] == target] == ["lost"] and
		       all(r["state"] == "no MPI" for r in st["ranks"]), "kill -9 of a daemon without ranks does no harm", st)
		code, out, err = tool("migrate", 0, "--to", target, "--job", st["job"]["id"])
		tap.ok(code == 2 and "cluster %d is not up" % target in err, "and a move there is refused: %s" % err)
		job.proc.terminate()
		tap.ok(job.wait(20) == 143 and not job.gone(), "the job ends as it should later", *job.tail())

# ---- the tool --------------------------------------------------------------------------------------------------------

others = len(re.findall(r"@godwit/%d/[0-9a-f]{8}/head$" % os.getuid(), open("/proc/net/unix").read(), re.M))
if others:
	tap.skip("no job: a sentence", "another job of this user runs here")
else:
	code, out, err = tool("status")
	tap.ok(code == 3 and err == "godwit: no job of user %d runs on this host; start one with mpirun" % os.getuid(), "no job: %s" % err)
jobs = []
for i in range(2):
	events = Events()
	jobs.append(Job(tap, ["-n", 2, "-clusters", 2, "sh", "-c", "read x; exec sleep 1000"], stdin=True, events=events.path))
	events.wait("rank.started", count=2)
ids = [j.head_name().split("/")[2] for j in jobs]
code, out, err = tool("status")
# with jobs of others on this host the list may be too long for all
is_long = len(re.findall(r"@godwit/%d/[0-9a-f]{8}/head$" % os.getuid(), open("/proc/net/unix").read(), re.M)) > 3
tap.ok(code == 3 and "--job" in err and (is_long or all(i in err for i in ids) and "process %d: " % jobs[0].proc.pid in err),
       "several jobs: %s" % err)
for i in range(2):
	code, out, err = tool("status", "--job", ids[i], "--json")
	st = json.loads(out) if code == 0 else {}
	tap.ok(code == 0 and st["job"]["id"] == ids[i] and st["job"]["pid"] == jobs[i].proc.pid and
	       [r["cluster"] for r in st["ranks"]] == [0, 1] and all(r["pid"] > 0 for r in st["ranks"]),
	       "status --job --json of job %d of two" % i, code, out, err)
code, out, err = tool("status", "--job", ids[0])
tap.ok(code == 0 and "CLUSTER" in out and len(out.splitlines()) == 9, "status as a table", out)
code, out, err = tool("status", "--job", "000000")
tap.ok(code == 3 and "no job 000000" in err and (is_long or all(i in err for i in ids)), "a job that does not run: %s" % err)
for args, want, words in ((["0", "7", "--to", "1"], 2, "there is no rank 7"), (["0", "--to", "9"], 2, "there is no cluster 9"),
                          (["0", "--to", "0"], 1, "on cluster 0 already")):
	code, out, err = tool("migrate", "--job", ids[0], *args)
	tap.ok(code == want and words in err, "migrate %s: %s" % (" ".join(args), err), code, out)
for args in (["migrate"], ["migrate", "0"], ["migrate", "x", "--to", "1"], ["teleport"], []):
	code, out, err = tool(*args)
	tap.ok(code != 0 and err, "godwit %s is refused" % " ".join(args), code)
for args in (["--help"], ["status", "--help"], ["migrate", "--help"]):
	code, out, err = tool(*args)
	tap.ok(code == 0 and "Usage" in out, "godwit %s" % " ".join(args))
for j in jobs:
	j.proc.terminate()
tap.ok([j.wait(20) for j in jobs] == [143, 143] and not any(j.gone() for j in jobs), "both jobs end, alone")

sys.exit(tap.done())
