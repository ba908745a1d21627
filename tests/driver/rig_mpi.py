# SPDX-License-Identifier: BSD-2-Clause
"""Ranks in the host rig: what a test needs of hosts that run jobs, or why it cannot have them, and what jobs left there."""
import contextlib, os, sys

import godwit, rig


def prefix():
	"""Where the MPI library is that ranks load."""
	return os.environ.get("GODWIT_MPICH") or godwit.mpich_prefix()


def why_not():
	"""Why no rank can run on a host of a rig here; None when it can."""
	why, library = rig.why_not(), os.path.join(prefix(), "lib/libmpi.so.12")
	if not why and not os.access(library, os.R_OK):
		why = "user %d cannot read %s; give a copy's directory in GODWIT_MPICH" % (os.getuid(), library)
	return why


@contextlib.contextmanager
def hosts(number, **more):
	"""A rig of so many hosts for ranks, which reach each other by ssh. RigUnavailable where there cannot be one."""
	why = why_not()
	if why:
		raise rig.RigUnavailable(why)
	with rig.Rig(number, keep=[prefix()], **more) as r:
		r.start_sshd()
		yield r


@contextlib.contextmanager
def hosts_or_skip(number, **more):
	"""The same for a test that is nothing without them: it is skipped, and ends here."""
	with contextlib.ExitStack() as stack:
		try:
			r = stack.enter_context(hosts(number, **more))
		except rig.RigUnavailable as e:
			skip(e)
		yield r


def skip(why):
	print("1..0 # SKIP %s" % why)
	sys.exit(0)


def login(r):
	"""The user of r[n].run() whose ssh to another host ends there as the same one; None is root, of the rig's own making."""
	return r.user if os.geteuid() else None


def left(hosts, names):
	"""Which processes of these names, divided by |, run on hosts that are on; waits until none does."""
	found = []

	def is_none():
		found[:] = [(h.name, p) for h in hosts if h.init for p in h.run(["pgrep", "-xl", names]).stdout.splitlines()]
		return not found

	godwit.wait_for(is_none, 30, 0.1)
	return found
