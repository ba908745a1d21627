/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ranks that were written down come back: a move whose source is a file.
 *
 *   head ── restart ──────► image after image, turn by turn of the loop: proved to fit here, a shell, filled, made ready.
 *                           From the directory where this host sees it, else piece by piece from the head:
 *        ◄── image-ask ────
 *        ── RT_FRAME_IMAGE ►
 *        ◄── restored ───── of each rank; or restore-failed, which says why
 *        ── restart-cut ──► all ranks of the job are ready: files that they append to are cut to their length of then
 *        ◄── restart-cut ── done, or why not
 *        ── restart-go ───► ATTACH into the control sockets, thaw, one after the other
 *        ◄── launched, moved  of each
 *
 * Nothing has run before restart-go, so whatever fails until then costs nothing but the attempt. Nobody else has the ranks, or
 * will: there is one file, whose lock the head holds.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/cold.h"
#include "runtime/clusterd/clusterd.h"
#include "runtime/cold/cold.h"

#define TURN_BYTES (2u << 20)       /* of images, decompressed, in one turn of the loop: heartbeats come between */
#define READ_BYTES (64u << 10)
#define ASK_BYTES  (1u << 20)       /* of the head, at once */

struct item {
	struct restart *restart;
	uint32_t proc;
	const char *name, *hash;     /* of the request, which is kept */
	uint64_t size, epoch, passed_ns;
	int fd;                      /* -1: the head has it */
	uint64_t at;                 /* of the file */
	struct cold_reader *reader;
	struct rank *owner;          /* ours, once it is taken */
	struct ct_rank *ct;
};

struct restart {
	struct clusterd *d;
	json_t *request;
	int dirfd;                   /* -1: not seen from here */
	uint64_t heard_monotonic_ns, heard_boottime_ns;
	struct item *items;
	size_t n, at;
	bool is_asked;               /* the head, for a piece */
};

static void item_drop(struct item *i)
{
	cold_reader_close(i->reader);
	i->reader = NULL;
	if (i->fd >= 0)
		close(i->fd);
	i->fd = -1;
	ct_rank_kill(i->ct);
	i->ct = NULL;
	rank_destroy(i->owner);
	i->owner = NULL;
}

void restart_drop(struct clusterd *d)
{
	struct restart *s = d->restart;

	d->restart = NULL;
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		item_drop(&s->items[i]);
	if (s->dirfd >= 0)
		close(s->dirfd);
	free(s->items);
	json_decref(s->request);
	free(s);
}

/* The head ends the job, and us; until then nothing more is made. */
static void fail(struct item *i, const struct gw_error *why)
{
	struct clusterd *d = i->restart->d;

	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i, s:s}", "op", "restore-failed", "rank", (int)i->proc, "status", why->code,
	                                     "text", why->text));
	restart_drop(d);
}

/* ---- files ----------------------------------------------------------------------------------------------------------- */

/* How long a file that ranks append to shall be: for all of them, what the last of them has seen */
static uint64_t length_of(const struct restart *s, const char *path, uint64_t ino, uint64_t own)
{
	const json_t *files = json_object_get(s->request, "files"), *f;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)files, i, f) {
		const char *of = json_string_value(json_object_get(f, "path"));

		if (of && strcmp(of, path) == 0 && (uint64_t)json_integer_value(json_object_get(f, "ino")) == ino &&
		    (uint64_t)json_integer_value(json_object_get(f, "length")) > own)
			own = (uint64_t)json_integer_value(json_object_get(f, "length"));
	}
	return own;
}

static int check_written(void *ctx, const char *path, uint64_t ino, uint64_t length, struct gw_error *why)
{
	struct stat st;

	length = length_of(ctx, path, ino, length);
	if (stat(path, &st) < 0)
		return gw_fail(why, -errno, "the file '%s', which it writes, cannot be found: %s", path, strerror(errno));
	if ((uint64_t)st.st_size < length)
		return gw_fail(why, -ENODATA, "the file '%s', which it writes, has %lld bytes and had %llu; bring back what it was", path,
		               (long long)st.st_size, (unsigned long long)length);
	return 0;
}

static int cut_written(void *ctx, const char *path, uint64_t ino, uint64_t length, struct gw_error *why)
{
	struct stat st;

	length = length_of(ctx, path, ino, length);
	if (stat(path, &st) < 0 || ((uint64_t)st.st_size > length && truncate(path, (off_t)length) < 0))
		return gw_fail(why, -errno, "the file '%s' cannot be cut to %llu bytes: %s", path, (unsigned long long)length, strerror(errno));
	return 0;
}

/* ---- an image ---------------------------------------------------------------------------------------------------------- */

static int read_needs(const json_t *json, struct ct_needs *n, struct ct_cold_id **ids, size_t *n_ids, struct gw_error *why)
{
	json_int_t version, uid, gid, threads, ns_pid, vmas, bytes, vdso, xfeatures, files, monotonic, boottime;
	const json_t *list = json_object_get(json, "ids");
	const json_t *text;
	size_t i;

	if (json_unpack((json_t *)(uintptr_t)json, "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "version", &version, "uid",
	                &uid, "gid", &gid, "threads", &threads, "ns_pid", &ns_pid, "vmas", &vmas, "private_bytes", &bytes, "vdso_hash", &vdso,
	                "xfeatures", &xfeatures, "files", &files, "monotonic_ns", &monotonic, "boottime_ns", &boottime) < 0 ||
	    !json_is_array(list))
		return gw_fail(why, -EPROTO, "what was written down of its needs is not understood");
	n->version = (uint32_t)version;
	n->uid = (uint32_t)uid;
	n->gid = (uint32_t)gid;
	n->threads = (uint32_t)threads;
	n->ns_pid = (uint32_t)ns_pid;
	n->vmas = (uint64_t)vmas;
	n->private_bytes = (uint64_t)bytes;
	n->vdso_hash = (uint64_t)vdso;
	n->xfeatures = (uint64_t)xfeatures;
	n->files = (uint32_t)files;
	n->monotonic_ns = (uint64_t)monotonic;
	n->boottime_ns = (uint64_t)boottime;
	*n_ids = json_array_size(list);
	*ids = calloc(*n_ids + 1, sizeof(**ids));
	if (!*ids)
		return gw_fail(why, -ENOMEM, "out of memory");
	json_array_foreach((json_t *)(uintptr_t)list, i, text)
		snprintf((*ids)[i].text, sizeof((*ids)[i].text), "%s", json_string_value(text) ? json_string_value(text) : "");
	return 0;
}

static int make_shell(struct item *i, const struct ct_needs *needs, const json_t *hints, struct gw_error *why)
{
	struct restart *s = i->restart;
	struct mig_offer offer = { .proc = i->proc, .session = CT_SESSION_RESTART, .epoch = i->epoch, .needs = needs, .hints = hints };
	struct ct_plumbing plumbing;
	cpu_set_t cpus;
	int code;

	CPU_ZERO(&cpus);
	plumbing_init(&plumbing);
	code = moves_prepare(s->d, &offer, &plumbing, &cpus, &i->owner, why);
	if (code < 0) {
		i->owner = NULL;
		return code;
	}
	code = ct_shell_create(&i->ct, needs, &plumbing, &cpus, why);
	plumbing_close(&plumbing);
	if (code < 0)
		i->ct = NULL;
	return code;
}

static int on_front(void *ctx, const char *needs, const void *blob, size_t blob_len, const char *state, struct gw_error *why)
{
	struct item *i = ctx;
	struct restart *s = i->restart;
	json_t *n = json_loads(needs, 0, NULL), *st = json_loads(state, 0, NULL);
	struct ct_needs c = { .are_files_proved = true, .is_cold = true, .heard_monotonic_ns = s->heard_monotonic_ns,
	                      .heard_boottime_ns = s->heard_boottime_ns, .blob_len = blob_len, .blob = (unsigned char *)(uintptr_t)blob };
	gw_autofree struct ct_cold_id *ids = NULL;
	size_t n_ids = 0;
	int code = json_is_object(n) && json_is_object(st) ? 0 : gw_fail(why, -EPROTO, "its image is not understood");

	if (code == 0)
		code = read_needs(n, &c, &ids, &n_ids, why);
	c.monotonic_ns += i->passed_ns;
	c.boottime_ns += i->passed_ns;
	if (code == 0)
		code = ct_cold_look(&c, ids, n_ids, why);
	if (code == 0)
		code = make_shell(i, &c, json_object_get(n, "hints"), why);
	if (code == 0)
		code = moves_import(i->owner, st, why);
	json_decref(n);
	json_decref(st);
	return code;
}

static int on_image(void *ctx, const void *bytes, size_t len, struct gw_error *why)
{
	struct item *i = ctx;

	return ct_shell_feed(i->ct, bytes, len, why);
}

static const struct cold_reader_ops reader_ops = { on_front, on_image };

static int complete(struct item *i, struct gw_error *why)
{
	int code = cold_reader_finish(i->reader, i->hash, why);

	if (code == 0)
		code = ct_cold_look_open(i->ct, why);
	if (code == 0)
		code = ct_shell_ready(i->ct, why);
	if (code == 0)
		code = ct_cold_written(i->ct, check_written, i->restart, why);
	if (code < 0)
		return code;
	cold_reader_close(i->reader);
	i->reader = NULL;
	if (i->fd >= 0)
		close(i->fd);
	i->fd = -1;
	gw_fault("rt.restart.ready");
	gw_link_send_json(i->restart->d->head, json_pack("{s:s, s:i}", "op", "restored", "rank", (int)i->proc));
	return 0;
}

/* Is it to be seen here? Another of that name, as in another host's /tmp, is not what was written. */
static int open_image(struct item *i, struct gw_error *why)
{
	struct stat st;

	gw_fault("rt.restart.image");
	if (i->restart->dirfd >= 0)
		i->fd = openat(i->restart->dirfd, i->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (i->fd >= 0 && (fstat(i->fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != i->size)) {
		close(i->fd);
		i->fd = -1;
	}
	return cold_reader_open(&i->reader, i->name, i->proc, &reader_ops, i, why);
}

/* Return: 1 more is to be done now, 0 not: it is complete, or the head was asked. */
static int step(struct item *i, struct gw_error *why)
{
	static char buf[READ_BYTES]; /* one thread */
	ssize_t n;

	if (!i->reader && open_image(i, why) < 0)
		return why->code;
	if (i->at == i->size)
		return complete(i, why);
	if (i->fd < 0) {
		gw_link_send_json(i->restart->d->head, json_pack("{s:s, s:i, s:I, s:i}", "op", "image-ask", "rank", (int)i->proc, "offset",
		                                                 (json_int_t)i->at, "bytes", (int)ASK_BYTES));
		i->restart->is_asked = true;
		return 0;
	}
	n = pread(i->fd, buf, sizeof(buf), (off_t)i->at);
	if (n <= 0)
		return gw_fail(why, -EBADMSG, "%s cannot be read: %s", i->name, n < 0 ? strerror(errno) : "it ends before its end");
	cold_reader_feed(i->reader, buf, (size_t)n);
	i->at += (uint64_t)n;
	return 1;
}

static void turn(void *ctx)
{
	struct clusterd *d = ctx;
	struct restart *s = d->restart;
	uint64_t done = 0;

	d->is_restart_turn_due = false;
	while (s && !s->is_asked && s->at < s->n && done < TURN_BYTES && !d->is_ending) {
		struct item *i = &s->items[s->at];
		uint64_t before = i->reader ? cold_reader_bytes(i->reader) : 0;
		struct gw_error why = { 0 };
		int code = step(i, &why);

		if (code < 0) {
			fail(i, &why);
			return;
		}
		done += READ_BYTES + (i->reader ? cold_reader_bytes(i->reader) - before : 0);
		s->at += code == 0 && !s->is_asked;
	}
	if (!s || s->is_asked || s->at == s->n || d->is_ending)
		return;
	if (gw_loop_defer(d->loop, turn, d) < 0)
		clusterd_fatal(d, "no memory to continue the ranks");
	else
		d->is_restart_turn_due = true;
}

void restart_piece(struct clusterd *d, const struct rt_piece *p, const void *bytes, size_t len)
{
	struct restart *s = d->restart;
	struct item *i = s && s->at < s->n ? &s->items[s->at] : NULL;
	struct gw_error why = { 0 };

	if (!i || !s->is_asked || p->rank != i->proc || p->offset != i->at || !i->reader)
		return;
	s->is_asked = false;
	if (len == 0 || len > i->size - i->at) {
		gw_fail(&why, -EBADMSG, "%s cannot be read: it ends before its end", i->name);
		fail(i, &why);
		return;
	}
	cold_reader_feed(i->reader, bytes, len);
	i->at += len;
	if (!d->is_restart_turn_due)
		turn(d);
}

/* ---- what the head says ------------------------------------------------------------------------------------------------ */

/* Names that are known before anybody is there: who looks one up waits, and does not take it for one that there is not. */
static void publish_names(struct clusterd *d, const json_t *names)
{
	const json_t *name;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)names, i, name) {
		json_int_t cluster, host, epoch;
		int ended;

		if (json_unpack((json_t *)(uintptr_t)name, "[I, I, I, b]", &cluster, &host, &epoch, &ended) == 0)
			noc_names_publish(&d->segment, (uint32_t)i, &(struct noc_place){ .cluster = (uint32_t)cluster, .host = (uint32_t)host,
			                  .state = ended ? NOC_NAME_GONE : NOC_NAME_MOVING, .epoch = (uint64_t)epoch }, d->cluster);
	}
}

static int read_request(struct restart *s)
{
	json_t *ranks = json_object_get(s->request, "ranks"), *r;
	const char *dir = json_string_value(json_object_get(s->request, "dir"));
	json_int_t elapsed = json_integer_value(json_object_get(s->request, "elapsed_ns"));
	struct ct_needs now = { 0 };
	size_t i;

	if (!dir || !json_is_array(ranks))
		return -EPROTO;
	s->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ct_needs_heard(&now);
	s->heard_monotonic_ns = now.heard_monotonic_ns - (uint64_t)elapsed;
	s->heard_boottime_ns = now.heard_boottime_ns - (uint64_t)elapsed;
	s->items = calloc(json_array_size(ranks) + 1, sizeof(*s->items));
	if (!s->items)
		return -ENOMEM;
	json_array_foreach(ranks, i, r) {
		struct item *it = &s->items[i];
		json_int_t rank, size, epoch, passed;

		if (json_unpack(r, "{s:I, s:s, s:s, s:I, s:I, s:I}", "rank", &rank, "name", &it->name, "hash", &it->hash, "size", &size, "epoch",
		                &epoch, "passed_ns", &passed) < 0 || strchr(it->name, '/'))
			return -EPROTO;
		it->restart = s;
		it->proc = (uint32_t)rank;
		it->size = (uint64_t)size;
		it->epoch = (uint64_t)epoch;
		it->passed_ns = (uint64_t)passed;
		it->fd = -1;
		s->n++;
	}
	return 0;
}

void restart_begin(struct clusterd *d, json_t *request)
{
	struct restart *s = d->restart ? NULL : calloc(1, sizeof(*s));
	int code;

	if (!s) {
		clusterd_fatal(d, d->restart ? "the head says 'restart' twice" : "no memory to continue ranks");
		return;
	}
	s->d = d;
	s->dirfd = -1;
	s->request = json_incref(request);
	d->restart = s;
	code = read_request(s);
	if (code < 0) {
		clusterd_fatal(d, "the head's 'restart' is %s", code == -ENOMEM ? "too much for this host's memory" : "malformed");
		return;
	}
	publish_names(d, json_object_get(request, "names"));
	turn(d);
}

void restart_cut(struct clusterd *d)
{
	struct restart *s = d->restart;
	struct gw_error why = { 0 };
	uint32_t rank = 0;

	gw_fault("rt.restart.cut");
	for (size_t i = 0; s && why.code == 0 && i < s->n; i++) {
		rank = s->items[i].proc;
		if (!ct_shell_is_alive(s->items[i].ct))
			gw_fail(&why, -ESRCH, "it was killed before it could run");
		else
			ct_cold_written(s->items[i].ct, cut_written, s, &why);
	}
	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:s*}", "op", "restart-cut", "rank", (int)rank, "text", why.code ? why.text : NULL));
}

/* From here on there is no way back: what fails ends the job. */
static int go(struct item *i, struct gw_error *why)
{
	struct rank *r = i->owner;
	struct ct_thaw_stats stats;
	struct ct_rank *ct = i->ct;
	bool has_agent;
	int code = moves_arriving(r, CT_SESSION_RESTART, i->epoch + 1, &has_agent, why);

	if (code == 0)
		code = ct_rank_thaw(ct, &stats, why);
	if (code < 0)
		return code;
	ct_rank_tidy(ct);
	i->ct = NULL;
	i->owner = NULL;
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i, s:i}", "op", "launched", "rank", (int)i->proc, "pid", (int)ct_rank_pid(ct),
	                                        "slot", r->slot));
	moves_taken(r, ct, i->epoch + 1);
	if (!has_agent && r->agent == AGENT_CLOSED)
		agent_publish(r, NOC_NAME_GONE);
	return 0;
}

void restart_go(struct clusterd *d)
{
	struct restart *s = d->restart;
	struct gw_error why = { 0 };

	for (size_t i = 0; s && i < s->n; i++) {
		gw_fault("rt.restart.go");
		if (go(&s->items[i], &why) < 0) {
			clusterd_fatal(d, "rank %u cannot be let run: %s", s->items[i].proc, why.text);
			return;
		}
	}
	restart_drop(d);
}
