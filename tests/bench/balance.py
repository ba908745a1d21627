# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks of balancing: how near to the ideal an uneven program comes, how much of an oracle's gain a program has whose load
wanders, what a balanced program pays, and how long hosts take to be emptied and to join.

Clusters have a share of a core each where control groups can be made (root): by CFS bandwidth, in periods of some milliseconds, with
a weight that other work of the machine hardly takes anything from. So four clusters of equal share fit on two cores, and with a
small share (--share 0.2) figures of a busy machine mean something, too. Hosts are played by daemons on 127.0.0.2 and so on."""
import os
import re
import statistics
import sys
import threading
import time

from base import HERE, BenchError, spread
from moves import Jobs

sys.path.append(os.path.join(HERE, "..", "driver")) # after our own: some names are in both
import godwit # what the system tests share

TOP = os.environ.get("top_builddir", "")
UNEVEN, DRIFT = (os.path.join(TOP, p) for p in ("tests/programs/uneven", "examples/drift"))
PERIOD_US = 20000 # five ticks of a kernel with 250 a second: shorter ones are not kept to


class Shares:
    """@n clusters, each a host of its own with @share of a core. Cluster k is on core k * cores / n."""

    def __init__(self, n, share, directory):
        self.groups, self.n, self.share = [], n, share
        cores = sorted(os.sched_getaffinity(0))
        self.script = os.path.join(directory, f"launch-{n}")
        root = "/sys/fs/cgroup/cpu" if os.path.exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or \
            os.path.isdir("/sys/fs/cgroup/cpu") else "/sys/fs/cgroup"
        lines = ["#!/bin/sh", "n=$((${1##*.} - 2))", "case $n in"]
        for k in range(n):
            group = os.path.join(root, f"godwit-bench-{os.getpid()}-{k}")
            lines.append(f"{k}) group={group} core={cores[k * len(cores) // n]};;")
            if share < 1:
                self.make(root, group)
        lines += ["esac"] + (["echo $$ > $group/cgroup.procs"] if share < 1 else []) + ['exec taskset -c $core sh -c "$2"', ""]
        with open(self.script, "w", encoding="utf-8") as f:
            f.write("\n".join(lines))
        os.chmod(self.script, 0o755)

    def make(self, root, group):
        try:
            if os.path.exists(root + "/cgroup.subtree_control"):
                self.write(root, "cgroup.subtree_control", "+cpu")
            os.mkdir(group)
            self.groups.append(group)
            if os.path.exists(group + "/cpu.max"):
                self.write(group, "cpu.max", f"{int(PERIOD_US * self.share)} {PERIOD_US}")
                self.write(group, "cpu.weight", "10000")
            else:
                self.write(group, "cpu.cfs_period_us", str(PERIOD_US))
                self.write(group, "cpu.cfs_quota_us", str(int(PERIOD_US * self.share)))
                self.write(group, "cpu.shares", "100000")
        except OSError as e:
            self.close()
            raise BenchError(f"clusters cannot be given a share of a core here: {e}") from None

    @staticmethod
    def write(group, name, text):
        with open(os.path.join(group, name), "w", encoding="utf-8") as f:
            f.write(text)

    def options(self, ranks):
        hosts = ",".join(f"127.0.0.{k + 2}:{ranks // self.n}" for k in range(self.n))
        return ["-launcher", self.script + " %h %c", "-hosts", hosts, "-n", str(ranks)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for group in self.groups:
            godwit.wait_for(lambda: not open(group + "/cgroup.procs", encoding="utf-8").read(), 10)
            os.rmdir(group)
        self.groups = []


class Run:
    """A job to its end, whatever happens."""

    def __init__(self, args, **more):
        self.job = godwit.Job(Jobs(), args, **more)

    def __enter__(self):
        return self.job

    def __exit__(self, *_):
        self.job.kill()


def wait_line(job, pattern, timeout):
    found = job.wait_line(pattern, timeout)
    if not found:
        raise BenchError("the program does not say '%s': %s" % (pattern, "; ".join(job.tail())))
    return found


# ---- ranks with three times the work --------------------------------------------------------------------------------------


def steps_of(job, seconds, after=0.0):
    """(when, milliseconds a step) of each line that uneven prints, for so long."""
    wait_line(job, r"^steps", 120)
    start, seen, found = time.monotonic(), len(job.out()), []
    while time.monotonic() < start + after + seconds and job.is_running():
        with job.cond:
            job.cond.wait(0.2)
        for line in job.out()[seen:]:
            m = re.match(r"steps (\d+) seconds (\S+)", line)
            seen += 1
            if m and time.monotonic() > start + after:
                found.append((time.monotonic() - start, 1000 * float(m.group(2)) / int(m.group(1))))
    if not found:
        raise BenchError("the program took no steps: " + "; ".join(job.tail()))
    return found


def uneven(shares, stop, ranks, units, heavy, seconds, after=0.0, options=()):
    """Its steps, and the job's balance as status has it."""
    if os.path.exists(stop):
        os.unlink(stop)
    with Run(shares.options(ranks) + list(options) + [UNEVEN, stop, str(units), str(heavy)]) as job:
        found = steps_of(job, seconds, after)
        balance = job.head().status().get("balance")
        with open(stop, "w", encoding="utf-8"):
            pass
        if job.wait(120) != 0:
            raise BenchError("the program did not end well: " + "; ".join(job.tail()))
    return found, balance


def bench_uneven(directory, share, results, every=5):
    """The ideal is the same work in the same places, dealt out evenly: two ranks with eight units each instead of eight ranks with
    3, 3, 3, 3, 1, 1, 1 and 1. Before and after, so that a change of the machine's mood is seen."""
    stop, units, rows = os.path.join(directory, "stop"), max(4, int(150 * share)), []
    with Shares(2, share, directory) as s:
        first, _ = uneven(s, stop, 2, 8 * units, 1, 6)
        off, _ = uneven(s, stop, 8, units, 3, 8)
        on, balance = uneven(s, stop, 8, units, 3, 5 * every, 0, ["-balance", "refine", "-balance-every", f"{every}s"])
        last, _ = uneven(s, stop, 2, 8 * units, 1, 6)
    ideal = statistics.median(v for _, v in first + last)
    print(f"\n8 ranks, the first four with three times the work, on two clusters of {share:g} core each; looked at every {every} s")
    for name, values in (("ideal: the work dealt out evenly", [v for _, v in first + last]), ("not balanced", [v for _, v in off]),
                         ("after three intervals of balancing", [v for t, v in on if t > 3 * every])):
        rows.append(values)
        print(f"  {name:36} {spread(values):>26} ms a step   {statistics.median(values) / ideal:6.3f} of the ideal", flush=True)
    each = [statistics.median([v for t, v in on if k * every < t <= (k + 1) * every] or [float("nan")]) / ideal for k in range(5)]
    print(f"  ranks moved: {balance['moved']} in {balance['plans']} plans; a step in the five intervals: "
          f"{', '.join('%.3f' % e for e in each)} of the ideal", flush=True)
    results.append({"what": "uneven", "share": share, "ideal_ms": rows[0], "off_ms": rows[1], "on": on, "every_s": every, "balance": balance})


# ---- a load that wanders --------------------------------------------------------------------------------------------------


def fullest(loads, at, n):
    bins = [0.0] * n
    for load, b in zip(loads, at):
        bins[b] += load
    return max(bins)


def place(loads, n, start=None, enough=0.0):
    """The heaviest first, each to the least full bin; then moves and exchanges while they help. With a few dozen ranks that is within
    a percent of the lower bound, which is printed beside it. From @start: as few moves and exchanges as make the fullest no fuller than
    @enough, one after the other those that help most."""
    at, bins = list(start) if start else [0] * len(loads), [0.0] * n
    for r in range(len(loads)) if start else sorted(range(len(loads)), key=lambda r: -loads[r]):
        at[r] = at[r] if start else bins.index(min(bins))
        bins[at[r]] += loads[r]
    while max(bins) > enough:
        x, best = bins.index(max(bins)), None
        mine = [r for r in range(len(loads)) if at[r] == x]
        for r in mine:
            for other in [None] + [q for q in range(len(loads)) if at[q] != x]:
                for y in ([at[other]] if other is not None else [b for b in range(n) if b != x]):
                    delta = loads[r] - (loads[other] if other is not None else 0)
                    high = max(bins[x] - delta, bins[y] + delta)
                    if high < bins[x] - 1e-9 and (best is None or high < best[0]):
                        best = (high, r, other, y, delta)
        if not best:
            break
        _, r, other, y, delta = best
        at[r] = y
        if other is not None:
            at[other] = x
        bins[x] -= delta
        bins[y] += delta
    return at


class Oracle(threading.Thread):
    """Places all ranks anew whenever the program tells of an interval's end, by what the next one's loads will be."""

    def __init__(self, job, loads, n):
        super().__init__(daemon=True)
        self.job, self.loads, self.n, self.moved, self.error = job, loads, n, 0, None
        self.start()

    def run(self):
        try:
            name = self.job.wait_head(60)
            heads = [godwit.Head(name) for _ in range(self.n)]
            at = [r["cluster"] for r in sorted(heads[0].status()["ranks"], key=lambda r: r["rank"])]
            for k, loads in enumerate(self.loads):
                if k > 0 and not self.job.wait_line(r"^drift: loads at", 600, "out", k):
                    return
                to = place(loads, self.n, at, 1.03 * fullest(loads, place(loads, self.n), self.n))
                threads = [threading.Thread(target=self.move, args=(heads[c], [r for r in range(len(at)) if to[r] == c != at[r]], c))
                           for c in range(self.n)]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()
                at = [r["cluster"] for r in sorted(heads[0].status()["ranks"], key=lambda r: r["rank"])]
        except (OSError, EOFError, AttributeError) as e:
            self.error = e # at the end of the job it has no head any more

    def move(self, head, ranks, to):
        try:
            self.moved += sum(a["status"] == 0 for a in head.migrate(ranks, to)) if ranks else 0
        except (OSError, EOFError) as e: # it has ended
            self.error = e


def drift(options, args, loads=None, n=4):
    """Seconds, loads of each interval, checksum, moves"""
    with Run(options + [DRIFT, "--loads"] + args) as job:
        oracle = Oracle(job, loads, n) if loads else None
        balance, head = {}, None
        while job.is_running():
            try:
                head = head or job.head(5)
                balance = head.status().get("balance") or {}
            except (OSError, EOFError, RuntimeError):
                head = None
            with job.cond:
                job.cond.wait(1)
        if job.wait(30) != 0:
            raise BenchError("drift did not end well: " + "; ".join(job.tail()))
        last = godwit.fields([l for l in job.out() if "checksum=" in l][0])
        told = [[int(x) for x in l.split(":")[2].split()] for l in job.out() if "loads at step" in l]
        pace = [(float(m.group(2)), float(m.group(1))) for m in (re.search(r"([\d.]+) ms a step.* ([\d.]+) s$", l) for l in job.out()) if m]
    return {"seconds": float(last["seconds"]), "loads": told, "checksum": last["checksum"], "pace": pace,
            "moved": oracle.moved if oracle else balance.get("moved", 0), "plans": balance.get("plans", 0), "words": balance.get("words")}


def bench_drift(directory, share, is_quick, results, every=1, ranks=64, rounds=1):
    """The oracle knows each interval's loads before (the program is deterministic, a run that is left alone has told them), and has them
    placed within 3 % of the best that a good search finds, by few moves, for real: they cost what moves cost. What it would gain were they free is computed beside: the
    fullest cluster's particles set the pace of each interval."""
    particles = int(240000 * share)
    args = ["--particles", str(particles), "--steps", "200", "--report", "3", "--drift", "5000", "--work", "40"]
    if is_quick: # the same way of the whirl in fewer steps
        args = ["--particles", str(particles), "--steps", "80", "--report", "2", "--drift", "10000", "--work", "30"]
    with Shares(4, share, directory) as s:
        plain = s.options(ranks)
        found = {"not balanced": [], "refine": [], "oracle": []}
        for k in range(rounds):
            off = drift(plain, args)
            found["not balanced"].append(off)
            loads = off["loads"]
            order = [("refine", lambda: drift(plain + ["-balance", "refine", "-balance-every", f"{every}s"], args)),
                     ("oracle", lambda: drift(plain, args, loads))]
            for name, run in order if k % 2 == 0 else reversed(order):
                found[name].append(run())
    if len({r["checksum"] for runs in found.values() for r in runs}) != 1:
        raise BenchError("the answers differ")
    first = [r * 4 // ranks for r in range(ranks)]
    alone = sum(fullest(l, first, 4) for l in loads)
    best = sum(fullest(l, place(l, 4), 4) for l in loads)
    bound = sum(max(sum(l) / 4, max(l)) for l in loads)
    print(f"\ndrift: {ranks} ranks on four clusters of {share:g} core each; looked at every {every} s; the oracle places them anew every {args[5]} steps")
    seconds = {name: statistics.median(r["seconds"] for r in runs) for name, runs in found.items()}
    for name, runs in found.items():
        gain = (seconds["not balanced"] - seconds[name]) / (seconds["not balanced"] - seconds["oracle"])
        print(f"  {name:14} {spread([r['seconds'] for r in runs]):>24} s   {runs[-1]['moved']:4} moves   {100 * gain:5.0f} % of the oracle's gain")
    print(f"  with moves that cost nothing the oracle would take {seconds['not balanced'] * best / alone:.3g} s, and no placement less than "
          f"{seconds['not balanced'] * bound / alone:.3g}; refine has "
          f"{100 * (seconds['not balanced'] - seconds['refine']) / (seconds['not balanced'] * (1 - best / alone)):.0f} % of that gain", flush=True)
    results.append({"what": "drift", "share": share, "every_s": every, "runs": found, "loads": loads})


# ---- nothing to do ----------------------------------------------------------------------------------------------------------


def bench_even(directory, share, pairs, results):
    """Eight ranks with the same work on two clusters, looked at every second or never, in turn. Time of a step."""
    stop, units, ratios, moved = os.path.join(directory, "stop"), max(4, int(150 * share)), [], 0
    with Shares(2, share, directory) as s:
        for k in range(pairs):
            times = {}
            for on in ((False, True) if k % 2 == 0 else (True, False)):
                found, balance = uneven(s, stop, 8, units, 1, 4, 1.5, ["-balance", "refine", "-balance-every", "1s"] if on else [])
                times[on] = statistics.median(v for _, v in found)
                moved += balance["moved"] if on else 0
            ratios.append(times[True] / times[False])
    print(f"\n8 ranks with the same work on two clusters of {share:g} core each: a step with balancing (a look every second) takes "
          f"{spread(ratios)} of one without, {len(ratios)} pairs; ranks moved: {moved}", flush=True)
    results.append({"what": "even", "share": share, "ratios": ratios, "moved": moved})


# ---- hosts ------------------------------------------------------------------------------------------------------------------


def bench_drain(_directory, times, results):
    """16 busy ranks on each of two hosts; one host is emptied again and again. Then hosts come and go under balancing."""
    args = ["--particles", "20000", "--work", "40", "--report", "5", "--steps"]
    took = []
    with Run(["-launcher", "fork", "-hosts", "a:16,b:16", "-n", "32", DRIFT] + args + ["60"]) as job:
        if job.wait(600) != 0:
            raise BenchError("drift did not end well: " + "; ".join(job.tail()))
        want = godwit.checksum("\n".join(job.out()))
    with Run(["-launcher", "fork", "-hosts", "a:16,b:16", "-n", "32", DRIFT] + args + ["60"]) as job:
        wait_line(job, r"^drift: step", 120)
        head = job.head()
        for k in range(times):
            start = time.monotonic()
            try:
                m = head.drain("ab"[k % 2])
            except EOFError:
                break # it has ended
            if m["status"] < 0:
                raise BenchError("the host was not emptied: %s" % m)
            took.append((time.monotonic() - start, m["moved"]))
            head.undrain("ab"[k % 2])
        if job.wait(600) != 0 or godwit.checksum("\n".join(job.out())) != want:
            raise BenchError("the answer is another one: " + "; ".join(job.tail()))
    print(f"\na host with 16 or 32 busy ranks is emptied in {spread([t for t, _ in took])} s, {spread([t / n for t, n in took if n])} s a "
          f"rank, {len(took)} times, and the answer is the same", flush=True)
    results.append({"what": "drain", "took": took})


def bench_join(directory, share, results, every=3):
    """From the end of 'godwit add' to the first rank there, and to the step's time of two hosts; then the first host goes."""
    stop = os.path.join(directory, "stop")
    if os.path.exists(stop):
        os.unlink(stop)
    with Shares(2, share, directory) as s:
        options = s.options(8)
        hosts = options[3].split(",")
        options[3] = hosts[0].split(":")[0] + ":8"
        with Run(options + ["-balance", "refine", "-balance-every", f"{every}s", UNEVEN, stop, str(max(2, int(150 * share))), "1"]) as job:
            steps_of(job, 2)
            head = job.head()
            start = time.monotonic()
            m = head.add(hosts[1].split(":")[0])
            added = time.monotonic()
            if m["status"] < 0:
                raise BenchError("no host came: " + m["text"])
            there = godwit.wait_for(lambda: sum(r["cluster"] == 1 for r in head.status()["ranks"]), 60, 0.05)
            first = time.monotonic()
            godwit.wait_for(lambda: sum(r["cluster"] == 1 for r in head.status()["ranks"]) == 4, 60, 0.05)
            half = time.monotonic()
            m = head.remove(hosts[0].split(":")[0])
            removed = time.monotonic()
            with open(stop, "w", encoding="utf-8"):
                pass
            if m["status"] < 0 or not there or job.wait(120) != 0:
                raise BenchError("the first host did not leave: %s" % m)
    print(f"\na host joins in {added - start:.2f} s; {first - added:.2f} s later it has a rank and {half - added:.2f} s later half of them, "
          f"looked at every {every} s; the first host leaves in {removed - half:.2f} s", flush=True)
    results.append({"what": "join", "every_s": every, "add_s": added - start, "first_s": first - added, "half_s": half - added,
                    "remove_s": removed - half})


PARTS = ("uneven", "drift", "even", "drain", "join")


def bench_balance(directory, pairs, share, is_quick, results, parts=PARTS):
    for name, bench in zip(PARTS, (lambda: bench_uneven(directory, share or 1, results),
                                   lambda: bench_drift(directory, share or 0.5, is_quick, results),
                                   lambda: bench_even(directory, share or 1, pairs, results),
                                   lambda: bench_drain(directory, 12, results),
                                   lambda: bench_join(directory, share or 1, results))):
        if name in parts:
            bench()
