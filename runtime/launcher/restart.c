/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A job that was written down goes on: mpirun with a manifest in place of a command line.
 *
 * Hosts, clusters, output and signals are those of any mpirun; what is different is where the ranks come from:
 *
 *   all clusters: restart ──► restored, of each rank ──► restart-cut to all ──► answered by all ──► restart-go to all ──► launched
 *
 * One that cannot be made ends the attempt with a sentence, before anything has run; the directory stays as it was.
 * The job keeps its number, since the names in its ranks' memory are made of it, and the lock of the directory keeps others away.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/cold/cold.h"
#include "runtime/launcher/restart.h"

#define LINGER_MS 10000 /* of what was left of the job on this host */

/* ---- before there is a head ------------------------------------------------------------------------------------------ */

static int open_images(struct restart *r, int dirfd, struct gw_error *why)
{
	const char *cut = json_string_value(json_object_get(r->manifest, "directory"));

	if (!cut || strchr(cut, '/') || strcmp(cut, "..") == 0 || strlen(cut) >= COLD_NAME_MAX)
		return gw_fail(why, -EPROTO, "%s: the manifest does not say where the images are", r->dir);
	r->imagesfd = openat(dirfd, cut, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r->imagesfd < 0)
		return gw_fail(why, errno == ENOENT ? -EBADMSG : -errno, "'%s/%s', where the images are, cannot be opened: %s", r->dir, cut,
		               strerror(errno));
	snprintf(r->images, sizeof(r->images), "%s/%s", r->dir, cut);
	return 0;
}

static int read_images(struct restart *r, uint32_t size, struct gw_error *why)
{
	const json_t *images = json_object_get(r->manifest, "images"), *ranks = json_object_get(r->manifest, "ranks"), *image;
	gw_autofree bool *has = calloc(size, sizeof(*has));
	size_t i;

	if (!has)
		return gw_fail(why, -ENOMEM, "out of memory");
	json_array_foreach((json_t *)(uintptr_t)images, i, image) {
		json_int_t rank, bytes, real_ns;
		const char *name, *hash;

		if (json_unpack((json_t *)(uintptr_t)image, "{s:I, s:s, s:s, s:I, s:I}", "rank", &rank, "name", &name, "hash", &hash, "size",
		                        &bytes, "real_ns", &real_ns) < 0 || rank < 0 || rank >= (json_int_t)size || has[rank] || strchr(name, '/'))
			return gw_fail(why, -EPROTO, "%s: the manifest's images are not understood", r->dir);
		has[rank] = true;
		r->stood_ns = (uint64_t)real_ns > r->stood_ns ? (uint64_t)real_ns : r->stood_ns;
	}
	if (!json_is_array(json_object_get(r->manifest, "files")))
		return gw_fail(why, -EPROTO, "%s: the manifest's files are not understood", r->dir);
	for (i = 0; i < size; i++)
		if (has[i] == json_is_true(json_object_get(json_array_get(ranks, i), "ended")))
			return gw_fail(why, -EPROTO, "%s: the manifest has %zu images for %u ranks, and %s rank %zu", r->dir, json_array_size(images), size,
			               has[i] ? "one of the ended" : "none of", i);
	r->n_images = (uint32_t)json_array_size(images);
	return 0;
}

static int take(struct job_spec *spec, struct restart *r, struct gw_error *why)
{
	gw_autofree char *path = realpath(spec->restart_dir, NULL);
	gw_autoclose int fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	struct gw_error damage = { 0 };
	char cut[COLD_NAME_MAX];
	const char *job;
	int code;

	r->imagesfd = -1;
	if (fd < 0)
		return gw_fail(why, -errno, "the directory '%s' cannot be opened: %s; name one that 'godwit checkpoint' wrote", spec->restart_dir,
		               strerror(errno));
	snprintf(r->dir, sizeof(r->dir), "%s", path);
	code = cold_manifest_read(fd, r->dir, &r->manifest, &damage);
	if (code < 0 && cold_dir_newest(fd, NULL, UINT64_MAX, cut))
		return gw_fail(why, code, "%s; '%s/%s' can be used instead", damage.text, r->dir, cut);
	if (code < 0) {
		*why = damage;
		return code;
	}
	code = open_images(r, fd, why);
	if (code == 0)
		code = remember_options(spec, r, why);
	if (code == 0)
		code = read_images(r, spec->size, why);
	if (code < 0)
		return code;
	job = json_string_value(json_object_get(r->manifest, "job"));
	r->job = job ? (uint32_t)strtoul(job, NULL, 16) : 0;
	r->base_pid = (uint32_t)json_integer_value(json_object_get(r->manifest, "base_pid"));
	return r->job && r->base_pid ? 0 : gw_fail(why, -EPROTO, "%s: the manifest does not say which job it is of", r->dir);
}

int restart_take(struct job_spec *spec, struct gw_error *why)
{
	if (!spec->restart_dir)
		return 0;
	spec->restart = calloc(1, sizeof(*spec->restart));
	return spec->restart ? take(spec, spec->restart, why) : gw_fail(why, -ENOMEM, "out of memory");
}

void restart_release(struct job_spec *spec)
{
	struct restart *r = spec->restart;

	if (!r)
		return;
	if (r->imagesfd >= 0)
		close(r->imagesfd);
	json_decref(r->manifest);
	free(r);
	spec->restart = NULL;
}

/* ---- the head -------------------------------------------------------------------------------------------------------- */

/* Does the job run on this host? */
static int look_for_job(const struct restart *r, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];

	rt_socket_name(name, r->job, -1);
	if (gw_probe_unix(name) == 0)
		return gw_fail(why, -EBUSY, "job %08x runs on this host; it must not run twice: end it first, or see 'godwit status --job %08x'",
		               r->job, r->job);
	return 0;
}

/* Is something of it left, that is about to end with its mpirun? */
static int wait_for_end(const struct restart *r, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX], line[256], what[RT_SOCKET_NAME_MAX];
	uint64_t until = gw_now_ns() + LINGER_MS * 1000000ull;
	bool is_there = true;

	rt_socket_name(name, r->job, -1);
	snprintf(what, sizeof(what), "@%.*s", (int)(strrchr(name, '/') - name + 1), name);
	while (is_there && gw_now_ns() < until) {
		FILE *f = fopen("/proc/net/unix", "re");

		is_there = false;
		while (f && fgets(line, sizeof(line), f))
			is_there |= strstr(line, what) != NULL;
		if (f)
			fclose(f);
		if (is_there)
			poll(NULL, 0, 10);
	}
	return is_there ? gw_fail(why, -EBUSY, "daemons of job %08x are still there on this host; it must not run twice", r->job) : 0;
}

/* One of several in a directory? Then that is locked; and if not, as when only the images were copied elsewhere, its own. */
static bool is_in_its_place(const struct restart *r)
{
	static const char *const signs[] = { COLD_MANIFEST, COLD_LOCK };
	char cut[COLD_NAME_MAX], path[sizeof(r->dir) + 16];

	cold_cut_name(cut, json_string_value(json_object_get(r->manifest, "job")),
	              (uint64_t)json_integer_value(json_object_get(r->manifest, "checkpoint")));
	if (strcmp(strrchr(r->dir, '/') + 1, cut) != 0)
		return false;
	for (size_t i = 0; i < GW_ARRAY_LEN(signs); i++) {
		snprintf(path, sizeof(path), "%s/../%s", r->dir, signs[i]);
		if (access(path, F_OK) == 0)
			return true;
	}
	return false;
}

/* The directory is ours from now on; is it still what we have read? */
static int hold(struct head *h, const struct restart *r, struct gw_error *why)
{
	bool is_cut = strcmp(json_string_value(json_object_get(r->manifest, "directory")), ".") == 0 && is_in_its_place(r);
	char path[sizeof(r->dir) + 4];
	struct cold_dir *dir;
	json_t *now = NULL;
	int fd, code;

	snprintf(path, sizeof(path), "%s%s", r->dir, is_cut ? "/.." : "");
	code = checkpoint_hold(h, path, &dir, why);
	if (code < 0)
		return code;
	fd = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	code = fd < 0 ? gw_fail(why, -errno, "'%s' cannot be opened: %s", r->dir, strerror(errno)) : cold_manifest_read(fd, r->dir, &now, why);
	if (code == 0 && !json_equal(now, r->manifest))
		code = gw_fail(why, -EAGAIN, "a newer checkpoint has just been written to '%s'; try again", r->dir);
	json_decref(now);
	if (fd >= 0)
		close(fd);
	return code;
}

int restart_setup(struct head *h, struct gw_error *why)
{
	struct restart *r = h->spec->restart;
	int code = look_for_job(r, why);

	if (code == 0)
		code = hold(h, r, why);
	if (code == 0)
		code = wait_for_end(r, why);
	if (code == 0)
		code = remember_head(h, r, why);
	h->base_pid = r->base_pid;
	r->began_ns = gw_now_ns();
	return code;
}

bool restart_is_pending(const struct job_spec *spec)
{
	return spec->restart && !spec->restart->is_going;
}

uint32_t restart_job(const struct job_spec *spec)
{
	return spec->restart->job;
}

/* Ranks have reserved addresses for just so many. */
uint32_t restart_room(const struct job_spec *spec, uint32_t room)
{
	const json_t *was = spec->restart ? json_object_get(spec->restart->manifest, "room") : NULL; /* remember_options() has looked at it */

	return was ? (uint32_t)json_integer_value(was) : room;
}

uint64_t restart_outfile(const struct job_spec *spec, const char *path)
{
	const json_t *list = spec->restart ? json_object_get(spec->restart->manifest, "outfiles") : NULL, *f;
	gw_autofree char *full = list ? realpath(path, NULL) : NULL;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, f)
		if (full && json_is_string(json_object_get(f, "path")) && strcmp(full, json_string_value(json_object_get(f, "path"))) == 0)
			return (uint64_t)json_integer_value(json_object_get(f, "length"));
	return 0;
}

static json_t *names_json(const struct head *h)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < h->size; i++)
		json_array_append_new(list, json_pack("[i, i, I, b]", (int)h->ranks[i].cluster, (int)h->clusters[h->ranks[i].cluster].host,
		                                      (json_int_t)h->ranks[i].epoch, (int)(h->ranks[i].state == RANK_ENDED)));
	return list;
}

/* In place of launches: it is up. */
void restart_cluster(struct head *h, struct cluster *c)
{
	struct restart *r = h->spec->restart;
	const json_t *images = json_object_get(r->manifest, "images"), *image;
	json_t *ranks = json_array();
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)images, i, image) {
		json_int_t rank = json_integer_value(json_object_get(image, "rank"));

		if (h->ranks[rank].cluster == c->index)
			json_array_append_new(ranks, json_pack("{s:I, s:O, s:O, s:O, s:I, s:I}", "rank", rank, "name", json_object_get(image, "name"),
			                      "hash", json_object_get(image, "hash"), "size", json_object_get(image, "size"), "epoch",
			                      (json_int_t)h->ranks[rank].epoch, "passed_ns", (json_int_t)r->stood_ns -
			                      json_integer_value(json_object_get(image, "real_ns"))));
	}
	job_cluster_send(h, c->index, json_pack("{s:s, s:s, s:I, s:o, s:O, s:o}", "op", "restart", "dir", r->images, "elapsed_ns",
	                                        (json_int_t)(gw_now_ns() - r->began_ns), "names", names_json(h), "files",
	                                        json_object_get(r->manifest, "files"), "ranks", ranks));
}

/* All that have ranks: the end of one of these is the job's. Return how many they are. */
static uint32_t tell(struct head *h, const char *op)
{
	gw_autofree bool *has = calloc(h->n_clusters, sizeof(*has));
	uint32_t n = 0;

	for (uint32_t i = 0; has && i < h->size; i++) {
		uint32_t c = h->ranks[i].cluster;

		if (h->ranks[i].state == RANK_ENDED)
			continue;
		if (!has[c])
			n += job_cluster_send(h, c, json_pack("{s:s}", "op", op));
		has[c] = true;
	}
	if (!has)
		job_fail(h, 1, "out of memory");
	return n;
}

/* An image is damaged; one of the job's that is older may be whole. */
static void name_older(const struct restart *r, char *buf, size_t cap)
{
	const json_t *m = r->manifest;
	bool is_cut = strcmp(json_string_value(json_object_get(m, "directory")), ".") == 0;
	int len = (int)(is_cut ? strrchr(r->dir, '/') - r->dir : (ptrdiff_t)strlen(r->dir));
	char dir[sizeof(r->dir)], cut[COLD_NAME_MAX];
	gw_autoclose int fd = -1;

	snprintf(dir, sizeof(dir), "%.*s", len, r->dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && cold_dir_newest(fd, json_string_value(json_object_get(m, "job")),
	                               (uint64_t)json_integer_value(json_object_get(m, "checkpoint")), cut))
		snprintf(buf, cap, "; '%s/%s', which is older, can be used instead", dir, cut);
}

static void give_up(struct cluster *c, json_t *msg)
{
	const struct restart *r = c->head->spec->restart;
	const char *text = json_string_value(json_object_get(msg, "text"));
	char name[CLUSTER_NAME_MAX], older[sizeof(r->dir) + COLD_NAME_MAX + 64] = "";

	if (json_integer_value(json_object_get(msg, "status")) == -EBADMSG) {
		if (again_pass_over(c->head->spec, text ? text : "?")) { /* the next attempt tells of it */
			job_fail(c->head, 1, "%s", "");
			return;
		}
		name_older(r, older, sizeof(older));
	}
	job_fail(c->head, 1, "rank %lld cannot be continued on %s: %s; nothing of the job runs, and '%s' is as it was%s",
	         (long long)json_integer_value(json_object_get(msg, "rank")), clusters_name(c->head, c->index, name), text ? text : "?", r->dir,
	         older);
}

void restart_heard(struct cluster *c, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct head *h = c->head;
	struct restart *r = h->spec->restart;

	if (!r || r->is_going || h->is_ending)
		return;
	if (json_object_get(msg, "text")) {
		give_up(c, msg);
	} else if (strcmp(op, "restored") == 0 && ++r->restored == r->n_images && !r->is_cutting) {
		gw_fault("rt.restart.restored");
		r->is_cutting = true;
		r->cuts_due = tell(h, "restart-cut");
	} else if (strcmp(op, "restart-cut") == 0 && r->is_cutting && --r->cuts_due == 0) {
		r->is_going = true;
		gw_event("job.restarted", "{s:s, s:I}", "dir", r->dir, "checkpoint",
		         json_integer_value(json_object_get(r->manifest, "checkpoint")));
		again_say(h);
		tell(h, "restart-go");
	}
}

/* It does not see the directory. */
void restart_ask(struct cluster *c, json_t *msg)
{
	json_int_t rank = json_integer_value(json_object_get(msg, "rank")), offset = json_integer_value(json_object_get(msg, "offset"));
	json_int_t bytes = json_integer_value(json_object_get(msg, "bytes"));
	struct restart *r = c->head->spec->restart;
	struct rt_piece piece = { .rank = (uint32_t)rank, .offset = (uint64_t)offset };
	gw_autofree char *frame = NULL;
	const char *name = NULL;
	gw_autoclose int fd = -1;
	const json_t *image;
	ssize_t n = 0;
	size_t i;

	if (!r || bytes <= 0 || bytes > (GW_FRAME_MAX >> 1))
		return;
	json_array_foreach(json_object_get(r->manifest, "images"), i, image)
		if (json_integer_value(json_object_get(image, "rank")) == rank)
			name = json_string_value(json_object_get(image, "name"));
	frame = malloc(sizeof(piece) + (size_t)bytes);
	fd = name ? openat(r->imagesfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
	if (!frame) {
		job_fail(c->head, 1, "out of memory for an image of rank %lld; nothing of the job runs, and '%s' is as it was", (long long)rank, r->dir);
		return;
	}
	memcpy(frame, &piece, sizeof(piece));
	if (fd >= 0)
		n = pread(fd, frame + sizeof(piece), (size_t)bytes, (off_t)offset);
	gw_link_send(c->link, RT_FRAME_IMAGE, frame, sizeof(piece) + (n > 0 ? (size_t)n : 0), NULL, 0); /* nothing: it cannot be read */
}
