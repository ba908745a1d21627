/* SPDX-License-Identifier: BSD-2-Clause */
/* The host segment: creation, mapping, and the name page with its entries. */
#include "noc/segment.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "noc/local.h"

static uint64_t align_up(uint64_t v, uint64_t a)
{
	return (v + a - 1) / a * a;
}

static void seg_layout(struct noc_seg_head *h)
{
	h->domains_at = sizeof(*h);
	h->clusters_at = h->domains_at + h->domains * sizeof(struct noc_domain_entry);
	h->names_at = h->clusters_at + h->clusters * sizeof(struct noc_cluster_entry);
	h->guests_at = h->names_at + h->names * sizeof(struct noc_name_entry);
	h->friends_at = align_up(h->guests_at + h->names * sizeof(uint64_t), 64);
	h->seats_at = h->friends_at + h->friends * sizeof(struct noc_friend_entry);
	h->inboxes_at = align_up(h->seats_at + h->names * sizeof(uint16_t), 4096);
	h->size = h->inboxes_at + (uint64_t)h->names * NOC_INBOX_STRIDE;
}

/*
 * Memory for a segment where memfd_create is denied: a file that is unlinked as soon as it exists, by a name that
 * container/proc.c knows. A tmpfs that is too small would end whoever touches it by SIGBUS: it is passed over.
 */
static int seg_file(uint64_t size, struct gw_error *why)
{
	const char *dirs[] = { "/dev/shm", getenv("TMPDIR"), "/tmp" };
	struct statvfs fs;

	for (size_t i = 0; i < GW_ARRAY_LEN(dirs); i++) {
		char path[4096];
		int fd;

		if (!dirs[i] || dirs[i][0] != '/' || statvfs(dirs[i], &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize < size ||
		    snprintf(path, sizeof(path), "%s/" NOC_SEG_FILE "-XXXXXX", dirs[i]) >= (int)sizeof(path))
			continue;
		fd = mkostemp(path, O_CLOEXEC);
		if (fd < 0)
			continue;
		unlink(path);
		return fd;
	}
	return gw_fail(why, -EPERM, "memfd_create is denied here, and no directory takes a file of %llu bytes instead: make room in "
	               "/dev/shm, or set TMPDIR to a directory that has it", (unsigned long long)size);
}

int noc_segment_create_roomy(uint32_t job, uint32_t names, uint32_t more, uint32_t clusters, uint32_t domains, struct gw_error *why)
{
	struct noc_seg_head h = { .magic = NOC_SEG_MAGIC, .version = NOC_SEG_VERSION, .job = job, .names = names + more,
	                          .first_names = names, .clusters = clusters, .domains = domains, .friends = NOC_FRIENDS_MAX, .inbox_stride = NOC_INBOX_STRIDE };
	gw_autoclose int fd = -1;
	int out;

	if (!names || names > NOC_WORD_WRITER_MAX || more > NOC_WORD_WRITER_MAX - names || !clusters || !domains)
		return gw_fail(why, -EINVAL, "a host segment for %u names, %u clusters and %u core domains makes no sense",
		               names, clusters, domains);
	seg_layout(&h);
	fd = memfd_create(NOC_SEG_FILE, MFD_CLOEXEC);
	if (fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS)) {
		h.names = names; /* a file may have to have what it could grow to */
		seg_layout(&h);
		fd = seg_file(h.size, why);
		if (fd < 0)
			return fd;
	}
	if (fd < 0)
		return gw_fail(why, -errno, "cannot create the host segment: %s", strerror(errno));
	if (ftruncate(fd, (off_t)h.size))
		return gw_fail(why, -errno, "cannot size the host segment to %llu bytes: %s%s", (unsigned long long)h.size,
		               strerror(errno), gw_advice(errno));
	if (pwrite(fd, &h, sizeof(h), 0) != sizeof(h))
		return gw_fail(why, -EIO, "cannot write the host segment's head: %s", strerror(errno));
	out = fd;
	fd = -1;
	return out;
}

int noc_segment_create(uint32_t job, uint32_t names, uint32_t clusters, uint32_t domains, struct gw_error *why)
{
	return noc_segment_create_roomy(job, names, 0, clusters, domains, why);
}

int noc_segment_map(struct noc_segment *out, int fd, void *at, struct gw_error *why)
{
	struct noc_seg_head h, want;
	struct stat st;
	char *p;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != NOC_SEG_MAGIC)
		return gw_fail(why, -EPROTO, "what was handed over is no host segment");
	if (h.version != NOC_SEG_VERSION || h.inbox_stride != NOC_INBOX_STRIDE)
		return gw_fail(why, -EPROTO, "the host segment is of version %u and this library of version %u; use one "
		               "installation of godwit for daemons and ranks", h.version, NOC_SEG_VERSION);
	want = h;
	seg_layout(&want);
	if (memcmp(&want, &h, sizeof(h)) || fstat(fd, &st) || (uint64_t)st.st_size < h.size)
		return gw_fail(why, -EPROTO, "the host segment's geometry does not add up");
	p = mmap(at, h.size, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
	if (p == MAP_FAILED)
		return gw_fail(why, -errno, "cannot map the host segment (%llu bytes): %s%s", (unsigned long long)h.size,
		               strerror(errno), gw_advice(errno));
	madvise(p, h.size, MADV_DONTFORK);
	madvise(p, h.size, MADV_DONTDUMP); /* a dump would make a page of every hole */
	out->head = (struct noc_seg_head *)(void *)p;
	out->domains = (struct noc_domain_entry *)(void *)(p + h.domains_at);
	out->clusters = (struct noc_cluster_entry *)(void *)(p + h.clusters_at);
	out->names = (struct noc_name_entry *)(void *)(p + h.names_at);
	out->guests = (_Atomic uint64_t *)(void *)(p + h.guests_at);
	out->friends = (struct noc_friend_entry *)(void *)(p + h.friends_at);
	out->seats = (_Atomic uint16_t *)(void *)(p + h.seats_at);
	out->inboxes = p + h.inboxes_at;
	out->reach = h.names;
	return 0;
}

void noc_segment_close_spare(struct noc_segment *seg)
{
	const struct noc_seg_head *h = seg->head;

	if (h->first_names < h->names &&
	    mprotect(noc_inbox_at(seg, h->first_names), (size_t)(h->names - h->first_names) * NOC_INBOX_STRIDE, PROT_NONE) == 0)
		seg->reach = h->first_names;
}

int noc_segment_reach_slow(struct noc_segment *seg, uint32_t proc)
{
	uint32_t to = (proc / 16 + 1) * 16;

	if (to > seg->head->names)
		to = seg->head->names;
	if (proc >= to)
		return -ENOENT;
	/* neighbours come together, and one mapping stays two */
	if (mprotect(noc_inbox_at(seg, seg->reach), (size_t)(to - seg->reach) * NOC_INBOX_STRIDE, PROT_READ | PROT_WRITE))
		return -errno;
	seg->reach = to;
	return 0;
}

void noc_segment_unmap(struct noc_segment *seg)
{
	if (seg->head)
		munmap(seg->head, seg->head->size);
	memset(seg, 0, sizeof(*seg));
}

int noc_names_lookup(const struct noc_segment *seg, uint32_t proc, struct noc_place *out)
{
	struct noc_name_entry *e;
	struct noc_place p;
	uint64_t before, after;

	if (proc >= seg->head->names)
		return -ENOENT;
	e = &seg->names[proc];
	do {
		/* acquire: the fields are read after the lock; the fence keeps them before the second reading */
		before = atomic_load_explicit(&e->lock, memory_order_acquire);
		p.cluster = atomic_load_explicit(&e->cluster, memory_order_relaxed);
		p.state = (enum noc_name_state)atomic_load_explicit(&e->state, memory_order_relaxed);
		p.epoch = atomic_load_explicit(&e->epoch, memory_order_relaxed);
		p.incarnation = atomic_load_explicit(&e->incarnation, memory_order_relaxed);
		p.host = atomic_load_explicit(&e->host, memory_order_relaxed);
		for (unsigned i = 0; i < GW_ARRAY_LEN(e->address); i++)
			p.address.words[i] = atomic_load_explicit(&e->address[i], memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
		after = atomic_load_explicit(&e->lock, memory_order_relaxed);
		if (before & 1)
			sched_yield();
	} while ((before & 1) || before != after);
	if (p.state == NOC_NAME_NONE)
		return -ENOENT;
	*out = p;
	return 0;
}

/* Is what the entry says newer? With the lock held. The owner's word counts unless the name has moved on; of what others
 * pass on, each daemon of a host hears at its own time, so it may be from before an attach that is known here. */
static bool is_late(const struct noc_name_entry *e, const struct noc_place *place, bool is_passed_on)
{
	uint64_t epoch = atomic_load_explicit(&e->epoch, memory_order_relaxed);
	uint64_t incarnation = atomic_load_explicit(&e->incarnation, memory_order_relaxed);
	bool is_gone = atomic_load_explicit(&e->state, memory_order_relaxed) == NOC_NAME_GONE;

	if (epoch != place->epoch || !is_passed_on)
		return epoch > place->epoch;
	return incarnation > place->incarnation || (incarnation == place->incarnation && is_gone);
}

int noc_names_publish(struct noc_segment *seg, uint32_t proc, const struct noc_place *place, uint32_t writer_cluster)
{
	struct noc_name_entry *e;
	uint64_t v, mine;

	if (proc >= seg->head->names || writer_cluster >= seg->head->clusters)
		return -ENOENT;
	e = &seg->names[proc];
	for (;;) {
		v = atomic_load_explicit(&e->lock, memory_order_relaxed);
		if (v & 1) {
			uint32_t holder = (uint32_t)(v >> 32) - 1;

			/* a holder that died in its handful of stores: its fields are overwritten whole */
			if (holder < seg->head->clusters && atomic_load(&seg->clusters[holder].is_up)) {
				sched_yield();
				continue;
			}
		}
		mine = (uint64_t)(writer_cluster + 1) << 32 | (uint32_t)((uint32_t)v | 1);
		if (atomic_compare_exchange_weak_explicit(&e->lock, &v, mine, memory_order_acquire, memory_order_relaxed))
			break;
	}
	atomic_thread_fence(memory_order_release); /* readers that see a new field see the odd lock */
	v = ((uint32_t)mine + 1u);
	if (is_late(e, place, place->cluster != writer_cluster)) {
		atomic_store_explicit(&e->lock, v, memory_order_release);
		return -ESTALE;
	}
	atomic_store_explicit(&e->cluster, place->cluster, memory_order_relaxed);
	atomic_store_explicit(&e->state, (uint32_t)place->state, memory_order_relaxed);
	atomic_store_explicit(&e->epoch, place->epoch, memory_order_relaxed);
	atomic_store_explicit(&e->incarnation, place->incarnation, memory_order_relaxed);
	atomic_store_explicit(&e->host, place->host, memory_order_relaxed);
	for (unsigned i = 0; i < GW_ARRAY_LEN(e->address); i++)
		atomic_store_explicit(&e->address[i], place->address.words[i], memory_order_relaxed);
	atomic_store_explicit(&e->lock, v, memory_order_release);
	return 0;
}

void noc_inbox_void(struct noc_segment *seg, uint32_t proc)
{
	atomic_store_explicit(&seg->seats[proc], 0, memory_order_relaxed);
	for (uint32_t i = 0; i < seg->head->names; i++) {
		struct noc_inbox *in = noc_inbox_at(seg, i);
		bool found = false;

		if (i >= seg->head->first_names && atomic_load_explicit(&seg->names[i].state, memory_order_relaxed) == NOC_NAME_NONE)
			continue; /* nobody has written there, and looking would make a page of it */
		if (atomic_load_explicit(&in->open, memory_order_relaxed) == NOC_INBOX_NEVER)
			continue; /* and its pages stay untouched */
		for (unsigned s = 0; s < NOC_SLOTS; s++) {
			uint64_t w = atomic_load_explicit(&in->slots[s].word, memory_order_relaxed);

			if (noc_word_state(w) == NOC_SLOT_CLAIMED && noc_word_writer(w) == proc)
				found |= atomic_compare_exchange_strong(&in->slots[s].word, &w,
				                                        noc_word(noc_word_lap(w), proc, NOC_SLOT_VOID));
		}
		/* the writer is dead: what it held unpublished stays its own until we free it */
		for (unsigned c = 0; c < NOC_CELLS; c++)
			if (atomic_load_explicit(&in->cell_writer[c], memory_order_relaxed) == proc + 1)
				noc_inbox_free_cell(in, c);
		if (found)
			noc_inbox_ring(in);
	}
}
