/* SPDX-License-Identifier: BSD-2-Clause */
/* Are the images that a manifest lists what was written? */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/image.h"
#include "runtime/cold/cold.h"

#define BUFFER (256u << 10)

/* The image of the rank, cut anywhere: sections up to END. */
struct walk {
	union { struct ct_img_section section; char bytes[sizeof(struct ct_img_section)]; } part;
	size_t have;
	uint64_t skip;        /* bytes of what was announced */
	uint64_t sections;
	bool has_ended;
};

static int walk_section(struct walk *w)
{
	const struct ct_img_section *s = &w->part.section;

	w->have = 0;
	if (s->magic != CT_IMAGE_MAGIC || s->type == 0 || s->type > CT_SECTION_LAST ||
	    (w->sections == 0) != (s->type == CT_SECTION_PROCESS))
		return -EBADMSG;
	w->sections++;
	w->skip = s->length;
	w->has_ended = s->type == CT_SECTION_END;
	return 0;
}

static int on_image(void *ctx, const void *bytes, size_t len, struct gw_error *why)
{
	struct walk *w = ctx;
	const char *p = bytes;

	while (len) {
		size_t want = sizeof(w->part) - w->have, n = w->skip ? (w->skip < len ? (size_t)w->skip : len) : want < len ? want : len;

		if (w->skip) {
			w->skip -= n;
		} else if (w->has_ended) {
			return gw_fail(why, -EBADMSG, "its image goes on behind its end");
		} else {
			memcpy(w->part.bytes + w->have, p, n);
			w->have += n;
			if (n == want && walk_section(w) < 0)
				return gw_fail(why, -EBADMSG, "its image is not one");
		}
		p += n;
		len -= n;
	}
	return 0;
}

static int on_front(void *ctx, const char *needs, const void *blob, size_t blob_len, const char *state, struct gw_error *why)
{
	(void)ctx; (void)needs; (void)blob; (void)blob_len; (void)state; (void)why;
	return 0;
}

static int verify(int fd, const char *name, uint32_t proc, const char *hash, struct gw_error *why)
{
	static const struct cold_reader_ops ops = { on_front, on_image };
	gw_autofree char *buf = malloc(BUFFER);
	struct cold_reader *r;
	struct walk w = { 0 };
	ssize_t n = 0;
	int code = buf ? cold_reader_open(&r, name, proc, &ops, &w, why) : gw_fail(why, -ENOMEM, "%s: out of memory", name);

	if (code < 0)
		return code;
	while ((n = read(fd, buf, BUFFER)) > 0)
		cold_reader_feed(r, buf, (size_t)n);
	code = n < 0 ? gw_fail(why, -errno, "%s cannot be read: %s", name, strerror(errno)) : cold_reader_finish(r, hash, why);
	if (code < 0 && strncmp(why->text, name, strlen(name)) != 0)
		gw_fail_more(why, "%s: ", name);
	if (code == 0 && (!w.has_ended || w.skip || w.have))
		code = gw_fail(why, -EBADMSG, "%s is not all of the image of rank %u", name, proc);
	cold_reader_close(r);
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
	fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return gw_fail(why, -errno, errno == ENOENT ? "%s is missing%s" : "%s cannot be read: %s", name,
		               errno == ENOENT ? "" : strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size != (off_t)size)
		return gw_fail(why, -EBADMSG, "%s is damaged: it has %lld bytes instead of %lld", name, (long long)st.st_size, (long long)size);
	return verify(fd, name, (uint32_t)rank, hash, why);
}
