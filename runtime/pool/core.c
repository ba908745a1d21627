/* SPDX-License-Identifier: BSD-2-Clause */
/* The keeper's state, as a table; who leads; time. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

static void seek(struct pool *p);
static void gather(struct pool *p);
static void lead(struct pool *p);
static void renew(struct pool *p);
static void follow(struct pool *p);
static void end(struct pool *p);

static const struct {
	enum pool_state state;
	enum pool_event event;
	enum pool_state next;
	void (*action)(struct pool *p);
} rules[] = {
	{ POOL_SEEK,   POOL_EV_LOST,     POOL_SEEK,   seek   },  /* whom it turned to */
	{ POOL_SEEK,   POOL_EV_CHOSEN,   POOL_GATHER, gather },  /* nobody lower lives */
	{ POOL_SEEK,   POOL_EV_LIST,     POOL_FOLLOW, follow },
	{ POOL_SEEK,   POOL_EV_FENCED,   POOL_SEEK,   renew  },
	{ POOL_SEEK,   POOL_EV_TIME,     POOL_SEEK,   seek   },
	{ POOL_SEEK,   POOL_EV_DOWN,     POOL_OVER,   end    },
	{ POOL_FOLLOW, POOL_EV_LIST,     POOL_FOLLOW, NULL   },
	{ POOL_FOLLOW, POOL_EV_LOST,     POOL_SEEK,   seek   },
	{ POOL_FOLLOW, POOL_EV_RESIGNED, POOL_SEEK,   seek   },
	{ POOL_FOLLOW, POOL_EV_FENCED,   POOL_SEEK,   renew  },
	{ POOL_FOLLOW, POOL_EV_DOWN,     POOL_OVER,   end    },
	{ POOL_GATHER, POOL_EV_ALL_HERE, POOL_LEAD,   lead   },
	{ POOL_GATHER, POOL_EV_TIME,     POOL_LEAD,   lead   },
	{ POOL_GATHER, POOL_EV_FENCED,   POOL_SEEK,   renew  },
	{ POOL_GATHER, POOL_EV_DOWN,     POOL_OVER,   end    },
	{ POOL_LEAD,   POOL_EV_RESIGNED, POOL_SEEK,   seek   },
	{ POOL_LEAD,   POOL_EV_FENCED,   POOL_SEEK,   renew  },
	{ POOL_LEAD,   POOL_EV_DOWN,     POOL_OVER,   end    },
};

const char *pool_state_name(enum pool_state s)
{
	static const char *const names[] = { "seeking", "following", "gathering", "leading", "over" };

	return names[s];
}

int pool_next(enum pool_state s, enum pool_event ev)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(rules); i++)
		if (rules[i].state == s && rules[i].event == ev)
			return (int)rules[i].next;
	return -1;
}

bool pool_step(struct pool *p, enum pool_event ev)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(rules); i++) {
		if (rules[i].state != p->state || rules[i].event != ev)
			continue;
		if (p->state != rules[i].next)
			gw_log(GW_DEBUG, "pool: member %u: %s, term %llx", p->me.id, pool_state_name(rules[i].next),
			       (unsigned long long)p->term);
		p->state = rules[i].next;
		p->age_s = 0;
		if (rules[i].action)
			rules[i].action(p);
		return true;
	}
	p->refused++;
	return false;
}

/* Everything it owns is said when it turns to a leader: the successor of a leader knows nothing else. */
static void turn_to(struct pool *p, uint32_t id)
{
	p->leader = id;
	pool_send(p, id, pool_owned(p, "join"));
}

static void seek(struct pool *p)
{
	pool_jobs_clear(p);
	for (int round = 0; round < 2; round++) /* who has resigned when nobody else lives */
		gw_list_for(e, &p->members) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);

			m->is_here = false;
			if (m->is_gone || (m->is_resigned && !round))
				continue;
			if (pool_is_self(p, m)) {
				pool_step(p, POOL_EV_CHOSEN);
				return;
			}
			turn_to(p, m->id);
			return;
		}
	pool_step(p, POOL_EV_CHOSEN);
}

/* The leader hands over: those before the next one are not turned to, but it waits for them, and they join it like everybody. */
void pool_resigned(struct pool *p, uint32_t leader, uint32_t next)
{
	bool is_before = pool_member_of(p, next) != NULL;

	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		is_before &= m->id != next;
		m->is_resigned |= is_before || m->id == leader;
	}
	pool_step(p, POOL_EV_RESIGNED);
}

static void gather(struct pool *p)
{
	json_t *own;

	pool_member_add_self(p);
	pool_jobs_clear(p);
	p->term = (((p->term >> 32) + 1) << 32) | p->me.id;
	p->leader = p->me.id;
	p->version = 0;
	p->is_fresh = false;
	own = pool_owned(p, "join");
	pool_take_owned(p, p->me.id, own);
	json_decref(own);
	pool_tick(p); /* it may be alone */
}

bool pool_are_all_here(struct pool *p)
{
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!m->is_here && !m->is_gone)
			return false;
	}
	return true;
}

static void lead(struct pool *p)
{
	json_t *own;

	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		m->is_resigned = false;
		if (!m->is_here)
			pool_member_bury(p, m);
	}
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);

		if (j->head && !pool_member_of(p, j->head))
			pool_job_end(p, j);
	}
	own = pool_owned(p, "own"); /* what has ended here while it waited for the others, who say so of theirs when they follow */
	pool_do_own(p, &p->me, own);
	json_decref(own);
	pool_ask_again(p, true);
}

static void follow(struct pool *p)
{
	p->is_fresh = false;
	pool_send_leader(p, pool_owned(p, "own"));
	pool_ask_again(p, true);
}

/*
 * It has been given up by a leader of a later term, and comes to it under another id, with all that it owns. Others of its
 * side do so too, and what they share goes on. A claim of a job whose grant does not come along is an orphan.
 */
static void renew(struct pool *p)
{
	uint32_t to = p->leader;

	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->is_here && !pool_is_self(p, m))
			pool_send(p, m->id, json_pack("{s:s, s:I, s:o*}", "op", "fenced", "leader", (json_int_t)to, "member",
			                              pool_member_of(p, to) ? pool_member_json(pool_member_of(p, to)) : NULL));
	}
	pool_jobs_clear(p);
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->id == p->me.id || m->id == to)
			continue;
		m->is_gone = true;
	}
	gw_list_for_safe(e, &p->members) /* connections are of an id; that to the leader, too */
		p->ops->close(p->ctx, gw_list_entry(e, struct pool_member, node)->id);
	for (struct pool_member *old = pool_member_of(p, p->me.id); old; old = NULL) {
		gw_list_remove(&old->node);
		free(old);
	}
	p->me.id = 0x40000000u | (p->ops->random(p->ctx) & 0x3fffffffu);
	p->is_fresh = true;
	pool_member_add_self(p);
	if (pool_member_of(p, to))
		turn_to(p, to);
	else
		seek(p);
}

static void end(struct pool *p)
{
	gw_list_for_safe(e, &p->grants) {
		struct pool_grant *g = gw_list_entry(e, struct pool_grant, node);

		p->ops->tell(p->ctx, g->job, json_pack("{s:s, s:s}", "op", "down", "text", "the pool has been taken down"));
	}
	gw_list_for_safe(e, &p->claims) {
		struct pool_claim *c = gw_list_entry(e, struct pool_claim, node);

		p->leader = 0;
		pool_claim_end(p, c);
	}
	if (gw_list_is_empty(&p->claims))
		p->ops->over(p->ctx, "");
}

void pool_lost(struct pool *p, uint32_t id)
{
	struct pool_member *m = pool_member_of(p, id);

	if (!m || p->state == POOL_OVER)
		return;
	if (p->state == POOL_LEAD || p->state == POOL_GATHER) {
		if (!m->is_here)
			return;
		pool_member_bury(p, m);
		if (p->state == POOL_LEAD)
			pool_publish(p);
		else if (pool_are_all_here(p))
			pool_step(p, POOL_EV_ALL_HERE);
	} else if (id == p->leader) {
		m->is_gone = true;
		pool_step(p, POOL_EV_LOST);
	}
}

/* Words to who was just between two leaders are lost, and both sides would wait. */
static void repeat(struct pool *p, struct pool_job *j)
{
	j->rest_s -= j->rest_s > 0;
	if (++j->age_s % 3)
		return;
	for (size_t i = 0; i < j->n_parts; i++)
		if (j->parts[i].state == PART_ASKED)
			pool_part_reserve(p, j, &j->parts[i]);
		else if (j->parts[i].state == PART_ENDING)
			pool_send(p, j->parts[i].member, json_pack("{s:s, s:I}", "op", "release", "job", (json_int_t)j->job));
}

static void tick_leader(struct pool *p)
{
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (pool_is_self(p, m) || !m->is_here)
			continue;
		if (++m->silent_s > POOL_SILENCE_S) {
			uint32_t id = m->id;

			pool_lost(p, id);
			p->ops->close(p->ctx, id);
		} else if (m->silent_s % 3 == 0) {
			pool_send(p, m->id, json_pack("{s:s}", "op", "ping"));
		}
	}
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);

		repeat(p, j);
		if (!j->is_granted && !j->is_ending && j->head == 0 && ++j->orphan_s > POOL_ORPHAN_S)
			pool_job_end(p, j);
	}
	if (p->ticks % POOL_PROBE_S == 0)
		gw_list_for_safe(e, &p->gone) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			bool is_back = pool_is_same_place(m, &p->me);

			gw_list_for(f, &p->members)
				is_back |= pool_is_same_place(m, gw_list_entry(f, struct pool_member, node));
			if (m->port && !is_back)
				p->ops->send(p->ctx, m, json_pack("{s:s, s:I, s:o}", "op", "probe", "term", (json_int_t)p->term, "member",
				                                  pool_member_json(&p->me)));
		}
	pool_check_leaving(p);
}

void pool_tick(struct pool *p)
{
	p->ticks++;
	p->age_s++;
	if (p->state == POOL_GATHER && pool_are_all_here(p))
		pool_step(p, POOL_EV_ALL_HERE);
	else if (p->state == POOL_GATHER && p->age_s > POOL_GATHER_S)
		pool_step(p, POOL_EV_TIME);
	else if (p->state == POOL_LEAD)
		tick_leader(p);
	else if (p->state == POOL_FOLLOW && p->age_s > POOL_SILENCE_S) {
		uint32_t id = p->leader;

		p->ops->close(p->ctx, id);
		pool_lost(p, id);
	} else if (p->state == POOL_SEEK) {
		unsigned age = p->age_s;

		if (age > POOL_LOST_S && pool_member_of(p, p->leader)) {
			pool_member_of(p, p->leader)->is_gone = true;
			pool_step(p, POOL_EV_LOST);
		} else {
			turn_to(p, p->leader); /* whom it turned to may not have seen the leader's end */
		}
	}
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		pool_ask_again(p, false);
}

void pool_down(struct pool *p, const char *why)
{
	if (p->state == POOL_FOLLOW) {
		pool_send_leader(p, json_pack("{s:s, s:s}", "op", "take-down", "text", why));
		return;
	}
	p->is_down = true;
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!pool_is_self(p, m) && m->is_here)
			pool_send(p, m->id, json_pack("{s:s, s:s}", "op", "down", "text", why));
	}
	pool_step(p, POOL_EV_DOWN);
}

json_t *pool_status(const struct pool *p)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:O*, s:O*}", "state", pool_state_name(p->state), "self", (json_int_t)p->me.id, "term",
	                 (json_int_t)p->term, "leader", (json_int_t)p->leader, "members", json_object_get(p->list, "members"), "jobs",
	                 json_object_get(p->list, "jobs"));
}

void pool_init(struct pool *p, const struct pool_member *me, const struct pool_ops *ops, void *ctx)
{
	*p = (struct pool){ .ops = ops, .ctx = ctx, .me = *me, .state = POOL_SEEK };
	gw_list_init(&p->members);
	gw_list_init(&p->gone);
	gw_list_init(&p->claims);
	gw_list_init(&p->grants);
	gw_list_init(&p->jobs);
}

int pool_found(struct pool *p, const json_t *members)
{
	for (size_t i = 0; i < json_array_size(members); i++)
		pool_member_add(p, json_array_get(members, i));
	if (!pool_member_of(p, p->me.id))
		return -EINVAL;
	seek(p);
	return 0;
}

int pool_join(struct pool *p, const json_t *members, uint32_t leader)
{
	for (size_t i = 0; i < json_array_size(members); i++)
		pool_member_add(p, json_array_get(members, i));
	pool_member_add_self(p);
	p->is_fresh = true;
	if (!pool_member_of(p, leader))
		return -EINVAL;
	turn_to(p, leader);
	return 0;
}

void pool_fini(struct pool *p)
{
	pool_jobs_clear(p);
	gw_list_for_safe(e, &p->grants)
		pool_grant_drop(gw_list_entry(e, struct pool_grant, node));
	gw_list_for_safe(e, &p->claims) {
		gw_list_remove(e);
		free(gw_list_entry(e, struct pool_claim, node));
	}
	pool_members_forget(&p->members);
	pool_members_forget(&p->gone);
	json_decref(p->list);
}
