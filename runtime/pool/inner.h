/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the objects of a keeper's decisions know of each other. Nobody else includes this.
 *
 *   core.c       its state, as a table; succession; time          members.c    who there is
 *   words.c      who may say what, and those of who leads         owned.c      claims and grants: what this host says and gives
 *   directory.c  jobs, their parts, and slots: a leader's         leaving.c    hosts that leave or are lost
 */
#ifndef POOL_INNER_H
#define POOL_INNER_H

#include "runtime/pool/core.h"

/* @held: what its keeper has given; it is asked for @slots; @is_more: the job has asked for just this, and waits */
struct pool_part {
	uint32_t member, slots, held;
	enum { PART_ASKED, PART_HELD, PART_ENDING } state;
	bool is_more;
};

struct pool_job {                /* of the directory */
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
	uint32_t number;         /* as people call it */
	json_t *places;          /* as its mpirun has said; NULL: it has not */
	struct pool_part *parts;
	size_t n_parts;
};

static inline json_int_t pool_number(const json_t *msg, const char *key) { return json_integer_value(json_object_get(msg, key)); }

static inline const char *pool_text(const json_t *msg, const char *key)
{
	const char *t = json_string_value(json_object_get(msg, key));

	return t ? t : "";
}

/* members.c */
json_t *pool_member_json(const struct pool_member *m);
struct pool_member *pool_member_add(struct pool *p, const json_t *j);
void pool_member_add_self(struct pool *p);
bool pool_is_self(const struct pool *p, const struct pool_member *m);
void pool_send(struct pool *p, uint32_t id, json_t *msg);
void pool_send_leader(struct pool *p, json_t *msg);
bool pool_is_same_place(const struct pool_member *a, const struct pool_member *b);
void pool_member_remember(struct pool *p, struct pool_member *m);
void pool_members_forget(struct gw_list *members);

/* owned.c */
void pool_grant_drop(struct pool_grant *g);
void pool_claim_end(struct pool *p, struct pool_claim *c);
json_t *pool_owned(struct pool *p, const char *op);
void pool_ask_again(struct pool *p, bool is_new_leader);

/* directory.c */
struct pool_job *pool_job_of(struct pool *p, uint32_t job);
void pool_jobs_clear(struct pool *p);
struct pool_part *pool_part_of(struct pool_job *j, uint32_t member);
struct pool_part *pool_part_add(struct pool_job *j, uint32_t member, uint32_t slots, int state);
void pool_part_remove(struct pool_job *j, struct pool_part *part);
uint32_t pool_room_of(struct pool *p, const struct pool_member *m);
void pool_publish(struct pool *p);
bool pool_job_end(struct pool *p, struct pool_job *j);
void pool_job_refuse(struct pool *p, struct pool_job *j, const char *why);
void pool_part_reserve(struct pool *p, const struct pool_job *j, const struct pool_part *part);
void pool_take_owned(struct pool *p, uint32_t from, const json_t *msg);

/* leaving.c */
void pool_member_bury(struct pool *p, struct pool_member *m);
void pool_check_leaving(struct pool *p);

/* core.c */
bool pool_step(struct pool *p, enum pool_event ev);
bool pool_are_all_here(struct pool *p);
void pool_resigned(struct pool *p, uint32_t leader, uint32_t next);

/* What is done with a word of that name; words.c says whose it may be */
void pool_do_reserve(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_release(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_start_here(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_granted(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_refused(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_tell(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_ask(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_more(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_reserved(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_released(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_gone(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_start(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_forward(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_own(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_placed(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_vacated(struct pool *p, const struct pool_member *from, json_t *msg);
void pool_do_remove(struct pool *p, const struct pool_member *from, json_t *msg);

#endif
