#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Real hosts of a rig, by ssh: 200 ranks start on four of them, each sends to each, and all end; and a storm of moves over
three of them, with the checks of storm.py, which runs on the first."""
import argparse, os, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig_mpi

p = argparse.ArgumentParser()
p.add_argument("--ranks", type=int, default=200, help="0: not this part")
p.add_argument("--moves", type=int, default=100, help="0: not this part")
p.add_argument("--hosts", type=int, default=4)
a = p.parse_args()

tap = godwit.Tap(900)
MPIRUN = os.path.join(godwit.BUILD, "mpirun")
EVERYONE = os.path.join(godwit.BUILD, "tests/programs/everyone")
STORM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "storm.py")


def crowd(r):
	words = [MPIRUN, "-hosts", ",".join(h.name for h in r.hosts), "-n", str(a.ranks)]
	began = time.monotonic()
	p = r[1].run(words + [EVERYONE, "64"], timeout=400, user=login, env={"EVERYONE_BEGAN": "%.3f" % time.time()})
	took = time.monotonic() - began
	said = [l for l in p.stdout.split("\n") if l.startswith("EVERYONE ")]
	if not tap.ok(p.returncode == 0 and said and p.stderr == "", "%d ranks on %d hosts start, each sends to each, and all end (%.1f s)" %
	              (a.ranks, a.hosts, took), p.returncode, p.stdout[-2000:], p.stderr[-2000:]):
		return
	f = godwit.fields(said[0])
	tap.diag("from mpirun to the end of the last MPI_Init: %s s; the first exchange, with its connections: %s s; the second: %s s" %
	         (f["begun"], f["first"], f["second"]))
	tap.diag("memory of a rank: %s kB of its own at the mean (Pss); at most %s kB resident" % (f["pss_mean_kb"], f["rss_max_kb"]))


with rig_mpi.hosts_or_skip(a.hosts) as r:
	login = rig_mpi.login(r)
	if a.ranks:
		crowd(r)
	if a.moves:
		env = {"top_builddir": godwit.BUILD, "TMPDIR": r.shared, "PATH": os.environ["PATH"]}
		p = r[1].run([sys.executable, STORM, "--on", ",".join(h.name for h in r.hosts[:3]), "--ranks", "6", "--clusters", "3",
		              "--moves", str(a.moves), "--pace-ms", "100", "--at-once", "3", "--compute-ms", "300", "--pairs", "--huge", "64",
		              "--seconds", "200"], timeout=700, user=login, env=env)
		for line in p.stdout.split("\n"):
			tap.diag(line)
		tap.ok(p.returncode == 0 and "not ok" not in p.stdout and "1.." in p.stdout, "a storm over three of them (above)", p.returncode,
		       p.stderr[-2000:])
	left = rig_mpi.left(r.hosts, "godwitd|mpirun|everyone|storm")
	tap.ok(not left, "nothing is left on any host", left)
sys.exit(tap.done())
