/* SPDX-License-Identifier: BSD-2-Clause */
/* container/test_hops.h: a victim that is moved there and back, and says after each hop that all is as it was. */
#ifndef CT_TEST_HOPS_H
#define CT_TEST_HOPS_H

#include "container/test_pair.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "tests/sweep.h"
#include "tests/tap.h"

#ifndef CT_TEST_UID
#define CT_TEST_UID 0 /* as whoever runs the test */
#endif

#ifndef CT_TEST_FETCHES
#define CT_TEST_FETCHES 0 /* the other user gets what he needs for pages that come later */
#endif

static char victim[96], workdir[64];

static void cleanup(void)
{
	char cmd[600];

	if (getpid() != tap_state.pid)
		return;
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", workdir);
	if (workdir[0] && system(cmd) != 0)
		diag("cannot remove %s", workdir);
}

/* A device of our own in a mount namespace of our own: nobody else's changes. False: not here */
static bool device_give(void)
{
	char dir[80], node[96];

	snprintf(dir, sizeof(dir), "%s/dev", workdir);
	snprintf(node, sizeof(node), "%s/userfaultfd", dir);
	return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mkdir(dir, 0755) == 0 &&
	       mount("none", dir, "tmpfs", 0, "mode=755") == 0 && mknod(node, S_IFCHR, makedev(10, 257)) == 0 && chmod(node, 0666) == 0 &&
	       mount(node, "/dev/userfaultfd", NULL, MS_BIND, NULL) == 0 && umount2(dir, MNT_DETACH) == 0 && prctl(PR_SET_KEEPCAPS, 1) == 0;
}

/* what is left of root: CAP_SYS_PTRACE, also for what is executed */
static bool right_keep(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 1u << CAP_SYS_PTRACE, 1u << CAP_SYS_PTRACE, 1u << CAP_SYS_PTRACE }, { 0, 0, 0 } };

	return syscall(SYS_capset, &head, data) == 0 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_PTRACE, 0, 0) == 0;
}

/* the victim is copied where an ordinary user can run it */
static void setup(void)
{
	const char *top = getenv("top_builddir");
	char cmd[1200];

	strcpy(workdir, "/tmp/godwit-ct-XXXXXX");
	if (sweep_dir(workdir) < 0)
		tap_bail("cannot make a directory in /tmp");
	atexit(cleanup);
	snprintf(victim, sizeof(victim), "%s/victim", workdir);
	snprintf(cmd, sizeof(cmd), "cp '%s/container/victim' '%s' && chmod 755 '%s' '%s'", top ? top : ".", victim, victim, workdir);
	if (system(cmd) != 0)
		tap_bail("cannot copy the victim from %s", top ? top : ".");
	if (CT_TEST_FETCHES && (geteuid() != 0 || !device_give()))
		tap_skip_all("only root can give another user a device and a right here: %s", strerror(errno));
	if (CT_TEST_UID && geteuid() == 0) {
		if (chown(workdir, CT_TEST_UID, CT_TEST_UID) < 0 || setgroups(0, NULL) < 0 ||
		    setresgid(CT_TEST_UID, CT_TEST_UID, CT_TEST_UID) < 0 || setresuid(CT_TEST_UID, CT_TEST_UID, CT_TEST_UID) < 0)
			tap_skip_all("cannot become user %d here: %s", CT_TEST_UID, strerror(errno));
		if (CT_TEST_FETCHES && !right_keep())
			tap_skip_all("CAP_SYS_PTRACE cannot be kept here: %s", strerror(errno));
		prctl(PR_SET_DUMPABLE, 1);
	}
}

static bool is_gone(pid_t pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH;
}

/* the processes of one rank end with its init a moment after the daemon: wait for that, with a deadline */
__attribute__((unused)) static bool will_be_gone(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool is_over = fd < 0 || poll(&p, 1, 10000) == 1;

	if (fd >= 0)
		close(fd);
	return is_over;
}

static bool is_far; /* as if the daemons were on two hosts */
static int post;    /* of struct cmd */
static int rounds; /* that a rank is followed for before it is frozen; more with each hop, up to twice as many */

static bool hops(struct pair *p, int n, bool is_obeying)
{
	char line[4096], word[16];

	for (int i = 0; i < n; i++) {
		pid_t before = p->last.pid;
		int rc = pair_move(p);

		p->rounds = p->rounds ? rounds + (p->rounds - rounds + 1) % (rounds + 1) : 0;
		if (rc < 0) {
			diag("hop %d: %s", i, p->last.why.text);
			return false;
		}
		if (p->last.pid == before || !is_gone(before)) {
			diag("hop %d: pid %d is still there", i, (int)before);
			return false;
		}
		snprintf(word, sizeof(word), "%d", i);
		if (is_obeying && (!rank_obeys(p, word, line, sizeof(line)) || strncmp(line, "ok ", 3) != 0)) {
			diag("hop %d: the rank says '%s'", i, line);
			return false;
		}
	}
	return true;
}

static bool finish(struct pair *p)
{
	char line[4096];

	if (!rank_obeys(p, "end", line, sizeof(line)) || strcmp(line, "done") != 0) {
		diag("at its end the rank says '%s'", line);
		return false;
	}
	return pair_op(p, p->at, CMD_REAP, 0) == 0 && WIFEXITED(p->last.status) && WEXITSTATUS(p->last.status) == 7;
}

static void test_hops_of(const char *program, const char *what, int n, bool is_tcp, const char *a1, const char *a2, const char *a3, const char *a4)
{
	struct pair p;
	char line[4096];

	pair_start(&p, NULL, NULL, is_tcp);
	p.rounds = rounds;
	p.is_far = is_far;
	p.post = post;
	if (pair_spawn(&p, 4242, program, a1, a2, a3, a4, NULL) < 0) {
		ok(false, "%s: %s", what, p.last.why.text);
		pair_stop(&p);
		return;
	}
	ok(rank_says(&p, line, sizeof(line)) && strcmp(line, "ready") == 0 && hops(&p, n, true) && finish(&p),
	   "%s: %d hops%s%s%s and the right end", what, n, is_far ? " between hosts" : "", rounds ? ", followed before," : "",
	   post ? ", running before its pages are there," : "");
	pair_stop(&p);
}

__attribute__((unused)) static void test_hops(const char *what, int n, bool is_tcp, const char *a1, const char *a2, const char *a3,
                                              const char *a4)
{
	test_hops_of(victim, what, n, is_tcp, a1, a2, a3, a4);
}

#endif
