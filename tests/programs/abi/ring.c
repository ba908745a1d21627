/* SPDX-License-Identifier: BSD-2-Clause */
/* A ring and a sum, in C; its twins are in C++, Fortran 77, 90 and 08. Compiled by whatever wrappers a test finds. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	int rank, ranks, left;
	double sum, one;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	MPI_Sendrecv(&rank, 1, MPI_INT, (rank + 1) % ranks, 7, &left, 1, MPI_INT, (rank + ranks - 1) % ranks, 7, MPI_COMM_WORLD,
	             MPI_STATUS_IGNORE);
	one = rank + 0.5;
	MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
	if (rank == 0)
		printf("ring of %d: left %d, sum %.1f\n", ranks, left, sum);
	MPI_Finalize();
	return 0;
}
