/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/balance: from a snapshot of a running job to a plan of moves. Pure functions: nothing here measures, moves or waits.
 *
 *   snapshot ──strategy──► where each rank should be ──plan──► the moves that are worth their cost, the most useful first
 *
 * A snapshot says what was measured: of each rank its useful processor time, what it costs to move it, to whom it talks; of
 * each cluster what it can carry. Clusters that share processors are one domain: what is balanced are domains, and a cluster of
 * a domain is only a place in it.
 *
 * The time model, with which plans are judged. The domain that is busiest sets the pace of a parallel program; let `peak` be the
 * part of the interval for which it computed (1: all the time). The rest of a step, 1 - peak, is waiting that no placement
 * changes. So a placement whose busiest domain would be busy for peak' takes peak' + (1 - peak) of the time, and over a
 * horizon of H seconds it gains H * (peak - peak'). A rank with one thread has one core at a time, so the peak is never smaller
 * than its load over the speed of that core. Links are treated the same way: the part of the interval for which the busiest
 * link carried messages, or a rank waited for the latency of its far ones. A link belongs to a host. With a machine file it belongs to a
 * cluster, and what goes further takes as many links, and as long, as it has hops. So does what goes from cluster to cluster of a host
 * whose distances are known: that is added, since it goes another way and is waited for as well.
 *
 * Called by mpirun and by tools. Everything is on the cluster side. Not for concurrent calls on one object.
 */
#ifndef RT_BALANCE_H
#define RT_BALANCE_H

#include <jansson.h>

#include "runtime/base/base.h"

#define BAL_NONE UINT32_MAX

/* A rank, as an entry of struct bal_snapshot. All rates are of the interval that was measured. */
struct bal_rank {
	uint32_t proc;        /* its number in the job */
	uint32_t cluster;     /* where it is: an index of bal_snapshot.clusters */
	double load;          /* useful processor seconds a second: waiting in MPI is not counted */
	double width;         /* on how many cores at once it can compute: its threads that do. At least 1 */
	double move_s;        /* what its move costs the job, in seconds: predicted pause and slow-down */
	double memory_bytes;  /* what it would need where it comes to */
	double rested_s;      /* since its last move; INFINITY: it has not moved */
	bool is_fixed;        /* pinned, or held by something: it stays */
};

struct bal_cluster {
	uint32_t number;      /* as tools name it */
	uint32_t host;        /* an index from 0 */
	uint32_t domain;      /* an index from 0: clusters of a domain share its processors */
	uint32_t inside;      /* its number in the machine of its host: bal_snapshot.inside */
	double memory_bytes;  /* room for ranks that come; INFINITY: not known */
	bool is_closed;       /* no rank may come, and those that are there should leave (a drain) */
};

struct bal_domain {
	double cores;         /* how many */
	double speed;         /* of one of them, where 1 is what loads were measured in */
	double other;         /* processor seconds a second that others than this job used there */
};

/* What two ranks say to each other, both ways together. */
struct bal_edge { uint32_t a, b; /* indexes of ranks, a < b */ double bytes_s, messages_s; };

struct bal_snapshot {
	struct bal_rank *ranks;
	struct bal_cluster *clusters;
	struct bal_domain *domains;
	struct bal_edge *edges;
	uint32_t nranks, nclusters, ndomains, nhosts, nedges;
	double link_bytes_s;          /* what a link carries; 0: not known, 1e9 is taken */
	double link_message_s;        /* what a far message costs whoever waits for it; 0: not known, 15e-6 is taken */
	const struct bal_machine *machine; /* distances; NULL: by host alone. Not owned */
	const struct bal_machine *const *inside; /* without it, [nhosts] distances in each host, or NULL: all alike. Not owned, not recorded */
};

/** bal_snapshot_create - with all entries zero; bal_snapshot_destroy() frees it. NULL: no memory */
struct bal_snapshot *bal_snapshot_create(uint32_t nranks, uint32_t nclusters, uint32_t ndomains, uint32_t nedges);
void bal_snapshot_destroy(struct bal_snapshot *s); /* NULL ok */

/** bal_snapshot_check - is it one that strategies may be given: indexes in range, numbers finite and not negative? Sets nhosts.
 * -EINVAL with the sentence */
int bal_snapshot_check(struct bal_snapshot *s, struct gw_error *why);

/* As recorded: {"ranks": [...], "clusters": [...], "domains": [...], "edges": [[a, b, bytes/s, messages/s], ...]}. doc/balance.md */
json_t *bal_snapshot_to_json(const struct bal_snapshot *s);
int bal_snapshot_from_json(struct bal_snapshot **out, const json_t *j, struct gw_error *why);

/* ---- machine.c, machine_file.c: which clusters there are, and how far from each other ----------------------------------- */

/* A machine of clusters that stand in a mesh, torus or tree, or as links say. Read from a file: doc/balance.md. */
struct bal_machine;
int bal_machine_read(struct bal_machine **out, const char *path, struct gw_error *why);
int bal_machine_parse(struct bal_machine **out, const char *text, size_t len, struct gw_error *why); /* the text of such a file */
/**
 * bal_machine_of_host - clusters of one host, as a tree of what they share
 * @near: of each cluster @levels numbers, of the largest thing that some share (a package) to the smallest (a cache)
 * Return: 0, *out is NULL where all share all, or there are too many to be worth it; -ENOMEM
 */
int bal_machine_of_host(struct bal_machine **out, const uint32_t *near, uint32_t levels, uint32_t clusters);
void bal_machine_destroy(struct bal_machine *m); /* NULL ok */
uint32_t bal_machine_clusters(const struct bal_machine *m);
uint32_t bal_machine_compute(const struct bal_machine *m);                  /* how many of them are for ranks: at least 1 */
uint32_t bal_machine_cores(const struct bal_machine *m, uint32_t cluster);  /* as the file says; 1 where it does not */
double bal_machine_link(const struct bal_machine *m, double *message_s);    /* bytes a second; each 0 where the file does not say it */
bool bal_machine_is_service(const struct bal_machine *m, uint32_t cluster); /* no rank is placed there unless the user says so */
/** bal_machine_service - which service cluster is the nearest by the control network; the first of several. BAL_NONE: there is none */
uint32_t bal_machine_service(const struct bal_machine *m, uint32_t cluster);

/** bal_hops - from cluster to cluster (indexes): 0 to itself. Without a machine: 1 on a host, 4 between hosts; with distances in
 * hosts, those, and more than any of them between hosts */
uint32_t bal_hops(const struct bal_snapshot *s, uint32_t from, uint32_t to);

/* ---- strategies --------------------------------------------------------------------------------------------------------- */

enum bal_strategy { BAL_OFF = 0, BAL_GREEDY, BAL_REFINE, BAL_COMM, BAL_CONSOLIDATE };
const char *bal_strategy_name(enum bal_strategy s); /* as 'mpirun -balance' has it; constant */
int bal_strategy_parse(const char *name, enum bal_strategy *out); /* -EINVAL */

struct bal_options {
	enum bal_strategy strategy;
	double horizon_s;     /* how long the job is expected to go on like this: what a gain is counted over */
	double min_gain;      /* of the time, 0.03: below that the job is left alone */
	double sure_gain;     /* of the time, 0: below that one look is not enough, since it may be noise; one before has to have @wanted the same;
	                       * INFINITY: whatever it gains */
	uint32_t wanted;      /* bal_plan.wanted of the look before; BAL_NONE: there was none */
	double rest_s;        /* a rank that moved more recently stays, so that nothing swings to and fro */
	double fill;          /* consolidate: how full a domain may become, 0.9 */
	uint32_t max_moves;   /* 0: as many as are worth it */
};
extern const struct bal_options bal_defaults;

struct bal_move {
	uint32_t rank;        /* index of bal_snapshot.ranks */
	uint32_t from, to;    /* indexes of clusters */
	double gain_s;        /* what the job loses over the horizon when this one alone is left out; may be 0 */
};

struct bal_measures { /* of a placement */
	double peak;          /* part of the time for which the busiest domain computes; over 1: it cannot keep up */
	double link;          /* part of the time for which the busiest link carries messages */
	double far_bytes_s;   /* between hosts; with a machine file, between clusters */
	double hop_bytes_s;   /* bytes a second times hops */
	uint32_t used;        /* clusters with ranks */
};

struct bal_plan {
	struct bal_move *moves; /* the most useful first */
	uint32_t nmoves;
	struct bal_measures before, after;
	double bound;         /* no placement has a smaller peak (the snapshot's fixed ranks and closed clusters respected) */
	double gain_s, cost_s; /* over the horizon */
	uint32_t wanted;      /* the domain that ranks should leave first, also where that is put off (sure_gain); BAL_NONE: none */
	bool is_forced;       /* ranks had to leave closed clusters: the gain did not decide */
	char words[200];      /* one line for people: what is planned and why, or why nothing is */
};

/**
 * bal_plan_make - decide
 * @s: checked by bal_snapshot_check()
 * Return: 0, @plan to be cleared by bal_plan_fini(), also when it has no moves; -ENOSPC, nothing else has room for what has to
 * leave; -ENOMEM; -ENOTSUP, that strategy was left out of this build
 */
int bal_plan_make(struct bal_plan *plan, const struct bal_snapshot *s, const struct bal_options *o, struct gw_error *why);
void bal_plan_fini(struct bal_plan *plan);

/** bal_measure - a placement; @at: a cluster for each rank, NULL: where they are */
void bal_measure(struct bal_measures *out, const struct bal_snapshot *s, const uint32_t *at);

/** bal_bound - no placement has a smaller peak than this */
double bal_bound(const struct bal_snapshot *s);

#endif
