/* SPDX-License-Identifier: BSD-2-Clause */
/* Downtime of moves between two daemon processes on this machine over loopback TCP, by phase. */
#include "container/test_pair.h"

#include <getopt.h>

#define MOVES 31

static int order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double median_us(uint64_t *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), order);
	return (double)v[n / 2] / 1e3;
}

static void bench(const char *victim, const char *name, const char *a1, const char *a2, const char *a3, const char *a4)
{
	static uint64_t down[MOVES], stop[MOVES], capture[MOVES], transfer[MOVES], reading[MOVES], feed[MOVES], ready[MOVES], thaw[MOVES];
	uint32_t vmas = 0, threads = 0;
	uint64_t bytes = 0;
	char line[256];
	struct pair p;
	int n = 0;

	pair_start(&p, NULL, NULL, true);
	if (pair_spawn(&p, 4000, victim, a1, a2, a3, a4, NULL) < 0 || !rank_says(&p, line, sizeof(line))) {
		printf("%s: %s\n", name, p.last.why.text);
		pair_stop(&p);
		return;
	}
	for (int i = 0; i < MOVES; i++) {
		const struct move_stats *s = &p.last.stats;

		if (pair_move(&p) < 0) {
			printf("%s: %s\n", name, p.last.why.text);
			break;
		}
		if (i == 0)
			continue; /* everything is cold */
		down[n] = s->thaw.thawed_at_ns - s->freeze.frozen_at_ns + s->freeze.stop_ns;
		stop[n] = s->freeze.stop_ns;
		capture[n] = s->freeze.capture_ns;
		transfer[n] = s->transfer_ns;
		reading[n] = s->read_ns;
		feed[n] = s->feed_ns;
		ready[n] = s->ready_ns;
		thaw[n] = s->thaw.thaw_ns;
		bytes = s->image_bytes;
		vmas = s->freeze.vmas;
		threads = s->freeze.threads;
		n++;
	}
	if (n)
		printf("%-34s %7.0f %6u %4u %9.0f %9.0f %8.0f %8.0f %9.0f %8.0f %8.0f %8.0f %8.0f\n", name, (double)bytes / 1024, threads, vmas,
		       (double)(qsort(down, (size_t)n, sizeof(down[0]), order), down[0]) / 1e3, median_us(down, n),
		       median_us(stop, n), median_us(capture, n), median_us(transfer, n), median_us(reading, n), median_us(feed, n), median_us(ready, n), median_us(thaw, n));
	pair_stop(&p);
}

int main(int argc, char **argv)
{
	const char *top = getenv("top_builddir");
	char victim[512];

	if (argc > 1)
		snprintf(victim, sizeof(victim), "%s", argv[1]);
	else
		snprintf(victim, sizeof(victim), "%s/container/victim", top ? top : ".");
	printf("%-34s %7s %6s %4s %9s %9s %8s %8s %9s %8s %8s %8s %8s\n", "microseconds; median of 30", "KiB", "thread", "maps",
	       "down min", "down med", "stop", "capture", "transfer", "(read)", "(feed)", "ready", "thaw");
	bench(victim, "one thread", "heap", "0", NULL, NULL);
	bench(victim, "five threads that wait", "heap", "0", "5", NULL);
	bench(victim, "five threads that compute", "compute", "4", NULL, NULL);
	bench(victim, "4 MiB, two threads", "heap", "4", "2", NULL);
	bench(victim, "64 MiB of 4 KiB pages", "heap", "64", NULL, NULL);
	bench(victim, "64 MiB of huge pages", "heap", "64", "1", "huge");
	return 0;
}
