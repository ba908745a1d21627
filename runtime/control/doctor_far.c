/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * godwit doctor, other hosts: the same program is started there as mpirun starts daemons, and says line by line
 *
 *	godwit-doctor finding {...}     one for each
 *	godwit-doctor self {...}        what it is
 *	godwit-doctor path {PATH: SIZE} one for each that was asked for
 *	godwit-doctor now NANOSECONDS   its time of day; the end
 */
#include <stdlib.h>
#include <unistd.h>

#include "container/cpu.h"
#include "runtime/control/doctor.h"
#include "runtime/launcher/starter.h"

#define BEGIN    "godwit-doctor "
#define ASK_MS   40000
#define CLOCK_NS 500000000ll /* what starting a program over a network may well take of it */

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

/* ---- what is said ------------------------------------------------------------------------------------------------------- */

static void put(const char *what, json_t *o)
{
	gw_autofree char *text = json_dumps(o, JSON_COMPACT);

	printf(BEGIN "%s %s\n", what, text ? text : "{}");
	json_decref(o);
}

void doctor_report(const struct doctor_host *h)
{
	const char *path;
	json_t *size;

	for (size_t i = 0; i < h->n; i++)
		put("finding", json_pack("{s:s, s:i, s:s, s:s}", "name", h->findings[i].name, "verdict", (int)h->findings[i].verdict, "what",
		                         h->findings[i].what, "mend", h->findings[i].mend));
	put("self", json_incref(h->self));
	json_object_foreach(h->paths, path, size)
		put("path", json_pack("{s:O}", path, size));
	printf(BEGIN "now %lld\n", (long long)gw_realtime_ns());
	fflush(stdout);
}

static void hear_finding(struct doctor_host *h, json_t *o)
{
	int verdict = (int)json_integer_value(json_object_get(o, "verdict"));

	if (!h->texts)
		h->texts = json_array();
	json_array_append(h->texts, o);
	doctor_say(h, text_of(o, "name"), verdict == CT_FINE || verdict == CT_DEGRADED ? (enum ct_verdict)verdict : CT_MISSING,
	           text_of(o, "mend"), "%s", text_of(o, "what"));
}

/* ---- asking ------------------------------------------------------------------------------------------------------------- */

struct asked {
	struct ask { struct gw_loop *loop; uint32_t left; const struct job_spec *spec; } *all;
	struct doctor_host *host;
	struct starter *process;
	bool is_done, is_over;
};

static bool on_heard(void *ctx, const char *line)
{
	struct asked *a = ctx;
	json_t *o;

	if (strncmp(line, BEGIN, strlen(BEGIN)) != 0)
		return false;
	line += strlen(BEGIN);
	if (strncmp(line, "now ", 4) == 0) {
		a->host->ahead_ns = strtoll(line + 4, NULL, 10) - (int64_t)gw_realtime_ns();
		a->is_done = a->host->self != NULL;
		return true;
	}
	o = json_loads(strchr(line, ' ') ? strchr(line, ' ') + 1 : "", 0, NULL);
	if (o && strncmp(line, "finding ", 8) == 0) {
		hear_finding(a->host, o);
	} else if (o && strncmp(line, "self ", 5) == 0 && !a->host->self) {
		a->host->self = json_incref(o);
	} else if (o && strncmp(line, "path ", 5) == 0) {
		if (!a->host->paths)
			a->host->paths = json_object();
		json_object_update(a->host->paths, o);
	}
	json_decref(o);
	return true;
}

static void on_said(void *ctx, const char *line)
{
	const struct asked *a = ctx;

	if (!on_heard(ctx, line) && a->is_done)
		fprintf(stderr, "godwit: host %s: %s\n", a->host->name, line);
}

static void on_ended(void *ctx)
{
	struct asked *a = ctx;
	struct gw_error why = { 0 };
	const char *last = starter_held(a->process);
	int status = starter_status(a->process);

	a->is_over = true;
	if (!a->is_done) {
		if (status >> 8 == 127)
			snprintf(a->host->trouble, sizeof(a->host->trouble), "there is no Godwit at the place where it is here (%.200s)", last);
		else if (last[0] && !a->all->spec->launcher && !a->all->spec->is_forked && status >> 8 == 255)
			snprintf(a->host->trouble, sizeof(a->host->trouble), "cannot be reached with ssh: %.600s", last);
		else {
			starter_explain(a->all->spec->is_forked ? STARTER_HERE : a->all->spec->launcher, a->host->name, status, last, &why);
			snprintf(a->host->trouble, sizeof(a->host->trouble), "%.800s", why.text);
		}
	}
	starter_hold(a->process, "");
	if (--a->all->left == 0)
		gw_loop_stop(a->all->loop, 1);
}

static void on_deadline(void *ctx)
{
	gw_loop_stop(((struct ask *)ctx)->loop, 1);
}

static const struct starter_ops ops = { .said = on_said, .ended = on_ended, .heard = on_heard };

/* What a shell there reads: this program, at the same place */
static char *command(const struct strings *look)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	char *line = NULL, *more;

	path[n > 0 ? n : 0] = '\0';
	gw_autofree char *program = starter_quote(path);
	if (asprintf(&line, "exec %s doctor --report", program) < 0)
		abort();
	for (size_t i = 0; i < look->n; i++) {
		gw_autofree char *word = starter_quote(look->list[i]);
		gw_autofree char *before = line;

		if (asprintf(&more, "%s --look=%s", before, word) < 0)
			abort();
		line = more;
	}
	return line;
}

int doctor_ask(struct doctor_host *hosts, const struct job_spec *spec, const struct strings *look, struct gw_error *why)
{
	struct ask all = { .spec = spec };
	struct asked *asked = calloc(spec->n_hosts, sizeof(*asked));
	gw_autofree char *line = command(look);
	struct gw_timer *deadline = NULL;
	uint64_t end;
	int code = asked ? gw_loop_create(&all.loop) : -ENOMEM;

	if (code < 0) {
		free(asked);
		return gw_fail(why, code, "cannot ask other hosts: %s", strerror(-code));
	}
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		struct asked *a = &asked[i];
		struct strings argv = { 0 };
		struct gw_error own = { 0 };

		*a = (struct asked){ .all = &all, .host = &hosts[i] };
		starter_words(&argv, spec->is_forked || hosts_is_here(hosts[i].name) ? STARTER_HERE : spec->launcher, hosts[i].name, line);
		if (starter_start(&a->process, all.loop, hosts[i].name, argv.list, "", NULL, &ops, a, &own) == 0)
			all.left++;
		else
			snprintf(hosts[i].trouble, sizeof(hosts[i].trouble), "%.800s", own.text);
		strings_fini(&argv);
	}
	if (all.left && gw_loop_timer(all.loop, &deadline, ASK_MS, 0, on_deadline, &all) == 0)
		gw_loop_run(all.loop);
	gw_timer_cancel(deadline);
	end = gw_now_ns();
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		if (asked[i].process && !asked[i].is_over) {
			snprintf(hosts[i].trouble, sizeof(hosts[i].trouble), "no answer within %d s", ASK_MS / 1000);
			starter_kill(asked[i].process);
		}
		starter_destroy(asked[i].process, end);
	}
	gw_loop_destroy(all.loop);
	free(asked);
	return 0;
}

/* ---- comparing ---------------------------------------------------------------------------------------------------------- */

static bool is_same(const struct doctor_host *a, const struct doctor_host *b, const char *key)
{
	return strcmp(text_of(a->self, key), text_of(b->self, key)) == 0;
}

static void compare_processors(struct doctor_host *other, const struct doctor_host *here)
{
	struct ct_cpu a, b, less, more;
	char text[CT_CPU_TEXT];

	ct_cpu_parse(&a, text_of(here->self, "cpu"));
	ct_cpu_parse(&b, text_of(other->self, "cpu"));
	less = ct_cpu_without(a, b);
	more = ct_cpu_without(b, a);
	if (ct_cpu_is_none(less) && ct_cpu_is_none(more))
		doctor_say(other, "same processor", CT_FINE, "", "ranks may use all that either processor has");
	else
		doctor_say(other, "same processor", CT_DEGRADED, "nothing, or 'mpirun -cpu-baseline auto' (the default): ranks keep to what all "
		           "hosts share", "%s %.150s, so ranks that use it cannot move between them", ct_cpu_is_none(less) ? "this host lacks" :
		           "lacks", ct_cpu_print(ct_cpu_is_none(less) ? &more : &less, text));
}

void doctor_compare(struct doctor_host *other, const struct doctor_host *here)
{
	double ahead_s = (double)other->ahead_ns / 1e9;
	const char *path;
	json_t *size;

	if (!other->self || !here->self)
		return;
	if (!is_same(other, here, "version") || !is_same(other, here, "build"))
		doctor_say(other, "same build", CT_MISSING, "install the same build of Godwit at the same path on all hosts",
		           "has another Godwit (%.40s) than this host (%.40s): no job has both", text_of(other->self, "version"),
		           text_of(here->self, "version"));
	else
		doctor_say(other, "same build", CT_FINE, "", "Godwit %.40s", text_of(here->self, "version"));
	if (!is_same(other, here, "vdso"))
		doctor_say(other, "same kernel", CT_DEGRADED, "run the same kernel on both", "Linux %.40s there, %.40s here, and another vdso: "
		           "jobs run on both, ranks do not move between them", text_of(other->self, "release"), text_of(here->self, "release"));
	else
		doctor_say(other, "same kernel", CT_FINE, "", "Linux %.40s, the same vdso", text_of(other->self, "release"));
	compare_processors(other, here);
	if (other->ahead_ns > CLOCK_NS || other->ahead_ns < -CLOCK_NS)
		doctor_say(other, "time of day", CT_DEGRADED, "let chrony or systemd-timesyncd set both clocks", "its clock is %.1f s %s: the time of "
		           "day of ranks jumps when they move", ahead_s < 0 ? -ahead_s : ahead_s, ahead_s < 0 ? "behind" : "ahead");
	else
		doctor_say(other, "time of day", CT_FINE, "", "agrees within half a second");
	json_object_foreach(other->paths, path, size) {
		json_int_t there = json_integer_value(size), own = json_integer_value(json_object_get(here->paths, path));

		if (there == own)
			doctor_say(other, "path", CT_FINE, "", "%.150s is there", path);
		else
			doctor_say(other, "path", CT_DEGRADED, "share the directory, copy the file, or -wdir", "%.150s %s", path, there < 0 ?
			           "is not there: ranks do not start in it, or with it" : "has another size there");
	}
}
