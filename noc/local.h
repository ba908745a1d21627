/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc/local.h: what the sources of this folder share: the inbox in the host segment, and the membership of a process.
 *
 * Two worlds (style: every struct says where it lives): struct noc_inbox and struct noc_slot are cluster side, in the
 * host segment. struct noc_member and all that hangs from it are in the user area and move with the rank; it keeps no
 * pointer into the segment but the base of a reserved range, which stays the same over every move.
 */
#ifndef NOC_LOCAL_H
#define NOC_LOCAL_H

#include "noc/channel.h"
#include "noc/net.h"

/* ---- the inbox, cluster side ----------------------------------------------------------------------------------- */

/*
 * An inbox is a ring of slots with many writers and one reader, and a pool of cells for payloads that do not fit in a
 * slot. A slot's word says all about it:
 *
 *      63                26 25              3 2     0
 *     +--------------------+-----------------+-------+
 *     |        lap         |  writer proc+1  | state |        ticket = lap * NOC_SLOTS + position in the ring
 *     +--------------------+-----------------+-------+
 *
 *   FREE(lap) --writer CAS--> CLAIMED(lap, w) --w, exchange--> READY(lap, w) --reader--> FREE(lap+1)
 *      |                          |
 *      |                          +--clusterd, after reaping w--> VOID(lap) --reader--> FREE(lap+1)
 *      +--owner CAS--> CLOSED(lap) --owner, on the next attach--> FREE(lap+1)
 *
 * Claims are contiguous: a writer scans from the hint `tail` over taken slots and claims the first free one. So every
 * ticket below a claimed one has been claimed, and a CLOSED slot is the last of its incarnation (rule 7). Zeroed memory
 * is an empty inbox that was never opened.
 */
#define NOC_SLOTS      512u
#define NOC_SLOT_SIZE  256u
#define NOC_CELLS      64u
#define NOC_CELLS_BULK 56u /* bulk transfers leave the rest to small messages */

enum noc_slot_state { NOC_SLOT_FREE = 0, NOC_SLOT_CLAIMED = 1, NOC_SLOT_READY = 2, NOC_SLOT_CLOSED = 3, NOC_SLOT_VOID = 4 };

#define NOC_WORD_LAP_SHIFT 26
#define NOC_WORD_WRITER_MAX ((1u << 23) - 2)
static inline uint64_t noc_word(uint64_t lap, uint32_t writer, enum noc_slot_state state)
{
	return lap << NOC_WORD_LAP_SHIFT | (uint64_t)(writer + 1) << 3 | state;
}
static inline uint64_t noc_word_free(uint64_t lap) { return lap << NOC_WORD_LAP_SHIFT; }
static inline uint64_t noc_word_lap(uint64_t w) { return w >> NOC_WORD_LAP_SHIFT; }
static inline enum noc_slot_state noc_word_state(uint64_t w) { return (enum noc_slot_state)(w & 7); }
static inline uint32_t noc_word_writer(uint64_t w) { return (uint32_t)((w >> 3) & ((1u << 23) - 1)) - 1; }

struct noc_slot {
	_Atomic uint64_t word;
	uint32_t src;         /* sender's process number */
	uint8_t kind, port;
	uint8_t has_cell, cell;
	uint64_t seq;         /* of the channel; CHUNK is outside the stream */
	uint64_t tag, data;   /* ACCEPT, CHUNK, FIN, RESUME: tag is the number of the transfer's OFFER */
	uint64_t len;         /* EAGER: payload. OFFER: whole transfer. ACCEPT: how much is wanted. CHUNK: this chunk */
	union {
		unsigned char payload[NOC_INLINE_MAX];
		struct { uint32_t id; uint32_t peer_id; uint64_t offset; } bulk; /* ids of the two sides' records */
	};
};
_Static_assert(sizeof(struct noc_slot) == NOC_SLOT_SIZE, "wire format");
#define NOC_SLOT_FIRST (64u - offsetof(struct noc_slot, payload)) /* bytes of a payload that come with the word's own line */

enum noc_inbox_open { NOC_INBOX_NEVER = 0, NOC_INBOX_OPEN = 1, NOC_INBOX_CLOSED = 2, NOC_INBOX_SHUT = 3 };

struct noc_inbox {
	_Alignas(64) _Atomic uint64_t tail;        /* hint: all tickets below are taken. Writers write */
	_Alignas(64) _Atomic uint32_t open;        /* enum noc_inbox_open; a hint for writers, the slots decide. Owner writes */
	_Atomic uint32_t asleep;                   /* owner sets before it sleeps; a writer that clears it rings the bell */
	_Atomic uint32_t bell;                     /* futex, shared */
	_Atomic uint32_t want_space;               /* proc+1 of a writer that waits for a slot or a cell */
	uint64_t incarnation;                      /* owner, at attach */
	uint64_t head;                             /* owner, at detach: where the next incarnation goes on */
	_Atomic uint64_t bell_name;                /* owner, while attached: of its agent's socket (bell.c). 0: none */
	/* owner, since it attached: ticks of the processor spent on polls in vain; and nanoseconds of it spent on going to sleep and waking
	 * up. On a line that no writer looks at */
	_Alignas(64) _Atomic uint64_t waited;
	_Atomic uint64_t slept_ns;
	_Alignas(64) _Atomic uint64_t cells_used;  /* bit per cell: writer sets by CAS, owner clears */
	/* proc+1 of a writer that holds a cell and has not published it yet; then 0, and the message says who frees it.
	 * Written by who holds the cell; read by a clusterd that has reaped the writer. */
	_Alignas(64) _Atomic uint32_t cell_writer[NOC_CELLS];
	_Alignas(4096) struct noc_slot slots[NOC_SLOTS];
	_Alignas(4096) unsigned char cells[NOC_CELLS][NOC_CELL_SIZE];
};
#define NOC_INBOX_STRIDE ((sizeof(struct noc_inbox) + 4095) & ~(size_t)4095)

static inline struct noc_inbox *noc_inbox_at(const struct noc_segment *seg, uint32_t proc)
{
	return (struct noc_inbox *)(void *)(seg->inboxes + (size_t)proc * NOC_INBOX_STRIDE);
}

/** noc_inbox_claim - *slot gets a claimed slot; -EAGAIN full, -ESHUTDOWN closed. Never waits. */
int noc_inbox_claim(struct noc_inbox *in, uint32_t writer, struct noc_slot **slot);
/** noc_inbox_publish - the claimed slot is filled: make it visible and wake the owner if it sleeps */
void noc_inbox_publish(struct noc_inbox *in, uint32_t writer, struct noc_slot *slot);
/** noc_inbox_claim_cell - a free cell's number, or -EAGAIN; at most @limit cells may be in use after it */
int noc_inbox_claim_cell(struct noc_inbox *in, uint32_t writer, unsigned limit);
void noc_inbox_free_cell(struct noc_inbox *in, unsigned cell);
/** noc_inbox_free_cells - owner: has read the messages in @cells (a bit for each) */
void noc_inbox_free_cells(struct noc_inbox *in, uint64_t cells);
/** noc_inbox_ring - wake the owner, whatever it said */
void noc_inbox_ring(struct noc_inbox *in);
/** noc_inbox_peek - owner: the slot at @head when it can be read (READY or VOID), else NULL; *word its word */
static inline struct noc_slot *noc_inbox_peek(struct noc_inbox *in, uint64_t head, uint64_t *word)
{
	struct noc_slot *s = &in->slots[head % NOC_SLOTS];
	uint64_t w = atomic_load_explicit(&s->word, memory_order_acquire); /* pairs with publish: contents are visible */

	*word = w;
	return noc_word_lap(w) == head / NOC_SLOTS &&
	       (noc_word_state(w) == NOC_SLOT_READY || noc_word_state(w) == NOC_SLOT_VOID) ? s : NULL;
}
/** noc_inbox_consume - owner: the slot at @head has been read */
static inline void noc_inbox_consume(struct noc_slot *s, uint64_t head)
{
	atomic_store_explicit(&s->word, noc_word_free(head / NOC_SLOTS + 1), memory_order_release);
}
/** noc_inbox_close - owner: claim the next slot as CLOSED; *ticket is its number. -EAGAIN: full, consume something */
int noc_inbox_close(struct noc_inbox *in, uint64_t *ticket);
/** noc_inbox_open_again - owner: start @incarnation at in->head; returns the head to read from */
uint64_t noc_inbox_open_again(struct noc_inbox *in, uint64_t incarnation);

/* ---- membership, user area ------------------------------------------------------------------------------------- */

struct noc_pending { /* a message that waits for its peer, or for its acknowledgement */
	struct gw_list link;
	uint8_t kind, port;
	bool is_copy;          /* bytes follow this struct; otherwise iov follows */
	uint64_t seq, tag, data, len, offset;
	uint32_t id, peer_id;  /* OFFER, ACCEPT, FIN, RESUME */
	void *context;
	uint32_t iovs;
	size_t alloc_size;
	struct noc_frame frame; /* over the network it travels as it lies here, bytes behind it */
	/* bytes or struct iovec[iovs] */
};

enum noc_path { NOC_PATH_NONE = 0, NOC_PATH_MEMORY = 1, NOC_PATH_NET = 2 };

/*
 * A channel and the path that it takes now. Over memory, what is in the peer's inbox will be read, so nothing is kept.
 * Over the network, what was sent is retained until acknowledged; when the path is lost or another one is taken it goes
 * back to the head of the queue, and the receiver drops what it had by its number.
 */
struct noc_peer {
	uint32_t proc;
	uint32_t job, there;   /* its job, and its number there: not ours, when it is a guest */
	bool is_slow;          /* not: path over memory and nothing queued. Sends look at this alone */
	uint8_t path;          /* enum noc_path: of the last message. NONE while detached */
	uint64_t next_out;     /* sequence number of the next message to it */
	uint64_t sent_bytes;   /* in messages to it, whether they have gone out or wait */
	uint64_t next_in;      /* that we expect from it */
	struct gw_list pending;
	struct gw_list link;   /* in member.waiting while pending is not empty */
	struct gw_list retained; /* sent over the network, by number */
	size_t retained_bytes;
	uint64_t acked;        /* it expects this number next: what is retained below it can be forgotten */
	uint64_t unacked;      /* messages that came over the network since we said next_in; and bytes: */
	uint64_t unacked_bytes;
	struct gw_list ack_link; /* in member.acks_due while unacked > 0 */
	struct noc_conn *conn; /* cluster side; NULL while detached */
	uint64_t retry_ns;     /* no new connection before; and what follows then */
	uint32_t retry_us;
	bool is_missed;        /* it had a connection when we left our last host */
	uint64_t tried;        /* the incarnation that the last one was for */
	uint64_t held_ns;      /* when we first did not connect because it seemed to connect to us. A reading of this host's clock */
	uint8_t silences;      /* connections from here to there that did not come up in time */
};

struct noc_bulk_out {
	struct gw_list link;   /* in member.streaming between ACCEPT and the last chunk */
	uint32_t id, peer_id;
	struct noc_peer *peer;
	uint8_t port;
	bool is_by_net;        /* a chunk went over the network since the last ACCEPT: complete by FIN only */
	bool is_standing;      /* that path was lost: RESUME was sent, ACCEPT or FIN will come */
	uint64_t transfer;     /* number of its offer: names it for good, ids are used again */
	uint64_t len, wanted, done;
	void *context;
	uint32_t iovs;
	struct iovec *iov;
};

struct noc_bulk { /* incoming */
	uint32_t id, peer_id;
	struct noc_peer *peer;
	uint8_t port;
	bool is_accepted;
	bool is_by_net;        /* a chunk came over the network */
	uint64_t transfer;
	uint64_t len, wanted, done;
	void *context;
	uint32_t iovs;
	struct iovec *iov;
};

/* A message about a transfer, by whatever path it came. */
struct noc_bulk_word {
	struct noc_peer *peer;
	uint8_t kind, port;
	uint32_t id, peer_id;
	uint64_t transfer, len, offset;
	const unsigned char *bytes; /* CHUNK */
};

struct noc_table { void **slots; uint32_t size, free; }; /* numbers for pointers; free list through the slots */
uint32_t noc_table_add(struct noc_table *t, void *p);    /* UINT32_MAX when out of memory */
void *noc_table_get(const struct noc_table *t, uint32_t id);
void noc_table_remove(struct noc_table *t, uint32_t id);

#define NOC_SEAT_WORDS 16 /* a cpu_set_t */

struct noc_member {
	uint32_t proc, job, names_max, cluster;
	uint32_t refs;            /* noc_start() minus noc_stop() */
	bool is_attached, is_shut, is_alone, is_networked;
	struct noc_host here;     /* cluster side: what the last attach was told; wiped at detach */
	struct noc_listening listening; /* likewise */
	int bell;                 /* likewise: socket of bell.c. 0: none */
	uint64_t incarnation;     /* attaches so far, on all hosts */
	uint64_t head;            /* next ticket to read from the own inbox, while attached */
	uint64_t cells_read;      /* a bit for each cell of it that can be freed */
	struct noc_segment seg;   /* addresses in the reserved range; valid while attached */
	struct noc_inbox *inbox;  /* own, likewise */
	void *range;              /* reserved address range for the segment; kept over moves */
	size_t range_size;
	struct noc_peer **peers;  /* [names_max] */
	uint32_t reach;           /* the highest of them */
	struct gw_list waiting;   /* peers with pending messages */
	struct gw_list streaming; /* bulk transfers that have been accepted */
	struct noc_table outs, ins;
	uint32_t outs_alive;      /* offers and transfers of ours that are not complete */
	size_t queued_bytes;      /* copied into pending queues */
	uint64_t queued;
	size_t retained_bytes;    /* sent over the network and not acknowledged, all peers together */
	uint64_t retained;
	struct gw_list acks_due;  /* peers */
	struct noc_peer *acker;   /* has acknowledged what we still retain: forgotten when there is time */
	uint32_t idle_polls;      /* since something came from the network */
	uint32_t net_credit;      /* polls in vain that will look at the network */
	uint32_t looks;           /* at the network */
	uint64_t expects_ns;      /* somebody who moves, or waits for us who have moved, will connect before that. 0: nobody. A
	                           * reading of this host's clock */
	bool has_slept;           /* since the last poll */
	uint64_t last_nudge_ns;
	uint64_t wait_since;      /* ticks of this host: when this wait began, or the last other one ran */
	uint32_t wait_turns;      /* of others since it began */
	uint16_t seat;            /* what the segment says of us (seats.c); 0 after an attach */
	uint64_t seat_since;      /* ticks of this host: the last look at the others' */
	uint64_t seat_rest;       /* ticks until the next one */
	uint64_t seat_place[NOC_SEAT_WORDS]; /* cores, a set: where our parent might be after that attach */
	uint32_t wait_sleeps;     /* for the network, since it began */
	uint64_t wait_own_ns;     /* the thread's processor time after the last of them, on this host */
	uint32_t wait_threads;    /* threads of the program when last looked; and when: */
	uint64_t wait_looked;     /* in ticks of this host */
	const struct noc_port_ops *ports[NOC_PORT_COUNT];
	struct noc_counters counters;
};
extern struct noc_member *noc_me; /* process-wide: a process is one name */

#define NOC_NET_CREDIT     4096u             /* polls in vain: some ten round trips of a slow network */
#define NOC_QUEUED_MAX     ((size_t)64 << 20) /* bound of copied messages that wait, all peers together */
#define NOC_QUEUED_RESERVE ((size_t)1 << 20)

struct noc_peer *noc_peer_get(uint32_t proc);
static inline bool noc_is_guest(const struct noc_peer *p) { return p->job != noc_me->job; }
int noc_guests_open(struct noc_segment *seg, uint32_t number);

/* ---- seats.c ---------------------------------------------------------------------------------------------------- */

/** noc_seat_look - a rank of a crowded cluster waits, at @now in ticks: it says on which core, and goes to an emptier one */
void noc_seat_look(uint64_t now);
/** noc_seat_back - which mask a rank that has gone over takes: @may, its own, or more. Pure. @now: its parent's; @place: that at first */
void noc_seat_back(uint64_t *may, const uint64_t *now, const uint64_t *place);
/** noc_seat_leave - detach: it is on no core of this host any more */
void noc_seat_leave(void);
void noc_cells_free(void);         /* now, not when there are more */
int noc_take(int budget);          /* read at most so many messages of the own inbox; returns how many */
int noc_pending_flush(void);       /* returns how many messages went out */
int noc_peer_post(struct noc_peer *p, struct noc_pending *m); /* number it; queue it, or send it at once */
void noc_peer_wait(struct noc_peer *p); /* into or out of member.waiting, as its state says */
void noc_deliver(const struct noc_msg *msg);
bool noc_in_sequence(struct noc_peer *p, uint64_t seq);

/* ---- path.c */
#define NOC_WINDOW_BYTES   ((size_t)1 << 20)  /* sent over the network to one peer and not acknowledged */
#define NOC_RETAINED_MAX   ((size_t)32 << 20) /* to all peers */
#define NOC_NET_INJECT     128u               /* frame and bytes: whoever carries it has copied them */

/** noc_path_of - choose the path to @p now: enum noc_path, -EAGAIN: none now, -EHOSTUNREACH: never again */
int noc_path_of(struct noc_peer *p);
/** noc_path_send - one message over the network. 0; 1: @m, which was queued, is retained now; -EAGAIN */
int noc_path_send(struct noc_peer *p, struct noc_pending *m, const struct iovec *iov, size_t iovs, bool is_queued);
int noc_path_chunk(const struct noc_bulk_word *w, const struct iovec *bytes, size_t n);
void noc_path_detach(void);                    /* all connections are gone */
void noc_path_attach(void);                    /* open them again, if they are few */
void noc_path_settle(void);                    /* forget what was acknowledged */
int noc_path_acks(void);                       /* say what we have; how many were said */
bool noc_path_lingers(void);                   /* something is retained for a peer that may still read it */

/* ---- bell.c */
void noc_bell_open(void);                      /* at attach */
void noc_bell_close(void);                     /* at detach, while the segment is mapped */
bool noc_bell_heard(void);                     /* agent, gate open: somebody rang. Does anything wait in the inbox? */

/* ---- bulk.c */
void noc_bulk_path_lost(struct noc_peer *p);   /* chunks may be: start again from what the receiver has */
int noc_bulk_offer(struct noc_peer *p, enum noc_port port, uint64_t tag, uint64_t data, const struct iovec *iov,
                   size_t iovs, uint64_t len, void *context);
struct noc_bulk *noc_bulk_offered(const struct noc_bulk_word *w);
void noc_bulk_arrived(const struct noc_bulk_word *w, enum noc_path path); /* ACCEPT, CHUNK, FIN, RESUME */
bool noc_bulk_is_busy(const struct noc_peer *p); /* chunks are under way to or from it */
int noc_bulk_push(void);           /* stream accepted transfers for a short while; returns chunks sent */
bool noc_something_waits(void);    /* messages or transfers of ours are not out yet */
bool noc_cluster_is_crowded(void); /* more ranks than cores in our cluster */

static inline size_t noc_iov_copy_out(void *dst, const struct iovec *iov, size_t iovs)
{
	char *p = dst;

	for (size_t i = 0; i < iovs; i++) {
		memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	return (size_t)(p - (char *)dst);
}

#endif
