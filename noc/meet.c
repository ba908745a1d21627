/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How two names come to a connection; see conn.h.
 *
 * One connection per unordered pair of names, opened on first use, closed at detach. Who connects proves that it knows the
 * job's secret before a frame of its is read, and the same the other way round:
 *
 *   connecting side                              listening side
 *     | connect {greeting, its nonce} -----------> |   right job, name and incarnation? else reject with a reason
 *     | <------------- accept {greeting, nonce} -- |
 *     | <---------------- PROOF, then frames ----- |   proof: keyed hash over both greetings
 *     | PROOF, then frames ----------------------> |   each is up when the other's is right; nothing else is read before
 *
 * Both greetings say what their side expects next, so each begins with what the other lacks (rule 14: when two connect to
 * each other at once, the connection of the lower name stands).
 */
#include "noc/conn.h"

#include <sodium.h>
#include <stdlib.h>
#include <sys/socket.h>

enum refusal { REFUSED_STALE = 1, REFUSED_CROSSED = 2, REFUSED_VERSION = 3, REFUSED_PROOF = 4, REFUSED_BUSY = 5 };

/* Over all that was agreed, in one order for both sides; @role keeps one side's proof from being sent back as the other's. */
static void prove(uint8_t out[32], const struct noc_peer *p, const char *role, const struct greeting *connecting, const struct greeting *listening)
{
	struct noc_guest guest;
	crypto_generichash_state s;

	if (!noc_is_guest(p)) {
		crypto_generichash_init(&s, noc_fabric.secret, sizeof(noc_fabric.secret), 32);
	} else {
		if (!noc_guests_look(&noc_me->seg, p->proc, &guest)) /* this host has not heard of it yet: nothing that it could accept */
			randombytes_buf(&guest, sizeof(guest));
		crypto_generichash_init(&s, guest.with.secret, sizeof(guest.with.secret), 32);
		sodium_memzero(&guest, sizeof(guest));
	}
	crypto_generichash_update(&s, (const unsigned char *)role, strlen(role) + 1);
	crypto_generichash_update(&s, (const unsigned char *)connecting, sizeof(*connecting));
	crypto_generichash_update(&s, (const unsigned char *)listening, sizeof(*listening));
	crypto_generichash_final(&s, out, 32);
	sodium_memzero(&s, sizeof(s)); /* made of the secret, and a stack is part of an image */
}

static struct greeting greet(const struct noc_peer *p, uint64_t peer_incarnation)
{
	struct noc_guest guest = { 0 };
	bool is_guest = noc_is_guest(p) && noc_guests_look(&noc_me->seg, p->proc, &guest);
	struct greeting g = { .magic = GREETING_MAGIC, .version = GREETING_VERSION,
	                      .friend_there = is_guest ? (uint16_t)(guest.with.index_there + 1) : 0,
	                      .job = p->job, .src = noc_me->proc, .dst = p->there, .src_incarnation = noc_me->incarnation,
	                      .dst_incarnation = (uint32_t)peer_incarnation, .next_in = p->next_in };

	sodium_memzero(&guest, sizeof(guest));
	randombytes_buf(g.nonce, sizeof(g.nonce));
	return g;
}

int noc_meet_connect(struct noc_peer *p, const struct noc_place *place)
{
	struct noc_conn *c;
	struct fi_info *info;
	int rc;

	noc_conns_drop_unproved(p);
	c = noc_conn_of(p, NULL);
	if (c) {
		bool is_late = noc_conn_is_silent(c, gw_now_ns());

		if (c->peer_incarnation >= place->incarnation && !is_late)
			return -EALREADY;
		is_late ? noc_conn_silent(c) : noc_conn_lost(c);
	}
	rc = noc_conns_make_room(NULL, 1);
	if (rc)
		return rc;
	rc = -ENOMEM;
	info = fi_dupinfo(noc_fabric.info);
	if (!info)
		return rc;
	free(info->dest_addr);
	info->dest_addrlen = noc_address_size(&place->address);
	info->dest_addr = malloc(sizeof(struct sockaddr_in6));
	if (info->dest_addr && info->src_addr) {
		memcpy(info->dest_addr, &place->address, sizeof(struct sockaddr_in6));
		/* not from the port that we listen at */
		((struct sockaddr_in *)info->src_addr)->sin_port = 0;
		c = noc_conn_new(info, p);
		if (c) {
			c->state = CONN_CONNECTING;
			c->peer_incarnation = place->incarnation;
			c->mine = greet(p, place->incarnation);
			rc = fi_connect(c->ep, info->dest_addr, &c->mine, sizeof(c->mine));
			if (rc)
				noc_conn_close(c);
		}
	}
	fi_freeinfo(info);
	return rc;
}

/* ---- someone connects ------------------------------------------------------------------------------------------ */

/* Of two that connect to each other the one whose connection stands. */
static bool is_lower(const struct noc_peer *p)
{
	return noc_name_make(noc_me->job, noc_me->proc) < noc_name_make(p->job, p->there);
}

/* Under which number we know it; UINT32_MAX: we do not */
static uint32_t number_of(const struct greeting *g)
{
	if (g->friend_there)
		return noc_guests_find(&noc_me->seg, g->friend_there - 1u, g->src);
	return g->src != noc_me->proc ? g->src : UINT32_MAX;
}

static enum refusal judge(const struct greeting *g, size_t size, struct noc_peer **peer)
{
	struct noc_peer *p;
	struct noc_conn *c;

	if (size < sizeof(*g) || g->magic != GREETING_MAGIC || g->version != GREETING_VERSION)
		return REFUSED_VERSION;
	if (g->job != noc_me->job || g->dst != noc_me->proc || g->dst_incarnation != (uint32_t)noc_me->incarnation)
		return REFUSED_STALE;
	p = noc_peer_get(number_of(g));
	if (!p || noc_is_guest(p) != (g->friend_there != 0))
		return REFUSED_STALE; /* also a guest of whom this host has not heard yet: it tries again */
	*peer = p;
	c = noc_conn_of(p, NULL);
	if (c && (c->state == CONN_CONNECTING || c->state == CONN_PROVING) && c->peer_incarnation >= g->src_incarnation &&
	    is_lower(p))
		return REFUSED_CROSSED; /* ours stands */
	if (!noc_conns_may_come(p, c != NULL))
		return REFUSED_BUSY;
	return 0;
}

static void on_request(struct fi_eq_cm_entry *e, size_t size)
{
	struct noc_peer *p = NULL;
	struct noc_conn *c;
	struct greeting g = { 0 }, no = { .magic = GREETING_MAGIC, .version = GREETING_VERSION };

	memcpy(&g, e->data, size < sizeof(g) ? size : sizeof(g));
	no.reason = judge(&g, size, &p);
	c = no.reason ? NULL : noc_conn_new(e->info, p);
	if (!c) {
		if (!no.reason)
			no.reason = REFUSED_BUSY;
		fi_reject(noc_fabric.pep, e->info->handle, &no, sizeof(no));
		fi_freeinfo(e->info);
		return;
	}
	fi_freeinfo(e->info);
	c->state = CONN_ACCEPTING;
	c->peer_incarnation = g.src_incarnation;
	c->peer_next_in = g.next_in;
	c->mine = greet(p, g.src_incarnation);
	prove(c->proof, p, "listening", &g, &c->mine);
	prove(c->expected, p, "connecting", &g, &c->mine);
	if (fi_accept(c->ep, &c->mine, sizeof(c->mine)))
		noc_conn_close(c);
}

/* The first frame that we send. */
int noc_meet_prove(struct noc_conn *c)
{
	struct noc_frame f = { .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = NOC_KIND_PROOF,
	                       .src = noc_me->proc, .len_here = NOC_PROOF_BYTES };
	unsigned char bytes[sizeof(f) + sizeof(c->proof)];

	if (c->has_proved)
		return 0;
	c->has_proved = true;
	memcpy(bytes, &f, sizeof(f));
	memcpy(bytes + sizeof(f), c->proof, sizeof(c->proof));
	return (int)fi_inject(c->ep, bytes, sizeof(bytes), FI_ADDR_UNSPEC);
}

/* It is open: ours was accepted, with these bytes, or we have accepted theirs. */
static void on_connected(struct noc_conn *c, const void *data, size_t size)
{
	struct greeting theirs;

	if (c->state == CONN_CONNECTING) {
		if (size < sizeof(theirs))
			memset(&theirs, 0, sizeof(theirs));
		else
			memcpy(&theirs, data, sizeof(theirs));
		if (theirs.magic != GREETING_MAGIC || theirs.version != GREETING_VERSION) {
			gw_log(GW_WARN, "noc: what answers for process %u is no rank of this job", c->peer->proc);
			noc_conn_lost(c);
			return;
		}
		prove(c->proof, c->peer, "connecting", &c->mine, &theirs);
		prove(c->expected, c->peer, "listening", &c->mine, &theirs);
		c->peer_next_in = theirs.next_in;
		c->state = CONN_PROVING;
	}
	if (c->state != CONN_UP && noc_meet_prove(c))
		noc_conn_lost(c);
}

int noc_meet_poll(void)
{
	union { struct fi_eq_cm_entry cm; char bytes[sizeof(struct fi_eq_cm_entry) + 256]; } e;
	struct fi_eq_err_entry err;
	uint32_t event;
	ssize_t n;
	int done = 0;

	for (;;) {
		n = fi_eq_read(noc_fabric.eq, &event, &e, sizeof(e), 0);
		if (n == -FI_EAVAIL) {
			memset(&err, 0, sizeof(err));
			if (fi_eq_readerr(noc_fabric.eq, &err, 0) > 0 && err.fid && err.fid != &noc_fabric.pep->fid)
				noc_conn_lost(err.fid->context); /* refused, or unreachable: asked again after a look at the name */
			done++;
			continue;
		}
		if (n < (ssize_t)sizeof(struct fi_eq_cm_entry))
			return done;
		done++;
		if (event == FI_CONNREQ) {
			on_request(&e.cm, (size_t)n - sizeof(e.cm));
		} else if (event == FI_CONNECTED) {
			on_connected(e.cm.fid->context, e.cm.data, (size_t)n - sizeof(e.cm));
		} else if (event == FI_SHUTDOWN) {
			noc_conn_lost(e.cm.fid->context);
		}
	}
}
