#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""mpirun as people use it: options, standard streams, signals, limits, places, and every way in which a stranger errs."""
import collections, hashlib, pty, resource, select, signal

from godwit import *

tap = Tap(300)
work = work_dir("launch")
MPIRUN = os.path.join(BUILD, "mpirun")
conduct = os.path.join(BUILD, "tests/programs/conduct")


def run(*args, timeout=40, data=None, env=None, **how):
	"""A whole run, as bytes: status, standard output, standard error."""
	p = subprocess.Popen([MPIRUN] + [str(a) for a in args], env=dict(os.environ, **(env or {})), stdout=how.pop("stdout", subprocess.PIPE),
	                     stderr=how.pop("stderr", subprocess.PIPE), stdin=how.pop("stdin", subprocess.PIPE if data is not None else
	                     subprocess.DEVNULL), **how)
	try:
		out, err = p.communicate(data, timeout=timeout)
	except subprocess.TimeoutExpired:
		tap.diag("hangs: %s" % (args,))
		p.kill()
		out, err = p.communicate()
		return None, out, err
	return p.returncode, out, err


def lines(data):
	return (data or b"").decode(errors="replace").splitlines()


def says(sentence, want, words, args, **how):
	"""One sentence with these words, and this status."""
	status, out, err = run(*args, **how)
	err = lines(err)
	return tap.ok(status == want and len(err) == 1 and err[0].startswith("mpirun: ") and all(w in err[0] for w in words) and not out,
	              "%s: %s" % (sentence, err[0][:110] if err else None), "status %s" % status, out, *err)


# Each handler writes at once; "up" when all are set.
catcher = r"""
import os, signal, sys
for s in sys.argv[1:]:
	signal.signal(getattr(signal, "SIG" + s), lambda n, f: (os.write(1, b"got %d\n" % n), n in (15, 3, 1, 2) and os._exit(0)))
os.write(1, b"up\n")
while True:
	signal.pause()
"""


# Ranks that ignore what tells them to end; looked at when everything else has been tried
deaf = Job(tap, ["-n", 2, "-clusters", 2, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done"])
if not deaf.wait_line("^up$", 30, count=2):
	tap.bail("ranks do not start")
deaf.proc.terminate()

# ---- options: the environment ----------------------------------------------------------------------------------------

show = ["sh", "-c", "echo $PMI_RANK:$A:$B:$C"]
own = {"A": "a", "B": "b", "C": "c"}
for args, want in (
	(["-n", 1] + show, ["0:a:b:c"]),
	(["--n=1", "--genv=A=1", "-genv", "B=x=y"] + show, ["0:1:x=y:c"]),
	(["-n", 1, "-genvnone", "-env", "A", "1"] + show, ["0:1::"]),
	(["-n", 1, "-genvlist", "A,C"] + show, ["0:a::c"]),
	(["-envlist", "B"] + show + [":", "-envnone", "-genv", "C", "7"] + show + [":"] + show, ["0::b:7", "1:::7", "2:a:b:7"]),
	(["-genvnone", "-n", 1, "-envall"] + show + [":", "-n", 1] + show, ["0:a:b:c", "1:::"]),
	(["-x", "A", "-x", "B=2", "--oversubscribe", "--allow-run-as-root", "-host", "localhost:2", "--", ] + show, ["0:a:2:c"])):
	status, out, err = run(*args, env=own)
	tap.ok(status == 0 and sorted(lines(out)) == want and not err, "mpirun %s" % " ".join(str(a) for a in args if a not in show),
	       status, out, err)

status, out, err = run("-n", 2, "-genv", "FI_PROVIDER", "tcp", "sh", "-c", "echo $FI_PROVIDER $MPIR_CVAR_NOLOCAL",
                       env={"MPIR_CVAR_NOLOCAL": "0", "MPIR_CVAR_ENABLE_GPU": "1"})
tap.ok(status == 0 and lines(out) == ["godwit 1"] * 2 and len(lines(err)) == 1 and "FI_PROVIDER=tcp, MPIR_CVAR_NOLOCAL=0" in lines(err)[0],
       "what would break moving is overridden, and said once, in one line", out, err)
status, out, err = run("-n", 2, "sh", "-c", "echo $OMP_NUM_THREADS")
cpus = len(os.sched_getaffinity(0))
tap.ok(lines(out) == [str(max(1, cpus // 2))] * 2, "ranks that share processors share them among their OpenMP threads", out)
status, out, err = run("-n", 1, "sh", "-c", "echo =$OMP_NUM_THREADS")
status2, out2, err = run("-n", 2, "sh", "-c", "echo =$OMP_NUM_THREADS", env={"OMP_NUM_THREADS": "3"})
tap.ok(lines(out) == ["="] and lines(out2) == ["=3"] * 2, "one that has its processors to itself is left alone, as is what the user says")

crowd = ["-n", cpus, "sh", "-c", "echo $GODWIT_CROWDED", ":", "-n", 1, "-env", "GODWIT_CROWDED", "0", "sh", "-c", "echo $GODWIT_CROWDED"]
out1, out2 = run("-n", 1, "sh", "-c", "echo $GODWIT_CROWDED")[1], run(*crowd)[1]
out3 = run("-genv", "GODWIT_CROWDED", "0", *crowd)[1]
tap.ok(lines(out1) == ["0"] and lines(out2) == ["1"] * (cpus + 1) and lines(out3) == ["0"] * (cpus + 1),
       "all ranks are told the same of whether there are more of them than cores", out1, out2, out3)

# ---- options: several programs, a configuration file -----------------------------------------------------------------

status, out, err = run("-n", 1, "-wdir", "/", "sh", "-c", "echo $PMI_RANK $(pwd)", ":", "-n", 2, "-wdir", work, "-env", "X", "1", "sh", "-c",
                       "echo $PMI_RANK $(pwd) $X")
tap.ok(sorted(lines(out)) == ["0 /"] + ["%d %s 1" % (r, os.path.realpath(work)) for r in (1, 2)], "each program has its own directory "
       "and variables", out, err)
config = os.path.join(work, "my job")
with open(config, "w") as f:
	f.write("# two programs\n\n-l -n 2 sh -c 'echo one  two $PMI_RANK'   # the first\n   \n-n 1 -env X \"a b\" \\\n  sh -c \"echo \\$X\"\n\n")
status, out, err = run("-configfile", config)
tap.ok(status == 0 and sorted(lines(out)) == ["[0] one two 0", "[1] one two 1", "[2] a b"],
       "-configfile: comments, quotes, a line that goes on, empty lines", status, out, err)
status, out, err = run("-prepend-pattern", "<%r>", "--configfile=" + config)
tap.ok(sorted(lines(out))[:1] == ["<0>[0] one two 0"] or sorted(lines(out))[:1] == ["[0] one two 0"], "with options on the command line", out, err)
open(os.path.join(work, "quote"), "w").write("-n 1 true\n-n 1 echo 'x\n")
open(os.path.join(work, "empty"), "w").write("# nothing\n\n")
says("an open quote", 1, ["quote", "line 2"], ["-configfile", os.path.join(work, "quote")])
says("an empty file", 1, ["empty", "no program"], ["-configfile", os.path.join(work, "empty")])
says("no such file", 1, ["/nonexistent", "cannot be read"], ["-configfile", "/nonexistent"])
says("programs in both places", 1, ["command line"], ["-configfile", config, "true"])

# ---- options: where ranks begin and where they may run ---------------------------------------------------------------


def places(*args):
	status, out, err = run("-l", "-prepend-pattern", "%p ", *args, "sh", "-c", "echo $PMI_RANK")
	return [int(l.split()[0]) for l in sorted(lines(out), key=lambda l: int(l.split()[1]))]


tap.ok(places("-n", 6, "-clusters", 3) == [0, 0, 1, 1, 2, 2] and places("-n", 6, "-clusters", 3, "-ppn", 1) == [0, 1, 2, 0, 1, 2] and
       places("-n", 5, "-clusters", 2, "-ppn", 2) == [0, 0, 1, 1, 0] and places("-n", 4, "-clusters", 2, "-map-by", "node") == [0, 1, 0, 1],
       "-clusters, -ppn and -map-by node deal the ranks to clusters")
mask = ["sh", "-c", "taskset -pc $$ | sed 's/.*: //'"]
if cpus < 2:
	tap.skip("-bind-to core", "one processor")
else:
	mine = sorted(os.sched_getaffinity(0))
	status, out, err = run("-n", 3, "-bind-to", "rr", *mask)
	tap.ok(sorted(lines(out)) == sorted([str(mine[0])] + [str(mine[1]), str(mine[2 % cpus])]), "-bind-to rr: one processor each, and round again", out, err)
	status, out, err = run("-n", 2, "-clusters", 2, *mask)
	first = sorted(lines(out))
	status, out, err = run("-n", 2, "-clusters", 2, "-bind-to", "user:0", *mask)
	tap.ok(len(set(lines(out))) == 2 and all(not re.search("[,-]", l) for l in lines(out)), "-bind-to user:0 counts in each cluster", out, err)
	job = Job(tap, ["-n", 1, "-clusters", 2, "-bind-to", "hwthread", "sleep", 1000])
	wait_for(lambda: job.head_name() and job.head().ranks()[0]["pid"])
	head = job.head()
	before = os.sched_getaffinity(head.ranks()[0]["pid"])
	m = head.migrate([0], 1)[0]
	after = os.sched_getaffinity(head.ranks()[0]["pid"])
	cores = head.status()["clusters"][1]["cores"]
	tap.ok(m["status"] == 0 and len(before) == len(after) == 1 and before != after and after <= set(cores),
	       "a bound rank is bound to one of the new cluster's after a move", m, before, after, cores)
	job.proc.terminate()
	job.wait(20)
says("-bind-to nonsense", 1, ["nonsense", "core"], ["-bind-to", "nonsense", "true"])
says("-bind-to user:999", 1, ["user:999", "cluster 0"], ["-bind-to", "user:999", "true"])

# ---- options that are refused, strangers ------------------------------------------------------------------------------

script = os.path.join(work, "godwit-script")
open(script, "w").write("echo plain $PMI_RANK\n")
os.chmod(script, 0o755)
broken = os.path.join(work, "broken")
open(broken, "w").write("#!/nonexistent/python9\n")
os.chmod(broken, 0o755)
unreadable = os.path.join(work, "noexec")
open(unreadable, "w").write("#!/bin/sh\n")
for sentence, want, words, args in (
	("a host that is none", 1, ["host 'far.invalid'"], ["-hosts", "far.invalid", "true"]),
	("a number of slots that is none", 1, ["'far:x'", "HOST:SLOTS"], ["-hosts", "far:x", "true"]),
	("a host that would be an option of ssh", 1, ["'-oProxyCommand=x'"], ["-hosts", "-oProxyCommand=x", "true"]),
	("a host file that is none", 1, ["'hosts.none'", "No such file"], ["-f", "hosts.none", "true"]),
	("a host file that is a directory", 1, ["'/'", "Is a directory"], ["-f", "/", "true"]),
	("a configuration file that is one", 1, ["'/'", "Is a directory"], ["-configfile", "/"]),
	("a launcher that is none", 1, ["rexec", "ssh"], ["-launcher", "rexec", "true"]),
	("Open MPI's components", 1, ["Open MPI"], ["--mca", "btl", "tcp", "true"]),
	("an option that is nearly one", 1, ["-cluster'", "did you mean '-clusters'"], ["-cluster", "2", "true"]),
	("an option that is none", 1, ["--frob", "-help"], ["--frob", "true"]),
	("a value too many", 1, ["-l=3", "no value"], ["-l=3", "true"]),
	("no ranks", 1, ["'0'", "1 to"], ["-n", 0, "true"]),
	("fewer", 1, ["'-3'"], ["-n", -3, "true"]),
	("too many ranks", 1, ["100000"], ["-n", 100000, "true"]),
	("contradictory options", 1, ["contradicts"], ["-genvnone", "-genvall", "true"]),
	("a program that is nowhere", 127, ["'nosuchprogram'", "not in PATH"], ["-n", 2, "nosuchprogram"]),
	("a directory", 126, [work, "directory"], [work]),
	("a file that is not executable", 126, ["chmod +x"], [unreadable]),
	("a script whose interpreter is missing", 127, ["python9"], [broken]),
	("a directory to start in that is none", 1, ["/nonexistent"], ["-wdir", "/nonexistent", "true"]),
	("an input for ranks that are not there", 1, ["'-s 4'", "0 to 1"], ["-n", 2, "-s", 4, "true"]),
	("a directory of output files that is none", 1, ["/nonexistent/out.0"], ["-outfile-pattern", "/nonexistent/out.%r", "true"]),
	("no program", 1, ["no program"], []),
	("no program after ':'", 1, ["':'"], ["true", ":"])):
	says(sentence, want, words, args)
says("a program in this directory without './'", 127, ["'./godwit-script'"], ["godwit-script"], cwd=work)
status, out, err = run("-n", 2, "./godwit-script", cwd=work)
tap.ok(status == 0 and sorted(lines(out)) == ["plain 0", "plain 1"], "a script without #! is run as a shell would", status, out, err)
status, out, err = run("-n", 1, MPIRUN, "-n", 2, "sh", "-c", "echo $PMI_RANK of $PMI_SIZE")
tap.ok(status == 0 and sorted(lines(out)) == ["0 of 2", "1 of 2"], "an mpirun inside an mpirun", status, out, err)
status, out, err = run("-genvnone", "-n", 1, "echo", "found")
tap.ok(lines(out) == ["found"], "without an environment programs are still found in /bin and /usr/bin", out, err)
pid_max = int(open("/proc/sys/kernel/pid_max").read())
if pid_max > 65536 * 2:
	tap.skip("more ranks than processes", "kernel.pid_max is %d" % pid_max)
else:
	says("more ranks than there can be processes", 1, ["kernel.pid_max", str(pid_max)], ["-n", pid_max // 2 + 1, "true"])
says("more ranks than a daemon may have files", 1, ["ulimit -Hn"], ["-n", 60, "true"],
     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))

# ---- standard input --------------------------------------------------------------------------------------------------

data = os.urandom(700000) + b"\0\n" + os.urandom(100000)
digest, empty = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"").hexdigest()
for spec, readers in (("0", {0}), ("2", {2}), ("all", {0, 1, 2}), ("none", set()), ("0,2", {0, 2}), ("1-2", {1, 2})):
	status, out, err = run("-l", "-n", 3, "-clusters", 2, "-s", spec, "sha256sum", data=data)
	got = {l[1:2]: l.split()[1] for l in lines(out)}
	tap.ok(status == 0 and got == {str(r): digest if r in readers else empty for r in range(3)}, "-s %s: %d bytes to ranks %s, nothing to others"
	       % (spec, len(data), sorted(readers)), status, out, err)
status, out, err = run("-n", 2, "-s", "all", "sh", "-c", "[ $PMI_RANK = 0 ] && exit 0; sha256sum", data=data)
tap.ok(status == 0 and lines(out) == [digest + "  -"], "a receiver that ends does not hold up the others", status, out, err)
status, out, err = run("-n", 2, "wc", "-c", stdin=None, preexec_fn=lambda: os.close(0))
tap.ok(status == 0 and lines(out) == ["0", "0"], "standard input closed: nothing is read", status, out, err)

# ---- output ----------------------------------------------------------------------------------------------------------

# two ranks, megabytes: numbered lines of many lengths, some longer than every buffer between
writer = r"""
import os, sys
r = os.environ["PMI_RANK"]
out = sys.stdout.buffer
for i in range(6000):
	out.write(b"%s %d %s\n" % (r.encode(), i, b"x" * (i * 37 % 700 if i % 1500 else 1 << 20)))
out.write(b"%s end" % r.encode())
"""
for labels in ((), ("-l",)):
	status, out, err = run(*labels, "-n", 2, "-clusters", 2, "python3", "-S", "-c", writer)
	count, bad = collections.Counter(), 0
	for l in out.split(b"\n"):
		w = re.fullmatch(rb"(?:\[(\d)\] )?(\d) (\d+) (x*)", l)
		if w and int(w[3]) == count[w[2]] and len(w[4]) == (int(w[3]) * 37 % 700 if int(w[3]) % 1500 else 1 << 20) and \
		   (w[1] == w[2] if labels else w[1] is None):
			count[w[2]] += 1
		elif l not in (b"", b"[0] 0 end", b"[1] 1 end", b"0 end1 end", b"1 end0 end"):
			bad += 1
	tap.ok(status == 0 and not bad and count == {b"0": 6000, b"1": 6000} and b"0 end" in out and b"1 end" in out,
	       "two ranks write %d MB%s: every line whole, in order, and an end without a line end" % (len(out) >> 20, ", labelled" if labels else ""),
	       status, bad, count, err[:200])
binary = bytes(range(256)) * 4000
path = os.path.join(work, "binary")
open(path, "wb").write(binary)
status, out, err = run("-n", 1, "cat", path)
tap.ok(out == binary, "every byte of binary output arrives")
status, out, err = run("-n", 2, "sh", "-c", "[ $PMI_RANK = 1 ] || exec cat %s" % path)
tap.ok(sorted(out) == sorted(binary), "also of one rank of two")
status, out, err = run("-n", 2, "sh", "-c", "exec >&- 2>&-; exit 0")
tap.ok(status == 0 and not err, "a program that closes its standard output", status, err)
with open("/dev/full", "wb") as full:
	for args in (["-n", 1, "echo", "x"], ["-n", 2, "printf", "x"], ["-n", 2, "-l", "sh", "-c", "yes | head -100000"]):
		status, out, err = run(*args, stdout=full)
		tap.ok(status == 1 and len(lines(err)) == 1 and "standard output" in lines(err)[0] and "No space" in lines(err)[0],
		       "a full disk: %s" % lines(err), status)
status, out, err = run("-outfile-pattern", "/dev/full", "-n", 2, "echo", "x")
tap.ok(status == 1 and len(lines(err)) == 1 and "'/dev/full'" in lines(err)[0], "a full disk under an output file: %s" % lines(err), status)
status, out, err = run("-n", 2, "sh", "-c", "echo out; echo err >&2", stdout=None, stderr=None, preexec_fn=lambda: (os.close(1), os.close(2)))
tap.ok(status == 0, "mpirun without standard output and error", status)
p = subprocess.run("'%s' -n 2 yes | head -1; echo ${PIPESTATUS[0]}" % MPIRUN, shell=True, executable="/bin/bash", capture_output=True, timeout=30)
tap.ok(p.stdout == b"y\n141\n" and p.stderr == b"", "mpirun ... | head -1 ends quietly", p.stdout, p.stderr)
host = os.uname().nodename
status, out, err = run("-n", 3, "-clusters", 3, "-outfile-pattern", work + "/o.%r.%p.%h.%g%%", "-errfile-pattern", work + "/e", "sh", "-c",
                       "echo out $PMI_RANK; echo err $PMI_RANK >&2")
tap.ok(status == 0 and not out and not err and all(open("%s/o.%d.%d.%s.0%%" % (work, r, r, host)).read() == "out %d\n" % r for r in range(3)) and
       sorted(open(work + "/e")) == ["err %d\n" % r for r in range(3)], "-outfile-pattern by rank, -errfile-pattern for all", status, out, err,
       os.listdir(work))

status, out, err = run("-hosts", "A,B", "-launcher", "fork", "-prepend-pattern", "%h ", "-n", 2, "sh", "-c", "echo $PMI_RANK")
tap.ok(status == 0 and sorted(lines(out)) == ["A 0", "B 1"], "-prepend-pattern with the host of each rank", status, out, err)

# ---- how a job ends ----------------------------------------------------------------------------------------------------

status, out, err = run("-print-all-exitcodes", "-n", 4, "-clusters", 2, "sh", "-c", "exit 0")
tap.ok(status == 0 and lines(err) == ["mpirun: ranks 0-3: exited with status 0"], "-print-all-exitcodes: all well", err)
status, out, err = run("--print-all-exitcodes", "-n", 3, "sh", "-c", "[ $PMI_RANK = 1 ] && kill -9 $$; exec sleep 1000")
tap.ok(status == 137 and lines(err)[1:] == ["mpirun: ranks 0, 2: ended with the job", "mpirun: rank 1: killed by signal 9 (Killed)"] and
       "rank 1 (" in lines(err)[0], "-print-all-exitcodes: one killed", status, err)
begin = time.monotonic()
says("MPIEXEC_TIMEOUT", 124, ["1 s", "MPIEXEC_TIMEOUT"], ["-n", 2, "sleep", 1000], env={"MPIEXEC_TIMEOUT": "1"})
says("-timeout", 124, ["1 s"], ["--timeout", 1, "-n", 2, "-clusters", 2, "sleep", 1000])
status, out, err = run("-n", 1, "true", env={"MPIEXEC_TIMEOUT": "-1"})
tap.ok(status == 0 and not err, "MPIEXEC_TIMEOUT=-1 is no limit")
says("a MPIEXEC_TIMEOUT that is none", 1, ["MPIEXEC_TIMEOUT", "'soon'"], ["-n", 1, "true"], env={"MPIEXEC_TIMEOUT": "soon"})
status, out, err = run("-n", 1, "echo", "x", env={"MPIEXEC_PREFIX_DEFAULT": "1"})
tap.ok(lines(out) == ["[0] x"], "MPIEXEC_PREFIX_DEFAULT", out)
for sentence, code in (("exits with 0 before MPI_Init", "exit 0"), ("exits with 3 before MPI_Init", "exit 3"), ("dies before MPI_Init", "kill -TERM $$")):
	status, out, err = run("-n", 3, "-clusters", 2, "sh", "-c", "[ $PMI_RANK = 2 ] && { %s; }; exec %s hello" % (code, conduct))
	tap.ok(status == {"exit 0": 1, "exit 3": 3}.get(code, 143) and any("rank 2 (" in l for l in lines(err)),
	       "a rank %s while the others wait in a barrier: no hang" % sentence, status, err)

# ---- core files --------------------------------------------------------------------------------------------------------

pattern = open("/proc/sys/kernel/core_pattern").read().strip()
status, out, err = run("-n", 2, "-wdir", work, "sh", "-c", "[ $PMI_RANK = 1 ] || exec sleep 1000; kill -SEGV $$",
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])))
tap.ok(status == 139 and "core" not in err.decode(), "no core file where the limit is 0", err)
if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
	tap.skip("the core file is named", "the hard limit of core files is 0")
else:
	limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
	status, out, err = run("-n", 2, "-wdir", work, "sh", "-c", "[ $PMI_RANK = 1 ] || exec sleep 1000; kill -SEGV $$",
	                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (limit, limit)))
	told = re.search(r"core dumped: (\S+);", err.decode())
	tap.ok(status == 139 and "core dumped" in err.decode() and (pattern.startswith("|") or told and os.path.getsize(told[1]) > 0),
	       "the core limit is carried, and the core file named: %s" % (told and told[1]), pattern, err)
	if told and os.path.exists(told[1]):
		os.unlink(told[1])

	resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
	job = Job(tap, ["-n", 2, "-clusters", 2, "-wdir", work, "python3", "-S", "-c", catcher, "USR1"])
	job.wait_line("^up$", 30, count=2)
	head = job.head()
	m = head.migrate([0], 1)[0]
	os.kill(head.ranks()[0]["pid"], signal.SIGSEGV)
	status, err = job.wait(20), "\n".join(job.out("err"))
	told = re.search(r"core dumped: (\S+);", err)
	tap.ok(m["status"] == 0 and status == 139 and "rank 0 (" in err and "cluster 1" in err and "core dumped" in err and
	       (pattern.startswith("|") or told and os.path.getsize(told[1]) > 0), "also of a rank that has moved: %s" % (told and told[1]), m, err)
	if told and os.path.exists(told[1]):
		os.unlink(told[1])

# ---- limits and the like -------------------------------------------------------------------------------------------------

ask = "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -Sc) $(ulimit -Sv) $(ulimit -Ss) $(umask) $(nice) $(ulimit -St) $(ulimit -Sf)"


def strict():
	for what, soft, hard in ((resource.RLIMIT_NOFILE, 300, 1000), (resource.RLIMIT_CORE, 1024 * 512, None), (resource.RLIMIT_AS, 1 << 40, None), (resource.RLIMIT_FSIZE, 512 * 20, None),
	                         (resource.RLIMIT_STACK, 4 << 20, None), (resource.RLIMIT_CPU, 1000, None)):
		old = resource.getrlimit(what)[1]
		resource.setrlimit(what, (soft if old < 0 else min(soft, old), old if hard is None else hard))
	os.umask(0o027)
	os.nice(3)


status, out, err = run("-n", 2, "-clusters", 2, "sh", "-c", ask, preexec_fn=strict)
direct = subprocess.run(["sh", "-c", ask], capture_output=True, preexec_fn=strict).stdout
tap.ok(status == 0 and lines(out) == lines(direct) * 2, "limits, umask and nice are the same as without mpirun: %s" % lines(out)[:1], direct, err)

status, out, err = run("-n", 2, "-clusters", 2, conduct, "hello", preexec_fn=strict)
tap.ok(status == 0 and len(lines(out)) == 2, "an MPI program runs under them", status, err)
status, out, err = run("-n", 2, "true", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5120, 5120)))
tap.ok(status == 1 and len(lines(err)) == 1 and "ulimit -f" in lines(err)[0], "a limit of files' size that leaves no room for the job's memory: %s" % err,
       status)

# ---- signals -------------------------------------------------------------------------------------------------------------

def catching(n, clusters, *names, **how):
	job = Job(tap, ["-n", n, "-clusters", clusters, "python3", "-S", "-c", catcher] + list(names), **how)
	if not job.wait_line("^up$", 30, count=n):
		tap.bail("ranks that catch signals do not start")
	return job


def finish(job, sentence, want=None, passed=True):
	status = job.wait(20)
	left = job.gone()
	tap.ok(passed and status == want and not left, sentence, "status %s" % status, str(left), *job.tail())
	if status is None:
		job.kill()


for name in ("USR1", "USR2", "WINCH", "HUP", "QUIT", "TERM", "INT"):
	number = getattr(signal, "SIG" + name)
	job = catching(2, 2, name)
	job.proc.send_signal(number)
	seen = job.wait_line("^got %d$" % number, 20, count=2)
	if name in ("USR1", "USR2", "WINCH"):
		job.proc.kill()
		finish(job, "SIG%s reaches every rank" % name, -9, seen)
	else:
		finish(job, "SIG%s reaches every rank; they end well and so does the job" % name, 0, seen)

job = Job(tap, ["-n", 2, "sh", "-c", "trap '' INT; echo up; while :; do sleep 1000; done"])
job.wait_line("^up$", 30, count=2)
job.proc.send_signal(signal.SIGINT)
wait_for(lambda: all(proc_stat(p) for p in job.processes()))
begin = time.monotonic()
while job.is_running() and time.monotonic() < begin + 5:
	job.proc.send_signal(signal.SIGINT)  # two that come together are one
	try:
		job.proc.wait(0.2)
	except subprocess.TimeoutExpired:
		pass
finish(job, "a second Ctrl-C ends ranks that ignore the first at once", 130)

job = Job(tap, ["-n", 2, "sh", "-c", "echo up; sleep 1000"])
job.wait_line("^up$", 30, count=2)
job.proc.terminate()
finish(job, "a signal reaches what a shell script runs, too", 143)

ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
p = subprocess.Popen([MPIRUN, "-n", "2", "sh", "-c", "echo up; sleep 1000"], stdout=subprocess.PIPE, preexec_fn=ignore, stdin=subprocess.DEVNULL)
p.stdout.readline()
p.send_signal(signal.SIGHUP)
p.send_signal(signal.SIGTERM)
tap.ok(p.wait(20) == 143, "nohup mpirun: SIGHUP is ignored", p.returncode)
p.stdout.close()

# Ctrl-Z, as the shell sees it, and after that a move
job = catching(2, 2, "USR1", "USR2")
head = job.head()
ranks = [r["pid"] for r in head.ranks().values()]
name = job.head_name()
job.proc.send_signal(signal.SIGTSTP)
tap.ok(wait_for(lambda: all(proc_stat(p)[0] == "T" for p in ranks + [job.proc.pid])), "SIGTSTP stops the ranks and then mpirun",
       [proc_stat(p) for p in ranks + [job.proc.pid]])
tool = subprocess.run([os.path.join(BUILD, "godwit"), "status", "--job", name.split("/")[2]], capture_output=True, timeout=20, text=True)
tap.ok(tool.returncode == 1 and "is stopped" in tool.stderr and str(job.proc.pid) in tool.stderr, "godwit says that the job is stopped: %s" % tool.stderr.strip())
job.proc.send_signal(signal.SIGCONT)
tap.ok(wait_for(lambda: all(proc_stat(p)[0] != "T" for p in ranks + [job.proc.pid])), "SIGCONT continues all")
os.kill(ranks[0], signal.SIGSTOP)
wait_for(lambda: proc_stat(ranks[0])[0] == "T")
m = head.migrate([0], 1)[0]
there = head.ranks()[0]["pid"]
tap.ok(m["status"] == 0 and there != ranks[0] and wait_for(lambda: proc_stat(there)[0] == "T"), "a rank that is stopped moves, and stays stopped",
       m["text"], proc_stat(there))
os.kill(there, signal.SIGCONT)
tap.ok(wait_for(lambda: proc_stat(there)[0] != "T"), "until it is continued there", proc_stat(there))
job.proc.send_signal(signal.SIGUSR1)
tap.ok(job.wait_line("^got %d$" % signal.SIGUSR1, 20, count=2), "and gets its signals there", *job.tail())
job.proc.kill()
finish(job, "", -9)

# Several signals while a rank is on its way: the destination stands still in the middle of the session
events = os.path.join(work, "events")
job = catching(1, 2, "USR1", "USR2", "WINCH", "TERM", events=events, env={"GODWIT_FAULT": "mig.dst.ready=stop"})
head = job.head()
daemon = next(c["pid"] for c in head.status()["clusters"] if c["cluster"] == 1)
answers = []
mover = threading.Thread(target=lambda: answers.extend(head.migrate([0], 1)), daemon=True)
mover.start()
stopped = wait_for(lambda: proc_stat(daemon)[0] == "T")
for s in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGWINCH, signal.SIGTSTP):
	job.proc.send_signal(s)
	wait_for(lambda: re.search(r"^ShdPnd:\s+0+$", open("/proc/%d/status" % job.proc.pid).read(), re.M))  # it has been taken
os.kill(daemon, signal.SIGCONT)
asleep = wait_for(lambda: proc_stat(job.proc.pid)[0] == "T")
ranks = [pid for pid, name in job.processes().items() if name == "python3"]
tap.ok(asleep and len(ranks) == 1 and wait_for(lambda: proc_stat(ranks[0])[0] == "T"), "Ctrl-Z in the middle of a move: the rank is stopped where it has "
       "arrived, then mpirun", ranks, [proc_stat(r) for r in ranks])
job.proc.send_signal(signal.SIGCONT)
mover.join(30)
got = all(job.wait_line("^got %d$" % s, 20) for s in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGWINCH))
tap.ok(stopped and got and answers and answers[0]["status"] == 0, "three signals during one move all arrive after it", answers, *job.tail())
job.proc.terminate()
finish(job, "and so does the one that ends it", 0)

# Threads that have bound themselves, as those of OpenMP do: after a move they run in the new cluster
if cpus < 2:
	tap.skip("threads that bound themselves follow their rank", "one processor")
else:
	threads = "import os, threading, time\nc = sorted(os.sched_getaffinity(0))\ndef f(i):\n\tos.sched_setaffinity(0, {c[i % len(c)]})\n" \
	          "\tos.write(1, b'bound\\n')\n\ttime.sleep(1000)\nfor i in range(2): threading.Thread(target=f, args=[i]).start()\nf(2)\n"
	job = Job(tap, ["-n", 1, "-clusters", 2, "python3", "-S", "-c", threads])
	job.wait_line("^bound$", 30, count=3)
	head = job.head()
	m = head.migrate([0], 1)[0]
	pid, cores = head.ranks()[0]["pid"], set(head.status()["clusters"][1]["cores"])
	masks = [os.sched_getaffinity(int(tid)) for tid in os.listdir("/proc/%d/task" % pid)]
	tap.ok(m["status"] == 0 and len(masks) == 3 and all(mask <= cores for mask in masks), "threads that bound themselves follow their rank to the new "
	       "cluster's processors", m["text"], masks, cores)
	job.proc.kill()
	finish(job, "a killed mpirun takes them along", -9)

# ---- completion ----------------------------------------------------------------------------------------------------------


def complete(command, *words):
	script = ". '%s/runtime/completion/%s'; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); %s; printf '%%s\\n' \"${COMPREPLY[@]}\"" % (
		os.environ.get("top_srcdir", "."), command, "_godwit" if command == "godwit" else "_godwit_mpirun")
	env = dict(os.environ, PATH=BUILD + ":" + os.environ["PATH"])
	return set(lines(subprocess.run(["bash", "-c", script, "bash"] + list(words), capture_output=True, env=env, timeout=20).stdout))


tap.ok(complete("mpirun", "mpirun", "-n", "2", "-gen") == {"-genv", "-genvlist", "-genvnone", "-genvall"}, "mpirun -gen<TAB>")
tap.ok(complete("mpiexec", "mpiexec", "--bind-to", "hw") == {"hwthread"} and complete("mpirun", "mpirun", "-env", "-n", "1", "-s", "a") == {"all"},
       "values of mpirun's options; a value is not taken for an option")
tap.ok(complete("mpirun", "mpirun", "true", "-") == {""} and "-wdir" in complete("mpirun", "mpirun", "true", "-n", ":", "-w"), "what is the program's own is left alone")
tap.ok(complete("godwit", "godwit", "mig") == {"migrate"} and "--to" in complete("godwit", "godwit", "migrate", "--t") and
       complete("godwit", "godwit", "help", "mi") == {"migrate"}, "godwit's commands and their options")

# ---- a terminal ----------------------------------------------------------------------------------------------------------


class Terminal:
	"""An interactive shell on a terminal of its own."""

	def __init__(self):
		self.pid, self.fd = pty.fork()
		if self.pid == 0:
			os.environ.update(PS1="ready> ", PS2="", TERM="dumb")
			os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
		self.seen = b""

	def wait(self, pattern, timeout=30):
		end = time.monotonic() + timeout
		while True:
			m = re.search(pattern, self.seen)
			if m:
				self.seen = self.seen[m.end():]
				return m
			if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
				tap.diag("the terminal shows %r, not %s" % (self.seen[-300:], pattern))
				return None
			try:
				self.seen += os.read(self.fd, 65536)
			except OSError:
				return None

	def type(self, text):
		os.write(self.fd, text.encode())

	def close(self):
		os.close(self.fd)
		os.kill(self.pid, signal.SIGKILL)
		os.waitpid(self.pid, 0)


t = Terminal()
t.wait(rb"ready> ")
t.type("stty -echo; set +o history\n")
t.wait(rb"ready> ")
t.type("%s -n 2 sh -c 'printf \"name? \"; [ $PMI_RANK = 1 ] || { read x; echo hello $x; }'\n" % MPIRUN)
t.wait(rb"name\? ")
t.type("you\n")
tap.ok(t.wait(rb"hello you"), "on a terminal: a prompt is seen, and answered")
t.wait(rb"ready> ")
t.type("%s -n 2 sh -c 'echo up; while read x; do echo line $x; done; sleep 1000'\n" % MPIRUN)
t.wait(rb"up\r\n")
t.wait(rb"up\r\n")
t.type("\x1a")
tap.ok(t.wait(rb"Stopped") and t.wait(rb"ready> "), "Ctrl-Z gives the shell back")
t.type("bg\n")
t.wait(rb"ready> ")
t.type("jobs\n")
tap.ok(t.wait(rb"Running") and t.wait(rb"ready> "), "in the background it goes on: reading the terminal does not stop it")
t.type("fg\n")
t.type("again\n")
tap.ok(t.wait(rb"line again"), "fg: it reads the terminal again")
t.type("\x03")
tap.ok(t.wait(rb"Ctrl-C again") and t.wait(rb"ready> "), "Ctrl-C ends it, with a word on the second")
t.type("echo $?\n")
tap.ok(t.wait(rb"130\r\n"), "its status is 130")
t.close()

status = deaf.wait(30)
tap.ok(status == 137 and any("8 s after the signal" in l for l in deaf.out("err")) and not deaf.gone(), "ranks that ignore SIGTERM are killed after a while",
       status, *deaf.tail())
if status is None:
	deaf.kill()

sys.exit(tap.done())
