/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/state: where histories of jobs are kept, for mpirun, which writes them, and godwit, which reads them. */
#ifndef RT_STATE_H
#define RT_STATE_H

#include "runtime/base/base.h"

/**
 * rt_state_dir - $XDG_STATE_HOME/godwit/jobs, or $HOME/.local/state/godwit/jobs
 * @is_made: make what is missing of it, for its owner only. A home that is another user's (sudo) is left alone.
 */
int rt_state_dir(char *buf, size_t cap, bool is_made, struct gw_error *why);

#endif
