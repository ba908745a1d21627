/* SPDX-License-Identifier: BSD-2-Clause */
/* What the commands on pools share: up.c and pool.c. */
#ifndef RT_CONTROL_POOL_H
#define RT_CONTROL_POOL_H

#include "runtime/control/control.h"
#include "runtime/pool/pool.h"

/**
 * control_ask_keeper - one question to this host's keeper of @pool ("NAME", "NAME@HOST", "any"); steals @request; blocks
 * Return: 0 with *@answer, the caller's (NULL when @is_end_awaited: the end of the connection is the answer); or -errno with @why
 */
int control_ask_keeper(const char *pool, json_t *request, bool is_end_awaited, json_t **answer, struct gw_error *why);
/** control_show_pools - those that this host is in, or @name (NULL: all), as 'godwit pools' does. Return the exit status */
int control_show_pools(const char *name, bool is_json);

#endif
