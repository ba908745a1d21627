/* SPDX-License-Identifier: BSD-2-Clause */
/* The keeper's decisions: its state, as a table; who leads; what is asked for, given and taken back. */
#include "runtime/pool/core.h"

#include <stdlib.h>

/* @held: what its keeper has given; it is asked for @slots; @is_more: the job has asked for just this, and waits */
struct part { uint32_t member, slots, held; enum { PART_ASKED, PART_HELD, PART_ENDING } state; bool is_more; };

struct pool_job {
	struct gw_list node;
	uint32_t job, head, ranks;
	bool is_granted;         /* its head says so, or is being told */
	bool is_ending;
	bool is_stuck;           /* not all its ranks could be moved; @note says why */
	unsigned orphan_s, age_s; /* ticks without a head; ticks */
	uint32_t vacating;       /* the member that its mpirun has been told to move its ranks from */
	unsigned rest_s;         /* ticks until it is told again */
	char note[256];          /* why ranks are still on a host that is to leave */
	char nonce[POOL_NONCE_HEX], text[128];
	struct part *parts;
	size_t n_parts;
};

/* ---- the table ----------------------------------------------------------------------------------------------------- */

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

static bool step(struct pool *p, enum pool_event ev)
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

/* ---- members ------------------------------------------------------------------------------------------------------- */

static json_int_t number(const json_t *msg, const char *key) { return json_integer_value(json_object_get(msg, key)); }

static const char *text(const json_t *msg, const char *key)
{
	const char *t = json_string_value(json_object_get(msg, key));

	return t ? t : "";
}

struct pool_member *pool_member_of(const struct pool *p, uint32_t id)
{
	gw_list_for(e, &p->members)
		if (gw_list_entry(e, struct pool_member, node)->id == id)
			return gw_list_entry(e, struct pool_member, node);
	return NULL;
}

static json_t *member_json(const struct pool_member *m)
{
	return json_pack("{s:I, s:s, s:s, s:i, s:i, s:b}", "id", (json_int_t)m->id, "host", m->host, "address", m->address, "port",
	                 (int)m->port, "slots", (int)m->slots, "leaving", (int)m->is_leaving);
}

/* In the order of their ids */
static struct pool_member *add_member(struct pool *p, const json_t *j)
{
	struct pool_member *m = pool_member_of(p, (uint32_t)number(j, "id"));
	struct gw_list *at = &p->members;

	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m)
			abort(); /* a keeper that does not know its members is of no use */
		m->id = (uint32_t)number(j, "id");
		gw_list_for(e, &p->members) {
			at = e;
			if (gw_list_entry(e, struct pool_member, node)->id > m->id)
				break;
			at = &p->members;
		}
		gw_list_append(at, &m->node); /* before it */
	}
	snprintf(m->host, sizeof(m->host), "%s", text(j, "host"));
	snprintf(m->address, sizeof(m->address), "%s", text(j, "address"));
	m->port = (uint16_t)number(j, "port");
	m->slots = (uint32_t)number(j, "slots");
	m->is_leaving = json_is_true(json_object_get(j, "leaving"));
	return m;
}

static void add_self(struct pool *p)
{
	json_t *j = member_json(&p->me);

	add_member(p, j)->is_here = true;
	json_decref(j);
}

static bool is_self(const struct pool *p, const struct pool_member *m) { return m->id == p->me.id; }

static void send_to(struct pool *p, uint32_t id, json_t *msg)
{
	struct pool_member *m = pool_member_of(p, id);

	if (!m) {
		json_decref(msg);
		return;
	}
	json_object_set_new(msg, "term", json_integer((json_int_t)p->term));
	p->ops->send(p->ctx, m, msg);
}

static void send_leader(struct pool *p, json_t *msg) { send_to(p, p->leader, msg); }

static bool is_same_place(const struct pool_member *a, const struct pool_member *b)
{
	return a->port == b->port && strcmp(a->address, b->address) == 0;
}

/* Where it was, is looked for it; once, whatever it was called. */
static void remember_gone(struct pool *p, struct pool_member *m)
{
	gw_list_remove(&m->node);
	gw_list_for_safe(e, &p->gone) {
		struct pool_member *old = gw_list_entry(e, struct pool_member, node);

		if (!is_same_place(old, m))
			continue;
		gw_list_remove(&old->node);
		free(old);
	}
	gw_list_append(&p->gone, &m->node);
}

static void forget(struct gw_list *members)
{
	gw_list_for_safe(e, members) {
		gw_list_remove(e);
		free(gw_list_entry(e, struct pool_member, node));
	}
}

/* ---- what is owned ------------------------------------------------------------------------------------------------- */

const struct pool_claim *pool_claim_of(const struct pool *p, uint32_t job)
{
	gw_list_for(e, &p->claims)
		if (gw_list_entry(e, struct pool_claim, node)->job == job)
			return gw_list_entry(e, struct pool_claim, node);
	return NULL;
}

static struct pool_claim *claim_of(struct pool *p, uint32_t job) { return (struct pool_claim *)pool_claim_of(p, job); }

struct pool_grant *pool_grant_of(const struct pool *p, uint32_t job)
{
	gw_list_for(e, &p->grants)
		if (gw_list_entry(e, struct pool_grant, node)->job == job)
			return gw_list_entry(e, struct pool_grant, node);
	return NULL;
}

uint32_t pool_claimed(const struct pool *p)
{
	uint32_t n = 0;

	gw_list_for(e, &p->claims)
		n += gw_list_entry(e, struct pool_claim, node)->slots;
	return n;
}

static void drop_grant(struct pool_grant *g)
{
	gw_list_remove(&g->node);
	json_decref(g->start);
	free(g);
}

static void claim_over(struct pool *p, struct pool_claim *c)
{
	uint32_t job = c->job;

	gw_list_remove(&c->node);
	free(c);
	send_leader(p, json_pack("{s:s, s:I}", "op", "released", "job", (json_int_t)job));
}

static void end_claim(struct pool *p, struct pool_claim *c)
{
	if (!c->is_started)
		claim_over(p, c);
	else if (!c->is_stopping) {
		c->is_stopping = true;
		p->ops->stop(p->ctx, c->job);
	}
}

static json_t *owned(struct pool *p, const char *op)
{
	json_t *claims = json_array(), *jobs = json_array(), *me = member_json(&p->me);

	gw_list_for(e, &p->claims) {
		struct pool_claim *c = gw_list_entry(e, struct pool_claim, node);

		json_array_append_new(claims, json_pack("{s:I, s:i, s:s}", "job", (json_int_t)c->job, "slots", (int)c->slots, "nonce",
		                                        c->nonce));
	}
	gw_list_for(e, &p->grants) {
		struct pool_grant *g = gw_list_entry(e, struct pool_grant, node);

		if (g->state == POOL_HELD)
			json_array_append_new(jobs, json_pack("{s:I, s:i, s:s, s:s}", "job", (json_int_t)g->job, "ranks", (int)g->ranks, "text",
			                                      g->text, "nonce", g->nonce));
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:b}", "op", op, "member", me, "claims", claims, "jobs", jobs, "fresh",
	                 (int)p->is_fresh);
}

/* ---- the directory ------------------------------------------------------------------------------------------------- */

static struct pool_job *job_of(struct pool *p, uint32_t job)
{
	gw_list_for(e, &p->jobs)
		if (gw_list_entry(e, struct pool_job, node)->job == job)
			return gw_list_entry(e, struct pool_job, node);
	return NULL;
}

static struct pool_job *job_make(struct pool *p, uint32_t job, const char *nonce)
{
	struct pool_job *j = job_of(p, job);

	if (j)
		return j;
	j = calloc(1, sizeof(*j));
	if (!j)
		abort();
	j->job = job;
	snprintf(j->nonce, sizeof(j->nonce), "%s", nonce);
	gw_list_append(&p->jobs, &j->node);
	return j;
}

static void job_drop(struct pool_job *j)
{
	gw_list_remove(&j->node);
	free(j->parts);
	free(j);
}

static struct part *part_of(struct pool_job *j, uint32_t member)
{
	for (size_t i = 0; i < j->n_parts; i++)
		if (j->parts[i].member == member)
			return &j->parts[i];
	return NULL;
}

static struct part *part_add(struct pool_job *j, uint32_t member, uint32_t slots, int state)
{
	struct part *more = part_of(j, member);

	if (!more) {
		more = realloc(j->parts, (j->n_parts + 1) * sizeof(*more));
		if (!more)
			abort();
		j->parts = more;
		more = &more[j->n_parts++];
	}
	*more = (struct part){ .member = member, .slots = slots, .held = state == PART_HELD ? slots : 0, .state = state };
	return more;
}

static void part_remove(struct pool_job *j, struct part *part)
{
	size_t at = (size_t)(part - j->parts);

	memmove(part, part + 1, (j->n_parts - at - 1) * sizeof(*part));
	j->n_parts--;
}

static uint32_t taken(struct pool *p, uint32_t member)
{
	uint32_t n = 0;

	gw_list_for(e, &p->jobs) {
		struct part *part = part_of(gw_list_entry(e, struct pool_job, node), member);

		n += part ? part->slots : 0;
	}
	return n;
}

static json_t *jobs_json(struct pool *p)
{
	json_t *all = json_array();

	gw_list_for(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);
		json_t *parts = json_array();

		for (size_t i = 0; i < j->n_parts; i++)
			json_array_append_new(parts, json_pack("{s:I, s:i}", "member", (json_int_t)j->parts[i].member, "slots",
			                                       (int)j->parts[i].slots));
		json_array_append_new(all, json_pack("{s:I, s:I, s:i, s:s, s:s, s:s, s:o}", "job", (json_int_t)j->job, "head",
		                                     (json_int_t)j->head, "ranks", (int)j->ranks, "text", j->text, "state", j->is_ending ?
		                                     "ending" : j->is_granted ? "running" : "starting", "note", j->note, "parts", parts));
	}
	return all;
}

/* A new version of the list, for all */
static void publish(struct pool *p)
{
	json_t *members = json_array();

	if (p->state != POOL_LEAD)
		return;
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->is_here)
			json_array_append_new(members, member_json(m));
	}
	json_decref(p->list);
	p->list = json_pack("{s:s, s:I, s:I, s:o, s:o}", "op", "list", "leader", (json_int_t)p->me.id, "version",
	                    (json_int_t)++p->version, "members", members, "jobs", jobs_json(p));
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->is_here && !is_self(p, m))
			send_to(p, m->id, json_deep_copy(p->list));
	}
}

/* What the job has anywhere ends; the directory forgets it when everybody has said so. Returns true when it is forgotten. */
static bool job_end(struct pool *p, struct pool_job *j)
{
	if (j->n_parts == 0) {
		job_drop(j);
		return true;
	}
	if (p->state != POOL_LEAD)
		return false;
	j->is_ending = true;
	j->is_granted = false;
	for (size_t i = 0; i < j->n_parts; i++)
		if (j->parts[i].state != PART_ENDING) {
			j->parts[i].state = PART_ENDING;
			send_to(p, j->parts[i].member, json_pack("{s:s, s:I}", "op", "release", "job", (json_int_t)j->job));
		}
	return false;
}

static void refuse_job(struct pool *p, struct pool_job *j, const char *why)
{
	send_to(p, j->head, json_pack("{s:s, s:I, s:s}", "op", "refused", "job", (json_int_t)j->job, "text", why));
	job_end(p, j);
}

static void grant(struct pool *p, struct pool_job *j)
{
	json_t *hosts = json_array();

	for (size_t i = 0; i < j->n_parts; i++) {
		struct pool_member *m = pool_member_of(p, j->parts[i].member);

		json_array_append_new(hosts, json_pack("{s:I, s:s, s:i}", "member", (json_int_t)m->id, "host", m->host, "slots",
		                                       (int)j->parts[i].slots));
	}
	j->is_granted = true;
	send_to(p, j->head, json_pack("{s:s, s:I, s:s, s:o}", "op", "granted", "job", (json_int_t)j->job, "nonce", j->nonce, "hosts",
	                              hosts));
	publish(p);
}

static void grant_if_held(struct pool *p, struct pool_job *j)
{
	uint32_t slots = 0;

	if (j->is_ending || j->is_granted)
		return;
	for (size_t i = 0; i < j->n_parts; i++) {
		if (j->parts[i].state != PART_HELD)
			return;
		slots += j->parts[i].slots;
	}
	if (slots < j->ranks)
		return;
	if (pool_member_of(p, j->head) && pool_member_of(p, j->head)->is_here)
		grant(p, j);
	else
		job_end(p, j);
}

static void reserve(struct pool *p, const struct pool_job *j, const struct part *part)
{
	send_to(p, part->member, json_pack("{s:s, s:I, s:i, s:I, s:s}", "op", "reserve", "job", (json_int_t)j->job, "slots",
	                                   (int)part->slots, "head", (json_int_t)j->head, "nonce", j->nonce));
}

/* Of a member for new work */
static uint32_t room_of(struct pool *p, const struct pool_member *m)
{
	uint32_t n = taken(p, m->id);

	return m->is_here && !m->is_leaving && m->slots > n ? m->slots - n : 0;
}

static void do_ask(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint32_t job = (uint32_t)number(msg, "job"), ranks = (uint32_t)number(msg, "ranks"), all = 0, room = 0, due = ranks;
	struct pool_job *j = job_of(p, job);
	char why[256];

	if (j && j->is_ending)
		return; /* it asks again */
	if (j && j->is_granted && j->head == from->id) { /* the answer was lost with a leader */
		grant(p, j);
		return;
	}
	if (j)
		return; /* under way */
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!m->is_here || m->is_leaving)
			continue;
		all += m->slots;
		room += room_of(p, m);
	}
	if (room < ranks) {
		snprintf(why, sizeof(why), ranks > all ? "the job needs %u slots, and the pool has %u" :
		         "the job needs %u slots, and of the pool's %u only %u are free; wait for a job to end, or add hosts with 'godwit "
		         "up --add'", ranks, all, room);
		send_to(p, from->id, json_pack("{s:s, s:I, s:s}", "op", "refused", "job", (json_int_t)job, "text", why));
		return;
	}
	j = job_make(p, job, text(msg, "nonce"));
	j->head = from->id;
	j->ranks = ranks;
	snprintf(j->text, sizeof(j->text), "%s", text(msg, "text"));
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		uint32_t n = room_of(p, m) < due ? room_of(p, m) : due;

		if (n)
			part_add(j, m->id, n, PART_ASKED);
		due -= n;
	}
	for (size_t i = 0; i < j->n_parts; i++)
		reserve(p, j, &j->parts[i]);
}

static void answer_more(struct pool *p, struct pool_job *j, const char *host, bool is_asked, const char *said)
{
	if (is_asked)
		send_to(p, j->head, json_pack("{s:s, s:I, s:s, s:s}", "op", "added", "job", (json_int_t)j->job, "host", host, "text", said));
	if (is_asked && !*said)
		publish(p);
}

/* A job that runs wants a slot of a host */
static void do_more(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));
	const char *host = text(msg, "host");
	struct pool_member *m = NULL;
	struct part *part;

	if (!j || j->is_ending || !j->is_granted || j->head != from->id)
		return;
	gw_list_for(e, &p->members) {
		struct pool_member *o = gw_list_entry(e, struct pool_member, node);

		if (o->is_here && strcmp(o->host, host) == 0)
			m = o;
	}
	part = m ? part_of(j, m->id) : NULL;
	if (!m || m->is_leaving)
		answer_more(p, j, host, true, m ? "it is to leave the pool" : "it is not in the pool; 'godwit up --add' adds a host to it");
	else if (part && part->state == PART_HELD)
		answer_more(p, j, host, true, "");
	else if (part)
		part->is_more |= part->state == PART_ASKED;
	else if (!room_of(p, m))
		answer_more(p, j, host, true, "the pool has no slot free there");
	else {
		part = part_add(j, m->id, 1, PART_ASKED);
		part->is_more = true;
		reserve(p, j, part);
	}
}

static void do_reserved(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));
	struct part *part = j ? part_of(j, from->id) : NULL;

	if (!part && !json_is_true(json_object_get(msg, "full"))) /* asked again, and the job is over by now */
		send_to(p, from->id, json_pack("{s:s, s:I}", "op", "release", "job", number(msg, "job")));
	if (!part || part->state != PART_ASKED)
		return;
	answer_more(p, j, from->host, part->is_more, json_is_true(json_object_get(msg, "full")) ? "its slots have just been taken" : "");
	part->is_more = false;
	if (json_is_true(json_object_get(msg, "full"))) {
		part->state = PART_HELD;
		part->slots = part->held;
		if (!part->held)
			part_remove(j, part);
		if (!j->is_granted)
			refuse_job(p, j, "a host has given its slots away meanwhile; try again");
		return;
	}
	part->state = PART_HELD;
	part->held = part->slots;
	grant_if_held(p, j);
}

static void do_released(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));
	struct part *part = j ? part_of(j, from->id) : NULL;

	if (!part)
		return;
	part_remove(j, part);
	if (j->n_parts == 0 && !(j->is_granted && pool_member_of(p, j->head)))
		job_drop(j);
	publish(p);
}

static void do_gone(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));

	if (j && j->head == from->id)
		job_end(p, j);
	publish(p);
}

/* To the keepers of the job's hosts, each with its part: which clusters are its own is in the order of the grant */
static void do_start(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));
	json_t *hosts = json_object_get(msg, "hosts");

	if (!j || j->is_ending || j->head != from->id)
		return;
	for (size_t i = 0; i < json_array_size(hosts); i++) {
		json_t *one = json_copy(json_array_get(hosts, i));

		json_object_set_new(one, "op", json_string("start"));
		json_object_set_new(one, "job", json_integer((json_int_t)j->job));
		send_to(p, (uint32_t)number(one, "member"), one);
	}
}

/* What a daemon said, and that it has ended, goes to the keeper of the job's mpirun */
static void do_forward(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));

	if (!j)
		return;
	json_object_set_new(msg, "host", json_string(from->host));
	json_object_set_new(msg, "member", json_integer((json_int_t)from->id));
	send_to(p, j->head, json_incref(msg));
}

/* What has ended while there was no leader to be told of it. It comes before anything else of the term. */
static void do_own(struct pool *p, const struct pool_member *from, json_t *msg)
{
	const json_t *claims = json_object_get(msg, "claims"), *jobs = json_object_get(msg, "jobs");

	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);
		struct part *part = part_of(j, from->id);
		bool is_claimed = false, is_granted = false;

		for (size_t i = 0; i < json_array_size(claims); i++)
			is_claimed |= (uint32_t)number(json_array_get(claims, i), "job") == j->job;
		for (size_t i = 0; i < json_array_size(jobs); i++)
			is_granted |= (uint32_t)number(json_array_get(jobs, i), "job") == j->job;
		if (part && !is_claimed && part->state != PART_ASKED)
			part_remove(j, part);
		if ((j->head == from->id && j->is_granted && !is_granted) || (j->n_parts == 0 && !j->is_granted))
			job_end(p, j);
	}
	publish(p);
}

/* ---- hosts that leave ----------------------------------------------------------------------------------------------- */

static void note(struct pool *p, struct pool_job *j, const char *said)
{
	if (strcmp(j->note, said) == 0)
		return;
	snprintf(j->note, sizeof(j->note), "%s", said);
	publish(p);
}

/* More slots for a job that runs, on hosts that it has before others. Returns whether there are so many. */
static bool widen(struct pool *p, struct pool_job *j, uint32_t due)
{
	uint32_t room = 0;

	gw_list_for(e, &p->members)
		room += room_of(p, gw_list_entry(e, struct pool_member, node));
	if (room < due)
		return false;
	for (int is_new = 0; is_new < 2; is_new++)
		gw_list_for(e, &p->members) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			uint32_t n = room_of(p, m) < due ? room_of(p, m) : due;
			struct part *part = part_of(j, m->id);

			if (!n || !part == !is_new)
				continue;
			if (!part)
				part = part_add(j, m->id, 0, PART_ASKED);
			part->state = PART_ASKED;
			part->slots += n;
			due -= n;
			reserve(p, j, part);
		}
	return true;
}

/*
 * A job with ranks on a host that is to leave: it gets as many slots elsewhere as it has ranks, then its mpirun is told to
 * move them there and to give up its daemons on the host, whose slots come back as they do at the end of a job. All this is
 * found out anew by whoever leads, and mpirun may be told again.
 */
static void vacate(struct pool *p, struct pool_job *j, const struct pool_member *m)
{
	json_t *hosts;
	uint32_t have = 0;

	if (!j->is_granted || j->is_ending || j->vacating || j->rest_s)
		return;
	for (size_t i = 0; i < j->n_parts; i++) {
		if (j->parts[i].state == PART_ASKED)
			return;
		if (!pool_member_of(p, j->parts[i].member)->is_leaving)
			have += j->parts[i].slots;
	}
	if (have < j->ranks) {
		if (!widen(p, j, j->ranks - have))
			note(p, j, "its ranks wait for slots on other hosts");
		return;
	}
	hosts = json_array();
	for (size_t i = 0; i < j->n_parts; i++) {
		const struct pool_member *o = pool_member_of(p, j->parts[i].member);

		if (!o->is_leaving)
			json_array_append_new(hosts, json_pack("{s:s, s:i}", "host", o->host, "slots", (int)j->parts[i].slots));
	}
	j->vacating = m->id;
	send_to(p, j->head, json_pack("{s:s, s:I, s:s, s:o}", "op", "vacate", "job", (json_int_t)j->job, "host", m->host, "hosts", hosts));
	if (!j->is_stuck)
		note(p, j, "its ranks are being moved");
}

static void do_vacated(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = job_of(p, (uint32_t)number(msg, "job"));

	if (!j || j->head != from->id)
		return;
	j->vacating = 0;
	j->rest_s = POOL_REST_S;
	j->is_stuck = *text(msg, "text");
	note(p, j, text(msg, "text"));
}

static void leave_done(struct pool *p, struct pool_member *m);

/* Members without anything left that are to leave */
static void check_leaving(struct pool *p)
{
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		bool is_needed = is_self(p, m);

		if (!m->is_leaving)
			continue;
		gw_list_for(f, &p->jobs) {
			struct pool_job *j = gw_list_entry(f, struct pool_job, node);

			is_needed |= j->head == m->id || part_of(j, m->id);
			if (part_of(j, m->id))
				vacate(p, j, m);
			else if (j->head == m->id)
				note(p, j, "its mpirun runs there, and stays until the job ends");
		}
		if (!is_needed)
			leave_done(p, m);
	}
}

static void bury(struct pool *p, struct pool_member *m)
{
	uint32_t id = m->id;

	m->is_here = false;
	m->is_gone = true;
	remember_gone(p, m);
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);
		struct part *part = part_of(j, id);

		if (part)
			part_remove(j, part);
		if (j->head == id)
			j->head = 0; /* it may come again, under another one, and then the job is its */
		if (j->head == 0 || j->n_parts == 0)
			job_end(p, j);
		else if (part && !j->is_granted && !j->is_ending)
			refuse_job(p, j, "a host of it has just left the pool; try again");
	}
}

static void leave_done(struct pool *p, struct pool_member *m)
{
	send_to(p, m->id, json_pack("{s:s, s:s}", "op", "down", "text", "this host has left the pool"));
	bury(p, m);
	m->port = 0; /* it is not looked for */
	publish(p);
}

/* ---- states -------------------------------------------------------------------------------------------------------- */

/* Everything it owns is said when it turns to a leader: the successor of a leader knows nothing else. */
static void turn_to(struct pool *p, uint32_t id)
{
	p->leader = id;
	send_to(p, id, owned(p, "join"));
}

static void clear_directory(struct pool *p)
{
	gw_list_for_safe(e, &p->jobs)
		job_drop(gw_list_entry(e, struct pool_job, node));
}

static void seek(struct pool *p)
{
	clear_directory(p);
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		m->is_here = false;
		if (m->is_gone || m->is_resigned)
			continue;
		if (is_self(p, m)) {
			step(p, POOL_EV_CHOSEN);
			return;
		}
		turn_to(p, m->id);
		return;
	}
	step(p, POOL_EV_CHOSEN);
}

static void take_owned(struct pool *p, uint32_t from, const json_t *msg)
{
	const json_t *claims = json_object_get(msg, "claims"), *jobs = json_object_get(msg, "jobs");

	for (size_t i = 0; i < json_array_size(claims); i++) {
		const json_t *c = json_array_get(claims, i);
		struct pool_job *j = job_make(p, (uint32_t)number(c, "job"), text(c, "nonce"));

		part_add(j, from, (uint32_t)number(c, "slots"), PART_HELD);
		if (j->is_ending)
			j->head = 0; /* unless its grant comes, too: an orphan */
		j->is_ending = false;
	}
	for (size_t i = 0; i < json_array_size(jobs); i++) {
		const json_t *g = json_array_get(jobs, i);
		struct pool_job *j = job_make(p, (uint32_t)number(g, "job"), text(g, "nonce"));

		j->head = from;
		j->vacating = 0;
		j->is_granted = true;
		j->ranks = (uint32_t)number(g, "ranks");
		snprintf(j->text, sizeof(j->text), "%s", text(g, "text"));
	}
}

static void gather(struct pool *p)
{
	json_t *own;

	add_self(p);
	clear_directory(p);
	p->term = (((p->term >> 32) + 1) << 32) | p->me.id;
	p->leader = p->me.id;
	p->version = 0;
	p->is_fresh = false;
	own = owned(p, "join");
	take_owned(p, p->me.id, own);
	json_decref(own);
	pool_tick(p); /* it may be alone */
}

static bool are_all_here(struct pool *p)
{
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!m->is_here && !m->is_gone)
			return false;
	}
	return true;
}

/* To a leader that it has just begun to follow: what it wants, and what may have been lost with the last one. */
static void ask_again(struct pool *p, bool is_new_leader)
{
	gw_list_for(e, &p->grants) {
		struct pool_grant *g = gw_list_entry(e, struct pool_grant, node);

		if (g->state == POOL_ASKED)
			send_leader(p, json_pack("{s:s, s:I, s:i, s:s, s:s}", "op", "ask", "job", (json_int_t)g->job, "ranks", (int)g->ranks,
			                         "text", g->text, "nonce", g->nonce));
		else if (g->start && is_new_leader)
			send_leader(p, json_pack("{s:s, s:I, s:o}", "op", "start-all", "job", (json_int_t)g->job, "hosts",
			                         json_deep_copy(g->start)));
	}
}

static void lead(struct pool *p)
{
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		m->is_resigned = false;
		if (!m->is_here)
			bury(p, m);
	}
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);

		if (j->head && !pool_member_of(p, j->head))
			job_end(p, j);
	}
	publish(p);
	ask_again(p, true);
}

static void follow(struct pool *p)
{
	p->is_fresh = false;
	send_leader(p, owned(p, "own"));
	ask_again(p, true);
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

		if (m->is_here && !is_self(p, m))
			send_to(p, m->id, json_pack("{s:s, s:I, s:o*}", "op", "fenced", "leader", (json_int_t)to, "member",
			                            pool_member_of(p, to) ? member_json(pool_member_of(p, to)) : NULL));
	}
	clear_directory(p);
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
	add_self(p);
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
		end_claim(p, c);
	}
	if (gw_list_is_empty(&p->claims))
		p->ops->over(p->ctx, "");
}

/* ---- words --------------------------------------------------------------------------------------------------------- */

static void take_list(struct pool *p, const struct pool_member *from, json_t *msg)
{
	json_t *members = json_object_get(msg, "members");
	uint64_t term = (uint64_t)number(msg, "term");
	bool is_in = false;

	if (from->id != p->leader || term < p->term || !json_is_array(members))
		return;
	for (size_t i = 0; i < json_array_size(members); i++)
		is_in |= (uint32_t)number(json_array_get(members, i), "id") == p->me.id;
	if (!is_in)
		return; /* it comes before the answer to our joining */
	p->term = term;
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		bool is_listed = false;

		for (size_t i = 0; i < json_array_size(members); i++)
			is_listed |= (uint32_t)number(json_array_get(members, i), "id") == m->id;
		if (!is_listed)
			remember_gone(p, m);
	}
	for (size_t i = 0; i < json_array_size(members); i++)
		add_member(p, json_array_get(members, i))->is_gone = false;
	gw_list_for(e, &p->members)
		gw_list_entry(e, struct pool_member, node)->is_resigned = false;
	p->me.is_leaving = pool_member_of(p, p->me.id)->is_leaving;
	json_decref(p->list);
	p->list = json_incref(msg);
	step(p, POOL_EV_LIST);
}

static void answer_fenced(struct pool *p, const struct pool_member *to)
{
	struct pool_member *l = pool_member_of(p, p->leader);
	json_t *msg = json_pack("{s:s, s:I, s:I, s:o*}", "op", "fenced", "term", (json_int_t)p->term, "leader", (json_int_t)p->leader,
	                        "member", l ? member_json(l) : NULL);

	p->ops->send(p->ctx, to, msg);
}

static void do_join(struct pool *p, const struct pool_member *from, json_t *msg)
{
	json_t *who = json_object_get(msg, "member");
	struct pool_member *m = pool_member_of(p, from->id);
	bool is_fresh = json_is_true(json_object_get(msg, "fresh"));

	if ((uint32_t)number(who, "id") != from->id)
		return;
	if (p->state == POOL_FOLLOW && p->leader != from->id) {
		if (is_fresh || !m)
			answer_fenced(p, from); /* not here: there is a leader, and where */
		return; /* it has lost the leader, we have not: it asks again */
	}
	if (p->state != POOL_LEAD && p->state != POOL_GATHER)
		return;
	if (!is_fresh && (!m || m->is_gone || (uint64_t)number(msg, "term") > p->term)) {
		answer_fenced(p, from);
		return;
	}
	m = add_member(p, who);
	m->silent_s = 0;
	if (p->state == POOL_GATHER || !m->is_here) /* else it only asks again */
		take_owned(p, m->id, msg);
	m->is_here = true;
	m->is_gone = false;
	if (p->state == POOL_LEAD)
		publish(p);
	else if (are_all_here(p))
		step(p, POOL_EV_ALL_HERE);
}

static void do_fenced(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint64_t term = (uint64_t)number(msg, "term");
	json_t *leader = json_object_get(msg, "member");

	(void)from;
	if (p->is_down || (uint32_t)number(msg, "leader") == p->me.id ||
	    ((p->state == POOL_LEAD || p->state == POOL_GATHER) && term <= p->term) || (p->state == POOL_FOLLOW && from->id != p->leader))
		return;
	if (term > p->term)
		p->term = term;
	p->leader = (uint32_t)number(msg, "leader");
	if (leader)
		add_member(p, leader)->is_gone = false;
	step(p, POOL_EV_FENCED);
}

/* Somebody looks for those that it has lost. Of two leaders the one of the lower term gives way. */
static void do_probe(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint64_t term = (uint64_t)number(msg, "term");

	if (p->state == POOL_LEAD && term > p->term) {
		add_member(p, json_object_get(msg, "member"))->is_gone = false;
		p->leader = from->id;
		p->term = term;
		step(p, POOL_EV_FENCED);
	} else if ((p->state == POOL_LEAD || p->state == POOL_FOLLOW) && term < p->term) {
		answer_fenced(p, from);
	}
}

static void do_reserve(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint32_t job = (uint32_t)number(msg, "job"), slots = (uint32_t)number(msg, "slots");
	struct pool_claim *c = claim_of(p, job);
	bool is_full = (!c || slots > c->slots) && pool_claimed(p) - (c ? c->slots : 0) + slots > p->me.slots;

	(void)from;
	if (c && !is_full && slots > c->slots)
		c->slots = slots;
	if (!c && !is_full) {
		c = calloc(1, sizeof(*c));
		if (!c)
			abort();
		c->job = job;
		c->slots = slots;
		snprintf(c->nonce, sizeof(c->nonce), "%s", text(msg, "nonce"));
		gw_list_append(&p->claims, &c->node);
	}
	if (c)
		c->head = (uint32_t)number(msg, "head");
	send_leader(p, json_pack("{s:s, s:I, s:b}", "op", "reserved", "job", (json_int_t)job, "full", (int)is_full));
}

static void do_release(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_claim *c = claim_of(p, (uint32_t)number(msg, "job"));

	(void)from;
	if (c)
		end_claim(p, c);
	else
		send_leader(p, json_pack("{s:s, s:I}", "op", "released", "job", number(msg, "job")));
}

static void do_start_here(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_claim *c = claim_of(p, (uint32_t)number(msg, "job"));

	(void)from;
	if (!c || c->is_started)
		return; /* a claim that was ended meanwhile; or told again */
	c->is_started = true;
	p->ops->start(p->ctx, c, msg);
}

static void do_granted(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_grant *g = pool_grant_of(p, (uint32_t)number(msg, "job"));

	(void)from;
	if (!g) { /* its mpirun has not waited */
		send_leader(p, json_pack("{s:s, s:I}", "op", "gone", "job", number(msg, "job")));
		return;
	}
	if (g->state != POOL_ASKED)
		return;
	g->state = POOL_HELD;
	p->ops->tell(p->ctx, g->job, json_incref(msg));
}

static void do_refused(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_grant *g = pool_grant_of(p, (uint32_t)number(msg, "job"));

	(void)from;
	if (!g || g->state != POOL_ASKED)
		return;
	p->ops->tell(p->ctx, g->job, json_incref(msg));
	drop_grant(g);
}

static void do_tell(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from;
	if (pool_grant_of(p, (uint32_t)number(msg, "job")))
		p->ops->tell(p->ctx, (uint32_t)number(msg, "job"), json_incref(msg));
}

static void do_resigned(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_member *m = pool_member_of(p, from->id);

	(void)msg;
	if (m)
		m->is_resigned = true; /* it joins the next one like everybody */
	step(p, POOL_EV_RESIGNED);
}

static void do_down(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from; (void)msg;
	p->is_down = true;
	step(p, POOL_EV_DOWN);
}

static void do_take_down(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from;
	pool_down(p, text(msg, "text"));
}

static void do_remove(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct gw_error why = { 0 };

	(void)from;
	pool_leave(p, text(msg, "host"), &why);
}

static void do_ping(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from; (void)msg;
	send_leader(p, json_pack("{s:s}", "op", "pong"));
}

static void do_nothing(struct pool *p, const struct pool_member *from, json_t *msg) { (void)p; (void)from; (void)msg; }

enum { FROM_ANY = 1, FROM_LEADER = 2, FROM_MEMBER = 4 };

static const struct {
	const char *op;
	void (*handle)(struct pool *p, const struct pool_member *from, json_t *msg);
	int from;                /* FROM_LEADER: while it is followed, in its term; FROM_MEMBER: one that has joined us */
} words[] = {
	{ "join", do_join, FROM_ANY }, { "list", take_list, FROM_ANY }, { "fenced", do_fenced, FROM_ANY },
	{ "probe", do_probe, FROM_ANY },
	{ "reserve", do_reserve, FROM_LEADER }, { "release", do_release, FROM_LEADER }, { "start", do_start_here, FROM_LEADER },
	{ "more", do_more, FROM_MEMBER }, { "added", do_tell, FROM_LEADER }, { "vacate", do_tell, FROM_LEADER }, { "vacated", do_vacated, FROM_MEMBER },
	{ "granted", do_granted, FROM_LEADER }, { "refused", do_refused, FROM_LEADER }, { "said", do_tell, FROM_LEADER },
	{ "ended", do_tell, FROM_LEADER }, { "resign", do_resigned, FROM_LEADER }, { "down", do_down, FROM_LEADER },
	{ "ping", do_ping, FROM_LEADER },
	{ "ask", do_ask, FROM_MEMBER }, { "reserved", do_reserved, FROM_MEMBER }, { "released", do_released, FROM_MEMBER },
	{ "gone", do_gone, FROM_MEMBER }, { "own", do_own, FROM_MEMBER }, { "start-all", do_start, FROM_MEMBER }, { "said", do_forward, FROM_MEMBER },
	{ "ended", do_forward, FROM_MEMBER }, { "take-down", do_take_down, FROM_MEMBER }, { "remove", do_remove, FROM_MEMBER },
	{ "pong", do_nothing, FROM_MEMBER },
};

void pool_message(struct pool *p, const struct pool_member *from, json_t *msg)
{
	const char *op = text(msg, "op");
	struct pool_member *m = pool_member_of(p, from->id);
	uint64_t term = (uint64_t)number(msg, "term");
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
			if (words[i].from == FROM_LEADER && words[i].handle == do_tell && is_member && !json_object_get(msg, "host"))
				continue;
			words[i].handle(p, from, msg);
			if (p->state == POOL_LEAD)
				check_leaving(p);
			return;
		}
	p->refused++;
}

void pool_lost(struct pool *p, uint32_t id)
{
	struct pool_member *m = pool_member_of(p, id);

	if (!m || p->state == POOL_OVER)
		return;
	if (p->state == POOL_LEAD || p->state == POOL_GATHER) {
		if (!m->is_here)
			return;
		bury(p, m);
		if (p->state == POOL_LEAD)
			publish(p);
		else if (are_all_here(p))
			step(p, POOL_EV_ALL_HERE);
	} else if (id == p->leader) {
		m->is_gone = true;
		step(p, POOL_EV_LOST);
	}
}

/* ---- time ---------------------------------------------------------------------------------------------------------- */

/* Words to who was just between two leaders are lost, and both sides would wait. */
static void repeat(struct pool *p, struct pool_job *j)
{
	j->rest_s -= j->rest_s > 0;
	if (++j->age_s % 3)
		return;
	for (size_t i = 0; i < j->n_parts; i++)
		if (j->parts[i].state == PART_ASKED)
			reserve(p, j, &j->parts[i]);
		else if (j->parts[i].state == PART_ENDING)
			send_to(p, j->parts[i].member, json_pack("{s:s, s:I}", "op", "release", "job", (json_int_t)j->job));
}

static void tick_leader(struct pool *p)
{
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (is_self(p, m) || !m->is_here)
			continue;
		if (++m->silent_s > POOL_SILENCE_S) {
			uint32_t id = m->id;

			pool_lost(p, id);
			p->ops->close(p->ctx, id);
		} else if (m->silent_s % 3 == 0) {
			send_to(p, m->id, json_pack("{s:s}", "op", "ping"));
		}
	}
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);

		repeat(p, j);
		if (!j->is_granted && !j->is_ending && j->head == 0 && ++j->orphan_s > POOL_ORPHAN_S)
			job_end(p, j);
	}
	if (p->ticks % POOL_PROBE_S == 0)
		gw_list_for_safe(e, &p->gone) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			bool is_back = is_same_place(m, &p->me);

			gw_list_for(f, &p->members)
				is_back |= is_same_place(m, gw_list_entry(f, struct pool_member, node));
			if (m->port && !is_back)
				p->ops->send(p->ctx, m, json_pack("{s:s, s:I, s:o}", "op", "probe", "term", (json_int_t)p->term, "member",
				                                  member_json(&p->me)));
		}
	check_leaving(p);
}

void pool_tick(struct pool *p)
{
	p->ticks++;
	p->age_s++;
	if (p->state == POOL_GATHER && are_all_here(p))
		step(p, POOL_EV_ALL_HERE);
	else if (p->state == POOL_GATHER && p->age_s > POOL_GATHER_S)
		step(p, POOL_EV_TIME);
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
			step(p, POOL_EV_LOST);
		} else {
			turn_to(p, p->leader); /* whom it turned to may not have seen the leader's end */
		}
	}
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		ask_again(p, false);
}

/* ---- from this host ------------------------------------------------------------------------------------------------ */

int pool_ask(struct pool *p, uint32_t job, uint32_t ranks, const char *said)
{
	struct pool_grant *g;

	if (pool_grant_of(p, job))
		return -EEXIST;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->job = job;
	g->ranks = ranks;
	snprintf(g->text, sizeof(g->text), "%s", said);
	snprintf(g->nonce, sizeof(g->nonce), "%08x%08x%08x%08x", p->ops->random(p->ctx), p->ops->random(p->ctx), p->ops->random(p->ctx),
	         p->ops->random(p->ctx));
	gw_list_append(&p->grants, &g->node);
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		send_leader(p, json_pack("{s:s, s:I, s:i, s:s, s:s}", "op", "ask", "job", (json_int_t)job, "ranks", (int)ranks, "text",
		                         g->text, "nonce", g->nonce));
	return 0;
}

void pool_start(struct pool *p, uint32_t job, json_t *how)
{
	struct pool_grant *g = pool_grant_of(p, job);

	if (!g || g->state != POOL_HELD) {
		json_decref(how);
		return;
	}
	if (!g->start)
		g->start = json_array();
	json_array_append(g->start, how);
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		send_leader(p, json_pack("{s:s, s:I, s:[o]}", "op", "start-all", "job", (json_int_t)job, "hosts", json_deep_copy(how)));
	json_decref(how);
}

void pool_job_over(struct pool *p, uint32_t job)
{
	struct pool_grant *g = pool_grant_of(p, job);
	struct pool_claim *c = claim_of(p, job);

	if (!g)
		return;
	drop_grant(g); /* whoever leads next is not told of it, and ends what is claimed for it */
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		send_leader(p, json_pack("{s:s, s:I}", "op", "gone", "job", (json_int_t)job));
	if (c)
		end_claim(p, c);
}

void pool_more(struct pool *p, uint32_t job, const char *host)
{
	send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "more", "job", (json_int_t)job, "host", host));
}

void pool_vacated(struct pool *p, uint32_t job, const char *said)
{
	send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "vacated", "job", (json_int_t)job, "text", said));
}

void pool_daemon_said(struct pool *p, uint32_t job, const char *line)
{
	send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "said", "job", (json_int_t)job, "text", line));
}

void pool_daemon_ended(struct pool *p, uint32_t job, const char *how)
{
	struct pool_claim *c = claim_of(p, job);

	if (!c)
		return;
	send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "ended", "job", (json_int_t)job, "text", how));
	claim_over(p, c);
	if (p->state == POOL_OVER && gw_list_is_empty(&p->claims))
		p->ops->over(p->ctx, "");
}

void pool_down(struct pool *p, const char *why)
{
	if (p->state == POOL_FOLLOW) {
		send_leader(p, json_pack("{s:s, s:s}", "op", "take-down", "text", why));
		return;
	}
	p->is_down = true;
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!is_self(p, m) && m->is_here)
			send_to(p, m->id, json_pack("{s:s, s:s}", "op", "down", "text", why));
	}
	step(p, POOL_EV_DOWN);
}

int pool_leave(struct pool *p, const char *host, struct gw_error *why)
{
	struct pool_member *m = NULL;

	gw_list_for(e, &p->members)
		if (strcmp(gw_list_entry(e, struct pool_member, node)->host, host) == 0)
			m = gw_list_entry(e, struct pool_member, node);
	if (!m)
		return gw_fail(why, -ENOENT, "the pool has no host '%s'", host);
	if (p->state == POOL_FOLLOW) {
		send_leader(p, json_pack("{s:s, s:s}", "op", "remove", "host", host));
		return 0;
	}
	if (p->state != POOL_LEAD)
		return gw_fail(why, -EAGAIN, "the pool has no leader just now; try again");
	if (m->is_leaving)
		return 0;
	m->is_leaving = true;
	if (!is_self(p, m)) {
		publish(p);
		return 0;
	}
	p->me.is_leaving = true;
	gw_list_for(e, &p->members) { /* the leader itself: another one first */
		struct pool_member *o = gw_list_entry(e, struct pool_member, node);

		if (!is_self(p, o) && o->is_here) {
			publish(p);
			gw_list_for_safe(f, &p->members) {
				struct pool_member *to = gw_list_entry(f, struct pool_member, node);

				if (!is_self(p, to))
					send_to(p, to->id, json_pack("{s:s}", "op", "resign"));
			}
			m->is_resigned = true;
			step(p, POOL_EV_RESIGNED);
			return 0;
		}
	}
	p->me.is_leaving = m->is_leaving = false;
	return gw_fail(why, -EBUSY, "'%s' is the only host of the pool; 'godwit down' ends it", host);
}

/* ---- begin, end ---------------------------------------------------------------------------------------------------- */

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
		add_member(p, json_array_get(members, i));
	if (!pool_member_of(p, p->me.id))
		return -EINVAL;
	seek(p);
	return 0;
}

int pool_join(struct pool *p, const json_t *members, uint32_t leader)
{
	for (size_t i = 0; i < json_array_size(members); i++)
		add_member(p, json_array_get(members, i));
	add_self(p);
	p->is_fresh = true;
	if (!pool_member_of(p, leader))
		return -EINVAL;
	turn_to(p, leader);
	return 0;
}

void pool_fini(struct pool *p)
{
	clear_directory(p);
	gw_list_for_safe(e, &p->grants)
		drop_grant(gw_list_entry(e, struct pool_grant, node));
	gw_list_for_safe(e, &p->claims) {
		gw_list_remove(e);
		free(gw_list_entry(e, struct pool_claim, node));
	}
	forget(&p->members);
	forget(&p->gone);
	json_decref(p->list);
}
