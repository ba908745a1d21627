#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Many jobs in a row, and many that are killed with -9 at a random moment: what is there afterwards was there before.

	soak.py [--starts N] [--kills N] [--moved-kills N] [--seed S] [--here]

Each start is 'mpirun -n 2 conduct hello'. A kill hits mpirun, a daemon, a rank or all at once, some time between the
exec of mpirun and a little after a job would have ended; the moved ones hit a job whose rank 1 goes to and fro between
two clusters. Where it may, it works in PID, mount, IPC and network namespaces of its own, so that what it counts is exactly
what its jobs left; --here does without. This process is the reaper of all that loses its parent: when it has no child any more,
no process of a job is left.
"""
import argparse, ctypes, random, signal

from godwit import *

p = argparse.ArgumentParser()
p.add_argument("--starts", type=int, default=50)
p.add_argument("--kills", type=int, default=20)
p.add_argument("--moved-kills", type=int, default=5)
p.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
p.add_argument("--here", action="store_true", help="no namespaces of its own")
p.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
a = p.parse_args()

if not a.here and not a.inside:
	own = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--ipc", "--net"]
	own += [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
	if subprocess.run(own + ["true"], capture_output=True).returncode == 0:
		os.execvp(own[0], own + [sys.executable, os.path.abspath(__file__), "--inside", "--seed", str(a.seed), "--starts",
		          str(a.starts), "--kills", str(a.kills), "--moved-kills", str(a.moved_kills)])

LIMIT_S = 30  # for a job to end, and for all of it to be gone
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
tap = Tap(120 + 2 * (a.starts + a.kills + a.moved_kills))
rng = random.Random(a.seed)
mpirun, conduct = os.path.join(BUILD, "mpirun"), os.path.join(BUILD, "tests/programs/conduct")
work = work_dir("soak", is_swept=False)
said = os.memfd_create("said", os.MFD_CLOEXEC)
env = dict(os.environ, TMPDIR=work)
tap.diag("seed %d, %s" % (a.seed, "in namespaces of its own" if a.inside else "among all other processes of this machine"))


class Late(Exception):
	pass


def on_alarm(*_):
	raise Late


signal.signal(signal.SIGALRM, on_alarm)


def state():
	"""All that a job might leave, as sets that are compared."""
	pids = [d for d in os.listdir("/proc") if d.isdigit()] if a.inside else []
	spaces = set()
	for pid in pids:
		for kind in ("pid", "mnt", "user", "time", "net", "ipc"):
			try:
				spaces.add(os.readlink("/proc/%s/ns/%s" % (pid, kind)))
			except OSError:
				pass
	return {
		"processes": set(pids), "namespaces": spaces,
		"abstract sockets": set(re.findall(r"@godwit/\S+", "\n".join(lines_of("/proc/net/unix"))) if a.inside else []),
		"segments in /dev/shm": shm_entries(),
		"System V objects": {l for k in ("shm", "sem", "msg") for l in lines_of("/proc/sysvipc/" + k)} if a.inside else set(),
		"mounts": {l.split(" ")[4] for l in lines_of("/proc/self/mountinfo") if l},
		"descriptors": {os.readlink("/proc/self/fd/%s" % f) for f in os.listdir("/proc/self/fd") if int(f) != 0 and
		                os.path.exists("/proc/self/fd/%s" % f)} - {"/proc/%d/fd" % os.getpid()},
		"files": set(os.listdir(work)),
	}


def spawn(*args):
	os.ftruncate(said, 0)
	os.lseek(said, 0, 0)
	null = os.open("/dev/null", os.O_RDONLY)
	pid = os.posix_spawn(mpirun, [mpirun] + [str(x) for x in args], env,
	                     file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)])
	os.close(null)
	return pid


def told():
	return os.pread(said, 1 << 16, 0).decode(errors="replace")


def children(pid):
	return [int(c) for l in lines_of("/proc/%d/task/%d/children" % (pid, pid)) for c in l.split()]


def below(pid):
	return [c for child in children(pid) for c in [child] + below(child)]


def reap_all(pid):
	"""Wait for mpirun and for everything that it leaves to us; its status, and what did not end in time."""
	status = None
	signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
	try:
		while True:
			ended, s = os.waitpid(-1, 0)
			if ended == pid:
				status = os.waitstatus_to_exitcode(s)
	except ChildProcessError:
		left = []
	except Late:
		left = ["%s %s" % (c, "".join(lines_of("/proc/%d/comm" % c))) for c in below(os.getpid())]
	signal.setitimer(signal.ITIMER_REAL, 0)
	return status, left


def give_up(what, pid, left):
	tap.ok(False, what, "left: %s" % left, told())
	for c in below(os.getpid()):
		try:
			os.kill(c, 9)
		except OSError:
			pass
	reap_all(pid)


before, slabs_before = state(), slabs()

# ---- starts ----------------------------------------------------------------------------------------------------------

took, wrong = [], []
for n in range(a.starts):
	began = time.monotonic()
	pid = spawn("-n", 2, conduct, "hello")
	status, left = reap_all(pid)
	took.append((time.monotonic() - began) * 1000)
	if left:
		give_up("start %d ends with all its processes" % n, pid, left)
		wrong.append(n)
		break
	if status != 0 or told().count("hello from rank") != 2:
		wrong.append("start %d: status %s: %s" % (n, status, told()))
if a.starts:
	tap.ok(not wrong, "%d jobs of two ranks in a row say hello, end with 0, and leave no process" % a.starts, *wrong[:5])
	tap.diag("ms from exec to the end of all: least %.0f, median %.0f, most %.0f" % (min(took), median(took), max(took)))
	tap.diag("slowest, start and ms: %s" % ", ".join("%d %.0f" % (n, took[n]) for n in
	         sorted(range(len(took)), key=lambda n: -took[n])[:5]))

# ---- kills -----------------------------------------------------------------------------------------------------------

span = median(took) / 1000 * 1.2 if took else 0.1
hit = collections.Counter()


def victims(pid, kind):
	if kind == "mpirun":
		return [pid]
	daemons = [c for c in children(pid) if "".join(lines_of("/proc/%d/comm" % c)) == "godwitd"] # not who writes the history
	if kind == "daemon":
		return daemons[:1]  # that of rank 0: no job goes on without it
	if kind == "rank":
		return [r for d in daemons for i in children(d) for r in children(i)][:1]
	return [pid] + below(pid)


def kill(pid, kind):
	hits = 0
	for v in victims(pid, kind):
		try:
			os.kill(v, 9)
			hits += 1
		except ProcessLookupError:
			pass
	hit[kind if hits else "nobody, of " + kind] += 1


wrong = []
for n in range(a.kills):
	kind = rng.choices(("mpirun", "daemon", "rank", "all at once"), (7, 1, 1, 1))[0]
	moment = rng.uniform(0, span)
	pid = spawn("-n", 2, "-clusters", rng.choice((1, 2)), conduct, "hello")
	time.sleep(moment)
	kill(pid, kind)
	status, left = reap_all(pid)
	if left:
		give_up("a job whose %s is killed after %.1f ms ends with all its processes" % (kind, moment * 1000), pid, left)
		wrong.append(n)
		break
	if status == 0 and told().count("hello from rank") != 2:
		wrong.append("kill %d of %s after %.1f ms: status 0 without two hellos: %s" % (n, kind, moment * 1000, told()))
if a.kills:
	tap.ok(not wrong, "%d jobs that are killed with -9 at a random moment leave no process" % a.kills, *wrong[:5])
	tap.diag("hit: %s" % dict(hit))

# ---- kills in the middle of moves ------------------------------------------------------------------------------------


def find_head(pid):
	end = time.monotonic() + LIMIT_S
	while time.monotonic() < end and os.path.exists("/proc/%d" % pid):
		if told().count("ready") == 2:
			for name in set(re.findall(r"@(godwit/%d/[0-9a-f]{8}/head)$" % os.getuid(), "\n".join(lines_of("/proc/net/unix")), re.M)):
				try:
					h = Head(name, LIMIT_S)
				except OSError:
					continue
				if struct.unpack("iII", h.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == pid:
					return h
				h.close()
		threading.Event().wait(0.002)
	return None


def to_and_fro(head, counter):
	try:
		for turn in range(100000):
			counter["moves"] += head.migrate([1], turn % 2)[0]["status"] == 0
	except (OSError, EOFError):
		pass
	head.close()


wrong, hit, moves = [], collections.Counter(), collections.Counter()
for n in range(a.moved_kills):
	kind = rng.choices(("mpirun", "daemon", "rank", "all at once"), (4, 2, 2, 2))[0]
	moment = rng.uniform(0, 0.2)
	pid = spawn("-n", 2, "-clusters", 2, conduct, "carry", 1, os.path.join(work, "never"))
	head = find_head(pid)
	if head:
		mover = threading.Thread(target=to_and_fro, args=(head, moves), daemon=True)
		mover.start()
		time.sleep(moment)
	kill(pid, kind)
	status, left = reap_all(pid)
	if head:
		mover.join(LIMIT_S)
	if status == 0:
		wrong.append("kill %d of %s after %.1f ms: status 0: %s" % (n, kind, moment * 1000, told()))
	if left or not head:
		give_up("a moving job whose %s is killed after %.1f ms ends with all its processes" % (kind, moment * 1000), pid, left)
		wrong.append(n)
		break
if a.moved_kills:
	tap.ok(not wrong, "%d jobs that are killed with -9 while a rank moves leave no process (%d moves were done)" %
	       (a.moved_kills, moves["moves"]), *wrong[:5])
	tap.diag("hit: %s" % dict(hit))

# ---- what is left ----------------------------------------------------------------------------------------------------

after, slabs_after = state(), slabs()
for what in before:
	tap.ok(after[what] == before[what], "no %s are left" % what, "before: %s" % (before[what] - after[what]),
	       "after: %s" % (after[what] - before[what]))
grown = {k: slabs_after[k] - slabs_before[k] for k in slabs_before if k in slabs_after}
if grown and a.starts + a.kills >= 1000:
	# of the whole machine, so others are counted too; a leak would be one or two for each start
	tap.ok(all(v < (a.starts + a.kills) / 4 for v in grown.values()), "the kernel has not kept the namespaces", str(grown))
tap.diag("kernel objects more than before, of the whole machine: %s" % grown)
sys.exit(tap.done())
