/* SPDX-License-Identifier: BSD-2-Clause */
/* Helpers: the guard of marks, which also flushes, the reader of contents, the keeper of a descriptor, the maker of huge pages. */
#define XXH_INLINE_ALL /* a fast hash of 128 bits that needs no library at run time */
#include <xxhash.h>

#include "container/proof.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Helpers that were let go and not yet reaped: of this whole process, as its children are. */
static pid_t let_go[256];
static size_t n_let_go;

void ct_helpers_reap(void)
{
	size_t kept = 0;

	for (size_t i = 0; i < n_let_go; i++)
		if (waitpid(let_go[i], NULL, WNOHANG) == 0)
			let_go[kept++] = let_go[i];
	n_let_go = kept;
}

void ct_helper_end(struct ct_helper *h)
{
	if (h->fd < 0)
		return;
	close(h->fd);
	h->fd = -1;
	ct_helpers_reap();
	/* one that hangs in a dead file system is not waited for */
	if (waitpid(h->pid, NULL, WNOHANG) == 0 && n_let_go < GW_ARRAY_LEN(let_go))
		let_go[n_let_go++] = h->pid;
}

/* Return: 0 in the parent; in the child it does not return */
static int start(struct ct_helper *h, void (*body)(int fd, const void *arg), const void *arg)
{
	int pair[2], null;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ct_helpers_reap();
	pid = fork();
	if (pid < 0) {
		int code = -errno;

		close(pair[0]);
		close(pair[1]);
		return code;
	}
	if (pid) {
		close(pair[1]);
		*h = (struct ct_helper){ pair[0], pid };
		return 0;
	}
	/* nothing of the daemon's may be kept open: others wait for the end of its pipes and sockets */
	for (int sig = 1; sig < 32; sig++)
		signal(sig, sig == SIGPIPE || sig == SIGINT || sig == SIGTERM || sig == SIGHUP || sig == SIGQUIT ? SIG_IGN : SIG_DFL);
	null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		if (null >= 0 && pair[1] != i)
			dup2(null, i);
	if (pair[1] > 3)
		syscall(SYS_close_range, 3, pair[1] - 1, 0);
	syscall(SYS_close_range, pair[1] + 1, ~0u, 0);
	prctl(PR_SET_NAME, "godwit-files");
	if (getpriority(PRIO_PROCESS, 0) < 0)
		setpriority(PRIO_PROCESS, 0, 0); /* the daemon is in a hurry, we are not */
	body(pair[1], arg);
	_exit(0);
}

static bool put(int fd, const void *p, size_t len)
{
	return send(fd, p, len, MSG_NOSIGNAL) == (ssize_t)len;
}

uint64_t ct_mount_of(const char *path, struct stat *st)
{
	struct statx x;

	if (stat(path, st) < 0 || statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_INO | STATX_MNT_ID, &x) < 0)
		return 0;
	/* before Linux 5.8 there is no number of the mount: the device must do */
	return x.stx_mask & STATX_MNT_ID ? x.stx_mnt_id : makedev(x.stx_dev_major, x.stx_dev_minor) + 1;
}

/* ---- reader ------------------------------------------------------------------------------------------------------ */

struct to_read { const char *const *paths; size_t n; };

void ct_contents_key(struct ct_contents *c, const struct stat *st)
{
	*c = (struct ct_contents){ .dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec, .mtime_ns = st->st_mtim.tv_nsec, .ctime_s = st->st_ctim.tv_sec,
		.ctime_ns = st->st_ctim.tv_nsec };
}

int ct_contents_read(const char *path, struct ct_contents *out)
{
	static char buf[1 << 20];
	gw_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct ct_contents after;
	XXH3_state_t state;
	XXH128_hash_t hash;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	ct_contents_key(out, &st);
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	XXH3_128bits_reset(&state);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		XXH3_128bits_update(&state, buf, (size_t)n);
	if (n < 0 || fstat(fd, &st) < 0)
		return -errno;
	ct_contents_key(&after, &st);
	if (memcmp(&after, out, sizeof(after)) != 0)
		return -EAGAIN; /* it was being written */
	hash = XXH3_128bits_digest(&state);
	out->hash[0] = hash.low64;
	out->hash[1] = hash.high64;
	return 0;
}

static void contents_main(int fd, const void *arg)
{
	const struct to_read *r = arg;

	for (size_t i = 0; i < r->n; i++) {
		struct ct_contents_done done = { 0 };

		done.code = ct_contents_read(r->paths[i], &done.c);
		if (!put(fd, &done, sizeof(done)))
			return;
	}
}

int ct_contents_start(struct ct_helper *h, const char *const *paths, size_t n)
{
	return start(h, contents_main, &(struct to_read){ paths, n });
}

/* ---- guard ------------------------------------------------------------------------------------------------------- */

bool ct_mark_path(char *out, const char *path, uint32_t prefix, const uint8_t nonce[16])
{
	int n;

	if (prefix > 4096)
		return false;
	n = sprintf(out, "%.*s/" CT_MARK_NAME, (int)prefix, path);
	for (int i = 0; i < 16; i++)
		n += sprintf(out + n, "%02x", nonce[i]);
	return true;
}

static bool mark_make(const struct ct_guard *g, const struct ct_try *t, struct ct_mark_made *out)
{
	char path[CT_MARK_PATH];
	struct stat st;
	int fd;

	if (!ct_mark_path(path, g->paths[t->file], t->prefix, g->nonces[t->group]))
		return false;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		out->code = -errno;
		return false;
	}
	close(fd); /* a network file system tells its server now at the latest */
	if (ct_mount_of(path, &st) != t->mount) { /* something was mounted there meanwhile */
		unlink(path);
		out->code = -EXDEV;
		return false;
	}
	*out = (struct ct_mark_made){ .file = t->file, .prefix = t->prefix, .ino = st.st_ino };
	return true;
}

static void guard_main(int fd, const void *arg)
{
	const struct ct_guard *g = arg;
	bool is_marked = true;
	char what;
	int *files;

	for (uint32_t i = 0; i < g->groups; i++) {
		struct ct_mark_made made = { .code = -ENOENT };

		for (size_t k = 0; k < g->n_tries; k++)
			if (g->tries[k].group == i && mark_make(g, &g->tries[k], &made))
				break;
		/* kept in the daemon's own words, so that what is undone is what was said */
		if (!put(fd, &made, sizeof(made)) && made.code == 0) {
			char path[CT_MARK_PATH];

			if (ct_mark_path(path, g->paths[made.file], made.prefix, g->nonces[i]))
				unlink(path);
		}
	}
	/* open before anything can go wrong, so that a failed write-back is told to this descriptor too */
	files = malloc((g->n_flush + 1) * sizeof(*files));
	for (size_t i = 0; files && i < g->n_flush; i++) {
		files[i] = open(g->paths[g->flush[i]], O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (files[i] < 0 && errno == EACCES)
			files[i] = open(g->paths[g->flush[i]], O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (files[i] < 0)
			files[i] = -errno;
	}
	for (;;) {
		bool is_over = read(fd, &what, 1) != 1;

		if ((is_over || what == CT_GUARD_UNMARK) && is_marked) {
			/* every place where one may be: also of those that nobody was told of */
			for (size_t k = 0; k < g->n_tries; k++) {
				char path[CT_MARK_PATH];

				if (ct_mark_path(path, g->paths[g->tries[k].file], g->tries[k].prefix, g->nonces[g->tries[k].group]))
					unlink(path);
			}
			is_marked = false;
		}
		if (is_over)
			return;
		if (what == CT_GUARD_UNMARK) /* most of the data now, so that little is left when the rank stands */
			for (size_t i = 0; files && i < g->n_flush; i++)
				if (files[i] >= 0)
					sync_file_range(files[i], 0, 0, SYNC_FILE_RANGE_WRITE);
		if (what == CT_GUARD_FLUSH) {
			struct ct_flushed done = { .code = files ? 0 : -ENOMEM };

			for (size_t i = 0; done.code == 0 && i < g->n_flush; i++) {
				done.file = g->flush[i];
				done.code = files[i] < 0 ? files[i] : fsync(files[i]) < 0 ? -errno : 0;
			}
			put(fd, &done, sizeof(done));
		}
	}
}

int ct_guard_start(struct ct_helper *h, const struct ct_guard *g)
{
	return start(h, guard_main, g);
}

/* ---- keeper ------------------------------------------------------------------------------------------------------ */

static bool take_fds(int fd, int fds[2])
{
	union { struct cmsghdr head; char room[CMSG_SPACE(2 * sizeof(int))]; } control;
	char what;
	struct iovec iov = { &what, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	if (recvmsg(fd, &m, MSG_CMSG_CLOEXEC) != 1 || m.msg_controllen < CMSG_LEN(2 * sizeof(int)))
		return false;
	memcpy(fds, CMSG_DATA(&control.head), 2 * sizeof(int));
	return true;
}

static void keeper_main(int fd, const void *arg)
{
	struct pollfd there = { .events = POLLIN };
	int fds[2];
	char what;

	(void)arg;
	prctl(PR_SET_NAME, "godwit-pages");
	if (!take_fds(fd, fds))
		return;
	there.fd = fds[0]; /* the other one is only to be open */
	if (read(fd, &what, 1) == 1)
		return;
	while (poll(&there, 1, -1) < 0 && errno == EINTR) /* the daemon was killed */
		;
}

/* Start @body with these descriptors, which it takes by take_fds(). */
static int start_with(struct ct_helper *h, void (*body)(int fd, const void *arg), const void *arg, const int fds[2])
{
	union { struct cmsghdr head; char room[CMSG_SPACE(2 * sizeof(int))]; } control = {
		.head = { .cmsg_len = CMSG_LEN(2 * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec iov = { (char[1]){ 0 }, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.room) };
	int rc = start(h, body, arg);

	if (rc < 0)
		return rc;
	memcpy(CMSG_DATA(&control.head), fds, 2 * sizeof(int));
	rc = sendmsg(h->fd, &m, MSG_NOSIGNAL) == 1 ? 0 : -errno;
	if (rc < 0)
		ct_helper_end(h);
	return rc;
}

int ct_keeper_start(struct ct_helper *h, int pidfd, int fd)
{
	return start_with(h, keeper_main, NULL, (int[2]){ pidfd, fd });
}

void ct_keeper_end(struct ct_helper *h)
{
	if (h->fd >= 0)
		put(h->fd, "", 1);
	ct_helper_end(h);
}

/* ---- collapser --------------------------------------------------------------------------------------------------- */

#define HUGE_PAGE      (2ull << 20)
#define MADV_COLLAPSE_ 25 /* Linux 6.1 */
#define COLLAPSE_TURNS 10
#define COLLAPSE_MS    10 /* before the first turn; twice as long before each other: 10 s in all */

struct to_collapse { pid_t pid; const struct ct_vec *spans; };

static bool is_all_there(int pagemap, uint64_t at)
{
	static uint64_t entries[HUGE_PAGE / CT_PAGE];

	if (pread(pagemap, entries, sizeof(entries), (off_t)(at / CT_PAGE * 8)) != (ssize_t)sizeof(entries))
		return false;
	for (size_t i = 0; i < GW_ARRAY_LEN(entries); i++)
		if (!(entries[i] >> 63))
			return false;
	return true;
}

/*
 * One after the other, since each makes the rank's threads wait that change its mappings meanwhile. What is huge already costs nothing.
 * One that cannot be made now may be later: the kernel refuses where zero pages are watched, and the keeper's end, which ends that, takes
 * a moment; pages may be in use; huge pages may be scarce.
 */
static void collapser_main(int fd, const void *arg)
{
	const struct to_collapse *c = arg;
	struct pollfd ended = { .events = POLLIN };
	struct ct_vec left;
	char path[64];
	int fds[2], pagemap;

	prctl(PR_SET_NAME, "godwit-pages");
	setpriority(PRIO_PROCESS, 0, 19);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)c->pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || !take_fds(fd, fds))
		return;
	ended.fd = fds[0];
	ct_vec_init(&left, sizeof(uint64_t));
	for CT_EACH(const struct ct_img_extent, e, c->spans)
		for (uint64_t at = (e->start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1); at + HUGE_PAGE <= e->end; at += HUGE_PAGE)
			if (ct_vec_append(&left, &at, 1) < 0)
				return;
	for (unsigned turn = 0; left.n && turn < COLLAPSE_TURNS && poll(&ended, 1, COLLAPSE_MS << turn) == 0; turn++) {
		size_t kept = 0;

		for CT_EACH(const uint64_t, at, &left) {
			struct iovec block = { (void *)(uintptr_t)*at, HUGE_PAGE };

			if (!is_all_there(pagemap, *at) || syscall(SYS_process_madvise, fds[0], &block, 1, MADV_COLLAPSE_, 0) >= 0)
				continue;
			if (errno == ESRCH || errno == EPERM || errno == ENOSYS)
				return;
			*CT_AT(uint64_t, &left, kept++) = *at;
		}
		left.n = kept;
	}
}

int ct_collapser_start(struct ct_helper *h, pid_t pid, int pidfd, const struct ct_vec *spans)
{
	struct to_collapse c = { pid, spans };

	return start_with(h, collapser_main, &c, (int[2]){ pidfd, pidfd });
}
