/* SPDX-License-Identifier: BSD-2-Clause */
/* The public face's common part: init, the lock, waiting, and messages for objects that do not exist yet. */
#include "noc/public.h"

#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards is_member, and serialises callers of the gate */
static unsigned is_member;
static struct gw_error last_error;

NOC_API int noc_init(void)
{
	struct gw_error why = { 0 };
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (is_member++ == 0) {
		rc = noc_start(&why);
		if (rc) {
			is_member--;
			last_error = why;
		} else {
			ct_gate_enter(CT_DOING_RECV);
			noc_mailbox_bind();
			noc_portal_bind();
			noc_sync_bind();
			ct_gate_leave();
		}
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

NOC_API void noc_fini(void)
{
	pthread_mutex_lock(&lock);
	if (is_member && --is_member == 0)
		noc_stop();
	pthread_mutex_unlock(&lock);
}

NOC_API const char *noc_error(void)
{
	return last_error.text;
}

NOC_API uint32_t noc_process(void)
{
	return noc_me ? noc_me->proc : 0;
}

NOC_API uint32_t noc_count(void)
{
	const char *size = getenv("PMI_SIZE"); /* mpirun sets it for every program */

	return size ? (uint32_t)strtoul(size, NULL, 10) : 1;
}

NOC_API uint32_t noc_cluster(void)
{
	return noc_me ? noc_me->cluster : 0;
}

int noc_public_enter(void)
{
	pthread_mutex_lock(&lock);
	if (!is_member) {
		pthread_mutex_unlock(&lock);
		return -ENOTCONN;
	}
	ct_gate_enter(CT_DOING_SEND);
	return 0;
}

void noc_public_leave(void)
{
	ct_gate_leave();
	pthread_mutex_unlock(&lock);
}

int noc_public_wait(bool (*is_ready)(void *arg), void *arg, int timeout_ms)
{
	uint64_t end = timeout_ms < 0 ? UINT64_MAX : gw_now_ns() + (uint64_t)timeout_ms * 1000000u;
	uint32_t empty = 0;

	for (;;) {
		int n = noc_poll(32);

		if (is_ready(arg))
			return 0;
		if (timeout_ms >= 0 && gw_now_ns() >= end)
			return -ETIMEDOUT;
		empty = n ? 0 : empty + 1;
		if (empty)
			noc_wait(empty - 1); /* 0: a wait begins */
		if (empty % 64 == 63) { /* let other threads and the agent in */
			noc_public_leave();
			pthread_mutex_lock(&lock);
			ct_gate_enter(CT_DOING_WAIT);
		}
	}
}

void noc_stray_keep(struct gw_list *strays, const struct noc_msg *m)
{
	size_t len = m->offer ? 0 : m->len, size = sizeof(struct noc_stray) + len;
	struct noc_stray *s = ct_area_alloc(size);

	if (!s) {
		gw_log(GW_ERROR, "noc: out of user area for a message to port %u, which nobody has created", noc_public_port(m));
		abort();
	}
	s->msg = *m;
	s->alloc_size = size;
	if (!m->offer) {
		memcpy(s->payload, m->payload, len);
		s->msg.payload = s->payload;
	}
	gw_list_append(strays, &s->link);
}

void noc_stray_take(struct gw_list *strays, uint32_t port, void (*take)(const struct noc_msg *m))
{
	gw_list_for_safe(l, strays) {
		struct noc_stray *s = gw_list_entry(l, struct noc_stray, link);

		if (noc_public_port(&s->msg) != port)
			continue;
		gw_list_remove(&s->link);
		take(&s->msg);
		ct_area_free(s, s->alloc_size);
	}
}
