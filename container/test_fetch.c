/* SPDX-License-Identifier: BSD-2-Clause */
/* Ranks that run before their pages are there: all of their memory, used in every way while it comes. */
#include "container/test_hops.h"

/* A rank that has another process just now is asked again, as a daemon does. */
static bool hop(struct pair *p)
{
	uint64_t until = gw_now_ns() + 20000000000ull;
	int rc;

	do
		rc = pair_move(p);
	while (rc == -ECHILD && gw_now_ns() < until);
	if (rc < 0)
		diag("%s", p->last.why.text);
	return rc == 0;
}

static bool says(struct pair *p, const char *word)
{
	char line[4096], want[64];

	snprintf(want, sizeof(want), "ok %s", word);
	if (rank_obeys(p, word, line, sizeof(line)) && strcmp(line, want) == 0)
		return true;
	diag("it says '%s', not '%s'", line, want);
	return false;
}

static bool is_ready(struct pair *p)
{
	char line[4096];

	return rank_says(p, line, sizeof(line)) && strcmp(line, "ready") == 0;
}

/* @post, @rounds: of the first hop; every other hop is the other way round */
static void test_uses(const char *what, int hops, bool is_tcp, int post, int rounds, const char *a0, const char *a1, bool is_forking)
{
	uint64_t left = 0, faults = 0, forks = 0, median = 0;
	struct pair p;
	bool good;

	pair_start(&p, NULL, NULL, is_tcp);
	good = pair_spawn(&p, 4242, victim, a0, a1, NULL) == 0 && is_ready(&p) && (!is_forking || says(&p, "fork"));
	for (int i = 0; good && i < hops; i++) {
		char word[16];

		p.post = i % 2 ? 1 : post;
		p.rounds = i % 3 ? 0 : rounds;
		good = hop(&p);
		left += p.last.stats.left_bytes;
		faults += p.last.stats.fetch.faults;
		forks += p.last.stats.fetch.forks;
		median = p.last.stats.fetch.fault_median_us;
		snprintf(word, sizeof(word), "%d", i);
		good = good && says(&p, word);
	}
	good = good && (!is_forking || says(&p, "rest"));
	ok(good && left && finish(&p), "%s: %d hops, %.1f MiB came after it", what, hops, (double)left / (1 << 20));
	diag("%llu pages were waited for (half of the last hop's within %llu us), %llu forks meanwhile", (unsigned long long)faults,
	     (unsigned long long)median, (unsigned long long)forks);
	pair_stop(&p);
}

/* The daemon that has the pages dies: the one that has the rank ends it, and never lets it run without them. */
static void test_source_dies(void)
{
	struct pollfd copy = { .events = POLLIN };
	struct pair p;
	int rc;

	pair_start(&p, "test.serving=kill", NULL, false);
	pair_spawn(&p, 4242, victim, "fetched", "16", NULL);
	is_ready(&p);
	copy.fd = (int)syscall(SYS_pidfd_open, p.last.pid, 0);
	p.post = 100000; /* nothing is pushed */
	rc = pair_move(&p);
	ok(rc == -EPIPE && p.last.rc == -EPIPE && pair_op(&p, 1, CMD_REAP, 0) == -ECHILD, "pages cannot come any more: the rank ends");
	ok(poll(&copy, 1, 10000) == 1, "and so does the frozen copy, with its daemon");
	close(copy.fd);
	pair_stop(&p);
}

/* The daemon that has the rank is killed while threads wait for pages: none of them may find that one holds something else. */
static void test_destination_dies(void)
{
	char witness[80];
	int killed = 0;

	snprintf(witness, sizeof(witness), "%s/wrong", workdir);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* what a daemon leaves is ours */
	for (int i = 0; i < 12; i++) {
		struct pair p;

		pair_start(&p, NULL, "test.fetching=kill", false);
		pair_spawn(&p, 4242, victim, "fetched", "16", witness, NULL);
		p.post = 100000; /* nothing is pushed */
		if (is_ready(&p) && (i % 2 == 0 || says(&p, "fork"))) { /* its children, too */
			int rc;

			do
				rc = pair_move(&p);
			while (rc == -ECHILD);
			killed += rc == -EPIPE;
		}
		pair_stop(&p);
		while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
			; /* the rank's init, and with it the rank; helpers */
	}
	ok(killed == 12 && access(witness, F_OK) < 0, "the daemon that has the rank is killed while pages are missing: nothing goes on without them");
	unlink(witness);
}

int main(void)
{
	struct ct_host_caps caps;

	tap_begin(300);
	setup();
	ct_host_probe(&caps);
	if (!caps.can_fetch)
		tap_skip_all("missing pages cannot be watched here (userfaultfd of the kernel's own accesses, and of forks)");
	if (CT_TEST_FETCHES) {
		test_uses("an ordinary user's, used by every way", 2, true, 1, 0, "fetched", "16", false);
		test_uses("an ordinary user's, with children", 2, false, 100, 0, "fetched", "16", true);
		return tap_done();
	}
	test_uses("64 MiB, used by every way", 10, true, 1, 0, "fetched", "64", false);
	test_uses("32 MiB, asked for page by page first", 3, false, 200, 0, "fetched", "32", false);
	test_uses("children are forked while pages come", 4, false, 100, 0, "fetched", "32", true);
	test_uses("memory that changes all the time", 6, false, 60, 0, "dirty", "3", false);
	test_uses("memory that changes all the time, followed before", 6, false, 30, 2, "dirty", "4", false);
	test_uses("and what was written since is given back before it stands", 9, false, 30, LEAVING + 4, "dirty", "4", false);
	test_uses("and what came before is forgotten", 6, false, 30, FORGOTTEN + 2, "dirty", "4", false);
	test_source_dies();
	test_destination_dies();
	return tap_done();
}
