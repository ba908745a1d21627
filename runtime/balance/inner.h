/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/balance, inside: bins, and what strategies share.
 *
 * A bin is a domain with what it carries under the placement that is being made. Its height is the part of the time for which
 * it would compute: the load of its ranks over what its processors have left for them, or its largest rank over the speed of a core.
 */
#ifndef RT_BALANCE_INNER_H
#define RT_BALANCE_INNER_H

#include "runtime/balance/balance.h"

struct bin {
	double room;       /* processor seconds a second, of what loads are measured in, that the job can have there */
	double speed;
	double load;
	uint32_t open;     /* clusters of it where ranks may come */
};

/* What a domain can do for the job. Others take what is free, and give way to whom the scheduler owes its share: of a domain that they
 * fill, a job with several ranks there gets at least half. */
static inline double room_of(const struct bal_domain *d)
{
	return (d->cores - d->other > d->cores / 2 ? d->cores - d->other : d->cores / 2) * d->speed;
}

/* What a link carries, and what a small message over it costs: where nobody has measured it, 10 Gbit/s less what TCP takes, and a message
 * between hosts over TCP as in doc/performance.md. */
static inline double link_bytes_s(const struct bal_snapshot *s)
{
	return s->link_bytes_s > 0 ? s->link_bytes_s : 1e9;
}

static inline double link_message_s(const struct bal_snapshot *s)
{
	return s->link_message_s > 0 ? s->link_message_s : 15e-6;
}

struct ranks { uint32_t *v, n, room; }; /* of a bin: those that may be moved, the heaviest first */

/* A placement under way. */
struct work {
	const struct bal_snapshot *s;
	const struct bal_options *o;
	struct bin *bins;           /* one for each domain */
	struct ranks *lists;        /* one for each domain */
	uint32_t *at;               /* cluster of each rank: the result */
	uint32_t *order;            /* ranks, the heaviest first; equal ones by index */
	uint32_t *cluster_ranks;    /* how many ranks each cluster has under @at */
	double *cluster_room;       /* memory that it has left under @at */
	uint32_t *first, *members;  /* clusters of a domain: members[first[d]] to members[first[d + 1] - 1] */
	bool *is_fixed;             /* ranks that stay: fixed, or moved a moment ago and not in a closed cluster */
	double cost;                /* of all moves that make @at, seconds */
	uint32_t moves;
	double widest;              /* no peak is smaller: of the ranks that stay, or go anywhere, load over their cores' speed */
};

static inline double bin_height(const struct bin *b)
{
	return b->load / b->room;
}

static inline uint32_t domain_of(const struct work *w, uint32_t rank)
{
	return w->s->clusters[w->at[rank]].domain;
}

static inline double load_of(const struct work *w, uint32_t rank)
{
	return w->s->ranks[rank].load;
}

int work_init(struct work *w, const struct bal_snapshot *s, const struct bal_options *o);
void work_fini(struct work *w);
void work_reset(struct work *w, const uint32_t *at);          /* NULL: everybody where they are */
void work_move(struct work *w, uint32_t rank, uint32_t cluster);
/** bal_inside - the machine that tells how far two clusters of one host are apart; NULL: none does, or they are of two hosts */
const struct bal_machine *bal_inside(const struct bal_snapshot *s, uint32_t from, uint32_t to);
/** work_place - the cluster of @domain where @rank would go: its own if it is there; else the open one with the fewest ranks that
 * has the memory. BAL_NONE: none has */
uint32_t work_place(const struct work *w, uint32_t rank, uint32_t domain);
/** work_peak - as in struct bal_measures; @which: the fullest bin, may be NULL */
double work_peak(const struct work *w, uint32_t *which);
/** work_evacuate - out of closed clusters, each to the bin that is the least full; -ENOSPC with the sentence */
int work_evacuate(struct work *w, struct gw_error *why);
/** work_improve - from the fullest bin move a rank, or exchange one, while that makes the fullest less full, and as far as it is worth its
 * cost. Ranks of every size fit where none alone would */
void work_improve(struct work *w);

/* Bins that are open, in a heap, the least full first. Positions are kept: one whose load changed is put in order again. */
struct heap {
	const struct work *w;
	uint32_t *bins, *place, count;
};
int heap_init(struct heap *h, const struct work *w);
void heap_fini(struct heap *h);
void heap_update(struct heap *h, uint32_t bin); /* not open: nothing happens */

/* The strategies: each changes w->at, beginning with a placement where closed clusters are empty. */
int bal_greedy(struct work *w);
int bal_refine(struct work *w);
int bal_comm(struct work *w, struct gw_error *why);
int bal_consolidate(struct work *w);

#endif
