/* SPDX-License-Identifier: BSD-2-Clause */
/* What keeps a rank where it is: one reason as an error, or all of them as a list. */
#include "container/rank.h"

#include <stdarg.h>
#include <stdlib.h>

const char *ct_hold_kind_name(enum ct_hold_kind kind)
{
	static const char *const names[] = { "descriptor", "mapping", "process", "debugger", "thread", "state" };

	return names[kind];
}

void ct_holds_fini(struct ct_holds *h)
{
	for (size_t i = 0; i < h->n; i++)
		free(h->list[i].text);
	free(h->list);
	*h = (struct ct_holds){ 0 };
}

int ct_hold(struct ct_rank *r, struct gw_error *why, enum ct_hold_kind kind, long long number, const char *fmt, ...)
{
	struct ct_holds *h = r->holds;
	struct ct_hold *bigger;
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return gw_fail(why, -ENOMEM, "no memory for what holds it");
	if (!h) {
		gw_fail(why, kind == CT_HOLD_PROCESS ? -ECHILD : -EBUSY, "%s", text);
		free(text);
		return kind == CT_HOLD_PROCESS ? -ECHILD : -EBUSY;
	}
	bigger = realloc(h->list, (h->n + 1) * sizeof(*h->list));
	if (!bigger) {
		free(text);
		return gw_fail(why, -ENOMEM, "no memory for what holds it");
	}
	h->list = bigger;
	h->list[h->n++] = (struct ct_hold){ kind, kind == CT_HOLD_PROCESS, number, text };
	return 0;
}
