/* SPDX-License-Identifier: BSD-2-Clause */
/* The options of mpirun, as a table: those of MPICH's mpiexec, and what users of Open MPI type out of habit. */
#include "runtime/launcher/options_table.h"

#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- values ---------------------------------------------------------------------------------------------------------- */

static int parse_count(struct parser *p, const char *text, const char *what, uint32_t max, uint32_t *out)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || end == text || !isdigit((unsigned char)text[0]) || v == 0 || v > max)
		return gw_fail(p->why, -EINVAL, "%s '%s' is not a number from 1 to %u", what, text, max);
	*out = (uint32_t)v;
	return 0;
}

static int set_n(struct parser *p, const char *v)
{
	return parse_count(p, v, "the number of ranks", OPTIONS_RANKS_MAX, &options_app(p)->n);
}
static int set_clusters(struct parser *p, const char *v)
{
	return parse_count(p, v, "the number of clusters", OPTIONS_CLUSTERS_MAX, &p->spec->clusters);
}
static int set_machine(struct parser *p, const char *v) { p->spec->machine_name = v; return 0; }
static int set_ppn(struct parser *p, const char *v)
{
	return parse_count(p, v, "the number of ranks of a host or cluster", OPTIONS_RANKS_MAX, &p->spec->ppn);
}
static int set_universe(struct parser *p, const char *v)
{
	if (strcmp(v, "SYSTEM") == 0 || strcmp(v, "INFINITE") == 0)
		return 0;
	return parse_count(p, v, "the size of the universe", OPTIONS_RANKS_MAX, &p->spec->universe);
}
static int set_surviving(struct parser *p, const char *v) { (void)v; p->spec->is_surviving = true; return 0; }
static int set_timeout(struct parser *p, const char *v)
{
	return parse_count(p, v, "the number of seconds", 4000000, &p->spec->timeout_s);
}
static int set_wdir(struct parser *p, const char *v) { options_app(p)->wdir = v; return 0; }
static int set_reconnecting(struct parser *p, const char *v) { p->spec->reconnecting = v; return 0; }
static int set_carrying(struct parser *p, const char *v) { (void)v; p->spec->is_carrying = true; return 0; }
static int set_pin(struct parser *p, const char *v) { p->spec->pinned = v; return 0; }
static int set_baseline(struct parser *p, const char *v)
{
	p->spec->baseline = strcmp(v, "auto") == 0 ? BASELINE_AUTO : BASELINE_HOST;
	if (p->spec->baseline == BASELINE_HOST && strcmp(v, "host") != 0)
		return gw_fail(p->why, -EINVAL, "'%s %s': it is auto (the processor features that all hosts share) or host (those of the "
		               "host where a rank starts)", p->word, v);
	return 0;
}
static int set_label(struct parser *p, const char *v) { (void)v; p->spec->label = "[%r] "; return 0; }
static int set_pattern(struct parser *p, const char *v) { p->spec->label = v; return 0; }
static int set_outfile(struct parser *p, const char *v) { p->spec->file[0] = v; return 0; }
static int set_errfile(struct parser *p, const char *v) { p->spec->file[1] = v; return 0; }
static int set_input(struct parser *p, const char *v) { p->spec->input = v; return 0; }
static int set_bind(struct parser *p, const char *v) { p->spec->bind = v; return 0; }
static int set_map(struct parser *p, const char *v)
{
	p->spec->is_ppn_of_clusters = strcmp(v, "cluster") == 0;
	if (p->spec->is_ppn_of_clusters || strcmp(v, "node") == 0)
		p->spec->ppn = 1;
	else if (strcmp(v, "slot") != 0)
		p->spec->map = v;
	return 0;
}
static int set_balance(struct parser *p, const char *v)
{
	return bal_strategy_parse(v, &p->spec->balance) < 0 ?
	       gw_fail(p->why, -EINVAL, "%s: there is no strategy '%s': off, greedy, refine, comm and consolidate are", p->word, v) : 0;
}
static int set_balance_every(struct parser *p, const char *v)
{
	if (options_duration(v, &p->spec->balance_every_ms, p->why) < 0)
		return gw_fail_more(p->why, "%s: ", p->word);
	return p->spec->balance_every_ms < 1000 ? gw_fail(p->why, -EINVAL, "%s: the shortest time is 1s", p->word) : 0;
}
static int set_drain_file(struct parser *p, const char *v)
{
	p->spec->drain_file = v;
	return *v ? 0 : gw_fail(p->why, -EINVAL, "%s needs the name of a file", p->word);
}
static int set_meet(struct parser *p, const char *v)
{
	p->spec->meet = v;
	return *v ? 0 : gw_fail(p->why, -EINVAL, "%s needs the name of a directory", p->word);
}
static int set_metrics(struct parser *p, const char *v)
{
	p->spec->metrics = v;
	return *v ? 0 : gw_fail(p->why, -EINVAL, "%s needs the name of a file", p->word);
}
static int set_metrics_every(struct parser *p, const char *v)
{
	if (options_duration(v, &p->spec->metrics_every_ms, p->why) < 0)
		return gw_fail_more(p->why, "%s: ", p->word);
	return p->spec->metrics_every_ms < 1000 ? gw_fail(p->why, -EINVAL, "%s: the shortest time is 1s", p->word) : 0;
}
static int set_checkpoint_dir(struct parser *p, const char *v) { p->spec->checkpoint_dir = v; return 0; }
static int set_checkpoint_keep(struct parser *p, const char *v)
{
	return parse_count(p, v, "the number of checkpoints to keep", 100000, &p->spec->checkpoint_keep);
}
static int set_checkpoint_every(struct parser *p, const char *v)
{
	return options_duration(v, &p->spec->checkpoint_every_ms, p->why) < 0 ? gw_fail_more(p->why, "%s: ", p->word) : 0;
}
static int set_checkpoint_on(struct parser *p, const char *v)
{
	p->spec->is_checkpoint_on_said = true;
	return options_signals(v, &p->spec->checkpoint_on, p->why) < 0 ? gw_fail_more(p->why, "%s: ", p->word) : 0;
}
static int set_record(struct parser *p, const char *v)
{
	p->spec->record = v;
	return *v ? 0 : gw_fail(p->why, -EINVAL, "%s: name a file, a directory, or none", p->word);
}
static int set_codes(struct parser *p, const char *v) { (void)v; p->spec->is_printing_codes = true; return 0; }
static int set_verbose(struct parser *p, const char *v) { (void)v; p->spec->is_verbose = true; return 0; }
static int set_nothing(struct parser *p, const char *v) { (void)p; (void)v; return 0; }
static int set_config(struct parser *p, const char *v)
{
	if (p->is_file)
		return gw_fail(p->why, -EINVAL, "-configfile inside a configuration file is not possible");
	p->spec->config = v;
	return 0;
}

static int set_launcher(struct parser *p, const char *v)
{
	p->spec->is_launcher_said = true;
	p->spec->is_forked = strcmp(v, "fork") == 0;
	p->spec->is_slurm = strcmp(v, "slurm") == 0;
	p->spec->launcher = NULL;
	if (p->spec->is_forked || p->spec->is_slurm || strcmp(v, "ssh") == 0)
		return 0;
	if (hosts_is_launcher(v)) {
		p->spec->launcher = v;
		return 0;
	}
	return gw_fail(p->why, -ENOTSUP, "'%s %s': there are fork, ssh, slurm, and commands in which the words %%h (the host) and %%c (what "
	               "to run there) stand, as '%s \"ssh -p 2222 %%h %%c\"'", p->word, v, p->word);
}

static int set_restart(struct parser *p, const char *v) { p->spec->restart_dir = v; return 0; }
static int set_pool(struct parser *p, const char *v) { p->spec->pool = v; return 0; }
static int set_hosts(struct parser *p, const char *v) { return hosts_parse(p->spec, v, p->why); }
static int set_hostfile(struct parser *p, const char *v) { return hosts_read(p->spec, v, p->why); }

/*
 * Names of this machine alone are welcome: many a script says "-host localhost". With '-launcher fork' each name is a host
 * that this machine plays: no memory is shared between them.
 */
static int check_hosts(struct job_spec *spec, struct gw_error *why)
{
	if (spec->pool && spec->n_hosts && spec->pool == getenv("GODWIT_POOL"))
		spec->pool = NULL; /* hosts that are named now are meant */
	if (spec->pool && spec->n_hosts)
		return gw_fail(why, -EINVAL, "-pool and hosts exclude each other: the pool says which hosts there are");
	if (spec->pool)
		return 0;
	if (slurm_take(spec, why) < 0)
		return why->code;
	for (uint32_t i = 0; i < spec->n_hosts && !spec->is_forked; i++)
		spec->is_remote |= spec->is_slurm || !hosts_is_here(spec->hosts[i].name);
	if (!spec->is_forked && !spec->is_remote)
		hosts_forget(spec);
	if (!spec->n_hosts)
		spec->n_hosts = 1;
	return 0;
}

static int check_checkpoints(struct job_spec *spec, struct gw_error *why)
{
	if (spec->metrics_every_ms && !spec->metrics)
		return gw_fail(why, -EINVAL, "-metrics-every needs -metrics, which says where to");
	if (spec->balance_every_ms && spec->balance == BAL_OFF)
		return gw_fail(why, -EINVAL, "-balance-every needs -balance, which says how");
	if (!spec->checkpoint_dir && (spec->checkpoint_every_ms || spec->is_checkpoint_on_said || spec->checkpoint_keep))
		return gw_fail(why, -EINVAL, "-checkpoint-%s needs -checkpoint-dir DIR: a directory that all hosts of the job see",
		               spec->checkpoint_every_ms ? "every" : spec->is_checkpoint_on_said ? "on" : "keep");
	if (spec->checkpoint_dir && !spec->is_checkpoint_on_said && slurm_job())
		spec->checkpoint_on = 1u << SIGUSR1 | 1u << SIGTERM;
	if (!spec->checkpoint_keep)
		spec->checkpoint_keep = 1;
	return 0;
}

static int refuse_mca(struct parser *p, const char *v)
{
	return gw_fail(p->why, -ENOTSUP, "'%s %s' sets a component of Open MPI, which has no meaning here; leave it out", p->word, v);
}

static int refuse_nameserver(struct parser *p, const char *v)
{
	(void)v;
	return gw_fail(p->why, -ENOTSUP, "'%s': published names need no server here; those of jobs of other machines are found with -meet DIR",
	               p->word);
}

static int refuse(struct parser *p, const char *v)
{
	(void)v;
	return gw_fail(p->why, -ENOTSUP, "the option '%s' of other launchers is not supported here; leave it out", p->word);
}

const struct option options_table[] = {
	{ .help = "Programs" },
	{ "n np c", "N", set_n, "start N ranks of this program (default 1; in a Slurm allocation, its tasks)", .is_local = true },
	{ "wdir wd", "DIR", set_wdir, "start this program in DIR", .is_local = true },
	{ "configfile", "FILE", set_config, "read options and programs from FILE, one program a line" },
	{ .help = "Environment" },
	{ "env", "K V", options_set_env, "set a variable for this program; also K=V", .is_local = true, .takes_more = true },
	{ "envlist", "A,B,...", options_set_envlist, "let this program inherit these variables only", .is_local = true },
	{ "envnone", NULL, options_set_envnone, "let it inherit none", .is_local = true },
	{ "envall", NULL, options_set_envall, "let it inherit all (default)", .is_local = true },
	{ "genv", "K V", options_set_genv, "set a variable for all ranks; also K=V", .takes_more = true },
	{ "genvlist", "A,B,...", options_set_genvlist, "let all programs inherit these variables only" },
	{ "genvnone", NULL, options_set_genvnone, "let them inherit none" },
	{ "genvall", NULL, options_set_genvall, "let them inherit all (default)" },
	{ "x", "K[=V]", options_set_x, "pass a variable to all ranks, with a new value if one is given" },
	{ .help = "Input and output" },
	{ "prepend-rank l tag-output", NULL, set_label, "begin each line of output with the rank that wrote it" },
	{ "prepend-pattern", "TEXT", set_pattern, "begin it with TEXT, where %r is the rank, %p its cluster, %h the host, %g the group, "
	  "%t the time" },
	{ "outfile-pattern outfile", "FILE", set_outfile, "write standard output to FILE, with the same words in its name" },
	{ "errfile-pattern errfile", "FILE", set_errfile, "write standard error to FILE" },
	{ "s stdin", "RANKS", set_input, "give standard input to RANKS: 0 (default), all, none, or a list as 0,3-5" },
	{ .help = "Places" },
	{ "hosts host hostlist machines machinelist H", "HOST,...", set_hosts, "run on these hosts; HOST:N: N ranks there before the "
	  "next has its turn" },
	{ "f hostfile machinefile", "FILE", set_hostfile, "the same from a file, one HOST, HOST:N or HOST slots=N a line" },
	{ "launcher bootstrap", "X", set_launcher, "how other hosts are reached: ssh (default), slurm (default in its allocations), a command "
	  "with %h (host) and %c (what to run), or fork: this machine plays all of them" },
	{ "pool", "NAME", set_pool, "run in the pool NAME that 'godwit up' has made; any: the only one of this host (also GODWIT_POOL)" },
	{ "clusters", "N", set_clusters, "cut each host into N clusters (default 1); clusters share cores when there are fewer" },
	{ "machine", "NAME", set_machine, "lay the clusters out as the machine file NAME says: mppa256, torus4x4, mesh3x4, tree2x4, or a file of "
	  "yours; over all hosts (doc/balance.md)" },
	{ "ppn N npernode perhost", "N", set_ppn, "start N ranks on a host, or where there is only one on a cluster, before the next has its turn (default: spread evenly)" },
	{ "bind-to binding", "WHAT", set_bind, "bind each rank within its cluster: none (default), hwthread, core, l1cache to l5cache, numa, "
	  "socket, with :N for several; rr; user:0+2,1,..." },
	{ "map-by", "WHAT", set_map, "go from one WHAT to the next for successive ranks of a cluster (default: as bound); or from one cluster to the next" },
	{ .help = "The job" },
	{ "reconnecting", "PATH:PATH...", set_reconnecting, "UNIX sockets that do not hold a rank: after a move their peer appears to have "
	  "closed (also GODWIT_RECONNECTING)" },
	{ "carry-files", NULL, set_carrying, "files that a rank has open and another host does not see travel with it (see godwit(1), migrate)" },
	{ "pin", "RANKS", set_pin, "keep RANKS where they begin, until 'godwit unpin': all, or a list as 0,3-5" },
	{ "cpu-baseline", "WHAT", set_baseline, "processor features that libraries of the ranks keep to: auto, what all hosts share (default "
	  "where they differ), or host, what the host has where the rank starts" },
	{ "balance", "HOW", set_balance, "move ranks so that the job gets faster: refine, greedy, comm (those who talk much come together), "
	  "consolidate (few clusters), off (default)" },
	{ "balance-every", "TIME", set_balance_every, "look at it every TIME: 5s, 1m (default 10s)" },
	{ "drain-file", "FILE", set_drain_file, "empty the hosts that FILE names, one a line, as 'node17' or 'node17 120s', as soon as it does; it is "
	  "read every second" },
	{ "meet", "DIR", set_meet, "let jobs of other machines find this one, and this one them, by files in DIR, which these share "
	  "(MPI_Comm_connect, MPI_Lookup_name; also GODWIT_MEET)" },
	{ "metrics", "FILE", set_metrics, "write what clusters and ranks do to FILE, for Prometheus (%j in it: the job's number)" },
	{ "metrics-every", "TIME", set_metrics_every, "every TIME: 5s, 1m (default 10s)" },
	{ "checkpoint-dir", "DIR", set_checkpoint_dir, "write the job down in DIR, which all its hosts see, when the next options or "
	  "'godwit checkpoint' say so" },
	{ "checkpoint-every", "TIME", set_checkpoint_every, "write it down every TIME: 90s, 10m, 2h" },
	{ "checkpoint-keep", "N", set_checkpoint_keep, "keep the last N checkpoints (default 1)" },
	{ "checkpoint-on", "SIGNAL,...", set_checkpoint_on, "at one of these signals write it down and end with status 75: USR1, USR2, TERM, "
	  "INT, HUP, QUIT, or none (default: none, in a Slurm allocation USR1,TERM)" },
	{ "restart", "DIR", set_restart, "continue the job that 'godwit checkpoint' wrote to DIR; name no program (also: godwit restart)" },
	{ "record", "FILE|DIR|none", set_record, "keep the job's history for 'godwit report' there (default: $XDG_STATE_HOME/godwit/jobs, "
	  "the last 32 jobs; also GODWIT_RECORD)" },
	{ "timeout", "SECONDS", set_timeout, "end the job when it has run for so long" },
	{ "print-all-exitcodes", NULL, set_codes, "say how each rank ended" },
	{ "usize", "N", set_universe, "what MPI_UNIVERSE_SIZE shall say, and room for so many ranks, spawned ones among them" },
	{ "disable-auto-cleanup dac", NULL, set_surviving, "the end of a rank is not that of the others" },
	{ "verbose v debug report-bindings display-map", NULL, set_verbose, "say where ranks are started" },
	{ "version V info", NULL, options_show_version, "print the version" },
	{ "help h ?", NULL, options_show_help, "print this" },
	/* harmless here */
	{ "oversubscribe allow-run-as-root enable-x disable-x enable-auto-cleanup disable-hostname-propagation "
	  "enable-hostname-propagation quiet q nooversubscribe skip-launch-node pmi-port", NULL, set_nothing },
	{ "topolib demux rmk order-nodes localhost", "X", set_nothing },
	/* with a meaning that cannot be given, or not yet */
	{ "mca gmca pmixmca", "K V", refuse_mca },
	{ "nameserver", "HOST", refuse_nameserver },
	{ "launcher-exec bootstrap-exec iface membind gpus-per-proc g output-from output-filename rankfile rf", "X", refuse },
	{ "profile enable-recovery do-not-launch", NULL, refuse },
};
const size_t options_table_rows = GW_ARRAY_LEN(options_table);

/* ---- the command line ------------------------------------------------------------------------------------------------ */

static bool has_name(const struct option *o, const char *word, size_t len)
{
	for (const char *name = o->names; name && *name; name += strcspn(name, " "), name += *name == ' ')
		if (strcspn(name, " ") == len && strncmp(name, word, len) == 0)
			return true;
	return false;
}

static const struct option *find(const char *word, size_t len)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(options_table); i++)
		if (options_table[i].names && has_name(&options_table[i], word, len))
			return &options_table[i];
	return NULL;
}

/* "there is no option ...", with one that begins like it, or as which it begins, if there is one */
static int refuse_unknown(struct parser *p, const char *word, size_t len)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(options_table) && len > 2; i++)
		for (const char *name = options_table[i].help ? options_table[i].names : NULL; name && *name;
		     name += strcspn(name, " "), name += *name == ' ') {
			size_t n = strcspn(name, " ");

			if (n > 2 && strncmp(name, word, n < len ? n : len) == 0)
				return gw_fail(p->why, -EINVAL, "there is no option '%s'; did you mean '-%.*s'? 'mpirun -help' lists the options",
				               p->word, (int)n, name);
		}
	return gw_fail(p->why, -EINVAL, "there is no option '%s'; 'mpirun -help' lists the options", p->word);
}

/* Return what the handler of the option returns. */
static int parse_option(struct parser *p, bool *given)
{
	const char *name = p->word + (p->word[1] == '-' ? 2 : 1), *value = NULL;
	const struct option *o = find(name, strcspn(name, "="));

	if (!o)
		return refuse_unknown(p, name, strcspn(name, "="));
	p->inlined = strchr(name, '=');
	if (p->inlined && !o->values)
		return gw_fail(p->why, -EINVAL, "the option '%s' takes no value", p->word);
	if (p->inlined)
		p->inlined++;
	if (o->values && !o->takes_more) {
		value = options_next_value(p);
		if (!value)
			return gw_fail(p->why, -EINVAL, "the option '%s' needs a value; 'mpirun -help' lists the options", p->word);
	}
	if (!o->is_local && !o->takes_more) {
		if (p->is_file && given[o - options_table])
			return 0; /* the command line has said it */
		if (!p->is_file)
			given[o - options_table] = true;
	}
	return o->set(p, value);
}

/* All that the checkpoint says itself. */
static int check_restart(struct parser *p, const struct app *app)
{
	const struct job_spec *spec = p->spec;
	const char *what = app->argv.n ? app->argv.list[0] : app->n ? "-n" : app->wdir ? "-wdir" : spec->config ? "-configfile" :
	                   app->env.n || spec->genv.n || app->inherit || spec->inherit ? "the environment" : spec->input ? "-stdin" :
	                   p->at < p->end ? ":" : NULL;

	if (what)
		return gw_fail(p->why, -EINVAL, "a job that is continued has its programs, ranks and environment from the checkpoint in '%s'; "
		               "leave out %s", spec->restart_dir, what);
	return 0;
}

static int add_app(struct parser *p)
{
	struct job_spec *spec = p->spec;
	struct app *more = realloc(spec->apps, (spec->n_apps + 1) * sizeof(*more));

	if (!more)
		return gw_fail(p->why, -ENOMEM, "out of memory");
	spec->apps = more;
	more[spec->n_apps++] = (struct app){ 0 };
	return 0;
}

/* One program with its options, up to a ':' of its own. */
static int parse_app(struct parser *p, bool *given)
{
	int code = add_app(p);
	struct app *app;

	while (code == 0 && p->at < p->end && p->argv[p->at][0] == '-' && p->argv[p->at][1]) {
		p->word = p->argv[p->at++];
		if (strcmp(p->word, "--") == 0)
			break;
		code = parse_option(p, given);
	}
	if (code != 0)
		return code;
	app = options_app(p);
	while (p->spec->restart_dir && p->at < p->end && strcmp(p->argv[p->at], ":") != 0)
		if (strings_add(&app->argv, p->argv[p->at++]) < 0)
			return gw_fail(p->why, -ENOMEM, "out of memory");
	if (p->spec->restart_dir)
		return check_restart(p, app);
	p->spec->is_size_unsaid = app->n == 0 && p->spec->n_apps == 1;
	app->n += app->n == 0;
	while (p->at < p->end && strcmp(p->argv[p->at], ":") != 0)
		if (strings_add(&app->argv, p->argv[p->at++]) < 0)
			return gw_fail(p->why, -ENOMEM, "out of memory");
	if (app->argv.n == 0 && !(p->spec->config && !p->is_file && p->spec->n_apps == 1 && p->at == p->end))
		return gw_fail(p->why, -EINVAL, "no program is named%s; 'mpirun -help' shows how",
		               p->spec->n_apps > 1 ? " after ':'" : "");
	if (p->spec->size + app->n > OPTIONS_RANKS_MAX)
		return gw_fail(p->why, -EINVAL, "a job has at most %u ranks", OPTIONS_RANKS_MAX);
	p->spec->size += app->n;
	return 0;
}

static int parse_words(struct parser *p, bool *given)
{
	int code = parse_app(p, given);

	while (code == 0 && p->at < p->end) {
		p->at++; /* the ':' */
		code = parse_app(p, given);
	}
	return code;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

/* Variables that people set for mpiexec once and for all; an option wins. */
static int defaults(struct parser *p)
{
	static const struct { const char *name; const char *option; } variables[] = {
		{ "GODWIT_POOL", "pool" }, { "GODWIT_MEET", "meet" }, { "GODWIT_RECORD", "record" }, { "MPIEXEC_TIMEOUT", "timeout" }, { "MPIEXEC_UNIVERSE_SIZE", "usize" },
		{ "HYDRA_BINDING", "bind-to" }, { "HYDRA_MAPPING", "map-by" },
	};

	if (getenv("MPIEXEC_PREFIX_DEFAULT"))
		set_label(p, NULL);
	for (size_t i = 0; i < GW_ARRAY_LEN(variables); i++) {
		const char *value = getenv(variables[i].name);
		int code;

		/* hydra takes -1 for no limit */
		if (!value || !*value || strcmp(value, "-1") == 0)
			continue;
		p->word = variables[i].name;
		code = find(variables[i].option, strlen(variables[i].option))->set(p, value);
		if (code < 0)
			return gw_fail_more(p->why, "the variable %s: ", variables[i].name);
	}
	return 0;
}

int options_parse(struct job_spec *spec, int argc, char **argv, struct gw_error *why)
{
	struct parser p = { .spec = spec, .argv = argv, .at = 1, .end = argc, .why = why };
	bool given[GW_ARRAY_LEN(options_table)] = { false };
	int code = defaults(&p);

	if (code == 0)
		code = parse_words(&p, given);
	if (code == 0 && !spec->config)
		code = layout_read(spec, why);
	if (code == 0 && !spec->config)
		code = check_hosts(spec, why);
	if (code == 0 && !spec->config)
		code = check_checkpoints(spec, why);
	if (code != 0 || !spec->config)
		return code;
	if (spec->apps[0].argv.n)
		return gw_fail(why, -EINVAL, "programs are named on the command line and in '%s'; only one of them can be", spec->config);
	strings_fini(&spec->apps[0].env);
	spec->n_apps = spec->size = 0;
	code = options_read_config(spec, why);
	if (code < 0)
		return code;
	p = (struct parser){ .spec = spec, .argv = spec->words.list, .end = (int)spec->words.n, .is_file = true, .why = why };
	code = parse_words(&p, given);
	if (code == 0)
		code = layout_read(spec, why);
	if (code == 0)
		code = check_hosts(spec, why);
	if (code == 0)
		code = check_checkpoints(spec, why);
	return code < 0 ? gw_fail_more(why, "'%s': ", spec->config) : code;
}

void options_fini(struct job_spec *spec)
{
	free(spec->hosts);
	free(spec->pool_launcher);
	bal_machine_destroy(spec->machine);
	for (uint32_t i = 0; i < spec->n_apps; i++) {
		strings_fini(&spec->apps[i].argv);
		strings_fini(&spec->apps[i].env);
	}
	free(spec->apps);
	strings_fini(&spec->genv);
	strings_fini(&spec->words);
}
