/* SPDX-License-Identifier: BSD-2-Clause */
/* One connection of the network interface; see conn.h. */
#include "noc/conn.h"

#include <stdlib.h>

#define SILENCES_MAX 4u            /* 32 s: where many ranks share a core, none may get as far in less */

void noc_conn_free(struct noc_conn *c)
{
	gw_list_remove(&c->link);
	free(c->rx[0]);
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
	int rc = (int)fi_recv(c->ep, c->rx[i], sizeof(struct noc_frame) + NOC_FRAME_BYTES, NULL, FI_ADDR_UNSPEC,
	                      &c->rx_token[i]);

	if (rc == 0)
		c->posted++;
	return rc;
}

struct noc_conn *noc_conn_new(struct fi_info *info, struct noc_peer *p)
{
	struct noc_conn *c = calloc(1, sizeof(*c));
	size_t size = sizeof(struct noc_frame) + NOC_FRAME_BYTES;

	if (!c)
		return NULL;
	gw_list_init(&c->link);
	c->peer = p;
	c->since_ns = gw_now_ns();
	c->rx[0] = malloc(RX_BUFFERS * size);
	if (!c->rx[0]) {
		free(c);
		return NULL;
	}
	for (uint32_t i = 0; i < RX_BUFFERS; i++) {
		c->rx[i] = c->rx[0] + i * size;
		c->rx_token[i] = (struct token){ c, TOKEN_RX, i };
	}
	for (uint32_t i = 0; i < TX_CHUNKS; i++)
		c->tx_token[i] = (struct token){ c, TOKEN_TX, i };
	if (fi_endpoint(noc_fabric.domain, info, &c->ep, c)) {
		c->ep = NULL;
		noc_conn_free(c);
		return NULL;
	}
	gw_list_append(&noc_fabric.conns, &c->link);
	if (fi_ep_bind(c->ep, &noc_fabric.eq->fid, 0) || fi_ep_bind(c->ep, &noc_fabric.cq->fid, FI_RECV) ||
	    fi_ep_bind(c->ep, &noc_fabric.cq->fid, FI_TRANSMIT | FI_SELECTIVE_COMPLETION) || fi_enable(c->ep))
		goto fail;
	for (uint32_t i = 0; i < RX_BUFFERS; i++)
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
	c->posted++; /* what is read now may make the channel close it */
	noc_path_drain();
	c->posted--;
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
