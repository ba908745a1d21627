/* SPDX-License-Identifier: BSD-2-Clause */
/* The descriptors of a rank: what each is, which belong together, and which hold it here. */
#include "container/rank.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

int ct_file_add(struct ct_snapshot *s, const char *path, const struct stat *st, uint32_t flags, uint32_t *index)
{
	struct ct_img_file *f;

	for (size_t i = s->files.n; i-- > 0;) {
		f = CT_AT(struct ct_img_file, &s->files, i);
		if (f->ino == st->st_ino && f->dev == st->st_dev && strcmp(ct_snapshot_text(s, f->path), path) == 0) {
			f->flags |= flags;
			*index = (uint32_t)i;
			return 0;
		}
	}
	*index = (uint32_t)s->files.n;
	f = ct_vec_add(&s->files, 1);
	if (!f)
		return -ENOMEM;
	*f = (struct ct_img_file){ .dev = st->st_dev, .ino = st->st_ino, .size = S_ISCHR(st->st_mode) ? st->st_rdev : (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec, .mtime_ns = (uint32_t)st->st_mtim.tv_nsec, .flags = flags, .mode = st->st_mode,
		.uid = st->st_uid, .gid = st->st_gid };
	f->path = ct_snapshot_string(s, path);
	return f->path ? 0 : -ENOMEM;
}

struct anon { const char *link, *text; bool is_free; }; /* is_free: of no process and no memory, it can be handed over */

static const struct anon *anon_find(const char *link)
{
	static const struct anon known[] = {
		{ "anon_inode:inotify", "an inotify watch", true },
		{ "anon_inode:[perf_event]", "a performance counter", false },
		{ "anon_inode:[userfaultfd]", "a userfaultfd", false },
		{ "anon_inode:[pidfd]", "a handle of another process", true },
		{ "pidfd:", "a handle of another process", true },
		{ "anon_inode:bpf", "a BPF object", true },
		{ "anon_inode:[fanotify]", "a fanotify watch", true },
		{ "/memfd:", "the memory of its host", false },
		{ "mqueue:", "a message queue", true },
		{ "/dev/mqueue/", "a message queue", true },
		{ "anon_inode:kvm", "a virtual machine (KVM)", false },
		{ "anon_inode:[io_uring", "an io_uring", false },
		{ "anon_inode:[landlock", "a Landlock rule set", false },
		{ "anon_inode:seccomp", "a listener of a seccomp filter", false },
		{ "mnt:[", "a namespace", true }, { "net:[", "a namespace", true }, { "user:[", "a namespace", true },
		{ "pid:[", "a namespace", true }, { "ipc:[", "a namespace", true }, { "uts:[", "a namespace", true },
		{ "time:[", "a namespace", true }, { "cgroup:[", "a namespace", true },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(known); i++)
		if (strncmp(link, known[i].link, strlen(known[i].link)) == 0)
			return &known[i];
	return NULL;
}

/* A pidfd of the rank itself or of its init: both are there at the other side, by the same numbers. */
static bool is_of_own_process(const struct ct_rank *r, const char *link, const char *info, struct ct_img_fd *fd)
{
	const char *field = ct_proc_field(info, "Pid:");
	pid_t pid = field ? atoi(field) : 0;

	if ((strcmp(link, "anon_inode:[pidfd]") != 0 && strncmp(link, "pidfd:", 6) != 0) || (pid != r->pid && pid != r->init_pid) ||
	    (fd->status_flags & O_EXCL)) /* of a thread (PIDFD_THREAD) */
		return false;
	fd->kind = CT_FD_PID;
	fd->offset = pid == r->pid ? (uint64_t)r->ns_pid : 1;
	return true;
}

static int int_order(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int hold_fd(struct ct_rank *r, struct gw_error *why, int n, const char *what, const char *link)
{
	return ct_hold(r, why, CT_HOLD_DESCRIPTOR, n, "fd %d is %s%s%s%s; close it, or keep the rank with 'godwit pin'", n, what,
	               link ? " (" : "", link ? link : "", link ? ")" : "");
}

/* It goes on only as itself: handed over where that can be, else it holds the rank. */
static int hand_or_hold(struct ct_rank *r, struct ct_snapshot *s, struct ct_img_fd *fd, const struct stat *st, const char *what,
                        const char *link, struct gw_error *why)
{
	int rc = ct_handle_add(r, s, fd->number, st, what);

	if (rc == 0)
		fd->kind = CT_FD_HANDED;
	if (rc == -ENOMEM)
		return gw_fail(why, rc, "no memory for a list of descriptors");
	return rc < 0 ? hold_fd(r, why, (int)fd->number, what, link) : 0;
}

static uint32_t plumb_of(const struct ct_rank *r, const struct stat *st)
{
	for (uint32_t i = 1; i < CT_PLUMB_MAX; i++)
		if (r->ends[i].ino && r->ends[i].ino == st->st_ino && r->ends[i].dev == st->st_dev &&
		    (S_ISFIFO(st->st_mode) || S_ISSOCK(st->st_mode)))
			return i;
	return 0;
}

static bool is_terminal(const struct stat *st)
{
	unsigned m = major(st->st_rdev);

	return m == 4 || m == 5 || (m >= 136 && m <= 143); /* consoles, /dev/tty and /dev/ptmx, pseudoterminals */
}

/* Renamed, covered by a mount, or never in a directory (a message queue): it cannot be opened again. */
static bool is_at_its_path(const struct ct_rank *r, const char *link, const struct stat *st)
{
	char path[4096 + 32];
	struct stat there;

	snprintf(path, sizeof(path), "/proc/%d/root%s", (int)r->pid, link);
	return stat(path, &there) < 0 ? errno == EACCES : there.st_ino == st->st_ino && there.st_dev == st->st_dev;
}

/* Each rank has a /proc of its own, and what it tells is of this host. */
static bool is_of_proc(const char *path)
{
	struct statfs f;

	return statfs(path, &f) == 0 && f.f_type == PROC_SUPER_MAGIC;
}

/*
 * Of ends of the daemon's pipes and sockets the open file itself tells as much in a fourth of the time that /proc takes; but not
 * whether exec closes the descriptor, which is asked inside (capture.c). A lock on one would not be seen either: where the last
 * look saw one, /proc is read. Return: 1; 0 for any other descriptor; -ENOMEM
 */
static int scan_plumb(struct ct_rank *r, struct ct_snapshot *s, int n, struct ct_vec *inodes)
{
	gw_autoclose int copy = -1;
	struct ct_img_fd *fd;
	uint32_t plumb;
	struct stat st;
	int flags;

	if (n >= 64 || !(r->plumb_numbers >> n & 1) || r->has_locked_plumb || r->n_asked == CT_FDS_ASKED)
		return 0;
	copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, n, 0);
	if (copy < 0 || fstat(copy, &st) < 0 || !(plumb = plumb_of(r, &st)) || (flags = fcntl(copy, F_GETFL)) < 0)
		return 0;
	fd = ct_vec_add(&s->fds, 1);
	if (!fd || ct_vec_append(inodes, &(struct ct_end){ .dev = st.st_dev, .ino = st.st_ino }, 1) < 0)
		return -ENOMEM;
	fd->number = (uint32_t)n;
	fd->kind = CT_FD_PLUMB;
	fd->plumb = plumb;
	fd->status_flags = (uint32_t)flags;
	r->asked[r->n_asked++] = (uint32_t)(s->fds.n - 1);
	return 1;
}

static int scan_one(struct ct_rank *r, struct ct_snapshot *s, int n, struct ct_vec *inodes, bool is_frozen,
                    struct gw_error *why)
{
	char name[32], link[4096], path[64], info[4096];
	const struct anon *anon;
	const char *field;
	struct ct_img_fd *fd;
	bool is_locked;
	struct stat st;
	int rc = is_frozen ? scan_plumb(r, s, n, inodes) : 0;

	if (rc != 0)
		return rc < 0 ? gw_fail(why, rc, "no memory for a list of descriptors") : 0;
	snprintf(name, sizeof(name), "fd/%d", n);
	rc = ct_proc_link(r->pid, name, link, sizeof(link));
	if (rc == -ENOENT && !is_frozen)
		return 0; /* closed meanwhile */
	/* the host segment on its way into the agent of a rank that runs; the agent closes it as soon as it is mapped */
	if (rc >= 0 && !is_frozen && ct_is_segment(link))
		return 0;
	if (rc >= 0 && !is_frozen && ct_socket_is_network(r, n))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)r->pid, n);
	if (rc >= 0 && stat(path, &st) < 0)
		rc = -errno;
	snprintf(name, sizeof(name), "fdinfo/%d", n);
	if (rc >= 0)
		rc = ct_proc_read(r->pid, name, info, sizeof(info));
	if (rc == -ENOENT && !is_frozen)
		return 0;
	if (rc < 0)
		return gw_fail(why, rc, "cannot look at fd %d of pid %d: %s", n, (int)r->pid, strerror(-rc));
	fd = ct_vec_add(&s->fds, 1);
	if (!fd || ct_vec_append(inodes, &(struct ct_end){ .dev = st.st_dev, .ino = st.st_ino }, 1) < 0)
		return gw_fail(why, -ENOMEM, "no memory for a list of descriptors");
	fd->number = (uint32_t)n;
	field = ct_proc_field(info, "flags:");
	fd->status_flags = field ? (uint32_t)strtoul(field, NULL, 8) : 0;
	fd->is_cloexec = (fd->status_flags & O_CLOEXEC) != 0;
	fd->status_flags &= ~(uint32_t)O_CLOEXEC;
	field = ct_proc_field(info, "pos:");
	fd->offset = field ? strtoull(field, NULL, 10) : 0;
	rc = ct_locks_read(r, s, (uint32_t)n, link, info, is_frozen, &is_locked, why);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	if (is_locked && ct_handle_add(r, s, (uint32_t)n, &st, "a locked file") < 0)
		return gw_fail(why, -ENOMEM, "no memory for a list of descriptors");
	fd->plumb = plumb_of(r, &st);
	r->has_locked_plumb |= fd->plumb && is_locked;
	r->plumb_numbers |= fd->plumb && n < 64 && !is_frozen ? 1ull << n : 0;
	if (fd->plumb) {
		fd->kind = CT_FD_PLUMB;
	} else if (strncmp(link, "socket:", 7) == 0) {
		struct ct_socket k;

		bool is_renewed = ct_socket_look(r, n, &k);

		if (!is_renewed && ct_pair_look(r, fd))
			return 0; /* looked at again when all are listed */
		if (!is_renewed && k.domain == AF_UNIX)
			return hand_or_hold(r, s, fd, &st, k.text, NULL, why);
		if (!is_renewed) {
			rc = hold_fd(r, why, n, k.text, NULL);
			if (rc == 0 && ct_socket_is_unsettled(r, n))
				r->holds->list[r->holds->n - 1].is_passing = true;
			return rc;
		}
		fd->kind = CT_FD_SOCKET;
		fd->socket_type = (uint32_t)k.type;
		fd->is_hung_up = k.is_hung_up;
	} else if (strncmp(link, "pipe:", 5) == 0) {
		fd->kind = CT_FD_PIPE;
	} else if (strcmp(link, "anon_inode:[eventfd]") == 0) {
		fd->kind = CT_FD_EVENTFD;
		field = ct_proc_field(info, "eventfd-count:");
		fd->offset = field ? strtoull(field, NULL, 16) : 0;
		field = ct_proc_field(info, "eventfd-semaphore:");
		fd->semaphore = field && *field == '1';
	} else if (strcmp(link, "anon_inode:[timerfd]") == 0) {
		fd->kind = CT_FD_TIMER;
		field = ct_proc_field(info, "clockid:");
		fd->clock = field ? (uint32_t)atoi(field) : CLOCK_MONOTONIC;
	} else if (strcmp(link, "anon_inode:[signalfd]") == 0) {
		fd->kind = CT_FD_SIGNAL;
		field = ct_proc_field(info, "sigmask:");
		fd->offset = field ? strtoull(field, NULL, 16) : 0;
	} else if (strcmp(link, "anon_inode:[eventpoll]") == 0) {
		fd->kind = CT_FD_EPOLL;
	} else if (is_of_own_process(r, link, info, fd)) {
		;
	} else if (ct_memory_is(link) || (S_ISREG(st.st_mode) && ct_memory_has(s, link, &st))) {
		if (is_locked && !ct_memory_is(link))
			return hold_fd(r, why, n, "a locked file that was deleted and is mapped", link);
		rc = ct_memory_fd(r, s, fd, link, &st);
		if (rc == -EBADF && !is_frozen)
			return 0; /* closed meanwhile */
		if (rc < 0)
			return gw_fail(why, rc, "cannot look at fd %d of pid %d: %s", n, (int)r->pid, strerror(-rc));
	} else if ((anon = anon_find(link)) != NULL) {
		return anon->is_free ? hand_or_hold(r, s, fd, &st, anon->text, NULL, why) : hold_fd(r, why, n, anon->text, NULL);
	} else if (link[0] != '/') {
		return hold_fd(r, why, n, "of a kind that cannot move", link);
	} else if (S_ISCHR(st.st_mode) && !(major(st.st_rdev) == 1 && (minor(st.st_rdev) == 3 || minor(st.st_rdev) == 5 ||
	           minor(st.st_rdev) == 7 || minor(st.st_rdev) == 8 || minor(st.st_rdev) == 9))) {
		return is_terminal(&st) ? hand_or_hold(r, s, fd, &st, "a terminal", link, why) : hold_fd(r, why, n, "a device", link);
	} else if (S_ISFIFO(st.st_mode)) {
		return hand_or_hold(r, s, fd, &st, "a named pipe", link, why);
	} else if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISCHR(st.st_mode)) {
		return hold_fd(r, why, n, "of a kind that cannot move", link);
	} else if (st.st_nlink == 0 && S_ISREG(st.st_mode) && (rc = ct_handle_add(r, s, (uint32_t)n, &st, "a file that was deleted")) != -ENOTSUP) {
		fd->kind = CT_FD_HANDED;
		return rc < 0 ? gw_fail(why, rc, "no memory for a list of descriptors") : 0;
	} else if (st.st_nlink == 0 && !(r->may_carry && S_ISREG(st.st_mode))) {
		return ct_hold(r, why, CT_HOLD_DESCRIPTOR, n, "fd %d is a file that was deleted (%s); close it, move the rank with "
		               "--carry-files, or keep it with 'godwit pin'", n, link);
	} else if (!S_ISCHR(st.st_mode) && is_of_proc(path)) {
		return hold_fd(r, why, n, "of /proc, which is another one at the other side", link);
	} else if (st.st_nlink && !is_at_its_path(r, link, &st)) {
		return hand_or_hold(r, s, fd, &st, "a file that cannot be found by its path any more", link, why);
	} else {
		size_t len = strlen(link);

		fd->kind = CT_FD_FILE;
		if ((fd->status_flags & O_TMPFILE) == O_TMPFILE)
			fd->status_flags &= ~(uint32_t)O_TMPFILE; /* it was made so; it is opened again in another way */
		if (!st.st_nlink && len > 10 && strcmp(link + len - 10, " (deleted)") == 0)
			link[len - 10] = '\0';
		rc = ct_file_add(s, link, &st, CT_IMG_FILE_OPEN |
		              (st.st_nlink ? 0 : CT_IMG_FILE_DELETED) |
		              ((fd->status_flags & O_ACCMODE) != O_RDONLY ? CT_IMG_FILE_WRITES : 0), &fd->file);
		if (rc < 0)
			return gw_fail(why, rc, "no memory for a list of files");
	}
	return 0;
}

/* both ends of a pipe or pair must be in the rank; then it is its own, and they are numbered in the order of their first ends */
static int pipes_number(struct ct_rank *r, struct ct_snapshot *s, const struct ct_vec *inodes, struct gw_error *why)
{
	uint32_t pipes = 0;

	for (size_t i = 0; i < s->fds.n; i++) {
		struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, i);
		bool has_reader = false, has_writer = false;

		if (fd->kind == CT_FD_PAIR && !fd->plumb) {
			struct stat st = { .st_dev = CT_AT(struct ct_end, inodes, i)->dev, .st_ino = CT_AT(struct ct_end, inodes, i)->ino };
			int rc = ct_pair_number(s, inodes, i, pipes + 1);

			pipes += rc > 0;
			if (rc <= 0)
				rc = hand_or_hold(r, s, fd, &st, "one of a pair of connected UNIX sockets whose other end is not in the rank, or shut "
				                  "down, or not told by this kernel (unix_diag)", NULL, why);
			if (rc < 0)
				return rc;
		}
		if (fd->kind != CT_FD_PIPE)
			continue;
		for (size_t j = 0; j < s->fds.n; j++) {
			struct ct_img_fd *other = CT_AT(struct ct_img_fd, &s->fds, j);

			if (other->kind != CT_FD_PIPE ||
			    CT_AT(struct ct_end, inodes, j)->ino != CT_AT(struct ct_end, inodes, i)->ino)
				continue;
			has_reader |= (other->status_flags & O_ACCMODE) != O_WRONLY;
			has_writer |= (other->status_flags & O_ACCMODE) != O_RDONLY;
			if (j < i)
				fd->plumb = other->plumb;
		}
		if (!has_reader || !has_writer) {
			struct stat st = { .st_dev = CT_AT(struct ct_end, inodes, i)->dev, .st_ino = CT_AT(struct ct_end, inodes, i)->ino };
			int rc = hand_or_hold(r, s, fd, &st, "one end of a pipe whose other end is not in the rank", NULL, why);

			if (rc < 0)
				return rc;
			if (fd->kind == CT_FD_HANDED)
				continue;
			r->holds->list[r->holds->n - 1].is_passing = true; /* as long as the process at the other end lives */
			continue;
		}
		if (!fd->plumb) {
			gw_autoclose int copy = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd->number, 0);
			int size = copy >= 0 ? fcntl(copy, F_GETPIPE_SZ) : 0;

			fd->plumb = ++pipes;
			fd->offset = size > 0 ? (uint64_t)size : 65536;
		}
	}
	return 0;
}

int ct_fds_scan(struct ct_rank *r, struct ct_snapshot *s, bool is_frozen, struct gw_error *why)
{
	struct ct_vec numbers, inodes;
	int rc;

	ct_vec_init(&numbers, sizeof(int));
	ct_vec_init(&inodes, sizeof(struct ct_end));
	s->fds.n = s->handles.n = s->locks.n = 0;
	r->n_asked = 0;
	if (!is_frozen) {
		r->has_locked_plumb = false;
		r->plumb_numbers = 0;
	}
	rc = ct_proc_ids(r->pid, "fd", &numbers);
	if (rc < 0)
		gw_fail(why, rc, "cannot list the descriptors of pid %d: %s", (int)r->pid, strerror(-rc));
	if (numbers.n)
		qsort(numbers.at, numbers.n, sizeof(int), int_order);
	for (size_t i = 0; rc == 0 && i < numbers.n; i++)
		rc = scan_one(r, s, *CT_AT(int, &numbers, i), &inodes, is_frozen, why);
	if (rc == 0)
		rc = pipes_number(r, s, &inodes, why);
	for (size_t i = 0; rc == 0 && i < s->fds.n; i++) {
		struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, i);

		fd->same_as = (uint32_t)i;
		for (size_t j = 0; j < i; j++) {
			struct ct_img_fd *other = CT_AT(struct ct_img_fd, &s->fds, j);

			/* descriptors of one open file share position and flags, and must go on sharing them */
			if (other->same_as == j && other->kind == fd->kind &&
			    CT_AT(struct ct_end, &inodes, i)->ino == CT_AT(struct ct_end, &inodes, j)->ino &&
			    syscall(SYS_kcmp, r->pid, r->pid, KCMP_FILE, fd->number, other->number) == 0) {
				fd->same_as = (uint32_t)j;
				break;
			}
		}
	}
	s->timerfds.n = s->watches.n = 0;
	for (uint32_t i = 0; rc == 0 && i < s->fds.n; i++) {
		const struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, i);

		if (fd->same_as != i)
			continue;
		if (fd->kind == CT_FD_EPOLL)
			rc = ct_epoll_read(r, s, i, why);
		else if (fd->kind == CT_FD_TIMER && is_frozen)
			rc = ct_timerfd_read(r, s, i, why);
	}
	ct_vec_fini(&numbers);
	ct_vec_fini(&inodes);
	return rc;
}
