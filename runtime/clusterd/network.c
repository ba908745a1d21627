/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A job of one host gets a second one: what started without a network takes it up while it runs.
 *
 *   head ── network ──► listen for sessions; each rank that is attached: QUIESCE ──► QUIET ──► ATTACH with the network
 *        ◄─ networked ─ all have attached, and their names have been told
 *
 * It is a detach and an attach as around a move, without the move: the program computes meanwhile, and stops at most for
 * that moment if it enters MPI. A rank that is being moved gets the network where it arrives, or after the move.
 */
#include <stdlib.h>

#include "runtime/clusterd/clusterd.h"

#define QUIESCE_MS 10000
#define AGAIN_MS   20         /* ranks that were busy, in a move, or in MPI_Init are looked at again */

int network_read(struct clusterd *d, const char *address, const json_t *msg)
{
	const char *hex = json_string_value(json_object_get(msg, "secret"));

	if (!address)
		return 0;
	if (gw_tcp_parse(address, &d->here.address, sizeof(d->here.address)) < 0)
		return -EPROTO;
	if (d->join.is_joined)
		memcpy(d->here.secret, d->join.secret, sizeof(d->here.secret));
	else if (!hex || gw_trust_secret_parse(d->here.secret, hex) < 0)
		return -EPROTO;
	d->here.host = (uint32_t)json_integer_value(json_object_get(msg, "host"));
	d->is_networked = true;
	return 0;
}

/* Does it talk without a network, or is about to? */
static bool lacks_it(const struct rank *r)
{
	static const struct noc_address nowhere;

	return r->state != RANK_GIVEN && r->agent != AGENT_NONE && r->agent != AGENT_CLOSED &&
	       memcmp(&r->address, &nowhere, sizeof(nowhere)) == 0;
}

static void answer(struct clusterd *d, const char *text)
{
	gw_timer_cancel(d->network);
	d->network = NULL;
	gw_link_send_json(d->head, json_pack("{s:s, s:s, s:i, s:s*}", "op", "networked", "address", d->network_address, "port",
	                                     (int)d->far_port, "text", text));
}

static void do_without(struct clusterd *d, const char *text)
{
	d->is_networked = false;
	memset(&d->here, 0, sizeof(d->here));
	answer(d, text);
}

static void look(void *ctx)
{
	struct clusterd *d = ctx;
	bool waits = false;

	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (!lacks_it(r))
			continue;
		waits = true;
		if (r->state != RANK_HERE || r->agent != AGENT_ATTACHED || moves_is_busy(r) ||
		    agent_send(r, CT_CTL_QUIESCE, CT_SESSION_NETWORK, QUIESCE_MS) < 0)
			continue;
		r->agent = AGENT_QUIESCING;
		agent_publish(r, NOC_NAME_MOVING);
	}
	if (!waits)
		answer(d, NULL);
}

static int listen_for_sessions(struct clusterd *d, const char *address, struct gw_error *why)
{
	if (gw_fault("rt.network.listen") != GW_FAULT_NONE)
		return gw_fail(why, -EADDRNOTAVAIL, "a test wants it so");
	return d->far ? 0 : far_init(d, address, why); /* it may have been tried before */
}

void network_take_up(struct clusterd *d, const char *address, const json_t *msg)
{
	struct gw_error why = { 0 };

	if (address)
		snprintf(d->network_address, sizeof(d->network_address), "%s", address);
	if (!d->is_networked) { /* one that has joined over the network has one already, and the head does not know where */
		if (!address || network_read(d, address, msg) < 0) {
			answer(d, "the head's 'network' is malformed");
			return;
		}
		join_fence(d);
		if (listen_for_sessions(d, address, &why) < 0) {
			do_without(d, why.text);
			return;
		}
	}
	if (!d->network && gw_loop_timer(d->loop, &d->network, AGAIN_MS, AGAIN_MS, look, d) < 0)
		answer(d, "out of memory");
	else
		look(d);
}

void network_rank_attached(struct clusterd *d)
{
	if (d->network)
		look(d);
}

/* It is detached now, and its program may stand at the gate. */
bool network_attach_failed(struct rank *r, uint32_t session, const char *text)
{
	char who[200];

	if (session != CT_SESSION_NETWORK || !r->d->is_networked)
		return false;
	snprintf(who, sizeof(who), "rank %u: %s", r->proc, text);
	do_without(r->d, who);
	agent_reattach(r, session);
	return true;
}
