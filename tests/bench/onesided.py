# SPDX-License-Identifier: BSD-2-Clause
"""One-sided operations between two ranks of one host, beside other MPIs: with the target in MPI and while it computes.

Debian's Open MPI maps the target's memory and reads and writes it by itself: no message, no target. Ranks that may leave the
host in the middle of an epoch cannot do that; it is printed beside and no goal."""
import os

from base import BenchError, mpis, ratio, run, spread, values_of

CANNOT_SWAP = {"openmpi"}  # 4.1.4 crashes in the target: osc/rdma over btl/vader


def bench_onesided(directory, pairs, is_quick, results):
    ours, others = mpis()
    for other in others:
        if not other.is_there():
            print(f"-- {other.name}: not installed, no ratio")
    everybody = [ours] + [o for o in others if o.is_there()]
    programs = {o.name: os.path.abspath(o.build("onesided.c", directory)) for o in everybody}
    for how, options in (("the target in MPI", []), ("the target computing", ["-computing"])):
        for pin in (["-pin"], []):
            measure(everybody, programs, pairs if not options else min(pairs, 12), how,
                    pin + (["-quick"] if is_quick else []) + options, results)


def measure(everybody, programs, pairs, how, options, results):
    """Godwit beside each of the others, by turns: a pair's runs are close to each other."""
    ours, others = everybody[0], everybody[1:]
    commands = {o.name: o.launcher + [programs[o.name]] + options + (["-no-swap"] if o.name in CANNOT_SWAP else [])
                for o in everybody}
    print(f"\none-sided, 8 bytes and a flush, {how}, {'each rank on its own core' if '-pin' in options else 'unpinned'}: "
          f"median [quartiles]; ratio above 1: godwit is better")
    for command in commands.values():
        print(f"  {' '.join(command)}")
    for o in others or [None]:
        samples = {m.name: [] for m in (ours, o) if m}
        try:
            for i in range((pairs + 1) // 2):
                for m in (ours, o, o, ours):
                    if m:
                        samples[m.name].append(values_of(run(commands[m.name], m.env), m.name))
        except BenchError as e:
            if not o or not samples[o.name]:
                print(f"  {o.name if o else ours.name}: {e}")
        print(f"  {len(samples[ours.name])} runs {'':16}{ours.name:>30}" + (f"{o.name:>30}{'ratio':>30}" if o else ""))
        for key in samples[ours.name][0]:
            a = [s[key] for s in samples[ours.name]]
            b = [s[key] for s in samples[o.name] if key in s] if o else []
            ratios = [ratio(key, x, y) for x, y in zip(a, b)]
            print(f"  {key:30}{spread(a):>30}" + (f"{spread(b):>30}{spread(ratios):>30}" if b else ""), flush=True)
        results.append({"what": "onesided", "how": how, "options": options, "commands": commands, "samples": samples})
