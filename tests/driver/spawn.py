#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Ranks that ranks start: they are ranks of the job. What the suite of MPICH does not ask: what mpirun and godwit make of them."""
from godwit import *

tap = Tap(120)
work = work_dir("spawn")
spawner = os.path.join(BUILD, "tests/programs/spawner")
shm_before = shm_entries()


def start(n, *info, args=(), ranks=1, program=spawner):
	stop = os.path.join(work, "stop%d" % tap.run)
	return Job(tap, list(args) + ["-n", ranks, spawner, "spawn", stop, program, n] + list(info)), stop


def finish(job, stop, size, sentence):
	open(stop, "w").close()
	status = job.end(60)
	right = [l for l in job.out() if re.fullmatch(r"rank \d+ of %d: \d+ turns, 0 wrong" % size, l)]
	tap.ok(status == 0 and len(right) == size and not job.gone(), sentence, "status %s" % status, job.gone(), *job.tail())


# ---- shown, moved, refused by name, ended -------------------------------------------------------------------------------

job, stop = start(2, args=["-clusters", 3, "-usize", 7], ranks=2)
tap.ok(job.wait_line(r"^child \d of 2, program 0", 30, count=2) is not None, "two ranks spawn two", *job.tail())
tap.ok("universe 7" in job.out(), "MPI_UNIVERSE_SIZE is what -usize says")
head = job.head()
ranks = wait_for(lambda: (lambda r: len(r) == 4 and all(x["state"] == "MPI" for x in r.values()) and r)(head.ranks()))
tap.ok([(ranks[r].get("world"), ranks[r].get("world_rank"), ranks[r].get("spawned_by")) for r in range(4)] ==
       [(None, None, None)] * 2 + [(1, 0, 0), (1, 1, 0)], "status shows whose they are", ranks)
tap.ok({r["cluster"] for r in ranks.values()} == {0, 1, 2}, "they begin where there is room", ranks)
for r in (2, 3, 0):
	m = head.migrate([r], (ranks[r]["cluster"] + 1) % 3)[0]
	tap.ok(m["status"] == 0, "rank %d moves while they talk" % r, m["text"])
deny = [os.path.join(BUILD, "tests/programs/deny"), "EPERM", "memfd_create"]
sentence = "a host whose memory is a file, which has no room for them, does not come"
if subprocess.run(deny + ["true"], capture_output=True).returncode:
	tap.skip(sentence, "nothing can be denied here")
else:
	m = head.add("127.0.0.2", launcher=" ".join(deny) + " sh -c %c %h")
	tap.ok(m["status"] < 0 and "memfd_create is denied there" in m["text"], sentence, m)
finish(job, stop, 4, "all four add up, and the job ends when all have ended")

job, stop = start(2)
job.wait_line(r"^child", 30, count=2)
child = job.head().ranks()[1]["pid"]
os.kill(child, 9)
status = job.end(30)
tap.ok(status == 137 and any(re.search("rank 1 .*was killed by signal 9.*ending the job", l) for l in job.out("err")) and not job.gone(),
       "a spawned rank that is killed ends the job", status, *job.tail())

# ---- written down, and continued -----------------------------------------------------------------------------------------


def states(head):
	return [r["state"] for _, r in sorted(head.ranks().items())]


def again(job, want, places):
	"""The job is written down when its ranks are in the states @want, killed, and continued at @places."""
	head, ckpt = job.head(), os.path.join(work, "ckpt%d" % tap.run)
	wait_for(lambda: states(head) == want)
	out = subprocess.run([os.path.join(BUILD, "godwit"), "checkpoint", head.status()["job"]["id"], ckpt], stdout=subprocess.PIPE,
	                     stderr=subprocess.STDOUT, text=True, timeout=60)
	tap.ok(out.returncode == 0, "a job with spawned ranks is written down", states(head), out.stdout, *job.tail())
	job.kill()
	job = Job(tap, ["-restart", ckpt] + places)
	tap.ok(job.wait_head() and wait_for(lambda: states(job.head()) == want), "and continued", *job.tail())
	return job


job, stop = start(2, args=["-clusters", 2], ranks=2)
job.wait_line(r"^child \d of 2, program 0", 30, count=2)
job = again(job, ["MPI"] * 4, ["-launcher", "fork", "-hosts", "a,b"])
head = job.head()
ranks = head.ranks()
tap.ok([(ranks[r].get("world"), ranks[r].get("world_rank"), ranks[r].get("spawned_by")) for r in range(4)] ==
       [(None, None, None)] * 2 + [(1, 0, 0), (1, 1, 0)], "whose ranks are what they were", ranks)
m = [head.migrate([r], 1 - ranks[r]["cluster"])[0]["text"] for r in (2, 0)]
tap.ok(m == ["", ""], "and move", m)
finish(job, stop, 4, "all four add up, from where they were")

stop = os.path.join(work, "stop%d" % tap.run)
job = Job(tap, ["-n", 2, spawner, "twice", stop, spawner])
job.wait_line(r"^child \d of 2", 30, count=2)
job = again(job, ["MPI"] * 2 + ["ended"] * 2, [])
finish(job, stop, 2, "one whose spawned ranks had ended spawns again")
tap.ok(len([l for l in job.out() if l.startswith("child ")]) == 2, "with other numbers", *job.tail())

# ---- what cannot be spawned -----------------------------------------------------------------------------------------------

there_is = os.path.join(work, "file")
with open(there_is, "w") as f:
	f.write("# a comment\n nonsense\n")
job, stop = start(2, "--", spawner, 1, "host=nowhere", "--", spawner, 2000, "--", spawner, 1, "file=" + there_is, "--", spawner, 1,
                  program=os.path.join(work, "nothing"), ranks=2)
tap.ok(job.wait_line(r"^spawn failed: class \d+", 30, count=8) is not None, "what cannot be spawned is an error in all ranks", *job.tail())
for why in "No such file", "names the host 'nowhere'", "a larger -usize", "line 2: a line is KEY = VALUE":
	tap.ok(any("rank 0 cannot spawn" in l and why in l for l in job.out("err")), "with a sentence: " + why, *job.tail())
tap.ok(job.wait_line("^child 0 of 1", 30), "then one that can", *job.tail())
finish(job, stop, 3, "and the job goes on with it")

# ---- where, and in which directory ------------------------------------------------------------------------------------------

with open(there_is, "w") as f:
	f.write("# where\nwdir = %s\npath=/nowhere:%s\n" % (work, os.path.dirname(spawner)))
job, stop = start(3, "host=b", "file=" + there_is, args=["-launcher", "fork", "-hosts", "a:2,b:2", "-clusters", 2], program="spawner")
tap.ok(job.wait_line("^child \\d of 3, program 0, in %s$" % re.escape(work), 30, count=3) is not None, "program and directory of a file of info", *job.tail())
head = job.head()
ranks = head.ranks()
tap.ok({ranks[r]["hostname"] for r in (1, 2, 3)} == {"b"} and len({ranks[r]["cluster"] for r in (1, 2, 3)}) == 2,
       "on the host that was named, on both of its clusters", ranks)
m = head.migrate([2], "a")[0]
tap.ok(m["status"] == 0, "one moves to the other host", m["text"])
tap.ok("universe -1" in job.out(), "without -usize MPI_UNIVERSE_SIZE is not set")
finish(job, stop, 4, "they talk by memory and by network")

# ---- another job ------------------------------------------------------------------------------------------------------------


def meet(sentence, args, other_args, *how):
	"""Two jobs of two ranks each connect and talk; a rank of each is moved there and back meanwhile."""
	stop = os.path.join(work, "stop%d" % tap.run)
	job = Job(tap, args + ["-n", 2, spawner, "accept", stop, "godwit test %d" % os.getpid()])
	port = job.wait_line(r"^port (.*)", 30).group(1)
	other = Job(tap, other_args + ["-n", 2, spawner] + [w.replace("STOP", stop).replace("PORT", port) for w in how])
	moved = []
	for j in (job, other):
		head = j.head()
		wait_for(lambda: all(r["state"] == "MPI" for r in head.ranks().values()))
		at = head.ranks()[1]["cluster"]
		moved += [head.migrate([1], to)[0]["text"] for to in (1 - at, at)]
	open(stop, "w").close()
	ends = [j.end(60) for j in (job, other)]
	right = [l for j in (job, other) for l in j.out() if re.fullmatch(r"rank \d of 4: \d+ turns, 0 wrong", l)]
	tap.ok(ends == [0, 0] and len(right) == 4 and moved == [""] * 4, sentence, ends, moved, right, *(job.tail() + other.tail()))


two = ["-clusters", 2]
meet("two jobs connect by a port, and talk while their ranks are moved", two, two, "connect", "STOP", "PORT")
meet("and by a name that one of them has published, one with two hosts", ["-launcher", "fork", "-hosts", "a:2,b:2"], two,
     "lookup", "STOP", "godwit test %d" % os.getpid())

stop = os.path.join(work, "stop%d" % tap.run)
job = Job(tap, ["-n", 1, spawner, "accept", stop])
port = job.wait_line(r"^port (.*)", 30).group(1)  # it ends with the number of the job
other = Job(tap, ["-n", 1, spawner, "connect", stop] + [port[:-9] + "%08X$" % n for n in range(1, 66)] + [port])
tap.ok(job.wait_line("^they talk", 60) and other.wait_line("^they talk", 60), "two jobs talk, also after attempts with 65 that are none", *(job.tail() + other.tail()))
os.kill(job.head().ranks()[0]["pid"], 9)
tap.ok(job.end(30) == 137 and other.wait_line("mpirun: job [0-9a-f]{8}, which ranks of this one have connected to, has failed", 30, "err"),
       "when one fails the other's mpirun says so", *(job.tail() + other.tail()))
other.kill()

# a job that has connected is not written down
stop, to = os.path.join(work, "stop%d" % tap.run), os.path.join(work, "written")
job = Job(tap, ["-n", 2, "-clusters", 2, spawner, "stay", stop])
port = job.wait_line(r"^port (.*)", 30).group(1)


def written(where):
	p = subprocess.run([os.path.join(BUILD, "godwit"), "checkpoint", job.head_name().split("/")[2], where], capture_output=True, text=True, timeout=60)
	return p.returncode, p.stderr


first = written(to + "0")
other = Job(tap, ["-n", 2, spawner, "connect", stop, port])
talk = job.wait_line("^they talk", 30, count=2) and other.wait_line("^they talk", 30, count=2)
refused = written(to + "1")
sentence = "the job has connected to job %s (MPI_Comm_connect)" % other.head_name().split("/")[2]
open(stop, "w").close()
parted = job.wait_line("^they have parted", 30, count=2)
ended = other.end(30)
later = written(to + "2")
open(stop + ".end", "w").close()
tap.ok(first[0] == 0 and talk and refused[0] == 2 and sentence in refused[1] and not os.path.exists(to + "1"),
       "a job is written down until it has connected, and then not: by name", first, refused, *job.tail())
tap.ok(parted and ended == 0 and later[0] == 2 and "also when they have parted" in later[1] and not os.path.exists(to + "2"),
       "nor when they have parted", ended, later, *(job.tail() + other.tail()))
tap.ok(job.end(30) == 0 and len([l for l in job.out() if re.search("turns, 0 wrong", l)]) == 4, "and nothing of it stops", *job.tail())

# mpirun of the one is stopped, and the other job is suspended when its answer comes
stop, events = os.path.join(work, "stop%d" % tap.run), os.path.join(work, "events%d" % tap.run)
job = Job(tap, ["-n", 1, spawner, "accept", stop])
port = job.wait_line(r"^port (.*)", 30).group(1)
os.kill(job.proc.pid, signal.SIGSTOP)
other = Job(tap, ["-n", 1, spawner, "connect", stop, port, port], events=events)
called = wait_for(lambda: any('"job.called"' in l for l in lines_of(events)), 30)
head = other.head()
head.send({"op": "suspend"})
suspended = head.receive()
os.kill(job.proc.pid, signal.SIGCONT)
parted = wait_for(lambda: any('"job.parted"' in l for l in lines_of(events)), 30)
head.send({"op": "resume"})
head.receive()
tap.ok(called and parted and suspended["op"] == "suspended" and other.wait_line("is suspended", 30, "err") and other.wait_line("^connect failed", 30),
       "a job that is suspended does not connect", called, parted, suspended, *(job.tail() + other.tail()))
talk = job.wait_line("^they talk", 60) and other.wait_line("^they talk", 60)
open(stop, "w").close()
tap.ok(talk and [j.end(60) for j in (job, other)] == [0, 0], "and does the next time, when it has been resumed", *(job.tail() + other.tail()))

other = Job(tap, ["-n", 1, spawner, "lookup", stop, "no such service %d" % os.getpid()])
tap.ok(other.end(60) == 0 and any(l.startswith("lookup failed: ") for l in other.out()), "a name that nobody has published is not found",
       *other.tail())
job = Job(tap, ["-n", 1, spawner, "accept", stop])
port = job.wait_line(r"^port (.*)", 30).group(1)
job.kill()
other = Job(tap, ["-n", 1, spawner, "connect", stop, port])
status = other.end(60)
tap.ok(status == 0 and any(l.startswith("connect failed: ") for l in other.out()) and any("no mpirun of this user on this machine has job" in l
       for l in other.out("err")), "connecting to a port of a job that has ended is an error with a sentence", status, *other.tail())

# a network is not to be had, once; then there is one
stop = os.path.join(work, "stop%d" % tap.run)
job = Job(tap, ["-n", 1, spawner, "accept", stop], env={"GODWIT_FAULT": "rt.network.listen=fail"})
port = job.wait_line(r"^port (.*)", 30).group(1)  # in it: the process, 8 digits, and the job
other = Job(tap, ["-n", 1, spawner, "connect", stop, port])
tap.ok(other.end(30) == 0 and any("a test wants it so" in l for l in other.out("err")), "without a network there is no other job", *other.tail())
m = job.head().add("127.0.0.2", launcher="sh -c %c %h")
tap.ok(m["status"] == 0, "and a host can be added as before", m, *job.tail())
other = Job(tap, ["-n", 1, spawner, "connect", stop, port[:-17] + "00020000" + port[-9:], port])
tap.ok(other.wait_line("there is no rank 512 in job", 30, "err"), "a process that is not there is told of at once", *other.tail())
tap.ok(job.wait_line("^they talk", 30) and other.wait_line("^they talk", 30), "one that is there is reached", *(job.tail() + other.tail()))

open(stop, "w").close()
tap.ok([j.end(60) for j in (job, other)] == [0, 0], "and both end", *(job.tail() + other.tail()))

# another job's mpirun, which reads nothing
job = Job(tap, ["-n", 8, "-clusters", 2, spawner, "accept", stop])
job.wait_line(r"^port (.*)", 30)
peer, head = job.head(), job.head()
wait_for(lambda: all(r["state"] == "MPI" for r in head.ranks().values()))
peer.send({"op": "meet", "job": 1, "index": 0, "secret": "0" * 64})
heard = [peer.receive()["op"] for _ in range(10)]
tap.ok(heard == ["met"] + ["name"] * 8 + ["told"], "another job is told where ranks are", heard)
moved = sum(m["status"] == 0 for i in range(42) for m in head.migrate(range(8), i % 2))
epochs, names, news = {r: what["epoch"] for r, what in head.ranks().items()}, {}, 0
while {r: name["epoch"] for r, name in names.items() if name["state"] == 1} != epochs:
	name = peer.receive()
	names[name["rank"]] = name
	news += 1
tap.ok(moved > 300 and news < moved, "what its mpirun does not read is not kept but for the last of each rank", moved, news)
peer.close()
job.kill()
tap.ok(shm_entries() <= shm_before, "nothing is left in /dev/shm")
sys.exit(tap.done())
