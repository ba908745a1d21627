# SPDX-License-Identifier: BSD-2-Clause
"""Benchmark of techniques: how long a rank with much memory stands still, and what that costs, by each of them."""
import os
import sys

from base import HERE, BenchError, mpis, spread
from moves import Jobs

TECHNIQUES = ("stop-and-copy", "pre-copy", "post-copy", "hybrid", "auto")

# MiB of memory, MiB/s written, to how much of it (0: all)
CASES = ((1, 0, 0), (64, 0, 0), (256, 0, 0), (256, 50, 0), (256, 500, 16), (256, 2000, 0), (1024, 0, 0), (1024, 100, 0), (1024, 2000, 0))


def moves_of(program, memory, stop, moves):
    """Rank 1 of @program with that @memory goes there and back, the techniques taking turns, until the file @stop ends it and
    it has looked at its memory. Technique -> list of measures."""
    sys.path.insert(0, os.path.join(HERE, "..", "driver"))
    import godwit  # what the system tests share

    techniques = [t for t in TECHNIQUES if t == "auto" or t in godwit.can_move()]
    job = godwit.Job(Jobs(), ["-n", "2", "-clusters", "2", program, stop] + memory)
    found = {t: [] for t in techniques}
    try:
        if not job.wait_line(r"^ready rank=1", 60):
            raise BenchError("the program did not start: " + "; ".join(job.tail()))
        head = job.head()
        for i in range(moves):
            for technique in techniques if i % 2 == 0 else reversed(techniques):
                answer = head.migrate([1], 1 - head.ranks()[1]["cluster"], technique=technique)[0]
                if answer["status"] != 0:
                    raise BenchError(f"{technique}: {answer['text']}")
                found[technique].append(answer["measures"])
        head.close()
        with open(stop, "w", encoding="utf-8"):
            pass
        looked = job.wait_line(r"^memory rank=1 bad=(\d+) ", 60)
        if not looked or job.wait(60) != 0:
            raise BenchError("it did not look at its memory and end: " + "; ".join(job.tail()))
        if looked.group(1) != "0":
            raise BenchError(f"{looked.group(1)} words of its memory are not what it wrote")
    finally:
        job.kill()
        if os.path.exists(stop):
            os.unlink(stop)
    return found


def bench_migrate(directory, moves, results):
    ours, _ = mpis()
    program = ours.build("downtime.c", directory)
    moves = max(moves // 6, 3)
    print(f"\nrank 1 of 2 to another cluster of this machine and back, {moves} moves by each technique, which take turns; medians "
          "[quartiles]; all of its memory is checked in the end")
    print(f"  {'MiB':>5} {'written':>16} {'technique':14} {'downtime, ms':>24} {'total, ms':>24} {'rounds':>6} {'MiB sent':>9}")
    for mib, rate, hot in CASES:
        found = moves_of(program, [str(mib), str(rate), str(hot)], os.path.join(directory, "stop"), moves)
        for technique, all_of in found.items():
            down, total = ([m[k] / 1e6 for m in all_of] for k in ("downtime_ns", "total_ns"))
            rounds = sorted(m["rounds"] for m in all_of)[len(all_of) // 2]
            sent = sorted(m["bytes"] for m in all_of)[len(all_of) // 2] / (1 << 20)
            wrote = f"{rate} MiB/s" + (f" of {hot}" if hot else "") if rate else "-"
            print(f"  {mib:5} {wrote:>16} {technique:14} {spread(down):>24} {spread(total):>24} {rounds:6} {sent:9.1f}", flush=True)
            results.append({"what": "migrate", "mib": mib, "rate": rate, "hot": hot, "technique": technique, "moves": all_of})
