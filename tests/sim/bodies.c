/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * In the place of containers: a rank's whole state is its age, a number that grows while it runs. An image carries the age
 * at the freeze, so whoever thaws an image that is not the newest age of its rank has set the rank back.
 */
#include <stdlib.h>

#include "container/container.h"
#include "tests/sim/moves.h"

struct ct_rank {
	struct gw_list node;
	struct sim_daemon *d;
	uint32_t proc;
	enum { RUNNING, FROZEN, FILLING, COMPLETE, ENDED } state;
	bool was_killed;             /* while it stood still */
	uint64_t age;
	unsigned chunks;             /* of the image: written, or read */
	bool is_followed, is_round_out;
	unsigned round;              /* sent, or come */
	int fd;                      /* status */
	bool may_leave;
	unsigned left;               /* pages that come after it; of a shell and of what it becomes, until they are there */
	unsigned served;             /* of these */
	struct ct_fetch *fetch;
	const struct ct_files *expects; /* a shell: the files that it will be given */
	bool has_files;
	int (*say)(void *ctx, struct gw_error *why); /* ct_rank_when_still */
	void *say_ctx;
	int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why); /* ct_rank_when_known */
	void *hand_ctx;
};
struct chunk { uint64_t magic, age; unsigned number, proc, left; };
struct page { uint64_t magic, age; unsigned number, proc; };
#define CHUNK 0x65676169u
#define ROUND 1000000u /* numbers of chunks of rounds begin here */

struct ct_fetch { struct ct_rank *body; unsigned missing, pages; uint64_t age; unsigned asked, wants; int fd; }; /* bits */

static struct gw_list bodies = { &bodies, &bodies };
static uint64_t newest[SIM_RANKS]; /* age that any copy has reached */
static int next_fd = 1000;

int sim_fd_new(void) { return next_fd++; }

static struct ct_rank *body_new(struct sim_daemon *d, uint32_t proc)
{
	struct ct_rank *ct = calloc(1, sizeof(*ct));

	ct->d = d;
	ct->proc = proc;
	ct->fd = sim_fd_new();
	gw_list_append(&bodies, &ct->node);
	return ct;
}

static void body_free(struct ct_rank *ct)
{
	if (ct->fetch)
		ct->fetch->body = NULL;
	gw_list_remove(&ct->node);
	free(ct);
}

int sim_bodies_running(uint32_t proc)
{
	int n = 0;

	gw_list_for(e, &bodies)
		n += gw_list_entry(e, struct ct_rank, node)->proc == proc && gw_list_entry(e, struct ct_rank, node)->state == RUNNING;
	return n;
}

/* It runs from now on: nobody else may, and it must be as old as the rank has ever been. */
static void body_runs(struct ct_rank *ct)
{
	ct->state = RUNNING;
	if (sim_bodies_running(ct->proc) > 1)
		sim_fail("two copies of a rank run");
	if (ct->age != newest[ct->proc])
		sim_fail("a rank is set back");
	newest[ct->proc] = ++ct->age;
}

struct ct_rank *sim_body_new(struct sim_daemon *d, uint32_t proc, uint64_t age)
{
	struct ct_rank *ct = body_new(d, proc);

	ct->age = newest[proc] = age;
	ct->state = RUNNING;
	return ct;
}

bool sim_body_runs(const struct ct_rank *ct) { return ct->state == RUNNING; }
bool sim_body_has_ended(const struct ct_rank *ct) { return ct->state == ENDED; }
uint32_t sim_body_proc(const struct ct_rank *ct) { return ct->proc; }

void sim_body_run(struct ct_rank *ct)
{
	newest[ct->proc] = ++ct->age;
}

void sim_body_exit(struct ct_rank *ct)
{
	if (ct->state == FROZEN) {
		ct->was_killed = true; /* its status cannot tell yet */
		return;
	}
	ct->was_killed = ct->state != RUNNING;
	ct->state = ENDED;
	sim_fd_ready(ct->d->loop, ct->fd);
	sim_fd_ready(ct->d->loop, SIM_CHILD_FD);
}

const struct sim_daemon *sim_body_home(uint32_t proc)
{
	gw_list_for(e, &bodies) {
		const struct ct_rank *ct = gw_list_entry(e, struct ct_rank, node);

		if (ct->proc == proc && ct->state == RUNNING)
			return ct->d;
	}
	return NULL;
}

struct ct_rank *sim_body_some(struct sim_daemon *d, bool is_shell)
{
	gw_list_for(e, &bodies) {
		struct ct_rank *ct = gw_list_entry(e, struct ct_rank, node);

		if (ct->d == d && ct->state != ENDED && (ct->state == FILLING || ct->state == COMPLETE) == is_shell &&
		    sim_one_in(2))
			return ct;
	}
	return NULL;
}

void sim_body_expects(struct ct_rank *ct, const struct ct_files *files)
{
	ct->expects = files;
}

void sim_body_forgets(const struct ct_files *files)
{
	gw_list_for(e, &bodies) {
		const struct ct_rank *ct = gw_list_entry(e, struct ct_rank, node);

		if (ct->expects == files && !ct->d->is_dead)
			sim_fail("files are forgotten that a shell waits for");
	}
}

void sim_bodies_die(struct sim_daemon *d)
{
	gw_list_for_safe(e, &bodies) {
		struct ct_rank *ct = gw_list_entry(e, struct ct_rank, node);

		if (ct->d != d)
			continue;
		if (ct->state == RUNNING || ct->state == FROZEN || ct->state == COMPLETE)
			sim_rank_is_dead(ct->proc);
		body_free(ct);
	}
}

void sim_bodies_end(void)
{
	if (!gw_list_is_empty(&bodies))
		sim_fail("a body is left over");
	memset(newest, 0, sizeof(newest));
	next_fd = 1000;
}

/* ---- container.h ------------------------------------------------------------------------------------------------- */

int ct_rank_check(struct ct_rank *r, struct ct_needs *out, struct gw_error *why)
{
	if (r->state != RUNNING)
		return gw_fail(why, -ESRCH, "it has ended");
	*out = (struct ct_needs){ .version = CT_NEEDS_VERSION };
	return 0;
}

void ct_needs_fini(struct ct_needs *n) { n->blob = NULL; }
void ct_needs_heard(struct ct_needs *n) { n->heard_monotonic_ns = n->heard_boottime_ns = sim_now_ns; }
void ct_rank_may_carry(struct ct_rank *r, bool may) { (void)r, (void)may; }
void ct_rank_way(struct ct_rank *r, enum ct_way way) { (void)r, (void)way; }
pid_t ct_rank_pid(const struct ct_rank *r) { return (pid_t)r->proc; }

void ct_rank_clocks(const struct ct_rank *r, uint64_t *monotonic_ns, uint64_t *boottime_ns)
{
	(void)r;
	*monotonic_ns = *boottime_ns = sim_now_ns;
}

/* ---- rounds: each of one chunk; how many is chance ---------------------------------------------------------------- */

int ct_host_probe(struct ct_host_caps *out)
{
	*out = (struct ct_host_caps){ .has_wp_async = true, .can_fetch = !sim_one_in(8) };
	return 0;
}

void ct_rank_follow_from(struct ct_rank *r, uint64_t bytes) { (void)r, (void)bytes; }

int ct_follow_begin(struct ct_rank *r, struct gw_error *why)
{
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "it has ended");
	if (r->is_followed)
		sim_fail("a rank is followed twice");
	if (sim_one_in(8))
		return gw_fail(why, -ENOTSUP, "this host cannot");
	r->is_followed = true;
	r->round = 0;
	return 0;
}

int ct_follow_round(struct ct_rank *r, struct ct_round *out, struct gw_error *why)
{
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "it has ended");
	if (!r->is_followed)
		sim_fail("a round of a rank that is not followed");
	r->is_round_out = false;
	*out = (struct ct_round){ .number = r->round, .bytes = sim_one_in(3) ? 1 : (uint64_t)1 << (40 - 2 * r->round) };
	return 0;
}

int ct_follow_leave(struct ct_rank *r, struct gw_error *why)
{
	return ct_follow_forget(r, why); /* to the session it is the same */
}

int ct_follow_forget(struct ct_rank *r, struct gw_error *why)
{
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "it has ended");
	if (!r->is_followed || !r->round)
		sim_fail("what was never sent is to be forgotten");
	r->is_round_out = false;
	return 0;
}

void ct_follow_sent(struct ct_rank *r)
{
	if (!r->is_round_out)
		sim_fail("a round has arrived before it was sent");
	r->round++;
}

void ct_follow_end(struct ct_rank *r) { r->is_followed = false; }
uint32_t ct_shell_rounds(const struct ct_rank *r) { return r->round; }


int ct_rank_freeze_prepare(struct ct_rank *r, struct gw_error *why)
{
	return r->state == ENDED ? gw_fail(why, -ESRCH, "it has ended") : 0;
}

void ct_rank_freeze_forget(struct ct_rank *r) { (void)r; }

void ct_rank_when_still(struct ct_rank *r, int (*say)(void *ctx, struct gw_error *why), void *ctx)
{
	r->say = say;
	r->say_ctx = ctx;
}

void ct_rank_when_known(struct ct_rank *r, int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why), void *ctx)
{
	r->hand = hand;
	r->hand_ctx = ctx;
}

/* The first chunk of an image, while the rest of the rank is looked at. */
static int hand_head(struct ct_rank *r, int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why), struct gw_error *why)
{
	struct chunk c = { CHUNK, r->age, 0, r->proc, 0 };
	int rc;

	if (!hand || r->may_leave || !sim_moves.chunks || sim_one_in(8))
		return 0;
	rc = hand(r->hand_ctx, &c, sizeof(c), why);
	r->chunks = 1;
	return rc;
}

int ct_rank_freeze(struct ct_rank *r, uint64_t deadline_ms, struct ct_freeze_stats *stats, struct gw_error *why)
{
	int (*say)(void *ctx, struct gw_error *why) = r->say;
	int (*hand)(void *ctx, const void *bytes, size_t len, struct gw_error *why) = r->hand;
	int rc;

	(void)deadline_ms;
	r->say = NULL;
	r->hand = NULL;
	r->chunks = 0;
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "it has ended");
	if (r->state != RUNNING)
		sim_fail("what does not run is frozen");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ETIMEDOUT, "a thread does not stop");
	if (r->left)
		sim_fail("a rank that lacks pages is frozen");
	rc = say ? say(r->say_ctx, why) : 0;
	if (rc == 0)
		rc = hand_head(r, hand, why);
	if (rc < 0)
		return rc;
	if (say && sim_one_in(sim_moves.p_fault)) /* it has been said */
		return gw_fail(why, -EBUSY, "something that cannot move has appeared");
	r->state = FROZEN;
	r->left = r->may_leave && !sim_one_in(8) ? 1 + (unsigned)sim_rnd(6) : 0;
	r->served = 0;
	r->may_leave = false;
	*stats = (struct ct_freeze_stats){ .threads = 1 };
	return 0;
}

ssize_t ct_image_next(struct ct_rank *r, void *buf, size_t cap, struct gw_error *why)
{
	struct chunk c = { CHUNK, r->age, r->chunks, r->proc, r->left };

	(void)cap;
	if (r->state == RUNNING && r->is_followed) { /* one chunk, and the end of the round */
		if (r->was_killed)
			return gw_fail(why, -ESRCH, "its memory is gone");
		c.number = ROUND + r->round;
		if (r->is_round_out)
			return 0;
		r->is_round_out = true;
		memcpy(buf, &c, sizeof(c));
		return sizeof(c);
	}
	if (r->state != FROZEN)
		sim_fail("the image of what is not frozen is read");
	if (r->was_killed)
		return gw_fail(why, -ESRCH, "its memory is gone");
	if (r->chunks == sim_moves.chunks)
		return 0;
	r->chunks++;
	memcpy(buf, &c, sizeof(c));
	return sizeof(c);
}

bool ct_rank_was_killed(const struct ct_rank *r) { return r->was_killed; }

int ct_rank_unfreeze(struct ct_rank *r, struct gw_error *why)
{
	if (r->state != FROZEN)
		sim_fail("what is not frozen is let go");
	r->left = 0;
	if (r->was_killed) {
		r->state = ENDED;
		sim_fd_ready(r->d->loop, r->fd);
		return gw_fail(why, -ESRCH, "it was killed");
	}
	body_runs(r);
	return 0;
}

bool ct_rank_shares(const struct ct_rank *r)
{
	(void)r;
	return sim_one_in(4);
}

void ct_rank_release(struct ct_rank *r)
{
	if (r->state != FROZEN)
		sim_fail("a copy that is not frozen is released");
	body_free(r);
}

void ct_rank_kill(struct ct_rank *r)
{
	if (!r)
		return;
	if (r->state == RUNNING || r->state == FROZEN)
		sim_fail("a rank is killed that nobody wants to end");
	body_free(r);
}

int ct_rank_status_fd(const struct ct_rank *r) { return r->fd; }
bool ct_shell_is_alive(const struct ct_rank *r) { return r->state != ENDED; }

int ct_shell_create(struct ct_rank **out, const struct ct_needs *needs, const struct ct_plumbing *plumbing, const cpu_set_t *cpus,
                    struct gw_error *why)
{
	(void)needs, (void)plumbing, (void)cpus;
	/* ops.prepare has put down whose it is */
	extern struct sim_held *sim_preparing;

	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ENOMEM, "no room for a shell");
	*out = body_new(sim_preparing->d, sim_preparing->proc);
	(*out)->state = FILLING;
	return 0;
}

int ct_shell_make_pages(struct ct_rank *r, struct gw_error *why)
{
	(void)r, (void)why;
	return 0;
}

int ct_shell_feed(struct ct_rank *r, const void *buf, size_t len, struct gw_error *why)
{
	struct chunk c;

	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "the shell has ended");
	memcpy(&c, buf, sizeof(c));
	if (r->state == FILLING && len == sizeof(c) && c.magic == CHUNK && c.proc == r->proc && c.number == ROUND + r->round &&
	    r->chunks == 0) {
		r->round++;
		return 0;
	}
	if (r->state != FILLING || len != sizeof(c) || c.magic != CHUNK || c.number != r->chunks || c.proc != r->proc)
		sim_fail("an image comes in another order, or for another rank");
	r->chunks++;
	r->age = c.age;
	r->left = c.left;
	return 0;
}

int ct_shell_ready(struct ct_rank *r, struct gw_error *why)
{
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "the shell has ended");
	if (r->chunks != sim_moves.chunks)
		sim_fail("an image is short");
	if (!r->expects || sim_proof_is_writing(r->expects))
		sim_fail("an image has ended before the files were written");
	r->state = COMPLETE;
	return 0;
}

int ct_rank_settle_files(struct ct_rank *r, struct gw_error *why)
{
	if (!r->expects)
		sim_fail("files are settled that nobody expects");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -EEXIST, "another file is in the way");
	r->expects = NULL;
	r->has_files = true;
	return 0;
}

int ct_rank_thaw(struct ct_rank *r, struct ct_thaw_stats *stats, struct gw_error *why)
{
	if (r->state == ENDED)
		return gw_fail(why, -ESRCH, "the shell has ended");
	if (r->state != COMPLETE || !r->has_files)
		sim_fail("what is not complete is thawed");
	*stats = (struct ct_thaw_stats){ .thaw_ns = 1 };
	body_runs(r);
	return 0;
}

void ct_rank_tidy(struct ct_rank *r)
{
	if (r->state != RUNNING && r->state != ENDED)
		sim_fail("what does not run is tidied up");
}

/* ---- pages that come after it -------------------------------------------------------------------------------------- */

void ct_rank_leave_pages(struct ct_rank *r, bool may) { r->may_leave = may; }
uint64_t ct_rank_left_bytes(const struct ct_rank *r) { return r->left * 4096ull; }
bool ct_serve_is_out(const struct ct_rank *r) { return r->served >= r->left; }
uint64_t ct_serve_ahead(const struct ct_rank *r, uint64_t cursor) { return r->served > cursor ? (r->served - cursor) * 400000 : 0; }
void ct_serve_rewind(struct ct_rank *r, uint64_t cursor) { r->served = (unsigned)cursor; }

static ssize_t put_page(struct ct_rank *r, unsigned number, void *buf, struct gw_error *why)
{
	struct page p = { CHUNK, r->age, number, r->proc };

	if (r->state != FROZEN)
		sim_fail("pages are served from what is not frozen");
	if (r->was_killed)
		return gw_fail(why, -ESRCH, "its memory is gone");
	memcpy(buf, &p, sizeof(p));
	return sizeof(p);
}

ssize_t ct_serve_next(struct ct_rank *r, void *buf, size_t cap, uint64_t *cursor, struct gw_error *why)
{
	ssize_t n = put_page(r, r->served, buf, why);

	(void)cap;
	if (n > 0)
		*cursor = ++r->served;
	return n;
}

ssize_t ct_serve_page(struct ct_rank *r, uint64_t addr, void *buf, size_t cap, struct gw_error *why)
{
	(void)cap;
	if (addr >= r->left)
		sim_fail("a page is asked for that was not left");
	return put_page(r, (unsigned)addr, buf, why);
}

struct ct_fetch *ct_rank_take_fetch(struct ct_rank *r)
{
	struct ct_fetch *f;

	if (!r->left)
		return NULL;
	f = r->fetch = calloc(1, sizeof(*f));
	*f = (struct ct_fetch){ .body = r, .missing = (1u << r->left) - 1, .pages = r->left, .fd = sim_fd_new() };
	f->age = r->age - 1; /* it runs, so it is one older than its image */
	return f;
}

int ct_fetch_fd(const struct ct_fetch *f) { return f->fd; }

int ct_fetch_turn(struct ct_fetch *f, struct gw_error *why)
{
	unsigned page = 1u << sim_rnd(f->pages);

	if (sim_one_in(sim_moves.p_fault * 8))
		return gw_fail(why, -ENOMEM, "no memory for a list of pages");
	if (f->missing & page & ~f->asked)
		f->asked |= page, f->wants |= page;
	return 0;
}

size_t ct_fetch_wants(struct ct_fetch *f, uint64_t *addresses, size_t cap)
{
	size_t n = 0;

	for (unsigned i = 0; i < f->pages && n < cap; i++)
		if (f->wants >> i & 1)
			addresses[n++] = i;
	f->wants = 0;
	return n;
}

void ct_fetch_again(struct ct_fetch *f) { f->wants = f->asked; }

int ct_fetch_fill(struct ct_fetch *f, const void *buf, size_t len, struct gw_error *why)
{
	struct page p;

	(void)why;
	memcpy(&p, buf, sizeof(p));
	if (len != sizeof(p) || p.magic != CHUNK || p.number >= f->pages || p.age != f->age || (f->body && p.proc != f->body->proc))
		sim_fail("a page comes that nobody left, or of another time");
	f->missing &= ~(1u << p.number);
	f->asked &= ~(1u << p.number);
	if (f->missing && f->body && sim_one_in(2))
		sim_fd_ready(f->body->d->loop, f->fd);
	return 0;
}

uint64_t ct_fetch_left(const struct ct_fetch *f) { return (uint64_t)__builtin_popcount(f->missing); }
void ct_fetch_measure(struct ct_fetch *f, struct ct_fetch_stats *out) { (void)f, *out = (struct ct_fetch_stats){ 0 }; }

void ct_fetch_end(struct ct_fetch *f)
{
	if (!f)
		return;
	if (f->body && f->missing && f->body->state == RUNNING && !f->body->d->is_dead)
		sim_fail("a rank runs on without its pages");
	if (f->body) {
		f->body->left = 0;
		f->body->fetch = NULL;
	}
	free(f);
}

void ct_rank_end(struct ct_rank *r)
{
	if (r->state == RUNNING)
		sim_body_exit(r);
}
