#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The MPI that a program meets under mpirun is ours, whoever compiled it; what brings another one is told so."""
import shutil, tempfile

from godwit import *

tap = Tap(300)
SRC = os.path.join(os.environ.get("top_srcdir", os.getcwd()), "tests/programs/abi")
work = tempfile.mkdtemp(prefix="godwit-abi-")
OURS = os.path.join(os.environ["MPICH_PREFIX"], "lib")


def ended(job, timeout=60):
	status = job.wait(timeout)
	if status is None:
		tap.diag("%s hangs" % job.args)
		job.kill()
	return status


def run(*args, env=None):
	job = Job(tap, args, env=env)
	return ended(job), job


def compiled(name, *command):
	"""The path of a program that another's compiler made, or None: then it said why, and a test has failed."""
	path = os.path.join(work, name)
	made = subprocess.run(list(command) + ["-o", path], capture_output=True, text=True, cwd=SRC)
	return path if tap.ok(made.returncode == 0, "%s compiles with %s" % (name, command[0]), made.stderr) else None


def runs_ring(sentence, *program, env=None):
	status, job = run("-n", 3, "-clusters", 2, *program, env=env)
	tap.ok(status == 0 and job.out() == ["ring of 3: left 2, sum 4.5"], sentence, status, *job.tail())


def refused(sentence, words, *program, n=2, env=None):
	status, job = run("-n", n, *program, env=env)
	said = [l for l in job.out("err") if l.startswith("mpirun: ")]
	tap.ok(status == 1 and len(said) == 1 and all(w in said[0] for w in words), sentence, status, *job.tail())
	tap.ok(not job.gone(), "and nothing of it is left")


# ---- programs of Debian's MPICH, whose own library is for UCX and never asks for a libfabric provider ------------------

debian = [("ring-c", "mpicc.mpich", "ring.c"), ("ring-cxx", "mpicxx.mpich", "ring.cc"), ("ring-f77", "mpif77.mpich", "ring.f"),
          ("ring-f08", "mpif90.mpich", "ring08.f90")]
foreign = next((os.path.realpath(p) for p in ("/usr/lib/x86_64-linux-gnu/libmpich.so.12",) if os.path.exists(p)), None)
rpath = ["-Wl,--disable-new-dtags,-rpath," + os.path.dirname(foreign or "/")]
for name, wrapper, source in debian:
	if not shutil.which(wrapper) or not foreign:
		tap.skip("%s by %s runs as it is" % (source, wrapper), "there is no %s here; on Debian: libmpich-dev" % wrapper)
		continue
	path = compiled(name, wrapper, source)
	if path:
		runs_ring("%s by Debian's %s runs as it is" % (source, wrapper), path)
	path = compiled(name + "-rpath", wrapper, source, *rpath)
	if path:
		runs_ring("with an RPATH to Debian's library as well", path)
		runs_ring("and when a script starts it", "sh", "-c", path)
ring, ring_rpath = (os.path.join(work, n) for n in ("ring-c", "ring-c-rpath"))

# ---- what brings another MPI ---------------------------------------------------------------------------------------------

if os.path.exists(ring_rpath):
	refused("a program that got past LD_PRELOAD to another MPICH is ended with a sentence that names it", [foreign, "Godwit"],
	        "sh", "-c", "unset LD_PRELOAD; exec " + ring_rpath)
	refused("one that is alone as well", [foreign], "env", "-u", "LD_PRELOAD", ring_rpath, n=1)
	refused("two MPI libraries in a rank end it with a sentence that names both", ["two MPI libraries", foreign, OURS], ring,
	        env={"LD_PRELOAD": foreign})
	runs_ring("but a library of the user's that is preloaded stays, before ours", "sh", "-c",
	          "case $LD_PRELOAD in libm.so.6:*libmpi.so.12:*) exec %s;; esac" % ring, env={"LD_PRELOAD": "libm.so.6"})
	archive = "/usr/lib/x86_64-linux-gnu/libmpich.a"
	inside = compiled("ring-static", "gcc", "-I/usr/include/x86_64-linux-gnu/mpich", "ring.c", archive, "-lhwloc", "-lucp",
	                  "-lucs", "-lpthread", "-lm")
	if inside:
		refused("a program with an MPI library linked into it is ended with a sentence that names it", [inside], inside)
		refused("and is called static when it holds no other", [inside, "statically linked"], "env", "-u", "LD_PRELOAD", inside)
else:
	tap.skip("another MPI in a rank is told so", "there is no Debian MPICH here; on Debian: libmpich-dev")
if shutil.which("mpicc.openmpi"):
	path = compiled("ring-ompi", "mpicc.openmpi", "ring.c")
	if path:
		refused("a program of Open MPI is ended with a sentence that names its library", ["libmpi.so.40", OURS], path)
else:
	tap.skip("a program of Open MPI is ended with a sentence", "there is no Open MPI here; on Debian: libopenmpi-dev")

# ---- what is no MPI program ----------------------------------------------------------------------------------------------

status, job = run("-n", 2, "sh", "-c", "echo one; /bin/true; echo two | cat; python3 -c 'print(3)'")
tap.ok(status == 0 and sorted(job.out()) == ["3", "3", "one", "one", "two", "two"] and not job.out("err"),
       "a script runs as it is", status, *job.tail())
asan = os.path.join(work, "asan")
with open(asan + ".c", "w") as f:
	f.write('#include <mpi.h>\n#include <stdio.h>\nint main(void) { MPI_Init(0, 0); puts("sane"); return MPI_Finalize(); }\n')
made = subprocess.run([os.path.join(BUILD, "mpicc"), "-fsanitize=address", asan + ".c", "-o", asan], capture_output=True, text=True)
if made.returncode == 0:
	status, job = run("-n", 2, asan, env={"ASAN_OPTIONS": "detect_leaks=0"})
	tap.ok(status == 0 and job.out() == ["sane"] * 2, "a program with the address sanitizer, which wants to be first, runs",
	       status, *job.tail())
else:
	tap.skip("a program with the address sanitizer runs", "it does not compile here")
shutil.rmtree(work)
sys.exit(tap.done())
