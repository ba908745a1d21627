/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tsp: the shortest tour of some cities by branch and bound, after the kernel "travelling salesman" of CAP Bench.
 *
 * Rank 0 hands out beginnings of tours to whoever asks; with each goes the best tour that is known, and with each question
 * comes a better one if the asker has found one. A beginning that cannot become as short as the best is given up. How much
 * is given up depends on who finds what when; the answer does not: of all shortest tours it is the first in the order of
 * their cities, and no tour as short as the best is ever given up. Up to 18 cities rank 0 checks its length by dynamic
 * programming. Integers only.
 *
 * Source of the check: Held and Karp, A dynamic programming approach to sequencing problems, 1962.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: tsp [options]\n"
	"Finds the shortest tour of generated cities.\n\n"
	"  -s, --size N     cities, 5 to 24 (default 16)\n"
	"  -e, --seed N     which cities (default 1)\n"
	"  -q, --quiet      only the last line\n"
	"  -h, --help       this text\n";

enum { TAG_ASK = 1, TAG_WORK, CITIES = 24, DEPTH = 4, CHECKED = 18, SIDE = 1000 };

struct tour { int32_t length, city[CITIES]; };
struct work { int32_t cities, city[DEPTH]; struct tour best; }; /* cities: of the beginning; 0: there is no more */

static int size;
static int32_t far[CITIES][CITIES], nearest[CITIES]; /* nearest: the least way out of each */
static struct tour best;
static unsigned long looked;

static void cities_make(long seed)
{
	long x[CITIES], y[CITIES];

	for (int i = 0; i < size; i++) {
		uint64_t dice = ex_mix((uint64_t)seed * 1009 + (uint64_t)i + 1);

		x[i] = (long)(dice % SIDE);
		y[i] = (long)((dice >> 32) % SIDE);
	}
	for (int i = 0; i < size; i++) {
		nearest[i] = INT32_MAX;
		for (int k = 0; k < size; k++) { /* the root, rounded down, without floating point */
			int32_t square = (int32_t)((x[i] - x[k]) * (x[i] - x[k]) + (y[i] - y[k]) * (y[i] - y[k])), root = 0;

			for (int32_t bit = 1 << 11; bit; bit >>= 1)
				if ((root + bit) * (root + bit) <= square)
					root += bit;
			far[i][k] = root;
			if (k != i && root < nearest[i])
				nearest[i] = root;
		}
	}
}

static int is_better(const struct tour *a, const struct tour *b)
{
	if (a->length != b->length)
		return a->length < b->length;
	for (int i = 0; i < size; i++)
		if (a->city[i] != b->city[i])
			return a->city[i] < b->city[i];
	return 0;
}

/* To the nearest that was not seen yet: something to begin with. */
static void guess(void)
{
	unsigned seen = 1;

	best = (struct tour){ 0 };
	for (int n = 1; n < size; n++) {
		int from = best.city[n - 1], to = -1;

		for (int c = 1; c < size; c++)
			if (!(seen >> c & 1) && (to < 0 || far[from][c] < far[from][to]))
				to = c;
		best.city[n] = to;
		best.length += far[from][to];
		seen |= 1u << to;
	}
	best.length += far[best.city[size - 1]][0];
}

/* @t: the first @n cities of a tour, and how long it is so far; @left: the least that the ways out of the others can add */
static void search(struct tour *t, int n, unsigned seen, int32_t left)
{
	int from = t->city[n - 1];

	looked++;
	if (n == size) {
		t->length += far[from][0];
		if (is_better(t, &best))
			best = *t;
		t->length -= far[from][0];
		return;
	}
	for (int c = 1; c < size; c++) {
		if (seen >> c & 1 || t->length + far[from][c] + left > best.length)
			continue;
		t->city[n] = c;
		t->length += far[from][c];
		search(t, n + 1, seen | 1u << c, left - nearest[c]);
		t->length -= far[from][c];
	}
	t->city[n] = 0;
}

static void search_from(const int32_t *city, int n)
{
	struct tour t = { 0 };
	unsigned seen = 1;
	int32_t left = 0;

	for (int i = 1; i < n; i++) {
		t.city[i] = city[i];
		t.length += far[city[i - 1]][city[i]];
		seen |= 1u << city[i];
	}
	left = nearest[city[n - 1]];
	for (int c = 1; c < size; c++)
		left += seen >> c & 1 ? 0 : nearest[c];
	if (t.length + left <= best.length)
		search(&t, n, seen, left - nearest[city[n - 1]]);
}

/* The next beginning of DEPTH different cities, the first of them 0. Return: is there one? */
static int next_beginning(int32_t *city)
{
	for (;;) {
		int i = DEPTH - 1, is_good = 1;

		while (i > 0 && ++city[i] == size)
			city[i--] = 1;
		if (i == 0)
			return 0;
		for (int a = 1; a < DEPTH; a++)
			for (int b = a + 1; b < DEPTH; b++)
				is_good &= city[a] != city[b];
		if (is_good)
			return 1;
	}
}

static void worker(void)
{
	struct work w;

	for (;;) {
		MPI_Sendrecv(&best, sizeof(best) / sizeof(int32_t), MPI_INT32_T, 0, TAG_ASK, &w, sizeof(w) / sizeof(int32_t), MPI_INT32_T, 0,
		             TAG_WORK, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		if (w.cities == 0)
			return;
		best = w.best; /* it is at least as good as what we have sent */
		search_from(w.city, w.cities);
	}
}

static void master(long quiet)
{
	struct work w = { .cities = DEPTH, .city = { 0, 1, 1, 0 } };
	int at_work = ranks - 1, shown = 0;

	while (ranks == 1 && next_beginning(w.city))
		search_from(w.city, DEPTH);
	while (at_work) {
		struct tour found;
		MPI_Status st;

		MPI_Recv(&found, sizeof(found) / sizeof(int32_t), MPI_INT32_T, MPI_ANY_SOURCE, TAG_ASK, MPI_COMM_WORLD, &st);
		if (is_better(&found, &best))
			best = found;
		if (w.cities && !next_beginning(w.city))
			w.cities = 0;
		at_work -= w.cities == 0;
		w.best = best;
		MPI_Send(&w, sizeof(w) / sizeof(int32_t), MPI_INT32_T, st.MPI_SOURCE, TAG_WORK, MPI_COMM_WORLD);
		if (!quiet && w.cities && w.city[1] != shown) {
			shown = w.city[1];
			printf("tsp: tours that begin with city %d of %d, the best has %d\n", shown, size - 1, (int)best.length);
			fflush(stdout);
		}
	}
}

/* How long the shortest tour is: of each set of cities, and the last of them, the shortest way there. */
static int32_t held_karp(void)
{
	int n = size - 1;
	size_t sets = (size_t)1 << n;
	int32_t *way = ex_alloc(sets * (size_t)n, sizeof(*way)), shortest = INT32_MAX;

	for (size_t set = 1; set < sets; set++)
		for (int last = 0; last < n; last++) {
			size_t before = set & ~((size_t)1 << last);
			int32_t *at = &way[set * (size_t)n + (size_t)last];

			*at = before ? INT32_MAX / 2 : far[0][last + 1];
			if (!(set >> last & 1))
				*at = INT32_MAX / 2;
			for (int k = 0; set >> last & 1 && k < n; k++)
				if (before >> k & 1 && way[before * (size_t)n + (size_t)k] + far[k + 1][last + 1] < *at)
					*at = way[before * (size_t)n + (size_t)k] + far[k + 1][last + 1];
		}
	for (int last = 0; last < n; last++)
		if (way[(sets - 1) * (size_t)n + (size_t)last] + far[last + 1][0] < shortest)
			shortest = way[(sets - 1) * (size_t)n + (size_t)last] + far[last + 1][0];
	free(way);
	return shortest;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "size", 1, NULL, 's' }, { "seed", 1, NULL, 'e' }, { "quiet", 0, NULL, 'q' },
		{ "help", 0, NULL, 'h' }, { 0 } };
	unsigned long looked_all = 0;
	long seed = 1, quiet = 0;
	double start;
	int opt, bad = 0;

	size = 16;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "s:e:qh", longs, NULL)) != -1) {
		switch (opt) {
		case 's': size = (int)ex_number("tsp", "--size", optarg, DEPTH + 1, CITIES); break;
		case 'e': seed = ex_number("tsp", "--seed", optarg, 0, 1000000); break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("tsp: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("tsp: unexpected argument '%s'; see --help", argv[optind]);

	cities_make(seed);
	guess();
	start = MPI_Wtime();
	if (rank)
		worker();
	else
		master(quiet);
	MPI_Reduce(&looked, &looked_all, 1, MPI_UNSIGNED_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0) {
		uint64_t sum = ex_sum_bits(0, (uint64_t)best.length);
		int32_t length = far[best.city[size - 1]][0];
		unsigned seen = 1;

		for (int i = 1; i < size; i++) {
			sum += ex_sum_bits((uint64_t)i, (uint64_t)best.city[i]);
			length += far[best.city[i - 1]][best.city[i]];
			seen |= 1u << best.city[i];
		}
		bad = seen != (1u << size) - 1 || length != best.length || (size <= CHECKED && length != held_karp());
		if (bad)
			fprintf(stderr, "tsp: wrong: a tour of length %d is not the shortest, or none\n", (int)best.length);
		else
			printf("tsp: size=%d seed=%ld ranks=%d length=%d looked=%lu seconds=%.3f checksum=%016llx\n", size, seed, ranks,
			       (int)best.length, looked_all, MPI_Wtime() - start, (unsigned long long)sum);
	}
	MPI_Bcast(&bad, 1, MPI_INT, 0, MPI_COMM_WORLD);
	MPI_Finalize();
	return bad;
}
