/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames from the network, parsed: every kind as it is sent is taken, and of random and mutated bytes only what keeps to the
 * bounds of net.h. Each input lies in a block of just its size, so that a sanitizer sees a read beyond it.
 *
 * usage: test_frame [SEED]
 */
#include <stdlib.h>

#include "noc/local.h"
#include "tests/tap.h"

#define ROUNDS 300000

static uint64_t rng;

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

/* As the channel fills it in. */
static size_t frame_some(struct noc_frame *f, uint8_t kind)
{
	*f = (struct noc_frame){ .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = kind,
		.port = (uint8_t)rnd(NOC_PORT_COUNT), .src = (uint32_t)rnd(100), .seq = rnd(UINT64_MAX), .ack = rnd(UINT64_MAX),
		.tag = rnd(UINT64_MAX), .data = rnd(UINT64_MAX), .id = (uint32_t)rnd(100), .peer_id = (uint32_t)rnd(100) };
	if (kind == NOC_KIND_EAGER)
		f->len = f->len_here = (uint32_t)(rnd(4) ? rnd(200) : rnd(NOC_EAGER_MAX + 1));
	else if (kind == NOC_KIND_CHUNK)
		f->len = f->len_here = 1 + (uint32_t)(rnd(4) ? rnd(200) : rnd(NOC_FRAME_BYTES));
	else if (kind == NOC_KIND_PROOF)
		f->len_here = NOC_PROOF_BYTES;
	else
		f->len = rnd(UINT64_MAX);
	return sizeof(*f) + f->len_here;
}

/* What net.h promises of a frame that was taken. */
static bool is_within_bounds(const struct noc_frame *f, size_t size, const unsigned char *buf, const void *payload)
{
	if (f->magic != NOC_FRAME_MAGIC || f->version != NOC_FRAME_VERSION || f->port >= NOC_PORT_COUNT ||
	    sizeof(*f) + (size_t)f->len_here != size || payload != buf + sizeof(*f) || f->len_here > NOC_FRAME_BYTES)
		return false;
	switch (f->kind) {
	case NOC_KIND_EAGER:
		return f->len == f->len_here && f->len <= NOC_EAGER_MAX;
	case NOC_KIND_CHUNK:
		return f->len == f->len_here && f->len > 0;
	case NOC_KIND_PROOF:
		return f->len_here == NOC_PROOF_BYTES;
	case NOC_KIND_OFFER: case NOC_KIND_ACCEPT: case NOC_KIND_ACK: case NOC_KIND_FIN: case NOC_KIND_RESUME:
		return f->len_here == 0;
	default:
		return false;
	}
}

static bool holds(const unsigned char *bytes, size_t size, unsigned long *taken)
{
	unsigned char *buf = malloc(size ? size : 1);
	struct noc_frame f = { .magic = 0x5555 };
	const void *payload = NULL;
	bool is_right;
	int rc;

	if (size)
		memcpy(buf, bytes, size);
	rc = noc_frame_parse(buf, size, &f, &payload);
	if (rc == 0) {
		++*taken;
		is_right = is_within_bounds(&f, size, buf, payload) && memcmp(&f, buf, sizeof(f)) == 0;
	} else {
		is_right = rc == -EPROTO && f.magic == 0x5555 && !payload; /* outputs are written on success only */
	}
	free(buf);
	return is_right;
}

int main(int argc, char **argv)
{
	static unsigned char bytes[sizeof(struct noc_frame) + NOC_FRAME_BYTES + 512];
	unsigned long taken = 0, wrong = 0, refused = 0;
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	struct noc_frame f;

	rng = seed * 0x9e3779b97f4a7c15u | 1;
	tap_begin(120);
	for (uint8_t kind = NOC_KIND_EAGER; kind <= NOC_KIND_PROOF; kind++) {
		taken = 0;
		for (int i = 0; i < 200; i++) {
			size_t size = frame_some(&f, kind);

			memcpy(bytes, &f, sizeof(f));
			wrong += !holds(bytes, size, &taken);
		}
		ok(wrong == 0 && taken == 200, "frames of kind %u are taken as they are sent", kind);
	}

	f.kind = NOC_KIND_ACK;
	f.len_here = 0;
	memcpy(bytes, &f, sizeof(f));
	taken = wrong = 0;
	for (size_t size = 0; size < sizeof(f); size++)
		wrong += !holds(bytes, size, &taken);
	ok(wrong == 0 && taken == 0, "a frame that is cut off in its head is refused");

	for (unsigned i = 0; i < 20000; i++) {
		size_t size = rnd(3 * sizeof(f));

		for (size_t k = 0; k < size; k++)
			bytes[k] = (unsigned char)rnd(256);
		wrong += !holds(bytes, size, &taken);
	}
	ok(wrong == 0 && taken == 0, "random bytes are refused");

	for (unsigned i = 0; i < ROUNDS; i++) {
		size_t size = frame_some(&f, (uint8_t)(NOC_KIND_EAGER + rnd(NOC_KIND_PROOF)));
		uint64_t length[] = { 0, 1, 31, 32, 33, NOC_EAGER_MAX, NOC_EAGER_MAX + 1, NOC_FRAME_BYTES, NOC_FRAME_BYTES + 1,
		                      UINT32_MAX, UINT64_MAX, f.len, size - sizeof(f), size };
		unsigned long before = taken;

		for (uint64_t n = rnd(3); n; n--)
			switch (rnd(6)) {
			case 0: f.len = length[rnd(GW_ARRAY_LEN(length))]; break;
			case 1: f.len_here = (uint32_t)length[rnd(GW_ARRAY_LEN(length))]; break;
			case 2: f.kind = (uint8_t)rnd(12); break;
			case 3: f.port = (uint8_t)rnd(16); break;
			case 4: size = rnd(2) ? size + rnd(9) : size - rnd(size < 9 ? size : 9); break;
			case 5: ((unsigned char *)&f)[rnd(sizeof(f))] ^= (unsigned char)(1u << rnd(8)); break;
			}
		if (size == sizeof(f) + (size_t)f.len_here + 1 && rnd(2))
			size--;
		memcpy(bytes, &f, sizeof(f));
		wrong += !holds(bytes, size, &taken);
		refused += taken == before;
	}
	ok(wrong == 0, "of %d mutated frames those that are taken keep to the bounds", ROUNDS);
	ok(taken > ROUNDS / 10 && refused > ROUNDS / 10, "and both happens: %lu taken, %lu refused", taken, refused);
	return tap_done();
}
