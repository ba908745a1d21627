/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An image on its way back: decompressed, hashed as it lies there, and cut into what it holds.
 *
 * Whether the bytes are those that were written is known at their end only. So what fails before is kept until then: if they were
 * changed, that is what has failed.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <zstd.h>

#include "runtime/cold/cold.h"

#define BUFFER   (256u << 10)
#define HEAD_MAX (1ull << 30) /* of what is before the image: more is not believed */

struct cold_reader {
	char name[COLD_NAME_MAX];
	uint32_t proc;
	const struct cold_reader_ops *ops;
	void *ctx;
	ZSTD_DCtx *zstd;
	XXH3_state_t *hash;
	uint64_t bytes;          /* decompressed */
	size_t left;             /* of the frame: 0 at its end */
	struct cold_head head;
	char *front;             /* the head and what it counts */
	uint64_t have, want;     /* of it; want 0: it is over */
	struct gw_error why;
	char buf[BUFFER];
};

int cold_reader_open(struct cold_reader **out, const char *name, uint32_t proc, const struct cold_reader_ops *ops, void *ctx,
                     struct gw_error *why)
{
	struct cold_reader *r = calloc(1, sizeof(*r));

	if (r) {
		r->zstd = ZSTD_createDCtx();
		r->hash = XXH3_createState();
	}
	if (!r || !r->zstd || !r->hash) {
		cold_reader_close(r);
		return gw_fail(why, -ENOMEM, "%s: out of memory", name);
	}
	snprintf(r->name, sizeof(r->name), "%s", name);
	r->proc = proc;
	r->ops = ops;
	r->ctx = ctx;
	r->left = 1;
	r->want = sizeof(r->head);
	XXH3_128bits_reset(r->hash);
	*out = r;
	return 0;
}

static int front_is_complete(struct cold_reader *r)
{
	struct cold_head *h = &r->head;
	gw_autofree char *needs = NULL, *state = NULL;
	const char *at;

	if (r->want == sizeof(*h)) {
		memcpy(h, r->front, sizeof(*h));
		if (h->magic != COLD_MAGIC || h->version != COLD_VERSION || h->proc != r->proc || h->needs_len > HEAD_MAX ||
		    h->blob_len > HEAD_MAX || h->state_len > HEAD_MAX)
			return gw_fail(&r->why, -EBADMSG, "%s is not the image of rank %u, or is of another version of Godwit", r->name, r->proc);
		r->want += h->needs_len + h->blob_len + h->state_len;
		if (r->want > sizeof(*h))
			return 0;
	}
	at = r->front + sizeof(*h);
	needs = strndup(at, h->needs_len);
	state = strndup(at + h->needs_len + h->blob_len, h->state_len);
	if (!needs || !state)
		return gw_fail(&r->why, -ENOMEM, "%s: out of memory", r->name);
	r->want = 0;
	return r->ops->front(r->ctx, needs, at + h->needs_len, h->blob_len, state, &r->why);
}

static int take(struct cold_reader *r, const char *p, size_t len)
{
	int code = 0;

	while (len && code == 0 && r->want) {
		size_t n = r->want - r->have < len ? (size_t)(r->want - r->have) : len;
		char *bigger = realloc(r->front, (size_t)r->have + n);

		if (!bigger)
			return gw_fail(&r->why, -ENOMEM, "%s: out of memory", r->name);
		r->front = bigger;
		memcpy(r->front + r->have, p, n);
		r->have += n;
		p += n;
		len -= n;
		if (r->have == r->want)
			code = front_is_complete(r);
	}
	return len && code == 0 ? r->ops->image(r->ctx, p, len, &r->why) : code;
}

void cold_reader_feed(struct cold_reader *r, const void *bytes, size_t len)
{
	ZSTD_inBuffer in = { bytes, len, 0 };
	bool is_full = true;

	XXH3_128bits_update(r->hash, bytes, len);
	while (r->why.code == 0 && (in.pos < in.size || is_full)) {
		ZSTD_outBuffer to = { r->buf, sizeof(r->buf), 0 };

		if (r->left == 0 && in.pos < in.size)
			gw_fail(&r->why, -EBADMSG, "%s goes on behind its end", r->name);
		if (r->left == 0)
			break;
		r->left = ZSTD_decompressStream(r->zstd, &to, &in);
		if (ZSTD_isError(r->left))
			gw_fail(&r->why, -EBADMSG, "%s cannot be decompressed: %s", r->name, ZSTD_getErrorName(r->left));
		r->bytes += to.pos;
		if (r->why.code == 0 && to.pos)
			take(r, r->buf, to.pos);
		is_full = to.pos == to.size;
	}
}

uint64_t cold_reader_bytes(const struct cold_reader *r)
{
	return r->bytes;
}

int cold_reader_finish(struct cold_reader *r, const char *hash, struct gw_error *why)
{
	XXH128_hash_t h = XXH3_128bits_digest(r->hash);
	char found[COLD_HASH_MAX];

	snprintf(found, sizeof(found), "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
	if (strcmp(found, hash) != 0)
		return gw_fail(why, -EBADMSG, "%s is damaged: it has been changed since it was written", r->name);
	if (r->why.code == 0 && (r->left || r->want))
		return gw_fail(why, -EBADMSG, "%s is not all of the image of rank %u", r->name, r->proc);
	*why = r->why;
	return r->why.code;
}

void cold_reader_close(struct cold_reader *r)
{
	if (!r)
		return;
	ZSTD_freeDCtx(r->zstd);
	XXH3_freeState(r->hash);
	free(r->front);
	free(r);
}
