/* SPDX-License-Identifier: BSD-2-Clause */
/* The measures of one move, as JSON. Their meaning is in doc/migration.md. */
#include "container/ctl.h"
#include "migration/session.h"

#include <unistd.h>

static json_t *ns(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* From one stamp to the next; null when either was not reached. */
static json_t *span(uint64_t from, uint64_t to)
{
	return from && to >= from ? ns(to - from) : json_null();
}

json_t *mig_measures_json(const struct mig_session *s, int status)
{
	const struct mig_times *t = &s->t;
	uint64_t end = t->attached ? t->attached : gw_now_ns(), total = end - t->start;
	/* both stamps are CLOCK_REALTIME; on two hosts they are as good as the hosts' agreement on the time, so what the
	 * source saw (frozen to TAKEN) is given too, an upper bound */
	uint64_t downtime = t->there_taken.thawed_at_ns > t->freeze.frozen_at_ns && t->freeze.frozen_at_ns ?
	                    t->there_taken.thawed_at_ns - t->freeze.frozen_at_ns : 0;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t pages = t->there_taken.pages_filled ? t->there_taken.pages_filled : t->freeze.private_bytes / page;
	uint64_t transfer = t->sent && t->frozen ? (t->ready > t->frozen ? t->ready : t->sent) - t->frozen : 0;
	/* with an agent MPI stands still from the closed gate to the opened one; without one, while the rank is frozen */
	uint64_t closed_from = s->is_quiet ? t->quiet - t->agent_detach_ns : t->frozen;
	uint64_t closed_to = s->is_quiet ? (t->open ? t->open : end) : t->taken;
	uint64_t closed = t->taken && closed_to > closed_from ? closed_to - closed_from : 0;
	json_t *m = json_object(), *p = json_object();

	json_object_set_new(m, "session", json_integer(s->id.session));
	json_object_set_new(m, "rank", json_integer(s->id.proc));
	json_object_set_new(m, "from", json_integer(s->id.from));
	json_object_set_new(m, "to", json_integer(s->id.to));
	mig_follow_json(s, m);
	mig_post_json(s, m);
	mig_cost_json(s, m);
	json_object_set_new(m, "status", json_integer(status));

	/* the eight */
	json_object_set_new(m, "total_ns", ns(total));
	json_object_set_new(m, "downtime_ns", downtime ? ns(downtime) : json_null());
	json_object_set_new(m, "pages", ns(pages + s->post.left / page));
	/* of stop-and-copy nobody knows: memory is looked at once */
	json_object_set_new(m, "dirty_pages_s",
	                    s->rounds.n ? json_real((double)s->rounds.dirty_rate / (double)page) : json_null());
	json_object_set_new(m, "preparation_ns", span(t->start, t->prepared));
	json_object_set_new(m, "resume_ns", t->taken ? ns(t->there_taken.thaw_ns + s->attached.attach_ns) : json_null());
	json_object_set_new(m, "degradation", t->taken && total ? json_real((double)closed / (double)total) : json_null());
	json_object_set_new(m, "link_bytes_s", transfer ? json_real((double)(t->bytes - t->round_bytes - s->post.sent) * 1e9 / (double)transfer) : json_null());

	json_object_set_new(m, "bytes", ns(t->bytes));
	json_object_set_new(m, "wire_bytes", ns(t->bytes - s->pack.saved));
	json_object_set_new(m, "private_bytes", ns(t->freeze.private_bytes));
	json_object_set_new(m, "zero_pages", ns(t->freeze.zero_pages));
	json_object_set_new(m, "mappings", json_integer(t->freeze.vmas));
	json_object_set_new(m, "threads", json_integer(t->freeze.threads));
	json_object_set_new(m, "doing", s->is_quiet ? json_integer(t->doing & ~CT_DOING_ASLEEP) : json_null());
	json_object_set_new(m, "asleep", json_boolean(s->is_quiet && (t->doing & CT_DOING_ASLEEP)));
	json_object_set_new(m, "gate_closed_ns", t->taken ? ns(closed) : json_null());
	json_object_set_new(m, "downtime_seen_ns", span(t->frozen, t->taken));
	/* the stamps themselves, to be compared with what a rank saw; CLOCK_REALTIME */
	json_object_set_new(m, "frozen_at_ns", t->freeze.frozen_at_ns ? ns(t->freeze.frozen_at_ns) : json_null());
	json_object_set_new(m, "thawed_at_ns", t->there_taken.thawed_at_ns ? ns(t->there_taken.thawed_at_ns) : json_null());

	json_object_set_new(p, "check_ns", ns(t->check_ns));
	json_object_set_new(p, "prepare_ns", span(t->start, t->proved));
	json_object_set_new(p, "rounds_ns", span(t->proved, t->prepared));
	json_object_set_new(p, "prepare_there_ns", ns(t->there_prepared.prepare_ns));
	json_object_set_new(p, "quiesce_ns", span(t->prepared, t->quiet));
	json_object_set_new(p, "gate_close_ns", ns(t->agent_close_ns));
	json_object_set_new(p, "detach_ns", ns(t->agent_detach_ns));
	json_object_set_new(p, "freeze_ns", ns(t->freeze.stop_ns));
	json_object_set_new(p, "capture_ns", ns(t->freeze.capture_ns));
	json_object_set_new(p, "send_ns", span(t->frozen, t->sent));
	json_object_set_new(p, "transfer_ns", ns(transfer));
	json_object_set_new(p, "fill_ns", ns(t->there_ready.fill_ns));
	json_object_set_new(p, "ready_ns", ns(t->there_ready.ready_ns));
	json_object_set_new(p, "given_taken_ns", span(t->given, t->taken));
	json_object_set_new(p, "thaw_ns", ns(t->there_taken.thaw_ns));
	json_object_set_new(p, "release_ns", ns(t->release_ns));
	json_object_set_new(p, "attach_ns", s->is_attached ? ns(s->attached.attach_ns) : json_null());
	json_object_set_new(m, "phases", p);
	return m;
}
