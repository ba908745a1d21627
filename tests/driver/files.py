# SPDX-License-Identifier: BSD-2-Clause
"""Files of ranks that move between hosts of a rig: continued where they are proved to be the same, refused by path where not."""
import json, os, select, shutil, struct, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

tap = godwit.Tap(240)
MPIRUN = os.path.join(godwit.BUILD, "mpirun")
GODWIT = os.path.join(godwit.BUILD, "godwit")
SCRIBE = os.path.join(godwit.BUILD, "tests/programs/scribe")

PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
HOLD = """
import mmap, sys, time
f = open(sys.argv[1], "r+b"); m = mmap.mmap(f.fileno(), 4096); print("mapped", flush=True); time.sleep(600)
"""


class Scribe:
	"""A job whose rank 0 keeps files open, on rig1 first; clusters 0 and 1 are rig1 and rig2, where rank 1 waits."""

	jobs = 0

	def __init__(self, *words, options=(), env=None):
		Scribe.jobs += 1
		self.stop = os.path.join(r.shared, "stop%d" % Scribe.jobs)
		command = [MPIRUN, "-l", "-hosts", "rig1:1,rig2:1"] + list(options) + ["-n", "1", SCRIBE, self.stop] + list(words)
		self.p = r[1].popen(command + [":", "-n", "1", SCRIBE, self.stop], user=login, env=env, stdout=subprocess.PIPE,
		                    stderr=subprocess.PIPE, text=True)
		said = rig.hear(self.p, b"\n", 2, 30)
		if said.count(b"ready") < 2:
			rig.kill_tree(self.p)
			tap.bail("the job did not start: %s %s" % (said, self.p.stderr.read()))

	def move(self, to, *options):
		return r[1].run([GODWIT, "migrate", "0", "--to", str(to)] + list(options), timeout=60, user=login)

	def where(self):
		s = json.loads(r[1].run([GODWIT, "status", "--json"], timeout=60, user=login).stdout or "{}")
		return [x["cluster"] for x in s.get("ranks", []) if x["rank"] == 0]

	def end(self):
		"""What it says at its end: lines and host; None when it did not end well."""
		open(self.stop, "w").close()
		out, err = rig.finish(self.p, 60)
		self.err = out + err
		words = [l.split() for l in out.split("\n") if l.startswith("[0] wrote ")]
		return (int(words[0][2]), words[0][4]) if self.p.returncode == 0 and words else None


def text_of(path, host=None):
	return host.run(["cat", path]).stdout if host else open(path).read()


def is_whole(text, lines):
	"""Exactly the lines 0, 1, ... that it says it wrote, each once and in order."""
	return text == "".join("%08d\n" % i for i in range(lines))


def marks(*directories):
	"""What proofs have left behind, on any host."""
	return [l for h in r.hosts for l in h.run(["find"] + list(directories) + ["-name", ".godwit-*"]).stdout.split()]


def no_marks(sentence, *directories):
	godwit.wait_for(lambda: not marks(*directories), 10, 0.05)  # the guard of a killed daemon needs a moment
	tap.ok(not marks(*directories), sentence, marks(*directories))


def refused(sentence, job, says, to=1, where=0):
	m = job.move(to)
	tap.ok(m.returncode == 1 and all(s in m.stderr for s in says) and job.where() == [where], sentence, m.returncode, m.stdout, m.stderr)


def test_shared():
	path = os.path.join(r.shared, "appended")
	job = Scribe("-a", path)
	moves = [job.move((i + 1) % 2) for i in range(10)]
	tap.ok(all(m.returncode == 0 for m in moves), "a file on a shared file system: ten moves between two hosts", *[m.stderr for m in moves])
	done = job.end()
	tap.ok(done and is_whole(text_of(path), done[0]) and done[1] == "rig1", "and every line is there once, in order", done, job.err)
	no_marks("nothing of the proofs is left", r.shared)


def test_local():
	path = os.path.join(r.scratch, "local")
	job = Scribe("-a", path)
	refused("a file on a host's own file system that is not on the other host: refused by path", job, [path, "not on host rig2"])
	r[2].run("echo another > %s; chown %d %s" % (path, r.uid if login else 0, path))
	refused("one that is another there: refused by path, with both hosts", job, [path, "host rig1's own", "host rig2", "share"])
	done = job.end()
	tap.ok(done and is_whole(text_of(path, r[1]), done[0]) and done[1] == "rig1", "its rank runs on, and writes on", done, job.err)
	tap.ok(text_of(path, r[2]) == "another\n", "and the other file is as it was")
	no_marks("nothing of the proofs is left", r.shared, r.scratch)


def test_carry():
	path, deleted = os.path.join(r.scratch, "carried"), os.path.join(r.scratch, "deleted")
	job = Scribe("-a", path, "-u", deleted)
	refused("a deleted file holds its rank, and the sentence says what helps", job, [deleted, "deleted", "--carry-files"])
	moves = [job.move(1, "--carry-files")]
	there = r[2].run(["stat", "-c", "%a %u", path], user=login).stdout.split()
	tap.ok(moves[0].returncode == 0 and there == ["640", str(r.uid if login else 0)],
	       "with --carry-files both travel, with mode and owner", moves[0].stderr, there)
	tap.ok(r[1].run(["test", "-s", path]).returncode == 0, "the old one stays where it was")
	moves += [job.move(i % 2, "--carry-files") for i in range(2, 11)]
	tap.ok(all(m.returncode == 0 for m in moves) and job.where() == [0], "there and back ten times, over the job's own older copies",
	       *[m.stderr for m in moves])
	done = job.end()
	tap.ok(done and done[1] == "rig1" and is_whole(text_of(path, r[1]), done[0]), "and every line is there once, in both", done, job.err)
	no_marks("nothing but the files is left", r.shared, r.scratch)

	r[2].run("rm -f %s; echo another > %s" % (path, path), check=True)
	r[1].run(["rm", "-f", path], check=True)
	job = Scribe("-a", path, options=["-carry-files"])
	refused("a file that is in the way is not replaced", job, [path, "host rig2", "not replaced"])
	r[2].run(["rm", path], check=True)
	m = job.move(1)
	tap.ok(m.returncode == 0, "mpirun -carry-files: without it being said again", m.stderr)
	r[1].run("echo more >> %s" % path, check=True)
	refused("an older copy that somebody has changed is not replaced", job, [path, "not replaced"], 0, 1)
	done = job.end()
	tap.ok(done and done[1] == "rig2" and is_whole(text_of(path, r[2]), done[0]), "its rank runs on", done, job.err)
	no_marks("nothing but the files is left", r.shared, r.scratch)


def test_contents():
	"""What is only read: equal contents count, whatever else differs."""
	own = os.path.join(r.scratch, "data")
	for h, text in ((r[1], "the data\n"), (r[2], "the data\n")):
		h.run("echo '%s' > %s; chmod 444 %s" % (text.strip(), own, own), check=True)
	job = Scribe("-r", own, "-m", own)
	m = job.move(1)
	tap.ok(m.returncode == 0, "a file that is read, of equal contents in another inode: accepted", m.stderr)
	r[1].run("chmod 644 %s; echo 'The data' > %s" % (own, own), check=True)
	refused("of other contents and the same size: refused by path and host", job, [own, "other contents on host rig1"], 0, 1)
	r[1].run("echo 'no data at all' > %s" % own, check=True)
	refused("of another size: refused with both sizes", job, [own, "rig1 (15 bytes)", "rig2 (9)"], 0, 1)
	r[1].run("chmod 755 %s; rm %s" % (r.scratch, own), check=True)
	refused("not there: refused", job, [own, "not on host rig1"], 0, 1)
	done = job.end()
	tap.ok(done and done[1] == "rig2", "its rank runs on where it is", done, job.err)

	library = [l.split()[2] for l in r[1].run(["ldd", SCRIBE]).stdout.split("\n") if "libc.so" in l][0]
	library = os.path.realpath(library)
	other = os.path.join(r.dir, "libc")
	shutil.copy(library, other)
	job = Scribe("-a", os.path.join(r.shared, "beside"))
	r[2].run(["mount", "--bind", other, library], check=True)
	m = job.move(1)
	tap.ok(m.returncode == 0, "a library in another inode, of equal contents: accepted", m.stderr)
	job.move(0)
	with open(other, "r+b") as f:  # not where anything of the host would stumble over it
		f.seek(-1, os.SEEK_END)
		last = f.read(1)
		f.seek(-1, os.SEEK_END)
		f.write(bytes([last[0] ^ 1]))
	refused("another version of a library: refused by path", job, [library, "other contents on host rig2"])
	r[2].run(["umount", "-l", library], check=True)
	done = job.end()
	tap.ok(done and done[1] == "rig1" and is_whole(text_of(os.path.join(r.shared, "beside")), done[0]), "its rank runs on", done, job.err)


def test_places():
	"""Where no mark can be made in the file's own directory."""
	closed = os.path.join(r.shared, "closed")
	os.mkdir(closed)
	os.chown(closed, *([r.uid, r.gid] if not login else [-1, -1]))
	path = os.path.join(closed, "file")
	job = Scribe("-a", path, "-d", closed)
	os.chmod(closed, 0o100)
	m = job.move(1)
	tap.ok(m.returncode == 0, "in a directory that its user may not read or write: the mark is made above it", m.stderr)
	os.chmod(closed, 0o700)
	done = job.end()
	tap.ok(done and done[1] == "rig2" and is_whole(text_of(path), done[0]), "and the file goes on", done, job.err)

	job = Scribe("-a", path)
	for h in r.hosts:
		h.run(["mount", "--bind", closed, closed], check=True)
		h.run(["mount", "-o", "remount,bind,ro", closed], check=True)
	refused("on a file system that cannot be written any more: refused by path", job, [path])
	for h in r.hosts:
		h.run(["umount", "-l", closed], check=True)
	done = job.end()
	tap.ok(done and done[1] == "rig1", "its rank runs on", done, job.err)

	own = os.path.join(r.scratch, "directory")
	for h in r.hosts:
		h.run("mkdir %s; chmod 777 %s" % (own, own), check=True)
	job = Scribe("-d", own)
	refused("an open directory of a host's own: refused by path", job, ["directory", own, "host rig1's own"])
	tap.ok(job.end(), "its rank runs on", job.err)
	no_marks("nothing of the proofs is left", r.shared, r.scratch)


def test_memory():
	"""What is written through memory."""
	path = os.path.join(r.shared, "memory")
	job = Scribe("-w", path)
	moves = [job.move((i + 1) % 2) for i in range(4)]
	tap.ok(all(m.returncode == 0 for m in moves), "a shared file that is written through memory: four moves", *[m.stderr for m in moves])
	p = r[1].popen([PYTHON, "-c", HOLD, path], stdout=subprocess.PIPE, user=login)
	line = p.stdout.readline() if select.select([p.stdout], [], [], 20)[0] else b""
	sentence = "while another process of its host has it mapped: refused by path"
	if login:
		tap.skip(sentence, "in the rig of an ordinary user each login is a user namespace, and cannot look into another's memory")
	else:
		refused(sentence, job, [path, "mapped too"])
	rig.kill_tree(p)
	done = job.end()
	with open(path, "rb") as f:
		counts = struct.unpack("512L", f.read())
	tap.ok(line and done and sum(counts) == done[0], "and every count is in the file", done, sum(counts), job.err)


def test_killed():
	"""Either daemon is killed while there are marks, and while there are files of random names."""
	for n, fault in enumerate(("mig.src.marked", "mig.dst.looking", "mig.dst.prepared", "mig.src.frozen", "mig.dst.ready", "mig.dst.given")):
		job = Scribe("-a", os.path.join(r.shared, "k%d" % n), "-a", os.path.join(r.scratch, "k%d" % n), options=["-carry-files"],
		             env={"GODWIT_FAULT": fault})
		m = job.move(1)
		out, err = rig.finish(job.p, 40)  # each of them has a rank
		godwit.wait_for(lambda: not marks(r.shared, r.scratch), 10, 0.05)
		tap.ok(m.returncode != 0 and "ending the job" in err and not marks(r.shared, r.scratch),
		       "%s: a daemon is killed there, and nothing is left" % fault, m.returncode, m.stdout, m.stderr, err,
		       marks(r.shared, r.scratch))


with rig_mpi.hosts_or_skip(2) as r:
	login = rig_mpi.login(r)
	test_shared()
	test_local()
	test_carry()
	test_contents()
	test_places()
	test_memory()
	test_killed()

sys.exit(tap.done())
