/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A daemon that leaves a job which goes on. The head has seen to it that no rank lives here and none is on its way; what may
 * be left is the end of sessions, which other daemons wait for.
 */
#include <sys/wait.h>

#include "runtime/clusterd/clusterd.h"

#define LOOK_MS 5

static void look(void *ctx)
{
	struct clusterd *d = ctx;
	struct noc_cluster_entry *c = &d->segment.clusters[d->cluster];

	if (!gw_list_is_empty(&d->ranks) || !mig_is_idle(d->mig))
		return;
	gw_timer_cancel(d->leaving);
	d->leaving = NULL;
	gw_fault("rt.leave.idle");
	atomic_store_explicit(&c->is_up, 0, memory_order_release); /* who takes over a lock of ours need not wait */
	gw_link_send_json(d->head, json_pack("{s:s}", "op", "left"));
	gw_event("cluster.leaves", "{s:i}", "cluster", (int)d->cluster);
	clusterd_end(d, 0);
}

void leave_begin(struct clusterd *d)
{
	if (d->is_leaving)
		return;
	d->is_leaving = true;
	gw_fault("rt.leave.asked");
	if (gw_loop_timer(d->loop, &d->leaving, LOOK_MS, LOOK_MS, look, d) < 0)
		clusterd_fatal(d, "cluster %u cannot leave: out of memory", d->cluster);
	else
		look(d);
}

/* The first daemon of a host is what its launcher has started, and the others hang on the same launcher: it stays, as nothing
 * but a process, until they have ended. */
void leave_linger(const struct clusterd *d)
{
	if (d->is_leaving && d->join.is_joined)
		while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
			;
}
