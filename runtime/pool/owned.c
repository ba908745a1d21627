/* SPDX-License-Identifier: BSD-2-Clause */
/* What this keeper owns: claims and grants; what a leader asks of them, and what this host asks of the leader. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

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

void pool_grant_drop(struct pool_grant *g)
{
	gw_list_remove(&g->node);
	json_decref(g->start);
	json_decref(g->places);
	free(g);
}

static void claim_over(struct pool *p, struct pool_claim *c)
{
	uint32_t job = c->job;

	gw_list_remove(&c->node);
	free(c);
	pool_send_leader(p, json_pack("{s:s, s:I}", "op", "released", "job", (json_int_t)job));
}

void pool_claim_end(struct pool *p, struct pool_claim *c)
{
	if (!c->is_started)
		claim_over(p, c);
	else if (!c->is_stopping) {
		c->is_stopping = true;
		p->ops->stop(p->ctx, c->job);
	}
}

json_t *pool_owned(struct pool *p, const char *op)
{
	json_t *claims = json_array(), *jobs = json_array(), *me = pool_member_json(&p->me);

	gw_list_for(e, &p->claims) {
		struct pool_claim *c = gw_list_entry(e, struct pool_claim, node);

		json_array_append_new(claims, json_pack("{s:I, s:i, s:s}", "job", (json_int_t)c->job, "slots", (int)c->slots, "nonce",
		                                        c->nonce));
	}
	gw_list_for(e, &p->grants) {
		struct pool_grant *g = gw_list_entry(e, struct pool_grant, node);

		if (g->state == POOL_HELD)
			json_array_append_new(jobs, json_pack("{s:I, s:I, s:i, s:s, s:s, s:O*}", "job", (json_int_t)g->job, "number",
			                                      (json_int_t)g->number, "ranks", (int)g->ranks, "text", g->text, "nonce", g->nonce,
			                                      "places", g->places));
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:b}", "op", op, "member", me, "claims", claims, "jobs", jobs, "fresh",
	                 (int)p->is_fresh);
}

void pool_do_reserve(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint32_t job = (uint32_t)pool_number(msg, "job"), slots = (uint32_t)pool_number(msg, "slots");
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
		snprintf(c->nonce, sizeof(c->nonce), "%s", pool_text(msg, "nonce"));
		gw_list_append(&p->claims, &c->node);
	}
	if (c)
		c->head = (uint32_t)pool_number(msg, "head");
	pool_send_leader(p, json_pack("{s:s, s:I, s:b}", "op", "reserved", "job", (json_int_t)job, "full", (int)is_full));
}

void pool_do_release(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_claim *c = claim_of(p, (uint32_t)pool_number(msg, "job"));

	(void)from;
	if (c)
		pool_claim_end(p, c);
	else
		pool_send_leader(p, json_pack("{s:s, s:I}", "op", "released", "job", pool_number(msg, "job")));
}

void pool_do_start_here(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_claim *c = claim_of(p, (uint32_t)pool_number(msg, "job"));

	(void)from;
	if (!c || c->is_started)
		return; /* a claim that was ended meanwhile; or told again */
	c->is_started = true;
	p->ops->start(p->ctx, c, msg);
}

void pool_do_granted(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_grant *g = pool_grant_of(p, (uint32_t)pool_number(msg, "job"));

	(void)from;
	if (!g) { /* its mpirun has not waited */
		pool_send_leader(p, json_pack("{s:s, s:I}", "op", "gone", "job", pool_number(msg, "job")));
		return;
	}
	if (g->state != POOL_ASKED)
		return;
	g->state = POOL_HELD;
	p->ops->tell(p->ctx, g->job, json_incref(msg));
}

void pool_do_refused(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_grant *g = pool_grant_of(p, (uint32_t)pool_number(msg, "job"));

	(void)from;
	if (!g || g->state != POOL_ASKED)
		return;
	p->ops->tell(p->ctx, g->job, json_incref(msg));
	pool_grant_drop(g);
}

void pool_do_tell(struct pool *p, const struct pool_member *from, json_t *msg)
{
	(void)from;
	if (pool_grant_of(p, (uint32_t)pool_number(msg, "job")))
		p->ops->tell(p->ctx, (uint32_t)pool_number(msg, "job"), json_incref(msg));
}

static void send_ask(struct pool *p, const struct pool_grant *g)
{
	pool_send_leader(p, json_pack("{s:s, s:I, s:I, s:i, s:s, s:s}", "op", "ask", "job", (json_int_t)g->job, "number",
	                              (json_int_t)g->number, "ranks", (int)g->ranks, "text", g->text, "nonce", g->nonce));
}

/* To a leader that it has just begun to follow: what it wants, and what may have been lost with the last one. */
void pool_ask_again(struct pool *p, bool is_new_leader)
{
	gw_list_for(e, &p->grants) {
		struct pool_grant *g = gw_list_entry(e, struct pool_grant, node);

		if (g->state == POOL_ASKED)
			send_ask(p, g);
		else if (g->start && is_new_leader)
			pool_send_leader(p, json_pack("{s:s, s:I, s:o}", "op", "start-all", "job", (json_int_t)g->job, "hosts",
			                              json_deep_copy(g->start)));
	}
}

int pool_ask(struct pool *p, uint32_t job, uint32_t number, uint32_t ranks, const char *said)
{
	struct pool_grant *g;

	if (pool_grant_of(p, job))
		return -EEXIST;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->job = job;
	g->number = number;
	g->ranks = ranks;
	snprintf(g->text, sizeof(g->text), "%s", said);
	snprintf(g->nonce, sizeof(g->nonce), "%08x%08x%08x%08x", p->ops->random(p->ctx), p->ops->random(p->ctx), p->ops->random(p->ctx),
	         p->ops->random(p->ctx));
	gw_list_append(&p->grants, &g->node);
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		send_ask(p, g);
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
	for (size_t i = json_array_size(g->start); i-- > 0;) /* a host that was left, and comes again: a new leader is not told of then */
		if (pool_number(json_array_get(g->start, i), "member") == pool_number(how, "member"))
			json_array_remove(g->start, i);
	json_array_append(g->start, how);
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		pool_send_leader(p, json_pack("{s:s, s:I, s:[o]}", "op", "start-all", "job", (json_int_t)job, "hosts", json_deep_copy(how)));
	json_decref(how);
}

void pool_job_over(struct pool *p, uint32_t job)
{
	struct pool_grant *g = pool_grant_of(p, job);
	struct pool_claim *c = claim_of(p, job);

	if (!g)
		return;
	pool_grant_drop(g); /* whoever leads next is not told of it, and ends what is claimed for it */
	if (p->state == POOL_FOLLOW || p->state == POOL_LEAD)
		pool_send_leader(p, json_pack("{s:s, s:I}", "op", "gone", "job", (json_int_t)job));
	if (c)
		pool_claim_end(p, c);
}

void pool_placed(struct pool *p, uint32_t job, json_t *places)
{
	struct pool_grant *g = pool_grant_of(p, job);

	if (!g || g->state != POOL_HELD)
		return;
	json_decref(g->places);
	g->places = json_incref(places);
	pool_send_leader(p, json_pack("{s:s, s:I, s:O}", "op", "placed", "job", (json_int_t)job, "places", places));
}

void pool_more(struct pool *p, uint32_t job, const char *host)
{
	pool_send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "more", "job", (json_int_t)job, "host", host));
}

void pool_vacated(struct pool *p, uint32_t job, const char *said)
{
	pool_send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "vacated", "job", (json_int_t)job, "text", said));
}

void pool_daemon_said(struct pool *p, uint32_t job, const char *line)
{
	pool_send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "said", "job", (json_int_t)job, "text", line));
}

void pool_daemon_ended(struct pool *p, uint32_t job, const char *how)
{
	struct pool_claim *c = claim_of(p, job);

	if (!c)
		return;
	pool_send_leader(p, json_pack("{s:s, s:I, s:s}", "op", "ended", "job", (json_int_t)job, "text", how));
	claim_over(p, c);
	if (p->state == POOL_OVER && gw_list_is_empty(&p->claims))
		p->ops->over(p->ctx, "");
}
