/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs started in containers and moved between two daemon processes: what they see, what is left, what is refused. */
#include "container/test_hops.h"

/* ---- spawning -------------------------------------------------------------------------------------------------- */

static void test_spawn(void)
{
	struct pair p;
	char line[4096];
	pid_t pid, init;
	int rc;

	pair_start(&p, NULL, NULL, false);
	rc = pair_spawn(&p, 0, "/nonexistent/program", NULL);
	ok(rc == -ENOENT && strstr(p.last.why.text, "/nonexistent/program"), "a missing program is reported at once: %s",
	   p.last.why.text);
	rc = pair_spawn(&p, 31, victim, "exit", "42", NULL);
	ok(rc == 0 && pair_op(&p, 0, CMD_REAP, 0) == 0 && WIFEXITED(p.last.status) && WEXITSTATUS(p.last.status) == 42,
	   "an exit status is passed on");
	pair_spawn(&p, 32, victim, "abort", NULL);
	ok(pair_op(&p, 0, CMD_REAP, 0) == 0 && WIFSIGNALED(p.last.status) && WTERMSIG(p.last.status) == SIGABRT,
	   "abort() ends as SIGABRT");
	pair_spawn(&p, 33, victim, "orphan", NULL);
	init = p.last.init_pid;
	ok(pair_op(&p, 0, CMD_REAP, 0) == 0 && WEXITSTATUS(p.last.status) == 7 && is_gone(init),
	   "what a program leaves behind ends with it");
	pair_spawn(&p, 34, victim, "identity", NULL);
	pid = p.last.pid;
	init = p.last.init_pid;
	rank_says(&p, line, sizeof(line));
	rank_obeys(&p, "x", line, sizeof(line));
	ok(strstr(line, "ok pid 34 sid 0 pgid 34 tid 34 ") != NULL && strstr(line, " cwd /tmp "),
	   "a program has the pid that was chosen, a group of its own and its directory");
	diag("%s", line);
	pair_op(&p, 0, CMD_SIGNAL, SIGTERM);
	ok(pair_op(&p, 0, CMD_REAP, 0) == 0 && WIFSIGNALED(p.last.status) && WTERMSIG(p.last.status) == SIGTERM,
	   "a signal reaches the program and ends it");
	ok(is_gone(pid) && is_gone(init), "nothing is left of it, no zombie either");
	pair_spawn(&p, 35, victim, "compute", "2", NULL);
	pid = p.last.pid;
	rank_says(&p, line, sizeof(line));
	pair_op(&p, 0, CMD_KILL, 0);
	ok(is_gone(pid), "a killed rank is gone when the call returns");
	pair_spawn(&p, 36, victim, "compute", "2", NULL);
	pid = p.last.pid;
	rank_says(&p, line, sizeof(line));
	kill(p.pid[0], SIGKILL);
	ok(will_be_gone(pid), "a rank dies with its daemon");
	pair_stop(&p);
}

/* Several that are on their way at once: each ends, fails or is given up for itself. */
static void test_spawn_at_once(void)
{
	char *ends[] = { (char *)(uintptr_t)victim, "exit", "42", NULL }, *missing[] = { "/nonexistent/program", NULL };
	char **const argv[3] = { ends, missing, ends };
	struct ct_spawn s[3] = { { .cwd = "/tmp" } };
	struct ct_rank *r[3] = { NULL };
	struct gw_error why = { 0 };
	int rc = 0, status = 0;
	pid_t given_up;

	for (int i = 0; i < 3 && rc == 0; i++) {
		s[i] = (struct ct_spawn){ .argv = argv[i], .envp = environ, .cwd = "/tmp" };
		for (int k = 0; k < CT_PLUMB_MAX; k++)
			s[i].plumbing.rank_fd[k] = s[i].plumbing.number_in_rank[k] = -1;
		rc = ct_rank_spawn_begin(&r[i], &s[i], &why);
	}
	if (rc < 0)
		tap_bail("three programs cannot be begun: %s", why.text);
	given_up = ct_rank_init_pid(r[2]);
	ct_rank_kill(r[2]);
	ok(is_gone(given_up), "a start that is given up before its end leaves nothing");
	while ((rc = ct_rank_spawn_end(r[1], &s[1], false, &why)) == -EINPROGRESS) {
		struct pollfd p = { .fd = ct_rank_start_fd(r[1]), .events = POLLIN };

		if (poll(&p, 1, CT_START_TIMEOUT_MS) != 1)
			break;
	}
	ok(rc == -ENOENT && strstr(why.text, "/nonexistent/program"), "one that fails beside others tells why: %s", why.text);
	ct_rank_kill(r[1]);
	rc = ct_rank_spawn_end(r[0], &s[0], true, &why);
	while (rc == 0 && (rc = ct_rank_reap(r[0], &status)) == -EAGAIN) {
		struct pollfd p = { .fd = ct_rank_status_fd(r[0]), .events = POLLIN };

		rc = poll(&p, 1, CT_START_TIMEOUT_MS) == 1 ? 0 : -ETIMEDOUT;
	}
	ok(rc == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 42, "and one that was begun before them runs: %d", rc);
	ct_rank_kill(r[0]);
}

/*
 * A daemon that is killed when several starts have just been forked: none of them has asked for a signal at its death yet, and
 * each holds what the daemon had when it was forked, its ends of the start sockets of those before it too.
 */
#define ORPHANS 4

static void begin_orphans(int out)
{
	char *argv[] = { "sleep", "300", NULL };
	struct ct_spawn s = { .argv = argv, .envp = environ, .cwd = "/tmp" };
	struct gw_error why = { 0 };
	cpu_set_t here;

	/* one processor for all: they have not come far when they are stopped */
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
	for (int k = 0; k < CT_PLUMB_MAX; k++)
		s.plumbing.rank_fd[k] = s.plumbing.number_in_rank[k] = -1;
	for (int i = 0; i < ORPHANS; i++) {
		struct ct_rank *r = NULL;
		pid_t init = 0;

		if (ct_rank_spawn_begin(&r, &s, &why) == 0) {
			init = ct_rank_init_pid(r);
			kill(init, SIGSTOP);
		}
		if (write(out, &init, sizeof(init)) != (ssize_t)sizeof(init))
			_exit(1);
	}
	raise(SIGKILL);
}

static void test_orphans(void)
{
	pid_t init[ORPHANS] = { 0 }, daemon;
	int out[2], left = 0;
	ssize_t n = 0;

	if (pipe(out) < 0)
		tap_bail("no pipe");
	daemon = fork();
	if (daemon == 0)
		begin_orphans(out[1]);
	close(out[1]);
	if (daemon > 0 && waitpid(daemon, NULL, 0) == daemon)
		n = read(out[0], init, sizeof(init));
	close(out[0]);
	ok(n == (ssize_t)sizeof(init) && init[0] && init[ORPHANS - 1], "a daemon is killed amid %d starts", ORPHANS);
	for (int i = 0; i < ORPHANS && init[i]; i++) {
		kill(init[i], SIGCONT);
		if (!will_be_gone(init[i])) {
			left++;
			kill(init[i], SIGKILL);
		}
	}
	ok(left == 0, "and none of them goes on without it: %d", left);
}

/* ---- moving ---------------------------------------------------------------------------------------------------- */

static void test_identity(void)
{
	char first[4096] = "", line[4096], *fds;
	struct pair p;
	bool is_same = true;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 777, victim, "identity", NULL);
	rank_says(&p, line, sizeof(line));
	rank_obeys(&p, "x", first, sizeof(first));
	for (int i = 0; i < 10 && is_same; i++) {
		is_same = hops(&p, 1, false) && rank_obeys(&p, "x", line, sizeof(line)) && strcmp(first, line) == 0;
		if (!is_same)
			diag("hop %d: %s\n   not %s", i, line, first);
	}
	ok(is_same, "ten hops: ids, names, limits, handlers, pending signals, descriptors, mappings: nothing has changed");
	fds = strstr(first, " fds ");
	diag("%s", fds ? fds : first);
	ok(finish(&p), "and it ends as it should");
	pair_stop(&p);
}

static void test_waits(void)
{
	static const char *const kinds[] = { "nanosleep", "usleep", "abssleep", "poll", "ppoll", "select", "futex",
		"sigtimedwait", "epoll" };

	for (size_t i = rounds ? 7 : 0; i < GW_ARRAY_LEN(kinds); i++) { /* followed: those that an interrupt would end */
		double mono = 0, real = 0;
		char line[4096];
		struct pair p;
		long rc = -1;
		int err;

		pair_start(&p, NULL, NULL, false);
		p.rounds = rounds;
		pair_spawn(&p, 500, victim, "waits", kinds[i], "700", NULL);
		rank_says(&p, line, sizeof(line));
		hops(&p, 3, false);
		rank_says(&p, line, sizeof(line));
		sscanf(line, "waited %ld %d mono_ms %lf real_ms %lf", &rc, &err, &mono, &real);
		/* never earlier; later by what the machine's load makes of it, which is not asserted */
		ok(rc == 0 && mono >= 699,
		   "%s of 700 ms is frozen three times%s and ends as it should", kinds[i], rounds ? ", followed before," : "");
		diag("%s", line);
		pair_stop(&p);
	}
}

/* state in /proc/PID/stat */
static bool is_in_state(pid_t pid, char state)
{
	char path[64], text[512] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	if (f) {
		if (!fgets(text, sizeof(text), f))
			text[0] = '\0';
		fclose(f);
	}
	return strrchr(text, ')') && strrchr(text, ')')[2] == state;
}

/* What the daemon worked in while the rank arrived is the program's own afterwards, also where the rank cannot be stopped. */
static void test_follow_after_arrival(bool is_stuck)
{
	struct cmd follow = { .op = CMD_FOLLOW };
	struct pollfd answer = { .events = POLLIN };
	char line[256];
	struct pair p;
	int rc;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 702, victim, "full", NULL);
	rank_says(&p, line, sizeof(line));
	ok(pair_move(&p) == 0 && pair_op(&p, p.at, CMD_CHECK, 0) == 0 && rank_obeys(&p, "fill", line, sizeof(line)), "a rank has moved and is looked at: %s",
	   p.last.why.text);
	if (is_stuck) {
		if (write(p.ends.in, "stay\n", 5) == 5)
			while (!is_in_state(p.last.pid, 'D') && kill(p.last.pid, 0) == 0)
				sched_yield();
		send(p.ctl[p.at], &follow, sizeof(follow), MSG_NOSIGNAL);
		answer.fd = p.ctl[p.at];
		rc = poll(&answer, 1, 1500); /* its time is 0.5 s, but it is let go only when it has stopped */
		ok(rc == 0 && write(p.ends.in, "go\n", 3) == 3, "its main thread cannot be stopped, and is waited for");
		rc = pair_reply(&p, p.at);
		ok(rc == -ETIMEDOUT && rank_says(&p, line, sizeof(line)) && strcmp(line, "ok go") == 0, "it runs on as it was: %s; %s", line,
		   p.last.why.text);
	} else {
		is_int(pair_op(&p, p.at, CMD_FOLLOW, 0), 0, "it is followed: %s", p.last.why.text);
	}
	ok(rank_obeys(&p, "room", line, sizeof(line)) && strcmp(line, "ok room") == 0, "and nothing of what it has mapped since is unmapped: %s", line);
	ok(finish(&p), "to its end");
	pair_stop(&p);
}

static void test_followed(void)
{
	rounds = 2;
	test_hops("one thread, no heap", 6, false, "heap", "0", NULL, NULL);
	test_hops("64 MiB", 4, true, "heap", "64", "5", NULL);
	test_hops("64 MiB of huge pages", 4, true, "heap", "64", "5", "huge");
	test_hops("five threads that compute with integers, x87 and vectors", 6, true, "compute", "5", NULL, NULL);
	test_hops("a signal every 60 us", 6, false, "storm", NULL, NULL, NULL);
	test_hops("memory that changes in every way", 15, true, "dirty", "2", NULL, NULL);
	test_hops("memory files", 10, true, "memories", NULL, NULL, NULL);
	test_hops("mappings of all sorts", 10, true, "mappings", NULL, NULL, NULL);
	test_hops("66,000 stretches of pages", 3, true, "extents", NULL, NULL, NULL);
	test_waits();
	rounds = 5;
	test_hops("memory that changes in every way", 15, true, "dirty", "3", NULL, NULL);
	rounds = 0;
	test_follow_after_arrival(false);
	test_follow_after_arrival(true);
}

/* ---- bytes in flight ------------------------------------------------------------------------------------------- */

struct drain { uint64_t at; bool is_bad; };

static void check_bytes(struct drain *d, const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != (d->at + i) % 251)
			d->is_bad = true;
	d->at += n;
}

/* read at most @max bytes; false at the end */
static bool drain_some(struct drain *d, int fd, size_t max, bool is_waiting)
{
	static unsigned char buf[65536];

	while (max) {
		struct pollfd f = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (poll(&f, 1, is_waiting ? 20000 : 0) != 1)
			return !is_waiting;
		n = read(fd, buf, max < sizeof(buf) ? max : sizeof(buf));
		if (n <= 0)
			return false;
		check_bytes(d, buf, (size_t)n);
		max -= (size_t)n;
	}
	return true;
}

static void test_partial_write(void)
{
	struct drain d = { 0 };
	struct pair p;
	int moves = 0, completed = 0;
	size_t rest_total = 0;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 600, victim, "writer", NULL);
	while (drain_some(&d, p.ends.out, 100000 + d.at % 777, true) && !d.is_bad && moves < 60) {
		unsigned char rest[32768];
		size_t left;

		if (d.at > 40 * 300000 - 1000000)
			break; /* near its end there may be nothing to move */
		if (pair_move(&p) < 0) {
			diag("move %d: %s", moves, p.last.why.text);
			break;
		}
		moves++;
		/* first what stands in the old pipe, then the rest of the write, then the new pipe */
		while (drain_some(&d, p.old_out, 65536, true))
			;
		left = (size_t)p.last.stats.rest_len;
		completed += left > 0;
		rest_total += left;
		while (left) {
			ssize_t n = recv(p.ctl[p.at], rest, sizeof(rest), 0);

			if (n <= 0)
				break;
			check_bytes(&d, rest, (size_t)n);
			left -= (size_t)n;
		}
	}
	while (drain_some(&d, p.ends.out, 65536, true))
		;
	ok(!d.is_bad && d.at == 40 * 300000, "12 MB written in large pieces arrive whole and in order over %d moves", moves);
	ok(completed > 0, "of which %d found a write half done (%zu bytes completed)", completed, rest_total);
	ok(pair_op(&p, p.at, CMD_REAP, 0) == 0 && WEXITSTATUS(p.last.status) == 7, "and the program saw no short write");
	pair_stop(&p);
}

static void test_unread(void)
{
	char line[4096], want[64];
	struct pair p;
	bool is_right = true;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 601, victim, "sockets", NULL);
	rank_says(&p, line, sizeof(line));
	/* a program that waits for its first line: all else lies unread */
	if (send(p.ends.ctl, "one", 3, 0) != 3 || send(p.ends.ctl, "two", 3, 0) != 3 || send(p.ends.pmi, "cmd=a", 5, 0) != 5)
		tap_bail("cannot write");
	ok(hops(&p, 2, false), "a rank moves twice with unread control packets and PMI bytes");
	if (send(p.ends.ctl, "three", 5, 0) != 5 || send(p.ends.pmi, " cmd=b", 6, 0) != 6)
		tap_bail("cannot write");
	is_right = rank_obeys(&p, "c", line, sizeof(line)) && !strcmp(line, "got 3 one");
	is_right = is_right && rank_obeys(&p, "c", line, sizeof(line)) && !strcmp(line, "got 3 two");
	is_right = is_right && rank_obeys(&p, "c", line, sizeof(line)) && !strcmp(line, "got 5 three");
	is_right = is_right && rank_obeys(&p, "p", line, sizeof(line)) && !strcmp(line, "got 11 cmd=a cmd=b");
	ok(is_right, "and then reads them in order and packet by packet, before newer ones ('%s')", line);
	/* stdin: three lines in the pipe, then the move, then a fourth */
	ok(finish(&p), "and it ends as it should");
	pair_stop(&p);

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 602, victim, "heap", "64", NULL);
	rank_says(&p, line, sizeof(line));
	is_right = true;
	for (int i = 0; i < 40; i++) { /* each makes it check its heap: some will be unread when it moves */
		int n = snprintf(want, sizeof(want), "%d\n", i);

		if (write(p.ends.in, want, (size_t)n) != n)
			is_right = false;
	}
	is_right = is_right && pair_move(&p) == 0;
	for (int i = 0, fd = p.old_out; i < 40 && is_right; i++) {
		snprintf(want, sizeof(want), "ok %d", i);
		is_right = line_from(fd, line, sizeof(line), 20000);
		if (!is_right && fd == p.old_out) {
			fd = p.ends.out;
			is_right = line_from(fd, line, sizeof(line), 20000);
		}
		is_right = is_right && strcmp(line, want) == 0;
	}
	ok(is_right, "unread lines of standard input come over ('%s')", line);
	ok(finish(&p), "and it ends as it should");
	pair_stop(&p);
}

/* ---- what holds a rank ----------------------------------------------------------------------------------------- */

static void test_refusals(void)
{
	static const struct { const char *kind, *word; } held[] = {
		{ "socket", "TCP socket" },     { "child", "another process" },       { "epoll", "epoll" },
		{ "device", "(/dev/" },         { "deleted", "deleted" },             { "system-v", "System V" },
		{ "semaphore", "System V semaphore" }, { "io_uring", "io_uring" },
		{ "timer", "POSIX timer" },     { "lock", "locked" },           { "inotify", "inotify" },
		{ "unreadable", "cannot be read" },
	};
	char line[4096];
	struct pair p;

	for (size_t i = 0; i < GW_ARRAY_LEN(held); i++) {
		int rc;

		pair_start(&p, NULL, NULL, false);
		p.is_far = true; /* on one host some of it would be handed over */
		pair_spawn(&p, 700, victim, "held", held[i].kind, NULL);
		if (!rank_says(&p, line, sizeof(line)) || strcmp(line, "ready") != 0) {
			tap_skip(1, "no %s can be had here", held[i].kind);
			pair_stop(&p);
			continue;
		}
		rc = pair_move(&p);
		ok(rc == (strcmp(held[i].kind, "child") ? -EBUSY : -ECHILD) && strstr(p.last.why.text, held[i].word) && rank_obeys(&p, "1", line, sizeof(line)) &&
		   strcmp(line, "ok 1") == 0, "%s: refused by name, and it runs on: %s", held[i].kind, p.last.why.text);
		finish(&p); /* some has to be removed */
		pair_stop(&p);
	}
	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 701, victim, "heap", "0", NULL);
	rank_says(&p, line, sizeof(line));
	{
		pid_t rank = p.last.pid;
		bool is_traced = ptrace(PTRACE_SEIZE, rank, NULL, NULL) == 0;
		int rc, status;

		if (is_traced) {
			rc = pair_op(&p, 0, CMD_CHECK, 0);
			ok(rc == -EBUSY && strstr(p.last.why.text, "traced by"), "a debugger is named: %s", p.last.why.text);
			ptrace(PTRACE_INTERRUPT, rank, NULL, NULL);
			waitpid(rank, &status, __WALL);
			ptrace(PTRACE_DETACH, rank, NULL, NULL);
		} else {
			tap_skip(1, "cannot trace here: %s", strerror(errno));
		}
	}
	ok(hops(&p, 2, true) && finish(&p), "and when it has gone the rank moves");
	pair_stop(&p);
}

/* ---- death at every step --------------------------------------------------------------------------------------- */

static void test_abort(void)
{
	char line[4096];
	struct pair p;
	bool is_right = true;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 800, victim, "storm", NULL);
	rank_says(&p, line, sizeof(line));
	for (int i = 0; i < 30 && is_right; i++) {
		is_right = pair_op(&p, 0, CMD_GIVE, 1) == 0 && rank_obeys(&p, "x", line, sizeof(line)) && !strcmp(line, "ok x");
		if (!is_right)
			diag("%d: %s; '%s'", i, p.last.why.text, line);
	}
	ok(is_right, "thirty times frozen and let go at the same place, in a storm of signals");
	ok(pair_op(&p, 0, CMD_GIVE, 2) == 0 && rank_obeys(&p, "x", line, sizeof(line)) && !strcmp(line, "ok x"),
	   "a freeze that is refused leaves it running, and nothing of what was said for it to the next: %s", p.last.why.text);
	ok(finish(&p), "and it ends as it should");
	pair_stop(&p);
	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 801, victim, "compute", "8", NULL);
	rank_says(&p, line, sizeof(line));
	for (int i = 0; i < 30 && is_right; i++)
		is_right = pair_op(&p, 0, CMD_GIVE, 1) == 0 && rank_obeys(&p, "x", line, sizeof(line)) && !strcmp(line, "ok x");
	ok(is_right && finish(&p), "the same with eight threads that compute");
	pair_stop(&p);
}

static size_t descriptors(pid_t pid)
{
	char path[64];
	size_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/* @is_source: who dies; @lives: where the rank is afterwards, -1 nowhere */
static void test_death(const char *fault, bool is_source, int lives)
{
	struct cmd take = { .op = CMD_TAKE }, give = { .op = CMD_GIVE };
	char line[4096] = "";
	struct pair p;
	size_t before;
	pid_t pid;
	int status;

	pair_start(&p, is_source ? fault : NULL, is_source ? NULL : fault, false);
	pair_op(&p, 1, CMD_REAP, 0); /* when it answers it is there, and has closed what is the other's */
	before = descriptors(p.pid[1]);
	pair_spawn(&p, 900, victim, "compute", "3", NULL);
	pid = p.last.pid;
	rank_says(&p, line, sizeof(line));
	send(p.ctl[1], &take, sizeof(take), MSG_NOSIGNAL);
	send(p.ctl[0], &give, sizeof(give), MSG_NOSIGNAL);
	waitpid(p.pid[!is_source], &status, 0);
	p.pid[!is_source] = fork(); /* a process for pair_stop to end; the pid may have been used again */
	if (p.pid[!is_source] == 0) {
		pause();
		_exit(0);
	}
	if (lives < 0) {
		/* the other side must be able to say that it has nothing, or wait for the word that never comes */
		ok(WIFSIGNALED(status) && will_be_gone(pid), "%s: killed there, no copy runs", fault);
		is_int(pair_reply(&p, 1), -EPIPE, "the other side has nothing: %s", p.last.why.text);
		ok(before > 2 && descriptors(p.pid[1]) <= before, "and nothing of it is open there: %zu descriptors, %zu before",
		   descriptors(p.pid[1]), before);
	} else {
		int rc = pair_reply(&p, lives);

		if (rc != 0 && lives == 1)
			diag("%s", p.last.why.text);
		ok(WIFSIGNALED(status) && rank_obeys(&p, "still", line, sizeof(line)) && !strcmp(line, "ok still") &&
		   (lives == 0 ? !is_gone(pid) : will_be_gone(pid)), "%s: killed there, one copy runs, at the %s", fault,
		   lives ? "destination" : "source");
		p.at = lives;
		ok(finish(&p), "and ends as it should");
	}
	pair_stop(&p);
}

static void test_deaths(void)
{
	test_death("ct.freeze.stopped", true, -1);
	test_death("test.sent", true, -1);
	test_death("test.given", true, 1);
	test_death("ct.shell.created", false, 0);
	test_death("ct.shell.filled", false, 0);
	test_death("ct.shell.ready", false, 0);
}

int main(void)
{
	struct ct_host_caps caps;

	tap_begin(300);
	setup();
	ct_host_probe(&caps);
	if (!caps.can_move)
		tap_skip_all("this host cannot move processes: %s", caps.text);
	test_spawn();
	test_spawn_at_once();
	test_orphans();
	test_identity();
	test_hops("one thread, no heap", 10, false, "heap", "0", NULL, NULL);
	test_hops("64 MiB", 4, true, "heap", "64", "5", NULL);
	test_hops("64 MiB of huge pages", 4, true, "heap", "64", "5", "huge");
	test_hops("1 MiB, 64 threads", 4, true, "heap", "1", "64", NULL);
	test_hops("five threads that compute with integers, x87 and vectors", 10, true, "compute", "5", NULL, NULL);
	test_hops("POSIX timers of all clocks, with gaps in their numbers, and timer descriptors", 10, true, "timers", NULL, NULL, NULL);
	test_hops("memory files: sealed, mapped twice, closed, without a name", 10, true, "memories", NULL, NULL, NULL);
	test_hops("1,200 mappings, 64 threads with memory of their own, a stack that grows, locked, huge and shared pages", 10, true,
	          "mappings", NULL, NULL, NULL);
	test_hops("66,000 stretches of pages", 4, true, "extents", NULL, NULL, NULL);
	test_hops("all that will be mapped is locked", 10, false, "locked", NULL, NULL, NULL);
	test_hops("epoll in epoll, a signal descriptor, a handle of itself", 10, false, "polls", NULL, NULL, NULL);
	test_hops("a signal every 60 us, with an alternate stack and sleeps in the handler", 10, false, "storm", NULL, NULL, NULL);
	{
		char path[200];

		snprintf(path, sizeof(path), "%s/file", workdir);
		test_hops("files, shared positions, a pipe and an eventfd of its own", 10, false, "files", path, NULL, NULL);
	}
	test_hops("memory that changes in every way", 10, true, "dirty", "1", NULL, NULL);
	if (caps.has_wp_async)
		test_followed();
	else
		tap_skip(21, "this host cannot follow what a rank writes: %s", caps.text);
	test_waits();
	test_partial_write();
	test_unread();
	test_refusals();
	test_abort();
	test_deaths();
	return tap_done();
}
