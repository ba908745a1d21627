/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same command once more: with -checkpoint-dir, a job that was written down there and has not ended well is continued, so that
 * the script of a batch job needs no other line when it is requeued. What is damaged is passed over, to the newest that is not: a
 * manifest at once, an image when its daemon has found out.
 */
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime/cold/cold.h"
#include "runtime/launcher/restart.h"

struct passed {
	char dir[4096 + COLD_NAME_MAX]; /* the one that is taken */
	char text[1000];                /* the damage of the last that was passed over */
	bool is_due;
};

static bool is_same_text(const json_t *json, const char *text)
{
	json_t *mine = checkpoint_text(text, strlen(text));
	bool is_same = mine && json_equal(json, mine);

	json_decref(mine);
	return is_same;
}

static bool is_same_app(const struct job_spec *spec, const struct app *a, const json_t *json)
{
	const json_t *argv = json_object_get(json, "argv"), *wdir = json_object_get(json, "wdir");
	bool is_same = json_array_size(argv) == a->argv.n && !wdir == !a->wdir && (!wdir || is_same_text(wdir, a->wdir));

	for (size_t i = 0; i < a->argv.n && is_same; i++)
		is_same = is_same_text(json_array_get(argv, i), a->argv.list[i]);
	if (spec->is_size_unsaid && slurm_job())
		return is_same; /* as many as the allocation has tasks, and that may be another one */
	return is_same && json_integer_value(json_object_get(json, "ranks")) == (json_int_t)a->n;
}

/* Programs, ranks and the directory where it began */
static bool is_same_job(const struct job_spec *spec, const json_t *m)
{
	const json_t *apps = json_object_get(m, "apps");
	char cwd[4096];

	if (json_array_size(apps) != spec->n_apps || !getcwd(cwd, sizeof(cwd)) || !is_same_text(json_object_get(m, "cwd"), cwd))
		return false;
	for (uint32_t i = 0; i < spec->n_apps; i++)
		if (!is_same_app(spec, &spec->apps[i], json_array_get(apps, i)))
			return false;
	return true;
}

/* "./jacobi --size 2000 (4 ranks, in /home/u)" */
static void describe(const json_t *m, char *buf, size_t cap)
{
	const json_t *argv = json_object_get(json_array_get(json_object_get(m, "apps"), 0), "argv"), *word;
	const char *cwd = json_string_value(json_object_get(m, "cwd"));
	size_t i, at = 0;

	json_array_foreach((json_t *)(uintptr_t)argv, i, word) {
		at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? " " : "", json_is_string(word) ? json_string_value(word) : "?");
		if (at >= cap / 2) {
			at = cap / 2 + (size_t)snprintf(buf + cap / 2, cap - cap / 2, "...");
			break;
		}
	}
	snprintf(buf + at, cap - at, " (%lld ranks, in %.200s)", (long long)json_integer_value(json_object_get(m, "ranks_total")), cwd ? cwd : "?");
}

static int take(struct job_spec *spec, const json_t *m, struct gw_error *why)
{
	char text[500];

	if (!is_same_job(spec, m)) {
		describe(m, text, sizeof(text));
		return gw_fail(why, -EEXIST, "'%s' holds a checkpoint of another job: %s; name another directory with -checkpoint-dir, or remove "
		               "what is in it", spec->checkpoint_dir, text);
	}
	spec->restart_dir = spec->passed ? spec->passed->dir : spec->checkpoint_dir;
	spec->is_again = true;
	return 0;
}

/* ---- what is damaged --------------------------------------------------------------------------------------------------- */

static struct passed *pass_over(struct job_spec *spec, const char *cut)
{
	struct passed *p = spec->passed ? spec->passed : calloc(1, sizeof(*p));

	spec->passed = p;
	if (p)
		snprintf(p->dir, sizeof(p->dir), "%s/%s", spec->checkpoint_dir, cut);
	return p;
}

bool again_pass_over(struct job_spec *spec, const char *damage)
{
	const json_t *m = spec->is_again ? spec->restart->manifest : NULL;
	uint64_t number = (uint64_t)json_integer_value(json_object_get(m, "checkpoint"));
	const char *job = json_string_value(json_object_get(m, "job"));
	gw_autoclose int fd = job ? open(spec->checkpoint_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	char damaged[COLD_NAME_MAX], cut[COLD_NAME_MAX];
	struct passed *p;

	if (fd < 0 || !cold_dir_newest(fd, job, number, cut))
		return false;
	p = pass_over(spec, cut);
	if (!p)
		return false;
	cold_cut_name(damaged, job, number);
	snprintf(p->text, sizeof(p->text), "'%s/%s' is passed over: %s", spec->checkpoint_dir, damaged, damage);
	p->is_due = true;
	return true;
}

bool again_next(struct job_spec *spec)
{
	if (!spec->passed || !spec->passed->is_due)
		return false;
	spec->passed->is_due = false;
	spec->restart_dir = spec->passed->dir;
	return true;
}

void again_release(struct job_spec *spec)
{
	free(spec->passed);
	spec->passed = NULL;
}

/* ---- at the start ------------------------------------------------------------------------------------------------------ */

/* The manifest, or that of the newest that can be used in its place */
static int read_manifest(struct job_spec *spec, int fd, json_t **m, struct gw_error *why)
{
	struct gw_error damage = { 0 };
	char cut[COLD_NAME_MAX];
	int code = cold_dir_read(fd, spec->checkpoint_dir, m, cut, &damage);
	struct passed *p = code == 1 ? pass_over(spec, cut) : NULL;

	if (p)
		snprintf(p->text, sizeof(p->text), "%s", damage.text);
	else if (code == 1)
		return gw_fail(why, -ENOMEM, "out of memory");
	return code < 0 && code != -ENOENT ? gw_fail(why, code, "%s; name another directory with -checkpoint-dir", damage.text) : code;
}

int again_take(struct job_spec *spec, struct gw_error *why)
{
	gw_autoclose int fd = -1;
	const char *job;
	json_t *m = NULL;
	int code;

	if (!spec->checkpoint_dir || spec->restart_dir)
		return 0;
	fd = open(spec->checkpoint_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	code = fd < 0 ? -ENOENT : read_manifest(spec, fd, &m, why);
	if (code < 0) /* nothing was written yet; what is wrong with the directory schedule_init() says */
		return code == -ENOENT ? 0 : code;
	job = json_string_value(json_object_get(m, "job"));
	code = job && cold_dir_has_ended(fd, job) ? 0 : take(spec, m, why);
	json_decref(m);
	return code;
}

void again_say(struct head *h)
{
	const json_t *m = h->spec->is_again ? h->spec->restart->manifest : NULL;
	const char *passed = h->spec->passed ? h->spec->passed->text : NULL;
	time_t t = (time_t)json_integer_value(json_object_get(m, "time"));
	char when[64] = "?";
	struct tm tm;

	if (!m)
		return;
	if (localtime_r(&t, &tm))
		strftime(when, sizeof(when), "%F %T", &tm);
	job_say(h, "mpirun: job %s goes on from checkpoint %lld of %s in '%s'%s%s", h->kvsname + strlen("godwit-"),
	        (long long)json_integer_value(json_object_get(m, "checkpoint")), when, h->spec->restart_dir, passed ? "; " : "",
	        passed ? passed : "");
}
