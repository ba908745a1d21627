/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames between processes of the runtime, as they come out of a socket, and JSON in them. */
#include "runtime/base/link.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static struct gw_loop *loop;

static void on_frame(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds, size_t n_fds)
{
	volatile const uint8_t *p = payload;

	(void)l; (void)ctx; (void)type; (void)fds;
	if (n_fds || (uintptr_t)payload % 16)
		abort();
	for (size_t i = 0; i < len; i++)
		(void)p[i];
}

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	(void)l; (void)ctx; (void)fds;
	if (n_fds || !json_is_object(msg))
		abort();
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	(void)l; (void)ctx; (void)error;
	gw_loop_stop(loop, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static const struct gw_link_ops ops = { .frame = on_frame, .json = on_json, .closed = on_closed };
	struct gw_link *l;
	int fds[2];

	if (!loop) {
		setenv("GODWIT_LOG_FILE", "/dev/null", 1);
		gw_log_init("fuzz");
		if (gw_loop_create(&loop) < 0)
			abort();
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		abort();
	if (write(fds[1], bytes, len) < 0 && len)
		abort();
	close(fds[1]);
	if (gw_link_create(&l, loop, fds[0], &ops, NULL) < 0)
		abort();
	gw_loop_run(loop);
	gw_link_destroy(l);
	return 0;
}
