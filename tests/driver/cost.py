#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What a move says that it has cost: how much slower the rank was, and what share of the link was its memory."""
from godwit import *

tap = Tap(170)
work = work_dir("cost")
GODWIT = os.path.join(BUILD, "godwit")
STORM = os.path.join(BUILD, "tests/storm/storm")
HOSTS = ["-launcher", "fork", "-hosts"]
# it computes until there is a file, then rests until there is another; and holds 24 MiB
SPIN = """import os, sys, time

memory = bytearray(os.urandom(1 << 20)) * 24
def compute(until):
	while not until():
		sum(range(1000))
compute(lambda: os.times().user > 0.4)
print("computes", flush=True)
compute(lambda: os.path.exists(sys.argv[1]))
print("rests", flush=True)
while not os.path.exists(sys.argv[1] + ".end"):
	time.sleep(0.01)
"""


def user_s(pid):
	with open("/proc/%d/stat" % pid) as f:
		return int(f.read().rsplit(")", 1)[1].split()[11]) / os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
	with open("/proc/%d/schedstat" % pid) as f:
		return int(f.read().split()[0]) / 1e9


def moved(job, rank, to, technique, bandwidth):
	m = job.head().migrate([rank], to, technique=technique, bandwidth=bandwidth)[0]
	tap.ok(m["status"] == 0, "rank %d moves by %s" % (rank, technique), m["text"], *job.tail())
	return m.get("measures") or {}


# ---- the rank ----------------------------------------------------------------------------------------------------------------

stop = os.path.join(work, "stop")
job = Job(tap, ["-n", 1, "-clusters", 2, sys.executable, "-c", SPIN, stop])
job.wait_line("^computes", 60)
everywhere, daemon = os.sched_getaffinity(0), job.head().status()["clusters"][0]["pid"]
at_home, seen, is_over = os.sched_getaffinity(daemon), set(), threading.Event()


def look():
	while not is_over.wait(0.002):
		seen.add(frozenset(os.sched_getaffinity(daemon)))


looker = threading.Thread(target=look)
looker.start()
m = moved(job, 0, 1, "pre-copy", 50000000)
is_over.set()
looker.join()
if at_home == everywhere:
	tap.skip("its daemon sends rounds on any core", "there is one core")
else:
	elsewhere = {frozenset(everywhere), frozenset(everywhere - at_home)} # without the cluster's when another core is free
	tap.ok(seen & elsewhere and os.sched_getaffinity(daemon) == at_home, "while it sends rounds its daemon may use a core that is free, and only "
	       "its cluster's afterwards", at_home, seen)
tap.ok(m.get("rounds") and m["cores_before"] > 0 and m["cores_meanwhile"] > 0 and m["slowdown"] < 1 and
       abs(m["slowdown"] - (1 - m["cores_meanwhile"] / m["cores_before"])) < 1e-6,
       "one that computes all the time: its cores before and meanwhile are told", m)
tap.ok("link" in m and m["link"] is None, "no share of a link, where nobody counts what else goes over it", m.get("link"))
wait_for(lambda: user_s(job.head().ranks()[0]["pid"]) > 0.3)
open(stop, "w").close()
job.wait_line("^rests", 60)
p = subprocess.run([GODWIT, "migrate", "0", "--to", "0", "--technique", "post-copy" if "post-copy" in can_move() else "pre-copy",
                    "--bandwidth", "50M", "--job", job.head_name().split("/")[2]], capture_output=True, text=True, timeout=60)
found = re.search(r"meanwhile the rank had (\S+) cores instead of (\S+) \((\d+)% slower\)", p.stdout)
tap.ok(p.returncode == 0 and found and float(found.group(2)) > 0 and int(found.group(3)) > 50, "one that rests meanwhile: that is seen, and in "
       "the line of godwit migrate", p.stdout, p.stderr)
p = subprocess.run([GODWIT, "migrate", "0", "--to", "1", "--technique", "pre-copy", "--bandwidth", "50M", "--no-pack", "--json", "--job",
                    job.head_name().split("/")[2]], capture_output=True, text=True, timeout=60)
plain = json.loads(p.stdout)[0].get("measures", {}) if p.returncode == 0 else {}
tap.ok(0 < m["wire_bytes"] < m["bytes"] and 0 < plain.get("wire_bytes", 0) == plain["bytes"], "over a link of which little may be taken its memory "
       "goes packed, and by --no-pack plain", m, p.stdout, p.stderr)
open(stop + ".end", "w").close()
tap.ok(job.end(40) == 0 and not job.gone(), "it ends well", *job.tail())

# ---- who waits for messages on the cluster that it goes to --------------------------------------------------------------------

stop = os.path.join(work, "stop-waits")
job = Job(tap, ["-n", 2, "-clusters", os.cpu_count(), os.path.join(BUILD, "tests/bench/downtime"), stop, "64"])
job.wait_line("^ready rank=1", 60)
head, waiting = job.head(), job.head().ranks()[0]["pid"]
if len({r["cluster"] for r in head.ranks().values()}) < 2:
	tap.skip("who waits where a rank goes to leaves its core to the daemons", "there is one core")
else:
	began, had = time.monotonic(), cpu_s(waiting)
	wait_for(lambda: time.monotonic() - began > 0.3)
	alone = (cpu_s(waiting) - had) / (time.monotonic() - began)
	began, had = time.monotonic(), cpu_s(waiting)
	m = moved(job, 1, head.ranks()[0]["cluster"], "pre-copy", 50000000)
	meanwhile = (cpu_s(waiting) - had) / (time.monotonic() - began)
	tap.ok(alone > 0 and meanwhile < 0.3 * alone, "who waits where a rank goes to leaves its core to the daemons while memory goes in rounds",
	       alone, meanwhile, m.get("phases"))
head.close()
open(stop, "w").close()
tap.ok(job.end(40) == 0 and not job.gone(), "that job ends well", *job.tail())

# ---- a rank that is to go on evenly where no core is free --------------------------------------------------------------------

stop = os.path.join(work, "stop-evenly")
job = Job(tap, ["-n", 1] + HOSTS + ["a,b", os.path.join(BUILD, "tests/bench/downtime"), stop, "128"])
job.wait_line("^ready rank=0", 60)
others = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count())]
try:
	m = moved(job, 0, 1, "pre-copy", 0)
	tap.ok(m.get("rested_ns") == 0 and m["waited"] is not None, "rounds do not rest, and it is told what they cost the rank", m)
	p = subprocess.run([GODWIT, "migrate", "0", "--to", "0", "--technique", "pre-copy", "--max-slowdown", "5%", "--json", "--job",
	                    job.head_name().split("/")[2]], capture_output=True, text=True, timeout=90)
	m = json.loads(p.stdout)[0].get("measures", {}) if p.returncode == 0 else {}
	tap.ok(m and 0 < m["rested_ns"] < m["phases"]["rounds_ns"] and m["round_bytes_s"] > 128 << 20, "by --max-slowdown they rest, and the rate that "
	       "is told is that without rests", m, p.stdout, p.stderr)
finally:
	for other in others:
		other.kill()
		other.wait()
m = moved(job, 0, 1, "stop-and-copy", 0)
tap.ok(m.get("rested_ns") == 0 and m["waited"] is None, "no rounds, no rest", m)
open(stop, "w").close()
tap.ok(job.end(40) == 0 and not job.gone(), "that job ends well", *job.tail())

# ---- the link ----------------------------------------------------------------------------------------------------------------

for what, name, places in (("memory", "memory", ["-clusters", 3]), ("the network", "lo", HOSTS + ["a,b,c"])):
	stop = os.path.join(work, "stop-" + name)
	job = Job(tap, ["-n", 2] + places + [STORM, "--stop-file", stop, "--progress"])
	job.wait_line("^STORM step=", 60)
	m = moved(job, 0, 2, "pre-copy", 8000000)
	link = m.get("link") or {}
	tap.ok(link.get("name") == name and 0 < link["share"] < 1 and link["bytes_s"] > 0 and link["others_bytes_s"] > 0,
	       "over %s, while messages go over it: its share of what went" % what, m)
	moved(job, 0, 0, "stop-and-copy", 0)
	job.wait_line("^STORM step=", 60, "out", len([l for l in job.out() if l.startswith("STORM step=")]) + 2)
	m = moved(job, 0, 2, "pre-copy", 8000000)
	tap.ok(m.get("link") and m["link"]["others_bytes_s_before"] > 0, "and what went there before, since the last move from there", m.get("link"))
	open(stop, "w").close()
	tap.ok(job.end(60) == 0 and not job.gone(), "that job ends well", *job.tail())

# ---- how long it was expected to stand, as soon as there was something to learn from
for what, places in (("on one host", ["-clusters", 3]), ("between hosts", HOSTS + ["a,b,c"])):
	stop, off = os.path.join(work, "stop%d" % tap.run), collections.defaultdict(list)
	job = Job(tap, ["-n", 2] + places + [os.path.join(BUILD, "tests/programs/conduct"), "carry", 2, stop])
	job.wait_line("^ready", 60, "out", 2)
	head = job.head()
	head.wait_up()
	for turn in range(48):
		technique = ("stop-and-copy", "pre-copy", "post-copy", "hybrid")[turn % 4]
		m = head.migrate([1], 1 + (head.ranks()[1]["cluster"] == 1), technique=technique)[0]
		last = max(head.status()["moves"]["last"], key=lambda move: move["time"])
		if m["status"] == 0 and turn >= 12 and last["predicted_ns"]:
			off[technique].append(last["downtime_ns"] / last["predicted_ns"])
	found = {t: round(median(v), 2) for t, v in off.items()}
	tap.ok(len(found) == 4 and all(0.5 < v < 1.65 for v in found.values()), "%s pauses are about as long as predicted, by each technique" % what, off)
	tap.diag("measured by predicted: %s" % found)
	end_carry(job, stop, "and that job ends well", 2)

sys.exit(tap.done())
