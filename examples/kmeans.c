/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * kmeans: points in space gathered into clusters around their means, after the kernel "k-means" of CAP Bench.
 *
 * Every rank has a share of the points. In each round it puts its points to their nearest centre and sums them; rank 0
 * adds the sums, computes the new centres and broadcasts them; it ends when no point changes its cluster.
 *
 * Adding doubles in another order gives other last bits. So points are summed in blocks of a fixed size, a block has one
 * owner, and rank 0 adds the blocks' sums in the order of the blocks: any number of ranks gives the same centres.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: kmeans [options]\n"
	"Sorts generated points into clusters by the k-means method.\n\n"
	"  -s, --size N       points (default 65536)\n"
	"  -k, --clusters N   clusters (default 32)\n"
	"  -d, --dim N        dimensions (default 8)\n"
	"  -i, --rounds N     at most N rounds (default 40)\n"
	"  -q, --quiet        only the last line\n"
	"  -h, --help         this text\n";

enum { BLOCKS = 256 }; /* blocks of points, shared out among the ranks; more ranks than this would idle */

static double coordinate(uint64_t point, uint64_t axis)
{
	return (double)(ex_mix(ex_mix(point + 1) + axis) >> 11) * 0x1p-53;
}

static int nearest(const double *p, const double *centres, long k, long dim)
{
	double best = INFINITY;
	int at = 0;

	for (long c = 0; c < k; c++) {
		double dist = 0;

		for (long d = 0; d < dim; d++) {
			double diff = p[d] - centres[c * dim + d];

			dist += diff * diff;
		}
		if (dist < best) {
			best = dist;
			at = (int)c;
		}
	}
	return at;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "clusters", 1, NULL, 'k' },
		{ "dim", 1, NULL, 'd' }, { "rounds", 1, NULL, 'i' }, { "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long size = 65536, k = 32, dim = 8, rounds = 40, quiet = 0, round = 0, changed = 1, mine = 0;
	long first_block, blocks, first, count, entry;
	double *points, *centres, *sums, *all = NULL, start;
	int *where, *counts, *places, opt;
	uint64_t sum = 0;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:k:d:i:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("kmeans", "--size", optarg, 1, 100000000); break;
		case 'k': k = ex_number("kmeans", "--clusters", optarg, 1, 4096); break;
		case 'd': dim = ex_number("kmeans", "--dim", optarg, 1, 64); break;
		case 'i': rounds = ex_number("kmeans", "--rounds", optarg, 1, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("kmeans: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("kmeans: unexpected argument '%s'; see --help", argv[optind]);
	if (k > size)
		ex_refuse("kmeans: %ld clusters need at least as many points, not %ld", k, size);

	first_block = ex_first(BLOCKS, ranks, rank);
	blocks = ex_first(BLOCKS, ranks, rank + 1) - first_block;
	first = ex_first(size, BLOCKS, first_block);
	count = ex_first(size, BLOCKS, first_block + blocks) - first;
	entry = k * (dim + 1); /* of one block: for every cluster the sum of its points and their number */
	points = ex_alloc((size_t)(count * dim), sizeof(*points));
	where = ex_alloc((size_t)count, sizeof(*where));
	centres = ex_alloc((size_t)(k * dim), sizeof(*centres));
	sums = ex_alloc((size_t)(blocks * entry), sizeof(*sums));
	counts = ex_alloc((size_t)ranks, sizeof(*counts));
	places = ex_alloc((size_t)ranks, sizeof(*places));
	if (rank == 0)
		all = ex_alloc((size_t)(BLOCKS * entry), sizeof(*all));
	for (int r = 0; r < ranks; r++) {
		places[r] = (int)(ex_first(BLOCKS, ranks, r) * entry);
		counts[r] = (int)(ex_first(BLOCKS, ranks, r + 1) * entry) - places[r];
	}
	for (long i = 0; i < count; i++) {
		where[i] = -1;
		for (long d = 0; d < dim; d++)
			points[i * dim + d] = coordinate((uint64_t)(first + i), (uint64_t)d);
	}
	for (long i = 0; i < k * dim; i++)
		centres[i] = coordinate((uint64_t)(i / dim * (size / k)), (uint64_t)(i % dim));

	start = MPI_Wtime();
	while (round < rounds && changed) {
		memset(sums, 0, (size_t)(blocks * entry) * sizeof(*sums));
		mine = 0;
		for (long b = 0; b < blocks; b++) {
			double *to = sums + b * entry;

			for (long i = ex_first(size, BLOCKS, first_block + b); i < ex_first(size, BLOCKS, first_block + b + 1); i++) {
				const double *p = points + (i - first) * dim;
				int c = nearest(p, centres, k, dim);

				mine += where[i - first] != c;
				where[i - first] = c;
				for (long d = 0; d < dim; d++)
					to[c * (dim + 1) + d] += p[d];
				to[c * (dim + 1) + dim] += 1;
			}
		}
		MPI_Gatherv(sums, (int)(blocks * entry), MPI_DOUBLE, all, counts, places, MPI_DOUBLE, 0, MPI_COMM_WORLD);
		MPI_Allreduce(&mine, &changed, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
		for (long c = 0; rank == 0 && c < k; c++) {
			double members = 0;

			for (long b = 0; b < BLOCKS; b++)
				members += all[b * entry + c * (dim + 1) + dim];
			for (long d = 0; members > 0 && d < dim; d++) {
				double total = 0;

				for (long b = 0; b < BLOCKS; b++)
					total += all[b * entry + c * (dim + 1) + d];
				centres[c * dim + d] = total / members;
			}
		}
		MPI_Bcast(centres, (int)(k * dim), MPI_DOUBLE, 0, MPI_COMM_WORLD);
		round++;
		if (rank == 0 && !quiet) {
			printf("kmeans: round %ld, %ld points changed, %.2f s\n", round, changed, MPI_Wtime() - start);
			fflush(stdout);
		}
	}

	for (long i = 0; i < count; i++)
		sum += ex_sum_bits((uint64_t)(first + i), (uint64_t)where[i]);
	for (long i = 0; rank == 0 && i < k * dim; i++)
		sum += ex_sum_double((uint64_t)(size + i), centres[i]);
	sum = ex_sum_all(sum);
	if (rank == 0)
		printf("kmeans: size=%ld clusters=%ld dim=%ld rounds=%ld ranks=%d seconds=%.3f checksum=%016llx\n", size, k, dim,
		       round, ranks, MPI_Wtime() - start, (unsigned long long)sum);
	free(points), free(where), free(centres), free(sums), free(counts), free(places), free(all);
	MPI_Finalize();
	return 0;
}
