/* SPDX-License-Identifier: BSD-2-Clause */
/* Who is beside whom: a list of edges turned into a list of neighbours of each. For machine.c and comm.c. */
#ifndef RT_BALANCE_NEIGHBOURS_H
#define RT_BALANCE_NEIGHBOURS_H

#include <stddef.h>
#include <stdint.h>

struct neighbours { /* those of v: next[first[v]] to next[first[v + 1] - 1], each by the edge of the same index; in the order of edges */
	uint32_t *first, *next, *edge;
};

/**
 * neighbours_init - of @n nodes and @nedges edges, both ways
 * @ends: the two nodes of the first edge, beside each other; those of the next follow @stride bytes later
 * Return: 0, to be cleared by neighbours_fini(); -ENOMEM, nothing to clear
 */
int neighbours_init(struct neighbours *l, uint32_t n, uint32_t nedges, const uint32_t *ends, size_t stride);
void neighbours_fini(struct neighbours *l); /* zeroed is ok */

#endif
