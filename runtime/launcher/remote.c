/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Daemons on other hosts: for each host one process of the launcher (ssh, or what the user says; one of srun for all), which
 * starts that host's daemons; they come back by TCP and prove the secret, which the launcher's process has carried
 * (clusterd/join.c). What it is told, and what its end means: launchers.c.
 *
 * What that process and the daemons write on standard error comes back through it (starter.h); when all daemons of the host
 * are there it is released.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "runtime/launcher/head.h"
#include "runtime/launcher/starter.h"

#define DEAD_MS  6000
#define WAKE_MS  2000  /* the look comes every second */
#define START_MS 60000 /* until all daemons are there; ssh has time to ask for a ticket, and slow disks to wake up */
#define END_MS   3000
#define REASON_MS 500

struct launched {            /* a launcher's process, for clusters of one host; srun's: of several, as many of each */
	struct gw_list node;
	struct head *head;
	const struct host *host;   /* the first, the others follow */
	uint32_t n_hosts, first, count;
	struct starter *process;   /* NULL when it could not be started */
	struct gw_timer *reason;   /* until what srun has said of ended tasks is all there is */
	char ended[256];           /* on these nodes */
	struct gw_timer *end;      /* its last daemon has left */
	uint32_t joined;
	bool is_given_up;
};

struct remotes {
	struct gw_timer *look, *start;
	struct gw_list launched;
};

/* ---- what comes back on standard error ------------------------------------------------------------------------------- */

/* Those that come to a running job are missed by whoever asked for them; else it is the end of the job. */
static void fail(struct launched *l, const char *fmt, ...)
{
	struct growth *g = l->head->clusters[l->first].growth;
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (g)
		grow_failed(g, -EIO, "%s", text);
	else
		job_fail(l->head, 1, "%s", text);
}

static void explain(struct launched *l)
{
	struct launch what = { .hosts = l->host, .n_hosts = l->n_hosts };
	struct gw_error why = { 0 };

	gw_timer_cancel(l->reason);
	l->reason = NULL;
	launchers_explain(&what, l->ended[0] ? l->ended : NULL, starter_status(l->process), starter_held(l->process), &why);
	starter_hold(l->process, "");
	fail(l, "%s", why.text);
}

static void on_reason(void *ctx)
{
	struct launched *l = ctx;

	l->reason = NULL;
	if (!l->head->is_ending)
		explain(l);
}

static void on_said(void *ctx, const char *line)
{
	struct launched *l = ctx;

	/* that a daemon finds a job that has ended before it came is not worth a word */
	if (l->joined == l->count || !l->head->is_ending)
		job_say(l->head, "%s", line);
}

/*
 * srun goes on while one task does: that another has ended it only says, a moment before or after what the task has said
 * itself. Return whether the line is dealt with.
 */
static bool on_heard(void *ctx, const char *line)
{
	struct launched *l = ctx;
	bool is_starting = l->joined < l->count && !l->head->is_ending, is_chatter = slurm_is_chatter(line);

	if (!l->host->is_slurm || !l->process || (!is_chatter && !l->reason))
		return false;
	if (is_starting && !is_chatter) {
		starter_hold(l->process, line);
		explain(l);
	} else if (is_starting && !l->reason && slurm_is_task_end(line, l->ended, sizeof(l->ended))) {
		if (starter_held(l->process)[0]) {
			explain(l);
		} else { /* this line, if nothing better comes */
			starter_hold(l->process, line);
			gw_loop_timer(l->head->loop, &l->reason, REASON_MS, 0, on_reason, l);
		}
	}
	return true;
}

/* ---- its end --------------------------------------------------------------------------------------------------------- */

static bool is_over(const struct launched *l)
{
	return !l->process || starter_is_over(l->process);
}

static void cancel(struct launched *l)
{
	gw_timer_cancel(l->end);
	gw_timer_cancel(l->reason);
	l->end = l->reason = NULL;
}

static void on_ended(void *ctx)
{
	struct launched *l = ctx;

	if (l->joined < l->count && !l->head->is_ending && !l->is_given_up) {
		for (uint32_t c = l->first; c < l->first + l->count; c++)
			if (!l->head->clusters[c].link)
				l->head->clusters[c].state = CLUSTER_ENDED;
		explain(l);
	}
	cancel(l);
	starter_close(l->process);
	starter_release(l->process);
	drain_check(l->head);
	job_check_all_ended(l->head);
}

static void in_child(void *ctx)
{
	const struct launched *l = ctx;

	prctl(PR_SET_PDEATHSIG, SIGTERM); /* one that has not reached its host yet would not see mpirun go */
	launchers_clean_environment(l->head);
}

static const struct starter_ops ops = { .said = on_said, .ended = on_ended, .heard = on_heard, .in_child = in_child };

/* Its daemons have ended: it has a moment to follow them. */
static void on_end_deadline(void *ctx)
{
	struct launched *l = ctx;

	l->end = NULL;
	starter_kill(l->process);
}

/* Is one of its daemons there, or expected? */
static bool is_needed(const struct launched *l)
{
	for (uint32_t c = l->first; c < l->first + l->count; c++)
		if (l->head->clusters[c].state < CLUSTER_LEFT)
			return true;
	return false;
}

void remote_left(struct cluster *c)
{
	struct launched *l = c->launched;

	if (l && !is_over(l) && !l->end && !is_needed(l))
		gw_loop_timer(l->head->loop, &l->end, END_MS, 0, on_end_deadline, l);
}

bool remote_is_over(const struct cluster *c)
{
	return !c->launched || is_over(c->launched) || is_needed(c->launched);
}

void remote_give_up(struct cluster *c)
{
	struct launched *l = c->launched;

	if (!l || l->is_given_up)
		return;
	l->is_given_up = true;
	if (!l->process)
		return;
	starter_hold(l->process, "");
	starter_kill(l->process);
}

/* ---- joined ---------------------------------------------------------------------------------------------------------- */

/* It comes to a host where others are: one of them hands over their segment. */
static void share_segment(struct head *h, const struct cluster *c)
{
	for (uint32_t i = 0; i < c->first; i++)
		if (h->clusters[i].host == c->host && h->clusters[i].state == CLUSTER_UP &&
		    job_cluster_send(h, i, json_pack("{s:s, s:i}", "op", "share", "cluster", (int)c->index)))
			return;
}

static void on_joined(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct head *h = ctx;
	struct cluster *c = peer->cluster < h->n_clusters ? &h->clusters[peer->cluster] : NULL;
	struct launched *l = c ? c->launched : NULL;
	int code;

	(void)why;
	if (!c || peer->purpose != GW_TRUST_JOIN || !l || c->link || c->state != CLUSTER_STARTING || h->is_ending) {
		if (!h->is_ending)
			gw_log(GW_WARN, "a daemon comes for cluster %u, where none is missing; closed", peer->cluster);
		close(fd);
		return;
	}
	code = gw_link_create(&c->link, h->loop, fd, &reports_link_ops, c);
	if (code < 0) {
		job_fail(h, 1, "no link to the daemon of cluster %u: %s", c->index, strerror(-code));
		return;
	}
	if (++l->joined == l->count)
		starter_release(l->process);
	if (c->index == c->first) {
		share_segment(h, c);
		clusters_send_start(h, c);
	} else if (h->clusters[c->first].state == CLUSTER_UP || h->clusters[c->first].state == CLUSTER_JOINED) {
		clusters_send_start(h, c);
	}
}

/* A host that has vanished says nothing at all. */
static void on_look(void *ctx)
{
	struct head *h = ctx;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];

		if (c->link && c->launched && gw_tcp_is_dead(gw_link_fd(c->link), DEAD_MS))
			clusters_closed(c->link, c, -ETIMEDOUT);
	}
}

/* Rule 24 for this end: mpirun or its host has not run for a while, and hosts may have counted us as gone meanwhile. */
static void on_wake(void *ctx, uint64_t slept_ms)
{
	struct head *h = ctx;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];
		uint64_t silence_ms = c->link && c->launched ? gw_tcp_silence_ms(gw_link_fd(c->link)) : 0;

		/* a link that has ended is read to its end: last words of a daemon may be there */
		if (c->link && c->launched && silence_ms != UINT64_MAX && (slept_ms >= DEAD_MS || silence_ms >= DEAD_MS))
			clusters_closed(c->link, c, -ETIMEDOUT);
	}
}

static void on_start_deadline(void *ctx)
{
	struct head *h = ctx;

	h->remotes->start = NULL;
	gw_list_for(e, &h->remotes->launched) {
		struct launched *l = gw_list_entry(e, struct launched, node);

		if (l->joined < l->count && !h->clusters[l->first].growth && !l->is_given_up) {
			const char *last = starter_held(l->process);

			job_fail(h, 1, "host %s: its daemon has not come within %d s%s%s", l->host->name, START_MS / 1000, *last ? ": " : "", last);
			return;
		}
	}
}

/* ---- started --------------------------------------------------------------------------------------------------------- */

static int launch(struct head *h, struct launched *l, const char *path, struct gw_error *why)
{
	struct strings argv = { 0 };
	char to[DOORS_TEXT_MAX] = "", line[GW_TRUST_SECRET_HEX + 1];
	struct launch what = { .hosts = l->host, .n_hosts = l->n_hosts, .first_cluster = l->first, .count = l->count / l->n_hosts,
	                       .path = path, .to = to };
	int code;

	what.is_sharing = clusters_have(h, h->clusters[l->first].host, l->first);
	for (uint32_t i = 0; i < l->n_hosts; i++)
		/* not by this machine's name: that may mean a loopback address to itself */
		if ((l->n_hosts == 1 || !hosts_is_here(l->host[i].name)) && doors_open(h, l->host[i].name, on_joined, to, why) < 0)
			return why->code;
	launchers_words(&argv, h, &what);
	gw_trust_secret_print(line, h->secret);
	strcat(line, "\n");
	code = starter_start(&l->process, h->loop, l->host->name, argv.list, line, &h->files, &ops, l, why);
	explicit_bzero(line, sizeof(line));
	strings_fini(&argv);
	return code;
}

/* The clusters from @first on that were made with it; and, for srun, those of the hosts that follow, which have as many */
int remote_launch(struct head *h, uint32_t first, uint32_t n_hosts, const char *path, struct gw_error *why)
{
	struct launched *l = calloc(1, sizeof(*l));

	if (!l)
		return gw_fail(why, -ENOMEM, "out of memory");
	*l = (struct launched){ .head = h, .host = &h->hosts[h->clusters[first].host], .n_hosts = n_hosts, .first = first };
	gw_list_append(&h->remotes->launched, &l->node);
	for (uint32_t c = first; c < h->n_clusters && (h->clusters[c].first == first || n_hosts > 1); c++, l->count++)
		h->clusters[c].launched = l;
	return launch(h, l, path, why);
}

int remote_listen(struct head *h, const char *name, struct gw_error *why)
{
	char to[DOORS_TEXT_MAX] = "";
	struct remotes *r;
	int code;

	if (h->remotes)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return gw_fail(why, -ENOMEM, "out of memory");
	gw_list_init(&r->launched);
	h->remotes = r;
	code = h->family ? 0 : doors_choose(h, name, why);
	if (code == 0)
		code = doors_open(h, name, on_joined, to, why);
	if (code == 0 && (code = gw_loop_timer(h->loop, &r->look, 1000, 1000, on_look, h)) < 0)
		gw_fail(why, code, "cannot listen for daemons: %s", strerror(-code));
	gw_loop_on_wake(h->loop, WAKE_MS, on_wake, h);
	if (code < 0)
		remote_fini(h);
	return code;
}

int remote_start(struct head *h, const char *path, struct gw_error *why)
{
	const char *name = h->hosts[0].name;
	int code;

	/* by another machine's name: a host's own may mean a loopback address to itself */
	for (uint32_t i = h->n_hosts; i > 0; i--)
		if (h->hosts[i - 1].is_remote && !hosts_is_here(h->hosts[i - 1].name))
			name = h->hosts[i - 1].name;
	code = doors_choose(h, NULL, why);
	if (code == 0)
		code = remote_listen(h, name, why);
	if (code == 0 && (code = gw_loop_timer(h->loop, &h->remotes->start, START_MS, 0, on_start_deadline, h)) < 0)
		gw_fail(why, code, "cannot wait for daemons: %s", strerror(-code));
	if (code == 0 && h->spec->is_slurm)
		return remote_launch(h, 0, h->n_hosts, path, why);
	for (uint32_t c = 0; c < h->n_clusters && code == 0; c++)
		if (h->hosts[h->clusters[c].host].is_remote && h->clusters[c].first == c)
			code = remote_launch(h, c, 1, path, why);
	return code;
}

/* Every daemon has lost its link: the launcher's processes end, or are ended. */
void remote_fini(struct head *h)
{
	struct remotes *r = h->remotes;
	uint64_t end = gw_now_ns() + END_MS * 1000000ull;

	if (!r)
		return;
	doors_fini(h);
	gw_timer_cancel(r->look);
	gw_timer_cancel(r->start);
	gw_list_for(e, &r->launched)
		starter_close(gw_list_entry(e, struct launched, node)->process);
	gw_list_for_safe(e, &r->launched) {
		struct launched *l = gw_list_entry(e, struct launched, node);
		bool is_lost = l->joined < l->count;

		for (uint32_t c = l->first; c < l->first + l->count; c++)
			is_lost |= h->clusters[c].first == c && (h->clusters[c].state == CLUSTER_LOST || h->clusters[c].has_vanished);
		cancel(l);
		starter_destroy(l->process, is_lost ? 0 : end); /* who waits for a host that is gone is ended at once */
		free(l);
	}
	free(r);
	h->remotes = NULL;
}
