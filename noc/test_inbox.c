/* SPDX-License-Identifier: BSD-2-Clause */
/* The inbox under many writers while its owner closes, drains and opens it again: nothing lost, doubled or reordered. */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "noc/local.h"
#include "tests/tap.h"

#define WRITERS 6
#define MESSAGES 60000u
#define MAX_REOPENS 400

static struct noc_segment seg;
static struct noc_inbox *in;

static void *writer(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg;

	for (uint64_t i = 0; i < MESSAGES;) {
		struct noc_slot *s;

		if (atomic_load_explicit(&in->open, memory_order_relaxed) != NOC_INBOX_OPEN ||
		    noc_inbox_claim(in, me, &s)) {
			sched_yield();
			continue;
		}
		s->src = me;
		s->seq = i++;
		s->tag = s->seq * 31 + me;
		noc_inbox_publish(in, me, s);
	}
	return NULL;
}

static void test_storm(void)
{
	uint64_t next[WRITERS] = { 0 }, head, got = 0, word, ticket;
	long bad = 0, reopens = 0, sleeps = 0, late = 0;
	pthread_t t[WRITERS];

	head = noc_inbox_open_again(in, in->incarnation + 1);
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&t[i], NULL, writer, (void *)i);
	while (got < (uint64_t)WRITERS * MESSAGES) {
		struct noc_slot *s = noc_inbox_peek(in, head, &word);

		if (s) {
			bad += s->src >= WRITERS || s->seq != next[s->src]++ || s->tag != s->seq * 31 + s->src ||
			       noc_word_writer(word) != s->src;
			noc_inbox_consume(s, head);
			head++;
			got++;
			continue;
		}
		if (reopens < MAX_REOPENS && got % 7 == 0 && got) { /* close, drain to the closed slot, open again */
			bool is_closed = false;

			in->open = NOC_INBOX_CLOSED;
			for (;;) {
				if (!is_closed)
					is_closed = noc_inbox_close(in, &ticket) == 0;
				s = noc_inbox_peek(in, head, &word);
				if (s) {
					bad += s->seq != next[s->src]++;
					noc_inbox_consume(s, head);
					head++;
					got++;
				} else if (is_closed && head == ticket) {
					break;
				} else {
					sched_yield();
				}
			}
			for (int i = 0; i < 3; i++) { /* nobody may come in now */
				sched_yield();
				late += noc_inbox_peek(in, head, &word) != NULL;
			}
			in->head = ticket;
			head = noc_inbox_open_again(in, in->incarnation + 1);
			reopens++;
		} else { /* sleep as noc_wait() does; a lost wake-up shows as a sleep that lasts its whole limit */
			struct timespec limit = { .tv_sec = 5 };
			uint32_t bell = atomic_load_explicit(&in->bell, memory_order_acquire);

			atomic_store_explicit(&in->asleep, 1, memory_order_seq_cst);
			atomic_thread_fence(memory_order_seq_cst);
			if (!noc_inbox_peek(in, head, &word)) {
				sleeps++;
				if (syscall(SYS_futex, &in->bell, FUTEX_WAIT, bell, &limit, NULL, 0) && errno == ETIMEDOUT &&
				    noc_inbox_peek(in, head, &word))
					late++;
			}
			atomic_store_explicit(&in->asleep, 0, memory_order_relaxed);
		}
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	is_int(bad, 0, "%u messages of each of %d writers arrive whole, once and in order", MESSAGES, WRITERS);
	is_int(late, 0, "nothing comes into a closed inbox, and no wake-up is lost (%ld sleeps)", sleeps);
	ok(reopens > 0, "the inbox was closed and opened again %ld times meanwhile", reopens);
	ok(noc_inbox_peek(in, head, &word) == NULL, "and it is empty now");
}

static void test_full_and_void(void)
{
	struct noc_inbox *other = noc_inbox_at(&seg, 1);
	uint64_t head = noc_inbox_open_again(other, other->incarnation + 1), word, ticket;
	struct noc_slot *s, *stuck = NULL;
	int rc, n = 0, voided = 0, ready = 0;

	while ((rc = noc_inbox_claim(other, n == 100 ? 7 : 3, &s)) == 0) {
		if (n++ == 100)
			stuck = s;
		else
			noc_inbox_publish(other, 3, s);
	}
	is_int(n, NOC_SLOTS, "a ring takes as many messages as it has slots");
	is_int(rc, -EAGAIN, "then it is full, and the claim does not wait");
	is_int(noc_inbox_close(other, &ticket), -EAGAIN, "a full ring cannot be closed before something was read");
	for (int i = 0; i < 100; i++, head++) {
		s = noc_inbox_peek(other, head, &word);
		noc_inbox_consume(s, head);
	}
	is_int(noc_inbox_close(other, &ticket), 0, "then it can");
	is_int(noc_inbox_claim(other, 3, &s), -ESHUTDOWN, "and no writer gets in");
	ok(noc_inbox_peek(other, head, &word) == NULL, "the reader stands before the slot of a writer that never published");
	noc_inbox_void(&seg, 3);
	ok(noc_inbox_peek(other, head, &word) == NULL, "reaping somebody else does not change that");
	noc_inbox_void(&seg, 7);
	for (; head != ticket; head++) {
		s = noc_inbox_peek(other, head, &word);
		if (!s)
			break;
		*(noc_word_state(word) == NOC_SLOT_VOID ? &voided : &ready) += 1;
		noc_inbox_consume(s, head);
	}
	ok(voided == 1 && ready == (int)NOC_SLOTS - 101 && head == ticket && stuck, "reaping it does, and the rest is read");
	other->head = ticket;
	head = noc_inbox_open_again(other, other->incarnation + 1);
	is_int(noc_inbox_claim(other, 3, &s), 0, "open again");
	noc_inbox_publish(other, 3, s);
	ok(noc_inbox_peek(other, head, &word) == s, "and the first message of the new incarnation is where its head is");
}

static void test_cells(void)
{
	struct noc_inbox *other = noc_inbox_at(&seg, 2);
	uint64_t seen = 0;
	int n = 0, c;

	while ((c = noc_inbox_claim_cell(other, 3, NOC_CELLS_BULK)) >= 0) {
		seen |= 1ull << c;
		n++;
	}
	is_int(n, NOC_CELLS_BULK, "bulk transfers leave some cells to small messages");
	while ((c = noc_inbox_claim_cell(other, 3, NOC_CELLS)) >= 0) {
		seen |= 1ull << c;
		n++;
	}
	ok(n == NOC_CELLS && seen == UINT64_MAX, "each cell is given once");
	noc_inbox_free_cell(other, 33);
	is_int(noc_inbox_claim_cell(other, 3, NOC_CELLS), 33, "and again when it is free");
	for (unsigned i = 0; i < NOC_CELLS; i++)
		noc_inbox_free_cell(other, i);
}

/* A writer is killed with two cells in its hands: one filled and not published, one in a message that is out. */
static void test_cells_of_the_dead(void)
{
	struct noc_inbox *other = noc_inbox_at(&seg, 2);
	struct noc_slot *s = NULL;
	int held, sent, alive;

	atomic_store(&other->open, NOC_INBOX_OPEN);
	held = noc_inbox_claim_cell(other, 7, NOC_CELLS);
	sent = noc_inbox_claim_cell(other, 7, NOC_CELLS);
	alive = noc_inbox_claim_cell(other, 3, NOC_CELLS);
	is_int(noc_inbox_claim(other, 7, &s), 0, "a message with a cell");
	s->has_cell = 1;
	s->cell = (uint8_t)sent;
	noc_inbox_publish(other, 7, s);
	noc_inbox_void(&seg, 7);
	ok(atomic_load(&other->cells_used) == (1ull << sent | 1ull << alive),
	   "reaping a writer frees the cell that it held, not that of its published message, not that of others (%llx)",
	   (unsigned long long)atomic_load(&other->cells_used));
	is_int(noc_inbox_claim_cell(other, 4, NOC_CELLS), held, "somebody else gets it");
	noc_inbox_void(&seg, 7);
	ok(atomic_load(&other->cells_used) == (1ull << sent | 1ull << alive | 1ull << held), "and keeps it");
}

int main(void)
{
	struct gw_error why;
	int fd;

	tap_begin(120);
	fd = noc_segment_create(1, 8, 1, 1, &why);
	if (fd < 0 || noc_segment_map(&seg, fd, NULL, &why))
		tap_bail("%s", why.text);
	in = noc_inbox_at(&seg, 0);
	test_storm();
	test_full_and_void();
	test_cells();
	test_cells_of_the_dead();
	return tap_done();
}
