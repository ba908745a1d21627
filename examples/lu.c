/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lu: a matrix factorised into a lower and an upper triangle with partial pivoting, and a system of equations solved with it,
 * after the kernel "LU factorisation" of CAP Bench.
 *
 * Row i belongs to rank i modulo the number of ranks, so that all have work to the end. In each step the ranks agree on the
 * row with the largest element in the column that is eliminated (allreduce), its owner broadcasts it, and all take multiples
 * of it from their rows. Rows stay where they are; the order of pivots is what would be exchanged. An element is changed by
 * one product after the other in the order of steps, whoever owns it: any number of ranks gives the same bits.
 * The right side is that of a solution of ones, so rank 0 can check the answer.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: lu [options]\n"
	"Factorises generated matrices and solves equations with them.\n\n"
	"  -s, --size N      rows and columns (default 480)\n"
	"  -m, --matrices N  how many, one after the other (default 3)\n"
	"  -q, --quiet       only the last line\n"
	"  -h, --help        this text\n";

static long size, wide; /* wide: a row and its right side */

static double element(long matrix, long row, long column)
{
	return (double)(ex_mix(ex_mix((uint64_t)(matrix * size + row) + 1) + (uint64_t)column) >> 11) * 0x1p-52 - 1;
}

static long rows_of(int r)
{
	return (size - r + ranks - 1) / ranks;
}

static void make(double *rows, long matrix)
{
	for (long i = 0; i < rows_of(rank); i++) {
		double *row = rows + i * wide, total = 0;

		for (long c = 0; c < size; c++)
			total += row[c] = element(matrix, i * ranks + rank, c);
		row[size] = total;
	}
}

/* The row, of those that have not been a pivot, with the largest element in column @k; of equal ones the first. */
static long choose(const double *rows, const long *step, long k)
{
	struct { double value; int row; } mine = { -1, 0 }, best;

	for (long i = 0; i < rows_of(rank); i++)
		if (step[i] < 0 && fabs(rows[i * wide + k]) > mine.value) {
			mine.value = fabs(rows[i * wide + k]);
			mine.row = (int)(i * ranks + rank);
		}
	MPI_Allreduce(&mine, &best, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD);
	return best.row;
}

/* @step: of each own row, in which step it was the pivot; @pivots: the row of each step. The factors below the diagonal are kept. */
static void factorise(double *rows, long *step, long *pivots, double *pivot)
{
	for (long i = 0; i < rows_of(rank); i++)
		step[i] = -1;
	for (long k = 0; k < size; k++) {
		long row = choose(rows, step, k);

		pivots[k] = row;
		if (row % ranks == rank) {
			memcpy(pivot + k, rows + row / ranks * wide + k, (size_t)(wide - k) * sizeof(*pivot));
			step[row / ranks] = k;
		}
		MPI_Bcast(pivot + k, (int)(wide - k), MPI_DOUBLE, (int)(row % ranks), MPI_COMM_WORLD);
		for (long i = 0; i < rows_of(rank); i++) {
			double *at = rows + i * wide, factor;

			if (step[i] >= 0)
				continue;
			factor = at[k] /= pivot[k];
			for (long c = k + 1; c < wide; c++)
				at[c] -= factor * pivot[c];
		}
	}
}

/* From the last row up. All ranks have the whole answer. */
static void solve(const double *rows, const long *pivots, double *x)
{
	for (long k = size - 1; k >= 0; k--) {
		if (pivots[k] % ranks == rank) {
			const double *row = rows + pivots[k] / ranks * wide;
			double v = row[size];

			for (long c = k + 1; c < size; c++)
				v -= row[c] * x[c];
			x[k] = v / row[k];
		}
		MPI_Bcast(x + k, 1, MPI_DOUBLE, (int)(pivots[k] % ranks), MPI_COMM_WORLD);
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "matrices", 1, NULL, 'm' }, { "quiet", 0, NULL, 'q' },
		{ "help", 0, NULL, 'h' }, { 0 } };
	long matrices = 3, quiet = 0, *step, *pivots;
	double *rows, *pivot, *x, worst = 0, start;
	uint64_t sum = 0;
	int opt, bad;

	size = 480;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:m:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("lu", "--size", optarg, 1, 20000); break;
		case 'm': matrices = ex_number("lu", "--matrices", optarg, 1, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("lu: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("lu: unexpected argument '%s'; see --help", argv[optind]);

	wide = size + 1;
	rows = ex_alloc((size_t)(rows_of(rank) * wide), sizeof(*rows));
	step = ex_alloc((size_t)rows_of(rank), sizeof(*step));
	pivots = ex_alloc((size_t)size, sizeof(*pivots));
	pivot = ex_alloc((size_t)wide, sizeof(*pivot));
	x = ex_alloc((size_t)size, sizeof(*x));
	start = MPI_Wtime();
	for (long m = 0; m < matrices; m++) {
		uint64_t place = (uint64_t)m * (uint64_t)(size * (size + 2));

		make(rows, m);
		factorise(rows, step, pivots, pivot);
		solve(rows, pivots, x);
		for (long i = 0; i < rows_of(rank); i++)
			for (long c = 0; c < size; c++)
				sum += ex_sum_double(place + (uint64_t)((i * ranks + rank) * size + c), rows[i * wide + c]);
		for (long k = 0; k < size; k++) {
			worst = fmax(worst, fabs(x[k] - 1));
			if (rank == 0)
				sum += ex_sum_double(place + (uint64_t)(size * size + k), x[k]) +
				       ex_sum_bits(place + (uint64_t)(size * (size + 1) + k), (uint64_t)pivots[k]);
		}
		if (rank == 0 && !quiet) {
			printf("lu: matrix %ld of %ld, off by %.2g, %.2f s\n", m + 1, matrices, worst, MPI_Wtime() - start);
			fflush(stdout);
		}
	}
	sum = ex_sum_all(sum);
	bad = !(worst < 1e-6);
	if (rank == 0 && bad)
		fprintf(stderr, "lu: wrong: a solution of ones is off by %g\n", worst);
	else if (rank == 0)
		printf("lu: size=%ld matrices=%ld ranks=%d off=%.2g seconds=%.3f checksum=%016llx\n", size, matrices, ranks, worst,
		       MPI_Wtime() - start, (unsigned long long)sum);
	free(rows), free(step), free(pivots), free(pivot), free(x);
	MPI_Finalize();
	return bad;
}
