/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit: which subcommand, which job, and the conversation with its head. */
#include <argp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/control/control.h"

const char *argp_program_version = "Godwit " PACKAGE_VERSION;

int control_fail(const struct gw_error *why)
{
	fprintf(stderr, "godwit: %s\n", why->text);
	return 1;
}

/* A head that is stopped (Ctrl-Z) accepts connections, but answers nobody: say so instead of waiting. */
static int check_awake(int fd, struct gw_error *why)
{
	char path[64], line[512];
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	const char *end = NULL;
	FILE *f;

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)cred.pid);
	f = fopen(path, "re");
	if (f) {
		end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
		fclose(f);
	}
	if (!end || !end[1] || end[2] != 'T')
		return fd;
	close(fd);
	return gw_fail(why, -EBUSY, "mpirun (process %d) is stopped, and its job with it; continue it first: 'fg' in its shell, or "
	               "kill -CONT %d", (int)cred.pid, (int)cred.pid);
}

int control_connect(const struct control *c, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];
	uint32_t jobs[16];
	int n = rt_jobs_find(jobs, GW_ARRAY_LEN(jobs), why);

	if (n < 0)
		return n;
	if (c->job) {
		char *end;
		unsigned long job = strtoul(c->job, &end, 16);

		if (*end || end == c->job || job == 0 || job > UINT32_MAX)
			return gw_fail(why, -EINVAL, "'%s' is not the id of a job, such as 3fa85f64; 'godwit status' shows it", c->job);
		rt_socket_name(name, (uint32_t)job, -1);
		n = gw_connect_unix(name, why);
		if (n == -ECONNREFUSED)
			return gw_fail(why, -ENOENT, "no job %08lx of user %u runs on this host", job, (unsigned)geteuid());
		return check_awake(n, why);
	}
	if (n == 0)
		return gw_fail(why, -ENOENT, "no job of user %u runs on this host; start one with mpirun", (unsigned)geteuid());
	if (n > 1) {
		char list[256];
		size_t at = 0;

		for (int i = 0; i < n && i < (int)GW_ARRAY_LEN(jobs) && at < sizeof(list) - 16; i++)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%08x", i ? ", " : "", jobs[i]);
		return gw_fail(why, -ENOTUNIQ, "%d jobs of user %u run on this host (%s); choose one with --job", n,
		               (unsigned)geteuid(), list);
	}
	rt_socket_name(name, jobs[0], -1);
	return check_awake(gw_connect_unix(name, why), why);
}

struct talk {
	struct gw_loop *loop;
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

int control_talk(const struct control *c, json_t *request, int (*on_answer)(void *ctx, json_t *msg), void *ctx,
                 struct gw_error *why)
{
	struct talk t = { .on_answer = on_answer, .ctx = ctx, .why = why };
	struct gw_link *link;
	int fd = control_connect(c, why), code;

	if (fd < 0) {
		json_decref(request);
		return fd;
	}
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
	if (gw_link_send_json(link, request) == 0)
		code = gw_loop_run(t.loop);
	else
		code = gw_fail(why, -EPIPE, "the job has ended");
	gw_link_destroy(link);
	gw_loop_destroy(t.loop);
	return code;
}

static const struct { const char *name; int (*run)(int argc, char **argv); } commands[] = {
	{ "status", control_status },
	{ "migrate", control_migrate },
};

static const char doc[] =
"godwit - look at running MPI jobs and move their ranks\v"
"Commands:\n"
"  status [--json]                 clusters, ranks and where each lives\n"
"  migrate RANK... --to CLUSTER    move ranks, now\n"
"\n"
"'godwit COMMAND --help' tells more. A job is started with mpirun; when several of yours run on this host, --job says "
"which one is meant.";

struct args { int command; };

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		for (size_t i = 0; i < GW_ARRAY_LEN(commands); i++)
			if (strcmp(arg, commands[i].name) == 0) {
				a->command = (int)i;
				state->argv[state->next - 1] = arg;
				return ARGP_KEY_SUCCESS;
			}
		argp_error(state, "there is no command '%s'", arg);
		return EINVAL;
	case ARGP_KEY_NO_ARGS:
		argp_usage(state);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = { NULL, parse_option, "COMMAND [ARG...]", doc, NULL, NULL, NULL };
	struct args a = { .command = -1 };
	int first = argc;

	gw_log_init("godwit");
	argp_err_exit_status = 2;
	/* options before the command are ours, those after it the command's */
	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-') {
			first = i;
			break;
		}
	argp_parse(&argp, first < argc ? first + 1 : argc, argv, ARGP_IN_ORDER, NULL, &a);
	if (a.command < 0)
		return 2;
	return commands[a.command].run(argc - first, argv + first);
}
