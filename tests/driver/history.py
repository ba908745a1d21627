#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A made history of a job, in the lines that mpirun records: history.py FILE [RANKS CLUSTERS MOVES SECONDS SEED]

For what no test can wait for: days, thousands of ranks, ten thousands of moves. Clusters are full for a while, the balancer looks and
moves, checkpoints are written, a host leaves and one comes, some moves fail. Names are as bad as names can be.
"""
import json, math, random, sys

HOSTILE = "<script>alert('%d')</script>\"><img src=x onerror=alert(1)>\u202e"
TECHNIQUES = (("stop-and-copy", 4e6), ("pre-copy", 2e6), ("post-copy", 1.2e6), ("hybrid", 1e6))


def runs(where):
	"""[0, 0, 1] -> [[2, 0], [1, 1]]"""
	out = []
	for c in where:
		if out and out[-1][1] == c:
			out[-1][0] += 1
		else:
			out.append([1, c])
	return out


def made(write, ranks=4096, clusters=512, moves=40000, seconds=2 * 86400, seed=1, job="0badcafe", samples=1500):
	rng = random.Random(seed)
	began = 1700000000 * 10**9
	where = [r * clusters // ranks for r in range(ranks)]
	weight = [1 + 2 * (r < ranks // 2) + rng.random() for r in range(ranks)]
	cores = [max(1, ranks // clusters)] * clusters
	gone = set()
	epoch = [0] * ranks

	def say(t, event, **fields):
		write(json.dumps(dict({"event": event, "t": began + int(t * 1e9), "who": "mpirun", "pid": 4711}, **fields),
		                 separators=(",", ":"), ensure_ascii=False) + "\n")

	say(0, "job.started", job=job, ranks=ranks, clusters=clusters, record=1, version="0.1.0", balance="refine",
	    programs=[{"words": "./wave " + HOSTILE % 0, "ranks": ranks}], places=runs(where))
	for c in range(clusters):
		say(0.01 + c * 1e-5, "cluster.ready", cluster=c, name="node%03d" % (c // 2) if c else HOSTILE % 1, place=c // 2, cores=cores[c], domain=c)
	agenda = sorted([(i * seconds / samples + 1, "look") for i in range(samples)] +
	                [(rng.random() ** 1.5 * seconds * 0.98 + 1, "move") for _ in range(moves)] +
	                [((i + 1) * seconds / 13, "checkpoint") for i in range(12)] + [(seconds * 0.4, "drain"), (seconds * 0.7, "undrain")])
	done = last = 0
	for t, what in agenda:
		if what == "look":
			load, count = [0.0] * clusters, [0] * clusters
			for r in range(ranks):
				load[where[r]] += weight[r]
				count[where[r]] += 1
			scale = 3.2 * ranks / clusters  # a full cluster
			ages = 0.75 + 0.2 * math.sin(t / seconds * 20)
			say(t, "load.seen", load=[None if c in gone else int(1000 * cores[c] * min(1, ages * load[c] / scale)) for c in range(clusters)],
			    busy=[int(900 * cores[c]) for c in range(clusters)], ranks=count)
			peak = min(1, ages * max(load) / scale)
			say(t, "bal.plan", strategy="refine", moves=done - last, peak=peak, planned=max(0.3, peak * 0.93), predicted=peak,
			    gain_s=60 * peak * 0.07, cost_s=0.008 * (done - last), words="made")
			if done > last:
				say(t + 0.5, "bal.done", steps=done - last, moved=done, failed=0)
			last = done
		elif what == "move":
			heavy = rng.randrange(ranks // 2) if rng.random() < 0.7 else rng.randrange(ranks)
			to = rng.randrange(clusters)
			at = where[heavy]
			if to == at or to in gone:
				continue
			technique, pause = TECHNIQUES[rng.randrange(4)]
			pause *= rng.lognormvariate(0, 0.5)
			if rng.random() < 0.01:
				say(t, "mig.done", rank=heavy, to=to, by="migrate", status=-16, text="rank %d: fd 9 is a <b>socket</b> & more" % heavy, **{"from": at})
				continue
			where[heavy] = to
			epoch[heavy] += 1
			done += 1
			say(t, "rank.moved", rank=heavy, cluster=to, epoch=epoch[heavy])
			say(t + 0.001, "mig.done", rank=heavy, to=to, by="balance", status=0, text="", predicted_ns=2000000, **{"from": at,
				"technique": technique, "total_ns": int(pause * 8), "downtime_ns": int(pause), "pages": rng.randrange(200, 90000),
				"dirty_pages_s": rng.random() * 5000 if technique != "stop-and-copy" else None, "preparation_ns": int(pause * 5),
				"resume_ns": int(pause / 9), "degradation": 0.2, "slowdown": rng.random() * 0.2, "link_bytes_s": 4e8 * (0.5 + rng.random()),
				"bytes": rng.randrange(10**6, 10**8)})
		elif what == "checkpoint":
			say(t, "job.checkpoint", status=0, dir="/scratch/" + HOSTILE % 2, size=ranks * 10**6, ms=4000 + 1000 * rng.random())
		elif what == "drain":
			last_one = clusters - 1
			say(t, "cluster.drained", cluster=last_one, on=True, leaves=True)
			for r in range(ranks):
				if where[r] == last_one:
					where[r] = r % last_one
					say(t + 1, "rank.moved", rank=r, cluster=where[r], epoch=99)
			say(t + 2, "job.removed", status=0, moved=8)
			say(t + 2, "cluster.left", cluster=last_one)
			gone.add(last_one)
		else:
			say(t, "cluster.ready", cluster=clusters, name="late", place=clusters, cores=cores[0], domain=clusters)
			say(t, "cluster.joined", cluster=clusters)
			cores.append(cores[0])
			clusters += 1
	blocks, per = min(ranks, 64), (ranks + 63) // 64
	rows = [[a, b, int(1e9 / (1 + abs(a - b)) ** 3), 10**5] for a in range(blocks) for b in range(blocks) if a != b and abs(a - b) < 9]
	say(seconds - 2, "traffic.seen", per=per, near=[6 * 10**11, 3 * 10**11, 10**11], rows=rows)
	say(seconds - 1, "rank.ended", ranks=[[0, ranks]])
	say(seconds, "job.ended", code=0)
	return done


if __name__ == "__main__":
	with open(sys.argv[1], "w") as f:
		print(made(f.write, *(int(a) for a in sys.argv[2:])))
