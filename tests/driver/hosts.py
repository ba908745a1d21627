# SPDX-License-Identifier: BSD-2-Clause
"""The host rig itself: are its hosts like hosts, and does nothing of them stay behind?"""
import os, re, select, signal, socket, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, hosts_slurm, rig

NAMESPACES = ("net", "uts", "ipc", "mnt", "pid")
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable  # an ordinary user's too

RECEIVE = """
import socket, time
s = socket.create_server(("", 7000)); print("listening", flush=True)
c = s.accept()[0]; n = len(c.recv(1)); start = time.monotonic()
while True:
	more = len(c.recv(1 << 20))
	if not more: break
	n += more
print("received", n, time.monotonic() - start, flush=True)
"""
SEND = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7000)); s.sendall(bytes(int(sys.argv[2])))
"""
# echoes each line of its standard input through a connection to whoever is called echo there
TALK = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7001), 20); f = s.makefile("r"); print("connected", flush=True)
for line in sys.stdin:
	s.sendall(line.encode()); print("heard", f.readline().strip(), flush=True)
"""
ECHO = """
import socket
s = socket.create_server(("", 7001)); print("listening", flush=True)
while True:
	c = s.accept()[0]
	while True:
		b = c.recv(4096)
		if not b: break
		c.sendall(b)
"""
CONNECT = """
import socket, sys
try:
	socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])); print("connected")
except OSError as e: print("failed", e)
"""


def line(p, timeout=20):
	"""The next line that a process writes; what it wrote so far when it does not in time."""
	got = b""
	end = time.monotonic() + timeout
	while not got.endswith(b"\n"):
		if not select.select([p.stdout], [], [], max(0, end - time.monotonic()))[0]:
			break
		more = os.read(p.stdout.fileno(), 1)
		if not more:
			break
		got += more
	return got.decode().strip()


def start(host, program, *args):
	return host.popen([PYTHON, "-c", program] + list(args), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def connects(host, to, port, timeout="1"):
	return host.run([PYTHON, "-c", CONNECT, to, str(port), timeout]).stdout.startswith("connected")


def transfer(a, b, size):
	"""Bytes per second from a to b, as the receiver sees them."""
	p = start(b, RECEIVE)
	if line(p) != "listening":
		raise rig.RigError("%s does not listen" % b.name)
	a.run([PYTHON, "-c", SEND, b.name, str(size)], check=True)
	word, n, seconds = line(p, 60).split()
	p.wait(10)
	assert int(n) == size
	return size / float(seconds)


class Traces:
	"""What a rig could leave on this machine. The namespaces are held open, so that no new one takes the number of an old
	one; that keeps no process alive."""

	def __init__(self, pids, directory):
		self.directory, self.fds = directory, []
		for pid in pids:
			for n in NAMESPACES:
				self.fds.append((n, os.open("/proc/%d/ns/%s" % (pid, n), os.O_RDONLY | os.O_CLOEXEC)))
		self.namespaces = {(n, os.fstat(fd).st_ino) for n, fd in self.fds}

	def close(self):
		for _, fd in self.fds:
			os.close(fd)

	def left(self):
		"""What there is, in words."""
		found = []
		for p in filter(str.isdigit, os.listdir("/proc")):
			for n in NAMESPACES:
				try:
					if (n, os.stat("/proc/%s/ns/%s" % (p, n)).st_ino) in self.namespaces:
						found.append("process %s in a namespace (%s)" % (p, n))
				except OSError:
					pass
		with open("/proc/self/mountinfo") as f:
			found += ["mount " + l for l in f if self.directory in l]
		group = "/sys/fs/cgroup/%s" + os.path.basename(self.directory)
		for d in [self.directory, group % "", group % "memory/", group % "freezer/"]:
			if os.path.exists(d):
				found.append("directory " + d)
		return found


def traces(r):
	return Traces([r.outer] + [h.init for h in r.hosts], r.dir)


def devices():
	with open("/proc/net/dev") as f:
		return set(re.findall(r"^\s*([^\s:]+):", f.read(), re.M))


def test_isolation(t, r):
	names = [h.run("hostname").stdout.strip() for h in r.hosts]
	t.ok(names == ["rig1", "rig2", "rig3"], "each host has its own name", names)
	echo = start(r[2], ECHO)
	line(echo)
	t.ok(connects(r[1], "rig2", 7001) and connects(r[3], r[2].address, 7001) and connects(r[2], "rig2", 7001),
	     "hosts reach each other by name and by address")
	rig.kill_tree(echo)

	with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix, \
	     tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="godwit-rig-test-") as shm:
		name = "godwit-rig-test-%d" % os.getpid()
		unix.bind("\0" + name)
		unix.listen()
		port = tcp.getsockname()[1]
		seen = r[1].run("cat /proc/net/unix; ls /dev/shm; ls /sys/class/net").stdout
		t.ok(not connects(r[1], "127.0.0.1", port) and name not in seen and os.path.basename(shm.name) not in seen and
		     devices() & {"eth0", "h1", "br0"} == before & {"eth0", "h1", "br0"},
		     "a host does not see the machine's network, sockets or shared memory", seen)
	own = "godwit-rig-own-%d" % os.getpid()
	r[1].run("for d in /dev/shm /tmp /run; do echo 1 > $d/%s; done" % own, check=True)
	t.ok(not os.path.exists("/tmp/" + own) and r[2].run("cd /; cat dev/shm/%s tmp/%s run/%s" % (own, own, own)).stdout == "",
	     "each host has its own /dev/shm, /tmp and /run")
	for h in r.hosts:
		h.run("echo %s >> %s/f; echo %s > %s/f" % (h.name, r.shared, h.name, r.scratch), check=True)
	both = r[1].run("cat %s/f; echo /; cat %s/f" % (r.shared, r.scratch)).stdout.split()
	t.ok(both == ["rig1", "rig2", "rig3", "/", "rig1"], "one directory is shared, one is the host's own, under one path", both)
	who = r[1].run("id -u; id -un; touch ~/f && echo home", user=r.user).stdout.split()
	t.ok(who == [str(r.uid), r.user, "home"], "an ordinary user has a home in a host", who)
	slow = r[1].run("sleep 1000 & sleep 1000", timeout=0.3)
	t.ok(slow.returncode == 124 and not r[1].processes(), "a command that takes too long ends with all that it started",
	     r[1].processes())


def test_link(t, r):
	free = transfer(r[1], r[2], 16 << 20)
	try:
		r[2].link(rate="50mbit")
		there, back = transfer(r[1], r[2], 4 << 20), transfer(r[2], r[1], 4 << 20)
		t.ok(free > 3 * there and free > 3 * back, "a link's rate limit shows, both ways",
		     "unlimited %.0f, limited %.1f and back %.1f MB/s" % (free / 1e6, there / 1e6, back / 1e6))
		r[2].link()
		again = transfer(r[1], r[2], 16 << 20)
		t.ok(again > 3 * there, "a limit can be lifted", "%.0f MB/s" % (again / 1e6))
	except rig.RigUnavailable as e:
		t.skip("a link's rate limit shows, both ways", str(e))
	try:
		r[3].link(delay="30ms")
		start_s = time.monotonic()
		connects(r[1], "rig3", 1)
		t.ok(time.monotonic() - start_s > 0.03, "a link can be made long")
		r[3].link()
	except rig.RigUnavailable as e:
		t.skip("a link can be made long", str(e))


def test_cut(t, r):
	echo = start(r[2], ECHO)
	line(echo)
	talk = start(r[1], TALK, "rig2")
	first = line(talk)
	r[2].cut()
	t.ok(first == "connected" and not connects(r[1], "rig2", 7001, "0.7"), "a cut link is cut", first)
	talk.stdin.write(b"through\n")
	talk.stdin.flush()
	r[2].restore()
	heard = line(talk)
	t.ok(heard == "heard through", "a restored link goes on where it was", heard)
	rig.kill_tree(talk)
	echo2 = start(r[3], ECHO)
	line(echo2)
	r.partition([1], [2, 3])
	apart = [connects(r[1], "rig3", 7001, "0.5"), connects(r[2], "rig3", 7001)]
	r.heal()
	t.ok(apart == [False, True] and connects(r[1], "rig3", 7001), "hosts can be divided into groups, and joined again", apart)
	rig.kill_tree(echo2)
	rig.kill_tree(echo)


def test_power(t, r):
	p = r[2].popen("setsid sleep 1000 & setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo on > /dev/shm/state; echo ready; wait",
	               stdout=subprocess.PIPE)
	line(p)
	alive = r[2].processes()
	fds = [os.pidfd_open(pid) for pid in alive]
	init1 = r[1].init
	r[2].power_off()
	dead = [bool(select.select([fd], [], [], 0)[0]) for fd in fds]
	for fd in fds:
		os.close(fd)
	t.ok(len(alive) >= 3 and all(dead) and os.path.exists("/proc/%d" % init1), "power_off ends every process of that host",
	     "alive before: %s, dead after: %s" % (alive, dead))
	p.wait(10)
	r[2].power_on()
	t.ok(r[2].run("hostname; cat /dev/shm/state").stdout == "rig2\n", "a host that was off comes back, with nothing in memory")
	orphan = r[2].run("(sleep 0.01 &) ; exit 3")
	rig.until("orphans are reaped", 10, lambda: not r[2].processes())
	t.ok(orphan.returncode == 3, "a command's status comes back, and its orphans are reaped", orphan)


def test_two(t, r):
	with rig.Rig(2) as other:
		echo = start(r[2], ECHO)
		line(echo)
		t.ok(other[2].address == r[2].address and connects(r[1], other[2].address, 7001) and
		     not connects(other[1], other[2].address, 7001), "two rigs with the same addresses do not meet")
		rig.kill_tree(echo)
		of_other = traces(other)
	found = of_other.left()
	of_other.close()
	t.ok(not found and r[1].run("hostname").returncode == 0, "one ends, the other goes on", *found)


def test_clocks(t):
	why = "time namespaces are missing or not allowed"
	try:
		r = rig.Rig(2, clocks=[0, 5000])
	except rig.RigError as e:
		t.skip("clocks of hosts can differ", "%s: %s" % (why, str(e).replace("\n", "; ")))
		return
	with r:
		ahead = [float(h.run("cat /proc/uptime").stdout.split()[0]) for h in r.hosts]
		t.ok(ahead[1] - ahead[0] > 4000, "clocks of hosts can differ", ahead)


def test_ssh(t, r):
	sentences = ["ssh from each host to each other works without questions", "ssh works for an ordinary user",
	             "ssh forwards the status of a command"]
	try:
		r.start_sshd()
	except rig.RigUnavailable as e:
		for s in sentences:
			t.skip(s, str(e))
		return
	got = [r[a].run(["ssh", "rig%d" % b, "hostname"]) for a, b in ((1, 2), (2, 3), (3, 1))]
	t.ok([g.stdout for g in got] == ["rig2\n", "rig3\n", "rig1\n"] and not any(g.stderr for g in got), sentences[0], got,
	     *r.log("sshd.rig2"))
	got = r[1].run("ssh rig2 'hostname; id -un'; ssh %s hostname" % r[3].address, user=r.user)
	t.ok(got.stdout.split() == ["rig2", r.user, "rig3"], sentences[1], got, *r.log("sshd.rig2"))
	got = r[1].run(["ssh", "rig3", "exit 7"])
	t.ok(got.returncode == 7, sentences[2], got)


def test_command(t):
	"""rig, for people."""
	command = [sys.executable, os.path.join(rig.HERE, "..", "rig", "rig"), "--name", "test%d" % os.getpid()]
	outs = [subprocess.run(command + c, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
	        for c in (["up", "-n", "2"], ["exec", "rig2", "hostname"], ["off", "rig2"], ["exec", "rig2", "true"], ["down"], ["status"])]
	where = re.search(r"^shared +(\S+)/shared$", outs[0].stdout, re.M)
	t.ok([o.returncode for o in outs] == [0, 0, 0, 1, 0, 1] and outs[1].stdout == "rig2\n" and where and
	     not os.path.exists(where.group(1)), "a rig can be used by hand", *outs)


OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import rig
r = rig.Rig(2)
r[1].popen("setsid sleep 1000")
print(r.keeper.pid, r.dir, r.outer, *(h.init for h in r.hosts), flush=True)
time.sleep(600)
"""


def test_killed(t):
	owner = subprocess.Popen([sys.executable, "-c", OWNER, os.path.dirname(os.path.abspath(__file__))], stdout=subprocess.PIPE)
	said = line(owner).split()
	keeper, found = int(said[0]), Traces(map(int, said[2:]), said[1])
	there = found.left()
	fd = os.pidfd_open(keeper)
	os.kill(owner.pid, signal.SIGKILL)
	owner.wait(10)
	over = bool(select.select([fd], [], [], 20)[0])
	os.close(fd)
	left = found.left()
	found.close()
	t.ok(there and over and not left, "a rig whose owner is killed leaves nothing", *left)


def main():
	t = godwit.Tap(240)
	t.jobs = []
	why = rig.why_not()
	if why:
		print("1..0 # SKIP " + why, flush=True)
		t.timer.cancel()
		return 0
	slurm = hosts_slurm.test_slurm(t)
	next(slurm, None)  # starts what takes its time, while the others are tested
	with rig.Rig(3) as r:
		test_isolation(t, r)
		test_link(t, r)
		test_cut(t, r)
		test_power(t, r)
		test_two(t, r)
		test_ssh(t, r)
		found = traces(r)
		there = found.left()
	left = found.left()
	found.close()
	t.ok(there and not left and devices() <= before, "a closed rig leaves no process, mount, link or file", *left)
	test_clocks(t)
	test_killed(t)
	test_command(t)
	for _ in slurm:
		pass
	return t.done()


if __name__ == "__main__":
	before = devices()
	sys.exit(main())
