/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of a page of godwit top are drawn with. Text is UTF-8; what is past the page's edge is not drawn. */
#ifndef RT_TOP_PEN_H
#define RT_TOP_PEN_H

#include "runtime/base/base.h"
#include "runtime/control/top.h"

struct pen {
	struct top_page *page;
	const struct top_view *v;
	int y, x;
	enum top_style style;
	bool is_selected;
};

struct pen pen_line(struct top_page *page, const struct top_view *v, int y, enum top_style style); /* an empty one */
void pen_put(struct pen *p, wchar_t c);
void pen_say(struct pen *p, const char *text);
void pen_sayf(struct pen *p, const char *fmt, ...) GW_PRINTF(2, 3);
void pen_say_as(struct pen *p, enum top_style style, const char *fmt, ...) GW_PRINTF(3, 4);
void pen_say_in(struct pen *p, int width, bool is_right, const char *text); /* in so many cells; an ellipsis ends what does not fit */
int pen_letters(const char *text);                       /* how many cells it takes */
/** pen_bar - a part of something: useful, waiting, others'; what is over is cut */
void pen_bar(struct pen *p, int width, double good, double wait, double other);
void pen_percent(struct pen *p, int width, double part); /* less than 0: not known */

/* Figures as text, in @buf, which is returned; less than 0: not known */
const char *pen_amount(double v, char *buf, size_t cap);   /* "340M": of 1000 */
const char *pen_memory(double v, char *buf, size_t cap);   /* of 1024 */
const char *pen_duration(double s, char *buf, size_t cap); /* "3.1 ms" */
const char *pen_clock(double s, char *buf, size_t cap);    /* "1:23" */
const char *pen_time(double at, char *buf, size_t cap);    /* "12:03:44" */

/* ---- top_table.c ---- */
void top_draw_ranks(struct top_page *page, const struct top_data *d, struct top_view *v, int y, int n_rows); /* @n_rows: with the head */

#endif
