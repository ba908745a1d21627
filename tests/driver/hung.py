#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A job whose mpirun writes its metrics and its history to, reads its drain file from, and has its card in, a file system that hangs: a
FUSE one that nobody serves. Whoever touches it waits in the kernel until it goes."""
import ctypes

from godwit import *

CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
tap = Tap(200)
libc = ctypes.CDLL(None, use_errno=True)
MPIRUN, SPAWNER = (os.path.join(BUILD, name) for name in ("mpirun", "tests/programs/spawner"))


class Hung:
	"""Over a directory, until it is taken away. In a mount namespace of the test's own: it goes with the test, however that ends."""

	def __init__(self, path):
		self.path, self.fd = path.encode(), os.open("/dev/fuse", os.O_RDWR)
		options = "fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other" % (self.fd, os.getuid(), os.getgid())
		if libc.mount(b"hung", self.path, b"fuse", 0, options.encode()) < 0:
			raise OSError(ctypes.get_errno(), "mount")

	def end(self):
		os.close(self.fd)  # whoever waits is refused
		libc.umount2(self.path, MNT_DETACH)


def why_not():
	if not os.access("/dev/fuse", os.R_OK | os.W_OK):
		return "no /dev/fuse that may be opened"
	if libc.unshare(CLONE_NEWNS) < 0 or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) < 0:
		return "no mount namespace: %s" % os.strerror(ctypes.get_errno())
	try:
		Hung(place).end()
	except OSError as e:
		return "no mount: %s" % e


work = work_dir("hung")
place, stop = os.path.join(work, "served"), os.path.join(work, "stop")
os.mkdir(place)
why = why_not()
if why:
	tap.skip("a file system that hangs holds nobody up", why)
	sys.exit(tap.done())
away, prom, story = (os.path.join(place, name) for name in ("away", "job.prom", "story.jsonl"))
job = Job(tap, ["-n", 4, "-launcher", "fork", "-hosts", "a:2,b:2", "-drain-file", away, "-metrics", prom, "-metrics-every", "1s", "-record", story,
                os.path.join(BUILD, "tests/programs/conduct"), "carry", 2, stop])
if not job.wait_line("^ready", 60, "out", 4) or not wait_for(lambda: os.path.exists(prom), 30):
	tap.bail("the job does not start")
hung = Hung(place)
others = [(option, subprocess.Popen([MPIRUN, option, file, "-n", "1", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
          for option, file in (("-metrics", prom), ("-drain-file", away), ("-record", story), ("-meet", place))]
said = [job.wait_line("^mpirun: %s: .*its file system (has not answered|does not answer)" % o, 40, "err") for o in ("-metrics", "-drain-file")]
name = job.wait_head(20)
moved = Head(name).migrate([0], 1)[0] if name and can_move() else {"status": 0 if name else -1}
tap.ok(all(said) and moved["status"] == 0, "where a file system hangs, mpirun says so, answers, and its ranks move", said, moved, *job.tail())
for option, p in others:
	err = p.communicate(timeout=60)[1]
	tap.ok(p.returncode == 1 and "within 10 s: its file system does not answer; name another %s" % ("directory" if option == "-meet" else "file") in err,
	       "mpirun %s does not wait for it for ever" % option, p.returncode, err)
hung.end()
with open(away, "w") as f:
	f.write("b\n")
tap.ok(job.wait_line("^mpirun: host b: empty", 40, "err") if can_move() else job.wait_line("^mpirun: host b: the drain file names it", 40, "err"),
       "when it answers, what the drain file says is heeded again", *job.tail())
os.unlink(prom)
tap.ok(wait_for(lambda: os.path.exists(prom), 30), "and metrics are written", os.listdir(place))
hung = Hung(place)
wait_for(lambda: "godwit-errand" in job.processes().values(), 30)
end_carry(job, stop, "a job ends though it hangs", 4)
tap.ok(any("'%s' stays, with how the job was at last: its file system does not answer" % prom in l for l in job.out("err")),
       "and says what it could not remove", *job.tail())
hung.end()

# ---- cards of other jobs
def waiting(*words):
	"""A job that goes on as that spawner when there is the file @go"""
	job = Job(tap, ["-meet", place, "-n", 1, "sh", "-c", "echo up; until [ -e \"$0\" ]; do sleep 0.1; done; exec \"$@\"", go, SPAWNER] + list(words))
	if not job.wait_line("^up", 60, "out"):
		tap.bail("the job does not start")
	return job


os.unlink(stop)
go = os.path.join(work, "go")
dead = Job(tap, ["-meet", place, "-n", 1, SPAWNER, "accept", stop])
port = dead.wait_line("^port (.*)$", 60, "out").group(1)
dead.kill()  # so that its card would have to be read
job, other = waiting("lookup", stop, "nobody-has-it"), waiting("connect", stop, port)
cards = [f for f in os.listdir(place) if f.startswith("godwit-")]
heads = [j.head(timeout=5) for j in (job, other)]
hung = Hung(place)
open(go, "w").close()
wait_for(lambda: all("godwit-errand" in j.processes().values() for j in (job, other)), 30)
try:
	answers = [len(h.status()["ranks"]) for h in heads]
except OSError as e:
	answers = [e]
tap.ok(answers == [1, 1], "with -meet, mpirun answers while it looks for other jobs there", answers)
said = [job.wait_line("^mpirun: -meet: .* does not answer: jobs of other machines are not asked for 'nobody-has-it'", 40, "err"),
        other.wait_line("cannot be read: its file system does not answer", 40)]
ends = [job.end(40), other.end(40)]
tap.ok(all(said) and job.wait_line("lookup failed", 1) and ends == [0, 0], "who looks is told that nothing can be found", said, ends,
       *job.tail() + other.tail())
if cards:
	tap.ok(all(any("-meet: '%s/godwit-" % place in l and "stays: its file system does not answer" in l for l in j.out("err"))
	           for j in (job, other)), "and which cards are still there", cards, *job.tail() + other.tail())
else:
	tap.skip("and which cards are still there", "this machine has no address but those of itself")
hung.end()
job = Job(tap, ["-meet", place, "-n", 1, "true"])
tap.ok(job.end() == 0 and not [f for f in os.listdir(place) if f.startswith("godwit-")], "they go when the next job begins", os.listdir(place))

# ---- a directory where others may write, too
away, mine = os.path.join(place, "everybody's"), os.path.join(work, "mine")
os.mkdir(away)
with open(mine, "w") as f:
	f.write("mine")
prom = os.path.join(away, "job.prom")
job = Job(tap, ["-metrics", prom, "-metrics-every", "1s", "-n", 1, os.path.join(BUILD, "tests/programs/conduct"), "carry", 1, stop],
          launcher=["sh", "-c", "ln -s %s \"%s.$$\" && exec %s \"$@\"" % (mine, prom, MPIRUN), "sh"])
found = wait_for(lambda: os.path.exists(prom), 30)
with open(mine) as f:
	tap.ok(found and f.read() == "mine" and not os.path.islink(prom), "a link that somebody has put where it writes first is not followed",
	       os.listdir(away), *job.tail())
end_carry(job, stop, "nor does it matter", 1)
tap.ok(not os.listdir(away), "and nothing is left", os.listdir(away))
sys.exit(tap.done())
