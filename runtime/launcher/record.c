/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job's history: mpirun's own events, for `godwit report` when the job has ended (doc/report.md).
 *
 * The head knows all that a history is made of, whatever host it happened on, so this is a listener of its events that keeps
 * them in a file of the user's: $XDG_STATE_HOME/godwit/jobs/<job>.jsonl, or where -record says. Lines are gathered and
 * written once a second. A job that cannot keep one runs without, unless it was asked for.
 *
 * The file is bounded, however long the job runs:
 *   - what comes again and again (loads, traffic, looks of the balancer that moved nobody) is taken every second at first,
 *     and half as often whenever STAGE_BYTES of it have been written: the logarithm of time;
 *   - from FULL_BYTES on moves are not told one by one, but as sums, with where all ranks are, in the same way;
 *   - from LIMIT_BYTES on nothing is, but the end.
 * The directory is bounded, too: the last KEEP_FILES histories, and not more than KEEP_BYTES of them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/head.h"
#include "runtime/state.h"

#define STAGE_BYTES   (256u << 10)
#define FULL_BYTES    (24ull << 20)
#define LIMIT_BYTES   (32ull << 20)
#define KEEP_FILES    32
#define KEEP_BYTES    (256ull << 20)
#define WRITE_MS      1000
#define WRITE_BYTES   (64u << 10) /* gathered: they are written at once */
#define TRAFFIC_MAX_MS 60000
#define LOOK_RANKS    128         /* a second between looks for each so many ranks: they cost the daemons something */
#define BLOCKS        64          /* traffic is told of so many groups of ranks */

struct cadence { uint64_t every_ms, next_ns; size_t left; };

struct record {
	struct head *head;
	int fd;
	char path[4096];
	bool is_asked;               /* by -record: that it fails is said */
	struct gw_timer *timer;
	char *text;
	size_t len, cap;
	uint64_t size;               /* of the file, with what is gathered */
	struct cadence loads, plans, traffics, sums;
	bool is_outcome_due;         /* the next look tells what became of the last plan */
	uint32_t moved, failed;      /* since FULL_BYTES */
	double downtime_ns, longest_ns;
	bool *has_ended;             /* [room]: not told yet */
	bool is_end_due;
	/* traffic so far */
	uint64_t ask_ms, ask_next_ns;
	bool is_asked_again;         /* an answer comes when the next question is put */
	uint32_t per;                /* ranks of a group */
	double (*bytes)[BLOCKS], (*messages)[BLOCKS];
	double near[3];              /* bytes within clusters, within hosts, between hosts */
	bool is_traffic_new;
	struct said { json_int_t epoch; json_t *rows; } *said; /* [room]: of whom each rank has told last */
};

static void cadence_init(struct cadence *c, uint64_t every_ms)
{
	*c = (struct cadence){ .every_ms = every_ms, .left = STAGE_BYTES };
}

static bool is_due(struct cadence *c, size_t bytes)
{
	uint64_t now = gw_now_ns();

	if (now < c->next_ns)
		return false;
	if (c->left < bytes) {
		c->every_ms *= 2;
		c->left = STAGE_BYTES;
	}
	c->left -= bytes < c->left ? bytes : c->left;
	c->next_ns = now + c->every_ms * 1000000 * 9 / 10; /* looks do not come to the millisecond */
	return true;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------- */

static void give_up(struct record *r, int error)
{
	if (r->is_asked)
		job_say(r->head, "mpirun: the record of this job in '%s' ends here: %s", r->path, strerror(error));
	else
		gw_log(GW_INFO, "the record of this job in '%s' ends here: %s", r->path, strerror(error));
	close(r->fd);
	r->fd = -1;
}

static void write_out(struct record *r)
{
	size_t done = 0;

	while (r->fd >= 0 && done < r->len) {
		ssize_t n = write(r->fd, r->text + done, r->len - done);

		if (n < 0 && errno != EINTR)
			give_up(r, errno);
		done += n > 0 ? (size_t)n : 0;
	}
	r->len = 0;
}

static void tell_gathered(struct record *r);

static void on_timer(void *ctx)
{
	struct record *r = ctx;

	r->timer = NULL;
	tell_gathered(r);
	write_out(r);
}

static void arm(struct record *r)
{
	if (!r->timer && r->head->loop && gw_loop_timer(r->head->loop, &r->timer, WRITE_MS, 0, on_timer, r) < 0)
		r->timer = NULL; /* then with the next line */
}

static void append(struct record *r, const char *line, size_t len)
{
	if (r->fd < 0)
		return;
	if (r->len + len > r->cap) {
		size_t cap = 2 * (r->len + len);
		char *more = realloc(r->text, cap);

		if (!more) {
			give_up(r, ENOMEM);
			return;
		}
		r->text = more;
		r->cap = cap;
	}
	memcpy(r->text + r->len, line, len);
	r->len += len;
	r->size += len;
	if (r->len >= WRITE_BYTES)
		write_out(r);
	else
		arm(r);
}

/* ---- what is kept of what happens ----------------------------------------------------------------------------------------- */

static bool is_thinned(struct record *r, const char *name, const json_t *event, size_t len)
{
	if (strcmp(name, "load.seen") == 0)
		return !is_due(&r->loads, len);
	if (strcmp(name, "bal.done") == 0)
		r->is_outcome_due = true;
	if (strcmp(name, "bal.plan") == 0) {
		bool is_wanted = r->is_outcome_due || json_integer_value(json_object_get(event, "moves")) > 0;

		r->is_outcome_due = false;
		return !is_wanted && !is_due(&r->plans, len);
	}
	if (r->size < FULL_BYTES)
		return false;
	if (strcmp(name, "mig.done") == 0) {
		double pause = json_number_value(json_object_get(event, "downtime_ns"));

		if (json_integer_value(json_object_get(event, "status")) == 0)
			r->moved++;
		else
			r->failed++;
		r->downtime_ns += pause;
		r->longest_ns = pause > r->longest_ns ? pause : r->longest_ns;
		arm(r);
		return true;
	}
	return strcmp(name, "rank.moved") == 0;
}

static void on_event(void *ctx, const char *name, const json_t *event, const char *line, size_t len)
{
	struct record *r = ctx;

	if (r->size + len > LIMIT_BYTES && strcmp(name, "job.ended") != 0 && strcmp(name, "job.failed") != 0)
		return;
	if (!is_thinned(r, name, event, len))
		append(r, line, len);
}

json_t *record_places(const struct head *h, uint32_t first, uint32_t size)
{
	json_t *all = json_array();

	for (uint32_t r = first, n; r < first + size; r += n) {
		for (n = 1; r + n < first + size && h->ranks[r + n].cluster == h->ranks[r].cluster; n++)
			;
		json_array_append_new(all, json_pack("[i, i]", (int)n, (int)h->ranks[r].cluster));
	}
	return all;
}

static void tell_ended(struct record *r)
{
	json_t *all;

	if (!r->is_end_due)
		return;
	r->is_end_due = false;
	all = json_array();
	for (uint32_t i = 0, n; i < r->head->size; i += n) {
		for (n = 1; i + n < r->head->size && r->has_ended[i + n] == r->has_ended[i]; n++)
			;
		if (r->has_ended[i])
			json_array_append_new(all, json_pack("[i, i]", (int)i, (int)n));
	}
	memset(r->has_ended, 0, r->head->room * sizeof(*r->has_ended));
	gw_event("rank.ended", "{s:o}", "ranks", all);
}

static void tell_sums(struct record *r)
{
	json_t *places;

	if (!r->moved && !r->failed)
		return;
	places = record_places(r->head, 0, r->head->size);
	if (!is_due(&r->sums, 200 + 10 * json_array_size(places))) {
		json_decref(places);
		arm(r);
		return;
	}
	gw_event("mig.sum", "{s:i, s:i, s:f, s:f, s:o}", "moved", (int)r->moved, "failed", (int)r->failed, "downtime_ns", r->downtime_ns,
	         "longest_ns", r->longest_ns, "places", places);
	r->moved = r->failed = 0;
	r->downtime_ns = r->longest_ns = 0;
}

static void tell_traffic(struct record *r, bool is_last)
{
	json_t *rows, *row;
	size_t i, size = 0;

	if (!r->is_traffic_new || !(is_last || gw_now_ns() >= r->traffics.next_ns))
		return;
	rows = json_array();
	for (uint32_t a = 0; a < BLOCKS; a++)
		for (uint32_t b = 0; b < BLOCKS; b++)
			if (r->messages[a][b] > 0)
				json_array_append_new(rows, json_pack("[i, i, I, I]", (int)a, (int)b, (json_int_t)r->bytes[a][b],
				                                      (json_int_t)r->messages[a][b]));
	json_array_foreach(rows, i, row)
		size += 30;
	if (is_due(&r->traffics, size) || is_last)
		gw_event("traffic.seen", "{s:i, s:[I, I, I], s:O}", "per", (int)r->per, "near", (json_int_t)r->near[0], (json_int_t)r->near[1],
		         (json_int_t)r->near[2], "rows", rows);
	r->is_traffic_new = false;
	json_decref(rows);
}

/* What was gathered since the last writing */
static void tell_gathered(struct record *r)
{
	tell_ended(r);
	tell_sums(r);
	tell_traffic(r, false);
}

void record_ended(struct head *h, uint32_t rank)
{
	struct record *r = h->record;

	if (!r)
		return;
	r->has_ended[rank] = r->is_end_due = true;
	arm(r);
}

/* ---- what is asked of daemons for its sake --------------------------------------------------------------------------------- */

uint64_t record_look_ms(const struct head *h, uint64_t at_most)
{
	uint64_t least = 1000 * (1 + (uint64_t)h->size / LOOK_RANKS);

	if (!h->record || h->record->fd < 0)
		return at_most;
	if (least < h->record->loads.every_ms)
		least = h->record->loads.every_ms;
	return least < at_most ? least : at_most;
}

bool record_wants_traffic(struct head *h)
{
	struct record *r = h->record;
	uint64_t now = gw_now_ns();

	if (!r || r->fd < 0)
		return false;
	if (r->is_asked_again) {
		r->is_asked_again = false;
		return true;
	}
	if (now < r->ask_next_ns)
		return false;
	r->is_asked_again = true;
	r->ask_next_ns = now + r->ask_ms * 1000000;
	r->ask_ms = 2 * r->ask_ms < TRAFFIC_MAX_MS ? 2 * r->ask_ms : TRAFFIC_MAX_MS;
	return true;
}

static json_int_t field(const json_t *row, size_t i)
{
	return json_integer_value(json_array_get(row, i));
}

static void count_traffic(struct record *r, uint32_t rank, const json_t *rows, const json_t *before)
{
	const struct head *h = r->head;
	uint32_t home = h->ranks[rank].cluster;
	const json_t *row;
	size_t i, k = 0;

	json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
		const json_t *old = json_array_get(before, k);
		json_int_t peer = field(row, 0), bytes = field(row, 1), messages = field(row, 2);
		uint32_t a = rank / r->per, b, there;

		if (old && field(old, 0) == peer) { /* both in the order of peers, and none goes away */
			k++;
			bytes -= field(old, 1);
			messages -= field(old, 2);
		}
		if (peer < 0 || peer >= (json_int_t)h->size || messages <= 0)
			continue;
		b = (uint32_t)peer / r->per;
		there = h->ranks[peer].cluster;
		a = a < BLOCKS ? a : BLOCKS - 1; /* those that were spawned are all in the last */
		b = b < BLOCKS ? b : BLOCKS - 1;
		r->bytes[a][b] += (double)bytes;
		r->messages[a][b] += (double)messages;
		r->near[there == home ? 0 : h->clusters[there].host == h->clusters[home].host ? 1 : 2] += (double)bytes;
		r->is_traffic_new = true;
	}
	if (r->is_traffic_new)
		arm(r);
}

void record_seen(struct head *h, uint32_t rank, const json_t *one)
{
	json_int_t epoch = json_integer_value(json_object_get(one, "epoch"));
	json_t *rows = json_object_get(one, "traffic");
	struct record *r = h->record;
	struct said *s = r ? &r->said[rank] : NULL;

	if (!r || !json_is_array(rows))
		return;
	if (epoch < s->epoch)
		return; /* a late word of where it was */
	count_traffic(r, rank, rows, s->rows); /* the counters travel with the rank */
	json_decref(s->rows);
	s->rows = json_incref(rows);
	s->epoch = epoch;
}

/* ---- the file --------------------------------------------------------------------------------------------------------------- */

struct old { char name[32]; struct timespec at; uint64_t size; };

static int by_age(const void *x, const void *y)
{
	const struct old *a = x, *b = y; /* the newest first */

	return a->at.tv_sec != b->at.tv_sec ? (a->at.tv_sec < b->at.tv_sec ? 1 : -1) :
	       (a->at.tv_nsec < b->at.tv_nsec) - (a->at.tv_nsec > b->at.tv_nsec);
}

static void remove_old(int dir, const struct old *o)
{
	gw_autoclose int fd = openat(dir, o->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) /* else its job runs */
		unlinkat(dir, o->name, 0);
}

/* The last ones stay. Best effort: what cannot be looked at or removed is left to the next job. */
static void prune(int dir)
{
	struct old *all = NULL;
	size_t n = 0, cap = 0;
	uint64_t sum = 0;
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;

	if (!d && copy >= 0)
		close(copy);
	for (const struct dirent *e; d && (e = readdir(d));) {
		struct stat st;

		if (strlen(e->d_name) != strlen("01234567.jsonl") || strspn(e->d_name, "0123456789abcdef") != 8 ||
		    strcmp(e->d_name + 8, ".jsonl") != 0 || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (n == cap) {
			struct old *more = realloc(all, (cap = 2 * cap + 64) * sizeof(*all));

			if (!more)
				break;
			all = more;
		}
		all[n] = (struct old){ .at = st.st_mtim, .size = (uint64_t)st.st_size };
		memcpy(all[n++].name, e->d_name, strlen("01234567.jsonl") + 1);
	}
	if (d)
		closedir(d);
	if (n)
		qsort(all, n, sizeof(*all), by_age);
	for (size_t i = 0; i < n; i++) {
		sum += all[i].size;
		if (i >= KEEP_FILES || sum > KEEP_BYTES)
			remove_old(dir, &all[i]);
	}
	free(all);
}

static int open_file(struct record *r, const char *where, struct gw_error *why)
{
	gw_autoclose int own_dir = -1; /* of the user's histories; one that was named is not tidied */
	struct stat st;
	char first;
	int code;

	if (where && (stat(where, &st) < 0 || !S_ISDIR(st.st_mode)) && where[strlen(where) - 1] != '/') {
		snprintf(r->path, sizeof(r->path), "%s", where);
	} else {
		char dir[3900];
		int fd;

		code = where ? 0 : rt_state_dir(dir, sizeof(dir), true, why);
		if (code < 0)
			return code;
		if (where)
			snprintf(dir, sizeof(dir), "%s", where);
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return gw_fail(why, -errno, "cannot open '%s', where the job's history was to be kept: %s; name a directory that is there "
			               "with -record, or 'none'", dir, strerror(errno));
		if (where)
			close(fd);
		else
			own_dir = fd;
		snprintf(r->path, sizeof(r->path), "%s/%08x.jsonl", dir, r->head->job);
	}
	r->fd = open(r->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (r->fd < 0)
		return gw_fail(why, -errno, "cannot keep the job's history in '%s': %s; name another file with -record, or 'none'", r->path,
		               strerror(errno));
	if (fstat(r->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return gw_fail(why, -EINVAL, "'%s' is no regular file, as a history is one; name another with -record, or 'none'", r->path);
	if (pread(r->fd, &first, 1, 0) == 1 && first != '{')
		return gw_fail(why, -EEXIST, "'%s' is there and holds no history; name another file with -record", r->path);
	if (flock(r->fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		gw_log(GW_INFO, "'%s' is locked by somebody", r->path);
	r->size = (uint64_t)st.st_size; /* a job that is continued goes on with its history, on a line of its own */
	if (st.st_size && pread(r->fd, &first, 1, st.st_size - 1) == 1 && first != '\n' && write(r->fd, "\n", 1) == 1)
		r->size++;
	if (own_dir >= 0)
		prune(own_dir); /* not ours, which is locked now */
	return 0;
}

/* A string of the user's, who may have written anything */
json_t *record_text(const char *text)
{
	json_t *s = json_string(text);
	char *copy = s ? NULL : strdup(text);

	for (char *p = copy; p && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	if (copy)
		s = json_string(copy);
	free(copy);
	return s ? s : json_string("");
}

static json_t *programs_json(const struct head *h)
{
	json_t *all = json_array();

	for (uint32_t a = 0; a < h->spec->n_apps; a++) {
		const struct app *app = &h->spec->apps[a];
		char words[1000] = "";
		size_t at = 0;

		for (size_t i = 0; i < app->argv.n && at < sizeof(words) - 8; i++)
			at += (size_t)snprintf(words + at, sizeof(words) - at, "%s%s", i ? " " : "", app->argv.list[i]);
		if (at >= sizeof(words) - 8)
			memcpy(words + sizeof(words) - 8, "...", 4);
		json_array_append_new(all, json_pack("{s:o, s:i}", "words", record_text(words), "ranks", (int)app->n));
	}
	return all;
}

void record_begin(struct head *h)
{
	gw_event("job.started", "{s:s, s:i, s:i, s:i, s:s, s:s, s:o, s:o}", "job", h->kvsname + strlen("godwit-"), "ranks", (int)h->size,
	         "clusters", (int)h->n_clusters, "record", 1, "version", PACKAGE_VERSION, "balance", bal_strategy_name(h->spec->balance),
	         "programs", programs_json(h), "places", record_places(h, 0, h->size));
}

int record_init(struct head *h, struct gw_error *why)
{
	const char *where = h->spec->record;
	struct record *r;
	struct gw_error own = { 0 };
	int code;

	if (where && strcmp(where, "none") == 0)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return gw_fail(why, -ENOMEM, "out of memory");
	h->record = r;
	r->head = h;
	r->fd = -1;
	r->is_asked = where;
	r->per = (h->size + BLOCKS - 1) / BLOCKS;
	r->ask_ms = 1000;
	cadence_init(&r->loads, 1000);
	cadence_init(&r->plans, 1000);
	cadence_init(&r->traffics, 1000);
	cadence_init(&r->sums, 10000);
	r->has_ended = calloc(h->room + 1, sizeof(*r->has_ended));
	r->bytes = calloc(BLOCKS, sizeof(*r->bytes));
	r->messages = calloc(BLOCKS, sizeof(*r->messages));
	r->said = calloc(h->room + 1, sizeof(*r->said));
	if (!r->has_ended || !r->bytes || !r->messages || !r->said)
		return gw_fail(why, -ENOMEM, "out of memory");
	code = open_file(r, where, &own);
	if (code < 0 && where)
		return gw_fail(why, code, "%s", own.text);
	if (code < 0) {
		gw_log(GW_INFO, "no record of this job is kept: %s", own.text);
		record_fini(h);
		return 0;
	}
	gw_event_listen(on_event, r);
	return 0;
}

void record_end(struct head *h)
{
	struct record *r = h->record;

	if (r) {
		tell_ended(r);
		r->sums.next_ns = 0;
		tell_sums(r);
		tell_traffic(r, true);
	}
	gw_event("job.ended", "{s:i}", "code", h->exit_code);
}

void record_fini(struct head *h)
{
	struct record *r = h->record;

	h->record = NULL;
	if (!r)
		return;
	gw_event_listen(NULL, NULL);
	gw_timer_cancel(r->timer);
	write_out(r);
	if (r->fd >= 0)
		close(r->fd);
	for (uint32_t i = 0; r->said && i < h->size; i++)
		json_decref(r->said[i].rows);
	free(r->said);
	free(r->has_ended);
	free(r->bytes);
	free(r->messages);
	free(r->text);
	free(r);
}
