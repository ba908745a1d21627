/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Can this host reach the others? The head sees only whether it reaches each of them; where two hosts have lost each other
 * their ranks would wait for ever. So each daemon connects to a daemon of one other host after the other, and proves itself
 * as for a session, and that is all. A host is out of reach when its kernel has not taken a connection for LOST_MS; a daemon
 * that is stopped has a kernel that does.
 */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

#define PACE_MS 500  /* one host each time, and that which does not answer until it is told */
#define TRY_MS  2000
#define SLOW_MS 20000 /* a daemon that does not take its connections: they must not fill what its kernel holds for it */
#define LOST_MS 9000 /* mpirun's verdict on a host that has vanished for all comes before */

struct probe {
	struct clusterd *d;
	struct gw_timer *timer;
	struct gw_trust *trust;     /* to @cluster; NULL: none is under way */
	uint32_t cluster;
	uint64_t pause_ns;          /* until then nobody is asked */
	uint64_t since_ns, failing_ns; /* it began; the first of those that have failed in a row began. 0: none has */
	bool *is_told;              /* of each cluster */
};

static void heard(struct probe *p)
{
	p->failing_ns = 0;
	p->is_told[p->cluster] = false;
}

static void failed(struct probe *p, const char *text)
{
	uint64_t since = p->failing_ns ? p->failing_ns : p->since_ns;

	p->failing_ns = p->is_told[p->cluster] ? 0 : since;
	if (p->is_told[p->cluster] || gw_now_ns() - since < LOST_MS * 1000000ull)
		return;
	p->is_told[p->cluster] = true;
	p->failing_ns = 0;
	gw_link_send_json(p->d->head, json_pack("{s:s, s:i, s:s}", "op", "unreachable", "cluster", (int)p->cluster, "text", text));
}

static void on_done(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct probe *p = ctx;

	(void)peer;
	p->trust = NULL;
	if (fd >= 0)
		close(fd);
	if (fd < 0 && (why->code == -EHOSTUNREACH || why->code == -ENETUNREACH || why->code == -ENETDOWN || why->code == -EHOSTDOWN))
		failed(p, why->text);
	else
		heard(p); /* refused, or without a proof: the host is there */
	if (fd < 0 && why->code == -ETIMEDOUT)
		p->pause_ns = gw_now_ns() + SLOW_MS * 1000000ull;
}

static void on_pace(void *ctx)
{
	struct probe *p = ctx;
	struct clusterd *d = p->d;
	struct gw_trust_who me = { GW_TRUST_LOOK, d->job, d->cluster };
	struct gw_error why = { 0 };
	int fd;

	if (p->trust || gw_now_ns() < p->pause_ns)
		return;
	if (!p->failing_ns && !far_next(d, &p->cluster))
		return;
	p->since_ns = gw_now_ns();
	fd = far_dial(d, p->cluster, &why);
	if (fd == FAR_UNKNOWN)
		p->failing_ns = 0; /* it has left, or been lost to all */
	else if (fd < 0)
		on_done(p, -1, NULL, &why);
	else if (gw_trust_connect(&p->trust, d->loop, fd, d->here.secret, &me, TRY_MS, on_done, p) < 0)
		p->trust = NULL;
}

int probe_init(struct clusterd *d)
{
	struct probe *p = calloc(1, sizeof(*p));

	if (p)
		p->is_told = calloc(RT_CLUSTERS_MAX, sizeof(*p->is_told));
	if (!p || !p->is_told || gw_loop_timer(d->loop, &p->timer, PACE_MS, PACE_MS, on_pace, p) < 0) {
		free(p ? p->is_told : NULL);
		free(p);
		return -ENOMEM;
	}
	p->d = d;
	d->probe = p;
	return 0;
}

void probe_fini(struct clusterd *d)
{
	struct probe *p = d->probe;

	if (!p)
		return;
	gw_timer_cancel(p->timer);
	gw_trust_cancel(p->trust);
	free(p->is_told);
	free(p);
	d->probe = NULL;
}
