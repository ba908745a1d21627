#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""bench.py: what './quickstart bench' prints.

1. Speed between two ranks, beside Debian's MPICH and Open MPI where they are installed. Both are run in turn, ABBA, so
   that a change of the machine's mood meets both; each pair gives one ratio, and what counts is the median of the ratios
   with its interquartile range. Every MPI runs with its two ranks pinned to two cores, by the program itself, and
   unpinned. Nothing binds otherwise.
2. Speed between two ranks on two emulated hosts (doc/rig.md) over TCP, beside the same MPIs.
3. The downtime of stop-and-copy moves of an MPI hello after MPI_Init: from outside, as the daemons measured it, and from
   inside, as the rank saw it by CLOCK_REALTIME; and by how much CLOCK_MONOTONIC advanced meanwhile.

The programs are compiled here, by each MPI's own wrapper with -O2, in a temporary directory. --json FILE keeps all samples.
"""
import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time

from base import HERE, BenchError, mpis, ratio, spread
from net import bench_net

def bench_speed(directory, pairs, is_quick, results):
    ours, others = mpis()
    ours_program = ours.build("pingpong.c", directory)
    for is_pinned in (True, False):
        how = "two ranks, pinned to two cores" if is_pinned else "two ranks, unpinned"
        for other in others:
            if not other.is_there():
                print(f"-- {other.name}: not installed, no ratio")
                continue
            program = other.build("pingpong.c", directory)
            a, b = [], []
            for i in range((pairs + 1) // 2):
                for who in "ABBA":
                    mpi, exe, into = (ours, ours_program, a) if who == "A" else (other, program, b)
                    into.append(mpi.pingpong(exe, is_pinned, is_quick))
            print(f"\n{how}: godwit beside {other.name}, {len(a)} ABBA pairs, median [quartiles]")
            print(f"  {'':22} {'godwit':>26} {other.name:>26} {'ratio (above 1: godwit better)':>34}")
            for key in a[0]:
                x, y = [s[key] for s in a], [s[key] for s in b]
                ratios = [ratio(key, u, v) for u, v in zip(x, y)]
                print(f"  {key:22} {spread(x):>26} {spread(y):>26} {spread(ratios):>34}")
            results.append({"what": "speed", "pinned": is_pinned, "other": other.name, "godwit": a, "samples": b})
    if not any(o.is_there() for o in others):
        for is_pinned in (True, False):
            a = [ours.pingpong(ours_program, is_pinned, is_quick) for _ in range(pairs)]
            print(f"\n{'pinned' if is_pinned else 'unpinned'}: godwit alone, {pairs} runs, median [quartiles]")
            for key in a[0]:
                print(f"  {key:22} {spread([s[key] for s in a]):>26}")
            results.append({"what": "speed", "pinned": is_pinned, "godwit": a})


class Jobs:
    """What driver/godwit.py's Job wants of a test: the list of jobs that run."""

    def __init__(self):
        self.jobs = []


def pauses(job):
    for line in job.out():
        m = re.match(r"pause rank=1 from_ns=(\d+) to_ns=(\d+) monotonic_ns=(\d+)", line)
        if m:
            yield tuple(int(g) for g in m.groups())


def bench_downtime(directory, moves, results):
    sys.path.insert(0, os.path.join(HERE, "..", "driver"))
    import godwit  # what the system tests share

    ours, _ = mpis()
    program = ours.build("downtime.c", directory)
    job = godwit.Job(Jobs(), ["-n", "2", "-clusters", "2", program, "600"])
    try:
        if not job.wait_line(r"^ready rank=1", 30):
            raise BenchError("the hello did not start: " + "; ".join(job.tail()))
        head = job.head()
        answers = []
        for _ in range(moves):
            to = 1 - head.ranks()[1]["cluster"]
            answer = head.migrate([1], to)[0]
            if answer["status"] != 0:
                raise BenchError(f"move {len(answers)} to cluster {to} failed: {answer['text']}")
            answers.append(answer["measures"])
        # the rank tells of its last pause after the move has been reported
        deadline = time.monotonic() + 10
        with job.cond:
            while not any(p[1] >= answers[-1]["frozen_at_ns"] for p in pauses(job)) and time.monotonic() < deadline:
                job.cond.wait(deadline - time.monotonic())
        seen = list(pauses(job))
        size = godwit.fields(next(line for line in job.out() if line.startswith("size rank=1")))
    finally:
        job.kill()

    outside = [m["downtime_ns"] / 1e6 for m in answers]
    inside, skew = [], []
    for m in answers:
        frozen, thawed = m["frozen_at_ns"], m["thawed_at_ns"]
        over = [p for p in seen if p[0] < thawed and p[1] > frozen]
        if not over:
            raise BenchError("the rank saw no pause where the daemons report a move")
        p = max(over, key=lambda q: q[1] - q[0])
        inside.append((p[1] - p[0]) / 1e6)
        skew.append(abs(p[2] - (p[1] - p[0])) / 1e6)
    print(f"\n{len(answers)} stop-and-copy moves of an MPI hello after MPI_Init, there and back between two clusters; "
          f"{size['mappings']} mappings, {int(size['private_dirty_bytes']) / 1e6:.2f} MB of private memory written")
    print(f"  {'':34} {'median [quartiles], ms':>30} {'max':>9}")
    rows = [("downtime, from outside", outside), ("downtime, CLOCK_REALTIME inside", inside),
            ("CLOCK_MONOTONIC differs by", skew)]
    phases = sorted({k for m in answers for k in m if k.endswith("_ns") and not k.endswith("_at_ns")} - {"downtime_ns"})
    rows += [(k[:-3], [m[k] / 1e6 for m in answers if m.get(k) is not None]) for k in phases]
    for name, values in rows:
        if values:
            print(f"  {name:34} {spread(values):>30} {max(values):9.3g}")
    results.append({"what": "downtime", "moves": answers, "inside_ms": inside, "skew_ms": skew, "size": size})


def main():
    parser = argparse.ArgumentParser(description="Godwit's benchmarks")
    parser.add_argument("--pairs", type=int, default=12, help="pairs for each ratio (12)")
    parser.add_argument("--moves", type=int, default=30, help="moves whose downtime is measured (30)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--only", choices=["speed", "net", "downtime"], help="one of them")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    args = parser.parse_args()
    if not os.environ.get("top_builddir"):
        parser.error("$top_builddir must name the build directory; './quickstart bench' sets it")
    results = []
    status = 0
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start: figures of a busy machine mean little")
    for sig in (signal.SIGTERM, signal.SIGHUP): # the directory goes with us, as at Ctrl-C
        signal.signal(sig, lambda sig, frame: sys.exit(128 + sig))
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as directory:
        os.environ["TMPDIR"] = directory # Open MPI leaves its session there when it is killed
        for name, bench in (("speed", lambda: bench_speed(directory, args.pairs, args.quick, results)),
                            ("net", lambda: bench_net(directory, args.pairs, args.quick, results)),
                            ("downtime", lambda: bench_downtime(directory, args.moves, results))):
            if args.only and args.only != name:
                continue
            try:
                bench()
            except BenchError as e:
                print(f"bench: {name}: {e}", file=sys.stderr)
                status = 1
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    return status


if __name__ == "__main__":
    sys.exit(main())
