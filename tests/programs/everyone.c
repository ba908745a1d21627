/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every rank sends to every other, all at once; what arrives is checked, and rank 0 says how long it took and what the ranks
 * hold in memory then.
 *
 *	everyone [BYTES]     for each pair; default 64
 *
 * EVERYONE ranks=N begun=SECONDS first=SECONDS second=SECONDS rss_max_kb=N pss_mean_kb=N
 *   begun: from the start of mpirun, if its EVERYONE_BEGAN (seconds since 1970) is given, to the end of the last MPI_Init;
 *   first: the exchange that makes the connections; second: the same again
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* "Pss:", "Rss:": of this process, in kB; 0 where the kernel does not say. */
static long memory_kb(const char *what)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, what, strlen(what)) == 0)
			kb = strtol(line + strlen(what), NULL, 10);
	if (f)
		fclose(f);
	return kb;
}

static unsigned char byte_of(int from, int to, int turn, size_t at)
{
	return (unsigned char)(from * 31 + to * 17 + turn * 7 + (int)(at % 251));
}

/* All pairs at once, so that every connection there can be is wanted at the same time. */
static double exchange(int rank, int ranks, size_t len, int turn)
{
	unsigned char *out = malloc(len * (size_t)ranks), *in = malloc(len * (size_t)ranks);
	MPI_Request *req = malloc(2 * (size_t)ranks * sizeof(*req));
	MPI_Status *st = malloc(2 * (size_t)ranks * sizeof(*st));
	double began;

	if (!out || !in || !req || !st)
		MPI_Abort(MPI_COMM_WORLD, 3);
	for (int r = 0; r < ranks; r++)
		for (size_t i = 0; i < len; i++)
			out[(size_t)r * len + i] = byte_of(rank, r, turn, i);
	memset(in, 0xff, len * (size_t)ranks);
	MPI_Barrier(MPI_COMM_WORLD);
	began = MPI_Wtime();
	for (int r = 0; r < ranks; r++)
		MPI_Irecv(in + (size_t)r * len, (int)len, MPI_BYTE, r, turn, MPI_COMM_WORLD, &req[r]);
	for (int k = 0; k < ranks; k++) {
		int r = (rank + k) % ranks;

		MPI_Isend(out + (size_t)r * len, (int)len, MPI_BYTE, r, turn, MPI_COMM_WORLD, &req[ranks + k]);
	}
	MPI_Waitall(2 * ranks, req, st);
	began = MPI_Wtime() - began;
	for (int r = 0; r < ranks; r++)
		for (size_t i = 0; i < len; i++)
			if (in[(size_t)r * len + i] != byte_of(r, rank, turn, i)) {
				fprintf(stderr, "rank %d: byte %zu of what rank %d sent is wrong\n", rank, i, r);
				MPI_Abort(MPI_COMM_WORLD, 4);
			}
	free(out);
	free(in);
	free(req);
	free(st);
	return began;
}

int main(int argc, char **argv)
{
	size_t len = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
	const char *began = getenv("EVERYONE_BEGAN");
	double took[3], most[3];
	long kb[2], rss = 0, pss = 0;
	struct timespec now;
	int rank, ranks;

	MPI_Init(&argc, &argv);
	clock_gettime(CLOCK_REALTIME, &now);
	took[0] = began ? (double)now.tv_sec + (double)now.tv_nsec / 1e9 - strtod(began, NULL) : 0;
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	took[1] = exchange(rank, ranks, len, 1);
	took[2] = exchange(rank, ranks, len, 2);
	kb[0] = memory_kb("Rss:");
	kb[1] = memory_kb("Pss:");
	MPI_Reduce(took, most, 3, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
	MPI_Reduce(&kb[0], &rss, 1, MPI_LONG, MPI_MAX, 0, MPI_COMM_WORLD);
	MPI_Reduce(&kb[1], &pss, 1, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0)
		printf("EVERYONE ranks=%d begun=%.2f first=%.2f second=%.2f rss_max_kb=%ld pss_mean_kb=%ld\n", ranks, most[0], most[1],
		       most[2], rss, pss / ranks);
	MPI_Finalize();
	return 0;
}
