# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks of moves between two emulated hosts (doc/rig.md): over a link that is slow, with memory packed, and plain; and by how much
a rank is slower meanwhile."""
import json
import os
import re
import statistics
import subprocess
import time

from base import BenchError, mpis, spread
from migrate import slower_by
from net import two_hosts

MIB = 256
KINDS = (("text", "compressible"), ("half", "half of it random"), ("random", "random"))
TECHNIQUES = ("pre-copy", "stop-and-copy")


class Job:
    """A rank on the first of two hosts of a rig."""

    def __init__(self, rig, r, ours, program, *args):
        self.rig, self.r = rig, r
        self.user = r.user if r.userns else None
        self.at, self.stop = 0, os.path.join(r.shared, "stop")
        self.process = r[1].popen([ours.launcher[0], "-hosts", "rig1,rig2", "-n", "1", program, self.stop, *args],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, user=self.user)

    def __enter__(self):
        if b"ready" not in self.rig.hear(self.process, b"ready", 1, 60):
            self.rig.kill_tree(self.process)
            raise BenchError("the program did not start: " + self.process.stderr.read().strip())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.rig.kill_tree(self.process)
        if os.path.exists(self.stop):
            os.unlink(self.stop)

    def move(self, godwit, technique, is_plain=False):
        """To the other host. Return: the measures"""
        done = self.r[1].run([godwit, "migrate", "0", "--to", str(1 - self.at), "--technique", technique, "--json"] +
                             (["--no-pack"] if is_plain else []), timeout=120, user=self.user)
        if done.returncode != 0:
            raise BenchError(f"a move by {technique} failed: {(done.stderr or done.stdout).strip()}")
        self.at = 1 - self.at
        return json.loads(done.stdout)[0]["measures"]

    def end(self):
        with open(self.stop, "w", encoding="utf-8"):
            pass
        out, err = self.rig.finish(self.process, 60)
        if self.process.returncode != 0 or not re.search(r"^memory .*bad=0\b", out, re.M):
            raise BenchError(f"it did not end with the memory that it had: {out.strip()[-600:]} {err.strip()}")
        return out.splitlines()


def row(kind, technique, word, found, results, rate):
    pause = [m["downtime_ns"] / 1e6 for m in found]
    rounds = [m["phases"]["rounds_ns"] / 1e9 for m in found]
    wire = [m["wire_bytes"] / (1 << 20) for m in found]
    print(f"  {kind:18} {technique:14} {word:7} {spread(rounds) if technique == 'pre-copy' else '-':>18} {spread(pause):>23} "
          f"{spread([m['total_ns'] / 1e9 for m in found]):>18} {statistics.median(wire):9.0f} {len(found):3}", flush=True)
    results.append({"what": "slowlink", "rate": rate, "kind": kind, "technique": technique, "packing": word, "moves": found})


def with_hosts(directory, bench):
    """bench(rig, its two hosts, our MPI with absolute paths, godwit)"""
    ours, _ = mpis()
    ours.launcher = [os.path.abspath(ours.launcher[0])]
    rig, hosts = two_hosts(directory)
    try:
        with hosts as r:
            r.start_sshd()
            bench(rig, r, ours, os.path.join(os.path.dirname(ours.launcher[0]), "godwit"))
    except rig.RigError as e:
        raise BenchError(f"two hosts: {e}") from None


def bench_slowlink(directory, moves, results, rate="800mbit"):
    """@moves: 30 are 3 pairs of each, ABBA."""
    def bench(rig, r, ours, godwit):
        program = ours.build("contents.c", directory)
        r[2].link(rate=rate)
        print(f"\na rank with {MIB} MiB that it does not write goes there and back between two emulated hosts over a link of {rate}; "
              f"median [quartiles]\n  {'its memory is':18} {'technique':14} {'':7} {'copy, s':>18} {'pause, ms':>23} {'total, s':>18} "
              f"{'wire, MiB':>9} {'n':>3}")
        for kind, words in KINDS:
            with Job(rig, r, ours, program, str(MIB), kind) as job:
                for technique in TECHNIQUES:
                    found = {True: [], False: []}
                    for i in range(max(moves // 10, 1)):
                        for is_plain in ((False, True) if i % 2 == 0 else (True, False)):
                            found[is_plain].append(job.move(godwit, technique, is_plain))
                    for is_plain in (True, False):
                        row(words, technique, "plain" if is_plain else "packed", found[is_plain], results, rate)
                job.end()

    with_hosts(directory, bench)


def bench_slowhosts(directory, moves, results):
    """As the slow-down of migrate, between hosts. @moves: 30 are 12."""
    def bench(rig, r, ours, godwit):
        program, found = ours.build("downtime.c", directory), []
        with Job(rig, r, ours, program, "1024", "100", "0", "work") as job:
            for _ in range(max(moves * 12 // 30, 2)):
                time.sleep(1) # what it does undisturbed
                found.append(job.move(godwit, "pre-copy"))
            slower, dearer, control = slower_by(found, job.end())
        told = [100 * m["slowdown"] for m in found if m["slowdown"] is not None]
        share = [100 * m["link"]["share"] for m in found if m["link"]]
        print(f"\nwhile 1 GiB goes in rounds between two emulated hosts a rank whose work writes 100 MiB/s is slower by {spread(slower)} % "
              f"(n {len(slower)}; without a move by {spread(control)} %; {spread(dearer)} % more processor time for a page; "
              f"the measures say {spread(told) if told else '-'}), for "
              f"{spread([m['phases']['rounds_ns'] / 1e6 for m in found])} ms; the pause is {spread([m['downtime_ns'] / 1e6 for m in found])} ms, "
              f"and {spread(share) if share else '-'} % of what goes over the link is the move's", flush=True)
        results.append({"what": "slowhosts", "percent": slower, "cpu_percent": dearer, "control_percent": control, "moves": found})

    with_hosts(directory, bench)
