/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What each launcher is told, and what its end means: ssh, the user's words, srun.
 *
 *   ssh -x HOST "exec '/path/godwitd' --join=ADDRESS:PORT --job=J --cluster=C --count=N"                one for each host
 *   srun --nodelist=A,B ... /path/godwitd --join=... --job=J --cluster=C --count=N --hosts=A,B           one for all
 *
 * srun is one process and one step for all nodes: that is how its step is accounted and cancelled as what it is, one job,
 * and it is faster than a step for each. Each daemon finds its own name among --hosts. srun hands its standard input, with
 * the secret, to all of them.
 */
#include <stdlib.h>

#include "runtime/launcher/head.h"
#include "runtime/launcher/starter.h"

extern char **environ;

/* ---- words ------------------------------------------------------------------------------------------------------------ */

static void GW_PRINTF(2, 3) add(struct strings *argv, const char *fmt, ...)
{
	gw_autofree char *word = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&word, fmt, ap);
	va_end(ap);
	if (n < 0 || strings_add(argv, word) < 0)
		abort();
}

/* What godwitd is told, whoever starts it */
static void add_daemon(struct strings *argv, const struct head *h, const struct launch *l)
{
	add(argv, "--join=%s", l->to);
	add(argv, "--job=%08x", h->job);
	add(argv, "--cluster=%u", l->first_cluster);
	add(argv, "--count=%u", l->count);
	if (l->is_sharing)
		add(argv, "--share");
}

/* Where a shell reads it: after ssh, and in place of %c */
static char *daemon_line(const struct head *h, const struct launch *l)
{
	struct strings words = { 0 };
	gw_autofree char *path = starter_quote(l->path);
	char *line = NULL;

	add_daemon(&words, h, l);
	if (asprintf(&line, "exec %s %s %s %s %s%s", path, words.list[0], words.list[1], words.list[2], words.list[3],
	             l->is_sharing ? " --share" : "") < 0)
		abort();
	strings_fini(&words);
	return line;
}

static void add_shell(struct strings *argv, const struct head *h, const struct launch *l)
{
	gw_autofree char *line = daemon_line(h, l);

	starter_words(argv, l->hosts[0].launcher, l->hosts[0].name, line);
}

/* "A,B,C" */
static char *list_hosts(const struct launch *l)
{
	char *names = NULL;

	for (uint32_t i = 0; i < l->n_hosts; i++) {
		gw_autofree char *before = names;

		if (asprintf(&names, "%s%s%s", before ? before : "", before ? "," : "", l->hosts[i].name) < 0)
			abort();
	}
	return names;
}

/*
 * One daemon on each node, with all that the job has of it, beside whatever else runs there. It decides itself who runs
 * where, and one that ends shall not take the others along.
 */
static void add_srun(struct strings *argv, const struct head *h, const struct launch *l)
{
	static const char *const fixed[] = { "--ntasks-per-node=1", "--overlap", "--cpu-bind=none", "--mpi=none", "--distribution=block",
	                                     "--kill-on-bad-exit=0", "--no-kill", "--wait=0", "--export=ALL", "--chdir=/",
	                                     "--job-name=godwitd", "--quiet" };
	gw_autofree char *names = list_hosts(l);

	add(argv, "srun");
	add(argv, "--nodelist=%s", names);
	add(argv, "--nodes=%u", l->n_hosts);
	add(argv, "--ntasks=%u", l->n_hosts);
	for (size_t i = 0; i < GW_ARRAY_LEN(fixed); i++)
		add(argv, "%s", fixed[i]);
	add(argv, "%s", l->path);
	add_daemon(argv, h, l);
	add(argv, "--hosts=%s", names);
}

void launchers_words(struct strings *argv, const struct head *h, const struct launch *l)
{
	(l->hosts[0].is_slurm ? add_srun : add_shell)(argv, h, l);
}

/*
 * For srun every variable of the allocation is an option: a number of tasks for each node or processors for each task, where
 * sbatch was told one, would cut our step down to it. It is told all that it needs, but where it is.
 */
void launchers_clean_environment(const struct head *h)
{
	static const char *const kept[] = { "SLURM_JOB_ID=", "SLURM_JOBID=", "SLURM_CONF=", "SLURM_CONF_SERVER=", "SLURM_WORKING_CLUSTER=",
	                                    "SLURM_CLUSTERS=", "SLURM_JWT=", "SLURM_NETWORK=" };
	char **to = environ;

	if (!h->spec->is_slurm)
		return;
	for (char **e = environ; *e; e++) {
		bool is_kept = strncmp(*e, "SLURM_", 6) != 0 && strncmp(*e, "SRUN_", 5) != 0;

		for (size_t i = 0; i < GW_ARRAY_LEN(kept); i++)
			is_kept |= strncmp(*e, kept[i], strlen(kept[i])) == 0;
		if (is_kept)
			*to++ = *e;
	}
	*to = NULL;
}

/* ---- its end ---------------------------------------------------------------------------------------------------------- */

static void explain_srun(const struct launch *l, const char *nodes, const char *end, const char *last, struct gw_error *why)
{
	static const char *const begins[] = { "srun: ", "slurmstepd: ", "error: " }; /* with several hosts slurmstepd names its own */

	gw_autofree char *all = list_hosts(l);
	const char *plural;

	nodes = nodes ? nodes : all;
	plural = strpbrk(nodes, "[,") ? "s" : "";
	for (size_t i = 0; i < GW_ARRAY_LEN(begins); i++)
		if (strncmp(last, begins[i], strlen(begins[i])) == 0)
			last += strlen(begins[i]);
	if (strstr(last, "Invalid job id"))
		gw_fail(why, -EIO, "the Slurm allocation %s is over: %s", slurm_job(), last);
	else if (strstr(last, "execve") && strstr(last, "No such file"))
		gw_fail(why, -EIO, "host%s %s: there is no godwitd at the place where it is here; Godwit is needed at the same path on all "
		        "hosts (%s)", plural, nodes, last);
	else if (strstr(last, "Requested node configuration is not available"))
		gw_fail(why, -EIO, "host%s %s: not in the Slurm allocation %s, or down (srun: %s)", plural, nodes, slurm_job(), last);
	else if (last[0])
		gw_fail(why, -EIO, "host%s %s: no daemon could be started with srun: %s", plural, nodes, last);
	else
		gw_fail(why, -EIO, "host%s %s: no daemon could be started: 'srun' %s", plural, nodes, end);
}

void launchers_explain(const struct launch *l, const char *nodes, int status, const char *last, struct gw_error *why)
{
	char end[128];

	if (l->hosts[0].is_slurm)
		explain_srun(l, nodes, rt_end_describe(status, true, end, sizeof(end)), last, why);
	else
		starter_explain(l->hosts[0].launcher, l->hosts[0].name, status, last, why);
}
