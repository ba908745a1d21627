/* SPDX-License-Identifier: BSD-2-Clause */
/* PMI at the head: barriers that all ranks enter, and names that any rank publishes. */
#include <stdlib.h>

#include "runtime/launcher/head.h"

int pmi_head_init(struct head *h)
{
	h->barrier_puts = json_object();
	h->space = json_object();
	h->services = json_object();
	return h->barrier_puts && h->space && h->services ? 0 : -ENOMEM;
}

void pmi_head_fini(struct head *h)
{
	json_decref(h->barrier_puts);
	json_decref(h->space);
	json_decref(h->services);
	for (uint32_t r = 0; h->ranks && r < h->size; r++)
		json_decref(h->ranks[r].answer);
}

/* A rank that has ended will not come to a barrier: who waits there waits for ever. */
void pmi_head_rank_ended(struct head *h)
{
	if (h->barrier_count == 0 || h->is_ending)
		return;
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_ENDED) {
			job_fail(h, 1, "rank %u (pid %d) ended without entering MPI_Init or a barrier in which %u other rank%s wait%s; "
			         "ending the job", r, (int)h->ranks[r].pid, h->barrier_count, h->barrier_count == 1 ? "" : "s",
			         h->barrier_count == 1 ? "s" : "");
			return;
		}
}

/* A daemon that comes later answers its ranks from memory as the others do. */
void pmi_head_tell(struct head *h, uint32_t cluster)
{
	if (h->barriers_done)
		job_cluster_send(h, cluster, json_pack("{s:s, s:I, s:O}", "op", "barrier-done", "number", (json_int_t)h->barriers_done,
		                                       "puts", h->space));
}

void pmi_head_barrier(struct head *h, uint32_t rank, uint64_t number, const json_t *puts)
{
	struct rank *r = &h->ranks[rank];

	if (number <= r->barrier)
		return; /* repeated after a move */
	if (number != h->barriers_done + 1) {
		job_fail(h, 1, "rank %u enters PMI barrier %llu while the job is at %llu; ending the job", rank,
		         (unsigned long long)number, (unsigned long long)h->barriers_done);
		return;
	}
	r->barrier = number;
	json_object_update(h->barrier_puts, (json_t *)(uintptr_t)puts);
	if (++h->barrier_count < h->size) {
		pmi_head_rank_ended(h);
		return;
	}
	h->barriers_done = number;
	h->barrier_count = 0;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		job_cluster_send(h, c, json_pack("{s:s, s:I, s:O}", "op", "barrier-done", "number", (json_int_t)number, "puts",
		                                 h->barrier_puts));
	json_object_update(h->space, h->barrier_puts);
	json_object_clear(h->barrier_puts);
}

static json_t *answer(struct head *h, const char *what, const json_t *args)
{
	const char *service = json_string_value(json_object_get(args, "service"));
	const char *port;

	if (strcmp(what, "spawn") == 0) {
		job_say(h, "mpirun: MPI_Comm_spawn is not possible yet: start all processes with -n, or several programs with ':'");
		return json_pack("{s:i, s:s}", "rc", -1, "msg", "spawn_not_possible_yet");
	}
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

void pmi_head_ask(struct head *h, uint32_t rank, uint64_t id, const char *what, const json_t *args)
{
	struct rank *r = &h->ranks[rank];

	if (id > r->asked) { /* else it is repeated after a move: the same answer again */
		json_decref(r->answer);
		r->answer = answer(h, what, args);
		r->asked = id;
	}
	if (id == r->asked)
		job_cluster_send(h, r->cluster, json_pack("{s:s, s:i, s:I, s:O}", "op", "pmi-answer", "rank", (int)rank, "id",
		                                          (json_int_t)id, "answer", r->answer));
}
