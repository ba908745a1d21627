/* SPDX-License-Identifier: BSD-2-Clause */
/* The processor that this daemon has for its moves: how much before others, and where. */
#include "migration/session.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

#define HURRY_BYTES (16u << 20) /* some milliseconds of one processor */

/* How much of a hurry is it? A large rank's memory takes longer than anybody should wait for this daemon alone. */
static enum mig_hurry hurry_of(const struct mig_session *s)
{
	uint64_t bytes = s->t.bytes - s->t.round_bytes;

	switch (s->state) {
	case MIG_QUIESCE:
		return s->t.prepared ? MIG_AT_ONCE : MIG_AS_OTHERS;
	case MIG_SEND:
		return s->t.freeze.private_bytes > HURRY_BYTES ? MIG_BEFORE_OTHERS : MIG_AT_ONCE;
	case MIG_FILL:
		return !s->has_state ? MIG_AS_OTHERS : bytes > HURRY_BYTES ? MIG_BEFORE_OTHERS : MIG_AT_ONCE;
	case MIG_READY:
	case MIG_GIVEN:
		return s->peer ? MIG_AT_ONCE : MIG_BEFORE_OTHERS;
	case MIG_SERVE:
	case MIG_FETCH:
		return MIG_BEFORE_OTHERS;
	default:
		return MIG_AS_OTHERS;
	}
}

void mig_expect(struct mig_session *s, uint64_t ns)
{
	struct gw_sched now;

	if (s->m->hurry == MIG_AT_ONCE && gw_sched_get(0, &now) == 0 && now.policy == SCHED_FIFO)
		gw_loop_expect(s->m->loop, ns);
}

#define WAY_NS 100000

/*
 * A rank that was just let go does not wait for what is left to do here, on its processor, and neither do its peers, who wait for
 * its agent. By a sleep, and still in a hurry: on a busy host who yields has his next turn when all others have had theirs.
 */
void mig_give_way(void)
{
	const struct timespec way = { .tv_nsec = WAY_NS };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &way, NULL);
}

/* While a rank stands still for us, this daemon goes before the ranks that share its cores, where that is allowed. */
void mig_adjust_priority(struct mig *m)
{
	enum mig_hurry wanted = MIG_AS_OTHERS;

	gw_list_for(e, &m->sessions) {
		enum mig_hurry h = hurry_of(gw_list_entry(e, struct mig_session, node));

		wanted = h > wanted ? h : wanted;
	}
	if (wanted == m->hurry || !m->c.may_hurry)
		return;
	if (m->hurry != MIG_AS_OTHERS)
		gw_hurry_end(0, &m->unhurried);
	m->hurry = wanted;
	if (wanted == MIG_AT_ONCE) {
		gw_hurry_begin(0, &m->unhurried);
	} else if (wanted == MIG_BEFORE_OTHERS && gw_sched_get(0, &m->unhurried) == 0) {
		struct gw_sched s = m->unhurried;

		s.nice -= 10;
		gw_sched_set(0, &s);
	}
}

/* Tasks of this host that want a processor at this moment, the caller included. INT_MAX: not known */
static int tasks_running(void)
{
	FILE *f = fopen("/proc/loadavg", "re");
	int n;

	if (!f || fscanf(f, "%*f %*f %*f %d/", &n) != 1)
		n = INT_MAX;
	if (f)
		fclose(f);
	return n;
}

/*
 * Where rounds are read and sent: on a core that is free, if there is one on this host, since those of the cluster are the ranks'.
 * Left to itself the scheduler shares out two cores among a rank and two daemons so that each gets two thirds of one. Where
 * none is free others pay no more for this move than its own cluster does.
 */
static cpu_set_t place_of_rounds(const struct mig *m)
{
	cpu_set_t others = m->c.anywhere;

	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &m->home))
			CPU_CLR(i, &others);
	return CPU_COUNT(&others) > 0 && tasks_running() - 1 < CPU_COUNT(&m->c.anywhere) ? others : m->c.anywhere;
}

void mig_adjust_place(struct mig *m)
{
	bool is_wanted = false;
	cpu_set_t place;

	gw_list_for(e, &m->sessions) {
		const struct mig_session *s = gw_list_entry(e, struct mig_session, node);

		is_wanted |= s->state == MIG_PRECOPY && s->is_following;
	}
	if (is_wanted == m->is_roaming || CPU_COUNT(&m->c.anywhere) == 0)
		return;
	if (!is_wanted) {
		sched_setaffinity(0, sizeof(m->home), &m->home);
		m->is_roaming = false;
		return;
	}
	if (sched_getaffinity(0, sizeof(m->home), &m->home) < 0)
		return;
	place = place_of_rounds(m);
	m->is_roaming = sched_setaffinity(0, sizeof(place), &place) == 0;
}
