/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/ctl.h: the bytes between a rank's agent thread and the clusterd that rules it.
 *
 * Carried by an AF_UNIX SOCK_SEQPACKET pair that clusterd makes at spawn; one struct per packet. The rank's end has the
 * descriptor number that GODWIT_CTL_FD names and is one of the container's plumbed descriptors: at a move the
 * destination puts a new pair under the same number, so the agent simply goes on receiving.
 *
 *   rank                          clusterd
 *    | HELLO ----------------------> |   domain opens; the agent runs
 *    | <--------------- ATTACH (fd) |   the host segment; the rank maps it and opens its inbox
 *    | ATTACHED -------------------> |   'here' may be published
 *    |            ...                |
 *    | <-------------------- QUIESCE |   close the gate, close and drain the inbox, unmap
 *    | QUIET ----------------------> |   or BUSY with a reason: everything is as before
 *    |     (freeze, image, thaw)     |
 *    | <--------------- ATTACH (fd) |   by the destination, or by the source after an abort
 *    | ATTACHED -------------------> |   the gate is open
 *    |            ...                |
 *    | CLOSING --------------------> |   the domain is about to close (MPI_Finalize): requests to move wait
 *    | CLOSED ---------------------> |   no domain: moves without QUIESCE
 *
 *    | <--------------- TRAFFIC (fd) |   at any time while attached: write there what the program has sent to whom
 *    | TRAFFIC --------------------> |   so many struct ct_ctl_traffic are in it (doing)
 *
 *    | WISH -----------------------> |   while attached: the program asks for something (container/wish.h)
 *    | <--------------------- WISHED |   what has become of it. After each ATTACH the agent asks again what is not answered
 *    | <--------------------- MOMENT |   a move of this rank waits for a moment that its program calls good
 *
 * NUDGE from the rank is answered by NUDGE: the way for a program thread to wake its own agent without a descriptor
 * more.
 */
#ifndef CT_CTL_H
#define CT_CTL_H

#include <stdint.h>

#define CT_CTL_MAGIC   0x6c746377u /* "wctl" */
#define CT_CTL_VERSION 4

enum ct_ctl_op { /* written numbers: never reused */
	CT_CTL_HELLO    = 1,
	CT_CTL_ATTACHED = 2,
	CT_CTL_QUIET    = 3,
	CT_CTL_BUSY     = 4,
	CT_CTL_CLOSING  = 5,
	CT_CTL_CLOSED   = 6,
	CT_CTL_NUDGE    = 7,
	CT_CTL_WISH     = 8,
	CT_CTL_ATTACH   = 16,
	CT_CTL_QUIESCE  = 17,
	CT_CTL_TRAFFIC  = 18,
	CT_CTL_WISHED   = 19,
	CT_CTL_MOMENT   = 20,
};

/* Sessions of QUIESCE and ATTACH that are no moves, which count from 1. Written numbers. */
#define CT_SESSION_NETWORK UINT32_MAX       /* the job gets a network */
#define CT_SESSION_REST    (UINT32_MAX - 1) /* it is suspended, or written down */
#define CT_SESSION_RESTART (UINT32_MAX - 2) /* ATTACH only: it goes on from there */

enum ct_wish { /* written numbers */
	CT_WISH_MOVE   = 1, /* to where text says: a cluster's number, a host's name; empty: anywhere better */
	CT_WISH_PIN    = 2,
	CT_WISH_UNPIN  = 3,
	CT_WISH_MOMENT = 4, /* this is a good moment: answered when the move that waited for it is over */
	CT_WISH_MEET   = 5, /* text: "JOB PROCESS", of another job: answered when ranks can talk to it (noc/guests.c) */
};

/* Where the network of this job is, for jobs with several hosts. */
struct ct_ctl_net {
	uint32_t host;        /* ATTACH: number of this host */
	uint32_t address[7];  /* ATTACH: to listen at, port 0, or zeroes. ATTACHED: where it listens. struct noc_address */
	uint8_t secret[32];   /* ATTACH: of the job */
	int16_t fds[16];      /* ATTACHED: descriptors that detach closes: of the network, the bell; 0: none */
};

struct ct_ctl_msg {
	uint32_t magic;
	uint16_t version, op;
	uint32_t session;     /* QUIESCE, QUIET, BUSY, ATTACH, ATTACHED: of the move; 0 at start. WISH, WISHED: number of the wish */
	int32_t  status;      /* negative errno in BUSY and WISHED, and in ATTACHED when attaching failed */
	union {
		uint64_t deadline_ms; /* QUIESCE, WISH: give up after this long */
		uint64_t told_at;     /* ATTACHED: the address of its struct ct_told, which stays */
	};
	uint32_t cluster;     /* ATTACH: index of the cluster where the rank lives now */
	uint32_t doing;       /* TRAFFIC: number of entries. WISH: enum ct_wish. QUIET: enum ct_doing, what the program was caught doing; CT_DOING_ASLEEP */
	uint64_t incarnation; /* ATTACHED: of the inbox */
	union {
		uint64_t close_ns;   /* QUIET: time from QUIESCE to the gate being closed and empty */
		uint64_t traffic_at; /* ATTACHED: the address of its struct ct_traffic, which stays */
	};
	uint64_t detach_ns;   /* QUIET: time from there to detached. ATTACHED: time from ATTACH to the gate open */
	union {
		char text[200];         /* BUSY, WISHED, failed ATTACHED: one sentence; WISH: where to. NUL terminated */
		struct ct_ctl_net net;  /* ATTACH, ATTACHED */
	};
};
_Static_assert(sizeof(struct ct_ctl_msg) == 256, "wire format");

struct ct_traffic { /* in the rank's user area; read by clusterd while the rank runs */
	uint64_t sent_bytes, received_bytes; /* of messages, since its domain was opened; only ever more */
};

struct ct_told { /* in the rank's library data: what its program has said of itself; read by clusterd while the rank runs */
	int64_t load_micro; /* millionths of a processor that it needs; -1: not said, it is measured */
	uint64_t moments;   /* good moments so far; 0: it names none */
};

struct ct_ctl_traffic { /* little endian; since the rank began */
	uint32_t peer, reserved;
	uint64_t messages, bytes;
};
_Static_assert(sizeof(struct ct_ctl_traffic) == 24, "wire format");

/* What a rank was doing when its gate was closed; counted by the tests. Written numbers. */
enum ct_doing {
	CT_DOING_COMPUTE    = 0, /* outside the provider */
	CT_DOING_SEND       = 1, /* in a send, or polling after it */
	CT_DOING_RECV       = 2, /* in a receive, or polling after it */
	CT_DOING_WAIT       = 3, /* polling, and something has completed since the last operation was begun */
	CT_DOING_PROBE      = 4,
	CT_DOING_COLLECTIVE = 5, /* context bits of the last operation name a collective */
	CT_DOING_COUNT      = 6
};
#define CT_DOING_ASLEEP 0x10u /* added in QUIET: and asleep on its doorbell meanwhile */

#endif
