/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/base/trust: connections between hosts, and the proof that both ends know the job's secret.
 *
 *   connecting side                            listening side
 *     | GREET  {who it is, nonce} -------------> |   right version, right job? else an answer with the reason
 *     | <- ANSWER {who it is, nonce, proof} ---- |   proof: keyed hash over both messages
 *     | PROOF  {proof} ------------------------> |   then the connection belongs to the layer above (gw_link_create)
 *
 * Nothing but these three messages, of one fixed size, is read before; not a byte of what follows them is taken. Nonces
 * are fresh on both sides, so what was recorded proves nothing; the kind of a message is in its hash, so what one side
 * said cannot be sent back to it. Version, build, purpose, job and cluster are in the hash. What travels afterwards is
 * neither encrypted nor signed: the network between the hosts of a job is trusted to carry bytes unchanged.
 *
 * The secret is 32 random bytes. It goes over the launcher's own channel (the standard input that ssh or srun carries),
 * as one line of hexadecimal digits; never in arguments or the environment, which others may read.
 */
#ifndef GW_TRUST_H
#define GW_TRUST_H

#include "runtime/base/loop.h"

#define GW_TRUST_SECRET  32
#define GW_TRUST_SECRET_HEX (2 * GW_TRUST_SECRET + 1) /* its digits and a NUL */
#define GW_TRUST_VERSION 1
#define GW_TRUST_MAGIC   0x74737274u /* "trst" */
#define GW_TRUST_PENDING 64          /* connections of one listener that are not proved yet */

enum gw_trust_kind { GW_TRUST_GREET = 1, GW_TRUST_ANSWER = 2, GW_TRUST_PROOF = 3 };          /* written numbers */
enum gw_trust_purpose { GW_TRUST_JOIN = 1, GW_TRUST_SESSION = 2, GW_TRUST_LOOK = 3, /* a daemon to its head; to another; is it there? */
                        GW_TRUST_POOL = 4, GW_TRUST_MEET = 5 };                          /* keepers to each other; heads of two jobs */
enum gw_trust_refusal { GW_TRUST_ACCEPTED = 0, GW_TRUST_OTHER_VERSION = 1, GW_TRUST_OTHER_BUILD = 2, GW_TRUST_OTHER_JOB = 3 };

struct gw_trust_msg { /* little endian; magic, version and kind stay where they are in every version */
	uint32_t magic;
	uint16_t version, kind;
	uint16_t purpose, refusal;
	uint32_t job, cluster, zero;
	char build[24];       /* of the package; the rest is NUL */
	uint8_t nonce[32];
	uint8_t proof[32];
};
_Static_assert(sizeof(struct gw_trust_msg) == 112, "wire format");

struct gw_trust_who {     /* what a side says of itself, and what the other one believes once it is proved */
	uint16_t purpose;
	uint32_t job, cluster;
};

/* ---- messages: pure -------------------------------------------------------------------------------------------- */

/**
 * gw_trust_parse - is what has come the beginning of a message of @kind?
 * Return: 1 with @out filled; 0 more bytes are needed; -EPROTO, or -EPROTONOSUPPORT when its version is another (told as
 * soon as the first 8 bytes are there: the size may differ too), with a sentence
 */
int gw_trust_parse(const void *bytes, size_t len, enum gw_trust_kind kind, struct gw_trust_msg *out, struct gw_error *why);

/** gw_trust_make - a message without proof; @nonce may be NULL for a PROOF */
void gw_trust_make(struct gw_trust_msg *out, enum gw_trust_kind kind, const struct gw_trust_who *who, const uint8_t *nonce);

/** gw_trust_hash - the proof that a message of @kind must carry after @greet and @answer (whose proofs do not count) */
void gw_trust_hash(uint8_t proof[32], const uint8_t secret[GW_TRUST_SECRET], enum gw_trust_kind kind,
                   const struct gw_trust_msg *greet, const struct gw_trust_msg *answer);

/* ---- secrets --------------------------------------------------------------------------------------------------- */

/** gw_trust_secret_make - random bytes, of the kernel's. 0, or negative errno; does not block once the machine is up */
int gw_trust_secret_make(uint8_t secret[GW_TRUST_SECRET]);
/** gw_trust_secret_derive - another one, of @text, from @secret: who has it learns nothing of @secret, or of others that were derived */
void gw_trust_secret_derive(uint8_t out[GW_TRUST_SECRET], const uint8_t secret[GW_TRUST_SECRET], const char *text);
#define GW_TRUST_SEALED_HEX (2 * (24 + 16 + GW_TRUST_SECRET) + 1)
/** gw_trust_secret_seal, gw_trust_secret_unseal - for the wire: another secret, as digits, for those who know @key. unseal: 0, or -EINVAL when
 *  it is not that, was changed, or was sealed with another key */
void gw_trust_secret_seal(char hex[GW_TRUST_SEALED_HEX], const uint8_t secret[GW_TRUST_SECRET], const uint8_t key[GW_TRUST_SECRET]);
int gw_trust_secret_unseal(uint8_t secret[GW_TRUST_SECRET], const char *hex, const uint8_t key[GW_TRUST_SECRET]);
/** gw_trust_secret_print, gw_trust_secret_parse - as hexadecimal digits with a NUL; parse: 0, or -EINVAL when it is not that */
void gw_trust_secret_print(char hex[GW_TRUST_SECRET_HEX], const uint8_t secret[GW_TRUST_SECRET]);
int gw_trust_secret_parse(uint8_t secret[GW_TRUST_SECRET], const char *hex);
/** gw_trust_secret_read - one line from @fd and not a byte more; blocks, at most @timeout_ms */
int gw_trust_secret_read(int fd, uint8_t secret[GW_TRUST_SECRET], int timeout_ms, struct gw_error *why);

/* ---- connections ----------------------------------------------------------------------------------------------- */

struct gw_trust;
struct gw_trust_listener;

/**
 * Called once. @fd: the proved connection, the callee's, non-blocking; or negative, and @why says what went wrong, as the end of a sentence whose
 * begin ("cannot reach HOST: ") is the caller's. @peer is valid during the call. A listener calls it for proved
 * connections only, and logs one line for each other one.
 */
typedef void (*gw_trust_done)(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why);

/**
 * gw_trust_connect, gw_trust_accept - prove a connection, from the side that connects (@fd may still be connecting) or
 * the one that listens; both own @fd from the call on. Never wait. Sockets: runtime/base/tcp.h. @out may be NULL; it is gone when @done is called.
 * Return 0, or -errno with @fd closed and without a call of @done.
 */
int gw_trust_connect(struct gw_trust **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                     const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx);
int gw_trust_accept(struct gw_trust **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                    const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx);
void gw_trust_cancel(struct gw_trust *t); /* NULL ok; closes, without a call */

/**
 * gw_trust_listen - accept and prove; owns the listening socket @fd (closed on failure too)
 * At most GW_TRUST_PENDING connections are unproved at a time; when it is full, one that has said nothing makes room for
 * each newcomer; where all have said something, those that have not gone on for half a second do, and the kernel holds the
 * newcomers meanwhile. Of a flood not every connection gets its line in the log, but all are counted there.
 */
int gw_trust_listen(struct gw_trust_listener **out, struct gw_loop *loop, int fd, const uint8_t secret[GW_TRUST_SECRET],
                    const struct gw_trust_who *me, unsigned timeout_ms, gw_trust_done done, void *ctx);
void gw_trust_listener_destroy(struct gw_trust_listener *l); /* NULL ok; unproved connections are closed */
unsigned gw_trust_pending(const struct gw_trust_listener *l);

#endif
