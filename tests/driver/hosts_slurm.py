# SPDX-License-Identifier: BSD-2-Clause
"""Slurm in the host rig: does it do what a launcher will ask of it? Part of driver/hosts.py."""
import os, re

import rig, rig_slurm

TWO = "srun runs one task on each of two hosts"
BATCH = "a batch job of an ordinary user runs, and its allocation is in its environment"
ALLOC = "salloc runs a command with an allocation, and its status comes back"
CANCEL = "a cancelled job leaves no process"
SIGNAL = "the signal before the time limit arrives inside"
REQUEUE = "a requeued job starts again"
CGROUP = "a process put into a step's control group is counted there, and ends with the step"


def sleepers(host, seconds):
	"""PIDs inside the host of those who sleep that long."""
	return re.findall(r"^ *(\d+) (?:\S*/)?sleep %d$" % seconds, host.run("ps -eo pid=,args=").stdout, re.M)


def happens(test):
	try:
		return rig.until("it", 20, test)
	except rig.RigError:
		return False


def submit(host, script, *options, user):
	done = host.run(["sbatch", "--parsable"] + list(options), input="#!/bin/sh\n" + script + "\n", user=user, check=True)
	return int(done.stdout.strip().split(";")[0])


def read(path):
	try:
		with open(path) as f:
			return f.read()
	except OSError:
		return ""


def test_cgroup(t, r, slurm):
	"""What a rank that moves in from elsewhere will need."""
	if not r.cgroup:
		t.skip(CGROUP, rig.why_no_cgroups())
		return
	job = submit(r[1], "srun -n1 sleep 3003", "-w", "rig2", "-o", "/dev/null", user=r.user)
	rig.until("the step runs", 30, lambda: sleepers(r[2], 3003))
	foreign = r[2].popen("for c in freezer memory cpuacct; do echo $$ > /sys/fs/cgroup/$c/slurm_rig2/uid_%d/job_%d/step_0/$( [ $c = freezer ] "
	                     "|| echo task_0)/cgroup.procs || exit 1; done; echo in > %s/in; exec sleep 3004" % (r.uid, job, r.scratch))
	rig.until("a process entered the step's group", 10, lambda: sleepers(r[2], 3004) or foreign.poll() is not None)
	counted = r[2].run("cat /sys/fs/cgroup/cpuacct/slurm_rig2/uid_%d/job_%d/step_0/task_0/cgroup.procs" % (r.uid, job)).stdout.split()
	pid = sleepers(r[2], 3004)[0] if foreign.poll() is None else None
	r[1].run(["scancel", str(job)], user=r.user, check=True)
	slurm.wait_state(job, ["CANCELLED"])
	t.ok(happens(lambda: foreign.poll() is not None) and pid in counted, CGROUP, "pid %s of %s, status %s" % (pid, counted, foreign.poll()),
	     *r.log("slurmd.rig2"))
	if foreign.poll() is None:
		rig.kill_tree(foreign)


def test_slurm(t):
	"""A generator: yields while jobs take their time."""
	sentences = [TWO, BATCH, ALLOC, CANCEL, SIGNAL, CGROUP, REQUEUE]
	why = rig_slurm.why_not()
	if why:
		for s in sentences:
			t.skip(s, why)
		return
	with rig.Rig(3, cgroups=not rig.why_no_cgroups()) as r:
		slurm = rig_slurm.Slurm(r, nodes=[r[2], r[3]], slots=4)
		out = os.path.join(r.shared, "out-")
		got = r[1].run(["srun", "-l", "-N2", "hostname"], user=r.user)
		t.ok(sorted(got.stdout.split()) == ["0:", "1:", "rig2", "rig3"] and got.returncode == 0, TWO, got, *r.log("slurmctld.rig1"))

		again = submit(r[1], "echo start $SLURM_RESTART_COUNT >> %sagain; exec sleep 3001" % out, "-n1", "-o", "/dev/null", user=r.user)
		slurm.wait_state(again, ["RUNNING"])
		rig.until("the batch job has begun", 30, lambda: read(out + "again"))
		r[1].run(["scontrol", "requeue", str(again)], user=r.user, check=True)

		# Slurm looks at time limits twice a minute, and a requeued job waits.
		limited = submit(r[1], "srun sh -c 'trap \"echo caught; exit 0\" USR1; echo ready; while :; do sleep 0.1; done'", "-n1", "-t1",
		                 "--signal=USR1@59", "-o", out + "signal", user=r.user)
		yield

		job = submit(r[1], "echo $SLURM_JOB_NODELIST $SLURM_NTASKS; srun hostname | sort; exit 5", "-N2", "-n2", "-o", out + "batch",
		             user=r.user)
		record = slurm.wait_state(job, ["COMPLETED", "FAILED"])
		t.ok(read(out + "batch").split() == ["rig[2-3]", "2", "rig2", "rig3"] and record["ExitCode"] == "5:0", BATCH,
		     read(out + "batch"), record)

		got = r[1].run(["salloc", "-Q", "-N2", "sh", "-c", "echo $SLURM_JOB_NODELIST; srun hostname; exit 6"], user=r.user)
		t.ok(got.returncode == 6 and sorted(got.stdout.split()) == ["rig2", "rig3", "rig[2-3]"], ALLOC, got)

		job = submit(r[1], "srun -N2 -n2 sh -c 'sleep 3002 & sleep 3002'", "-N2", "-o", "/dev/null", user=r.user)
		rig.until("the job runs on both hosts", 30, lambda: len(sleepers(r[2], 3002)) == 2 and len(sleepers(r[3], 3002)) == 2)
		r[1].run(["scancel", str(job)], user=r.user, check=True)
		slurm.wait_state(job, ["CANCELLED"])
		t.ok(happens(lambda: not sleepers(r[2], 3002) and not sleepers(r[3], 3002)), CANCEL, *r.log("slurmd.rig2"))

		test_cgroup(t, r, slurm)

		slurm.wait_state(limited, ["COMPLETED", "FAILED", "TIMEOUT"], 90)
		t.ok("caught" in read(out + "signal").split(), SIGNAL, read(out + "signal"))

		slurm.wait_state(again, ["RUNNING"], 60)
		rig.until("it runs again", 30, lambda: "start 1" in read(out + "again"))
		t.ok(slurm.show(again).get("Restarts") == "1", REQUEUE, read(out + "again"))
