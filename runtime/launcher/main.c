/* SPDX-License-Identifier: BSD-2-Clause */
/* mpirun, also called mpiexec: what was asked for. */
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

static const char usage[] =
"usage: mpirun [options] [-n N] PROGRAM [ARG...] [: [-n N] [-env K V] PROGRAM [ARG...]]...\n"
"Run N processes of an MPI program on the clusters of this machine; any of them can be moved with 'godwit migrate'.\n"
"\n"
"  -n N, -np N       start N ranks (default 1)\n"
"  -clusters N       cut this machine into N clusters (default 1); when there are fewer cores, clusters share them\n"
"  -env K V          set a variable for the ranks of this program\n"
"  -genv K V         set a variable for all ranks\n"
"  -wdir DIR         start in this directory (also -wd)\n"
"  -prepend-rank, -l begin each line of output with the rank that wrote it\n"
"  -verbose          say where ranks are started\n"
"  -version          print the version\n"
"  -h, -help         print this\n"
"\n"
"Rank i of n starts on cluster i * clusters / n (rounded down). Standard input goes to rank 0.\n"
"The exit status is that of the first rank that failed: its own, or 128 + the signal that ended it.\n";

static const struct option options[] = {
	{ "n", required_argument, NULL, 'n' },
	{ "np", required_argument, NULL, 'n' },
	{ "clusters", required_argument, NULL, 'c' },
	{ "env", required_argument, NULL, 'e' },
	{ "genv", required_argument, NULL, 'g' },
	{ "wdir", required_argument, NULL, 'w' },
	{ "wd", required_argument, NULL, 'w' },
	{ "prepend-rank", no_argument, NULL, 'l' },
	{ "l", no_argument, NULL, 'l' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "v", no_argument, NULL, 'v' },
	{ "h", no_argument, NULL, 'h' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ "V", no_argument, NULL, 'V' },
	{ 0 }
};

static int parse_count(const char *text, const char *what, uint32_t max, uint32_t *out, struct gw_error *why)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || end == text || text[0] == '-' || v == 0 || v > max)
		return gw_fail(why, -EINVAL, "%s '%s' is not a number from 1 to %u", what, text, max);
	*out = (uint32_t)v;
	return 0;
}

static int add_variable(struct strings *to, int argc, char **argv, const char *key, struct gw_error *why)
{
	gw_autofree char *pair = NULL;

	if (optind >= argc)
		return gw_fail(why, -EINVAL, "-env and -genv need a name and a value; the value of '%s' is missing", key);
	if (!*key || strchr(key, '='))
		return gw_fail(why, -EINVAL, "'%s' is not the name of a variable", key);
	if (asprintf(&pair, "%s=%s", key, argv[optind++]) < 0) {
		pair = NULL;
		return gw_fail(why, -ENOMEM, "out of memory");
	}
	return strings_add(to, pair);
}

/* One program with its options: argv[first .. argc), up to a ':' of its own. Return the index after it, or -errno. */
static int parse_app(struct job_spec *spec, struct app *app, int argc, char **argv, int first, struct gw_error *why)
{
	int c, end = first, code = 0;

	while (end < argc && strcmp(argv[end], ":") != 0)
		end++;
	optind = first;
	opterr = 0;
	app->n = 1;
	/* getopt starts at argv[1]: give it the word before as its name */
	while (code == 0 && (c = getopt_long_only(end, argv, "+:", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			code = parse_count(optarg, "the number of ranks", 65536, &app->n, why);
			break;
		case 'c':
			code = parse_count(optarg, "the number of clusters", 4096, &spec->clusters, why);
			break;
		case 'e':
			code = add_variable(&app->env, end, argv, optarg, why);
			break;
		case 'g':
			code = add_variable(&spec->genv, end, argv, optarg, why);
			break;
		case 'w':
			app->wdir = optarg;
			break;
		case 'l':
			spec->is_labelled = true;
			break;
		case 'v':
			spec->is_verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		case 'V':
			puts("Godwit " PACKAGE_VERSION);
			exit(0);
		case ':':
			return gw_fail(why, -EINVAL, "the option '%s' needs a value; 'mpirun -help' lists the options",
			               argv[optind - 1]);
		default:
			return gw_fail(why, -EINVAL, "there is no option '%s'; 'mpirun -help' lists the options",
			               argv[optind - 1]);
		}
	}
	if (code < 0)
		return code;
	if (optind >= end)
		return gw_fail(why, -EINVAL, "no program is named%s; 'mpirun -help' shows how",
		               spec->n_apps > 1 ? " after ':'" : "");
	for (int i = optind; i < end; i++)
		if (strings_add(&app->argv, argv[i]) < 0)
			return gw_fail(why, -ENOMEM, "out of memory");
	return end;
}

static int parse(struct job_spec *spec, int argc, char **argv, struct gw_error *why)
{
	int at = 0;

	while (at < argc) {
		if (spec->n_apps == GW_ARRAY_LEN(spec->apps))
			return gw_fail(why, -E2BIG, "more than %zu programs in one job", GW_ARRAY_LEN(spec->apps));
		at = parse_app(spec, &spec->apps[spec->n_apps++], argc, argv, at + 1, why);
		if (at < 0)
			return at;
		spec->size += spec->apps[spec->n_apps - 1].n;
		if (at + 1 == argc)
			return gw_fail(why, -EINVAL, "no program is named after ':'; 'mpirun -help' shows how");
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct job_spec *spec = calloc(1, sizeof(*spec));
	struct gw_error why = { 0 };
	int code = 1;

	for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR))
		if (fd > STDERR_FILENO) { /* a standard stream that was closed must not become one of our sockets */
			close(fd);
			break;
		}
	gw_log_init("mpirun");
	gw_event_init("mpirun");
	if (!spec)
		return 1;
	spec->clusters = 1;
	if (parse(spec, argc, argv, &why) < 0)
		fprintf(stderr, "mpirun: %s\n", why.text);
	else
		code = job_run(spec);
	for (uint32_t i = 0; i < spec->n_apps; i++) {
		strings_fini(&spec->apps[i].argv);
		strings_fini(&spec->apps[i].env);
	}
	strings_fini(&spec->genv);
	free(spec);
	return code;
}
