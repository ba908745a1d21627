# SPDX-License-Identifier: BSD-2-Clause
"""What the benchmarks share: running a command to its end, the MPIs beside ours, and tables of ratios."""
import os
import re
import shutil
import signal
import statistics
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
SMALLER_IS_BETTER = re.compile(r"_us$")


class BenchError(Exception):
    pass


def run(command, env=None, timeout_s=180):
    """Run to the end in a group of its own, so that nothing survives a hang. Returns standard output."""
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                         start_new_session=True)
    try:
        out, err = p.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.communicate()
        raise BenchError(f"'{' '.join(command)}' did not end within {timeout_s} s") from None
    except BaseException: # we are to end: it is in a session of its own and would go on
        os.killpg(p.pid, signal.SIGKILL)
        raise
    if p.returncode != 0:
        raise BenchError(f"'{' '.join(command)}' failed with status {p.returncode}: {(err or out).strip()[-600:]}")
    return out


def spread(values):
    """Median and interquartile range, as text."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    q = statistics.quantiles(values, n=4, method="inclusive")
    return f"{statistics.median(values):.3g} [{q[0]:.3g}..{q[2]:.3g}]"


def ratio(key, ours, theirs):
    """Above 1: ours is better."""
    return theirs / ours if SMALLER_IS_BETTER.search(key) else ours / theirs


def values_of(out, who):
    values = {k: float(v) for k, v in re.findall(r"(\S+)=(\S+)", out)}
    if not values:
        raise BenchError(f"the program under {who} printed no result: {out!r}")
    return values


class Mpi:
    """One MPI: how to compile and how to start two ranks."""

    def __init__(self, name, wrapper, launcher, env=None):
        self.name, self.wrapper, self.launcher = name, wrapper, launcher
        self.extra = env or {}
        self.env = dict(os.environ, **self.extra)

    def is_there(self):
        return bool(shutil.which(self.wrapper) and shutil.which(self.launcher[0]))

    def build(self, source, directory):
        out = os.path.join(directory, f"{os.path.splitext(source)[0]}-{self.name}")
        run([self.wrapper, "-O2", os.path.join(HERE, source), "-o", out], self.env)
        return out


def mpis():
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    top = os.environ["top_builddir"]
    ours = Mpi("godwit", os.path.join(top, "mpicc"), [os.path.join(top, "mpirun"), "-n", "2", "-clusters", "1"])
    if not ours.is_there():
        raise BenchError("mpirun and mpicc of Godwit are not built; run ./quickstart build")
    return ours, [
        Mpi("mpich", "mpicc.mpich", ["mpirun.mpich", "-n", "2", "-bind-to", "none"]),
        Mpi("openmpi", "mpicc.openmpi", ["mpirun.openmpi", "-n", "2", "--bind-to", "none", "--oversubscribe"], as_root),
    ]


def over_providers(ours):
    """The MPICH that @ours is, over libfabric's own providers of one host, without Godwit: they are in the distribution's
    libfabric, which takes the place of the one that our MPICH is built with."""
    prefix = os.environ.get("MPICH_PREFIX", "")
    # by its path: by its name alone the program's RPATH leads to ours
    there = re.search(r"libfabric\.so\.1 .*=> (\S+)", run(["/sbin/ldconfig", "-p"]))
    if not there or not os.path.exists(os.path.join(prefix, "bin", "mpiexec")):
        raise BenchError("the distribution's libfabric (package libfabric1), or $MPICH_PREFIX, is missing")
    launcher = [os.path.join(prefix, "bin", "mpiexec"), "-n", "2", "-bind-to", "none"]
    env = {"LD_PRELOAD": there[1], "MPIR_CVAR_NOLOCAL": "1"}
    return [Mpi(p, ours.wrapper, launcher, {**env, "FI_PROVIDER": p}) for p in ("shm", "sockets")]
