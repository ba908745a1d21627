/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/wish.h: what a program asks of those who move it, and tells them. The rank's side of godwit.h.
 *
 *   program ── ct_wish_ask ── WISH ──► clusterd ──► mpirun          ct_wish_load, moments: clusterd reads them in memory
 *      ▲                                  │                         ct_wish_place: what the last ATTACH said
 *      └── futex ◄── agent ◄── WISHED ────┘                         hooks: called by the agent
 *
 * A wish is one packet, and waits for its answer outside the gate, so that its rank can be moved meanwhile; one at a time.
 * What lies here is in the data of the library and moves with the rank.
 */
#ifndef CT_WISH_H
#define CT_WISH_H

#include <stdbool.h>
#include <stdint.h>

#include "container/ctl.h"
#include "runtime/base/base.h"

struct ct_wish_place { uint32_t cluster, host; uint64_t moves; }; /* moves: to other clusters, since MPI_Init */

enum ct_wish_end { CT_WISH_MOVED = 1, CT_WISH_STAYED = 2, CT_WISH_RESTARTED = 3 }; /* as godwit.h has them */
enum ct_wish_why { CT_WISH_FOR_MOVE = 1, CT_WISH_FOR_REST = 2 };

/* ---- for the program -------------------------------------------------------------------------------------------- */

/**
 * ct_wish_ask - wait until it is done, or refused
 * @where, @timeout_ms: of CT_WISH_MOVE; 0: as long as it takes
 * Return: 0; negative errno with @why: the sentence of whoever refused. -ENOTCONN: there is no clusterd; -EDEADLK: from a hook
 */
int ct_wish_ask(enum ct_wish what, const char *where, uint32_t timeout_ms, struct gw_error *why);

/** ct_wish_moment - this is a good moment to be moved. Return: true: somebody waits for it, so ask for CT_WISH_MOMENT */
bool ct_wish_moment(void);

void ct_wish_load(double processors); /* negative: not said any more */

/** ct_wish_place - where it is. -ENOTCONN: nowhere that anybody knows of */
int ct_wish_place(struct ct_wish_place *out);

/** ct_wish_hooks - call @before when it is about to detach, @after when it has attached again. NULL: nobody. Return: 0 or -EDEADLK */
int ct_wish_hooks(int (*before)(int why, void *arg), void (*after)(int end, void *arg), void *arg);

/* ---- for the agent ---------------------------------------------------------------------------------------------- */

void ct_wish_open(int (*send)(const struct ct_ctl_msg *m), bool (*is_agent)(void)); /* when it starts */
void ct_wish_close(void);
/** ct_wish_before - the hook, gate open. Return: 0; -EPERM with @why: it refuses a move */
int ct_wish_before(uint32_t session, struct gw_error *why);
/** ct_wish_after - it goes on; @session: of the ATTACH, or of the QUIESCE that came to nothing */
void ct_wish_after(uint32_t session);
void ct_wish_attached(const struct ct_ctl_msg *order, struct ct_ctl_msg *answer); /* before the answer is sent */
void ct_wish_again(void);                               /* after it: ask again what is not answered */
void ct_wish_heard(const struct ct_ctl_msg *m);         /* WISHED, MOMENT */

#endif
