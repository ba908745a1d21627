/* SPDX-License-Identifier: BSD-2-Clause */
/* At most so many connections (rule 14), and which of them goes for another; see conn.h. */
#include "noc/conn.h"

#include <stdlib.h>
#include <sys/resource.h>

#define FDS_OTHER  64u             /* descriptors that are left to the program in any case */
#define UNPROVED_EACH 2u           /* connections in one peer's name that are not proved; for another the oldest goes */

uint32_t noc_conns_max; /* process-wide, of the environment: it is the same after a move */

void noc_conns_max_find(void)
{
	const char *s = getenv("GODWIT_CONNECTIONS");
	struct rlimit files = { .rlim_cur = 1024 };
	unsigned long n = s ? strtoul(s, NULL, 10) : 0;

	if (noc_conns_max)
		return;
	getrlimit(RLIMIT_NOFILE, &files);
	noc_conns_max = files.rlim_cur > 1u << 20 ? 1u << 19 : files.rlim_cur > FDS_OTHER ? (uint32_t)(files.rlim_cur - FDS_OTHER) / 2 : 0;
	if (noc_conns_max < CONNS_MIN)
		noc_conns_max = CONNS_MIN;
	if (n >= 1 && n < noc_conns_max)
		noc_conns_max = (uint32_t)n;
	else if (s && *s)
		gw_log(GW_WARN, "noc: GODWIT_CONNECTIONS=%s is not a number from 1 to %u, half of what 'ulimit -n' allows; a rank opens "
		       "up to %u connections", s, noc_conns_max, noc_conns_max);
}

static uint32_t conns_count(bool is_up)
{
	uint32_t n = 0;

	gw_list_for(l, &noc_fabric.conns)
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

	gw_list_for(l, &noc_fabric.conns) {
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
int noc_conns_make_room(const struct noc_conn *but, uint32_t more)
{
	if (noc_fabric.is_making_room)
		return -EAGAIN; /* a word about a transfer whose connection is just being closed */
	while (conns_count(true) + conns_count(false) * (more > 0) + more > noc_conns_max) {
		struct noc_conn *c = conn_to_close(but);

		if (!c)
			return -EAGAIN;
		noc_me->counters.shed++;
		noc_fabric.is_making_room = true;
		noc_conn_lost(c);
		noc_fabric.is_making_room = false;
	}
	return 0;
}

/* The oldest that is accepted and not proved, of @p or (NULL) of all; *n: how many there are. */
static struct noc_conn *unproved_oldest(const struct noc_peer *p, uint32_t *n)
{
	struct noc_conn *oldest = NULL;

	*n = 0;
	gw_list_for(l, &noc_fabric.conns) {
		struct noc_conn *c = gw_list_entry(l, struct noc_conn, link);

		if (c->state != CONN_ACCEPTING || (p && c->peer != p))
			continue;
		++*n;
		if (!oldest || c->since_ns < oldest->since_ns)
			oldest = c;
	}
	return oldest;
}

/* Who is connecting to us proves it soon; but somebody may greet in its name for ever, and we would never connect ourselves. */
void noc_conns_drop_unproved(struct noc_peer *p)
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
			noc_conn_silent(c);
		p->held_ns = 0;
	}
}

/* Somebody who knows a peer's name but not the secret may greet as often as he likes. A peer proves itself in milliseconds. */
static bool unproved_have_room(const struct noc_peer *p)
{
	struct noc_conn *oldest;
	uint32_t n;

	while ((oldest = unproved_oldest(p, &n)) && n >= UNPROVED_EACH)
		noc_conn_lost(oldest);
	if (conns_count(false) < noc_conns_max)
		return true;
	oldest = unproved_oldest(NULL, &n);
	if (!oldest || gw_now_ns() - oldest->since_ns < HOLD_NS)
		return false;
	noc_conn_lost(oldest);
	return true;
}

bool noc_conns_may_come(const struct noc_peer *p, bool is_known)
{
	/* nothing that is proved is closed for whom nobody knows: that waits until it is proved */
	return unproved_have_room(p) && (is_known || conns_count(true) < noc_conns_max || conn_to_close(NULL));
}
