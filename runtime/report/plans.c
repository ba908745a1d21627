/* SPDX-License-Identifier: BSD-2-Clause */
/* What the balancer foresaw, beside what came. */
#include "runtime/report/html.h"

#include <math.h>

#define HEIGHT 160
#define POINTS 600  /* of the line */
#define ROWS   150  /* of the table */

static double most_of(const struct report *r)
{
	double most = 0;

	for (size_t i = 0; i < r->plans.n; i++) {
		const struct report_plan *p = &r->plans.list[i];

		most = isfinite(p->peak) ? fmax(most, p->peak) : most;
		most = isfinite(p->planned) ? fmax(most, p->planned) : most;
	}
	return html_axis(most);
}

static double y_of(double v, double most)
{
	return HEIGHT - HEIGHT * fmin(1, fmax(0, v) / most);
}

/* As seen, of each stretch the highest; and of plans with moves what they foresaw and what came */
static void draw(const struct report *r, FILE *out)
{
	double most = most_of(r), seen[POINTS];
	struct html_label labels[3];
	char texts[3][32], planned[32], outcome[32], when[32];
	size_t moving = 0, every, at = 0;
	bool is_begun = false;

	for (int i = 0; i < 3; i++) {
		snprintf(texts[i], sizeof(texts[i]), "%.3g %%", most * 50 * (2 - i));
		labels[i] = (struct html_label){ .y = HEIGHT * i / 2.0, .text = texts[i] };
	}
	for (int i = 0; i < POINTS; i++)
		seen[i] = NAN;
	for (size_t i = 0; i < r->plans.n; i++) {
		int b = (int)(html_x(r, r->plans.list[i].t_s) * (POINTS - 1) / PAGE_WIDTH);

		if (isfinite(r->plans.list[i].peak))
			seen[b] = isfinite(seen[b]) ? fmax(seen[b], r->plans.list[i].peak) : r->plans.list[i].peak;
		moving += r->plans.list[i].moves > 0;
	}
	fputs("<ul class=\"legend\"><li><i class=\"k0\"></i>seen</li><li><i class=\"k1\"></i>foreseen by a plan</li><li><i class=\"k2\"></i>seen after it</li>"
	      "</ul>\n", out);
	html_chart_begin(out, r, "How busy the busiest processors were, seen and foreseen, by time", HEIGHT, labels, 3);
	fprintf(out, "<path class=\"grid\" d=\"M0 0H%dM0 %dH%d\"/><path class=\"line k0\" d=\"", PAGE_WIDTH, HEIGHT / 2, PAGE_WIDTH);
	for (int i = 0; i < POINTS; i++) {
		if (!isfinite(seen[i]))
			continue;
		fprintf(out, "%s%ld %.1f", is_begun ? "L" : "M", (long)i * PAGE_WIDTH / (POINTS - 1), y_of(seen[i], most));
		is_begun = true;
	}
	fputs("\"/>\n", out);
	every = moving / POINTS + 1;
	fputs(moving > 100 ? "<g class=\"small\">" : "<g>", out);
	for (size_t i = 0; i < r->plans.n; i++) {
		const struct report_plan *p = &r->plans.list[i];

		if (p->moves == 0 || at++ % every || !isfinite(p->planned))
			continue;
		fputs("<g><title>", out);
		fprintf(out, "after %s: %u moves, foreseen %s %%, seen %s %%</title>", html_duration(when, p->t_s), p->moves,
		        html_number(planned, round(100 * p->planned)), html_number(outcome, round(100 * p->outcome)));
		fprintf(out, "<path class=\"dot k1\" d=\"M%ld %.1fh0\"/>", html_x(r, p->t_s), y_of(p->planned, most));
		if (isfinite(p->outcome))
			fprintf(out, "<path class=\"dot k2\" d=\"M%ld %.1fh0\"/>", html_x(r, p->outcome_s), y_of(p->outcome, most));
		fputs("</g>\n", out);
	}
	fputs("</g>\n", out);
	page_marks(r, HEIGHT, out);
	html_chart_end(out, r);
}

static void percent(FILE *out, double v)
{
	char text[32];

	snprintf(text, sizeof(text), isfinite(v) ? "%.1f %%" : "–", 100 * v);
	html_cell(out, v, text);
}

static void table(const struct report *r, FILE *out)
{
	size_t moving = 0, shown = 0;
	char text[32];

	for (size_t i = 0; i < r->plans.n; i++)
		moving += r->plans.list[i].moves > 0;
	if (moving == 0) {
		fputs("<p>No plan had moves: none would have gained more than it cost.</p>\n", out);
		return;
	}
	fputs("<h3>Plans that moved ranks</h3>\n", out);
	html_table_begin(out, "Plans that moved ranks", "At|Strategy|Moves|Done|Failed|Busiest before|Foreseen|Seen after|Gain foreseen|Cost foreseen|Pauses measured",
	                 true);
	for (size_t i = 0; i < r->plans.n && shown < ROWS; i++) {
		const struct report_plan *p = &r->plans.list[i];

		if (p->moves == 0)
			continue;
		shown++;
		fputs("<tr>", out);
		html_cell(out, p->t_s, html_duration(text, p->t_s));
		fputs("<td>", out);
		html_text(out, p->strategy);
		fputs("</td>", out);
		html_cell(out, p->moves, html_number(text, p->moves));
		html_cell(out, p->moved, p->done_s < 0 ? "–" : html_number(text, p->moved));
		html_cell(out, p->failed, p->done_s < 0 ? "–" : html_number(text, p->failed));
		percent(out, p->peak);
		percent(out, p->planned);
		percent(out, p->outcome);
		html_cell(out, p->gain_s, html_duration(text, p->gain_s));
		html_cell(out, p->cost_s, html_duration(text, p->cost_s));
		html_cell(out, p->paused_s, html_duration(text, p->paused_s));
		fputs("</tr>\n", out);
	}
	html_table_end(out, true);
	if (shown < moving)
		fprintf(out, "<p class=\"hint\">The first %zu of %zu plans.</p>\n", shown, moving);
}

void page_plans(const struct report *r, FILE *out)
{
	fputs("<section id=\"balance\"><h2>What the balancer foresaw, and what came</h2>\n", out);
	if (r->plans.n == 0) {
		fputs("<p>Nobody has balanced this job: <code>mpirun -balance refine</code> and <code>godwit rebalance</code> do.</p></section>\n", out);
		return;
	}
	fputs("<p>The busiest processors set the pace: for what part of the time they computed. A plan says how much that will be; the look after its moves says "
	      "how much it was.</p>\n", out);
	draw(r, out);
	table(r, out);
	fputs("</section>\n", out);
}
