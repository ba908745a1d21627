#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Tools that people use with MPI programs: libraries that intercept PMPI, and debuggers; with ranks that move."""
from godwit import *

tap = Tap(120)
work = work_dir("tools")
spawner = os.path.join(BUILD, "tests/programs/spawner")
shm_before = shm_entries()
gdb = shutil.which("gdb")

# ---- a tool by LD_PRELOAD: intercepts MPI, and moves -------------------------------------------------------------------------

count = os.path.join(work, "count.so")
made = subprocess.run([os.path.join(BUILD, "mpicc"), "-shared", "-fPIC", "-O1", "-o", count,
                       os.path.join(os.environ.get("top_srcdir", "."), "tests/programs/tools/count.c")], stdout=subprocess.PIPE,
                      stderr=subprocess.STDOUT, text=True)
tap.ok(made.returncode == 0, "a tool is compiled with mpicc", made.stdout)
stop = os.path.join(work, "stop")
job = Job(tap, ["-n", 2, "-clusters", 3, spawner, "spawn", stop, "/nonexistent/program", 1], env={"LD_PRELOAD": count})
job.wait_line("^spawn failed", 30, count=2)
head = job.head()
moved = [head.migrate([r], to)[0] for r, to in ((0, 2), (1, 0), (0, 1))]
tap.ok(all(m["status"] == 0 for m in moved), "its ranks move", *[m["text"] for m in moved])

# ---- a debugger attaches, holds the rank, and lets it go ----------------------------------------------------------------------

pid = head.ranks()[0]["pid"]
if gdb and os.getuid() and lines_of("/proc/sys/kernel/yama/ptrace_scope")[0] not in ("", "0"):
	gdb = None  # only a parent may trace
if not gdb:
	for what in "gdb attaches to a rank", "a rank with a debugger", "when it has left", "the interface of debuggers":
		tap.skip(what, "there is no gdb here, or it may not attach")
else:
	bug = subprocess.Popen([gdb, "-nx", "-q", "-p", str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
	bug.stdin.write("set confirm off\nset pagination off\nset breakpoint pending on\nbreak PMPI_Bcast\ncontinue\nbacktrace\necho held\\n\n")
	bug.stdin.flush()
	said = []
	for line in bug.stdout:
		said.append(line.rstrip())
		if "held" in line:
			break
	tap.ok(any(re.search(r"#\d+ .* talk ", l) for l in said) and any("spawner.c" in l for l in said),
	       "gdb attaches to a rank by its number outside the container, and shows where it is", *said[-12:])
	m = head.migrate([0], 0, 2000)[0]
	tap.ok(m["status"] != 0 and "traced by pid %d (gdb)" % bug.pid in m["text"], "a rank with a debugger is not moved, and it is named", m["text"])
	bug.communicate("delete\ndetach\nquit\n", timeout=60)
	m = head.migrate([0], 0)[0]
	tap.ok(m["status"] == 0, "when it has left the rank moves", m["text"])
open(stop, "w").close()
status = job.end(60)
counted = [tuple(map(int, re.findall(r"\d+", l))) for l in job.out() if l.startswith("counted")]
turns = [int(re.search(r"(\d+) turns, 0 wrong", l).group(1)) for l in job.out() if re.search(r"turns, 0 wrong", l)]
tap.ok(status == 0 and len(counted) == 2 and turns == [counted[0][0]] * 2 and counted[0] == counted[1] and counted[0][1] == counted[0][0] // 64,
       "the tool has seen each call once, and its own messages were right", status, counted, turns, *job.tail())
tap.ok(not job.gone(), "nothing is left", job.gone())

# ---- mpirun under a parallel debugger ------------------------------------------------------------------------------------------

if gdb:
	out = subprocess.run([gdb, "-nx", "-q", "-batch", "-ex", "set breakpoint pending on", "-ex", "handle all nostop noprint pass", "-ex", "start", "-ex",
	                      "set var MPIR_being_debugged = 1", "-ex", "break MPIR_Breakpoint", "-ex", "continue", "-ex", "print MPIR_proctable_size",
	                      "-ex", "print *MPIR_proctable@2", "-ex", "print MPIR_debug_state", "-ex", "delete", "-ex", "continue", "--args",
	                      os.path.join(BUILD, "mpirun"), "-n", "2", "-clusters", "2", "sh", "-c", "echo $$ is there"],
	                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100).stdout
	tap.ok("$1 = 2" in out and "$3 = 1" in out and len(re.findall(r'executable_name = 0x[0-9a-f]+ "sh", pid = [1-9]', out)) == 2,
	       "a debugger of mpirun finds its processes (MPIR_proctable)", out[-1500:])
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
