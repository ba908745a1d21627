#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Jobs whose clusters lie as a machine file says: mpirun -machine. --long: all kernels of CAP Bench, with more moves."""
import argparse

from godwit import *

parser = argparse.ArgumentParser()
parser.add_argument("--long", action="store_true")
LONG = parser.parse_args().long

tap = Tap(900 if LONG else 120)
work = work_dir("machine")
GODWIT, MPIRUN = os.path.join(BUILD, "godwit"), os.path.join(BUILD, "mpirun")
NEIGHBOURS = os.path.join(BUILD, "tests/programs/neighbours")
# work for some tenths of a second, and for some seconds with --long
KERNELS = {
	"fast": ["--size", 512, "--pictures", 150 if LONG else 6],
	"is": ["--size", 300000, "--rounds", 100 if LONG else 4],
	"lu": ["--size", 240 if LONG else 120, "--matrices", 40 if LONG else 2],
	"tsp": ["--size", 19, "--seed", 3] if LONG else ["--size", 15],
}
if LONG:
	KERNELS.update(friendly=["--size", 600000, "--piece", 500], gauss=["--size", 640, "--passes", 40], kmeans=["--size", 120000])


def machine_file(text):
	path = os.path.join(work, uuid.uuid4().hex)
	with open(path, "w") as f:
		f.write(text)
	return path


def run(*words):
	p = subprocess.run([MPIRUN] + [str(w) for w in words], capture_output=True, text=True, timeout=250 if LONG else 60)
	return p.returncode, p.stdout, p.stderr


def godwit(job, *words):
	p = subprocess.run([GODWIT, words[0], "--job", job.head_name().split("/")[-2]] + [str(w) for w in words[1:]], capture_output=True, text=True,
	                   timeout=60)
	return p.returncode, p.stdout, p.stderr


def start(*words):
	"""A job that exchanges with neighbours until the file that is returned is there."""
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, list(words) + [NEIGHBOURS, stop])
	if not job.wait_line(r"^places", 60, "out"):
		tap.bail("the job does not compute")
	return job, job.head(), stop


def end(job, stop, sentence):
	open(stop, "w").close()
	status = job.end(60)
	tap.ok(status == 0 and any("all right" in l for l in job.out("out")) and not job.gone(), sentence, status, *job.tail())


def ranks_on(head):
	return [r["cluster"] for r in sorted(head.status()["ranks"], key=lambda r: r["rank"])]


RING = [[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]]


# ---- twenty clusters of one host
job, head, stop = start("-machine", "mppa256", "-n", 18)
clusters = head.clusters()
tap.ok(len(clusters) == 20 and [c for c in clusters if clusters[c]["kind"] == "service"] == [16, 17, 18, 19],
       "-machine mppa256 makes 16 clusters to compute and 4 for services", clusters)
tap.ok(clusters[5]["service"] in (16, 18) and clusters[15]["service"] in (17, 19),
       "and says which service cluster is the nearest to each by the control network", clusters)
tap.ok(sorted(set(ranks_on(head))) == list(range(16)), "ranks begin on clusters to compute only", ranks_on(head))
table = godwit(job, "status")[1]
tap.ok(table.count("services") == 4, "godwit status tells them apart", table)
if can_move():
	answer = head.migrate([0], 17)[0]
	tap.ok(answer["status"] == 0 and ranks_on(head)[0] == 17, "a rank goes to a service cluster when it is told to", answer)
	answer = head.drain(17)
	tap.ok(answer["status"] == 0 and ranks_on(head)[0] < 16, "and not by itself: one that is drained is emptied into others", answer, ranks_on(head))
	head.undrain(17)
	answer = head.drain(*range(16), timeout_ms=5000)
	tap.ok(answer["status"] < 0 and "no place" in answer["text"], "nor when all others are drained", answer)
end(job, stop, "and the job's answer is right")

# ---- over hosts, each with its part of the machine
job, head, stop = start("-machine", "mppa256", "-launcher", "fork", "-hosts", "west,east,south", "-n", 16)
clusters = head.clusters()
tap.ok([[c for c in clusters if clusters[c]["hostname"] == h] for h in ("west", "east", "south")] ==
       [list(range(6)), list(range(6, 13)), list(range(13, 20))] and ranks_on(head) == list(range(16)),
       "twenty clusters lie over three hosts one after the other", clusters, ranks_on(head))
end(job, stop, "which compute together")

# ---- mpirun itself
cpus = sorted(os.sched_getaffinity(0))
if len(cpus) < 2:
	tap.skip("mpirun is bound to the service clusters", "there is one processor")
else:
	path = machine_file('{"mesh": [1], "more": 1, "links": [[0, 1]], "services": [1], "cores": [%d, 1]}' % (len(cpus) - 1))
	job, head, stop = start("-machine", path, "-n", 2)
	own = set(head.clusters()[1]["cores"])
	tap.ok(os.sched_getaffinity(job.proc.pid) == own and not own & set(head.clusters()[0]["cores"]),
	       "mpirun runs on the processors of service clusters where these have some of their own", os.sched_getaffinity(job.proc.pid),
	       head.clusters())
	end(job, stop, "and ranks on the others")

# ---- neighbours come together, hops counted
if not can_move():
	tap.skip("heavy neighbours come to the same cluster of a torus", "ranks cannot move here")
else:
	# four clusters in a ring
	path = machine_file('{"torus": [2, 2], "link_mb_s": 20}')
	job, head, stop = start("-machine", path, "-n", 16)
	before = step_bytes(job, ranks_on(head), lambda a, b: RING[a][b])
	code, out, err = godwit(job, "rebalance", "--strategy", "comm", "--json")
	plan = json.loads(out) if code == 0 else {}
	if "no partitioner" in out + err:
		tap.skip("heavy neighbours come to the same cluster of a torus", "this build has no partitioner")
	else:
		after = step_bytes(job, ranks_on(head), lambda a, b: RING[a][b])
		tap.ok(plan and len(plan["moves"]) > 0 and after < 0.3 * before,
		       "in a torus with 16 shuffled ranks, bytes times hops of a step fall by at least 70 %", before, after, plan, err)
		tap.ok(plan and plan["hop_bytes_s_planned"] < 0.3 * plan["hop_bytes_s"], "as the plan says", plan)
		tap.diag("from %.2f to %.2f MB times hops in a step, by %d moves" % (before / 1e6, after / 1e6, len(plan.get("moves", []))))
	end(job, stop, "with the right answer")

# ---- two packages, as hwloc is told
if not can_move() or len(cpus) < 2 or min(cpus) > 0:
	tap.skip("neighbours come to the same package", "ranks cannot move here, or there are no processors 0 and 1")
else:
	stop = os.path.join(work, uuid.uuid4().hex)
	job = Job(tap, ["-clusters", 4, "-n", 8, NEIGHBOURS, stop, 400000], env={"HWLOC_SYNTHETIC": "pack:2 core:1 pu:1", "HWLOC_THISSYSTEM": "1"})
	if not job.wait_line(r"^places", 60, "out"):
		tap.bail("the job does not compute")
	head = job.head()
	code, out, err = godwit(job, "rebalance", "--strategy", "comm", "--dry-run", "--json")
	plan = json.loads(out) if code == 0 else {}
	if "no partitioner" in out + err:
		tap.skip("packages count when ranks are brought together", "this build has no partitioner")
	else:
		tap.ok(plan and plan["hop_bytes_s"] > 2 * plan["far_bytes_s"] > 0, "what goes to another package counts for more hops", plan, err)
	end(job, stop, "and the job's answer is right")

# ---- the kernels of CAP Bench
for name, args in KERNELS.items():
	program = os.path.join(BUILD, "examples", name)
	moves, n = 0, 16 if LONG else 5
	for attempt in range(10):  # a job that is this short may end before a rank has moved: then it computes more
		if attempt < 6:
			if attempt:
				args = args[:-1] + [args[-1] + 1 if name == "tsp" else 2 * args[-1]]
			code, out, err = run("-n", 1, program, *args, "--quiet")
			alone = checksum(out)
		job = Job(tap, ["-machine", "mppa256", "-n", n, program] + args + ["--quiet"])
		mover = Mover(job, n, 20, seed=len(name), pace_ms=20) if can_move() and job.wait_head() else None
		status = job.end(300)
		if mover:
			mover.finish()
		moves += len(mover.moves) if mover else 0
		is_right = status == 0 and checksum("\n".join(job.out("out"))) == alone
		is_moved = moves >= (20 if LONG else 1)
		if not is_right or is_moved or not can_move():
			break
	tap.ok(code == 0 and alone and is_right and (is_moved or not can_move()), "%s over mppa256 computes what one rank does alone (%d moves)" % (
	       name, moves), out, err, *job.tail())

# ---- words
for words, text in ((["-machine", "no-such"], "there is no machine 'no-such' (mesh3x4, mppa256, torus4x4, tree2x4)"),
                    (["-machine", machine_file('{\n"torus": [4,\n"x"]}')], "line 3: \"torus\" has a number that is not one"),
                    (["-machine", "tree2x4", "-clusters", "2"], "exclude each other"),
                    (["-machine", machine_file('{"mesh": [2]}'), "-launcher", "fork", "-hosts", "a,b,c"], "has 2 clusters, too few for 3 hosts")):
	code, out, err = run(*words, "-n", 1, "true")
	tap.ok(code != 0 and text in err, "mpirun is told what is wrong: %s" % text, code, err)
sys.exit(tap.done())
