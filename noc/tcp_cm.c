/* SPDX-License-Identifier: BSD-2-Clause */
/* Connections of the core provider of our own, and the objects that all hangs from; see tcp.h. */
#include "noc/tcp.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "noc/local.h"

#define EVENTS          16
#define BACKLOG         1024
#define STRANGERS_MAX   64u         /* who connected and has not said a whole word: the oldest goes when one more comes */
#define STRANGER_NS     2000000000ull
#define STRANGERS_TOLD  16u         /* so many are logged one by one, then every time that there were twice as many */

static struct tcp_eq *eq_of(struct fid_eq *fid) { return gw_container_of(fid, struct tcp_eq, fid); }
static struct tcp_ep *ep_of(struct fid_ep *fid) { return gw_container_of(fid, struct tcp_ep, fid); }
static struct tcp_pep *pep_of(struct fid_pep *fid) { return gw_container_of(fid, struct tcp_pep, fid); }

/* ---- events ---------------------------------------------------------------------------------------------------- */

void noc_tcp_eq_push(struct tcp_eq *eq, uint32_t event, fid_t fid, struct fi_info *info, int err, const void *bytes,
                     size_t len)
{
	struct tcp_event *e = malloc(sizeof(*e) + len);

	if (!e) { /* what is not said is found out after two seconds without it */
		fi_freeinfo(info);
		return;
	}
	*e = (struct tcp_event){ .event = event, .fid = fid, .info = info, .err = err, .len = len };
	if (len)
		memcpy(e->bytes, bytes, len);
	gw_list_append(&eq->events, &e->link);
}

static void event_free(struct tcp_event *e)
{
	gw_list_remove(&e->link);
	free(e);
}

void noc_tcp_eq_forget(struct tcp_eq *eq, fid_t fid)
{
	gw_list_for_safe(l, &eq->events) {
		struct tcp_event *e = gw_list_entry(l, struct tcp_event, link);

		if (e->fid == fid)
			event_free(e);
	}
}

static int watch(struct tcp_eq *eq, int fd, uint32_t events, void *what, bool is_new)
{
	struct epoll_event e = { .events = events, .data.ptr = what };

	return epoll_ctl(eq->epfd, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e) ? -errno : 0;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

/* Read more of a word. 1: it is whole; 0: not yet; negative: it never will be, or is none. */
static int word_read(int fd, struct tcp_word_buf *w)
{
	for (;;) {
		bool has_head = w->n >= sizeof(w->head);
		size_t want = has_head ? sizeof(w->head) + w->head.len : sizeof(w->head);
		ssize_t n;

		if (has_head && (w->head.magic != TCP_MAGIC || w->head.version != TCP_VERSION || w->head.len > TCP_WORD_MAX ||
		                 w->head.op < TCP_ASK || w->head.op > TCP_NO))
			return -EPROTO;
		if (has_head && w->n == want)
			return 1;
		/* never more than the word: what follows are messages */
		n = recv(fd, (char *)&w->head + w->n, want - w->n, MSG_DONTWAIT);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
		w->n += (size_t)n;
	}
}

static void word_make(struct tcp_word_buf *w, enum tcp_op op, const void *param, size_t len)
{
	w->head = (struct tcp_word){ .magic = TCP_MAGIC, .version = TCP_VERSION, .op = (uint16_t)op, .len = (uint32_t)len };
	if (len)
		memcpy(w->bytes, param, len);
	w->n = sizeof(w->head) + len;
}
_Static_assert(offsetof(struct tcp_word_buf, bytes) == offsetof(struct tcp_word_buf, head) + sizeof(struct tcp_word),
               "sent in one");

static void socket_tune(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int socket_new(const struct noc_address *at)
{
	int family = ((const struct sockaddr *)(const void *)at)->sa_family;
	int fd = noc_tcp_fd_above_standard(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	if (fd < 0)
		return -errno;
	socket_tune(fd);
	return fd;
}

/* ---- connecting -------------------------------------------------------------------------------------------------- */

static void ep_refused(struct tcp_ep *ep, int err, const void *bytes, size_t len)
{
	epoll_ctl(ep->eq->epfd, EPOLL_CTL_DEL, ep->fd, NULL);
	ep->state = TCP_LOST;
	noc_tcp_eq_push(ep->eq, 0, &ep->fid.fid, NULL, err, bytes, len);
}

static void ep_ask(struct tcp_ep *ep)
{
	ssize_t n;
	int err = 0;
	socklen_t len = sizeof(err);

	while (ep->word_sent < ep->word->n) {
		n = send(ep->fd, (const char *)&ep->word->head + ep->word_sent, ep->word->n - ep->word_sent,
		         MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return; /* not connected yet */
		if (n < 0) {
			int why = errno;

			getsockopt(ep->fd, SOL_SOCKET, SO_ERROR, &err, &len);
			ep_refused(ep, err ? err : why, NULL, 0);
			return;
		}
		ep->word_sent += (size_t)n;
	}
	ep->word->n = 0;
	ep->state = TCP_ASKING;
	watch(ep->eq, ep->fd, EPOLLIN, ep, false);
}

static void ep_hear(struct tcp_ep *ep)
{
	int rc = word_read(ep->fd, ep->word);

	if (rc == 0)
		return;
	if (rc < 0 || ep->word->head.op != TCP_YES) {
		ep_refused(ep, rc < 0 ? -rc : FI_ECONNREFUSED, ep->word->bytes, rc < 0 ? 0 : ep->word->head.len);
		return;
	}
	epoll_ctl(ep->eq->epfd, EPOLL_CTL_DEL, ep->fd, NULL);
	noc_tcp_eq_push(ep->eq, FI_CONNECTED, &ep->fid.fid, NULL, 0, ep->word->bytes, ep->word->head.len);
	noc_tcp_ep_up(ep);
}

static int ep_connect(struct fid_ep *fid, const void *addr, const void *param, size_t len)
{
	struct tcp_ep *ep = ep_of(fid);
	struct noc_address from, to;
	int rc;

	if (len > TCP_WORD_MAX)
		return -FI_EINVAL;
	memcpy(&to, addr, sizeof(to));
	memcpy(&from, &ep->from, sizeof(from));
	ep->word = malloc(sizeof(*ep->word));
	if (!ep->word)
		return -FI_ENOMEM;
	word_make(ep->word, TCP_ASK, param, len);
	ep->word_sent = 0;
	memcpy(&ep->to, &to, sizeof(ep->to));
	ep->fd = socket_new(&to);
	if (ep->fd < 0)
		return ep->fd;
	/* from the address that we listen at: a daemon tells our connections from a program's by their addresses */
	if (bind(ep->fd, (struct sockaddr *)&ep->from, (socklen_t)noc_address_size(&from)))
		return -errno;
	if (connect(ep->fd, (struct sockaddr *)&ep->to, (socklen_t)noc_address_size(&to)) && errno != EINPROGRESS)
		return -errno;
	rc = watch(ep->eq, ep->fd, EPOLLOUT, ep, true);
	if (rc)
		return rc;
	ep->state = TCP_CONNECTING;
	return 0;
}

/* ---- listening --------------------------------------------------------------------------------------------------- */

static void stranger_free(struct tcp_eq *eq, struct tcp_stranger *s)
{
	gw_list_remove(&s->link);
	if (!s->is_asked) {
		eq->n_strangers--;
		epoll_ctl(eq->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	}
	shutdown(s->fd, SHUT_RDWR);
	close(s->fd);
	free(s);
}

/* One line for each, but a flood of them must not flood the log. */
static void stranger_close(struct tcp_eq *eq, struct tcp_stranger *s, const char *why)
{
	uint64_t n = ++eq->strangers_closed;
	struct sockaddr_in6 a = { 0 };
	socklen_t len = sizeof(a);
	char name[INET6_ADDRSTRLEN] = "?";

	if (n <= STRANGERS_TOLD || (n & (n - 1)) == 0) {
		if (getpeername(s->fd, (struct sockaddr *)&a, &len) == 0)
			inet_ntop(a.sin6_family, a.sin6_family == AF_INET ? (void *)&((struct sockaddr_in *)&a)->sin_addr :
			          (void *)&a.sin6_addr, name, sizeof(name));
		gw_log(GW_WARN, "noc: a connection from %s %s; it is closed (%llu such so far)", name, why, (unsigned long long)n);
	}
	stranger_free(eq, s);
}

static void strangers_check(struct tcp_eq *eq)
{
	uint64_t now;

	if (gw_list_is_empty(&eq->strangers))
		return;
	now = gw_now_ns();
	gw_list_for_safe(l, &eq->strangers) { /* oldest first */
		struct tcp_stranger *s = gw_list_entry(l, struct tcp_stranger, link);

		if (now - s->since_ns < STRANGER_NS)
			break;
		if (!s->is_asked)
			stranger_close(eq, s, "has not said for two seconds what it wants");
	}
}

static void stranger_hear(struct tcp_eq *eq, struct tcp_stranger *s)
{
	int rc = word_read(s->fd, &s->in);
	struct fi_info *info;

	if (rc == 0)
		return;
	if (rc == -ECONNRESET && s->in.n == 0) { /* a peer that has moved meanwhile, mostly */
		stranger_free(eq, s);
		return;
	}
	if (rc < 0 || s->in.head.op != TCP_ASK) {
		stranger_close(eq, s, "does not speak our language");
		return;
	}
	info = fi_dupinfo(eq->info);
	if (!info) {
		stranger_free(eq, s);
		return;
	}
	epoll_ctl(eq->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	eq->n_strangers--;
	s->is_asked = true;
	info->handle = &s->fid;
	noc_tcp_eq_push(eq, FI_CONNREQ, &s->fid, info, 0, s->in.bytes, s->in.head.len);
}

static void pep_take(struct tcp_pep *pep)
{
	struct tcp_eq *eq = pep->eq;

	for (unsigned i = 0; i < STRANGERS_MAX; i++) { /* a turn has an end, whoever connects */
		int fd = noc_tcp_fd_above_standard(accept4(pep->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
		struct tcp_stranger *s;

		if (fd < 0)
			return; /* none; or none can be had: the others go on without */
		s = calloc(1, sizeof(*s));
		if (!s || watch(eq, fd, EPOLLIN, s, true)) {
			free(s);
			close(fd);
			return;
		}
		socket_tune(fd);
		s->kind = TCP_STRANGER;
		s->fd = fd;
		s->since_ns = gw_now_ns();
		s->fid.fclass = FI_CLASS_CONNREQ;
		gw_list_append(&eq->strangers, &s->link);
		eq->n_strangers++;
		stranger_hear(eq, s); /* a peer's word is here, mostly */
		for (struct gw_list *l = eq->strangers.next; eq->n_strangers > STRANGERS_MAX && l != &eq->strangers;) {
			struct tcp_stranger *old = gw_list_entry(l, struct tcp_stranger, link);

			l = l->next;
			if (!old->is_asked)
				stranger_close(eq, old, "says nothing, and there are too many of them");
		}
	}
}

static int pep_listen(struct fid_pep *fid)
{
	struct tcp_pep *pep = pep_of(fid);
	struct noc_address at = { 0 };
	int one = 1;

	memcpy(&at, pep->info->src_addr, pep->info->src_addrlen < sizeof(at) ? pep->info->src_addrlen : sizeof(at));
	pep->fd = socket_new(&at);
	if (pep->fd < 0)
		return pep->fd;
	setsockopt(pep->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(pep->fd, (struct sockaddr *)(void *)&at, (socklen_t)noc_address_size(&at)) || listen(pep->fd, BACKLOG))
		return -errno;
	return watch(pep->eq, pep->fd, EPOLLIN, pep, true);
}

static int pep_getname(fid_t fid, void *addr, size_t *len)
{
	socklen_t n = (socklen_t)*len;

	if (getsockname(gw_container_of(fid, struct tcp_pep, fid.fid)->fd, addr, &n))
		return -errno;
	*len = n;
	return 0;
}

static int pep_reject(struct fid_pep *fid, fid_t handle, const void *param, size_t len)
{
	struct tcp_stranger *s = gw_container_of(handle, struct tcp_stranger, fid);

	if (!handle)
		return -FI_EINVAL; /* an endpoint has it already */
	word_make(&s->in, TCP_NO, param, len < TCP_WORD_MAX ? len : TCP_WORD_MAX);
	if (send(s->fd, &s->in.head, s->in.n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		/* it finds out when this is closed */
	}
	stranger_free(pep_of(fid)->eq, s);
	return 0;
}

static int ep_accept(struct fid_ep *fid, const void *param, size_t len)
{
	struct tcp_ep *ep = ep_of(fid);
	struct tcp_word_buf w;

	if (len > TCP_WORD_MAX || ep->fd < 0)
		return -FI_EINVAL;
	word_make(&w, TCP_YES, param, len);
	if (send(ep->fd, &w.head, w.n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)w.n)
		return -FI_ECONNABORTED; /* a new socket has room for a word */
	noc_tcp_ep_up(ep);
	noc_tcp_eq_push(ep->eq, FI_CONNECTED, &fid->fid, NULL, 0, NULL, 0);
	return 0;
}

struct fi_ops_cm noc_tcp_ep_cm = { .size = sizeof(struct fi_ops_cm), .connect = ep_connect, .accept = ep_accept };

/* ---- the event queue --------------------------------------------------------------------------------------------- */

static void eq_look(struct tcp_eq *eq)
{
	struct epoll_event e[EVENTS];
	int n = epoll_wait(eq->epfd, e, EVENTS, 0);
	struct tcp_pep *listener = NULL;

	for (int i = 0; i < n; i++) {
		switch (*(enum tcp_kind *)e[i].data.ptr) {
		case TCP_LISTENER:
			listener = e[i].data.ptr; /* last: it may close strangers that this turn has news of */
			break;
		case TCP_STRANGER:
			stranger_hear(eq, e[i].data.ptr);
			break;
		case TCP_EP: {
			struct tcp_ep *ep = e[i].data.ptr;

			if (ep->state == TCP_CONNECTING)
				ep_ask(ep);
			else if (ep->state == TCP_ASKING)
				ep_hear(ep);
			break;
		}
		}
	}
	if (listener)
		pep_take(listener);
	strangers_check(eq);
}

static ssize_t eq_read(struct fid_eq *fid, uint32_t *event, void *buf, size_t len, uint64_t flags)
{
	struct tcp_eq *eq = eq_of(fid);
	struct fi_eq_cm_entry *out = buf;
	struct tcp_event *e;
	size_t n;

	(void)flags;
	if (gw_list_is_empty(&eq->events))
		eq_look(eq);
	if (gw_list_is_empty(&eq->events))
		return -FI_EAGAIN;
	e = gw_list_entry(eq->events.next, struct tcp_event, link);
	if (e->err)
		return -FI_EAVAIL;
	n = e->len < len - sizeof(*out) ? e->len : len - sizeof(*out);
	*event = e->event;
	out->fid = e->fid;
	out->info = e->info;
	memcpy(out->data, e->bytes, n);
	event_free(e);
	return (ssize_t)(sizeof(*out) + n);
}

static ssize_t eq_readerr(struct fid_eq *fid, struct fi_eq_err_entry *out, uint64_t flags)
{
	struct tcp_eq *eq = eq_of(fid);
	struct tcp_event *e;

	(void)flags;
	if (gw_list_is_empty(&eq->events))
		return -FI_EAGAIN;
	e = gw_list_entry(eq->events.next, struct tcp_event, link);
	out->fid = e->fid;
	out->err = e->err;
	event_free(e);
	return sizeof(*out);
}

static int eq_control(struct fid *fid, int command, void *arg)
{
	if (command != FI_GETWAIT)
		return -FI_ENOSYS;
	*(int *)arg = gw_container_of(fid, struct tcp_eq, fid.fid)->epfd;
	return 0;
}

static int eq_close(struct fid *fid)
{
	struct tcp_eq *eq = gw_container_of(fid, struct tcp_eq, fid.fid);

	gw_list_for_safe(l, &eq->events) {
		struct tcp_event *e = gw_list_entry(l, struct tcp_event, link);

		fi_freeinfo(e->info);
		event_free(e);
	}
	gw_list_for_safe(l, &eq->strangers)
		stranger_free(eq, gw_list_entry(l, struct tcp_stranger, link));
	if (eq->epfd >= 0)
		close(eq->epfd);
	free(eq);
	return 0;
}

static struct fi_ops eq_fid_ops = { .size = sizeof(struct fi_ops), .close = eq_close, .control = eq_control };
static struct fi_ops_eq eq_ops = { .size = sizeof(struct fi_ops_eq), .read = eq_read, .readerr = eq_readerr };

static int eq_open(struct fid_fabric *f, struct fi_eq_attr *attr, struct fid_eq **out, void *context)
{
	struct tcp_eq *eq = calloc(1, sizeof(*eq));

	(void)f, (void)attr;
	if (!eq)
		return -FI_ENOMEM;
	eq->fid.fid = (struct fid){ .fclass = FI_CLASS_EQ, .context = context, .ops = &eq_fid_ops };
	eq->fid.ops = &eq_ops;
	gw_list_init(&eq->events);
	gw_list_init(&eq->strangers);
	eq->epfd = noc_tcp_fd_above_standard(epoll_create1(EPOLL_CLOEXEC));
	if (eq->epfd < 0) {
		int rc = -errno;

		free(eq);
		return rc;
	}
	*out = &eq->fid;
	return 0;
}

/* ---- what all hangs from ----------------------------------------------------------------------------------------- */

static int pep_close(struct fid *fid)
{
	struct tcp_pep *pep = gw_container_of(fid, struct tcp_pep, fid.fid);

	if (pep->eq)
		pep->eq->info = NULL;
	if (pep->fd >= 0) {
		epoll_ctl(pep->eq->epfd, EPOLL_CTL_DEL, pep->fd, NULL);
		close(pep->fd);
	}
	fi_freeinfo(pep->info);
	free(pep);
	return 0;
}

static int pep_bind(struct fid *fid, struct fid *to, uint64_t flags)
{
	struct tcp_pep *pep = gw_container_of(fid, struct tcp_pep, fid.fid);

	(void)flags;
	pep->eq = gw_container_of(to, struct tcp_eq, fid.fid);
	pep->eq->info = pep->info;
	return 0;
}

static struct fi_ops pep_fid_ops = { .size = sizeof(struct fi_ops), .close = pep_close, .bind = pep_bind };
static struct fi_ops_cm pep_cm = { .size = sizeof(struct fi_ops_cm), .getname = pep_getname, .listen = pep_listen,
                                   .reject = pep_reject };

static int pep_open(struct fid_fabric *f, struct fi_info *info, struct fid_pep **out, void *context)
{
	struct tcp_pep *pep = calloc(1, sizeof(*pep));

	(void)f;
	if (pep)
		pep->info = fi_dupinfo(info);
	if (!pep || !pep->info) {
		free(pep);
		return -FI_ENOMEM;
	}
	pep->kind = TCP_LISTENER;
	pep->fid.fid = (struct fid){ .fclass = FI_CLASS_PEP, .context = context, .ops = &pep_fid_ops };
	pep->fid.cm = &pep_cm;
	pep->fd = -1;
	*out = &pep->fid;
	return 0;
}

static int close_nothing(struct fid *fid)
{
	(void)fid;
	return 0;
}

static int try_wait(struct fid_fabric *f, struct fid **fids, int count)
{
	(void)f;
	for (int i = 0; i < count; i++) {
		if (fids[i]->fclass == FI_CLASS_CQ) {
			int rc = noc_tcp_cq_try(gw_container_of(fids[i], struct tcp_cq, fid.fid));

			if (rc)
				return rc;
		} else if (!gw_list_is_empty(&gw_container_of(fids[i], struct tcp_eq, fid.fid)->events)) {
			return -FI_EAGAIN;
		}
	}
	return 0;
}

static struct fi_ops plain_ops = { .size = sizeof(struct fi_ops), .close = close_nothing };
static struct fi_ops_domain domain_ops = { .size = sizeof(struct fi_ops_domain), .cq_open = noc_tcp_cq_open,
                                           .endpoint = noc_tcp_ep_open };
static struct fid_domain the_domain = { .fid = { .fclass = FI_CLASS_DOMAIN, .ops = &plain_ops }, .ops = &domain_ops };

static int domain_open(struct fid_fabric *f, struct fi_info *info, struct fid_domain **out, void *context)
{
	(void)f, (void)info, (void)context;
	*out = &the_domain;
	return 0;
}

static struct fi_ops_fabric fabric_ops = { .size = sizeof(struct fi_ops_fabric), .domain = domain_open, .passive_ep = pep_open,
                                           .eq_open = eq_open, .trywait = try_wait };
static struct fid_fabric the_fabric = { .fid = { .fclass = FI_CLASS_FABRIC, .ops = &plain_ops }, .ops = &fabric_ops };
/* both process-wide: they have no state */

int noc_tcp_fabric(struct fid_fabric **out)
{
	*out = &the_fabric;
	return 0;
}

struct fi_info *noc_tcp_info(const struct noc_address *at)
{
	struct fi_info *info = fi_allocinfo();

	if (!info)
		return NULL;
	info->ep_attr->type = FI_EP_MSG;
	info->addr_format = FI_SOCKADDR;
	info->tx_attr->inject_size = NOC_NET_INJECT;
	info->fabric_attr->prov_name = strdup("tcp");
	info->src_addr = malloc(sizeof(struct sockaddr_in6));
	if (!info->fabric_attr->prov_name || !info->src_addr) {
		fi_freeinfo(info);
		return NULL;
	}
	memcpy(info->src_addr, at, sizeof(struct sockaddr_in6));
	info->src_addrlen = noc_address_size(at);
	return info;
}
