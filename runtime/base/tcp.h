/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/base/tcp: sockets between hosts, by numeric addresses: nothing here but gw_tcp_sources() waits for anything. */
#ifndef GW_TCP_H
#define GW_TCP_H

#include "runtime/base/base.h"

#define GW_TCP_NAME 64 /* "[address]:port" and its NUL */

/** gw_tcp_listen - @address: one of this host; every one at once ("0.0.0.0") is refused. *@port: 0 for any free one; filled.
 *  Return a non-blocking descriptor or -errno */
int gw_tcp_listen(const char *address, uint16_t *port, struct gw_error *why);

/** gw_tcp_connect - begin to connect. A non-blocking descriptor that becomes writable, or -errno */
int gw_tcp_connect(const char *address, uint16_t port, struct gw_error *why);

/** gw_tcp_split - "address:port" or "[address]:port"; @address has room for GW_TCP_NAME bytes */
int gw_tcp_split(const char *text, char *address, uint16_t *port, struct gw_error *why);
void gw_tcp_join(char name[GW_TCP_NAME], const char *address, uint16_t port);

/** gw_tcp_sources - the addresses by which @host, which may have several, sees this one; each once, at most @max
 *  @family: AF_INET, AF_INET6. Asks the name service, and so may block. Return their number, above 0, or negative errno */
int gw_tcp_sources(const char *host, int family, char (*addresses)[GW_TCP_NAME], int max, struct gw_error *why);

/** gw_tcp_addresses - those of this host by which others may see it: not loopback, not of one link only; IPv4 first, at most @max.
 *  Return their number, which may be 0 */
int gw_tcp_addresses(char (*addresses)[GW_TCP_NAME], int max, struct gw_error *why);

/** gw_tcp_parse - a numeric address as a struct sockaddr_in or _in6 without a port. Pure */
int gw_tcp_parse(const char *text, void *address, size_t cap);

void gw_tcp_own(int fd, char address[GW_TCP_NAME]); /* of this end of a connection; "" when it has none */
struct sockaddr;
void gw_tcp_name(char name[GW_TCP_NAME], const struct sockaddr *address, size_t len);

/** gw_tcp_tune - for a connection that stays: small frames at once, and an idle one ends within 7 s of its host */
void gw_tcp_tune(int fd);

/**
 * gw_tcp_is_dead - has the other host left @limit_ms of questions without an answer?
 * Its kernel answers for a process that is stopped or slow, so this is about the host and the network alone. Keepalive
 * (gw_tcp_tune) ends connections on which nothing is on the way; on others the kernel would go on for a quarter of an hour,
 * and a limit of its own (TCP_USER_TIMEOUT) would also end those whose reader is only stopped.
 */
bool gw_tcp_is_dead(int fd, unsigned limit_ms);

/**
 * gw_tcp_silence_ms - for how long has nothing been heard from the other host on a connection that gw_tcp_tune() keeps alive?
 * An idle one is a few seconds at most. UINT64_MAX: it is not connected any more; 0: it is no TCP connection.
 */
uint64_t gw_tcp_silence_ms(int fd);

/** gw_wait_readable - block until @fd has something or ends, or @end_ns (gw_now_ns) has come: -ETIMEDOUT */
int gw_wait_readable(int fd, uint64_t end_ns);

#endif
