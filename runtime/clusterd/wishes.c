/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What programs ask of those who move them, and tell them: container/wish.h is the rank's side.
 *
 *   WISH ──► wish ──► head ──► wished ──► WISHED      a rank that has moved asks again, and the head knows the number
 *
 * Good moments are an affair of the owner: a request that would rather wait for one sends MOMENT; the program comes to one, says
 * WISH, and waits there until the move is over. Where it arrives it asks again, nobody waits for it, and it goes on.
 */
#include "runtime/clusterd/clusterd.h"

#include <sys/uio.h>

static void answer(struct rank *r, uint32_t number, int status, const char *text)
{
	struct ct_ctl_msg m = { .magic = CT_CTL_MAGIC, .version = CT_CTL_VERSION, .op = CT_CTL_WISHED, .session = number, .status = status };

	snprintf(m.text, sizeof(m.text), "%s", text);
	agent_say(r, &m); /* a full socket: it has not read for long, and asks again after its next ATTACH */
}

void wishes_moment_over(struct rank *r)
{
	if (r->moment)
		answer(r, r->moment, 0, "");
	r->moment = 0;
}

void wishes_asked(struct rank *r, const struct ct_ctl_msg *m)
{
	static const char *const what[] = { [CT_WISH_MOVE] = "move", [CT_WISH_PIN] = "pin", [CT_WISH_UNPIN] = "unpin",
	                                    [CT_WISH_MEET] = "meet" };
	char text[sizeof(m->text)];

	snprintf(text, sizeof(text), "%.*s", (int)sizeof(m->text) - 1, m->text);
	if (m->doing == CT_WISH_MOMENT) {
		r->moment = m->session;
		if (moves_wait_for_moment(r))
			moves_try(r);
		else
			wishes_moment_over(r);
		return;
	}
	if (m->doing >= GW_ARRAY_LEN(what) || !what[m->doing]) {
		answer(r, m->session, -EINVAL, "this daemon does not know what is asked of it");
		return;
	}
	gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:I, s:s, s:s, s:I}", "op", "wish", "rank", (int)r->proc, "id",
	                                        (json_int_t)m->session, "what", what[m->doing], "where", text, "timeout_ms",
	                                        (json_int_t)m->deadline_ms));
}

/* A rank that is not here, or is being moved, asks again where its agent attaches. */
void wishes_answered(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	struct rank *r = rank_find(d, (uint32_t)json_integer_value(json_object_get(msg, "rank")));
	const char *text = json_string_value(json_object_get(msg, "text"));

	(void)fds; (void)n_fds;
	if (r && r->state == RANK_HERE && r->ctl_fd >= 0)
		answer(r, (uint32_t)json_integer_value(json_object_get(msg, "id")), (int)json_integer_value(json_object_get(msg, "status")),
		       text ? text : "");
}

bool wishes_told(const struct rank *r, struct ct_told *out)
{
	struct iovec mine = { out, sizeof(*out) }, its = { (void *)(uintptr_t)r->told_at, sizeof(*out) };

	return r->agent == AGENT_ATTACHED && r->told_at && process_vm_readv(r->pid, &mine, 1, &its, 1, 0) == (ssize_t)sizeof(*out);
}

bool wishes_want_moment(struct rank *r)
{
	struct ct_told told;

	return wishes_told(r, &told) && told.moments > 0 && agent_send(r, CT_CTL_MOMENT, 0, 0) == 0;
}
