/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The history for chrome://tracing and Perfetto, in their JSON format ("Trace Event Format", the JSON object form): a process for each
 * cluster with a line for each rank that was there, an arrow for each move, counters of load, and what happened to the job as
 * instants. Times are in microseconds. Written piece by piece: it may be long.
 */
#include "runtime/report/html.h"

#include <math.h>
#include <stdlib.h>

#define CLUSTER_PID 1       /* of cluster 0; the job itself is process 0 */
#define COUNTERS    200000  /* loads of so many, about; of more, every second sample is told, or third, ... */

struct trace { FILE *out; bool is_begun; };

static void put(struct trace *t, json_t *event)
{
	char *text = event ? json_dumps(event, JSON_COMPACT) : NULL;

	if (text)
		fprintf(t->out, "%s%s", t->is_begun ? ",\n" : "", text);
	t->is_begun |= text != NULL;
	free(text);
	json_decref(event);
}

static json_t *us(double s)
{
	return json_real(round(s * 1e6));
}

static void name(struct trace *t, const char *what, int pid, int tid, const char *fmt, ...) GW_PRINTF(5, 6);
static void name(struct trace *t, const char *what, int pid, int tid, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(t, json_pack("{s:s, s:s, s:i, s:i, s:{s:o}}", "name", what, "ph", "M", "pid", pid, "tid", tid, "args", "name", json_vsprintf(fmt, ap)));
	va_end(ap);
}

static void put_stays(struct trace *t, const struct report *r)
{
	struct stay_index *x = digest_index(r);
	uint32_t *told = calloc((size_t)r->n_clusters + 1, sizeof(*told)); /* the last rank, counted from 1, whose line in that cluster has a name */
	char text[32];

	for (uint32_t rank = 0; x && told && rank < r->size; rank++) {
		size_t n;
		const struct report_stay *s = digest_stay(x, rank, &n);

		snprintf(text, sizeof(text), "rank %u", rank);
		for (size_t i = 0; i < n; i++) {
			double end = i + 1 < n ? s[i + 1].t_s : r->length_s;

			if (s[i].cluster == REPORT_NOWHERE)
				continue;
			if (told[s[i].cluster] != rank + 1)
				name(t, "thread_name", (int)s[i].cluster + CLUSTER_PID, (int)rank, "rank %u", rank);
			told[s[i].cluster] = rank + 1;
			put(t, json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:i}", "name", text, "cat", "stay", "ph", "X", "ts", us(s[i].t_s), "dur", us(end - s[i].t_s),
			                 "pid", (int)s[i].cluster + CLUSTER_PID, "tid", (int)rank));
		}
	}
	digest_index_free(x);
	free(told);
}

/* The whole of it, from the request, on a line of the job; and an arrow from where it left to where it goes on */
static void put_move(struct trace *t, const struct report *r, size_t i)
{
	static const char *const keys[M_ALL] = { "total_s", "downtime_s", "pages", "dirty_pages_s", "preparation_s", "resume_s", "slowdown", "link_bytes_s" };
	const struct report_move *m = &r->moves.list[i];
	double length = isfinite(m->m[M_TOTAL]) && m->m[M_TOTAL] < m->t_s ? m->m[M_TOTAL] : 0;
	double pause = isfinite(m->m[M_DOWNTIME]) ? fmin(m->m[M_DOWNTIME], length) : 0;
	json_t *args = json_pack("{s:s, s:s, s:i}", "by", m->by, "technique", m->technique, "status", m->status);

	for (int k = 0; k < M_ALL; k++)
		if (isfinite(m->m[k]))
			json_object_set_new(args, keys[k], json_real(m->m[k]));
	if (m->text)
		json_object_set_new(args, "text", json_string(m->text));
	put(t, json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:i, s:o}", "name", m->status < 0 ? "move that failed" : "move", "cat", "move", "ph", "X", "ts",
	                 us(m->t_s - length), "dur", us(length), "pid", 0, "tid", (int)m->rank + 1, "args", args));
	if (m->status < 0 || m->from == REPORT_NOWHERE || m->to == REPORT_NOWHERE)
		return;
	put(t, json_pack("{s:s, s:s, s:s, s:I, s:o, s:i, s:i}", "name", "move", "cat", "arrow", "ph", "s", "id", (json_int_t)i + 1, "ts",
	                 us(fmax(0, m->t_s - length)), "pid", (int)m->from + CLUSTER_PID, "tid", (int)m->rank));
	put(t, json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:i, s:i}", "name", "move", "cat", "arrow", "ph", "f", "bp", "e", "id", (json_int_t)i + 1, "ts",
	                 us(m->t_s), "pid", (int)m->to + CLUSTER_PID, "tid", (int)m->rank));
	if (pause > 0)
		put(t, json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:i}", "name", "stands still", "cat", "pause", "ph", "X", "ts", us(m->t_s - pause), "dur",
		                 us(pause), "pid", 0, "tid", (int)m->rank + 1));
}

void report_trace(const struct report *r, FILE *out)
{
	struct trace t = { .out = out };
	bool *is_named = calloc((size_t)r->size + 1, sizeof(*is_named));

	fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", out);
	name(&t, "process_name", 0, 0, "job %s", r->job);
	for (uint32_t c = 0; c < r->n_clusters; c++) {
		name(&t, "process_name", (int)c + CLUSTER_PID, 0, "cluster %u%s%s", c, r->clusters[c].name ? " on " : "", r->clusters[c].name ? r->clusters[c].name : "");
		put(&t, json_pack("{s:s, s:s, s:i, s:i, s:{s:i}}", "name", "process_sort_index", "ph", "M", "pid", (int)c + CLUSTER_PID, "tid", 0, "args",
		                  "sort_index", (int)c + CLUSTER_PID));
	}
	put_stays(&t, r);
	for (size_t i = 0; i < r->moves.n; i++) {
		uint32_t rank = r->moves.list[i].rank;

		if (is_named && !is_named[rank])
			name(&t, "thread_name", 0, (int)rank + 1, "moves of rank %u", rank);
		if (is_named)
			is_named[rank] = true;
		put_move(&t, r, i);
	}
	for (size_t i = 0; i < r->loads.n; i += 1 + r->loads.n * r->n_clusters / COUNTERS)
		for (uint32_t c = 0; c < r->loads.list[i].n; c++)
			if (isfinite(r->loads.list[i].load[c]))
				put(&t, json_pack("{s:s, s:s, s:o, s:i, s:i, s:{s:f}}", "name", "load", "ph", "C", "ts", us(r->loads.list[i].t_s), "pid",
				                  (int)c + CLUSTER_PID, "tid", 0, "args", "processors", (double)r->loads.list[i].load[c]));
	for (size_t i = 0; i < r->notes.n; i++)
		put(&t, json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:i}", "name", r->notes.list[i].text, "cat", "job", "ph", "i", "s", "g", "ts",
		                  us(r->notes.list[i].t_s), "pid", 0, "tid", 0));
	fputs("\n]}\n", out);
	free(is_named);
}
