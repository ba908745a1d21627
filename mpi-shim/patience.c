/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is done when the answer to a one-sided operation is long in coming.
 *
 * An owner that is in MPI answers within a microsecond or so. One that computes does not look into its inbox: its agent
 * does, when somebody rings. So whoever polls in vain with answers due rings, after a time that says that the owner is
 * not in MPI, and again after longer ones: a ring may have met an owner that was just leaving MPI. Over the network the
 * agent hears the message itself.
 */
#include "mpi-shim/rma.h"

#define PATIENCE_FIRST (8u << 10)  /* ticks: three or four microseconds */
#define PATIENCE_LAST  (2u << 20)  /* less than a millisecond */

void shim_rma_impatient(struct shim_ep *ep, uint64_t now, bool will_sleep)
{
	if (!ep->asked_ticks || now < ep->asked_ticks) { /* the clock of another host, maybe */
		ep->asked_ticks = now;
		ep->patience = will_sleep ? 0 : PATIENCE_FIRST;
	}
	if (now - ep->asked_ticks < ep->patience)
		return;
	for (uint32_t i = 0; i < ep->names; i++)
		if (ep->unanswered[i])
			noc_bell_ring(i);
	ep->asked_ticks = now;
	ep->patience = ep->patience < PATIENCE_FIRST ? PATIENCE_FIRST : ep->patience < PATIENCE_LAST ? 2 * ep->patience : PATIENCE_LAST;
}
