/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * noc.h: Mailbox, Portal and Sync between the processes of a job, by logical name; usable without MPI.
 *
 * A job started by mpirun consists of processes 0 .. noc_count()-1. A process number is a name: it stays the same
 * wherever the process lives, and whatever is sent to it finds it, also while it moves.
 *
 *   Mailbox   N:1   small messages of at most NOC_MAILBOX_MESSAGE_MAX bytes, from anybody, in order of each sender
 *   Portal    1:1   bulk data of any length, from one sender at a time, whom the owner allows
 *   Sync      1:N, N:1   signals: one releases many, or many report to one
 *
 * The owner creates and unlinks; users open and close. An object is named by its owner's process number and a port
 * number that the program chooses. What is sent before the owner has created the object waits for it.
 *
 * Calls return 0 (or a length) or a negative errno, outputs are written on success only. Waiting calls take a timeout in
 * milliseconds, -1 for ever, 0 to look only, and give -ETIMEDOUT. Any thread may call; calls of several threads take
 * turns. A program that also uses MPI calls both from one thread at a time. A waiting process can be moved.
 */
#ifndef GODWIT_NOC_H
#define GODWIT_NOC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NOC_MAILBOX_MESSAGE_MAX 192 /* bytes */
#define NOC_MAILBOX_WINDOW      64  /* messages of one sender that may wait unread in one mailbox */

/**
 * noc_init - become a member of the job; once per process (later calls count), before anything else
 * Errors: -ENOMEM, -EPROTO (daemon and library are of different installations), ...; noc_error() has the sentence.
 */
int noc_init(void);
/** noc_fini - leave the job, with the last noc_init() of this process; waits until what was sent has been taken, or nobody will take it */
void noc_fini(void);
const char *noc_error(void);     /* sentence of the last failed noc_init() */

uint32_t noc_process(void);      /* own process number */
uint32_t noc_count(void);        /* processes that the job was started with */
uint32_t noc_cluster(void);      /* where this process lives at the moment; it may have moved on when this returns */

/* ---- Mailbox --------------------------------------------------------------------------------------------------- */

struct noc_mailbox;

/** noc_mailbox_create - own mailbox on @port. -EEXIST when there is one; -ENOMEM. */
int noc_mailbox_create(struct noc_mailbox **out, uint32_t port);
/** noc_mailbox_unlink - the owner removes it with what was not read */
int noc_mailbox_unlink(struct noc_mailbox *mb);
/** noc_mailbox_open - write to the mailbox of @owner. -EINVAL: no such process. */
int noc_mailbox_open(struct noc_mailbox **out, uint32_t owner, uint32_t port);
int noc_mailbox_close(struct noc_mailbox *mb);
/**
 * noc_mailbox_write - send a message; the buffer is free on return
 * Waits while NOC_MAILBOX_WINDOW messages of this process are unread there.
 * Errors: -EMSGSIZE, -ETIMEDOUT, -EHOSTUNREACH (the owner is gone), -EBADF (own mailbox).
 */
int noc_mailbox_write(struct noc_mailbox *mb, const void *message, size_t len, int timeout_ms);
/**
 * noc_mailbox_read - take the next message of the own mailbox
 * @from: gets the sender's process number; may be NULL. Return: its length, -EMSGSIZE when @size is too small (the
 * message stays), -ETIMEDOUT, -EBADF (not the own mailbox).
 */
ssize_t noc_mailbox_read(struct noc_mailbox *mb, void *message, size_t size, uint32_t *from, int timeout_ms);

/* ---- Portal ---------------------------------------------------------------------------------------------------- */

struct noc_portal;

/** noc_portal_create - own portal on @port. -EEXIST when there is one; -ENOMEM */
int noc_portal_create(struct noc_portal **out, uint32_t port);
/** noc_portal_unlink - the owner removes it with what was not read. -EBADF: not the own one */
int noc_portal_unlink(struct noc_portal *p);
/** noc_portal_allow - let @from write once. -EBUSY while an allowed write has not been read. */
int noc_portal_allow(struct noc_portal *p, uint32_t from);
/**
 * noc_portal_read - receive what the allowed sender writes
 * Return: bytes received; what the sender wrote beyond @len is dropped and -EMSGSIZE is returned (the first @len bytes
 * are there). -ETIMEDOUT: nothing has begun to arrive. -EPERM: nobody is allowed.
 */
ssize_t noc_portal_read(struct noc_portal *p, void *buf, size_t len, int timeout_ms);
/** noc_portal_open - write to the portal of @owner. -EINVAL: no such process; -ENOMEM */
int noc_portal_open(struct noc_portal **out, uint32_t owner, uint32_t port);
int noc_portal_close(struct noc_portal *p);
/**
 * noc_portal_write - wait for the owner's permission, then send; the buffer is free on return
 * -ETIMEDOUT: permission did not come and nothing was sent. A transfer that has begun is waited for whatever it takes.
 */
ssize_t noc_portal_write(struct noc_portal *p, const void *buf, size_t len, int timeout_ms);

/* ---- Sync ------------------------------------------------------------------------------------------------------ */

struct noc_sync;
enum noc_sync_type { NOC_SYNC_ONE_TO_ALL = 1, NOC_SYNC_ALL_TO_ONE = 2 };

/**
 * noc_sync_create - a point to wait at
 * @nodes, @n: ALL_TO_ONE: the processes that must all signal; ONE_TO_ALL: the one that signals (n = 1)
 * -EINVAL: another number of them, or no such process; -EEXIST; -ENOMEM
 */
int noc_sync_create(struct noc_sync **out, uint32_t port, const uint32_t *nodes, uint32_t n, enum noc_sync_type type);
int noc_sync_unlink(struct noc_sync *s);
/** noc_sync_wait - until all have signalled (once more) since the last wait */
int noc_sync_wait(struct noc_sync *s, int timeout_ms);
/**
 * noc_sync_open - the other end
 * @nodes, @n: ONE_TO_ALL: those that wait; ALL_TO_ONE: the one that waits (n = 1)
 */
int noc_sync_open(struct noc_sync **out, uint32_t port, const uint32_t *nodes, uint32_t n, enum noc_sync_type type);
int noc_sync_close(struct noc_sync *s);
/** noc_sync_signal - to all of @nodes; does not wait for them. -EBADF: the own end; -EHOSTUNREACH: one has gone */
int noc_sync_signal(struct noc_sync *s);

#ifdef __cplusplus
}
#endif
#endif
