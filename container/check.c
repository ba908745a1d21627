/* SPDX-License-Identifier: BSD-2-Clause */
/* What holds a rank: looking at its descriptors, mappings and surroundings, and saying what a destination must have. */
#include "container/rank.h"

#include <arpa/inet.h>
#include <cpuid.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* ---- files ----------------------------------------------------------------------------------------------------- */

static int file_add(struct ct_snapshot *s, const char *path, const struct stat *st, uint32_t flags, uint32_t *index)
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
	*f = (struct ct_img_file){ .dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec, .mtime_ns = (uint32_t)st->st_mtim.tv_nsec, .flags = flags, .mode = st->st_mode };
	f->path = ct_snapshot_string(s, path);
	return f->path ? 0 : -ENOMEM;
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

static void address_text(const struct sockaddr_storage *a, char *text, size_t len)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)a;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, len, "%s:%u", host, ntohs(in->sin_port));
	} else if (a->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)a;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
		snprintf(text, len, "[%s]:%u", host, ntohs(in->sin6_port));
	} else {
		snprintf(text, len, "?");
	}
}

/* "a connected TCP socket (10.0.0.4:443)" */
static void socket_text(struct ct_rank *r, int number, char *text, size_t len)
{
	gw_autoclose int fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof(int);
	int domain = 0, type = 0, is_listening = 0;
	const char *kind;
	char where[80];

	snprintf(text, len, "a socket");
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
		return;
	kind = domain == AF_UNIX ? "UNIX" : domain == AF_NETLINK ? "netlink" :
	       domain != AF_INET && domain != AF_INET6 ? "unknown" : type == SOCK_STREAM ? "TCP" :
	       type == SOCK_DGRAM ? "UDP" : "raw";
	n = sizeof(a);
	if (getpeername(fd, (struct sockaddr *)&a, &n) == 0) {
		address_text(&a, where, sizeof(where));
		if (domain == AF_INET || domain == AF_INET6)
			snprintf(text, len, "a connected %s socket (%s)", kind, where);
		else
			snprintf(text, len, "a connected %s socket to something outside the rank", kind);
		return;
	}
	n = sizeof(is_listening);
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n);
	n = sizeof(a);
	if (is_listening && (domain == AF_INET || domain == AF_INET6) && getsockname(fd, (struct sockaddr *)&a, &n) == 0) {
		address_text(&a, where, sizeof(where));
		snprintf(text, len, "a %s socket that listens at %s", kind, where);
	} else {
		snprintf(text, len, "a %s%s socket", is_listening ? "listening " : "", kind);
	}
}

static const char *anon_text(const char *link)
{
	static const struct { const char *link, *text; } known[] = {
		{ "anon_inode:[eventpoll]", "an epoll instance" },  { "anon_inode:[timerfd]", "a timer descriptor" },
		{ "anon_inode:[signalfd]", "a signal descriptor" }, { "anon_inode:inotify", "an inotify watch" },
		{ "anon_inode:[perf_event]", "a performance counter" }, { "anon_inode:[io_uring]", "an io_uring" },
		{ "anon_inode:[userfaultfd]", "a userfaultfd" },    { "anon_inode:[pidfd]", "a handle of another process" },
		{ "pidfd:", "a handle of another process" },        { "anon_inode:bpf", "a BPF object" },
		{ "anon_inode:[fanotify]", "a fanotify watch" },    { "/memfd:", "a memory file (memfd)" },
		{ "mqueue:", "a message queue" },
	};

	for (size_t i = 0; i < GW_ARRAY_LEN(known); i++)
		if (strncmp(link, known[i].link, strlen(known[i].link)) == 0)
			return known[i].text;
	return NULL;
}

static int int_order(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int hold_fd(struct gw_error *why, int n, const char *what, const char *link)
{
	return gw_fail(why, -EBUSY, "fd %d is %s%s%s%s; close it, or keep the rank with 'godwit pin'", n, what,
	               link ? " (" : "", link ? link : "", link ? ")" : "");
}

static uint32_t plumb_of(const struct ct_rank *r, const struct stat *st)
{
	for (uint32_t i = 1; i < CT_PLUMB_MAX; i++)
		if (r->ends[i].ino && r->ends[i].ino == st->st_ino && r->ends[i].dev == st->st_dev &&
		    (S_ISFIFO(st->st_mode) || S_ISSOCK(st->st_mode)))
			return i;
	return 0;
}

static int scan_one(struct ct_rank *r, struct ct_snapshot *s, int n, struct ct_vec *inodes, bool is_frozen,
                    struct gw_error *why)
{
	char name[32], link[4096], path[64], info[4096];
	const char *text, *field;
	struct ct_img_fd *fd;
	struct stat st;
	int rc;

	snprintf(name, sizeof(name), "fd/%d", n);
	rc = ct_proc_link(r->pid, name, link, sizeof(link));
	if (rc == -ENOENT && !is_frozen)
		return 0; /* closed meanwhile */
	/* the host segment on its way into the agent of a rank that runs; the agent closes it as soon as it is mapped */
	if (rc >= 0 && !is_frozen && strcmp(link, "/memfd:godwit-segment (deleted)") == 0)
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
	if (ct_proc_field(info, "lock:"))
		return hold_fd(why, n, "a locked file", link);
	fd->plumb = plumb_of(r, &st);
	if (fd->plumb) {
		fd->kind = CT_FD_PLUMB;
	} else if (strncmp(link, "socket:", 7) == 0) {
		char what[160];

		socket_text(r, n, what, sizeof(what));
		return hold_fd(why, n, what, NULL);
	} else if (strncmp(link, "pipe:", 5) == 0) {
		fd->kind = CT_FD_PIPE;
	} else if (strcmp(link, "anon_inode:[eventfd]") == 0) {
		fd->kind = CT_FD_EVENTFD;
		field = ct_proc_field(info, "eventfd-count:");
		fd->offset = field ? strtoull(field, NULL, 16) : 0;
		field = ct_proc_field(info, "eventfd-semaphore:");
		fd->semaphore = field && *field == '1';
	} else if ((text = anon_text(link)) != NULL) {
		return hold_fd(why, n, text, NULL);
	} else if (link[0] != '/') {
		return hold_fd(why, n, "of a kind that cannot move", link);
	} else if (S_ISCHR(st.st_mode) && !(major(st.st_rdev) == 1 && (minor(st.st_rdev) == 3 || minor(st.st_rdev) == 5 ||
	           minor(st.st_rdev) == 7 || minor(st.st_rdev) == 8 || minor(st.st_rdev) == 9))) {
		return hold_fd(why, n, "a device", link);
	} else if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISCHR(st.st_mode)) {
		return hold_fd(why, n, S_ISFIFO(st.st_mode) ? "a named pipe" : "of a kind that cannot move", link);
	} else if (st.st_nlink == 0) {
		return hold_fd(why, n, "a file that was deleted", link);
	} else {
		fd->kind = CT_FD_FILE;
		rc = file_add(s, link, &st, CT_IMG_FILE_OPEN |
		              ((fd->status_flags & O_ACCMODE) != O_RDONLY ? CT_IMG_FILE_WRITES : 0), &fd->file);
		if (rc < 0)
			return gw_fail(why, rc, "no memory for a list of files");
	}
	return 0;
}

/* both ends of a pipe must be in the rank, or its other end be closed; then it is its own */
static int pipes_number(struct ct_rank *r, struct ct_snapshot *s, const struct ct_vec *inodes, struct gw_error *why)
{
	uint32_t pipes = 0;

	for (size_t i = 0; i < s->fds.n; i++) {
		struct ct_img_fd *fd = CT_AT(struct ct_img_fd, &s->fds, i);
		bool has_reader = false, has_writer = false;

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
		if (!has_reader || !has_writer)
			return hold_fd(why, (int)fd->number, "one end of a pipe whose other end is not in the rank", NULL);
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
	s->fds.n = 0;
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
	ct_vec_fini(&numbers);
	ct_vec_fini(&inodes);
	return rc;
}

/* ---- mappings -------------------------------------------------------------------------------------------------- */

static int hold_map(struct gw_error *why, const struct ct_map *m, const char *what)
{
	return gw_fail(why, -EBUSY, "the mapping at %#llx (%s) is %s; unmap it, or keep the rank with 'godwit pin'",
	               (unsigned long long)m->start, m->name[0] ? m->name : "no name", what);
}

static bool is_under(const char *path, const char *dir)
{
	return strncmp(path, dir, strlen(dir)) == 0;
}

static int map_one(struct ct_snapshot *s, const struct ct_map *m, struct ct_img_vma *v, struct gw_error *why)
{
	size_t len = strlen(m->name);
	bool is_deleted = len > 10 && strcmp(m->name + len - 10, " (deleted)") == 0;
	struct stat st;
	int rc;

	if (m->is_locked_pages)
		return hold_map(why, m, "memory of a device");
	if (m->is_shared) {
		if (!m->name[0] || is_under(m->name, "/dev/zero")) {
			v->kind = CT_VMA_SHARED_ANON;
			return 0;
		}
		if (is_under(m->name, "/SYSV"))
			return hold_map(why, m, "System V shared memory");
		if (is_under(m->name, "/memfd:"))
			return hold_map(why, m, "a shared memory file (memfd)");
		if (is_under(m->name, "/dev/shm/"))
			return hold_map(why, m, "POSIX shared memory");
		if (is_under(m->name, "/dev/"))
			return hold_map(why, m, "a device");
		if (m->prot & PROT_WRITE)
			return hold_map(why, m, "a file that is shared and written through memory");
		v->kind = CT_VMA_SHARED_FILE;
	} else if (!m->name[0] || is_under(m->name, "[heap]") || is_under(m->name, "[stack") || is_under(m->name, "[anon") ||
	           strcmp(m->name, "/dev/zero") == 0) {
		v->kind = CT_VMA_ANON;
		return 0;
	} else {
		v->kind = CT_VMA_FILE;
	}
	if (m->name[0] != '/')
		return hold_map(why, m, "of a kind that cannot move");
	if (is_deleted)
		return hold_map(why, m, "of a file that was deleted");
	if (is_under(m->name, "/dev/"))
		return hold_map(why, m, "a device");
	/* names repeat: the mappings of a library stand together */
	if (s->files.n) {
		uint32_t last = (uint32_t)s->files.n - 1;
		const struct ct_img_file *f = CT_AT(struct ct_img_file, &s->files, last);

		if (f->ino == m->ino && (f->flags & CT_IMG_FILE_MAPPED) && strcmp(ct_snapshot_text(s, f->path), m->name) == 0) {
			v->file = last;
			v->offset = m->offset;
			return 0;
		}
	}
	if (stat(m->name, &st) < 0)
		return gw_fail(why, -EBUSY, "the mapped file '%s' cannot be found any more: %s", m->name, strerror(errno));
	if (st.st_ino != m->ino)
		return gw_fail(why, -EBUSY, "the mapped file '%s' was replaced since the rank mapped it; restart the job", m->name);
	rc = file_add(s, m->name, &st, CT_IMG_FILE_MAPPED, &v->file);
	if (rc < 0)
		return gw_fail(why, rc, "no memory for a list of files");
	v->offset = m->offset;
	return 0;
}

int ct_vmas_scan(struct ct_rank *r, const struct ct_maps *maps, struct ct_snapshot *s, struct gw_error *why)
{
	uint64_t lo = 0, hi = 0;

	s->vmas.n = 0;
	for CT_EACH(const struct ct_map, m, &maps->list) {
		struct ct_img_vma v = { .start = m->start, .end = m->end, .prot = m->prot, .advice = m->advice };
		const struct ct_map *seen;
		int rc;

		if (m->name[0] == '[' && (is_under(m->name, "[vvar") || is_under(m->name, "[vdso]"))) {
			if (lo && m->start != hi)
				return hold_map(why, m, "apart from the rest of the vdso");
			lo = lo ? lo : m->start;
			hi = m->end;
			continue;
		}
		/* the agent's: it will have detached from it before the freeze, where it is refused like any other */
		if (maps == &r->look && m->is_shared && strcmp(m->name, "/memfd:godwit-segment (deleted)") == 0)
			continue;
		if (is_under(m->name, "[vsyscall]") || (r->remote.base && m->start == r->remote.base && m->is_shared))
			continue;
		if (maps != &r->look && (seen = ct_maps_find(&r->look, m->start)) != NULL && seen->is_shared == m->is_shared)
			v.advice |= seen->advice;
		rc = map_one(s, m, &v, why);
		if (rc < 0)
			return rc;
		if (ct_vec_append(&s->vmas, &v, 1) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of mappings");
	}
	if (!lo)
		return gw_fail(why, -EBUSY, "pid %d has no vdso", (int)r->pid);
	s->process.vdso_start = lo;
	s->process.vdso_end = hi;
	return 0;
}

/* ---- present pages --------------------------------------------------------------------------------------------- */

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct page_region { uint64_t start, end, categories; };
#define PM_FILE    (1u << 2)
#define PM_PRESENT (1u << 3)
#define PM_SWAPPED (1u << 4)
#define PM_PFNZERO (1u << 5)
#define PAGEMAP_SCAN_ 0xc0606610ul /* _IOWR('f', 16, struct pm_scan_arg), which this libc may not know */
#define REGIONS 16384

int ct_extents_scan(struct ct_rank *r, const struct ct_snapshot *s, struct ct_vec *extents, struct gw_error *why)
{
	struct pm_scan_arg arg = { .size = sizeof(arg), .end = 0x7ffffffff000ull, .vec_len = REGIONS,
		.category_inverted = PM_FILE | PM_PFNZERO, .category_mask = PM_FILE | PM_PFNZERO,
		.category_anyof_mask = PM_PRESENT | PM_SWAPPED, .return_mask = PM_PRESENT };
	const struct ct_img_vma *v = s->vmas.at, *end = v + s->vmas.n;
	int n;

	extents->n = 0;
	if (r->regions.cap < REGIONS) {
		r->regions.n = 0;
		if (!ct_vec_add(&r->regions, REGIONS)) /* zeroes it, and so touches it before anything is frozen */
			return gw_fail(why, -ENOMEM, "no memory for a list of pages");
	}
	if (r->pagemap_fd < 0) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)r->pid);
		r->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
		if (r->pagemap_fd < 0)
			return gw_fail(why, -errno, "cannot open %s: %s", path, strerror(errno));
	}
	arg.vec = (uint64_t)(uintptr_t)r->regions.at;
	do {
		n = (int)syscall(SYS_ioctl, r->pagemap_fd, PAGEMAP_SCAN_, &arg);
		if (n < 0)
			return gw_fail(why, -errno, "cannot find the pages in use (PAGEMAP_SCAN): %s; it needs Linux 6.7",
			               strerror(errno));
		for (int i = 0; i < n; i++) {
			struct page_region *p = CT_AT(struct page_region, &r->regions, i);

			while (v < end && v->end <= p->start)
				v++;
			for (const struct ct_img_vma *w = v; w < end && w->start < p->end; w++) {
				struct ct_extent e = { .start = p->start > w->start ? p->start : w->start,
					.end = p->end < w->end ? p->end : w->end, .is_forced = !(w->prot & PROT_READ) };
				struct ct_extent *last = extents->n ? CT_AT(struct ct_extent, extents, extents->n - 1) : NULL;

				if (w->kind == CT_VMA_SHARED_FILE || w->kind == CT_VMA_SHARED_ANON)
					continue;
				if (last && last->end == e.start && last->is_forced == e.is_forced && e.start != w->start)
					last->end = e.end;
				else if (ct_vec_append(extents, &e, 1) < 0)
					return gw_fail(why, -ENOMEM, "no memory for a list of pages");
			}
		}
		arg.start = arg.walk_end;
	} while (n == REGIONS && arg.start < arg.end);
	/* pages of anonymous shared memory are the kernel's file pages, mapped or not: all of it goes */
	for (const struct ct_img_vma *w = s->vmas.at; w < end; w++)
		if (w->kind == CT_VMA_SHARED_ANON) {
			size_t at = 0;

			while (at < extents->n && CT_AT(struct ct_extent, extents, at)->start < w->start)
				at++;
			if (!ct_vec_add(extents, 1))
				return gw_fail(why, -ENOMEM, "no memory for a list of pages");
			memmove(CT_AT(struct ct_extent, extents, at + 1), CT_AT(struct ct_extent, extents, at),
			        (extents->n - 1 - at) * sizeof(struct ct_extent));
			*CT_AT(struct ct_extent, extents, at) = (struct ct_extent){ .start = w->start, .end = w->end,
				.is_forced = !(w->prot & PROT_READ) };
		}
	return 0;
}

/* ---- surroundings ---------------------------------------------------------------------------------------------- */

int ct_others_check(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec ids;
	struct stat here, there;
	char path[64];
	int rc;

	snprintf(path, sizeof(path), "/proc/%d/root/proc", (int)r->init_pid);
	if (stat("/proc", &here) < 0 || stat(path, &there) < 0 || here.st_dev == there.st_dev)
		return 0; /* it has no /proc of its own, see init_main; its children cannot be told */
	ct_vec_init(&ids, sizeof(int));
	rc = ct_proc_ids(r->init_pid, "root/proc", &ids);
	if (rc < 0)
		gw_fail(why, rc, "cannot list the processes of the container: %s", strerror(-rc));
	for (size_t i = 0; rc == 0 && i < ids.n; i++) {
		int id = *CT_AT(int, &ids, i), len;
		char name[64], comm[64] = "?";

		if (id == 1 || id == r->ns_pid)
			continue;
		snprintf(name, sizeof(name), "root/proc/%d/comm", id);
		len = ct_proc_read(r->init_pid, name, comm, sizeof(comm));
		if (len <= 0)
			continue; /* ended meanwhile */
		comm[strcspn(comm, "\n")] = '\0';
		rc = gw_fail(why, -EBUSY, "it has another process in its container: pid %d (%s); let it end, or keep the "
		             "rank with 'godwit pin'", id, comm);
	}
	ct_vec_fini(&ids);
	return rc;
}

static int status_check(struct ct_rank *r, struct gw_error *why)
{
	char text[8192], comm[64];
	const char *f;
	int rc = ct_proc_read(r->pid, "status", text, sizeof(text)), tracer;

	if (rc < 0)
		return gw_fail(why, -ESRCH, "pid %d has ended", (int)r->pid);
	f = ct_proc_field(text, "State:");
	if (f && (*f == 'Z' || *f == 'X'))
		return gw_fail(why, -EBUSY, "its main thread has ended; a rank whose other threads go on alone cannot move");
	if (f && *f == 'T')
		return gw_fail(why, -EBUSY, "it is stopped by a signal; continue it first (kill -CONT %d)", (int)r->pid);
	f = ct_proc_field(text, "TracerPid:");
	tracer = f ? atoi(f) : 0;
	if (tracer && r->state == CT_RUNNING) {
		if (ct_proc_read(tracer, "comm", comm, sizeof(comm)) < 0)
			strcpy(comm, "?");
		comm[strcspn(comm, "\n")] = '\0';
		return gw_fail(why, -EBUSY, "it is being traced by pid %d (%s); detach that debugger first", tracer, comm);
	}
	f = ct_proc_field(text, "Seccomp:");
	if (f && *f != '0')
		return gw_fail(why, -EBUSY, "it has a seccomp filter, which cannot move");
	f = ct_proc_field(text, "Uid:");
	if (f) {
		unsigned u[4] = { 0 };

		if (sscanf(f, "%u %u %u %u", &u[0], &u[1], &u[2], &u[3]) == 4 &&
		    (u[0] != r->uid || u[1] != r->uid || u[2] != r->uid || u[3] != r->uid))
			return gw_fail(why, -EBUSY, "it changed its user id (%u, %u, %u)", u[0], u[1], u[2]);
	}
	f = ct_proc_field(text, "SigIgn:");
	if (f && (strtoull(f, NULL, 16) & 1ull << (5 - 1)))
		return gw_fail(why, -EBUSY, "it ignores SIGTRAP, which a move needs");
	f = ct_proc_field(text, "x86_Thread_features:");
	if (f && strncmp(f, "shstk", 5) == 0)
		return gw_fail(why, -EBUSY, "it uses a hardware shadow stack, which cannot move yet");
	rc = ct_proc_link(r->pid, "root", text, sizeof(text));
	if (rc > 0 && strcmp(text, "/") != 0)
		return gw_fail(why, -EBUSY, "it changed its root directory to '%s'", text);
	rc = ct_proc_read(r->pid, "timers", text, sizeof(text));
	if (rc > 0)
		return gw_fail(why, -EBUSY, "it has a POSIX timer (timer_create), which cannot move yet; delete it, or keep the "
		               "rank with 'godwit pin'");
	return 0;
}

int ct_look(struct ct_rank *r, struct gw_error *why)
{
	int rc = status_check(r, why);

	if (rc == 0)
		rc = ct_others_check(r, why);
	if (rc < 0)
		return rc;
	rc = ct_maps_read(&r->look, r->pid, true);
	if (rc < 0)
		return gw_fail(why, rc, "cannot read the memory map of pid %d: %s", (int)r->pid, strerror(-rc));
	r->has_look = true;
	return 0;
}

/* ---- needs ----------------------------------------------------------------------------------------------------- */

uint64_t ct_fnv(const void *p, size_t len)
{
	const unsigned char *at = p;
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ at[i]) * 0x100000001b3ull;
	return h;
}

int ct_cpuid_read(struct ct_vec *out)
{
	static const uint32_t leaves[][2] = { { 1, 0 }, { 7, 0 }, { 7, 1 }, { 0xd, 0 }, { 0xd, 1 }, { 0x80000001u, 0 } };

	for (size_t i = 0; i < GW_ARRAY_LEN(leaves); i++) {
		struct ct_img_cpuid c = { .leaf = leaves[i][0], .subleaf = leaves[i][1] };

		if (!__get_cpuid_count(c.leaf, c.subleaf, &c.reg[0], &c.reg[1], &c.reg[2], &c.reg[3]))
			continue;
		if (c.leaf == 1)
			c.reg[1] = 0; /* which processor answered */
		if (c.leaf == 1 || c.leaf == 0x80000001u)
			c.reg[0] = 0; /* model numbers: not features */
		if (c.leaf == 0x80000001u)
			c.reg[1] = 0;
		if (c.leaf == 0xd)
			c.reg[1] = c.reg[2] = 0; /* sizes */
		if (ct_vec_append(out, &c, 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

static uint64_t xgetbv(void)
{
	uint32_t a, b, c = 0, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 3;
	asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (uint64_t)d << 32 | a;
}

void ct_boot_id(char out[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, 36) : 0;

	memset(out + (n > 0 ? n : 0), 0, (size_t)(40 - (n > 0 ? n : 0)));
	if (fd >= 0)
		close(fd);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* below the first mapping, where programs practically never map anything; a shell works there */
static int hole_find(const struct ct_maps *m, uint64_t *hole)
{
	uint64_t from = 0x100000;

	for CT_EACH(const struct ct_map, map, &m->list) {
		if (map->start >= from + 3 * CT_HOLE_SIZE)
			break;
		if (map->end > from)
			from = map->end + CT_HOLE_SIZE;
	}
	*hole = from + CT_HOLE_SIZE;
	return *hole + CT_HOLE_SIZE < 0x7ff000000000ull ? 0 : -ENOMEM;
}

void ct_needs_fini(struct ct_needs *n)
{
	free(n->blob);
	n->blob = NULL;
	n->blob_len = 0;
}

int ct_rank_check(struct ct_rank *r, struct ct_needs *out, struct gw_error *why)
{
	struct ct_img_needs needs = { 0 };
	struct ct_needs n = { .version = CT_NEEDS_VERSION };
	struct ct_vec blob, cpuid, extents, hints, tasks;
	struct ct_snapshot s;
	unsigned char vdso[65536];
	uint64_t len;
	int rc;

	if (r->state != CT_RUNNING)
		return gw_fail(why, -EBUSY, "it is being moved already");
	rc = ct_look(r, why);
	if (rc < 0)
		return rc;
	ct_snapshot_init(&s);
	ct_vec_init(&blob, 1);
	ct_vec_init(&cpuid, sizeof(struct ct_img_cpuid));
	ct_vec_init(&extents, sizeof(struct ct_extent));
	ct_vec_init(&hints, sizeof(struct ct_img_extent));
	ct_vec_init(&tasks, sizeof(int));
	rc = ct_vmas_scan(r, &r->look, &s, why);
	if (rc == 0)
		rc = ct_fds_scan(r, &s, false, why);
	if (rc == 0)
		rc = ct_extents_scan(r, &s, &extents, why);
	if (rc == 0 && (ct_proc_ids(r->pid, "task", &tasks) < 0 || hole_find(&r->look, &needs.hole) < 0 ||
	                ct_cpuid_read(&cpuid) < 0))
		rc = gw_fail(why, -ESRCH, "cannot look at pid %d: it has ended, or its address space is full", (int)r->pid);
	len = s.process.vdso_end - s.process.vdso_start;
	for CT_EACH(const struct ct_map, m, &r->look.list)
		if (rc == 0 && strcmp(m->name, "[vdso]") == 0) {
			len = m->end - m->start;
			if (len > sizeof(vdso) || ct_mem_read(r->pid, m->start, vdso, len) < 0)
				rc = gw_fail(why, -EIO, "cannot read the vdso of pid %d", (int)r->pid);
			else
				needs.vdso_hash = ct_fnv(vdso, len);
		}
	if (rc == 0) {
		for CT_EACH(const struct ct_extent, e, &extents) {
			struct ct_img_extent hint = { e->start, e->end };

			n.private_bytes += e->end - e->start;
			ct_vec_append(&hints, &hint, 1); /* one that is missing costs a little time later */
		}
		n.uid = needs.uid = r->uid;
		n.gid = needs.gid = r->gid;
		n.ns_pid = needs.ns_pid = (uint32_t)r->ns_pid;
		n.threads = needs.threads = (uint32_t)tasks.n;
		n.vmas = s.vmas.n;
		n.vdso_hash = needs.vdso_hash;
		n.xfeatures = needs.xfeatures = xgetbv();
		n.files = (uint32_t)s.files.n;
		n.cpuid_len = (uint32_t)(cpuid.n * cpuid.size);
		needs.vdso_start = s.process.vdso_start;
		needs.vdso_end = s.process.vdso_end;
		needs.highest_fd = s.fds.n ? CT_AT(struct ct_img_fd, &s.fds, s.fds.n - 1)->number : 0;
		needs.monotonic_offset_ns = r->monotonic_offset_ns;
		needs.boottime_offset_ns = r->boottime_offset_ns;
		needs.monotonic_ns = clock_ns(CLOCK_MONOTONIC) + (uint64_t)r->monotonic_offset_ns;
		needs.boottime_ns = clock_ns(CLOCK_BOOTTIME) + (uint64_t)r->boottime_offset_ns;
		ct_boot_id((char *)needs.boot_id);
		if (ct_section_write(&blob, CT_SECTION_NEEDS, 1, &needs, sizeof(needs)) < 0 ||
		    ct_section_write(&blob, CT_SECTION_STRINGS, (uint32_t)s.strings.n, s.strings.at, s.strings.n) < 0 ||
		    ct_section_write(&blob, CT_SECTION_FILES, (uint32_t)s.files.n, s.files.at, s.files.n * s.files.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_VMAS, (uint32_t)s.vmas.n, s.vmas.at, s.vmas.n * s.vmas.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_EXTENTS, (uint32_t)hints.n, hints.at, hints.n * hints.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_CPUID, (uint32_t)cpuid.n, cpuid.at, cpuid.n * cpuid.size) < 0 ||
		    ct_section_write(&blob, CT_SECTION_END, 1, &(struct ct_img_end){ 0 }, sizeof(struct ct_img_end)) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for what the destination must know");
	}
	if (rc == 0) {
		n.blob = blob.at;
		n.blob_len = blob.n;
		ct_vec_init(&blob, 1);
		*out = n;
	}
	ct_snapshot_fini(&s);
	ct_vec_fini(&blob);
	ct_vec_fini(&cpuid);
	ct_vec_fini(&extents);
	ct_vec_fini(&hints);
	ct_vec_fini(&tasks);
	return rc;
}
