/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * -meet DIR: jobs whose mpiruns run on different machines find each other.
 *
 * Each has a card in DIR, a file of its owner's only: where its mpirun listens, and a secret. Who can read it may call, and must
 * prove that (base/trust.h) before a byte of his is looked at; what is asked then is meet and lookup, and nothing else of what
 * tools ask. So a port (MPI_Open_port) need not carry more than a job's number, and can be printed and passed on: it is no secret.
 * DIR is a directory that the machines share, as home directories mostly are. It may be on a server that hangs: whatever touches it is
 * done by children of mpirun (errand.h). One keeps the card, and a lock on it, and removes it when mpirun has ended, however. A card
 * without a lock has been left behind by a machine that failed, or with both killed, and goes when the next job begins with the same DIR.
 *
 * mpirun listens at each address of its machine by which others may reach it. Without -meet it does not.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launcher/errand.h"
#include "runtime/launcher/friends.h"

#define CARD        "godwit-%08x" /* of the job of that number */
#define CARD_NAME   32
#define CARD_MAX    (16 << 10) /* bytes */
#define WAYS_MAX    8
#define PROVE_MS    10000
#define TRY_MS      3000  /* where there is another way */
#define LOOK_MS     2000
#define DEAD_MS     6000  /* of unanswered questions, as for daemons (remote.c) */
#define READ_MS    10000  /* for a card to be read, */
#define WRITE_MS   10000  /* or ours to be written, before the job starts */
#define END_MS      2000  /* for ours to be removed */
#define FORMER_MS   3000  /* for others to have done with that of an mpirun of the same job */

struct card {
	char host[256];
	char ways[WAYS_MAX][GW_TCP_NAME];
	uint32_t n_ways;
	uint8_t secret[GW_TRUST_SECRET];
};

struct meet {
	struct head *head;
	char path[4096];     /* of our card; empty: it has none */
	struct card card;
	pid_t keeper;        /* has the lock on it, and removes it when we hang up; 0: there is none */
	int fd;              /* to it */
	struct gw_watch *watch;
	struct gw_trust_listener *listeners[WAYS_MAX];
	struct gw_timer *look;
};

struct kept {                /* what the keeper says, once */
	int32_t code;
	char why[4500];
};

struct meet_call {
	struct head *head;
	struct errand *reading; /* of the card */
	struct gw_timer *deadline; /* of that */
	char path[4096];
	struct card card;
	uint32_t job, next;  /* next: of its ways */
	struct gw_trust *trust;
	meet_done_fn *done;
	void *ctx;
};

/* ---- cards ----------------------------------------------------------------------------------------------------------- */

static int card_parse(struct card *card, const json_t *all)
{
	const char *host, *hex;
	json_t *ways;

	*card = (struct card){ 0 };
	if (json_unpack((json_t *)all, "{s:s, s:s, s:o}", "host", &host, "secret", &hex, "ways", &ways) < 0 ||
	    gw_trust_secret_parse(card->secret, hex) < 0)
		return -EPROTO;
	snprintf(card->host, sizeof(card->host), "%s", host);
	for (size_t i = 0; i < json_array_size(ways) && card->n_ways < WAYS_MAX; i++)
		if (json_is_string(json_array_get(ways, i)))
			snprintf(card->ways[card->n_ways++], GW_TCP_NAME, "%s", json_string_value(json_array_get(ways, i)));
	return 0;
}

static json_t *card_pack(const struct card *card, uint32_t job)
{
	char secret[GW_TRUST_SECRET_HEX];
	json_t *ways = json_array(), *all;

	for (uint32_t i = 0; i < card->n_ways; i++)
		json_array_append_new(ways, json_string(card->ways[i]));
	gw_trust_secret_print(secret, card->secret);
	all = json_pack("{s:I, s:s, s:o, s:s}", "job", (json_int_t)job, "host", card->host, "ways", ways, "secret", secret);
	explicit_bzero(secret, sizeof(secret));
	return all;
}

/* ---- cards, in a process of its own ---------------------------------------------------------------------------------- */

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

static int read_card(void *ctx, char *said, size_t cap)
{
	const struct meet_call *c = ctx;
	gw_autoclose int fd = open_card(c->path, O_RDONLY);
	json_t *all = fd < 0 ? NULL : json_loadfd(fd, 0, NULL);
	size_t len = all ? json_dumpb(all, said, cap - 1, JSON_COMPACT) : 0;

	json_decref(all);
	said[len < cap ? len : 0] = '\0';
	return fd < 0 ? fd : len && len < cap ? 0 : -EPROTO;
}

/* Is that still the file of this name? */
static bool is_at(int fd, const char *path)
{
	struct stat st, there;

	return fstat(fd, &st) == 0 && lstat(path, &there) == 0 && st.st_dev == there.st_dev && st.st_ino == there.st_ino;
}

/* A new file, locked. Who sweeps may have found it before it was, and removed it */
static int open_new(const char *path)
{
	for (;;) {
		int fd, code;

		unlink(path);
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		code = flock(fd, LOCK_EX) < 0 || fchmod(fd, 0600) < 0 ? -errno : 0;
		if (code == 0 && is_at(fd, path))
			return fd;
		close(fd);
		if (code < 0)
			return code;
	}
}

/* A job that goes on has the number that it had, and so has the card of its mpirun that was killed. Who sweeps that now removes the name: it
 * is waited for, or finds the lock taken. Return: the lock; negative: there is no such card, or somebody has it */
static int lock_former(const char *path)
{
	int fd = open_card(path, O_RDWR);

	for (int ms = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && ms < FORMER_MS; ms += 20)
		usleep(20000);
	return fd;
}

/* As a whole, under its name: nobody reads half of one. The lock comes before the name. Return: the lock */
static int write_card(const struct meet *m, struct gw_error *why)
{
	json_t *all = card_pack(&m->card, m->head->job);
	char tmp[sizeof(m->path) + 4];
	int fd, former, code;

	snprintf(tmp, sizeof(tmp), "%s.new", m->path);
	fd = open_new(tmp);
	former = lock_former(m->path);
	code = fd < 0 ? fd : !all ? -ENOMEM : 0;
	errno = 0; /* a file server may say only at fsync() that it is full */
	if (code == 0 && (json_dumpfd(all, fd, 0) < 0 || fsync(fd) < 0 || rename(tmp, m->path) < 0))
		code = errno ? -errno : -EIO;
	json_decref(all);
	if (former >= 0)
		close(former);
	if (code == 0)
		return fd;
	if (fd >= 0)
		unlink(tmp);
	return gw_fail(why, code, "-meet: nothing can be written to '%s': %s", tmp, strerror(-code));
}

/* The next file of a card, with the job's number and what follows it: "", or ".new" of one that is being written. false: that was all */
static bool next_card(DIR *dir, unsigned *job, const char **more)
{
	struct dirent *e;

	while ((e = readdir(dir))) {
		char again[CARD_NAME];
		int len = 0;

		if (sscanf(e->d_name, CARD "%n", job, &len) < 1 || !*job || snprintf(again, sizeof(again), CARD, *job) != len ||
		    strncmp(again, e->d_name, (size_t)len) != 0)
			continue;
		*more = strcmp(e->d_name + len, ".new") == 0 ? ".new" : "";
		if (strcmp(e->d_name + len, *more) == 0)
			return true;
	}
	return false;
}

/* What killed mpiruns have left behind */
static void sweep(const char *where)
{
	DIR *dir = opendir(where);
	char path[4096];
	const char *more;
	unsigned job;

	while (dir && next_card(dir, &job, &more)) {
		gw_autoclose int fd = -1;

		snprintf(path, sizeof(path), "%.4000s/" CARD "%s", where, job, more);
		fd = open_card(path, O_RDWR);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_at(fd, path))
			unlink(path);
	}
	if (dir)
		closedir(dir);
}

int meet_list(const char *where, char *said, size_t cap)
{
	DIR *dir = opendir(where);
	size_t at = 0;
	const char *more;
	unsigned job;

	if (!dir)
		return -errno;
	while (at + CARD_NAME < cap && next_card(dir, &job, &more))
		if (!*more)
			at += (size_t)snprintf(said + at, cap - at, "%x\n", job);
	closedir(dir);
	return 0;
}

static void keep_card(void *ctx, int fd)
{
	const struct meet *m = ctx;
	const char *where = m->head->spec->meet;
	struct gw_error why = { 0 };
	struct kept kept = { 0 };
	int lock = -1;
	char byte;

	if (mkdir(where, 0700) < 0 && errno != EEXIST)
		gw_fail(&why, -errno, "-meet: the directory '%s' cannot be made: %s", where, strerror(errno));
	if (why.code == 0) {
		sweep(where);
		lock = m->path[0] ? write_card(m, &why) : -1;
	}
	kept.code = why.code;
	snprintf(kept.why, sizeof(kept.why), "%s", why.text);
	if (lock >= 0)
		prctl(PR_SET_PDEATHSIG, 0); /* it has something to do then */
	if (write(fd, &kept, sizeof(kept)) == sizeof(kept) && lock >= 0)
		while (read(fd, &byte, 1) < 0 && errno == EINTR)
			continue;
	if (lock >= 0)
		unlink(m->path);
}

const uint8_t *meet_secret(const struct head *h)
{
	return h->meet->card.secret;
}

/* ---- calling --------------------------------------------------------------------------------------------------------- */

static void call_free(struct meet_call *c)
{
	gw_timer_cancel(c->deadline);
	errand_drop(&c->reading);
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

static void on_read(void *ctx, int code, char *said)
{
	struct meet_call *c = ctx;
	json_t *all = code < 0 ? NULL : json_loads(said, 0, NULL);
	const char *dir = c->head->spec->meet;
	struct gw_error why = { 0 }, way = { 0 };

	gw_timer_cancel(c->deadline);
	c->deadline = NULL;
	if (code == 0)
		code = card_parse(&c->card, all);
	json_decref(all);
	explicit_bzero(said, strlen(said));
	if (code == -ENOENT)
		gw_fail(&why, -ECONNREFUSED, "no mpirun of this user on this machine has job %08x, and none has a card in '%s' (-meet)", c->job, dir);
	else if (code == -EPERM)
		gw_fail(&why, code, "'%s' is not a file that this user, and nobody else, can read and write", c->path);
	else if (code < 0)
		gw_fail(&why, code, "'%s' cannot be read: %s", c->path, errand_text(code));
	else if ((code = try_next(c, &way)) < 0) /* which tells of ways that came to nothing also when another one is being tried */
		gw_fail(&why, code, "the mpirun of job %08x cannot be reached, on %s: %s", c->job, c->card.host, way.text);
	if (code == 0)
		return;
	c->done(c->ctx, -1, c->card.secret, &why);
	call_free(c);
}

static void on_hung(void *ctx)
{
	struct meet_call *c = ctx;

	c->deadline = NULL;
	on_read(c, -ETIMEDOUT, (char[]){ "" });
}

int meet_begin(struct meet_call **out, struct head *h, uint32_t job, meet_done_fn *done, void *ctx, struct gw_error *why)
{
	struct meet_call *c;
	int code;

	if (!h->spec->meet)
		return gw_fail(why, -ECONNREFUSED, "no mpirun of this user on this machine has job %08x; those of other machines are found when both "
		               "were started with -meet DIR", job);
	c = calloc(1, sizeof(*c));
	if (!c)
		return gw_fail(why, -ENOMEM, "out of memory");
	*c = (struct meet_call){ .head = h, .job = job, .done = done, .ctx = ctx };
	snprintf(c->path, sizeof(c->path), "%.4000s/" CARD, h->spec->meet, job);
	code = errand_begin(&c->reading, h->loop, read_card, on_read, c, why);
	if (code == 0 && gw_loop_timer(h->loop, &c->deadline, READ_MS, 0, on_hung, c) < 0)
		code = gw_fail(why, -ENOMEM, "out of memory");
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

static void on_keeper_gone(void *ctx, uint32_t events)
{
	struct meet *m = ctx;

	(void)events;
	gw_watch_close(&m->watch, &m->fd);
	errand_bury(m->keeper, 0);
	m->keeper = 0;
	job_say(m->head, "mpirun: -meet: the process that keeps '%s' has been killed: jobs of other machines that begin now do not find this one",
	        m->path);
}

/* Its first word; or -errno, with why there is none */
static int hear_keeper(struct meet *m, struct gw_error *why)
{
	uint64_t end = gw_now_ns() + WRITE_MS * 1000000ull;
	struct kept kept;
	ssize_t n;

	if (gw_wait_readable(m->fd, end) < 0)
		return gw_fail(why, -ETIMEDOUT, "-meet: nothing can be written to '%s' within %d s: its file system does not answer; name another "
		               "directory", m->head->spec->meet, WRITE_MS / 1000);
	n = recv(m->fd, &kept, sizeof(kept), MSG_WAITALL);
	if (n != sizeof(kept))
		return gw_fail(why, -EPIPE, "-meet: %s", errand_text(-EPIPE));
	return kept.code < 0 ? gw_fail(why, kept.code, "%s", kept.why) : 0;
}

/* The directory is there, and clean; with a path our card is in it, until we hang up */
static int have_card(struct meet *m, struct gw_error *why)
{
	int pair[2], code;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_fail(why, -errno, "-meet: no channel: %s", strerror(errno));
	m->fd = pair[0];
	m->keeper = errand_fork("godwit-card", pair[1], keep_card, m);
	close(pair[1]);
	if (m->keeper < 0) {
		code = m->keeper;
		m->keeper = 0;
		return gw_fail(why, code, "-meet: no process that keeps its card: %s%s", strerror(-code), gw_advice(code));
	}
	code = hear_keeper(m, why);
	if (code == 0 && m->path[0])
		code = gw_loop_watch(m->head->loop, &m->watch, m->fd, EPOLLIN, on_keeper_gone, m);
	return code < 0 && !why->code ? gw_fail(why, code, "out of memory") : code;
}

int meet_init(struct head *h, struct gw_error *why)
{
	char addresses[WAYS_MAX][GW_TCP_NAME];
	const char *dir = h->spec->meet;
	struct gw_error not_there = { 0 };
	struct meet *m;
	int n;

	if (!dir)
		return 0;
	n = gw_tcp_addresses(addresses, WAYS_MAX, why);
	if (n < 0)
		return gw_fail_more(why, "-meet: ");
	h->meet = m = calloc(1, sizeof(*m));
	if (!m)
		return gw_fail(why, -ENOMEM, "out of memory");
	m->head = h;
	m->fd = -1;
	gw_trust_secret_make(m->card.secret);
	gethostname(m->card.host, sizeof(m->card.host) - 1);
	for (int i = 0; i < n; i++) /* one may not be ready: another host is still being asked whether it has it (IPv6) */
		if (listen_at(h, addresses[i], &not_there) < 0)
			gw_log(GW_WARN, "-meet: %s; others do not find this mpirun there", not_there.text);
	if (n && !m->card.n_ways)
		return gw_fail(why, not_there.code, "-meet: %s", not_there.text);
	if (n == 0)
		gw_log(GW_WARN, "-meet: this machine has no address by which others could reach it: jobs of this machine alone find each other");
	else
		snprintf(m->path, sizeof(m->path), "%.4000s/" CARD, dir, h->job);
	if (n && gw_loop_timer(h->loop, &m->look, LOOK_MS, LOOK_MS, on_look, h) < 0)
		return gw_fail(why, -ENOMEM, "out of memory");
	return have_card(m, why);
}

void meet_fini(struct head *h)
{
	struct meet *m = h->meet;
	bool has_card;

	if (!m)
		return;
	has_card = m->watch != NULL;
	gw_watch_close(&m->watch, &m->fd);
	if (m->keeper && errand_bury(m->keeper, gw_now_ns() + (has_card ? END_MS * 1000000ull : 0)) < 0 && has_card)
		job_say(h, "mpirun: -meet: '%s' stays: its file system does not answer", m->path);
	gw_timer_cancel(m->look);
	for (uint32_t i = 0; i < m->card.n_ways; i++)
		gw_trust_listener_destroy(m->listeners[i]);
	sodium_memzero(m, sizeof(*m));
	free(m);
	h->meet = NULL;
}
