/* SPDX-License-Identifier: BSD-2-Clause */
/* An image on its way to disk: compressed by zstd, and hashed as it lies there. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "runtime/cold/cold.h"

#define LEVEL 1          /* a job waits for it: the fastest */
#define BUFFER (256u << 10)

struct cold_writer {
	int fd;
	char name[COLD_NAME_MAX];
	ZSTD_CCtx *zstd;
	XXH3_state_t *hash;
	uint64_t size;
	char buf[BUFFER];
};

void cold_image_name(char buf[COLD_NAME_MAX], uint32_t proc)
{
	snprintf(buf, COLD_NAME_MAX, "rank-%u.zst", proc);
}

int cold_writer_open(struct cold_writer **out, int dirfd, const char *name, struct gw_error *why)
{
	struct cold_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return gw_fail(why, -ENOMEM, "%s: out of memory", name);
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->zstd = ZSTD_createCCtx();
	w->hash = XXH3_createState();
	w->fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!w->zstd || !w->hash || w->fd < 0) {
		int code = w->fd < 0 ? -errno : -ENOMEM;

		cold_writer_close(w);
		return gw_fail(why, code, "%s cannot be made: %s", name, strerror(-code));
	}
	ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL);
	XXH3_128bits_reset(w->hash);
	*out = w;
	return 0;
}

static int write_all(struct cold_writer *w, size_t len, struct gw_error *why)
{
	XXH3_128bits_update(w->hash, w->buf, len);
	for (size_t at = 0; at < len;) {
		ssize_t n = write(w->fd, w->buf + at, len - at);

		if (n < 0 && errno != EINTR)
			return gw_fail(why, -errno, "%s cannot be written: %s", w->name, strerror(errno));
		at += n > 0 ? (size_t)n : 0;
	}
	w->size += len;
	return 0;
}

static int compress(struct cold_writer *w, const void *bytes, size_t len, ZSTD_EndDirective end, struct gw_error *why)
{
	ZSTD_inBuffer in = { bytes, len, 0 };
	size_t left;
	int code = 0;

	do {
		ZSTD_outBuffer to = { w->buf, sizeof(w->buf), 0 };

		left = ZSTD_compressStream2(w->zstd, &to, &in, end);
		if (ZSTD_isError(left))
			return gw_fail(why, -EIO, "%s cannot be compressed: %s", w->name, ZSTD_getErrorName(left));
		if (to.pos)
			code = write_all(w, to.pos, why);
	} while (code == 0 && (end == ZSTD_e_end ? left > 0 : in.pos < in.size));
	return code;
}

int cold_writer_put(struct cold_writer *w, const void *bytes, size_t len, struct gw_error *why)
{
	return compress(w, bytes, len, ZSTD_e_continue, why);
}

int cold_writer_finish(struct cold_writer *w, uint64_t *size, char hash[COLD_HASH_MAX], struct gw_error *why)
{
	int code = compress(w, NULL, 0, ZSTD_e_end, why);
	XXH128_hash_t h = XXH3_128bits_digest(w->hash);

	snprintf(hash, COLD_HASH_MAX, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
	*size = w->size;
	return code;
}

int cold_writer_sync(struct cold_writer *w)
{
	return fsync(w->fd) < 0 ? -errno : 0;
}

void cold_writer_close(struct cold_writer *w)
{
	if (!w)
		return;
	ZSTD_freeCCtx(w->zstd);
	XXH3_freeState(w->hash);
	if (w->fd >= 0)
		close(w->fd);
	free(w);
}
