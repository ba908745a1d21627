/* SPDX-License-Identifier: BSD-2-Clause */
/* PMI at the head: barriers that all ranks of a world enter, and names that any rank publishes. */
#include <stdlib.h>

#include "runtime/launcher/head.h"

int pmi_head_init(struct head *h)
{
	h->services = json_object();
	h->spawns = json_array();
	return h->services && h->spawns ? 0 : -ENOMEM;
}

int pmi_head_add(struct head *h, uint32_t size, uint32_t app)
{
	uint32_t first = h->n_worlds ? h->worlds[h->n_worlds - 1].first + h->worlds[h->n_worlds - 1].size : 0;
	struct world *more = realloc(h->worlds, (h->n_worlds + 1) * sizeof(*more)), *w;

	if (!more)
		return -ENOMEM;
	h->worlds = more;
	w = &h->worlds[h->n_worlds];
	*w = (struct world){ .first = first, .size = size, .app = app, .barrier_puts = json_object(), .space = json_object() };
	if (!w->barrier_puts || !w->space) {
		json_decref(w->barrier_puts);
		json_decref(w->space);
		return -ENOMEM;
	}
	if (h->n_worlds == 0)
		snprintf(w->kvsname, sizeof(w->kvsname), "%s", h->kvsname);
	else
		snprintf(w->kvsname, sizeof(w->kvsname), "%.40s-%u", h->kvsname, h->n_worlds);
	return (int)h->n_worlds++;
}

void pmi_head_fini(struct head *h)
{
	for (uint32_t i = 0; i < h->n_worlds; i++) {
		json_decref(h->worlds[i].barrier_puts);
		json_decref(h->worlds[i].space);
	}
	free(h->worlds);
	json_decref(h->services);
	json_decref(h->spawns);
	for (uint32_t r = 0; h->ranks && r < h->size; r++)
		json_decref(h->ranks[r].answer);
}

/* A rank that has ended will not come to a barrier: who waits there waits for ever. */
void pmi_head_rank_ended(struct head *h, uint32_t world)
{
	const struct world *w = &h->worlds[world];

	if (w->barrier_count == 0 || w->is_failed || h->is_ending)
		return;
	for (uint32_t r = w->first; r < w->first + w->size; r++)
		if (h->ranks[r].state == RANK_ENDED) {
			job_fail(h, 1, "rank %u (pid %d) ended without entering MPI_Init or a barrier in which %u other rank%s wait%s; "
			         "ending the job", r, (int)h->ranks[r].pid, w->barrier_count, w->barrier_count == 1 ? "" : "s",
			         w->barrier_count == 1 ? "s" : "");
			return;
		}
}

static void tell_barrier(struct head *h, uint32_t cluster, uint32_t world, const json_t *puts)
{
	job_cluster_send(h, cluster, json_pack("{s:s, s:i, s:I, s:O}", "op", "barrier-done", "world", (int)world, "number",
	                                       (json_int_t)h->worlds[world].barriers_done, "puts", puts));
}

/* Whoever is not told of a world refuses its ranks. */
void pmi_head_tell_world(struct head *h, uint32_t cluster, uint32_t world)
{
	const struct world *w = &h->worlds[world];

	job_cluster_send(h, cluster, json_pack("{s:s, s:i, s:i, s:i, s:s, s:O}", "op", "world", "first", (int)w->first, "size",
	                                       (int)w->size, "universe", h->spec->universe ? (int)h->spec->universe : -1, "kvsname",
	                                       w->kvsname, "puts", w->space));
}

/* A daemon that comes later answers its ranks from memory as the others do. */
void pmi_head_tell(struct head *h, uint32_t cluster)
{
	for (uint32_t i = 0; i < h->n_worlds; i++) {
		if (i)
			pmi_head_tell_world(h, cluster, i);
		if (h->worlds[i].barriers_done)
			tell_barrier(h, cluster, i, h->worlds[i].space);
	}
}

void pmi_head_barrier(struct head *h, uint32_t rank, uint64_t number, const json_t *puts)
{
	struct rank *r = &h->ranks[rank];
	struct world *w = &h->worlds[r->world];

	if (number <= r->barrier)
		return; /* repeated after a move */
	if (number != w->barriers_done + 1) {
		job_fail(h, 1, "rank %u enters PMI barrier %llu while the job is at %llu; ending the job", rank,
		         (unsigned long long)number, (unsigned long long)w->barriers_done);
		return;
	}
	r->barrier = number;
	json_object_update(w->barrier_puts, (json_t *)(uintptr_t)puts);
	if (++w->barrier_count < w->size) {
		pmi_head_rank_ended(h, r->world);
		return;
	}
	w->barriers_done = number;
	w->barrier_count = 0;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		tell_barrier(h, c, r->world, w->barrier_puts);
	json_object_update(w->space, w->barrier_puts);
	json_object_clear(w->barrier_puts);
}

static json_t *answer(struct head *h, const char *what, const json_t *args)
{
	const char *service = json_string_value(json_object_get(args, "service"));
	const char *port;

	if (!service)
		return json_pack("{s:i, s:s}", "rc", 1, "msg", "malformed");
	port = json_string_value(json_object_get(h->services, service));
	if (strcmp(what, "publish") == 0) {
		if (port)
			return json_pack("{s:i, s:s}", "rc", 1, "msg", "key_already_present");
		json_object_set(h->services, service, json_object_get(args, "port"));
		return json_pack("{s:i}", "rc", 0);
	}
	if (!port)
		return json_pack("{s:i, s:s}", "rc", 1, "msg", "service_not_found");
	if (strcmp(what, "lookup") == 0)
		return json_pack("{s:i, s:s}", "rc", 0, "port", port);
	json_object_del(h->services, service);
	return json_pack("{s:i}", "rc", 0);
}

static void give_answer(struct head *h, uint32_t rank)
{
	const struct rank *r = &h->ranks[rank];

	if (r->answer)
		job_cluster_send(h, r->cluster, json_pack("{s:s, s:i, s:I, s:O}", "op", "pmi-answer", "rank", (int)rank, "id",
		                                          (json_int_t)r->asked, "answer", r->answer));
}

void pmi_head_answer(struct head *h, uint32_t rank, uint64_t id, json_t *answer)
{
	struct rank *r = &h->ranks[rank];

	if (id != r->asked || r->answer) {
		json_decref(answer);
		return;
	}
	r->answer = answer;
	give_answer(h, rank);
}

void pmi_head_ask(struct head *h, uint32_t rank, uint64_t id, const char *what, const json_t *args)
{
	struct rank *r = &h->ranks[rank];
	const char *service;

	if (id < r->asked)
		return;
	if (id == r->asked) { /* repeated after a move: the same answer again, if there is one yet */
		give_answer(h, rank);
		return;
	}
	json_decref(r->answer);
	r->answer = NULL;
	r->asked = id;
	service = json_string_value(json_object_get(args, "service"));
	if (strcmp(what, "lookup") == 0 && service && !json_object_get(h->services, service))
		lookup_begin(h, rank, id, service);
	else if (strcmp(what, "spawn") == 0)
		spawn_begin(h, rank, id, json_object_get(args, "commands"));
	else
		pmi_head_answer(h, rank, id, answer(h, what, args));
}
