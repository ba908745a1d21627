/* SPDX-License-Identifier: BSD-2-Clause */
/* struct rank: made by a launch or a move, counted, signalled, described, ended. */
#include "runtime/clusterd/clusterd.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct rank *rank_find(struct clusterd *d, uint32_t proc)
{
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->proc == proc && r->state == RANK_HERE)
			return r;
	}
	return NULL;
}

void plumbing_init(struct ct_plumbing *p)
{
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		p->rank_fd[i] = p->number_in_rank[i] = p->daemon_fd[i] = -1;
}

void plumbing_close(struct ct_plumbing *p)
{
	for (int i = 0; i < CT_PLUMB_MAX; i++) {
		if (p->rank_fd[i] >= 0)
			close(p->rank_fd[i]);
		p->rank_fd[i] = -1;
	}
}

int rank_create(struct rank **out, struct clusterd *d, uint32_t proc, uint32_t appnum, bool has_stdin,
                struct ct_plumbing *plumbing, struct gw_error *why)
{
	struct rank *r = calloc(1, sizeof(*r));
	int code;

	if (!r)
		return gw_fail(why, -ENOMEM, "rank %u: out of memory", proc);
	r->d = d;
	r->proc = proc;
	r->state = RANK_ARRIVING;
	r->ctl_fd = r->pmi_fd = r->slot = -1;
	r->out[0].fd = r->out[1].fd = r->in.fd = -1;
	r->in.is_wanted = has_stdin;
	gw_list_append(&d->ranks, &r->node);
	code = streams_open(r, plumbing, why);
	if (code == 0)
		code = pmi_port_open(r, appnum, plumbing, why);
	if (code == 0)
		code = agent_open(r, plumbing, why);
	if (code < 0) {
		rank_destroy(r);
		return why ? gw_fail_more(why, "rank %u: ", proc) : code;
	}
	*out = r;
	return 0;
}

void rank_uncount(struct rank *r)
{
	struct clusterd *d = r->d;

	if (!r->is_counted)
		return;
	r->is_counted = false;
	/* loads are hints for waiting ranks: no order needed */
	atomic_fetch_sub_explicit(&d->segment.clusters[d->cluster].ranks, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&d->segment.domains[d->domain].ranks, 1, memory_order_relaxed);
}

void rank_count(struct rank *r)
{
	struct clusterd *d = r->d;

	if (r->is_counted)
		return;
	r->is_counted = true;
	atomic_fetch_add_explicit(&d->segment.clusters[d->cluster].ranks, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&d->segment.domains[d->domain].ranks, 1, memory_order_relaxed);
}

const cpu_set_t *rank_bind(struct rank *r, int slot)
{
	struct clusterd *d = r->d;
	uint32_t best = 0;

	if (d->n_binds == 0)
		return &d->cpus;
	for (uint32_t i = 1; i < d->n_binds; i++)
		if (d->bind_users[i] < d->bind_users[best])
			best = i;
	if (slot >= 0 && d->bind_users[(uint32_t)slot % d->n_binds] == d->bind_users[best])
		best = (uint32_t)slot % d->n_binds;
	d->bind_users[best]++;
	r->slot = (int)best;
	return &d->binds[best];
}

void rank_destroy(struct rank *r)
{
	if (!r)
		return;
	rank_uncount(r);
	if (r->slot >= 0)
		r->d->bind_users[r->slot]--;
	rank_unwatch_status(r);
	ct_rank_kill(r->ct);
	agent_close(r);
	pmi_port_close(r);
	streams_close(r);
	gw_list_remove(&r->node);
	free(r);
}

/* ---- the end of a rank ----------------------------------------------------------------------------------------- */

static void on_status(void *ctx, uint32_t events)
{
	(void)events;
	rank_look_at_status(ctx);
}

void rank_look_at_status(struct rank *r)
{
	struct clusterd *d = r->d;
	int status, code;

	if (r->state != RANK_HERE || !r->ct)
		return;
	if (r->is_frozen || !moves_allow_reap(r)) {
		/* its copy here was given away: left(), lost() or stay() will tell; or resume */
		rank_unwatch_status(r);
		return;
	}
	code = ct_rank_reap(r->ct, &status);
	if (code == -EAGAIN)
		return;
	if (code < 0) {
		gw_log(GW_ERROR, "rank %u: cannot be reaped: %s", r->proc, strerror(-code));
		status = SIGKILL;
	}
	/* all that it wrote before it died is in our ends: an abort line, and output */
	pmi_port_drain(r);
	streams_drain(r);
	rank_uncount(r);
	noc_inbox_void(&d->segment, r->proc);
	agent_publish(r, NOC_NAME_GONE);
	gw_event("rank.exited", "{s:i, s:i, s:i, s:i}", "rank", (int)r->proc, "cluster", (int)d->cluster, "rank_pid",
	         (int)r->pid, "status", status);
	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i, s:i}", "op", "exited", "rank", (int)r->proc, "status", status,
	                                     "phase", (int)pmi_session_phase(r->pmi)));
	moves_rank_ended(r);
	rank_destroy(r);
	suspend_look(d);
}

/* ---- the beginning --------------------------------------------------------------------------------------------- */

int rank_watch_status(struct rank *r)
{
	if (r->status_watch || !r->ct)
		return 0;
	return gw_loop_watch(r->d->loop, &r->status_watch, ct_rank_status_fd(r->ct), EPOLLIN, on_status, r);
}

void rank_unwatch_status(struct rank *r)
{
	gw_watch_remove(r->status_watch);
	r->status_watch = NULL;
}

int rank_adopt(struct rank *r, struct ct_rank *ct)
{
	int code;

	r->ct = ct;
	r->pid = ct_rank_pid(ct);
	r->state = RANK_HERE;
	rank_count(r);
	pace_begin(r);
	code = rank_watch_status(r);
	if (code == 0)
		code = streams_watch(r);
	if (code == 0)
		code = pmi_port_watch(r);
	if (code == 0)
		code = agent_watch(r);
	return code;
}

/* ---- signals and status ---------------------------------------------------------------------------------------- */

/* A hexadecimal mask of /proc/<pid>/status, as SigCgt */
static uint64_t signal_mask(pid_t pid, const char *key)
{
	char path[64], line[256];
	unsigned long long mask = 0;
	size_t len = strlen(key);
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, len) == 0 && sscanf(line + len, ": %llx", &mask) == 1)
			break;
	if (f)
		fclose(f);
	return mask;
}

/*
 * A rank leads a session of its own, where the kernel drops a SIGTSTP that the program does not catch: only one that has
 * a handler for it gets it, the others are stopped.
 */
static int stop_signal(const struct rank *r)
{
	uint64_t cares = signal_mask(r->pid, "SigCgt") | signal_mask(r->pid, "SigIgn");

	return cares >> (SIGTSTP - 1) & 1 ? SIGTSTP : SIGSTOP;
}

void rank_signal(struct rank *r, int sig)
{
	int code;

	if ((moves_is_busy(r) && !moves_has_arrived(r)) || r->undelivered.n) {
		/* a frozen rank's pending signals are already in its image: deliver where it runs next, in order */
		rt_sigqueue_add(&r->undelivered, sig);
		return;
	}
	code = r->ct ? ct_rank_signal(r->ct, sig == SIGTSTP ? stop_signal(r) : sig) : 0;
	if (code == -EAGAIN) {
		rt_sigqueue_add(&r->undelivered, sig);
		return;
	}
	if (code < 0 && code != -ESRCH)
		gw_log(GW_WARN, "rank %u: signal %d cannot be sent: %s", r->proc, sig, strerror(-code));
	if (sig == SIGTSTP)
		gw_link_send_json(r->d->head, json_pack("{s:s, s:i, s:i}", "op", "signalled", "rank", (int)r->proc, "signal", sig));
}

bool rank_is_stopped(const struct rank *r)
{
	char path[64], line[512];
	const char *end = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)r->pid);
	f = fopen(path, "re");
	if (f) {
		end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL; /* the name before it may hold anything */
		fclose(f);
	}
	return end && end[1] && end[2] == 'T';
}

/* "Threads:" and "RssAnon:" of /proc/<pid>/status; 0 where the process has just ended */
static void read_proc(pid_t pid, uint64_t *threads, uint64_t *private_kib)
{
	char path[64], line[256];
	FILE *f;

	*threads = *private_kib = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		unsigned long long v;

		if (sscanf(line, "Threads: %llu", &v) == 1)
			*threads = v;
		else if (sscanf(line, "RssAnon: %llu", &v) == 1)
			*private_kib = v;
	}
	fclose(f);
}

const char *rank_state_text(const struct rank *r)
{
	static const char *const phases[] = { "no MPI", "MPI", "finalized" };
	enum pmi_phase phase = pmi_session_phase(r->pmi);

	if (r->is_frozen)
		return "checkpoint";
	if (r->is_suspended || r->is_stopped_by_another)
		return "suspended";
	if (moves_is_busy(r))
		return "moving";
	if (phase == PMI_OPEN && r->agent != AGENT_ATTACHED)
		return r->agent == AGENT_CLOSING || r->agent == AGENT_CLOSED ? "in MPI_Finalize" : "in MPI_Init";
	return phases[phase];
}

json_t *rank_status_json(struct rank *r, bool is_movable_asked)
{
	uint64_t threads, private_kib;
	json_t *all;

	read_proc(r->pid, &threads, &private_kib);
	all = json_pack("{s:s, s:s, s:I, s:I, s:o*, s:o*}", "state", rank_state_text(r), "agent", agent_state_name(r->agent), "threads",
	                (json_int_t)threads, "private_kib", (json_int_t)private_kib, "requested", moves_requested_json(r), "movable",
	                is_movable_asked ? movable_json(r) : NULL);
	json_object_update_new(all, measure_rank_json(r));
	return all;
}
