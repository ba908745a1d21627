/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/pool: hosts that stay ready between jobs.
 *
 *   core.c     what a keeper decides: members, leader, slots. Pure
 *   keeper.c   godwitd --pool: its connections, its jobs' daemons, its end
 *   clients.c  the keeper's Unix socket: mpirun and godwit
 *   names.c    how keepers are found on a host
 *
 * Words of the Unix socket, JSON frames (runtime/base/link.h):
 *   status                       -> status: name self{host} state term leader members[] jobs[]
 *   ask job number ranks text    -> granted: secret address hosts[]: member host slots; or refused: text. @number is what people
 *                                   call the job: one that is continued keeps it, but is a new job here. Its slots are
 *                                   given back when the connection ends. Later: down: text; vacate: host hosts[]: host slots:
 *                                   the job's ranks on @host are to be moved to @hosts
 *   more host                    -> added: host text: the job has a slot of it, or why not
 *   placed places[]: host clusters ranks  where it is now
 *   vacated text                    they have been; @text: why not all, or ""
 *   start job host line          -> said: text (lines of what was started there), ended: text ("" when it ended well)
 *   remove host, down            -> done, or refused: text
 *   introduce                    -> introduced: number secret members[] leader; not for ranks
 */
#ifndef POOL_POOL_H
#define POOL_POOL_H

#include "runtime/base/link.h"

#define POOL_NAME_MAX 24      /* letters of a pool's name, with its NUL */
#define POOL_HOST_MAX 48      /* of a host's in the name of a socket */
#define POOL_SOCKET_MAX 104

struct pool_place { char name[POOL_NAME_MAX], host[POOL_HOST_MAX]; }; /* a keeper on this machine */

/** pool_name_check - 0, or -EINVAL with a sentence that says what a name may have. Pure */
int pool_name_check(const char *name, struct gw_error *why);
/** pool_socket_name - the abstract one of the keeper of @host, of this user */
void pool_socket_name(char buf[POOL_SOCKET_MAX], const char *name, const char *host);
/** pool_find - keepers of this user that listen on this machine. Return their number, at most @max filled */
int pool_find(struct pool_place *places, int max, struct gw_error *why);
/** pool_connect - @what: "NAME", "NAME@HOST" or "any". A descriptor, with @place filled; or negative errno */
int pool_connect(const char *what, struct pool_place *place, struct gw_error *why);

#endif
