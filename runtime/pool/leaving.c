/* SPDX-License-Identifier: BSD-2-Clause */
/* Members that are to leave, or are lost, and the jobs that have ranks there. */
#include "runtime/pool/inner.h"

#include <stdlib.h>

static void note(struct pool *p, struct pool_job *j, const char *said)
{
	if (strcmp(j->note, said) == 0)
		return;
	snprintf(j->note, sizeof(j->note), "%s", said);
	pool_publish(p);
}

/* More slots for a job that runs, on hosts that it has before others. Returns whether there are so many. */
static bool widen(struct pool *p, struct pool_job *j, uint32_t due)
{
	uint32_t room = 0;

	gw_list_for(e, &p->members)
		room += pool_room_of(p, gw_list_entry(e, struct pool_member, node));
	if (room < due)
		return false;
	for (int is_new = 0; is_new < 2; is_new++)
		gw_list_for(e, &p->members) {
			struct pool_member *m = gw_list_entry(e, struct pool_member, node);
			uint32_t n = pool_room_of(p, m) < due ? pool_room_of(p, m) : due;
			struct pool_part *part = pool_part_of(j, m->id);

			if (!n || !part == !is_new)
				continue;
			if (!part)
				part = pool_part_add(j, m->id, 0, PART_ASKED);
			part->state = PART_ASKED;
			part->slots += n;
			due -= n;
			pool_part_reserve(p, j, part);
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
	pool_send(p, j->head, json_pack("{s:s, s:I, s:s, s:o}", "op", "vacate", "job", (json_int_t)j->job, "host", m->host, "hosts", hosts));
	if (!j->is_stuck)
		note(p, j, "its ranks are being moved");
}

void pool_do_vacated(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct pool_job *j = pool_job_of(p, (uint32_t)pool_number(msg, "job"));

	if (!j || j->head != from->id)
		return;
	j->vacating = 0;
	j->rest_s = POOL_REST_S;
	j->is_stuck = *pool_text(msg, "text");
	note(p, j, pool_text(msg, "text"));
}

void pool_member_bury(struct pool *p, struct pool_member *m)
{
	uint32_t id = m->id;

	m->is_here = false;
	m->is_gone = true;
	pool_member_remember(p, m);
	gw_list_for_safe(e, &p->jobs) {
		struct pool_job *j = gw_list_entry(e, struct pool_job, node);
		struct pool_part *part = pool_part_of(j, id);

		if (part)
			pool_part_remove(j, part);
		if (j->head == id)
			j->head = 0; /* it may come again, under another one, and then the job is its */
		if (j->head == 0 || j->n_parts == 0)
			pool_job_end(p, j);
		else if (part && !j->is_granted && !j->is_ending)
			pool_job_refuse(p, j, "a host of it has just left the pool; try again");
	}
}

static void leave_done(struct pool *p, struct pool_member *m)
{
	pool_send(p, m->id, json_pack("{s:s, s:s}", "op", "down", "text", "this host has left the pool"));
	m->port = 0; /* it is not looked for */
	pool_member_bury(p, m);
	pool_publish(p);
}

/*
 * A leader whose host is to leave hands over to the first that is not to leave: everybody turns to that one, and those before
 * it are not turned to, but waited for. False: there is none.
 */
static bool resign(struct pool *p)
{
	struct pool_member *next = NULL;

	gw_list_for(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!next && !pool_is_self(p, m) && m->is_here && !m->is_leaving)
			next = m;
	}
	if (!next)
		return false;
	pool_publish(p); /* who is to leave */
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);

		if (!pool_is_self(p, m))
			pool_send(p, m->id, json_pack("{s:s, s:I}", "op", "resign", "next", (json_int_t)next->id));
	}
	pool_resigned(p, p->me.id, next->id);
	return true;
}

/* Members without anything left that are to leave */
void pool_check_leaving(struct pool *p)
{
	if (p->me.is_leaving && resign(p))
		return;
	gw_list_for_safe(e, &p->members) {
		struct pool_member *m = gw_list_entry(e, struct pool_member, node);
		bool is_needed = pool_is_self(p, m);

		if (!m->is_leaving)
			continue;
		gw_list_for(f, &p->jobs) {
			struct pool_job *j = gw_list_entry(f, struct pool_job, node);

			is_needed |= j->head == m->id || pool_part_of(j, m->id);
			if (pool_part_of(j, m->id))
				vacate(p, j, m);
			else if (j->head == m->id)
				note(p, j, "its mpirun runs there, and stays until the job ends");
		}
		if (!is_needed)
			leave_done(p, m);
	}
}

/* Is there one that could lead when @m does not any more? */
static bool has_other(const struct pool *p, const struct pool_member *m)
{
	gw_list_for(e, &p->members) {
		const struct pool_member *o = gw_list_entry(e, struct pool_member, node);

		if (o != m && !o->is_gone && !o->is_leaving)
			return true;
	}
	return false;
}

static int refuse_leader(const struct pool *p, const struct pool_member *m, struct gw_error *why)
{
	gw_list_for(e, &p->members)
		if (gw_list_entry(e, struct pool_member, node) != m && !gw_list_entry(e, struct pool_member, node)->is_gone)
			return gw_fail(why, -EBUSY, "all other hosts of the pool are to leave it, too, and '%s' leads it; 'godwit down' ends it", m->host);
	return gw_fail(why, -EBUSY, "'%s' is the only host of the pool; 'godwit down' ends it", m->host);
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
		if (m->id == p->leader && !has_other(p, m)) /* the leader would not say so to us */
			return refuse_leader(p, m, why);
		pool_send_leader(p, json_pack("{s:s, s:s}", "op", "remove", "host", host));
		return 0;
	}
	if (p->state != POOL_LEAD)
		return gw_fail(why, -EAGAIN, "the pool has no leader just now; try again");
	if (m->is_leaving)
		return 0;
	m->is_leaving = true;
	if (!pool_is_self(p, m)) {
		pool_publish(p);
		return 0;
	}
	p->me.is_leaving = true;
	if (resign(p)) /* the leader itself: another one first */
		return 0;
	p->me.is_leaving = m->is_leaving = false;
	return refuse_leader(p, m, why);
}

void pool_do_remove(struct pool *p, const struct pool_member *from, json_t *msg)
{
	struct gw_error why = { 0 };

	(void)from;
	pool_leave(p, pool_text(msg, "host"), &why);
}
