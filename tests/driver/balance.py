#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Jobs whose ranks are moved so that they get faster: by mpirun -balance, and by godwit rebalance."""
from godwit import *

tap = Tap(240)
work = work_dir("balance")
UNEVEN = os.path.join(BUILD, "tests/programs/uneven")
GODWIT = os.path.join(BUILD, "godwit")
# four packages, of processors that are none of this machine's: what others compute here does not count for a plan
PACKAGES = {"HWLOC_SYNTHETIC": "pack:4 core:1 pu:1(indexes=1020,1021,1022,1023)"}


def godwit(job, *words):
	p = subprocess.run([GODWIT, words[0], "--job", job.head_name().split("/")[-2]] + [str(w) for w in words[1:]], capture_output=True, text=True,
	                   timeout=60)
	return p.returncode, p.stdout, p.stderr


def start(*words, ranks=8, units=5, heavy=3, size=0, **more):
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-n", ranks] + list(words) + [UNEVEN, stop, units, heavy, size], **more)
	if not job.wait_line(r"^steps", 60, "out"):
		tap.bail("the job does not compute")
	return job, job.head(), stop


def expected(steps, ranks, units, heavy):
	"""What the program has computed after so many steps: its generator, jumped ahead."""
	a, c, mask = 6364136223846793005, 1442695040888963407, (1 << 64) - 1

	def jump(n):
		mul, add, m, k = 1, 0, a, c
		while n:
			if n & 1:
				mul, add = mul * m & mask, (add * m + k) & mask
			k, m, n = (m + 1) * k & mask, m * m & mask, n >> 1
		return mul, add

	jumps = [jump(units * (heavy if r < ranks // 2 else 1) * 40000) for r in range(ranks)]
	x, total = list(range(1, ranks + 1)), 0
	for _ in range(steps):
		x = [(v * m + k) & mask for v, (m, k) in zip(x, jumps)]
		both = 0
		for v in x:
			both ^= v
		total = (total * 31 + both) & mask
	return total


def end(job, stop, sentence, ranks=8, units=5, heavy=3):
	open(stop, "w").close()
	status = job.wait(60)
	line = [l for l in job.out("out") if l.startswith("checksum")]
	value = re.match(r"checksum (\w+) after (\d+) steps", line[0]) if line else None
	tap.ok(status == 0 and value and int(value.group(1), 16) == expected(int(value.group(2)), ranks, units, heavy), sentence,
	       status, line, job.tail())


def balance_of(head):
	return head.status()["balance"]


def clusters(head):
	return [r["cluster"] for r in head.status()["ranks"]]


def heavy_on(head, cluster, ranks=8):
	return clusters(head)[:ranks // 2].count(cluster)


# ---- what was recorded: the loads of examples/drift, 64 ranks, in 40 stretches
for move_s in (0.02, 0.05, 0.1):
	p = subprocess.run([os.path.join(BUILD, "runtime/balance/replay_balance"), "move=%g" % move_s,
	                    os.path.join(os.environ["top_srcdir"], "tests/traces/drift-loads.json")], capture_output=True, text=True, timeout=60)
	m = re.search(r"(\d+) % of its gain", p.stdout)
	tap.ok(m and int(m.group(1)) >= 75, "replayed, balancing gains what an oracle would of a load that wanders, but for a quarter: "
	       "moves take %g s" % move_s, p.stdout, p.stderr)

if not can_move():
	tap.skip("ranks are balanced", "ranks cannot move here")
	tap.done()

# ---- by itself
EVENTS = os.path.join(work, "events")
job, head, stop = start("-clusters", 2, "-balance", "refine", "-balance-every", "1s", events=EVENTS)
tap.ok(wait_for(lambda: heavy_on(head, 0) == 2, 60, 0.1), "of four ranks with three times the work of the others two move away from the other two",
       balance_of(head), clusters(head), job.tail())


def is_told(b): # moves count when the whole plan is done
	return b["moved"] > 0 and b["looks"] > 1 and min(b["loads"][:4]) > 1.5 * max(b["loads"][4:])


tap.ok(wait_for(lambda: is_told(balance_of(head)), 30, 0.1), "status tells the loads, in which waiting does not count", balance_of(head))
with open(EVENTS) as f:
	plans = [e["moves"] for e in map(json.loads, f.read().split("\n")[:-1]) if e["event"] == "bal.plan"]
tap.ok(plans and plans[0] == 0 and any(plans), "what the first interval alone says moves nobody", plans)
code, out, err = godwit(job, "rebalance", "--strategy", "quick")
tap.ok(code in (1, 2) and "there is no strategy 'quick'" in err, "a strategy that there is not is refused by name", code, out, err)
end(job, stop, "and the answer is that of a job that was left alone")

# ---- when asked
job, head, stop = start("-clusters", 2)
code, out, err = godwit(job, "rebalance", "--dry-run", "--json", "--snapshot", os.path.join(work, "snapshot"))
plan = json.loads(out) if code == 0 else {}
with open(os.path.join(work, "snapshot")) as f:
	seen = json.load(f)
tap.ok(len(seen["ranks"]) == 8 and [c["domain"] for c in seen["clusters"]] and all(r["load"] >= 0 for r in seen["ranks"]) and
       "snapshot" not in plan, "--snapshot writes down what was measured", seen, plan)
tap.ok(code == 0 and plan["dry_run"] and all(r["epoch"] == 0 for r in head.status()["ranks"]) and plan["peak_planned"] <= plan["peak"],
       "godwit rebalance --dry-run tells a plan and moves nobody", code, out, err)
for _ in range(10):
	code, out, err = godwit(job, "rebalance", "--strategy", "greedy")
	if heavy_on(head, 0) == 2:
		break
tap.ok(heavy_on(head, 0) == 2, "godwit rebalance makes one, and moves", code, out, err, clusters(head))
tap.ok(code == 0 and ("moved from cluster" in out or "no move" in out), "and says what it did", code, out, err)
where = clusters(head)
subprocess.run([GODWIT, "pin", "--job", job.head_name().split("/")[-2]] + [str(r) for r in range(8)], capture_output=True, timeout=60)
code, out, err = godwit(job, "rebalance", "--strategy", "consolidate")
tap.ok(code == 0 and "no move" in out and clusters(head) == where,
       "pinned ranks stay, and that no rank moves is said", code, out, err)
head.send({"op": "suspend"})
head.receive()
code, out, err = godwit(job, "rebalance")
tap.ok(code in (1, 2) and "suspended" in err, "a suspended job is not balanced", code, out, err)
head.send({"op": "resume"})
head.receive()
end(job, stop, "nor does asking change the answer")

# ---- those who talk much
job, head, stop = start("-launcher", "fork", "-hosts", "here:4,there:4", heavy=1, size=200000)
far = None
for _ in range(12):
	code, out, err = godwit(job, "rebalance", "--strategy", "comm", "--json")
	plan = json.loads(out) if code == 0 else {}
	far = far or plan.get("far_bytes_s")
	where = clusters(head)
	if all(where[r] == where[r + 4] for r in range(4)):
		break
tap.ok(all(where[r] == where[r + 4] for r in range(4)), "comm brings those who talk much to the same host", where, far, out, err)
code, out, err = godwit(job, "rebalance", "--strategy", "comm", "--dry-run", "--json")
code, out, err = godwit(job, "rebalance", "--strategy", "comm", "--dry-run", "--json")
plan = json.loads(out) if code == 0 else {"far_bytes_s": 1e99}
tap.ok(far and plan["far_bytes_s"] < 0.3 * far, "and what they send between hosts falls by more than 70 %", far, plan)
end(job, stop, "with the same answer", heavy=1)

# ---- and within each of several hosts: of four packages each has two, and each of those two clusters
job, head, stop = start("-launcher", "fork", "-hosts", "here:4,there:4", "-clusters", 4, units=1, heavy=1, size=1000000, env=PACKAGES)
for rank, to in ((2, 4), (3, 5), (4, 2), (5, 3)):
	head.migrate([rank], to)


def pairs(where):
	"""How many of those who talk much are in the same package: none at first."""
	return sum(where[r] // 2 == where[r + 4] // 2 for r in range(4))


before, where = clusters(head), []
for _ in range(12):
	code, out, err = godwit(job, "rebalance", "--strategy", "comm")
	where = clusters(head)
	if pairs(where) == 4:
		break
tap.ok(before == [0, 1, 4, 5, 2, 3, 6, 7] and pairs(before) == 0 and pairs(where) == 4,
       "of those who talk much on the same host, but in different packages, each pair comes to the same package", before, where, out, err)
end(job, stop, "and computes what it did", units=1, heavy=1)

# ---- daemons that die amid a plan
def amid(*words):
	"""A job of which four clusters of a host each are to get a part, whose first move stands still: its daemon is stopped."""
	job, head, stop = start("-launcher", "fork", "-hosts", "a:12,b:12,c:12,d:12", *words, ranks=12, heavy=1,
	                        env=dict(PACKAGES, GODWIT_FAULT="mig.src.prepared=stop"))
	head.wait_up()
	pids = [c["pid"] for c in head.status()["clusters"]]
	asker = None if words else subprocess.Popen([GODWIT, "rebalance", "--job", job.head_name().split("/")[-2]], stdout=subprocess.PIPE,
	                                            stderr=subprocess.PIPE, text=True)
	begun = wait_for(lambda: proc_stat(pids[0])[0] == "T" and head.status()["moves"]["under_way"], 60)
	if not begun:
		tap.bail("no plan is carried out: %s" % balance_of(head))
	to = [m["to"] for m in begun]
	return job, head, stop, pids, asker, min(set(to), key=to.count)


def answer(asker):
	try:
		out, err = asker.communicate(timeout=60)
		return asker.returncode, out, err
	except subprocess.TimeoutExpired:
		asker.kill()
		return None, "", "no answer"


job, head, stop, pids, asker, _ = amid()
os.kill(pids[0], 9)
status, (code, out, err) = job.end(60), answer(asker)
tap.ok(status == 137 and "and ranks 0, 1, 2" in "".join(job.out("err")) and code not in (0, None) and err and not job.gone(),
       "a daemon that dies amid a plan ends the job of its ranks, and who asked for the plan hears of it", status, code, out, err, job.tail())

job, head, stop, pids, asker, victim = amid()
os.kill(pids[victim], 9)
os.kill(pids[0], signal.SIGCONT)
lost = job.wait_line("no rank lived there, the job goes on", 60, "err")
code, out, err = answer(asker)
where = clusters(head)
tap.ok(lost and code not in (0, None) and "cluster %d is not up: it was lost" % victim in err and "moved from cluster 0" in out and
       victim not in where and len(set(where)) == 3, "of one where ranks were to go, it is said which stay for that, and the others move", victim,
       where, code, out, err, job.tail())
end(job, stop, "and the job goes on to its end", ranks=12, heavy=1)

job, head, stop, pids, asker, victim = amid("-balance", "refine", "-balance-every", "1s")
os.kill(pids[victim], 9)
os.kill(pids[0], signal.SIGCONT)
lost = job.wait_line("no rank lived there, the job goes on", 60, "err")
tap.ok(lost and wait_for(lambda: sum(2 <= clusters(head).count(c) <= 7 for c in range(4)) == 3, 60, 0.1) and victim not in clusters(head),
       "what is left of the clusters is balanced after it, when nobody has asked", clusters(head), balance_of(head), job.tail())
end(job, stop, "with the same answer", ranks=12, heavy=1)

# ---- words
for words, text in (([("-balance"), "fast"], "there is no strategy 'fast'"), (["-balance-every", "5s"], "needs -balance"),
                    (["-balance", "refine", "-balance-every", "500ms"], "the shortest time is 1s")):
	p = subprocess.run([os.path.join(BUILD, "mpirun")] + words + ["-n", "1", "true"], capture_output=True, text=True, timeout=60)
	tap.ok(p.returncode != 0 and text in p.stderr, "mpirun %s is refused: %s" % (" ".join(words), text), p.returncode, p.stderr)
tap.done()
