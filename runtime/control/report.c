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
	{ "list", 'l', NULL, 0, "Say of which jobs there are histories: all, or those whose id begins with JOB", 0 },
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

struct kept { char job[16]; struct timespec at; off_t size; };

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
		return gw_fail(why, -ENOENT, "there are no histories of jobs in '%s': %s; run one with mpirun (GODWIT_LOG=info says why it keeps none), "
		               "or name a file", dir, strerror(errno));
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
		all[n] = (struct kept){ .at = st.st_mtim, .size = st.st_size };
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

static void print_line(const struct report *r)
{
	time_t began = (time_t)r->began;
	char when[64] = "";
	struct tm tm;

	if (!localtime_r(&began, &tm) || !strftime(when, sizeof(when), "%F %T", &tm))
		when[0] = '\0';
	report_text(stdout, r->job);
	printf("  %s  %9.1f s  %6u ranks  ", when, r->length_s, r->size);
	report_text(stdout, r->programs.n ? r->programs.list[0] : "");
	putchar('\n');
}

/* Those that can be read; and a sentence for each that cannot. Return the exit status */
static int list(const struct request *q, struct gw_error *why)
{
	const char *begin = q->what ? q->what : q->job ? q->job : "";
	char dir[3900], path[4000];
	struct kept *all = NULL;
	json_t *jobs;
	int code = rt_state_dir(dir, sizeof(dir), false, why), n = code < 0 ? code : find_kept(dir, begin, &all, why);

	if (n == 0 && *begin)
		n = gw_fail(why, -ENOENT, "there is no history of a job %s in '%s'", begin, dir);
	if (n < 0)
		return control_fail(why);
	jobs = q->is_json ? json_array() : NULL;
	for (int i = 0; i < n; i++) {
		struct gw_error one = { 0 };
		struct report r;

		snprintf(path, sizeof(path), "%s/%s.jsonl", dir, all[i].job);
		code = all[i].size ? report_read(&r, path, NULL, &one) : 1; /* without a line: its job has just begun */
		if (code < 0)
			*why = one;
		if (code < 0)
			fprintf(stderr, "godwit: %s\n", one.text);
		else if (code == 0 && jobs)
			json_array_append_new(jobs, report_json(&r));
		else if (code == 0)
			print_line(&r);
		if (code <= 0)
			report_fini(&r);
	}
	free(all);
	if (jobs)
		control_print(jobs);
	json_decref(jobs);
	return why->code < 0 ? CONTROL_FAILED : CONTROL_DONE;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------- */

struct target {
	const char *path;       /* NULL: it is not wanted */
	void (*write)(const struct report *r, FILE *out);
	FILE *f;
	struct stat st;
	bool is_new;            /* it was not there */
};

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	return S_ISREG(a->st_mode) && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* What is there stays as it is, until all that is to be written is known to have a place of its own */
static int open_target(struct target *t, struct gw_error *why)
{
	int fd;

	if (!t->path)
		return 0;
	if (strcmp(t->path, "-") == 0) {
		t->f = stdout;
		return 0;
	}
	fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
	t->is_new = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(t->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd >= 0 && fstat(fd, &t->st) == 0 && (t->f = fdopen(fd, "w")))
		return 0;
	gw_fail(why, -EIO, "cannot write '%s': %s", t->path, strerror(errno)); /* not as a job that is not there */
	if (fd >= 0)
		close(fd);
	return -EIO;
}

static int write_target(struct target *t, const struct report *r, struct gw_error *why)
{
	bool is_bad = S_ISREG(t->st.st_mode) && ftruncate(fileno(t->f), 0) < 0;

	if (!is_bad) {
		t->write(r, t->f);
		is_bad = fflush(t->f) != 0 || ferror(t->f);
	}
	return is_bad ? gw_fail(why, -EIO, "cannot write %s%s%s: %s", t->f == stdout ? "" : "'", t->f == stdout ? "standard output" : t->path,
	                        t->f == stdout ? "" : "'", strerror(errno)) : 0;
}

/* A page and a trace; neither over the history that they are made of, nor one over the other */
static int write_targets(struct target t[2], const char *history, const struct report *r, struct gw_error *why)
{
	struct stat from;
	int code = stat(history, &from) < 0 ? gw_fail(why, -errno, "cannot read '%s': %s", history, strerror(errno)) : 0;

	for (int i = 0; i < 2 && code == 0; i++)
		code = open_target(&t[i], why);
	for (int i = 0; i < 2 && code == 0; i++)
		if (t[i].f && is_same_file(&t[i].st, &from))
			code = gw_fail(why, -EINVAL, "'%s' is the history itself, and would be lost; name another file to write to", t[i].path);
	if (code == 0 && t[0].f && t[1].f && is_same_file(&t[0].st, &t[1].st))
		code = gw_fail(why, -EINVAL, "the page and the trace cannot both be '%s'; name two files", t[1].path);
	if (code < 0)
		for (int i = 0; i < 2; i++)
			if (t[i].is_new)
				unlink(t[i].path);
	for (int i = 0; i < 2 && code == 0; i++)
		code = t[i].f ? write_target(&t[i], r, why) : 0;
	for (int i = 0; i < 2; i++)
		if (t[i].f && t[i].f != stdout && fclose(t[i].f) != 0 && code == 0)
			code = gw_fail(why, -EIO, "cannot write '%s': %s", t[i].path, strerror(errno));
	return code;
}

static int write_all(const struct request *q, const char *history, const struct report *r, struct gw_error *why)
{
	struct target t[2] = { { .path = q->page, .write = report_page }, { .path = q->trace, .write = report_trace } };
	bool is_own = !q->page && !q->trace && !q->is_json;
	char own[64];
	int code;

	if (is_own) {
		snprintf(own, sizeof(own), "godwit-%.8s.html", r->job);
		for (char *p = own; *p; p++) /* a file of somebody else's may call its job anything */
			if (!strchr("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.", *p))
				*p = '_';
		t[0].path = own;
	}
	code = write_targets(t, history, r, why);
	if (code == 0 && q->is_json) {
		json_t *figures = report_json(r);

		control_print(figures);
		json_decref(figures);
	}
	if (code == 0 && is_own)
		printf("%s\n", own);
	return code;
}

/* What does not go together */
static int check(const struct request *q, struct gw_error *why)
{
	bool is_page_out = q->page && strcmp(q->page, "-") == 0, is_trace_out = q->trace && strcmp(q->trace, "-") == 0;

	if (q->is_list && (q->page || q->trace))
		return gw_fail(why, -EINVAL, "--list writes neither a page nor a trace; name one of the jobs for that");
	if (q->is_list && q->what && !is_id(q->what))
		return gw_fail(why, -EINVAL, "--list takes the id of a job, or how it begins, and '%s' is none", q->what);
	if (is_page_out + is_trace_out + q->is_json > 1 && (is_page_out || is_trace_out))
		return gw_fail(why, -EINVAL, "standard output takes one thing: %s", is_page_out && is_trace_out ? "the page or the trace" :
		               is_page_out ? "the page (-o -) or figures (--json)" : "the trace (-t -) or figures (--json)");
	return 0;
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
	if (check(&q, &why) < 0)
		return control_fail(&why);
	if (q.is_list)
		return list(&q, &why);
	code = find_file(&q, path, sizeof(path), &job, &why);
	if (code < 0)
		return control_fail(&why);
	code = report_read(&r, path, job, &why);
	if (code == 0)
		code = write_all(&q, path, &r, &why);
	report_fini(&r);
	return code < 0 ? control_fail(&why) : CONTROL_DONE;
}
