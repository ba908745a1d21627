# SPDX-License-Identifier: BSD-2-Clause
"""Benchmark of strategy comm: ranks that stand shuffled in a grid, and talk much to those left and right and little to those above and
below, are brought together. What crosses the link between two hosts, as its kernel counts it (a network of the job's own, where
that can be made: root), and bytes times hops on machines with distances; each for some ways of shuffling."""
import json
import os
import statistics
import subprocess
import sys
import time

from base import HERE, BenchError, spread
from moves import Jobs

sys.path.append(os.path.join(HERE, "..", "driver")) # after our own: some names are in both
import godwit # what the system tests share

TOP = os.environ.get("top_builddir", "")
HEAVY, SECONDS, ROUNDS = 200000, 3, 6


class Placed:
    """A job of 'neighbours' until the end of the block, in a network of its own where that is possible."""

    def __init__(self, directory, seed, options):
        self.stop = os.path.join(directory, f"stop-{seed}-{time.monotonic_ns()}")
        mpirun = os.path.join(TOP, "mpirun")
        alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
        self.is_alone = subprocess.run(alone + ["true"], capture_output=True, check=False).returncode == 0
        self.job = godwit.Job(Jobs(), options + [os.path.join(TOP, "tests/programs/neighbours"), self.stop, HEAVY, seed],
                              launcher=alone + [mpirun] if self.is_alone else [mpirun])

    def __enter__(self):
        if not self.job.wait_line(r"^steps", 120, "out"):
            self.job.kill()
            raise BenchError("the program does not compute: " + "; ".join(self.job.tail()))
        return self

    def __exit__(self, *_):
        with open(self.stop, "w", encoding="utf-8"):
            pass
        if self.job.wait(60) is None:
            self.job.kill()

    def tool(self, *words):
        where = ["nsenter", "-t", str(self.job.proc.pid), "-n"] if self.is_alone else []
        try:
            out = subprocess.run(where + [os.path.join(TOP, "godwit"), *words, "--json"], capture_output=True, text=True, check=False, timeout=180)
        except subprocess.TimeoutExpired:
            raise BenchError(f"godwit {' '.join(words)} does not come to an end") from None
        if not out.stdout.startswith("{"): # some ranks could not be moved: that is in the answer
            raise BenchError(f"godwit {' '.join(words)}: {(out.stderr or out.stdout).strip()}")
        return json.loads(out.stdout)

    def clusters(self):
        return [r["cluster"] for r in sorted(self.tool("status")["ranks"], key=lambda r: r["rank"])]

    def lo_bytes(self):
        with open(f"/proc/{self.job.proc.pid}/net/dev", encoding="utf-8") as f:
            return int(next(line for line in f if line.strip().startswith("lo:")).split(":")[1].split()[0])

    def measure(self):
        """Bytes over the link in a step, and steps a second."""
        lines, start = len(self.job.out("out")), self.lo_bytes()
        began = time.monotonic()
        self.job.wait_line(r"^steps", 60, "out", count=sum(l.startswith("steps") for l in self.job.out("out")) + SECONDS)
        told = [l.split() for l in self.job.out("out")[lines:] if l.startswith("steps")]
        # bytes and steps are of intervals that differ a little: rates of both
        rate = (self.lo_bytes() - start) / (time.monotonic() - began)
        steps = sum(int(t[1]) for t in told) / sum(float(t[3]) for t in told)
        return rate / steps, steps

    def improve(self):
        """Ask until it is not for what ranks say that they move. Return: moves"""
        moves = 0
        for _ in range(ROUNDS):
            plan = self.tool("rebalance", "--strategy", "comm")
            if "moves" not in plan:
                raise BenchError("no plan: " + plan.get("text", "?"))
            moves += sum(m["status"] == 0 for m in plan["moves"])
            if plan["hop_bytes_s_planned"] > 0.95 * plan["hop_bytes_s"]:
                break
        return moves


def torus(rows, columns):
    def hops(a, b):
        down, right = abs(a // columns - b // columns), abs(a % columns - b % columns)
        return min(down, rows - down) + min(right, columns - right)
    return hops


def bench_link(directory, seeds, results):
    rows = []
    for seed in seeds:
        with Placed(directory, seed, ["-launcher", "fork", "-hosts", "one:8,two:8", "-n", 16]) as p:
            before, slow = p.measure()
            said = godwit.step_bytes(p.job, p.clusters(), lambda a, b: a != b, HEAVY)
            moves = p.improve()
            after, fast = p.measure()
            then = godwit.step_bytes(p.job, p.clusters(), lambda a, b: a != b, HEAVY)
            rows.append({"seed": seed, "moves": moves, "link": before, "link_then": after, "sent": said, "sent_then": then,
                         "steps": slow, "steps_then": fast, "is_alone": p.is_alone})
    print(f"\n16 ranks that stand shuffled, on two hosts{'' if rows[0]['is_alone'] else ' (all bytes of this machine over lo are counted)'}")
    for text, key, unit in (("over the link, as counted", "link", 1e6), ("of it what ranks send", "sent", 1e6), ("steps a second", "steps", 1)):
        print(f"  {text + (', MB a step' if unit > 1 else ''):42} {spread([r[key] / unit for r in rows]):>26} ->"
              f" {spread([r[key + '_then'] / unit for r in rows]):>26}")
    print(f"  {'less over the link, %':42} {spread([100 * (1 - r['link_then'] / r['link']) for r in rows]):>26}  (asked: 70),"
          f" {statistics.median(r['moves'] for r in rows):g} moves")
    results.append({"bench": "commplace", "what": "link", "rows": rows})


def bench_hops(directory, seeds, results):
    path = os.path.join(directory, "machine")
    for name, machine, ranks, hops in (
            ("a torus of 2 by 2 clusters, 16 ranks", {"torus": [2, 2]}, 16, torus(2, 2)),
            ("a torus of 4 by 4 clusters, 32 ranks", {"torus": [4, 4]}, 32, torus(4, 4)),
            ("a torus of 4 by 4 clusters, a rank in each", {"torus": [4, 4]}, 16, torus(4, 4))):
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**machine, "link_mb_s": 20}, f)
        rows = []
        for seed in seeds:
            with Placed(directory, seed, ["-machine", path, "-n", ranks]) as p:
                before = godwit.step_bytes(p.job, p.clusters(), hops, HEAVY)
                moves = p.improve()
                rows.append({"seed": seed, "moves": moves, "hop_bytes": before, "hop_bytes_then": godwit.step_bytes(p.job, p.clusters(), hops, HEAVY),
                             "one_hop": godwit.step_bytes(p.job, p.clusters(), lambda a, b: 1, HEAVY)})
        print(f"\n{name}: MB times hops a step {spread([r['hop_bytes'] / 1e6 for r in rows])} ->"
              f" {spread([r['hop_bytes_then'] / 1e6 for r in rows])}, {spread([100 * (1 - r['hop_bytes_then'] / r['hop_bytes']) for r in rows])} %"
              f" less (all at one hop: {rows[0]['one_hop'] / 1e6:.3g}), {statistics.median(r['moves'] for r in rows):g} moves")
        results.append({"bench": "commplace", "what": name, "rows": rows})


def bench_commplace(directory, pairs, results):
    seeds = range(1, max(3, pairs // 2) + 1)
    bench_link(directory, seeds, results)
    bench_hops(directory, seeds, results)
