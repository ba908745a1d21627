/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * onehost: what communication costs among ranks of one host, of whatever MPI it was compiled with.
 *
 *	mpirun -n 2 onehost small|large [-pin]      two ranks: latency and rate; bandwidth
 *	mpirun -n N onehost coll [-pin]             collectives on 8 bytes
 *	mpirun -n N onehost halo [-pin]             a ring that exchanges edges of 512 bytes
 *	mpirun -n 1 onehost types                   packing
 *	mpirun -n N onehost turns SOCKET NAME [-pin]    whatever point it is told to measure, whenever it is told (turns.py)
 *
 * Prints one line of name=value pairs; smaller is better for _us, larger for the others. Each value is the median of several
 * batches, and a batch has as many turns as fill a few milliseconds: an MPI that is slow is measured in less turns, not in
 * more time. With -pin, rank r binds itself to core r, modulo the cores that it may use; so every MPI is pinned in one way.
 */
#include "base.h"
#include "halo.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BATCHES    9
#define BATCH_S    0.004
#define ALL_S      0.25   /* batches end then, after three at least */
#define WINDOW     64
#define BIG        (4 << 20)
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

static void say(const char *name, double value)
{
	if (rank == 0)
		printf("%s=%.5g ", name, value);
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

static int half_window_of(int bytes)
{
	int half = window_of(bytes) / 2;

	return half ? half : 1;
}

static void both_ways(int bytes, int turn)
{
	int window = half_window_of(bytes);
	MPI_Request requests[WINDOW];

	(void)turn;
	for (int i = 0; i < window; i++)
		MPI_Irecv(buf + (size_t)bytes * (size_t)i, bytes, MPI_BYTE, !rank, 2, MPI_COMM_WORLD, &requests[i]);
	for (int i = 0; i < window; i++)
		MPI_Isend(buf2 + (size_t)bytes * (size_t)i, bytes, MPI_BYTE, !rank, 2, MPI_COMM_WORLD, &requests[window + i]);
	MPI_Waitall(2 * window, requests, MPI_STATUSES_IGNORE);
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

/* ---- halo exchange ---------------------------------------------------------------------------------------------- */

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
	compute();
	if (i % 10 == 9)
		MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

static void make_ring(void)
{
	if (!halo_begin(rank))
		MPI_Abort(MPI_COMM_WORLD, 1);
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
		{ { 1, CUBE, CUBE }, { 5, 0, 0 }, "face_contiguous_GB_s" },
		{ { CUBE, 1, CUBE }, { 0, 5, 0 }, "face_rows_GB_s" },
		{ { CUBE, CUBE, 1 }, { 0, 0, 5 }, "face_strided_GB_s" },
		{ { CUBE, CUBE, 4 }, { 0, 0, 5 }, "face_strided_4_deep_GB_s" },
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
		say(faces[i].name, packed_bytes / measure(pack, 0) / 1e9);
		MPI_Type_free(&packed);
	}
	MPI_Type_vector(8192, 8, 16, MPI_BYTE, &packed);
	MPI_Type_commit(&packed);
	say("vector_of_8B_GB_s", 8192 * 8 / measure(pack, 0) / 1e9);
	MPI_Type_free(&packed);
	free(cube);
}

/* ---- points that are measured ----------------------------------------------------------------------------------- */

#define KIB 1024
#define MIB (1024 * KIB)

enum kind { LATENCY, RATE, STREAM, BOTH, OPERATION, STEP };

static const struct point {
	const char *group, *name; /* the name ends in its unit */
	enum kind kind;
	void (*turn)(int bytes, int i);
	int bytes;
} points[] = {
	{ "small", "latency_0B_us", LATENCY, ping_pong, 0 },
	{ "small", "latency_8B_us", LATENCY, ping_pong, 8 },
	{ "small", "latency_64B_us", LATENCY, ping_pong, 64 },
	{ "small", "latency_256B_us", LATENCY, ping_pong, 256 },
	{ "small", "latency_1KiB_us", LATENCY, ping_pong, KIB },
	{ "small", "latency_4KiB_us", LATENCY, ping_pong, 4 * KIB },
	{ "small", "latency_16KiB_us", LATENCY, ping_pong, 16 * KIB },
	{ "small", "rate_8B_Mmsg_s", RATE, stream, 8 },
	{ "large", "latency_64KiB_us", LATENCY, ping_pong, 64 * KIB },
	{ "large", "stream_64KiB_GB_s", STREAM, stream, 64 * KIB },
	{ "large", "both_64KiB_GB_s", BOTH, both_ways, 64 * KIB },
	{ "large", "latency_256KiB_us", LATENCY, ping_pong, 256 * KIB },
	{ "large", "stream_256KiB_GB_s", STREAM, stream, 256 * KIB },
	{ "large", "both_256KiB_GB_s", BOTH, both_ways, 256 * KIB },
	{ "large", "latency_1MiB_us", LATENCY, ping_pong, MIB },
	{ "large", "stream_1MiB_GB_s", STREAM, stream, MIB },
	{ "large", "both_1MiB_GB_s", BOTH, both_ways, MIB },
	{ "large", "latency_4MiB_us", LATENCY, ping_pong, BIG },
	{ "large", "stream_4MiB_GB_s", STREAM, stream, BIG },
	{ "large", "both_4MiB_GB_s", BOTH, both_ways, BIG },
	{ "coll", "barrier_us", OPERATION, barrier, 0 },
	{ "coll", "bcast_8B_us", OPERATION, bcast, 8 },
	{ "coll", "allreduce_8B_us", OPERATION, allreduce, 8 },
	{ "coll", "alltoall_8B_us", OPERATION, alltoall, 8 },
	{ "coll", "bcast_64KiB_us", OPERATION, bcast, 64 * KIB },
	{ "coll", "allreduce_64KiB_us", OPERATION, allreduce, 64 * KIB },
	{ "halo", "halo_step_rank_us", STEP, halo, 0 },
};

#define POINTS (sizeof(points) / sizeof(*points))

static int takes_any_size(const char *group)
{
	return !strcmp(group, "coll") || !strcmp(group, "halo");
}

/* What a turn of @s seconds means, in the unit of its name. */
static double figure(const struct point *p, double s)
{
	double bytes = p->bytes;
	int window = window_of(p->bytes);

	switch (p->kind) {
	case LATENCY: return s / 2 * 1e6; /* one way */
	case RATE: return window / s / 1e6;
	case STREAM: return bytes * window / s / 1e9;
	case BOTH: return 2 * bytes * half_window_of(p->bytes) / s / 1e9;
	case OPERATION: return s * 1e6;
	case STEP: return s / size * 1e6; /* of a step and rank: it stays where it is when cores are shared */
	}
	return 0;
}

/* Measure and say all points of the group. Returns whether there are any. */
static int measure_all(const char *group)
{
	int n = 0;

	/* more than one where else what counts is who happened to be first */
	least = !strcmp(group, "coll") ? 20 : !strcmp(group, "halo") ? 100 : 1;
	for (size_t i = 0; i < POINTS; i++)
		if (!strcmp(points[i].group, group)) {
			say(points[i].name, figure(&points[i], measure(points[i].turn, points[i].bytes)));
			n++;
		}
	return n > 0;
}

/* ---- in turns with other programs ------------------------------------------------------------------------------- */

/*
 * Say "NAME RANK POINT..." with all points that so many ranks can measure. Then wait, in read() and not in MPI, for a
 * message "POINT TURNS", do so many turns of that point, and answer "SECONDS FIGURE", until the other side (turns.py)
 * goes. Each rank has a connection of its own and is told by itself, so nobody waits for another one in MPI; what counts
 * is rank 0's answer. Who comes out of a sleep is slow at first: so an eighth as many turns go before those that count.
 */
static int take_turns(const char *path, const char *who)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[2048];
	int said, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ssize_t got;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror(path);
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	said = snprintf(text, sizeof(text), "%s %d", who, rank);
	for (size_t i = 0; i < POINTS && said < (int)sizeof(text); i++)
		if (size == 2 || takes_any_size(points[i].group))
			said += snprintf(text + said, sizeof(text) - (size_t)said, " %s", points[i].name);
	send(fd, text, strlen(text), MSG_NOSIGNAL);
	while ((got = read(fd, text, sizeof(text) - 1)) > 0) {
		const struct point *p = NULL;
		char name[64];
		int turns;
		double start, spent;

		text[got] = 0;
		if (sscanf(text, "%63s %d", name, &turns) == 2)
			for (size_t i = 0; i < POINTS; i++)
				if (!strcmp(points[i].name, name))
					p = &points[i];
		if (!p) {
			fprintf(stderr, "onehost: there is no '%s'\n", text);
			MPI_Abort(MPI_COMM_WORLD, 1);
		}
		MPI_Barrier(MPI_COMM_WORLD);
		for (int i = 0; i <= turns / 8; i++)
			p->turn(p->bytes, i);
		MPI_Barrier(MPI_COMM_WORLD);
		start = MPI_Wtime();
		for (int i = 0; i < turns; i++)
			p->turn(p->bytes, i);
		spent = MPI_Wtime() - start;
		snprintf(text, sizeof(text), "%.9g %.6g", spent, figure(p, spent / turns));
		send(fd, text, strlen(text), MSG_NOSIGNAL);
	}
	close(fd);
	return 0;
}

/* ----------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int rc = 2;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (!strcmp(argv[argc - 1], "-pin"))
		pin(rank);
	buf = malloc(BIG);
	buf2 = malloc(BIG);
	if (!buf || !buf2)
		MPI_Abort(MPI_COMM_WORLD, 1);
	memset(buf, 0, BIG);
	memset(buf2, 0, BIG);
	make_ring();
	if (!strcmp(what, "types") && size == 1) {
		types();
		rc = 0;
	} else if (!strcmp(what, "turns") && size > 1 && argc > 3) {
		rc = take_turns(argv[2], argv[3]);
	} else if (size == 2 || (size > 2 && takes_any_size(what))) {
		rc = measure_all(what) ? 0 : 2;
	}
	if (rank == 0 && rc)
		fprintf(stderr, "usage: onehost small|large|coll|halo|types|turns SOCKET NAME [-pin], with two ranks; "
			"coll, halo and turns with more as well, types with one\n");
	else if (rank == 0 && strcmp(what, "turns"))
		printf("\n");
	halo_end();
	free(buf);
	free(buf2);
	MPI_Finalize();
	return rc;
}
