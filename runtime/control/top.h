/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * godwit top, in three parts: answers of mpirun become figures (top_data.c), figures become a page of cells (top_draw.c), and pages go to a
 * terminal (top_screen.c, or top_plain.c without ncurses) or to standard output (top.c). The first two are pure: a test draws what it likes.
 */
#ifndef RT_TOP_H
#define RT_TOP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <wchar.h>

/* ---- top_data.c ---------------------------------------------------------------------------------------------------------- */

#define TOP_WORD 32
#define TOP_UNKNOWN (-1.0) /* of figures that cannot be negative */

struct top_rank {
	uint32_t rank, cluster, moves;
	char host[64], state[TOP_WORD];
	bool is_pinned, is_moving, has_ended;
	double load, waits;      /* processor seconds a second: useful; looking for messages in vain */
	double out_s, in_s;      /* bytes a second */
	uint32_t peer;           /* to whom most goes, */
	double peer_s;           /* bytes a second; TOP_UNKNOWN: it is not known */
	double memory;           /* bytes that are present */
	double down_s;           /* of its last move */
};

struct top_cluster {
	uint32_t cluster, host, ranks;
	char hostname[64], state[TOP_WORD];
	bool is_up;
	double cores, load, waits, others, room; /* others: what other programs use of its processors */
};

struct top_move { /* under way */
	uint32_t rank, from, to;
	char doing[48], technique[TOP_WORD]; /* technique: empty while nobody has said */
	double bytes, age_s, predicted_s;
};

struct top_done {
	double time, down_s, predicted_s, total_s, bytes;
	uint32_t rank, from, to;
	bool is_failed;
	char technique[TOP_WORD], text[160];
};

struct top_data {
	char job[16], program[128], state[TOP_WORD];
	double age_s, at;        /* at: seconds since 1970 */
	uint32_t n_ranks, n_clusters, n_moves, n_done, n_hosts;
	struct top_rank *ranks;
	struct top_cluster *clusters;
	struct top_move *moves;
	struct top_done *done;   /* the latest first */
	double moved, failed, down_mean_s;
	bool is_balancing;
	char strategy[TOP_WORD], words[200];
	double every_s, peak, planned;
};

/** top_data_make - figures of the status @now, and rates since the status @before of the same job (NULL: none). 0; -ENOMEM; -EPROTO */
int top_data_make(struct top_data *out, const json_t *before, const json_t *now);
void top_data_fini(struct top_data *d);

/* ---- top_draw.c ---------------------------------------------------------------------------------------------------------- */

enum top_style { TOP_NORMAL, TOP_BOLD, TOP_DIM, TOP_TITLE, TOP_HEAD, TOP_SORTED, TOP_GOOD, TOP_WAIT, TOP_OTHER, TOP_WARN, TOP_BAD, TOP_KEY,
                 TOP_STYLES };

enum top_column { TOP_RANK, TOP_CLUSTER, TOP_HOST, TOP_STATE, TOP_LOAD, TOP_WAITS, TOP_OUT, TOP_IN, TOP_PEER, TOP_MEMORY, TOP_MOVES, TOP_PAUSE,
                  TOP_COLUMNS };

struct top_cell { wchar_t c; uint8_t style; bool is_selected; };

struct top_page {
	int height, width;
	struct top_cell *cells;  /* [height * width] */
	int cursor;              /* column in the last line where is typed; -1: nowhere */
};

struct top_view {
	bool is_utf8, is_fine;   /* is_fine: bars end to an eighth of a letter */
	bool is_batch;           /* as many lines as there are, no keys */
	enum top_column sort;
	bool is_reversed;
	bool is_helping, is_paused, is_hiding_clusters, is_hiding_moves;
	char filter[64];
	uint32_t selected;       /* number of a rank */
	bool has_selected;
	int first;               /* row of the ranks that is the first on the page; set while drawing */
	int page;                /* rows of ranks on the page; set while drawing */
	double delay_s;
	char prompt[64], typed[64]; /* prompt: empty: nothing is asked */
	char message[200];       /* the last line says it instead of keys */
	bool is_message_bad;
};

/** top_draw - the page; 0 or -ENOMEM. @v: first and page are set, and selected, when it is not there any more */
int top_draw(struct top_page *out, const struct top_data *d, struct top_view *v, int height, int width);
void top_page_fini(struct top_page *p);
/** top_page_line - a line as UTF-8, blanks at its end left out. Heap; NULL: no memory */
char *top_page_line(const struct top_page *p, int y);
/** top_order - indexes of the ranks that pass the filter, sorted; returns how many. @out has room for d->n_ranks */
uint32_t top_order(uint32_t *out, const struct top_data *d, const struct top_view *v);
/** top_move_selection - by @rows; over the ends: stay there */
void top_move_selection(struct top_view *v, const struct top_data *d, int rows);
bool top_sorts_down(enum top_column c); /* is the largest first? */

/* ---- top_screen.c -------------------------------------------------------------------------------------------------------- */

struct gw_error;
struct top_screen;
/* What was typed: letters as they are; */
enum top_key { TOP_NO_KEY = -1, TOP_UP = 0x1000, TOP_DOWN, TOP_PAGE_UP, TOP_PAGE_DOWN, TOP_HOME, TOP_END, TOP_LEFT, TOP_RIGHT, TOP_BACKSPACE,
               TOP_ENTER, TOP_ESCAPE, TOP_HELP, TOP_QUIT };

int top_screen_open(struct top_screen **out, bool has_color, struct gw_error *why);
void top_screen_close(struct top_screen *s);      /* the terminal is as it was; NULL ok */
void top_screen_leave(struct top_screen *s);      /* for a while, as at Ctrl-Z */
void top_screen_return(struct top_screen *s);
void top_screen_resize(struct top_screen *s, int *height, int *width); /* how large it is now */
void top_screen_show(struct top_screen *s, const struct top_page *p);
int top_screen_key(struct top_screen *s);         /* TOP_NO_KEY: none is there */

#endif
