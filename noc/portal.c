/* SPDX-License-Identifier: BSD-2-Clause */
/* Portal: bulk data, 1:1, from the sender that the owner allows. */
#include "noc/public.h"

enum { PORTAL_ALLOW = 1, PORTAL_DATA = 2 }; /* written numbers */

struct noc_portal { /* user area */
	struct gw_list link;
	bool is_own;
	uint32_t owner, port;
	/* own */
	bool is_allowed, has_data, is_received, is_closed;
	uint32_t allowed;
	struct noc_msg data;         /* what the allowed sender sent: an offer, or a copy of its bytes */
	size_t alloc_size;
	/* theirs */
	uint32_t permissions;
	bool is_sent;
};

static struct gw_list own = { &own, &own }, theirs = { &theirs, &theirs }, strays = { &strays, &strays };

static struct noc_portal *find(struct gw_list *list, uint32_t owner, uint32_t port)
{
	gw_list_for(l, list) {
		struct noc_portal *p = gw_list_entry(l, struct noc_portal, link);

		if (p->port == port && p->owner == owner)
			return p;
	}
	return NULL;
}

static void message(const struct noc_msg *m)
{
	struct noc_portal *p;

	if (noc_public_op(m) == PORTAL_ALLOW) {
		p = find(&theirs, m->src, noc_public_port(m));
		if (p)
			p->permissions++;
		else
			noc_stray_keep(&strays, m); /* allowed before it was opened */
		return;
	}
	p = find(&own, noc_me->proc, noc_public_port(m));
	if (!p || !p->is_allowed || p->has_data || p->allowed != m->src) {
		gw_log(GW_WARN, "noc: process %u wrote to portal %u without being allowed; dropped", m->src, noc_public_port(m));
		if (m->offer)
			noc_bulk_accept(m->offer, NULL, 0, NULL);
		return;
	}
	p->data = *m;
	p->has_data = true;
	if (!m->offer) {
		void *copy = ct_area_alloc(m->len + 1);

		if (!copy) {
			gw_log(GW_ERROR, "noc: out of user area for %llu bytes of portal %u", (unsigned long long)m->len, p->port);
			p->has_data = false;
			return;
		}
		memcpy(copy, m->payload, m->len);
		p->data.payload = copy;
		p->alloc_size = m->len + 1;
	}
}

static void received(void *context, uint64_t len, int status)
{
	struct noc_portal *p = context;

	if (p)
		p->is_received = true;
}

static void sent(void *context, int status)
{
	((struct noc_portal *)context)->is_sent = true;
}

static const struct noc_port_ops ops = { .message = message, .received = received, .sent = sent };

void noc_portal_bind(void)
{
	noc_port_bind(NOC_PORT_PORTAL, &ops);
}

static int portal_new(struct noc_portal **out, struct gw_list *list, uint32_t owner, uint32_t port)
{
	struct noc_portal *p = ct_area_zalloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->is_own = list == &own;
	p->owner = owner;
	p->port = port;
	gw_list_append(list, &p->link);
	*out = p;
	return 0;
}

NOC_API int noc_portal_create(struct noc_portal **out, uint32_t port)
{
	int rc = noc_public_enter();

	if (rc)
		return rc;
	rc = find(&own, noc_me->proc, port) ? -EEXIST : portal_new(out, &own, noc_me->proc, port);
	noc_public_leave();
	return rc;
}

NOC_API int noc_portal_unlink(struct noc_portal *p)
{
	int rc;

	if (!p->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	if (p->has_data && p->data.offer)
		noc_bulk_accept(p->data.offer, NULL, 0, NULL);
	else if (p->has_data)
		ct_area_free((void *)(uintptr_t)p->data.payload, p->alloc_size);
	gw_list_remove(&p->link);
	ct_area_free(p, sizeof(*p));
	noc_public_leave();
	return 0;
}

NOC_API int noc_portal_allow(struct noc_portal *p, uint32_t from)
{
	int rc;

	if (!p->is_own)
		return -EBADF;
	if (from >= noc_count())
		return -EINVAL;
	rc = noc_public_enter();
	if (rc)
		return rc;
	if (p->is_allowed) {
		rc = -EBUSY;
	} else {
		rc = noc_send(from, NOC_PORT_PORTAL, noc_public_tag(p->port, PORTAL_ALLOW), 0, NULL, 0, NOC_F_COPY, NULL, NULL);
		if (rc == 0) {
			p->is_allowed = true;
			p->allowed = from;
		}
	}
	noc_public_leave();
	return rc;
}

static bool has_data(void *p) { return ((struct noc_portal *)p)->has_data; }
static bool is_received(void *p) { return ((struct noc_portal *)p)->is_received; }
static bool is_permitted(void *p) { return ((struct noc_portal *)p)->permissions > 0; }
static bool is_sent(void *p) { return ((struct noc_portal *)p)->is_sent; }

NOC_API ssize_t noc_portal_read(struct noc_portal *p, void *buf, size_t len, int timeout_ms)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	ssize_t rc;

	if (!p->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	if (!p->is_allowed) {
		rc = -EPERM;
		goto leave;
	}
	rc = noc_public_wait(has_data, p, timeout_ms);
	if (rc)
		goto leave;
	if (p->data.offer) {
		p->is_received = false;
		rc = noc_bulk_accept(p->data.offer, &iov, 1, p);
		if (rc)
			goto leave;
		noc_public_wait(is_received, p, -1);
	} else {
		memcpy(buf, p->data.payload, p->data.len < len ? p->data.len : len);
		ct_area_free((void *)(uintptr_t)p->data.payload, p->alloc_size);
	}
	rc = p->data.len > len ? -EMSGSIZE : (ssize_t)p->data.len;
	p->has_data = p->is_allowed = false;
leave:
	noc_public_leave();
	return rc;
}

NOC_API int noc_portal_open(struct noc_portal **out, uint32_t owner, uint32_t port)
{
	struct noc_portal *p;
	int rc;

	if (owner >= noc_count())
		return -EINVAL;
	rc = noc_public_enter();
	if (rc)
		return rc;
	p = find(&theirs, owner, port);
	if (!p) {
		rc = portal_new(&p, &theirs, owner, port);
		if (rc == 0)
			noc_stray_take(&strays, port, message);
	}
	if (rc == 0)
		*out = p;
	noc_public_leave();
	return rc;
}

/* The record stays, since permissions that came for it are ours. */
NOC_API int noc_portal_close(struct noc_portal *p)
{
	return p->is_own ? -EBADF : 0;
}

NOC_API ssize_t noc_portal_write(struct noc_portal *p, const void *buf, size_t len, int timeout_ms)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };
	bool is_done = false;
	ssize_t rc;

	if (p->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	rc = noc_public_wait(is_permitted, p, timeout_ms);
	if (rc)
		goto leave;
	p->is_sent = false;
	rc = noc_send(p->owner, NOC_PORT_PORTAL, noc_public_tag(p->port, PORTAL_DATA), 0, &iov, 1, 0, p, &is_done);
	if (rc)
		goto leave;
	p->permissions--;
	if (!is_done)
		noc_public_wait(is_sent, p, -1);
	rc = (ssize_t)len;
leave:
	noc_public_leave();
	return rc;
}
