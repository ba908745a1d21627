/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * is: whole numbers sorted, after the kernel "integer sort" of CAP Bench.
 *
 * Every rank has a share of the keys, most of them near the middle of their range. All count how many keys fall into each of
 * many buckets and add the counts up; each rank gets buckets that lie beside each other, with about as many keys as any
 * other; keys go where their bucket is (alltoallv) and are sorted there by counting. Then the next round, with other keys.
 * Checked in each round: every rank's keys are in order, none is larger than those of the next, and all are still there.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: is [options]\n"
	"Sorts generated numbers by buckets.\n\n"
	"  -s, --size N     how many numbers (default 2000000)\n"
	"  -m, --max N      they are below N, a power of two (default 1048576)\n"
	"  -r, --rounds N   how often, each time others (default 10)\n"
	"  -q, --quiet      only the last line\n"
	"  -h, --help       this text\n";

enum { BUCKETS = 1024 };

static long size, max, shift; /* shift: from a key to its bucket */

static uint32_t key_of(long round, long i)
{
	uint64_t dice = ex_mix(ex_mix((uint64_t)round + 1) + (uint64_t)i), sum = 0;

	for (int k = 0; k < 4; k++, dice = ex_mix(dice + 1))
		sum += dice % (uint64_t)max;
	return (uint32_t)(sum / 4);
}

/* Which rank has each bucket: by how many keys lie before it. */
static void share_out(const uint64_t *in_bucket, int *owner)
{
	uint64_t before = 0;

	for (int b = 0; b < BUCKETS; b++) {
		uint64_t r = before * (uint64_t)ranks / (uint64_t)size;

		owner[b] = r < (uint64_t)ranks ? (int)r : ranks - 1; /* empty ones after the last key */
		before += in_bucket[b];
	}
}

/* Keys sorted into @out: those between the smallest and the largest of them are counted. */
static void sort(const uint32_t *keys, long n, uint32_t *out)
{
	uint32_t low = n ? keys[0] : 0, high = low;
	long *count, at = 0;

	for (long i = 0; i < n; i++) {
		low = keys[i] < low ? keys[i] : low;
		high = keys[i] > high ? keys[i] : high;
	}
	count = ex_alloc((size_t)(high - low) + 1, sizeof(*count));
	for (long i = 0; i < n; i++)
		count[keys[i] - low]++;
	for (uint32_t k = low; n && k <= high; k++)
		for (long c = 0; c < count[k - low]; c++)
			out[at++] = k;
	free(count);
}

/* Is it in order, also where the next rank goes on? @n keys; all keys that are there are counted into @all */
static int is_sorted(const uint32_t *keys, long n, uint64_t *all)
{
	long last = n ? (long)keys[n - 1] : -1, before = -1;
	uint64_t mine = (uint64_t)n;
	int bad = 0, any;

	for (long i = 1; i < n; i++)
		bad |= keys[i] < keys[i - 1];
	/* the largest key of all ranks before: some of them may have none */
	MPI_Exscan(&last, &before, 1, MPI_LONG, MPI_MAX, MPI_COMM_WORLD);
	bad |= rank > 0 && n && before > (long)keys[0];
	MPI_Allreduce(&mine, all, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	MPI_Allreduce(&bad, &any, 1, MPI_INT, MPI_LOR, MPI_COMM_WORLD);
	return !any;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "max", 1, NULL, 'm' }, { "rounds", 1, NULL, 'r' },
		{ "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long rounds = 10, quiet = 0, first, count;
	uint64_t *in_bucket, *counts, sum = 0, sum_before = 0, sum_after = 0, there;
	int *owner, *to, *to_at, *from, *from_at, opt, bad = 0;
	uint32_t *keys, *sent;
	double start;

	size = 2000000, max = 1 << 20;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:m:r:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = ex_number("is", "--size", optarg, 1, 500000000); break;
		case 'm': max = ex_number("is", "--max", optarg, BUCKETS, 1L << 30); break;
		case 'r': rounds = ex_number("is", "--rounds", optarg, 1, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("is: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("is: unexpected argument '%s'; see --help", argv[optind]);
	if (max & (max - 1))
		ex_refuse("is: --max must be a power of two, not %ld", max);
	while (max >> shift > BUCKETS)
		shift++;

	first = ex_first(size, ranks, rank);
	count = ex_first(size, ranks, rank + 1) - first;
	keys = ex_alloc((size_t)count, sizeof(*keys));
	sent = ex_alloc((size_t)count, sizeof(*sent));
	in_bucket = ex_alloc(BUCKETS, sizeof(*in_bucket));
	counts = ex_alloc(BUCKETS, sizeof(*counts));
	owner = ex_alloc(BUCKETS, sizeof(*owner));
	to = ex_alloc((size_t)ranks, sizeof(*to));
	to_at = ex_alloc((size_t)ranks, sizeof(*to_at));
	from = ex_alloc((size_t)ranks, sizeof(*from));
	from_at = ex_alloc((size_t)ranks, sizeof(*from_at));
	start = MPI_Wtime();
	for (long round = 0; round < rounds && !bad; round++) {
		uint32_t *got, *sorted;
		uint64_t before = 0;
		long n = 0;

		memset(counts, 0, BUCKETS * sizeof(*counts));
		for (long i = 0; i < count; i++) {
			keys[i] = key_of(round, first + i);
			counts[keys[i] >> shift]++;
			sum_before += keys[i];
		}
		MPI_Allreduce(counts, in_bucket, BUCKETS, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
		share_out(in_bucket, owner);
		memset(to, 0, (size_t)ranks * sizeof(*to));
		for (int b = 0; b < BUCKETS; b++)
			to[owner[b]] += (int)counts[b];
		for (int r = 1; r < ranks; r++)
			to_at[r] = to_at[r - 1] + to[r - 1];
		for (long i = 0; i < count; i++) /* to_at moves to where the next rank's begin, */
			sent[to_at[owner[keys[i] >> shift]]++] = keys[i];
		for (int r = 0; r < ranks; r++) /* and back */
			to_at[r] -= to[r];
		MPI_Alltoall(to, 1, MPI_INT, from, 1, MPI_INT, MPI_COMM_WORLD);
		for (int r = 0; r < ranks; r++) {
			from_at[r] = (int)n;
			n += from[r];
		}
		got = ex_alloc((size_t)n, sizeof(*got));
		sorted = ex_alloc((size_t)n, sizeof(*sorted));
		MPI_Alltoallv(sent, to, to_at, MPI_UINT32_T, got, from, from_at, MPI_UINT32_T, MPI_COMM_WORLD);
		sort(got, n, sorted);
		bad = !is_sorted(sorted, n, &there) || there != (uint64_t)size;
		for (int b = 0; b < BUCKETS; b++)
			before += owner[b] < rank ? in_bucket[b] : 0;
		for (long i = 0; i < n; i++) {
			sum += ex_sum_bits((uint64_t)round * (uint64_t)size + before + (uint64_t)i, sorted[i]);
			sum_after += sorted[i];
		}
		free(got), free(sorted);
		if (rank == 0 && !quiet) {
			printf("is: round %ld of %ld, %.2f s\n", round + 1, rounds, MPI_Wtime() - start);
			fflush(stdout);
		}
	}
	sum = ex_sum_all(sum);
	bad |= ex_sum_all(sum_before) != ex_sum_all(sum_after);
	if (rank == 0 && bad)
		fprintf(stderr, "is: wrong: numbers are not in order, or not all there\n");
	else if (rank == 0)
		printf("is: size=%ld max=%ld rounds=%ld ranks=%d seconds=%.3f checksum=%016llx\n", size, max, rounds, ranks,
		       MPI_Wtime() - start, (unsigned long long)sum);
	free(keys), free(sent), free(in_bucket), free(counts), free(owner), free(to), free(to_at), free(from), free(from_at);
	MPI_Finalize();
	return bad;
}
