/* SPDX-License-Identifier: BSD-2-Clause */
/* Where histories of jobs are kept. */
#include "runtime/state.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Every directory of @path below @from; 0 or -errno */
static int make_all(char *path, size_t from)
{
	for (char *p = path + from + 1;; p++) {
		char end = *p;

		if (end != '/' && end != '\0')
			continue;
		*p = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = end;
		if (end == '\0')
			return 0;
	}
}

int rt_state_dir(char *buf, size_t cap, bool is_made, struct gw_error *why)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME"), *base = state && *state == '/' ? state : home;
	struct stat st;
	int n, code;

	if (!base || *base != '/')
		return gw_fail(why, -ENOENT, "there is no home directory to keep the history of jobs in; set HOME or XDG_STATE_HOME");
	n = snprintf(buf, cap, "%s%s/godwit/jobs", base, base == state ? "" : "/.local/state");
	if (n < 0 || (size_t)n >= cap)
		return gw_fail(why, -ENAMETOOLONG, "the name of the home directory is too long");
	if (!is_made)
		return 0;
	if (base == home && (stat(home, &st) < 0 || st.st_uid != geteuid()))
		return gw_fail(why, -EPERM, "the home directory '%s' is not this user's; set XDG_STATE_HOME", home);
	code = make_all(buf, base == home ? strlen(base) : 0);
	if (code == 0 && (stat(buf, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022)))
		code = -EPERM;
	return code < 0 ? gw_fail(why, code, "cannot keep histories of jobs in '%s': %s; it has to be this user's alone", buf,
	                          strerror(-code)) : 0;
}
