/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests to move a rank. Until migration/ is part of this build each is refused with that sentence. */
#include "runtime/clusterd/clusterd.h"

int moves_init(struct clusterd *d, struct gw_error *why)
{
	(void)d; (void)why;
	return 0;
}

void moves_fini(struct clusterd *d) { (void)d; }
void moves_try(struct rank *r) { (void)r; }
void moves_rank_ended(struct rank *r) { (void)r; }
bool moves_allow_reap(struct rank *r) { (void)r; return true; }
bool moves_is_busy(const struct rank *r) { (void)r; return false; }
bool moves_quiet(struct rank *r, const struct ct_ctl_msg *m) { (void)r; (void)m; return false; }
void moves_attached(struct rank *r, const struct ct_ctl_msg *m) { (void)r; (void)m; }
void moves_shutdown(struct clusterd *d) { (void)d; }
json_t *moves_sessions_json(struct clusterd *d) { (void)d; return json_array(); }

void moves_peer_dead(struct clusterd *d, uint32_t cluster, uint64_t incarnation)
{
	(void)d; (void)cluster; (void)incarnation;
}

void moves_request(struct clusterd *d, uint64_t id, uint32_t proc, uint32_t to, uint64_t timeout_ms)
{
	(void)to; (void)timeout_ms;
	gw_link_send_json(d->head, json_pack("{s:s, s:I, s:i, s:i, s:s}", "op", "migrate-done", "id", (json_int_t)id, "rank",
	                                     (int)proc, "status", -ENOSYS, "text", "this build cannot move ranks yet"));
}
