/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * uneven STOPFILE UNITS [HEAVY [BYTES]]: steps of which the first half of the ranks have HEAVY (3) times the work of the
 * others, with an allreduce after each, until STOPFILE is there (until.h); then rank 0 prints a checksum of what all have
 * computed. BYTES: that each rank exchanges with the one half of all ranks further in a step. UNITS: of work in a light
 * rank's step, about a tenth of a millisecond each. No word about balancing in it.
 */
#include "tests/programs/until.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
	int rank, size;
	uint64_t x, sum = 0;
	long units;
	int bytes, partner;
	char *out, *in;
	struct until u;

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
	until_begin(&u, argv[1], rank);
	while (!u.is_over) {
		uint64_t all;

		x = work(x, units);
		if (bytes)
			MPI_Sendrecv(out, bytes, MPI_CHAR, partner, 1, in, bytes, MPI_CHAR, partner, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Allreduce(&x, &all, 1, MPI_UINT64_T, MPI_BXOR, MPI_COMM_WORLD);
		sum = sum * 31 + all;
		until_step(&u);
	}
	if (rank == 0)
		printf("checksum %016llx after %ld steps\n", (unsigned long long)sum, u.steps);
	MPI_Finalize();
	return 0;
}
