/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guests: processes of other jobs, with which this one talks (MPI_Comm_connect). Each has a process number of this job, from the
 * highest down, so that channels, queues and addresses need not know of jobs; who it really is says the host segment's table of
 * guests, and that of friends, which are the jobs. clusterd writes both, before it writes the guest's name; ranks read.
 *
 * A guest shares no memory with us, on the same host neither: its inbox here stays as it was made, never opened, and it is
 * reached over the network, which proves the secret that the two jobs share.
 */
#include "noc/local.h"

#include <sys/mman.h>

int noc_guests_befriend(struct noc_segment *seg, uint32_t index, const struct noc_friend *with)
{
	struct noc_friend_entry *f;

	if (index >= seg->head->friends)
		return -ENOSPC;
	f = &seg->friends[index];
	f->index_there = with->index_there;
	memcpy(f->secret, with->secret, sizeof(f->secret));
	/* release: who reads that it is there reads the rest; every daemon of the host writes the same */
	atomic_store_explicit(&f->job, with->job, memory_order_release);
	return 0;
}

int noc_guests_add(struct noc_segment *seg, uint32_t number, uint32_t index, uint32_t proc)
{
	if (number >= seg->head->names || number < seg->head->first_names || index >= seg->head->friends)
		return -ENOENT;
	atomic_store_explicit(&seg->guests[number], (uint64_t)(index + 1) << 32 | proc, memory_order_release);
	return 0;
}

static bool look(const struct noc_segment *seg, uint32_t number, uint32_t *index, uint32_t *proc)
{
	uint64_t v = number < seg->head->names ? atomic_load_explicit(&seg->guests[number], memory_order_acquire) : 0;

	*index = (uint32_t)(v >> 32) - 1;
	*proc = (uint32_t)v;
	return v != 0;
}

bool noc_guests_look(const struct noc_segment *seg, uint32_t number, struct noc_guest *out)
{
	struct noc_friend_entry *f;
	uint32_t index, proc;

	if (!look(seg, number, &index, &proc))
		return false;
	f = &seg->friends[index];
	*out = (struct noc_guest){ .with.job = atomic_load_explicit(&f->job, memory_order_acquire), .proc = proc };
	out->with.index_there = f->index_there;
	memcpy(out->with.secret, f->secret, sizeof(out->with.secret));
	return true;
}

uint32_t noc_guests_find(const struct noc_segment *seg, uint32_t index, uint32_t proc)
{
	uint32_t i, p;

	/* The highest number of the job need not be that of this segment: another host may have had less room. */
	for (uint32_t n = seg->head->names; n-- > seg->head->first_names;)
		if (look(seg, n, &i, &p) && i == index && p == proc)
			return n;
	return UINT32_MAX;
}

uint32_t noc_guest_number(noc_name name)
{
	const struct noc_segment *seg = &noc_me->seg;

	for (uint32_t i = 0; noc_me->is_attached && i < seg->head->friends; i++) {
		uint32_t job = atomic_load_explicit(&seg->friends[i].job, memory_order_acquire), n;

		/* one may be empty: that job could not be talked to, and those that came after it can */
		n = job == noc_name_job(name) ? noc_guests_find(seg, i, noc_name_proc(name)) : UINT32_MAX;
		if (n != UINT32_MAX && noc_peer_get(n)) /* from now on it is known, also while we are detached */
			return n;
	}
	return UINT32_MAX;
}

noc_name noc_true_name(uint32_t number)
{
	const struct noc_peer *p = number < noc_me->names_max && noc_me->peers ? noc_me->peers[number] : NULL;

	return p ? noc_name_make(p->job, p->there) : noc_name_make(noc_me->job, number);
}

/* Its inbox is looked at like any other's, and found never opened. */
int noc_guests_open(struct noc_segment *seg, uint32_t number)
{
	return number >= seg->reach && mprotect(noc_inbox_at(seg, number), NOC_INBOX_STRIDE, PROT_READ | PROT_WRITE) ? -errno : 0;
}
