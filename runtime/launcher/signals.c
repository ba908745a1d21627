/* SPDX-License-Identifier: BSD-2-Clause */
/* Signals that mpirun gets, passed on to the ranks wherever they live. */
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define TERM_GRACE_MS 8000 /* after a forwarded signal: ranks that have not ended are killed */

void signals_send(struct head *h, uint32_t rank, int sig)
{
	job_cluster_send(h, h->ranks[rank].cluster, json_pack("{s:s, s:i, s:i}", "op", "signal", "rank", (int)rank, "signal",
	                                                      sig));
}

static void on_term_grace(void *ctx)
{
	struct head *h = ctx;

	h->grace = NULL;
	job_fail(h, 128 + SIGKILL, "ranks have not ended %d s after the signal; killing them", TERM_GRACE_MS / 1000);
}

static void forward(struct head *h, int sig)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_RUNNING)
			signals_send(h, r, sig);
}

static void on_signal(void *ctx, uint32_t events)
{
	struct head *h = ctx;
	struct signalfd_siginfo si;

	(void)events;
	while (read(h->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		int sig = (int)si.ssi_signo;

		if (sig == SIGCHLD)
			continue; /* a daemon's end is seen on its link */
		if (sig == SIGUSR1 || sig == SIGUSR2) {
			forward(h, sig);
		} else if (h->is_told_to_end || h->up < h->n_clusters) {
			job_fail(h, 128 + sig, "%s", ""); /* a second time, or before there is anybody to forward to */
		} else if (!h->is_ending) {
			h->is_told_to_end = true;
			forward(h, sig);
			gw_loop_timer(h->loop, &h->grace, TERM_GRACE_MS, 0, on_term_grace, h);
		}
	}
}

int signals_init(struct head *h)
{
	static const int wanted[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD };
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	for (size_t i = 0; i < GW_ARRAY_LEN(wanted); i++)
		sigaddset(&set, wanted[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (h->signal_fd < 0)
		return -errno;
	return gw_loop_watch(h->loop, &h->signal_watch, h->signal_fd, EPOLLIN, on_signal, h);
}
