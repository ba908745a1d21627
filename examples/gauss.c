/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * gauss: a picture blurred by a Gaussian filter, after the kernel "Gaussian filter" of CAP Bench.
 *
 * Rank 0 has the picture. For every pass it hands out bands of rows, each with the rows above and below that the mask
 * reaches into (the halo), to the workers in turn, and takes the filtered bands back from whoever is done first. The
 * mask is computed once, by rank 0, and every pixel is one sum in one order, so no arrangement of ranks changes a bit.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: gauss [options]\n"
	"Blurs a generated picture with a Gaussian mask, band by band.\n\n"
	"  -s, --size N      pixels along each side of the picture (default 512)\n"
	"  -m, --mask N      pixels along each side of the mask, odd (default 7)\n"
	"  -b, --band N      rows per piece of work (default 16)\n"
	"  -p, --passes N    how often to filter (default 10)\n"
	"  -q, --quiet       only the last line\n"
	"  -h, --help        this text\n";

enum { TAG_WORK = 1, TAG_DONE, TAG_STOP };

static long size, mask_size, half, band, wide; /* wide: a row with half a mask of black on either side */
static double *mask;

static void mask_make(void)
{
	double sigma = (double)mask_size / 4.0, total = 0;

	for (long y = -half; y <= half; y++)
		for (long x = -half; x <= half; x++)
			total += mask[(y + half) * mask_size + x + half] = exp(-(double)(x * x + y * y) / (2 * sigma * sigma));
	for (long i = 0; i < mask_size * mask_size; i++)
		mask[i] /= total;
}

/* @in: @count rows and their halo, each @wide pixels; @out: @count rows of @size pixels. */
static void filter(const double *in, double *out, long count)
{
	for (long r = 0; r < count; r++) {
		for (long c = 0; c < size; c++) {
			double v = 0;

			for (long y = 0; y < mask_size; y++)
				for (long x = 0; x < mask_size; x++)
					v += mask[y * mask_size + x] * in[(r + y) * wide + c + x];
			out[r * size + c] = v;
		}
	}
}

static long band_rows(long first)
{
	return first + band < size ? band : size - first;
}

static void worker(void)
{
	double *in = ex_alloc((size_t)((band + 2 * half) * wide), sizeof(*in));
	double *out = ex_alloc((size_t)(band * size), sizeof(*out));
	MPI_Status st;
	int count;

	for (;;) {
		MPI_Recv(in, (int)((band + 2 * half) * wide), MPI_DOUBLE, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &st);
		if (st.MPI_TAG == TAG_STOP)
			break;
		MPI_Get_count(&st, MPI_DOUBLE, &count);
		filter(in, out, count / wide - 2 * half);
		MPI_Send(out, (int)((count / wide - 2 * half) * size), MPI_DOUBLE, 0, TAG_DONE, MPI_COMM_WORLD);
	}
	free(in);
	free(out);
}

/* Send the band that begins at row @first, halo and all, to @to. Row r of the picture is row r + half of @picture. */
static void hand_out(const double *picture, long first, int to)
{
	MPI_Send(picture + first * wide, (int)((band_rows(first) + 2 * half) * wide), MPI_DOUBLE, to, TAG_WORK,
	         MPI_COMM_WORLD);
}

static void pass(const double *picture, double *result)
{
	long *has = ex_alloc((size_t)ranks, sizeof(*has)); /* the first row of the band that each worker has */
	long next = 0;
	int at_work = 0;

	if (ranks == 1)
		filter(picture, result, size);
	for (int w = 1; w < ranks && next < size; w++, next += band, at_work++)
		hand_out(picture, has[w] = next, w);
	while (at_work) {
		MPI_Status st;

		MPI_Probe(MPI_ANY_SOURCE, TAG_DONE, MPI_COMM_WORLD, &st);
		MPI_Recv(result + has[st.MPI_SOURCE] * size, (int)(band_rows(has[st.MPI_SOURCE]) * size), MPI_DOUBLE,
		         st.MPI_SOURCE, TAG_DONE, MPI_COMM_WORLD, &st);
		at_work--;
		if (next < size) {
			hand_out(picture, has[st.MPI_SOURCE] = next, st.MPI_SOURCE);
			next += band;
			at_work++;
		}
	}
	free(has);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "mask", 1, NULL, 'm' },
		{ "band", 1, NULL, 'b' }, { "passes", 1, NULL, 'p' }, { "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long passes = 10, quiet = 0;
	double start;
	int opt;

	size = 512, mask_size = 7, band = 16;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:m:b:p:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("gauss", "--size", optarg, 1, 20000); break;
		case 'm': mask_size = ex_number("gauss", "--mask", optarg, 1, 99); break;
		case 'b': band = ex_number("gauss", "--band", optarg, 1, 10000); break;
		case 'p': passes = ex_number("gauss", "--passes", optarg, 1, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("gauss: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("gauss: unexpected argument '%s'; see --help", argv[optind]);
	if (mask_size % 2 == 0)
		ex_refuse("gauss: --mask must be odd, so that it has a centre, not %ld", mask_size);
	half = mask_size / 2;
	wide = size + 2 * half;
	if (band > size)
		band = size;
	mask = ex_alloc((size_t)(mask_size * mask_size), sizeof(*mask));
	if (rank == 0)
		mask_make();
	MPI_Bcast(mask, (int)(mask_size * mask_size), MPI_DOUBLE, 0, MPI_COMM_WORLD);

	start = MPI_Wtime();
	if (rank) {
		worker();
	} else {
		double *picture = ex_alloc((size_t)((size + 2 * half) * wide), sizeof(*picture));
		double *result = ex_alloc((size_t)(size * size), sizeof(*result));
		uint64_t sum = 0;

		for (long i = 0; i < size * size; i++)
			result[i] = (double)(ex_mix((uint64_t)i + 1) & 255);
		for (long p = 1; p <= passes; p++) {
			for (long r = 0; r < size; r++)
				memcpy(picture + (r + half) * wide + half, result + r * size, (size_t)size * sizeof(*result));
			pass(picture, result);
			if (!quiet) {
				printf("gauss: pass %ld of %ld, %.2f s\n", p, passes, MPI_Wtime() - start);
				fflush(stdout);
			}
		}
		for (int w = 1; w < ranks; w++)
			MPI_Send(NULL, 0, MPI_DOUBLE, w, TAG_STOP, MPI_COMM_WORLD);
		for (long i = 0; i < size * size; i++)
			sum += ex_sum_double((uint64_t)i, result[i]);
		printf("gauss: size=%ld mask=%ld passes=%ld ranks=%d seconds=%.3f checksum=%016llx\n", size, mask_size, passes,
		       ranks, MPI_Wtime() - start, (unsigned long long)sum);
		free(picture);
		free(result);
	}
	free(mask);
	MPI_Finalize();
	return 0;
}
