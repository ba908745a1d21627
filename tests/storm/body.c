/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/body.c: messages: what is in them, how they lie in memory, and whether what came is what was sent. */
#include "tests/storm/storm.h"

enum { GUARD = 0xa5, HEADER = 16 };

/* The key from which a message's body is made. */
static uint64_t message_key(int src, int dst, uint32_t seq)
{
	return mix2(mix2(storm.seed, (uint64_t)src << 32 | (uint32_t)dst), seq);
}

/*
 * The body: @len bytes at @out. From 16 bytes on it begins with a header that names the message, so that a wrong one
 * can be named; the rest is one multiplication a word, because checking must not be slower than sending.
 */
static void body_make(unsigned char *out, const struct message *m)
{
	uint64_t key = message_key(m->src, m->dst, m->seq), x = key;
	uint64_t header[2] = { (uint64_t)0x5709 << 48 | (uint64_t)m->src << 40 | (uint64_t)m->dst << 32 | m->seq, m->len };
	size_t at = 0;

	if (m->len >= HEADER) {
		memcpy(out, header, HEADER);
		at = HEADER;
	}
	for (; at + 8 <= m->len; at += 8) {
		uint64_t word;

		x += 0x9e3779b97f4a7c15ULL;
		word = (x ^ x >> 32) * 0xff51afd7ed558ccdULL;
		memcpy(out + at, &word, 8);
	}
	x = mix(x + at);
	memcpy(out + at, &x, m->len - at);
}

static uint64_t body_hash(const unsigned char *p, size_t len)
{
	uint64_t h = len, word;
	size_t at;

	for (at = 0; at + 8 <= len; at += 8) {
		memcpy(&word, p + at, 8);
		h = (h ^ word) * 0xc4ceb9fe1a85ec53ULL;
		h ^= h >> 29;
	}
	word = 0;
	memcpy(&word, p + at, len - at);
	return mix(h ^ word);
}

/* Lengths around the borders where implementations change their ways, and some of every magnitude. */
static size_t draw_len(struct rng *r, size_t max_len)
{
	static const size_t border[] = { 8, 64, 256, 287, 1024, 4096, 8192, 16384, 32768, 65536, 262144, 1048576 };
	long dice = rng_in(r, 0, 999);
	size_t len;

	if (dice < 100)
		len = 0;
	else if (dice < 500)
		len = (size_t)rng_in(r, 1, 128);
	else if (dice < 700)
		len = (size_t)rng_in(r, 1, 2048);
	else if (dice < 800)
		len = border[rng_in(r, 0, dice < 790 ? 9 : 11)] + (size_t)rng_in(r, 0, 2) - 1;
	else if (dice < 920)
		len = (size_t)rng_in(r, 1, 16384);
	else if (dice < 980)
		len = (size_t)rng_in(r, 1, 131072);
	else if (dice < 996)
		len = (size_t)rng_in(r, 1, 1048576);
	else
		len = dice == 999 ? 4194304 : (size_t)rng_in(r, 1, 4194304);
	return len < max_len ? len : max_len;
}

void message_plan(struct message *m, struct rng *r, int src, int dst, size_t max_len)
{
	uint64_t dice;

	*m = (struct message){ .src = src, .dst = dst, .seq = storm.seq[src][dst]++ };
	m->len = draw_len(r, max_len);
	m->tag = (int)rng_in(r, 0, 3);
	dice = rng_next(r);
	m->from = dice % 10 < 7 ? CONTIGUOUS : (enum layout)(1 + dice / 16 % (LAYOUTS - 1));
	m->into = dice / 256 % 10 < 7 ? CONTIGUOUS : (enum layout)(1 + dice / 4096 % (LAYOUTS - 1));
	m->send_kind = (int)(dice >> 32 & 0xffff);
	m->recv_kind = (int)(dice >> 48);
}

/* ---- layouts --------------------------------------------------------------------------------------------------- */

static void *get(size_t size)
{
	void *p = malloc(size ? size : 1);

	storm_check(p, "no memory for %zu bytes", size);
	return p;
}

static void type_commit(struct buffer *b)
{
	MPI_Type_commit(&b->type);
	b->count = 1;
}

/* Cut @len bytes into pieces with gaps between them and describe them by a derived datatype. */
static void layout_make(struct buffer *b, size_t len, enum layout layout, uint64_t key)
{
	struct rng r = { key };
	size_t piece = (size_t)1 << rng_in(&r, 0, 9), at = 0, left = len, i, whole;

	*b = (struct buffer){ .type = MPI_BYTE, .count = (int)len };
	if (len == 0)
		layout = CONTIGUOUS;
	if (layout == CONTIGUOUS)
		piece = len;
	if (piece < len / 500)
		piece = len / 500;
	whole = piece ? len / piece : 0;
	b->pieces = len ? (len + piece - 1) / piece : 0;
	b->offset = get(b->pieces * sizeof(*b->offset));
	b->length = get(b->pieces * sizeof(*b->length));
	for (i = 0; i < b->pieces; i++) {
		b->offset[i] = at;
		b->length[i] = left < piece ? left : piece;
		left -= b->length[i];
		at += layout == VECTOR || layout == STRUCT ? 2 * piece : b->length[i] + (size_t)rng_in(&r, 1, 40);
	}
	b->extent = b->pieces ? b->offset[b->pieces - 1] + b->length[b->pieces - 1] : 0;

	if (layout == INDEXED) {
		int *lengths = get(b->pieces * sizeof(*lengths));
		MPI_Aint *places = get(b->pieces * sizeof(*places));

		for (i = 0; i < b->pieces; i++) {
			lengths[i] = (int)b->length[i];
			places[i] = (MPI_Aint)b->offset[i];
		}
		MPI_Type_create_hindexed((int)b->pieces, lengths, places, MPI_BYTE, &b->type);
		type_commit(b);
		free(lengths);
		free(places);
	} else if (layout == VECTOR || layout == STRUCT) {
		/* a vector of whole pieces, and a struct around it with the rest; STRUCT nests once more */
		MPI_Datatype part[2] = { MPI_BYTE, MPI_BYTE };
		int counts[2] = { 1, (int)(len - whole * piece) };
		MPI_Aint places[2] = { 0, (MPI_Aint)(whole * 2 * piece) };

		if (layout == STRUCT) {
			MPI_Datatype unit;

			MPI_Type_contiguous((int)piece, MPI_BYTE, &unit);
			MPI_Type_create_hvector((int)whole, 1, (MPI_Aint)(2 * piece), unit, &part[0]);
			MPI_Type_free(&unit);
		} else {
			MPI_Type_vector((int)whole, (int)piece, (int)(2 * piece), MPI_BYTE, &part[0]);
		}
		MPI_Type_create_struct(2, counts, places, part, &b->type);
		MPI_Type_free(&part[0]);
		type_commit(b);
	}
	b->at = get(b->extent);
}

void buffer_make_send(struct buffer *b, const struct message *m)
{
	unsigned char *body;

	layout_make(b, m->len, m->from, message_key(m->src, m->dst, m->seq) ^ 1);
	if (b->pieces <= 1) {
		body_make(b->at, m);
		return;
	}
	body = get(m->len);
	body_make(body, m);
	for (size_t i = 0, from = 0; i < b->pieces; from += b->length[i], i++)
		memcpy(b->at + b->offset[i], body + from, b->length[i]);
	free(body);
}

void buffer_make_recv(struct buffer *b, const struct message *m)
{
	layout_make(b, m->len, m->into, message_key(m->src, m->dst, m->seq) ^ 2);
	memset(b->at, GUARD, b->extent);
}

void buffer_make_any(struct buffer *b, size_t cap)
{
	layout_make(b, cap, CONTIGUOUS, 0);
}

void buffer_free(struct buffer *b)
{
	if (b->type != MPI_BYTE)
		MPI_Type_free(&b->type);
	free(b->at);
	free(b->offset);
	free(b->length);
	*b = (struct buffer){ .type = MPI_BYTE };
}

/* ---- arrival --------------------------------------------------------------------------------------------------- */

/* Name the message that came instead, if its header can be read. */
static _Noreturn void body_differs(const struct message *m, const unsigned char *got, size_t at)
{
	uint64_t header = 0;

	if (m->len >= HEADER)
		memcpy(&header, got, 8);
	if (m->len >= HEADER && header >> 48 == 0x5709 &&
	    ((uint32_t)header != m->seq || (int)(header >> 40 & 0xff) != m->src || (int)(header >> 32 & 0xff) != m->dst))
		storm_fail("message %u from rank %d (%zu bytes, tag %d) had to come, but message %u from rank %d to rank %d came: %s",
		           m->seq, m->src, m->len, m->tag, (uint32_t)header, (int)(header >> 40 & 0xff),
		           (int)(header >> 32 & 0xff), (uint32_t)header < m->seq ? "an old one again" : "one is lost or overtaken");
	storm_fail("message %u from rank %d (%zu bytes, tag %d) differs from what was sent first at byte %zu", m->seq, m->src,
	           m->len, m->tag, at);
}

void message_arrived(struct message *m, struct buffer *b, const MPI_Status *st)
{
	unsigned char *want = get(m->len), *got = b->at;
	int count;

	storm_check(st->MPI_SOURCE == m->src, "message %u had to come from rank %d, but the status says rank %d", m->seq,
	            m->src, st->MPI_SOURCE);
	storm_check(st->MPI_TAG == m->tag, "message %u from rank %d had to have tag %d, but the status says %d", m->seq, m->src,
	            m->tag, st->MPI_TAG);
	MPI_Get_count(st, MPI_BYTE, &count);
	storm_check((size_t)count == m->len, "message %u from rank %d, tag %d, had to have %zu bytes, but the status says %d",
	            m->seq, m->src, m->tag, m->len, count);
	body_make(want, m);
	if (b->pieces > 1) {
		got = get(m->len);
		for (size_t i = 0, to = 0; i < b->pieces; to += b->length[i], i++) {
			size_t gap = i + 1 < b->pieces ? b->offset[i + 1] : b->offset[i] + b->length[i];

			memcpy(got + to, b->at + b->offset[i], b->length[i]);
			for (size_t k = b->offset[i] + b->length[i]; k < gap; k++)
				storm_check(b->at[k] == GUARD, "message %u from rank %d wrote outside of its datatype, at byte %zu of %zu",
				            m->seq, m->src, k, b->extent);
		}
	}
	if (memcmp(got, want, m->len)) {
		size_t at = 0;

		while (got[at] == want[at])
			at++;
		body_differs(m, got, at);
	}
	storm_check(!m->is_done, "message %u from rank %d came twice", m->seq, m->src);
	m->is_done = true;
	storm_add(message_key(m->src, m->dst, m->seq) + (uint64_t)m->tag, body_hash(got, m->len));
	storm.messages++;
	storm.bytes += m->len;
	if (got != b->at)
		free(got);
	free(want);
}

void plan_free(struct plan *p)
{
	for (int i = 0; i < p->n; i++)
		storm_check(p->m[i].dst != storm.rank || p->m[i].is_done, "message %u from rank %d (%zu bytes, tag %d) never came",
		            p->m[i].seq, p->m[i].src, p->m[i].len, p->m[i].tag);
	free(p->m);
	*p = (struct plan){ 0 };
}

struct message *plan_expect(struct plan *p, int src, int tag)
{
	for (int i = 0; i < p->n; i++)
		if (!p->m[i].is_done && p->m[i].dst == storm.rank && p->m[i].src == src && (tag == MPI_ANY_TAG || p->m[i].tag == tag))
			return &p->m[i];
	storm_fail("a message came from rank %d although all of its messages%s have come already", src,
	           tag == MPI_ANY_TAG ? "" : " with that tag");
}
