/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The resident daemon of a pool on one host: connections to other keepers, daemons of jobs, its beginning and its end.
 *
 * It begins on the launcher's standard streams, as `godwit up` started it:
 *
 *   up ──► secret, a line          keeper ──► "keeper {id host address port slots}"      (listens at its address by now)
 *   up ──► "pool {members[] ...}"   keeper ──► "ready"                                   when it follows or leads
 *   up ──► "stay"                   the keeper leaves the streams, whoever waited in the foreground exits 0
 *
 * Before "stay" the end of standard input is its end: nothing stays behind of a pool that does not come up.
 */
#include "runtime/pool/keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECRET_MS 30000
#define PROVE_MS  5000
#define DEAD_MS   6000
#define END_MS    3000
#define KILL_S    5

struct peer {                  /* a connection to another keeper */
	struct gw_list node;
	struct keeper *k;
	uint32_t id;
	struct gw_link *link;
	struct gw_trust *trust;  /* while it is being made */
	bool is_dead;            /* to be dealt with */
};

struct daemon {                /* a job's godwitd of this host */
	struct gw_list node;
	struct keeper *k;
	uint32_t job;
	struct starter *process; /* NULL: it could not be started */
	unsigned stopping_s;     /* 0: it is to run */
	bool is_over;
	char why[sizeof(((struct gw_error *)0)->text)];
};

/* ---- what is dealt with later --------------------------------------------------------------------------------------- */

static void peer_free(struct peer *p)
{
	gw_trust_cancel(p->trust);
	gw_link_destroy(p->link);
	gw_list_remove(&p->node);
	free(p);
}

static struct peer *peer_of(struct keeper *k, uint32_t id)
{
	gw_list_for(e, &k->peers) {
		struct peer *p = gw_list_entry(e, struct peer, node);

		if (p->id == id && !p->is_dead)
			return p;
	}
	return NULL;
}

static void deal_with_ends(struct keeper *k)
{
	bool is_found;

	do {
		is_found = false;
		gw_list_for(e, &k->peers) {
			struct peer *p = gw_list_entry(e, struct peer, node);
			uint32_t id = p->id;

			if (!p->is_dead)
				continue;
			peer_free(p);
			if (!peer_of(k, id))
				pool_lost(&k->pool, id);
			is_found = true;
			break;
		}
	} while (is_found);
	do {
		is_found = false;
		gw_list_for(e, &k->daemons) {
			struct daemon *d = gw_list_entry(e, struct daemon, node);
			uint32_t job = d->job;
			char why[sizeof(((struct gw_error *)0)->text)];

			if (!d->is_over)
				continue;
			snprintf(why, sizeof(why), "%s", d->why);
			starter_destroy(d->process, 0);
			gw_list_remove(&d->node);
			free(d);
			pool_daemon_ended(&k->pool, job, why);
			is_found = true;
			break;
		}
	} while (is_found);
}

static void deal(void *ctx)
{
	struct keeper *k = ctx;
	json_t *own = k->own;

	k->is_deferred = false;
	k->own = json_array();
	for (size_t i = 0; i < json_array_size(own); i++) {
		struct pool_member me = k->pool.me;

		pool_message(&k->pool, &me, json_array_get(own, i));
	}
	json_decref(own);
	deal_with_ends(k);
}

void keeper_defer(struct keeper *k)
{
	if (!k->is_deferred && gw_loop_defer(k->loop, deal, k) == 0)
		k->is_deferred = true;
}

/* ---- other keepers -------------------------------------------------------------------------------------------------- */

static void peer_dies(struct peer *p)
{
	p->is_dead = true;
	keeper_defer(p->k);
}

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	struct peer *p = ctx;
	struct pool_member *m = pool_member_of(&p->k->pool, p->id), from = { .id = p->id };

	(void)l; (void)fds; (void)n_fds;
	if (m)
		memcpy(from.host, m->host, sizeof(from.host));
	if (!p->is_dead)
		pool_message(&p->k->pool, &from, msg);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	(void)l; (void)error;
	peer_dies(ctx);
}

static const struct gw_link_ops link_ops = { .json = on_json, .closed = on_closed };

static struct peer *peer_make(struct keeper *k, uint32_t id)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p)
		abort(); /* a keeper without memory for its connections */
	p->k = k;
	p->id = id;
	gw_list_append(&k->peers, &p->node);
	return p;
}

/* Where a pool comes up, all keepers are there before they look for each other: who cannot be reached then never will be. */
static void cannot_reach(struct peer *p, const char *text)
{
	struct pool_member *m = pool_member_of(&p->k->pool, p->id);

	gw_log(GW_INFO, "pool: keeper %u cannot be reached: %s", p->id, text);
	if (m && p->k->input && !p->k->is_detached) {
		fprintf(stderr, "the keeper of host %s cannot be reached from %s: %s\n", m->host, p->k->args->host, text);
		gw_loop_stop(p->k->loop, 1);
	}
	peer_dies(p);
}

static void on_proved(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct peer *p = ctx;

	(void)peer;
	p->trust = NULL;
	if (fd < 0) {
		cannot_reach(p, why->text);
		return;
	}
	gw_tcp_tune(fd);
	if (gw_link_open(p->link, fd) < 0)
		peer_dies(p);
}

static void on_peer(void *ctx, int fd, const struct gw_trust_who *who, const struct gw_error *why)
{
	struct keeper *k = ctx;
	struct peer *p;

	(void)why;
	if (who->purpose != GW_TRUST_POOL || k->is_over) {
		close(fd);
		return;
	}
	gw_tcp_tune(fd);
	p = peer_make(k, who->cluster);
	if (gw_link_create(&p->link, k->loop, fd, &link_ops, p) < 0)
		peer_free(p);
}

static struct peer *dial(struct keeper *k, const struct pool_member *to)
{
	struct gw_trust_who me = { GW_TRUST_POOL, k->args->number, k->pool.me.id };
	struct peer *p = peer_make(k, to->id);
	struct gw_error why = { 0 };
	int fd;

	if (gw_link_create_held(&p->link, k->loop, &link_ops, p) < 0) {
		peer_dies(p);
		return p;
	}
	fd = to->port ? gw_tcp_connect(to->address, to->port, &why) : -EHOSTUNREACH;
	if (fd < 0 || gw_trust_connect(&p->trust, k->loop, fd, k->secret, &me, PROVE_MS, on_proved, p) < 0)
		cannot_reach(p, why.text[0] ? why.text : "out of memory");
	return p;
}

static void do_send(void *ctx, const struct pool_member *to, json_t *msg)
{
	struct keeper *k = ctx;
	struct peer *p;

	if (to->id == k->pool.me.id) {
		json_array_append_new(k->own, msg);
		keeper_defer(k);
		return;
	}
	p = peer_of(k, to->id);
	if (!p)
		p = dial(k, to);
	if (p->link && !p->is_dead)
		gw_link_send_json(p->link, msg);
	else
		json_decref(msg);
}

static void do_close(void *ctx, uint32_t id)
{
	struct keeper *k = ctx;

	gw_list_for(e, &k->peers) {
		struct peer *p = gw_list_entry(e, struct peer, node);

		if (p->id != id || p->is_dead)
			continue;
		p->id = 0; /* its end is not news */
		peer_dies(p);
	}
}

/* ---- daemons -------------------------------------------------------------------------------------------------------- */

static void on_said(void *ctx, const char *line)
{
	struct daemon *d = ctx;

	if (!d->stopping_s)
		pool_daemon_said(&d->k->pool, d->job, line);
}

static void on_ended(void *ctx)
{
	struct daemon *d = ctx;
	int status = starter_status(d->process);

	if (status) {
		if (starter_held(d->process)[0])
			snprintf(d->why, sizeof(d->why), "%s", starter_held(d->process));
		else
			rt_end_describe(status, true, d->why, sizeof(d->why));
		starter_hold(d->process, "");
	}
	d->is_over = true;
	keeper_defer(d->k);
}

static const struct starter_ops starter_ops = { .said = on_said, .ended = on_ended };

static void do_start(void *ctx, const struct pool_claim *c, const json_t *how)
{
	struct keeper *k = ctx;
	struct daemon *d = calloc(1, sizeof(*d));
	const char *line = json_string_value(json_object_get(how, "line"));
	char secret[GW_TRUST_SECRET_HEX + 1], text[64];
	uint8_t bytes[GW_TRUST_SECRET];
	struct strings argv = { 0 };
	struct gw_error why = { 0 };

	if (!d)
		abort();
	d->k = k;
	d->job = c->job;
	gw_list_append(&k->daemons, &d->node);
	snprintf(text, sizeof(text), "job %08x %s", c->job, c->nonce);
	gw_trust_secret_derive(bytes, k->secret, text);
	gw_trust_secret_print(secret, bytes);
	strcat(secret, "\n");
	starter_words(&argv, STARTER_HERE, k->args->host, line ? line : "false");
	if (starter_start(&d->process, k->loop, k->args->host, argv.list, secret, NULL, &starter_ops, d, &why) < 0) {
		snprintf(d->why, sizeof(d->why), "%s", why.text);
		d->is_over = true;
		keeper_defer(k);
	}
	explicit_bzero(secret, sizeof(secret));
	explicit_bzero(bytes, sizeof(bytes));
	strings_fini(&argv);
}

/* The end of its standard input; a daemon that does not follow is killed. */
static void do_stop(void *ctx, uint32_t job)
{
	struct keeper *k = ctx;

	gw_list_for(e, &k->daemons) {
		struct daemon *d = gw_list_entry(e, struct daemon, node);

		if (d->job != job || d->stopping_s)
			continue;
		d->stopping_s = 1;
		if (d->process)
			starter_close(d->process);
	}
}

/* ---- the core's other orders ---------------------------------------------------------------------------------------- */

static void do_tell(void *ctx, uint32_t job, json_t *msg)
{
	clients_tell(ctx, job, msg);
}

static void do_over(void *ctx, const char *why)
{
	struct keeper *k = ctx;

	(void)why;
	k->is_over = true;
	gw_loop_stop(k->loop, 0);
}

static uint32_t do_random(void *ctx)
{
	uint32_t word = 0;

	(void)ctx;
	while (getrandom(&word, sizeof(word), 0) != sizeof(word))
		;
	return word;
}

static const struct pool_ops ops = { .send = do_send, .close = do_close, .start = do_start, .stop = do_stop, .tell = do_tell,
	                             .over = do_over, .random = do_random };

static void say_ready(struct keeper *k)
{
	if (k->is_detached || (k->pool.state != POOL_FOLLOW && k->pool.state != POOL_LEAD))
		return;
	k->is_detached = true; /* said once */
	puts("ready");
	fflush(stdout);
}

static void on_tick(void *ctx)
{
	struct keeper *k = ctx;

	gw_list_for(e, &k->peers) {
		struct peer *p = gw_list_entry(e, struct peer, node);

		if (!p->is_dead && p->link && gw_link_fd(p->link) >= 0 && gw_tcp_is_dead(gw_link_fd(p->link), DEAD_MS)) {
			gw_log(GW_INFO, "pool: the host of keeper %u does not answer any more", p->id);
			peer_dies(p);
		}
	}
	gw_list_for(e, &k->daemons) {
		struct daemon *d = gw_list_entry(e, struct daemon, node);

		if (d->stopping_s && ++d->stopping_s > KILL_S && d->process)
			starter_kill(d->process);
	}
	pool_tick(&k->pool);
	if (k->input)
		say_ready(k);
}

/* ---- the beginning -------------------------------------------------------------------------------------------------- */

/* The streams of the launcher are left alone; its process, which is our parent's, can end. */
static void detach(struct keeper *k)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), log = -1;

	if (k->args->log)
		log = open(k->args->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	gw_watch_remove(k->input);
	k->input = NULL;
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(log >= 0 ? log : null, STDOUT_FILENO);
		dup2(log >= 0 ? log : null, STDERR_FILENO);
		if (null > STDERR_FILENO)
			close(null);
	}
	if (log > STDERR_FILENO)
		close(log);
	if (write(k->detach_fd, "d", 1) != 1)
		gw_log(GW_INFO, "pool: who waited in the foreground is gone");
	close(k->detach_fd);
	k->detach_fd = -1;
}

static void on_line(struct keeper *k, char *line)
{
	json_t *msg;

	if (strcmp(line, "stay") == 0) {
		detach(k);
		return;
	}
	msg = strncmp(line, "pool ", 5) == 0 ? json_loads(line + 5, 0, NULL) : NULL;
	if (!msg || (json_object_get(msg, "leader") ? pool_join(&k->pool, json_object_get(msg, "members"),
	             (uint32_t)json_integer_value(json_object_get(msg, "leader"))) : pool_found(&k->pool, json_object_get(msg, "members"))) < 0) {
		fprintf(stderr, "godwitd: what 'godwit up' says is not understood\n");
		gw_loop_stop(k->loop, 1);
	}
	json_decref(msg);
}

static void on_input(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;
	ssize_t n = read(STDIN_FILENO, k->line + k->len, sizeof(k->line) - 1 - k->len);
	char *end;

	(void)events;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) { /* a pool that did not come up */
		gw_loop_stop(k->loop, 1);
		return;
	}
	k->len += (size_t)n;
	k->line[k->len] = '\0';
	while (k->input && (end = strchr(k->line, '\n'))) {
		*end++ = '\0';
		on_line(k, k->line);
		k->len -= (size_t)(end - k->line);
		memmove(k->line, end, k->len + 1);
	}
}

static int begin(struct keeper *k, struct gw_error *why)
{
	struct pool_member me = { .slots = k->args->slots };
	struct gw_trust_who who = { GW_TRUST_POOL, k->args->number, 0 };
	int fd, code;

	me.id = (k->args->index + 1) << 16 | (do_random(k) & 0xffff);
	snprintf(me.host, sizeof(me.host), "%s", k->args->host);
	if (strcmp(k->args->toward, "127.0.0.1") == 0)
		snprintf(me.address, sizeof(me.address), "127.0.0.1");
	else if (gw_tcp_sources(k->args->toward, AF_INET, &me.address, 1, why) < 0)
		return why->code;
	fd = gw_tcp_listen(me.address, &me.port, why);
	if (fd < 0)
		return fd;
	pool_init(&k->pool, &me, &ops, k);
	who.cluster = me.id;
	code = gw_trust_listen(&k->listener, k->loop, fd, k->secret, &who, PROVE_MS, on_peer, k);
	if (code < 0)
		return gw_fail(why, code, "cannot listen at %s: %s", me.address, strerror(-code));
	pool_socket_name(k->socket, k->args->name, k->args->host);
	code = clients_listen(k, why);
	if (code < 0)
		return code;
	code = gw_loop_watch(k->loop, &k->input, STDIN_FILENO, EPOLLIN, on_input, k);
	if (code == 0)
		code = gw_loop_timer(k->loop, &k->tick, 200, 1000, on_tick, k);
	if (code < 0)
		return gw_fail(why, code, "cannot start: %s", strerror(-code));
	printf("keeper {\"id\": %u, \"host\": \"%s\", \"address\": \"%s\", \"port\": %u, \"slots\": %u}\n", me.id, me.host, me.address,
	       me.port, me.slots);
	fflush(stdout);
	return 0;
}

static int run(struct keeper *k)
{
	struct gw_error why = { 0 };
	int code;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	gw_list_init(&k->peers);
	gw_list_init(&k->daemons);
	gw_list_init(&k->clients);
	k->own = json_array();
	code = gw_loop_create(&k->loop);
	if (code < 0)
		return 1;
	code = begin(k, &why);
	if (code < 0) {
		fprintf(stderr, "godwitd: %s\n", why.text);
		return 1;
	}
	code = gw_loop_run(k->loop);
	gw_list_for(e, &k->daemons) {
		struct daemon *d = gw_list_entry(e, struct daemon, node);

		if (d->process)
			starter_close(d->process);
	}
	gw_list_for(e, &k->daemons)
		starter_destroy(gw_list_entry(e, struct daemon, node)->process, gw_now_ns() + END_MS * 1000000ull);
	clients_fini(k);
	gw_list_for(e, &k->peers)
		if (gw_list_entry(e, struct peer, node)->link)
			gw_link_flush(gw_list_entry(e, struct peer, node)->link); /* last words */
	explicit_bzero(k->secret, sizeof(k->secret));
	return code;
}

int keeper_main(struct keeper_args *a)
{
	static struct keeper k;
	struct gw_error why = { 0 };
	int fds[2], status = 0;
	pid_t pid;
	char byte;

	k.args = a;
	if (pool_name_check(a->name, &why) < 0 || gw_trust_secret_read(STDIN_FILENO, k.secret, SECRET_MS, &why) < 0) {
		fprintf(stderr, "godwitd: %s\n", why.text);
		return 1;
	}
	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		fprintf(stderr, "godwitd: cannot start: %s\n", strerror(errno));
		return 1;
	}
	if (pid == 0) {
		close(fds[0]);
		setsid();
		k.detach_fd = fds[1];
		return run(&k);
	}
	/* The launcher waits for this process: it ends when the other one has left the launcher's streams, or has ended. */
	close(fds[1]);
	while (read(fds[0], &byte, 1) < 0 && errno == EINTR)
		;
	if (byte == 'd')
		return 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
