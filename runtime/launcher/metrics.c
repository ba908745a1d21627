/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * -metrics FILE: every so often all that status knows, as text for Prometheus (runtime/metrics.c), to a file that a collector reads.
 * A file that is there is whole: the text is written beside it and renamed. It goes when the job ends, so that nobody reads for ever how
 * the job was in its last seconds.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/head.h"
#include "runtime/metrics.h"

#define FIRST_MS 1000
#define EVERY_MS 10000

struct metrics {
	struct head *head;
	struct gw_timer *timer;
	char path[4096], beside[4112];
	bool is_written, has_failed; /* has_failed: and it was said */
};

static void wait_ms(struct metrics *m, uint64_t ms);

static int write_all(const struct metrics *m, const char *text)
{
	size_t len = strlen(text);
	int fd = open(m->beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), code = 0;

	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < len && code == 0;) {
		ssize_t n = write(fd, text + at, len - at);

		if (n > 0)
			at += (size_t)n;
		else if (errno != EINTR)
			code = -errno;
	}
	close(fd);
	if (code == 0 && rename(m->beside, m->path) < 0)
		code = -errno;
	if (code < 0)
		unlink(m->beside);
	return code;
}

static void on_surveyed(void *ctx, json_t *all)
{
	struct metrics *m = ctx;
	gw_autofree char *text = all ? rt_metrics_text(all) : NULL;
	int code = text ? write_all(m, text) : -ENOMEM;

	json_decref(all);
	m->is_written |= code == 0;
	if (code < 0 && !m->has_failed)
		job_say(m->head, "mpirun: -metrics: '%s' cannot be written: %s; it is tried again", m->path, strerror(-code));
	m->has_failed = code < 0;
	wait_ms(m, m->head->spec->metrics_every_ms ? m->head->spec->metrics_every_ms : EVERY_MS);
}

static void on_timer(void *ctx)
{
	struct metrics *m = ctx;

	m->timer = NULL;
	if (survey_begin(m->head, SURVEY_USE, on_surveyed, m) < 0)
		on_surveyed(m, NULL);
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

int metrics_init(struct head *h, struct gw_error *why)
{
	struct metrics *m;
	struct stat st;
	int fd;

	if (!h->spec->metrics)
		return 0;
	m = h->metrics = calloc(1, sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "out of memory");
	m->head = h;
	if (!put_job(m->path, sizeof(m->path), h->spec->metrics, h->job))
		return gw_fail(why, -ENAMETOOLONG, "-metrics: the name of the file is too long");
	if (stat(m->path, &st) == 0 && !S_ISREG(st.st_mode)) /* it would be replaced: of a device by root, too */
		return gw_fail(why, -EINVAL, "-metrics: '%s' is %s; name a file, such as '%s%sgodwit-%%j.prom'", m->path, S_ISDIR(st.st_mode) ? "a directory" :
		               "no ordinary file", S_ISDIR(st.st_mode) ? m->path : "", S_ISDIR(st.st_mode) ? "/" : "");
	snprintf(m->beside, sizeof(m->beside), "%s.%d", m->path, (int)getpid()); /* not *.prom: no collector takes it */
	fd = open(m->beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return gw_fail(why, -errno, "-metrics: '%s' cannot be written: %s; name a file in a directory that you may write to", m->path,
		               strerror(errno));
	close(fd);
	unlink(m->beside);
	wait_ms(m, FIRST_MS);
	return 0;
}

void metrics_fini(struct head *h)
{
	struct metrics *m = h->metrics;

	h->metrics = NULL;
	if (!m)
		return;
	survey_forget(h, m);
	gw_timer_cancel(m->timer);
	if (m->is_written)
		unlink(m->path);
	free(m);
}
