/* SPDX-License-Identifier: BSD-2-Clause */
/* How the page is written: text, numbers, charts over time. Of runtime/report alone. */
#ifndef RT_REPORT_HTML_H
#define RT_REPORT_HTML_H

#include "runtime/report/report.h"

#define PAGE_WIDTH 100000 /* of all charts over time, in their own units: they are stretched to what the window has */
#define PAGE_TICKS 6

#define PAGE_KINDS 10     /* colours that are told apart */
#define PAGE_SHADES 16    /* steps of one colour, or of a scale */

/** html_text - escaped, for text and attributes; what no one can see, or turns text around, is shown as a dot */
void html_text(FILE *out, const char *text);

/** html_duration - "850 ms", "12.4 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"; NAN: "–" */
const char *html_duration(char buf[32], double seconds);
/** html_bytes - "1.4 GiB"; NAN: "–" */
const char *html_bytes(char buf[32], double bytes);
/** html_number - with three digits that count; NAN: "–" */
const char *html_number(char buf[32], double v);
/** html_measure - one of the eight, with its unit */
const char *html_measure(char buf[32], int which, double v);
extern const char *const html_measures[M_ALL]; /* their names */

/** html_cluster - "cluster 3 on rig1", escaped; nowhere: "no cluster" */
void html_cluster(FILE *out, const struct report *r, uint32_t cluster);
/** html_colour - class of a cluster: k0 to k9 where there are so few, else a shade of a scale, s0 to s15 */
const char *html_colour(char buf[8], const struct report *r, uint32_t cluster);

/** html_cell - a cell of a table, right-aligned, that sorts by @key (NAN: at the end) */
void html_cell(FILE *out, double key, const char *text);

/* A chart over time: labels at the left, the drawing, marks and times below. What is drawn is between begin and end, in units of
 * PAGE_WIDTH and of pixels. */
struct html_label { double y; const char *text; }; /* y: pixels from above */
void html_chart_begin(FILE *out, const struct report *r, const char *title, double height, const struct html_label *labels, size_t n);
void html_chart_end(FILE *out, const struct report *r);
long html_x(const struct report *r, double t_s);
/** html_stretches - of a row of @bins stretches of time, as the data of a path, all those that are @v[@b]; marks them in @is_drawn */
void html_stretches(FILE *out, const uint32_t *v, bool *is_drawn, uint32_t b, uint32_t bins, double y, double height);

/** html_table_begin - with @head "A|B|C"; folded away unless @is_open. html_table_end closes it */
void html_table_begin(FILE *out, const char *summary, const char *head, bool is_open);
void html_table_end(FILE *out, bool is_open);

/** html_axis - the largest value of an axis that shows @most: 1, 2 or 5 times a power of ten */
double html_axis(double most);

/* ---- digest.c ---- */
struct digest { size_t n; double least, median, p95, most; };
/** digest_make - of the values that are known; sorts them */
struct digest digest_make(double *values, size_t n);

/** digest_stays - for ranks [first, first + n), for each of @bins stretches of the run the cluster where most of them are;
 *  REPORT_NOWHERE: none runs. @index: of digest_index() */
struct stay_index;
struct stay_index *digest_index(const struct report *r);
void digest_index_free(struct stay_index *x);
int digest_stays(const struct report *r, const struct stay_index *x, uint32_t first, uint32_t n, uint32_t *out, uint32_t bins);
/** digest_stay - the stays of a rank, by time */
const struct report_stay *digest_stay(const struct stay_index *x, uint32_t rank, size_t *n);

/** digest_loads - mean of the samples of each of @bins stretches for clusters [first, first + n): load by cores where @is_share.
 *  NAN: none. A stretch without a sample has that of the one before */
void digest_loads(const struct report *r, uint32_t first, uint32_t n, bool is_share, double *out, uint32_t bins);

/* ---- the parts of the page ---- */
void page_marks(const struct report *r, double height, FILE *out); /* lines across a chart: what has happened to the job */
void page_marks_legend(const struct report *r, FILE *out);
void page_places(const struct report *r, FILE *out);
void page_loads(const struct report *r, FILE *out);
void page_traffic(const struct report *r, FILE *out);
void page_moves(const struct report *r, FILE *out);
void page_plans(const struct report *r, FILE *out);

#endif
