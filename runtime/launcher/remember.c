/* SPDX-License-Identifier: BSD-2-Clause */
/* What a checkpoint says of a job besides its images: options, standard streams, PMI. Written and read here. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/restart.h"

/* ---- written --------------------------------------------------------------------------------------------------------- */

static void put_text(json_t *to, const char *key, const char *text)
{
	if (text)
		json_object_set_new(to, key, checkpoint_text(text, strlen(text)));
}

static json_t *options_json(const struct job_spec *spec)
{
	json_t *o = json_pack("{s:b, s:b}", "carry", (int)spec->is_carrying, "exit_codes", (int)spec->is_printing_codes);

	put_text(o, "label", spec->label);
	put_text(o, "outfile", spec->file[0]);
	put_text(o, "errfile", spec->file[1]);
	put_text(o, "input", spec->input);
	put_text(o, "reconnecting", spec->reconnecting);
	return o;
}

/* Lines that have no end yet: the head has taken them, and nobody has seen them. When it ends it writes them, but files are cut. */
static json_t *lines_json(const struct head *h, bool is_stopping)
{
	json_t *list = json_array();
	uint64_t length;

	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++) {
			const struct joined *j = &h->ranks[r].out[i];

			if (j->line_len && (!is_stopping || sink_written(h->ranks[r].sink[i], &length)))
				json_array_append_new(list, json_pack("{s:i, s:i, s:o}", "rank", (int)r, "stream", i, "text",
				                                      checkpoint_text(j->line, j->line_len)));
		}
	return list;
}

static json_t *outfiles_json(const struct head *h)
{
	json_t *list = json_array();

	gw_list_for(e, (struct gw_list *)(uintptr_t)&h->files_out) {
		uint64_t length;
		const char *path = sink_written(sink_of_node(e), &length);
		gw_autofree char *full = realpath(path, NULL);

		json_array_append_new(list, json_pack("{s:o, s:I}", "path", checkpoint_text(full ? full : path, strlen(full ? full : path)),
		                                      "length", (json_int_t)length));
	}
	return list;
}

/* Files are merged: several ranks may append to one, and not all stood at once. */
static void merge_files(json_t *to, const json_t *images)
{
	const json_t *image, *f;
	json_t *old;
	size_t i, k, n;

	json_array_foreach((json_t *)(uintptr_t)images, i, image)
		json_array_foreach(json_object_get(image, "files"), k, f) {
			old = NULL;
			json_array_foreach(to, n, old)
				if (json_equal(json_object_get(old, "path"), json_object_get(f, "path")) &&
				    json_equal(json_object_get(old, "ino"), json_object_get(f, "ino")))
					break;
			if (n == json_array_size(to))
				json_array_append_new(to, json_deep_copy(f));
			else if (json_integer_value(json_object_get(f, "length")) > json_integer_value(json_object_get(old, "length")))
				json_object_set(old, "length", json_object_get(f, "length"));
		}
}

/* A job that reads a regular file goes on where it was, when it is given the same one again. */
static void input_file(const struct head *h, json_t *input)
{
	char path[4096];
	struct stat st;
	off_t at = fstat(STDIN_FILENO, &st) == 0 && S_ISREG(st.st_mode) ? lseek(STDIN_FILENO, 0, SEEK_CUR) : -1;
	ssize_t n = at >= 0 ? readlink("/proc/self/fd/0", path, sizeof(path) - 1) : -1;
	json_t *closed = json_array();

	for (uint32_t r = 0; r < h->size; r++)
		if (input_is_closed(h, r))
			json_array_append_new(closed, json_integer((json_int_t)r));
	json_object_set_new(input, "closed", closed);
	if (n <= 0)
		return;
	json_object_set_new(input, "path", checkpoint_text(path, (size_t)n));
	json_object_set_new(input, "position", json_integer((json_int_t)at));
}

void remember_write(const struct head *h, json_t *m, const json_t *images, bool is_stopping)
{
	static const char *const of_job[] = { "apps", "environment", "cwd" };
	json_t *files = json_array();

	merge_files(files, images);
	json_object_set_new(m, "files", files);
	json_object_set_new(m, "options", options_json(h->spec));
	json_object_set_new(m, "lines", lines_json(h, is_stopping));
	json_object_set_new(m, "outfiles", outfiles_json(h));
	input_file(h, json_object_get(m, "input"));
	for (size_t i = 0; h->spec->restart && i < GW_ARRAY_LEN(of_job); i++) /* not those of who continued it */
		json_object_set(m, of_job[i], json_object_get(h->spec->restart->manifest, of_job[i]));
}

/* ---- read ------------------------------------------------------------------------------------------------------------ */

/* What checkpoint_text() made, on the heap; NULL: it is not that */
static char *text_of(const json_t *json, size_t *len)
{
	const json_t *bytes = json_object_get(json, "bytes");
	char *text;

	if (json_is_string(json)) {
		*len = json_string_length(json);
		return strdup(json_string_value(json));
	}
	*len = json_array_size(bytes);
	text = json_is_array(bytes) ? calloc(1, *len + 1) : NULL;
	for (size_t i = 0; text && i < *len; i++)
		text[i] = (char)json_integer_value(json_array_get(bytes, i));
	return text;
}

static int add_text(struct strings *to, const json_t *json)
{
	size_t len;
	gw_autofree char *text = text_of(json, &len);

	return text ? strings_add(to, text) : -EPROTO;
}

static int add_texts(struct strings *to, const json_t *list)
{
	const json_t *text;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, text)
		if (add_text(to, text) < 0)
			return -EPROTO;
	return 0;
}

/* @to, unless the command line has said it */
static int option(struct job_spec *spec, const struct restart *r, const char **to, const char *key)
{
	const json_t *json = json_object_get(json_object_get(r->manifest, "options"), key);

	if (*to || !json)
		return 0;
	if (add_text(&spec->words, json) < 0)
		return -EPROTO;
	*to = spec->words.list[spec->words.n - 1];
	return 0;
}

static int read_app(struct job_spec *spec, struct app *a, const json_t *json, bool is_spawned, uint32_t *size)
{
	json_int_t n = json_integer_value(json_object_get(json, "ranks"));
	const json_t *wdir = json_object_get(json, "wdir");

	if (n < !is_spawned || n > (json_int_t)(OPTIONS_RANKS_MAX - *size))
		return -EPROTO;
	*a = (struct app){ .n = (uint32_t)n };
	*size += a->n;
	if (wdir && add_text(&spec->words, wdir) < 0)
		return -EPROTO;
	a->wdir = wdir ? spec->words.list[spec->words.n - 1] : NULL;
	return add_texts(&a->argv, json_object_get(json, "argv")) < 0 || !a->argv.n || add_texts(&a->env, json_object_get(json, "env")) < 0 ?
	       -EPROTO : 0;
}

/* It need not be there: it was not always written. */
static bool is_beyond(const json_t *n, json_int_t least, json_int_t most)
{
	return n && (!json_is_integer(n) || json_integer_value(n) < least || json_integer_value(n) > most);
}

int remember_options(struct job_spec *spec, const struct restart *r, struct gw_error *why)
{
	const json_t *apps = json_object_get(r->manifest, "apps"), *spawned = json_object_get(r->manifest, "spawned");
	const json_t *options = json_object_get(r->manifest, "options"), *app;
	uint32_t size = 0, own;
	int code = 0;
	size_t i;

	for (uint32_t a = 0; a < spec->n_apps; a++) {
		strings_fini(&spec->apps[a].argv);
		strings_fini(&spec->apps[a].env);
	}
	strings_fini(&spec->genv);
	free(spec->apps);
	spec->n_apps = 0;
	spec->apps = calloc(json_array_size(apps) + json_array_size(spawned) + 1, sizeof(*spec->apps));
	if (!spec->apps)
		return gw_fail(why, -ENOMEM, "out of memory");
	json_array_foreach((json_t *)(uintptr_t)apps, i, app)
		if (code == 0)
			code = read_app(spec, &spec->apps[spec->n_apps++], app, false, &size);
	own = size;
	json_array_foreach((json_t *)(uintptr_t)spawned, i, app)
		if (code == 0)
			code = read_app(spec, &spec->apps[spec->n_apps++], app, true, &size);
	if (code < 0 || own == 0 || (json_int_t)size != json_integer_value(json_object_get(r->manifest, "ranks_total")))
		return gw_fail(why, -EPROTO, "%s: the manifest's programs are not understood", r->dir);
	if (is_beyond(json_object_get(r->manifest, "universe"), 0, OPTIONS_RANKS_MAX) ||
	    is_beyond(json_object_get(r->manifest, "room"), size, OPTIONS_RANKS_MAX + SPAWN_ROOM))
		return gw_fail(why, -EPROTO, "%s: the manifest has room for a number of ranks that no job has", r->dir);
	spec->size = size;
	spec->n_spawned = size - own;
	spec->is_size_unsaid = false;
	spec->universe = (uint32_t)json_integer_value(json_object_get(r->manifest, "universe"));
	spec->is_carrying |= json_is_true(json_object_get(options, "carry"));
	spec->is_printing_codes |= json_is_true(json_object_get(options, "exit_codes"));
	if (option(spec, r, &spec->label, "label") < 0 || option(spec, r, &spec->file[0], "outfile") < 0 || option(spec, r, &spec->file[1], "errfile") < 0 ||
	    option(spec, r, &spec->input, "input") < 0 || option(spec, r, &spec->reconnecting, "reconnecting") < 0)
		return gw_fail(why, -EPROTO, "%s: the manifest's options are not understood", r->dir);
	return 0;
}

static int read_ranks(struct head *h, const json_t *list)
{
	const json_t *json;
	size_t i;

	if (json_array_size(list) != h->size)
		return -EPROTO;
	json_array_foreach((json_t *)(uintptr_t)list, i, json) {
		json_int_t epoch, out, err, barrier, asked;
		struct rank *r = &h->ranks[i];
		int rank, pinned, ended, status;
		json_t *answer;

		if (json_unpack((json_t *)(uintptr_t)json, "{s:i, s:I, s:b, s:b, s:i, s:[I, I], s:I, s:I, s:o}", "rank", &rank, "epoch", &epoch, "pinned",
		                &pinned, "ended", &ended, "status", &status, "output", &out, &err, "barrier", &barrier, "asked", &asked, "answer", &answer) < 0 ||
		    rank != (int)i || (ended && i < h->worlds[0].size))
			return -EPROTO;
		r->status = status;
		if (ended) {
			r->state = RANK_ENDED;
			h->ended++;
		}
		r->epoch = (uint64_t)epoch;
		r->is_pinned |= pinned;
		r->out[0].next = r->out[0].acked = (uint64_t)out;
		r->out[1].next = r->out[1].acked = (uint64_t)err;
		r->barrier = (uint64_t)barrier;
		r->asked = (uint64_t)asked;
		r->answer = json_is_null(answer) ? NULL : json_incref(answer);
	}
	return 0;
}

static int read_lines(struct head *h, const json_t *list)
{
	const json_t *json;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, json) {
		json_int_t rank = json_integer_value(json_object_get(json, "rank")), stream = json_integer_value(json_object_get(json, "stream"));
		size_t len;
		gw_autofree char *text = text_of(json_object_get(json, "text"), &len);

		if (!text || rank < 0 || rank >= (json_int_t)h->size || stream < 0 || stream > 1)
			return -EPROTO;
		output_begin_line(h, (uint32_t)rank, (int)stream, text, len);
	}
	return 0;
}

static int read_pmi(struct world *w, const json_t *pmi)
{
	json_t *puts, *space;
	json_int_t done;
	int count;

	if (json_unpack((json_t *)(uintptr_t)pmi, "{s:I, s:i, s:o, s:o}", "barriers_done", &done, "barrier_count", &count, "barrier_puts", &puts,
	                "space", &space) < 0 || count < 0 || (uint32_t)count >= w->size || !json_is_object(puts) || !json_is_object(space))
		return -EPROTO;
	w->barriers_done = (uint64_t)done;
	w->barrier_count = (uint32_t)count;
	json_object_update(w->barrier_puts, puts);
	json_object_update(w->space, space);
	return 0;
}

/* Of those that ranks have started, in the order of their ranks, which come after mpirun's own */
static int read_worlds(struct head *h, const json_t *list)
{
	uint32_t at = h->worlds[0].size;
	const json_t *json;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, json) {
		int size, app, parent, world;
		json_int_t asked;

		if (json_unpack((json_t *)(uintptr_t)json, "{s:i, s:i, s:i, s:I}", "size", &size, "app", &app, "parent", &parent, "asked", &asked) < 0 ||
		    size < 1 || (uint32_t)size > h->size - at || app < 0 || (uint32_t)app >= h->spec->n_apps || parent < 0 || (uint32_t)parent >= at)
			return -EPROTO;
		world = pmi_head_add(h, (uint32_t)size, (uint32_t)app);
		if (world < 0)
			return world;
		h->worlds[world].parent = (uint32_t)parent;
		h->worlds[world].asked = (uint64_t)asked;
		if (read_pmi(&h->worlds[world], json_object_get(json, "pmi")) < 0)
			return -EPROTO;
		while (size--)
			h->ranks[at++].world = (uint32_t)world;
	}
	return at == h->size ? 0 : -EPROTO;
}

static int read_input(struct head *h, const json_t *input)
{
	const json_t *unread = json_object_get(input, "unread"), *path = json_object_get(input, "path"), *rank;
	size_t len = json_array_size(unread), n_path = 0, k;
	gw_autofree char *bytes = malloc(len + 1), *then = path ? text_of(path, &n_path) : NULL;
	char now[4096];
	ssize_t n = readlink("/proc/self/fd/0", now, sizeof(now));

	if (!bytes || !json_is_array(unread) || len > RT_INPUT_WINDOW)
		return -EPROTO;
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)json_integer_value(json_array_get(unread, i));
	input_begin(h, (uint64_t)json_integer_value(json_object_get(input, "start")), bytes, len,
	            json_is_true(json_object_get(input, "ended")));
	json_array_foreach(json_object_get(input, "closed"), k, rank)
		input_closed(h, (uint32_t)json_integer_value(rank));
	if (then && n > 0 && (size_t)n == n_path && memcmp(then, now, n_path) == 0)
		lseek(STDIN_FILENO, (off_t)json_integer_value(json_object_get(input, "position")), SEEK_SET);
	return 0;
}

int remember_head(struct head *h, const struct restart *r, struct gw_error *why)
{
	const json_t *services = json_object_get(r->manifest, "services") ? json_object_get(r->manifest, "services") :
	                         json_object_get(json_object_get(r->manifest, "pmi"), "services"); /* there it was once */

	if (read_ranks(h, json_object_get(r->manifest, "ranks")) < 0 || read_lines(h, json_object_get(r->manifest, "lines")) < 0 ||
	    read_pmi(&h->worlds[0], json_object_get(r->manifest, "pmi")) < 0 || read_worlds(h, json_object_get(r->manifest, "worlds")) < 0 ||
	    read_input(h, json_object_get(r->manifest, "input")) < 0 || !json_is_object(services))
		return gw_fail(why, -EPROTO, "%s: the manifest is not understood", r->dir);
	json_object_update(h->services, (json_t *)(uintptr_t)services);
	return 0;
}
