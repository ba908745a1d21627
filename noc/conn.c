/* SPDX-License-Identifier: BSD-2-Clause */
/* One connection of the network interface; see conn.h. */
#include "noc/conn.h"

#include <stdlib.h>

#define SILENCES_MAX 4u            /* 32 s: where many ranks share a core, none may get as far in less */

void noc_conn_free(struct noc_conn *c)
{
	gw_list_remove(&c->link);
	if (c->mr)
		fi_close(&c->mr->fid);
	free(c->buffers);
	free(c);
}

void noc_conn_close(struct noc_conn *c)
{
	if (!c->ep)
		return;
	fi_close(&c->ep->fid);
	c->ep = NULL;
	gw_list_remove(&c->link);
	gw_list_append(&noc_fabric.closed, &c->link);
	if (!c->posted)
		noc_conn_free(c);
}

void noc_conn_lost(struct noc_conn *c)
{
	struct noc_peer *p = c->peer;
	bool was_up = c->state == CONN_UP;

	noc_conn_close(c);
	if (was_up)
		noc_path_down(p, c);
}

int noc_conn_post(struct noc_conn *c, uint32_t i)
{
	int rc = (int)fi_recv(c->ep, c->rx[i], FRAME_ROOM, c->desc, FI_ADDR_UNSPEC, &c->rx_token[i]);

	if (rc == 0)
		c->posted++;
	return rc;
}

/*
 * Hardware reads and writes registered memory only, and registering costs more than copying a frame does; so all that it
 * touches is a piece of memory of the connection, and the program's is copied to and from there. Nothing of the program's is
 * ever registered: what hardware has written is nothing that a move would have to carry (rule 16).
 */
static int buffers_new(struct noc_conn *c)
{
	static bool is_told; /* process-wide: the limit is the process's */
	uint32_t rx = noc_fabric.is_registering ? RX_REGISTERED : RX_BUFFERS, tx = noc_fabric.is_registering ? TX_CHUNKS : 0;
	int rc;

	c->buffers = malloc((rx + tx) * FRAME_ROOM);
	if (!c->buffers)
		return -ENOMEM;
	for (uint32_t i = 0; i < rx; i++) {
		c->rx[i] = c->buffers + i * FRAME_ROOM;
		c->rx_token[i] = (struct token){ c, TOKEN_RX, i };
	}
	for (uint32_t i = 0; i < TX_CHUNKS; i++) {
		c->tx[i] = i < tx ? c->buffers + (rx + i) * FRAME_ROOM : NULL;
		c->tx_token[i] = (struct token){ c, TOKEN_TX, i };
	}
	if (!noc_fabric.is_registering)
		return 0;
	rc = fi_mr_reg(noc_fabric.domain, c->buffers, (rx + tx) * FRAME_ROOM, FI_SEND | FI_RECV, 0, ++noc_fabric.key, 0, &c->mr, NULL);
	if (rc) {
		if (!is_told)
			gw_log(GW_WARN, "noc: %zu KiB for a connection cannot be registered with the network's hardware: %s; raise 'ulimit -l', "
			       "or say GODWIT_NET=tcp", (rx + tx) * FRAME_ROOM >> 10, fi_strerror(-rc));
		is_told = true;
		c->mr = NULL;
		return rc;
	}
	c->desc = fi_mr_desc(c->mr);
	return 0;
}

struct noc_conn *noc_conn_new(struct fi_info *info, struct noc_peer *p)
{
	struct noc_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	gw_list_init(&c->link);
	c->peer = p;
	c->since_ns = gw_now_ns();
	if (buffers_new(c)) {
		noc_conn_free(c);
		return NULL;
	}
	if (fi_endpoint(noc_fabric.domain, info, &c->ep, c)) {
		c->ep = NULL;
		noc_conn_free(c);
		return NULL;
	}
	gw_list_append(&noc_fabric.conns, &c->link);
	if (fi_ep_bind(c->ep, &noc_fabric.eq->fid, 0) || fi_ep_bind(c->ep, &noc_fabric.cq->fid, FI_RECV) ||
	    fi_ep_bind(c->ep, &noc_fabric.cq->fid, FI_TRANSMIT | FI_SELECTIVE_COMPLETION) || fi_enable(c->ep))
		goto fail;
	for (uint32_t i = 0; i < RX_REGISTERED && c->rx[i]; i++)
		if (noc_conn_post(c, i))
			goto fail;
	return c;
fail:
	noc_conn_close(c);
	return NULL;
}

bool noc_conn_is_silent(const struct noc_conn *c, uint64_t now)
{
	return now - c->since_ns > SILENT_NS << c->peer->silences;
}

void noc_conn_silent(struct noc_conn *c)
{
	if (c->peer->silences < SILENCES_MAX)
		c->peer->silences++;
	noc_conn_lost(c);
}

struct noc_conn *noc_conn_of(const struct noc_peer *p, const struct noc_conn *but)
{
	gw_list_for(l, &noc_fabric.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->peer == p && c != but)
			return c;
	}
	return NULL;
}

void noc_conn_up(struct noc_conn *c)
{
	bool is_drained;

	c->posted++; /* what is read now may make the channel close it */
	is_drained = noc_path_drain();
	c->posted--;
	if (c->ep && !is_drained) {
		noc_conn_lost(c);
		return;
	}
	if (!c->ep) {
		if (!c->posted)
			noc_conn_free(c);
		return;
	}
	c->state = CONN_UP;
	if (c->peer->silences)
		c->peer->silences--; /* it answers again, if not at once */
	c->since_ns = gw_now_ns();
	c->used = ++noc_fabric.uses;
	c->posted++;
	noc_path_up(c->peer, c, c->peer_next_in);
	noc_conns_make_room(c, 0);
	c->posted--;
	if (!c->ep && !c->posted)
		noc_conn_free(c);
}
