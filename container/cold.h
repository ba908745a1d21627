/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/cold.h: the files of a rank that is written down and continued later, perhaps on another host.
 *
 * Nobody keeps them meanwhile, and there is no source to ask. So what is mapped must be the same file, by build-id or contents;
 * what is open must be there and have at least the length it had; and what the rank only appends to is cut to that length.
 * doc/checkpoint.md has the rule.
 */
#ifndef CT_COLD_H
#define CT_COLD_H

#include "container/container.h"

/* What a file is known by: "build-id 9f86d0..", "contents 2c26b4.."; "": its length and time of change, as in the needs */
#define CT_COLD_ID 160
struct ct_cold_id { char text[CT_COLD_ID]; };

/** ct_cold_ids - of each of needs.files, by its index; "" for those that are not mapped. Heap. May read them, once each. */
int ct_cold_ids(const struct ct_needs *needs, struct ct_cold_id **out, struct gw_error *why);

/** ct_cold_still - the rank is frozen: -EAGAIN when it has mapped a file that is not among @needs */
int ct_cold_still(const struct ct_needs *needs, const struct ct_rank *r, struct gw_error *why);

/** ct_cold_look - are the files here what they were? @ids: @n of them, as ct_cold_ids gave them */
int ct_cold_look(const struct ct_needs *needs, const struct ct_cold_id *ids, size_t n, struct gw_error *why);

/** ct_cold_look_open - the same for those that are not mapped, of a shell that has its image: as they were when the rank stood */
int ct_cold_look_open(const struct ct_rank *r, struct gw_error *why);

/**
 * ct_cold_written - of a frozen rank, or of a shell that is ready: regular files that it has open and only appends to, or writes
 * and does not read. @length: when it stood. Return: 0, or what @each returned to end it.
 */
typedef int ct_cold_written_fn(void *ctx, const char *path, uint64_t ino, uint64_t length, struct gw_error *why);
int ct_cold_written(const struct ct_rank *r, ct_cold_written_fn *each, void *ctx, struct gw_error *why);

#endif
