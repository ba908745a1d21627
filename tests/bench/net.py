# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks between two emulated hosts (doc/rig.md), over TCP: speed beside other MPIs."""
import os
import sys

from base import HERE, BenchError, mpis, ratio, spread, values_of


def two_hosts(directory):
    sys.path.insert(0, os.path.join(HERE, "..", "driver"))
    import rig

    why = rig.why_not()
    if why:
        raise BenchError(f"no two hosts here: {why}")
    return rig, rig.Rig(2, keep=[directory])


def bench_net(directory, pairs, is_quick, is_fifo, results):
    """Two ranks on two hosts, through a veth pair and a bridge. Each host has its own IPC namespace: UCX would find System V
    shared memory between "hosts" otherwise. Launchers must not bind: they would put the first rank of every host on core 0.
    Pinned, each rank binds itself to a core of its own."""
    ours, others = mpis()
    ours.launcher = [os.path.abspath(ours.launcher[0]), "-hosts", "rig1,rig2", "-ppn", "1", "-n", "2"]
    launchers = {
        "mpich": ["mpirun.mpich", "-launcher", "ssh", "-hosts", "rig1,rig2", "-n", "2", "-bind-to", "none",
                  "-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_NET_DEVICES", "eth0"],
        "openmpi": ["mpirun.openmpi", "-host", "rig1:1,rig2:1", "-n", "2", "--bind-to", "none", "--mca", "pml", "ob1",
                    "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "eth0"],
    }
    for other in others:
        other.launcher = launchers[other.name]
        if not other.is_there():
            print(f"-- {other.name}: not installed, no ratio")
    others = [o for o in others if o.is_there()]
    programs = {o.name: os.path.abspath(o.build("pingpong.c", directory)) for o in [ours] + others}
    rig, hosts = two_hosts(directory)
    try:
        with hosts as r:
            r.start_sshd()
            for is_pinned in (True, False):
                measure(r, ours, others, programs, is_pinned, pairs, is_quick, is_fifo, results)
    except rig.RigError as e:
        raise BenchError(f"two hosts: {e}") from None


def measure(r, ours, others, programs, is_pinned, pairs, is_quick, is_fifo, results):
    options = (["-pin"] if is_pinned else []) + (["-quick"] if is_quick else [])
    fifo = ["chrt", "-f", "1"] if is_fifo else []
    commands = {o.name: o.launcher + fifo + [programs[o.name]] + options for o in [ours] + others}
    samples = {name: [] for name in commands}
    for i in range((pairs + 1) // 2):
        for o in [ours] + others + others[::-1] + [ours]:
            done = r[1].run(commands[o.name], timeout=180, env=o.extra, user=r.user if r.userns else None)
            if done.returncode != 0:
                raise BenchError(f"pingpong under {o.name} between two hosts: status {done.returncode}: "
                                 f"{(done.stderr or done.stdout).strip()[-600:]}")
            samples[o.name].append(values_of(done.stdout, o.name))
    print(f"\ntwo ranks on two emulated hosts, TCP, {'each on its own core' if is_pinned else 'unpinned'}: "
          f"{len(samples[ours.name])} ABBA pairs, median [quartiles]; ratio above 1: godwit is better")
    for name, command in commands.items():
        print(f"  {name}: {' '.join(command)}")
    print(f"  {'':20}{ours.name:>26}" + "".join(f"{o.name:>26}{'ratio':>22}" for o in others))
    for key in samples[ours.name][0]:
        a = [s[key] for s in samples[ours.name]]
        row = f"  {key:20}{spread(a):>26}"
        for o in others:
            b = [s[key] for s in samples[o.name]]
            row += f"{spread(b):>26}{spread([ratio(key, x, y) for x, y in zip(a, b)]):>22}"
        print(row, flush=True)
    results.append({"what": "net", "pinned": is_pinned, "commands": commands, "samples": samples})
