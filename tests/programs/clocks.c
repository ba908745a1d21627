/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Watches its clocks until FILE exists: clocks FILE. A plain MPI program; whoever runs it moves it meanwhile.
 *
 * Every thread of a rank waits again and again in another way, with relative times or until a point of CLOCK_MONOTONIC, and
 * looks whether it has slept too short by that clock; the main thread reads all clocks and passes a token round.
 *
 * clocks rank=R back=N ahead_ms=A behind_ms=B early=E late_ms=L sleeps=S,...: how often a clock went back; how far at most
 * CLOCK_MONOTONIC or CLOCK_BOOTTIME has run ahead of, or fallen behind, CLOCK_REALTIME between two looks, all added up; sleeps
 * that were too short; the one that was longest beyond what was asked for, by CLOCK_REALTIME; sleeps of each kind.
 */
#include <errno.h>
#include <linux/futex.h>
#include <mpi.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLEEP_NS 130000000ll

static atomic_bool over;

static int64_t now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static struct timespec spec(int64_t ns)
{
	return (struct timespec){ ns / 1000000000, ns % 1000000000 };
}

/* ---- ways to wait; each goes on when it is interrupted, as a program would ------------------------------------------------ */

static void relative(int64_t until)
{
	struct timespec t = spec(until - now(CLOCK_MONOTONIC)), left;

	while (nanosleep(&t, &left) < 0 && errno == EINTR)
		t = left;
}

static void absolute(int64_t until)
{
	struct timespec t = spec(until);

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void boottime(int64_t until)
{
	struct timespec t = spec(until - now(CLOCK_MONOTONIC) + now(CLOCK_BOOTTIME));

	while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void condition(int64_t until)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	struct timespec t = spec(until);
	pthread_condattr_t attr;
	pthread_cond_t cond;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&cond, &attr);
	pthread_mutex_lock(&mutex);
	while (pthread_cond_timedwait(&cond, &mutex, &t) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&cond);
}

static void futex_absolute(int64_t until)
{
	struct timespec t = spec(until);
	uint32_t word = 0;

	while (syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY) < 0 && errno == EINTR)
		;
}

static void futex_relative(int64_t until)
{
	uint32_t word = 0;

	for (int64_t left; (left = until - now(CLOCK_MONOTONIC)) > 0;) {
		struct timespec t = spec(left);

		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
	}
}

static void polling(int64_t until)
{
	for (int64_t left; (left = until - now(CLOCK_MONOTONIC)) > 0;)
		poll(NULL, 0, (int)(left / 1000000) + 1);
}

static void (*const ways[])(int64_t until) = { relative, absolute, boottime, condition, futex_absolute, futex_relative, polling };
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static struct { long sleeps, early; int64_t late_ns; } seen[WAYS];

static void *sleeper(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;

	while (!over) {
		int64_t until = now(CLOCK_MONOTONIC) + SLEEP_NS, from = now(CLOCK_REALTIME), late;

		ways[i](until);
		seen[i].early += now(CLOCK_MONOTONIC) < until;
		late = now(CLOCK_REALTIME) - from - SLEEP_NS;
		if (late > seen[i].late_ns)
			seen[i].late_ns = late;
		seen[i].sleeps++;
	}
	return NULL;
}

/* ---- clocks ---------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	int64_t last[2], real, ahead[2] = { 0, 0 }, behind[2] = { 0, 0 };
	long back = 0, early = 0, rounds = 0;
	pthread_t threads[WAYS];
	int provided, rank, ranks, is_over = 0;
	int64_t late_ns = 0;
	double wtime;

	MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (argc != 2) {
		fprintf(stderr, "usage: clocks FILE\n");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	for (size_t i = 0; i < WAYS; i++)
		if (pthread_create(&threads[i], NULL, sleeper, (void *)(uintptr_t)i) != 0)
			MPI_Abort(MPI_COMM_WORLD, 1);
	MPI_Barrier(MPI_COMM_WORLD);
	printf("ready rank=%d\n", rank);
	fflush(stdout);
	wtime = MPI_Wtime();
	last[0] = now(CLOCK_MONOTONIC);
	last[1] = now(CLOCK_BOOTTIME);
	real = now(CLOCK_REALTIME);
	while (!is_over) {
		const struct timespec pause = { 0, 200000 };
		int64_t next[2] = { now(CLOCK_MONOTONIC), now(CLOCK_BOOTTIME) }, next_real = now(CLOCK_REALTIME);
		double next_wtime = MPI_Wtime();

		back += next_wtime < wtime;
		wtime = next_wtime;
		for (int i = 0; i < 2; i++) {
			int64_t drift = (next[i] - last[i]) - (next_real - real);

			back += next[i] < last[i];
			*(drift > 0 ? &ahead[i] : &behind[i]) += drift > 0 ? drift : -drift;
			last[i] = next[i];
		}
		real = next_real;
		if (++rounds % 20 == 0) {
			is_over = rank == 0 && access(argv[1], F_OK) == 0;
			MPI_Bcast(&is_over, 1, MPI_INT, 0, MPI_COMM_WORLD);
			nanosleep(&pause, NULL);
		}
	}
	over = true;
	for (size_t i = 0; i < WAYS; i++) {
		pthread_join(threads[i], NULL);
		early += seen[i].early;
		late_ns = seen[i].late_ns > late_ns ? seen[i].late_ns : late_ns;
	}
	printf("clocks rank=%d back=%ld ahead_ms=%lld behind_ms=%lld early=%ld late_ms=%lld sleeps=", rank, back,
	       (long long)(ahead[0] > ahead[1] ? ahead[0] : ahead[1]) / 1000000,
	       (long long)(behind[0] > behind[1] ? behind[0] : behind[1]) / 1000000, early, (long long)late_ns / 1000000);
	for (size_t i = 0; i < WAYS; i++)
		printf("%s%ld", i ? "," : "", seen[i].sleeps);
	printf("\n");
	MPI_Finalize();
	return 0;
}
