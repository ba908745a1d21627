/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The page: head, figures, sections. Its style and its script are page.css and page.js, which the build makes strings of.
 *
 * It says everything without a script; that one looks closer at a stretch of time and sorts tables. The policy at the top of the page lets
 * run this script only, by its hash, and lets load nothing: a name that slipped through the escaping would still do nothing.
 */
#include "runtime/report/html.h"

#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <time.h>

static const char css[] =
#include "runtime/report/page.css.h"
;
static const char js[] =
#include "runtime/report/page.js.h"
;

/* ---- what has happened to the job ------------------------------------------------------------------------------------------- */

#define MARK_PLACES 400 /* of a kind only one is drawn in each */

static const char *const kinds[NOTE_KINDS] = {
	[NOTE_JOB] = "began, rested, ended", [NOTE_CHECKPOINT] = "checkpoint", [NOTE_HOST] = "host came or left", [NOTE_DRAIN] = "drain",
	[NOTE_FAILURE] = "failure",
};

void page_marks(const struct report *r, double height, FILE *out)
{
	bool is_drawn[NOTE_KINDS][MARK_PLACES + 1] = { { false } };
	char when[32];

	for (size_t i = 0; i < r->notes.n; i++) {
		const struct report_note *n = &r->notes.list[i];
		long x = html_x(r, n->t_s), place = x * MARK_PLACES / PAGE_WIDTH;

		if (is_drawn[n->kind][place])
			continue;
		is_drawn[n->kind][place] = true;
		fprintf(out, "<path class=\"mark m%d\" d=\"M%ld 0v%.0f\"><title>after %s: ", (int)n->kind, x, height, html_duration(when, n->t_s));
		html_text(out, n->text);
		fputs("</title></path>\n", out);
	}
}

void page_marks_legend(const struct report *r, FILE *out)
{
	bool is_there[NOTE_KINDS] = { false };

	for (size_t i = 0; i < r->notes.n; i++)
		is_there[r->notes.list[i].kind] = true;
	fputs("<ul class=\"legend marks\">", out);
	for (int k = 0; k < NOTE_KINDS; k++)
		if (is_there[k])
			fprintf(out, "<li><i class=\"m%d\"></i>%s</li>", k, kinds[k]);
	fputs("</ul>\n", out);
}

static void page_notes(const struct report *r, FILE *out)
{
	enum { ROWS = 200 };
	char text[32];

	fputs("<section id=\"events\"><h2>What happened to the job</h2>\n", out);
	html_table_begin(out, "What happened to the job", "At|What", true);
	for (size_t i = 0; i < r->notes.n; i++) {
		if (i >= ROWS / 2 && i + ROWS / 2 < r->notes.n) {
			if (i == ROWS / 2)
				fprintf(out, "<tr><td></td><td class=\"text\">… %zu more …</td></tr>\n", r->notes.n - ROWS);
			continue;
		}
		fputs("<tr>", out);
		html_cell(out, r->notes.list[i].t_s, html_duration(text, r->notes.list[i].t_s));
		fprintf(out, "<td class=\"text\"><i class=\"key m%d\"></i>", (int)r->notes.list[i].kind);
		html_text(out, r->notes.list[i].text);
		fputs("</td></tr>\n", out);
	}
	html_table_end(out, true);
	fputs("</section>\n", out);
}

static void page_checkpoints(const struct report *r, FILE *out)
{
	enum { ROWS = 100 };
	char text[32];

	if (r->checkpoints.n == 0)
		return;
	fputs("<section id=\"checkpoints\"><h2>Checkpoints</h2>\n", out);
	html_table_begin(out, "Checkpoints", "At|Took|Size|Where", true);
	for (size_t i = r->checkpoints.n > ROWS ? r->checkpoints.n - ROWS : 0; i < r->checkpoints.n; i++) {
		const struct report_checkpoint *c = &r->checkpoints.list[i];

		fputs("<tr>", out);
		html_cell(out, c->t_s, html_duration(text, c->t_s));
		html_cell(out, c->ms, html_duration(text, c->ms / 1000));
		html_cell(out, c->bytes, c->status < 0 ? "given up" : html_bytes(text, c->bytes));
		fputs("<td class=\"text\">", out);
		html_text(out, c->dir);
		fputs("</td></tr>\n", out);
	}
	html_table_end(out, true);
	if (r->checkpoints.n > ROWS)
		fprintf(out, "<p class=\"hint\">The last %d of %zu.</p>\n", ROWS, r->checkpoints.n);
	fputs("</section>\n", out);
}

static void page_clusters(const struct report *r, FILE *out)
{
	enum { ROWS = 200 };
	char text[32];

	fputs("<section id=\"clusters\"><h2>Clusters and hosts</h2>\n", out);
	html_table_begin(out, "Clusters and hosts", "Cluster|Host|Cores|There from|There until", true);
	for (uint32_t c = 0; c < r->n_clusters && c < ROWS; c++) {
		const struct report_cluster *cl = &r->clusters[c];

		if (!cl->name)
			continue;
		snprintf(text, sizeof(text), "%u", c);
		fputs("<tr>", out);
		html_cell(out, c, text);
		fputs("<td class=\"text\">", out);
		html_text(out, cl->name);
		fputs("</td>", out);
		html_cell(out, cl->cores, html_number(text, cl->cores));
		html_cell(out, cl->since_s, html_duration(text, cl->since_s));
		html_cell(out, cl->until_s < 0 ? r->length_s : cl->until_s, cl->until_s < 0 ? "the end" : html_duration(text, cl->until_s));
		fputs("</tr>\n", out);
	}
	html_table_end(out, true);
	if (r->n_clusters > ROWS)
		fprintf(out, "<p class=\"hint\">The first %d of %u clusters.</p>\n", ROWS, r->n_clusters);
	fputs("</section>\n", out);
}

/* ---- figures ---------------------------------------------------------------------------------------------------------------- */

struct figures { size_t moved, failed; double bytes; struct digest pause; uint32_t hosts; size_t written; };

static struct figures figures_of(const struct report *r)
{
	struct figures f = { 0 };
	double *v = calloc(r->moves.n + 1, sizeof(*v));
	bool *is_host = calloc(REPORT_CLUSTERS_MAX, sizeof(*is_host));

	for (size_t i = 0; i < r->moves.n; i++) {
		const struct report_move *m = &r->moves.list[i];

		if (v)
			v[i] = m->status < 0 ? NAN : m->m[M_DOWNTIME];
		f.moved += m->status >= 0;
		f.failed += m->status < 0;
		f.bytes += isfinite(m->bytes) ? m->bytes : 0;
	}
	f.pause = digest_make(v, v ? r->moves.n : 0);
	for (size_t i = 0; i < r->sums.n; i++) {
		f.moved += r->sums.list[i].moved;
		f.failed += r->sums.list[i].failed;
		f.pause.most = fmax(f.pause.most, r->sums.list[i].longest_s);
	}
	for (uint32_t c = 0; is_host && c < r->n_clusters; c++)
		if (r->clusters[c].name && r->clusters[c].host < REPORT_CLUSTERS_MAX && !is_host[r->clusters[c].host]) {
			is_host[r->clusters[c].host] = true;
			f.hosts++;
		}
	for (size_t i = 0; i < r->checkpoints.n; i++)
		f.written += r->checkpoints.list[i].status >= 0;
	free(v);
	free(is_host);
	return f;
}

json_t *report_json(const struct report *r)
{
	struct figures f = figures_of(r);
	json_t *programs = json_array();

	for (size_t i = 0; i < r->programs.n; i++)
		json_array_append_new(programs, json_string(r->programs.list[i]));
	return json_pack("{s:s, s:f, s:f, s:b, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:o, s:s?}", "job", r->job, "began", r->began, "length_s",
	                 r->length_s, "ended", (int)r->is_ended, "code", r->code, "ranks", (int)r->size, "clusters", (int)r->n_clusters, "hosts",
	                 (int)f.hosts, "moved", (json_int_t)f.moved, "failed", (json_int_t)f.failed, "checkpoints", (json_int_t)f.written, "plans",
	                 (json_int_t)r->plans.n, "downtime_median_s", f.pause.n ? json_real(f.pause.median) : json_null(), "downtime_most_s",
	                 f.pause.n ? json_real(f.pause.most) : json_null(), "bytes", f.bytes, "programs", programs, "failure", r->failure);
}

static void tile(FILE *out, const char *name, const char *value, const char *more)
{
	fprintf(out, "<div><dt>%s</dt><dd>", name);
	html_text(out, value);
	if (more && *more) {
		fputs("<small>", out);
		html_text(out, more);
		fputs("</small>", out);
	}
	fputs("</dd></div>\n", out);
}

static void page_figures(const struct report *r, FILE *out)
{
	struct figures f = figures_of(r);
	char value[64], more[160], one[32], two[32];

	fputs("<dl class=\"tiles\">\n", out);
	html_duration(one, r->length_s);
	if (!r->is_ended)
		snprintf(more, sizeof(more), "so far: it runs, or mpirun was killed");
	else if (r->code)
		snprintf(more, sizeof(more), "ended with status %d", r->code);
	else
		snprintf(more, sizeof(more), "ended well");
	tile(out, "Ran for", one, more);
	snprintf(value, sizeof(value), "%u", r->size);
	snprintf(more, sizeof(more), "on %u cluster%s of %u host%s", r->n_clusters, r->n_clusters == 1 ? "" : "s", f.hosts, f.hosts == 1 ? "" : "s");
	tile(out, "Ranks", value, more);
	snprintf(value, sizeof(value), "%zu", f.moved);
	snprintf(more, sizeof(more), f.failed ? "%zu more did not happen" : "none failed", f.failed);
	tile(out, "Moves", value, f.moved || f.failed ? more : "");
	if (f.pause.n) {
		snprintf(more, sizeof(more), "95 %% below %s, longest %s", html_duration(one, f.pause.p95), html_duration(two, f.pause.most));
		tile(out, "Downtime of a move", html_duration(value, f.pause.median), more);
	}
	if (f.bytes > 0)
		tile(out, "Sent by moves", html_bytes(value, f.bytes), "");
	if (r->plans.n) {
		size_t moving = 0;

		for (size_t i = 0; i < r->plans.n; i++)
			moving += r->plans.list[i].moves > 0;
		snprintf(value, sizeof(value), "%zu", moving);
		snprintf(more, sizeof(more), "with moves, of %zu looks told", r->plans.n);
		tile(out, "Balancing plans", value, more);
	}
	if (f.written) {
		snprintf(value, sizeof(value), "%zu", f.written);
		tile(out, "Checkpoints", value, "");
	}
	fputs("</dl>\n", out);
}

/* ---- the page ----------------------------------------------------------------------------------------------------------------- */

static void head(const struct report *r, FILE *out)
{
	unsigned char hash[crypto_hash_sha256_BYTES];
	char text[sodium_base64_ENCODED_LEN(crypto_hash_sha256_BYTES, sodium_base64_VARIANT_ORIGINAL)], when[64] = "";
	time_t began = (time_t)r->began;
	struct tm tm;

	crypto_hash_sha256(hash, (const unsigned char *)js, strlen(js));
	sodium_bin2base64(text, sizeof(text), hash, sizeof(hash), sodium_base64_VARIANT_ORIGINAL);
	if (!localtime_r(&began, &tm) || !strftime(when, sizeof(when), "%F %T %Z", &tm))
		when[0] = '\0';
	fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src "
	        "'none'; style-src 'unsafe-inline'; script-src 'sha256-%s'; base-uri 'none'; form-action 'none'\">\n<meta name=\"viewport\" "
	        "content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>Job ", text);
	html_text(out, r->job);
	fprintf(out, " – Godwit</title>\n<style>\n%s</style>\n</head>\n<body data-length=\"%.6f\">\n<header><h1>Job <code>", css, r->length_s);
	html_text(out, r->job);
	fputs("</code></h1>\n", out);
	for (size_t i = 0; i < r->programs.n && i < 12; i++) {
		fputs("<p class=\"program\"><bdi><code>", out);
		html_text(out, r->programs.list[i]);
		fputs("</code></bdi></p>\n", out);
	}
	if (r->programs.n > 12)
		fprintf(out, "<p class=\"hint\">and %zu more programs</p>\n", r->programs.n - 12);
	fputs("<p class=\"hint\">began ", out);
	html_text(out, when);
	if (r->starts > 1)
		fprintf(out, ", was continued %u time%s", r->starts - 1, r->starts == 2 ? "" : "s");
	if (*r->version) {
		fputs("; Godwit ", out);
		html_text(out, r->version);
	}
	fputs("</p>\n", out);
	if (r->failure) {
		fputs("<p class=\"failure\" role=\"note\"><bdi>", out);
		html_text(out, r->failure);
		fputs("</bdi></p>\n", out);
	}
	if (r->n_bad)
		fprintf(out, "<p class=\"hint\">%zu of %zu lines of its history could not be read, and are not in here.</p>\n", r->n_bad, r->n_lines);
	fputs("</header>\n", out);
}

void report_page(const struct report *r, FILE *out)
{
	head(r, out);
	fputs("<main>\n", out);
	page_figures(r, out);
	fputs("<p id=\"zoom\" class=\"hint\" hidden>Drag over a chart to look closer. <button type=\"button\">Whole run</button></p>\n", out);
	page_places(r, out);
	page_loads(r, out);
	page_plans(r, out);
	page_moves(r, out);
	fputs("<div class=\"columns\">\n", out);
	page_traffic(r, out);
	fputs("<div>\n", out);
	page_notes(r, out);
	page_checkpoints(r, out);
	page_clusters(r, out);
	fputs("</div>\n</div>\n</main>\n", out);
	fprintf(out, "<footer>doc/report.md says how to read this page.</footer>\n<script>%s</script>\n</body>\n</html>\n", js);
}
