/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages over connected TCP sockets; see tcp.h.
 *
 * Where to look. A socket that is in an epoll set costs whoever sends to it a visit to that set, whose cache lines the
 * looking core holds; and a look there is a system call before the one that reads. So the few sockets that brought something
 * lately are in no set: one alone is read at once, some are asked by poll(). All others are looked at after some looks in
 * vain. Before anybody waits, all go back into the set.
 */
#include "noc/tcp.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "noc/local.h"

#define EVENTS    16
#define HEAT      4u     /* reads until a socket is hot */
#define OTHERS    8u     /* looks in vain at hot sockets, and the others have their turn */
#define OTHERS_TOO 64u   /* looks of any kind: who sends all the time must not keep the others from being heard */
#define NO_HEAT   65536u /* looks without hot sockets, after there were too many */

static struct tcp_ep *ep_of(struct fid_ep *fid) { return gw_container_of(fid, struct tcp_ep, fid); }
static struct tcp_cq *cq_of(struct fid_cq *fid) { return gw_container_of(fid, struct tcp_cq, fid); }

int noc_tcp_fd_above_standard(int fd)
{
	int high;

	if (fd < 0 || fd > 2)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* rule 13 */
	close(fd);
	return high;
}

/* ---- completions ----------------------------------------------------------------------------------------------- */

static void cq_push(struct tcp_cq *cq, void *context, uint64_t flags, size_t len, int err)
{
	if (cq->tail - cq->head > cq->mask) {
		uint32_t old = cq->mask + 1;
		struct tcp_done *ring = malloc(2 * (size_t)old * sizeof(*ring));

		if (!ring) {
			gw_log(GW_ERROR, "noc: out of memory for what %u network operations came to", old);
			abort(); /* an operation that never completes hangs both sides */
		}
		for (uint32_t i = 0; i < old; i++)
			ring[i] = cq->ring[(cq->head + i) & cq->mask];
		free(cq->ring);
		cq->ring = ring;
		cq->mask = 2 * old - 1;
		cq->head = 0;
		cq->tail = old;
	}
	cq->ring[cq->tail++ & cq->mask] = (struct tcp_done){ context, flags, len, err };
}

/* ---- watching -------------------------------------------------------------------------------------------------- */

static void ep_watch(struct tcp_ep *ep, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = ep };

	if (ep->watched == events)
		return;
	epoll_ctl(ep->cq->epfd, !events ? EPOLL_CTL_DEL : ep->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, ep->fd, &e);
	ep->watched = events;
}

static void ep_cool(struct tcp_ep *ep)
{
	struct tcp_cq *cq = ep->cq;

	if (!ep->is_hot)
		return;
	for (uint32_t i = 0; i < cq->n_hot; i++)
		if (cq->hot[i] == ep) {
			cq->hot[i] = cq->hot[--cq->n_hot];
			break;
		}
	ep->is_hot = false;
	ep->heat = 0;
}

static void cool_all(struct tcp_cq *cq)
{
	while (cq->n_hot) {
		struct tcp_ep *ep = cq->hot[0];

		ep_cool(ep);
		ep_watch(ep, EPOLLIN);
	}
}

static void ep_heat(struct tcp_ep *ep)
{
	struct tcp_cq *cq = ep->cq;

	if (ep->is_hot || cq->no_heat || ++ep->heat < HEAT)
		return;
	if (cq->n_hot == TCP_HOT) { /* asking each would cost more than the set does */
		cool_all(cq);
		cq->no_heat = NO_HEAT;
		return;
	}
	ep_watch(ep, 0);
	cq->hot[cq->n_hot++] = ep;
	ep->is_hot = true;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static void ep_flush(struct tcp_ep *ep, int err)
{
	ep->into = NULL;
	while (ep->rx_head != ep->rx_tail)
		cq_push(ep->cq, ep->rx[ep->rx_head++ % TCP_RX].context, FI_RECV, 0, err);
}

static void ep_unlist(struct tcp_ep *ep)
{
	gw_list_remove(&ep->ready);
	gw_list_remove(&ep->sending);
	ep_cool(ep);
	ep_watch(ep, 0);
}

static void ep_lost(struct tcp_ep *ep)
{
	if (ep->state != TCP_UP)
		return;
	ep->state = TCP_LOST;
	ep->cq->n_up--;
	ep_unlist(ep);
	ep_flush(ep, FI_ECONNRESET);
	noc_tcp_eq_push(ep->eq, FI_SHUTDOWN, &ep->fid.fid, NULL, 0, NULL, 0);
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Bytes of the stage become messages, as far as buffers are posted. false: not a stream of ours. */
static bool ep_unstage(struct tcp_ep *ep)
{
	while (ep->stage_n) {
		const unsigned char *at = ep->stage + ep->stage_at;
		size_t n;

		if (!ep->into) {
			struct tcp_head h;

			if (ep->stage_n < sizeof(h))
				break;
			if (ep->rx_head == ep->rx_tail) {
				if (gw_list_is_empty(&ep->ready))
					gw_list_append(&ep->cq->ready, &ep->ready);
				return true; /* until one is posted */
			}
			memcpy(&h, at, sizeof(h));
			if (h.len != ~h.len_again || h.len > ep->rx[ep->rx_head % TCP_RX].len || h.len == 0)
				return false;
			ep->into = ep->rx[ep->rx_head % TCP_RX].buf;
			ep->want = h.len;
			ep->got = 0;
			ep->stage_at += sizeof(h);
			ep->stage_n -= sizeof(h);
			at += sizeof(h);
		}
		n = ep->want - ep->got < ep->stage_n ? ep->want - ep->got : ep->stage_n;
		memcpy((char *)ep->into + ep->got, at, n);
		ep->got += n;
		ep->stage_at += n;
		ep->stage_n -= n;
		if (ep->got < ep->want)
			break;
		cq_push(ep->cq, ep->rx[ep->rx_head++ % TCP_RX].context, FI_RECV | FI_MSG, ep->want, 0);
		ep->into = NULL;
	}
	if (ep->stage_n) /* a piece of a head */
		memmove(ep->stage, ep->stage + ep->stage_at, ep->stage_n);
	ep->stage_at = 0;
	gw_list_remove(&ep->ready);
	return true;
}

/* Read once. What is left of a large message goes straight to its buffer, what follows it into the stage. */
static void ep_receive(struct tcp_ep *ep)
{
	ssize_t n;

	if (GW_UNLIKELY(!gw_list_is_empty(&ep->ready)))
		return; /* what is here first */
	if (GW_LIKELY(!ep->into)) {
		n = recv(ep->fd, ep->stage + ep->stage_n, TCP_STAGE - ep->stage_n, MSG_DONTWAIT);
		if (n > 0)
			ep->stage_n += (size_t)n;
	} else {
		struct iovec iov[2] = { { (char *)ep->into + ep->got, ep->want - ep->got }, { ep->stage, TCP_STAGE } };
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

		n = recvmsg(ep->fd, &m, MSG_DONTWAIT);
		if (n > 0) {
			size_t part = (size_t)n < iov[0].iov_len ? (size_t)n : iov[0].iov_len;

			ep->got += part;
			ep->stage_n = (size_t)n - part;
			if (ep->got == ep->want) {
				cq_push(ep->cq, ep->rx[ep->rx_head++ % TCP_RX].context, FI_RECV | FI_MSG, ep->want, 0);
				ep->into = NULL;
			}
		}
	}
	if (GW_LIKELY(n > 0)) {
		ep_heat(ep);
		if (ep->stage_n && !ep_unstage(ep)) {
			gw_log(GW_WARN, "noc: a connection brings what is no message; it is closed");
			ep_lost(ep);
		}
	} else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
		ep_lost(ep);
	}
}

static ssize_t ep_recv(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t from, void *context)
{
	struct tcp_ep *ep = ep_of(fid);
	uint32_t i = ep->rx_tail % TCP_RX;

	(void)desc, (void)from;
	if (ep->state == TCP_LOST)
		return -FI_ENOTCONN;
	if (ep->rx_tail - ep->rx_head == TCP_RX)
		return -FI_EAGAIN;
	ep->rx[i].buf = buf;
	ep->rx[i].len = len;
	ep->rx[i].context = context;
	ep->rx_tail++;
	return 0;
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

/* What the kernel has not taken. false: it has not taken all of it now either. */
static bool ep_push_out(struct tcp_ep *ep)
{
	while (ep->out_n) {
		ssize_t n = send(ep->fd, ep->out + ep->out_at, ep->out_n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) /* a broken one is noticed by reading */
			return false;
		ep->out_at += (size_t)n;
		ep->out_n -= (size_t)n;
	}
	gw_list_remove(&ep->sending);
	if (ep->watched & EPOLLOUT)
		ep_watch(ep, EPOLLIN);
	return true;
}

/* Keep what is behind the first @done bytes of these. */
static void ep_keep(struct tcp_ep *ep, size_t done, const struct iovec *iov, size_t n)
{
	ep->out_at = ep->out_n = 0;
	for (size_t i = 0; i < n; i++) {
		size_t skip = done < iov[i].iov_len ? done : iov[i].iov_len;

		memcpy(ep->out + ep->out_n, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
		ep->out_n += iov[i].iov_len - skip;
		done -= skip;
	}
	gw_list_append(&ep->cq->sending, &ep->sending);
}

static ssize_t ep_taken(struct tcp_ep *ep, ssize_t n, const struct iovec *iov, size_t iovs, size_t size)
{
	if (GW_LIKELY(n == (ssize_t)size))
		return 0;
	if (n > 0) {
		ep_keep(ep, (size_t)n, iov, iovs);
		return 0;
	}
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS ? -FI_EAGAIN : -FI_ENOTCONN;
}

static ssize_t ep_inject(struct fid_ep *fid, const void *buf, size_t len, fi_addr_t to)
{
	struct tcp_ep *ep = ep_of(fid);
	unsigned char bytes[sizeof(struct tcp_head) + NOC_NET_INJECT];
	struct tcp_head h = { (uint32_t)len, ~(uint32_t)len };
	struct iovec iov = { bytes, sizeof(h) + len };

	(void)to;
	if (ep->state != TCP_UP)
		return -FI_ENOTCONN;
	if (len > NOC_NET_INJECT)
		return -FI_EINVAL;
	if (GW_UNLIKELY(ep->out_n) && !ep_push_out(ep))
		return -FI_EAGAIN;
	memcpy(bytes, &h, sizeof(h));
	memcpy(bytes + sizeof(h), buf, len);
	return ep_taken(ep, send(ep->fd, bytes, iov.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL), &iov, 1, iov.iov_len);
}

static ssize_t ep_sendmsg(struct fid_ep *fid, const struct fi_msg *msg, uint64_t flags)
{
	struct tcp_ep *ep = ep_of(fid);
	struct iovec iov[1 + 4];
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 1 + msg->iov_count };
	struct tcp_head h;
	size_t size = 0;
	ssize_t rc;

	if (ep->state != TCP_UP)
		return -FI_ENOTCONN;
	if (msg->iov_count > GW_ARRAY_LEN(iov) - 1)
		return -FI_EINVAL;
	if (GW_UNLIKELY(ep->out_n) && !ep_push_out(ep))
		return -FI_EAGAIN;
	for (size_t i = 0; i < msg->iov_count; i++) {
		iov[i + 1] = msg->msg_iov[i];
		size += msg->msg_iov[i].iov_len;
	}
	if (size > TCP_MESSAGE_MAX)
		return -FI_EINVAL;
	h = (struct tcp_head){ (uint32_t)size, ~(uint32_t)size };
	iov[0] = (struct iovec){ &h, sizeof(h) };
	rc = ep_taken(ep, sendmsg(ep->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL), iov, m.msg_iovlen, sizeof(h) + size);
	if (rc == 0 && (flags & FI_COMPLETION))
		cq_push(ep->cq, msg->context, FI_SEND | FI_MSG, 0, 0);
	return rc;
}

/* ---- looking --------------------------------------------------------------------------------------------------- */

static void look_at_hot(struct tcp_cq *cq)
{
	struct pollfd p[TCP_HOT];
	struct tcp_ep *ep[TCP_HOT];
	uint32_t n = cq->n_hot;

	if (n == 1) {
		ep_receive(cq->hot[0]);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		ep[i] = cq->hot[i];
		p[i] = (struct pollfd){ .fd = ep[i]->fd, .events = POLLIN };
	}
	if (poll(p, n, 0) <= 0)
		return;
	for (uint32_t i = 0; i < n; i++)
		if (p[i].revents)
			ep_receive(ep[i]);
}

static void look_at_others(struct tcp_cq *cq)
{
	struct epoll_event e[EVENTS];
	int n = epoll_wait(cq->epfd, e, EVENTS, 0);

	for (int i = 0; i < n; i++) { /* an endpoint is closed between looks only */
		struct tcp_ep *ep = e[i].data.ptr;

		if (ep->state == TCP_UP && e[i].events & ~(uint32_t)EPOLLOUT)
			ep_receive(ep);
	}
}

static void cq_look(struct tcp_cq *cq)
{
	gw_list_for_safe(l, &cq->sending)
		ep_push_out(gw_list_entry(l, struct tcp_ep, sending));
	gw_list_for_safe(l, &cq->ready) {
		struct tcp_ep *ep = gw_list_entry(l, struct tcp_ep, ready);

		if (!ep_unstage(ep))
			ep_lost(ep);
	}
	if (cq->head != cq->tail)
		return;
	if (cq->n_hot) {
		look_at_hot(cq);
		if (cq->n_hot == cq->n_up)
			return;
		cq->looks++;
		if (cq->looks % (cq->head != cq->tail ? OTHERS_TOO : OTHERS))
			return;
	} else if (cq->no_heat) {
		cq->no_heat--;
	}
	look_at_others(cq);
}

static ssize_t cq_read(struct fid_cq *fid, void *buf, size_t count)
{
	struct tcp_cq *cq = cq_of(fid);
	struct fi_cq_msg_entry *out = buf;
	size_t n = 0;

	if (cq->head == cq->tail) {
		cq_look(cq);
		if (cq->head == cq->tail)
			return -FI_EAGAIN;
	}
	for (; n < count && cq->head != cq->tail; n++, cq->head++) {
		const struct tcp_done *d = &cq->ring[cq->head & cq->mask];

		if (GW_UNLIKELY(d->err))
			return n ? (ssize_t)n : -FI_EAVAIL;
		out[n] = (struct fi_cq_msg_entry){ .op_context = d->context, .flags = d->flags, .len = d->len };
	}
	return (ssize_t)n;
}

static ssize_t cq_readerr(struct fid_cq *fid, struct fi_cq_err_entry *out, uint64_t flags)
{
	struct tcp_cq *cq = cq_of(fid);
	const struct tcp_done *d = &cq->ring[cq->head & cq->mask];

	(void)flags;
	if (cq->head == cq->tail || !d->err)
		return -FI_EAGAIN;
	out->op_context = d->context;
	out->flags = d->flags;
	out->err = d->err;
	cq->head++;
	return 1;
}

int noc_tcp_cq_try(struct tcp_cq *cq)
{
	if (cq->head != cq->tail)
		return -FI_EAGAIN;
	gw_list_for(l, &cq->ready) { /* what was read waits for a buffer; no socket will tell of it */
		struct tcp_ep *ep = gw_list_entry(l, struct tcp_ep, ready);

		if (ep->rx_head != ep->rx_tail)
			return -FI_EAGAIN;
	}
	cool_all(cq);
	gw_list_for(l, &cq->sending)
		ep_watch(gw_list_entry(l, struct tcp_ep, sending), EPOLLIN | EPOLLOUT);
	return 0;
}

static int cq_control(struct fid *fid, int command, void *arg)
{
	if (command != FI_GETWAIT)
		return -FI_ENOSYS;
	*(int *)arg = gw_container_of(fid, struct tcp_cq, fid.fid)->epfd;
	return 0;
}

static int cq_close(struct fid *fid)
{
	struct tcp_cq *cq = gw_container_of(fid, struct tcp_cq, fid.fid);

	if (cq->epfd >= 0)
		close(cq->epfd);
	free(cq->ring);
	free(cq);
	return 0;
}

static struct fi_ops cq_fid_ops = { .size = sizeof(struct fi_ops), .close = cq_close, .control = cq_control };
static struct fi_ops_cq cq_ops = { .size = sizeof(struct fi_ops_cq), .read = cq_read, .readerr = cq_readerr };

int noc_tcp_cq_open(struct fid_domain *d, struct fi_cq_attr *attr, struct fid_cq **out, void *context)
{
	struct tcp_cq *cq = calloc(1, sizeof(*cq));

	(void)d, (void)attr;
	if (!cq)
		return -FI_ENOMEM;
	cq->fid.fid = (struct fid){ .fclass = FI_CLASS_CQ, .context = context, .ops = &cq_fid_ops };
	cq->fid.ops = &cq_ops;
	gw_list_init(&cq->ready);
	gw_list_init(&cq->sending);
	cq->mask = 63;
	cq->ring = malloc((cq->mask + 1) * sizeof(*cq->ring));
	cq->epfd = noc_tcp_fd_above_standard(epoll_create1(EPOLL_CLOEXEC));
	if (!cq->ring || cq->epfd < 0) {
		int rc = cq->ring ? -errno : -FI_ENOMEM;

		cq_close(&cq->fid.fid);
		return rc;
	}
	*out = &cq->fid;
	return 0;
}

/* ---- endpoints ------------------------------------------------------------------------------------------------- */

void noc_tcp_ep_up(struct tcp_ep *ep)
{
	free(ep->word);
	ep->word = NULL;
	ep->state = TCP_UP;
	ep->cq->n_up++;
	ep_watch(ep, EPOLLIN);
}

static int ep_close(struct fid *fid)
{
	struct tcp_ep *ep = gw_container_of(fid, struct tcp_ep, fid.fid);

	if (ep->cq) {
		if (ep->state == TCP_UP)
			ep->cq->n_up--;
		ep_unlist(ep);
		ep_flush(ep, FI_ECANCELED);
	}
	if (ep->eq)
		noc_tcp_eq_forget(ep->eq, fid);
	if (ep->fd >= 0) {
		if (ep->state == TCP_CONNECTING || ep->state == TCP_ASKING)
			epoll_ctl(ep->eq->epfd, EPOLL_CTL_DEL, ep->fd, NULL);
		shutdown(ep->fd, SHUT_RDWR); /* a child of the program's may hold it until its exec */
		close(ep->fd);
	}
	free(ep->word);
	free(ep);
	return 0;
}

static int ep_bind(struct fid *fid, struct fid *to, uint64_t flags)
{
	struct tcp_ep *ep = gw_container_of(fid, struct tcp_ep, fid.fid);

	(void)flags;
	if (to->fclass == FI_CLASS_EQ)
		ep->eq = gw_container_of(to, struct tcp_eq, fid.fid);
	else
		ep->cq = gw_container_of(to, struct tcp_cq, fid.fid);
	return 0;
}

static int ep_control(struct fid *fid, int command, void *arg) /* fi_enable() */
{
	(void)fid, (void)command, (void)arg;
	return 0;
}

static struct fi_ops ep_fid_ops = { .size = sizeof(struct fi_ops), .close = ep_close, .bind = ep_bind, .control = ep_control };
static struct fi_ops_msg ep_msg = { .size = sizeof(struct fi_ops_msg), .recv = ep_recv, .sendmsg = ep_sendmsg,
                                    .inject = ep_inject };

int noc_tcp_ep_open(struct fid_domain *d, struct fi_info *info, struct fid_ep **out, void *context)
{
	struct tcp_ep *ep = malloc(sizeof(*ep)); /* its last pages are touched only when they are used */

	(void)d;
	if (!ep)
		return -FI_ENOMEM;
	memset(ep, 0, offsetof(struct tcp_ep, stage));
	ep->kind = TCP_EP;
	ep->fid.fid = (struct fid){ .fclass = FI_CLASS_EP, .context = context, .ops = &ep_fid_ops };
	ep->fid.cm = &noc_tcp_ep_cm;
	ep->fid.msg = &ep_msg;
	ep->fd = -1;
	gw_list_init(&ep->ready);
	gw_list_init(&ep->sending);
	if (info->src_addr)
		memcpy(&ep->from, info->src_addr, info->src_addrlen < sizeof(ep->from) ? info->src_addrlen : sizeof(ep->from));
	if (info->handle) { /* the stranger that FI_CONNREQ told of */
		struct tcp_stranger *s = gw_container_of(info->handle, struct tcp_stranger, fid);

		ep->fd = s->fd;
		gw_list_remove(&s->link);
		free(s);
		info->handle = NULL;
	}
	*out = &ep->fid;
	return 0;
}
