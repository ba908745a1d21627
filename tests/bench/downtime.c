/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * downtime: an MPI hello whose ranks do nothing but watch the clock, for measuring a move from inside.
 *
 *	mpirun -n 2 downtime END [MIB [MIB_PER_SECOND [HOT_MIB [work]]]]
 *
 * They end after END seconds; when END is the path of a file, as soon as that is there.
 *
 * With MIB they have that much memory, all of it written, and with MIB_PER_SECOND they write to it at that rate, page after
 * page of all of it or of the first HOT_MIB, and check in the end that each page holds what was written last.
 *
 * With 'work' the rate is not kept by the clock but by work between two pages, as much as makes that rate when nothing disturbs
 * it: who is slowed down does not catch up. Every 10 ms how far it is, and the processor time that it has used, are noted, and
 * printed in the end.
 *
 * Every pause of more than 300 microseconds is printed at once: when it began and ended by CLOCK_REALTIME, and by how
 * much CLOCK_MONOTONIC advanced over it. Rank 0 waits in MPI_Recv until the others are done, so that a job has both; a rank
 * that is alone watches, too.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both clocks at one moment: a pause between the two readings would look like a jump of one clock. */
static void now_both(uint64_t *real, uint64_t *mono)
{
	uint64_t after;

	do {
		*mono = now(CLOCK_MONOTONIC);
		*real = now(CLOCK_REALTIME);
		after = now(CLOCK_MONOTONIC);
	} while (after - *mono > 2000);
}

/* What a move has to carry: mappings, and private memory that the process has written, in bytes. */
static void print_size(int rank)
{
	unsigned long mappings = 0, private_dirty = 0, kib;
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		mappings += sscanf(line, "%*x-%*x %*s %*x %*s %lu", &kib) == 1;
		if (sscanf(line, "Private_Dirty: %lu kB", &kib) == 1)
			private_dirty += kib;
	}
	if (f)
		fclose(f);
	printf("size rank=%d mappings=%lu private_dirty_bytes=%lu\n", rank, mappings, private_dirty * 1024);
}

#define PAGE 4096u
#define LOOK_NS 10000000u /* how often they look for the file */

struct memory {
	uint64_t *at;
	size_t pages, hot, next;
	uint64_t turn;           /* what a page of the hot part holds that was written in this turn; before: one less */
	uint64_t begin_ns, written;
	double per_ns;           /* pages */
	unsigned work;           /* turns of a loop between two pages; 0: the clock keeps the rate */
	struct note { uint64_t real, written, cpu; } *notes;
	size_t noted;
};

#define NOTES   65536
#define NOTE_NS 10000000u

/* A chain of multiplications in a register. A counter in memory would take one cycle a turn or five, as the processor guesses. */
static void work(unsigned turns)
{
	uint64_t x = turns;

	for (unsigned i = 0; i < turns; i++) {
		x = x * 6364136223846793005u + 1;
		__asm__ volatile("" : "+r"(x));
	}
}

static void memory_make(struct memory *m, size_t mib, double rate, size_t hot_mib)
{
	m->pages = (mib << 20) / PAGE;
	m->hot = hot_mib && hot_mib < mib ? (hot_mib << 20) / PAGE : m->pages;
	m->per_ns = rate * (1 << 20) / PAGE / 1e9;
	m->turn = 1;
	if (m->pages && !(m->at = aligned_alloc(PAGE, m->pages * PAGE)))
		MPI_Abort(MPI_COMM_WORLD, 1);
	for (size_t i = 0; i < m->pages * PAGE / sizeof(uint64_t); i++)
		m->at[i] = i + 1;
	m->begin_ns = now(CLOCK_MONOTONIC);
}

/* One page, when its time has come. */
static void memory_write(struct memory *m, uint64_t mono)
{
	if (m->work)
		work(m->work);
	else if (!m->hot || (double)m->written >= (double)(mono - m->begin_ns) * m->per_ns)
		return;
	m->at[m->next * PAGE / sizeof(uint64_t)] = m->turn;
	m->written++;
	if (++m->next == m->hot) {
		m->next = 0;
		m->turn++;
	}
}

/* How much work makes the rate, from the fastest of some tries. */
static void memory_calibrate(struct memory *m)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 20; i++) {
		uint64_t begin = now(CLOCK_MONOTONIC), took;

		work(1000000);
		took = now(CLOCK_MONOTONIC) - begin;
		best = took < best ? took : best;
	}
	m->work = (unsigned)(1e6 / m->per_ns / (double)best) + 1;
	m->notes = calloc(NOTES, sizeof(*m->notes));
	if (!m->notes)
		MPI_Abort(MPI_COMM_WORLD, 1);
	memset(m->notes, 1, NOTES * sizeof(*m->notes));
}

static void memory_note(struct memory *m, uint64_t real)
{
	if (m->noted == NOTES || (m->noted && real - m->notes[m->noted - 1].real < NOTE_NS))
		return;
	m->notes[m->noted++] = (struct note){ real, m->written, now(CLOCK_THREAD_CPUTIME_ID) };
}

static void memory_check(const struct memory *m, int rank)
{
	size_t bad = 0, words = PAGE / sizeof(uint64_t);

	for (size_t i = 0; i < m->pages * words; i++) {
		uint64_t want = i + 1;

		if (i % words == 0 && i / words < m->hot && (m->turn > 1 || i / words < m->next))
			want = i / words < m->next ? m->turn : m->turn - 1;
		bad += m->at[i] != want;
	}
	printf("memory rank=%d bad=%zu written_pages=%llu\n", rank, bad, (unsigned long long)m->written);
}

int main(int argc, char **argv)
{
	struct memory memory = { 0 };
	int rank, size, nothing = 0;
	const char *file = argc > 1 && strchr(argv[1], '/') ? argv[1] : NULL;
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	uint64_t real, mono, end;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (rank == 0 && size > 1) {
		for (int i = 1; i < size; i++)
			MPI_Recv(&nothing, 1, MPI_INT, MPI_ANY_SOURCE, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Finalize();
		return 0;
	}
	if (argc > 2)
		memory_make(&memory, (size_t)atol(argv[2]), argc > 3 ? atof(argv[3]) : 0, argc > 4 ? (size_t)atol(argv[4]) : 0);
	if (argc > 5 && strcmp(argv[5], "work") == 0 && memory.per_ns > 0)
		memory_calibrate(&memory);
	print_size(rank);
	now_both(&real, &mono);
	end = mono + (file ? LOOK_NS : (uint64_t)(seconds * 1e9));
	printf("ready rank=%d\n", rank);
	while (mono < end) {
		uint64_t r, m;

		now_both(&r, &m);
		if (r - real > 300000)
			printf("pause rank=%d from_ns=%llu to_ns=%llu monotonic_ns=%llu\n", rank,
			       (unsigned long long)real, (unsigned long long)r, (unsigned long long)(m - mono));
		real = r;
		mono = m;
		memory_write(&memory, m);
		if (memory.notes)
			memory_note(&memory, r);
		if (file && mono >= end && access(file, F_OK) < 0)
			end = mono + LOOK_NS;
	}
	for (size_t i = 0; i < memory.noted; i++)
		printf("note rank=%d at_ns=%llu written_pages=%llu cpu_ns=%llu\n", rank, (unsigned long long)memory.notes[i].real,
		       (unsigned long long)memory.notes[i].written, (unsigned long long)memory.notes[i].cpu);
	memory_check(&memory, rank);
	if (size > 1)
		MPI_Send(&nothing, 1, MPI_INT, 0, 1, MPI_COMM_WORLD);
	MPI_Finalize();
	return 0;
}
