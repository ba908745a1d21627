/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status as text for Prometheus. One table says what there is: each name with its kind, its words and where its figures are; all lines
 * of a name stand together, as the format wants it. Source: prometheus.io, "Exposition formats" and "Metric and label naming".
 */
#include "runtime/metrics.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum of { OF_CLUSTER, OF_RANK };

/* Figures of each cluster, or rank; @scale: into base units */
static const struct family { enum of of; const char *name, *type, *key, *help; double scale; } families[] = {
	{ OF_CLUSTER, "godwit_cluster_cores", "gauge", "cores", "Processors of the cluster; clusters of one domain share them.", 1 },
	{ OF_CLUSTER, "godwit_cluster_ranks", "gauge", "ranks", "Ranks that live there.", 1 },
	{ OF_CLUSTER, "godwit_cluster_up", "gauge", "state", "1 while ranks can live there.", 1 },
	{ OF_CLUSTER, "godwit_cluster_drained", "gauge", "drained", "1 while no rank may move there.", 1 },
	{ OF_CLUSTER, "godwit_cluster_load", "gauge", "load", "Useful processor seconds a second of its ranks.", 1 },
	{ OF_CLUSTER, "godwit_cluster_busy_seconds_total", "counter", "busy_ns", "Time for which its processors were busy, for whomever.", 1e-9 },
	{ OF_CLUSTER, "godwit_cluster_memory_available_bytes", "gauge", "room", "Memory of its host that nobody uses.", 1 },
	{ OF_RANK, "godwit_rank_cluster", "gauge", "cluster", "Where the rank lives: the number of its cluster.", 1 },
	{ OF_RANK, "godwit_rank_cpu_seconds_total", "counter", "cpu_ns", "Processor time that the rank has used, wherever it was.", 1e-9 },
	{ OF_RANK, "godwit_rank_wait_seconds_total", "counter", "waited_ns", "Of it, time in which it looked for messages in vain.", 1e-9 },
	{ OF_RANK, "godwit_rank_load", "gauge", "load", "Useful processor seconds a second.", 1 },
	{ OF_RANK, "godwit_rank_memory_bytes", "gauge", "memory", "Memory that is present.", 1 },
	{ OF_RANK, "godwit_rank_sent_bytes_total", "counter", "sent_bytes", "Bytes that the rank has sent by MPI.", 1 },
	{ OF_RANK, "godwit_rank_received_bytes_total", "counter", "received_bytes", "Bytes that the rank has received by MPI.", 1 },
	{ OF_RANK, "godwit_rank_moves_total", "counter", "moves", "How often the rank has moved.", 1 },
	{ OF_RANK, "godwit_rank_pinned", "gauge", "pinned", "1 while the rank is kept where it is.", 1 },
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

/* A figure as it stands in JSON: a number, how many are in a list, is it so, is it "up"? */
static int figure(const json_t *v, double *out)
{
	if (json_is_number(v))
		*out = json_number_value(v);
	else if (json_is_array(v))
		*out = (double)json_array_size(v);
	else if (json_is_boolean(v))
		*out = json_is_true(v);
	else if (json_is_string(v))
		*out = strcmp(json_string_value(v), "up") == 0;
	else
		return -1;
	return 0;
}

static void label(FILE *f, const char *name, const char *value)
{
	fprintf(f, "%s=\"", name);
	for (; *value; value++)
		if (*value == '\\' || *value == '"')
			fprintf(f, "\\%c", *value);
		else if (*value == '\n')
			fputs("\\n", f);
		else
			putc(*value, f);
	putc('"', f);
}

static void head(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name{job="...",@key="@value"} @v */
static void line(FILE *f, const char *name, const char *job, const char *key, const char *value, double v)
{
	fprintf(f, "%s{", name);
	label(f, "job_id", job);
	if (key) {
		putc(',', f);
		label(f, key, value);
	}
	fprintf(f, "} %.17g\n", v);
}

static void one_line(FILE *f, const char *name, const char *type, const char *help, const char *job, const json_t *v, double scale)
{
	double is;

	if (figure(v, &is) < 0)
		return;
	head(f, name, type, help);
	line(f, name, job, NULL, NULL, is * scale);
}

static void put_family(FILE *f, const struct family *fam, const json_t *status, const char *job)
{
	const json_t *list = json_object_get(status, fam->of == OF_CLUSTER ? "clusters" : "ranks"), *one;
	const char *kind = fam->of == OF_CLUSTER ? "cluster" : "rank";
	size_t i;

	head(f, fam->name, fam->type, fam->help);
	json_array_foreach((json_t *)(uintptr_t)list, i, one) {
		double v;

		if (figure(json_object_get(one, fam->key), &v) < 0)
			continue;
		fprintf(f, "%s{", fam->name);
		label(f, "job_id", job);
		fprintf(f, ",%s=\"%lld\"", kind, (long long)json_integer_value(json_object_get(one, kind)));
		if (fam->of == OF_CLUSTER) { /* a rank's host changes: it is that of its cluster */
			putc(',', f);
			label(f, "host", text_of(one, "hostname"));
		}
		fprintf(f, "} %.17g\n", v * fam->scale);
	}
}

static void put_moves(FILE *f, const json_t *moves, const char *job)
{
	static const struct { const char *name, *key, *help; } by[] = {
		{ "godwit_moves_total", "moved", "Moves that were made, by technique." },
		{ "godwit_move_bytes_total", "bytes", "Bytes that moves have sent, by technique." },
	};
	static const char down_name[] = "godwit_move_downtime_seconds";
	const json_t *down = json_object_get(moves, "downtime"), *limits = json_object_get(down, "limits_s"), *counts = json_object_get(down, "at_most");
	const char *technique;
	json_t *t;

	for (size_t i = 0; i < sizeof(by) / sizeof(by[0]); i++) {
		head(f, by[i].name, "counter", by[i].help);
		json_object_foreach(json_object_get(moves, "techniques"), technique, t)
			line(f, by[i].name, job, "technique", technique, json_number_value(json_object_get(t, by[i].key)));
	}
	one_line(f, "godwit_move_failures_total", "counter", "Moves that were asked for and not made.", job, json_object_get(moves, "failed"), 1);
	one_line(f, "godwit_moves_in_progress", "gauge", "Moves under way.", job, json_object_get(moves, "under_way"), 1);
	head(f, down_name, "histogram", "How long ranks stood still when they moved.");
	for (size_t i = 0; i < json_array_size(counts); i++) {
		char le[32] = "+Inf";

		if (i < json_array_size(limits))
			snprintf(le, sizeof(le), "%g", json_number_value(json_array_get(limits, i)));
		fprintf(f, "%s_bucket{", down_name);
		label(f, "job_id", job);
		fprintf(f, ",le=\"%s\"} %.17g\n", le, json_number_value(json_array_get(counts, i)));
	}
	line(f, "godwit_move_downtime_seconds_sum", job, NULL, NULL, json_number_value(json_object_get(down, "sum_s")));
	line(f, "godwit_move_downtime_seconds_count", job, NULL, NULL, json_number_value(json_object_get(down, "count")));
}

char *rt_metrics_text(const json_t *status)
{
	const json_t *job = json_object_get(status, "job"), *balance = json_object_get(status, "balance");
	const char *id = text_of(job, "id");
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	head(f, "godwit_job_info", "gauge", "Always 1; the labels say which job it is.");
	line(f, "godwit_job_info", id, "program", text_of(job, "program"), 1);
	one_line(f, "godwit_job_ranks", "gauge", "Ranks of the job, those that have ended included.", id, json_object_get(job, "ranks"), 1);
	one_line(f, "godwit_job_age_seconds", "gauge", "Time since the job was started.", id, json_object_get(job, "age_ms"), 1e-3);
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		put_family(f, &families[i], status, id);
	put_moves(f, json_object_get(status, "moves"), id);
	one_line(f, "godwit_balance_plans_total", "counter", "Plans of balancing that moved ranks.", id, json_object_get(balance, "plans"), 1);
	one_line(f, "godwit_balance_peak_ratio", "gauge", "Part of the time for which the busiest cluster computes, as seen last.", id,
	         json_object_get(balance, "peak"), 1);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
