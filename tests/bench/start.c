/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * start: a program that does nothing but start, meet in a barrier, and end, of whatever MPI it was compiled with.
 *
 *	mpirun -n N start [-memory]
 *
 * With -memory rank 0 prints what a rank has to itself after the barrier, in KiB: the median and the most of all ranks.
 */
#include "base.h"

/* Private_Clean and Private_Dirty of all mappings; 0: this kernel does not say */
static double private_kib(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long all = 0, kib;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Private_Clean: %ld", &kib) == 1 || sscanf(line, "Private_Dirty: %ld", &kib) == 1)
			all += kib;
	if (f)
		fclose(f);
	return (double)all;
}

int main(int argc, char **argv)
{
	int rank, size;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Barrier(MPI_COMM_WORLD);
	if (argc > 1 && !strcmp(argv[1], "-memory")) {
		double mine = private_kib(), *all = calloc((size_t)size, sizeof(*all)), middle;

		if (!all)
			MPI_Abort(MPI_COMM_WORLD, 1);
		MPI_Gather(&mine, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
		if (rank == 0) {
			middle = median(all, size);
			printf("private_median_KiB=%.0f private_most_KiB=%.0f\n", middle, all[size - 1]);
		}
		free(all);
	}
	MPI_Finalize();
	return 0;
}
