#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The MPI that a program meets under mpirun is ours, whoever compiled it; what brings another one is told so."""
import shutil

from godwit import *

tap = Tap(300)
SRC = os.path.join(os.environ.get("top_srcdir", os.getcwd()), "tests/programs/abi")
work = work_dir("abi")
shm_before = set(os.listdir("/dev/shm"))
OURS = os.path.join(mpich_prefix(), "lib")


def run(*args, env=None):
	job = Job(tap, args, env=env)
	return job.end(), job


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


def is_mapped(path):
	"""Does a process that we can look at use this file, or does it belong to somebody else?"""
	try:
		if os.stat(path).st_uid != os.getuid():
			return True
	except OSError:
		return True
	for pid in filter(str.isdigit, os.listdir("/proc")):
		try:
			with open("/proc/%s/maps" % pid) as f:
				if path in f.read():
					return True
		except OSError:
			pass
	return False


# ---- what the patches in mpi-shim/mpich change ----------------------------------------------------------------------------

def has_patch(name):
	"""Was the MPICH that we are configured for built with that patch? One of the user's own may not have been."""
	try:
		with open(os.path.join(mpich_prefix(), ".complete")) as f:
			return "patch %s.patch" % name in f.read().split("\n")
	except OSError:
		return False


edits = os.path.join(BUILD, "tests/programs/edits")
status, job = run("-n", 4, "-clusters", 2, edits, "shared-window")
tap.ok(status == 0 and len(job.out()) == 4, "shared windows: refused with MPI_ERR_RMA_SHARED over ranks that share no "
       "memory, given to one rank alone", status, *job.tail())
status, job = run("-n", 1, edits, "processor-name")
if status == 77:
	tap.skip("MPI_Get_processor_name tells the host's name of the moment", job.tail()[0])
else:
	tap.ok(status == 0 and job.out() == ["processor-name: ok"], "MPI_Get_processor_name tells the host's name of the moment",
	       status, *job.tail())
for patch, want, said in (
	("dataloop-subarray", "subarray: ok", "a type for the face of a cube is small, and packs the face"),
	("crowded", "crowded: 0 ok", "GODWIT_CROWDED=0: collectives go MPICH's way"),
	("crowded", "crowded: 1 ok", "GODWIT_CROWDED=1: collectives go up a tree and down")):
	if not has_patch(patch):
		tap.skip(said, "the MPICH that this is configured for was built without %s.patch" % patch)
		continue
	verb, ranks, told = want.split()[0].rstrip(":"), 4 if patch == "crowded" else 1, re.findall("[01]", want)
	status, job = run("-n", ranks, *(["-genv", "GODWIT_CROWDED", told[0]] if told else []), edits, verb)
	tap.ok(status == 0 and job.out() == [want] * ranks, said, status, *job.tail())

table = os.path.join(work, "table.json")
with open(table, "w") as f:
	json.dump({"collective=" + name: {"comm_type=intra": {"algorithm=MPIR_" + way: {}}} for name, way in (
	          ("barrier", "Barrier_intra_dissemination"), ("allreduce", "Allreduce_intra_recursive_doubling"),
	          ("bcast", "Bcast_intra_binomial"), ("allgather", "Allgather_intra_brucks"))}, f)
for verb, told, said in (
	("first-window", [], "atomics on the first window of a program, and on the second"),
	("broadcast", ["GODWIT_CROWDED", "1"], "a crowded broadcast between ranks that describe it differently"),
	("alltoall", ["GODWIT_CROWDED", "1"], "a crowded alltoall between ranks that describe it differently"),
	("table", ["MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE", table], "a table of the user's own selects the algorithms")):
	status, job = run("-n", 4, "-clusters", 2, *(["-genv"] + told if told else []), edits, verb)
	tap.ok(status == 0 and job.out() == [verb + ": ok"] * 4, said, status, *job.tail())
for verb, said in (("two", "collectives between two ranks, of any size, in place, and among other messages"),
                   ("truncated", "a collective of more than is asked for is told, and nothing is written beyond")):
	for clusters in (1, 2):
		status, job = run("-n", 2, "-clusters", clusters, edits, verb)
		tap.ok(status == 0 and job.out() == [verb + ": ok"] * 2, "%s (%d clusters)" % (said, clusters), status, *job.tail())
with open(table, "w") as f:
	json.dump({"collective=" + name: {"comm_type=intra": {"algorithm=MPIR_" + way: {}}} for name, way in (
	          ("barrier", "Barrier_intra_dissemination"), ("allreduce", "Allreduce_intra_recursive_doubling"),
	          ("bcast", "Bcast_intra_scatter_ring_allgather"), ("scatter", "Scatter_intra_binomial"),
	          ("allgather", "Allgather_intra_brucks"))}, f)
for ranks, variable, value, said in (
	(2, "COLL_SELECTION_TUNING_JSON_FILE", table, "a user's table is heard where there are two ranks"),
	(4, "COLL_SELECTION_TUNING_JSON_FILE", table, "and where there are more ranks than cores"),
	(2, "BCAST_INTRA_ALGORITHM", "scatter_ring_allgather", "the algorithm of a variable is used by two ranks"),
	(4, "ALLREDUCE_INTRA_ALGORITHM", "recursive_doubling", "and where there are more ranks than cores")):
	if not has_patch("two"):
		tap.skip(said, "the MPICH that this is configured for was built without two.patch")
		continue
	status, job = run("-n", ranks, "-genv", "GODWIT_CROWDED", "1", "-genv", "MPIR_CVAR_" + variable, value, edits, "chosen")
	tap.ok(status == 0 and job.out() == ["chosen: ok"] * ranks, said, status, *job.tail())
job = Job(tap, ["-n", 2, "-clusters", 2, edits, "threads"], stdin=True)
moved = []
if job.wait_line("threads: ready", 30):
	for i in range(6):
		moved += job.head().migrate([0, 1], i % 2)
	job.proc.stdin.write(b"x")
	job.proc.stdin.close()
status = job.end(60)
tap.ok(status == 0 and job.out().count("threads: ok") == 2 and sum(m["status"] == 0 for m in moved) >= 6,
       "threads in collectives of two ranks, which are moved meanwhile", status, moved, *job.tail())
job = Job(tap, ["-n", 2, "-clusters", 2, edits, "hardware"], stdin=True)
moved = []
if job.wait_line("hardware: ready", 30):
	moved = job.head().migrate([0, 1], 1) + job.head().migrate([0], 0)
	job.proc.stdin.write(b"x")
	job.proc.stdin.close()
status = job.end(30)
tap.ok(status == 0 and job.out().count("hardware: ok") == 2 and any(m["status"] == 0 for m in moved),
       "MPI_Comm_split_type by hardware after a move", status, moved, *job.tail())

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
if shutil.which("mpicc.mpich") and foreign:
	module = compiled("ring.so", "mpicc.mpich", "-shared", "-fPIC", "-Dmain=ring", "ring.c", *rpath)
	runs_ring("a module that python loads finds our MPI too", "python3", "-c",
	          "import ctypes; ctypes.CDLL('%s').ring(0, None)" % module)
else:
	tap.skip("a module that python loads finds our MPI too", "there is no mpicc.mpich here; on Debian: libmpich-dev")
ring, ring_rpath = (os.path.join(work, n) for n in ("ring-c", "ring-c-rpath"))

# ---- the same answers with and without moves ------------------------------------------------------------------------------

TOP = os.environ.get("top_srcdir", os.getcwd())
answers = [("heat.f90", "mpif90.mpich", ["-O2", os.path.join(SRC, "heat.f90")], [12000]),
           ("jacobi.c", "mpicc.mpich", ["-O2", "-ffp-contract=off", "-I" + TOP, os.path.join(TOP, "examples/jacobi.c"), "-lm"],
            ["--size", 400, "--iterations", 2000, "--quiet"])]
for name, wrapper, source, args in answers:
	if not shutil.which(wrapper):
		tap.skip("%s by %s has the same answer with and without moves" % (name, wrapper), "there is no %s here" % wrapper)
		continue
	path = compiled(name + ".x", wrapper, *source, *rpath)
	if not path:
		continue
	sums, moves = [], 0
	for is_moved in (False, True):
		job = Job(tap, ["-n", 4, "-clusters", 3, path] + args)
		mover = Mover(job, 4, 3, seed=17, pace_ms=40) if is_moved and job.wait_head() else None
		status = job.end(120)
		if mover:
			moves = len(mover.finish().moves)
			tap.ok(moves >= 3 and not mover.error, "%s by Debian's %s: %d moves" % (name, wrapper, moves), mover.error,
			       *["%s" % r["text"] for r in mover.refused[:3]] + job.tail())
		sums += [fields(l).get("checksum") for l in job.out() if status == 0 and "checksum=" in l]
	tap.ok(len(sums) == 2 and sums[0] and sums[0] == sums[1], "%s by Debian's %s: the same bits with and without moves: %s" % (
	       name, wrapper, sums[0] if sums else None), sums, *job.tail())

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
if os.path.exists("/usr/lib/python3/dist-packages/mpi4py"):
	refused("mpi4py for Open MPI is ended with a sentence that names its library", ["two MPI libraries", "libmpi.so.40"],
	        "/usr/bin/python3", "-c", "from mpi4py import MPI")
else:
	tap.skip("mpi4py for Open MPI is ended with a sentence", "there is none; on Debian: python3-mpi4py")

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

# ---- our own wrappers, in the build tree and installed -------------------------------------------------------------------

def command(*words, **env):
	return subprocess.run(words, capture_output=True, text=True, timeout=120, env=dict(os.environ, **env))


dest = os.path.join(work, "dest")
made = command("make", "-s", "-C", BUILD, "install", "DESTDIR=" + dest, MAKEFLAGS="", MAKELEVEL="", MFLAGS="")
installed = [os.path.dirname(p) for p, d, f in os.walk(dest) if os.path.basename(p) == "bin" and "mpicc" in f]
tap.ok(made.returncode == 0 and len(installed) == 1, "make install DESTDIR=...", made.stdout[-500:], made.stderr[-500:])
prefix = installed[0] if installed else "/nonexistent"
tools = {"mpicc": ("gcc", "ring.c"), "mpicxx": ("g++", "ring.cc"), "mpic++": ("g++", "ring.cc"), "mpif77": ("gfortran", "ring.f"),
         "mpif90": ("gfortran", "ring08.f90"), "mpifort": ("gfortran", "ring08.f90")}
for where, bin_dir in (("in the build tree", BUILD), ("installed", os.path.join(prefix, "bin"))):
	for tool, (compiler, source) in tools.items():
		wrapper = os.path.join(bin_dir, tool)
		if not os.path.exists(wrapper) and not os.path.exists(os.path.join(OURS, "../bin", tool)):
			tap.skip("%s %s" % (tool, where), "MPICH was built without its compiler")
			continue
		show, info = command(wrapper, "-show"), command(wrapper, "-link-info")
		path = os.path.join(work, "own-" + tool)
		made = command(wrapper, os.path.join(SRC, source), "-o", path)
		ran = command(os.path.join(bin_dir, "mpirun"), "-n", "3", path) if made.returncode == 0 else made
		tap.ok(show.stdout.startswith(compiler) and OURS in show.stdout and "-lmpi" in info.stdout and
		       ran.stdout == "ring of 3: left 2, sum 4.5\n", "%s %s tells and does what it tells" % (tool, where), show.stdout,
		       show.stderr, ran.stdout, ran.stderr)
	flags = command("pkg-config", "--cflags", "--libs", "mpich", PKG_CONFIG_PATH=os.path.join(BUILD, "pkgconfig")
	                if bin_dir == BUILD else os.path.join(prefix, "lib/pkgconfig"))
	path = os.path.join(work, "own-pkg")
	made = command("gcc", os.path.join(SRC, "ring.c"), "-o", path, *flags.stdout.split())
	ran = command(path)
	tap.ok(flags.returncode == 0 and OURS in flags.stdout and ran.stdout == "ring of 1: left 0, sum 0.5\n",
	       "pkg-config mpich, %s; and a program that is started without mpirun is a job of one rank" % where, flags, made, ran)
noc = os.path.join(work, "noc")
with open(noc + ".c", "w") as f:
	f.write("#include <noc.h>\nint main(void) { return (int)noc_count(); }\n")
flags = command("pkg-config", "--cflags", "--libs", "godwit", PKG_CONFIG_PATH=os.path.join(prefix, "lib/pkgconfig"),
                PKG_CONFIG_SYSROOT_DIR=dest)
made = command("gcc", noc + ".c", "-o", noc, *flags.stdout.split())
tap.ok(flags.returncode == 0 and made.returncode == 0, "pkg-config godwit: noc.h and -lgodwit", flags, made)
# UCX, under Debian's MPICH and Open MPI, leaves its segments when its process is killed, as it is here
for name in set(os.listdir("/dev/shm")) - shm_before:
	path = os.path.join("/dev/shm", name)
	if name.startswith("ucx_shm_posix_") and not is_mapped(path):
		os.unlink(path)
sys.exit(tap.done())
