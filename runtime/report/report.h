/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/report: what has happened in a job, as a page to look at and as a trace.
 *
 *   events of mpirun ──history*.c──► struct report ──page.c──► HTML: one file, nothing from outside
 *   (runtime/launcher/record.c)            └────────trace.c──► JSON for chrome://tracing and Perfetto
 *
 * The one who calls it is `godwit report` (runtime/control/report.c). It looks at no running job, and decides nothing. Lines come
 * from a file that anybody may have written: numbers are checked where they are read (history_fields.c), text is escaped where it is
 * written (html.c, and jansson for the trace). Whatever the length of the history, the page stays within some megabytes: what is
 * too much to be told one by one is told in groups of ranks and stretches of time (digest.c).
 */
#ifndef RT_REPORT_H
#define RT_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "runtime/base/base.h"

#define REPORT_RANKS_MAX    (1u << 20)
#define REPORT_STAYS_MAX    (1u << 24)  /* places of all ranks together: 256 MiB */
#define REPORT_CLUSTERS_MAX 4096
#define REPORT_BLOCKS       64          /* groups of ranks that traffic is told of, at most */
#define REPORT_NOWHERE      UINT32_MAX  /* of a rank that does not run */

/* The eight measures (doc/migration.md), in the order in which they are shown. */
enum { M_TOTAL, M_DOWNTIME, M_PAGES, M_DIRTY, M_PREPARATION, M_RESUME, M_SLOWDOWN, M_LINK, M_ALL };

struct report_cluster {
	char *name;                     /* of its host; NULL: never heard of */
	uint32_t host, cores, domain;
	double since_s, until_s;        /* until_s < 0: to the end */
};

struct report_stay { double t_s; uint32_t rank, cluster; }; /* from then on */

struct report_move {
	double t_s;                     /* its end */
	uint32_t rank, from, to;
	int status;
	char by[12], technique[16];
	char *text;                     /* why it failed */
	double m[M_ALL];                /* NAN: not known */
	double bytes, predicted_s;      /* predicted_s: of its downtime */
};

struct report_sum { double t_s, downtime_s, longest_s; uint32_t moved, failed; }; /* of moves that are not told one by one */

struct report_load { double t_s; uint32_t n; float *load; }; /* of clusters 0 to n - 1; NAN: not known */

struct report_plan {
	double t_s, done_s;             /* done_s < 0: it had no moves, or they were not heard of any more */
	char strategy[16];
	char *words;
	uint32_t moves, moved, failed;
	double peak, planned, gain_s, cost_s;
	double paused_s;                /* all its moves together */
	double outcome, outcome_s;      /* the peak of the next look after done_s; NAN: there was none */
};

enum report_kind { NOTE_JOB, NOTE_CHECKPOINT, NOTE_HOST, NOTE_DRAIN, NOTE_FAILURE, NOTE_KINDS };

struct report_note { double t_s; enum report_kind kind; char *text; };

struct report_checkpoint { double t_s, ms, bytes; int status; char *dir; };

#define REPORT_LIST(type) struct { type *list; size_t n, cap; }

struct report {
	char job[16], version[32], balance[16];
	double began;                   /* CLOCK_REALTIME, seconds */
	double length_s;                /* of what is known */
	uint32_t size, n_clusters;      /* all that there ever were */
	uint32_t starts;                /* how often mpirun began it: more than once when it was continued from a checkpoint */
	int code;                       /* exit status, when is_ended */
	bool is_ended;
	char *failure;                  /* NULL: none was told */
	size_t n_lines, n_bad;          /* of the file; those that were not understood */
	struct report_cluster *clusters;
	REPORT_LIST(char *) programs;
	REPORT_LIST(struct report_stay) stays;  /* by time */
	REPORT_LIST(struct report_move) moves;
	REPORT_LIST(struct report_sum) sums;
	REPORT_LIST(struct report_load) loads;
	REPORT_LIST(struct report_plan) plans;
	REPORT_LIST(struct report_note) notes;
	REPORT_LIST(struct report_checkpoint) checkpoints;
	uint32_t per;                           /* ranks of a block of traffic; 0: nothing is known of it */
	double (*bytes)[REPORT_BLOCKS], (*messages)[REPORT_BLOCKS];
	double near[3];                         /* bytes within clusters, within hosts, between hosts */
};

/**
 * report_read - the history of a job from a file of events
 * @job: its id, or how that begins; NULL: the last that was started
 * Return: 0, or negative errno with @why. report_fini() in any case.
 */
int report_read(struct report *r, const char *path, const char *job, struct gw_error *why);
void report_fini(struct report *r);

/** report_page - all of it as HTML; what cannot be written is left to ferror() */
void report_page(const struct report *r, FILE *out);

/** report_trace - the same for chrome://tracing and Perfetto */
void report_trace(const struct report *r, FILE *out);

/** report_json - figures that sum it up. The caller's */
json_t *report_json(const struct report *r);

/** report_text - for a terminal: what no one can see, turns text around, or is a terminal's to obey, is '?' */
void report_text(FILE *out, const char *text);

#endif
