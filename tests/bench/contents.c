/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * contents: a rank with memory that packs well, half as well or not at all, and that does not change.
 *
 *	mpirun -n 1 contents FILE MIB text|half|random
 *
 * It sleeps until FILE is there, looks at its memory and says whether it is what it wrote. Text is that of a log, in which each line has
 * other numbers; of half, every other 2 KiB are random.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 2048u

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void fill_random(char *to, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < BLOCK; i += sizeof(x))
		memcpy(to + i, (next(&x), &x), sizeof(x));
}

static void fill_text(char *to, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
	size_t n = 0;

	while (n < BLOCK) {
		int len = snprintf(to + n, BLOCK - n, "step %llu rank %llu residual %llu.%llue-06 iterations %llu converged\n",
		                   (unsigned long long)seed, (unsigned long long)next(&x) % 64, (unsigned long long)next(&x) % 10,
		                   (unsigned long long)next(&x) % 100000, (unsigned long long)next(&x) % 400);

		n += (size_t)len;
	}
}

static void fill(char *to, uint64_t block, const char *kind)
{
	if (!strcmp(kind, "random") || (!strcmp(kind, "half") && block % 2))
		fill_random(to, block);
	else
		fill_text(to, block);
}

int main(int argc, char **argv)
{
	char *memory, want[BLOCK];
	size_t blocks, bad = 0;

	MPI_Init(&argc, &argv);
	if (argc != 4 || (strcmp(argv[3], "text") && strcmp(argv[3], "half") && strcmp(argv[3], "random"))) {
		fprintf(stderr, "usage: contents FILE MIB text|half|random\n");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	blocks = ((size_t)atol(argv[2]) << 20) / BLOCK;
	memory = malloc(blocks * BLOCK);
	if (!memory)
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (size_t i = 0; i < blocks; i++)
		fill(memory + i * BLOCK, i, argv[3]);
	printf("ready\n");
	fflush(stdout);
	while (access(argv[1], F_OK) < 0)
		nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
	for (size_t i = 0; i < blocks; i++) {
		fill(want, i, argv[3]);
		bad += memcmp(memory + i * BLOCK, want, BLOCK) != 0;
	}
	printf("memory bad=%zu\n", bad);
	MPI_Finalize();
	return 0;
}
