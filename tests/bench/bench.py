#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""bench.py: what './quickstart bench' prints.

1. Speed among ranks of one host, beside Debian's MPICH and Open MPI where they are installed: two ranks (speed), collectives
   with 2, 8 and 16 (coll), a halo exchange with up to 64 (halo), packing (types). And the same MPICH over libfabric's own
   providers of one host, shm and sockets (providers). Both are run in turn, ABBA, so that a
   change of the machine's mood meets both; each pair gives one ratio, and what counts is the median of the ratios with its
   interquartile range. Two ranks of the others run pinned to two cores, by the program itself, and unpinned; the better counts.
2. Speed between two ranks on two emulated hosts (doc/rig.md) over TCP, beside the same MPIs.
3. What a peer that sends all the time sees of a move to another host: the pause between two messages.
4. The downtime of stop-and-copy moves of an MPI hello after MPI_Init: from outside, as the daemons measured it, and from
   inside, as the rank saw it by CLOCK_REALTIME; and by how much CLOCK_MONOTONIC advanced meanwhile.
5. How long a rank with up to 1 GiB stands still, which it writes at several rates, by each technique, in a halo exchange, and on
   a busy host; all of its memory is checked in the end. By how much it is slowed down before. Beside one copy of the same bytes
   over the same kind of socket, and CRIU where it works.
6. One-sided operations with the target in MPI, and while it computes, beside the same MPIs.
7. What grows with hosts: messages and time of the name service per move; start-up and memory of 200 ranks on four hosts.
8. Balancing: an uneven program beside the ideal, one whose load wanders beside an oracle, what a balanced one pays, hosts that are
   emptied and that join. Parts of it: --parts uneven,drift,even,drain,join; --share: of a core that each cluster has.
9. Strategy comm: bytes over the link between two hosts, and bytes times hops on a torus, before and after ranks that stand shuffled have
   been brought together (commplace).
10. A program of 64 ranks that only meets in a barrier, from its start to its end; what a rank has to itself (start).
11. The runtime's state in the user area and in the program's heap: time, pages, cache misses (area).
12. Moves between two emulated hosts over a link of 100 MB/s, of memory that packs well, half as well and not at all: with packing, and
   without (slowlink). By how much a rank is slower that moves between two such hosts (slowhosts).
13. What speed, coll and halo measure, with all programs started together and taking turns of milliseconds (turns), so that also other
   builds of Godwit can be compared within the same moments (--build). Points of it: --points; --ranks: more than two.

The programs are compiled here, by each MPI's own wrapper with -O2, in a temporary directory. --json FILE keeps all samples.
"""
import argparse
import json
import os
import signal
import sys
import tempfile

import picture

from area import bench_area
from balance import PARTS, bench_balance
from base import BenchError
from commplace import bench_commplace
from hosts import bench_hosts
from migrate import bench_migrate
from moves import bench_downtime, bench_pause
from net import bench_net
from onehost import CASES, bench_onehost
from onesided import bench_onesided
from slowlink import bench_slowhosts, bench_slowlink
from start import bench_start
from turns import bench_turns, build_of


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is less than 1")
    return value


def build(text):
    try:
        return build_of(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no part of a core: more than 0, at most 1")
    return value


def parts(text):
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part '{name}': {', '.join(PARTS)} are")
    return names


def main():
    parser = argparse.ArgumentParser(description="Godwit's benchmarks")
    parser.add_argument("--pairs", type=positive, default=12, help="pairs for each ratio (12)")
    parser.add_argument("--moves", type=positive, default=30, help="moves that are measured (30); of migrate, in proportion to what its table says")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--fifo", action="store_true", help="ranks of net, speed, coll, halo and types get the cores before all other "
                        "work (SCHED_FIFO, SCHED_RR)")
    parser.add_argument("--only", action="append", metavar="WHAT", choices=[*CASES, "net", "onesided", "start", "area", "pause", "downtime",
                        "migrate", "slowlink", "slowhosts", "hosts", "balance", "commplace", "turns"], help="one of them; may come again")
    parser.add_argument("--share", type=share, help="of a core, for each cluster of balance (1, and 0.5 for drift); root")
    parser.add_argument("--parts", type=parts, default=PARTS, help=f"of balance: {','.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=positive,
                        help="of turns: in each, every program has a turn at each point (180; with --quick 60)")
    parser.add_argument("--starts", type=positive, help="of turns: how often all programs are started anew (9; with --quick 5)")
    parser.add_argument("--points", default="", metavar="REGEX", help="of turns: those whose names have this in them (all)")
    parser.add_argument("--ranks", type=positive, action="append", help="of turns: of each program (2); may come again")
    parser.add_argument("--build", type=build, action="append", default=[], metavar="NAME=DIR[,VARIABLE=VALUE...]",
                        help="of turns: another build directory of Godwit to compare, or the same with other variables; may come again")
    parser.add_argument("--seed", type=int, help="of turns: of the order in each round (the clock)")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    parser.add_argument("--picture", metavar="FILE", help="draw the ratios of speed, coll, halo, types, onesided and start there (SVG)")
    args = parser.parse_args()
    if not os.environ.get("top_builddir"):
        parser.error("$top_builddir must name the build directory; './quickstart bench' sets it")
    for path in filter(None, (args.json, args.picture)): # said now, not when all has been measured
        try:
            open(path, "a", encoding="utf-8").close()
        except OSError as e:
            parser.error(f"cannot write '{path}': {e.strerror}")
    results = []
    status = 0
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start: figures of a busy machine mean little")
    for sig in (signal.SIGTERM, signal.SIGHUP): # the directory goes with us, as at Ctrl-C
        signal.signal(sig, lambda sig, frame: sys.exit(128 + sig))
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as directory:
        os.environ["TMPDIR"] = directory # Open MPI leaves its session there when it is killed
        for name, bench in (*((what, lambda what=what: bench_onehost(what, directory, args.pairs, args.fifo, results))
                              for what in CASES),
                            ("net", lambda: bench_net(directory, args.pairs, args.quick, args.fifo, results)),
                            ("onesided", lambda: bench_onesided(directory, args.pairs, args.quick, results)),
                            ("start", lambda: bench_start(directory, args.pairs, results)),
                            ("area", lambda: bench_area(directory, args.pairs, results)),
                            ("pause", lambda: bench_pause(directory, args.moves, results)),
                            ("downtime", lambda: bench_downtime(directory, args.moves, results)),
                            ("migrate", lambda: bench_migrate(directory, args.moves, results)),
                            ("slowlink", lambda: bench_slowlink(directory, args.moves, results)),
                            ("slowhosts", lambda: bench_slowhosts(directory, args.moves, results)),
                            ("hosts", lambda: bench_hosts(directory, args.moves, results)),
                            ("balance", lambda: bench_balance(directory, args.pairs, args.share, args.quick, results, args.parts)),
                            ("commplace", lambda: bench_commplace(directory, args.pairs, results)),
                            ("turns", lambda: bench_turns(directory, args, results))):
            if args.only and name not in args.only:
                continue
            try:
                bench()
            except BenchError as e:
                print(f"bench: {name}: {e}", file=sys.stderr)
                status = 1
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    if args.picture:
        try:
            drawn = picture.draw(results)
        except ValueError as e:
            print(f"bench: no picture: {e}", file=sys.stderr)
            return 1
        with open(args.picture, "w", encoding="utf-8") as f:
            f.write(drawn)
    return status


if __name__ == "__main__":
    sys.exit(main())
