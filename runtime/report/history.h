/* SPDX-License-Identifier: BSD-2-Clause */
/* A history that is being read: what is known so far, and what each event adds. Of runtime/report alone. */
#ifndef RT_REPORT_HISTORY_H
#define RT_REPORT_HISTORY_H

#include "runtime/report/report.h"

/* Room for one more at the end of a list of struct report, all zero; NULL: no memory */
#define MORE(l) (history_more((void **)&(l)->list, &(l)->n, &(l)->cap, sizeof(*(l)->list)) < 0 ? NULL : &(l)->list[(l)->n - 1])

struct reader {
	struct report *r;
	char job[16];
	json_int_t pid;          /* of the mpirun whose lines count; -1: none now */
	double now_s, last_s;    /* of this line, of the last one that counted; since @r->began */
	uint32_t *at;            /* [size] where each rank is */
	uint32_t room;
	double base_near[3];     /* traffic of earlier starts: the counters of each begin at 0 */
	double (*base_bytes)[REPORT_BLOCKS], (*base_messages)[REPORT_BLOCKS];
	uint32_t plan_moved, plan_failed; /* as of the last bal.done: it counts since mpirun began */
	size_t mover;            /* the last plan that had moves, counted from 1; 0: none had */
	bool is_memory_short;
	const char *too_much;    /* what there is more of than is kept; NULL: nothing */
};

/* ---- history_fields.c: what a line says; what it does not say, or not so that it could be, is 0, "" or as told here ---- */
int history_more(void **list, size_t *n, size_t *cap, size_t size);
const char *history_text(const json_t *e, const char *key);
void history_copy(char *to, size_t cap, const json_t *e, const char *key); /* as much of it as there is room for */
double history_amount(const json_t *v);                                 /* or NAN: also when it is more than anything can be */
double history_real(const json_t *e, const char *key);                  /* the same of a field */
double history_real_or(const json_t *e, const char *key, double other);
int history_status(const json_t *e, const char *key);
uint32_t history_number(const json_t *v, uint32_t limit);               /* below @limit; or REPORT_NOWHERE */
uint32_t history_count(const json_t *e, const char *key);
uint32_t history_cluster_number(struct reader *d, const json_t *v);     /* one more that there is; or REPORT_NOWHERE */
uint32_t history_cluster(struct reader *d, const json_t *e, const char *key);
uint32_t history_rank(const struct reader *d, const json_t *e);         /* one that there is; or REPORT_NOWHERE */
void history_note(struct reader *d, enum report_kind kind, const char *fmt, ...) GW_PRINTF(3, 4);

/* ---- history_ranks.c ---- */
void history_take_places(struct reader *d, const json_t *places, uint32_t first); /* [[3, 0], [2, null]]: three on cluster 0, two have ended */
void history_all_end(struct reader *d, double t_s);

/* ---- events ---- */
void history_do_started(struct reader *d, const json_t *e);
void history_do_ended(struct reader *d, const json_t *e);
void history_do_spawn(struct reader *d, const json_t *e);
void history_do_moved(struct reader *d, const json_t *e);
void history_do_rank_ended(struct reader *d, const json_t *e);
void history_do_failed(struct reader *d, const json_t *e);
void history_do_ready(struct reader *d, const json_t *e);
void history_do_joined(struct reader *d, const json_t *e);
void history_do_left(struct reader *d, const json_t *e);
void history_do_lost(struct reader *d, const json_t *e);
void history_do_drained(struct reader *d, const json_t *e);
void history_do_drain_over(struct reader *d, const json_t *e);
void history_do_host_failed(struct reader *d, const json_t *e);
void history_do_suspended(struct reader *d, const json_t *e);
void history_do_resumed(struct reader *d, const json_t *e);
void history_do_gap(struct reader *d, const json_t *e);
void history_do_checkpoint(struct reader *d, const json_t *e);
void history_do_move_done(struct reader *d, const json_t *e);
void history_do_move_sum(struct reader *d, const json_t *e);
void history_do_plan(struct reader *d, const json_t *e);
void history_do_plan_done(struct reader *d, const json_t *e);
void history_do_load(struct reader *d, const json_t *e);
void history_do_traffic(struct reader *d, const json_t *e);

#endif
