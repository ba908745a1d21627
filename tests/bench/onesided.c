/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * onesided: how long a one-sided operation on another rank's memory takes, of whatever MPI it was compiled with.
 *
 *	mpirun -n 2 onesided [-pin] [-quick] [-no-swap] [-computing]
 *
 * Each value is of an operation on eight bytes and the flush that completes it, in microseconds: the median of batches, with
 * the target in MPI, in a receive. With -computing: the target computes and makes no call for half a second; the median and
 * the longest of single operations. An MPI that makes no progress then shows how long it computed. -no-swap leaves out
 * compare-and-swap, which Debian's Open MPI does not survive.
 */
#include "base.h"

#define BATCHES 15
#define SINGLES 2000
#define COMPUTES_S 0.5 /* the target, at least */
#define WITHIN_S   0.4 /* so long the origin goes on */

enum op { PUT, GET, FETCH, ACCUMULATE, SWAP, OPS };
static const char *const names[OPS] = { "put", "get", "fetch", "accumulate", "swap" };

static MPI_Win win;
static long *memory, one = 1, zero, got;
static int rank;

/* Each kind has a word of its own in the target's memory. */
static void do_op(enum op op)
{
	switch (op) {
	case PUT:
		MPI_Put(&one, 1, MPI_LONG, 1, op, 1, MPI_LONG, win);
		break;
	case GET:
		MPI_Get(&got, 1, MPI_LONG, 1, op, 1, MPI_LONG, win);
		break;
	case FETCH:
		MPI_Fetch_and_op(&one, &got, MPI_LONG, 1, op, MPI_SUM, win);
		break;
	case ACCUMULATE:
		MPI_Accumulate(&one, 1, MPI_LONG, 1, op, 1, MPI_LONG, MPI_SUM, win);
		break;
	default:
		MPI_Compare_and_swap(&one, &zero, &got, MPI_LONG, 1, op, win);
		break;
	}
	MPI_Win_flush(1, win);
}

static void inside(enum op op, int turns)
{
	double samples[BATCHES];

	if (rank == 1) {
		MPI_Recv(NULL, 0, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		return;
	}
	for (int b = -2; b < BATCHES; b++) { /* two batches to warm up */
		double start = MPI_Wtime();

		for (int i = 0; i < turns; i++)
			do_op(op);
		if (b >= 0)
			samples[b] = (MPI_Wtime() - start) / turns * 1e6;
	}
	MPI_Send(NULL, 0, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
	printf("%s_us=%.4f ", names[op], median(samples, BATCHES));
}

/* How often an operation was done; the target compares. */
static int computing(enum op op)
{
	static double samples[SINGLES];
	double start = MPI_Wtime();
	int n = 0;

	if (rank == 1) {
		volatile double x = 1;

		while (MPI_Wtime() - start < COMPUTES_S)
			for (int i = 0; i < 1000; i++)
				x = x * 1.0000001;
		MPI_Recv(&n, 1, MPI_INT, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		return n;
	}
	while (MPI_Wtime() - start < 0.02) /* it computes by now */
		;
	while (n < SINGLES && MPI_Wtime() - start < WITHIN_S) {
		double begun = MPI_Wtime();

		do_op(op);
		samples[n++] = (MPI_Wtime() - begun) * 1e6;
	}
	MPI_Send(&n, 1, MPI_INT, 1, 1, MPI_COMM_WORLD);
	printf("computing_%s_us=%.2f ", names[op], median(samples, n)); /* they are sorted now */
	printf("computing_%s_longest_us=%.1f ", names[op], samples[n - 1]);
	return n;
}

int main(int argc, char **argv)
{
	static const enum op asked[] = { PUT, GET, FETCH };
	int is_pinned = 0, is_computing = 0, turns = 2000, ops = OPS, wrong = 0;
	long fetches = 0, adds = 0;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	for (int i = 1; i < argc; i++) {
		is_pinned |= !strcmp(argv[i], "-pin");
		if (!strcmp(argv[i], "-quick"))
			turns /= 10;
		if (!strcmp(argv[i], "-no-swap"))
			ops--;
		is_computing |= !strcmp(argv[i], "-computing");
	}
	if (is_pinned)
		pin(rank);
	/* a page: with a few words the distribution's MPICH puts them elsewhere than where the target finds them */
	MPI_Win_allocate(4096, sizeof(long), MPI_INFO_NULL, MPI_COMM_WORLD, &memory, &win);
	MPI_Win_lock_all(0, win);
	memset(memory, 0, OPS * sizeof(long));
	MPI_Win_sync(win);
	MPI_Barrier(MPI_COMM_WORLD);
	for (int op = 0; op < ops && !is_computing; op++)
		inside((enum op)op, turns);
	if (!is_computing)
		fetches = adds = (BATCHES + 2) * turns;
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]) && is_computing; i++) {
		int n;

		MPI_Barrier(MPI_COMM_WORLD);
		n = computing(asked[i]);
		fetches += asked[i] == FETCH ? n : 0;
	}
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Win_sync(win);
	if (rank == 1)
		wrong = memory[PUT] != 1 || memory[FETCH] != fetches || memory[ACCUMULATE] != adds || memory[SWAP] != (ops == OPS && !is_computing);
	MPI_Win_unlock_all(win);
	if (rank == 0)
		printf("\n");
	if (wrong)
		fprintf(stderr, "onesided: the target's memory is wrong: put %ld, fetch %ld of %ld, accumulate %ld of %ld, swap %ld\n",
		        memory[PUT], memory[FETCH], fetches, memory[ACCUMULATE], adds, memory[SWAP]);
	MPI_Win_free(&win);
	MPI_Finalize();
	return wrong;
}
