#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The examples' answers are bit-identical with and without moves, compiled by gcc and by clang, with 3 and 4 ranks."""
import shutil

from godwit import *

tap = Tap(300)
SRC = os.environ.get("top_srcdir", os.getcwd())
work = work_dir("examples")
runs = [
	("jacobi", ["--size", 400, "--iterations", 2500, "--quiet"]),
	("friendly", ["--size", 600000, "--piece", 500, "--quiet"]),
	("gauss", ["--size", 640, "--passes", 40, "--quiet"]),
	("kmeans", ["--size", 120000, "--rounds", 40, "--quiet"]),
	("drift", ["--particles", 20000, "--steps", 60, "--quiet"]),
]
compilers = [c for c in ("gcc", "clang") if shutil.which(c)]


def answer(job, timeout=120):
	status = job.end(timeout)
	lines = [fields(l) for l in job.out() if "checksum=" in l]
	return lines[0] if status == 0 and lines else {}


for name, args in runs:
	sums = {}
	for cc in compilers:
		binary = os.path.join(work, "%s.%s" % (name, cc))
		made = subprocess.run([os.path.join(BUILD, "mpicc"), "-cc=" + cc, "-O2" if cc == "gcc" else "-O3", "-ffp-contract=off",
		                       "-I" + SRC, os.path.join(SRC, "examples/%s.c" % name), "-o", binary, "-lm"],
		                      capture_output=True, text=True)
		if not tap.ok(made.returncode == 0, "%s compiles with the wrapper and %s" % (name, cc), made.stderr):
			continue
		a = answer(Job(tap, ["-n", 3, "-clusters", 2, binary] + args))
		sums["unmoved, " + cc] = a.get("checksum")
		job = Job(tap, ["-n", 4, "-clusters", 3, binary] + args)
		mover = Mover(job, 4, 3, seed=len(sums), pace_ms=40) if job.wait_head() else None
		b = answer(job)
		if mover:
			mover.finish()
		sums["moved, " + cc] = b.get("checksum")
		tap.ok(mover and len(mover.moves) >= 3 and not mover.error, "%s by %s: %d moves in %s s (%s s unmoved with 3 ranks)" % (
		       name, cc, len(mover.moves) if mover else 0, b.get("seconds"), a.get("seconds")),
		       *(["%s" % r["text"] for r in mover.refused[:3]] + [mover.error] if mover else []) + job.tail())
	tap.ok(sums and None not in sums.values() and len(set(sums.values())) == 1,
	       "%s: %s, all equal: %s" % (name, "; ".join(sorted(sums)), list(sums.values())[0] if sums else None), str(sums))
if "clang" not in compilers:
	tap.skip("the same by clang", "there is no clang here")
sys.exit(tap.done())
