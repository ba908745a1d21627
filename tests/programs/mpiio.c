/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/mpiio: all ranks write one file with MPI-IO until they are told to stop, and then find in it what they wrote.
 *
 *	mpirun -n 4 mpiio FILE STOP-FILE
 *
 * Each round every rank writes its words between those of the others, which is done by reading, changing and writing back under
 * a lock, in atomic mode, and appends one by the shared file pointer. Says "ready", and "file ok ROUNDS" at the end.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS 64
#define SLOTS 512 /* of a round each; then they are used again */

static int rank, size;

static uint64_t word(uint64_t round, int who, int i)
{
	return round << 32 | (uint64_t)who << 16 | (uint64_t)i;
}

static void must(int rc, const char *what)
{
	char text[MPI_MAX_ERROR_STRING] = "";
	int len;

	if (rc == MPI_SUCCESS)
		return;
	MPI_Error_string(rc, text, &len);
	printf("rank %d: %s: %s\n", rank, what, text);
	fflush(stdout);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

/* every size-th word of a round is this rank's; those that were in its slot before are looked at */
static void write_round(MPI_File f, uint64_t round)
{
	MPI_Offset at = (MPI_Offset)(round % SLOTS * WORDS);
	uint64_t mine[WORDS] = { 0 };
	MPI_Status st;

	if (round >= SLOTS) {
		must(MPI_File_read_at(f, at, mine, WORDS, MPI_UINT64_T, &st), "read");
		for (int i = 0; i < WORDS; i++)
			if (mine[i] != word(round - SLOTS, rank, i)) {
				printf("file bad: rank %d does not find what it wrote in round %llu\n", rank, (unsigned long long)(round - SLOTS));
				MPI_Abort(MPI_COMM_WORLD, 1);
			}
	}
	for (int i = 0; i < WORDS; i++)
		mine[i] = word(round, rank, i);
	must(MPI_File_write_at(f, at, mine, WORDS, MPI_UINT64_T, &st), "write");
}

static int is_right(MPI_File f, uint64_t round)
{
	uint64_t all[WORDS * 64];
	MPI_Status st;

	must(MPI_File_read_at(f, (MPI_Offset)(round % SLOTS * WORDS * (uint64_t)size), all, WORDS * size, MPI_UINT64_T, &st), "read");
	for (int i = 0; i < WORDS * size; i++)
		if (all[i] != word(round, i % size, i / size))
			return 0;
	return 1;
}

int main(int argc, char **argv)
{
	uint64_t rounds = 0, right = 0, sum = 0, first, one;
	MPI_File f, shared;
	MPI_Datatype type;
	MPI_Info info;
	char name[512];
	int is_over = 0;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (argc != 3 || size > 64)
		MPI_Abort(MPI_COMM_WORLD, 2);
	MPI_Info_create(&info);
	MPI_Info_set(info, "romio_ds_write", "enable");
	must(MPI_File_open(MPI_COMM_WORLD, argv[1], MPI_MODE_RDWR | MPI_MODE_CREATE, info, &f), "open");
	snprintf(name, sizeof(name), "%s.shared", argv[1]);
	must(MPI_File_open(MPI_COMM_WORLD, name, MPI_MODE_RDWR | MPI_MODE_CREATE, MPI_INFO_NULL, &shared), "open");
	MPI_Type_vector(WORDS, 1, size, MPI_UINT64_T, &type);
	MPI_Type_create_resized(type, 0, (MPI_Aint)sizeof(uint64_t) * WORDS * size, &type);
	MPI_Type_commit(&type);
	must(MPI_File_set_atomicity(f, 1), "atomic mode");
	must(MPI_File_set_view(f, (MPI_Offset)sizeof(uint64_t) * rank, MPI_UINT64_T, type, "native", info), "view");
	if (rank == 0)
		printf("ready\n");
	fflush(stdout);
	while (!is_over) {
		MPI_Status st;

		write_round(f, rounds);
		one = rounds + 1;
		must(MPI_File_write_shared(shared, &one, 1, MPI_UINT64_T, &st), "write by the shared pointer");
		rounds++;
		is_over = access(argv[2], F_OK) == 0;
		MPI_Bcast(&is_over, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	MPI_Barrier(MPI_COMM_WORLD);
	must(MPI_File_set_view(f, 0, MPI_UINT64_T, MPI_UINT64_T, "native", MPI_INFO_NULL), "view");
	first = rounds > SLOTS ? rounds - SLOTS : 0;
	for (uint64_t i = first; i < rounds; i++)
		right += (uint64_t)is_right(f, i);
	for (uint64_t i = 0; i < rounds * (uint64_t)size; i++) {
		MPI_Status st;

		must(MPI_File_read_at(shared, (MPI_Offset)(i * sizeof(one)), &one, 1, MPI_UINT64_T, &st), "read");
		sum += one;
	}
	printf(right == rounds - first && sum == (uint64_t)size * rounds * (rounds + 1) / 2 ? "file ok %llu\n" : "file bad %llu\n",
	       (unsigned long long)rounds);
	must(MPI_File_close(&shared), "close");
	must(MPI_File_close(&f), "close");
	MPI_Type_free(&type);
	MPI_Info_free(&info);
	MPI_Finalize();
	return right == rounds - first ? 0 : 1;
}
