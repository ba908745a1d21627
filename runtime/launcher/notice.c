/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hosts of which somebody says that they will go away, a batch system, a cloud, an administrator: they are emptied in time.
 *
 *   -drain-file FILE   read every second. It names the hosts that are to be empty, one a line, with the time that is left when that
 *                      is known: "node17 120s". A host that is named is drained; one that is named no more is undrained.
 *                      No inotify: what another host writes to a shared directory it does not tell. And by an errand (errand.h):
 *                      a file server that hangs holds up nothing but this
 *   SIGPWR to the daemon of a host: that host is drained, once
 *
 * Hosts that are named at the same time are drained together, so that ranks do not go from one to the next. What cannot be moved
 * is said, once, and tried again while the file names its host: a host may come, a rank may be let go.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/errand.h"
#include "runtime/launcher/head.h"

#define LOOK_MS   1000
#define OPEN_MS  10000  /* for the first look at the file, before the job starts */
#define HUNG_MS   5000  /* a look that has taken so long is spoken of */
#define AGAIN_MS  5000  /* after a host could not be emptied */
#define TIME_MS  60000  /* where the file does not say what is left */

struct going {                /* a host of the job */
	bool is_named, is_busy;
	uint64_t again_ns;
	char said[512];       /* what was said last of it: nothing is said twice */
};

struct batch {                /* a drain under way */
	struct gw_list node;
	struct notice *notice;
	bool is_of[RT_CLUSTERS_MAX];
};

struct notice {
	struct head *head;
	struct gw_timer *timer;
	struct gw_list batches;
	struct going hosts[RT_CLUSTERS_MAX];
	uint64_t left_ms[RT_CLUSTERS_MAX]; /* of hosts that the file names now; 0: it does not */
	struct errand *errand; /* reads the file */
	struct gw_error *tried; /* while mpirun waits for the first look */
	int error;            /* errno with which the file could not be read, that was said; ETIMEDOUT: its file system hangs */
};

/* "host a", "hosts a, b" */
static void names(char *buf, size_t cap, const struct head *h, const bool *is_of)
{
	uint32_t n = 0;
	size_t at;

	for (uint32_t i = 0; i < h->n_hosts; i++)
		n += is_of[i];
	at = (size_t)snprintf(buf, cap, "%s", n == 1 ? "host" : "hosts");
	n = 0;
	for (uint32_t i = 0; i < h->n_hosts && at + sizeof(h->hosts[i].name) + 3 < cap; i++)
		if (is_of[i])
			at += (size_t)snprintf(buf + at, cap - at, "%s %s", n++ ? "," : "", h->hosts[i].name);
}

static void say(struct notice *n, const bool *is_of, const char *text)
{
	bool is_new = false;

	for (uint32_t i = 0; i < n->head->n_hosts; i++)
		if (is_of[i] && strncmp(n->hosts[i].said, text, sizeof(n->hosts[i].said) - 1) != 0) {
			snprintf(n->hosts[i].said, sizeof(n->hosts[i].said), "%s", text);
			is_new = true;
		}
	if (is_new)
		job_say(n->head, "mpirun: %s", text);
}

/* ---- draining --------------------------------------------------------------------------------------------------------- */

static void over(struct batch *b, bool is_again)
{
	struct notice *n = b->notice;

	for (uint32_t i = 0; i < n->head->n_hosts; i++)
		if (b->is_of[i]) {
			n->hosts[i].is_busy = false;
			n->hosts[i].again_ns = is_again ? gw_now_ns() + AGAIN_MS * 1000000ull : 0;
		}
	gw_list_remove(&b->node);
	free(b);
}

static void on_drained(void *ctx, json_t *answer)
{
	const json_t *stuck = json_object_get(answer, "stuck"), *first = json_array_get(stuck, 0);
	long long moved = (long long)json_integer_value(json_object_get(answer, "moved"));
	struct batch *b = ctx;
	char who[1024], text[2048];

	names(who, sizeof(who), b->notice->head, b->is_of);
	if (first)
		snprintf(text, sizeof(text), "%s: not empty: %zu rank%s cannot be moved; rank %lld: %.400s", who, json_array_size(stuck),
		         json_array_size(stuck) == 1 ? "" : "s", (long long)json_integer_value(json_object_get(first, "rank")),
		         json_string_value(json_object_get(first, "text")));
	else
		snprintf(text, sizeof(text), "%s: empty, %lld rank%s moved away", who, moved, moved == 1 ? "" : "s");
	say(b->notice, b->is_of, text);
	json_decref(answer);
	over(b, first != NULL);
}

static bool has_ranks(const struct head *h, uint32_t host)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state != RANK_ENDED && h->clusters[h->ranks[r].cluster].host == host)
			return true;
	return false;
}

static bool is_to_be_drained(const struct head *h, uint32_t host)
{
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].host == host && h->clusters[c].state == CLUSTER_UP && !h->clusters[c].is_drained)
			return true;
	return has_ranks(h, host);
}

static void drain(struct notice *n, const bool *is_of, uint64_t ms, const char *whose, bool is_file)
{
	struct batch *b = calloc(1, sizeof(*b));
	json_t *targets = json_array();
	struct gw_error why = { 0 };
	char who[1024], text[2048];
	bool is_first = false;

	if (!b || !targets) {
		free(b);
		json_decref(targets);
		return; /* it is tried again */
	}
	b->notice = n;
	memcpy(b->is_of, is_of, sizeof(b->is_of));
	gw_list_append(&n->batches, &b->node);
	for (uint32_t i = 0; i < n->head->n_hosts; i++)
		if (is_of[i]) {
			json_array_append_new(targets, json_string(n->head->hosts[i].name));
			n->hosts[i].is_busy = true;
		}
	names(who, sizeof(who), n->head, is_of);
	if (drain_begin(n->head, targets, false, ms, on_drained, b, &why) < 0) {
		if (why.code != -EAGAIN || !is_file) { /* else it has not started yet, and the file is read again */
			snprintf(text, sizeof(text), "%s: %s, but cannot be emptied: %.600s%s", who, whose, why.text,
			         is_file ? "" : "; send it again, or use 'godwit drain'");
			say(n, is_of, text);
		}
		over(b, true);
	} else {
		gw_event("job.notice", "{s:s, s:I}", "hosts", who, "left_ms", (json_int_t)ms);
		snprintf(text, sizeof(text), "%s: %s: its ranks move away", who, whose);
		for (uint32_t i = 0; i < n->head->n_hosts; i++)
			is_first |= is_of[i] && !n->hosts[i].said[0];
		if (is_first)
			say(n, is_of, text);
	}
	json_decref(targets);
}

/* ---- the file --------------------------------------------------------------------------------------------------------- */

static void heed_line(struct notice *n, char *line)
{
	const struct head *h = n->head;
	struct gw_error why = { 0 };
	char *name, *time, *rest;
	uint64_t ms = TIME_MS;

	line[strcspn(line, "#")] = '\0';
	name = strtok_r(line, " \t\r\n", &rest);
	time = strtok_r(NULL, " \t\r\n", &rest);
	if (!name)
		return;
	if (time && options_duration(time, &ms, &why) < 0)
		ms = TIME_MS; /* better too soon than not at all */
	for (uint32_t i = 0; i < h->n_hosts; i++)
		if (clusters_is_host(&h->hosts[i], name))
			n->left_ms[i] = ms;
}

/* In a process of its own: what an ordinary file says. One that is not there says nothing */
static int read_file(void *ctx, char *said, size_t cap)
{
	const struct notice *n = ctx;
	int fd = open(n->head->spec->drain_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), code = 0; /* no pipe is waited in for a writer */
	size_t len = 0;
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		code = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	while (code == 0 && len < cap - 1) {
		ssize_t got = read(fd, said + len, cap - 1 - len);

		if (got > 0)
			len += (size_t)got;
		else if (got == 0)
			break;
		else if (errno != EINTR)
			code = -errno;
	}
	close(fd);
	if (len == cap - 1)
		code = -EFBIG;
	said[code < 0 ? 0 : len] = '\0';
	return code;
}

/* Return: what is said holds. Else it is said, once, why not */
static bool is_read(struct notice *n, int code)
{
	if (code < 0 && -code != n->error)
		job_say(n->head, "mpirun: -drain-file: '%s' cannot be read: %s; it is tried again", n->head->spec->drain_file,
		        code == -EINVAL ? "it is no ordinary file" : errand_text(code));
	n->error = -code;
	return code == 0;
}

static void heed(struct notice *n, char *text)
{
	bool is_of[RT_CLUSTERS_MAX] = { false }, is_any = false;
	struct head *h = n->head;
	uint64_t least = UINT64_MAX, now = gw_now_ns();
	struct gw_error why = { 0 };
	char *line, *rest;

	memset(n->left_ms, 0, sizeof(n->left_ms));
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		heed_line(n, line);
	for (uint32_t i = 0; i < h->n_hosts; i++) {
		struct going *g = &n->hosts[i];

		if (n->left_ms[i] && !g->is_busy && now >= g->again_ns && is_to_be_drained(h, i)) {
			is_of[i] = is_any = true;
			least = n->left_ms[i] < least ? n->left_ms[i] : least;
		}
		if (n->left_ms[i] == 0 && g->is_named && !g->is_busy) {
			json_t *targets = json_pack("[s]", h->hosts[i].name), *answer = drain_undo(h, targets, &why);

			if (answer) { /* else somebody else empties it just now: again in a second */
				job_say(h, "mpirun: host %s: the drain file names it no more: ranks may move there again", h->hosts[i].name);
				*g = (struct going){ 0 };
			}
			json_decref(answer);
			json_decref(targets);
		}
		g->is_named |= n->left_ms[i] != 0;
	}
	if (is_any)
		drain(n, is_of, least, "the drain file names it", true);
}

static void on_read(void *ctx, int code, char *said)
{
	struct notice *n = ctx;

	if (is_read(n, code)) /* else what was said before holds */
		heed(n, said);
}

static void on_timer(void *ctx)
{
	struct notice *n = ctx;
	struct gw_error why = { 0 };

	if (errand_age_ms(n->errand) >= HUNG_MS)
		is_read(n, -ETIMEDOUT);
	else if (!n->errand && errand_begin(&n->errand, n->head->loop, read_file, on_read, n, &why) < 0)
		is_read(n, why.code);
}

/* ---- from outside ----------------------------------------------------------------------------------------------------- */

static struct notice *get(struct head *h)
{
	if (!h->notice)
		h->notice = calloc(1, sizeof(*h->notice));
	if (h->notice && !h->notice->head) {
		h->notice->head = h;
		gw_list_init(&h->notice->batches);
	}
	return h->notice;
}

static void on_tried(void *ctx, int code, char *said)
{
	struct notice *n = ctx;

	(void)said;
	if (code == -EISDIR || code == -EINVAL) /* all else may change */
		gw_fail(n->tried, code, "-drain-file: '%s' is %s; name a file, which need not be there yet", n->head->spec->drain_file,
		        code == -EISDIR ? "a directory" : "no ordinary file");
}

int notice_init(struct head *h, struct gw_error *why)
{
	struct notice *n;
	int code;

	if (!h->spec->drain_file)
		return 0;
	n = get(h);
	if (!n)
		return gw_fail(why, -ENOMEM, "out of memory");
	n->tried = why;
	code = errand_begin(&n->errand, h->loop, read_file, on_tried, n, why);
	if (code == 0 && errand_wait(&n->errand, gw_now_ns() + OPEN_MS * 1000000ull) < 0)
		gw_fail(why, -ETIMEDOUT, "-drain-file: '%s' cannot be read within %d s: its file system does not answer; name another file",
		        h->spec->drain_file, OPEN_MS / 1000);
	n->tried = NULL;
	if (why->code < 0)
		return why->code;
	return gw_loop_timer(h->loop, &n->timer, LOOK_MS, LOOK_MS, on_timer, n) < 0 ? gw_fail(why, -ENOMEM, "out of memory") : 0;
}

void notice_told(struct cluster *c)
{
	struct notice *n = get(c->head);
	bool is_of[RT_CLUSTERS_MAX] = { false };

	if (!n || n->hosts[c->host].is_busy)
		return;
	is_of[c->host] = true;
	n->hosts[c->host].said[0] = '\0'; /* who says it again gets an answer again */
	drain(n, is_of, TIME_MS, "its daemon was told that it goes away (SIGPWR)", false);
}

void notice_fini(struct head *h)
{
	struct notice *n = h->notice;

	h->notice = NULL;
	if (!n)
		return;
	gw_timer_cancel(n->timer);
	errand_drop(&n->errand);
	gw_list_for_safe(e, &n->batches)
		free(gw_list_entry(e, struct batch, node));
	free(n);
}
