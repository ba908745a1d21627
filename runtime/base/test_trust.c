/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of trust: messages, secrets; then real connections: proved ones, and each way not to be. */
#include "runtime/base/trust.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "tests/tap.h"

#define JOB 0x1234abcdu
#define FLOOD (GW_TRUST_PENDING + 40)

static const uint8_t secret[GW_TRUST_SECRET] = "an example of 32 bytes of secret";
static const uint8_t other_secret[GW_TRUST_SECRET] = "another one";
static const struct gw_trust_who head = { GW_TRUST_JOIN, JOB, UINT32_MAX }, daemon_3 = { GW_TRUST_JOIN, JOB, 3 };

/* ---- messages -------------------------------------------------------------------------------------------------- */

static void fill(uint8_t *bytes, size_t len)
{
	if (getrandom(bytes, len, 0) != (ssize_t)len)
		tap_bail("no random bytes");
}

static struct gw_trust_msg message(enum gw_trust_kind kind, const struct gw_trust_who *who)
{
	struct gw_trust_msg m;
	uint8_t nonce[32];

	fill(nonce, sizeof(nonce));
	gw_trust_make(&m, kind, who, nonce);
	return m;
}

static void test_parse(void)
{
	struct gw_trust_msg m = message(GW_TRUST_GREET, &daemon_3), out, bad;
	int early = 0;

	for (size_t len = 0; len < sizeof(m); len++)
		early += gw_trust_parse(&m, len, GW_TRUST_GREET, &out, NULL) != 0;
	is_int(early, 0, "each beginning of a message waits for the rest");
	is_int(gw_trust_parse(&m, sizeof(m), GW_TRUST_GREET, &out, NULL), 1, "a whole one is a message");
	ok(out.cluster == 3 && out.job == JOB && !strcmp(out.build, PACKAGE_VERSION), "and says who it is");
	is_int(gw_trust_parse(&m, sizeof(m), GW_TRUST_PROOF, &out, NULL), -EPROTO, "a message of another kind is refused");
	bad = m;
	bad.version = 9;
	is_int(gw_trust_parse(&bad, 8, GW_TRUST_GREET, &out, NULL), -EPROTONOSUPPORT, "another version is told by its first bytes");
	bad = m;
	bad.magic ^= 1;
	is_int(gw_trust_parse(&bad, 4, GW_TRUST_GREET, &out, NULL), -EPROTO, "another protocol is told by its first bytes");
	memset(bad.build, 'x', sizeof(bad.build));
	bad.magic = m.magic;
	is_int(gw_trust_parse(&bad, sizeof(bad), GW_TRUST_GREET, &out, NULL), -EPROTO, "a build without an end is refused");
	bad = m;
	bad.build[1] = '\n';
	is_int(gw_trust_parse(&bad, sizeof(bad), GW_TRUST_GREET, &out, NULL), -EPROTO, "a build that is no word is refused");
}

static void test_hash(void)
{
	struct gw_trust_msg greet = message(GW_TRUST_GREET, &daemon_3), answer = message(GW_TRUST_ANSWER, &head), changed;
	uint8_t right[32], is[32];
	int same = 0;

	gw_trust_hash(right, secret, GW_TRUST_PROOF, &greet, &answer);
	gw_trust_hash(is, secret, GW_TRUST_ANSWER, &greet, &answer);
	ok(memcmp(is, right, 32) != 0, "the proof of one side is not that of the other");
	gw_trust_hash(is, other_secret, GW_TRUST_PROOF, &greet, &answer);
	ok(memcmp(is, right, 32) != 0, "another secret gives another proof");
	for (size_t bit = 0; bit < 8 * offsetof(struct gw_trust_msg, proof); bit++) {
		changed = greet;
		((uint8_t *)&changed)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		gw_trust_hash(is, secret, GW_TRUST_PROOF, &changed, &answer);
		same += memcmp(is, right, 32) == 0;
		changed = answer;
		((uint8_t *)&changed)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		gw_trust_hash(is, secret, GW_TRUST_PROOF, &greet, &changed);
		same += memcmp(is, right, 32) == 0;
	}
	is_int(same, 0, "every bit of both messages is in the proof");
}

/* Random bytes, and messages with a few random changes: what is taken for a message can be printed and has an end. */
static void test_fuzz(void)
{
	struct gw_trust_msg out;
	int wrong = 0, taken = 0;

	for (int i = 0; i < 200000; i++) {
		struct gw_trust_msg m = message(GW_TRUST_GREET, &daemon_3);
		uint8_t r[8], *bytes = (uint8_t *)&m;
		size_t len;
		int code;

		fill(r, sizeof(r));
		if (i % 4 == 0)
			fill(bytes, sizeof(m));
		for (int k = 0; k < r[0] % 4; k++)
			bytes[r[1 + k] % sizeof(m)] = r[4 + k];
		len = r[7] % 2 ? sizeof(m) : (size_t)r[6] % (sizeof(m) + 2);
		code = gw_trust_parse(bytes, len, GW_TRUST_GREET, &out, NULL);
		wrong += code == 1 ? len != sizeof(m) || strnlen(out.build, 24) == 24 || out.magic != GW_TRUST_MAGIC :
		         code == 0 ? len >= sizeof(m) : code != -EPROTO && code != -EPROTONOSUPPORT;
		taken += code == 1;
	}
	is_int(wrong, 0, "200000 changed or random messages are judged by the rules");
	ok(taken > 1000, "and some of them are messages (%d)", taken);
}

static int read_line(const char *line, uint8_t out[GW_TRUST_SECRET], char *rest)
{
	gw_autoclose int in = -1;
	int p[2], code;

	if (pipe2(p, O_CLOEXEC) < 0 || write(p[1], line, strlen(line)) != (ssize_t)strlen(line))
		tap_bail("no pipe");
	close(p[1]);
	in = p[0];
	code = gw_trust_secret_read(in, out, 2000, NULL);
	if (rest)
		rest[read(in, rest, 15)] = '\0';
	return code;
}

static void test_secret(void)
{
	uint8_t a[GW_TRUST_SECRET], b[GW_TRUST_SECRET] = { 0 };
	char line[2 * GW_TRUST_SECRET + 2 + 8], rest[16] = "";
	int p[2];

	ok(gw_trust_secret_make(a) == 0 && gw_trust_secret_make(b) == 0 && memcmp(a, b, sizeof(a)), "secrets differ");
	gw_trust_secret_print(line, a);
	strcat(line, "\n");
	strcat(line, "after\n");
	ok(read_line(line, b, rest) == 0 && !memcmp(a, b, sizeof(a)), "a secret is read as it was printed");
	is_str(rest, "after\n", "and not a byte after its line");
	is_int(read_line("Welcome to this machine!\n", b, NULL), -EINVAL, "a greeting of a login shell is not a secret");
	line[7] = 'x';
	is_int(read_line(line, b, NULL), -EINVAL, "a line with another letter is not one");
	is_int(read_line("", b, NULL), -EPIPE, "an input that ends is not one");
	if (pipe2(p, O_CLOEXEC) < 0)
		tap_bail("no pipe");
	is_int(gw_trust_secret_read(p[0], b, 10, NULL), -ETIMEDOUT, "an input that says nothing is waited for in vain");
	close(p[0]);
	close(p[1]);
}

static void test_sealed(void)
{
	uint8_t key[GW_TRUST_SECRET], other[GW_TRUST_SECRET], secret[GW_TRUST_SECRET], out[GW_TRUST_SECRET] = { 0 };
	char hex[GW_TRUST_SEALED_HEX], again[GW_TRUST_SEALED_HEX], plain[GW_TRUST_SECRET_HEX];

	gw_trust_secret_make(key);
	gw_trust_secret_make(other);
	gw_trust_secret_make(secret);
	gw_trust_secret_seal(hex, secret, key);
	gw_trust_secret_seal(again, secret, key);
	gw_trust_secret_print(plain, secret);
	ok(gw_trust_secret_unseal(out, hex, key) == 0 && !memcmp(out, secret, sizeof(out)), "a sealed secret is opened with the key");
	ok(!strstr(hex, plain) && strcmp(hex, again), "it is not to be seen, and sealed anew it looks different");
	ok(gw_trust_secret_unseal(out, hex, other) == -EINVAL, "with another key it is not opened");
	hex[60] = hex[60] == '0' ? '1' : '0';
	ok(gw_trust_secret_unseal(out, hex, key) == -EINVAL && gw_trust_secret_unseal(out, plain, key) == -EINVAL, "nor when it was changed");
}

static void test_names(void)
{
	char address[GW_TCP_NAME], joined[GW_TCP_NAME], sources[2][GW_TCP_NAME];
	struct sockaddr_in6 parsed;
	uint16_t port = 0;

	ok(gw_tcp_split("10.1.2.3:400", address, &port, NULL) == 0 && port == 400 && !strcmp(address, "10.1.2.3"),
	   "an address and a port");
	ok(gw_tcp_split("[fe80::1]:65535", address, &port, NULL) == 0 && port == 65535 && !strcmp(address, "fe80::1"),
	   "one of IPv6 in brackets");
	gw_tcp_join(joined, address, port);
	is_str(joined, "[fe80::1]:65535", "and back");
	ok(gw_tcp_split("10.1.2.3", address, &port, NULL) < 0 && gw_tcp_split("a:0", address, &port, NULL) < 0 &&
	   gw_tcp_split("a:99999", address, &port, NULL) < 0 && gw_tcp_split(":5", address, &port, NULL) < 0 &&
	   gw_tcp_split("a:+5", address, &port, NULL) < 0, "without address or port it is refused");
	port = 0;
	is_int(gw_tcp_listen("0.0.0.0", &port, NULL), -EINVAL, "nobody listens to every network");
	is_int(gw_tcp_listen("localhost", &port, NULL), -EINVAL, "a name is not asked for");
	ok(gw_tcp_sources("127.0.0.1", AF_INET, sources, 2, NULL) == 1 && !strcmp(sources[0], "127.0.0.1"), "this host sees itself as 127.0.0.1");
	ok(gw_tcp_parse("fd00::1", &parsed, sizeof(parsed)) == 0 && parsed.sin6_family == AF_INET6 && gw_tcp_parse("fd00::1", &parsed, 16) < 0 &&
	   gw_tcp_parse("fd00::1:x", &parsed, sizeof(parsed)) < 0, "an address of IPv6 is read where there is room for it");
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

static struct {
	struct gw_loop *loop;
	struct gw_trust_listener *listener;
	uint16_t port;
	int accepted, connected, failed; /* calls */
	int accepted_fd, connected_fd;
	struct gw_trust_who peer;
	struct gw_error why;
	int log, lines;
	char last[1024];
	bool (*until)(void);
	uint64_t end;
} t;

static void on_accepted(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	(void)ctx; (void)why;
	t.accepted++;
	t.accepted_fd = fd;
	t.peer = *peer;
}

static void on_connected(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	(void)ctx; (void)peer;
	t.connected_fd = fd;
	if (fd >= 0)
		t.connected++;
	else
		t.failed++;
	if (why)
		t.why = *why;
}

/* Lines that were logged since the last call. */
static int logged(void)
{
	char buf[65536];
	ssize_t n = read(t.log, buf, sizeof(buf) - 1);

	for (ssize_t i = 0; i < n; i++)
		t.lines += buf[i] == '\n';
	if (n > 0)
		snprintf(t.last, sizeof(t.last), "%.*s", (int)n - 1, buf);
	return t.lines;
}

static void look(void *ctx)
{
	(void)ctx;
	if (t.until() || gw_now_ns() > t.end)
		gw_loop_stop(t.loop, 0);
}

static bool run_until(bool (*until)(void))
{
	struct gw_timer *timer;

	t.until = until;
	t.end = gw_now_ns() + 20000000000ull;
	if (gw_loop_timer(t.loop, &timer, 0, 2, look, NULL) < 0)
		tap_bail("no timer");
	gw_loop_run(t.loop);
	gw_timer_cancel(timer);
	return until();
}

static bool both(void) { return t.accepted == 1 && t.connected == 1; }
static bool connect_failed(void) { return t.failed == 1; }
static bool one_line(void) { return logged() == 1 && gw_trust_pending(t.listener) == 0; }
static bool refused_both(void) { return t.failed == 1 && logged() == 1; }

static void again(void)
{
	logged();
	t.accepted = t.connected = t.failed = t.lines = 0;
	t.accepted_fd = t.connected_fd = -1;
	t.why.text[0] = t.last[0] = '\0';
}

static void listen_here(unsigned timeout_ms)
{
	int fd;

	gw_trust_listener_destroy(t.listener);
	t.port = 0;
	fd = gw_tcp_listen("127.0.0.1", &t.port, &t.why);
	if (fd < 0 || gw_trust_listen(&t.listener, t.loop, fd, secret, &head, timeout_ms, on_accepted, NULL) < 0)
		tap_bail("cannot listen: %s", t.why.text);
	again();
}

static void connect_as(const uint8_t *key, const struct gw_trust_who *me, unsigned timeout_ms)
{
	int fd = gw_tcp_connect("127.0.0.1", t.port, &t.why);

	if (fd < 0 || gw_trust_connect(NULL, t.loop, fd, key, me, timeout_ms, on_connected, NULL) < 0)
		tap_bail("cannot connect: %s", t.why.text);
}

static void close_both(void)
{
	if (t.accepted_fd >= 0)
		close(t.accepted_fd);
	if (t.connected_fd >= 0)
		close(t.connected_fd);
}

/* A connection that does not keep the rules; blocking. */
static int raw(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(t.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		tap_bail("no connection to 127.0.0.1");
	return fd;
}

static void say(int fd, const void *bytes, size_t len)
{
	if (send(fd, bytes, len, MSG_NOSIGNAL) < 0)
		diag("the test could not send: %s", strerror(errno));
}

static int raw_fd;
static bool raw_readable(void)
{
	struct pollfd p = { raw_fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

/* GREET as it should be, and the answer that it gets. */
static int greet_raw(const struct gw_trust_msg *greet, struct gw_trust_msg *answer)
{
	raw_fd = raw();
	say(raw_fd, greet, sizeof(*greet));
	memset(answer, 0, sizeof(*answer));
	if (!run_until(raw_readable) || recv(raw_fd, answer, sizeof(*answer), MSG_WAITALL) != sizeof(*answer))
		diag("no answer");
	return raw_fd;
}

static void test_proved(void)
{
	char buf[16] = "";

	listen_here(10000);
	connect_as(secret, &daemon_3, 10000);
	ok(run_until(both), "both ends prove the secret: %s", t.why.text);
	ok(t.peer.cluster == 3 && t.peer.job == JOB && t.peer.purpose == GW_TRUST_JOIN, "and the listener knows who it is");
	if (t.accepted_fd >= 0 && t.connected_fd >= 0) {
		say(t.connected_fd, "frames", 6);
		is_int(gw_wait_readable(t.accepted_fd, gw_now_ns() + 5000000000ull), 0, "what is sent then comes");
		is_int(recv(t.accepted_fd, buf, sizeof(buf), 0), 6, "as it was sent, without a byte of the proof");
	}
	ok(!gw_tcp_is_dead(t.connected_fd, 0), "a connection that is answered is not dead");
	is_int(logged(), 0, "and nothing is logged");
	close_both();
}

/* The proof and the first frame in one piece: the frame is not eaten. */
static void test_eager(void)
{
	struct gw_trust_msg greet = message(GW_TRUST_GREET, &daemon_3), answer, proof;
	char both_at_once[sizeof(proof) + 5], buf[16];
	int fd = (again(), greet_raw(&greet, &answer));

	gw_trust_make(&proof, GW_TRUST_PROOF, &daemon_3, NULL);
	gw_trust_hash(proof.proof, secret, GW_TRUST_PROOF, &greet, &answer);
	memcpy(both_at_once, &proof, sizeof(proof));
	memcpy(both_at_once + sizeof(proof), "eager", 5);
	say(fd, both_at_once, sizeof(both_at_once));
	t.connected = 1;
	ok(run_until(both), "a proof made of the description alone is accepted");
	is_int(t.accepted_fd >= 0 ? recv(t.accepted_fd, buf, sizeof(buf), 0) : -1, 5, "what came in one piece with it is still there");
	close_both();

	again();
	fd = greet_raw(&greet, &answer); /* the same greeting; its old proof with it */
	say(fd, both_at_once, sizeof(both_at_once));
	ok(run_until(one_line) && t.accepted == 0, "what was recorded proves nothing a second time");
	close(fd);
	again();
	fd = greet_raw(&greet, &answer);
	answer.kind = GW_TRUST_PROOF;
	say(fd, &answer, sizeof(answer));
	ok(run_until(one_line) && t.accepted == 0, "nor does the listener's own proof, sent back");
	close(fd);
}

static void test_refused(void)
{
	struct gw_trust_who stranger = { GW_TRUST_JOIN, JOB + 1, 3 };
	struct gw_trust_msg m = message(GW_TRUST_GREET, &daemon_3), answer;

	again();
	connect_as(other_secret, &daemon_3, 10000);
	ok(run_until(refused_both) && t.accepted == 0, "another secret: refused");
	ok(strstr(t.why.text, "does not know the secret"), "the connecting side says why: %s", t.why.text);
	ok(strstr(t.last, "127.0.0.1:"), "the listening side says where it came from: %s", t.last);
	again();
	connect_as(secret, &stranger, 10000);
	ok(run_until(refused_both) && t.accepted == 0 && strstr(t.why.text, "another job"), "another job: %s", t.why.text);
	again();
	m.version = 2;
	close(greet_raw(&m, &answer));
	ok(run_until(one_line) && t.accepted == 0, "another version: %s", t.last);
	ok(answer.version == GW_TRUST_VERSION && answer.refusal == GW_TRUST_OTHER_VERSION, "and it is told so");
	again();
	m = message(GW_TRUST_GREET, &daemon_3);
	strcpy(m.build, "0.0.0-old");
	close(greet_raw(&m, &answer));
	ok(run_until(one_line) && t.accepted == 0 && strstr(t.last, "0.0.0-old"), "another build: %s", t.last);
	is_int(answer.refusal, GW_TRUST_OTHER_BUILD, "and it is told so");
}

static void test_garbage(void)
{
	struct gw_trust_msg m = message(GW_TRUST_GREET, &daemon_3);
	struct linger reset = { 1, 0 };
	uint8_t noise[65536];
	int fd, wrong = 0;

	again();
	fd = raw();
	say(fd, "GET / HTTP/1.1\r\n\r\n", 18);
	ok(run_until(one_line) && t.accepted == 0, "another protocol is closed with one line: %s", t.last);
	close(fd);
	again();
	fd = raw();
	fill(noise, sizeof(noise));
	say(fd, noise, sizeof(noise));
	ok(run_until(one_line) && t.accepted == 0, "a lot of noise is closed with one line");
	close(fd);
	for (int i = 0; i < 200; i++) {
		again();
		fill(noise, sizeof(m));
		memcpy(noise, &m, noise[0] % sizeof(m)); /* right for a while */
		fd = raw();
		say(fd, noise, sizeof(m));
		say(fd, noise, sizeof(m));
		shutdown(fd, SHUT_WR);
		wrong += !run_until(one_line) || t.accepted;
		close(fd);
	}
	is_int(wrong, 0, "200 messages that go wrong somewhere, one line each");
	again();
	fd = raw();
	say(fd, &m, sizeof(m) / 2);
	close(fd);
	ok(run_until(one_line), "half a message and the end: %s", t.last);
	again();
	fd = raw();
	say(fd, &m, 5);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
	ok(run_until(one_line), "half a message and a reset: %s", t.last);
}

static void test_silence(void)
{
	int fds[FLOOD];

	listen_here(50);
	fds[0] = raw();
	ok(run_until(one_line) && t.accepted == 0, "silence is closed when its time is over: %s", t.last);
	close(fds[0]);

	listen_here(600000);
	for (int i = 0; i < FLOOD; i++)
		fds[i] = raw();
	connect_as(secret, &daemon_3, 15000);
	ok(run_until(both), "%d silent connections do not keep one out that proves itself: %s", FLOOD, t.why.text);
	ok(gw_trust_pending(t.listener) <= GW_TRUST_PENDING, "and %u of them at most are held", GW_TRUST_PENDING);
	close_both();
	for (int i = 0; i < FLOOD; i++)
		close(fds[i]);
}

/* Another process connects as fast as it can, keeps what it has for a while, and says nothing. */
static pid_t flood(void)
{
	enum { HELD = 4000 }; /* more than the kernel keeps for a listener that is slow */
	static int fds[HELD];
	struct rlimit files;
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (int i = 0; i < HELD; i++)
		fds[i] = -1;
	for (unsigned i = 0;; i++) {
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(t.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		int *fd = &fds[i % HELD];

		if (*fd >= 0)
			close(*fd);
		*fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (connect(*fd, (struct sockaddr *)&a, sizeof(a)) < 0 && errno != EINPROGRESS)
			sched_yield(); /* no port is free any more: the next turn gives one back */
	}
}

/* Had the kernel no room for it when it came, so that it had to ask again? */
static bool was_late(void)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	return t.connected_fd < 0 || getsockopt(t.connected_fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || info.tcpi_total_retrans;
}

static bool are_many(void) { return logged() > 50; }

static void test_flood(void)
{
	int proved = 0, late = 0;
	pid_t pid;

	listen_here(600000);
	pid = flood();
	ok(pid > 0 && run_until(are_many), "a flood of silent connections: they are closed");
	for (int i = 0; i < 20; i++) {
		again();
		connect_as(secret, &daemon_3, 15000);
		proved += run_until(both);
		late += was_late();
		close_both();
	}
	is_int(proved, 20, "twenty that prove themselves get through it");
	ok(late < 10, "most at once: the kernel had room for them (%d had to ask again)", late);
	ok(gw_trust_pending(t.listener) <= GW_TRUST_PENDING, "%u of it at most are held", GW_TRUST_PENDING);
	if (pid > 0)
		kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	listen_here(600000);
}

static void test_no_listener(void)
{
	uint16_t port = 0;
	int fd = gw_tcp_listen("127.0.0.1", &port, &t.why);

	again();
	gw_trust_connect(NULL, t.loop, gw_tcp_connect("127.0.0.1", port, &t.why), secret, &daemon_3, 50, on_connected, NULL);
	ok(run_until(connect_failed), "a listener that never answers: %s", t.why.text);
	is_int(t.why.code, -ETIMEDOUT, "is given up in time");
	close(fd);
	again();
	gw_trust_connect(NULL, t.loop, gw_tcp_connect("127.0.0.1", port, &t.why), secret, &daemon_3, 15000, on_connected, NULL);
	ok(run_until(connect_failed), "a port where nobody listens: %s", t.why.text);
	is_int(t.why.code, -ECONNREFUSED, "says so");
}

int main(void)
{
	char path[] = "/tmp/godwit-test-trust-XXXXXX";

	tap_begin(100);
	t.log = mkostemp(path, O_CLOEXEC);
	if (t.log < 0)
		tap_bail("no temporary file");
	setenv("GODWIT_LOG_FILE", path, 1);
	setenv("GODWIT_LOG", "info", 1);
	gw_log_init("test");
	unlink(path);
	test_parse();
	test_hash();
	test_fuzz();
	test_secret();
	test_sealed();
	test_names();
	if (gw_loop_create(&t.loop) < 0)
		tap_bail("no loop");
	test_proved();
	test_eager();
	test_refused();
	test_garbage();
	test_silence();
	test_flood();
	test_no_listener();
	gw_trust_listener_destroy(t.listener);
	gw_loop_destroy(t.loop);
	return tap_done();
}
