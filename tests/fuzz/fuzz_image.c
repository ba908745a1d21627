/* SPDX-License-Identifier: BSD-2-Clause */
/* The image of a rank, in pieces of a length that the first byte says; the same reader takes the needs of PREPARE. */
#include "container/rank.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static int on_meta(void *ctx, struct gw_error *why) { (void)ctx; (void)why; return 0; }
static int on_flush(void *ctx, struct gw_error *why) { (void)ctx; (void)why; return 0; }

static int on_round(void *ctx, struct gw_error *why)
{
	(void)why;
	ct_snapshot_fini(ctx);
	ct_snapshot_init(ctx);
	return 0;
}

static int on_pages(void *ctx, uint64_t vaddr, const unsigned char *bytes, size_t len, struct gw_error *why)
{
	(void)ctx; (void)why;
	if (vaddr % CT_PAGE || len % CT_PAGE || (len && bytes[len - 1] != bytes[len - 1]))
		abort();
	return 0;
}

static int on_bytes(void *ctx, const struct ct_img_bytes *head, const unsigned char *bytes, size_t len, struct gw_error *why)
{
	(void)ctx; (void)head; (void)why;
	if (len && bytes[len - 1] != bytes[len - 1])
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static const struct ct_reader_ops ops = { .meta = on_meta, .round = on_round, .pages = on_pages, .flush = on_flush, .bytes = on_bytes };
	size_t piece = len && bytes[0] ? bytes[0] * 7u : len;
	struct ct_snapshot snap;
	struct ct_reader reader;
	struct gw_error why = { 0 };
	int code = 0;

	ct_snapshot_init(&snap);
	ct_reader_init(&reader, &ops, &snap, &snap);
	for (size_t at = len ? 1 : 0; at < len && code == 0; at += piece) {
		size_t n = len - at < piece ? len - at : piece;
		uint8_t *part = malloc(n); /* of just that size: a read beyond it is seen */

		if (!part)
			break;
		memcpy(part, bytes + at, n);
		code = ct_reader_feed(&reader, part, n, &why);
		free(part);
	}
	if (code < 0 && !why.text[0])
		abort();
	ct_reader_fini(&reader);
	ct_snapshot_fini(&snap);
	return 0;
}
