/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The images of the ranks that live here, written to a directory while all ranks of the job are quiet.
 *
 *   head ── checkpoint ──► check and freeze every rank, write down what the daemon holds for it
 *                          turn by turn of the loop: the next bytes of an image, compressed
 *                          a thread: all to the disk
 *        ◄─ checkpointed ─ name, length, hash of each image; or what failed
 *        ── resume ──────► all go on (suspend.c)
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "container/cold.h"
#include "runtime/clusterd/clusterd.h"
#include "runtime/cold/cold.h"

#define FREEZE_MS   2000
#define TURN_BYTES  (2u << 20) /* of images in one turn of the loop: heartbeats come between */

struct image {
	struct rank *rank;
	char name[COLD_NAME_MAX], hash[COLD_HASH_MAX];
	struct cold_writer *writer;
	void *head;             /* struct cold_head and what it counts, until it is written */
	size_t head_len;
	uint64_t bytes, size;   /* before and after compression */
	uint64_t real_ns;       /* CLOCK_REALTIME when its clocks were what its needs say */
	json_t *files;          /* that it appends to: path, ino, length */
};

struct checkpoint {
	struct clusterd *d;
	uint64_t id;
	int dirfd, done_fd;
	struct image *images;
	size_t n, at;
	void *buf;
	pthread_t syncer;
	bool is_syncing;
	int sync_code;          /* of the thread */
	struct gw_watch *done_watch;
};

static void answer(struct checkpoint *c, const struct gw_error *why)
{
	json_t *images = json_array();

	for (size_t k = 0; k < c->n && !why; k++) {
		const struct image *i = &c->images[k];

		json_array_append_new(images, json_pack("{s:i, s:s, s:I, s:O, s:I, s:I, s:s}", "rank", (int)i->rank->proc, "name", i->name,
		                      "real_ns", (json_int_t)i->real_ns, "files", i->files, "bytes", (json_int_t)i->bytes, "size",
		                      (json_int_t)i->size, "hash", i->hash));
	}
	gw_link_send_json(c->d->head, json_pack("{s:s, s:I, s:o, s:i, s:s*}", "op", "checkpointed", "id", (json_int_t)c->id, "images", images,
	                                        "status", why ? why->code : 0, "text", why ? why->text : NULL));
}

static void drop(struct checkpoint *c)
{
	if (c->is_syncing)
		pthread_join(c->syncer, NULL);
	gw_watch_remove(c->done_watch);
	for (size_t i = 0; i < c->n; i++) {
		cold_writer_close(c->images[i].writer);
		free(c->images[i].head);
		json_decref(c->images[i].files);
	}
	if (c->dirfd >= 0)
		close(c->dirfd);
	if (c->done_fd >= 0)
		close(c->done_fd);
	free(c->images);
	free(c->buf);
	free(c);
}

void checkpoint_drop(struct clusterd *d)
{
	struct checkpoint *c = d->checkpoint;

	d->checkpoint = NULL;
	if (c)
		drop(c);
}

/* It stays frozen, and its daemon's state written down, until the head says resume. */
static void fail(struct checkpoint *c, struct gw_error *why)
{
	answer(c, why);
	checkpoint_drop(c->d);
}

/* ---- what the daemon knows, before the image ------------------------------------------------------------------------- */

static json_t *ids_json(const struct ct_needs *n, const struct ct_cold_id *ids)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < n->files; i++)
		json_array_append_new(list, json_string(ids[i].text));
	return list;
}

static json_t *needs_json(struct rank *r, const struct ct_needs *n, const struct ct_cold_id *ids)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "version", (json_int_t)n->version, "uid",
	                 (json_int_t)n->uid, "gid", (json_int_t)n->gid, "threads", (json_int_t)n->threads, "ns_pid", (json_int_t)n->ns_pid,
	                 "vmas", (json_int_t)n->vmas, "private_bytes", (json_int_t)n->private_bytes, "vdso_hash", (json_int_t)n->vdso_hash,
	                 "xfeatures", (json_int_t)n->xfeatures, "files", (json_int_t)n->files, "monotonic_ns", (json_int_t)n->monotonic_ns,
	                 "boottime_ns", (json_int_t)n->boottime_ns, "ids", ids_json(n, ids), "hints", moves_hints(r));
}

static int write_down(struct image *i, const struct ct_needs *needs, const struct ct_cold_id *ids, json_t *state, struct gw_error *why)
{
	json_t *json = needs_json(i->rank, needs, ids);
	gw_autofree char *needs_text = json_dumps(json, JSON_COMPACT), *state_text = json_dumps(state, JSON_COMPACT);
	struct cold_head head = { .magic = COLD_MAGIC, .version = COLD_VERSION, .proc = i->rank->proc, .blob_len = needs->blob_len };
	char *p;

	json_decref(json);
	if (!needs_text || !state_text)
		return gw_fail(why, -ENOMEM, "rank %u: its daemon's state could not be written down", i->rank->proc);
	head.needs_len = strlen(needs_text);
	head.state_len = strlen(state_text);
	i->head_len = sizeof(head) + head.needs_len + head.blob_len + head.state_len;
	i->head = p = malloc(i->head_len);
	if (!p)
		return gw_fail(why, -ENOMEM, "rank %u: out of memory", i->rank->proc);
	memcpy(p, &head, sizeof(head));
	memcpy(p += sizeof(head), needs_text, head.needs_len);
	if (head.blob_len)
		memcpy(p + head.needs_len, needs->blob, head.blob_len);
	memcpy(p + head.needs_len + head.blob_len, state_text, head.state_len);
	return 0;
}

static int add_file(void *ctx, const char *path, uint64_t ino, uint64_t length, struct gw_error *why)
{
	struct image *i = ctx;

	if (json_array_append_new(i->files, json_pack("{s:s, s:I, s:I}", "path", path, "ino", (json_int_t)ino, "length", (json_int_t)length)) < 0)
		return gw_fail(why, -EILSEQ, "the name of the file '%s', which it writes, is not text (UTF-8)", path);
	return 0;
}

static int freeze(struct image *i, struct gw_error *why)
{
	struct rank *r = i->rank;
	enum pmi_phase phase = pmi_session_phase(r->pmi);
	struct ct_freeze_stats stats;
	struct ct_needs needs = { 0 };
	gw_autofree struct ct_cold_id *ids = NULL;
	uint64_t monotonic_ns, boottime_ns;
	json_t *state = NULL;
	int code;

	if (r->is_stopped_by_another)
		return gw_fail(why, -EBUSY, "rank %u is stopped by a signal; continue it first: kill -CONT %d", r->proc, (int)r->pid);
	if (r->agent != AGENT_QUIET && (phase == PMI_OPEN || (r->agent != AGENT_NONE && r->agent != AGENT_CLOSED)))
		return gw_fail(why, -EAGAIN, "rank %u is in MPI_Init or MPI_Finalize, or does not leave an MPI call; try again", r->proc);
	ct_rank_may_carry(r->ct, false); /* as its last move might have left it */
	ct_rank_way(r->ct, CT_WAY_COLD);
	code = ct_rank_check(r->ct, &needs, why);
	ct_rank_clocks(r->ct, &monotonic_ns, &boottime_ns);
	i->real_ns = gw_realtime_ns() - (monotonic_ns - needs.monotonic_ns);
	if (code == 0)
		code = ct_cold_ids(&needs, &ids, why);
	if (code == 0)
		code = ct_rank_freeze(r->ct, FREEZE_MS, &stats, why);
	if (code == 0) {
		r->is_frozen = true;
		code = ct_cold_still(&needs, r->ct, why);
	}
	if (code == 0) {
		state = moves_export(r, why);
		code = state ? write_down(i, &needs, ids, state, why) : why->code ? why->code : -ENOMEM;
	}
	if (code == 0) {
		i->files = json_array();
		code = ct_cold_written(r->ct, add_file, i, why);
	}
	json_decref(state);
	ct_needs_fini(&needs);
	return code < 0 ? gw_fail_more(why, "rank %u: ", r->proc) : 0;
}

/* ---- writing --------------------------------------------------------------------------------------------------------- */

static void *sync_all(void *ctx)
{
	struct checkpoint *c = ctx;
	uint64_t one = 1;

	for (size_t i = 0; i < c->n && c->sync_code == 0; i++)
		c->sync_code = cold_writer_sync(c->images[i].writer);
	if (c->sync_code == 0 && fsync(c->dirfd) < 0)
		c->sync_code = -errno;
	if (write(c->done_fd, &one, sizeof(one)) < 0)
		c->sync_code = -errno; /* never: the counter has room */
	return NULL;
}

static void on_synced(void *ctx, uint32_t events)
{
	struct checkpoint *c = ctx;
	struct gw_error why = { 0 };

	(void)events;
	pthread_join(c->syncer, NULL);
	c->is_syncing = false;
	for (size_t i = 0; i < c->n && why.code == 0; i++)
		if (ct_rank_was_killed(c->images[i].rank->ct))
			gw_fail(&why, -ESRCH, "rank %u was killed meanwhile", c->images[i].rank->proc);
	if (c->sync_code < 0)
		gw_fail(&why, c->sync_code, "the images cannot be brought to the disk: %s", strerror(-c->sync_code));
	if (why.code < 0) {
		fail(c, &why);
		return;
	}
	answer(c, NULL);
	checkpoint_drop(c->d);
}

static int begin_sync(struct checkpoint *c, struct gw_error *why)
{
	int code;

	gw_fault("rt.checkpoint.written");
	c->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	code = c->done_fd < 0 ? -errno : gw_loop_watch(c->d->loop, &c->done_watch, c->done_fd, EPOLLIN, on_synced, c);
	if (code == 0)
		code = -pthread_create(&c->syncer, NULL, sync_all, c);
	if (code < 0)
		return gw_fail(why, code, "the images cannot be brought to the disk: %s", strerror(-code));
	c->is_syncing = true;
	return 0;
}

/* The next bytes of the image. Return: 1 more, 0 it is complete. */
static int step(struct checkpoint *c, struct image *i, struct gw_error *why)
{
	ssize_t n;
	int code;

	if (!i->writer) {
		gw_fault("rt.checkpoint.image");
		code = cold_writer_open(&i->writer, c->dirfd, i->name, why);
		if (code == 0)
			code = cold_writer_put(i->writer, i->head, i->head_len, why);
		if (code < 0)
			return code;
	}
	n = ct_image_next(i->rank->ct, c->buf, CT_IMAGE_CHUNK_MIN, why);
	if (n < 0)
		return gw_fail_more(why, "the image of rank %u could not be read: ", i->rank->proc);
	i->bytes += (uint64_t)n;
	code = n ? cold_writer_put(i->writer, c->buf, (size_t)n, why) : cold_writer_finish(i->writer, &i->size, i->hash, why);
	return code < 0 ? code : n > 0;
}

static void turn(void *ctx)
{
	struct clusterd *d = ctx;
	struct checkpoint *c = d->checkpoint;
	struct gw_error why = { 0 };
	int code = 1;

	d->is_checkpoint_turn_due = false;
	if (!c || c->is_syncing || d->is_ending)
		return;
	for (size_t in_turn = 0; code >= 0 && c->at < c->n && in_turn < TURN_BYTES; in_turn += CT_IMAGE_CHUNK_MIN) {
		code = step(c, &c->images[c->at], &why);
		c->at += code == 0;
	}
	if (code >= 0 && c->at == c->n)
		code = begin_sync(c, &why);
	else if (code >= 0 && gw_loop_defer(d->loop, turn, d) < 0)
		code = gw_fail(&why, -ENOMEM, "out of memory");
	else if (code >= 0)
		d->is_checkpoint_turn_due = true;
	if (code < 0)
		fail(c, &why);
}

static int prepare(struct checkpoint *c, const char *dir, struct gw_error *why)
{
	struct clusterd *d = c->d;
	size_t n = 0;

	if (d->suspend.state != SUSPEND_QUIET || d->suspend.id != c->id) /* the head's mistake; it would be a cut that is not one */
		return gw_fail(why, -EPROTO, "the ranks of cluster %u are not quiet", d->cluster);
	gw_list_for(e, &d->ranks)
		n++;
	c->images = calloc(n + 1, sizeof(*c->images));
	c->buf = malloc(CT_IMAGE_CHUNK_MIN);
	if (!c->images || !c->buf)
		return gw_fail(why, -ENOMEM, "out of memory");
	c->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->dirfd < 0)
		return gw_fail(why, -errno, "the daemon of cluster %u cannot open '%s' (%s): all hosts of the job must see the directory",
		               d->cluster, dir, strerror(errno));
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);
		int code;

		if (moves_is_busy(r)) /* which it must not be: the head has waited for all moves */
			return gw_fail(why, -EBUSY, "rank %u is just being moved", r->proc);
		if (r->state != RANK_HERE)
			continue;
		c->images[c->n].rank = r;
		cold_image_name(c->images[c->n].name, r->proc);
		code = freeze(&c->images[c->n++], why);
		if (code < 0)
			return code;
	}
	return 0;
}

void checkpoint_begin(struct clusterd *d, uint64_t id, const char *dir)
{
	struct checkpoint *c = calloc(1, sizeof(*c));
	struct gw_error why = { 0 };

	checkpoint_drop(d); /* none: the head has one at a time */
	if (!c) {
		clusterd_fatal(d, "no memory for a checkpoint");
		return;
	}
	c->d = d;
	c->id = id;
	c->dirfd = c->done_fd = -1;
	d->checkpoint = c;
	if (prepare(c, dir, &why) < 0)
		fail(c, &why);
	else if (!d->is_checkpoint_turn_due)
		turn(d);
}
