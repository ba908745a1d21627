# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks of one host, each point beside the better of Debian's MPICH and Open MPI, or of our MPICH over libfabric's own
providers, as doc/performance.md says."""
import os
import re
import shutil
import statistics

from base import HERE, BenchError, mpis, over_providers, run, spread, values_of, SMALLER_IS_BETTER

# what: its cases: (name, ranks, arguments of onehost, who takes part)
ALL = ("mpich", "openmpi")
CASES = {
    "speed": [("small messages", 2, ["small"], ALL), ("large messages", 2, ["large"], ALL)],
    # MPICH spins where it waits: with more ranks than cores a barrier takes it a second
    "coll": [("2 ranks", 2, ["coll"], ALL), ("8 ranks", 8, ["coll"], ("openmpi",)), ("16 ranks", 16, ["coll"], ("openmpi",))],
    "halo": [("2 ranks", 2, ["halo"], ALL)] + [(f"{n} ranks", n, ["halo"], ("openmpi",)) for n in (4, 8, 16, 64)],
    "types": [("packing", 1, ["types"], ALL)],
    "providers": [("small messages", 2, ["small"], ("shm", "sockets")), ("large messages", 2, ["large"], ("shm", "sockets"))],
}


def command_of(mpi, ranks, program, args, is_pinned, first):
    launcher = [str(ranks) if x == "2" and mpi.launcher[i - 1] == "-n" else x for i, x in enumerate(mpi.launcher)]
    return launcher + first + [program] + args + (["-pin"] if is_pinned else [])


def better_of(key, medians):
    pick = min if SMALLER_IS_BETTER.search(key) else max
    return pick(medians, key=medians.get)


def bench_onehost(what, directory, pairs, is_fifo, results):
    """Each of the others is run pinned and unpinned where every rank can have a core, ours between them: A B B A with each,
    so that what is compared is a second or two apart. Of the others' ways of running, the better counts, point by point."""
    ours, others = mpis()
    others = over_providers(ours) if what == "providers" else [o for o in others if o.is_there()]
    programs = {m.name: m.build("onehost.c", directory) for m in [ours] + others}
    halo = {}
    for name, ranks, args, who in CASES[what]:
        first = ["chrt", "-r" if ranks > 2 else "-f", "1"] if is_fifo else []
        ways = [(o, pinned) for o in others if o.name in who for pinned in ((True, False) if ranks == 2 else (False,))]
        if not ways:
            raise BenchError("neither MPICH nor Open MPI is installed, so there is nothing to compare with")
        mine = command_of(ours, ranks, programs[ours.name], args, ranks == 2, first)
        print(f"\n{what}, {name}: time or rate of godwit, and its ratio to the better of the others; {pairs} ABBA pairs, median "
              f"[quartiles]\n  godwit: {' '.join(mine)}")
        samples = {}
        for other, pinned in ways:
            way = f"{other.name}{' pinned' if pinned else ''}"
            # sockets has threads of its own, which a rank that spins before all other work would keep from their core for ever
            theirs = command_of(other, ranks, programs[other.name], args, pinned, [] if other.name == "sockets" else first)
            print(f"  {way}: {' '.join(theirs)}", flush=True)
            samples[way] = ([], [])
            for _ in range((pairs + 1) // 2):
                for turn in "ABBA":
                    mpi, command, into = (ours, mine, 0) if turn == "A" else (other, theirs, 1)
                    samples[way][into].append(values_of(run(command, mpi.env), mpi.name))
        rows(what, name, samples, halo, results)
    if what == "halo" and 2 in halo and 64 in halo:
        print(f"\n  godwit, 64 ranks to 2: {statistics.median(halo[64]) / statistics.median(halo[2]):.3g}")
        bench_ring(directory, results)


RING_RUNS = 11
RING_POLLS = {2: (0,), 64: (1, 4, 32)} # ways of waiting: looks before a process yields; where each has a core it need not


def bench_ring(directory, results):
    """The same exchange without an MPI (ring.c): what cores and kernel make of it, by the best of some ways of waiting."""
    program = os.path.join(directory, "ring")
    if not shutil.which("cc"):
        print("  without an MPI: not measured, there is no cc")
        return
    run(["cc", "-O2", os.path.join(HERE, "ring.c"), "-o", program])
    samples = {(n, polls): [] for n, ways in RING_POLLS.items() for polls in ways}
    for _ in range(RING_RUNS):
        for n, polls in samples:
            samples[n, polls].append(values_of(run([program, str(n), str(polls)]), "no MPI")["halo_step_rank_us"])
    best = {n: min((samples[n, polls] for polls in ways), key=statistics.median) for n, ways in RING_POLLS.items()}
    print(f"  without an MPI, {RING_RUNS} runs: 2 processes {spread(best[2])} us, 64 {spread(best[64])}; 64 to 2: "
          f"{spread([y / x for x, y in zip(best[2], best[64])])}")
    results.append({"what": "ring", "case": "without an MPI", "us": {f"{n}, {polls} polls": v for (n, polls), v in samples.items()}})


def rows(what, name, samples, halo, results):
    print(f"  {'':24} {'godwit':>24} {'the better':>18} {'its figure':>24} {'godwit / the better':>24}  wanted")
    for key in next(iter(samples.values()))[0][0]:
        medians = {way: statistics.median(s[key] for s in b) for way, (_, b) in samples.items()}
        way = better_of(key, medians)
        a, b = [[s[key] for s in part] for part in samples[way]]
        print(f"  {key:24} {spread(a):>24} {way:>18} {spread(b):>24} {spread([x / y for x, y in zip(a, b)]):>24}  "
              f"{'below' if SMALLER_IS_BETTER.search(key) else 'above'} 1", flush=True)
        if what == "halo":
            halo[int(re.match(r"\d+", name).group())] = a
    results.append({"what": what, "case": name,
                    "samples": {way: {"godwit": a, "other": b} for way, (a, b) in samples.items()}})
