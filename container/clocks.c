/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clocks of hosts, of daemons and of ranks. CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the boot of a kernel; a time namespace
 * adds offsets. A rank's offsets are chosen at each arrival so that its clocks go on from where they were.
 *
 *   rank's clock = daemon's clock + ct_rank.monotonic_offset_ns
 *                = kernel's clock + offset of the daemon's own namespace + ct_rank.monotonic_offset_ns
 */
#include "container/room.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

uint64_t ct_clock_ns(int id)
{
	struct timespec t;

	clock_gettime((clockid_t)id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t ct_clock_offset(const char *text, const char *name)
{
	const char *field = ct_proc_field(text, name);
	char *end;
	long long s, ns;

	if (!field)
		return 0;
	s = strtoll(field, &end, 10);
	ns = strtoll(end, NULL, 10);
	if (s > INT64_MAX / 1000000000 - 1 || s < INT64_MIN / 1000000000 + 1 || ns < 0 || ns >= 1000000000)
		return 0;
	return s * 1000000000 + ns;
}

void ct_clock_offsets(int64_t *monotonic_ns, int64_t *boottime_ns)
{
	char text[256];

	ct_host_text("", "/proc/self", "timens_offsets", text, sizeof(text)); /* "": a kernel without time namespaces */
	*monotonic_ns = ct_clock_offset(text, "monotonic");
	*boottime_ns = ct_clock_offset(text, "boottime");
}

void ct_rank_clocks(const struct ct_rank *r, uint64_t *monotonic_ns, uint64_t *boottime_ns)
{
	*monotonic_ns = ct_clock_ns(CLOCK_MONOTONIC) + (uint64_t)r->monotonic_offset_ns;
	*boottime_ns = ct_clock_ns(CLOCK_BOOTTIME) + (uint64_t)r->boottime_offset_ns;
}

void ct_needs_heard(struct ct_needs *n)
{
	n->heard_monotonic_ns = ct_clock_ns(CLOCK_MONOTONIC);
	n->heard_boottime_ns = ct_clock_ns(CLOCK_BOOTTIME);
}

void ct_clock_choose(const struct ct_needs *n, const struct ct_img_needs *i, int64_t *monotonic_ns, int64_t *boottime_ns)
{
	struct ct_needs heard = *n;
	char boot_id[40];

	ct_boot_id(boot_id);
	/* the same kernel, whose clocks are exact. One without time namespaces cannot let them stand still */
	if ((!n->is_cold || access("/proc/self/ns/time", F_OK) < 0) && memcmp(boot_id, i->boot_id, sizeof(boot_id)) == 0) {
		ct_clock_offsets(monotonic_ns, boottime_ns);
		*monotonic_ns = i->monotonic_offset_ns - *monotonic_ns;
		*boottime_ns = i->boottime_offset_ns - *boottime_ns;
		return;
	}
	if (!heard.heard_monotonic_ns)
		ct_needs_heard(&heard);
	*monotonic_ns = (int64_t)(n->monotonic_ns - heard.heard_monotonic_ns);
	*boottime_ns = (int64_t)(n->boottime_ns - heard.heard_boottime_ns);
}

static void wait_until(clockid_t id, uint64_t until)
{
	struct timespec ts = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };

	if ((int64_t)(until - ct_clock_ns(id)) > 0)
		while (clock_nanosleep(id, TIMER_ABSTIME, &ts, NULL) == EINTR)
			;
}

void ct_clock_wait(const struct ct_rank *r)
{
	wait_until(CLOCK_MONOTONIC, r->snap.process.monotonic_ns - (uint64_t)r->monotonic_offset_ns);
	wait_until(CLOCK_BOOTTIME, r->snap.process.boottime_ns - (uint64_t)r->boottime_offset_ns);
}
