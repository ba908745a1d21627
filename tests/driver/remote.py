# SPDX-License-Identifier: BSD-2-Clause
"""Jobs on several hosts of a rig, started by a real sshd: they run, they fail with a sentence, and nothing stays behind."""
import json, os, select, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

tap = godwit.Tap(300)
MPIRUN = os.path.join(godwit.BUILD, "mpirun")
GODWITD = os.path.join(godwit.BUILD, "godwitd")
GODWIT = os.path.join(godwit.BUILD, "godwit")
KMEANS = os.path.join(godwit.BUILD, "examples/kmeans")
JACOBI = os.path.join(godwit.BUILD, "examples/jacobi")
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
# it holds 16 MiB that can be packed until there is a file
HOLDS = """import os, sys, time
page = os.urandom(1024) + bytes(3072)
memory = bytearray(page * (16 << 8))
print("holds", flush=True)
while not os.path.exists(sys.argv[1]):
	time.sleep(0.01)
print("well" if memory == page * (16 << 8) else "ill")
"""


def nothing_left():
	found = rig_mpi.left(r.hosts, "godwitd|mpirun|ssh")
	tap.ok(not found, "nothing is left on any host", *found)


def mpirun(*words, **more):
	p = r[1].run([MPIRUN] + list(words), timeout=60, user=login, **more)
	return p.returncode, p.stdout, p.stderr


def check(sentence, status, says, words, **more):
	"""One command: its status, what standard error must say."""
	code, out, err = mpirun(*words, **more)
	tap.ok(code == status and all(s in err for s in says) and err.count("\n") == 1, sentence, code, out, err)


def begin(*words):
	"""A job whose ranks say that they run."""
	p = r[1].popen([MPIRUN] + list(words) + ["sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE,
	               stderr=subprocess.PIPE, text=True, user=login)
	if rig.hear(p, b"\n", 2, 30) == b"up\nup\n":
		return p
	rig.kill_tree(p)
	tap.bail("the job did not start: " + p.stderr.read())


def end(p, sentence, status, says):
	out, err = rig.finish(p, 40)
	tap.ok(p.returncode in status and all(s in err for s in says), sentence, p.returncode, err)


own = sorted(os.sched_getaffinity(0))
with rig_mpi.hosts_or_skip(3, cores=[None, None, str(own[-1])]) as r:
	login = rig_mpi.login(r)
	shared = os.path.join(r.shared, "hosts")

	code, out, err = mpirun("-hosts", "rig1,rig2,rig3", "-n", "6", "-l", "hostname")
	tap.ok(code == 0 and sorted(out.split("\n")[:-1]) == ["[%d] rig%d" % (i, i // 2 + 1) for i in range(6)],
	       "six ranks on three hosts", code, out, err)
	tap.ok(err == "", "and nobody has anything to say about it", err)
	with open(shared, "w") as f:
		f.write("# two hosts\nrig3:1\n\nrig2 slots=3   # the larger one\n")
	code, out, err = mpirun("-f", shared, "-n", "5", "-l", "hostname")
	tap.ok(code == 0 and sorted(out.split("\n")[:-1]) == ["[0] rig3", "[1] rig2", "[2] rig2", "[3] rig2", "[4] rig3"],
	       "a file of hosts fills their slots in turn", code, out, err)
	code, out, err = mpirun("-hosts", "rig2,rig3", "-ppn", "2", "-n", "4", "-l", "hostname")
	tap.ok(code == 0 and sorted(out.split("\n")[:-1]) == ["[0] rig2", "[1] rig2", "[2] rig3", "[3] rig3"], "-ppn", code, out, err)
	code, out, err = mpirun("-hosts", "rig2:4,rig3:1", "-clusters", "2", "-ppn", "2", "-n", "5", "-prepend-pattern", "%r %p ", "hostname")
	tap.ok(code == 0 and sorted(out.split("\n")[:-1]) == ["0 0 rig2", "1 1 rig2", "2 2 rig3", "3 3 rig3", "4 0 rig2"],
	       "which counts ranks of a host, whatever slots it has, over its clusters", code, out, err)
	code, out, err = mpirun("-hosts", "rig1,rig2", "-clusters", "2", "-n", "4", KMEANS)
	tap.ok(code == 0, "an MPI program on two hosts of two clusters each", code, out, err)
	alone = subprocess.run([MPIRUN, "-n", "4", KMEANS], capture_output=True, text=True, timeout=60).stdout
	tap.ok(godwit.checksum(out) and godwit.checksum(out) == godwit.checksum(alone), "has the result that it has on one", out, alone)
	code, out, err = mpirun("-hosts", "rig2,rig3", "-n", "2", "cat", input="a line\n")
	tap.ok(code == 0 and out == "a line\n", "standard input reaches rank 0 on another host", code, out, err)
	check("a rank's status comes back from another host", 9, ["rank 1", "cluster 1 on rig2", "status 9"],
	      ["-hosts", "rig1,rig2", "-n", "2", "sh", "-c", "test $PMI_RANK = 0 || exit 9"])
	code, out, err = mpirun("-hosts", "rig1,rig2", "-launcher", "ssh -x %h %c", "-n", "2", "hostname")
	tap.ok(code == 0 and sorted(out.split()) == ["rig1", "rig2"], "a launcher in the user's words", code, out, err)
	nothing_left()

	# ---- as if inherited ----
	said = r[1].run("ulimit -S -n 333; ulimit -S -s 4000; ulimit -S -c 0; umask 027; exec nice -n 3 %s -hosts rig1,rig2 -n 2 -l "
	                "sh -c 'echo $(ulimit -Sn) $(ulimit -Ss) $(ulimit -Sc) $(umask) $(nice)'" % MPIRUN, timeout=60, user=login)
	nice = min(os.nice(0) + 3, 19)
	tap.ok(sorted(said.stdout.split("\n")[:-1]) == ["[%d] 333 4000 0 0027 %d" % (i, nice) for i in range(2)],
	       "limits, umask and nice value of mpirun hold on another host", said.stdout, said.stderr)
	events = os.path.join(r.shared, "events")
	with open(events, "w"):
		os.chmod(events, 0o666)
	code, out, err = mpirun("-hosts", "rig1,rig2", "-n", "2", "true", env={"GODWIT_EVENTS": events, "GODWIT_LOG": "info"})
	with open(events) as f:
		up = sorted((e["host"], e["who"]) for e in map(json.loads, f) if e["event"] == "cluster.up")
	tap.ok(code == 0 and up == [("rig1", "godwitd 0"), ("rig2", "godwitd 1")], "events come from daemons of all hosts", up, err)
	tap.ok("godwitd 0 on rig1 " in err and "godwitd 1 on rig2 " in err, "and log lines, which say of which host they are", err)
	r[1].run(["mkdir", "-m", "755", os.path.join(r.scratch, "here")], check=True)
	check("a directory that another host does not have", 1, ["host rig2: cannot change to directory", "/here'"],
	      ["-hosts", "rig1,rig2", "-n", "2", "-wdir", os.path.join(r.scratch, "here"), "true"])
	nothing_left()

	# ---- places ----
	seen = ["sh", "-c", "echo $(sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status) $OMP_NUM_THREADS"]
	if len(own) < 2:
		tap.skip("ranks are bound by the processors of their own host", "one processor")
	else:
		code, out, err = mpirun("-hosts", "rig1:2,rig2:2,rig3:1", "-n", "5", "-bind-to", "hwthread", "-l", *seen)
		want = ["[%d] %d" % place for place in enumerate((own[0], own[1], own[0], own[1], own[-1]))]
		tap.ok(code == 0 and sorted(out.split("\n")[:-1]) == want, "ranks are bound by the processors of their own host", out, err, want)
		code, out, err = mpirun("-hosts", "rig2,rig3", "-clusters", "2", "-n", "4", "-l", *seen)
		half = ["%d" % own[0], "%d" % own[1]] if len(own) == 2 else [line.split()[1] for line in out.split("\n")[:-1] if line[1] in "01"]
		tap.ok(code == 0 and len(set(half)) == 2 and sorted(out.split("\n")[:-1]) ==
		       ["[0] " + half[0], "[1] " + half[1], "[2] %d 1" % own[-1], "[3] %d 1" % own[-1]],
		       "each host is cut by its own processors, and ranks that share one have one thread", out, err)
	check("a binding that another host cannot give", 1, ["host rig3: ", "user:0,1", "processors 0 to 0"],
	      ["-hosts", "rig2:2,rig3:1", "-n", "3", "-bind-to", "user:0,1", "true"])
	nothing_left()

	# ---- addresses ----
	trusting = ["-launcher", "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o LogLevel=ERROR -o ConnectTimeout=3 %h %c"]
	v6 = [h.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ip -6 addr add fd00::%d/64 dev eth0 nodad" % h.number).returncode
	      for h in r.hosts]
	if any(v6):
		tap.skip("hosts named by IPv6 addresses", "the hosts of the rig have none")
	else:
		code, out, err = mpirun("-hosts", "[fd00::2]:1,fd00::3", *trusting, "-n", "2", KMEANS)
		tap.ok(code == 0 and godwit.checksum(out) == godwit.checksum(alone), "hosts named by IPv6 addresses", code, out, err)
		code, out, err = mpirun("-hosts", r[2].address + ",fd00::3", *trusting, "-n", "2", "true")
		tap.ok(code == 1 and "host 'fd00::3' has no address of IPv4" in err and err.count("\n") == 1, "and not by both kinds in one job", code, err)
	r[1].run(["ip", "addr", "add", "203.0.113.1/24", "dev", "eth0"], check=True)
	r[3].run(["ip", "addr", "add", "203.0.113.3/24", "dev", "eth0"], check=True)
	with open(os.path.join(r.dir, "etc/hosts"), "a") as f:
		f.write("203.0.113.9 twice\n%s twice\n" % r[2].address)
	code, out, err = mpirun("-hosts", "twice,203.0.113.3", *trusting, "-n", "2", "hostname")
	tap.ok(code == 0 and sorted(out.split()) == ["rig2", "rig3"], "a host of two addresses, of which one works, and one of another network",
	       code, out, err)
	nothing_left()

	# ---- moves ----
	p = r[1].popen([MPIRUN, "-hosts", "rig1,rig2,rig3", "-n", "3", JACOBI], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
	               user=login)
	first = p.stdout.readline() if select.select([p.stdout], [], [], 30)[0] else ""
	status = json.loads(r[1].run([GODWIT, "status", "--json"], timeout=60, user=login).stdout or "{}")
	tap.ok([bool(c["pid"] and c["cores"]) for c in status.get("clusters", [])] == [True] * 3,
	       "godwit status knows daemon and processors of each cluster", status)
	table = r[1].run([GODWIT, "status"], timeout=60, user=login).stdout
	tap.ok([x["hostname"] for x in status["clusters"] + status["ranks"]] == ["rig1", "rig2", "rig3"] * 2 and
	       table.count(" rig2 ") == 2, "and the names of hosts", status, table)
	moves = [r[1].run([GODWIT, "migrate", str(rank), "--to", to % ((rank + turn) % 3 + base)], timeout=60, user=login)
	         for turn, to, base in ((1, "%d", 0), (2, "rig%d", 1), (3, "rig%d", 1)) for rank in range(3)]
	wrong = [r[1].run([GODWIT, "migrate", "1", "--to", to], timeout=60, user=login) for to in ("rig9", "rig2")]
	tap.ok(wrong[0].returncode == 2 and "no host 'rig9'" in wrong[0].stderr and "rig1, rig2, rig3" in wrong[0].stderr,
	       "a host that the job does not know is refused", wrong[0])
	tap.ok(wrong[1].returncode == 1 and "on host rig2 already" in wrong[1].stderr, "and one where the rank is", wrong[1])
	tap.ok("iteration" in first and all(m.returncode == 0 for m in moves), "nine moves between three hosts, by numbers of clusters and names of hosts",
	       *[m.stderr for m in moves])
	out, err = rig.finish(p, 90)
	tap.ok(p.returncode == 0 and godwit.checksum(out), "the job ends well", p.returncode, out, err)
	alone = subprocess.run([MPIRUN, "-n", "3", JACOBI], capture_output=True, text=True, timeout=90).stdout
	tap.ok(godwit.checksum(out) == godwit.checksum(alone), "with the result that it has on one host", out, alone)
	nothing_left()

	# ---- a link that is slow: 25 MB/s ----
	p = r[1].popen([MPIRUN, "-hosts", "rig1,rig2", "-n", "1", PYTHON, "-c", HOLDS, os.path.join(r.shared, "stop")], stdout=subprocess.PIPE,
	               stderr=subprocess.PIPE, text=True, user=login)
	rig.hear(p, b"\n", 1, 30)
	at = 0

	def measured(*how):
		global at
		done = r[1].run([GODWIT, "migrate", "0", "--to", str(1 - at), "--json", *how], timeout=60, user=login)
		at = at if done.returncode else 1 - at
		return json.loads(done.stdout)[0]["measures"] if not done.returncode else {"wire_bytes": 0, "bytes": -1, "why": done.stderr}

	fast = [measured()]
	while fast[-1]["wire_bytes"] != fast[-1]["bytes"] and len(fast) < 60:  # a network that gets no core looks like a slow one
		fast.append(measured())
	tap.ok(fast[-1]["wire_bytes"] == fast[-1]["bytes"] > 16 << 20, "over a fast link memory goes plain", fast[-1])
	r[2].link(rate="200mbit")
	slow, plain = measured(), measured("--no-pack")
	r[2].link()
	tap.ok(0 < slow["wire_bytes"] < slow["bytes"] * 0.9 and slow["bytes"] > 16 << 20, "and packed over one that is slow", slow)
	tap.ok(plain["wire_bytes"] == plain["bytes"] > 16 << 20, "but for --no-pack", plain)
	links = [m.get("link") or {} for m in (fast[-1], slow, plain)]
	tap.ok(all(l.get("name") == "eth0" and 0 < l["share"] <= 1 and l["bytes_s"] > 0 for l in links) and
	       links[2]["bytes_s"] < 50e6, "each move tells its share of the link", links)
	with open(os.path.join(r.shared, "stop"), "w"):
		pass
	out, err = rig.finish(p, 60)
	tap.ok(p.returncode == 0 and out.endswith("well\n"), "its memory is as it was", p.returncode, out, err)
	nothing_left()

	# ---- failures, each a sentence ----
	check("a host whose name is unknown", 1, ["host 'nohost'"], ["-hosts", "rig1,nohost", "-n", "2", "true"])
	check("a launcher that does not get through", 1, ["host rig2", "could not be started", "Connection refused"],
	      ["-hosts", "rig2", "-launcher", "ssh -p 9 %h %c", "-n", "1", "true"])
	check("a launcher that is not there", 1, ["host rig2", "/nonexistent/launcher", "No such file"],
	      ["-hosts", "rig2", "-launcher", "/nonexistent/launcher %h %c", "-n", "1", "true"])
	code, out, err = mpirun("-hosts", "rig2", "-launcher", "ssh -o BatchMode=yes -o UserKnownHostsFile=/dev/null -o "
	                        "GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes %h %c", "-n", "1", "true")
	tap.ok(code == 1 and "host rig2" in err and "Host key verification failed" in err, "a host key that is not known", code, err)
	r[2].run(["mount", "-t", "tmpfs", "none", godwit.BUILD], check=True)
	check("a host without Godwit", 1, ["host rig2", "there is no godwitd", "same path"], ["-hosts", "rig2", "-n", "1", "true"])
	r[2].run(["umount", godwit.BUILD], check=True)
	r[2].run(["mount", "--bind", "/dev/null", GODWITD], check=True)
	code, out, err = mpirun("-hosts", "rig2", "-n", "1", "true")
	tap.ok(code == 1 and "host rig2: its daemon could not be started" in err and "Permission denied" in err,
	       "a host where it cannot be executed", code, out, err)
	r[2].run(["umount", GODWITD], check=True)
	other = os.path.join(r.shared, "godwitd")  # the same, but for its version, of which a compiler makes words of four letters
	own_version = subprocess.run([GODWIT, "--version"], capture_output=True, text=True).stdout.split()[-1][:4]
	with open(GODWITD, "rb") as f:
		release = f.read().replace(own_version.encode(), b"9" + own_version.encode()[1:])
	with open(os.open(other, os.O_WRONLY | os.O_CREAT, 0o755), "wb") as f:
		f.write(release)
	r[3].run(["mount", "--bind", other, GODWITD], check=True)
	check("a host with another version", 1, ["host rig3", "it is Godwit " + own_version, "this is Godwit 9" + own_version[1:],
	      "the same is needed on all hosts"],
	      ["-hosts", "rig2,rig3", "-n", "2", "true"])
	p = r[1].run([GODWIT, "up", "--hosts", "rig1,rig2,rig3"], timeout=60, user=login)
	tap.ok(p.returncode == 1 and "host rig3" in p.stderr and "this is Godwit 9" in p.stderr and p.stderr.count("\n") == 1,
	       "nor does a pool come up with one", p.returncode, p.stdout, p.stderr)
	r[3].run(["umount", GODWITD], check=True)
	r[2].run(["cp", "/bin/true", "/tmp/only-here"], check=True)
	check("a host without the program", 127, ["host rig3: cannot run '/tmp/only-here': No such file"],
	      ["-hosts", "rig2,rig3", "-n", "2", "/tmp/only-here"])
	p = r[2].run([GODWITD, "--join=198.51.100.1:1", "--job=1", "--cluster=0"], input="not a secret\n")
	tap.ok(p.returncode == 1 and "not a secret" in p.stderr, "godwitd wants a secret", p.returncode, p.stderr)
	p = r[2].run([GODWITD, "--join=198.51.100.1:1", "--job=1", "--cluster=0"], input="0f" * 32 + "\n")
	tap.ok(p.returncode == 1 and "198.51.100.1:1 from here: Connection refused" in p.stderr, "and somebody who listens",
	       p.returncode, p.stderr)
	nothing_left()

	# ---- strangers ----
	p = begin("-hosts", "rig1,rig2", "-n", "2")
	words = r[1].run(["pgrep", "-af", "^ssh .*--join="]).stdout
	where = words.split("--join=")[1].split()[0]
	job = words.split("--job=")[1].split()[0]
	s = r[3].run([GODWITD, "--join=" + where, "--job=" + job, "--cluster=1"], input="0f" * 32 + "\n")
	tap.ok(s.returncode == 1 and "does not know the secret" in s.stderr, "a daemon with another secret is refused", s.stderr)
	s = r[3].run([GODWITD, "--join=" + where, "--job=%x" % (int(job, 16) ^ 1), "--cluster=1"], input="0f" * 32 + "\n")
	tap.ok(s.returncode == 1 and "another job" in s.stderr, "and one of another job", s.stderr)
	tap.ok(p.poll() is None, "the job goes on")
	r[1].run(["sh", "-c", "kill -INT $(pgrep -x mpirun)"])
	end(p, "until it is interrupted", [130, 2], [])
	nothing_left()

	# ---- while it starts: the daemon of a host is not there yet ----
	with open(other, "w") as f:
		f.write("#!/bin/sh\nexec cat > /dev/null\n")
	for sentence, act, status, says in (
		("Ctrl-C while a host is starting", lambda: r[1].run(["sh", "-c", "kill -INT $(pgrep -x mpirun)"]), [130], []),
		("a host that loses its power while it starts", lambda: r[3].power_off(), [1], ["host rig3 cannot be reached"])):
		r[3].run(["mount", "--bind", other, GODWITD], check=True)
		p = r[1].popen([MPIRUN, "-hosts", "rig2,rig3", "-n", "2", "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
		               user=login)
		starting = godwit.wait_for(lambda: r[3].run(["pgrep", "-x", "cat"]).stdout, 30, 0.1)
		act()
		end(p, sentence, status if starting else [], says)
		if r[3].init:
			r[3].run(["umount", GODWITD], check=True)
		r[3].power_on()
		nothing_left()
	r.start_sshd([r[3]])

	# ---- ends ----
	for sentence, host, script, status, says in (
		("mpirun is killed", 1, "kill -9 $(pgrep -x mpirun)", [-9, 137], []),
		("ssh is killed", 1, "kill -9 $(pgrep -x ssh | tail -1)", [1], ["host rig3", "rank 1"]),
		("a daemon is killed on its host", 3, "kill -9 $(pgrep -x godwitd)", [1], ["host rig3", "rank 1"])):
		p = begin("-hosts", "rig2,rig3", "-n", "2")
		r[host].run(["sh", "-c", script])
		end(p, sentence + ": the job ends", status, says)
		nothing_left()
	p = begin("-hosts", "rig2,rig3", "-n", "2")
	r[3].power_off()
	end(p, "a host without power: the job ends", [1], ["host rig3", "rank 1"])
	r[3].power_on()
	nothing_left()

sys.exit(tap.done())
