/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What happens between libfabric's objects (nics.c), each step when the scheduler says so: a frame, a request to connect, its
 * answer, the news that a connection broke. noc's own files are compiled in here, since their one object, noc_fabric, is
 * exchanged with the member.
 */
#include <dirent.h>
#define opendir(path) ((DIR *)NULL) /* descriptors are not part of this world */
#include "noc/conn.c"
#include "noc/core.c"
#include "noc/descriptors.c"
#include "noc/fabric.c"
#include "noc/limit.c"
#include "noc/meet.c"

#include "tests/sim/wire.h"

unsigned sim_p_lost;

/* ---- what is on its way ---------------------------------------------------------------------------------------- */

static void ask(struct end *e)
{
	struct nic *n = &sim_nics[ntohl(e->to.sin_addr.s_addr) - 1];
	struct request *r;
	struct blob *b;
	uint64_t at;

	memcpy(&at, e->to.sin_zero, sizeof(at));
	if (sim_one_in(sim_p_lost)) {
		sim_counts.lost_requests++;
		e->state = END_HUNG;
		return;
	}
	if (!n->listens || n->listens != at) {
		e->state = END_REFUSED;
		return;
	}
	r = calloc(1, sizeof(*r));
	r->from = e;
	e->request = r;
	e->state = END_ASKED;
	b = sim_blob_new(&n->events, e->greeting_size);
	b->event = FI_CONNREQ;
	b->info = fi_dupinfo(NULL);
	b->info->handle = &r->fid;
	memcpy(b->bytes, e->greeting, e->greeting_size);
	sim_event("request of %d to %d arrives", e->owner, (int)(n - sim_nics), 0, 0);
}

static bool transmit(struct end *e)
{
	struct blob *b = sim_blob_first(&e->tx), *copy;
	size_t size, at = 0;

	if (!b || (e->other && e->other->wire_n >= SIM_WIRE_MAX))
		return false;
	size = b->size;
	for (size_t i = 0; i < b->n; i++)
		size += b->iov[i].iov_len;
	if (e->other) {
		copy = sim_blob_new(&e->other->wire, size);
		memcpy(copy->bytes, b->bytes, b->size);
		for (size_t i = 0; i < b->n; at += b->iov[i++].iov_len)
			memcpy(copy->bytes + at, b->iov[i].iov_base, b->iov[i].iov_len);
		e->other->wire_n++;
	}
	if (b->wants)
		sim_complete(e, b->context, 0, false);
	sim_blob_free(b);
	e->tx_n--;
	sim_counts.frames++;
	return true;
}

static bool receive(struct end *e)
{
	struct blob *b = sim_blob_first(&e->wire), *to = sim_blob_first(&e->rx);

	if (!b || !to)
		return false;
	if (b->size > to->iov[0].iov_len)
		sim_fail("a frame does not fit");
	memcpy(to->iov[0].iov_base, b->bytes, b->size);
	sim_complete(e, to->context, b->size, false);
	sim_blob_free(to);
	sim_blob_free(b);
	e->wire_n--;
	return true;
}

static bool end_step(struct end *e)
{
	switch (e->state) {
	case END_ASKING:
		ask(e);
		return true;
	case END_REFUSED:
		sim_tell(e, 0, true, NULL, 0);
		e->state = END_TOLD;
		return true;
	case END_ANSWERED:
		e->state = END_OPEN;
		sim_tell(e, FI_CONNECTED, false, e->greeting, e->greeting_size);
		return true;
	case END_OPEN:
		return sim_one_in(2) ? transmit(e) || receive(e) : receive(e) || transmit(e);
	case END_CUT:
		if (receive(e))
			return true;
		e->state = END_TOLD;
		sim_tell(e, FI_SHUTDOWN, false, NULL, 0);
		if (sim_one_in(2))
			sim_end_flush(e, true);
		return true;
	default:
		return false;
	}
}

static struct end *end_some(void)
{
	uint64_t n = sim_ends_n ? sim_rnd(sim_ends_n) : 0;

	gw_list_for(l, &sim_ends)
		if (n-- == 0)
			return gw_list_entry(l, struct end, link);
	return NULL;
}

bool sim_wire_step(void)
{
	struct end *e = end_some();
	bool did = false;

	if (!e)
		return false;
	for (uint64_t n = sim_rnd(6) + 1; n && end_step(e); n--)
		did = true;
	return did;
}

void sim_wire_cut(void)
{
	struct end *e = end_some(), *o;

	if (!e || e->state == END_TOLD || e->state == END_CUT || e->state == END_IDLE)
		return;
	sim_event("cut: endpoint of %d in state %d", e->owner, (int)e->state, 0, 0);
	sim_counts.cuts++;
	o = e->other;
	if (e->state == END_ASKING) {
		e->state = END_REFUSED;
	} else if (e->state == END_ASKED) {
		e->request->from = NULL;
		e->request = NULL;
		e->state = END_REFUSED;
	} else {
		sim_end_cut(e);
	}
	if (o)
		sim_end_cut(o);
}

/* ---- members --------------------------------------------------------------------------------------------------- */

static char stored[SIM_MEMBERS][sizeof(noc_fabric)];

static void list_moved(struct gw_list *l, const struct gw_list *was)
{
	if (!l->next || l->next == was) {
		gw_list_init(l);
		return;
	}
	l->next->prev = l;
	l->prev->next = l;
}

void sim_net_swap(int from, int to)
{
	static const size_t at[2] = { offsetof(struct noc_fabric, conns), offsetof(struct noc_fabric, closed) };
	char *now = (char *)&noc_fabric;

	if (from >= 0) {
		memcpy(stored[from], now, sizeof(noc_fabric));
		for (int i = 0; i < 2; i++)
			list_moved((struct gw_list *)(void *)(stored[from] + at[i]), (struct gw_list *)(void *)(now + at[i]));
	}
	if (to >= 0) {
		memcpy(now, stored[to], sizeof(noc_fabric));
		for (int i = 0; i < 2; i++)
			list_moved((struct gw_list *)(void *)(now + at[i]), (struct gw_list *)(void *)(stored[to] + at[i]));
	}
}

void sim_wire_begin(void)
{
	memset(stored, 0, sizeof(stored));
	memset(sim_nics, 0, sizeof(sim_nics));
	noc_conns_max = sim_one_in(4) ? 1 + (uint32_t)sim_rnd(2) : CONNS_MIN;
	for (int i = 0; i < SIM_MEMBERS; i++) {
		gw_list_init(&sim_nics[i].events);
		gw_list_init(&sim_nics[i].completions);
		gw_list_init(&sim_nics[i].regions);
	}
	sim_wants_registered = sim_one_in(3);
}

void sim_wire_end(void)
{
	if (sim_ends_n)
		sim_fail("endpoints are left open");
	for (int i = 0; i < SIM_MEMBERS; i++)
		if (sim_nics[i].listens || sim_blob_first(&sim_nics[i].events) || sim_blob_first(&sim_nics[i].completions))
			sim_fail("a queue is left with something in it");
}
