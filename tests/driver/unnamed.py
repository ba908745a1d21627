#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Files without a name that another process has, too, on file systems that say one device of a descriptor and another of a mapping:
a rank that has written one through memory is refused, by name, as long as that process has it in any way."""
import mmap
from godwit import *

UNSHARE = ["unshare", "--mount", "--propagation", "private"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
BEGUN = "# in a namespace of its own"
# it has two files, which have no name any more: one open and mapped, one mapped only
RANK = """import mmap, os, sys, time
maps = []
for name in "open", "mapped":
	path = os.path.join(sys.argv[1], name)
	f = open(path, "r+b")
	maps.append(mmap.mmap(f.fileno(), 8192))
	maps[-1][0] = 7
	os.unlink(path)
	if name == "open":
		keep = f
	else:
		f.close()
print("ready", flush=True)
while not os.path.exists(os.path.join(sys.argv[1], "stop")):
	time.sleep(0.01)
print("well" if all(m[0] == 7 and m[4097] == 5 for m in maps) else "ill")
"""


def mount(kind, work):
	"""In the own namespace. Return the directory."""
	at = os.path.join(work, "at")
	os.mkdir(at)
	if kind == "overlayfs":  # over another file system than that of its upper directory
		for name in "up", "work":
			os.mkdir(os.path.join(work, name))
		options = "lowerdir=/usr/share,upperdir=%s/up,workdir=%s/work" % (work, work)
		subprocess.run(["mount", "-t", "overlay", "-o", options, "none", at], check=True, capture_output=True, text=True)
	else:
		image = os.path.join(work, "image")
		with open(image, "w") as f:
			f.truncate(128 << 20)
		subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True, text=True)
		subprocess.run(["mount", "-o", "loop", image, at], check=True, capture_output=True, text=True)
	return at


def inside(kind, work):
	print(BEGUN, flush=True)
	tap = Tap(100)
	subprocess.run(["mount", "-t", "tmpfs", "none", work], check=True)
	try:
		at = mount(kind, work)
	except (OSError, subprocess.CalledProcessError) as e:
		tap.skip(kind, "it cannot be mounted here: %s" % (getattr(e, "stderr", "") or str(e)).strip())
		return tap.done()
	for name in "open", "mapped":
		with open(os.path.join(at, name), "wb") as f:
			f.write(b"\5" * 8192)
	fd = os.open(os.path.join(at, "mapped"), os.O_RDONLY)
	job = Job(tap, ["-n", 1, "-clusters", 2, sys.executable, "-c", RANK, at])
	if not job.wait_line("^ready", 60):
		tap.bail("the job did not start")
	head = job.head()

	def holds(name, way):
		m = head.migrate([0], 1)[0]
		tap.ok(m["status"] != 0 and "process %d has its memory file" % os.getpid() in m["text"] and "/at/%s'" % name in m["text"],
		       "%s: one that another process has by a %s, and the rank %s, holds the rank" % (kind, way, name), m["text"])

	for name in "mapped", "open":
		if name == "open":
			theirs = "/proc/%d/fd/" % head.ranks()[0]["pid"]
			fd = os.open(next(theirs + n for n in os.listdir(theirs) if "/at/open" in os.readlink(theirs + n)), os.O_RDONLY)
		holds(name, "descriptor")
		here, stat = mmap.mmap(fd, 4096, prot=mmap.PROT_READ), os.fstat(fd)
		os.close(fd)
		while_open = [l.split()[3] for l in lines_of("/proc/self/maps") if "/at/" + name in l]
		tap.diag("device %x:%x of the descriptor, %s of the mapping" % (os.major(stat.st_dev), os.minor(stat.st_dev), *while_open))
		holds(name, "mapping")
		here.close()
	m = head.migrate([0], 1)[0]
	tap.ok(m["status"] == 0, "%s: when nobody else has one, the rank moves" % kind, m["text"])
	with open(os.path.join(at, "stop"), "w"):
		pass
	tap.ok(job.end(60) == 0 and "well" in job.out() and not job.gone(), "%s: with what is in them" % kind, *job.tail())
	return tap.done()


if sys.argv[1:2] == ["--inside"]:
	sys.exit(inside(*sys.argv[2:]))
tap = Tap(120)
work = work_dir("unnamed")
for kind in "overlayfs", "btrfs":
	where = os.path.join(work, kind)
	os.mkdir(where)
	p = subprocess.run(UNSHARE + [sys.executable, os.path.abspath(__file__), "--inside", kind, where], capture_output=True, text=True)
	for line in p.stdout.splitlines():
		m = re.match(r"(ok|not ok) \d+ - (.*?)( # SKIP (.*))?$", line)
		if m and m[4]:
			tap.skip(m[2], m[4])
		elif m:
			tap.ok(m[1] == "ok", m[2])
		elif line.startswith("#") or line.startswith("Bail"):
			tap.diag(line.lstrip("# "))
	if not p.stdout.startswith(BEGUN):
		tap.skip(kind, "no namespace here: %s" % p.stderr.strip())
	elif not re.search(r"^1\.\.\d+$", p.stdout, re.M):
		tap.ok(False, "%s: the test comes to its end" % kind, p.stderr)
sys.exit(tap.done())
