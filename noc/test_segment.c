/* SPDX-License-Identifier: BSD-2-Clause */
/* The host segment and its name page: geometry is checked, entries are read whole, the highest epoch wins. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noc/local.h"
#include "tests/tap.h"

static struct noc_segment seg;
static _Atomic int stop;

static void *reader(void *arg)
{
	long *torn = arg;

	while (!atomic_load(&stop)) {
		struct noc_place p;

		if (noc_names_lookup(&seg, 1, &p) == 0 && (p.epoch != p.incarnation || p.cluster != p.epoch % 3))
			++*torn;
	}
	return NULL;
}

/* Room for names that come later costs no page, and is opened a few at a time. */
static void test_spare(void)
{
	struct noc_segment seg = { 0 };
	struct gw_error why = { 0 };
	struct stat st;
	int fd = noc_segment_create_roomy(9, 2, 100, 3, 1, &why);

	ok(fd >= 0 && noc_segment_map(&seg, fd, NULL, &why) == 0, "a segment with room: %s", why.text);
	is_int(seg.head->names, 102, "for all of them");
	noc_segment_close_spare(&seg);
	is_int(seg.reach, 2, "the inboxes of the first can be touched");
	madvise(seg.head, seg.head->size, MADV_POPULATE_READ); /* stops at what has no access, as mlockall does */
	is_int(fstat(fd, &st), 0, "what is there is looked at");
	ok(st.st_blocks * 512 < 8 * (long)NOC_INBOX_STRIDE, "the others cost nothing: %lld bytes", (long long)st.st_blocks * 512);
	is_int(noc_segment_reach(&seg, 20), 0, "one is opened");
	is_int(seg.reach, 32, "and its neighbours");
	noc_inbox_at(&seg, 20)->head = 1;
	is_int(noc_segment_reach(&seg, 101), 0, "the last one too");
	noc_inbox_at(&seg, 101)->head = 1;
	is_int(noc_segment_reach(&seg, 102), -ENOENT, "there is none behind it");
	noc_segment_unmap(&seg);
	close(fd);
}

static void test_guests(void)
{
	struct noc_friend with = { .job = 77, .index_there = 5, .secret = "s" };
	struct noc_segment seg = { 0 };
	struct noc_guest g;
	struct gw_error why = { 0 };
	int fd = noc_segment_create_roomy(9, 2, 10, 3, 1, &why);

	ok(fd >= 0 && noc_segment_map(&seg, fd, NULL, &why) == 0, "a segment with room: %s", why.text);
	ok(!noc_guests_look(&seg, 11, &g), "it has no guest");
	is_int(noc_guests_befriend(&seg, 3, &with), 0, "another job is written down");
	is_int(noc_guests_befriend(&seg, NOC_FRIENDS_MAX, &with), -ENOSPC, "not one too many");
	is_int(noc_guests_add(&seg, 11, 3, 0), 0, "a process of it gets the highest number");
	is_int(noc_guests_add(&seg, 10, 3, 8), 0, "another one the next");
	is_int(noc_guests_add(&seg, 1, 3, 9), -ENOENT, "no number that a rank has");
	is_int(noc_guests_add(&seg, 12, 3, 9), -ENOENT, "none beyond the page");
	ok(noc_guests_look(&seg, 10, &g) && g.proc == 8 && g.with.job == 77 && g.with.index_there == 5 && g.with.secret[0] == 's',
	   "whose it is is found by its number");
	is_int(noc_guests_find(&seg, 3, 8), 10, "and its number by whose it is");
	is_int(noc_guests_find(&seg, 3, 9), UINT32_MAX, "of a process that is not known there is none");
	is_int(noc_guests_find(&seg, 2, 8), UINT32_MAX, "nor of one of another job");
	noc_guests_add(&seg, 8, 3, 6);
	is_int(noc_guests_find(&seg, 3, 6), 8, "one is found also where a number above it is nobody's");
	noc_segment_unmap(&seg);
	close(fd);
}

int main(void)
{
	struct noc_place p = { .cluster = 1, .state = NOC_NAME_HERE, .epoch = 5, .incarnation = 5 };
	struct gw_error why;
	long torn = 0;
	pthread_t t;
	int fd, bad[2];

	tap_begin(42);
	ok(noc_segment_create(1, 0, 1, 1, &why) == -EINVAL, "no names: %s", why.text);
	fd = noc_segment_create(9, 4, 3, 1, &why);
	ok(fd >= 0, "a segment is made");
	is_int(noc_segment_map(&seg, fd, NULL, &why), 0, "and mapped");
	is_int(seg.head->job, 9, "it names its job");
	for (int i = 0; i < 3; i++)
		seg.clusters[i].is_up = 1;

	is_int(noc_names_lookup(&seg, 0, &p), -ENOENT, "a name that was never published is not found");
	is_int(noc_names_lookup(&seg, 4, &p), -ENOENT, "nor one beyond the page");
	is_int(noc_names_publish(&seg, 0, &p, 1), 0, "publish");
	is_int(noc_names_lookup(&seg, 0, &p), 0, "found");
	ok(p.cluster == 1 && p.epoch == 5 && p.state == NOC_NAME_HERE, "as published");
	p.epoch = 4;
	is_int(noc_names_publish(&seg, 0, &p, 2), -ESTALE, "an older epoch is refused");
	is_int(noc_names_publish(&seg, 9, &p, 2), -ENOENT, "so is a name beyond the page");
	p = (struct noc_place){ .cluster = 1, .state = NOC_NAME_HERE, .epoch = 5, .incarnation = 4 };
	is_int(noc_names_publish(&seg, 0, &p, 2), -ESTALE, "what is passed on of an older incarnation is refused");
	p.incarnation = 5;
	p.state = NOC_NAME_GONE;
	is_int(noc_names_publish(&seg, 0, &p, 2), 0, "that a name has gone is passed on");
	p.state = NOC_NAME_HERE;
	is_int(noc_names_publish(&seg, 0, &p, 2), -ESTALE, "and late news does not bring it back");
	is_int(noc_names_publish(&seg, 0, &p, 1), 0, "but its owner does");
	seg.names[0].lock = (uint64_t)(2 + 1) << 32 | 7; /* cluster 2 died while writing */
	seg.clusters[2].is_up = 0;
	p.epoch = 6;
	is_int(noc_names_publish(&seg, 0, &p, 1), 0, "the lock of a dead writer is taken over");

	pthread_create(&t, NULL, reader, &torn);
	for (uint64_t e = 1; e < 200000; e++)
		noc_names_publish(&seg, 1, &(struct noc_place){ .cluster = (uint32_t)(e % 3), .state = NOC_NAME_HERE, .epoch = e,
		                                               .incarnation = e }, 0);
	stop = 1;
	pthread_join(t, NULL);
	is_int(torn, 0, "no reader saw half an entry");

	test_spare();
	test_guests();
	is_int(pipe(bad), 0, "a pipe");
	is_int(noc_segment_map(&(struct noc_segment){ 0 }, bad[0], NULL, &why), -EPROTO, "what is no segment is refused: %s", why.text);
	is_int(ftruncate(fd, 8192), 0, "shortened");
	is_int(noc_segment_map(&(struct noc_segment){ 0 }, fd, NULL, &why), -EPROTO, "a short one too: %s", why.text);
	return tap_done();
}
