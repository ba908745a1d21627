/* SPDX-License-Identifier: BSD-2-Clause */
/* Seeds, the story of a failure, and the episodes of a simulation. See story.h. */
#include "tests/sim/story.h"

#include <time.h>

#include "tests/tap.h"

#define STORY 120u

uint64_t sim_seed, sim_step;
static uint64_t rng, story_n;
static struct { const char *what; int a, b; uint64_t c, d, step; } story[STORY];
static const struct sim_play *playing;

uint64_t sim_mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

uint64_t sim_rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

void sim_event(const char *what, int a, int b, uint64_t c, uint64_t d)
{
	story[story_n % STORY].what = what;
	story[story_n % STORY].a = a;
	story[story_n % STORY].b = b;
	story[story_n % STORY].c = c;
	story[story_n % STORY].d = d;
	story[story_n++ % STORY].step = sim_step;
}

_Noreturn void sim_fail(const char *what)
{
	static bool is_failing;

	if (is_failing)
		_exit(1);
	is_failing = true;
	for (uint64_t i = story_n > STORY ? story_n - STORY : 0; i < story_n; i++) {
		char line[200];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(line, sizeof(line), story[i % STORY].what, story[i % STORY].a, story[i % STORY].b,
		         (unsigned long long)story[i % STORY].c, (unsigned long long)story[i % STORY].d);
#pragma GCC diagnostic pop
		diag("%8llu  %s", (unsigned long long)story[i % STORY].step, line);
	}
	playing->dump();
	diag("replay: %s --seed %llu", playing->name, (unsigned long long)sim_seed);
	ok(false, "seed %llu, step %llu: %s", (unsigned long long)sim_seed, (unsigned long long)sim_step, what);
	tap_done();
	_exit(1);
}

static void on_signal(int sig) { sim_fail(sig == SIGABRT ? "abort()" : "a crash"); }

void sim_say(const char *fmt, ...)
{
	char line[1000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	diag("%s", line);
}

int sim_main(int argc, char **argv, const struct sim_play *play)
{
	uint64_t first = 1, n = 0;
	double seconds = 2.5, took;
	struct timespec t, begun;
	bool is_one = false;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 0);
			is_one = true;
		} else if (!strcmp(argv[i], "--from") && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 0);
		} else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) {
			seconds = strtod(argv[++i], NULL);
		} else {
			fprintf(stderr, "usage: %s [--seed N | --from N] [--seconds N]\n", play->name);
			return 2;
		}
	}
	playing = play;
	tap_begin((unsigned)seconds + 240);
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		sim_seed = first + n++;
		rng = sim_mix(sim_seed + 1) | 1;
		sim_step = story_n = 0;
		play->episode();
		clock_gettime(CLOCK_MONOTONIC, &t);
		took = (double)(t.tv_sec - begun.tv_sec) + (double)(t.tv_nsec - begun.tv_nsec) * 1e-9;
	} while (!is_one && took < seconds);
	ok(true, "%s, in %llu episodes from seed %llu on", play->holds, (unsigned long long)n, (unsigned long long)first);
	diag("%.0f episodes in a second", (double)n / took);
	play->figures();
	ok(is_one || play->was_busy(), "%s", play->busy);
	return tap_done();
}
