/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/launcher: mpirun, the head of one job.
 *
 * It cuts the machine into clusters, starts a godwitd on each, hands out the ranks, joins their output, feeds standard
 * input, completes PMI barriers, and answers `godwit` tools. It owns no rank: where each one lives it is told by the
 * daemons, and the highest epoch counts. When it ends, however, everything of the job ends.
 *
 *   main.c       from the command line to the exit status
 *   options.c    what was asked for, as a table
 *   options_env.c, options_help.c  variables of ranks; what it says of itself
 *   config.c     the same in a file
 *   env.c        the environment of the ranks
 *   baseline.c   the processor features that all hosts share, and variables that keep libraries to them
 *   libraries.c  which MPI library they load
 *   job.c        one job from start to exit status
 *   clusters.c   its daemons: started, given their ranks, lost
 *   hosts.c      which hosts were named
 *   layout.c     how clusters lie over them, and where ranks begin
 *   slurm.c      what a Slurm allocation says of them
 *   launchers.c  what ssh or srun is told
 *   remote.c     daemons on other hosts: started by those, back by TCP
 *   doors.c      where mpirun listens for those
 *   pool.c       slots and daemons of a pool
 *   inherit.c    what those get of mpirun that they cannot inherit
 *   reports.c    what the daemons report, as a table
 *   verdict.c    what the end of a rank means for the job
 *   signals.c    signals that mpirun passes on
 *   core.c       where a core file is
 *   limits.c     can this machine carry so many ranks?
 *   output.c     streams joined by offset, labelled lines
 *   sink.c       where output ends, slow readers
 *   input.c      standard input to one rank or several, with a window, across moves
 *   pmi_head.c   barriers and published names
 *   spawn.c      ranks that ranks start (MPI_Comm_spawn)
 *   debug.c      what debuggers look for in mpirun
 *   tools.c      the socket of the godwit command
 *   moves.c      moves that were asked for
 *   grow.c       clusters that come while the job runs
 *   guests.c     other jobs that ranks talk to: friends.c how they come to know each other, meet.c on other machines; friends.h
 *   lookup.c     names that are published in other jobs
 *   drain.c      clusters that are emptied, and that leave
 *   notice.c     hosts of which somebody says that they go away
 *   survey.c     what the whole job does: all daemons are asked at once
 *   metrics.c    the same for Prometheus, in a file
 *   ledger.c     moves that are over, and what they teach of the next ones
 *   balance.c    ranks that move so that all have as much to do
 *   record.c     what has happened, for godwit report; record_traffic.c: who has sent how much to whom
 *   scribe.c, scribe_file.c  the process that writes it down (scribe.h)
 *   pins.c       ranks that stay where they are
 *   wishes.c     what ranks ask for themselves (godwit.h)
 *   suspend.c    a job that rests
 *   checkpoint.c and is written down meanwhile; checkpoint_words.c: what is said of it
 *   again.c      the same command once more
 *   schedule.c   by itself: every so often, and at a signal
 *   restart.c    and goes on from there
 *   remember.c   what a checkpoint says of the head
 */
#ifndef RT_HEAD_H
#define RT_HEAD_H

#include <sys/resource.h>
#include <sys/types.h>

#include "container/cpu.h"
#include "mpi-shim/pmi.h"
#include "runtime/balance/predict.h"
#include "runtime/base/event.h"
#include "runtime/base/tcp.h"
#include "runtime/base/trust.h"
#include "runtime/launcher/options.h"
#include "runtime/sigqueue.h"
#include "runtime/topology.h"
#include "runtime/wire.h"

/* ---- env.c ---- */
/**
 * env_build - the environment of the ranks of @app. Forced settings win over the user's, others do not.
 * @threads: OpenMP threads for each rank where the user has not said it; 0: say nothing
 */
int env_build(struct strings *out, const struct job_spec *spec, const struct app *app, uint32_t threads,
              struct gw_error *why);
/** env_overridden - what the user has set and a forced setting replaces, "A=1, B=2". Return its length. */
size_t env_overridden(const struct job_spec *spec, char *buf, size_t cap);
#define ENV_CROWDED "GODWIT_CROWDED" /* "1": the job has begun with more ranks than cores */
int env_set(struct strings *s, const char *name, const char *value); /* replaces a value that is there */
const char *env_find(const struct strings *s, const char *name);      /* its value, or NULL */
/** own_path - "<directory of this program>/<name>" */
int own_path(char *buf, size_t cap, const char *name);

/* ---- libraries.c ---- */
/** env_add_libraries - let the ranks of @app load our MPI, whatever they were linked with: see the file */
int env_add_libraries(struct strings *out, const struct app *app, const char *provider_dir, struct gw_error *why);

/* ---- sink.c ---- */
struct head;
struct sink;

int sink_open(struct sink **out, struct head *h, int fd);      /* standard output or error */
int sink_open_file(struct sink **out, struct head *h, const char *path, struct gw_error *why); /* once for each path */
void sink_close(struct sink *s);
void sink_add_stream(struct sink *s);                          /* one more stream of a rank ends there */
void sink_put(struct sink *s, const char *bytes, size_t len);
void sink_push(struct sink *s);                                /* write what can be written now */
void sink_flush(struct sink *s);                               /* write all; blocks */
const char *sink_written(const struct sink *s, uint64_t *length); /* of a file: its path and how long it will be */
bool sink_is_full(const struct sink *s);
bool sink_is_shared(const struct sink *s);
bool sink_is_terminal(const struct sink *s);
struct sink *sink_of_node(struct gw_list *node);               /* of head.files */

/* ---- output.c ---- */

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

int output_init(struct head *h, struct gw_error *why);
int output_open(struct head *h, uint32_t rank, struct gw_error *why); /* of one that comes later */
void output_fini(struct head *h);
void output_piece(struct head *h, uint32_t rank, uint32_t stream, uint64_t offset, const char *bytes, size_t len);
void output_skip_gaps(struct head *h, uint32_t rank); /* what is missing will never come */
void output_begin_line(struct head *h, uint32_t rank, int i, const char *bytes, size_t len); /* of a job that is continued */
void output_end_lines(struct head *h);                /* write what has no line end */
void output_flush(struct head *h);                    /* blocking; before exit */
void output_has_room(struct head *h, const struct sink *s); /* it was full */

/* ---- the job ---- */
enum cluster_state {
	CLUSTER_STARTING,
	CLUSTER_JOINED,   /* came to a running job; not everything is ready for ranks there */
	CLUSTER_UP,
	CLUSTER_LEAVING,  /* told to leave; it has no ranks */
	CLUSTER_LEFT,     /* for good, in order */
	CLUSTER_LOST,
	CLUSTER_ENDED,
};

struct host {                 /* clusters that share memory. A machine that has left and comes again is another one */
	char name[256];
	bool is_remote;           /* another machine: its daemons are started by a launcher's process and come by TCP */
	bool is_this;             /* mpirun's own machine, under whatever name */
	bool is_slurm;            /* srun reaches it, */
	char *launcher;           /* or these words (heap); NULL: ssh */
	uint32_t slots;           /* of a pool, for ranks of this job; 0: not counted */
	int segment_fd;           /* -1: not made yet, or on another machine */
};

struct growth;
struct launched;              /* remote.c: a launcher's process, for one or several clusters of a host */

struct cluster {
	struct head *head;
	uint32_t host;            /* whose memory its ranks share */
	uint32_t index, first;    /* first: of those that were started with it on its host; it has their segment first */
	struct launched *launched; /* what started it; NULL: mpirun itself */
	enum cluster_state state;
	bool is_start_sent, is_networked, is_network_asked; /* is_networked: its ranks listen, or will */
	bool is_drained;          /* no rank moves there */
	bool has_said_left;
	bool is_suspend_due;      /* it has not answered suspend or suspend-stop yet */
	struct growth *growth;    /* with which it comes; NULL: it was there from the start, or is up */
	pid_t pid;                /* mpirun's child; 0: it is on another machine */
	pid_t daemon;             /* as it is called where it runs; 0: it is not up yet */
	uint64_t incarnation;
	struct gw_link *link;
	json_t *place;            /* `daemon`: where it listens for those of other hosts; jobs of several hosts only */
	struct rt_cluster_cores cores;
	struct ct_cpu cpu;        /* what its processor can do */
	int wait_status;
	bool is_reaped;
	bool has_vanished;        /* its host did not answer any more */
	uint32_t lost_acks_due;    /* after it was lost: of the others, that they have told all that they own */
	bool *acks_due_from;
};

struct world {                /* ranks that began together, an MPI_COMM_WORLD: the first is mpirun's, the others were spawned */
	uint32_t first, size;     /* process numbers */
	uint32_t app;             /* of its first program */
	char kvsname[64];
	uint64_t barriers_done;
	uint32_t barrier_count;
	json_t *barrier_puts, *space; /* space: of all barriers */
	/* of a spawned one: which rank has asked, in which question; how many run */
	uint32_t parent, launched;
	uint64_t asked;
	bool is_pending, is_failed; /* is_failed: it could not be started whole, and what there was of it ends */
};

enum rank_state { RANK_WAITING, RANK_RUNNING, RANK_ENDED };

struct rank {
	enum rank_state state;
	uint32_t cluster, app, world;
	pid_t pid;
	uint64_t epoch;
	uint64_t given_epoch;      /* it was given to cluster @given_to; where it is when this is above @epoch */
	uint32_t given_to;
	bool is_pinned;
	struct rank_wish {         /* the last that its program had: wishes.c */
		uint64_t id;       /* 0: none yet */
		bool is_due, is_pin;
		int status;        /* what was answered */
		char text[200];
	} wish;
	int status;
	json_t *name;              /* where its agent listens, the last that was heard; jobs of several hosts only */
	uint32_t name_host;
	struct rt_sigqueue held;  /* it has not been started, or its owner has given it away: for the new one */
	bool is_stop_due;         /* it has not said yet that it is stopped */
	struct joined out[2];
	struct sink *sink[2];
	/* PMI: the last barrier it entered; the last question and its answer */
	uint64_t barrier, asked;
	json_t *answer;
};

enum suspend_state {
	SUSPEND_NONE,
	SUSPEND_MOVES,  /* moves that have begun are waited for */
	SUSPEND_QUIET,  /* ranks are brought to rest */
	SUSPEND_STOP,   /* and stopped; or, instead, */
	SUSPEND_WRITE,  /* for a checkpoint: their images are written */
	SUSPEND_DONE,
};
typedef void suspend_done_fn(void *ctx, json_t *answer); /* `suspended` of runtime/wire.h; stolen */

struct receiver;
struct input {
	struct gw_watch *watch;
	struct gw_timer *timer;
	bool is_open, is_always_ready, is_deferred; /* a regular file cannot be watched */
	struct receiver *receivers;
	uint32_t n;
	char *buf;              /* bytes [start, start + len) of standard input */
	size_t len;
	uint64_t start, eof_at; /* eof_at: UINT64_MAX until it is seen */
};

struct head {
	struct gw_loop *loop;
	struct job_spec *spec;
	uint32_t job;
	struct cluster *clusters;        /* room for RT_CLUSTERS_MAX: they stay where they are */
	struct host *hosts;              /* likewise */
	uint32_t n_clusters, n_domains, n_hosts;
	bool is_networked;               /* ranks of different hosts talk to each other */
	uint8_t secret[GW_TRUST_SECRET]; /* of the job: whoever knows it belongs to it */
	struct rank *ranks;              /* [room] */
	uint32_t size, ended, room;      /* room: what host segments have names for; spawned ranks come on top of the first */
	struct world *worlds;
	uint32_t n_worlds;
	struct gw_list doors;     /* where daemons of other machines come in: doors.c */
	int family;               /* of all addresses of the job */
	struct gw_link *keeper;          /* of the pool that the job is in; NULL: of none */
	struct vacating *vacating;       /* pool.c: a host of the job is to leave the pool */
	struct gw_list additions;        /* pool.c: hosts of the pool that the job has asked for */
	struct gw_timer *telling;        /* pool.c: it will be told where the ranks are */
	struct remotes *remotes;  /* NULL: all hosts are this machine */
	struct ct_cpu baseline;   /* baseline.h: what the ranks are told to keep to, if has_baseline */
	bool has_baseline, is_baseline_known;
	const char *crowded;      /* what ranks are told by ENV_CROWDED; NULL: none was launched yet */
	uint32_t base_pid;
	char kvsname[64];

	bool is_ending, is_told_to_end; /* no rank will run on; by a signal */
	bool is_told_by_slurm, is_told_itself; /* by SIGTERM of which road: see signals.c */
	uint64_t told_ns[32], own_ns[32]; /* when a signal has come last, by number: to the daemons, to mpirun */
	bool is_stopping;               /* SIGTSTP: until all ranks have stopped */
	bool is_stop_wanted;            /* SIGTSTP came while the job was being suspended: when it is */
	int exit_code;
	bool has_exit_code;
	struct gw_timer *grace, *stop_timer, *time_limit;
	uint64_t time_limit_ms, clock_since_ns; /* what is left of -timeout, since when it runs */
	struct rlimit files;            /* as mpirun got it, and as its daemons get it */
	cpu_set_t own_cpus;             /* what mpirun may use, */
	bool is_bound;                  /* where it is bound to less: layout.c */
	int signal_fd, listener;
	struct gw_watch *signal_watch, *listener_watch;
	uint64_t started_ns;

	struct sink *sinks[2];
	struct gw_list files_out;       /* struct sink */
	struct gw_timer *line_timer;
	struct input input;
	json_t *services;
	json_t *spawns;                  /* requests that came while the job was suspended */

	struct {
		enum suspend_state state;
		uint64_t id, since_ns;
		suspend_done_fn *done; /* NULL: nobody waits */
		void *ctx;
	} suspend;
	struct checkpoint *checkpoint; /* for which the job is brought to rest; NULL: it is not */
	struct schedule *schedule;     /* NULL: without -checkpoint-dir */
	struct notice *notice;         /* NULL: nobody speaks of hosts that go away */
	struct balance *balance;       /* NULL: ranks were never balanced */
	struct looks *looks;           /* survey.c */
	struct ledger *ledger;
	struct metrics *metrics;       /* NULL: without -metrics */
	struct record *record;         /* NULL: no history is kept */
	json_t *checkpoints;           /* for status: "last" that was complete, "failed" since */
	struct gw_list dirs;           /* that it has written to: nobody else does while mpirun runs */

	struct gw_list tools, moves, growths, drains, surveys;
	struct gw_list friends, waiters; /* guests.c: other jobs, ranks that want to meet them */
	struct meet *meet;               /* meet.c; NULL: without -meet */
	struct gw_list questions;        /* lookup.c: names that are asked for there */
	uint32_t n_friends, n_guests;    /* so far; guests have the numbers below @room */
	char near_address[GW_TCP_NAME];  /* a friend's, where ours listen, too; empty: there is none with other hosts */
	bool is_drain_check_due;
	uint64_t next_id;
};

int job_run(struct job_spec *spec);                       /* returns the exit code of mpirun */
void job_fail(struct head *h, int code, const char *fmt, ...) GW_PRINTF(3, 4);
void job_note_code(struct head *h, int code);             /* the first one counts */
void job_end(struct head *h);                             /* no rank runs on */
void job_check_all_ended(struct head *h);                 /* the loop stops when no daemon is left */
void job_fail_output(struct head *h, int code, const char *fmt, ...) GW_PRINTF(3, 4); /* counts at the very end, too */
bool job_cluster_send(struct head *h, uint32_t cluster, json_t *msg); /* steals; false when it is not up */
void job_clock_go(struct head *h);                        /* of -timeout: it runs, */
void job_clock_stop(struct head *h);                      /* and stands still */
void job_say(struct head *h, const char *fmt, ...) GW_PRINTF(2, 3); /* a sentence on standard error */

/* ---- clusters.c ---- */
struct host *clusters_new_host(struct head *h, const char *name);          /* NULL: this one */
void clusters_copy_cores(struct rt_cluster_cores *to, const struct rt_cluster_cores *from);
bool clusters_is_host(const struct host *host, const char *name);          /* is it called so? */
#define CLUSTERS_HOSTS_MAX 600
void clusters_hosts(const struct head *h, char *buf, size_t cap);          /* "a, b": those that have clusters, for sentences */
struct cluster *clusters_new(struct head *h, uint32_t host, uint32_t first); /* not started yet; the caller sees to the limit */
int clusters_start(struct head *h, struct cluster *c, const char *path, struct gw_error *why);
void clusters_send_start(struct head *h, struct cluster *c);
void clusters_launch(struct head *h, struct cluster *c);  /* the ranks that begin there */
/** clusters_launch_range - ranks @first and up of those. 0; negative errno with @why: not all were sent */
int clusters_launch_range(struct head *h, struct cluster *c, uint32_t first, uint32_t n, struct gw_error *why);
void clusters_closed(struct gw_link *l, void *cluster, int error);
#define CLUSTER_NAME_MAX 300
/** clusters_name - "cluster 2", and in jobs of several hosts "cluster 2 on rig3"; returns @buf, of CLUSTER_NAME_MAX bytes */
const char *clusters_name(const struct head *h, uint32_t cluster, char *buf);
void clusters_lost_ack(struct head *h, uint32_t lost, uint32_t from);
void clusters_left(struct cluster *c);                    /* `left` */
bool clusters_have(const struct head *h, uint32_t host, uint32_t below); /* is one there, with a smaller number than @below? */

/* ---- layout.c ---- */
bool layout_is_service(const struct head *h, uint32_t cluster); /* no rank comes there unless the user says so */
void layout_describe(const struct head *h, uint32_t cluster, json_t *one); /* of a machine file, for status */
void layout_bind(struct head *h);                         /* mpirun itself, to the service clusters of this host */
void layout_unbind(struct head *h);

/* ---- remote.c ---- */
int remote_start(struct head *h, const char *path, struct gw_error *why); /* daemons of all other machines */
void remote_fini(struct head *h);                         /* waits for the launcher's processes */
int remote_listen(struct head *h, const char *name, struct gw_error *why); /* for daemons of host @name and others; once */
int remote_launch(struct head *h, uint32_t first, uint32_t n_hosts, const char *path, struct gw_error *why); /* what was made with @first */
bool remote_is_over(const struct cluster *c);             /* what started it has ended, or is still there for others */
void remote_give_up(struct cluster *c);                   /* it is not waited for any more */
void remote_left(struct cluster *c);                      /* it has left; what had started it is about to end */

/* ---- doors.c ---- */
#define DOORS_TEXT_MAX 600
typedef void doors_joined_fn(void *head, int fd, const struct gw_trust_who *peer, const struct gw_error *why);

/** doors_choose - IPv4 or IPv6, by which all hosts can be reached */
int doors_choose(struct head *h, const char *more, struct gw_error *why); /* @more: a host that is about to come, or NULL */
/** doors_open - let daemons of @host in. Adds "ADDRESS:PORT,..." to @to, which may hold others */
int doors_open(struct head *h, const char *host, doors_joined_fn *joined, char to[DOORS_TEXT_MAX], struct gw_error *why);
const char *doors_address(const struct head *h);          /* of this machine as others see it; NULL: there are none */
void doors_fini(struct head *h);

/* ---- pool.c ---- */
int pool_watch(struct head *h, struct gw_error *why);     /* the keeper's end is the job's */
void pool_placed(struct head *h);                         /* a cluster or a rank has come, moved or gone: the pool is told soon */
void pool_fini(struct head *h);
/** pool_add - as grow_begin(), on a host of the pool, of which the job gets a slot first */
int pool_add(struct head *h, const char *name, uint32_t count, void (*done)(void *ctx, json_t *answer), void *ctx, struct gw_error *why);
void pool_forget(struct head *h, const void *ctx);        /* who asked has gone */

/* ---- launchers.c ---- */
struct launch {                  /* one process of a launcher */
	const struct host *hosts;      /* for the daemons of these; several with srun only */
	uint32_t n_hosts;
	uint32_t first_cluster, count; /* of the first host; clusters of each */
	bool is_sharing;               /* the host has clusters of the job already */
	const char *path, *to;         /* of godwitd; where mpirun listens */
};
void launchers_words(struct strings *argv, const struct head *h, const struct launch *l);
void launchers_clean_environment(const struct head *h);   /* in the child that becomes it */
/** launchers_explain - it has ended, or srun says that its tasks on @nodes have (NULL: all), before all were up */
void launchers_explain(const struct launch *l, const char *nodes, int status, const char *last, struct gw_error *why);

/* ---- inherit.c ---- */
json_t *inherit_json(const struct head *h);               /* environment of daemons, limits, umask, nice value */

/* ---- reports.c ---- */
extern const struct gw_link_ops reports_link_ops;         /* its context is a struct cluster */

/* ---- verdict.c ---- */
void verdict_rank_ended(struct head *h, uint32_t rank, int status, enum pmi_phase phase);
void verdict_print_codes(struct head *h);                 /* how each rank ended */

/* ---- core.c ---- */
void core_describe(const struct head *h, uint32_t rank, char *buf, size_t cap); /* ", core dumped: FILE" */

/* ---- limits.c ---- */
/** limits_check - a job that this machine cannot carry is refused before anything starts, with the limit's name */
int limits_check(const struct head *h, uint32_t clusters, struct gw_error *why);
void limits_raise(struct head *h);                        /* mpirun's own open files */

/* ---- signals.c ---- */
int signals_init(struct head *h);
void signals_send(struct head *h, uint32_t rank, int sig);
void signals_send_held(struct head *h, uint32_t rank);    /* it runs, or runs elsewhere now */
void signals_undelivered(struct head *h, uint32_t rank, uint32_t cluster, int sig);
void signals_delivered(struct head *h, uint32_t rank, int sig);
void signals_rank_ended(struct head *h);
void signals_suspended(struct head *h);
void signals_told(struct cluster *c, int sig);            /* Slurm has sent it to a daemon */
bool signals_have_hearers(const struct head *h);          /* does a rank run? */
void signals_pass(struct head *h, int sig, bool is_told); /* it came, and was not for schedule.c after all. @is_told: as that */

/* ---- input.c ---- */
int input_init(struct head *h, struct gw_error *why);
void input_fini(struct head *h);
bool input_is_for(const struct head *h, uint32_t rank);
void input_start(struct head *h, uint32_t rank);          /* the rank runs */
void input_acked(struct head *h, uint32_t rank, uint64_t offset);
void input_moved(struct head *h, uint32_t rank, uint64_t written);
void input_closed(struct head *h, uint32_t rank);         /* it has ended, or reads no more */
bool input_is_closed(const struct head *h, uint32_t rank);
void input_begin(struct head *h, uint64_t start, const char *bytes, size_t len, bool is_ended); /* of a job that is continued */
void input_stop(struct head *h);

/* ---- pmi_head.c ---- */
int pmi_head_init(struct head *h);
void pmi_head_fini(struct head *h);
void pmi_head_tell(struct head *h, uint32_t cluster);     /* what all have published so far */
void pmi_head_tell_world(struct head *h, uint32_t cluster, uint32_t world); /* that it is there */
void pmi_head_barrier(struct head *h, uint32_t rank, uint64_t number, const json_t *puts);
void pmi_head_answer(struct head *h, uint32_t rank, uint64_t id, json_t *answer); /* stolen */
void pmi_head_ask(struct head *h, uint32_t rank, uint64_t id, const char *what, const json_t *args);
void pmi_head_rank_ended(struct head *h, uint32_t world); /* a barrier may have become impossible */
/** pmi_head_add - a world of the next @size ranks; its number, or -ENOMEM */
int pmi_head_add(struct head *h, uint32_t size, uint32_t app);

/* ---- spawn.c ---- */
#define SPAWN_ROOM 1024 /* names for ranks that come later; never used again, so this counts all that a job ever spawns */
uint32_t spawn_room(const struct job_spec *spec);
void spawn_begin(struct head *h, uint32_t rank, uint64_t id, const json_t *commands); /* answered by pmi_head_answer() */
void spawn_launched(struct head *h, uint32_t rank);
bool spawn_failed(struct head *h, uint32_t rank, const char *text); /* false: it was not spawned */
bool spawn_is_given_up(const struct head *h, uint32_t rank);        /* its end means nothing for the job */
void spawn_resumed(struct head *h);                                 /* the job rests no more */
void spawn_describe(const struct head *h, uint32_t rank, json_t *status); /* whose it is, if it was spawned */

/* ---- debug.c ---- */
void debug_launched(struct head *h);                      /* one more runs; when all do a debugger is told */
void debug_moved(struct head *h, uint32_t rank);
void debug_fini(void);

/* ---- pins.c ---- */
int pins_parse(struct head *h, const char *text, struct gw_error *why);
int pins_refuse(const struct head *h, uint32_t rank, struct gw_error *why); /* 0: it is not pinned */
json_t *pins_request(struct head *h, json_t *msg, struct gw_error *why);
void pins_describe(const struct head *h, uint32_t rank, json_t *status);

/* ---- wishes.c ---- */
void wishes_heard(struct head *h, uint32_t rank, json_t *msg); /* `wish` */
void wishes_answer(struct head *h, uint32_t rank, int status, const char *text);
void wishes_check(struct head *h);                          /* a move is over */

/* ---- moves.c ---- */
struct move;
typedef void moves_done_fn(void *ctx, const struct move *m, int status, const char *text, json_t *measures);

struct move {                    /* asked of an owner, not answered yet */
	struct gw_list node;     /* head.moves */
	uint64_t id;
	const char *by;          /* "migrate", "drain", "balance", "rank" (itself): who wants it */
	uint32_t rank, from, to;
	bool is_taken_back;      /* its destination is being drained, the job suspended, or its rank wants to stay */
	enum bal_technique asked; /* ledger.c: what was asked for, */
	bool is_bounded;         /* with a bandwidth; */
	double predicted_s;      /* how long it was expected to stand; NAN: nobody knew */
	uint64_t begun_ns;
	moves_done_fn *done;     /* NULL: who asked has gone; a move that has begun goes on */
	void *ctx;
};

int moves_allow_to(const struct head *h, json_int_t to, struct gw_error *why); /* is that a place to move to? */
bool moves_suits(const struct head *h, uint32_t to);      /* also where nobody has named it? */
int moves_allow_ranks(const struct head *h, const json_t *ranks, struct gw_error *why); /* are there such ranks? */
int moves_allow_host(const struct head *h, const char *host, struct gw_error *why); /* has the job a host of that name? */
/** moves_choose - of @host the cluster where fewest ranks are, or are going to. A rank that is on the host stays where it is */
int moves_choose(const struct head *h, json_int_t rank, const char *host, json_int_t *to, struct gw_error *why);
/** moves_begin - ask the owner of @rank. 0: @done will be called, never from inside; else @why is filled
 * @how: an object with carry, technique, max_downtime_us, bandwidth, max_slowdown, plain and moment_ms as in runtime/wire.h, or without; or NULL
 * @by: as in struct move */
int moves_begin(struct head *h, json_int_t rank, uint32_t to, json_int_t timeout_ms, const json_t *how, const char *by, moves_done_fn *done,
                void *ctx, struct gw_error *why);
void moves_forget(struct head *h, const void *ctx);         /* who asked has gone: take back what has not begun */
void moves_take_back(struct head *h, uint32_t to);          /* those to @to that have not begun */
void moves_take_back_rank(struct head *h, uint32_t rank);   /* that of @rank, likewise */
struct move *moves_of(const struct head *h, uint32_t rank); /* NULL: none was asked for */
void moves_answered(struct head *h, json_t *msg);           /* `migrate-done` */
void moves_cluster_lost(struct head *h, uint32_t cluster);  /* when it is known what the survivors own */
void moves_fini(struct head *h);

/* ---- grow.c ---- */
typedef void grow_done_fn(void *ctx, json_t *answer); /* `added` of runtime/wire.h; stolen */

/** grow_begin - clusters on host @name. @launcher: "ssh", "fork", words with %h; NULL: the job's. 0: @done will be called */
int grow_begin(struct head *h, const char *name, uint32_t count, const char *launcher, grow_done_fn *done, void *ctx,
               struct gw_error *why);
bool grow_have_network(struct head *h);                      /* do all that are there? Those that have none are asked */
const char *grow_address(const struct head *h);              /* where the daemons and ranks of this machine listen */
void grow_check(struct head *h);                             /* a cluster has come, or gone, or has a network now */
void grow_failed(struct growth *g, int code, const char *fmt, ...) GW_PRINTF(3, 4);
void grow_networked(struct cluster *c, json_t *msg);         /* `networked` */
void grow_forget(struct head *h, const void *ctx);           /* who asked has gone: it goes on */
void grow_fini(struct head *h);

/* ---- guests.c ---- */
struct friend_job;
void guests_init(struct head *h);
void guests_fini(struct head *h);
void guests_meet(struct head *h, uint32_t rank, const char *text); /* `wish`, meet; answered by wishes_answer() */
/** guests_called - `meet` has come over @l, which is that job's from now on. NULL: refused, or, without @why, not wanted */
struct friend_job *guests_called(struct head *h, struct gw_link *l, bool is_far, json_t *msg, struct gw_error *why);
/* Of links that are, or were, those of other jobs: these may be no more */
void guests_heard(struct head *h, const struct gw_link *l, json_t *msg);
void guests_closed(struct head *h, const struct gw_link *l);
void guests_check(struct head *h);                           /* a network may be there now */
void guests_no_network(struct head *h, const char *text);    /* and will not be */
void guests_news(struct head *h, uint32_t rank);             /* there is news of its name */
void guests_drained(struct head *h, const struct gw_link *l); /* of those that wait there is room for more */
void guests_tell(struct head *h, uint32_t cluster);          /* it has come: all that the others know */

uint32_t guests_any(const struct head *h);                  /* a job that this one has connected to; 0: none */
void guests_look(struct head *h, unsigned dead_ms);          /* at those on other machines: are these there? */

/* ---- meet.c ---- */
int meet_init(struct head *h, struct gw_error *why);         /* -meet, if it was given */
void meet_fini(struct head *h);

/* ---- lookup.c ---- */
void lookup_init(struct head *h);
void lookup_fini(struct head *h);
void lookup_begin(struct head *h, uint32_t rank, uint64_t id, const char *service); /* answered by pmi_head_answer() */

/* ---- drain.c ---- */
typedef void drain_done_fn(void *ctx, json_t *answer);       /* `drained` or `removed`; stolen */

/** drain_begin - empty the clusters that @targets (numbers, names of hosts) mean; @is_remove: then they leave.
 *  0: @done will be called, never from inside. Refused: nothing was begun */
int drain_begin(struct head *h, const json_t *targets, bool is_remove, uint64_t timeout_ms, drain_done_fn *done, void *ctx,
                struct gw_error *why);
json_t *drain_undo(struct head *h, const json_t *targets, struct gw_error *why); /* the answer; NULL with @why */
/** drain_where - to which cluster would @rank go if its own were drained? false: there is none */
bool drain_where(const struct head *h, uint32_t rank, uint32_t *to);
void drain_check(struct head *h);                            /* something has happened that a drain may wait for */
void drain_forget(struct head *h, const void *ctx);          /* who asked has gone: no further move is begun */
void drain_fini(struct head *h);

/* ---- notice.c ---- */
int notice_init(struct head *h, struct gw_error *why);       /* -drain-file, if it was given */
void notice_told(struct cluster *c);                         /* its daemon has heard that its host goes away */
void notice_fini(struct head *h);
/* ---- survey.c ---- */
enum survey_kind {
	SURVEY_USE,      /* counters of ranks and processors: less than a millisecond of each daemon */
	SURVEY_TRAFFIC,  /* and whom ranks talk to, as their agents said when they were asked last */
	SURVEY_STATUS,   /* and what /proc tells of each */
	SURVEY_MOVABLE,  /* and what holds it */
};
typedef void survey_done_fn(void *ctx, json_t *all);         /* doc/monitoring.md; stolen; NULL: no memory */
int survey_init(struct head *h, struct gw_error *why);
void survey_fini(struct head *h);
/** survey_begin - 0: @done will be called, perhaps from inside; else -ENOMEM */
int survey_begin(struct head *h, enum survey_kind kind, survey_done_fn *done, void *ctx);
void survey_heard(struct cluster *c, json_t *msg);           /* `status-answer`, `measured` */
void survey_forget(struct head *h, const void *ctx);         /* who asked has gone */
double survey_private_bytes(const struct head *h, uint32_t rank); /* as seen last; 0: not known */

/* ---- metrics.c ---- */
int metrics_init(struct head *h, struct gw_error *why);      /* -metrics, if it was given; after survey_init */
void metrics_fini(struct head *h);

/* ---- ledger.c ---- */
#define LEDGER_LIMITS 11
int ledger_init(struct head *h, struct gw_error *why);
void ledger_fini(struct head *h);
void ledger_begun(const struct head *h, struct move *m, const json_t *how); /* fills in what is expected of it */
void ledger_over(struct head *h, const struct move *m, int status, const char *text, json_t *measures);
void ledger_describe(const struct head *h, uint32_t rank, json_t *status, bool is_movable_asked);
/** ledger_cost_s - for how long the job would not hear from a rank that moved; @work_s: of processors, what the move takes here and there */
double ledger_cost_s(const struct head *h, uint32_t rank, double *work_s);
/** ledger_worked - all daemons together have used @daemons_s of processors in the last @seconds: what moves take of them is learnt */
void ledger_worked(struct head *h, double daemons_s, double seconds);
double ledger_link_bytes_s(const struct head *h);            /* between hosts, as seen; 0: not known */
json_t *ledger_json(const struct head *h);                   /* "moves" of doc/monitoring.md */

/* ---- balance.c ---- */
typedef void balance_done_fn(void *ctx, json_t *answer);     /* `rebalanced` of runtime/wire.h; stolen */
int balance_init(struct head *h, struct gw_error *why);      /* -balance, if it was given */
void balance_fini(struct head *h);
void balance_heard(struct cluster *c, json_t *msg);          /* `measured` */
/** balance_request - look, decide, and move unless @is_dry. @strategy: NULL: the job's, or refine. @is_recorded: the answer has the
 * snapshot. 0: @done will be called */
int balance_request(struct head *h, const char *strategy, bool is_dry, bool is_recorded, balance_done_fn *done, void *ctx,
                    struct gw_error *why);
void balance_forget(struct head *h, const void *ctx);        /* who asked has gone: no further move is begun */
json_t *balance_json(const struct head *h);                  /* for status */

/* ---- record.c ---- */
int record_init(struct head *h, struct gw_error *why);       /* unless -record none; before balance_init() */
void record_fini(struct head *h);
void record_begin(struct head *h);                           /* job.started; also without a record */
void record_end(struct head *h);                             /* job.ended, likewise */
void record_ended(struct head *h, uint32_t rank);            /* it runs no more */
uint64_t record_look_ms(const struct head *h, uint64_t at_most); /* when to look again what ranks use */
bool record_wants_traffic(struct head *h);                   /* with the look that begins now */
/** record_places - where ranks are, [[3, 0], [2, null]]: three on cluster 0, then two that have ended */
json_t *record_places(const struct head *h, uint32_t first, uint32_t size);
/** record_seen - @one: what its daemon has measured of @rank, `measured` of runtime/wire.h: whom it talks to is counted */
void record_seen(struct head *h, uint32_t rank, const json_t *one);

/* ---- suspend.c ---- */
/** suspend_begin - bring all ranks to rest. 0: @done will be called, perhaps from inside */
int suspend_begin(struct head *h, suspend_done_fn *done, void *ctx, struct gw_error *why);
/** suspend_checkpoint - write a checkpoint to @dir, then go on, or end with SUSPEND_EXIT_STOPPED. Else as suspend_begin */
int suspend_checkpoint(struct head *h, const char *dir, bool is_stopping, suspend_done_fn *done, void *ctx, struct gw_error *why);
#define SUSPEND_EXIT_STOPPED 75 /* EX_TEMPFAIL of sysexits.h: try again later */
void suspend_resume(struct head *h);                         /* if it is suspended, or about to be */
json_t *suspend_resume_request(struct head *h, struct gw_error *why); /* the answer; NULL with @why */
int suspend_refuse(const struct head *h, struct gw_error *why); /* 0: it is not suspended */
const char *suspend_text(const struct head *h);              /* "running", "suspending", "suspended" */
void suspend_heard(struct cluster *c, json_t *msg, enum suspend_state of); /* the answer of a daemon in that state */
void suspend_check(struct head *h);                          /* something may have been waited for */
void suspend_forget(struct head *h, const void *ctx);        /* who asked has gone: it goes on */

/* ---- checkpoint.c, for suspend.c ---- */
int checkpoint_prepare(struct head *h, const char *dir, bool is_stopping, struct gw_error *why);
json_t *checkpoint_request(const struct head *h);            /* for daemons */
void checkpoint_heard(struct cluster *c, json_t *msg);       /* `checkpointed` */
json_t *checkpoint_end(struct head *h, struct gw_error *why, bool *is_stopping); /* the answer; @why: it is given up */
struct cold_dir;
const struct cold_dir *checkpoint_dir(const struct head *h); /* of that which is being written */
void checkpoint_stop_after(struct head *h);                  /* it was not wanted so: the job ends when it is complete */
void checkpoint_note_failure(struct head *h, const char *text); /* for status */
void checkpoint_fini(struct head *h);                        /* what is not complete goes */
json_t *checkpoint_text(const char *text, size_t len);       /* a string; of what is not UTF-8 an object with a list of bytes */
/** checkpoint_hold - the directory @path, where nobody else writes until mpirun ends. It may be asked for again */
int checkpoint_hold(struct head *h, const char *path, struct cold_dir **out, struct gw_error *why);
void checkpoint_release(struct head *h);

/* ---- again.c ---- */
void again_say(struct head *h);                              /* that the job is continued by the same command, if it is; all its ranks are there */

/* ---- schedule.c ---- */
int schedule_init(struct head *h, struct gw_error *why);     /* -checkpoint-dir, if it was given */
void schedule_fini(struct head *h);
bool schedule_is_at(const struct head *h, const struct cold_dir *dir); /* is it that of -checkpoint-dir? */
void schedule_over(struct head *h, int code, const char *text); /* a checkpoint is over, with that; or the job was resumed */
bool schedule_signal(struct head *h, int sig, bool is_told);  /* is it one of -checkpoint-on? Then nobody else's. As signals_told */
bool schedule_is_writing(const struct head *h);              /* a checkpoint that nobody else has asked for */
int schedule_stop_signal(const struct head *h);              /* after which the job is to end; 0: none */

/* ---- restart.c ---- */
int restart_setup(struct head *h, struct gw_error *why);     /* what the head knew; after all else was set up */
uint32_t restart_job(const struct job_spec *spec);           /* its number */
uint32_t restart_room(const struct job_spec *spec, uint32_t room); /* of a job that is continued; else @room */
bool restart_is_pending(const struct job_spec *spec);        /* it is to be continued, and nothing of it has run */
void restart_cluster(struct head *h, struct cluster *c);     /* it is up: the ranks that go on there */
void restart_heard(struct cluster *c, json_t *msg);          /* `restored`, `restore-failed`, `restart-cut` */
void restart_ask(struct cluster *c, json_t *msg);            /* `image-ask` */
uint64_t restart_outfile(const struct job_spec *spec, const char *path); /* how long the file for output was; 0: it is new */

/* ---- tools.c ---- */
int tools_init(struct head *h, struct gw_error *why);
void tools_fini(struct head *h);
/** tools_come - somebody is there on @fd, which is taken over. @is_far: the mpirun of another machine, which may ask for little */
void tools_come(struct head *h, int fd, bool is_far);

#endif
