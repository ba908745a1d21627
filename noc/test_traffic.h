/* SPDX-License-Identifier: BSD-2-Clause */
/* Traffic for tests of channels: messages whose length and contents follow from their names and number, checked on arrival. */
#ifndef NOC_TEST_TRAFFIC_H
#define NOC_TEST_TRAFFIC_H

#include "noc/local.h"

struct bin { struct noc_bulk *offer; uint32_t src; uint64_t seq, len; unsigned char *buf; };

static uint32_t me;
static uint64_t next_in[PROCS], arrived_total, accepted, sent_cb;
static long bad, truncated;

/* counted, and the first ones told */
static GW_PRINTF(1, 2) void wrong(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (bad++ < 5)
		fprintf(stderr, "# process %u: %s\n", me, text);
}
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

	if (m->tag != seq || m->data != (m->src ^ 0x55) || m->len != length_of(m->src, me, seq))
		wrong("from %u: message %llu where %llu is due", m->src, (unsigned long long)m->tag, (unsigned long long)seq);
	if (m->offer) {
		struct bin *b = ct_area_alloc(sizeof(*b));
		size_t room = seq % 5 == 0 ? m->len / 2 : m->len; /* some are truncated */
		struct iovec iov[2];

		*b = (struct bin){ .src = m->src, .seq = seq, .len = room, .buf = ct_area_alloc(room + 1) };
		truncated += room != m->len;
		iov[0] = (struct iovec){ b->buf, room / 3 };
		iov[1] = (struct iovec){ b->buf + room / 3, room - room / 3 };
		if (noc_bulk_accept(m->offer, iov, 2, b))
			wrong("from %u: transfer %llu is not accepted", m->src, (unsigned long long)seq);
		return;
	}
	if (!is_filled(m->payload, m->len, key_of(m->src, me, seq)))
		wrong("from %u: message %llu has other contents", m->src, (unsigned long long)seq);
	arrived_total++;
}

static void on_received(void *context, uint64_t len, int status)
{
	struct bin *b = context;

	if (status || len != length_of(b->src, me, b->seq) || !is_filled(b->buf, b->len, key_of(b->src, me, b->seq)))
		wrong("from %u: transfer %llu: status %d, %llu bytes, or other contents", b->src, (unsigned long long)b->seq, status,
		      (unsigned long long)len);
	ct_area_free(b->buf, b->len + 1);
	ct_area_free(b, sizeof(*b));
	accepted++;
	arrived_total++;
}

struct out { size_t len; unsigned char buf[]; };

static void on_sent(void *context, int status)
{
	struct out *o = context;

	if (status)
		wrong("a message of %zu bytes was not sent: %d", o->len, status);
	sent_cb++;
	ct_area_free(o, sizeof(*o) + o->len);
}

static const struct noc_port_ops port_ops = { .message = on_message, .sent = on_sent, .received = on_received };

#endif
