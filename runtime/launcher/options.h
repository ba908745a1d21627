/* SPDX-License-Identifier: BSD-2-Clause */
/* What a user asks of mpirun: the command line, a configuration file and the environment, as one struct job_spec. */
#ifndef RT_OPTIONS_H
#define RT_OPTIONS_H

#include "runtime/balance/balance.h"
#include "runtime/base/base.h"

struct strings { /* a growing list of strings on the heap, NULL at its end */
	char **list;
	size_t n, cap;
};
int strings_add(struct strings *s, const char *text);
void strings_fini(struct strings *s);

enum baseline_mode { BASELINE_UNSAID, BASELINE_AUTO, BASELINE_HOST }; /* processor features: of all hosts, or of each rank's own */
enum env_policy { ENV_UNSAID, ENV_ALL, ENV_NONE, ENV_LIST }; /* what of mpirun's environment the ranks inherit */

struct app { /* one program of the command line; several when ':' is used */
	uint32_t n;
	struct strings argv, env; /* env: NAME=VALUE of -env */
	enum env_policy inherit;
	const char *inherit_list; /* A,B,C of -envlist */
	const char *wdir;
};

#define OPTIONS_RANKS_MAX    65536
#define OPTIONS_CLUSTERS_MAX 4096

struct host_spec {
	char name[256];
	uint32_t slots;
};

struct job_spec {
	struct app *apps;
	uint32_t n_apps, size;
	uint32_t clusters;        /* of a host; of the one that has most, where a machine file says so */
	uint32_t ppn;             /* ranks that begin on one host (where there is one only: cluster) before the next has its turn;
	                           * 0: evenly */
	bool is_ppn_of_clusters;  /* in any case: -map-by cluster */
	uint32_t universe;        /* what MPI_UNIVERSE_SIZE says; 0: nothing */
	uint32_t timeout_s;       /* 0: none */
	struct strings genv;      /* NAME=VALUE of -genv */
	enum env_policy inherit;
	const char *inherit_list;
	const char *label;        /* before each line of output, with %r and the like; NULL: none */
	const char *file[2];      /* where standard output and error go, by rank; NULL: mpirun's own */
	const char *input;        /* ranks that get standard input: "0", "all", "none", "0,3-5"; NULL: rank 0 */
	const char *bind, *map;   /* runtime/topology.h */
	const char *pinned;       /* ranks that stay where they are: "all", or a list as "0,3-5"; NULL: none */
	const char *reconnecting; /* paths of sockets: container/container.h, ct_reconnecting_add; NULL: none */
	enum baseline_mode baseline; /* BASELINE_UNSAID: auto where hosts differ */
	const char *config;
	struct host_spec *hosts;  /* as given, each once */
	uint32_t n_hosts;         /* 1: this one alone, whatever its name is */
	bool has_slots;
	bool is_forked;           /* this machine plays all of them */
	bool is_slurm;            /* they are nodes of a Slurm allocation, and srun starts their daemons */
	bool is_launcher_said;
	bool is_size_unsaid;      /* one program, without -n */
	const char *machine_name; /* of -machine; NULL: none */
	struct bal_machine *machine; /* what its file says */
	const char *pool;         /* runtime/pool: its name, "any"; NULL: none */
	char *pool_launcher, pool_address[64]; /* what a pool has granted: see pool.c */
	uint32_t pool_job;
	uint8_t pool_secret[32];
	int pool_fd;
	bool is_remote;           /* the daemons of some are not children of mpirun */
	const char *launcher;     /* words with %h that start a daemon there; NULL: ssh, or srun */
	bool is_carrying;         /* files that the other host does not see travel with a rank */
	const char *drain_file;      /* names hosts that go away; NULL: none */
	enum bal_strategy balance;
	uint64_t balance_every_ms;   /* 0: not said */
	const char *meet;            /* a directory in which jobs of other machines are found; NULL: they are not */
	const char *metrics;         /* a file for Prometheus; NULL: none */
	uint64_t metrics_every_ms;   /* 0: not said */
	const char *checkpoint_dir;  /* NULL: mpirun makes no checkpoints by itself */
	uint64_t checkpoint_every_ms; /* 0: no time is enough */
	uint32_t checkpoint_keep;    /* how many complete ones stay */
	uint32_t checkpoint_on;      /* 1 << signal of each that asks for one, and the end */
	bool is_checkpoint_on_said;
	bool is_again;               /* what is in @checkpoint_dir is continued, though nobody said -restart */
	const char *restart_dir;  /* a checkpoint that is continued; NULL: none */
	struct passed *passed;    /* checkpoints that are not, for they are damaged: again.c; NULL: none */
	struct restart *restart;  /* what is there: restart.c */
	uint32_t n_spawned;       /* of @size, in a job that is continued: the last ones, which ranks had started */
	const char *record;       /* where the job's history is kept: a file, a directory, or "none"; NULL: runtime/state.h */
	bool is_verbose, is_printing_codes;
	bool is_surviving;        /* the end of a rank is not the job's */
	struct strings words;     /* of the configuration file, and of the manifest: what above points into */
};

/**
 * options_parse - fill @spec from what main() got, from -configfile and from MPIEXEC_ variables
 * Return: 0; 1 when all has been said that was asked for (-help, -version); negative errno with @why.
 * @spec must be zeroed before; options_fini() in any case.
 */
int options_parse(struct job_spec *spec, int argc, char **argv, struct gw_error *why);
void options_fini(struct job_spec *spec);

/* ---- hosts.c ---- */
int hosts_parse(struct job_spec *spec, const char *list, struct gw_error *why); /* "a:2,b"; forgets what was said before */
int hosts_read(struct job_spec *spec, const char *path, struct gw_error *why);  /* a file of host:slots */
int hosts_add(struct job_spec *spec, const char *name, uint32_t slots, struct gw_error *why); /* slots 0: not said */
void hosts_forget(struct job_spec *spec);
bool hosts_is_here(const char *name);
bool hosts_is_launcher(const char *words);  /* one of them is %h */

/* ---- layout.c ---- */
int layout_read(struct job_spec *spec, struct gw_error *why);  /* -machine, if it was given; and @spec->clusters is at least 1 */
int layout_check(struct job_spec *spec, struct gw_error *why); /* when all hosts are known: are there clusters for them? */
uint32_t layout_first(const struct job_spec *spec, uint32_t host); /* its first cluster; of the host after the last: how many there are */
struct rt_share;
struct rt_share *layout_shares(const struct job_spec *spec, uint32_t first, uint32_t n); /* runtime/topology.h; heap. NULL: all alike */

struct layout {                   /* clusters where ranks may begin, host by host */
	uint32_t *clusters, n_clusters;
	uint32_t *first, n_hosts; /* hosts that have such: those of the i-th begin at clusters[first[i]], */
	uint32_t *host;           /* and this is which it is */
};
int layout_init(struct layout *l, const struct job_spec *spec); /* -ENOMEM */
void layout_fini(struct layout *l);
uint32_t layout_place(const struct layout *l, const struct job_spec *spec, uint32_t rank); /* the cluster where it begins */

/* ---- restart.c ---- */
/** restart_take - programs and options of the checkpoint in @spec->restart_dir, if one is named. restart_release() in any case */
int restart_take(struct job_spec *spec, struct gw_error *why);
void restart_release(struct job_spec *spec);

/* ---- again.c ---- */
/** again_take - does -checkpoint-dir hold a job that is to be continued? Then it is @spec->restart_dir. 0 also when not;
 *  -EEXIST: it is another command's */
int again_take(struct job_spec *spec, struct gw_error *why);
/** again_pass_over - what is continued is damaged: an older checkpoint is to be taken in its place
 *  Return: false: nobody wants that (-restart), or there is none */
bool again_pass_over(struct job_spec *spec, const char *damage);
bool again_next(struct job_spec *spec); /* is one to be taken now? Then it is @spec->restart_dir */
void again_release(struct job_spec *spec);

/* ---- pool.c ---- */
int pool_take(struct job_spec *spec, struct gw_error *why); /* hosts and launcher, from the pool that was named */

/* ---- slurm.c ---- */
/** slurm_take - inside a Slurm allocation: hosts, slots, launcher and number of ranks, where the user has not said them
 *  Return: 0, also outside; negative errno with @why. */
int slurm_take(struct job_spec *spec, struct gw_error *why);
const char *slurm_job(void);                                                    /* its number; NULL: there is no allocation */
/** slurm_nodes - "rig[1-3,07],x" as names. Pure */
int slurm_nodes(struct strings *out, const char *list, struct gw_error *why);
/** slurm_counts - "2(x3),1" as exactly @n numbers. Pure. Return: 0 or -EINVAL */
int slurm_counts(uint32_t *counts, size_t n, const char *list);
/** slurm_is_task_end - does srun say that a task has ended, and on which nodes (as a list)? Pure */
bool slurm_is_task_end(const char *line, char *nodes, size_t cap);
/** slurm_script_ends_at - is the process that has started us the script of a batch job, and is it ended by @sig? Then Slurm kills all
 *  that it has started */
bool slurm_script_ends_at(int sig);
bool slurm_is_chatter(const char *line);                                        /* what we say ourselves, in our words. Pure */

/* ---- checkpoint_words.c ---- */
#define OPTIONS_EVERY_MS_MIN 100
#define OPTIONS_EVERY_MS_MAX (365 * 86400e3)
int options_duration(const char *text, uint64_t *ms, struct gw_error *why);     /* "90s", "10m", "1.5h" */
int options_signals(const char *list, uint32_t *set, struct gw_error *why);     /* "USR1,SIGTERM", "none" */
const char *options_signal_name(int sig);                                       /* "USR1" */

/**
 * options_split - words of one line of a configuration file, as a shell would cut it without expanding anything
 * Quotes '...' and "...", backslash, # for a comment at the start of a word. Return: 0 or -EINVAL for an open quote.
 */
int options_split(const char *line, struct strings *words);

/** options_read_config - the words of @spec->config into @spec->words, with ':' between lines */
int options_read_config(struct job_spec *spec, struct gw_error *why);

#endif
