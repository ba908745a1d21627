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

struct bin { struct noc_bulk *offer; uint32_t src; uint64_t seq, len; unsigned char *buf; };

static int segment_fd;
static uint32_t me;
static uint64_t next_in[PROCS], arrived_total, accepted, sent_cb;
static long bad, truncated;
static uint64_t rng;

static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

static size_t length_of(uint32_t src, uint32_t dst, uint64_t seq)
{
	uint64_t r = mix(src * 1000003u + dst * 10007u + seq);

	switch (r % 16) {
	case 0: return 0;
	case 1: case 2: case 3: case 4: case 5: case 6: return r / 16 % 209;
	case 7: case 8: case 9: case 10: return r / 16 % 4096;
	case 11: case 12: case 13: return r / 16 % (NOC_EAGER_MAX + 1);
	default: return NOC_EAGER_MAX + 1 + r / 16 % 300000;
	}
}

static void fill(unsigned char *p, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = mix(key + i);

		memcpy(p + i, &v, len - i < 8 ? len - i : 8);
	}
}

static bool is_filled(const unsigned char *p, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = mix(key + i);

		if (memcmp(p + i, &v, len - i < 8 ? len - i : 8))
			return false;
	}
	return true;
}

static uint64_t key_of(uint32_t src, uint32_t dst, uint64_t seq)
{
	return mix((uint64_t)src << 48 | (uint64_t)dst << 32 | seq);
}

static void on_message(const struct noc_msg *m)
{
	uint64_t seq = next_in[m->src]++;

	bad += m->tag != seq || m->data != (m->src ^ 0x55) || m->len != length_of(m->src, me, seq);
	if (m->offer) {
		struct bin *b = ct_area_alloc(sizeof(*b));
		size_t room = seq % 5 == 0 ? m->len / 2 : m->len; /* some are truncated */
		struct iovec iov[2];

		*b = (struct bin){ .src = m->src, .seq = seq, .len = room, .buf = ct_area_alloc(room + 1) };
		truncated += room != m->len;
		iov[0] = (struct iovec){ b->buf, room / 3 };
		iov[1] = (struct iovec){ b->buf + room / 3, room - room / 3 };
		bad += noc_bulk_accept(m->offer, iov, 2, b) != 0;
		return;
	}
	bad += !is_filled(m->payload, m->len, key_of(m->src, me, seq));
	arrived_total++;
}

static void on_received(void *context, uint64_t len, int status)
{
	struct bin *b = context;

	bad += status != 0 || len != length_of(b->src, me, b->seq) || !is_filled(b->buf, b->len, key_of(b->src, me, b->seq));
	ct_area_free(b->buf, b->len + 1);
	ct_area_free(b, sizeof(*b));
	accepted++;
	arrived_total++;
}

struct out { size_t len; unsigned char buf[]; };

static void on_sent(void *context, int status)
{
	struct out *o = context;

	bad += status != 0;
	sent_cb++;
	ct_area_free(o, sizeof(*o) + o->len);
}

static const struct noc_port_ops port_ops = { .message = on_message, .sent = on_sent, .received = on_received };

static int process(void)
{
	uint64_t next_out[PROCS] = { 0 }, by_reference = 0;
	long moves = 0;
	struct gw_error why;

	rng = mix(me + 77);
	if (noc_start_test(segment_fd, me, &why)) {
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
			bad += noc_attach_test(segment_fd, 0, &why) != 0;
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
	return tap_done();
}
