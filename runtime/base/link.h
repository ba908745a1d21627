/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/base/link: frames over a connected stream socket, between daemons and tools.
 *
 * A frame is a 16-byte little-endian header {magic u32, type u16, flags u16, length u32, descriptors u32} and a
 * payload; a JSON frame (GW_FRAME_JSON) holds one jansson object; other types belong to the layer above. Descriptors
 * travel with a frame over AF_UNIX (at most 8). A malformed or oversized frame closes the link with a log line.
 */
#ifndef GW_LINK_H
#define GW_LINK_H

#include <jansson.h>

#include "runtime/base/loop.h"

#define GW_FRAME_JSON 1
#define GW_FRAME_MAX  (8u << 20)

struct gw_link;

struct gw_link_ops {
	/* payload is valid during the call; @fds are the callee's to close (set those kept to -1; the rest are closed) */
	void (*frame)(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds, size_t n_fds);
	/* JSON frames; when NULL they go to frame(). Borrowed. */
	void (*json)(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds);
	/* the send queue fell below its low mark; optional */
	void (*drained)(struct gw_link *l, void *ctx);
	/* the peer is gone or broke the framing; called once; the link is destroyed by the callee or later */
	void (*closed)(struct gw_link *l, void *ctx, int error);
};

/** gw_link_create - take over the connected @fd (made non-blocking; closed by destroy, also on failure) */
int gw_link_create(struct gw_link **out, struct gw_loop *loop, int fd, const struct gw_link_ops *ops, void *ctx);
/** gw_link_create_held - a link whose connection is still being made: what is sent waits; its descriptor is -1 */
int gw_link_create_held(struct gw_link **out, struct gw_loop *loop, const struct gw_link_ops *ops, void *ctx);
int gw_link_open(struct gw_link *l, int fd); /* here it is; as gw_link_create(). On failure the link stays held, @fd is closed */
void gw_link_destroy(struct gw_link *l); /* NULL ok; also from inside its callbacks */

/** gw_link_send - queue a frame (copied; written at once as far as the socket takes it); -EPIPE when closed */
int gw_link_send(struct gw_link *l, uint16_t type, const void *payload, size_t len, const int *fds, size_t n_fds);
int gw_link_send_json(struct gw_link *l, json_t *msg);            /* steals the reference */
int gw_link_send_json_fds(struct gw_link *l, json_t *msg, const int *fds, size_t n_fds);

size_t gw_link_queued(const struct gw_link *l);  /* bytes not yet taken by the socket */
int gw_link_flush(struct gw_link *l);            /* write all that is queued, blocking; for last words before exit */
int gw_link_fd(const struct gw_link *l);

/** gw_listen_unix, gw_connect_unix - abstract AF_UNIX stream sockets (a name without a leading NUL); leave no file
 *  behind. Accepted peers of another user (SO_PEERCRED) are refused unless root. Return a descriptor or -errno. */
int gw_listen_unix(const char *name, struct gw_error *why);
/** gw_probe_unix - does one of ours listen there? Never waits. 0; -EACCES: another user; -EAGAIN: it does not accept */
int gw_probe_unix(const char *name);
int gw_connect_unix(const char *name, struct gw_error *why);
int gw_accept_unix(int listener, struct gw_error *why);

#endif
