#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""examples/requeue.sbatch in a real Slurm: the job is requeued, goes on elsewhere, and its answer is that of a run that nobody
disturbed. --long: also by --signal before the time is over, by a job of more priority, and cancelled and submitted anew; and a job
of which a node is drained."""
import argparse, json, os, re, shutil, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi, rig_slurm
from hosts_slurm import read, submit

parser = argparse.ArgumentParser()
parser.add_argument("--long", action="store_true")
args = parser.parse_args()
tap = godwit.Tap(1200)
why = rig_mpi.why_not() or rig_slurm.why_not() or rig.why_no_cgroups()  # without, Slurm ends the ranks themselves
if why:
	rig_mpi.skip(why)
TOP = os.path.realpath(os.environ.get("top_srcdir", os.getcwd()))
PATIENCE = 240
PLATE = ["--size", "300", "--iterations", "8000", "--report", "100"]
# A requeued job waits as long as a credential lives
CONF = ["AuthInfo=cred_expire=5", "KillWait=30", "PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
        "PartitionName=urgent Nodes=rig2,rig3,rig4 PriorityTier=10 MaxTime=60 PreemptMode=OFF"]


def happens(what, timeout=PATIENCE):
	return godwit.wait_for(what, timeout, 0.1)


class Batch:
	"""The example, in a directory of its own."""

	def __init__(self, name, *options, plate=PLATE):
		self.dir = os.path.join(r.shared, name)
		os.mkdir(self.dir)
		shutil.copy(os.path.join(godwit.BUILD, "examples/jacobi"), self.dir)
		os.chmod(self.dir, 0o777)
		self.out, self.events, self.options = os.path.join(self.dir, "out"), os.path.join(self.dir, "events"), list(options)
		self.seen, self.plate = 0, plate
		self.submit()

	def submit(self):
		done = r[1].run(["sbatch", "--parsable", "-D", self.dir, "-o", self.out] + self.options +
		                [os.path.join(TOP, "examples/requeue.sbatch")] + self.plate, user=login, check=True,
		                env={"PATH": godwit.BUILD + ":" + r.env["PATH"], "GODWIT_EVENTS": self.events})
		self.job = int(done.stdout)

	def wait_on(self):
		"""Until it has gone on from where it was seen last."""
		def further():
			found = [int(n) for n in re.findall(r"iteration +(\d+) of", read(self.out))]
			return [n for n in found if n > self.seen] and max(found)
		self.seen = happens(further) or tap.bail("the job does not go on: " + read(self.out))

	def told(self, name):
		"""Events of mpiruns, in their order"""
		return [e for e in map(json.loads, filter(None, read(self.events).split("\n"))) if e["event"] == name and e["who"] == "mpirun"]

	def nodes(self):
		return slurm.show(self.job).get("NodeList")

	def leg(self, sentence, act, count):
		"""@act ends its run: it is written down, and goes on by itself. @count: how often it has been, then"""
		self.wait_on()
		before = self.nodes()
		act()
		ended = happens(lambda: len(self.told("job.ended")) >= count)
		codes = [e["code"] for e in self.told("job.ended")]
		if ended:
			tap.diag("from the signal to the end of mpirun: %.0f ms, of which the checkpoint took %.0f ms" % (
			         (self.told("job.ended")[-1]["t"] - self.told("job.checkpoint_on")[-1]["t"]) / 1e6, self.told("job.checkpoint")[-1]["ms"]))
		on = happens(lambda: "goes on from checkpoint %d of" % count in read(self.out))
		tap.ok(codes == [75] * count and on, sentence, codes, slurm.show(self.job), read(self.out), *r.log("slurmctld.rig1", 8))
		return before

	def end(self, sentence):
		record = slurm.wait_state(self.job, ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"], PATIENCE)
		tap.ok(record["ExitCode"] == "0:0" and godwit.checksum(read(self.out)) and godwit.checksum(read(self.out)) == godwit.checksum(alone),
		       sentence, record, read(self.out), alone)


def command(*words):
	return lambda: r[1].run(list(words), user=login, check=True, timeout=PATIENCE)


def state(nodes, what):
	r[1].run(["scontrol", "update", "NodeName=" + nodes, "State=" + what] + (["Reason=test"] if what == "DRAIN" else []), check=True)


def test_requeue():
	state("rig4", "DRAIN")
	batch = Batch("requeue")
	batch.wait_on()
	state("rig4", "RESUME")
	state("rig2,rig3", "DRAIN")  # what comes then is on the one that is left
	before = batch.leg("scontrol requeue: the job is written down, and goes on by the same line", command("scontrol", "requeue", str(batch.job)), 1)
	after = batch.nodes()
	tap.ok(before == "rig[2-3]" and after == "rig4", "on another node, and on fewer", before, after)
	state("rig2,rig3", "RESUME")
	batch.end("its answer is bit for bit that of one rank that nobody disturbed")
	tap.ok(slurm.show(batch.job).get("Restarts") == "1" and os.path.exists(os.path.join(batch.dir, "jacobi.ckpt/ENDED")),
	       "and the checkpoint is not needed any more", slurm.show(batch.job))


def test_hasty():
	"""A script that would not wait for its mpirun"""
	out = os.path.join(r.shared, "hasty")
	submit(r[1], "%s -checkpoint-dir %s/hasty.ckpt true" % (os.path.join(godwit.BUILD, "mpirun"), r.shared), "-n1", "-o", out, user=login)
	said = happens(lambda: "trap : TERM" in read(out))
	submit(r[1], "trap : TERM\n%s -checkpoint-dir %s/waits.ckpt true; echo $?" % (os.path.join(godwit.BUILD, "mpirun"), r.shared), "-n1", "-o",
	       out + "-not", user=login)
	happens(lambda: read(out + "-not").count("\n") == 1)
	tap.ok(said and read(out + "-not") == "0\n", "a script that Slurm would end before its mpirun is told so", read(out), read(out + "-not"))


def test_long():
	"""A job that would go on for ever."""
	batch = Batch("long", "--time=1", "--signal=USR1@50", plate=PLATE[:2] + ["--iterations", "100000000"] + PLATE[4:])
	batch.leg("--signal: before its time is over the job is written down, and requeues itself", lambda: None, 1)
	tap.ok(slurm.show(batch.job).get("Restarts") == "1", "once", slurm.show(batch.job))
	r[1].run(["scontrol", "update", "JobId=%d" % batch.job, "TimeLimit=60"], check=True)
	urgent = ["sbatch", "-p", "urgent", "-N3", "-n12", "-o", "/dev/null", "--wrap", "sleep 1"]
	batch.leg("a job with more priority: it makes room, and goes on afterwards", command(*urgent), 2)
	batch.wait_on()
	command("scancel", str(batch.job))()
	record = slurm.wait_state(batch.job, ["CANCELLED", "COMPLETED", "FAILED"], PATIENCE)
	ended = happens(lambda: len(batch.told("job.ended")) == 3)
	tap.ok(record["JobState"] == "CANCELLED" and ended, "scancel: it is not requeued", record)
	batch.submit()
	on = happens(lambda: "goes on from checkpoint 3 of" in read(batch.out))
	tap.ok(on, "but written down: submitted once more it goes on", read(batch.out))
	command("scancel", str(batch.job))()
	slurm.wait_state(batch.job, ["CANCELLED"], PATIENCE)


def test_drain():
	"""A node that an administrator drains while the job runs: sinfo says so to every user. As in doc/guide.md"""
	out = os.path.join(r.shared, "drain")
	os.mkdir(out)
	os.chmod(out, 0o777)
	job = submit(r[1], """cd %s
while sleep 1; do sinfo -h -N -n "$SLURM_JOB_NODELIST" -t drain -o %%N > going.new && mv going.new going; done &
watch=$!
%s/mpirun -drain-file going %s/examples/jacobi %s -q
status=$?
kill $watch
exit $status""" % (out, godwit.BUILD, godwit.BUILD, " ".join(PLATE)), "-N2", "-n4", "-w", "rig2,rig3", "-o", out + "/out", user=login)
	slurm.wait_state(job, ["RUNNING"], PATIENCE)
	happens(lambda: os.path.exists(out + "/going"))
	state("rig3", "DRAIN")
	empty = happens(lambda: "mpirun: host rig3: empty" in read(out + "/out"))
	state("rig3", "RESUME")
	back = happens(lambda: "the drain file names it no more" in read(out + "/out"))
	record = slurm.wait_state(job, ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"], PATIENCE)
	tap.ok(empty and back and record["ExitCode"] == "0:0" and godwit.checksum(read(out + "/out")) == godwit.checksum(alone),
	       "a node that is drained is emptied, and the job goes on with the same answer", record, read(out + "/out"), alone)


with rig.Rig(4, keep=[rig_mpi.prefix()], cgroups=True) as r:
	login = rig_mpi.login(r)
	alone = subprocess.run([os.path.join(godwit.BUILD, "mpirun"), "-n", "1", os.path.join(godwit.BUILD, "examples/jacobi"), "-q"] + PLATE,
	                       capture_output=True, text=True, timeout=90).stdout
	try:
		slurm = rig_slurm.Slurm(r, nodes=[r[2], r[3], r[4]], slots=4, memory_mib=8000, conf="\n".join(CONF))
	except rig.RigUnavailable as e:
		rig_mpi.skip(str(e))
	test_requeue()
	test_hasty()
	if args.long:
		test_drain()
		test_long()
	left = [h.name for h in r.hosts if h.run(["pgrep", "-x", "godwitd"]).stdout]
	tap.ok(not left, "nothing of it is left on any host", *left)
sys.exit(tap.done())
