/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Channels between processes on several hosts: a host here is a segment of its own, the network is libfabric's tcp over
 * loopback. Every message of every length arrives once, in order and whole, while processes detach at random moments and
 * attach on another host, or the same, under a new address; while the news of it reaches the others late, and at different
 * times; and while connections are cut.
 *
 * usage: test_net [SEED]
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noc/local.h"
#include "tests/tap.h"

#define PROCS 4
#define HOSTS 3
#define MESSAGES 700
#define MOVES_MIN 20
#define MOVES_MAX 150

#include "noc/test_traffic.h"

static int segment_fd[HOSTS];
static struct noc_segment pages[HOSTS];
static uint32_t at_host;
static uint64_t epoch;
static bool closes_at_exec; /* libfabric sees to it */

static struct { /* what the other hosts will be told later */
	struct noc_place place;
	int delay[HOSTS]; /* polls until then; -1: they know */
} news;

static struct noc_host host_of(uint32_t host)
{
	struct noc_host h = { .host = host, .secret = "the secret of this job, 32 byte" };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	memcpy(&h.address, &in, sizeof(in));
	return h;
}

static void publish(int host)
{
	int rc = noc_names_publish(&pages[host], me, &news.place, me);

	if (rc)
		wrong("publish at host %d: %d (state %d, epoch %llu, incarnation %u)", host, rc, (int)news.place.state,
		      (unsigned long long)news.place.epoch, (unsigned)news.place.incarnation);
	news.delay[host] = -1;
}

static void tell(enum noc_name_state state, int delay_max)
{
	news.place = (struct noc_place){ .cluster = me, .state = state, .epoch = epoch, .incarnation = noc_me->incarnation,
	                                 .host = at_host, .address = noc_me->listening.address };
	for (int h = 0; h < HOSTS; h++) {
		news.delay[h] = (uint32_t)h == at_host || !delay_max ? 0 : (int)(rnd() % (unsigned)delay_max);
		if (!news.delay[h])
			publish(h);
	}
}

static void pass_news(void)
{
	for (int h = 0; h < HOSTS; h++)
		if (news.delay[h] > 0 && --news.delay[h] == 0)
			publish(h);
}

static void move(void)
{
	struct noc_host h;
	struct gw_error why;

	if (rnd() % 2)
		tell(NOC_NAME_MOVING, 0); /* else the others find out by themselves */
	if (noc_detach_test(10000, &why)) {
		diag("detach: %s", why.text);
		bad++;
		return;
	}
	epoch++;
	at_host = (uint32_t)(rnd() % HOSTS);
	h = host_of(at_host);
	if (noc_attach_test(segment_fd[at_host], me, &h, &why)) {
		diag("attach: %s", why.text);
		_exit(4);
	}
	tell(NOC_NAME_HERE, rnd() % 2 ? 200 : 0);
}

/* Is the libfabric that we run on the one that closes its sockets at exec? Another prefix may have one that does not. */
static bool is_patched(void)
{
	const char *prefix = getenv("MPICH_PREFIX");
	char path[4200], line[256];
	bool is = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/.complete", prefix ? prefix : "");
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		is |= strstr(line, "fabric-cloexec.patch") != NULL;
	if (f)
		fclose(f);
	return is;
}

/* The network fails for a moment: some socket of ours is cut under libfabric's feet. */
static void cut(void)
{
	for (int fd = 3; fd < 64; fd++) {
		struct sockaddr_in a;
		socklen_t len = sizeof(a);

		if (getpeername(fd, (struct sockaddr *)&a, &len) || a.sin_family != AF_INET)
			continue;
		if (closes_at_exec && !(fcntl(fd, F_GETFD) & FD_CLOEXEC)) {
			diag("connection %d would outlive an exec", fd);
			bad++;
		}
		if (rnd() % 3 == 0) {
			shutdown(fd, SHUT_RDWR);
			return;
		}
	}
}

static bool is_over(const uint64_t *next_out)
{
	for (int d = 0; d < PROCS; d++)
		if (next_out[d] < MESSAGES)
			return false;
	return arrived_total == (uint64_t)PROCS * MESSAGES && !noc_something_waits();
}

static int process(uint64_t seed)
{
	uint64_t next_out[PROCS] = { 0 }, by_reference = 0, cuts = 0, spins = 0;
	struct gw_error why;
	struct noc_host h;
	long moves = 0;

	rng = mix(seed * 31 + me + 77);
	at_host = me % HOSTS;
	h = host_of(at_host);
	if (me < 2) /* these two have room for fewer than their peers: connections are closed for others all the time */
		setenv("GODWIT_CONNECTIONS", me ? "1" : "2", 1);
	if (noc_start_test(segment_fd[at_host], me, &h, &why)) {
		diag("%s", why.text);
		return 2;
	}
	noc_port_bind(NOC_PORT_TAGGED, &port_ops);
	tell(NOC_NAME_HERE, 0);
	while (!is_over(next_out) || moves < MOVES_MIN) {
		for (uint32_t d = 0; d < PROCS; d++) {
			while (next_out[d] < MESSAGES && rnd() % 4) {
				uint64_t seq = next_out[d];
				size_t len = length_of(me, d, seq);
				bool is_copy = len <= NOC_EAGER_MAX && rnd() % 2, is_done = false;
				struct out *o = ct_area_alloc(sizeof(*o) + len);
				struct iovec iov[3] = { { o->buf, len / 4 }, { o->buf + len / 4, len / 4 },
				                        { o->buf + len / 2, len - len / 2 } };
				int rc;

				o->len = len;
				fill(o->buf, len, key_of(me, d, seq));
				iov[1].iov_len = len / 2 - len / 4;
				rc = noc_send(d, NOC_PORT_TAGGED, seq, me ^ 0x55, iov, 3, is_copy ? NOC_F_COPY : 0, is_copy ? NULL : o,
				              is_copy ? NULL : &is_done);
				if (rc || is_copy || is_done)
					ct_area_free(o, sizeof(*o) + len);
				else
					by_reference++;
				if (rc) {
					if (rc != -EAGAIN)
						wrong("sending to %u: %d", d, rc);
					break;
				}
				next_out[d]++;
			}
		}
		noc_poll(16);
		pass_news();
		if (spins % 64 == 0) { /* what the agent does for a program that computes */
			for (int i = 0; i < 8 && noc_net->poll(true); i++)
				;
			noc_path_acks();
		}
		if (++spins % 32 == 0)
			sched_yield();
		/* a move closes everything: one of the two stays long enough to need the room */
		if (rnd() % (me == 1 ? 2000 : 100) == 0 && moves < MOVES_MAX) {
			move();
			moves++;
		}
		if (rnd() % 200 == 0 && cuts < 100) {
			cut();
			cuts++;
		}
	}
	if (sent_cb != by_reference)
		wrong("%llu callbacks for %llu messages", (unsigned long long)sent_cb, (unsigned long long)by_reference);
	tell(NOC_NAME_HERE, 0);
	noc_stop();
	news.place.state = NOC_NAME_GONE;
	for (int i = 0; i < HOSTS; i++)
		publish(i);
	bad += noc_me->retained != 0 || noc_me->queued != 0 || ct_area_used() > 4000000;
	if (bad)
		diag("process %u: %ld bad, %ld moves, %llu connections closed for others, %llu callbacks for %llu, %llu retained, "
		     "%llu queued, area %zu", me, bad, moves, (unsigned long long)noc_counters()->shed,
		     (unsigned long long)sent_cb, (unsigned long long)by_reference, (unsigned long long)noc_me->retained,
		     (unsigned long long)noc_me->queued, ct_area_used());
	return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : gw_now_ns() & 0xffffff;
	struct gw_error why;
	pid_t pids[PROCS];

	tap_begin(250);
	/* each way in turn, half of the time our own: that of libfabric, and that with memory registered as hardware wants it */
	setenv("GODWIT_NET", (const char *const[]){ "tcp", "libfabric", "tcp", "registered" }[seed % 4], 0);
	diag("seed %llu, GODWIT_NET=%s", (unsigned long long)seed, getenv("GODWIT_NET"));
	closes_at_exec = is_patched();
	setenv("FI_PROVIDER", "godwit", 1); /* as in a rank: the others are hidden */
	for (int h = 0; h < HOSTS; h++) {
		segment_fd[h] = noc_segment_create(1, PROCS, PROCS, 1, &why);
		if (segment_fd[h] < 0 || noc_segment_map(&pages[h], segment_fd[h], NULL, &why))
			tap_bail("%s", why.text);
		for (int c = 0; c < PROCS; c++)
			atomic_store(&pages[h].clusters[c].is_up, 1);
	}
	for (me = 0; me < PROCS; me++) {
		pids[me] = fork();
		if (pids[me] == 0) {
			for (int h = 0; h < HOSTS; h++) { /* MADV_DONTFORK */
				memset(&pages[h], 0, sizeof(pages[h]));
				if (noc_segment_map(&pages[h], segment_fd[h], NULL, &why))
					_exit(5);
			}
			_exit(process(seed));
		}
	}
	for (int i = 0; i < PROCS; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		is_int(status, 0, "process %d: %d messages from and to each of %d on %d hosts, 0 B to 330 KB, all right over its moves",
		       i, MESSAGES, PROCS, HOSTS);
	}
	return tap_done();
}
