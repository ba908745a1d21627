/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/coll.c: collective calls, blocking and not, on the world and on communicators made for the purpose. */
#include "tests/storm/storm.h"

/* What rank @rank of the communicator contributes as element @i (of its part for rank @to, where there are parts). */
static uint64_t element(uint64_t key, int rank, int to, size_t i)
{
	return mix(key + (uint64_t)rank * 0x9e3779b97f4a7c15ULL + (uint64_t)to * 0xd1342543de82ef95ULL + i);
}

static uint64_t *array(size_t n)
{
	uint64_t *p = malloc((n ? n : 1) * sizeof(*p));

	storm_check(p, "no memory for %zu words", n);
	memset(p, 0xee, n * sizeof(*p));
	return p;
}

/* An operation that is associative but not commutative, on pairs: x -> a * x + b, one after the other. */
static void compose(void *in, void *inout, int *len, MPI_Datatype *type)
{
	uint64_t *f = in, *g = inout;

	(void)type;
	for (int i = 0; i < *len; i++, f += 2, g += 2) {
		g[1] += g[0] * f[1];
		g[0] *= f[0];
	}
}

struct expect { const char *call; uint64_t key; };

static void is_word(const struct expect *e, size_t at, uint64_t is, uint64_t want)
{
	storm_check(is == want, "%s gave %016llx as element %zu where %016llx is right", e->call, (unsigned long long)is, at,
	            (unsigned long long)want);
	storm_add(e->key + at, is);
}

enum kind { BARRIER, BCAST, REDUCE, ALLREDUCE, MAXIMUM, COMPOSE, SCAN, EXSCAN, GATHERV, SCATTERV, ALLGATHER, ALLGATHERV,
            ALLTOALL, ALLTOALLV, REDUCE_SCATTER, IBARRIER, IBCAST, IALLREDUCE, IALLTOALL, KINDS };

static uint64_t sum_to(uint64_t key, int from, int to, size_t i)
{
	uint64_t s = 0;

	for (int q = from; q < to; q++)
		s += element(key, q, 0, i);
	return s;
}

/* One collective call on @comm, in which this process has number @me of @n; verified against what all contribute. */
static void collective(struct rng *r, MPI_Comm comm, int me, int n)
{
	enum kind kind = (enum kind)rng_in(r, 0, KINDS - 1);
	struct expect e = { "", rng_next(r) };
	uint64_t key = e.key, *a, *b;
	int root = (int)rng_in(r, 0, n - 1);
	size_t len = rng_in(r, 0, 9) ? (size_t)rng_in(r, 0, 300) : (size_t)rng_in(r, 0, 16384);
	int *counts = malloc(4 * (size_t)n * sizeof(*counts)), *places = counts + n, *counts2 = places + n, *places2 = counts2 + n;
	size_t all = 0, all2 = 0;
	MPI_Request req = MPI_REQUEST_NULL;

	storm_check(counts, "no memory for %d counts", 4 * n);
	for (int q = 0; q < n; q++) { /* parts of different lengths; counts: mine to q; counts2: q's to me */
		counts[q] = (int)(mix2(key, (uint64_t)(me * n + q)) % (len / (size_t)n + 1));
		counts2[q] = (int)(mix2(key, (uint64_t)(q * n + me)) % (len / (size_t)n + 1));
		if (kind == GATHERV || kind == SCATTERV || kind == ALLGATHERV)
			counts[q] = counts2[q] = (int)(mix2(key, (uint64_t)q) % (len / (size_t)n + 1));
		places[q] = (int)all;
		places2[q] = (int)all2;
		all += (size_t)counts[q];
		all2 += (size_t)counts2[q];
	}
	a = array(len * 2 + (size_t)n * len + all);
	b = array(len * 2 + (size_t)n * len + all2);
	for (size_t i = 0; i < len; i++)
		a[i] = element(key, me, 0, i);

#define CALL(name, ...) do { e.call = #name; storm_at(#name, root, -1); name(__VA_ARGS__); } while (0)
	switch (kind) {
	case BARRIER:
		CALL(MPI_Barrier, comm);
		break;
	case IBARRIER:
		CALL(MPI_Ibarrier, comm, &req);
		break;
	case BCAST:
		CALL(MPI_Bcast, a, (int)len, MPI_UINT64_T, root, comm);
		break;
	case IBCAST:
		CALL(MPI_Ibcast, a, (int)len, MPI_UINT64_T, root, comm, &req);
		break;
	case REDUCE:
		CALL(MPI_Reduce, a, b, (int)len, MPI_UINT64_T, MPI_SUM, root, comm);
		break;
	case ALLREDUCE:
		CALL(MPI_Allreduce, a, b, (int)len, MPI_UINT64_T, MPI_SUM, comm);
		break;
	case IALLREDUCE:
		CALL(MPI_Iallreduce, a, b, (int)len, MPI_UINT64_T, MPI_SUM, comm, &req);
		break;
	case MAXIMUM:
		for (size_t i = 0; i < len; i++)
			((double *)(void *)a)[i] = (double)(element(key, me, 0, i) >> 12);
		CALL(MPI_Allreduce, a, b, (int)len, MPI_DOUBLE, MPI_MAX, comm);
		break;
	case COMPOSE: {
		MPI_Datatype pair;
		MPI_Op op;

		for (size_t i = 0; i < 2 * len; i++)
			a[i] = element(key, me, 0, i);
		MPI_Type_contiguous(2, MPI_UINT64_T, &pair);
		MPI_Type_commit(&pair);
		MPI_Op_create(compose, 0, &op);
		CALL(MPI_Allreduce, a, b, (int)len, pair, op, comm);
		MPI_Op_free(&op);
		MPI_Type_free(&pair);
		break;
	}
	case SCAN:
		CALL(MPI_Scan, a, b, (int)len, MPI_UINT64_T, MPI_SUM, comm);
		break;
	case EXSCAN:
		CALL(MPI_Exscan, a, b, (int)len, MPI_UINT64_T, MPI_SUM, comm);
		break;
	case GATHERV:
		CALL(MPI_Gatherv, a, counts[me], MPI_UINT64_T, b, counts2, places2, MPI_UINT64_T, root, comm);
		break;
	case ALLGATHERV:
		CALL(MPI_Allgatherv, a, counts[me], MPI_UINT64_T, b, counts2, places2, MPI_UINT64_T, comm);
		break;
	case ALLGATHER:
		len /= (size_t)n;
		CALL(MPI_Allgather, a, (int)len, MPI_UINT64_T, b, (int)len, MPI_UINT64_T, comm);
		break;
	case SCATTERV:
		for (int q = 0; q < n; q++)
			for (int i = 0; i < counts[q]; i++)
				a[places[q] + i] = element(key, root, q, (size_t)i);
		CALL(MPI_Scatterv, a, counts, places, MPI_UINT64_T, b, counts[me], MPI_UINT64_T, root, comm);
		break;
	case ALLTOALL:
	case IALLTOALL:
		len /= (size_t)n;
		for (size_t i = 0; i < len * (size_t)n; i++)
			a[i] = element(key, me, (int)(i / (len ? len : 1)), i % (len ? len : 1));
		if (kind == ALLTOALL)
			CALL(MPI_Alltoall, a, (int)len, MPI_UINT64_T, b, (int)len, MPI_UINT64_T, comm);
		else
			CALL(MPI_Ialltoall, a, (int)len, MPI_UINT64_T, b, (int)len, MPI_UINT64_T, comm, &req);
		break;
	case ALLTOALLV:
		for (int q = 0; q < n; q++)
			for (int i = 0; i < counts[q]; i++)
				a[places[q] + i] = element(key, me, q, (size_t)i);
		CALL(MPI_Alltoallv, a, counts, places, MPI_UINT64_T, b, counts2, places2, MPI_UINT64_T, comm);
		break;
	default:
		len /= (size_t)n;
		for (size_t i = 0; i < len * (size_t)n; i++)
			a[i] = element(key, me, 0, i);
		CALL(MPI_Reduce_scatter_block, a, b, (int)len, MPI_UINT64_T, MPI_SUM, comm);
	}
	if (req != MPI_REQUEST_NULL) {
		MPI_Status st;

		MPI_Wait(&req, &st);
	}

	for (size_t i = 0; i < len; i++) {
		double most = 0;

		switch (kind) {
		case BCAST:
		case IBCAST:
			is_word(&e, i, a[i], element(key, root, 0, i));
			break;
		case REDUCE:
			if (me == root)
				is_word(&e, i, b[i], sum_to(key, 0, n, i));
			break;
		case ALLREDUCE:
		case IALLREDUCE:
			is_word(&e, i, b[i], sum_to(key, 0, n, i));
			break;
		case MAXIMUM:
			for (int q = 0; q < n; q++)
				if ((double)(element(key, q, 0, i) >> 12) > most)
					most = (double)(element(key, q, 0, i) >> 12);
			is_word(&e, i, (uint64_t)((double *)(void *)b)[i], (uint64_t)most);
			break;
		case COMPOSE: {
			uint64_t f[2] = { 1, 0 };

			for (int q = 0; q < n; q++) {
				uint64_t g[2] = { element(key, q, 0, 2 * i), element(key, q, 0, 2 * i + 1) };
				int one = 1;

				compose(f, g, &one, NULL);
				memcpy(f, g, sizeof(f));
			}
			is_word(&e, 2 * i, b[2 * i], f[0]);
			is_word(&e, 2 * i + 1, b[2 * i + 1], f[1]);
			break;
		}
		case SCAN:
			is_word(&e, i, b[i], sum_to(key, 0, me + 1, i));
			break;
		case EXSCAN:
			if (me)
				is_word(&e, i, b[i], sum_to(key, 0, me, i));
			break;
		case ALLGATHER:
			for (int q = 0; q < n; q++)
				is_word(&e, (size_t)q * len + i, b[(size_t)q * len + i], element(key, q, 0, i));
			break;
		case ALLTOALL:
		case IALLTOALL:
			for (int q = 0; q < n; q++)
				is_word(&e, (size_t)q * len + i, b[(size_t)q * len + i], element(key, q, me, i));
			break;
		case REDUCE_SCATTER:
			is_word(&e, i, b[i], sum_to(key, 0, n, (size_t)me * len + i));
			break;
		default:
			break;
		}
	}
	for (int q = 0; q < n; q++)
		for (size_t i = 0; i < (size_t)counts2[q]; i++) {
			size_t at = (size_t)places2[q] + i;

			if (kind == ALLGATHERV || (kind == GATHERV && me == root))
				is_word(&e, at, b[at], element(key, q, 0, i));
			else if (kind == ALLTOALLV)
				is_word(&e, at, b[at], element(key, q, me, i));
			else if (kind == SCATTERV && q == me)
				is_word(&e, i, b[i], element(key, root, me, i));
		}
	storm.messages++;
	storm.bytes += len * 8;
	free(a);
	free(b);
	free(counts);
}

void phase_collective(struct rng *r)
{
	for (int k = (int)rng_in(r, 1, 6); k > 0; k--)
		collective(r, storm.comm, storm.rank, storm.ranks);
}

/* Cut the world into colours with shuffled ranks, check the new numbers, use the parts, duplicate them, free all. */
void phase_communicators(struct rng *r)
{
	int colours = (int)rng_in(r, 1, 3), before = 0, in_all = 0, me, n, token = -1;
	uint64_t key = rng_next(r);
	MPI_Comm part, twin;
	MPI_Status st;
	int mine = (int)(mix2(key, (uint64_t)storm.rank) % (uint64_t)colours);
	int place = (int)(mix2(key, 1000 + (uint64_t)storm.rank) % 1000);

	for (int q = 0; q < storm.ranks; q++) {
		int other = (int)(mix2(key, 1000 + (uint64_t)q) % 1000);

		if ((int)(mix2(key, (uint64_t)q) % (uint64_t)colours) != mine)
			continue;
		in_all++;
		before += other < place || (other == place && q < storm.rank);
	}
	storm_at("MPI_Comm_split", -1, -1);
	MPI_Comm_split(storm.comm, mine, place, &part);
	MPI_Comm_rank(part, &me);
	MPI_Comm_size(part, &n);
	storm_check(me == before && n == in_all, "MPI_Comm_split made this process number %d of %d where %d of %d is right", me,
	            n, before, in_all);
	storm_at("MPI_Comm_dup", -1, -1);
	MPI_Comm_dup(part, &twin);
	storm_at("MPI_Sendrecv in a part", (me + 1) % n, 1);
	MPI_Sendrecv(&me, 1, MPI_INT, (me + 1) % n, 1, &token, 1, MPI_INT, (me + n - 1) % n, 1, twin, &st);
	storm_check(token == (me + n - 1) % n, "the left neighbour in a part of the world is %d, not %d", token, (me + n - 1) % n);
	for (int k = 0; k < 2; k++) {
		struct rng same = { mix2(key, (uint64_t)(mine * 2 + k)) };

		collective(&same, k ? twin : part, me, n);
	}
	MPI_Comm_free(&twin);
	MPI_Comm_free(&part);
}
