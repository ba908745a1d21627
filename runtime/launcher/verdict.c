/* SPDX-License-Identifier: BSD-2-Clause */
/* What the end of a rank means for the job, and how it is told. */
#include <string.h>
#include <sys/wait.h>

#include "runtime/launcher/head.h"

const char *verdict_describe(int wait_status, char *buf, size_t cap)
{
	if (WIFSIGNALED(wait_status))
		snprintf(buf, cap, "was killed by signal %d (%s)%s", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)),
		         WCOREDUMP(wait_status) ? ", core dumped" : "");
	else
		snprintf(buf, cap, "exited with status %d", WEXITSTATUS(wait_status));
	return buf;
}

static void rank_failed(struct head *h, uint32_t n, struct rank *r, enum pmi_phase phase)
{
	char end[128];

	verdict_describe(r->status, end, sizeof(end));
	if (WIFSIGNALED(r->status)) {
		job_fail(h, 128 + WTERMSIG(r->status), "rank %u (pid %d, cluster %u) %s; ending the job", n, (int)r->pid, r->cluster,
		         end);
	} else if (WEXITSTATUS(r->status) == 0) {
		if (h->ended < h->size)
			job_fail(h, 1, "rank %u (pid %d, cluster %u) ended without calling MPI_Finalize; ending the job", n,
			         (int)r->pid, r->cluster);
	} else if (phase == PMI_FINALIZED) {
		job_note_code(h, WEXITSTATUS(r->status)); /* the others do not need it any more: let them finish */
	} else {
		job_fail(h, WEXITSTATUS(r->status), "rank %u (pid %d, cluster %u) %s%s", n, (int)r->pid, r->cluster, end,
		         h->ended < h->size ? "; ending the job" : "");
	}
}

void verdict_rank_ended(struct head *h, uint32_t n, int status, enum pmi_phase phase)
{
	struct rank *r = &h->ranks[n];

	r->state = RANK_ENDED;
	r->status = status;
	h->ended++;
	if (n == h->input.rank)
		input_stop(h);
	if (h->is_ending)
		return;
	if (status != 0 && h->is_told_to_end)
		job_note_code(h, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	else if (status != 0 || (phase == PMI_OPEN && !h->is_told_to_end))
		rank_failed(h, n, r, phase);
	else
		pmi_head_rank_ended(h);
	if (h->ended == h->size)
		job_end(h, "shutdown");
}
