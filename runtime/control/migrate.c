/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit migrate: move ranks, now; one line for each with its measures. */
#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/control/control.h"

struct migrate {
	struct control c;
	json_t *ranks, *results;
	json_t *to;          /* the number of a cluster, or the name of a host */
	long timeout_s;
	int failed, is_carrying, is_plain;
	const char *technique;
	json_int_t max_downtime_us, bandwidth, max_slowdown;
	bool is_refused;
};

enum { KEY_NO_PACK = 256, KEY_MAX_SLOWDOWN };

static const struct argp_option options[] = {
	{ "to", 't', "CLUSTER|HOST", 0, "Where to: the number of a cluster, or a host of the job, there where fewest ranks are (required)", 0 },
	{ "timeout", 'T', "SECONDS", 0, "Give up when a rank is still in MPI_Init or MPI_Finalize by then (default 60)", 0 },
	{ "carry-files", 'c', NULL, 0, "Files that a rank has open, and that the other host does not see, travel with it; the rank stands "
	  "still meanwhile. The old ones stay where they are", 0 },
	{ "technique", 'k', "NAME", 0, "auto (the default), stop-and-copy, pre-copy: most of the memory goes before the rank stops, post-copy: after it, or hybrid: both", 0 },
	{ "max-downtime", 'd', "TIME", 0, "How long a rank may stand still, as 5ms or 800us: pre-copy makes rounds until that is in reach (default 5ms)", 0 },
	{ "bandwidth", 'b', "RATE", 0, "Bytes a second, as 200M or 1G, that memory takes of the link while the rank runs, before the move or after it "
	  "(default: what it takes)", 0 },
	{ "max-slowdown", KEY_MAX_SLOWDOWN, "PERCENT", 0, "How much of its processor time, as 10%, rounds shall cost a rank at most where "
	  "no core is free for them: they rest now and then, and take up to ten times as long (default: they do not rest)", 0 },
	{ "no-pack", KEY_NO_PACK, NULL, 0, "Memory goes as it is, also over a link that is slower than packing it", 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

/* "5ms" -> 5000; 0 when it is not that */
static json_int_t microseconds(const char *text)
{
	static const struct { const char *unit; double us; } units[] = { { "us", 1 }, { "ms", 1e3 }, { "s", 1e6 } };
	char *end;
	double v = strtod(text, &end);

	for (size_t i = 0; i < GW_ARRAY_LEN(units); i++)
		if (end != text && strcmp(end, units[i].unit) == 0 && v * units[i].us >= 1 && v * units[i].us < 1e12)
			return (json_int_t)(v * units[i].us);
	return 0;
}

/* Of the link: with less, a piece of memory would be on its way for longer than a move may stand still, and the move fail of that. */
#define BANDWIDTH_MIN 50e3

/* "200M" -> bytes */
static json_int_t bytes(const char *text)
{
	static const char units[] = "kKMG";
	char *end;
	double v = strtod(text, &end), factor = *end == 'k' || *end == 'K' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : 1;

	if (end == text || (*end && (!strchr(units, *end) || end[1])) || v * factor < BANDWIDTH_MIN || v * factor > 1e15)
		return 0;
	return (json_int_t)(v * factor);
}

/* "10%" -> 100; 0 when it is not that */
static json_int_t thousandths(const char *text)
{
	char *end;
	double v = strtod(text, &end);

	return end == text || (*end && strcmp(end, "%") != 0) || !(v >= 1 && v <= 99) ? 0 : (json_int_t)(v * 10);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct migrate *m = state->input;

	switch (key) {
	case 't':
		json_decref(m->to);
		/* what begins with a digit is a number unless it is more than one, as an address */
		m->to = arg[strspn(arg, "0123456789")] || !*arg ? json_string(arg)
		      : json_integer(control_number(state, arg, "the number of a cluster, or the name of a host"));
		if (!m->to || !*arg || *arg == '-')
			argp_error(state, "--to=%s is neither the number of a cluster nor the name of a host", arg);
		return 0;
	case 'k':
		if (strcmp(arg, "auto") != 0 && strcmp(arg, "stop-and-copy") != 0 && strcmp(arg, "pre-copy") != 0 &&
		    strcmp(arg, "post-copy") != 0 && strcmp(arg, "hybrid") != 0)
			argp_error(state, "--technique=%s: there are auto, stop-and-copy, pre-copy, post-copy and hybrid", arg);
		m->technique = arg;
		return 0;
	case 'd':
		m->max_downtime_us = microseconds(arg);
		if (!m->max_downtime_us)
			argp_error(state, "--max-downtime=%s is not a time as 5ms, 800us or 1s", arg);
		return 0;
	case 'b':
		m->bandwidth = bytes(arg);
		if (!m->bandwidth)
			argp_error(state, "--bandwidth=%s is not a number of bytes a second as 200M or 1G (at least 50k)", arg);
		return 0;
	case 'T':
		m->timeout_s = control_number(state, arg, "a number of seconds");
		return 0;
	case KEY_MAX_SLOWDOWN:
		m->max_slowdown = thousandths(arg);
		if (!m->max_slowdown)
			argp_error(state, "--max-slowdown=%s is not a part of its time as 10%% (1%% to 99%%)", arg);
		return 0;
	case KEY_NO_PACK:
		m->is_plain = 1;
		return 0;
	case 'c':
		m->is_carrying = 1;
		return 0;
	case ARGP_KEY_ARG:
		json_array_append_new(m->ranks, json_integer(control_number(state, arg, "the number of a rank")));
		return 0;
	case ARGP_KEY_END:
		if (json_array_size(m->ranks) == 0)
			argp_error(state, "name at least one rank");
		if (!m->to)
			argp_error(state, "say where to with --to CLUSTER or --to HOST");
		return 0;
	default:
		return control_option(&m->c, key, arg);
	}
}

static double ms_of(const json_t *o, const char *key)
{
	return (double)json_integer_value(json_object_get(o, key)) / 1e6;
}

/* "; meanwhile the rank had 0.91 cores instead of 0.98 (7% slower); 63% of what went over eth0 was its memory" */
static void print_cost(const json_t *m)
{
	const json_t *slowdown = json_object_get(m, "slowdown"), *link = json_object_get(m, "link");

	if (json_is_real(slowdown))
		printf("; meanwhile the rank had %.2f cores instead of %.2f (%.0f%% %s)", json_real_value(json_object_get(m, "cores_meanwhile")),
		       json_real_value(json_object_get(m, "cores_before")), 100 * fabs(json_real_value(slowdown)),
		       json_real_value(slowdown) < 0 ? "faster" : "slower");
	if (json_is_object(link))
		printf("; %.0f%% of what went over %s was its memory", 100 * json_real_value(json_object_get(link, "share")),
		       json_string_value(json_object_get(link, "name")));
}

/* "  pre-copy: 3 rounds, 96% of it before the pause; chosen, for ..." */
static void print_technique(const json_t *m)
{
	const char *technique = json_string_value(json_object_get(m, "technique")), *why = json_string_value(json_object_get(m, "chosen_for"));
	long long rounds = (long long)json_integer_value(json_object_get(m, "rounds"));
	double bytes = (double)json_integer_value(json_object_get(m, "bytes"));
	double wire = (double)json_integer_value(json_object_get(m, "wire_bytes"));
	const json_t *f = json_object_get(m, "fetch");

	printf("  %s", technique ? technique : "?");
	if (rounds)
		printf(", %lld round%s, %.1f%% sent before the pause", rounds, rounds == 1 ? "" : "s",
		       bytes > 0 ? 100 * (double)json_integer_value(json_object_get(m, "round_bytes")) / bytes : 0);
	if (json_is_object(f))
		printf(", %.1f MiB followed it, within %.1f ms; %lld page%s waited for, %.2f ms at most", (double)json_integer_value(json_object_get(f, "left_bytes")) / (1 << 20),
		       ms_of(f, "fetch_ns"), (long long)json_integer_value(json_object_get(f, "faults")), json_integer_value(json_object_get(f, "faults")) == 1 ? "" : "s",
		       (double)json_integer_value(json_object_get(f, "fault_max_us")) / 1e3);
	if (wire > 0 && wire < bytes)
		printf(", packed to %.0f%%", 100 * wire / bytes);
	print_cost(m);
	printf("%s%s\n", why ? "; chosen because " : "", why ? why : "");
}

static void print_line(const json_t *msg)
{
	const json_t *m = json_object_get(msg, "measures");
	long long rank = (long long)json_integer_value(json_object_get(msg, "rank"));
	long long to = (long long)json_integer_value(json_object_get(msg, "to"));

	if (json_integer_value(json_object_get(msg, "status")) < 0) {
		fprintf(stderr, "godwit: rank %lld was not moved: %s\n", rank, json_string_value(json_object_get(msg, "text")));
	} else if (!json_is_object(m)) {
		printf("rank %lld -> cluster %lld: %s\n", rank, to, json_string_value(json_object_get(msg, "text")));
	} else {
		printf("rank %lld: cluster %lld -> %lld, downtime %.2f ms, total %.2f ms, %.1f KiB sent, %lld pages, %lld "
		       "thread%s\n", rank, (long long)json_integer_value(json_object_get(m, "from")), to, ms_of(m, "downtime_ns"),
		       ms_of(m, "total_ns"), (double)json_integer_value(json_object_get(m, "bytes")) / 1024,
		       (long long)json_integer_value(json_object_get(m, "pages")),
		       (long long)json_integer_value(json_object_get(m, "threads")),
		       json_integer_value(json_object_get(m, "threads")) == 1 ? "" : "s");
		print_technique(m);
	}
	fflush(stdout);
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct migrate *m = ctx;

	if (op && strcmp(op, "migrated") == 0) {
		json_object_del(msg, "op");
		if (m->c.is_json)
			json_array_append(m->results, msg);
		else
			print_line(msg);
		return 0;
	}
	if (op && strcmp(op, "refused") == 0) {
		fprintf(stderr, "godwit: %s\n", json_string_value(json_object_get(msg, "text")));
		m->is_refused = true;
		return 1;
	}
	if (op && strcmp(op, "done") == 0) {
		m->failed = (int)json_integer_value(json_object_get(msg, "failed"));
		return 1;
	}
	return 0;
}

int control_migrate(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "RANK... --to CLUSTER|HOST", "Move ranks of a running job to another "
		"cluster, or host, while all ranks go on. Several are moved at the same time. The exit status is 0 when all were moved, 1 when "
		"one was not (it goes on where it was), 2 when the request is wrong, 3 when there is no such job.\n"
		"When it is interrupted, moves that have begun go on.", NULL, NULL, NULL };
	struct migrate m = { .timeout_s = 60 };
	struct gw_error why = { 0 };
	char name[] = "godwit migrate";
	int code;

	m.ranks = json_array();
	m.results = json_array();
	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &m);
	/* the head sees our end and takes back what has not begun; a move that has begun cannot be interrupted by us */
	control_say_interrupted("godwit: interrupted; moves that have begun go on, requests that wait are taken back; 'godwit status' shows where "
	                        "the ranks are\n");
	code = control_talk(&m.c, json_pack("{s:s, s:o, s:o, s:I, s:b, s:s, s:I, s:I, s:I, s:b}", "op", "migrate", "ranks", m.ranks, "to", m.to,
	                                    "timeout_ms", (json_int_t)m.timeout_s * 1000, "carry", m.is_carrying, "technique",
	                                    m.technique ? m.technique : "auto", "max_downtime_us", m.max_downtime_us, "bandwidth",
	                                    m.bandwidth, "max_slowdown", m.max_slowdown, "plain", m.is_plain), on_answer, &m, &why);
	if (m.c.is_json && !m.is_refused) {
		json_dumpf(m.results, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(m.results);
	if (code < 0)
		return control_fail(&why);
	return m.is_refused ? CONTROL_WRONG : m.failed ? CONTROL_FAILED : CONTROL_DONE;
}
