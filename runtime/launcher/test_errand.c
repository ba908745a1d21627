/* SPDX-License-Identifier: BSD-2-Clause */
/* Errands: what they say, and every way in which they end. */
#include "runtime/launcher/errand.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "tests/tap.h"

#define SECOND 1000000000ull

struct heard { int code, n; size_t len; };

static void on_done(void *ctx, int code, char *said)
{
	struct heard *h = ctx;

	h->n++;
	h->code = code;
	h->len = strlen(said);
}

static int fill(void *ctx, char *said, size_t cap)
{
	(void)ctx;
	memset(said, 'x', cap - 1);
	return -ENOENT;
}

static int die(void *ctx, char *said, size_t cap)
{
	(void)ctx; (void)said; (void)cap;
	raise(SIGKILL);
	return 0;
}

static int wait_long(void *ctx, char *said, size_t cap)
{
	(void)ctx; (void)said; (void)cap;
	pause();
	return 0;
}

static uint64_t bytes_of_memory(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu", &pages) != 1)
		tap_bail("no /proc/self/statm");
	fclose(f);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int main(void)
{
	struct gw_loop *loop;
	struct errand *e = NULL;
	struct gw_error why = { 0 };
	struct heard h = { 0 };
	struct rlimit was, little;
	uint64_t began;
	int code;

	if (gw_loop_create(&loop) < 0)
		tap_bail("no loop");
	code = errand_begin(&e, loop, fill, on_done, &h, &why);
	ok(code == 0 && errand_wait(&e, gw_now_ns() + 20 * SECOND) == 0 && !e && h.n == 1 && h.code == -ENOENT && h.len == ERRAND_SAYS - 1,
	       "an errand says what it returns, and as much as it may");

	h = (struct heard){ 0 };
	code = errand_begin(&e, loop, die, on_done, &h, &why);
	ok(code == 0 && errand_wait(&e, gw_now_ns() + 20 * SECOND) == 0 && !e && h.n == 1 && h.code == -EPIPE && h.len == 0 &&
	       strstr(errand_text(h.code), "has been killed"), "one that was killed is told of as that");

	h = (struct heard){ 0 };
	code = errand_begin(&e, loop, wait_long, on_done, &h, &why);
	began = gw_now_ns();
	ok(code == 0 && errand_wait(&e, began + SECOND / 10) == -ETIMEDOUT && e && h.n == 0, "one that goes on is not waited for longer than asked");
	errand_drop(&e);
	ok(!e && h.n == 0, "and is dropped without a word");

	h = (struct heard){ 0 };
	code = errand_begin(&e, loop, fill, on_done, &h, &why);
	getrlimit(RLIMIT_AS, &was);
	little = was;
	little.rlim_cur = bytes_of_memory() + (256 << 10);
	setrlimit(RLIMIT_AS, &little);
	code = code == 0 ? errand_wait(&e, gw_now_ns() + 5 * SECOND) : code;
	setrlimit(RLIMIT_AS, &was);
	ok(code == 0 && !e && h.n == 1 && h.code == -ENOMEM, "where there is no memory for what it says, that is its end");
	errand_drop(&e);
	gw_loop_destroy(loop);
	return tap_done();
}
