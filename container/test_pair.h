/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/test_pair.h: two small daemons for tests and the benchmark, and a controller that tells them what to do.
 *
 *   controller --ctl--> daemon 0 <--peer--> daemon 1 <--ctl-- controller
 *
 * A daemon spawns a rank, gives it to its peer or takes one, and hands the ends of its plumbing to the controller, which
 * talks to the rank. The peer connection is a stream socket over which needs, image and acknowledgements go, in the
 * order of a real session, so that killing either daemon at a named fault shows what is left.
 */
#ifndef CT_TEST_PAIR_H
#define CT_TEST_PAIR_H

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/container.h"

enum cmd_op { CMD_SPAWN, CMD_GIVE, CMD_TAKE, CMD_REAP, CMD_KILL, CMD_SIGNAL, CMD_CHECK, CMD_FOLLOW, CMD_QUIT };

struct cmd {
	int op, n;             /* n: signal; GIVE: 1 freeze and unfreeze only, 2 also with a word that refuses */
	bool is_far;           /* GIVE: as if the other daemon were on another host */
	int rounds;            /* GIVE: followed for so many before it is frozen */
	int post;              /* GIVE: it runs before its pages are there; > 1: so many are asked for before the rest is pushed */
	int argc;
	char argv[6][128];
	pid_t ns_pid;
	char cwd[128];
};

struct move_stats {
	struct ct_freeze_stats freeze;
	struct ct_thaw_stats thaw;
	struct ct_round rounds[16];
	uint64_t rounds_bytes; /* of image_bytes, before the freeze */
	uint64_t image_bytes, transfer_ns, ready_ns, shell_ns, check_ns, feed_ns, read_ns;
	char rest[4];
	ssize_t rest_len;      /* of standard output */
	uint64_t left_bytes;   /* after the thaw */
	struct ct_fetch_stats fetch;
	uint64_t fetch_ns;     /* from the thaw to the last page */
};

struct reply {
	int rc, status;
	pid_t pid, init_pid;
	struct move_stats stats;
	struct gw_error why;
};

/* the controller's ends of a rank's plumbing */
struct ends { int in, out, pmi, ctl; };

struct pair {
	pid_t pid[2];
	int ctl[2];
	struct ends ends;      /* of the rank, wherever it lives */
	int at;                /* which daemon has it */
	bool is_far;           /* of pair_move: as if the daemons were on two hosts */
	int rounds;            /* of pair_move: followed for so many before the freeze */
	int post;              /* of pair_move, see struct cmd */
	int old_out;           /* what is left in the pipe of the daemon that had it before; -1 for none */
	struct reply last;
};

/* ---- small things ---------------------------------------------------------------------------------------------- */

__attribute__((unused)) static bool io_all(int fd, void *buf, size_t len, bool is_write)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = is_write ? send(fd, (char *)buf + at, len - at, MSG_NOSIGNAL) : recv(fd, (char *)buf + at, len - at, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}

static int send_fds(int sock, const void *p, size_t len, const int *fds, size_t n)
{
	char control[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)p, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n) {
		struct cmsghdr *c;

		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -errno;
}

static int recv_fds(int sock, void *p, size_t len, int *fds, size_t n)
{
	char control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = { p, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t got;

	do
		got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got != (ssize_t)len)
		return -EPIPE;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(n * sizeof(int)))
			memcpy(fds, CMSG_DATA(c), n * sizeof(int));
	return 0;
}

/* ---- a daemon -------------------------------------------------------------------------------------------------- */

static void plumb(struct ct_plumbing *p, struct ends *e)
{
	int in[2], out[2], pmi[2], ctl[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pmi) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ctl) < 0)
		_exit(99);
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		p->rank_fd[i] = p->number_in_rank[i] = p->daemon_fd[i] = -1;
	p->rank_fd[CT_PLUMB_STDIN] = in[0];
	p->rank_fd[CT_PLUMB_STDOUT] = out[1];
	p->rank_fd[CT_PLUMB_PMI] = pmi[0];
	p->rank_fd[CT_PLUMB_CTL] = ctl[0];
	p->number_in_rank[CT_PLUMB_STDIN] = 0;
	p->number_in_rank[CT_PLUMB_STDOUT] = 1;
	p->number_in_rank[CT_PLUMB_PMI] = 10;
	p->number_in_rank[CT_PLUMB_CTL] = 11;
	p->daemon_fd[CT_PLUMB_PMI] = pmi[1];
	p->daemon_fd[CT_PLUMB_CTL] = ctl[1];
	*e = (struct ends){ in[1], out[0], pmi[1], ctl[1] };
}

static void unplumb(struct ct_plumbing *p)
{
	for (int i = 1; i < CT_PLUMB_MAX; i++)
		if (p->rank_fd[i] >= 0)
			close(p->rank_fd[i]);
}

static void close_ends(struct ends *e)
{
	if (e->in >= 0)
		close(e->in);
	if (e->out >= 0)
		close(e->out);
	if (e->pmi >= 0)
		close(e->pmi);
	if (e->ctl >= 0)
		close(e->ctl);
	*e = (struct ends){ -1, -1, -1, -1 };
}

struct peer_msg { uint32_t what; int32_t rc; uint64_t len; };
enum { PEER_NEEDS = 1, PEER_SHELL, PEER_IMAGE, PEER_READY, PEER_GIVEN, PEER_TAKEN, PEER_NOT, PEER_WANT, PEER_PAGES,
       PEER_FETCHED };

static int peer_say(int fd, uint32_t what, int rc, const void *p, uint64_t len)
{
	struct peer_msg m = { what, rc, len };

	return io_all(fd, &m, sizeof(m), true) && (!len || io_all(fd, (void *)p, len, true)) ? 0 : -EPIPE;
}

static unsigned char *chunk; /* touched before */
#define CHUNK (1u << 20)

static ssize_t give_image(struct ct_rank *r, int peer, struct reply *re)
{
	ssize_t n;

	for (;;) {
		uint64_t t1 = gw_now_ns();

		n = ct_image_next(r, chunk, CHUNK, &re->why);
		re->stats.read_ns += gw_now_ns() - t1;
		if (n <= 0)
			return n;
		re->stats.image_bytes += (uint64_t)n;
		if (peer_say(peer, PEER_IMAGE, 0, chunk, (uint64_t)n) < 0)
			return -EPIPE;
	}
}

#define FORGOTTEN 1000 /* more rounds: and then the destination forgets what they have brought */
#define LEAVING   500  /* more: what every other look finds is given back there */

/* Every other look's pages are left for later, or for the end. */
static int give_rounds(struct ct_rank *r, int peer, int rounds, struct reply *re)
{
	int rc = ct_follow_begin(r, &re->why);

	for (int i = 0; rc == 0 && i < rounds % FORGOTTEN % LEAVING; i++) {
		struct ct_round round;

		rc = ct_follow_round(r, &round, &re->why);
		re->stats.rounds[i % 16] = round;
		if (rc < 0 || (i % 2 && rounds % FORGOTTEN < LEAVING))
			continue;
		if (i % 2 && (rc = ct_follow_leave(r, &re->why)) < 0)
			break;
		rc = (int)give_image(r, peer, re);
		if (rc == 0)
			ct_follow_sent(r);
	}
	if (rc == 0 && rounds >= FORGOTTEN) {
		rc = ct_follow_forget(r, &re->why);
		if (rc == 0)
			rc = (int)give_image(r, peer, re);
		ct_follow_end(r);
	}
	return rc;
}

/* From the frozen copy, until the other side has all: what is asked for at once, the rest when @post pages were asked for. */
static int serve(struct ct_rank *r, int peer, int post, struct reply *re)
{
	struct pollfd p = { .fd = peer, .events = POLLIN };
	uint64_t wants[512], cursor;
	struct peer_msg m;
	int asked = 0;

	for (;;) {
		bool is_pushing = asked + 1 >= post && !ct_serve_is_out(r);
		ssize_t n;

		if (poll(&p, 1, is_pushing ? 0 : 100) == 1) {
			if (!io_all(peer, &m, sizeof(m), false) || m.len > sizeof(wants) || !io_all(peer, wants, m.len, false))
				return gw_fail(&re->why, -EPIPE, "the peer is gone while it fetches");
			if (m.what == PEER_FETCHED)
				return 0;
			gw_fault("test.serving");
			for (size_t i = 0; i < m.len / sizeof(wants[0]); i++, asked++) {
				n = ct_serve_page(r, wants[i], chunk, 65536, &re->why);
				if (n < 0 || peer_say(peer, PEER_PAGES, 0, chunk, (uint64_t)n) < 0)
					return n < 0 ? (int)n : -EPIPE;
			}
		} else if (is_pushing) {
			n = ct_serve_next(r, chunk, 262144, &cursor, &re->why);
			if (n < 0 || (n && peer_say(peer, PEER_PAGES, 0, chunk, (uint64_t)n) < 0))
				return n < 0 ? (int)n : -EPIPE;
		} else {
			post = 1; /* nobody asks any more: all the rest */
		}
	}
}

static int fetch(struct ct_fetch *f, int peer, struct reply *re)
{
	struct pollfd p[2] = { { .fd = peer, .events = POLLIN }, { .fd = ct_fetch_fd(f), .events = POLLIN } };
	struct peer_msg m;
	uint64_t wants[512];
	size_t n;
	int rc = 0;

	while (rc == 0 && ct_fetch_left(f)) {
		if (poll(p, 2, 20000) <= 0)
			return gw_fail(&re->why, -ETIMEDOUT, "pages do not come: %llu are missing", (unsigned long long)ct_fetch_left(f));
		if (p[1].revents)
			rc = ct_fetch_turn(f, &re->why);
		if (rc == 0 && (p[0].revents & POLLIN)) {
			if (!io_all(peer, &m, sizeof(m), false) || m.what != PEER_PAGES || m.len > CHUNK || !io_all(peer, chunk, m.len, false))
				return gw_fail(&re->why, -EPIPE, "the source is gone while pages are missing");
			rc = ct_fetch_fill(f, chunk, m.len, &re->why);
		}
		ct_fetch_measure(f, &re->stats.fetch);
		if (p[1].revents && re->stats.fetch.faults > 20) /* and some wait */
			gw_fault("test.fetching");
		while (rc == 0 && (n = ct_fetch_wants(f, wants, GW_ARRAY_LEN(wants))) > 0)
			rc = peer_say(peer, PEER_WANT, 0, wants, n * sizeof(wants[0]));
	}
	return rc;
}

static int says_no(void *ctx, struct gw_error *why)
{
	++*(int *)ctx;
	return gw_fail(why, -ECANCELED, "no");
}

/* Frozen and let go, what is said meanwhile is for one freeze, whatever comes of it. */
static int daemon_refuse(struct ct_rank *r, struct reply *re)
{
	int said = 0, rc;

	ct_rank_when_still(r, says_no, &said);
	rc = ct_rank_freeze(r, 5000, &re->stats.freeze, NULL);
	if (rc != -ECANCELED || said != 1)
		return gw_fail(&re->why, -EPROTO, "it was told %d times that the rank stands, and a refusal made %d of it", said, rc);
	rc = ct_rank_freeze(r, 5000, &re->stats.freeze, &re->why);
	if (rc < 0)
		return rc;
	ct_rank_when_still(r, says_no, &said);
	rc = ct_rank_freeze(r, 5000, &re->stats.freeze, NULL);
	if (rc != -EBUSY || ct_rank_unfreeze(r, &re->why) < 0)
		return gw_fail(&re->why, -EPROTO, "what stands was stopped once more: %d", rc);
	rc = ct_rank_freeze(r, 5000, &re->stats.freeze, &re->why);
	return rc == 0 ? ct_rank_unfreeze(r, &re->why) : rc;
}

struct head { int peer; struct reply *re; };

static int head_give(void *ctx, const void *bytes, size_t len, struct gw_error *why)
{
	struct head *h = ctx;

	h->re->stats.image_bytes += len;
	return peer_say(h->peer, PEER_IMAGE, 0, bytes, len) < 0 ? gw_fail(why, -EPIPE, "the peer is gone") : 0;
}

static int daemon_give(struct ct_rank **rank, int peer, const struct cmd *c, struct reply *re)
{
	struct ct_rank *r = *rank;
	struct head head = { peer, re };
	struct ct_needs needs = { 0 };
	struct peer_msg m;
	uint64_t t0 = gw_now_ns();
	const void *bytes;
	ssize_t n;
	int rc;

	ct_rank_follow_from(r, c->rounds || c->post ? 1 : 0);
	ct_rank_leave_pages(r, c->post > 0);
	ct_rank_way(r, c->is_far ? CT_WAY_FAR : CT_WAY_NEAR);
	rc = ct_rank_check(r, &needs, &re->why);
	re->stats.check_ns = gw_now_ns() - t0;
	if (rc < 0) {
		peer_say(peer, PEER_NOT, rc, NULL, 0);
		return rc;
	}
	if (peer_say(peer, PEER_NEEDS, 0, &needs, sizeof(needs)) < 0 || !io_all(peer, needs.blob, needs.blob_len, true))
		rc = -EPIPE;
	ct_needs_fini(&needs);
	if (rc < 0 || !io_all(peer, &m, sizeof(m), false))
		return gw_fail(&re->why, -EPIPE, "the peer is gone before the freeze");
	if (m.rc < 0) {
		if (!io_all(peer, &re->why, sizeof(re->why), false))
			return -EPIPE;
		return m.rc;
	}
	rc = c->rounds ? give_rounds(r, peer, c->rounds, re) : 0;
	re->stats.rounds_bytes = re->stats.image_bytes;
	ct_rank_when_known(r, head_give, &head);
	if (rc == 0)
		rc = ct_rank_freeze(r, 5000, &re->stats.freeze, &re->why);
	if (rc < 0) {
		peer_say(peer, PEER_NOT, rc, NULL, 0);
		return rc;
	}
	t0 = gw_now_ns();
	n = give_image(r, peer, re);
	re->stats.transfer_ns = gw_now_ns() - t0;
	gw_fault("test.sent");
	re->stats.rest_len = ct_rank_stream_rest(r, CT_PLUMB_STDOUT, &bytes);
	if (n < 0 || peer_say(peer, PEER_READY, 0, bytes, (uint64_t)re->stats.rest_len) < 0 ||
	    !io_all(peer, &m, sizeof(m), false) || m.rc < 0) {
		if (n >= 0 && m.rc < 0)
			io_all(peer, &re->why, sizeof(re->why), false);
		ct_rank_unfreeze(r, NULL);
		return re->why.code ? re->why.code : gw_fail(&re->why, -EPIPE, "the peer is gone before ready");
	}
	peer_say(peer, PEER_GIVEN, 0, NULL, 0);
	gw_fault("test.given");
	if (!io_all(peer, &m, sizeof(m), false))
		return gw_fail(&re->why, -EPIPE, "the peer is gone after given");
	re->stats.left_bytes = ct_rank_left_bytes(r);
	if (re->stats.left_bytes) {
		rc = serve(r, peer, c->post, re);
		peer_say(peer, PEER_FETCHED, 0, NULL, 0);
	}
	ct_rank_release(r);
	*rank = NULL;
	return rc;
}

static int daemon_take(struct ct_rank **rank, int peer, struct ends *ends, struct reply *re, unsigned char **rest,
                       size_t *rest_len)
{
	struct ct_needs needs;
	struct ct_plumbing p;
	struct ct_rank *r = NULL;
	struct ct_fetch *f;
	struct peer_msg m;
	cpu_set_t cpus;
	uint64_t t0, feed = 0;
	int rc;

	if (!io_all(peer, &m, sizeof(m), false) || m.what != PEER_NEEDS || !io_all(peer, &needs, sizeof(needs), false))
		return -EPIPE;
	needs.blob = malloc(needs.blob_len);
	if (!io_all(peer, needs.blob, needs.blob_len, false))
		return -EPIPE;
	plumb(&p, ends);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	t0 = gw_now_ns();
	rc = ct_shell_create(&r, &needs, &p, &cpus, &re->why);
	re->stats.shell_ns = gw_now_ns() - t0;
	ct_needs_fini(&needs);
	unplumb(&p);
	peer_say(peer, PEER_SHELL, rc, &re->why, rc < 0 ? sizeof(re->why) : 0);
	if (rc < 0) {
		close_ends(ends);
		return rc;
	}
	for (;;) {
		if (!io_all(peer, &m, sizeof(m), false) || m.what == PEER_NOT)
			goto gone;
		if (m.what == PEER_READY)
			break;
		if (!io_all(peer, chunk, m.len, false))
			goto gone;
		t0 = gw_now_ns();
		if (rc == 0)
			rc = ct_shell_feed(r, chunk, m.len, &re->why);
		feed += gw_now_ns() - t0;
	}
	*rest = malloc(m.len + 1);
	*rest_len = m.len;
	if (m.len && !io_all(peer, *rest, m.len, false))
		goto gone;
	t0 = gw_now_ns();
	if (rc == 0)
		rc = ct_shell_ready(r, &re->why);
	re->stats.ready_ns = gw_now_ns() - t0;
	re->stats.feed_ns = feed;
	peer_say(peer, PEER_READY, rc, &re->why, rc < 0 ? sizeof(re->why) : 0);
	if (rc < 0)
		goto drop;
	if (!io_all(peer, &m, sizeof(m), false) || m.what != PEER_GIVEN)
		goto gone;
	gw_fault("test.taken");
	rc = ct_rank_thaw(r, &re->stats.thaw, &re->why);
	if (rc < 0)
		goto drop;
	ct_rank_tidy(r);
	*rank = r;
	peer_say(peer, PEER_TAKEN, 0, NULL, 0);
	if ((f = ct_rank_take_fetch(r))) {
		t0 = gw_now_ns();
		rc = fetch(f, peer, re);
		re->stats.fetch_ns = gw_now_ns() - t0;
		ct_fetch_measure(f, &re->stats.fetch);
		if (rc < 0) {
			ct_rank_kill(r);
			*rank = NULL;
		}
		ct_fetch_end(f);
		peer_say(peer, PEER_FETCHED, 0, NULL, 0);
		while (io_all(peer, &m, sizeof(m), false) && m.what != PEER_FETCHED) /* what is on its way is of no use any more */
			io_all(peer, chunk, m.len, false);
	}
	return rc;
gone:
	rc = gw_fail(&re->why, -EPIPE, "the source is gone or gave up");
drop:
	ct_rank_kill(r);
	close_ends(ends);
	return rc;
}

__attribute__((noreturn)) static void daemon_main(int ctl, int peer, const char *fault)
{
	struct ct_rank *rank = NULL;
	static struct reply re;
	struct cmd c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 1);
	if (fault)
		setenv("GODWIT_FAULT", fault, 1);
	chunk = malloc(CHUNK);
	memset(chunk, 1, CHUNK);
	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		struct ends ends = { -1, -1, -1, -1 };
		unsigned char *rest = NULL;
		size_t rest_len = 0;
		struct ct_needs needs;
		int fds[4], n = 0;

		if (recv(ctl, &c, sizeof(c), 0) != (ssize_t)sizeof(c))
			_exit(0);
		memset(&re, 0, sizeof(re));
		switch (c.op) {
		case CMD_SPAWN: {
			char *argv[8] = { 0 }, *envp[] = { "PATH=/usr/bin:/bin", "HELLO=world", NULL };
			struct ct_spawn s = { .argv = argv, .envp = envp, .ns_pid = c.ns_pid, .cwd = c.cwd[0] ? c.cwd : "/tmp" };

			for (int i = 0; i < c.argc; i++)
				argv[i] = c.argv[i];
			plumb(&s.plumbing, &ends);
			re.rc = ct_rank_spawn(&rank, &s, &re.why);
			unplumb(&s.plumbing);
			if (re.rc < 0)
				close_ends(&ends);
			break;
		}
		case CMD_GIVE:
			if (c.n == 2) {
				re.rc = daemon_refuse(rank, &re);
			} else if (c.n) {
				re.rc = ct_rank_freeze(rank, 5000, &re.stats.freeze, &re.why);
				if (re.rc == 0)
					re.rc = ct_rank_unfreeze(rank, &re.why);
			} else {
				re.rc = daemon_give(&rank, peer, &c, &re);
			}
			break;
		case CMD_TAKE:
			re.rc = daemon_take(&rank, peer, &ends, &re, &rest, &rest_len);
			break;
		case CMD_REAP: {
			struct pollfd p = { .fd = rank ? ct_rank_status_fd(rank) : -1, .events = POLLIN };

			re.rc = !rank ? -ECHILD : poll(&p, 1, 20000) == 1 ? ct_rank_reap(rank, &re.status) : -ETIMEDOUT;
			if (re.rc == 0) {
				ct_rank_kill(rank);
				rank = NULL;
			}
			break;
		}
		case CMD_KILL:
			ct_rank_kill(rank);
			rank = NULL;
			break;
		case CMD_SIGNAL:
			re.rc = ct_rank_signal(rank, c.n);
			break;
		case CMD_CHECK:
			re.rc = ct_rank_check(rank, &needs, &re.why);
			if (re.rc == 0)
				ct_needs_fini(&needs);
			break;
		case CMD_FOLLOW: /* after a check: begun, and ended */
			re.rc = ct_follow_begin(rank, &re.why);
			ct_follow_end(rank);
			break;
		case CMD_QUIT:
			_exit(0);
		}
		if (rank) {
			re.pid = ct_rank_pid(rank);
			re.init_pid = ct_rank_init_pid(rank);
		}
		re.stats.rest_len = (ssize_t)rest_len;
		if (ends.in >= 0) {
			memcpy(fds, &ends, sizeof(fds));
			n = 4;
		}
		send_fds(ctl, &re, sizeof(re), fds, (size_t)n);
		if (rest_len) /* the caller reads it from the control socket next, in pieces */
			for (size_t at = 0; at < rest_len; at += 32768)
				send(ctl, rest + at, rest_len - at < 32768 ? rest_len - at : 32768, MSG_NOSIGNAL);
		free(rest);
		close_ends(&ends);
	}
}

/* ---- the controller -------------------------------------------------------------------------------------------- */

static void peer_pair(int sv[2], bool is_tcp)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(a);
	int l, one = 1;

	if (!is_tcp) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
			abort();
		return;
	}
	l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	sv[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(l, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(l, 1) < 0 || getsockname(l, (struct sockaddr *)&a, &len) < 0 ||
	    connect(sv[0], (struct sockaddr *)&a, len) < 0 || (sv[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC)) < 0)
		abort();
	close(l);
	setsockopt(sv[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(sv[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void pair_start(struct pair *p, const char *fault0, const char *fault1, bool is_tcp)
{
	int peer[2], c[2][2];

	memset(p, 0, sizeof(*p));
	p->ends = (struct ends){ -1, -1, -1, -1 };
	p->old_out = -1;
	peer_pair(peer, is_tcp);
	for (int i = 0; i < 2; i++)
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c[i]) < 0)
			abort();
	fflush(stdout);
	for (int i = 0; i < 2; i++) {
		p->pid[i] = fork();
		if (p->pid[i] == 0) {
			close(c[0][0]);
			close(c[1][0]);
			close(c[!i][1]);
			close(peer[!i]);
			signal(SIGALRM, SIG_DFL);
			daemon_main(c[i][1], peer[i], i ? fault1 : fault0);
		}
	}
	for (int i = 0; i < 2; i++) {
		close(c[i][1]);
		close(peer[i]);
		p->ctl[i] = c[i][0];
	}
}

static void pair_stop(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		int status;

		close(p->ctl[i]);
		kill(p->pid[i], SIGKILL);
		waitpid(p->pid[i], &status, 0);
	}
	close_ends(&p->ends);
	if (p->old_out >= 0)
		close(p->old_out);
}

static int pair_reply(struct pair *p, int which)
{
	int fds[4] = { -1, -1, -1, -1 };

	if (recv_fds(p->ctl[which], &p->last, sizeof(p->last), fds, 4) < 0) {
		memset(&p->last, 0, sizeof(p->last));
		return p->last.rc = -EPIPE;
	}
	if (fds[0] >= 0) {
		if (p->old_out >= 0)
			close(p->old_out);
		p->old_out = p->ends.out;
		p->ends.out = -1;
		close_ends(&p->ends);
		memcpy(&p->ends, fds, sizeof(fds));
	}
	return p->last.rc;
}

__attribute__((unused)) static int pair_do(struct pair *p, int which, struct cmd *c)
{
	if (send(p->ctl[which], c, sizeof(*c), MSG_NOSIGNAL) < 0)
		return p->last.rc = -EPIPE;
	return pair_reply(p, which);
}

__attribute__((unused)) static int pair_op(struct pair *p, int which, enum cmd_op op, int n)
{
	struct cmd c = { .op = op, .n = n };

	return pair_do(p, which, &c);
}

__attribute__((unused)) static int pair_spawn(struct pair *p, pid_t ns_pid, const char *a0, ...)
{
	struct cmd c = { .op = CMD_SPAWN, .ns_pid = ns_pid };
	va_list ap;

	va_start(ap, a0);
	for (const char *a = a0; a; a = va_arg(ap, const char *))
		snprintf(c.argv[c.argc++], sizeof(c.argv[0]), "%s", a);
	va_end(ap);
	p->at = 0;
	return pair_do(p, 0, &c);
}

/* move the rank to the other daemon. Both statistics end in p->last; the ends change when it worked. */
__attribute__((unused)) static int pair_move(struct pair *p)
{
	struct cmd take = { .op = CMD_TAKE };
	struct cmd give = { .op = CMD_GIVE, .rounds = p->rounds, .post = p->post, .is_far = p->is_far };
	struct reply source;
	int rc;

	send(p->ctl[!p->at], &take, sizeof(take), MSG_NOSIGNAL);
	send(p->ctl[p->at], &give, sizeof(give), MSG_NOSIGNAL);
	rc = pair_reply(p, p->at);
	source = p->last;
	pair_reply(p, !p->at);
	if (p->last.rc == 0) {
		struct move_stats *s = &p->last.stats;

		s->freeze = source.stats.freeze;
		s->image_bytes = source.stats.image_bytes;
		s->transfer_ns = source.stats.transfer_ns;
		s->check_ns = source.stats.check_ns;
		s->read_ns = source.stats.read_ns;
		s->left_bytes = source.stats.left_bytes;
		p->at = !p->at;
	} else if (rc < 0) {
		p->last.why = source.why.code ? source.why : p->last.why;
	}
	return rc < 0 ? rc : p->last.rc;
}

/* one line from the rank, with a deadline; from @fd */
__attribute__((unused)) static bool line_from(int fd, char *line, size_t cap, int timeout_ms)
{
	size_t n = 0;

	while (n < cap - 1) {
		struct pollfd f = { .fd = fd, .events = POLLIN };

		if (poll(&f, 1, timeout_ms) != 1 || read(fd, line + n, 1) != 1) {
			line[n] = '\0';
			return false;
		}
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = '\0';
	return true;
}

__attribute__((unused)) static bool rank_says(struct pair *p, char *line, size_t cap)
{
	return line_from(p->ends.out, line, cap, 20000);
}

/* send a line, expect "ok <line>" */
__attribute__((unused)) static bool rank_obeys(struct pair *p, const char *word, char *answer, size_t cap)
{
	char text[128];

	snprintf(text, sizeof(text), "%s\n", word);
	return write(p->ends.in, text, strlen(text)) == (ssize_t)strlen(text) && rank_says(p, answer, cap);
}

#endif
