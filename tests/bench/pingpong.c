/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pingpong: latency, message rate and bandwidth between two ranks, of whatever MPI it was compiled with.
 *
 *	mpirun -n 2 pingpong [-pin] [-quick]
 *
 * Prints one line of name=value pairs: what is better is smaller for _us and larger for the others. Each value is the
 * median of several batches, so that one interruption does not count. With -pin, rank r binds itself to the r-th of the
 * cores that it may use when both ranks see at least two; so every MPI is pinned in the same way.
 */
#include "base.h"

#define BATCHES 15
#define WINDOW  64
#define BIG     (4 << 20)

static int rank;
static char *buf;

/* One way time of @bytes in microseconds. */
static double latency(int bytes, int turns)
{
	double samples[BATCHES];

	for (int b = -2; b < BATCHES; b++) { /* two batches to warm up */
		double start = MPI_Wtime();

		for (int i = 0; i < turns; i++) {
			if (rank == 0) {
				MPI_Send(buf, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
				MPI_Recv(buf, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			} else {
				MPI_Recv(buf, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
				MPI_Send(buf, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
			}
		}
		if (b >= 0)
			samples[b] = (MPI_Wtime() - start) / turns / 2 * 1e6;
	}
	return median(samples, BATCHES);
}

/* Messages per second of @bytes, rank 0 to rank 1, WINDOW in flight or what fits, one answer for each window. */
static double rate(int bytes, int windows)
{
	int window = BIG / bytes < WINDOW ? BIG / bytes : WINDOW;
	MPI_Request requests[WINDOW];
	double samples[BATCHES];

	for (int b = -2; b < BATCHES; b++) {
		double start;

		MPI_Barrier(MPI_COMM_WORLD);
		start = MPI_Wtime();
		for (int w = 0; w < windows; w++) {
			char answer = 0;

			for (int i = 0; i < window; i++) {
				char *at = buf + (size_t)bytes * (size_t)i;

				if (rank == 0)
					MPI_Isend(at, bytes, MPI_BYTE, 1, 2, MPI_COMM_WORLD, &requests[i]);
				else
					MPI_Irecv(at, bytes, MPI_BYTE, 0, 2, MPI_COMM_WORLD, &requests[i]);
			}
			MPI_Waitall(window, requests, MPI_STATUSES_IGNORE);
			if (rank == 0)
				MPI_Recv(&answer, 1, MPI_BYTE, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			else
				MPI_Send(&answer, 1, MPI_BYTE, 0, 3, MPI_COMM_WORLD);
		}
		if (b >= 0)
			samples[b] = windows * (double)window / (MPI_Wtime() - start);
	}
	return median(samples, BATCHES);
}

int main(int argc, char **argv)
{
	int size, scale = 10;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (size != 2) {
		if (rank == 0)
			fprintf(stderr, "pingpong: start it with two ranks, not %d\n", size);
		MPI_Finalize();
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-pin"))
			pin(rank);
		else if (!strcmp(argv[i], "-quick"))
			scale = 1;
	}
	buf = malloc(BIG);
	if (!buf)
		MPI_Abort(MPI_COMM_WORLD, 1);
	memset(buf, 1, BIG);

	double us_8 = latency(8, 1000 * scale), us_4k = latency(4096, 500 * scale), us_64k = latency(65536, 50 * scale);
	double rate_8 = rate(8, 20 * scale), bw_64k = rate(65536, scale) * 65536 / 1e9,
	       bw_1m = rate(1 << 20, scale) * 1048576 / 1e9;
	double us_1m = latency(1 << 20, 5 * scale), us_4m = latency(BIG, scale);

	if (rank == 0)
		printf("latency_8B_us=%.4f latency_4KiB_us=%.4f latency_64KiB_us=%.3f rate_8B_Mmsg_s=%.4f "
		       "stream_64KiB_GB_s=%.3f stream_1MiB_GB_s=%.3f pingpong_1MiB_GB_s=%.3f pingpong_4MiB_GB_s=%.3f\n",
		       us_8, us_4k, us_64k, rate_8 / 1e6, bw_64k, bw_1m, 1048576 / us_1m / 1e3, BIG / us_4m / 1e3);
	free(buf);
	MPI_Finalize();
	return 0;
}
