# SPDX-License-Identifier: BSD-2-Clause
"""The user area beside the program's heap: the provider's state in one or in the other (mpi-shim/area_bench.c); time in turns, pages, and
instructions and cache misses as valgrind's cache simulation counts them."""
import os
import re
import shutil

from base import BenchError, run, spread, values_of

PROGRAMS = {"user area": "mpi-shim/area_bench", "heap": "mpi-shim/area_heap_bench"}
CACHES = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"]  # a core of its own: first and second level
EVENTS = (("Ir", "instructions"), ("D1mr", "first-level misses, reads"), ("D1mw", "first-level misses, writes"),
          ("DLmr", "second-level misses, reads"), ("DLmw", "second-level misses, writes"))


def counted(program, directory, rounds):
    out = os.path.join(directory, "callgrind.out")
    run(["valgrind", "-q", "--tool=callgrind", *CACHES, "--toggle-collect=talk", f"--callgrind-out-file={out}", program, str(rounds)], timeout_s=600)
    with open(out, encoding="utf-8") as f:
        text = f.read()
    names = re.search(r"^events: (.*)$", text, re.M).group(1).split()
    totals = re.search(r"^(?:summary|totals): (.*)$", text, re.M).group(1).split()
    return dict(zip(names, map(int, totals)))


def bench_area(directory, pairs, results):
    top = os.environ["top_builddir"]
    run(["make", "-s", "-C", top, *PROGRAMS.values()], timeout_s=600)
    programs = {name: os.path.join(top, p) for name, p in PROGRAMS.items()}
    print(f"\nthe user area beside the heap: 4096 messages wait, any one is received and another one sent; {pairs} ABBA pairs")
    samples = {name: [] for name in programs}
    for _ in range((pairs + 1) // 2):
        for name in ("user area", "heap", "heap", "user area"):
            samples[name].append(values_of(run([programs[name]]), name))
    a, b = samples["user area"], samples["heap"]
    print(f"  {'':34} {'user area':>24} {'heap':>24} {'user area / heap':>24}")
    for key, text in (("round_kticks", "thousand ticks a round"), ("pages", "pages of what rounds asked for")):
        x, y = [s[key] for s in a], [s[key] for s in b]
        print(f"  {text:34} {spread(x):>24} {spread(y):>24} {spread([m / n for m, n in zip(x, y)]):>24}", flush=True)
    counts = {}
    if not shutil.which("valgrind"):
        print("  no valgrind here, so no counts; on Debian: valgrind")
    else:
        rounds = 20000
        counts = {name: counted(p, directory, rounds) for name, p in programs.items()}
        for event, text in EVENTS:
            x, y = [counts[name][event] / rounds for name in programs]
            if y == 0:
                raise BenchError(f"the simulation has counted no {text}")
            print(f"  {text + ' a round':34} {x:>24.4g} {y:>24.4g} {x / y:>24.3g}", flush=True)
    results.append({"what": "area", "samples": {"user area": a, "heap": b}, "counts": counts})
