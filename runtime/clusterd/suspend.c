/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A job is suspended: its ranks are brought to rest, and stopped when those of all other daemons rest as well.
 *
 *   head ── suspend ──────► each rank that is attached: QUIESCE ──► QUIET, or BUSY: then it is stopped as it is
 *        ◄─ suspend-quiet ─ all have answered
 *        ── suspend-stop ─► SIGSTOP to every rank
 *        ◄─ suspended ───── all are stopped
 *        ── resume ───────► ATTACH into the control sockets, then SIGCONT
 *
 * No gate opens before all ranks of the job are quiet (rule 25): a message is either in the memory of its receiver or still
 * in that of its sender, and no connection stays open that somebody's patience could end.
 */
#include <signal.h>

#include "runtime/clusterd/clusterd.h"

#define QUIESCE_MS 5000
#define PATIENCE_MS 7000 /* with ranks that do not answer at all: a debugger holds one */
#define AGAIN_MS   20    /* for what no event tells: the end of a move, of MPI_Init's attaching, a stop */

static bool is_stopping(const struct clusterd *d)
{
	return d->suspend.state == SUSPEND_STOPPING || d->suspend.state == SUSPEND_STOPPED;
}

/* Ask it to be quiet if it can be asked. Return whether it is still to be waited for. */
static bool quiesce(struct rank *r)
{
	if (r->is_stopped_by_another || r->is_left_busy)
		return false;
	if (rank_is_stopped(r)) { /* it would not answer, and must not run when the job is resumed */
		r->is_stopped_by_another = true;
		return false;
	}
	if (r->agent == AGENT_ATTACHED && !moves_is_busy(r) && agent_send(r, CT_CTL_QUIESCE, CT_SESSION_REST, QUIESCE_MS) == 0) {
		r->agent = AGENT_QUIESCING;
		agent_publish(r, NOC_NAME_MOVING);
	}
	return moves_is_busy(r) || r->agent == AGENT_ATTACHED || r->agent == AGENT_QUIESCING || r->agent == AGENT_STARTING;
}

static void say(struct clusterd *d, const char *op)
{
	gw_link_send_json(d->head, json_pack("{s:s, s:I}", "op", op, "id", (json_int_t)d->suspend.id));
}

void suspend_look(struct clusterd *d)
{
	bool is_over = gw_now_ns() >= d->suspend.until_ns, waits = false;

	if (!d->suspend.timer)
		return;
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->state == RANK_HERE)
			waits |= is_stopping(d) ? r->is_suspended && !rank_is_stopped(r) : quiesce(r);
	}
	if (waits && !is_over)
		return;
	gw_timer_cancel(d->suspend.timer);
	d->suspend.timer = NULL;
	d->suspend.state = is_stopping(d) ? SUSPEND_STOPPED : SUSPEND_QUIET;
	say(d, is_stopping(d) ? "suspended" : "suspend-quiet");
}

static void on_timer(void *ctx)
{
	suspend_look(ctx);
}

static void begin(struct clusterd *d, uint64_t id, enum suspend_state state)
{
	d->suspend.id = id;
	d->suspend.state = state;
	d->suspend.until_ns = gw_now_ns() + PATIENCE_MS * 1000000ull;
	if (!d->suspend.timer && gw_loop_timer(d->loop, &d->suspend.timer, AGAIN_MS, AGAIN_MS, on_timer, d) < 0)
		clusterd_fatal(d, "no memory to suspend the ranks");
	else
		suspend_look(d);
}

void suspend_begin(struct clusterd *d, uint64_t id)
{
	begin(d, id, SUSPEND_QUIESCING);
}

void suspend_stop(struct clusterd *d, uint64_t id)
{
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->state == RANK_HERE && !r->is_stopped_by_another && r->ct)
			r->is_suspended = ct_rank_signal(r->ct, SIGSTOP) == 0;
	}
	begin(d, id, SUSPEND_STOPPING);
}

/* Its image is written, or not wanted any more. */
static void thaw(struct rank *r)
{
	struct gw_error why = { 0 };

	r->is_frozen = false;
	moves_stay(r, CT_SESSION_REST);
	if (ct_rank_unfreeze(r->ct, &why) < 0)
		gw_log(GW_ERROR, "rank %u: cannot let it run on: %s", r->proc, why.text);
}

void suspend_resume(struct clusterd *d)
{
	checkpoint_drop(d);
	gw_timer_cancel(d->suspend.timer);
	d->suspend.timer = NULL;
	d->suspend.state = SUSPEND_NONE;
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->is_frozen)
			thaw(r);
		else if (r->state == RANK_HERE && r->agent == AGENT_QUIET && !moves_is_busy(r))
			agent_reattach(r, CT_SESSION_REST);
		if (r->is_suspended && r->ct)
			ct_rank_signal(r->ct, SIGCONT);
		if (r->state == RANK_HERE && r->ct)
			pace_begin(r);
		r->is_suspended = r->is_stopped_by_another = r->is_left_busy = false;
	}
	moves_after(d); /* signals, and ends, that came while one was frozen */
}

/* QUIET or BUSY came. Return false when it is for nobody here: a QUIET then comes after the job was resumed. */
bool suspend_quiet(struct rank *r, const struct ct_ctl_msg *m)
{
	struct clusterd *d = r->d;

	if (m->session != CT_SESSION_REST || d->suspend.state == SUSPEND_NONE)
		return false;
	r->is_left_busy = m->op == CT_CTL_BUSY;
	if (r->is_left_busy)
		gw_log(GW_INFO, "rank %u: it is suspended inside MPI: %.*s", r->proc, (int)sizeof(m->text) - 1, m->text);
	suspend_look(d);
	return true;
}

bool suspend_is_on(const struct clusterd *d)
{
	return d->suspend.state != SUSPEND_NONE;
}
