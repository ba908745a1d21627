/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * -metrics FILE: every so often all that status knows, as text for Prometheus (runtime/metrics.c), to a file that a collector reads.
 * A file that is there is whole: the text is written beside it and renamed. It goes when the job ends, so that nobody reads for ever how
 * the job was in its last seconds. Whatever touches the file system is an errand's (errand.h): one that hangs holds nobody up.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/errand.h"
#include "runtime/launcher/head.h"
#include "runtime/metrics.h"

#define FIRST_MS 1000
#define EVERY_MS 10000
#define OPEN_MS  10000 /* for the file to be tried, before the job starts */
#define HUNG_MS   5000 /* a file system that has taken so long is spoken of, and not waited for at the end, */
#define END_MS    2000 /* else for so long */

struct metrics {
	struct head *head;
	struct gw_timer *timer;
	struct errand *errand;       /* writes, or removes */
	struct gw_error *tried;      /* while mpirun waits for whether the file can be written at all */
	char *text;                  /* that is being written */
	char path[4096], beside[4112];
	bool is_written, has_failed, has_hung; /* has_...: and it was said */
};

static void wait_ms(struct metrics *m, uint64_t ms);

/* ---- in a process of its own ------------------------------------------------------------------------------------------------- */

/* A file that nobody else has, nor has put there a link to: the directory may be everybody's */
static int open_beside(const struct metrics *m)
{
	int fd;

	unlink(m->beside); /* of an mpirun that was killed */
	fd = open(m->beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : fd;
}

static int try_it(void *ctx, char *said, size_t cap)
{
	const struct metrics *m = ctx;
	struct gw_error why = { 0 };
	struct stat st;
	int fd;

	if (stat(m->path, &st) == 0 && !S_ISREG(st.st_mode)) { /* it would be replaced: of a device by root, too */
		gw_fail(&why, -EINVAL, "-metrics: '%s' is %s; name a file, such as '%s%sgodwit-%%j.prom'", m->path, S_ISDIR(st.st_mode) ? "a directory" :
		        "no ordinary file", S_ISDIR(st.st_mode) ? m->path : "", S_ISDIR(st.st_mode) ? "/" : "");
	} else {
		fd = open_beside(m);
		if (fd < 0)
			gw_fail(&why, fd, "-metrics: '%s' cannot be written: %s; name a file in a directory that you may write to", m->path,
			        strerror(-fd));
		else
			close(fd);
		if (fd >= 0)
			unlink(m->beside);
	}
	snprintf(said, cap, "%s", why.text);
	return why.code;
}

static int write_it(void *ctx, char *said, size_t cap)
{
	const struct metrics *m = ctx;
	size_t len = strlen(m->text);
	int fd = open_beside(m), code = 0;

	(void)said;
	(void)cap;
	if (fd < 0)
		return fd;
	for (size_t at = 0; at < len && code == 0;) {
		ssize_t n = write(fd, m->text + at, len - at);

		if (n > 0)
			at += (size_t)n;
		else if (errno != EINTR)
			code = -errno;
	}
	if (close(fd) < 0 && code == 0) /* a file server says it here that it is full */
		code = -errno;
	if (code == 0 && rename(m->beside, m->path) < 0)
		code = -errno;
	if (code < 0)
		unlink(m->beside);
	return code;
}

static int remove_it(void *ctx, char *said, size_t cap)
{
	const struct metrics *m = ctx;

	(void)said;
	(void)cap;
	return unlink(m->path) < 0 ? -errno : 0;
}

/* ---- in mpirun --------------------------------------------------------------------------------------------------------------- */

static void failed(struct metrics *m, int code)
{
	if (!m->has_failed)
		job_say(m->head, "mpirun: -metrics: '%s' cannot be written: %s; it is tried again", m->path, errand_text(code));
	m->has_failed = true;
}

static void on_written(void *ctx, int code, char *said)
{
	struct metrics *m = ctx;

	(void)said;
	free(m->text);
	m->text = NULL;
	m->has_hung = false;
	if (code < 0) {
		failed(m, code);
		return;
	}
	m->is_written = true;
	m->has_failed = false;
}

static void on_surveyed(void *ctx, json_t *all)
{
	struct metrics *m = ctx;
	struct gw_error why = { 0 };

	m->text = all ? rt_metrics_text(all) : NULL;
	json_decref(all);
	if (!m->text)
		failed(m, -ENOMEM);
	else if (errand_begin(&m->errand, m->head->loop, write_it, on_written, m, &why) < 0)
		on_written(m, why.code, NULL);
	wait_ms(m, m->head->spec->metrics_every_ms ? m->head->spec->metrics_every_ms : EVERY_MS);
}

static void on_timer(void *ctx)
{
	struct metrics *m = ctx;
	uint64_t age_ms = errand_age_ms(m->errand);

	m->timer = NULL;
	if (m->errand) {
		if (age_ms >= HUNG_MS && !m->has_hung) {
			job_say(m->head, "mpirun: -metrics: '%s' is not written: its file system has not answered for %llu s; it is when it does", m->path,
			        (unsigned long long)age_ms / 1000);
			m->has_hung = true;
		}
		wait_ms(m, FIRST_MS);
	} else if (survey_begin(m->head, SURVEY_USE, on_surveyed, m) < 0) {
		on_surveyed(m, NULL);
	}
}

static void wait_ms(struct metrics *m, uint64_t ms)
{
	if (gw_loop_timer(m->head->loop, &m->timer, ms, 0, on_timer, m) < 0)
		job_say(m->head, "mpirun: no memory for a timer: -metrics is written no more");
}

/* "%j" of a path is the job's number: several may run on a host */
static bool put_job(char *to, size_t cap, const char *from, uint32_t job)
{
	size_t n = 0;

	for (; *from && n + 9 < cap; from++)
		if (from[0] == '%' && from[1] == 'j') {
			n += (size_t)snprintf(to + n, cap - n, "%08x", job);
			from++;
		} else {
			to[n++] = *from;
		}
	to[n] = '\0';
	return !*from;
}

static void on_tried(void *ctx, int code, char *said)
{
	struct metrics *m = ctx;

	if (code < 0 && *said)
		gw_fail(m->tried, code, "%s", said);
	else if (code < 0)
		gw_fail(m->tried, code, "-metrics: '%s' cannot be written: %s", m->path, errand_text(code));
}

int metrics_init(struct head *h, struct gw_error *why)
{
	struct metrics *m;
	int code;

	if (!h->spec->metrics)
		return 0;
	m = h->metrics = calloc(1, sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "out of memory");
	m->head = h;
	if (!put_job(m->path, sizeof(m->path), h->spec->metrics, h->job))
		return gw_fail(why, -ENAMETOOLONG, "-metrics: the name of the file is too long");
	snprintf(m->beside, sizeof(m->beside), "%s.%d", m->path, (int)getpid()); /* not *.prom: no collector takes it */
	m->tried = why;
	code = errand_begin(&m->errand, h->loop, try_it, on_tried, m, why);
	if (code == 0 && errand_wait(&m->errand, gw_now_ns() + OPEN_MS * 1000000ull) < 0)
		gw_fail(why, -ETIMEDOUT, "-metrics: '%s' cannot be written within %d s: its file system does not answer; name another file",
		        m->path, OPEN_MS / 1000);
	m->tried = NULL;
	if (why->code < 0)
		return why->code;
	wait_ms(m, FIRST_MS);
	return 0;
}

static void on_removed(void *ctx, int code, char *said)
{
	struct metrics *m = ctx;

	(void)said;
	m->is_written = code < 0 && code != -ENOENT;
}

void metrics_fini(struct head *h)
{
	struct metrics *m = h->metrics;
	uint64_t end;

	h->metrics = NULL;
	if (!m)
		return;
	end = gw_now_ns() + (errand_age_ms(m->errand) < HUNG_MS ? END_MS * 1000000ull : 0);
	survey_forget(h, m);
	gw_timer_cancel(m->timer);
	if (errand_wait(&m->errand, end) == 0 && m->is_written &&
	    errand_begin(&m->errand, h->loop, remove_it, on_removed, m, NULL) == 0)
		errand_wait(&m->errand, end);
	if (m->is_written)
		job_say(h, "mpirun: -metrics: '%s' stays, with how the job was at last: %s", m->path, m->errand ?
		        "its file system does not answer" : "it cannot be removed");
	errand_drop(&m->errand);
	free(m->text);
	free(m);
}
