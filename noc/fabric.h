/* SPDX-License-Identifier: BSD-2-Clause */
/* noc/fabric.h: what fabric.c is made of besides connections: the core provider, and the descriptors that it opens. */
#ifndef NOC_FABRIC_H
#define NOC_FABRIC_H

#include <netinet/in.h>
#include <rdma/fabric.h>

#include "noc/net.h"

#define NOC_GREETING_BYTES 52u /* travel with connect and accept */
#define NOC_GREETING_MAX   55u /* room for them where there is least: verbs */

static inline size_t noc_address_size(const struct noc_address *a)
{
	return ((const struct sockaddr *)(const void *)a)->sa_family == AF_INET ? sizeof(struct sockaddr_in) :
	                                                                         sizeof(struct sockaddr_in6);
}

/* ---- core.c */
/** noc_core_find - the core provider for this host, to listen @at with. The caller frees it. NULL: @why says it
 * @is_registering: it reads and writes registered memory only */
struct fi_info *noc_core_find(const struct noc_address *at, bool *is_registering, struct gw_error *why);
int noc_core_open(struct fi_info *info, struct fid_fabric **out); /* what was found last */

/* ---- descriptors.c */
#define NOC_FDS_SEEN 4096u /* descriptors below it are looked at */
struct noc_fds { uint8_t bits[NOC_FDS_SEEN / 8]; };
void noc_fds_now(struct noc_fds *out);
/** noc_fds_new - what came while we attached. A thread of the program may have opened one of them: it is looked at again
 * when all stand */
void noc_fds_new(int16_t out[NOC_NET_FDS], const struct noc_fds *before, const struct noc_fds *after);
/** noc_strays_close - sockets that strangers opened and that said nothing stay in the process when libfabric has closed
 * everything else: those at our listening @port (network order) are ours to close (rule 15) */
void noc_strays_close(uint16_t port);

#endif
