/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/spans.h: sets of addresses, as vectors of struct ct_img_extent: ascending, not empty, not touching.
 * Each function returns 0, or -ENOMEM with @out in any state; @out is another vector than what is read.
 */
#ifndef CT_SPANS_H
#define CT_SPANS_H

#include "container/rank.h"

int ct_spans_add(struct ct_vec *v, uint64_t start, uint64_t end); /* at the end; nothing when it is empty */
uint64_t ct_spans_bytes(const struct ct_vec *v);
int ct_spans_common(struct ct_vec *out, const struct ct_vec *a, const struct ct_vec *b); /* in both */
int ct_spans_cut(struct ct_vec *out, const struct ct_vec *a, const struct ct_vec *b);    /* in @a, not in @b */
/* the same of struct ct_extent, which keep what they say of themselves; @b are spans */
int ct_extents_cut(struct ct_vec *out, const struct ct_vec *extents, const struct ct_vec *b);

#endif
