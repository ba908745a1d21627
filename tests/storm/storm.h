/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/storm: an MPI program that checks every message it exchanges, to be run while its ranks are moved.
 *
 * The run is a sequence of steps. What happens in a step is drawn from a generator that starts from the seed and the
 * number of the step, so every rank knows what all others do: who sends what to whom, with which tag, length, layout
 * and call, in which order. A message's body follows from the seed, its sender, its receiver and its sequence number
 * between the two; the receiver makes it again and compares all bytes. Nothing but MPI is used between the ranks.
 *
 * The checksum is made from what was received. It depends on the seed, the number of steps and of ranks, and on nothing
 * else: not on time, not on the order in which messages of several senders came, not on moves.
 */
#ifndef STORM_H
#define STORM_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pseudo-random numbers ------------------------------------------------------------------------------------- */

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

static inline uint64_t mix2(uint64_t a, uint64_t b)
{
	return mix(a + 0x9e3779b97f4a7c15ULL * (b + 1));
}

struct rng { uint64_t state; };

static inline uint64_t rng_next(struct rng *r)
{
	r->state += 0x9e3779b97f4a7c15ULL;
	return mix(r->state);
}

/* From @low to @high, both included. */
static inline long rng_in(struct rng *r, long low, long high)
{
	return low + (long)(rng_next(r) % (uint64_t)(high - low + 1));
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

enum { MAX_RANKS = 64 };

struct storm {
	int rank, ranks;
	uint64_t seed;
	size_t max_len;           /* bytes of the longest message */
	size_t huge_len;          /* of the longest of phase_huge; 0: there is no such phase */
	long compute_ms;          /* how long a rank computes alone, roughly, on a core of its own */
	long step;
	MPI_Comm comm;            /* a duplicate of the world: point to point of all steps */
	uint64_t checksum, messages, bytes;
	uint32_t seq[MAX_RANKS][MAX_RANKS]; /* of the next message from [src] to [dst]; the same on all ranks */

	/* Where this rank is, for the signal handler and for messages; only ever written by the rank. */
	const char *volatile phase, *volatile call;
	volatile int peer, tag;
};
extern struct storm storm;

/* Say what was violated, precisely, and end the job. */
_Noreturn void storm_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define storm_check(cond, ...) do { if (!(cond)) storm_fail(__VA_ARGS__); } while (0)

/* Name the call that is about to be made. */
static inline void storm_at(const char *call, int peer, int tag)
{
	storm.call = call;
	storm.peer = peer;
	storm.tag = tag;
}

/* Fold something received into the checksum: @what says which thing it is, so that order does not matter. */
static inline void storm_add(uint64_t what, uint64_t value)
{
	storm.checksum += mix2(what, value);
}

/* A stretch of time in which the rank was not running although it was busy with @what ("malloc", "compute"); or in which it
 * saw a part of a huge message here ("huge" and the sender's rank). @what stays. */
void storm_gap(const char *what, uint64_t from_ns, uint64_t to_ns);
enum { GAP_NS = 200000 };
uint64_t storm_now_ns(void); /* CLOCK_REALTIME */

/* ---- messages (body.c) ----------------------------------------------------------------------------------------- */

enum layout { CONTIGUOUS, VECTOR, INDEXED, STRUCT, LAYOUTS };

struct message {
	int src, dst, tag;
	uint32_t seq;
	size_t len;
	enum layout from, into;   /* how it lies in the sender's and the receiver's memory */
	int send_kind, recv_kind; /* meaning is the phase's */
	bool is_done;             /* receiver: it has come */
};

/* A message's memory on one side. */
struct buffer {
	unsigned char *at;
	MPI_Datatype type;
	int count;
	size_t extent;
	/* the pieces of the layout; gaps between them hold a guard that nobody may touch */
	size_t pieces, *offset, *length;
};

/** message_plan - draw the next message from @src to @dst; every rank calls this for every message, in the same order */
void message_plan(struct message *m, struct rng *r, int src, int dst, size_t max_len);

void buffer_make_send(struct buffer *b, const struct message *m); /* filled */
void buffer_make_recv(struct buffer *b, const struct message *m); /* guarded, in the message's own layout */
void buffer_make_any(struct buffer *b, size_t cap);               /* guarded, contiguous, for a message not yet known */
void buffer_free(struct buffer *b);

/**
 * message_arrived - check status, length and all bytes of a message, and the guards around them; count it
 * @m: what had to come. @b: as received. @comm_src, the source as the status must show it.
 */
void message_arrived(struct message *m, struct buffer *b, const MPI_Status *st);

/* The messages of a step, in the order in which each sender sends them. */
struct plan { struct message *m; int n; };
void plan_free(struct plan *p);

/** plan_expect - the earliest message of @p from @src to this rank with @tag (or any) that has not come; fails if none */
struct message *plan_expect(struct plan *p, int src, int tag);

/* ---- phases ---------------------------------------------------------------------------------------------------- */

/* p2p.c. @with: the ranks that take part, @n of them; each of them calls this. */
void phase_ordered(struct rng *r, const int *with, int n);  /* blocking calls, one message at a time in one order */
void phase_batch(struct rng *r);                            /* everything outstanding at once; wildcards; probes */
void phase_shift(struct rng *r);                            /* MPI_Sendrecv, MPI_Sendrecv_replace */
void phase_persistent(struct rng *r);
void phase_partitioned(struct rng *r);                      /* MPI_Psend_init: parts made ready one by one, seen one by one */
void phase_huge(struct rng *r);                             /* one message that takes longer than a move */
void phase_stream(struct rng *r);                           /* thousands of small messages */
void bsend_begin(void);
void bsend_end(void);

void phase_collective(struct rng *r);                       /* coll.c */
void phase_communicators(struct rng *r);
void phase_one_sided(struct rng *r);                        /* rma.c */
void phase_alone(struct rng *r);                            /* alone.c: some compute for seconds, others talk */
void phase_malloc(struct rng *r);

#endif
