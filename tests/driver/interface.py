#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The calls of godwit.h: each made by a program under mpirun, over real moves, and by programs that others run."""
import shutil

from godwit import *

tap = Tap(200)
work = work_dir("interface")
SRC = os.environ.get("top_srcdir", os.getcwd())
ASKER = os.path.join(BUILD, "tests/programs/asker")
GODWIT = os.path.join(BUILD, "godwit")


def said(job, name, timeout=40):
	"""What the program said under that name."""
	found = job.wait_line("^%s: (.*)" % re.escape(name), timeout, "out")
	return found.group(1) if found else None


def godwit(job, *words):
	p = subprocess.run([GODWIT, words[0], "--job", job.head_name().split("/")[-2]] + [str(w) for w in words[1:]], capture_output=True, text=True,
	                   timeout=60)
	return p.returncode, p.stdout, p.stderr


def say(job, word):
	job.proc.stdin.write((word + "\n").encode())
	job.proc.stdin.flush()


def is_line(job, name, wanted, sentence):
	got = said(job, name)
	tap.ok(got is not None and (re.fullmatch(wanted, got) if isinstance(wanted, str) else wanted(got)), sentence, name, got, *job.tail())


def checkpoint(head, to):
	head.send({"op": "checkpoint", "dir": to})
	return head.receive()


if not can_move():
	tap.skip("programs ask to be moved", "ranks cannot move here")
	tap.done()
	sys.exit(0)

# ---- a rank that asks for itself ------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 3, "-launcher", "fork", "-hosts", "here:2,there:1", ASKER, "self"], stdin=True)
is_line(job, "migratable", "1", "MPIX_Migratable says 1 under mpirun")
is_line(job, "begin", "cluster 0 host 0 moves 0", "MPIX_Where says where a rank began")
is_line(job, "away", "ok moved 1 why ''", "MPIX_Migrate moves the rank that asks")
is_line(job, "arrived", "cluster 1 host 1 moves 1", "MPIX_Where says where it is then, and how often it has moved")
is_line(job, "thread", "foreign 1 from hook 1 seen 1", "hooks run on another thread with their argument, may ask where they are, and nothing else")
is_line(job, "hooks away", "before 1 0 after 1 0 0", "both hooks are called, once")
is_line(job, "again", "ok moved 0 why '.*already.*'", "a move to where it is already is none, and MPIX_Why says so")
is_line(job, "refused", "ok moved 0 why '.*hook .* returned 7'", "a hook can refuse a move, with its number")
is_line(job, "hooks refused", "before 1 0 after 0 1 0", "and the other one is told that the rank has stayed")
is_line(job, "pin", "0", "MPIX_Pin pins it")
is_line(job, "pinned", "ok moved 0 why '.*pinned to cluster 1.*'", "then its own wish to move is refused")
head = job.head()
answer = head.migrate([0], 0)[0]
tap.ok(answer["status"] < 0 and "pinned" in answer["text"] and head.ranks()[0]["pinned"], "and so is anybody else's", answer)
say(job, "unpin")
is_line(job, "unpin", "0", "MPIX_Unpin lets it go")
is_line(job, "anywhere", "ok moved 1 why ''|ok moved 0 why 'nowhere are processors shared by fewer ranks'", "MPIX_Migrate to anywhere is answered")
is_line(job, "after anywhere", "cluster 0 host 0 moves 2" if " moved 1 " in " " + (said(job, "anywhere") or "") else "cluster 1 host 1 moves 1",
        "and the rank is where the answer says")
is_line(job, "nowhere better", "ok moved 0 why 'nowhere are processors shared by fewer ranks'", "and it stays when nowhere is better")
is_line(job, "load", "0", "MPIX_Load is taken")
code, out, err = godwit(job, "rebalance", "--dry-run")
loads = head.status()["balance"]["loads"]
tap.ok(code == 0 and loads and loads[0] == 0.25, "and is what the balancer takes for its load", code, err, loads)
to = os.path.join(work, "cold")
os.mkdir(to)
say(job, "rest")
said(job, "hooks moved")
answer = checkpoint(head, to)
say(job, "over")
is_line(job, "hooks rest", "before 0 1 after 0 1 0", "hooks are called around a checkpoint, and told that the rank goes on")
say(job, "end")
job.proc.stdin.close()
status = job.end(60)
tap.ok(status == 0 and answer.get("status") == 0 and not job.gone(), "and the job ends well", status, answer, *job.tail())
job = Job(tap, [to, "-clusters", 2], launcher=[GODWIT, "restart"], stdin=True)
say(job, "over")
is_line(job, "hooks rest", r"before 0 1 after 0 0 1", "in a job that is continued they are told so")
say(job, "end")
job.proc.stdin.close()
status = job.end(60)
tap.ok(status == 0, "which ends well, too", status, *job.tail())

# ---- good moments -----------------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 2, "-clusters", 2, ASKER, "moments"], stdin=True)
said(job, "moments")
head = job.head()
answers = [head.migrate([0], to, moment_ms=30000)[0] for to in (1, 0, 1)]
tap.ok(all(a["status"] == 0 for a in answers), "moves that would rather have a good moment are made", *answers)
found = job.wait_line(r"^moments: seen (\d+) half done (\d+)", 40, "out")
tap.ok(found and found.groups() == ("3", "0"), "at such moments, each of them, and the program sees it there", found and found.group(0), *job.tail())
answer = head.migrate([1], 0, moment_ms=30000)[0]
tap.ok(answer["status"] == 0, "a rank that names none is not waited for", answer)
answer = head.migrate([0], 0, moment_ms=50)[0]
tap.ok(answer["status"] == 0, "one that has gone away from them is moved all the same", answer)
say(job, "end")
is_line(job, "late", "half done 1", "in the middle of something")
job.proc.stdin.close()
status = job.end(60)
tap.ok(status == 0, "and the job ends well", status, *job.tail())

# ---- what is wrong ------------------------------------------------------------------------------------------------------------

job = Job(tap, ["-n", 2, "-clusters", 2, ASKER, "wrong"])
status = job.end(60)
for name, words in (("migratable null", "flag is NULL"), ("migrate null", "moved is NULL"), ("migrate negative", "timeout_ms is negative"),
                    ("migrate long", "too long"), ("migrate cluster", "there is no cluster 99: the job has clusters 0 to 1"),
                    ("migrate host", "there is no host 'nowhere' in this job"), ("why null", "no room"), ("why empty", "no room"),
                    ("load nan", "not a number of processors"), ("load huge", "not a number of processors")):
	line = said(job, name) or ""
	tap.ok(line.startswith("ERR_ARG '") and "MPIX_" in line and words in line, "%s: an error of class MPI_ERR_ARG that says: %s" % (name, words), line)
tap.ok(said(job, "where null") == "ok ''" and said(job, "after the end") == "migratable 0 pin ERR_OTHER" and status == 0,
       "what is not wanted may be NULL; after MPI_Finalize a call is an error of class MPI_ERR_OTHER", status, *job.tail())

job = Job(tap, ["-n", 2, "-clusters", 2, ASKER, "fatal"])
status = job.end(60)
tap.ok(status not in (0, None) and any("MPIX_Migrate: there is no cluster 99" in l for l in job.out("err")),
       "without an error handler of its own the program ends with the sentence", status, *job.tail())

# ---- the example, and in Fortran -----------------------------------------------------------------------------------------------

for name, wrapper, source, words, lines in (("C", "mpicc", "moments.c", ["40"], r"rank \d: on cluster \d after [1-9]\d* moves.* dropped [1-9]"),
                                     ("Fortran", "mpifort", "moments.f90", [], r"rank \d moves 2 before 2 after 2")):
	binary = os.path.join(work, "moments." + name)
	if not os.path.exists(os.path.join(BUILD, wrapper)):
		tap.skip("the example in %s" % name, "MPICH was built without")
		continue
	made = subprocess.run([os.path.join(BUILD, wrapper), "-O2", os.path.join(SRC, "examples", source), "-o", binary], capture_output=True, text=True)
	tap.ok(made.returncode == 0, "the example in %s compiles with %s alone" % (name, wrapper), made.stderr)
	sums = []
	for clusters in (1, 2):
		job = Job(tap, ["-n", 2, "-clusters", clusters, binary] + words + [clusters])
		status = job.end(60)
		sums += [l for l in job.out() if "checksum" in l]
		if clusters == 2:
			tap.ok(status == 0 and len([l for l in job.out() if re.match(lines, l)]) == 2, "its ranks move when they ask for it", status, *job.tail())
	tap.ok(len(sums) == 2 and sums[0] == sums[1], "with the same answer", sums)

# ---- under others ----------------------------------------------------------------------------------------------------------------

for wrapper, launcher in (("mpicc.mpich", ["mpirun.mpich", "-n", "2"]),
                          ("mpicc.openmpi", ["mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "-n", "2"])):
	if not shutil.which(wrapper) or not shutil.which(launcher[0]):
		tap.skip("each call does nothing in a program by %s" % wrapper, "there is no %s here" % wrapper)
		continue
	binary = os.path.join(work, "asker." + wrapper)
	made = subprocess.run([wrapper, os.path.join(SRC, "tests/programs/asker.c"), "-I" + os.path.join(SRC, "mpi-shim"), "-L" + BUILD, "-lgodwit_mpix",
	                       "-lpthread", "-o", binary], capture_output=True, text=True)
	p = subprocess.run(launcher + [binary, "plain"], capture_output=True, text=True, timeout=100) if made.returncode == 0 else made
	tap.ok(p.returncode == 0 and "plain: rc 0 migratable 0 moved 0" in p.stdout and "plain: cluster -1 host -1 moves 0" in p.stdout,
	       "each call does nothing in a program by %s" % wrapper, p.returncode, p.stdout, p.stderr, made.stderr)
	if wrapper == "mpicc.mpich":
		job = Job(tap, ["-n", 2, "-clusters", 2, binary, "wrong"])
		status = job.end(60)
		tap.ok(status == 0 and (said(job, "migrate cluster") or "").startswith("ERR_ARG"), "and what it does under our mpirun", status, *job.tail())
sys.exit(tap.done())
