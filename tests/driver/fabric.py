#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""libfabric's own tools over our provider: programs without MPI, with the distribution's libfabric."""
import shutil

from godwit import *

tap = Tap(100)
PROVIDERS = os.path.join(BUILD, ".libs")
PING = ["fi_pingpong", "-p", "godwit", "-e", "rdm", "-c"]


def ping_pong(size):
	"""Two ranks. The client does not wait for a server that is not there yet, so it is tried again. Its shell is no program of libfabric's,
	so it gets our libraries, which the client must not."""
	words = PING + ["-I", "5", "-S", str(size)]
	again = "unset LD_PRELOAD LD_LIBRARY_PATH; until said=$(%s 127.0.0.1 2>&1); do :; done; echo \"$said\"" % " ".join(words)
	job = Job(tap, ["-n", 1] + words + [":", "-n", 1, "sh", "-c", again])
	status = job.end(40)
	tables = [l for l in job.out() if re.match(r"%s\s+5\s+=5" % ("1m" if size == 1 << 20 else size), l)]
	return status == 0 and len(tables) == 2, [status] + job.tail()


for tool in ("fi_info", "fi_pingpong"):
	if not shutil.which(tool):
		tap.skip("%s works with the provider" % tool, "there is no %s here; on Debian: libfabric-bin" % tool)
if not shutil.which("fi_info") or not shutil.which("fi_pingpong"):
	sys.exit(tap.done())
p = subprocess.run(["fi_info", "-p", "godwit"], env=dict(os.environ, FI_PROVIDER_PATH=PROVIDERS), capture_output=True, text=True, timeout=60)
tap.ok(p.returncode == 0 and "provider: godwit" in p.stdout and "FI_EP_RDM" in p.stdout, "fi_info shows the provider where FI_PROVIDER_PATH leads to it",
       p.returncode, p.stdout, p.stderr)
job = Job(tap, ["-n", 1, "fi_info", "-p", "godwit"])
status = job.end(40)
tap.ok(status == 0 and "provider: godwit" in job.out(), "and under mpirun, which leads it there", status, *job.tail())
for size in (64, 1 << 20):
	good, details = ping_pong(size)
	tap.ok(good, "fi_pingpong between two ranks, %d bytes, and their contents" % size, *details)
sys.exit(tap.done())
