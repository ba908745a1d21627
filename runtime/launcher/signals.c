/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signals that mpirun gets, passed on to the ranks wherever they live.
 *
 * The daemons and ranks are in sessions of their own, so what a terminal sends reaches mpirun only. At SIGTSTP (Ctrl-Z)
 * mpirun waits until every rank has been stopped, and stops itself; at SIGCONT all go on. Those of a suspended job rest
 * already, and go on resting.
 *
 * Slurm sends signals to the tasks of a job's steps, which are the daemons, and now and then to mpirun as well: when the job
 * is cancelled or its time is over, and with 'scancel --full'. What comes by both roads is one signal.
 */
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define TERM_GRACE_MS 8000 /* after a forwarded signal: ranks that have not ended are killed */
#define TWICE_MS      2000 /* a signal that comes by both of Slurm's roads within that time is one: the kernel merges them, too */
#define STOP_WAIT_MS 10000 /* after SIGTSTP: mpirun stops, whether all ranks have said that they are stopped or not */

void signals_send(struct head *h, uint32_t rank, int sig)
{
	struct rank *r = &h->ranks[rank];

	if (r->state == RANK_WAITING || r->held.n) /* it is not started, or others wait until its new owner speaks */
		rt_sigqueue_add(&r->held, sig);
	else if (r->state == RANK_RUNNING)
		job_cluster_send(h, r->cluster, json_pack("{s:s, s:i, s:i}", "op", "signal", "rank", (int)rank, "signal", sig));
}

void signals_send_held(struct head *h, uint32_t rank)
{
	struct rt_sigqueue held = h->ranks[rank].held;

	h->ranks[rank].held.n = 0;
	for (uint8_t i = 0; i < held.n; i++)
		signals_send(h, rank, held.list[i]);
}

/* Its owner has given it away: whether the new one has spoken yet tells where the signal must go. */
void signals_undelivered(struct head *h, uint32_t rank, uint32_t cluster, int sig)
{
	struct rank *r = &h->ranks[rank];

	if (r->state != RANK_RUNNING || (sig == SIGTSTP && !h->is_stopping) || (sig == SIGCONT && h->is_stopping))
		return; /* the opposite has been asked for meanwhile */
	if (r->cluster == cluster)
		rt_sigqueue_add(&r->held, sig);
	else
		signals_send(h, rank, sig);
}

static void forward(struct head *h, int sig)
{
	for (uint32_t r = 0; r < h->size; r++)
		signals_send(h, r, sig);
}

/* ---- Ctrl-Z ---------------------------------------------------------------------------------------------------------- */

static void stop_self(struct head *h)
{
	gw_timer_cancel(h->stop_timer);
	h->stop_timer = NULL;
	h->is_stopping = h->is_stop_wanted = false;
	kill(getpid(), SIGSTOP); /* and here we go on; SIGCONT waits in our descriptor */
}

static void check_stopped(struct head *h)
{
	if (!h->is_stopping)
		return;
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_RUNNING && h->ranks[r].is_stop_due)
			return;
	stop_self(h);
}

static void on_stop_timer(void *ctx)
{
	struct head *h = ctx;

	h->stop_timer = NULL;
	stop_self(h);
}

void signals_delivered(struct head *h, uint32_t rank, int sig)
{
	if (sig == SIGTSTP)
		h->ranks[rank].is_stop_due = false;
	check_stopped(h);
}

void signals_rank_ended(struct head *h)
{
	check_stopped(h);
}

static void stop_all(struct head *h)
{
	if (h->is_stopping) { /* a second time: now, even if a rank in a long move is not stopped yet */
		stop_self(h);
		return;
	}
	if (h->suspend.state != SUSPEND_NONE) { /* a rank that is stopped half way would never be quiet */
		h->is_stop_wanted = true;
		if (h->suspend.state == SUSPEND_DONE)
			stop_self(h);
		return;
	}
	h->is_stopping = true;
	for (uint32_t r = 0; r < h->size; r++)
		h->ranks[r].is_stop_due = h->ranks[r].state == RANK_RUNNING;
	forward(h, SIGTSTP);
	gw_loop_timer(h->loop, &h->stop_timer, STOP_WAIT_MS, 0, on_stop_timer, h);
	check_stopped(h);
}

static void continue_all(struct head *h)
{
	gw_timer_cancel(h->stop_timer);
	h->stop_timer = NULL;
	h->is_stopping = h->is_stop_wanted = false;
	if (h->suspend.state == SUSPEND_NONE)
		forward(h, SIGCONT);
}

void signals_suspended(struct head *h)
{
	if (h->is_stop_wanted)
		stop_self(h);
}

/* ---- the end --------------------------------------------------------------------------------------------------------- */

static void on_term_grace(void *ctx)
{
	struct head *h = ctx;

	h->grace = NULL;
	job_fail(h, 128 + SIGKILL, "ranks have not ended %d s after the signal; killing them", TERM_GRACE_MS / 1000);
}

bool signals_have_hearers(const struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_RUNNING)
			return true;
	return false;
}

static void end_all(struct head *h, int sig)
{
	bool is_again = h->is_told_by_slurm && !h->is_told_itself && sig == SIGTERM;

	h->is_told_itself = true;
	if (is_again)
		return;
	if (h->is_told_to_end || !signals_have_hearers(h)) {
		job_fail(h, 128 + sig, "%s", ""); /* a second time, or before there is anybody to forward to */
		return;
	}
	if (h->is_ending)
		return;
	h->is_told_to_end = true;
	suspend_resume(h); /* who is stopped does not hear it */
	if (sig == SIGINT && isatty(STDERR_FILENO))
		job_say(h, "mpirun: SIGINT is passed on to the ranks; press Ctrl-C again to kill them");
	forward(h, sig);
	gw_loop_timer(h->loop, &h->grace, TERM_GRACE_MS, 0, on_term_grace, h);
}

/*
 * Slurm's SIGKILL follows after its KillWait, which is longer than our grace, or not at all, when somebody has sent nothing
 * but the signal: the ranks have the time that they would have under srun.
 */
static void end_by_slurm(struct head *h)
{
	if (h->is_told_by_slurm || h->is_ending)
		return;
	h->is_told_by_slurm = true;
	gw_timer_cancel(h->grace);
	h->grace = NULL;
	if (!signals_have_hearers(h)) {
		job_fail(h, 128 + SIGTERM, "Slurm ends this job before its ranks have begun (SIGTERM: it was cancelled, or its time is over)");
		return;
	}
	job_say(h, "mpirun: Slurm ends this job (SIGTERM: it was cancelled, or its time is over); the signal is passed on to the ranks");
	suspend_resume(h);
	if (!h->is_told_to_end)
		forward(h, SIGTERM);
	h->is_told_to_end = true;
}

static const struct { int sig; void (*act)(struct head *h, int sig); } table[] = {
	{ SIGINT, end_all },  { SIGTERM, end_all }, { SIGHUP, end_all },   { SIGQUIT, end_all },
	{ SIGUSR1, forward }, { SIGUSR2, forward }, { SIGWINCH, forward }, { SIGTSTP, NULL },
	{ SIGCONT, NULL },    { SIGCHLD, NULL },
};

static void act(struct head *h, int sig)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(table); i++)
		if (table[i].sig == sig && table[i].act)
			table[i].act(h, sig);
}

void signals_pass(struct head *h, int sig, bool is_told)
{
	if (is_told && sig == SIGTERM)
		end_by_slurm(h);
	else
		act(h, sig);
}

/* Has it come less than TWICE_MS ago? @at: by the other road */
static bool is_twice(const uint64_t *at, int sig)
{
	return at[sig] && gw_now_ns() - at[sig] < TWICE_MS * 1000000ull;
}

void signals_told(struct cluster *c, int sig)
{
	struct head *h = c->head;

	if (sig <= 0 || sig >= (int)GW_ARRAY_LEN(h->told_ns))
		return;
	for (uint32_t i = 0; i < c->index && sig != SIGTERM; i++)
		if (h->clusters[i].link)
			return; /* its daemon has got it, too */
	if (schedule_signal(h, sig, true))
		return;
	if (sig == SIGTERM) {
		end_by_slurm(h);
	} else if (!is_twice(h->own_ns, sig)) {
		h->told_ns[sig] = gw_now_ns();
		act(h, sig);
	}
}

static void on_signal(void *ctx, uint32_t events)
{
	struct head *h = ctx;
	struct signalfd_siginfo si;

	(void)events;
	while (read(h->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		int sig = (int)si.ssi_signo;

		if (schedule_signal(h, sig, false))
			continue;
		if (sig == SIGTSTP)
			stop_all(h);
		else if (sig == SIGCONT)
			continue_all(h);
		if (sig == SIGTERM || !is_twice(h->told_ns, sig)) {
			h->own_ns[sig] = gw_now_ns();
			act(h, sig);
		}
	}
}

int signals_init(struct head *h)
{
	struct sigaction now;
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* EFBIG, and a sentence */
	sigemptyset(&set);
	for (size_t i = 0; i < GW_ARRAY_LEN(table); i++) /* what nohup or a shell's '&' has us ignore stays ignored */
		if (sigaction(table[i].sig, NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(&set, table[i].sig);
	sigprocmask(SIG_BLOCK, &set, NULL);
	h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (h->signal_fd < 0)
		return -errno;
	return gw_loop_watch(h->loop, &h->signal_watch, h->signal_fd, EPOLLIN, on_signal, h);
}
