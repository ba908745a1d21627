/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/conn.h: what the interface of libfabric is made of, for its own files only (noc/net.h is what others see):
 *
 *   conn.c     one connection: made, up, lost, closed
 *   limit.c    how many there may be, and which goes for another
 *   meet.c     how two sides come to one: connect, accept, proofs
 *   fabric.c   frames, and all that is opened and closed with the host
 *
 * Everything here is cluster side: made at attach, gone at detach; it uses malloc, which is allowed to whoever attaches and
 * to program threads (rule 11), and the agent calls it only with the gate closed.
 */
#ifndef NOC_CONN_H
#define NOC_CONN_H

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>

#include "noc/fabric.h"
#include "noc/local.h"

#define RX_BUFFERS 2u              /* the kernel's socket buffer is the window */
#define RX_REGISTERED 8u           /* of hardware: it has none, and what finds no buffer must come again */
#define TX_CHUNKS  4u
#define FRAME_ROOM (sizeof(struct noc_frame) + NOC_FRAME_BYTES)
#define GREETING_MAGIC 0x4f4c4c48u /* "HLLO" */
#define GREETING_VERSION 3
#define SILENT_NS  2000000000ull   /* a connection that is not proved by then is closed; twice as long after each that was not */
#define HOLD_NS    20000000ull     /* one that has work to do is not closed for another before it had so long */
#define CONNS_MIN  16u             /* allowed in any case, unless the user says less */

/* What travels with connect and accept; little endian. The connection manager of verbs has room for 55 bytes. */
struct __attribute__((packed, aligned(4))) greeting {
	uint32_t magic;
	uint8_t version, reason;             /* reason: enum refusal, of a reject */
	uint16_t friend_there;               /* 0: the same job. Else 1 + the number of the job of @src among the friends of that of @dst */
	uint32_t job, src, dst;              /* job: of @dst. Each in its own job */
	uint32_t dst_incarnation;            /* the low half tells one life from the next */
	uint64_t src_incarnation;
	uint64_t next_in;
	uint8_t nonce[12];
};
_Static_assert(sizeof(struct greeting) == NOC_GREETING_BYTES, "wire format");

struct token { /* operation context: what completed */
	struct noc_conn *conn;
	enum { TOKEN_RX, TOKEN_TX } what;
	uint32_t index;
};

struct noc_conn {
	struct gw_list link;                 /* in noc_fabric.conns or noc_fabric.closed */
	struct fid_ep *ep;                   /* NULL: closed; waits for its last completion */
	enum { CONN_CONNECTING, CONN_PROVING, CONN_ACCEPTING, CONN_UP } state; /* PROVING: ours was accepted, their proof must come */
	struct noc_peer *peer;
	uint64_t peer_incarnation, peer_next_in, since_ns;
	uint64_t used;                       /* noc_fabric.uses when it last carried a frame */
	uint32_t posted;                     /* operations that will still complete */
	struct greeting mine;
	uint8_t proof[NOC_PROOF_BYTES], expected[NOC_PROOF_BYTES]; /* that we send, that must come */
	bool has_proved;                     /* ours was sent */
	struct token rx_token[RX_REGISTERED], tx_token[TX_CHUNKS];
	uint32_t tx_busy;                    /* bit per chunk head, or per buffer of tx */
	struct noc_frame tx_frame[TX_CHUNKS];
	unsigned char *buffers;              /* FRAME_ROOM each; of them: */
	unsigned char *rx[RX_REGISTERED], *tx[TX_CHUNKS]; /* tx: where buffers are registered, else NULL */
	struct fid_mr *mr;                   /* all of them. NULL: not registered */
	void *desc;                          /* likewise */
};

extern struct noc_fabric {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_eq *eq;
	struct fid_cq *cq;
	struct fid_pep *pep;
	uint16_t port;                       /* we listen at; network order */
	uint8_t secret[32];
	struct gw_list conns, closed;
	struct token *late;                  /* a buffer that was read and is not posted again yet; counted in its posted */
	uint64_t uses;                       /* frames so far */
	uint64_t key;                        /* of the last registration */
	bool is_making_room;
	bool is_registering;                 /* the provider wants all buffers registered */
} noc_fabric; /* process-wide; nothing of it outlives detach() */
extern uint32_t noc_conns_max; /* process-wide, of the environment: it is the same after a move */

/* ---- conn.c */
struct noc_conn *noc_conn_new(struct fi_info *info, struct noc_peer *p); /* buffers posted; NULL: not to be had */
void noc_conn_free(struct noc_conn *c);
void noc_conn_close(struct noc_conn *c);        /* freed with its last completion */
void noc_conn_lost(struct noc_conn *c);         /* close it, and tell the channel. The channel may close others then */
int noc_conn_post(struct noc_conn *c, uint32_t i); /* buffer @i for what comes next */
struct noc_conn *noc_conn_of(const struct noc_peer *p, const struct noc_conn *but);
bool noc_conn_is_silent(const struct noc_conn *c, uint64_t now);
void noc_conn_silent(struct noc_conn *c);       /* it is: lost, and the next one has longer */
void noc_conn_up(struct noc_conn *c);           /* proved on both sides, as far as we know */

/* ---- limit.c */
void noc_conns_max_find(void);
int noc_conns_make_room(const struct noc_conn *but, uint32_t more); /* close others until @more are allowed besides @but */
bool noc_conns_may_come(const struct noc_peer *p, bool is_known);   /* who greets in this peer's name; is_known: it has one already */
void noc_conns_drop_unproved(struct noc_peer *p); /* those that greet in its name and prove nothing, after a while */

/* ---- meet.c */
int noc_meet_connect(struct noc_peer *p, const struct noc_place *place); /* of struct noc_net_ops */
int noc_meet_prove(struct noc_conn *c);         /* send our proof, once */
int noc_meet_poll(void);                        /* who connects, who answers, what broke; how much was done */

#endif
