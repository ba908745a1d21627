/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * jacobi: heat spreading over a square plate whose left edge is hot, by Jacobi's iteration.
 *
 * The plate is cut into blocks, one per rank, in a two-dimensional Cartesian grid. Each iteration a rank exchanges the
 * edges of its block with its four neighbours (rows as they lie in memory, columns as a derived datatype), computes the
 * inner part of its block meanwhile, and then the rim. Every --report iterations all ranks agree on the residual, the
 * largest change of any cell: a maximum, which has no rounding and no order.
 *
 * The checksum depends on every bit of the final plate; neither moves nor the number of ranks change it.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: jacobi [options]\n"
	"Heat on a square plate, computed by blocks that exchange their edges.\n\n"
	"  -s, --size N         cells along each side (default 512)\n"
	"  -i, --iterations N   iterations (default 1000)\n"
	"  -t, --seconds T      instead of --iterations: about T seconds, measured at the start\n"
	"  -r, --report N       agree on the residual every N iterations (default 50)\n"
	"  -q, --quiet          only the last line\n"
	"  -h, --help           this text\n";

static long rows, cols, width; /* cells in this rank's block; cells between two rows in memory */

/* New values of the cells [@r0, @r1) x [@c0, @c1) of the block; returns the largest change. */
static double relax(const double *restrict old, double *restrict new, long r0, long r1, long c0, long c1)
{
	double most = 0;

	for (long r = r0; r < r1; r++) {
		for (long c = c0; c < c1; c++) {
			const double *p = old + r * width + c;
			double v = 0.25 * (p[-width] + p[width] + p[-1] + p[1]);
			double change = fabs(v - *p);

			new[r * width + c] = v;
			most = change > most ? change : most;
		}
	}
	return most;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "size", 1, NULL, 's' },   { "iterations", 1, NULL, 'i' }, { "seconds", 1, NULL, 't' },
		{ "report", 1, NULL, 'r' }, { "quiet", 0, NULL, 'q' },      { "help", 0, NULL, 'h' }, { 0 } };
	long size = 512, iterations = 1000, seconds = 0, report = 50, quiet = 0, first_row, first_col;
	int dims[2] = { 0, 0 }, periods[2] = { 0, 0 }, at[2], up, down, left, right, opt;
	double *old, *new, most = 0, residual = 0, start;
	uint64_t sum = 0;
	MPI_Comm grid;
	MPI_Datatype column;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:i:t:r:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("jacobi", "--size", optarg, 1, 100000); break;
		case 'i': iterations = ex_number("jacobi", "--iterations", optarg, 0, 1000000000); break;
		case 't': seconds = ex_number("jacobi", "--seconds", optarg, 1, 86400); break;
		case 'r': report = ex_number("jacobi", "--report", optarg, 1, 1000000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("jacobi: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("jacobi: unexpected argument '%s'; see --help", argv[optind]);
	MPI_Dims_create(ranks, 2, dims);
	if (dims[0] > size || dims[1] > size)
		ex_refuse("jacobi: %d x %d ranks cannot share %ld cells a side; choose a larger --size", dims[0], dims[1], size);

	MPI_Cart_create(MPI_COMM_WORLD, 2, dims, periods, 0, &grid);
	MPI_Cart_coords(grid, rank, 2, at);
	MPI_Cart_shift(grid, 0, 1, &up, &down);
	MPI_Cart_shift(grid, 1, 1, &left, &right);
	first_row = ex_first(size, dims[0], at[0]);
	first_col = ex_first(size, dims[1], at[1]);
	rows = ex_first(size, dims[0], at[0] + 1) - first_row;
	cols = ex_first(size, dims[1], at[1] + 1) - first_col;
	width = cols + 2;
	MPI_Type_vector((int)rows, 1, (int)width, MPI_DOUBLE, &column);
	MPI_Type_commit(&column);

	/* Row and column 0 and the last ones are the neighbours' edges or, at the plate's rim, fixed. */
	old = ex_alloc((size_t)((rows + 2) * width), sizeof(*old));
	new = ex_alloc((size_t)((rows + 2) * width), sizeof(*new));
	for (long r = 0; left == MPI_PROC_NULL && r < rows + 2; r++)
		old[r * width] = new[r * width] = 100.0;

	start = MPI_Wtime();
	if (seconds)
		iterations = 64;
	for (long it = 1; it <= iterations; it++) {
		MPI_Request req[8];
		MPI_Status status[8];
		double *swap;

		MPI_Irecv(old + 1, (int)cols, MPI_DOUBLE, up, 0, grid, &req[0]);
		MPI_Irecv(old + (rows + 1) * width + 1, (int)cols, MPI_DOUBLE, down, 1, grid, &req[1]);
		MPI_Irecv(old + width, 1, column, left, 2, grid, &req[2]);
		MPI_Irecv(old + width + cols + 1, 1, column, right, 3, grid, &req[3]);
		MPI_Isend(old + rows * width + 1, (int)cols, MPI_DOUBLE, down, 0, grid, &req[4]);
		MPI_Isend(old + width + 1, (int)cols, MPI_DOUBLE, up, 1, grid, &req[5]);
		MPI_Isend(old + width + cols, 1, column, right, 2, grid, &req[6]);
		MPI_Isend(old + width + 1, 1, column, left, 3, grid, &req[7]);
		most = relax(old, new, 2, rows, 2, cols);
		MPI_Waitall(8, req, status);
		most = fmax(most, relax(old, new, 1, 2, 1, cols + 1));
		most = fmax(most, relax(old, new, rows, rows + 1, 1, cols + 1));
		most = fmax(most, relax(old, new, 2, rows, 1, 2));
		most = fmax(most, relax(old, new, 2, rows, cols, cols + 1));
		swap = old, old = new, new = swap;

		if (seconds && it == 64) { /* the pace so far decides how far to go */
			iterations = (long)(64 * (double)seconds / (MPI_Wtime() - start)) + 64;
			MPI_Bcast(&iterations, 1, MPI_LONG, 0, grid);
			seconds = 0;
		}
		if (it % report == 0 || it == iterations) {
			MPI_Allreduce(&most, &residual, 1, MPI_DOUBLE, MPI_MAX, grid);
			if (rank == 0 && !quiet) {
				printf("jacobi: iteration %7ld of %ld, residual %.6e, %6.2f s\n", it, iterations, residual,
				       MPI_Wtime() - start);
				fflush(stdout);
			}
		}
	}

	for (long r = 1; r <= rows; r++)
		for (long c = 1; c <= cols; c++)
			sum += ex_sum_double((uint64_t)((first_row + r - 1) * size + first_col + c - 1), old[r * width + c]);
	sum = ex_sum_all(sum);
	if (rank == 0)
		printf("jacobi: size=%ld iterations=%ld ranks=%d residual=%.17g seconds=%.3f checksum=%016llx\n", size,
		       iterations, ranks, residual, MPI_Wtime() - start, (unsigned long long)sum);
	free(old);
	free(new);
	MPI_Type_free(&column);
	MPI_Comm_free(&grid);
	MPI_Finalize();
	return 0;
}
