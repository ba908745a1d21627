/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * types SEED NUMBER: NUMBER random datatypes, constructors upon constructors, each beside the list of its pieces that a plain
 * reference makes, are packed, unpacked, received in part, copied and sent to others of them, and put into a window; every byte
 * is compared, those between the pieces too. Two ranks. Rank 0 prints "all right, ..." in the end; who finds something wrong
 * prints how the type was made, and ends with 1.
 */
#include <mpi.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECES  1500        /* of a type, at most */
#define REACH   (1 << 18)   /* its bytes are less than that away from its origin */
#define STREAM  (1 << 18)   /* packed bytes of a message, at most */
#define MARGIN  64          /* bytes around buffers, which nothing may touch */

struct piece {
	long at;
	long size;
};

/* A type, and what it is: its basic elements in their order. */
struct model {
	MPI_Datatype type;
	long pieces, bytes, extent;
	struct piece *piece;
	char made[600]; /* how */
};

/* Instances of a type in memory. */
struct area {
	long count, before, size; /* bytes before the origin, and all */
	unsigned char *memory;
};

static uint64_t dice;
static int rank;
static long number; /* of the type */

static long throw(long from, long to)
{
	dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
	return from + (long)((dice >> 11) % (uint64_t)(to - from + 1));
}

static void *memory(long bytes)
{
	void *p = malloc((size_t)bytes + 1);

	if (!p)
		MPI_Abort(MPI_COMM_WORLD, 2);
	return p;
}

__attribute__((format(printf, 3, 4), noreturn))
static void wrong(const struct model *m, const struct model *other, const char *fmt, ...)
{
	va_list args;

	printf("wrong in rank %d, type %ld: ", rank, number);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("; the type: %s%s%s\n", m->made, other ? "; the other: " : "", other ? other->made : "");
	fflush(stdout);
	MPI_Abort(MPI_COMM_WORLD, 1);
	abort();
}

static unsigned char pattern(long i, long salt)
{
	return (unsigned char)((uint64_t)(i + salt * 977) * 0x9e3779b97f4a7c15ULL >> 56);
}

static void fill(unsigned char *p, long n, long salt)
{
	for (long i = 0; i < n; i++)
		p[i] = pattern(i, salt);
}

/* ---- types ------------------------------------------------------------------------------------------------------ */

static void add(struct model *m, long at, long size)
{
	m->piece[m->pieces++] = (struct piece){ at, size };
	m->bytes += size;
}

/* @count of @old, one behind the other, at @at */
static void add_all(struct model *m, const struct model *old, long at, long count)
{
	for (long k = 0; k < count; k++)
		for (long i = 0; i < old->pieces; i++)
			add(m, at + k * old->extent + old->piece[i].at, old->piece[i].size);
}

static void said(struct model *m, const struct model *old, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void said(struct model *m, const struct model *old, const char *fmt, ...)
{
	char how[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(how, sizeof(how), fmt, args);
	va_end(args);
	snprintf(m->made, sizeof(m->made), "%s of (%.*s)", how, (int)(sizeof(m->made) - sizeof(how) - 8), old->made);
}

static void basic(struct model *m)
{
	static const struct { const char *name; long size; } all[] = {
		{ "byte", 1 }, { "short", 2 }, { "int", 4 }, { "double", 8 }, { "double", 8 }, { "long double", 16 }, { "double int", 12 },
	};
	MPI_Datatype types[] = { MPI_BYTE, MPI_SHORT, MPI_INT, MPI_DOUBLE, MPI_DOUBLE, MPI_LONG_DOUBLE, MPI_DOUBLE_INT };
	long i = throw(0, 6);

	MPI_Type_dup(types[i], &m->type);
	snprintf(m->made, sizeof(m->made), "%s", all[i].name);
	add(m, 0, all[i].size);
}

enum { CONTIGUOUS, VECTOR, HVECTOR, INDEXED, HINDEXED, INDEXED_BLOCK, STRUCT, RESIZED, SUBARRAY, CONSTRUCTORS };

static void derived(struct model *m, const struct model *old, const struct model *second, int constructor)
{
	int lengths[40], displacements[40], sizes[3], subsizes[3], starts[3], order = throw(0, 1) ? MPI_ORDER_C : MPI_ORDER_FORTRAN;
	MPI_Aint bytes[40], at = 0;
	MPI_Datatype types[3] = { old->type, second->type, old->type };
	long n = throw(1, throw(0, 3) ? 6 : 40), length = throw(1, 4), stride = throw(0, 9) ? throw(length, length + 9) : throw(-9, 9), x = 0;
	long byte_stride = throw(0, 9) ? length * old->extent + throw(0, 3) * throw(0, 40) : throw(-300, 300);
	int dimensions = (int)throw(1, 3), first, last;

	for (long i = 0; i < 40; i++) {
		lengths[i] = (int)throw(0, 5);
		displacements[i] = (int)x;
		x += throw(0, 20) ? lengths[i] + throw(0, 3) : throw(-30, 30);
		bytes[i] = at;
		at += throw(0, 20) ? lengths[i] * old->extent + throw(0, 1) * throw(0, 30) : throw(-100, 100);
	}
	if (!throw(0, 5)) /* every second one, say: the engine should see a vector in it */
		for (long i = 0; i < 40; i++) {
			lengths[i] = (int)length;
			displacements[i] = (int)(i * stride);
			bytes[i] = i * byte_stride;
		}
	switch (constructor) {
	case CONTIGUOUS:
		MPI_Type_contiguous((int)n, old->type, &m->type);
		said(m, old, "contiguous %ld", n);
		add_all(m, old, 0, n);
		break;
	case VECTOR:
		MPI_Type_vector((int)n, (int)length, (int)stride, old->type, &m->type);
		said(m, old, "vector %ld %ld %ld", n, length, stride);
		for (long i = 0; i < n; i++)
			add_all(m, old, i * stride * old->extent, length);
		break;
	case HVECTOR:
		MPI_Type_create_hvector((int)n, (int)length, byte_stride, old->type, &m->type);
		said(m, old, "hvector %ld %ld %ld", n, length, byte_stride);
		for (long i = 0; i < n; i++)
			add_all(m, old, i * byte_stride, length);
		break;
	case INDEXED:
		MPI_Type_indexed((int)n, lengths, displacements, old->type, &m->type);
		said(m, old, "indexed %ld", n);
		for (long i = 0; i < n; i++)
			add_all(m, old, displacements[i] * old->extent, lengths[i]);
		break;
	case HINDEXED:
		MPI_Type_create_hindexed((int)n, lengths, bytes, old->type, &m->type);
		said(m, old, "hindexed %ld", n);
		for (long i = 0; i < n; i++)
			add_all(m, old, bytes[i], lengths[i]);
		break;
	case INDEXED_BLOCK:
		MPI_Type_create_indexed_block((int)n, (int)length, displacements, old->type, &m->type);
		said(m, old, "indexed_block %ld %ld", n, length);
		for (long i = 0; i < n; i++)
			add_all(m, old, displacements[i] * old->extent, length);
		break;
	case STRUCT:
		MPI_Type_create_struct(3, lengths, bytes, types, &m->type);
		said(m, second, "struct (%.80s) and", old->made);
		for (long i = 0; i < 3; i++)
			add_all(m, i == 1 ? second : old, bytes[i], lengths[i]);
		break;
	case RESIZED:
		stride = throw(-20, 20);
		n = throw(0, 3) ? old->extent + throw(-8, 40) : throw(1, 200);
		n = n < 1 ? 1 : n; /* MPICH knows no others */
		MPI_Type_create_resized(old->type, stride, n, &m->type);
		said(m, old, "resized %ld %ld", stride, n);
		add_all(m, old, 0, 1);
		break;
	default:
		for (int i = 0; i < 3; i++) {
			sizes[i] = i < dimensions ? (int)throw(1, 12) : 1;
			subsizes[i] = throw(0, 2) ? (int)throw(1, sizes[i]) : throw(0, 1) ? 1 : sizes[i];
			starts[i] = (int)throw(0, sizes[i] - subsizes[i]);
		}
		MPI_Type_create_subarray(dimensions, sizes, subsizes, starts, order, old->type, &m->type);
		said(m, old, "subarray of %d x %d x %d: %d x %d x %d, order %c", sizes[0], sizes[1], sizes[2], subsizes[0], subsizes[1],
		     subsizes[2], order == MPI_ORDER_C ? 'C' : 'F');
		first = order == MPI_ORDER_C ? 0 : 2; /* the slowest */
		last = 2 - first;
		for (int i = 0; i < subsizes[first]; i++)
			for (int j = 0; j < subsizes[1]; j++)
				for (int k = 0; k < subsizes[last]; k++)
					add_all(m, old, old->extent * (((long)(starts[first] + i) * sizes[1] + starts[1] + j) * sizes[last] +
					                               starts[last] + k), 1);
	}
}

static void drop(struct model *m)
{
	MPI_Type_free(&m->type);
	free(m->piece);
	free(m);
}

/* A random type of so many constructors, at most; a simpler one where what came out is too large. */
static struct model *make(int depth)
{
	struct model *m = memory(sizeof(*m)), *old = depth ? make(depth - 1) : NULL, *second = depth ? make(depth > 2 ? 1 : depth - 1) : NULL;
	bool is_too_large = false;
	MPI_Aint lb, extent;

	memset(m, 0, sizeof(*m));
	m->piece = memory((long)sizeof(*m->piece) * (depth ? 1800 * (old->pieces + second->pieces) : 1));
	if (!depth)
		basic(m);
	else
		derived(m, old, second, (int)throw(0, CONSTRUCTORS - 1));
	MPI_Type_get_extent(m->type, &lb, &extent);
	m->extent = extent;
	for (long i = 0; i < m->pieces; i++)
		is_too_large |= labs(m->piece[i].at) + m->piece[i].size > REACH;
	is_too_large |= m->pieces > PIECES || labs(extent) > REACH;
	if (depth)
		drop(second);
	if (is_too_large) {
		drop(m);
		return old;
	}
	if (depth)
		drop(old);
	return m;
}

/* ---- reference -------------------------------------------------------------------------------------------------- */

static struct area area_of(const struct model *m, long count)
{
	struct area a = { .count = count };
	long from = 0, to = 0;

	for (long k = 0; k < count; k++)
		for (long i = 0; i < m->pieces; i++) {
			long at = k * m->extent + m->piece[i].at;

			from = at < from ? at : from;
			to = at + m->piece[i].size > to ? at + m->piece[i].size : to;
		}
	a.before = MARGIN + throw(0, 15) - from;
	a.size = a.before + to + MARGIN;
	a.memory = memory(a.size);
	return a;
}

/* The first @bytes of the packed data, in (@into) or out of the area. */
static void reference(const struct model *m, const struct area *a, unsigned char *stream, long bytes, bool into)
{
	for (long k = 0; k < a->count; k++)
		for (long i = 0; i < m->pieces && bytes; i++) {
			unsigned char *user = a->memory + a->before + k * m->extent + m->piece[i].at;
			long n = m->piece[i].size < bytes ? m->piece[i].size : bytes;

			memcpy(into ? user : stream, into ? stream : user, (size_t)n);
			stream += n;
			bytes -= n;
		}
}

/* Does a byte belong to two pieces? Then it may be sent, not received into. */
static bool overlaps(const struct model *m, const struct area *a)
{
	unsigned char *taken = calloc(1, (size_t)a->size);
	bool is_taken = false;

	if (!taken)
		MPI_Abort(MPI_COMM_WORLD, 2);
	for (long k = 0; k < a->count; k++)
		for (long i = 0; i < m->pieces; i++)
			for (long b = 0; b < m->piece[i].size; b++) {
				unsigned char *t = taken + a->before + k * m->extent + m->piece[i].at + b;

				is_taken |= *t;
				*t = 1;
			}
	free(taken);
	return is_taken;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static unsigned char *stream, *expected;

static void same(const struct model *m, const struct model *other, const unsigned char *is, const unsigned char *want, long bytes,
                 const char *what)
{
	for (long i = 0; i < bytes; i++)
		if (is[i] != want[i])
			wrong(m, other, "%s: byte %ld of %ld is %02x, should be %02x", what, i, bytes, is[i], want[i]);
}

/* What is sent is bytes, to MPI's eyes other types than those that receive it: MPICH says so in some cases, and has received it. */
static void no_error(int error, const struct model *m, const struct model *other, const char *what)
{
	char text[MPI_MAX_ERROR_STRING];
	int class, length;

	if (error == MPI_SUCCESS)
		return;
	MPI_Error_class(error, &class);
	MPI_Error_string(error, text, &length);
	if (class != MPI_ERR_TYPE)
		wrong(m, other, "%s: %s", what, text);
}

/* What an area is when @bytes of expected are received into it, and whether it is that. */
static void received(const struct model *m, const struct model *other, struct area *a, long bytes, long salt, const char *what)
{
	struct area want = *a;

	want.memory = memory(a->size);
	fill(want.memory, want.size, salt);
	reference(m, &want, expected, bytes, true);
	same(m, other, a->memory, want.memory, a->size, what);
	free(want.memory);
}

/* So many bytes or less, as the basic elements of the type end there: else a receiver says that the types do not match. */
static long whole(const struct model *m, long count, long bytes)
{
	long sum = 0;

	for (long k = 0; k < count; k++)
		for (long i = 0; i < m->pieces; i++) {
			if (sum + m->piece[i].size > bytes)
				return sum;
			sum += m->piece[i].size;
		}
	return sum;
}

static void check_pack(const struct model *m, long count)
{
	struct area a = area_of(m, count);
	long bytes = m->bytes * count, part;
	int from = (int)throw(0, 13), at = from, size;

	fill(a.memory, a.size, number);
	fill(stream, bytes + MARGIN, number + 1);
	fill(expected, bytes + MARGIN, number + 1);
	reference(m, &a, expected + from, bytes, false);
	MPI_Type_size(m->type, &size);
	if (size != m->bytes)
		wrong(m, NULL, "its size is %d, should be %ld", size, m->bytes);
	MPI_Pack(a.memory + a.before, (int)count, m->type, stream, from + (int)bytes, &at, MPI_COMM_WORLD);
	if (at != from + bytes)
		wrong(m, NULL, "packed %ld bytes, should be %ld", (long)(at - from), bytes);
	same(m, NULL, stream, expected, bytes + MARGIN, "packed");

	if (!overlaps(m, &a)) {
		fill(expected, bytes, number + 2);
		memcpy(stream + from, expected, (size_t)bytes);
		at = from;
		MPI_Unpack(stream, from + (int)bytes, &at, a.memory + a.before, (int)count, m->type, MPI_COMM_WORLD);
		if (at != from + bytes)
			wrong(m, NULL, "unpacked %ld bytes, should be %ld", (long)(at - from), bytes);
		received(m, NULL, &a, bytes, number, "unpacked");

		part = whole(m, count, throw(0, bytes));
		fill(a.memory, a.size, number + 3);
		no_error(MPI_Sendrecv(stream + from, (int)part, MPI_PACKED, rank, 1, a.memory + a.before, (int)count, m->type, rank, 1,
		                      MPI_COMM_WORLD, MPI_STATUS_IGNORE), m, NULL, "received in part");
		received(m, NULL, &a, part, number + 3, "received in part");
	}
	free(a.memory);
}

/* From one type into another: within a rank, where it is copied in pieces, from rank to rank, and into a window. */
static void check_pair(const struct model *m, long count, const struct model *to, long to_count)
{
	struct area a = area_of(m, count), b = area_of(to, to_count);
	long bytes = m->bytes * count;
	bool is_equal = bytes == to->bytes * to_count;
	MPI_Win win;

	fill(a.memory, a.size, number);
	reference(m, &a, expected, bytes, false);
	if (!overlaps(to, &b) && whole(to, to_count, bytes) == bytes) {
		fill(b.memory, b.size, number + 1);
		no_error(MPI_Sendrecv(a.memory + a.before, (int)count, m->type, rank, 1, b.memory + b.before, (int)to_count, to->type,
		                      rank, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE), to, m, "copied");
		received(to, m, &b, bytes, number + 1, "copied");

		fill(b.memory, b.size, number + 2);
		no_error(MPI_Sendrecv(a.memory + a.before, (int)count, m->type, !rank, 2, b.memory + b.before, (int)to_count, to->type,
		                      !rank, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE), to, m, "sent");
		received(to, m, &b, bytes, number + 2, "sent");

		if (is_equal) {
			fill(b.memory, b.size, number + 3);
			MPI_Win_create(b.memory, b.size, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
			MPI_Win_fence(0, win);
			MPI_Put(a.memory + a.before, (int)count, m->type, !rank, b.before, (int)to_count, to->type, win);
			MPI_Win_fence(0, win);
			MPI_Win_free(&win);
			received(to, m, &b, bytes, number + 3, "put");
		}
	}
	free(a.memory);
	free(b.memory);
}

static long gcd(long a, long b)
{
	return b ? gcd(b, a % b) : a;
}

/* As many instances as make a message of some size. */
static long some(const struct model *m, long at_most)
{
	long reach = labs(m->extent) ? 8 * REACH / labs(m->extent) : at_most, most = m->bytes ? STREAM / 2 / m->bytes : 3;

	most = most < reach ? most : reach;
	most = most < at_most ? most : at_most;
	return most < 1 ? 1 : throw(0, 1) ? throw(1, most) : throw(1, most < 4 ? most : 4);
}

int main(int argc, char **argv)
{
	long types = argc > 2 ? atol(argv[2]) : 100, checked = 0;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	dice = (argc > 1 ? (uint64_t)atol(argv[1]) : 1) * 2654435761u + 88172645463325252ull;
	stream = memory(STREAM + 2 * MARGIN);
	expected = memory(STREAM + 2 * MARGIN);
	for (number = 0; number < types; number++) {
		struct model *a = make((int)throw(0, 4)), *b = make((int)throw(0, 4));
		long g, count;

		MPI_Type_commit(&a->type);
		MPI_Type_commit(&b->type);
		check_pack(a, some(a, 3000));
		if (a->bytes && b->bytes) {
			g = gcd(a->bytes, b->bytes);
			if (b->bytes / g * a->bytes <= STREAM && b->bytes / g * labs(a->extent) <= 8 * REACH &&
			    a->bytes / g * labs(b->extent) <= 8 * REACH) {
				check_pair(a, b->bytes / g, b, a->bytes / g);
				checked++;
			}
			count = some(b, 3000);
			if (b->bytes * count >= a->bytes)
				check_pair(a, throw(1, b->bytes * count / a->bytes > 200 ? 200 : b->bytes * count / a->bytes), b, count);
		}
		drop(a);
		drop(b);
	}
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("all right, %ld types, %ld pairs\n", types, checked);
	free(stream);
	free(expected);
	MPI_Finalize();
	return 0;
}
