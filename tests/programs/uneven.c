/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * uneven STOPFILE UNITS [HEAVY [BYTES]]: steps of which the first half of the ranks have HEAVY (3) times the work of the others, with an allreduce
 * after each. Rank 0 prints "steps N seconds S" about once a second, until STOPFILE is there; then a checksum of what all
 * have computed. BYTES: that each rank exchanges with the one half of all ranks further in a step. UNITS: of work in a light rank's step, about a tenth of a millisecond each. Plain MPI, no word about balancing in it.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t work(uint64_t x, long units)
{
	for (long i = 0; i < units * 40000; i++)
		x = x * 6364136223846793005u + 1442695040888963407u;
	return x;
}

int main(int argc, char **argv)
{
	int rank, size, is_over = 0;
	uint64_t x, sum = 0;
	long units, steps = 0, shown = 0;
	int bytes, partner;
	char *out, *in;
	double since;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	units = argc > 2 ? atol(argv[2]) : 10;
	if (rank < size / 2)
		units *= argc > 3 ? atol(argv[3]) : 3;
	bytes = argc > 4 ? atoi(argv[4]) : 0;
	partner = (rank + size / 2) % size;
	out = calloc((size_t)bytes + 1, 1);
	in = calloc((size_t)bytes + 1, 1);
	if (!out || !in)
		MPI_Abort(MPI_COMM_WORLD, 1);
	x = (uint64_t)rank + 1;
	MPI_Barrier(MPI_COMM_WORLD);
	since = MPI_Wtime();
	while (!is_over) {
		uint64_t all;

		x = work(x, units);
		if (bytes)
			MPI_Sendrecv(out, bytes, MPI_CHAR, partner, 1, in, bytes, MPI_CHAR, partner, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Allreduce(&x, &all, 1, MPI_UINT64_T, MPI_BXOR, MPI_COMM_WORLD);
		sum = sum * 31 + all;
		steps++;
		if (rank == 0 && MPI_Wtime() - since >= 1) {
			printf("steps %ld seconds %.3f\n", steps - shown, MPI_Wtime() - since);
			fflush(stdout);
			shown = steps;
			since = MPI_Wtime();
		}
		if (rank == 0 && steps % 8 == 0)
			is_over = access(argv[1], F_OK) == 0;
		if (steps % 8 == 0)
			MPI_Bcast(&is_over, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	if (rank == 0)
		printf("checksum %016llx after %ld steps\n", (unsigned long long)sum, steps);
	MPI_Finalize();
	return 0;
}
