/* SPDX-License-Identifier: BSD-2-Clause */
/* One table: programs with every kind of state, each moved ten times by every technique while it checks itself. */
#include "container/test_hops.h"

#include <sys/file.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

struct state {
	const char *what;
	const char *program; /* NULL: the victim; else what "bring" made */
	const char *args[4]; /* of the victim; "@" stands for a directory of its own */
	bool is_far_too;     /* it moves between hosts as well */
};

static const struct state states[] = {
	{ "locks: flock, F_SETLK, F_OFD_SETLK", .args = { "locks", "@" } },
	{ "shared locks", .args = { "locks", "@", "shared" }, .is_far_too = true },
	{ "an inotify instance with events, a message queue, a named pipe, a deleted file, UNIX sockets", .args = { "handles", "@" } },
	{ "pairs of sockets with bytes and packets that wait", .args = { "pairs" }, .is_far_too = true },
	{ "files that were deleted and are mapped: shared, private, open too", .args = { "nameless", "@" }, .is_far_too = true },
	{ "its program was deleted", .program = "victim_gone", .args = { "gone", "@" }, .is_far_too = true },
	{ "personality, prctl, priorities, limits, masks", .args = { "traits" } },
	{ "processors that threads have chosen", .args = { "chosen" } },
	{ "inside restartable sequences, pthread_create, malloc and the vdso", .args = { "sections" } },
	{ "inside nested handlers on an alternate stack", .args = { "moments" } },
	{ "robust mutexes whose owners die, cancellation, destructors of threads", .args = { "mutexes" } },
	{ "a team of OpenMP threads inside a parallel region", .program = "victim_omp" },
	{ "C++ exceptions on their way, and thread_local objects", .program = "victim_cxx" },
};

/* A program that needs more than every compiler has: built from its source here. NULL: it cannot be. */
static const char *bring(const char *name)
{
	static char path[128];
	const char *top = getenv("top_srcdir");
	bool is_cxx = !strcmp(name, "victim_cxx");
	char cmd[600];

	snprintf(path, sizeof(path), "%s/%s", workdir, name);
	if (!strcmp(name, "victim_gone")) {
		snprintf(cmd, sizeof(cmd), "cp '%s' '%s'", victim, path);
		return system(cmd) == 0 ? path : NULL;
	}
	snprintf(cmd, sizeof(cmd), "%s -O2 %s -o '%s' '%s/container/%s%s' -lpthread >/dev/null 2>&1", is_cxx ? "c++" : "cc",
	         is_cxx ? "" : "-fopenmp", path, top ? top : "..", name, is_cxx ? ".cc" : ".c");
	return access(path, X_OK) == 0 || system(cmd) == 0 ? path : NULL;
}

/* Somebody else waits for a lock that the rank has: he must not get it before its end. */
struct rival { pid_t pid; int said; };

static struct rival rival_start(const char *dir)
{
	struct rival r;
	char path[160];
	int p[2];

	snprintf(path, sizeof(path), "%s/lock0", dir);
	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	r.pid = fork();
	if (r.pid == 0) {
		int fd = open(path, O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (fd >= 0 && write(p[1], "w", 1) == 1 && flock(fd, LOCK_EX) == 0 && write(p[1], "l", 1) == 1)
			_exit(0);
		_exit(1);
	}
	close(p[1]);
	r.said = p[0];
	return r;
}

/* it says 'w' when it begins to wait, 'l' when it has the lock */
static bool rival_says(const struct rival *r, char word, int timeout_ms)
{
	struct pollfd f = { .fd = r->said, .events = POLLIN };
	char c;

	return poll(&f, 1, timeout_ms) == 1 && read(r->said, &c, 1) == 1 && c == word;
}

static void test_rival(void)
{
	char line[4096], dir[100];
	struct rival rival;
	struct pair p;
	bool is_kept;

	snprintf(dir, sizeof(dir), "%s/rival", workdir);
	mkdir(dir, 0700);
	pair_start(&p, NULL, NULL, false);
	p.rounds = rounds;
	pair_spawn(&p, 4243, victim, "locks", dir, NULL);
	rank_says(&p, line, sizeof(line));
	rival = rival_start(dir);
	is_kept = rival_says(&rival, 'w', 20000) && hops(&p, 5, true) && !rival_says(&rival, 'l', 0);
	ok(is_kept && finish(&p) && rival_says(&rival, 'l', 20000),
	   "who waits for a lock of a rank gets it when that has ended, and not in five moves before");
	kill(rival.pid, SIGKILL);
	waitpid(rival.pid, NULL, 0);
	close(rival.said);
	pair_stop(&p);
}

/* stop-and-copy, pre-copy, post-copy, hybrid; and between hosts where that is more than the file systems and the network */
static const struct { int rounds, post; bool is_far; } ways[] = { { 0, 0, false }, { 2, 0, false }, { 0, 1, false },
                                                                  { 2, 20, false }, { 0, 0, true } };

static void test_all(bool can_follow, bool can_fetch)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(states); i++)
		for (size_t w = 0; w < GW_ARRAY_LEN(ways); w++) {
			const char *program = states[i].program ? bring(states[i].program) : victim;
			const char *const *a = states[i].args;
			char dir[100];

			rounds = ways[w].rounds;
			post = ways[w].post;
			is_far = ways[w].is_far;
			if (is_far && !states[i].is_far_too)
				continue;
			if ((rounds && !can_follow) || (post && !can_fetch)) {
				tap_skip(1, "%s, %s: not on this host, or by this user", states[i].what, post ? "before its pages are there" : "followed");
				continue;
			}
			if (!program) {
				tap_skip(1, "%s: no compiler here can make it", states[i].what);
				continue;
			}
			snprintf(dir, sizeof(dir), "%s/%zu-%zu", workdir, i, w);
			mkdir(dir, 0700);
			test_hops_of(program, states[i].what, 10, w > 0, a[0], a[1] && !strcmp(a[1], "@") ? dir : a[1], a[2], a[3]);
		}
	rounds = post = 0;
	is_far = false;
}

/* One thread in each call that has a limit, or that only a signal ends, while it is moved as often as there is time for. */
static void test_waiting(size_t w)
{
	const char *how = ways[w].post ? "running before its pages are there" : ways[w].rounds ? "followed before" : "frozen";
	char line[4096] = "";
	struct pair p;
	int moves = 0;
	bool is_right;

	pair_start(&p, NULL, NULL, w > 0);
	p.rounds = ways[w].rounds;
	p.post = ways[w].post;
	is_right = pair_spawn(&p, 4246, victim, "waiting", NULL) == 0 && rank_says(&p, line, sizeof(line)) && !strcmp(line, "ready");
	for (; is_right && moves < 4; moves++)
		is_right = hops(&p, 1, false);
	is_right = is_right && write(p.ends.in, "end\n", 4) == 4;
	for (bool is_more = is_right; is_more;) {
		is_more = rank_says(&p, line, sizeof(line)) && !strncmp(line, "bad", 3);
		if (is_more || strncmp(line, "waited ", 7) != 0) {
			diag("%s", line);
			is_right = false;
		}
	}
	ok(is_right, "thirty calls with a limit of 900 ms, %s, in %d moves: each ends as it should, and none early", how, moves);
	diag("%s", line);
	pair_stop(&p);
}

/* Semaphores that a rank is to give back are given back when it ends, once, and not when the copy ends that it has left. */
static void test_sysv(size_t w)
{
	int set = semget(IPC_PRIVATE, 3, 0600), queue = msgget(IPC_PRIVATE, 0600), segment = shmget(IPC_PRIVATE, 3 * 4096 + 1, 0600);
	unsigned short first[3] = { 1, 0, 30000 }, last[3] = { 0 };
	unsigned char *shared = shmat(segment, NULL, 0);
	char line[4096] = "", ids[3][16];
	bool is_right;
	struct pair p;

	snprintf(ids[0], sizeof(ids[0]), "%d", set);
	snprintf(ids[1], sizeof(ids[1]), "%d", queue);
	snprintf(ids[2], sizeof(ids[2]), "%d", segment);
	semctl(set, 0, SETALL, first);
	pair_start(&p, NULL, NULL, w > 0);
	is_right = pair_spawn(&p, 4247, victim, "sysv", ids[0], ids[1], ids[2], NULL) == 0 && rank_says(&p, line, sizeof(line)) &&
	           !strcmp(line, "ready");
	shmctl(segment, IPC_RMID, NULL); /* it stays as long as somebody is attached */
	p.is_far = true;
	ok(is_right && pair_move(&p) == -EBUSY && strstr(p.last.why.text, "System V"), "what is System V's stays on its host: %s", p.last.why.text);
	p.is_far = false;
	p.rounds = ways[w].rounds;
	p.post = ways[w].post;
	pair_op(&p, p.at, CMD_CHECK, 0);
	for (int i = 0; is_right && i < 10; i++) {
		shared[100 + i] = (unsigned char)i;
		is_right = hops(&p, 1, true) && semctl(set, 0, GETALL, last) == 0 && last[0] == 0 && last[1] == 7 && last[2] == 10000;
	}
	is_right = is_right && finish(&p) && semctl(set, 0, GETALL, last) == 0;
	ok(is_right && !memcmp(first, last, sizeof(first)), "semaphores that it gives back at its end, a queue, attached memory: ten hops, and they "
	   "hold what they did (%d %d %d)", last[0], last[1], last[2]);
	pair_stop(&p);
	shmdt(shared);
	semctl(set, 0, IPC_RMID);
	msgctl(queue, IPC_RMID, NULL);
}

static long huge_kib(pid_t pid)
{
	char path[64], line[256];
	long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "AnonHugePages: %ld", &kib) != 1)
		;
	if (f)
		fclose(f);
	return kib;
}

/* To make huge pages in another process takes this right, which root of a container may not have. */
static bool may_make_huge(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	return syscall(SYS_capget, &head, data) == 0 && (data[0].effective & 1u << CAP_SYS_NICE);
}

/* Pages that were huge are so afterwards; those that came one by one, a while afterwards. */
static void test_huge(size_t w)
{
	const long want = (40 << 10) * 9 / 10;
	char line[4096] = "";
	long had, have = 0;
	struct pair p;

	pair_start(&p, NULL, NULL, w > 0);
	p.rounds = ways[w].rounds;
	p.post = ways[w].post;
	pair_spawn(&p, 4248, victim, "heap", "40", "1", "huge", NULL);
	rank_says(&p, line, sizeof(line));
	had = huge_kib(p.last.pid);
	if (had < want) {
		tap_skip(1, "there are no huge pages here just now: %ld KiB", had);
		pair_stop(&p);
		return;
	}
	for (int i = 0; i < 2; i++) {
		uint64_t until = gw_now_ns() + 20000000000u;

		have = hops(&p, 1, true) ? 0 : -1;
		while (have >= 0 && have < want && gw_now_ns() < until) {
			have = huge_kib(p.last.pid);
			poll(NULL, 0, 10);
		}
		if (have < want)
			break;
	}
	ok(have >= want && finish(&p), "huge pages stay huge%s%s: %ld KiB of %ld", p.rounds ? ", followed before" : "",
	   p.post ? ", when they come after it" : "", have, had);
	pair_stop(&p);
}

/* ---- reserved huge pages ------------------------------------------------------------------------------------------ */

#define OVERCOMMIT "/proc/sys/vm/nr_overcommit_hugepages" /* pages that are made when one is asked for: none is held for nothing */
#define RESERVED   5                                      /* that the victim has */

static int pages_fd = -1;
static long pages_before = -1;

static bool pages_allow(long n)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%ld\n", n);

	return pages_fd >= 0 && pwrite(pages_fd, text, (size_t)len, 0) == len;
}

static void pages_restore(void)
{
	if (getpid() == tap_state.pid && pages_before >= 0)
		pages_allow(pages_before);
	pages_before = -1;
}

/* The number is the host's: one test at a time changes it. False: it is not ours to change. */
static bool pages_begin(void)
{
	char text[32] = "";

	pages_fd = open(OVERCOMMIT, O_RDWR | O_CLOEXEC);
	if (pages_fd < 0 || flock(pages_fd, LOCK_EX) < 0 || pread(pages_fd, text, sizeof(text) - 1, 0) <= 0)
		return false;
	pages_before = atol(text);
	return pages_allow(pages_before + 4 * RESERVED);
}

/* of anonymous memory */
static long reserved_kib(pid_t pid)
{
	char path[64], line[4300];
	unsigned long start, end;
	long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "/anon_hugepage") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			kib += (long)((end - start) >> 10);
	if (f)
		fclose(f);
	return kib;
}

/* Who may not set how many there are takes those that are there, and does not see what happens without. Return whether all were such
 * pages after ten hops: a kernel with little memory in one piece may have none to give. */
static bool test_reserved(size_t w, bool can_set)
{
	const char *how = ways[w].post ? "running before its pages are there" : ways[w].rounds ? "followed before" : "frozen";
	char line[4096] = "";
	bool is_right;
	long kib = 0;
	struct pair p;

	pair_start(&p, NULL, NULL, w > 0);
	p.rounds = rounds = ways[w].rounds;
	p.post = ways[w].post;
	is_right = pair_spawn(&p, 4249, victim, "reserved", NULL) == 0 && rank_says(&p, line, sizeof(line)) && !strcmp(line, "ready");
	if (!is_right) {
		tap_skip(1, "no huge pages are to be had here");
	} else {
		is_right = hops(&p, 10, true);
		kib = reserved_kib(p.last.pid);
		if (can_set)
			is_right = is_right && pages_allow(0) && hops(&p, 2, true) && reserved_kib(p.last.pid) == 0 &&
			           pages_allow(pages_before + 4 * RESERVED) && hops(&p, 1, true);
		ok(is_right && finish(&p), "reserved huge pages, %s: ten hops%s (%ld KiB)", how, can_set ? ", and on as ordinary memory where none are free" : "", kib);
	}
	pair_stop(&p);
	rounds = 0;
	return kib == 4 * 2048;
}

static bool is_stopped(pid_t pid)
{
	char path[64], text[512] = "", *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	end = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	if (f)
		fclose(f);
	return end && end[1] && end[2] == 'T';
}

static bool will_be_stopped(pid_t pid)
{
	uint64_t until = gw_now_ns() + 10000000000u;

	while (!is_stopped(pid) && gw_now_ns() < until)
		sched_yield();
	return is_stopped(pid);
}

/* Its process stands still by SIGSTOP, and goes on by SIGCONT only. */
static void test_stopped(const char *a1, const char *a2)
{
	struct pollfd out = { .events = POLLIN };
	bool is_quiet = true;
	char line[4096];
	struct pair p;

	pair_start(&p, NULL, NULL, false);
	pair_spawn(&p, 4244, victim, a1, a2, NULL);
	rank_says(&p, line, sizeof(line));
	pair_op(&p, p.at, CMD_SIGNAL, SIGSTOP);
	is_quiet = will_be_stopped(p.last.pid) && pair_op(&p, p.at, CMD_GIVE, 1) == 0 && will_be_stopped(p.last.pid);
	if (write(p.ends.in, "asked\n", 6) != 6)
		is_quiet = false;
	for (int i = 0; i < 10 && is_quiet; i++) {
		p.rounds = i % 3 == 2 ? rounds : 0;
		is_quiet = hops(&p, 1, false) && will_be_stopped(p.last.pid);
		out.fd = p.ends.out;
		is_quiet = is_quiet && poll(&out, 1, 0) == 0;
	}
	ok(is_quiet, "%s: stopped by SIGSTOP, it moves ten times, and stays so", a1);
	pair_op(&p, p.at, CMD_SIGNAL, SIGCONT);
	ok(rank_says(&p, line, sizeof(line)) && !strcmp(line, "ok asked") && hops(&p, 1, true) && finish(&p),
	   "%s: SIGCONT sets it going", a1);
	pair_stop(&p);
}

/* An exclusive lock that cannot be had at both sides holds the rank, by its path. */
static void test_held_locks(void)
{
	char line[4096], dir[100];
	struct pair p;

	snprintf(dir, sizeof(dir), "%s/held", workdir);
	mkdir(dir, 0700);
	pair_start(&p, NULL, NULL, false);
	p.is_far = true;
	pair_spawn(&p, 4245, victim, "locks", dir, NULL);
	rank_says(&p, line, sizeof(line));
	ok(pair_move(&p) == -EBUSY && strstr(p.last.why.text, "flock") && strstr(p.last.why.text, dir) && rank_obeys(&p, "x", line, sizeof(line)),
	   "exclusive locks stay on their host: %s", p.last.why.text);
	p.is_far = false;
	pair_op(&p, p.at, CMD_CHECK, 0); /* it says again which process the rank is */
	ok(hops(&p, 2, true) && finish(&p), "where it moves");
	pair_stop(&p);
}

int main(void)
{
	struct ct_host_caps caps;
	bool can_set, were_huge = false;

	tap_begin(500);
	setup();
	ct_host_probe(&caps);
	if (!caps.can_move)
		tap_skip_all("this host cannot move processes: %s", caps.text);
	test_rival();
	test_held_locks();
	rounds = caps.has_wp_async ? 2 : 0;
	test_stopped("compute", "3");
	test_stopped("heap", "1");
	for (size_t w = 0; w < GW_ARRAY_LEN(ways) - 1; w++) {
		if ((ways[w].rounds && !caps.has_wp_async) || (ways[w].post && !caps.can_fetch)) {
			tap_skip(4, "calls with a limit, System V objects, huge pages: not on this host, or by this user");
			continue;
		}
		test_waiting(w);
		test_sysv(w);
		if (ways[w].post && !may_make_huge())
			tap_skip(1, "huge pages that come after the rank: made so by CAP_SYS_NICE only");
		else
			test_huge(w);
	}
	can_set = pages_begin();
	atexit(pages_restore);
	for (size_t w = 0; w < GW_ARRAY_LEN(ways) - 1; w++)
		if ((!ways[w].rounds || caps.has_wp_async) && (!ways[w].post || caps.can_fetch))
			were_huge |= test_reserved(w, can_set);
	if (were_huge)
		ok(true, "and they were reserved huge pages after ten hops");
	else
		tap_skip(1, "reserved huge pages: this host has not enough of them just now");
	pages_restore();
	if (can_set)
		flock(pages_fd, LOCK_UN);
	rounds = 0;
	test_all(caps.has_wp_async, caps.can_fetch);
	return tap_done();
}
