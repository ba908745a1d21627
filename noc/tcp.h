/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/tcp.h: a core provider of our own: connected endpoints over TCP, as libfabric's interface has them, and of it what
 * fabric.c uses. Why not libfabric's: doc/performance.md, "A provider of our own". What it does not do: threads (the gate
 * gives all of it one at a time), registered memory, anything that refers to a sender's buffer after send has returned.
 *
 *   connecting side                              listening side
 *     | connect ------------------------------> |   a stranger, until its whole word is here
 *     | word: ASK, what fi_connect() was given > |   FI_CONNREQ
 *     | <-- word: YES or NO, of fi_accept() ----- |   FI_CONNECTED, or an error
 *     | messages, each with its length before -> |
 *
 * All of it is cluster side. Everything little endian.
 */
#ifndef NOC_TCP_H
#define NOC_TCP_H

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>

#include "noc/fabric.h"

#define TCP_MAGIC     0x50544e47u /* "GNTP" */
#define TCP_VERSION   1
#define TCP_WORD_MAX  NOC_GREETING_MAX /* bytes behind a word's head: what does not fit elsewhere does not fit here */
#define TCP_MESSAGE_MAX (sizeof(struct noc_frame) + NOC_FRAME_BYTES)
#define TCP_RX        4u          /* buffers that can be posted */
#define TCP_STAGE     16384u
#define TCP_HOT       4u          /* sockets that are asked themselves, one by one */

struct tcp_word { uint32_t magic; uint16_t version, op; uint32_t len, pad; };
enum tcp_op { TCP_ASK = 1, TCP_YES = 2, TCP_NO = 3 };
_Static_assert(sizeof(struct tcp_word) == 16, "wire format");

struct tcp_head { uint32_t len, len_again; }; /* the second inverted: a stream that went out of step is noticed */
_Static_assert(sizeof(struct tcp_head) == 8, "wire format");

enum tcp_kind { TCP_LISTENER = 1, TCP_STRANGER, TCP_EP }; /* first in what an epoll entry points to */

struct tcp_word_buf { /* a word that is coming in */
	size_t n;
	struct tcp_word head;
	unsigned char bytes[TCP_WORD_MAX];
};

struct tcp_stranger {
	enum tcp_kind kind;
	struct gw_list link;
	struct fid fid;            /* the handle of FI_CONNREQ */
	int fd;
	bool is_asked;             /* FI_CONNREQ was given out */
	uint64_t since_ns;
	struct tcp_word_buf in;
};

struct tcp_done { void *context; uint64_t flags; size_t len; int err; };

struct tcp_cq {
	struct fid_cq fid;
	int epfd;
	struct tcp_done *ring;
	uint32_t mask, head, tail;
	struct gw_list ready;      /* endpoints with bytes that wait for a buffer */
	struct gw_list sending;    /* with bytes that the kernel has not taken */
	struct tcp_ep *hot[TCP_HOT];
	uint32_t n_hot, n_up, looks, no_heat;
};

struct tcp_event {
	struct gw_list link;
	uint32_t event;
	fid_t fid;
	struct fi_info *info;
	int err;                   /* not 0: of fi_eq_readerr() */
	size_t len;
	unsigned char bytes[];
};

struct tcp_eq {
	struct fid_eq fid;
	int epfd;
	struct gw_list events, strangers;
	uint32_t n_strangers;
	uint64_t strangers_closed;
	struct fi_info *info;      /* of the listener; for FI_CONNREQ */
};

struct tcp_pep { enum tcp_kind kind; struct fid_pep fid; int fd; struct tcp_eq *eq; struct fi_info *info; };

struct tcp_ep {
	enum tcp_kind kind;
	struct fid_ep fid;
	struct tcp_eq *eq;
	struct tcp_cq *cq;
	int fd;
	enum { TCP_NEW, TCP_CONNECTING, TCP_ASKING, TCP_UP, TCP_LOST } state;
	bool is_hot;
	uint32_t watched, heat;    /* events in cq's epoll, 0: none; messages since it is not hot */
	struct gw_list ready, sending;
	struct { void *buf, *context; size_t len; } rx[TCP_RX];
	uint32_t rx_head, rx_tail; /* posted */
	void *into;                /* the message that is coming in; NULL: its head is awaited */
	size_t want, got;
	size_t stage_at, stage_n;
	size_t out_at, out_n;
	struct sockaddr_in6 from;  /* to connect from, and to whom */
	struct sockaddr_in6 to;
	struct tcp_word_buf *word; /* CONNECTING, ASKING: ours, then theirs */
	size_t word_sent;
	unsigned char stage[TCP_STAGE];
	unsigned char out[sizeof(struct tcp_head) + TCP_MESSAGE_MAX];
};

/* ---- tcp.c: messages */
void noc_tcp_ep_up(struct tcp_ep *ep);              /* connected: messages may come and go */
int noc_tcp_ep_open(struct fid_domain *d, struct fi_info *info, struct fid_ep **out, void *context);
int noc_tcp_cq_open(struct fid_domain *d, struct fi_cq_attr *attr, struct fid_cq **out, void *context);
int noc_tcp_cq_try(struct tcp_cq *cq);              /* may be waited for: 0, or -FI_EAGAIN */
int noc_tcp_fd_above_standard(int fd);

/* ---- tcp_cm.c: connections, and what all hangs from */
extern struct fi_ops_cm noc_tcp_ep_cm;
void noc_tcp_eq_push(struct tcp_eq *eq, uint32_t event, fid_t fid, struct fi_info *info, int err, const void *bytes,
                     size_t len);
void noc_tcp_eq_forget(struct tcp_eq *eq, fid_t fid);

struct fi_info *noc_tcp_info(const struct noc_address *at);
int noc_tcp_fabric(struct fid_fabric **out);

#endif
