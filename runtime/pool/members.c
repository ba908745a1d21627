/* SPDX-License-Identifier: BSD-2-Clause */
/* Members: who there is, by their ids, and how a word gets to one of them. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

struct pool_member *pool_member_of(const struct pool *p, uint32_t id)
{
	gw_list_for(e, &p->members)
		if (gw_list_entry(e, struct pool_member, node)->id == id)
			return gw_list_entry(e, struct pool_member, node);
	return NULL;
}

json_t *pool_member_json(const struct pool_member *m)
{
	return json_pack("{s:I, s:s, s:s, s:i, s:i, s:b}", "id", (json_int_t)m->id, "host", m->host, "address", m->address, "port",
	                 (int)m->port, "slots", (int)m->slots, "leaving", (int)m->is_leaving);
}

/* In the order of their ids */
struct pool_member *pool_member_add(struct pool *p, const json_t *j)
{
	struct pool_member *m = pool_member_of(p, (uint32_t)pool_number(j, "id"));
	struct gw_list *at = &p->members;

	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m)
			abort(); /* a keeper that does not know its members is of no use */
		m->id = (uint32_t)pool_number(j, "id");
		gw_list_for(e, &p->members) {
			at = e;
			if (gw_list_entry(e, struct pool_member, node)->id > m->id)
				break;
			at = &p->members;
		}
		gw_list_append(at, &m->node); /* before it */
	}
	snprintf(m->host, sizeof(m->host), "%s", pool_text(j, "host"));
	snprintf(m->address, sizeof(m->address), "%s", pool_text(j, "address"));
	m->port = (uint16_t)pool_number(j, "port");
	m->slots = (uint32_t)pool_number(j, "slots");
	m->is_leaving |= json_is_true(json_object_get(j, "leaving")); /* for ever: a leader that died may not have told all */
	return m;
}

void pool_member_add_self(struct pool *p)
{
	json_t *j = pool_member_json(&p->me);

	pool_member_add(p, j)->is_here = true;
	json_decref(j);
}

bool pool_is_self(const struct pool *p, const struct pool_member *m) { return m->id == p->me.id; }

void pool_send(struct pool *p, uint32_t id, json_t *msg)
{
	struct pool_member *m = pool_member_of(p, id);

	if (!m) {
		json_decref(msg);
		return;
	}
	json_object_set_new(msg, "term", json_integer((json_int_t)p->term));
	p->ops->send(p->ctx, m, msg);
}

void pool_send_leader(struct pool *p, json_t *msg) { pool_send(p, p->leader, msg); }

/* A host has one keeper of a pool, whatever it is called and wherever it listens: another one there has ended. */
bool pool_is_same_place(const struct pool_member *a, const struct pool_member *b)
{
	return strcmp(a->host, b->host) == 0 && strcmp(a->address, b->address) == 0;
}

/* Where it was, is looked for it; once, whatever it was called. */
void pool_member_remember(struct pool *p, struct pool_member *m)
{
	gw_list_remove(&m->node);
	gw_list_for_safe(e, &p->gone) {
		struct pool_member *old = gw_list_entry(e, struct pool_member, node);

		if (!pool_is_same_place(old, m))
			continue;
		gw_list_remove(&old->node);
		free(old);
	}
	if (!m->port)
		free(m); /* it has left */
	else
		gw_list_append(&p->gone, &m->node);
}

void pool_members_forget(struct gw_list *members)
{
	gw_list_for_safe(e, members) {
		gw_list_remove(e);
		free(gw_list_entry(e, struct pool_member, node));
	}
}
