# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks of what grows with hosts: messages and time of the name service per move, and a job of 200 ranks."""
import json
import os
import re
import select
import signal
import subprocess
import time

from base import BenchError, mpis, spread
from moves import move_about


def read_events(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def bench_names(directory, moves, results):
    """One rank on each host; rank 1 goes round. The daemon that has it tells the head, the head tells the daemons of all
    other hosts, and each of these writes it to its host's page: name.heard."""
    ours, _ = mpis()
    program = [ours.build("pause.c", directory), "600"]
    print("\nthe name service: a rank goes round, one daemon per host; ms, median [quartiles]")
    print(f"  {'hosts':>5} {'name messages a move':>21} {'attached to known everywhere':>30} {'whole move':>24}")
    for hosts in (2, 3, 4):
        events = os.path.join(directory, f"events-{hosts}")
        os.environ["GODWIT_EVENTS"] = events
        try:
            names = ",".join(f"{chr(97 + i)}:1" for i in range(hosts))
            answers, _, _ = move_about(program, ["-launcher", "fork", "-hosts", names, "-n", "2"],
                                       [1, 0] if hosts == 2 else list(range(1, hosts)), moves)
        finally:
            del os.environ["GODWIT_EVENTS"]
        messages, known = [], []
        seen = [e for e in read_events(events) if e.get("rank") == 1 and e.get("epoch", 0) > 0]
        for at in (e for e in seen if e["event"] == "rank.attached"):
            heard = [e["t"] for e in seen if e["event"] == "name.heard" and e["epoch"] == at["epoch"]]
            if len(heard) == hosts - 1: # the last move may not have been heard of when the job was ended
                messages.append(1 + len(heard))
                known.append((max(heard) - at["t"]) / 1e6)
        if not known:
            raise BenchError("no daemon has heard of a move")
        total = [m["total_ns"] / 1e6 for m in answers]
        print(f"  {hosts:>5} {spread(messages):>21} {spread(known):>30} {spread(total):>24}", flush=True)
        results.append({"what": "names", "hosts": hosts, "messages": messages, "known_ms": known, "total_ms": total})


def bench_crowd(directory, results, ranks=200):
    ours, _ = mpis()
    program = ours.build("crowd.c", directory)
    hosts = ["-launcher", "fork", "-hosts", ",".join(f"{h}:{ranks // 4}" for h in "abcd"), "-n", str(ranks)]
    print(f"\n{ranks} ranks on four hosts: mpirun {' '.join(hosts)} crowd")
    for limit in (None, "16"):
        env = dict(ours.env, **({"GODWIT_CONNECTIONS": limit} if limit else {}))
        start = time.monotonic()
        p = subprocess.Popen(ours.launcher[:1] + hosts + [program], env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, start_new_session=True)
        try:
            first = p.stdout.readline() if select.select([p.stdout], [], [], 600)[0] else ""
            up = time.monotonic() - start
            out, err = p.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            raise BenchError(f"{ranks} ranks did not end within 600 s") from None
        except BaseException: # we are to end: it is in a session of its own and would go on
            os.killpg(p.pid, signal.SIGKILL)
            raise
        total = time.monotonic() - start
        values = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", out)}
        if p.returncode != 0 or first != "up\n" or values.get("wrong") != 0:
            raise BenchError(f"{ranks} ranks: status {p.returncode}: {(err or out).strip()[-600:]}")
        print(f"  GODWIT_CONNECTIONS={limit or '(not set)'}: all up after {up:.2f} s, ended after {total:.2f} s")
        for name, text in (("private_dirty_KiB", "memory a rank has written, KiB"), ("resident_KiB", "resident, KiB"),
                           ("sockets", "sockets")):
            print(f"    {text:32} median {values[name + '_median']:>7}   most {values[name + '_max']:>7}", flush=True)
        results.append({"what": "crowd", "connections": limit, "up_s": up, "total_s": total, "values": values})


def bench_hosts(directory, moves, results):
    bench_names(directory, moves, results)
    bench_crowd(directory, results)
