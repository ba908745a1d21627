/* SPDX-License-Identifier: BSD-2-Clause */
/* Lists of neighbours, by counting how many each has. */
#include "runtime/balance/neighbours.h"

#include <errno.h>
#include <stdlib.h>

static const uint32_t *ends_of(const uint32_t *ends, size_t stride, uint32_t edge)
{
	return (const uint32_t *)((const char *)ends + edge * stride);
}

int neighbours_init(struct neighbours *l, uint32_t n, uint32_t nedges, const uint32_t *ends, size_t stride)
{
	l->first = calloc((size_t)n + 2, sizeof(*l->first));
	l->next = malloc((2 * (size_t)nedges + 1) * sizeof(*l->next));
	l->edge = malloc((2 * (size_t)nedges + 1) * sizeof(*l->edge));
	if (!l->first || !l->next || !l->edge) {
		neighbours_fini(l);
		return -ENOMEM;
	}
	for (uint32_t e = 0; e < nedges; e++)
		for (int side = 0; side < 2; side++)
			l->first[ends_of(ends, stride, e)[side] + 2]++;
	for (uint32_t v = 0; v < n; v++)
		l->first[v + 2] += l->first[v + 1];
	/* first[v + 1] is now where v begins; filling v's list takes it to where v ends, and v + 1 begins */
	for (uint32_t e = 0; e < nedges; e++)
		for (int side = 0; side < 2; side++) {
			const uint32_t *two = ends_of(ends, stride, e);
			uint32_t i = l->first[two[side] + 1]++;

			l->next[i] = two[!side];
			l->edge[i] = e;
		}
	return 0;
}

void neighbours_fini(struct neighbours *l)
{
	free(l->first);
	free(l->next);
	free(l->edge);
	*l = (struct neighbours){ 0 };
}
