/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * examples/example.h: what the example programs share: reading a number, refusing bad arguments, a checksum, a clock.
 *
 * The examples are plain MPI programs: nothing in them knows that their ranks may move.
 *
 * The checksum is a sum, modulo 2^64, of one well-mixed word per element, made from the element's place and all bits of
 * its value. Addition modulo 2^64 has no order, so ranks add their parts in any order and any number of ranks gives the
 * same sum, while one changed bit anywhere changes it.
 */
#ifndef EXAMPLES_EXAMPLE_H
#define EXAMPLES_EXAMPLE_H

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int rank, ranks;

/* All ranks see the same arguments: rank 0 tells, all leave with the same status. */
static inline void ex_refuse(const char *fmt, ...)
{
	if (rank == 0) {
		va_list ap;

		va_start(ap, fmt);
		vfprintf(stderr, fmt, ap);
		va_end(ap);
		fputc('\n', stderr);
	}
	MPI_Finalize();
	exit(2);
}

static inline void ex_help(const char *text)
{
	if (rank == 0)
		fputs(text, stdout);
	MPI_Finalize();
	exit(0);
}

static inline long ex_number(const char *program, const char *what, const char *s, long min, long max)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(s, &end, 10);
	if (errno || end == s || *end)
		ex_refuse("%s: %s must be a whole number, not '%s'; see --help", program, what, s);
	if (v < min || v > max)
		ex_refuse("%s: %s must be from %ld to %ld, not %ld", program, what, min, max, v);
	return v;
}

static inline void *ex_alloc(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size);

	if (!p) {
		fprintf(stderr, "rank %d: no memory for %zu elements of %zu bytes; choose a smaller size\n", rank, count, size);
		MPI_Abort(MPI_COMM_WORLD, 3);
	}
	return p;
}

/* Finaliser of MurmurHash3: every input bit changes every output bit with probability one half. */
static inline uint64_t ex_mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

/* One element's part of the checksum; @place counts from 0 over the whole answer, whoever computed it. */
static inline uint64_t ex_sum_bits(uint64_t place, uint64_t bits)
{
	return ex_mix(bits ^ ex_mix(place + 0x9e3779b97f4a7c15ULL));
}

static inline uint64_t ex_sum_double(uint64_t place, double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return ex_sum_bits(place, bits);
}

/* The sum over all ranks, on every rank. */
static inline uint64_t ex_sum_all(uint64_t mine)
{
	uint64_t all;

	MPI_Allreduce(&mine, &all, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	return all;
}

/* First element of part @i when @n elements are cut into @parts parts that differ by at most one. */
static inline long ex_first(long n, long parts, long i)
{
	return n / parts * i + (n % parts < i ? n % parts : i);
}

#endif
