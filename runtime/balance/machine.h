/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine as graphs: clusters first, then switches. machine.c and machine_file.c make it, comm.c hands it to the partitioner. */
#ifndef RT_BALANCE_MACHINE_H
#define RT_BALANCE_MACHINE_H

#include "runtime/balance/balance.h"

#define BAL_DIMS_MAX     6
#define BAL_CLUSTERS_MAX 4096
#define BAL_NODES_MAX    16384 /* clusters and switches of a network */

struct bal_network {
	uint32_t nclusters, nnodes; /* nodes: clusters, then switches */
	uint32_t (*edges)[2], nedges, room;
	uint16_t *hops;             /* [nclusters][nclusters] */
};

struct bal_machine {
	uint32_t nclusters, ncompute;
	struct bal_network data;    /* between ranks */
	struct bal_network control; /* to services; without hops: the same */
	bool *is_service;           /* [nclusters] */
	uint32_t *cores;            /* [nclusters]: as the file says; NULL: it does not */
	double link_bytes_s, message_s; /* of a link; 0: it does not say */
};

/* ---- machine.c ---- */
int network_add_edge(struct bal_network *n, uint32_t a, uint32_t b); /* -ENOMEM */
int network_lay_mesh(struct bal_network *n, const uint32_t *dims, int ndims, bool is_torus); /* clusters 0 on: sets nclusters, nnodes */
/** network_lay_tree - clusters 0 on below switches, which are numbered from @nclusters on: sets nnodes */
int network_lay_tree(struct bal_network *n, const uint32_t *arity, int levels, uint32_t nclusters);
/** network_measure - all distances. -EINVAL: no way leads from cluster @apart[0] to cluster @apart[1]; -ENOMEM */
int network_measure(struct bal_network *n, uint32_t apart[2]);

/* ---- machine_file.c ---- */
/** machine_line - where in the JSON text that jansson has taken a value begins: member @key of the text's object, or of its member
 * @object; with @index >= 0 that element of it. Return: the line, from 1; 0: there is no such value */
int machine_line(const char *text, size_t len, const char *object, const char *key, long index);

#endif
