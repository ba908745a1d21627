/* SPDX-License-Identifier: BSD-2-Clause */
/* What the end of a rank means for the job, and how it is told. */
#include <string.h>
#include <sys/wait.h>

#include "runtime/launcher/head.h"

/* What was wrong with rank @n, and whether that is the end of the others. */
GW_PRINTF(3, 4) static void fail(struct head *h, int code, const char *fmt, ...)
{
	bool is_over = h->ended == h->size;
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (h->spec->is_surviving && !is_over) {
		job_note_code(h, code);
		job_say(h, "mpirun: %s; the others go on (-disable-auto-cleanup)", text);
	} else {
		job_fail(h, code, "%s%s", text, is_over ? "" : "; ending the job");
	}
}

static void rank_killed(struct head *h, uint32_t n, struct rank *r)
{
	const struct host *host = &h->hosts[h->clusters[r->cluster].host];
	char end[128], core[600] = "", name[CLUSTER_NAME_MAX];

	if (WCOREDUMP(r->status) && host->is_remote) /* its kernel has a pattern of its own, and the file is there */
		snprintf(core, sizeof(core), ", core dumped on host %s", host->name);
	else if (WCOREDUMP(r->status))
		core_describe(h, n, core, sizeof(core));
	fail(h, 128 + WTERMSIG(r->status), "rank %u (pid %d, %s) %s%s", n, (int)r->pid, clusters_name(h, r->cluster, name),
	     rt_end_describe(r->status, true, end, sizeof(end)), core);
}

static void rank_failed(struct head *h, uint32_t n, struct rank *r, enum pmi_phase phase)
{
	char end[128], name[CLUSTER_NAME_MAX];

	clusters_name(h, r->cluster, name);
	if (WIFSIGNALED(r->status)) {
		rank_killed(h, n, r);
	} else if (WEXITSTATUS(r->status) == 0) {
		if (h->ended < h->size)
			fail(h, 1, "rank %u (pid %d, %s) ended without calling MPI_Finalize", n, (int)r->pid, name);
	} else if (phase == PMI_FINALIZED) {
		job_note_code(h, WEXITSTATUS(r->status)); /* the others do not need it any more: let them finish */
	} else {
		fail(h, WEXITSTATUS(r->status), "rank %u (pid %d, %s) %s", n, (int)r->pid, name,
		     rt_end_describe(r->status, true, end, sizeof(end)));
	}
}

void verdict_rank_ended(struct head *h, uint32_t n, int status, enum pmi_phase phase)
{
	struct rank *r = &h->ranks[n];

	r->state = RANK_ENDED;
	r->status = status;
	h->ended++;
	input_closed(h, n);
	if (h->is_ending)
		return;
	if (spawn_is_given_up(h, n))
		; /* whoever wanted it has been told */
	else if (status != 0 && h->is_told_to_end)
		job_note_code(h, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	else if (status != 0 || (phase == PMI_OPEN && !h->is_told_to_end))
		rank_failed(h, n, r, phase);
	else
		pmi_head_rank_ended(h, r->world);
	if (h->ended == h->size)
		job_end(h);
	else
		signals_rank_ended(h);
}

/* ---- -print-all-exitcodes -------------------------------------------------------------------------------------------- */

static bool is_same_end(const struct rank *a, const struct rank *b)
{
	return a->state == b->state && (a->state != RANK_ENDED || a->status == b->status);
}

/* "ranks 0-2, 5" of all that ended as @first did */
static void list_ranks(const struct head *h, uint32_t first, char *buf, size_t cap)
{
	uint32_t count = 0;
	size_t at = 0;

	buf[0] = '\0';
	for (uint32_t r = first; r < h->size; r++) {
		uint32_t from = r;

		if (!is_same_end(&h->ranks[r], &h->ranks[first]))
			continue;
		while (r + 1 < h->size && is_same_end(&h->ranks[r + 1], &h->ranks[first]))
			r++;
		if (at > cap - 40) {
			snprintf(buf + at, cap - at, ", ...");
			break;
		}
		at += (size_t)snprintf(buf + at, cap - at, r > from ? "%s%u-%u" : "%s%u", count ? ", " : "", from, r);
		count += r - from + 1;
	}
}

void verdict_print_codes(struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++) {
		char list[700], end[128] = "ended with the job";
		bool is_told = false;

		for (uint32_t before = 0; before < r && !is_told; before++)
			is_told = is_same_end(&h->ranks[before], &h->ranks[r]);
		if (is_told)
			continue;
		if (h->ranks[r].state == RANK_ENDED)
			rt_end_describe(h->ranks[r].status, false, end, sizeof(end));
		else if (h->ranks[r].state == RANK_WAITING)
			snprintf(end, sizeof(end), "not started");
		list_ranks(h, r, list, sizeof(list));
		job_say(h, "mpirun: rank%s %s: %s", strpbrk(list, "-,") ? "s" : "", list, end);
	}
}
