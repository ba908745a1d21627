/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A job that rests: its ranks are stopped where they are, its daemons and mpirun stay, until it is resumed.
 *
 *   no move is under way ──suspend──► every daemon: all its ranks are quiet ──suspend-stop──► every daemon: all are stopped
 *   ──resume──► they go on; at any time, also before it is complete
 *
 * Moves that have not begun are taken back, those that have are waited for; then none begins. mpirun's time limit stands still.
 * A signal that asks the ranks to end resumes them first; others wait in the kernel. SIGTSTP stops mpirun alone.
 */
#include <stdlib.h>

#include "runtime/launcher/head.h"

int suspend_refuse(const struct head *h, struct gw_error *why)
{
	if (h->suspend.state == SUSPEND_NONE)
		return 0;
	if (h->checkpoint)
		return gw_fail(why, -EBUSY, "a checkpoint is just being written; try again when it is complete");
	return gw_fail(why, -EBUSY, "the job is suspended; 'godwit resume %s' lets it go on", h->kvsname + strlen("godwit-"));
}

const char *suspend_text(const struct head *h)
{
	if (h->checkpoint)
		return "checkpoint";
	return h->suspend.state == SUSPEND_NONE ? "running" : h->suspend.state == SUSPEND_DONE ? "suspended" : "suspending";
}

static uint32_t running(const struct head *h)
{
	uint32_t n = 0;

	for (uint32_t r = 0; r < h->size; r++)
		n += h->ranks[r].state == RANK_RUNNING;
	return n;
}

static void answer(struct head *h, int status, const char *text, bool is_again)
{
	suspend_done_fn *fn = h->suspend.done;

	h->suspend.done = NULL;
	if (fn)
		fn(h->suspend.ctx, json_pack("{s:s, s:i, s:s, s:i, s:f, s:b}", "op", "suspended", "status", status, "text", text, "ranks",
		                             (int)running(h), "ms", (double)(gw_now_ns() - h->suspend.since_ns) / 1e6, "again", (int)is_again));
}

/* To all daemons that are there; each answers once. */
static void ask(struct head *h, const char *op, enum suspend_state state)
{
	h->suspend.state = state;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		h->clusters[c].is_suspend_due = h->clusters[c].state == CLUSTER_UP &&
			job_cluster_send(h, c, state == SUSPEND_WRITE ? checkpoint_request(h) :
			                 json_pack("{s:s, s:I}", "op", op, "id", (json_int_t)h->suspend.id));
}

static bool are_due(const struct head *h)
{
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].is_suspend_due && h->clusters[c].state == CLUSTER_UP)
			return true;
	return false;
}

/* The ranks go on, or the job ends; then whoever asked is told. */
static void go_on(struct head *h)
{
	bool is_complete = h->suspend.state == SUSPEND_DONE;

	h->suspend.state = SUSPEND_NONE;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].state == CLUSTER_UP)
			job_cluster_send(h, c, json_pack("{s:s}", "op", "resume"));
	job_clock_go(h);
	gw_event("job.resumed", "{s:b}", "complete", (int)is_complete);
	drain_check(h);
	spawn_resumed(h);
	if (is_complete)
		schedule_over(h, 0, "");
}

static void checkpoint_over(struct head *h, struct gw_error *why)
{
	bool is_stopping;
	int sig = schedule_is_at(h, checkpoint_dir(h)) ? schedule_stop_signal(h) : 0;
	json_t *text = checkpoint_end(h, why, &is_stopping);
	suspend_done_fn *fn = h->suspend.done;

	h->suspend.done = NULL;
	if (!is_stopping)
		go_on(h);
	if (fn)
		fn(h->suspend.ctx, text);
	else
		json_decref(text);
	if (is_stopping && sig)
		job_fail(h, SUSPEND_EXIT_STOPPED, "SIG%s: the job is written down, and ends; the same command continues it", options_signal_name(sig));
	else if (is_stopping)
		job_fail(h, SUSPEND_EXIT_STOPPED, "the job is stopped, as 'godwit checkpoint --stop' wanted it; the checkpoint is complete");
	else if (h->is_stop_wanted)
		signals_suspended(h);
	schedule_over(h, why->code, why->text);
}

static void written(struct head *h)
{
	struct gw_error why = { 0 };

	checkpoint_over(h, &why);
}

void suspend_check(struct head *h)
{
	if (h->is_ending)
		return;
	if (h->suspend.state == SUSPEND_MOVES && gw_list_is_empty(&h->moves))
		ask(h, "suspend", SUSPEND_QUIET);
	if (h->suspend.state == SUSPEND_QUIET && !are_due(h))
		ask(h, "suspend-stop", h->checkpoint ? SUSPEND_WRITE : SUSPEND_STOP);
	if (h->suspend.state == SUSPEND_WRITE && !are_due(h))
		written(h);
	if (h->suspend.state != SUSPEND_STOP || are_due(h))
		return;
	h->suspend.state = SUSPEND_DONE;
	gw_event("job.suspended", "{s:i}", "ranks", (int)running(h));
	answer(h, 0, "", false);
	signals_suspended(h);
}

void suspend_heard(struct cluster *c, json_t *msg, enum suspend_state of)
{
	struct head *h = c->head;

	if (h->suspend.state != of ||
	    (uint64_t)json_integer_value(json_object_get(msg, "id")) != h->suspend.id)
		return;
	c->is_suspend_due = false;
	suspend_check(h);
}

static int check(const struct head *h, struct gw_error *why)
{
	if (h->is_ending || h->is_told_to_end)
		return gw_fail(why, -ESHUTDOWN, "the job is about to end");
	if (h->is_stopping)
		return gw_fail(why, -EBUSY, "the job is just being stopped (Ctrl-Z)");
	if (!gw_list_is_empty(&h->growths))
		return gw_fail(why, -EBUSY, "a host is just being added; try again when 'godwit add' has answered");
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_WAITING)
			return gw_fail(why, -EAGAIN, "rank %u has not been started yet; try again", r);
	if (h->suspend.state != SUSPEND_NONE && h->suspend.state != SUSPEND_DONE)
		return gw_fail(why, -EBUSY, h->checkpoint ? "a checkpoint of the job is just being written; try again when it is complete"
		               : "the job is just being suspended");
	return 0;
}

static void start(struct head *h)
{
	h->suspend.id = ++h->next_id;
	h->suspend.since_ns = gw_now_ns();
	h->suspend.state = SUSPEND_MOVES;
	job_clock_stop(h);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		moves_take_back(h, c);
	suspend_check(h);
}

int suspend_begin(struct head *h, suspend_done_fn *fn, void *ctx, struct gw_error *why)
{
	int code = check(h, why);

	if (code < 0)
		return code;
	h->suspend.done = fn;
	h->suspend.ctx = ctx;
	if (h->suspend.state == SUSPEND_DONE) {
		answer(h, 0, "", true);
		return 0;
	}
	start(h);
	return 0;
}

int suspend_checkpoint(struct head *h, const char *dir, bool is_stopping, suspend_done_fn *fn, void *ctx, struct gw_error *why)
{
	int code = check(h, why);

	if (code == 0)
		code = checkpoint_prepare(h, dir, is_stopping, why);
	if (code < 0)
		return code;
	h->suspend.done = fn;
	h->suspend.ctx = ctx;
	start(h);
	return 0;
}

void suspend_resume(struct head *h)
{
	enum suspend_state was = h->suspend.state;

	struct gw_error why = { 0 };

	if (was == SUSPEND_NONE)
		return;
	if (h->checkpoint) {
		gw_fail(&why, -ECANCELED, "the job was told to end, or resumed, before the checkpoint was complete");
		checkpoint_over(h, &why);
		return;
	}
	go_on(h);
	answer(h, -ECANCELED, "it was resumed before it was suspended altogether", false);
}

json_t *suspend_resume_request(struct head *h, struct gw_error *why)
{
	bool is_again = h->suspend.state == SUSPEND_NONE || schedule_is_writing(h);

	if (h->is_ending) {
		gw_fail(why, -ESHUTDOWN, "the job is about to end");
		return NULL;
	}
	if (!is_again)
		suspend_resume(h);
	return json_pack("{s:s, s:i, s:s, s:i, s:b}", "op", "resumed", "status", 0, "text", "", "ranks", (int)running(h), "again", (int)is_again);
}

void suspend_forget(struct head *h, const void *ctx)
{
	if (h->suspend.ctx == ctx)
		h->suspend.done = NULL;
}
