/* SPDX-License-Identifier: BSD-2-Clause */
/* Sync: signals, one to many or many to one, counted per sender so that a fast sender is never taken for a slow one. */
#include "noc/public.h"

struct noc_sync { /* user area */
	struct gw_list link;
	bool is_own;
	uint32_t port, n;
	uint32_t *nodes;
	uint32_t *signals; /* own: from each node, not yet waited for */
};

static struct gw_list own = { &own, &own }, strays = { &strays, &strays };

static struct noc_sync *find(uint32_t port)
{
	gw_list_for(l, &own) {
		struct noc_sync *s = gw_list_entry(l, struct noc_sync, link);

		if (s->port == port)
			return s;
	}
	return NULL;
}

static void message(const struct noc_msg *m)
{
	struct noc_sync *s = find(noc_public_port(m));

	if (!s) {
		noc_stray_keep(&strays, m);
		return;
	}
	for (uint32_t i = 0; i < s->n; i++)
		if (s->nodes[i] == m->src) {
			s->signals[i]++;
			return;
		}
	gw_log(GW_WARN, "noc: process %u signals sync %u, which does not wait for it; ignored", m->src, s->port);
}

static const struct noc_port_ops ops = { .message = message };

void noc_sync_bind(void)
{
	noc_port_bind(NOC_PORT_SYNC, &ops);
}

static void sync_free(struct noc_sync *s)
{
	if (!s)
		return;
	ct_area_free(s->nodes, s->n * sizeof(*s->nodes));
	ct_area_free(s->signals, s->n * sizeof(*s->signals));
	ct_area_free(s, sizeof(*s));
}

static int sync_new(struct noc_sync **out, uint32_t port, const uint32_t *nodes, uint32_t n, bool is_own)
{
	struct noc_sync *s;
	int rc = -ENOMEM;

	for (uint32_t i = 0; i < n; i++)
		if (nodes[i] >= noc_count())
			return -EINVAL;
	rc = noc_public_enter();
	if (rc)
		return rc;
	if (is_own && find(port)) {
		noc_public_leave();
		return -EEXIST;
	}
	s = ct_area_zalloc(sizeof(*s));
	if (s) {
		s->n = n;
		s->nodes = ct_area_alloc(n * sizeof(*s->nodes));
		s->signals = ct_area_zalloc(n * sizeof(*s->signals));
	}
	if (!s || !s->nodes || !s->signals) {
		sync_free(s);
		noc_public_leave();
		return -ENOMEM;
	}
	memcpy(s->nodes, nodes, n * sizeof(*nodes));
	s->port = port;
	s->is_own = is_own;
	gw_list_init(&s->link);
	if (is_own) {
		gw_list_append(&own, &s->link);
		noc_stray_take(&strays, port, message);
	}
	*out = s;
	noc_public_leave();
	return 0;
}

/* ONE_TO_ALL: one node on the waiting side; ALL_TO_ONE: one node on the signalling side. */
static bool is_shape_right(uint32_t n, enum noc_sync_type type, bool is_waiting_side)
{
	if (n == 0 || (type != NOC_SYNC_ONE_TO_ALL && type != NOC_SYNC_ALL_TO_ONE))
		return false;
	return n == 1 || (type == NOC_SYNC_ALL_TO_ONE) == is_waiting_side;
}

NOC_API int noc_sync_create(struct noc_sync **out, uint32_t port, const uint32_t *nodes, uint32_t n, enum noc_sync_type type)
{
	return is_shape_right(n, type, true) ? sync_new(out, port, nodes, n, true) : -EINVAL;
}

NOC_API int noc_sync_open(struct noc_sync **out, uint32_t port, const uint32_t *nodes, uint32_t n, enum noc_sync_type type)
{
	return is_shape_right(n, type, false) ? sync_new(out, port, nodes, n, false) : -EINVAL;
}

static int sync_remove(struct noc_sync *s, bool is_own)
{
	int rc;

	if (s->is_own != is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	gw_list_remove(&s->link);
	sync_free(s);
	noc_public_leave();
	return 0;
}

NOC_API int noc_sync_unlink(struct noc_sync *s) { return sync_remove(s, true); }
NOC_API int noc_sync_close(struct noc_sync *s) { return sync_remove(s, false); }

static bool is_signalled(void *arg)
{
	struct noc_sync *s = arg;

	for (uint32_t i = 0; i < s->n; i++)
		if (!s->signals[i])
			return false;
	return true;
}

NOC_API int noc_sync_wait(struct noc_sync *s, int timeout_ms)
{
	int rc;

	if (!s->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	rc = noc_public_wait(is_signalled, s, timeout_ms);
	for (uint32_t i = 0; rc == 0 && i < s->n; i++)
		s->signals[i]--;
	noc_public_leave();
	return rc;
}

NOC_API int noc_sync_signal(struct noc_sync *s)
{
	int rc;

	if (s->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	for (uint32_t i = 0; i < s->n && rc == 0; i++)
		rc = noc_send(s->nodes[i], NOC_PORT_SYNC, noc_public_tag(s->port, 0), 0, NULL, 0, NOC_F_COPY | NOC_F_RESERVE, NULL,
		              NULL);
	noc_public_leave();
	return rc;
}
