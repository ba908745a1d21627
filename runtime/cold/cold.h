/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/cold: what a checkpoint is on disk. doc/checkpoint.md tells users.
 *
 *   DIR/MANIFEST        JSON: the job, and the images that belong to it by name, length and hash; renamed into its place last
 *   DIR/cut-JOB-N/      the images of the N-th checkpoint of that job, and a MANIFEST of its own: each is a DIR by itself, and older
 *                       ones that were kept are used by that name
 *   DIR/.tmp-JOB-N/     one that is being written, or was when something died
 *   DIR/.lock           locked by the mpirun that writes there
 *   DIR/ENDED           the name of the job that MANIFEST tells of: it has ended well, and needs no checkpoint any more
 *
 * An image is one file: a zstd frame of struct cold_head, needs (JSON), their blob, the daemon's state of the rank (JSON), and
 * the image of container/image.h to the end. Daemons write, the head names, tools look.
 */
#ifndef RT_COLD_H
#define RT_COLD_H

#include <jansson.h>

#include "runtime/base/base.h"

#define COLD_FORMAT   2             /* of the manifest */
#define COLD_MANIFEST "MANIFEST"
#define COLD_LEFTOVER ".tmp-"       /* of what is not complete, and is nobody's when nobody has the lock */
#define COLD_LOCK     ".lock"
#define COLD_ENDED    "ENDED"
#define COLD_HASH_MAX 40            /* 32 hexadecimal digits of XXH3-128, and NUL */
#define COLD_NAME_MAX 64

struct cold_head {
	uint32_t magic, version;    /* COLD_MAGIC, COLD_VERSION */
	uint32_t proc, reserved;
	uint64_t needs_len, blob_len, state_len;
};
_Static_assert(sizeof(struct cold_head) == 40, "disk format");
#define COLD_MAGIC   0x70637767u /* "gwcp" */
#define COLD_VERSION 2

/** cold_image_name - of the file with the image of process @proc, within its cut */
void cold_image_name(char buf[COLD_NAME_MAX], uint32_t proc);

/* ---- writer.c: an image, from the bytes as they come ---- */
struct cold_writer;
int cold_writer_open(struct cold_writer **out, int dirfd, const char *name, struct gw_error *why);
int cold_writer_put(struct cold_writer *w, const void *bytes, size_t len, struct gw_error *why);
int cold_writer_finish(struct cold_writer *w, uint64_t *size, char hash[COLD_HASH_MAX], struct gw_error *why);
int cold_writer_sync(struct cold_writer *w);  /* to the disk; may take long, and may be another thread */
void cold_writer_close(struct cold_writer *w); /* NULL ok */

/* ---- dir.c ---- */
struct cold_dir { int fd, lock; };
/** cold_dir_open - to write there, alone, until cold_dir_close(); leftovers of others are removed. -EBUSY: another mpirun does */
int cold_dir_open(struct cold_dir *d, const char *path, struct gw_error *why);
void cold_dir_close(struct cold_dir *d);
bool cold_dir_is_at(const struct cold_dir *d, const char *path); /* is that still, or also, its path? */
void cold_cut_name(char buf[COLD_NAME_MAX], const char *job, uint64_t number);
/** cold_dir_prune - of the checkpoints of @job the newest @keep stay */
void cold_dir_prune(const struct cold_dir *d, const char *job, uint32_t keep);
/** cold_dir_newest - the newest checkpoint in DIR/cut-* that is older than number @before, whose manifest is whole. @job: of that job;
 *  NULL: of any
 * Return: its number; 0: there is none */
uint64_t cold_dir_newest(int dirfd, const char *job, uint64_t before, char name[COLD_NAME_MAX]);
/** cold_dir_read - the manifest of the directory; where that is damaged, of its newest checkpoint whose own is whole
 * Return: 0; 1: that one, its name is @cut, and @why says what the damage is; negative errno as cold_manifest_read() */
int cold_dir_read(int dirfd, const char *dir, json_t **m, char cut[COLD_NAME_MAX], struct gw_error *why);
uint64_t cold_dir_last(int dirfd, const char *job);  /* the highest number of one of that job, damaged or not; 0: there is none */
void cold_dir_end(const struct cold_dir *d, const char *job); /* it has ended well; */
void cold_dir_begin(int dirfd);                      /* what is there is of one that has not; */
bool cold_dir_has_ended(int dirfd, const char *job); /* has it? */
void cold_tree_remove(int dirfd, const char *name);  /* a directory of files, if it is there */

/* ---- reader.c: and back ---- */
struct cold_reader;
struct cold_reader_ops {
	/* all that is before the image, once; what is borrowed is gone after the call */
	int (*front)(void *ctx, const char *needs, const void *blob, size_t blob_len, const char *state, struct gw_error *why);
	int (*image)(void *ctx, const void *bytes, size_t len, struct gw_error *why);
};
int cold_reader_open(struct cold_reader **out, const char *name, uint32_t proc, const struct cold_reader_ops *ops, void *ctx,
                     struct gw_error *why);
void cold_reader_feed(struct cold_reader *r, const void *bytes, size_t len); /* what fails is told at the end */
uint64_t cold_reader_bytes(const struct cold_reader *r);                     /* decompressed so far */
int cold_reader_finish(struct cold_reader *r, const char *hash, struct gw_error *why); /* all of the file was fed */
void cold_reader_close(struct cold_reader *r);                               /* NULL ok */

/* ---- manifest.c ---- */
/** cold_manifest_write - give @m (changed: "directory" is @cut, and it gets a hash of itself) the place of DIR/MANIFEST, at once or
 *  not at all. @cut: where its images are, as seen from @dirfd
 * Return: 0; 1: done, but a crash of the host might still bring the one before back */
int cold_manifest_write(int dirfd, const char *cut, json_t *m, struct gw_error *why);
/** cold_manifest_read - -ENOENT: there is none; another error with @why: it is not one, or was changed. @dir: for sentences */
int cold_manifest_read(int dirfd, const char *dir, json_t **out, struct gw_error *why);

/* ---- verify.c ---- */
/** cold_image_verify - an image that the manifest lists: whole, unchanged, and what its name says? */
int cold_image_verify(int dirfd, const json_t *image, struct gw_error *why);

#endif
