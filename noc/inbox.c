/* SPDX-License-Identifier: BSD-2-Clause */
/* The inbox: a ring of slots with many writers and one reader, and its cells; the picture is in local.h. */
#include "noc/local.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

int noc_inbox_claim(struct noc_inbox *in, uint32_t writer, struct noc_slot **slot)
{
	uint64_t t = atomic_load_explicit(&in->tail, memory_order_relaxed);

	for (;;) {
		struct noc_slot *s = &in->slots[t % NOC_SLOTS];
		uint64_t lap = t / NOC_SLOTS, w = noc_word_free(lap);

		/* Without a look before, which would bring the line here to read it, and a second time to write it.
		 * acquire: the reader is done with the slot's old contents before we write new ones */
		if (GW_LIKELY(atomic_compare_exchange_strong_explicit(&s->word, &w, noc_word(lap, writer, NOC_SLOT_CLAIMED),
		                                                      memory_order_acquire, memory_order_acquire))) {
			atomic_store_explicit(&in->tail, t + 1, memory_order_relaxed);
			*slot = s;
			return 0;
		}
		if (noc_word_lap(w) < lap)
			return -EAGAIN;          /* not yet read: the ring is full */
		if (noc_word_lap(w) == lap && noc_word_state(w) == NOC_SLOT_CLOSED)
			return -ESHUTDOWN;
		if (w != noc_word_free(lap))
			t++;                     /* taken, in this lap or a later one: the hint was old */
	}
}

void noc_inbox_ring(struct noc_inbox *in)
{
	atomic_store_explicit(&in->asleep, 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&in->bell, 1, memory_order_release);
	syscall(SYS_futex, &in->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void noc_inbox_publish(struct noc_inbox *in, uint32_t writer, struct noc_slot *slot)
{
	uint64_t lap = noc_word_lap(atomic_load_explicit(&slot->word, memory_order_relaxed));

	if (slot->has_cell) /* before the message is out: from then on its reader frees the cell, and nobody else may */
		atomic_store_explicit(&in->cell_writer[slot->cell % NOC_CELLS], 0, memory_order_relaxed);
	/* A locked instruction: it releases the contents, and it is the full fence without which reading `asleep` may
	 * overtake it and a wake-up is lost (rule 8). */
	atomic_exchange_explicit(&slot->word, noc_word(lap, writer, NOC_SLOT_READY), memory_order_seq_cst);
	if (GW_UNLIKELY(atomic_load_explicit(&in->asleep, memory_order_seq_cst)) &&
	    atomic_exchange_explicit(&in->asleep, 0, memory_order_acq_rel))
		noc_inbox_ring(in);
}

int noc_inbox_claim_cell(struct noc_inbox *in, uint32_t writer, unsigned limit)
{
	uint64_t used = atomic_load_explicit(&in->cells_used, memory_order_relaxed);

	for (;;) {
		unsigned cell;

		if (used == UINT64_MAX || (unsigned)__builtin_popcountll(used) >= limit)
			return -EAGAIN;
		cell = (unsigned)__builtin_ctzll(~used); /* the lowest: recently used, so warm in the shared cache */
		/* acquire: pairs with noc_inbox_free_cell, the owner has read the old contents */
		if (atomic_compare_exchange_weak_explicit(&in->cells_used, &used, used | 1ull << cell, memory_order_acquire,
		                                          memory_order_relaxed)) {
			/* a writer that is killed before this store loses the cell; after it noc_inbox_void() finds it */
			atomic_store_explicit(&in->cell_writer[cell], writer + 1, memory_order_relaxed);
			return (int)cell;
		}
	}
}

void noc_inbox_free_cell(struct noc_inbox *in, unsigned cell)
{
	atomic_store_explicit(&in->cell_writer[cell], 0, memory_order_relaxed); /* not the next holder's: released below */
	atomic_fetch_and_explicit(&in->cells_used, ~(1ull << cell), memory_order_release);
}

void noc_inbox_free_cells(struct noc_inbox *in, uint64_t cells)
{
	atomic_fetch_and_explicit(&in->cells_used, ~cells, memory_order_release);
}

int noc_inbox_close(struct noc_inbox *in, uint64_t *ticket)
{
	uint64_t t = atomic_load_explicit(&in->tail, memory_order_relaxed);

	for (;;) {
		struct noc_slot *s = &in->slots[t % NOC_SLOTS];
		uint64_t lap = t / NOC_SLOTS, w = atomic_load_explicit(&s->word, memory_order_acquire);

		if (w == noc_word_free(lap) &&
		    atomic_compare_exchange_strong_explicit(&s->word, &w, noc_word(lap, UINT32_MAX, NOC_SLOT_CLOSED),
		                                            memory_order_acq_rel, memory_order_acquire)) {
			*ticket = t;
			return 0;
		}
		if (noc_word_lap(w) < lap)
			return -EAGAIN;
		if (w != noc_word_free(lap))
			t++;
	}
}

uint64_t noc_inbox_open_again(struct noc_inbox *in, uint64_t incarnation)
{
	uint64_t head = in->head;
	struct noc_slot *s = &in->slots[head % NOC_SLOTS];
	uint64_t w = atomic_load_explicit(&s->word, memory_order_relaxed);

	in->incarnation = incarnation;
	if (noc_word_lap(w) == head / NOC_SLOTS && noc_word_state(w) == NOC_SLOT_CLOSED) {
		atomic_store_explicit(&s->word, noc_word_free(head / NOC_SLOTS + 1), memory_order_release);
		head++;
	}
	atomic_store_explicit(&in->open, NOC_INBOX_OPEN, memory_order_release);
	return head;
}

uint64_t noc_waited_of(const struct noc_segment *seg, uint32_t proc, double tick_ns)
{
	const struct noc_inbox *in = noc_inbox_at(seg, proc);

	return (uint64_t)((double)atomic_load_explicit(&in->waited, memory_order_relaxed) * tick_ns) +
	       atomic_load_explicit(&in->slept_ns, memory_order_relaxed);
}
