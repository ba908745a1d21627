/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/conduct: MPI programs in one: each first argument is one way to behave, or to end, for the tests.
 *
 *	mpirun -n 2 conduct hello
 */
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int rank, ranks;

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *get(size_t size)
{
	void *p = malloc(size ? size : 1);

	if (!p) {
		fprintf(stderr, "conduct: rank %d has no memory for %zu bytes\n", rank, size);
		MPI_Abort(MPI_COMM_WORLD, 3);
	}
	return p;
}

static _Noreturn void wrong(const char *what, long at)
{
	fprintf(stderr, "conduct: rank %d: %s at %ld\n", rank, what, at);
	MPI_Abort(MPI_COMM_WORLD, 4);
	exit(4);
}

static void start(void)
{
	MPI_Init(NULL, NULL);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static int finish(void)
{
	MPI_Finalize();
	return 0;
}

static int hello(char **args)
{
	(void)args;
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	printf("hello from rank %d of %d, pid %d\n", rank, ranks, (int)getpid());
	return finish();
}

/* ---- watching the clock ---------------------------------------------------------------------------------------- */

static volatile struct { uint64_t real_ns, mono_ns, at_ns, count; } longest;

static void gaps_say(int sig)
{
	char text[200];
	int len = snprintf(text, sizeof(text), "gap rank=%d from_ns=%llu realtime_ns=%llu monotonic_ns=%llu count=%llu\n", rank,
	                   (unsigned long long)longest.at_ns, (unsigned long long)longest.real_ns,
	                   (unsigned long long)longest.mono_ns, (unsigned long long)longest.count);

	(void)sig;
	if (write(STDOUT_FILENO, text, (size_t)len) < 0)
		return;
	longest.real_ns = longest.mono_ns = longest.at_ns = longest.count = 0;
}

/* Both clocks at one moment: a rank that is stopped between the two readings reads again. */
static void both_clocks(uint64_t *real, uint64_t *mono)
{
	do {
		*real = now(CLOCK_REALTIME);
		*mono = now(CLOCK_MONOTONIC);
	} while (now(CLOCK_REALTIME) - *real > 20000);
}

/* gaps SECONDS: look at both clocks without a rest; the longest gap is said at the end and at SIGUSR1, which clears it. */
static int gaps(char **args)
{
	uint64_t real, mono, end;

	start();
	signal(SIGUSR1, gaps_say);
	MPI_Barrier(MPI_COMM_WORLD);
	both_clocks(&real, &mono);
	end = mono + (uint64_t)(atof(args[0]) * 1e9);
	printf("ready rank=%d\n", rank);
	while (mono < end) {
		uint64_t r, m;

		both_clocks(&r, &m);
		if (m < mono)
			wrong("CLOCK_MONOTONIC went back", (long)(mono - m));
		longest.count += r - real > 100000;
		if (r - real > longest.real_ns) {
			longest.at_ns = real;
			longest.real_ns = r - real;
			longest.mono_ns = m - mono;
		}
		real = r;
		mono = m;
	}
	gaps_say(0);
	return finish();
}

/* ---- working --------------------------------------------------------------------------------------------------- */

/* compute SECONDS: every rank works for that long by its own CPU, then all agree on a sum. */
static int compute(char **args)
{
	uint64_t x = 1, all, end;

	start();
	MPI_Barrier(MPI_COMM_WORLD);
	printf("ready rank=%d\n", rank);
	end = now(CLOCK_MONOTONIC) + (uint64_t)(atof(args[0]) * 1e9);
	while (now(CLOCK_MONOTONIC) < end)
		for (int i = 0; i < 10000; i++)
			x = x * 6364136223846793005ULL + 1442695040888963407ULL;
	x = (uint64_t)rank + (x == 0);
	MPI_Allreduce(&x, &all, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	if (all != (uint64_t)ranks * (uint64_t)(ranks - 1) / 2)
		wrong("the sum of all ranks is wrong", (long)all);
	if (rank == 0)
		printf("computed\n");
	return finish();
}

static void on_usr1(int sig)
{
	char text[40];
	int len = snprintf(text, sizeof(text), "heard rank=%d\n", rank);

	(void)sig;
	if (write(STDOUT_FILENO, text, (size_t)len) < 0)
		return;
}

/* carry MIB PATH: hold that much written memory, pass a token round and check the memory until PATH exists.
 * SIGUSR1 is said when it comes. */
static int carry(char **args)
{
	size_t words = (size_t)atol(args[0]) << 17, bad;
	uint64_t *mem = get(words * 8);
	long rounds = 0;
	int over = 0;

	start();
	signal(SIGUSR1, on_usr1);
	for (size_t i = 0; i < words; i++)
		mem[i] = (i + 1) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)rank;
	MPI_Barrier(MPI_COMM_WORLD);
	printf("ready rank=%d address=%p bytes=%zu\n", rank, (void *)mem, words * 8);
	while (!over) {
		long token = rounds;

		MPI_Sendrecv_replace(&token, 1, MPI_LONG, (rank + 1) % ranks, 1, (rank + ranks - 1) % ranks, 1, MPI_COMM_WORLD,
		                     MPI_STATUS_IGNORE);
		if (token != rounds)
			wrong("the token is of another round", token);
		rounds++;
		over = rank == 0 && access(args[1], F_OK) == 0;
		MPI_Bcast(&over, 1, MPI_INT, 0, MPI_COMM_WORLD);
	}
	for (bad = 0; bad < words && mem[bad] == ((bad + 1) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)rank); bad++)
		;
	if (bad < words)
		wrong("memory has changed", (long)bad * 8);
	printf("carried rank=%d rounds=%ld\n", rank, rounds);
	free(mem);
	return finish();
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

enum { THREADS = 3 };
static long turns;

/* Thread t of rank r sends to thread t of the next rank and receives from the one before, numbers in order. */
static void *talk(void *arg)
{
	int tag = (int)(intptr_t)arg, to = (rank + 1) % ranks, from = (rank + ranks - 1) % ranks;

	for (long i = 0; i < turns; i++) {
		long out[64], in[64];
		MPI_Request req;
		MPI_Status st;
		int n = (int)(i % 64) + 1;

		for (int k = 0; k < n; k++)
			out[k] = i * 1000 + tag * 64 + k;
		MPI_Isend(out, n, MPI_LONG, to, tag, MPI_COMM_WORLD, &req);
		MPI_Recv(in, 64, MPI_LONG, from, tag, MPI_COMM_WORLD, &st);
		MPI_Wait(&req, MPI_STATUS_IGNORE);
		for (int k = 0; k < n; k++)
			if (in[k] != i * 1000 + tag * 64 + k)
				wrong("a thread received something else", i);
	}
	return NULL;
}

static int threads(char **args)
{
	pthread_t t[THREADS];
	int provided;

	turns = atol(args[0]);
	MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (provided != MPI_THREAD_MULTIPLE)
		wrong("MPI_THREAD_MULTIPLE is not provided, but level", provided);
	setvbuf(stdout, NULL, _IOLBF, 0);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("ready\n");
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, talk, (void *)(intptr_t)(i + 1)))
			wrong("no thread", i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("threads: %ld turns of %d threads of %d ranks\n", turns, THREADS, ranks);
	return finish();
}

/* ---- many messages at once ------------------------------------------------------------------------------------- */

/* unexpected N: the other ranks send N messages each; rank 0 takes them last first, by tag, then from any source. */
static int unexpected(char **args)
{
	long n = atol(args[0]);
	double begin;

	start();
	if (rank) {
		MPI_Request *req = get((size_t)n * sizeof(MPI_Request));
		long *body = get((size_t)n * sizeof(*body));

		for (long i = 0; i < n; i++) {
			body[i] = i * 64 + rank;
			MPI_Isend(&body[i], 1, MPI_LONG, 0, (int)i, MPI_COMM_WORLD, &req[i]);
		}
		MPI_Barrier(MPI_COMM_WORLD);
		for (long i = 0; i < n; i++)
			MPI_Wait(&req[i], MPI_STATUS_IGNORE);
		free(req);
		free(body);
		return finish();
	}
	MPI_Barrier(MPI_COMM_WORLD);
	begin = MPI_Wtime();
	for (int from = 1; from < ranks; from++)
		for (long i = n - 1; i >= 0; i--) {
			MPI_Status st;
			long got;
			bool any = from == 1 && ranks == 2 && i % 2;

			MPI_Recv(&got, 1, MPI_LONG, any ? MPI_ANY_SOURCE : from, (int)i, MPI_COMM_WORLD, &st);
			if (got != i * 64 + from || st.MPI_SOURCE != from)
				wrong("an unexpected message is another's", i);
		}
	printf("unexpected: %ld messages from each of %d ranks in %.3f s\n", n, ranks - 1, MPI_Wtime() - begin);
	return finish();
}

/* posted N: rank 0 posts N receives for each other rank, with tags in order; the messages come last first. */
static int posted(char **args)
{
	long n = atol(args[0]), all;
	double begin;

	start();
	all = n * (ranks - 1);
	if (rank) {
		MPI_Barrier(MPI_COMM_WORLD);
		for (long i = n - 1; i >= 0; i--) {
			long body = i * 64 + rank;

			MPI_Send(&body, 1, MPI_LONG, 0, (int)i, MPI_COMM_WORLD);
		}
	} else {
		MPI_Request *req = get((size_t)all * sizeof(MPI_Request));
		long *got = get((size_t)all * sizeof(*got));

		for (long k = 0; k < all; k++)
			MPI_Irecv(&got[k], 1, MPI_LONG, (int)(k / n) + 1, (int)(k % n), MPI_COMM_WORLD, &req[k]);
		MPI_Barrier(MPI_COMM_WORLD);
		begin = MPI_Wtime();
		for (long k = 0; k < all; k++) {
			MPI_Wait(&req[k], MPI_STATUS_IGNORE);
			if (got[k] != k % n * 64 + k / n + 1)
				wrong("a posted receive has another's message", k);
		}
		printf("posted: %ld receives for each of %d ranks in %.3f s\n", n, ranks - 1, MPI_Wtime() - begin);
		free(req);
		free(got);
	}
	return finish();
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

/* output N: every rank writes N numbered lines of different lengths. */
static int output(char **args)
{
	char fill[200];

	start();
	memset(fill, 'x', sizeof(fill));
	for (long i = 0; i < atol(args[0]); i++)
		printf("line %d %ld %.*s.\n", rank, i, (int)(i * 7 % 190), fill);
	fflush(stdout);
	return finish();
}

/* input: rank 0 reads standard input to its end and says how much it was and its sum; the others wait for it. */
static int input(char **args)
{
	unsigned char buf[8192];
	uint64_t sum = 14695981039346656037ULL, bytes = 0;
	ssize_t n = 0;

	(void)args;
	start();
	printf("ready rank=%d\n", rank);
	while (rank == 0 && ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)))
		for (ssize_t i = 0; i < n; i++, bytes++)
			sum = (sum ^ buf[i]) * 1099511628211ULL;
	if (n < 0)
		wrong("standard input cannot be read, errno", errno);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("input: %llu bytes, sum %016llx\n", (unsigned long long)bytes, (unsigned long long)sum);
	return finish();
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

/* early-exit N: the last rank exits with N before MPI_Init. PMI_RANK tells who it is. */
static int early_exit(char **args)
{
	const char *me = getenv("PMI_RANK"), *of = getenv("PMI_SIZE");

	if (me && of && atoi(me) == atoi(of) - 1)
		return atoi(args[0]);
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	return finish();
}

/* exit N: the last rank leaves with N, without MPI_Finalize, while the others wait for it. */
static int leave(char **args)
{
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == ranks - 1)
		_exit(atoi(args[0]));
	MPI_Barrier(MPI_COMM_WORLD);
	return finish();
}

/* abort N: the last rank calls MPI_Abort with N. */
static int abort_all(char **args)
{
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == ranks - 1)
		MPI_Abort(MPI_COMM_WORLD, atoi(args[0]));
	MPI_Barrier(MPI_COMM_WORLD);
	return finish();
}

/* crash: the last rank writes to address 0. */
static int crash(char **args)
{
	(void)args;
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == ranks - 1) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile int *)(uintptr_t)(ranks - ranks) = 1;
	}
	MPI_Barrier(MPI_COMM_WORLD);
	return finish();
}

/* no-finalize: all return from main after a barrier. */
static int no_finalize(char **args)
{
	(void)args;
	start();
	MPI_Barrier(MPI_COMM_WORLD);
	return 0;
}

/* late FIFO: rank 0 sends to a rank that has finalized. A receive that was freed has promised nobody to wait. */
static int late(char **args)
{
	MPI_Request r;
	int x = 7, fd;

	start();
	if (rank == 1)
		MPI_Irecv(&x, 1, MPI_INT, 0, 1, MPI_COMM_WORLD, &r), MPI_Request_free(&r);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 1)
		finish();
	if (rank < 2) {
		fd = open(args[0], rank == 0 ? O_RDONLY : O_WRONLY); /* returns when both are here */
		if (fd < 0)
			wrong("cannot open the FIFO", errno);
	}
	if (rank == 1)
		return 0;
	if (rank == 0)
		for (int i = 0; i < 3; i++) {
			MPI_Send(&x, 1, MPI_INT, 1, 1, MPI_COMM_WORLD);
			MPI_Isend(&x, 1, MPI_INT, 1, 1, MPI_COMM_WORLD, &r), MPI_Wait(&r, MPI_STATUS_IGNORE);
		}
	return finish();
}

static const struct { const char *name; int args; int (*run)(char **); const char *usage; } ways[] = {
	{ "hello",       0, hello,       "" },
	{ "gaps",        1, gaps,        "SECONDS" },
	{ "compute",     1, compute,     "SECONDS" },
	{ "carry",       2, carry,       "MIB STOP-FILE" },
	{ "threads",     1, threads,     "TURNS" },
	{ "unexpected",  1, unexpected,  "MESSAGES" },
	{ "posted",      1, posted,      "MESSAGES" },
	{ "output",      1, output,      "LINES" },
	{ "input",       0, input,       "" },
	{ "early-exit",  1, early_exit,  "STATUS" },
	{ "exit",        1, leave,       "STATUS" },
	{ "abort",       1, abort_all,   "STATUS" },
	{ "crash",       0, crash,       "" },
	{ "no-finalize", 0, no_finalize, "" },
	{ "late",        1, late,        "FIFO" },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(ways) / sizeof(ways[0]); i++)
		if (!strcmp(argv[1], ways[i].name) && argc == 2 + ways[i].args)
			return ways[i].run(argv + 2);
	fprintf(stderr, "usage: conduct WAY [ARGUMENTS], where WAY is one of\n");
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		fprintf(stderr, "  %s %s\n", ways[i].name, ways[i].usage);
	return 2;
}
