# SPDX-License-Identifier: BSD-2-Clause
"""How long a program of many ranks that only meets in a barrier takes from its start to its end, and what a rank has to itself."""
import time

from base import BenchError, mpis, run, values_of
from onehost import command_of, rows

RANKS = 64


def timed(command, env):
    start = time.monotonic()
    run(command, env, timeout_s=300)
    return {f"start_{RANKS}_us": (time.monotonic() - start) * 1e6}


def bench_start(directory, pairs, results):
    ours, others = mpis()
    others = [o for o in others if o.is_there()]
    if not others:
        raise BenchError("neither MPICH nor Open MPI is installed, so there is nothing to compare with")
    programs = {m.name: m.build("start.c", directory) for m in [ours] + others}
    commands = {m.name: command_of(m, RANKS, programs[m.name], [], False, []) for m in [ours] + others}
    print(f"\nstart: {RANKS} ranks from the command to its end, a barrier between; {pairs} ABBA pairs with each, median [quartiles]")
    for command in commands.values():
        print(f"  {' '.join(command)}")
    samples = {}
    for other in list(others):
        samples[other.name] = ([], [])
        try:
            for _ in range((pairs + 1) // 2):
                for turn in "ABBA":
                    mpi, into = (ours, 0) if turn == "A" else (other, 1)
                    samples[other.name][into].append(timed(commands[mpi.name], mpi.env))
        except BenchError as e:
            if mpi is ours:
                raise
            print(f"  {other.name} is left out: {e}", flush=True)  # so many ranks are more than it carries here
            del samples[other.name]
            others.remove(other)
    if not others:
        raise BenchError("none of the others has started so many ranks")
    rows("start", f"{RANKS} ranks", samples, {}, results)
    memory = {m.name: values_of(run(commands[m.name] + ["-memory"], m.env, timeout_s=300), m.name) for m in [ours] + others}
    print(f"  {'private memory, KiB':24} {'median':>12} {'most':>12}")
    for name, m in memory.items():
        print(f"  {name:24} {m['private_median_KiB']:>12.0f} {m['private_most_KiB']:>12.0f}{'   wanted: below 10240' if name == ours.name else ''}",
              flush=True)
    results.append({"what": "start-memory", "ranks": RANKS, "memory": memory})
