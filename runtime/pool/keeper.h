/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/pool: the keeper as a program. keeper.c: its connections and daemons; clients.c: who asks on this host. */
#ifndef POOL_KEEPER_H
#define POOL_KEEPER_H

#include "runtime/base/event.h"
#include "runtime/base/tcp.h"
#include "runtime/base/trust.h"
#include "runtime/launcher/starter.h"
#include "runtime/pool/core.h"
#include "runtime/pool/pool.h"
#include "runtime/wire.h"

struct keeper_args { char *name, *host, *toward, *log; uint32_t number, slots, index; };

struct keeper {
	struct keeper_args *args;
	struct gw_loop *loop;
	struct pool pool;
	uint8_t secret[GW_TRUST_SECRET];
	char socket[POOL_SOCKET_MAX];
	struct gw_trust_listener *listener;
	struct gw_list peers, daemons, clients;
	json_t *own;                   /* words to oneself, to be delivered */
	bool is_deferred, is_detached, is_over;
	int unix_listener, detach_fd;  /* detach_fd: whoever waits in the foreground */
	struct gw_watch *unix_watch, *input;
	struct gw_timer *tick;
	char line[1 << 16];            /* of standard input */
	size_t len;
};

int keeper_main(struct keeper_args *a); /* godwitd --pool; returns the exit status */
void keeper_defer(struct keeper *k);    /* words and ends that wait are dealt with soon */

/* ---- clients.c ---- */
int clients_listen(struct keeper *k, struct gw_error *why);
void clients_fini(struct keeper *k);
void clients_tell(struct keeper *k, uint32_t job, json_t *msg); /* of the core, for a job that began here; steals */

#endif
