/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Is there room for a rank on this host, and will there be: memory, processes, descriptors, limits. Parts of the table in fit.c.
 *
 * What is free now is not free any more when a move that is under way has filled its shell. So each shell reserves what its
 * rank needs until it is thawed or goes; what it has taken already is not counted twice.
 */
#include "container/room.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define MIB (1u << 20)
#define PROCESSES_BESIDES 2       /* init and a shell that becomes the program; the program's further threads come on top */
#define STACK_OF_A_THREAD (32u << 10) /* in the kernel */
#define MARGIN_MIN (8ull * MIB)
#define MARGIN_MAX (256ull * MIB)

static struct gw_list promised = { &promised, &promised }; /* struct ct_rank.promise; of this process, whose moves they are */

/* ---- what is promised ---------------------------------------------------------------------------------------------- */

static uint64_t resident(pid_t pid)
{
	char text[128], *second;
	int len = ct_proc_read(pid, "statm", text, sizeof(text));

	if (len <= 0)
		return 0;
	strtoull(text, &second, 10);
	return strtoull(second, NULL, 10) * CT_PAGE;
}

static void promises(uint64_t *bytes, uint64_t *tasks)
{
	*bytes = *tasks = 0;
	gw_list_for(e, &promised) {
		const struct ct_rank *r = gw_list_entry(e, struct ct_rank, promise);
		uint64_t has = resident(r->pid);

		*bytes += r->promised_bytes > has ? r->promised_bytes - has : 0;
		*tasks += r->promised_tasks; /* its own process is there already */
	}
}

void ct_room_promise(struct ct_rank *r, const struct ct_fit *f)
{
	uint64_t margin;

	r->promised_bytes = ct_room_needed(ct_room_pages("", f).ordinary, f->reader->needs.threads, &margin);
	r->promised_tasks = f->reader->needs.threads - 1;
	gw_list_append(&promised, &r->promise);
}

void ct_room_settle(struct ct_rank *r)
{
	if (r->promise.next)
		gw_list_remove(&r->promise);
	r->promise.next = r->promise.prev = NULL;
}

static uint64_t sysctl(const char *name)
{
	char text[64];

	return ct_cgroup_number(ct_host_text("", "/proc/sys", name, text, sizeof(text)));
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

uint64_t ct_room_available(const char *meminfo)
{
	const char *field = ct_proc_field(meminfo, "MemAvailable:");
	uint64_t kib = field ? ct_cgroup_number(strndupa(field, strspn(field, "0123456789"))) : CT_NO_LIMIT;

	return kib >= CT_NO_LIMIT / 1024 ? CT_NO_LIMIT : kib * 1024;
}

uint64_t ct_room_needed(uint64_t private_bytes, uint32_t threads, uint64_t *margin)
{
	*margin = private_bytes / 16;
	if (*margin < MARGIN_MIN)
		*margin = MARGIN_MIN;
	if (*margin > MARGIN_MAX)
		*margin = MARGIN_MAX;
	/* of its page tables, 8 bytes for each page; of its kernel stacks; and its margin */
	return private_bytes + private_bytes / 512 + (uint64_t)threads * STACK_OF_A_THREAD + *margin;
}

uint64_t ct_room_huge(const char *root, uint64_t page)
{
	char dir[80], text[32];
	uint64_t free, taken;

	snprintf(dir, sizeof(dir), "/sys/kernel/mm/hugepages/hugepages-%llukB", (unsigned long long)page / 1024);
	free = ct_cgroup_number(ct_host_text(root, dir, "free_hugepages", text, sizeof(text)));
	taken = ct_cgroup_number(ct_host_text(root, dir, "resv_hugepages", text, sizeof(text)));
	return free < CT_NO_LIMIT / page && taken < free ? (free - taken) * page : 0;
}

static uint64_t pages_in(const struct ct_vec *extents, const struct ct_img_vma *v)
{
	uint64_t bytes = 0;

	for CT_EACH(const struct ct_img_extent, e, extents) {
		uint64_t start = e->start > v->start ? e->start : v->start, end = e->end < v->end ? e->end : v->end;

		bytes += end > start ? end - start : 0;
	}
	return bytes;
}

/* A mapping has huge pages as a whole, as it is made by one call, or none: map_huge() in restore_maps.c */
struct ct_room_pages ct_room_pages(const char *root, const struct ct_fit *f)
{
	struct ct_room_pages p = { .ordinary = f->reader->needs.memory_bytes };
	struct { uint64_t page, left; } sizes[4] = { 0 }; /* more than any processor has */

	for CT_EACH(const struct ct_img_extent, e, &f->reader->extents)
		p.ordinary += e->end > e->start ? e->end - e->start : 0;
	for CT_EACH(const struct ct_img_vma, v, &f->hint->vmas) {
		size_t i = 0;

		if (!(v->advice & CT_VMA_HUGETLB))
			continue;
		while (i < GW_ARRAY_LEN(sizes) - 1 && sizes[i].page && sizes[i].page != v->offset)
			i++;
		if (!sizes[i].page)
			sizes[i].left = ct_room_huge(root, sizes[i].page = v->offset);
		if (sizes[i].page == v->offset && sizes[i].left >= v->end - v->start) {
			sizes[i].left -= v->end - v->start;
			p.ordinary -= pages_in(&f->reader->extents, v);
		} else {
			p.lacking += pages_in(&f->reader->extents, v);
			p.page = v->offset;
		}
	}
	return p;
}

static unsigned long long mib(uint64_t bytes)
{
	return (bytes + MIB - 1) / MIB;
}

/* ", of which 12 MiB are promised to ranks that are on their way here", or "" */
static const char *promised_text(char *buf, size_t cap, uint64_t bytes)
{
	buf[0] = '\0';
	if (bytes)
		snprintf(buf, cap, ", of which %llu MiB are promised to ranks that are on their way here", mib(bytes));
	return buf;
}

/* ", 64 of them for want of huge pages", or "" */
static const char *lacking_text(char *buf, size_t cap, const struct ct_room_pages *p)
{
	buf[0] = '\0';
	if (p->lacking)
		snprintf(buf, cap, "; %llu of them since too few huge pages of %llu KiB are free here, see vm.nr_hugepages", mib(p->lacking),
		         (unsigned long long)p->page / 1024);
	return buf;
}

int ct_fit_memory(const struct ct_fit *f, struct gw_error *why)
{
	struct ct_room_pages pages = ct_room_pages("", f);
	uint64_t margin, bytes, tasks, available, needed = ct_room_needed(pages.ordinary, f->reader->needs.threads, &margin);
	struct ct_cgroup_room group;
	char text[4096], also[128], lacking[128];

	promises(&bytes, &tasks);
	available = ct_room_available(ct_host_text("", "/proc", "meminfo", text, sizeof(text)));
	ct_cgroup_room("", "memory", &group);
	promised_text(also, sizeof(also), bytes);
	lacking_text(lacking, sizeof(lacking), &pages);
	if (group.left != CT_NO_LIMIT && needed + bytes > group.left)
		return gw_fail(why, -ENOMEM, "the rank needs %llu MiB of memory (%llu MiB of them to grow%s) and %llu MiB are available%s: "
		               "the control group '%s' may have %llu MiB and uses %llu; give it more, or move fewer ranks there",
		               mib(needed), mib(margin), lacking, group.left / MIB + 0ull, also, group.group, group.limit / MIB + 0ull,
		               mib(group.used));
	if (available != CT_NO_LIMIT && needed + bytes > available)
		return gw_fail(why, -ENOMEM, "the rank needs %llu MiB of memory (%llu MiB of them to grow%s) and %llu MiB are available%s "
		               "(MemAvailable of /proc/meminfo); move it to a host that has more", mib(needed), mib(margin), lacking,
		               available / MIB + 0ull, also);
	return 0;
}

/* Where the kernel promises no more than it has (vm.overcommit_memory = 2), mappings count, not pages. */
int ct_fit_commit(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	char text[4096];
	const char *limit, *used;
	uint64_t left;

	if (sysctl("vm/overcommit_memory") == 2) {
		ct_host_text("", "/proc", "meminfo", text, sizeof(text));
		limit = ct_proc_field(text, "CommitLimit:");
		used = ct_proc_field(text, "Committed_AS:");
		left = limit && used ? (strtoull(limit, NULL, 10) - strtoull(used, NULL, 10)) * 1024 : CT_NO_LIMIT;
		if (limit && used && strtoull(used, NULL, 10) > strtoull(limit, NULL, 10))
			left = 0;
		if (n->commit_bytes > left)
			return gw_fail(why, -ENOMEM, "the rank has %llu MiB of memory mapped and this kernel commits itself to no more than %llu "
			               "MiB (vm.overcommit_memory is 2); raise vm.overcommit_ratio", mib(n->commit_bytes), left / MIB + 0ull);
	}
	left = sysctl("vm/max_map_count");
	if (f->hint->vmas.n + 8 > left)
		return gw_fail(why, -ENOMEM, "the rank has %zu mappings and a process here may have %llu; raise vm.max_map_count",
		               f->hint->vmas.n, (unsigned long long)left);
	return 0;
}

/* ---- processes ----------------------------------------------------------------------------------------------------- */

/* Tasks of this user, by looking at every process: exact, but slow on a host that has thousands. */
static uint64_t tasks_of_user(uid_t uid)
{
	DIR *d = opendir("/proc");
	uint64_t n = 0;

	for (struct dirent *e; d && (e = readdir(d));) {
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
		char text[4096];
		const char *field;

		if (pid <= 0 || ct_proc_read(pid, "status", text, sizeof(text)) <= 0)
			continue;
		field = ct_proc_field(text, "Uid:");
		if (!field || strtoul(field, NULL, 10) != uid)
			continue;
		field = ct_proc_field(text, "Threads:");
		n += field ? strtoull(field, NULL, 10) : 1;
	}
	if (d)
		closedir(d);
	return n;
}

int ct_fit_processes(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	uint64_t bytes, tasks, needed = n->threads - 1 + PROCESSES_BESIDES, used = 0, limit;
	struct ct_cgroup_room group;
	struct sysinfo info = { 0 };
	struct rlimit own;

	promises(&bytes, &tasks);
	needed += tasks;
	ct_cgroup_room("", "pids", &group);
	if (group.left != CT_NO_LIMIT && needed > group.left)
		return gw_fail(why, -EAGAIN, "the rank needs %llu processes and threads and the control group '%s' leaves %llu (pids.max is "
		               "%llu); raise it", (unsigned long long)needed, group.group, (unsigned long long)group.left,
		               (unsigned long long)group.limit);
	sysinfo(&info); /* procs: threads of the whole system */
	limit = sysctl("kernel/threads-max");
	if (limit != CT_NO_LIMIT && info.procs + needed > limit)
		return gw_fail(why, -EAGAIN, "the rank needs %llu processes and threads, and %llu of %llu are in use on this host; raise "
		               "kernel.threads-max", (unsigned long long)needed, (unsigned long long)info.procs,
		               (unsigned long long)limit);
	limit = sysctl("kernel/pid_max");
	if (n->highest_tid >= limit)
		return gw_fail(why, -EINVAL, "the rank has a thread with the number %u, and here they end at %llu; raise kernel.pid_max",
		               n->highest_tid, (unsigned long long)limit);
	if (geteuid() && getrlimit(RLIMIT_NPROC, &own) == 0 && own.rlim_max != RLIM_INFINITY && info.procs + needed > own.rlim_max)
		used = tasks_of_user(getuid());
	if (used && used + needed > own.rlim_max)
		return gw_fail(why, -EAGAIN, "the rank needs %llu processes and threads, and this user has %llu of %llu here; raise "
		               "'ulimit -Hu'", (unsigned long long)needed, (unsigned long long)used, (unsigned long long)own.rlim_max);
	return 0;
}

/* ---- limits -------------------------------------------------------------------------------------------------------- */

/* Two of them have had no effect since Linux 2.4.30: RLIMIT_LOCKS, and RLIMIT_RSS, to which Slurm sets what a step has of a node's
 * memory, more here and less there. */
static const struct { const char *name, *option; } limits[CT_IMG_LIMITS] = {
	[RLIMIT_CPU] = { "seconds of processor time", "t" }, [RLIMIT_FSIZE] = { "the size of a file", "f" },
	[RLIMIT_DATA] = { "data memory", "d" }, [RLIMIT_STACK] = { "the stack", "s" },
	[RLIMIT_CORE] = { "the size of a core file", "c" },
	[RLIMIT_NPROC] = { "processes", "u" }, [RLIMIT_NOFILE] = { "open files", "n" },
	[RLIMIT_MEMLOCK] = { "locked memory", "l" }, [RLIMIT_AS] = { "address space", "v" },
	[RLIMIT_SIGPENDING] = { "pending signals", "i" },
	[RLIMIT_MSGQUEUE] = { "message queues", "q" }, [RLIMIT_NICE] = { "nice", "e" },
	[RLIMIT_RTPRIO] = { "real-time priority", "r" }, [RLIMIT_RTTIME] = { "real-time microseconds", "R" },
};

/* By its effect: which right it takes depends on the user, the namespace and the kernel. */
uint64_t ct_limit_grant(int which, uint64_t hard)
{
	struct rlimit own, more;

	if (getrlimit((__rlimit_resource_t)which, &own) < 0 || hard <= own.rlim_max)
		return hard;
	more = (struct rlimit){ own.rlim_cur, hard };
	if (setrlimit((__rlimit_resource_t)which, &more) < 0)
		return own.rlim_max;
	setrlimit((__rlimit_resource_t)which, &own);
	return hard;
}

static const char *amount(char buf[24], uint64_t v)
{
	snprintf(buf, 24, v == RLIM_INFINITY ? "unlimited" : "%llu", (unsigned long long)v);
	return buf;
}

/* A hard limit that is not reached may be lower here. One that is in force must be granted: a program that was allowed
 * something must not find in the midst of it that it is not. */
int ct_fit_limits(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	char a[24], b[24];

	for (int i = 0; i < CT_IMG_LIMITS; i++) {
		uint64_t granted = ct_limit_grant(i, n->limits[i].cur);

		if (granted < n->limits[i].cur && limits[i].name)
			return gw_fail(why, -EPERM, "the rank's limit of %s is %s and no more than %s are granted here; raise 'ulimit -H%s'",
			               limits[i].name, amount(a, n->limits[i].cur), amount(b, granted), limits[i].option);
	}
	return 0;
}

int ct_fit_descriptors(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	uint64_t needed = (uint64_t)n->highest_fd + CT_PARK_ABOVE + 2 * CT_PLUMB_MAX, granted, used, most;
	char text[128], *at;

	granted = ct_limit_grant(RLIMIT_NOFILE, needed);
	if (granted < needed)
		return gw_fail(why, -EMFILE, "the rank has a descriptor %u, so that %llu are needed while it arrives, and no more than %llu "
		               "are granted here; raise 'ulimit -Hn'", n->highest_fd, (unsigned long long)needed,
		               (unsigned long long)granted);
	if (geteuid() == 0 || !*ct_host_text("", "/proc/sys", "fs/file-nr", text, sizeof(text)))
		return 0;
	used = strtoull(text, &at, 10);
	strtoull(at, &at, 10);
	most = strtoull(at, NULL, 10);
	if (used + n->open_files + CT_PLUMB_MAX > most)
		return gw_fail(why, -ENFILE, "the rank has %u open files, and %llu of %llu are in use on this host; raise fs.file-max",
		               n->open_files, (unsigned long long)used, (unsigned long long)most);
	return 0;
}

/* ---- addresses ----------------------------------------------------------------------------------------------------- */

/* More than 47 bits take a processor and a kernel with five levels of page tables. */
int ct_fit_addresses(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	void *at = (void *)(uintptr_t)(n->highest_address - CT_PAGE), *got;

	if (n->highest_address <= 0x7ffffffff000ull)
		return 0;
	got = mmap(at, CT_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (got != MAP_FAILED)
		munmap(got, CT_PAGE);
	if (got != at)
		return gw_fail(why, -ENOTSUP, "the rank has memory at %#llx and this host has no addresses above 47 bits; move it to one "
		               "with five-level page tables", (unsigned long long)n->highest_address - CT_PAGE);
	return 0;
}
