/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit: which subcommand, which job, and the conversation with its head. */
#include <argp.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/control/control.h"

__attribute__((visibility("default"))) /* libc looks for it */
const char *argp_program_version = "Godwit " PACKAGE_VERSION;

int control_fail(const struct gw_error *why)
{
	fprintf(stderr, "godwit: %s\n", why->text);
	switch (why->code) {
	case -ENOENT: /* control_connect's; and control_talk's when the job ends meanwhile */
	case -ENOTUNIQ:
	case -EPIPE:
		return CONTROL_NO_JOB;
	case -EINVAL:
		return CONTROL_WRONG;
	default:
		return CONTROL_FAILED;
	}
}

void control_print(json_t *msg)
{
	json_object_del(msg, "op");
	json_dumpf(msg, stdout, JSON_INDENT(2));
	putchar('\n');
}

static void print_error(const struct control *c, const struct gw_error *why)
{
	json_t *object = c->is_json ? json_pack("{s:i, s:s}", "status", why->code, "text", why->text) : NULL;

	if (object)
		control_print(object);
	json_decref(object);
}

int control_fail_object(const struct control *c, const struct gw_error *why)
{
	print_error(c, why);
	return control_fail(why);
}

int control_refuse(const struct control *c, const struct gw_error *why)
{
	print_error(c, why);
	fprintf(stderr, "godwit: %s\n", why->text);
	return CONTROL_WRONG;
}

int control_option(struct control *c, int key, char *arg)
{
	switch (key) {
	case 'j':
		c->job = arg;
		return 0;
	case 'J':
		c->is_json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

long control_number(struct argp_state *state, const char *text, const char *what)
{
	char *end;
	long v = strtol(text, &end, 10);

	if (*end || end == text || v < 0 || v > 1000000000)
		argp_error(state, "'%s' is not %s", text, what);
	return v;
}

/* ---- which job ------------------------------------------------------------------------------------------------------ */

/* "3fa85f64 (process 812: mpirun -n 4 ./wave)" */
static void job_text(uint32_t job, char *text, size_t cap)
{
	char name[RT_SOCKET_NAME_MAX], words[96] = "";
	gw_autoclose int fd = -1, file = -1;
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	ssize_t n;

	snprintf(text, cap, "%08x", job);
	rt_socket_name(name, job, -1);
	fd = gw_connect_unix(name, NULL);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return;
	snprintf(name, sizeof(name), "/proc/%d/cmdline", (int)cred.pid);
	file = open(name, O_RDONLY | O_CLOEXEC);
	n = file >= 0 ? read(file, words, sizeof(words) - 1) : 0;
	for (ssize_t i = 0; i + 1 < n; i++)
		words[i] = words[i] ? words[i] : ' ';
	snprintf(text, cap, "%08x (process %d: %s%s)", job, (int)cred.pid, words, n == sizeof(words) - 1 ? "..." : "");
}

static void jobs_text(const uint32_t *jobs, int n, char *text, size_t cap)
{
	size_t at = 0;

	text[0] = '\0';
	for (int i = 0; i < n && at + 160 < cap; i++) {
		at += (size_t)snprintf(text + at, cap - at, "%s", i ? ", " : "");
		job_text(jobs[i], text + at, cap - at);
		at += strlen(text + at);
	}
}

/* @jobs keeps those whose id begins with what was asked for */
static int jobs_filter(uint32_t *jobs, int n, const char *begin)
{
	int kept = 0;

	for (int i = 0; i < n; i++) {
		char id[16];

		snprintf(id, sizeof(id), "%08x", jobs[i]);
		if (strncasecmp(id, begin, strlen(begin)) == 0)
			jobs[kept++] = jobs[i];
	}
	return kept;
}

int control_check_awake(int fd, struct gw_error *why)
{
	char path[64], line[512];
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	const char *end = NULL;
	FILE *f;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)cred.pid);
	f = fopen(path, "re");
	if (f) {
		end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
		fclose(f);
	}
	if (!end || !end[1] || end[2] != 'T')
		return 0;
	return gw_fail(why, -EBUSY, "mpirun (process %d) is stopped, and its job with it; continue it first: 'fg' in its shell, or "
	               "kill -CONT %d", (int)cred.pid, (int)cred.pid);
}

int control_connect(const struct control *c, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX], list[600];
	unsigned uid = (unsigned)geteuid();
	uint32_t jobs[256];
	int n = rt_jobs_find(jobs, GW_ARRAY_LEN(jobs), why), all = n;

	if (n < 0)
		return n;
	if (n > (int)GW_ARRAY_LEN(jobs))
		n = (int)GW_ARRAY_LEN(jobs);
	if (n == 0)
		return gw_fail(why, -ENOENT, "no job of user %u runs on this host; start one with mpirun", uid);
	if (c->job) {
		if (!*c->job || strlen(c->job) > 8 || c->job[strspn(c->job, "0123456789abcdefABCDEF")])
			return gw_fail(why, -EINVAL, "'%s' is not the id of a job, such as 3fa85f64; 'godwit status' shows it", c->job);
		jobs_text(jobs, n, list, sizeof(list));
		n = jobs_filter(jobs, n, c->job);
		if (n == 0)
			return gw_fail(why, -ENOENT, "no job %s of user %u runs on this host; these do: %s", c->job, uid, list);
	}
	if (n > 1) {
		jobs_text(jobs, n, list, sizeof(list));
		return gw_fail(why, -ENOTUNIQ, "%d jobs of user %u run on this host: %s; choose one with --job", c->job ? n : all,
		               uid, list);
	}
	rt_socket_name(name, jobs[0], -1);
	n = gw_connect_unix(name, why);
	if (n < 0)
		return n == -ECONNREFUSED ? gw_fail(why, -ENOENT, "job %08x has just ended", jobs[0]) : n;
	if (control_check_awake(n, why) < 0) {
		close(n);
		return why->code;
	}
	return n;
}

/* ---- the conversation ----------------------------------------------------------------------------------------------- */

#define LOOK_MS 1000 /* at an mpirun that has not answered */
#define LOOKS   2    /* that find it stopped, and it is not waited for: a moment is no matter */

struct talk {
	struct gw_loop *loop;
	int fd;      /* of the link, whose it is */
	int stopped; /* looks in a row that have found it so */
	int (*on_answer)(void *ctx, json_t *msg);
	void *ctx;
	struct gw_error *why;
};

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	struct talk *t = ctx;
	int code = t->on_answer(t->ctx, msg);

	(void)l; (void)fds; (void)n_fds;
	if (code)
		gw_loop_stop(t->loop, code);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct talk *t = ctx;

	(void)l; (void)error;
	gw_loop_stop(t->loop, gw_fail(t->why, -EPIPE, "the job has ended"));
}

static const struct gw_link_ops link_ops = { .json = on_json, .closed = on_closed };

static void on_look(void *ctx)
{
	struct gw_error why = { 0 };
	struct talk *t = ctx;

	t->stopped = control_check_awake(t->fd, &why) < 0 ? t->stopped + 1 : 0;
	if (t->stopped == LOOKS)
		gw_loop_stop(t->loop, gw_fail(t->why, -EINPROGRESS, "%s; what was asked for may be done then", why.text));
}

static const char *interrupted; /* a sentence with its newline */

static void on_interrupt(int sig)
{
	if (write(STDERR_FILENO, interrupted, strlen(interrupted)) < 0)
		_exit(128 + sig);
	_exit(128 + sig);
}

void control_say_interrupted(const char *sentence)
{
	static const int all[] = { SIGINT, SIGTERM, SIGHUP };

	interrupted = sentence;
	for (size_t i = 0; i < GW_ARRAY_LEN(all); i++)
		if (signal(all[i], on_interrupt) == SIG_IGN) /* as by nohup */
			signal(all[i], SIG_IGN);
}

int control_talk(const struct control *c, json_t *request, int (*on_answer)(void *ctx, json_t *msg), void *ctx,
                 struct gw_error *why)
{
	struct talk t = { .on_answer = on_answer, .ctx = ctx, .why = why };
	struct gw_link *link;
	struct gw_timer *look;
	int fd = control_connect(c, why), code;

	if (fd < 0) {
		json_decref(request);
		return fd;
	}
	t.fd = fd;
	code = gw_loop_create(&t.loop);
	if (code < 0) {
		close(fd);
		json_decref(request);
		return gw_fail(why, code, "cannot start: %s", strerror(-code));
	}
	code = gw_link_create(&link, t.loop, fd, &link_ops, &t);
	if (code < 0) {
		gw_loop_destroy(t.loop);
		json_decref(request);
		return gw_fail(why, code, "cannot talk to the job: %s", strerror(-code));
	}
	if (gw_link_send_json(link, request) < 0)
		code = gw_fail(why, -EPIPE, "the job has ended");
	else if (gw_loop_timer(t.loop, &look, LOOK_MS, LOOK_MS, on_look, &t) < 0)
		code = gw_fail(why, -ENOMEM, "out of memory");
	else
		code = gw_loop_run(t.loop);
	gw_link_destroy(link);
	gw_loop_destroy(t.loop);
	return code;
}

/* ---- commands ------------------------------------------------------------------------------------------------------- */

static const struct { const char *name; int (*run)(int argc, char **argv); } commands[] = {
	{ "status", control_status },
	{ "migrate", control_migrate },
	{ "pin", control_pin },
	{ "unpin", control_unpin },
	{ "rebalance", control_rebalance },
	{ "top", control_top },
	{ "metrics", control_metrics },
	{ "report", control_report },
	{ "suspend", control_suspend },
	{ "resume", control_resume },
	{ "checkpoint", control_checkpoint },
	{ "restart", control_restart },
	{ "up", control_up },
	{ "down", control_down },
	{ "leave", control_leave },
	{ "pools", control_pools },
	{ "in-pool", control_in_pool },
	{ "add", control_add },
	{ "drain", control_drain },
	{ "undrain", control_undrain },
	{ "remove", control_remove },
	{ "doctor", control_doctor },
};

static const char doc[] =
"godwit - look at running MPI jobs and move their ranks\v"
"Commands:\n"
"  status                          clusters, ranks and where each lives\n"
"  status --movable                which ranks can move; what holds the rest\n"
"  migrate RANK... --to CLUSTER    move ranks, now\n"
"  pin RANK...                     keep ranks where they are\n"
"  unpin RANK...                   let them go again\n"
"  rebalance                       move ranks so that the job gets faster\n"
"  top [JOB]                       what clusters and ranks do, live\n"
"  metrics [JOB]                   the same once, for Prometheus\n"
"  report [JOB|FILE]               a page of what has happened, also afterwards\n"
"  suspend [JOB]                   stop all ranks of a job, for somebody else\n"
"  resume [JOB]                    let them go on\n"
"  checkpoint [JOB] DIR            write a whole job to a directory\n"
"  checkpoint --verify DIR         is what is there complete and unchanged?\n"
"  restart DIR [OPTION...]         continue it, on other hosts or clusters\n"
"  up --hosts HOST:SLOTS,...       start a pool: hosts that stay ready for jobs\n"
"  pools                           pools, their hosts and jobs\n"
"  leave HOST                      take a host out of a pool\n"
"  down [POOL]                     end a pool\n"
"  add HOST[:CLUSTERS]...          bring a host, or clusters, into the job\n"
"  drain CLUSTER|HOST...           move all ranks away, and let none move there\n"
"  undrain CLUSTER|HOST...         let ranks move there again\n"
"  remove CLUSTER|HOST...          drain, then let the daemons leave the job\n"
"  doctor [HOST...]                what hosts let ranks do, and how to mend it\n"
"  help [COMMAND]                  tell more\n"
"\n"
"All that concern a running job take --job, and all of these but 'metrics' --json; 'pools', 'doctor' and 'checkpoint --verify' take --json; "
"'restart' takes the options of mpirun. A job is started with "
"mpirun; when several of yours run on this host, --job says which one is meant. The exit status is 0 when all was done, 1 when "
"something of it was not, 2 when the request is wrong, 3 when there is no such job. godwit(1) has it all.";

/* How many letters must be added, taken away or changed to come from @a to @b; at most 31 letters of each count. */
static size_t distance(const char *a, const char *b)
{
	size_t row[32], n = strnlen(b, 31);

	for (size_t k = 0; k <= n; k++)
		row[k] = k;
	for (size_t i = 0; a[i] && i < 31; i++) {
		size_t before = row[0];

		row[0] = i + 1;
		for (size_t k = 0; k < n; k++) {
			size_t change = before + (a[i] != b[k]), less = (row[k] < row[k + 1] ? row[k] : row[k + 1]) + 1;

			before = row[k + 1];
			row[k + 1] = change < less ? change : less;
		}
	}
	return row[n];
}

/* The index of a command; or the exit status as a negative number, after a sentence. */
static int find_command(const char *name)
{
	const char *near = NULL;
	size_t least = strlen(name) < 5 ? 2 : 3; /* from three letters two others make any word */

	for (size_t i = 0; i < GW_ARRAY_LEN(commands); i++) {
		size_t far = distance(name, commands[i].name);

		if (strcmp(name, commands[i].name) == 0)
			return (int)i;
		if (*name && strncmp(name, commands[i].name, strlen(name)) == 0)
			far = 1;
		if (far < least) {
			least = far;
			near = commands[i].name;
		}
	}
	if (near)
		fprintf(stderr, "godwit: there is no command '%s'; did you mean 'godwit %s'?\n", name, near);
	else
		fprintf(stderr, "godwit: there is no command '%s'; 'godwit help' lists the commands\n", name);
	return -CONTROL_WRONG;
}

static int run_command(const char *name, int argc, char **argv)
{
	int i = find_command(name);

	return i < 0 ? -i : commands[i].run(argc, argv);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key == ARGP_KEY_NO_ARGS) {
		argp_error(state, "name a command; 'godwit help' lists them");
		return EINVAL;
	}
	return key == ARGP_KEY_ARG ? 0 : ARGP_ERR_UNKNOWN;
}

/* However the program ends: what it has told is told, or its end is no success */
static void on_end(int status, void *ctx)
{
	(void)ctx;
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return;
	if (status != CONTROL_DONE) /* which was said */
		return;
	fprintf(stderr, "godwit: cannot write to standard output%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
	_exit(CONTROL_FAILED);
}

int main(int argc, char **argv)
{
	static const struct argp argp = { NULL, parse_option, "COMMAND [ARG...]", doc, NULL, NULL, NULL };
	char help[] = "--help";
	int first = argc;

	gw_log_init("godwit");
	on_exit(on_end, NULL);
	argp_err_exit_status = CONTROL_WRONG;
	/* options before the command are ours, those after it the command's */
	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-') {
			first = i;
			break;
		}
	if (first < argc && strcmp(argv[first], "help") == 0) {
		char *words[] = { argv[0], help, NULL };

		if (first + 1 < argc && strcmp(argv[first + 1], "help") != 0)
			return run_command(argv[first + 1], 2, words);
		argp_parse(&argp, 2, words, ARGP_IN_ORDER, NULL, NULL);
	}
	argp_parse(&argp, first < argc ? first + 1 : argc, argv, ARGP_IN_ORDER, NULL, NULL);
	return first < argc ? run_command(argv[first], argc - first, argv + first) : CONTROL_WRONG;
}
