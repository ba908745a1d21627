/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a core file is: /proc/sys/kernel/core_pattern read as core(5) says, and a look at what is there. */
#include "runtime/launcher/core.h"

#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define CORE_AGE_S 600 /* an older file is of another process: writing a large core takes its time */

int core_glob(const char *pattern, int uses_pid, const struct core_facts *facts, char *buf, size_t cap)
{
	bool has_pid = false;
	size_t n = 0;

	if (pattern[0] == '|')
		return -ENOTSUP;
	if (pattern[0] != '/')
		n = (size_t)snprintf(buf, cap, "%s/", facts->cwd);
	for (const char *p = pattern; *p && n < cap; p++) {
		if (*p != '%') {
			n += (size_t)snprintf(buf + n, cap - n, strchr("*?[\\", *p) ? "\\%c" : "%c", *p);
			continue;
		}
		switch (*++p) {
		case '\0': /* one % at the end is dropped */
			p--;
			break;
		case 'p':
			has_pid = true;
			n += (size_t)snprintf(buf + n, cap - n, "%d", (int)facts->pid);
			break;
		case 'P':
			n += (size_t)snprintf(buf + n, cap - n, "%d", (int)facts->host_pid);
			break;
		case 'u':
			n += (size_t)snprintf(buf + n, cap - n, "%u", (unsigned)facts->uid);
			break;
		case 'g':
			n += (size_t)snprintf(buf + n, cap - n, "%u", (unsigned)facts->gid);
			break;
		case 's':
			n += (size_t)snprintf(buf + n, cap - n, "%d", facts->signal);
			break;
		case 'h':
			n += (size_t)snprintf(buf + n, cap - n, "%s", facts->host);
			break;
		case '%':
			n += (size_t)snprintf(buf + n, cap - n, "%%");
			break;
		default: /* time, thread, name, path, limit, ...: not known any more */
			n += (size_t)snprintf(buf + n, cap - n, "*");
		}
	}
	if (uses_pid && !has_pid && n < cap)
		n += (size_t)snprintf(buf + n, cap - n, ".%d", (int)facts->pid);
	return n < cap ? 0 : -ENAMETOOLONG;
}

static void read_line(const char *path, char *buf, size_t cap)
{
	FILE *f = fopen(path, "re");

	buf[0] = '\0';
	if (!f)
		return;
	if (!fgets(buf, (int)cap, f))
		buf[0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	fclose(f);
}

/* The newest file of that name. */
static bool find_file(const char *pattern, char *buf, size_t cap)
{
	time_t newest = time(NULL) - CORE_AGE_S;
	bool is_found = false;
	glob_t g;

	if (glob(pattern, 0, NULL, &g) != 0)
		return false;
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct stat st;

		if (stat(g.gl_pathv[i], &st) < 0 || !S_ISREG(st.st_mode) || st.st_mtime < newest)
			continue;
		newest = st.st_mtime;
		snprintf(buf, cap, "%s", g.gl_pathv[i]);
		is_found = true;
	}
	globfree(&g);
	return is_found;
}

/* ", core dumped: ..." */
void core_describe(const struct head *h, uint32_t rank, char *buf, size_t cap)
{
	const struct rank *r = &h->ranks[rank];
	const struct app *app = &h->spec->apps[r->app];
	gw_autofree char *here = getcwd(NULL, 0);
	char pattern[256], uses_pid[16], host[256] = "", files[2 * PATH_MAX], path[PATH_MAX];
	struct core_facts facts = { .pid = (pid_t)(h->base_pid + rank), .host_pid = r->pid, .uid = geteuid(), .gid = getegid(),
	                            .signal = WTERMSIG(r->status), .host = host, .cwd = app->wdir ? app->wdir : here ? here : "." };
	int code;

	gethostname(host, sizeof(host) - 1);
	read_line("/proc/sys/kernel/core_pattern", pattern, sizeof(pattern));
	read_line("/proc/sys/kernel/core_uses_pid", uses_pid, sizeof(uses_pid));
	code = core_glob(pattern, atoi(uses_pid), &facts, files, sizeof(files));
	if (code == -ENOTSUP)
		snprintf(buf, cap, ", core dumped to the program '%.*s'%s", (int)strcspn(pattern + 1, " "), pattern + 1,
		         strstr(pattern, "systemd-coredump") ? " (see coredumpctl)" : "");
	else if (code == 0 && find_file(files, path, sizeof(path)))
		snprintf(buf, cap, ", core dumped: %s", path);
	else
		snprintf(buf, cap, ", core dumped as '%s' (kernel.core_pattern)%s", pattern,
		         pattern[0] == '/' ? "" : " in its directory");
}
