/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit up: a keeper on each host of a pool, by ssh or what stands for it. */
#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/base/trust.h"
#include "runtime/control/pool.h"
#include "runtime/launcher/starter.h"

#define UP_MS   60000
#define END_MS  8000

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

struct up {
	struct gw_loop *loop;
	struct job_spec spec;    /* hosts and launcher, as mpirun has them */
	const char *name, *log;
	bool is_added;
	struct up_host { struct up *up; const char *name; struct starter *process; json_t *keeper; bool is_ready; } *hosts;
	uint32_t number;
	uint8_t secret[GW_TRUST_SECRET];
	json_t *members;         /* of a pool that is joined */
	json_int_t leader;
	struct gw_error *why;
	bool is_staying;
};

static void give_up(struct up *u, const char *text)
{
	gw_loop_stop(u->loop, gw_fail(u->why, -EIO, "%s", text));
}

static bool is_all(const struct up *u, bool is_ready)
{
	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		if (is_ready ? !u->hosts[i].is_ready : !u->hosts[i].keeper)
			return false;
	return true;
}

static void write_all(struct up *u, const char *text)
{
	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		if (starter_write(u->hosts[i].process, text) < 0)
			give_up(u, "a keeper does not listen any more");
}

static void introduce(struct up *u)
{
	json_t *members = u->members ? json_deep_copy(u->members) : json_array(), *all;
	gw_autofree char *text = NULL, *line = NULL;

	for (uint32_t i = 0; !u->members && i < u->spec.n_hosts; i++)
		json_array_append(members, u->hosts[i].keeper);
	all = json_pack("{s:o}", "members", members);
	if (u->members)
		json_object_set_new(all, "leader", json_integer(u->leader));
	text = json_dumps(all, JSON_COMPACT);
	json_decref(all);
	if (asprintf(&line, "pool %s\n", text) >= 0)
		write_all(u, line);
}

static void on_said(void *ctx, const char *line)
{
	struct up_host *h = ctx;
	struct up *u = h->up;

	if (strncmp(line, "keeper ", 7) == 0 && !h->keeper) {
		h->keeper = json_loads(line + 7, 0, NULL);
		if (is_all(u, false))
			introduce(u);
	} else if (strcmp(line, "ready") == 0) {
		h->is_ready = true;
		if (is_all(u, true)) {
			u->is_staying = true;
			write_all(u, "stay\n");
			gw_loop_stop(u->loop, 1);
		}
	} else if (!u->why->code) {
		fprintf(stderr, "godwit: host %s: %s\n", h->name, line);
	}
}

/* What a keeper says is answered: nothing is held but what comes last before an early end. */
static bool on_heard(void *ctx, const char *line)
{
	if (strncmp(line, "keeper ", 7) != 0 && strcmp(line, "ready") != 0)
		return false;
	on_said(ctx, line);
	return true;
}

static void on_ended(void *ctx)
{
	struct up_host *h = ctx;
	struct up *u = h->up;

	if (u->is_staying || u->why->code)
		return;
	starter_explain(u->spec.is_forked ? STARTER_HERE : u->spec.launcher, h->name, starter_status(h->process), starter_held(h->process),
	                u->why);
	starter_hold(h->process, "");
	gw_loop_stop(u->loop, u->why->code);
}

static const struct starter_ops starter_ops = { .said = on_said, .ended = on_ended, .heard = on_heard };

static void on_deadline(void *ctx)
{
	struct up *u = ctx;
	char text[600] = "the pool has not come up within 60 s";

	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		if (!u->hosts[i].is_ready)
			snprintf(text, sizeof(text), "host %s: its keeper has not %s within %d s%s%s", u->hosts[i].name,
			         u->hosts[i].keeper ? "found the others" : "come", UP_MS / 1000,
			         starter_held(u->hosts[i].process)[0] ? ": " : "", starter_held(u->hosts[i].process));
	give_up(u, text);
}

/* By what name of another host a keeper finds the address that it has there */
static const char *toward(const struct up *u, uint32_t i)
{
	if (u->spec.is_forked)
		return "127.0.0.1";
	if (u->members)
		return text_of(json_array_get(u->members, 0), "address");
	for (uint32_t k = 0; k < u->spec.n_hosts; k++)
		if (k != i && !hosts_is_here(u->spec.hosts[k].name))
			return u->spec.hosts[k].name;
	return u->spec.n_hosts > 1 ? u->spec.hosts[i ? 0 : 1].name : hosts_is_here(u->spec.hosts[0].name) ? "127.0.0.1" :
	       u->spec.hosts[0].name;
}

static int start_host(struct up *u, uint32_t i, const char *path)
{
	struct up_host *h = &u->hosts[i];
	bool is_here = u->spec.is_forked || hosts_is_here(h->name);
	gw_autofree char *daemon = starter_quote(path), *name = starter_quote(h->name), *near = starter_quote(toward(u, i)), *line = NULL;
	gw_autofree char *log = u->log ? starter_quote(u->log) : NULL;
	char secret[GW_TRUST_SECRET_HEX + 1];
	struct strings argv = { 0 };
	int code;

	h->up = u;
	if (asprintf(&line, "exec %s --pool=%s --number=%08x --index=%u --host=%s --slots=%u --toward=%s%s%s", daemon, u->name, u->number,
	             (u->members ? 0x3000 : 0) + i, name, u->spec.hosts[i].slots, near, log ? " --log=" : "", log ? log : "") < 0)
		abort();
	starter_words(&argv, is_here ? STARTER_HERE : u->spec.launcher, h->name, line);
	gw_trust_secret_print(secret, u->secret);
	strcat(secret, "\n");
	code = starter_start(&h->process, u->loop, h->name, argv.list, secret, NULL, &starter_ops, h, u->why);
	explicit_bzero(secret, sizeof(secret));
	strings_fini(&argv);
	return code;
}

static int own_daemon(char *buf, size_t cap)
{
	ssize_t n = readlink("/proc/self/exe", buf, cap - 16);
	char *slash;

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	slash = strrchr(buf, '/');
	strcpy(slash ? slash + 1 : buf, "godwitd");
	return access(buf, X_OK) < 0 ? -errno : 0;
}

/* A host has one keeper of a pool: what would start there again is told before anything is. */
static int check_new(struct up *u)
{
	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		for (size_t k = 0; k < json_array_size(u->members); k++) {
			const json_t *m = json_array_get(u->members, k);

			if (strcmp(text_of(m, "host"), u->spec.hosts[i].name) != 0)
				continue;
			if (json_is_true(json_object_get(m, "leaving")))
				return gw_fail(u->why, -EEXIST, "host %s is about to leave pool '%s'; add it again when it has ('godwit leave --wait %s' "
				               "waits for that)", u->spec.hosts[i].name, u->name, u->spec.hosts[i].name);
			return gw_fail(u->why, -EEXIST, "host %s is in pool '%s' already; nothing was added", u->spec.hosts[i].name, u->name);
		}
	return 0;
}

static int prepare(struct up *u)
{
	json_t *answer = NULL;
	int code;

	if (!u->is_added) {
		struct pool_place place;
		int fd = pool_connect(u->name, &place, &(struct gw_error){ 0 });

		if (fd >= 0) {
			close(fd);
			return gw_fail(u->why, -EEXIST, "there is a pool '%s' on this host already; --name names another one, --add adds hosts to "
			               "it, 'godwit down %s' ends it", u->name, u->name);
		}
		if (getrandom(&u->number, sizeof(u->number), 0) != sizeof(u->number))
			return gw_fail(u->why, -EIO, "no random numbers");
		return gw_trust_secret_make(u->secret);
	}
	code = control_ask_keeper(u->name, json_pack("{s:s}", "op", "introduce"), false, &answer, u->why);
	if (code < 0)
		return code;
	u->number = (uint32_t)json_integer_value(json_object_get(answer, "number"));
	u->leader = json_integer_value(json_object_get(answer, "leader"));
	u->members = json_incref(json_object_get(answer, "members"));
	if (check_new(u) < 0) {
		json_decref(answer);
		return u->why->code;
	}
	code = gw_trust_secret_parse(u->secret, text_of(answer, "secret"));
	json_decref(answer);
	return code < 0 ? gw_fail(u->why, code, "the keeper's answer is not understood") : 0;
}

static int bring_up(struct up *u)
{
	struct gw_timer *deadline = NULL;
	char path[4096];
	uint64_t end;
	int code = own_daemon(path, sizeof(path));

	if (code < 0)
		return gw_fail(u->why, code, "the daemon '%s' cannot be executed: %s", path, strerror(-code));
	code = prepare(u);
	if (code == 0)
		code = gw_loop_create(&u->loop);
	u->hosts = code == 0 ? calloc(u->spec.n_hosts, sizeof(*u->hosts)) : NULL;
	if (!u->hosts)
		return u->why->code ? u->why->code : gw_fail(u->why, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		u->hosts[i].name = u->spec.hosts[i].name;
	for (uint32_t i = 0; i < u->spec.n_hosts && code == 0; i++)
		code = start_host(u, i, path);
	if (code == 0)
		code = gw_loop_timer(u->loop, &deadline, UP_MS, 0, on_deadline, u);
	if (code == 0)
		code = gw_loop_run(u->loop);
	gw_timer_cancel(deadline);
	end = gw_now_ns() + END_MS * 1000000ull;
	for (uint32_t i = 0; i < u->spec.n_hosts; i++)
		if (!u->is_staying) /* its end: the keeper's standard input has ended */
			starter_close(u->hosts[i].process);
	for (uint32_t i = 0; i < u->spec.n_hosts; i++) {
		starter_destroy(u->hosts[i].process, end);
		json_decref(u->hosts[i].keeper);
	}
	free(u->hosts);
	json_decref(u->members);
	gw_loop_destroy(u->loop);
	explicit_bzero(u->secret, sizeof(u->secret));
	return code < 0 ? code : 0;
}

enum { KEY_NAME = 256, KEY_HOSTS, KEY_LAUNCHER, KEY_LOG, KEY_ADD };

static const struct argp_option up_options[] = {
	{ "hosts", KEY_HOSTS, "HOST[:N],...", 0, "The hosts, and how many slots (ranks) each has; default 1", 0 },
	{ "hostfile", 'f', "FILE", 0, "The same from a file, one HOST, HOST:N or HOST slots=N a line", 0 },
	{ "launcher", KEY_LAUNCHER, "X", 0, "How they are reached: ssh (default), a command with %h (host) and %c (what to run), or fork: this "
	  "machine plays all of them", 0 },
	{ "name", KEY_NAME, "NAME", 0, "Of the pool; default 'pool'", 0 },
	{ "add", KEY_ADD, NULL, 0, "Add the hosts to the pool NAME, which has this host", 0 },
	{ "log", KEY_LOG, "FILE", 0, "Where the keepers write their log, on each host; default: nowhere", 0 },
	{ 0 }
};

static error_t parse_up(int key, char *arg, struct argp_state *state)
{
	struct up *u = state->input;
	struct gw_error why = { 0 };

	switch (key) {
	case KEY_HOSTS:
		if (hosts_parse(&u->spec, arg, &why) < 0)
			argp_error(state, "%s", why.text);
		return 0;
	case 'f':
		if (hosts_read(&u->spec, arg, &why) < 0)
			argp_error(state, "%s", why.text);
		return 0;
	case KEY_LAUNCHER:
		u->spec.is_forked = strcmp(arg, "fork") == 0;
		u->spec.launcher = u->spec.is_forked || strcmp(arg, "ssh") == 0 ? NULL : arg;
		if (u->spec.launcher && !strstr(arg, "%h"))
			argp_error(state, "--launcher=%s: there are fork, ssh, and commands in which the words %%h and %%c stand", arg);
		return 0;
	case KEY_NAME:
		u->name = arg;
		return pool_name_check(arg, &why) < 0 ? (argp_error(state, "%s", why.text), EINVAL) : 0;
	case KEY_LOG:
		u->log = arg;
		return 0;
	case KEY_ADD:
		u->is_added = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is not understood; hosts are given with --hosts or -f", arg);
		return EINVAL;
	case ARGP_KEY_END:
		if (!u->spec.n_hosts)
			argp_error(state, "no hosts are named: --hosts a:4,b:4, or -f FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int control_up(int argc, char **argv)
{
	static const struct argp argp = { up_options, parse_up, "", "Start a pool: a keeper on each host, which stays when this command has "
		"ended and starts the daemons of jobs ('mpirun -pool NAME') until 'godwit down'. Long options may begin with one dash.",
		NULL, NULL, NULL };
	struct gw_error why = { 0 };
	struct up u = { .name = "pool", .why = &why };
	uint32_t slots = 0;
	int code;

	argv[0] = (char[]){ "godwit up" };
	signal(SIGPIPE, SIG_IGN);
	argp_parse(&argp, argc, argv, ARGP_LONG_ONLY, NULL, &u);
	code = bring_up(&u);
	if (code == 0) {
		printf("pool '%s': ", u.name);
		for (uint32_t i = 0; i < u.spec.n_hosts; i++) {
			printf("%s%s:%u", i ? ", " : "", u.spec.hosts[i].name, u.spec.hosts[i].slots);
			slots += u.spec.hosts[i].slots;
		}
		printf(" (%u slots%s)\n", slots, u.is_added ? " more" : "");
	}
	hosts_forget(&u.spec);
	return code < 0 ? control_fail(&why) : CONTROL_DONE;
}
