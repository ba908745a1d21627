/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a daemon launches: a program is on its way from its frame until it has been executed, several at once.
 *
 * Each step of a start waits for a turn of the processor, and on a full machine all other ranks have theirs first: one
 * after the other is many times as long. Yet nobody else sees one that is under way: what else the head says waits until
 * all have been executed, or have failed (launches_settle).
 */
#include "runtime/clusterd/clusterd.h"

#include <stdlib.h>

#define LAUNCHES_AT_ONCE 16 /* each has CT_START_TIMEOUT_MS, and the ranks that run already need the processors too */

struct launch {
	struct gw_list node; /* clusterd.launches */
	struct rank *rank;
	struct ct_spawn spec;
	char **cwd, **argv, **envp; /* into @frame */
	char own[7][48];
	struct gw_watch *watch;
	struct gw_timer *deadline;
	struct rt_launch *frame;
};

/* The strings of a launch frame: cwd, argv, envp. They stay in the frame, which the caller keeps. */
static char **cut_strings(const char **p, const char *end, uint32_t n, uint32_t extra)
{
	char **list;

	if (n > (size_t)(end - *p)) /* each takes a byte at least */
		return NULL;
	list = calloc((size_t)n + extra + 1, sizeof(*list));
	for (uint32_t i = 0; list && i < n; i++) {
		const char *nul = memchr(*p, '\0', (size_t)(end - *p));

		if (!nul) {
			free(list);
			return NULL;
		}
		list[i] = (char *)(uintptr_t)*p;
		*p = nul + 1;
	}
	return list;
}

/* What only this daemon knows replaces what the environment may have brought along (an mpirun inside an mpirun). */
static void add_own_env(char **envp, uint32_t n, char own[][48], uint32_t n_own)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < n; i++) {
		bool is_ours = false;

		for (uint32_t k = 0; k < n_own && !is_ours; k++)
			is_ours = strncmp(envp[i], own[k], strcspn(own[k], "=") + 1) == 0;
		if (!is_ours)
			envp[kept++] = envp[i];
	}
	for (uint32_t k = 0; k < n_own; k++)
		envp[kept++] = own[k];
	envp[kept] = NULL;
}

static void launch_free(struct launch *l)
{
	gw_watch_remove(l->watch);
	gw_timer_cancel(l->deadline);
	plumbing_close(&l->spec.plumbing);
	gw_list_remove(&l->node);
	free(l->cwd);
	free(l->argv);
	free(l->envp);
	free(l->frame);
	free(l);
}

static void launch_failed(struct clusterd *d, uint32_t proc, int code, const struct gw_error *why)
{
	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i, s:s}", "op", "launch-failed", "rank", (int)proc, "code", code,
	                                     "text", why->text[0] ? why->text : strerror(-code)));
}

static void launched(struct rank *r)
{
	struct clusterd *d = r->d;

	gw_event("rank.started", "{s:i, s:i, s:i}", "rank", (int)r->proc, "cluster", (int)d->cluster, "rank_pid", (int)r->pid);
	gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i, s:i}", "op", "launched", "rank", (int)r->proc, "pid", (int)r->pid,
	                                     "slot", r->slot));
}

static void on_progress(void *ctx, uint32_t events);

/* How far is it? When it has been executed or has failed, @l is gone. */
static void launch_look(struct launch *l, bool may_wait)
{
	struct rank *r = l->rank;
	struct clusterd *d = r->d;
	struct gw_error why = { 0 };
	uint32_t proc = r->proc;
	int code;

	/* while its descriptor is open: a rank that is forked meanwhile has it, too, so closing it does not end what epoll tells */
	gw_watch_remove(l->watch);
	l->watch = NULL;
	code = ct_rank_spawn_end(r->ct, &l->spec, may_wait, &why);
	if (code == -EINPROGRESS) {
		code = gw_loop_watch(d->loop, &l->watch, ct_rank_start_fd(r->ct), EPOLLIN, on_progress, l);
		if (code == 0)
			return;
		gw_fail(&why, code, "rank %u: cannot be watched: %s", proc, strerror(-code));
	} else if (code < 0) {
		/* the head makes 127 and 126 of these, as a shell, but only where it is about the program */
		code = explain_exec(&why, code, l->argv[0], l->cwd[0], l->envp);
	} else {
		code = rank_adopt(r, r->ct);
		if (code < 0)
			gw_fail(&why, code, "rank %u: cannot be watched: %s", proc, strerror(-code));
	}
	launch_free(l);
	if (code == 0) {
		launched(r);
		return;
	}
	rank_destroy(r);
	launch_failed(d, proc, code, &why);
}

static void on_progress(void *ctx, uint32_t events)
{
	(void)events;
	launch_look(ctx, false);
}

static void on_deadline(void *ctx)
{
	struct launch *l = ctx;

	l->deadline = NULL;
	launch_look(l, true);
}

static int launch_begin(struct launch *l, struct clusterd *d, const char *strings, const char *end, struct gw_error *why)
{
	const struct rt_launch *f = l->frame;
	struct world_place place;
	int code;

	l->cwd = cut_strings(&strings, end, 1, 0);
	l->argv = l->cwd ? cut_strings(&strings, end, f->argc, 0) : NULL;
	l->envp = l->argv ? cut_strings(&strings, end, f->envc, GW_ARRAY_LEN(l->own)) : NULL;
	if (!l->envp || f->argc == 0 || !worlds_place(d, f->rank, &place))
		return gw_fail(why, -EPROTO, "rank %u: malformed launch", f->rank);
	snprintf(l->own[0], sizeof(l->own[0]), "PMI_FD=%d", RANK_PMI_FD);
	snprintf(l->own[1], sizeof(l->own[1]), "PMI_RANK=%u", place.rank);
	snprintf(l->own[2], sizeof(l->own[2]), "PMI_SIZE=%u", place.size);
	snprintf(l->own[3], sizeof(l->own[3]), "GODWIT_CTL_FD=%d", RANK_CTL_FD);
	snprintf(l->own[4], sizeof(l->own[4]), "GODWIT_JOB=%u", d->job);
	snprintf(l->own[5], sizeof(l->own[5]), "GODWIT_PROC=%u", f->rank);
	snprintf(l->own[6], sizeof(l->own[6]), "PMI_SPAWNED=%d", place.is_spawned);
	add_own_env(l->envp, f->envc, l->own, place.is_spawned ? 7 : 6);
	l->spec.ns_pid = (pid_t)f->ns_pid;
	l->spec.limits = d->has_limits ? d->limits : NULL;
	l->spec.argv = l->argv;
	l->spec.envp = l->envp;
	l->spec.cwd = l->cwd[0];
	for (char **e = l->envp; *e; e++)
		if (strncmp(*e, "GODWIT_CPU_BASELINE=", 20) == 0)
			l->spec.baseline = *e + 20;
	code = rank_create(&l->rank, d, f->rank, f->appnum, f->has_stdin, &l->spec.plumbing, why);
	if (code < 0)
		return code;
	l->spec.cpus = rank_bind(l->rank, -1);
	code = ct_rank_spawn_begin(&l->rank->ct, &l->spec, why);
	if (code < 0)
		code = explain_exec(why, code, l->argv[0], l->cwd[0], l->envp);
	if (code == 0) {
		code = gw_loop_timer(d->loop, &l->deadline, CT_START_TIMEOUT_MS, 0, on_deadline, l);
		if (code < 0)
			gw_fail(why, code, "rank %u: out of memory", f->rank);
	}
	if (code < 0)
		rank_destroy(l->rank);
	return code;
}

static void launch_oldest(struct clusterd *d)
{
	launch_look(gw_list_entry(d->launches.next, struct launch, node), true);
}

void rank_launch(struct clusterd *d, const void *frame, size_t len)
{
	const struct rt_launch *f = frame;
	struct gw_error why = { 0 };
	size_t under_way = 0;
	struct launch *l;
	int code;

	if (len < sizeof(*f)) {
		clusterd_fatal(d, "the head's launch frame is too short");
		return;
	}
	gw_list_for(e, &d->launches)
		under_way++;
	if (under_way >= LAUNCHES_AT_ONCE)
		launch_oldest(d);
	l = calloc(1, sizeof(*l));
	if (l)
		l->frame = malloc(len);
	if (!l || !l->frame) {
		free(l);
		gw_fail(&why, -ENOMEM, "rank %u: out of memory", f->rank);
		launch_failed(d, f->rank, -ENOMEM, &why);
		return;
	}
	memcpy(l->frame, frame, len);
	plumbing_init(&l->spec.plumbing);
	gw_list_append(&d->launches, &l->node);
	code = launch_begin(l, d, (const char *)(l->frame + 1), (const char *)l->frame + len, &why);
	if (code == 0) {
		launch_look(l, false);
		return;
	}
	launch_free(l);
	launch_failed(d, f->rank, code, &why);
}

void launches_settle(struct clusterd *d)
{
	while (!gw_list_is_empty(&d->launches))
		launch_oldest(d);
}

void launches_fini(struct clusterd *d)
{
	gw_list_for_safe(e, &d->launches)
		launch_free(gw_list_entry(e, struct launch, node));
}
