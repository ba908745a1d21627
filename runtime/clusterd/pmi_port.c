/* SPDX-License-Identifier: BSD-2-Clause */
/* The PMI socket of a rank: bytes to and from its session (mpi-shim/pmi.h), wishes of the session to the head. */
#include "runtime/clusterd/clusterd.h"

#include <stdlib.h>
#include <sys/socket.h>

/* At most one answer is on its way at a time, so the socket always has room; a rank that breaks this is not waited for. */
static void on_reply(void *ctx, const char *line, size_t len)
{
	struct rank *r = ctx;

	if (r->is_pmi_held) {
		char *bigger = realloc(r->pmi_held, r->pmi_held_len + len);

		if (!bigger) {
			clusterd_fatal(r->d, "rank %u: no memory for a PMI answer", r->proc);
			return;
		}
		memcpy(bigger + r->pmi_held_len, line, len);
		r->pmi_held = bigger;
		r->pmi_held_len += len;
		return;
	}
	if (r->pmi_fd >= 0 && send(r->pmi_fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
		gw_log(GW_WARN, "rank %u: does not take a PMI answer: %s", r->proc, strerror(errno));
}

static void on_barrier(void *ctx, uint64_t number, const json_t *puts)
{
	struct rank *r = ctx;

	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:I, s:O}", "op", "barrier", "rank", (int)r->proc, "number",
	                                        (json_int_t)number, "puts", puts));
}

static void on_ask(void *ctx, uint64_t id, const char *what, const json_t *args)
{
	struct rank *r = ctx;

	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:I, s:s, s:O}", "op", "pmi-ask", "rank", (int)r->proc, "id",
	                                        (json_int_t)id, "what", what, "args", args));
}

static void on_abort(void *ctx, int exit_code, const char *message)
{
	struct rank *r = ctx;

	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i, s:s}", "op", "abort", "rank", (int)r->proc, "code", exit_code,
	                                        "text", message));
}

static void on_phase(void *ctx, enum pmi_phase phase)
{
	struct rank *r = ctx;

	gw_event("rank.pmi", "{s:i, s:s}", "rank", (int)r->proc, "phase", phase == PMI_OPEN ? "init" : "finalize");
	moves_try(r);
}

static int on_allow(void *ctx, enum pmi_saying what, const char *key, struct gw_error *why)
{
	struct rank *r = ctx;

	return guard_allow(r, r->pmi_speaker, what, key, why);
}

static const struct pmi_ops session_ops = { on_reply, on_barrier, on_ask, on_abort, on_phase, on_allow };

/* What the rank wrote, of one process at a time, and which: in a rank that is a script it is not the rank's own. */
static ssize_t take(struct rank *r, char *buf, size_t len)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(struct ucred))]; } control;
	struct iovec iov = { buf, len };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(r->pmi_fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL; c; c = CMSG_NXTHDR(&h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred from;

			memcpy(&from, CMSG_DATA(c), sizeof(from));
			r->pmi_speaker = from.pid;
		}
	return n;
}

int pmi_port_open(struct rank *r, uint32_t appnum, struct ct_plumbing *plumbing, struct gw_error *why)
{
	struct pmi_job *job = worlds_pmi(r->d, r->proc);
	int sv[2], yes = 1;

	if (!job)
		return gw_fail(why, -EINVAL, "no such rank");
	if (pmi_session_create(&r->pmi, job, appnum, &session_ops, r) < 0)
		return gw_fail(why, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "no PMI socket: %s", strerror(errno));
	setsockopt(sv[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)); /* every message tells who wrote it */
	r->pmi_fd = sv[0];
	plumbing->rank_fd[CT_PLUMB_PMI] = sv[1];
	plumbing->number_in_rank[CT_PLUMB_PMI] = RANK_PMI_FD;
	plumbing->daemon_fd[CT_PLUMB_PMI] = r->pmi_fd;
	return 0;
}

void pmi_port_close(struct rank *r)
{
	gw_watch_close(&r->pmi_watch, &r->pmi_fd);
	pmi_session_destroy(r->pmi);
	r->pmi = NULL;
	free(r->pmi_held);
	r->pmi_held = NULL;
}

void pmi_port_drain(struct rank *r)
{
	char buf[4096];
	ssize_t n = -1;

	while (r->pmi_fd >= 0 && (n = take(r, buf, sizeof(buf))) > 0) {
		struct gw_error why = { 0 };

		if (pmi_session_feed(r->pmi, buf, (size_t)n, &why) < 0) {
			gw_watch_remove(r->pmi_watch);
			r->pmi_watch = NULL;
			gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:s}", "op", "broken", "rank", (int)r->proc, "text",
			                                        why.text));
			return;
		}
	}
	if (n == 0) { /* closed by the program; what that means its status tells */
		gw_watch_remove(r->pmi_watch);
		r->pmi_watch = NULL;
	}
}

static void on_readable(void *ctx, uint32_t events)
{
	(void)events;
	pmi_port_drain(ctx);
}

int pmi_port_watch(struct rank *r)
{
	if (r->pmi_watch || r->pmi_fd < 0)
		return 0;
	return gw_loop_watch(r->d->loop, &r->pmi_watch, r->pmi_fd, EPOLLIN, on_readable, r);
}

/*
 * The rank is frozen. Requests are consumed into the session, which travels. Answers that the rank has not read are in its
 * image already, so an answer that is made from now on must not go into the old socket: it is held, and travels too.
 */
json_t *pmi_port_export(struct rank *r, struct gw_error *why)
{
	gw_autofree char *hex = NULL;
	json_t *session, *out;

	r->is_pmi_held = true;
	pmi_port_drain(r);
	session = pmi_session_export(r->pmi);
	if (!session) {
		gw_fail(why, -EBUSY, "its PMI state cannot be written down in the middle of a command, or without memory");
		return NULL;
	}
	hex = bytes_to_hex(r->pmi_held, r->pmi_held_len);
	out = hex ? json_pack("{s:O, s:s}", "session", session, "held", hex) : NULL;
	json_decref(session);
	if (!out)
		gw_fail(why, -ENOMEM, "no memory for its PMI state");
	return out;
}

int pmi_port_import(struct rank *r, const json_t *state, struct gw_error *why)
{
	const char *hex = json_string_value(json_object_get(state, "held"));
	void *held;

	if (!hex || r->pmi_held || bytes_from_hex(hex, &held, &r->pmi_held_len) < 0)
		return gw_fail(why, -EPROTO, "its PMI state is malformed");
	r->pmi_held = held;
	r->is_pmi_held = true;
	if (pmi_session_import(r->pmi, json_object_get(state, "session")) < 0)
		return gw_fail(why, -EPROTO, "its PMI state is malformed");
	return 0;
}

void pmi_port_let_go(struct rank *r)
{
	char *held = r->pmi_held;
	size_t len = r->pmi_held_len;

	r->is_pmi_held = false;
	r->pmi_held = NULL;
	r->pmi_held_len = 0;
	if (len)
		on_reply(r, held, len);
	free(held);
}
