/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connected endpoints (FI_EP_MSG) of a core provider of libfabric (core.c) as the network interface, inside the rank; its
 * parts are listed in conn.h. Incoming bytes land in buffers of the connection (two of them for TCP: the kernel's socket buffer is
 * the window), never in the program's memory, so a connection that is shut cannot write anywhere afterwards (rule 6).
 */
#include "noc/conn.h"

#include <sodium.h>
#include <sys/socket.h>

struct noc_fabric noc_fabric;

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static void on_frame(struct noc_conn *c, const unsigned char *buf, size_t size)
{
	struct noc_frame f;
	const void *payload;

	if (noc_frame_parse(buf, size, &f, &payload) < 0 || f.src != c->peer->there)
		goto wrong;
	if (GW_UNLIKELY(c->state == CONN_CONNECTING)) { /* that it is open may be read later than what came over it */
		noc_meet_poll();
		if (!c->ep)
			return;
	}
	if (c->state == CONN_UP) {
		if (f.kind == NOC_KIND_PROOF)
			goto wrong;
		c->used = ++noc_fabric.uses;
		noc_path_frame(c->peer, c, &f, payload);
		return;
	}
	if (c->state == CONN_CONNECTING || f.kind != NOC_KIND_PROOF)
		goto wrong;
	if (sodium_memcmp(payload, c->expected, sizeof(c->expected))) {
		gw_log(GW_WARN, "noc: what speaks for process %u does not know the secret of this job", c->peer->proc);
		noc_conn_lost(c);
		return;
	}
	if (c->state == CONN_ACCEPTING) {
		for (struct noc_conn *other; (other = noc_conn_of(c->peer, c));)
			noc_conn_lost(other); /* the other side has lost it, or it loses the crossing. May close more: look again */
		if (!c->ep)
			return;
		if (noc_meet_prove(c)) {
			noc_conn_lost(c);
			return;
		}
	}
	noc_conn_up(c);
	return;
wrong:
	gw_log(GW_WARN, "noc: a connection in the name of process %u brings what it must not; it is closed", c->peer->proc);
	noc_conn_lost(c);
}

static void token_done(struct noc_conn *c)
{
	c->posted--;
	if (!c->ep && !c->posted)
		noc_conn_free(c);
}

/* What was read last is posted again at the next look, when the answer to it may be on its way already. */
static void post_late(void)
{
	struct token *t = noc_fabric.late;
	struct noc_conn *c = t->conn;

	noc_fabric.late = NULL;
	if (c->ep && noc_conn_post(c, t->index))
		noc_conn_lost(c);
	token_done(c);
}

static int cq_poll(void)
{
	struct fi_cq_msg_entry e[16];
	struct fi_cq_err_entry err = { 0 };
	ssize_t n;

	if (noc_fabric.late)
		post_late();
	n = fi_cq_read(noc_fabric.cq, e, GW_ARRAY_LEN(e));
	if (n == -FI_EAVAIL) {
		struct token *t;

		if (fi_cq_readerr(noc_fabric.cq, &err, 0) != 1 || !err.op_context)
			return 1;
		t = err.op_context;
		if (t->conn->ep)
			noc_conn_lost(t->conn);
		token_done(t->conn);
		return 1;
	}
	for (ssize_t i = 0; i < n; i++) {
		struct token *t = e[i].op_context;
		struct noc_conn *c;

		if (!t)
			continue;
		c = t->conn; /* counted in posted until here, so it is still there */
		if (c->ep && t->what == TOKEN_TX) {
			c->tx_busy &= ~(1u << t->index);
		} else if (c->ep) {
			on_frame(c, c->rx[t->index], e[i].len);
			if (!noc_fabric.late) { /* one; further ones are not in anybody's way */
				noc_fabric.late = t;
				continue;
			}
			if (c->ep && noc_conn_post(c, t->index))
				noc_conn_lost(c);
		}
		token_done(c);
	}
	return n > 0 ? (int)n : 0;
}

/* Hardware takes it from the connection's memory, later. */
static int send_registered(struct noc_conn *c, const struct noc_frame *f, const struct iovec *bytes, size_t n)
{
	int i = __builtin_ctz(~c->tx_busy), rc;
	struct iovec iov;
	struct fi_msg msg;

	if (i >= (int)TX_CHUNKS)
		return -EAGAIN;
	iov = (struct iovec){ c->tx[i], sizeof(*f) + f->len_here };
	msg = (struct fi_msg){ .msg_iov = &iov, .desc = &c->desc, .iov_count = 1, .context = &c->tx_token[i] };
	memcpy(c->tx[i], f, sizeof(*f));
	noc_iov_copy_out(c->tx[i] + sizeof(*f), bytes, n);
	rc = (int)fi_sendmsg(c->ep, &msg, FI_COMPLETION);
	if (rc == 0) {
		c->tx_busy |= 1u << i;
		c->posted++;
	}
	return rc;
}

static int fabric_send(struct noc_conn *c, const struct noc_frame *f, const struct iovec *bytes, size_t n, bool is_kept)
{
	unsigned char small[NOC_NET_INJECT];
	struct fi_msg msg = { 0 };
	struct iovec iov[4];
	int i, rc;

	if (!c->ep)
		return -EPIPE;
	c->used = ++noc_fabric.uses;
	if (sizeof(*f) + f->len_here <= sizeof(small)) {
		memcpy(small, f, sizeof(*f));
		if (n)
			noc_iov_copy_out(small + sizeof(*f), bytes, n);
		return (int)fi_inject(c->ep, small, sizeof(*f) + f->len_here, FI_ADDR_UNSPEC);
	}
	if (c->mr)
		return send_registered(c, f, bytes, n);
	if (is_kept) {
		iov[0] = (struct iovec){ (void *)(uintptr_t)f, sizeof(*f) + f->len_here };
		msg = (struct fi_msg){ .msg_iov = iov, .iov_count = 1 };
		return (int)fi_sendmsg(c->ep, &msg, 0);
	}
	if (n + 1 > GW_ARRAY_LEN(iov))
		return -EINVAL;
	i = __builtin_ctz(~c->tx_busy);
	if (i >= (int)TX_CHUNKS)
		return -EAGAIN;
	c->tx_frame[i] = *f;
	iov[0] = (struct iovec){ &c->tx_frame[i], sizeof(*f) };
	memcpy(iov + 1, bytes, n * sizeof(*bytes));
	msg = (struct fi_msg){ .msg_iov = iov, .iov_count = n + 1, .context = &c->tx_token[i] };
	rc = (int)fi_sendmsg(c->ep, &msg, FI_COMPLETION);
	if (rc == 0) {
		c->tx_busy |= 1u << i;
		c->posted++;
	}
	return rc;
}

static int fabric_poll(bool is_thorough)
{
	bool is_connecting = false;
	uint64_t now;
	int n = 0;

	if (!gw_list_is_empty(&noc_fabric.conns) || !gw_list_is_empty(&noc_fabric.closed))
		n = cq_poll();
	gw_list_for(l, &noc_fabric.conns)
		is_connecting |= gw_list_entry(l, struct noc_conn, link)->state != CONN_UP;
	if (!is_thorough && !is_connecting)
		return n;
	n += noc_meet_poll();
	if (!is_thorough)
		return n;
	now = gw_now_ns();
	gw_list_for_safe(l, &noc_fabric.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->state != CONN_UP && noc_conn_is_silent(c, now)) {
			noc_conn_silent(c);
			break; /* the rest next time: the list may have changed */
		}
	}
	return n;
}

static int fabric_fds(int fds[2])
{
	struct fid *fid[2] = { &noc_fabric.eq->fid, &noc_fabric.cq->fid };

	if (fi_control(&noc_fabric.eq->fid, FI_GETWAIT, &fds[0]) || fi_control(&noc_fabric.cq->fid, FI_GETWAIT, &fds[1]))
		return 0;
	return fi_trywait(noc_fabric.fabric, fid, 2) ? -EAGAIN : 2;
}

/* ---- attach, detach -------------------------------------------------------------------------------------------- */

static void fabric_detach(void)
{
	gw_list_for_safe(l, &noc_fabric.conns)
		noc_conn_close(gw_list_entry(l, struct noc_conn, link));
	gw_list_for_safe(l, &noc_fabric.closed) /* before the domain, which their memory is registered with */
		noc_conn_free(gw_list_entry(l, struct noc_conn, link));
	if (noc_fabric.pep)
		fi_close(&noc_fabric.pep->fid);
	if (noc_fabric.cq)
		fi_close(&noc_fabric.cq->fid);
	if (noc_fabric.eq)
		fi_close(&noc_fabric.eq->fid);
	if (noc_fabric.domain)
		fi_close(&noc_fabric.domain->fid);
	if (noc_fabric.fabric)
		fi_close(&noc_fabric.fabric->fid);
	if (noc_fabric.info)
		fi_freeinfo(noc_fabric.info);
	if (noc_fabric.port)
		noc_strays_close(noc_fabric.port);
	sodium_memzero(&noc_fabric, sizeof(noc_fabric));
	gw_list_init(&noc_fabric.conns);
	gw_list_init(&noc_fabric.closed);
}

static int fabric_attach(const struct noc_host *host, struct noc_listening *out, struct gw_error *why)
{
	struct noc_fds before, after;
	struct fi_eq_attr eq_attr = { .wait_obj = FI_WAIT_FD };
	struct fi_cq_attr cq_attr = { .format = FI_CQ_FORMAT_MSG, .wait_obj = FI_WAIT_FD, .size = 1024 };
	struct sockaddr_in6 a = { 0 };
	size_t len = sizeof(a);
	const char *step;
	int rc;

	_Static_assert(sizeof(struct sockaddr_in6) == sizeof(struct noc_address), "a noc_address holds either");
	gw_list_init(&noc_fabric.conns);
	gw_list_init(&noc_fabric.closed);
	noc_conns_max_find();
	memcpy(noc_fabric.secret, host->secret, sizeof(noc_fabric.secret));
	noc_fds_now(&before);
	if (sodium_init() < 0)
		return gw_fail(why, -ENOSYS, "libsodium does not start");
	noc_fabric.info = noc_core_find(&host->address, &noc_fabric.is_registering, why);
	if (!noc_fabric.info) {
		fabric_detach();
		return why->code;
	}
	noc_fabric.info->handle = NULL;
	step = "opening it";
	rc = noc_core_open(noc_fabric.info, &noc_fabric.fabric);
	if (rc == 0)
		rc = fi_domain(noc_fabric.fabric, noc_fabric.info, &noc_fabric.domain, NULL);
	if (rc == 0)
		rc = fi_eq_open(noc_fabric.fabric, &eq_attr, &noc_fabric.eq, NULL);
	if (rc == 0)
		rc = fi_cq_open(noc_fabric.domain, &cq_attr, &noc_fabric.cq, NULL);
	if (rc)
		goto fail;
	step = "listening";
	rc = fi_passive_ep(noc_fabric.fabric, noc_fabric.info, &noc_fabric.pep, NULL);
	if (rc == 0)
		rc = fi_pep_bind(noc_fabric.pep, &noc_fabric.eq->fid, 0);
	if (rc == 0)
		rc = fi_listen(noc_fabric.pep);
	if (rc == 0)
		rc = fi_getname(&noc_fabric.pep->fid, &a, &len);
	if (rc)
		goto fail;
	noc_fabric.port = a.sin6_port; /* at the same place in sockaddr_in */
	memset(out, 0, sizeof(*out));
	memcpy(&out->address, &a, len < sizeof(a) ? len : sizeof(a));
	noc_fds_now(&after);
	noc_fds_new(out->fds, &before, &after);
	return 0;
fail:
	fabric_detach();
	return gw_fail(why, rc < 0 ? rc : -EIO, "the network of this host: %s: %s", step, fi_strerror(-rc));
}

static const struct noc_net_ops fabric_ops = {
	.attach = fabric_attach, .detach = fabric_detach, .connect = noc_meet_connect, .send = fabric_send, .drop = noc_conn_close,
	.poll = fabric_poll, .fds = fabric_fds,
};

/* Whoever has this file linked in speaks the network: ranks do, daemons do not. */
__attribute__((constructor)) static void fabric_offer(void)
{
	noc_net = &fabric_ops;
}
