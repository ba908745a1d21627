/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Atomic operations through libfabric's calls: two processes on one host segment. The child lends its memory and, when
 * it is told so, adds to ours while we add to its. Every check is made by the parent.
 */
#include <complex.h>

#include "mpi-shim/rma.h"
#include "mpi-shim/test_shim.h"
#include "noc/local.h"

enum { WINDOW = 1 << 20, KEY = 77, ADDS = 20000, CELLS = 16 };

static struct {
	_Atomic uint32_t state; /* parent: 1 add, 2 end, 3 answer the next one late. Child: 10 ready, 11 has added, 13 will be late */
	_Atomic uint64_t drawn; /* sum of what the child fetched */
} *both;

static struct fid_mr *mr;
static char *memory; /* ours */
static struct fi_context2 context;

static void turn(void)
{
	fi_cntr_read(cntr); /* progress that leaves the queue alone */
	sched_yield();
}

static void wait_counted(uint64_t count)
{
	while (fi_cntr_read(rma_cntr) < count)
		sched_yield();
}

/* Both sides: add one to each of the other's cells, again and again; the sum of what was there before. */
static uint64_t add_to(int peer)
{
	static uint64_t fetched[ADDS];
	uint64_t one = 1, sum = 0, counted = fi_cntr_read(rma_cntr);

	for (int i = 0; i < ADDS; i++) {
		struct fi_ioc operand = { &one, 1 }, result = { &fetched[i], 1 };
		struct fi_rma_ioc target = { (uint64_t)(i % CELLS) * 8, 1, KEY };
		struct fi_msg_atomic m = { .msg_iov = &operand, .iov_count = 1, .addr = peers[peer], .rma_iov = &target,
		                           .rma_iov_count = 1, .datatype = FI_UINT64, .op = FI_SUM };

		while (fi_fetch_atomicmsg(ep, &m, &result, NULL, 1, 0) == -FI_EAGAIN)
			turn();
	}
	wait_counted(counted + ADDS);
	for (int i = 0; i < ADDS; i++)
		sum += fetched[i];
	return sum;
}

static void lend(int segment_fd, uint32_t proc)
{
	open_all(segment_fd, proc, mpich_hints());
	memory = calloc(1, WINDOW);
	if (!memory || fi_mr_reg(domain, memory, WINDOW, FI_REMOTE_READ | FI_REMOTE_WRITE, 0, KEY, 0, &mr, NULL))
		tap_bail("no memory to lend");
}

static int child(int segment_fd)
{
	lend(segment_fd, PEER);
	atomic_store(&both->state, 10);
	while (atomic_load(&both->state) != 2) {
		if (atomic_load(&both->state) == 1) {
			atomic_store(&both->drawn, add_to(ME));
			atomic_store(&both->state, 11);
		}
		if (atomic_load(&both->state) == 3) {
			atomic_store(&both->state, 13);
			while (!atomic_load(&noc_inbox_at(&noc_me->seg, ME)->asleep))
				sched_yield();
		}
		turn();
	}
	fi_close(&mr->fid);
	if (!close_all())
		return 1;
	noc_stop();
	return 0;
}

/* ---- the checks ------------------------------------------------------------------------------------------------ */

static int done(ssize_t rc)
{
	struct fi_cq_err_entry e;

	if (rc)
		return (int)rc;
	e = next_completion();
	return e.err ? -e.err : e.op_context == &context ? 0 : 1;
}

static void put(const void *buf, size_t len, uint64_t at)
{
	if (done(fi_write(ep, buf, len, NULL, peers[PEER], at, KEY, &context)))
		tap_bail("a plain write failed");
}

static void get(void *buf, size_t len, uint64_t at)
{
	if (done(fi_read(ep, buf, len, NULL, peers[PEER], at, KEY, &context)))
		tap_bail("a plain read failed");
}

static void test_valid(void)
{
	static const enum fi_datatype integers[] = { FI_INT8, FI_UINT8, FI_INT16, FI_UINT16, FI_INT32, FI_UINT32, FI_INT64,
	                                             FI_UINT64 };
	static const enum fi_op plain[] = { FI_SUM, FI_PROD, FI_MIN, FI_MAX, FI_LOR, FI_LAND, FI_LXOR, FI_BOR, FI_BAND,
	                                    FI_BXOR, FI_ATOMIC_WRITE };
	size_t n = 0, many = 0, pairs = 0;

	for (size_t i = 0; i < GW_ARRAY_LEN(integers); i++) {
		for (size_t k = 0; k < GW_ARRAY_LEN(plain); k++)
			pairs += !fi_atomicvalid(ep, integers[i], plain[k], &n) && !fi_fetch_atomicvalid(ep, integers[i], plain[k], &many) &&
			         n > 1 << 30 && many == n;
		pairs += !fi_fetch_atomicvalid(ep, integers[i], FI_ATOMIC_READ, &n) &&
		         !fi_compare_atomicvalid(ep, integers[i], FI_CSWAP, &many) && many == n;
	}
	is_int(pairs, 8 * 12, "all that MPI does to integers is offered, of any length");
	ok(!fi_fetch_atomicvalid(ep, FI_DOUBLE, FI_LAND, &n) && !fi_atomicvalid(ep, FI_LONG_DOUBLE, FI_MAX, &n) &&
	   !fi_atomicvalid(ep, FI_DOUBLE_COMPLEX, FI_PROD, &n), "and to floating and complex numbers");
	ok(fi_atomicvalid(ep, FI_DOUBLE, FI_BXOR, &n) == -FI_EOPNOTSUPP &&
	   fi_atomicvalid(ep, FI_FLOAT_COMPLEX, FI_MIN, &n) == -FI_EOPNOTSUPP &&
	   fi_atomicvalid(ep, FI_INT32, FI_CSWAP, &n) == -FI_EOPNOTSUPP &&
	   fi_atomicvalid(ep, FI_INT32, FI_ATOMIC_READ, &n) == -FI_EOPNOTSUPP &&
	   fi_compare_atomicvalid(ep, FI_INT32, FI_SUM, &n) == -FI_EOPNOTSUPP &&
	   fi_fetch_atomicvalid(ep, FI_DATATYPE_LAST, FI_SUM, &n) == -FI_EOPNOTSUPP, "what makes no sense is not");
}

/* Each operation once on three elements, here and at the peer. */
static void test_integers(int peer)
{
	static const struct { enum fi_op op; const char *name; int32_t want[3]; } cases[] = {
		{ FI_SUM, "SUM", { 7, INT32_MIN, -1 } },     { FI_PROD, "PROD", { 10, INT32_MAX, 0 } },
		{ FI_MIN, "MIN", { 2, 1, -1 } },             { FI_MAX, "MAX", { 5, INT32_MAX, 0 } },
		{ FI_LOR, "LOR", { 1, 1, 1 } },              { FI_LAND, "LAND", { 1, 1, 0 } },
		{ FI_LXOR, "LXOR", { 0, 0, 1 } },            { FI_BOR, "BOR", { 7, INT32_MAX, -1 } },
		{ FI_BAND, "BAND", { 0, 1, 0 } },            { FI_BXOR, "BXOR", { 7, INT32_MAX - 1, -1 } },
		{ FI_ATOMIC_WRITE, "WRITE", { 2, 1, -1 } },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(cases); i++) {
		int32_t is[3] = { 5, INT32_MAX, 0 }, by[3] = { 2, 1, -1 }, was[3] = { 0 }, now[3] = { 0 };
		int rc;

		/* an odd address: nothing need be aligned */
		rc = done(fi_write(ep, is, sizeof(is), NULL, peers[peer], 3, KEY, &context));
		rc = rc ? rc : done(fi_fetch_atomic(ep, by, 3, NULL, was, NULL, peers[peer], 3, KEY, FI_INT32, cases[i].op, &context));
		rc = rc ? rc : done(fi_fetch_atomic(ep, NULL, 3, NULL, now, NULL, peers[peer], 3, KEY, FI_INT32, FI_ATOMIC_READ, &context));
		ok(rc == 0 && !memcmp(was, is, sizeof(is)) && !memcmp(now, cases[i].want, sizeof(now)), "%s, %s", cases[i].name,
		   peer == ME ? "on one's own memory" : "on the peer's");
	}
}

static void test_floats(void)
{
	double d[2] = { 1.5, -2 }, e[2] = { 2, -0.5 }, was[2];
	long double l = 3, m = 4;
	float complex c = 1 + 2 * I, f = 3 - I;

	put(d, sizeof(d), 0);
	is_int(done(fi_fetch_atomic(ep, e, 2, NULL, was, NULL, peers[PEER], 0, KEY, FI_DOUBLE, FI_MAX, &context)), 0, "MAX of doubles");
	is_int(done(fi_atomic(ep, e, 2, NULL, peers[PEER], 0, KEY, FI_DOUBLE, FI_SUM, &context)), 0, "SUM of doubles");
	get(d, sizeof(d), 0);
	ok(was[0] == 1.5 && was[1] == -2 && d[0] == 4 && d[1] == -1, "are right");
	put(&l, sizeof(l), 16);
	is_int(done(fi_atomic(ep, &m, 1, NULL, peers[PEER], 16, KEY, FI_LONG_DOUBLE, FI_PROD, &context)), 0, "PROD of a long double");
	get(&l, sizeof(l), 16);
	ok(l == 12, "is right");
	put(&c, sizeof(c), 32);
	is_int(done(fi_atomic(ep, &f, 1, NULL, peers[PEER], 32, KEY, FI_FLOAT_COMPLEX, FI_PROD, &context)), 0, "PROD of a complex number");
	get(&c, sizeof(c), 32);
	ok(c == 5 + 5 * I, "is right");
}

static void test_swap(void)
{
	uint16_t is[2] = { 7, 8 }, compare[2] = { 7, 9 }, by[2] = { 100, 200 }, was[2], now[2];

	put(is, sizeof(is), 2);
	is_int(done(fi_compare_atomic(ep, by, 2, NULL, compare, NULL, was, NULL, peers[PEER], 2, KEY, FI_UINT16, FI_CSWAP,
	                              &context)), 0, "compare-and-swap");
	get(now, sizeof(now), 2);
	ok(was[0] == 7 && was[1] == 8 && now[0] == 100 && now[1] == 8, "changes what is equal, tells what was there");
}

/* Many pieces, and what is asked while they are under way. */
static void test_long(void)
{
	enum { N = 100000 };
	uint64_t *by = malloc(N * 8), *was = malloc(N * 8), *now = malloc(N * 8), counted, one = 1, old;
	bool good = true;
	ssize_t rc;

	for (size_t i = 0; i < N; i++)
		by[i] = i * i;
	put(by, N * 8, 0);
	is_int(done(fi_fetch_atomic(ep, by, N, NULL, was, NULL, peers[PEER], 0, KEY, FI_UINT64, FI_SUM, &context)), 0, "a long one");
	get(now, N * 8, 0);
	for (size_t i = 0; i < N; i++)
		good = good && was[i] == i * i && now[i] == 2 * i * i;
	ok(good, "is done to every element once, and each old value comes back");
	for (size_t i = 0; i < N; i++)
		was[i] = i % 2 ? 0 : now[i];
	is_int(done(fi_compare_atomic(ep, by, N, NULL, was, NULL, now, NULL, peers[PEER], 0, KEY, FI_UINT64, FI_CSWAP, &context)), 0,
	       "a long compare-and-swap");
	get(was, N * 8, 0);
	for (size_t i = 0; i < N; i++)
		good = good && was[i] == (i % 2 ? 2 * i * i : i * i) && now[i] == 2 * i * i;
	ok(good, "is right, too");

	counted = fi_cntr_read(rma_cntr);
	is_int(done(fi_write(ep, &one, 8, NULL, peers[PEER], (N - 1) * 8, KEY, &context)), 0, "the last element is one");
	rc = fi_atomic(ep, by, N, NULL, peers[PEER], 0, KEY, FI_UINT64, FI_ATOMIC_WRITE, &context);
	while (!rc && (rc = fi_fetch_atomic(ep, &one, 1, NULL, &old, NULL, peers[PEER], (N - 1) * 8, KEY, FI_UINT64, FI_SUM,
	                                    &context)) == -FI_EAGAIN)
		turn(), rc = 0;
	ok(!rc && !done(0) && !done(0) && old == by[N - 1], "what is asked after a long one finds it done");
	is_int(fi_cntr_read(rma_cntr), counted + 3, "a long one counts once");
	free(by);
	free(was);
	free(now);
}

static void test_refused(void)
{
	uint64_t one = 1, old = 5, counted = fi_cntr_read(rma_cntr), errors = fi_cntr_readerr(rma_cntr);
	char *big = calloc(1, WINDOW);

	is_int(done(fi_fetch_atomic(ep, &one, 1, NULL, &old, NULL, peers[PEER], WINDOW - 7, KEY, FI_UINT64, FI_SUM, &context)),
	       -FI_EACCES, "an element that is partly outside is refused");
	ok(old == 5, "and nothing is fetched");
	is_int(done(fi_fetch_atomic(ep, &one, 1, NULL, &old, NULL, peers[ME], 0, KEY + 1, FI_UINT64, FI_SUM, &context)), -FI_EACCES,
	       "so is a key that is none, here");
	is_int(done(fi_atomic(ep, big, WINDOW / 8, NULL, peers[PEER], WINDOW / 2, KEY, FI_UINT64, FI_SUM, &context)), -FI_EACCES,
	       "and a long one that would leave the region");
	is_int(fi_inject_atomic(ep, &one, 1, peers[PEER], 0, KEY + 1, FI_UINT64, FI_SUM), 0, "an injected one is sent");
	is_int(next_completion().err, FI_EACCES, "and its refusal told, too");
	ok(fi_cntr_read(rma_cntr) == counted && fi_cntr_readerr(rma_cntr) == errors + 4, "they are counted as errors");
	is_int(fi_atomic(ep, &one, 1, NULL, peers[PEER], 0, KEY, FI_UINT64, FI_CSWAP, &context), -FI_EOPNOTSUPP,
	       "what is not valid is not begun");
	is_int(fi_inject_atomic(ep, big, 2049, peers[PEER], 0, KEY, FI_UINT64, FI_SUM), -FI_EMSGSIZE, "nor what is too long to inject");
	free(big);
}

/* Both sides add to both memories' cells; each value is drawn once. */
static void test_at_once(void)
{
	uint64_t zero[CELLS] = { 0 }, now[CELLS], sum = 0, drawn, self = 0;
	uint64_t each = ADDS / CELLS * (uint64_t)(ADDS / CELLS - 1) / 2 * CELLS;

	put(zero, sizeof(zero), 0);
	memset(memory, 0, sizeof(zero));
	atomic_store(&both->state, 1);
	drawn = add_to(PEER);
	while (atomic_load(&both->state) != 11)
		turn();
	get(now, sizeof(now), 0);
	for (int i = 0; i < CELLS; i++) {
		sum += now[i];
		memcpy(zero, memory + i * 8, 8);
		self += zero[0];
	}
	ok(sum == ADDS && self == ADDS, "%d additions each way, at once: none is lost or done twice", ADDS);
	ok(drawn == each && atomic_load(&both->drawn) == each, "each old value is drawn once");
}

/* As MPICH flushes where ranks share cores: until the counter has come, and then once more for active messages. */
static void test_crowded(void)
{
	enum { FLUSHES = 20 };
	uint64_t one = 1, counted, sleeps, after = 0;
	struct fi_cq_tagged_entry e;

	atomic_store(&noc_me->seg.domains[0].cores, 1);
	atomic_store(&noc_me->seg.domains[0].ranks, 2);
	for (int i = 0; i < FLUSHES; i++) {
		atomic_store(&both->state, 3);
		while (atomic_load(&both->state) != 13)
			turn();
		counted = fi_cntr_read(rma_cntr);
		if (fi_inject_atomic(ep, &one, 1, peers[PEER], 0, KEY, FI_UINT64, FI_SUM))
			tap_bail("an addition is refused");
		do
			fi_cq_read(cq, &e, 1);
		while (fi_cntr_read(rma_cntr) == counted);
		sleeps = noc_counters()->sleeps;
		fi_cq_read(cq, &e, 1);
		after += noc_counters()->sleeps - sleeps;
	}
	is_int(after, 0, "on a crowded core nobody sleeps on when the answer has come");
}

int main(void)
{
	struct gw_error why = { 0 };
	int fd, status;
	pid_t pid;

	tap_begin(60);
	fd = noc_segment_create(0, 2, 1, 1, &why);
	if (fd < 0)
		tap_bail("%s", why.text);
	both = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (pid == 0)
		_exit(child(fd));
	lend(fd, ME);
	while (atomic_load(&both->state) != 10)
		turn();
	test_valid();
	test_integers(PEER);
	test_integers(ME);
	test_floats();
	test_swap();
	test_long();
	test_refused();
	test_at_once();
	test_crowded();
	atomic_store(&both->state, 2);
	while (waitpid(pid, &status, WNOHANG) == 0)
		turn();
	is_int(status, 0, "the peer ended well");
	fi_close(&mr->fid);
	ok(close_all(), "everything closes");
	free_info(info);
	noc_stop();
	return tap_done();
}
