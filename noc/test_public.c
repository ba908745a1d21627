/* SPDX-License-Identifier: BSD-2-Clause */
/* Mailbox, Portal and Sync between four processes, which detach and attach again now and then as they would in a move. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noc/local.h"
#include "noc/noc.h"
#include "tests/tap.h"

#define PROCS 4
#define LETTERS 2000

static int segment_fd;
static uint32_t me;
static long bad;
static unsigned turns;

#define must(cond) \
	do { \
		if (!(cond)) { \
			bad++; \
			fprintf(stderr, "# process %u, line %d: %s\n", me, __LINE__, #cond); \
		} \
	} while (0)

static void maybe_move(void)
{
	struct gw_error why;

	if (++turns % 37)
		return;
	ct_gate_enter(CT_DOING_COMPUTE);
	must(noc_detach_test(10000, &why) == 0);
	must(noc_attach_test(segment_fd, 0, NULL, &why) == 0);
	ct_gate_leave();
}

struct letter { uint32_t from, number; char text[100]; };

static void mailboxes(void)
{
	struct noc_mailbox *mb, *again;
	struct letter l = { .from = me };
	char big[NOC_MAILBOX_MESSAGE_MAX + 1] = { 0 };

	if (me == 0) {
		uint32_t next[PROCS] = { 0 }, from;

		must(noc_mailbox_create(&mb, 7) == 0);
		must(noc_mailbox_create(&again, 7) == -EEXIST);
		must(noc_mailbox_write(mb, &l, sizeof(l), 0) == -EBADF);
		for (int i = 0; i < LETTERS * (PROCS - 1); i++) {
			if (i == 5)
				must(noc_mailbox_read(mb, &l, 3, NULL, -1) == -EMSGSIZE);
			must(noc_mailbox_read(mb, &l, sizeof(l), &from, 60000) == sizeof(l));
			must(from < PROCS && l.from == from && l.number == next[from]++);
			maybe_move();
		}
		must(noc_mailbox_read(mb, &l, sizeof(l), &from, 0) == -ETIMEDOUT);
		must(noc_mailbox_unlink(mb) == 0);
		return;
	}
	must(noc_mailbox_open(&mb, PROCS, 7) == -EINVAL);
	must(noc_mailbox_open(&mb, 0, 7) == 0);
	must(noc_mailbox_write(mb, big, sizeof(big), -1) == -EMSGSIZE);
	for (l.number = 0; l.number < LETTERS; l.number++) {
		must(noc_mailbox_write(mb, &l, sizeof(l), 60000) == 0);
		maybe_move();
	}
	must(noc_mailbox_close(mb) == 0);
}

static void syncs(void)
{
	uint32_t others[PROCS - 1], zero = 0;
	struct noc_sync *gather, *release;

	for (uint32_t i = 1; i < PROCS; i++)
		others[i - 1] = i;
	if (me == 0) {
		must(noc_sync_create(&gather, 1, others, PROCS - 1, NOC_SYNC_ALL_TO_ONE) == 0);
		must(noc_sync_open(&release, 2, others, PROCS - 1, NOC_SYNC_ONE_TO_ALL) == 0);
		must(noc_sync_create(&gather, 3, others, PROCS - 1, NOC_SYNC_ONE_TO_ALL) == -EINVAL);
	} else {
		must(noc_sync_open(&gather, 1, &zero, 1, NOC_SYNC_ALL_TO_ONE) == 0);
		must(noc_sync_create(&release, 2, &zero, 1, NOC_SYNC_ONE_TO_ALL) == 0);
		must(noc_sync_signal(release) == -EBADF);
	}
	for (int i = 0; i < 500; i++) {
		if (me == 0) {
			must(noc_sync_wait(gather, 60000) == 0);
			must(noc_sync_signal(release) == 0);
		} else {
			must(noc_sync_signal(gather) == 0);
			must(noc_sync_wait(release, 60000) == 0);
		}
		maybe_move();
	}
	if (me == 0)
		must(noc_sync_wait(gather, 0) == -ETIMEDOUT);
	must((me == 0 ? noc_sync_unlink(gather) : noc_sync_close(gather)) == 0);
	must((me == 0 ? noc_sync_close(release) : noc_sync_unlink(release)) == 0);
}

static const size_t lengths[] = { 0, 1, 207, 208, 209, 32768, 32769, 100000, 3000000 };

static void portals(void)
{
	static unsigned char buf[3000001];
	struct noc_portal *p;

	if (me == 0) {
		must(noc_portal_create(&p, 9) == 0);
		must(noc_portal_read(p, buf, sizeof(buf), 0) == -EPERM);
		for (uint32_t from = 1; from < PROCS; from++)
			for (size_t i = 0; i < GW_ARRAY_LEN(lengths); i++) {
				long wrong = 0;

				must(noc_portal_allow(p, from) == 0);
				must(noc_portal_allow(p, from) == -EBUSY);
				must(noc_portal_read(p, buf, sizeof(buf), 60000) == (ssize_t)lengths[i]);
				for (size_t k = 0; k < lengths[i]; k++)
					wrong += buf[k] != (unsigned char)(k * 7 + from + i);
				must(wrong == 0);
				maybe_move();
			}
		must(noc_portal_allow(p, 1) == 0);
		must(noc_portal_read(p, buf, 10, 60000) == -EMSGSIZE);
		must(noc_portal_unlink(p) == 0);
		return;
	}
	must(noc_portal_open(&p, 0, 9) == 0);
	for (size_t i = 0; i < GW_ARRAY_LEN(lengths); i++) {
		for (size_t k = 0; k < lengths[i]; k++)
			buf[k] = (unsigned char)(k * 7 + me + i);
		must(noc_portal_write(p, buf, lengths[i], 60000) == (ssize_t)lengths[i]);
		maybe_move();
	}
	if (me == 1)
		must(noc_portal_write(p, buf, 50000, 60000) == 50000);
	else
		must(noc_portal_write(p, buf, 1, 0) == -ETIMEDOUT);
	must(noc_portal_close(p) == 0);
}

static int process(void)
{
	struct noc_mailbox *mb;
	struct gw_error why;

	must(noc_mailbox_create(&mb, 1) == -ENOTCONN);
	if (noc_start_test(segment_fd, me, NULL, &why) || noc_init())
		return 2;
	must(noc_process() == me && noc_count() == PROCS);
	mailboxes();
	syncs();
	portals();
	noc_fini();
	noc_stop();
	return bad ? 1 : 0;
}

int main(void)
{
	struct gw_error why;
	pid_t pids[PROCS];

	tap_begin(100);
	setenv("PMI_SIZE", "4", 1);
	segment_fd = noc_segment_create(1, PROCS, 1, 1, &why);
	if (segment_fd < 0)
		tap_bail("%s", why.text);
	for (me = 0; me < PROCS; me++) {
		pids[me] = fork();
		if (pids[me] == 0)
			_exit(process());
	}
	for (int i = 0; i < PROCS; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		is_int(status, 0, "process %d: letters in order and within their window, signals counted, bulk data whole", i);
	}
	return tap_done();
}
