/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/sim/story.h: what every simulation has: a seed that decides all, the last events before a failure, episodes.
 *
 * Time is counted, not measured, and nothing but sim_rnd() decides. So a seed is a run, and a failure is told with its seed
 * and with what happened before it.
 */
#ifndef STORY_H
#define STORY_H

#include <stdbool.h>
#include <stdint.h>

extern uint64_t sim_seed, sim_step;

uint64_t sim_mix(uint64_t v);
uint64_t sim_rnd(uint64_t n);           /* 0 .. n-1 */
static inline bool sim_one_in(uint64_t n) { return n && sim_rnd(n) == 0; }

/** sim_event - remember it for the story of a failure; @what has a %d, %d, %llu and %llu, or fewer of them */
void sim_event(const char *what, int a, int b, uint64_t c, uint64_t d);
_Noreturn void sim_fail(const char *what);

struct sim_play {
	const char *name;                   /* of the program, for its replay */
	const char *holds;                  /* what held in all episodes */
	void (*episode)(void);              /* one, as sim_seed says */
	void (*dump)(void);                 /* of a failure: the state of everybody */
	void (*figures)(void);              /* after the last one: what happened, by sim_say() */
	bool (*was_busy)(void);
	const char *busy;                   /* what was_busy() answers */
};

/** sim_main - [--seed N | --from N] [--seconds N]: episodes until the time is over; the exit status */
int sim_main(int argc, char **argv, const struct sim_play *play);

void sim_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* a line of the test's output */

#endif
