/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher: mpirun, the head of one job.
 *
 * It cuts the machine into clusters, starts a godwitd on each, hands out the ranks, joins their output, feeds standard
 * input, completes PMI barriers, and answers `godwit` tools. It owns no rank: where each one lives it is told by the
 * daemons, and the highest epoch counts. When it ends, however, everything of the job ends.
 *
 *   main.c       what was asked for: options, help
 *   env.c        the environment of the ranks
 *   job.c        one job from start to exit status
 *   clusters.c   its daemons: started, given their ranks, lost
 *   reports.c    what the daemons report, as a table
 *   verdict.c    what the end of a rank means for the job
 *   signals.c    signals that mpirun passes on
 *   output.c     streams joined by offset, labelled lines, slow readers
 *   input.c      standard input to one rank, with a window, across moves
 *   pmi_head.c   barriers and published names
 *   tools.c      the socket of `godwit status` and `godwit migrate`
 */
#ifndef RT_HEAD_H
#define RT_HEAD_H

#include <sys/types.h>

#include "mpi-shim/pmi.h"
#include "runtime/base/event.h"
#include "runtime/topology.h"
#include "runtime/wire.h"

struct strings { /* a growing list of strings on the heap, NULL at its end */
	char **list;
	size_t n, cap;
};
int strings_add(struct strings *s, const char *text);
void strings_fini(struct strings *s);

struct app { /* one program of the command line; several when ':' is used */
	uint32_t n;
	struct strings argv, env; /* env: NAME=VALUE of -env */
	const char *wdir;
};

struct job_spec {
	struct app apps[16];
	uint32_t n_apps, clusters, size;
	struct strings genv;      /* NAME=VALUE of -genv */
	bool is_labelled, is_verbose;
};

/* ---- env.c ---- */
/** env_build - the environment of the ranks of @app. Forced settings win over the user's, others do not. */
int env_build(struct strings *out, const struct job_spec *spec, const struct app *app, struct gw_error *why);
/** own_path - "<directory of this program>/<name>" */
int own_path(char *buf, size_t cap, const char *name);

/* ---- output.c ---- */
struct head;
struct sink;

struct segment { /* bytes that came before those that precede them: a rank moved, its old daemon is behind */
	struct segment *next;
	uint64_t offset;
	size_t len;
	char bytes[];
};

struct joined {          /* one output stream of one rank */
	uint64_t next;       /* bytes written so far, of all daemons */
	uint64_t acked;
	struct segment *ahead; /* sorted by offset */
	char *line;          /* a line without its end yet */
	size_t line_len, line_cap;
};

int output_init(struct head *h);
void output_fini(struct head *h);
void output_piece(struct head *h, uint32_t rank, uint32_t stream, uint64_t offset, const char *bytes, size_t len);
void output_skip_gaps(struct head *h, uint32_t rank); /* what is missing will never come */
void output_end_lines(struct head *h);                /* write what has no line end */
void output_flush(struct head *h);                    /* blocking; before exit */

/* ---- the job ---- */
enum cluster_state { CLUSTER_STARTING, CLUSTER_UP, CLUSTER_LOST, CLUSTER_ENDED };

struct cluster {
	struct head *head;
	uint32_t index;
	enum cluster_state state;
	pid_t pid;
	uint64_t incarnation;
	struct gw_link *link;
	struct rt_cluster_cores cores;
	int wait_status;
	bool is_reaped;
	uint32_t lost_acks_due;    /* after it was lost: of the others, that they have told all that they own */
	bool *acks_due_from;
};

enum rank_state { RANK_WAITING, RANK_RUNNING, RANK_ENDED };

struct rank {
	enum rank_state state;
	uint32_t cluster, app;
	pid_t pid;
	uint64_t epoch;
	bool is_attached;
	int status;
	int held_signal;          /* its owner has given it away: for the new one */
	struct joined out[2];
	/* PMI: the last barrier it entered; the last question and its answer */
	uint64_t barrier, asked;
	json_t *answer;
};

struct input {
	struct gw_watch *watch;
	bool is_open, is_always_ready, is_deferred; /* a regular file cannot be watched */
	uint32_t rank;
	char *buf;             /* bytes [acked, acked + len) of standard input */
	size_t len;
	uint64_t acked, sent, eof_at; /* eof_at: UINT64_MAX until it is seen */
	bool is_eof_sent;
};

struct head {
	struct gw_loop *loop;
	struct job_spec *spec;
	uint32_t job;
	struct cluster *clusters;
	uint32_t n_clusters, n_domains;
	struct rank *ranks;
	uint32_t size, ended, up;
	int segment_fd;
	uint32_t base_pid;
	char kvsname[64];

	bool is_launched, is_ending, is_told_to_end; /* all spawned; no rank will run on; by a signal */
	int exit_code;
	bool has_exit_code;
	struct gw_timer *grace;
	int signal_fd, listener;
	struct gw_watch *signal_watch, *listener_watch;
	uint64_t started_ns;

	struct sink *sinks[2];
	struct gw_timer *line_timer;
	struct input input;
	uint64_t barriers_done;
	uint32_t barrier_count;
	json_t *barrier_puts, *services;

	struct gw_list tools, moves;
	uint64_t next_id;
};

int job_run(struct job_spec *spec);                       /* returns the exit code of mpirun */
void job_fail(struct head *h, int code, const char *fmt, ...) GW_PRINTF(3, 4);
void job_note_code(struct head *h, int code);             /* the first one counts */
void job_end(struct head *h, const char *op);             /* no rank runs on: "shutdown" all have ended, "kill" it failed */
void job_check_all_ended(struct head *h);                 /* the loop stops when no daemon is left */
bool job_cluster_send(struct head *h, uint32_t cluster, json_t *msg); /* steals; false when it is not up */
void job_say(struct head *h, const char *fmt, ...) GW_PRINTF(2, 3); /* a sentence on standard error */

/* ---- clusters.c ---- */
int clusters_start(struct head *h, struct cluster *c, const char *path, struct gw_error *why);
void clusters_send_start(struct head *h, struct cluster *c);
void clusters_launch(struct head *h, struct cluster *c);  /* the ranks that begin there */
void clusters_closed(struct gw_link *l, void *cluster, int error);
void clusters_lost_ack(struct head *h, uint32_t lost, uint32_t from);

/* ---- reports.c ---- */
extern const struct gw_link_ops reports_link_ops;         /* its context is a struct cluster */

/* ---- verdict.c ---- */
const char *verdict_describe(int wait_status, char *buf, size_t cap);
void verdict_rank_ended(struct head *h, uint32_t rank, int status, enum pmi_phase phase);

/* ---- signals.c ---- */
int signals_init(struct head *h);
void signals_send(struct head *h, uint32_t rank, int sig);

/* ---- input.c ---- */
int input_init(struct head *h);
void input_fini(struct head *h);
void input_start(struct head *h);                         /* the rank runs */
void input_acked(struct head *h, uint32_t rank, uint64_t offset);
void input_moved(struct head *h, uint32_t rank, uint64_t written);
void input_stop(struct head *h);

/* ---- pmi_head.c ---- */
int pmi_head_init(struct head *h);
void pmi_head_fini(struct head *h);
void pmi_head_barrier(struct head *h, uint32_t rank, uint64_t number, const json_t *puts);
void pmi_head_ask(struct head *h, uint32_t rank, uint64_t id, const char *what, const json_t *args);
void pmi_head_rank_ended(struct head *h);                 /* a barrier may have become impossible */

/* ---- tools.c ---- */
int tools_init(struct head *h, struct gw_error *why);
void tools_fini(struct head *h);
void tools_migrate_done(struct head *h, json_t *msg);
void tools_status_answer(struct head *h, uint32_t cluster, json_t *msg);
void tools_cluster_lost(struct head *h, uint32_t cluster);

#endif
