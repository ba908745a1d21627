/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * onehost: what communication costs among ranks of one host, of whatever MPI it was compiled with.
 *
 *	mpirun -n 2 onehost small|large [-pin]      two ranks: latency and rate; bandwidth
 *	mpirun -n N onehost coll [-pin]             collectives on 8 bytes
 *	mpirun -n N onehost halo [-pin]             a ring that exchanges edges of 512 bytes
 *	mpirun -n 1 onehost types                   packing
 *
 * Prints one line of name=value pairs; smaller is better for _us, larger for the others. Each value is the median of several
 * batches, and a batch has as many turns as fill a few milliseconds: an MPI that is slow is measured in less turns, not in
 * more time. With -pin, rank r binds itself to core r, modulo the cores that it may use; so every MPI is pinned in one way.
 */
#include "base.h"

#define BATCHES    9
#define BATCH_S    0.004
#define ALL_S      0.25   /* batches end then, after three at least */
#define WINDOW     64
#define BIG        (4 << 20)
#define EDGE       64     /* doubles: 512 bytes */
#define CELLS      1024   /* of a rank, in the halo exchange */
#define SWEEPS     8
#define CUBE       128    /* doubles a side */

static int rank, size;
static char *buf, *buf2;

/* Seconds that a turn takes. Rank 0 measures and decides; the others follow. */
static int least = 1; /* turns of a batch */

static double measure(void (*turn)(int bytes, int i), int bytes)
{
	double samples[BATCHES], spent, start, all = 0;
	int turns = least, n = 0, more = 1;

	while (more) { /* this warms up, too */
		MPI_Barrier(MPI_COMM_WORLD);
		start = MPI_Wtime();
		for (int i = 0; i < turns; i++)
			turn(bytes, i);
		spent = MPI_Wtime() - start;
		if (spent < BATCH_S / 2)
			turns = spent < BATCH_S / 64 ? turns * 16 : (int)(turns * BATCH_S / spent) + 1;
		else
			more = 0;
		MPI_Bcast(&turns, 1, MPI_INT, 0, MPI_COMM_WORLD);
		MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	for (more = 1; more;) {
		MPI_Barrier(MPI_COMM_WORLD);
		start = MPI_Wtime();
		for (int i = 0; i < turns; i++)
			turn(bytes, i);
		spent = MPI_Wtime() - start;
		all += spent;
		samples[n++] = spent / turns;
		more = n < 3 || (n < BATCHES && all < ALL_S);
		MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	return median(samples, n);
}

static void say(const char *name, const char *unit, double value)
{
	if (rank == 0)
		printf("%s_%s=%.5g ", name, unit, value);
}

/* ---- two ranks -------------------------------------------------------------------------------------------------- */

static void ping_pong(int bytes, int i)
{
	(void)i;
	if (rank == 0) {
		MPI_Send(buf, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
		MPI_Recv(buf, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	} else if (rank == 1) {
		MPI_Recv(buf, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Send(buf, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD);
	}
}

static int window_of(int bytes)
{
	return bytes && BIG / bytes < WINDOW ? BIG / bytes : WINDOW;
}

/* A window of messages from rank 0 to rank 1, and one answer. */
static void stream(int bytes, int turn)
{
	int window = window_of(bytes);
	MPI_Request requests[WINDOW];
	char answer = 0;

	(void)turn;
	for (int i = 0; i < window; i++) {
		char *at = buf + (size_t)bytes * (size_t)i;

		if (rank == 0)
			MPI_Isend(at, bytes, MPI_BYTE, 1, 2, MPI_COMM_WORLD, &requests[i]);
		else
			MPI_Irecv(at, bytes, MPI_BYTE, 0, 2, MPI_COMM_WORLD, &requests[i]);
	}
	MPI_Waitall(window, requests, MPI_STATUSES_IGNORE);
	if (rank == 0)
		MPI_Recv(&answer, 1, MPI_BYTE, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	else
		MPI_Send(&answer, 1, MPI_BYTE, 0, 3, MPI_COMM_WORLD);
}

static void both_ways(int bytes, int turn)
{
	int window = window_of(bytes) / 2;
	MPI_Request requests[WINDOW];

	(void)turn;
	if (!window)
		window = 1;
	for (int i = 0; i < window; i++)
		MPI_Irecv(buf + (size_t)bytes * (size_t)i, bytes, MPI_BYTE, !rank, 2, MPI_COMM_WORLD, &requests[i]);
	for (int i = 0; i < window; i++)
		MPI_Isend(buf2 + (size_t)bytes * (size_t)i, bytes, MPI_BYTE, !rank, 2, MPI_COMM_WORLD, &requests[window + i]);
	MPI_Waitall(2 * window, requests, MPI_STATUSES_IGNORE);
}

static void small(void)
{
	static const struct { int bytes; const char *name; } sizes[] = {
		{ 0, "latency_0B" }, { 8, "latency_8B" }, { 64, "latency_64B" }, { 256, "latency_256B" }, { 1024, "latency_1KiB" },
		{ 4096, "latency_4KiB" }, { 16384, "latency_16KiB" },
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		say(sizes[i].name, "us", measure(ping_pong, sizes[i].bytes) / 2 * 1e6);
	say("rate_8B", "Mmsg_s", WINDOW / measure(stream, 8) / 1e6);
}

static void large(void)
{
	static const struct { int bytes; const char *name; } sizes[] = {
		{ 65536, "64KiB" }, { 262144, "256KiB" }, { 1 << 20, "1MiB" }, { BIG, "4MiB" },
	};
	char name[64];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		int bytes = sizes[i].bytes, window = window_of(bytes);

		snprintf(name, sizeof(name), "latency_%s", sizes[i].name);
		say(name, "us", measure(ping_pong, bytes) / 2 * 1e6);
		snprintf(name, sizeof(name), "stream_%s", sizes[i].name);
		say(name, "GB_s", (double)bytes * window / measure(stream, bytes) / 1e9);
		snprintf(name, sizeof(name), "both_%s", sizes[i].name);
		say(name, "GB_s", 2.0 * bytes * (window / 2 ? window / 2 : 1) / measure(both_ways, bytes) / 1e9);
	}
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

static void barrier(int bytes, int i)
{
	(void)bytes;
	(void)i;
	MPI_Barrier(MPI_COMM_WORLD);
}

/* Each rank is root in turn, so that no root runs ahead of the others. */
static void bcast(int bytes, int i)
{
	MPI_Bcast(buf, bytes, MPI_BYTE, i % size, MPI_COMM_WORLD);
}

static void allreduce(int bytes, int i)
{
	(void)i;
	MPI_Allreduce(buf, buf2, bytes / 8, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

static void alltoall(int bytes, int i)
{
	(void)i;
	MPI_Alltoall(buf, bytes, MPI_BYTE, buf2, bytes, MPI_BYTE, MPI_COMM_WORLD);
}

static void coll(void)
{
	least = 20; /* else what counts is who happened to be first */
	say("barrier", "us", measure(barrier, 0) * 1e6);
	say("bcast_8B", "us", measure(bcast, 8) * 1e6);
	say("allreduce_8B", "us", measure(allreduce, 8) * 1e6);
	say("alltoall_8B", "us", measure(alltoall, 8) * 1e6);
	say("bcast_64KiB", "us", measure(bcast, 65536) * 1e6);
	say("allreduce_64KiB", "us", measure(allreduce, 65536) * 1e6);
}

/* ---- halo exchange ---------------------------------------------------------------------------------------------- */

static double *cells, *next;

static void compute(int bytes, int i)
{
	(void)bytes;
	(void)i;
	for (int sweep = 0; sweep < SWEEPS; sweep++) {
		double *swap = cells;

		for (int k = 1; k < CELLS - 1; k++)
			next[k] = 0.25 * cells[k - 1] + 0.5 * cells[k] + 0.25 * cells[k + 1];
		next[0] = cells[0];
		next[CELLS - 1] = cells[CELLS - 1];
		cells = next;
		next = swap;
	}
}

static void halo(int bytes, int i)
{
	int left = (rank + size - 1) % size, right = (rank + 1) % size;
	double *in = (double *)(void *)buf, *out = (double *)(void *)buf2, sum = 0, mine = cells[CELLS / 2];
	MPI_Request requests[4];

	memcpy(out, cells + 1, EDGE * sizeof(double));
	memcpy(out + EDGE, cells + CELLS - 1 - EDGE, EDGE * sizeof(double));
	MPI_Irecv(in, EDGE, MPI_DOUBLE, left, 1, MPI_COMM_WORLD, &requests[0]);
	MPI_Irecv(in + EDGE, EDGE, MPI_DOUBLE, right, 2, MPI_COMM_WORLD, &requests[1]);
	MPI_Isend(out + EDGE, EDGE, MPI_DOUBLE, right, 1, MPI_COMM_WORLD, &requests[2]);
	MPI_Isend(out, EDGE, MPI_DOUBLE, left, 2, MPI_COMM_WORLD, &requests[3]);
	MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
	cells[0] = in[EDGE - 1];
	cells[CELLS - 1] = in[EDGE];
	compute(bytes, i);
	if (i % 10 == 9)
		MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

/* Time per step and rank: what a step takes, divided by the ranks of it. So it stays where it is when cores are shared. */
static void ring(void)
{
	double step;

	least = 100;
	cells = calloc(CELLS, sizeof(double));
	next = calloc(CELLS, sizeof(double));
	if (!cells || !next)
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (int k = 0; k < CELLS; k++)
		cells[k] = rank + k;
	step = measure(halo, 0);
	say("halo_step_rank", "us", step / size * 1e6);
	free(cells);
	free(next);
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void *cube;
static MPI_Datatype packed;
static int packed_bytes;

static void pack(int bytes, int i)
{
	int at = 0;

	(void)bytes;
	(void)i;
	MPI_Pack(cube, 1, packed, buf, BIG, &at, MPI_COMM_WORLD);
}

static void types(void)
{
	static const struct { int sizes[3], starts[3]; const char *name; } faces[] = {
		{ { 1, CUBE, CUBE }, { 5, 0, 0 }, "face_contiguous" },
		{ { CUBE, 1, CUBE }, { 0, 5, 0 }, "face_rows" },
		{ { CUBE, CUBE, 1 }, { 0, 0, 5 }, "face_strided" },
		{ { CUBE, CUBE, 4 }, { 0, 0, 5 }, "face_strided_4_deep" },
	};
	int whole[3] = { CUBE, CUBE, CUBE };

	cube = calloc(CUBE * CUBE, CUBE * sizeof(double));
	if (!cube)
		MPI_Abort(MPI_COMM_WORLD, 1);
	memset(cube, 1, CUBE * CUBE * CUBE * sizeof(double));
	for (size_t i = 0; i < sizeof(faces) / sizeof(*faces); i++) {
		MPI_Type_create_subarray(3, whole, faces[i].sizes, faces[i].starts, MPI_ORDER_C, MPI_DOUBLE, &packed);
		MPI_Type_commit(&packed);
		MPI_Type_size(packed, &packed_bytes);
		say(faces[i].name, "GB_s", packed_bytes / measure(pack, 0) / 1e9);
		MPI_Type_free(&packed);
	}
	MPI_Type_vector(8192, 8, 16, MPI_BYTE, &packed);
	MPI_Type_commit(&packed);
	say("vector_of_8B", "GB_s", 8192 * 8 / measure(pack, 0) / 1e9);
	MPI_Type_free(&packed);
	free(cube);
}

/* ----------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	static const struct { const char *name; int least, most; void (*run)(void); } all[] = {
		{ "small", 2, 2, small }, { "large", 2, 2, large }, { "coll", 2, 1 << 20, coll }, { "halo", 2, 1 << 20, ring },
		{ "types", 1, 1, types },
	};
	int rc = 2;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (argc > 2 && !strcmp(argv[2], "-pin"))
		pin(rank);
	buf = malloc(BIG);
	buf2 = malloc(BIG);
	if (!buf || !buf2)
		MPI_Abort(MPI_COMM_WORLD, 1);
	memset(buf, 0, BIG);
	memset(buf2, 0, BIG);
	for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(argv[1], all[i].name) && size >= all[i].least && size <= all[i].most) {
			all[i].run();
			rc = 0;
		}
	if (rank == 0 && rc)
		fprintf(stderr, "usage: onehost small|large|coll|halo|types [-pin], with two ranks, for types with one\n");
	else if (rank == 0)
		printf("\n");
	free(buf);
	free(buf2);
	MPI_Finalize();
	return rc;
}
