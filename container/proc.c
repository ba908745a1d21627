/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading what /proc says of a process: memory map, threads, small files. */
#include "container/rank.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- opened ahead ---------------------------------------------------------------------------------------------- */

/*
 * To open and close a file of /proc takes longer than to read it, and a rank that stands still waits for some twenty of them. So
 * those are opened before (freeze.c) that tell of the process or of a thread of it. Never one that tells of its memory: that
 * would go on telling of what it had before an exec.
 */
#define KEPT_MAX 96
static struct { pid_t pid; int fd; char name[40]; } kept[KEPT_MAX]; /* of this process; one thread freezes */
static size_t n_kept;

void ct_proc_keep(pid_t pid, const char *name)
{
	char path[64 + NAME_MAX];

	if (n_kept == KEPT_MAX || strlen(name) >= sizeof(kept[0].name))
		return;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	kept[n_kept].fd = open(path, O_RDONLY | O_CLOEXEC);
	if (kept[n_kept].fd < 0)
		return;
	kept[n_kept].pid = pid;
	strcpy(kept[n_kept++].name, name);
}

void ct_proc_keep_none(void)
{
	while (n_kept)
		close(kept[--n_kept].fd);
}

static int kept_find(pid_t pid, const char *name)
{
	for (size_t i = 0; i < n_kept; i++)
		if (kept[i].pid == pid && strcmp(kept[i].name, name) == 0)
			return kept[i].fd;
	return -1;
}

/* One that cannot be read any more, as its process has ended: another one may have its number. */
static bool kept_drop(int fd)
{
	for (size_t i = 0; i < n_kept; i++)
		if (kept[i].fd == fd) {
			close(fd);
			kept[i] = kept[--n_kept];
			return true;
		}
	return false;
}

/* *own: to be closed by the caller; -1 when it is a kept one, which stands at its beginning */
static int proc_open(pid_t pid, const char *name, int flags, int *own)
{
	char path[64 + NAME_MAX];
	int fd = kept_find(pid, name);

	if (fd >= 0 && lseek(fd, 0, SEEK_SET) == 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	*own = open(path, O_RDONLY | O_CLOEXEC | flags);
	return *own < 0 ? -errno : *own;
}

/* ---- small files ----------------------------------------------------------------------------------------------- */

int ct_proc_read(pid_t pid, const char *name, char *buf, size_t cap)
{
	gw_autoclose int own = -1;
	int fd = proc_open(pid, name, 0, &own), rc;
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return fd;
	while (len < cap - 1 && (n = read(fd, buf + len, cap - 1 - len)) != 0) {
		rc = -errno;
		if (n < 0)
			return kept_drop(fd) ? ct_proc_read(pid, name, buf, cap) : rc;
		len += (size_t)n;
	}
	buf[len] = '\0';
	return (int)len;
}

bool ct_is_segment(const char *name)
{
	static const char begin[] = "godwit-segment-", end[] = " (deleted)";
	const char *base = strrchr(name, '/');
	size_t len = strlen(name);

	if (strcmp(name, "/memfd:godwit-segment (deleted)") == 0)
		return true;
	return base && strncmp(base + 1, begin, sizeof(begin) - 1) == 0 && len >= sizeof(end) &&
	       strcmp(name + len - (sizeof(end) - 1), end) == 0;
}

int ct_proc_text(pid_t pid, const char *name, char **out)
{
	size_t cap = 4096;
	int n;

	for (*out = NULL;; cap *= 4) {
		char *bigger = realloc(*out, cap);

		if (!bigger)
			return -ENOMEM;
		*out = bigger;
		n = ct_proc_read(pid, name, *out, cap);
		if (n < 0 || (size_t)n < cap - 1)
			return n;
	}
}

int ct_proc_link(pid_t pid, const char *name, char *buf, size_t cap)
{
	char path[64 + NAME_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	n = readlink(path, buf, cap - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return (int)n;
}

/* The numbers from where @fd stands. @first: where not NULL, the name that must come first; 1: another one did */
static int read_ids(int fd, const char *first, struct ct_vec *out)
{
	char buf[8192] __attribute__((aligned(16)));
	long n;

	out->n = 0;
	while ((n = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			struct dirent64 *d = (struct dirent64 *)(void *)(buf + at);

			if (first && strcmp(d->d_name, first) != 0)
				return 1;
			first = NULL;
			if (d->d_name[0] >= '0' && d->d_name[0] <= '9') {
				int id = atoi(d->d_name);

				if (ct_vec_append(out, &id, 1) < 0)
					return -ENOMEM;
			}
			at += d->d_reclen;
		}
	return n < 0 ? -errno : first ? 1 : 0;
}

int ct_proc_ids(pid_t pid, const char *dir, struct ct_vec *out)
{
	gw_autoclose int own = -1;
	int fd = proc_open(pid, dir, O_DIRECTORY, &own), rc;

	out->n = 0;
	rc = fd < 0 ? fd : read_ids(fd, NULL, out);
	return rc < 0 && kept_drop(fd) ? ct_proc_ids(pid, dir, out) : rc;
}

#define FIRST_PROCESS 256 /* of the kernel's fs/proc/internal.h: where "self" stands, and behind it "thread-self" and all processes */

/* Before them stand some fifty files, which take longer to list than all else. Where it begins with another name, all is listed. */
int ct_proc_pids(pid_t pid, const char *dir, struct ct_vec *out)
{
	gw_autoclose int own = -1;
	int fd = proc_open(pid, dir, O_DIRECTORY, &own), rc;

	out->n = 0;
	if (fd < 0)
		return fd;
	rc = lseek(fd, FIRST_PROCESS, SEEK_SET) < 0 ? 1 : read_ids(fd, "self", out);
	if (rc > 0)
		rc = lseek(fd, 0, SEEK_SET) < 0 ? -errno : read_ids(fd, NULL, out);
	return rc < 0 && kept_drop(fd) ? ct_proc_pids(pid, dir, out) : rc;
}

uint32_t ct_proc_ns_id(pid_t tid)
{
	char text[4096];
	const char *field = ct_proc_read(tid, "status", text, sizeof(text)) > 0 ? ct_proc_field(text, "NSpid:") : NULL;
	uint32_t id = 0;

	for (; field && *field && *field != '\n'; field += strspn(field, "0123456789"), field += strspn(field, "\t "))
		id = (uint32_t)strtoul(field, NULL, 10); /* the last is the innermost */
	return id;
}

const char *ct_proc_field(const char *status, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = status; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		if (strncmp(p, key, len) == 0) {
			p += len;
			while (*p == ' ' || *p == '\t')
				p++;
			return p;
		}
	return NULL;
}

/* ---- memory map ------------------------------------------------------------------------------------------------ */

static uint64_t hex(const char **p)
{
	uint64_t v = 0;

	for (;; (*p)++) {
		char c = **p;

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return v;
	}
}

static uint64_t dec(const char **p)
{
	uint64_t v = 0;

	for (; **p >= '0' && **p <= '9'; (*p)++)
		v = v * 10 + (uint64_t)(**p - '0');
	return v;
}

/* "start-end rwxp offset major:minor inode   name" */
static void map_line(struct ct_map *m, const char *p)
{
	m->start = hex(&p);
	p++;
	m->end = hex(&p);
	p++;
	m->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) | (p[2] == 'x' ? PROT_EXEC : 0);
	m->is_shared = p[3] == 's';
	p += 5;
	m->offset = hex(&p);
	p++;
	m->dev_major = (uint32_t)hex(&p);
	p++;
	m->dev_minor = (uint32_t)hex(&p);
	p++;
	m->ino = dec(&p);
	while (*p == ' ')
		p++;
	m->name = p;
	if (strcmp(p, "[stack]") == 0)
		m->advice |= CT_VMA_GROWSDOWN;
}

static void map_flags(struct ct_map *m, const char *p)
{
	static const struct { char name[3]; uint32_t advice; } known[] = {
		{ "gd", CT_VMA_GROWSDOWN },  { "nr", CT_VMA_NORESERVE }, { "hg", CT_VMA_HUGE },
		{ "nh", CT_VMA_NOHUGE },     { "dc", CT_VMA_DONTFORK },  { "dd", CT_VMA_DONTDUMP },
		{ "wf", CT_VMA_WIPEONFORK }, { "mg", CT_VMA_MERGEABLE }, { "rr", CT_VMA_RANDOM },
		{ "sr", CT_VMA_SEQUENTIAL }, { "lo", CT_VMA_LOCKED },     { "ac", CT_VMA_ACCOUNT },
		{ "lf", CT_VMA_LAZY },
	};

	for (; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
		for (size_t i = 0; i < GW_ARRAY_LEN(known); i++)
			if (p[0] == known[i].name[0] && p[1] == known[i].name[1])
				m->advice |= known[i].advice;
		if ((p[0] == 'i' && p[1] == 'o') || (p[0] == 'p' && p[1] == 'f'))
			m->is_locked_pages = true;
		m->is_hugetlb |= p[0] == 'h' && p[1] == 't';
	}
}

/* The file is told in pieces: of a process that runs, a piece may know of changes that the one before does not. */
static void maps_mend(struct ct_maps *m)
{
	uint64_t last = 0;
	size_t n = 0;

	for CT_EACH(const struct ct_map, map, &m->list) {
		struct ct_map *to = CT_AT(struct ct_map, &m->list, n);

		if (map->end <= last)
			continue;
		if (to != map)
			*to = *map;
		if (to->start < last) {
			to->offset += last - to->start;
			to->start = last;
		}
		last = to->end;
		n++;
	}
	m->list.n = n;
}

int ct_maps_read(struct ct_maps *m, pid_t pid, bool want_flags)
{
	gw_autoclose int fd = -1;
	char path[64], *p, *end;
	uint64_t begin = gw_now_ns();
	size_t len = 0;
	ssize_t n;

	if (!m->list.size)
		ct_vec_init(&m->list, sizeof(struct ct_map));
	m->list.n = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, want_flags ? "smaps" : "maps");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		if (m->text_cap - len < 65536) {
			char *bigger = realloc(m->text, m->text_cap * 2 + 131072);

			if (!bigger)
				return -ENOMEM;
			m->text = bigger;
			m->text_cap = m->text_cap * 2 + 131072;
		}
		n = read(fd, m->text + len, m->text_cap - len - 1);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	m->text[len] = '\0';
	for (p = m->text; *p; p = end + 1) {
		end = strchr(p, '\n');
		if (!end)
			break;
		*end = '\0';
		if ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')) {
			struct ct_map *map = ct_vec_add(&m->list, 1);

			if (!map)
				return -ENOMEM;
			map_line(map, p);
		} else if (m->list.n && strncmp(p, "KernelPageSize:", 15) == 0) {
			CT_AT(struct ct_map, &m->list, m->list.n - 1)->page_bytes = strtoull(p + 15, NULL, 10) << 10;
		} else if (m->list.n && strncmp(p, "VmFlags: ", 9) == 0) {
			map_flags(CT_AT(struct ct_map, &m->list, m->list.n - 1), p + 9);
		}
	}
	maps_mend(m);
	m->read_at_ns = gw_now_ns();
	m->took_ns = m->read_at_ns - begin;
	return m->list.n ? 0 : -ESRCH; /* a process that is ending has no map left */
}

/* PROCMAP_QUERY of Linux 6.11, which these headers may not know */
struct procmap_query_ {
	uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};
#define PROCMAP_QUERY_      _IOWR(0x66, 17, struct procmap_query_)
#define PROCMAP_OR_NEXT_    0x10u
#define PROCMAP_SHARED_     0x08u
#define PROCMAP_PROT_       0x07u /* as PROT_READ, PROT_WRITE, PROT_EXEC */

/* Is the map still what @m says? All but names, of which the kernel's are slow: a file is the same by its number. */
static bool is_current(const struct ct_maps *m, int fd)
{
	struct procmap_query_ q = { .size = sizeof(q), .query_flags = PROCMAP_OR_NEXT_ };

	for CT_EACH(const struct ct_map, e, &m->list) {
		if (strcmp(e->name, "[vsyscall]") == 0)
			continue;
		q.query_addr = q.vma_end;
		q.vma_name_size = q.build_id_size = 0;
		if (ioctl(fd, PROCMAP_QUERY_, &q) < 0 || q.vma_start != e->start || q.vma_end != e->end || (q.vma_flags & PROCMAP_PROT_) != e->prot ||
		    !(q.vma_flags & PROCMAP_SHARED_) == e->is_shared || q.vma_offset != e->offset || q.inode != e->ino ||
		    q.dev_major != e->dev_major || q.dev_minor != e->dev_minor)
			return false;
	}
	q.query_addr = q.vma_end;
	return m->list.n && ioctl(fd, PROCMAP_QUERY_, &q) < 0 && errno == ENOENT;
}

void ct_maps_expect_gap(struct ct_maps *m, uint64_t start, uint64_t end)
{
	struct ct_map *all = m->list.at;
	size_t first = 0, past;

	while (first < m->list.n && all[first].start < start)
		first++;
	for (past = first; past < m->list.n && all[past].end <= end; past++)
		;
	if (past == first || all[first].start != start || all[past - 1].end != end)
		return;
	all[first] = (struct ct_map){ .start = start, .end = end, .name = "" };
	memmove(&all[first + 1], &all[past], (m->list.n - past) * sizeof(*all));
	m->list.n -= past - first - 1;
}

int ct_maps_read_again(struct ct_maps *m, pid_t pid)
{
	gw_autoclose int fd = -1;
	uint64_t begin = gw_now_ns();
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!is_current(m, fd))
		return ct_maps_read(m, pid, false);
	m->read_at_ns = gw_now_ns();
	m->took_ns = m->read_at_ns - begin;
	return 0;
}

bool ct_maps_are_same(const struct ct_maps *a, const struct ct_maps *b)
{
	const struct ct_map *m = b->list.at;

	if (a->list.n != b->list.n)
		return false;
	for CT_EACH(const struct ct_map, l, &a->list) {
		if (l->start != m->start || l->end != m->end || l->prot != m->prot || l->is_shared != m->is_shared || l->offset != m->offset ||
		    l->ino != m->ino || l->dev_major != m->dev_major || l->dev_minor != m->dev_minor || strcmp(l->name, m->name) != 0)
			return false;
		m++;
	}
	return true;
}

void ct_maps_fini(struct ct_maps *m)
{
	ct_vec_fini(&m->list);
	free(m->text);
	m->text = NULL;
	m->text_cap = 0;
}

const struct ct_map *ct_maps_find(const struct ct_maps *m, uint64_t addr)
{
	size_t lo = 0, hi = m->list.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct ct_map *map = CT_AT(const struct ct_map, &m->list, mid);

		if (addr < map->start)
			hi = mid;
		else if (addr >= map->end)
			lo = mid + 1;
		else
			return map;
	}
	return NULL;
}

/* A thread that will not run again: PF_EXITING of the kernel's include/linux/sched.h, in the ninth field. */
static bool is_ending(pid_t pid, int tid)
{
	char name[64], buf[1024], state = 'X', *at;
	unsigned flags = 4;

	snprintf(name, sizeof(name), "task/%d/stat", tid);
	if (ct_proc_read(pid, name, buf, sizeof(buf)) <= 0 || !(at = strrchr(buf, ')')))
		return true;
	if (sscanf(at + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	return state == 'Z' || state == 'X' || (flags & 4);
}

/*
 * A process that ends loses its parts one after the other, and each look at it fails in a way of its own ("no such process;
 * it needs Linux 6.7"). What failed is @rc and @why; when the process is ending, they say only that.
 */
int ct_proc_blame_end(pid_t pid, int rc, struct gw_error *why)
{
	struct ct_vec tids;
	bool is_over = true;

	ct_vec_init(&tids, sizeof(int));
	if (ct_proc_ids(pid, "task", &tids) == 0)
		for CT_EACH(const int, tid, &tids)
			is_over &= is_ending(pid, *tid);
	ct_vec_fini(&tids);
	return is_over ? gw_fail(why, -ESRCH, "pid %d has ended", (int)pid) : rc;
}
