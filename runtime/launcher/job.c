/* SPDX-License-Identifier: BSD-2-Clause */
/* One job from its start to its exit status. */
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define KILL_GRACE_MS 5000 /* after 'end': a daemon that has not ended is killed itself */

/* ---- the end ------------------------------------------------------------------------------------------------------- */

bool job_cluster_send(struct head *h, uint32_t cluster, json_t *msg)
{
	struct cluster *c = &h->clusters[cluster];

	if (!c->link || c->state >= CLUSTER_LEFT) {
		json_decref(msg);
		return false;
	}
	return gw_link_send_json(c->link, msg) == 0;
}

void job_check_all_ended(struct head *h)
{
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].link || (!h->is_ending && h->clusters[c].state == CLUSTER_STARTING))
			return;
	gw_loop_stop(h->loop, 0);
}

static void on_kill_grace(void *ctx)
{
	struct head *h = ctx;

	h->grace = NULL;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].link && h->clusters[c].pid > 0 && !h->clusters[c].is_reaped)
			kill(h->clusters[c].pid, SIGKILL);
}

void job_end(struct head *h)
{
	if (h->is_ending)
		return;
	h->is_ending = true;
	gw_timer_cancel(h->grace);
	h->grace = NULL;
	gw_loop_timer(h->loop, &h->grace, KILL_GRACE_MS, 0, on_kill_grace, h);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		job_cluster_send(h, c, json_pack("{s:s}", "op", "end"));
	input_stop(h);
	job_check_all_ended(h);
}

void job_note_code(struct head *h, int code)
{
	if (!h->has_exit_code)
		h->exit_code = code;
	h->has_exit_code = true;
}

/* The first failure names the exit status; what follows from it is not worth a word. */
void job_fail(struct head *h, int code, const char *fmt, ...)
{
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (h->is_ending)
		return;
	job_note_code(h, code);
	if (text[0])
		job_say(h, "mpirun: %s", text);
	gw_event("job.failed", "{s:i, s:o}", "code", h->exit_code, "text", gw_event_text(text));
	job_end(h);
}

void job_fail_output(struct head *h, int code, const char *fmt, ...)
{
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!h->is_ending) {
		job_fail(h, code, "%s", text);
		return;
	}
	if (h->exit_code != 0)
		return;
	h->exit_code = code; /* all ranks have ended well, but what they said is lost */
	if (text[0])
		job_say(h, "mpirun: %s", text);
}

static void on_time_limit(void *ctx)
{
	struct head *h = ctx;

	h->time_limit = NULL;
	job_fail(h, 124, "the job has run for %u s, its limit (-timeout, MPIEXEC_TIMEOUT); ending it", h->spec->timeout_s);
}

/* What is left of the limit counts while the job is not suspended. */
void job_clock_go(struct head *h)
{
	h->clock_since_ns = gw_now_ns();
	if (h->time_limit_ms)
		gw_loop_timer(h->loop, &h->time_limit, h->time_limit_ms, 0, on_time_limit, h);
}

void job_clock_stop(struct head *h)
{
	uint64_t ran_ms = (gw_now_ns() - h->clock_since_ns) / 1000000;

	if (!h->time_limit)
		return;
	gw_timer_cancel(h->time_limit);
	h->time_limit = NULL;
	h->time_limit_ms = h->time_limit_ms > ran_ms ? h->time_limit_ms - ran_ms : 1;
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

/* Pids that the ranks see: unique in the job, and unlikely to be those of another job (rule 22). */
static uint32_t choose_base_pid(const struct head *h)
{
	unsigned max = 32768;
	FILE *f = fopen("/proc/sys/kernel/pid_max", "re");

	if (f) {
		if (fscanf(f, "%u", &max) != 1)
			max = 32768;
		fclose(f);
	}
	return max > h->room + 600 ? 300 + h->job % (max - h->room - 600) : 300;
}

static int random_ids(struct head *h)
{
	do
		if (getrandom(&h->job, sizeof(h->job), 0) != sizeof(h->job))
			return -errno;
	while (h->job == 0);
	if (h->spec->pool)
		h->job = h->spec->pool_job;
	if (h->spec->restart)
		h->job = restart_job(h->spec);
	if (h->spec->pool) {
		memcpy(h->secret, h->spec->pool_secret, sizeof(h->secret));
		return 0;
	}
	return gw_trust_secret_make(h->secret);
}

/* Other machines find out about themselves, and this one may differ from them all. */
static bool is_any_here(const struct job_spec *spec)
{
	if (!spec->is_remote)
		return true;
	for (uint32_t i = 0; i < spec->n_hosts; i++)
		if (!spec->is_slurm && !spec->pool && hosts_is_here(spec->hosts[i].name))
			return true;
	return false;
}

static int setup(struct head *h, struct job_spec *spec, struct gw_error *why)
{
	struct rt_cluster_cores *cores = NULL;
	struct rt_share *shares;
	struct layout layout;
	uint32_t rank = 0, first_cut = 0, n_cut, all;
	int code;

	h->spec = spec;
	h->size = spec->size;
	h->room = restart_room(spec, h->size + spawn_room(spec));
	h->is_networked = spec->n_hosts > 1;
	h->signal_fd = h->listener = -1;
	h->started_ns = gw_now_ns();
	gw_list_init(&h->files_out);
	gw_list_init(&h->tools);
	gw_list_init(&h->moves);
	gw_list_init(&h->growths);
	guests_init(h);
	lookup_init(h);
	gw_list_init(&h->drains);
	gw_list_init(&h->dirs);
	gw_list_init(&h->doors);
	if (layout_check(spec, why) < 0)
		return why->code;
	if ((uint64_t)spec->clusters * spec->n_hosts > RT_CLUSTERS_MAX)
		return gw_fail(why, -E2BIG, "%u clusters on each of %u hosts are more than a job can have, %d", spec->clusters, spec->n_hosts,
		               RT_CLUSTERS_MAX);
	all = layout_first(spec, spec->n_hosts);
	code = spec->is_remote ? 0 : limits_check(h, all, why);
	if (code < 0)
		return code;
	limits_raise(h);
	n_cut = all;
	if (spec->is_remote) { /* this machine is but one of them, under whatever names */
		uint32_t here = 0;

		while (here + 1 < spec->n_hosts && !hosts_is_here(spec->hosts[here].name))
			here++;
		first_cut = layout_first(spec, here);
		n_cut = layout_first(spec, here + 1) - first_cut;
	}
	shares = layout_shares(spec, first_cut, n_cut);
	code = rt_topology_cut(&cores, n_cut, shares, NULL, why);
	free(shares);
	if (code < 0)
		return code;
	h->n_domains = (uint32_t)code;
	code = spec->bind && is_any_here(spec) ? rt_topology_bind(cores, n_cut, spec->bind, spec->map, NULL, why) : 0;
	if (code < 0) {
		rt_topology_free(cores, n_cut);
		return code;
	}
	h->clusters = calloc(RT_CLUSTERS_MAX, sizeof(*h->clusters)); /* what is not used is never touched */
	h->hosts = calloc(RT_CLUSTERS_MAX, sizeof(*h->hosts));
	h->ranks = calloc(h->room, sizeof(*h->ranks));
	if (!h->clusters || !h->hosts || !h->ranks) {
		rt_topology_free(cores, n_cut);
		return gw_fail(why, -ENOMEM, "no memory for %u ranks on %u hosts of %u clusters%s", h->size, spec->n_hosts, spec->clusters,
		               gw_advice(ENOMEM));
	}
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		struct host *host = clusters_new_host(h, spec->hosts ? spec->hosts[i].name : NULL);

		host->is_remote = spec->is_slurm || spec->pool || (spec->is_remote && !hosts_is_here(host->name));
		host->is_this = !spec->is_forked && !host->is_remote;
		host->is_slurm = spec->is_slurm;
		host->slots = spec->pool ? spec->hosts[i].slots : 0;
		host->launcher = spec->launcher ? strdup(spec->launcher) : NULL;
		for (uint32_t c = 0; c < layout_first(spec, i + 1) - layout_first(spec, i); c++) {
			struct cluster *cl = clusters_new(h, i, h->n_clusters - c);

			if (!host->is_remote) /* several names may be this machine */
				clusters_copy_cores(&cl->cores, &cores[spec->is_remote ? c % n_cut : cl->index]);
			else /* it cuts itself, and says with `up` what came of it; there may be as many domains */
				cl->cores.domain = h->n_domains++;
		}
	}
	rt_topology_free(cores, n_cut);
	if (layout_init(&layout, spec) < 0)
		return gw_fail(why, -ENOMEM, "no memory for %u clusters%s", all, gw_advice(ENOMEM));
	for (uint32_t a = 0; a < spec->n_apps; a++)
		for (uint32_t i = 0; i < spec->apps[a].n; i++, rank++) {
			h->ranks[rank].app = a;
			h->ranks[rank].cluster = layout_place(&layout, spec, rank);
		}
	layout_fini(&layout);
	if (spec->pinned && pins_parse(h, spec->pinned, why) < 0)
		return why->code;
	code = random_ids(h);
	if (code == 0)
		code = gw_loop_create(&h->loop);
	if (code == 0 && spec->pool && pool_watch(h, why) < 0)
		return why->code;
	if (code == 0)
		code = signals_init(h);
	if (code == 0)
		code = pmi_head_init(h);
	if (code < 0)
		return gw_fail(why, code, "cannot start: %s", strerror(-code));
	code = input_init(h, why);
	if (code == 0)
		code = output_init(h, why);
	if (code < 0)
		return code;
	snprintf(h->kvsname, sizeof(h->kvsname), "godwit-%08x", h->job);
	if (pmi_head_add(h, h->size - spec->n_spawned, 0) < 0)
		return gw_fail(why, -ENOMEM, "out of memory");
	h->base_pid = choose_base_pid(h);
	h->checkpoints = json_object();
	if (spec->restart && restart_setup(h, why) < 0)
		return why->code;
	if (record_init(h, why) < 0)
		return why->code;
	code = ledger_init(h, why);
	if (code == 0)
		code = survey_init(h, why);
	if (code == 0)
		code = metrics_init(h, why);
	if (code == 0)
		code = balance_init(h, why);
	if (code == 0)
		code = notice_init(h, why);
	if (code < 0)
		return code;
	code = schedule_init(h, why);
	if (code == 0)
		code = tools_init(h, why);
	return code < 0 ? code : meet_init(h, why);
}

static int start_all(struct head *h, struct gw_error *why)
{
	char path[4096];
	int code = own_path(path, sizeof(path), "godwitd");

	if (code == 0 && access(path, X_OK) < 0)
		code = -errno;
	if (code < 0)
		return gw_fail(why, code, "the daemon '%s' cannot be executed: %s; build or install Godwit completely", path,
		               strerror(-code));
	if (h->spec->is_remote)
		code = remote_start(h, path, why);
	for (uint32_t c = 0; c < h->n_clusters && code == 0; c++)
		if (!h->hosts[h->clusters[c].host].is_remote)
			code = clusters_start(h, &h->clusters[c], path, why);
	if (code == 0)
		for (uint32_t c = 0; c < h->n_clusters; c++) /* the first of each host makes its segment */
			if (h->clusters[c].link && h->clusters[c].first == c)
				clusters_send_start(h, &h->clusters[c]);
	if (code == 0)
		layout_bind(h);
	return code;
}

static void teardown(struct head *h)
{
	for (uint32_t c = 0; h->clusters && c < h->n_clusters; c++) {
		struct cluster *cl = &h->clusters[c];

		gw_link_destroy(cl->link); /* a daemon that is still there ends with it */
		if (cl->pid > 0 && !cl->is_reaped)
			waitpid(cl->pid, &cl->wait_status, 0);
		json_decref(cl->place);
		free(cl->acks_due_from);
		free(cl->cores.binds);
	}
	remote_fini(h);
	pool_fini(h);
	lookup_fini(h);
	meet_fini(h);
	guests_fini(h);
	tools_fini(h);
	record_fini(h);
	if (h->moves.next) {
		grow_fini(h);
		notice_fini(h);
		drain_fini(h);
		checkpoint_fini(h);
		balance_fini(h);
		schedule_fini(h);
		checkpoint_release(h);
		moves_fini(h);
		metrics_fini(h);
		survey_fini(h);
		ledger_fini(h);
	}
	json_decref(h->checkpoints);
	input_fini(h);
	pmi_head_fini(h);
	output_fini(h);
	debug_fini();
	gw_loop_destroy(h->loop);
	for (uint32_t r = 0; h->ranks && r < h->size; r++)
		json_decref(h->ranks[r].name);
	free(h->ranks);
	for (uint32_t i = 0; h->hosts && i < h->n_hosts; i++) {
		if (h->hosts[i].segment_fd >= 0)
			close(h->hosts[i].segment_fd);
		free(h->hosts[i].launcher);
	}
	free(h->hosts);
	free(h->clusters);
	explicit_bzero(h->secret, sizeof(h->secret));
}

int job_run(struct job_spec *spec)
{
	struct head h = { 0 };
	struct gw_error why = { 0 };
	int code = setup(&h, spec, &why);

	if (code == 0)
		code = start_all(&h, &why);
	if (code < 0) {
		if (h.sinks[0] && h.sinks[1])
			job_say(&h, "mpirun: %s", why.text);
		else
			fprintf(stderr, "mpirun: %s\n", why.text);
		teardown(&h);
		return 1;
	}
	if (!spec->restart && env_overridden(spec, why.text, sizeof(why.text)))
		job_say(&h, "mpirun: overridden, since ranks could not talk or move with it: %s", why.text);
	h.time_limit_ms = 1000ull * spec->timeout_s;
	job_clock_go(&h);
	record_begin(&h);
	code = gw_loop_run(h.loop);
	if (!restart_is_pending(spec)) /* lines that it has begun are written when it goes on */
		output_end_lines(&h);
	if (spec->is_printing_codes && !restart_is_pending(spec))
		verdict_print_codes(&h);
	output_flush(&h);
	record_end(&h);
	code = code < 0 ? 1 : h.exit_code;
	teardown(&h);
	return code;
}
