/* SPDX-License-Identifier: BSD-2-Clause */
/* The proof of the job's secret on a fresh connection: messages, one small state machine for both sides, the listener. */
#include "runtime/base/trust.h"

#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/tcp.h"

#define PRESSURE_MS 100  /* a full listener looks for silent ones that often */
#define SILENT_MS   500  /* a round trip of the slowest network that ranks would be spread over */
#define BATCH       64   /* connections that are accepted before anything else has its turn */
#define LINES       300  /* that a listener logs at once; then LINES_S a second */
#define LINES_S     10

/* ---- messages -------------------------------------------------------------------------------------------------- */

int gw_trust_parse(const void *bytes, size_t len, enum gw_trust_kind kind, struct gw_trust_msg *out, struct gw_error *why)
{
	struct gw_trust_msg m = { 0 };

	if (len > sizeof(m))
		return gw_fail(why, -EPROTO, "it sent %zu bytes, where %zu are due", len, sizeof(m));
	memcpy(&m, bytes, len);
	if (len >= 4 && m.magic != GW_TRUST_MAGIC)
		return gw_fail(why, -EPROTO, "it does not speak this protocol (it begins with %08x)", m.magic);
	if (len >= 6 && m.version != GW_TRUST_VERSION)
		return gw_fail(why, -EPROTONOSUPPORT, "it speaks version %u of the protocol, this is version %u; the same Godwit "
		               "is needed on all hosts", m.version, GW_TRUST_VERSION);
	if (len >= 8 && m.kind != kind)
		return gw_fail(why, -EPROTO, "it sent a message of kind %u, where %d is due", m.kind, (int)kind);
	if (len < sizeof(m))
		return 0;
	if (m.zero || m.build[sizeof(m.build) - 1] || m.refusal > GW_TRUST_OTHER_JOB)
		return gw_fail(why, -EPROTO, "its message is malformed");
	for (const char *c = m.build; *c; c++)
		if (*c < '!' || *c > '~') /* it will be in a sentence */
			return gw_fail(why, -EPROTO, "its message is malformed");
	*out = m;
	return 1;
}

void gw_trust_make(struct gw_trust_msg *out, enum gw_trust_kind kind, const struct gw_trust_who *who, const uint8_t *nonce)
{
	memset(out, 0, sizeof(*out));
	out->magic = GW_TRUST_MAGIC;
	out->version = GW_TRUST_VERSION;
	out->kind = (uint16_t)kind;
	out->purpose = who->purpose;
	out->job = who->job;
	out->cluster = who->cluster;
	snprintf(out->build, sizeof(out->build), "%s", PACKAGE_VERSION);
	if (nonce)
		memcpy(out->nonce, nonce, sizeof(out->nonce));
}

void gw_trust_hash(uint8_t proof[32], const uint8_t secret[GW_TRUST_SECRET], enum gw_trust_kind kind,
                   const struct gw_trust_msg *greet, const struct gw_trust_msg *answer)
{
	static const char domain[] = "godwit trust 1";
	crypto_generichash_state s;
	struct gw_trust_msg g = *greet, a = *answer;
	unsigned char k = (unsigned char)kind;

	memset(g.proof, 0, sizeof(g.proof));
	memset(a.proof, 0, sizeof(a.proof));
	crypto_generichash_init(&s, secret, GW_TRUST_SECRET, 32);
	crypto_generichash_update(&s, (const unsigned char *)domain, sizeof(domain));
	crypto_generichash_update(&s, &k, 1);
	crypto_generichash_update(&s, (const unsigned char *)&g, sizeof(g));
	crypto_generichash_update(&s, (const unsigned char *)&a, sizeof(a));
	crypto_generichash_final(&s, proof, 32);
}

/* ---- secrets --------------------------------------------------------------------------------------------------- */

static int random_bytes(uint8_t *bytes, size_t len)
{
	ssize_t n;

	do
		n = getrandom(bytes, len, 0);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

void gw_trust_secret_derive(uint8_t out[GW_TRUST_SECRET], const uint8_t secret[GW_TRUST_SECRET], const char *text)
{
	static const char domain[] = "godwit secret";
	crypto_generichash_state s;

	crypto_generichash_init(&s, secret, GW_TRUST_SECRET, GW_TRUST_SECRET);
	crypto_generichash_update(&s, (const unsigned char *)domain, sizeof(domain));
	crypto_generichash_update(&s, (const unsigned char *)text, strlen(text));
	crypto_generichash_final(&s, out, GW_TRUST_SECRET);
	sodium_memzero(&s, sizeof(s));
}

#define SEALED (crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + GW_TRUST_SECRET)
_Static_assert(GW_TRUST_SEALED_HEX == 2 * SEALED + 1, "sizes of libsodium's secretbox");
_Static_assert(GW_TRUST_SECRET == crypto_secretbox_KEYBYTES, "a secret is a key");

void gw_trust_secret_seal(char hex[GW_TRUST_SEALED_HEX], const uint8_t secret[GW_TRUST_SECRET], const uint8_t key[GW_TRUST_SECRET])
{
	uint8_t k[GW_TRUST_SECRET], all[SEALED];

	gw_trust_secret_derive(k, key, "sealed");
	randombytes_buf(all, crypto_secretbox_NONCEBYTES);
	crypto_secretbox_easy(all + crypto_secretbox_NONCEBYTES, secret, GW_TRUST_SECRET, all, k);
	sodium_memzero(k, sizeof(k));
	sodium_bin2hex(hex, GW_TRUST_SEALED_HEX, all, sizeof(all));
}

int gw_trust_secret_unseal(uint8_t secret[GW_TRUST_SECRET], const char *hex, const uint8_t key[GW_TRUST_SECRET])
{
	uint8_t k[GW_TRUST_SECRET], all[SEALED];
	size_t len;
	int code;

	if (strlen(hex) != 2 * SEALED || sodium_hex2bin(all, sizeof(all), hex, 2 * SEALED, NULL, &len, NULL) != 0 || len != sizeof(all))
		return -EINVAL;
	gw_trust_secret_derive(k, key, "sealed");
	code = crypto_secretbox_open_easy(secret, all + crypto_secretbox_NONCEBYTES, sizeof(all) - crypto_secretbox_NONCEBYTES, all, k);
	sodium_memzero(k, sizeof(k));
	return code ? -EINVAL : 0;
}

int gw_trust_secret_make(uint8_t secret[GW_TRUST_SECRET])
{
	return random_bytes(secret, GW_TRUST_SECRET);
}

void gw_trust_secret_print(char hex[GW_TRUST_SECRET_HEX], const uint8_t secret[GW_TRUST_SECRET])
{
	sodium_bin2hex(hex, GW_TRUST_SECRET_HEX, secret, GW_TRUST_SECRET);
}

int gw_trust_secret_parse(uint8_t secret[GW_TRUST_SECRET], const char *hex)
{
	uint8_t bytes[GW_TRUST_SECRET];
	size_t len = strlen(hex), n;
	int code = -EINVAL;

	if (len == GW_TRUST_SECRET_HEX - 1 && sodium_hex2bin(bytes, sizeof(bytes), hex, len, NULL, &n, NULL) == 0 &&
	    n == sizeof(bytes)) {
		memcpy(secret, bytes, sizeof(bytes));
		code = 0;
	}
	sodium_memzero(bytes, sizeof(bytes));
	return code;
}

int gw_trust_secret_read(int fd, uint8_t secret[GW_TRUST_SECRET], int timeout_ms, struct gw_error *why)
{
	uint64_t end = gw_now_ns() + (uint64_t)timeout_ms * 1000000u;
	char line[GW_TRUST_SECRET_HEX + 1]; /* one more than is right, to see that it is too long */
	size_t len = 0;
	int code;

	for (;;) {
		ssize_t n;
		char c;

		code = gw_wait_readable(fd, end);
		if (code < 0)
			return gw_fail(why, code, "no secret came over standard input: %s", strerror(-code));
		n = read(fd, &c, 1); /* one at a time: what follows is not ours */
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return gw_fail(why, n < 0 ? -errno : -EPIPE, "no secret came over standard input: %s",
			               n < 0 ? strerror(errno) : "it ended");
		if (c == '\n' || len == sizeof(line) - 1)
			break;
		line[len++] = c;
	}
	line[len] = '\0';
	code = gw_trust_secret_parse(secret, line);
	sodium_memzero(line, sizeof(line));
	if (code < 0)
		return gw_fail(why, code, "what came over standard input is not a secret (one line of %d hexadecimal digits); does "
		               "a start-up file of the login shell write or read there?", GW_TRUST_SECRET_HEX - 1);
	return 0;
}

/* ---- one connection -------------------------------------------------------------------------------------------- */

enum state { CONNECTING, AWAIT_ANSWER, AWAIT_GREET, AWAIT_PROOF };

struct gw_trust {
	struct gw_loop *loop;
	struct gw_watch *watch;
	struct gw_timer *timer;
	struct gw_list node;               /* of its listener, or alone */
	struct gw_trust_listener *listener;
	enum state state;
	int fd;
	unsigned timeout_ms;
	uint64_t since_ns;
	uint8_t secret[GW_TRUST_SECRET];
	struct gw_trust_who me;
	char from[GW_TCP_NAME];            /* of one that a listener accepted */
	struct gw_trust_msg greet, answer;
	uint8_t in[sizeof(struct gw_trust_msg)];
	size_t in_len;
	gw_trust_done done;
	void *ctx;
};

static void listener_has_room(struct gw_trust_listener *l);
static void say_closed(struct gw_trust_listener *l, const struct gw_error *why);

/* Take the object apart; its descriptor is the caller's now. */
static int dissolve(struct gw_trust *t)
{
	struct gw_trust_listener *l = t->listener;
	int fd = t->fd;

	gw_watch_remove(t->watch);
	gw_timer_cancel(t->timer);
	gw_list_remove(&t->node);
	sodium_memzero(t->secret, sizeof(t->secret));
	free(t);
	if (l)
		listener_has_room(l);
	return fd;
}

void gw_trust_cancel(struct gw_trust *t)
{
	if (t)
		close(dissolve(t));
}

static void failed(struct gw_trust *t, struct gw_error *why)
{
	gw_trust_done done = t->done;
	void *ctx = t->ctx;

	if (t->from[0])
		gw_fail_more(why, "connection from %s: ", t->from);
	if (t->listener) {
		say_closed(t->listener, why);
		done = NULL;
	}
	close(dissolve(t));
	if (done)
		done(ctx, why->code, NULL, why);
}

static void proved(struct gw_trust *t, const struct gw_trust_msg *theirs)
{
	struct gw_trust_who peer = { theirs->purpose, theirs->job, theirs->cluster };
	gw_trust_done done = t->done;
	void *ctx = t->ctx;
	int fd = dissolve(t);

	gw_tcp_tune(fd);
	done(ctx, fd, &peer, NULL);
}

/* A fresh connection takes a message at once: one that does not is broken. */
static int put(struct gw_trust *t, const struct gw_trust_msg *m, struct gw_error *why)
{
	ssize_t n;

	do
		n = send(t->fd, m, sizeof(*m), MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n == sizeof(*m))
		return 0;
	return n < 0 ? gw_fail(why, -errno, "cannot send: %s", strerror(errno)) : gw_fail(why, -EIO, "it does not take a message");
}

/* The connection stands: say who we are. */
static int say_greet(struct gw_trust *t, struct gw_error *why)
{
	uint8_t nonce[32];
	int error = 0, code;
	socklen_t len = sizeof(error);

	if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error)
		return gw_fail(why, -error, "%s", strerror(error));
	code = random_bytes(nonce, sizeof(nonce));
	if (code < 0)
		return gw_fail(why, code, "no random bytes: %s", strerror(-code));
	gw_trust_make(&t->greet, GW_TRUST_GREET, &t->me, nonce);
	code = put(t, &t->greet, why);
	if (code == 0) {
		t->state = AWAIT_ANSWER;
		gw_watch_set(t->watch, EPOLLIN);
	}
	return code;
}

static int refusal_of(const struct gw_trust *t, const struct gw_trust_msg *m, struct gw_error *why)
{
	if (memcmp(m->build, t->answer.build, sizeof(m->build)) != 0) {
		gw_fail(why, -EPROTONOSUPPORT, "it is Godwit %s, this is Godwit %s; the same is needed on all hosts", m->build,
		        PACKAGE_VERSION);
		return GW_TRUST_OTHER_BUILD;
	}
	if (m->job != t->me.job) {
		gw_fail(why, -EPERM, "it belongs to job %08x, this is job %08x", m->job, t->me.job);
		return GW_TRUST_OTHER_JOB;
	}
	return GW_TRUST_ACCEPTED;
}

static int on_greet(struct gw_trust *t, const struct gw_trust_msg *m, struct gw_error *why)
{
	uint8_t nonce[32];
	int code = random_bytes(nonce, sizeof(nonce)), refusal;

	if (code < 0)
		return gw_fail(why, code, "no random bytes: %s", strerror(-code));
	t->greet = *m;
	gw_trust_make(&t->answer, GW_TRUST_ANSWER, &t->me, nonce);
	refusal = refusal_of(t, m, why);
	if (refusal != GW_TRUST_ACCEPTED) {
		t->answer.refusal = (uint16_t)refusal;
		put(t, &t->answer, NULL);
		return why->code;
	}
	gw_trust_hash(t->answer.proof, t->secret, GW_TRUST_ANSWER, &t->greet, &t->answer);
	t->state = AWAIT_PROOF;
	return put(t, &t->answer, why);
}

static int on_answer(struct gw_trust *t, const struct gw_trust_msg *m, struct gw_error *why)
{
	struct gw_trust_msg mine;
	uint8_t proof[32];

	switch (m->refusal) {
	case GW_TRUST_ACCEPTED:
		break;
	case GW_TRUST_OTHER_JOB:
		return gw_fail(why, -EPERM, "it serves another job than %08x", t->me.job);
	default:
		return gw_fail(why, -EPROTONOSUPPORT, "it is Godwit %s, this is Godwit %s; the same is needed on all hosts", m->build,
		               PACKAGE_VERSION);
	}
	t->answer = *m;
	gw_trust_hash(proof, t->secret, GW_TRUST_ANSWER, &t->greet, &t->answer);
	if (sodium_memcmp(proof, m->proof, sizeof(proof)) != 0)
		return gw_fail(why, -EPERM, "it does not know the secret of this job");
	gw_trust_make(&mine, GW_TRUST_PROOF, &t->me, NULL);
	gw_trust_hash(mine.proof, t->secret, GW_TRUST_PROOF, &t->greet, &t->answer);
	return put(t, &mine, why);
}

static int on_proof(struct gw_trust *t, const struct gw_trust_msg *m, struct gw_error *why)
{
	uint8_t proof[32];

	gw_trust_hash(proof, t->secret, GW_TRUST_PROOF, &t->greet, &t->answer);
	if (sodium_memcmp(proof, m->proof, sizeof(proof)) != 0)
		return gw_fail(why, -EPERM, "it does not know the secret of this job");
	return 0;
}

/* Another version cannot read more of an answer than its first fields: they say enough. */
static void answer_version(struct gw_trust *t)
{
	struct gw_trust_msg m;

	gw_trust_make(&m, GW_TRUST_ANSWER, &t->me, NULL);
	m.refusal = GW_TRUST_OTHER_VERSION;
	put(t, &m, NULL);
}

static void on_readable(struct gw_trust *t)
{
	static const enum gw_trust_kind due[] = { [AWAIT_GREET] = GW_TRUST_GREET, [AWAIT_ANSWER] = GW_TRUST_ANSWER,
	                                          [AWAIT_PROOF] = GW_TRUST_PROOF };
	struct gw_trust_msg m;
	struct gw_error why = { 0 };
	ssize_t n = recv(t->fd, t->in + t->in_len, sizeof(t->in) - t->in_len, MSG_DONTWAIT);
	int code;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		gw_fail(&why, n < 0 ? -errno : -EPIPE, "%s%s", n < 0 ? strerror(errno) : "closed by the other side",
		        t->state == AWAIT_PROOF ? " before it had proved to know the secret of this job" :
		        " before anything was proved");
		failed(t, &why);
		return;
	}
	t->in_len += (size_t)n;
	code = gw_trust_parse(t->in, t->in_len, due[t->state], &m, &why);
	if (code == 0)
		return;
	t->in_len = 0;
	if (code == -EPROTONOSUPPORT && t->state == AWAIT_GREET)
		answer_version(t);
	if (code > 0)
		switch (t->state) {
		case AWAIT_GREET:
			code = on_greet(t, &m, &why);
			if (code == 0)
				return;
			break;
		case AWAIT_ANSWER:
			code = on_answer(t, &m, &why);
			break;
		default:
			code = on_proof(t, &m, &why);
		}
	if (code < 0)
		failed(t, &why);
	else
		proved(t, t->state == AWAIT_ANSWER ? &t->answer : &t->greet);
}

static void on_event(void *ctx, uint32_t events)
{
	struct gw_trust *t = ctx;
	struct gw_error why = { 0 };

	(void)events;
	if (t->state != CONNECTING)
		on_readable(t);
	else if (say_greet(t, &why) < 0)
		failed(t, &why);
}

static void on_deadline(void *ctx)
{
	struct gw_trust *t = ctx;
	struct gw_error why = { 0 };

	t->timer = NULL; /* it was once */
	gw_fail(&why, t->state == CONNECTING ? -EHOSTUNREACH : -ETIMEDOUT, t->state == CONNECTING ? "no answer from that host within %u ms" :
	        "it has not proved within %u ms that it knows the secret of this job", t->timeout_ms);
	failed(t, &why);
}

static int begin(struct gw_trust **out, struct gw_loop *loop, int fd, const uint8_t *secret, const struct gw_trust_who *me,
                 unsigned timeout_ms, gw_trust_done done, void *ctx, enum state state)
{
	struct gw_trust *t = calloc(1, sizeof(*t));
	int code = t ? 0 : -ENOMEM, flags = fcntl(fd, F_GETFL);

	if (code == 0 && (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		code = -errno;
	if (code < 0) {
		free(t);
		close(fd);
		return code;
	}
	gw_list_init(&t->node);
	t->loop = loop;
	t->fd = fd;
	t->me = *me;
	t->state = state;
	t->timeout_ms = timeout_ms;
	t->since_ns = gw_now_ns();
	t->done = done;
	t->ctx = ctx;
	memcpy(t->secret, secret, sizeof(t->secret));
	code = gw_loop_watch(loop, &t->watch, fd, state == CONNECTING ? EPOLLOUT : EPOLLIN, on_event, t);
	if (code == 0)
		code = gw_loop_timer(loop, &t->timer, timeout_ms, 0, on_deadline, t);
	if (code < 0) {
		close(dissolve(t));
		return code;
	}
	if (out)
		*out = t;
	return 0;
}

int gw_trust_connect(struct gw_trust **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                     const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx)
{
	return begin(out, loop, fd, secret, me, timeout_ms, done, ctx, CONNECTING);
}

int gw_trust_accept(struct gw_trust **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                    const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx)
{
	return begin(out, loop, fd, secret, me, timeout_ms, done, ctx, AWAIT_GREET);
}

/* ---- the listener ---------------------------------------------------------------------------------------------- */

struct gw_trust_listener {
	struct gw_loop *loop;
	struct gw_watch *watch;
	struct gw_timer *pressure;         /* set while nothing is accepted */
	struct gw_list pending;            /* oldest first */
	unsigned n_pending;
	int fd;
	unsigned timeout_ms;
	uint8_t secret[GW_TRUST_SECRET];
	struct gw_trust_who me;
	gw_trust_done done;
	void *ctx;
	unsigned lines, unsaid;            /* that may be logged now; that were not */
	uint64_t lines_ns;                 /* when @lines was right */
};

/* A line for each; but a flood of connections must not become one of lines. */
static void say_closed(struct gw_trust_listener *l, const struct gw_error *why)
{
	uint64_t more = (gw_now_ns() - l->lines_ns) / (1000000000u / LINES_S);

	if (more) {
		l->lines = more > LINES - l->lines ? LINES : l->lines + (unsigned)more;
		l->lines_ns += more * (1000000000u / LINES_S);
	}
	if (!l->lines) {
		l->unsaid++;
		return;
	}
	l->lines--;
	if (l->unsaid)
		gw_log(GW_WARN, "%u connections were closed before they were proved, too many to tell of each", l->unsaid);
	l->unsaid = 0;
	/* of another release: it has been told, and says so where it was started */
	gw_log(why->code == -EPROTONOSUPPORT ? GW_INFO : GW_WARN, "%s; closed", why->text);
}

static void resume(struct gw_trust_listener *l)
{
	gw_timer_cancel(l->pressure);
	l->pressure = NULL;
	gw_watch_set(l->watch, EPOLLIN);
}

static void on_pressure(void *ctx)
{
	struct gw_trust_listener *l = ctx;
	uint64_t now = gw_now_ns();

	gw_list_for_safe(e, &l->pending) {
		struct gw_trust *t = gw_list_entry(e, struct gw_trust, node);
		struct gw_error why = { 0 };

		if (now - t->since_ns < SILENT_MS * 1000000ull)
			break;
		gw_fail(&why, -EBUSY, "silent, and others wait");
		failed(t, &why);
	}
	if (l->n_pending < GW_TRUST_PENDING && l->pressure)
		resume(l);
}

/* Nothing is accepted until there is room. */
static void pause_accepting(struct gw_trust_listener *l)
{
	if (l->pressure || gw_loop_timer(l->loop, &l->pressure, PRESSURE_MS, PRESSURE_MS, on_pressure, l) < 0)
		return;
	gw_watch_set(l->watch, 0);
}

static void listener_has_room(struct gw_trust_listener *l)
{
	l->n_pending--;
	if (l->pressure && l->n_pending < GW_TRUST_PENDING)
		resume(l);
}

/*
 * Who connects says at once who it is, and mostly that is there when it is accepted: of the others the one that has said
 * nothing for longest goes. So those who connect and keep silent cannot keep anybody out, however many they are.
 */
static bool make_room(struct gw_trust_listener *l)
{
	gw_list_for_safe(e, &l->pending) {
		struct gw_trust *t = gw_list_entry(e, struct gw_trust, node);
		struct gw_error why = { 0 };
		char byte;

		if (t->state != AWAIT_GREET || t->in_len || recv(t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
			continue;
		gw_fail(&why, -EBUSY, "silent, and others wait");
		failed(t, &why);
		return true;
	}
	return false;
}

static void on_acceptable(void *ctx, uint32_t events)
{
	struct gw_trust_listener *l = ctx;

	(void)events;
	for (unsigned i = 0; i < BATCH; i++) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);
		struct gw_trust *t;
		int fd, code;

		if (l->n_pending >= GW_TRUST_PENDING && poll(&(struct pollfd){ l->fd, POLLIN, 0 }, 1, 0) <= 0)
			return;
		if (l->n_pending >= GW_TRUST_PENDING && !make_room(l)) {
			pause_accepting(l);
			return;
		}
		fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			gw_log(GW_WARN, "cannot accept a connection: %s%s", strerror(errno), gw_advice(errno));
			pause_accepting(l);
			return;
		}
		if (fd < 0)
			continue; /* it is gone already, or the network had a word for it */
		code = gw_trust_accept(&t, l->loop, fd, l->secret, &l->me, l->timeout_ms, l->done, l->ctx);
		if (code < 0) {
			gw_log(GW_WARN, "cannot serve a connection: %s", strerror(-code));
			continue;
		}
		gw_tcp_name(t->from, (struct sockaddr *)&from, len); /* of one that is reset, the kernel does not tell later */
		t->listener = l;
		gw_list_append(&l->pending, &t->node);
		l->n_pending++;
	}
}

int gw_trust_listen(struct gw_trust_listener **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                    const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx)
{
	struct gw_trust_listener *l = calloc(1, sizeof(*l));
	int code = l ? 0 : -ENOMEM;

	if (code == 0)
		code = gw_loop_watch(loop, &l->watch, fd, EPOLLIN, on_acceptable, l);
	if (code < 0) {
		free(l);
		close(fd);
		return code;
	}
	gw_list_init(&l->pending);
	l->lines = LINES;
	l->lines_ns = gw_now_ns();
	l->loop = loop;
	l->fd = fd;
	l->timeout_ms = timeout_ms;
	l->me = *me;
	l->done = done;
	l->ctx = ctx;
	memcpy(l->secret, secret, sizeof(l->secret));
	*out = l;
	return 0;
}

void gw_trust_listener_destroy(struct gw_trust_listener *l)
{
	if (!l)
		return;
	gw_list_for_safe(e, &l->pending)
		gw_trust_cancel(gw_list_entry(e, struct gw_trust, node));
	gw_timer_cancel(l->pressure);
	gw_watch_remove(l->watch);
	close(l->fd);
	sodium_memzero(l->secret, sizeof(l->secret));
	free(l);
}

unsigned gw_trust_pending(const struct gw_trust_listener *l)
{
	return l->n_pending;
}
