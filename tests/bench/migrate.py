# SPDX-License-Identifier: BSD-2-Clause
"""Benchmark of techniques: how long a rank stands still, from outside and as it saw it itself, beside CRIU and beside one copy of
the same bytes over the same kind of socket."""
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

from base import HERE, BenchError, mpis, run, spread
from moves import Jobs, pauses

# what is moved: its name, arguments of downtime.c (MiB, MiB/s, MiB of these that are written), techniques, moves by each
CASES = (("hello after MPI_Init", ["0"], ("stop-and-copy", "pre-copy", "post-copy"), 20),
         ("64 MiB", ["64"], ("stop-and-copy", "pre-copy"), 8),
         ("256 MiB", ["256"], ("stop-and-copy", "pre-copy"), 6),
         ("1 GiB", ["1024"], ("stop-and-copy", "pre-copy", "post-copy"), 5),
         ("1 GiB, 100 MiB/s", ["1024", "100"], ("pre-copy", "post-copy", "hybrid", "auto"), 5),
         ("1 GiB, 2 GiB/s", ["1024", "2048"], ("auto",), 3))
SLOWDOWN_MOVES = 20
HEAD = f"  {'rank':24} {'technique':14} {'outside, ms':>22} {'inside, ms':>22} {'total, ms':>22} {'rounds':>6} {'MiB':>6} {'n':>3}"


class Victim:
    """A job whose last rank goes to and fro between two clusters of this machine."""

    def __init__(self, command, stop=None):
        sys.path.insert(0, os.path.join(HERE, "..", "driver"))
        import godwit  # what the system tests share

        self.stop = stop
        self.job = godwit.Job(Jobs(), command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.job.kill()
        if self.stop and os.path.exists(self.stop):
            os.unlink(self.stop)

    def begin(self, pattern):
        if not self.job.wait_line(pattern, 60):
            raise BenchError("the program did not start: " + "; ".join(self.job.tail()))
        self.head = self.job.head()

    def move(self, technique, **how):
        """The measures of a move; None: this host cannot do it so."""
        ranks = self.head.ranks()
        who = max(ranks)
        answer = self.head.migrate([who], 1 - ranks[who]["cluster"], technique=technique, **how)[0]
        if answer["status"] != 0:
            print(f"  {technique}: {answer['text']}")
            return None
        return answer["measures"]

    def end(self):
        """It looks at its memory and ends: nothing may be lost."""
        self.head.close()
        with open(self.stop, "w", encoding="utf-8"):
            pass
        looked = self.job.wait_line(r"^memory rank=\d+ bad=(\d+) ", 60)
        if not looked or self.job.wait(60) != 0:
            raise BenchError("it did not look at its memory and end: " + "; ".join(self.job.tail()))
        if looked.group(1) != "0":
            raise BenchError(f"{looked.group(1)} words of its memory are not what it wrote")


def longest(seen, m):
    """The pause that the rank saw over a move, ms; None where it saw none that is worth a line."""
    over = [(p[1] - p[0]) / 1e6 for p in seen if p[0] < m["thawed_at_ns"] and p[1] > m["frozen_at_ns"]]
    return max(over) if over else None


def row(name, technique, found, seen, results):
    inside = [p for p in (longest(seen, m) for m in found) if p is not None]
    middle = lambda key: sorted(m[key] for m in found)[len(found) // 2]
    print(f"  {name:24} {technique:14} {spread([m['downtime_ns'] / 1e6 for m in found]):>22} {spread(inside) if inside else '-':>22} "
          f"{spread([m['total_ns'] / 1e6 for m in found]):>22} {middle('rounds'):6} {middle('bytes') / (1 << 20):6.0f} {len(found):3}",
          flush=True)
    results.append({"what": "migrate", "case": name, "technique": technique, "moves": found, "inside_ms": inside})
    return statistics.median(m["downtime_ns"] for m in found) / 1e9


def bench_memory(program, stop, name, args, techniques, moves, results):
    """Technique -> median downtime in seconds."""
    found = {t: [] for t in techniques}
    with Victim(["-n", "2", "-clusters", "2", program, stop] + args, stop) as v:
        v.begin(r"^ready rank=1")
        for i in range(moves): # the techniques take turns, there and back, so that a change of the machine's mood meets all
            for technique in (techniques if i % 2 == 0 else reversed(techniques)):
                m = v.move(technique) if found[technique] is not None else None
                if m:
                    found[technique].append(m)
                else:
                    found[technique] = None
        v.end()
        seen = list(pauses(v.job))
    return {t: row(name, t, found[t], seen, results) for t in techniques if found[t]}


def bench_halo(results):
    """Both ranks in the middle of an exchange of edges; that the answer is right to the last bit is for the tests to say."""
    program = os.path.join(os.environ["top_builddir"], "examples", "jacobi")
    with Victim(["-n", "2", "-clusters", "2", program, "--size", "512", "--iterations", "100000000", "--report", "100"]) as v:
        v.begin(r"residual")
        for technique in ("stop-and-copy", "pre-copy"):
            found = [m for m in (v.move(technique) for _ in range(10)) if m]
            if found:
                row("halo exchange (jacobi)", technique, found, [], results)


def bench_loaded(program, stop, results):
    """Something else wants every processor all the time."""
    others = [subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True) for _ in range(os.cpu_count())]
    try:
        bench_memory(program, stop, "hello, host is busy", ["0"], ("stop-and-copy", "pre-copy"), 10, results)
    finally:
        for p in others:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def pace(notes, begin, end):
    """What a rank did between two moments: pages a second, and processor time for each."""
    inside = [n for n in notes if begin <= n[0] <= end]
    if len(inside) < 4 or inside[-1][1] == inside[0][1]:
        return None
    pages = inside[-1][1] - inside[0][1]
    return pages / (inside[-1][0] - inside[0][0]), (inside[-1][2] - inside[0][2]) / pages


def slower_by(found, lines):
    """Percent, for each move that was long enough to tell: by how much a rank was slower while its memory went in rounds than right
    before, for as long, but half a second at most; how much more processor time a page took it; and, to tell what the first means on
    this machine, by how much it was slower right before than in as long a time before that."""
    notes = [tuple(map(int, m.groups())) for m in
             (re.match(r"note rank=\d+ at_ns=(\d+) written_pages=(\d+) cpu_ns=(\d+)", l) for l in lines) if m]
    slower, dearer, control = [], [], []
    for m in found:
        rounds = m["phases"]["rounds_ns"]
        end = m["frozen_at_ns"] - m["phases"]["freeze_ns"] - m["phases"]["quiesce_ns"]
        asked = end - rounds - m["phases"]["prepare_ns"]
        span = min(rounds, 500000000)
        during = pace(notes, end - rounds, end)
        before, earlier = (pace(notes, b, b + span) for b in (asked - span, asked - 2 * span))
        if during and before and earlier:
            slower.append(100 * (1 - during[0] / before[0]))
            dearer.append(100 * (during[1] / before[1] - 1))
            control.append(100 * (1 - before[0] / earlier[0]))
    if not slower:
        raise BenchError("the rounds were too short to see how fast the rank was")
    return slower, dearer, control


def slowdown_row(words, found, lines, results):
    slower, dearer, control = slower_by(found, lines)
    print(f"  slower by {spread(slower)} % (n {len(slower)}) for {spread([m['phases']['rounds_ns'] / 1e6 for m in found])} ms: {words}\n"
          f"    a page takes it {spread(dearer)} % more processor time; without a move it is slower than as long before by {spread(control)} %; "
          f"the pause is {spread([m['downtime_ns'] / 1e6 for m in found])} ms", flush=True)
    results.append({"what": "slowdown", "case": words, "percent": slower, "cpu_percent": dearer, "control_percent": control, "moves": found})


def bench_slowdown(program, stop, results, where, words, hows):
    """A rank whose work writes 100 MiB/s: how much less it does while its memory is sent in rounds. @where: its job's options; @hows: a name
    and how to move, in turns ABBA"""
    found = {name: [] for name, _ in hows}
    with Victim(where + [program, stop, "1024", "100", "0", "work"], stop) as v:
        v.begin(r"^ready rank=")
        for i in range(SLOWDOWN_MOVES):
            time.sleep(1.2) # what it does undisturbed: the copy that the last move has left must be gone
            name, how = hows[(0, 1, 1, 0)[i % 4] % len(hows)]
            m = v.move("pre-copy", **how)
            if m:
                found[name].append(m)
        v.end()
        for name, _ in hows:
            slowdown_row(words + name, found[name], v.job.out(), results)


def bench_slowdowns(program, stop, results):
    print("\n  a rank whose work writes 100 MiB/s while its 1 GiB is sent in rounds is")
    bench_slowdown(program, stop, results, ["-n", "1", "-clusters", "2"], "it is alone, so the daemons have a core that is free", [("", {})])
    bench_slowdown(program, stop, results, ["-n", "2", "-clusters", "2"], "its peer waits for it all the time", [("", {})])
    others = [subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True) for _ in range(os.cpu_count() - 1)]
    try:
        bench_slowdown(program, stop, results, ["-n", "1", "-launcher", "fork", "-hosts", "a,b"], "all other cores compute",
                       [("", {}), (", with --max-slowdown 10%", {"max_slowdown": 100})])
    finally:
        for p in others:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def bench_copy(mib, seconds, results):
    """Beside stop-and-copy of as much, which took @seconds."""
    program = os.path.join(os.environ["top_builddir"], "tests", "bench", "copy")
    for kind in ("unix", "tcp"):
        took = [float(run([program, str(mib), kind]).strip().split("=")[1]) for _ in range(5)]
        middle = statistics.median(took)
        print(f"  one copy of {mib} MiB over a {kind} socket into fresh memory: {spread([1e3 * t for t in took])} ms (n 5)"
              + (f"; stop-and-copy goes at {100 * middle / seconds:.0f} % of its rate" if kind == "unix" and seconds else ""), flush=True)
        results.append({"what": "copy", "kind": kind, "mib": mib, "seconds": took})


def criu(*args):
    p = subprocess.run(["criu", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    said = p.stdout.strip().split("\n")
    return p.returncode == 0, next((l for l in said if l.startswith("Error") and "exited" not in l), said[-1] or f"status {p.returncode}")


def bench_criu(directory, results):
    """Dump and restore of a process that has written 1 MiB, 64 MiB, 256 MiB; the files lie in the same directory as all others."""
    if not shutil.which("criu"):
        print("  CRIU: not installed")
        return
    works, says = criu("check")
    if not works:
        print(f"  CRIU: does not work here: {says}")
        results.append({"what": "criu", "error": says})
        return
    for mib in (1, 64, 256):
        took = []
        for _ in range(3):
            images = os.path.join(directory, "criu")
            os.mkdir(images)
            code = f"import time\nm = bytearray(b'x' * ({mib} << 20))\nprint('ready', flush=True)\ntime.sleep(600)"
            p = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, start_new_session=True)
            p.stdout.readline()
            begin = time.monotonic()
            works, says = criu("dump", "-t", str(p.pid), "-D", images, "--file-locks")
            if works:
                works, says = criu("restore", "-d", "-D", images, "--file-locks")
            took.append(1e3 * (time.monotonic() - begin))
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except OSError:
                pass
            p.wait()
            shutil.rmtree(images)
            if not works:
                print(f"  CRIU: {mib} MiB: {says}")
                results.append({"what": "criu", "mib": mib, "error": says})
                return
        print(f"  CRIU, {mib} MiB, dump and restore: {spread(took)} ms (n {len(took)})", flush=True)
        results.append({"what": "criu", "mib": mib, "ms": took})


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((l.split(":")[1].strip() for l in f if l.startswith("model name")), "?")
    return f"{os.cpu_count()} CPUs ({model}), Linux {os.uname().release}, load {os.getloadavg()[0]:.1f}"


def bench_migrate(directory, moves, results):
    """@moves: 30 are as many as CASES says."""
    ours, _ = mpis()
    program, stop = ours.build("downtime.c", directory), os.path.join(directory, "stop")
    print(f"\nrank 1 of 2 to another cluster of this machine and back: {machine()}\n"
          "medians [quartiles]; outside: last thread stopped to last one let go; inside: the pause that the rank saw by CLOCK_REALTIME; "
          "all of its memory is checked in the end")
    print(HEAD)
    still = None
    for name, args, techniques, n in CASES:
        downtimes = bench_memory(program, stop, name, args, techniques, max(n * moves // 30, 2), results)
        still = downtimes.get("stop-and-copy", still)
    bench_halo(results)
    bench_loaded(program, stop, results)
    bench_slowdowns(program, stop, results)
    bench_copy(1024, still, results)
    bench_criu(directory, results)
