/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Atomic operations that wait for the program.
 *
 * MPICH does some accumulates itself: those with gaps, or of pairs. They come as active messages, and it works on the window
 * when a poll has handed one out, outside the gate. An atomic operation that the agent did meanwhile would not be atomic
 * against that. So from the first such message on, while there are windows, those that come in an agent's turn are kept for
 * the program's next poll: a program that mixes both makes progress in MPI only, as it does where all accumulates are
 * messages. Reading and writing need not be atomic against anything.
 *
 * Which message that is, says its first byte: the handler's number in the header of MPICH's active messages (ofi_pre.h), as
 * counted in mpidig.h. Both are those of the MPICH that we build on.
 */
#include "mpi-shim/rma.h"

enum { MPIDIG_ACC_REQ = 14, MPIDIG_CSWAP_ACK = 25 }; /* all accumulates are between these */

struct held { /* a request. User area */
	struct held *next;
	struct noc_msg msg;
	unsigned char payload[];
};

void shim_hold_look(struct shim_ep *ep, const struct noc_msg *msg)
{
	const uint8_t *first = msg->payload;

	/* an offer is too long for us to see its beginning now */
	if (msg->offer || (msg->len && *first >= MPIDIG_ACC_REQ && *first <= MPIDIG_CSWAP_ACK))
		ep->is_mixed = true;
}

bool shim_hold_keep(struct shim_ep *ep, const struct noc_msg *msg)
{
	struct held *h;

	if (!ct_agent_is_me()) {
		shim_hold_serve(ep); /* they came before this one */
		return false;
	}
	h = ct_area_alloc(sizeof(*h) + msg->len);
	if (!h)
		shim_die("the user area is full (%zu bytes): no room to keep a one-sided operation", ct_area_used());
	h->next = NULL;
	h->msg = *msg;
	memcpy(h->payload, msg->payload, msg->len);
	h->msg.payload = h->payload;
	if (ep->held)
		ep->held_last->next = h;
	else
		ep->held = h;
	ep->held_last = h;
	return true;
}

static void drop_first(struct shim_ep *ep)
{
	struct held *h = ep->held;

	ep->held = h->next;
	ct_area_free(h, sizeof(*h) + h->msg.len);
}

void shim_hold_serve(struct shim_ep *ep)
{
	while (ep->held) {
		shim_atomic_do(ep, &ep->held->msg);
		drop_first(ep);
	}
}

void shim_hold_close(struct shim_ep *ep)
{
	while (ep->held)
		drop_first(ep);
}
