/* SPDX-License-Identifier: BSD-2-Clause */
/* How fast a rank goes, and how much goes over a link: what migration/ compares before and during a move. */
#include <dirent.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/uio.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

/* Time of all its threads in user mode, as the kernel tells it: in ticks of 10 ms. 0: it is gone */
static uint64_t user_ns(pid_t pid)
{
	char path[40], text[1024];
	unsigned long long ticks = 0;
	const char *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	end = f && fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL; /* its name may hold anything */
	if (end && sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu", &ticks) != 1)
		ticks = 0;
	if (f)
		fclose(f);
	return ticks * (1000000000ull / (unsigned long)sysconf(_SC_CLK_TCK));
}

/* Of each thread: a program that computes with many gets its processors with many */
static void turns_of(pid_t pid, struct mig_turns *now)
{
	const struct dirent *e;
	char path[64];
	DIR *dir;

	*now = (struct mig_turns){ 0 };
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		unsigned long long ran, waited;
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, e->d_name);
		f = fopen(path, "re");
		if (f && fscanf(f, "%llu %llu", &ran, &waited) == 2) {
			now->ran_ns += ran;
			now->waited_ns += waited;
		}
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
}

void pace_turns(void *ctx, void *rank, struct mig_turns *now)
{
	const struct rank *r = rank;

	(void)ctx;
	turns_of(r->pid, now);
}

bool pace_traffic(const struct rank *r, struct ct_traffic *t)
{
	struct iovec mine = { t, sizeof(*t) }, its = { (void *)(uintptr_t)r->traffic_at, sizeof(*t) };

	return r->traffic_at && process_vm_readv(r->pid, &mine, 1, &its, 1, 0) == (ssize_t)sizeof(*t);
}

static void look(const struct rank *r, struct mig_pace *now)
{
	struct ct_traffic t;

	*now = (struct mig_pace){ .at_ns = gw_now_ns(), .user_ns = user_ns(r->pid) };
	turns_of(r->pid, &now->turns);
	now->has_mpi = pace_traffic(r, &t);
	if (now->has_mpi)
		now->mpi_bytes = t.sent_bytes + t.received_bytes;
}

void pace_begin(struct rank *r)
{
	look(r, &r->pace);
}

void pace_look(void *ctx, void *rank, struct mig_pace *now, struct mig_pace *then)
{
	struct rank *r = rank;

	(void)ctx;
	look(r, now);
	if (then)
		*then = r->pace;
	measure_note(r); /* no later: it takes the rank's core, and from the word to the agent on peers wait */
}

/* ---- links ----------------------------------------------------------------------------------------------------------- */

static bool is_same_address(const struct sockaddr *a, const struct sockaddr_storage *b)
{
	if (!a || a->sa_family != b->ss_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
	return a->sa_family == AF_INET6 && memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
	                                          &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* The interface whose address that connection has; empty: it is none of the network's */
static void name_of(int fd, char name[MIG_LINE_NAME])
{
	struct sockaddr_storage own;
	socklen_t len = sizeof(own);
	struct ifaddrs *all;

	name[0] = '\0';
	if (fd < 0 || getsockname(fd, (struct sockaddr *)&own, &len) < 0 || own.ss_family == AF_UNIX || getifaddrs(&all) < 0)
		return;
	for (const struct ifaddrs *i = all; i && !name[0]; i = i->ifa_next)
		if (is_same_address(i->ifa_addr, &own))
			snprintf(name, MIG_LINE_NAME, "%s", i->ifa_name);
	freeifaddrs(all);
}

/* What the interface has sent since it is there */
static bool sent_by(const char *name, uint64_t *bytes)
{
	FILE *f = fopen("/proc/net/dev", "re");
	size_t len = strlen(name);
	bool is_found = false;
	char line[512];

	while (f && !is_found && fgets(line, sizeof(line), f)) {
		const char *at = line + strspn(line, " ");
		unsigned long long sent;

		if (strncmp(at, name, len) != 0 || at[len] != ':' ||
		    sscanf(at + len + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %llu", &sent) != 1)
			continue;
		*bytes = sent;
		is_found = true;
	}
	if (f)
		fclose(f);
	return is_found;
}

void pace_line(void *ctx, int fd, struct mig_line *now, struct mig_line *then)
{
	struct clusterd *d = ctx;

	if (fd >= 0)
		name_of(fd, now->name);
	now->at_ns = gw_now_ns();
	if (!now->name[0] || !sent_by(now->name, &now->sent_bytes))
		now->at_ns = 0;
	if (!then)
		return;
	if (strcmp(d->line.name, now->name) != 0) /* the first move that takes it */
		d->line = (struct mig_line){ 0 };
	*then = d->line;
	memcpy(d->line.name, now->name, sizeof(now->name));
}

/* No move is under way: until the next one, what goes over it is the others'. */
void pace_line_rests(struct clusterd *d)
{
	if (d->line.name[0])
		pace_line(d, -1, &d->line, NULL);
}
