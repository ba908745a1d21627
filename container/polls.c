/* SPDX-License-Identifier: BSD-2-Clause */
/* Epoll instances: what each watches, and watching it again. */
#include "container/rank.h"

#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An instance watches open files, and knows only by which number each was named then: is it the file of that number still? */
static bool is_still_there(const struct ct_rank *r, uint32_t instance, uint32_t target)
{
	struct kcmp_epoll_slot slot = { .efd = instance, .tfd = target };
	char name[32], ignored[16];

	snprintf(name, sizeof(name), "fd/%u", target);
	if (ct_proc_link(r->pid, name, ignored, sizeof(ignored)) < 0)
		return false;
	return syscall(SYS_kcmp, r->pid, r->pid, KCMP_EPOLL_TFD, target, &slot) <= 0; /* or it cannot be said here */
}

int ct_epoll_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t index, struct gw_error *why)
{
	uint32_t number = CT_AT(struct ct_img_fd, &s->fds, index)->number;
	gw_autofree char *text = NULL;
	char name[32];
	int rc;

	snprintf(name, sizeof(name), "fdinfo/%u", number);
	rc = ct_proc_text(r->pid, name, &text);
	if (rc < 0)
		return rc == -ENOENT ? 0 : gw_fail(why, rc, "cannot look at fd %u of pid %d: %s", number, (int)r->pid, strerror(-rc));
	for (const char *at = strstr(text, "tfd:"); at; at = strstr(at + 1, "\ntfd:")) {
		struct ct_img_watch w = { .fd = index };
		unsigned long long data;

		if (sscanf(at + (*at == '\n'), "tfd: %u events: %x data: %llx", &w.target, &w.events, &data) != 3)
			return gw_fail(why, -EIO, "cannot understand what fd %u (epoll) watches", number);
		w.data = data;
		if (!is_still_there(r, number, w.target)) {
			rc = ct_hold(r, why, CT_HOLD_DESCRIPTOR, number, "fd %u is an epoll instance that watches a file which is open, but "
			             "not as fd %u any more; remove it from there before it is closed, or keep the rank with 'godwit pin'",
			             number, w.target);
			if (rc < 0)
				return rc;
			continue;
		}
		if (ct_vec_append(&s->watches, &w, 1) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of descriptors");
	}
	return 0;
}

/* What is ready is told again where it had been told once for all (EPOLLET): as after any epoll_ctl. */
int ct_epoll_fill(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;

	for CT_EACH(const struct ct_img_watch, w, &r->snap.watches) {
		struct epoll_event e = { .events = w->events, .data.u64 = w->data };
		int rc = ct_restore_room(r, 1, sizeof(e) + 16, why);

		if (rc < 0)
			return rc;
		CT_CALL(m, "watch a descriptor", CT_CALL_OK, SYS_epoll_ctl, CT_AT(struct ct_img_fd, &r->snap.fds, w->fd)->number,
		        EPOLL_CTL_ADD, w->target, ct_remote_data(m, &e, sizeof(e)));
	}
	return 0;
}
