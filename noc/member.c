/* SPDX-License-Identifier: BSD-2-Clause */
/* Membership of a process: start and stop, attach and detach of the host segment, and waiting. */
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "noc/local.h"

#define SLEEP_LIMIT_NS         10000000 /* a doorbell that is never rung must not hang a program (rule 10) */
#define SLEEP_LIMIT_THREADS_NS 50000    /* another thread may wait for MPICH's lock, which the sleeper holds */
#define SLEEP_LIMIT_NET_NS     200000   /* the network does not ring; the agent does, when it watches. A wait that has lasted looks seldomer: */
#define SLEEPS_OF_LIMIT        32       /* after so many sleeps the limit is twice what it was, */
#define SLEEP_DOUBLES          4        /* so many times */
#define SLEEP_LIMIT_SPACE_NS   50000    /* we wait for room at a peer, which rings only one of those who wait */

#define SLEEP_FOR_MOVER_NS     20000    /* and what the kernel adds */
#define YIELDS_FOR_MOVER       4u       /* no more: where groups of processes share out the core it goes to nobody of another group */

#define TURNS_OF_OTHERS 16u    /* before a rank of a crowded cluster sleeps */
#define TICKS_ALONE     250000u /* so long it polls when nobody else wants the core: some 100 microseconds */
#define TICKS_THREADS   (1u << 26) /* some twenty milliseconds, between two looks at how many threads there are */
#define TICKS_SWITCH    2000u  /* a call that yielded to nobody takes less */

/* ---- attach, detach -------------------------------------------------------------------------------------------- */

static bool is_nowhere(const struct noc_address *a)
{
	static const struct noc_address nowhere;

	return memcmp(a, &nowhere, sizeof(nowhere)) == 0;
}

static int seg_attach(int fd, uint32_t cluster, struct gw_error *why)
{
	struct noc_member *m = noc_me;
	struct stat st;
	int rc;

	if (fstat(fd, &st))
		return gw_fail(why, -errno, "cannot look at the host segment: %s", strerror(errno));
	if (!m->range) {
		m->range = mmap(NULL, (size_t)st.st_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (m->range == MAP_FAILED) {
			m->range = NULL;
			return gw_fail(why, -errno, "cannot reserve %lld bytes of addresses for the host segment: %s; raise "
			               "'ulimit -v'", (long long)st.st_size, strerror(errno));
		}
		m->range_size = (size_t)st.st_size;
	}
	if ((size_t)st.st_size != m->range_size)
		return gw_fail(why, -EPROTO, "the host segment here has another size than where the rank came from");
	rc = noc_segment_map(&m->seg, fd, m->range, why);
	if (rc)
		goto reserve;
	if (!m->peers) {
		m->names_max = m->seg.head->names;
		m->peers = ct_area_zalloc(m->names_max * sizeof(*m->peers));
		if (!m->peers) {
			rc = gw_fail(why, -ENOMEM, "out of user area");
			goto reserve;
		}
	}
	if (m->proc >= m->names_max || cluster >= m->seg.head->clusters) {
		rc = gw_fail(why, -EPROTO, "process %u on cluster %u does not belong to this job's segment", m->proc, cluster);
		goto reserve;
	}
	noc_segment_close_spare(&m->seg);
	rc = noc_segment_reach(&m->seg, m->reach > m->proc ? m->reach : m->proc);
	if (rc) {
		gw_fail(why, rc, "cannot open inboxes of the host segment: %s", strerror(-rc));
		goto reserve;
	}
	for (uint32_t i = 0; i < m->names_max; i++)
		if (m->peers[i] && noc_is_guest(m->peers[i]))
			noc_guests_open(&m->seg, i);
	m->cluster = cluster;
	m->inbox = noc_inbox_at(&m->seg, m->proc);
	m->incarnation++;
	m->is_networked = !is_nowhere(&m->here.address);
	if (m->is_networked) {
		rc = noc_net ? noc_net->attach(&m->here, &m->listening, why) :
		               gw_fail(why, -ENOTSUP, "this job has several hosts, and this process speaks no network");
		if (rc)
			goto reserve;
	}
	m->head = noc_inbox_open_again(m->inbox, m->incarnation);
	atomic_store_explicit(&m->inbox->waited, 0, memory_order_relaxed);
	atomic_store_explicit(&m->inbox->slept_ns, 0, memory_order_relaxed);
	m->is_attached = true;
	noc_bell_open();
	if (m->is_networked)
		noc_path_attach();
	m->idle_polls = 0;
	m->net_credit = NOC_NET_CREDIT; /* peers may have waited for us */
	return 0;
reserve:
	m->inbox = NULL;
	m->is_networked = false;
	mmap(m->range, m->range_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	memset(&m->seg, 0, sizeof(m->seg));
	return rc;
}

/* Close and drain: afterwards every message that a writer could publish has been taken (rule 7). */
static int inbox_close_and_drain(uint64_t deadline_ms, struct gw_error *why)
{
	struct noc_member *m = noc_me;
	struct noc_inbox *in = m->inbox;
	uint64_t ticket, end = gw_now_ns() + deadline_ms * 1000000u;
	bool is_closed = false;

	atomic_store_explicit(&in->open, m->is_shut ? NOC_INBOX_SHUT : NOC_INBOX_CLOSED, memory_order_relaxed);
	for (unsigned tries = 0;; tries++) {
		int n;

		if (!is_closed)
			is_closed = noc_inbox_close(in, &ticket) == 0;
		n = noc_take(INT32_MAX);
		m->counters.drained += (uint64_t)n;
		if (is_closed && m->head == ticket)
			break;
		if (n == 0 && gw_now_ns() > end) {
			uint64_t w = atomic_load(&in->slots[m->head % NOC_SLOTS].word);
			uint32_t writer = noc_word_writer(w);

			/* stay: a closed slot in the middle would be read as the end, so make it void and open again */
			if (is_closed)
				atomic_store(&in->slots[ticket % NOC_SLOTS].word,
				             noc_word(ticket / NOC_SLOTS, m->proc, NOC_SLOT_VOID));
			atomic_store_explicit(&in->open, NOC_INBOX_OPEN, memory_order_release);
			return gw_fail(why, -ETIMEDOUT, "process %u is stopped in the middle of a message to this rank; continue it",
			               writer);
		}
		if (n == 0 && tries > 16)
			sched_yield(); /* the writer between claim and publish needs the core */
	}
	noc_cells_free();
	in->head = ticket;
	return 0;
}

static int member_detach(uint64_t deadline_ms, struct gw_error *why)
{
	struct noc_member *m = noc_me;
	int rc;

	if (!m->is_attached)
		return 0;
	rc = inbox_close_and_drain(deadline_ms, why);
	if (rc)
		return rc;
	if (m->is_networked) {
		noc_net->detach();
		m->is_networked = false; /* first: words about transfers that stand now must not try to connect once more */
		noc_path_detach();
	}
	/* what it was told is of this host, and the secret must not be in an image */
	explicit_bzero(&m->here, sizeof(m->here));
	memset(&m->listening, 0, sizeof(m->listening));
	noc_bell_close();
	noc_seat_leave();
	m->is_attached = false;
	m->inbox = NULL;
	memset(&m->seg, 0, sizeof(m->seg));
	if (mmap(m->range, m->range_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		return gw_fail(why, -errno, "cannot unmap the host segment: %s", strerror(errno));
	return 0;
}

static int member_attach(int fd, const struct ct_ctl_msg *order, struct ct_ctl_msg *answer, struct gw_error *why)
{
	struct noc_member *m = noc_me;
	int rc;

	_Static_assert(sizeof(order->net.address) == sizeof(m->here.address) &&
	               sizeof(order->net.fds) == sizeof(m->listening.fds), "the same on both sides");
	m->here.host = order->net.host;
	memcpy(&m->here.address, order->net.address, sizeof(m->here.address));
	memcpy(m->here.secret, order->net.secret, sizeof(m->here.secret));
	rc = seg_attach(fd, order->cluster, why);
	if (rc == 0) {
		answer->incarnation = m->incarnation;
		answer->traffic_at = (uintptr_t)&m->counters.bytes;
		memcpy(answer->net.address, &m->listening.address, sizeof(m->listening.address));
		memcpy(answer->net.fds, m->listening.fds, sizeof(answer->net.fds));
	}
	return rc;
}

static void member_wake_sleepers(void)
{
	struct noc_inbox *in = noc_me->inbox;

	while (atomic_load_explicit(&ct_the_gate.sleepers, memory_order_acquire)) {
		atomic_fetch_add_explicit(&in->bell, 1, memory_order_release);
		syscall(SYS_futex, &in->bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
		sched_yield();
	}
}

#define TURN_BUDGET 64

static int member_turn(void)
{
	bool waits = false;
	int n;

	if (!noc_me->is_attached)
		return -1;
	n = noc_poll(TURN_BUDGET);
	if (noc_me->is_networked) {
		for (int i = 0; i < 16 && noc_net->poll(true); i++)
			; /* a short turn: the program may want to enter */
		noc_path_acks();
	}
	for (int i = 0; i < NOC_PORT_COUNT; i++)
		if (noc_me->ports[i] && noc_me->ports[i]->turn)
			waits |= noc_me->ports[i]->turn();
	if (n >= TURN_BUDGET)
		return 0; /* there is more */
	return !waits && gw_list_is_empty(&noc_me->waiting) && gw_list_is_empty(&noc_me->streaming) &&
	       gw_list_is_empty(&noc_me->acks_due) ? -1 : 1;
}

static int member_fds(int fds[CT_AGENT_FDS])
{
	return noc_me->is_attached && noc_me->is_networked ? noc_net->fds(fds) : 0;
}

static void member_ring(void)
{
	struct noc_inbox *in = noc_me->inbox;

	if (in) { /* the agent is the one who detaches */
		atomic_store_explicit(&in->asleep, 0, memory_order_relaxed);
		noc_inbox_ring(in);
	}
}

static int member_bell(void)
{
	return noc_me->bell ? noc_me->bell : -1;
}

/* The agent's stack is small, so in pieces. Peers are never removed, and a record is complete before its pointer is there. */
static int member_traffic(int fd)
{
	struct ct_ctl_traffic piece[16];
	uint32_t n = 0, all = 0;

	for (uint32_t i = 0; noc_me->peers && i < noc_me->names_max; i++) {
		const struct noc_peer *p = *(struct noc_peer *const volatile *)&noc_me->peers[i];

		if (p && p->next_out && !noc_is_guest(p)) /* nobody can be moved nearer to those */
			piece[n++] = (struct ct_ctl_traffic){ .peer = i, .messages = p->next_out, .bytes = p->sent_bytes };
		if (n == GW_ARRAY_LEN(piece) || (n && i + 1 == noc_me->names_max)) {
			if (pwrite(fd, piece, n * sizeof(*piece), (off_t)(all * sizeof(*piece))) != (ssize_t)(n * sizeof(*piece)))
				return errno ? -errno : -EIO;
			all += n;
			n = 0;
		}
	}
	return (int)all;
}

static const struct ct_agent_ops agent_ops = {
	.attach = member_attach,
	.detach = member_detach,
	.wake_sleepers = member_wake_sleepers,
	.turn = member_turn,
	.fds = member_fds,
	.ring = member_ring,
	.bell = member_bell,
	.heard = noc_bell_heard,
	.traffic = member_traffic,
};

/* ---- start, stop ----------------------------------------------------------------------------------------------- */

static int member_create(struct gw_error *why)
{
	struct noc_member *m;

	if (noc_me)
		return 0;
	m = ct_area_zalloc(sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "cannot reserve the user area: %s; raise 'ulimit -v'", strerror(errno));
	gw_list_init(&m->waiting);
	gw_list_init(&m->streaming);
	gw_list_init(&m->acks_due);
	noc_me = m;
	return 0;
}

static int start_alone(struct gw_error *why)
{
	gw_autoclose int fd = noc_segment_create(0, 1, 1, 1, why);

	if (fd < 0)
		return fd;
	noc_me->is_alone = true;
	return seg_attach(fd, 0, why);
}

int noc_start(struct gw_error *why)
{
	const char *proc = getenv("GODWIT_PROC"), *job = getenv("GODWIT_JOB");
	int rc;

	rc = member_create(why);
	if (rc)
		return rc;
	if (noc_me->refs++)
		return 0;
	noc_me->is_shut = false;
	noc_me->is_alone = false;
	if (proc && job) {
		noc_me->proc = (uint32_t)strtoul(proc, NULL, 10);
		noc_me->job = (uint32_t)strtoul(job, NULL, 10);
		rc = ct_agent_start(&agent_ops, why);
		if (rc == 0)
			return 0;
		if (rc != -ENOENT || noc_me->peers)
			goto fail;
	}
	/* not one of mpirun's, or the child of one: a job of its own, whose name is nobody else's, so that what is sent to another
	 * process's address is refused and does not come back */
	noc_me->proc = 0;
	if (getrandom(&noc_me->job, sizeof(noc_me->job), GRND_NONBLOCK) != sizeof(noc_me->job))
		noc_me->job = (uint32_t)getpid();
	rc = start_alone(why);
	if (rc == 0)
		return 0;
fail:
	noc_me->refs--;
	return rc;
}

int noc_start_test(int segment_fd, uint32_t proc, const struct noc_host *here, struct gw_error *why)
{
	int rc = member_create(why);

	if (rc)
		return rc;
	noc_me->proc = proc;
	noc_me->is_alone = true;
	noc_me->refs++;
	return noc_attach_test(segment_fd, 0, here, why);
}

int noc_detach_test(uint64_t deadline_ms, struct gw_error *why)
{
	return member_detach(deadline_ms, why);
}

int noc_attach_test(int segment_fd, uint32_t cluster, const struct noc_host *here, struct gw_error *why)
{
	if (here)
		noc_me->here = *here;
	return seg_attach(segment_fd, cluster, why);
}

/* An unaccepted offer to a peer that has left for good will never be accepted: a program that ends so is wrong, but it
 * must not hang. */
static bool outs_can_complete(void)
{
	struct noc_member *m = noc_me;

	for (uint32_t i = 0; i < m->outs.size; i++) {
		struct noc_bulk_out *o = noc_table_get(&m->outs, i);
		struct noc_place place;

		if (o && atomic_load(&noc_inbox_at(&m->seg, o->peer->proc)->open) != NOC_INBOX_SHUT &&
		    !(noc_names_lookup(&m->seg, o->peer->proc, &place) == 0 && place.state == NOC_NAME_GONE))
			return true;
	}
	return false;
}

void noc_stop(void)
{
	struct timespec t = { .tv_nsec = 50000 };
	struct gw_error why;
	bool is_waiting;

	if (!noc_me || !noc_me->refs || --noc_me->refs)
		return;
	for (;;) { /* linger (rule 4); a lingering rank can be moved: the gate is open between turns */
		ct_gate_enter(CT_DOING_WAIT);
		while (noc_poll(64))
			;
		noc_path_acks();
		is_waiting = noc_me->queued || (noc_me->outs_alive && outs_can_complete()) || noc_path_lingers();
		ct_gate_leave();
		if (!is_waiting)
			break;
		nanosleep(&t, NULL);
	}
	noc_me->is_shut = true;
	if (noc_me->is_alone)
		member_detach(1000, &why);
	else
		ct_agent_stop();
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

bool noc_cluster_is_crowded(void)
{
	const struct noc_segment *seg = &noc_me->seg;
	uint32_t d = atomic_load_explicit(&seg->clusters[noc_me->cluster].domain, memory_order_relaxed);

	return d < seg->head->domains && atomic_load_explicit(&seg->domains[d].ranks, memory_order_relaxed) >
	                                         atomic_load_explicit(&seg->domains[d].cores, memory_order_relaxed);
}

/* More than the caller and the agent? Looked up now and then: it is a path through /proc, and 64 ranks ask. */
static bool has_other_threads(void)
{
	uint64_t now = __builtin_ia32_rdtsc();
	struct stat st;

	if (now - noc_me->wait_looked > TICKS_THREADS) {
		noc_me->wait_looked = now;
		noc_me->wait_threads = stat("/proc/self/task", &st) == 0 ? (uint32_t)st.st_nlink - 2 : 99;
	}
	return noc_me->wait_threads > 2;
}

/* Processor time of the calling thread */
static uint64_t own_ns(void)
{
	struct timespec t = { 0 };

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_on_doorbell(long limit_ns)
{
	struct noc_inbox *in = noc_me->inbox;
	struct timespec t = { .tv_sec = 0, .tv_nsec = limit_ns };
	uint32_t bell = atomic_load_explicit(&in->bell, memory_order_acquire);
	enum ct_doing doing = atomic_load_explicit(&ct_the_gate.doing, memory_order_relaxed);
	uint64_t word;

	/* seq_cst: either the writer's exchange on its slot comes before our look at the slot, or it sees us asleep */
	atomic_store_explicit(&in->asleep, 1, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	if (noc_inbox_peek(in, noc_me->head, &word)) {
		atomic_store_explicit(&in->asleep, 0, memory_order_relaxed);
		return;
	}
	noc_me->counters.sleeps++;
	/* Counted before the gate opens for the agent, so that it does not unmap the bell under us (rule 10). */
	atomic_fetch_add_explicit(&ct_the_gate.sleepers, 1, memory_order_acq_rel);
	ct_gate_leave();
	syscall(SYS_futex, &in->bell, FUTEX_WAIT, bell, &t, NULL, 0);
	atomic_fetch_sub_explicit(&ct_the_gate.sleepers, 1, memory_order_acq_rel);
	ct_gate_enter(doing);
	atomic_store_explicit(&noc_me->inbox->asleep, 0, memory_order_relaxed);
}

/* What it costs is written down: where the network is waited for a wait has many sleeps, and in a virtual machine each costs tens of
 * microseconds, which whoever balances the job must not take for work. */
static void sleep_and_count(long limit_ns)
{
	uint64_t before = noc_me->wait_sleeps > 1 ? noc_me->wait_own_ns : own_ns(), after; /* polls between two sleeps count, too */
	struct noc_inbox *in;

	sleep_on_doorbell(limit_ns);
	in = noc_me->inbox; /* it may have been moved: both have begun anew then */
	after = noc_me->wait_own_ns = own_ns();
	if (in && after > before)
		atomic_store_explicit(&in->slept_ns, atomic_load_explicit(&in->slept_ns, memory_order_relaxed) + after - before,
		                      memory_order_relaxed);
}

/*
 * Whoever carries a peer here or there may want this core, and so may the peer itself, or our agent: messages of ours wait for
 * somebody who is under way, or a connection was lost by a move, theirs or ours, and comes back in a moment.
 */
static bool waits_for_mover(void)
{
	struct noc_member *m = noc_me;
	const struct gw_list *first = m->waiting.next;

	if (GW_UNLIKELY(m->expects_ns)) {
		if (gw_now_ns() < m->expects_ns)
			return true;
		m->expects_ns = 0;
	}
	return first != &m->waiting && gw_list_entry(first, struct noc_peer, link)->path == NOC_PATH_NONE;
}

bool noc_will_sleep(uint32_t empty_polls)
{
	return empty_polls >= 8 && noc_cluster_is_crowded();
}

void noc_waited(uint64_t ticks)
{
	struct noc_inbox *in = noc_me->inbox;

	/* one writer, and clusterd reads it now and then (noc_waited_of): no order needed */
	if (in && noc_me->wait_sleeps == 0) /* else sleep_and_count() does it */
		atomic_store_explicit(&in->waited, atomic_load_explicit(&in->waited, memory_order_relaxed) + ticks, memory_order_relaxed);
}

/*
 * Let others run first, without sleeping: among ranks that exchange messages whoever is waited for runs then, no writer has to
 * wake us, and no core goes idle between two messages, which costs tens of microseconds in a virtual machine. Not for
 * long: a rank that the others' turns bring nothing sleeps until its message wakes it, and so does one that has the core to
 * itself, since ranks may wait for it in another core's queue.
 * Return: true when it was worth another poll.
 */
static bool give_way(uint32_t empty_polls)
{
	struct noc_member *m = noc_me;
	enum ct_doing doing = atomic_load_explicit(&ct_the_gate.doing, memory_order_relaxed);
	uint64_t before = __builtin_ia32_rdtsc(), now;

	if (empty_polls == 0) {
		m->wait_since = before;
		m->wait_turns = 0;
	}
	if (m->wait_turns >= TURNS_OF_OTHERS || before - m->wait_since > TICKS_ALONE)
		return false;
	ct_gate_leave();
	sched_yield();
	ct_gate_enter(doing);
	now = __builtin_ia32_rdtsc();
	noc_seat_look(now);
	if (now - before > TICKS_SWITCH) { /* another one has run */
		m->wait_turns++;
		m->wait_since = now;
		m->has_slept = true;
	}
	return true;
}

void noc_wait(uint32_t empty_polls)
{
	bool has_threads;
	uint32_t longer;

	if (empty_polls == 0)
		noc_me->wait_sleeps = 0;
	if (GW_UNLIKELY(waits_for_mover())) {
		noc_me->wait_sleeps = 0; /* polls are counted again (noc_waited), not sleeps */
		if (empty_polls < YIELDS_FOR_MOVER)
			sched_yield();
		else
			sleep_on_doorbell(SLEEP_FOR_MOVER_NS);
		noc_me->has_slept = true; /* it will connect: look there at every turn */
		return;
	}
	if (!noc_cluster_is_crowded()) {
		noc_me->wait_sleeps = 0;
		__builtin_ia32_pause();
		return;
	}
	if (noc_me->queued || !gw_list_is_empty(&noc_me->streaming)) {
		noc_me->wait_sleeps = 0;
		if (empty_polls < 32)
			sched_yield();
		else
			sleep_on_doorbell(SLEEP_LIMIT_SPACE_NS);
		return;
	}
	has_threads = has_other_threads();
	if (!has_threads && give_way(empty_polls)) /* others of the program would wait for MPICH's lock as long (rule 10) */
		return;
	longer = noc_me->wait_sleeps++ / SLEEPS_OF_LIMIT;
	if (has_threads || !noc_me->is_networked) {
		noc_me->wait_sleeps = 0;
		sleep_on_doorbell(has_threads ? SLEEP_LIMIT_THREADS_NS : SLEEP_LIMIT_NS);
	} else {
		sleep_and_count((long)SLEEP_LIMIT_NET_NS << (longer < SLEEP_DOUBLES ? longer : SLEEP_DOUBLES));
	}
	noc_me->has_slept = true; /* look at the network first */
}
