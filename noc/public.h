/* SPDX-License-Identifier: BSD-2-Clause */
/* noc/public.h: what mailbox.c, portal.c and sync.c share: objects by port, one lock, and waiting with a deadline. */
#ifndef NOC_PUBLIC_H
#define NOC_PUBLIC_H

#include "noc/local.h"
#include "noc/noc.h"

#define NOC_API __attribute__((visibility("default")))


struct noc_stray { /* an arrival that nobody could take; kept as it came */
	struct gw_list link;
	struct noc_msg msg;
	size_t alloc_size;
	unsigned char payload[];
};

/** noc_public_enter, _leave - one thread of the program at a time, and the gate. Not recursive. */
int noc_public_enter(void); /* -ENOTCONN before noc_init() */
void noc_public_leave(void);

/**
 * noc_public_wait - poll until @is_ready(@arg), entered by the caller, who stays entered on return
 * Other threads get their turn between polls. Return 0 or -ETIMEDOUT.
 */
int noc_public_wait(bool (*is_ready)(void *arg), void *arg, int timeout_ms);

/** noc_stray_keep - keep a message for a port that nobody has created yet */
void noc_stray_keep(struct gw_list *strays, const struct noc_msg *m);
/** noc_stray_take - hand what was kept for @port (noc_msg.tag's low half) to @take, in order */
void noc_stray_take(struct gw_list *strays, uint32_t port, void (*take)(const struct noc_msg *m));

/* Words of a message: the object's port, and what it is. */
static inline uint64_t noc_public_tag(uint32_t port, uint32_t op) { return (uint64_t)op << 32 | port; }
static inline uint32_t noc_public_port(const struct noc_msg *m) { return (uint32_t)m->tag; }
static inline uint32_t noc_public_op(const struct noc_msg *m) { return (uint32_t)(m->tag >> 32); }

void noc_mailbox_bind(void);
void noc_portal_bind(void);
void noc_sync_bind(void);

#endif
