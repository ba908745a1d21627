/* SPDX-License-Identifier: BSD-2-Clause */
/* Can a rank move now, and if not, what holds it or what would a request wait for? And which sockets hold none. */
#include "runtime/clusterd/clusterd.h"

#include <stdio.h>
#include <stdlib.h>

static void add_reason(json_t *reasons, const char *kind, long long number, const char *text)
{
	json_array_append_new(reasons, json_pack("{s:s, s:I, s:s}", "kind", kind, "number", (json_int_t)number, "text", text));
}

/*
 * state: "yes"; "waits": a request would wait for what reasons say; "no": reasons hold it; "moving".
 * Looking stops nothing. What is seen may be otherwise a moment later: a move looks again.
 */
json_t *movable_json(struct rank *r)
{
	json_t *reasons = json_array();
	struct ct_holds holds = { 0 };
	struct gw_error why = { 0 };
	const char *state = "yes";

	/* where other hosts have a part in the job, what can be handed over on this one only counts as holding it */
	if (!moves_is_busy(r))
		ct_rank_way(r->ct, r->d->is_networked ? CT_WAY_FAR : CT_WAY_NEAR);
	if (suspend_is_on(r->d)) { /* which stops it, too: that needs no words of its own */
		state = "no";
		add_reason(reasons, "state", 0, "the job is suspended; 'godwit resume' lets it go on");
	} else if (moves_is_busy(r)) {
		state = "moving";
	} else if (ct_rank_holds(r->ct, &holds, &why) < 0) {
		state = "no";
		add_reason(reasons, "state", 0, why.text);
	} else {
		for (size_t i = 0; i < holds.n; i++)
			add_reason(reasons, ct_hold_kind_name(holds.list[i].kind), holds.list[i].number, holds.list[i].text);
		if (moves_readiness(r, NULL) == 0 && rank_is_stopped(r)) {
			char text[128];

			snprintf(text, sizeof(text), "it is stopped by a signal, and its agent with it; continue it first (kill -CONT %d)", (int)r->pid);
			add_reason(reasons, "state", 0, text);
		}
		if (json_array_size(reasons))
			state = "no";
		if (moves_readiness(r, &why) < 0) {
			state = holds.n ? "no" : "waits";
			gw_fail_more(&why, "a request waits: ");
			add_reason(reasons, "agent", 0, why.text);
		}
	}
	ct_holds_fini(&holds);
	return json_pack("{s:s, s:o}", "state", state, "reasons", reasons);
}

static void add_list(const char *list, const char *from)
{
	if (list && ct_reconnecting_add(list) < 0)
		gw_log(GW_WARN, "no memory for the sockets that %s names: they hold ranks", from);
}

/* One pattern a line; '#' begins a comment. A host without the file has nothing to add. */
void movable_read_reconnecting(const json_t *lists)
{
	FILE *f = fopen(GODWIT_SYSCONFDIR "/godwit/reconnecting", "re");
	gw_autofree char *line = NULL;
	size_t cap = 0;

	while (f && getline(&line, &cap, f) > 0) {
		const char *word = line + strspn(line, " \t");

		line[strcspn(line, "#\r\n")] = '\0';
		for (size_t n = strlen(word); n && (word[n - 1] == ' ' || word[n - 1] == '\t'); n--)
			line[word - line + (ptrdiff_t)n - 1] = '\0';
		add_list(word, GODWIT_SYSCONFDIR "/godwit/reconnecting");
	}
	if (f)
		fclose(f);
	for (size_t i = 0; i < json_array_size(lists); i++)
		add_list(json_string_value(json_array_get(lists, i)), "the job");
}
