/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine as a graph: clusters first, then switches. machine.c makes it, comm.c hands it to the partitioner. */
#ifndef RT_BALANCE_MACHINE_H
#define RT_BALANCE_MACHINE_H

#include "runtime/balance/balance.h"

#define BAL_DIMS_MAX     6
#define BAL_CLUSTERS_MAX 4096

struct bal_machine {
	uint32_t nclusters, nnodes; /* nodes: clusters, then switches */
	uint32_t nlaid;             /* clusters of the grid, torus or tree; others follow */
	uint32_t (*edges)[2], nedges, room;
	uint16_t *hops;             /* [nclusters][nclusters] */
	bool *is_service;           /* [nclusters] */
};

#endif
