/* SPDX-License-Identifier: BSD-2-Clause */
/* The agent thread: what answers clusterd on behalf of a rank, whatever its program does; see agent.h. */
#include "container/agent.h"
#include "container/wish.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define AGENT_STACK (128 * 1024)
#define IDLE_MS 1000 /* how often an idle agent looks whether it is the last thread */

static struct {
	int ctl;                       /* the control socket's number: the same on every cluster */
	const struct ct_agent_ops *ops;
	pthread_t thread;
	_Atomic uint32_t is_stopping;  /* program thread writes, agent reads */
	int turn_ms;                   /* until the next turn; -1: none wanted */
	int look_ms;                   /* until the next look whether the program is still in MPI */
	uint32_t turn_entries;         /* gate entries at the last turn */
	int fds[CT_AGENT_FDS], n_fds;  /* of the network, cluster side */
	bool has_net;
	bool is_watching;              /* they are waited on: the program is not in MPI */
} agent = { .ctl = -1 }; /* process-wide: one agent per rank; the data moves with the rank */

static int ctl_send(const struct ct_ctl_msg *m)
{
	ssize_t n;

	do
		n = send(agent.ctl, m, sizeof(*m), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static struct ct_ctl_msg ctl_msg(enum ct_ctl_op op, uint32_t session)
{
	return (struct ct_ctl_msg){ .magic = CT_CTL_MAGIC, .version = CT_CTL_VERSION, .op = (uint16_t)op, .session = session };
}

/* A descriptor that is ours for a moment must not sit where the program's standard streams were (rule 13). */
static int fd_above_standard(int fd)
{
	int high;

	if (fd < 0 || fd > 2)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	close(fd);
	return high;
}

/* One packet; *fd receives a descriptor that came along, or -1. Return 0, -EAGAIN (flags MSG_DONTWAIT), -EPIPE at the
 * end of clusterd, -EPROTO for what is no control message. */
static int ctl_recv(struct ct_ctl_msg *m, int *fd, int flags)
{
	union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
	struct iovec iov = { .iov_base = m, .iov_len = sizeof(*m) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
	struct cmsghdr *c;
	ssize_t n;

	*fd = -1;
	do
		n = recvmsg(agent.ctl, &h, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? -EAGAIN : -errno;
	if (n == 0)
		return -EPIPE;
	c = CMSG_FIRSTHDR(&h);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int))) {
		memcpy(fd, CMSG_DATA(c), sizeof(int));
		*fd = fd_above_standard(*fd);
	}
	if (n != sizeof(*m) || m->magic != CT_CTL_MAGIC || m->version != CT_CTL_VERSION) {
		if (*fd >= 0)
			close(*fd);
		return -EPROTO;
	}
	return 0;
}

/* Attach by the word of an ATTACH message and answer it. The job's secret in @m is wiped: stacks are part of an image. */
static int agent_attach(struct ct_ctl_msg *m, int segment_fd, struct gw_error *why)
{
	struct ct_ctl_msg answer = ctl_msg(CT_CTL_ATTACHED, m->session);
	uint64_t start = gw_now_ns();
	int rc;

	if (segment_fd < 0)
		rc = gw_fail(why, -EPROTO, "ATTACH came without the host segment");
	else if (m->session && gw_fault("ct.agent.attach") != GW_FAULT_NONE)
		rc = gw_fail(why, -ENOMEM, "a test wants it so");
	else
		rc = agent.ops->attach(segment_fd, m, &answer, why);
	if (rc) {
		answer.status = rc;
		snprintf(answer.text, sizeof(answer.text), "%.*s", (int)sizeof(answer.text) - 1, why->text);
	} else {
		static const uint32_t nowhere[GW_ARRAY_LEN(m->net.address)];

		agent.has_net = memcmp(m->net.address, nowhere, sizeof(nowhere)) != 0;
		if (agent.has_net)
			agent.turn_ms = 0; /* it will want to watch */
		ct_wish_attached(m, &answer);
		ct_gate_open();
	}
	explicit_bzero(m->net.secret, sizeof(m->net.secret));
	answer.detach_ns = gw_now_ns() - start;
	ctl_send(&answer);
	if (rc == 0)
		ct_wish_again();
	return rc;
}

/* Asked for by whoever balances, once in seconds: the gate stays open, since counters that are a message old do as well. */
static void agent_tell_traffic(int fd)
{
	struct ct_ctl_msg answer = ctl_msg(CT_CTL_TRAFFIC, 0);
	int n = agent.ops->traffic ? agent.ops->traffic(fd) : 0;

	answer.status = n < 0 ? n : 0;
	answer.doing = n < 0 ? 0 : (uint32_t)n;
	ctl_send(&answer);
}

/* Own the gate, detach, say QUIET, and wait for ATTACH from whoever rules us then. */
static void agent_quiesce(const struct ct_ctl_msg *request)
{
	struct ct_gate *g = &ct_the_gate;
	struct ct_ctl_msg answer = ctl_msg(CT_CTL_QUIET, request->session);
	uint64_t asked = gw_now_ns(), start, spent_ms;
	struct gw_error why = { 0 };
	uint32_t entries;
	bool was_asleep;
	int rc, fd;

	rc = ct_wish_before(request->session, &why);
	if (rc == 0 && gw_now_ns() - asked > request->deadline_ms * 1000000)
		rc = gw_fail(&why, -ETIMEDOUT, "the hook that its program has set for moves took more than %llu ms",
		             (unsigned long long)request->deadline_ms);
	if (rc)
		goto busy;
	start = gw_now_ns();
	entries = atomic_load_explicit(&g->entries, memory_order_relaxed);
	was_asleep = atomic_load_explicit(&g->sleepers, memory_order_acquire) > 0;
	rc = ct_gate_close(request->deadline_ms);
	if (rc) {
		gw_fail(&why, rc, "a thread stayed inside a communication call for %llu ms",
		        (unsigned long long)request->deadline_ms);
		goto busy;
	}
	answer.close_ns = gw_now_ns() - start;
	/* a program that polls has come to the closed gate while membarrier ran; one that computes has not */
	answer.doing = was_asleep || atomic_load_explicit(&g->entries, memory_order_relaxed) != entries ?
	               atomic_load_explicit(&g->doing, memory_order_relaxed) : CT_DOING_COMPUTE;
	if (was_asleep)
		answer.doing |= CT_DOING_ASLEEP;
	agent.ops->wake_sleepers();
	spent_ms = (gw_now_ns() - asked) / 1000000; /* one deadline for all: the session at the daemon has no more either */
	rc = agent.ops->detach(spent_ms < request->deadline_ms ? request->deadline_ms - spent_ms : 0, &why);
	if (rc) {
		ct_gate_open();
		goto busy;
	}
	agent.is_watching = false; /* they are closed */
	agent.n_fds = 0;
	answer.detach_ns = gw_now_ns() - start - answer.close_ns;
	if (ctl_send(&answer))
		return; /* clusterd is gone, and so shall we be: init has a death signal */
	for (;;) {
		struct ct_ctl_msg m;

		/* the freeze, the image and the thaw happen while we wait here */
		rc = ctl_recv(&m, &fd, 0);
		if (rc == -EPROTO)
			continue;
		if (rc)
			return;
		if (m.op == CT_CTL_ATTACH && agent_attach(&m, fd, &why) == 0) {
			close(fd);
			gw_prompt_set(0, true); /* a move forgets it */
			agent.turn_ms = 0; /* peers may have waited for us */
			ct_wish_after(m.session);
			return;
		}
		if (fd >= 0)
			close(fd);
	}
busy:
	answer = ctl_msg(CT_CTL_BUSY, request->session);
	answer.status = rc;
	snprintf(answer.text, sizeof(answer.text), "%.*s", (int)sizeof(answer.text) - 1, why.text);
	ctl_send(&answer);
	ct_wish_after(request->session);
}

/* The program may leave by pthread_exit() in main(): then nobody else will end the process (rule 13). */
static bool agent_is_last_thread(void)
{
	struct stat st;

	return stat("/proc/self/task", &st) == 0 && st.st_nlink == 3;
}

/*
 * The network wakes the agent only while the program is not in MPI; while it is, it reads its own messages, and the agent
 * looks now and then whether it still does. Each look takes the core from the program for some twenty microseconds, and on
 * a busy host until all others there have had their turn. So they become rarer, as long as they find the program inside:
 * one that spins in MPI nearly always is, one that only drops in between two computations is not.
 */
#define LOOK_MIN_MS 2
#define LOOK_MAX_MS 16

static int look_ms_next(bool is_inside)
{
	int ms = is_inside ? agent.look_ms * 2 : agent.look_ms / 2;

	return ms < LOOK_MIN_MS ? LOOK_MIN_MS : ms > LOOK_MAX_MS ? LOOK_MAX_MS : ms;
}

static void agent_take_turn(void)
{
	int n = 0;

	if (ct_gate_close(1000) == 0) {
		agent.turn_ms = agent.ops->turn();
		if (atomic_load_explicit(&ct_the_gate.sleepers, memory_order_acquire) && agent.ops->ring)
			agent.ops->ring(); /* what came in this turn may be what it waits for */
		if (agent.ops->fds)
			n = agent.ops->fds(agent.fds);
		ct_gate_open();
		if (n < 0)
			agent.turn_ms = 0;
		else
			agent.n_fds = n;
		agent.is_watching = n > 0;
	}
}

static void agent_turn(void)
{
	uint32_t entries = atomic_load_explicit(&ct_the_gate.entries, memory_order_relaxed);
	bool is_inside = atomic_load_explicit(&ct_the_gate.is_inside, memory_order_relaxed);

	agent.is_watching = false;
	/* It is in MPI by itself and pushes its own messages. Inside since the last look: it has no core, and the gate could
	 * only be waited for. */
	if (entries != agent.turn_entries || is_inside) {
		agent.turn_entries = entries;
		agent.look_ms = look_ms_next(is_inside);
		agent.turn_ms = agent.has_net ? agent.look_ms : 1;
		return;
	}
	agent.look_ms = LOOK_MIN_MS;
	agent_take_turn();
}

/* Somebody on this host waits for an answer, and rings again if this was in vain. A program that is in MPI answers by itself. */
static void agent_rung(void)
{
	uint32_t entries = atomic_load_explicit(&ct_the_gate.entries, memory_order_relaxed);

	if (!agent.ops->heard())
		return;
	for (int i = 0; i < 16; i++)
		__builtin_ia32_pause();
	if (entries == atomic_load_explicit(&ct_the_gate.entries, memory_order_relaxed) &&
	    !atomic_load_explicit(&ct_the_gate.is_inside, memory_order_relaxed))
		agent_take_turn();
}

static void *agent_main(void *arg)
{
	(void)arg;
	prctl(PR_SET_NAME, "godwit-agent");
	gw_prompt_set(0, true);
	while (!atomic_load_explicit(&agent.is_stopping, memory_order_acquire)) {
		struct pollfd p[2 + CT_AGENT_FDS] = { { .fd = agent.ctl, .events = POLLIN },
		                                      { .fd = agent.ops->bell ? agent.ops->bell() : -1, .events = POLLIN } };
		struct ct_ctl_msg m;
		bool is_net = false;
		nfds_t n_fds = 2;
		int fd, rc, n;

		for (int i = 0; agent.is_watching && i < agent.n_fds; i++)
			p[n_fds++] = (struct pollfd){ .fd = agent.fds[i], .events = POLLIN };
		n = poll(p, n_fds, agent.turn_ms >= 0 ? agent.turn_ms : IDLE_MS);
		for (nfds_t i = 2; n > 0 && i < n_fds; i++)
			is_net |= p[i].revents != 0;
		if (n > 0 && p[1].revents)
			agent_rung();
		if (n > 0 && !p[0].revents && !is_net)
			continue;
		if (n > 0 && !p[0].revents) { /* the network */
			if (atomic_load_explicit(&ct_the_gate.sleepers, memory_order_acquire))
				agent.ops->ring();
			agent_turn();
			continue;
		}
		if (n == 0) {
			if (agent.turn_ms >= 0)
				agent_turn();
			else if (agent_is_last_thread())
				break;
			continue;
		}
		if (n < 0)
			continue; /* EINTR: nothing is expected to interrupt us but a tracer */
		rc = ctl_recv(&m, &fd, MSG_DONTWAIT);
		if (rc == -EAGAIN || rc == -EPROTO)
			continue;
		if (rc)
			break;
		if (m.op == CT_CTL_TRAFFIC && fd >= 0)
			agent_tell_traffic(fd);
		if (fd >= 0 && m.op != CT_CTL_ATTACH)
			close(fd);
		if (m.op == CT_CTL_QUIESCE)
			agent_quiesce(&m);
		else if (m.op == CT_CTL_NUDGE)
			agent.turn_ms = 0;
		else if (m.op == CT_CTL_WISHED || m.op == CT_CTL_MOMENT)
			ct_wish_heard(&m);
		else if (m.op == CT_CTL_ATTACH && fd >= 0)
			close(fd); /* attached already */
	}
	return NULL;
}

static int agent_create_thread(void)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int rc;

	/* the program's signals are for the program's threads; libc keeps its own two out of this set */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AGENT_STACK);
	rc = -pthread_create(&agent.thread, &attr, agent_main, NULL);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

int ct_agent_start(const struct ct_agent_ops *ops, struct gw_error *why)
{
	const char *number = getenv("GODWIT_CTL_FD");
	struct ct_ctl_msg m = ctl_msg(CT_CTL_HELLO, 0);
	int fd, rc, type;
	socklen_t len = sizeof(type);

	if (!number || !*number)
		return gw_fail(why, -ENOENT, "no GODWIT_CTL_FD in the environment: not started by mpirun");
	fd = atoi(number);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_SEQPACKET)
		return gw_fail(why, -ENOENT, "GODWIT_CTL_FD=%s is not the control socket: closed by the program or its shell?", number);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	ct_gate_probe();
	agent.ctl = fd;
	agent.ops = ops;
	agent.turn_ms = -1;
	agent.is_watching = false;
	agent.n_fds = 0;
	atomic_store(&agent.is_stopping, 0);
	rc = ctl_send(&m);
	while (rc == 0) {
		int segment_fd;

		rc = ctl_recv(&m, &segment_fd, 0);
		if (rc)
			break;
		if (m.op == CT_CTL_ATTACH) {
			rc = agent_attach(&m, segment_fd, why);
			if (segment_fd >= 0)
				close(segment_fd);
			if (rc)
				return rc;
			break;
		}
		if (segment_fd >= 0)
			close(segment_fd);
	}
	if (rc)
		return gw_fail(why, rc, "the daemon of this cluster does not answer: %s", strerror(-rc));
	rc = agent_create_thread();
	if (rc)
		return gw_fail(why, rc, "cannot start the agent thread: %s; raise 'ulimit -u'", strerror(-rc));
	ct_wish_open(ctl_send, ct_agent_is_me);
	return 0;
}

void ct_agent_stop(void)
{
	struct ct_ctl_msg m = ctl_msg(CT_CTL_CLOSING, 0);
	struct gw_error why;
	struct timespec t;

	if (agent.ctl < 0)
		return;
	ct_wish_close();
	ctl_send(&m);
	atomic_store_explicit(&agent.is_stopping, 1, memory_order_release);
	/* The agent waits in poll(); NUDGE makes clusterd send it something. A move may swallow one, hence the loop. */
	do {
		ct_agent_nudge();
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 100 * 1000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_sec++;
			t.tv_nsec -= 1000000000;
		}
	} while (pthread_timedjoin_np(agent.thread, NULL, &t) == ETIMEDOUT);
	if (ct_gate_close(10000) == 0) {
		agent.ops->wake_sleepers();
		agent.ops->detach(10000, &why);
		ct_gate_open();
	}
	m = ctl_msg(CT_CTL_CLOSED, 0);
	ctl_send(&m);
	agent.ctl = -1;
}

bool ct_agent_is_me(void)
{
	return agent.ctl >= 0 && pthread_equal(pthread_self(), agent.thread);
}

void ct_agent_nudge(void)
{
	struct ct_ctl_msg m = ctl_msg(CT_CTL_NUDGE, 0);

	if (agent.ctl >= 0)
		send(agent.ctl, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
}
