/* SPDX-License-Identifier: BSD-2-Clause */
/* Words: who may say which, and those of who leads. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

static void take_list(struct pool *p, const struct pool_member *from, json_t *msg)
{
	json_t *members = json_object_get(msg, "members");
	uint64_t term = (uint64_t)pool_number(msg, "term");
	bool is_in = false;

	if (from->id != p->leader || term < p->term || !json_is_array(members))
		return;
	for (size_t i = 0; i < json_array_size(members); i++)
		is_in |= (uint32_t)pool_number(json_array_get(members, i), "id") == p->me.id;
	if (!is_in)
		return; /* it comes before the answer to our joining */
	p->term = term;
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		bool is_listed = false;

		for (size_t i = 0; i < json_array_size(members); i++)
			is_listed |= (uint32_t)pool_number(json_array_get(members, i), "id") == m->id;
		if (!is_listed && m->is_leaving)
			m->port = 0;
		if (!is_listed)
			pool_member_remember(p, m);
	}
	for (size_t i = 0; i < json_array_size(members); i++)
		pool_member_add(p, json_array_get(members, i))->is_gone = false;
	gw_list_for(e, &p->members)
		gw_list_entry(e, struct pool_member, node)->is_resigned = false;
	p->me.is_leaving = pool_member_of(p, p->me.id)->is_leaving;
	json_decref(p->list);
	p->list = json_incref(msg);
	pool_step(p, POOL_EV_LIST);
}

static void answer_fenced(struct pool *p, const struct pool_member *to)
{
	struct pool_member *l = pool_member_of(p, p->leader);
	json_t *msg = json_pack("{s:s, s:I, s:I, s:o*}", "op", "fenced", "term", (json_int_t)p->term, "leader", (json_int_t)p->leader,
	                        "member", l ? pool_member_json(l) : NULL);

	p->ops->send(p->ctx, to, msg);
}

static void do_join(struct pool *p, const struct pool_member *from, json_t *msg)
{
	json_t *who = json_object_get(msg, "member");
	struct pool_member *m = pool_member_of(p, from->id);
	bool is_fresh = json_is_true(json_object_get(msg, "fresh"));

	if ((uint32_t)pool_number(who, "id") != from->id)
		return;
	if (p->state == POOL_FOLLOW && p->leader != from->id) {
		if (is_fresh || !m)
			answer_fenced(p, from); /* not here: there is a leader, and where */
		return; /* it has lost the leader, we have not: it asks again */
	}
	if (p->state != POOL_LEAD && p->state != POOL_GATHER)
		return;
	if (!is_fresh && (!m || m->is_gone || (uint64_t)pool_number(msg, "term") > p->term)) {
		answer_fenced(p, from);
		return;
	}
	m = pool_member_add(p, who);
	m->silent_s = 0;
	if (p->state == POOL_GATHER || !m->is_here) /* else it only asks again */
		pool_take_owned(p, m->id, msg);
	m->is_here = true;
	m->is_gone = false;
	if (p->state == POOL_LEAD)
		pool_publish(p);
	else if (pool_are_all_here(p))
		pool_step(p, POOL_EV_ALL_HERE);
}

static void do_fenced(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint64_t term = (uint64_t)pool_number(msg, "term");
	json_t *leader = json_object_get(msg, "member");

	(void)from;
	if (p->is_down || (uint32_t)pool_number(msg, "leader") == p->me.id ||
	    ((p->state == POOL_LEAD || p->state == POOL_GATHER) && term <= p->term) || (p->state == POOL_FOLLOW && from->id != p->leader))
		return;
	if (term > p->term)
		p->term = term;
	p->leader = (uint32_t)pool_number(msg, "leader");
	if (leader)
		pool_member_add(p, leader)->is_gone = false;
	pool_step(p, POOL_EV_FENCED);
}

/* Somebody looks for those that it has lost. Of two leaders the one of the lower term gives way. */
static void do_probe(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint64_t term = (uint64_t)pool_number(msg, "term");

	if (p->state == POOL_LEAD && term > p->term) {
		pool_member_add(p, json_object_get(msg, "member"))->is_gone = false;
		p->leader = from->id;
		p->term = term;
		pool_step(p, POOL_EV_FENCED);
	} else if ((p->state == POOL_LEAD || p->state == POOL_FOLLOW) && term < p->term) {
		answer_fenced(p, from);
	}
}

static void do_resigned(struct pool *p, const struct pool_member *from, json_t *msg)
{
	pool_resigned(p, from->id, (uint32_t)pool_number(msg, "next"));
}

static void do_down(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from; (void)msg;
	p->is_down = true;
	pool_step(p, POOL_EV_DOWN);
}

static void do_take_down(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from;
	pool_down(p, pool_text(msg, "text"));
}

static void do_ping(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from; (void)msg;
	pool_send_leader(p, json_pack("{s:s}", "op", "pong"));
}

static void do_nothing(struct pool *p, const struct pool_member *from, json_t *msg) { (void)p; (void)from; (void)msg; }

enum { FROM_ANY = 1, FROM_LEADER = 2, FROM_MEMBER = 4 };

static const struct {
	const char *op;
	void (*handle)(struct pool *p, const struct pool_member *from, json_t *msg);
	int from;                /* FROM_LEADER: while it is followed, in its term; FROM_MEMBER: one that has joined us */
} words[] = {
	{ "join", do_join, FROM_ANY }, { "list", take_list, FROM_ANY }, { "fenced", do_fenced, FROM_ANY },
	{ "probe", do_probe, FROM_ANY }, { "reserve", pool_do_reserve, FROM_LEADER },
	{ "release", pool_do_release, FROM_LEADER }, { "start", pool_do_start_here, FROM_LEADER },
	{ "more", pool_do_more, FROM_MEMBER }, { "added", pool_do_tell, FROM_LEADER },
	{ "vacate", pool_do_tell, FROM_LEADER }, { "vacated", pool_do_vacated, FROM_MEMBER },
	{ "placed", pool_do_placed, FROM_MEMBER },
	{ "granted", pool_do_granted, FROM_LEADER }, { "refused", pool_do_refused, FROM_LEADER },
	{ "said", pool_do_tell, FROM_LEADER }, { "ended", pool_do_tell, FROM_LEADER },
	{ "resign", do_resigned, FROM_LEADER }, { "down", do_down, FROM_LEADER }, { "ping", do_ping, FROM_LEADER },
	{ "ask", pool_do_ask, FROM_MEMBER }, { "reserved", pool_do_reserved, FROM_MEMBER },
	{ "released", pool_do_released, FROM_MEMBER }, { "gone", pool_do_gone, FROM_MEMBER },
	{ "own", pool_do_own, FROM_MEMBER }, { "start-all", pool_do_start, FROM_MEMBER },
	{ "said", pool_do_forward, FROM_MEMBER }, { "ended", pool_do_forward, FROM_MEMBER },
	{ "take-down", do_take_down, FROM_MEMBER }, { "remove", pool_do_remove, FROM_MEMBER },
	{ "pong", do_nothing, FROM_MEMBER },
};

void pool_message(struct pool *p, const struct pool_member *from, json_t *msg)
{
	const char *op = pool_text(msg, "op");
	struct pool_member *m = pool_member_of(p, from->id);
	uint64_t term = (uint64_t)pool_number(msg, "term");
	bool is_leader = (p->state == POOL_FOLLOW || p->state == POOL_LEAD) && from->id == p->leader && term == p->term;
	bool is_member = p->state == POOL_LEAD && m && m->is_here && term == p->term;

	if (p->state == POOL_OVER)
		return;
	if (m)
		m->silent_s = 0;
	if (is_leader && p->state == POOL_FOLLOW)
		p->age_s = 0;
	for (size_t i = 0; i < GW_ARRAY_LEN(words); i++)
		if (strcmp(words[i].op, op) == 0 && ((words[i].from == FROM_ANY) || (words[i].from == FROM_LEADER && is_leader) ||
		                                    (words[i].from == FROM_MEMBER && is_member))) {
			/* both "said" and "ended" travel twice: to the leader, which sends them on with the name of the host */
			if (words[i].from == FROM_LEADER && words[i].handle == pool_do_tell && is_member && !json_object_get(msg, "host"))
				continue;
			words[i].handle(p, from, msg);
			if (p->state == POOL_LEAD)
				pool_check_leaving(p);
			return;
		}
	p->refused++;
}
