/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pause: what a peer that sends all the time sees of a move.
 *
 *	mpirun -n 2 pause SECONDS [-pin]
 *
 * Rank 0 sends small messages to rank 1 without end, at most WINDOW ahead of its answers. Rank 1 prints every pause of more
 * than 100 microseconds between two messages that it has received: from the last one before to the first one after, by
 * CLOCK_REALTIME. With -pin each rank binds itself to a core of its own.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <mpi.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WINDOW 64

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pin(int core)
{
	cpu_set_t mine;

	CPU_ZERO(&mine);
	CPU_SET(core, &mine);
	sched_setaffinity(0, sizeof(mine), &mine);
}

int main(int argc, char **argv)
{
	int rank, is_over = 0;
	uint64_t end, last;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 2 && !strcmp(argv[2], "-pin"))
		pin(rank);
	end = now() + (uint64_t)((argc > 1 ? atof(argv[1]) : 10) * 1e9);
	last = now();
	if (rank == 1)
		printf("ready rank=1\n");
	while (rank < 2 && !is_over) {
		for (int i = 0; i < WINDOW; i++) {
			uint64_t word = i == WINDOW - 1 && now() > end, t;

			if (rank == 0) {
				MPI_Send(&word, 1, MPI_UINT64_T, 1, 1, MPI_COMM_WORLD);
				is_over = word != 0;
				continue;
			}
			MPI_Recv(&word, 1, MPI_UINT64_T, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			t = now();
			if (t - last > 100000)
				printf("pause rank=1 from_ns=%llu to_ns=%llu monotonic_ns=0\n", (unsigned long long)last,
				       (unsigned long long)t);
			last = t;
			is_over = word != 0;
		}
		if (rank == 0)
			MPI_Recv(NULL, 0, MPI_BYTE, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		else
			MPI_Send(NULL, 0, MPI_BYTE, 0, 2, MPI_COMM_WORLD);
	}
	MPI_Finalize();
	return 0;
}
