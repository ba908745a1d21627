/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/segment.h: the host segment, shared memory of one job on one host: name page, cluster loads and inboxes.
 *
 * It is a memfd, or, where these are denied, a file without a name: made by the first clusterd of the job on the host,
 * handed to the others and to each rank over their sockets, and gone with its last user however that one dies. Nothing of
 * it is ever in a rank's image: a rank maps it when it attaches and unmaps it when it detaches, and between the two keeps
 * the address range reserved.
 *
 *   0              head            magic, version, job, geometry
 *   domains_at     core domains    cores that clusters share: how many ranks, how many cores (64 B each)
 *   clusters_at    clusters        64 B each
 *   names_at       name entries    64 B each: the name page. Seqlock per entry
 *   guests_at      guests          8 B for each name: whose it really is, when it is a process of another job (guests.c)
 *   friends_at     friends         64 B each: those jobs
 *   seats_at       seats           2 B for each name: on which core it has waited last (seats.c)
 *   inboxes_at     inboxes         one per name, NOC_INBOX_STRIDE bytes each, touched on first use
 *
 * It has room for more names than the job begins with, for processes that come later (MPI_Comm_spawn). They cost addresses
 * only: a rank maps their inboxes without access, so that nothing that touches all of its memory (mlockall, a core file)
 * makes pages of them, and opens one when it first has to do with its owner.
 *
 * A name entry is written by the clusterd that owns the rank; on other hosts, where it is news, by any clusterd there that
 * the head has told. Ownership passes by GIVEN/TAKEN, so there is one owner at a time, and the entry's lock and its epoch
 * settle the rest: the highest epoch wins.
 */
#ifndef NOC_SEGMENT_H
#define NOC_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/base.h"

#define NOC_SEG_MAGIC   0x746977646f47u /* "Godwit" */
#define NOC_SEG_VERSION 6
#define NOC_SEG_FILE    "godwit-segment" /* how its file is called; container/ knows it by that */

/* 64 bits that name a process for good: job and process number. The only address that an upper layer stores. */
typedef uint64_t noc_name;
static inline noc_name noc_name_make(uint32_t job, uint32_t proc) { return (uint64_t)job << 32 | proc; }
static inline uint32_t noc_name_job(noc_name n) { return (uint32_t)(n >> 32); }
static inline uint32_t noc_name_proc(noc_name n) { return (uint32_t)n; }

enum noc_name_state { NOC_NAME_NONE = 0, NOC_NAME_HERE = 1, NOC_NAME_MOVING = 2, NOC_NAME_GONE = 3 };

/* Where a process listens for others that do not share its host's memory: a struct sockaddr_in or _in6, as it is. All
 * zeroes: nowhere. */
struct noc_address {
	uint32_t words[7];
};
_Static_assert(sizeof(struct noc_address) == 28, "wire format");

struct noc_name_entry {
	_Atomic uint64_t lock;        /* seqlock: odd while written; bits 32.. the writer's cluster + 1 while odd */
	_Atomic uint32_t cluster;
	_Atomic uint32_t state;       /* enum noc_name_state */
	_Atomic uint64_t epoch;       /* moves so far */
	_Atomic uint64_t incarnation; /* attaches so far, on all hosts */
	_Atomic uint32_t host;        /* whose memory it shares */
	_Atomic uint32_t address[7];  /* struct noc_address */
};
_Static_assert(sizeof(struct noc_name_entry) == 64, "wire format");

struct noc_cluster_entry {
	_Atomic uint32_t domain;      /* index of its core domain */
	_Atomic uint32_t cores;
	_Atomic uint32_t ranks;       /* that live here */
	_Atomic uint32_t is_up;
	uint8_t pad[48];
};
_Static_assert(sizeof(struct noc_cluster_entry) == 64, "wire format");

struct noc_domain_entry {
	_Atomic uint32_t cores;
	_Atomic uint32_t ranks;       /* of all clusters on these cores */
	uint8_t pad[56];
};
_Static_assert(sizeof(struct noc_domain_entry) == 64, "wire format");

#define NOC_FRIENDS_MAX 64 /* other jobs that one talks to in all its life */

struct noc_friend_entry {
	_Atomic uint32_t job;         /* 0: none yet */
	uint16_t index_there, pad;    /* of this job in its table */
	uint8_t secret[32];           /* that both jobs know, and no other */
	uint8_t pad2[24];
};
_Static_assert(sizeof(struct noc_friend_entry) == 64, "wire format");

struct noc_seg_head {
	uint64_t magic;
	uint32_t version, job;
	uint32_t names, clusters, domains, inbox_stride;
	uint64_t domains_at, clusters_at, names_at, inboxes_at, size; /* bytes from the start */
	uint32_t first_names;         /* that the job begins with */
	uint32_t friends;
	uint64_t guests_at, friends_at, seats_at;
	uint8_t pad[24];
};
_Static_assert(sizeof(struct noc_seg_head) == 128, "wire format");

/* A mapping of a segment in this process (cluster side). */
struct noc_segment {
	struct noc_seg_head *head; /* NULL when not mapped */
	struct noc_domain_entry *domains;
	struct noc_cluster_entry *clusters;
	struct noc_name_entry *names;
	_Atomic uint64_t *guests;     /* friend + 1, process number there; 0: none. Written once, by every daemon alike */
	struct noc_friend_entry *friends;
	_Atomic uint16_t *seats;      /* core + 1; 0: none. Written by who has the name */
	char *inboxes;
	uint32_t reach;               /* names whose inboxes can be touched */
};

/** noc_segment_create - a new file in memory with @names entries, laid out; returns the descriptor or negative errno */
int noc_segment_create(uint32_t job, uint32_t names, uint32_t clusters, uint32_t domains, struct gw_error *why);
/** noc_segment_create_roomy - and room for @more, where that costs nothing (noc_segment_map tells: head->names) */
int noc_segment_create_roomy(uint32_t job, uint32_t names, uint32_t more, uint32_t clusters, uint32_t domains, struct gw_error *why);

/** noc_segment_map - map @fd and check it. @at: fixed address inside a reservation of the caller, or NULL */
int noc_segment_map(struct noc_segment *out, int fd, void *at, struct gw_error *why);
void noc_segment_unmap(struct noc_segment *seg);

/** noc_segment_close_spare - take away access to the inboxes that are not in use yet, until noc_segment_reach() */
void noc_segment_close_spare(struct noc_segment *seg);
/** noc_segment_reach_slow - @proc is about to be talked to: its inbox can be touched */
int noc_segment_reach_slow(struct noc_segment *seg, uint32_t proc);
static inline int noc_segment_reach(struct noc_segment *seg, uint32_t proc)
{
	return proc < seg->reach ? 0 : noc_segment_reach_slow(seg, proc);
}

/* One name entry as a value. */
struct noc_place {
	uint32_t cluster;
	enum noc_name_state state;
	uint64_t epoch, incarnation;
	uint32_t host;
	struct noc_address address;
};

/** noc_names_lookup - consistent read of an entry; -ENOENT for a number outside the page or never published */
int noc_names_lookup(const struct noc_segment *seg, uint32_t proc, struct noc_place *out);

/**
 * noc_names_publish - write an entry. For the clusterd that owns the name; @cluster is that of the writer.
 * An older epoch than the entry's is refused with -ESTALE. A lock left by a cluster that died is taken over.
 */
int noc_names_publish(struct noc_segment *seg, uint32_t proc, const struct noc_place *place, uint32_t writer_cluster);

/* ---- guests.c: processes of other jobs, under numbers of this one ------------------------------------------------- */

struct noc_friend {
	uint32_t job;
	uint16_t index_there;
	uint8_t secret[32];
};
struct noc_guest {
	struct noc_friend with;
	uint32_t proc;                /* its number there */
};

/** noc_guests_befriend, noc_guests_add - clusterd: write an entry, once; first the friend, then its guests, from the highest number down */
int noc_guests_befriend(struct noc_segment *seg, uint32_t index, const struct noc_friend *with);
int noc_guests_add(struct noc_segment *seg, uint32_t number, uint32_t index, uint32_t proc);
/** noc_guests_look - whose number is it? false: of no guest */
bool noc_guests_look(const struct noc_segment *seg, uint32_t number, struct noc_guest *out);
/** noc_guests_find - the number of process @proc of friend @index; UINT32_MAX: it is not known here */
uint32_t noc_guests_find(const struct noc_segment *seg, uint32_t index, uint32_t proc);

/** noc_waited_of - how many nanoseconds of a processor @proc has spent on looking for messages in vain, since it attached here;
 * @tick_ns: what a tick of the processor's counter takes */
uint64_t noc_waited_of(const struct noc_segment *seg, uint32_t proc, double tick_ns);

/** noc_inbox_void - after @proc has been reaped: free its seat, and the slots and cells that it held in every inbox, unpublished */
void noc_inbox_void(struct noc_segment *seg, uint32_t proc);

#endif
