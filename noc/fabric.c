/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connected endpoints (FI_EP_MSG) of a core provider of libfabric (core.c) as the network interface, inside the rank.
 *
 * One connection per unordered pair of names, opened on first use, closed at detach. Who connects proves that it knows the
 * job's secret before a frame of its is read, and the same the other way round:
 *
 *   connecting side                              listening side
 *     | connect {greeting, its nonce} -----------> |   right job, name and incarnation? else reject with a reason
 *     | <------------- accept {greeting, nonce} -- |
 *     | <---------------- PROOF, then frames ----- |   proof: keyed hash over both greetings
 *     | PROOF, then frames ----------------------> |   each is up when the other's is right; nothing else is read before
 *
 * Both greetings say what their side expects next, so each begins with what the other lacks (rule 14: when two connect to
 * each other at once, the connection of the lower name stands).
 *
 * Everything here is cluster side: made at attach, gone at detach; it uses malloc, which is allowed to whoever attaches and
 * to program threads (rule 11), and the agent calls it only with the gate closed. Incoming bytes land in buffers of the
 * connection (two of them: the kernel's socket buffer is the window), never in the program's memory, so a connection that
 * is shut cannot write anywhere afterwards (rule 6).
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "noc/fabric.h"
#include "noc/local.h"

#define RX_BUFFERS 2u
#define TX_CHUNKS  4u
#define GREETING_MAGIC 0x4f4c4c48u /* "HLLO" */
#define GREETING_VERSION 2
#define SILENT_NS  2000000000ull   /* a connection that is not proved by then is closed; twice as long after each that was not */
#define SILENCES_MAX 4u            /* 32 s: where many ranks share a core, none may get as far in less */
#define HOLD_NS    20000000ull     /* one that has work to do is not closed for another before it had so long */
#define FDS_OTHER  64u             /* descriptors that are left to the program in any case */
#define UNPROVED_EACH 2u           /* connections in one peer's name that are not proved; for another the oldest goes */
#define CONNS_MIN  16u             /* allowed in any case, unless the user says less */

enum refusal { REFUSED_STALE = 1, REFUSED_CROSSED = 2, REFUSED_VERSION = 3, REFUSED_PROOF = 4, REFUSED_BUSY = 5 };

/* What travels with connect and accept; little endian. The connection manager of verbs has room for 55 bytes. */
struct __attribute__((packed, aligned(4))) greeting {
	uint32_t magic;
	uint8_t version, reason;             /* reason: enum refusal, of a reject */
	uint16_t pad;
	uint32_t job, src, dst;
	uint32_t dst_incarnation;            /* the low half tells one life from the next */
	uint64_t src_incarnation;
	uint64_t next_in;
	uint8_t nonce[12];
};
_Static_assert(sizeof(struct greeting) == NOC_GREETING_BYTES, "wire format");

struct token { /* operation context: what completed */
	struct noc_conn *conn;
	enum { TOKEN_RX, TOKEN_TX } what;
	uint32_t index;
};

struct noc_conn {
	struct gw_list link;                 /* in net.conns or net.closed */
	struct fid_ep *ep;                   /* NULL: closed; waits for its last completion */
	enum { CONN_CONNECTING, CONN_PROVING, CONN_ACCEPTING, CONN_UP } state; /* PROVING: ours was accepted, their proof must come */
	struct noc_peer *peer;
	uint64_t peer_incarnation, peer_next_in, since_ns;
	uint64_t used;                       /* net.uses when it last carried a frame */
	uint32_t posted;                     /* operations that will still complete */
	struct greeting mine;
	uint8_t proof[NOC_PROOF_BYTES], expected[NOC_PROOF_BYTES]; /* that we send, that must come */
	bool has_proved;                     /* ours was sent */
	struct token rx_token[RX_BUFFERS], tx_token[TX_CHUNKS];
	uint32_t tx_busy;                    /* bit per chunk head */
	struct noc_frame tx_frame[TX_CHUNKS];
	unsigned char *rx[RX_BUFFERS];
};

static struct {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_eq *eq;
	struct fid_cq *cq;
	struct fid_pep *pep;
	uint16_t port;                       /* we listen at; network order */
	uint8_t secret[32];
	struct gw_list conns, closed;
	struct token *late;                  /* a buffer that was read and is not posted again yet; counted in its posted */
	uint64_t uses;                       /* frames so far */
	bool is_making_room;
} net; /* process-wide; cluster side: nothing of it outlives detach() */

/* ---- proofs ---------------------------------------------------------------------------------------------------- */

/* Over all that was agreed, in one order for both sides; @role keeps one side's proof from being sent back as the other's. */
static void prove(uint8_t out[32], const char *role, const struct greeting *connecting, const struct greeting *listening)
{
	crypto_generichash_state s;

	crypto_generichash_init(&s, net.secret, sizeof(net.secret), 32);
	crypto_generichash_update(&s, (const unsigned char *)role, strlen(role) + 1);
	crypto_generichash_update(&s, (const unsigned char *)connecting, sizeof(*connecting));
	crypto_generichash_update(&s, (const unsigned char *)listening, sizeof(*listening));
	crypto_generichash_final(&s, out, 32);
	sodium_memzero(&s, sizeof(s)); /* made of the secret, and a stack is part of an image */
}

static struct greeting greet(const struct noc_peer *p, uint64_t peer_incarnation)
{
	struct greeting g = { .magic = GREETING_MAGIC, .version = GREETING_VERSION, .job = noc_me->job, .src = noc_me->proc,
	                      .dst = p->proc, .src_incarnation = noc_me->incarnation, .dst_incarnation = (uint32_t)peer_incarnation,
	                      .next_in = p->next_in };

	randombytes_buf(g.nonce, sizeof(g.nonce));
	return g;
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

static void conn_free(struct noc_conn *c)
{
	gw_list_remove(&c->link);
	free(c->rx[0]);
	free(c);
}

static void conn_close(struct noc_conn *c)
{
	if (!c->ep)
		return;
	fi_close(&c->ep->fid);
	c->ep = NULL;
	gw_list_remove(&c->link);
	gw_list_append(&net.closed, &c->link);
	if (!c->posted)
		conn_free(c);
}

static void conn_lost(struct noc_conn *c)
{
	struct noc_peer *p = c->peer;
	bool was_up = c->state == CONN_UP;

	conn_close(c);
	if (was_up)
		noc_path_down(p, c);
}

static int post_rx(struct noc_conn *c, uint32_t i)
{
	int rc = (int)fi_recv(c->ep, c->rx[i], sizeof(struct noc_frame) + NOC_FRAME_BYTES, NULL, FI_ADDR_UNSPEC,
	                      &c->rx_token[i]);

	if (rc == 0)
		c->posted++;
	return rc;
}

static struct noc_conn *conn_new(struct fi_info *info, struct noc_peer *p)
{
	struct noc_conn *c = calloc(1, sizeof(*c));
	size_t size = sizeof(struct noc_frame) + NOC_FRAME_BYTES;

	if (!c)
		return NULL;
	gw_list_init(&c->link);
	c->peer = p;
	c->since_ns = gw_now_ns();
	c->rx[0] = malloc(RX_BUFFERS * size);
	if (!c->rx[0]) {
		free(c);
		return NULL;
	}
	for (uint32_t i = 0; i < RX_BUFFERS; i++) {
		c->rx[i] = c->rx[0] + i * size;
		c->rx_token[i] = (struct token){ c, TOKEN_RX, i };
	}
	for (uint32_t i = 0; i < TX_CHUNKS; i++)
		c->tx_token[i] = (struct token){ c, TOKEN_TX, i };
	if (fi_endpoint(net.domain, info, &c->ep, c)) {
		c->ep = NULL;
		conn_free(c);
		return NULL;
	}
	gw_list_append(&net.conns, &c->link);
	if (fi_ep_bind(c->ep, &net.eq->fid, 0) || fi_ep_bind(c->ep, &net.cq->fid, FI_RECV) ||
	    fi_ep_bind(c->ep, &net.cq->fid, FI_TRANSMIT | FI_SELECTIVE_COMPLETION) || fi_enable(c->ep))
		goto fail;
	for (uint32_t i = 0; i < RX_BUFFERS; i++)
		if (post_rx(c, i))
			goto fail;
	return c;
fail:
	conn_close(c);
	return NULL;
}

static bool is_silent(const struct noc_conn *c, uint64_t now)
{
	return now - c->since_ns > SILENT_NS << c->peer->silences;
}

static void conn_silent(struct noc_conn *c)
{
	if (c->peer->silences < SILENCES_MAX)
		c->peer->silences++;
	conn_lost(c);
}

static struct noc_conn *conn_of(const struct noc_peer *p, const struct noc_conn *but)
{
	gw_list_for(l, &net.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->peer == p && c != but)
			return c;
	}
	return NULL;
}

/* ---- at most so many connections (rule 14) ------------------------------------------------------------------------ */

static uint32_t conns_max; /* process-wide, of the environment: it is the same after a move */

static void conns_max_find(void)
{
	const char *s = getenv("GODWIT_CONNECTIONS");
	struct rlimit files = { .rlim_cur = 1024 };
	unsigned long n = s ? strtoul(s, NULL, 10) : 0;

	if (conns_max)
		return;
	getrlimit(RLIMIT_NOFILE, &files);
	conns_max = files.rlim_cur > 1u << 20 ? 1u << 19 : files.rlim_cur > FDS_OTHER ? (uint32_t)(files.rlim_cur - FDS_OTHER) / 2 : 0;
	if (conns_max < CONNS_MIN)
		conns_max = CONNS_MIN;
	if (n >= 1 && n < conns_max)
		conns_max = (uint32_t)n;
	else if (s && *s)
		gw_log(GW_WARN, "noc: GODWIT_CONNECTIONS=%s is not a number from 1 to %u, half of what 'ulimit -n' allows; a rank opens "
		       "up to %u connections", s, conns_max, conns_max);
}

static uint32_t conns_count(bool is_up)
{
	uint32_t n = 0;

	gw_list_for(l, &net.conns)
		n += (gw_list_entry(l, struct noc_conn, link)->state == CONN_UP) == is_up;
	return n;
}

/*
 * Which connection is closed for another: of those that have nothing to do the one that was used longest ago. Any may be
 * closed, since the channels go on over the next one; so where all have work they take turns, and nobody waits for ever.
 */
static struct noc_conn *conn_to_close(const struct noc_conn *but)
{
	struct noc_conn *best = NULL;
	bool best_is_idle = false;
	uint64_t now = gw_now_ns();

	gw_list_for(l, &net.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);
		bool is_idle;

		if (c == but || c->state != CONN_UP)
			continue;
		is_idle = noc_path_is_idle(c->peer);
		if (!is_idle && (best_is_idle || now - c->since_ns < HOLD_NS))
			continue;
		if (!best || is_idle > best_is_idle || c->used < best->used) {
			best = c;
			best_is_idle = is_idle;
		}
	}
	return best;
}

/* Close others until @more are allowed besides @but. */
static int conns_make_room(const struct noc_conn *but, uint32_t more)
{
	if (net.is_making_room)
		return -EAGAIN; /* a word about a transfer whose connection is just being closed */
	while (conns_count(true) + conns_count(false) * (more > 0) + more > conns_max) {
		struct noc_conn *c = conn_to_close(but);

		if (!c)
			return -EAGAIN;
		noc_me->counters.shed++;
		net.is_making_room = true;
		conn_lost(c);
		net.is_making_room = false;
	}
	return 0;
}

/* The oldest that is accepted and not proved, of @p or (NULL) of all; *n: how many there are. */
static struct noc_conn *unproved_oldest(const struct noc_peer *p, uint32_t *n)
{
	struct noc_conn *oldest = NULL;

	*n = 0;
	gw_list_for(l, &net.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->state != CONN_ACCEPTING || (p && c->peer != p))
			continue;
		++*n;
		if (!oldest || c->since_ns < oldest->since_ns)
			oldest = c;
	}
	return oldest;
}

static void conn_up(struct noc_conn *c)
{
	c->posted++; /* what is read now may make the channel close it */
	noc_path_drain();
	c->posted--;
	if (!c->ep) {
		if (!c->posted)
			conn_free(c);
		return;
	}
	c->state = CONN_UP;
	if (c->peer->silences)
		c->peer->silences--; /* it answers again, if not at once */
	c->since_ns = gw_now_ns();
	c->used = ++net.uses;
	c->posted++;
	noc_path_up(c->peer, c, c->peer_next_in);
	conns_make_room(c, 0);
	c->posted--;
	if (!c->ep && !c->posted)
		conn_free(c);
}

/* Who is connecting to us proves it soon; but somebody may greet in its name for ever, and we would never connect ourselves. */
static void drop_unproved(struct noc_peer *p)
{
	uint64_t now = gw_now_ns();
	struct noc_conn *c;
	uint32_t n;

	if (!unproved_oldest(p, &n)) {
		p->held_ns = 0;
	} else if (!p->held_ns) {
		p->held_ns = now;
	} else if (now - p->held_ns > SILENT_NS << p->silences) {
		while ((c = unproved_oldest(p, &n)))
			conn_silent(c);
		p->held_ns = 0;
	}
}

static int fabric_connect(struct noc_peer *p, const struct noc_place *place)
{
	struct noc_conn *c;
	struct fi_info *info;
	int rc;

	drop_unproved(p);
	c = conn_of(p, NULL);
	if (c) {
		bool is_late = is_silent(c, gw_now_ns());

		if (c->peer_incarnation >= place->incarnation && !is_late)
			return -EALREADY;
		is_late ? conn_silent(c) : conn_lost(c);
	}
	rc = conns_make_room(NULL, 1);
	if (rc)
		return rc;
	rc = -ENOMEM;
	info = fi_dupinfo(net.info);
	if (!info)
		return rc;
	free(info->dest_addr);
	info->dest_addrlen = noc_address_size(&place->address);
	info->dest_addr = malloc(sizeof(struct sockaddr_in6));
	if (info->dest_addr && info->src_addr) {
		memcpy(info->dest_addr, &place->address, sizeof(struct sockaddr_in6));
		/* not from the port that we listen at */
		((struct sockaddr_in *)info->src_addr)->sin_port = 0;
		c = conn_new(info, p);
		if (c) {
			c->state = CONN_CONNECTING;
			c->peer_incarnation = place->incarnation;
			c->mine = greet(p, place->incarnation);
			rc = fi_connect(c->ep, info->dest_addr, &c->mine, sizeof(c->mine));
			if (rc)
				conn_close(c);
		}
	}
	fi_freeinfo(info);
	return rc;
}

/* ---- someone connects ------------------------------------------------------------------------------------------ */

/* Somebody who knows a peer's name but not the secret may greet as often as he likes. A peer proves itself in milliseconds. */
static bool unproved_have_room(const struct noc_peer *p)
{
	struct noc_conn *oldest;
	uint32_t n;

	while ((oldest = unproved_oldest(p, &n)) && n >= UNPROVED_EACH)
		conn_lost(oldest);
	if (conns_count(false) < conns_max)
		return true;
	oldest = unproved_oldest(NULL, &n);
	if (!oldest || gw_now_ns() - oldest->since_ns < HOLD_NS)
		return false;
	conn_lost(oldest);
	return true;
}

static enum refusal judge(const struct greeting *g, size_t size, struct noc_peer **peer)
{
	struct noc_peer *p;
	struct noc_conn *c;

	if (size < sizeof(*g) || g->magic != GREETING_MAGIC || g->version != GREETING_VERSION)
		return REFUSED_VERSION;
	if (g->job != noc_me->job || g->dst != noc_me->proc || g->src == noc_me->proc ||
	    g->dst_incarnation != (uint32_t)noc_me->incarnation)
		return REFUSED_STALE;
	p = noc_peer_get(g->src);
	if (!p)
		return REFUSED_STALE;
	*peer = p;
	c = conn_of(p, NULL);
	if (c && (c->state == CONN_CONNECTING || c->state == CONN_PROVING) && c->peer_incarnation >= g->src_incarnation &&
	    noc_me->proc < p->proc)
		return REFUSED_CROSSED; /* ours stands */
	/* nothing that is proved is closed for whom nobody knows: that waits until it is proved */
	if (!unproved_have_room(p) || (!c && conns_count(true) >= conns_max && !conn_to_close(NULL)))
		return REFUSED_BUSY;
	return 0;
}

static void on_request(struct fi_eq_cm_entry *e, size_t size)
{
	struct noc_peer *p = NULL;
	struct noc_conn *c;
	struct greeting g = { 0 }, no = { .magic = GREETING_MAGIC, .version = GREETING_VERSION };

	memcpy(&g, e->data, size < sizeof(g) ? size : sizeof(g));
	no.reason = judge(&g, size, &p);
	c = no.reason ? NULL : conn_new(e->info, p);
	if (!c) {
		if (!no.reason)
			no.reason = REFUSED_BUSY;
		fi_reject(net.pep, e->info->handle, &no, sizeof(no));
		fi_freeinfo(e->info);
		return;
	}
	fi_freeinfo(e->info);
	c->state = CONN_ACCEPTING;
	c->peer_incarnation = g.src_incarnation;
	c->peer_next_in = g.next_in;
	c->mine = greet(p, g.src_incarnation);
	prove(c->proof, "listening", &g, &c->mine);
	prove(c->expected, "connecting", &g, &c->mine);
	if (fi_accept(c->ep, &c->mine, sizeof(c->mine)))
		conn_close(c);
}

/* The first frame that we send. */
static int send_proof(struct noc_conn *c)
{
	struct noc_frame f = { .magic = NOC_FRAME_MAGIC, .version = NOC_FRAME_VERSION, .kind = NOC_KIND_PROOF,
	                       .src = noc_me->proc, .len_here = NOC_PROOF_BYTES };
	unsigned char bytes[sizeof(f) + sizeof(c->proof)];

	if (c->has_proved)
		return 0;
	c->has_proved = true;
	memcpy(bytes, &f, sizeof(f));
	memcpy(bytes + sizeof(f), c->proof, sizeof(c->proof));
	return (int)fi_inject(c->ep, bytes, sizeof(bytes), FI_ADDR_UNSPEC);
}

/* It is open: ours was accepted, with these bytes, or we have accepted theirs. */
static void on_connected(struct noc_conn *c, const void *data, size_t size)
{
	struct greeting theirs;

	if (c->state == CONN_CONNECTING) {
		if (size < sizeof(theirs))
			memset(&theirs, 0, sizeof(theirs));
		else
			memcpy(&theirs, data, sizeof(theirs));
		if (theirs.magic != GREETING_MAGIC || theirs.version != GREETING_VERSION) {
			gw_log(GW_WARN, "noc: what answers for process %u is no rank of this job", c->peer->proc);
			conn_lost(c);
			return;
		}
		prove(c->proof, "connecting", &c->mine, &theirs);
		prove(c->expected, "listening", &c->mine, &theirs);
		c->peer_next_in = theirs.next_in;
		c->state = CONN_PROVING;
	}
	if (c->state != CONN_UP && send_proof(c))
		conn_lost(c);
}

static int eq_poll(void)
{
	union { struct fi_eq_cm_entry cm; char bytes[sizeof(struct fi_eq_cm_entry) + 256]; } e;
	struct fi_eq_err_entry err;
	uint32_t event;
	ssize_t n;
	int done = 0;

	for (;;) {
		n = fi_eq_read(net.eq, &event, &e, sizeof(e), 0);
		if (n == -FI_EAVAIL) {
			memset(&err, 0, sizeof(err));
			if (fi_eq_readerr(net.eq, &err, 0) > 0 && err.fid && err.fid != &net.pep->fid)
				conn_lost(err.fid->context); /* refused, or unreachable: asked again after a look at the name */
			done++;
			continue;
		}
		if (n < (ssize_t)sizeof(struct fi_eq_cm_entry))
			return done;
		done++;
		if (event == FI_CONNREQ) {
			on_request(&e.cm, (size_t)n - sizeof(e.cm));
		} else if (event == FI_CONNECTED) {
			on_connected(e.cm.fid->context, e.cm.data, (size_t)n - sizeof(e.cm));
		} else if (event == FI_SHUTDOWN) {
			conn_lost(e.cm.fid->context);
		}
	}
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static void on_frame(struct noc_conn *c, const unsigned char *buf, size_t size)
{
	struct noc_frame f;
	const void *payload;

	if (noc_frame_parse(buf, size, &f, &payload) < 0 || f.src != c->peer->proc)
		goto wrong;
	if (GW_UNLIKELY(c->state == CONN_CONNECTING)) { /* that it is open may be read later than what came over it */
		eq_poll();
		if (!c->ep)
			return;
	}
	if (c->state == CONN_UP) {
		if (f.kind == NOC_KIND_PROOF)
			goto wrong;
		c->used = ++net.uses;
		noc_path_frame(c->peer, c, &f, payload);
		return;
	}
	if (c->state == CONN_CONNECTING || f.kind != NOC_KIND_PROOF)
		goto wrong;
	if (sodium_memcmp(payload, c->expected, sizeof(c->expected))) {
		gw_log(GW_WARN, "noc: what speaks for process %u does not know the secret of this job", c->peer->proc);
		conn_lost(c);
		return;
	}
	if (c->state == CONN_ACCEPTING) {
		for (struct noc_conn *other; (other = conn_of(c->peer, c));)
			conn_lost(other); /* the other side has lost it, or it loses the crossing. May close more: look again */
		if (!c->ep)
			return;
		if (send_proof(c)) {
			conn_lost(c);
			return;
		}
	}
	conn_up(c);
	return;
wrong:
	gw_log(GW_WARN, "noc: a connection in the name of process %u brings what it must not; it is closed", c->peer->proc);
	conn_lost(c);
}

static void token_done(struct noc_conn *c)
{
	c->posted--;
	if (!c->ep && !c->posted)
		conn_free(c);
}

/* What was read last is posted again at the next look, when the answer to it may be on its way already. */
static void post_late(void)
{
	struct token *t = net.late;
	struct noc_conn *c = t->conn;

	net.late = NULL;
	if (c->ep && post_rx(c, t->index))
		conn_lost(c);
	token_done(c);
}

static int cq_poll(void)
{
	struct fi_cq_msg_entry e[16];
	struct fi_cq_err_entry err = { 0 };
	ssize_t n;

	if (net.late)
		post_late();
	n = fi_cq_read(net.cq, e, GW_ARRAY_LEN(e));
	if (n == -FI_EAVAIL) {
		struct token *t;

		if (fi_cq_readerr(net.cq, &err, 0) != 1 || !err.op_context)
			return 1;
		t = err.op_context;
		if (t->conn->ep)
			conn_lost(t->conn);
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
			if (!net.late) { /* one; further ones are not in anybody's way */
				net.late = t;
				continue;
			}
			if (c->ep && post_rx(c, t->index))
				conn_lost(c);
		}
		token_done(c);
	}
	return n > 0 ? (int)n : 0;
}

static int fabric_send(struct noc_conn *c, const struct noc_frame *f, const struct iovec *bytes, size_t n, bool is_kept)
{
	unsigned char small[NOC_NET_INJECT];
	struct fi_msg msg = { 0 };
	struct iovec iov[4];
	int i, rc;

	if (!c->ep)
		return -EPIPE;
	c->used = ++net.uses;
	if (sizeof(*f) + f->len_here <= sizeof(small)) {
		memcpy(small, f, sizeof(*f));
		if (n)
			noc_iov_copy_out(small + sizeof(*f), bytes, n);
		return (int)fi_inject(c->ep, small, sizeof(*f) + f->len_here, FI_ADDR_UNSPEC);
	}
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

static void fabric_drop(struct noc_conn *c)
{
	conn_close(c);
}

static int fabric_poll(bool is_thorough)
{
	bool is_connecting = false;
	uint64_t now;
	int n = 0;

	if (!gw_list_is_empty(&net.conns) || !gw_list_is_empty(&net.closed))
		n = cq_poll();
	gw_list_for(l, &net.conns)
		is_connecting |= gw_list_entry(l, struct noc_conn, link)->state != CONN_UP;
	if (!is_thorough && !is_connecting)
		return n;
	n += eq_poll();
	if (!is_thorough)
		return n;
	now = gw_now_ns();
	gw_list_for_safe(l, &net.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->state != CONN_UP && is_silent(c, now)) {
			conn_silent(c);
			break; /* the rest next time: the list may have changed */
		}
	}
	return n;
}

static int fabric_fds(int fds[2])
{
	struct fid *fid[2] = { &net.eq->fid, &net.cq->fid };

	if (fi_control(&net.eq->fid, FI_GETWAIT, &fds[0]) || fi_control(&net.cq->fid, FI_GETWAIT, &fds[1]))
		return 0;
	return fi_trywait(net.fabric, fid, 2) ? -EAGAIN : 2;
}

/* ---- attach, detach -------------------------------------------------------------------------------------------- */

static void fabric_detach(void)
{
	gw_list_for_safe(l, &net.conns)
		conn_close(gw_list_entry(l, struct noc_conn, link));
	if (net.pep)
		fi_close(&net.pep->fid);
	if (net.cq)
		fi_close(&net.cq->fid);
	if (net.eq)
		fi_close(&net.eq->fid);
	if (net.domain)
		fi_close(&net.domain->fid);
	if (net.fabric)
		fi_close(&net.fabric->fid);
	if (net.info)
		fi_freeinfo(net.info);
	gw_list_for_safe(l, &net.closed)
		conn_free(gw_list_entry(l, struct noc_conn, link));
	if (net.port)
		noc_strays_close(net.port);
	sodium_memzero(&net, sizeof(net));
	gw_list_init(&net.conns);
	gw_list_init(&net.closed);
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
	gw_list_init(&net.conns);
	gw_list_init(&net.closed);
	conns_max_find();
	memcpy(net.secret, host->secret, sizeof(net.secret));
	noc_fds_now(&before);
	if (sodium_init() < 0)
		return gw_fail(why, -ENOSYS, "libsodium does not start");
	net.info = noc_core_find(&host->address, why);
	if (!net.info) {
		fabric_detach();
		return why->code;
	}
	net.info->handle = NULL;
	step = "opening it";
	rc = noc_core_open(net.info, &net.fabric);
	if (rc == 0)
		rc = fi_domain(net.fabric, net.info, &net.domain, NULL);
	if (rc == 0)
		rc = fi_eq_open(net.fabric, &eq_attr, &net.eq, NULL);
	if (rc == 0)
		rc = fi_cq_open(net.domain, &cq_attr, &net.cq, NULL);
	if (rc)
		goto fail;
	step = "listening";
	rc = fi_passive_ep(net.fabric, net.info, &net.pep, NULL);
	if (rc == 0)
		rc = fi_pep_bind(net.pep, &net.eq->fid, 0);
	if (rc == 0)
		rc = fi_listen(net.pep);
	if (rc == 0)
		rc = fi_getname(&net.pep->fid, &a, &len);
	if (rc)
		goto fail;
	net.port = a.sin6_port; /* at the same place in sockaddr_in */
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
	.attach = fabric_attach, .detach = fabric_detach, .connect = fabric_connect, .send = fabric_send, .drop = fabric_drop,
	.poll = fabric_poll, .fds = fabric_fds,
};

/* Whoever has this file linked in speaks the network: ranks do, daemons do not. */
__attribute__((constructor)) static void fabric_offer(void)
{
	noc_net = &fabric_ops;
}
