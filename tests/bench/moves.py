# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks of moves: downtime as seen from outside and inside, and what a peer sees of it."""
import os
import re
import sys
import time

from base import HERE, BenchError, mpis, spread


class Jobs:
    """What driver/godwit.py's Job wants of a test: the list of jobs that run."""

    def __init__(self):
        self.jobs = []


def pauses(job):
    for line in job.out():
        m = re.match(r"pause rank=1 from_ns=(\d+) to_ns=(\d+) monotonic_ns=(\d+)", line)
        if m:
            yield tuple(int(g) for g in m.groups())


def move_about(program, options, clusters, moves):
    """A job whose rank 1 goes from one of @clusters to the next. Returns the measures of each move, for each the pause that
    the rank saw over it, and its line of sizes."""
    sys.path.insert(0, os.path.join(HERE, "..", "driver"))
    import godwit  # what the system tests share

    job = godwit.Job(Jobs(), options + program)
    try:
        if not job.wait_line(r"^ready rank=1", 30):
            raise BenchError("the program did not start: " + "; ".join(job.tail()))
        head = job.head()
        answers = []
        for i in range(moves):
            at = head.ranks()[1]["cluster"]
            to = clusters[(clusters.index(at) + 1) % len(clusters)]
            answer = head.migrate([1], to)[0]
            if answer["status"] != 0:
                raise BenchError(f"move {i} to cluster {to} failed: {answer['text']}")
            answers.append(answer["measures"])
        # the rank tells of its last pause after the move has been reported
        deadline = time.monotonic() + 10
        with job.cond:
            while not any(p[1] >= answers[-1]["frozen_at_ns"] for p in pauses(job)) and time.monotonic() < deadline:
                job.cond.wait(deadline - time.monotonic())
        seen = list(pauses(job))
        size = next((godwit.fields(line) for line in job.out() if line.startswith("size rank=1")), {})
    finally:
        job.kill()
    found = []
    for m in answers:
        over = [p for p in seen if p[0] < m["thawed_at_ns"] and p[1] > m["frozen_at_ns"]]
        if not over:
            raise BenchError("the rank saw no pause where the daemons report a move")
        found.append(max(over, key=lambda q: q[1] - q[0]))
    return answers, found, size


def phases(answers):
    names = sorted({k for m in answers for k in m if k.endswith("_ns") and not k.endswith("_at_ns")} - {"downtime_ns"})
    return [(k[:-3], [m[k] / 1e6 for m in answers if m.get(k) is not None]) for k in names]


def table(rows):
    print(f"  {'':34} {'median [quartiles], ms':>30} {'max':>9}")
    for name, values in rows:
        if values:
            print(f"  {name:34} {spread(values):>30} {max(values):9.3g}", flush=True)


def bench_downtime(directory, moves, results):
    ours, _ = mpis()
    program = [ours.build("downtime.c", directory), "600"]
    answers, seen, size = move_about(program, ["-n", "2", "-clusters", "2"], [0, 1], moves)
    inside = [(p[1] - p[0]) / 1e6 for p in seen]
    skew = [abs(p[2] - (p[1] - p[0])) / 1e6 for p in seen]
    print(f"\n{len(answers)} stop-and-copy moves of an MPI hello after MPI_Init, there and back between two clusters; "
          f"{size['mappings']} mappings, {int(size['private_dirty_bytes']) / 1e6:.2f} MB of private memory written")
    table([("downtime, from outside", [m["downtime_ns"] / 1e6 for m in answers]),
           ("downtime, CLOCK_REALTIME inside", inside), ("CLOCK_MONOTONIC differs by", skew)] + phases(answers))
    results.append({"what": "downtime", "moves": answers, "inside_ms": inside, "skew_ms": skew, "size": size})


def bench_pause(directory, moves, results):
    """Rank 0 stays on host a and sends all the time; rank 1 goes to and fro between b and c: never in reach of its memory."""
    ours, _ = mpis()
    for options in (["-pin"], []):
        program = [ours.build("pause.c", directory), "600"] + options
        hosts = ["-launcher", "fork", "-hosts", "a:1,b:1,c:1", "-n", "2"]
        answers, seen, _ = move_about(program, hosts, [1, 2], moves)
        pause = [(p[1] - p[0]) / 1e6 for p in seen]
        print(f"\n{len(answers)} moves between two hosts of a rank whose peer on a third sends to it all the time, "
              f"{'each on its own core' if options else 'unpinned'}\n  godwit: mpirun {' '.join(hosts + program)}")
        table([("pause between two messages", pause), ("downtime, from outside", [m["downtime_ns"] / 1e6 for m in answers]),
               ("pause before the rank stops", [(m["frozen_at_ns"] - p[0]) / 1e6 for p, m in zip(seen, answers)]),
               ("pause after it runs again", [(p[1] - m["thawed_at_ns"]) / 1e6 for p, m in zip(seen, answers)])] +
              phases(answers))
        results.append({"what": "pause", "pinned": bool(options), "moves": answers, "pause_ms": pause})
