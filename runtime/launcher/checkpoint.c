/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A checkpoint of the whole job: one consistent cut, complete or absent (runtime/cold/cold.h has what is on disk).
 *
 *   as for suspending (suspend.c): no move is under way, all ranks are quiet
 *   ──checkpoint──► every daemon writes the images of its ranks to DIR/.tmp-JOB-N ──checkpointed──► rename to DIR/cut-JOB-N,
 *   then the MANIFEST: from now on it counts, and those that are older than wanted are removed ──► resume; or the end, with --stop
 *
 * Whatever fails before leaves what was there before. What the head holds for the ranks is in the manifest: all that they
 * have said came before the answers of their daemons, which say it all over one connection in order.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/cold/cold.h"
#include "runtime/launcher/restart.h"

struct checkpoint {
	char dir[4096], tmp[COLD_NAME_MAX], cut[COLD_NAME_MAX], other[COLD_NAME_MAX]; /* @other: a job that has ended well, and is replaced */
	struct cold_dir *at;
	uint64_t number, bytes, size; /* @number: of the job's checkpoints */
	bool is_stopping, has_tmp;
	json_t *images;
	struct gw_error why;    /* the first daemon that failed */
};

static const char *job_id(const struct head *h)
{
	return h->kvsname + strlen("godwit-");
}

/* ---- directories: whoever has written to one has it until mpirun ends -------------------------------------------------- */

struct held {
	struct gw_list node; /* head.dirs */
	struct cold_dir dir;
};

int checkpoint_hold(struct head *h, const char *path, struct cold_dir **out, struct gw_error *why)
{
	json_t *text = json_string(path); /* daemons and tools are told of it */
	struct held *held;
	int code;

	json_decref(text);
	if (!text)
		return gw_fail(why, -EILSEQ, "the path '%s' is not text (UTF-8), or out of memory; use another directory", path);
	gw_list_for(e, &h->dirs) {
		held = gw_list_entry(e, struct held, node);
		if (!cold_dir_is_at(&held->dir, path))
			continue;
		*out = &held->dir;
		return 0;
	}
	held = calloc(1, sizeof(*held));
	if (!held)
		return gw_fail(why, -ENOMEM, "out of memory");
	code = cold_dir_open(&held->dir, path, why);
	if (code < 0) {
		free(held);
		return code;
	}
	gw_list_append(&h->dirs, &held->node);
	*out = &held->dir;
	return 0;
}

void checkpoint_release(struct head *h)
{
	gw_list_for_safe(e, &h->dirs) {
		struct held *held = gw_list_entry(e, struct held, node);

		gw_list_remove(&held->node);
		cold_dir_close(&held->dir);
		free(held);
	}
}

void checkpoint_fini(struct head *h)
{
	struct checkpoint *c = h->checkpoint;

	h->checkpoint = NULL;
	if (!c)
		return;
	if (c->has_tmp)
		cold_tree_remove(c->at->fd, c->tmp);
	json_decref(c->images);
	free(c);
}

/* ---- the manifest ---------------------------------------------------------------------------------------------------- */

/* A string; where it is not UTF-8, an object with its bytes as a list of numbers */
json_t *checkpoint_text(const char *text, size_t len)
{
	json_t *s = memchr(text, '\0', len) ? NULL : json_stringn(text, len), *bytes;

	if (s)
		return s;
	bytes = json_array();
	for (size_t i = 0; i < len; i++)
		json_array_append_new(bytes, json_integer((unsigned char)text[i]));
	return json_pack("{s:o}", "bytes", bytes);
}

static json_t *text_json(const char *text)
{
	return checkpoint_text(text, strlen(text));
}

static json_t *strings_json(const struct strings *s)
{
	json_t *list = json_array();

	for (size_t i = 0; i < s->n; i++)
		json_array_append_new(list, text_json(s->list[i]));
	return list;
}

/* What could not be spawned has left its program behind, and nobody runs it. */
static uint32_t ranks_of(const struct head *h, uint32_t app)
{
	uint32_t n = 0;

	for (uint32_t r = 0; r < h->size; r++)
		n += h->ranks[r].app == app;
	return n;
}

/* Those of the command line, or those that ranks have started */
static json_t *apps_json(const struct head *h, bool is_spawned)
{
	uint32_t own = h->ranks[h->worlds[0].size - 1].app + 1;
	json_t *list = json_array();

	for (uint32_t i = is_spawned ? own : 0; i < (is_spawned ? h->spec->n_apps : own); i++) {
		const struct app *a = &h->spec->apps[i];

		json_array_append_new(list, json_pack("{s:i, s:o, s:o, s:o*}", "ranks", (int)ranks_of(h, i), "argv", strings_json(&a->argv), "env",
		                                      strings_json(&a->env), "wdir", a->wdir ? text_json(a->wdir) : NULL));
	}
	return list;
}

static json_t *pmi_json(const struct world *w)
{
	return json_pack("{s:I, s:i, s:O, s:O}", "barriers_done", (json_int_t)w->barriers_done, "barrier_count", (int)w->barrier_count,
	                 "barrier_puts", w->barrier_puts, "space", w->space);
}

/* Those that ranks have started */
static json_t *worlds_json(const struct head *h)
{
	json_t *list = json_array();

	for (uint32_t i = 1; i < h->n_worlds; i++) {
		const struct world *w = &h->worlds[i];

		json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:I, s:o}", "size", (int)w->size, "app", (int)w->app, "parent", (int)w->parent,
		                                      "asked", (json_int_t)w->asked, "pmi", pmi_json(w)));
	}
	return list;
}

static json_t *environment_json(void)
{
	json_t *list = json_array();

	for (char **e = environ; *e; e++)
		json_array_append_new(list, text_json(*e));
	return list;
}

static json_t *ranks_json(const struct head *h)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < h->size; i++) {
		const struct rank *r = &h->ranks[i];

		json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:s, s:I, s:b, s:b, s:i, s:[I,I], s:I, s:I, s:O?}", "rank", (int)i, "app",
		                      (int)r->app, "cluster", (int)r->cluster, "host", h->hosts[h->clusters[r->cluster].host].name, "epoch",
		                      (json_int_t)r->epoch, "pinned", (int)r->is_pinned, "ended", (int)(r->state == RANK_ENDED), "status",
		                      r->status, "output", (json_int_t)r->out[0].next, (json_int_t)r->out[1].next, "barrier",
		                      (json_int_t)r->barrier, "asked", (json_int_t)(r->asked && !r->answer ? r->asked - 1 : r->asked), "answer",
		                      r->answer)); /* a question without an answer yet will be asked anew */
	}
	return list;
}

/* Standard input that was read and not taken by all who get it: bytes, as it may be anything */
static json_t *input_json(const struct head *h)
{
	json_t *bytes = json_array();

	for (size_t i = 0; i < h->input.len; i++)
		json_array_append_new(bytes, json_integer((unsigned char)h->input.buf[i]));
	return json_pack("{s:I, s:o, s:b}", "start", (json_int_t)h->input.start, "unread", bytes, "ended",
	                 (int)(h->input.eof_at != UINT64_MAX));
}

static json_t *manifest(const struct head *h, const struct checkpoint *c)
{
	char cwd[4096] = "";
	json_t *m;

	m = json_pack("{s:i, s:s, s:I, s:I, s:i, s:i, s:i, s:b, s:I, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O, s:O}", "format",
	                 COLD_FORMAT, "job", job_id(h), "checkpoint", (json_int_t)c->number, "time", (json_int_t)time(NULL),
	                 "ranks_total", (int)h->size, "clusters", (int)h->n_clusters, "universe", (int)h->spec->universe, "networked",
	                 (int)h->is_networked, "base_pid", (json_int_t)h->base_pid, "room", (int)h->room, "cwd",
	                 getcwd(cwd, sizeof(cwd)) ? cwd : "", "apps", apps_json(h, false), "spawned", apps_json(h, true), "environment",
	                 environment_json(), "ranks", ranks_json(h), "input", input_json(h), "pmi", pmi_json(&h->worlds[0]), "worlds",
	                 worlds_json(h), "services", h->services, "images", c->images);
	if (m)
		remember_write(h, m, c->images, c->is_stopping);
	return m;
}

/* ---- from the request to the answer ---------------------------------------------------------------------------------- */

/* What is in the directory already: a checkpoint of this job, whose number counts on, of one that is not to be continued, or none */
static int look(struct head *h, struct checkpoint *c, struct gw_error *why)
{
	struct gw_error damage = { 0 };
	char cut[COLD_NAME_MAX];
	json_t *m = NULL;
	const char *job;
	int code = cold_dir_read(c->at->fd, c->dir, &m, cut, &damage);
	bool is_damaged = code == 1;

	if (code == -ENOENT)
		return 0;
	if (code < 0)
		return gw_fail(why, code, "%s; use another directory, or remove what is in it", damage.text);
	code = 0;
	job = json_string_value(json_object_get(m, "job"));
	if (job && strcmp(job, job_id(h)) == 0)
		c->number = is_damaged ? cold_dir_last(c->at->fd, job) : (uint64_t)json_integer_value(json_object_get(m, "checkpoint"));
	else if (job && strlen(job) < 16 && !strchr(job, '/') && cold_dir_has_ended(c->at->fd, job))
		snprintf(c->other, sizeof(c->other), "%s", job);
	else
		code = gw_fail(why, -EEXIST, "'%s' holds a checkpoint of job %s; use another directory, or remove what is in it", c->dir,
		               job ? job : "?");
	json_decref(m);
	return code;
}

static int begin(struct head *h, struct checkpoint *c, struct gw_error *why)
{
	int code = checkpoint_hold(h, c->dir, &c->at, why);

	if (code == 0)
		code = look(h, c, why);
	if (code < 0)
		return code;
	c->number++;
	cold_cut_name(c->cut, job_id(h), c->number);
	snprintf(c->tmp, sizeof(c->tmp), COLD_LEFTOVER "%s", c->cut + strlen("cut-"));
	cold_tree_remove(c->at->fd, c->cut); /* of an attempt that nobody could clean up */
	cold_tree_remove(c->at->fd, c->tmp);
	c->has_tmp = mkdirat(c->at->fd, c->tmp, 0700) == 0;
	return c->has_tmp ? 0 : gw_fail(why, -errno, "nothing can be written to '%s': %s", c->dir, strerror(errno));
}

static uint32_t living(const struct head *h, uint32_t first, uint32_t size)
{
	uint32_t n = 0;

	for (uint32_t r = first; r < first + size; r++)
		n += h->ranks[r].state != RANK_ENDED;
	return n;
}

/* Ranks that have ended are not written down: of what ranks have started all may be over, of what mpirun has started none. */
static int check_worlds(const struct head *h, struct gw_error *why)
{
	for (uint32_t i = 0; i < h->n_worlds; i++) {
		const struct world *w = &h->worlds[i];
		uint32_t r = w->first;

		if (w->is_pending)
			return gw_fail(why, -EBUSY, "rank %u is just starting others (MPI_Comm_spawn); try again", w->parent);
		if (living(h, w->first, w->size) == (i ? 0 : w->size) || living(h, w->first, w->size) == w->size)
			continue;
		while (h->ranks[r].state != RANK_ENDED)
			r++;
		return gw_fail(why, i ? -EAGAIN : -ESRCH, i ? "rank %u has ended, and others that were started with it have not yet; try again" :
		               "rank %u has ended: the job is about to", r);
	}
	return 0;
}

int checkpoint_prepare(struct head *h, const char *dir, bool is_stopping, struct gw_error *why)
{
	struct checkpoint *c;
	int code;

	if (h->checkpoint || h->suspend.state != SUSPEND_NONE)
		return suspend_refuse(h, why);
	if (guests_any(h))
		return gw_fail(why, -ENOTSUP, "the job has connected to job %08x (MPI_Comm_connect), and such a job cannot be written down, also when "
		               "they have parted", guests_any(h));
	if (check_worlds(h, why) < 0)
		return why->code;
	if (dir[0] != '/' || strlen(dir) > sizeof(c->dir) - 100)
		return gw_fail(why, -EINVAL, "'%.100s' is not the full path of a directory", dir);
	c = calloc(1, sizeof(*c));
	if (!c)
		return gw_fail(why, -ENOMEM, "out of memory");
	h->checkpoint = c;
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	c->is_stopping = is_stopping;
	c->images = json_array();
	code = begin(h, c, why);
	if (code < 0)
		checkpoint_fini(h);
	return code;
}

const struct cold_dir *checkpoint_dir(const struct head *h)
{
	return h->checkpoint->at;
}

void checkpoint_stop_after(struct head *h)
{
	h->checkpoint->is_stopping = true;
}

json_t *checkpoint_request(const struct head *h)
{
	const struct checkpoint *c = h->checkpoint;
	char path[sizeof(c->dir) + COLD_NAME_MAX];

	snprintf(path, sizeof(path), "%s/%s", c->dir, c->tmp);
	return json_pack("{s:s, s:I, s:s}", "op", "checkpoint", "id", (json_int_t)h->suspend.id, "dir", path);
}

void checkpoint_heard(struct cluster *c, json_t *msg)
{
	const char *text = json_string_value(json_object_get(msg, "text"));
	int code = (int)json_integer_value(json_object_get(msg, "status"));
	struct head *h = c->head;

	if (!h->checkpoint || (uint64_t)json_integer_value(json_object_get(msg, "id")) != h->suspend.id)
		return;
	if (text && h->checkpoint->why.code == 0)
		gw_fail(&h->checkpoint->why, code < 0 ? code : -EIO, "%s", text);
	json_array_extend(h->checkpoint->images, json_object_get(msg, "images"));
}

/* The images get their name, and the directory a manifest that says so. */
static int give_place(struct head *h, struct checkpoint *c, struct gw_error *why)
{
	gw_autoclose int tmp = openat(c->at->fd, c->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *m = manifest(h, c);
	int code;

	if (!m)
		return gw_fail(why, -ENOMEM, "the manifest cannot be made: out of memory");
	code = tmp < 0 ? gw_fail(why, -errno, "what was written to '%s' is gone: %s", c->dir, strerror(errno)) :
	       cold_manifest_write(tmp, ".", m, why);
	if (code >= 0 && renameat(c->at->fd, c->tmp, c->at->fd, c->cut) < 0)
		code = gw_fail(why, -errno, "the images cannot be given their name in '%s': %s", c->dir, strerror(errno));
	if (code >= 0) {
		c->has_tmp = false;
		gw_fault("rt.checkpoint.renamed");
		code = cold_manifest_write(c->at->fd, c->cut, m, why);
		if (code < 0)
			cold_tree_remove(c->at->fd, c->cut);
		else
			cold_dir_begin(c->at->fd);
	}
	json_decref(m);
	if (code == 0) { /* not 1: the one before might still be wanted */
		cold_dir_prune(c->at, job_id(h), schedule_is_at(h, c->at) ? h->spec->checkpoint_keep : 1);
		if (c->other[0])
			cold_dir_prune(c->at, c->other, 0);
	}
	return code < 0 ? code : 0;
}

static int commit(struct head *h, struct checkpoint *c, struct gw_error *why)
{
	json_t *image;
	size_t i;

	if (c->why.code < 0) {
		*why = c->why;
		return why->code;
	}
	if (check_worlds(h, why) < 0) /* a rank has ended */
		return why->code;
	if (json_array_size(c->images) != living(h, 0, h->size)) /* a daemon has died */
		return gw_fail(why, -ESRCH, "not all ranks were there: %zu images of %u", json_array_size(c->images), living(h, 0, h->size));
	json_array_foreach(c->images, i, image) {
		c->bytes += (uint64_t)json_integer_value(json_object_get(image, "bytes"));
		c->size += (uint64_t)json_integer_value(json_object_get(image, "size"));
	}
	gw_fault("rt.checkpoint.commit");
	return give_place(h, c, why);
}

void checkpoint_note_failure(struct head *h, const char *text)
{
	json_object_set_new(h->checkpoints, "failed", json_pack("{s:I, s:s}", "time", (json_int_t)time(NULL), "text", text));
}

/* All daemons have answered, or the attempt is over for another reason: @why. */
json_t *checkpoint_end(struct head *h, struct gw_error *why, bool *is_stopping)
{
	struct checkpoint *c = h->checkpoint;
	int code = why->code < 0 ? why->code : commit(h, c, why);
	double ms = (double)(gw_now_ns() - h->suspend.since_ns) / 1e6;
	json_t *answer = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:i, s:f}", "op", "checkpointed", "status", code, "text", why->text,
	                           "dir", c->dir, "checkpoint", (json_int_t)c->number, "bytes", (json_int_t)c->bytes, "size",
	                           (json_int_t)c->size, "ranks", (int)h->size, "ms", ms);

	*is_stopping = code == 0 && c->is_stopping;
	json_object_del(h->checkpoints, "failed");
	if (code == 0)
		json_object_set_new(h->checkpoints, "last", json_pack("{s:I, s:s, s:I, s:f, s:I, s:I}", "checkpoint", (json_int_t)c->number,
		                    "dir", c->dir, "time", (json_int_t)time(NULL), "ms", ms, "bytes", (json_int_t)c->bytes, "size",
		                    (json_int_t)c->size));
	else
		checkpoint_note_failure(h, why->text);
	gw_event("job.checkpoint", "{s:i, s:s, s:I, s:f}", "status", code, "dir", c->dir, "size", (json_int_t)c->size, "ms", ms);
	checkpoint_fini(h);
	return answer;
}
