/* SPDX-License-Identifier: BSD-2-Clause */
/* What members send to each other, and the checks: each message once, in order and whole; sent() and received() once. */
#include <stdlib.h>

#include "tests/sim/sim.h"

#define BULK_MAX (5 * (size_t)NOC_FRAME_BYTES)

struct out { bool is_by_ref; int from, to; size_t len; unsigned char *buf; struct gw_list link; };
struct bin { int at, src; uint64_t seq, len; unsigned char *buf; struct gw_list link; };
struct offer { struct gw_list link; struct noc_bulk *bulk; int src; uint64_t seq, len; };

static uint64_t key_of(int src, int dst, uint64_t seq)
{
	return sim_mix(sim_seed << 20 ^ (uint64_t)src << 16 ^ (uint64_t)dst << 12 ^ seq);
}

static size_t length_of(int src, int dst, uint64_t seq)
{
	uint64_t r = key_of(src, dst, seq);

	if (r % 100 < sim_profile.bulk)
		return NOC_EAGER_MAX + 1 + (r >> 8) % (r & 128 ? BULK_MAX : NOC_FRAME_BYTES);
	if (sim_profile.is_fat)
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

bool sim_send_one(int from, int to)
{
	struct sim_member *m = &sim_members[from];
	uint64_t seq = m->next_out[to];
	struct out *o;
	struct iovec iov[5];
	bool is_done = false, is_copy;
	int rc;

	if (seq >= sim_profile.messages || m->state != SIM_HERE)
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
	if (rc && rc != -EAGAIN && !(rc == -EHOSTUNREACH && sim_members[to].is_ending))
		sim_fail("noc_send() fails");
	if (rc || is_copy || is_done)
		out_free(o);
	return rc == 0;
}

static void call_back(void)
{
	struct sim_member *m = &sim_members[sim_now_in];

	if (m->depth >= 3 || !sim_one_in(sim_profile.p_call))
		return;
	m->depth++;
	sim_send_one(sim_now_in, (int)sim_rnd(sim_profile.members));
	m->depth--;
}

static void on_sent(void *context, int status)
{
	struct out *o = context;

	if (o->from != sim_now_in || !o->is_by_ref)
		sim_fail("sent() of something else, or twice");
	if (status && !(status == -EHOSTUNREACH && sim_members[o->to].is_ending))
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
	gw_list_append(&sim_members[sim_now_in].bins, &b->link);
	iov[0] = (struct iovec){ b->buf, room / 3 };
	iov[1] = (struct iovec){ b->buf + room / 3, room - room / 3 };
	if (noc_bulk_accept(f->bulk, iov, 2, b))
		sim_fail("noc_bulk_accept() fails");
	gw_list_remove(&f->link);
	free(f);
}

static void on_message(const struct noc_msg *msg)
{
	struct sim_member *m = &sim_members[sim_now_in];
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
	sim_members[sim_now_in].arrived[b->src]++;
	free(b);
	sim_counts.bulks++;
	call_back();
}

const struct noc_port_ops sim_ports = { .message = on_message, .sent = on_sent, .received = on_received };

void sim_take_one(int member)
{
	struct sim_member *m = &sim_members[member];

	if (!gw_list_is_empty(&m->offers))
		take_offer(gw_list_entry(m->offers.next, struct offer, link));
}

void sim_traffic_end(struct sim_member *m)
{
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
}
