/* SPDX-License-Identifier: BSD-2-Clause */
/* The PMI-1 server side: a bounded line parser, one handler for each command, the state that moves. */
#include "mpi-shim/pmi.h"

#include <stdlib.h>

#define PMI_FIELDS_MAX 16

struct pmi_session {
	struct pmi_job *job;
	uint32_t appnum;
	const struct pmi_ops *ops;
	void *ctx;
	enum pmi_phase phase;

	char line[PMI_LINE_MAX];      /* bytes without a newline yet */
	size_t len;

	uint64_t barriers;            /* barriers that it has entered */
	bool waits_barrier;
	json_t *puts;                 /* since the last barrier that is complete */

	uint64_t asks;                /* questions so far */
	json_t *waits_ask;            /* {what, args}, or NULL */
	json_t *waits_get;            /* key of a get that came before the news of a barrier that the rank has left, or NULL */

	json_t *spawn;                /* commands of a multi-line spawn so far, or NULL: not inside one */
	size_t spawn_bytes;
	bool in_spawn;

	bool in_line;                 /* a command is being handled: it is not in the socket any more, nor in the state yet */
};

/* A line "cmd=put key=a value=1", cut in place. */
struct fields {
	size_t n;
	const char *key[PMI_FIELDS_MAX], *value[PMI_FIELDS_MAX];
};

static void cut_fields(struct fields *f, char *line)
{
	char *save = NULL;

	f->n = 0;
	for (char *t = strtok_r(line, " ", &save); t && f->n < PMI_FIELDS_MAX; t = strtok_r(NULL, " ", &save)) {
		char *eq = strchr(t, '=');

		if (!eq)
			continue;
		*eq = '\0';
		f->key[f->n] = t;
		f->value[f->n++] = eq + 1;
	}
}

static const char *field(const struct fields *f, const char *key)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->key[i], key) == 0)
			return f->value[i];
	return NULL;
}

GW_PRINTF(2, 3) static void reply(struct pmi_session *s, const char *fmt, ...)
{
	char line[PMI_LINE_MAX + PMI_VALUE_MAX];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n > sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	s->ops->reply(s->ctx, line, (size_t)n);
}

static void set_phase(struct pmi_session *s, enum pmi_phase phase)
{
	s->phase = phase;
	s->ops->phase(s->ctx, phase);
}

static int allow(struct pmi_session *s, enum pmi_saying what, const char *key, struct gw_error *why)
{
	return s->ops->allow ? s->ops->allow(s->ctx, what, key, why) : 0;
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

static int do_init(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *version = field(f, "pmi_version");
	int code = allow(s, PMI_SAYS_INIT, NULL, why);

	if (code < 0)
		return code;
	if (!version || strcmp(version, "1") != 0) {
		reply(s, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=-1");
		return 0;
	}
	set_phase(s, PMI_OPEN);
	reply(s, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0");
	return 0;
}

static int do_get_maxes(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	(void)f; (void)why;
	reply(s, "cmd=maxes kvsname_max=%d keylen_max=%d vallen_max=%d", PMI_KVSNAME_MAX, PMI_KEY_MAX, PMI_VALUE_MAX);
	return 0;
}

static int do_get_appnum(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	(void)f; (void)why;
	reply(s, "cmd=appnum appnum=%u", s->appnum);
	return 0;
}

static int do_get_my_kvsname(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	(void)f; (void)why;
	reply(s, "cmd=my_kvsname kvsname=%s", s->job->kvsname);
	return 0;
}

static int do_get_universe_size(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	(void)f; (void)why;
	reply(s, "cmd=universe_size size=%d", s->job->universe);
	return 0;
}

static int do_put(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *kvs = field(f, "kvsname"), *key = field(f, "key"), *value = field(f, "value");
	int code = allow(s, PMI_SAYS_PUT, key ? key : "", why);

	if (code < 0)
		return code;
	if (!kvs || strcmp(kvs, s->job->kvsname) != 0)
		reply(s, "cmd=put_result rc=-1 msg=kvs_%s_not_found", kvs ? kvs : "");
	else if (!key || !*key || !value || strlen(key) >= PMI_KEY_MAX || strlen(value) >= PMI_VALUE_MAX)
		reply(s, "cmd=put_result rc=-1 msg=invalid_keyval");
	else if (json_object_set_new(s->puts, key, json_string(value)) < 0) /* also what is not UTF-8 */
		reply(s, "cmd=put_result rc=-1 msg=invalid_keyval");
	else
		reply(s, "cmd=put_result rc=0 msg=success");
	return 0;
}

static void answer_get(struct pmi_session *s, const char *key)
{
	const char *value = json_string_value(json_object_get(s->puts, key)); /* its own, before the barrier */

	if (!value)
		value = json_string_value(json_object_get(s->job->space, key));
	if (value)
		reply(s, "cmd=get_result rc=0 msg=success value=%s", value);
	else
		reply(s, "cmd=get_result rc=-1 msg=key_%s_not_found value=unknown", key);
}

static int do_get(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *kvs = field(f, "kvsname"), *key = field(f, "key");

	if (!kvs || strcmp(kvs, s->job->kvsname) != 0) {
		reply(s, "cmd=get_result rc=-1 msg=kvs_%s_not_found value=unknown", kvs ? kvs : "");
		return 0;
	}
	/* It left a barrier elsewhere and has moved here since, faster than the news of that barrier: they will come. */
	if (s->job->barriers_done < s->barriers && !s->waits_barrier) {
		if (s->waits_get)
			return gw_fail(why, -EPROTO, "asked for a key while it waits for another one");
		s->waits_get = json_string(key ? key : "");
		return s->waits_get ? 0 : gw_fail(why, -EPROTO, "asked for a key that is not UTF-8");
	}
	answer_get(s, key ? key : "");
	return 0;
}

static int do_barrier_in(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	(void)f;
	if (s->waits_barrier)
		return gw_fail(why, -EPROTO, "entered a barrier while it waits in one");
	s->barriers++;
	s->waits_barrier = true;
	s->ops->barrier(s->ctx, s->barriers, s->puts);
	return 0;
}

static int do_finalize(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	int code = allow(s, PMI_SAYS_FINALIZE, NULL, why);

	(void)f;
	if (code < 0)
		return code;
	reply(s, "cmd=finalize_ack");
	set_phase(s, PMI_FINALIZED);
	return 0;
}

static int do_abort(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *code = field(f, "exitcode"), *message = field(f, "error_msg");

	(void)why;
	s->ops->abort(s->ctx, code ? atoi(code) : 1, message ? message : "");
	return 0;
}

static int ask(struct pmi_session *s, const char *what, json_t *args, struct gw_error *why)
{
	if (s->waits_ask || !args) {
		json_decref(args);
		return args ? gw_fail(why, -EPROTO, "asked for '%s' while it waits for an answer", what)
		            : gw_fail(why, -EPROTO, "asked for '%s' with words that are not UTF-8", what);
	}
	s->asks++;
	s->waits_ask = json_pack("{s:s, s:O}", "what", what, "args", args);
	if (!s->waits_ask) {
		json_decref(args);
		return gw_fail(why, -ENOMEM, "no memory to ask for '%s'", what);
	}
	s->ops->ask(s->ctx, s->asks, what, args);
	json_decref(args);
	return 0;
}

static int do_publish(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *service = field(f, "service"), *port = field(f, "port");

	return ask(s, "publish", json_pack("{s:s, s:s}", "service", service ? service : "", "port", port ? port : ""), why);
}

static int do_lookup(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *service = field(f, "service");

	return ask(s, "lookup", json_pack("{s:s}", "service", service ? service : ""), why);
}

static int do_unpublish(struct pmi_session *s, const struct fields *f, struct gw_error *why)
{
	const char *service = field(f, "service");

	return ask(s, "unpublish", json_pack("{s:s}", "service", service ? service : ""), why);
}

static const struct command {
	const char *name;
	int (*handle)(struct pmi_session *s, const struct fields *f, struct gw_error *why);
} commands[] = {
	{ "init", do_init },
	{ "get_maxes", do_get_maxes },
	{ "get_appnum", do_get_appnum },
	{ "get_my_kvsname", do_get_my_kvsname },
	{ "get_universe_size", do_get_universe_size },
	{ "put", do_put },
	{ "get", do_get },
	{ "barrier_in", do_barrier_in },
	{ "finalize", do_finalize },
	{ "abort", do_abort },
	{ "publish_name", do_publish },
	{ "lookup_name", do_lookup },
	{ "unpublish_name", do_unpublish },
};

/* ---- spawn: mcmd=spawn, one key=value on each line, endcmd; several of them for one MPI_Comm_spawn_multiple ------- */

static int spawn_line(struct pmi_session *s, char *line, struct gw_error *why)
{
	json_t *one;
	char *eq;

	if (strncmp(line, "mcmd=", 5) == 0) {
		if (strcmp(line + 5, "spawn") != 0)
			return gw_fail(why, -EPROTO, "unknown multi-line command '%.64s'", line + 5);
		if (!s->spawn)
			s->spawn = json_array();
		if (json_array_append_new(s->spawn, json_object()) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a spawn command");
		s->in_spawn = true;
		return 0;
	}
	one = json_array_get(s->spawn, json_array_size(s->spawn) - 1);
	if (strcmp(line, "endcmd") == 0) {
		const char *total = json_string_value(json_object_get(one, "totspawns"));
		const char *sofar = json_string_value(json_object_get(one, "spawnssofar"));
		json_t *all;

		s->in_spawn = false;
		if (total && sofar && atoi(sofar) < atoi(total))
			return 0;
		all = json_pack("{s:o}", "commands", s->spawn);
		s->spawn = NULL;
		s->spawn_bytes = 0;
		return ask(s, "spawn", all, why);
	}
	s->spawn_bytes += strlen(line);
	eq = strchr(line, '=');
	if (!eq || s->spawn_bytes > PMI_SPAWN_MAX)
		return gw_fail(why, -EPROTO, "a spawn command is %s", eq ? "too long" : "malformed");
	*eq = '\0';
	if (json_object_set_new(one, line, json_string(eq + 1)) < 0)
		return gw_fail(why, -EPROTO, "a spawn command has words that are not UTF-8");
	return 0;
}

static int handle_line(struct pmi_session *s, char *line, struct gw_error *why)
{
	char shown[65];
	struct fields f;
	const char *cmd;

	if (!*line)
		return 0;
	if (s->in_spawn || strncmp(line, "mcmd=", 5) == 0)
		return spawn_line(s, line, why);
	snprintf(shown, sizeof(shown), "%s", line);
	cut_fields(&f, line);
	cmd = field(&f, "cmd");
	for (size_t i = 0; cmd && i < GW_ARRAY_LEN(commands); i++)
		if (strcmp(cmd, commands[i].name) == 0)
			return commands[i].handle(s, &f, why);
	return gw_fail(why, -EPROTO, "sent a line that is not PMI-1: '%s'", shown);
}

/* ---- verbs ----------------------------------------------------------------------------------------------------- */

int pmi_job_init(struct pmi_job *job, const char *kvsname, uint32_t size, int32_t universe)
{
	memset(job, 0, sizeof(*job));
	snprintf(job->kvsname, sizeof(job->kvsname), "%s", kvsname);
	job->size = size;
	job->universe = universe;
	job->space = json_object();
	return job->space ? 0 : -ENOMEM;
}

void pmi_job_fini(struct pmi_job *job)
{
	json_decref(job->space);
	job->space = NULL;
}

int pmi_job_barrier_done(struct pmi_job *job, uint64_t number, const json_t *puts)
{
	if (number <= job->barriers_done)
		return 0;
	if (json_object_update(job->space, (json_t *)(uintptr_t)puts) < 0)
		return -ENOMEM;
	job->barriers_done = number;
	return 0;
}

int pmi_session_create(struct pmi_session **out, struct pmi_job *job, uint32_t appnum, const struct pmi_ops *ops,
                       void *ctx)
{
	struct pmi_session *s = calloc(1, sizeof(*s));

	if (s)
		s->puts = json_object();
	if (!s || !s->puts) {
		free(s);
		return -ENOMEM;
	}
	s->job = job;
	s->appnum = appnum;
	s->ops = ops;
	s->ctx = ctx;
	*out = s;
	return 0;
}

void pmi_session_destroy(struct pmi_session *s)
{
	if (!s)
		return;
	json_decref(s->puts);
	json_decref(s->waits_ask);
	json_decref(s->waits_get);
	json_decref(s->spawn);
	free(s);
}

enum pmi_phase pmi_session_phase(const struct pmi_session *s)
{
	return s->phase;
}

int pmi_session_feed(struct pmi_session *s, const char *bytes, size_t len, struct gw_error *why)
{
	for (size_t i = 0; i < len; i++) {
		int code;

		if (bytes[i] == '\0')
			return gw_fail(why, -EPROTO, "sent a NUL byte where a PMI line should be");
		if (bytes[i] != '\n') {
			if (s->len == sizeof(s->line) - 1)
				return gw_fail(why, -EPROTO, "sent a PMI line of more than %d bytes", PMI_LINE_MAX - 1);
			s->line[s->len++] = bytes[i];
			continue;
		}
		s->line[s->len] = '\0';
		s->len = 0;
		s->in_line = true;
		code = handle_line(s, s->line, why);
		s->in_line = false;
		if (code < 0)
			return code;
	}
	return 0;
}

void pmi_session_resume(struct pmi_session *s)
{
	if (s->job->barriers_done < s->barriers)
		return;
	if (s->waits_get) {
		answer_get(s, json_string_value(s->waits_get));
		json_decref(s->waits_get);
		s->waits_get = NULL;
	}
	if (!s->waits_barrier)
		return;
	s->waits_barrier = false;
	json_object_clear(s->puts);
	reply(s, "cmd=barrier_out");
}

void pmi_session_answer(struct pmi_session *s, uint64_t id, const json_t *answer)
{
	const char *what, *port = json_string_value(json_object_get(answer, "port"));
	const char *message = json_string_value(json_object_get(answer, "msg"));
	int rc = (int)json_integer_value(json_object_get(answer, "rc"));

	if (!s->waits_ask || id != s->asks)
		return; /* of a question that was answered before: the rank has moved meanwhile */
	what = json_string_value(json_object_get(s->waits_ask, "what"));
	if (!message)
		message = rc ? "failed" : "success";
	if (strcmp(what, "lookup") == 0 && rc == 0)
		reply(s, "cmd=lookup_result port=%s info=ok rc=0 msg=%s", port ? port : "", message);
	else
		reply(s, "cmd=%s_result info=ok rc=%d msg=%s", what, rc, message);
	json_decref(s->waits_ask);
	s->waits_ask = NULL;
}

void pmi_session_repeat(struct pmi_session *s)
{
	if (s->waits_barrier && s->job->barriers_done < s->barriers)
		s->ops->barrier(s->ctx, s->barriers, s->puts);
	else
		pmi_session_resume(s);
	if (s->waits_ask)
		s->ops->ask(s->ctx, s->asks, json_string_value(json_object_get(s->waits_ask, "what")),
		            json_object_get(s->waits_ask, "args"));
}

/* The unparsed bytes are part of a line and may end inside a character: they travel as hex. */
json_t *pmi_session_export(const struct pmi_session *s)
{
	char hex[2 * PMI_LINE_MAX + 1];
	json_t *out;

	if (s->in_line)
		return NULL;
	for (size_t i = 0; i < s->len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)s->line[i]);
	hex[2 * s->len] = '\0';
	out = json_pack("{s:i, s:i, s:I, s:b, s:O, s:I, s:b, s:I, s:s}", "appnum", (int)s->appnum, "phase", (int)s->phase,
	                "barriers", (json_int_t)s->barriers, "waits_barrier", (int)s->waits_barrier, "puts", s->puts, "asks",
	                (json_int_t)s->asks, "in_spawn", (int)s->in_spawn, "spawn_bytes", (json_int_t)s->spawn_bytes,
	                "line", hex);
	if (out && s->waits_ask)
		json_object_set(out, "waits_ask", s->waits_ask);
	if (out && s->waits_get)
		json_object_set(out, "waits_get", s->waits_get);
	if (out && s->spawn)
		json_object_set(out, "spawn", s->spawn);
	return out;
}

int pmi_session_import(struct pmi_session *s, const json_t *state)
{
	int appnum, phase, waits_barrier, in_spawn;
	json_int_t barriers, asks, spawn_bytes;
	json_t *puts, *waits_ask = NULL, *waits_get = NULL, *spawn = NULL;
	const char *hex;
	size_t len;

	if (json_unpack((json_t *)(uintptr_t)state, "{s:i, s:i, s:I, s:b, s:o, s:I, s:b, s:I, s:s, s?o, s?o, s?o}", "appnum",
	                &appnum, "phase", &phase, "barriers", &barriers, "waits_barrier", &waits_barrier, "puts", &puts, "asks", &asks, "in_spawn",
	                &in_spawn, "spawn_bytes", &spawn_bytes, "line", &hex, "waits_ask", &waits_ask, "waits_get", &waits_get,
	                "spawn", &spawn) < 0)
		return -EPROTO;
	len = strlen(hex);
	if (phase < PMI_SILENT || phase > PMI_FINALIZED || !json_is_object(puts) || len % 2 || len / 2 >= PMI_LINE_MAX ||
	    strspn(hex, "0123456789abcdef") != len || (in_spawn && json_array_size(spawn) == 0) ||
	    (waits_get && !json_is_string(waits_get)) ||
	    (waits_ask && (!json_is_string(json_object_get(waits_ask, "what")) || !json_object_get(waits_ask, "args"))))
		return -EPROTO;
	for (size_t i = 0; i < len / 2; i++) {
		char two[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		s->line[i] = (char)strtoul(two, NULL, 16);
	}
	s->len = len / 2;
	s->appnum = (uint32_t)appnum;
	s->phase = (enum pmi_phase)phase;
	s->barriers = (uint64_t)barriers;
	s->waits_barrier = waits_barrier;
	s->asks = (uint64_t)asks;
	s->in_spawn = in_spawn;
	s->spawn_bytes = (size_t)spawn_bytes;
	json_decref(s->puts);
	s->puts = json_deep_copy(puts);
	json_decref(s->waits_ask);
	s->waits_ask = json_incref(waits_ask);
	json_decref(s->waits_get);
	s->waits_get = json_incref(waits_get);
	json_decref(s->spawn);
	s->spawn = spawn ? json_deep_copy(spawn) : NULL;
	return s->puts ? 0 : -ENOMEM;
}
