/* SPDX-License-Identifier: BSD-2-Clause */
/* What programs share that take steps of computing until a file is there. Plain MPI. */
#ifndef UNTIL_H
#define UNTIL_H

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

/* @units of about a tenth of a millisecond each */
static uint64_t work(uint64_t x, long units)
{
	for (long i = 0; i < units * 40000; i++)
		x = x * 6364136223846793005u + 1442695040888963407u;
	return x;
}

struct until {
	const char *file;
	int rank, is_over;
	long steps, shown;
	double since;
};

static void until_begin(struct until *u, const char *file, int rank)
{
	*u = (struct until){ .file = file, .rank = rank };
	MPI_Barrier(MPI_COMM_WORLD);
	u->since = MPI_Wtime();
}

/* After each step, by all: rank 0 prints "steps N seconds S" about once a second, and all learn every eighth step whether the file is there. */
static void until_step(struct until *u)
{
	u->steps++;
	if (u->rank == 0 && MPI_Wtime() - u->since >= 1) {
		printf("steps %ld seconds %.3f\n", u->steps - u->shown, MPI_Wtime() - u->since);
		fflush(stdout);
		u->shown = u->steps;
		u->since = MPI_Wtime();
	}
	if (u->steps % 8)
		return;
	if (u->rank == 0)
		u->is_over = access(u->file, F_OK) == 0;
	MPI_Bcast(&u->is_over, 1, MPI_INT, 0, MPI_COMM_WORLD);
}

#endif
