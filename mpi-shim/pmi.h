/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/pmi: the server side of PMI-1, the lines by which MPI processes find each other at start.
 *
 * A pure library: bytes of a rank go in, answers and wishes come out through callbacks; it owns no descriptor and never
 * waits. Each godwitd has one struct pmi_job, its copy of the job's key-value space, and one struct pmi_session for each
 * of its ranks. What a rank puts stays in its session until its next barrier, travels with that barrier to the head
 * (mpirun), and comes back merged with everybody's when all ranks are there; so gets are answered from memory.
 *
 *   rank                         session                                   head
 *    | put key=a value=1 ------> |                                          |
 *    | barrier_in -------------> | ops.barrier(1, {a:1}) -----------------> | waits for all ranks
 *    |                           | <-- pmi_job_barrier_done(1, merged) ---- |
 *    | <----------- barrier_out  | pmi_session_resume()                     |
 *    | get key=b --------------> |                                          |
 *    | <------------ get_result  |                                          |
 *    | publish_name -----------> | ops.ask(1, "publish", ...) ------------> |
 *    | <-------- publish_result  | <-- pmi_session_answer(1, ...) --------- |
 *
 * A session moves with its rank: pmi_session_export() is all of it as JSON. Barriers and questions are numbered, so the
 * new daemon repeats what may have been lost on the way (pmi_session_repeat) and the head takes a repetition as such.
 */
#ifndef PMI_H
#define PMI_H

#include <jansson.h>

#include "runtime/base/base.h"

#define PMI_KVSNAME_MAX 256  /* with its NUL, as the three limits of get_maxes are */
#define PMI_KEY_MAX     64
#define PMI_VALUE_MAX   1024
#define PMI_LINE_MAX    2048 /* clients write at most 1024 */
#define PMI_SPAWN_MAX   (256u << 10) /* bytes of one multi-line spawn command */

/* One daemon's copy of what the job shares. */
struct pmi_job {
	char kvsname[PMI_KVSNAME_MAX];
	uint32_t size;
	int32_t universe;        /* -1: as many as there is room for; MPI_UNIVERSE_SIZE is not set then */
	uint64_t barriers_done;  /* all ranks have passed this many */
	json_t *space;           /* key -> value */
};

/** pmi_job_init - @kvsname: copied, at most PMI_KVSNAME_MAX - 1 bytes of it; @size: ranks; @universe: see above. 0, or -ENOMEM */
int pmi_job_init(struct pmi_job *job, const char *kvsname, uint32_t size, int32_t universe);
void pmi_job_fini(struct pmi_job *job); /* after its sessions */

/** pmi_job_barrier_done - the head says that barrier @number is complete; @puts (borrowed) are everybody's, merged.
 *  Then call pmi_session_resume() on each session. */
int pmi_job_barrier_done(struct pmi_job *job, uint64_t number, const json_t *puts);

enum pmi_phase { /* written numbers: they are in the exported state */
	PMI_SILENT    = 0, /* has never spoken */
	PMI_OPEN      = 1, /* init was said */
	PMI_FINALIZED = 2, /* finalize was said */
};

enum pmi_saying { PMI_SAYS_INIT, PMI_SAYS_PUT, PMI_SAYS_FINALIZE };

struct pmi_session;

struct pmi_ops {
	void (*reply)(void *ctx, const char *line, size_t len);                      /* to the rank; ends in a newline */
	void (*barrier)(void *ctx, uint64_t number, const json_t *puts);             /* to the head */
	void (*ask)(void *ctx, uint64_t id, const char *what, const json_t *args);   /* publish lookup unpublish spawn */
	void (*abort)(void *ctx, int exit_code, const char *message);
	void (*phase)(void *ctx, enum pmi_phase phase);                              /* it has changed */
	/* May the rank go on? Asked before it is answered; a negative errno with @why ends pmi_session_feed() with the same.
	   @key: of a put. NULL: it always may. */
	int (*allow)(void *ctx, enum pmi_saying what, const char *key, struct gw_error *why);
};

/** pmi_session_create - of one rank. @job and @ops outlive it; @appnum: which of mpirun's programs it is. 0, or -ENOMEM */
int pmi_session_create(struct pmi_session **out, struct pmi_job *job, uint32_t appnum, const struct pmi_ops *ops,
                       void *ctx);
void pmi_session_destroy(struct pmi_session *s); /* NULL ok */

enum pmi_phase pmi_session_phase(const struct pmi_session *s);

/** pmi_session_feed - bytes that the rank wrote, cut anywhere. -EPROTO with @why: not PMI-1; the session is useless;
 *  or what ops.allow() said */
int pmi_session_feed(struct pmi_session *s, const char *bytes, size_t len, struct gw_error *why);

/** pmi_session_resume - answer the rank if what it waits for has come true in the job */
void pmi_session_resume(struct pmi_session *s);

/** pmi_session_answer - the head's answer to question @id: {"rc":0, "port":...}; an answer to another id is dropped */
void pmi_session_answer(struct pmi_session *s, uint64_t id, const json_t *answer);

/** pmi_session_repeat - after a move: say again to the head what the rank waits for */
void pmi_session_repeat(struct pmi_session *s);

/** pmi_session_export, pmi_session_import - everything of the session; a new reference; NULL when out of memory,
 *  or from inside an operation of pmi_ops: a command that is being handled is part of no state, and would be lost.
 *  Import into a fresh session: -EPROTO when the object is not one that export made. */
json_t *pmi_session_export(const struct pmi_session *s);
int pmi_session_import(struct pmi_session *s, const json_t *state);

#endif
