# SPDX-License-Identifier: BSD-2-Clause
"""Two jobs whose mpiruns run on different machines connect (-meet): by a port, by a name; ranks of both move meanwhile; what is
refused, what stays behind. --long: a machine that vanishes."""
import argparse, json, os, re, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

a = argparse.ArgumentParser()
a.add_argument("--long", action="store_true")
a = a.parse_args()
tap = godwit.Tap(200)
MPIRUN, GODWIT, SPAWNER = (os.path.join(godwit.BUILD, name) for name in ("mpirun", "godwit", "tests/programs/spawner"))


class Job:
	"""mpirun with a spawner on a host; both kinds of output are one."""

	def __init__(self, host, options, *words, meet=True):
		self.host, self.said = r[host], b""
		self.p = self.host.popen([MPIRUN] + (["-meet", cards] if meet else []) + list(options) + [SPAWNER] + list(words), user=login,
		                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

	def hear(self, words, count=1):
		"""What it has said when it has said @words so often, or when it does not."""
		missing = count - self.said.count(words)
		if missing > 0:
			self.said += rig.hear(self.p, words, missing, 40)
		return self.said.decode(errors="replace") if self.said.count(words) >= count else None

	def port(self):
		self.hear(b"$\n")
		return re.search(r"^port (.*)$", self.said.decode(), re.M).group(1)

	def migrate(self, rank, to):
		"""The move's sentence when it fails"""
		p = self.host.run([GODWIT, "migrate", str(rank), "--to", str(to)], timeout=60, user=login)
		return "" if p.returncode == 0 else p.stdout + p.stderr

	def end(self):
		try:
			self.said += self.p.communicate(timeout=40)[0]
		except subprocess.TimeoutExpired:
			self.kill()
		return self.p.returncode

	def tail(self):
		return self.said.decode(errors="replace")[-1500:]

	def kill(self):
		rig.kill_tree(self.p)
		self.said += self.p.communicate()[0]


def talk(sentence, job, other, moves=()):
	"""They do; some ranks move; then both end, and all sums were right."""
	met = job.hear(b"they talk", 2) and other.hear(b"they talk", 2)
	wrong = [w for w in (j.migrate(rank, to) for j, rank, to in moves) if w] if met else []
	open(stop, "w").close()
	ends = [j.end() for j in (job, other)]
	right = len(re.findall(r"rank \d of 4: \d+ turns, 0 wrong", job.tail() + other.tail()))
	tap.ok(met and not wrong and ends == [0, 0] and right == 4, sentence, wrong, ends, right, job.tail(), other.tail())


def another():
	"""A file that is not there yet"""
	return os.path.join(r.shared, "stop%d" % tap.run)


def cards_there():
	return sorted(os.listdir(cards)) if os.path.isdir(cards) else []


with rig_mpi.hosts_or_skip(3) as r:
	login, cards = rig_mpi.login(r), os.path.join(r.shared, "cards")

	r[1].run("cd /proc/sys/net/ipv6/conf/eth0 && echo 100 > dad_transmits && echo 0 > disable_ipv6 && ip addr add fd00:7::1/64 dev eth0")
	unready = "fd00:7::1/64 scope global tentative" in r[1].run("ip -6 addr show dev eth0").stdout  # for 100 s
	stop = another()
	job = Job(1, ["-n", "2", "-clusters", "2"], "accept", stop)
	port = job.port()
	if unready:
		tap.ok("fd00:7::1" in job.tail() and "others do not find this mpirun there" in job.tail(),
		       "an address that is not ready does not keep a job from listening at others", job.tail())
	else:
		tap.skip("an address that is not ready does not keep a job from listening at others", "there is no IPv6 here")
	r[1].run("echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
	card = os.path.join(cards, cards_there()[0])
	with open(card) as f:
		text = json.load(f)
	secret, number = text["secret"], int.from_bytes(bytes.fromhex(port[-9:-1]), "little")  # the port ends with it
	tap.ok(os.stat(card).st_mode & 0o777 == 0o600 and cards_there() == ["godwit-%08x" % number] and text["host"] == "rig1",
	       "a job has a card, which nobody else reads", cards_there(), port)
	other = Job(3, ["-n", "1"], "connect", stop, port, meet=False)
	tap.ok(other.end() == 0 and "both were started with -meet" in other.tail(), "without -meet a job of another machine is not found", other.tail())
	os.chmod(card, 0o644)
	other = Job(3, ["-n", "1"], "connect", stop, port)
	tap.ok(other.end() == 0 and "is not a file that this user, and nobody else" in other.tail(), "nor by a card that others may have read", other.tail())
	os.chmod(card, 0o600)
	with open(card, "w") as f:
		json.dump(dict(text, ways=["nowhere"] + text["ways"]), f)  # there is another one: they meet
	other = Job(3, ["-n", "2", "-clusters", "2"], "connect", stop, port)
	met = other.hear(b"they talk", 2)
	seen = [h.name for h in r.hosts if secret in h.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout]
	talk("two jobs of one machine each talk, and ranks of both move", job, other, [(job, 1, 0), (other, 0, 1), (job, 1, 1), (other, 0, 0)])
	tap.ok(met and not seen and secret not in job.tail() + other.tail(), "and no command line, and nothing that they say, has a secret", seen)
	tap.ok(cards_there() == [], "their cards go with them", cards_there())

	name = "godwit test %d" % os.getpid()
	stop = another()
	job = Job(1, ["-n", "2", "-hosts", "rig1,rig2"], "accept", stop, name)
	job.port()
	other = Job(3, ["-n", "2"], "lookup", stop, name)
	talk("a name that another machine's job has published is found; that job has two hosts", job, other, [(job, 1, "rig1"), (job, 0, "rig2")])

	stop = another()
	job = Job(1, ["-n", "2", "-hosts", "rig2"], "accept", stop)
	other = Job(3, ["-n", "2"], "connect", stop, job.port())
	job.hear(b"they talk", 2)
	p = r[1].run([GODWIT, "add", "rig1"], timeout=60, user=login)
	tap.ok(p.returncode == 0, "one whose only host is not that of its mpirun gets a second one", p.stdout, p.stderr)
	talk("and ranks move there and back while it talks to another", job, other, [(job, 1, "rig1"), (job, 1, "rig2")])

	stop = another()
	job = Job(1, ["-n", "1"], "accept", stop)
	other = Job(3, ["-n", "1"], "connect", stop, job.port())
	job.hear(b"they talk")
	other.hear(b"they talk")
	if a.long:
		r[1].cut()
		tap.ok(other.hear(b"or its machine cannot be reached any more"), "a machine that vanishes is told of", other.tail())
		r[1].restore()
	other.kill()
	job.kill()
	# as a machine that failed leaves them, also in the middle of writing one; those of killed mpiruns may have gone with them
	r[2].run("umask 077; echo {} > %s/godwit-0000beef; echo {} > %s/godwit-0000cafe.new" % (cards, cards), user=login)
	left = cards_there()
	job = Job(2, ["-n", "1"], "lookup", stop, "no such name")
	tap.ok(job.end() == 0 and "lookup failed: " in job.tail() and len(left) >= 2 and cards_there() == [],
	       "cards that were left behind go with the next job", left, cards_there(), job.tail())
	found = rig_mpi.left(r.hosts, "godwitd|mpirun|ssh")
	tap.ok(not found, "nothing is left on any host", *found)
sys.exit(tap.done())
