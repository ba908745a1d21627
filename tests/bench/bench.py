#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""bench.py: what './quickstart bench' prints.

1. Speed between two ranks, beside Debian's MPICH and Open MPI where they are installed. Both are run in turn, ABBA, so
   that a change of the machine's mood meets both; each pair gives one ratio, and what counts is the median of the ratios
   with its interquartile range. Every MPI runs with its two ranks pinned to two cores, by the program itself, and
   unpinned. Nothing binds otherwise.
2. The downtime of stop-and-copy moves of an MPI hello after MPI_Init: from outside, as the daemons measured it, and from
   inside, as the rank saw it by CLOCK_REALTIME; and by how much CLOCK_MONOTONIC advanced meanwhile.

The programs are compiled here, by each MPI's own wrapper with -O2, in a temporary directory. --json FILE keeps all samples.
"""
import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SMALLER_IS_BETTER = re.compile(r"_us$")


class BenchError(Exception):
    pass


def run(command, env=None, timeout_s=180):
    """Run to the end in a group of its own, so that nothing survives a hang. Returns standard output."""
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                         start_new_session=True)
    try:
        out, err = p.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.communicate()
        raise BenchError(f"'{' '.join(command)}' did not end within {timeout_s} s") from None
    if p.returncode != 0:
        raise BenchError(f"'{' '.join(command)}' failed with status {p.returncode}: {(err or out).strip()[-600:]}")
    return out


def spread(values):
    """Median and interquartile range, as text."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    q = statistics.quantiles(values, n=4, method="inclusive")
    return f"{statistics.median(values):.3g} [{q[0]:.3g}..{q[2]:.3g}]"


class Mpi:
    """One MPI: how to compile and how to start two ranks."""

    def __init__(self, name, wrapper, launcher, env=None):
        self.name, self.wrapper, self.launcher = name, wrapper, launcher
        self.env = dict(os.environ, **(env or {}))

    def is_there(self):
        return bool(shutil.which(self.wrapper) and shutil.which(self.launcher[0]))

    def build(self, source, directory):
        out = os.path.join(directory, f"{os.path.splitext(source)[0]}-{self.name}")
        run([self.wrapper, "-O2", os.path.join(HERE, source), "-o", out], self.env)
        return out

    def pingpong(self, program, is_pinned, is_quick):
        options = (["-pin"] if is_pinned else []) + (["-quick"] if is_quick else [])
        out = run(self.launcher + [program] + options, self.env)
        values = {k: float(v) for k, v in re.findall(r"(\S+)=(\S+)", out)}
        if not values:
            raise BenchError(f"pingpong under {self.name} printed no result: {out!r}")
        return values


def mpis():
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    top = os.environ.get("top_builddir", "")
    ours = Mpi("godwit", os.path.join(top, "mpicc") if top else "mpicc",
               [os.path.join(top, "mpirun") if top else "mpirun", "-n", "2", "-clusters", "1"])
    return ours, [
        Mpi("mpich", "mpicc.mpich", ["mpirun.mpich", "-n", "2", "-bind-to", "none"]),
        Mpi("openmpi", "mpicc.openmpi", ["mpirun.openmpi", "-n", "2", "--bind-to", "none", "--oversubscribe"], as_root),
    ]


def bench_speed(directory, pairs, is_quick, results):
    ours, others = mpis()
    if not ours.is_there():
        raise BenchError("mpirun and mpicc of Godwit are not built; run ./quickstart build")
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
                ratio = [v / u if SMALLER_IS_BETTER.search(key) else u / v for u, v in zip(x, y)]
                print(f"  {key:22} {spread(x):>26} {spread(y):>26} {spread(ratio):>34}")
            results.append({"what": "speed", "pinned": is_pinned, "other": other.name, "godwit": a, "samples": b})
    if not any(o.is_there() for o in others):
        for is_pinned in (True, False):
            a = [ours.pingpong(ours_program, is_pinned, is_quick) for _ in range(pairs)]
            print(f"\n{'pinned' if is_pinned else 'unpinned'}: godwit alone, {pairs} runs, median [quartiles]")
            for key in a[0]:
                print(f"  {key:22} {spread([s[key] for s in a]):>26}")
            results.append({"what": "speed", "pinned": is_pinned, "godwit": a})


def main():
    parser = argparse.ArgumentParser(description="Godwit's benchmarks")
    parser.add_argument("--pairs", type=int, default=12, help="pairs for each ratio (12)")
    parser.add_argument("--moves", type=int, default=30, help="moves whose downtime is measured (30)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--only", choices=["speed", "downtime"], help="one of the two")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    args = parser.parse_args()
    results = []
    status = 0
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start: figures of a busy machine mean little")
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as directory:
        for name, bench in (("speed", lambda: bench_speed(directory, args.pairs, args.quick, results)),):
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
