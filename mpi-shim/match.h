/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/match.h: which posted receive takes which message, in constant time.
 *
 * A receive names a tag, the bits of the tag that do not matter (@ignore) and a source, or SHIM_ANY. Receives that
 * ignore the same bits and agree on whether the source matters form a class; MPICH uses five. Within a class matching
 * is equality of (tag & ~ignore, source), so a hash finds it. Each class has two tables, of posted receives and of
 * unexpected messages; all that have the same key hang from one entry, the leader, in order:
 *
 *   bucket --> leader --hnext--> leader of another key --> ...
 *                |next
 *              second --next--> third        leader->prev is the last one
 *
 * A receive is in the table of its class. An unexpected message is in the table of every class that was ever asked
 * for. A message that arrives asks each class that has receives posted and takes the one posted first; a receive asks
 * its own class and takes the message that arrived first. That is exactly MPI's order. Receives beyond the eighth
 * class are kept in a plain list: slow and just as right.
 *
 * As long as no more than SHIM_MATCH_FEW receives are posted at a time they are in no table but in an array, in order of
 * posting, and a message that arrives asks them one by one: less than hashing takes, and MPI's order by itself. One more, and
 * all go to the tables, until none is left.
 *
 * Everything is in the user area. The caller owns the gate. Nothing here knows of channels or libfabric.
 */
#ifndef SHIM_MATCH_H
#define SHIM_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_ANY            UINT32_MAX /* any source */
#define SHIM_MATCH_CLASSES  8
#define SHIM_MATCH_OVERFLOW SHIM_MATCH_CLASSES
#define SHIM_MATCH_FEW      4
#define SHIM_MATCH_AMONG_FEW (SHIM_MATCH_CLASSES + 1) /* in place of a class */

/* bits of shim_link.state */
enum {
	SHIM_LEADER  = 1,  /* first of its key: is in a bucket */
	SHIM_POSTED  = 2,  /* a receive that waits to be matched */
	SHIM_BULK    = 4,  /* matched; a bulk transfer fills it */
	SHIM_QUIET   = 8,  /* the program wants no completion */
	SHIM_CLAIMED = 16, /* the context of a claimed message, which is at ->buf */
	SHIM_MSG     = 32, /* a receive of untagged messages (struct shim_msg_recv) */
	SHIM_DIRECT  = 64, /* the program looks at it itself (struct godwit_direct): no completion, either */
};

struct shim_link {
	union {
		struct shim_link *hnext; /* leaders: next in the bucket */
		uint64_t ignore;         /* receives in the overflow list and among the few */
	};
	struct shim_link *next, *prev;
	uint64_t tag; /* in tables without the ignored bits */
	uint32_t src; /* in tables of any source 0 */
	uint16_t iovs;
	uint8_t class, state;
};

/* A posted receive. It lives in the 64 bytes that come with a request (fi_context2), so posting allocates nothing. */
struct shim_recv {
	struct shim_link link;
	uint64_t seq; /* order of posting. Under SHIM_BULK: the message's data word */
	void *buf;    /* or an array of link.iovs struct iovec, in the user area */
	size_t len;
};
_Static_assert(sizeof(struct shim_recv) == 64, "fits fi_context2");

struct noc_bulk;

/* An unexpected message. */
struct shim_unexp {
	struct shim_unexp *next, *prev; /* all, in order of arrival */
	uint64_t tag, data, len;
	void *payload;                  /* @len bytes; NULL for an offer or an empty message */
	struct noc_bulk *offer;
	uint32_t src, inline_bytes;     /* what follows this struct in the same block */
	struct shim_link links[SHIM_MATCH_CLASSES];
};

struct shim_match_table {
	struct shim_link **buckets;
	uint32_t keys, shift; /* 2^(64 - shift) buckets */
};

struct shim_match_class {
	uint64_t ignore;
	uint32_t is_any, receives;
	struct shim_match_table posted, unexpected;
};

struct shim_match {
	uint64_t next_seq;
	uint32_t classes, unexpected;
	uint32_t posted_mask; /* classes with receives posted; bit SHIM_MATCH_OVERFLOW: the overflow list */
	uint32_t posted;
	uint32_t few_count;   /* all that are posted, or 0 */
	struct shim_recv *few[SHIM_MATCH_FEW];
	struct shim_unexp *first, *last;
	struct shim_link *overflow_first, *overflow_last;
	struct shim_match_class class[SHIM_MATCH_CLASSES];
};

void shim_match_init(struct shim_match *m); /* empty; in memory that is the caller's. All of it under the gate */

/** shim_match_fini - give back the tables. Receives and messages that are still in them are the caller's affair. */
void shim_match_fini(struct shim_match *m);

/**
 * shim_match_post - match a receive with the unexpected messages, or post it
 * @r: the caller has set buf, len, link.iovs; state is taken over with SHIM_POSTED added when it is posted
 * Return: the message that it takes, no longer in the tables; or NULL, and it is posted.
 */
struct shim_unexp *shim_match_post(struct shim_match *m, struct shim_recv *r, uint32_t src, uint64_t tag,
                                   uint64_t ignore);

/** shim_match_arrive - take the receive that a message from @src matches; NULL when there is none */
struct shim_recv *shim_match_arrive(struct shim_match *m, uint32_t src, uint64_t tag);

/** shim_match_keep - remember a message that nobody waited for. @u: tag and src are set */
void shim_match_keep(struct shim_match *m, struct shim_unexp *u);

/** shim_match_peek - the message that a receive would take; it stays */
struct shim_unexp *shim_match_peek(struct shim_match *m, uint32_t src, uint64_t tag, uint64_t ignore);

/** shim_match_remove - take an unexpected message out of the tables */
void shim_match_remove(struct shim_match *m, struct shim_unexp *u);

/** shim_match_cancel - take back a posted receive; false when it is not posted (any more) */
bool shim_match_cancel(struct shim_match *m, struct shim_recv *r);

#endif
