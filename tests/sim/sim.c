/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real channels, paths, bulk transfers and connections of several members, under a scheduler that a seed drives.
 *
 * usage: sim [--seed N | --from N] [--seconds N]      --seed: that one episode only
 *
 * An episode: every member sends to every other, while they move, stop reading, lose connections and hear late of each
 * other's moves; then all end, each at its own time. A message must arrive once, in order and whole; what sent() and
 * received() say must be true and said once; when all is quiet everything has arrived within a bounded number of steps; and
 * the user area is as it was.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/sim.h"
#include "tests/tap.h"

#define MESSAGES_MAX 60u
#define QUIET_STEPS  400000u /* and everything must have arrived */
#define BULK_MAX     (5 * (size_t)NOC_FRAME_BYTES)

enum sim_state { SIM_HERE, SIM_AWAY, SIM_ENDING, SIM_GONE };

struct out { bool is_by_ref; int from, to; size_t len; unsigned char *buf; struct gw_list link; };
struct bin { int at, src; uint64_t seq, len; unsigned char *buf; struct gw_list link; };
struct offer { struct gw_list link; struct noc_bulk *bulk; int src; uint64_t seq, len; };

struct news { struct gw_list link; struct noc_place place; };

static struct member {
	struct noc_member *noc;
	enum sim_state state;
	bool is_ending;                        /* HERE means ENDING */
	uint32_t host;
	uint64_t epoch, asleep_until, next_out[SIM_MEMBERS], next_in[SIM_MEMBERS], arrived[SIM_MEMBERS];
	struct gw_list offers, outs, bins;
	struct gw_list news[SIM_HOSTS];
	int depth;                             /* of callbacks */
} members[SIM_MEMBERS];

static struct { unsigned members, hosts, messages, p_move, p_cut, p_sleep, p_call, p_early, bulk, pace; bool is_fat; } profile;
static int segment_fd[SIM_HOSTS];
static struct noc_segment pages[SIM_HOSTS];
static uint64_t episode, rng, now_ns, step;
static bool is_quiet;
static int early = -1;
int sim_now_in = -1;
struct sim_counts sim_counts;

/* ---- story ----------------------------------------------------------------------------------------------------- */

#define STORY 100u
static struct { const char *what; int a, b; uint64_t c, d, step; } story[STORY];
static uint64_t story_n;

void sim_event(const char *what, int a, int b, uint64_t c, uint64_t d)
{
	story[story_n % STORY].what = what;
	story[story_n % STORY].a = a;
	story[story_n % STORY].b = b;
	story[story_n % STORY].c = c;
	story[story_n % STORY].d = d;
	story[story_n++ % STORY].step = step;
}

static void dump_member(int i)
{
	struct noc_member *n = members[i].noc;

	diag("member %d: state %d, host %u, incarnation %llu, queued %llu, retained %llu, outs %u", i, (int)members[i].state,
	     members[i].host, (unsigned long long)n->incarnation, (unsigned long long)n->queued, (unsigned long long)n->retained,
	     n->outs_alive);
	for (unsigned k = 0; n->peers && k < profile.members; k++) {
		struct noc_peer *p = n->peers[k];

		if (p)
			diag("  to %u: sent %llu of %u, path %u, conn %d, next_out %llu, next_in %llu, pending %d, retained %d", k,
			     (unsigned long long)members[i].next_out[k], profile.messages, p->path, p->conn != NULL,
			     (unsigned long long)p->next_out, (unsigned long long)p->next_in, !gw_list_is_empty(&p->pending),
			     !gw_list_is_empty(&p->retained));
	}
	for (uint32_t k = 0; k < n->outs.size; k++) {
		struct noc_bulk_out *o = noc_table_get(&n->outs, k);

		if (o)
			diag("  out %u to %u: transfer %llu, %llu of %llu, by net %d, standing %d", k, o->peer->proc,
			     (unsigned long long)o->transfer, (unsigned long long)o->done, (unsigned long long)o->wanted, o->is_by_net,
			     o->is_standing);
	}
	for (uint32_t k = 0; k < n->ins.size; k++) {
		struct noc_bulk *b = noc_table_get(&n->ins, k);

		if (b)
			diag("  in %u of %u: transfer %llu, accepted %d, %llu of %llu", k, b->peer->proc,
			     (unsigned long long)b->transfer, b->is_accepted, (unsigned long long)b->done, (unsigned long long)b->wanted);
	}
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
	for (unsigned i = 0; i < profile.members; i++)
		dump_member((int)i);
	diag("replay: sim --seed %llu", (unsigned long long)episode);
	ok(false, "seed %llu, step %llu, in member %d: %s", (unsigned long long)episode, (unsigned long long)step, sim_now_in,
	   what);
	tap_done();
	_exit(1);
}

static void on_signal(int sig) { sim_fail(sig == SIGABRT ? "abort()" : "a crash"); }

/* ---- what the members take for the world: linked with --wrap ---------------------------------------------------- */

uint64_t __wrap_gw_now_ns(void);
void __wrap_gw_log(enum gw_level level, const char *fmt, ...);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);

/* Each host has its own clock. */
uint64_t __wrap_gw_now_ns(void)
{
	return now_ns + (sim_now_in >= 0 ? (SIM_HOSTS - members[sim_now_in].host) * 3600000000000ull : 0);
}

void __wrap_gw_log(enum gw_level level, const char *fmt, ...)
{
	static char line[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	(void)level;
	diag("%s", line);
	sim_fail("it complains");
}

uint64_t sim_rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

void sim_enter(int member)
{
	if (member == sim_now_in)
		return;
	sim_net_swap(sim_now_in, member);
	if (sim_now_in >= 0)
		members[sim_now_in].noc = noc_me;
	sim_now_in = member;
	noc_me = member >= 0 ? members[member].noc : NULL;
}

/* ---- traffic --------------------------------------------------------------------------------------------------- */

static uint64_t key_of(int src, int dst, uint64_t seq) { return mix(episode << 20 ^ (uint64_t)src << 16 ^ (uint64_t)dst << 12 ^ seq); }

static size_t length_of(int src, int dst, uint64_t seq)
{
	uint64_t r = key_of(src, dst, seq);

	if (r % 100 < profile.bulk)
		return NOC_EAGER_MAX + 1 + (r >> 8) % (r & 128 ? BULK_MAX : NOC_FRAME_BYTES);
	if (profile.is_fat)
		return (r >> 16) % (NOC_EAGER_MAX + 1);
	switch (r >> 8 & 15) {
	case 0: return 0;
	case 1: return (r >> 16) % (NOC_EAGER_MAX + 1);
	case 2: case 3: return (r >> 16) % 1000;
	default: return (r >> 16) % 60;
	}
}

static void fill(unsigned char *p, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = key + i * 0x9e3779b97f4a7c15u;

		memcpy(p + i, &v, len - i < 8 ? len - i : 8);
	}
}

static bool is_filled(const unsigned char *p, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = key + i * 0x9e3779b97f4a7c15u;

		if (memcmp(p + i, &v, len - i < 8 ? len - i : 8))
			return false;
	}
	return true;
}

static void out_free(struct out *o)
{
	gw_list_remove(&o->link);
	memset(o->buf, 0xee, o->len);
	free(o->buf);
	free(o);
}

static bool send_one(int from, int to)
{
	struct member *m = &members[from];
	uint64_t seq = m->next_out[to];
	struct out *o;
	struct iovec iov[5];
	bool is_done = false, is_copy;
	int rc;

	if (seq >= profile.messages || m->state != SIM_HERE)
		return false;
	o = calloc(1, sizeof(*o));
	o->from = from;
	o->to = to;
	o->len = length_of(from, to, seq);
	o->buf = malloc(o->len + 1);
	fill(o->buf, o->len, key_of(from, to, seq));
	gw_list_append(&m->outs, &o->link);
	is_copy = o->len <= NOC_EAGER_MAX && sim_one_in(2);
	for (size_t i = 0, at = 0; i < 5; at += iov[i++].iov_len)
		iov[i] = (struct iovec){ o->buf + at, i == 4 ? o->len - at : (size_t)sim_rnd(o->len / 4 + 1) };
	o->is_by_ref = !is_copy;
	if (sim_one_in(2)) { /* the fast path takes one piece */
		iov[0].iov_len = o->len;
		rc = noc_send((uint32_t)to, NOC_PORT_TAGGED, seq, (uint64_t)from ^ 0x55, iov, 1, is_copy ? NOC_F_COPY : 0,
		              is_copy ? NULL : o, is_copy ? NULL : &is_done);
	} else {
		rc = noc_send((uint32_t)to, NOC_PORT_TAGGED, seq, (uint64_t)from ^ 0x55, iov, 5, is_copy ? NOC_F_COPY : 0,
		              is_copy ? NULL : o, is_copy ? NULL : &is_done);
	}
	if (rc == 0 || rc == -EHOSTUNREACH)
		m->next_out[to]++;
	if (rc && rc != -EAGAIN && !(rc == -EHOSTUNREACH && members[to].is_ending))
		sim_fail("noc_send() fails");
	if (rc || is_copy || is_done)
		out_free(o);
	return rc == 0;
}

static void call_back(void)
{
	struct member *m = &members[sim_now_in];

	if (m->depth >= 3 || !sim_one_in(profile.p_call))
		return;
	m->depth++;
	send_one(sim_now_in, (int)sim_rnd(profile.members));
	m->depth--;
}

static void on_sent(void *context, int status)
{
	struct out *o = context;

	if (o->from != sim_now_in || !o->is_by_ref)
		sim_fail("sent() of something else, or twice");
	if (status && !(status == -EHOSTUNREACH && members[o->to].is_ending))
		sim_fail("sent() with an error");
	o->is_by_ref = false;
	out_free(o);
	call_back();
}

static void take_offer(struct offer *f)
{
	struct bin *b = calloc(1, sizeof(*b));
	size_t room = f->seq % 5 == 0 ? f->len / 2 : f->seq % 11 == 0 ? 0 : f->len;
	struct iovec iov[2];

	*b = (struct bin){ .at = sim_now_in, .src = f->src, .seq = f->seq, .len = room, .buf = malloc(room + 1) };
	gw_list_init(&b->link);
	gw_list_append(&members[sim_now_in].bins, &b->link);
	iov[0] = (struct iovec){ b->buf, room / 3 };
	iov[1] = (struct iovec){ b->buf + room / 3, room - room / 3 };
	if (noc_bulk_accept(f->bulk, iov, 2, b))
		sim_fail("noc_bulk_accept() fails");
	gw_list_remove(&f->link);
	free(f);
}

static void on_message(const struct noc_msg *msg)
{
	struct member *m = &members[sim_now_in];
	int src = (int)msg->src;
	uint64_t seq = m->next_in[src]++;

	if (msg->tag != seq || msg->data != (msg->src ^ 0x55) || msg->len != length_of(src, sim_now_in, seq))
		sim_fail("a message is missing, twice or out of order");
	sim_counts.messages++;
	if (msg->offer) {
		struct offer *f = calloc(1, sizeof(*f));

		*f = (struct offer){ .bulk = msg->offer, .src = src, .seq = seq, .len = msg->len };
		gw_list_init(&f->link);
		gw_list_append(&m->offers, &f->link);
		if (sim_one_in(2))
			take_offer(f);
	} else {
		if (!is_filled(msg->payload, msg->len, key_of(src, sim_now_in, seq)))
			sim_fail("a message has other bytes");
		m->arrived[src]++;
	}
	call_back();
}

static void on_received(void *context, uint64_t len, int status)
{
	struct bin *b = context;

	if (b->at != sim_now_in || status || len != length_of(b->src, sim_now_in, b->seq))
		sim_fail("received() of something else");
	if (!is_filled(b->buf, b->len, key_of(b->src, sim_now_in, b->seq)))
		sim_fail("a transfer has other bytes");
	b->at = -1;
	gw_list_remove(&b->link);
	free(b->buf);
	members[sim_now_in].arrived[b->src]++;
	free(b);
	sim_counts.bulks++;
	call_back();
}

static const struct noc_port_ops port_ops = { .message = on_message, .sent = on_sent, .received = on_received };

/* ---- moves, and the news of them ------------------------------------------------------------------------------- */

static void news_pass(int member, uint32_t host)
{
	struct gw_list *l = &members[member].news[host];
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

static void tell(int member, enum noc_name_state state)
{
	struct member *m = &members[member];

	for (uint32_t h = 0; h < profile.hosts; h++) {
		struct news *n = calloc(1, sizeof(*n));

		n->place = (struct noc_place){ .cluster = (uint32_t)member, .state = state, .epoch = m->epoch, .host = m->host,
		                               .incarnation = noc_me->incarnation, .address = noc_me->listening.address };
		gw_list_init(&n->link);
		/* of two messages about one move the second may come first only when the epoch is another */
		if (!gw_list_is_empty(&m->news[h]) && sim_one_in(4) &&
		    gw_list_entry(m->news[h].prev, struct news, link)->place.epoch != m->epoch)
			gw_list_append(m->news[h].prev, &n->link);
		else
			gw_list_append(&m->news[h], &n->link);
		if (sim_one_in(3))
			news_pass(member, h);
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
	struct member *m = &members[i];
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
	struct member *m = &members[i];
	struct noc_host h;
	struct gw_error why;

	sim_enter(i);
	m->epoch++;
	m->host = (uint32_t)sim_rnd(profile.hosts);
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
	struct member *m = &members[i];

	if (m->state == SIM_AWAY || m->state == SIM_GONE || (m->asleep_until > step && !is_quiet))
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
	if (!gw_list_is_empty(&m->offers) && sim_one_in(4))
		take_offer(gw_list_entry(m->offers.next, struct offer, link));
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
			send_one(i, (int)sim_rnd(profile.members));
	}
	leave(i);
	if (sim_one_in(2))
		arrive(i);
}

static void world_step(void)
{
	int i = (int)sim_rnd(profile.members);

	if (step++ == UINT64_MAX)
		return;
	sim_counts.steps++;
	now_ns += sim_one_in(4000) ? 2500000000u : sim_one_in(40) ? sim_rnd(5000000) : sim_rnd(40000);
	switch (sim_rnd(8)) {
	case 0: case 1: case 2:
		turn(i);
		break;
	case 3:
		if (!is_quiet && !sim_one_in(profile.pace))
			break;
		sim_enter(i);
		for (uint64_t n = sim_rnd(sim_one_in(20) ? 40 : 4); n && members[i].state == SIM_HERE; n--)
			send_one(i, (int)sim_rnd(profile.members));
		break;
	case 4: case 5:
		sim_wire_step();
		break;
	case 6:
		news_pass(i, (uint32_t)sim_rnd(profile.hosts));
		if (members[i].state == SIM_AWAY && sim_one_in(3))
			arrive(i);
		break;
	case 7:
		if (is_quiet)
			break;
		if (members[i].state == SIM_HERE && sim_one_in(profile.p_move))
			sim_one_in(3) ? visit(i) : leave(i);
		if (sim_one_in(profile.p_cut))
			sim_wire_cut();
		if (sim_one_in(profile.p_sleep))
			members[i].asleep_until = step + sim_rnd(4000);
		if (i == early && sim_one_in(profile.p_early) && members[i].state == SIM_HERE)
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
		if (members[me].state == SIM_AWAY)
			arrive(me);
		sim_enter(me);
	}
	return 0;
}

static void end(int i)
{
	struct member *m = &members[i];

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

/* ---- an episode ------------------------------------------------------------------------------------------------ */

static void profile_choose(void)
{
	static const unsigned moves[] = { 0, 300, 100, 40, 15, 5 }, cuts[] = { 0, 300, 60, 10 }, calls[] = { 0, 2, 6 };

	profile.members = 2 + (unsigned)sim_rnd(SIM_MEMBERS - 1);
	profile.hosts = sim_one_in(8) ? 1 : 2 + (unsigned)sim_rnd(SIM_HOSTS - 1);
	profile.messages = 1 + (unsigned)sim_rnd(MESSAGES_MAX);
	profile.p_move = moves[sim_rnd(6)];
	profile.p_cut = cuts[sim_rnd(4)];
	profile.p_sleep = sim_one_in(3) ? 30 : 0;
	profile.p_call = calls[sim_rnd(3)];
	profile.bulk = sim_one_in(3) ? 0 : (unsigned)sim_rnd(40);
	profile.pace = 1u << sim_rnd(6);
	profile.is_fat = sim_one_in(10);
	if (sim_one_in(4)) { /* transfers that meet every move */
		profile.bulk = 50 + (unsigned)sim_rnd(50);
		profile.messages = 1 + (unsigned)sim_rnd(15);
		profile.p_move = 4 + (unsigned)sim_rnd(60);
		profile.p_sleep = 30;
		profile.hosts = 2;
	}
	profile.p_early = sim_one_in(6) ? 200 : 0;
	sim_p_lost = sim_one_in(3) ? 10 : 0;
	if (sim_one_in(12)) { /* so many that an inbox is full */
		profile.messages = 700;
		profile.bulk = 0;
		profile.is_fat = false;
		profile.p_sleep = 30;
	}
	early = profile.p_early ? (int)sim_rnd(profile.members) : -1;
}

static void begin(void)
{
	struct gw_error why;

	for (uint32_t h = 0; h < profile.hosts; h++) {
		segment_fd[h] = noc_segment_create(1, profile.members, profile.members, 1, &why);
		if (segment_fd[h] < 0 || noc_segment_map(&pages[h], segment_fd[h], NULL, &why))
			sim_fail(why.text);
		for (unsigned c = 0; c < profile.members; c++)
			atomic_store(&pages[h].clusters[c].is_up, 1);
	}
	sim_wire_begin();
	memset(members, 0, sizeof(members));
	for (int i = 0; i < (int)profile.members; i++) {
		struct member *m = &members[i];
		struct noc_host h;

		gw_list_init(&m->offers);
		gw_list_init(&m->outs);
		gw_list_init(&m->bins);
		for (int k = 0; k < SIM_HOSTS; k++)
			gw_list_init(&m->news[k]);
		sim_enter(i);
		m->host = (uint32_t)sim_rnd(profile.hosts);
		h = host_of(m->host);
		if (noc_start_test(segment_fd[m->host], (uint32_t)i, &h, &why))
			sim_fail(why.text);
		noc_port_bind(NOC_PORT_TAGGED, &port_ops);
		tell(i, NOC_NAME_HERE);
	}
}

static bool all_is_sent(void)
{
	for (unsigned i = 0; i < profile.members; i++)
		for (unsigned k = 0; k < profile.members; k++)
			if (!members[i].is_ending && members[i].next_out[k] < profile.messages)
				return false;
	return true;
}

/* Sent, arrived, acknowledged. What concerns a member that has ended early can only be so on its side. */
static bool all_is_done(void)
{
	for (unsigned i = 0; i < profile.members; i++) {
		struct noc_member *n;

		sim_enter((int)i);
		n = noc_me;
		for (unsigned k = 0; k < profile.members; k++)
			if ((int)k != early && members[k].arrived[i] != members[i].next_out[k])
				return false;
		if (early < 0 && (n->queued || n->retained || n->outs_alive || !gw_list_is_empty(&members[i].outs) ||
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
	struct member *m = &members[i];
	struct noc_member *n;

	sim_enter(i);
	n = noc_me;
	for (unsigned k = 0; k < profile.members; k++) {
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
	while (!gw_list_is_empty(&m->outs))
		out_free(gw_list_entry(m->outs.next, struct out, link));
	while (!gw_list_is_empty(&m->bins)) {
		struct bin *b = gw_list_entry(m->bins.next, struct bin, link);

		gw_list_remove(&b->link);
		free(b->buf);
		free(b);
	}
	while (!gw_list_is_empty(&m->offers)) {
		struct offer *f = gw_list_entry(m->offers.next, struct offer, link);

		gw_list_remove(&f->link);
		free(f);
	}
	for (uint32_t h = 0; h < SIM_HOSTS; h++)
		while (!gw_list_is_empty(&m->news[h])) {
			struct news *w = gw_list_entry(m->news[h].next, struct news, link);

			gw_list_remove(&w->link);
			free(w);
		}
}

static void play(uint64_t seed)
{
	uint64_t busy, end_at;
	size_t area;

	episode = seed;
	rng = mix(seed + 1) | 1;
	step = story_n = 0;
	now_ns = 1000000000;
	profile_choose();
	is_quiet = false;
	area = ct_area_used();
	begin();
	for (busy = 500 + sim_rnd(20000); step < busy;)
		world_step();
	while (!all_is_sent() && step < 4 * busy)
		world_step();
	is_quiet = true;
	for (end_at = step + QUIET_STEPS; !all_is_sent() || !all_is_done();) {
		for (int i = 0; i < 200; i++)
			world_step();
		if (step > end_at)
			sim_fail("all is quiet, and yet something has not arrived");
	}
	is_quiet = sim_one_in(2);
	for (unsigned left = profile.members; left;) {
		int i = (int)sim_rnd(profile.members);

		if (members[i].state == SIM_AWAY)
			arrive(i);
		if (members[i].state == SIM_HERE) {
			lingering = 0;
			end(i);
		}
		left = 0;
		for (unsigned k = 0; k < profile.members; k++)
			left += members[k].state != SIM_GONE;
	}
	for (unsigned i = 0; i < profile.members; i++)
		member_free((int)i);
	sim_net_swap(sim_now_in, -1);
	sim_now_in = -1;
	noc_me = NULL;
	sim_wire_end();
	if (ct_area_used() != area)
		sim_fail("the user area is not as it was");
	for (uint32_t h = 0; h < profile.hosts; h++) {
		noc_segment_unmap(&pages[h]);
		close(segment_fd[h]);
	}
	sim_counts.episodes++;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, n = 0;
	double seconds = 2.5;
	bool is_one = false;
	struct timespec t, begun;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 0);
			is_one = true;
		} else if (!strcmp(argv[i], "--from") && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 0);
		} else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) {
			seconds = strtod(argv[++i], NULL);
		} else {
			fprintf(stderr, "usage: sim [--seed N | --from N] [--seconds N]\n");
			return 2;
		}
	}
	tap_begin((unsigned)seconds + 240);
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGBUS, on_signal);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		play(first + n++);
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while (!is_one && (double)(t.tv_sec - begun.tv_sec) + (double)(t.tv_nsec - begun.tv_nsec) * 1e-9 < seconds);
	ok(true, "every message once, in order and whole, in %llu episodes from seed %llu on",
	   (unsigned long long)sim_counts.episodes, (unsigned long long)first);
	diag("%llu steps, %llu messages, %llu transfers, %llu moves, %llu ends, %llu frames, %llu lost",
	     (unsigned long long)sim_counts.steps, (unsigned long long)sim_counts.messages, (unsigned long long)sim_counts.bulks,
	     (unsigned long long)sim_counts.moves, (unsigned long long)sim_counts.ends, (unsigned long long)sim_counts.frames,
	     (unsigned long long)sim_counts.lost_frames);
	diag("%llu cuts, %llu requests refused, %llu lost, %llu crossed", (unsigned long long)sim_counts.cuts,
	     (unsigned long long)sim_counts.refused, (unsigned long long)sim_counts.lost_requests,
	     (unsigned long long)sim_counts.crossings);
	ok(is_one || (sim_counts.moves && sim_counts.cuts && sim_counts.crossings && sim_counts.lost_frames),
	   "there were moves, cuts, crossed connections and lost frames");
	return tap_done();
}
