/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Channels between processes: every message of every length arrives once, in order and whole, while the processes
 * detach from the host segment and attach again at random moments, as they do around a move.
 */
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noc/local.h"
#include "tests/tap.h"

#define PROCS 4
#define MESSAGES 3000

#include "noc/test_traffic.h"

static int segment_fd;

static int process(void)
{
	uint64_t next_out[PROCS] = { 0 }, by_reference = 0;
	long moves = 0;
	struct gw_error why;

	rng = mix(me + 77);
	if (noc_start_test(segment_fd, me, NULL, &why)) {
		fprintf(stderr, "%s\n", why.text);
		return 2;
	}
	noc_port_bind(NOC_PORT_TAGGED, &port_ops);
	for (;;) {
		bool all_sent = true;

		for (uint32_t d = 0; d < PROCS; d++) {
			for (int k = 0; k < 4 && next_out[d] < MESSAGES; k++) {
				uint64_t seq = next_out[d];
				size_t len = length_of(me, d, seq);
				struct out *o = ct_area_alloc(sizeof(*o) + len);
				bool is_copy = len <= NOC_EAGER_MAX && rnd() % 2, is_done = false;
				struct iovec iov[3] = { { o->buf, len / 4 }, { o->buf + len / 4, len / 2 },
				                        { o->buf + len / 4 + len / 2, len - len / 4 - len / 2 } };
				int rc;

				o->len = len;
				fill(o->buf, len, key_of(me, d, seq));
				rc = noc_send(d, NOC_PORT_TAGGED, seq, me ^ 0x55, iov, 3, is_copy ? NOC_F_COPY : 0, is_copy ? NULL : o,
				              is_copy ? NULL : &is_done);
				if (rc == 0 && (is_copy || is_done))
					ct_area_free(o, sizeof(*o) + len);
				if (rc == 0 && !is_copy && !is_done)
					by_reference++;
				if (rc) {
					ct_area_free(o, sizeof(*o) + len);
					bad += rc != -EAGAIN;
					break;
				}
				next_out[d]++;
			}
			all_sent &= next_out[d] == MESSAGES;
		}
		noc_poll(16);
		if (rnd() % 8 == 0 && moves < 1500) {
			bad += noc_detach_test(10000, &why) != 0;
			if (rnd() % 4 == 0)
				sched_yield();
			bad += noc_attach_test(segment_fd, 0, NULL, &why) != 0;
			moves++;
		}
		if (all_sent && arrived_total == (uint64_t)PROCS * MESSAGES && !noc_something_waits())
			break;
		if (rnd() % 16 == 0)
			sched_yield();
	}
	bad += sent_cb != by_reference;
	bad += ct_area_used() > 4000000;
	if (bad || moves < 20)
		fprintf(stderr, "# process %u: %ld bad, %ld moves, %llu callbacks for %llu\n", me, bad, moves,
		        (unsigned long long)sent_cb, (unsigned long long)by_reference);
	noc_stop();
	return bad ? 1 : moves < 20 ? 3 : 0;
}

/* ---- an offer whose sender leaves for good ----------------------------------------------------------------------- */

static struct noc_bulk *offered;

static void keep_offer(const struct noc_msg *m)
{
	offered = m->offer;
}

static const struct noc_port_ops keeping = { .message = keep_offer };

static int offer_and_leave(int fd)
{
	static unsigned char buf[100000];
	struct iovec iov = { buf, sizeof(buf) };
	struct gw_error why;
	bool is_done;

	if (noc_start_test(fd, 1, NULL, &why) || noc_send(0, NOC_PORT_TAGGED, 0, 0, &iov, 1, 0, buf, &is_done))
		return 1;
	while (noc_me->queued) {
		noc_poll(16);
		sched_yield();
	}
	return noc_detach_test(10000, &why) != 0;
}

static void test_offer_of_gone(void)
{
	struct noc_place gone = { .state = NOC_NAME_GONE, .epoch = 1 };
	unsigned char buf[100];
	struct iovec iov[2] = { { buf, 50 }, { buf + 50, 50 } };
	struct gw_error why;
	int fd = noc_segment_create(1, 2, 1, 1, &why), status;
	pid_t pid = fork();
	size_t used;

	if (pid == 0)
		_exit(offer_and_leave(fd));
	if (noc_start_test(fd, 0, NULL, &why))
		tap_bail("%s", why.text);
	noc_port_bind(NOC_PORT_TAGGED, &keeping);
	while (!offered) {
		noc_poll(16);
		sched_yield();
	}
	ok(waitpid(pid, &status, 0) == pid && status == 0, "a process offers something and leaves");
	noc_names_publish(&noc_me->seg, 1, &gone, 0);
	used = ct_area_used();
	is_int(noc_bulk_accept(offered, iov, 2, NULL), -EHOSTUNREACH, "when it is gone its offer cannot be accepted");
	is_int(ct_area_used(), used, "and trying leaves nothing in the user area");
}

static void test_cells_left(void)
{
	struct noc_segment seg;
	struct gw_error why;
	uint64_t used = 0;

	if (noc_segment_map(&seg, segment_fd, NULL, &why))
		tap_bail("%s", why.text);
	for (uint32_t i = 0; i < PROCS; i++)
		used |= atomic_load(&noc_inbox_at(&seg, i)->cells_used);
	is_int(used, 0, "every cell was given back");
	noc_segment_unmap(&seg);
}

int main(void)
{
	struct gw_error why;
	pid_t pids[PROCS];

	tap_begin(200);
	segment_fd = noc_segment_create(1, PROCS, 1, 1, &why);
	if (segment_fd < 0)
		tap_bail("%s", why.text);
	for (me = 0; me < PROCS; me++) {
		pids[me] = fork();
		if (pids[me] == 0)
			_exit(process());
	}
	for (int i = 0; i < PROCS; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		is_int(status, 0, "process %d: %d messages from and to each of %d, 0 B to 330 KB, all right over its moves", i,
		       MESSAGES, PROCS);
	}
	test_cells_left();
	test_offer_of_gone();
	return tap_done();
}
