/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory on its way over a slow link: packed by lz4 where that is faster, or takes less of a link that is bounded.
 *
 * Only a link that holds us up is measured: what it takes away between two frames while its socket is full. To a daemon of the same host
 * nothing is packed but by '--bandwidth', which bounds bytes of the link, not of memory. Each frame is tried; of memory that does not shrink
 * fewer and fewer frames are. One that has not shrunk by an eighth goes as it is.
 */
#include "migration/session.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define LEAST     16384u        /* bytes of a frame that is tried */
#define FULL      (512 << 10)   /* bytes in a socket that the link has not taken: we wait for it */
#define LINK_MAX  400000000ull  /* bytes a second: a faster link is never the bottleneck, one core at either end is */
#define WINDOW_NS 2000000ull    /* of a measurement, at least */
#define STALE     (16u << 20)   /* bytes sent since a measurement, after which it does not count */
#define REST_MAX  16u           /* frames */

/* Microseconds in which the other daemon's socket had no room; what is on its way to it, or lies in a queue of the link */
static void look_there(int fd, int queued, uint64_t *shut_us, int *on_its_way)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	int unsent = 0;

	*shut_us = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_rwnd_limited : 0;
	*on_its_way = ioctl(fd, SIOCOUTQNSD, &unsent) == 0 ? queued - unsent : queued;
}

/* What the link takes away while it holds us up; what is known stays known while packed frames do not fill it, but not for ever: a link is
 * slow at first, too. A daemon that does not get to read, as on a busy host, is no slow link: its socket is full, and little is on its way. */
static void measure(struct mig_session *s)
{
	struct mig_pack *p = &s->pack;
	uint64_t now = gw_now_ns(), gone, shut_us;
	int queued = 0, on_its_way;

	if (!p->is_far || !s->peer || ioctl(gw_link_fd(s->peer->link), SIOCOUTQ, &queued) < 0)
		return;
	gone = p->wire > (uint64_t)queued ? p->wire - (uint64_t)queued : 0;
	if (queued < FULL) {
		p->since_ns = 0;
		if (p->rest || p->wire - p->told_at > STALE)
			p->rate = 0;
		return;
	}
	if (p->since_ns && now - p->since_ns < WINDOW_NS)
		return;
	look_there(gw_link_fd(s->peer->link), queued, &shut_us, &on_its_way);
	if (p->since_ns && on_its_way < FULL && (shut_us - p->shut_us) * 2000 > now - p->since_ns)
		p->rate = 0;
	else if (p->since_ns)
		p->rate = (uint64_t)((double)(gone - p->gone) * 1e9 / (double)(now - p->since_ns));
	p->since_ns = now;
	p->gone = gone;
	p->shut_us = shut_us;
	p->told_at = p->wire;
}

/* Bytes a second of the link that we may, or can, take; 0: as many as we make */
static uint64_t link_rate(const struct mig_session *s)
{
	uint64_t measured = s->pack.rate, bound = s->state == MIG_PRECOPY || s->state == MIG_SERVE ? s->how.bandwidth : 0;

	return bound && (!measured || bound < measured) ? bound : measured;
}

/* Of a core. Where the bandwidth is bounded it does not count that another program has it now and then. */
static uint64_t core_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t try_it(struct mig_session *s, uint16_t type, const void *bytes, size_t len, uint64_t rate)
{
	struct mig_pack *p = &s->pack;
	struct mig *m = s->m;
	uint64_t core = core_ns(), begun = gw_now_ns();
	size_t n;

	if (!m->packed && !(m->packed = malloc(MIG_CHUNK)))
		return 0;
	n = mig_pack(type, bytes, len, m->packed, len - len / 8 < MIG_CHUNK ? len - len / 8 : MIG_CHUNK);
	p->tried += len;
	p->core_ns += core_ns() - core;
	p->took_ns += gw_now_ns() - begun;
	if (n && (double)p->tried * 1e9 > 1.25 * (double)rate * (double)(rate == p->rate ? p->took_ns : p->core_ns)) {
		p->rest = 0;
		return n;
	}
	p->rest = !p->rest ? 1 : p->rest < REST_MAX ? 2 * p->rest : REST_MAX;
	p->resting = p->rest;
	return 0;
}

int mig_send_memory(struct mig_session *s, uint16_t type, const void *bytes, size_t len)
{
	struct mig_pack *p = &s->pack;
	enum gw_fault_action fault;
	uint64_t rate;
	size_t n = 0;

	if (len >= LEAST && !s->how.is_plain)
		measure(s);
	rate = link_rate(s);
	if (!s->how.is_plain && (s->t.there_prepared.knows & MIG_KNOWS_PACKED) && rate && rate < LINK_MAX && len >= LEAST) {
		if (p->resting)
			p->resting--;
		else
			n = try_it(s, type, bytes, len, rate);
	}
	if (!n) {
		p->wire += len;
		return mig_send_raw(s, type, bytes, len);
	}
	p->wire += n;
	p->saved += len - n;
	fault = gw_fault("mig.src.packed");
	if (fault == GW_FAULT_FAIL) /* as if it were damaged on its way */
		s->m->packed[n / 2] ^= 0x10;
	if (fault == GW_FAULT_CUT) {
		mig_disconnect(s);
		mig_post(s, MIG_EV_PEER_LOST, -ECONNRESET, "a test cut the connection at 'mig.src.packed'");
		return -EPIPE;
	}
	return mig_send_raw(s, MIG_F_PACKED, s->m->packed, n);
}

/* At the destination: to the daemon's buffer. Return: bytes; -EBADMSG */
int mig_take_memory(struct mig_session *s, const void *payload, size_t len, uint16_t *type, struct gw_error *why)
{
	struct mig *m = s->m;

	if (!m->packed && !(m->packed = malloc(MIG_CHUNK)))
		return gw_fail(why, -ENOMEM, "no memory to unpack what came");
	return mig_unpack(payload, len, m->packed, MIG_CHUNK, type, why);
}
