/* SPDX-License-Identifier: BSD-2-Clause */
/* Comm, in a build that was configured --without-scotch: says so. */
#include "runtime/balance/inner.h"

int bal_comm(struct work *w, struct gw_error *why)
{
	return gw_fail(why, -ENOTSUP, "this build has no partitioner, so it cannot balance by communication; install libscotch-dev and "
	               "configure again, or choose refine");
}
