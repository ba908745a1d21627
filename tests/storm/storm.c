/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/storm.c: options, the sequence of steps, rates and gaps, and the last word. See storm.h. */
#include "tests/storm/storm.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

struct storm storm;

static const char help[] =
	"Usage: storm [options]\n"
	"Exchanges messages of all kinds between 2 to 64 ranks and checks every byte.\n\n"
	"  --seed N          what happens is drawn from this (default: from the clock; printed)\n"
	"  --steps N         stop after N steps (default: 500 unless --seconds or --stop-file)\n"
	"  --seconds T       stop after about T seconds\n"
	"  --stop-file PATH  stop soon after this file has appeared\n"
	"  --max-size BYTES  longest message (default 4194304)\n"
	"  --huge BYTES      now and then a message of up to so many bytes, watched while it arrives (default: none)\n"
	"  --compute-ms T    longest time that a rank computes without MPI (default 1000)\n"
	"  --gaps PREFIX     write each rank's gaps inside malloc and computing to PREFIX.<rank>\n"
	"  --progress        a line every second\n"
	"  --phase NAME      only this phase, again and again: ordered, batch, ..., one-sided, ...\n"
	"  --help            this text\n"
	"SIGUSR2 makes a rank say where it is.\n";

/* ---- saying things --------------------------------------------------------------------------------------------- */

_Noreturn void storm_fail(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "STORM FAILED rank %d, step %ld (%s, %s): %s; seed %llu, %d ranks\n", storm.rank, storm.step, storm.phase,
	        storm.call, text, (unsigned long long)storm.seed, storm.ranks);
	fflush(stderr);
	MPI_Abort(MPI_COMM_WORLD, 9);
	_exit(9);
}

static void on_usr2(int sig)
{
	char text[300];
	int len = snprintf(text, sizeof(text), "STORM WHERE rank %d, step %ld: %s, %s, peer %d, tag %d\n", storm.rank, storm.step,
	                   storm.phase, storm.call, storm.peer, storm.tag);

	(void)sig;
	if (write(STDERR_FILENO, text, (size_t)len) < 0)
		return;
}

static _Noreturn void leave(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (storm.rank == 0)
		vfprintf(status ? stderr : stdout, fmt, ap);
	va_end(ap);
	MPI_Finalize();
	exit(status);
}

static uint64_t number(const char *what, const char *s, uint64_t max)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (errno || end == s || *end || *s == '-' || v > max)
		leave(2, "storm: --%s must be a whole number up to %llu, not '%s'\n", what, (unsigned long long)max, s);
	return v;
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

uint64_t storm_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t mono_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

enum { GAPS = 16384 };
static struct { const char *what; uint64_t from_ns, to_ns; } gaps[GAPS];
static int gaps_used;

void storm_gap(const char *what, uint64_t from_ns, uint64_t to_ns)
{
	if (gaps_used < GAPS) {
		gaps[gaps_used].what = what;
		gaps[gaps_used].from_ns = from_ns;
		gaps[gaps_used++].to_ns = to_ns;
	}
}

static void gaps_write(const char *prefix)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s.%d", prefix, storm.rank);
	f = fopen(path, "w");
	storm_check(f, "cannot write '%s': %s", path, strerror(errno));
	for (int i = 0; i < gaps_used; i++)
		fprintf(f, "%s %llu %llu\n", gaps[i].what, (unsigned long long)gaps[i].from_ns, (unsigned long long)gaps[i].to_ns);
	storm_check(fclose(f) == 0, "cannot write '%s': %s", path, strerror(errno));
}

/* Steps of this rank, counted by second, and the longest time between the ends of two steps. */
enum { SECONDS = 3600 };
struct rates {
	uint64_t start_mono_ns, start_real_ns, last_mono_ns, last_real_ns;
	uint64_t gap_mono_ns, gap_real_ns, gap_at_ns; /* the longest: by each clock, and when it began */
	uint64_t least_ns;                            /* most that MONOTONIC has ever stepped back: must stay 0 */
	uint32_t second[SECONDS];
};
static struct rates rates;

static void rates_step(void)
{
	uint64_t mono = mono_now_ns(), real = storm_now_ns(), at;

	if (mono < rates.last_mono_ns)
		storm_fail("CLOCK_MONOTONIC went back by %llu ns", (unsigned long long)(rates.last_mono_ns - mono));
	if (real - rates.last_real_ns > rates.gap_real_ns) {
		rates.gap_real_ns = real - rates.last_real_ns;
		rates.gap_mono_ns = mono - rates.last_mono_ns;
		rates.gap_at_ns = rates.last_real_ns;
	}
	rates.last_mono_ns = mono;
	rates.last_real_ns = real;
	at = (mono - rates.start_mono_ns) / 1000000000;
	rates.second[at < SECONDS ? at : SECONDS - 1]++;
}

static void rates_report(void)
{
	double seconds = (double)(rates.last_mono_ns - rates.start_mono_ns) / 1e9, real_seconds;
	uint32_t slowest = UINT32_MAX, fastest = 0;
	double row[7], all[MAX_RANKS * 7];

	real_seconds = (double)(rates.last_real_ns - rates.start_real_ns) / 1e9;
	for (int s = 0; s < (int)seconds && s < SECONDS; s++) {
		slowest = rates.second[s] < slowest ? rates.second[s] : slowest;
		fastest = rates.second[s] > fastest ? rates.second[s] : fastest;
	}
	row[0] = (double)storm.step;
	row[1] = seconds;
	row[2] = real_seconds;
	row[3] = slowest == UINT32_MAX ? 0 : slowest;
	row[4] = fastest;
	row[5] = (double)rates.gap_real_ns / 1e6;
	row[6] = (double)rates.gap_mono_ns / 1e6;
	MPI_Gather(row, 7, MPI_DOUBLE, all, 7, MPI_DOUBLE, 0, storm.comm);
	for (int q = 0; storm.rank == 0 && q < storm.ranks; q++) {
		double *v = all + 7 * q;

		printf("STORM RATE rank=%d steps=%.0f seconds=%.3f realtime=%.3f rate=%.2f slowest_second=%.0f fastest_second=%.0f "
		       "largest_gap_ms=%.3f largest_gap_mono_ms=%.3f\n", q, v[0], v[1], v[2], v[1] > 0 ? v[0] / v[1] : 0, v[3], v[4],
		       v[5], v[6]);
	}
}

/* ---- the steps ------------------------------------------------------------------------------------------------- */

static void ordered_by_all(struct rng *r)
{
	int with[MAX_RANKS];

	for (int q = 0; q < storm.ranks; q++)
		with[q] = q;
	phase_ordered(r, with, storm.ranks);
}

static const struct { const char *name; void (*run)(struct rng *); int weight; } phases[] = {
	{ "ordered",       ordered_by_all,      230 },
	{ "batch",         phase_batch,         280 },
	{ "stream",        phase_stream,         70 },
	{ "shift",         phase_shift,          80 },
	{ "persistent",    phase_persistent,     70 },
	{ "partitioned",   phase_partitioned,    30 },
	{ "collective",    phase_collective,    120 },
	{ "communicators", phase_communicators,  30 },
	{ "one-sided",     phase_one_sided,      35 },
	{ "alone",         phase_alone,           5 },
	{ "malloc",        phase_malloc,         50 },
};

static int only = -1; /* phase; or all */

static int phase_named(const char *name)
{
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		if (!strcmp(phases[i].name, name))
			return (int)i;
	leave(2, "storm: there is no phase '%s'\n", name);
}

static void step(void)
{
	struct rng r = { mix2(storm.seed, (uint64_t)storm.step) };
	bool is_huge = storm.huge_len && rng_in(&r, 0, 15) == 0;
	long dice = rng_in(&r, 0, 999);
	int i = 0;

	if (only >= 0) {
		storm.phase = phases[only].name;
		phases[only].run(&r);
		return;
	}
	if (is_huge) {
		storm.phase = "huge";
		phase_huge(&r);
		return;
	}

	while (dice >= phases[i].weight)
		dice -= phases[i++].weight;
	storm.phase = phases[i].name;
	phases[i].run(&r);
}

/* Rank 0 looks at the clock and the file; all stop at the same step. Every 8 steps, so that it costs little. */
static bool is_over(double seconds, const char *stop_file)
{
	int over = 0;

	if (storm.step % 8)
		return false;
	if (storm.rank == 0)
		over = (seconds > 0 && (double)(mono_now_ns() - rates.start_mono_ns) > seconds * 1e9) ||
		       (stop_file && access(stop_file, F_OK) == 0);
	storm_at("MPI_Bcast: whether to stop", 0, -1);
	MPI_Bcast(&over, 1, MPI_INT, 0, storm.comm);
	return over;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "seed", 1, NULL, 's' }, { "steps", 1, NULL, 'n' }, { "seconds", 1, NULL, 't' },
		{ "stop-file", 1, NULL, 'f' }, { "max-size", 1, NULL, 'm' }, { "compute-ms", 1, NULL, 'c' },
		{ "gaps", 1, NULL, 'g' }, { "huge", 1, NULL, 'u' }, { "progress", 0, NULL, 'p' },
		{ "phase", 1, NULL, 'o' }, { "help", 0, NULL, 'h' }, { 0 } };
	const char *stop_file = NULL, *gaps_prefix = NULL;
	bool has_seed = false, is_talkative = false;
	uint64_t mine[3], all[3], shown = 0;
	double seconds = 0;
	long steps = 0;
	int opt;

	storm.phase = storm.call = "starting";
	storm.max_len = 4 << 20;
	storm.compute_ms = 1000;
	mallopt(M_MMAP_THRESHOLD, 128 << 10); /* fixed: what a big message used is gone when it is freed */
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &storm.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &storm.ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (opt) {
		case 's': storm.seed = number("seed", optarg, UINT64_MAX); has_seed = true; break;
		case 'n': steps = (long)number("steps", optarg, 1000000000); break;
		case 't': seconds = (double)number("seconds", optarg, 1000000); break;
		case 'f': stop_file = optarg; break;
		case 'u': storm.huge_len = (size_t)number("huge", optarg, 1 << 30); break;
		case 'm': storm.max_len = (size_t)number("max-size", optarg, 1 << 30); break;
		case 'c': storm.compute_ms = (long)number("compute-ms", optarg, 60000); break;
		case 'g': gaps_prefix = optarg; break;
		case 'p': is_talkative = true; break;
		case 'o': only = phase_named(optarg); break;
		case 'h': leave(0, "%s", help);
		default: leave(2, "storm: bad option '%s'; see --help\n", argv[optind - 1]);
		}
	}
	if (optind < argc)
		leave(2, "storm: unexpected argument '%s'; see --help\n", argv[optind]);
	if (storm.ranks < 2 || storm.ranks > MAX_RANKS)
		leave(2, "storm: 2 to %d ranks are needed, not %d\n", MAX_RANKS, storm.ranks);
	if (!steps && seconds <= 0 && !stop_file)
		steps = 500;
	if (!has_seed)
		storm.seed = storm_now_ns() / 1000;
	MPI_Bcast(&storm.seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
	MPI_Comm_dup(MPI_COMM_WORLD, &storm.comm);
	sigaction(SIGUSR2, &(struct sigaction){ .sa_handler = on_usr2, .sa_flags = SA_RESTART }, NULL);
	bsend_begin();
	MPI_Barrier(storm.comm);
	if (storm.rank == 0) {
		printf("STORM START seed=%llu ranks=%d steps=%ld seconds=%.0f\n", (unsigned long long)storm.seed, storm.ranks, steps,
		       seconds);
		fflush(stdout);
	}

	rates.start_mono_ns = rates.last_mono_ns = mono_now_ns();
	rates.start_real_ns = rates.last_real_ns = storm_now_ns();
	while (!(steps && storm.step == steps) && !is_over(seconds, stop_file)) {
		step();
		storm.step++;
		rates_step();
		if (is_talkative && storm.rank == 0 && (rates.last_mono_ns - rates.start_mono_ns) / 1000000000 > shown) {
			shown = (rates.last_mono_ns - rates.start_mono_ns) / 1000000000;
			printf("STORM step=%ld seconds=%llu messages=%llu (of rank 0)\n", storm.step, (unsigned long long)shown,
			       (unsigned long long)storm.messages);
			fflush(stdout);
		}
	}

	storm.phase = storm.call = "ending";
	bsend_end();
	rates_report();
	if (gaps_prefix)
		gaps_write(gaps_prefix);
	mine[0] = storm.checksum;
	mine[1] = storm.messages;
	mine[2] = storm.bytes;
	MPI_Reduce(mine, all, 3, MPI_UINT64_T, MPI_SUM, 0, storm.comm);
	if (storm.rank == 0)
		printf("STORM OK steps=%ld messages=%llu bytes=%llu checksum=%016llx seed=%llu ranks=%d\n", storm.step,
		       (unsigned long long)all[1], (unsigned long long)all[2], (unsigned long long)all[0],
		       (unsigned long long)storm.seed, storm.ranks);
	fflush(stdout);
	MPI_Comm_free(&storm.comm);
	MPI_Finalize();
	return 0;
}
