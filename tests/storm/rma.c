/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/rma.c: one-sided: put, get and accumulate by fence, by post and start, and by passive locks. */
#include "tests/storm/storm.h"

/*
 * The window of each rank, in words. ROW words belong to each origin, which alone puts there; the rest is shared.
 *
 *   | put by rank 0 | put by rank 1 | ... | readable: known contents | summed by all | counter | claim |
 */
enum { ROW = 512, READABLE = 512, SUMMED = 64 };

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

struct area { MPI_Win win; uint64_t *mem, key; size_t readable, summed, counter, claim; };

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

void phase_one_sided(struct rng *r)
{
	struct area w = { .key = rng_next(r) };
	size_t words = (size_t)storm.ranks * ROW + READABLE + SUMMED + 2, len = (size_t)rng_in(r, 1, ROW);
	long how = rng_in(r, 0, 2);
	bool is_allocated = rng_in(r, 0, 1);
	struct rng mine = { mix2(w.key, (uint64_t)storm.rank) };

	w.readable = (size_t)storm.ranks * ROW;
	w.summed = w.readable + READABLE;
	w.counter = w.summed + SUMMED;
	w.claim = w.counter + 1;
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
	else
		by_lock(&w, len, &mine);
	storm_at("MPI_Win_free", -1, -1);
	MPI_Win_free(&w.win);
	if (!is_allocated)
		free(w.mem);
	storm.messages++;
	storm.bytes += len * 8;
}
