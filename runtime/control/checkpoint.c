/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit checkpoint: write a whole job down; and look whether what was written is still so. */
#include <argp.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cold/cold.h"
#include "runtime/control/control.h"

struct checkpoint {
	struct control c;
	const char *words[2];
	int n;
	bool is_stopping, is_verifying, has_failed;
	bool may_come; /* it was asked for, and mpirun is stopped: it is written when that goes on */
	struct gw_error refusal;
};

static const struct argp_option options[] = {
	{ "stop", 's', NULL, 0, "Then end the job, whose mpirun exits with status 75", 0 },
	{ "verify", 'v', NULL, 0, "Write nothing: look whether DIR holds a complete checkpoint that nobody has changed", 0 },
	CONTROL_OPTIONS,
	{ 0 }
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct checkpoint *p = state->input;

	switch (key) {
	case 's':
		p->is_stopping = true;
		return 0;
	case 'v':
		p->is_verifying = true;
		return 0;
	case ARGP_KEY_ARG:
		if (p->n == 2)
			argp_error(state, "'%s' is too much: name a job and a directory", arg);
		p->words[p->n++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (p->n == 0)
			argp_error(state, "name a directory");
		if (p->n == 2 && (p->c.job || p->is_verifying))
			argp_error(state, p->is_verifying ? "--verify takes a directory only" : "the job is named twice");
		if (p->is_stopping && p->is_verifying)
			argp_error(state, "--verify ends no job");
		return 0;
	default:
		return control_option(&p->c, key, arg);
	}
}

/* ---- write ----------------------------------------------------------------------------------------------------------- */

static double mib(const json_t *msg, const char *key)
{
	return (double)json_integer_value(json_object_get(msg, key)) / (1 << 20);
}

static int on_answer(void *ctx, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct checkpoint *p = ctx;

	if (op && strcmp(op, "refused") == 0) {
		return gw_fail(&p->refusal, (int)json_integer_value(json_object_get(msg, "status")), "%s",
		               json_string_value(json_object_get(msg, "text"))), 1;
	}
	if (!op || strcmp(op, "checkpointed") != 0)
		return 0;
	p->has_failed = json_integer_value(json_object_get(msg, "status")) < 0;
	if (p->c.is_json) {
		control_print(msg);
	} else if (p->has_failed) {
		fprintf(stderr, "godwit: no checkpoint was written: %s\n", json_string_value(json_object_get(msg, "text")));
	} else {
		printf("checkpoint %lld of %lld ranks in %s: %.1f MiB, %.1f MiB on disk, %.1f ms\n",
		       (long long)json_integer_value(json_object_get(msg, "checkpoint")),
		       (long long)json_integer_value(json_object_get(msg, "ranks")), json_string_value(json_object_get(msg, "dir")),
		       mib(msg, "bytes"), mib(msg, "size"), json_real_value(json_object_get(msg, "ms")));
	}
	return 1;
}

/* @path: of a directory that is there */
static int ask_for(struct checkpoint *p, const char *path)
{
	struct gw_error why = { 0 };
	json_t *request;
	int code;

	request = json_pack("{s:s, s:s, s:b}", "op", "checkpoint", "dir", path, "stop", (int)p->is_stopping);
	if (!request) {
		gw_fail(&why, -EILSEQ, "the path '%s' is not text (UTF-8), or out of memory; use another directory", path);
		return control_refuse(&p->c, &why);
	}
	control_say_interrupted(p->is_stopping ? "godwit: interrupted; a checkpoint that has begun is written nevertheless, and the job ends then\n"
	                        : "godwit: interrupted; a checkpoint that has begun is written nevertheless; 'godwit status' tells of it\n");
	code = control_talk(&p->c, request, on_answer, p, &why);
	p->may_come = code == -EINPROGRESS;
	if (code < 0 || p->refusal.code)
		return code < 0 ? control_fail_object(&p->c, &why) : control_refuse(&p->c, &p->refusal);
	return p->has_failed ? CONTROL_FAILED : CONTROL_DONE;
}

static int write_it(struct checkpoint *p, const char *dir)
{
	bool is_made = mkdir(dir, 0700) == 0;
	gw_autofree char *path = NULL;
	struct gw_error why = { 0 };
	int code;

	if (!is_made && errno != EEXIST) {
		gw_fail(&why, -errno, "the directory '%s' cannot be made: %s", dir, strerror(errno));
		return control_refuse(&p->c, &why);
	}
	path = realpath(dir, NULL);
	if (!path) {
		gw_fail(&why, -errno, "'%s' cannot be looked at: %s", dir, strerror(errno));
		return control_refuse(&p->c, &why);
	}
	code = ask_for(p, path);
	if (code != CONTROL_DONE && is_made && !p->may_come)
		rmdir(path); /* unless something is in it */
	return code;
}

/* ---- verify ---------------------------------------------------------------------------------------------------------- */

/* How many things are wrong, each with a sentence to @out */
static int verify_images(int dirfd, const char *dir, const json_t *m, FILE *out)
{
	const json_t *images = json_object_get(m, "images"), *image;
	const char *cut = json_string_value(json_object_get(m, "directory"));
	gw_autoclose int fd = cut && !strchr(cut, '/') ? openat(dirfd, cut, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	int wrong = 0;
	size_t i;

	if (fd < 0) {
		fprintf(out, "godwit: %s/%s, where the images are, cannot be opened\n", dir, cut ? cut : "?");
		return 1;
	}
	if ((json_int_t)json_array_size(images) != json_integer_value(json_object_get(m, "ranks_total"))) {
		fprintf(out, "godwit: %s lists %zu images\n", dir, json_array_size(images));
		wrong++;
	}
	json_array_foreach((json_t *)(uintptr_t)images, i, image) {
		struct gw_error why = { 0 };

		if (cold_image_verify(fd, image, &why) < 0) {
			fprintf(out, "godwit: %s/%s/%s\n", dir, cut, why.text);
			wrong++;
		}
	}
	return wrong;
}

/* A job that writes there may have replaced what was being read: then what came after it is looked at. Return as verify_images */
static int verify_newest(int dirfd, const char *dir, json_t **m, struct gw_error *why)
{
	for (;;) {
		gw_autofree char *text = NULL;
		size_t len = 0;
		FILE *out = open_memstream(&text, &len);
		int wrong = out ? verify_images(dirfd, dir, *m, out) : gw_fail(why, -ENOMEM, "out of memory"), code = 0;
		json_t *now = NULL;

		if (out)
			fclose(out);
		if (wrong > 0)
			code = cold_manifest_read(dirfd, dir, &now, why);
		if (wrong <= 0 || code < 0 || json_equal(now, *m)) {
			json_decref(now);
			fputs(wrong > 0 && code == 0 ? text : "", stderr);
			return code < 0 ? code : wrong;
		}
		json_decref(*m);
		*m = now;
	}
}

static int verify(const struct checkpoint *p, const char *dir)
{
	gw_autoclose int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct gw_error why = { 0 };
	json_t *m;
	int wrong;

	if (fd < 0) {
		fprintf(stderr, "godwit: the directory '%s' cannot be opened: %s; name one that 'godwit checkpoint' wrote\n", dir,
		        strerror(errno));
		return CONTROL_WRONG;
	}
	if (cold_manifest_read(fd, dir, &m, &why) < 0) {
		fprintf(stderr, "godwit: %s\n", why.text);
		return CONTROL_FAILED;
	}
	wrong = verify_newest(fd, dir, &m, &why);
	if (wrong < 0)
		fprintf(stderr, "godwit: %s\n", why.text);
	if (p->c.is_json) {
		json_dumpf(m, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (!wrong)
		printf("%s: checkpoint %lld of job %s, %lld ranks: complete and as it was written\n", dir,
		       (long long)json_integer_value(json_object_get(m, "checkpoint")), json_string_value(json_object_get(m, "job")),
		       (long long)json_integer_value(json_object_get(m, "ranks_total")));
	json_decref(m);
	return wrong ? CONTROL_FAILED : CONTROL_DONE;
}

int control_checkpoint(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB] DIR\n--verify DIR", "Write all ranks of a job, as they are at one "
		"moment, to a directory that all its hosts see; the job goes on. A checkpoint of the same job that is there already is replaced when "
		"the new one is complete.", NULL, NULL, NULL };
	struct checkpoint p = { 0 };
	char name[] = "godwit checkpoint";

	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &p);
	if (p.n == 2)
		p.c.job = p.words[0];
	return p.is_verifying ? verify(&p, p.words[0]) : write_it(&p, p.words[p.n - 1]);
}
