/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a daemon on another host takes from mpirun with `start` (launcher/inherit.c), so that its ranks find what those on
 * mpirun's own host inherit: limits, umask, nice value, I/O priority; and the environment of daemons, for itself.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

static void take_environment(json_t *all)
{
	const char *name;
	json_t *value;

	json_object_foreach(all, name, value)
		if (strncmp(name, "GODWIT_", 7) == 0 && json_is_string(value))
			setenv(name, json_string_value(value), 1);
}

/* The soft ones, as far as this host's hard ones go; the ranks get them (ct_spawn), the daemon keeps what it has raised. */
static void take_limits(struct clusterd *d, const json_t *all)
{
	if (!d->has_limits)
		return;
	for (size_t i = 0; i < json_array_size(all) && i < RLIM_NLIMITS; i++) {
		json_int_t value = json_integer_value(json_array_get(all, i));
		rlim_t soft = value < 0 ? RLIM_INFINITY : (rlim_t)value, hard = d->limits[i].rlim_max;

		if (soft > hard) { /* RLIM_INFINITY is the largest of all */
			gw_log(GW_INFO, "limit %zu: mpirun's is above the hard limit of this host, which holds", i);
			soft = hard;
		}
		d->limits[i].rlim_cur = soft;
	}
}

void inherit_take(struct clusterd *d, const json_t *from)
{
	const json_t *nice_value = json_object_get(from, "nice"), *ioprio = json_object_get(from, "ioprio");
	int mask;

	if (!from)
		return;
	take_environment(json_object_get(from, "environment"));
	take_limits(d, json_object_get(from, "limits"));
	if (json_unpack((json_t *)(uintptr_t)from, "{s:i}", "umask", &mask) == 0)
		umask((mode_t)mask & 0777);
	/* a login may be nicer than mpirun is: going back needs a privilege, and what cannot be done is left */
	if (json_is_integer(nice_value) && setpriority(PRIO_PROCESS, 0, (int)json_integer_value(nice_value)) < 0)
		gw_log(GW_INFO, "nice value %d of mpirun: %s", (int)json_integer_value(nice_value), strerror(errno));
	if (json_is_integer(ioprio) && json_integer_value(ioprio) >= 0 &&
	    syscall(SYS_ioprio_set, 1 /* a process */, 0, (int)json_integer_value(ioprio)) < 0)
		gw_log(GW_INFO, "I/O priority of mpirun: %s", strerror(errno));
}
