/* SPDX-License-Identifier: BSD-2-Clause */
/* The terminal of godwit top, by ncurses. Signals are the caller's: it has blocked them, so that none finds the terminal half drawn. */
#include <curses.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/base/base.h"
#include "runtime/control/top.h"

struct top_screen {
	SCREEN *screen;
	bool has_color;
};

/* What a style is with colours, and without: bold, reverse and dim are then all there is. */
static const struct { short fore, back; attr_t with, without; } styles[TOP_STYLES] = {
	[TOP_NORMAL] = { -1, -1, A_NORMAL, A_NORMAL },
	[TOP_BOLD]   = { -1, -1, A_BOLD, A_BOLD },
	[TOP_DIM]    = { -1, -1, A_DIM, A_DIM },
	[TOP_TITLE]  = { COLOR_WHITE, COLOR_BLUE, A_BOLD, A_REVERSE | A_BOLD },
	[TOP_HEAD]   = { COLOR_CYAN, -1, A_UNDERLINE, A_UNDERLINE },
	[TOP_SORTED] = { COLOR_CYAN, -1, A_UNDERLINE | A_BOLD, A_UNDERLINE | A_BOLD },
	[TOP_GOOD]   = { COLOR_GREEN, -1, A_NORMAL, A_NORMAL },
	[TOP_WAIT]   = { COLOR_BLUE, -1, A_NORMAL, A_NORMAL },
	[TOP_OTHER]  = { COLOR_MAGENTA, -1, A_NORMAL, A_NORMAL },
	[TOP_WARN]   = { COLOR_YELLOW, -1, A_NORMAL, A_BOLD },
	[TOP_BAD]    = { COLOR_RED, -1, A_BOLD, A_REVERSE },
	[TOP_KEY]    = { COLOR_CYAN, -1, A_BOLD, A_BOLD },
};
#define PAIR_SELECTED TOP_STYLES

int top_screen_open(struct top_screen **out, bool has_color, struct gw_error *why)
{
	struct top_screen *s = calloc(1, sizeof(*s));
	const char *term = getenv("TERM");

	if (!s)
		return gw_fail(why, -ENOMEM, "out of memory");
	s->screen = newterm(NULL, stdout, stdin);
	if (!s->screen) {
		free(s);
		return gw_fail(why, -ENOTTY, "the terminal '%s' (TERM) is not known on this host; set TERM, or print pages with 'godwit top -b'",
		               term ? term : "");
	}
	set_term(s->screen);
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(25);
	curs_set(0);
	s->has_color = has_color && has_colors() && start_color() == OK;
	if (s->has_color) {
		short back = use_default_colors() == OK ? -1 : COLOR_BLACK, fore = back == -1 ? -1 : COLOR_WHITE;

		for (short i = 0; i < TOP_STYLES; i++)
			init_pair((short)(i + 1), styles[i].fore < 0 ? fore : styles[i].fore, styles[i].back < 0 ? back : styles[i].back);
		init_pair(PAIR_SELECTED + 1, COLOR_BLACK, COLOR_CYAN);
	}
	*out = s;
	return 0;
}

void top_screen_close(struct top_screen *s)
{
	if (!s)
		return;
	curs_set(1);
	endwin();
	delscreen(s->screen);
	free(s);
}

void top_screen_leave(struct top_screen *s)
{
	(void)s;
	curs_set(1);
	endwin();
}

void top_screen_return(struct top_screen *s)
{
	(void)s;
	clearok(curscr, TRUE);
	refresh();
	curs_set(0);
}

void top_screen_resize(struct top_screen *s, int *height, int *width)
{
	struct winsize w;

	(void)s;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row && w.ws_col && (w.ws_row != LINES || w.ws_col != COLS)) {
		resizeterm(w.ws_row, w.ws_col);
		clearok(curscr, TRUE);
	}
	*height = LINES;
	*width = COLS;
}

void top_screen_show(struct top_screen *s, const struct top_page *p)
{
	for (int y = 0; y < p->height && y < LINES; y++)
		for (int x = 0; x < p->width && x < COLS; x++) {
			const struct top_cell *c = &p->cells[(size_t)y * (size_t)p->width + (size_t)x];
			attr_t attr = s->has_color ? styles[c->style].with : styles[c->style].without;
			short pair = s->has_color ? (short)(c->style + 1) : 0;
			wchar_t text[2] = { c->c, 0 };
			cchar_t one;

			if (c->is_selected && s->has_color) {
				attr = A_NORMAL;
				pair = PAIR_SELECTED + 1;
			} else if (c->is_selected) {
				attr = A_REVERSE;
			}
			if (setcchar(&one, text, attr, pair, NULL) == OK)
				mvadd_wch(y, x, &one); /* ERR in the last corner, which is drawn */
		}
	curs_set(p->cursor >= 0);
	move(p->cursor >= 0 ? p->height - 1 : 0, p->cursor >= 0 ? p->cursor : 0);
	refresh();
}

int top_screen_key(struct top_screen *s)
{
	static const struct { int from, to; } keys[] = {
		{ KEY_UP, TOP_UP }, { KEY_DOWN, TOP_DOWN }, { KEY_PPAGE, TOP_PAGE_UP }, { KEY_NPAGE, TOP_PAGE_DOWN }, { KEY_HOME, TOP_HOME },
		{ KEY_END, TOP_END }, { KEY_LEFT, TOP_LEFT }, { KEY_RIGHT, TOP_RIGHT }, { KEY_BACKSPACE, TOP_BACKSPACE }, { 127, TOP_BACKSPACE },
		{ 8, TOP_BACKSPACE }, { '\r', TOP_ENTER }, { '\n', TOP_ENTER }, { KEY_ENTER, TOP_ENTER }, { 27, TOP_ESCAPE }, { KEY_F(1), TOP_HELP },
		{ KEY_F(10), TOP_QUIT },
	};
	int c = getch();

	(void)s;
	if (c == ERR)
		return TOP_NO_KEY;
	for (size_t i = 0; i < GW_ARRAY_LEN(keys); i++)
		if (keys[i].from == c)
			return keys[i].to;
	return c < 256 ? c : 0;
}
