/* SPDX-License-Identifier: BSD-2-Clause */
/* A placement under way: bins, who is in them, and the steps that all strategies share. */
#include "runtime/balance/inner.h"

#include <math.h>
#include <stdlib.h>

static const struct work *sorting; /* qsort has no argument; one thread decides */

static int by_load(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
	double la = load_of(sorting, a), lb = load_of(sorting, b);

	return la > lb ? -1 : la < lb ? 1 : a < b ? -1 : a > b;
}

int work_init(struct work *w, const struct bal_snapshot *s, const struct bal_options *o)
{
	*w = (struct work){ .s = s, .o = o };
	w->bins = calloc(s->ndomains + 1, sizeof(*w->bins));
	w->lists = calloc(s->ndomains + 1, sizeof(*w->lists));
	w->at = malloc((s->nranks + 1) * sizeof(*w->at));
	w->order = malloc((s->nranks + 1) * sizeof(*w->order));
	w->cluster_ranks = malloc((s->nclusters + 1) * sizeof(*w->cluster_ranks));
	w->cluster_room = malloc((s->nclusters + 1) * sizeof(*w->cluster_room));
	w->first = calloc(s->ndomains + 2, sizeof(*w->first));
	w->members = malloc((s->nclusters + 1) * sizeof(*w->members));
	w->is_fixed = malloc((s->nranks + 1) * sizeof(*w->is_fixed));
	if (!w->bins || !w->lists || !w->at || !w->order || !w->cluster_ranks || !w->cluster_room || !w->first || !w->members ||
	    !w->is_fixed)
		goto nomem;
	for (uint32_t c = 0; c < s->nclusters; c++)
		w->first[s->clusters[c].domain + 1]++;
	for (uint32_t d = 0; d < s->ndomains; d++)
		w->first[d + 1] += w->first[d];
	for (uint32_t c = s->nclusters; c-- > 0; ) { /* from behind: members come in order, and first[] slides to where it belongs */
		uint32_t d = s->clusters[c].domain;

		w->members[--w->first[d + 1]] = c;
	}
	for (uint32_t d = 0; d < s->ndomains; d++)
		w->first[d] = w->first[d + 1];
	w->first[s->ndomains] = s->nclusters;
	for (uint32_t r = 0; r < s->nranks; r++) {
		const struct bal_rank *rank = &s->ranks[r];

		w->is_fixed[r] = rank->is_fixed || (rank->rested_s < o->rest_s && !s->clusters[rank->cluster].is_closed);
		w->order[r] = r;
	}
	sorting = w;
	qsort(w->order, s->nranks, sizeof(*w->order), by_load);
	for (uint32_t d = 0; d < s->ndomains; d++) {
		w->lists[d].room = s->nranks / (s->ndomains ? s->ndomains : 1) + 8;
		w->lists[d].v = malloc(w->lists[d].room * sizeof(uint32_t));
		if (!w->lists[d].v)
			goto nomem;
	}
	work_reset(w, NULL);
	return 0;
nomem:
	work_fini(w);
	return -ENOMEM;
}

void work_fini(struct work *w)
{
	for (uint32_t d = 0; w->lists && d < w->s->ndomains; d++)
		free(w->lists[d].v);
	free(w->bins);
	free(w->lists);
	free(w->at);
	free(w->order);
	free(w->cluster_ranks);
	free(w->cluster_room);
	free(w->first);
	free(w->members);
	free(w->is_fixed);
	*w = (struct work){ 0 };
}

/* Where a rank is, or belongs, in a list: the heaviest first, equal ones by index. */
static uint32_t list_find(const struct work *w, const struct ranks *l, uint32_t rank)
{
	uint32_t low = 0, high = l->n;
	double load = load_of(w, rank);

	while (low < high) {
		uint32_t mid = (low + high) / 2;
		double other = load_of(w, l->v[mid]);

		if (other > load || (other == load && l->v[mid] < rank))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* A list that cannot grow leaves the rank out: it then stays where it is, which is always a right placement. */
static void list_insert(const struct work *w, struct ranks *l, uint32_t rank)
{
	uint32_t i;

	if (l->n == l->room) {
		uint32_t *more = realloc(l->v, 2 * l->room * sizeof(*more));

		if (!more)
			return;
		l->v = more;
		l->room *= 2;
	}
	i = list_find(w, l, rank);
	memmove(l->v + i + 1, l->v + i, (l->n - i) * sizeof(*l->v));
	l->v[i] = rank;
	l->n++;
}

static void list_remove(const struct work *w, struct ranks *l, uint32_t rank)
{
	uint32_t i = list_find(w, l, rank);

	if (i == l->n || l->v[i] != rank)
		return;
	memmove(l->v + i, l->v + i + 1, (l->n - i - 1) * sizeof(*l->v));
	l->n--;
}

void work_reset(struct work *w, const uint32_t *at)
{
	const struct bal_snapshot *s = w->s;

	for (uint32_t d = 0; d < s->ndomains; d++) {
		w->bins[d] = (struct bin){ .room = room_of(&s->domains[d]), .speed = s->domains[d].speed };
		w->lists[d].n = 0;
	}
	for (uint32_t c = 0; c < s->nclusters; c++) {
		w->cluster_ranks[c] = 0;
		w->cluster_room[c] = s->clusters[c].memory_bytes;
		w->bins[s->clusters[c].domain].open += !s->clusters[c].is_closed;
	}
	w->widest = w->cost = 0;
	w->moves = 0;
	for (uint32_t i = 0; i < s->nranks; i++) {
		uint32_t r = w->order[i], to = at ? at[r] : s->ranks[r].cluster, d = s->clusters[to].domain;

		w->at[r] = to;
		w->cluster_ranks[to]++;
		if (to != s->ranks[r].cluster) {
			w->cost += s->ranks[r].move_s;
			w->moves++;
			w->cluster_room[to] -= s->ranks[r].memory_bytes;
			w->cluster_room[s->ranks[r].cluster] += s->ranks[r].memory_bytes;
		}
		w->bins[d].load += load_of(w, r);
		if (!w->is_fixed[r])
			list_insert(w, &w->lists[d], r); /* comes in order: at the end */
	}
	for (uint32_t r = 0; r < s->nranks; r++) {
		const struct bin *b = &w->bins[domain_of(w, r)];
		double width = fmin(s->ranks[r].width, s->domains[domain_of(w, r)].cores);

		w->widest = fmax(w->widest, s->ranks[r].load / (b->speed * fmax(width, 1)));
	}
}

void work_move(struct work *w, uint32_t rank, uint32_t cluster)
{
	const struct bal_snapshot *s = w->s;
	uint32_t from = w->at[rank], df = s->clusters[from].domain, dt = s->clusters[cluster].domain;

	if (from == cluster)
		return;
	w->cluster_ranks[from]--;
	w->cluster_ranks[cluster]++;
	w->cluster_room[from] += s->ranks[rank].memory_bytes;
	w->cluster_room[cluster] -= s->ranks[rank].memory_bytes;
	if (from == s->ranks[rank].cluster) {
		w->cost += s->ranks[rank].move_s;
		w->moves++;
	} else if (cluster == s->ranks[rank].cluster) {
		w->cost -= s->ranks[rank].move_s;
		w->moves--;
	}
	w->at[rank] = cluster;
	if (df == dt)
		return;
	w->bins[df].load -= load_of(w, rank);
	w->bins[dt].load += load_of(w, rank);
	list_remove(w, &w->lists[df], rank);
	list_insert(w, &w->lists[dt], rank);
}

uint32_t work_place(const struct work *w, uint32_t rank, uint32_t domain)
{
	const struct bal_snapshot *s = w->s;
	uint32_t home = s->ranks[rank].cluster, best = BAL_NONE;

	if (s->clusters[home].domain == domain && !s->clusters[home].is_closed)
		return home;
	if (domain_of(w, rank) == domain && !s->clusters[w->at[rank]].is_closed)
		return w->at[rank];
	for (uint32_t i = w->first[domain]; i < w->first[domain + 1]; i++) {
		uint32_t c = w->members[i];

		if (s->clusters[c].is_closed || w->cluster_room[c] < s->ranks[rank].memory_bytes)
			continue;
		if (best == BAL_NONE || w->cluster_ranks[c] < w->cluster_ranks[best])
			best = c;
	}
	return best;
}

double work_peak(const struct work *w, uint32_t *which)
{
	double peak = 0;
	uint32_t fullest = 0;

	for (uint32_t d = 0; d < w->s->ndomains; d++)
		if (bin_height(&w->bins[d]) > peak) {
			peak = bin_height(&w->bins[d]);
			fullest = d;
		}
	if (which)
		*which = fullest;
	return fmax(peak, w->widest);
}

/* ---- heap --------------------------------------------------------------------------------------------------------------- */

static bool is_below(const struct heap *h, uint32_t i, uint32_t j)
{
	double a = bin_height(&h->w->bins[h->bins[i]]), b = bin_height(&h->w->bins[h->bins[j]]);

	return a < b || (a == b && h->bins[i] < h->bins[j]);
}

static void exchange(struct heap *h, uint32_t i, uint32_t j)
{
	uint32_t bin = h->bins[i];

	h->bins[i] = h->bins[j];
	h->bins[j] = bin;
	h->place[h->bins[i]] = i;
	h->place[h->bins[j]] = j;
}

void heap_update(struct heap *h, uint32_t bin)
{
	uint32_t i = h->place[bin];

	if (i == BAL_NONE)
		return;
	for (; i > 0 && is_below(h, i, (i - 1) / 2); i = (i - 1) / 2)
		exchange(h, i, (i - 1) / 2);
	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child + 1 < h->count && is_below(h, child + 1, child))
			child++;
		if (child >= h->count || !is_below(h, child, i))
			return;
		exchange(h, i, child);
		i = child;
	}
}

int heap_init(struct heap *h, const struct work *w)
{
	*h = (struct heap){ .w = w };
	h->bins = malloc((w->s->ndomains + 1) * sizeof(*h->bins));
	h->place = malloc((w->s->ndomains + 1) * sizeof(*h->place));
	if (!h->bins || !h->place) {
		heap_fini(h);
		return -ENOMEM;
	}
	for (uint32_t d = 0; d < w->s->ndomains; d++) {
		h->place[d] = BAL_NONE;
		if (w->bins[d].open == 0)
			continue;
		h->place[d] = h->count;
		h->bins[h->count++] = d;
		heap_update(h, d);
	}
	return 0;
}

void heap_fini(struct heap *h)
{
	free(h->bins);
	free(h->place);
	*h = (struct heap){ 0 };
}

/* ---- steps that strategies share ------------------------------------------------------------------------------------------ */

/* The least full bin that has a place for a rank. The top of the heap nearly always has. */
static uint32_t somewhere(const struct heap *h, uint32_t rank)
{
	uint32_t best = BAL_NONE, at;
	double least = INFINITY;

	if (h->count == 0)
		return BAL_NONE;
	at = work_place(h->w, rank, h->bins[0]);
	if (at != BAL_NONE)
		return at;
	for (uint32_t i = 1; i < h->count; i++) {
		double height = bin_height(&h->w->bins[h->bins[i]]);

		if (height >= least)
			continue;
		at = work_place(h->w, rank, h->bins[i]);
		if (at != BAL_NONE) {
			least = height;
			best = at;
		}
	}
	return best;
}

int work_evacuate(struct work *w, struct gw_error *why)
{
	const struct bal_snapshot *s = w->s;
	struct heap h;
	int rc = heap_init(&h, w);

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->nranks; i++) {
		uint32_t r = w->order[i], from = w->at[r], to;

		if (!s->clusters[from].is_closed || w->is_fixed[r])
			continue;
		to = somewhere(&h, r);
		if (to == BAL_NONE) {
			rc = gw_fail(why, -ENOSPC, "rank %u has to leave cluster %u, and no other cluster has room for its %.0f MiB; "
			             "add a host with 'godwit add', or undrain one", s->ranks[r].proc, s->clusters[from].number,
			             s->ranks[r].memory_bytes / 1048576);
			break;
		}
		work_move(w, r, to);
		heap_update(&h, s->clusters[from].domain);
		heap_update(&h, s->clusters[to].domain);
	}
	heap_fini(&h);
	return rc;
}

/* What exchanging two ranks, or moving one (@b: BAL_NONE), would make the higher of two bins. */
static double higher_of(const struct work *w, uint32_t x, uint32_t y, uint32_t a, uint32_t b)
{
	double delta = load_of(w, a) - (b == BAL_NONE ? 0 : load_of(w, b));

	return fmax((w->bins[x].load - delta) / w->bins[x].room, (w->bins[y].load + delta) / w->bins[y].room);
}

#define IMPROVE_BINS 8 /* of the least full ones are looked at in each step */

struct undo { uint32_t rank, cluster; };

static void improve_by(struct work *w, struct undo *done, uint32_t *ndone, uint32_t rank, uint32_t domain)
{
	done[(*ndone)++] = (struct undo){ rank, w->at[rank] };
	work_move(w, rank, work_place(w, rank, domain));
}

void work_improve(struct work *w)
{
	uint32_t steps = 4 * w->s->ndomains + 16, ndone = 0, kept = 0;
	gw_autofree struct undo *done = malloc(2 * (size_t)steps * sizeof(*done));
	double best_value = -w->o->horizon_s * work_peak(w, NULL) - w->cost;
	struct heap h;

	if (!done || heap_init(&h, w) < 0)
		return;
	while (steps-- > 0) {
		uint32_t x, best_a = BAL_NONE, best_b = BAL_NONE, best_y = BAL_NONE;
		double peak, best, value;

		work_peak(w, &x);
		peak = bin_height(&w->bins[x]);
		best = peak * (1 - 1e-9);
		for (uint32_t i = 0; i < h.count && i < IMPROVE_BINS; i++) {
			uint32_t y = h.bins[i];
			const struct ranks *lx = &w->lists[x], *ly = &w->lists[y];

			if (y == x)
				continue;
			for (uint32_t k = 0, j = 0; k < lx->n; k++) {
				uint32_t a = lx->v[k];
				double high = higher_of(w, x, y, a, BAL_NONE);
				/* the exchange that levels the two best: delta is half of what is between them */
				double want = load_of(w, a) - (peak - bin_height(&w->bins[y])) /
				              (1 / w->bins[x].room + 1 / w->bins[y].room);

				if (high < best && work_place(w, a, y) != BAL_NONE) {
					best = high;
					best_a = a;
					best_b = BAL_NONE;
					best_y = y;
				}
				while (j < ly->n && load_of(w, ly->v[j]) > want)
					j++;
				for (uint32_t m = j > 0 ? j - 1 : 0; m < ly->n && m <= j; m++) {
					uint32_t b = ly->v[m];

					high = higher_of(w, x, y, a, b);
					if (high < best && w->bins[x].open && work_place(w, a, y) != BAL_NONE &&
					    work_place(w, b, x) != BAL_NONE) {
						best = high;
						best_a = a;
						best_b = b;
						best_y = y;
					}
				}
			}
		}
		if (best_a == BAL_NONE)
			break;
		if (best_b != BAL_NONE)
			improve_by(w, done, &ndone, best_b, x);
		improve_by(w, done, &ndone, best_a, best_y);
		heap_update(&h, x);
		heap_update(&h, best_y);
		value = -w->o->horizon_s * work_peak(w, NULL) - w->cost;
		if (value > best_value) {
			best_value = value;
			kept = ndone;
		}
	}
	while (ndone > kept) {
		ndone--;
		work_move(w, done[ndone].rank, done[ndone].cluster);
	}
	heap_fini(&h);
}
