#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Old and hardened hosts: each mechanism that moves use is denied, by a seccomp filter or a setting. The job starts and ends all the
same; its rank moves by the fallback, or stays with a sentence that names what is denied; and godwit doctor has said so before."""
from godwit import *

tap = Tap(150)
CONDUCT, DENY = (os.path.join(BUILD, "tests/programs", n) for n in ("conduct", "deny"))
GODWIT, MPIRUN = os.path.join(BUILD, "godwit"), os.path.join(BUILD, "mpirun")
work = work_dir("denied")
numbers = iter(range(1000))


def doctor(prefix, *args):
	"""Exit status, findings by name, and all."""
	p = subprocess.run(prefix + [GODWIT, "doctor", "--json"] + list(args), capture_output=True, text=True, timeout=60)
	try:
		said = json.loads(p.stdout)
	except ValueError:
		tap.diag(p.stdout + p.stderr)
		return p.returncode, {}, {}
	return p.returncode, {f["name"]: f for f in said["hosts"][-1]["findings"]}, said


def move_under(prefix, **how):
	"""A job of two ranks that exchange 4 MiB while rank 0 moves: did it start, the move's answer, did it end well."""
	stop = os.path.join(work, "stop%d" % next(numbers))
	job = Job(tap, ["-n", 2, "-clusters", 2, CONDUCT, "carry", 4, stop], launcher=prefix + [MPIRUN])
	started = job.wait_line("^ready", 60, count=2) is not None
	m = {"status": None, "text": "the job did not start"}
	if started:
		try:
			m = job.head().migrate([0], 1, **how)[0]
		except (OSError, EOFError, RuntimeError) as e:
			m["text"] = repr(e)
	open(stop, "w").close()
	status = job.end(60)
	ended = status == 0 and len([l for l in job.out() if l.startswith("carried")]) == 2 and not job.gone()
	return started and ended, m, [status] + job.tail()


# what is denied; with which error; does a rank move; what doctor calls it; what the refusal says
CASES = (
	("userfaultfd", "EPERM", True, "dirty tracking", None),
	("pagemap_scan", "ENOTTY", True, "PAGEMAP_SCAN", None),
	("process_vm_readv,process_vm_writev", "EPERM", True, "process_vm_*", None),
	("kcmp", "EPERM", True, "kcmp", None),
	("membarrier", "ENOSYS", True, "membarrier", None),
	("memfd_create", "EPERM", True, "memfd_create", None),
	("timens", "EPERM", True, "time namespaces", None),
	("rseq", "ENOSYS", True, "rseq", None),
	("ptrace", "EPERM", False, "ptrace", "ptrace"),
	("pidfd_open,pidfd_getfd,pidfd_send_signal", "ENOSYS", False, "pidfd_getfd", "pidfd_getfd"),
	("clone3", "ENOSYS", False, "namespaces", "namespaces"),
	("clone3", "EPERM", False, "namespaces", "namespaces"),
	("userfaultfd,pagemap_scan,process_vm_readv,process_vm_writev,kcmp,membarrier,memfd_create,unshare", "EPERM", True, "PAGEMAP_SCAN",
	 None),
	("clone3,userfaultfd,ptrace,process_vm_readv,process_vm_writev,pidfd_open,pidfd_getfd,kcmp,membarrier,memfd_create,unshare,rseq",
	 "EPERM", False, "moves", "namespaces"),
)

code, findings, said = doctor([])
if not findings:
	tap.bail("godwit doctor says nothing")
tap.ok(code == ["ok", "degraded", "missing"].index(said["state"]) and findings["MPICH"]["state"] == "ok",
       "doctor's exit status is its worst finding (%s), and the MPI library can be loaded" % said["state"], code, findings)
if subprocess.run([DENY, "EPERM", "kcmp", "true"], capture_output=True).returncode != 0:
	tap.skip("system calls are denied", "no seccomp filters here")
	sys.exit(tap.done())
if "cannot" in findings["moves"]["text"] or findings["moves"]["state"] != "ok":
	tap.skip("mechanisms are denied one by one", "ranks do not move here anyway: %s" % findings["moves"]["text"])
	sys.exit(tap.done())

well, m, more = move_under([DENY, "EPERM", "userfaultfd"], technique="post-copy")
tap.ok(well and m["status"] < 0 and "--technique pre-copy" in m["text"],
       "without userfaultfd a move by post-copy is refused, and the rank runs on: %s" % m["text"], *more)
# who may not wait for pages in the kernel, or is not told of forks: as an ordinary user, or root without that right
less = ["setpriv", "--bounding-set=-sys_ptrace", "--"] if os.getuid() == 0 else []
code, found, said = doctor(less)
words = found.get("demand paging", {"text": "?"})["text"]
if less and subprocess.run(less + ["true"], capture_output=True).returncode != 0:
	tap.skip("a user without CAP_SYS_PTRACE", "that right cannot be dropped here")
elif "of what is forked" in words and "not of what is forked" not in words:
	tap.skip("a user without CAP_SYS_PTRACE", "this one has it")
else:
	tap.ok("no rank can run here before its memory is there" in words and "CAP_SYS_PTRACE" in words and
	       found["moves"]["text"] == "stop-and-copy, pre-copy", "without CAP_SYS_PTRACE doctor says what is missing and what is left: %s" % words,
	       found.get("moves"))
	well, m, more = move_under(less, technique="post-copy")
	tap.ok(well and m["status"] < 0 and "before its memory is there" in m["text"] and "--technique pre-copy" in m["text"],
	       "post-copy is refused, with what to take instead: %s" % m["text"], *more)
	well, m, more = move_under(less, technique="auto", max_downtime_us=1)
	how = m.get("measures", {})
	tap.ok(well and m["status"] == 0 and how["technique"] == "pre-copy" and "does not let a rank run before its memory is there" in
	       str(how["chosen_for"]), "auto takes pre-copy where pages cannot follow the rank, and says so: %s" % how.get("chosen_for"), m["text"], *more)
for calls, error, moves, name, words in CASES:
	prefix = [DENY, error, calls]
	short = calls if len(calls) < 60 else "%d of them" % (calls.count(",") + 1)
	code, found, said = doctor(prefix)
	f = found.get(name, {"state": "", "text": "", "mend": ""})
	can = not found.get("moves", {"text": "none"})["text"].startswith("none")
	tap.ok(code == 1 and f["state"] == "degraded" and can == moves and (f["mend"] or name == "moves"),
	       "%s, %s: doctor calls it degraded, says how to mend it, and that ranks %s" % (short, error, "move" if moves else "stay"),
	       code, f, found.get("moves"))
	lives, m, details = move_under(prefix)
	if moves:
		tap.ok(lives and m["status"] == 0, "and the job runs, and its rank moves", m["text"], *details)
	else:
		tap.ok(lives and m["status"] not in (0, None) and words in m["text"], "and the job runs, and its rank stays: %s" % m["text"][:160],
		       *details)

# ---- a setting instead of a filter -----------------------------------------------------------------------------------

no_userns = ["unshare", "--user", "--map-current-user", "--keep-caps", "--", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && "
             "exec setpriv --ambient-caps=-all --inh-caps=-all -- \"$@\"", "sh"]
if os.getuid() == 0:
	tap.skip("no user namespaces", "root needs none; test_manners has an ordinary user without them")
elif subprocess.run(no_userns + ["true"], capture_output=True).returncode != 0:
	tap.skip("no user namespaces", "they cannot be limited here")
else:
	code, found, said = doctor(no_userns)
	f = found.get("namespaces", {})
	tap.ok(code == 1 and f.get("state") == "degraded" and "sysctl -w user.max_user_namespaces" in f.get("mend", ""),
	       "no user namespaces: doctor names the setting: %s" % f.get("mend"), code, f)

# ---- no job at all, and other hosts ----------------------------------------------------------------------------------

code, found, said = doctor(["env", "GODWIT_MPICH=" + work])
tap.ok(code == 2 and found.get("MPICH", {}).get("state") == "missing" and said["state"] == "missing" and "quickstart" in found["MPICH"]["mend"],
       "without an MPI library the exit status is 2: %s" % found.get("MPICH"), code)
code, found, said = doctor([], "-launcher", "fork", "-hosts", "a:1,b:1", "-program", CONDUCT)
names = [h["host"] for h in said.get("hosts", [])]
tap.ok(names[1:] == ["a", "b"] and all(found.get(n, {}).get("state") == "ok" for n in ("same build", "same kernel", "same processor",
       "time of day", "path", "MPICH")), "two hosts, asked as mpirun starts daemons, are compared with this one: %s" % names, code, found)
# a launcher that finds another installation there: the same tool, beside which stands another daemon
other, there = os.path.join(work, "other"), os.path.join(work, "there")
os.mkdir(other)
shutil.copy(GODWIT, other)
with open(os.path.join(other, "godwitd"), "w") as f:
	f.write("another daemon\n")
with open(there, "w") as f:
	f.write("""exec sh -c "$(printf %%s "$2" | sed "s|'[^']*/godwit'|'%s/godwit'|")"\n""" % other)
code, found, said = doctor([], "-launcher", "sh %s %%h %%c" % there, "x")
tap.ok(code == 2 and found.get("same build", {}).get("state") == "missing" and "same build" in found["same build"]["mend"],
       "a host with another build of Godwit is named: %s" % found.get("same build"), code, found)
code, found, said = doctor([], "-launcher", "false %h %c", "x")
tap.ok(code == 2 and found.get("reached", {}).get("state") == "missing", "and one that does not answer: %s" % found.get("reached"), code, found)

# ---- as a person reads it --------------------------------------------------------------------------------------------

p = subprocess.run([DENY, "EPERM", "userfaultfd", GODWIT, "doctor"], capture_output=True, text=True, timeout=60)
lines = p.stdout.split("\n")
tap.ok(p.returncode == 1 and max(map(len, lines)) <= 80 and any(l.startswith("  degraded") for l in lines) and
       not any(l != l.rstrip() for l in lines) and not p.stderr, "printed, no line is longer than 80 columns", p.returncode, p.stdout, p.stderr)
sys.exit(tap.done())
