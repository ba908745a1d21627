/* SPDX-License-Identifier: BSD-2-Clause */
/* Matching of receives and messages: classes of hash tables with queues of equal keys. */
#include "mpi-shim/match.h"

#include <string.h>

#include "container/agent.h"

#define FIRST_BITS 6 /* buckets of a new table, as a power of two */

static inline struct shim_unexp *unexp_of(struct shim_link *link, uint32_t class)
{
	return gw_container_of(link - class, struct shim_unexp, links[0]);
}

static inline struct shim_recv *recv_of(struct shim_link *link)
{
	return gw_container_of(link, struct shim_recv, link);
}

/* ---- tables ---------------------------------------------------------------------------------------------------- */

/* Fibonacci hashing: the high bits of a product with 2^64 / phi (Knuth, TAOCP 3, 6.4) spread runs of tags evenly. */
static inline struct shim_link **bucket_of(const struct shim_match_table *t, uint64_t tag, uint32_t src)
{
	uint64_t h = (tag ^ (src * 0xd6e8feb86659fd93u)) * 0x9e3779b97f4a7c15u;

	return &t->buckets[h >> t->shift];
}

/* Where the leader of a key is hung, or would be: *result is NULL when there is none. */
static inline struct shim_link **find(const struct shim_match_table *t, uint64_t tag, uint32_t src)
{
	struct shim_link **at = bucket_of(t, tag, src);

	while (*at && ((*at)->tag != tag || (*at)->src != src))
		at = &(*at)->hnext;
	return at;
}

/* Double the buckets. Without room for it the chains only grow longer. */
static void table_grow(struct shim_match_table *t)
{
	uint32_t old_count = 1u << (64 - t->shift);
	struct shim_match_table bigger = { .shift = t->shift - 1, .keys = t->keys };

	bigger.buckets = ct_area_zalloc(2 * old_count * sizeof(*bigger.buckets));
	if (!bigger.buckets)
		return;
	for (uint32_t i = 0; i < old_count; i++) {
		for (struct shim_link *link = t->buckets[i], *next; link; link = next) {
			struct shim_link **at = bucket_of(&bigger, link->tag, link->src);

			next = link->hnext;
			link->hnext = *at;
			*at = link;
		}
	}
	ct_area_free(t->buckets, old_count * sizeof(*t->buckets));
	*t = bigger;
}

static int table_init(struct shim_match_table *t)
{
	t->buckets = ct_area_zalloc(sizeof(*t->buckets) << FIRST_BITS);
	t->keys = 0;
	t->shift = 64 - FIRST_BITS;
	return t->buckets ? 0 : -ENOMEM;
}

static void table_fini(struct shim_match_table *t)
{
	if (t->buckets)
		ct_area_free(t->buckets, sizeof(*t->buckets) << (64 - t->shift));
	t->buckets = NULL;
}

/* Append to the queue of its key; tag and src are set. */
static void table_append(struct shim_match_table *t, struct shim_link *link)
{
	struct shim_link **at = find(t, link->tag, link->src), *leader = *at;

	link->next = NULL;
	if (leader) {
		link->state &= (uint8_t)~SHIM_LEADER;
		link->prev = leader->prev;
		leader->prev->next = link;
		leader->prev = link;
		return;
	}
	link->state |= SHIM_LEADER;
	link->prev = link;
	link->hnext = NULL;
	*at = link;
	if (++t->keys > 1u << (64 - t->shift))
		table_grow(t);
}

/* Take the leader that hangs at @at away; the next of its key becomes the leader. */
static inline void table_take(struct shim_match_table *t, struct shim_link **at)
{
	struct shim_link *leader = *at, *next = leader->next;

	if (next) {
		next->hnext = leader->hnext;
		next->prev = leader->prev; /* of itself when it is the last */
		next->state |= SHIM_LEADER;
		*at = next;
	} else {
		*at = leader->hnext;
		t->keys--;
	}
}

static void table_remove(struct shim_match_table *t, struct shim_link *link)
{
	if (link->state & SHIM_LEADER) {
		table_take(t, find(t, link->tag, link->src));
		return;
	}
	link->prev->next = link->next;
	if (link->next)
		link->next->prev = link->prev;
	else
		(*find(t, link->tag, link->src))->prev = link->prev;
}

/* ---- classes --------------------------------------------------------------------------------------------------- */

static void index_in(struct shim_match *m, struct shim_unexp *u, uint32_t class)
{
	struct shim_match_class *c = &m->class[class];
	struct shim_link *link = &u->links[class];

	link->tag = u->tag & ~c->ignore;
	link->src = c->is_any ? 0 : u->src;
	link->state = 0;
	table_append(&c->unexpected, link);
}

/* A class that nobody asked for yet: all messages that wait are indexed in it, in order of arrival. */
static uint32_t class_add(struct shim_match *m, uint64_t ignore, bool is_any)
{
	struct shim_match_class *c = &m->class[m->classes];

	if (m->classes == SHIM_MATCH_CLASSES)
		return SHIM_MATCH_OVERFLOW;
	if (table_init(&c->posted) || table_init(&c->unexpected)) {
		table_fini(&c->posted);
		return SHIM_MATCH_OVERFLOW;
	}
	c->ignore = ignore;
	c->is_any = is_any;
	c->receives = 0;
	for (struct shim_unexp *u = m->first; u; u = u->next)
		index_in(m, u, m->classes);
	return m->classes++;
}

static inline uint32_t class_of(struct shim_match *m, uint64_t ignore, bool is_any)
{
	for (uint32_t i = 0; i < m->classes; i++)
		if (m->class[i].ignore == ignore && m->class[i].is_any == is_any)
			return i;
	return class_add(m, ignore, is_any);
}

static struct shim_unexp *peek_in(struct shim_match *m, uint32_t class, uint32_t src, uint64_t tag, uint64_t ignore)
{
	struct shim_link *link;

	if (!m->unexpected)
		return NULL;
	if (class < SHIM_MATCH_CLASSES) {
		link = *find(&m->class[class].unexpected, tag & ~ignore, src == SHIM_ANY ? 0 : src);
		return link ? unexp_of(link, class) : NULL;
	}
	for (struct shim_unexp *u = m->first; u; u = u->next)
		if (((u->tag ^ tag) & ~ignore) == 0 && (src == SHIM_ANY || src == u->src))
			return u;
	return NULL;
}

/* ---- the overflow list: entries keep their source as it was given, SHIM_ANY included --------------------------- */

static void overflow_append(struct shim_match *m, struct shim_link *link)
{
	link->next = NULL;
	link->prev = m->overflow_last;
	if (m->overflow_last)
		m->overflow_last->next = link;
	else
		m->overflow_first = link;
	m->overflow_last = link;
	m->posted_mask |= 1u << SHIM_MATCH_OVERFLOW;
}

static void overflow_remove(struct shim_match *m, struct shim_link *link)
{
	if (link->prev)
		link->prev->next = link->next;
	else
		m->overflow_first = link->next;
	if (link->next)
		link->next->prev = link->prev;
	else
		m->overflow_last = link->prev;
	if (!m->overflow_first)
		m->posted_mask &= ~(1u << SHIM_MATCH_OVERFLOW);
}

static struct shim_link *overflow_find(struct shim_match *m, uint32_t src, uint64_t tag)
{
	for (struct shim_link *link = m->overflow_first; link; link = link->next)
		if (((link->tag ^ tag) & ~link->ignore) == 0 && (link->src == SHIM_ANY || link->src == src))
			return link;
	return NULL;
}

/* ---- the few: entries keep tag and source as they were given, SHIM_ANY included -------------------------------- */

static inline void few_remove(struct shim_match *m, uint32_t i)
{
	m->posted--;
	m->few_count--;
	for (; i < m->few_count; i++)
		m->few[i] = m->few[i + 1];
}

static inline struct shim_recv *few_take(struct shim_match *m, uint32_t src, uint64_t tag)
{
	for (uint32_t i = 0; i < m->few_count; i++) {
		struct shim_recv *r = m->few[i];

		if (((r->link.tag ^ tag) & ~r->link.ignore) == 0 && (r->link.src == src || r->link.src == SHIM_ANY)) {
			few_remove(m, i);
			r->link.state &= (uint8_t)~SHIM_POSTED;
			return r;
		}
	}
	return NULL;
}

/* ---- verbs ----------------------------------------------------------------------------------------------------- */

void shim_match_init(struct shim_match *m)
{
	memset(m, 0, sizeof(*m));
}

void shim_match_fini(struct shim_match *m)
{
	for (uint32_t i = 0; i < m->classes; i++) {
		table_fini(&m->class[i].posted);
		table_fini(&m->class[i].unexpected);
	}
	memset(m, 0, sizeof(*m));
}

/* Into the table of @class, where no message waits for it */
static void post_in(struct shim_match *m, uint32_t class, struct shim_recv *r, uint32_t src, uint64_t tag, uint64_t ignore)
{
	struct shim_match_class *c;

	r->link.class = (uint8_t)class;
	if (GW_UNLIKELY(class == SHIM_MATCH_OVERFLOW)) {
		r->link.tag = tag;
		r->link.src = src;
		r->link.ignore = ignore;
		overflow_append(m, &r->link);
		return;
	}
	c = &m->class[class];
	r->link.tag = tag & ~ignore;
	r->link.src = src == SHIM_ANY ? 0 : src;
	table_append(&c->posted, &r->link);
	if (c->receives++ == 0)
		m->posted_mask |= 1u << class;
}

/* One more than the few: all of them to the tables. */
static void few_spill(struct shim_match *m)
{
	for (uint32_t i = 0; i < m->few_count; i++) {
		struct shim_recv *r = m->few[i];
		uint64_t ignore = r->link.ignore;
		uint32_t src = r->link.src;

		post_in(m, class_of(m, ignore, src == SHIM_ANY), r, src, r->link.tag, ignore);
	}
	m->few_count = 0;
}

struct shim_unexp *shim_match_post(struct shim_match *m, struct shim_recv *r, uint32_t src, uint64_t tag,
                                   uint64_t ignore)
{
	if (GW_UNLIKELY(m->unexpected)) {
		struct shim_unexp *u = shim_match_peek(m, src, tag, ignore);

		if (u) {
			shim_match_remove(m, u);
			return u;
		}
	}
	r->seq = m->next_seq++;
	r->link.state |= SHIM_POSTED;
	if (GW_LIKELY(m->posted++ == m->few_count)) {
		if (GW_LIKELY(m->few_count < SHIM_MATCH_FEW)) {
			r->link.class = SHIM_MATCH_AMONG_FEW;
			r->link.tag = tag;
			r->link.src = src;
			r->link.ignore = ignore;
			m->few[m->few_count++] = r;
			return NULL;
		}
		few_spill(m);
	}
	post_in(m, class_of(m, ignore, src == SHIM_ANY), r, src, tag, ignore);
	return NULL;
}

static inline void class_took(struct shim_match *m, uint32_t class)
{
	if (--m->class[class].receives == 0)
		m->posted_mask &= ~(1u << class);
}

static inline struct shim_link **find_posted(const struct shim_match_class *c, uint32_t src, uint64_t tag)
{
	return find(&c->posted, tag & ~c->ignore, c->is_any ? 0 : src);
}

/* The receive that hangs at @at has got its message. */
static inline struct shim_recv *take_posted(struct shim_match *m, struct shim_link **at)
{
	struct shim_link *link = *at;

	table_take(&m->class[link->class].posted, at);
	class_took(m, link->class);
	m->posted--;
	link->state &= (uint8_t)~(SHIM_POSTED | SHIM_LEADER);
	return recv_of(link);
}

/* Receives of several classes, or in the overflow list: the one posted first. */
static struct shim_recv *arrive_among_many(struct shim_match *m, uint32_t src, uint64_t tag)
{
	struct shim_link **best_at = NULL, *best = NULL, *link;

	for (uint32_t mask = m->posted_mask & ((1u << SHIM_MATCH_OVERFLOW) - 1); mask; mask &= mask - 1) {
		struct shim_link **at = find_posted(&m->class[__builtin_ctz(mask)], src, tag);

		if (*at && (!best || recv_of(*at)->seq < recv_of(best)->seq)) {
			best_at = at;
			best = *at;
		}
	}
	if (m->posted_mask >> SHIM_MATCH_OVERFLOW) {
		link = overflow_find(m, src, tag);
		if (link && (!best || recv_of(link)->seq < recv_of(best)->seq)) {
			overflow_remove(m, link);
			m->posted--;
			link->state &= (uint8_t)~SHIM_POSTED;
			return recv_of(link);
		}
	}
	return best ? take_posted(m, best_at) : NULL;
}

struct shim_recv *shim_match_arrive(struct shim_match *m, uint32_t src, uint64_t tag)
{
	uint32_t mask = m->posted_mask;
	struct shim_link **at;

	if (m->few_count)
		return few_take(m, src, tag);
	if (GW_UNLIKELY((mask & (mask - 1)) || mask >> SHIM_MATCH_OVERFLOW))
		return arrive_among_many(m, src, tag);
	if (!mask)
		return NULL;
	at = find_posted(&m->class[__builtin_ctz(mask)], src, tag);
	return *at ? take_posted(m, at) : NULL;
}

void shim_match_keep(struct shim_match *m, struct shim_unexp *u)
{
	u->next = NULL;
	u->prev = m->last;
	if (m->last)
		m->last->next = u;
	else
		m->first = u;
	m->last = u;
	m->unexpected++;
	for (uint32_t i = 0; i < m->classes; i++)
		index_in(m, u, i);
}

struct shim_unexp *shim_match_peek(struct shim_match *m, uint32_t src, uint64_t tag, uint64_t ignore)
{
	return peek_in(m, class_of(m, ignore, src == SHIM_ANY), src, tag, ignore);
}

void shim_match_remove(struct shim_match *m, struct shim_unexp *u)
{
	for (uint32_t i = 0; i < m->classes; i++)
		table_remove(&m->class[i].unexpected, &u->links[i]);
	if (u->prev)
		u->prev->next = u->next;
	else
		m->first = u->next;
	if (u->next)
		u->next->prev = u->prev;
	else
		m->last = u->prev;
	m->unexpected--;
}

bool shim_match_cancel(struct shim_match *m, struct shim_recv *r)
{
	if (!(r->link.state & SHIM_POSTED))
		return false;
	if (r->link.class == SHIM_MATCH_AMONG_FEW) {
		uint32_t i = 0;

		while (m->few[i] != r)
			i++;
		few_remove(m, i);
		r->link.state &= (uint8_t)~SHIM_POSTED;
		return true;
	}
	if (r->link.class == SHIM_MATCH_OVERFLOW) {
		overflow_remove(m, &r->link);
	} else {
		table_remove(&m->class[r->link.class].posted, &r->link);
		class_took(m, r->link.class);
	}
	m->posted--;
	r->link.state &= (uint8_t)~(SHIM_POSTED | SHIM_LEADER);
	return true;
}
