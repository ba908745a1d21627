/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checkpoints that mpirun makes by itself: every so often (-checkpoint-every), and at a signal, after which the job ends
 * (-checkpoint-on). Both go to the directory of -checkpoint-dir, and by the same road as those that a tool asks for (suspend.c).
 *
 *   a time is over ──► checkpoint ──► the next time begins. It cannot be made: a sentence, and the job goes on
 *   a signal ──► checkpoint ──► the end, with SUSPEND_EXIT_STOPPED. It cannot be made: again for STOP_PATIENCE_MS; then the
 *                signal does what it does without this, but for SIGUSR1 and SIGUSR2: the job goes on
 *   a second signal ──► the end, at once
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cold/cold.h"
#include "runtime/launcher/restart.h"

#define AGAIN_MS          100 /* the job is just busy with something that will be over; twice as long each time, */
#define PATIENCE_MS     30000 /* then it is worth a word */
#define STOP_PATIENCE_MS 8000 /* a job that is to end soon: there must be time left for that */
#define TWICE_MS         2000 /* what comes by both of Slurm's roads within that time is one signal: signals.c */

struct schedule {
	char dir[4096];
	struct cold_dir *at;      /* of head.dirs */
	struct gw_timer *timer;   /* until the next one, or attempt */
	uint64_t due_ns;          /* since when the next one should have been there; 0: it is not due */
	uint32_t attempts;        /* since then */
	bool is_own;              /* what is being written is ours */
	int signal;               /* that has come; 0: none */
	bool is_told;             /* by Slurm, to the daemons */
	uint64_t signal_ns;
};

static void begin(struct head *h);

static void on_timer(void *head)
{
	struct head *h = head;

	h->schedule->timer = NULL;
	begin(h);
}

static void wait_ms(struct head *h, uint64_t ms)
{
	struct schedule *s = h->schedule;

	gw_timer_cancel(s->timer);
	s->timer = NULL;
	if (gw_loop_timer(h->loop, &s->timer, ms, 0, on_timer, h) < 0)
		job_say(h, "mpirun: no memory for a timer: no further checkpoints are made");
}

static void next(struct head *h)
{
	h->schedule->due_ns = h->schedule->attempts = 0;
	if (h->spec->checkpoint_every_ms)
		wait_ms(h, h->spec->checkpoint_every_ms);
}

/* ---- the directory ----------------------------------------------------------------------------------------------------- */

/* It is made where it is missing, now or later: somebody may have removed it. */
static int hold(struct head *h, struct gw_error *why)
{
	struct schedule *s = h->schedule;

	if (mkdir(s->dir, 0700) == 0 && s->at)
		job_say(h, "mpirun: '%s' was removed, with the checkpoints in it; it is made again", s->dir);
	else if (errno != EEXIST && access(s->dir, F_OK) < 0)
		return gw_fail(why, -errno, "the directory '%s' cannot be made: %s", s->dir, strerror(errno));
	return checkpoint_hold(h, s->dir, &s->at, why);
}

int schedule_init(struct head *h, struct gw_error *why)
{
	const char *dir = h->spec->checkpoint_dir;
	gw_autofree char *path = NULL;
	struct schedule *s;

	if (!dir)
		return 0;
	s = h->schedule = calloc(1, sizeof(*s));
	if (!s)
		return gw_fail(why, -ENOMEM, "out of memory");
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return gw_fail(why, -errno, "-checkpoint-dir: the directory '%s' cannot be made: %s", dir, strerror(errno));
	path = realpath(dir, NULL);
	if (!path || strlen(path) >= sizeof(s->dir))
		return gw_fail(why, path ? -ENAMETOOLONG : -errno, "-checkpoint-dir: '%s' cannot be looked at: %s", dir,
		               strerror(path ? ENAMETOOLONG : errno));
	strcpy(s->dir, path);
	if (hold(h, why) < 0)
		return gw_fail_more(why, "-checkpoint-dir: ");
	if (h->spec->checkpoint_on & 1u << SIGTERM && slurm_script_ends_at(SIGTERM))
		job_say(h, "mpirun: when Slurm ends this job it ends the script first, and mpirun with it, before a checkpoint is complete; let the "
		        "script begin with 'trap : TERM', or say 'exec mpirun'");
	next(h);
	return 0;
}

void schedule_fini(struct head *h)
{
	struct schedule *s = h->schedule;
	struct gw_error why = { 0 };
	json_t *m = NULL;
	const char *job, *own = h->kvsname + strlen("godwit-");
	char cut[COLD_NAME_MAX];

	h->schedule = NULL;
	if (!s)
		return;
	if (s->at && h->size && h->ended == h->size && h->exit_code == 0 && !h->is_told_to_end &&
	    cold_dir_read(s->at->fd, s->dir, &m, cut, &why) >= 0) {
		job = json_string_value(json_object_get(m, "job"));
		if (job && strcmp(job, own) == 0)
			cold_dir_end(s->at, own);
		json_decref(m);
	}
	gw_timer_cancel(s->timer);
	free(s);
}

bool schedule_is_at(const struct head *h, const struct cold_dir *dir)
{
	return h->schedule && h->schedule->at == dir;
}

/* ---- attempts ---------------------------------------------------------------------------------------------------------- */

static uint64_t ms_since(uint64_t ns)
{
	return (gw_now_ns() - ns) / 1000000;
}

/* Need the job not end of it? */
static bool may_be_missed(int sig)
{
	return sig == SIGUSR1 || sig == SIGUSR2;
}

/* Nothing could be written after a signal: it is as if there had been no -checkpoint-on. */
static void give_up(struct head *h, const char *text)
{
	struct schedule *s = h->schedule;
	int sig = s->signal;
	bool goes_on = may_be_missed(sig);

	job_say(h, "mpirun: the job could not be written down after SIG%s: %s; %s", options_signal_name(sig), text, goes_on ? "it goes on" :
	        "the signal is passed on to the ranks");
	s->signal = 0;
	next(h);
	if (!goes_on)
		signals_pass(h, sig, s->is_told);
}

/* @code: nothing was written, for @text. */
static void missed(struct head *h, int code, const char *text)
{
	struct schedule *s = h->schedule;
	bool is_transient = code == -EBUSY || code == -EAGAIN;

	if (s->signal) {
		if (code != -ESHUTDOWN && ms_since(s->signal_ns) < STOP_PATIENCE_MS)
			wait_ms(h, AGAIN_MS);
		else
			give_up(h, text);
		return;
	}
	if (is_transient && ms_since(s->due_ns) < PATIENCE_MS) {
		wait_ms(h, AGAIN_MS << (s->attempts < 6 ? s->attempts : 6));
		s->attempts++;
		return;
	}
	if (code != -ESHUTDOWN && code != -ESRCH) { /* the job ends, or is about to */
		checkpoint_note_failure(h, text);
		job_say(h, "mpirun: no checkpoint was written to '%s': %s; the job goes on", s->dir, text);
	}
	next(h);
}

/* It is time. */
static void begin(struct head *h)
{
	struct schedule *s = h->schedule;
	struct gw_error why = { 0 };
	int code;

	if (!s->due_ns)
		s->due_ns = gw_now_ns();
	if (h->is_ending || h->checkpoint) /* schedule_over() comes */
		return;
	if (h->suspend.state == SUSPEND_DONE && !s->signal) /* what has been written still holds; schedule_over() comes */
		return;
	if (s->signal)
		suspend_resume(h);
	code = hold(h, &why);
	if (code == 0) {
		s->is_own = true;
		code = suspend_checkpoint(h, s->dir, s->signal != 0, NULL, NULL, &why);
	}
	if (code < 0) {
		s->is_own = false;
		missed(h, code, why.text);
	}
}

/* A checkpoint, whoever wanted it, has been written, or not; or the job was resumed. */
void schedule_over(struct head *h, int code, const char *text)
{
	struct schedule *s = h->schedule;
	bool was_own = s && s->is_own;

	if (!s || h->is_ending)
		return;
	s->is_own = false;
	if (was_own && code < 0)
		missed(h, code, text);
	else if (s->signal || (s->due_ns && !was_own))
		wait_ms(h, 0);
	else if (was_own)
		next(h);
}

/* ---- signals ----------------------------------------------------------------------------------------------------------- */

/*
 * After the first one. Slurm sends SIGTERM more than once, to the daemons and to mpirun, and kills what is there when its time is
 * over: until then the checkpoint may become complete.
 */
static bool second(struct head *h, int sig, bool is_told)
{
	struct schedule *s = h->schedule;

	if (sig != SIGTERM && sig != SIGINT && sig != SIGQUIT && sig != SIGHUP && !(h->spec->checkpoint_on & 1u << sig))
		return false;
	if (sig == s->signal && is_told != s->is_told && ms_since(s->signal_ns) < TWICE_MS)
		return true;
	if (sig == SIGTERM && h->spec->is_slurm) {
		s->signal = sig; /* what it does now when nothing can be written */
		s->is_told = is_told;
		return true;
	}
	job_fail(h, 128 + sig, "SIG%s, before the job was written down: it ends without that", options_signal_name(sig));
	return true;
}

bool schedule_signal(struct head *h, int sig, bool is_told)
{
	struct schedule *s = h->schedule;

	if (!s || h->is_ending || h->is_told_to_end)
		return false;
	if (s->signal)
		return second(h, sig, is_told);
	if (sig <= 0 || sig > 31 || !(h->spec->checkpoint_on & 1u << sig))
		return false;
	if (!signals_have_hearers(h)) { /* they are being made */
		if (h->spec->is_again || (h->spec->restart && strcmp(h->spec->restart->dir, s->dir) == 0)) {
			job_fail(h, SUSPEND_EXIT_STOPPED, "SIG%s, before the job went on: what was written down is as it was, and the same command "
			         "continues it", options_signal_name(sig));
			return true;
		}
		if (!may_be_missed(sig))
			return false;
	}
	s->signal = sig;
	s->is_told = is_told;
	s->signal_ns = gw_now_ns();
	gw_event("job.checkpoint_on", "{s:i}", "signal", sig);
	if (h->checkpoint && schedule_is_at(h, checkpoint_dir(h)))
		checkpoint_stop_after(h);
	else
		begin(h);
	return true;
}

bool schedule_is_writing(const struct head *h)
{
	return h->schedule && h->schedule->is_own;
}

int schedule_stop_signal(const struct head *h)
{
	return h->schedule ? h->schedule->signal : 0;
}
