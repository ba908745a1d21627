/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/direct.h: receives that write no completion, for a caller that waits for this one message.
 *
 * What the caller lends, on its stack for instance, is told that the message is there: no request, no entry of the
 * completion queue, nothing to dispatch. They match as all other receives do. Asked for by fi_open_ops(endpoint,
 * GODWIT_DIRECT, ...); our MPICH does, for its blocking collectives (mpich/two.patch, which has these declarations, too).
 */
#ifndef SHIM_DIRECT_H
#define SHIM_DIRECT_H

#include <rdma/fi_endpoint.h>
#include <stddef.h>
#include <stdint.h>

#define GODWIT_DIRECT "godwit_direct_1"

struct godwit_direct {
	uint64_t scratch[8]; /* ours */
	uint64_t tag, data;  /* of the message */
	uint64_t len;        /* what the buffer took of it */
	int32_t error;       /* 0, FI_ETRUNC, or why a transfer has failed */
	uint32_t is_done;    /* read it with acquire: the agent may have written it. From then on nobody else touches this */
};

struct godwit_direct_ops {
	size_t size;
	/**
	 * recv - post a receive, and look for its message for as long as a peer that is about to send takes
	 * As in fi_trecv(); @d takes the context's place, and stays until it is done, or until fi_cancel() with it has
	 * returned 0, which tells nothing in the queue. Who waits for it goes on reading the completion queue.
	 * Return: 0, or -FI_EINVAL. *@has_events: there are completions of others to be read.
	 */
	int (*recv)(struct fid_ep *ep, void *buf, size_t len, fi_addr_t from, uint64_t tag, uint64_t ignore,
	            struct godwit_direct *d, int *has_events);
};

#endif
