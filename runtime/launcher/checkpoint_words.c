/* SPDX-License-Identifier: BSD-2-Clause */
/* What -checkpoint-every and -checkpoint-on say: times with a unit, names of signals. Pure. */
#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>

#include "runtime/launcher/options.h"

int options_duration(const char *text, uint64_t *ms, struct gw_error *why)
{
	static const struct { const char *unit; double ms; } units[] = { { "ms", 1 }, { "", 1e3 }, { "s", 1e3 }, { "m", 60e3 }, { "min", 60e3 },
	                                                                  { "h", 3600e3 }, { "d", 86400e3 } };
	char *end;
	double v = strtod(text, &end);

	for (size_t i = 0; i < GW_ARRAY_LEN(units) && isdigit((unsigned char)text[0]) && !strpbrk(text, "xX"); i++) {
		double all = v * units[i].ms;

		if (strcmp(end, units[i].unit) != 0)
			continue;
		if (!(all >= OPTIONS_EVERY_MS_MIN && all <= OPTIONS_EVERY_MS_MAX))
			return gw_fail(why, -ERANGE, "'%s' is not a time from 100ms to 365d", text);
		*ms = (uint64_t)all;
		return 0;
	}
	return gw_fail(why, -EINVAL, "'%s' is not a time: a number with s (seconds), m (minutes) or h (hours), as 90s or 10m", text);
}

static const struct { const char *name; int sig; } signals[] = {
	{ "USR1", SIGUSR1 }, { "USR2", SIGUSR2 }, { "TERM", SIGTERM }, { "INT", SIGINT }, { "HUP", SIGHUP }, { "QUIT", SIGQUIT },
};

const char *options_signal_name(int sig)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(signals); i++)
		if (signals[i].sig == sig)
			return signals[i].name;
	return "?";
}

int options_signals(const char *list, uint32_t *set, struct gw_error *why)
{
	uint32_t found = 0;

	if (strcasecmp(list, "none") == 0) {
		*set = 0;
		return 0;
	}
	for (const char *at = list;; at++) {
		size_t len = strcspn(at, ","), skip = strncasecmp(at, "SIG", 3) == 0 ? 3 : 0, i = 0;

		while (i < GW_ARRAY_LEN(signals) && (skip > len || len - skip != strlen(signals[i].name) ||
		                                     strncasecmp(at + skip, signals[i].name, len - skip) != 0))
			i++;
		if (i == GW_ARRAY_LEN(signals))
			return gw_fail(why, -EINVAL, "'%.*s' is not one of USR1, USR2, TERM, INT, HUP, QUIT; nor is it none", (int)len, at);
		found |= 1u << signals[i].sig;
		at += len;
		if (!*at)
			break;
	}
	*set = found;
	return 0;
}
