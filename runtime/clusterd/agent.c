/* SPDX-License-Identifier: BSD-2-Clause */
/* The control socket of a rank's agent (container/ctl.h), and the name entry that follows from it. */
#include "runtime/clusterd/clusterd.h"

#include <netinet/in.h>
#include <sys/socket.h>

const char *agent_state_name(enum agent_state s)
{
	static const char *const names[] = { "none", "starting", "attached", "quiescing", "quiet", "closing", "closed" };

	return names[s];
}

int agent_open(struct rank *r, struct ct_plumbing *plumbing, struct gw_error *why)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "no control socket: %s", strerror(errno));
	r->ctl_fd = sv[0];
	plumbing->rank_fd[CT_PLUMB_CTL] = sv[1];
	plumbing->number_in_rank[CT_PLUMB_CTL] = RANK_CTL_FD;
	plumbing->daemon_fd[CT_PLUMB_CTL] = sv[0];
	return 0;
}

void agent_close(struct rank *r)
{
	measure_forget(r);
	gw_timer_cancel(r->attach_timer);
	r->attach_timer = NULL;
	gw_watch_close(&r->ctl_watch, &r->ctl_fd);
}

void agent_publish(struct rank *r, enum noc_name_state state)
{
	struct clusterd *d = r->d;
	struct noc_place place = { d->cluster, state, r->epoch, r->incarnation, d->here.host, r->address };
	gw_autofree char *address = NULL;
	int code;

	if (r->incarnation == 0)
		return; /* it never had an inbox, so nobody has its name */
	code = noc_names_publish(&d->segment, r->proc, &place, d->cluster);
	if (code < 0)
		gw_log(GW_WARN, "rank %u: its place cannot be published: %s", r->proc, strerror(-code));
	/* who finds it moving by a broken connection looks at the page, where the new place comes soon enough */
	if (!d->is_networked || state == NOC_NAME_MOVING)
		return;
	address = bytes_to_hex(&place.address, sizeof(place.address));
	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i, s:I, s:I, s:i, s:i, s:s}", "op", "name", "rank", (int)r->proc,
	                                     "state", (int)state, "epoch", (json_int_t)place.epoch, "incarnation",
	                                     (json_int_t)place.incarnation, "cluster", (int)d->cluster, "host",
	                                     (int)place.host, "address", address ? address : ""));
}

static bool is_same_place(const void *address, size_t len, const struct noc_address *of)
{
	struct sockaddr_in6 a = { 0 }, b;

	memcpy(&a, address, len < sizeof(a) ? len : sizeof(a));
	memcpy(&b, of, sizeof(b));
	if (a.sin6_family != b.sin6_family || a.sin6_port != b.sin6_port) /* both at the same place in sockaddr_in */
		return false;
	return a.sin6_family == AF_INET6 ? memcmp(&a.sin6_addr, &b.sin6_addr, sizeof(a.sin6_addr)) == 0
	                                 : len >= 8 && memcmp(&a, &b, 8) == 0; /* family, port, IPv4 address */
}

static void remember_address(struct clusterd *d, uint32_t rank, const struct noc_address *a)
{
	struct heard *h = &d->heard[rank];

	if (memcmp(&h->address[h->newest], a, sizeof(*a)) == 0)
		return;
	h->newest = (h->newest + 1) % GW_ARRAY_LEN(h->address);
	h->address[h->newest] = *a;
}

/* After the last rank come the guests. */
static uint32_t next_name(const struct clusterd *d, uint32_t i)
{
	if (++i == d->size)
		i = d->guests_from ? d->guests_from : d->room;
	return i;
}

/* As the page of this host says, which another daemon may have written: also before this one came. */
void agent_look_at_page(struct clusterd *d)
{
	struct noc_place place;

	for (uint32_t i = 0; i < d->room; i = next_name(d, i))
		if (noc_names_lookup(&d->segment, i, &place) == 0)
			remember_address(d, i, &place.address);
}

/* Where any rank of the job has listened last, or a guest, and before that. */
static bool is_peer(void *ctx, const void *address, size_t len)
{
	struct clusterd *d = ctx;

	agent_look_at_page(d);
	for (uint32_t i = 0; i < d->room; i = next_name(d, i))
		for (size_t k = 0; k < GW_ARRAY_LEN(d->heard[i].address); k++)
			if (is_same_place(address, len, &d->heard[i].address[k]))
				return true;
	return false;
}

void agent_heard(struct clusterd *d, const json_t *msg)
{
	struct noc_place place = { 0 };
	gw_autofree void *address = NULL;
	json_int_t epoch, incarnation;
	int rank, state, cluster, host, code;
	const char *hex;
	size_t len;

	if (json_unpack((json_t *)(uintptr_t)msg, "{s:i, s:i, s:I, s:I, s:i, s:i, s:s}", "rank", &rank, "state", &state, "epoch",
	                &epoch, "incarnation", &incarnation, "cluster", &cluster, "host", &host, "address", &hex) < 0 ||
	    state < NOC_NAME_HERE || state > NOC_NAME_GONE || bytes_from_hex(hex, &address, &len) < 0 ||
	    len != sizeof(place.address)) {
		gw_log(GW_WARN, "what the head says of a name is malformed");
		return;
	}
	place.cluster = (uint32_t)cluster;
	place.state = (enum noc_name_state)state;
	place.epoch = (uint64_t)epoch;
	place.incarnation = (uint64_t)incarnation;
	place.host = (uint32_t)host;
	memcpy(&place.address, address, sizeof(place.address));
	if (rank >= 0 && (uint32_t)rank < d->room)
		remember_address(d, (uint32_t)rank, &place.address);
	code = noc_names_publish(&d->segment, (uint32_t)rank, &place, d->cluster);
	if (code == 0)
		gw_event("name.heard", "{s:i, s:i, s:I}", "rank", rank, "cluster", (int)d->cluster, "epoch", epoch);
	if (code < 0 && code != -ESTALE) /* stale: it has come here since */
		gw_log(GW_WARN, "rank %d: its place on host %d cannot be published: %s", rank, host, strerror(-code));
}

int agent_say(struct rank *r, const struct ct_ctl_msg *m)
{
	return send(r->ctl_fd, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int agent_send(struct rank *r, enum ct_ctl_op op, uint32_t session, uint64_t deadline_ms)
{
	struct ct_ctl_msg m = { .magic = CT_CTL_MAGIC, .version = CT_CTL_VERSION, .op = op, .session = session,
	                        .deadline_ms = deadline_ms, .cluster = r->d->cluster };
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { &m, sizeof(m) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (op == CT_CTL_ATTACH || op == CT_CTL_TRAFFIC) {
		const int *fd = op == CT_CTL_ATTACH ? &r->d->segment_fd : &r->traffic.fd;
		struct cmsghdr *c;

		if (op == CT_CTL_ATTACH) {
			m.net.host = r->d->here.host;
			memcpy(m.net.address, &r->d->here.address, sizeof(m.net.address));
			memcpy(m.net.secret, r->d->here.secret, sizeof(m.net.secret));
		}
		h.msg_control = control.bytes;
		h.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), fd, sizeof(int));
	}
	if (sendmsg(r->ctl_fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	return 0;
}

#define ATTACH_TRIES 8 /* 20, 40, ... 1280 ms apart: two and a half seconds in all */

static void attach_again(void *ctx)
{
	struct rank *r = ctx;

	r->attach_timer = NULL; /* gone with its call */
	agent_reattach(r, r->attach_session);
}

/* An agent that is not attached keeps the gate closed, so its program stands at the next MPI call. What it lacks (memory,
 * addresses under a limit) may come back, so it is asked again for a while; then the job ends with a sentence, since a
 * rank that cannot talk would let all others wait without end. */
static void attach_failed(struct rank *r, uint32_t session, const char *text)
{
	gw_log(GW_WARN, "rank %u: its agent cannot attach: %s", r->proc, text);
	if (network_attach_failed(r, session, text))
		return;
	r->agent = AGENT_STARTING;
	r->attach_session = session;
	if (r->attach_timer)
		return;
	if (++r->attach_failures < ATTACH_TRIES &&
	    gw_loop_timer(r->d->loop, &r->attach_timer, 10u << r->attach_failures, 0, attach_again, r) == 0)
		return;
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:s}", "op", "attach-failed", "rank", (int)r->proc, "text", text));
}

void agent_reattach(struct rank *r, uint32_t session)
{
	int code;

	r->agent = AGENT_STARTING;
	code = agent_send(r, CT_CTL_ATTACH, session, 0);
	if (code < 0)
		attach_failed(r, session, strerror(-code)); /* also when the rank is gone: then its end is heard first */
}

static void tell_network(struct rank *r, const struct ct_ctl_msg *m)
{
	struct ct_network n = { .is_peer = is_peer, .ctx = r->d };

	memcpy(&n.port, (const char *)m->net.address + 2, sizeof(n.port)); /* 0: this job has one host */
	memcpy(n.fds, m->net.fds, sizeof(n.fds));
	ct_rank_network(r->ct, &n);
	if (r->d->is_networked)
		remember_address(r->d, r->proc, &r->address);
}

static void on_attached(struct rank *r, const struct ct_ctl_msg *m)
{
	char text[sizeof(m->text)];

	if (m->status < 0) {
		snprintf(text, sizeof(text), "%.*s", (int)sizeof(m->text) - 1, m->text);
		if (m->session != 0) {
			attach_failed(r, m->session, text);
			return;
		}
		gw_log(GW_ERROR, "rank %u: its agent cannot attach: %s", r->proc, text);
		r->agent = AGENT_NONE; /* MPI_Init fails in the rank and says so */
		return;
	}
	gw_timer_cancel(r->attach_timer);
	r->attach_timer = NULL;
	r->attach_failures = 0;
	r->agent = AGENT_ATTACHED;
	r->incarnation = m->incarnation;
	r->traffic_at = m->traffic_at;
	r->told_at = m->told_at;
	pace_begin(r);
	memcpy(&r->address, m->net.address, sizeof(r->address));
	tell_network(r, m);
	agent_publish(r, NOC_NAME_HERE);
	gw_event("rank.attached", "{s:i, s:i, s:I, s:I}", "rank", (int)r->proc, "cluster", (int)r->d->cluster, "epoch",
	         (json_int_t)r->epoch, "incarnation", (json_int_t)r->incarnation);
	if (m->session)
		moves_attached(r, m);
	network_rank_attached(r->d);
	suspend_look(r->d);
	moves_try(r);
}

static void on_quiet(struct rank *r, const struct ct_ctl_msg *m)
{
	bool is_quiet = m->op == CT_CTL_QUIET;

	r->agent = is_quiet ? AGENT_QUIET : AGENT_ATTACHED;
	if (!is_quiet)
		agent_publish(r, NOC_NAME_HERE);
	if (moves_quiet(r, m) || suspend_quiet(r, m))
		return;
	if (is_quiet) /* too late: its session has ended */
		agent_reattach(r, m->session);
}

static void on_message(struct rank *r, const struct ct_ctl_msg *m)
{
	switch (m->op) {
	case CT_CTL_HELLO:
		r->agent = AGENT_STARTING;
		if (agent_send(r, CT_CTL_ATTACH, 0, 0) < 0)
			gw_log(GW_ERROR, "rank %u: its agent does not read its socket", r->proc);
		break;
	case CT_CTL_ATTACHED:
		on_attached(r, m);
		break;
	case CT_CTL_QUIET:
	case CT_CTL_BUSY:
		on_quiet(r, m);
		break;
	case CT_CTL_CLOSING:
		r->agent = AGENT_CLOSING;
		break;
	case CT_CTL_CLOSED:
		r->agent = AGENT_CLOSED;
		ct_rank_network(r->ct, &(struct ct_network){ 0 }); /* what has their numbers now is the program's own */
		agent_publish(r, NOC_NAME_GONE); /* who lingers for it need not wait for its exit */
		suspend_look(r->d);
		moves_try(r);
		break;
	case CT_CTL_NUDGE:
		agent_send(r, CT_CTL_NUDGE, 0, 0); /* a full socket holds something that wakes the agent anyway */
		break;
	case CT_CTL_TRAFFIC:
		measure_traffic(r, m);
		break;
	case CT_CTL_WISH:
		wishes_asked(r, m);
		break;
	default:
		gw_log(GW_WARN, "rank %u: its agent says %u, which is unknown here", r->proc, m->op);
	}
}

/* One message; false when there is none. */
static bool take_message(struct rank *r)
{
	struct ct_ctl_msg m;
	ssize_t n = recv(r->ctl_fd, &m, sizeof(m), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) { /* the program has closed it or is gone; its status tells */
		gw_watch_remove(r->ctl_watch);
		r->ctl_watch = NULL;
		return false;
	}
	if (n != sizeof(m) || m.magic != CT_CTL_MAGIC || m.version != CT_CTL_VERSION)
		gw_log(GW_WARN, "rank %u: its control socket brings %zd bytes that are no message", r->proc, n);
	else
		on_message(r, &m);
	return true;
}

static void on_readable(void *ctx, uint32_t events)
{
	(void)events;
	take_message(ctx);
}

void agent_drain(struct rank *r)
{
	while (r->ctl_fd >= 0 && take_message(r))
		;
}

int agent_watch(struct rank *r)
{
	if (r->ctl_watch || r->ctl_fd < 0)
		return 0;
	return gw_loop_watch(r->d->loop, &r->ctl_watch, r->ctl_fd, EPOLLIN, on_readable, r);
}
