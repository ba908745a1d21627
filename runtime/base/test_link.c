/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of links: whole frames from any cut of the stream, descriptors, malformed frames, last words, flow. */
#include "runtime/base/link.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tap.h"

struct side {
	struct gw_loop *loop;
	struct gw_link *link;
	int frames, jsons, closed, drained, error, stop_after;
	size_t bytes, misaligned;
	uint16_t last_type;
	uint32_t checksum;
	int fd_kept;
	bool destroys_itself;
	char text[64];
};

static void seen(struct side *s)
{
	if (s->frames + s->jsons == s->stop_after) {
		gw_loop_stop(s->loop, 0);
		if (s->destroys_itself) {
			gw_link_destroy(s->link);
			s->link = NULL;
		}
	}
}

static void on_frame(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds, size_t n_fds)
{
	struct side *s = ctx;
	const unsigned char *p = payload;

	(void)l;
	s->frames++;
	s->bytes += len;
	s->last_type = type;
	s->misaligned += (uintptr_t)payload % 16 != 0;
	for (size_t i = 0; i < len; i++)
		s->checksum = s->checksum * 31 + p[i];
	if (n_fds) {
		s->fd_kept = fds[0];
		fds[0] = -1;
	}
	seen(s);
}

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	struct side *s = ctx;

	(void)l; (void)fds; (void)n_fds;
	s->jsons++;
	snprintf(s->text, sizeof(s->text), "%s", json_string_value(json_object_get(msg, "op")));
	seen(s);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct side *s = ctx;

	(void)l;
	s->closed++;
	s->error = error;
	gw_loop_stop(s->loop, 1);
}

static void on_drained(struct gw_link *l, void *ctx)
{
	struct side *s = ctx;

	(void)l;
	s->drained++;
}

static const struct gw_link_ops ops = { on_frame, on_json, on_drained, on_closed };

/* One link on a socket pair; returns the raw other end. */
static int half(struct side *s, struct gw_loop *loop)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		tap_bail("no socket pair");
	*s = (struct side){ .loop = loop, .fd_kept = -1, .stop_after = -1 };
	if (gw_link_create(&s->link, loop, sv[0], &ops, s) < 0)
		tap_bail("no link");
	return sv[1];
}

static void pair(struct side *a, struct side *b, struct gw_loop *loop)
{
	int fd = half(a, loop);

	*b = (struct side){ .loop = loop, .fd_kept = -1, .stop_after = -1 };
	if (gw_link_create(&b->link, loop, fd, &ops, b) < 0)
		tap_bail("no link");
}

static void test_roundtrip(struct gw_loop *loop)
{
	struct side a, b;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct stat st1, st2;

	pair(&a, &b, loop);
	gw_link_send_json(a.link, json_pack("{s:s}", "op", "hello"));
	gw_link_send(a.link, 9, "abc", 3, &null, 1);
	gw_link_send(a.link, 10, NULL, 0, NULL, 0);
	b.stop_after = 3;
	gw_loop_run(loop);
	is_str(b.text, "hello", "a JSON frame arrives as an object");
	is_int(b.bytes, 3, "a frame of 3 bytes and an empty one arrive");
	is_int(b.last_type, 10, "in order");
	is_int(b.misaligned, 0, "every payload is 16-byte aligned");
	ok(b.fd_kept >= 0 && fstat(b.fd_kept, &st1) == 0 && fstat(null, &st2) == 0 && st1.st_rdev == st2.st_rdev,
	   "a descriptor travels with its frame");
	close(b.fd_kept);
	close(null);
	gw_link_destroy(a.link);
	b.stop_after = -1;
	gw_loop_run(loop);
	is_int(b.closed, 1, "the end of the peer is reported once");
	is_int(b.error, 0, "and is no error between frames");
	is_int(gw_link_send(b.link, 2, "x", 1, NULL, 0), -EPIPE, "sending on a closed link says EPIPE");
	gw_link_destroy(b.link);
}

/* A big frame stays queued until the reader takes it; the same bytes come out. */
static void test_queue(struct gw_loop *loop)
{
	enum { SIZE = 3 << 20 };
	struct side a, b;
	unsigned char *big = malloc(SIZE);
	uint32_t sum = 0;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < SIZE; i++) {
		big[i] = (unsigned char)(i * 2654435761u >> 13);
		sum = sum * 31 + big[i];
	}
	pair(&a, &b, loop);
	is_int(gw_link_send(a.link, 5, big, SIZE, NULL, 0), 0, "a frame larger than the socket is queued");
	ok(gw_link_queued(a.link) > 0, "and counted");
	is_int(gw_link_send(a.link, 6, "end", 3, &null, 1), 0, "a second frame waits behind it, with a descriptor");
	close(null);
	b.stop_after = 2;
	gw_loop_run(loop);
	is_int(b.bytes, SIZE + 3, "both arrive");
	sum = ((sum * 31 + 'e') * 31 + 'n') * 31 + 'd';
	is_int(b.checksum, sum, "unchanged");
	ok(b.fd_kept >= 0, "with the descriptor, duplicated at the send");
	ok(a.drained >= 1, "the sender was told that its queue has drained");
	is_int(gw_link_send(a.link, 5, big, (size_t)GW_FRAME_MAX + 1, NULL, 0), -EMSGSIZE, "an oversized frame is refused");
	close(b.fd_kept);
	gw_link_destroy(a.link);
	gw_link_destroy(b.link);
	free(big);
}

struct drip {
	struct gw_loop *loop;
	struct gw_timer *timer;
	int fd;
	const char *bytes;
	size_t len, at;
};

static void on_drip(void *ctx)
{
	struct drip *d = ctx;

	if (d->at == d->len || write(d->fd, d->bytes + d->at, 1) != 1)
		gw_timer_cancel(d->timer);
	else
		d->at++;
}

/* Bytes arrive one at a time: frames are whole all the same. */
static void test_cut(struct gw_loop *loop)
{
	struct side a, b;
	char wire[4096];
	int raw = half(&a, loop);
	struct drip d = { .loop = loop, .bytes = wire };
	ssize_t n;

	gw_link_send(a.link, 3, "seventeen bytes..", 17, NULL, 0);
	gw_link_send(a.link, 4, "q", 1, NULL, 0);
	n = read(raw, wire, sizeof(wire));
	close(raw);
	is_int(n, 16 + 32 + 16 + 16, "frames are padded to 16 bytes");
	d.len = n > 0 ? (size_t)n : 0;
	d.fd = half(&b, loop);
	b.stop_after = 2;
	gw_link_destroy(a.link);
	gw_loop_timer(loop, &d.timer, 0, 1, on_drip, &d);
	is_int(gw_loop_run(loop), 0, "a stream that arrives byte by byte makes the same frames");
	is_int(b.bytes, 18, "of the same length");
	gw_timer_cancel(d.timer);
	gw_link_destroy(b.link);
	close(d.fd);
}

static void test_malformed(struct gw_loop *loop)
{
	static const struct { uint32_t head[4]; const char *body, *name; } cases[] = {
		{ { 0x12345678, 1, 0, 0 }, "", "a wrong magic" },
		{ { 0x6b6e6c67, 2, 0x7fffffff, 0 }, "", "a length beyond the limit" },
		{ { 0x6b6e6c67, 2, 0, 3 }, "", "descriptors that did not come" },
		{ { 0x6b6e6c67, 2, 0, 0xffffffff }, "", "an absurd number of descriptors" },
		{ { 0x6b6e6c67, GW_FRAME_JSON, 16, 0 }, "{\"op\": 1234567, ", "broken JSON" },
		{ { 0x6b6e6c67, GW_FRAME_JSON, 16, 0 }, "[1,2,3,4,5,6,77]", "JSON that is not an object" },
	};

	gw_log_init("test_link");
	for (size_t i = 0; i < GW_ARRAY_LEN(cases); i++) {
		struct side s;
		int raw = half(&s, loop);

		if (write(raw, cases[i].head, 16) != 16 || write(raw, cases[i].body, strlen(cases[i].body)) < 0)
			tap_bail("write");
		gw_loop_run(loop);
		ok(s.closed == 1 && s.error == -EPROTO && s.frames + s.jsons == 0, "%s closes the link", cases[i].name);
		gw_link_destroy(s.link);
		close(raw);
	}
}

/* The peer sent a frame and died with our bytes unread: a Unix socket says ECONNRESET first. */
static void test_last_words(struct gw_loop *loop)
{
	struct side a, b;

	pair(&a, &b, loop);
	gw_link_send(b.link, 2, "unread", 6, NULL, 0);
	gw_link_send(a.link, 2, "last", 4, NULL, 0);
	gw_link_destroy(a.link);
	gw_loop_run(loop);
	ok(b.frames == 1 && b.bytes == 4, "the last words of a peer that died with unread data are heard");
	if (!b.closed)
		gw_loop_run(loop);
	is_int(b.closed, 1, "before its end");
	gw_link_destroy(b.link);
}

static void test_self_destroy(struct gw_loop *loop)
{
	struct side a, b;

	pair(&a, &b, loop);
	b.stop_after = 1;
	b.destroys_itself = true;
	gw_link_send(a.link, 2, "one", 3, NULL, 0);
	gw_link_send(a.link, 2, "two", 3, NULL, 0);
	gw_loop_run(loop);
	is_int(b.frames, 1, "a link destroyed in its own callback is not called again");
	gw_link_destroy(a.link);
}

static void test_unix(void)
{
	struct gw_error why = { 0 };
	char name[64], byte = 0;
	int l, c, s;

	snprintf(name, sizeof(name), "godwit-test/%d", (int)getpid());
	l = gw_listen_unix(name, &why);
	ok(l >= 0, "an abstract name can be listened at: %s", why.text);
	is_int(gw_listen_unix(name, &why), -EADDRINUSE, "only once");
	ok(strstr(why.text, "has taken that name"), "and the sentence tells who has it: %s", why.text);
	close(gw_accept_unix(l, &why)); /* it had asked */
	c = gw_connect_unix(name, &why);
	s = gw_accept_unix(l, &why);
	ok(c >= 0 && s >= 0 && write(c, "z", 1) == 1 && read(s, &byte, 1) == 1 && byte == 'z', "and connected to");
	close(l);
	close(c);
	close(s);
	is_int(gw_connect_unix(name, &why), -ECONNREFUSED, "nothing is left of it after its end");
}

/* The connection is made while the first frames are already said. */
static void test_held(struct gw_loop *loop)
{
	struct side a = { .loop = loop, .fd_kept = -1, .stop_after = -1 }, b = a;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0 || gw_link_create_held(&a.link, loop, &ops, &a) < 0 ||
	    gw_link_create(&b.link, loop, sv[1], &ops, &b) < 0)
		tap_bail("no links");
	is_int(gw_link_send(a.link, 7, "abc", 3, NULL, 0), 0, "a link without a connection takes frames");
	is_int(gw_link_send(a.link, 8, "de", 2, NULL, 0), 0, "and more of them");
	ok(gw_link_queued(a.link) > 5 && gw_link_fd(a.link) < 0, "which wait");
	is_int(gw_link_open(a.link, sv[0]), 0, "until the connection comes");
	b.stop_after = 2;
	gw_loop_run(loop);
	ok(b.bytes == 5 && b.last_type == 8, "then they arrive in order");
	gw_link_destroy(a.link);
	gw_link_destroy(b.link);
	if (gw_link_create_held(&a.link, loop, &ops, &a) < 0 || gw_link_send(a.link, 7, "abc", 3, NULL, 0) < 0)
		tap_bail("no link");
	gw_link_destroy(a.link);
	is_int(a.closed, 0, "one that never gets a connection can be given up");
}

int main(void)
{
	struct gw_loop *loop;

	tap_begin(30);
	if (gw_loop_create(&loop) < 0)
		tap_bail("no loop");
	test_roundtrip(loop);
	test_queue(loop);
	test_cut(loop);
	test_malformed(loop);
	test_last_words(loop);
	test_self_destroy(loop);
	test_held(loop);
	test_unix();
	gw_loop_destroy(loop);
	return tap_done();
}
