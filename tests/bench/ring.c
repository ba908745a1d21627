/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ring: the halo exchange of onehost.c without an MPI: what cores and kernel make of it, and no library can be below.
 *
 *	ring PROCESSES POLLS
 *
 * Processes of a ring compute as onehost's ranks do, give both neighbours 512 bytes by shared memory, and every tenth step
 * add up a number. Who waits looks POLLS times, and then yields its core until it is there; 0: it never yields. Nothing is
 * matched, numbered, acknowledged or found; there is room for two steps, as much as one neighbour can be ahead of the other.
 * Prints what onehost prints: time per step and rank.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "halo.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 9
#define BATCH_S 0.02
#define WARM    2     /* batches that do not count */
#define MOST    1024

struct edge {                             /* from one neighbour, of one step of two */
	_Alignas(64) _Atomic uint32_t step;   /* whose bytes these are, from 1 on */
	_Alignas(64) double cells[EDGE];
};

struct shared {
	_Alignas(64) _Atomic uint32_t has_come; /* to the sum of this step */
	_Alignas(64) _Atomic uint32_t told;     /* sums that are over */
	_Alignas(64) double sums[MOST];
	_Alignas(64) double result;
	uint32_t steps;                         /* of a batch; rank 0 writes it before a sum that all wait for */
	struct edge edges[MOST][2][2];          /* [rank][from the left, from the right][step % 2] */
};

static struct shared *all;
static uint32_t rank, size, polls;

static void wait_for(_Atomic uint32_t *word, uint32_t value)
{
	for (uint32_t n = 0; atomic_load_explicit(word, memory_order_acquire) != value; n++)
		if (polls && n >= polls)
			sched_yield();
		else
			__builtin_ia32_pause();
}

/* The last one to come adds up: no rank has more than one turn of it */
static void sum_up(double mine)
{
	uint32_t told = atomic_load_explicit(&all->told, memory_order_relaxed);

	all->sums[rank] = mine;
	if (atomic_fetch_add_explicit(&all->has_come, 1, memory_order_acq_rel) + 1 < size) {
		wait_for(&all->told, told + 1);
		return;
	}
	all->result = 0;
	for (uint32_t r = 0; r < size; r++)
		all->result += all->sums[r];
	atomic_store_explicit(&all->has_come, 0, memory_order_relaxed);
	atomic_store_explicit(&all->told, told + 1, memory_order_release);
}

static void give(uint32_t to, int side, uint32_t step, const double *from)
{
	struct edge *e = &all->edges[to][side][step % 2];

	memcpy(e->cells, from, sizeof(e->cells));
	atomic_store_explicit(&e->step, step, memory_order_release);
}

static void take(int side, uint32_t step, double *into)
{
	struct edge *e = &all->edges[rank][side][step % 2];

	wait_for(&e->step, step);
	memcpy(into, e->cells, sizeof(e->cells));
}

static void one_step(uint32_t step)
{
	uint32_t left = (rank + size - 1) % size, right = (rank + 1) % size;
	double in[2][EDGE];

	give(right, 0, step, cells + CELLS - 1 - EDGE);
	give(left, 1, step, cells + 1);
	take(0, step, in[0]);
	take(1, step, in[1]);
	cells[0] = in[0][EDGE - 1];
	cells[CELLS - 1] = in[1][0];
	compute();
	if (step % 10 == 0)
		sum_up(cells[CELLS / 2]);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

static void run(void)
{
	double samples[BATCHES], start, took;
	uint32_t step = 0;

	if (rank == 0)
		all->steps = 100;
	for (int batch = 0; batch < WARM + BATCHES; batch++) {
		uint32_t steps;

		sum_up(0);
		steps = all->steps;
		sum_up(0); /* all have read it */
		start = now_s();
		for (uint32_t i = 0; i < steps; i++)
			one_step(++step);
		took = now_s() - start;
		if (rank == 0 && batch < WARM)
			all->steps = (uint32_t)(steps * BATCH_S / took) + 1;
		else if (rank == 0)
			samples[batch - WARM] = took / steps / size * 1e6;
	}
	if (rank == 0) {
		qsort(samples, BATCHES, sizeof(*samples), ascending);
		printf("halo_step_rank_us=%.5g\n", samples[BATCHES / 2]);
	}
}

int main(int argc, char **argv)
{
	uint32_t children = 0;
	pid_t parent = getpid();
	int rc = 0, status;

	size = argc == 3 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
	polls = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
	if (size < 2 || size > MOST) {
		fprintf(stderr, "usage: ring PROCESSES POLLS, with 2 to %d processes\n", MOST);
		return 2;
	}
	all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED) {
		perror("ring: no memory to share");
		return 1;
	}
	for (rank = 0; rank < size; rank++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("ring: cannot make a process");
			rc = 1;
			break;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent || !halo_begin((int)rank))
				_exit(1);
			run();
			fflush(stdout);
			_exit(0);
		}
		children++;
	}
	if (rc)
		return rc; /* the children go with us */
	for (; children; children--)
		if (wait(&status) < 0 || status)
			return 1; /* likewise */
	return 0;
}
