/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit doctor, this host: limits, memory, processors, the MPI library and the provider, networks; and what it is. */
#include <dlfcn.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/cpu.h"
#include "container/room.h"
#include "mpi-shim/prefix.h"
#include "runtime/control/doctor.h"

#define MIB (1ull << 20)
#define FILES_ENOUGH     1024   /* some 70 ranks of one daemon */
#define PROCESSES_ENOUGH 256
#define LOAD_MS 20000

void doctor_say(struct doctor_host *h, const char *name, enum ct_verdict verdict, const char *mend, const char *fmt, ...)
{
	struct ct_finding *f = &h->findings[h->n];
	va_list ap;

	if (h->n == DOCTOR_FINDINGS)
		return;
	h->n++;
	*f = (struct ct_finding){ .name = name, .verdict = verdict };
	va_start(ap, fmt);
	vsnprintf(f->what, sizeof(f->what), fmt, ap);
	va_end(ap);
	snprintf(f->mend, sizeof(f->mend), "%s", mend);
}

/* ---- the MPI library --------------------------------------------------------------------------------------------------- */

static void own_dir(char *buf, size_t cap)
{
	ssize_t n = readlink("/proc/self/exe", buf, cap - 1);
	char *slash;

	buf[n > 0 ? n : 0] = '\0';
	slash = strrchr(buf, '/');
	if (slash)
		*slash = '\0';
}

/* As mpirun looks for it (launcher/env.c) */
static bool find_provider(char *buf, size_t cap)
{
	static const char *const places[] = { ".libs", "../lib/godwit", "../lib/x86_64-linux-gnu/godwit" };
	char dir[4096];

	own_dir(dir, sizeof(dir));
	for (size_t i = 0; i < GW_ARRAY_LEN(places); i++)
		if (snprintf(buf, cap, "%s/%s/libgodwit-fi.so", dir, places[i]) < (int)cap && access(buf, R_OK) == 0)
			return true;
	snprintf(buf, cap, "%s/libgodwit-fi.so", GODWIT_PKGLIBDIR);
	return access(buf, R_OK) == 0;
}

/* Load both as a rank does, in a child: what they do while they load is not for us. Return whether, and else why */
static bool can_load(const char *library, const char *provider, char *text, size_t cap)
{
	int ends[2], status = -1;
	struct pollfd p;
	ssize_t n;
	pid_t pid;

	snprintf(text, cap, "a process cannot be made");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	pid = fork();
	if (pid == 0) {
		const char *said = NULL;

		alarm(LOAD_MS / 1000);
		if (!dlopen(library, RTLD_NOW | RTLD_GLOBAL) || !dlopen(provider, RTLD_NOW))
			said = dlerror();
		if (said && write(ends[1], said, strlen(said)) < 0)
			_exit(2);
		_exit(said ? 1 : 0);
	}
	close(ends[1]);
	if (pid > 0) {
		p = (struct pollfd){ ends[0], POLLIN, 0 };
		n = poll(&p, 1, LOAD_MS) > 0 ? read(ends[0], text, cap - 1) : 0;
		if (n > 0)
			text[n] = '\0';
		else
			snprintf(text, cap, "the process that loads it ends early");
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	close(ends[0]);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void look_at_mpi(struct doctor_host *h)
{
	const char *prefix = getenv("GODWIT_MPICH"), *mend = "run ./quickstart of Godwit's source, or set GODWIT_MPICH to the prefix "
		"of an MPICH that was built for ch4:ofi";
	char library[4200], provider[4200], text[200];

	prefix = prefix && *prefix ? prefix : GODWIT_MPICH_PREFIX;
	snprintf(library, sizeof(library), "%s/lib/libmpi.so.12", prefix);
	if (access(library, R_OK) < 0)
		doctor_say(h, "MPICH", CT_MISSING, mend, "%s: %s; no job starts", library, strerror(errno));
	else if (!find_provider(provider, sizeof(provider)))
		doctor_say(h, "MPICH", CT_MISSING, "build or install Godwit completely", "Godwit's provider libgodwit-fi.so is not found; "
		           "no job starts");
	else if (!can_load(library, provider, text, sizeof(text)))
		doctor_say(h, "MPICH", CT_MISSING, mend, "cannot be loaded: %s; no job starts", text);
	else
		doctor_say(h, "MPICH", CT_FINE, "", "%s, and Godwit's provider, can be loaded", prefix);
}

/* ---- room -------------------------------------------------------------------------------------------------------------- */

static void look_at_limits(struct doctor_host *h)
{
	struct ct_cgroup_room memory, tasks;
	struct rlimit files = { 0 }, processes = { 0 };
	char text[16384];
	uint64_t available;

	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_NPROC, &processes);
	if (files.rlim_max < FILES_ENOUGH)
		doctor_say(h, "open files", CT_DEGRADED, "raise 'ulimit -Hn' (limits.conf, LimitNOFILE= of the service)",
		           "'ulimit -Hn' is %llu: enough for %llu ranks in a cluster", (unsigned long long)files.rlim_max,
		           (unsigned long long)(files.rlim_max > 64 ? (files.rlim_max - 64) / 14 : 0));
	else
		doctor_say(h, "open files", CT_FINE, "", "up to %llu in a process", (unsigned long long)files.rlim_max);
	ct_cgroup_room("", "pids", &tasks);
	if (geteuid() != 0 && processes.rlim_cur < PROCESSES_ENOUGH)
		doctor_say(h, "processes", CT_DEGRADED, "raise 'ulimit -u'", "'ulimit -u' is %llu, and a rank is two processes",
		           (unsigned long long)processes.rlim_cur);
	else if (tasks.left < PROCESSES_ENOUGH)
		doctor_say(h, "processes", CT_DEGRADED, "raise pids.max of the control group", "control group %.80s allows %llu more, and a rank "
		           "is two processes", tasks.group, (unsigned long long)tasks.left);
	else if (tasks.left != CT_NO_LIMIT)
		doctor_say(h, "processes", CT_FINE, "", "%llu more in control group %.80s", (unsigned long long)tasks.left, tasks.group);
	else
		doctor_say(h, "processes", CT_FINE, "", "no limit that matters");
	ct_cgroup_room("", "memory", &memory);
	available = ct_room_available(ct_host_text("", "/proc", "meminfo", text, sizeof(text)));
	if (memory.left < available)
		doctor_say(h, "memory", CT_FINE, "", "%llu MiB left in control group %.80s (limit %llu MiB)", (unsigned long long)(memory.left / MIB),
		           memory.group, (unsigned long long)(memory.limit / MIB));
	else if (available != CT_NO_LIMIT)
		doctor_say(h, "memory", CT_FINE, "", "%llu MiB available", (unsigned long long)(available / MIB));
}

static void look_at_processors(struct doctor_host *h)
{
	char text[256], *choice;
	cpu_set_t mine;
	int allowed = sched_getaffinity(0, sizeof(mine), &mine) == 0 ? CPU_COUNT(&mine) : 0;

	doctor_say(h, "processors", allowed ? CT_FINE : CT_DEGRADED, allowed ? "" : "a seccomp filter denies sched_getaffinity",
	           "%d of %ld may be used", allowed, sysconf(_SC_NPROCESSORS_ONLN));
	ct_host_text("", "/sys/kernel/mm/transparent_hugepage", "enabled", text, sizeof(text));
	choice = strchr(text, '[');
	if (choice) {
		choice[strcspn(choice, "]")] = '\0';
		doctor_say(h, "huge pages", strcmp(choice + 1, "never") == 0 ? CT_DEGRADED : CT_FINE, strcmp(choice + 1, "never") ? "" :
		           "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "transparent: %s%s", choice + 1,
		           strcmp(choice + 1, "never") ? "" : "; large ranks stand still longer when moved");
	}
}

static void look_at_network(struct doctor_host *h)
{
	struct ifaddrs *all = NULL;
	char names[120] = "";
	size_t n = 0;

	if (getifaddrs(&all) < 0)
		all = NULL;
	for (struct ifaddrs *i = all; i; i = i->ifa_next) {
		if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK) || !(i->ifa_flags & IFF_UP) ||
		    (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
			continue;
		n++;
		if (!strstr(names, i->ifa_name) && strlen(names) + strlen(i->ifa_name) + 3 < sizeof(names))
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", names[0] ? ", " : "", i->ifa_name);
	}
	freeifaddrs(all);
	if (n)
		doctor_say(h, "network", CT_FINE, "", "%zu address%s (%s)", n, n == 1 ? "" : "es", names);
	else
		doctor_say(h, "network", CT_FINE, "", "only loopback: jobs of this host alone");
}

/* ---- what it is -------------------------------------------------------------------------------------------------------- */

/* Of the daemon beside us: hosts of a job must have the same one */
static uint64_t build_sum(void)
{
	char path[4200];
	uint64_t sum = 1469598103934665603ull;
	unsigned char buf[65536];
	gw_autoclose int fd = -1;
	ssize_t n;

	own_dir(path, sizeof(path) - 16);
	strcat(path, "/godwitd");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ buf[i]) * 1099511628211ull;
	return fd < 0 ? 0 : sum;
}

static json_t *hex(uint64_t v)
{
	char text[20];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)v);
	return json_string(text);
}

void doctor_look(struct doctor_host *h, const struct strings *look)
{
	uint64_t start, end, vdso = 0, build = build_sum();
	char name[256] = "", text[CT_CPU_TEXT];
	struct utsname u = { 0 };
	struct ct_cpu cpu;
	struct stat st;

	gethostname(name, sizeof(name) - 1);
	uname(&u);
	ct_cpu_host(&cpu);
	ct_vdso_own(&start, &end, &vdso);
	if (!build)
		doctor_say(h, "godwitd", CT_MISSING, "build or install Godwit completely", "the daemon is not beside this program; no job starts");
	look_at_mpi(h);
	h->n += ct_host_findings(h->findings + h->n, DOCTOR_FINDINGS - h->n);
	look_at_limits(h);
	look_at_processors(h);
	look_at_network(h);
	h->self = json_pack("{s:s, s:s, s:s, s:i, s:s, s:o, s:o}", "hostname", name, "release", u.release, "version", PACKAGE_VERSION,
	                    "uid", (int)geteuid(), "cpu", ct_cpu_print(&cpu, text), "build", hex(build), "vdso", hex(vdso));
	h->paths = json_object();
	for (size_t i = 0; i < look->n; i++)
		json_object_set_new(h->paths, look->list[i], json_integer(stat(look->list[i], &st) < 0 ? -1 : S_ISDIR(st.st_mode) ? 0 :
		                                                            (json_int_t)st.st_size));
}

void doctor_fini(struct doctor_host *h)
{
	json_decref(h->self);
	json_decref(h->paths);
	json_decref(h->texts);
}
