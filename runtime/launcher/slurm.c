/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a Slurm allocation says of its nodes, in the variables of its environment, and what that means for a job.
 *
 * The lists are read here and not by 'scontrol show hostnames': the syntax is small and older than any Slurm that is in use,
 * and a process for it would be the slowest part of reading a command line.
 */
#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/options.h"

#define NAME_MAX_BYTES sizeof(((struct host_spec *)0)->name)

/* ---- lists: pure ----------------------------------------------------------------------------------------------------- */

static int fail_list(struct gw_error *why, const char *list)
{
	return gw_fail(why, -EINVAL, "'%s' is not a list of Slurm nodes", list);
}

/* Digits, at most nine. Return how many there are. */
static size_t read_digits(const char *at, unsigned long *out)
{
	size_t n = strspn(at, "0123456789");

	if (n > 9)
		return 0;
	*out = n ? strtoul(at, NULL, 10) : 0;
	return n;
}

/* What stands before @word has been written to name[0 .. len): go on from there, once for each number of a bracket. */
static int expand(char *name, size_t len, const char *word, size_t word_len, struct strings *out)
{
	const char *open = memchr(word, '[', word_len), *close = open ? memchr(open, ']', word_len - (size_t)(open - word)) : NULL;
	size_t plain = open ? (size_t)(open - word) : word_len;

	if (len + plain >= NAME_MAX_BYTES || memchr(word, ']', plain) || (open && !close))
		return -EINVAL;
	memcpy(name + len, word, plain);
	len += plain;
	if (!open) {
		name[len] = '\0';
		if (len == 0 || name[0] == '-' || out->n >= OPTIONS_CLUSTERS_MAX)
			return -EINVAL;
		return strings_add(out, name);
	}
	for (const char *at = open + 1; at <= close; at++) { /* "1-3" or "7", then a comma or the end */
		unsigned long first, last;
		size_t width = read_digits(at, &first), n;
		int code = 0;

		at += width;
		last = first;
		if (width && *at == '-') {
			n = read_digits(++at, &last);
			at += n;
			if (n < width)
				return -EINVAL;
		}
		if (width == 0 || last < first || last - first >= OPTIONS_CLUSTERS_MAX || (*at != ',' && at != close))
			return -EINVAL;
		for (unsigned long i = first; i <= last && code == 0; i++) {
			n = (size_t)snprintf(name + len, NAME_MAX_BYTES - len, "%0*lu", (int)width, i);
			code = len + n >= NAME_MAX_BYTES ? -EINVAL
			                                 : expand(name, len + n, close + 1, word_len - (size_t)(close + 1 - word), out);
		}
		if (code < 0)
			return code;
	}
	return 0;
}

int slurm_nodes(struct strings *out, const char *list, struct gw_error *why)
{
	char name[NAME_MAX_BYTES];

	for (const char *at = list;; at++) {
		size_t n = 0;
		int code;

		for (int depth = 0; at[n] && (depth > 0 || at[n] != ','); n++)
			depth += at[n] == '[' ? 1 : at[n] == ']' ? -1 : 0;
		code = expand(name, 0, at, n, out);
		if (code < 0)
			return code == -ENOMEM ? gw_fail(why, code, "out of memory") : fail_list(why, list);
		at += n;
		if (!*at)
			return 0;
	}
}

int slurm_counts(uint32_t *counts, size_t n, const char *list)
{
	size_t at = 0;

	for (const char *p = list; p == list || p[-1] == ','; p += *p == ',') {
		unsigned long count, times = 1;
		size_t digits = read_digits(p, &count);

		p += digits;
		if (digits == 0 || count > OPTIONS_RANKS_MAX)
			return -EINVAL;
		if (strncmp(p, "(x", 2) == 0) {
			digits = read_digits(p + 2, &times);
			p += 2 + digits;
			if (digits == 0 || *p++ != ')')
				return -EINVAL;
		}
		if (times > n - at || (*p && *p != ','))
			return -EINVAL;
		while (times--)
			counts[at++] = (uint32_t)count;
		if (!*p)
			return at == n ? 0 : -EINVAL;
	}
	return -EINVAL;
}

/* "srun: error: rig[2-3]: tasks 0-1: Exited with exit code 1": of which nodes? */
bool slurm_is_task_end(const char *line, char *nodes, size_t cap)
{
	static const char begin[] = "srun: error: ";
	const char *at = line + sizeof(begin) - 1, *end;

	if (strncmp(line, begin, sizeof(begin) - 1) != 0)
		return false;
	end = strstr(at, ": task");
	if (!end || end == at || (size_t)(end - at) >= cap || memchr(at, ' ', (size_t)(end - at)))
		return false;
	snprintf(nodes, cap, "%.*s", (int)(end - at), at);
	return true;
}

bool slurm_is_chatter(const char *line)
{
	static const char *const said[] = { "*** STEP ", "*** JOB ", "Job step aborted", "Force Terminated", ": task ", ": tasks ",
	                                    "forcing job termination", "Timed out waiting for job step to complete",
	                                    "lacks support for cpu binding" /* what we ask for is that there be none */ };

	if (strncmp(line, "srun: ", 6) != 0 && strncmp(line, "slurmstepd", 10) != 0) /* slurmstepd-NODE, where there are several */
		return false;
	for (size_t i = 0; i < GW_ARRAY_LEN(said); i++)
		if (strstr(line, said[i]))
			return true;
	return false;
}

/* ---- the allocation -------------------------------------------------------------------------------------------------- */

static const char *variable(const char *name, const char *older)
{
	const char *value = getenv(name);

	value = value && *value ? value : getenv(older);
	return value && *value ? value : NULL;
}

const char *slurm_job(void)
{
	return variable("SLURM_JOB_ID", "SLURM_JOBID");
}

static uint32_t number(const char *name)
{
	const char *value = getenv(name);
	unsigned long n = 0;

	return value && read_digits(value, &n) == strlen(value) ? (uint32_t)n : 0;
}

static bool is_in_path(const char *program)
{
	const char *path = getenv("PATH");
	char file[4096];

	for (const char *at = path ? path : ""; *at; at += strcspn(at, ":"), at += *at == ':') {
		snprintf(file, sizeof(file), "%.*s/%s", (int)strcspn(at, ":"), at, program);
		if (access(file, X_OK) == 0)
			return true;
	}
	return false;
}

/* What srun has started is a step, and the variables of tasks are the step's then. */
static bool is_in_step(void)
{
	return getenv("SLURM_STEP_NUM_TASKS") && number("SLURM_STEP_NUM_TASKS") > 0;
}

/* Ranks for each node: as many as tasks were asked for; in a step, as many as the processors of the allocation carry. */
static int read_slots(uint32_t *slots, size_t n)
{
	const char *tasks = getenv("SLURM_TASKS_PER_NODE"), *cpus = getenv("SLURM_JOB_CPUS_PER_NODE");
	uint32_t each = number("SLURM_CPUS_PER_TASK");

	if (tasks && !is_in_step() && slurm_counts(slots, n, tasks) == 0)
		each = 1;
	else if (!cpus || slurm_counts(slots, n, cpus) < 0)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		slots[i] /= each ? each : 1;
		slots[i] += slots[i] == 0;
	}
	return 0;
}

/* A host as the user writes it, and a node as Slurm does: one of them may have its domain behind it. */
static bool is_same(const char *host, const char *node)
{
	size_t host_len = strcspn(host, "."), node_len = strcspn(node, ".");

	if (strcmp(host, node) == 0)
		return true;
	return (!host[host_len] || !node[node_len]) && host_len == node_len && strncmp(host, node, host_len) == 0;
}

static bool is_own(const char *node)
{
	const char *own = getenv("SLURMD_NODENAME");

	return own && is_in_step() ? strcmp(own, node) == 0 : hosts_is_here(node);
}

/* All nodes, or those that the user has named, in that order; under their names in Slurm. */
static int choose(struct job_spec *spec, const struct strings *nodes, const uint32_t *slots, const char *list,
                  struct gw_error *why)
{
	if (spec->n_hosts == 0) {
		spec->has_slots = true;
		for (size_t i = 0; i < nodes->n; i++)
			if (hosts_add(spec, nodes->list[i], slots[i], why) < 0)
				return why->code;
		return 0;
	}
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		struct host_spec *host = &spec->hosts[i];
		bool is_local = strcmp(host->name, "localhost") == 0 || strcmp(host->name, "127.0.0.1") == 0;
		size_t n = 0;

		while (n < nodes->n && !(is_local ? is_own(nodes->list[n]) : is_same(host->name, nodes->list[n])))
			n++;
		if (n == nodes->n)
			return gw_fail(why, -ENOENT, "host '%s' is not in the Slurm allocation %s, which has %s; name hosts out of it, or "
			               "have others reached with -launcher ssh", host->name, slurm_job(), list);
		for (uint32_t k = 0; k < i; k++)
			if (strcmp(spec->hosts[k].name, nodes->list[n]) == 0)
				return gw_fail(why, -EINVAL, "host '%s' is named twice, as '%s' before", host->name, nodes->list[n]);
		snprintf(host->name, sizeof(host->name), "%s", nodes->list[n]);
		if (!spec->has_slots)
			host->slots = slots[n];
	}
	spec->has_slots = true;
	return 0;
}

/* How many ranks, when nobody has said it */
static uint64_t default_size(const struct job_spec *spec, bool is_whole)
{
	uint64_t all = 0;

	if (spec->ppn && spec->n_hosts > 1 && !spec->is_ppn_of_clusters)
		return (uint64_t)spec->ppn * spec->n_hosts;
	if (spec->ppn)
		return (uint64_t)spec->ppn * (spec->machine ? bal_machine_compute(spec->machine) : spec->n_hosts * spec->clusters);
	if (is_whole && !is_in_step() && number("SLURM_NTASKS"))
		return number("SLURM_NTASKS");
	for (uint32_t i = 0; i < spec->n_hosts; i++)
		all += spec->hosts[i].slots;
	return all;
}

static int settle(struct job_spec *spec, const struct strings *nodes, const uint32_t *slots, const char *list,
                  struct gw_error *why)
{
	bool is_whole = spec->n_hosts == 0;
	uint64_t size;

	if (!spec->is_launcher_said && is_in_step() && number("SLURM_STEP_NUM_TASKS") > 1)
		return gw_fail(why, -EINVAL, "this is one of %u mpiruns that srun has started, and each would start the whole job; use "
		               "'srun -n1 mpirun ...' or mpirun alone, or -launcher fork for a job in each",
		               number("SLURM_STEP_NUM_TASKS"));
	if (!spec->is_launcher_said) {
		if (!is_in_path("srun") && nodes->n == 1 && hosts_is_here(nodes->list[0]) && is_whole)
			return 0; /* in a container, say: this host is all there is */
		spec->is_slurm = true;
	}
	if (spec->is_slurm && !is_in_path("srun"))
		return gw_fail(why, -ENOENT, "the daemons of a Slurm allocation are started with srun, which is not in the PATH; add its "
		               "directory, or choose -launcher ssh or fork");
	if (spec->is_slurm || is_whole) {
		if (choose(spec, nodes, slots, list, why) < 0)
			return why->code;
	}
	if (!spec->is_size_unsaid)
		return 0;
	size = default_size(spec, is_whole);
	if (size > OPTIONS_RANKS_MAX)
		return gw_fail(why, -EINVAL, "a job has at most %u ranks", OPTIONS_RANKS_MAX);
	spec->apps[0].n = spec->size = (uint32_t)size;
	return 0;
}

int slurm_take(struct job_spec *spec, struct gw_error *why)
{
	const char *list = variable("SLURM_JOB_NODELIST", "SLURM_NODELIST");
	gw_autofree uint32_t *slots = NULL;
	struct strings nodes = { 0 };
	int code;

	if (spec->is_forked)
		return 0;
	if (!slurm_job())
		return spec->is_slurm ? gw_fail(why, -ENOENT, "-launcher slurm works in a Slurm allocation, and here is none (SLURM_JOB_ID "
		                                "is not set); start mpirun in a script of sbatch, by 'srun -n1', or in salloc") : 0;
	if (!list)
		return gw_fail(why, -ENOENT, "SLURM_JOB_ID is set, but SLURM_JOB_NODELIST is not: whether this is a Slurm allocation "
		               "cannot be told; choose -launcher ssh or fork");
	code = slurm_nodes(&nodes, list, why);
	if (code < 0) {
		gw_fail_more(why, "SLURM_JOB_NODELIST: ");
	} else {
		slots = calloc(nodes.n, sizeof(*slots));
		if (!slots)
			code = gw_fail(why, -ENOMEM, "out of memory");
		else if (read_slots(slots, nodes.n) < 0)
			code = gw_fail(why, -EINVAL, "SLURM_TASKS_PER_NODE and SLURM_JOB_CPUS_PER_NODE say nothing about the %zu nodes of this "
			               "Slurm allocation; choose -launcher ssh or fork", nodes.n);
		else
			code = settle(spec, &nodes, slots, list, why);
	}
	strings_fini(&nodes);
	return code;
}

/* ---- batch scripts ----------------------------------------------------------------------------------------------------- */

/* A number of /proc/PID/status, in @base; 0 when it is not there */
static unsigned long long status_of(pid_t pid, const char *key, int base)
{
	char path[64], line[256];
	unsigned long long v = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			v = strtoull(line + strlen(key), NULL, base);
	if (f)
		fclose(f);
	return v;
}

bool slurm_script_ends_at(int sig)
{
	pid_t script = getppid(), of = script > 1 ? (pid_t)status_of(script, "PPid:", 10) : 0;
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)of);
	f = slurm_job() && of > 1 ? fopen(path, "re") : NULL;
	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = '\0';
	fclose(f);
	return strncmp(name, "slurmstepd", strlen("slurmstepd")) == 0 &&
	       !((status_of(script, "SigCgt:", 16) | status_of(script, "SigIgn:", 16)) & 1ull << (sig - 1));
}
