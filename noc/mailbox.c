/* SPDX-License-Identifier: BSD-2-Clause */
/* Mailbox: small messages, N:1, with a window per sender so that no mailbox grows without bound. */
#include "noc/public.h"

enum { MB_MESSAGE = 1, MB_CREDIT = 2 }; /* written numbers */

struct mb_message {
	struct gw_list link;
	uint32_t from;
	size_t len;
	unsigned char bytes[NOC_MAILBOX_MESSAGE_MAX];
};

struct noc_mailbox { /* user area */
	struct gw_list link;
	bool is_own;
	uint32_t owner, port;
	/* own: what is not read, and how many of each sender were read since its last credit */
	struct gw_list unread;
	uint32_t *read_of;
	/* theirs: messages that we may still send */
	uint32_t credit;
};

static struct gw_list own = { &own, &own }, theirs = { &theirs, &theirs }, strays = { &strays, &strays };

static struct noc_mailbox *find(struct gw_list *list, uint32_t owner, uint32_t port)
{
	gw_list_for(l, list) {
		struct noc_mailbox *mb = gw_list_entry(l, struct noc_mailbox, link);

		if (mb->port == port && mb->owner == owner)
			return mb;
	}
	return NULL;
}

static void take(const struct noc_msg *m)
{
	struct noc_mailbox *mb;
	struct mb_message *msg;

	if (noc_public_op(m) == MB_CREDIT) { /* of the mailbox that we write to */
		mb = find(&theirs, m->src, noc_public_port(m));
		if (mb)
			mb->credit += (uint32_t)m->data;
		return;
	}
	mb = find(&own, noc_me->proc, noc_public_port(m));
	msg = mb ? ct_area_alloc(sizeof(*msg)) : NULL;
	if (!msg || m->len > NOC_MAILBOX_MESSAGE_MAX) {
		ct_area_free(msg, sizeof(*msg));
		noc_stray_keep(&strays, m);
		return;
	}
	msg->from = m->src;
	msg->len = m->len;
	memcpy(msg->bytes, m->payload, m->len);
	gw_list_append(&mb->unread, &msg->link);
}

static const struct noc_port_ops ops = { .message = take };

void noc_mailbox_bind(void)
{
	noc_port_bind(NOC_PORT_MAILBOX, &ops);
}

NOC_API int noc_mailbox_create(struct noc_mailbox **out, uint32_t port)
{
	struct noc_mailbox *mb = NULL;
	int rc = noc_public_enter();

	if (rc)
		return rc;
	if (find(&own, noc_me->proc, port)) {
		rc = -EEXIST;
		goto leave;
	}
	rc = -ENOMEM;
	mb = ct_area_zalloc(sizeof(*mb));
	if (!mb)
		goto leave;
	mb->read_of = ct_area_zalloc(noc_me->names_max * sizeof(*mb->read_of));
	if (!mb->read_of) {
		ct_area_free(mb, sizeof(*mb));
		goto leave;
	}
	rc = 0;
	mb->is_own = true;
	mb->owner = noc_me->proc;
	mb->port = port;
	gw_list_init(&mb->unread);
	gw_list_append(&own, &mb->link);
	noc_stray_take(&strays, port, take);
	*out = mb;
leave:
	noc_public_leave();
	return rc;
}

NOC_API int noc_mailbox_unlink(struct noc_mailbox *mb)
{
	int rc;

	if (!mb->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	gw_list_remove(&mb->link);
	gw_list_for_safe(l, &mb->unread) {
		gw_list_remove(l);
		ct_area_free(gw_list_entry(l, struct mb_message, link), sizeof(struct mb_message));
	}
	ct_area_free(mb->read_of, noc_me->names_max * sizeof(*mb->read_of));
	ct_area_free(mb, sizeof(*mb));
	noc_public_leave();
	return 0;
}

NOC_API int noc_mailbox_open(struct noc_mailbox **out, uint32_t owner, uint32_t port)
{
	struct noc_mailbox *mb;
	int rc;

	if (owner >= noc_count())
		return -EINVAL;
	rc = noc_public_enter();
	if (rc)
		return rc;
	mb = find(&theirs, owner, port);
	if (!mb) {
		mb = ct_area_zalloc(sizeof(*mb));
		if (mb) {
			mb->owner = owner;
			mb->port = port;
			mb->credit = NOC_MAILBOX_WINDOW;
			gw_list_init(&mb->unread);
			gw_list_append(&theirs, &mb->link);
		}
	}
	noc_public_leave();
	if (!mb)
		return -ENOMEM;
	*out = mb;
	return 0;
}

/* The record stays: its credit is owed to us by the owner, whoever opens the mailbox next. */
NOC_API int noc_mailbox_close(struct noc_mailbox *mb)
{
	return mb->is_own ? -EBADF : 0;
}

static bool has_credit(void *mb)
{
	return ((struct noc_mailbox *)mb)->credit > 0;
}

NOC_API int noc_mailbox_write(struct noc_mailbox *mb, const void *message, size_t len, int timeout_ms)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)message, .iov_len = len };
	int rc;

	if (len > NOC_MAILBOX_MESSAGE_MAX)
		return -EMSGSIZE;
	if (mb->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	rc = noc_public_wait(has_credit, mb, timeout_ms);
	if (rc == 0)
		rc = noc_send(mb->owner, NOC_PORT_MAILBOX, noc_public_tag(mb->port, MB_MESSAGE), 0, &iov, 1, NOC_F_COPY, NULL, NULL);
	if (rc == 0)
		mb->credit--;
	noc_public_leave();
	return rc;
}

static bool has_unread(void *mb)
{
	return !gw_list_is_empty(&((struct noc_mailbox *)mb)->unread);
}

NOC_API ssize_t noc_mailbox_read(struct noc_mailbox *mb, void *message, size_t size, uint32_t *from, int timeout_ms)
{
	struct mb_message *msg;
	ssize_t rc;

	if (!mb->is_own)
		return -EBADF;
	rc = noc_public_enter();
	if (rc)
		return rc;
	rc = noc_public_wait(has_unread, mb, timeout_ms);
	if (rc)
		goto leave;
	msg = gw_list_entry(mb->unread.next, struct mb_message, link);
	if (msg->len > size) {
		rc = -EMSGSIZE;
		goto leave;
	}
	memcpy(message, msg->bytes, msg->len);
	if (from)
		*from = msg->from;
	rc = (ssize_t)msg->len;
	gw_list_remove(&msg->link);
	/* give credit back by halves of the window: one small message for many */
	if (++mb->read_of[msg->from] == NOC_MAILBOX_WINDOW / 2) {
		noc_send(msg->from, NOC_PORT_MAILBOX, noc_public_tag(mb->port, MB_CREDIT), NOC_MAILBOX_WINDOW / 2, NULL, 0,
		         NOC_F_COPY | NOC_F_RESERVE, NULL, NULL);
		mb->read_of[msg->from] = 0;
	}
	ct_area_free(msg, sizeof(*msg));
leave:
	noc_public_leave();
	return rc;
}
