# SPDX-License-Identifier: BSD-2-Clause
"""Hosts of a rig, reached by a real sshd, come to a running job and leave it, the first one and mpirun's own included; the
answer is that of a run on one host. Everything by the godwit command, everything seen by godwit status --json."""
import json, os, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import godwit, rig, rig_mpi

tap = godwit.Tap(280)
MPIRUN = os.path.join(godwit.BUILD, "mpirun")
GODWIT = os.path.join(godwit.BUILD, "godwit")
STORM = os.path.join(godwit.BUILD, "tests/storm/storm")
SEED = os.environ.get("STORM_SEED", "17")
RANKS = 4


def ask(*words):
	"""A godwit command with --json: status, what it printed, what it said."""
	p = r[1].run([GODWIT] + [str(w) for w in words] + ["--json"], timeout=90, user=login)
	return p.returncode, json.loads(p.stdout) if p.stdout.startswith(("[", "{")) else None, p.stderr


def clusters():
	"""hostname, state and number of ranks of each cluster."""
	s = ask("status")[1]
	return [(c["hostname"], "drained" if c["drained"] and c["state"] == "up" else c["state"], c["ranks"]) for c in s["clusters"]]


def names(host, pattern):
	return r[host].run(["pgrep", "-af", pattern]).stdout


def is_gone(host):
	"""Neither daemon nor the process that started it is there."""
	return godwit.wait_for(lambda: not r[host].run(["pgrep", "-x", "godwitd"]).stdout and
	                       not names(1, "^ssh .*rig%d " % host), 10, 0.05)


def begin(*words):
	stop = os.path.join(r.shared, "stop-%d" % tap.run)
	p = r[1].popen([MPIRUN] + list(words) + [STORM, "--seed", SEED, "--stop-file", stop], stdout=subprocess.PIPE,
	               stderr=subprocess.PIPE, text=True, user=login)
	if b"STORM START" not in rig.hear(p, b"STORM START", 1, 60):
		rig.kill_tree(p)
		tap.bail("the job did not start: " + p.stderr.read())
	return p, stop


def end(p, stop, sentence):
	r[1].run(["touch", stop], user=login)
	out, err = rig.finish(p, 90)
	last = [godwit.fields(l) for l in out.split("\n") if l.startswith("STORM OK")]
	tap.ok(p.returncode == 0 and last, sentence, p.returncode, out[-2000:], err)
	return last[0] if last else {}


with rig_mpi.hosts_or_skip(3) as r:
	login = rig_mpi.login(r)

	# ---- three hosts, the third of which comes; the first one goes ----
	p, stop = begin("-hosts", "rig1,rig2", "-n", str(RANKS))
	code, said, err = ask("add", "rig3")
	tap.ok(code == 0 and said == [{"host": "rig3", "clusters": [2], "status": 0, "text": ""}], "a third host comes", code, said, err)
	tap.ok(clusters() == [("rig1", "up", 2), ("rig2", "up", 2), ("rig3", "up", 0)], "status shows it", clusters())
	code, said, err = ask("migrate", 0, "--to", 2)
	tap.ok(code == 0, "a rank moves there", said, err)
	code, said, err = ask("drain", "rig1")
	tap.ok(code == 0 and said[0]["moved"] == 1 and said[0]["stuck"] == [] and clusters()[0] == ("rig1", "drained", 0),
	       "the first host is drained", said, err, clusters())
	tap.ok(sum(c[2] for c in clusters()) == RANKS, "all ranks are elsewhere", clusters())
	code, said, err = ask("migrate", 0, "--to", 0)
	tap.ok(code != 0 and "cluster 0 is drained" in err, "no rank moves there", code, said, err)
	code, said, err = ask("undrain", "rig1")
	tap.ok(code == 0 and said == [{"clusters": [0]}] and ask("migrate", 0, "--to", 0)[0] == 0, "until it is undrained", said, err)
	code, said, err = ask("remove", "rig1")
	tap.ok(code == 0 and said[0]["status"] == 0 and clusters()[0] == ("rig1", "left", 0), "it leaves, though mpirun runs there",
	       said, err, clusters())
	tap.ok(is_gone(1), "without a daemon left there", names(1, "godwitd"))
	code, said, err = ask("remove", 1)
	tap.ok(code == 0 and clusters()[1:] == [("rig2", "left", 0), ("rig3", "up", RANKS)], "the second one leaves by its cluster's number",
	       said, err, clusters())
	tap.ok(is_gone(2), "with the ssh that had brought it", names(1, "ssh"))
	code, said, err = ask("remove", "rig3")
	tap.ok(code == 2 and "no other cluster" in err, "the last one stays", code, said, err)
	code, said, err = ask("add", "rig1", "rig2:2")
	tap.ok(code == 0 and [a["clusters"] for a in said] == [[3], [4, 5]], "both come again, with new numbers", said, err)
	code, said, err = ask("remove", "rig3")
	tap.ok(code == 0 and is_gone(3) and sum(c[2] for c in clusters()[3:]) == RANKS, "and take over from the third", said, err, clusters())
	code, said, err = ask("remove", 4)
	tap.ok(code == 0 and clusters()[4:] == [("rig2", "left", 0), ("rig2", "up", clusters()[5][2])], "of two clusters of a host the first "
	       "leaves, the other stays", said, err, clusters())
	code, said, err = ask("add", "rig2")
	tap.ok(code == 0 and ask("migrate", 0, 1, "--to", 6)[0] == 0, "and shares its memory with one that comes", said, err)
	code, said, err = ask("add", "nohost")
	tap.ok(code == 1 and "host 'nohost' cannot be found" in said[0]["text"], "a host that there is not", code, said, err)
	r[3].cut()
	code, said, err = ask("add", "rig3")
	tap.ok(code == 1 and "host rig3 cannot be reached with ssh" in said[0]["text"], "one that cannot be reached", code, said, err)
	r[3].restore()
	is_ = end(p, stop, "the job has gone on meanwhile, and ends well")
	alone = godwit.Job(tap, ["-n", RANKS, STORM, "--seed", SEED, "--steps", is_.get("steps", 1)])
	status = alone.end(90)
	want = [godwit.fields(l) for l in alone.out() if l.startswith("STORM OK")]
	tap.ok(status == 0 and want and want[0]["checksum"] == is_.get("checksum"), "with the answer that it has on one host",
	       is_, want)
	tap.ok(all(is_gone(h) for h in (1, 2, 3)), "nothing is left on any host")

	# ---- a job without a network gets one ----
	p, stop = begin("-n", "2", "-clusters", "2")
	code, said, err = ask("add", "rig2", "rig3")
	tap.ok(code == 0 and [c[:2] for c in clusters()] == [("rig1", "up"), ("rig1", "up"), ("rig2", "up"), ("rig3", "up")],
	       "two hosts come at once to a job of one", said, err, clusters())
	code, said, err = ask("remove", "rig1")
	tap.ok(code == 0 and [c[1:] for c in clusters()] == [("left", 0), ("left", 0), ("up", 1), ("up", 1)], "which leaves its own", said, err,
	       clusters())
	r[3].run(["sh", "-c", "kill -9 $(pgrep -x godwitd)"])
	out, err = rig.finish(p, 40)
	tap.ok(p.returncode not in (0, None) and "rig3" in err and "ending the job" in err, "the end of a daemon with a rank is told as ever",
	       p.returncode, err)
	tap.ok(all(is_gone(h) for h in (1, 2, 3)), "nothing is left on any host")

sys.exit(tap.done())
