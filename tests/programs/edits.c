/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/edits: what the patches in mpi-shim/mpich change, as a program sees it. An unpatched MPICH fails each of
 *
 *	mpirun -n 4 edits shared-window
 *	mpirun -n 1 edits processor-name
 *	mpirun -n 1 edits subarray
 *	mpirun -n 4 -genv GODWIT_CROWDED 0|1 edits crowded
 *	mpirun -n 2|4 -genv GODWIT_CROWDED 1 -genv MPIR_CVAR_... edits chosen
 *
 * or what they must not change, which an unpatched MPICH does as well:
 *
 *	mpirun -n 4 edits first-window
 *	mpirun -n 4 -genv GODWIT_CROWDED 1 edits broadcast
 *	mpirun -n 4 -genv GODWIT_CROWDED 1 edits alltoall
 *	mpirun -n 4 -genv MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE table.json edits table
 *	mpirun -n 2 edits two|truncated|threads
 *	mpirun -n 4 edits hardware
 */
#include <malloc.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rank, ranks;

static _Noreturn void wrong(const char *what)
{
	fprintf(stderr, "edits: rank %d: %s\n", rank, what);
	MPI_Abort(MPI_COMM_WORLD, 4);
	exit(4);
}

static int error_class(int code)
{
	int class;

	MPI_Error_class(code, &class);
	return class;
}

/* Over everybody, over pairs, and over whom MPI itself says that memory can be shared with: refused but for one alone. */
static void shared_window(void)
{
	MPI_Comm pair, shared;
	MPI_Win win;
	MPI_Aint size;
	int *mine, *asked, unit, n;

	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	if (error_class(MPI_Win_allocate_shared(64, 4, MPI_INFO_NULL, MPI_COMM_WORLD, &mine, &win)) != MPI_ERR_RMA_SHARED)
		wrong("a shared window over MPI_COMM_WORLD is not refused with MPI_ERR_RMA_SHARED");
	MPI_Comm_split(MPI_COMM_WORLD, rank / 2, rank, &pair); /* inherits the error handler */
	if (error_class(MPI_Win_allocate_shared(rank % 2 ? 64 : 0, 1, MPI_INFO_NULL, pair, &mine, &win)) != MPI_ERR_RMA_SHARED)
		wrong("a shared window over a pair is not refused with MPI_ERR_RMA_SHARED");
	MPI_Barrier(pair); /* the communicator is as good as before */
	MPI_Comm_free(&pair);

	MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &shared);
	MPI_Comm_size(shared, &n);
	if (n != 1)
		wrong("MPI_COMM_TYPE_SHARED has others in it");
	for (int i = 0; i < 2; i++) {
		MPI_Comm comm = i ? shared : MPI_COMM_SELF;

		if (MPI_Win_allocate_shared(64, (int)sizeof(int), MPI_INFO_NULL, comm, &mine, &win) != MPI_SUCCESS)
			wrong("a shared window of one rank alone is refused");
		MPI_Win_fence(0, win);
		MPI_Put(&rank, 1, MPI_INT, 0, 3, 1, MPI_INT, win);
		MPI_Win_fence(0, win);
		if (MPI_Win_shared_query(win, 0, &size, &unit, &asked) != MPI_SUCCESS || asked != mine || size != 64 ||
		    unit != sizeof(int) || asked[3] != rank)
			wrong("MPI_Win_shared_query does not tell of the window of one rank alone");
		if (MPI_Win_shared_query(win, MPI_PROC_NULL, &size, &unit, &asked) != MPI_SUCCESS || asked != mine)
			wrong("MPI_Win_shared_query of MPI_PROC_NULL does not tell of the first rank with memory");
		MPI_Win_free(&win);
	}
	MPI_Comm_free(&shared);
	printf("shared-window: rank %d of %d ok\n", rank, ranks);
}

static void ask_name(const char *expected)
{
	char name[MPI_MAX_PROCESSOR_NAME], host[MPI_MAX_PROCESSOR_NAME];
	int len;

	gethostname(host, sizeof(host));
	MPI_Get_processor_name(name, &len);
	if (len != (int)strlen(name) || strcmp(name, host) != 0 || (expected && strcmp(name, expected) != 0))
		wrong("MPI_Get_processor_name does not tell the host's name of this moment");
}

/* A host of another name, as a rank that moves would find: here the rank stays and the name changes under it. */
static void processor_name(void)
{
	ask_name(NULL);
	if (sethostname("elsewhere.example", 17) < 0)
		wrong("sethostname failed");
	ask_name("elsewhere.example");
	sethostname("e", 1);
	ask_name("e");
	printf("processor-name: ok\n");
}

/* A face whose elements lie one by one is noted as what it is, not as the list of its elements. */
#define SIDE 512

static size_t allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

static void subarray(void)
{
	const int whole[3] = { SIDE, SIDE, SIDE }, face[3] = { SIDE, SIDE, 1 }, from[3] = { 0, 0, SIDE - 1 };
	size_t before, cells = (size_t)SIDE * SIDE;
	unsigned char *cube = calloc(cells, SIDE), *packed = malloc(cells);
	MPI_Datatype first, type;
	int at = 0;

	if (!cube || !packed)
		wrong("out of memory");
	MPI_Type_create_subarray(3, whole, face, from, MPI_ORDER_C, MPI_BYTE, &first); /* MPICH makes room for a thousand */
	MPI_Type_commit(&first);
	before = allocated();
	MPI_Type_create_subarray(3, whole, face, from, MPI_ORDER_C, MPI_BYTE, &type);
	MPI_Type_commit(&type);
	if (allocated() - before > cells)
		wrong("a face of a cube takes more memory as a type than it has elements");
	for (size_t i = 0; i < cells; i++)
		cube[i * SIDE + SIDE - 1] = (unsigned char)(i % 251);
	MPI_Pack(cube, 1, type, packed, SIDE * SIDE, &at, MPI_COMM_WORLD);
	for (size_t i = 0; i < cells; i++)
		if (packed[i] != i % 251)
			wrong("a face of a cube is packed wrongly");
	MPI_Type_free(&first);
	MPI_Type_free(&type);
	free(cube);
	free(packed);
	printf("subarray: ok\n");
}

/* In which order four numbers are added up tells the way that they took: (a + b) + (c + d), or one after the other. */
static void sum_over(MPI_Comm comm, double expected)
{
	static const double numbers[] = { 1e100, 1, -1e100, 1 };
	double mine = numbers[rank], sum;

	MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, comm);
	if (sum != expected)
		wrong("MPI_Allreduce has not gone the way that GODWIT_CROWDED says");
}

static void crowded(void)
{
	const char *said = getenv("GODWIT_CROWDED");
	double expected = said && *said == '1' ? 1 : 0;
	MPI_Comm copy;

	if (ranks != 4)
		wrong("crowded is for four ranks");
	sum_over(MPI_COMM_WORLD, expected);
	MPI_Comm_dup(MPI_COMM_WORLD, &copy);
	sum_over(copy, expected);
	MPI_Comm_free(&copy);
	printf("crowded: %s ok\n", said ? said : "");
}

/* A broadcast that is scattered and gathered again keeps its root until the other takes part; one that is sent does
 * not. Rank 1 waits for a word that comes after it, much longer than a message takes. */
static void broadcast_keeps_root(void)
{
	double numbers[2] = { 1, 2 }, until = MPI_Wtime() + 0.3;
	MPI_Request request;
	int is_there = 0;
	char word = 0;

	if (rank == 1)
		MPI_Irecv(&word, 1, MPI_BYTE, 0, 0, MPI_COMM_WORLD, &request);
	while (rank == 1 && !is_there && MPI_Wtime() < until)
		MPI_Test(&request, &is_there, MPI_STATUS_IGNORE);
	if (is_there)
		wrong("MPI_Bcast has not gone the way that the table says");
	MPI_Bcast(numbers, 2, MPI_DOUBLE, 0, MPI_COMM_WORLD);
	if (rank == 1)
		MPI_Wait(&request, MPI_STATUS_IGNORE);
	else
		MPI_Send(&word, 1, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
}

/* What the user says goes before what is done for two ranks, and for more than there are cores. */
static void chosen(void)
{
	if (ranks == 2)
		broadcast_keeps_root();
	else
		sum_over(MPI_COMM_WORLD, 0);
	printf("chosen: ok\n");
}

/* Collectives of two ranks, among other messages between the two: in MPI_COMM_WORLD and turned round, of sizes below and
 * above where the way changes, in place and not, described differently; through an intercommunicator. */
static void two_over(MPI_Comm comm, int n)
{
	int me, *out = calloc((size_t)n, 2 * sizeof(int)), *in = calloc((size_t)n, 2 * sizeof(int));
	MPI_Request request;
	int token = 0;

	if (!out || !in)
		wrong("out of memory");
	MPI_Comm_rank(comm, &me);
	MPI_Irecv(&token, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &request);
	for (int turn = 0; turn < 20; turn++) {
		MPI_Barrier(comm);
		for (int i = 0; i < n; i++) {
			out[i] = out[n + i] = 1000 * (me + 1) + turn + i;
			in[i] = in[n + i] = -1;
		}
		MPI_Allreduce(out, in, n, MPI_INT, MPI_SUM, comm);
		MPI_Allreduce(MPI_IN_PLACE, out, n, MPI_INT, MPI_MAX, comm);
		for (int i = 0; i < n; i++)
			if (in[i] != 3000 + 2 * (turn + i) || out[i] != 2000 + turn + i)
				wrong("an allreduce of two ranks is wrong");
		if (turn == 10) { /* the one that was posted first meets it, and no message of a collective does */
			int word = 77 + me;

			MPI_Send(&word, 1, MPI_INT, !me, 5, comm);
		}
		MPI_Alltoall(out, n, MPI_INT, in, n * (int)sizeof(int), MPI_BYTE, comm);
		for (int i = 0; i < 2 * n; i++)
			if (in[i] != (me ? i / n + 1 : 2) * 1000 + turn + i % n)
				wrong("an alltoall of two ranks is wrong");
		MPI_Alltoall(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, in, n, MPI_INT, comm); /* back to where it came from */
		if (memcmp(in, out, (size_t)n * 2 * sizeof(int)))
			wrong("an alltoall of two ranks in place is wrong");
		for (int i = 0; i < n; i++)
			out[i] = me == turn % 2 ? turn + i : -1;
		MPI_Bcast(out, n, MPI_INT, turn % 2, comm);
		for (int i = 0; i < n; i++)
			if (out[i] != turn + i)
				wrong("a broadcast of two ranks is wrong");
	}
	MPI_Wait(&request, MPI_STATUS_IGNORE);
	if (token != 77 + !me)
		wrong("a message among collectives of two ranks is wrong");
	free(out);
	free(in);
}

static void two(void)
{
	static const int counts[] = { 1, 2, 52, 53, 1024, 1025, 4096, 4097, 20000 };
	MPI_Comm turned, self, bridge;
	int mine = rank + 1, theirs = 0;

	if (ranks != 2)
		wrong("two is for two ranks");
	MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &turned);
	for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
		two_over(MPI_COMM_WORLD, counts[c]);
		two_over(turned, counts[c]);
	}
	MPI_Comm_dup(MPI_COMM_SELF, &self);
	MPI_Intercomm_create(self, 0, MPI_COMM_WORLD, !rank, 9, &bridge);
	for (int turn = 0; turn < 20; turn++) {
		MPI_Barrier(bridge);
		MPI_Allreduce(&mine, &theirs, 1, MPI_INT, MPI_SUM, bridge);
		if (theirs != !rank + 1)
			wrong("an allreduce between two groups of one is wrong");
		MPI_Bcast(rank == turn % 2 ? &mine : &theirs, 1, MPI_INT, rank == turn % 2 ? MPI_ROOT : 0, bridge);
		if (rank != turn % 2 && theirs != !rank + 1)
			wrong("a broadcast between two groups of one is wrong");
	}
	MPI_Comm_free(&bridge);
	MPI_Comm_free(&self);
	MPI_Comm_free(&turned);
	printf("two: ok\n");
}

/* Threads in collectives of two ranks, each in a communicator of its own, until rank 0 has a byte of input: the ranks
 * are moved meanwhile. */
static _Atomic int is_over;

static void *one_of_threads(void *comm_)
{
	MPI_Comm comm = *(MPI_Comm *)comm_;
	int mine[2], all[2], ends = 0;

	for (int turn = 0; !ends; turn++) {
		MPI_Barrier(comm);
		mine[0] = turn + rank;
		MPI_Allreduce(mine, all, 1, MPI_INT, MPI_SUM, comm);
		if (all[0] != 2 * turn + 1)
			wrong("an allreduce of two ranks is wrong among threads");
		mine[0] = 10 * turn + rank;
		mine[1] = 10 * turn + rank + 2;
		MPI_Alltoall(mine, 1, MPI_INT, all, 1, MPI_INT, comm);
		if (all[0] != 10 * turn + 2 * rank || all[1] != 10 * turn + 2 * rank + 1)
			wrong("an alltoall of two ranks is wrong among threads");
		ends = is_over; /* of rank 0's word */
		MPI_Bcast(&ends, 1, MPI_INT, 0, comm);
	}
	return NULL;
}

static void threads(void)
{
	enum { THREADS = 3 };
	pthread_t thread[THREADS];
	MPI_Comm comms[THREADS];
	int level;
	char byte;

	MPI_Query_thread(&level);
	if (ranks != 2 || level != MPI_THREAD_MULTIPLE)
		wrong("threads is for two ranks, and an MPI that has threads");
	for (int i = 0; i < THREADS; i++)
		MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, one_of_threads, &comms[i]))
			wrong("no more threads");
	if (rank == 0) {
		printf("threads: ready\n");
		fflush(stdout);
		if (read(STDIN_FILENO, &byte, 1) != 1)
			wrong("no byte of input");
		is_over = 1;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < THREADS; i++)
		MPI_Comm_free(&comms[i]);
	printf("threads: ok\n");
}

/* One asks for less than the other sends: told, nothing written beyond, and the communicator is as good as before. */
static void truncated(void)
{
	int numbers[16], n = rank == 0 ? 8 : 4, code;
	MPI_Comm comm;

	if (ranks != 2)
		wrong("truncated is for two ranks");
	MPI_Comm_dup(MPI_COMM_WORLD, &comm);
	MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
	for (int turn = 0; turn < 20; turn++) {
		for (int i = 0; i < 16; i++)
			numbers[i] = rank == 0 ? i : -1;
		code = MPI_Bcast(numbers, n, MPI_INT, 0, comm);
		if (rank == 1 && (code == MPI_SUCCESS || numbers[3] != 3 || numbers[4] != -1))
			wrong("a broadcast of more than is asked for is not told, or written beyond the buffer");
		code = MPI_Bcast(numbers + 8, rank == 0 ? 2 : 4, MPI_INT, 0, comm);
		if (rank == 1 && (code == MPI_SUCCESS || numbers[9] != 9 || numbers[10] != -1))
			wrong("a broadcast of less than is asked for is not told");
		for (int i = 0; i < 16; i++)
			numbers[i] = -1;
		code = MPI_Allreduce(MPI_IN_PLACE, numbers, n, MPI_INT, MPI_SUM, comm);
		if (rank == 1 && (error_class(code) != MPI_ERR_TRUNCATE || numbers[4] != -1))
			wrong("an allreduce of more than is asked for is not told, or written beyond the buffer");
		if (MPI_Barrier(comm) != MPI_SUCCESS)
			wrong("a barrier after a truncated message is not as good as before");
	}
	MPI_Comm_free(&comm);
	printf("truncated: ok\n");
}

/* Atomics on a window before which there was no other, and no collective; then on another one. */
static void window(void)
{
	struct { double value; int at; } highest = { rank, rank };
	int64_t *base, one = 1, was;
	double half = 0.5;
	MPI_Win win;

	MPI_Win_allocate(6 * 8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &base, &win);
	memset(base, 0, 6 * 8);
	MPI_Win_fence(0, win);
	for (int i = 0; i < 100; i++) {
		MPI_Fetch_and_op(&one, &was, MPI_INT64_T, 0, 0, MPI_SUM, win);
		MPI_Accumulate(&half, 1, MPI_DOUBLE, 0, 1, 1, MPI_DOUBLE, MPI_SUM, win);
	}
	MPI_Accumulate(&highest, 1, MPI_DOUBLE_INT, 0, 2, 1, MPI_DOUBLE_INT, MPI_MAXLOC, win);
	MPI_Win_fence(0, win);
	if (rank == 0) {
		double sum;

		memcpy(&sum, base + 1, sizeof(sum));
		memcpy(&highest, base + 2, sizeof(highest));
		if (base[0] != 100 * ranks || sum != 50.0 * ranks || highest.value != ranks - 1 || highest.at != ranks - 1)
			wrong("what was accumulated in a window is not the sum");
	}
	MPI_Win_free(&win);
}

static void first_window(void)
{
	window();
	window();
	printf("first-window: ok\n");
}

/* The same numbers, described by some as a row, by others as every second element: below, at and above where the way changes. */
static void broadcast(void)
{
	static const int counts[] = { 1, 1024, 1025, 16384, 131073 };

	for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
		int n = counts[c], *numbers = calloc((size_t)n, 2 * sizeof(int));
		MPI_Datatype spread;

		if (!numbers)
			wrong("out of memory");
		MPI_Type_vector(n, 1, 2, MPI_INT, &spread);
		MPI_Type_commit(&spread);
		for (int root = 0; root < ranks; root++) {
			int step = (rank + root) % 2 + 1;

			memset(numbers, 0, (size_t)n * 2 * sizeof(int));
			for (int i = 0; rank == root && i < n; i++)
				numbers[i * step] = i + root + 1;
			MPI_Bcast(numbers, step == 2 ? 1 : n, step == 2 ? spread : MPI_INT, root, MPI_COMM_WORLD);
			for (int i = 0; i < n; i++)
				if (numbers[i * step] != i + root + 1)
					wrong("a broadcast between ranks that describe it differently brings something else");
		}
		MPI_Type_free(&spread);
		free(numbers);
	}
	printf("broadcast: ok\n");
}

/* Likewise, with each sending and receiving as it likes: by way of rank 0, and past it. The communicator's rank 0 is another than the
 * world's, too. */
static void alltoall_over(MPI_Comm comm, int n, MPI_Datatype spread, int *out, int *in)
{
	int me, way = rank % 2 + 1, back = rank / 2 % 2 + 1;

	MPI_Comm_rank(comm, &me);
	memset(in, 0, (size_t)ranks * (size_t)n * 2 * sizeof(int));
	for (int i = 0; i < ranks * n; i++)
		out[i * way] = me * 1000000 + i;
	MPI_Alltoall(out, way == 2 ? 1 : n, way == 2 ? spread : MPI_INT, in, back == 2 ? 1 : n, back == 2 ? spread : MPI_INT, comm);
	for (int i = 0; i < ranks * n; i++)
		if (in[i * back] != i / n * 1000000 + me * n + i % n || (back == 2 && in[2 * i + 1]))
			wrong("an alltoall between ranks that describe it differently brings something else");
}

static void alltoall(void)
{
	static const int counts[] = { 1, 127, 128, 129, 5000 };
	MPI_Comm turned;

	MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &turned);
	for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
		int n = counts[c], *out = calloc((size_t)ranks * (size_t)n, 2 * sizeof(int)), *in = calloc((size_t)ranks * (size_t)n, 2 * sizeof(int));
		MPI_Datatype vector, spread;

		if (!out || !in)
			wrong("out of memory");
		MPI_Type_vector(n, 1, 2, MPI_INT, &vector);
		MPI_Type_create_resized(vector, 0, (MPI_Aint)(2 * (size_t)n * sizeof(int)), &spread);
		MPI_Type_commit(&spread);
		alltoall_over(MPI_COMM_WORLD, n, spread, out, in);
		alltoall_over(turned, n, spread, out, in);
		MPI_Type_free(&spread);
		MPI_Type_free(&vector);
		free(out);
		free(in);
	}
	MPI_Comm_free(&turned);
	printf("alltoall: ok\n");
}

/* With nothing else: a table has to tell of every collective that a program and MPI_Init use, or MPICH fails. */
static void table(void)
{
	int sum;

	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	if (sum != ranks * (ranks - 1) / 2)
		wrong("a table of the user's own makes an allreduce wrong");
	printf("table: ok\n");
}

/* The topology is looked for when it is asked for, where the rank is then: all are moved before, until rank 0 has a byte of input. */
static void hardware(void)
{
	MPI_Comm cores;
	MPI_Info info;
	char byte;

	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		printf("hardware: ready\n");
		fflush(stdout);
		if (read(STDIN_FILENO, &byte, 1) != 1)
			wrong("no byte of input");
	}
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Info_create(&info);
	MPI_Info_set(info, "mpi_hw_resource_type", "core");
	for (int i = 0; i < 2; i++) {
		if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_HW_GUIDED, 0, info, &cores) != MPI_SUCCESS)
			wrong("MPI_Comm_split_type by hardware failed");
		if (cores != MPI_COMM_NULL) {
			MPI_Barrier(cores);
			MPI_Comm_free(&cores);
		}
	}
	MPI_Info_free(&info);
	printf("hardware: ok\n");
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } verbs[] = {
		{ "shared-window", shared_window }, { "processor-name", processor_name }, { "subarray", subarray }, { "crowded", crowded },
		{ "first-window", first_window }, { "broadcast", broadcast }, { "alltoall", alltoall },
		{ "table", table }, { "hardware", hardware }, { "chosen", chosen }, { "two", two }, { "truncated", truncated },
		{ "threads", threads },
	};

	const char *verb = argc > 1 ? argv[1] : "";
	int is_name = strcmp(verb, "processor-name") == 0, level;

	/* before MPI_Init, while there is one thread only: a namespace of names of its own */
	if (is_name && unshare(CLONE_NEWUTS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWUTS) < 0) {
		perror("edits: no namespace for another host name");
		return 77;
	}
	MPI_Init_thread(&argc, &argv, strcmp(verb, "threads") ? MPI_THREAD_SINGLE : MPI_THREAD_MULTIPLE, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (strcmp(verb, verbs[i].name) == 0) {
			verbs[i].run();
			MPI_Finalize();
			return 0;
		}
	wrong("usage: edits VERB, see the head of edits.c");
}
