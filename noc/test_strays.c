/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Strangers at a rank's port: connections that say nothing, rubbish, half a word, too long a word, the right word with a
 * greeting of another job, and a greeting in a peer's name without the secret. They are closed, few are kept at a time, the
 * log stays readable, and a peer gets through.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "noc/local.h"
#include "noc/tcp.h"
#include "tests/tap.h"

#define SILENT    300
#define RUDE      40
#define IMPOSTORS 40
#define KEPT_MOST 64 /* STRANGERS_MAX of tcp_cm.c */

static int segment_fd[2];
static struct noc_segment pages[2];
static uint32_t got;

static void on_message(const struct noc_msg *m) { got += m->tag == 7 && m->len == 8 && memcmp(m->payload, "a letter", 8) == 0; }
static const struct noc_port_ops port_ops = { .message = on_message };

/* Process @me on host @me: answers each letter with one, or, as soon as @go can be read (-1: at once), sends one and waits for
 * the answer. */
static int member(uint32_t me, bool asks, int go, int log)
{
	struct pollfd told = { .fd = go, .events = POLLIN };
	struct noc_host h = { .host = me, .secret = "the secret of this job, 32 byte" };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct iovec iov = { "a letter", 8 };
	struct noc_place place;
	struct gw_error why;
	bool is_done, is_sent = false;

	dup2(log, 2);
	for (int i = 0; i < 2; i++) { /* MADV_DONTFORK */
		memset(&pages[i], 0, sizeof(pages[i]));
		if (noc_segment_map(&pages[i], segment_fd[i], NULL, &why))
			return 5;
	}
	memcpy(&h.address, &in, sizeof(in));
	if (noc_start_test(segment_fd[me], me, &h, &why))
		return 4;
	noc_port_bind(NOC_PORT_TAGGED, &port_ops);
	place = (struct noc_place){ .cluster = me, .state = NOC_NAME_HERE, .incarnation = noc_me->incarnation, .host = me,
	                            .address = noc_me->listening.address };
	for (int i = 0; i < 2; i++)
		if (noc_names_publish(&pages[i], me, &place, me))
			return 3;
	for (uint32_t answered = 0;;) {
		if (asks && !is_sent && (go < 0 || poll(&told, 1, 0) == 1))
			is_sent = noc_send(!me, NOC_PORT_TAGGED, 7, 0, &iov, 1, NOC_F_COPY, NULL, &is_done) == 0;
		noc_poll(16);
		noc_net->poll(true); /* as the agent does */
		noc_path_acks();
		if (asks && got)
			return 0;
		if (!asks && answered < got && noc_send(!me, NOC_PORT_TAGGED, 7, 0, &iov, 1, NOC_F_COPY, NULL, &is_done) == 0)
			answered++;
		sched_yield();
	}
}

/* -1: nobody listens there any more */
static int stranger_if_any(const struct noc_place *place, const void *bytes, size_t n)
{
	const struct sockaddr *to = (const struct sockaddr *)(const void *)&place->address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		tap_bail("a stranger has no socket: %s", strerror(errno));
	if (connect(fd, to, sizeof(struct sockaddr_in))) {
		if (errno != ECONNREFUSED)
			tap_bail("a stranger cannot connect: %s", strerror(errno));
		close(fd);
		return -1;
	}
	if (n && send(fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
		tap_bail("a stranger cannot send: %s", strerror(errno));
	return fd;
}

static int stranger(const struct noc_place *place, const void *bytes, size_t n)
{
	int fd = stranger_if_any(place, bytes, n);

	if (fd < 0)
		tap_bail("a stranger cannot connect: nobody listens");
	return fd;
}

/* Is it closed by the other side before @ms have passed? */
static bool is_closed(int fd, int ms, char *answer, size_t cap)
{
	uint64_t end = gw_now_ns() + (uint64_t)ms * 1000000;
	size_t n = 0;

	while (gw_now_ns() < end) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char more[512];
		ssize_t k = poll(&p, 1, 100) > 0 ? recv(fd, more, sizeof(more), MSG_DONTWAIT) : -1;

		if (k > 0 && answer && n + (size_t)k <= cap) {
			memcpy(answer + n, more, (size_t)k);
			n += (size_t)k;
		} else if (k == 0 || (k < 0 && errno == ECONNRESET)) {
			return true;
		}
	}
	return false;
}

static int sockets_of(pid_t pid)
{
	char path[64], link[64];
	struct dirent *e;
	int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		ssize_t k = readlinkat(dirfd(d), e->d_name, link, sizeof(link));

		n += k > 7 && memcmp(link, "socket:", 7) == 0;
	}
	if (d)
		closedir(d);
	return n;
}

/* Says what a peer would, but cannot prove it. -1: nobody listens any more. */
static int impostor(const struct noc_place *place, bool proves)
{
	struct {
		struct tcp_word word;
		uint32_t magic;
		uint8_t version, reason;
		uint16_t pad;
		uint32_t job, src, dst, dst_incarnation, src_incarnation[2], next_in[2], nonce[3];
	} ask = { { TCP_MAGIC, TCP_VERSION, TCP_ASK, NOC_GREETING_BYTES, 0 }, .magic = 0x4f4c4c48, .version = 3, .src = 1, .dst = 0,
	          .dst_incarnation = (uint32_t)place->incarnation, .src_incarnation = { 1 } };
	struct {
		struct tcp_head head;
		struct noc_frame frame;
		uint8_t proof[NOC_PROOF_BYTES];
	} proof = { { sizeof(proof) - sizeof(proof.head), ~(uint32_t)(sizeof(proof) - sizeof(proof.head)) },
	            { .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = NOC_KIND_PROOF, .src = 1,
	              .len_here = NOC_PROOF_BYTES }, { 0 } };
	struct tcp_word answer = { 0 };
	int fd = stranger_if_any(place, &ask, sizeof(ask));
	struct pollfd p = { .fd = fd, .events = POLLIN };

	_Static_assert(sizeof(ask) == sizeof(struct tcp_word) + NOC_GREETING_BYTES, "a greeting");
	if (fd < 0)
		return -1;
	if (poll(&p, 1, 10000) != 1 || recv(fd, &answer, sizeof(answer), MSG_WAITALL) != sizeof(answer) || answer.op != TCP_YES)
		diag("the greeting was not accepted: %u", answer.op);
	if (proves && send(fd, &proof, sizeof(proof), MSG_NOSIGNAL) != sizeof(proof))
		diag("the proof was not sent: %s", strerror(errno));
	return fd;
}

static pid_t start(uint32_t me, bool asks, int go, int log)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(6);
		_exit(member(me, asks, go, log));
	}
	return pid;
}

static void segments_new(void)
{
	struct gw_error why;

	for (int i = 0; i < 2; i++) {
		segment_fd[i] = noc_segment_create(1, 2, 2, 1, &why);
		if (segment_fd[i] < 0 || noc_segment_map(&pages[i], segment_fd[i], NULL, &why))
			tap_bail("%s", why.text);
		for (int c = 0; c < 2; c++)
			atomic_store(&pages[i].clusters[c].is_up, 1);
	}
}

static struct noc_place place_of(uint32_t proc)
{
	uint64_t end = gw_now_ns() + 20000000000ull;
	struct noc_place place = { 0 };

	while (noc_names_lookup(&pages[0], proc, &place) || place.state != NOC_NAME_HERE) {
		if (gw_now_ns() > end)
			tap_bail("rank %u does not listen", proc);
		sched_yield();
	}
	return place;
}

/* A rank that has something to say to a peer in whose name somebody greets again and again. */
static void test_name_taken(int log)
{
	uint64_t end = gw_now_ns() + 30000000000ull;
	int go[2], fakes[2] = { -1, -1 }, status, n = 0;
	struct noc_place place;
	pid_t pid[2], over;

	segments_new();
	if (pipe2(go, O_CLOEXEC))
		tap_bail("pipe: %s", strerror(errno));
	pid[1] = start(1, false, -1, log);
	place_of(1);
	pid[0] = start(0, true, go[0], log);
	place = place_of(0);
	do { /* there is always one that is not two seconds old; the last may come when the rank has its answer and is gone */
		struct pollfd some_time = { .fd = -1 };

		if (fakes[n % 2] >= 0)
			close(fakes[n % 2]);
		fakes[n % 2] = impostor(&place, false);
		if (n++ == 0 && write(go[1], "x", 1) != 1)
			tap_bail("write: %s", strerror(errno));
		poll(&some_time, 1, 50);
		over = waitpid(pid[0], &status, WNOHANG);
	} while (!over && gw_now_ns() < end);
	ok(over == pid[0] && status == 0, "a rank reaches a peer in whose name somebody greets all the time, after %d times", n);
	for (int i = 0; i < 2; i++) {
		if (fakes[i] >= 0)
			close(fakes[i]);
		if (i || !over) {
			kill(pid[i], SIGKILL);
			waitpid(pid[i], &status, 0);
		}
	}
}

int main(void)
{
	struct tcp_word ask = { .magic = TCP_MAGIC, .version = TCP_VERSION, .op = TCP_ASK, .len = NOC_GREETING_BYTES };
	struct { struct tcp_word word; unsigned char greeting[NOC_GREETING_BYTES]; } wrong = { .word = ask };
	int log = memfd_create("log", 0), silent[SILENT], rude[RUDE], most = 0, closed = 0, lines = 0, status;
	char answer[512] = { 0 }, *text;
	int fake, fakes[IMPOSTORS];
	struct noc_place place;
	pid_t pid[2];
	off_t size;

	tap_begin(60);
	setenv("GODWIT_NET", "tcp", 1);
	segments_new();
	pid[0] = start(0, false, -1, log);
	place = place_of(0);

	for (int i = 0; i < SILENT; i++) {
		silent[i] = stranger(&place, NULL, 0);
		if (i % 8 == 0 && sockets_of(pid[0]) > most)
			most = sockets_of(pid[0]);
	}
	for (int i = 0; i < SILENT - KEPT_MOST; i++)
		closed += is_closed(silent[i], 5000, NULL, 0);
	ok(closed == SILENT - KEPT_MOST, "of %d strangers who say nothing the oldest are closed for the next: %d", SILENT, closed);
	ok(most >= 1 && most <= KEPT_MOST + 8, "the rank has few of them open at a time: its sockets were %d at most", most);

	fake = impostor(&place, true);
	ok(is_closed(fake, 10000, NULL, 0), "who greets in a peer's name and does not know the secret is closed");

	for (int i = 0; i < IMPOSTORS; i++)
		fakes[i] = impostor(&place, false);
	most = sockets_of(pid[0]);
	ok(most <= KEPT_MOST + 8, "of %d who greet in its name and prove nothing few are kept: %d sockets", IMPOSTORS, most);

	pid[1] = start(1, true, -1, log);
	waitpid(pid[1], &status, 0);
	is_int(status, 0, "a peer connects, and its letter is answered, while strangers hold all places and its name");

	for (int i = 0; i < RUDE; i++) {
		static const char rubbish[] = "GET / HTTP/1.0\r\nHost: somebody else's\r\n\r\n";

		ask.len = i % 4 == 1 ? TCP_WORD_MAX + 1 : NOC_GREETING_BYTES;
		rude[i] = i % 4 < 2 ? stranger(&place, i % 4 ? (const void *)&ask : rubbish, i % 4 ? sizeof(ask) : sizeof(rubbish)) :
		                      stranger(&place, i % 4 == 2 ? (const void *)&ask : &wrong, i % 4 == 2 ? 9 : sizeof(wrong));
	}
	test_name_taken(log); /* it takes as long as half a word is waited for */
	closed = 0;
	for (int i = 0; i < RUDE; i++) {
		memset(answer, 0, sizeof(answer));
		closed += is_closed(rude[i], 10000, answer, sizeof(answer));
		if (i == 3)
			is_int(((struct tcp_word *)(void *)answer)->op, TCP_NO,
			       "the right word with another job's greeting is refused in so many words");
	}
	is_int(closed, RUDE, "rubbish, half a word, too long a word, another job's greeting: all are closed");
	closed = 0;
	for (int i = 0; i < SILENT; i++)
		closed += is_closed(silent[i], 10000, NULL, 0);
	is_int(closed, SILENT, "and those who say nothing, too");

	for (int i = 0; i < IMPOSTORS; i++)
		close(fakes[i]);

	is_int(waitpid(pid[0], &status, WNOHANG), 0, "the rank is alive");
	kill(pid[0], SIGKILL);
	waitpid(pid[0], &status, 0);
	size = lseek(log, 0, SEEK_END);
	text = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, log, 0);
	ok(text != MAP_FAILED && memmem(text, (size_t)size, "does not know the secret", 24),
	   "the log says of the impostor that it does not know the secret");
	for (off_t i = 0; text != MAP_FAILED && i < size; i++)
		lines += text[i] == '\n';
	ok(lines >= 17 && lines <= 17 + 8, "the log has a line for each of the first, and few of the others: %d", lines);
	return tap_done();
}
