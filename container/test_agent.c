/* SPDX-License-Identifier: BSD-2-Clause */
/* The agent thread of a rank as clusterd sees it: what it answers to QUIESCE, and within which deadline. */
#include "container/agent.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/tap.h"

#define DEADLINE_MS 60000 /* far more than the test takes: only what is left of it counts */
#define HELD_MS     120

static int daemon_end;
static _Atomic uint64_t detach_ms;
static _Atomic int is_inside;
static bool is_full; /* attaching fails */

static int attach(int segment_fd, const struct ct_ctl_msg *order, struct ct_ctl_msg *answer, struct gw_error *why)
{
	(void)segment_fd; (void)order;
	if (is_full)
		return gw_fail(why, -ENOMEM, "there is no room; make some");
	answer->incarnation = 1;
	return 0;
}

static int detach(uint64_t deadline_ms, struct gw_error *why)
{
	(void)why;
	atomic_store(&detach_ms, deadline_ms);
	return 0;
}

static void wake_sleepers(void)
{
}

static int turn(void)
{
	return -1;
}

static const struct ct_agent_ops ops = { .attach = attach, .detach = detach, .wake_sleepers = wake_sleepers, .turn = turn };

static void say(enum ct_ctl_op op, uint64_t deadline_ms, int fd)
{
	struct ct_ctl_msg m = { .magic = CT_CTL_MAGIC, .version = CT_CTL_VERSION, .op = (uint16_t)op, .session = 7,
	                        .deadline_ms = deadline_ms };
	union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct iovec iov = { &m, sizeof(m) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		h.msg_control = control.buf;
		h.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(daemon_end, &h, 0) != sizeof(m))
		tap_bail("the agent cannot be told anything");
}

/* the next message that is not a NUDGE */
static enum ct_ctl_op hear(void)
{
	struct ct_ctl_msg m;

	do
		if (recv(daemon_end, &m, sizeof(m), 0) != sizeof(m))
			tap_bail("the agent says nothing");
	while (m.op == CT_CTL_NUDGE);
	return (enum ct_ctl_op)m.op;
}

/* A program thread that stays in a communication call for a while after the agent has begun to close the gate. */
static void *program(void *arg)
{
	struct timespec held = { .tv_nsec = HELD_MS * 1000000 };

	ct_gate_enter(CT_DOING_SEND);
	atomic_store(&is_inside, 1);
	while (!atomic_load_explicit(&ct_the_gate.shut, memory_order_acquire))
		sched_yield();
	nanosleep(&held, NULL);
	ct_gate_leave();
	return arg;
}

static void *starter(void *why)
{
	ct_agent_start(&ops, why);
	return NULL;
}

int main(void)
{
	struct gw_error why = { 0 };
	pthread_t t;
	char number[16];
	int sv[2];

	tap_begin(60);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		tap_bail("no socket pair");
	daemon_end = sv[0];
	snprintf(number, sizeof(number), "%d", sv[1]);
	setenv("GODWIT_CTL_FD", number, 1);
	is_full = true;
	pthread_create(&t, NULL, starter, &why);
	is_int(hear(), CT_CTL_HELLO, "an agent that starts says HELLO");
	say(CT_CTL_ATTACH, 0, sv[0]);
	hear();
	pthread_join(t, NULL);
	ok(why.code == -ENOMEM && strcmp(why.text, "there is no room; make some") == 0, "one that cannot attach says what it lacks: "
	   "%s", why.text);
	is_full = false;
	why = (struct gw_error){ 0 };
	pthread_create(&t, NULL, starter, &why);
	is_int(hear(), CT_CTL_HELLO, "another try");
	say(CT_CTL_ATTACH, 0, sv[0]); /* any descriptor: what it is matters to attach() alone */
	is_int(hear(), CT_CTL_ATTACHED, "and ATTACHED when it was given the segment");
	pthread_join(t, NULL);
	is_int(why.code, 0, "it has started");

	pthread_create(&t, NULL, program, NULL);
	while (!atomic_load(&is_inside))
		sched_yield();
	say(CT_CTL_QUIESCE, DEADLINE_MS, -1);
	is_int(hear(), CT_CTL_QUIET, "QUIESCE waits for a thread that is inside, then the agent is QUIET");
	pthread_join(t, NULL);
	ok(atomic_load(&detach_ms) <= DEADLINE_MS - HELD_MS, "closing the gate and detaching share one deadline: %llu ms of %d "
	   "were left to detach after %d", (unsigned long long)atomic_load(&detach_ms), DEADLINE_MS, HELD_MS);
	say(CT_CTL_ATTACH, 0, sv[0]);
	is_int(hear(), CT_CTL_ATTACHED, "attached again");
	return tap_done();
}
