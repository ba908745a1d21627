/* SPDX-License-Identifier: BSD-2-Clause */
/* Are the images that a manifest lists what was written? */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "container/image.h"
#include "runtime/cold/cold.h"

static void print_hash(char hash[COLD_HASH_MAX], XXH128_hash_t h)
{
	snprintf(hash, COLD_HASH_MAX, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

/* What comes out of the decompressor, cut anywhere: the head and what it counts, then sections up to END. */
struct walk {
	struct cold_head head;
	union { struct ct_img_section section; char bytes[sizeof(struct cold_head)]; } part;
	size_t have;
	uint64_t skip;        /* bytes of what was announced */
	uint64_t sections;
	bool has_head, has_ended;
};

static int walk_part(struct walk *w, uint32_t proc)
{
	const struct ct_img_section *s = &w->part.section;

	w->have = 0;
	if (!w->has_head) {
		memcpy(&w->head, w->part.bytes, sizeof(w->head));
		w->has_head = true;
		w->skip = w->head.needs_len + w->head.blob_len + w->head.state_len;
		return w->head.magic == COLD_MAGIC && w->head.version == COLD_VERSION && w->head.proc == proc ? 0 : -EBADMSG;
	}
	if (s->magic != CT_IMAGE_MAGIC || s->type == 0 || s->type > CT_SECTION_LAST ||
	    (w->sections == 0) != (s->type == CT_SECTION_PROCESS))
		return -EBADMSG;
	w->sections++;
	w->skip = s->length;
	w->has_ended = s->type == CT_SECTION_END;
	return 0;
}

static int walk_on(struct walk *w, uint32_t proc, const char *p, size_t len)
{
	while (len) {
		size_t want = (w->has_head ? sizeof(struct ct_img_section) : sizeof(struct cold_head)) - w->have, n;

		n = w->skip ? (w->skip < len ? (size_t)w->skip : len) : want < len ? want : len;
		if (w->skip) {
			w->skip -= n;
		} else if (w->has_ended) {
			return -EBADMSG;
		} else {
			memcpy(w->part.bytes + w->have, p, n);
			w->have += n;
			if (n == want && walk_part(w, proc) < 0)
				return -EBADMSG;
		}
		p += n;
		len -= n;
	}
	return 0;
}

static int decompress(ZSTD_DCtx *zstd, struct walk *w, uint32_t proc, const void *bytes, size_t len, size_t *left)
{
	ZSTD_inBuffer in = { bytes, len, 0 };
	static char buf[256 << 10];
	bool is_full;

	do {
		ZSTD_outBuffer to = { buf, sizeof(buf), 0 };

		*left = ZSTD_decompressStream(zstd, &to, &in);
		if (ZSTD_isError(*left) || walk_on(w, proc, buf, to.pos) < 0)
			return -EBADMSG;
		is_full = to.pos == to.size;
	} while (in.pos < in.size || is_full);
	return 0;
}

static int verify(int fd, const char *name, uint32_t proc, const char *hash, struct gw_error *why)
{
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	XXH3_state_t *state = XXH3_createState();
	gw_autofree char *buf = malloc(256 << 10);
	char found[COLD_HASH_MAX];
	struct walk w = { 0 };
	size_t left = 1;
	ssize_t n = 0;
	int code = zstd && state && buf ? 0 : -ENOMEM;

	if (code == 0)
		XXH3_128bits_reset(state);
	while (code == 0 && (n = read(fd, buf, 256 << 10)) > 0) {
		XXH3_128bits_update(state, buf, (size_t)n);
		if (decompress(zstd, &w, proc, buf, (size_t)n, &left) < 0)
			break; /* the hash will differ as well, unless it was written so */
	}
	if (code == 0 && n < 0)
		code = -errno;
	while (code == 0 && n > 0 && (n = read(fd, buf, 256 << 10)) > 0) {
		XXH3_128bits_update(state, buf, (size_t)n);
		left = 1;
	}
	if (code == 0) {
		print_hash(found, XXH3_128bits_digest(state));
		if (strcmp(found, hash) != 0)
			code = gw_fail(why, -EBADMSG, "%s is damaged: it has been changed since it was written", name);
		else if (left || !w.has_ended || w.skip || w.have)
			code = gw_fail(why, -EBADMSG, "%s is not the image of rank %u, or not all of it", name, proc);
	} else {
		gw_fail(why, code, "%s cannot be read: %s", name, strerror(-code));
	}
	ZSTD_freeDCtx(zstd);
	XXH3_freeState(state);
	return code;
}

int cold_image_verify(int dirfd, const json_t *image, struct gw_error *why)
{
	json_int_t rank, size;
	const char *name, *hash;
	gw_autoclose int fd = -1;
	struct stat st;

	if (json_unpack((json_t *)(uintptr_t)image, "{s:I, s:s, s:I, s:s}", "rank", &rank, "name", &name, "size", &size, "hash", &hash) < 0 ||
	    strchr(name, '/'))
		return gw_fail(why, -EBADMSG, "the manifest lists an image in a way that is not understood");
	fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return gw_fail(why, -errno, errno == ENOENT ? "%s is missing%s" : "%s cannot be read: %s", name,
		               errno == ENOENT ? "" : strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size != (off_t)size)
		return gw_fail(why, -EBADMSG, "%s is damaged: it has %lld bytes instead of %lld", name, (long long)st.st_size, (long long)size);
	return verify(fd, name, (uint32_t)rank, hash, why);
}
