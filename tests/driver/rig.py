# SPDX-License-Identifier: BSD-2-Clause
"""The host rig: several emulated hosts on one machine, for tests of what spans hosts. doc/rig.md draws it.

A host is a set of network, UTS, IPC, mount and PID namespaces with its own /dev/shm, /tmp, /run, hostname and address. A
Rig is some of them on a bridge in a network namespace that the rig makes for itself: rigs never see each other or the
machine's network, and all of them may use the same addresses. A rig ends with its owner, however that ends.

	with rig.Rig(hosts=3) as r:
		r[1].run(["ping", "-c1", "rig2"])
		r[2].link(rate="100mbit")
		r[2].cut(); r[2].restore(); r[3].power_off(); r[3].power_on()

What runs in it: sshd (start_sshd) and Slurm (rig_slurm.py). Nothing of it is known to the product.
"""
import os, pwd, re, select, shutil, signal, subprocess, tempfile, time, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
HOSTS_SH = os.path.join(HERE, "..", "rig", "hosts.sh")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
USER, UID = "rig", 52051  # the ordinary user that a rig of root has; a rig of an ordinary user has that user


class RigError(Exception):
	"""Something of the rig failed: what, on which host, and what it said."""


class RigUnavailable(RigError):
	"""This machine cannot do it: a test skips with this reason."""


def tool(name):
	"""Full name of a program that the rig needs; sbin is not in an ordinary user's PATH."""
	path = shutil.which(name, path=os.environ.get("PATH", "") + ":" + SBIN)
	if not path:
		raise RigUnavailable("'%s' is not installed" % name)
	return path


def _probe():
	"""How namespaces can be had here: what unshare needs besides. Tried by its effect."""
	for name in ("unshare", "nsenter", "ip", "tc", "mount", "hostname", "setpriv"):
		tool(name)
	trial = ("ip link add b0 type bridge && ip link add v0 type veth peer name v1 && ip link set v0 master b0 && "
	         "mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /dev/shm")
	why = ""
	for options in ([],) if os.geteuid() == 0 else (["--user", "--map-root-user"],):
		p = subprocess.run([tool("unshare")] + options + ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "sh", "-c",
		                   "PATH=$PATH:%s; %s" % (SBIN, trial)], capture_output=True, text=True)
		if p.returncode == 0:
			return options
		why = p.stderr.strip().splitlines()[-1] if p.stderr.strip() else "status %d" % p.returncode
	raise RigUnavailable("no host can be emulated here%s: %s" %
	                     ("" if os.geteuid() == 0 else " without being root", why))


_options = None


def options():
	global _options
	if _options is None:
		_options = _probe()
	return _options


def why_not():
	"""Why there can be no rig here; None when there can."""
	try:
		options()
		tool("bash")
	except RigUnavailable as e:
		return str(e)
	return None


def why_no_cgroups():
	"""Why hosts cannot have control groups of their own here; None when they can."""
	if os.geteuid() != 0:
		return "control groups for each host need root"
	if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
		# A group with controllers for its children has no processes of its own there: a host's root would need a leaf.
		return "the rig knows control groups of version 1 only"
	if not os.path.isdir("/sys/fs/cgroup/memory") or not os.access("/sys/fs/cgroup/memory", os.W_OK):
		return "no control groups that can be written are mounted at /sys/fs/cgroup"
	return None


def _marked(mark, but):
	"""All processes besides @but that have @mark in their environment, and whether there are some of which that cannot be
	told: in the midst of exec a process has none."""
	found, unknown = [], False
	for p in filter(str.isdigit, os.listdir("/proc")):
		try:
			with open("/proc/%s/environ" % p, "rb") as f:
				env = f.read()
			if not env:
				with open("/proc/%s/stat" % p) as f:
					state, parent = f.read().rsplit(")", 1)[1].split()[:2]
				unknown |= state not in "ZX" and parent not in ("0", "2")
			elif mark in env and int(p) != but:
				found.append(int(p))
		except OSError:
			continue
	return found, unknown


def kill_tree(process):
	"""Kill a Popen of Host.popen with all that it started, wherever that went: the death of nsenter alone leaves its child
	running. nsenter itself ends when its child does, and reaps it. None of them is alive when this returns."""
	end, patience = time.monotonic() + 20, 10
	while True:
		pids, unknown = _marked(process.mark, process.pid)
		for pid in pids:
			try:
				fd = os.pidfd_open(pid)
			except OSError:
				continue
			try:
				signal.pidfd_send_signal(fd, signal.SIGKILL)
				select.select([fd], [], [], 10)
			except OSError:
				pass
			os.close(fd)
		if not pids:
			if not unknown or not patience:
				try:
					process.wait(0.2)
					break
				except subprocess.TimeoutExpired:
					if not patience:  # there never was a child
						process.kill()
						process.wait()
						break
			patience -= 1
			time.sleep(0.01)
		if time.monotonic() > end:
			raise RigError("processes of '%s' do not end: %s" % (process.args, pids))


def hear(process, words, count, timeout):
	"""What a Popen says on its standard output until it has said @words so often; bytes, less when it ends or time is over."""
	said, end = b"", time.monotonic() + timeout
	while said.count(words) < count and select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0]:
		piece = os.read(process.stdout.fileno(), 4096)  # not readline(): what it had read besides, select() would not tell of
		if not piece:
			break
		said += piece
	return said


def finish(process, timeout):
	"""What a Popen of Host.popen says until it ends, out and err, both text. One that does not end in time is killed."""
	try:
		return process.communicate(timeout=timeout)
	except subprocess.TimeoutExpired:
		kill_tree(process)
		out, err = process.communicate()
		return out, err + "\nit did not end within %d s" % timeout


def until(what, timeout, test, pace_s=0.02):
	"""Wait until test() is true and return it; RigError tells @what did not happen."""
	end = time.monotonic() + timeout
	while True:
		found = test()
		if found:
			return found
		if time.monotonic() > end:
			raise RigError("%s: not within %g s" % (what, timeout))
		time.sleep(pace_s)


def _login():
	try:
		return pwd.getpwuid(os.geteuid()).pw_name
	except KeyError:  # a container's user that no file knows
		return USER


class Host:
	"""One host of a rig. Its first process is init: its PID as the owner sees it, None while the power is off."""

	def __init__(self, rig, number):
		self.rig, self.number = rig, number
		self.name = "%s%d" % (rig.prefix, number)
		self.address = "%s.%d" % (rig.network, number)
		self.port = "h%d" % number  # its end at the bridge, in the outer namespace
		self.dir = os.path.join(rig.dir, "hosts", self.name)
		self.cores = rig.cores[number - 1] if rig.cores else None
		self.init = None

	# -- processes -------------------------------------------------------------------------------------------------
	def command(self, cmd, user=None, cwd=None, env=None):
		"""@cmd (a list, or a line for the shell) as a command of the machine that runs it in this host."""
		if self.init is None:
			raise RigError("%s is powered off" % self.name)
		if isinstance(cmd, str):
			cmd = ["sh", "-c", cmd]
		full = self.rig.enter(self.init, "-m", "-u", "-i", "-n", "-p")
		if self.rig.cgroup:
			full = ["bash", "-c", 'for f in /sys/fs/cgroup/{,*/}"$1"/cgroup.procs; do [ ! -e "$f" ] || echo $$ > "$f"; done; '
			        'shift; exec "$@"', "rig", "%s/%s" % (self.rig.cgroup, self.name)] + full + ["-C"]
		if self.rig.clocks:
			full += ["-T"]
		if self.cores:
			full += ["taskset", "-c", self.cores]
		name = user or "root"
		full += ["env", "--chdir=" + (cwd or self.rig.home(name)), "HOME=" + self.rig.home(name), "USER=" + name, "LOGNAME=" + name]
		full += ["%s=%s" % v for v in (env or {}).items()]
		return full + self.rig.become(user) + [str(c) for c in cmd]

	def popen(self, cmd, user=None, cwd=None, env=None, **how):
		"""subprocess.Popen in this host; end it with kill_tree(). Nothing of it survives the host."""
		how.setdefault("stdin", subprocess.DEVNULL)
		mark = "GODWIT_RIG_MARK=" + uuid.uuid4().hex
		p = subprocess.Popen(self.command(cmd, user, cwd, env), env=dict(self.rig.env, GODWIT_RIG_MARK=mark.split("=")[1]),
		                     start_new_session=True, **how)
		p.mark = mark.encode()
		return p

	def run(self, cmd, timeout=30, user=None, cwd=None, env=None, input=None, check=False):
		"""Run to the end in this host. Returns a CompletedProcess with text; status 124 when the time passed."""
		p = self.popen(cmd, user, cwd, env, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
		               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
		try:
			out, err = p.communicate(input, timeout)
			done = subprocess.CompletedProcess(cmd, p.returncode, out, err)
		except subprocess.TimeoutExpired:
			kill_tree(p)
			out, err = p.communicate()
			done = subprocess.CompletedProcess(cmd, 124, out, err + "\nnot done within %g s" % timeout)
		if check and done.returncode != 0:
			raise RigError("%s: '%s' ended with %d: %s" % (self.name, cmd if isinstance(cmd, str) else " ".join(map(str, cmd)),
			               done.returncode, (done.stderr or done.stdout).strip()))
		return done

	def processes(self):
		"""PIDs, as the owner sees them, of all that lives in this host besides its init."""
		if self.init is None:
			return []
		mine, found = os.stat("/proc/%d/ns/pid" % self.init).st_ino, []
		for p in filter(str.isdigit, os.listdir("/proc")):
			try:
				if int(p) != self.init and os.stat("/proc/%s/ns/pid" % p).st_ino == mine:
					found.append(int(p))
			except OSError:
				continue
		return found

	def listens(self, port):
		"""Does somebody accept TCP connections there?"""
		with open("/proc/%d/net/tcp" % self.init) as f:
			return any(l.split()[1].endswith(":%04X" % port) and l.split()[3] == "0A" for l in f.readlines()[1:])

	# -- power -----------------------------------------------------------------------------------------------------
	def power_off(self):
		"""Pull the plug: every process of the host is killed at once, its memory and its /dev/shm are gone. When this
		returns, none is left."""
		if self.init is None:
			return
		fd = os.pidfd_open(self.init)
		try:
			os.kill(self.init, signal.SIGKILL)
			if not select.select([fd], [], [], 10)[0]:
				raise RigError("%s: its processes do not end" % self.name)
		finally:
			os.close(fd)
			self.init = None
		self.rig.wire("ip", "link", "del", self.port, may_fail=True)  # its namespace takes it along, sooner or later

	def power_on(self, timeout=10):
		"""Boot it again: same name, address and disks, new /dev/shm, nothing running. Links are unlimited again."""
		if self.init is None:
			shutil.rmtree(os.path.join(self.dir, "run"), ignore_errors=True)
			self.make_run()
			self.rig._start([self], timeout)

	def make_run(self):
		"""/run, which every boot finds empty."""
		for d, mode in (("run", 0o755), ("run/lock", 0o1777), ("run/sshd", 0o755)):
			os.makedirs(os.path.join(self.dir, d))
			os.chmod(os.path.join(self.dir, d), mode)

	# -- link ------------------------------------------------------------------------------------------------------
	def link(self, rate=None, delay=None, loss=None):
		"""Limit this host's link, both ways: rate as tc writes it ("100mbit"), delay one way ("5ms"), loss ("1%").
		Nothing given: no limit."""
		if delay or loss:
			how = ["netem"] + (["delay", delay] if delay else []) + (["loss", loss] if loss else []) + (["rate", rate] if rate else [])
		elif rate:
			# Bursts of 64 KiB pass at once (a segment is never larger), a queue of 20 ms is kept.
			how = ["tbf", "rate", rate, "burst", "128kb", "latency", "20ms"]
		else:
			how = None
		ends = ((self.rig.wire, self.port), (lambda *c, **o: self.rig.inside(self.init, *c, **o), "eth0"))
		for call, device in ends:
			call("tc", "qdisc", "del", "dev", device, "root", may_fail=True)
			if how:
				try:
					call("tc", "qdisc", "add", "dev", device, "root", *how)
				except RigError as e:
					if "kind is unknown" in str(e):
						raise RigUnavailable("this kernel has no '%s' for links" % how[0]) from None
					raise

	def cut(self):
		"""Cut the link: what is sent vanishes, silently, in both directions. The interface stays up, as it does when a
		switch far away fails."""
		self.rig.wire("ip", "link", "set", self.port, "nomaster")

	def unplug(self):
		"""Take the cable out: the interface loses its carrier."""
		self.rig.wire("ip", "link", "set", self.port, "down")

	def restore(self):
		"""Undo cut, unplug and partition for this host."""
		self.rig.wire("ip", "link", "set", self.port, "master", "br0", "up")


class Rig:
	"""Hosts 1..@hosts. rig[1] and rig["rig1"] are the first.

	@cores: for each host, the cores of its processes as taskset writes them ("0", "0-1"), or None.
	@clocks: for each host, seconds by which its CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead (time namespaces).
	@cgroups: each host has control groups of its own (root only).
	@keep: directories below /tmp that all hosts see; the build and source trees always are.
	shared is a directory that is the same in all hosts, scratch one that differs, both under one path everywhere.
	"""

	def __init__(self, hosts=3, cores=None, clocks=None, cgroups=False, keep=(), prefix="rig", network="198.51.100",
	             timeout=20):
		self.userns = options()
		self.prefix, self.network, self.cores, self.clocks = prefix, network, cores, clocks
		self.keeper = self.outer = None
		self.user = USER if os.geteuid() == 0 else _login()
		self.uid, self.gid = (UID, UID) if os.geteuid() == 0 else (os.getuid(), os.getgid())
		self.dir = tempfile.mkdtemp(prefix="godwit-rig-", dir="/tmp")
		self.env = dict(os.environ, PATH=os.environ.get("PATH", "/usr/bin:/bin") + ":" + SBIN)
		self.shared, self.scratch = os.path.join(self.dir, "shared"), os.path.join(self.dir, "scratch")
		self.cgroup = None
		self.hosts = [Host(self, i + 1) for i in range(hosts)]
		try:
			if cgroups:
				self._make_cgroups()
			self._make_files(keep)
			self._start_keeper(timeout)
			self._start(self.hosts, timeout)
		except BaseException:
			self.close()
			raise

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.close()

	def __getitem__(self, which):
		for h in self.hosts:
			if which in (h.number, h.name):
				return h
		raise RigError("the rig has no host '%s'; it has %s" % (which, " ".join(h.name for h in self.hosts)))

	# -- making ----------------------------------------------------------------------------------------------------
	def _write(self, name, text, mode=0o644):
		path = os.path.join(self.dir, name)
		os.makedirs(os.path.dirname(path), exist_ok=True)
		with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "w") as f:
			f.write(text)
		os.chmod(path, mode)
		return path

	def home(self, user):
		return os.path.join(self.dir, "home", user)

	def _accounts(self):
		"""Who exists in the hosts: the machine's accounts, with homes of the rig and without anybody's password."""
		def lines(name):
			with open(name) as f:
				return [l.split(":") for l in f.read().splitlines() if l.count(":") >= 3]
		users, groups = lines("/etc/passwd"), lines("/etc/group")
		if os.geteuid() == 0 and not any(u[0] == USER for u in users):
			users.append([USER, "x", str(UID), str(UID), "", "", "/bin/bash"])
			groups.append([USER, "x", str(UID), ""])
		if not any(u[0] == self.user for u in users):  # known by other means than the file
			users.append([self.user, "x", str(self.uid), str(self.gid), "", "", "/bin/bash"])
		if not any(u[0] == "sshd" for u in users):
			users.append(["sshd", "x", "65533", "65534", "", "/run/sshd", "/usr/sbin/nologin"])
		for u in users:
			if u[0] in ("root", self.user):
				u[5], u[6] = self.home(u[0]), "/bin/bash"
		self._write("etc/passwd", "".join(":".join(u) + "\n" for u in users))
		self._write("etc/group", "".join(":".join(g) + "\n" for g in groups))
		self._write("etc/shadow", "".join("%s:*:19000:0:99999:7:::\n" % u[0] for u in users), 0o600)

	def _make_files(self, keep):
		os.chmod(self.dir, 0o755)
		for d, mode in (("shared", 0o1777), ("scratch", 0o1777), ("home/root", 0o700), ("home/" + self.user, 0o700), ("log", 0o1777),
		                ("etc/slurm", 0o755)):
			os.makedirs(os.path.join(self.dir, d))
			os.chmod(os.path.join(self.dir, d), mode)
		if os.geteuid() == 0:
			os.chown(self.home(self.user), self.uid, self.gid)
		os.mkfifo(os.path.join(self.dir, "never"), 0o600)
		self._accounts()
		self._write("etc/hosts", "127.0.0.1 localhost\n" + "".join("%s %s\n" % (h.address, h.name) for h in self.hosts))
		self._write("etc/resolv.conf", "")
		self._write("etc/ssh_config", "")
		trees = [self.dir, os.path.join(HERE, "..", "..")] + list(keep)
		trees += [os.environ[v] for v in ("top_builddir", "top_srcdir", "MPICH_PREFIX") if os.environ.get(v)]
		trees = [os.path.realpath(t) for t in trees]
		trees = sorted({t for t in trees if t.startswith("/tmp/")})
		trees = [t for i, t in enumerate(trees) if not any(t.startswith(o + "/") for o in trees[:i])]
		for h in self.hosts:
			for d, mode in (("scratch", 0o1777), ("tmp", 0o1777), ("sys", 0o755)):
				os.makedirs(os.path.join(h.dir, d))
				os.chmod(os.path.join(h.dir, d), mode)
			h.make_run()
			self._write(os.path.join(h.dir, "hostname"), h.name + "\n")
			table = ["rig-proc /proc proc nosuid,nodev,noexec", "rig-shm /dev/shm tmpfs nosuid,nodev,mode=1777"]
			table += self._sys_table(h)
			for etc in ("hosts", "resolv.conf", "passwd", "group", "shadow", "slurm", "ssh/ssh_config"):
				if os.path.exists("/etc/" + etc):
					table.append("%s /etc/%s none bind" % (os.path.join(self.dir, "etc", os.path.basename(etc)), etc))
			if os.path.exists("/etc/hostname"):
				table.append("%s/hostname /etc/hostname none bind" % h.dir)
			table.append("%s/run /run none bind" % h.dir)
			# /tmp is the host's own, but for the trees that the test itself lives in
			for t in trees:
				at = h.dir + t
				os.makedirs(at)
				table.append("%s %s none %s" % (t, at, "bind" if t == self.dir else "rbind"))
			table.append("%s/tmp /tmp none rbind" % h.dir)
			table.append("%s/scratch %s none bind" % (h.dir, self.scratch))
			self._write(os.path.join(h.dir, "fstab"), "".join(l + " 0 0\n" for l in table))

	def _sys_table(self, host):
		"""/sys with the host's own network, and the control groups: the host's own, or the machine's."""
		table = ["/sys/fs/cgroup %s/sys none rbind" % host.dir] if os.path.isdir("/sys/fs/cgroup") and not self.cgroup else []
		table.append("rig-sys /sys sysfs nosuid,nodev,noexec")
		if not os.path.isdir("/sys/fs/cgroup"):
			return table
		if not self.cgroup:
			return table + ["%s/sys /sys/fs/cgroup none rbind" % host.dir]
		table.append("rig-cgroup /sys/fs/cgroup tmpfs nosuid,nodev,noexec,mode=755")
		for at, kind, opts in self._hierarchies:
			table.append("rig-cgroup-%s %s %s X-mount.mkdir,%s" % (os.path.basename(at), at, kind, opts))
		return table

	def _make_cgroups(self):
		why = why_no_cgroups()
		if why:
			raise RigUnavailable(why)
		self._hierarchies = []
		with open("/proc/self/mounts") as f:
			for _, at, kind, opts in (l.split()[:4] for l in f):
				if at.startswith("/sys/fs/cgroup") and kind in ("cgroup", "cgroup2"):
					known = [o for o in opts.split(",") if o not in ("rw", "relatime", "nosuid", "nodev", "noexec", "clone_children")]
					self._hierarchies.append((at, kind, ",".join(["rw"] + (known if kind == "cgroup" else []))))
		self.cgroup = os.path.basename(self.dir)
		try:
			for at, kind, opts in self._hierarchies:
				top = os.path.join(at, self.cgroup)
				os.mkdir(top)
				levels = [top] + [os.path.join(top, h.name) for h in self.hosts]
				for d in levels[1:]:
					os.mkdir(d)
				for d in levels:
					up = os.path.dirname(d)
					for knob in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and then nobody may enter
						if os.path.exists(os.path.join(d, knob)):
							with open(os.path.join(up, knob)) as f, open(os.path.join(d, knob), "w") as g:
								g.write(f.read())
		except OSError as e:
			raise RigUnavailable("control groups cannot be made here: %s" % e) from None

	def _start_keeper(self, timeout):
		env = dict(self.env, RIG_USERNS=" ".join(self.userns), RIG_PREFIX=self.prefix, RIG_NETWORK=self.network,
		           RIG_CGROUP=self.cgroup or "", LC_ALL="C")
		for i, ahead in enumerate(self.clocks or []):
			env["RIG_UNSHARE_%d" % (i + 1)] = "--time --monotonic %d --boottime %d" % (ahead, ahead)
		self.errors = open(os.path.join(self.dir, "log", "hosts"), "w+")
		self.keeper = subprocess.Popen(["bash", HOSTS_SH, "keeper", self.dir], env=env, stdin=subprocess.PIPE,
		                               stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True, bufsize=0)
		self.said = b""
		self.outer = int(self._hear(r"wire (\d+)", time.monotonic() + timeout).group(1))

	def _hear(self, pattern, end):
		"""The next line of the keeper that matches."""
		while True:
			while b"\n" in self.said:
				line, self.said = self.said.split(b"\n", 1)
				m = re.fullmatch(pattern, line.decode())
				if m:
					return m
			more = b""
			if select.select([self.keeper.stdout], [], [], max(0, end - time.monotonic()))[0]:
				more = os.read(self.keeper.stdout.fileno(), 4096)
			if not more:
				self.errors.seek(0)
				raise RigError("the rig does not start: " + (self.errors.read().strip() or "it says nothing"))
			self.said += more

	def _start(self, hosts, timeout):
		self.keeper.stdin.write(b"".join(b"host %d\n" % h.number for h in hosts))
		end, missing = time.monotonic() + timeout, {h.number: h for h in hosts}
		while missing:
			m = self._hear(r"(up|failed) (\d+)(?: (\d+))?", end)
			if m.group(1) == "failed":
				self.errors.seek(0)
				raise RigError("host %s does not start: %s" % (m.group(2), self.errors.read().strip()))
			missing.pop(int(m.group(2))).init = int(m.group(3))

	# -- using -----------------------------------------------------------------------------------------------------
	def enter(self, pid, *namespaces):
		return [tool("nsenter"), "-t", str(pid)] + (["-U", "--preserve-credentials"] if self.userns else []) + list(namespaces)

	def become(self, user):
		"""What comes before a command that @user runs, inside."""
		if user in (None, "root"):
			return []
		if user != self.user and self.userns:
			raise RigUnavailable("a rig of an ordinary user has no other users than root and %s" % self.user)
		if self.userns:  # root here is that user with privileges over the rig: give them back
			return ["unshare", "--user", "--map-user=%d" % self.uid, "--map-group=%d" % self.gid, "--"]
		return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--inh-caps=-all", "--"]

	def _call(self, where, cmd, may_fail):
		p = subprocess.run(where + list(cmd), env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
		if p.returncode != 0 and not may_fail:
			raise RigError("'%s' failed: %s" % (" ".join(cmd), p.stderr.strip()))
		return p.stdout

	def wire(self, *cmd, may_fail=False):
		"""Run a command where the bridge is."""
		return self._call(self.enter(self.outer, "-n"), cmd, may_fail)

	def inside(self, pid, *cmd, may_fail=False):
		return self._call(self.enter(pid, "-n"), cmd, may_fail)

	def partition(self, *groups):
		"""Divide the hosts: each group (of numbers, names or hosts) hears only itself. Hosts not named stay together."""
		for i, group in enumerate(groups):
			bridge = "br%d" % (i + 1)
			if bridge not in self.wire("ip", "-br", "link", "show", "type", "bridge"):
				self.wire("ip", "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0")
				self.wire("ip", "link", "set", bridge, "up")
			for h in group:
				h = h if isinstance(h, Host) else self[h]
				self.wire("ip", "link", "set", h.port, "master", bridge)

	def heal(self):
		"""Undo every cut and partition."""
		for h in self.hosts:
			if h.init is not None:
				h.restore()

	def start_sshd(self, hosts=None, timeout=10):
		"""A real sshd on port 22 of each host. From each to each, 'ssh NAME command' works without a question: as root and
		as rig.user; in a rig of an ordinary user as that user only. Neither reads any file of the machine's users."""
		sshd, keygen = tool("sshd"), tool("ssh-keygen")
		tool("ssh")
		at, owner = os.path.join(self.dir, "ssh"), None if not self.userns else self.user
		if not os.path.isdir(at):
			os.makedirs(at)
			for key in ("host", "id"):
				self.hosts[0].run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", os.path.join(at, key)], check=True)
			with open(os.path.join(at, "id")) as f:
				# ssh refuses a key that others may read only if it is the reader's own: root has one copy, all others share one
				self._write("ssh/id-others", f.read(), 0o644 if not self.userns else 0o600)
			with open(os.path.join(at, "host.pub")) as f:
				self._write("ssh/known_hosts", "%s*,%s.*,localhost %s" % (self.prefix, self.network, f.read()))
			self._write("ssh/sshd_config", "\n".join((
				"HostKey %s/host" % at, "AuthorizedKeysFile %s/id.pub" % at, "StrictModes no", "PermitRootLogin yes", "UsePAM no",
				"PasswordAuthentication no", "KbdInteractiveAuthentication no", "UseDNS no", "PrintMotd no", "MaxStartups 200",
				"MaxSessions 200", "PidFile none", "Subsystem sftp internal-sftp", "")))
			self._write("etc/ssh_config", "\n".join((
				"Host *", "\tBatchMode yes", "\tStrictHostKeyChecking yes", "\tUserKnownHostsFile none", "\tIdentitiesOnly yes",
				"\tGlobalKnownHostsFile %s/known_hosts" % at, "\tConnectTimeout 10", "\tUser " + owner if owner else "",
				"Match localuser root", "\tIdentityFile %s/id" % at, "Match localuser *,!root",
				"\tIdentityFile %s/id-others" % at, "")))
		hosts = hosts or self.hosts
		for h in hosts:
			if owner:
				h.run("echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start", check=True)
			h.run([sshd, "-f", os.path.join(at, "sshd_config"), "-E", os.path.join(self.dir, "log", "sshd." + h.name)],
			      user=owner, check=True)
		for h in hosts:
			until("%s: sshd listens" % h.name, timeout, lambda: h.listens(22))

	def log(self, name, lines=20):
		"""The end of a log: sshd.rig1, slurmd.rig2, slurmctld.rig1, hosts."""
		try:
			with open(os.path.join(self.dir, "log", name), errors="replace") as f:
				return f.read().splitlines()[-lines:]
		except OSError as e:
			return [str(e)]

	def close(self):
		"""End the rig. When this returns, its processes, directory and control groups are gone."""
		if self.keeper is None:
			shutil.rmtree(self.dir, ignore_errors=True)
			return
		for f in (self.keeper.stdin, self.keeper.stdout, self.errors):
			f.close()
		try:
			self.keeper.wait(60)
		except subprocess.TimeoutExpired:
			self.keeper.kill()
			raise RigError("the rig did not end by itself; it was killed, and '%s' may be left" % self.dir)
		for h in self.hosts:
			h.init = None
