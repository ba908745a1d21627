/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * downtime: an MPI hello whose ranks do nothing but watch the clock, for measuring a move from inside.
 *
 *	mpirun -n 2 downtime SECONDS
 *
 * Every pause of more than 100 microseconds is printed at once: when it began and ended by CLOCK_REALTIME, and by how
 * much CLOCK_MONOTONIC advanced over it. Rank 0 waits in MPI_Recv until the others are done, so that a job has both.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both clocks at one moment: a pause between the two readings would look like a jump of one clock. */
static void now_both(uint64_t *real, uint64_t *mono)
{
	uint64_t after;

	do {
		*mono = now(CLOCK_MONOTONIC);
		*real = now(CLOCK_REALTIME);
		after = now(CLOCK_MONOTONIC);
	} while (after - *mono > 2000);
}

/* What a move has to carry: mappings, and private memory that the process has written, in bytes. */
static void print_size(int rank)
{
	unsigned long mappings = 0, private_dirty = 0, kib;
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		mappings += sscanf(line, "%*x-%*x %*s %*x %*s %lu", &kib) == 1;
		if (sscanf(line, "Private_Dirty: %lu kB", &kib) == 1)
			private_dirty += kib;
	}
	if (f)
		fclose(f);
	printf("size rank=%d mappings=%lu private_dirty_bytes=%lu\n", rank, mappings, private_dirty * 1024);
}

int main(int argc, char **argv)
{
	int rank, size, nothing = 0;
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	uint64_t real, mono, end;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (rank == 0) {
		for (int i = 1; i < size; i++)
			MPI_Recv(&nothing, 1, MPI_INT, MPI_ANY_SOURCE, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Finalize();
		return 0;
	}
	print_size(rank);
	now_both(&real, &mono);
	end = mono + (uint64_t)(seconds * 1e9);
	printf("ready rank=%d\n", rank);
	while (mono < end) {
		uint64_t r, m;

		now_both(&r, &m);
		if (r - real > 100000)
			printf("pause rank=%d from_ns=%llu to_ns=%llu monotonic_ns=%llu\n", rank,
			       (unsigned long long)real, (unsigned long long)r, (unsigned long long)(m - mono));
		real = r;
		mono = m;
	}
	MPI_Send(&nothing, 1, MPI_INT, 0, 1, MPI_COMM_WORLD);
	MPI_Finalize();
	return 0;
}
