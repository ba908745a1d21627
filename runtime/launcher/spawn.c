/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MPI_Comm_spawn: ranks that a rank asks for. They are ranks of the same job, with the next process numbers, in a world of
 * their own; so they are watched, moved, shown and ended as all others are. Whoever asks is answered when all of them run,
 * or when one cannot be started: then the others of its world end, and the job goes on without them.
 *
 * Names of a job are never used again, and host segments have room for a number of them that is chosen when the job starts.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

/* What the info of one command asks for; the strings are those of the request, or of spec->words. */
struct wish {
	const char *host, *wdir, *path;
};

static const char *text_of(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static long number_of(const json_t *o, const char *key)
{
	const char *text = text_of(o, key);

	return text ? strtol(text, NULL, 10) : 0;
}

uint32_t spawn_room(const struct job_spec *spec)
{
	uint32_t asked = spec->universe > spec->size ? spec->universe - spec->size : 0;
	struct rlimit space;

	/* every rank reserves addresses for all of them: not where these are counted */
	if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
		return asked;
	return asked > SPAWN_ROOM ? asked : SPAWN_ROOM;
}

/* ---- what is asked for ------------------------------------------------------------------------------------------------ */

static const char *keep(struct head *h, const char *text)
{
	return strings_add(&h->spec->words, text) == 0 ? h->spec->words.list[h->spec->words.n - 1] : NULL;
}

static bool take_key(struct wish *w, const char *key, const char *value)
{
	const char **to = strcmp(key, "host") == 0 || strcmp(key, "hosts") == 0 ? &w->host : strcmp(key, "wdir") == 0 ? &w->wdir :
	                  strcmp(key, "path") == 0 ? &w->path : NULL;

	if (to && !*to) /* the info itself comes before its file */
		*to = value;
	return to != NULL;
}

/* The reserved key "file": more keys, a "key = value" to a line, # for a comment. */
static int read_file(struct head *h, struct wish *w, const char *path, struct gw_error *why)
{
	FILE *f = fopen(path, "re");
	gw_autofree char *line = NULL;
	size_t cap = 0;
	int code = 0, number = 0;

	if (!f)
		return gw_fail(why, -errno, "the file '%s' that its info names cannot be read: %s", path, strerror(errno));
	while (code == 0 && getline(&line, &cap, f) > 0) {
		char *key = line + strspn(line, " \t\r\n"), *value = strchr(key, '=');
		const char *kept;

		number++;
		if (!*key || *key == '#')
			continue;
		if (!value) {
			code = gw_fail(why, -EINVAL, "'%s', line %d: a line is KEY = VALUE", path, number);
			break;
		}
		*value++ = '\0';
		key[strcspn(key, " \t")] = '\0';
		value += strspn(value, " \t");
		for (size_t n = strlen(value); n && strchr(" \t\r\n", value[n - 1]);)
			value[--n] = '\0';
		kept = keep(h, value);
		if (!kept)
			code = gw_fail(why, -ENOMEM, "out of memory");
		else if (!take_key(w, key, kept))
			code = gw_fail(why, -EINVAL, "'%s', line %d: '%s' is not known; there are host, wdir and path", path, number, key);
	}
	fclose(f);
	return code;
}

static int read_info(struct head *h, const json_t *command, struct wish *w, struct gw_error *why)
{
	long n = number_of(command, "info_num");
	const char *file = NULL;

	for (long i = 0; i < n; i++) {
		char name[32];
		const char *key, *value;

		snprintf(name, sizeof(name), "info_key_%ld", i);
		key = text_of(command, name);
		snprintf(name, sizeof(name), "info_val_%ld", i);
		value = text_of(command, name);
		if (!key || !value)
			return gw_fail(why, -EPROTO, "its info is malformed");
		if (strcmp(key, "file") == 0)
			file = value;
		else
			take_key(w, key, value); /* MPI wants keys that are not known to be ignored */
	}
	return file ? read_file(h, w, file, why) : 0;
}

/* The first "DIR/<program>" of @path, a list with ':', that can be executed; else the first of all: its host may differ. */
static int find_in_path(const char *path, const char *program, char *buf, size_t cap)
{
	char first[4096] = "";

	for (const char *at = path; *at; at += strcspn(at, ":"), at += *at == ':') {
		if ((size_t)snprintf(buf, cap, "%.*s/%s", (int)strcspn(at, ":"), at, program) >= cap)
			return -ENAMETOOLONG;
		if (access(buf, X_OK) == 0)
			return 0;
		if (!first[0])
			snprintf(first, sizeof(first), "%s", buf);
	}
	snprintf(buf, cap, "%s", first[0] ? first : program);
	return 0;
}

/* One command becomes a program of the job: environment and directory are those of the rank that asks. */
static int add_app(struct head *h, uint32_t rank, const json_t *command, const struct wish *w, struct gw_error *why)
{
	struct job_spec *spec = h->spec;
	struct app *more = realloc(spec->apps, (spec->n_apps + 1) * sizeof(*more)), *app;
	const char *program = text_of(command, "execname");
	long argc = number_of(command, "argcnt");
	char path[4096];
	int code = 0;

	if (!more)
		return gw_fail(why, -ENOMEM, "out of memory");
	spec->apps = more;
	app = &spec->apps[spec->n_apps++];
	*app = (struct app){ .n = (uint32_t)number_of(command, "nprocs") };
	app->inherit = spec->apps[h->ranks[rank].app].inherit;
	app->inherit_list = spec->apps[h->ranks[rank].app].inherit_list;
	app->wdir = w->wdir ? keep(h, w->wdir) : spec->apps[h->ranks[rank].app].wdir;
	for (size_t i = 0; i < spec->apps[h->ranks[rank].app].env.n && code == 0; i++)
		code = strings_add(&app->env, spec->apps[h->ranks[rank].app].env.list[i]);
	if (w->path && !strchr(program, '/')) {
		if (find_in_path(w->path, program, path, sizeof(path)) < 0)
			return gw_fail(why, -ENAMETOOLONG, "its path is too long");
		program = path;
	}
	if (code == 0)
		code = strings_add(&app->argv, program);
	for (long i = 1; i <= argc && code == 0; i++) {
		char key[32];

		snprintf(key, sizeof(key), "arg%ld", i);
		code = strings_add(&app->argv, text_of(command, key) ? text_of(command, key) : "");
	}
	return code < 0 || (w->wdir && !app->wdir) ? gw_fail(why, -ENOMEM, "out of memory") : 0;
}

/* ---- where they begin -------------------------------------------------------------------------------------------------- */

static bool is_named(const struct head *h, const struct host *host, const char *list)
{
	char name[256];

	for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',') {
		size_t n = strcspn(at, ",");

		snprintf(name, sizeof(name), "%.*s", (int)n, at);
		if (clusters_is_host(host, name) || (h->n_hosts == 1 && strcmp(name, "localhost") == 0))
			return true;
	}
	return false;
}

static uint32_t slots_of(const struct head *h, uint32_t host)
{
	if (h->hosts[host].slots)
		return h->hosts[host].slots;
	return h->spec->has_slots && host < h->spec->n_hosts && h->spec->hosts[host].slots ? h->spec->hosts[host].slots : 1;
}

/* Where a rank has most room: its host for its slots, then its cluster for its cores. */
static int choose(const struct head *h, const char *hosts, uint32_t *cluster, struct gw_error *why)
{
	uint64_t best_host = UINT64_MAX, best = UINT64_MAX;
	char list[CLUSTERS_HOSTS_MAX];
	bool is_known = false;

	for (uint32_t c = 0; c < h->n_clusters; c++) {
		const struct cluster *cl = &h->clusters[c];
		uint64_t of_host = 1, of_cluster = 1;

		if (hosts && !is_named(h, &h->hosts[cl->host], hosts))
			continue;
		is_known = true;
		if (cl->state != CLUSTER_UP || cl->is_drained || layout_is_service(h, c))
			continue;
		for (uint32_t r = 0; r < h->size; r++)
			if (h->ranks[r].state != RANK_ENDED) {
				of_cluster += h->ranks[r].cluster == c;
				of_host += h->clusters[h->ranks[r].cluster].host == cl->host;
			}
		of_host = of_host * 65536 / slots_of(h, cl->host);
		of_cluster = of_cluster * 65536 / (cl->cores.cores ? cl->cores.cores : 1);
		if (of_host < best_host || (of_host == best_host && of_cluster < best)) {
			best_host = of_host;
			best = of_cluster;
			*cluster = c;
		}
	}
	if (best != UINT64_MAX)
		return 0;
	if (is_known || !hosts)
		return gw_fail(why, -EBUSY, "no cluster%s%.200s is up and not drained", hosts ? " of " : "", hosts ? hosts : "");
	clusters_hosts(h, list, sizeof(list));
	return gw_fail(why, -ENOENT, "its info names the host '%.200s', and the job runs on %s", hosts, list);
}

/* ---- from the request to the answer --------------------------------------------------------------------------------------- */

static void refuse(struct head *h, uint32_t rank, uint64_t id, const json_t *commands, const char *text)
{
	const char *program = text_of(json_array_get(commands, 0), "execname");

	if (h->is_ending)
		return;
	job_say(h, "mpirun: rank %u cannot spawn '%s': %s", rank, program ? program : "?", text);
	pmi_head_answer(h, rank, id, json_pack("{s:i, s:s}", "rc", -1, "msg", "spawn_failed"));
}

static int check(const struct head *h, const json_t *commands, uint32_t *total, struct gw_error *why)
{
	size_t i;
	json_t *c;

	*total = 0;
	json_array_foreach((json_t *)(uintptr_t)commands, i, c) {
		long n = number_of(c, "nprocs");

		if (!text_of(c, "execname") || n < 0 || n > OPTIONS_RANKS_MAX)
			return gw_fail(why, -EPROTO, "the request is malformed");
		*total += (uint32_t)n;
		if ((uint64_t)*total + h->size + h->n_guests > h->room)
			return gw_fail(why, -ENOSPC, "the job has used %u of its %u process numbers; start it with a larger -usize", h->size,
			               h->room);
	}
	return *total ? 0 : gw_fail(why, -EINVAL, "it asks for no process at all");
}

/* The ranks of the new world, one command after the other. What was added to the job stays there when this fails. */
static int add_ranks(struct head *h, uint32_t parent, const json_t *commands, uint32_t *first_app, struct gw_error *why)
{
	int code = 0;
	size_t i;
	json_t *c;

	*first_app = h->spec->n_apps;
	json_array_foreach((json_t *)(uintptr_t)commands, i, c) {
		struct wish w = { 0 };

		code = read_info(h, c, &w, why);
		if (code == 0)
			code = add_app(h, parent, c, &w, why);
		for (long k = 0; k < number_of(c, "nprocs") && code == 0; k++) {
			struct rank *r = &h->ranks[h->size];

			*r = (struct rank){ .app = h->spec->n_apps - 1, .world = h->n_worlds };
			r->is_pinned = h->spec->pinned && strcmp(h->spec->pinned, "all") == 0;
			code = choose(h, w.host, &r->cluster, why);
			if (code == 0)
				code = output_open(h, h->size, why);
			if (code == 0)
				h->size++;
		}
		if (code < 0)
			return code;
	}
	return h->spec->is_remote ? 0 : limits_check(h, h->n_clusters, why);
}

static void put_all(json_t *space, const json_t *command)
{
	for (long i = 0; i < number_of(command, "preput_num"); i++) {
		char name[32];
		const char *key;

		snprintf(name, sizeof(name), "preput_key_%ld", i);
		key = text_of(command, name);
		snprintf(name, sizeof(name), "preput_val_%ld", i);
		if (key && text_of(command, name))
			json_object_set_new(space, key, json_string(text_of(command, name)));
	}
}

static void give_up(struct head *h, uint32_t world, const char *text)
{
	struct world *w = &h->worlds[world];
	const char *program = h->spec->apps[w->app].argv.list[0];

	if (w->is_failed)
		return;
	w->is_failed = true;
	for (uint32_t r = w->first; r < w->first + w->size; r++)
		if (h->ranks[r].state == RANK_RUNNING)
			signals_send(h, r, SIGKILL);
	if (!w->is_pending || h->is_ending)
		return;
	w->is_pending = false;
	job_say(h, "mpirun: rank %u cannot spawn '%s': %s", w->parent, program, text);
	pmi_head_answer(h, w->parent, w->asked, json_pack("{s:i, s:s}", "rc", -1, "msg", "spawn_failed"));
}

static void rank_over(struct head *h, uint32_t rank)
{
	h->ranks[rank].state = RANK_ENDED;
	h->ended++;
}

void spawn_begin(struct head *h, uint32_t rank, uint64_t id, const json_t *commands)
{
	uint32_t before = h->size, total, first_app;
	struct gw_error why = { 0 };
	struct world *w;
	int world;

	if (h->is_ending)
		return;
	if (h->suspend.state != SUSPEND_NONE) { /* it asked just before: new ranks would run in a job that rests */
		json_array_append_new(h->spawns, json_pack("{s:i, s:I, s:O}", "rank", (int)rank, "id", (json_int_t)id, "commands", commands));
		return;
	}
	if (check(h, commands, &total, &why) < 0 || add_ranks(h, rank, commands, &first_app, &why) < 0) {
		h->size = before; /* nobody has heard of them; programs and lines of output files stay unused */
		refuse(h, rank, id, commands, why.text);
		return;
	}
	world = pmi_head_add(h, total, first_app);
	if (world < 0) {
		h->size = before;
		refuse(h, rank, id, commands, "out of memory");
		return;
	}
	w = &h->worlds[world];
	w->parent = rank;
	w->asked = id;
	w->is_pending = true;
	put_all(w->space, json_array_get(commands, 0));
	gw_event("job.spawn", "{s:i, s:i, s:i, s:i, s:o}", "rank", (int)rank, "world", world, "first", (int)w->first, "size", (int)total, "places",
	         record_places(h, w->first, total));
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].is_start_sent) /* else it is told with `start` */
			pmi_head_tell_world(h, c, (uint32_t)world);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].state == CLUSTER_UP && clusters_launch_range(h, &h->clusters[c], w->first, total, &why) < 0) {
			job_fail(h, 1, "%s", why.text); /* a link that takes no more is about to be lost */
			return;
		}
}

void spawn_resumed(struct head *h)
{
	json_t *waiting = h->spawns, *one;
	size_t i;

	h->spawns = json_array();
	json_array_foreach(waiting, i, one)
		spawn_begin(h, (uint32_t)json_integer_value(json_object_get(one, "rank")),
		            (uint64_t)json_integer_value(json_object_get(one, "id")), json_object_get(one, "commands"));
	json_decref(waiting);
}

void spawn_launched(struct head *h, uint32_t rank)
{
	struct world *w = &h->worlds[h->ranks[rank].world];

	if (w->is_failed) {
		signals_send(h, rank, SIGKILL);
		return;
	}
	if (!w->is_pending || ++w->launched < w->size)
		return;
	w->is_pending = false;
	pmi_head_answer(h, w->parent, w->asked, json_pack("{s:i}", "rc", 0));
}

bool spawn_failed(struct head *h, uint32_t rank, const char *text)
{
	if (rank >= h->size || h->ranks[rank].world == 0)
		return false;
	if (h->ranks[rank].state == RANK_WAITING)
		rank_over(h, rank);
	give_up(h, h->ranks[rank].world, text);
	return true;
}

bool spawn_is_given_up(const struct head *h, uint32_t rank)
{
	return h->worlds[h->ranks[rank].world].is_failed;
}

void spawn_describe(const struct head *h, uint32_t rank, json_t *status)
{
	const struct world *w = &h->worlds[h->ranks[rank].world];

	if (h->ranks[rank].world == 0)
		return;
	json_object_set_new(status, "world", json_integer((json_int_t)h->ranks[rank].world));
	json_object_set_new(status, "world_rank", json_integer((json_int_t)(rank - w->first)));
	json_object_set_new(status, "spawned_by", json_integer((json_int_t)w->parent));
}
