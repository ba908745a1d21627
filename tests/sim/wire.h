/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulated network of tests/sim/sim, inside. nics.c has what libfabric's objects do when noc calls them; wire.c what
 * happens between them when the scheduler says so. An endpoint:
 *
 *   fi_sendmsg ──► tx (references) ─step─► wire of the other side (copies) ─step─► a posted buffer, completion
 *
 * What breaks loses the references and any tail of the copies, on each side for itself, and is heard of by each side at its
 * own time. The tx is read when it goes on the wire: who frees a message too early sends rubbish.
 */
#ifndef SIM_WIRE_H
#define SIM_WIRE_H

#include "noc/tcp.h"
#include "tests/sim/sim.h"

#define SIM_TX_MAX   12u
#define SIM_WIRE_MAX 24u

struct blob { /* in a queue; malloc */
	struct gw_list link;
	void *context;
	bool is_error, wants;
	uint32_t event;
	fid_t fid;
	struct fi_info *info;
	size_t n, size;
	struct iovec iov[4];
	unsigned char bytes[];
};

struct request { struct fid fid; struct end *from; };

enum end_state { END_IDLE, END_ASKING, END_ASKED, END_ANSWERED, END_REFUSED, END_HUNG, END_OPEN, END_CUT, END_TOLD };

struct end {
	struct fid_ep ep;
	struct gw_list link;
	int owner;
	enum end_state state;
	bool is_silent;            /* its operations that did not complete never will */
	struct end *other;
	struct request *request;
	struct sockaddr_in to;
	struct gw_list tx, wire, rx;
	unsigned tx_n, wire_n, refused;
	size_t greeting_size;
	unsigned char greeting[256];
};

struct region { /* what a member has registered */
	struct fid_mr mr;
	struct gw_list link;
	char *at;
	size_t size;
};

struct nic { /* of a member */
	struct fid_eq eq;
	struct fid_cq cq;
	struct fid_pep pep;
	struct fid_domain domain;
	struct fid_fabric fabric;
	uint64_t listens;          /* 0: not; else in the address, never the same twice */
	struct gw_list events, completions, regions;
};

extern struct nic sim_nics[SIM_MEMBERS];
extern struct gw_list sim_ends;     /* all that are open */
extern unsigned sim_ends_n;
extern bool sim_wants_registered;   /* as hardware does */

struct blob *sim_blob_new(struct gw_list *to, size_t size);
void sim_blob_free(struct blob *b);
struct blob *sim_blob_first(struct gw_list *l);

/* An event of a connection, and what became of an operation, for the member whose endpoint it is. */
struct blob *sim_tell(struct end *e, uint32_t event, bool is_error, const void *data, size_t size);
void sim_complete(struct end *e, void *context, size_t n, bool is_error);

void sim_end_cut(struct end *e);
void sim_end_flush(struct end *e, bool is_told);

#endif
