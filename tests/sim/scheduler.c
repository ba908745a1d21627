/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Real sessions of up to four daemons, under a scheduler that a seed drives: what happens next, and what an episode is.
 *
 * usage: moves [--seed N | --from N] [--seconds N]      --seed: that one episode only
 *
 * An episode: ranks are moved, several at once, on, back and past each other; connections break and lose what they had not
 * delivered, hosts do not reach each other for a while, daemons stop, die and come back as new incarnations; the head's
 * verdicts come late, and some are wrong. Never two copies of a rank run, none is set back, and when all is quiet each rank
 * runs where the head believes it, or its daemon has died and the head knows.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/moves.h"

#define QUIET_STEPS 60000u /* and every session must have ended */

uint64_t sim_now_ns;
bool sim_is_quiet;

/* ---- what the daemons take for the world: linked with --wrap ------------------------------------------------------ */

uint64_t __wrap_gw_now_ns(void);
void __wrap_gw_log(enum gw_level level, const char *fmt, ...);
enum gw_fault_action __wrap_gw_fault(const char *name);

uint64_t __wrap_gw_now_ns(void) { return sim_now_ns; }

void __wrap_gw_log(enum gw_level level, const char *fmt, ...)
{
	va_list ap;

	if (!getenv("SIM_LOG"))
		return;
	va_start(ap, fmt);
	fprintf(stderr, "%llu ms: %d: ", (unsigned long long)(sim_now_ns / 1000000), (int)level);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

enum gw_fault_action __wrap_gw_fault(const char *name)
{
	(void)name;
	if (sim_is_quiet || !sim_one_in(sim_moves.p_fault))
		return GW_FAULT_NONE;
	sim_moved.faults++;
	return sim_one_in(2) ? GW_FAULT_FAIL : GW_FAULT_CUT;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static struct sim_daemon *some_daemon(void)
{
	unsigned n = 0, k;

	gw_list_for(e, &sim_daemons)
		n += !gw_list_entry(e, struct sim_daemon, node)->is_dead;
	k = n ? (unsigned)sim_rnd(n) : 0;
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);

		if (!d->is_dead && k-- == 0)
			return d;
	}
	return NULL;
}

static unsigned idle; /* turns in which nothing was to be done */

static void turn(struct sim_daemon *d)
{
	bool any = false;

	if (d->asleep_until <= sim_now_ns || sim_is_quiet)
		switch (sim_rnd(8)) {
		case 0: any = sim_agent_turn(d); break;
		case 1: any = sim_hears_head(d); break;
		default: any = sim_loop_turn(d->loop);
		}
	idle = any ? 0 : idle + 1;
}

/* When nothing is to be done, and sometimes else: to the next timer, or a little beyond. */
static void time_passes(void)
{
	uint64_t next = UINT64_MAX;

	if (idle < 60 && !sim_one_in(400)) {
		sim_now_ns += sim_rnd(100000);
		return;
	}
	idle = 0;
	gw_list_for(e, &sim_daemons) {
		struct sim_daemon *d = gw_list_entry(e, struct sim_daemon, node);

		if (!d->is_dead && sim_loop_next(d->loop) < next)
			next = sim_loop_next(d->loop);
	}
	if (next != UINT64_MAX && next > sim_now_ns)
		sim_now_ns = next + (sim_one_in(4) ? sim_rnd(2000000000) : sim_rnd(1000000));
}

static void trouble(void)
{
	struct sim_daemon *d = some_daemon();
	struct ct_rank *ct;

	if (sim_one_in(sim_moves.p_cut))
		sim_cut();
	if (sim_one_in(sim_moves.p_part)) {
		uint32_t a = (uint32_t)sim_rnd(sim_moves.hosts), b = (uint32_t)sim_rnd(sim_moves.hosts);

		if (a != b)
			sim_part(a, b, sim_now_ns + sim_rnd(15000000000ull));
	}
	if (!d)
		return;
	if (sim_one_in(sim_moves.p_sleep))
		d->asleep_until = sim_now_ns + sim_rnd(12000000000ull);
	if (sim_one_in(sim_moves.p_exit) && (ct = sim_body_some(d, false))) {
		sim_event("rank %d is killed on cluster %d", (int)sim_body_proc(ct), (int)d->cluster, 0, 0);
		sim_body_exit(ct);
		sim_moved.exits++;
	}
	if (sim_one_in(sim_moves.p_shell) && (ct = sim_body_some(d, true))) {
		sim_event("the shell of rank %d is killed on cluster %d", (int)sim_body_proc(ct), (int)d->cluster, 0, 0);
		sim_body_exit(ct);
	}
	if (sim_one_in(sim_moves.p_false) && !d->is_condemned)
		sim_condemn(d);
	if (sim_one_in(sim_moves.p_kill)) {
		sim_moved.kills++;
		sim_daemon_end(d);
	}
}

static struct sim_daemon *struck;

void sim_strike(struct sim_daemon *d)
{
	if (!sim_is_quiet && sim_one_in(sim_moves.p_strike))
		struck = d;
}

/* At the moments that matter: a rank was given away just now, or taken, or goes on where it was. */
static void strike(struct sim_daemon *d)
{
	uint64_t how = sim_rnd(6);

	struck = NULL;
	if (d->is_dead)
		return;
	if (how < 4)
		sim_cut_all(d);
	if (how >= 2 && how < 5 && !d->is_condemned)
		sim_condemn(d);
	if (how == 1 || how == 5) {
		sim_moved.kills++;
		sim_daemon_end(d);
		if (sim_one_in(2)) /* and another comes at once, of which nobody has heard */
			sim_daemon_start(d->cluster, d->host);
	}
}

static void world_step(void)
{
	struct sim_daemon *d;
	uint32_t c = (uint32_t)sim_rnd(sim_moves.clusters);

	sim_step++;
	sim_moved.steps++;
	if (struck)
		strike(struck);
	d = some_daemon();
	time_passes();
	switch (sim_rnd(8)) {
	case 0:
		if (!sim_proof_turn())
			sim_head_turn();
		break;
	case 1:
		if (d && d->is_condemned && (sim_is_quiet || sim_one_in(20))) { /* it hears of it, and ends with its ranks */
			sim_daemon_end(d);
			break;
		}
		if (sim_is_quiet)
			break;
		if (sim_one_in(sim_moves.p_request))
			sim_request();
		if (!sim_at[c] && sim_one_in(sim_moves.p_back)) {
			sim_event("a new daemon for cluster %d", (int)c, 0, 0, 0);
			sim_daemon_start(c, c < sim_moves.hosts ? c : (uint32_t)sim_rnd(sim_moves.hosts));
			sim_moved.restarts++;
		}
		break;
	case 2:
		if (!sim_is_quiet)
			trouble();
		break;
	default:
		if (d)
			turn(d);
	}
}

/* ---- an episode -------------------------------------------------------------------------------------------------- */

static unsigned some_of(const unsigned *list, size_t n) { return list[sim_rnd(n)]; }

static void profile_choose(void)
{
	static const unsigned cuts[] = { 0, 0, 100, 20, 5 }, rare[] = { 0, 0, 0, 1500, 400, 120 }, faults[] = { 0, 0, 60, 15 };

	sim_moves = (struct sim_moves_profile){
		.clusters = 2 + (unsigned)sim_rnd(SIM_CLUSTERS - 1), .ranks = 1 + (unsigned)sim_rnd(SIM_RANKS),
		.p_request = 1 + (unsigned)sim_rnd(12), .p_cancel = sim_one_in(3) ? 5 : 0, .p_cut = some_of(cuts, 5),
		.p_part = sim_one_in(3) ? 100 : 0, .p_kill = some_of(rare, 6), .p_back = sim_one_in(2) ? 20 : 0,
		.p_false = some_of(rare, 6), .p_exit = some_of(rare, 6), .p_fault = some_of(faults, 4),
		.p_strike = sim_one_in(3) ? 12 : 0, .p_sleep = sim_one_in(3) ? 30 : 0,
		.p_busy = sim_one_in(3) ? 6 : 0, .p_shell = sim_one_in(4) ? 60 : 0,
		.chunks = 1 + (unsigned)sim_rnd(12) };
	sim_moves.hosts = 1 + (unsigned)sim_rnd(sim_moves.clusters);
}

static void play(void)
{
	uint64_t busy = 300 + sim_rnd(5000), end_at;

	sim_now_ns = 1000000000;
	sim_is_quiet = false;
	struck = NULL;
	profile_choose();
	sim_begin();
	while (sim_step < busy)
		world_step();
	sim_is_quiet = true;
	sim_moves.p_fault = 0;
	for (end_at = sim_step + QUIET_STEPS; !sim_is_settled();) {
		for (int i = 0; i < 100; i++)
			world_step();
		if (sim_step > end_at)
			sim_fail("all is quiet, and yet a session has not ended");
	}
	sim_end();
}

static void figures(void)
{
	sim_say("%llu steps, %llu frames, %llu sessions: %llu given, %llu moved, %llu stayed, %llu of them by NEVER, %llu lost",
	        (unsigned long long)sim_moved.steps, (unsigned long long)sim_moved.frames, (unsigned long long)sim_moved.requests,
	        (unsigned long long)sim_moved.given, (unsigned long long)sim_moved.moved, (unsigned long long)sim_moved.stayed,
	        (unsigned long long)sim_moved.never, (unsigned long long)sim_moved.lost);
	sim_say("%llu cuts, %llu partitions, %llu frames lost, %llu connections again, %llu daemons killed, %llu came back, %llu "
	        "verdicts, %llu of them wrong", (unsigned long long)sim_moved.cuts, (unsigned long long)sim_moved.parts,
	        (unsigned long long)sim_moved.losses, (unsigned long long)sim_moved.reconnects, (unsigned long long)sim_moved.kills,
	        (unsigned long long)sim_moved.restarts, (unsigned long long)sim_moved.verdicts,
	        (unsigned long long)sim_moved.false_verdicts);
	sim_say("%llu ran before their pages were there, %llu of them for good; %llu requests taken back, %llu ranks killed, %llu faults at edges; "
	        "refused: %llu events, %llu frames", (unsigned long long)(sim_moved.whole + sim_moved.starved),
	        (unsigned long long)sim_moved.whole,
	        (unsigned long long)sim_moved.cancels, (unsigned long long)sim_moved.exits, (unsigned long long)sim_moved.faults,
	        (unsigned long long)sim_moved.refused_events, (unsigned long long)sim_moved.refused_frames);
}

static bool was_busy(void)
{
	return sim_moved.moved && sim_moved.never && sim_moved.lost && sim_moved.reconnects && sim_moved.false_verdicts &&
	       sim_moved.restarts && sim_moved.cancels && sim_moved.losses && sim_moved.whole && sim_moved.starved;
}

int main(int argc, char **argv)
{
	static const struct sim_play moves = {
		"moves", "never two copies of a rank, never none, none set back, every session ends", play, sim_dump, figures,
		was_busy, "there were moves, NEVERs, losses, new connections, wrong verdicts and new incarnations" };

	return sim_main(argc, argv, &moves);
}
