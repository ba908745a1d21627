/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher/friends: other jobs, as guests.c, friends.c and meet.c know them.
 */
#ifndef RT_FRIENDS_H
#define RT_FRIENDS_H

#include "runtime/launcher/head.h"

struct meet_call;

enum friend_state {
	FRIEND_NONE,    /* it was tried, came to nothing, and can be tried again */
	FRIEND_CALLING, /* its mpirun is being reached (@reaching), or meet is on its way */
	FRIEND_MET,     /* it has our number for it, and we its */
	FRIEND_GONE,    /* its job has ended, or its ranks were known here and cannot be talked to: a name that is gone does not come back */
};

struct guest {
	uint32_t proc, number;
	json_t *name;            /* the last news, under our number */
};

struct friend_job {
	struct gw_list node;     /* head.friends */
	struct head *head;
	uint32_t job, index, index_there;
	enum friend_state state;
	struct meet_call *reaching; /* on another machine; NULL: not any more */
	struct gw_link *link;    /* NULL: none */
	bool is_ours;            /* the link: we have called */
	bool is_far;             /* the link: to another machine */
	bool is_told, has_told;  /* it has our names, and gets the news; we have its */
	bool *news;              /* [head.room], of ranks: it has not read what it was sent, and will get this when it has. NULL: none yet */
	bool has_ended_well;     /* it has said so */
	char why_gone[200];      /* of FRIEND_GONE: a sentence */
	uint8_t secret[32];
	struct guest *guests;
	uint32_t n_guests;
};

/* ---- guests.c ---- */
/** guests_answer - who waits for that job, or, with @status 0, for those of its processes that are known by now */
void guests_answer(struct friend_job *f, int status, const char *text);
void guests_gone(struct friend_job *f);                      /* none of its processes can be talked to any more */

/* ---- friends.c ---- */
struct friend_job *friends_find(const struct head *h, uint32_t job); /* NULL: not heard of */
struct friend_job *friends_of(const struct head *h, const struct gw_link *l); /* NULL: nobody's, or not any more */
struct friend_job *friends_new(struct head *h, uint32_t job, struct gw_error *why);
void friends_forget(struct friend_job *f);                   /* it came to nothing: its place is for the next, if nobody knows of it */
int friends_may_meet(const struct head *h, struct gw_error *why);
int friends_call(struct friend_job *f, struct gw_error *why); /* nothing is answered from inside */
void friends_turn_down(struct friend_job *f, const char *text); /* we do not want it, after all; but its job lives, and hears why */
void friends_met(struct friend_job *f, json_t *msg);         /* `met` */
void friends_refused(struct friend_job *f, const char *text); /* `refused` */
void friends_fini(struct friend_job *f);

/* ---- meet.c ---- */
/** Called once. @fd: proved, the callee's, and @secret that of the card; or negative, and @why is a sentence */
typedef void meet_done_fn(void *ctx, int fd, const uint8_t secret[GW_TRUST_SECRET], const struct gw_error *why);

/** meet_begin - reach the mpirun of @job, on another machine, by its card. 0: @done will be called, never from inside */
int meet_begin(struct meet_call **out, struct head *h, uint32_t job, meet_done_fn *done, void *ctx, struct gw_error *why);
void meet_cancel(struct meet_call *c);                       /* NULL ok; without a call */
/** meet_list - in an errand (errand.h): the numbers of all jobs that have cards in @where, a line each, in hexadecimal. 0 or -errno */
int meet_list(const char *where, char *said, size_t cap);
const uint8_t *meet_secret(const struct head *h);            /* of our own card */

#endif
