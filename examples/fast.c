/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fast: corners in pictures, after the kernel "features from accelerated segment test" of CAP Bench.
 *
 * A pixel is a corner when at least nine pixels in a row, of the sixteen on a circle of radius three around it, are all
 * brighter than it by more than a threshold, or all darker. Rank 0 draws picture after picture, sends every rank a band of
 * rows with three rows above and below, and gathers the corners, of which each rank finds another number. Integers only.
 *
 * The pictures are squares on a dark ground with some noise, so rank 0 knows where corners must be, and checks it.
 *
 * Source: Rosten and Drummond, Machine learning for high-speed corner detection, ECCV 2006.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: fast [options]\n"
	"Finds the corners in generated pictures.\n\n"
	"  -s, --size N        pixels along each side of a picture (default 768)\n"
	"  -p, --pictures N    how many pictures (default 20)\n"
	"  -t, --threshold N   how much brighter or darker, of 255 (default 40)\n"
	"  -q, --quiet         only the last line\n"
	"  -h, --help          this text\n";

enum { TAG_BAND = 1, RADIUS = 3, CIRCLE = 16, ARC = 9, CELL = 32, GROUND = 20, NOISE = 8 };

static const int circle[CIRCLE][2] = { { 0, -3 }, { 1, -3 }, { 2, -2 }, { 3, -1 }, { 3, 0 }, { 3, 1 }, { 2, 2 }, { 1, 3 },
	{ 0, 3 }, { -1, 3 }, { -2, 2 }, { -3, 1 }, { -3, 0 }, { -3, -1 }, { -2, -2 }, { -1, -3 } };

static long size, threshold;

struct square { long x, y, side; int grey; };

/* One square in each cell of the picture, with room for the circle around it. */
static struct square square_of(long picture, long cell)
{
	long across = size / CELL, x = cell % across * CELL, y = cell / across * CELL;
	uint64_t dice = ex_mix((uint64_t)picture * 1000003 + (uint64_t)cell + 1);
	struct square s = { .side = 8 + (long)(dice % 12), .grey = 130 + (int)(dice >> 8 & 63) };

	s.x = x + 4 + (long)((dice >> 16) % (uint64_t)(CELL - 8 - s.side + 1));
	s.y = y + 4 + (long)((dice >> 24) % (uint64_t)(CELL - 8 - s.side + 1));
	return s;
}

static void draw(uint8_t *pixels, long picture)
{
	for (long i = 0; i < size * size; i++)
		pixels[i] = (uint8_t)(GROUND + ex_mix((uint64_t)(picture * size * size + i) + 1) % NOISE);
	for (long c = 0; c < (size / CELL) * (size / CELL); c++) {
		struct square s = square_of(picture, c);

		for (long y = s.y; y < s.y + s.side; y++)
			for (long x = s.x; x < s.x + s.side; x++)
				pixels[y * size + x] = (uint8_t)(pixels[y * size + x] + s.grey - GROUND);
	}
}

/* Is there a run of ARC set bits in the ring? */
static int has_arc(unsigned ring)
{
	unsigned twice = ring | ring << CIRCLE, run = twice;

	for (int i = 1; i < ARC; i++)
		run &= twice >> i;
	return run != 0;
}

static int is_corner(const uint8_t *p)
{
	unsigned brighter = 0, darker = 0;

	for (int i = 0; i < CIRCLE; i++) {
		int other = p[circle[i][1] * size + circle[i][0]];

		brighter |= (unsigned)(other > *p + threshold) << i;
		darker |= (unsigned)(other < *p - threshold) << i;
	}
	return has_arc(brighter) || has_arc(darker);
}

/* Places of corners in the rows [first, last) of the picture; @band begins RADIUS rows before. Return: how many */
static int detect(const uint8_t *band, long first, long last, int *out)
{
	int n = 0;

	for (long y = first; y < last; y++)
		for (long x = RADIUS; x < size - RADIUS; x++)
			if (is_corner(band + (y - first + RADIUS) * size + x))
				out[n++] = (int)(y * size + x);
	return n;
}

/* Rows of which rank @r says where corners are: those that have RADIUS rows above and below, shared out */
static long first_row(int r)
{
	return RADIUS + ex_first(size - 2 * RADIUS, ranks, r);
}

/* Every corner of every square must be among those that were found. Return: how many are not */
static long missed(const int *found, long n, long picture)
{
	uint8_t *is_found = ex_alloc((size_t)(size * size), 1);
	long missing = 0;

	for (long i = 0; i < n; i++)
		is_found[found[i]] = 1;
	for (long c = 0; c < (size / CELL) * (size / CELL); c++) {
		struct square s = square_of(picture, c);

		for (int k = 0; k < 4; k++)
			missing += !is_found[(s.y + (k / 2) * (s.side - 1)) * size + s.x + (k % 2) * (s.side - 1)];
	}
	free(is_found);
	return missing;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "pictures", 1, NULL, 'p' },
		{ "threshold", 1, NULL, 't' }, { "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long pictures = 20, quiet = 0, corners = 0, missing = 0, rows;
	uint8_t *pixels = NULL, *band;
	int *mine, *all = NULL, *counts, *places, opt;
	MPI_Request *sends;
	uint64_t sum = 0;
	double start;

	size = 768, threshold = 40;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:p:t:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("fast", "--size", optarg, CELL, 20000); break;
		case 'p': pictures = ex_number("fast", "--pictures", optarg, 1, 1000000); break;
		case 't': threshold = ex_number("fast", "--threshold", optarg, NOISE, 90); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("fast: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("fast: unexpected argument '%s'; see --help", argv[optind]);

	rows = first_row(rank + 1) - first_row(rank);
	band = ex_alloc((size_t)((rows + 2 * RADIUS) * size), 1);
	mine = ex_alloc((size_t)(rows * size), sizeof(*mine));
	counts = ex_alloc((size_t)ranks, sizeof(*counts));
	places = ex_alloc((size_t)ranks, sizeof(*places));
	sends = ex_alloc((size_t)ranks, sizeof(MPI_Request));
	if (rank == 0) {
		pixels = ex_alloc((size_t)(size * size), 1);
		all = ex_alloc((size_t)(size * size), sizeof(*all));
	}
	start = MPI_Wtime();
	for (long p = 0; p < pictures; p++) {
		long total = 0;
		int n;

		if (rank == 0) {
			draw(pixels, p);
			for (int r = 1; r < ranks; r++)
				MPI_Isend(pixels + (first_row(r) - RADIUS) * size, (int)((first_row(r + 1) - first_row(r) + 2 * RADIUS) * size),
				          MPI_BYTE, r, TAG_BAND, MPI_COMM_WORLD, &sends[r - 1]);
			n = detect(pixels, first_row(0), first_row(1), mine);
			MPI_Waitall(ranks - 1, sends, MPI_STATUSES_IGNORE);
		} else {
			MPI_Recv(band, (int)((rows + 2 * RADIUS) * size), MPI_BYTE, 0, TAG_BAND, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			n = detect(band, first_row(rank), first_row(rank + 1), mine);
		}
		MPI_Gather(&n, 1, MPI_INT, counts, 1, MPI_INT, 0, MPI_COMM_WORLD);
		for (int r = 0; rank == 0 && r < ranks; r++) {
			places[r] = (int)total;
			total += counts[r];
		}
		MPI_Gatherv(mine, n, MPI_INT, all, counts, places, MPI_INT, 0, MPI_COMM_WORLD);
		for (long i = 0; rank == 0 && i < total; i++)
			sum += ex_sum_bits((uint64_t)(corners + i), (uint64_t)all[i]);
		corners += total;
		if (rank == 0)
			missing += missed(all, total, p);
		if (rank == 0 && !quiet) {
			printf("fast: picture %ld of %ld, %ld corners, %.2f s\n", p + 1, pictures, total, MPI_Wtime() - start);
			fflush(stdout);
		}
	}
	if (rank == 0 && missing)
		fprintf(stderr, "fast: wrong: %ld corners of squares were not found\n", missing);
	else if (rank == 0)
		printf("fast: size=%ld pictures=%ld threshold=%ld ranks=%d corners=%ld seconds=%.3f checksum=%016llx\n", size, pictures,
		       threshold, ranks, corners, MPI_Wtime() - start, (unsigned long long)sum);
	free(pixels), free(band), free(mine), free(all), free(counts), free(places), free(sends);
	MPI_Finalize();
	return missing != 0;
}
