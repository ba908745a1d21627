/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit top in a build without ncurses: pages can be printed, and a terminal cannot be drawn on. */
#include <errno.h>

#include "runtime/base/base.h"
#include "runtime/control/top.h"

int top_screen_open(struct top_screen **out, bool has_color, struct gw_error *why)
{
	(void)out, (void)has_color;
	return gw_fail(why, -ENOTSUP, "this Godwit was built without ncurses (Debian: libncurses-dev), and cannot draw on a terminal; 'godwit top -b' "
	               "prints pages");
}

void top_screen_close(struct top_screen *s) { (void)s; }
void top_screen_leave(struct top_screen *s) { (void)s; }
void top_screen_return(struct top_screen *s) { (void)s; }
void top_screen_resize(struct top_screen *s, int *height, int *width) { (void)s, (void)height, (void)width; }
void top_screen_show(struct top_screen *s, const struct top_page *p) { (void)s, (void)p; }
int top_screen_key(struct top_screen *s) { (void)s; return TOP_NO_KEY; }
