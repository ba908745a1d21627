/* SPDX-License-Identifier: BSD-2-Clause */
/* The record of a job while it is kept: of record.c and record_traffic.c alone. */
#ifndef RT_RECORD_H
#define RT_RECORD_H

#include "runtime/launcher/head.h"
#include "runtime/launcher/scribe.h"

#define RECORD_BLOCKS 64 /* traffic is told of so many groups of ranks */

struct cadence { uint64_t every_ms, next_ns; size_t left; };

struct record {
	struct head *head;
	struct scribe *scribe;
	char path[4096];             /* "" before it is open */
	bool is_asked;               /* by -record: that it fails is said */
	bool is_gap_said;
	struct gw_timer *timer;
	uint64_t size;               /* of the file, with what is gathered */
	struct cadence loads, plans, traffics, sums;
	bool is_outcome_due;         /* the next look tells what became of the last plan */
	uint32_t moved, failed;      /* since FULL_BYTES */
	double downtime_ns, longest_ns;
	bool *has_ended;             /* [room]: not told yet */
	bool is_end_due;
	/* traffic so far: record_traffic.c */
	uint64_t ask_ms, ask_next_ns;
	bool is_asked_again;         /* an answer comes when the next question is put */
	uint32_t per;                /* ranks of a group */
	double (*bytes)[RECORD_BLOCKS], (*messages)[RECORD_BLOCKS];
	double near[3];              /* bytes within clusters, within hosts, between hosts */
	bool is_traffic_new;
	struct said { json_int_t epoch; json_t *rows; } *said; /* [room]: of whom each rank has told last, since it came where it is */
};

void record_cadence_init(struct cadence *c, uint64_t every_ms);
bool record_is_due(struct cadence *c, size_t bytes); /* it has been told so long ago, and so little; as told now */
bool record_is_kept(const struct record *r);         /* NULL ok */
void record_arm(struct record *r);                   /* something is gathered: it is told within a second */

int record_traffic_init(struct record *r);           /* -ENOMEM; record_traffic_fini() in any case */
void record_traffic_fini(struct record *r);
void record_traffic_tell(struct record *r, bool is_last);

#endif
