/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of what the launcher reads of Slurm: lists of nodes, counts, lines of srun, and the variables of an allocation. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/options.h"
#include "tests/sweep.h"
#include "tests/tap.h"

static void check_nodes(const char *list, const char *want)
{
	struct strings nodes = { 0 };
	struct gw_error why = { 0 };
	char text[512] = "";
	int code = slurm_nodes(&nodes, list, &why);

	for (size_t i = 0; i < nodes.n && strlen(text) < 300; i++)
		sprintf(text + strlen(text), "%s%s", i ? " " : "", nodes.list[i]);
	ok(want ? code == 0 && strcmp(text, want) == 0 : code == -EINVAL && strstr(why.text, list), "nodes '%s': %s", list,
	   want ? want : "refused");
	if (want ? code < 0 || strcmp(text, want) != 0 : code != -EINVAL)
		printf("# %d %s %s\n", code, text, why.text);
	strings_fini(&nodes);
}

static void check_counts(const char *list, size_t n, const char *want)
{
	uint32_t counts[8] = { 0 };
	char text[128] = "";
	int code = slurm_counts(counts, n, list);

	for (size_t i = 0; i < n && code == 0; i++)
		sprintf(text + strlen(text), "%s%u", i ? " " : "", counts[i]);
	ok(want ? code == 0 && strcmp(text, want) == 0 : code == -EINVAL, "counts '%s' of %zu nodes: %s", list, n, want ? want : "refused");
	if (code == 0 && (!want || strcmp(text, want) != 0))
		printf("# %s\n", text);
}

static void check_lines(void)
{
	char nodes[32];

	ok(slurm_is_task_end("srun: error: rig[2-3]: tasks 0-1: Exited with exit code 1", nodes, sizeof(nodes)) &&
	   strcmp(nodes, "rig[2-3]") == 0, "srun says on which nodes tasks have ended");
	ok(!slurm_is_task_end("srun: error: Unable to create step: task count", nodes, sizeof(nodes)) &&
	   !slurm_is_task_end("slurmstepd: error: rig2: task 0: Killed", nodes, sizeof(nodes)) &&
	   !slurm_is_task_end("srun: error: a-name-of-more-than-thirty-two-characters: task 0: Killed", nodes, sizeof(nodes)),
	   "and other lines are not taken for that");
	ok(slurm_is_chatter("slurmstepd: error: *** STEP 7.0 ON rig2 CANCELLED AT 2026-11-22T08:30:00 DUE TO TIME LIMIT ***") &&
	   slurm_is_chatter("srun: Job step aborted: Waiting up to 4 seconds for job step to finish.") &&
	   slurm_is_chatter("slurmstepd-rig2: error: *** STEP 7.0 ON rig2 CANCELLED AT 2026-11-22T08:30:00 ***") &&
	   slurm_is_chatter("srun: cluster configuration lacks support for cpu binding") &&
	   slurm_is_chatter("srun: error: rig2: task 0: Killed"), "what mpirun says better itself is recognised");
	ok(!slurm_is_chatter("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.") &&
	   !slurm_is_chatter("*** STEP 7.0 of my own program"), "what it cannot know is passed on, and so is what others write");
}

/* ---- a whole command line in an allocation --------------------------------------------------------------------------- */

static const char *const variables[] = { "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_TASKS_PER_NODE",
                                         "SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS",
                                         "SLURMD_NODENAME", "PATH" };

static char bin[] = "/tmp/godwit-slurm-XXXXXX"; /* where a file called srun is */

/* @env, @words: separated by blanks. @want: "number of ranks: host:slots ..." or a piece of the sentence */
static void check_job(const char *env, const char *words, const char *want, const char *sentence)
{
	struct job_spec spec = { 0 };
	struct gw_error why = { 0 };
	char env_copy[512], words_copy[256], text[1024], *argv[20] = { "mpirun" }, *save = NULL;
	int argc = 1, code;

	for (size_t i = 0; i < GW_ARRAY_LEN(variables); i++)
		unsetenv(variables[i]);
	setenv("PATH", bin, 1);
	snprintf(env_copy, sizeof(env_copy), "%s", env);
	snprintf(words_copy, sizeof(words_copy), "%s", words);
	for (char *pair = strtok_r(env_copy, " ", &save); pair; pair = strtok_r(NULL, " ", &save)) {
		char *equals = strchr(pair, '=');

		*equals = '\0';
		setenv(pair, equals + 1, 1);
	}
	save = NULL;
	for (char *word = strtok_r(words_copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	code = options_parse(&spec, argc, argv, &why);
	snprintf(text, sizeof(text), "%s%u:", code < 0 ? why.text : spec.is_slurm ? "slurm " : spec.is_remote ? "remote " : "here ", spec.size);
	for (uint32_t i = 0; code == 0 && spec.is_remote && i < spec.n_hosts; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), " %s:%u", spec.hosts[i].name, spec.hosts[i].slots);
	ok(code < 0 ? strstr(text, want) != NULL : strcmp(text, want) == 0, "%s", sentence);
	if (code < 0 ? !strstr(text, want) : strcmp(text, want) != 0)
		printf("# %s | %s: %s\n", env, words, text);
	options_fini(&spec);
}

#define TWO "SLURM_JOB_ID=5 SLURM_JOB_NODELIST=rig[2-3] SLURM_JOB_CPUS_PER_NODE=4(x2) SLURM_TASKS_PER_NODE=2,1 SLURM_NTASKS=3"

static void check_jobs(void)
{
	char srun[64];
	FILE *f;

	if (sweep_dir(bin) < 0)
		exit(1);
	snprintf(srun, sizeof(srun), "%s/srun", bin);
	f = fopen(srun, "w");
	if (!f || fchmod(fileno(f), 0700) < 0)
		exit(1);
	fclose(f);
	check_job("", "a.out", "here 1:", "outside, one rank on this host");
	check_job("", "-launcher slurm a.out", "here is none (SLURM_JOB_ID is not set)", "-launcher slurm outside is refused");
	check_job(TWO, "a.out", "slurm 3: rig2:2 rig3:1", "inside, the nodes, their slots and the number of tasks");
	check_job(TWO, "-n 5 a.out", "slurm 5: rig2:2 rig3:1", "-n wins");
	check_job(TWO, "a.out : b.out", "slurm 2: rig2:2 rig3:1", "two programs have one rank each, as ever");
	check_job(TWO, "-ppn 4 a.out", "slurm 8: rig2:2 rig3:1", "-ppn alone says how many, too");
	check_job(TWO, "-hosts rig3 a.out", "slurm 1: rig3:1", "-hosts restricts, and the slots are those of what is left");
	check_job(TWO, "-hosts rig3,rig2.cluster.example a.out", "slurm 3: rig3:1 rig2:2", "and orders; a domain does not matter");
	check_job(TWO, "-hosts rig3:4,rig2 a.out", "slurm 5: rig3:4 rig2:1", "slots that are said win");
	check_job(TWO, "-hosts rig2,rig9 a.out", "'rig9' is not in the Slurm allocation 5, which has rig[2-3]", "a host outside is refused");
	check_job(TWO, "-hosts rig2,rig2.x a.out", "named twice", "a node under two names is refused");
	check_job(TWO, "-hosts localhost a.out", "'localhost' is not in the Slurm allocation", "a login host is not in it");
	check_job(TWO " SLURMD_NODENAME=rig3 SLURM_STEP_NUM_TASKS=1", "-hosts localhost a.out", "slurm 4: rig3:4", "a node is");
	check_job(TWO, "-launcher fork a.out", "here 1:", "-launcher fork is for this host alone");
	check_job(TWO, "-launcher ssh a.out", "remote 3: rig2:2 rig3:1", "-launcher ssh reaches the same nodes otherwise");
	check_job(TWO, "-launcher ssh -hosts rig9 a.out", "remote 1: rig9:1", "and any other, when they are named");
	check_job(TWO " SLURM_STEP_NUM_TASKS=1", "a.out", "slurm 8: rig2:4 rig3:4", "in a step of one task the processors count");
	check_job(TWO " SLURM_STEP_NUM_TASKS=1 SLURM_CPUS_PER_TASK=3", "a.out", "slurm 2: rig2:1 rig3:1", "as many as a task takes");
	check_job(TWO " SLURM_STEP_NUM_TASKS=2", "a.out", "one of 2 mpiruns", "in a step of several tasks it is a mistake");
	check_job(TWO " SLURM_STEP_NUM_TASKS=2", "-launcher fork a.out", "here 1:", "unless each shall be a job");
	check_job("SLURM_JOB_ID=5", "a.out", "SLURM_JOB_NODELIST is not", "an allocation without nodes is refused");
	check_job("SLURM_JOB_ID=5 SLURM_JOB_NODELIST=rig[2-3 SLURM_TASKS_PER_NODE=1(x2)", "a.out", "'rig[2-3' is not a list", "and one "
	          "with a broken list");
	check_job("SLURM_JOB_ID=5 SLURM_JOB_NODELIST=rig[2-3] SLURM_TASKS_PER_NODE=1", "a.out", "say nothing about the 2 nodes",
	          "and one with counts for other nodes");
	unlink(srun);
	check_job(TWO, "a.out", "srun, which is not in the PATH", "without srun there is a sentence");
	check_job("SLURM_JOB_ID=5 SLURM_JOB_NODELIST=localhost SLURM_TASKS_PER_NODE=2", "a.out", "here 1:", "unless this host is all there is");
	rmdir(bin);
}

int main(void)
{
	tap_begin(56);
	check_nodes("rig2", "rig2");
	check_nodes("rig[1-3,7]", "rig1 rig2 rig3 rig7");
	check_nodes("a,b[08-11]x,c", "a b08x b09x b10x b11x c");
	check_nodes("r[0-1]n[2,4]", "r0n2 r0n4 r1n2 r1n4");
	check_nodes("n[099-101]", "n099 n100 n101");
	check_nodes("n[9-10]", "n9 n10");
	check_nodes("rig[1-3", NULL);
	check_nodes("rig1-3]", NULL);
	check_nodes("rig[]", NULL);
	check_nodes("rig[3-1]", NULL);
	check_nodes("rig[1-]", NULL);
	check_nodes("rig[1,]", NULL);
	check_nodes("rig[a-b]", NULL);
	check_nodes("rig1,,rig2", NULL);
	check_nodes("-oProxyCommand=x", NULL);
	check_nodes("r[0-4095]n[0-4095]", NULL);
	check_nodes("r[0-99999999999]", NULL);
	check_counts("2(x3),1", 4, "2 2 2 1");
	check_counts("16", 1, "16");
	check_counts("1,2,3", 3, "1 2 3");
	check_counts("2(x3),1", 3, NULL);
	check_counts("2(x3)", 4, NULL);
	check_counts("2(x3", 3, NULL);
	check_counts("2,", 1, NULL);
	check_counts("", 0, NULL);
	check_counts("x", 1, NULL);
	check_counts("9999999999", 1, NULL);
	check_lines();
	check_jobs();
	return tap_done();
}
