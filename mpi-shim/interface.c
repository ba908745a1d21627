/* SPDX-License-Identifier: BSD-2-Clause */
/* The table by which the calls of godwit.h reach container/wish.h; see interface.h. */
#include "mpi-shim/interface.h"

#include "container/agent.h"
#include "container/wish.h"

extern const struct interface godwit_interface_1;

static int where(int *cluster, int *host, int *moves)
{
	struct ct_wish_place place;
	int rc = ct_wish_place(&place);

	if (rc == 0) {
		*cluster = (int)place.cluster;
		*host = (int)place.host;
		*moves = (int)place.moves;
	}
	return rc;
}

static int ask(int what, const char *to, uint32_t timeout_ms, char *text, uint32_t size)
{
	struct gw_error why = { 0 };
	int rc = ct_wish_ask((enum ct_wish)what, to, timeout_ms, &why);

	snprintf(text, size, "%s", rc < 0 ? why.text : "");
	return rc;
}

static int moment(void)
{
	return ct_wish_moment();
}

static int is_hook(void)
{
	return ct_agent_is_me();
}

__attribute__((visibility("default"))) const struct interface godwit_interface_1 = {
	.size = sizeof(struct interface),
	.where = where,
	.ask = ask,
	.moment = moment,
	.load = ct_wish_load,
	.hooks = ct_wish_hooks,
	.is_hook = is_hook,
};
