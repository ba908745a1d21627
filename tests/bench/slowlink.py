# SPDX-License-Identifier: BSD-2-Clause
"""Benchmark of moves between two emulated hosts (doc/rig.md) over links that are slow: with memory packed, and plain."""
import json
import os
import statistics
import subprocess

from base import BenchError, mpis, spread
from net import two_hosts

MIB = 256
KINDS = (("text", "compressible"), ("half", "half of it random"), ("random", "random"))
TECHNIQUES = ("pre-copy", "stop-and-copy")


class Job:
    """A rank with memory of one kind, on the first of two hosts of a rig."""

    def __init__(self, rig, r, ours, program, kind):
        self.rig, self.r = rig, r
        self.user = r.user if r.userns else None
        self.at, self.stop = 0, os.path.join(r.shared, "stop")
        self.process = r[1].popen([ours.launcher[0], "-hosts", "rig1,rig2", "-n", "1", program, self.stop, str(MIB), kind],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, user=self.user)

    def __enter__(self):
        if self.rig.hear(self.process, b"\n", 1, 60) != b"ready\n":
            self.rig.kill_tree(self.process)
            raise BenchError("the program did not start: " + self.process.stderr.read().strip())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.rig.kill_tree(self.process)
        if os.path.exists(self.stop):
            os.unlink(self.stop)

    def move(self, godwit, technique, is_plain):
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
        if self.process.returncode != 0 or "memory bad=0" not in out:
            raise BenchError(f"it did not end with the memory that it had: {out.strip()} {err.strip()}")


def row(kind, technique, word, found, results, rate):
    pause = [m["downtime_ns"] / 1e6 for m in found]
    rounds = [m["phases"]["rounds_ns"] / 1e9 for m in found]
    wire = [m["wire_bytes"] / (1 << 20) for m in found]
    print(f"  {kind:18} {technique:14} {word:7} {spread(rounds) if technique == 'pre-copy' else '-':>18} {spread(pause):>23} "
          f"{spread([m['total_ns'] / 1e9 for m in found]):>18} {statistics.median(wire):9.0f} {len(found):3}", flush=True)
    results.append({"what": "slowlink", "rate": rate, "kind": kind, "technique": technique, "packing": word, "moves": found})


def bench_slowlink(directory, moves, results, rate="800mbit"):
    """@moves: 30 are 3 pairs of each, ABBA."""
    ours, _ = mpis()
    program = ours.build("contents.c", directory)
    ours.launcher = [os.path.abspath(ours.launcher[0])]
    godwit = os.path.join(os.path.dirname(ours.launcher[0]), "godwit")
    rig, hosts = two_hosts(directory)
    try:
        with hosts as r:
            r.start_sshd()
            r[2].link(rate=rate)
            print(f"\na rank with {MIB} MiB that it does not write goes there and back between two emulated hosts over a link of "
                  f"{rate}; median [quartiles]\n  {'its memory is':18} {'technique':14} {'':7} {'copy, s':>18} {'pause, ms':>23} "
                  f"{'total, s':>18} {'wire, MiB':>9} {'n':>3}")
            for kind, words in KINDS:
                with Job(rig, r, ours, program, kind) as job:
                    for technique in TECHNIQUES:
                        found = {True: [], False: []}
                        for i in range(max(moves // 10, 1)):
                            for is_plain in ((False, True) if i % 2 == 0 else (True, False)):
                                found[is_plain].append(job.move(godwit, technique, is_plain))
                        for is_plain in (True, False):
                            row(words, technique, "plain" if is_plain else "packed", found[is_plain], results, rate)
                    job.end()
    except rig.RigError as e:
        raise BenchError(f"two hosts: {e}") from None
