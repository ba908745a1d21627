/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit doctor: what this host and others let ranks do, what does not work, and how to mend it. */
#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/control/control.h"
#include "runtime/control/doctor.h"

enum { KEY_HOSTS = 256, KEY_LAUNCHER, KEY_PROGRAM, KEY_REPORT, KEY_LOOK };

struct doctor {
	struct job_spec spec;
	struct strings look;
	bool is_json, is_report;
};

static const struct argp_option options[] = {
	{ "hosts", KEY_HOSTS, "HOST[:N],...", 0, "Other hosts, as mpirun is told them", 0 },
	{ "hostfile", 'f', "FILE", 0, "The same from a file", 0 },
	{ "launcher", KEY_LAUNCHER, "X", 0, "How they are reached: ssh (default), a command with %h (host) and %c (what to run), or fork: "
	  "this machine plays all of them", 0 },
	{ "program", KEY_PROGRAM, "FILE", 0, "Is this file the same there?", 0 },
	{ "json", 'J', NULL, 0, "Print JSON", 0 },
	{ "report", KEY_REPORT, NULL, OPTION_HIDDEN, NULL, 0 },
	{ "look", KEY_LOOK, "PATH", OPTION_HIDDEN, NULL, 0 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct doctor *d = state->input;
	struct gw_error why = { 0 };
	gw_autofree char *real = NULL;

	switch (key) {
	case KEY_HOSTS:
		if (hosts_parse(&d->spec, arg, &why) < 0)
			argp_error(state, "%s", why.text);
		return 0;
	case 'f':
		if (hosts_read(&d->spec, arg, &why) < 0)
			argp_error(state, "%s", why.text);
		return 0;
	case KEY_LAUNCHER:
		d->spec.is_forked = strcmp(arg, "fork") == 0;
		d->spec.launcher = d->spec.is_forked || strcmp(arg, "ssh") == 0 ? NULL : arg;
		if (d->spec.launcher && !hosts_is_launcher(arg))
			argp_error(state, "--launcher=%s: there are fork, ssh, and commands in which the words %%h and %%c stand", arg);
		return 0;
	case KEY_PROGRAM:
		real = realpath(arg, NULL);
		if (!real)
			argp_error(state, "--program=%s: %s", arg, strerror(errno));
		return strings_add(&d->look, real);
	case KEY_LOOK:
		return strings_add(&d->look, arg);
	case KEY_REPORT:
		d->is_report = true;
		return 0;
	case 'J':
		d->is_json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (hosts_add(&d->spec, arg, 1, &why) < 0)
			argp_error(state, "%s", why.text);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- printed ------------------------------------------------------------------------------------------------------------ */

#define NAME_AT 12
#define TEXT_AT 32

static int columns(void)
{
	struct winsize w;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 60 ? w.ws_col < 120 ? w.ws_col : 120 : 80;
}

/* From column TEXT_AT, where we are, to the last; further lines begin there too */
static void print_text(const char *begin, const char *text)
{
	int width = columns() - TEXT_AT - 1, at = (int)strlen(begin);

	fputs(begin, stdout);
	for (const char *gap = ""; *text; gap = " ") {
		int n = (int)strcspn(text, " ");

		if (*gap && at + 1 + n > width) {
			printf("\n%*s", TEXT_AT, "");
			gap = "";
			at = 0;
		}
		at += printf("%s%.*s", gap, n, text);
		text += n + (text[n] == ' ');
	}
	putchar('\n');
}

static const char *const words[] = { "ok", "degraded", "missing" };

static void print_host(const struct doctor_host *h)
{
	static const char *const colours[] = { "\033[32m", "\033[33m", "\033[1;31m" };
	bool is_coloured = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");

	printf("host %s", h->name);
	if (h->self)
		printf(": Linux %s, user %d, Godwit %s", json_string_value(json_object_get(h->self, "release")),
		       (int)json_integer_value(json_object_get(h->self, "uid")), json_string_value(json_object_get(h->self, "version")));
	putchar('\n');
	for (size_t i = 0; i < h->n; i++) {
		const struct ct_finding *f = &h->findings[i];

		printf("  %s%-*s%s%-*s", is_coloured ? colours[f->verdict] : "", NAME_AT - 2, words[f->verdict], is_coloured ? "\033[0m" : "",
		       TEXT_AT - NAME_AT, f->name);
		print_text("", f->what);
		if (f->mend[0]) {
			printf("%*s", TEXT_AT, "");
			print_text("mend: ", f->mend);
		}
	}
}

static int worst_of(const struct doctor_host *hosts, uint32_t n, unsigned count[3])
{
	int worst = CT_FINE;

	for (uint32_t i = 0; i < n; i++)
		for (size_t k = 0; k < hosts[i].n; k++) {
			count[hosts[i].findings[k].verdict]++;
			worst = (int)hosts[i].findings[k].verdict > worst ? (int)hosts[i].findings[k].verdict : worst;
		}
	return worst;
}

static void print_all(const struct doctor_host *hosts, uint32_t n)
{
	unsigned count[3] = { 0 };
	int worst = worst_of(hosts, n, count);

	for (uint32_t i = 0; i < n; i++) {
		print_host(&hosts[i]);
		putchar('\n');
	}
	if (worst == CT_FINE)
		printf("all is well\n");
	else if (worst == CT_DEGRADED)
		printf("jobs run; %u finding%s above take%s something from them\n", count[1], count[1] == 1 ? "" : "s", count[1] == 1 ? "s" : "");
	else
		printf("jobs do not run%s: %u finding%s marked 'missing'\n", n > 1 ? " on all of these hosts" : "", count[2],
		       count[2] == 1 ? "" : "s");
}

static void print_json(const struct doctor_host *hosts, uint32_t n)
{
	unsigned count[3] = { 0 };
	json_t *list = json_array(), *all;

	for (uint32_t i = 0; i < n; i++) {
		json_t *findings = json_array();

		for (size_t k = 0; k < hosts[i].n; k++) {
			const struct ct_finding *f = &hosts[i].findings[k];

			json_array_append_new(findings, json_pack("{s:s, s:s, s:s, s:s}", "name", f->name, "state", words[f->verdict], "text", f->what,
			                                          "mend", f->mend));
		}
		json_array_append_new(list, json_pack("{s:s, s:O?, s:o}", "host", hosts[i].name, "self", hosts[i].self, "findings", findings));
	}
	all = json_pack("{s:s, s:o}", "state", words[worst_of(hosts, n, count)], "hosts", list);
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

/* ---- the command -------------------------------------------------------------------------------------------------------- */

int control_doctor(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[HOST...]", "Try what this host lets ranks do, and what the named hosts do, "
		"and print one line for each finding: ok, degraded (jobs run; something is slower or refused) or missing (no job runs), what it "
		"means, and how to mend it. Other hosts are compared with this one. The exit status is 0 when all is well, 1 when something is "
		"degraded, 2 when jobs cannot run. Long options may begin with one dash.", NULL, NULL, NULL };
	struct doctor d = { 0 };
	struct gw_error why = { 0 };
	struct doctor_host *hosts;
	unsigned count[3] = { 0 };
	char name[256] = "", cwd[1000];
	int code = 0;
	uint32_t n;

	argv[0] = (char[]){ "godwit doctor" };
	signal(SIGPIPE, SIG_IGN);
	argp_parse(&argp, argc, argv, ARGP_LONG_ONLY, NULL, &d);
	if (!d.is_report && d.spec.n_hosts && getcwd(cwd, sizeof(cwd)))
		strings_add(&d.look, cwd);
	n = d.spec.n_hosts + 1;
	hosts = calloc(n, sizeof(*hosts));
	if (!hosts)
		return CONTROL_WRONG;
	gethostname(name, sizeof(name) - 1);
	hosts[0].name = name;
	for (uint32_t i = 1; i < n; i++)
		hosts[i].name = d.spec.hosts[i - 1].name;
	doctor_look(&hosts[0], &d.look);
	if (d.is_report) {
		doctor_report(&hosts[0]);
	} else if (d.spec.n_hosts) {
		code = doctor_ask(hosts + 1, &d.spec, &d.look, &why);
		for (uint32_t i = 1; i < n; i++) {
			if (hosts[i].trouble[0])
				doctor_say(&hosts[i], "reached", CT_MISSING, d.spec.is_forked ? "" : "let 'ssh HOST true' succeed without a question, and "
				           "install Godwit there at the same path", "%.250s", hosts[i].trouble);
			doctor_compare(&hosts[i], &hosts[0]);
		}
	}
	if (code == 0 && !d.is_report)
		(d.is_json ? print_json : print_all)(hosts, n);
	else if (code < 0)
		fprintf(stderr, "godwit: %s\n", why.text);
	code = code < 0 ? CONTROL_WRONG : worst_of(hosts, n, count);
	for (uint32_t i = 0; i < n; i++)
		doctor_fini(&hosts[i]);
	free(hosts);
	hosts_forget(&d.spec);
	strings_fini(&d.look);
	return d.is_report ? CONTROL_DONE : code;
}
