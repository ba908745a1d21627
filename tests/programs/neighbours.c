/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * neighbours STOPFILE [BYTES [SEED [UNITS]]]: ranks stand shuffled (by SEED, 1) in a torus of rows and columns, and exchange
 * BYTES (40000) with those left and right, and a sixteenth of that with those above and below, in each step until STOPFILE is
 * there (until.h); every word that comes is checked. Rank 0 prints who stands where, and in the end "all right". UNITS: of work
 * in a step, about a tenth of a millisecond each (1). No word about places in it.
 */
#include "tests/programs/until.h"

#include <stdlib.h>

enum { LEFT, RIGHT, UP, DOWN, SIDES };

static uint64_t word_of(int from, int side, long step, int i)
{
	return ((uint64_t)from << 40 ^ (uint64_t)side << 36 ^ (uint64_t)step) * 0x9e3779b97f4a7c15ULL + (uint64_t)i;
}

int main(int argc, char **argv)
{
	int rank, size, rows = 1, columns, at = 0, peer[SIDES], *who;
	long bytes = argc > 2 ? atol(argv[2]) : 40000, units = argc > 4 ? atol(argv[4]) : 1, bad = 0, all_bad;
	uint64_t dice = (argc > 3 ? (uint64_t)atol(argv[3]) : 1) * 2654435761u + 88172645463325252ull, *out[SIDES], *in[SIDES], x;
	int words[SIDES];
	struct until u;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (int r = 1; r * r <= size; r++)
		rows = size % r == 0 ? r : rows;
	columns = size / rows;
	who = malloc((size_t)size * sizeof(*who)); /* who stands at each place */
	if (!who)
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (int i = 0; i < size; i++)
		who[i] = i;
	for (int i = size - 1; i > 0; i--) {
		int k, other;

		dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
		k = (int)(dice % (uint64_t)(i + 1));
		other = who[i];
		who[i] = who[k];
		who[k] = other;
	}
	for (int i = 0; i < size; i++) {
		at = who[i] == rank ? i : at;
		if (rank == 0)
			printf("%s%d%s", i == 0 ? "places " : i % columns == 0 ? " / " : " ", who[i], i == size - 1 ? "\n" : "");
	}
	peer[LEFT] = who[at / columns * columns + (at + columns - 1) % columns];
	peer[RIGHT] = who[at / columns * columns + (at + 1) % columns];
	peer[UP] = who[(at + size - columns) % size];
	peer[DOWN] = who[(at + columns) % size];
	for (int s = 0; s < SIDES; s++) {
		words[s] = 1 + (int)(s < UP ? bytes : bytes / 16) / 8;
		out[s] = malloc((size_t)words[s] * 8);
		in[s] = malloc((size_t)words[s] * 8);
		if (!out[s] || !in[s])
			MPI_Abort(MPI_COMM_WORLD, 1);
	}
	x = (uint64_t)rank + 1;
	fflush(stdout);
	until_begin(&u, argv[1], rank);
	while (!u.is_over) {
		MPI_Request requests[2 * SIDES];

		x = work(x, units);
		for (int s = 0; s < SIDES; s++) /* what goes out at one side comes in at the other */
			MPI_Irecv(in[s], words[s], MPI_UINT64_T, peer[s], s ^ 1, MPI_COMM_WORLD, &requests[s]);
		for (int s = 0; s < SIDES; s++) {
			for (int i = 0; i < words[s]; i++)
				out[s][i] = word_of(rank, s, u.steps, i);
			MPI_Isend(out[s], words[s], MPI_UINT64_T, peer[s], s, MPI_COMM_WORLD, &requests[SIDES + s]);
		}
		MPI_Waitall(2 * SIDES, requests, MPI_STATUSES_IGNORE);
		for (int s = 0; s < SIDES; s++)
			for (int i = 0; i < words[s]; i++)
				bad += in[s][i] != word_of(peer[s], s ^ 1, u.steps, i);
		until_step(&u);
	}
	MPI_Reduce(&bad, &all_bad, 1, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0 && all_bad)
		printf("%ld words of %ld steps are wrong\n", all_bad, u.steps);
	else if (rank == 0)
		printf("all right after %ld steps (%llx)\n", u.steps, (unsigned long long)x);
	for (int s = 0; s < SIDES; s++)
		free(out[s]), free(in[s]);
	free(who);
	MPI_Finalize();
	return rank == 0 && all_bad;
}
