/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit report: what has happened in a job, from the history that mpirun keeps: a page, a trace, figures. */
#include <argp.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/control/control.h"
#include "runtime/report/report.h"
#include "runtime/state.h"

struct request {
	const char *what;       /* a job or a file; NULL: the last job */
	const char *job;        /* of --job: of several that a file holds */
	const char *page, *trace;
	bool is_list, is_json;
};

static const struct argp_option options[] = {
	{ "output", 'o', "FILE", 0, "Write the page to FILE; '-' for standard output. Default: godwit-JOB.html", 0 },
	{ "trace", 't', "FILE", 0, "Write a trace for chrome://tracing or Perfetto (https://ui.perfetto.dev) to FILE, and a page only if -o names one", 0 },
	{ "list", 'l', NULL, 0, "Say of which jobs there are histories", 0 },
	{ "job", 'j', "ID", 0, "The job, when a file holds several", 10 },
	{ "json", 'J', NULL, 0, "Print the figures of the job as JSON, and write a page only if -o names one", 10 },
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct request *q = state->input;

	switch (key) {
	case 'o': q->page = arg; return 0;
	case 't': q->trace = arg; return 0;
	case 'l': q->is_list = true; return 0;
	case 'j': q->job = arg; return 0;
	case 'J': q->is_json = true; return 0;
	case ARGP_KEY_ARG:
		if (q->what)
			argp_error(state, "'%s' is too much: name one job or one file", arg);
		q->what = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- which history ------------------------------------------------------------------------------------------------------- */

struct kept { char job[16]; struct timespec at; };

static int newest_first(const void *x, const void *y)
{
	const struct kept *a = x, *b = y;

	return a->at.tv_sec != b->at.tv_sec ? (a->at.tv_sec < b->at.tv_sec ? 1 : -1) :
	       (a->at.tv_nsec < b->at.tv_nsec) - (a->at.tv_nsec > b->at.tv_nsec);
}

/* Jobs whose id begins with @begin, the newest first. Heap; their number, or -errno */
static int find_kept(const char *dir, const char *begin, struct kept **out, struct gw_error *why)
{
	DIR *d = opendir(dir);
	struct kept *all = NULL;
	size_t n = 0, cap = 0;

	*out = NULL;
	if (!d)
		return gw_fail(why, -ENOENT, "there are no histories of jobs in '%s': %s; run one with mpirun, or name a file", dir, strerror(errno));
	for (const struct dirent *e; (e = readdir(d));) {
		struct stat st;

		if (strlen(e->d_name) != strlen("01234567.jsonl") || strspn(e->d_name, "0123456789abcdef") != 8 || strcmp(e->d_name + 8, ".jsonl") != 0 ||
		    strncasecmp(e->d_name, begin, strlen(begin)) != 0 || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (n == cap) {
			struct kept *more = realloc(all, (cap = 2 * cap + 32) * sizeof(*all));

			if (!more) {
				closedir(d);
				free(all);
				return gw_fail(why, -ENOMEM, "out of memory");
			}
			all = more;
		}
		all[n] = (struct kept){ .at = st.st_mtim };
		snprintf(all[n++].job, sizeof(all->job), "%.8s", e->d_name);
	}
	closedir(d);
	if (n)
		qsort(all, n, sizeof(*all), newest_first);
	*out = all;
	return (int)n;
}

static bool is_id(const char *what)
{
	return *what && strlen(what) <= 8 && what[strspn(what, "0123456789abcdefABCDEF")] == '\0';
}

/* The file that is meant, and the job in it (NULL: the last) */
static int find_file(const struct request *q, char *path, size_t cap, const char **job, struct gw_error *why)
{
	const char *begin = q->what ? q->what : q->job ? q->job : "";
	char dir[3900];
	struct kept *all;
	int n, code;

	*job = q->job;
	if (q->what && (!is_id(q->what) || access(q->what, F_OK) == 0)) {
		snprintf(path, cap, "%s", q->what);
		return 0;
	}
	code = rt_state_dir(dir, sizeof(dir), false, why);
	if (code < 0)
		return code;
	n = find_kept(dir, begin, &all, why);
	if (n < 0)
		return n;
	if (n == 0)
		code = gw_fail(why, -ENOENT, *begin ? "there is no history of a job %s in '%s'; 'godwit report --list' says which there are" :
		               "there is no history of a job%s in '%s'; run one with mpirun", begin, dir);
	else if (*begin && n > 1)
		code = gw_fail(why, -ENOTUNIQ, "%d jobs begin with %s, the last being %s and %s; name more of it", n, begin, all[0].job, all[1].job);
	else
		snprintf(path, cap, "%s/%s.jsonl", dir, all[0].job);
	free(all);
	return code;
}

static int list(const struct request *q, struct gw_error *why)
{
	char dir[3900], path[4000], when[64];
	json_t *jobs = q->is_json ? json_array() : NULL;
	struct kept *all;
	int code = rt_state_dir(dir, sizeof(dir), false, why), n;

	n = code < 0 ? code : find_kept(dir, "", &all, why);
	for (int i = 0; i < n; i++) {
		struct report r;
		struct tm tm;

		snprintf(path, sizeof(path), "%s/%s.jsonl", dir, all[i].job);
		if (report_read(&r, path, NULL, NULL) == 0) {
			time_t began = (time_t)r.began;

			if (!localtime_r(&began, &tm) || !strftime(when, sizeof(when), "%F %T", &tm))
				when[0] = '\0';
			if (jobs)
				json_array_append_new(jobs, report_json(&r));
			else
				printf("%s  %s  %9.1f s  %6u ranks  %s\n", r.job, when, r.length_s, r.size, r.programs.n ? r.programs.list[0] : "");
		}
		report_fini(&r);
	}
	if (n >= 0)
		free(all);
	if (jobs && n >= 0)
		control_print(jobs);
	json_decref(jobs);
	return n < 0 ? n : 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------- */

static int write_to(const char *path, const struct report *r, void (*fn)(const struct report *r, FILE *out), struct gw_error *why)
{
	bool is_stdout = strcmp(path, "-") == 0, is_bad;
	FILE *f = is_stdout ? stdout : fopen(path, "we");

	if (!f)
		return gw_fail(why, -EIO, "cannot write '%s': %s", path, strerror(errno)); /* not as a job that is not there */
	fn(r, f);
	is_bad = fflush(f) != 0 || ferror(f);
	if (!is_stdout)
		is_bad |= fclose(f) != 0;
	return is_bad ? gw_fail(why, -EIO, "cannot write '%s': %s", is_stdout ? "standard output" : path, strerror(errno)) : 0;
}

static int write_all(const struct request *q, const struct report *r, struct gw_error *why)
{
	char own[64];
	const char *page = q->page;
	int code = 0;

	if (!page && !q->trace && !q->is_json) {
		snprintf(own, sizeof(own), "godwit-%.8s.html", r->job);
		for (char *p = own; *p; p++) /* a file of somebody else's may call its job anything */
			if (*p == '/')
				*p = '_';
		page = own;
	}
	if (page)
		code = write_to(page, r, report_page, why);
	if (code == 0 && q->trace)
		code = write_to(q->trace, r, report_trace, why);
	if (code == 0 && q->is_json) {
		json_t *figures = report_json(r);

		control_print(figures);
		json_decref(figures);
	}
	if (code == 0 && page == own)
		printf("%s\n", own);
	return code;
}

int control_report(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB|FILE]", "Write a page of what has happened in a job, while it runs or afterwards: where "
		"each rank lived, the load of clusters, who talked to whom, moves and their measures, what the balancer foresaw and what came. "
		"JOB is its id, or how that begins, and the last one when nothing is named; FILE is what 'mpirun -record FILE' or GODWIT_EVENTS wrote.",
		NULL, NULL, NULL };
	struct request q = { 0 };
	struct gw_error why = { 0 };
	char path[4096], name[] = "godwit report";
	const char *job = NULL;
	struct report r;
	int code;

	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &q);
	if (q.is_list)
		return list(&q, &why) < 0 ? control_fail(&why) : CONTROL_DONE;
	code = find_file(&q, path, sizeof(path), &job, &why);
	if (code < 0)
		return control_fail(&why);
	code = report_read(&r, path, job, &why);
	if (code == 0)
		code = write_all(&q, &r, &why);
	report_fini(&r);
	return code < 0 ? control_fail(&why) : CONTROL_DONE;
}
