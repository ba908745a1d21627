/* SPDX-License-Identifier: BSD-2-Clause */
/* A job that is continued from a checkpoint: what of it is known before its ranks are there. */
#ifndef RT_RESTART_H
#define RT_RESTART_H

#include <jansson.h>

#include "runtime/launcher/head.h"

struct restart {
	char dir[4096], images[4096 + 64]; /* full paths: where the manifest is, and the images */
	int imagesfd;
	json_t *manifest;
	uint32_t job, base_pid, n_images;
	uint64_t began_ns, stood_ns;       /* stood_ns: CLOCK_REALTIME when the last rank was looked at */
	uint32_t restored, cuts_due;
	bool is_cutting, is_going;
};

/* ---- remember.c: what a manifest says of options, output, input and PMI; both ways ---- */
void remember_write(const struct head *h, json_t *manifest, const json_t *images, bool is_stopping); /* is_stopping: then the job ends */
int remember_options(struct job_spec *spec, const struct restart *r, struct gw_error *why); /* programs, and what was asked for */
int remember_head(struct head *h, const struct restart *r, struct gw_error *why);     /* the rest */

#endif
