/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crowd: many ranks start, exchange all-to-all, and say what each of them costs.
 *
 *	mpirun -n 200 crowd [TURNS]
 *
 * Rank 0 prints when all are up, and at the end one line of name=value pairs: what the answers were checked for, the median
 * and the largest private memory that a rank has written, resident memory, and sockets that are open.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long smaps_kib(const char *name)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	size_t len = strlen(name);
	char line[256];
	long kib = -1;

	while (f && kib < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ':')
			kib = atol(line + len + 1);
	if (f)
		fclose(f);
	return kib;
}

static long sockets(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	long n = 0;

	while (d && (e = readdir(d))) {
		char path[300], link[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		if (readlink(path, link, sizeof(link)) > 7 && !memcmp(link, "socket:", 7))
			n++;
	}
	if (d)
		closedir(d);
	return n;
}

static int compare(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return x < y ? -1 : x > y;
}

static void print(const char *name, long value, int rank, int size)
{
	long *all = rank == 0 ? malloc((size_t)size * sizeof(*all)) : NULL;

	MPI_Gather(&value, 1, MPI_LONG, all, 1, MPI_LONG, 0, MPI_COMM_WORLD);
	if (rank == 0) {
		qsort(all, (size_t)size, sizeof(*all), compare);
		printf(" %s_median=%ld %s_max=%ld", name, all[size / 2], name, all[size - 1]);
	}
	free(all);
}

int main(int argc, char **argv)
{
	int rank, size, turns = argc > 1 ? atoi(argv[1]) : 3, wrong = 0, all_wrong;
	long memory[2], open_sockets;
	int *out, *in;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		printf("up\n");
		fflush(stdout);
	}
	out = malloc((size_t)size * 2 * sizeof(*out));
	if (!out)
		MPI_Abort(MPI_COMM_WORLD, 1);
	in = out + size;
	for (int t = 0; t < turns; t++) {
		for (int i = 0; i < size; i++)
			out[i] = (rank * size + i) * 7 + t;
		memset(in, -1, (size_t)size * sizeof(*in));
		MPI_Alltoall(out, 1, MPI_INT, in, 1, MPI_INT, MPI_COMM_WORLD);
		for (int i = 0; i < size; i++)
			wrong += in[i] != (i * size + rank) * 7 + t;
		/* and with each one alone: Alltoall of few bytes talks to few */
		for (int i = 0; i < size; i++)
			MPI_Sendrecv(&out[(rank + i) % size], 1, MPI_INT, (rank + i) % size, t, &in[(rank - i + size) % size], 1, MPI_INT,
			             (rank - i + size) % size, t, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		for (int i = 0; i < size; i++)
			wrong += in[i] != (i * size + rank) * 7 + t;
	}
	memory[0] = smaps_kib("Private_Dirty");
	memory[1] = smaps_kib("Rss");
	open_sockets = sockets();
	MPI_Reduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0)
		printf("ranks=%d wrong=%d", size, all_wrong);
	print("private_dirty_KiB", memory[0], rank, size);
	print("resident_KiB", memory[1], rank, size);
	print("sockets", open_sockets, rank, size);
	if (rank == 0)
		printf("\n");
	free(out);
	MPI_Finalize();
	return 0;
}
