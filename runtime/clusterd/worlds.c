/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The worlds of the job: ranks that began together, an MPI_COMM_WORLD each. The first is what mpirun starts, the others are
 * what ranks have spawned (MPI_Comm_spawn). A rank has one number in the job, its process number, which everything here goes
 * by; its number in its world is what its own PMI knows.
 */
#include "runtime/clusterd/clusterd.h"

#include <stdlib.h>

struct world {
	uint32_t first, size;   /* process numbers */
	struct pmi_job pmi;
};

static struct world *world_of(const struct clusterd *d, uint32_t proc)
{
	for (uint32_t i = 0; i < d->n_worlds; i++)
		if (proc - d->worlds[i]->first < d->worlds[i]->size)
			return d->worlds[i];
	return NULL;
}

int worlds_add(struct clusterd *d, uint32_t size, const char *kvsname, int32_t universe)
{
	struct world **more = realloc(d->worlds, (d->n_worlds + 1) * sizeof(*more));
	struct world *w = calloc(1, sizeof(*w));

	if (more)
		d->worlds = more;
	if (!more || !w || pmi_job_init(&w->pmi, kvsname, size, universe) < 0) {
		free(w);
		return -ENOMEM;
	}
	w->first = d->size;
	w->size = size;
	d->worlds[d->n_worlds++] = w;
	d->size += size;
	return 0;
}

void worlds_fini(struct clusterd *d)
{
	for (uint32_t i = 0; i < d->n_worlds; i++) {
		pmi_job_fini(&d->worlds[i]->pmi);
		free(d->worlds[i]);
	}
	free(d->worlds);
	d->worlds = NULL;
	d->n_worlds = 0;
}

void worlds_heard(struct clusterd *d, json_t *msg)
{
	int first, size, universe;
	const char *kvsname;
	json_t *puts;

	if (json_unpack(msg, "{s:i, s:i, s:i, s:s, s:o}", "first", &first, "size", &size, "universe", &universe, "kvsname", &kvsname,
	                "puts", &puts) < 0 || (uint32_t)first != d->size || size < 1 || (uint32_t)size > d->room - d->size) {
		clusterd_fatal(d, "the head's 'world' is malformed");
		return;
	}
	if (worlds_add(d, (uint32_t)size, kvsname, universe) < 0 ||
	    json_object_update(d->worlds[d->n_worlds - 1]->pmi.space, puts) < 0)
		clusterd_fatal(d, "no memory for %d ranks that were spawned", size);
}

void worlds_barrier_done(struct clusterd *d, json_t *msg)
{
	uint64_t number = (uint64_t)json_integer_value(json_object_get(msg, "number"));
	json_int_t world = json_integer_value(json_object_get(msg, "world"));
	struct world *w;

	if (world < 0 || world >= (json_int_t)d->n_worlds) {
		clusterd_fatal(d, "the head speaks of a world %lld that it has not told of", (long long)world);
		return;
	}
	w = d->worlds[world];
	if (pmi_job_barrier_done(&w->pmi, number, json_object_get(msg, "puts")) < 0) {
		clusterd_fatal(d, "no memory for what the ranks have published");
		return;
	}
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->state == RANK_HERE && !r->is_exported && r->proc - w->first < w->size)
			pmi_session_resume(r->pmi);
	}
}

struct pmi_job *worlds_pmi(struct clusterd *d, uint32_t proc)
{
	struct world *w = world_of(d, proc);

	return w ? &w->pmi : NULL;
}

bool worlds_place(const struct clusterd *d, uint32_t proc, struct world_place *out)
{
	const struct world *w = world_of(d, proc);

	if (!w)
		return false;
	*out = (struct world_place){ .rank = proc - w->first, .size = w->size, .is_spawned = w != d->worlds[0] };
	return true;
}
