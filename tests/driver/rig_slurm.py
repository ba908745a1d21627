# SPDX-License-Identifier: BSD-2-Clause
"""A real Slurm in a host rig: slurmctld on one host, slurmd on some, munge on all, from the distribution's packages.

	with rig.Rig(3, cgroups=not rig.why_no_cgroups()) as r:
		slurm = rig_slurm.Slurm(r, nodes=[r[2], r[3]])
		r[1].run(["srun", "-N2", "hostname"])

Commands find their configuration by themselves: /etc/slurm is the rig's in every host. doc/rig.md says what of control
groups works where.
"""
import os

import rig

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo", "scontrol")


def why_not():
	"""Why there can be no Slurm in a rig; None when there can."""
	try:
		for name in PROGRAMS:
			rig.tool(name)
	except rig.RigUnavailable as e:
		return str(e)
	return None if os.path.isdir("/etc/slurm") else "there is no /etc/slurm to bind the configuration over"


class Slurm:
	"""Starts when made; it ends with its rig.

	@nodes: hosts that run jobs (all). @controller: the host of slurmctld (the first). @slots: CPUs that each node is said
	to have, whatever the machine has. @memory_mib: memory of a node for jobs. @conf: more lines for slurm.conf.
	Steps are tracked by control groups when the rig was made with cgroups=True, by their parents otherwise.
	"""

	def __init__(self, r, nodes=None, controller=None, slots=2, memory_mib=4000, conf="", timeout=60):
		why = why_not()
		if why:
			raise rig.RigUnavailable(why)
		self.rig, self.nodes, self.controller = r, nodes or r.hosts, controller or r.hosts[0]
		self.daemon_user = r.user if r.userns else None  # root in a user namespace cannot become anybody
		self._configure(slots, memory_mib, conf)
		self.start(timeout)

	def _configure(self, slots, memory_mib, conf):
		r = self.rig
		os.makedirs(os.path.join(r.dir, "munge"), mode=0o755, exist_ok=True)
		self.key = os.path.join(r.dir, "munge", "key")
		if not os.path.exists(self.key):
			with open(os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400), "wb") as f:
				f.write(os.urandom(128))
		user = self.daemon_user or "root"
		tracking = ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/linux"]
		if r.cgroup:
			tracking = ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup", "JobAcctGatherType=jobacct_gather/cgroup"]
		r._write("etc/slurm/slurm.conf", "\n".join([
			"ClusterName=" + r.prefix, "SlurmctldHost=%s(%s)" % (self.controller.name, self.controller.address),
			"SlurmUser=" + user, "SlurmdUser=" + user, "AuthType=auth/munge", "CredType=cred/munge",
			# How long a requeued job waits before it starts again; the default is two minutes.
			"AuthInfo=cred_expire=10",
			"StateSaveLocation=%s/slurmctld" % r.scratch, "SlurmdSpoolDir=/run/slurmd",
			"SlurmctldPidFile=/run/slurmctld.pid", "SlurmdPidFile=/run/slurmd.pid",
			"SlurmctldLogFile=%s/log/slurmctld.%s" % (r.dir, self.controller.name), "SlurmdLogFile=%s/log/slurmd.%%h" % r.dir,
			"MpiDefault=none", "SwitchType=switch/none", "SelectType=select/cons_tres",
			"SelectTypeParameters=CR_CPU_Memory" if r.cgroup else "SelectTypeParameters=CR_CPU",
			"AccountingStorageType=accounting_storage/none", "JobCompType=jobcomp/filetxt",
			"JobCompLoc=%s/log/jobs" % r.dir, "JobAcctGatherFrequency=1",
			"SlurmdParameters=config_overrides", "SchedulerType=sched/backfill",
			"SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
			"ReturnToService=2", "SlurmdTimeout=20", "SlurmctldTimeout=20", "MessageTimeout=20", "KillWait=2", "InactiveLimit=0",
			"MinJobAge=86400"]  # a job that ended long ago is still looked at
			+ tracking + [conf]
			+ ["NodeName=%s NodeAddr=%s CPUs=%d RealMemory=%d State=UNKNOWN" % (n.name, n.address, slots, memory_mib) for n in self.nodes]
			+ ["PartitionName=rig Nodes=%s Default=YES MaxTime=60 DefMemPerCPU=%d State=UP" %
			   (",".join(n.name for n in self.nodes), memory_mib // slots), ""]))
		r._write("etc/slurm/cgroup.conf", "\n".join([
			"CgroupAutomount=no", "ConstrainCores=no", "ConstrainRAMSpace=yes", "ConstrainSwapSpace=no", "ConstrainDevices=no", ""]))

	def start_munge(self, hosts):
		for h in hosts:
			h.run("mkdir -p -m 755 /run/munge /run/slurmd", user=self.daemon_user, check=True)
			# Without --foreground it returns when it serves.
			h.run([rig.tool("munged"), "--force", "--key-file=" + self.key, "--log-file=%s/log/munged.%s" % (self.rig.dir, h.name),
			       "--seed-file=/run/munge/seed", "--pid-file=/run/munge/munged.pid"], user=self.daemon_user, check=True)

	def start_node(self, host):
		"""Again, after the host was off."""
		if not os.path.exists(os.path.join(host.dir, "run/munge/munge.socket.2")):
			self.start_munge([host])
		host.run([rig.tool("slurmd"), "-N", host.name], user=self.daemon_user, check=True)

	def start(self, timeout):
		self.start_munge({h.name: h for h in self.nodes + [self.controller]}.values())
		self.controller.run("mkdir -p %s/slurmctld" % self.rig.scratch, user=self.daemon_user, check=True)
		self.controller.run([rig.tool("slurmctld")], user=self.daemon_user, check=True)
		for n in self.nodes:
			self.start_node(n)
		try:
			rig.until("Slurm's nodes are idle", timeout, lambda: set(self.states().values()) == {"idle"}, 0.1)
		except rig.RigError as e:
			logs = [l for h in self.nodes for l in self.rig.log("slurmd." + h.name, 5)]
			raise rig.RigError("\n".join(["%s: %s" % (e, self.states())] + self.rig.log("slurmctld." + self.controller.name, 8) + logs)) \
				from None

	def states(self):
		"""Node -> state, as sinfo has it."""
		done = self.controller.run(["sinfo", "-h", "-N", "-o", "%N %T"])
		return dict(l.split() for l in done.stdout.splitlines())

	def jobs(self):
		"""Job -> state, of jobs that are not over."""
		done = self.controller.run(["squeue", "-h", "-o", "%A %T"], check=True)
		return {int(a): b for a, b in (l.split() for l in done.stdout.splitlines())}

	def show(self, job):
		"""What scontrol knows of a job, as name -> value."""
		done = self.controller.run(["scontrol", "-o", "show", "job", str(job)])
		return dict(w.split("=", 1) for w in done.stdout.split() if "=" in w)

	def wait_state(self, job, states, timeout=30):
		"""Wait until a job is in one of @states ("RUNNING", "COMPLETED", "CANCELLED", ...); its record."""
		found = {}

		def there():
			found.update(self.show(job))
			return found.get("JobState") in states
		try:
			rig.until("job %s becomes %s" % (job, " or ".join(states)), timeout, there, 0.1)
		except rig.RigError as e:
			raise rig.RigError("%s; it is %s (%s)" % (e, found.get("JobState"), found.get("Reason"))) from None
		return found
