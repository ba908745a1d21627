/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Locks on files: flock(2), and fcntl(2) of a process (F_SETLK) or of an open file (F_OFD_SETLK).
 *
 * Nobody else may get a lock while its owner moves. Those of an open file go with it when that is handed over (handles.c).
 * Shared ones are taken at the destination while the source has them still. What is left, exclusive locks of a process, and on
 * the way to another host all exclusive ones, would have to be let go first, and whoever waits would get them: such a lock
 * holds the rank. Libraries (MPI-IO) have theirs for a moment only, so it is waited for. An image on disk has no source any
 * more: all are taken when it is continued, or it is not.
 */
#include "container/rank.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif

static const char *const names[] = { [CT_LOCK_FLOCK] = "flock", [CT_LOCK_PROCESS] = "fcntl, F_SETLK",
                                     [CT_LOCK_FILE] = "fcntl, F_OFD_SETLK" };

/* ---- source ------------------------------------------------------------------------------------------------------ */

/* "lock:\t1: POSIX  ADVISORY  WRITE 812 fe:00:131 0 EOF"; false: a lease, or nothing that is known */
static bool lock_parse(const char *line, struct ct_img_lock *l)
{
	char kind[16], mode[16], type[16], end[32];
	unsigned long long start;

	if (sscanf(line, " %*d: %15s %15s %15s %*d %*s %llu %31s", kind, mode, type, &start, end) != 5)
		return false;
	l->kind = strcmp(kind, "FLOCK") == 0 ? CT_LOCK_FLOCK : strcmp(kind, "POSIX") == 0 ? CT_LOCK_PROCESS :
	          strcmp(kind, "OFDLCK") == 0 ? CT_LOCK_FILE : 0;
	l->is_exclusive = strcmp(type, "WRITE") == 0;
	l->start = start;
	l->length = strcmp(end, "EOF") == 0 ? 0 : strtoull(end, NULL, 10) - start + 1;
	return l->kind && (l->is_exclusive || strcmp(type, "READ") == 0);
}

static int lock_hold(struct ct_rank *r, const struct ct_img_lock *l, const char *path, bool is_frozen, struct gw_error *why)
{
	bool is_passing = l->kind == CT_LOCK_PROCESS;
	int rc;

	if (is_passing && is_frozen) /* taken since it was looked at: a moment later it will have gone again */
		return gw_fail(why, -ECHILD, "fd %u is a locked file (%s) (%s)", l->fd, names[l->kind], path);
	rc = ct_hold(r, why, CT_HOLD_DESCRIPTOR, l->fd, "fd %u is a locked file (%s) (%s), and nobody else may get its exclusive lock "
	             "while it moves, which %s; unlock it, or keep the rank with 'godwit pin'", l->fd, names[l->kind], path,
	             is_passing ? "cannot be had for a lock of a process (use flock or F_OFD_SETLK)" : "cannot be had between hosts");
	if (rc == 0 && r->holds)
		r->holds->list[r->holds->n - 1].is_passing = is_passing;
	return rc;
}

/**
 * ct_locks_read - the locks of descriptor @n, of which /proc says @info, perhaps cut short
 * Return: 0 none, or they can move: *needs_handle says that the open file must be handed over; 1 it holds the rank, and was
 * told of; negative errno.
 */
int ct_locks_read(struct ct_rank *r, struct ct_snapshot *s, uint32_t n, const char *path, const char *info, bool is_frozen,
                  bool *needs_handle, struct gw_error *why)
{
	gw_autofree char *all = NULL;
	char name[32];
	int rc;

	*needs_handle = false;
	if (!strstr(info, "\nlock:"))
		return 0;
	snprintf(name, sizeof(name), "fdinfo/%u", n);
	rc = ct_proc_text(r->pid, name, &all);
	if (rc < 0)
		return rc == -ENOENT && !is_frozen ? 0 : gw_fail(why, rc, "cannot look at fd %u of pid %d: %s", n, (int)r->pid, strerror(-rc));
	for (const char *at = strstr(all, "\nlock:"); at; at = strstr(at + 1, "\nlock:")) {
		struct ct_img_lock l = { .fd = n };
		bool is_of_file;

		if (!lock_parse(at + strlen("\nlock:"), &l)) {
			rc = ct_hold(r, why, CT_HOLD_DESCRIPTOR, n, "fd %u is a locked file (a lease) (%s); give the lease back, or keep the rank "
			             "with 'godwit pin'", n, path);
			return rc < 0 ? rc : 1;
		}
		is_of_file = l.kind != CT_LOCK_PROCESS;
		if (is_of_file && r->way == CT_WAY_NEAR) {
			*needs_handle = true;
		} else if (l.is_exclusive && r->way != CT_WAY_COLD) {
			rc = lock_hold(r, &l, path, is_frozen, why);
			return rc < 0 ? rc : 1;
		} else if (ct_vec_append(&s->locks, &l, 1) < 0) {
			return gw_fail(why, -ENOMEM, "no memory for a list of locks");
		}
	}
	return 0;
}

/* ---- destination ------------------------------------------------------------------------------------------------- */

/* The process is the owner of those that are its own, so all is locked from inside it; and last, since closing any descriptor of
 * a file gives up the process's locks on it. */
int ct_locks_take(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;

	for CT_EACH(const struct ct_img_lock, l, &r->snap.locks) {
		struct flock fl = { .l_type = l->is_exclusive ? F_WRLCK : F_RDLCK, .l_start = (off_t)l->start, .l_len = (off_t)l->length };
		const char *path = "a locked file";
		int rc;

		for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds)
			if (fd->number == l->fd && fd->kind == CT_FD_FILE)
				path = ct_snapshot_text(&r->snap, CT_AT(struct ct_img_file, &r->snap.files, fd->file)->path);
		if (l->kind == CT_LOCK_FLOCK)
			CT_CALL(m, path, CT_CALL_OK, SYS_flock, l->fd, (l->is_exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
		else
			CT_CALL(m, path, CT_CALL_OK, SYS_fcntl, l->fd, l->kind == CT_LOCK_FILE ? F_OFD_SETLK : F_SETLK,
			        ct_remote_data(m, &fl, sizeof(fl)));
		rc = ct_restore_run(r, why);
		if (rc < 0)
			return gw_fail_more(why, "the lock (%s) of fd %u could not be taken here: ", names[l->kind], l->fd);
		rc = ct_restore_room(r, 1, sizeof(fl) + 16, why);
		if (rc < 0)
			return rc;
	}
	return 0;
}
