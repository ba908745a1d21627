#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""doc/guide.md is typed as it stands: each of its blocks works, and says what the guide says."""
from godwit import *

tap = Tap(500)
SRC = os.path.realpath(os.environ.get("top_srcdir", os.getcwd()))
if not can_move():
	tap.skip("the guide is typed", "ranks cannot move here")
	sys.exit(tap.done())
work = work_dir("guide")
with open(os.path.join(SRC, "doc/guide.md")) as f:
	blocks = re.findall(r"^## (.*?)$|^```sh\n(.*?)^```$", f.read(), re.M | re.S)

# The machine may run other jobs of this user, and a person types slowly: godwit waits for the job of this guide, and means it.
os.mkdir(os.path.join(work, "bin"))
wrapper = os.path.join(work, "bin", "godwit")
with open(wrapper, "w") as f:
	f.write("""#!%s
import os, sys
sys.path.insert(0, %r)
from godwit import Head, proc_stat, struct, re, socket, wait_for

def is_ours(pid):
	while pid > 1 and pid != %d:
		pid = (proc_stat(pid) or (0, 1))[1]
	return pid == %d

def job():
	with open("/proc/net/unix") as f:
		for name in set(re.findall(r"@(godwit/%%d/[0-9a-f]{8}/head)$" %% os.getuid(), f.read(), re.M)):
			try:
				h = Head(name, 5)
				pid = struct.unpack("iII", h.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
				if is_ours(pid) and all(r["state"] in ("MPI", "finalized") for r in h.status()["ranks"]):
					return name.split("/")[2]
			except (OSError, EOFError):
				pass

words = sys.argv[1:]
if words[0] not in ("doctor", "help", "restart", "report") and "--verify" not in words:
	words[1:1] = ["--job", wait_for(job, 30) or "none"]
os.execv(%r, ["godwit"] + words)
""" % (sys.executable, os.path.join(SRC, "tests/driver"), os.getpid(), os.getpid(), os.path.join(BUILD, "godwit")))
os.chmod(wrapper, 0o755)

script, titles, title = ["set -e"], [], "before"
for heading, block in blocks:
	if heading:
		title = heading
		continue
	block = block.replace("export PATH=$PWD/build:$PATH ", "export PATH=%s:%s:$PATH " % (os.path.dirname(wrapper), BUILD))
	titles.append(title)
	script.append(block.replace("build/examples/", BUILD + "/examples/") + "\necho 'block %d works'" % len(titles))
bash = subprocess.Popen(["bash", "-c", "\n".join(script)], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                        env=dict(os.environ, TMPDIR=work), start_new_session=True)
try:
	said = bash.communicate(timeout=450)[0]
except subprocess.TimeoutExpired:
	os.killpg(bash.pid, signal.SIGKILL)
	said = bash.communicate()[0] + "\nit did not end"
for k, title in enumerate(titles):
	if not tap.ok("block %d works\n" % (k + 1) in said, "block %d of the guide, %s" % (k + 1, title), said[-3000:]):
		break
tap.ok("rank 3 of 4" in said and "2 ranks moved away" in said and "host b: empty" in said and "status 75" in said, "it says what it is to say", said)
sys.exit(tap.done())
