/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent's bell: how a process on the same host wakes the agent of one whose program computes.
 *
 * The program's own doorbell is a futex, for a program that waits in MPI. An agent waits for descriptors, so its bell is one:
 * a datagram socket with a name that the kernel chooses, told to others in the inbox. A datagram says nothing and promises
 * nothing: whoever is rung looks into its inbox, and who needs an answer rings again. The socket is of this host: opened at
 * attach, closed at detach.
 */
#include "noc/local.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The kernel's names are a NUL and five digits (unix(7), autobind). */
#define BELL_NAME 5

static socklen_t bell_address(struct sockaddr_un *a, uint64_t name)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(a->sun_path + 1, &name, BELL_NAME);
	return offsetof(struct sockaddr_un, sun_path) + 1 + BELL_NAME;
}

void noc_bell_open(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(a);
	uint64_t name = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && fd <= 2) { /* the program's standard streams are not all open: those numbers are theirs (rule 13) */
		int high = fcntl(fd, F_DUPFD_CLOEXEC, 3);

		close(fd);
		fd = high;
	}
	if (fd < 0)
		return; /* nobody can ring: operations on a program that computes wait for it */
	if (bind(fd, (struct sockaddr *)&a, sizeof(a.sun_family)) || getsockname(fd, (struct sockaddr *)&a, &len) ||
	    len != offsetof(struct sockaddr_un, sun_path) + 1 + BELL_NAME) {
		close(fd);
		return;
	}
	memcpy(&name, a.sun_path + 1, BELL_NAME);
	noc_me->bell = fd;
	for (size_t i = 0; i < NOC_NET_FDS; i++) {
		if (!noc_me->listening.fds[i]) {
			noc_me->listening.fds[i] = (int16_t)fd; /* it does not hold the rank */
			break;
		}
	}
	atomic_store_explicit(&noc_me->inbox->bell_name, name, memory_order_release);
}

void noc_bell_close(void)
{
	atomic_store_explicit(&noc_me->inbox->bell_name, 0, memory_order_relaxed);
	if (noc_me->bell)
		close(noc_me->bell);
	noc_me->bell = 0;
}

void noc_bell_ring(uint32_t proc)
{
	uint64_t name = atomic_load_explicit(&noc_inbox_at(&noc_me->seg, proc)->bell_name, memory_order_acquire);
	struct sockaddr_un a;
	socklen_t len;

	if (!name || !noc_me->bell || proc == noc_me->proc)
		return;
	len = bell_address(&a, name);
	sendto(noc_me->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&a, len);
	noc_me->counters.rings++;
}

bool noc_bell_heard(void)
{
	struct noc_member *m = noc_me;
	uint64_t word;
	char byte;

	if (!m->bell)
		return false;
	while (recv(m->bell, &byte, 1, MSG_DONTWAIT) >= 0)
		;
	/* Without the gate: the program may be reading its inbox at this moment. Then there is nothing for us to do, and if we
	 * think there is, we find nothing. */
	return noc_inbox_peek(m->inbox, __atomic_load_n(&m->head, __ATOMIC_RELAXED), &word) != NULL;
}
