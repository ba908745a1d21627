/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * moments [ROUNDS [CLUSTERS]]: a program that knows it may be moved, and says what helps (godwit.h): where it is, how much it has to do, which
 * moments are good ones, and what it does before and after a move. moments.f90 is the same in Fortran.
 *
 * In each round a rank fills a large scratch buffer, sums it up, and gives it back; between two rounds there is little to carry.
 * Before a move it drops a cache that can be computed again. Ranks ask to be moved now and then, each to the next of CLUSTERS (2).
 * Compiled with another MPI's wrapper and -lgodwit_mpix it runs there as well, and nobody moves.
 */
#include <godwit.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE ((size_t)1 << 20)

static double *volatile cache; /* sines, say: made when they are missing. The hook takes it away, on another thread */
static int dropped;

/* Called by the runtime before a move, while main() goes on: so it takes the cache only while nobody uses it, and the next round makes it anew. */
static int before(int why, void *arg)
{
	double *old = why == MPIX_MOVE ? __atomic_exchange_n(&cache, NULL, __ATOMIC_ACQ_REL) : NULL;

	(void)arg;
	dropped += old != NULL;
	free(old);
	return 0; /* anything else would refuse the move */
}

static uint64_t work(int round, int rank)
{
	uint64_t *scratch = malloc(CACHE * sizeof(*scratch)), sum = 0, x = (uint64_t)round * 1000 + (uint64_t)rank + 1;
	double *mine = __atomic_exchange_n(&cache, NULL, __ATOMIC_ACQ_REL); /* ours while we use it: the hook finds none */

	if (!mine && (mine = malloc(CACHE * sizeof(*mine))))
		for (size_t i = 0; i < CACHE; i++)
			mine[i] = (double)i * 0.5;
	if (!scratch || !mine)
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (size_t i = 0; i < CACHE; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		scratch[i] = x ^ (uint64_t)mine[i];
	}
	for (size_t i = 0; i < CACHE; i++)
		sum += scratch[i];
	free(scratch);
	free(__atomic_exchange_n(&cache, mine, __ATOMIC_ACQ_REL));
	return sum;
}

int main(int argc, char **argv)
{
	int rank, size, cluster, host, moves, is_movable, arrivals = 0;
	int rounds = argc > 1 ? atoi(argv[1]) : 40, clusters = argc > 2 ? atoi(argv[2]) : 2;
	uint64_t sum = 0, all;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPIX_Migratable(&is_movable);
	MPIX_On_move(before, NULL, NULL);
	MPIX_Load(1.0); /* busy all the time */
	for (int round = 0; round < rounds; round++) {
		int moved;

		sum = sum * 31 + work(round, rank);
		MPIX_Moment(&moved); /* nothing is half done here */
		arrivals += moved;
		if (is_movable && clusters > 1 && round % 10 == rank % 10) {
			char next[16], why[200];

			MPIX_Where(&cluster, &host, &moves);
			snprintf(next, sizeof(next), "%d", (cluster + 1) % clusters);
			MPIX_Migrate(next, 0, &moved);
			MPIX_Why(why, sizeof(why));
			if (!moved)
				fprintf(stderr, "rank %d stays on cluster %d: %s\n", rank, cluster, why);
		}
	}
	MPIX_Where(&cluster, &host, &moves);
	MPI_Reduce(&sum, &all, 1, MPI_UINT64_T, MPI_BXOR, 0, MPI_COMM_WORLD);
	if (is_movable)
		printf("rank %d: on cluster %d after %d moves, %d of them seen at a good moment, cache dropped %d times\n", rank, cluster,
		       moves, arrivals, dropped);
	if (rank == 0)
		printf("moments: checksum=%016llx\n", (unsigned long long)all);
	MPI_Finalize();
	return 0;
}
