/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * -meet DIR: jobs whose mpiruns run on different machines find each other.
 *
 * Each has a card in DIR, a file of its owner's only: where its mpirun listens, and a secret. Who can read it may call, and must
 * prove that (base/trust.h) before a byte of his is looked at; what is asked then is meet and lookup, and nothing else of what
 * tools ask. So a port (MPI_Open_port) need not carry more than a job's number, and can be printed and passed on: it is no secret.
 * DIR is a directory that the machines share, as home directories mostly are. mpirun holds a lock on its card while it runs; a
 * card without one has been left behind by an mpirun that was killed, and goes when the next job begins with the same DIR.
 *
 * mpirun listens at each address of its machine by which others may reach it. Without -meet it does not.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/friends.h"

#define CARD        "godwit-%08x" /* of the job of that number */
#define CARD_NAME   32
#define CARD_MAX    (16 << 10) /* bytes */
#define WAYS_MAX    8
#define PROVE_MS    10000
#define TRY_MS      3000  /* where there is another way */
#define LOOK_MS     2000
#define DEAD_MS     6000  /* of unanswered questions, as for daemons (remote.c) */

struct card {
	char host[256];
	char ways[WAYS_MAX][GW_TCP_NAME];
	uint32_t n_ways;
	uint8_t secret[GW_TRUST_SECRET];
};

struct meet {
	char path[4096];     /* of our card; empty: it has none */
	int fd;              /* the lock on it */
	struct card card;
	struct gw_trust_listener *listeners[WAYS_MAX];
	struct gw_timer *look;
};

struct meet_call {
	struct head *head;
	struct card card;
	uint32_t job, next;  /* next: of its ways */
	struct gw_trust *trust;
	meet_done_fn *done;
	void *ctx;
};

/* ---- cards ----------------------------------------------------------------------------------------------------------- */

/* Only what this user, and nobody else, can have written, and read */
static int open_card(const char *path, int flags)
{
	int fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) && st.st_size <= CARD_MAX)
		return fd;
	close(fd);
	return -EPERM;
}

static int read_card(const char *path, struct card *card)
{
	gw_autoclose int fd = open_card(path, O_RDONLY);
	json_t *all = fd < 0 ? NULL : json_loadfd(fd, 0, NULL), *ways = NULL;
	const char *host, *hex;
	int code = fd < 0 ? fd : -EPROTO;

	if (all && json_unpack(all, "{s:s, s:s, s:o}", "host", &host, "secret", &hex, "ways", &ways) == 0 &&
	    gw_trust_secret_parse(card->secret, hex) == 0) {
		code = 0;
		snprintf(card->host, sizeof(card->host), "%s", host);
		for (size_t i = 0; i < json_array_size(ways) && card->n_ways < WAYS_MAX; i++)
			if (json_is_string(json_array_get(ways, i)))
				snprintf(card->ways[card->n_ways++], GW_TCP_NAME, "%s", json_string_value(json_array_get(ways, i)));
	}
	json_decref(all);
	return code;
}

/* As a whole, under its name: nobody reads half of one. The lock comes before the name. */
static int write_card(struct meet *m, uint32_t job, struct gw_error *why)
{
	char tmp[sizeof(m->path) + 4], secret[GW_TRUST_SECRET_HEX];
	json_t *ways = json_array(), *all;
	int code;

	for (uint32_t i = 0; i < m->card.n_ways; i++)
		json_array_append_new(ways, json_string(m->card.ways[i]));
	gw_trust_secret_print(secret, m->card.secret);
	all = json_pack("{s:I, s:s, s:o, s:s}", "job", (json_int_t)job, "host", m->card.host, "ways", ways, "secret", secret);
	explicit_bzero(secret, sizeof(secret));
	snprintf(tmp, sizeof(tmp), "%s.new", m->path);
	unlink(tmp);
	m->fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	code = m->fd < 0 || flock(m->fd, LOCK_EX | LOCK_NB) < 0 || fchmod(m->fd, 0600) < 0 ? -errno : !all ? -ENOMEM : 0;
	errno = 0; /* a file server may say only at fsync() that it is full */
	if (code == 0 && (json_dumpfd(all, m->fd, 0) < 0 || fsync(m->fd) < 0 || rename(tmp, m->path) < 0))
		code = errno ? -errno : -EIO;
	json_decref(all);
	if (code == 0)
		return 0;
	if (m->fd >= 0)
		unlink(tmp);
	m->path[0] = '\0';
	return gw_fail(why, code, "-meet: nothing can be written to '%s': %s", tmp, strerror(-code));
}

/* The next job number that has a card; 0: that was all */
static uint32_t next_card(DIR *dir)
{
	struct dirent *e;

	while ((e = readdir(dir))) {
		char again[CARD_NAME];
		unsigned job = 0;

		if (sscanf(e->d_name, CARD, &job) == 1 && snprintf(again, sizeof(again), CARD, job) > 0 && strcmp(again, e->d_name) == 0 && job)
			return job;
	}
	return 0;
}

/* What killed mpiruns have left behind */
static void sweep(const char *where)
{
	DIR *dir = opendir(where);
	char path[4096];

	for (uint32_t job = dir ? next_card(dir) : 0; job; job = next_card(dir)) {
		gw_autoclose int fd = -1;

		snprintf(path, sizeof(path), "%.4000s/" CARD, where, job);
		fd = open_card(path, O_RDWR);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			unlink(path);
	}
	if (dir)
		closedir(dir);
}

int meet_jobs(const struct head *h, uint32_t *jobs, int max)
{
	DIR *dir = h->spec->meet ? opendir(h->spec->meet) : NULL;
	int n = 0;

	for (uint32_t job = dir ? next_card(dir) : 0; job && n < max; job = next_card(dir))
		if (job != h->job)
			jobs[n++] = job;
	if (dir)
		closedir(dir);
	return n;
}

const uint8_t *meet_secret(const struct head *h)
{
	return h->meet->card.secret;
}

/* ---- calling --------------------------------------------------------------------------------------------------------- */

static void call_free(struct meet_call *c)
{
	sodium_memzero(&c->card, sizeof(c->card));
	free(c);
}

static void on_proved(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why);

static int try_next(struct meet_call *c, struct gw_error *why)
{
	struct gw_trust_who me = { GW_TRUST_MEET, c->job, 0 };
	char address[GW_TCP_NAME];
	uint16_t port;

	while (c->next < c->card.n_ways) {
		const char *way = c->card.ways[c->next++];
		int fd = gw_tcp_split(way, address, &port, why) < 0 ? -EINVAL : gw_tcp_connect(address, port, why);
		int code = fd < 0 ? fd : gw_trust_connect(&c->trust, c->head->loop, fd, c->card.secret, &me,
		                                          c->next < c->card.n_ways ? TRY_MS : PROVE_MS, on_proved, c);

		if (code == 0)
			return 0;
		if (fd >= 0)
			gw_fail(why, code, "%s", strerror(-code));
	}
	return why->code ? why->code : gw_fail(why, -EADDRNOTAVAIL, "it listens nowhere");
}

static void on_proved(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct meet_call *c = ctx;
	struct gw_error last = { 0 };
	char at[GW_TCP_NAME];

	(void)peer;
	c->trust = NULL;
	if (fd < 0) {
		last = *why;
		snprintf(at, sizeof(at), "%s", c->card.ways[c->next - 1]);
		if (c->next < c->card.n_ways && try_next(c, &last) == 0)
			return;
		gw_fail_more(&last, "the mpirun of job %08x cannot be reached at %s, on %s: ", c->job, at, c->card.host);
	}
	c->done(c->ctx, fd, c->card.secret, &last);
	call_free(c);
}

int meet_begin(struct meet_call **out, struct head *h, uint32_t job, meet_done_fn *done, void *ctx, struct gw_error *why)
{
	struct gw_error way = { 0 };
	struct meet_call *c;
	char path[4096];
	int code;

	if (!h->spec->meet)
		return gw_fail(why, -ECONNREFUSED, "no mpirun of this user on this machine has job %08x; those of other machines are found when both "
		               "were started with -meet DIR", job);
	c = calloc(1, sizeof(*c));
	if (!c)
		return gw_fail(why, -ENOMEM, "out of memory");
	*c = (struct meet_call){ .head = h, .job = job, .done = done, .ctx = ctx };
	snprintf(path, sizeof(path), "%.4000s/" CARD, h->spec->meet, job);
	code = read_card(path, &c->card);
	if (code == -ENOENT)
		gw_fail(why, -ECONNREFUSED, "no mpirun of this user on this machine has job %08x, and none has a card in '%s' (-meet)", job,
		        h->spec->meet);
	else if (code == -EPERM)
		gw_fail(why, code, "'%s' is not a file that this user, and nobody else, can read and write", path);
	else if (code < 0)
		gw_fail(why, code, "'%s' cannot be read: %s", path, strerror(-code));
	else if ((code = try_next(c, &way)) < 0) /* which tells of ways that came to nothing also when another one is being tried */
		gw_fail(why, code, "the mpirun of job %08x cannot be reached, on %s: %s", job, c->card.host, way.text);
	if (code < 0) {
		call_free(c);
		return code;
	}
	*out = c;
	return 0;
}

void meet_cancel(struct meet_call *c)
{
	if (!c)
		return;
	gw_trust_cancel(c->trust);
	call_free(c);
}

/* ---- being called ---------------------------------------------------------------------------------------------------- */

static void on_came(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct head *h = ctx;

	(void)why;
	if (peer->purpose == GW_TRUST_MEET && !h->is_ending)
		tools_come(h, fd, true);
	else
		close(fd);
}

static int listen_at(struct head *h, const char *address, struct gw_error *why)
{
	struct gw_trust_who me = { GW_TRUST_MEET, h->job, 0 };
	struct card *card = &h->meet->card;
	uint16_t port = 0;
	int fd = gw_tcp_listen(address, &port, why), code;

	if (fd < 0)
		return fd;
	code = gw_trust_listen(&h->meet->listeners[card->n_ways], h->loop, fd, card->secret, &me, PROVE_MS, on_came, h);
	if (code < 0)
		return gw_fail(why, code, "cannot listen at %s: %s", address, strerror(-code));
	gw_tcp_join(card->ways[card->n_ways++], address, port);
	return 0;
}

static void on_look(void *ctx)
{
	guests_look(ctx, DEAD_MS);
}

int meet_init(struct head *h, struct gw_error *why)
{
	char addresses[WAYS_MAX][GW_TCP_NAME];
	const char *dir = h->spec->meet;
	struct gw_error not_there = { 0 };
	struct meet *m;
	int n, code;

	if (!dir)
		return 0;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return gw_fail(why, -errno, "-meet: the directory '%s' cannot be made: %s", dir, strerror(errno));
	sweep(dir);
	n = gw_tcp_addresses(addresses, WAYS_MAX, why);
	if (n < 0)
		return gw_fail_more(why, "-meet: ");
	h->meet = m = calloc(1, sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "out of memory");
	m->fd = -1;
	gw_trust_secret_make(m->card.secret);
	gethostname(m->card.host, sizeof(m->card.host) - 1);
	for (int i = 0; i < n; i++) /* one may not be ready: another host is still being asked whether it has it (IPv6) */
		if (listen_at(h, addresses[i], &not_there) < 0)
			gw_log(GW_WARN, "-meet: %s; others do not find this mpirun there", not_there.text);
	if (n && !m->card.n_ways)
		return gw_fail(why, not_there.code, "-meet: %s", not_there.text);
	if (n == 0) {
		gw_log(GW_WARN, "-meet: this machine has no address by which others could reach it: jobs of this machine alone find each other");
		return 0;
	}
	snprintf(m->path, sizeof(m->path), "%.4000s/" CARD, dir, h->job);
	code = gw_loop_timer(h->loop, &m->look, LOOK_MS, LOOK_MS, on_look, h);
	return code < 0 ? gw_fail(why, code, "out of memory") : write_card(m, h->job, why);
}

void meet_fini(struct head *h)
{
	struct meet *m = h->meet;

	if (!m)
		return;
	if (m->path[0])
		unlink(m->path);
	if (m->fd >= 0)
		close(m->fd);
	gw_timer_cancel(m->look);
	for (uint32_t i = 0; i < m->card.n_ways; i++)
		gw_trust_listener_destroy(m->listeners[i]);
	sodium_memzero(m, sizeof(*m));
	free(m);
	h->meet = NULL;
}
