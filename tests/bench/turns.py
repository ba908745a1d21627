# SPDX-License-Identifier: BSD-2-Clause
"""What speed, coll and halo measure, in turns of milliseconds.

On a virtual machine two cores share a cache in one second and not in the next, and no pair of whole runs can be sure
to meet the same. So all programs are started together, each MPI's by its own launcher, rank r bound to core r where
every rank can have one. They wait in read(), and one after the other is told to do one batch of a point, the order
drawn anew in each round. Each round gives one ratio. Where a program's memory lies, which differs from start to start,
makes up to 9 % of a point's time: so a part of the rounds, and all programs anew.

	bench.py --only turns [--quick] [--points 'latency_(0|8)B'] [--build NAME=DIR]... [--ranks 8]

Each --build is another build directory of Godwit, perhaps with another MPICH (configure --with-mpich), or the same one
with other variables (now=build,GODWIT_X=1): it takes its turns in the same rounds, and its ratio to the first is
printed too.
"""
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import time

from base import BenchError, Mpi, mpis, spread, SMALLER_IS_BETTER
from onehost import better_of, command_of

# by is_quick. A turn of more ranks than cores lasts four times as long
BATCH_S = {True: 0.001, False: 0.002}
ROUNDS = {True: 60, False: 180}
STARTS = {True: 5, False: 9}
START_S, TURN_S = 60, 30


def build_of(text):
    """NAME=DIR[,VARIABLE=VALUE...] as an Mpi."""
    name, _, rest = text.partition("=")
    where, *variables = rest.split(",")
    if not re.fullmatch(r"[\w.-]+", name) or name in ("godwit", "mpich", "openmpi"):
        raise ValueError(f"'{name}' cannot be the name of a build; say NAME=DIR with another name")
    if not all("=" in v for v in variables):
        raise ValueError(f"'{text}' is not NAME=DIR[,VARIABLE=VALUE...]")
    where = os.path.abspath(where)
    mpi = Mpi(name, os.path.join(where, "mpicc"), [os.path.join(where, "mpirun"), "-n", "2", "-clusters", "1"],
              {"top_builddir": where, **dict(v.split("=", 1) for v in variables)})
    if not mpi.is_there():
        raise ValueError(f"there is no mpirun and no mpicc in '{where}'")
    return mpi


class Program:
    """Ranks of one MPI that wait for their turn."""

    def __init__(self, mpi, command):
        self.mpi, self.command, self.name = mpi, command, mpi.name
        self.ranks = {} # rank: its connection
        self.turns = {} # of a batch, by point
        self.proc = subprocess.Popen(command, env=mpi.env, stdin=subprocess.DEVNULL, start_new_session=True)

    def turn(self, point, turns):
        """One batch. Returns (seconds, figure), when all of its ranks wait again."""
        for rank in sorted(self.ranks, reverse=True):
            self.ranks[rank].send(f"{point} {turns}".encode())
        try:
            answers = {rank: self.ranks[rank].recv(256).decode() for rank in self.ranks}
        except TimeoutError:
            raise BenchError(f"{self.name}: a turn of {point} did not end within {TURN_S} s") from None
        if not all(answers.values()):
            raise BenchError(f"{self.name}: a rank went away at its turn of {point}")
        seconds, value = answers[0].split()
        return float(seconds), float(value)

    def calibrate(self, point, batch_s):
        """Find how many turns take @batch_s."""
        turns = 1
        while True:
            seconds = self.turn(point, turns)[0]
            if seconds > batch_s / 2:
                break
            turns = turns * 16 if seconds < batch_s / 64 else int(turns * batch_s / seconds) + 1
        self.turns[point] = turns

    def end(self):
        """Let it end by itself, else make it."""
        for connection in self.ranks.values():
            connection.close()
        try:
            self.proc.wait(10 if self.ranks else 0)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.proc.pid, signal.SIGTERM if self.proc.poll() is None else signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()


def meet(listener, programs, ranks):
    """Wait until every rank of all programs has said who it is. Returns the points that they can measure."""
    by_name = {p.name: p for p in programs}
    deadline = time.monotonic() + START_S
    points = []
    listener.settimeout(0.1)
    while any(len(p.ranks) < ranks for p in programs):
        for p in programs:
            if p.proc.poll() is not None:
                raise BenchError(f"'{' '.join(p.command)}' ended with status {p.proc.returncode} before its turn")
        if time.monotonic() > deadline:
            late = ", ".join(p.name for p in programs if len(p.ranks) < ranks)
            raise BenchError(f"ranks of {late} did not come within {START_S} s")
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(TURN_S)
        name, rank, *points = connection.recv(4096).decode().split()
        by_name[name].ranks[int(rank)] = connection
    return points


def bench_turns(directory, args, results):
    ours, others = mpis()
    ours = [ours] + args.build
    if len({m.name for m in ours}) < len(ours):
        raise BenchError("two builds have the same name")
    everybody = ours + [o for o in others if o.is_there()]
    programs = {m.name: m.build("onehost.c", directory) for m in everybody}
    seed = args.seed if args.seed is not None else int(time.time())
    starts = args.starts or STARTS[args.quick]
    rounds = -(-(args.rounds or ROUNDS[args.quick]) // starts)
    for ranks in args.ranks or [2]:
        is_pinned = ranks <= len(os.sched_getaffinity(0))
        path = os.path.join(directory, f"turns-{ranks}")
        first = ["chrt", "-f" if is_pinned else "-r", "1"] if args.fifo else []
        # MPICH spins where it waits: with more ranks than cores a barrier takes it a second
        commands = {m.name: command_of(m, ranks, programs[m.name], ["turns", path, m.name], is_pinned, first)
                    for m in everybody if is_pinned or m.name != "mpich"}
        print(f"\nturns, {ranks} ranks: {starts} starts of {rounds} rounds, seed {seed}; median [quartiles]; a time's "
              f"ratio is better below 1, a rate's above",
              *(f"{name}: {' '.join(command)}" for name, command in commands.items()), sep="\n  ", flush=True)
        samples = {name: [] for name in commands}
        draw = random.Random(seed)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen(len(commands) * ranks)
            for _ in range(starts):
                started = []
                try:
                    for m in everybody:
                        if m.name in commands:
                            started.append(Program(m, commands[m.name]))
                    points = [p for p in meet(listener, started, ranks) if re.search(args.points, p)]
                    if not points:
                        raise BenchError(f"no point's name has '{args.points}' in it")
                    take_turns(started, points, rounds, BATCH_S[args.quick] * (1 if is_pinned else 4), draw, samples)
                finally:
                    for p in started:
                        p.end()
        beside = [o.name for o in others if o.name in commands]
        rows([m.name for m in ours], beside, samples)
        for m in ours:
            against = beside + ([ours[0].name] if m != ours[0] else [])
            results.append({"what": "turns", "case": f"{ranks} ranks" + (f", {m.name}" if m != ours[0] else ""),
                            "seed": seed, "starts": starts, "rounds": rounds, "commands": commands,
                            "samples": {n: {"godwit": samples[m.name], "other": samples[n]} for n in against}})


def take_turns(programs, points, rounds, batch_s, draw, samples):
    """@rounds of each point; what came out is appended to @samples, a dictionary of points for each round."""
    taken = {p.name: [{} for _ in range(rounds)] for p in programs}
    for key in points:
        for p in programs:
            p.calibrate(key, batch_s)
        for i in range(rounds):
            for p in draw.sample(programs, len(programs)):
                taken[p.name][i][key] = p.turn(key, p.turns[key])[1]
    for name, all_rounds in taken.items():
        samples[name] += all_rounds


def rows(ours, others, samples):
    """One row for each point and build of ours: figure, ratio to the better of the others, ratio to the first build."""
    width = max(len(n) for n in ours) + 2
    print(f"  {'':24} {'':{width}}{'figure':>24}{'the better':>12}{'its figure':>24}{'to the better':>24}" +
          (f"{'to ' + ours[0]:>24}" if len(ours) > 1 else ""))
    for key in samples[ours[0]][0]:
        figures = {name: [s[key] for s in taken] for name, taken in samples.items()}
        best = better_of(key, {o: statistics.median(figures[o]) for o in others}) if others else None
        for name in ours:
            line = f"  {key if name == ours[0] else '':24} {name:{width}}{spread(figures[name]):>24}"
            line += f"{best:>12}{spread(figures[best]):>24}{ratios(figures, name, best):>24}" if best else " " * 60
            print(line + (f"{ratios(figures, name, ours[0]):>24}" if name != ours[0] else ""))


def ratios(figures, a, b):
    return spread([x / y for x, y in zip(figures[a], figures[b])])
