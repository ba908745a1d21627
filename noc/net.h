/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/net.h: the network interface: what carries frames between names that share no memory, and what it tells the
 * channels (path.c). A table of operations, because there are two: connected endpoints of libfabric (fabric.c), and the
 * simulated network of the tests.
 *
 *   a frame on a connection, little endian, version 1:
 *
 *     0      2        3     4     5        8    12    16    24    32    40     48    56      64  68       72
 *     | magic | version | kind | port | pad | src | len_here | seq | ack | tag | data | len | offset | id | peer_id | bytes...
 *
 * A connection joins two names at one incarnation each, and is lost when either detaches. It keeps the order of frames
 * and loses at most a tail of them: what was not acknowledged is sent again by the channel, on whatever path comes next.
 */
#ifndef NOC_NET_H
#define NOC_NET_H

#include <sys/uio.h>

#include "noc/segment.h"

#define NOC_FRAME_MAGIC   0x4e47u /* "GN" */
#define NOC_FRAME_VERSION 1
#define NOC_FRAME_BYTES   65536u  /* at most so many bytes follow a frame's head */
#define NOC_PROOF_BYTES   32u     /* follow a PROOF's */

/* Written numbers; the first four are those of inbox slots as well. */
enum noc_kind { NOC_KIND_EAGER = 1, NOC_KIND_OFFER = 2, NOC_KIND_ACCEPT = 3, NOC_KIND_CHUNK = 4, NOC_KIND_ACK = 5,
                NOC_KIND_FIN = 6, NOC_KIND_RESUME = 7, NOC_KIND_PROOF = 8 };

struct noc_frame {
	uint16_t magic;
	uint8_t version, kind;   /* enum noc_kind */
	uint8_t port, pad[3];
	uint32_t src, len_here;  /* sender's process number; bytes that follow */
	uint64_t seq;            /* of the channel; CHUNK, ACK and PROOF are outside the stream */
	uint64_t ack;            /* the sender of this frame expects this number next */
	uint64_t tag, data;
	uint64_t len, offset;    /* as in struct noc_slot */
	uint32_t id, peer_id;
};
_Static_assert(sizeof(struct noc_frame) == 72, "wire format");

/** noc_frame_parse - check bytes from the network. Pure. Return: 0, or -EPROTO. *payload points into @buf */
int noc_frame_parse(const void *buf, size_t size, struct noc_frame *out, const void **payload);

/* What a member is told about its host when it attaches (cluster side). */
struct noc_host {
	uint32_t host;              /* number of this host in the job */
	struct noc_address address; /* to listen at, port 0; all zeroes: this job has one host, no network */
	uint8_t secret[32];         /* of the job: proves membership */
};

#define NOC_NET_FDS 16
struct noc_listening {
	struct noc_address address;
	int16_t fds[NOC_NET_FDS];   /* descriptors that were opened besides those of connections; 0: none. They do not hold a
	                             * rank: detach closes them */
};

struct noc_peer;
struct noc_conn;                    /* cluster side */

struct noc_net_ops {
	/* open and listen. Called by whoever attaches */
	int (*attach)(const struct noc_host *host, struct noc_listening *out, struct gw_error *why);
	void (*detach)(void);       /* close everything; no callback follows */
	/* begin to connect: noc_path_up() may follow from poll(). -EALREADY: under way. Never waits */
	int (*connect)(struct noc_peer *p, const struct noc_place *place);
	/* @bytes (@n pieces, f->len_here in all) stay as they are until the peer has acknowledged the frame (a CHUNK: the
	 * transfer), or drop(). With is_kept so does @f, and its bytes lie right behind it. -EAGAIN: not now */
	int (*send)(struct noc_conn *c, const struct noc_frame *f, const struct iovec *bytes, size_t n, bool is_kept);
	void (*drop)(struct noc_conn *c); /* close it; no callback about it follows */
	int (*poll)(bool is_thorough);    /* take what has arrived; how much was done. Thorough: look at everything */
	int (*fds)(int fds[2]);           /* to wait on for the agent; how many. -EAGAIN: poll once more first */
};
extern const struct noc_net_ops *noc_net; /* process-wide; NULL: this process speaks no network */

/* ---- told by the interface, path.c ------------------------------------------------------------------------------ */

/** noc_path_drain - read all that has come by memory (rule 5); before noc_path_up(), and not while the inbox is being read. False:
 * a slot is claimed and not filled yet, so what is behind it cannot be read: the connection is to be made once more, later */
bool noc_path_drain(void);
/** noc_path_up - @c is open, and proved; @peer_next_in: what the peer expects. An older connection is dropped. */
void noc_path_up(struct noc_peer *p, struct noc_conn *c, uint64_t peer_next_in);
void noc_path_down(struct noc_peer *p, struct noc_conn *c); /* lost */
/** noc_path_is_idle - nothing is under way to @p or from it that a lost connection would make travel again */
bool noc_path_is_idle(const struct noc_peer *p);
void noc_path_frame(struct noc_peer *p, struct noc_conn *c, const struct noc_frame *f, const void *payload);

#endif
