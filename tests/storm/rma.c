/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/rma.c: one-sided: put, get and accumulate by fence, by post and start, and by passive locks; atomic operations. */
#include "tests/storm/storm.h"

/*
 * The window of each rank, in words. ROW words belong to each origin, which alone puts there; the rest is shared.
 *
 *   | put by rank 0 | put by rank 1 | ... | readable: known contents | summed by all | counter | claim |
 *   | long sum | greatest doubles | bytes xored | tickets | lock | under the lock | arrived |
 */
enum { ROW = 512, READABLE = 512, SUMMED = 64, LONG = 9000, GREATEST = 16, XORED = 4, DRAWS = 20, LOCKED = 5 };

static uint64_t word(uint64_t key, int owner, size_t at)
{
	return mix2(mix2(key, (uint64_t)owner), at);
}

static void is_word(const char *what, size_t at, uint64_t is, uint64_t want, uint64_t key)
{
	storm_check(is == want, "%s: word %zu is %016llx where %016llx is right", what, at, (unsigned long long)is,
	            (unsigned long long)want);
	storm_add(key + at, is);
}

struct area { MPI_Win win; uint64_t *mem, key; size_t readable, summed, counter, claim, sum, greatest, xored, tickets, lock, guarded, arrived; };

static void put_row(const struct area *w, int target, size_t len, uint64_t *from)
{
	for (size_t i = 0; i < len; i++)
		from[i] = word(w->key, storm.rank * MAX_RANKS + target, i);
	storm_at("MPI_Put", target, -1);
	MPI_Put(from, (int)len, MPI_UINT64_T, target, (MPI_Aint)(storm.rank * ROW), (int)len, MPI_UINT64_T, w->win);
}

static void row_is_from(const struct area *w, const char *what, int origin, size_t len)
{
	for (size_t i = 0; i < len; i++)
		is_word(what, (size_t)origin * ROW + i, w->mem[origin * ROW + (int)i],
		        word(w->key, origin * MAX_RANKS + storm.rank, i), w->key);
}

static void readable_is_right(const struct area *w, const char *what, int target, const uint64_t *got, size_t len)
{
	for (size_t i = 0; i < len; i++)
		is_word(what, i, got[i], word(w->key, target, i), w->key + (uint64_t)target * 7919);
}

/* Everybody puts to, gets from and adds to everybody, between two fences. */
static void by_fence(const struct area *w, size_t len)
{
	uint64_t *from = malloc((size_t)storm.ranks * ROW * 8), *got = malloc((size_t)storm.ranks * READABLE * 8), add[SUMMED];

	storm_check(from && got, "no memory");
	for (int i = 0; i < SUMMED; i++)
		add[i] = word(w->key, 1000 + storm.rank, (size_t)i);
	MPI_Win_fence(MPI_MODE_NOPRECEDE, w->win);
	for (int t = 0; t < storm.ranks; t++) {
		put_row(w, t, len, from + t * ROW);
		MPI_Get(got + t * READABLE, (int)len, MPI_UINT64_T, t, (MPI_Aint)w->readable, (int)len, MPI_UINT64_T, w->win);
		MPI_Accumulate(add, SUMMED, MPI_UINT64_T, t, (MPI_Aint)w->summed, SUMMED, MPI_UINT64_T, MPI_SUM, w->win);
	}
	storm_at("MPI_Win_fence", -1, -1);
	MPI_Win_fence(MPI_MODE_NOSUCCEED, w->win);
	for (int t = 0; t < storm.ranks; t++) {
		row_is_from(w, "put by fence", t, len);
		readable_is_right(w, "got by fence", t, got + t * READABLE, len);
	}
	for (size_t i = 0; i < SUMMED; i++) {
		uint64_t sum = 0;

		for (int q = 0; q < storm.ranks; q++)
			sum += word(w->key, 1000 + q, i);
		is_word("accumulated by fence", i, w->mem[w->summed + i], sum, w->key + 1);
	}
	free(from);
	free(got);
}

/* A ring: each rank exposes its window to the left and reaches into the one on the right. */
static void by_post(const struct area *w, size_t len)
{
	int left = (storm.rank + storm.ranks - 1) % storm.ranks, right = (storm.rank + 1) % storm.ranks;
	uint64_t from[ROW];
	MPI_Group world, origin, target;

	MPI_Comm_group(storm.comm, &world);
	MPI_Group_incl(world, 1, &left, &origin);
	MPI_Group_incl(world, 1, &right, &target);
	storm_at("MPI_Win_post, MPI_Win_start", right, -1);
	MPI_Win_post(origin, 0, w->win);
	MPI_Win_start(target, 0, w->win);
	put_row(w, right, len, from);
	storm_at("MPI_Win_complete", right, -1);
	MPI_Win_complete(w->win);
	storm_at("MPI_Win_wait", left, -1);
	MPI_Win_wait(w->win);
	row_is_from(w, "put by post and start", left, len);
	MPI_Group_free(&origin);
	MPI_Group_free(&target);
	MPI_Group_free(&world);
}

/* Locks: exclusive or shared; a put seen after the unlock, tickets from a counter, one winner of a claim. */
static void by_lock(const struct area *w, size_t len, struct rng *mine)
{
	uint64_t from[ROW], got[READABLE], one = 1, ticket, nobody = 0, me = (uint64_t)storm.rank + 1, winner, *cells;
	int target = (int)rng_in(mine, 0, storm.ranks - 1), counts_at = (int)(w->key % (uint64_t)storm.ranks);
	uint64_t *tickets = malloc((size_t)storm.ranks * 2 * sizeof(*tickets));

	storm_check(tickets, "no memory");
	storm_at("MPI_Win_lock", target, -1);
	MPI_Win_lock(rng_in(mine, 0, 1) ? MPI_LOCK_EXCLUSIVE : MPI_LOCK_SHARED, target, 0, w->win);
	put_row(w, target, len, from);
	MPI_Win_flush(target, w->win);
	MPI_Get(got, (int)len, MPI_UINT64_T, target, (MPI_Aint)w->readable, (int)len, MPI_UINT64_T, w->win);
	storm_at("MPI_Win_unlock", target, -1);
	MPI_Win_unlock(target, w->win);
	readable_is_right(w, "got under a lock", target, got, len);

	storm_at("MPI_Win_lock_all", counts_at, -1);
	MPI_Win_lock_all(0, w->win);
	MPI_Fetch_and_op(&one, &ticket, MPI_UINT64_T, counts_at, (MPI_Aint)w->counter, MPI_SUM, w->win);
	MPI_Compare_and_swap(&me, &nobody, &winner, MPI_UINT64_T, counts_at, (MPI_Aint)w->claim, w->win);
	storm_at("MPI_Win_unlock_all", counts_at, -1);
	MPI_Win_unlock_all(w->win);

	storm_at("MPI_Allgather of tickets", -1, -1);
	MPI_Allgather((uint64_t[]){ ticket, winner }, 2, MPI_UINT64_T, tickets, 2, MPI_UINT64_T, storm.comm);
	cells = calloc((size_t)storm.ranks, sizeof(*cells));
	storm_check(cells, "no memory");
	winner = 0;
	for (int q = 0; q < storm.ranks; q++) {
		uint64_t t = tickets[2 * q], saw = tickets[2 * q + 1];

		storm_check(t < (uint64_t)storm.ranks && !cells[t]++, "rank %d drew ticket %llu, which is another's or none", q,
		            (unsigned long long)t);
		if (!saw) {
			storm_check(!winner, "ranks %d and %d both won one claim", (int)winner - 1, q);
			winner = (uint64_t)q + 1;
		}
	}
	for (int q = 0; q < storm.ranks; q++)
		storm_check(tickets[2 * q + 1] == 0 || tickets[2 * q + 1] == winner, "rank %d saw claimer %llu, but %llu won", q,
		            (unsigned long long)tickets[2 * q + 1] - 1, (unsigned long long)winner - 1);
	free(cells);
	free(tickets);
}

static double number(const struct area *w, int rank, size_t at)
{
	return (double)(word(w->key, 2000 + rank, at) % 1000000) / 8;
}

/* Everybody adds to everybody: in many pieces, as doubles, as bytes. With gaps MPICH does it itself, which must be atomic
 * against what the provider does to the same words. */
static void accumulate_all(const struct area *w, bool has_gaps)
{
	uint64_t *add = malloc(LONG * 8), xored[XORED];
	MPI_Datatype gaps;
	double greatest[GREATEST];

	storm_check(add, "no memory");
	for (size_t i = 0; i < LONG; i++)
		add[i] = word(w->key, 1000 + storm.rank, i);
	for (size_t i = 0; i < GREATEST; i++)
		greatest[i] = number(w, storm.rank, i);
	for (size_t i = 0; i < XORED; i++)
		xored[i] = word(w->key, 3000 + storm.rank, i);
	MPI_Type_vector(LONG / 2, 1, 2, MPI_UINT64_T, &gaps);
	MPI_Type_commit(&gaps);
	for (int k = 0; k < storm.ranks; k++) {
		int t = (storm.rank + k) % storm.ranks;

		storm_at("MPI_Accumulate", t, -1);
		if (has_gaps)
			MPI_Accumulate(add, 1, gaps, t, (MPI_Aint)w->sum, 1, gaps, MPI_SUM, w->win);
		MPI_Accumulate(add, LONG, MPI_UINT64_T, t, (MPI_Aint)w->sum, LONG, MPI_UINT64_T, MPI_SUM, w->win);
		MPI_Accumulate(greatest, GREATEST, MPI_DOUBLE, t, (MPI_Aint)w->greatest, GREATEST, MPI_DOUBLE, MPI_MAX, w->win);
		MPI_Accumulate(xored, XORED * 8, MPI_UINT8_T, t, (MPI_Aint)w->xored, XORED * 8, MPI_UINT8_T, MPI_BXOR, w->win);
	}
	storm_at("MPI_Win_flush_all", -1, -1);
	MPI_Win_flush_all(w->win);
	MPI_Type_free(&gaps);
	free(add);
}

static void accumulated_is_right(const struct area *w, bool has_gaps)
{
	for (size_t i = 0; i < LONG; i++) {
		uint64_t sum = 0, xored = 0;
		double most = 0, is;

		for (int q = 0; q < storm.ranks; q++) {
			sum += word(w->key, 1000 + q, i) * (has_gaps && i % 2 == 0 ? 2 : 1);
			most = number(w, q, i) > most ? number(w, q, i) : most;
			xored ^= word(w->key, 3000 + q, i);
		}
		is_word("a long accumulate", i, w->mem[w->sum + i], sum, w->key + 2);
		if (i < XORED)
			is_word("bytes xored", i, w->mem[w->xored + i], xored, w->key + 3);
		if (i < GREATEST) {
			memcpy(&is, &w->mem[w->greatest + i], 8);
			storm_check(is == most, "the greatest of doubles is %f where %f is right", is, most);
		}
	}
}

/* Each draws its tickets from @at; all that are drawn are told apart. */
static void draw_tickets(const struct area *w, int at)
{
	uint64_t one = 1, mine[DRAWS], *all = malloc((size_t)storm.ranks * DRAWS * 8);
	char *seen = calloc((size_t)storm.ranks, DRAWS);

	storm_check(all && seen, "no memory");
	storm_at("MPI_Get_accumulate", at, -1);
	for (int i = 0; i < DRAWS; i++) {
		if (i % 2)
			MPI_Fetch_and_op(&one, &mine[i], MPI_UINT64_T, at, (MPI_Aint)w->tickets, MPI_SUM, w->win);
		else
			MPI_Get_accumulate(&one, 1, MPI_UINT64_T, &mine[i], 1, MPI_UINT64_T, at, (MPI_Aint)w->tickets, 1, MPI_UINT64_T,
			                   MPI_SUM, w->win);
		if (i % 8 == 0)
			MPI_Win_flush(at, w->win);
	}
	MPI_Win_flush(at, w->win);
	storm_at("MPI_Allgather of tickets", -1, -1);
	MPI_Allgather(mine, DRAWS, MPI_UINT64_T, all, DRAWS, MPI_UINT64_T, storm.comm);
	for (int i = 0; i < storm.ranks * DRAWS; i++)
		storm_check(all[i] < (uint64_t)storm.ranks * DRAWS && !seen[all[i]]++, "rank %d drew ticket %llu, which is another's or none",
		            i / DRAWS, (unsigned long long)all[i]);
	for (int i = 1; i < DRAWS; i++)
		storm_check(mine[i] > mine[i - 1], "tickets of one rank are drawn out of order");
	free(all);
	free(seen);
}

/* A lock by compare-and-swap at @at, and under it a number that is read and written as if nobody else could. */
static void count_under_lock(const struct area *w, int at)
{
	uint64_t me = (uint64_t)storm.rank + 1, nobody = 0, was, value;

	for (int i = 0; i < LOCKED; i++) {
		storm_at("MPI_Compare_and_swap", at, -1);
		do {
			MPI_Compare_and_swap(&me, &nobody, &was, MPI_UINT64_T, at, (MPI_Aint)w->lock, w->win);
			MPI_Win_flush(at, w->win);
		} while (was != 0);
		storm_at("MPI_Get under a lock", at, -1);
		MPI_Get(&value, 1, MPI_UINT64_T, at, (MPI_Aint)w->guarded, 1, MPI_UINT64_T, w->win);
		MPI_Win_flush(at, w->win);
		value++;
		MPI_Put(&value, 1, MPI_UINT64_T, at, (MPI_Aint)w->guarded, 1, MPI_UINT64_T, w->win);
		MPI_Win_flush(at, w->win);
		MPI_Compare_and_swap(&nobody, &me, &was, MPI_UINT64_T, at, (MPI_Aint)w->lock, w->win);
		MPI_Win_flush(at, w->win);
		storm_check(was == me, "a lock of rank %d belongs to %llu", storm.rank, (unsigned long long)was);
	}
}

/* @at makes no call until all others have done something to its memory: its agent must have done it. */
static void reach_who_computes(const struct area *w, int at)
{
	uint64_t one = 1, was;

	if (storm.rank == at) {
		const volatile uint64_t *arrived = &w->mem[w->arrived];
		double start = MPI_Wtime();

		storm_at("nothing: it waits for its memory to change", -1, -1);
		while (*arrived < (uint64_t)storm.ranks - 1)
			storm_check(MPI_Wtime() - start < 100, "only %llu of the others have reached a rank that computes",
			            (unsigned long long)*arrived);
		return;
	}
	storm_at("MPI_Win_flush to who computes", at, -1);
	MPI_Fetch_and_op(&one, &was, MPI_UINT64_T, at, (MPI_Aint)w->arrived, MPI_SUM, w->win);
	MPI_Win_flush(at, w->win);
}

static void by_atomics(const struct area *w, bool has_gaps)
{
	int at = (int)(w->key % (uint64_t)storm.ranks);

	storm_at("MPI_Win_lock_all", -1, -1);
	MPI_Win_lock_all(0, w->win);
	accumulate_all(w, has_gaps);
	draw_tickets(w, at);
	count_under_lock(w, at);
	storm_at("MPI_Barrier after locks", -1, -1);
	MPI_Barrier(storm.comm); /* also before somebody computes: every lock_all has been granted */
	if (!has_gaps) /* where MPICH accumulates, too, the program has to be in MPI */
		reach_who_computes(w, at);
	storm_at("MPI_Win_unlock_all", -1, -1);
	MPI_Win_unlock_all(w->win);
	storm_at("MPI_Barrier after one-sided", -1, -1);
	MPI_Barrier(storm.comm);
	accumulated_is_right(w, has_gaps);
	if (storm.rank == at)
		is_word("counted under a lock", 0, w->mem[w->guarded], (uint64_t)storm.ranks * LOCKED, w->key + 4);
}

void phase_one_sided(struct rng *r)
{
	struct area w = { .key = rng_next(r) };
	size_t words, len = (size_t)rng_in(r, 1, ROW);
	long how = rng_in(r, 0, 3);
	bool is_allocated = rng_in(r, 0, 1), has_gaps = rng_in(r, 0, 1);
	struct rng mine = { mix2(w.key, (uint64_t)storm.rank) };

	w.readable = (size_t)storm.ranks * ROW;
	w.summed = w.readable + READABLE;
	w.counter = w.summed + SUMMED;
	w.claim = w.counter + 1;
	w.sum = w.claim + 1;
	w.greatest = w.sum + LONG;
	w.xored = w.greatest + GREATEST;
	w.tickets = w.xored + XORED;
	w.lock = w.tickets + 1;
	w.guarded = w.lock + 1;
	w.arrived = w.guarded + 1;
	words = w.arrived + 1;
	storm_at("MPI_Win_create", -1, -1);
	if (is_allocated) {
		MPI_Win_allocate((MPI_Aint)(words * 8), 8, MPI_INFO_NULL, storm.comm, &w.mem, &w.win);
	} else {
		w.mem = malloc(words * 8);
		storm_check(w.mem, "no memory for a window");
		MPI_Win_create(w.mem, (MPI_Aint)(words * 8), 8, MPI_INFO_NULL, storm.comm, &w.win);
	}
	MPI_Win_lock(MPI_LOCK_EXCLUSIVE, storm.rank, 0, w.win);
	memset(w.mem, 0, words * 8);
	for (size_t i = 0; i < READABLE; i++)
		w.mem[w.readable + i] = word(w.key, storm.rank, i);
	MPI_Win_unlock(storm.rank, w.win);
	storm_at("MPI_Barrier before one-sided", -1, -1);
	MPI_Barrier(storm.comm);
	if (how == 0)
		by_fence(&w, len);
	else if (how == 1)
		by_post(&w, len);
	else if (how == 2)
		by_lock(&w, len, &mine);
	else
		by_atomics(&w, has_gaps);
	storm_at("MPI_Win_free", -1, -1);
	MPI_Win_free(&w.win);
	if (!is_allocated)
		free(w.mem);
	storm.messages++;
	storm.bytes += len * 8;
}
