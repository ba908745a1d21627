/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/clusterd: godwitd, the kernel of one cluster: it spawns, watches, moves and reaps the ranks that live there.
 *
 * One thread, one event loop (container/ demands that one thread spawns and traces). It is started by the head
 * (mpirun), speaks runtime/wire.h with it over one link, and dies with that link, and its ranks with it.
 *
 *   main.c      arguments, the link to the head, the end
 *   ranks.c     struct rank: made by a launch or a move, ended by its death or a move
 *   launch.c    programs that are being started, several at once
 *   explain.c   why a program cannot be executed
 *   streams.c   standard input, output and error
 *   hex.c       bytes inside JSON
 *   agent.c     the control socket (container/ctl.h) and what it means for the name page
 *   pmi_port.c  the PMI socket: mpi-shim/pmi.h on one side, the head on the other
 *   requests.c  who asked for a move, and when it can begin
 *   guard.c     is it our MPI library that speaks there?
 *   join.c      a daemon on another host than mpirun
 *   inherit.c   what such a daemon takes from mpirun
 *   place.c     the processors of the cluster and of its ranks
 *   probe.c     whether this host can reach the others
 *   far.c       migration sessions with daemons of other hosts
 *   network.c   a job of one host gets a network
 *   worlds.c    ranks that began together; those that others have spawned
 *   pace.c      how fast a rank goes, how much goes over a link
 *   suspend.c   ranks that rest until they are let go
 *   checkpoint.c  and whose images are written meanwhile
 *   restart.c   ranks that were written down come back
 *   leave.c     the end of a daemon whose job goes on
 *   moves.c     what migration/ asks of the owner of a rank
 *   wishes.c    what programs ask for and tell (godwit.h)
 *   movable.c   what godwit status --movable says
 *   measure.c   what ranks and processors have done, for the balancer; quota.c: what a control group allows
 *   guests.c    other jobs that ranks talk to
 *
 * Everything here is on the cluster side: rebuilt where a rank arrives, from the JSON that rank_export() makes.
 */
#ifndef RT_CLUSTERD_H
#define RT_CLUSTERD_H

#include <sys/resource.h>

#include "container/container.h"
#include "container/cpu.h"
#include "container/ctl.h"
#include "migration/migration.h"
#include "mpi-shim/pmi.h"
#include "noc/net.h"
#include "runtime/base/event.h"
#include "runtime/base/tcp.h"
#include "runtime/base/trust.h"
#include "runtime/sigqueue.h"
#include "runtime/topology.h"
#include "runtime/wire.h"

/* The numbers that the rank sees; inside the first 64, where a process needs no larger table. */
#define RANK_PMI_FD 62
#define RANK_CTL_FD 63

#define JOIN_WAYS_MAX 8

struct join { /* of a daemon that mpirun has started on another host; join.c */
	bool is_joined;
	struct { char address[GW_TCP_NAME]; uint16_t port; } ways[JOIN_WAYS_MAX]; /* to mpirun; numeric */
	uint32_t n_ways;
	char own_address[GW_TCP_NAME];     /* of this host in the network where that has worked */
	uint32_t job, cluster, count;      /* @count clusters from @cluster on are this host's */
	const char *hosts;                 /* NULL; or A,B,C, of one srun: @cluster is the first's */
	uint8_t secret[GW_TRUST_SECRET];
	int *siblings;                     /* of the first: to hand the segment to the others */
	uint32_t n_siblings;
	int segment_from;                  /* of the others; -1: none */
	bool is_sharing;                   /* the host has clusters of the job already, and a segment */
	int segment_listener;              /* where one of them hands it over; -1: none */
	struct gw_watch *input;
	struct gw_timer *look;
};

enum suspend_state {
	SUSPEND_NONE,
	SUSPEND_QUIESCING, /* ranks are asked to be quiet */
	SUSPEND_QUIET,     /* all here are; the others' may not be */
	SUSPEND_STOPPING,
	SUSPEND_STOPPED,
};

struct clusterd {
	struct join join;
	struct gw_loop *loop;
	struct gw_link *head;
	struct gw_watch *signals, *listener_watch;
	int signal_fd, listener;
	uint32_t job, cluster, domain;
	uint32_t size, room;        /* names that there are, spawned ones among them; that there can be */
	uint32_t guests_from;       /* from this one up to room they are of other jobs; 0: none is */
	uint64_t incarnation;
	bool is_started, is_ending;
	cpu_set_t cpus;
	cpu_set_t *binds;           /* sets of processors for ranks that are bound, and how many are bound to each */
	uint32_t *bind_users, n_binds;
	json_t *cut_domains;        /* of all clusters that this host was cut into, in their order; NULL: the head has cut */
	uint32_t near[RT_NEAR];     /* of another machine than mpirun's: runtime/topology.h */
	struct rlimit limits[RLIM_NLIMITS]; /* as they were set for this daemon, and as its ranks get them */
	bool has_limits;
	uint32_t cores;
	int segment_fd;
	struct noc_segment segment;
	struct noc_host here;
	bool is_networked;          /* the job has several hosts */
	struct far_daemon *far;     /* of other hosts, by cluster; far.c */
	uint32_t far_end;           /* behind the last of them */
	struct probe *probe;
	struct gw_trust_listener *far_listener;
	uint16_t far_port;
	struct gw_timer *network, *leaving; /* something is waited for: network.c, leave.c */
	char network_address[GW_TCP_NAME];
	struct {
		enum suspend_state state;
		uint64_t id, until_ns;      /* of the head's request */
		struct gw_timer *timer;
	} suspend;
	struct checkpoint *checkpoint; /* that is being written; NULL */
	bool is_checkpoint_turn_due;
	struct restart *restart;    /* ranks that come back from their images; NULL */
	bool is_restart_turn_due, is_restarting; /* is_restarting: the job was written down */
	bool is_leaving;
	struct heard {              /* of each rank: where it has listened lately; connections to there are the network's */
		struct noc_address address[4];
		unsigned newest;
	} *heard;
	struct world **worlds;
	uint32_t n_worlds;
	struct mig_line line;       /* that the last move went over, when that was over */
	struct gw_list ranks, moves; /* struct rank; struct move of requests.c */
	struct gw_list launches;     /* of launch.c: their ranks are ARRIVING */
	struct mig *mig;
};

enum rank_state {
	RANK_HERE,      /* it lives here */
	RANK_ARRIVING,  /* a move brings it, or its program is being executed; not ours yet */
	RANK_GIVEN,     /* a move took it; not ours any more */
};

enum agent_state { /* in this order: the numbers travel with a rank */
	AGENT_NONE = 0,  /* no domain was opened: moves without QUIESCE */
	AGENT_STARTING,  /* HELLO came, ATTACH was sent */
	AGENT_ATTACHED,
	AGENT_QUIESCING, /* QUIESCE was sent */
	AGENT_QUIET,     /* detached, for a move */
	AGENT_CLOSING,   /* MPI_Finalize */
	AGENT_CLOSED,    /* moves without QUIESCE */
};

struct out_stream {
	struct rank *rank;
	uint32_t stream;
	int fd;                  /* our end, or -1 */
	struct gw_watch *watch;
	uint64_t offset, acked;  /* sent to the head; written by the head */
	void *rest;              /* of a write that a move cut short; sent when the rank is ours */
	size_t rest_len;
};

struct in_stream {
	bool is_wanted;          /* else /dev/null */
	int fd;                  /* our end; -1: closed, the end was written or nobody reads */
	struct gw_watch *watch;
	char *queue;             /* RT_INPUT_WINDOW bytes */
	size_t queued;
	uint64_t written, eof_at; /* eof_at: UINT64_MAX while unknown */
};

struct rank {
	struct gw_list node;
	struct clusterd *d;
	struct mig_pace pace;        /* when it began to run here, or had passed MPI_Init */
	uint64_t traffic_at;         /* of its struct ct_traffic, in it; 0: its agent has not attached */
	uint64_t told_at;            /* of its struct ct_told, likewise */
	uint32_t moment;             /* the wish by which its program waits at a good moment; 0: it does not */
	uint32_t proc;
	enum rank_state state;
	struct ct_rank *ct;          /* NULL while a move brings it and after it was given */
	pid_t pid;
	uint64_t epoch, incarnation; /* of the name; attaches */
	struct noc_address address;  /* where its agent listens, in jobs of several hosts */
	struct gw_watch *status_watch;
	bool is_exported;            /* frozen and described for a move: nothing may reach it here */
	bool is_counted;             /* in the loads of cluster and domain */
	struct rt_sigqueue undelivered; /* signals that wait for a move to end */
	bool is_suspended;           /* SIGSTOP was sent, since the job is suspended; or, then, */
	bool is_stopped_by_another;  /* it was stopped already and stays so when the job is resumed */
	bool is_frozen;              /* for a checkpoint, until the job is resumed */
	bool is_left_busy;           /* its agent could not be quiet: it is stopped where it is */
	int slot;                    /* of the daemon's binds; -1: it may use all of the cluster's cores */

	struct out_stream out[2];    /* stdout, stderr */
	struct in_stream in;

	int ctl_fd;
	struct gw_watch *ctl_watch;
	enum agent_state agent;
	struct gw_timer *attach_timer; /* ATTACH failed: when it is asked again, */
	uint32_t attach_failures;      /* how often it has, and the session that it is answered for */
	uint32_t attach_session;

	int pmi_fd;
	pid_t pmi_speaker;           /* who wrote last: the rank, or a process of it */
	bool is_pmi_held;            /* the rank is frozen and its unread bytes are copied: answers wait in pmi_held */
	char *pmi_held;
	size_t pmi_held_len;
	struct gw_watch *pmi_watch;
	struct pmi_session *pmi;
	struct {                     /* measure.c */
		int fd;              /* a file in memory where its agent writes; 0: not made */
		bool is_due;         /* it has been asked */
		json_t *last;        /* what it said: [[peer, bytes, messages], ...], */
		uint64_t last_ns;    /* and when */
	} traffic;
	struct { pid_t pid, tid; uint64_t ns; } agent_of; /* the thread of its process @pid that is its agent, what it has used. measure.c */
	struct { uint64_t before, last; } cpu, waited; /* ns: in processes that it was before, in this one. measure.c */
};

/* ---- measure.c ---- */
void measure_begin(void);                                                    /* once, when the daemon is started */
void measure_answer(struct clusterd *d, json_t *msg, int *fds, size_t n_fds); /* `measure` of the head */
void measure_traffic(struct rank *r, const struct ct_ctl_msg *m);            /* TRAFFIC of its agent */
void measure_forget(struct rank *r);
json_t *measure_rank_json(struct rank *r);                                   /* what it has used since it began, wherever that was */
json_t *measure_cluster_json(const struct clusterd *d);                      /* what the processors here have done, and what memory is free */
void measure_note(struct rank *r);                                           /* its agent is about to detach */
json_t *measure_export(struct rank *r);                                      /* travels with it */
void measure_import(struct rank *r, const json_t *used);                     /* NULL ok */

/* ---- main.c ---- */
void clusterd_end(struct clusterd *d, int code);                 /* kill what lives here and leave the loop */
GW_PRINTF(2, 3) void clusterd_fatal(struct clusterd *d, const char *fmt, ...); /* tell the head why, then end */

/* ---- ranks.c ---- */
struct rank *rank_find(struct clusterd *d, uint32_t proc);       /* that lives here, or NULL */
int rank_create(struct rank **out, struct clusterd *d, uint32_t proc, uint32_t appnum, bool has_stdin,
                struct ct_plumbing *plumbing, struct gw_error *why);
void rank_destroy(struct rank *r);                               /* NULL ok; kills a program that is still there */
int rank_adopt(struct rank *r, struct ct_rank *ct);              /* it runs here now: watch and count it */
int rank_watch_status(struct rank *r);                           /* again, after a move that failed */
void rank_unwatch_status(struct rank *r);                        /* before its container goes: that closes what is watched */
void rank_count(struct rank *r);         /* in the loads that waiting ranks go by; once */
void rank_uncount(struct rank *r);
const cpu_set_t *rank_bind(struct rank *r, int slot);            /* the set that fewest use; @slot if it is one of them */
void rank_signal(struct rank *r, int sig);
bool rank_is_stopped(const struct rank *r);                      /* by a signal */
void rank_look_at_status(struct rank *r);                        /* has it ended? */
const char *rank_state_text(const struct rank *r);                /* "MPI", "moving", "in MPI_Init", ... */
json_t *rank_status_json(struct rank *r, bool is_movable_asked);
void plumbing_close(struct ct_plumbing *p);
void plumbing_init(struct ct_plumbing *p);

/* ---- launch.c ---- */
void rank_launch(struct clusterd *d, const void *frame, size_t len); /* RT_FRAME_LAUNCH; goes on when this has returned */
void launches_settle(struct clusterd *d);                        /* waits until none is under way */
void launches_fini(struct clusterd *d);

/* ---- explain.c ---- */
/**
 * explain_exec - add to @why, of a spawn that failed with @code, what a person would look for first
 * Return: -ENOENT or another code of the exec; -EIO when it is not about the program.
 */
int explain_exec(struct gw_error *why, int code, const char *program, const char *cwd, char *const *envp);

/* ---- streams.c ---- */
int streams_open(struct rank *r, struct ct_plumbing *plumbing, struct gw_error *why);
int streams_watch(struct rank *r);
void streams_close(struct rank *r);
void streams_drain(struct rank *r);                              /* send all that has been written so far */
void streams_acked(struct rank *r, uint32_t stream, uint64_t offset);
void streams_input(struct rank *r, uint64_t offset, const char *bytes, size_t len);
void streams_input_eof(struct rank *r, uint64_t offset);
json_t *streams_export(struct rank *r, struct gw_error *why);
int streams_import(struct rank *r, const json_t *state, struct gw_error *why);
void streams_taken(struct rank *r);

/* ---- hex.c ---- */
char *bytes_to_hex(const void *bytes, size_t len);               /* heap; NULL: no memory */
int bytes_from_hex(const char *hex, void **bytes, size_t *len);  /* heap; -EPROTO, -ENOMEM */

/* ---- agent.c ---- */
int agent_open(struct rank *r, struct ct_plumbing *plumbing, struct gw_error *why);
int agent_watch(struct rank *r);
void agent_drain(struct rank *r);                                /* handle all that it has said so far */
void agent_close(struct rank *r);
int agent_send(struct rank *r, enum ct_ctl_op op, uint32_t session, uint64_t deadline_ms);
int agent_say(struct rank *r, const struct ct_ctl_msg *m);       /* as it is; 0 or negative errno */
void agent_reattach(struct rank *r, uint32_t session);           /* ATTACH, again until it works or the job ends */
void agent_publish(struct rank *r, enum noc_name_state state);
void agent_heard(struct clusterd *d, const json_t *msg);         /* `name`: where a rank of another host is */
void agent_look_at_page(struct clusterd *d);                     /* where the network's connections may lead to */
const char *agent_state_name(enum agent_state s);

/* ---- guests.c ---- */
void guests_heard(struct clusterd *d, const json_t *msg);        /* `guests`: processes of another job */

/* ---- far.c ---- */
int far_init(struct clusterd *d, const char *address, struct gw_error *why); /* after moves_init */
void far_fini(struct clusterd *d);
void far_heard(struct clusterd *d, const json_t *msg);   /* `daemon`: where one of another host listens */
void far_left(struct clusterd *d, uint32_t cluster);     /* it does not any more */
#define FAR_UNKNOWN (-ENOENT)
bool far_next(const struct clusterd *d, uint32_t *cluster); /* the first one of the host after that of *@cluster, round and round */
int far_dial(const struct clusterd *d, uint32_t cluster, struct gw_error *why); /* begins to connect; FAR_UNKNOWN, or another error */
int far_connect(void *clusterd, uint32_t cluster, void **handle, void (*done)(void *peer, int fd, const char *why), void *peer,
                struct gw_error *why);                   /* migration.h, far */
void far_cancel(void *clusterd, void *handle);

/* ---- network.c ---- */
int network_read(struct clusterd *d, const char *address, const json_t *msg); /* which host this is, where its ranks listen */
void network_take_up(struct clusterd *d, const char *address, const json_t *msg); /* `network`; @address: of this host */
void network_rank_attached(struct clusterd *d);          /* one may have been waited for */
bool network_attach_failed(struct rank *r, uint32_t session, const char *text); /* then it goes on without one */

/* ---- worlds.c ---- */
struct world_place { uint32_t rank, size; bool is_spawned; }; /* of a rank in its MPI_COMM_WORLD */
int worlds_add(struct clusterd *d, uint32_t size, const char *kvsname, int32_t universe); /* the next @size names */
void worlds_fini(struct clusterd *d);
void worlds_heard(struct clusterd *d, json_t *msg);      /* `world` */
void worlds_barrier_done(struct clusterd *d, json_t *msg); /* `barrier-done` */
struct pmi_job *worlds_pmi(struct clusterd *d, uint32_t proc); /* NULL: no world has this rank */
bool worlds_place(const struct clusterd *d, uint32_t proc, struct world_place *out);

/* ---- suspend.c ---- */
void suspend_begin(struct clusterd *d, uint64_t id);     /* `suspend` */
void suspend_stop(struct clusterd *d, uint64_t id);      /* `suspend-stop` */
void suspend_resume(struct clusterd *d);                 /* `resume` */
void suspend_look(struct clusterd *d);                   /* a rank may have been waited for */
bool suspend_quiet(struct rank *r, const struct ct_ctl_msg *m);
bool suspend_is_on(const struct clusterd *d);

/* ---- pace.c ---- */
bool pace_traffic(const struct rank *r, struct ct_traffic *t); /* what it has sent and received; false: not known */
void pace_begin(struct rank *r);                         /* from now on it runs undisturbed */
void pace_look(void *ctx, void *rank, struct mig_pace *now, struct mig_pace *then); /* of struct mig_ops, as is */
void pace_turns(void *ctx, void *rank, struct mig_turns *now);
void pace_line(void *ctx, int fd, struct mig_line *now, struct mig_line *then);     /* that */
void pace_line_rests(struct clusterd *d);                /* no move is under way */

/* ---- checkpoint.c ---- */
void checkpoint_begin(struct clusterd *d, uint64_t id, const char *dir); /* `checkpoint` */
void checkpoint_drop(struct clusterd *d);                /* what is not written yet will not be */

/* ---- restart.c ---- */
void restart_begin(struct clusterd *d, json_t *request); /* `restart` */
void restart_piece(struct clusterd *d, const struct rt_piece *p, const void *bytes, size_t len); /* of an image, asked of the head */
void restart_cut(struct clusterd *d);                    /* `restart-cut` */
void restart_go(struct clusterd *d);                     /* `restart-go` */
void restart_drop(struct clusterd *d);                   /* what has not run will not */

/* ---- leave.c ---- */
void leave_begin(struct clusterd *d);
void leave_linger(const struct clusterd *d);

/* ---- probe.c ---- */
int probe_init(struct clusterd *d);
void probe_fini(struct clusterd *d);

/* ---- join.c ---- */
int join_parse(struct join *j, const char *list, struct gw_error *why); /* of --join */
int join_prepare(struct join *j, struct gw_error *why);  /* reads the secret; comes back once in each daemon of the host */
int join_connect(struct clusterd *d, struct gw_error *why); /* the proved connection to the head; runs the loop meanwhile */
void join_fence(struct clusterd *d);                     /* of all daemons of a job of several hosts */
int join_watch(struct clusterd *d);                      /* end with what started us, or with the head's host */
void join_give_segment(struct join *j, int segment_fd);
void join_share_segment(const struct clusterd *d, uint32_t cluster); /* with a daemon that has come to this host */
bool join_has_segment(const struct join *j);             /* somebody hands it over */
int join_take_segment(struct join *j, struct gw_error *why);
void join_fini(struct join *j);

/* ---- inherit.c ---- */
void inherit_take(struct clusterd *d, const json_t *from); /* `inherit` of start; NULL ok */

/* ---- place.c ---- */
int place_take(struct clusterd *d, const json_t *start, struct gw_error *why);
json_t *place_json(const struct clusterd *d);            /* for `up` */

/* ---- pmi_port.c ---- */
int pmi_port_open(struct rank *r, uint32_t appnum, struct ct_plumbing *plumbing, struct gw_error *why);
int pmi_port_watch(struct rank *r);
void pmi_port_close(struct rank *r);
void pmi_port_drain(struct rank *r);
json_t *pmi_port_export(struct rank *r, struct gw_error *why);
void pmi_port_let_go(struct rank *r);                            /* it runs (here again, or here now): give what was held */
int pmi_port_import(struct rank *r, const json_t *state, struct gw_error *why);

/* ---- requests.c ---- */
void moves_request(struct clusterd *d, uint64_t id, uint32_t proc, uint32_t to, uint64_t timeout_ms, const json_t *how);
void moves_cancel(struct clusterd *d, uint64_t id);              /* unless it has begun */
void moves_try(struct rank *r);                                  /* the rank's agent or PMI state has changed, or it is at a good moment */
bool moves_wait_for_moment(const struct rank *r);
int moves_readiness(const struct rank *r, struct gw_error *why); /* 0 with its agent, 1 without, -EAGAIN with @why: later */
json_t *moves_requested_json(const struct rank *r);              /* the cluster that it is to go to, or NULL */
void moves_rank_ended(struct rank *r);
void moves_rank_left(struct rank *r);                            /* with a session that goes on */
void moves_session_ended(struct clusterd *d, uint32_t session, struct rank *r, int status, const char *text,
                         const json_t *measures);                /* @r: NULL when it is not ours any more */
void moves_forget(struct clusterd *d);

/* ---- wishes.c ---- */
void wishes_asked(struct rank *r, const struct ct_ctl_msg *m);   /* WISH */
void wishes_answered(struct clusterd *d, json_t *msg, int *fds, size_t n_fds); /* `wished` */
bool wishes_told(const struct rank *r, struct ct_told *out);     /* false: nothing that can be read */
bool wishes_want_moment(struct rank *r);                         /* ask for one. false: it names none */
void wishes_moment_over(struct rank *r);                         /* whoever waits at one goes on */

/* ---- movable.c ---- */
json_t *movable_json(struct rank *r);
void movable_read_reconnecting(const json_t *lists);             /* this host's and the job's, into container/ */

/* ---- guard.c ---- */
/** guard_allow - may this process of the rank say this to PMI? @why says what kind of MPI it holds instead of ours */
int guard_allow(struct rank *r, pid_t speaker, enum pmi_saying what, const char *key, struct gw_error *why);

/* ---- moves.c ---- */
int moves_init(struct clusterd *d, struct gw_error *why);
void moves_fini(struct clusterd *d);
json_t *moves_hints(struct rank *r);
json_t *moves_export(struct rank *r, struct gw_error *why);       /* of a frozen rank; moves_stay() must follow */
void moves_stay(struct rank *r, uint32_t session);               /* and then ct_rank_unfreeze() and moves_after() */
void moves_after(struct clusterd *d);                            /* on the next turn: what has waited for them */
int moves_prepare(struct clusterd *d, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, struct rank **r,
                  struct gw_error *why);                         /* as ops.prepare of migration.h, and so on: a move from nowhere */
int moves_import(struct rank *r, const json_t *state, struct gw_error *why);
int moves_arriving(struct rank *r, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why);
void moves_taken(struct rank *r, struct ct_rank *ct, uint64_t epoch);
bool moves_allow_reap(struct rank *r);                           /* false: its copy here was given away */
bool moves_is_busy(const struct rank *r);                        /* it may be stopped, or given */
bool moves_has_arrived(const struct rank *r);                    /* it is busy, and runs here: only its pages still come */
bool moves_quiet(struct rank *r, const struct ct_ctl_msg *m);    /* QUIET or BUSY; false: no session waits for it */
void moves_attached(struct rank *r, const struct ct_ctl_msg *m); /* ATTACHED with a session */
void moves_peer_dead(struct clusterd *d, uint32_t cluster, uint64_t incarnation);
void moves_shutdown(struct clusterd *d);
json_t *moves_sessions_json(struct clusterd *d);

#endif
