/* SPDX-License-Identifier: BSD-2-Clause */
/* A leader's directory: jobs, and their parts on the hosts; how a job gets slots, and gives them back. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

struct pool_job *pool_job_of(struct pool *p, uint32_t job)
{
	gw_list_for(e, &p->jobs)
		if (gw_list_entry(e, struct pool_job, node)->job == job)
			return gw_list_entry(e, struct pool_job, node);
	return NULL;
}

static struct pool_job *job_make(struct pool *p, uint32_t job, const char *nonce)
{
	struct pool_job *j = pool_job_of(p, job);

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
	json_decref(j->places);
	free(j);
}

void pool_jobs_clear(struct pool *p)
{
	gw_list_for_safe(e, &p->jobs)
		job_drop(gw_list_entry(e, struct pool_job, node));
}

struct pool_part *pool_part_of(struct pool_job *j, uint32_t member)
{
	for (size_t i = 0; i < j->n_parts; i++)
		if (j->parts[i].member == member)
			return &j->parts[i];
	return NULL;
}

struct pool_part *pool_part_add(struct pool_job *j, uint32_t member, uint32_t slots, int state)
{
	struct pool_part *more = pool_part_of(j, member);

	if (!more) {
		more = realloc(j->parts, (j->n_parts + 1) * sizeof(*more));
		if (!more)
			abort();
		j->parts = more;
		more = &more[j->n_parts++];
	}
	*more = (struct pool_part){ .member = member, .slots = slots, .held = state == PART_HELD ? slots : 0, .state = state };
	return more;
}

void pool_part_remove(struct pool_job *j, struct pool_part *part)
{
	size_t at = (size_t)(part - j->parts);

	memmove(part, part + 1, (j->n_parts - at - 1) * sizeof(*part));
	j->n_parts--;
}

static uint32_t taken(struct pool *p, uint32_t member)
{
	uint32_t n = 0;

	gw_list_for(e, &p->jobs) {
		struct pool_part *part = pool_part_of(gw_list_entry(e, struct pool_job, node), member);

		n += part ? part->slots : 0;
	}
	return n;
}

/* Of a member for new work */
uint32_t pool_room_of(struct pool *p, const struct pool_member *m)
{
	uint32_t n = taken(p, m->id);

	return m->is_here && !m->is_leaving && m->slots > n ? m->slots - n : 0;
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
		json_array_append_new(all, json_pack("{s:I, s:I, s:i, s:s, s:s, s:s, s:o, s:O*}", "job", (json_int_t)j->number, "head",
		                                     (json_int_t)j->head, "ranks", (int)j->ranks, "text", j->text, "state", j->is_ending ?
		                                     "ending" : j->is_granted ? "running" : "starting", "note", j->note, "parts", parts,
		                                     "places", j->places));
	}
	return all;
}

/* A new version of the list, for all */
void pool_publish(struct pool *p)
{
	json_t *members = json_array();

	if (p->state != POOL_LEAD)
		return;
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->is_here)
			json_array_append_new(members, pool_member_json(m));
	}
	json_decref(p->list);
	p->list = json_pack("{s:s, s:I, s:I, s:o, s:o}", "op", "list", "leader", (json_int_t)p->me.id, "version",
	                    (json_int_t)++p->version, "members", members, "jobs", jobs_json(p));
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (m->is_here && !pool_is_self(p, m))
			pool_send(p, m->id, json_deep_copy(p->list));
	}
}

/* What the job has anywhere ends; the directory forgets it when everybody has said so. Returns true when it is forgotten. */
bool pool_job_end(struct pool *p, struct pool_job *j)
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
			pool_send(p, j->parts[i].member, json_pack("{s:s, s:I}", "op", "release", "job", (json_int_t)j->job));
		}
	return false;
}

void pool_job_refuse(struct pool *p, struct pool_job *j, const char *why)
{
	pool_send(p, j->head, json_pack("{s:s, s:I, s:s}", "op", "refused", "job", (json_int_t)j->job, "text", why));
	pool_job_end(p, j);
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
	pool_send(p, j->head, json_pack("{s:s, s:I, s:s, s:o}", "op", "granted", "job", (json_int_t)j->job, "nonce", j->nonce, "hosts",
	                                hosts));
	pool_publish(p);
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
		pool_job_end(p, j);
}

void pool_part_reserve(struct pool *p, const struct pool_job *j, const struct pool_part *part)
{
	pool_send(p, part->member, json_pack("{s:s, s:I, s:i, s:I, s:s}", "op", "reserve", "job", (json_int_t)j->job, "slots",
	                                     (int)part->slots, "head", (json_int_t)j->head, "nonce", j->nonce));
}

static void take_places(struct pool_job *j, const json_t *msg)
{
	json_t *places = json_object_get(msg, "places");

	if (!json_is_array(places))
		return;
	json_decref(j->places);
	j->places = json_incref(places);
}

void pool_do_placed(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));

	if (!j || j->head != from->id)
		return;
	take_places(j, msg);
	pool_publish(p);
}

void pool_take_owned(struct pool *p, uint32_t from, const json_t *msg)
{
	const json_t *claims = json_object_get(msg, "claims"), *jobs = json_object_get(msg, "jobs");

	for (size_t i = 0; i < json_array_size(claims); i++) {
		const json_t *c = json_array_get(claims, i);
		struct pool_job *j = job_make(p, (uint32_t)pool_number(c, "job"), pool_text(c, "nonce"));

		pool_part_add(j, from, (uint32_t)pool_number(c, "slots"), PART_HELD);
		if (j->is_ending)
			j->head = 0; /* unless its grant comes, too: an orphan */
		j->is_ending = false;
	}
	for (size_t i = 0; i < json_array_size(jobs); i++) {
		const json_t *g = json_array_get(jobs, i);
		struct pool_job *j = job_make(p, (uint32_t)pool_number(g, "job"), pool_text(g, "nonce"));

		j->head = from;
		j->vacating = 0;
		j->is_granted = true;
		j->ranks = (uint32_t)pool_number(g, "ranks");
		j->number = (uint32_t)pool_number(g, "number");
		take_places(j, g);
		snprintf(j->text, sizeof(j->text), "%s", pool_text(g, "text"));
	}
}

void pool_do_ask(struct pool *p, const struct pool_member *from, json_t *msg)
{
	uint32_t job = (uint32_t)pool_number(msg, "job"), ranks = (uint32_t)pool_number(msg, "ranks"), all = 0, room = 0, due = ranks;
	struct pool_job *j = pool_job_of(p, job);
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
		room += pool_room_of(p, m);
	}
	if (room < ranks) {
		snprintf(why, sizeof(why), ranks > all ? "the job needs %u slots, and the pool has %u" :
		         "the job needs %u slots, and of the pool's %u only %u are free; wait for a job to end, or add hosts with 'godwit "
		         "up --add'", ranks, all, room);
		pool_send(p, from->id, json_pack("{s:s, s:I, s:s}", "op", "refused", "job", (json_int_t)job, "text", why));
		return;
	}
	j = job_make(p, job, pool_text(msg, "nonce"));
	j->head = from->id;
	j->ranks = ranks;
	j->number = (uint32_t)pool_number(msg, "number");
	snprintf(j->text, sizeof(j->text), "%s", pool_text(msg, "text"));
	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		uint32_t n = pool_room_of(p, m) < due ? pool_room_of(p, m) : due;

		if (n)
			pool_part_add(j, m->id, n, PART_ASKED);
		due -= n;
	}
	for (size_t i = 0; i < j->n_parts; i++)
		pool_part_reserve(p, j, &j->parts[i]);
}

static void answer_more(struct pool *p, struct pool_job *j, const char *host, bool is_asked, const char *said)
{
	if (is_asked)
		pool_send(p, j->head, json_pack("{s:s, s:I, s:s, s:s}", "op", "added", "job", (json_int_t)j->job, "host", host, "text", said));
	if (is_asked && !*said)
		pool_publish(p);
}

/* A job that runs wants a slot of a host */
void pool_do_more(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));
	const char *host = pool_text(msg, "host");
	struct pool_member *m = NULL;
	struct pool_part *part;

	if (!j || j->is_ending || !j->is_granted || j->head != from->id)
		return;
	gw_list_for(e, &p->members) {
		struct pool_member *o = gw_list_entry(e, struct pool_member, node);

		if (o->is_here && strcmp(o->host, host) == 0)
			m = o;
	}
	part = m ? pool_part_of(j, m->id) : NULL;
	if (!m || m->is_leaving)
		answer_more(p, j, host, true, m ? "it is to leave the pool" : "it is not in the pool; 'godwit up --add' adds a host to it");
	else if (part && part->state == PART_HELD)
		answer_more(p, j, host, true, "");
	else if (part)
		part->is_more |= part->state == PART_ASKED;
	else if (!pool_room_of(p, m))
		answer_more(p, j, host, true, "the pool has no slot free there");
	else {
		part = pool_part_add(j, m->id, 1, PART_ASKED);
		part->is_more = true;
		pool_part_reserve(p, j, part);
	}
}

void pool_do_reserved(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));
	struct pool_part *part = j ? pool_part_of(j, from->id) : NULL;

	if (!part && !json_is_true(json_object_get(msg, "full"))) /* asked again, and the job is over by now */
		pool_send(p, from->id, json_pack("{s:s, s:I}", "op", "release", "job", pool_number(msg, "job")));
	if (!part || part->state != PART_ASKED)
		return;
	answer_more(p, j, from->host, part->is_more, json_is_true(json_object_get(msg, "full")) ? "its slots have just been taken" : "");
	part->is_more = false;
	if (json_is_true(json_object_get(msg, "full"))) {
		part->state = PART_HELD;
		part->slots = part->held;
		if (!part->held)
			pool_part_remove(j, part);
		if (!j->is_granted)
			pool_job_refuse(p, j, "a host has given its slots away meanwhile; try again");
		return;
	}
	part->state = PART_HELD;
	part->held = part->slots;
	grant_if_held(p, j);
}

void pool_do_released(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));
	struct pool_part *part = j ? pool_part_of(j, from->id) : NULL;

	if (!part)
		return;
	if (part->state == PART_ASKED) { /* what it had there before; or an earlier release was told twice. The answer comes behind it */
		part->held = 0;
		return;
	}
	pool_part_remove(j, part);
	if (j->n_parts == 0 && !(j->is_granted && pool_member_of(p, j->head)))
		job_drop(j);
	pool_publish(p);
}

void pool_do_gone(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));

	if (j && j->head == from->id)
		pool_job_end(p, j);
	pool_publish(p);
}

/* To the keepers of the job's hosts, each with its part: which clusters are its own is in the order of the grant */
void pool_do_start(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));
	json_t *hosts = json_object_get(msg, "hosts");

	if (!j || j->is_ending || j->head != from->id)
		return;
	for (size_t i = 0; i < json_array_size(hosts); i++) {
		json_t *one = json_copy(json_array_get(hosts, i));

		json_object_set_new(one, "op", json_string("start"));
		json_object_set_new(one, "job", json_integer((json_int_t)j->job));
		pool_send(p, (uint32_t)pool_number(one, "member"), one);
	}
}

/* What a daemon said, and that it has ended, goes to the keeper of the job's mpirun */
void pool_do_forward(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));

	if (!j)
		return;
	json_object_set_new(msg, "host", json_string(from->host));
	json_object_set_new(msg, "member", json_integer((json_int_t)from->id));
	pool_send(p, j->head, json_incref(msg));
}

/* What has ended while there was no leader to be told of it. It comes before anything else of the term. */
void pool_do_own(struct pool *p, const struct pool_member *from, json_t *msg)
{
	const json_t *claims = json_object_get(msg, "claims"), *jobs = json_object_get(msg, "jobs");

	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);
		struct pool_part *part = pool_part_of(j, from->id);
		bool is_claimed = false, is_granted = false;

		for (size_t i = 0; i < json_array_size(claims); i++)
			is_claimed |= (uint32_t)pool_number(json_array_get(claims, i), "job") == j->job;
		for (size_t i = 0; i < json_array_size(jobs); i++)
			if ((uint32_t)pool_number(json_array_get(jobs, i), "job") == j->job) {
				is_granted = true;
				take_places(j, json_array_get(jobs, i));
			}
		if (part && !is_claimed && part->state != PART_ASKED)
			pool_part_remove(j, part);
		if ((j->head == from->id && j->is_granted && !is_granted) || (j->n_parts == 0 && !j->is_granted))
			pool_job_end(p, j);
	}
	pool_publish(p);
}
