/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real channels, paths, bulk transfers and connections of several members, under a scheduler that a seed drives.
 *
 * usage: sim [--seed N | --from N] [--seconds N]      --seed: that one sim_seed only
 *
 * An sim_seed: every member sends to every other, while they move, stop reading, lose connections and hear late of each
 * other's moves; then all end, each at its own time. A message must arrive once, in order and whole; what sent() and
 * received() say must be true and said once; when all is quiet everything has arrived within a bounded number of steps; and
 * the user area is as it was.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/sim/sim.h"

#define MESSAGES_MAX 60u
#define QUIET_STEPS  4000000u /* and everything must have arrived; where each may have one connection only, half of it is used */

struct news { struct gw_list link; struct noc_place place; };

struct sim_member sim_members[SIM_MEMBERS];
struct sim_profile sim_profile;
static int segment_fd[SIM_HOSTS];
static struct noc_segment pages[SIM_HOSTS];
static uint64_t now_ns;
static bool is_quiet;
static int early = -1;
int sim_now_in = -1;
struct sim_counts sim_counts;

/* ---- story ----------------------------------------------------------------------------------------------------- */

static void dump_member(int i)
{
	struct noc_member *n = sim_members[i].noc;

	sim_say("member %d: state %d, host %u, incarnation %llu, queued %llu, retained %llu, outs %u", i, (int)sim_members[i].state,
	     sim_members[i].host, (unsigned long long)n->incarnation, (unsigned long long)n->queued, (unsigned long long)n->retained,
	     n->outs_alive);
	for (unsigned k = 0; n->peers && k < sim_profile.members; k++) {
		struct noc_peer *p = n->peers[k];

		if (p)
			sim_say("  to %u: sent %llu of %u, path %u, conn %d, next_out %llu, next_in %llu, pending %d, retained %d", k,
			     (unsigned long long)sim_members[i].next_out[k], sim_profile.messages, p->path, p->conn != NULL,
			     (unsigned long long)p->next_out, (unsigned long long)p->next_in, !gw_list_is_empty(&p->pending),
			     !gw_list_is_empty(&p->retained));
	}
	for (uint32_t k = 0; k < n->outs.size; k++) {
		struct noc_bulk_out *o = noc_table_get(&n->outs, k);

		if (o)
			sim_say("  out %u to %u: transfer %llu, %llu of %llu, by net %d, standing %d", k, o->peer->proc,
			     (unsigned long long)o->transfer, (unsigned long long)o->done, (unsigned long long)o->wanted, o->is_by_net,
			     o->is_standing);
	}
	for (uint32_t k = 0; k < n->ins.size; k++) {
		struct noc_bulk *b = noc_table_get(&n->ins, k);

		if (b)
			sim_say("  in %u of %u: transfer %llu, accepted %d, %llu of %llu", k, b->peer->proc,
			     (unsigned long long)b->transfer, b->is_accepted, (unsigned long long)b->done, (unsigned long long)b->wanted);
	}
}

static void dump(void)
{
	for (unsigned i = 0; i < sim_profile.members; i++)
		dump_member((int)i);
	sim_say("in member %d", sim_now_in);
}

/* ---- what the members take for the world: linked with --wrap ---------------------------------------------------- */

uint64_t __wrap_gw_now_ns(void);
void __wrap_gw_log(enum gw_level level, const char *fmt, ...);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);

/* Each host has its own clock. */
uint64_t __wrap_gw_now_ns(void)
{
	return now_ns + (sim_now_in >= 0 ? (SIM_HOSTS - sim_members[sim_now_in].host) * 3600000000000ull : 0);
}

bool sim_may_complain;

void __wrap_gw_log(enum gw_level level, const char *fmt, ...)
{
	static char line[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	(void)level;
	sim_say("%s", line);
	if (!sim_may_complain)
		sim_fail("it complains");
	sim_may_complain = false;
}

void sim_enter(int member)
{
	if (member == sim_now_in)
		return;
	sim_net_swap(sim_now_in, member);
	if (sim_now_in >= 0)
		sim_members[sim_now_in].noc = noc_me;
	sim_now_in = member;
	noc_me = member >= 0 ? sim_members[member].noc : NULL;
}

/* ---- moves, and the news of them ------------------------------------------------------------------------------- */

static void news_pass(int member, uint32_t host, unsigned daemon)
{
	struct gw_list *l = &sim_members[member].news[host][daemon];
	struct news *n;
	int rc;

	if (gw_list_is_empty(l))
		return;
	n = gw_list_entry(l->next, struct news, link);
	gw_list_remove(&n->link);
	rc = noc_names_publish(&pages[host], (uint32_t)member, &n->place, 0);
	if (rc && rc != -ESTALE)
		sim_fail("a name cannot be published");
	sim_event("news of %d on host %d: state %llu, epoch %llu", member, (int)host, n->place.state, n->place.epoch);
	free(n);
}

/* Each daemon of a host hears of it at its own time, and all write into one page. */
static void tell(int member, enum noc_name_state state)
{
	struct sim_member *m = &sim_members[member];

	for (uint32_t k = 0; k < sim_profile.hosts * SIM_DAEMONS; k++) {
		struct gw_list *l = &m->news[k / SIM_DAEMONS][k % SIM_DAEMONS];
		struct news *n = calloc(1, sizeof(*n));

		n->place = (struct noc_place){ .cluster = 1, .state = state, .epoch = m->epoch, .host = m->host,
		                               .incarnation = noc_me->incarnation, .address = noc_me->listening.address };
		gw_list_init(&n->link);
		/* of two messages about one move the second may come first only when the epoch is another */
		if (!gw_list_is_empty(l) && sim_one_in(4) && gw_list_entry(l->prev, struct news, link)->place.epoch != m->epoch)
			gw_list_append(l->prev, &n->link);
		else
			gw_list_append(l, &n->link);
		if (sim_one_in(3))
			news_pass(member, k / SIM_DAEMONS, k % SIM_DAEMONS);
	}
}

static struct noc_host host_of(uint32_t host)
{
	struct noc_host h = { .host = host, .secret = "the secret of this job, 32 byte" };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	memcpy(&h.address, &in, sizeof(in));
	return h;
}

static void leave(int i)
{
	struct sim_member *m = &sim_members[i];
	struct gw_error why;

	sim_enter(i);
	if (sim_one_in(2))
		tell(i, NOC_NAME_MOVING);
	sim_event("member %d leaves host %d", i, (int)m->host, 0, 0);
	if (noc_detach_test(10000, &why))
		sim_fail(why.text);
	m->state = SIM_AWAY;
	sim_counts.moves++;
}

static void arrive(int i)
{
	struct sim_member *m = &sim_members[i];
	struct noc_host h;
	struct gw_error why;

	sim_enter(i);
	if (!sim_one_in(4)) { /* else the move failed, and it attaches again where it was */
		m->epoch++;
		m->host = (uint32_t)sim_rnd(sim_profile.hosts);
	}
	h = host_of(m->host);
	if (noc_attach_test(segment_fd[m->host], 0, &h, &why))
		sim_fail(why.text);
	sim_event("member %d arrives on host %d: incarnation %llu", i, (int)m->host, noc_me->incarnation, 0);
	m->state = m->is_ending ? SIM_ENDING : SIM_HERE;
	tell(i, NOC_NAME_HERE);
}

/* ---- the scheduler --------------------------------------------------------------------------------------------- */

static void turn(int i)
{
	struct sim_member *m = &sim_members[i];

	if (m->state == SIM_AWAY || m->state == SIM_GONE || (m->asleep_until > sim_step && !is_quiet))
		return;
	sim_enter(i);
	if (sim_one_in(8)) { /* what the agent does */
		for (int k = 0; k < 4 && noc_net->poll(true); k++)
			;
		noc_path_acks();
		if (sim_one_in(2))
			return;
	}
	/* 0: what is in the inbox has come after it was looked at, and before the network is */
	noc_poll(sim_one_in(4) ? 64 : (int)sim_rnd(4));
	if (sim_one_in(4))
		sim_take_one(i);
}

static void end(int i);

/* Two moves before anybody else does anything: what it says where it was for a moment is read when it is elsewhere. */
static void visit(int i)
{
	leave(i);
	arrive(i);
	for (uint64_t n = 1 + sim_rnd(3); n; n--) {
		turn(i);
		for (uint64_t k = sim_rnd(3); k; k--)
			sim_send_one(i, (int)sim_rnd(sim_profile.members));
	}
	leave(i);
	if (sim_one_in(2))
		arrive(i);
}

static void world_step(void)
{
	int i = (int)sim_rnd(sim_profile.members);

	if (sim_step++ == UINT64_MAX)
		return;
	sim_counts.steps++;
	now_ns += sim_one_in(4000) ? 2500000000u : sim_one_in(40) ? sim_rnd(5000000) : sim_rnd(40000);
	switch (sim_rnd(8)) {
	case 0: case 1: case 2:
		turn(i);
		break;
	case 3:
		if (!is_quiet && !sim_one_in(sim_profile.pace))
			break;
		sim_enter(i);
		for (uint64_t n = sim_rnd(sim_one_in(20) ? 40 : 4); n && sim_members[i].state == SIM_HERE; n--)
			sim_send_one(i, (int)sim_rnd(sim_profile.members));
		break;
	case 4: case 5:
		sim_wire_step();
		break;
	case 6:
		news_pass(i, (uint32_t)sim_rnd(sim_profile.hosts), (unsigned)sim_rnd(SIM_DAEMONS));
		if (sim_members[i].state == SIM_AWAY && sim_one_in(3))
			arrive(i);
		break;
	case 7:
		if (is_quiet)
			break;
		if (sim_members[i].state == SIM_HERE && sim_one_in(sim_profile.p_move))
			sim_one_in(3) ? visit(i) : leave(i);
		if (sim_one_in(sim_profile.p_cut))
			sim_wire_cut();
		if (sim_one_in(sim_profile.p_sleep))
			sim_members[i].asleep_until = sim_step + sim_rnd(4000);
		if (i == early && sim_one_in(sim_profile.p_early) && sim_members[i].state == SIM_HERE)
			end(i);
		break;
	}
}

/* A member that lingers sleeps: the world goes on. */
static uint64_t lingering;
int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
	int me = sim_now_in;

	(void)t, (void)left;
	if (++lingering > QUIET_STEPS)
		sim_fail("it lingers for ever");
	if (lingering > 3000)
		is_quiet = true;
	for (uint64_t n = 1 + sim_rnd(20); n; n--)
		world_step();
	sim_enter(me);
	if (!is_quiet && sim_one_in(30)) { /* it can be moved meanwhile */
		leave(me);
		for (uint64_t n = sim_rnd(100); n; n--)
			world_step();
		if (sim_members[me].state == SIM_AWAY)
			arrive(me);
		sim_enter(me);
	}
	return 0;
}

static void end(int i)
{
	struct sim_member *m = &sim_members[i];

	sim_enter(i);
	sim_event("member %d ends", i, 0, 0, 0);
	m->state = SIM_ENDING;
	m->is_ending = true;
	noc_stop();
	sim_enter(i);
	sim_event("member %d has ended", i, 0, 0, 0);
	if (noc_me->is_attached)
		sim_fail("noc_stop() leaves it attached");
	m->state = SIM_GONE;
	tell(i, NOC_NAME_GONE);
	sim_counts.ends++;
}

/* ---- an sim_seed ------------------------------------------------------------------------------------------------ */

static void profile_choose(void)
{
	static const unsigned moves[] = { 0, 300, 100, 40, 15, 5 }, cuts[] = { 0, 300, 60, 10 }, calls[] = { 0, 2, 6 };

	sim_profile.members = 2 + (unsigned)sim_rnd(SIM_MEMBERS - 1);
	sim_profile.hosts = sim_one_in(8) ? 1 : 2 + (unsigned)sim_rnd(SIM_HOSTS - 1);
	sim_profile.messages = 1 + (unsigned)sim_rnd(MESSAGES_MAX);
	sim_profile.p_move = moves[sim_rnd(6)];
	sim_profile.p_cut = cuts[sim_rnd(4)];
	sim_profile.p_sleep = sim_one_in(3) ? 30 : 0;
	sim_profile.p_call = calls[sim_rnd(3)];
	sim_profile.bulk = sim_one_in(3) ? 0 : (unsigned)sim_rnd(40);
	sim_profile.pace = 1u << sim_rnd(6);
	sim_profile.is_fat = sim_one_in(10);
	if (sim_one_in(4)) { /* transfers that meet every move */
		sim_profile.bulk = 50 + (unsigned)sim_rnd(50);
		sim_profile.messages = 1 + (unsigned)sim_rnd(15);
		sim_profile.p_move = 4 + (unsigned)sim_rnd(60);
		sim_profile.p_sleep = 30;
		sim_profile.hosts = 2;
	}
	sim_profile.p_early = sim_one_in(6) ? 200 : 0;
	sim_p_lost = sim_one_in(3) ? 10 : 0;
	if (sim_one_in(12)) { /* so many that an inbox is full */
		sim_profile.messages = 700;
		sim_profile.bulk = 0;
		sim_profile.is_fat = false;
		sim_profile.p_sleep = 30;
	}
	early = sim_profile.p_early ? (int)sim_rnd(sim_profile.members) : -1;
}

static void begin(void)
{
	struct gw_error why;

	for (uint32_t h = 0; h < sim_profile.hosts; h++) {
		segment_fd[h] = noc_segment_create(1, sim_profile.members, sim_profile.members, 1, &why);
		if (segment_fd[h] < 0 || noc_segment_map(&pages[h], segment_fd[h], NULL, &why))
			sim_fail(why.text);
		for (unsigned c = 0; c < sim_profile.members; c++)
			atomic_store(&pages[h].clusters[c].is_up, 1);
	}
	sim_wire_begin();
	memset(sim_members, 0, sizeof(sim_members));
	for (int i = 0; i < (int)sim_profile.members; i++) {
		struct sim_member *m = &sim_members[i];
		struct noc_host h;

		gw_list_init(&m->offers);
		gw_list_init(&m->outs);
		gw_list_init(&m->bins);
		for (int k = 0; k < SIM_HOSTS * SIM_DAEMONS; k++)
			gw_list_init(&m->news[k / SIM_DAEMONS][k % SIM_DAEMONS]);
		sim_enter(i);
		m->host = (uint32_t)sim_rnd(sim_profile.hosts);
		h = host_of(m->host);
		if (noc_start_test(segment_fd[m->host], (uint32_t)i, &h, &why))
			sim_fail(why.text);
		noc_port_bind(NOC_PORT_TAGGED, &sim_ports);
		tell(i, NOC_NAME_HERE);
	}
}

static bool all_is_sent(void)
{
	for (unsigned i = 0; i < sim_profile.members; i++)
		for (unsigned k = 0; k < sim_profile.members; k++)
			if (!sim_members[i].is_ending && sim_members[i].next_out[k] < sim_profile.messages)
				return false;
	return true;
}

/* Sent, arrived, acknowledged. What concerns a member that has ended early can only be so on its side. */
static bool all_is_done(void)
{
	for (unsigned i = 0; i < sim_profile.members; i++) {
		struct noc_member *n;

		sim_enter((int)i);
		n = noc_me;
		for (unsigned k = 0; k < sim_profile.members; k++)
			if ((int)k != early && sim_members[k].arrived[i] != sim_members[i].next_out[k])
				return false;
		if (early < 0 && (n->queued || n->retained || n->outs_alive || !gw_list_is_empty(&sim_members[i].outs) ||
		                  n->queued_bytes || n->retained_bytes || !gw_list_is_empty(&n->waiting) ||
		                  !gw_list_is_empty(&n->streaming)))
			return false;
	}
	return true;
}

static void list_free(struct gw_list *l)
{
	while (!gw_list_is_empty(l)) {
		struct noc_pending *m = gw_list_entry(l->next, struct noc_pending, link);

		gw_list_remove(&m->link);
		ct_area_free(m, m->alloc_size);
		if (early < 0)
			sim_fail("a message is left over");
	}
}

static void member_free(int i)
{
	struct sim_member *m = &sim_members[i];
	struct noc_member *n;

	sim_enter(i);
	n = noc_me;
	for (unsigned k = 0; k < sim_profile.members; k++) {
		struct noc_peer *p = n->peers[k];

		if (!p)
			continue;
		list_free(&p->pending);
		list_free(&p->retained);
		ct_area_free(p, sizeof(*p));
	}
	for (uint32_t k = 0; k < n->outs.size; k++) {
		struct noc_bulk_out *o = noc_table_get(&n->outs, k);

		if (o && early < 0)
			sim_fail("a transfer is left over");
		if (o) {
			ct_area_free(o->iov, o->iovs * sizeof(*o->iov));
			ct_area_free(o, sizeof(*o));
		}
	}
	for (uint32_t k = 0; k < n->ins.size; k++) {
		struct noc_bulk *b = noc_table_get(&n->ins, k);

		if (b && early < 0)
			sim_fail("an offer is left over");
		if (b) {
			ct_area_free(b->iov, b->iovs * sizeof(*b->iov));
			ct_area_free(b, sizeof(*b));
		}
	}
	ct_area_free(n->outs.slots, n->outs.size * sizeof(*n->outs.slots));
	ct_area_free(n->ins.slots, n->ins.size * sizeof(*n->ins.slots));
	ct_area_free(n->peers, n->names_max * sizeof(*n->peers));
	munmap(n->range, n->range_size);
	ct_area_free(n, sizeof(*n));
	sim_traffic_end(m);
	for (uint32_t k = 0; k < SIM_HOSTS * SIM_DAEMONS; k++) {
		struct gw_list *l = &m->news[k / SIM_DAEMONS][k % SIM_DAEMONS];

		while (!gw_list_is_empty(l)) {
			struct news *w = gw_list_entry(l->next, struct news, link);

			gw_list_remove(&w->link);
			free(w);
		}
	}
}

static void play(void)
{
	uint64_t busy, end_at;
	size_t area;

	now_ns = 1000000000;
	profile_choose();
	is_quiet = false;
	area = ct_area_used();
	begin();
	for (busy = 500 + sim_rnd(20000); sim_step < busy;)
		world_step();
	while (!all_is_sent() && sim_step < 4 * busy)
		world_step();
	is_quiet = true;
	for (end_at = sim_step + QUIET_STEPS; !all_is_sent() || !all_is_done();) {
		for (int i = 0; i < 200; i++)
			world_step();
		if (sim_step > end_at)
			sim_fail("all is quiet, and yet something has not arrived");
	}
	is_quiet = sim_one_in(2);
	for (unsigned left = sim_profile.members; left;) {
		int i = (int)sim_rnd(sim_profile.members);

		if (sim_members[i].state == SIM_AWAY)
			arrive(i);
		if (sim_members[i].state == SIM_HERE) {
			lingering = 0;
			end(i);
		}
		left = 0;
		for (unsigned k = 0; k < sim_profile.members; k++)
			left += sim_members[k].state != SIM_GONE;
	}
	for (unsigned i = 0; i < sim_profile.members; i++)
		member_free((int)i);
	sim_net_swap(sim_now_in, -1);
	sim_now_in = -1;
	noc_me = NULL;
	sim_wire_end();
	if (ct_area_used() != area)
		sim_fail("the user area is not as it was");
	for (uint32_t h = 0; h < sim_profile.hosts; h++) {
		noc_segment_unmap(&pages[h]);
		close(segment_fd[h]);
	}
}

static void figures(void)
{
	sim_say("%llu steps, %llu messages, %llu transfers, %llu moves, %llu ends, %llu frames, %llu lost",
	        (unsigned long long)sim_counts.steps, (unsigned long long)sim_counts.messages,
	        (unsigned long long)sim_counts.bulks, (unsigned long long)sim_counts.moves, (unsigned long long)sim_counts.ends,
	        (unsigned long long)sim_counts.frames, (unsigned long long)sim_counts.lost_frames);
	sim_say("%llu cuts, %llu requests refused, %llu lost, %llu crossed", (unsigned long long)sim_counts.cuts,
	        (unsigned long long)sim_counts.refused, (unsigned long long)sim_counts.lost_requests,
	        (unsigned long long)sim_counts.crossings);
}

static bool was_busy(void) { return sim_counts.moves && sim_counts.cuts && sim_counts.crossings && sim_counts.lost_frames; }

int main(int argc, char **argv)
{
	static const struct sim_play sim = { "sim", "every message once, in order and whole", play, dump, figures, was_busy,
	                                     "there were moves, cuts, crossed connections and lost frames" };

	return sim_main(argc, argv, &sim);
}
