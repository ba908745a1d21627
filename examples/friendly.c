/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * friendly: how many pairs of numbers in a range are friendly, after the kernel "friendly numbers" of CAP Bench.
 *
 * Two numbers are friendly when the sum of all divisors divided by the number itself is the same fraction for both, as
 * for 6 and 28 (both 2). Rank 0 hands out pieces of the range to whoever asks (any source), so a slower rank simply
 * takes fewer; it puts the fractions that come back in their places, sorts them and counts. Integers only.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: friendly [options]\n"
	"Counts the friendly pairs in a range of numbers.\n\n"
	"  -f, --first N    first number (default 1)\n"
	"  -s, --size N     how many numbers (default 500000)\n"
	"  -p, --piece N    numbers per piece of work (default 1000)\n"
	"  -q, --quiet      only the last line\n"
	"  -h, --help       this text\n";

enum { TAG_ASK = 1, TAG_PIECE, TAG_RESULT };

struct fraction { uint64_t over, under, number; };

/* The sum of the divisors of @n over @n, in lowest terms. By trial, as the original does: it is meant to be work. */
static struct fraction abundancy(uint64_t n)
{
	uint64_t sum = 0, a, b;

	for (uint64_t d = 1; d * d <= n; d++)
		if (n % d == 0)
			sum += d * d == n ? d : d + n / d;
	for (a = sum, b = n; b;) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return (struct fraction){ .over = sum / a, .under = n / a, .number = n };
}

static int by_fraction(const void *x, const void *y)
{
	const struct fraction *a = x, *b = y;

	if (a->over != b->over)
		return a->over < b->over ? -1 : 1;
	if (a->under != b->under)
		return a->under < b->under ? -1 : 1;
	return a->number < b->number ? -1 : a->number > b->number;
}

static void worker(long first, long size, long piece)
{
	struct fraction *out = ex_alloc((size_t)piece, sizeof(*out));
	long at, count;

	for (;;) {
		MPI_Sendrecv(NULL, 0, MPI_LONG, 0, TAG_ASK, &at, 1, MPI_LONG, 0, TAG_PIECE, MPI_COMM_WORLD,
		             MPI_STATUS_IGNORE);
		if (at < 0)
			break;
		count = at + piece < size ? piece : size - at;
		for (long i = 0; i < count; i++)
			out[i] = abundancy((uint64_t)(first + at + i));
		MPI_Send(&at, 1, MPI_LONG, 0, TAG_RESULT, MPI_COMM_WORLD);
		MPI_Send(out, (int)(count * 3), MPI_UINT64_T, 0, TAG_RESULT, MPI_COMM_WORLD);
	}
	free(out);
}

static void master(struct fraction *all, long size, long piece, long quiet)
{
	long next = 0, done = 0, shown = 0, at;
	int at_work = ranks - 1, count;
	MPI_Status st;

	while (at_work) {
		MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &st);
		if (st.MPI_TAG == TAG_ASK) {
			MPI_Recv(NULL, 0, MPI_LONG, st.MPI_SOURCE, TAG_ASK, MPI_COMM_WORLD, &st);
			at = next < size ? next : -1;
			next += piece;
			at_work -= at < 0;
			MPI_Send(&at, 1, MPI_LONG, st.MPI_SOURCE, TAG_PIECE, MPI_COMM_WORLD);
			continue;
		}
		MPI_Recv(&at, 1, MPI_LONG, st.MPI_SOURCE, TAG_RESULT, MPI_COMM_WORLD, &st);
		MPI_Recv(all + at, (int)((at + piece < size ? piece : size - at) * 3), MPI_UINT64_T, st.MPI_SOURCE, TAG_RESULT,
		         MPI_COMM_WORLD, &st);
		MPI_Get_count(&st, MPI_UINT64_T, &count);
		done += count / 3;
		if (!quiet && done * 10 / size > shown) {
			shown = done * 10 / size;
			printf("friendly: %ld of %ld numbers\n", done, size);
			fflush(stdout);
		}
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "first", 1, NULL, 'f' }, { "size", 1, NULL, 's' },
		{ "piece", 1, NULL, 'p' }, { "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long first = 1, size = 500000, piece = 1000, quiet = 0, pairs = 0;
	double start;
	int opt;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "f:s:p:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 'f': first = ex_number("friendly", "--first", optarg, 1, 1L << 50); break;
		case 's': size = ex_number("friendly", "--size", optarg, 1, 50000000); break;
		case 'p': piece = ex_number("friendly", "--piece", optarg, 1, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("friendly: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("friendly: unexpected argument '%s'; see --help", argv[optind]);

	start = MPI_Wtime();
	if (rank) {
		worker(first, size, piece);
	} else {
		struct fraction *all = ex_alloc((size_t)size, sizeof(*all));
		uint64_t sum = 0;

		for (long i = 0; ranks == 1 && i < size; i++)
			all[i] = abundancy((uint64_t)(first + i));
		master(all, size, piece, quiet);
		qsort(all, (size_t)size, sizeof(*all), by_fraction);
		for (long i = 0, same = 0; i < size; i++) {
			same = i && all[i].over == all[i - 1].over && all[i].under == all[i - 1].under ? same + 1 : 0;
			pairs += same;
			sum += ex_sum_bits((uint64_t)i * 3, all[i].over) + ex_sum_bits((uint64_t)i * 3 + 1, all[i].under) +
			       ex_sum_bits((uint64_t)i * 3 + 2, all[i].number);
		}
		printf("friendly: first=%ld size=%ld ranks=%d pairs=%ld seconds=%.3f checksum=%016llx\n", first, size, ranks,
		       pairs, MPI_Wtime() - start, (unsigned long long)sum);
		free(all);
	}
	MPI_Finalize();
	return 0;
}
